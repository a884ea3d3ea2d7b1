"""What somebody says of a run's chains by hand: beside what judge and scorer said, which stays as it is."""

import os
from collections.abc import Iterator
from heapq import merge
from operator import attrgetter
from pathlib import Path

import msgspec

from insightv.files import explained, locked
from insightv.records import Chain, Correction, Verdict
from insightv.store import content_hash, read_records

FILE = "corrections.jsonl"
"""In the run's folder; a line is only ever added, and the last of a chain counts."""


def add(run: Path, correction: Correction) -> None:
    """Keep a correction; it is on the disk when this returns."""
    path = run / FILE
    with explained(path), locked(run / f".{FILE}.lock"), path.open("ab") as file:
        file.write(correction.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(run: Path) -> dict[str, Correction]:
    """The correction that stands of each chain; those that were taken back are left out."""
    if not (run / FILE).is_file():
        return {}
    last = {one.chain_id: one for one in read_records(run / FILE, Correction)}
    return {name: one for name, one in last.items() if one.correct is not None or one.flagged}


def digest(run: Path) -> list[str]:
    """What a data set's content depends on besides the judgements: nothing where nobody corrected anything."""
    standing = read(run)
    return [content_hash([standing[name].model_dump() for name in sorted(standing)])] if standing else []


def corrected(verdicts: Iterator[Verdict], standing: dict[str, Correction], struct: type[Verdict]) -> Iterator[Verdict]:
    """Verdicts sorted by problem, each corrected one behind that of the judge, so that it is the last and counts; `struct` is how they are read."""
    given = (one for one in standing.values() if one.correct is not None)
    by_hand = [struct(chain_id=one.chain_id, problem_id=one.problem_id, correct=one.correct, by="hand", reason=one.note) for one in given]
    return merge(verdicts, sorted(by_hand, key=attrgetter("problem_id")), key=attrgetter("problem_id"))


def without_flagged(chains: Iterator[Chain], standing: dict[str, Correction]) -> Iterator[Chain]:
    """Chains, of which the flagged ones are not usable, with the reason."""
    for chain in chains:
        one = standing.get(chain.id)
        if one and one.flagged:
            reason = f"flagged by hand: {one.note}" if one.note else "flagged by hand"
            chain = msgspec.structs.replace(chain, status="defect", reason=reason)  # type: ignore[type-var] # structs stand in for records here
        yield chain
