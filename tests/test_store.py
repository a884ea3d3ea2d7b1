"""The run directory keeps what was committed, once, through kills and from several processes."""

import asyncio
import errno
import io
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from insightv.config import UserError
from insightv.files import explained
from insightv.images import ImageError, encode_png
from insightv.records import Step
from insightv.store import ImageStore, Journal, Run, Stage, read_records, write_records

WRITER = """
import asyncio, sys
from pathlib import Path
from insightv.store import Journal

async def main(journal, name):
    for number in range(100_000):
        await journal.put(f"{name}-{number}", {"number": number})
        print(number, flush=True)

asyncio.run(main(Journal(Path(sys.argv[1])), sys.argv[2]))
"""


def png(colour: str = "red") -> bytes:
    return encode_png(Image.new("RGB", (8, 8), colour))


def test_rows_outlive_the_journal_that_wrote_them(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.put_many({"a": {"text": "é\n"}, "b": {"n": 1.5}})
    with Journal(tmp_path) as journal:
        assert journal.get_many(["a", "b", "c"]) == {"a": {"text": "é\n"}, "b": {"n": 1.5}}
        assert journal.get("c") is None


def test_the_first_row_of_a_key_stands_and_later_writers_are_told(tmp_path: Path) -> None:
    with Journal(tmp_path) as one, Journal(tmp_path) as two:
        one.put_many({"own": {"by": 1}})
        assert two.get("own") == {"by": 1}
        assert two.put_many({"own": {"by": 2}, "new": {"by": 2}}) == {"own": {"by": 1}, "new": {"by": 2}}
        assert one.put_many({"new": {"by": 1}}) == {"new": {"by": 2}}
        assert asyncio.run(one.put("new", {"by": 3})) == {"by": 2}
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_a_journal_takes_over_the_file_of_an_ended_one(tmp_path: Path) -> None:
    for number in range(3):
        with Journal(tmp_path) as journal:
            journal.put_many({str(number): {}})
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


def test_concurrent_puts_share_commits_and_the_same_key_is_stored_once(tmp_path: Path) -> None:
    async def put_all(journal: Journal) -> list[dict[str, int]]:
        return await asyncio.gather(*(journal.put(f"k{number % 500}", {"number": number}) for number in range(1000)))

    with Journal(tmp_path) as journal:
        standing = asyncio.run(put_all(journal))
    with Journal(tmp_path) as journal:
        assert [journal.get(f"k{number % 500}") for number in range(1000)] == standing
    assert [row["number"] for row in standing[:500]] == list(range(500))


def test_a_cancelled_put_is_stored_because_it_is_paid(tmp_path: Path) -> None:
    async def cancel_at_once(journal: Journal) -> None:
        task = asyncio.create_task(journal.put("paid", {"text": "yes"}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Journal(tmp_path) as journal:
        asyncio.run(cancel_at_once(journal))
    with Journal(tmp_path) as journal:
        assert journal.get("paid") == {"text": "yes"}


def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True) for name in ("x", "y")]
    with Journal(tmp_path) as reader:
        while not (reader.get("x-20") and reader.get("y-20")):
            time.sleep(0.02)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        acknowledged = {name: int(writer.communicate()[0].split()[-1]) for name, writer in zip("xy", writers, strict=True)}
    with Journal(tmp_path) as journal:
        for name, last in acknowledged.items():
            assert len(journal.get_many(f"{name}-{number}" for number in range(last + 1))) == last + 1
        journal.put_many({"after": {}})
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_a_damaged_journal_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "bad.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match=r"bad\.sqlite.*move a damaged file away"), Journal(tmp_path) as journal:
        journal.get("a")


def test_an_image_is_stored_once_under_its_digest(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    name = store.add(png())
    assert store.add(png()) == name
    assert store.path(name) == tmp_path / name[:2] / f"{name}.png"
    assert store.get(name) == png()
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    assert store.path(store.add(jpeg.getvalue())).suffix == ".jpg"
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".jpg", ".png"]


def test_a_missing_image_or_a_path_as_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    store = ImageStore(tmp_path / "images")
    for name in ("0" * 32, "../secret", "", "a/../../secret"):
        with pytest.raises(UserError, match="is not in"):
            store.get(name)
    with pytest.raises(ImageError):
        store.add(b"GIF89a")


def test_images_beyond_the_cache_are_read_again(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, cache=0)
    name = store.add(png())
    assert store.get(name) == png()
    store.path(name).unlink()
    with pytest.raises(UserError):
        store.get(name)


def test_records_come_back_in_their_order(tmp_path: Path) -> None:
    steps = [Step(summary=str(number), reasoning="a\u2028b\n") for number in (3, 1, 2)]
    assert write_records(tmp_path / "deep" / "steps.jsonl", iter(steps)) == 3
    assert list(read_records(tmp_path / "deep" / "steps.jsonl", Step)) == steps


def test_failed_writing_leaves_the_old_records(tmp_path: Path) -> None:
    def broken() -> Iterator[Step]:
        yield Step(summary="new", reasoning="")
        raise RuntimeError

    path = tmp_path / "steps.jsonl"
    write_records(path, [Step(summary="old", reasoning="")])
    with pytest.raises(RuntimeError):
        write_records(path, broken())
    assert [step.summary for step in read_records(path, Step)] == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["steps.jsonl"]


@pytest.mark.parametrize("line", ["{", '{"summary": "a"}', '{"summary": "a", "reasoning": "b", "extra": 1}', "", "[]"])
def test_a_broken_record_names_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"summary": "a", "reasoning": "b"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"steps\.jsonl:2: not a Step"):
        list(read_records(path, Step))


def test_missing_records_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no step records"):
        list(read_records(tmp_path / "none.jsonl", Step))


def test_a_stage_is_done_by_its_rename_and_only_for_its_hash(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    stage = run.stage("sft", inputs={"data": "1"}, config={"lr": 0.1}, version=1)
    (stage.work / "model").mkdir()
    (stage.work / "model" / "weights").write_text("w")
    (stage.work / "checkpoint-10").mkdir()
    (stage.work / "checkpoint-10" / "state").write_text("s")
    (stage.work / "model" / ".cache").write_text("c")
    (stage.work / "scratch").mkdir()
    assert not stage.done
    with pytest.raises(UserError, match=r"sft of .* is not done"):
        _ = stage.outputs_hash
    stage.commit({"steps": 10})
    assert stage.done and stage.summary == {"steps": 10}
    assert sorted(path.name for path in stage.folder.rglob("*")) == ["manifest.json", "model", "weights"]
    assert run.stage("sft", inputs={"data": "1"}, config={"lr": 0.1}, version=1).done
    for changed in ({"inputs": {"data": "2"}}, {"config": {"lr": 0.2}}, {"version": 2}):
        assert not run.stage("sft", **({"inputs": {"data": "1"}, "config": {"lr": 0.1}, "version": 1} | changed)).done


def test_the_same_outputs_give_the_same_manifest_bytes(tmp_path: Path) -> None:
    manifests, hashes = set(), set()
    for name in ("one", "two"):
        stage = Run(tmp_path / name).stage("data", inputs={"b": "2", "a": "1"}, config={"z": 1, "y": 2}, version=1)
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (stage.work / file).write_text(file)
        stage.commit({"z": 1, "a": 2})
        manifests.add((stage.folder / "manifest.json").read_bytes())
        hashes.add(stage.outputs_hash)
    assert len(manifests) == len(hashes) == 1


def test_a_new_result_replaces_the_old_one_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for version in (1, 2):
        stage = run.stage("data", inputs={}, config=None, version=version)
        (stage.work / f"v{version}").write_text("x")
        stage.commit({})
    assert sorted(path.name for path in stage.folder.iterdir()) == ["manifest.json", "v2"]
    assert [path.name for path in (tmp_path / ".work").iterdir()] == ["publish.lock"]


def test_work_survives_and_a_commit_cut_short_is_finished(tmp_path: Path) -> None:
    stage = Run(tmp_path).stage("data", inputs={}, config=None, version=1)
    (stage.work / "half").write_text("x")
    again = Run(tmp_path).stage("data", inputs={}, config=None, version=1)
    assert (again.work / "half").exists() and not again.done
    again.commit({"n": 1})
    again.folder.rename(stage.work)  # as it stands when a kill comes after the manifest and before the rename
    assert not again.done
    assert Run(tmp_path).stage("data", inputs={}, config=None, version=1).summary == {"n": 1}


def test_a_commit_that_is_killed_keeps_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Run(tmp_path).stage("sft", inputs={}, config=None, version=1)
    state = stage.work / "scratch" / "checkpoint-10" / "state"
    state.parent.mkdir(parents=True)
    state.write_text("s")
    (stage.work / "weights").write_text("w")

    def die(_: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("insightv.store._sha256", die)
        with pytest.raises(KeyboardInterrupt):
            stage.commit({})
    assert state.read_text() == "s" and not stage.done
    (stage.work / "manifest.json.part").write_text("{")  # as a kill leaves it while the manifest is written
    stage.commit({"steps": 10})
    assert stage.done and stage.summary == {"steps": 10}
    assert sorted(path.name for path in stage.folder.rglob("*")) == ["manifest.json", "weights"]


def test_a_kill_while_scratch_is_removed_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Run(tmp_path).stage("sft", inputs={}, config=None, version=1)
    (stage.work / "scratch").mkdir()
    (stage.work / "weights").write_text("w")

    def die(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("insightv.store._remove_scratch", die)
        with pytest.raises(KeyboardInterrupt):
            stage.commit({"steps": 10})
    assert Run(tmp_path).stage("sft", inputs={}, config=None, version=1).summary == {"steps": 10}
    assert sorted(path.name for path in stage.folder.rglob("*")) == ["manifest.json", "weights"]


def test_a_lost_output_makes_a_stage_undone(tmp_path: Path) -> None:
    stage = Run(tmp_path).stage("data", inputs={}, config=None, version=1)
    (stage.work / "rows").write_text("x")
    stage.commit({})
    (stage.folder / "rows").unlink()
    assert not stage.done


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "journal"])
def test_a_stage_name_stays_inside_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a stage"):
        Run(tmp_path).stage(name, inputs={}, config=None, version=1)


def test_a_file_where_the_run_should_be_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        Run(tmp_path / "run" / "inner")


def test_a_full_disk_is_a_user_error() -> None:
    with pytest.raises(UserError, match="disk is full"), explained(Path("/dev/full")), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def finished(run: Run, name: str = "data") -> Stage:
    stage = run.stage(name, inputs={"chains": "1"}, config=[1], version=1)
    (stage.work / "model").mkdir()
    for path, text in (("rows.jsonl", "rows"), ("model/weights", "weights")):
        (stage.work / path).write_text(text, encoding="utf-8")
    stage.commit({"rows": 3})
    return stage


@pytest.mark.parametrize("linked", [True, False])
def test_a_stage_is_adopted_from_another_run_and_lives_on_without_it(linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not linked:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
    there, run = finished(Run(tmp_path / "a")), Run(tmp_path / "b")
    stage = run.stage("data", inputs={"chains": "1"}, config=[1], version=1)
    (stage.work / "scratch").mkdir()
    assert stage.adopt(there.folder) and stage.done and stage.summary == {"rows": 3} and stage.outputs_hash == there.outputs_hash
    assert stage.taken == str(tmp_path / "a") and there.taken == ""
    assert (stage.folder / "manifest.json").read_bytes() == (there.folder / "manifest.json").read_bytes()
    assert (stage.folder / "model" / "weights").samefile(there.folder / "model" / "weights") is linked
    assert list((run.folder / ".work").iterdir()) == [run.folder / ".work" / "publish.lock"]
    shutil.rmtree(there.folder)
    assert stage.done and (stage.folder / "rows.jsonl").read_text() == "rows"


def test_what_is_not_whole_or_another_stage_is_not_adopted(tmp_path: Path) -> None:
    there, run = finished(Run(tmp_path / "a")), Run(tmp_path / "b")
    stage = run.stage("data", inputs={"chains": "1"}, config=[1], version=1)
    other = run.stage("data", inputs={"chains": "2"}, config=[1], version=1)
    assert not other.adopt(there.folder) and not stage.adopt(tmp_path / "nowhere" / "data")
    (there.folder / "rows.jsonl").write_text("rots", encoding="utf-8")
    assert not stage.adopt(there.folder)
    (there.folder / "rows.jsonl").unlink()
    assert not stage.adopt(there.folder) and not stage.done and not stage.folder.exists()
    assert not list((run.folder / ".work").glob("taken-*"))
