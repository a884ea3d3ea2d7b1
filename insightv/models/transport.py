"""HTTP to the replicas of one model: failures by kind, and a pause with probes while a server is gone."""

import asyncio
import contextlib
import email.utils
import os
import time
from collections.abc import AsyncIterator, Callable, Container, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from insightv.config import EndpointConfig, UserError
from insightv.models.chat import EndpointDown, Halted
from insightv.models.limits import Rate
from insightv.models.meter import Meter, Stats
from insightv.models.pieces import Pieces
from insightv.models.pool import Pool, Replica
from insightv.models.wire import error_text

FINAL = frozenset({400, 404, 413, 422})
THROTTLED = frozenset({429, 503})
_UNAUTHORISED = frozenset({401, 403})
_GATEWAY = frozenset({502, 503, 504})
_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_LONGEST_PROBE_PAUSE = 2.0
_REMEMBERED = 8192
"""Images that a server is taken to have in its cache: those sent last."""

Body = Callable[[Container[str]], Sequence[bytes]]
"""Makes the pieces of a request's body; it gets the digests of images that the server knows by their uuid."""


class Refused(Exception):
    """The server will never answer this request: 400, 404, 413 or 422."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status}: {reason}")
        self.status = status


class Stumbled(Exception):
    """A failure worth another attempt: 429, 5xx, reset, time-out; `wait` is the server's Retry-After in seconds, `max_outage` at most."""

    def __init__(self, reason: str, wait: float = 0.0, status: int = 0) -> None:
        super().__init__(reason)
        self.wait = wait
        self.status = status


class Transport:
    """Connections to the servers of one model. It belongs to the event loop of its first request.

    A server that cannot be reached gets no requests, and one probe at a time tries its door. While none can be reached every request waits, and after
    `max_outage` seconds all of them raise `EndpointDown`. A refused key is a `UserError`. A gateway's error or a connection that broke off is an
    outage if a probe fares no better, else the fault of the one request.
    """

    def __init__(self, config: EndpointConfig, meter: Meter | None = None, stats: Stats | None = None) -> None:
        if not config.url:
            raise UserError(f"the endpoint of model {config.model!r} has no url; set it in the config, ending in /v1")
        for url in config.urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise UserError(f"{url!r} is not the URL of an endpoint; it must look like http://host:port/v1")
        self._config = config
        self._meter = meter or Meter()
        self._stats = stats or Stats()
        self._pool = Pool([url.rstrip("/") for url in config.urls], config.concurrency)
        self._requests = Rate(config.requests_per_minute) if config.requests_per_minute else None
        self._tokens = Rate(config.tokens_per_minute) if config.tokens_per_minute else None
        self._typical = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._halted = asyncio.Event()
        self._unwatch: Callable[[], None] = lambda: None

    async def post(self, body: Body, images: Sequence[str] = (), prefix: int = 0) -> tuple[bytes, float]:
        """The body of a 200 from /chat/completions and the seconds that it took; else `Refused`, `Stumbled`, `EndpointDown` or `Halted`.

        `images` are the digests of the request's images, `prefix` is a hash of how its conversation begins.
        """
        hit = False
        while True:
            replica = await self._place(prefix)
            with self._pool.held(replica):
                guess = await self._pace()
                begun = time.monotonic()
                try:
                    return await self._send(replica, body, images), time.monotonic() - begun
                except _UNREACHABLE as error:
                    self._stats.requests -= 1
                    lost: Exception = error
                except TimeoutError as error:
                    replica.limit.refused()
                    raise _stumbled(error) from error
                except (_Gateway, aiohttp.ClientError, OSError) as error:
                    lost = error
                finally:
                    self._use(-guess)
            if isinstance(lost, _UNREACHABLE):
                self._pause(replica, lost)
            # Overload passes by itself, and a healthy server may break off one request; a gateway, a forwarded port or a
            # tunnel before a dead server does so with every one.
            elif not replica.outage and await self._alive(replica):
                raise _stumbled(lost) from lost
            else:
                self._pause(replica, lost)
                if hit:
                    # It may be this request that ends the server each time: only its first outage costs no attempt.
                    raise _stumbled(lost) from lost
                self._stats.retries += 1
                hit = True

    async def rest(self, seconds: float) -> None:
        """Wait between two attempts, outside of any place; `Halted` cuts it short."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), seconds)
        self._meter.admit()

    def used(self, tokens: int) -> None:
        """Hear how many tokens a request took after all."""
        self._typical += 0.1 * (tokens - self._typical)
        self._use(tokens)

    @contextlib.asynccontextmanager
    async def lines(self, body: Sequence[bytes]) -> AsyncIterator[aiohttp.StreamReader]:
        """The lines of a streamed answer, for the block; errors as in `post`, but without a pause."""
        replica = await self._place(0)
        try:
            with self._pool.held(replica):
                self._use(-await self._pace())
                async with self._request(replica, body) as response:
                    if response.status != 200:
                        raise self._failure(replica, response, error_text(await response.read()))
                    replica.limit.served()
                    yield response.content
        except _UNREACHABLE as error:
            raise EndpointDown(f"{replica.url} cannot be reached: {error}") from error
        except TimeoutError as error:
            replica.limit.refused()
            raise _stumbled(error) from error
        except (_Gateway, aiohttp.ClientError, OSError) as error:
            raise _stumbled(error) from error

    async def models(self) -> Any:
        """What /models lists, as parsed JSON, or None if there is no such list; `EndpointDown` when a replica is out of reach."""
        listed = [await self._listed(replica) for replica in self._pool.replicas]
        return listed[0]

    async def close(self) -> None:
        """End the connections and the probes under way."""
        self._unwatch()
        for replica in self._pool.replicas:
            if replica.outage:
                replica.outage.cancel()
                await asyncio.gather(replica.outage, return_exceptions=True)
        if self._session:
            await self._session.close()
            self._session = None

    async def _place(self, prefix: int) -> Replica:
        self._open()
        self._meter.admit()
        return await self._pool.take(prefix)

    async def _pace(self) -> float:
        """Wait for the provider's limits, in the place: the order of the line is kept, and a halt is heard. Returns the tokens that were taken for it."""
        guess = self._typical
        wait = max(self._requests.take() if self._requests else 0.0, self._tokens.take(guess) if self._tokens else 0.0)
        if wait:
            await self.rest(wait)
        return guess

    def _use(self, tokens: float) -> None:
        if self._tokens:
            self._tokens.correct(tokens)

    async def _send(self, replica: Replica, body: Body, images: Sequence[str]) -> bytes:
        known = replica.known
        shortened = [digest for digest in images if digest in known]
        try:
            data = await self._read(replica, body(known))
        except Refused:
            if not shortened:
                raise
            # The server's cache has let go of an image, or it knows no uuids: then it gets the whole.
            known.clear()
            self._stats.retries += 1
            data = await self._read(replica, body(()))
        if self._config.images == "uuid":
            for digest in images:
                known[digest] = None
                known.move_to_end(digest)
            while len(known) > _REMEMBERED:
                known.popitem(last=False)
        return data

    async def _read(self, replica: Replica, body: Sequence[bytes]) -> bytes:
        async with self._request(replica, body) as response:
            data: bytes = await response.read()
            if response.status != 200:
                raise self._failure(replica, response, error_text(data))
        replica.limit.served()
        return data

    async def _listed(self, replica: Replica) -> Any:
        try:
            async with self._open().get(f"{replica.url}/models") as response:
                return await response.json(content_type=None) if response.status == 200 else None
        except ValueError:
            return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EndpointDown(f"{replica.url} cannot be reached: {error or type(error).__name__}") from error

    def _request(self, replica: Replica, body: Sequence[bytes]) -> Any:
        # Here, and not when it began to wait: a budget is kept to the request.
        self._meter.admit()
        self._stats.requests += 1
        return self._open().post(f"{replica.url}/chat/completions", data=Pieces(body), allow_redirects=False)

    def _failure(self, replica: Replica, response: aiohttp.ClientResponse, reason: str) -> Exception:
        status = response.status
        if status in THROTTLED:
            replica.limit.refused()
        else:
            replica.limit.served()
        if status in FINAL:
            return Refused(status, reason)
        if status in _UNAUTHORISED:
            return UserError(f"{replica.url} refused the key (HTTP {status}); set the environment variable {self._config.api_key_env}: {reason}")
        # A server that wants to be left alone for a day is not waited for longer than one that is gone.
        wait = min(_retry_after(response.headers.get("Retry-After", "")), self._config.max_outage)
        stumbled = Stumbled(f"HTTP {status}: {reason}", wait, status)
        return _Gateway(stumbled) if status in _GATEWAY else stumbled

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = os.environ.get(self._config.api_key_env, "")
            local = all(urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1") for url in self._config.urls)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._config.timeout, sock_connect=min(30.0, self._config.timeout)),
                headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
                read_bufsize=2**20,
                # No server of this kind sets cookies; to look for them costs every request.
                cookie_jar=aiohttp.DummyCookieJar(),
                # A proxy of the environment leads out of this machine, never to a server on it.
                trust_env=not local,
            )
            loop = asyncio.get_running_loop()

            def halt(error: Halted) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._halt, error)

            self._unwatch = self._meter.watch(halt)
        return self._session

    def _halt(self, error: Halted) -> None:
        self._halted.set()
        self._pool.fail(Halted(str(error), error.code))

    def _pause(self, replica: Replica, cause: Exception) -> None:
        """Have an outage begin, unless it is under way: it ends with the server's return, or with `EndpointDown` for all who wait."""
        if replica.outage is None:
            replica.since = time.monotonic()
            replica.outage = asyncio.create_task(self._wait_until_back(replica, cause))

    async def _wait_until_back(self, replica: Replica, cause: Exception) -> None:
        longest, delay = self._config.max_outage, 0.2
        try:
            while not await self._alive(replica):
                others = self._pool.replicas
                if all(other.outage for other in others) and time.monotonic() + delay - max(other.since for other in others) > longest:
                    where = replica.url if len(others) == 1 else f"every replica of {self._config.model}"
                    message = f"{where} was out of reach for {longest:g} s ({cause}); nothing is lost, start it and run the same command again"
                    self._pool.fail(EndpointDown(message))
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, _LONGEST_PROBE_PAUSE)
        finally:
            replica.outage = None
            self._pool.dispatch()

    async def _alive(self, replica: Replica) -> bool:
        try:
            async with self._open().get(f"{replica.url}/models", timeout=aiohttp.ClientTimeout(total=10)) as response:
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
