"""More than 10,000 generated and hand-collected broken replies: no parser crashes, and each malformed reply gets a named defect."""

import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from insightv.chain_text import parse_chain
from insightv.prompts import parse_conclusion, parse_scores, parse_step, parse_verdict
from insightv.replies import DEFECTS

GENERATED = 12_000
PATHS = 3

STEP = json.dumps({"summary": "Look at the chart", "reasoning": 'The bar "Q1" is {tall}, \\frac{1}{2}\nof 4.', "action": "continue"})
CONCLUSION = json.dumps({"summary": "Two bars remain.", "answer": "B"})
VERDICT = json.dumps({"reason": "同じ意味です", "verdict": "incorrect"}, ensure_ascii=False)
SCORES = json.dumps({"scores": [{"path": path, "reason": "careful", "score": 70 + path} for path in (1, 2, 3)]})
CHAIN = "<thoughts>\n### Look\nOne red.\n### Count\nThere are 2.\n### Conclusion\nTwo.\nAnswer: 2\n</thoughts>"
GOOD = (STEP, CONCLUSION, VERDICT, SCORES, CHAIN)

COLLECTED = (
    "",
    " \n\t",
    "null",
    "true",
    "42",
    "[]",
    "{}",
    "{{}}",
    "[{}]",
    '"summary"',
    "I'm sorry, but I can't help with that.",
    "Désolé, je ne vois pas d'image. 画像が見えません。",
    "```json\n```",
    "```json\n{\n```",
    f"```json\n{STEP}\n```",
    f"```{STEP}```",
    f"Here is the next step:\n\n{STEP}\n\nLet me know if you need more!",
    f"{STEP}{STEP}",
    f"{STEP},\n{CONCLUSION}",
    f"[{STEP}]",
    f"<think>hmm</think>{VERDICT}",
    STEP[:-1],
    STEP[:-3],
    STEP[: len(STEP) // 2],
    STEP.replace('"', "'"),
    STEP.replace('"', "\u201c"),
    STEP.replace("\\n", "\n"),
    STEP.replace("\\\\", "\\"),
    STEP.replace('"continue"', "continue"),
    STEP.replace('"continue"', '"final_answer"'),
    STEP.replace("summary", "title").replace("reasoning", "content"),
    STEP.replace("}", ",}"),
    STEP.replace("Look at the chart", "</thoughts>"),
    '{"summary": null, "reasoning": [], "action": {}}',
    '{"summary": "\\ud83d", "reasoning": "\\udc00", "action": "continue"}',
    '{"summary": "\\u0000", "reasoning": "\x00", "action": "continue"}',
    '{"answer": NaN}',
    '{"summary": "s", "answer": Infinity}',
    '{"summary": "s", "answer": ' + "9" * 6000 + "}",
    '{"scores": null}',
    '{"scores": {"1": 80}}',
    '{"scores": [80, 70, 60]}',
    '{"scores": [{"path": 1, "score": 1e999, "reason": "r"}]}',
    '{"scores": [{"path": -1, "score": 50, "reason": "r"}, {"path": 0, "score": 50, "reason": "r"}]}',
    '{"scores": [{"path": "1", "score": "85/100", "reason": "r"}]}',
    '{"verdict": true, "reason": "r"}',
    '{"verdict": "correct, mostly", "reason": "r"}',
    "Correct.",
    "\ufeff" + VERDICT,
    "{" * 10_000,
    "[" * 10_000,
    '{"a":' * 10_000,
    '{"' * 10_000,
    "\\" * 10_000,
    "\ud800",
    CHAIN.replace("</thoughts>", ""),
    CHAIN.replace("One red.", "One </thoughts> red."),
    CHAIN.replace("<thoughts>", "<thoughts><thoughts>"),
    CHAIN.replace("### ", "## "),
    CHAIN.replace("Answer: 2", ""),
    CHAIN.replace("\n", ""),
    CHAIN + "\n<output>2",
    "</thoughts>",
    "<thoughts></thoughts>",
    "</thoughts><thoughts>",
    "<thoughts>\n### Conclusion\n### Conclusion\nAnswer: x\n</thoughts>",
    "### " * 5_000,
    "###\n" * 5_000,
    "<thoughts>" * 5_000,
)
JUNK = (
    "```", "```json\n", "\n", " ", "{", "}", "[", "]", '"', "\\", ",", ":", "null", "\ud800", "\x00", "é", "字", "🙂", "</thoughts>", "<thoughts>",
    "<output>", "###", "Answer:", "Sure!", '"x": 1,', "<|im_end|>", "0", "-", "1e9", "true", "summary", "correct",
)  # fmt: skip


def broken(draw: random.Random) -> str:
    text = draw.choice(GOOD)
    for _ in range(draw.randint(1, 4)):
        start = draw.randint(0, len(text))
        end = min(len(text), start + draw.randint(0, 12))
        change = draw.randrange(7)
        if change == 0:
            text = text[:start]
        elif change == 1:
            text = text[:start] + text[end:]
        elif change == 2:
            text = text[:start] + draw.choice(JUNK) + text[start:]
        elif change == 3:
            text = text[:start] + draw.choice(JUNK) + text[end:]
        elif change == 4:
            text = text + draw.choice(("", "\n", " and ")) + draw.choice(GOOD)
        elif change == 5:
            text = re.sub(r'"(\w+)":', lambda match: '"' + draw.choice(("x", match[1].upper(), match[1])) + '":', text, count=draw.randint(1, 3))
        else:
            text = re.sub(r': ("[^"]*"|\d+)', lambda match: ": " + draw.choice(("3", "null", "[]", match[1], '""')), text, count=draw.randint(1, 3))
    return text


def replies() -> list[str]:
    draw = random.Random(20241121)
    return [*COLLECTED, *GOOD, *(broken(draw) for _ in range(GENERATED))]


def strict(text: str, keys: set[str]) -> dict[str, Any] | None:
    """The object of a reply that is JSON and nothing else with exactly these keys, by the standard parser alone."""
    try:
        value = json.loads(text.strip())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and set(value) == keys else None


def good_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)


def good_step(text: str) -> bool:
    value = strict(text, {"summary", "reasoning", "action"})
    return value is not None and all(map(good_text, value.values())) and value["action"].strip().casefold() in ("continue", "summary")


def good_conclusion(text: str) -> bool:
    value = strict(text, {"summary", "answer"})
    return value is not None and good_text(value["summary"]) and (good_text(value["answer"]) or type(value["answer"]) in (int, float))


def good_verdict(text: str) -> bool:
    value = strict(text, {"reason", "verdict"})
    return value is not None and all(map(good_text, value.values())) and value["verdict"].strip().casefold() in ("correct", "incorrect")


def good_scores(text: str) -> bool:
    value = strict(text, {"scores"})
    if value is None or not isinstance(value["scores"], list):
        return False
    entries = value["scores"]
    if not all(isinstance(entry, dict) and set(entry) == {"path", "score", "reason"} for entry in entries):
        return False
    if not all(type(entry["path"]) is int and type(entry["score"]) is int and good_text(entry["reason"]) for entry in entries):
        return False
    return (
        all(1 <= entry["score"] <= 100 for entry in entries)
        and sorted({(e["path"], e["score"]) for e in entries})
        == sorted({path: (path, score) for path, score in ((e["path"], e["score"]) for e in entries)}.values())
        and {entry["path"] for entry in entries} == set(range(1, PATHS + 1))
    )


def good_chain(text: str) -> bool:
    """A start tag, titled steps with text, a conclusion, an answer, an end tag, and at most an output block."""
    if re.search("[\ud800-\udfff]", text):
        return False
    frame = re.fullmatch(r"\s*<thoughts>(.*?)(?<!\\)</thoughts>\s*(?:<output>(?:(?!</?(?:output|thoughts)>).)*</output>\s*)?", text, re.DOTALL)
    if not frame or re.search(r"(?<!\\)</?(?:thoughts|output)>", frame[1]):
        return False
    lines = frame[1].strip("\n").split("\n")
    titles = [place for place, line in enumerate(lines) if line.startswith("###")]
    if not titles or any(line.strip() for line in lines[: titles[0]]):
        return False
    closing = [place for place in titles if lines[place] in ("### Conclusion", "###Conclusion")]
    if closing != titles[-1:] or len(titles) < 2:
        return False
    blocks = [lines[begin:end] for begin, end in itertools.pairwise(titles)]
    answers = [place for place, line in enumerate(lines[closing[0] :]) if line.startswith("Answer:")]
    answer = "\n".join(lines[closing[0] + answers[0] :]).removeprefix("Answer:") if answers else ""
    return bool(answer.strip()) and all(block[0][3:].strip() and "".join(block[1:]).strip() for block in blocks)


PARSERS: dict[str, tuple[Callable[[str], tuple[str, ...]], Callable[[str], bool]]] = {
    "step": (lambda text: parse_step(text)[1], good_step),
    "conclusion": (lambda text: parse_conclusion(text)[2], good_conclusion),
    "verdict": (lambda text: parse_verdict(text)[2], good_verdict),
    "scores": (lambda text: parse_scores(text, PATHS)[1], good_scores),
    "chain": (lambda text: parse_chain(text)[3], good_chain),
}


@pytest.mark.parametrize("name", PARSERS)
def test_every_malformed_reply_gets_a_name_and_no_good_one_does(name: str) -> None:
    parse, well_formed = PARSERS[name]
    everything = replies()
    assert len(everything) > 10_000
    seen: set[str] = set()
    good = 0
    for text in everything:
        defects = parse(text)
        assert DEFECTS.keys() >= set(defects), text
        assert (defects == ()) == well_formed(text), (text, defects)
        seen.update(defects)
        good += defects == ()
    assert 0 < good < len(everything) / 2
    assert len(seen) >= 8
