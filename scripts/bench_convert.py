"""Time and memory of converting full-size checkpoints, against copying the same file.

    python scripts/bench_convert.py /mnt/scratch            # about 50 GB free; --tiny for a dry run

Writes synthetic checkpoints with the names and shapes of the published ones and random values, and converts each in a
process of its own, in turns with a plain copy of the source. Prints medians and ranges as a Markdown table and removes
what it wrote.
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from svd.checkpoints import tensor_files
from svd.checkpoints.tensor_files import LazyTensor

ROOT = Path(__file__).resolve().parents[1]
TINY = """
unet: {model_channels: 32, channel_mult: [1, 2], num_res_blocks: 1, attention_resolutions: [1], num_head_channels: 16,
       context_dim: 32, vector_dim: 96}
autoencoder: {channels: 32, channel_mult: [1, 2]}
image_encoder: {width: 32, layers: 2, heads: 2, patch_size: 32, output_dim: 32}
"""
Shapes = dict[str, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files are written, and removed again")
    parser.add_argument("--repeat", type=int, default=3, help="conversions of each kind (default: 3)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the source")
    parser.add_argument("--tiny", action="store_true", help="a model of 2 MB, to see that everything runs")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.folder) as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(TINY if options.tiny else "{}\n")
        run(Path(folder), config, sgm_shapes(config), options)


def run(folder: Path, config: Path, shapes: Shapes, options: argparse.Namespace) -> None:
    """One table row per conversion; a source is removed as soon as no later row needs it."""
    single = folder / "sgm.safetensors"
    write_safetensors(single, shapes, options.dtype)
    count, size = sum(map(math.prod, shapes.values())), single.stat().st_size
    print(f"{len(shapes):,} tensors, {count:,} values in {options.dtype}, {size / 1e9:.2f} GB")
    print("| conversion | copy, s | convert, s | ratio | peak memory, GB |\n|---|---|---|---|---|")
    row("sgm -> svd", folder, single, config, "svd", options.repeat)
    ours = convert(single, config, folder / "kept", "svd")[2]
    single.unlink()
    row("svd -> sgm", folder, ours, config, "sgm", options.repeat)
    row("svd -> diffusers", folder, ours, config, "diffusers", options.repeat)
    ours.unlink()
    for name, write in (("PyTorch .ckpt", write_pytorch), ("MindSpore .ckpt", write_mindspore)):
        checkpoint = folder / "source.ckpt"
        write(checkpoint, shapes, options.dtype)
        row(f"{name} -> svd", folder, checkpoint, config, "svd", options.repeat)
        checkpoint.unlink()


def row(name: str, folder: Path, source: Path, config: Path, to: str, repeat: int) -> None:
    """Convert and copy in turns; print the times, the ratio of their medians, and the largest peak of memory."""
    copies, conversions, peaks = [], [], []
    for _ in range(repeat):
        copies.append(copy(source, folder / "copy"))
        seconds, peak, _ = convert(source, config, folder / "out", to)
        conversions.append(seconds)
        peaks.append(peak)
        shutil.rmtree(folder / "out")
    ratio = statistics.median(conversions) / statistics.median(copies)
    print(f"| {name} | {spread(copies)} | {spread(conversions)} | {ratio:.2f} | {max(peaks) / 1e9:.2f} |", flush=True)


def spread(seconds: list[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


def copy(source: Path, target: Path) -> float:
    """Seconds that a plain copy takes, to the disk and not only to the cache: the converter syncs, too."""
    forget(source)
    start = time.perf_counter()
    shutil.copyfile(source, target)
    with open(target, "rb+") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def forget(path: Path) -> None:
    """Write everything out and drop the file from the cache, so that all runs read from the disk."""
    os.sync()
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def convert(source: Path, config: Path, out_dir: Path, to: str) -> tuple[float, int, Path]:
    """(seconds, peak resident bytes, path written) of one conversion in its own process, start-up included."""
    forget(source)
    command = [sys.executable, "-m", "svd_tools.convert", f"--pt_weights_file={source}", f"--config={config}"]
    command += [f"--out_dir={out_dir}", f"--to={to}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone; RUSAGE_CHILDREN would be all of them
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"the conversion failed: {output}")
    return seconds, usage.ru_maxrss * 1024, Path(output.splitlines()[-1])


# --- synthetic checkpoints ---


def sgm_shapes(config: Path) -> Shapes:
    """The tensors of a model in Stability's layout."""
    from svd.build import parameter_shapes
    from svd.config import load_config
    from svd_tools.checkpoints.layout import expand
    from svd_tools.checkpoints.layouts import SGM
    from svd_tools.checkpoints.tables import TRANSFORMS

    model = load_config(config)
    ours = parameter_shapes(model)
    return {e.theirs: TRANSFORMS[e.transform].shape(ours[e.ours]) for e in expand(SGM, model, ours)}


def values(shapes: Shapes, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Random tensors, one at a time: windows into one block of noise, since drawing 10 GB would take minutes."""
    noise = np.random.default_rng(0).standard_normal(max(map(math.prod, shapes.values())) + 4096).astype(dtype)
    for i, (name, shape) in enumerate(shapes.items()):
        start = i % 4096
        yield name, noise[start : start + math.prod(shape)].reshape(shape)


def write_safetensors(path: Path, shapes: Shapes, dtype: str) -> None:
    tensors = {
        name: LazyTensor(array.shape, array.dtype, ("", place), lambda array=array: array)
        for place, (name, array) in enumerate(values(shapes, dtype))
    }
    tensor_files.write_safetensors(path, tensors, {})


def write_mindspore(path: Path, shapes: Shapes, dtype: str) -> None:
    from mindspore.train.checkpoint_pb2 import Checkpoint

    with open(path, "wb") as file:
        for name, array in values(shapes, dtype):
            part = Checkpoint()
            value = part.value.add()
            value.tag = name
            value.tensor.dims.extend(array.shape)
            value.tensor.tensor_type = dtype.capitalize()
            value.tensor.tensor_content = array.tobytes()
            file.write(part.SerializeToString())


def write_pytorch(path: Path, shapes: Shapes, dtype: str) -> None:
    """What torch.save writes for a dictionary of tensors, put together by hand: it would need all of it in memory."""
    with zipfile.ZipFile(path, "w") as archive:
        for i, (_, array) in enumerate(values(shapes, dtype)):
            archive.writestr(f"archive/data/{i}", array.data)
        archive.writestr("archive/data.pkl", pickled(shapes, dtype))
        archive.writestr("archive/byteorder", "little")


def pickled(shapes: Shapes, dtype: str) -> bytes:
    """The pickle of a dictionary of contiguous tensors, each in the storage of its number."""

    def code(value: str | int | tuple[int, ...]) -> bytes:
        return pickle.dumps(value, 2)[2:-1]  # without what begins and ends a file

    storage_type = f"ctorch\n{ {'float32': 'FloatStorage', 'float16': 'HalfStorage'}[dtype] }\n".encode()
    out = [b"\x80\x02}"]
    for i, (name, shape) in enumerate(shapes.items()):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        storage = b"(" + code("storage") + storage_type + code(str(i)) + code("cpu") + code(math.prod(shape)) + b"tQ"
        hooks = b"ccollections\nOrderedDict\n)R"
        arguments = storage + code(0) + code(shape) + code(strides) + code(False) + hooks
        out.append(code(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs")
    return b"".join(out) + b"."


if __name__ == "__main__":
    main()
