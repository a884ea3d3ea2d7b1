"""A request's body as the pieces that it is made of."""

from collections.abc import Sequence

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.payload import Payload


class Pieces(Payload):
    """Bytes sent one after the other, never joined: hundreds of requests in flight share the one copy of an image."""

    _value: Sequence[bytes]
    _size: int

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces, content_type="application/json")
        self._size = sum(map(len, pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The text of all pieces."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Hand all pieces to the writer, in order."""
        if isinstance(writer, StreamWriter) and writer.transport:
            # Under its limit the transport waits for all of them, and one call to the kernel sends them together.
            writer.transport.set_write_buffer_limits(high=self._size + 2**16)
        for piece in self._value:
            await writer.write(piece)
