"""Which training problems a benchmark shows too: by their picture, by their words, or by both together.

- `picture`: an image of the problem looks like one of the item, by the measure of near duplicates (`duplicates.same`).
- `question`: `words` words in a row of the question stand in the item's question too (13, as has been customary since GPT-3, arXiv 2005.14165, appendix C).
- `both`: a shorter question, word for word, beside a picture that is as alike as `picture` asks for in twice the bits, whatever lies on it: a crop, or
  labels painted over. Alone a short question says nothing, for "What is written there?" is another problem with every picture.

Words that one benchmark puts to more than `pictures` different pictures are its template, and count for nothing.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Literal

import numpy as np

from insightv.config import DecontaminateConfig, UserError
from insightv.datasets.duplicates import MOST_DISTANCE, same
from insightv.datasets.formats import RowError
from insightv.datasets.pictures import Picture, prepare
from insightv.records import Problem
from insightv.store import Images

_NO_WORDS = re.compile(r"<image( \d+)?>|\n\s*(options|choices)\s*:.*", re.IGNORECASE | re.DOTALL)
"""Marks of images, and the options that some benchmarks write behind the question."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A run of letters and digits; in Chinese, Japanese and Korean every sign."""
_REMEMBERED = 2**17
"""Images whose looks are kept for other questions about them: 80 MB."""
_TOGETHER = 256
"""Problems whose images are decoded side by side."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a benchmark shows with one item."""

    benchmark: str
    index: str
    question: str
    """Without hint and instruction; empty where the question stands in the picture."""
    pictures: tuple[Picture, ...]
    """Without their bytes, so that many fit into memory."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a problem shares with a benchmark, namely with that item of it which is most like the problem."""

    benchmark: str
    index: str
    by: Literal["picture", "question", "both"]
    distance: int | None
    """Bits of 64 in which the looks of the two pictures differ; None by question."""
    words: str
    """The normalised words that both have; empty by picture."""


class Shown:
    """The items of benchmarks, to be found by what they show. They are held in memory, at about a kilobyte each."""

    def __init__(self, items: Iterable[Item], settings: DecontaminateConfig) -> None:
        self._settings = settings
        self._items = list(items)
        owners: dict[str, list[int]] = defaultdict(list)
        grams: dict[str, list[int]] = defaultdict(list)
        known: dict[str, Picture] = {}
        for number, item in enumerate(self._items):
            for picture in {picture.pixels: picture for picture in item.pictures}.values():
                known[picture.pixels] = picture
                owners[picture.pixels].append(number)
            for gram in dict.fromkeys(self._grams(_words(item.question))):
                grams[gram].append(number)
        self._pictures, self._owners = list(known.values()), [owners[pixels] for pixels in known]
        self._looks = np.array([picture.look for picture in self._pictures], dtype=np.uint64)
        self._known_words = {gram: numbers for gram, numbers in grams.items() if not self._is_template(numbers)}

    @property
    def counts(self) -> Counter[str]:
        """Items by benchmark."""
        return Counter(item.benchmark for item in self._items)

    def find(self, question: str, pictures: Sequence[Picture]) -> list[Overlap]:
        """What a problem shares with each benchmark, in the order of their names; empty for a clean one."""
        words = _words(question)
        long = len(words) >= self._settings.words
        alike, worded = self._alike(pictures), dict[int, str]()
        for gram in self._grams(words):
            for number in self._known_words.get(gram, ()):
                worded.setdefault(number, gram)
        best: dict[str, tuple[int, int, int, Overlap]] = {}
        for number in {*alike, *worded}:
            item, (strict, bits), shared = self._items[number], alike.get(number, (False, None)), worded.get(number, "")
            if strict:
                found = 0, bits or 0, number, Overlap(item.benchmark, item.index, "picture", bits, "")
            elif shared and long:
                found = 1, 0, number, Overlap(item.benchmark, item.index, "question", None, shared)
            elif shared and bits is not None:
                found = 2, bits, number, Overlap(item.benchmark, item.index, "both", bits, shared)
            else:
                continue
            best[item.benchmark] = min(best.get(item.benchmark, found), found, key=lambda one: one[:3])
        return [best[name][3] for name in sorted(best)]

    def _grams(self, words: Sequence[str]) -> list[str]:
        """Every run of as many words as the settings say, or all words where there are fewer."""
        size = self._settings.words
        return [" ".join(words[start : start + size]) for start in range(max(1, len(words) - size + 1))] if words else []

    def _is_template(self, numbers: Sequence[int]) -> bool:
        shown: dict[str, set[str]] = defaultdict(set)
        for item in (self._items[number] for number in numbers):
            shown[item.benchmark].add(" ".join(picture.pixels for picture in item.pictures))
        return max(map(len, shown.values())) > self._settings.pictures

    def _alike(self, pictures: Sequence[Picture]) -> dict[int, tuple[bool, int]]:
        """Number of an item -> whether one of its pictures is the same by the strict measure, and the bits in which it, or else the nearest, differs."""
        distance = self._settings.distance
        alike: dict[int, tuple[bool, int]] = {}
        for picture in pictures:
            # All of them: for some ten thousand looks this is quicker than any index.
            bits = np.bitwise_count(self._looks ^ np.uint64(picture.look))
            for place in np.flatnonzero(bits <= min(2 * distance, MOST_DISTANCE)).tolist():
                here = same(picture, self._pictures[place], distance), int(bits[place])
                for number in self._owners[place]:
                    alike[number] = max(alike.get(number, here), here, key=lambda one: (one[0], -one[1]))
        return alike


def bare(picture: Picture) -> Picture:
    """The picture without its bytes: what is needed here of many."""
    return replace(picture, data=b"")


def checked(problems: Iterable[Problem], images: Images, shown: Shown) -> Iterator[tuple[Problem, list[Overlap]]]:
    """Every problem, in order, with what it shares with the benchmarks; an image that cannot be read is a `UserError`.

    Images are decoded by as many threads as there are cores, and kept for a while, so that questions about the same one find it.
    """

    @lru_cache(_REMEMBERED)
    def look(name: str) -> Picture:
        return bare(prepare(images.get(name)))

    def one(problem: Problem) -> tuple[Problem, list[Overlap]]:
        try:
            return problem, shown.find(problem.question, [look(name) for name in problem.images])
        except RowError as error:
            raise UserError(f"problem {problem.id}: {error.reason.replace('_', ' ')}: {error.detail}") from None

    rest = iter(problems)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while together := list(islice(rest, _TOGETHER)):
            yield from pool.map(one, together)


def _words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", _NO_WORDS.sub(" ", text)).casefold())
