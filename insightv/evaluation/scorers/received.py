"""What the harnesses make of a reply before any rule sees it."""

import re

_TAGS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))
"""Those that lmms-eval cuts away unless told otherwise, in this order."""

MISSING = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN"),
        *("None", "n/a", "nan", "null"),
    )
)
"""Whole cells that pandas reads as nothing, so that VLMEvalKit sees no option there, and the text "nan" in a reply's place."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_LONGEST_CELL = 32_767


def lmms_received(reply: str) -> str:
    """lmms-eval 0.7.3: without blocks of reasoning, and where only a closing tag stands, what follows the last one.

    A block that is never closed stays, as there: the chain is then taken for the answer.
    """
    for begin, end in _TAGS:
        while (start := reply.find(begin)) >= 0 and (stop := reply.find(end, start)) >= 0:
            reply = reply[:start] + reply[stop + len(end) :]
        if begin not in reply:
            reply = reply.rsplit(end, 1)[-1]
    return reply.strip()


def vlmeval_received(reply: str) -> str:
    """VLMEvalKit e8e78f0: as its spreadsheet of predictions gives it back, neither stripped nor free of reasoning.

    What depends on all replies of a file is left out: where every one is a number, there they all become numbers. So is its view of links.
    """
    if reply in MISSING:
        return "nan"
    return _CONTROLS.sub(lambda sign: f"_x{ord(sign[0]):04X}_", reply)[:_LONGEST_CELL]
