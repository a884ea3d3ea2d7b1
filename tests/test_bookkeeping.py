"""Figures of a journal, its export, and what is pruned to be asked for anew."""

import asyncio
import gzip
from pathlib import Path

import orjson
import pytest

from insightv import bookkeeping
from insightv.config import UserError
from insightv.journal import Bill, Journal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of a journal: five replies of two models and one failure, paid by two runs."""

    async def put(journal: Journal, names: str, model: str) -> None:
        await asyncio.gather(*(journal.put(name, {"message": {"content": name}, "model": model}, Bill(1, 0, 100, 10, 50, 0.5)) for name in names))

    with Journal(tmp_path, "one") as one, Journal(tmp_path, "two") as two:
        asyncio.run(put(one, "ace", "m@1"))
        asyncio.run(put(two, "bd", "m@2"))
        asyncio.run(two.put("f", {"error": "HTTP 400: no", "model": "m@2"}, Bill(1, 1)))
    return tmp_path


def test_figures_tell_replies_and_bills_by_model(folder: Path) -> None:
    assert len(list(folder.glob("*.sqlite"))) == 2
    first, second = bookkeeping.stats(folder)
    assert first.items() >= {"model": "m@1", "replies": 3, "failed": 0, "requests": 3, "tokens in": 300, "cached": "50%", "cost": 1.5}.items()
    assert second.items() >= {"model": "m@2", "replies": 3, "failed": 1, "requests": 3, "tokens out": 20}.items()
    with Journal(folder) as journal:
        assert journal.bills("one") == {"m@1": Bill(3, 0, 300, 30, 150, 1.5)}


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_an_export_holds_every_reply_in_the_order_of_the_keys_and_is_the_same_bytes_again(folder: Path, name: str) -> None:
    first, second = folder / name, folder / f"again-{name}"
    assert bookkeeping.export(folder, first) == bookkeeping.export(folder, second) == 6
    assert first.read_bytes() == second.read_bytes()
    text = gzip.decompress(first.read_bytes()) if name.endswith(".gz") else first.read_bytes()
    rows = [orjson.loads(line) for line in text.splitlines()]
    assert [row["key"] for row in rows] == list("abcdef")
    assert rows[0]["row"] == {"message": {"content": "a"}, "model": "m@1"}


@pytest.mark.parametrize(("choice", "left"), [({"model": "m@1"}, "bdf"), ({"failed": True}, "abcde"), ({"model": "m@1", "failed": True}, "abcdef")])
def test_what_is_pruned_is_gone_and_nothing_else(folder: Path, choice: dict[str, object], left: str) -> None:
    removed, _ = bookkeeping.prune(folder, **choice)  # type: ignore[arg-type] # of several types
    assert removed == 6 - len(left)
    with Journal(folder) as journal:
        assert sorted(journal.get_many("abcdef")) == list(left)
        # What was paid was paid.
        assert sum(bill.requests for bill in journal.bills().values()) == 6


def test_a_journal_in_use_is_left_alone(folder: Path) -> None:
    with Journal(folder) as journal:
        journal.put_many({"g": {}})
        with pytest.raises(UserError, match="in use by a run"):
            bookkeeping.prune(folder, failed=True)


def test_a_wrong_folder_or_no_choice_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no journal at"):
        bookkeeping.stats(tmp_path)
    with pytest.raises(UserError, match="say what to prune"):
        bookkeeping.prune(tmp_path)
