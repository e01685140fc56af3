"""Counting until one model stands out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.decisions import decide, seconds_left
from bluesky_bayes.evidence import check_probability
from bluesky_bayes.plans.records import DECISION, Record, in_run
from bluesky_bayes.plans.waiting import SECONDS_TO_WAIT, Stopwatch, too_little, wait_for_result
from bluesky_bayes.selection import Selection

RESERVE, COUNTS_RESERVED = 0.05, 2.0
"""Room that is left in a run: a share of all, for counts that have not been taken in yet, and that of some counts."""
FULL = "counting ended after {} counts: the run has nearly as many numbers as can be kept in memory"
ANSWER = {"n_counts": "integer", "seconds": "number", **DECISION, "seconds_left": "number"}


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
        Seconds after which counting ends, decided or not; those of a pause do not count. It ends as well before the run
        has more numbers than can be analysed (two million; an array that every count repeats, as angles, is kept once).
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
    RuntimeError
        When the callback was closed.
    KeyError
        When the callback is not subscribed: nothing was counted then.
    """
    check_probability(probability)
    if not max_time > 0:
        raise ValueError(f"max_time must be positive; got {max_time:g} s")
    if bayes.analysis.patterns == "each":
        raise ValueError("this callback analyses single patterns; count with one whose analysis adds them up")
    metadata = {
        "plan_name": "count_until_decisive",
        "detectors": [detector.name for detector in detectors],
        "hints": {"dimensions": [[["time"], bayes.analysis.stream]]},
        **(md or {}),
        "stopping": {"probability": probability, "max_time": max_time},
    }

    def counting(uid: str) -> MsgGenerator[str]:
        yield from _counting(detectors, bayes, uid, probability, max_time)
        return uid

    run = in_run(metadata, bayes, counting)
    uid: str = yield from bpp.stage_wrapper(run, detectors)  # type: ignore[no-untyped-call]
    return (yield from wait_for_result(bayes, uid, timeout))


def _counting(
    detectors: Sequence[Any], bayes: BayesCallback, uid: str, probability: float, max_time: float
) -> MsgGenerator[None]:
    """Count until an answer is decisive, time is up, or the run has nearly as many numbers as are kept of one."""
    watch, n_counts, record = Stopwatch(), 0, Record("answer", ANSWER)
    asked: Future[Selection] | None = None
    asked_at = (0.0, 0)
    while watch.seconds < max_time:
        yield from watch.begin()
        yield from bps.trigger_and_read(detectors, name=bayes.analysis.stream)
        watch.end()
        n_counts += 1
        if asked is not None and asked.done():
            error = asked.exception()
            found = None if error else asked.result()
            row = _answer_row(found, too_little(error) if error else "", probability, *asked_at)
            yield from bps.checkpoint()
            yield from record.put(row)
            if row["decided"]:
                return
            asked = None
        room = bayes.room(uid)
        if room < RESERVE + COUNTS_RESERVED * (1.0 - room) / n_counts:
            yield from bps.checkpoint()
            yield from record.put(_answer_row(None, FULL.format(n_counts), probability, watch.seconds, n_counts))
            return
        if asked is None:
            asked, asked_at = bayes.so_far(uid), (watch.seconds, n_counts)


def _answer_row(
    selection: Selection | None, error: str, probability: float, seconds: float, n_counts: int
) -> dict[str, Any]:
    """An answer so far, or why there is none yet."""
    row = {"n_counts": n_counts, "seconds": seconds}
    if selection is None:
        return {**row, "model": "", "probability": 0.0, "decided": False, "seconds_left": math.nan, "reason": error}
    decision = decide([selection], probability)
    return {**row, **vars(decision), "seconds_left": seconds_left(decision, probability, seconds)}
