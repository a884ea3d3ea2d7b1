"""Write chains: one JSON step after another from a teacher (Insight-V, section 3.1), or whole in one reply from a trained reasoner."""

import asyncio
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from insightv.chain_text import parse_chain
from insightv.config import GenerateConfig, PromptsConfig, SamplingConfig
from insightv.generation.ask import ask, attempts, decoding, total_usage
from insightv.models.chat import Chat, Message, Reply, Sampling, request_key
from insightv.models.together import together
from insightv.prompts import CONCLUSION_SCHEMA, STEP_SCHEMA, conclusion_messages, generator_messages, parse_conclusion, parse_step, reasoner_messages
from insightv.records import Chain, ChainStatus, Problem, Step
from insightv.replies import MENDED, unique, valid_unicode
from insightv.store import content_hash, derive_seed

_LOOP_WORDS, _LOOP_TIMES = 8, 5
_SAID = 200


async def paths(problem: Problem, chat: Chat, settings: GenerateConfig, *, seed: int) -> list[Chain]:
    """All N paths of a problem, in the order of their index.

    With `lead` the first is one step ahead of the others, which then find image and question in the server's prefix cache.
    """
    begun = asyncio.Event()
    if not settings.lead:
        begun.set()

    async def lead() -> Chain:
        try:
            return await progressive(problem, chat, settings, seed=seed, index=0, on_step=begun.set)
        finally:
            begun.set()

    async def follow(index: int) -> Chain:
        await begun.wait()
        return await progressive(problem, chat, settings, seed=seed, index=index)

    return await together([lead(), *(follow(index) for index in range(1, settings.n))])


async def progressive(problem: Problem, chat: Chat, settings: GenerateConfig, *, seed: int, index: int, on_step: Callable[[], None] = lambda: None) -> Chain:
    """One path, step by step: R_t = M(I, Q, [R_1 .. R_{t-1}]) until the action is `summary`, then the conclusion.

    A malformed or repeated step is asked for again with the error said to the model; when `step_tries` are spent the
    chain ends as a `defect`. A request that failed for good makes the chain `failed`. `on_step` is called at the end of every step.
    """
    identity = [problem.id, chat.identity, "progressive", settings.model_dump(exclude={"n", "open_problems", "lead"}), seed, index]
    chain = Chain(id=content_hash(identity), problem_id=problem.id, model=chat.identity, mode="progressive", index=index)
    # Steps are shown to their writer as it said them, so that a server finds in its cache what it wrote itself.
    said: list[str] = []
    while chain.status == "ok" and len(chain.steps) < settings.max_steps and not _closing(chain):
        chain = await _with_step(chain, said, problem, chat, settings, seed)
        on_step()
    if chain.status == "ok" and not _closing(chain):
        last = chain.steps[-1].model_copy(update={"action": "summary"})
        said[-1] = last.model_dump_json()
        chain = _grown(chain, steps=(*chain.steps[:-1], last), defects=(*chain.defects, "step_limit"))
    return await _with_conclusion(chain, said, problem, chat, settings, seed) if chain.status == "ok" else chain


async def single(
    problem: Problem,
    chat: Chat,
    sampling: SamplingConfig,
    prompts: PromptsConfig,
    *,
    seed: int,
    n: int,
    messages: Callable[[Problem, PromptsConfig], list[Message]] = reasoner_messages,
) -> list[Chain]:
    """N whole chains from one request of N samples, as a trained reasoner writes them; `Chain.text` keeps the raw completion."""
    prompt = messages(problem, prompts)
    request = decoding(sampling, derive_seed(seed, problem.id, "single"), n=n)
    replies = await chat.complete(prompt, request)
    return [read_chain(problem, chat.identity, prompt, request, index, reply) for index, reply in enumerate(replies)]


def read_chain(problem: Problem, model: str, prompt: Sequence[Message], request: Sampling, index: int, reply: Reply) -> Chain:
    """The chain that one whole reply holds; `failed` with its reason if the request failed."""
    chain = Chain(id=request_key(model, prompt, request, index), problem_id=problem.id, model=model, mode="single", index=index, usage=reply.usage)
    if reply.finish == "failed":
        return _grown(chain, status="failed", reason=reply.error or "the request failed", defects=("request_failed",))
    steps, conclusion, answer, found = parse_chain(reply.text)
    found = (*found, *(["truncated"] if reply.finish == "length" else []), *_repetitions(steps, reply.text))
    return _grown(chain, steps=steps, conclusion=conclusion, answer=answer, text=reply.text, finish=reply.finish, defects=found)


def repeats(step: Step, earlier: Sequence[Step]) -> bool:
    """Whether a step says, up to case, spacing and outer punctuation, just what an earlier one says under the same title."""
    return _said(step) in map(_said, earlier)


def _said(step: Step) -> tuple[str, str]:
    # Two titles may rightly lead to one text: counts of two things can both be none.
    return _plain(step.summary), _plain(step.reasoning)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(string.punctuation)


def _repetitions(steps: Sequence[Step], text: str) -> list[str]:
    words = text.split()
    runs = Counter(zip(*(words[i:] for i in range(_LOOP_WORDS)), strict=False))
    found = ["repeated_step"] if len({_said(step) for step in steps}) < len(steps) else []
    return [*found, *(["repetition"] if max(runs.values(), default=0) >= _LOOP_TIMES else [])]


async def _with_step(chain: Chain, said: list[str], problem: Problem, chat: Chat, settings: GenerateConfig, seed: int) -> Chain:
    def read(text: str) -> tuple[Step | None, tuple[str, ...]]:
        step, found = parse_step(text)
        return step, (*found, *(["repeated_step"] if step and repeats(step, chain.steps) else []))

    samplings = attempts(settings.sampling, settings.step_tries, STEP_SCHEMA, seed, problem.id, chain.index, len(chain.steps))
    asked = await ask(chat, partial(generator_messages, problem, tuple(said)), read, samplings)
    usage, defects, step = total_usage(chain.usage, asked.usage), (*chain.defects, *asked.defects), asked.value
    if asked.failure:
        return _grown(chain, usage=usage, defects=defects, status="failed", reason=asked.failure)
    if step is None or not asked.usable:
        return _grown(chain, usage=usage, defects=defects, reason=_unusable(asked.said))
    early = step.action == "summary" and len(chain.steps) + 1 < settings.min_steps
    if early:
        step, defects = step.model_copy(update={"action": "continue"}), (*defects, "early_summary")
    # What had to be mended is shown mended: it is an example for the steps that follow.
    said.append(asked.said if not early and {"retried"}.issuperset(asked.defects) else step.model_dump_json())
    return _grown(chain, usage=usage, defects=defects, steps=(*chain.steps, step))


async def _with_conclusion(chain: Chain, said: list[str], problem: Problem, chat: Chat, settings: GenerateConfig, seed: int) -> Chain:
    def read(text: str) -> tuple[tuple[str, str], tuple[str, ...]]:
        conclusion, answer, found = parse_conclusion(text)
        return (conclusion, answer), found

    samplings = attempts(settings.sampling, settings.step_tries, CONCLUSION_SCHEMA, seed, problem.id, chain.index, "conclusion")
    asked = await ask(chat, partial(conclusion_messages, problem, said), read, samplings)
    usage, defects = total_usage(chain.usage, asked.usage), (*chain.defects, *asked.defects)
    if asked.failure:
        return _grown(chain, usage=usage, defects=defects, status="failed", reason=asked.failure)
    conclusion, answer = asked.value or ("", "")
    reason = "" if asked.usable else _unusable(asked.said)
    return _grown(chain, usage=usage, defects=defects, conclusion=conclusion, answer=answer, reason=reason)


def _unusable(said: str) -> str:
    """The beginning of a reply in one line, for whoever looks why a model does not keep to the format."""
    return f"unusable: {' '.join(valid_unicode(said)[0][:_SAID].split())}"


def _closing(chain: Chain) -> bool:
    return bool(chain.steps) and chain.steps[-1].action == "summary"


def _grown(chain: Chain, *, defects: Sequence[str], status: ChainStatus | None = None, **changes: object) -> Chain:
    names = unique(tuple(defects))
    judged: ChainStatus = "ok" if MENDED.issuperset(names) else "defect"
    return chain.model_copy(update={**changes, "defects": names, "status": status or judged})
