"""Plans wait for answers and stay under the user's control: pause, resume, abort, stop and time-outs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import fakes
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky.utils import RequestAbort, RequestStop, RunEngineInterrupted
from ophyd import Kind
from ophyd.sim import SynAxis, SynSignal

from bluesky_bayes import Selection
from bluesky_bayes.callbacks import BayesCallback, collector
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.runs import NothingToAnalyseError
from bluesky_bayes.plans import (
    analysed,
    bisect_model_change,
    count_until_decisive,
    next_best_point,
    scan_until_decisive,
    scan_where_models_differ,
    wait_for_result,
)
from bluesky_bayes.simulated import detector, spectrum

SECONDS = 30.0


@pytest.fixture(scope="module")
def engine() -> Any:
    return RunEngine({}, call_returns_result=True)


@pytest.fixture(scope="module")
def slow() -> Iterator[BayesCallback]:
    """Takes half a second over each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prepare", fakes.unprepared)
        with BayesCallback(fakes.Slow(seconds=0.5)) as callback:
            yield callback


@pytest.fixture
def bayes(engine: Any, slow: BayesCallback) -> Iterator[BayesCallback]:
    token = engine.subscribe(slow)
    yield slow
    engine.unsubscribe(token)


def scan(num: int = 5, **metadata: Any) -> Any:
    motor = SynAxis(name="motor")
    return bp.scan([spectrum(motor)], motor, 1.0, 2.0, num, md=metadata)


def returned(engine: Any, plan: Any) -> Any:
    """What a plan returns."""
    return engine(plan).plan_result


def test_a_plan_gets_the_answer_for_its_run(engine: Any, bayes: BayesCallback) -> None:
    selection = returned(engine, analysed(scan(num=7), bayes))
    assert isinstance(selection, Selection)
    assert selection.data.n == 7
    assert (selection.data.origin.x, selection.data.origin.y) == ("motor", "spectrum")


def test_a_plan_decides_from_one_answer_what_to_do_next(engine: Any, bayes: BayesCallback) -> None:
    def until_two_runs() -> Any:
        sizes = []
        for num in (5, 6):
            selection = yield from analysed(scan(num=num), bayes)
            sizes.append(selection.data.n)
        return sizes

    assert returned(engine, until_two_runs()) == [5, 6]


def test_the_answer_is_for_the_last_run_of_a_plan_that_returns_nothing(engine: Any, bayes: BayesCallback) -> None:
    def two_runs() -> Any:
        yield from scan(num=5)
        yield from scan(num=6)

    assert returned(engine, analysed(two_runs(), bayes)).data.n == 6


def test_a_plan_may_be_a_list_of_messages(engine: Any, bayes: BayesCallback) -> None:
    assert returned(engine, analysed(list(scan(num=6)), bayes)).data.n == 6


def test_a_plan_without_a_run_is_an_error_that_says_so(engine: Any, bayes: BayesCallback) -> None:
    with pytest.raises(RuntimeError, match="the plan made no run"):
        engine(analysed(bps.null(), bayes))


def test_a_callback_that_is_not_subscribed_is_an_error_that_says_so(engine: Any, slow: BayesCallback) -> None:
    with pytest.raises(KeyError, match=r"RE.subscribe\(bayes\)"):
        engine(analysed(scan(), slow))


def test_an_analysis_that_fails_is_raised_in_the_plan(engine: Any, bayes: BayesCallback) -> None:
    def plan() -> Any:
        try:
            yield from analysed(bp.count([spectrum(SynAxis(name="motor"))], 3), bayes)
        except NothingToAnalyseError as error:
            return str(error)

    assert "nothing was scanned" in returned(engine, plan())


def test_an_answer_that_comes_too_late_is_a_time_out_in_a_sentence(engine: Any, bayes: BayesCallback) -> None:
    with pytest.raises(TimeoutError, match=r"no answer for run .* after 0.05 s: runs open: 0, in analysis: 1"):
        engine(analysed(scan(), bayes, timeout=0.05))


def test_an_answer_that_is_there_costs_no_waiting(engine: Any, bayes: BayesCallback) -> None:
    (uid,) = engine(scan()).run_start_uids
    expected = bayes.result(uid, SECONDS)
    assert list(wait_for_result(bayes, uid, timeout=0.0)) == []
    assert returned(engine, wait_for_result(bayes, uid, timeout=0.0)) is expected


def test_the_engine_is_free_while_a_plan_waits(engine: Any, bayes: BayesCallback) -> None:
    ticks: list[float] = []

    def tick() -> None:
        for _ in range(20):
            called = threading.Event()
            engine.loop.call_soon_threadsafe(called.set)
            begin = time.monotonic()
            called.wait(SECONDS)
            ticks.append(time.monotonic() - begin)
            time.sleep(0.02)

    thread = threading.Thread(target=tick)

    def plan() -> Any:
        uid = yield from scan()
        thread.start()
        yield from wait_for_result(bayes, uid)

    engine(plan())
    thread.join()
    assert max(ticks) < 0.4  # the analysis takes half a second


def interrupted(engine: Any, plan: Any) -> None:
    """Do a plan that is paused a moment after it begins to wait."""

    def request_pause() -> None:
        time.sleep(0.1)
        engine.request_pause(defer=False)

    def pausing() -> Any:
        threading.Thread(target=request_pause).start()
        yield from bps.checkpoint()
        return (yield from plan)

    with pytest.raises(RunEngineInterrupted):
        engine(pausing())
    assert engine.state == "paused"


def waiting(engine: Any, bayes: BayesCallback, outcome: list[Any]) -> Any:
    """Make a plan that waits for the run just made and keeps what became of its waiting."""
    (uid,) = engine(scan()).run_start_uids

    def plan() -> Any:
        try:
            outcome.append((yield from wait_for_result(bayes, uid)))
        except BaseException as error:
            outcome.append(error)
            raise

    return plan()


def test_a_plan_that_is_paused_while_it_waits_gets_its_answer(engine: Any, bayes: BayesCallback) -> None:
    outcome: list[Any] = []
    interrupted(engine, waiting(engine, bayes, outcome))
    engine.resume()
    assert isinstance(outcome[0], Selection)


def test_a_plan_that_is_paused_beyond_the_answer_gets_it_at_once(engine: Any, bayes: BayesCallback) -> None:
    outcome: list[Any] = []
    interrupted(engine, waiting(engine, bayes, outcome))
    time.sleep(0.8)
    engine.resume()
    assert isinstance(outcome[0], Selection)


@pytest.mark.parametrize(("how", "seen"), [("abort", RequestAbort), ("stop", RequestStop)])
def test_a_plan_can_be_ended_while_it_waits_and_the_answer_still_comes(
    engine: Any, bayes: BayesCallback, how: str, seen: type
) -> None:
    outcome: list[Any] = []
    interrupted(engine, waiting(engine, bayes, outcome))
    getattr(engine, how)()
    assert isinstance(outcome[0], seen)
    assert engine.state == "idle"
    uid = next(reversed(bayes._runs))
    assert bayes.result(uid, SECONDS)
    assert isinstance(returned(engine, analysed(scan(), bayes)), Selection)


def test_an_aborted_scan_leaves_nothing_subscribed(engine: Any, bayes: BayesCallback) -> None:
    def failing() -> Any:
        yield from bps.open_run()
        raise RuntimeError("the beam is gone")

    def subscribed() -> int:
        return sum(map(len, engine.dispatcher.cb_registry.callbacks.values()))

    before = subscribed()
    with pytest.raises(RuntimeError, match="the beam is gone"):
        engine(analysed(failing(), bayes))
    assert subscribed() == before > 0


class Stage:
    """A temperature, a detector that reads 0 below 6.3 K and 1 above, and everything that was heard."""

    def __init__(self, engine: Any) -> None:
        self.temperature, self.motor = SynAxis(name="temperature"), SynAxis(name="motor")
        self.switch = detector(self.motor, "switch", lambda x: (self.temperature.position > 6.3) + 0.0 * x, noise=0.01)
        self.heard: list[tuple[str, Any]] = []
        self.token = engine.subscribe(lambda name, doc: self.heard.append((name, dict(doc))))

    def scan(self) -> Any:
        return bp.scan([self.switch], self.motor, 0.0, 1.0, 4)

    def all(self, kind: str) -> list[Any]:
        return [doc for name, doc in self.heard if name == kind]

    def decisions(self) -> list[Any]:
        (uid,) = [doc["uid"] for doc in self.all("descriptor") if doc["name"] == "decisions"]
        return [doc["data"] for doc in self.all("event") if doc["descriptor"] == uid]


@pytest.fixture
def stage(engine: Any) -> Iterator[Stage]:
    made = Stage(engine)
    yield made
    engine.unsubscribe(made.token)


@pytest.fixture
def judge(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., BayesCallback]]:
    """Callbacks that tell models apart by a threshold."""
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    with ExitStack() as stack:

        def make(doubt: float = 0.0) -> BayesCallback:
            callback = stack.enter_context(BayesCallback(fakes.Threshold(doubt=doubt)))
            stack.callback(engine.unsubscribe, engine.subscribe(callback))
            return callback

        yield make


def test_a_change_of_model_is_bracketed_in_log2_steps_and_the_decisions_are_on_record(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback]
) -> None:
    plan = bisect_model_change(stage.scan, stage.temperature, 0.0, 16.0, 0.5, judge(), timeout=SECONDS)
    change = returned(engine, plan)
    assert change.found
    assert change.low <= 6.3 < change.high <= change.low + 0.5
    assert (change.below, change.above) == ("1 peak", "2 peaks")
    assert len(change.visits) == 2 + 5
    outer, *inner = stage.all("start")
    assert outer["plan_name"] == "bisect_model_change"
    assert outer["bisection"] == {"low": 0.0, "high": 16.0, "tolerance": 0.5, "probability": 0.95, "repeats": 3}
    trace = stage.decisions()
    assert [row["position"] for row in trace] == [visit.position for visit in change.visits]
    assert [row["raw_uids"] for row in trace] == [doc["uid"] for doc in inner]
    (end,) = [doc for doc in stage.all("stop") if doc["run_start"] == outer["uid"]]
    assert (end["exit_status"], end["reason"]) == ("success", change.reason)


def test_scans_are_repeated_where_one_does_not_decide(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback]
) -> None:
    plan = bisect_model_change(stage.scan, stage.temperature, 0.0, 16.0, 8.0, judge(doubt=0.9), timeout=SECONDS)
    change = returned(engine, plan)
    assert change.found
    assert [len(visit.uids) for visit in change.visits] == [2, 2, 2]  # 2 nats a scan; 3 are needed for p > 0.95


def test_a_position_that_stays_undecided_ends_the_search_in_words(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback]
) -> None:
    plan = bisect_model_change(
        stage.scan, stage.temperature, 0.0, 16.0, 0.5, judge(doubt=0.99), repeats=2, timeout=SECONDS
    )
    change = returned(engine, plan)
    assert not change.found
    assert change.reason.startswith("undecided at 0: 1 peak (p = ")
    assert len(stage.all("start")) == 1 + 4


def test_an_aborted_search_closes_its_run_and_says_so(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback]
) -> None:
    bayes = judge()

    def impatient() -> Any:
        yield from bps.null()
        raise RequestAbort("enough")

    plan = bisect_model_change(impatient, stage.temperature, 0.0, 16.0, 0.5, bayes, timeout=SECONDS)
    engine(plan)
    (end,) = stage.all("stop")
    assert (end["exit_status"], end["reason"]) == ("abort", "enough")


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"repeats": 0}, {"high": 0.0}])
def test_a_search_that_cannot_end_is_refused_before_it_begins(engine: Any, stage: Stage, wrong: dict[str, Any]) -> None:
    options = {"low": 0.0, "high": 1.0, "tolerance": 0.1, **wrong}
    with pytest.raises(ValueError, match="must be positive, and low and high differ"):
        engine(bisect_model_change(stage.scan, stage.temperature, bayes=None, **options))  # type: ignore[arg-type]
    assert not stage.heard


def test_a_scan_is_repeated_until_it_is_decided_and_each_decision_is_on_record(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback]
) -> None:
    plan = scan_until_decisive(stage.scan, judge(doubt=0.9), timeout=SECONDS, md={"sample": "hematite"})
    found = returned(engine, plan)
    # 2 nats after one scan, 4 for the points of two together; p > 0.95 of three models takes 3.6.
    assert found.decision.decided
    assert found.decision.model == "1 peak"
    assert (found.together.data.n, [single.data.n for single in found.singles]) == (8, [4, 4])
    outer, *inner = stage.all("start")
    assert (outer["plan_name"], outer["sample"]) == ("scan_until_decisive", "hematite")
    assert outer["stopping"] == {"probability": 0.95, "max_repeats": 10, "max_time": 3600.0}
    assert stage.heard[0] == ("start", outer)
    first, last = stage.decisions()
    assert (first["n_scans"], first["decided"], last["n_scans"], last["decided"]) == (1, False, 2, True)
    assert first["seconds_left"] > 0 == last["seconds_left"]
    assert last["raw_uids"] == ",".join(doc["uid"] for doc in inner)
    (end,) = [doc for doc in stage.all("stop") if doc["run_start"] == outer["uid"]]
    assert (end["exit_status"], end["reason"]) == ("success", found.reason)


@pytest.mark.parametrize("limit", [{"max_repeats": 2}, {"max_time": 1e-6}])
def test_scans_end_undecided_when_it_is_enough(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback], limit: dict[str, Any]
) -> None:
    found = returned(engine, scan_until_decisive(stage.scan, judge(doubt=0.99), timeout=SECONDS, **limit))
    assert not found.decision.decided
    assert "not probable enough" in found.reason
    assert len(found.uids) == limit.get("max_repeats", 1)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"probability": 1.0}, "probability must lie between 0 and 1"),
    ({"max_repeats": 0}, "max_repeats and max_time must be positive"),
])  # fmt: skip
def test_repeating_that_cannot_end_well_is_refused(
    stage: Stage, judge: Callable[..., BayesCallback], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        next(scan_until_decisive(stage.scan, judge(), **options))


def test_a_plan_that_was_called_is_told_from_one_that_was_not(engine: Any, stage: Stage, bayes: BayesCallback) -> None:
    called: Any = stage.scan()
    with pytest.raises(TypeError, match=r"scan must give a new plan each time, as lambda: scan\(...\)"):
        engine(scan_until_decisive(called, bayes))
    with pytest.raises(TypeError, match=r"scan must give a new plan each time, as lambda: scan\(...\)"):
        engine(bisect_model_change(called, stage.temperature, 0.0, 1.0, 0.1, bayes))
    uncalled: Any = stage.scan
    with pytest.raises(TypeError, match=r"takes a plan that was called, as analysed\(scan\(...\), bayes\)"):
        engine(analysed(uncalled, bayes))
    assert not stage.heard


def test_points_are_measured_where_models_differ_until_one_stands_out(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback]
) -> None:
    allowed = np.linspace(0.0, 1.0, 21)
    plan = scan_where_models_differ(
        [stage.switch], stage.motor, allowed, judge(doubt=0.9), first=4, batch=2, timeout=SECONDS
    )
    selection = returned(engine, plan)
    # Half a nat each point: 3.6 nats take 8 points.
    assert selection.data.n == 8
    assert set(selection.data.x) <= set(allowed)
    (start,), (end,) = stage.all("start"), stage.all("stop")
    assert start["stopping"] == {"probability": 0.95, "max_points": 200, "first": 4, "batch": 2}
    assert (start["plan_name"], start["motors"], end["exit_status"]) == (
        "scan_where_models_differ", ["motor"], "success",
    )  # fmt: skip
    trace = stage.decisions()
    assert [row["n_points"] for row in trace] == [4, 6, 8]
    assert all(row["next_position"] in allowed and row["expected_gain"] >= 0 for row in trace[:-1])
    assert [row["decided"] for row in trace] == [False] * 2 + [True]


def test_points_that_cannot_be_analysed_up_to_the_last_end_the_scan_with_the_reason(
    engine: Any, stage: Stage, judge: Callable[..., BayesCallback]
) -> None:
    blind = SynSignal(lambda: np.nan, name="blind", kind=Kind.hinted)
    plan = scan_where_models_differ(
        [blind], stage.motor, np.linspace(0.0, 1.0, 21), judge(), first=4, batch=3, max_points=9, timeout=SECONDS
    )
    with pytest.raises(ValueError, match="nan"):
        engine(plan)
    trace = stage.decisions()
    assert [row["n_points"] for row in trace] == [4, 7, 9]
    assert [np.isfinite(row["next_position"]) for row in trace] == [True, True, False]
    assert all("nan" in row["reason"] and not row["decided"] for row in trace)
    (end,) = stage.all("stop")
    assert (end["exit_status"], end["num_events"]) == ("success", {"primary": 9, "decisions": 3})


def test_a_plan_of_ones_own_is_told_the_next_best_point(
    engine: Any, judge: Callable[..., BayesCallback], make_selection: Callable[..., Any]
) -> None:
    allowed, answer = np.linspace(-1.0, 1.0, 21), make_selection((-90.0, -40.0, -40.5))
    points = returned(engine, next_best_point(answer, allowed, judge(), 2, timeout=SECONDS))
    assert [point.position in allowed for point in points] == [True, True]
    assert 0.0 < points[0].gain <= points[1].gain
    with pytest.raises(ValueError, match="position"):
        engine(next_best_point(answer, [], judge(), timeout=SECONDS))


@pytest.mark.parametrize("wrong", [{"first": 1}, {"first": 30, "max_points": 20}, {"batch": 0}, {"positions": [1.0]}])
def test_points_that_cannot_be_are_refused(
    stage: Stage, judge: Callable[..., BayesCallback], wrong: dict[str, Any]
) -> None:
    options = {"positions": [0.0, 1.0], **wrong}
    with pytest.raises(ValueError, match="first points at least are needed"):
        next(scan_where_models_differ([stage.switch], stage.motor, bayes=judge(), **options))


class Counter:
    """A detector of patterns that takes its time, and everything that was heard."""

    def __init__(self, engine: Any, seconds: float = 0.05) -> None:
        self.device = SynSignal(lambda: np.ones(8), name="mca", exposure_time=seconds, kind=Kind.hinted)
        self.heard: list[tuple[str, Any]] = []
        self.token = engine.subscribe(lambda name, doc: self.heard.append((name, dict(doc))))

    def all(self, kind: str) -> list[Any]:
        return [doc for name, doc in self.heard if name == kind]

    def rows(self, stream: str) -> list[Any]:
        uids = [doc["uid"] for doc in self.all("descriptor") if doc["name"] == stream]
        return [doc["data"] for doc in self.all("event") if doc["descriptor"] in uids]


@pytest.fixture
def counter(engine: Any) -> Iterator[Counter]:
    made = Counter(engine)
    yield made
    engine.unsubscribe(made.token)


@pytest.fixture
def growing(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BayesCallback]:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    with BayesCallback(fakes.Growing(y="mca")) as callback:
        token = engine.subscribe(callback)
        yield callback
        engine.unsubscribe(token)


def test_counting_ends_when_a_model_stands_out_and_each_answer_is_on_record(
    engine: Any, counter: Counter, growing: BayesCallback
) -> None:
    selection = returned(engine, count_until_decisive([counter.device], growing, max_time=SECONDS))
    counts, trace = counter.rows("primary"), counter.rows("decisions")
    assert len(selection.data.origin.events) == len(counts)
    assert [row["decided"] for row in trace] == [False] * (len(trace) - 1) + [True]
    # p > 0.95 of three models takes ln(2 x 19) = 3.6 nats, so four counts at least.
    assert 4 <= trace[-1]["n_counts"] < len(counts)
    assert trace[0]["reason"] == "there is not enough to see yet"
    for row in trace[1:-1]:
        assert row["seconds_left"] >= 0
    (start,), (stop,) = counter.all("start"), counter.all("stop")
    assert start["stopping"] == {"probability": 0.95, "max_time": SECONDS}
    assert (start["plan_name"], stop["exit_status"]) == ("count_until_decisive", "success")


def test_counting_ends_undecided_when_time_is_up(engine: Any, counter: Counter, growing: BayesCallback) -> None:
    plan = count_until_decisive([counter.device], growing, probability=1 - 1e-12, max_time=0.5, timeout=SECONDS)
    selection = returned(engine, plan)
    assert not any(row["decided"] for row in counter.rows("decisions"))
    assert len(counter.rows("primary")) == len(selection.data.origin.events) <= 12


def test_counting_ends_before_the_run_has_more_numbers_than_are_kept(
    engine: Any, counter: Counter, growing: BayesCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "MOST_NUMBERS", 1000)
    rng = np.random.default_rng(0)
    device = SynSignal(lambda: rng.poisson(5.0, 40), name="mca", exposure_time=0.05, kind=Kind.hinted)
    plan = count_until_decisive([device], growing, probability=1 - 1e-12, max_time=SECONDS, timeout=SECONDS)
    selection = returned(engine, plan)
    counts, last = counter.rows("primary"), counter.rows("decisions")[-1]
    assert 15 <= len(counts) == len(selection.data.origin.events) <= 1000 // 41
    assert not last["decided"]
    assert last["reason"].startswith(f"counting ended after {len(counts)} counts: the run has nearly as many numbers")
    assert counter.all("stop")[0]["exit_status"] == "success"


@pytest.mark.parametrize(("options", "sentence"), [
    ({"probability": 1.0}, "probability must lie between 0 and 1"),
    ({"max_time": 0.0}, "max_time must be positive"),
])  # fmt: skip
def test_counting_that_cannot_end_well_is_refused(
    growing: BayesCallback, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        next(count_until_decisive([], growing, **options))


def test_counting_without_the_callback_is_an_error_that_says_so(
    engine: Any, counter: Counter, slow: BayesCallback
) -> None:
    with pytest.raises(KeyError, match="subscribe the callback"):
        engine(count_until_decisive([counter.device], slow))
    (stop,) = counter.all("stop")
    assert stop["exit_status"] == "fail"
