"""Who is let in, with how much, and what leaves: in front of every route."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from insightv.serving.replies import ApiError
from insightv.serving.work import ClientGone

log = logging.getLogger(__name__)

_MEGABYTE = 2**20
BODY_SECONDS = 60.0
"""For the whole of a request's body to come."""

_HEADERS = {
    # Our own files alone, and no frame around them: what a model or a data set says can load and send nothing.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """An application behind checks that no route can forget.

    Every request needs the key, where there is one: as a bearer token, or as the password that a browser asks for. Without a key only this
    machine's own names are answered to, so that no foreign page reaches the server by a name that it made point here. Requests that a
    browser sends for another site's page are refused, but for following a link. A body comes whole, in time and within the limit, or not at all.
    """

    def __init__(self, app: ASGIApp, key: str, max_body: int) -> None:
        """`key` may be empty; `max_body` is in megabytes."""
        self._app = app
        self._key = hashlib.sha256(key.encode()).digest() if key else None
        self._max_body = max_body * _MEGABYTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request_id = f"req-{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name for name, _ in message.setdefault("headers", [])}
                added = {**_HEADERS, "x-request-id": request_id}
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in added.items() if name.encode() not in own)]
            await send(message)

        try:
            self._admit(scope)
            await self._app(scope, await self._with_body(scope, receive), sending)
        except ClientGone:
            return
        except ApiError as error:
            asking = {"WWW-Authenticate": 'Basic realm="insightv", charset="UTF-8"'} if error.status == 401 else {}
            await _refuse(error, request_id, asking)(scope, receive, sending)
        except asyncio.CancelledError:
            # The server is ended, and its patience with what is under way is over. A stream that has begun just has no end.
            if not begun:
                await _refuse(ApiError(503, "the server is ending; ask again when it is back"), request_id)(scope, receive, sending)
        except Exception:
            # Its handler of errors has answered, in words that tell nothing of this.
            log.exception("%s failed", request_id)

    def _admit(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._key is not None:
            if not hmac.compare_digest(hashlib.sha256(_key(headers.get("authorization", ""))).digest(), self._key):
                raise ApiError(401, "this server asks for its key, as `Authorization: Bearer KEY`")
        elif not is_loopback(_read(f"//{headers.get('host', '')}").hostname or ""):
            raise ApiError(403, "without a key this server answers on this machine's own names alone, such as 127.0.0.1 and localhost")
        following = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        origin = headers.get("origin")
        if (foreign and not following) or (origin and _read(origin).netloc != headers.get("host")):
            raise ApiError(403, "this server takes no requests from other sites' pages")

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` whose first message is the whole body."""
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._max_body:
                        raise ApiError(413, f"the request has more than {self._max_body // _MEGABYTE} MB")
        except TimeoutError:
            raise ApiError(408, f"the request's body did not come within {BODY_SECONDS:g} seconds") from None
        waiting: list[Any] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        return replay


def _refuse(error: ApiError, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error.body(request_id), error.status, headers, "application/json")


def _read(url: str) -> SplitResult:
    """A header's URL in its parts, all empty where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _key(authorization: str) -> bytes:
    """The key in a header: a bearer token, or the password of a browser's login, whatever the name."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and reached from it alone."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
