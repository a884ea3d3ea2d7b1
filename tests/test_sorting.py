"""Sorting on disk against `sorted`, with whatever bytes and however little memory."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insightv.config import UserError
from insightv.sorting import Sorter


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    items=st.lists(st.tuples(st.sampled_from([b"", b"\0", b"a", b"a\0", b"ab", b"b", b"\xff"]) | st.binary(max_size=5), st.binary(max_size=300)), max_size=60),
    memory=st.sampled_from([0, 200, 1000, 5000, 10**6]),
)
def test_lines_come_back_as_sorted_gives_them(tmp_path_factory: pytest.TempPathFactory, items: list[tuple[bytes, bytes]], memory: int) -> None:
    scratch = tmp_path_factory.mktemp("sorted") / "scratch"
    sorter = Sorter(scratch, memory)
    for key, line in items:
        sorter.add(key, line)
    # By the key alone: equal keys keep the order in which they came.
    assert list(sorter) == [line for _, line in sorted(items, key=lambda item: item[0])]
    assert not scratch.exists()


def test_memory_is_kept_and_the_rest_lies_on_disk(tmp_path: Path) -> None:
    sorter = Sorter(tmp_path / "scratch", 10_000)
    for number in range(1000):
        sorter.add(b"%06d" % (number * 7919 % 1000), b"x" * 94)
        assert sum(len(key) + len(line) for key, line in sorter._held) <= 10_000
    assert sum(path.stat().st_size for path in (tmp_path / "scratch").iterdir()) > 90_000


def test_what_an_earlier_process_left_is_not_taken_for_ours(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    for _ in range(2):  # the first is killed before it gives anything back
        sorter = Sorter(scratch, 0)
        sorter.add(b"k", b"line")
    assert list(sorter) == [b"line"] and not scratch.exists()


@pytest.mark.parametrize("cut", [1, 5, 8, 13, 20, 21])
def test_scratch_that_was_cut_off_is_an_error_and_no_shorter_list(tmp_path: Path, cut: int) -> None:
    sorter = Sorter(tmp_path / "scratch", 50)
    for number in range(3):
        sorter.add(b"key%d" % number, b"line-%04d" % number)  # 21 bytes a record with its head
    [*_, last] = sorted((tmp_path / "scratch").iterdir())
    last.write_bytes(last.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"scratch.*000002.*run the same command again"):
        list(sorter)


def test_a_full_disk_is_the_users_to_mend(tmp_path: Path) -> None:
    sorter = Sorter(tmp_path / "scratch", 0)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "000000").symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk is full"):
        sorter.add(b"k", b"line")
