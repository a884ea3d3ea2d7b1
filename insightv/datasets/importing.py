"""Import of foreign data: sources in, a folder with problems, their images, the rejections and a manifest out.

Everything streams, and what has to be remembered lies in a scratch folder on disk: memory does not grow with the number of rows.
"""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from insightv import __version__
from insightv.config import UserError
from insightv.datasets.containers import HUB, files_of, is_stored, kind, read_rows
from insightv.datasets.duplicates import DISTANCE, MOST_DISTANCE, Duplicates
from insightv.datasets.foreign import Draft, draft_of, make_problem
from insightv.datasets.formats import RowError
from insightv.datasets.layouts import questions, renamed
from insightv.datasets.mixture import Source, check_titles
from insightv.datasets.pictures import Picture, Pictures
from insightv.datasets.quota import Quota
from insightv.datasets.references import resolve
from insightv.datasets.rows import Rejection
from insightv.files import explained, replacing, try_lock
from insightv.images import digest
from insightv.records import Problem
from insightv.store import ImageStore

Prepared = tuple[Problem, list[Picture], Rejection]
"""A problem, its pictures, and where it stood: `source`, `row`, `question` and maybe `place`, as a rejection begins."""


@dataclass
class Report:
    """What an import did."""

    sources: list[dict[str, Any]]
    """For each source `source`, `rows`, `problems`, `rejections`."""
    reasons: list[dict[str, Any]]
    """For each source and reason of a rejection `source`, `reason`, `count` and one `example`."""


@dataclass
class _Tally:
    """A source while it is imported: what was counted, and where its rejections go."""

    source: Source
    file: IO[bytes]
    stop: bool
    rows: int = 0
    questions: int = 0
    problems: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def rejection(self, error: RowError, where: Rejection) -> Rejection:
        """A broken row as a rejection, or the end of the import where that is asked for."""
        if self.stop:
            place = f" ({where['place']})" if "place" in where else ""
            raise UserError(f"{self.source.path}: row {where['row']}{place}: {error.reason}{': ' if error.detail else ''}{error.detail}")
        return where | {"reason": error.reason, "detail": error.detail}

    def write(self, rejection: Rejection) -> None:
        """Count a rejection and write it down."""
        self.file.write(orjson.dumps(rejection, option=orjson.OPT_SORT_KEYS) + b"\n")
        self.reasons[rejection["reason"]] += 1
        self.examples.setdefault(rejection["reason"], f"row {rejection['row']}{': ' if rejection['detail'] else ''}{rejection['detail']}")

    @property
    def manifest(self) -> dict[str, Any]:
        counts = {"rows": self.rows, "problems": self.problems, "rejections": dict(self.reasons), "beyond_quota": self.beyond}
        return self.source.model_dump(mode="json") | counts

    @property
    def beyond(self) -> int:
        """Questions that the quota left out without a closer look."""
        return self.questions - self.problems - sum(self.reasons.values()) if self.source.quota else 0


def import_sources(
    sources: Sequence[Source],
    out: Path,
    *,
    on_error: Literal["skip", "stop"] = "skip",
    near_duplicates: Literal["drop", "keep"] = "drop",
    distance: int = DISTANCE,
    seed: int = 0,
) -> Report:
    """Import `sources`, in their order, into `out`: `problems.jsonl`, `images/`, `rejections.jsonl` and `manifest.json`.

    A broken row is a rejection, or with `on_error="stop"` the end. Of problems that are the same the first stays; `distance` (bits of 64) says what is
    nearly the same. Problems come in the order of the rows, those of a source with a quota in the order of their hashes (of `seed` and content), so that
    the same rows in another order give the same file. No problem at all is a `UserError`, and so is whatever keeps a source from being read.
    """
    sources = [source.model_copy(update={"name": source.title}) for source in sources]
    check_titles(sources)
    if not 0 <= distance <= MOST_DISTANCE:
        raise UserError(f"a distance of {distance} bits: use 0 to {MOST_DISTANCE}")
    drop = near_duplicates == "drop"
    with _scratch(out) as scratch, ExitStack() as stack:
        seen = stack.enter_context(closing(Duplicates(scratch / "seen.sqlite", distance if drop else None)))
        problems, rejections = (stack.enter_context(replacing(out / name)) for name in ("problems.jsonl", "rejections.jsonl"))
        tallies = [_Tally(source, rejections, on_error == "stop") for source in sources]
        for number, tally in enumerate(tallies):
            _admit(tally, _prepared(tally, scratch / f"source-{number}", seed), seen, ImageStore(out / "images", cache=0), problems)
        manifest = {"tool": {"insightv": __version__}, "seed": seed, "near_duplicates": near_duplicates, "distance": distance}
        manifest |= {"shared_images": seen.shared(), "sources": [tally.manifest for tally in tallies]}
        with replacing(out / "manifest.json") as file:
            file.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    report = _report(tallies)
    if not any(tally.problems for tally in tallies):
        reasons = ", ".join(f"{row['count']} {row['reason']}" for row in report.reasons) or "there are no rows"
        raise UserError(f"no row of {', '.join(source.path for source in sources)} became a problem ({reasons}); see {out / 'rejections.jsonl'}")
    return report


def _admit(tally: _Tally, prepared: Iterator[Prepared], seen: Duplicates, images: ImageStore, file: IO[bytes]) -> None:
    """Write what is new; what is not is a rejection that names the problem which it repeats."""
    for problem, pictures, where in prepared:
        if found := seen.find(problem, pictures):
            tally.write(where | {"reason": found[0], "detail": f"same as problem {found[1]}"})
            continue
        for picture in pictures:
            images.add(picture.data)
        file.write(problem.model_dump_json().encode() + b"\n")
        seen.add(problem, pictures)
        tally.problems += 1


def _prepared(tally: _Tally, scratch: Path, seed: int) -> Iterator[Prepared]:
    """The source's problems before they are compared with others: all, or those within its quota."""
    pictures = Pictures(tally.source.images)
    if not tally.source.quota:
        for draft, where in _drafts(tally, scratch):
            try:
                problem, shown = _problem(draft, pictures, tally.source)
            except RowError as error:
                tally.write(tally.rejection(error, where))
                continue
            yield problem, shown, where
        return
    with closing(Quota(scratch, tally.source.quota)) as quota:
        for draft, where in _drafts(tally, scratch):
            key = draft.key(seed)
            if not quota.wants(key):
                continue
            try:
                problem, shown = _problem(draft, pictures, tally.source)
            except RowError as error:
                quota.reject(key, tally.rejection(error, where))
                continue
            if known := quota.add(key, problem, shown, where):
                quota.reject(key, where | {"reason": "duplicate", "detail": f"same as problem {known}"})
        for rejection in quota.rejections():
            tally.write(rejection)
        yield from quota.chosen()


def _problem(draft: Draft, pictures: Pictures, source: Source) -> tuple[Problem, list[Picture]]:
    shown = [pictures.get(image) for image in draft.images]
    meta = ({"split": source.split} if source.split else {}) | draft.meta
    digests = [digest(picture.data) for picture in shown]
    problem = make_problem(draft.question, draft.answers, images=digests, options=draft.options, answer_type=draft.answer_type, source=source.name, meta=meta)
    return problem, shown


def _drafts(tally: _Tally, scratch: Path) -> Iterator[tuple[Draft, Rejection]]:
    """The source's questions, checked but for their images."""
    for number, (place, row) in enumerate(_rows(tally.source, scratch), 1):
        tally.rows += 1
        where: Rejection = {"source": tally.source.name, "row": number} | ({"place": place} if place else {})
        try:
            for question, fields in enumerate(questions(row, tally.source.preset), 1):
                asked = where | {"question": question}
                tally.questions += 1
                try:
                    draft = draft_of(fields)
                except RowError as error:
                    tally.write(tally.rejection(error, asked))
                    continue
                yield draft, asked
        except RowError as error:
            tally.write(tally.rejection(error, where))


def _rows(source: Source, scratch: Path) -> Iterator[tuple[str, Any]]:
    def once() -> Iterator[tuple[str, Any]]:
        for place, row in read_rows(source.path, source.split):
            try:
                yield place, renamed(row, source.columns)
            except RowError as error:
                yield place, error

    table = not source.path.startswith(HUB) and not is_stored(Path(source.path)) and kind(files_of(source.path)[0]) == "tsv"
    if source.preset == "vlmevalkit" or (table and not source.preset):
        return resolve(once, scratch.with_suffix(".references"))
    return once()


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder below `out` for the time of an import, which this process has to itself."""
    folder = out / ".scratch"
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = try_lock(out / ".lock")
    if lock is None:
        raise UserError(f"another import is writing to {out}; wait for it, or choose another folder")
    try:
        # What a killed import left behind.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    except sqlite3.OperationalError as error:
        raise UserError(f"cannot use {folder}: {error}; is the disk full?") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _report(tallies: Sequence[_Tally]) -> Report:
    sources, reasons = [], []
    for tally in tallies:
        title, total = tally.source.name, sum(tally.reasons.values())
        sources.append({"source": title, "rows": tally.rows, "problems": tally.problems, "rejections": total, "beyond quota": tally.beyond})
        for reason, count in sorted(tally.reasons.items(), key=lambda item: (-item[1], item[0])):
            reasons.append({"source": title, "reason": reason, "count": count, "example": tally.examples[reason]})
    return Report(sources, reasons)
