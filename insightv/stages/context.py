"""What a stage may use: the run's problems, chains and judgements as they were left, models, endpoints, and somebody to report to."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from insightv import corrections
from insightv.config import Config, EndpointConfig
from insightv.datasets import lean
from insightv.datasets.rows import Rated
from insightv.datasets.sources import read_problems
from insightv.files import replacing
from insightv.models.chat import Chat
from insightv.models.endpoint import Endpoint
from insightv.models.meter import Meter, Stats
from insightv.records import Chain, Correction, Problem, Score, Verdict
from insightv.scale.spread import spread
from insightv.scale.worker import Open
from insightv.sorting import Sorter
from insightv.store import Run, read_manifest, read_records

T = TypeVar("T")
R = TypeVar("R")

Summary = dict[str, Any]
Report = Callable[[dict[str, Any]], None]
"""Hears `step`, `of` and what else is worth showing while a stage runs."""

CHOSEN = "chosen"
"""The training problems that get chains, where a filter chooses them."""

SHIPPED_BASE = Path(__file__).parent.parent / "world" / "base" / "weights"


@dataclass(frozen=True)
class Context:
    """What a stage may use."""

    config: Config
    run: Run
    report: Report
    retry_failed: bool = False
    meter: Meter = field(default_factory=Meter)
    by_hand: Mapping[str, Correction] = field(default_factory=dict)
    """What was said of chains by hand when the run began."""
    away: bool = False
    """In a worker: what it opened ends with its work."""

    def __reduce__(self) -> tuple[Callable[..., "Context"], tuple[Any, ...]]:
        """In a worker it has a meter of its own, and nobody to report to."""
        return _away, (self.config, self.run, self.retry_failed)

    def problems(self, split: str) -> list[Problem]:
        """The problems of a split."""
        return list(read_problems(self._split(split)))

    def stream(self, split: str) -> Iterator[Problem]:
        """The problems of a split one by one; that they are sound was seen to when the file was made."""
        return read_records(self._split(split), Problem)

    def lean(self, split: str) -> Iterator[Problem]:
        """The same as structs that have a problem's fields alone, for those who read millions."""
        return lean.read(self._split(split), Problem)

    def count(self, split: str) -> int:
        """How many problems a split has."""
        stage = "filter" if split == CHOSEN else "problems"
        count: int = read_manifest(self.run.folder / stage)["summary"][split]
        return count

    def by_id(self, splits: Sequence[str], scratch: Path) -> Iterator[Problem]:
        """The problems of some splits sorted by id, each once; `scratch` is a folder to sort in."""
        for _, same in groupby(map(Problem.model_validate_json, self._lines_by_id(splits, scratch)), key=attrgetter("id")):
            *_, problem = same
            yield problem

    def grouped(self, stage: str, split: str, scratch: Path) -> Iterator[tuple[Problem, list[Chain]]]:
        """The chains of a stage, problem by problem, sorted by the problem's id; `scratch` is a folder to sort in."""
        problems = self.by_id((split,), scratch)
        for name, chains in groupby(read_records(self.run.folder / stage / "chains.jsonl", Chain), key=attrgetter("problem_id")):
            yield next(problem for problem in problems if problem.id == name), list(chains)

    def rated(self, chains: str, judged: str, split: str, scratch: Path) -> Rated:
        """A split's problems with the chains of one stage and the judgements of another; the sorted problems lie in `scratch` as long as this is used."""
        by_id = scratch / f"{split}-by-id.jsonl"
        with replacing(by_id) as file:
            file.writelines(self._lines_by_id((split,), scratch / split))
        source, folder = self.run.folder / chains / "chains.jsonl", self.run.folder / judged
        return Rated(
            partial(lean.read, by_id, Problem),
            lambda: corrections.without_flagged(lean.read(source, Chain), self.by_hand),
            lambda: corrections.corrected(lean.read(folder / "verdicts.jsonl", Verdict), self.by_hand, lean.struct(Verdict)),  # type: ignore[arg-type]
            partial(lean.read, folder / "scores.jsonl", Score),
        )

    def _lines_by_id(self, splits: Sequence[str], scratch: Path) -> Iterator[bytes]:
        in_order = Sorter(scratch)
        for problem in chain.from_iterable(map(self.lean, splits)):
            in_order.add(problem.id.encode(), lean.line(problem))
        return iter(in_order)

    def endpoint(self, config: EndpointConfig) -> Endpoint:
        """A model behind a URL, with the run's images and journal."""
        return Endpoint(config, self.run.images, self.run.journal, retry_failed=self.retry_failed, meter=self.meter)

    @asynccontextmanager
    async def asking(self, configs: Sequence[EndpointConfig]) -> AsyncIterator[list[Endpoint]]:
        """Models behind URLs for the time of a block."""
        chats = [self.endpoint(config) for config in configs]
        try:
            yield chats
        finally:
            for chat in chats:
                await chat.close()
            if self.away:
                self.run.journal.close()

    def spread(
        self, open: Open[T, R], endpoints: Sequence[EndpointConfig], items: Iterable[T], name: Callable[[T], str]
    ) -> AbstractAsyncContextManager[tuple[AsyncGenerator[tuple[int, R], None], list[Stats]]]:
        """Do a job on items, here or in workers as the config says; see `scale.spread`."""
        config = self.config
        return spread(open, endpoints, items, name, scale=config.scale, concurrency=config.generate.open_problems, meter=self.meter)

    def model(self, name: str) -> tuple[Path, Path | None]:
        """A model's checkpoint and the adapter on it, if its folder holds one."""
        base = base_path(self.config, self.run)
        if name == "base":
            return base, None
        folder = self.run.folder / name
        return (base, folder) if (folder / "adapter_config.json").is_file() else (folder, None)

    @contextmanager
    def chat(self, name: str) -> Iterator[Chat]:
        """A trained model in this process."""
        from insightv.models.local import LocalChat
        from insightv.models.vlm import load

        path, adapter = self.model(name)
        chat = LocalChat(load(path, adapter=adapter, dtype=self.config.local.dtype), self.run.images, self.run.journal, self.config.local)
        try:
            yield chat
        finally:
            asyncio.run(chat.close())

    def counted(self, total: int) -> Callable[[object], None]:
        """A callback for `on_done` that reports how many of `total` are done."""
        done = 0

        def count(_: object) -> None:
            nonlocal done
            done += 1
            self.report({"step": done, "of": total})

        return count

    def _split(self, name: str) -> Path:
        return self.run.folder / ("filter" if name == CHOSEN else "problems") / f"{name}.jsonl"


def _away(config: Config, run: Run, retry_failed: bool) -> Context:
    return Context(config, run, lambda _: None, retry_failed, away=True)


def base_path(config: Config, run: Run) -> Path:
    """Where the base model's checkpoint lies."""
    if config.models.base:
        return config.models.base
    return run.folder / "base" / "model" if config.world and config.world.retrain_base else SHIPPED_BASE
