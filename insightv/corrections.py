"""What somebody says of a run's chains by hand: beside what judge and scorer said, which stays as it is."""

import os
from collections.abc import Iterator, Mapping
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from insightv.config import UserError
from insightv.files import explained, locked
from insightv.records import Chain, Correction, Verdict
from insightv.store import content_hash

FILE = "corrections.jsonl"
"""In the run's folder; a line is only ever added, and the last of a chain counts."""


def amend(run: Path, chain: str, problem: str, changes: Mapping[str, Any]) -> Correction:
    """Change some fields of what is said of a chain, and keep it; it is on the disk when this returns what stands now.

    The others are as they stand, so that two people, or one who is quick, take nothing back that they did not mean to.
    """
    path = run / FILE
    with explained(path), locked(run / f".{FILE}.lock"), path.open("ab") as file:
        # A line that a full disk or a kill left half-written counts for nothing, and must not swallow the next one.
        file.truncate(end(run))
        standing = read(run).get(chain) or Correction(chain_id=chain, problem_id=problem)
        amended = Correction.model_validate(standing.model_dump() | dict(changes))
        file.write(amended.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return amended


def end(run: Path) -> int:
    """Where the whole lines of the run's corrections end, in bytes; what stands before it never changes."""
    return len(_whole_lines(run / FILE))


def read(run: Path, until: int | None = None) -> dict[str, Correction]:
    """The correction that stands of each chain, or stood when the lines ended at `until`; those that were taken back are left out."""
    path = run / FILE
    lines = _whole_lines(path)[:until].splitlines()
    last = {one.chain_id: one for one in (_read_line(path, number, line) for number, line in enumerate(lines, 1))}
    return {name: one for name, one in last.items() if one.correct is not None or one.flagged}


def digest(standing: Mapping[str, Correction]) -> list[str]:
    """What a data set's content depends on besides the judgements: nothing where nobody corrected anything."""
    return [content_hash([standing[name].model_dump() for name in sorted(standing)])] if standing else []


def _whole_lines(path: Path) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    return data[: data.rfind(b"\n") + 1]


def _read_line(path: Path, number: int, line: bytes) -> Correction:
    try:
        return Correction.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"{path}:{number}: not a Correction: {error.errors()[0]['msg']}; mend or remove the line") from None


def corrected(verdicts: Iterator[Verdict], standing: Mapping[str, Correction], struct: type[Verdict]) -> Iterator[Verdict]:
    """Verdicts sorted by problem, each corrected one behind that of the judge, so that it is the last and counts; `struct` is how they are read."""
    given = (one for one in standing.values() if one.correct is not None)
    by_hand = [struct(chain_id=one.chain_id, problem_id=one.problem_id, correct=one.correct, by="hand", reason=one.note) for one in given]
    return merge(verdicts, sorted(by_hand, key=attrgetter("problem_id")), key=attrgetter("problem_id"))


def without_flagged(chains: Iterator[Chain], standing: Mapping[str, Correction]) -> Iterator[Chain]:
    """Chains, of which the flagged ones are not usable, with the reason."""
    for chain in chains:
        one = standing.get(chain.id)
        if one and one.flagged:
            reason = f"flagged by hand: {one.note}" if one.note else "flagged by hand"
            chain = msgspec.structs.replace(chain, status="defect", reason=reason)  # type: ignore[type-var] # structs stand in for records here
        yield chain
