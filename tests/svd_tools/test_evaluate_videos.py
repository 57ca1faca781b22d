"""svd evaluate: what it measures, what it keeps and writes, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from device import DEVICE
from published_extractors import build

from svd import runtime
from svd.checkpoints.tensor_files import save_tensors
from svd.data.video_reader import open_video
from svd.data.videos import write_video
from svd.metrics.extractors import FORMAT, ROOT, load_extractor
from svd.metrics.frechet import fit, frechet_distance
from svd.metrics.i3d import I3D, cropped
from svd.resources import DIGITS
from svd_tools import evaluate
from svd_tools.checkpoints.names.extractors import I3D as I3D_NAMES
from svd_tools.digits.judge import judge_videos, load_judge
from svd_tools.measures import gathering
from svd_tools.measures.clips import Choice, Folder
from svd_tools.measures.metrics import METRICS, Measure, Metric, Rows

FRAMES = 12


def write_clips(folder: Path, seed: int, count: int, frames: int = FRAMES, size: tuple[int, int] = (64, 64)) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (frames, 4, 4, 3), dtype=np.uint8).repeat(-(-size[0] // 4), 1)
        video = coarse.repeat(-(-size[1] // 4), 2)[:, : size[0], : size[1]]
        write_video(folder / f"clip_{number}.mp4", video, 8)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("videos")
    return write_clips(base / "made", 0, 5), write_clips(base / "real", 1, 4)


@pytest.fixture
def flags(folders, tmp_path) -> Callable[..., list[str]]:
    def given(*others: str, videos: Path = folders[0], reference: Path = folders[1]) -> list[str]:
        places = [f"--out={tmp_path / 'out.json'}", f"--kept={tmp_path / 'kept'}", f"--frames={FRAMES}"]
        compared = [f"--reference={reference}"] if reference else []
        return [f"--videos={videos}", *compared, *places, "--mode=1", f"--device_target={DEVICE}", *others]

    return given


@pytest.fixture
def counting(monkeypatch) -> list[str]:
    """A metric whose features are a clip's mean colour, and the videos that it has been given."""
    seen: list[str] = []

    def set_up(setting) -> Measure:
        def features(clips, captions):
            seen.extend(captions)
            return clips.mean((1, 2, 3))

        def values(videos, reference):
            gap = np.sum((videos.gaussian().mean - reference.gaussian().mean) ** 2)
            return {"colour": float(gap)}

        return Measure(features, values, "mean colour", width=3)

    monkeypatch.setitem(METRICS, "colour", Metric("colours", set_up, reference=True))
    return seen


@pytest.fixture
def captioned(monkeypatch) -> None:
    def set_up(setting) -> Measure:
        return Measure(
            lambda clips, captions: np.array([[len(caption)] for caption in captions]),
            lambda videos, _: {"letters": float(videos.rows.mean())}, "letters", Rows,
        )  # fmt: skip

    monkeypatch.setitem(METRICS, "letters", Metric("letters of captions", set_up, captions=True))


def frames_of(folder: Path) -> np.ndarray:
    clips = []
    for path in sorted(folder.glob("*.mp4")):
        with open_video(str(path)) as video:
            clips.append(video.read(0, FRAMES, 1, 64, 64).frames)
    return np.stack(clips)


def test_the_extractor_that_needs_no_download(folders, flags, tmp_path, capsys):
    assert evaluate.main(flags("--metrics", "fvd_digits", "--batch_size=3")) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    judge = load_judge(DIGITS / "judge.safetensors", DEVICE, 64)
    a, b = (judge_videos(judge, frames_of(folder)).features for folder in folders)
    result = report["metrics"]["fvd_digits"]
    assert result["fvd_digits"] == pytest.approx(frechet_distance(a, b), rel=1e-4)
    assert result["samples"] == {"videos": 5, "reference": 4} and len(result["notes"]) == 2
    assert report["clips"] == {"frames": FRAMES, "step": 1, "start": "first", "seed": 0}
    assert report["folders"]["videos"] == {
        "path": str(folders[0]), "videos": 5, "height": 64, "width": 64, "skipped": []
    }  # fmt: skip
    assert "5 against 4 samples; the network that judges moving digits" in out and "note: the sets differ" in out
    # the run is repeated by the file beside, from what is kept
    again = yaml.safe_load((tmp_path / "out.yaml").read_text())
    assert again["videos"] == str(folders[0]) and again["metrics"] == ["fvd_digits"]
    assert evaluate.main([f"--config={tmp_path / 'out.yaml'}"]) == 0
    assert "5 of 5 videos are measured already" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["metrics"] == report["metrics"]


def test_fvd(folders, flags, tmp_path):
    """With the full-size network of random weights."""
    network = build(I3D, I3D_NAMES)
    tensors = {f"{ROOT}.{parameter.name}": parameter.asnumpy() for parameter in network.get_parameters()}
    save_tensors(tmp_path / "i3d.safetensors", tensors, {"format": FORMAT, "extractor": "i3d"})
    options = ["--metrics", "fvd", f"--extractors={tmp_path}", "--samples=2", "--batch_size=2"]
    assert evaluate.main(flags(*options)) == 0
    chosen = [Folder(str(folder), "", Choice(FRAMES, 1, "first", None, 0, 2, False)).names[:2] for folder in folders]
    assert [len(set(names)) for names in chosen] == [2, 2]
    runtime.setup(DEVICE, 1)
    network, _ = load_extractor(tmp_path, "i3d", DEVICE)
    from mindspore import Tensor

    features = []
    for folder, names in zip(folders, chosen):
        places = [int(name[5]) for name in names]
        features.append(network(Tensor(cropped(frames_of(folder)[places]))).asnumpy())
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["metrics"]["fvd"]["fvd"] == pytest.approx(frechet_distance(*features), rel=1e-3)


def test_a_run_that_is_stopped_goes_on(folders, flags, counting, monkeypatch, tmp_path):
    monkeypatch.setattr(gathering, "SECONDS", -1)
    options = flags("--metrics", "colour", "--batch_size=2", reference=folders[0])
    set_up = METRICS["colour"].set_up

    def stopping(setting) -> Measure:
        measure, calls = set_up(setting), []

        def features(clips, captions):
            calls.append(0)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return measure.features(clips, captions)

        return Measure(features, measure.values, measure.protocol, width=3)

    monkeypatch.setitem(METRICS, "colour", Metric("colours", stopping, reference=True))
    assert evaluate.main(options) != 0 and len(counting) == 4
    monkeypatch.setitem(METRICS, "colour", Metric("colours", set_up, reference=True))
    assert evaluate.main(options) == 0 and len(counting) == 6  # the reference is the same folder
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["colour"]["colour"] == 0
    (kept,) = (tmp_path / "kept").glob("*.npz")
    with np.load(kept) as state:
        clips = frames_of(folders[0]).mean((1, 2, 3))
        assert state["colour.mean"] == pytest.approx(clips.mean(0))
        assert state["colour.scatter"] / 4 == pytest.approx(fit(clips).covariance)
    kept.write_bytes(b"PK\3\4")
    assert evaluate.main(options) == 0 and len(counting) == 12


def test_which_clips_are_measured(folders, tmp_path):
    def clips(**changed) -> list:
        choice = Choice(4, 1, "first", None, 0, None, False)._replace(**changed)
        return list(Folder(str(folders[0]), "videos", choice).clips(0, 0, []))

    whole = frames_of(folders[0])
    assert [clip.name for clip in clips()] == [f"clip_{number}.mp4" for number in range(5)]
    assert np.array_equal(clips(step=3)[2].frames, whole[2, :10:3])
    some = [clip.name for clip in clips(samples=3)]
    assert len(set(some)) == 3 and some != [clip.name for clip in clips(samples=3, seed=1)]
    random = clips(start="random")
    begins = {next(n for n in range(9) if np.array_equal(clip.frames, whole[clip.place, n : n + 4])) for clip in random}
    assert len(begins) > 1
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(random, clips(start="random")))
    assert clips(size=(32, 48))[0].frames.shape == (4, 32, 48, 3)


def test_a_video_that_is_there_twice_counts_once(tmp_path):
    folder = write_clips(tmp_path / "twice", 0, 2)
    for name in ("clip_0.gif", "other.gif"):
        write_video(folder / name, np.zeros((12, 64, 64, 3), np.uint8), 8)
    choice = Choice(12, 1, "first", None, 0, None, False)
    assert Folder(str(folder), "videos", choice).names == ["clip_0.mp4", "clip_1.mp4", "other.gif"]


def test_captions_of_a_table_and_of_side_files(flags, captioned, tmp_path, capsys):
    folder = write_clips(tmp_path / "told", 0, 2)
    options = flags("--metrics", "letters", videos=folder, reference=None)
    assert evaluate.main(options) == 2
    assert "clip_0.mp4 has no caption in a side file of its name (.yaml)" in capsys.readouterr().err
    for number, prompt in enumerate(["four", "letters!"]):
        (folder / f"clip_{number}.yaml").write_text(f"# a comment\nprompt:\n- {prompt}\n")
    assert evaluate.main(options) == 0
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["letters"]["letters"] == 6
    (tmp_path / "captions.csv").write_text("path,caption\nclip_0.mp4,a\nclip_1.mp4,abc\n")
    assert evaluate.main([*options, f"--captions={tmp_path / 'captions.csv'}"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["letters"]["letters"] == 2
    (tmp_path / "captions.csv").write_text("path,caption\nclip_0.mp4,a\n")
    assert evaluate.main([*options, f"--captions={tmp_path / 'captions.csv'}"]) == 2
    assert "clip_1.mp4 has no caption in" in capsys.readouterr().err


@pytest.fixture
def refused(flags, counting, tmp_path, capsys) -> Callable[..., str]:
    def run(*others: str, **places: Path) -> str:
        metrics = [] if any(other.startswith("--metrics") for other in others) else ["--metrics", "colour"]
        assert evaluate.main(flags(*metrics, *others, **places)) == 2
        out, err = capsys.readouterr()
        assert out == "" and not (tmp_path / "out.json").exists()
        return err.splitlines()[-1]

    return run


def test_folders_that_cannot_be_measured(refused, folders, tmp_path):
    one = write_clips(tmp_path / "one", 0, 1)
    assert "one has 1 video that can be measured, and colour needs 2 or more" in refused(videos=one)
    assert "one has 1 video" in refused(reference=one)
    (tmp_path / "none").mkdir()
    assert "none: no videos in it or below" in refused(videos=tmp_path / "none")
    assert "No such file or directory" in refused(videos=tmp_path / "nowhere")
    short = write_clips(tmp_path / "short", 0, 2, frames=7)
    assert "clip_0.mp4: has 7 frames, fewer than the 12 of a clip; remove it, or skip what cannot be used " \
        "(--skip_unusable)" in refused(videos=short)  # fmt: skip
    assert "of its 2 videos can be used" in refused("--skip_unusable", videos=short)
    assert "fewer than the 23 of a clip at a step of 2" in refused("--step=2")
    (folder := write_clips(tmp_path / "damaged", 0, 2)) and (folder / "clip_1.mp4").write_bytes(b"\0" * 100)
    assert "clip_1.mp4: not a video, or damaged; remove it" in refused(videos=folder)
    other = write_clips(tmp_path / "other", 0, 2, size=(48, 64))
    message = refused(videos=other)
    assert "other 64 x 48 and those of" in message and "do not compare: say which --height and --width" in message
    mixed = write_clips(tmp_path / "mixed", 0, 2)
    write_video(mixed / "small.mp4", np.zeros((FRAMES, 32, 32, 3), np.uint8), 8)
    assert "small.mp4 has 32 x 32 pixels, and" in refused(videos=mixed)


def test_other_sizes_and_skipped_videos_where_it_is_asked_for(flags, counting, tmp_path):
    mixed = write_clips(tmp_path / "mixed", 0, 2)
    write_video(mixed / "small.mp4", np.zeros((FRAMES, 32, 32, 3), np.uint8), 8)
    write_video(mixed / "short.mp4", np.zeros((3, 32, 32, 3), np.uint8), 8)
    options = flags("--metrics", "colour", "--height=32", "--width=48", "--skip_unusable", videos=mixed)
    assert evaluate.main(options) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    about = report["folders"]["videos"]
    assert about["skipped"] == ["short.mp4"] and (about["videos"], about["height"], about["width"]) == (3, 32, 48)


@pytest.mark.parametrize("others, message", [
    (["--metrics", "fvd"], "i3d.safetensors is missing, the weights of I3D trained on Kinetics-400: get "
     "i3d_pretrained_400.pt of VideoGPT"),
    (["--metrics", "fid"], "inception.safetensors is missing, the weights of FID's Inception-v3: get pt_inception"),
    (["--metrics", "is", "fvd", "--frames=12"], "is is of clips of 16 frames, and --frames is 12"),
    (["--metrics", "fvd", "--frames=9"], "fvd is of clips of 10 or more frames, and --frames is 9"),
    (["--metrics", "clipsim"], "--reference is given, but clipsim are of the videos alone"),
    (["--captions=x.csv"], "--captions is for clipsim"),
    (["--splits=3"], "--splits is for is"),
    (["--judge=x"], "--judge is for fvd_digits"),
    (["--height=64"], "--height and --width belong together"),
    (["--out=results.txt"], "give a name that ends in .json"),
])  # fmt: skip
def test_options_that_cannot_be_used(refused, tmp_path, others, message):
    assert message in refused(*others, f"--extractors={tmp_path}")


def test_a_reference_is_needed(flags, counting, capsys):
    assert evaluate.main(flags("--metrics", "colour", reference=None)) == 2
    assert "--reference is missing: colour compares" in capsys.readouterr().err


@pytest.mark.parametrize("words, digits", [
    ([], True), (["--clips=4"], True), (["--SVD.checkpoint", "x"], True), (["--out_dir=x", "--seed=1"], True),
    (["--videos=x"], False), (["--metrics", "fvd"], False), (["--help"], False), (["--config=x.yaml"], True),
    (["--config", "videos.yaml"], False), (["--config=videos.yaml"], False),
])  # fmt: skip
def test_without_videos_a_model_of_digits_is_measured(words, digits, tmp_path, monkeypatch):
    """As it was when nothing else could be."""
    monkeypatch.chdir(tmp_path)
    Path("videos.yaml").write_text("videos: here\n")
    assert evaluate._of_digits(words) is digits


def test_the_arguments_for_digits_are_passed_on(capsys):
    assert evaluate.main(["--clips=1"], "svd evaluate") == 2
    error = capsys.readouterr().err.splitlines()
    assert "as by svd digits evaluate" in error[0] and "svd evaluate: error: --clips must be 2 or more" in error[-1]
