"""Python in README.md, docs/ and docstrings runs as tests.

Blocks of one file share their names, from top to bottom, in an empty folder. A block
that needs a beamline, or more time than a test has, is left out by an HTML comment on
the line before it, which no reader sees::

    <!-- skip: next "needs the beamline's Tiled server" -->
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilFile
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from sybil.parsers.rest import SkipParser as DocstringSkipParser

os.environ.setdefault("MPLBACKEND", "agg")


def pytest_configure(config: pytest.Config) -> None:
    """Import ArviZ before there are workers: on its first import of a day it writes a file, and two at once fail."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.simplefilter("ignore")
            import arviz  # noqa: F401


@pytest.fixture(scope="module")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run one file's examples where they leave nothing behind, and close figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


pages = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    pattern="*.md",
    fixtures=["empty_folder"],
)
docstrings = Sybil(
    parsers=[DocTestParser(), DocstringSkipParser()],
    patterns=[f"bluesky_bayes/{depth}*.py" for depth in ("", "*/", "*/*/")],
    fixtures=["empty_folder"],
)
pytest_collect_file = (pages + docstrings).pytest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what an example leaves unclosed be a warning: Sybil cannot report it."""
    unclosed = pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning")
    for item in items:
        if isinstance(item.parent, SybilFile):
            item.add_marker(unclosed)
