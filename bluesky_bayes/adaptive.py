"""Parts for bluesky-adaptive: which model a run shows as an evaluation, the search for its change as optimizers.

They follow the protocols of ``bluesky_adaptive.protocols`` by shape alone, and need no such package themselves. Its own
``optimize`` evaluates on the RunEngine's thread, which waits for the answer and cannot pause meanwhile:
`bluesky_bayes.plans.optimize` takes the same problem and leaves the RunEngine free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.dataset import Array
from bluesky_bayes.decisions import Decision, ModelChange, Visit, decide, next_position

ID = "_id"
RUN_KEY = "scan at each suggestion"
SECONDS_TO_WAIT = 600.0
STEPS = 400
"""Places of a change that are told apart."""
SURE = 0.95
SUREST = 1.0 - 1e-6
"""What a single answer is taken for at most."""
MOST_AT_ONE_PLACE = 3


class BayesEvaluation:
    """Outcomes of acquired runs: an ``EvaluationFunction``.

    An outcome has ``model`` (the most probable one), its ``probability``, its lead over the next ``log_bayes_factor``,
    whether it is ``decided``, and the ``reason`` in a sentence.

    Parameters
    ----------
    bayes : BayesCallback
        Subscribed to the RunEngine.
    probability : float
        What a model's probability must exceed to be decided.
    timeout : float
        Seconds to wait for an answer.
    """

    def __init__(self, bayes: BayesCallback, probability: float = SURE, timeout: float = SECONDS_TO_WAIT) -> None:
        self.bayes, self._probability, self._timeout = bayes, probability, timeout

    def __call__(self, uid: Any, suggestions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Wait for the answers for one run, or one a suggestion in their order.

        Raises
        ------
        ValueError
            When there are fewer or more runs than suggestions.
        Exception
            What kept a run from being answered, in a sentence.
        """
        uids = [uid] if isinstance(uid, str) else list(uid)
        if len(uids) != len(suggestions):
            raise ValueError(
                f"{len(uids)} runs were made for {len(suggestions)} suggestions and each needs one of its own: acquire "
                "with bluesky_bayes.adaptive.scan_at_each, or one suggestion at a time"
            )
        return [self._outcome(one, suggestion) for one, suggestion in zip(uids, suggestions, strict=True)]

    def _outcome(self, uid: str, suggestion: Mapping[str, Any]) -> dict[str, Any]:
        decision = decide([self.bayes.result(uid, self._timeout)], self._probability)
        return {
            ID: suggestion[ID],
            "model": decision.model,
            "probability": decision.probability,
            "log_bayes_factor": decision.lead,
            "decided": decision.decided,
            "reason": decision.reason,
        }


def scan_at_each(scan: Callable[[], MsgGenerator[Any]]) -> Callable[..., MsgGenerator[Any]]:
    """Make an ``AcquisitionPlan`` that does a scan at each suggestion and gives their runs' uids.

    Parameters
    ----------
    scan : callable
        Gives the plan of one scan, for example ``lambda: scan([det], energy, 7.10, 7.13, 61)``.
    """

    def acquire(
        suggestions: Sequence[Mapping[str, Any]],
        actuators: Sequence[Any],
        sensors: Sequence[Any] | None = None,
        md: Mapping[str, Any] | None = None,
    ) -> MsgGenerator[Any]:
        uids: list[str] = []

        def begun(message: Msg) -> MsgGenerator[Any]:
            uids.append((yield message))
            return uids[-1]

        def watch(message: Msg) -> tuple[Any, Any]:
            return (begun(message), None) if message.command == "open_run" else (None, None)

        lasts = []
        for suggestion in suggestions:
            yield from bps.checkpoint()
            moves = [part for actuator in actuators for part in (actuator, suggestion[actuator.name])]
            yield from bps.mv(*moves)
            plan = bpp.inject_md_wrapper(scan(), dict(md or {}))  # type: ignore[no-untyped-call]
            keyed = bpp.set_run_key_wrapper(plan, RUN_KEY)  # type: ignore[no-untyped-call]
            yield from bpp.plan_mutator(keyed, watch)  # type: ignore[no-untyped-call]
            lasts.append(uids[-1])
        return lasts[0] if len(lasts) == 1 else lasts

    return acquire


class _Search:
    """Suggestions along one axis, one at a time, and what came of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.visits: list[Visit] = []
        self._asked: dict[int, float] = {}
        self._n_asked = 0

    def suggest(self, num_points: int | None = None) -> list[dict[str, Any]]:
        """Where to measure next; one point, since each depends on what the last one showed.

        Raises
        ------
        ValueError
            When several are asked for, or the search is over.
        """
        if num_points not in (None, 1):
            raise ValueError(f"this search suggests one point at a time; got num_points={num_points}")
        position = self._next()
        if position is None:
            raise ValueError(f"the search is over: {self.should_stop()[1]}")
        self._n_asked += 1
        self._asked[self._n_asked] = position
        return [{ID: self._n_asked, self.name: position}]

    def ingest(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Take outcomes in: those of suggestions, or with a position of their own.

        Raises
        ------
        ValueError
            For an outcome that belongs to no suggestion and holds no position.
        """
        for point in points:
            position = self._asked.pop(point.get(ID, 0), point.get(self.name))
            if position is None:
                raise ValueError(
                    f"outcome {point.get(ID)!r} belongs to no suggestion of this search and holds no {self.name!r}"
                )
            lead = float(point.get("log_bayes_factor", math.nan))
            decision = Decision(
                str(point["model"]), float(point["probability"]), bool(point["decided"]),
                str(point.get("reason", "")), lead,
            )  # fmt: skip
            self.visits.append(Visit(float(position), decision))

    def register_failures(self, suggestions: Sequence[Mapping[str, Any]]) -> None:
        """Forget suggestions that could not be measured: they are made again."""
        for suggestion in suggestions:
            self._asked.pop(suggestion[ID], None)

    def _next(self) -> float | None:
        raise NotImplementedError

    def should_stop(self) -> tuple[bool, str]:
        """Whether the search is over, and why or how far it is."""
        raise NotImplementedError


class BisectModelChange(_Search):
    """Where the model changes, by bisection: an ``Optimizer`` that stops by itself.

    Rules are those of `bluesky_bayes.plans.bisect_model_change`.

    Parameters
    ----------
    name : str
        Of the actuator that sets the position.
    low, high : float
        Positions between which the model changes; `high` may be the smaller one.
    tolerance : float
        Width of the bracket that is narrow enough, positive.
    """

    def __init__(self, name: str, low: float, high: float, tolerance: float) -> None:
        if not tolerance > 0 or low == high:
            raise ValueError(
                f"tolerance must be positive, and low and high differ; got tolerance={tolerance:g}, low={low:g}, "
                f"high={high:g}"
            )
        super().__init__(name)
        self._ends, self._tolerance = (low, high), tolerance

    @property
    def change(self) -> ModelChange | None:
        """What was found; None while it goes on."""
        following = self._following()
        return following if isinstance(following, ModelChange) else None

    def get_best_points(self) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
        """The middle of the bracket, with its ends and their models; nothing before it is found."""
        if (change := self.change) is None:
            return []
        found = {"low": change.low, "high": change.high, "below": change.below, "above": change.above}
        return [(None, {self.name: 0.5 * (change.low + change.high)}, {**found, "found": change.found})]

    def should_stop(self) -> tuple[bool, str]:
        """Whether the search is over, and why."""
        change = self.change
        return (change is not None, f"{len(self.visits)} positions measured" if change is None else change.reason)

    def _next(self) -> float | None:
        following = self._following()
        return None if isinstance(following, ModelChange) else following

    def _following(self) -> float | ModelChange:
        if len(self.visits) < 2:
            return self._ends[len(self.visits)]
        return next_position(self.visits, self._tolerance)


class NextTemperature(_Search):
    """Where the model changes, when answers may be unsure: an ``Optimizer`` that stops by itself.

    Each answer counts with the probability that it gave, so that one which is undecided, near to the change, only
    tells less; one that is not to be trusted tells nothing. The next position halves the probability of where the
    change lies: it is what tells most. Where three answers told too little to move on, the search ends and says so.

    Parameters
    ----------
    name : str
        Of the actuator that sets the position.
    low, high : float
        Positions between which the model changes.
    below, above : str
        Models that hold at `low` and at `high`; any other answer tells nothing.
    tolerance : float
        Width of the 95 % interval that is narrow enough, positive.
    """

    def __init__(self, name: str, low: float, high: float, below: str, above: str, tolerance: float) -> None:
        if not tolerance > 0 or low == high:
            raise ValueError(
                f"tolerance must be positive, and low and high differ; got tolerance={tolerance:g}, low={low:g}, "
                f"high={high:g}"
            )
        super().__init__(name)
        self._models, self._tolerance = (below, above), tolerance
        edges = np.linspace(low, high, STEPS + 1)
        self._places: Array = 0.5 * (edges[:-1] + edges[1:])

    @property
    def interval(self) -> tuple[float, float, float]:
        """Median and central 95 % interval of the position of the change."""
        cumulated = np.cumsum(self._probability())
        low, middle, high = (
            float(self._places[np.searchsorted(cumulated, q)]) for q in (0.5 * (1 - SURE), 0.5, 0.5 * (1 + SURE))
        )
        return middle, min(low, high), max(low, high)

    def get_best_points(self) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
        """The median, with the ends of the 95 % interval."""
        middle, low, high = self.interval
        return [(None, {self.name: middle}, {"low": low, "high": high})]

    def should_stop(self) -> tuple[bool, str]:
        """Whether the interval is narrow enough, or answers tell nothing more."""
        middle, low, high = self.interval
        words = f"the model changes at {middle:g}, between {low:g} and {high:g} with 95 % probability"
        stuck = [visit for visit in self.visits if visit.position == middle]
        if high - low > self._tolerance and len(stuck) >= MOST_AT_ONE_PLACE:
            return True, f"{words}; answers at {middle:g} do not narrow it: {stuck[-1].decision.reason}"
        return bool(high - low <= self._tolerance), words

    def _next(self) -> float:
        return self.interval[0]

    def _probability(self) -> Array:
        """Of a change in each step."""
        above = self._models[1]
        score = np.zeros(STEPS)
        direction = np.sign(self._places[-1] - self._places[0])
        for visit in self.visits:
            if visit.decision.model not in self._models:
                continue
            chance = min(max(visit.decision.probability, 0.5), SUREST)
            if chance > SURE and not visit.decision.decided:
                continue
            changed = chance if visit.decision.model == above else 1.0 - chance
            there = direction * (visit.position - self._places) >= 0
            score += np.log(np.where(there, changed, 1.0 - changed))
        p: Array = np.exp(score - score.max())
        p /= p.sum()
        return p
