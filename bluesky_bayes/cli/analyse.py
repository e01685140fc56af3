"""``bluesky-bayes analyse``: one recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bluesky_bayes.cli.errors import plain_errors

if TYPE_CHECKING:
    from bluesky_bayes.analysis import Analysis
    from bluesky_bayes.selection import Selection


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
