"""A data set tokenised and checked before the first step, and kept on disk: any number of rows trains in little memory.

Text is tokenised once. An image is prepared when its row's turn comes, once an epoch: the pixels of a million rows fit nowhere.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import Dataset

from insightv.config import TrainConfig, UserError
from insightv.images import ImageError, decode
from insightv.models.vlm import VLM, Prepared, prepare
from insightv.store import content_hash
from insightv.training.packing import Answer, Row
from insightv.training.ranks import together
from insightv.training.rows import RowRefused, Tokens, encode_row, prompt_length, tokenize_row

_VERSION = 1
"""Part of the name of what is kept: raise it when the code comes to other tokens."""
_BATCH = 64
"""Rows that are read or written together; each may hold megabytes of images."""
_NAMED = 5
"""Refused rows that are named."""
_PIXELS = 256 * 2**20
"""Bytes of prepared images that a process keeps: those of a small data set are prepared once, not once an epoch."""
_COLUMNS = pa.schema(
    {
        "place": pa.int64(),
        "part": pa.int64(),
        "id": pa.string(),
        "prompt": pa.list_(pa.int32()),
        "answers": pa.list_(pa.list_(pa.int32())),
        "masks": pa.list_(pa.list_(pa.int8())),
        "images": pa.list_(pa.list_(pa.int64())),
        "length": pa.int64(),
        "width": pa.int64(),
        "loss_tokens": pa.list_(pa.int64()),
        "digest": pa.string(),
    }
)
"""`images` are the start and the size of each in the part's file of images."""


class Rows(Dataset[Row]):
    """The rows of a data set in its order; tokens are memory-mapped, images are read and prepared when their row is asked for."""

    def __init__(self, vlm: VLM, folder: Path) -> None:
        self._vlm = vlm
        self._table = pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in sorted(folder.glob("*.arrow"))])
        self._images = {int(path.stem): os.open(path, os.O_RDONLY) for path in folder.glob("*.images")}
        self._order = np.argsort(self._table["place"].to_numpy())
        self._kept: dict[tuple[Any, ...], Prepared] = {}
        self._room = _PIXELS

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Row:
        [row] = self._table.slice(int(self._order[index]), 1).to_pylist()
        answers = [Answer(ids, mask) for ids, mask in zip(row["answers"], row["masks"], strict=True)]
        key = (row["part"], *map(tuple, row["images"]))
        return encode_row(self._vlm, Tokens(row["id"], row["prompt"], answers), self._kept.get(key) or self._prepare(*key))

    def without(self, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Leave out the rows whose place in this mask is false."""
        self._order = self._order[keep]

    @property
    def ids(self) -> list[str]:
        """The name of each row."""
        return [str(name) for name in self._column("id")]

    @property
    def places(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where each row stands in the data set, those counted that are left out."""
        return self._column("place")

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each row's prompt with its longest answer."""
        return self._column("length")

    @property
    def widths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each row's prompt with all its answers."""
        return self._column("width")

    @property
    def loss_tokens(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[rows, answers] tokens that have loss."""
        return np.array(self._table["loss_tokens"].to_pylist())[self._order]

    @property
    def digests(self) -> list[str]:
        """A hash of each row's tokens and images."""
        return [str(name) for name in self._column("digest")]

    @property
    def pictured(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each row has an image."""
        lengths: np.ndarray[Any, np.dtype[np.int64]] = pa.compute.list_value_length(self._table["images"]).to_numpy()
        return lengths[self._order] > 0

    @property
    def spare(self) -> Row | None:
        """The narrowest row with an image, where others have none; see `packing.collate`."""
        pictured = np.flatnonzero(self.pictured)
        if len(pictured) in (0, len(self)):
            return None
        return self[int(pictured[self.widths[pictured].argmin()])]

    def _column(self, name: str) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = self._table[name].to_numpy()
        return values[self._order]

    def _prepare(self, part: int, *places: tuple[int, int]) -> Prepared:
        prepared = prepare(self._vlm, [os.pread(self._images[part], size, start) for start, size in places])
        size = sum(tensor.nbytes for tensor in prepared.pixels.values())
        if size <= self._room:
            self._kept[part, *places] = prepared
            self._room -= size
        return prepared


def prepare_rows(vlm: VLM, data: Path, config: TrainConfig, work: Path, report: Callable[[dict[str, Any]], None] | None = None) -> tuple[Rows, dict[str, int]]:
    """Tokenise and check the data set in `data`; returns its rows, and how many were dropped by reason.

    Every process takes its share; what is made lies in `work`, where a training that was killed finds it again. Rows that cannot be trained on are a
    `UserError` that counts them and names the first few: an image is missing or damaged, prompt and images do not fit together, an answer has nothing
    to learn, the row is longer than `config.max_length` (unless `config.too_long` drops these), an id comes twice.
    """
    files = sorted(data.glob("*.parquet"))
    if not files:
        raise UserError(f"no data set in {data}: it holds no .parquet file")
    _check_columns(files)
    stamps = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    folder = work / f"rows-{content_hash([_VERSION, vlm.identity, len(vlm.tokenizer), stamps])[:16]}"
    if not folder.is_dir():
        _tokenize(vlm, files, folder, report)
    rows = Rows(vlm, folder)
    return rows, _checked(rows, folder, data, config)


def _check_columns(files: Sequence[Path]) -> None:
    for file in files:
        try:
            names = set(pq.read_schema(file).names)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} cannot be read as Parquet: {' '.join(str(error).split())}") from None
        if not {"id", "prompt"} <= names or not ("completion" in names or {"chosen", "rejected"} <= names):
            raise UserError(f"{file} must have the columns id, images, prompt, and completion or chosen and rejected; it has {', '.join(sorted(names))}")


def _tokenize(vlm: VLM, files: Sequence[Path], folder: Path, report: Callable[[dict[str, Any]], None] | None) -> None:
    """Make the folder, each process its share."""
    processes, part = together(), folder.with_suffix(".part")
    if processes.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    processes.wait_for_everyone()
    _write_share(vlm, files, part, processes.process_index, processes.num_processes, report if processes.is_main_process else None)
    processes.wait_for_everyone()
    if processes.is_main_process:
        part.rename(folder)
    processes.wait_for_everyone()


def _write_share(vlm: VLM, files: Sequence[Path], folder: Path, share: int, of: int, report: Callable[[dict[str, Any]], None] | None) -> None:
    refused: list[tuple[int, str, str]] = []
    batch: list[dict[str, Any]] = []
    total = sum(pq.read_metadata(file).num_rows for file in files)
    with (folder / f"{share}.images").open("wb") as blobs, pa.ipc.new_file(str(folder / f"{share}.arrow"), _COLUMNS) as tokens:
        images = _Images(blobs)
        for place, item in _items(files, share, of):
            try:
                batch.append({"place": place, "part": share} | _entry(vlm, item, images))
            except RowRefused as error:
                refused.append((place, item["id"], str(error)))
            if len(batch) == _BATCH:
                tokens.write_batch(pa.RecordBatch.from_pylist(batch, _COLUMNS))
                batch.clear()
                if report:
                    report({"step": place + 1, "of": total})
        tokens.write_batch(pa.RecordBatch.from_pylist(batch, _COLUMNS))
    (folder / f"{share}.refused").write_text(json.dumps(refused), encoding="utf-8")


def _items(files: Sequence[Path], share: int, of: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """A share of the rows, each with its place among all."""
    place = 0
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH):
            chosen = range((share - place) % of, len(batch), of)
            yield from zip((place + index for index in chosen), batch.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True)
            place += len(batch)


class _Images:
    """Encoded images, written one behind the other, each once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._known: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}

    def add(self, name: str, data: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
        """(start, bytes) and (width, height) of an image, by its digest, that can be decoded; else `RowRefused`."""
        if name not in self._known:
            try:
                size = decode(data).size
            except ImageError as error:
                raise RowRefused(str(error)) from None
            self._known[name] = ((self._file.tell(), len(data)), size)
            self._file.write(data)
        return self._known[name]


def _entry(vlm: VLM, item: dict[str, Any], images: _Images) -> dict[str, Any]:
    row = tokenize_row(vlm, item)
    placed = [images.add(*image) for image in zip(row.digests, row.images, strict=True)]
    prompt = prompt_length(vlm, row, [size for _, size in placed])
    answers, masks = [answer.ids for answer in row.answers], [answer.mask for answer in row.answers]
    return {
        "id": row.row_id,
        "prompt": row.prompt,
        "answers": answers,
        "masks": masks,
        "images": [list(place) for place, _ in placed],
        "length": prompt + max(map(len, answers)),
        "width": prompt + sum(map(len, answers)),
        "loss_tokens": list(map(sum, masks)),
        "digest": content_hash([row.prompt, answers, masks, list(row.digests)]),
    }


def _checked(rows: Rows, folder: Path, data: Path, config: TrainConfig) -> dict[str, int]:
    """Refuse what cannot be trained on, drop what shall be dropped."""
    refused = [tuple(one) for file in folder.glob("*.refused") for one in json.loads(file.read_text(encoding="utf-8"))]
    total = len(rows) + len(refused)
    twice = [name for name, times in Counter(rows.ids).items() if times > 1]
    if twice:
        raise UserError(f"{len(twice)} row ids come more than once in {data}: {', '.join(twice[:_NAMED])}")
    short = rows.lengths <= config.max_length
    hint = ""
    if config.too_long == "refuse" and not short.all():
        ids, lengths, places = rows.ids, rows.lengths, rows.places
        refused += [(places[index], ids[index], f"{lengths[index]} tokens, more than max_length = {config.max_length}") for index in np.flatnonzero(~short)]
        hint = "; raise max_length, or leave longer rows out by too_long: drop"
    if refused:
        named = ", ".join(f"{name} ({why})" for _, name, why in sorted(refused)[:_NAMED])
        raise UserError(f"{len(refused)} of {total} rows in {data} cannot be trained on: {named}{', ..' if len(refused) > _NAMED else ''}{hint}")
    dropped = int((~short).sum())
    if dropped == total:
        raise UserError(f"no rows to train on in {data}: all {total} are longer than max_length = {config.max_length}")
    rows.without(short)
    return {"too_long": dropped} if dropped else {}
