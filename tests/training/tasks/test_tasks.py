"""The trainings of single parts of a model: what changes, what does not, and what is refused."""

import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE, TRAINING
from mindspore import Tensor, nn, ops
from safetensors.numpy import load_file
from training_runs import TINY, train_here, write_inputs

from svd import runtime
from svd.build import build_networks
from svd.config import AutoencoderConfig
from svd.data.moving_digits import MovingDigits
from svd.training.config import LossConfig
from svd.training.reconstruction import ReconstructionLoss
from svd.training.tasks import find_task
from svd.training.tasks.autoencoder import ReconstructionObjective

TEMPORAL = (".temporal.", ".frame_embedding.", ".blend.", "time_conv_out.")
TRAINED = {
    "image_encoder": lambda name: name.startswith("conditioner.image_encoder."),
    "autoencoder": lambda name: (
        name.startswith(("autoencoder.encoder.", "autoencoder.decoder.")) and not any(t in name for t in TEMPORAL)
    ),
    "temporal_decoder": lambda name: name.startswith("autoencoder.decoder.") and any(t in name for t in TEMPORAL),
    "image_model": lambda name: name.startswith("network.") and not any(t in name for t in TEMPORAL),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def flags(inputs, run, task: str, *more: str) -> list[str]:
    return [
        f"--svd_config={inputs / 'tiny.yaml'}",
        "--environment.mode=1",
        *TRAINING,
        f"--train.task={task}",
        f"--train.pretrained={inputs / 'tiny.safetensors'}",
        f"--train.output_dir={run}",
        "--train.updates=2",
        "--train.batch_size=2",
        "--train.workers=0",
        "--train.optimizer.learning_rate=1e-2",
        "--train.optimizer.warmup_updates=0",
        "--train.dataset=MovingDigits",
        "--train.dataset.init_args.frames=2",
        "--train.dataset.init_args.size=32",
        *more,
    ]


@pytest.mark.parametrize("task", TRAINED)
def test_a_task_trains_its_part_alone(inputs, tmp_path, task):
    """Weight decay moves all that is trained, also what has no say, such as queries over a single token; averages would
    hide that."""
    outcome = train_here(*flags(inputs, tmp_path / "run", task, "--train.optimizer.ema_decay=0"))
    assert outcome.code == 0, outcome.err
    before, after = (load_file(path) for path in (inputs / "tiny.safetensors", tmp_path / "run/model.safetensors"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    expected = {name for name in before if TRAINED[task](name)}
    assert changed == expected and len(expected) > 5


class Halves(nn.Cell):
    """An encoder whose means are the pixels of one channel halved, and whose log-variances are one number."""

    def __init__(self, log_variance: float):
        super().__init__()
        self.log_variance = log_variance

    def construct(self, x):
        mean = x[:, :1] / 2
        return ops.cat((mean, ops.full_like(mean, self.log_variance)), 1)


class Tripled(nn.Cell):
    """A decoder that gives the one channel back three times."""

    temporal = True

    def features(self, z):
        return z

    def last_layer(self, x):
        return ops.tile(x, (1, 1, 3, 1, 1))


@pytest.mark.parametrize("mode", [0, 1])
def test_the_loss_of_the_autoencoder(mode):
    runtime.setup(DEVICE, mode)
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (2, 3, 3, 4, 4)).astype(np.float32)
    noise = rng.standard_normal((2, 3, 1, 4, 4)).astype(np.float32)
    mean, log_variance = video[:, :, :1] / 2, -1.3
    z = mean + np.exp(log_variance / 2) * noise
    divergence = 0.5 * np.mean(mean**2 + np.exp(log_variance) - 1 - log_variance)
    expected = np.mean(np.abs(np.tile(z, (1, 1, 3, 1, 1)) - video)) + 0.2 * divergence
    loss = ReconstructionLoss(Halves(log_variance), Tripled(), 0.2)
    assert_close(loss(Tensor(video), Tensor(noise)), np.float32(expected), 1e-6)


def test_what_the_autoencoder_meets_does_not_depend_on_the_batch():
    config = AutoencoderConfig(channels=32, channel_mult=[1, 1], num_res_blocks=1)
    networks = build_networks(TINY)
    encoder, decoder = networks["autoencoder.encoder"], networks["autoencoder.decoder"]
    task = ReconstructionObjective(encoder, decoder, config, LossConfig(single_frames=1), {}, seed=3)
    clips = [MovingDigits(frames=2).load(index) for index in range(3)]
    video, noise, alone = (tensor.asnumpy() for tensor in task.inputs(clips, [7, 8, 9]))
    assert video.shape == (3, 2, 3, 64, 64) and noise.shape == (3, 2, 4, 32, 32)
    assert video.min() == -1 and video.max() == 1
    single = [tensor.asnumpy() for tensor in task.inputs(clips[1:2], [8])]
    np.testing.assert_array_equal(single[1][0], noise[1])
    assert alone.shape == (3,) and (alone // 2 == [0, 1, 2]).all() and single[2][0] == alone[1] - 2
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


def test_a_task_may_be_given_by_its_path():
    assert type(find_task("svd_tools.digits.image_encoder.ImageEncoderTask")) is type(find_task("image_encoder"))
    assert find_task("svd.training.tasks.video.IMAGE_MODEL") is find_task("image_model")


@pytest.mark.parametrize(
    ("task", "more", "what"),
    [
        (
            "image_encoder",
            ["--train.lora.rank=2"],
            "it is for the task image_to_video or consistency or text_to_image or text_to_video, not for image_encoder",
        ),
        (
            "autoencoder",
            ["--train.preview.images=[photo.png]"],
            "it is for the task image_to_video or consistency or image_model, not for autoencoder",
        ),
        (
            "nothing",
            [],
            "autoencoder, temporal_decoder, pixels, upsampling, image_encoder, or",
        ),
        ("nowhere.Task", [], "train.task nowhere.Task cannot be found: No module named 'nowhere' (--train.task)"),
        ("svd.training.tasks.video.Task", [], "train.task svd.training.tasks.video.Task cannot be found: "),
        ("os.path", [], "train.task os.path cannot be found: it is no task"),
        ("..", [], "train.task .. cannot be found: "),
    ],
)
def test_what_a_task_cannot_have(inputs, tmp_path, task, more, what):
    outcome = train_here(*flags(inputs, tmp_path / "run", task, *more))
    assert outcome.code == 2 and what in outcome.error and not (tmp_path / "run").exists()


def test_an_image_encoder_needs_data_that_say_what_is_seen(inputs, tmp_path):
    dataset = ["--train.dataset=VideoDataset", f"--train.dataset.init_args.metadata={inputs / 'videos/videos.csv'}"]
    command = [flag for flag in flags(inputs, tmp_path / "run", "image_encoder") if "dataset" not in flag]
    outcome = train_here(*command, *dataset)
    assert outcome.code == 2 and "image_encoder needs data that say what is seen" in outcome.error


def test_the_autoencoder_is_that_of_the_temporal_decoder(inputs, tmp_path):
    config = tmp_path / "image.yaml"
    config.write_text(f"base: {inputs / 'tiny.yaml'}\nautoencoder:\n  decoder: image\n")
    outcome = train_here(*flags(inputs, tmp_path / "run", "temporal_decoder", f"--svd_config={config}"))
    assert outcome.code == 2 and "is for models with autoencoder.decoder: temporal" in outcome.error
