"""A config as a file: YAML plus dotted overrides; an unknown key is an error that names the nearest known one."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from insightv.config import Config, Settings, UserError


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply overrides such as `generate.n=5`; raises `UserError` in one line."""
    try:
        # Sections that share an anchor are one object: an override of one would change the others.
        values = _unshared(yaml.safe_load(path.read_text(encoding="utf-8"))) or {}
    except FileNotFoundError:
        raise UserError(f"no config at {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML: a part of it holds itself, or it is too deep") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold settings as `name: value`, not {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with settings by dotted name; raises `UserError` in one line."""
    values = config.model_dump(mode="json")
    for name, value in settings.items():
        _put(values, name, value, f"{name}={value}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def save_config(config: Config, path: Path) -> None:
    """Write the resolved config as YAML, beside and renamed."""
    part = path.with_name(path.name + ".part")
    part.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    part.replace(path)


def _unshared(value: Any) -> Any:
    """A copy in which no part stands at two places."""
    if isinstance(value, dict):
        return {name: _unshared(part) for name, part in value.items()}
    return [_unshared(part) for part in value] if isinstance(value, list) else value


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"override {override!r} must read name=value, as in generate.n=5")
    try:
        _put(values, name, yaml.safe_load(text), override)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value: {' '.join(str(error).split())}") from None


def _put(values: dict[str, Any], name: str, value: Any, override: str) -> None:
    *parents, leaf = name.strip().split(".")
    for parent in parents:
        # A section without a line is None.
        values[parent] = {} if values.get(parent) is None else values[parent]
        values = values[parent]
        if not isinstance(values, dict):
            raise UserError(f"override {override!r}: {parent} is a value, not a section")
    values[leaf] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors()[:3]:
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}"
            lines.append(f"unknown key {place}{hint}")
        else:
            # The library's own text begins with "Value error, " where a validator of ours speaks, and names no place for the whole config.
            message = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]
            lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    fields: Mapping[str, Any] = Config.model_fields
    for part in place:
        annotation = fields[str(part)].annotation if str(part) in fields else None
        models = [t for t in (annotation, *getattr(annotation, "__args__", ())) if isinstance(t, type) and issubclass(t, Settings)]
        if not models:
            return []
        fields = models[0].model_fields
    return list(fields)
