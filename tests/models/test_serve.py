"""A checkpoint's server over loopback: it is the right one or an error says why not, and nothing of it is left."""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insightv.config import Config, DpoConfig, EndpointConfig, ModelsConfig, SamplingConfig, UserError
from insightv.datasets.sources import write_problems
from insightv.models import attended, serve
from insightv.models.chat import Sampling, text_message
from insightv.models.endpoint import Endpoint
from insightv.models.serve import fill, served
from insightv.models.vlm import weights_hash
from insightv.records import Chain, Problem
from insightv.stages.chains import sample
from insightv.stages.context import Context
from insightv.store import ImageStore, Run, read_records

CHAIN = "<thoughts>\n### Look\nA red circle.\n### Conclusion\nIt is red.\nAnswer: red\n</thoughts>"

SERVER = """
import argparse, http.server, json, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
for name in ("path", "port", "name", "revision", "delay", "adapter"):
    parser.add_argument("--" + name, default="")
for name in ("dies", "stubborn", "worker", "collapses"):
    parser.add_argument("--" + name, action="store_true")
options = parser.parse_args()
print("loading", options.path, flush=True)
if options.dies:
    print("CUDA out of memory\\nno room for the weights", flush=True)
    sys.exit(7)
if options.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.worker:
    worker = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
    print("worker", worker.pid, flush=True)
print("pid", os.getpid(), flush=True)
time.sleep(float(options.delay or 0))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        model = {"id": options.name, "object": "model"} | ({"revision": options.revision} if options.revision else {})
        self.answer({"object": "list", "data": [{"id": "other", "object": "model"}, model]})
    def do_POST(self):
        if options.collapses:
            os._exit(9)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": CHAIN if asked["model"] == options.name else "no such model"}
        self.answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})
    def log_message(self, *rest):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(options.port)), Handler).serve_forever()
""".replace("CHAIN", repr(CHAIN), 1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with all that has a part in a checkpoint's hash."""
    folder = tmp_path / "dpo1"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def command(tmp_path: Path) -> str:
    """The command template of the test's server, its folder with a space in it."""
    script = tmp_path / "my servers" / "server.py"
    script.parent.mkdir()
    script.write_text(SERVER)
    return f"{sys.executable} {shlex.quote(str(script))} --path {{path}} --port {{port}}"


def logged(scratch: Path, word: str) -> int:
    """The number that stands behind a word in the server's log."""
    return int(next(line.split()[1] for line in (scratch / "server.log").read_text().splitlines() if line.startswith(f"{word} ")))


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            # A process that ended waits here for whoever adopted it.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def asked(config: EndpointConfig, tmp_path: Path) -> str:
    async def run() -> str:
        endpoint = Endpoint(config, ImageStore(tmp_path / "images"), None)
        try:
            [reply] = await endpoint.complete([text_message("user", "what colour?")], Sampling())
            return reply.text
        finally:
            await endpoint.close()

    return asyncio.run(run())


def refused(template: str, checkpoint: Path, scratch: Path, timeout: float = 60) -> str:
    """The word about a server that is not let into the block."""
    with pytest.raises(UserError) as caught, served(template, checkpoint, None, timeout, scratch):
        pytest.fail("the block must not run")
    message = str(caught.value)
    assert "\n" not in message and str(scratch / "server.log") in message
    return message


@pytest.mark.parametrize("naming", ["--name policy-{revision}", "--name policy --revision {revision}", "--name {revision}"])
def test_the_server_answers_for_the_checkpoint_and_ends_with_the_block(naming: str, command: str, checkpoint: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with served(f"{command} {naming} --worker", checkpoint, None, 60, scratch) as config:
        assert config.revision == weights_hash(checkpoint)
        assert config.model == naming.split()[1].replace("{revision}", config.revision)
        assert asked(config, tmp_path) == CHAIN
        assert not gone(logged(scratch, "worker"), 0.2)
    assert gone(logged(scratch, "pid")) and gone(logged(scratch, "worker"))
    assert f"loading {checkpoint}" in (scratch / "server.log").read_text()


def test_an_adapter_is_part_of_what_is_served(command: str, checkpoint: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"difference")
    with served(f"{command} --adapter {{adapter}} --name policy-{{revision}}", checkpoint, adapter, 60, tmp_path / "scratch") as config:
        assert config.revision == weights_hash(checkpoint, adapter) != weights_hash(checkpoint)


def test_another_checkpoint_is_refused_by_name(command: str, checkpoint: Path, tmp_path: Path) -> None:
    said = refused(f"{command} --name policy-old --revision {'0' * 32}", checkpoint, tmp_path)
    assert f"lists other, policy-old, but not the checkpoint {weights_hash(checkpoint)}" in said
    assert gone(logged(tmp_path, "pid"))


def test_an_early_death_shows_the_end_of_the_log(command: str, checkpoint: Path, tmp_path: Path) -> None:
    said = refused(f"{command} --name x-{{revision}} --dies", checkpoint, tmp_path)
    assert "ended with exit code 7 before it answered" in said and said.endswith("CUDA out of memory | no room for the weights")


def test_a_late_server_has_its_time_and_no_more(command: str, checkpoint: Path, tmp_path: Path) -> None:
    template = f"{command} --name policy-{{revision}} --delay"
    with served(f"{template} 0.7", checkpoint, None, 60, tmp_path / "soon") as config:
        assert asked(config, tmp_path) == CHAIN
    assert "/v1/models within 2 s (dpo.server_timeout)" in refused(f"{template} 600", checkpoint, tmp_path / "late", timeout=2)


def test_a_server_that_ends_while_it_is_asked_is_said(command: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_OUTAGE", 0.5)
    template = f"{command} --name policy-{{revision}} --collapses"
    with pytest.raises(UserError, match="ended with exit code 9 while it was asked"), served(template, checkpoint, None, 60, tmp_path) as config:
        asked(config, tmp_path)


def test_a_server_deaf_to_sigterm_is_killed_and_an_error_goes_through(command: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_PATIENCE", 0.5)
    with pytest.raises(ZeroDivisionError), served(f"{command} --name {{revision}} --stubborn", checkpoint, None, 60, tmp_path):
        _ = 1 / 0
    assert gone(logged(tmp_path, "pid"))


def test_a_command_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(600)"
    attending = [sys.executable, "-m", attended.__name__, "1", sys.executable, "-c", child]
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess\nsubprocess.Popen({attending!r}, stdin=subprocess.PIPE).wait()"])
    end = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith(".")):
        assert time.monotonic() < end and parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(int((tmp_path / "pid").read_text().rstrip(".")))


def test_placeholders_are_replaced_within_their_arguments_and_no_shell_reads_them() -> None:
    values = {"path": Path("/a b/$(touch x)"), "adapter": None, "port": 8123, "revision": "abc"}
    filled = fill("""sh --path={path} '{"image": {"n": 4}}' "{port} {revision}" $HOME ; true""", values)
    assert filled == ["sh", "--path=/a b/$(touch x)", '{"image": {"n": 4}}', "8123 abc", "$HOME", ";", "true"]


@pytest.mark.parametrize(
    ("template", "adapter", "complaint"),
    [
        ("sh {path}", None, "must hold {port}"),
        ("sh --port {port}", None, "must hold {path}"),
        ("sh {path} {port} {adapter}", None, "no adapter is trained"),
        ("sh {path} {port}", Path("/adapter"), "the server must load {adapter} too"),
        ("sh '{path} {port}", None, "cannot be split"),
        ("no-such-server {path} {port}", None, "no command 'no-such-server'"),
        ("", None, "must hold {path}"),
    ],
)
def test_a_template_that_cannot_work_is_said(template: str, adapter: Path | None, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        fill(template, {"path": Path("/p"), "adapter": adapter, "port": 1, "revision": "r"})
    assert complaint in str(caught.value)


def test_a_stage_samples_its_chains_from_the_server(command: str, checkpoint: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    problems = [Problem(id=f"p{i}", question=f"what colour is circle {i}?", answers=("red",)) for i in range(3)]
    (run.folder / "problems").mkdir()
    write_problems(run.folder / "problems" / "preference.jsonl", problems)
    config = Config(run=run.folder, models=ModelsConfig(base=checkpoint), dpo=DpoConfig(server=f"{command} --name policy-{{revision}}", server_timeout=60))
    progress: list[dict[str, object]] = []
    work = tmp_path / "work"
    summary = sample(Context(config, run, progress.append), work, "base", "preference", 2, SamplingConfig(), limit=(2, 2))
    chains = list(read_records(work / "chains.jsonl", Chain))
    assert [(chain.problem_id, chain.index) for chain in chains] == [("p0", 0), ("p0", 1), ("p2", 0), ("p2", 1)]
    assert {(chain.model, chain.text, chain.answer, chain.status) for chain in chains} == {
        (f"policy-{weights_hash(checkpoint)}@{weights_hash(checkpoint)}", CHAIN, "red", "ok")
    }
    assert summary["chains"] == 4 and progress[-1].items() >= {"step": 4, "of": 4, "requests": 4}.items()
