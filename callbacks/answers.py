"""What the worker process does: it takes a run's numbers and gives answers, and answers as lines to publish."""

from __future__ import annotations

import functools
import json
import pickle
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bluesky_bayes.analysis import Recipe
from bluesky_bayes.callbacks.backlog import NotDoneError
from bluesky_bayes.callbacks.runs import Document, NothingToAnalyseError, RunCollector, dataset_of, pieces_of
from bluesky_bayes.callbacks.worker import WorkerDiedError
from bluesky_bayes.documents import failure_documents
from bluesky_bayes.selection import Selection

Outcome: TypeAlias = tuple[Selection | Exception, tuple[int, ...]]
"""An answer or what kept it, and the events that hold its data."""


def prepare(analysis: Recipe) -> None:
    """Make the worker process ready: wide vectors, then what this analysis needs."""
    from bluesky_bayes.kernels.build import use_widest_vectors

    use_widest_vectors()
    analysis.prepare()


@functools.lru_cache(maxsize=1)
def _opened(analysis: bytes) -> Recipe:
    """Open a pickled analysis, once in a process."""
    recipe: Recipe = pickle.loads(analysis)
    return recipe


def answer(pickled: bytes, collected: bytes) -> list[Outcome]:
    """Analyse the data sets of one run; one that cannot be analysed does not end the rest."""
    analysis = _opened(pickled)
    collector: RunCollector = pickle.loads(collected)
    pieces = pieces_of(collector.collected(), analysis)
    if len(pieces) == 1:
        return [(analysis(pieces[0].dataset()), pieces[0].events)]
    outcomes: list[Outcome] = []
    for piece in pieces:
        try:
            outcomes.append((analysis(piece.dataset()), piece.events))
        except ValueError as error:
            outcomes.append((error, piece.events))
    return outcomes


def answer_so_far(pickled: bytes, collected: bytes) -> Selection:
    """Analyse the last data set of a run that goes on."""
    analysis = _opened(pickled)
    collector: RunCollector = pickle.loads(collected)
    found: Selection = analysis(dataset_of(collector.collected(), analysis))
    return found


def written_down(outcomes: list[Outcome], start: Document, analysis: dict[str, Any]) -> list[Lines]:
    """Results to be published, one for each outcome that has any; of several each says how many there are."""
    parts = sum(is_worth_writing(found) for found, _ in outcomes)
    made: list[Lines] = []
    for outcome in outcomes:
        if is_worth_writing(outcome[0]):
            noted = {**analysis, "part": len(made) + 1, "parts": parts} if len(outcomes) > 1 else analysis
            made.append(Lines.of(_documents_of(outcome, start, noted)))
    return made


def is_worth_writing(found: Selection | Exception) -> bool:
    """Whether there was anything to analyse, and it was attempted."""
    return not isinstance(found, NothingToAnalyseError | NotDoneError)


def _documents_of(outcome: Outcome, start: Document, analysis: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Documents of an outcome."""
    found, events = outcome
    if not isinstance(found, Exception):
        return list(found.to_documents(start, analysis))
    noted = {**analysis, "events": list(events)} if events else analysis
    return list(failure_documents(start, noted, sentence(found)))


class Lines:
    """A result's documents as JSON, one ``[name, document]`` on each line, kept small.

    Attributes
    ----------
    uid : str
        Of the result's run.
    """

    def __init__(self, uid: str, packed: bytes) -> None:
        self.uid, self._packed = uid, packed

    @classmethod
    def of(cls, documents: Iterable[tuple[str, dict[str, Any]]]) -> Lines:
        """Write documents down."""
        documents = list(documents)
        text = "".join(f"{json.dumps(document, default=plain)}\n" for document in documents)
        return cls(documents[0][1]["uid"], zlib.compress(text.encode(), 1))

    @classmethod
    def read(cls, path: Path) -> Lines:
        """Read a file that holds the lines.

        Raises
        ------
        ValueError
            When it does not hold a whole result.
        """
        text = path.read_bytes()
        try:
            uid = json.loads(text.split(b"\n", 1)[0])[1]["uid"]
            whole = json.loads(text.rstrip().rsplit(b"\n", 1)[-1])[0] == "stop"
        except (ValueError, LookupError, TypeError):
            whole = False
        if not whole:
            raise ValueError(f"{path} does not hold a whole result")
        return cls(uid, zlib.compress(text, 1))

    @property
    def text(self) -> bytes:
        """The lines."""
        return zlib.decompress(self._packed)

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read them again."""
        for line in self.text.splitlines():
            name, document = json.loads(line)
            yield name, document


def plain(value: Any) -> Any:
    """What JSON has no form for: numbers and arrays of numpy; anything else in words."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def sentence(error: BaseException) -> str:
    """Give what an exception says, with its kind where it was not written as a sentence."""
    return (
        str(error)
        if isinstance(error, ValueError | NotDoneError | WorkerDiedError)
        else f"{type(error).__name__}: {error}"
    )
