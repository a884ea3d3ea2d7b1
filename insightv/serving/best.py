"""Best of N: N chains, the summary agent's answer to each, and one of them chosen."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from insightv import agents
from insightv.answers import extract, normalise
from insightv.chain_text import parse_chain
from insightv.config import PromptsConfig, SamplingConfig
from insightv.generation.ask import ask, attempts, total_usage
from insightv.models.chat import Chat, Delta, Message
from insightv.prompts import SCORES_SCHEMA, parse_scores, rating_messages
from insightv.records import Chain, Usage
from insightv.serving.request import Asked
from insightv.serving.work import at_once
from insightv.store import derive_seed

RATING = SamplingConfig(max_tokens=2048)
_TRIES = 3


@dataclass(frozen=True)
class Path:
    """A chain and the answer that the summary agent came to by it."""

    reasoning: str
    content: str
    last: Delta
    """Tokens and end."""


async def best_of(n: int, asked: Asked, reasoner: Chat, summarizer: Chat, judge: Chat | None, prompts: PromptsConfig, seed: int) -> AsyncGenerator[Delta, None]:
    """The best of N paths as one reply, which counts the tokens of all.

    Without a judge it is the first of those with the most frequent answer; with one, the path whose chain the judge rates best in one request,
    and the more frequent answer of two that are rated alike. An agent or a judge that fails raises what its `Chat` does.
    """

    async def path(index: int) -> Path:
        texts = {"reasoning": "", "content": ""}
        own = derive_seed(seed, "path", index) if index else seed
        given = (asked.problem, reasoner, summarizer, asked.settings, prompts, own)
        async with aclosing(agents.stream(*given, history=asked.history, stop=asked.stop)) as deltas:
            async for delta in deltas:
                if delta.kind == "usage":
                    return Path(texts["reasoning"], texts["content"], delta)
                texts[delta.kind] += delta.text
        raise RuntimeError("a stream ended without its last delta")

    paths = await at_once([path(index) for index in range(n)])
    ratings, spent = await _rate(paths, asked, judge, seed) if judge and n > 1 else ([0] * n, Usage())
    answers = [normalise(extract(one.content, asked.problem) or one.content) for one in paths]
    votes = Counter(answers)
    best = max(range(n), key=lambda index: (ratings[index], votes[answers[index]], -index))
    yield Delta("reasoning", paths[best].reasoning)
    yield Delta("content", paths[best].content)
    usage = total_usage(spent, *(one.last.usage or Usage() for one in paths))
    yield Delta("usage", usage=usage, finish=paths[best].last.finish)


async def _rate(paths: Sequence[Path], asked: Asked, judge: Chat, seed: int) -> tuple[list[int], Usage]:
    """A rating 1..100 of each path's chain, 0 where the judge left it out, and what it took."""
    problem, chains = asked.problem, []
    for index, one in enumerate(paths):
        steps, conclusion, answer, _ = parse_chain(one.reasoning)
        read = {"steps": steps, "conclusion": conclusion, "answer": answer, "text": one.reasoning}
        chains.append(Chain(id=str(index), problem_id=problem.id, model="", mode="single", index=index, **read))
    samplings = attempts(RATING, _TRIES, SCORES_SCHEMA, seed, problem.id, "rating")

    def messages(error: str | None) -> list[Message]:
        instruction, question = rating_messages(problem, chains, error)
        return [instruction, *asked.history, question]

    said = await ask(judge, messages, lambda text: parse_scores(text, len(chains)), samplings)
    scores = [score or 0 for score, _ in said.value or ()]
    if not any(scores):
        raise RuntimeError(f"the judge failed: {said.failure or 'it rated no chain'}")
    return scores, said.usage.model_copy(update={"reasoning": said.usage.completion})
