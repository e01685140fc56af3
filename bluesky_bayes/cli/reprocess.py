"""``bluesky-bayes reprocess``: past runs of a Tiled server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bluesky_bayes.cli.errors import plain_errors
from bluesky_bayes.servers import connected

if TYPE_CHECKING:
    from bluesky_bayes.analysis import Recipe


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
        from bluesky_bayes.analysis import load

        analysis = load(recipe)
        with connected(tiled_uri) as client:
            _reprocess(client, analysis, raw, processed, limit)


def _reprocess(client: Any, analysis: Recipe, raw: str, processed: str, limit: int | None) -> None:
    from rich.console import Console

    from bluesky_bayes.reprocess import reprocess
    from bluesky_bayes.servers import catalogue_of_runs, container

    console = Console()
    outcome = reprocess(
        container(client, raw, "--raw"),
        catalogue_of_runs(client, processed),
        analysis,
        limit=limit,
        progress=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    console.print(str(outcome), style="bold")
