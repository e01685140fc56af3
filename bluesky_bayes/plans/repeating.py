"""Scans repeated until one model stands out, at one place or in search of where the model changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.decisions import (
    ModelChange,
    Repeats,
    Visit,
    check_joinable,
    decide,
    joined,
    next_position,
    seconds_left,
)
from bluesky_bayes.evidence import check_probability
from bluesky_bayes.plans.records import DECISION, Record, in_run, own
from bluesky_bayes.plans.waiting import (
    SECONDS_TO_WAIT,
    Stopwatch,
    analysed,
    check_scan,
    wait_for,
)
from bluesky_bayes.selection import Selection

VISIT = {"position": "number", **DECISION, "raw_uids": "string"}
REPEAT = {"n_scans": "integer", "seconds": "number", **DECISION, "seconds_left": "number", "raw_uids": "string"}


def scan_until_decisive(
    scan: Callable[[], MsgGenerator[Any]],
    bayes: BayesCallback,
    *,
    probability: float = 0.95,
    max_repeats: int = 10,
    max_time: float = 3600.0,
    timeout: float = SECONDS_TO_WAIT,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Repeats]:
    """Repeat a scan until one model stands out, and no longer.

    The points of all scans are analysed together, each scan by itself, and both are weighed, see
    `bluesky_bayes.decisions.decide`: a sample that drifts from scan to scan is not forced into one curve. A run around
    the scans has an event for each in the stream ``decisions``, with the predicted time left; what was asked for
    stands in its start document before the first scan.

    Parameters
    ----------
    scan : callable
        Gives the plan of one scan, for example ``lambda: scan([det], energy, 7.10, 7.13, 61)``.
    bayes : BayesCallback
        Subscribed to the RunEngine.
    probability : float
        What a model's probability must exceed; it must also be ahead by more than three standard errors of the
        evidence, and no check may speak against it.
    max_repeats : int
        Scans at most.
    max_time : float
        Seconds after which no scan begins; analyses count, a pause does not.
    timeout : float
        Seconds to wait for an answer after each scan.
    md : mapping, optional
        Metadata of the run around the scans.

    Returns
    -------
    Repeats

    Raises
    ------
    ValueError
        For a probability that is not between 0 and 1, or repeats or a time that are not positive.
    TypeError
        When `scan` is a plan, and not what gives one.
    RuntimeError
        When the callback was closed.
    KeyError
        When the callback is not subscribed: nothing was scanned then.
    Exception
        What kept a scan from being answered.
    """
    check_probability(probability)
    check_scan(scan)
    if max_repeats < 1 or not max_time > 0:
        raise ValueError(
            f"max_repeats and max_time must be positive; got max_repeats={max_repeats}, max_time={max_time:g}"
        )
    check_joinable(bayes.analysis.noise)
    metadata = {
        "plan_name": "scan_until_decisive",
        **(md or {}),
        "stopping": {"probability": probability, "max_repeats": max_repeats, "max_time": max_time},
    }
    watch, record = Stopwatch(), Record("repeat", REPEAT)

    def note(found: Repeats) -> MsgGenerator[bool]:
        row = {
            **vars(found.decision),
            "n_scans": len(found.uids),
            "seconds": watch.seconds,
            "seconds_left": seconds_left(found.decision, probability, watch.seconds),
            "raw_uids": ",".join(found.uids),
        }
        yield from own(record.put(row))
        return watch.seconds < max_time

    def body(uid: str) -> MsgGenerator[Repeats]:
        return (yield from _repeated(scan, bayes, probability, max_repeats, timeout, watch, note))

    return (yield from in_run(metadata, bayes, body, own))


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
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[ModelChange]:
    """Find where the model changes: scan at both ends, then always in the middle of what is left.

    Where a position stays undecided, as happens near to the change, the bracket is narrowed from both sides of it. Else
    it takes ``2 + log2((high - low) / tolerance)`` positions. A run of its own, with one event a position, says what
    was found and decided; the asked-for probability, tolerance and repeats stand in its start document before the first
    scan.

    Parameters
    ----------
    scan : callable
        Gives the plan of one scan, for example ``lambda: scan([det], energy, 7.10, 7.13, 61)``.
    motor : ophyd device
        What the model depends on: a temperature, a field.
    low, high : float
        Positions between which the model changes; `high` may be the smaller one, to go downwards.
    tolerance : float
        Width of the bracket that is narrow enough, positive.
    bayes : BayesCallback
        Subscribed to the RunEngine.
    probability : float
        What a model's probability must exceed.
    repeats : int
        Scans at one position before it is called undecided; they are put together as in `scan_until_decisive`.
    timeout : float
        Seconds to wait for an answer after each scan.
    md : mapping, optional
        Metadata of the run around the scans.

    Returns
    -------
    ModelChange
        `found` is False, with the reason, where the ends do not differ, an end is undecided, or a position between
        them is: the bracket then is around it.

    Raises
    ------
    ValueError
        For a tolerance or repeats that are not positive, ends that are the same, or a probability that is not between
        0 and 1.
    TypeError
        When `scan` is a plan, and not what gives one.
    RuntimeError
        When the callback was closed.
    KeyError
        When the callback is not subscribed: nothing was scanned then.
    Exception
        What kept a scan from being answered.
    """
    if not tolerance > 0 or repeats < 1 or low == high:
        raise ValueError(
            f"tolerance and repeats must be positive, and low and high differ; got tolerance={tolerance:g}, "
            f"repeats={repeats}, low={low:g}, high={high:g}"
        )
    check_probability(probability)
    check_scan(scan)
    if repeats > 1:
        check_joinable(bayes.analysis.noise)
    metadata = {
        "plan_name": "bisect_model_change",
        "motors": [motor.name],
        **(md or {}),
        "bisection": {"low": low, "high": high, "tolerance": tolerance, "probability": probability, "repeats": repeats},
    }
    visits: list[Visit] = []
    record = Record("visit", VISIT)

    def visit(position: float) -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from bps.mv(motor, position)
        found = yield from _repeated(scan, bayes, probability, repeats, timeout, Stopwatch(), _go_on)
        visits.append(Visit(position, found.decision, found.uids))
        yield from bps.checkpoint()
        row = {**vars(found.decision), "position": position, "raw_uids": ",".join(found.uids)}
        yield from own(record.put(row))

    def search(uid: str) -> MsgGenerator[ModelChange]:
        for end in (low, high):
            yield from visit(end)
        while not isinstance(following := next_position(visits, tolerance), ModelChange):
            yield from visit(following)
        return following

    return (yield from in_run(metadata, bayes, search, own))


def _go_on(found: Repeats) -> MsgGenerator[bool]:
    """Repeat until decided."""
    yield from bps.null()
    return True


def _repeated(
    scan: Callable[[], MsgGenerator[Any]],
    bayes: BayesCallback,
    probability: float,
    repeats: int,
    timeout: float,
    watch: Stopwatch,
    note: Callable[[Repeats], MsgGenerator[bool]],
) -> MsgGenerator[Repeats]:
    """Scan until one model is decided, `repeats` scans are done, or `note`, told of each scan, says to end."""
    selections: list[Selection] = []
    together: Selection | None = None
    while True:
        yield from watch.begin()
        selections.append((yield from analysed(scan(), bayes, timeout)))
        if len(selections) > 1:
            asked = bayes.submit(bayes.analysis, joined([selection.data for selection in selections]))
            together = yield from wait_for(asked, bayes, timeout, f"answer for {len(selections)} scans together")
        watch.end()
        decision = decide(selections, probability, together)
        uids = tuple(selection.data.origin.run_uid for selection in selections)
        found = Repeats(decision, together or selections[0], tuple(selections), uids)
        yield from bps.checkpoint()
        go_on = yield from note(found)
        if decision.decided or len(selections) == repeats or not go_on:
            return found
