"""Reads a run's config: one YAML file plus ``key=value`` overrides, the only place that knows YAML.

Everything is checked before anything starts: an unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from reelscribe.pipeline.config import Config
from reelscribe.pipeline.config_keys import COMPARED_SECTIONS, keys_of, types_of
from reelscribe.pipeline.errors import ConfigError, nearest
from reelscribe.pipeline.sampling import AnySampling

Settings = TypeVar("Settings", bound=BaseModel)


def load_config(path: str, overrides: list[str] | None = None) -> Config:
    """Read a YAML file (or the name of a config that comes with the package), apply ``key=value`` overrides, check everything.

    Raises ConfigError with every problem found, each with its key.
    """
    return load_settings(path, overrides or [], Config)


def load_settings(path: str, overrides: list[str], schema: type[Settings]) -> Settings:
    """As ``load_config``, for any schema."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        tree: Any = OmegaConf.load(_find(path))
        if not OmegaConf.is_dict(tree):
            raise ConfigError(f"{path}: expected keys and values at the top level, got a list")
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals or not key:
                raise ConfigError(f"override '{override}': expected key=value, e.g. training.epochs=20")
            # Text stays as typed: empty, '-' or a folder called 2024 would be something else to YAML.
            text = types_of(schema, key.split(".")) == {str}
            tree = OmegaConf.merge(tree, OmegaConf.from_dotlist([f"{key}={json.dumps(value, ensure_ascii=False)}" if text else override]))
        raw = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(f"  {_explain(e, schema)}" for e in error.errors())) from None


def load_variants(path: str, overrides: list[str]) -> dict[str, Config]:
    """One config for each combination of the values in ``key=a,b`` overrides, under the name of what is its own: ``key=a``.

    Only what may differ between trainings on the same data can be compared; in other keys a comma is a comma. Raises ConfigError for
    fewer than two combinations, and what load_config raises.
    """
    choices = [_choices(override) for override in overrides]
    varied = [i for i, values in enumerate(choices) if len(values) > 1]
    if not varied:
        raise ConfigError(
            f"nothing to compare: give several values of a key, e.g. model.recurrent=lstm,gru (keys of {', '.join(COMPARED_SECTIONS)})"
        )
    combinations = list(itertools.product(*choices))
    return {" ".join(combination[i] for i in varied): load_config(path, list(combination)) for combination in combinations}


def _choices(override: str) -> list[str]:
    """``key=a,b`` as ``key=a`` and ``key=b``."""
    key, _, value = override.partition("=")
    if key.partition(".")[0] not in COMPARED_SECTIONS:
        return [override]
    return list(dict.fromkeys(f"{key}={one}" for one in value.split(",")))


def _find(path: str) -> Path:
    """The file itself, or a packaged config of that name."""
    file = Path(path)
    if file.is_file():
        return file
    packaged = {Path(str(f)).stem: Path(str(f)) for f in resources.files("reelscribe.configs").iterdir() if f.name.endswith(".yaml")}
    if path in packaged:
        return packaged[path]
    raise ConfigError(
        f"no config file '{path}'{nearest(path, packaged)} (configs that come with the package: {', '.join(sorted(packaged))})"
    )


def _explain(error: Any, schema: type[BaseModel]) -> str:
    """One problem in words: where, what is allowed, what was got."""
    tags = {kind.model_fields["kind"].default for kind in get_args(AnySampling)}  # pydantic puts the chosen kind into the path of a union
    parts = [str(p) for i, p in enumerate(error["loc"]) if not (i == 1 and error["loc"][0] == "sampling" and p in tags)]
    where = ".".join(parts)
    match error["type"]:
        case "extra_forbidden":
            valid = keys_of(schema, parts[:-1])
            hint = nearest(parts[-1], valid) or f" (keys here: {', '.join(sorted(valid))})"
            return f"unknown key '{where}'{hint}"
        case "missing":
            return f"'{where}' is required"
        case "value_error" if isinstance(error["input"], dict):  # several keys together
            return f"{where + ': ' if where else ''}{error['ctx']['error']}"
        case _:
            return f"'{where}': {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}"
