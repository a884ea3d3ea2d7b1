"""Both agents in this process: two adapters on one base, or two checkpoints that share what they can."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from insightv.config import LocalConfig
from insightv.models.local import LocalChat, decoding_thread
from insightv.models.towers import share_tower
from insightv.models.vlm import load, weights_hash
from insightv.store import Images

Place = tuple[Path, Path | None]
"""Folder of a checkpoint, and of an adapter on it."""


def open_agents(places: Sequence[Place], images: Images, config: LocalConfig) -> list[LocalChat]:
    """A `Chat` for each place, decoding in one thread by turns; closing one closes that thread for all.

    Adapters on the same checkpoint share it, so that a second agent costs an adapter's memory. Checkpoints of their own share the vision
    tower, if its weights are the same; each image is then encoded once for both.
    """
    thread = decoding_thread(config)
    if len({path for path, _ in places}) == 1 and all(adapter for _, adapter in places):
        return _on_one_base(places, images, config, thread)
    loaded = {place: load(place[0], adapter=place[1], dtype=config.dtype) for place in dict.fromkeys(places)}
    share_tower(list(loaded.values()))
    return [LocalChat(loaded[place], images, None, config, thread=thread) for place in places]


def _on_one_base(places: Sequence[Place], images: Images, config: LocalConfig, thread: ThreadPoolExecutor) -> list[LocalChat]:
    from peft import PeftModel

    path = places[0][0]
    base = load(path, dtype=config.dtype)
    share_tower([base])
    adapters = list(dict.fromkeys(adapter for _, adapter in places if adapter))
    adapted: Any = PeftModel.from_pretrained(base.model, adapters[0], adapter_name="0").eval()
    for number, adapter in enumerate(adapters[1:], start=1):
        adapted.load_adapter(adapter, adapter_name=str(number))
    # Peft puts its layers into the model itself, which keeps its class and its ways.
    vlms = [replace(base, identity=weights_hash(path, adapter) + base.identity[32:]) for _, adapter in places]
    turns = [partial(adapted.set_adapter, str(adapters.index(adapter))) for _, adapter in places if adapter]
    return [LocalChat(vlm, images, None, config, thread=thread, turn=turn) for vlm, turn in zip(vlms, turns, strict=True)]
