"""Documents are sorted by run and collected; all but the sorting is done on a thread of its own."""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from bluesky_bayes.analysis import Recipe
from bluesky_bayes.callbacks.backlog import Lane, NotDoneError
from bluesky_bayes.callbacks.collector import Asked
from bluesky_bayes.callbacks.copies import Copied, copied, opened
from bluesky_bayes.callbacks.runs import Document, RunCollector

MOST_OPEN = 20
MOST_BYTES_WAITING = 100_000_000
BYTES = 8
"""Of a number in a document that waits, about."""


@dataclass(frozen=True)
class Desk:
    """Who is told what became of a run. All but `begin` are called on the intake's thread.

    Attributes
    ----------
    begin : callable
        Decides by its start document whether a run is of interest.
    heard : callable
        Takes note of a run's uid, a document's name, and a copy of it.
    ask : callable
        Has analysed what a run that goes on has given: its uid and collector, pickled.
    end : callable
        Has a run analysed that has ended: its uid, start, stop and collector, pickled.
    give_up : callable
        Puts a run aside: its uid and the reason.
    """

    begin: Callable[[Document], bool]
    heard: Callable[[str, str, Copied], object]
    ask: Callable[[str, bytes], object]
    end: Callable[[str, Document, Document, bytes], object]
    give_up: Callable[[str, Exception], object]


@dataclass(eq=False)
class _Open:
    """A run that goes on."""

    collector: RunCollector
    watched: set[str] = field(default_factory=set)
    n_new: int = 0
    since: float = field(default_factory=time.monotonic)
    n_asked: int = 0
    given_up: bool = False


class Intake:
    """Sorts documents by run, and says when there is something to analyse.

    Parameters
    ----------
    analysis : Analysis or PhaseAnalysis
    desk : Desk
    every_events : int, optional
        Events of the analysed stream after which an answer so far is wanted.
    every_seconds : float, optional
        Seconds after which it is wanted, if there are new events.
    """

    def __init__(
        self, analysis: Recipe, desk: Desk, every_events: int | None = None, every_seconds: float | None = None
    ) -> None:
        self._analysis, self._desk = analysis, desk
        self._every_events, self._every_seconds = every_events, every_seconds
        self._lock = threading.RLock()
        self._open: dict[str, _Open] = {}
        self._parents: dict[str, str] = {}
        self._collecting: dict[str, _Open] = {}
        self._asked = Asked(analysis)
        self._closed = False
        self._lane = Lane("documents", MOST_BYTES_WAITING, self._collect)

    def __len__(self) -> int:
        """Runs that go on."""
        return len(self._open)

    def __contains__(self, uid: str) -> bool:
        """Whether a run goes on."""
        return uid in self._open

    @property
    def here(self) -> bool:
        """Whether this is the thread on which documents are collected."""
        return self._lane.here

    def hear(self, name: str, doc: Document) -> None:
        """Sort a document in and hand it to the thread."""
        with self._lock:
            if not self._closed:
                self._hear(name, doc)

    def ask(self, uid: str, then: Callable[[bytes], object]) -> None:
        """Have ``then`` called with what a run has given up to now, on the intake's thread.

        Raises
        ------
        KeyError
            When no such run goes on.
        """
        with self._lock:
            run = self._going_on(uid)
            self._lane.put(lambda: then(pickle.dumps(run.collector)))

    def room(self, uid: str) -> float:
        """Share of what is kept of a run at most that it may still give, documents that wait counted as numbers.

        Raises
        ------
        KeyError
            When no such run goes on.
        """
        with self._lock:
            return self._going_on(uid).collector.room(self._lane.held // BYTES)

    def close(self, timeout: float) -> None:
        """Hear nothing more; give up runs that go on, and let what was heard be collected."""
        with self._lock:
            self._closed = True
            for uid in list(self._open):
                self._give_up(uid, NotDoneError("given up: the callback was closed before the run ended"))
        self._lane.close(timeout)

    def _going_on(self, uid: str) -> _Open:
        if uid not in self._open:
            raise KeyError(f"run {uid!r} does not go on, or was not heard: subscribe the callback before it begins")
        return self._open[uid]

    def _hear(self, name: str, doc: Document) -> None:
        if name == "start":
            self._begin(doc)
        elif name == "bulk_events":
            for event in itertools.chain.from_iterable(doc.values()):
                self._hear("event", event)
        elif (uid := self._run_of(name, doc)) in self._open:
            try:
                self._take(uid, name, doc)
            except Exception as error:
                self._give_up(uid, error)

    def _run_of(self, name: str, doc: Document) -> str:
        """Find the run a document belongs to; empty for documents that are not needed."""
        if name in ("event", "event_page", "stream_datum"):
            return self._parents.get(doc["descriptor"], "")
        if name in ("datum", "datum_page", "bulk_datum"):
            return self._parents.get(doc["resource"], "")
        if name == "resource" and "run_start" not in doc and len(self._open) == 1:
            return next(iter(self._open))  # as older devices wrote it
        return str(doc["run_start"]) if name in ("descriptor", "resource", "stream_resource", "stop") else ""

    def _begin(self, start: Document) -> None:
        uid = start["uid"]
        if "original_run_uid" in start or uid in self._open or not self._desk.begin(start):
            return
        if len(self._open) >= MOST_OPEN:
            oldest = next(iter(self._open))
            self._give_up(oldest, NotDoneError(f"given up: it never stopped while {MOST_OPEN} others began"))
        run = self._open[uid] = _Open(RunCollector(self._analysis))
        self._lane.put(partial(self._enter, uid, run))
        self._take(uid, "start", start)

    def _take(self, uid: str, name: str, doc: Document) -> None:
        run = self._open[uid]
        if name in ("descriptor", "resource"):
            self._note_parent(uid, run, name, doc)
        copy = copied(uid, name, self._asked.trimmed(name, doc))
        if not self._lane.send(copy, must=name in ("start", "stop")):
            raise NotDoneError(
                f"given up: {MOST_BYTES_WAITING / 1e6:g} MB of documents wait to be taken in, they come faster than "
                "this computer can; the run itself is not touched, analyse it afterwards"
            )
        if name == "stop":
            self._end(uid)
        elif doc.get("descriptor") in run.watched:
            self._count(uid, run, name, doc)

    def _note_parent(self, uid: str, run: _Open, name: str, doc: Document) -> None:
        """Know documents that follow as those of a run; events of streams that are not asked for are not."""
        stream = str(doc.get("name", "primary"))
        if name == "resource" or stream in self._asked:
            self._parents[doc["uid"]] = uid
        if name == "descriptor" and stream == self._analysis.stream:
            run.watched.add(doc["uid"])

    def _count(self, uid: str, run: _Open, name: str, doc: Document) -> None:
        """Ask for an answer so far when it is time."""
        run.n_new += events_in(name, doc)
        now = time.monotonic()
        enough = self._every_events is not None and run.n_new >= self._every_events
        late = self._every_seconds is not None and now - run.since >= self._every_seconds
        if enough or late:
            run.n_new, run.since, run.n_asked = 0, now, run.n_asked + 1
            self._lane.put(partial(self._ask, uid, run, run.n_asked))

    def _ask(self, uid: str, run: _Open, number: int) -> None:
        """Ask for an answer so far, unless a newer request follows."""
        if number == run.n_asked and not run.given_up:
            self._desk.ask(uid, pickle.dumps(run.collector))

    def _enter(self, uid: str, run: _Open) -> None:
        """Collect for a run what follows, on the intake's thread; whatever was before it is of an earlier attempt."""
        self._collecting[uid] = run

    def _leave(self, uid: str, run: _Open) -> None:
        """Collect no more for a run, on the intake's thread."""
        if self._collecting.get(uid) is run:
            del self._collecting[uid]

    def _collect(self, copy: Copied) -> None:
        """Take a document in, on the intake's thread."""
        uid, name, doc = opened(copy)
        run = self._collecting.get(uid)
        if run is None or run.given_up:
            return
        self._desk.heard(uid, name, copy)
        try:
            run.collector(name, doc)
            if name == "stop":
                collected = pickle.dumps(run.collector)
                self._desk.end(uid, run.collector.start_document, run.collector.stop_document, collected)
                self._leave(uid, run)
        except Exception as error:
            run.given_up = True
            self._leave(uid, run)
            with self._lock:
                self._end(uid)
            self._desk.give_up(uid, error)

    def _end(self, uid: str) -> None:
        """Listen no more to a run."""
        self._open.pop(uid, None)
        self._parents = {parent: run for parent, run in self._parents.items() if run != uid}

    def _give_up(self, uid: str, error: Exception) -> None:
        run = self._open[uid]
        run.given_up = True
        self._lane.put(partial(self._leave, uid, run))
        self._end(uid)
        self._desk.give_up(uid, error)


def events_in(name: str, doc: Document) -> int:
    """How many events a document brings."""
    if name == "event_page":
        return len(doc["seq_num"])
    if name == "stream_datum":
        return int(doc["seq_nums"]["stop"] - doc["seq_nums"]["start"])
    return 1
