"""Images of requests: from data URLs, or fetched from hosts that the server allows; checked whole before any model sees one."""

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from insightv.config import ServeConfig
from insightv.images import ImageError, decode, digest, from_data_url
from insightv.serving.replies import ApiError

_FETCH_SECONDS = 20.0
_SMALLEST = 4
"""Pixels of a side: what is smaller has crashed servers of models."""
_LONGEST = 100
"""Longer over shorter side at most, for the same reason."""
_DECODED_AT_ONCE = 2
_PORTS = (80, 443)
_MEGABYTE = 2**20


class HeldImages:
    """Images of the requests under way, by digest, in memory alone: none of them outlives its request."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}
        self._held = Counter[str]()

    def get(self, name: str) -> bytes:
        """The bytes of a digest that a request holds; an `ImageError` when its client has left meanwhile."""
        if name not in self._data:
            raise ImageError("the request that brought this image has ended")
        return self._data[name]

    @contextmanager
    def holding(self, images: Sequence[bytes]) -> Iterator[list[str]]:
        """The images' digests, which can be read as long as the block lasts."""
        names = [digest(data) for data in images]
        for name, data in zip(names, images, strict=True):
            self._data[name] = data
            self._held[name] += 1
        try:
            yield names
        finally:
            for name in names:
                self._held[name] -= 1
                if not self._held[name]:
                    del self._held[name], self._data[name]


class Intake:
    """Reads and checks the images of requests."""

    def __init__(self, limits: ServeConfig, allowed: Callable[[str], bool] | None = None) -> None:
        """`allowed` says of an IP address whether it may be asked for an image; by default public ones alone."""
        self._limits = limits
        self._allowed = allowed or _public
        self._decoding = asyncio.Semaphore(_DECODED_AT_ONCE)

    async def read(self, urls: Sequence[str]) -> list[bytes]:
        """The encoded images behind the URLs, each of them one that can be decoded; else an `ApiError` that says which."""
        if len(urls) > self._limits.max_images:
            raise ApiError(400, f"the conversation has {len(urls)} images; this server takes {self._limits.max_images} at most", "messages")
        images: list[bytes] = []
        async with self._fetching() as fetch:
            for number, url in enumerate(urls, start=1):
                try:
                    # The scheme alone decides, and a URL that is not plainly http is never anything but data.
                    remote = url[:8].lower().startswith(("http://", "https://"))
                    data = await fetch(url, self._limits.max_body * _MEGABYTE - sum(map(len, images))) if remote else from_data_url(url)
                    async with self._decoding:
                        await asyncio.to_thread(self._check, data)
                except ImageError as error:
                    raise ApiError(400, f"image {number}: {error}", "messages") from None
                images.append(data)
        return images

    def _check(self, data: bytes) -> None:
        width, height = decode(data, self._limits.max_pixels).size
        if min(width, height) < _SMALLEST or max(width, height) > _LONGEST * min(width, height):
            shape = f"a side must have {_SMALLEST} at least, and the longer one {_LONGEST} times as many at most"
            raise ImageError(f"the image has {width} x {height} pixels; {shape}")

    @asynccontextmanager
    async def _fetching(self) -> AsyncIterator[Callable[[str, int], Awaitable[bytes]]]:
        """A function that fetches so many bytes at most; connections are opened only if it is called."""
        session: aiohttp.ClientSession | None = None

        async def fetch(text: str, most: int) -> bytes:
            nonlocal session
            url = _read_url(text, self._limits.image_hosts)
            if session is None:
                connector = aiohttp.TCPConnector(resolver=_Resolver(self._allowed), use_dns_cache=False)
                session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(_FETCH_SECONDS), trust_env=False)
            return await self._fetch(session, url, most)

        try:
            yield fetch
        finally:
            if session:
                await session.close()

    async def _fetch(self, session: aiohttp.ClientSession, url: URL, most: int) -> bytes:
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise ImageError(f"its host answered with HTTP {response.status}; redirects are not followed")
                data = bytearray()
                async for piece in response.content.iter_chunked(2**16):
                    data += piece
                    if len(data) > most:
                        raise ImageError(f"with it the request's images have more than {self._limits.max_body} MB")
                return bytes(data)
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise ImageError("it could not be fetched") from None


class _Resolver(AbstractResolver):
    """Addresses that may be asked: the check and the connection see the same ones."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._plain = ThreadedResolver()
        self._allowed = allowed

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """As aiohttp asks; no address is an `OSError`."""
        found = [result for result in await self._plain.resolve(host, port, family) if self._allowed(result["host"])]
        if not found:
            raise OSError("no public address")
        return found

    async def close(self) -> None:
        """Nothing is open."""
        await self._plain.close()


def _read_url(text: str, hosts: Sequence[str]) -> URL:
    """The URL of an image on a host that is allowed, as the one parser that also connects reads it."""
    try:
        url = URL(text)
        host = url.host or ""
    except ValueError:
        raise ImageError("its URL cannot be read") from None
    # A name, so that the resolver's check is never passed by; no other reading of the text than the parser's.
    if "\\" in text or url.user or url.password or _is_address(host) or url.port not in _PORTS:
        raise ImageError("its URL must be that of a host's name, without user or port")
    if host.rstrip(".").lower() not in {name.lower() for name in hosts}:
        raise ImageError("this server does not fetch images from there; send it as data:image/png;base64,...")
    return url


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    return found.is_global and not found.is_multicast and (inner is None or inner.is_global)
