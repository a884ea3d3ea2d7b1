"""Bytes that are dear to make, kept in memory while they are in use."""

import threading
from collections import OrderedDict
from collections.abc import Callable


class ByteCache:
    """The most recently used values, as many as fit into `limit` bytes; safe for threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The value of a key, made when it is not here."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._size += len(value)
            while self._size > self._limit:
                self._size -= len(self._values.popitem(last=False)[1])
        return value
