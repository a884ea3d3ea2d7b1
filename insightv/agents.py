"""The two agents at work: the reasoner writes a chain, the summary agent judges it and answers; beside them the systems they are compared with."""

from collections.abc import AsyncIterator

from insightv.answers import correct, extract
from insightv.chain_text import process_text
from insightv.config import PromptsConfig, SamplingConfig, SystemsConfig
from insightv.generation.ask import decoding, total_usage
from insightv.generation.sample import read_chain, single
from insightv.models.chat import Chat, Delta, Message, Reply
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
    problem: Problem, reasoner: Chat, summarizer: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, system: str = "pair"
) -> Solution:
    """Reasoner, then summary agent (Insight-V, section 3.3)."""
    [chain] = await reason(problem, reasoner, settings.reasoner, prompts, seed)
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


async def solve_multi_turn(problem: Problem, model: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int, system: str = "multi-turn") -> Solution:
    """One model trained on two turns: its chain, then, asked again, the answer."""
    [chain] = await reason(problem, model, settings.reasoner, prompts, seed)
    if chain.status == "failed":
        return _failed(problem, system, chain.reason, chain)
    reply = await _one(model, answer_turn_messages(problem, chain.text, prompts), settings.answer, derive_seed(seed, problem.id, "answer turn"))
    return _solution(problem, system, reply, chain)


async def stream(problem: Problem, reasoner: Chat, summarizer: Chat, settings: SystemsConfig, prompts: PromptsConfig, seed: int) -> AsyncIterator[Delta]:
    """The streaming form of `solve`: the chain as reasoning, the summary agent's reply as content, then the tokens of both."""
    prompt = reasoner_messages(problem, prompts)
    request = decoding(settings.reasoner, derive_seed(seed, problem.id, "single"))
    written, usage = "", Usage()
    async for delta in reasoner.stream(prompt, request):
        usage = total_usage(usage, delta.usage or Usage())
        if delta.kind != "usage":
            written += delta.text if delta.kind == "content" else ""
            yield Delta("reasoning", delta.text)
    chain = read_chain(problem, reasoner.identity, prompt, request, 0, Reply(written))
    request = decoding(settings.answer, derive_seed(seed, problem.id, "summary"))
    async for delta in summarizer.stream(summarizer_messages(problem, process_text(chain), prompts), request):
        usage = total_usage(usage, delta.usage or Usage())
        if delta.kind == "content":
            yield delta
    yield Delta("usage", usage=usage)


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
    # What rules leave open is not right here: benchmarks with free text bring scorers of their own.
    right = correct(answer, problem) is True
    return Solution(problem_id=problem.id, system=system, answer=answer, text=text, chain=chain, correct=right, parsed=bool(answer), usage=usage)


def _failed(problem: Problem, system: str, reason: str, chain: Chain | None) -> Solution:
    return Solution(problem_id=problem.id, system=system, answer="", text="", chain=chain, correct=None, parsed=False, status="failed", reason=reason)
