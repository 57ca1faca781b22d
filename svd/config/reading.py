"""Reading and writing model configurations as YAML: files with a `base`, and the metadata of checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from svd.config.models import DEFAULT_KIND, KINDS, Model
from svd.console import one_line
from svd.errors import ConfigError, check
from svd.resources import find_file
from svd.yaml_files import checked_yaml, read_yaml

MOST_INTERPOLATIONS = 16
"""In a YAML file."""


def load_config(source: str | Path) -> Model:
    """Read a model's configuration: a YAML file that states only what differs from the defaults of its `kind`, or of
    its `base`, a path relative to it. `configs/...` are found from any folder.

    Raises:
        ConfigError: the file does not exist, is not YAML, has an unknown key, or a value of the wrong type.
    """
    return _structured(_read(Path(find_file(source))), f"config {source}")


def parse_config(text: str) -> Model:
    """Parse the configuration that `dump_config` wrote."""
    where = "the config in the checkpoint"
    return _structured([_parse(checked_yaml, text, where)], where)


def dump_config(config: Model) -> str:
    """The complete configuration as YAML, defaults included, without the default kind, unknown to earlier versions."""
    kind = next(kind for kind, known in KINDS.items() if type(config) is known)
    return ("" if kind == DEFAULT_KIND else f"kind: {kind}\n") + OmegaConf.to_yaml(OmegaConf.structured(config))


def _read(path: Path, readers: tuple[Path, ...] = ()) -> list:
    """The mappings of a YAML file, those of its `base` first; `readers` are the files that have it as a base."""
    check(path.resolve() not in readers, f"config {path} has itself as a base")
    check(path.is_file(), f"config {path} is no file; the published models are in configs/")
    config = _parse(read_yaml, path, f"config {path}")
    base = _taken(config, "base", f"config {path}", "the path of another config")
    return [config] if base is None else [*_read(path.parent / base, (*readers, path.resolve())), config]


def _parse(reader, source, where: str):
    """The mapping in YAML text that `reader` gives of the source, looked through."""
    try:
        text = reader(source)
        config = OmegaConf.create(text)
    except Exception as error:  # errors of the YAML reader have no common base
        raise ConfigError(f"{where} is not valid YAML: {one_line(error)}") from error
    check(config is not None and OmegaConf.is_dict(config), f"{where} is not a mapping of names to values")
    # nested interpolations can grow without bounds
    check(text.count("${") <= MOST_INTERPOLATIONS, f"{where} has more than {MOST_INTERPOLATIONS} interpolations")
    return config


def _taken(config, name: str, where: str, what: str) -> Optional[str]:
    """Remove and return a string that is no setting itself, `base` or `kind`."""
    try:
        value = config.pop(name, None)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {name}: {one_line(error)}") from error
    check(value is None or isinstance(value, str), f"{where}: {name} must be {what}, got {value}")
    return value


def _structured(configs: list, where: str) -> Model:
    """The defaults of the kind, overridden by the configs in order."""
    kinds = [_taken(config, "kind", where, f"one of {', '.join(KINDS)}") for config in configs]
    kind = next(filter(None, reversed(kinds)), DEFAULT_KIND)
    check(kind in KINDS, f"{where}: kind must be one of {', '.join(KINDS)}, got {kind}")
    defaults = KINDS[kind]()
    try:
        for config in configs:
            sampling = config.get("sampling")
            one = OmegaConf.is_dict(sampling) and isinstance(sampling.get("guidance"), (int, float))
            if one and kind == DEFAULT_KIND:  # SVD's guidance has a scale per frame
                sampling.guidance = [sampling.guidance] * 2
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(defaults), *configs))
    except (OmegaConfBaseException, TypeError, OverflowError, RecursionError) as error:
        # TypeError: names where a list is expected; RecursionError: interpolations of one another
        key = getattr(error, "full_key", None)
        known = _known_keys(defaults, key)
        reason = str(getattr(error, "msg", None) or error).splitlines()[0]
        hint = f"; known here: {', '.join(known)}" if known and "not in" in reason else ""
        raise ConfigError(f"{where}: {f'{key}: ' if key else ''}{reason}{hint}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _known_keys(node: Any, full_key: Optional[str]) -> list[str]:
    """The valid names at the level of `full_key`."""
    for part in (full_key or "").split(".")[:-1]:
        node = getattr(node, part, None)
    return [field.name for field in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
