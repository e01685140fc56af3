"""Plans that wait for answers: the RunEngine stays free to pause, and a plan can always be aborted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks.bayes import sentence
from bluesky_bayes.decisions import ModelChange, Visit, decide, next_position, seconds_left
from bluesky_bayes.selection import Selection

SECONDS_TO_WAIT = 60.0


def wait_for_result(bayes: BayesCallback, uid: str, timeout: float = SECONDS_TO_WAIT) -> MsgGenerator[Selection]:
    """Wait for a run's answer without blocking the RunEngine.

    Parameters
    ----------
    bayes : BayesCallback
        Subscribed to the RunEngine when the run began.
    uid : str
        Of the run's start document.
    timeout : float
        Seconds.

    Returns
    -------
    Selection

    Raises
    ------
    KeyError
        When the callback has not heard the run.
    TimeoutError
        When there is no answer in time; it may still come.
    Exception
        What kept the run from being answered, in a sentence.
    """
    future = bayes.future(uid)
    deadline = time.monotonic() + timeout

    async def wait() -> None:
        # Neither a timeout nor an abort cancels what `asyncio.wait` waits for.
        await asyncio.wait([asyncio.wrap_future(future)], timeout=max(0.0, deadline - time.monotonic()))

    # After a pause the message is given up and answered with None: ask the future, not the answer.
    while not future.done():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"there is no answer for run {uid[:8]} after {timeout:g} s: {bayes.status()}")
        yield from bps.wait_for([wait])
    return future.result()


def analysed(
    plan: MsgGenerator[Any], bayes: BayesCallback, timeout: float = SECONDS_TO_WAIT
) -> MsgGenerator[Selection]:
    """Do a plan and wait for the answer for its run; for the last to begin, if it makes several.

    Parameters
    ----------
    plan : generator
        Any plan that makes a run: ``scan([det], motor, -3, 3, 301)``.
    bayes : BayesCallback
        Subscribed to the RunEngine.
    timeout : float
        Seconds to wait after the plan is done.

    Returns
    -------
    Selection

    Raises
    ------
    RuntimeError
        When the plan made no run.
    Exception
        As `wait_for_result`.
    """
    uids: list[str] = []
    subscriptions = {"start": [lambda _, doc: uids.append(doc["uid"])]}
    yield from bpp.subs_wrapper(plan, subscriptions)  # type: ignore[no-untyped-call]
    if not uids:
        raise RuntimeError("the plan made no run, so there is nothing to analyse")
    return (yield from wait_for_result(bayes, uids[-1], timeout))


def bisect_model_change(
    scan: Callable[[], MsgGenerator[Any]],
    motor: Any,
    low: float,
    high: float,
    tolerance: float,
    bayes: BayesCallback,
    *,
    probability: float = 0.95,
    repeats: int = 3,
    timeout: float = SECONDS_TO_WAIT,
) -> MsgGenerator[ModelChange]:
    """Find where the model changes: scan at both ends, then always in the middle of what is left.

    It takes ``2 + log2((high - low) / tolerance)`` positions. A run of its own, with one event a position, says what
    was found and decided; the asked-for probability, tolerance and repeats stand in its start document before the first
    scan.

    Parameters
    ----------
    scan : callable
        Gives the plan of one scan, for example ``lambda: scan([det], energy, 7.10, 7.13, 61)``.
    motor : ophyd device
        What is varied between scans: a temperature, a field.
    low, high : float
        Where to begin. The models must differ there.
    tolerance : float
        Width of the bracket that is narrow enough, positive.
    bayes : BayesCallback
        Subscribed to the RunEngine.
    probability : float
        What a model's probability must exceed.
    repeats : int
        Scans at one position before it is called undecided; their evidence adds up.
    timeout : float
        Seconds to wait for an answer after each scan.

    Returns
    -------
    ModelChange
        `found` is False, with the reason, where the ends do not differ or a position stays undecided.

    Raises
    ------
    ValueError
        For a tolerance or repeats that are not positive, or ends that are the same.
    """
    if not tolerance > 0 or repeats < 1 or low == high:
        raise ValueError(
            f"tolerance and repeats must be positive, and low and high differ; got tolerance={tolerance:g}, "
            f"repeats={repeats}, low={low:g}, high={high:g}"
        )
    metadata = {
        "plan_name": "bisect_model_change",
        "motors": [motor.name],
        "bisection": {"low": low, "high": high, "tolerance": tolerance, "probability": probability, "repeats": repeats},
    }
    visits: list[Visit] = []
    record = _Record("visit", VISIT)

    def visit(position: float) -> MsgGenerator[None]:
        yield from bps.mv(motor, position)
        found = yield from _visit(scan, position, bayes, probability, repeats, timeout)
        visits.append(found)
        record.values = {**asdict(found.decision), "position": position, "raw_uids": ",".join(found.uids)}
        yield from _own(bps.trigger_and_read([record], name="decisions"))

    def search() -> MsgGenerator[ModelChange]:
        for end in (low, high):
            yield from visit(end)
        while not isinstance(following := next_position(visits, tolerance), ModelChange):
            yield from visit(following)
        return following

    yield from _own(bps.open_run(metadata))
    change: ModelChange = yield from bpp.contingency_wrapper(  # type: ignore[no-untyped-call]
        search(), except_plan=lambda error: _own(_failed(error))
    )
    yield from _own(bps.close_run(reason=change.reason))
    return change


def count_until_decisive(
    detectors: Sequence[Any],
    bayes: BayesCallback,
    *,
    probability: float = 0.95,
    max_time: float = 600.0,
    timeout: float = SECONDS_TO_WAIT,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Selection]:
    """Count again and again until one model stands out, and no longer.

    Counting goes on while the counts up to then are analysed. Each answer is an event of the stream ``decisions`` of
    the same run, with the predicted time left; `probability` and `max_time` stand in the start document before the
    first count. Stopping when a probability is reached is fair: of the runs that stop at 95 %, no more than one in
    twenty is wrong, as long as the priors are right.

    Parameters
    ----------
    detectors : sequence of ophyd devices
        One of them gives the patterns that `bayes` analyses.
    bayes : BayesCallback
        Subscribed to the RunEngine; its analysis adds a run's patterns up.
    probability : float
        What a model's probability must exceed; it must also be ahead by more than three standard errors of the
        evidence, and no check may speak against it.
    max_time : float
        Seconds after which counting ends, decided or not.
    timeout : float
        Seconds to wait for the answer for the whole run, after it has ended.
    md : mapping, optional
        Metadata of the run.

    Returns
    -------
    Selection
        For all counts.

    Raises
    ------
    ValueError
        For a probability that is not between 0 and 1, a time that is not positive, or an analysis of single patterns.
    """
    if not (0 < probability < 1 and max_time > 0):
        raise ValueError(
            f"probability must lie between 0 and 1 and max_time be positive; got {probability:g} and {max_time:g}"
        )
    if bayes.analysis.patterns == "each":
        raise ValueError("this callback analyses single patterns; count with one whose analysis adds them up")
    metadata = {
        "plan_name": "count_until_decisive",
        "detectors": [detector.name for detector in detectors],
        "hints": {"dimensions": [[["time"], bayes.analysis.stream]]},
        **(md or {}),
        "stopping": {"probability": probability, "max_time": max_time},
    }
    uids: list[str] = []

    def counting() -> MsgGenerator[None]:
        yield from _counting(detectors, bayes, uids[0], probability, max_time)

    def run() -> MsgGenerator[None]:
        uids.append((yield from bps.open_run(metadata)))
        yield from bpp.contingency_wrapper(counting(), except_plan=_failed)  # type: ignore[no-untyped-call]
        yield from bps.close_run()

    yield from bpp.stage_wrapper(run(), detectors)  # type: ignore[no-untyped-call]
    return (yield from wait_for_result(bayes, uids[0], timeout))


def _counting(
    detectors: Sequence[Any], bayes: BayesCallback, uid: str, probability: float, max_time: float
) -> MsgGenerator[None]:
    """Count until an answer is decisive or time is up."""
    begun, n_counts, record = time.monotonic(), 0, _Record("answer", ANSWER)
    asked: Future[Selection] | None = None
    asked_at = (0.0, 0)
    while time.monotonic() - begun < max_time:
        yield from bps.trigger_and_read(detectors, name=bayes.analysis.stream)
        n_counts += 1
        if asked is not None and asked.done():
            error = asked.exception()
            found = None if error else asked.result()
            record.values = _answer_row(found, sentence(error) if error else "", probability, *asked_at)
            yield from bps.trigger_and_read([record], name="decisions")
            if record.values["decided"]:
                return
            asked = None
        if asked is None:
            asked, asked_at = bayes.so_far(uid), (time.monotonic() - begun, n_counts)


def _answer_row(
    selection: Selection | None, error: str, probability: float, seconds: float, n_counts: int
) -> dict[str, Any]:
    """An answer so far, or why there is none yet."""
    row = {"n_counts": n_counts, "seconds": seconds}
    if selection is None:
        return {**row, "model": "", "probability": 0.0, "decided": False, "seconds_left": math.nan, "reason": error}
    decision = decide([selection], probability)
    left = 0.0 if decision.decided else seconds_left(selection, probability, seconds)
    return {
        **row,
        "model": decision.model,
        "probability": decision.probability,
        "decided": decision.decided,
        "seconds_left": left,
        "reason": decision.reason,
    }


def _failed(error: Exception) -> MsgGenerator[None]:
    """Close the run of a plan that was ended."""
    yield from bps.close_run(exit_status=getattr(error, "exit_status", "fail"), reason=str(error) or None)


def _visit(
    scan: Callable[[], MsgGenerator[Any]],
    position: float,
    bayes: BayesCallback,
    probability: float,
    repeats: int,
    timeout: float,
) -> MsgGenerator[Visit]:
    """Scan at one position until its model is decided."""
    selections: list[Selection] = []
    while True:
        selections.append((yield from analysed(scan(), bayes, timeout)))
        decision = decide(selections, probability)
        if decision.decided or len(selections) == repeats:
            return Visit(position, decision, tuple(s.data.origin.run_uid for s in selections))


def _own(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    """Give messages to the run of the decisions, not to that of a scan inside it."""
    return (yield from bpp.set_run_key_wrapper(plan, "bluesky_bayes decisions"))  # type: ignore[no-untyped-call]


class _Record:
    """A decision as a readable device."""

    parent = None

    def __init__(self, name: str, kinds: Mapping[str, str]) -> None:
        self.name, self._kinds = name, kinds
        self.values: Mapping[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Values of the decision at hand."""
        return {name: {"value": self.values[name], "timestamp": time.time()} for name in self._kinds}

    def describe(self) -> dict[str, Any]:
        """Kinds of the values."""
        return {name: {"source": "bluesky_bayes", "dtype": kind, "shape": []} for name, kind in self._kinds.items()}

    def read_configuration(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        """Nothing."""
        return {}


DECISION = {"model": "string", "probability": "number", "decided": "boolean", "reason": "string"}
VISIT = {"position": "number", **DECISION, "raw_uids": "string"}
ANSWER = {"n_counts": "integer", "seconds": "number", **DECISION, "seconds_left": "number"}
