"""An index over a run's files, so that two hundred thousand chains are looked through without being loaded."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from insightv.answers import settle
from insightv.chain_text import joined
from insightv.config import UserError
from insightv.datasets import lean
from insightv.files import explained, locked
from insightv.records import Chain, Problem, Score, Verdict
from insightv.store import content_hash, read_manifest

VERSION = 2
"""Of the tables below."""
DOUBTFUL_SCORE = 40
"""A right chain with less is one that judge and scorer see differently."""

_TABLES = """
CREATE TABLE about(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE problems(id TEXT PRIMARY KEY, split TEXT, family TEXT, source TEXT, record BLOB);
CREATE TABLE images(digest TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE chains(
    n INTEGER PRIMARY KEY, id TEXT, stage TEXT, problem TEXT, position INTEGER, family TEXT, status TEXT, verdict TEXT, judge TEXT, score INTEGER,
    steps INTEGER, words INTEGER, doubt TEXT
);
CREATE TABLE records(n INTEGER PRIMARY KEY, chain BLOB, judged BLOB, rated BLOB);
CREATE TABLE defects(n INTEGER, stage TEXT, name TEXT);
CREATE TABLE uses(stage TEXT, chain TEXT, problem TEXT, role TEXT, reason TEXT, detail TEXT);
CREATE TABLE pairs(n INTEGER PRIMARY KEY, stage TEXT, problem TEXT, chosen TEXT, rejected TEXT, part TEXT, margin INTEGER);
CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize="unicode61 remove_diacritics 2");
"""
_INDICES = """
CREATE INDEX chains_by_id ON chains(id);
CREATE INDEX chains_by_problem ON chains(problem);
CREATE INDEX chains_by_score ON chains(stage, score, n);
CREATE INDEX chains_by_words ON chains(stage, words, n);
CREATE INDEX chains_by_family ON chains(stage, family, n);
CREATE INDEX chains_by_verdict ON chains(stage, verdict, n);
CREATE INDEX chains_by_doubt ON chains(stage, doubt, n);
CREATE INDEX defects_by_name ON defects(name, n);
CREATE INDEX uses_by_chain ON uses(chain);
CREATE INDEX uses_by_problem ON uses(problem);
CREATE INDEX pairs_by_stage ON pairs(stage, n);
CREATE INDEX pairs_by_problem ON pairs(problem);
"""


def refreshed(run: Path) -> Path:
    """The run's index, made anew where a stage was; it lies in the run's `.view`, which can be removed while nobody shows the run."""
    path = run / ".view" / "index.sqlite"
    with explained(path.parent):
        path.parent.mkdir(exist_ok=True)
    with locked(path.with_name("lock")):
        wanted = state(run)
        if _state_of(path) != wanted:
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            with closing(sqlite3.connect(part)) as database:
                _fill(database, run, wanted)
            os.replace(part, path)
    return path


def stale(run: Path) -> bool:
    """Whether the run has changed since its index was made."""
    return _state_of(run / ".view" / "index.sqlite") != state(run)


def state(run: Path) -> str:
    """What an index depends on: the stages that hold problems, chains, judgements and data sets, each with what it was made from and what came of it."""
    manifests = {path.name: read_manifest(path) for path in run.iterdir() if path.is_dir() and _is_shown(path)}
    # What failed and was asked for again has other outputs of the same inputs.
    return content_hash([VERSION, [[name, manifest.get("hash"), manifest.get("outputs")] for name, manifest in sorted(manifests.items())]])


def _is_shown(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("train.jsonl", "chains.jsonl", "verdicts.jsonl", "rejections.jsonl"))


def _state_of(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        with closing(sqlite3.connect(path)) as database:
            [found] = database.execute("SELECT value FROM about WHERE key = 'state'").fetchone() or [""]
    except sqlite3.DatabaseError:
        return ""
    return str(found)


def _fill(database: sqlite3.Connection, run: Path, wanted: str) -> None:
    # It is made beside and renamed: a broken one is never seen, so nothing is lost by not waiting for the disk.
    database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;" + _TABLES)
    _add_problems(database, run)
    for folder in sorted(path.parent for path in run.glob("*/chains.jsonl")):
        _add_chains(database, run, folder.name)
    for folder in sorted(path.parent for path in run.glob("*/rejections.jsonl")):
        _add_uses(database, folder)
    database.executescript(_INDICES + "ANALYZE;")
    database.execute("INSERT INTO about VALUES('state', ?)", (wanted,))
    database.commit()


def _add_problems(database: sqlite3.Connection, run: Path) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        for file in sorted((run / "problems").glob("*.jsonl")):
            for problem in lean.read(file, Problem):
                yield problem.id, file.stem, str(problem.meta.get("family", "")), problem.source, lean.line(problem)

    # The same question may stand in two splits; the first that names it has it.
    database.executemany("INSERT OR IGNORE INTO problems VALUES(?, ?, ?, ?, ?)", rows())
    database.execute("INSERT OR IGNORE INTO images SELECT value FROM problems, json_each(CAST(record AS TEXT), '$.images')")


def _add_chains(database: sqlite3.Connection, run: Path, stage: str) -> None:
    judged = run / ("assess" if stage == "generate" else f"{stage}-assess")
    database.executescript("CREATE TEMP TABLE judged(chain TEXT PRIMARY KEY, verdict BLOB, score BLOB) WITHOUT ROWID;")
    for name, kind in (("verdict", Verdict), ("score", Score)):
        file = judged / f"{name}s.jsonl"
        if file.is_file():
            rows = ((record.chain_id, lean.line(record)) for record in lean.read(file, kind))  # type: ignore[attr-defined]
            database.executemany(f"INSERT INTO judged(chain, {name}) VALUES(?, ?) ON CONFLICT DO UPDATE SET {name} = excluded.{name}", rows)

    @lru_cache(maxsize=1)
    def asked(name: str) -> tuple[Problem | None, str]:
        """The problem of a chain, and its family; those of one problem stand together."""
        found = database.execute("SELECT record, family FROM problems WHERE id = ?", (name,)).fetchone()
        return (Problem.model_validate_json(found[0]), found[1]) if found else (None, "")

    first = n = database.execute("SELECT coalesce(max(n), 0) + 1 FROM chains").fetchone()[0]
    chains, records, texts, defects = [], [], [], []
    for chain in lean.read(run / stage / "chains.jsonl", Chain):
        known = database.execute("SELECT verdict, score FROM judged WHERE chain = ?", (chain.id,)).fetchone() or (None, None)
        problem, family = asked(chain.problem_id)
        verdict, score = (orjson.loads(text) if text else {} for text in known)
        text = joined(chain.steps) + f"\n{chain.conclusion}\n{chain.answer}"
        said = {True: "right", False: "wrong", None: "open"}[verdict["correct"]] if verdict else ""
        row = (n, chain.id, stage, chain.problem_id, chain.index, family, chain.status, said, verdict.get("by", ""), score.get("value"))
        chains.append((*row, len(chain.steps), len(text.split()), _doubt(chain, problem, verdict, score)))
        records.append((n, lean.line(chain), *known))
        texts.append((n, f"{problem.question if problem else ''}\n{text}\n{verdict.get('reason', '')}\n{score.get('reason', '')}"))
        defects += [(n, stage, name) for name in chain.defects]
        n += 1
        if (n - first) % 2000 == 0:
            _flush(database, chains, records, texts, defects)
    _flush(database, chains, records, texts, defects)
    database.executescript("DROP TABLE judged;")


def _flush(database: sqlite3.Connection, chains: list[Any], records: list[Any], texts: list[Any], defects: list[Any]) -> None:
    database.executemany(f"INSERT INTO chains VALUES({', '.join('?' * 13)})", chains)
    database.executemany("INSERT INTO records VALUES(?, ?, ?, ?)", records)
    database.executemany("INSERT INTO texts(rowid, text) VALUES(?, ?)", texts)
    database.executemany("INSERT INTO defects VALUES(?, ?, ?)", defects)
    for rows in (chains, records, texts, defects):
        rows.clear()


def _doubt(chain: Chain, problem: Problem | None, verdict: dict[str, Any], score: dict[str, Any]) -> str:
    """Who sees a chain differently than its verdict: `rule` where the rules do, `score` where a right one was scored low."""
    if problem and verdict.get("by") == "judge":
        settled = settle(chain.answer, problem)
        if settled is not None and verdict["correct"] is not None and settled != verdict["correct"]:
            return "rule"
    value = score.get("value")
    return "score" if verdict.get("correct") and value is not None and value < DOUBTFUL_SCORE else ""


def _add_uses(database: sqlite3.Connection, folder: Path) -> None:
    """What entered a data set, in which part and role, and what did not and why."""
    stage = folder.name
    rejected = _rows(folder / "rejections.jsonl")
    rows = ((stage, row.get("chain_id", ""), row["problem_id"], "", row["reason"], str(row.get("detail", ""))) for row in rejected)
    database.executemany("INSERT INTO uses VALUES(?, ?, ?, ?, ?, ?)", rows)
    if (folder / "manifest.jsonl").is_file():
        for row in _rows(folder / "manifest.jsonl"):
            chains = row.get("chains") or {}
            entered = [(stage, chain["chain_id"], row["problem_id"], role, "", row["part"]) for role, chain in chains.items()]
            database.executemany("INSERT INTO uses VALUES(?, ?, ?, ?, ?, ?)", entered or [(stage, "", row["problem_id"], "plain", "", row["part"])])
            if {"chosen", "rejected"} <= chains.keys():
                scores: list[int | None] = [(chains[role].get("score") or {}).get("value") for role in ("chosen", "rejected")]
                margin = scores[0] - scores[1] if scores[0] is not None and scores[1] is not None else None
                pair = (stage, row["problem_id"], chains["chosen"]["chain_id"], chains["rejected"]["chain_id"], row["part"], margin)
                database.execute("INSERT INTO pairs(stage, problem, chosen, rejected, part, margin) VALUES(?, ?, ?, ?, ?, ?)", pair)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with explained(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                raise UserError(f"{path}:{number}: not JSON; make the stage again") from None
