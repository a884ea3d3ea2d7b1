"""Verdicts and scores from a scripted judge and scorer over HTTP, and their agreement with a known truth."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from insightv.config import AssessConfig
from insightv.generation.assess import agreement, scores, verdict
from insightv.records import Chain, Problem, Score, Step, Verdict

PROBLEM = Problem(id="p", question="Where?", answers=("in Paris",), answer_type="text")


def chain(name: str, answer: str = "x", **changes: Any) -> Chain:
    step = Step(summary="S", reasoning=f"seen by {name}", action="summary")
    return Chain(id=name, problem_id="p", model="m", mode="progressive", index=0, steps=(step,), answer=answer).model_copy(update=changes)


def judged(scripted: Any, answer: Chain, script: Callable[[Any], str | int], settings: AssessConfig | None = None) -> Verdict:
    async def go() -> Verdict:
        async with scripted(script) as judge:
            return await verdict(PROBLEM, answer, judge, settings or AssessConfig(), 3)

    return asyncio.run(go())


def never(body: Any) -> str:
    raise AssertionError("the judge was asked")


def says(word: str) -> Callable[[Any], str]:
    return lambda body: json.dumps({"reason": "because", "verdict": word})


def test_rules_settle_without_the_judge(scripted: Any) -> None:
    assert judged(scripted, chain("a", "In Paris."), never) == Verdict(chain_id="a", problem_id="p", correct=True, by="rule")
    assert judged(scripted, chain("a", ""), never).correct is False
    assert judged(scripted, chain("a", "Lyon"), never, AssessConfig(rules_only=True)).correct is False


def test_the_judge_settles_what_rules_leave_open(scripted: Any) -> None:
    right = judged(scripted, chain("a", "the French capital"), says("correct"))
    assert (right.correct, right.by, right.reason) == (True, "judge", "because")
    assert judged(scripted, chain("a", "Lyon"), says("incorrect")).correct is False


def test_a_judge_that_fails_or_rambles_gives_no_verdict(scripted: Any) -> None:
    failed = judged(scripted, chain("a", "Lyon"), lambda body: 400)
    assert (failed.correct, failed.by) == (None, "none")
    assert "400" in failed.reason
    asked = []
    rambling = judged(scripted, chain("a", "Lyon"), lambda body: asked.append(body["seed"]) or "well ..")
    assert (rambling.correct, len(set(asked))) == (None, 3)
    assert "no JSON object" in rambling.reason


def test_a_failed_chain_is_never_wrong(scripted: Any) -> None:
    assert judged(scripted, chain("a", "", status="failed", reason="gone"), never).correct is None


def shown(body: Any) -> list[str]:
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return re.findall(r"seen by (\w+)", text)


def scored(scripted: Any, chains: list[Chain], script: Callable[[Any], str | int], seed: int = 0) -> list[Score]:
    async def go() -> list[Score]:
        async with scripted(script) as scorer:
            return await scores(PROBLEM, chains, scorer, AssessConfig(), seed)

    return asyncio.run(go())


CHAINS = [chain(name) for name in "abcde"]


def honest(body: Any, skip: str = "") -> str:
    entries = [{"path": i, "reason": name, "score": 10 * (ord(name) - 96)} for i, name in enumerate(shown(body), 1) if name not in skip]
    return json.dumps({"scores": entries})


def test_one_shuffled_request_scores_all_and_each_gets_its_own(scripted: Any) -> None:
    orders = []
    for seed in range(6):
        result = scored(scripted, CHAINS, lambda body: orders.append(shown(body)) or honest(body), seed)
        assert [(score.chain_id, score.value, score.reason) for score in result] == [(c.id, 10 * (i + 1), c.id) for i, c in enumerate(CHAINS)]
        assert [orders[-1][score.position] for score in result] == list("abcde")
    assert len(orders) == 6
    assert len({tuple(order) for order in orders}) > 3
    assert scored(scripted, CHAINS[::-1], lambda body: orders.append(shown(body)) or honest(body), 5)[::-1] == result


def test_a_score_left_out_is_asked_for_again_with_all_paths(scripted: Any) -> None:
    asked = []
    result = scored(scripted, CHAINS, lambda body: asked.append(shown(body)) or honest(body, "c" if len(asked) == 1 else ""))
    assert [score.value for score in result] == [10, 20, 30, 40, 50]
    assert [len(names) for names in asked] == [5, 5]


def test_scores_that_never_come_are_none_beside_those_that_came(scripted: Any) -> None:
    result = scored(scripted, CHAINS, lambda body: honest(body, "bd"))
    assert [score.value for score in result] == [10, None, 30, None, 50]
    assert "no score" in result[1].reason
    assert {score.value for score in scored(scripted, CHAINS, lambda body: 400)} == {None}
    assert scored(scripted, [], never) == []


def test_agreement_counts_by_hand() -> None:
    known = [(True, 90, True, 1.0), (True, 50, True, 0.2), (True, 70, False, 0.5), (False, None, True, 0.1), (False, None, False, 0.0), (None, None, True, 1.0)]
    figures = agreement(known)
    assert (figures["judged"], figures["unjudged"], figures["scored"]) == (5, 1, 3)
    assert figures["precision"] == figures["recall"] == pytest.approx(2 / 3)
    assert figures["spearman"] == pytest.approx(1.0)
    assert agreement([])["spearman"] is None
