"""Every reader of files, a valid input for each, and what makes inputs hostile: run by test_hostile_input.py.

python tests/hostile_input.py FOLDER SEED COUNT prints a line of JSON for each input: what became of it, or
nothing more where the process died of it.
"""

import gzip
import json
import re
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from imageio.v2 import get_writer
from PIL import Image
from safetensors.numpy import save_file

from svd import cli
from svd.data.dataset import BadItem

ROOT = Path(__file__).parents[1]
SECONDS = 10
"""For one input, at most."""


class Reader(NamedTuple):
    """A reader of files."""

    make: Callable[[Path], list[Path]]
    """Writes a valid input into a folder, and returns the files of it that are to be spoilt."""
    read: Callable[[Path], object]
    """Reads what is in the folder."""


def _picture(suffix: str, **options) -> Reader:
    from svd.data.images import load_image

    def make(folder: Path) -> list[Path]:
        path = folder / f"picture{suffix}"
        pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
        Image.fromarray(pixels).save(path, exif=_exif(), **options)
        return [path]

    return Reader(make, lambda folder: load_image(folder / f"picture{suffix}"))


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    return exif


def _video() -> Reader:
    from svd.data.video_reader import open_video

    def make(folder: Path) -> list[Path]:
        path = folder / "video.mp4"
        with get_writer(path, fps=10, codec="libx264", macro_block_size=1, ffmpeg_log_level="quiet") as writer:
            for n in range(12):
                writer.append_data(np.full((32, 48, 3), 20 * n, np.uint8))
        return [path]

    def read(folder: Path):
        with open_video(str(folder / "video.mp4")) as video:
            return video.read(2, 4, 2, 16, 16)

    return Reader(make, read)


def _table() -> Reader:
    from svd.data.video_dataset import VideoDataset

    def make(folder: Path) -> list[Path]:
        path = folder / "clips.csv"
        rows = [f"{n}.mp4,40,{n},7.5\n" for n in range(5)]
        path.write_text("".join(["path,length,motion_bucket_id,fps\n", *rows]))
        return [path]

    return Reader(make, lambda folder: VideoDataset(str(folder / "clips.csv"), frames=4, height=16, width=16))


def _config() -> Reader:
    from svd.config import load_config

    def make(folder: Path) -> list[Path]:
        path = folder / "model.yaml"
        path.write_text((ROOT / "configs" / "digits" / "model.yaml").read_text())
        return [path]

    return Reader(make, lambda folder: load_config(folder / "model.yaml"))


def _options() -> Reader:
    from svd.cli.options import parse
    from svd_tools import image_to_video

    def make(folder: Path) -> list[Path]:
        path = folder / "options.yaml"
        path.write_text("seed: 3\nimage: [a.png]\nSVD: {sampling_steps: 3, guidance: [1.0, 2.0], sampler: heun}\n")
        return [path]

    def read(folder: Path):
        return parse(image_to_video.build_parser("program"), ["--config", str(folder / "options.yaml")])

    return Reader(make, read)


def _noise() -> Reader:
    from svd.data.noise_file import read_noise

    shape = (1, 2, 4, 2, 2)

    def make(folder: Path) -> list[Path]:
        np.savez(folder / "noise.npz", noise=np.ones(shape, np.float32))
        return [folder / "noise.npz"]

    return Reader(make, lambda folder: read_noise(folder / "noise.npz", {"noise": shape}))


def _checkpoint() -> Reader:
    from svd.checkpoints.model_file import Checkpoint
    from svd.config import dump_config, load_config

    def make(folder: Path) -> list[Path]:
        config = dump_config(load_config(ROOT / "configs" / "digits" / "model.yaml"))
        save_file({"network.x": np.ones(3, np.float32)}, folder / "model.safetensors", {"config": config})
        return [folder / "model.safetensors"]

    def read(folder: Path):
        checkpoint = Checkpoint(folder / "model.safetensors")
        return checkpoint.config, checkpoint.shapes

    return Reader(make, read)


def _foreign(name: str) -> Reader:
    """A checkpoint to convert: .safetensors, PyTorch's .ckpt, or a diffusers folder with an index."""
    from svd_tools.checkpoints.sources import read_weights

    tensors = {"unet.a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "unet.b": np.ones(4, np.float16)}

    def make(folder: Path) -> list[Path]:
        if name.endswith(".safetensors"):
            save_file(tensors, folder / name)
        elif name.endswith(".ckpt"):
            write_torch(folder / name, tensors)
        else:
            unet = folder / name / "unet"
            unet.mkdir(parents=True)
            shard, index = "diffusion_pytorch_model-00001-of-00001", "diffusion_pytorch_model.safetensors.index.json"
            save_file(tensors, unet / f"{shard}.safetensors")
            places = dict.fromkeys(tensors, f"{shard}.safetensors")
            for component in ("vae", "image_encoder"):
                (folder / name / component).mkdir()
                weights = {"vae": "diffusion_pytorch_model", "image_encoder": "model"}[component]
                save_file(tensors, folder / name / component / f"{weights}.safetensors")
            (unet / index).write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": places}))
            return [unet / index, unet / f"{shard}.safetensors"]
        return [folder / name]

    def read(folder: Path):
        return [tensor.read() for tensor in read_weights(folder / name).tensors.values()]

    return Reader(make, read)


def write_torch(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """What torch.save writes of float32 and float16 tensors, without torch."""
    import pickletools
    import zipfile

    code = [b"\x80\x02}("]
    for key, (name, value) in enumerate(tensors.items()):
        storage = {"float32": b"FloatStorage", "float16": b"HalfStorage"}[value.dtype.name]
        numbers = b"".join(b"K" + bytes([n]) for n in value.shape)
        strides = b"".join(b"K" + bytes([n // value.itemsize]) for n in value.strides)
        code += [
            b"X",
            struct.pack("<I", len(name)),
            name.encode(),
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage",
        ]
        code += [b"ctorch\n", storage, b"\nX\x01\0\0\0", str(key).encode(), b"X\x03\0\0\0cpuK", bytes([value.size])]
        code += [b"tQK\0(", numbers, b"t(", strides, b"t\x89ccollections\nOrderedDict\n)RtR"]
    pickled = b"".join([*code, b"u."])
    pickletools.dis(pickled, out=open("/dev/null", "w"))  # noqa: SIM115
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        for key, value in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", value.tobytes())


def _mindone() -> Reader:
    from svd_tools.checkpoints.sources import read_weights

    def make(folder: Path) -> list[Path]:
        import mindspore as ms

        names = ("model.diffusion_model.out.2.weight", "first_stage_model.quant_conv.bias")
        tensors = [{"name": name, "data": ms.Tensor(np.ones(3, np.float32))} for name in names]
        ms.save_checkpoint(tensors, str(folder / "mindone.ckpt"))
        return [folder / "mindone.ckpt"]

    return Reader(make, lambda folder: [t.read() for t in read_weights(folder / "mindone.ckpt").tensors.values()])


def _adapters() -> Reader:
    from svd.checkpoints.lora import describe_lora, read_lora
    from svd.config import dump_config, load_config

    def make(folder: Path) -> list[Path]:
        config = dump_config(load_config(ROOT / "configs" / "digits" / "model.yaml"))
        layer = "network.mid_block.attentions.0.temporal.attn1.to_q"
        tensors = {f"{layer}.lora_down": np.ones((2, 32), np.float32), f"{layer}.lora_up": np.ones((32, 2), np.float32)}
        metadata = {"format": "svd-mindspore-trained", "config": config, **describe_lora(2, 2.0, ["attn1"])}
        save_file(tensors, folder / "lora.safetensors", metadata)
        return [folder / "lora.safetensors"]

    return Reader(make, lambda folder: read_lora(folder / "lora.safetensors"))


def _run() -> Reader:
    """A checkpoint of a training: its state."""
    import dataclasses

    from svd.training.checkpoint import TrainState, read_state

    def make(folder: Path) -> list[Path]:
        state = TrainState(3, 3, 12, 1024.0, 3, {"train": {"updates": 5}})
        (folder / "state.json").write_text(json.dumps(dataclasses.asdict(state), indent=1))
        return [folder / "state.json"]

    return Reader(make, read_state)


def _latents() -> Reader:
    from svd.data.latents_dataset import COLUMNS, INDEX, NUMBERS, SETTINGS, SHARDS, TENSORS, LatentsDataset

    def make(folder: Path) -> list[Path]:
        clips = {"frames": 2, "height": 8, "width": 8, "videos": 1, "passes": 1}
        model = {"autoencoder": {"latent_channels": 4, "channel_mult": [1]}, "image_encoder": {"output_dim": 3}}
        (folder / SETTINGS).write_text(json.dumps({"clips": clips, "model": model}))
        row = {"row": 0, "sample": 0, "path": "a.mp4", "why": "", "file": "0.safetensors", "entry": 0}
        values = [(dict.fromkeys(NUMBERS, 0.5) | row)[name] for name in COLUMNS]
        (folder / INDEX).mkdir()
        (folder / INDEX / "clips.csv").write_text(f"{','.join(COLUMNS)}\n{','.join(map(str, values))}\n")
        (folder / SHARDS).mkdir()
        shapes = [(2, 8, 8, 8), (1, 3), (4, 8, 8)]
        tensors = {f"0.{name}": np.ones(shape, np.float16) for name, shape in zip(TENSORS, shapes)}
        save_file(tensors, folder / SHARDS / "0.safetensors")
        return [folder / SETTINGS, folder / INDEX / "clips.csv", folder / SHARDS / "0.safetensors"]

    return Reader(make, lambda folder: LatentsDataset(str(folder)).load(0, np.random.default_rng(0)))


def _metrics() -> Reader:
    from svd.training.metrics import COLUMNS, Metrics

    def make(folder: Path) -> list[Path]:
        rows = [",".join([str(n), *["0.5"] * (len(COLUMNS) - 1)]) + "\n" for n in range(1, 9)]
        (folder / "metrics.csv").write_text("".join([",".join(COLUMNS) + "\n", *rows]))
        return [folder / "metrics.csv"]

    return Reader(make, lambda folder: Metrics(folder, 8).close())


def _digits() -> Reader:
    from svd.data.handwriting import handwriting

    def make(folder: Path) -> list[Path]:
        pictures = np.zeros((3, 28, 28), np.uint8)
        head = struct.pack(">HBB3I", 0, 8, 3, *pictures.shape)
        with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
            file.write(head + pictures.tobytes())
        labels = folder / "train-labels-idx1-ubyte"
        labels.write_bytes(struct.pack(">HBBI", 0, 8, 1, 3) + bytes(3))
        return [folder / "train-images-idx3-ubyte.gz", labels]

    return Reader(make, lambda folder: handwriting.__wrapped__(str(folder), "train"))


def _scores() -> Reader:
    from svd_tools.motion_bucket import merge_scores

    def make(folder: Path) -> list[Path]:
        rows = [f"{n}.mp4,40,7.5,{n}.25\n" for n in range(5)]
        (folder / "scores.csv").write_text("".join(["path,length,fps,score\n", *rows]))
        return [folder / "scores.csv"]

    return Reader(make, lambda folder: merge_scores([str(folder / "scores.csv")], str(folder / "clips.csv")))


def readers() -> dict[str, Reader]:
    return {
        **{f"image {s}": _picture(s) for s in (".png", ".jpg", ".webp", ".tif")},
        "video": _video(),
        "table": _table(),
        "model": _config(),
        "options": _options(),
        "noise": _noise(),
        "checkpoint": _checkpoint(),
        **{f"foreign {name}": _foreign(name) for name in ("sgm.safetensors", "sgm.ckpt", "diffusers")},
        "mindone": _mindone(),
        "adapters": _adapters(),
        "run": _run(),
        "latents": _latents(),
        "metrics": _metrics(),
        "idx": _digits(),
        "scores": _scores(),
    }


# --- what is done to a file ---

_VALUES = (
    *(b"null", b"true", b"-1", b"4.0", b"1e400", b"nan", b".inf", b"9" * 400),
    *(b'"text"', b"[]", b"{}", b"[" * 3000, b"\0"),
)


def spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a file, cut, mixed up, or with other values in them."""
    kind = rng.integers(8)
    place, other = sorted(rng.integers(0, len(data) + 1, 2)) if data else (0, 0)
    if kind == 0:
        return data[:place]
    if kind == 1:  # a few bits
        array = np.frombuffer(data, np.uint8).copy()
        if array.size:
            array[rng.integers(0, array.size, rng.integers(1, 9))] ^= 1 << rng.integers(0, 8, dtype=np.uint8)
        return array.tobytes()
    if kind == 2:
        return data[:place] + rng.bytes(int(rng.integers(1, 64))) + data[place:]
    if kind == 3:
        return data[:place] + data[other:]
    if kind == 4:
        return data[:other] + data[place:other] * int(rng.integers(1, 200)) + data[other:]
    if kind == 5:
        return data[:place] + bytes(other - place) + data[other:]
    if kind == 6:  # a size, in either order of bytes
        number = struct.pack(rng.choice(["<Q", ">Q", "<I", ">I"]), int(rng.choice([0, 2**31 - 1, 2**32 - 1, 2**20])))
        return data[:place] + number + data[place + len(number) :]
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data[:100_000]))
    if not numbers:
        return data[place:]
    found = numbers[rng.integers(len(numbers))]
    return data[: found.start()] + _VALUES[rng.integers(len(_VALUES))] + data[found.end() :]


# --- what becomes of it ---


class Late(BaseException):
    """An input has taken its time."""


def outcome(read: Callable[[], object]) -> str:
    """`read`, `refused`, or what went wrong."""

    def late(*_):
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        read()
        return "read"
    except Late:
        return f"more than {SECONDS} s"
    except SystemExit as end:
        return "refused" if end.code == 2 else f"exit {end.code}"
    except Exception as error:
        if isinstance(error, BadItem) or (cli.is_user_error(error) and not isinstance(error, MemoryError)):
            return "refused" if str(error).strip() else f"no word of why: {type(error).__name__}"
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)


def main() -> None:
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore")
    for name, reader in readers().items():
        for number in range(-1, count):
            place = folder / name.replace(" ", "_") / str(number)
            place.mkdir(parents=True)
            files = reader.make(place)
            if number >= 0:  # the first is as it should be
                rng = np.random.default_rng([seed, number, *name.encode()])
                path = files[rng.integers(len(files))]
                path.write_bytes(spoilt(path.read_bytes(), rng))
            begun = time.perf_counter()
            print(json.dumps({"input": str(place)}), flush=True)
            result = outcome(lambda place=place, reader=reader: reader.read(place))
            # not getrusage, whose peak may be that of the process which started this one
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20
            row = {"reader": name, "number": number, "outcome": result, "peak_gb": round(peak, 3)}
            print(json.dumps(row | {"seconds": round(time.perf_counter() - begun, 2)}), flush=True)


if __name__ == "__main__":
    main()
