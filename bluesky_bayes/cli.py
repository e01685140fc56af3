"""The command ``bluesky-bayes``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from bluesky_bayes.analysis import Analysis
    from bluesky_bayes.selection import Selection

BAD_INPUT = 2
"""Exit code when there is nothing to analyse, or the input is wrong."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


def main() -> None:
    """Run the command."""
    app()


@app.callback()
def bluesky_bayes() -> None:
    """Live Bayesian model selection for Bluesky: which model the data support, and whether it is enough to decide."""
    # What goes wrong is said once, by the command itself.
    logging.getLogger("bluesky_bayes").addHandler(logging.NullHandler())


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="One scan and fewer models: done within a minute.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the picture.", file_okay=False)] = Path(),
    technique: Annotated[
        str | None, typer.Option(help="Another measurement than three peaks: relaxation, mossbauer, saxs, xanes ...")
    ] = None,
) -> None:
    """Show it all at work on simulated scans, with a Tiled server of its own.

    Nothing outside this computer is contacted, and nothing but the picture stays behind.
    """
    with plain_errors():
        from rich.console import Console

        from bluesky_bayes.demo import run_demo

        run_demo(Console(), output, quick=quick, technique=technique)


@app.command()
def analyse(
    run: Annotated[Path, typer.Argument(metavar="RUN.jsonl", help="The run's documents.", exists=True, dir_okay=False)],
    x: Annotated[str | None, typer.Option(help="Field that was scanned; by default what the run's hints say.")] = None,
    y: Annotated[str | None, typer.Option(help="Field that was measured; by default what the run's hints say.")] = None,
    family: Annotated[str | None, typer.Option(help="Kind of measurement: by default peaks.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Shape of a peak: gaussian, lorentzian, pseudo-voigt, voigt or your own FILE.py:NAME."),
    ] = None,
    counts: Annotated[str | None, typer.Option(help="How many: 0:4 (from 0 up to and with 4), or 0,1,2.")] = None,
    background: Annotated[
        str | None, typer.Option(help="constant, linear, quadratic, cubic or none; by default constant.")
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="poisson, gaussian or student-t (of unknown size), or a number: a standard deviation."),
    ] = None,
    subtract: Annotated[float | None, typer.Option(help="Taken off every y first: a dark level.")] = None,
    stream: Annotated[str | None, typer.Option(help="Stream that holds the fields; by default primary.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random numbers; by default 0.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Recipe to start from; the options here replace its parts.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the answer.")] = None,
    save_recipe: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Write the recipe, for reprocess and for live use.")
    ] = None,
) -> None:
    """Analyse one recorded run.

    The file holds the run's documents as JSON, a name and a document on each line. Prints the probability of each model
    and the parameters of the best. When the run holds nothing to analyse it says why, in one sentence, and ends with
    exit code 2.
    """
    with plain_errors():
        data = {"x": x, "y": y, "subtract": subtract, "stream": stream}
        candidates = {
            "family": family,
            "shape": shape,
            "counts": counts and counts_from(counts),
            "background": background,
        }
        analysis = _analysis(recipe, data, candidates, noise, seed)
        if save_recipe is not None:
            analysis.save(save_recipe)
        _answer(run, analysis, plot)


@app.command()
def reprocess(
    tiled_uri: Annotated[str, typer.Argument(help="Address of a Tiled server, such as http://localhost:8000.")],
    recipe: Annotated[
        Path, typer.Option(metavar="FILE.toml", help="What to analyse, and how.", exists=True, dir_okay=False)
    ],
    raw: Annotated[str, typer.Option(help="Container that holds the runs.")] = "raw",
    processed: Annotated[str, typer.Option(help="Container for the results; made where it is missing.")] = "processed",
    limit: Annotated[int | None, typer.Option(help="Stop after so many runs.", min=1)] = None,
) -> None:
    """Analyse past runs in a Tiled server and publish a result run for each.

    Runs that the same recipe has answered before are skipped, so an interrupted call can be made again. The API key is
    read from the environment variable TILED_API_KEY.
    """
    with plain_errors():
        from bluesky_bayes.analysis import Analysis

        analysis = Analysis.load(recipe)
        with _tiled(tiled_uri) as client:
            _reprocess(client, analysis, raw, processed, limit)


@app.command()
def warmup() -> None:
    """Compile the kernels of the built-in peaks, and keep them for the first analysis."""
    with plain_errors():
        from rich.console import Console

        from bluesky_bayes.callbacks.bayes import prepare
        from bluesky_bayes.families import peaks
        from bluesky_bayes.shapes import PEAKS

        console = Console()
        for shape in PEAKS:
            with console.status(f"compiling {shape}"):
                prepare(peaks(shape))
            console.print(f"{shape}: ready")


@contextmanager
def plain_errors() -> Iterator[None]:
    """End with one sentence, not a traceback, where what the user gave is wrong or something is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; pip install 'bluesky-bayes[demo]' brings it")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        _fail(str(error))


def _fail(sentence: str) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("Error: ", "bold red"), sentence), soft_wrap=True)
    raise typer.Exit(BAD_INPUT)


def counts_from(text: str) -> list[int]:
    """Numbers of components written as a range or a list.

    Raises
    ------
    ValueError
        When it is neither.

    Examples
    --------
    >>> counts_from("0:4"), counts_from("1,3")
    ([0, 1, 2, 3, 4], [1, 3])
    """
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            return list(range(first, last + 1))
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--counts must be a range such as 0:4 or a list such as 0,1,2; got {text!r}") from None


def noise_from(text: str) -> dict[str, Any]:
    """Entries of a recipe's [noise].

    Raises
    ------
    ValueError
        When it is neither a kind of noise nor a number.

    Examples
    --------
    >>> noise_from("poisson"), noise_from("0.1")
    ({'kind': 'poisson'}, {'kind': 'gaussian', 'sigma': 0.1})
    """
    if text in ("poisson", "gaussian", "student-t"):
        return {"kind": text}
    try:
        return {"kind": "gaussian", "sigma": float(text)}
    except ValueError:
        raise ValueError(f"--noise must be poisson, gaussian, student-t or a number; got {text!r}") from None


def _analysis(
    recipe: Path | None, data: dict[str, Any], candidates: dict[str, Any], noise: str | None, seed: int | None
) -> Analysis:
    """Recipe from the file, if any, with what was given on the command line in place of its parts."""
    from bluesky_bayes.analysis import Analysis

    table: dict[str, Any] = {"candidates": {"family": "peaks"}} if recipe is None else Analysis.load(recipe).to_table()
    for part, options in (("data", data), ("candidates", candidates), ("sampling", {"seed": seed})):
        given = {name: value for name, value in options.items() if value is not None}
        table[part] = table.get(part, {}) | given
    if noise is not None:
        table["noise"] = noise_from(noise)
    try:
        return Analysis.from_table(table)
    except TypeError as error:
        raise ValueError(f"family {table['candidates']['family']!r} cannot take these options: {error}") from error


def _answer(run: Path, analysis: Analysis, plot: Path | None) -> None:
    from rich.console import Console

    console = Console()
    with console.status("analysing (the first time, kernels are compiled)"):
        selection = _replay(run, analysis)
    console.print(selection.summary())
    if plot is not None:
        selection.plot().savefig(plot, dpi=150)
        console.print(f"Picture: {plot}", soft_wrap=True)


def _replay(run: Path, analysis: Analysis) -> Selection:
    """Send the documents of one recorded run through the callback that serves live ones."""
    from bluesky_bayes.callbacks import BayesCallback
    from bluesky_bayes.callbacks.bayes import sentence
    from bluesky_bayes.callbacks.runs import read_jsonl

    documents = list(read_jsonl(run))
    starts = [document for name, document in documents if name == "start"]
    if len(starts) != 1:
        raise ValueError(f"{run} holds {len(starts)} runs; give a file that holds one")
    if "original_run_uid" in starts[0]:
        raise ValueError(f"{run} holds the result of an analysis; give the run that was measured")
    if documents[-1][0] != "stop":
        raise ValueError(f"{run} has no stop document at its end: the run did not end, or the file is cut short")
    with BayesCallback(analysis) as bayes:
        for name, document in documents:
            bayes(name, document)
        future = bayes.future(starts[0]["uid"])
        if error := future.exception():
            raise ValueError(sentence(error)) from error
        return future.result()


@contextmanager
def _tiled(uri: str) -> Iterator[Any]:
    """Client of a Tiled server, its key from the environment; what the server refuses becomes a sentence.

    Raises
    ------
    ValueError
        When a key is in the address, where others can read it, or the server does not answer.
    """
    if "api_key=" in uri:
        raise ValueError("do not write the API key into the address, others can see it there; set TILED_API_KEY")
    import httpx
    from tiled.client import from_uri

    try:
        client = from_uri(uri)
        with closing(client.context):
            yield client
    except httpx.HTTPStatusError as error:
        raise ValueError(f"the Tiled server at {uri} refused: {error}") from error
    except httpx.HTTPError as error:
        raise ValueError(f"there is no answer from a Tiled server at {uri}: {error}") from error


def _reprocess(client: Any, analysis: Analysis, raw: str, processed: str, limit: int | None) -> None:
    from rich.console import Console

    from bluesky_bayes.reprocess import reprocess
    from bluesky_bayes.servers import catalogue_of_runs

    if raw not in client:
        raise ValueError(f"there is no container {raw!r}; name it with --raw, or set TILED_API_KEY if it is not public")
    console = Console()
    outcome = reprocess(
        client[raw],
        catalogue_of_runs(client, processed),
        analysis,
        limit=limit,
        progress=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    console.print(str(outcome), style="bold")
