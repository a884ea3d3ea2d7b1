"""Runs a module as `python -m` does, with what a test changes: FSDP on processors, which accelerate gives to GPUs alone, and small chunks of the head."""

import runpy
import sys
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from insightv.training import packing

_plain: Any = AcceleratorState.__init__


def _sharing(self: Any, *given: Any, fsdp_plugin: Any = None, **more: Any) -> None:
    _plain(self, *given, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)


setattr(AcceleratorState, "__init__", _sharing)  # noqa: B010 - mypy forbids the plain form
# The head's chunks are computed again in the backward pass, when its weights have been laid apart once more.
packing.CHUNK = 8
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__")
