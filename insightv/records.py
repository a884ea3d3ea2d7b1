"""The records that everything else passes along: read this file first.

A *problem* becomes *chains*, a chain gets a *verdict* and a *score*, and two agents make a *solution*.
Records are frozen: a judgement is a new record, never a change to an old one.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AnswerType = Literal["choice", "number", "yes_no", "text"]
Action = Literal["continue", "summary"]


class Record(BaseModel):
    """Base of all records: immutable, and a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Record):
    """An image question with its accepted answers."""

    id: str
    """Content hash of everything below but `meta`."""
    question: str
    """Text; `<image>` marks where each image stands. Images without a mark come first, in order."""
    images: tuple[str, ...] = ()
    """Digests of the encoded images, which lie in the run's image store."""
    options: tuple[str, ...] = ()
    """The texts of options A, B, C .. of a multiple-choice question."""
    answers: tuple[str, ...]
    """Every accepted answer; the letter or the text of an option for a multiple-choice question. The first is what models learn to say."""
    answer_type: AnswerType = "text"
    source: str = ""
    meta: dict[str, Any] = Field(default_factory=dict)
    """What a source knows besides: family, kind, difficulty, facts of the scene. Never shown to a model."""


class Step(Record):
    """One step of a chain (Insight-V, section 3.1): a title, the detailed reasoning, and what comes next."""

    summary: str
    reasoning: str
    action: Action = "continue"


class Usage(Record):
    """Tokens of a request."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


ChainStatus = Literal["ok", "defect", "failed"]


class Chain(Record):
    """A reasoning path: steps, a conclusion and the candidate answer."""

    id: str
    """Hash of problem, model identity, sampling settings and index: the same request has the same id."""
    problem_id: str
    model: str
    """Identity of the model that wrote it."""
    mode: Literal["progressive", "single"]
    index: int
    """Which of the problem's N paths this is."""
    steps: tuple[Step, ...] = ()
    conclusion: str = ""
    answer: str = ""
    """Candidate answer, as written. Empty if the chain has none."""
    status: ChainStatus = "ok"
    """`defect`: replies came but the chain is not usable as it is; `failed`: a request failed for good."""
    defects: tuple[str, ...] = ()
    """Names of what is wrong or was mended: `bad_json`, `truncated`, `repeated_step`, `retried` .."""
    reason: str = ""
    """For a failed chain: why; for a teacher's that is a `defect`: how the reply began that could not be used."""
    text: str = ""
    """The raw completion in `single` mode, byte for byte; training on a model's own tokens needs it."""
    finish: Literal["stop", "length"] = "stop"
    """How that completion ended: `length` is a limit of tokens, behind which the model wrote no end of turn."""
    usage: Usage = Usage()


class Verdict(Record):
    """Whether a chain's answer agrees with the ground truth (answer filtering)."""

    chain_id: str
    problem_id: str
    correct: bool | None
    """None: not judged, because the judge failed or its reply was unusable. Never the same as wrong."""
    by: Literal["rule", "judge", "hand", "none"]
    reason: str = ""


class Correction(Record):
    """What somebody said of a chain by hand; data sets that are built afterwards follow it."""

    chain_id: str
    problem_id: str
    correct: bool | None = None
    """Instead of the verdict; None leaves it."""
    flagged: bool = False
    """It enters no data set."""
    note: str = ""


class Score(Record):
    """A path score 1..100, given with all surviving paths of the problem in one request (path scoring)."""

    chain_id: str
    problem_id: str
    value: int | None
    """None: the scorer failed or left this chain out, even when asked again."""
    reason: str = ""
    position: int = 0
    """Where the chain stood in the shuffled request, from 0."""


class Solution(Record):
    """What a system answered to a problem."""

    problem_id: str
    system: str
    answer: str
    """The answer as extracted; empty if none was found."""
    text: str
    """The final reply, whole."""
    chain: Chain | None = None
    correct: bool | None = None
    """None before it is scored, and where the request failed: such a row is owed again, never scored."""
    parsed: bool = True
    status: Literal["ok", "failed"] = "ok"
    reason: str = ""
    usage: Usage = Usage()
