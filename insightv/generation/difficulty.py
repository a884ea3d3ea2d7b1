"""Which questions are worth a chain: those that the generator's direct answer misses, as half of the authors' reasoning data was chosen."""

from collections.abc import Callable

from insightv.answers import extract
from insightv.config import AssessConfig, SamplingConfig
from insightv.generation.ask import decoding
from insightv.generation.assess import verdict
from insightv.models.chat import Chat, Message
from insightv.records import Chain, Problem, Verdict
from insightv.store import derive_seed


async def direct_verdict(
    problem: Problem,
    generator: Chat,
    judge: Chat | None,
    messages: Callable[[Problem], list[Message]],
    sampling: SamplingConfig,
    settings: AssessConfig,
    seed: int,
) -> Verdict:
    """Whether the generator's direct answer agrees with the ground truth, by rules first, then by the judge; None where it gave none or nobody could tell.

    `messages` asks for an answer without reasoning. The verdict's `chain_id` is empty: there is no chain.
    """
    [reply] = await generator.complete(messages(problem), decoding(sampling, derive_seed(seed, problem.id, "direct")))
    if reply.finish == "failed":
        return Verdict(chain_id="", problem_id=problem.id, correct=None, by="none", reason=f"no direct answer: {reply.error}")
    answer = extract(reply.text, problem) or reply.text.strip()
    answered = Chain(id="", problem_id=problem.id, model=generator.identity, mode="single", index=0, answer=answer)
    return await verdict(problem, answered, judge, settings, seed)
