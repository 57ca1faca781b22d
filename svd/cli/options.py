"""Command lines whose options may also come from an untrusted file."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Optional, TypeVar, Union, get_args

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from svd.checkpoints.model_file import Checkpoint
from svd.cli.program import is_user_error
from svd.config import ConfigError, SamplingConfig, load_config
from svd.config import Model as AnyModel
from svd.config.presets import Preset, overridden, with_preset
from svd.console import log, one_line
from svd.files import check_folder
from svd.resources import find_file
from svd.runtime import AmpLevel, DeviceTarget, Mode
from svd.yaml_files import checked_yaml, load_yaml, loader, read_yaml

Model = TypeVar("Model", bound=AnyModel)
_ABSENT = object()


def new_parser(program: str, description: str, files: str) -> ArgumentParser:
    """A parser with `--config`, whose help is `files`; its description is the first line of `description`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    _bound_yaml()
    parser = ArgumentParser(prog=program, description=description.splitlines()[0], exit_on_error=False)
    parser.add_argument("--config", action=OptionsFile, help=files)
    return parser


@cache
def _bound_yaml() -> None:
    """Make jsonargparse check all YAML before loading it, values of options included."""
    load = jsonargparse.get_loader("yaml")

    def load_bounded(text: str) -> Any:
        if loader(checked_yaml(text)) is yaml.SafeLoader:
            return load_yaml(text)
        try:
            return load(text)
        except (ValueError, OverflowError) as error:
            raise yaml.YAMLError(one_line(error)) from error

    jsonargparse.set_loader("yaml", load_bounded, (yaml.YAMLError,))


class OptionsFile(ActionConfigFile):
    """The action of `--config`: the file is bounded, and its sections must be mappings."""

    def __call__(
        self, parser: ArgumentParser, cfg: Namespace, values: Any, option_string: Optional[str] = None
    ) -> None:
        where = f"--config {values}"
        values = str(find_file(values))  # configs/... are found from any folder
        try:
            if Path(values).exists():
                content = load_yaml(read_yaml(values))
                if not isinstance(content, dict):
                    raise ConfigError(f"{where} is not a mapping of options to values")
                _check_forms(parser, content, where)
                if all(value is None for value in content.values()):
                    return
        except yaml.YAMLError as error:
            raise ConfigError(f"{where} is no YAML that can be used: {one_line(error)}") from error
        super().__call__(parser, cfg, values, option_string)


def add_device(parser: ArgumentParser, what: str = "Where to run") -> None:
    """Add `--device_target` and `--mode`; `what` the device is for."""
    parser.add_argument("--device_target", choices=get_args(DeviceTarget), default="auto", help=f"{what}; auto takes "
        "the best device that is there.")  # fmt: skip
    parser.add_argument("--mode", type=Mode, default=0, help="0: compiled graph, 1: pynative.")


def add_compile_cache(parser: ArgumentParser) -> None:
    """Add `--compile_cache`."""
    parser.add_argument("--compile_cache", type=Optional[str], default="auto", help="Folder in which compiled graphs "
        "are kept, so that later runs of the same model and sizes start sooner; off keeps none; auto keeps them in the "
        "user's cache folder, on CPU.")  # fmt: skip


def check_compile_cache(args: Namespace) -> None:
    """Raise ConfigError or FileError unless `--compile_cache` can be used."""
    if args.compile_cache in (None, "auto", "off"):
        return
    if args.mode == 1:
        raise ConfigError("--compile_cache keeps compiled graphs, and --mode=1 compiles none: leave one of them out")
    check_folder(args.compile_cache, "--compile_cache")


def add_model(
    parser: ArgumentParser,
    weights: str,
    default: Optional[str] = None,
    group: str = "SVD",
    example: str = "configs/svd.yaml",
) -> None:
    """Add `--SVD.config`, `--SVD.checkpoint`, of which the help is `weights`, and `--SVD.amp_level`; or of another
    group.
    """
    add = parser.add_argument
    add(f"--{group}.config", type=Optional[str], help=f"Model, such as {example}; if it is not given, what the "
        "checkpoint says of itself.")  # fmt: skip
    add(f"--{group}.checkpoint", type=Optional[str], default=default, help=weights)
    add(f"--{group}.amp_level", choices=get_args(AmpLevel), default="auto", help="O0: float32. O2: float16 inside the "
        "networks. bf16: bfloat16 (Ascend). auto: O2 on Ascend, O0 elsewhere.")  # fmt: skip


def add_sampling(
    parser: ArgumentParser, skip: Collection[str] = (), group: str = "SVD", settings: type = SamplingConfig
) -> None:
    """Add the fields of the settings as `--SVD.<field>`, or of another group, except those to skip.

    They have no defaults: a file of --print_config must not state unset options, which would override the model's
    configuration.
    """
    own = {"guidance"} if settings is SamplingConfig else set()
    if own:
        parser.add_argument(f"--{group}.guidance", type=Union[float, list[float]], help="Smallest and largest guidance "
            "scale over the frames; one number is both.")  # fmt: skip
        parser.add_argument(f"--{group}.preset", type=Optional[Preset], help="A combination of solver and steps: "
            "fast, balanced, or reference, the model's own. Other sampling options override it.")  # fmt: skip
    parser.add_class_arguments(settings, group, skip={*own, *skip}, help="sampling (what is not given is as the "
        "model's config says)")  # fmt: skip
    parser.set_defaults({f"{group}.{field.name}": None for field in fields(settings) if field.name not in skip})


def resolve_model(given: Namespace, kind: type[Model]) -> Model:
    """The model of `config` and `checkpoint`.

    Raises:
        ConfigError: the configuration cannot be used, or is of another kind.
        CheckpointError: there is no `config`, and the checkpoint does not say what it is.
    """
    model = load_config(given.config) if given.config else Checkpoint(given.checkpoint).config
    if type(model) is not kind:
        where = f"config {given.config}" if given.config else given.checkpoint
        raise ConfigError(f"{where} is of a model that {model.purpose}, not of one that {kind.purpose}")
    return model


def resolve_sampling(model: Model, given: Namespace) -> Any:
    """The model's sampling settings, those of a preset, and what was given instead; from then on `given` has all of
    them that are options, and no preset.

    Raises ConfigError if they cannot be used.
    """
    names = [field.name for field in fields(model.sampling) if field.name in given]
    chosen = {name: given[name] for name in names if given[name] is not None}
    if given.get("preset") is not None:
        if others := overridden(given.preset, chosen):
            log(f"preset {given.preset}, but {', '.join(f'{name} {chosen[name]}' for name in others)} as given")
        chosen, given.preset = with_preset(model, given.preset, chosen), None
    sampling = replace(model.sampling, **chosen)
    model.check_sampling(sampling)
    for name in names:
        given[name] = getattr(sampling, name)
    return sampling


def load(args: Namespace, given: Namespace, model: Model, **others: Any) -> Any:
    """The pipeline of a model; prints how long loading took.

    Args:
        args: the options of `add_device` and `add_compile_cache`.
        given: those of `add_model`, a group of `args`.
        others: further arguments of `load_pipeline`.
    """
    from svd.build import load_pipeline  # MindSpore takes seconds to import

    start = time.perf_counter()
    choices = args.device_target, args.mode, given.amp_level
    pipe = load_pipeline(model, given.checkpoint, *choices, compile_cache=args.compile_cache, **others)
    log(f"loaded {given.checkpoint} in {time.perf_counter() - start:.1f} s")
    return pipe


def parse(parser: ArgumentParser, argv: Optional[list[str]]) -> Namespace:
    """Parse a command line and its files; empty values and sections of a file take the defaults.

    Raises:
        ConfigError, jsonargparse.ArgumentError: they cannot be used.
    """
    try:
        args = parser.parse_args(argv)
        _fill(args, parser.get_defaults())
        return args
    except Exception as error:
        if is_user_error(error):
            raise
        # jsonargparse raises anything for values of an unexpected form
        raise ConfigError(f"the options cannot be used: {one_line(error)}") from error


def _fill(args: Namespace, defaults: Namespace) -> None:
    for name, default in vars(defaults).items():
        value = getattr(args, name, None)
        if value is None:
            setattr(args, name, default)
        elif isinstance(default, Namespace) and not hasattr(default, "class_path"):  # it may be another class
            _fill(value, default)


def _check_forms(parser: ArgumentParser, content: dict, where: str) -> None:
    """Raise ConfigError unless groups of options are mappings, and lists are lists."""
    names = {action.dest for action in parser._actions}
    groups = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    lists = {action.dest for action in parser._actions if action.nargs == "+"}
    for name in sorted(groups | lists):
        value: Any = content
        for part in name.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
        kind, wanted = (dict, "names and values") if name in groups else (list, "a list")
        if value is not _ABSENT and value is not None and not isinstance(value, kind):
            raise ConfigError(f"{where}: {name} is {repr(value)[:40]}; it takes {wanted}, or is left out")
