"""Sources to import together: a YAML list, strictly read."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from insightv.config import Settings, UserError
from insightv.datasets.containers import HUB, kind
from insightv.datasets.layouts import LAYOUTS, check_columns


class Source(Settings):
    """One data set of a mixture."""

    path: str
    """File, folder of shards, pattern such as `shards/*.tar`, folder of `save_to_disk`, or `hub:NAME:CONFIG:SPLIT`; relative to where the command runs."""
    preset: str = ""
    """Name of the layout; empty finds it out by the columns of each row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our names to the rows' own, as in `question: query`."""
    images: Path = Path()
    """Folder that image paths start from; nothing outside it is read."""
    name: str = ""
    """Becomes the `source` of its problems; empty takes the name of the file."""
    quota: int | None = Field(None, ge=1)
    """Problems kept at most, chosen by a hash of their content."""
    licence: str = ""
    """Goes into the manifest as it is."""
    split: str = ""
    """The split to read; empty reads all rows."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        if self.preset and self.preset not in LAYOUTS:
            near = difflib.get_close_matches(self.preset, LAYOUTS, n=1)
            raise ValueError(f"unknown preset {self.preset!r}, {f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(LAYOUTS)}")
        try:
            check_columns(self.columns)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def title(self) -> str:
        """The name given, else that of the file without its suffixes, or of the data set on the hub."""
        if self.name:
            return self.name
        if self.path.startswith(HUB):
            return self.path.removeprefix(HUB).strip("/").replace("/", "_").replace(":", "_")
        path = Path(self.path)
        path = path.resolve().parent if any(sign in path.name for sign in "*?[") else path.resolve()
        return Path(path.name.removesuffix(".gz")).stem if kind(path) else path.name


def sources_of(rows: str, given: Mapping[str, Any], columns: Sequence[str]) -> list[Source]:
    """What the command line names: the sources of a YAML file, or one source with the settings given there and columns as `ours=theirs`."""
    pairs = [column.partition("=") for column in columns]
    if bad := [ours for ours, equals, theirs in pairs if not ours or not equals or not theirs]:
        raise UserError(f"--columns {bad[0]!r} must read OURS=THEIRS, as in question=query")
    if Path(rows).suffix.casefold() not in (".yaml", ".yml"):
        return [make_source({**given, "path": rows, "columns": {ours: theirs for ours, _, theirs in pairs}}, rows)]
    if named := ["columns"] * bool(pairs) + [name for name, value in given.items() if value and value != Path()]:
        raise UserError(f"{rows} says how its sources are read; put --{named[0]} there")
    return read_mixture(Path(rows))


def read_mixture(path: Path) -> list[Source]:
    """The sources of a YAML list; a missing file, an unknown key, a wrong value or a name that comes twice is a `UserError` of one line."""
    try:
        items = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no mixture at {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(items, list) or not items:
        raise UserError(f"{path} must hold a list of sources, each with a path: `- path: rows.jsonl`")
    sources = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise UserError(f"{path}: source {number} must hold settings as `name: value`, not {type(item).__name__}")
        sources.append(make_source(item, f"{path}: source {number}"))
    return sources


def make_source(values: dict[str, Any], where: str) -> Source:
    """One source from its settings; what is wrong is a `UserError` that begins with `where`."""
    try:
        return Source.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {'; '.join(_explained(item) for item in error.errors()[:3])}") from None


def _explained(item: Any) -> str:
    place = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place, Source.model_fields, n=1)
        return f"unknown key {place}" + (f", did you mean {near[0]}?" if near else f"; known here: {', '.join(Source.model_fields)}")
    message = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]
    return f"{place}: {message}" if place else message


def check_titles(sources: Sequence[Source]) -> None:
    """Two sources of one name are a `UserError`: rejections and manifest would not tell them apart."""
    titles = [source.title for source in sources]
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise UserError(f"two sources are called {twice[0]!r}; give each a name of its own by `name`")
