"""The command line. Heavy imports are inside the commands, so that `--help` responds at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .density import fit_density
from .doctor import doctor
from .error_reporting import end_with, one_sentence
from .options import FitOptions, Seed, with_options
from .setup_julia import setup_julia
from .training import train

app = typer.Typer(
    help="Neural differential equations: fit data, solve fitted models, recompute published results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # an internal error prints Python's standard traceback
)


def main() -> None:
    """Run the command line: the entry point of the console script `pyneuralode`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"pyneuralode {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@one_sentence()
def report(
    ids: Annotated[list[str] | None, Argument(metavar="IDS", help="Reports to compute; see --list.")] = None,
    out: Annotated[Path, Option(help="Folder for the results and the report page.")] = Path("pyneuralode-report"),
    quick: Annotated[bool, Option("--quick", help="Compute at a small scale, within minutes.")] = False,
    engine: Annotated[str, Option(help="auto, torch or julia.")] = "auto",
    seed: Seed = 0,
    workers: Annotated[int | None, Option(help="Number of parallel processes.", show_default="one per core")] = None,
    check: Annotated[bool, Option("--check", help="Exit with status 1 if a target is missed.")] = False,
    list_: Annotated[bool, Option("--list", help="List the reports and exit.")] = False,
) -> None:
    """Recompute published results and write a page that compares the published numbers with the new ones."""
    from ..reports.registry import REPORTS

    if list_ or not ids:
        width = max(map(len, REPORTS))
        for known in REPORTS.values():
            typer.echo(f"{known.id:<{width}}  {known.title}\n{'':<{width}}  from {known.source}")
        return

    from ..progress import RichProgress
    from ..reports.runner import run_reports

    with RichProgress() as progress:
        summary = run_reports(ids, out, "quick" if quick else "full", engine, seed, workers, check, progress)
    if not quick:
        for id, (met, judged) in summary.tally.items():
            typer.echo(f"{id}: {met} of {judged} targets met")
    for sentence in summary.missed:
        typer.echo(sentence, err=True)
    typer.echo(summary.page.absolute())
    if summary.missed:
        raise typer.Exit(1)


@app.command()
@one_sentence()
@with_options
def fit(
    data: Annotated[Path, Argument(metavar="DATA.csv", help="A table with column names in its first line.")],
    out: Annotated[Path, Option(help="Folder for the model, the figure and the numbers.")],
    time: Annotated[str | None, Option(help="Column with the times.", show_default="the first")] = None,
    columns: Annotated[str | None, Option(metavar="A,B", help="Columns to fit.", show_default="all others")] = None,
    *,
    options: FitOptions,
) -> None:
    """Fit a neural ODE to a table of values over time; Ctrl-C keeps the best fit so far."""
    from ..datasets.timeseries import read_timeseries
    from ..files import check_folder
    from ..progress import RichProgress
    from .fitting import FILES, Settings, fit_table, write_fit

    settings = Settings(**vars(options))
    names = None if columns is None else [name.strip() for name in columns.split(",")]
    series = read_timeseries(data, time=time, columns=names)
    check_folder(out, FILES)
    with RichProgress() as progress:
        fitted = fit_table(series, settings, progress)
    write_fit(out, fitted)
    result, sentences = fitted.result, [str(fitted.diagnosis)]
    if result.finished:
        sentences.insert(0, f"{result.message[:1].upper()}{result.message[1:]}.")
    else:
        typer.echo(f"The fit was {result.message}. The parameters have been saved.", err=True)
    end_with(sentences, [out / name for name in FILES], result.finished, result.interrupted)


@app.command()
@one_sentence()
def solve(
    model: Annotated[Path, Argument(metavar="MODEL", help="A saved model, or the folder of a fit.")],
    out: Annotated[Path, Option(help="Folder, or FILE.csv; the figure is written next to the table.")],
    times: Annotated[
        str | None,
        Option(
            metavar="0:10:101", help="Times as first:last:count, or as a list 0,1,2.5.", show_default="the fitted span"
        ),
    ] = None,
    y0: Annotated[
        str | None, Option(metavar="1,0", help="State at the first time.", show_default="the fitted one")
    ] = None,
) -> None:
    """Solve a saved model at given times and write a table and a figure."""
    from .parse import parse_numbers, parse_times
    from .solving import solve_saved, write_solution

    ts = None if times is None else parse_times(times)
    state = None if y0 is None else parse_numbers("y0", y0, float, "1,0")
    for path in write_solution(out, solve_saved(model, ts, state)):
        typer.echo(path.absolute())


app.command()(fit_density)
app.command()(doctor)
app.command()(setup_julia)
app.add_typer(train, name="train")
