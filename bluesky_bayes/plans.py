"""Plans that wait for answers: the RunEngine stays free to pause, and a plan can always be aborted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.decisions import ModelChange, Visit, decide, next_position
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
    record = _Record()

    def visit(position: float) -> MsgGenerator[None]:
        yield from bps.mv(motor, position)
        visits.append((yield from _visit(scan, position, bayes, probability, repeats, timeout)))
        record.visit = visits[-1]
        yield from _own(bps.trigger_and_read([record], name="decisions"))

    def search() -> MsgGenerator[ModelChange]:
        for end in (low, high):
            yield from visit(end)
        while not isinstance(following := next_position(visits, tolerance), ModelChange):
            yield from visit(following)
        return following

    def failed(error: Exception) -> MsgGenerator[None]:
        status = getattr(error, "exit_status", "fail")  # of an abort, a stop or a halt
        yield from _own(bps.close_run(exit_status=status, reason=str(error)))

    yield from _own(bps.open_run(metadata))
    change: ModelChange = yield from bpp.contingency_wrapper(search(), except_plan=failed)  # type: ignore[no-untyped-call]
    yield from _own(bps.close_run(reason=change.reason))
    return change


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
    """A visit as a readable device."""

    name, parent = "decision", None
    visit: Visit

    def read(self) -> dict[str, Any]:
        """Values of the visit at hand."""
        decision = self.visit.decision
        values = {
            "position": self.visit.position,
            "model": decision.model,
            "probability": decision.probability,
            "decided": decision.decided,
            "reason": decision.reason,
            "raw_uids": ",".join(self.visit.uids),
        }
        return {name: {"value": value, "timestamp": time.time()} for name, value in values.items()}

    def describe(self) -> dict[str, Any]:
        """Kinds of the values."""
        kinds = {
            "position": "number", "model": "string", "probability": "number", "decided": "boolean", "reason": "string",
            "raw_uids": "string",
        }  # fmt: skip
        return {name: {"source": "bluesky_bayes", "dtype": kind, "shape": []} for name, kind in kinds.items()}

    def read_configuration(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        """Nothing."""
        return {}
