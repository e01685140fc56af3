"""Plans that wait for answers: the RunEngine stays free to pause, and a plan can always be aborted."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
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
