"""One item's mark by a benchmark's rule: the scorers, each given what it needs of a row of either layout."""

import string
from collections.abc import Callable
from dataclasses import dataclass

from insightv.evaluation.scorers import letters, mathvista, own_letters, texts, vqa
from insightv.evaluation.scorers.columns import Row, accepted, is_formula, is_open, options, right_letter
from insightv.evaluation.scorers.open_answers import mmmu_open
from insightv.evaluation.scorers.received import MISSING


@dataclass(frozen=True, slots=True)
class Mark:
    """What a rule makes of one reply."""

    value: float
    """0..1 of this item."""
    read: str | None
    """The answer as the rule read it, of free text the whole reply; None where it found none, which is wrong."""


Rule = Callable[[str, Row], Mark]


def chosen(read: str | None, right: str) -> Mark:
    """Right or wrong, where a rule reads one answer."""
    return Mark(float(read == right), read)


def text(value: float, reply: str) -> Mark:
    """Of free text, which has no step of reading: an empty reply is none, unless the rule credits it, as where an answer is but an article."""
    return Mark(float(value), reply if reply or value else None)


# Letters


def mmmu(reply: str, row: Row) -> Mark:
    """MMMU's own rules of both kinds of question."""
    if is_open(row):
        return text(mmmu_open(reply, accepted(row)), reply)
    return chosen(letters.mmmu_letter(reply, [*options(row).values()]), right_letter(row))


def mmmu_lmms(reply: str, row: Row) -> Mark:
    """Looser letters; of several accepted answers to an open question the list's text is the one, as the data set has it."""
    if is_open(row):
        return text(mmmu_open(reply, [str(row["answer"])]), reply)
    return mmmu_pro_lmms(reply, row)


def mmmu_pro(reply: str, row: Row) -> Mark:
    return chosen(own_letters.mmmu_pro_letter(reply, [*options(row).values()]), right_letter(row))


def mmmu_pro_lmms(reply: str, row: Row) -> Mark:
    return chosen(letters.mmmu_letter(reply, [*options(row).values()], loose=True), right_letter(row))


def mmmu_pro_vision_lmms(reply: str, row: Row) -> Mark:
    """The reply must be the letter and nothing else."""
    return chosen(reply if reply in options(row) else None, right_letter(row))


def mmbench(reply: str, row: Row) -> Mark:
    """MMBench's own rule is the one that VLMEvalKit has for all choices, here without what its files do to options."""
    return chosen(letters.vlmeval_letter(reply, options(row)), right_letter(row))


def mmbench_lmms(reply: str, row: Row) -> Mark:
    """An empty cell is the word "nan" in the data set that lmms-eval reads."""
    given = {letter: str(row[letter]) or "nan" for letter in "ABCD" if row.get(letter) is not None}
    return chosen(own_letters.mmbench_static(reply, given), right_letter(row))


def mmstar(reply: str, row: Row) -> Mark:
    return chosen(own_letters.mmstar_letter(reply), right_letter(row))


def mmstar_lmms(reply: str, row: Row) -> Mark:
    return chosen(letters.lmms_letter(reply, 4), right_letter(row))


def ai2d(reply: str, row: Row) -> Mark:
    """No parser was published. The option's text as pix2struct compares it, else the letter as MMBench reads one."""
    given = options(row)
    read = next((letter for letter, option in given.items() if option == reply), None)
    return chosen(read or letters.vlmeval_letter(reply, given), right_letter(row))


def ai2d_lmms(reply: str, row: Row) -> Mark:
    return chosen(own_letters.ai2d_letter(reply, len(options(row))), right_letter(row))


def _given(row: Row) -> dict[str, str]:
    # An option that its table's reader takes for nothing, such as "None", is none.
    return {letter: option for letter, option in options(row).items() if option not in MISSING}


def choice_vlmeval(reply: str, row: Row) -> Mark:
    """Where the options' texts are not known (MMStar's, written into the question in a way of their own) letters alone are read."""
    return chosen(letters.vlmeval_letter(reply, _given(row) or dict.fromkeys("ABCD", "")), right_letter(row))


def mmmu_vlmeval(reply: str, row: Row) -> Mark:
    """A question without an option A is given two: the accepted answer, and "Other Answers". An answer of one capital is then no A, so never met."""
    given, answer = _given(row), str(row["answer"])
    if "A" not in given:
        given = dict(sorted((given | {"A": answer, "B": "Other Answers"}).items()))
    return chosen(letters.vlmeval_letter(reply, given), answer if answer in [*string.ascii_uppercase] else "A")


# MathVista


def mathvista_own(reply: str, row: Row) -> Mark:
    return chosen(mathvista.own_answer(reply, row), str(row["answer"]))


def mathvista_lmms(reply: str, row: Row) -> Mark:
    read = mathvista.lmms_answer(reply, row)
    return chosen(read and read.strip(), str(row["answer"]).strip())


def mathvista_vlmeval(reply: str, row: Row) -> Mark:
    read = mathvista.vlmeval_answer(reply, row)
    if row["question_type"] == "multi_choice":
        return chosen(read, row.get("answer_option") or string.ascii_uppercase[mathvista.choices(row).index(str(row["answer"]))])
    return Mark(float(read is not None), read)


# Free text


def mme(reply: str, row: Row) -> Mark:
    return chosen(texts.begins_with_yes_or_no(reply), str(row["answer"]).lower())


def mme_lmms(reply: str, row: Row) -> Mark:
    return chosen(texts.begins_with_yes_or_no(reply, loose=True), str(row["answer"]).lower().strip().replace(".", ""))


def mme_vlmeval(reply: str, row: Row) -> Mark:
    """There "Yes" and "No" are told from "yes" and "no" in the table."""
    read = texts.says_yes_or_no(reply)
    return chosen(read and read.capitalize(), str(row["answer"]))


def chartqa(reply: str, row: Row) -> Mark:
    """The paper's rule."""
    return text(any(texts.relaxed_number(reply, answer) for answer in accepted(row)), reply)


def chartqa_harness(reply: str, row: Row) -> Mark:
    """Pix2struct's, of the reply without blanks around it."""
    return text(any(texts.relaxed(reply.strip(), answer) for answer in accepted(row)), reply)


def textvqa(reply: str, row: Row) -> Mark:
    return text(vqa.vqa_accuracy(reply, accepted(row)), reply)


def textvqa_vlmeval(reply: str, row: Row) -> Mark:
    return text(vqa.vqa_accuracy(reply, accepted(row), separate=False), reply)


def docvqa(reply: str, row: Row) -> Mark:
    return text(texts.anls(reply, accepted(row)), reply)


def ocrbench(reply: str, row: Row) -> Mark:
    return text(texts.contains(reply, accepted(row), formula=is_formula(row)), reply)


def ocrbench_lmms(reply: str, row: Row) -> Mark:
    return text(texts.contains(reply, accepted(row), formula=is_formula(row), fold=True), reply)
