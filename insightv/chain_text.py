"""The text form of a chain between `<thoughts>` tags, on which agents are trained, and its exact inverse.

    <thoughts>
    ### title of a step
    reasoning
    ### Conclusion
    conclusion
    Answer: answer
    </thoughts>

Whatever in a text would read as a tag, a title or the answer line gets one more backslash in front, so any text survives.
"""

import re
from collections.abc import Sequence

from insightv.records import Chain, Step
from insightv.replies import unique, valid_unicode

START, END, CONCLUSION = "<thoughts>", "</thoughts>", "Conclusion"

_TAG = re.compile(r"(\\*)(</?(?:thoughts|output)>)")
_MARK = re.compile(r"^(\\*)(###|Answer:)", re.MULTILINE)
_RESERVED = re.compile(rf"(\\*){CONCLUSION}\Z")
_LINE_BREAK = re.compile(r"(\\*)(\n)|(\\+)n")
_ESCAPED_N = re.compile(r"(\\+)n")
_OUTPUT = re.compile(r"\s*<output>(?:(?!</?(?:output|thoughts)>).)*</output>\s*", re.DOTALL)


def render_chain(chain: Chain) -> str:
    """The chain as text. Steps' actions are implied: `summary` for the last one, `continue` before."""
    steps = "".join(f"### {_escape_title(step.summary)}\n{_escape(step.reasoning)}\n" for step in chain.steps)
    return f"{START}\n{steps}### {CONCLUSION}\n{_escape(chain.conclusion)}\nAnswer: {_escape(chain.answer)}\n{END}"


def parse_chain(text: str) -> tuple[tuple[Step, ...], str, str, tuple[str, ...]]:
    """(steps, conclusion, answer, defects) of a chain's text; what is broken is read as far as it goes.

    An `<output>` block after the end tag is the one model's answer and no defect.
    """
    text, defects = valid_unicode(text)
    if not text.strip():
        return (), "", "", (*defects, "empty")
    body, in_frame = _unframe(text)
    titles, blocks, leading = _split(body.split("\n"))
    conclusion, answer = "", ""
    in_body = ["untitled_text"] if leading.strip() else []
    if CONCLUSION in titles:
        place = titles.index(CONCLUSION)
        in_body += ["trailing_text"] if place < len(titles) - 1 else []
        conclusion, answer = _split_answer(blocks[place])
        titles, blocks = titles[:place], blocks[:place]
        last = place - 1
    else:
        in_body.append("no_conclusion")
        last = -1
    steps = tuple(_step(title, block, i == last) for i, (title, block) in enumerate(zip(titles, blocks, strict=True)))
    in_body += [] if steps else ["no_steps"]
    in_body += ["empty_field"] if any(not step.summary.strip() or not step.reasoning.strip() for step in steps) else []
    in_body += [] if answer.strip() else ["no_answer"]
    return steps, conclusion, answer, unique((*defects, *in_frame, *in_body))


def process_text(chain: Chain) -> str:
    """What the summary agent reads: the rendered chain, or the raw text of one in which nothing could be read."""
    return render_chain(chain) if chain.steps or chain.conclusion or chain.answer else chain.text


def joined(steps: Sequence[Step]) -> str:
    """Titles and reasoning in one text, as counted and compared between chains."""
    return "\n".join(f"{step.summary}\n{step.reasoning}" for step in steps)


def _unframe(text: str) -> tuple[str, tuple[str, ...]]:
    tags = [match for match in _TAG.finditer(text) if not match[1]]
    starts = [tag for tag in tags if tag[2] == START]
    ends = [tag for tag in tags if tag[2] == END and (not starts or tag.start() > starts[0].start())]
    defects = []
    if starts and text[: starts[0].start()].strip():
        defects.append("leading_text")
    if not starts:
        defects.append("no_start_tag" if ends else "no_tags")
    elif not ends:
        defects.append("truncated")
    begin = starts[0].end() if starts else 0
    finish = ends[0].start() if ends else len(text)
    if any(begin <= tag.start() < finish for tag in tags):
        defects.append("stray_tag")
    rest = text[ends[0].end() :] if ends else ""
    if rest.strip() and not _OUTPUT.fullmatch(rest):
        defects.append("trailing_text")
    return text[begin:finish].removeprefix("\n").removesuffix("\n"), tuple(defects)


def _split(lines: list[str]) -> tuple[list[str], list[list[str]], str]:
    """(titles, lines below each, text above the first)."""
    titles: list[str] = []
    blocks: list[list[str]] = []
    leading: list[str] = []
    for line in lines:
        if line.startswith("###"):
            titles.append(line[3:].removeprefix(" "))
            blocks.append([])
        else:
            (blocks[-1] if blocks else leading).append(line)
    return titles, blocks, "\n".join(leading)


def _split_answer(lines: list[str]) -> tuple[str, str]:
    for place, line in enumerate(lines):
        if line.startswith("Answer:"):
            answer = "\n".join([line.removeprefix("Answer:").removeprefix(" "), *lines[place + 1 :]])
            return _unescape("\n".join(lines[:place])), _unescape(answer)
    return _unescape("\n".join(lines)), ""


def _step(title: str, lines: list[str], last: bool) -> Step:
    return Step(summary=_unescape_title(title), reasoning=_unescape("\n".join(lines)), action="summary" if last else "continue")


def _escape(text: str) -> str:
    # Nearly no text holds any of this, and to look for it by the patterns takes ten times as long as all the rest.
    if "<" in text:
        text = _TAG.sub(r"\\\1\2", text)
    return _MARK.sub(r"\\\1\2", text) if "###" in text or "Answer:" in text else text


def _unescape(text: str) -> str:
    return _TAG.sub(_one_less, _MARK.sub(_one_less, text))


def _escape_title(title: str) -> str:
    if not ("\\" in title or "\n" in title or "<" in title or CONCLUSION in title):
        return title
    # A title is one line: n backslashes before a line break become 2n + 1 and an n, and 2n before an n.
    line = _LINE_BREAK.sub(lambda match: match[1] * 2 + "\\n" if match[2] else match[3] * 2 + "n", title)
    return _RESERVED.sub(rf"\\\1{CONCLUSION}", line) if _RESERVED.match(line) else _TAG.sub(r"\\\1\2", line)


def _unescape_title(line: str) -> str:
    if _RESERVED.match(line):
        return line.removeprefix("\\")
    line = _TAG.sub(_one_less, line)
    return _ESCAPED_N.sub(lambda match: match[1][: len(match[1]) // 2] + ("\n" if len(match[1]) % 2 else "n"), line)


def _one_less(match: re.Match[str]) -> str:
    return match[1].removeprefix("\\") + match[2]
