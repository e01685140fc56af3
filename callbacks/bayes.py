"""The callback: hears documents, has each run analysed in another process, and publishes the answers."""

from __future__ import annotations

import atexit
import itertools
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeAlias, TypeVar

from bluesky_bayes.analysis import Analysis
from bluesky_bayes.callbacks.backlog import NotDoneError
from bluesky_bayes.callbacks.publish import Publisher
from bluesky_bayes.callbacks.runs import (
    Document,
    NothingToAnalyseError,
    RunCollector,
    dataset_of,
    datasets_of,
    label_of,
)
from bluesky_bayes.callbacks.worker import Worker, WorkerDiedError
from bluesky_bayes.candidates import Candidates
from bluesky_bayes.documents import failure_documents, selection_documents
from bluesky_bayes.selection import Selection

logger = logging.getLogger("bluesky_bayes")
T = TypeVar("T")
Outcome: TypeAlias = tuple[Selection | Exception, tuple[int, ...]]
"""An answer or what kept it, and the events that hold its data."""
Documents: TypeAlias = Callable[[], Iterable[tuple[str, dict[str, Any]]]]

MOST_KEPT = 100
MOST_OPEN = 20
SECONDS_TO_ANALYSE = 600.0
SECONDS_TO_CLOSE = 30.0
SECONDS_AT_EXIT = 10.0


class BayesCallback:
    """Model selection for every run it hears: ``RE.subscribe(BayesCallback(analysis))``.

    It only collects and hands over. The analysis is done in a process of its own, publishing on a thread of its own,
    and nothing that goes wrong there or here reaches the RunEngine. The same object may hear a live RunEngine, a
    remote dispatcher or old runs: ``for name, doc in run.documents(): bayes(name, doc)``.

    Runs that carry ``original_run_uid`` are results of an analysis and left alone. A run that is repeated is not
    analysed again unless something failed the first time. The last `MOST_KEPT` runs are remembered.

    Parameters
    ----------
    analysis : Analysis
        What to take out of each run and what to ask of it.
    publish : optional
        Where answers go, each as a run of its own: a Tiled container client, a databroker ``Broker`` or
        a callable ``(name, document)``.
    time_limit : float
        Seconds after which an analysis is taken to hang; it is then begun once more in a new process.

    Raises
    ------
    TypeError
        When `analysis` cannot be sent to another process, or nothing can be published to `publish`.
    """

    def __init__(self, analysis: Analysis, publish: Any = None, time_limit: float = SECONDS_TO_ANALYSE) -> None:
        _check_portable(analysis)
        self.analysis = analysis
        self._provenance = _provenance(analysis)
        self._publisher = None if publish is None else Publisher(publish)
        self._worker = Worker(partial(prepare, analysis.candidates), time_limit)
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._open: dict[str, RunCollector] = {}
        self._descriptors: dict[str, str] = {}
        self._last: Selection | None = None
        self._trouble = ""
        self._closed = False
        atexit.register(self.close, SECONDS_AT_EXIT)

    def __call__(self, name: str, doc: Document) -> None:
        """Hear a document. Never raises and never waits."""
        try:
            with self._lock:
                self._hear(name, doc)
        except Exception:
            logger.exception("a %s document could not be taken in; acquisition goes on", name)

    @property
    def last(self) -> Selection | None:
        """The latest answer."""
        return self._last

    @property
    def closed(self) -> bool:
        """Whether it hears nothing more."""
        return self._closed

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

        Raises
        ------
        KeyError
            When no such run goes on.
        """
        with self._lock:
            if uid not in self._open:
                raise KeyError(f"run {uid!r} does not go on, or was not heard: subscribe the callback before it begins")
            collected = pickle.dumps(self._open[uid])  # now, since the run goes on while the job waits
        return self._worker.submit(answer_so_far, self.analysis, collected)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have ``function(*arguments)`` computed in the worker process, after what waits there.

        All three must be picklable: ``bayes.submit(bayes.analysis, data)`` answers for data that no single run gave.
        The future carries what the function raised, or that the process died over it.
        """
        return self._worker.submit(function, *arguments)

    def published(self, uid: str, timeout: float | None = None) -> str | None:
        """Wait for the uid of the run that holds a run's answer, None where there is nothing to publish.

        Raises
        ------
        KeyError
            When no such run was heard.
        TimeoutError
            When it is not written after `timeout` seconds.
        Exception
            What kept the answer from being written. It is still there: see `result`.
        """
        return _outcome(self._run(uid).published, timeout, f"the answer for run {uid[:8]} is not written")

    def status(self) -> str:
        """Say what it is doing, what it answered last and what went wrong, in a few words."""
        with self._lock:
            runs = list(self._runs.values())
            n_open, last, trouble = len(self._open), self._last, self._trouble
        asked = sum(not run.result.done() for run in runs) - n_open
        unwritten = sum(run.result.done() and not run.published.done() for run in runs)
        text = f"runs open: {n_open}, in analysis: {asked}, answers to be written: {unwritten}"
        if last is not None:
            text += f"; last answer: {last.verdict}"
        if trouble:
            text += f"; last trouble: {trouble}"
        return f"closed: {text}" if self._closed else text

    def close(self, timeout: float = SECONDS_TO_CLOSE) -> None:
        """Hear nothing more, let analyses and publishing finish for up to `timeout` seconds, give up the rest."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for uid in list(self._open):
                self._give_up(uid, NotDoneError("given up: the callback was closed before the run ended"))
        deadline = time.monotonic() + timeout
        self._worker.close(timeout)
        if self._publisher is not None:
            self._publisher.close(max(0.0, deadline - time.monotonic()))
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        """Enter a context that closes it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def _run(self, uid: str) -> _Run:
        with self._lock:
            if uid not in self._runs:
                raise KeyError(
                    f"run {uid!r} was not heard: subscribe the callback before the run begins (RE.subscribe(bayes)); "
                    f"the last {MOST_KEPT} runs are remembered"
                )
            return self._runs[uid]

    def _hear(self, name: str, doc: Document) -> None:
        if self._closed:
            return
        if name == "start":
            self._begin(doc)
        elif name == "bulk_events":
            for event in itertools.chain.from_iterable(doc.values()):
                self._hear("event", event)
        elif (uid := self._run_of(name, doc)) in self._open:
            try:
                self._collect(uid, name, doc)
            except Exception as error:
                self._give_up(uid, error)

    def _run_of(self, name: str, doc: Document) -> str:
        """Find the run a document belongs to; empty for documents that are not needed."""
        if name in ("event", "event_page"):
            return self._descriptors.get(doc["descriptor"], "")
        return str(doc["run_start"]) if name in ("descriptor", "stop") else ""

    def _begin(self, start: Document) -> None:
        uid = start["uid"]
        if "original_run_uid" in start or uid in self._open or self._is_answered(uid):
            return
        if len(self._open) >= MOST_OPEN:
            self._give_up(
                next(iter(self._open)), NotDoneError(f"given up: it never stopped while {MOST_OPEN} others began")
            )
        self._make_room()
        self._runs[uid] = _Run(label_of(start))
        self._open[uid] = RunCollector(self.analysis.stream)
        self._open[uid]("start", dict(start))

    def _is_answered(self, uid: str) -> bool:
        """Tell whether a run has an answer or is being analysed; what failed may be tried again."""
        if uid not in self._runs:
            return False
        promises = (self._runs[uid].result, self._runs[uid].published)
        return not any(promise.done() and promise.exception() for promise in promises)

    def _make_room(self) -> None:
        """Forget the oldest runs beyond those that are kept."""
        done = [uid for uid, run in self._runs.items() if run.result.done() and run.published.done()]
        for uid in done[: max(0, len(self._runs) + 1 - MOST_KEPT)]:
            del self._runs[uid]

    def _collect(self, uid: str, name: str, doc: Document) -> None:
        collector = self._open[uid]
        collector(name, dict(doc))
        if name == "descriptor":
            self._descriptors[doc["uid"]] = uid
        elif name == "stop":
            self._end(uid)
            job = self._worker.submit(answer, self.analysis, collector)
            job.add_done_callback(partial(self._answered, self._runs[uid], collector))

    def _end(self, uid: str) -> None:
        """Listen no more to a run."""
        del self._open[uid]
        self._descriptors = {descriptor: run for descriptor, run in self._descriptors.items() if run != uid}

    def _give_up(self, uid: str, error: Exception) -> None:
        run = self._runs[uid]
        self._end(uid)
        self._note(f"{run.label} is not analysed: {sentence(error)}")
        run.result.set_exception(error)
        run.published.set_result(None)

    def _answered(self, run: _Run, collector: RunCollector, job: Future[list[Outcome]]) -> None:
        """Take an outcome from the worker, on the worker's thread."""
        error = job.exception()
        outcomes: list[Outcome] = [(error, ())] if isinstance(error, Exception) else job.result()
        analysis = {**self._provenance, "raw_exit_status": collector.stop_document.get("exit_status", "")}
        documents = [
            made for outcome in outcomes if (made := self._documents(run, collector.start_document, analysis, outcome))
        ]
        run.answers = tuple(found for found, _ in outcomes if isinstance(found, Selection))
        if run.answers:
            self._last = run.answers[-1]
            run.result.set_result(self._last)
        else:
            run.result.set_exception(next(found for found, _ in outcomes if isinstance(found, Exception)))
        if not documents or self._publisher is None:
            run.published.set_result(None)
        else:
            jobs = [self._publisher.submit(made) for made in documents]
            jobs[-1].add_done_callback(lambda last: self._written(run, jobs))

    def _documents(self, run: _Run, start: Document, analysis: dict[str, Any], outcome: Outcome) -> Documents | None:
        """What is to be published of an outcome; what went wrong is noted."""
        found, events = outcome
        if isinstance(found, Selection):
            return partial(selection_documents, found, start, analysis)
        which = f"event {events[0]} of {run.label}" if events else run.label
        self._note(f"{which} has no answer: {sentence(found)}", expected=isinstance(found, NothingToAnalyseError))
        if isinstance(found, NothingToAnalyseError | NotDoneError):
            return None
        noted = {**analysis, "events": list(events)} if events else analysis
        return partial(failure_documents, start, noted, sentence(found))

    def _written(self, run: _Run, jobs: list[Future[str]]) -> None:
        """Take outcomes from the publisher, on the publisher's thread, when it has done the last."""
        if errors := [error for job in jobs if (error := job.exception())]:
            self._note(f"the answer for {run.label} could not be written: {sentence(errors[0])}")
            run.published.set_exception(errors[0])
        else:
            run.published.set_result(jobs[-1].result())

    def _note(self, trouble: str, expected: bool = False) -> None:
        logger.log(logging.INFO if expected else logging.ERROR, "%s", trouble)
        self._trouble = trouble


def _promise() -> Future[Any]:
    """Make a future that cannot be cancelled by who waits for it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass
class _Run:
    """What is promised for a run."""

    label: str
    answers: tuple[Selection, ...] = ()
    result: Future[Selection] = field(default_factory=_promise)
    published: Future[str | None] = field(default_factory=_promise)


def prepare(candidates: Candidates) -> None:
    """Make the worker process ready: wide vectors, then the kernels that these candidates need."""
    from bluesky_bayes.inference import warm_up
    from bluesky_bayes.kernels.build import use_widest_vectors

    use_widest_vectors()
    warm_up(candidates)


def answer(analysis: Analysis, collector: RunCollector) -> list[Outcome]:
    """Analyse the data sets of one run, in the worker process; one that cannot be analysed does not end the rest."""
    data = datasets_of(collector.collected(), analysis)
    if len(data) == 1:
        return [(analysis(data[0]), data[0].origin.events)]
    outcomes: list[Outcome] = []
    for each in data:
        try:
            outcomes.append((analysis(each), each.origin.events))
        except ValueError as error:
            outcomes.append((error, each.origin.events))
    return outcomes


def answer_so_far(analysis: Analysis, collected: bytes) -> Selection:
    """Analyse the last data set of a run that goes on, in the worker process."""
    collector: RunCollector = pickle.loads(collected)
    return analysis(dataset_of(collector.collected(), analysis))


def sentence(error: BaseException) -> str:
    """Give what an exception says, with its kind where it was not written as a sentence."""
    return (
        str(error)
        if isinstance(error, ValueError | NotDoneError | WorkerDiedError)
        else f"{type(error).__name__}: {error}"
    )


def _outcome(future: Future[T], timeout: float | None, what: str) -> T:
    if not wait([future], timeout).done:
        raise TimeoutError(f"{what} after {timeout:g} s; it may still come")
    return future.result()


def _check_portable(analysis: Analysis) -> None:
    """Raise TypeError unless the worker process can be given the analysis."""
    try:
        payload = pickle.dumps(analysis)
    except Exception as error:
        raise TypeError(f"the worker process cannot be sent this analysis: {error}; use what modules define") from error
    if b"__main__" in payload:
        raise TypeError(
            "this analysis has a class of its own that is defined in the script or notebook itself, which the worker "
            "process does not run: put it into a module"
        )


def _provenance(analysis: Analysis) -> dict[str, Any]:
    """How to find the analysis again: its digest, and its recipe where a file can hold it."""
    import tomli_w

    try:
        recipe = tomli_w.dumps(analysis.to_table())
    except (TypeError, ValueError):
        recipe = ""
    return {"digest": analysis.digest, "recipe": recipe}
