"""Which option a reply chooses: MMMU's own rule, that of lmms-eval 0.7.3, and that of VLMEvalKit e8e78f0 without a judge. None of them guesses here."""

import re
from collections.abc import Mapping, Sequence

_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is", "the correct option is"),
    *("correct option is", "the best option is", "best option is", "the choice is", "choice is", "the correct choice is", "correct choice is"),
    *("i choose", "i select", "i pick", "my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_REFUSALS = (
    *("Sorry, I can't help with images of people yet.", "I can't process this file.", "I'm sorry, but without the image provided"),
    "Cannot determine the answer",
)
_NO_CHOICE = "Z"
"""VLMEvalKit's letter for a reply that chooses nothing: an answer, and a wrong one."""
_VERBOSE = re.compile(r"(?i)answer\s+is\s+\**([ABCD])")
_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def mmmu_letter(reply: str, options: Sequence[str], *, loose: bool = False) -> str | None:
    """MMMU's `parse_multi_choice_response`: `(A)`, else a lone `A`, else an option's words in a reply of more than five; of several the last.

    With `loose`, as MMMU-Pro and lmms-eval have it, any word's last letter A before a space is one too, and `A.` is looked for behind it.
    All of them draw one of the options where they find none: here that is None.
    """
    for sign in ",.!?;:'":
        reply = reply.strip(sign)
    reply = f" {reply} "
    letters = _letters(len(options))
    # Where each form is looked for, and where it is then said to stand: not the same in the loose rule.
    for form, place in (("({})", "({})"), *((("{} ", " {} "), ("{}.", " {} ")) if loose else ((" {} ", " {} "),))):
        if found := [letter for letter in letters if form.format(letter) in reply]:
            return _last({letter: reply.rfind(place.format(letter)) for letter in found})
    if len(reply.split()) > 5:
        said = reply.lower()
        places = {letter: said.rfind(option.lower()) for letter, option in zip(letters, options, strict=True)}
        if found := [letter for letter in letters if places[letter] >= 0]:
            return _last({letter: places[letter] for letter in found})
    return None


def lmms_letter(reply: str, count: int) -> str | None:
    """lmms-eval's `extract_mcq_answer`: at the start, else at the end, else behind words such as "the answer is", else `(A)`, `A.`, `A:`, `A)`, `A `.

    Of several of one form the one that stands last; a letter anywhere, also within a word, where there is none of these.
    """
    text = reply.strip()
    for sign in ",.!?;:'\"":
        text = text.strip(sign)
    text = f" {text} "
    bare, letters = text.strip(), _letters(count)
    starts = [(0, letter) for letter in letters if bare.startswith(letter) and not bare[1:2].isalpha()]
    ends = [(0, letter) for letter in letters if bare.endswith(letter) and not bare[-2:-1].isalpha()]
    forms = [[(text.rfind(form.format(letter)), letter) for letter in letters] for form in ("({})", "{}.", "{}:", "{})", "{} ", "{}")]
    for found in (starts, ends, _behind_phrases(text, letters), *forms):
        if said := [pair for pair in found if pair[0] >= 0]:
            return _last({letter: max(place for place, other in said if other == letter) for _, letter in said})
    return None


def _behind_phrases(text: str, letters: Sequence[str]) -> list[tuple[int, str]]:
    # Places are those of the text in lower case, as there.
    said = text.lower()
    begins = [at + len(phrase) for phrase in _PHRASES if (at := said.find(phrase)) >= 0]
    return [(text.find(letter, begin), letter) for begin in begins for letter in letters]


def vlmeval_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """VLMEvalKit's `can_infer`: the only option's letter among the reply's words, if it is one of the last four, else an option's words alone.

    `options` are by letter. `Z` is its answer for a refusal; None is where it asks a judge, or, without one, draws an option.
    """
    return _vlmeval_option(reply, options) or _vlmeval_words(reply, options)


def _vlmeval_option(reply: str, options: Mapping[str, str]) -> str | None:
    if "Failed to obtain answer via API" in reply:
        return None
    if any(refusal in reply for refusal in _REFUSALS):
        return _NO_CHOICE
    words = reply.translate(_SIGNS).split()
    present = set(words)
    found = [letter for letter in options if letter in present]
    if len(found) == 1 and words.index(found[0]) > len(words) - 5:
        return found[0]
    if not found and _NO_CHOICE in present:
        return _NO_CHOICE
    match = _VERBOSE.search(reply)
    return match[1].upper() if match and match[1].upper() in options else None


def _vlmeval_words(reply: str, options: Mapping[str, str]) -> str | None:
    said, texts = reply.lower(), {letter: option.lower() for letter, option in options.items()}
    if len(said) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, option in texts.items() if option in said]
    return found[0] if len(found) == 1 else None


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + place) for place in range(count)]


def _last(places: Mapping[str, int]) -> str:
    """The letter that stands last; the first in the alphabet of those at one place."""
    return max(places, key=lambda letter: (places[letter], -ord(letter)))
