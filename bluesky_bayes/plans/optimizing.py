"""The loop of bluesky-adaptive with evaluations that leave the RunEngine free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks.backlog import Backlog
from bluesky_bayes.plans.records import Record, in_run, own
from bluesky_bayes.plans.waiting import wait_for

ID = "_id"
STEP = {"iteration": "integer", "suggestion_id": "string", "acquisition_uid": "string", "stop": "boolean",
        "stop_reason": "string"}  # fmt: skip
SECONDS_TO_WAIT = 600.0


def optimize(
    problem: Any,
    iterations: int | None = None,
    n_points: int = 1,
    *,
    timeout: float = SECONDS_TO_WAIT,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Solve an ``OptimizationProblem`` of bluesky-adaptive: suggest, acquire, evaluate, again and again.

    Other than ``bluesky_adaptive.plans.optimize`` it evaluates on a thread of its own, so that the RunEngine can pause
    meanwhile, and every evaluation is on record, the one that stops it too: an event for each suggestion in the
    stream ``decisions`` of a run around those that are acquired.

    Parameters
    ----------
    problem : OptimizationProblem
        Or anything with its attributes.
    iterations : int, optional
        Rounds at most; by default until the optimizer's ``should_stop`` says so.
    n_points : int
        Suggestions a round.
    timeout : float
        Seconds to wait for an evaluation; those of a pause do not count.
    md : mapping, optional
        Metadata of the run around those that are acquired.

    Returns
    -------
    str
        Why it ended.

    Raises
    ------
    ValueError
        For iterations that never end, or outcomes that do not fit the suggestions.
    TimeoutError
        When an evaluation takes too long.
    Exception
        What the evaluation raised. The optimizer's ``register_failures``, if it has one, is told the suggestions.
    """
    optimizer = problem.optimizer
    if iterations is None and not hasattr(optimizer, "should_stop"):
        raise ValueError("this optimizer never stops by itself (it has no should_stop): give iterations")
    if n_points < 1 or (iterations is not None and iterations < 1):
        raise ValueError(f"iterations and n_points must be positive; got {iterations} and {n_points}")
    acquire = problem.acquisition_plan or _default_acquisition()
    metadata = {
        "plan_name": "optimize",
        "motors": [actuator.name for actuator in problem.actuators],
        "detectors": [sensor.name for sensor in problem.sensors or ()],
        **(md or {}),
        "optimization": {
            "optimizer": type(optimizer).__name__, "n_points": n_points,
            **({} if iterations is None else {"iterations": iterations}),
        },
    }  # fmt: skip
    bayes = getattr(problem.evaluation_function, "bayes", None)
    evaluations = Backlog("evaluations", 1)

    def body(_: str) -> MsgGenerator[_Ended]:
        i, record = 0, _Steps()
        while True:
            yield from bps.checkpoint()
            suggestions = optimizer.suggest(n_points)
            try:
                uid = yield from acquire(suggestions, problem.actuators, problem.sensors)
                asked = evaluations.submit(lambda: problem.evaluation_function(uid, suggestions))  # noqa: B023
                outcomes = yield from wait_for(asked, bayes, timeout, f"evaluation of round {i + 1}")
                matched = _matched(suggestions, outcomes)
            except Exception:
                if hasattr(optimizer, "register_failures"):
                    optimizer.register_failures(suggestions)
                raise
            optimizer.ingest(outcomes)
            i += 1
            stop, reason = optimizer.should_stop() if hasattr(optimizer, "should_stop") else (False, None)
            if not stop and i == iterations:
                stop, reason = True, f"{i} rounds are done" + (f"; {reason}" if reason else "")
            for suggestion, outcome in matched:
                yield from bps.checkpoint()
                row = {"iteration": i, "acquisition_uid": _words(uid), "stop": stop, "stop_reason": reason or ""}
                yield from own(record.put(suggestion, outcome, row))
            if stop:
                return _Ended(reason or "the optimizer says so")

    try:
        ended: _Ended = yield from in_run(metadata, bayes, body, own)
    finally:
        evaluations.close(0.0)
    return ended.reason


class _Ended:
    """Why it ended."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Steps:
    """Events whose fields are those of the first suggestion and outcome."""

    def __init__(self) -> None:
        self._record: Record | None = None

    def put(
        self, suggestion: Mapping[str, Any], outcome: Mapping[str, Any], row: Mapping[str, Any]
    ) -> MsgGenerator[None]:
        """Write an event."""
        values = {name: _plain(value) for name, value in {**suggestion, **outcome}.items() if name != ID}
        if self._record is None:
            kinds = {name: _kind(value) for name, value in values.items() if name not in STEP}
            self._record = Record("step", {**STEP, **kinds})
        yield from self._record.put({**values, **row, "suggestion_id": str(suggestion[ID])})


def _matched(
    suggestions: Sequence[Mapping[str, Any]], outcomes: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Suggestions with their outcomes."""
    found = {outcome.get(ID): outcome for outcome in outcomes}
    asked = [suggestion.get(ID) for suggestion in suggestions]
    if len(found) != len(outcomes) or set(found) != set(asked) or len(set(asked)) != len(asked):
        raise ValueError(
            f"the evaluation must give one outcome for each suggestion, with its {ID!r}: suggested were {asked}, "
            f"outcomes are there for {[outcome.get(ID) for outcome in outcomes]}"
        )
    return [(suggestion, found[suggestion[ID]]) for suggestion in suggestions]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    return value if isinstance(value, bool | int | float | str) else repr(value)


def _kind(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (str, "string")):
        if isinstance(value, kind):
            return name
    return "number"


def _words(uid: Any) -> str:
    return uid if isinstance(uid, str) else ",".join(map(str, uid)) if isinstance(uid, list | tuple) else repr(uid)


def _default_acquisition() -> Any:
    try:
        from bluesky_adaptive.plans import default_acquire
    except ImportError as error:
        raise ModuleNotFoundError(
            "this problem names no acquisition_plan, and that of bluesky-adaptive is not installed: give one, or "
            "pip install 'bluesky-bayes[adaptive]'"
        ) from error
    return default_acquire
