"""Workers as actors of Ray; all that knows of Ray is here."""

import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from insightv.config import UserError
from insightv.scale.crew import Hand, Lost
from insightv.scale.worker import Worker

_LOCK = threading.Lock()
_SPARE = 16
"""Calls that an actor hears beside those about items."""
_STORE = 128 * 2**20
"""Bytes for objects too large for a message; what does not fit lies on disk."""

# Variables that Ray reads when it is imported. A signal is for us alone; and of a Ray of ours, nothing listens beyond this host, nobody without the
# token can use what listens, and nothing is told to Ray's makers.
_QUIET = {"RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1"}
_PRIVATE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


class _Connection:
    """This process's one connection to Ray, shared by the stages that run side by side."""

    def __init__(self) -> None:
        self.users = 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, address: str | None) -> None:
        """Connect, or start a Ray that ends with this process."""
        begun, errors = threading.Event(), list[Exception]()
        self._end.clear()
        self._thread = threading.Thread(target=self._keep, args=(address, begun, errors), name="ray", daemon=True)
        self._thread.start()
        begun.wait()
        if errors:
            where = f"connect to Ray at {address} (scale.address)" if address else "start Ray on this host"
            raise UserError(f"cannot {where}: {' '.join(str(errors[0]).split())[:300]}") from errors[0]

    def stop(self) -> None:
        """End it, with all its processes if they are ours."""
        assert self._thread
        self._end.set()
        self._thread.join()

    def _keep(self, address: str | None, begun: threading.Event, errors: list[Exception]) -> None:
        # In a thread that stays: the processes of a Ray of ours are bound to end with the thread that started them, however that ends.
        import ray

        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
            ours = {"_temp_dir": folder, "include_dashboard": False, "num_cpus": 1, "num_gpus": 0, "object_store_memory": _STORE}
            try:
                ray.init(address or "local", log_to_driver=False, configure_logging=False, **({} if address else ours))
            except Exception as error:
                errors.append(error)
                return
            finally:
                begun.set()
            self._end.wait()
            ray.shutdown()


_CONNECTION = _Connection()


@contextmanager
def hiring(address: str | None, most: int) -> Iterator[Callable[[], Hand]]:
    """A function that starts a worker with up to `most` items in hand, for the time of the block, under the Ray at `address` or one of our own."""
    _import(address)
    with _LOCK:
        if not _CONNECTION.users:
            _CONNECTION.start(address)
        _CONNECTION.users += 1
    try:
        yield lambda: _Hand(_actor(most))
    finally:
        with _LOCK:
            _CONNECTION.users -= 1
            if not _CONNECTION.users:
                _CONNECTION.stop()


def _import(address: str | None) -> None:
    ours = {} if address else {**_PRIVATE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in {**_QUIET, **ours}.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UserError("scale.workers needs Ray: pip install 'insightv[ray]', or set scale.workers to 0") from None
    # What it would say is said by our own errors.
    logging.getLogger("ray").setLevel(logging.ERROR)


def _actor(most: int) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Where the driver is, see `spread`. It waits far more than it computes, so it takes no core for itself.
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Worker).options(num_cpus=0, max_concurrency=most + _SPARE, scheduling_strategy=node).remote()


class _Hand:
    """An actor as the crew knows it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            from ray.exceptions import RayError, RayTaskError

            try:
                return await getattr(self._actor, name).remote(*arguments)
            except RayTaskError:
                raise
            except RayError as error:
                raise Lost(" ".join(str(error).split())[:300]) from error

        return call

    def kill(self) -> None:
        import ray

        ray.kill(self._actor)
