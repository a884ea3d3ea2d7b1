"""Verdicts and scores from a scripted judge and scorer over HTTP, and their agreement with a known truth."""

import asyncio
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from insightv.config import AssessConfig
from insightv.generation.assess import agreement, mean, rate, scores, verdict, verdicts
from insightv.models.chat import Reply
from insightv.prompts import rating_messages
from insightv.records import Chain, Problem, Score, Step, Verdict
from insightv.store import derive_seed

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


def test_equal_answers_are_judged_once_and_different_ones_side_by_side(scripted: Any) -> None:
    asked: list[str] = []
    chains = [chain("a", "Lyon"), chain("b", "the capital"), chain("c", "Lyon"), chain("d", "In Paris"), chain("e", "Lyon", status="failed", reason="gone")]

    def script(body: Any) -> str:
        asked.append(json.loads(body["messages"][-1]["content"])["answer"])
        return json.dumps({"reason": asked[-1], "verdict": "correct" if asked[-1] != "Lyon" else "incorrect"})

    async def go() -> tuple[list[Verdict], list[Verdict]]:
        async with scripted(script) as judge:
            together = await verdicts(PROBLEM, chains, judge, AssessConfig(), 3)
            count = sorted(asked)
            assert count == ["Lyon", "the capital"]
            return together, [await verdict(PROBLEM, each, judge, AssessConfig(), 3) for each in chains]

    together, alone = asyncio.run(go())
    assert together == alone
    assert [(found.chain_id, found.correct, found.by) for found in together] == [
        ("a", False, "judge"),
        ("b", True, "judge"),
        ("c", False, "judge"),
        ("d", True, "rule"),
        ("e", None, "none"),
    ]


def test_different_answers_are_in_flight_together() -> None:
    class Waiting:
        """A judge that answers nobody before it was asked twice."""

        identity = "waiting"

        def __init__(self) -> None:
            self.both, self.asked = asyncio.Event(), 0

        async def complete(self, messages: Any, sampling: Any) -> list[Reply]:
            self.asked += 1
            if self.asked == 2:
                self.both.set()
            await asyncio.wait_for(self.both.wait(), 5)
            return [Reply(says("correct")(None))]  # type: ignore[arg-type]

    async def go() -> list[Verdict]:
        judge: Any = Waiting()
        return await verdicts(PROBLEM, [chain("a", "Lyon"), chain("b", "Nice")], judge, AssessConfig(), 3)

    assert [found.correct for found in asyncio.run(go())] == [True, True]


def rated(scripted: Any, chains: list[Chain], script: Callable[[Any], str | int], settings: AssessConfig, seed: int = 0) -> list[list[Score]]:
    async def go() -> list[list[Score]]:
        async with scripted(script) as scorer:
            return await rate(PROBLEM, chains, scorer, settings, seed)

    return asyncio.run(go())


def test_one_shuffle_asks_what_was_always_asked(scripted: Any) -> None:
    asked: list[tuple[int, list[str]]] = []
    rated(scripted, CHAINS, lambda body: asked.append((body["seed"], shown(body))) or honest(body), AssessConfig(), 7)
    order = list("abcde")
    Random(derive_seed(7, "p", "order")).shuffle(order)
    # The endpoint draws a request's seed from that of its sampling and the index.
    assert asked == [(derive_seed(derive_seed(7, "p", "scores", order, 0), 0), order)]


def test_several_shuffles_show_several_orders_and_the_score_is_their_mean(scripted: Any) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []

    def script(body: Any) -> str:
        names = shown(body)
        asked.append((body["seed"], tuple(names)))
        # A scorer that likes what stands first.
        return json.dumps({"scores": [{"path": i, "reason": "r", "score": 50 - i} for i in range(1, len(names) + 1)]})

    ratings = rated(scripted, CHAINS, script, AssessConfig(shuffles=4))
    assert len({order for _, order in asked}) == len({seed for seed, _ in asked}) == len(ratings) == 4
    for place, each in enumerate(CHAINS):
        total = sum(order[place].value or 0 for order in ratings)
        assert mean(ratings)[place].value == int(total / 4 + 0.5)
        assert all(order[place].value == 49 - order[place].position for order in ratings)
        assert mean(ratings)[place].chain_id == each.id
    asked.clear()
    rated(scripted, CHAINS[:2], script, AssessConfig(shuffles=3))
    assert len({order for _, order in asked}) == 2
    assert len({seed for seed, _ in asked}) == 3


def test_a_mean_is_of_what_came_and_rounds_half_up() -> None:
    def one(*values: int | None) -> list[Score]:
        return [Score(chain_id=str(i), problem_id="p", value=value, reason=str(value), position=i) for i, value in enumerate(values)]

    assert [score.value for score in mean([one(50, None, None, 1), one(51, 70, None, 2), one(50, 71, None, 2)])] == [50, 71, None, 2]
    assert mean([one(None), one(7)])[0].reason == "7"
    single = one(3, None, 9)
    assert mean([single]) == single


def test_more_paths_than_fit_are_scored_in_even_groups(scripted: Any) -> None:
    asked: list[list[str]] = []
    chains = [chain(name) for name in "abcdefg"]
    ratings = rated(scripted, chains, lambda body: asked.append(shown(body)) or honest(body), AssessConfig(shuffles=2, paths_per_request=3))
    assert sorted(len(names) for names in asked) == [2, 2, 2, 2, 3, 3]
    assert [[score.value for score in order] for order in ratings] == [[10, 20, 30, 40, 50, 60, 70]] * 2
    assert {score.position for score in ratings[0]} == {0, 1, 2}


def test_agreement_counts_by_hand() -> None:
    known = [(True, 90, True, 1.0), (True, 50, True, 0.2), (True, 70, False, 0.5), (False, None, True, 0.1), (False, None, False, 0.0), (None, None, True, 1.0)]
    figures = agreement(known)
    assert (figures["judged"], figures["unjudged"], figures["scored"]) == (5, 1, 3)
    assert figures["precision"] == figures["recall"] == pytest.approx(2 / 3)
    assert figures["spearman"] == pytest.approx(1.0)
    assert agreement([])["spearman"] is None


def test_scores_can_be_asked_for_without_the_ground_truth(scripted: Any) -> None:
    texts: list[str] = []

    def script(body: Any) -> str:
        texts.append(json.dumps(body["messages"]))
        return honest(body)

    async def go() -> list[list[Score]]:
        async with scripted(script) as scorer:
            told = await rate(PROBLEM, CHAINS, scorer, AssessConfig(), 3)
            return [told[0], (await rate(PROBLEM, CHAINS, scorer, AssessConfig(), 3, rating_messages))[0]]

    told, untold = asyncio.run(go())
    assert told == untold and [score.value for score in untold] == [10, 20, 30, 40, 50]
    assert ["in Paris" in text for text in texts] == [True, False]
