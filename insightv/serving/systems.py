"""The models that the pair answers as, by name: itself, one agent alone, the best of N chains."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from insightv import agents
from insightv.config import PromptsConfig, ServeConfig, SystemsConfig
from insightv.models.chat import Chat, Delta
from insightv.serving.best import best_of
from insightv.serving.replies import ApiError
from insightv.serving.request import Asked
from insightv.serving.tags import Cleaner


@dataclass(frozen=True)
class Pair:
    """Both agents, and how they are asked."""

    reasoner: Chat
    summarizer: Chat
    judge: Chat | None
    systems: SystemsConfig
    prompts: PromptsConfig
    serve: ServeConfig

    @property
    def names(self) -> list[str]:
        """The models to list; best-of-N exists for other N too."""
        name = self.serve.name
        return [name, f"{name}/reasoner", f"{name}/summarizer", *([f"{name}/best-of-{self.serve.max_n}"] if self.serve.max_n > 1 else [])]

    def read_name(self, model: str) -> tuple[str, int]:
        """What a model's name stands for (`pair`, `reasoner`, `summarizer`, `best-of`), and how many chains it takes; an `ApiError` for no model's."""
        match = re.fullmatch(rf"{re.escape(self.serve.name)}(?:/(?:(reasoner|summarizer)|best-of-([1-9][0-9]{{0,3}})))?", model)
        if not match:
            raise ApiError(404, f"there is no model {model[:100]!r}; there are {', '.join(self.names)}", "model")
        return match[1] or ("best-of" if match[2] else "pair"), int(match[2] or 1)


async def answer(pair: Pair, model: str, asked: Asked, select: str, seed: int) -> AsyncGenerator[Delta, None]:
    """One reply of a model as deltas: its chain as reasoning, the answer as content without a tag, then tokens and end."""
    cleaner = Cleaner()
    async with aclosing(_system(pair, model, asked, select, seed)) as deltas:
        async for delta in deltas:
            for clean in cleaner.clean(delta):
                yield clean


def _system(pair: Pair, model: str, asked: Asked, select: str, seed: int) -> AsyncGenerator[Delta, None]:
    """What the model's name stands for."""
    given = (asked.settings, pair.prompts, seed)
    match pair.read_name(model):
        case "reasoner", _:
            return agents.stream_reasoner(asked.problem, pair.reasoner, *given, history=asked.history)
        case "summarizer", _:
            return agents.stream_direct(asked.problem, pair.summarizer, *given, history=asked.history, stop=asked.stop)
        case "pair", _:
            return agents.stream(asked.problem, pair.reasoner, pair.summarizer, *given, history=asked.history, stop=asked.stop)
        case _, n:
            return best_of(n, asked, pair.reasoner, pair.summarizer, pair.judge if select == "judged" else None, pair.prompts, seed)
