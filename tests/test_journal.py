"""The journal's bills, its shared commits, many readers and writers, a full disk: nothing paid is lost, torn or counted twice."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from insightv.config import UserError
from insightv.journal import Bill, Journal

PAYER = """
import asyncio, sys
from pathlib import Path
from insightv.journal import Bill, Journal

async def main(journal, name):
    async def put(number):
        await journal.put(f"{name}-{number}", {"model": f"m{number % 3}", "number": number}, Bill(1 + number % 2, 0, number, 1, 0, 0.25))

    for start in range(0, 100_000, 20):
        await asyncio.gather(*(put(number) for number in range(start, start + 20)))
        print(start + 20, flush=True)

asyncio.run(main(Journal(Path(sys.argv[1]), sys.argv[2]), sys.argv[2]))
"""


def rows(folder: Path) -> dict[str, bytes]:
    """Every row of every file, read by nothing of ours."""
    found: dict[str, bytes] = {}
    for path in folder.glob("*.sqlite"):
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for key, row in connection.execute("SELECT key, row FROM replies"):
                assert key not in found, "a key has one row over all files"
                found[key] = row
    return found


def bill(number: int) -> Bill:
    return Bill(1, number % 2, number, 10 * number, number // 2, 0.5)


def total(numbers: Iterator[int] | range) -> Bill:
    result = Bill()
    for number in numbers:
        result = result.plus(bill(number))
    return result


def test_bills_are_the_sum_of_what_was_put_by_model_and_payer(tmp_path: Path) -> None:
    async def put(journal: Journal, name: str, numbers: range) -> None:
        await asyncio.gather(*(journal.put(f"{name}{number}", {"model": f"m{number % 2}"}, bill(number)) for number in numbers))

    with Journal(tmp_path, "one") as one, Journal(tmp_path, "two") as two:
        asyncio.run(put(one, "a", range(100)))
        asyncio.run(put(two, "b", range(50)))
        asyncio.run(put(one, "c", range(100, 130)))
        for journal in (one, two):
            assert journal.bills("one") == {"m0": total(range(0, 130, 2)), "m1": total(range(1, 130, 2))}
            assert journal.bills("two") == {"m0": total(range(0, 50, 2)), "m1": total(range(1, 50, 2))}
            assert journal.bills("three") == {}
            assert journal.bills()["m0"] == total(range(0, 130, 2)).plus(total(range(0, 50, 2)))
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_a_reply_that_was_paid_twice_is_billed_twice_and_stands_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as one, Journal(tmp_path) as two:
        assert asyncio.run(one.put("k", {"model": "m", "by": 1}, Bill(1, cost=2.0))) == asyncio.run(two.put("k", {"model": "m", "by": 2}, Bill(1, cost=2.0)))
        assert one.bills() == {"m": Bill(2, cost=4.0)}


def test_bills_and_rows_agree_after_kills(tmp_path: Path) -> None:
    chance = random.Random(0)
    for round_ in range(3):
        names = [f"{round_}{name}" for name in "xy"]
        writers = [subprocess.Popen([sys.executable, "-c", PAYER, str(tmp_path), name], stdout=subprocess.PIPE, text=True) for name in names]
        for writer in writers:
            assert writer.stdout and writer.stdout.readline()
        time.sleep(chance.uniform(0.05, 0.3))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        acknowledged = {name: int(([20] + [int(line) for line in writer.communicate()[0].split()])[-1]) for name, writer in zip(names, writers, strict=True)}
        stored = rows(tmp_path)
        with Journal(tmp_path) as journal:
            for name, count in acknowledged.items():
                numbers = [int(key.rpartition("-")[2]) for key in stored if key.startswith(f"{name}-")]
                assert set(range(count)) <= set(numbers) and len(numbers) <= count + 20
                bills = journal.bills(name)
                for model in range(3):
                    of_model = [number for number in numbers if number % 3 == model]
                    assert bills[f"m{model}"] == Bill(sum(1 + number % 2 for number in of_model), 0, sum(of_model), len(of_model), 0, 0.25 * len(of_model))
    assert len(list(tmp_path.glob("*.sqlite"))) == 2, "the files of the killed were taken over"


TORN = """
import os, signal, sys
from pathlib import Path
from insightv.journal import Bill, Journal

class Torn(Journal):
    def _commit(self, rows, *rest):
        super()._commit(rows, *rest)
        if rows[0][0] == "lost":
            os.kill(os.getpid(), signal.SIGKILL)

journal = Torn(Path(sys.argv[1]), "torn")
journal.put_many({"kept": {"said": "torn"}}, {"m": Bill(1)})
print("begun", flush=True)
sys.stdin.readline()
journal.put_many({"lost": {"said": "torn"}}, {"m": Bill(1)})
"""


def test_a_commit_that_a_kill_left_half_done_never_comes_back_beside_what_was_stored_since(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", TORN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    with Journal(tmp_path, "other") as other:
        # With a file of its own, so that it does not go on with the dead one's.
        other.put_many({"own": {}})
        # While somebody has the file open, its index in shared memory outlives its writer.
        assert other.get("kept") == {"said": "torn"}
        [index] = tmp_path.glob(f"*-{process.pid}-*.sqlite-shm")
        before = index.read_bytes()[:96]
        process.communicate("\n", timeout=60)
        assert process.returncode == -signal.SIGKILL
        # As if it had died after the log was on the disk, and before the index said so: its two headers are as they were.
        with index.open("r+b") as file:
            file.write(before)
        assert other.get("lost") is None
        assert other.put_many({"lost": {"said": "other"}}, {"m": Bill(1)}) == {"lost": {"said": "other"}}
        # As if it too were killed: what opens the files next finds no index, and reads the whole log anew.
        shutil.copytree(tmp_path, tmp_path / "later", ignore=shutil.ignore_patterns("*-shm"))
    assert rows(tmp_path / "later") == {"kept": b'{"said":"torn"}', "own": b"{}", "lost": b'{"said":"other"}'}
    with Journal(tmp_path / "later") as again:
        assert again.get("lost") == {"said": "other"} and again.bills() == {"m": Bill(2)}


def test_many_puts_on_loops_of_several_threads_share_few_commits(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    with Journal(tmp_path) as journal:

        async def put_all(name: str) -> None:
            for wave in range(4):
                keys = [f"{name}-{wave}-{number}" for number in range(250)]
                standing = await asyncio.gather(*(journal.put(key, {"key": key}, Bill(1)) for key in keys))
                assert [row["key"] for row in standing] == keys
                # What was acknowledged can be read at once, by whichever thread.
                assert len(journal.get_many(keys)) == 250 and journal.get(keys[-1]) == {"key": keys[-1]}

        def work(name: str) -> None:
            try:
                asyncio.run(put_all(name))
            except BaseException as error:
                errors.append(error)

        commits = 0
        commit = journal._commit

        def counted(*told: object) -> None:
            nonlocal commits
            commits += 1
            commit(*told)  # type: ignore[arg-type]

        journal._commit = counted  # type: ignore[method-assign, assignment]
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and commits <= 40
        assert journal.bills() == {"": Bill(3000)}
    assert len(rows(tmp_path)) == 3000


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, Journal(tmp_path) as other:
        journal.put_many({"a": {"n": 1}})
        [path] = tmp_path.glob("*.sqlite")
        with sqlite3.connect(path, isolation_level=None) as writer:
            # As it stands in the middle of a commit that takes long.
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("INSERT INTO replies VALUES ('b', '{}')")
            begun = time.monotonic()
            for reader in (journal, other, fresh := Journal(tmp_path)):
                assert reader.get("a") == {"n": 1} and reader.get("b") is None and reader.bills() == {}
            assert time.monotonic() - begun < 0.5
            writer.execute("COMMIT")
        assert journal.get("b") == other.get("b") == {}
        fresh.close()


def test_a_reader_waits_for_no_commit_of_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path) as journal:
        journal.put_many({"a": {}})
        commit, slow = journal._commit, threading.Event()

        def slowly(*told: object) -> None:
            slow.set()
            time.sleep(0.5)
            commit(*told)  # type: ignore[arg-type]

        monkeypatch.setattr(journal, "_commit", slowly)
        writer = threading.Thread(target=journal.put_many, args=({"b": {}},))
        writer.start()
        slow.wait()
        begun = time.monotonic()
        assert journal.get("a") == {} and journal.get("b") is None and time.monotonic() - begun < 0.2
        writer.join()
        assert journal.get("b") == {}


def test_a_new_file_of_another_process_is_seen_within_a_moment(tmp_path: Path) -> None:
    with Journal(tmp_path) as reader:
        assert reader.get("k") is None
        with Journal(tmp_path) as writer:
            writer.put_many({"k": {"n": 1}})
            begun = time.monotonic()
            while reader.get("k") is None:
                assert time.monotonic() - begun < 1
                time.sleep(0.005)
            # Then a row in a file that is known is seen at once.
            writer.put_many({"l": {}})
            assert reader.get("l") == {}


def test_what_this_process_stored_first_is_seen_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert journal.get("k") is None
        asyncio.run(journal.put("k", {"n": 1}))
        assert journal.get("k") == {"n": 1}


def test_a_journal_opens_again_when_it_is_used_after_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "me")
    for number in range(3):
        asyncio.run(journal.put(str(number), {"model": "m"}, Bill(1)))
        assert journal.get(str(number)) == {"model": "m"}
        journal.close()
        journal.close()
        assert journal.bills("me") == {"m": Bill(number + 1)}
    journal.close()
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


def test_closing_commits_what_waits(tmp_path: Path) -> None:
    async def put_and_close(journal: Journal) -> None:
        tasks = [asyncio.create_task(journal.put(str(number), {})) for number in range(100)]
        await asyncio.sleep(0)
        await asyncio.to_thread(journal.close)
        await asyncio.wait_for(asyncio.gather(*tasks), 5)

    asyncio.run(put_and_close(journal := Journal(tmp_path)))
    assert len(rows(tmp_path)) == 100
    journal.close()


def test_a_put_while_the_journal_is_closed_by_another_thread_is_not_forgotten(tmp_path: Path) -> None:
    """A stage that ends may close what another still writes to."""

    async def put_on(journal: Journal) -> None:
        for wave in range(60):
            await asyncio.wait_for(asyncio.gather(*(journal.put(f"{wave} {number}", {}) for number in range(5))), 10)

    journal, done = Journal(tmp_path), threading.Event()

    def close_often() -> None:
        while not done.wait(0.003):
            journal.close()

    closer = threading.Thread(target=close_often)
    closer.start()
    try:
        asyncio.run(put_on(journal))
    finally:
        done.set()
        closer.join()
        journal.close()
    assert len(rows(tmp_path)) == 300


def test_a_put_whose_loop_has_ended_harms_nobody(tmp_path: Path) -> None:
    async def leave(journal: Journal) -> None:
        task = asyncio.create_task(journal.put("left", {}))
        await asyncio.sleep(0)
        task.cancel()

    with Journal(tmp_path) as journal:
        asyncio.run(leave(journal))
        assert asyncio.run(journal.put("after", {})) == {}
        assert journal.get("left") == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_told_to_every_waiter_and_the_journal_goes_on_when_there_is_room(small_disk: Path) -> None:
    row = {"model": "m", "text": "x" * 20_000}

    async def put_all(journal: Journal, start: int) -> list[object]:
        return await asyncio.gather(*(journal.put(f"{start + number}", row, Bill(1)) for number in range(20)), return_exceptions=True)

    with Journal(small_disk / "journal") as journal, Journal(small_disk / "journal") as reader:
        stored: set[str] = set()
        for start in range(0, 400, 20):
            results = asyncio.run(put_all(journal, start))
            failed = [result for result in results if isinstance(result, BaseException)]
            assert len(failed) in (0, 20)
            if failed:
                break
            stored |= {str(start + number) for number in range(20)}
        assert failed and all(isinstance(error, UserError) and "full" in str(error) and "free space" in str(error) for error in failed)
        assert 40 <= len(stored) < 100
        # Again in vain, and what was acknowledged can still be read.
        assert all(isinstance(result, UserError) for result in asyncio.run(put_all(journal, 1000)))
        for side in (journal, reader):
            assert set(side.get_many([str(number) for number in range(400)])) == stored and side.bills() == {"m": Bill(len(stored))}
        subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
        assert asyncio.run(put_all(journal, 2000)) == [row] * 20
        stored |= {str(2000 + number) for number in range(20)}
        assert reader.bills() == {"m": Bill(len(stored))}
    assert set(rows(small_disk / "journal")) == stored


def test_a_disk_that_is_full_from_the_start_leaves_no_litter(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (2 * 2**20 - 3 * 4096))
    with Journal(small_disk / "journal") as journal:
        for _ in range(5):
            with pytest.raises(UserError, match="full"):
                asyncio.run(journal.put("a", {"text": "x" * 50_000}))
        assert len(list((small_disk / "journal").iterdir())) <= 4
        (small_disk / "filler").unlink()
        asyncio.run(journal.put("a", {}))
        assert journal.get("a") == {}
    assert rows(small_disk / "journal") == {"a": b"{}"}
