"""HTTP to one endpoint: slots for requests in flight, failures by kind, and a pause with probes while it is gone."""

import asyncio
import contextlib
import email.utils
import os
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from insightv.config import EndpointConfig, UserError
from insightv.models.chat import EndpointDown
from insightv.models.wire import error_text

FINAL = frozenset({400, 404, 413, 422})
_UNAUTHORISED = frozenset({401, 403})
_GATEWAY = frozenset({502, 503, 504})
_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class Refused(Exception):
    """The server will never answer this request: 400, 404, 413 or 422."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status}: {reason}")
        self.status = status


class Stumbled(Exception):
    """A failure worth another attempt: 429, 5xx, reset, time-out; `wait` is the server's Retry-After in seconds, `max_outage` at most."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Transport:
    """Connections to one endpoint. It belongs to the event loop of its first request.

    While the endpoint cannot be reached every request waits outside its slot, one probe at a time tries the door, and
    after `max_outage` seconds all waiting requests raise `EndpointDown`. A refused key is a `UserError`. A gateway's error
    or a connection that broke off is an outage if a probe fares no better, else the fault of the one request.
    """

    def __init__(self, config: EndpointConfig) -> None:
        if not config.url:
            raise UserError(f"the endpoint of model {config.model!r} has no url; set it in the config, ending in /v1")
        if urlsplit(config.url).scheme not in ("http", "https") or not urlsplit(config.url).hostname:
            raise UserError(f"{config.url!r} is not the URL of an endpoint; it must look like http://host:port/v1")
        self._config = config
        self._url = config.url.rstrip("/")
        self._slots = asyncio.Semaphore(config.concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._outage: asyncio.Task[None] | None = None

    async def post(self, body: bytes) -> bytes:
        """The body of a 200 from /chat/completions; else `Refused`, `Stumbled` or `EndpointDown`."""
        hit = False
        while True:
            if self._outage:
                await asyncio.shield(self._outage)
            try:
                async with self._slots, self._response(body) as response:
                    return await response.read()
            except _UNREACHABLE as error:
                self._pause(error)
            except TimeoutError as error:
                raise _stumbled(error) from error
            except (_Gateway, aiohttp.ClientError, OSError) as error:
                # Overload passes by itself, and a healthy server may break off one request; a gateway, a forwarded port or a
                # tunnel before a dead server does so with every one.
                if not self._outage and await self._alive():
                    raise _stumbled(error) from error
                await asyncio.shield(self._pause(error))
                if hit:
                    # It may be this request that ends the server each time: only its first outage costs no attempt.
                    raise _stumbled(error) from error
                hit = True

    @contextlib.asynccontextmanager
    async def lines(self, body: bytes) -> AsyncIterator[aiohttp.StreamReader]:
        """The lines of a streamed answer, for the block; errors as in `post`, but without a pause."""
        try:
            async with self._slots, self._response(body) as response:
                yield response.content
        except _UNREACHABLE as error:
            raise EndpointDown(f"{self._url} cannot be reached: {error}") from error
        except (_Gateway, aiohttp.ClientError, OSError) as error:
            raise _stumbled(error) from error

    async def models(self) -> Any:
        """What /models lists, as parsed JSON, or None if there is no such list; `EndpointDown` when out of reach."""
        try:
            async with self._open().get(f"{self._url}/models") as response:
                return await response.json(content_type=None) if response.status == 200 else None
        except ValueError:
            return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EndpointDown(f"{self._url} cannot be reached: {error or type(error).__name__}") from error

    async def close(self) -> None:
        """End the connections and a probe under way."""
        if self._outage:
            self._outage.cancel()
            self._outage = None
        if self._session:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def _response(self, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        request = self._open().post(f"{self._url}/chat/completions", data=body, headers={"Content-Type": "application/json"}, allow_redirects=False)
        async with request as response:
            if response.status != 200:
                reason = error_text(await response.read())
                if response.status in FINAL:
                    raise Refused(response.status, reason)
                if response.status in _UNAUTHORISED:
                    raise UserError(f"{self._url} refused the key (HTTP {response.status}); set the environment variable {self._config.api_key_env}: {reason}")
                # A server that wants to be left alone for a day is not waited for longer than one that is gone.
                wait = min(_retry_after(response.headers.get("Retry-After", "")), self._config.max_outage)
                stumbled = Stumbled(f"HTTP {response.status}: {reason}", wait)
                raise _Gateway(stumbled) if response.status in _GATEWAY else stumbled
            yield response

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = os.environ.get(self._config.api_key_env, "")
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._config.timeout, sock_connect=min(30.0, self._config.timeout)),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                read_bufsize=2**20,
                # A proxy of the environment leads out of this machine, never to a server on it.
                trust_env=urlsplit(self._url).hostname not in ("127.0.0.1", "localhost", "::1"),
            )
        return self._session

    def _pause(self, cause: Exception) -> "asyncio.Task[None]":
        """The outage under way, or one that begins here: it ends with the endpoint's return, or with `EndpointDown`."""
        if self._outage is None or self._outage.done():
            self._outage = asyncio.create_task(self._wait_until_back(cause))
        return self._outage

    async def _wait_until_back(self, cause: Exception) -> None:
        end, delay = time.monotonic() + self._config.max_outage, 0.2
        try:
            while not await self._alive():
                if time.monotonic() + delay > end:
                    raise EndpointDown(
                        f"{self._url} was out of reach for {self._config.max_outage:g} s ({cause}); nothing is lost, start it and run the same command again"
                    )
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, 15.0)
        finally:
            self._outage = None

    async def _alive(self) -> bool:
        try:
            async with self._open().get(f"{self._url}/models", timeout=aiohttp.ClientTimeout(total=10)) as response:
                return response.status not in _GATEWAY
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


class _Gateway(Exception):
    """502, 503 or 504: an overload or a dead server behind a living door."""

    def __init__(self, stumbled: Stumbled) -> None:
        super().__init__(str(stumbled))
        self.stumbled = stumbled


def _stumbled(error: Exception) -> Stumbled:
    return error.stumbled if isinstance(error, _Gateway) else Stumbled(str(error) or type(error).__name__)


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date; 0 where it says nothing sensible."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
