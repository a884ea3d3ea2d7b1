"""Questions to the index: chains by filters and words, a problem with all that belongs to it, pairs, figures for plots."""

import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from insightv.records import Correction

PAGE = 50
"""Rows of a page."""

Json = dict[str, Any]
Sort = Literal["order", "score", "score-up", "words", "words-up"]
_BY = {"order": ("n", ""), "score": ("score", "DESC"), "score-up": ("score", ""), "words": ("words", "DESC"), "words-up": ("words", "")}
_SHOWN = "n, id, stage, problem, position, family, status, verdict, judge, score, steps, words, doubt"
_BIN = 10


class Filters(BaseModel):
    """Which chains; what is left out restricts nothing. As a link's query it can be shared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = "generate"
    family: str | None = None
    verdict: Literal["right", "wrong", "open", "none"] | None = None
    low: int | None = Field(None, ge=0, le=100)
    """Score at least."""
    high: int | None = Field(None, ge=0, le=100)
    """Score at most."""
    defect: str | None = None
    doubt: Literal["any", "rule", "score"] | None = None
    """Who sees the chain differently than its verdict."""
    entered: str | None = None
    """A data set that it is in."""
    hand: Literal["any"] | None = None
    """Only those of which somebody said something by hand."""
    words: str | None = Field(None, max_length=200)
    """All of these stand in question, steps or reasons; in quotes, next to each other."""
    sort: Sort = "order"

    @field_validator("words")
    @classmethod
    def _holds_words(cls, words: str | None) -> str | None:
        if words and not _words(words):
            raise ValueError("there is no word in what is searched for")
        return words


class Viewer:
    """The index of one run, opened anew for each question: it may have been replaced meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counted: dict[tuple[str, int], Json] = {}
        """What is counted over all chains, by its name and the index's time."""

    def chains(self, filters: Filters, after: list[int | None] | None = None, at: str = "", hand: Collection[str] = ()) -> Json:
        """A page of chains, where the next one begins (None at the end), and how many there are in all.

        It begins after a place, or at the chain `at`. `hand` are the chains of which somebody said something.
        """
        where, values = _where(filters, hand)
        column, order = _BY[filters.sort]
        with self._open() as database:
            if begin := database.execute(f"SELECT {column}, n FROM chains WHERE id = ? AND stage = ?", (at, filters.stage)).fetchone():
                after = [begin[0], begin["n"] - 1]
            total = database.execute(f"SELECT count(*) FROM chains WHERE {where}", values).fetchone()[0]
            beyond, place = _after(column, order, after)
            query = f"SELECT {_SHOWN} FROM chains WHERE {where}{beyond} ORDER BY {column} {order}{', n' if column != 'n' else ''} LIMIT {PAGE + 1}"
            rows = [dict(row) for row in database.execute(query, (*values, *place))]
            for row in rows[:PAGE]:
                chain = orjson.loads(database.execute("SELECT chain FROM records WHERE n = ?", (row["n"],)).fetchone()[0])
                row |= {"answer": chain["answer"], "defects": chain["defects"], "titles": [step["summary"] for step in chain["steps"]]}
        last = rows[PAGE - 1] if len(rows) > PAGE else None
        return {"total": total, "rows": rows[:PAGE], "next": last and [last[column], last["n"]]}

    def export(self, filters: Filters, hand: Mapping[str, Correction] | None = None) -> Iterator[bytes]:
        """Every chain of a selection with its problem, its judgements and what was said `hand`, in the order chosen, a JSON line each."""
        where, values = _where(filters, hand or {})
        column, order = _BY[filters.sort]
        joined = "chains JOIN records r USING (n) LEFT JOIN problems p ON p.id = chains.problem"
        with self._open() as database:
            shown = "chains.id, p.record, r.chain, r.judged, r.rated"
            query = f"SELECT {shown} FROM {joined} WHERE {where} ORDER BY chains.{column} {order}, n"
            for name, *texts in database.execute(query, values):
                said = (hand or {}).get(name)
                row = {part: text and orjson.loads(text) for part, text in zip(("problem", "chain", "verdict", "score"), texts, strict=True)}
                yield orjson.dumps(row | {"hand": said and said.model_dump()}) + b"\n"

    def problem(self, name: str) -> Json | None:
        """A problem, its chains with verdicts and scores, what entered which data set and why not, and its pairs."""
        with self._open() as database:
            found = database.execute("SELECT split, family, record FROM problems WHERE id = ?", (name,)).fetchone()
            if not found:
                return None
            query = f"SELECT {_SHOWN}, r.chain, r.judged, r.rated FROM chains JOIN records r USING (n) WHERE problem = ? ORDER BY n"
            chains = [dict(row) for row in database.execute(query, (name,))]
            for row in chains:
                row |= {part: orjson.loads(row[part]) if row[part] else None for part in ("chain", "judged", "rated")}
            uses = [dict(row) for row in database.execute("SELECT * FROM uses WHERE problem = ?", (name,))]
            pairs = [dict(row) for row in database.execute("SELECT * FROM pairs WHERE problem = ?", (name,))]
        return {"split": found["split"], "family": found["family"], "problem": orjson.loads(found["record"]), "chains": chains, "uses": uses, "pairs": pairs}

    def pairs(self, stage: str, after: int = 0) -> Json:
        """A page of a round's preference pairs."""
        with self._open() as database:
            total = database.execute("SELECT count(*) FROM pairs WHERE stage = ?", (stage,)).fetchone()[0]
            question = "(SELECT json_extract(CAST(record AS TEXT), '$.question') FROM problems WHERE id = problem) AS question"
            query = f"SELECT *, {question} FROM pairs WHERE stage = ? AND n > ? ORDER BY n LIMIT {PAGE + 1}"
            rows = [dict(row) for row in database.execute(query, (stage, after))]
        return {"total": total, "rows": rows[:PAGE], "next": rows[PAGE - 1]["n"] if len(rows) > PAGE else None}

    def facets(self) -> Json:
        """What there is to choose from: by stage the families, verdicts, defects and doubts with their numbers; data sets; rounds of pairs."""
        return self._once("facets", self._facets)

    def plots(self, stage: str) -> Json:
        """Numbers of a stage's chains by score and by length in words, in bins of ten, right ones and others apart; margins of its pairs."""
        # What there is not is not kept, so that names at will do not fill the memory.
        return self._once(f"plots {stage}", lambda: self._plots(stage)) if stage in self.facets()["stages"] else self._plots(stage)

    def _once(self, name: str, count: Callable[[], Json]) -> Json:
        key = name, self._path.stat().st_mtime_ns
        if key not in self._counted:
            self._counted = {known: found for known, found in self._counted.items() if known[1] == key[1]} | {key: count()}
        return self._counted[key]

    def _facets(self) -> Json:
        with self._open() as database:
            stages: dict[str, Json] = {}
            for stage, count in database.execute("SELECT stage, count(*) FROM chains GROUP BY stage ORDER BY min(n)"):
                stages[stage] = {"chains": count}
                for name in ("family", "verdict", "doubt"):
                    query = f"SELECT {name}, count(*) FROM chains WHERE stage = ? GROUP BY {name} ORDER BY 2 DESC"
                    stages[stage][name] = dict(tuple(row) for row in database.execute(query, (stage,)))
                query = "SELECT name, count(*) FROM defects WHERE stage = ? GROUP BY name ORDER BY 2 DESC"
                stages[stage]["defect"] = dict(tuple(row) for row in database.execute(query, (stage,)))
            sets: dict[str, Json] = {}
            for stage, reason, count in database.execute("SELECT stage, reason, count(*) FROM uses GROUP BY 1, 2 ORDER BY 3 DESC"):
                sets.setdefault(stage, {})[reason or "entered"] = count
            pairs = dict(tuple(row) for row in database.execute("SELECT stage, count(*) FROM pairs GROUP BY stage"))
        return {"stages": stages, "sets": sets, "pairs": pairs}

    def _plots(self, stage: str) -> Json:
        with self._open() as database:

            def binned(column: str) -> list[list[int]]:
                query = f"SELECT {column} / {_BIN} * {_BIN}, sum(verdict = 'right'), sum(verdict != 'right') FROM chains"
                return [list(row) for row in database.execute(f"{query} WHERE stage = ? AND {column} IS NOT NULL GROUP BY 1 ORDER BY 1", (stage,))]

            margins = "SELECT margin / 10 * 10, count(*) FROM pairs WHERE stage = ? AND margin IS NOT NULL GROUP BY 1 ORDER BY 1"
            rounds = stage.replace("-chains", "-data")
            return {"scores": binned("score"), "words": binned("words"), "margins": [list(row) for row in database.execute(margins, (rounds,))]}

    def has_chain(self, name: str, problem: str) -> bool:
        """Whether the run has this chain of this problem."""
        with self._open() as database:
            return database.execute("SELECT 1 FROM chains WHERE id = ? AND problem = ?", (name, problem)).fetchone() is not None

    def has_image(self, name: str) -> bool:
        """Whether a problem of the run has this image."""
        with self._open() as database:
            return database.execute("SELECT 1 FROM images WHERE digest = ?", (name,)).fetchone() is not None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # A server takes the lines of an export in whichever thread is free, one after the other.
        with closing(sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)) as database:
            database.row_factory = sqlite3.Row
            yield database


def _where(filters: Filters, hand: Collection[str]) -> tuple[str, list[Any]]:
    """The condition of a selection, and its values."""
    terms: list[str] = ["chains.stage = ?"]
    values: list[Any] = [filters.stage]
    for condition, value in (
        ("chains.family = ?", filters.family),
        ("verdict = ?", "" if filters.verdict == "none" else filters.verdict),
        ("score >= ?", filters.low),
        ("score <= ?", filters.high),
        ("n IN (SELECT n FROM defects WHERE name = ?)", filters.defect),
        ("chains.id IN (SELECT value FROM json_each(?))", orjson.dumps(list(hand)).decode() if filters.hand else None),
        ("doubt = ?", filters.doubt if filters.doubt != "any" else None),
        ("chains.id IN (SELECT chain FROM uses WHERE stage = ? AND reason = '')", filters.entered),
    ):
        if value is not None:
            terms.append(condition)
            values.append(value)
    if filters.doubt == "any":
        terms.append("doubt != ''")
    if matched := _words(filters.words or ""):
        terms.append("n IN (SELECT rowid FROM texts WHERE texts MATCH ?)")
        values.append(matched)
    return " AND ".join(terms), values


def _words(text: str) -> str:
    """Words and phrases in quotes as a query that has no other syntax: nothing in it can be mistaken, or mean more than it says."""
    found = [quoted or word for quoted, word in re.findall(r'"([^"]+)"|([^\s"]+)', text.replace("\0", " "))]
    return " ".join('"' + part.replace('"', "") + '"' for part in found if re.search(r"\w", part))


def _after(column: str, order: str, after: list[int | None] | None) -> tuple[str, list[Any]]:
    """What lies behind a place in the order; chains without a score come first going up and last going down, as SQLite has it."""
    if not after:
        return "", []
    value, n = after
    if column == "n":
        return " AND n > ?", [n]
    if value is None:
        return (f" AND {column} IS NULL AND n > ?", [n]) if order else (f" AND ({column} IS NOT NULL OR n > ?)", [n])
    if order:
        return f" AND ({column} < ? OR {column} IS NULL OR ({column} = ? AND n > ?))", [value, value, n]
    return f" AND ({column} > ? OR ({column} = ? AND n > ?))", [value, value, n]
