"""`render_chain` and `parse_chain` are exact inverses, and a broken chain is read as far as it goes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightv.chain_text import parse_chain, process_text, render_chain
from insightv.records import Chain, Step
from insightv.replies import DEFECTS

PIECES = [
    *("<thoughts>", "</thoughts>", "<output>", "</output>", "<image>", "### ", "###", "#", "Answer:", "Answer: ", "Conclusion"),
    *("\\", "\\n", "\n", " ", "x", "n", "é", "字"),
]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.text(max_size=30))


def chain(steps: list[tuple[str, str]], conclusion: str, answer: str) -> Chain:
    last = len(steps) - 1
    made = tuple(Step(summary=s, reasoning=r, action="summary" if i == last else "continue") for i, (s, r) in enumerate(steps))
    return Chain(id="c", problem_id="p", model="m", mode="single", index=0, steps=made, conclusion=conclusion, answer=answer)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4), TEXTS, TEXTS)
def test_any_chain_survives_its_text(steps: list[tuple[str, str]], conclusion: str, answer: str) -> None:
    written = chain(steps, conclusion, answer)
    assert parse_chain(render_chain(written))[:3] == (written.steps, conclusion, answer)


def test_the_text_is_as_short_as_the_format_allows() -> None:
    written = chain([("Look", "Two red \\frac{1}{2}."), ("Count", "2")], "There are two.", "2")
    assert render_chain(written) == ("<thoughts>\n### Look\nTwo red \\frac{1}{2}.\n### Count\n2\n### Conclusion\nThere are two.\nAnswer: 2\n</thoughts>")
    assert parse_chain(render_chain(written)) == (written.steps, "There are two.", "2", ())


GOOD = "<thoughts>\n### Look\nred\n### Conclusion\nso\nAnswer: A\n</thoughts>"


@pytest.mark.parametrize(
    ("text", "defects"),
    [
        (GOOD, ()),
        (f"{GOOD}\n<output>A</output>", ()),
        (f"  {GOOD}\n", ()),
        ("", ("empty",)),
        ("A", ("no_tags", "untitled_text", "no_conclusion", "no_steps", "no_answer")),
        (GOOD.removesuffix("</thoughts>"), ("truncated",)),
        (GOOD.removeprefix("<thoughts>\n"), ("no_start_tag",)),
        (f"Sure! {GOOD}", ("leading_text",)),
        (f"{GOOD} bye", ("trailing_text",)),
        (f"{GOOD}{GOOD}", ("trailing_text",)),
        (GOOD.replace("red", ""), ("empty_field",)),
        (GOOD.replace("Answer: A\n", ""), ("no_answer",)),
        (GOOD.replace("Answer: A", "Answer: "), ("no_answer",)),
        (GOOD.replace("### Look\nred\n", ""), ("no_steps",)),
        (GOOD.replace("### Look", "Look"), ("untitled_text", "no_steps")),
        (GOOD.replace("red", "red</thoughts>"), ("trailing_text", "no_conclusion", "no_answer")),
        (GOOD.replace("red", "<output>red"), ("stray_tag",)),
        (GOOD.replace("red", "\\<output>red"), ()),
        (GOOD.replace("\n</thoughts>", "\n### More\nx\n</thoughts>"), ("trailing_text",)),
        ("<thoughts>\n### Look\nre", ("truncated", "no_conclusion", "no_answer")),
        (GOOD.replace("red", "\ud800"), ("bad_unicode",)),
    ],
)
def test_each_break_has_its_names(text: str, defects: tuple[str, ...]) -> None:
    assert parse_chain(text)[3] == defects
    assert DEFECTS.keys() >= set(defects)


def test_a_truncated_chain_keeps_its_steps() -> None:
    steps, conclusion, answer, _ = parse_chain("<thoughts>\n### Look\nred\n### Count\nthr")
    assert [(step.summary, step.reasoning, step.action) for step in steps] == [("Look", "red", "continue"), ("Count", "thr", "continue")]
    assert conclusion == answer == ""


def test_the_summary_agent_reads_raw_text_where_nothing_could_be_parsed() -> None:
    assert process_text(chain([("a", "b")], "", "").model_copy(update={"text": "raw"})).startswith("<thoughts>\n### a\nb")
    assert process_text(chain([], "", "").model_copy(update={"text": "raw"})) == "raw"
