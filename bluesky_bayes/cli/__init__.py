"""The command ``bluesky-bayes``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from bluesky_bayes.cli.analyse import analyse
from bluesky_bayes.cli.errors import plain_errors
from bluesky_bayes.cli.phases import phases
from bluesky_bayes.cli.reprocess import reprocess
from bluesky_bayes.cli.worker import keys, watch, worker

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


app.command()(analyse)
app.command()(reprocess)
app.command()(worker)
app.command()(watch)
app.command()(keys)
app.command()(plain_errors()(phases))


@app.command()
def warmup() -> None:
    """Compile the kernels of the built-in peaks, and keep them for the first analysis."""
    with plain_errors():
        from rich.console import Console

        from bluesky_bayes.analysis import Analysis
        from bluesky_bayes.callbacks.bayes import prepare
        from bluesky_bayes.families import peaks
        from bluesky_bayes.shapes import PEAKS

        console = Console()
        for shape in PEAKS:
            with console.status(f"compiling {shape}"):
                prepare(Analysis(peaks(shape)))
            console.print(f"{shape}: ready")


@app.command()
def devices() -> None:
    """Show what there is to sample with: processor, GPU or the reason for none, and throughput in a second."""
    with plain_errors():
        from rich.console import Console
        from rich.table import Table

        from bluesky_bayes.devices import CUDA, describe, device, find_gpus, throughput

        console, table = Console(), Table(show_header=False, box=None)
        for name, words in describe():
            table.add_row(name, words)
        names = ["cpu", *(f"{CUDA}:{gpu.number}" for gpu in find_gpus().gpus)]
        for name in names:
            with console.status(f"measuring {name}"):
                try:
                    rate = float(f"{throughput(device(name)):.2g}")
                    words = f"{rate:,.0f} moves of one parameter a second, measured with two peaks and 301 points"
                except ValueError as error:
                    words = str(error)
            table.add_row(f"{name}, one thread" if name == "cpu" else name, words)
        console.print(table)
