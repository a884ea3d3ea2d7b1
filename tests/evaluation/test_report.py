"""The report from a run on disk: figures that a hand count confirms, a page that keeps its policy, text that stays text."""

import asyncio
import base64
import hashlib
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from insightv.config import UserError
from insightv.evaluation import plots
from insightv.evaluation.report import ReportData, collect, render
from insightv.evaluation.run import evaluate
from insightv.evaluation.statistics import wilson
from insightv.records import Chain, Problem, Score, Solution, Step, Verdict
from insightv.store import Run, write_records

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


def picture(run: Run, shade: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return run.images.add(buffer.getvalue())


def make_problems(run: Run) -> list[Problem]:
    families, groups = ("count", "attribute"), ("one-hop", "perception")
    return [
        Problem(
            id=f"p{n:02}",
            question=f"{n}? {HOSTILE}",
            images=(picture(run, n),),
            answers=(str(n),),
            answer_type="number",
            meta={"family": families[n % 2], "group": groups[n % 2]},
        )
        for n in range(12)
    ]


def make_chain(problem: Problem, index: int, answer: str) -> Chain:
    steps = (Step(summary=HOSTILE, reasoning="one two three"), Step(summary="end", reasoning="$x$ four", action="summary"))
    name = f"{problem.id}-{index}"
    return Chain(id=name, problem_id=problem.id, model="m", mode="progressive", index=index, steps=steps, answer=answer, defects=("retried",))


def make_run(folder: Path) -> tuple[Run, list[Problem]]:
    """A run with two systems, judged chains and two trainings; `pair` has everything right but p00, `base` only p00 and p01."""
    run = Run(folder / "tiny")
    problems = make_problems(run)
    generate = run.stage("generate", inputs={}, config={}, version=1)
    chains = [make_chain(p, i, p.answers[0] if i else "99") for p in problems[:4] for i in range(2)]
    write_records(generate.work / "chains.jsonl", chains)
    generate.commit({"chains": len(chains), "diversity": {"distinct_answers": 2.0}})
    assess = run.stage("assess", inputs={"generate": generate.outputs_hash}, config={}, version=1)
    write_records(assess.work / "verdicts.jsonl", [Verdict(chain_id=c.id, problem_id=c.problem_id, correct=c.index == 1, by="rule") for c in chains[:7]])
    write_records(assess.work / "scores.jsonl", [Score(chain_id=c.id, problem_id=c.problem_id, value=80 + c.index) for c in chains[:7]])
    assess.commit({"judged": 7, "precision": 0.75, "spearman": None})
    for name, extra in (("dpo-1", {"margin": 0.1, "accuracy": 0.5, "logp_chosen": -3.0, "logp_rejected": -4.0, "kl": 0.0}), ("reasoner", {})):
        training = run.stage(name, inputs={"data": assess.outputs_hash}, config={}, version=1)
        (training.work / "log.jsonl").write_text("".join(json.dumps({"step": s, "loss": 1 / s, **extra}) + "\n" for s in range(1, 5)))
        training.commit({"steps": 4})
    for row, right in (("pair", {p.id for p in problems[1:]}), ("base", {"p00", "p01"})):

        async def system(problem: Problem, row: str = row, right: set[str] = right) -> Solution:
            answer = problem.answers[0] if problem.id in right else "99"
            chain = make_chain(problem, 0, "99") if row == "pair" else None
            return Solution(problem_id=problem.id, system="whatever", answer=answer, text=f"{HOSTILE} {answer}", chain=chain)

        stage = run.stage(f"evaluate-{row}", inputs={"model": assess.outputs_hash}, config={"row": row}, version=1)
        asyncio.run(evaluate(system, problems, stage.work / "solutions.jsonl"))
        stage.commit({})
    return run, problems


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    run, problems = make_run(tmp_path_factory.mktemp("run"))
    return collect(run, problems, rows=("base", "pair"), primary=[("base", "pair"), ("base", "absent")])


def test_every_two_rows_are_compared_once(tmp_path: Path) -> None:
    run, problems = make_run(tmp_path)
    for baseline, against, between in (("base", ["pair"], []), ("absent", [], ["pair"])):
        (table,) = collect(run, problems, rows=("base", "pair"), baseline=baseline).tables
        assert ([c.after for c in table.against], [c.after for c in table.between]) == (against, between)


def test_a_chain_that_is_the_whole_reply_can_be_neither_fixed_nor_misled(tmp_path: Path) -> None:
    run, problems = make_run(tmp_path)
    stage = run.stage("evaluate-single", inputs={}, config={}, version=1)

    async def single(problem: Problem) -> Solution:
        chain = make_chain(problem, 0, problem.answers[0]).model_copy(update={"text": "one reply"})
        return Solution(problem_id=problem.id, system="single", answer="B", text="one reply", chain=chain)

    asyncio.run(evaluate(single, problems, stage.work / "solutions.jsonl"))
    stage.commit({})
    (table,) = collect(run, problems, rows=("base", "single", "pair")).tables
    assert set(table.agreements) == {"pair"}


def test_collected_figures(data: ReportData) -> None:
    (table,) = data.tables
    assert [(row.system, row.micro.value) for row in table.rows] == [("base", pytest.approx(2 / 12)), ("pair", pytest.approx(11 / 12))]
    (primary,) = table.primary
    assert (len(primary.helped), primary.hurt, primary.unchanged) == (10, ("p00",), 1)
    assert primary.p_holm == primary.p and table.against[0].p_holm is None
    assert {name: (a.fixed, a.both_wrong) for name, a in table.agreements.items()} == {"pair": (11, 1)}
    assert {c.scope: (len(c.helped), len(c.hurt), c.n) for c in table.groups} == {"one-hop": (5, 1, 6), "perception": (5, 0, 6)}
    (chains,) = data.chains
    assert chains.judged == {"correct": 3, "wrong": 4, "not judged": 1}
    assert chains.scores == {"wrong": [80] * 4, "correct": [81] * 3}
    assert chains.defects == {"retried": 8} and chains.figures["problems"] == 4
    assert table.lengths["pair"] == [len(HOSTILE.split()) + 6] * 12


def test_only_the_rows_that_are_named_are_shown(tmp_path: Path) -> None:
    run, problems = make_run(tmp_path)
    assert [row.system for row in collect(run, problems, rows=("pair", "base", "absent")).tables[0].rows] == ["pair", "base"]
    data = collect(run, problems, rows=("base",))
    assert [row.system for row in data.tables[0].rows] == ["base"]
    assert {"evaluate-base", "reasoner"} <= {stage.name for stage in data.stages} and "evaluate-pair" not in {stage.name for stage in data.stages}
    assert not any("pair" in (e.outcome, *(output.title for output in e.outputs)) for e in data.examples)


def test_stages_stand_in_the_order_of_the_work(data: ReportData) -> None:
    names = [stage.name for stage in data.stages]
    assert names.index("generate") < names.index("assess") < min(names.index("evaluate-base"), names.index("dpo-1"))


def test_examples_are_spread_over_outcomes(tmp_path: Path, data: ReportData) -> None:
    run, problems = make_run(tmp_path)
    shown = collect(run, problems, rows=("base", "pair"), examples=4).examples
    assert sorted(e.outcome for e in shown if e.kind == "test") == ["both right", "helped", "helped", "hurt"]
    assert all(e.images[0].startswith("data:image/png;base64,") for e in shown)
    generated = [e for e in data.examples if e.kind == "generate"]
    assert sorted(e.outcome for e in generated) == ["all wrong", "mixed", "mixed", "mixed"]  # p03's second chain is not judged


class Page(html.parser.HTMLParser):
    """Collects what a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": self.styles}.get(self._inside, []).append(data)


def test_the_page_is_self_contained_and_strict(tmp_path: Path, data: ReportData) -> None:
    render(data, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    shown, script = page.scripts
    (style,) = page.styles
    for text in (script, style):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in (policy or "")
    assert "unsafe" not in (policy or "") and (policy or "").startswith("default-src 'none'")
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        assert tag not in ("link", "iframe", "img", "object"), tag
        assert all((attrs.get(name) or "#").startswith("#") for name in ("src", "href", "xlink:href")), (tag, attrs)
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script
    assert json.loads(shown)[0]["question"].endswith(HOSTILE)


def test_rendering_is_deterministic_and_complete(tmp_path: Path, data: ReportData) -> None:
    render(data, tmp_path / "a.html")
    render(data, tmp_path / "b.html")
    text = (tmp_path / "a.html").read_text()
    assert text.encode() == (tmp_path / "b.html").read_bytes()
    for heading in (
        "Test split",
        "Comparisons written down beforehand",
        "Group by group",
        "What becomes of right and wrong chains",
        "Judge and scorer against the known truth",
        "Preference rounds",
        "Examples",
    ):
        assert f">{heading}</h" in text
    assert text.count("<svg") == 6
    assert not re.search(r"#0[0-9a]00?0[1-6]\b", text), "a stand-in colour reached the page"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_an_example_and_runs_nothing_else(tmp_path: Path, data: ReportData) -> None:
    render(data, tmp_path / "report.html")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--enable-logging=stderr", "--dump-dom")
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = ["chromium", *flags, nowhere, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr, "an error, or something that the page's policy refused"
    card = done.stdout.split('<article id="card"', 1)[1].split("</article>", 1)[0]
    assert card.count('class="output"') == 2 and 'src="data:image/png;base64,' in card
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in card and "<script" not in card
    assert "1 of 16" in done.stdout


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    render(collect(Run(tmp_path / "empty"), []), tmp_path / "report.html")
    assert "no finished stage yet" in (tmp_path / "report.html").read_text()


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    run, problems = make_run(tmp_path)
    (run.folder / "reasoner" / "log.jsonl").write_text('{"step": 1}\n{"step": \n')
    with pytest.raises(UserError, match=r"log\.jsonl:2"):
        collect(run, problems)


def test_a_missing_image_does_not_cost_the_report(tmp_path: Path) -> None:
    run, problems = make_run(tmp_path)
    run.images.path(problems[0].images[0]).unlink()
    shown = collect(Run(run.folder), problems, rows=("base", "pair")).examples
    assert {e.problem_id: len(e.images) for e in shown if e.kind == "test"}["p00"] == 0


def test_plots_keep_names_as_text() -> None:
    svg = plots.accuracy([("pair $\\frac{1}$ <b>", wilson(8, 10)), ("nothing", wilson(0, 0))])
    assert "pair $\\frac{1}$ &lt;b&gt;" in svg and "style=" not in svg


def test_series_passes_over_what_was_not_logged() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "margin": 1.0}, {"step": 3, "loss": float("nan")}, {"step": 4, "loss": "x"}, {"loss": 1.0}]
    assert plots.series(rows, "loss") == ([1.0, 5.0], [2.0, 1.0])
