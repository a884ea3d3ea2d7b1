"""The paper's config holds the paper's numbers, and runs from the problems to the report on tiny models of the real classes."""

import json
from math import log
from pathlib import Path

import pytest

from insightv import loop, showing, verbs
from insightv.config import Config, TeacherDials, UserError
from insightv.config_file import load_config
from insightv.datasets.sources import write_problems
from insightv.records import Solution
from insightv.store import ImageStore, read_records
from insightv.world.problems import make_split
from insightv.world.teacher import serve

PAPER = Path(__file__).parent.parent / "configs" / "paper.yaml"
SPLITS = {"train": 18, "preference": 4, "own": 6, "plain": 8, "development": 2, "test": 9}


def tiny(folder: Path, base: Path, url: str, *more: str) -> Config:
    """The paper's config on a tiny base, the world's problems as the user's files and the world's teacher as the user's server."""
    for split, count in SPLITS.items():
        images = ImageStore(folder / split / "images")
        write_problems(folder / split / "problems.jsonl", make_split(images, split, count, seed=0, difficulty=0.2))
    trained = ("reasoner", "summarizer", "single", "dpo")
    overrides = [
        f"run={folder / 'run'}",
        *(f"problems.{split}={folder / split / 'problems.jsonl'}" for split in SPLITS),
        f"models.base={base}",
        *(f"models.{role}={{url: '{url}', model: teacher, revision: test}}" for role in ("generator", "judge", "scorer")),
        "generate.n=2",
        "generate.max_steps=6",
        "summary.size=16",
        *(f"{name}.{setting}" for name in trained for setting in ("max_steps=2", "batch_size=2", "processes=1", "dtype=float32", "max_length=4096")),
        *(f"{name}.arguments={{gradient_accumulation_steps: 1, gradient_checkpointing: true}}" for name in trained),
        "local.dtype=float32",
        "dpo.server=null",
        "dpo.n=2",
        "dpo.rounds=1",
        "dpo.sampling.max_tokens=12",
        "systems.reasoner.max_tokens=12",
        "systems.answer.max_tokens=6",
        *more,
    ]
    return load_config(PAPER, overrides)


def test_the_numbers_are_the_papers() -> None:
    config = load_config(PAPER)
    reasoner, summarizer, dpo = config.reasoner, config.summarizer, config.dpo
    assert (reasoner.epochs, reasoner.learning_rate) == (2, 5e-6)
    assert (summarizer.epochs, summarizer.learning_rate) == (1, 1e-5)
    assert (dpo.rounds, dpo.epochs, dpo.learning_rate, dpo.beta, config.preference.max_pairs) == (3, 1, 5e-7, 0.1, 15_000)
    assert dpo.pairs_from == "policy" and dpo.reference == "previous"
    assert config.single == reasoner
    for training in (reasoner, summarizer, dpo):
        assert (training.schedule, training.warmup, training.weight_decay) == ("cosine", 0.05, 0)
        assert (training.dtype, training.max_length, training.processes) == ("bfloat16", 12_288, 8)
        assert training.train == ("projector", "language") and training.lora is None and training.max_steps == -1
    rows = [training.batch_size * training.processes * training.arguments["gradient_accumulation_steps"] for training in (reasoner, summarizer, dpo)]
    assert rows == [512, 128, 64]


def test_every_round_of_the_paper_samples_from_the_policy_before_it() -> None:
    steps = loop.plan(load_config(PAPER)).steps
    assert [steps[f"round{t}-chains"].needs[-1] for t in (1, 2, 3)] == ["reasoner", "dpo1", "dpo2"]
    assert {"evaluate-pair+dpo1", "evaluate-pair+dpo", "evaluate-multi-turn"} <= set(steps)
    assert steps["evaluate-pair+dpo"].needs == ("problems", "dpo3", "summarizer")


def test_another_round_leaves_the_earlier_ones_as_they_are() -> None:
    three, four = (loop.plan(load_config(PAPER, [f"dpo.rounds={rounds}", "systems.rows=[base]"])).steps for rounds in (3, 4))
    assert [three[f"dpo{t}"].settings for t in (1, 2, 3)] == [four[f"dpo{t}"].settings for t in (1, 2, 3)]
    changed = loop.plan(load_config(PAPER, ["dpo.beta=0.2"])).steps
    assert changed["dpo1"].settings != three["dpo1"].settings


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ("tiny_llava_next", ["dpo.rounds=2"]),
        (
            "tiny_qwen",
            ["systems.rows=[base, pair, pair+rlaif, pair+rft, pair+dpo]", *(f"{name}.lora={{r: 4, alpha: 8}}" for name in ("reasoner", "summarizer", "dpo"))],
        ),
    ],
)
def test_a_tiny_model_goes_from_the_problems_to_the_report(
    base: str, settings: list[str], request: pytest.FixtureRequest, tmp_path: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(TeacherDials()) as url:
        config = tiny(tmp_path, request.getfixturevalue(base), url, "dpo.pairs_from=teacher", *settings)
        verbs.run(config)
    assert {row["state"] for row in showing.status(config.run)} == {"done"}
    for name in ("reasoner", "summarizer", *(f"dpo{t}" for t in range(1, config.dpo.rounds + 1))):
        summary = json.loads((config.run / name / "manifest.json").read_bytes())["summary"]
        assert summary["steps"] == 2 and summary["rows"] >= 4 and not summary["dropped"], name
    # Every round starts from its reference, so from a margin of zero.
    assert summary["first_loss"] == pytest.approx(log(2), abs=1e-4)
    policies = {json.loads(line)["chains"]["chosen"]["model"] for line in (config.run / "round1-data" / "manifest.jsonl").open()}
    assert policies == {"teacher@test"}
    for row in config.systems.rows:
        solutions = list(read_records(config.run / f"evaluate-{row}" / "solutions.jsonl", Solution))
        assert [solution.status for solution in solutions] == ["ok"] * SPLITS["test"], row
    page = (config.run / "report.html").read_text(encoding="utf-8")
    assert all(row in page for row in config.systems.rows)
    made = capsys.readouterr().out
    assert "✓ evaluate-pair+dpo" in made

    # The teacher is gone, and nobody asks for it.
    verbs.run(config)
    assert "✓" not in capsys.readouterr().out


def test_a_policy_without_a_correct_chain_ends_the_run_with_the_reason(tiny_llava_next: Path, tmp_path: Path, in_this_process: None) -> None:
    with serve(TeacherDials()) as url:
        config = tiny(tmp_path, tiny_llava_next, url, "systems.rows=[pair+dpo]", "systems.baseline=pair+dpo", "systems.primary=[]")
        with pytest.raises(UserError, match=r"^round1-data: no preference pairs: 0 of 8 chains were correct, .*dpo\.pairs_from: teacher$"):
            verbs.run(config, {"train"})
