"""A run directory: journal of paid requests, images by digest, records, and stages that count only after their rename."""

import functools
import hashlib
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
from pydantic import ValidationError

from insightv.cache import ByteCache
from insightv.config import UserError
from insightv.files import explained, link, locked, replacing, sync
from insightv.images import digest, media_type
from insightv.journal import Journal
from insightv.records import Record

__all__ = ["ImageStore", "Images", "Journal", "Run", "Stage", "content_hash", "derive_seed", "read_manifest", "read_records", "write_records"]

R = TypeVar("R", bound=Record)

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
_SCRATCH = re.compile(r"\..*|checkpoint-.*|scratch")
_TAKEN = ".taken"
"""File in a stage's folder that names the run it was taken from; no output."""
_STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def content_hash(value: Any) -> str:
    """32 hex digits of the SHA-256 of a JSON value in canonical form (keys sorted)."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def derive_seed(*parts: Any) -> int:
    """A 31-bit seed from what identifies a draw (config seed, problem id, chain, step, attempt): never run or order."""
    return int(content_hash(list(parts))[:8], 16) & 0x7FFFFFFF


class Images(Protocol):
    """Where a model finds the images that messages name."""

    def get(self, name: str) -> bytes:
        """The bytes of a digest."""


class ImageStore:
    """Encoded images by the digest of their bytes, as `ab/<digest>.png`; the last `cache` megabytes read stay in memory."""

    def __init__(self, folder: Path, cache: int = 64) -> None:
        self.folder = folder
        self._cache = ByteCache(cache * 2**20)

    def add(self, data: bytes) -> str:
        """Store PNG, JPEG or WEBP bytes once and return their digest; other bytes are an `ImageError`."""
        name = digest(data)
        path = self._place(name, _SUFFIXES[media_type(data)])
        if not path.exists():
            # A name of its own for every writer: two may add the same image at once.
            beside = path.with_name(f"{name}.{secrets.token_hex(4)}")
            with replacing(beside) as file:
                file.write(data)
            beside.rename(path)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of a digest; `UserError` when the image is not here."""
        return self._cache.get(name, lambda: self._read(name))

    def path(self, name: str) -> Path:
        """The file of a digest; `UserError` when the image is not here."""
        if re.fullmatch(r"[0-9a-f]{32}", name):
            for suffix in _SUFFIXES.values():
                path = self._place(name, suffix)
                if path.exists():
                    return path
        raise UserError(f"image {name!r} is not in {self.folder}; import the problems again or point to the folder that holds their images")

    def adopt(self, name: str, other: "ImageStore") -> None:
        """Have an image that another store holds; `UserError` when it does not."""
        path = other.path(name)
        link(path, self._place(name, path.suffix))

    def _read(self, name: str) -> bytes:
        path = self.path(name)
        with explained(path):
            return path.read_bytes()

    def _place(self, name: str, suffix: str) -> Path:
        return self.folder / name[:2] / (name + suffix)


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSON Lines in the given order, beside and renamed; returns their number."""
    count = 0
    with replacing(path) as file:
        for record in records:
            file.write(record.model_dump_json().encode() + b"\n")
            count += 1
    return count


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a JSON Lines file; a missing file or a broken line is a `UserError` that says where."""
    if not path.is_file():
        raise UserError(f"no {kind.__name__.lower()} records at {path}")
    with explained(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"])
                raise UserError(f"{path}:{number}: not a {kind.__name__}: {place + ': ' if place else ''}{first['msg']}") from None


@dataclass(frozen=True)
class Stage:
    """A unit of work whose outputs are named by everything that they depend on."""

    run: Path
    name: str
    inputs: Mapping[str, str]
    config: Any
    version: int

    @functools.cached_property
    def hash(self) -> str:
        """Hash of name, version of the code, config and inputs."""
        return content_hash({"name": self.name, "version": self.version, "config": self.config, "inputs": dict(self.inputs)})

    @property
    def folder(self) -> Path:
        """Where the outputs lie once the stage is done."""
        return self.run / self.name

    @property
    def work(self) -> Path:
        """Where the outputs are made; it survives kills, so that what was begun is resumed here."""
        path = self._work
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def done(self) -> bool:
        """Whether the outputs of this very hash are complete."""
        manifest = read_manifest(self.folder)
        return manifest.get("hash") == self.hash and all((self.folder / name).is_file() for name in manifest["outputs"])

    @property
    def outputs_hash(self) -> str:
        """Hash of the output files' digests: what later stages take as their input."""
        return content_hash(self._manifest["outputs"])

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage said of itself when it was done."""
        summary: dict[str, Any] = self._manifest["summary"]
        return summary

    def commit(self, summary: dict[str, Any]) -> None:
        """Make the work folder's files the stage's outputs, with a manifest and without scratch, by one rename.

        Scratch is, at any depth: names that begin with a dot or `checkpoint-`, and what is called `scratch`. It goes last: until the manifest
        is on disk, a kill has to find the checkpoints from which the stage is resumed.
        """
        work = self.work
        with explained(work):
            kept = [path for path in _without_scratch(work) if path not in (work / "manifest.json", work / "manifest.json.part")]
            outputs = {path.relative_to(work).as_posix(): _sha256(path) for path in kept if path.is_file()}
            for path in kept:
                sync(path)
        manifest = {"stage": self.name, "hash": self.hash, "version": self.version, "config": self.config, "inputs": dict(self.inputs)}
        with replacing(work / "manifest.json") as file:
            file.write(orjson.dumps(manifest | {"outputs": outputs, "summary": summary}, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
        self.publish()

    def publish(self) -> None:
        """Move a complete work folder into place: the end of a commit, also of one that a kill cut short."""
        if not (self._work / "manifest.json").is_file():
            return
        with locked(self._work.parent / "publish.lock"), explained(self.folder):
            # A work folder holds its manifest only once all else is on disk; another process may have moved it meanwhile.
            if not (self._work / "manifest.json").is_file():
                return
            _remove_scratch(self._work)
            self._put(self._work)

    def adopt(self, other: Path) -> bool:
        """Make a finished stage of this very hash in another run's folder this run's too, by links where the disk allows it.

        The other folder is only read. False, and nothing done, where a file there is missing or not what the manifest says.
        """
        manifest = read_manifest(other)
        if manifest.get("hash") != self.hash:
            return False
        beside = self.run / ".work" / f"taken-{self.name}-{secrets.token_hex(4)}"
        try:
            beside.mkdir(parents=True)
            for name, digest in manifest["outputs"].items():
                link(other / name, beside / name)
                if _sha256(beside / name) != digest:
                    return False
            for path in _without_scratch(beside):
                sync(path)
            (beside / _TAKEN).write_text(str(other.parent), encoding="utf-8")
            with replacing(beside / "manifest.json") as file:
                file.write(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
            with locked(self.run / ".work" / "publish.lock"), explained(self.folder):
                self._put(beside)
        except FileNotFoundError:
            # The other run makes it anew just now.
            return False
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        # What was begun here is of no use any more.
        shutil.rmtree(self._work, ignore_errors=True)
        return True

    @property
    def taken(self) -> str:
        """The folder of the run that a done stage was taken from; empty if it was made here."""
        mark = self.folder / _TAKEN
        return mark.read_text(encoding="utf-8") if mark.is_file() else ""

    def _put(self, made: Path) -> None:
        """Move a whole folder to the stage's place, and what stood there out of the way."""
        aside = self._work.parent / f"old-{self.name}-{secrets.token_hex(4)}"
        if self.folder.exists():
            self.folder.rename(aside)
        made.rename(self.folder)
        sync(self.run)
        shutil.rmtree(aside, ignore_errors=True)

    @property
    def _work(self) -> Path:
        return self.run / ".work" / f"{self.name}-{self.hash[:12]}"

    @property
    def _manifest(self) -> dict[str, Any]:
        if not self.done:
            raise UserError(f"stage {self.name} of {self.run} is not done; run it first")
        return read_manifest(self.folder)


class Run:
    """A run directory, made when missing."""

    def __init__(self, folder: Path, journal: Path | None = None) -> None:
        """`journal` is a folder that it shares with other runs; None is its own."""
        self.folder = folder
        self._journal = journal or folder / "journal"
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def __reduce__(self) -> tuple[type["Run"], tuple[Path, Path]]:
        """In another process it opens its journal and images anew."""
        return Run, (self.folder.resolve(), self._journal.resolve())

    @functools.cached_property
    def journal(self) -> Journal:
        """Replies paid so far."""
        return Journal(self._journal, self.payer)

    @property
    def payer(self) -> str:
        """The name under which the journal keeps this run's bills."""
        return str(self.folder.resolve())

    @functools.cached_property
    def images(self) -> ImageStore:
        """Images of the run's problems."""
        return ImageStore(self.folder / "images")

    def stage(self, name: str, *, inputs: Mapping[str, str], config: Any, version: int) -> Stage:
        """The stage of that name over these inputs (name -> hash) with that config (a JSON value)."""
        if not _STAGE_NAME.fullmatch(name) or name in ("journal", "images"):
            raise UserError(f"{name!r} cannot name a stage: use letters, digits and _ . + -, and neither journal nor images")
        stage = Stage(self.folder, name, inputs, config, version)
        stage.publish()
        return stage


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a stage's folder says of how it was made (`hash`, `config`, `inputs`, `outputs`, `summary`); empty where there is none."""
    try:
        manifest: dict[str, Any] = orjson.loads((folder / "manifest.json").read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError:
        raise UserError(f"{folder}/manifest.json is damaged; remove {folder} and run again") from None
    return manifest


def _without_scratch(folder: Path) -> list[Path]:
    """Files and folders at any depth, sorted, but for scratch and what lies in it."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if not _SCRATCH.fullmatch(path.name):
            found += [path, *_without_scratch(path)] if path.is_dir() else [path]
    return found


def _remove_scratch(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if not _SCRATCH.fullmatch(path.name):
            if path.is_dir():
                _remove_scratch(path)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
