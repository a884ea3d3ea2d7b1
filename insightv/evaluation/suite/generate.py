"""Have a system answer the items of benchmarks: every answer is on disk before it counts, and what failed is owed."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from insightv.chain_text import END, START
from insightv.evaluation.suite.predictions import Asking, Lines, Prediction, adding, folder, prompt_hash, question_hash
from insightv.models.chat import Chat, Delta, Message, Reply, Sampling
from insightv.records import Problem, Solution
from insightv.scale.local import completed
from insightv.store import derive_seed

Parts = Callable[[Solution, Reply], tuple[str, str]]
"""(reasoning, content) of a solution, from it and the reply whose text is its own."""

_HEARD: ContextVar[list[Reply]] = ContextVar("heard")
_OUTPUT = re.compile(r"<output>(.*?)(?:</output>|\Z)", re.DOTALL)
_ANSWER = re.compile(r"^[^\w\n]{0,4}(?:final )?answer[^\w\n]{0,4}:[*\s]{0,4}(?=\S)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Task:
    """An item that a system has yet to answer."""

    benchmark: str
    problem: Problem
    sample: int


@dataclass(frozen=True, slots=True)
class System:
    """A row's way to answer."""

    solve: Callable[[Problem, int], Awaitable[Solution]]
    """A problem, with a seed."""
    parts: Parts


class Heard:
    """A `Chat` that keeps what it replied for whoever asked, with how it ended and what it took."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    @property
    def identity(self) -> str:
        """That of the model."""
        return self._chat.identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> list[Reply]:
        """As the model does."""
        replies = await self._chat.complete(messages, sampling)
        _HEARD.get().extend(replies)
        return replies

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """As the model does."""
        return self._chat.stream(messages, sampling)

    async def close(self) -> None:
        """End the model."""
        await self._chat.close()


async def generate(
    tasks: Iterable[Task], system: System, asking: Asking, run: Path, shard: str, *, seed: int, concurrency: int, on_done: Callable[[Prediction], None]
) -> None:
    """Have a system, over models that are `Heard`, answer every task, and add each answer to its benchmark's file of the shard when it is there."""

    async def answer(task: Task) -> Prediction:
        drawn = derive_seed(seed, "sample", task.sample) if task.sample else seed
        heard: list[Reply] = []
        # Every task has a context of its own.
        _HEARD.set(heard)
        # Seeds are drawn from a problem's id: a corrected answer must not make it another request.
        asked = task.problem.model_copy(update={"id": question_hash(task.problem)})
        return _prediction(task, system.parts, await system.solve(asked, drawn), heard, asking, drawn)

    files: dict[str, Lines] = {}
    with ExitStack() as stack:
        async with aclosing(completed(answer, tasks, concurrency=concurrency)) as answers:
            async for _, prediction in answers:
                name = prediction.benchmark
                if name not in files:
                    files[name] = stack.enter_context(adding(folder(run, name, asking.row) / f"{shard}.jsonl"))
                files[name].add(prediction)
                on_done(prediction)


def _prediction(task: Task, parts: Parts, solution: Solution, heard: Sequence[Reply], asking: Asking, seed: int) -> Prediction:
    # Of several that vote it is not the last one that answers.
    last = next((reply for reply in reversed(heard) if reply.finish != "failed" and reply.text == solution.text), Reply(""))
    reasoning, content = parts(solution, last)
    return Prediction(
        benchmark=task.benchmark,
        item=str(task.problem.meta["index"]),
        sample=task.sample,
        prompt=prompt_hash(task.problem, asking.prompts),
        model=asking.model,
        row=asking.row,
        seed=seed,
        reasoning=reasoning,
        content=content,
        finish="length" if last.finish == "length" else "stop",
        chain_finish="length" if any(reply.finish == "length" for reply in heard if reply is not last) else "stop",
        status=solution.status,
        reason=solution.reason,
        usage=solution.usage,
        seconds=round(sum(reply.seconds for reply in heard), 3),
    )


def parts_of_answer(solution: Solution, last: Reply) -> tuple[str, str]:
    """(reasoning, content) where a reply of its own is the answer; a chain that it holds is none."""
    before, content = split_tags(last.text)
    written = solution.chain.text if solution.chain else ""
    return "\n".join(filter(None, (written, last.reasoning, before))), content


def parts_of_chain(solution: Solution, last: Reply) -> tuple[str, str]:
    """(reasoning, content) where the chain's own candidate answer counts."""
    return (solution.chain.text, solution.chain.answer) if solution.chain else parts_of_answer(solution, last)


def parts_of_reasoned(solution: Solution, last: Reply) -> tuple[str, str]:
    """(reasoning, content) where one reply holds both: tags tell them apart, else the last line `Answer: ..`, else all is the answer."""
    reasoning, content = parts_of_answer(solution.model_copy(update={"chain": None}), last)
    if not (lines := list(_ANSWER.finditer(content))):
        return reasoning, content
    before, behind = content[: lines[-1].start()].rstrip(), content[lines[-1].end() :]
    return "\n".join(filter(None, (reasoning, before))), behind.strip().rstrip("*").rstrip()


def split_tags(text: str) -> tuple[str, str]:
    """(chain, answer): what stands in the last `<output>`, else behind the last `</thoughts>` or `</think>`; without such tags all is the answer.

    A chain that never ends leaves no answer.
    """
    ends = [text.rfind(tag) + len(tag) for tag in (END, "</think>") if tag in text]
    outputs = [match for match in _OUTPUT.finditer(text) if match[0].endswith("</output>") or START in text or ends]
    if outputs:
        return text[: outputs[-1].start()].rstrip(), outputs[-1][1].strip()
    if ends:
        return text[: max(ends)], text[max(ends) :].strip()
    return (text, "") if START in text else ("", text)
