"""Adapters stand the test of the real bluesky-adaptive, and its loop leaves the RunEngine free."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fakes
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from ophyd.sim import SynAxis

from bluesky_bayes.adaptive import BayesEvaluation, BisectModelChange, NextTemperature, scan_at_each
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.plans import optimize
from bluesky_bayes.simulated import detector

adaptive = pytest.importorskip("bluesky_adaptive", reason="bluesky-adaptive is not installed")
protocols = pytest.importorskip("bluesky_adaptive.protocols")

SECONDS = 30.0
CHANGE = 6.3


@pytest.fixture(scope="module")
def engine() -> Any:
    return RunEngine({}, call_returns_result=True)


@pytest.fixture(scope="module")
def judge(engine: Any) -> Iterator[BayesCallback]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prepare", fakes.unprepared)
        with BayesCallback(fakes.Threshold()) as callback:
            token = engine.subscribe(callback)
            yield callback
            engine.unsubscribe(token)


class Stage:
    """A temperature and a detector that changes at 6.3 K."""

    def __init__(self, engine: Any) -> None:
        self.temperature, self.motor = SynAxis(name="temperature"), SynAxis(name="motor")
        self.switch = detector(
            self.motor, "switch", lambda x: (self.temperature.position > CHANGE) + 0.0 * x, noise=0.01
        )
        self.heard: list[tuple[str, Any]] = []
        self.token = engine.subscribe(lambda name, doc: self.heard.append((name, dict(doc))))

    def scan(self) -> Any:
        return bp.scan([self.switch], self.motor, 0.0, 1.0, 4)

    def all(self, kind: str) -> list[Any]:
        return [doc for name, doc in self.heard if name == kind]

    def problem(self, optimizer: Any, evaluation: Callable[..., Any], **options: Any) -> Any:
        given = {"acquisition_plan": scan_at_each(self.scan), **options}
        return protocols.OptimizationProblem(optimizer, [self.temperature], [], evaluation, **given)


@pytest.fixture
def stage(engine: Any) -> Iterator[Stage]:
    made = Stage(engine)
    yield made
    engine.unsubscribe(made.token)


def bisection() -> BisectModelChange:
    return BisectModelChange("temperature", 0.0, 16.0, 0.5)


def next_temperature(tolerance: float = 1.0) -> NextTemperature:
    return NextTemperature("temperature", 0.0, 16.0, "1 peak", "2 peaks", tolerance)


def test_the_adapters_have_the_shape_that_the_protocols_ask_for(judge: BayesCallback, stage: Stage) -> None:
    for optimizer in (bisection(), next_temperature()):
        assert isinstance(optimizer, protocols.Optimizer)
        assert isinstance(optimizer, protocols.SupportsStoppingCriteria)
        assert isinstance(optimizer, protocols.TrialFaultAware)
    assert isinstance(BayesEvaluation(judge), protocols.EvaluationFunction)
    assert isinstance(scan_at_each(stage.scan), protocols.AcquisitionPlan)


@pytest.mark.parametrize("plan", [optimize, adaptive.optimize], ids=["ours", "theirs"])
def test_a_change_of_model_is_found_in_either_loop(engine: Any, judge: BayesCallback, stage: Stage, plan: Any) -> None:
    optimizer = bisection()
    engine(plan(stage.problem(optimizer, BayesEvaluation(judge, timeout=SECONDS)), iterations=None))
    ((_, point, found),) = optimizer.get_best_points()
    assert found["found"]
    assert found["low"] <= CHANGE <= found["high"] <= found["low"] + 0.5
    assert point["temperature"] == 0.5 * (found["low"] + found["high"])
    assert (found["below"], found["above"]) == ("1 peak", "2 peaks")


def test_every_evaluation_is_on_record_and_the_one_that_stops_says_why(
    engine: Any, judge: BayesCallback, stage: Stage
) -> None:
    optimizer = bisection()
    plan = optimize(stage.problem(optimizer, BayesEvaluation(judge, timeout=SECONDS)), md={"sample": "ferrihydrite"})
    reason = engine(plan).plan_result
    outer, *inner = stage.all("start")
    assert (outer["plan_name"], outer["sample"]) == ("optimize", "ferrihydrite")
    assert outer["optimization"] == {"optimizer": "BisectModelChange", "n_points": 1}
    (uid,) = [doc["uid"] for doc in stage.all("descriptor") if doc["name"] == "decisions"]
    rows = [doc["data"] for doc in stage.all("event") if doc["descriptor"] == uid]
    assert [row["temperature"] for row in rows] == [visit.position for visit in optimizer.visits]
    assert [row["acquisition_uid"] for row in rows] == [doc["uid"] for doc in inner]
    assert [row["stop"] for row in rows] == [False] * 6 + [True]
    assert rows[-1]["stop_reason"] == reason == optimizer.should_stop()[1]
    assert rows[0]["reason"].startswith("1 peak (p = ")
    (end,) = [doc for doc in stage.all("stop") if doc["run_start"] == outer["uid"]]
    assert (end["exit_status"], end["reason"]) == ("success", reason)


def test_an_evaluation_is_done_off_the_thread_of_the_engine(engine: Any, stage: Stage) -> None:
    seen: list[str] = []

    def evaluate(uid: Any, suggestions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        seen.append(threading.current_thread().name)
        return [{"_id": s["_id"], "model": "1 peak", "probability": 0.99, "decided": True} for s in suggestions]

    engine(optimize(stage.problem(bisection(), evaluate), iterations=1))
    assert seen == ["bluesky_bayes evaluations"]


def test_the_package_s_own_acquisition_is_used_where_a_problem_names_none(engine: Any, stage: Stage) -> None:
    class Anything:
        """No stopping, two points a round."""

        def __init__(self) -> None:
            self.told: list[Any] = []

        def suggest(self, num_points: int | None = None) -> list[dict[str, Any]]:
            return [{"_id": f"{len(self.told)}.{i}", "temperature": float(i)} for i in range(num_points or 1)]

        def ingest(self, points: Sequence[Mapping[str, Any]]) -> None:
            self.told.extend(points)

    def evaluate(uid: str, suggestions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"_id": s["_id"], "flux": 2.5, "note": None} for s in reversed(suggestions)]

    optimizer = Anything()
    problem = stage.problem(optimizer, evaluate, acquisition_plan=None)
    with pytest.raises(ValueError, match="never stops by itself"):
        next(optimize(problem))
    reason = engine(optimize(problem, iterations=2, n_points=2)).plan_result
    assert reason == "2 rounds are done"
    assert len(optimizer.told) == 4


def test_what_an_evaluation_raises_ends_the_plan_and_frees_the_suggestion(engine: Any, stage: Stage) -> None:
    def broken(uid: str, suggestions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        raise OSError("the disk is full")

    optimizer = bisection()
    with pytest.raises(OSError, match="the disk is full"):
        engine(optimize(stage.problem(optimizer, broken)))
    (again,) = optimizer.suggest()
    assert again["temperature"] == 0.0
    end = stage.all("stop")[-1]
    assert (end["exit_status"], end["reason"]) == ("fail", "the disk is full")


def test_outcomes_that_fit_no_suggestion_are_refused_in_words(engine: Any, stage: Stage) -> None:
    with pytest.raises(ValueError, match="must give one outcome for each suggestion"):
        engine(optimize(stage.problem(bisection(), lambda uid, suggestions: []), iterations=1))


def outcome(suggestion: Mapping[str, Any], model: str, probability: float = 0.999, **more: Any) -> dict[str, Any]:
    return {"_id": suggestion["_id"], "model": model, "probability": probability, "decided": True, **more}


@pytest.mark.parametrize("change", [1.0, 6.3, 15.0])
@pytest.mark.parametrize("ends", [(0.0, 16.0), (16.0, 0.0)])
def test_the_next_temperature_halves_what_is_left(change: float, ends: tuple[float, float]) -> None:
    below, above = ("cold", "warm") if ends[0] < ends[1] else ("warm", "cold")
    search = NextTemperature("temperature", *ends, below, above, 0.5)
    while not search.should_stop()[0]:
        (suggestion,) = search.suggest(1)
        search.ingest([outcome(suggestion, "cold" if suggestion["temperature"] < change else "warm")])
    assert len(search.visits) <= 8
    middle, low, high = search.interval
    assert low - 0.1 <= change <= high + 0.1
    assert abs(middle - change) < 0.5


def test_an_unsure_answer_tells_less_and_one_not_to_be_trusted_nothing() -> None:
    sure, unsure, warned = (next_temperature() for _ in range(3))
    for search, told in ((sure, 0.999), (unsure, 0.8), (warned, 0.999)):
        (suggestion,) = search.suggest()
        search.ingest([outcome(suggestion, "1 peak", told, decided=search is sure, reason="it does not fit")])
    widths = [search.interval[2] - search.interval[1] for search in (sure, unsure, warned)]
    assert widths[0] < widths[1] < widths[2]
    assert sure.interval[0] > unsure.interval[0] > warned.interval[0]


def test_a_search_that_learns_nothing_ends_and_says_why() -> None:
    search = next_temperature()
    for _ in range(3):
        assert not search.should_stop()[0]
        (suggestion,) = search.suggest()
        search.ingest([outcome(suggestion, "1 peak", decided=False, reason="it does not fit")])
    stop, reason = search.should_stop()
    assert stop
    assert "answers at 7.98" in reason
    assert reason.endswith("it does not fit")


def test_searches_go_one_point_at_a_time_and_refuse_what_they_do_not_know() -> None:
    search = bisection()
    with pytest.raises(ValueError, match="one point at a time"):
        search.suggest(2)
    with pytest.raises(ValueError, match="belongs to no suggestion"):
        search.ingest([{"_id": 7, "model": "1 peak", "probability": 1.0, "decided": True}])
    search.ingest([{"temperature": at, "model": "A", "probability": 1.0, "decided": True} for at in (0.0, 16.0)])
    assert search.should_stop() == (True, "A holds at 0 and at 16: nothing changes")
    with pytest.raises(ValueError, match="the search is over: A holds"):
        search.suggest()
    for wrong in ({"tolerance": 0.0}, {"high": 0.0}):
        options = {"low": 0.0, "high": 1.0, "tolerance": 0.1, **wrong}
        with pytest.raises(ValueError, match="tolerance must be positive"):
            BisectModelChange("temperature", **options)
        with pytest.raises(ValueError, match="tolerance must be positive"):
            NextTemperature("temperature", below="A", above="B", **options)


def test_an_evaluation_needs_a_run_for_each_suggestion(judge: BayesCallback) -> None:
    with pytest.raises(ValueError, match="1 runs were made for 2 suggestions"):
        BayesEvaluation(judge)("uid", [{"_id": 1}, {"_id": 2}])
