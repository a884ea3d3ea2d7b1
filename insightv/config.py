"""All settings: one strict model per stage. `config_file` reads them from YAML."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class UserError(Exception):
    """Something the user can mend: shown as one line, exit code 2, no traceback."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, fields carry their own documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EndpointConfig(Settings):
    """A model behind an OpenAI-compatible URL."""

    url: str = ""
    """Base URL ending in /v1. Empty in a world's config: the world's own teacher."""
    replicas: tuple[str, ...] = ()
    """URLs of further servers of the very same model; each request goes to the least loaded, or where its beginning is cached."""
    model: str = "teacher"
    revision: str = ""
    """Names the weights behind the URL; part of every request's key, so change it when the model changes."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; unset means no key is sent."""
    concurrency: int = Field(64, ge=1)
    """Requests in flight at most, at each replica; fewer while a server refuses them (429, 503) or they time out."""
    requests_per_minute: float | None = Field(None, gt=0)
    """The provider's limit, if there is one: requests are spread so as to keep to it."""
    tokens_per_minute: float | None = Field(None, gt=0)
    """The same in prompt and completion tokens; what a request will take is guessed from those before it."""
    timeout: float = Field(300.0, gt=0)
    """Seconds for one attempt at a request."""
    deadline: float | None = Field(None, gt=0)
    """Seconds after which no further attempt at a request is made; None leaves it to `retries`."""
    retries: int = Field(5, ge=0)
    """Further attempts after a retryable failure (5xx, reset, time-out, broken body). 429 is tried again for `max_outage` seconds at least."""
    max_outage: float = Field(600.0, gt=0)
    """Seconds an endpoint may be out of reach before the run ends; it pauses and probes until then."""
    price_in: float = 0.0
    """Price of a million prompt tokens."""
    price_out: float = 0.0
    """Price of a million completion tokens."""
    price_cached: float | None = None
    """Price of a million prompt tokens from the server's cache; None is `price_in`."""
    images: Literal["data", "uuid", "file"] = "data"
    """How an image is sent: as a data URL each time; once, then by its `uuid` (vLLM with a cache for media); or as a file:// URL to a server
    that may read the run's folder."""
    n_per_request: int = Field(1, ge=1)
    """Samples of one prompt asked for in one request (`n`), where there are several to ask for; those beyond the first have the server's own seeds."""
    extra: dict[str, Any] = {}
    """Further request fields, passed through."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Every replica's URL."""
        return (self.url, *self.replicas)

    def cost(self, prompt: int, completion: int, cached: int) -> float:
        """Price of a request's tokens; `cached` are some of `prompt`."""
        from_cache = self.price_in if self.price_cached is None else self.price_cached
        return ((prompt - cached) * self.price_in + cached * from_cache + completion * self.price_out) / 1e6


class BudgetConfig(Settings):
    """When to stop asking endpoints: what is in flight is still answered and kept, and a raised budget goes on from there."""

    max_cost: float | None = Field(None, ge=0)
    """In the currency of the prices, over the whole run. What is in flight when it is reached comes on top."""
    max_requests: int | None = Field(None, ge=0)
    """Requests sent, over the whole run, further attempts included."""
    max_hours: float | None = Field(None, gt=0)
    """Of one start of the run."""


class ScaleConfig(Settings):
    """Where chains are made and judged: in the run's own process, or in workers beside it. What is made is the same."""

    workers: int = Field(0, ge=0)
    """Processes under Ray (`pip install 'insightv[ray]'`) that share out the endpoints' `concurrency` and rates, and `generate.open_problems`; 0 does the
    work in the run's own process, which is enough for some hundred requests a second."""
    address: str | None = None
    """Of a Ray that runs on this host, as `ray.init` takes it; None starts one for the time of a stage, which nobody else can reach."""


class SamplingConfig(Settings):
    """How a model decodes."""

    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)


class PromptsConfig(Settings):
    """The two agents' prompts and their relatives; `{question}` and `{chain}` are replaced, nothing else.

    The defaults follow the authors' released prompts; a tiny base model wants short ones.
    """

    reasoner: str = "{question}\nPerform step-by-step reasoning of the problem. Only provide the reasoning process."
    summarizer: str = (
        "You are given a question about the image and a reasoning process that may be right or wrong. Decide whether the reasoning is correct. "
        "If it is, summarise the answer from it; if it is not, ignore it and answer the question yourself. "
        "Give the answer directly and do not mention your judgement.\nQUESTION: {question}\nREASON PROCESS: {chain}"
    )
    direct: str = "{question}\nAnswer the question directly."
    single: str = "{question}\nPerform step-by-step reasoning of the problem, then give the answer."
    answer_turn: str = "Now give the answer directly."
    """Second user turn of multi-turn training."""


class GenerateConfig(Settings):
    """Progressive long-chain generation (Insight-V, section 3.1)."""

    n: int = Field(3, ge=1)
    """Paths per problem."""
    min_steps: int = Field(2, ge=1)
    max_steps: int = Field(15, ge=1)
    step_tries: int = Field(3, ge=1)
    """Attempts at a well-formed step, the error said to the model, before the chain is given up as defective."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, top_p=0.95, max_tokens=1024)
    """Per step."""
    open_problems: int = Field(256, ge=1)
    """Problems worked on at once, each with all its paths: more than a server takes, so that no place is idle, and few enough that it still has their
    images and questions in its prefix cache when the next step comes."""
    lead: bool = True
    """Let the first path of a problem be one step ahead, so that the others find its prompt in the server's cache."""


class DecontaminateConfig(Settings):
    """When a training problem counts as shown by a benchmark (docs/sources.md)."""

    distance: int = Field(5, ge=0, le=15)
    """Bits of 64 in which the looks of a problem's and an item's picture differ at most; twice as many where a short question is the same too."""
    words: int = Field(13, ge=5)
    """Words in a row that a problem's and an item's question share; with fewer a question counts only beside a picture that looks alike."""
    pictures: int = Field(3, ge=1)
    """Words that a benchmark puts to more pictures than this are its template, and count for nothing."""


class FilterConfig(Settings):
    """Which training problems get chains."""

    hard_only: bool = False
    """Only those that the generator answers wrongly when it is asked to answer directly: one short request for each problem, and a verdict."""
    always: tuple[str, ...] = ()
    """Sources whose problems are taken without being asked, such as sets of OCR or mathematics that the authors took whole."""
    sampling: SamplingConfig = SamplingConfig(max_tokens=128)
    """How the direct answer is decoded."""


class AssessConfig(Settings):
    """Multi-granularity assessment (Insight-V, section 3.2): answer filtering, then path scoring."""

    judge_sampling: SamplingConfig = SamplingConfig(temperature=0.2, top_p=0.7, max_tokens=256)
    scorer_sampling: SamplingConfig = SamplingConfig(temperature=0.2, top_p=0.7, max_tokens=1024)
    tries: int = Field(3, ge=1)
    """Attempts at a reply in the strict format, and at scores that a reply left out."""
    rules_only: bool = False
    """Do not ask the judge where the rules do not settle it; such a chain counts as wrong."""
    shuffles: int = Field(1, ge=1)
    """Scoring requests per problem, each with the paths in another seeded order; a path's score is their mean, rounded half up."""
    paths_per_request: int | None = Field(None, ge=2)
    """Paths scored in one request at most; None is all of a problem. More are cut into groups of even size, and scores are then consistent within a
    group only: a scorer that compares the paths it sees may be kinder to one group than to another. More `shuffles` mix the groups."""


class ReasoningDataConfig(Settings):
    """Reasoning set: the best path of each problem."""

    min_score: int = Field(60, ge=1, le=100)
    per_problem: int = Field(1, ge=1)
    """Best paths kept per problem."""
    share: float = Field(1.0, gt=0, le=1)
    """About this share of the problems, chosen by a hash of seed and problem: what is in a quarter is in the half too. It holds for the reasoner and for
    the single models. Epochs stay as they are, so updates fall with the data; where `max_steps` sets them they are cut by the same share."""


class SummaryDataConfig(Settings):
    """Summary set: four parts in set proportions, each row with the ground truth as its target."""

    optimal: float = Field(0.2, ge=0)
    flawed: float = Field(0.2, ge=0)
    own: float = Field(0.4, ge=0)
    plain: float = Field(0.2, ge=0)
    size: int | None = Field(None, ge=1)
    """Rows in all; None takes as many as the scarcest part allows in these proportions."""
    high: int = Field(70, ge=1, le=100)
    """Scores from here on are High; below are the flawed ranges Mid and Low."""
    low: int = Field(40, ge=1, le=100)
    """Scores below are Low."""
    own_chains: Literal["sft", "dpo"] = "sft"
    """Whose own chains: those of the reasoner after SFT, or after the last DPO round."""
    own_n: int = Field(1, ge=1)
    """Own chains sampled per problem."""
    own_sampling: SamplingConfig | None = None
    """How they are sampled; None is how the reasoner is evaluated, so that the agent meets the errors it will meet."""


class PreferenceDataConfig(Settings):
    """Preference pairs from a policy's own rated chains."""

    rules: tuple[Literal["correctness", "score", "rating"], ...] = ("correctness", "score")
    """`correctness`: correct against wrong; `score`: both correct, scores at least `score_margin` apart; `rating`: scores that far apart, whatever the
    answers and verdicts, which is how the row `pair+rlaif` pairs the chains of the first round."""
    score_margin: int = Field(20, ge=1)
    length_ratio: float = Field(1.5, ge=1)
    """Longer over shorter completion at most."""
    per_problem: int = Field(2, ge=1)
    max_pairs: int | None = Field(None, ge=1)
    max_truncated: float = Field(0.15, ge=0, le=1)
    """Share of pairs whose rejected chain is truncated or repeats itself, at most."""
    min_score: int = Field(50, ge=1, le=100)
    """A chosen chain scores at least this."""


class LoraConfig(Settings):
    """LoRA on the language model's linear layers (never on the vision tower)."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0


class TrainConfig(Settings):
    """One training: SFT or DPO. What is not named here goes through `arguments` to `transformers.TrainingArguments`."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int = -1
    """Optimizer steps; overrides epochs when positive."""
    batch_size: int = Field(32, ge=1)
    """Rows (SFT) or pairs (DPO) per optimizer step and process, before accumulation."""
    learning_rate: float = 5e-6
    warmup: float = 0.05
    """Share of the steps if below 1, else steps."""
    schedule: str = "cosine"
    weight_decay: float = 0.0
    train: tuple[Literal["vision", "projector", "language"], ...] = ("projector", "language")
    """Parts that are trained; the vision tower stays frozen as in the paper."""
    lora: LoraConfig | None = None
    """Train an adapter on the shared base instead of its weights."""
    special_tags: bool = False
    """Full fine-tuning only: add the chain's tags as special tokens with mean-initialised embeddings."""
    max_length: int = Field(12288, ge=16)
    """Tokens that a row may have, image tokens included, with the longest of its answers; no row is ever cut."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of longer rows: the training is refused before it begins, or they are dropped and counted."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward and backward pass; weights stay float32. `auto` is bfloat16 where the machine computes with it, else float32."""
    save_steps: int = Field(200, ge=1)
    seed: int = 0
    processes: int = Field(1, ge=1)
    """More than one trains under torchrun on this machine."""
    trainer: Literal["insightv", "trl"] = "insightv"
    """Our own, or TRL's on the same data, which computes prompt, image and reference again for each answer."""
    arguments: dict[str, Any] = {}


class DpoConfig(TrainConfig):
    """Iterative DPO of the reasoner (Insight-V, section 3.4; DPO loss of arXiv 2305.18290, equation 7)."""

    rounds: int = Field(3, ge=0)
    beta: float = Field(0.1, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the mean negative log-likelihood of the chosen completion."""
    reference: Literal["previous", "initial", "base"] = "previous"
    """M_t, the reasoner after SFT, or the base that both agents begin from (with `lora`: the adapter disabled)."""
    n: int = Field(8, ge=2)
    """Chains sampled per problem and round."""
    problems: int | None = Field(None, ge=1)
    """Problems sampled per round, a different slice of the preference split each round; None takes all, each round."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.9, max_tokens=4096)
    learning_rate: float = 5e-7
    server: str | None = None
    """Command that serves the reasoner's checkpoint to sample its own chains from; None samples in process.

    It is split into arguments as a shell would, but no shell runs it. Replaced are {path}, the folder of the checkpoint; {port}, to listen on at
    127.0.0.1; {revision}, the hash of this very checkpoint, which a model that GET /v1/models lists must have in its id (or as its field
    `revision`), or the run ends; with `lora`, {path} is the base and {adapter} the folder of the adapter on it. For instance
    `vllm serve {path} --port {port} --served-model-name policy-{revision}`, or with an adapter
    `vllm serve {path} --port {port} --enable-lora --lora-modules policy-{revision}={adapter}`. The server is ended after the sampling, by SIGTERM
    to its process group, then SIGKILL.
    """
    server_timeout: float = Field(600.0, gt=0)
    """Seconds to wait until the server lists its models."""
    pairs_from: Literal["policy", "teacher"] = "policy"
    """`policy`: each round samples M_t's own chains. `teacher`: off-policy pairs from the teacher's rated chains of the training problems, the same
    in every round, for a model that writes no chains of its own yet."""


class LocalConfig(Settings):
    """In-process sampling."""

    batch_size: int = Field(64, ge=1)
    """Sequences decoded together at most."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(None, ge=1)


class SystemsConfig(Settings):
    """Which rows of the table are trained and evaluated, and how they decode."""

    rows: tuple[str, ...] = ("base", "single", "pair", "pair+dpo")
    reasoner: SamplingConfig = SamplingConfig(max_tokens=4096)
    answer: SamplingConfig = SamplingConfig(max_tokens=512)
    splits: tuple[Literal["test", "heldout", "development"], ...] = ("test", "heldout")
    """Splits to evaluate on; settings are chosen on `development` alone."""
    baseline: str = "base"
    """Row against which every other is tested."""
    primary: tuple[tuple[str, str], ...] = ()
    """Comparisons (before, after) written down beforehand, Holm-corrected together."""
    votes: int = Field(3, ge=1)
    """Replies of one model among which `single-fair-vote` takes the majority. The pair writes a chain and a short answer, about as much as one of them."""
    vote_temperature: float = Field(0.7, ge=0)
    """Temperature of these replies; what else decodes them is `reasoner`."""


class SplitsConfig(Settings):
    """Files of problems (JSON Lines of `Problem`, images beside them); made by the world where one is configured."""

    train: Path | None = None
    preference: Path | None = None
    own: Path | None = None
    plain: Path | None = None
    """Plain QA for the summary agent; None uses `train` and `own`."""
    development: Path | None = None
    test: Path | None = None
    heldout: Path | None = None


class ModelsConfig(Settings):
    """Who plays which part."""

    generator: EndpointConfig = EndpointConfig()
    judge: EndpointConfig = EndpointConfig()
    scorer: EndpointConfig = EndpointConfig()
    base: Path | None = None
    """Folder of the base model in transformers' layout; None is the world's shipped or trained base, and without a world an error."""


class TeacherDials(Settings):
    """How often the world's simulated teacher errs, each a probability unless said otherwise."""

    misperception: float = Field(0.05, ge=0, le=1)
    """Per fact read from a picture at full contrast; it grows as contrast falls."""
    arithmetic: float = Field(0.04, ge=0, le=1)
    skipped_step: float = Field(0.05, ge=0, le=1)
    thin_detail: float = Field(0.1, ge=0, le=1)
    malformed: float = Field(0.03, ge=0, le=1)
    repetition: float = Field(0.01, ge=0, le=1)
    wordy_answer: float = Field(0.05, ge=0, le=1)
    """An open question's answer in a sentence, which rules leave to the judge."""
    wrong_verdict: float = Field(0.03, ge=0, le=1)
    missing_score: float = Field(0.02, ge=0, le=1)
    score_noise: float = Field(6.0, ge=0)
    """Standard deviation of a score, in points."""
    latency: float = Field(0.0, ge=0)
    """Mean seconds of a request."""
    error_rate: float = Field(0.0, ge=0, le=1)
    """Share of requests answered by 500, 429 or a reset connection, by turns."""


class WorldConfig(Settings):
    """The built-in tiny world: a source of problems, a teacher endpoint and a base model."""

    difficulty: float = Field(0.5, ge=0, le=1)
    """Noise, contrast, jitter, number of objects and hops, from 0 (easy) to 1 (hard)."""
    train: int = 1200
    preference: int = 1200
    own: int = 1200
    plain: int = 6000
    development: int = 500
    test: int = 1000
    heldout: int = 200
    teacher: TeacherDials = TeacherDials()
    retrain_base: bool = False
    """Train the base instead of taking the shipped one."""
    base_steps: dict[str, int] = {}
    """Steps of the base's training phases, to make them smaller: `vision`, `text`, `language` and `search`."""


class AgentConfig(Settings):
    """Where an agent that is served lives: behind a URL, or in the server's own process."""

    endpoint: EndpointConfig | None = None
    path: Path | None = None
    """Folder of its checkpoint, for an agent in the server's process."""
    adapter: Path | None = None
    """Folder of a LoRA adapter on that checkpoint. Agents with the same `path` share one base in memory."""

    @model_validator(mode="after")
    def _lives_in_one_place(self) -> Self:
        if self.endpoint and (self.path or self.adapter):
            raise ValueError("an agent lives behind an endpoint or at a path: give one of the two")
        if self.adapter and not self.path:
            raise ValueError("an adapter stands on a base: give its path too")
        return self


class ServeConfig(Settings):
    """The pair as one model behind an OpenAI-compatible URL. How the agents decode where a request does not say is `systems`."""

    name: str = "insight-v"
    """The pair's name as a model; the others are NAME/reasoner, NAME/summarizer and NAME/best-of-N."""
    reasoner: AgentConfig = AgentConfig()
    """Neither an endpoint nor a path: the run's own, after the last round of DPO that there is."""
    summarizer: AgentConfig = AgentConfig()
    judge: EndpointConfig | None = None
    """Rates the chains of best-of-N for requests with `select: judged`, without the ground truth; none answers such requests with 400."""
    reasoning_field: Literal["both", "reasoning", "reasoning_content"] = "both"
    """Where replies carry the chain: vLLM and OpenRouter have `reasoning`, DeepSeek and SGLang `reasoning_content`."""
    api_key_env: str = "INSIGHTV_API_KEY"
    """Environment variable that holds the key which every request must bring; unset or empty, none is asked for."""
    image_hosts: tuple[str, ...] = ()
    """Hosts whose http(s) images are fetched for a request; none by default, so that images come as data URLs alone."""
    max_body: int = Field(64, ge=1)
    """Megabytes of a request, its images included, also those that are fetched for it."""
    max_messages: int = Field(256, ge=1)
    max_images: int = Field(16, ge=0)
    """Of a whole conversation."""
    max_pixels: int = Field(50_000_000, ge=1)
    """Of an image, found from its header before any is decoded."""
    max_n: int = Field(16, ge=1)
    """Choices of a request, and chains of best-of-N; with both, their product."""
    max_tokens: int = Field(16384, ge=1)
    """Of a chain or an answer, whatever a request asks for."""
    max_requests: int = Field(256, ge=1)
    """In work at once; one more gets 429."""
    timeout: float = Field(600.0, gt=0)
    """Seconds for a request, from its last byte to the agents' last token."""


class EvaluateConfig(Settings):
    """Answers to published benchmarks, by rows of the table. How agents decode is `systems`; what trained models are asked, `prompts`."""

    rows: tuple[str, ...] = ("base", "base-reasoned", "reasoner", "summarizer", "pair")
    """Each may be any row that `systems.rows` may have."""
    models: dict[str, AgentConfig] = {}
    """Where models of these rows live, by name: `base`, `reasoner`, `summarizer`, `dpo3` .. Those not named are the run's own."""
    samples: int = Field(1, ge=1)
    """Answers to each item, whose scores are averaged; more than one has a use at a temperature alone."""
    concurrency: int = Field(256, ge=1)
    """Requests in flight at an endpoint that names no `concurrency` of its own."""
    direct: str = "{question}"
    """What the base is asked for a direct answer: a benchmark's question ends in how to answer it."""
    reasoned: str = "{question}\nThink step by step before you answer. End with a line of the form 'Answer: ..' that holds the answer alone."
    """What the base is asked where it shall reason. It may write as many tokens as the pair: those of a chain and of an answer together."""
    judge: EndpointConfig | None = None
    """Finds the answer in replies in which a rule finds none, where `insightv evaluate score --judge` asks it to; it never scores."""


class CellConfig(Settings):
    """A part of an ablation: rows of the table under settings of their own."""

    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    set: dict[str, Any] = {}
    """What differs from the config, by dotted name, as `world.difficulty: 0.5`. Cells that differ in nothing share their runs."""


class AblateConfig(Settings):
    """What `insightv ablate` trains and evaluates: a run for every seed and every set of settings, in the config's `run`."""

    cells: dict[str, CellConfig] = {}
    """By name. `core` and `controls` are compared, `quarter`, `half` .. are points of the curve of data, `surface-..` of the response surface."""
    contrasts: tuple[tuple[str, str, str], ...] = ()
    """Comparisons beside `systems.primary`: (before, after, what it asks). Reported without correction, as answers to their questions."""


class Config(Settings):
    """A whole run."""

    run: Path = Path("runs/run")
    """Directory of everything the run makes."""
    seed: int = 0
    world: WorldConfig | None = None
    problems: SplitsConfig = SplitsConfig()
    benchmarks: dict[str, Path | None] = {}
    """Published benchmarks by name, such as `mmstar: data/MMStar.tsv`, each with the file or folder that holds it, in Hugging Face's or VLMEvalKit's
    layout; null takes it from the hub."""
    decontaminate: DecontaminateConfig | None = DecontaminateConfig()
    """Training problems that one of `benchmarks` shows too are dropped; null keeps them."""
    models: ModelsConfig = ModelsConfig()
    prompts: PromptsConfig = PromptsConfig()
    local: LocalConfig = LocalConfig()
    budget: BudgetConfig = BudgetConfig()
    scale: ScaleConfig = ScaleConfig()
    journal: Path | None = None
    """Folder of the journal of paid requests; None is the run's own. Runs that share one never pay twice for the same request."""
    filter: FilterConfig = FilterConfig()
    generate: GenerateConfig = GenerateConfig()
    assess: AssessConfig = AssessConfig()
    reasoning: ReasoningDataConfig = ReasoningDataConfig()
    summary: SummaryDataConfig = SummaryDataConfig()
    preference: PreferenceDataConfig = PreferenceDataConfig()
    reasoner: TrainConfig = TrainConfig(epochs=2, learning_rate=5e-6)
    summarizer: TrainConfig = TrainConfig(epochs=1, learning_rate=1e-5)
    single: TrainConfig = TrainConfig(epochs=2, learning_rate=5e-6)
    """Controls: one model trained on chains and answers, its fair variant and the multi-turn one."""
    dpo: DpoConfig = DpoConfig()
    systems: SystemsConfig = SystemsConfig()
    serve: ServeConfig = ServeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    ablate: AblateConfig = AblateConfig()
    parallel: int = Field(2, ge=1)
    """Trainings and evaluations that run side by side, each in a process of its own."""
    reuse: tuple[Path, ...] = ()
    """Folders of other runs. A stage that one of them has finished from the very same inputs and settings is taken from there, linked where the disk
    allows it, instead of being made; nothing there is changed."""

    @model_validator(mode="after")
    def _problems_have_one_source(self) -> Self:
        if self.world and (named := [f"problems.{name}" for name, path in self.problems if path]):
            raise ValueError(f"world makes the problems, so {named[0]} would not be read: take one of the two out, as by world: null or problems: {{}}")
        return self

    @model_validator(mode="after")
    def _adapter_has_its_base(self) -> Self:
        ours, before = self.dpo.lora, self.reasoner.lora
        if self.dpo.rounds and ours and not before:
            # An adapter is loaded on the shared base, never on a reasoner with weights of its own.
            raise ValueError("dpo.lora needs reasoner.lora: give the reasoner the same adapter, or train DPO in full by dpo.lora: null")
        if self.dpo.rounds and ours and ours != before:
            raise ValueError("dpo.lora differs from reasoner.lora: DPO goes on with the reasoner's adapter, so give both the same r, alpha and dropout")
        return self
