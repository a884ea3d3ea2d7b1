"""The paper's eleven benchmarks as problems: from Hugging Face's Parquet or VLMEvalKit's TSV, in one pass, images as they are.

A problem's question is the whole of what is asked: hint, question, options and an instruction in the LLaVA papers' words. Harnesses word some of them
otherwise (docs/scoring.md): our marks by their rules are of answers to these questions. What a rule of scoring needs stands in `meta`: `benchmark`,
`index`, `cluster` (items that are no independent ones share it) and `row`, the columns of the source but for its images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from insightv.answers import MOST_OPTIONS, letter
from insightv.config import UserError
from insightv.datasets.containers import read_rows
from insightv.datasets.foreign import make_problem
from insightv.datasets.formats import RowError
from insightv.datasets.layouts import placed, unfolded
from insightv.datasets.pictures import Picture, Pictures
from insightv.records import Problem
from insightv.store import ImageStore

Row = Mapping[str, Any]

LETTER = "Answer with the option's letter from the given choices directly."
PHRASE = "Answer the question using a single word or phrase."
_ROTATIONS = 10**6
"""MMBench's rotations of a question have its index plus multiples of this."""
_REFERENCE = 64
"""Characters: what is shorter is no picture in base64, but the index of the row that has it."""
_IMAGES = ("image", "image_path", "decoded_image")


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark's rows are read."""

    hub: str
    """Where `hub:` finds it when no file is given: NAME:CONFIG:SPLIT."""
    columns: tuple[str, ...]
    """That a row of Hugging Face's layout must have, beside an image."""
    asked: Callable[[Row], str]
    """The text of the question, of either layout, with a mark `<image N>` wherever an image has a place of its own."""
    index: tuple[str, ...] = ("index",)
    """Columns of which the first that there is names the item; where there is none, its number in the file does."""
    cluster: Callable[[Row], Any] | None = None
    """What items share that are no independent ones; None where each stands for itself."""
    images: tuple[str, ...] = ("image",)
    table: tuple[str, ...] = ("index", "image", "question", "answer")
    """Columns that a row of VLMEvalKit's layout must have."""


def items(name: str, path: str, images: ImageStore, *, limit: int | None = None, shard: tuple[int, int] = (1, 1)) -> Iterator[Problem]:
    """The problems of a benchmark from a file, a folder of shards, or the hub where `path` is empty; their images are added to the store.

    `shard` is (i, n), from 1: every n-th item. A missing column and a row that cannot be read are a `UserError`: a benchmark is whole or none.
    """
    return read_items(name, path, lambda picture: images.add(picture.data), limit=limit, shard=shard)


def read_items(name: str, path: str, keep: Callable[[Picture], str], *, limit: int | None = None, shard: tuple[int, int] = (1, 1)) -> Iterator[Problem]:
    """The same for whoever takes the pictures otherwise: `keep` is given each one and returns its digest."""
    benchmark = find(name)
    place = path or f"hub:{benchmark.hub}"
    source = Source(name, benchmark, Pictures(Path(path).parent if path else Path()), keep)
    for number, (where, row) in enumerate(islice(read_rows(place), limit)):
        try:
            problem = source.problem(row, number, wanted=number % shard[1] == shard[0] - 1)
        except RowError as error:
            said = f"{error.reason.replace('_', ' ')}: {error.detail}" if error.detail else error.reason
            raise UserError(f"{name}: {place}: {where or 'row ' + str(number + 1)}: {said}") from None
        if problem:
            yield problem


class Source:
    """The rows of one file, which may show each other's images."""

    def __init__(self, name: str, benchmark: Benchmark, pictures: Pictures, keep: Callable[[Picture], str]) -> None:
        self._name, self._benchmark, self._pictures, self._keep = name, benchmark, pictures, keep
        self._seen: dict[str, list[str]] = {}
        """Rows of a table that hold an image, by index: digests."""

    def problem(self, row: Any, number: int, *, wanted: bool) -> Problem | None:
        """The problem of a row, None if only its images may be of use to others; raises `RowError`."""
        benchmark = self._benchmark
        if isinstance(row, RowError):
            raise row
        is_table = not any(isinstance(row.get(column), dict | bytes) for column in (*benchmark.images, "image"))
        _check(benchmark.table if is_table else benchmark.columns, row, "VLMEvalKit's table" if is_table else "Hugging Face's layout")
        index = next((str(row[column]) for column in benchmark.index if column in row), str(number))
        if not (wanted or is_table):
            return None
        digests = self._digests(row, index, is_table)
        if not wanted:
            return None
        text, places = placed(benchmark.asked(row), len(digests), strict=True)
        facts = {column: unfolded(value) for column, value in row.items() if column not in (*_IMAGES, *benchmark.images)}
        cluster = str(benchmark.cluster(row)) if benchmark.cluster else index
        meta = {"benchmark": self._name, "index": index, "cluster": cluster, "row": facts}
        answers = _texts(row["answers"] if "answers" in row else row.get("answer"))
        return make_problem(text, answers or [""], images=[digests[place] for place in places], source=self._name, meta=meta)

    def _digests(self, row: Row, index: str, is_table: bool) -> list[str]:
        """The images of a row in the order of their numbers."""
        columns = [row[column] for column in self._benchmark.images if row.get(column) is not None] or [row.get("image") or row.get("image_path")]
        values = [unfolded(column) if isinstance(column, str) else column for column in columns]
        found = [one for value in values for one in (value if isinstance(value, list) else [value]) if one is not None]
        if not found:
            raise RowError("image_missing", "the row has no image")
        if is_table and len(found) == 1 and isinstance(found[0], str) and len(found[0]) <= _REFERENCE and found[0] in self._seen:
            return self._seen[found[0]]
        digests = [self._keep(self._pictures.get(one)) for one in found]
        if is_table:
            self._seen[index] = digests
        return digests


def find(name: str) -> Benchmark:
    """A benchmark by its name; an unknown one is a `UserError`."""
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def named(given: Sequence[str]) -> dict[str, Path | None]:
    """Benchmarks as the command line names them, NAME=PATH or NAME alone for the hub; a name that comes twice or is none is a `UserError`."""
    found: dict[str, Path | None] = {}
    for one in given:
        name, equals, path = one.partition("=")
        find(name)
        if name in found:
            raise UserError(f"{name} is named twice; give a folder that holds all its files")
        if equals and not path:
            raise UserError(f"{one!r} must read NAME=PATH, or NAME to take it from the hub")
        found[name] = Path(path) if path else None
    return found


def _check(wanted: Sequence[str], row: Row, layout: str) -> None:
    if missing := [column for column in wanted if column not in row]:
        raise RowError("missing_column", f"{layout} of it has the column{'s' * (len(missing) > 1)} {', '.join(missing)}; the row has {', '.join(row)}")


# What is asked


def _options(row: Row) -> list[str]:
    """Of either layout: a list (in MMMU written as text), or the columns A, B, .."""
    listed = unfolded(row.get("options", row.get("choices")))
    if isinstance(listed, list):
        return [str(option) for option in listed]
    return [str(row[letter(place)]) for place in range(MOST_OPTIONS) if _given(row.get(letter(place)))]


def _given(value: Any) -> bool:
    # Tables that went through pandas have its word for nothing.
    return value is not None and str(value).strip().lower() not in ("", "nan")


def _lettered(options: Sequence[str]) -> str:
    return "\n".join(f"{letter(place)}. {option}" for place, option in enumerate(options))


def _choice(row: Row) -> str:
    hint = f"{row['hint']}\n" if _given(row.get("hint")) else ""
    return f"{hint}{row['question']}\n{_lettered(_options(row))}\n{LETTER}"


def _inline(row: Row) -> str:
    """MMStar's options stand in the question already, unless they have columns of their own."""
    return _choice(row) if _options(row) else f"{row['question'].strip()}\n{LETTER}"


def _mmmu(row: Row) -> str:
    options = _options(row)
    return f"{row['question']}\n{_lettered(options)}\n{LETTER}" if options else f"{row['question']}\n{PHRASE}"


def _phrase(row: Row) -> str:
    return f"{row['question']}\n{PHRASE}"


def _mathvista(row: Row) -> str:
    """The benchmark's own query: hint, question, unit, choices."""
    return str(row["query"]) if "query" in row else str(row["question"])


def _vision(_: Row) -> str:
    return f"Answer the question in the picture. {LETTER}"


def _as_is(row: Row) -> str:
    return str(row["question"]).strip()


def _rotations(row: Row) -> int:
    return int(row["index"]) % _ROTATIONS


def _page(row: Row) -> Any:
    """Of the columns that name a picture or a document the first that there is."""
    return next(row[column] for column in ("question_id", "docId", "image_path", "index") if column in row)


_MMMU_IMAGES = tuple(f"image_{number}" for number in range(1, 8))
_TABLE_VISION = ("index", "image", "answer")

BENCHMARKS: dict[str, Benchmark] = {
    "mmmu": Benchmark("lmms-lab/MMMU::validation", ("id", "question", "options", "question_type", "answer"), _mmmu, ("id", "index"), images=_MMMU_IMAGES),
    "mmmu-pro": Benchmark("MMMU/MMMU_Pro:standard (10 options):test", ("id", "question", "options", "answer"), _mmmu, ("id", "index"), images=_MMMU_IMAGES),
    "mmmu-pro-vision": Benchmark("MMMU/MMMU_Pro:vision:test", ("id", "options", "answer"), _vision, ("id", "index"), table=_TABLE_VISION),
    "mmbench": Benchmark("lmms-lab/MMBench:en:dev", ("index", "question", "A", "B", "answer", "category"), _choice, cluster=_rotations),
    "mme": Benchmark("lmms-lab/MME::test", ("question_id", "question", "answer", "category"), _as_is, (), _page),
    "chartqa": Benchmark("lmms-lab/ChartQA::test", ("type", "question", "answer"), _phrase),
    "mmstar": Benchmark("Lin-Chen/MMStar::val", ("index", "question", "answer", "category", "l2_category"), _inline),
    "mathvista": Benchmark(
        "AI4Math/MathVista::testmini",
        ("pid", "question", "choices", "unit", "precision", "answer", "question_type", "answer_type", "query"),
        _mathvista,
        ("pid", "index"),
        images=("decoded_image",),
    ),
    "textvqa": Benchmark("lmms-lab/textvqa::validation", ("question", "answers"), _phrase, ("question_id", "index")),
    "docvqa": Benchmark("lmms-lab/DocVQA:DocVQA:validation", ("questionId", "question", "answers"), _phrase, ("questionId", "index"), _page),
    "ocrbench": Benchmark("echo840/OCRBench::test", ("dataset", "question", "question_type", "answer"), _as_is),
    "ai2d": Benchmark("lmms-lab/ai2d::test", ("question", "options", "answer"), _choice),
    "ai2d-no-mask": Benchmark("Efficient-Large-Model/ai2d-no-mask::test", ("question", "options", "answer"), _choice),
}
"""By the name that stands beside every number."""


def _texts(value: Any) -> list[str]:
    listed = unfolded(value)
    return [str(one) for one in (listed if isinstance(listed, list) else [listed]) if one is not None]
