"""The two agents at work: the reasoner writes a chain, the summary agent judges it and answers; beside them the systems they are compared with."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from insightv.answers import extract, normalise
from insightv.chain_text import process_text
from insightv.config import PromptsConfig, SamplingConfig, SystemsConfig
from insightv.generation.ask import decoding, total_usage
from insightv.generation.sample import read_chain, single
from insightv.models.chat import Chat, Delta, Message, Reply, Sampling
from insightv.prompts import answer_turn_messages, direct_messages, reasoner_messages, single_messages, summarizer_messages
from insightv.records import Chain, Problem, Solution, Usage
from insightv.store import derive_seed


async def reason(problem: Problem, reasoner: Chat, sampling: SamplingConfig, prompts: PromptsConfig, seed: int, n: int = 1) -> list[Chain]:
    """The reasoning agent's N chains for a problem, from one request."""
    return await single(problem, reasoner, sampling, prompts, seed=seed, n=n)


async def summarize(problem: Problem, chain_text: str, summarizer: Chat, sampling: SamplingConfig, prompts: PromptsConfig, seed: int) -> Reply:
    """The summary agent's reply to the question and a reasoning process that may be wrong."""
    return await _one(summarizer, summarizer_messages(problem, chain_text, prompts), sampling, derive_seed(seed, problem.id, "summary"))


async def solve(
    problem: Problem,
    reasoner: Chat,
    summarizer: Chat,
    settings: SystemsConfig,
    prompts: PromptsConfig,
    seed: int,
    system: str = "pair",
    *,
    reasoned: Problem | None = None,
) -> Solution:
    """Reasoner, then summary agent (Insight-V, section 3.3); a negative control has the chain of another problem, which is `reasoned` instead."""
    [chain] = await reason(reasoned or problem, reasoner, settings.reasoner, prompts, seed)
    if chain.status == "failed":
        return _failed(problem, system, chain.reason, chain)
    reply = await summarize(problem, process_text(chain), summarizer, settings.answer, prompts, seed)
    return _solution(problem, system, reply, chain)


async def solve_direct(problem: Problem, model: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, system: str = "direct") -> Solution:
    """An answer without reasoning: the base model, or the summary agent alone."""
    reply = await _one(model, direct_messages(problem, prompts), settings.answer, derive_seed(seed, problem.id, "direct"))
    return _solution(problem, system, reply)


async def solve_reasoner(problem: Problem, reasoner: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, system: str = "reasoner") -> Solution:
    """The reasoning agent alone: its chain's own candidate answer counts."""
    [chain] = await reason(problem, reasoner, settings.reasoner, prompts, seed)
    if chain.status == "failed":
        return _failed(problem, system, chain.reason, chain)
    return _answered(problem, system, chain.answer, chain.text, chain.usage, chain)


async def solve_single(problem: Problem, model: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, system: str = "single") -> Solution:
    """One model that writes the chain and the answer in one reply; also a base model that is prompted to reason."""
    prompt = single_messages(problem, prompts)
    request = decoding(settings.reasoner, derive_seed(seed, problem.id, "single"))
    [reply] = await model.complete(prompt, request)
    chain = read_chain(problem, model.identity, prompt, request, 0, reply)
    if chain.status == "failed":
        return _failed(problem, system, chain.reason, chain)
    return _answered(problem, system, reply.text, reply.text, reply.usage, chain if chain.steps else None)


async def solve_vote(problem: Problem, model: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, system: str = "vote") -> Solution:
    """One model asked `settings.votes` times: the answer that most of its replies give counts, and of these the first is shown. Tokens are those of all."""
    prompt = single_messages(problem, prompts)
    drawn = settings.reasoner.model_copy(update={"temperature": settings.vote_temperature})
    request = decoding(drawn, derive_seed(seed, problem.id, "vote"), n=settings.votes)
    replies = await model.complete(prompt, request)
    came = [index for index, reply in enumerate(replies) if reply.finish != "failed"]
    if not came:
        return _failed(problem, system, replies[0].error or "the request failed", None)
    index = came[majority([extract(replies[index].text, problem) for index in came])]
    chain = read_chain(problem, model.identity, prompt, request, index, replies[index])
    usage = total_usage(*(reply.usage for reply in replies))
    return _answered(problem, system, replies[index].text, replies[index].text, usage, chain if chain.steps else None)


def majority(answers: Sequence[str]) -> int:
    """The place of the first answer that is given most often, whatever its spelling; the earliest of several counts, and no answer has no vote."""
    votes = Counter(normalise(answer) for answer in answers if answer)
    return max(range(len(answers)), key=lambda place: (votes[normalise(answers[place])] if answers[place] else 0, -place))


async def solve_multi_turn(problem: Problem, model: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, system: str = "multi-turn") -> Solution:
    """One model trained on two turns: its chain, then, asked again, the answer."""
    [chain] = await reason(problem, model, settings.reasoner, prompts, seed)
    if chain.status == "failed":
        return _failed(problem, system, chain.reason, chain)
    reply = await _one(model, answer_turn_messages(problem, chain.text, prompts), settings.answer, derive_seed(seed, problem.id, "answer turn"))
    return _solution(problem, system, reply, chain)


async def stream(
    problem: Problem,
    reasoner: Chat,
    summarizer: Chat,
    settings: SystemsConfig,
    prompts: PromptsConfig,
    seed: int,
    *,
    history: Sequence[Message] = (),
    stop: tuple[str, ...] = (),
) -> AsyncGenerator[Delta, None]:
    """The streaming form of `solve`: the chain as reasoning, the summary agent's reply as content, then the tokens of both.

    `history` are earlier turns of the conversation that ends in the question; `stop` ends the answer, never the chain. An agent that fails
    raises what its `stream` does.
    """
    written = _Written(problem, reasoner, settings, prompts, seed, history)
    async with aclosing(written.deltas()) as deltas:
        async for delta in deltas:
            yield delta
    request = replace(decoding(settings.answer, derive_seed(seed, problem.id, "summary")), stop=stop)
    shown = [*history, *summarizer_messages(problem, process_text(written.chain()), prompts)]
    async with aclosing(_answering(summarizer, shown, request, written.usage)) as deltas:
        async for delta in deltas:
            yield delta


async def stream_direct(
    problem: Problem,
    model: Chat,
    settings: SystemsConfig,
    prompts: PromptsConfig,
    seed: int,
    *,
    history: Sequence[Message] = (),
    stop: tuple[str, ...] = (),
) -> AsyncGenerator[Delta, None]:
    """The streaming form of `solve_direct`."""
    request = replace(decoding(settings.answer, derive_seed(seed, problem.id, "direct")), stop=stop)
    async with aclosing(_answering(model, [*history, *direct_messages(problem, prompts)], request, Usage())) as deltas:
        async for delta in deltas:
            yield delta


async def stream_reasoner(
    problem: Problem, reasoner: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, *, history: Sequence[Message] = ()
) -> AsyncGenerator[Delta, None]:
    """The streaming form of `solve_reasoner`: the chain as reasoning, then its own candidate answer as content; none where it has none."""
    written = _Written(problem, reasoner, settings, prompts, seed, history)
    async with aclosing(written.deltas()) as deltas:
        async for delta in deltas:
            yield delta
    chain = written.chain()
    if chain.answer:
        yield Delta("content", chain.answer)
    yield Delta("usage", usage=written.usage, finish=chain.finish)


class _Written:
    """A chain while the reasoner writes it."""

    def __init__(self, problem: Problem, reasoner: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, history: Sequence[Message]) -> None:
        self.usage = Usage()
        """Once written: all of the completion is reasoning."""
        self._problem, self._reasoner = problem, reasoner
        self._prompt = [*history, *reasoner_messages(problem, prompts)]
        self._request = decoding(settings.reasoner, derive_seed(seed, problem.id, "single"))
        self._reply = Reply("")

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """What is written, as reasoning."""
        text = aside = ""
        async with aclosing(self._reasoner.stream(self._prompt, self._request)) as deltas:
            async for delta in deltas:
                if delta.kind == "usage":
                    usage = delta.usage or Usage()
                    self.usage = usage.model_copy(update={"reasoning": usage.completion})
                    self._reply = Reply(text or aside, finish=delta.finish or "stop", usage=usage)
                else:
                    # A server that parses reasoning takes the whole chain for it.
                    text, aside = (text + delta.text, aside) if delta.kind == "content" else (text, aside + delta.text)
                    yield Delta("reasoning", delta.text)

    def chain(self) -> Chain:
        """The whole of it."""
        return read_chain(self._problem, self._reasoner.identity, self._prompt, self._request, 0, self._reply)


async def _answering(model: Chat, messages: list[Message], request: Sampling, before: Usage) -> AsyncGenerator[Delta, None]:
    """An answer's content, then the tokens of it and of what was asked `before`."""
    async with aclosing(model.stream(messages, request)) as deltas:
        async for delta in deltas:
            if delta.kind == "content":
                yield delta
            elif delta.kind == "usage":
                yield Delta("usage", usage=total_usage(before, delta.usage or Usage()), finish=delta.finish)


async def _one(model: Chat, messages: list[Message], sampling: SamplingConfig, seed: int) -> Reply:
    [reply] = await model.complete(messages, decoding(sampling, seed))
    return reply


def _solution(problem: Problem, system: str, reply: Reply, chain: Chain | None = None) -> Solution:
    usage = total_usage(reply.usage, chain.usage) if chain else reply.usage
    if reply.finish == "failed":
        return _failed(problem, system, reply.error or "the request failed", chain)
    return _answered(problem, system, reply.text, reply.text, usage, chain)


def _answered(problem: Problem, system: str, answered: str, text: str, usage: Usage, chain: Chain | None) -> Solution:
    answer = extract(answered, problem)
    return Solution(problem_id=problem.id, system=system, answer=answer, text=text, chain=chain, parsed=bool(answer), usage=usage)


def _failed(problem: Problem, system: str, reason: str, chain: Chain | None) -> Solution:
    return Solution(problem_id=problem.id, system=system, answer="", text="", chain=chain, parsed=False, status="failed", reason=reason)
