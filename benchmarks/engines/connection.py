"""One client's connection to the stub: as much of HTTP/1.1 as clients of an API speak, without a look at most of a body.

The standard library alone.
"""

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, cast

from benchmarks.engines.replies import refusal, response

if TYPE_CHECKING:
    from benchmarks.engines.stub import Stub

TAIL = 16384
"""Bytes at a body's end in which the marker must lie; a chain of five requests appends about 5 KB behind it."""
ONE_IMAGE = 100_000
"""Longer bodies repeat the image in later turns, far behind the marker, and are kept whole."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LISTED = response(200, json.dumps({"object": "list", "data": [{"id": "teacher", "object": "model", "created": 1, "owned_by": "stub"}]}).encode())
_MISSING = refusal(404)


class Connection(asyncio.BufferedProtocol):
    """One client's connection: a request at a time, kept alive."""

    def __init__(self, stub: "Stub") -> None:
        self._stub = stub
        self._head = bytearray()
        self._tail = b""
        self._missing = 0
        """Bytes of the body that are still to come; 0 between requests."""
        self._kept = TAIL
        """Bytes of the body's end that are kept."""
        self._last = False
        """Whether the client wants the connection closed after the answer."""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._stub.connections += 1
        self._stub.open.add(self)
        if self._stub.broken:
            self.reset()

    def connection_lost(self, error: Exception | None) -> None:
        self._stub.open.discard(self)
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._stub.in_flight -= 1

    def reset(self) -> None:
        """End the connection by RST."""
        with contextlib.suppress(OSError, AttributeError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._stub.view

    def buffer_updated(self, count: int) -> None:
        data, start = self._stub.buffer, 0
        if not self._missing:
            if self._head:
                data = self._head + data[:count]
                count = len(data)
            end = data.find(b"\r\n\r\n", 0, count)
            if end < 0:
                self._head = data[:count]
                return
            start, self._head = end + 4, bytearray()
            if not self._open_request(data[:end]):
                return
        self._missing -= count - start
        if self._missing < self._kept:
            self._tail += bytes(data[max(start, count - self._kept) : count])
        if self._missing <= 0:
            tail, self._tail, self._missing = self._tail[-self._kept :], b"", 0
            self._serve(tail)

    def _open_request(self, head: bytearray) -> bool:
        """Whether a body follows that is to be served; anything else is answered here."""
        self._last = b"onnection: close" in head
        if head.startswith(b"POST"):
            length = _LENGTH.search(head)
            if length and int(length[1]):
                self._missing = int(length[1])
                self._kept = TAIL if self._missing < ONE_IMAGE else self._missing
                return True
            self._send(_MISSING)
        elif b"/models " in head[:100]:
            self._stub.probes += 1
            self._send(_LISTED)
        elif head.startswith(b"GET /control/log "):
            self._send(response(200, json.dumps(self._stub.report()).encode()))
        else:
            self._send(_MISSING)
        return False

    def _serve(self, tail: bytes) -> None:
        entry, answer, seconds = self._stub.receive(tail)
        self._stub.in_flight += 1
        self._stub.most = max(self._stub.most, self._stub.in_flight)
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._finish, entry, answer)
        else:
            self._finish(entry, answer)

    def _finish(self, entry: list[Any], answer: bytes) -> None:
        self._timer = None
        self._stub.in_flight -= 1
        entry[5] = time.monotonic()
        if answer:
            self._send(answer)
        else:
            self.reset()

    def _send(self, answer: bytes) -> None:
        if self._last:
            self._transport.write(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            self._transport.close()
        else:
            self._transport.write(answer)
