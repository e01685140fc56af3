"""What goes wrong becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

BAD_INPUT = 2
"""Exit code when there is nothing to analyse, or the input is wrong."""
EXTRAS = {"zmq": "zmq", "gemmi": "phases"}
"""Which of our extras brings a package; where none is named, ``demo``."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """End with one sentence, not a traceback, where what the user gave is wrong or something is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "", "demo")
        _fail(f"{error.name} is not installed; pip install 'bluesky-bayes[{extra}]' brings it")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        _fail(str(error))


def _fail(sentence: str) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("Error: ", "bold red"), sentence), soft_wrap=True)
    raise typer.Exit(BAD_INPUT)
