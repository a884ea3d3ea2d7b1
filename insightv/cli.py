"""The command line: each verb calls one function and holds no logic.

Heavy imports stand inside the verbs, after the config is read: `--help` is quick, and so is the word about a mistyped setting.
"""

import errno
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from insightv.config import UserError, load_config
from insightv.models.chat import EndpointDown

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
GO_ON = "run the same command to go on, nothing is lost"
SET_HELP = "Change a setting, as in -o generate.n=5. May be repeated."

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of settings, such as configs/demo.yaml.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/demo.", show_default=False)]
Overrides = Annotated[list[str], typer.Option("--set", "-o", metavar="NAME=VALUE", help=SET_HELP, default_factory=list, show_default=False)]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Ask again for what failed for good in an earlier run.")]

# Typer's own tracebacks print local variables, and with them an API key.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
world = typer.Typer(no_args_is_help=True, help="The built-in tiny world, on its own: problems, base model, simulated teacher.", rich_markup_mode="markdown")
app.add_typer(world, name="world", rich_help_panel="Parts of a run")


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
    from insightv import loop, preflight

    rows = loop.check(settings)
    _show("Check", preflight.sheet(rows))
    for line in (*preflight.remarks(rows), *preflight.ASSUMED):
        typer.echo(line)
    preflight.demand(rows)


@app.command("import", rich_help_panel="Parts of a run")
def import_rows(
    rows: Annotated[Path, typer.Argument(help="JSON Lines of image, question, answer, options; or LLaVA's JSON.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to make, with problems.jsonl, images and rejections.jsonl.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder that the rows' image paths start from.")] = Path(),
) -> None:
    """Turn your own rows and images into problems; a row that cannot be one is kept with its reason."""
    from insightv.datasets.sources import import_folder

    _show(str(out), [import_folder(rows, images, out)])


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


@app.command(rich_help_panel="Parts of a run")
def evaluate(config: ConfigFile, overrides: Overrides, retry_failed: RetryFailed = False) -> None:
    """Answer every split of `systems.splits` with every row of the table, and compare the rows."""
    _run(config, overrides, "evaluate", retry_failed)


@app.command(rich_help_panel="Look at a run")
def report(run: RunFolder) -> None:
    """Write RUN/report.html anew from what the run holds: one page that needs no network."""
    from insightv import loop

    typer.echo(loop.report(run))


@app.command(rich_help_panel="Look at a run")
def status(run: RunFolder) -> None:
    """Show the stages of RUN: which are done, and what each did."""
    from insightv import loop

    _show(str(run), loop.status(run))


@app.command(rich_help_panel="Look at a run")
def results(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ..", help="Folders of finished runs that differ in their seed alone.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write; without it the page is printed.", show_default=False)] = None,
) -> None:
    """Write what one or several seeds found as Markdown: every seed, the comparisons written down beforehand, errors of chains."""
    from insightv.results.write import results

    text = results(runs, out)
    typer.echo(out or text)


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
    from insightv import loop

    console = Console(soft_wrap=True, highlight=False, markup=False)
    for delta in loop.ask(run, image, question, tuple(options or ())):
        console.print(delta.text, end="", style="dim" if delta.kind == "reasoning" else "bold")
    console.print()


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


def _run(config: Path, overrides: list[str], part: str | None, retry_failed: bool) -> None:
    settings = load_config(config, overrides)
    from insightv import loop

    loop.run(settings, {part} if part else None, retry_failed=retry_failed)


def _show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    table = Table(title=title, title_justify="left", box=None)
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(markup=False, highlight=False).print(table)
