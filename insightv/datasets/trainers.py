"""Data sets in the layouts of other trainers: LLaVA, LLaMA-Factory, ms-swift and verl. TRL reads ours as they are.

All of these mark an image's place by `<image>` in the text, so that a mark which somebody wrote in a text is broken up by a space.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from insightv.config import PromptsConfig, UserError
from insightv.datasets.export import shards
from insightv.files import replacing
from insightv.models.chat import Image, Message
from insightv.prompts import reasoner_messages
from insightv.records import Problem
from insightv.store import ImageStore

MARK = "<image>"
_BATCH = 256
_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_VERL = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "images": pa.list_(_IMAGE),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct({"split": pa.string(), "index": pa.int64(), "id": pa.string(), "question": pa.string(), "answers": pa.list_(pa.string())}),
    }
)


class Turn(NamedTuple):
    """A message as one text."""

    role: str
    text: str


class Plain(NamedTuple):
    """A row as texts: SFT has a conversation alone, a pair its two last turns besides."""

    row_id: str
    images: list[str]
    """Paths from the folder that is written."""
    conversation: list[Turn]
    chosen: str | None = None
    rejected: str | None = None


def export(data: Path, out: Path, layout: str) -> dict[str, int]:
    """Write the data set in `data` to `out` as `layout`: llava, llama-factory or ms-swift; images lie beside as files, each once.

    A pair whose rejected answer was cut at a limit of tokens is left out and counted: none of these layouts can say that no end of turn belongs to it.
    """
    files = shards(data)
    pairs = "rejected" in pq.read_schema(files[0]).names
    if layout == "llava" and pairs:
        raise UserError(
            f"{data} holds preference pairs, and LLaVA's layout has no place for them; choose llama-factory or ms-swift, or TRL, which reads it as it is"
        )
    images, counts = ImageStore(out / "images"), {"rows": 0, "left_out_truncated": 0}

    def rows() -> Iterator[Plain]:
        for item in _items(files):
            if item.get("rejected_truncated"):
                counts["left_out_truncated"] += 1
                continue
            counts["rows"] += 1
            yield _plain(item, images, out)

    LAYOUTS[layout](rows(), out, pairs)
    return counts


def export_verl(problems: Iterable[Problem], images: ImageStore, prompts: PromptsConfig, split: str, out: Path) -> dict[str, int]:
    """Write problems to `out`/`split`.parquet as verl's RL data: the reasoner's prompt, embedded images, and the ground truth for a rule's reward."""
    count = 0
    with replacing(out / f"{split}.parquet") as file, pq.ParquetWriter(file, _VERL, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for index, problem in enumerate(problems):
            batch.append(_verl(problem, images, prompts, split, index))
            count += 1
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, _VERL))
                batch.clear()
        writer.write_table(pa.Table.from_pylist(batch, _VERL))
    return {"rows": count}


def _verl(problem: Problem, images: ImageStore, prompts: PromptsConfig, split: str, index: int) -> dict[str, Any]:
    messages = reasoner_messages(problem, prompts)
    return {
        "data_source": problem.source or "insightv",
        "prompt": [{"role": message.role, "content": _said(message)} for message in messages],
        "images": [{"bytes": images.get(name), "path": None} for name in problem.images],
        "ability": problem.answer_type,
        "reward_model": {"style": "rule", "ground_truth": problem.answers[0]},
        "extra_info": {"split": split, "index": index, "id": problem.id, "question": problem.question, "answers": list(problem.answers)},
    }


def _said(message: Message) -> str:
    return "".join(MARK if isinstance(part, Image) else _broken(part.text) for part in message.parts)


def _items(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH):
            yield from batch.to_pylist()


def _plain(item: Mapping[str, Any], images: ImageStore, out: Path) -> Plain:
    paths = [str(images.path(images.add(image["bytes"])).relative_to(out)) for image in item["images"]]
    prompt = [_turn(message) for message in item["prompt"]]
    if item.get("completion") is not None:
        return Plain(item["id"], paths, [*prompt, *map(_turn, item["completion"])])
    chosen, rejected = ([_turn(message) for message in item[name]] for name in ("chosen", "rejected"))
    if len(chosen) != 1 or len(rejected) != 1:
        raise UserError(f"row {item['id']} has a pair of several turns, which only TRL's layout can hold")
    return Plain(item["id"], paths, prompt, chosen[0].text, rejected[0].text)


def _turn(message: Mapping[str, Any]) -> Turn:
    return Turn(message["role"], "".join(MARK if part["type"] == "image" else _broken(part["text"]) for part in message["content"]))


def _broken(text: str) -> str:
    return text.replace(MARK, "< image>")


def _llava(rows: Iterable[Plain], out: Path, _: bool) -> None:
    """data.json: `{id, image, conversations: [{from: human | gpt, value}]}`; `image` is a path, or a list of several."""

    def shaped(row: Plain) -> dict[str, Any]:
        told = {"id": row.row_id} | ({"image": row.images[0] if len(row.images) == 1 else row.images} if row.images else {})
        return told | {"conversations": [{"from": _SHAREGPT[turn.role], "value": turn.text.replace(MARK, f"{MARK}\n")} for turn in row.conversation]}

    _write_list(out / "data.json", map(shaped, rows))


def _llama_factory(rows: Iterable[Plain], out: Path, pairs: bool) -> None:
    """data.json in ShareGPT's form, and the dataset_info.json that names it `insightv`."""

    def shaped(row: Plain) -> dict[str, Any]:
        told: dict[str, Any] = {"conversations": [{"from": _SHAREGPT[turn.role], "value": turn.text} for turn in row.conversation]}
        if pairs:
            told |= {name: {"from": "gpt", "value": text} for name, text in (("chosen", row.chosen), ("rejected", row.rejected))}
        return told | {"images": row.images}

    _write_list(out / "data.json", map(shaped, rows))
    columns = {"messages": "conversations", "images": "images"} | ({"chosen": "chosen", "rejected": "rejected"} if pairs else {})
    info = {"insightv": {"file_name": "data.json", "formatting": "sharegpt", "ranking": pairs, "columns": columns}}
    with replacing(out / "dataset_info.json") as file:
        file.write(orjson.dumps(info, option=orjson.OPT_INDENT_2))


def _ms_swift(rows: Iterable[Plain], out: Path, pairs: bool) -> None:
    """data.jsonl: `{messages: [{role, content}], images: [path]}`, of a pair with the chosen answer last and `rejected_response` besides."""
    with replacing(out / "data.jsonl") as file:
        for row in rows:
            turns = [*row.conversation, *([Turn("assistant", row.chosen)] if row.chosen is not None else [])]
            told: dict[str, Any] = {"messages": [{"role": turn.role, "content": turn.text} for turn in turns], "images": row.images}
            file.write(orjson.dumps(told | ({"rejected_response": row.rejected} if pairs else {}), option=orjson.OPT_APPEND_NEWLINE))


_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}

LAYOUTS: dict[str, Callable[[Iterable[Plain], Path, bool], None]] = {"llava": _llava, "llama-factory": _llama_factory, "ms-swift": _ms_swift}


def _write_list(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON list, a row a line, so that no more than a row need be in memory."""
    with replacing(path) as file:
        file.write(b"[")
        for number, row in enumerate(rows):
            file.write((b",\n" if number else b"\n") + orjson.dumps(row))
        file.write(b"\n]\n")
