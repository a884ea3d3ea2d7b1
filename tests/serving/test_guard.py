"""Who is let in, with how much, and what leaves: raw HTTP against every route."""

import base64
import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.agents_stub import Agents
from insightv.serving import guard

ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/insight-v"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/nowhere"),
]
ROUTES += [("GET", "/openapi.json")]
KEY = "a long secret"
CHAT = json.dumps({"model": "insight-v", "messages": [{"role": "user", "content": "hi"}]}).encode()
JSON = {"Content-Type": "application/json"}


def send(server: Any, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_the_key(served: Callable[..., Any], method: str, path: str) -> None:
    server = served(key=KEY)
    basic = base64.b64encode(f"anybody:{KEY}".encode()).decode()
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": "Basic ???"}, {"Authorization": KEY}):
        status, headers, body = send(server, method, path, JSON | wrong, CHAT if method == "POST" else None)
        assert (status, json.loads(body)["error"]["type"]) == (401, "authentication_error")
        assert headers["www-authenticate"].startswith("Basic") and KEY not in body.decode()
    for right in (f"Bearer {KEY}", f"bearer  {KEY}", f"Basic {basic}"):
        assert send(server, method, path, JSON | {"Authorization": right}, CHAT if method == "POST" else None)[0] == (404 if path == "/nowhere" else 200)
    assert len(server.agents.bodies) == (6 if method == "POST" else 0)


def test_keys_are_compared_in_constant_time(served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of one length are, so that not even the length of a key shows."""
    compared: list[tuple[bytes, bytes]] = []
    real = guard.hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda given, known: (compared.append((given, known)), real(given, known))[1])
    server = served(key=KEY)
    for given in ("", "x", KEY[:-1], KEY + "y" * 1000):
        send(server, "GET", "/health", {"Authorization": f"Bearer {given}"})
    assert len(compared) == 4 and {len(side) for pair in compared for side in pair} == {32}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.7:8000", "[2001:db8::1]", "", "localhost@evil.example"])
def test_without_a_key_only_this_machines_names_are_answered(served: Callable[..., Any], host: str) -> None:
    server = served()
    assert send(server, "GET", "/v1/models", {"Host": host})[0] in (400, 403)
    assert send(server, "GET", "/v1/models", {"Host": "localhost:1234"})[0] == 200
    assert send(served(key=KEY), "GET", "/v1/models", {"Host": "models.example", "Authorization": f"Bearer {KEY}"})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}],
)
def test_other_sites_pages_cannot_use_a_browsers_login(served: Callable[..., Any], headers: dict[str, str]) -> None:
    server = served()
    for method, path in ROUTES:
        assert send(server, method, path, JSON | headers, CHAT if method == "POST" else None)[0] == 403
    assert server.agents.bodies == []
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert send(server, "POST", "/v1/chat/completions", JSON | own, CHAT)[0] == 200
    # A link from elsewhere may be followed.
    assert send(server, "GET", "/health", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200
    assert send(server, "POST", "/v1/chat/completions", JSON | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, CHAT)[0] == 403


def test_a_body_beyond_the_limit_is_refused_before_it_is_read_whole(served: Callable[..., Any]) -> None:
    server = served(max_body=1)
    status, _, body = send(server, "POST", "/v1/chat/completions", JSON, b'{"model": "' + b"x" * 2**21 + b'"}')
    assert status == 413 and "1 MB" in json.loads(body)["error"]["message"]
    # In pieces of unknown number, the header says nothing of the length.
    with socket.create_connection(urlsplit(server.url).netloc.split(":"), timeout=10) as wire:
        wire.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        answered = b""
        try:
            for _ in range(64):
                wire.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")
        except OSError:
            pass
        try:
            answered = wire.recv(4096)
        except ConnectionResetError:
            answered = b"413"
        assert b"413" in answered


def test_a_body_that_does_not_come_is_not_waited_for(served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    server = served()
    with socket.create_connection(urlsplit(server.url).netloc.split(":"), timeout=10) as wire:
        wire.sendall(b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"mod')
        begun = time.monotonic()
        assert b"408" in wire.recv(4096) and time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[" * 100_000,
        b'{"model": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud800"}',
        b"\xff\xfe",
        b'{"model": "insight-v", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
    ids=["empty", "no JSON", "deep", "digits", "surrogate", "no UTF-8", "surrogate in words"],
)
def test_a_body_that_is_no_request_is_a_400(served: Callable[..., Any], body: bytes) -> None:
    status, _, answered = send(served(), "POST", "/v1/chat/completions", JSON, body)
    assert status == 400 and json.loads(answered)["error"]["request_id"].startswith("req-")


def test_every_reply_has_its_headers_and_its_id(served: Callable[..., Any]) -> None:
    server = served()
    ids = set()
    for method, path in [*ROUTES, ("DELETE", "/v1/models"), ("GET", "/v1/models/%2e%2e/%2e%2e/etc/passwd")]:
        status, headers, body = send(server, method, path, JSON, CHAT if method == "POST" else None)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert (headers["x-content-type-options"], headers["cache-control"], headers["referrer-policy"]) == ("nosniff", "no-store", "no-referrer")
        assert "server" not in headers and (status < 400 or json.loads(body)["error"]["request_id"] == headers["x-request-id"])
        ids.add(headers["x-request-id"])
    assert len(ids) == 9


def test_a_fault_of_the_server_tells_nothing_of_its_inside(served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("SECRET /home/somebody")

    monkeypatch.setattr("insightv.serving.service.Service._refuse_too_much", broken)
    status, _, body = send(served(), "POST", "/v1/chat/completions", JSON, CHAT)
    assert (status, json.loads(body)["error"]["type"]) == (500, "server_error") and b"SECRET" not in body


def test_too_many_requests_are_told_to_wait(served: Callable[..., Any]) -> None:
    server = served(Agents(rate=20), max_requests=1)
    first = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    first.request("POST", "/v1/chat/completions", CHAT, JSON)
    while not server.agents.open:
        time.sleep(0.01)
    status, headers, _ = send(server, "POST", "/v1/chat/completions", JSON, CHAT)
    assert (status, headers["retry-after"]) == (429, "1")
    first.close()
    while server.agents.open:
        time.sleep(0.01)
    assert send(server, "GET", "/health")[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_leaves_no_work(served: Callable[..., Any], stream: bool) -> None:
    server = served(Agents(rate=10))
    body = json.dumps(json.loads(CHAT) | {"stream": stream, "n": 2}).encode()
    for _ in range(5):
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
        connection.request("POST", "/v1/chat/completions", body, JSON)
        while not server.agents.open:
            time.sleep(0.01)
        if stream:
            connection.getresponse().read(1)
        connection.sock.close() if connection.sock else None
        connection.close()
        end = time.monotonic() + 5
        while server.agents.open and time.monotonic() < end:
            time.sleep(0.01)
        assert server.agents.open == 0 and server.images._data == {}
    metrics = send(server, "GET", "/metrics")[2].decode()
    assert 'insightv_requests_total{model="insight-v",status="gone"} 5.0' in metrics and "insightv_requests_in_flight 0.0" in metrics
