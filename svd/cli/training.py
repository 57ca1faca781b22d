"""The options of a training, for the programs that train and that prepare for it."""

from __future__ import annotations

from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from svd.config import ConfigError
from svd.data.clips_with_images import ClipsWithImages  # noqa: F401
from svd.data.dataset import DatasetError
from svd.data.latents_dataset import LatentsDataset  # noqa: F401 (known by its name to --train.dataset)
from svd.data.moving_digits import MovingDigits  # noqa: F401
from svd.data.moving_mnist import MovingMNIST  # noqa: F401
from svd.data.video_dataset import VideoDataset
from svd.training.config import EnvironmentConfig, TrainConfig


def add_training(parser: ArgumentParser) -> None:
    """Add `--svd_config`, and the fields of svd/training/config.py as `--environment` and `--train`."""
    parser.add_argument("--svd_config", type=Optional[str], help="Model, such as configs/svd.yaml; if it is not given, "
        "what the pretrained checkpoint says of itself.")  # fmt: skip
    parser.add_class_arguments(EnvironmentConfig, "environment")
    parser.add_class_arguments(TrainConfig, "train")
    parser.set_defaults({"train.dataset": {"class_path": f"{VideoDataset.__module__}.{VideoDataset.__name__}"}})


def instantiate_training(parser: ArgumentParser, args: Namespace) -> Namespace:
    """The options with a TrainConfig, with its dataset, as `train` and an EnvironmentConfig as `environment`.

    Raises:
        ConfigError, DatasetError: they cannot be used, or there is no pretrained checkpoint.
    """
    try:
        options = parser.instantiate(args)
    except DatasetError as error:
        raise DatasetError(f"--train.dataset.init_args: {error}") from error
    if not options.train.pretrained:
        raise ConfigError(
            "--train.pretrained is missing: the weights to start from, as svd_tools/convert.py writes them"
        )
    return options
