"""Waiting for answers: the RunEngine stays free to pause, and a plan can always be aborted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, ensure_generator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks.runs import NothingToAnalyseError
from bluesky_bayes.selection import Selection

T = TypeVar("T")

SECONDS_TO_WAIT = 60.0
SECONDS_TO_HEAR, TRIES = 1.0, 10
"""How long a start document may be on its way to the callback."""
SLICE = 0.5
"""Seconds after which a plan that waits asks whether a deferred pause was asked for."""


class Stopwatch:
    """Seconds of work: what a pause takes does not count, since the RunEngine begins a step anew after it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def begin(self) -> MsgGenerator[None]:
        """Begin a step, where the plan may be paused."""
        yield from bps.checkpoint()
        yield from bps.wait_for([self._begin])

    def end(self) -> None:
        """End the step."""
        self.seconds += time.monotonic() - self._begun

    async def _begin(self) -> None:
        self._begun = time.monotonic()


def wait_for_result(bayes: BayesCallback, uid: str, timeout: float = SECONDS_TO_WAIT) -> MsgGenerator[Selection]:
    """Wait for a run's answer without blocking the RunEngine.

    Parameters
    ----------
    bayes : BayesCallback
        Subscribed to the RunEngine when the run began.
    uid : str
        Of the run's start document.
    timeout : float
        Seconds; those of a pause do not count.

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
    return (yield from wait_for(bayes.future(uid), bayes, timeout, f"answer for run {uid[:8]}"))


def wait_for(future: Future[T], bayes: BayesCallback | None, timeout: float, what: str) -> MsgGenerator[T]:
    """Wait for anything that the callback promised; `what` names it in the sentence of a `TimeoutError`."""

    def late() -> str:
        return f"there is no {what} after {timeout:g} s" + ("" if bayes is None else f": {bayes.status()}")

    return (yield from wait_until_done(future, timeout, late))


def wait_until_done(future: Future[T], timeout: float, late: Callable[[], str]) -> MsgGenerator[T]:
    """Wait for a future for so many seconds of work; ``late()`` gives the sentence of a `TimeoutError`."""
    waited = 0.0

    async def wait() -> None:
        nonlocal waited
        begun = time.monotonic()
        try:
            wrapped = asyncio.wrap_future(future)
            wrapped.add_done_callback(_seen)
            # Neither a timeout nor an abort cancels what `asyncio.wait` waits for.
            await asyncio.wait([wrapped], timeout=max(0.0, min(SLICE, timeout - waited)))
        finally:
            waited += time.monotonic() - begun

    # After a pause the message is given up and answered with None: ask the future, not the answer.
    while not future.done():
        if waited >= timeout:
            raise TimeoutError(late())
        yield from bps.checkpoint()
        yield from bps.wait_for([wait])
    return future.result()


def _seen(future: asyncio.Future[Any]) -> None:
    """Look at an error, so that asyncio does not complain: the plan raises it."""
    if not future.cancelled():
        future.exception()


def analysed(plan: Iterable[Msg], bayes: BayesCallback, timeout: float = SECONDS_TO_WAIT) -> MsgGenerator[Selection]:
    """Do a plan and wait for the answer for its run; for the last to begin, if it makes several.

    A callback that does not hear the run ends the plan when the run begins, before anything is measured.

    Parameters
    ----------
    plan : generator or iterable of Msg
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
        When the callback was closed, or the plan made no run.
    KeyError
        When the callback is not subscribed.
    Exception
        As `wait_for_result`.
    """
    uids: list[str] = []

    def begun(message: Msg) -> MsgGenerator[Any]:
        uid = yield message
        yield from hear(bayes, uid)
        uids.append(uid)
        return uid

    def watch(message: Msg) -> tuple[Any, Any]:
        return (begun(message), None) if message.command == "open_run" else (None, None)

    check_open(bayes)
    if not isinstance(plan, Iterable):
        raise TypeError(f"analysed takes a plan that was called, as analysed(scan(...), bayes); got {plan!r}")
    yield from bpp.plan_mutator(ensure_generator(plan), watch)  # type: ignore[no-untyped-call]
    if not uids:
        raise RuntimeError("the plan made no run, so there is nothing to analyse")
    return (yield from wait_for_result(bayes, uids[-1], timeout))


def hear(bayes: BayesCallback, uid: str) -> MsgGenerator[None]:
    """Raise KeyError unless the callback hears a run that was just opened, at once or soon through a network."""
    for _ in range(TRIES):
        try:
            bayes.future(uid)
        except KeyError:
            yield from bps.sleep(SECONDS_TO_HEAR / TRIES)
        else:
            return
    bayes.future(uid)


def check_open(bayes: BayesCallback) -> None:
    """Raise unless the callback can hear a run."""
    if bayes.closed:
        raise RuntimeError(
            "this callback was closed and hears nothing more: make a new BayesCallback and subscribe it "
            "(RE.subscribe(bayes))"
        )


def check_scan(scan: Callable[[], MsgGenerator[Any]]) -> None:
    """Raise unless there is a new plan for each scan; a plan itself can be done but once."""
    if not callable(scan):
        raise TypeError(
            f"scan must give a new plan each time, as lambda: scan(...); got {scan!r}, which can be done once"
        )


def too_little(error: BaseException) -> str:
    """The sentence of an error that more data may cure; any other is raised."""
    if isinstance(error, NothingToAnalyseError) or not isinstance(error, ValueError):
        raise error
    return str(error)
