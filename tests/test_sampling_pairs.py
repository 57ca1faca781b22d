"""Settings of sampling tried together: each pair of values meets in some run, and runs that must agree do.

The small random model draws the videos; one pipeline a mode, and few sizes, so that few graphs are compiled.
"""

import dataclasses
import re
from functools import partial
from itertools import combinations, product
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml
from comparison import assert_close
from PIL import Image
from safetensors.numpy import save_file
from small_checkpoint import small_tensors, write_checkpoint
from small_model import SMALL, build_small_pipe

from svd import build, runtime
from svd.checkpoints.lora import describe_lora
from svd.config import ConfigError, SamplingConfig, dump_config
from svd_tools import image_to_video

SAMPLING = {
    "sampler": ["euler", "heun", "dpmpp_2m_sde", "unipc"],
    "churn": [0.0, 1.5],
    "guidance": [1.0, [1.0, 2.5], 3.0],
    "guidance_shape": ["linear", "triangular"],
    "guidance_interval": [[0.0, float("inf")], [0.5, 100.0]],
    "decode_chunk_size": [None, 2],
    "decode_overlap": [None, 1, 2],
    "decode_tile_size": [None, 16],
    "decode_memory_gb": [None, 1e-6],
    "resize": ["crop", "pad", "fit"],
    "images": [1, 2],
    "noise": ["seed", "given"],
    "output": ["latents", "uint8"],
}
COMMAND = {
    "sampler": ["euler", "dpmpp_2m", "heun"],
    "guidance": ["2.5", "[1,3]"],
    "format": ["png gif", "mp4", "gif"],
    "resize": ["crop", "pad"],
    "images": [1, 2],
    "lora": [None, 0.5],
    "noise": [False, True],
    "seed": [0, 7],
    "chunk": [None, 2],
    "mode": [0, 1],
}
"""Where the compile cache comes in, a kept graph has to fit the settings of its row."""
DEAR = [("decode_memory_gb", 1e-6), ("images", 2)]
"""Frames are decoded one by one, and twice; everything is drawn twice."""


def refused(row: dict) -> str | None:
    """What is said of a combination that makes no sense; None for one that does."""
    if row.get("churn") and row["sampler"] not in ("euler", "heun"):
        return "churn is for the samplers euler and heun"
    chunk, overlap = row.get("decode_chunk_size"), row.get("decode_overlap")
    if chunk is not None and overlap is not None and overlap >= chunk:
        return "decode_overlap .* must be smaller than decode_chunk_size"
    if chunk is not None and row.get("decode_memory_gb") is not None:
        return "decode_memory_gb is what decode_chunk_size is chosen from"
    return None


def pairs(row: dict) -> set:
    """Every two values that meet in a row."""
    return set(combinations([(name, repr(value)) for name, value in row.items()], 2))


def all_pairs(factors: dict[str, list], possible, seed: int) -> list[dict]:
    """Rows in which each pair of values that is possible meets, found greedily, the same every time.

    Of many seeds, those below make the cheapest rows.
    """
    names = list(factors)
    missing = set()
    for a, b in combinations(names, 2):
        for x, y in product(factors[a], factors[b]):
            plain = {name: values[0] for name, values in factors.items()} | {a: x, b: y}
            if possible(plain):
                missing.add(((a, repr(x)), (b, repr(y))))
    rows, chance = [], Random(seed)
    while missing:
        tries = [_row(factors, missing, possible, chance) for _ in range(12)]
        rows.append(max(tries, key=lambda row: len(pairs(row) & missing)))
        missing -= pairs(rows[-1])
    return rows


def _row(factors: dict, missing: set, possible, chance: Random) -> dict:
    """A row with one of the missing pairs, and as many more as come by choosing one value after the other."""
    chosen = dict(chance.choice(sorted(missing)))
    row = {}
    for name in [*chosen, *chance.sample([name for name in factors if name not in chosen], len(factors) - 2)]:
        values = [value for value in factors[name] if repr(value) == chosen.get(name, repr(value))]
        row[name] = max(values, key=partial(_gain, factors, row, name, missing, possible))
    return {name: row[name] for name in factors}


def _gain(factors: dict, row: dict, name: str, missing: set, possible, value) -> tuple[bool, int]:
    """How good a value is for a row that is not full yet: whether it can be, and how many missing pairs it adds; one
    less for a value that is dear.
    """
    filled = {key: values[0] for key, values in factors.items()} | row | {name: value}
    added = pairs({key: filled[key] for key in factors if key in row or key == name}) & missing
    return possible(filled), len(added) - ((name, value) in DEAR)


ROWS = all_pairs(SAMPLING, lambda row: refused(row) is None, seed=1)
# Adapters are merged before anything is compiled; in graph mode each would have all graphs compiled anew.
COMMANDS = all_pairs(COMMAND, lambda row: row["mode"] == 1 or row["lora"] is None, seed=9)


def shown(row: dict) -> str:
    return "-".join(str(value).replace(" ", "") for value in row.values())


# --- the pipeline ---


@pytest.fixture(scope="module")
def pipes():
    """The small pipeline in graph mode and in pynative mode."""
    runtime.setup("CPU", 0)
    return {mode: build_small_pipe() for mode in (0, 1)}


def photos(count: int) -> list[Image.Image]:
    """Upright pictures, so that `fit` draws another size than `crop`."""
    generator = np.random.default_rng(4)
    return [Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(count)]


def arguments(row: dict) -> dict:
    """What the pipeline is called with."""
    settings = {name: value for name, value in row.items() if name not in ("images", "noise", "output")}
    if row["noise"] == "given":
        generator, (h, w) = np.random.default_rng(9), (24, 16) if row["resize"] == "fit" else (16, 24)
        clip = generator.standard_normal((1, 3, 4, h // 2, w // 2), dtype=np.float32)
        aug = generator.standard_normal((1, 3, h, w), dtype=np.float32)
        settings |= {"noise": clip.repeat(row["images"], 0), "aug_noise": aug.repeat(row["images"], 0)}
    # Not from 700 to 0.002 in one step, which multiplies what rounding is off by: 50 times, with heun or churn.
    return settings | {"seed": 3, "progress": False, "sigma_max": 20.0, "sigma_min": 0.5}


@pytest.mark.filterwarnings("ignore:24 x 16 is not the size")
@pytest.mark.parametrize("row", ROWS, ids=shown)
def test_settings_of_the_pipeline_together(pipes, row):
    """Graph and pynative mode agree, several images and one by one, and all outputs with one another."""
    images, options = photos(row["images"]), arguments(row)
    runtime.setup("CPU", 1)
    latents = pipes[1](images, output="latents", **options)
    # Graphs are compiled for one image of the usual size alone; what `fit` draws equals a video of that size.
    fitted = row["resize"] == "fit"
    runtime.setup("CPU", int(fitted))
    asked = {"resize": "crop", "height": 24, "width": 16} if fitted else {}
    for number, image in enumerate(images):
        noise = {name: options[name][number : number + 1] for name in ("noise", "aug_noise") if name in options}
        alone = pipes[int(fitted)](image, output="latents", **options | noise | asked)
        assert_close(alone, latents[number], 1e-5)

    runtime.setup("CPU", 1)
    names = {field.name for field in dataclasses.fields(SamplingConfig)}
    settings = pipes[1].settings(**{name: value for name, value in options.items() if name in names})
    video = pipes[1].decode(latents, settings, progress=False)
    assert video.shape == (row["images"], 3, *((24, 16) if fitted else (16, 24)), 3)
    assert video.min() >= 0 and video.max() <= 1 and video.std() > 0.01
    if row["output"] != "latents":
        expected = video if row["output"] == "float" else np.round(video * 255).astype(np.uint8)
        np.testing.assert_array_equal(pipes[1](images, output=row["output"], **options), expected)
    if row["decode_memory_gb"]:  # so little that each frame is decoded by itself
        settings = dataclasses.replace(settings, decode_memory_gb=None, decode_chunk_size=1, decode_overlap=None)
        np.testing.assert_array_equal(pipes[1].decode(latents, settings, progress=False), video)


def test_combinations_that_make_no_sense_are_refused(pipes):
    """Each of the pairs that no row above holds."""
    plain, seen = {name: values[0] for name, values in SAMPLING.items()}, set()
    for a, b in combinations(SAMPLING, 2):
        for x, y in product(SAMPLING[a], SAMPLING[b]):
            row = plain | {a: x, b: y}
            if what := refused(row):
                seen.add(what)
                with pytest.raises(ConfigError, match=what) as error:
                    pipes[1](photos(1), **arguments(row))
                assert "\n" not in str(error.value)
    assert len(seen) == 3


def test_every_pair_is_in_some_row():
    for factors, rows in ((SAMPLING, ROWS), (COMMAND, COMMANDS)):
        met = set().union(*map(pairs, rows))
        for a, b in combinations(factors, 2):
            for x, y in product(factors[a], factors[b]):
                row = {name: values[0] for name, values in factors.items()} | {a: x, b: y}
                possible = refused(row) is None and not (row.get("mode") == 0 and row.get("lora"))
                assert ((a, repr(x)), (b, repr(y))) in met or not possible, (a, x, b, y)
    assert all(refused(row) is None for row in ROWS)


# --- the command line ---


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with the small model, an adapter for it, noise, and two images."""
    folder = tmp_path_factory.mktemp("files")
    tensors = small_tensors()
    write_checkpoint(folder / "small.safetensors", tensors)
    name = next(name for name in tensors if name.endswith("temporal.attn1.to_v.weight")).removesuffix(".weight")
    o, i = tensors[f"{name}.weight"].shape
    generator = np.random.default_rng(2)
    adapter = {
        f"{name}.lora_down": generator.standard_normal((2, i)).astype(np.float32),
        f"{name}.lora_up": generator.standard_normal((o, 2)).astype(np.float32),
    }
    metadata = {"config": dump_config(SMALL), **describe_lora(2, 2.0, ["temporal.attn1"])}
    save_file(adapter, folder / "lora.safetensors", metadata)
    noise = {"noise": (1, 3, 4, 8, 12), "aug_noise": (1, 3, 16, 24)}
    np.savez(folder / "noise.npz", **{name: generator.standard_normal(shape) for name, shape in noise.items()})
    for number, image in enumerate(photos(2)):
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def adapted() -> dict:
    """Pipelines with adapters merged, by what they were loaded with."""
    return {}


@pytest.fixture
def main(monkeypatch, pipes, adapted, capsys):
    """The program, which loads nothing twice; returns the paths that it has printed."""
    load_pipeline = build.load_pipeline

    def load(config, checkpoint, device, mode, amp_level, lora, **others):
        runtime.setup("CPU", mode)
        if lora is None:
            return pipes[mode]  # the checkpoint has the same weights
        if lora not in adapted:
            adapted[lora] = load_pipeline(config, checkpoint, device, mode, amp_level, lora, **others)
        return adapted[lora]

    monkeypatch.setattr(build, "load_pipeline", load)

    def run(*argv) -> list[Path]:
        code, printed = image_to_video.main([str(argument) for argument in argv]), capsys.readouterr()
        assert code == 0, printed.err
        return [Path(line) for line in printed.out.splitlines()]

    return run


def content(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.iterdir())] if path.is_dir() else [path.read_bytes()]


@pytest.mark.parametrize("row", COMMANDS, ids=shown)
def test_options_of_the_program_together(main, files, tmp_path, row):
    """All that was asked for is written, and each side file repeats its video to the byte."""
    formats = row["format"].split()
    argv = [f"--SVD.checkpoint={files / 'small.safetensors'}", f"--output_dir={tmp_path}", "--format", *formats]
    argv += [f"--mode={row['mode']}", f"--seed={row['seed']}", f"--resize={row['resize']}"]
    argv += [f"--SVD.sampler={row['sampler']}", f"--SVD.guidance={row['guidance']}"]
    argv += [f"--SVD.decode_chunk_size={row['chunk']}"] if row["chunk"] else []
    argv += [f"--SVD.lora={files / 'lora.safetensors'}", f"--SVD.lora_scale={row['lora']}"] if row["lora"] else []
    argv += [f"--noise={files / 'noise.npz'}"] if row["noise"] else []
    written = main(*argv, "--image", *(files / f"{number}.png" for number in range(row["images"])))
    assert len(written) == row["images"] * (len(formats) + 1) and all(path.exists() for path in written)

    sides = [path for path in written if path.suffix == ".yaml"]
    options = yaml.safe_load(sides[-1].read_text())
    assert options["SVD"]["sampler"] == row["sampler"] and options["SVD"]["lora_scale"] == (row["lora"] or 1.0)
    again = main(f"--config={sides[-1]}")
    first = written[-len(formats) - 1 :]
    for before, after in zip(first[:-1], again[:-1]):
        assert re.sub(r"_1(?=$|_frames|\.)", "", after.name) == before.name
        assert content(after) == content(before)
