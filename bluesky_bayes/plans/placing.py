"""Points measured where the models differ most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.dataset import FEWEST_POINTS
from bluesky_bayes.decisions import decide
from bluesky_bayes.evidence import check_probability
from bluesky_bayes.information import NextPoint, evenly, next_points
from bluesky_bayes.plans.records import DECISION, Record, in_run
from bluesky_bayes.plans.waiting import SECONDS_TO_WAIT, too_little, wait_for, wait_for_result
from bluesky_bayes.selection import Selection

ANSWER = {"n_points": "integer", **DECISION, "next_position": "number", "expected_gain": "number"}


def next_best_point(
    selection: Selection,
    positions: npt.ArrayLike,
    bayes: BayesCallback,
    n: int = 1,
    *,
    seed: int = 0,
    timeout: float = SECONDS_TO_WAIT,
) -> MsgGenerator[tuple[NextPoint, ...]]:
    """Choose where to measure next: of these positions the one where the models in question differ most.

    For plans of your own: `bluesky_bayes.information.next_points`, computed in the worker; the RunEngine stays free.

    Parameters
    ----------
    selection : Selection
        The answer so far.
    positions : (n_positions,) array_like
        Where may be measured.
    bayes : BayesCallback
        Whose worker computes it.
    n : int
        How many points.
    seed : int
        Of simulated readings; another one for each choice keeps them independent.
    timeout : float
        Seconds to wait; those of a pause do not count.

    Returns
    -------
    tuple of NextPoint
        Each with its `position` and the information `gain`, in nats, expected from it and those before it.

    Raises
    ------
    ValueError
        For no positions.
    TimeoutError
        When the choice takes too long.
    """
    asked = bayes.submit(next_points, selection, np.asarray(positions, dtype=np.float64), n, seed)
    return (yield from wait_for(asked, bayes, timeout, "choice of the next points"))


def scan_where_models_differ(
    detectors: Sequence[Any],
    motor: Any,
    positions: npt.ArrayLike,
    bayes: BayesCallback,
    *,
    probability: float = 0.95,
    first: int = 16,
    batch: int = 3,
    max_points: int = 200,
    timeout: float = SECONDS_TO_WAIT,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Selection]:
    """Scan a few points evenly, then go where the models in question differ, until one model stands out.

    After each answer the plan chooses the positions whose readings are expected to tell most about which model holds,
    see `next_best_point`. All points belong to one run; each answer is an event of its stream
    ``decisions``, with the next position and the information that is expected from the next points, and what was asked
    for stands in its start document before the first point. Choosing points by earlier ones is fair, as is stopping by
    them, as long as the priors are right and one of the models holds; the points then lie unevenly, so that they are
    worse at showing what no model foresees.

    Parameters
    ----------
    detectors : sequence of ophyd devices
        Of one of them `bayes` analyses a number.
    motor : ophyd device
        The axis that is scanned: x of the analysis.
    positions : (n_positions,) array_like
        Where may be measured; each as often as it is worth it.
    bayes : BayesCallback
        Subscribed to the RunEngine.
    probability : float
        What a model's probability must exceed; it must also be ahead by more than three standard errors of the
        evidence, and no check may speak against it.
    first : int
        Points before the first answer, evenly spread.
    batch : int
        Points from one answer to the next.
    max_points : int
        Points after which the scan ends, decided or not.
    timeout : float
        Seconds to wait for an answer; those of a pause do not count.
    md : mapping, optional
        Metadata of the run.

    Returns
    -------
    Selection
        For all points.

    Raises
    ------
    ValueError
        For a probability that is not between 0 and 1, or numbers of points that cannot be.
    RuntimeError
        When the callback was closed.
    KeyError
        When the callback is not subscribed: nothing was measured then.
    TimeoutError
        When there is no answer in time.
    Exception
        What kept the run from being answered.
    """
    check_probability(probability)
    allowed = np.unique(np.asarray(positions, dtype=np.float64))
    if not FEWEST_POINTS <= first <= max_points or batch < 1 or allowed.size < FEWEST_POINTS:
        raise ValueError(
            f"{FEWEST_POINTS} positions and first points at least are needed, no more first points than max_points, "
            f"and a batch of one or more; got {allowed.size} positions, first={first}, max_points={max_points}, "
            f"batch={batch}"
        )
    fields = list(motor.hints.get("fields", [])) or [motor.name]
    metadata = {
        "plan_name": "scan_where_models_differ",
        "detectors": [detector.name for detector in detectors],
        "motors": [motor.name],
        "hints": {"dimensions": [[fields, bayes.analysis.stream]]},
        **(md or {}),
        "stopping": {"probability": probability, "max_points": max_points, "first": first, "batch": batch},
    }
    record = Record("answer", ANSWER)

    def measure(at: Sequence[float]) -> MsgGenerator[None]:
        for position in sorted(at):
            yield from bps.checkpoint()
            yield from bps.mv(motor, position)
            yield from bps.trigger_and_read([*detectors, motor], name=bayes.analysis.stream)

    def body(uid: str) -> MsgGenerator[str]:
        yield from measure(evenly(allowed, first))
        n = first
        while True:
            wanted = min(batch, max_points - n)
            following = [NextPoint(math.nan, math.nan)]
            try:
                found = yield from wait_for(bayes.so_far(uid), bayes, timeout, f"answer for {n} points")
            except ValueError as error:
                row = {"model": "", "probability": 0.0, "decided": False, "reason": too_little(error)}
                if wanted:
                    following = [NextPoint(at, math.nan) for at in evenly(allowed, wanted, n)]
            else:
                row = vars(decide([found], probability))
                if wanted and not row["decided"]:
                    chosen = yield from next_best_point(found, allowed, bayes, wanted, seed=n, timeout=timeout)
                    following = list(chosen)
            yield from bps.checkpoint()
            yield from record.put({
                **row, "n_points": n, "next_position": following[0].position, "expected_gain": following[-1].gain
            })  # fmt: skip
            if row["decided"] or not wanted:
                return uid
            yield from measure([point.position for point in following])
            n += len(following)

    run = in_run(metadata, bayes, body)
    uid: str = yield from bpp.stage_wrapper(run, [*detectors, motor])  # type: ignore[no-untyped-call]
    return (yield from wait_for_result(bayes, uid, timeout))
