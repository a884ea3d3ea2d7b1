"""A check before a run, against a server over loopback that follows a script: it is honest about what works and what the run will take."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from insightv import cli, loop, preflight
from insightv.answers import correct, extract
from insightv.config import Config
from insightv.config_file import load_config
from insightv.datasets.sources import write_problems
from insightv.images import encode_png
from insightv.prompts import CONCLUDE, GENERATOR, JUDGE, SCORER
from insightv.records import Problem
from insightv.store import Run

SMALL = Path(__file__).parent / "small.yaml"
Fault = tuple[int, str]
ROLES = ("generator", "judge", "scorer")
USAGE = {"generator": (500, 50), "judge": (200, 20), "scorer": (1000, 0), "probe": (7, 7)}
"""Tokens (in, out) of a request; the scorer's grow by (100, 10) with each path."""


class Scripted:
    """What the server says, and what it was asked: `asked` counts requests by role, `faults` holds the roles that are refused, `lacks` fields."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.faults: dict[str, Fault] = {}
        self.lacks: set[str] = set()
        self.seconds = 0.0
        self.reports = True
        self.most_paths = 100
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        role, text = self._role(body), json.dumps(body)
        self.asked[role] += 1
        self.bodies.append((role, body))
        for field in self.lacks & body.keys():
            return 400, {"error": {"message": f"no {field}"}}
        if role in self.faults:
            return self.faults[role][0], {"error": {"message": self.faults[role][1]}}
        paths = text.count("PATH ") if role == "scorer" else 0
        read, written = USAGE[role]
        if paths > self.most_paths:
            return 400, {"error": {"message": "too long"}}
        time.sleep(self.seconds)
        usage = {"prompt_tokens": read + 100 * paths, "completion_tokens": written + 10 * paths}
        message = {"role": "assistant", "content": json.dumps(self._say(role, body, paths))}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage if self.reports else None}

    def _role(self, body: dict[str, Any]) -> str:
        first = body["messages"][0]
        known = {GENERATOR: "generator", JUDGE: "judge", SCORER: "scorer"}
        return known.get(str(first["content"]).split("\n")[0], "probe") if first["role"] == "system" else "probe"

    def _say(self, role: str, body: dict[str, Any], paths: int) -> dict[str, Any]:
        """Two steps and a conclusion, a verdict, a score for each path."""
        if role == "judge":
            return {"reason": "it says so", "verdict": "correct"}
        if role == "scorer":
            return {"scores": [{"path": path, "reason": "fine", "score": 70 + path} for path in range(1, paths + 1)]}
        if role == "generator" and CONCLUDE not in json.dumps(body["messages"][-1]):
            steps = sum(message["role"] == "assistant" for message in body["messages"])
            return {"summary": f"Step {steps}", "reasoning": f"Part {steps} is red.", "action": "summary" if steps else "continue"}
        return {"summary": "It is red.", "answer": "3"}


@pytest.fixture
def script() -> Iterator[Scripted]:
    """A scripted server that runs in this process."""
    scripted = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "teacher"}]})

        def do_POST(self) -> None:
            self._send(*scripted.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        scripted.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield scripted
        server.shutdown()
        thread.join()


Check = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def checked(script: Scripted, tmp_path: Path) -> Check:
    """Check a run of 10 training problems against the script, with settings on top; gives the facts by role."""
    run = Run(tmp_path / "run")
    image = run.images.add(encode_png(PIL.Image.new("RGB", (8, 8), "red")))
    (run.folder / "problems").mkdir()
    for split, count in (("train", 10), ("own", 6), ("preference", 4)):
        problems = [Problem(id=f"{split}{i}", question="How many?", images=(image,), answers=("3",), answer_type="number") for i in range(count)]
        write_problems(run.folder / "problems" / f"{split}.jsonl", problems)
    first = Problem(id="train0", question="How many?", images=(image,), answers=("3",), answer_type="number")

    def check(**settings: Any) -> dict[str, dict[str, Any]]:
        endpoint = {"url": script.url, "revision": "1", "concurrency": 2, "retries": 0, "max_outage": 0.3}
        models = {role: endpoint | settings.pop(role, {}) for role in ROLES}
        config = Config.model_validate({"run": str(run.folder), "models": models, "generate": {"n": 2}} | settings)
        return {str(row["role"]): row for row in preflight.check(config, run, first, 10)}

    return check


def journalled(run: Path) -> list[Path]:
    return list((run / "journal").glob("*.sqlite"))


def test_a_check_leaves_nothing_to_the_run_and_takes_nothing_from_an_earlier_one(script: Scripted, checked: Check, tmp_path: Path) -> None:
    script.faults["generator"] = (400, "no such engine")
    assert not checked()["generator"]["ready"]
    assert journalled(tmp_path / "run") == []
    # Mended, the same question is asked anew, and a second check costs and tells what the first did.
    script.faults.clear()
    for _ in range(2):
        script.asked.clear()
        facts = checked(generator={"price_in": 10})
        assert script.asked["generator"] == 3 and facts["generator"]["it took"].startswith("3 requests, 1500/150 tokens, ")
        assert facts["generator"]["one item"].startswith("ok") and facts["generator"]["cost"] == pytest.approx(20 * 1500 * 10 / 1e6)


def test_the_judge_is_asked_what_no_rule_can_settle(script: Scripted, checked: Check) -> None:
    facts = checked()
    assert script.asked["judge"] == 1 and facts["judge"]["it took"].startswith("1 request, 200/20 tokens, ")
    [body] = [body for role, body in script.bodies if role == "judge"]
    case = json.loads(body["messages"][-1]["content"])
    assert case["question"] == "How many?" and case["ground_truth"] == ["3"] and case["answer"] == "I believe it to be 3"
    assert facts["judge"]["one item"] == "calls a right answer correct"


@pytest.mark.parametrize(
    "answers",
    [{"answers": ["3"], "answer_type": "number"}, {"answers": ["red", "A"], "options": ["red", "blue"], "answer_type": "choice"}]
    + [{"answers": [answer], "answer_type": kind} for answer, kind in (("yes", "yes_no"), ("a \\boxed{3} box", "text"), ("Answer: 3", "text"), ("", "text"))],
)
def test_rules_leave_the_case_of_a_check_to_the_judge(answers: dict[str, Any]) -> None:
    problem, chain = preflight.open_case(Problem(id="a", question="What?", **answers))
    assert correct(extract(chain.answer, problem) or chain.answer, problem) is None


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_fails_at_is_said_and_the_others_are_looked_at_all_the_same(script: Scripted, checked: Check, role: str) -> None:
    script.faults[role] = (404, "no such engine")
    rows = checked()
    assert [name for name, row in rows.items() if not row["ready"]] == ([role, "scorer"] if role == "generator" else [role])
    assert any("HTTP 404: no such engine" in line for line in rows[role]["reasons"])
    assert all(script.asked[other] for other in ROLES if other != "scorer")
    lines = preflight.remarks(list(rows.values()))
    assert all("\n" not in line and line.split(":")[0] in (role, "scorer") for line in lines)
    if role == "generator":
        assert "scorer: not asked, because there is no chain to score" in lines


def test_who_is_out_of_reach_or_refuses_the_key_is_said(script: Scripted, checked: Check) -> None:
    script.faults["judge"] = (401, "who are you?")
    rows = checked(generator={"url": "http://127.0.0.1:9/v1"})
    assert not rows["generator"]["ready"] and rows["generator"]["listed"] == "unknown"
    assert rows["generator"]["reasons"][0].startswith("http://127.0.0.1:9/v1 cannot be reached: ")
    assert not rows["judge"]["ready"] and "set the environment variable OPENAI_API_KEY: who are you?" in rows["judge"]["reasons"][0]


def test_a_chain_or_a_reply_that_cannot_be_used_is_a_failure_with_its_defects(script: Scripted, checked: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_say", lambda role, *_: {"summary": ""} if role != "probe" else {"answer": "ready"})
    rows = checked()
    assert not any(row["ready"] for row in rows.values())
    said = 'the chain is not usable after 3 tries: a required text is empty; a required key is missing; unusable: {"summary": ""}'
    assert rows["generator"]["reasons"] == [said]
    assert rows["judge"]["reasons"] == ["not judged: a required key is missing"]


def test_what_a_server_lacks_is_said_but_does_not_stop_a_run_that_goes_without(script: Scripted, checked: Check) -> None:
    script.lacks = {"response_format"}
    rows = checked(judge={"model": "other"})
    assert all(row["ready"] and row["json schema"] == "no" for row in rows.values())
    assert rows["generator"]["reasons"] == ["json_schema: HTTP 400: no response_format"]
    assert rows["judge"]["listed"] == "no" and rows["judge"]["reasons"][0].endswith("/v1/models does not list 'other'")


def test_a_judge_that_the_run_does_not_ask_need_not_be_there(script: Scripted, checked: Check) -> None:
    judge = checked(judge={"url": "http://127.0.0.1:9/v1"}, assess={"rules_only": True})["judge"]
    assert judge["ready"] and judge["one item"] == "not asked: assess.rules_only" and not judge["reasons"]


def test_all_that_the_run_asks_of_a_teacher_is_projected(checked: Check) -> None:
    rows = checked(judge={"price_out": 100}, scorer={"price_in": 1, "price_out": 10})
    # 20 training chains, 6 own ones, and 8 of each of 4 problems in 3 rounds.
    assert [row["in the run"] for row in rows.values()] == ["20 chains", "up to 122 verdicts", "up to 22 scorings"]
    assert [row["requests"] for row in rows.values()] == [60, 122, 22]
    # The scorer sees 2 paths of each of 10 problems, and 8 of each of 4 three times.
    assert [row["tokens in"] for row in rows.values()] == [20 * 1500, 122 * 200, 10 * 1200 + 12 * 1800]
    assert [row["tokens out"] for row in rows.values()] == [20 * 150, 122 * 20, 10 * 20 + 12 * 80]
    assert rows["generator"]["cost"] == "no prices set: price_in, price_out"
    assert rows["judge"]["cost"] == pytest.approx(122 * 20 * 100 / 1e6) and rows["scorer"]["cost"] == pytest.approx((33_600 + 1_160 * 10) / 1e6)


def test_hours_are_shared_by_the_requests_that_the_run_has_in_flight(script: Scripted, checked: Check) -> None:
    script.seconds = 0.05
    for concurrency, problems, lanes in ((2, 256, 2), (64, 3, 6), (64, 256, 20)):
        facts = checked(generator={"concurrency": concurrency}, generate={"n": 2, "open_problems": problems})["generator"]
        seconds = float(facts["it took"].split()[-2])
        assert seconds >= 0.15 and facts["hours"] * 3600 == pytest.approx(seconds * 20 / lanes, abs=0.005 * 20 / lanes + 1e-6)


def test_requests_that_a_run_sends_but_once_are_not_projected(script: Scripted, checked: Check) -> None:
    script.lacks = {"response_format"}
    rows = checked()
    assert script.asked["generator"] == 5 and rows["generator"]["requests"] == 60 and rows["judge"]["requests"] == 122


def test_what_cannot_be_known_is_not_given_as_nothing(script: Scripted, checked: Check) -> None:
    script.faults["judge"] = (400, "no")
    script.reports = False
    rows = checked(generator={"price_in": 1})
    projected = ("requests", "tokens in", "tokens out", "hours", "cost")
    assert {rows["judge"][name] for name in projected} == {"unknown"}
    assert (
        rows["generator"]["requests"] == 60 and rows["generator"]["tokens in"] == "not reported" and rows["generator"]["cost"] == "unknown: no tokens reported"
    )
    nothing = checked(assess={"rules_only": True}, judge={"price_in": 1})["judge"]
    assert [nothing[name] for name in projected] == [0, 0, 0, 0, 0]


def test_a_scorer_that_cannot_read_as_many_paths_as_a_round_shows_is_found(script: Scripted, checked: Check) -> None:
    script.most_paths = 4
    scorer = checked()["scorer"]
    assert not scorer["ready"] and scorer["reasons"] == ["8 paths in one request: not scored: HTTP 400: too long"]
    assert checked(dpo={"n": 4})["scorer"]["ready"]


@pytest.mark.parametrize("config", ["demo", "laptop", "paper"])
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["systems.rows=[base, base-reasoned]"],
        ["systems.rows=[base]", "world=null"],
        ["systems.rows=[single]", "world=null"],
        ["systems.rows=[summarizer]"],
        ["systems.rows=[single-fair]"],
        ["systems.rows=[reasoner]", "dpo.rounds=0"],
        ["systems.rows=[pair+dpo1, base]", "dpo.rounds=3"],
        ["systems.rows=[pair]", "summary.own_chains=dpo", "dpo.rounds=0"],
        ["dpo.pairs_from=teacher"],
        ["systems.rows=[plain, two-roles, pair-high]"],
        ["systems.rows=[pair+rlaif, pair+dpo-refreshed]"],
        ["systems.rows=[pair+rlaif]", "dpo.pairs_from=teacher"],
        ["systems.rows=[pair+dpo-pooled, pair+rft]"],
    ],
    ids=str,
)
def test_the_work_of_a_teacher_is_that_of_the_plan(config: str, settings: list[str]) -> None:
    known = load_config(SMALL.parent.parent / "configs" / f"{config}.yaml", settings)
    needed = loop.needed(loop.plan(known))
    work = preflight.teacher_work(known, {"train": 9, "own": 5, "preference": 7})
    assert sorted(batch.stage for batch in work) == sorted(name for name in needed if name.endswith(("assess", "rating")))
    assert any(batch.generated for batch in work) == ("generate" in needed)


def test_chains_of_the_last_round_need_all_rounds() -> None:
    known = Config.model_validate({"systems": {"rows": ["pair"]}, "summary": {"own_chains": "dpo"}, "dpo": {"rounds": 2, "problems": 5}})
    work = preflight.teacher_work(known, {"train": 9, "own": 4, "preference": 7})
    assert {batch.stage: (batch.problems, batch.n, batch.scored) for batch in work} == {
        "assess": (9, 3, True),
        "dpo-chains-assess": (4, 1, False),
        "round1-chains-assess": (5, 8, True),
        "round2-chains-assess": (5, 8, True),
    }


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["insightv", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_shows_reasons_and_ends_with_2_until_all_is_well(
    script: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"run={tmp_path / 'run'}", *(f"models.{role}={{url: '{script.url}', revision: '1', retries: 0}}" for role in ROLES)]
    arguments = ["check", str(SMALL), *(word for setting in settings for word in ("-o", setting))]
    script.faults["judge"] = (400, "text [/] too long")
    assert called(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert "judge: not judged: HTTP 400: text [/] too long" in out.splitlines()
    assert err == "insightv: not ready for a run: judge; mend what is said above and check again\n"
    script.faults.clear()
    assert called(monkeypatch, *arguments) == 0
    out, err = capsys.readouterr()
    assert all(word in out for word in ("generator", "teacher@1", "a right answer")) and "HTTP 400" not in out and not err
    assert all(line in out.splitlines() for line in preflight.ASSUMED)
    assert called(monkeypatch, "check", "--help") == 0
    assert "hours of the trainings are not in it" in " ".join(capsys.readouterr().out.replace("│", "").split())
