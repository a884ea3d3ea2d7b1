"""The command line: each verb calls one function and holds no logic.

Heavy imports stand inside the verbs, after the config is read: `--help` is quick, and so is the word about a mistyped setting.
"""

import errno
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from insightv.config import DecontaminateConfig, UserError
from insightv.config_file import load_config
from insightv.models.chat import EndpointDown, Halted

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
GO_ON = "run the same command to go on, nothing is lost"
AGAINST_HELP = "A benchmark, such as mmstar=MMStar.tsv, in Hugging Face's Parquet or VLMEvalKit's TSV; without PATH from the hub. May be repeated."
COLUMNS_HELP = "Read our field OURS from the column THEIRS, as in question=query. May be repeated."
PRESET_HELP = "Layout of the rows: llava, cauldron, cambrian, llava-next-data, plain, vlmevalkit or webdataset; found out by the columns if not given."
SET_HELP = "Change a setting, as in -o generate.n=5. May be repeated."

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of settings, such as configs/demo.yaml.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/demo.", show_default=False)]
JournalFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a journal that runs share.", show_default=False)]
Overrides = Annotated[list[str], typer.Option("--set", "-o", metavar="NAME=VALUE", help=SET_HELP, default_factory=list, show_default=False)]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Ask again for what failed for good in an earlier run.")]

Benchmarks = Annotated[
    list[str], typer.Option("--benchmark", metavar="NAME", help="Take this one alone. May be repeated.", default_factory=list, show_default=False)
]

Profile = Annotated[Literal["official", "lmms-0.7.3", "vlmeval-e8e78f0"], typer.Option(help="Whose rules score the answers; stands beside every number.")]

Host = Annotated[str, typer.Option(help="Address to listen at; another than this machine's own needs a key.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")]
NoKey = Annotated[bool, typer.Option("--no-key", help="Ask for no key at an address that others reach.")]

# Typer's own tracebacks print local variables, and with them an API key.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
world = typer.Typer(no_args_is_help=True, help="The built-in tiny world, on its own: problems, base model, simulated teacher.", rich_markup_mode="markdown")
app.add_typer(world, name="world", rich_help_panel="Parts of a run")
evaluate = typer.Typer(no_args_is_help=True, help="Measure systems: on a run's own splits, and on published benchmarks.", rich_markup_mode="markdown")
app.add_typer(evaluate, name="evaluate", rich_help_panel="Parts of a run")
journal = typer.Typer(no_args_is_help=True, help="The journal of paid requests: figures, export, and what to ask for anew.", rich_markup_mode="markdown")
app.add_typer(journal, name="journal", rich_help_panel="Look at a run")


@app.callback()
def describe() -> None:
    """Insight-V: teach a model to reason at length about images, as two agents.

    A teacher writes reasoning chains; a judge and a scorer rate them; the best train the *reasoner*, good and flawed ones train the *summarizer*,
    and rounds of DPO on its own rated chains sharpen the reasoner. Every verb goes on where an earlier one stopped: repeat a command after a crash.

    Begin with `insightv demo`.
    """


@app.command(rich_help_panel="Whole runs")
def demo(overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Run the whole method on the built-in tiny world, in about ten minutes on two cores."""
    _run(DEMO, overrides, None, retry_failed)


@app.command(rich_help_panel="Whole runs")
def run(config: ConfigFile, overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Run all that CONFIG asks for, from the problems to the report."""
    _run(config, overrides, None, retry_failed)


@app.command(rich_help_panel="Whole runs")
def check(config: ConfigFile, overrides: Overrides) -> None:
    """Probe every endpoint, give each role a piece of its work, and project requests, tokens, hours and cost of generator, judge and scorer.

    Projected are all stages that ask an endpoint of the config, with what that assumes. The hours of the trainings are not in it, nor those in which
    the run's own models write and answer.

    What went wrong is said in a line each, and when a role cannot do its part the exit code is 2. Nothing is journalled: a check can be repeated.
    """
    settings = load_config(config, overrides)
    from insightv import preflight, verbs

    rows = verbs.check(settings)
    _show("Check", preflight.sheet(rows))
    for line in (*preflight.remarks(rows), *preflight.ASSUMED):
        typer.echo(line)
    preflight.demand(rows)


@app.command(rich_help_panel="Whole runs")
def plan(
    config: ConfigFile,
    overrides: Overrides,
    rows: Annotated[
        list[str],
        typer.Option(metavar="DATA=N", help="Rows of a data set, as in reasoning-data=200000. May be repeated.", default_factory=list, show_default=False),
    ],
    gpu: Annotated[Literal["a100", "h100", "h200", "b200"], typer.Option(help="What the trainings run on; each process has one.")] = "h100",
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of the GPU's stated rate in bfloat16 that is reached.")] = 0.35,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, its image included.")] = 2300,
    answer: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 400,
    patches: Annotated[int, typer.Option(min=0, help="Patches of an image that the vision tower sees: LLaVA-NeXT's five tiles of 576.")] = 2880,
) -> None:
    """Project rows, tokens, operations, hours and memory of each training of CONFIG; nothing is trained, and no weights are loaded.

    Rows are counted where a data set is built, and assumed to be as many as the settings allow where it is not. `check` projects the teacher's work.
    """
    settings = load_config(config, overrides)
    from insightv import estimates

    _show("Trainings", estimates.project(settings, estimates.Tokens(prompt, answer, patches), gpu, share, estimates.counts(rows)))


@app.command("import", rich_help_panel="Parts of a run")
def import_rows(
    rows: Annotated[str, typer.Argument(help="File, folder of shards, pattern, hub:NAME:CONFIG:SPLIT, or a mixture as YAML.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to make, with problems.jsonl, images, rejections.jsonl and manifest.json.", show_default=False)],
    columns: Annotated[list[str], typer.Option("--columns", metavar="OURS=THEIRS", help=COLUMNS_HELP, default_factory=list, show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder that the rows' image paths start from.")] = Path(),
    preset: Annotated[str, typer.Option(help=PRESET_HELP, show_default=False)] = "",
    name: Annotated[str, typer.Option(help="Name of the source; without it that of the file.", show_default=False)] = "",
    split: Annotated[str, typer.Option(help="Read this split alone.", show_default=False)] = "",
    quota: Annotated[int | None, typer.Option(min=1, help="Keep so many problems at most, chosen by a hash of their content.", show_default=False)] = None,
    licence: Annotated[str, typer.Option(help="Licence of the data, for the manifest.", show_default=False)] = "",
    on_error: Annotated[Literal["skip", "stop"], typer.Option(help="Whether a broken row is skipped and kept with its reason, or ends the import.")] = "skip",
    near_duplicates: Annotated[Literal["drop", "keep"], typer.Option(help="What becomes of the same question about nearly the same picture.")] = "drop",
    distance: Annotated[int, typer.Option(min=0, max=15, help="Bits of 64 in which the looks of near duplicates differ at most.")] = 5,
    seed: Annotated[int, typer.Option(help="Another seed chooses other problems for a quota.")] = 0,
) -> None:
    """Turn data of any common layout into problems; a row that cannot be one is kept with its reason.

    ROWS may be JSON, JSON Lines, TSV, CSV, Parquet, tar archives or a Hugging Face data set; docs/sources.md has a command for each.
    """
    from insightv.datasets.importing import import_sources
    from insightv.datasets.mixture import sources_of

    given = {"preset": preset, "images": images, "name": name, "split": split, "quota": quota, "licence": licence}
    sources = sources_of(rows, given, columns)
    report = import_sources(sources, out, on_error=on_error, near_duplicates=near_duplicates, distance=distance, seed=seed)
    _show(str(out), report.sources)
    if report.reasons:
        _show("Rejections", report.reasons)


@app.command(rich_help_panel="Parts of a run")
def decontaminate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of an import, or a file of problems with images beside it.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make, as an import does, with removed.jsonl.", show_default=False)],
    against: Annotated[list[str], typer.Option("--against", metavar="NAME[=PATH]", help=AGAINST_HELP, show_default=False)],
    distance: Annotated[int, typer.Option(min=0, max=15, help="Bits of 64 in which the looks of two pictures differ at most.")] = 5,
    words: Annotated[int, typer.Option(min=5, help="Words in a row that two questions share.")] = 13,
    pictures: Annotated[int, typer.Option(min=1, help="Words that a benchmark puts to more pictures than this are its template, and count for nothing.")] = 3,
) -> None:
    """Leave out what benchmarks show too: problems with the picture of an item, or with its words.

    A run does the same with its training splits where `benchmarks` are configured.
    """
    from insightv.evaluation.benchmarks import named
    from insightv.evaluation.clean import decontaminate as without

    _show(str(out), without(data, out, named(against), DecontaminateConfig(distance=distance, words=words, pictures=pictures)))


@app.command(rich_help_panel="Parts of a run")
def generate(config: ConfigFile, overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Let the teacher write N reasoning chains for every training problem."""
    _run(config, overrides, "generate", retry_failed)


@app.command(rich_help_panel="Parts of a run")
def assess(config: ConfigFile, overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Filter the chains by their answers and score the correct ones from 1 to 100."""
    _run(config, overrides, "assess", retry_failed)


@app.command(rich_help_panel="Parts of a run")
def build(config: ConfigFile, overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Build the data sets from chains and judgements, each row traced in a manifest; sets of the reasoner's own chains need it trained first."""
    _run(config, overrides, "build", retry_failed)


@app.command(rich_help_panel="Parts of a run")
def train(config: ConfigFile, overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Train both agents, the controls that the rows need and the rounds of DPO; goes on from the last checkpoint."""
    _run(config, overrides, "train", retry_failed)


@evaluate.command("table")
def evaluate_table(config: ConfigFile, overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Answer every split of `systems.splits` with every row of the table, and compare the rows."""
    _run(config, overrides, "evaluate", retry_failed)


@evaluate.command("generate")
def evaluate_generate(
    config: ConfigFile,
    overrides: Overrides,
    names: Benchmarks,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many items of each benchmark at most, from its beginning.", show_default=False)] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Take every N-th item, from the I-th on: one of N processes or machines.")] = "1/1",
) -> None:
    """Have every row of `evaluate.rows` answer the benchmarks of CONFIG; scored they are by `score`.

    Every answer is kept in RUN/benchmarks when it comes. The same command goes on where it was stopped, and asks again for what failed; the exit code is
    1 where something did.
    """
    settings = load_config(config, overrides)
    from insightv import benchmarking

    if benchmarking.answer(settings, names, limit=limit, shard=_shard(shard), say=typer.echo):
        raise typer.Exit(1)


@evaluate.command("score")
def evaluate_score(
    run: RunFolder,
    overrides: Overrides,
    names: Benchmarks,
    profile: Profile = "official",
    judge: Annotated[bool, typer.Option("--judge", help="Let the model of `evaluate.judge` find the answer where the rule finds none.")] = False,
) -> None:
    """Score what RUN's systems answered by a named profile of rules: offline, as often as you like.

    What no rule could read counts as wrong, and is counted; what failed is owed, and in no number. Every verdict is kept in RUN/benchmarks.
    """
    from insightv.evaluation.suite import sheet
    from insightv.scoring import scored

    results, path = scored(run, profile, names, judged=judge, overrides=overrides)
    _show(f"{run}, scored by {profile}{' with a judge' if judge else ''}", sheet.standings(results))
    _show("Behind the numbers", sheet.counts(results))
    if changed := sheet.effects(results):
        _show("What the chain did to answers", changed)
    typer.echo(path)


@evaluate.command("compare")
def evaluate_compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="RUN:ROW, such as runs/pair:summarizer; RUN alone where it has one row.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The system that should be better, as RUN:ROW.", show_default=False)],
    names: Benchmarks,
    profile: Profile = "official",
    out: Annotated[Path | None, typer.Option(help="Page to write; without it one in RUN/benchmarks.", show_default=False)] = None,
) -> None:
    """Hold two systems against each other on the same items, with paired tests, and list every regression with both chains and answers.

    The exit code is 1 where AFTER is worse on a benchmark beyond chance, corrected for their number: a gate for CI.
    """
    from insightv.evaluation.suite import sheet
    from insightv.scoring import compared

    contrasts, page = compared(before, after, profile, names, out)
    _show(f"{after} against {before}, scored by {profile}", sheet.contrasts(contrasts))
    typer.echo(page)
    if lost := [one.benchmark for one in contrasts if one.verdict == "worse"]:
        typer.secho(f"insightv: {after} is worse on {', '.join(lost)}", fg="red", err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel="Look at a run")
def view(run: RunFolder, host: Host = "127.0.0.1", port: Port = 8000, no_key: NoKey = False) -> None:
    """Look through RUN's data in a browser: every chain with its verdict, score and fate, preference pairs side by side, plots."""
    from insightv import hosting

    hosting.view(run, host, port, without_key=no_key, say=typer.echo)


@app.command(rich_help_panel="Look at a run")
def report(run: RunFolder) -> None:
    """Write RUN/report.html anew from what the run holds: one page that needs no network."""
    from insightv import showing

    typer.echo(showing.report(run))


@app.command(rich_help_panel="Look at a run")
def status(run: RunFolder) -> None:
    """Show the stages of RUN: which are done and what each did, and how far one is that runs in another shell."""
    from insightv import showing

    _show(str(run), showing.status(run))


@app.command(rich_help_panel="Look at a run")
def defects(run: RunFolder) -> None:
    """Show what was wrong with the chains of RUN, also while they are written: each defect with its number and an example."""
    from insightv import showing

    rows = showing.defects(run)
    _show(str(run), rows) if rows else typer.echo(f"{run}: no defects so far")


@app.command(rich_help_panel="Look at a run")
def results(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ..", help="Folders of finished runs that differ in their seed alone.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write; without it the page is printed.", show_default=False)] = None,
) -> None:
    """Write what one or several seeds found as Markdown: every seed, the comparisons written down beforehand, errors of chains."""
    from insightv.results.write import results

    text = results(runs, out)
    typer.echo(out or text)


@app.command(rich_help_panel="Whole runs")
def ablate(
    config: ConfigFile,
    overrides: Overrides,
    cells: Annotated[list[str], typer.Option("--cell", metavar="NAME", help="Make this one alone. May be repeated.", default_factory=list, show_default=False)],
    seeds: Annotated[list[int], typer.Option("--seed", help="Make this seed alone. May be repeated.", default_factory=list, show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write, plots beside it; without it RUN/results.md.", show_default=False)] = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Train and evaluate the cells of `ablate.cells` over their seeds, and write what they found with intervals, tests and plots.

    Runs of one seed take from each other what they have in common. The same command goes on where it was stopped; what is finished is in the page.
    """
    settings = load_config(config, overrides)
    from insightv import ablation
    from insightv.results.ablation import write

    parts = ablation.ablate(settings, cells, seeds, retry_failed=retry_failed, say=typer.echo)
    page = out or settings.run / "results.md"
    for line in write(settings, parts, page):
        typer.echo(f"not finished: {line}")
    typer.echo(page)


@app.command(rich_help_panel="Look at a run")
def calibrate(
    run: RunFolder,
    labels: Annotated[Path | None, typer.Option(help="JSON Lines of chain_id, correct and perhaps quality; default is the world's truth.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Write RUN/to-label.jsonl, a sheet of so many chains to label, and stop.")] = None,
    stage: Annotated[str, typer.Option(help="Whose verdicts and scores: assess, own-chains-assess, round1-chains-assess ..")] = "assess",
) -> None:
    """Hold the verdicts and scores of RUN against labels, with intervals: precision, recall, kappa, rank correlations, bias by position."""
    from insightv.calibrate import report, sheet

    if sample:
        typer.echo(f"{sheet(run, sample, stage)}: fill in `correct` (and `quality`, if you like), then give it as --labels")
        return
    groups, positions = report(run, stage, labels)
    _show(f"{stage} of {run}, against {labels or 'the truth of its world'}", groups)
    _show("score by position in the request", positions)


@app.command(rich_help_panel="Look at a run")
def ask(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP file.", show_default=False)],
    question: Annotated[str, typer.Argument(help="What to ask about it.", show_default=False)],
    run: Annotated[Path, typer.Option(help="Folder of the run whose agents answer.")] = Path("runs/demo"),
    options: Annotated[list[str] | None, typer.Option("--option", help="An option of a multiple-choice question. May be repeated.", show_default=False)] = None,
) -> None:
    """Let the trained pair reason about IMAGE and answer QUESTION."""
    from insightv import verbs

    console = Console(soft_wrap=True, highlight=False, markup=False)
    for delta in verbs.ask(run, image, question, tuple(options or ())):
        console.print(delta.text, end="", style="dim" if delta.kind == "reasoning" else "bold")
    console.print()


@app.command(rich_help_panel="Share a run")
def serve(
    place: Annotated[Path, typer.Argument(metavar="RUN|CONFIG", help="Folder of a run, or a config with `serve:` in it.", show_default=False)],
    overrides: Overrides,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    no_key: NoKey = False,
) -> None:
    """Serve the pair as one model behind an OpenAI-compatible URL, with a page to talk to it.

    Every request needs the key in the environment variable INSIGHTV_API_KEY, where it is set.
    """
    from insightv import hosting

    hosting.serve(place, overrides, host, port, without_key=no_key, say=typer.echo)


@app.command(rich_help_panel="Share a run")
def harness(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    files: Annotated[list[str], typer.Argument(metavar="NAME=FILE ..", help="Benchmarks and their files, as in mmstar=MMStar.parquet.", show_default=False)],
    to: Annotated[Literal["lmms-eval", "vlmevalkit"], typer.Option(help="The harness.")],
    package: Annotated[Path, typer.Option(help="Folder of its package lmms_eval, or of VLMEvalKit.", show_default=False)],
    url: Annotated[str, typer.Option(help="Where `insightv serve` answers.")] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="The model to ask for.")] = "insight-v",
) -> None:
    """Prepare benchmark files of yours for another harness, and print the command by which it scores the served pair.

    lmms-eval reads Hugging Face's Parquet, VLMEvalKit its own TSV; docs/harnesses.md has both.
    """
    from insightv.evaluation import harnesses
    from insightv.evaluation.benchmarks import named

    typer.echo(harnesses.prepare(to, named(files), out, package, url, model))


@app.command(rich_help_panel="Share a run")
def publish(
    run: RunFolder,
    dest: Annotated[str, typer.Argument(help="A folder, or hub:OWNER/NAME for repositories OWNER/NAME-reasoning-data and so on.", show_default=False)],
    what: Annotated[str, typer.Option(help="Stages, as in reasoning-data,dpo3; without it all data sets and the last pair.", show_default=False)] = "",
    name: Annotated[str, typer.Option(help="Title of the cards; the folder's or the repositories' name without it.", show_default=False)] = "",
    public: Annotated[bool, typer.Option("--public/--private", help="Who may see new repositories.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of what is published, as in cc-by-4.0; the sources' without it.", show_default=False)] = "",
    language: Annotated[str, typer.Option(help="Language of questions and chains.")] = "en",
    base: Annotated[str, typer.Option("--base", help="The base model's name on the Hub, as in Qwen/Qwen2.5-VL-7B-Instruct.", show_default=False)] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the cards into the run's .work/publish, show what would go where, and stop.")] = False,
) -> None:
    """Bring data sets and models of RUN to a folder or to the Hub, each with a card of how it was made; without addresses, keys and folders."""
    from insightv.publish.write import publish

    names = [stage.strip() for stage in what.split(",") if stage.strip()]
    _show(dest, publish(run, dest, names, name=name, public=public, licence=licence, language=language, base=base, dry_run=dry_run))
    typer.echo(f"nothing was sent; the cards are in {run / '.work' / 'publish'}" if dry_run else f"published at {dest}")


@app.command(rich_help_panel="Parts of a run")
def export(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of a data set, such as RUN/reasoning-data; for verl a file of problems.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    to: Annotated[Literal["llava", "llama-factory", "ms-swift", "verl"], typer.Option(help="Layout of this trainer; TRL reads DATA as it is.")],
) -> None:
    """Write a data set in the layout of another trainer, its images beside it."""
    from insightv import verbs

    _show(str(out), [verbs.export(data, out, to)])


@app.command(rich_help_panel="Parts of a run")
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of a checkpoint in the layout of LLaVA-NeXT's authors.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; give it as models.base, or serve it with vLLM.", show_default=False)],
    vision_tower: Annotated[Path | None, typer.Option(help="Folder of the CLIP model, where SOURCE does not hold its weights.", show_default=False)] = None,
    template: Annotated[str | None, typer.Option(help="Chat template: llama3, chatml, mistral or vicuna; found by the tokenizer without it.")] = None,
) -> None:
    """Turn an original LLaVA-NeXT checkpoint, such as the released Insight-V agents, into one that transformers and vLLM load.

    Nothing is fetched, and no code of the checkpoint runs.
    """
    from insightv.models.checkpoints import convert

    _show(str(out), [convert(source, out, vision_tower, template)])


@journal.command("stats")
def journal_stats(place: JournalFolder) -> None:
    """Show by model how many replies stand, and what was asked and paid."""
    from insightv import bookkeeping, showing

    _show(str(place), bookkeeping.stats(showing.journal_of(place)))


@journal.command("export")
def journal_export(
    place: JournalFolder, out: Annotated[Path, typer.Argument(help="JSON Lines file to write; .jsonl.gz is compressed.", show_default=False)]
) -> None:
    """Write every reply as it came, one JSON line each."""
    from insightv import bookkeeping, showing

    typer.echo(f"{out}: {bookkeeping.export(showing.journal_of(place), out)} replies")


@journal.command("prune")
def journal_prune(
    place: JournalFolder,
    model: Annotated[str | None, typer.Option(help="Replies of this model, as NAME@REVISION (see `stats`).", show_default=False)] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Requests that failed for good.")] = False,
) -> None:
    """Remove replies that will not be needed any more, or shall be asked for, and paid, again."""
    from insightv import bookkeeping, showing

    removed, freed = bookkeeping.prune(showing.journal_of(place), model=model, failed=failed)
    typer.echo(f"{place}: {removed} replies removed, {freed / 2**20:.1f} MB freed")


@world.command()
def problems(config: ConfigFile, overrides: Overrides) -> None:
    """Draw the world's splits of problems into the run of CONFIG."""
    _run(config, overrides, "problems", False)


@world.command()
def base(config: ConfigFile, overrides: Overrides) -> None:
    """Train the world's base model, or take the shipped one, as CONFIG says."""
    _run(config, overrides, "base", False)


@world.command()
def teacher(
    config: ConfigFile,
    overrides: Overrides,
    port: Annotated[int, typer.Option(help="Port to listen on, on this machine alone.")] = 8100,
) -> None:
    """Serve the simulated teacher over the OpenAI protocol, with the dials of CONFIG, until Ctrl-C."""
    settings = load_config(config, overrides).world
    if settings is None:
        raise UserError(f"{config} has no `world:` section, so there is no simulated teacher to serve")
    from insightv.world.teacher import serve

    with serve(settings.teacher, port) as url:
        typer.echo(f"{url} answers as the teacher; Ctrl-C ends it")
        threading.Event().wait()


def main() -> None:
    """Entry point: what a user can mend is one line on stderr and exit code 2; Ctrl-C is 130; nothing done is lost by either."""
    try:
        app()
    except UserError as error:
        _leave(str(error), 2)
    except EndpointDown as error:
        _leave(f"{error}; {GO_ON}", 2)
    except Halted as halt:
        _leave(f"{halt}; {GO_ON}", halt.code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _leave(f"the disk is full{f' at {error.filename}' if error.filename else ''}; make room, then {GO_ON}", 2)
    except SystemExit as end:
        if end.code == 130:
            _leave(f"stopped; {GO_ON}", 130)
        raise


def _leave(message: str, code: int) -> NoReturn:
    typer.secho(f"insightv: {message}", fg="red", err=True)
    raise SystemExit(code) from None


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UserError(f"--shard {text}: say which of how many, as in 1/4")
    return int(part), int(parts)


def _run(config: Path, overrides: list[str], part: str | None, retry_failed: bool) -> None:
    settings = load_config(config, overrides)
    from insightv import verbs

    verbs.run(settings, {part} if part else None, retry_failed=retry_failed)


def _show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    table = Table(title=title, title_justify="left", box=None)
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log has room for the whole table
    console.print(table)
