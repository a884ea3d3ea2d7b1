"""Serve a checkpoint that a round of DPO made: start the configured server on it, make sure that it serves this very one, and end it."""

import asyncio
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from insightv.config import EndpointConfig, UserError
from insightv.models import attended
from insightv.models.chat import EndpointDown
from insightv.models.transport import Transport
from insightv.models.vlm import weights_hash

_POLL = 0.2
_PROBE = 10.0
"""Seconds that one look at the list of models may take."""
_OUTAGE = 60.0
"""Seconds without a server after which a request gives up: nobody else starts this one again."""
_PATIENCE = 15.0
"""Seconds that the server has to end after SIGTERM."""
_CONCURRENCY = 256
"""Requests in flight: servers of this kind put as many into a batch as they can, and queue the others."""
_REPLY = 1800.0
"""Seconds for one request, its time in that queue included."""
_SAID = 600
"""Characters of the server's log that an error shows."""


@contextmanager
def served(command: str, path: Path, adapter: Path | None, timeout: float, scratch: Path) -> Iterator[EndpointConfig]:
    """A server on the checkpoint `path` (with `adapter` on it) for the time of the block, as the endpoint that answers for it.

    `command` is `dpo.server`. The server has `timeout` seconds to list its models and must list one under the checkpoint's hash; what it says
    goes to `scratch`/server.log. It ends with the block, and also when this process is killed. A server that dies, is late or serves
    something else is a `UserError` with the end of its log.
    """
    revision = weights_hash(path, adapter)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = fill(command, {"path": path.resolve(), "adapter": adapter and adapter.resolve(), "port": port, "revision": revision})
    log = scratch / "server.log"
    scratch.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", attended.__name__, str(_PATIENCE), *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process, which then lets go of the server.
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        model = _find(_wait(process, url, timeout, log), revision, log)
        patience = {"concurrency": _CONCURRENCY, "timeout": _REPLY, "max_outage": _OUTAGE}
        yield EndpointConfig(url=url, model=model, revision=revision, api_key_env="", **patience)
    except EndpointDown as error:
        raise UserError(f"the server of dpo.server {_state(process)} while it was asked ({error}); {_tail(log)}") from error
    finally:
        _end(process)


def fill(command: str, values: dict[str, Path | int | str | None]) -> list[str]:
    """The command's arguments with the placeholders replaced, each within its argument; `None` is a placeholder that must not be there."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UserError(f"dpo.server cannot be split into arguments: {error} in {command!r}") from None
    for name in ("path", "port"):
        if f"{{{name}}}" not in command:
            raise UserError(f"dpo.server must hold {{{name}}}: {command!r}")
    if ("{adapter}" in command) != (values["adapter"] is not None):
        trained = "an adapter is trained (lora): the server must load {adapter} too" if values["adapter"] else "no adapter is trained: leave {adapter} out"
        raise UserError(f"dpo.server: {trained}: {command!r}")
    if not shutil.which(arguments[0]):
        raise UserError(f"dpo.server: there is no command {arguments[0]!r} here; install it or give its path")
    return [re.sub(rf"\{{({'|'.join(values)})\}}", lambda match: str(values[match[1]]), argument) for argument in arguments]


def _wait(process: "subprocess.Popen[bytes]", url: str, timeout: float, log: Path) -> list[dict[str, Any]]:
    """The models that the server lists as soon as it does."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            raise UserError(f"the server of dpo.server {_state(process)} before it answered; {_tail(log)}")
        listed = asyncio.run(_models(url))
        if isinstance(listed, dict) and isinstance(listed.get("data"), list):
            return [model for model in listed["data"] if isinstance(model, dict)]
        time.sleep(_POLL)
    raise UserError(f"the server of dpo.server did not list its models at {url}/models within {timeout:g} s (dpo.server_timeout); {_tail(log)}")


async def _models(url: str) -> Any:
    transport = Transport(EndpointConfig(url=url, api_key_env="", timeout=_PROBE))
    try:
        return await transport.models()
    except EndpointDown:
        return None
    finally:
        await transport.close()


def _find(listed: list[dict[str, Any]], revision: str, log: Path) -> str:
    """The name of the model that is this checkpoint."""
    for model in listed:
        name = model.get("id")
        if isinstance(name, str) and (revision in name or model.get("revision") == revision):
            return name
    found = ", ".join(str(model.get("id")) for model in listed) or "no model"
    raise UserError(
        f"the server of dpo.server lists {found}, but not the checkpoint {revision}; let its command pass the name on, "
        f"as in --served-model-name policy-{{revision}}; {_tail(log)}"
    )


def _state(process: "subprocess.Popen[bytes]") -> str:
    return "is out of reach" if process.poll() is None else f"ended with exit code {process.returncode}"


def _tail(log: Path) -> str:
    """The end of the log, in one line."""
    lines = log.read_text(encoding="utf-8", errors="replace")[-4 * _SAID :].split("\n")
    said = " | ".join(line.strip() for line in lines if line.strip())
    return f"the end of {log}: {said[-_SAID:]}" if said else f"it said nothing in {log}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let go of the process, which then ends the server."""
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(2 * _PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
