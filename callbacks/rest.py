"""What a restart left undone, and doing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky_bayes.callbacks.answers import sentence
from bluesky_bayes.callbacks.journal import ANALYSED, Entry, Journal
from bluesky_bayes.callbacks.runs import Document, stored_documents


@dataclass(frozen=True)
class Unfinished:
    """Runs that were begun and not analysed, or analysed and not published.

    Attributes
    ----------
    entries : tuple of Entry
        Oldest first.
    """

    entries: tuple[Entry, ...] = ()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.entries)

    def __str__(self) -> str:
        """One line for each."""
        return "\n".join(f"{entry.at}  {entry.sentence}" for entry in self.entries) or "all runs are done"

    __repr__ = __str__


@dataclass
class Finished:
    """What became of unfinished runs.

    Attributes
    ----------
    done : list of str
        Uids of those that are done now.
    left : dict of str to str
        Why the others are not, by uid.
    """

    done: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Counts, and a line for each that is left."""
        return "\n".join(
            [f"{len(self.done)} done, {len(self.left)} left", *(f"{uid[:8]}: {why}" for uid, why in self.left.items())]
        )

    __repr__ = __str__


def finish(
    journal: Journal,
    entries: Iterable[Entry],
    publish: Callable[[Entry], object],
    analyse: Callable[[list[tuple[str, Document]]], object],
    source: Mapping[str, Any] | Iterable[Any] | None,
    seconds: float,
) -> Finished:
    """Do what is left of runs, one after another; one that cannot be done does not end the rest."""
    outcome = Finished()
    runs = _Source(source)
    for entry in entries:
        why = ""
        try:
            if entry.state == ANALYSED:
                publish(entry)
            else:
                documents = journal.documents(entry.uid) if entry.kept else runs.documents(entry.uid)
                analyse(_whole(documents))
        except Exception as error:
            why = sentence(error)
        journal.flush(seconds)
        left = {each.uid: each.reason for each in journal.unfinished()}
        if entry.uid in left:
            outcome.left[entry.uid] = why or left[entry.uid] or "it is not done yet"
        else:
            outcome.done.append(entry.uid)
    return outcome


def _whole(documents: Iterable[tuple[str, Document]]) -> list[tuple[str, Document]]:
    documents = list(documents)
    if not documents or documents[-1][0] != "stop":
        raise ValueError("it has no stop document: it did not end, or goes on")
    return documents


class _Source:
    """Runs that are stored elsewhere, by uid."""

    def __init__(self, source: Mapping[str, Any] | Iterable[Any] | None) -> None:
        self._source = source
        self._runs: dict[str, Any] = {}

    def documents(self, uid: str) -> Iterable[tuple[str, Document]]:
        """Documents of a run.

        Raises
        ------
        ValueError
            When there is no source, or no such run in it.
        """
        if self._source is None:
            raise ValueError("its documents are not in the journal: bayes.finish(client['raw']) takes them from there")
        if isinstance(self._source, Mapping):
            if uid not in self._source:
                raise ValueError("the source does not hold it")
            return list(stored_documents(self._source[uid]))
        if not self._runs:
            runs: Iterable[Any] = self._source
            self._runs = {next(iter(run.documents()))[1]["uid"]: run for run in runs}
        if uid not in self._runs:
            raise ValueError("the source does not hold it")
        return list(stored_documents(self._runs[uid]))
