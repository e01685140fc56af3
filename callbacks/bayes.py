"""The callback: hears documents, has each run analysed in another process, and publishes the answers."""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from bluesky_bayes.analysis import Recipe
from bluesky_bayes.callbacks.answers import (
    Lines,
    Outcome,
    answer,
    answer_so_far,
    is_worth_writing,
    prepare,
    sentence,
    written_down,
)
from bluesky_bayes.callbacks.backlog import FIRST, SO_FAR, NotDoneError, promise, settle
from bluesky_bayes.callbacks.copies import Copied
from bluesky_bayes.callbacks.intake import Desk, Intake
from bluesky_bayes.callbacks.journal import Entry, Journal
from bluesky_bayes.callbacks.listeners import Listener, Listeners
from bluesky_bayes.callbacks.publish import Parcel, Publisher
from bluesky_bayes.callbacks.rest import Finished, Unfinished, finish
from bluesky_bayes.callbacks.runs import Document, NothingToAnalyseError, label_of
from bluesky_bayes.callbacks.worker import Worker
from bluesky_bayes.selection import Selection

__all__ = ["BayesCallback", "prepare", "sentence"]

logger = logging.getLogger("bluesky_bayes")
T = TypeVar("T")

MOST_KEPT = 50
MOST_ANSWERS = 50
SECONDS_TO_ANALYSE = 600.0
SECONDS_TO_CLOSE = 30.0
SECONDS_AT_EXIT = 10.0
SECONDS_TO_LISTEN = SECONDS_TO_FLUSH = 1.0


class BayesCallback:
    """Model selection for every run it hears: ``RE.subscribe(BayesCallback(analysis))``.

    It only collects and hands over. Analyses are done in a process of their own, results are written by a thread or
    process of their own, and nothing that goes wrong there or here reaches the RunEngine. The same object may hear a
    live RunEngine, a remote dispatcher or old runs: ``for name, doc in run.documents(): bayes(name, doc)``.

    Runs that carry ``original_run_uid`` are results of an analysis and left alone. A run that is repeated is not
    analysed again unless something failed the first time. The last `MOST_KEPT` runs are remembered.

    Parameters
    ----------
    analysis : Analysis or PhaseAnalysis
        What to take out of each run and what to ask of it.
    publish : optional
        Where answers go, each as a run of its own: the address of a Tiled container such as
        ``"http://localhost:8000/processed"`` (its key comes from TILED_API_KEY), a Tiled container client, a databroker
        ``Broker`` or a callable ``(name, document)``, which is not sent again what it has taken in part.
    time_limit : float
        Seconds after which an analysis is taken to hang; it is then begun once more in a new process.
    every_events : int, optional
        Analyse a run that goes on after each so many events of the analysed stream.
    every_seconds : float, optional
        Analyse a run that goes on when so many seconds have passed and there are new events.
    journal : path, optional
        Folder that keeps a record of what was begun, so that a restart loses nothing: see `unfinished`.

    Raises
    ------
    TypeError
        When `analysis` cannot be sent to another process, or nothing can be published to `publish`.
    ValueError
        For an address that names no container, counts and times that are not positive, or a time limit without end.
    JournalInUseError
        When another callback, here or in another process, has the folder.
    """

    def __init__(
        self,
        analysis: Recipe,
        publish: Any = None,
        time_limit: float = SECONDS_TO_ANALYSE,
        *,
        every_events: int | None = None,
        every_seconds: float | None = None,
        journal: str | Path | None = None,
    ) -> None:
        paces: dict[str, Any] = {"time_limit": time_limit, "every_events": every_events, "every_seconds": every_seconds}
        for name, value in paces.items():
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ValueError(f"{name} must be positive, or left out; got {value!r}")
        if time_limit is not None and time_limit > threading.TIMEOUT_MAX:
            raise ValueError(
                f"time_limit must be a number of seconds, {threading.TIMEOUT_MAX:.2g} at most; got {time_limit!r}"
            )
        self._pickled = _portable(analysis)
        self.analysis = analysis
        self._provenance = _provenance(analysis)
        self._journal = None if journal is None else Journal(journal, self._provenance["digest"])
        try:
            self._publisher = None if publish is None else Publisher(publish)
        except BaseException:
            if self._journal is not None:
                self._journal.close(SECONDS_TO_LISTEN)
            raise
        self._listeners = Listeners()
        self._worker = Worker(partial(prepare, analysis), time_limit)
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._unwritten: dict[str, _Run] = {}
        desk = Desk(self._begin, self._heard, self._ask, self._end, self._give_up)
        self._intake = Intake(analysis, desk, every_events, every_seconds)
        self._last: Selection | None = None
        self._trouble = ""
        self._closed = self._ended = False
        self._closing, self._closer = threading.Lock(), 0
        self._owner = os.getpid()
        atexit.register(self.close, SECONDS_AT_EXIT)
        if self._journal is not None and (left := self._journal.unfinished()):
            logger.warning(
                "%d runs in the journal are not done: bayes.unfinished() lists them, bayes.finish() does them",
                len(left),
            )

    def __call__(self, name: str, doc: Document) -> None:
        """Hear a document. Never raises and never waits."""
        try:
            self._intake.hear(name, doc)
        except Exception:
            logger.exception("a %s document could not be taken in; acquisition goes on", name)

    @property
    def last(self) -> Selection | None:
        """The latest final answer."""
        return self._last

    @property
    def closed(self) -> bool:
        """Whether it hears nothing more."""
        return self._closed

    def latest(self, uid: str) -> Selection | None:
        """Give the newest answer for a run, final or so far; None where there is none yet.

        Raises
        ------
        KeyError
            When no such run was heard.
        """
        return self._run(uid).latest

    def future(self, uid: str) -> Future[Selection]:
        """Give the future of a run's answer; it carries a plain sentence as exception where there is none.

        Raises
        ------
        KeyError
            When no such run was heard.
        """
        return self._run(uid).result

    def results(self, uid: str, timeout: float | None = None) -> tuple[Selection, ...]:
        """Wait for all answers of a run whose patterns are analysed one by one; its last one is `result`.

        What kept a pattern from being answered is in the log and published; it has no place here. Errors are those of
        `result`.
        """
        self.result(uid, timeout)
        return self._run(uid).answers

    def result(self, uid: str, timeout: float | None = None) -> Selection:
        """Wait for a run's answer; in a plan use `bluesky_bayes.plans.wait_for_result`, which blocks nobody.

        Raises
        ------
        KeyError
            When no such run was heard.
        TimeoutError
            When it is not there after `timeout` seconds.
        Exception
            What kept the run from being answered, in a sentence.
        """
        return _outcome(self._run(uid).result, timeout, f"no answer for run {uid[:8]}")

    def so_far(self, uid: str) -> Future[Selection]:
        """Have analysed what a run that goes on has given up to now; the answer is not published.

        While an analysis of the same run waits, there is one answer for all who asked, with the newest events. What has
        not begun when the run ends is not done: the future says so.

        Raises
        ------
        KeyError
            When no such run goes on.
        """
        asked = promise()

        def then(collected: bytes) -> None:
            self._ask(uid, collected).add_done_callback(
                lambda job: settle(asked, None if job.exception() else job.result(), job.exception())
            )

        self._intake.ask(uid, then)
        return asked

    def room(self, uid: str) -> float:
        """Share, 1 to 0, of the two million numbers kept of a run that are still free; a run beyond has no answer.

        Raises
        ------
        KeyError
            When no such run goes on.
        """
        return self._intake.room(uid)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have ``function(*arguments)`` computed in the worker process, after what waits there.

        All three must be picklable: ``bayes.submit(bayes.analysis, data)`` answers for data that no single run gave.
        The future carries what the function raised, or that the process died over it.
        """
        return self._worker.submit(function, lambda: arguments)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener(uid, selection, final)`` called for each answer, on a thread of its own.

        A slow listener hears the newest answer of each run only, and holds up neither analyses nor publishing. What it
        raises is logged.

        Parameters
        ----------
        listener : callable
            Takes the raw run's uid, the answer, and whether it is the run's final one or an answer so far.

        Returns
        -------
        callable
            Ends it; takes nothing.
        """
        return self._listeners.add(listener)

    def published(self, uid: str, timeout: float | None = None) -> str | None:
        """Wait for the uid of the run that holds a run's answer, None where there is nothing to publish.

        While the server is down this goes on waiting, since the result is tried again.

        Raises
        ------
        KeyError
            When no such run was heard.
        TimeoutError
            When it is not written after `timeout` seconds.
        Exception
            What keeps the answer from being written for good. It is still there: see `result`.
        """
        trouble = self._publisher.trouble if self._publisher is not None else ""
        what = f"the answer for run {uid[:8]} is not written" + (f" ({trouble})" if trouble else "")
        return _outcome(self._run(uid).published, timeout, what)

    def unfinished(self) -> Unfinished:
        """List runs that were begun and not analysed, or analysed and not published, from the journal.

        Raises
        ------
        ValueError
            When there is no journal.
        """
        journal = self._with_journal()
        journal.flush(SECONDS_TO_FLUSH)
        return Unfinished(tuple(entry for entry in journal.unfinished() if not self._goes_on(entry.uid)))

    def finish(
        self, source: Mapping[str, Any] | Iterable[Any] | None = None, timeout: float = SECONDS_TO_ANALYSE
    ) -> Finished:
        """Do what `unfinished` lists: analyse what was not analysed, publish what was not published.

        Parameters
        ----------
        source : Tiled container of runs, or iterable of objects that have ``.documents()``
            Where to find runs whose documents the journal does not hold.
        timeout : float
            Seconds to wait for each run.

        Raises
        ------
        ValueError
            When there is no journal.
        """
        journal = self._with_journal()
        if self._publisher is not None:
            self._publisher.hurry()
        return finish(
            journal,
            self.unfinished().entries,
            partial(self._publish_again, timeout=timeout),
            partial(self._analyse_again, timeout=timeout),
            source,
            timeout,
        )

    def status(self) -> str:
        """Say what it is doing, what it answered last and what went wrong, in a few words."""
        with self._lock:
            runs = [*self._runs.values(), *self._unwritten.values()]
            n_open, last, trouble = len(self._intake), self._last, self._trouble
        asked = sum(not run.result.done() for run in runs) - n_open
        unwritten = sum(run.result.done() and not run.published.done() for run in runs)
        text = f"runs open: {n_open}, in analysis: {asked}, answers to be written: {unwritten}"
        if last is not None:
            text += f"; last answer: {last.verdict}"
        if self._publisher is not None and self._publisher.trouble:
            text += f"; results cannot be written: {self._publisher.trouble}"
        if self._journal is not None and self._journal.trouble:
            text += f"; {self._journal.trouble}"
        if trouble:
            text += f"; last trouble: {trouble}"
        return f"closed: {text}" if self._closed else text

    def close(self, timeout: float = SECONDS_TO_CLOSE) -> None:
        """Hear nothing more, let analyses and publishing finish for up to `timeout` seconds, give up the rest.

        What is given up stays in the journal, if there is one. What breaks it off, such as Ctrl-C, leaves the rest to
        the next call. Called on its own threads, as by a future's callback, it returns at once and goes on behind.
        In a fork of this process, which has none of these threads, it does nothing.
        """
        if os.getpid() != self._owner:
            return
        self._closed = True
        if self._worker.here or self._intake.here or (self._publisher is not None and self._publisher.here):
            threading.Thread(target=self._close, args=(timeout,), name="bluesky_bayes closing").start()
        else:
            self._close(timeout)

    def _close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout

        def left() -> float:
            return max(0.0, deadline - time.monotonic())

        me = threading.get_ident()
        if self._closer == me or not self._closing.acquire(timeout=left()):
            return
        try:
            self._closer = me
            if self._ended:
                return
            self._intake.close(left())
            self._worker.close(timeout)
            if self._publisher is not None:
                self._publisher.close(left())
            if self._journal is not None:
                self._journal.close(max(SECONDS_TO_LISTEN, left()))
            self._listeners.close(SECONDS_TO_LISTEN)
            self._ended = True
            atexit.unregister(self.close)
        finally:
            self._closer = 0
            self._closing.release()

    def __enter__(self) -> Self:
        """Enter a context that closes it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def _run(self, uid: str) -> _Run:
        with self._lock:
            run = self._runs.get(uid) or self._unwritten.get(uid)
        if run is None:
            raise KeyError(
                f"run {uid!r} was not heard: subscribe the callback before the run begins (RE.subscribe(bayes)); "
                f"the last {MOST_KEPT} runs are remembered"
            )
        return run

    def _begin(self, start: Document) -> bool:
        uid = start["uid"]
        with self._lock:
            if self._is_answered(uid):
                return False
            self._make_room()
            self._runs[uid] = _Run(label_of(start))
        if self._journal is not None:
            self._journal.begin(uid, label_of(start))
        return True

    def _is_answered(self, uid: str) -> bool:
        """Tell whether a run has an answer or is being analysed; what failed may be tried again."""
        if uid not in self._runs:
            return uid in self._unwritten
        promises = (self._runs[uid].result, self._runs[uid].published)
        return not any(promise.done() and promise.exception() for promise in promises)

    def _make_room(self) -> None:
        """Forget the oldest runs beyond those that are kept; of what waits to be written, only the answer."""
        answered = [uid for uid, run in self._runs.items() if run.result.done()]
        n_answers = sum(len(run.answers) for run in self._runs.values())
        for uid in answered[:-1]:
            if len(self._runs) < MOST_KEPT and n_answers < MOST_ANSWERS:
                break
            run = self._runs.pop(uid)
            n_answers -= len(run.answers)
            if not run.published.done():
                run.forget_answers()
                self._unwritten[uid] = run
                run.published.add_done_callback(partial(self._forget, uid))

    def _forget(self, uid: str, published: Future[str | None]) -> None:
        with self._lock:
            self._unwritten.pop(uid, None)

    def _heard(self, uid: str, name: str, copy: Copied) -> None:
        if self._journal is not None:
            self._journal.hear(uid, copy)
            if name == "stop":
                self._journal.end(uid)

    def _ask(self, uid: str, collected: bytes) -> Future[Selection]:
        """Have a run that goes on analysed; one analysis waits for each, the newest."""
        job = self._worker.submit(
            answer_so_far, lambda: (self._pickled, collected), SO_FAR, slot=uid, size=len(collected)
        )
        run = self._run(uid)
        if job is not run.asked:
            run.asked = job
            job.add_done_callback(partial(self._answered_so_far, uid, run))
        return job

    def _answered_so_far(self, uid: str, run: _Run, job: Future[Selection]) -> None:
        run.asked = None
        if (error := job.exception()) is not None:
            if not isinstance(error, NothingToAnalyseError | NotDoneError):
                self._note(
                    f"{run.label} has no answer so far: {sentence(error)}", expected=isinstance(error, ValueError)
                )
            return
        if not run.result.done():
            run.latest = job.result()
            self._listeners.tell(uid, run.latest, False)

    def _end(self, uid: str, start: Document, stop: Document, collected: bytes) -> None:
        self._worker.cancel(uid, "not begun before the run ended; the answer for the whole run comes instead")
        job = self._worker.submit(answer, lambda: (self._pickled, collected), size=len(collected))
        analysis = {**self._provenance, "raw_exit_status": stop.get("exit_status", "")}
        job.add_done_callback(partial(self._answered, self._run(uid), start, analysis))

    def _give_up(self, uid: str, error: Exception) -> None:
        self._worker.cancel(uid, f"not begun: {sentence(error)}")
        run = self._run(uid)
        self._note(f"{run.label} is not analysed: {sentence(error)}")
        if self._journal is not None:
            self._journal.give_up(uid, sentence(error))
        settle(run.result, error=error)
        settle(run.published)

    def _answered(self, run: _Run, start: Document, analysis: dict[str, Any], job: Future[list[Outcome]]) -> None:
        """Take an outcome from the worker, on the worker's thread."""
        try:
            self._take(run, start, analysis, job)
        except Exception as error:
            logger.exception("the answer for %s could not be handed on", run.label)
            settle(run.result, error=error)
            settle(run.published, error=error)

    def _take(self, run: _Run, start: Document, analysis: dict[str, Any], job: Future[list[Outcome]]) -> None:
        error = job.exception()
        outcomes: list[Outcome] = [(error, ())] if isinstance(error, Exception) else job.result()
        for outcome in outcomes:
            self._note_failure(run, outcome)
        answers = run.answers = tuple(found for found, _ in outcomes if not isinstance(found, Exception))
        if answers:
            self._last = run.latest = answers[-1]
            settle(run.result, self._last)
            self._listeners.tell(start["uid"], self._last, True)
        else:
            settle(run.result, error=next(found for found, _ in outcomes if isinstance(found, Exception)))
        if self._publisher is None or not any(is_worth_writing(found) for found, _ in outcomes):
            settle(run.published)
            self._close_entry(start["uid"], outcomes)
        elif answers:
            job_of_lines = self._worker.submit(written_down, lambda: (outcomes, start, analysis), FIRST)
            job_of_lines.add_done_callback(partial(self._written_down, run, start["uid"]))
        else:  # there may be no worker, and there is little to write
            self._publish(self._publisher, run, start["uid"], written_down(outcomes, start, analysis))

    def _note_failure(self, run: _Run, outcome: Outcome) -> None:
        found, events = outcome
        if isinstance(found, Exception):
            which = f"event {events[0]} of {run.label}" if events else run.label
            self._note(f"{which} has no answer: {sentence(found)}", expected=isinstance(found, NothingToAnalyseError))

    def _close_entry(self, uid: str, outcomes: list[Outcome]) -> None:
        """Note in the journal that there is nothing to publish."""
        if self._journal is None:
            return
        errors = [found for found, _ in outcomes if isinstance(found, Exception)]
        reason = sentence(errors[0]) if errors else ""
        if any(isinstance(error, NotDoneError) for error in errors):
            self._journal.give_up(uid, reason)
        else:
            self._journal.done(uid, reason)

    def _written_down(self, run: _Run, uid: str, job: Future[list[Lines]]) -> None:
        """Take results to be published, on the worker's thread."""
        error = job.exception()
        if error is None and self._publisher is not None:
            self._publish(self._publisher, run, uid, job.result())
        elif error is not None:
            self._note(f"the answer for {run.label} could not be written: {sentence(error)}")
            if self._journal is not None:
                self._journal.give_up(uid, sentence(error))
            settle(run.published, error=error)

    def _publish(self, publisher: Publisher, run: _Run, uid: str, results: list[Lines]) -> None:
        """Hand results over to be published, and to the journal."""
        if self._journal is not None:
            new = [lines for lines in results if not self._journal.is_published(uid, lines.uid)]
            if not new:
                settle(run.published, results[-1].uid)
                self._journal.done(uid)
                return
            results = new
        parcels = [Parcel(lines.uid, lines) for lines in results]
        if self._journal is not None:
            self._journal.analysed(uid, results, partial(self._lighten, self._journal, parcels))
        self._send(publisher, _Delivery(uid, run.label, run.published), parcels)

    def _send(self, publisher: Publisher, delivery: _Delivery, parcels: list[Parcel]) -> None:
        delivery.awaited, delivery.last = [parcel.uid for parcel in parcels], parcels[-1].uid
        for parcel in parcels:
            parcel.future.add_done_callback(partial(self._written, delivery, parcel.uid))
        for parcel in parcels:
            publisher.submit(parcel)

    def _lighten(self, journal: Journal, parcels: list[Parcel]) -> None:
        """Let results that are safe on disk go from memory, on the journal's thread."""
        for parcel in parcels:
            if not parcel.future.done():
                parcel.lines = journal.result_path(parcel.uid)

    def _written(self, delivery: _Delivery, result: str, job: Future[str]) -> None:
        """Take the outcome of a result from the publisher."""
        error = job.exception()
        if self._journal is not None:
            if error is None:
                self._journal.published(delivery.uid, result)
            else:
                self._journal.give_up(delivery.uid, sentence(error))
        if error is not None:
            self._note(f"the answer for {delivery.label} could not be written: {sentence(error)}")
        with self._lock:
            delivery.error = delivery.error or error
            delivery.awaited.remove(result)
            is_last = not delivery.awaited
        if is_last:
            settle(delivery.published, delivery.last, delivery.error)

    def _with_journal(self) -> Journal:
        if self._journal is None:
            raise ValueError("there is no journal: give BayesCallback(..., journal='folder') one")
        return self._journal

    def _goes_on(self, uid: str) -> bool:
        """Whether this callback has work in hand for a run."""
        with self._lock:
            run = self._runs.get(uid) or self._unwritten.get(uid)
        return run is not None and not (run.result.done() and run.published.done())

    def _publish_again(self, entry: Entry, timeout: float) -> None:
        """Publish the results of a run that the journal keeps."""
        if self._publisher is None:
            raise ValueError(
                "it is analysed, and there is nowhere to publish: give BayesCallback(..., publish=...) one"
            )
        journal = self._with_journal()
        delivery = _Delivery(entry.uid, entry.label, promise())
        parcels = [Parcel(result, journal.result_path(result)) for result in entry.results]
        self._send(self._publisher, delivery, parcels)
        with self._lock:
            if entry.uid in self._runs:
                self._runs[entry.uid].published = delivery.published
        _outcome(delivery.published, timeout, f"the answer for {entry.label} is not written")

    def _analyse_again(self, documents: list[tuple[str, Document]], timeout: float) -> None:
        for name, document in documents:
            self(name, document)
        uid = documents[0][1]["uid"]
        deadline = time.monotonic() + timeout
        wait([self.future(uid)], timeout)
        self.published(uid, max(0.0, deadline - time.monotonic()))

    def _note(self, trouble: str, expected: bool = False) -> None:
        logger.log(logging.INFO if expected else logging.ERROR, "%s", trouble)
        self._trouble = trouble


@dataclass
class _Run:
    """What is promised for a run."""

    label: str
    answers: tuple[Selection, ...] = ()
    latest: Selection | None = None
    asked: Future[Selection] | None = None
    result: Future[Selection] = field(default_factory=promise)
    published: Future[str | None] = field(default_factory=promise)

    def forget_answers(self) -> None:
        """Let go what takes much memory."""
        self.answers, self.latest, self.result = (), None, promise()
        reason = f"the answer for {self.label} waits to be written and is forgotten here: the last {MOST_KEPT} are kept"
        settle(self.result, error=KeyError(reason))


@dataclass
class _Delivery:
    """Results of a run on their way. It knows no answer, or each would stay in memory as long as this does."""

    uid: str
    label: str
    published: Future[str | None]
    awaited: list[str] = field(default_factory=list)
    last: str = ""
    error: BaseException | None = None


def _outcome(future: Future[T], timeout: float | None, what: str) -> T:
    if not wait([future], timeout).done:
        raise TimeoutError(f"{what} after {timeout:g} s; it may still come")
    return future.result()


def _portable(analysis: Recipe) -> bytes:
    """Pickle the analysis for the worker process; TypeError where that cannot be given it."""
    if not isinstance(analysis, Recipe):
        raise TypeError(
            f"analysis must be an Analysis or a PhaseAnalysis; got {type(analysis).__name__}: what a file holds is "
            "read by bluesky_bayes.analysis.load('recipe.toml')"
        )
    try:
        pickled = pickle.dumps(analysis)
    except Exception as error:
        raise TypeError(f"the worker process cannot be sent this analysis: {error}; use what modules define") from error
    if b"__main__" in pickled:
        raise TypeError(
            "this analysis has a class of its own that is defined in the script or notebook itself, which the worker "
            "process does not run: put it into a module"
        )
    return pickled


def _provenance(analysis: Recipe) -> dict[str, Any]:
    """How to find the analysis again: its digest, and its recipe where a file can hold it."""
    import tomli_w

    try:
        recipe = tomli_w.dumps(analysis.to_table())
    except (TypeError, ValueError):
        recipe = ""
    return {"digest": analysis.digest, "recipe": recipe}
