from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.models import KINDS
from insightv.config import TrainConfig, UserError
from insightv.models.vlm import VLM, load
from insightv.training import prepared
from insightv.training.packing import Row
from insightv.training.prepared import Rows, prepare_rows
from insightv.training.rows import encode_row, tokenize_row

Data = list[dict[str, Any]]


def made(vlm: VLM, folder: Path, work: Path, **values: Any) -> tuple[Rows, dict[str, int]]:
    return prepare_rows(vlm, folder, TrainConfig.model_validate({"max_length": 1000} | values), work)


def assert_same(row: Row, expected: Row) -> None:
    assert (row.row_id, row.prompt_ids, row.answers) == (expected.row_id, expected.prompt_ids, expected.answers)
    assert row.pixels.keys() == expected.pixels.keys() and all(torch.equal(tensor, expected.pixels[name]) for name, tensor in row.pixels.items())


def several(rows: Callable[..., Data]) -> Data:
    """Rows of one picture, of two, and of none, whose pictures have three sizes."""
    data = rows(7, pairs=True)
    data[4]["images"] += data[5]["images"]
    data[4]["prompt"][0]["content"].insert(0, {"type": "image", "text": None})
    data[6] |= {"images": [], "prompt": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_and_their_lengths_are_known_before_an_image_is_prepared(
    kind: str, tiny: Callable[[str], Path], rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path
) -> None:
    vlm, data = load(tiny(kind)), several(rows)
    got, dropped = made(vlm, save(data), tmp_path / "work")
    expected = [encode_row(vlm, tokenize_row(vlm, item)) for item in data]
    assert len(got) == 7 and dropped == {} and got.ids == [row.row_id for row in expected]
    assert got.lengths.tolist() == [row.length for row in expected]
    assert got.widths.tolist() == [row.width for row in expected]
    assert got.loss_tokens.tolist() == [[sum(answer.mask) for answer in row.answers] for row in expected]
    assert got.pictured.tolist() == [True] * 6 + [False]
    for index in (3, 0, 6, 4, 5, 2, 1):
        assert_same(got[index], expected[index])


def test_shares_of_several_processes_make_the_same_rows(
    tiny_qwen: Path, rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, folder = load(tiny_qwen), save(several(rows))
    pq.write_table(pa.Table.from_pylist([row | {"id": f"more{row['id']}"} for row in rows(5, pairs=True)]), folder / "train2.parquet")
    monkeypatch.setattr(prepared, "_BATCH", 2)
    whole, _ = made(vlm, folder, tmp_path / "work")
    (tmp_path / "shares").mkdir()
    for share in range(3):
        prepared._write_share(vlm, sorted(folder.glob("*.parquet")), tmp_path / "shares", share, 3, None)
    parts = Rows(vlm, tmp_path / "shares")
    assert parts.ids == whole.ids == [*(f"row{number}" for number in range(7)), *(f"morerow{number}" for number in range(5))]
    assert parts.digests == whole.digests and len(set(whole.digests)) == 12
    for index in range(12):
        assert_same(parts[index], whole[index])


def test_a_training_that_starts_again_finds_them_and_one_that_was_killed_makes_them_anew(
    tiny_llava: Path, rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, folder, work = load(tiny_llava), save(rows(5)), tmp_path / "work"
    real, tokenized = prepared.tokenize_row, []

    def stopped(vlm: VLM, item: dict[str, Any]) -> Any:
        tokenized.append(item["id"])
        if len(tokenized) == 3:
            raise KeyboardInterrupt
        return real(vlm, item)

    monkeypatch.setattr(prepared, "tokenize_row", stopped)
    with pytest.raises(KeyboardInterrupt):
        made(vlm, folder, work)
    first, _ = made(vlm, folder, work)
    again, _ = made(vlm, folder, work)
    assert len(tokenized) == 3 + 5 and again.ids == first.ids and [path.suffix for path in work.iterdir()] == [""]
    # Other data, or another tokenizer, are not taken for them.
    made(vlm, save(rows(6)), work)
    assert len(tokenized) == 8 + 6
    vlm.tokenizer.add_tokens(["<new>"])
    made(vlm, folder, work)
    assert len(tokenized) == 14 + 5


def test_images_are_prepared_once_an_epoch_and_where_there_is_room_once(
    tiny_llava: Path, rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, folder = load(tiny_llava), save(rows(4))
    real, times = prepared.prepare, []
    monkeypatch.setattr(prepared, "prepare", lambda *given: (times.append(1), real(*given))[1])
    for room, expected in ((prepared._PIXELS, 4), (0, 12)):
        monkeypatch.setattr(prepared, "_PIXELS", room)
        got, _ = made(vlm, folder, tmp_path / "work")
        times.clear()
        for _ in range(3):
            for index in range(4):
                got[index]
        assert len(times) == expected


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"images": [{"bytes": None, "path": "gone.png"}]}, "an image is missing: its bytes must stand in the data set"),
    "empty": ({"images": [{"bytes": b"", "path": None}]}, "an image is missing: its bytes must stand in the data set"),
    "none": ({"images": []}, "fewer images than places for them"),
    "damaged": ({"images": [{"bytes": b"\x89PNG\r\n\x1a\n0000", "path": None}]}, "the image is damaged and cannot be decoded"),
    "lost": ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "no place"}]}]}, "more images than places for them in its prompt"),
    "silent": ({"completion": []}, "an answer without a token to learn"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_is_refused_by_name_before_training_starts(
    kind: str, tiny_llava: Path, rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path
) -> None:
    change, why = BROKEN[kind]
    data = rows(4)
    data[2] |= change
    folder = save(data)
    for _ in range(2):
        with pytest.raises(UserError) as refused:
            made(load(tiny_llava), folder, tmp_path / "work")
        assert str(refused.value) == f"1 of 4 rows in {folder} cannot be trained on: row2 ({why})"


def test_many_broken_rows_are_counted_and_the_first_five_named(tiny_llava: Path, rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path) -> None:
    vlm, data = load(tiny_llava), rows(9)
    lengths = made(vlm, save(data), tmp_path / "work")[0].lengths
    limit = int(sorted(lengths)[4])
    long = [index for index in range(9) if lengths[index] > limit]
    data[long[1]]["images"] = []
    why = {index: f"{lengths[index]} tokens, more than max_length = {limit}" for index in long} | {long[1]: "fewer images than places for them"}
    broken = [f"row{index} ({why[index]})" for index in long]
    folder = save(data)
    with pytest.raises(UserError) as refused:
        made(vlm, folder, tmp_path / "work", max_length=limit)
    listed = ", ".join(broken[:5]) + (", .." if len(broken) > 5 else "")
    hint = "; raise max_length, or leave longer rows out by too_long: drop"
    assert str(refused.value) == f"{len(broken)} of 9 rows in {folder} cannot be trained on: {listed}{hint}"
    everything = made(vlm, save(data[:1]), tmp_path / "work")[0].lengths
    with pytest.raises(UserError, match=r"^6 of 6 .* row4 \([^)]*\), \.\.; raise"):
        made(vlm, save([data[0] | {"id": f"row{number}"} for number in range(6)]), tmp_path / "work", max_length=int(everything[0]) - 1)


def test_longer_rows_can_be_dropped_and_are_counted(tiny_llava: Path, rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path) -> None:
    vlm, folder = load(tiny_llava), save(rows(6))
    whole, _ = made(vlm, folder, tmp_path / "work")
    limit = int(sorted(whole.lengths)[2])
    some, dropped = made(vlm, folder, tmp_path / "work", max_length=limit, too_long="drop")
    kept = [place for place, length in enumerate(whole.lengths) if length <= limit]
    assert dropped == {"too_long": 6 - len(kept)} and some.ids == [whole.ids[place] for place in kept]
    assert_same(some[0], whole[kept[0]])


def test_ids_that_come_twice_are_refused(tiny_llava: Path, rows: Callable[..., Data], save: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 row ids come more than once in .*: row0, row1"):
        made(load(tiny_llava), save(rows(2) * 2), tmp_path / "work")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "no data set in .*: it holds no .parquet file"),
        (lambda folder: (folder / "a.parquet").write_bytes(b"PAR1"), r"a\.parquet cannot be read as Parquet"),
        (lambda folder: pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), folder / "a.parquet"), r"must have the columns id, .*; it has id, text"),
    ],
)
def test_what_is_no_data_set_is_one_clear_line(write: Callable[[Path], Any], message: str, tiny_llava: Path, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        made(load(tiny_llava), tmp_path, tmp_path / "work")
    assert "\n" not in str(refused.value)
