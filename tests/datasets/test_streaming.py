"""What streams, by keys of a few bytes, against the same choices made the plain way, over lists and dicts in memory."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import orjson
import pytest

from insightv.chain_text import process_text
from insightv.config import PreferenceDataConfig, PromptsConfig, SummaryDataConfig, UserError
from insightv.datasets import lean, preference, summary
from insightv.datasets.pairs import pairs_of
from insightv.datasets.rows import Candidate, Made, Rated
from insightv.datasets.shares import divide
from insightv.records import Chain, Problem, Score, Verdict
from insightv.store import content_hash, derive_seed, read_records, write_records

PROMPTS = PromptsConfig()
Chosen = set[tuple[str, ...]]


@pytest.fixture
def filled(make_pool: Callable[[], Any]) -> Callable[..., Any]:
    """A pool of random chains of every kind, several of a problem, some of them twice."""

    def fill(seed: int, **more: Any) -> Any:
        draw, pool = Random(seed), make_pool()
        for _ in range(60):
            problem = pool.problem(family=draw.choice("abbccccc"), seed=seed, **more)
            for _ in range(draw.randrange(7)):
                said = draw.choice([*[f"{draw.random()} " + "word " * draw.randint(10, 15)] * 4, "the same"])
                status, defects = draw.choice([*[("ok", ())] * 6, ("ok", ("retried",)), ("defect", ("truncated",)), ("failed", ())])
                correct = None if status == "failed" else draw.choice([True, True, False, None])
                score = draw.choice([None, draw.randint(1, 100), draw.randint(60, 100)]) if correct and status == "ok" else None
                name = content_hash([seed, len(pool.chains)])
                pool.chain(problem, correct, score, text=said, id=name, status=status, defects=defects, reason=draw.choice(["", "why"]))
        return pool

    return fill


def rejected(made: Iterable[Made]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    found = list(made)
    return [row for rows, _ in found for row in rows], {item["chain_id"]: item["reason"] for _, items in found for item in items if "chain_id" in item}


def used(rows: Iterable[dict[str, Any]]) -> Chosen:
    return {(row["part"], *([side["chain_id"] for _, side in sorted(row["trace"].items())] or [row["problem_id"]])) for row in rows}


def spread(candidates: list[Candidate], seed: int, name: str) -> list[Candidate]:
    shuffled = sorted(candidates, key=lambda candidate: derive_seed(seed, name, candidate.chain.id))
    turns: defaultdict[str, int] = defaultdict(int)
    ranked = []
    for place, candidate in enumerate(shuffled):
        ranked.append((turns[candidate.problem.id], place, candidate))
        turns[candidate.problem.id] += 1
    return [candidate for *_, candidate in sorted(ranked, key=lambda item: item[:2])]


def distinct(rated: Rated) -> list[Candidate]:
    kept, said = [], set()
    for problem, candidates in rated:
        for one in candidates:
            text = problem.id, process_text(one.chain)
            kept += [one] if text not in said or one.chain.status == "failed" else []
            said.add(text)
    return kept


@pytest.mark.parametrize(("seed", "size"), [(0, None), (1, 40), (2, 130), (3, 1000)])
def test_the_summary_set_is_what_shuffled_lists_give(filled: Any, seed: int, size: int | None) -> None:
    teacher, own, plain = filled(seed), filled(seed + 10, own=True), filled(seed + 20, plain=True)
    settings = SummaryDataConfig(size=size)
    made, told = summary.build(teacher.rated, own.rated, lambda: iter(plain.problems), settings, PROMPTS, seed=seed)
    rows, reasons = rejected(made)

    strata: defaultdict[str, list[Candidate]] = defaultdict(list)
    for one in distinct(teacher.rated):
        if one.chain.status == "ok" and (one.correct is False or one.value is not None):
            value = one.value or 0
            strata["wrong" if not one.correct else "optimal" if value >= 70 else "low" if value < 40 else "mid"].append(one)
    flawed = [spread(strata[name], seed, name) for name in ("mid", "low", "wrong")]
    dealt = [pool[turn] for turn in range(max(map(len, flawed))) for pool in flawed if turn < len(pool)]
    of_own = [one for one in distinct(own.rated) if one.chain.status == "defect" or (one.chain.status == "ok" and one.correct is not None)]
    pools = {"optimal": spread(strata["optimal"], seed, "optimal"), "flawed": dealt, "own": spread(of_own, seed, "own")}
    questions = sorted((problem.id for problem in plain.problems), key=lambda name: derive_seed(seed, "plain", name))
    counts = {part: told["parts"][part]["rows"] for part in ("optimal", "flawed", "own", "plain")}
    expected = {(part, one.chain.id) for part, pool in pools.items() for one in pool[: counts[part]]}
    assert used(rows) == expected | {("plain", name) for name in questions[: counts["plain"]]}
    spare = {one.chain.id for part, pool in pools.items() for one in pool[counts[part] :]}
    assert {name for name, reason in reasons.items() if reason == "not_needed"} == spare
    everything = {chain.id for pool in (teacher, own) for chain in pool.chains}
    assert reasons.keys() == everything - {name for _, name in expected}
    assert told["parts"]["flawed"]["available"] == len(dealt) and sum(counts.values()) == len(rows)


@pytest.mark.parametrize(("seed", "limit", "truncated"), [(0, None, 1.0), (1, None, 0.1), (2, 25, 0.1), (3, 12, 0.5), (4, 40, 0.0)])
def test_pairs_are_what_balanced_lists_give(filled: Any, seed: int, limit: int | None, truncated: float) -> None:
    pool = filled(seed)
    settings = PreferenceDataConfig(max_pairs=limit, max_truncated=truncated, score_margin=10)
    made, told = preference.build(pool.rated, settings, PROMPTS, seed=seed)
    rows, reasons = rejected(made)

    pairs = [pair for _, candidates in pool.rated for pair, reason in pairs_of(candidates, settings, seed) if not reason]
    expected: Chosen = set()
    for run_on in (False, True):
        families: defaultdict[str, list[Any]] = defaultdict(list)
        turns: defaultdict[str, int] = defaultdict(int)
        for pair in (pair for pair in pairs if pair.run_on == run_on):
            problem = pair.chosen.problem
            families[problem.meta["family"]].append((turns[problem.id], derive_seed(seed, *pair.sides), pair))
            turns[problem.id] += 1
        total = told["run_on"] if run_on else told["rows"] - told["run_on"]
        counts = divide(total, dict.fromkeys(sorted(families), 1.0), {name: len(group) for name, group in families.items()})
        for name, group in families.items():
            expected |= {(pair.rule, *pair.sides) for *_, pair in sorted(group, key=lambda item: item[:2])[: counts[name]]}
    assert used(rows) == expected and len(rows) == told["rows"] > 10
    assert told["families"] == dict(Counter(problem.meta["family"] for row in rows for problem in pool.problems if problem.id == row["problem_id"]))
    assert told["rules"] == dict(Counter(row["part"] for row in rows)) and told["problems"] == len({row["problem_id"] for row in rows})
    assert reasons.keys() == {chain.id for chain in pool.chains} - {side for _, *sides in expected for side in sides}
    spare = {side for pair in pairs for side in pair.sides} & reasons.keys()
    assert {name for name, reason in reasons.items() if reason == ("max_pairs" if limit else "max_truncated")} == spare


def test_records_out_of_order_are_one_clear_line(filled: Any) -> None:
    pool = filled(0)
    ordered = pool.rated
    backwards = {name: lambda name=name: reversed(list(getattr(ordered, name)())) for name in ("problems", "chains", "verdicts", "scores")}
    for name, read in backwards.items():
        with pytest.raises(UserError, match="must be sorted by"):
            list(Rated(**{field: read if field == name else getattr(ordered, field) for field in backwards}))


def test_structs_have_the_fields_of_records(filled: Any, tmp_path: Path) -> None:
    pool = filled(0, deep={"list": [1, 2.5, None, {"x": "ü"}]})
    for kind, records in ((Problem, pool.problems), (Chain, pool.chains), (Verdict, pool.verdicts), (Score, pool.scores)):
        path = tmp_path / kind.__name__
        write_records(path, records)
        structs = list(lean.read(path, kind))
        assert [msgspec.to_builtins(struct) for struct in structs] == [record.model_dump() for record in records]
        assert b"".join(map(lean.line, structs)) == path.read_bytes()
        # What need not be written has the same value by default.
        least = {name: getattr(records[0], name) for name, field in kind.model_fields.items() if field.is_required()}
        path.write_bytes(orjson.dumps(least) + b"\n")
        assert [msgspec.to_builtins(struct) for struct in lean.read(path, kind)] == [kind(**least).model_dump()]


@pytest.mark.parametrize(
    "wrong", [b"{", b"[]", b'{"chain_id": 1}', b'{"chain_id": "a", "problem_id": "b", "value": 1, "more": 2}', b'{"chain_id": "a"}', b"\xff"]
)
def test_a_broken_line_is_named(tmp_path: Path, wrong: bytes) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_bytes(b'{"chain_id": "a", "problem_id": "b", "value": null}\n' + wrong + b"\n")
    for read in (lean.read, read_records):
        with pytest.raises(UserError, match=r"scores\.jsonl:2: not a Score: "):
            list(read(path, Score))
        with pytest.raises(UserError, match="no score records at"):
            list(read(tmp_path / "missing", Score))


def test_records_of_other_problems_are_passed_over(filled: Any) -> None:
    pool = filled(0)
    everything = {problem.id: [one.chain.id for one in candidates] for problem, candidates in pool.rated}
    del pool.problems[::3]
    some = {problem.id: [one.chain.id for one in candidates] for problem, candidates in pool.rated}
    assert some == {problem.id: everything[problem.id] for problem in pool.problems}
