"""Every plan can be paused, resumed, stopped and aborted, and ends in words when it cannot go on."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from bluesky.utils import RunEngineInterrupted
from ophyd import Kind
from ophyd.sim import SynAxis, SynSignal

from bluesky_bayes.adaptive import BayesEvaluation, BisectModelChange, scan_at_each
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.runs import NothingToAnalyseError
from bluesky_bayes.callbacks.worker import WorkerDiedError
from bluesky_bayes.plans import (
    analysed,
    bisect_model_change,
    count_until_decisive,
    optimize,
    scan_until_decisive,
    scan_where_models_differ,
    wait_for_result,
)
from bluesky_bayes.plans.waiting import Stopwatch, hear
from bluesky_bayes.simulated import detector

SECONDS = 30.0


class Beamline:
    """A temperature, a motor, detectors of numbers and of patterns, and everything that was heard."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.temperature, self.motor = SynAxis(name="temperature"), SynAxis(name="motor")
        self.point = detector(self.motor, "point", lambda x: 1.0 + 0.0 * x, noise=0.01)
        self.mood = 0.0
        self.mca = SynSignal(lambda: np.full(8, self.mood), name="mca", exposure_time=0.03, kind=Kind.hinted)
        self.heard: list[tuple[str, Any]] = []
        self.token = engine.subscribe(lambda name, doc: self.heard.append((name, dict(doc))))

    def scan(self) -> Any:
        return bp.scan([self.point], self.motor, 0.0, 1.0, 4)

    def all(self, kind: str) -> list[Any]:
        return [doc for name, doc in self.heard if name == kind]

    def measured(self) -> list[Any]:
        """Events of what was measured, not of decisions."""
        decided = {doc["uid"] for doc in self.all("descriptor") if doc["name"] == "decisions"}
        return [doc for doc in self.all("event") if doc["descriptor"] not in decided]

    def problem(self, bayes: BayesCallback) -> Any:
        return SimpleNamespace(
            optimizer=BisectModelChange("temperature", 0.0, 16.0, 0.5),
            actuators=[self.temperature],
            sensors=[],
            evaluation_function=BayesEvaluation(bayes, timeout=SECONDS),
            acquisition_plan=scan_at_each(self.scan),
        )


Plan = Callable[[Beamline, BayesCallback], Any]
PLANS: dict[str, Plan] = {
    "count": lambda b, bayes: count_until_decisive([b.mca], bayes, max_time=0.5),
    "scan": lambda b, bayes: scan_until_decisive(b.scan, bayes, max_repeats=2),
    "bisect": lambda b, bayes: bisect_model_change(b.scan, b.temperature, 0.0, 16.0, 0.5, bayes, repeats=1),
    "place": lambda b, bayes: scan_where_models_differ(
        [b.point], b.motor, np.linspace(0.0, 1.0, 9), bayes, first=4, batch=2, max_points=7
    ),
    "optimize": lambda b, bayes: optimize(b.problem(bayes)),
}
"""Each ends by itself, undecided, when all models are equally good."""


@pytest.fixture(scope="module")
def engine() -> Any:
    return RunEngine({}, call_returns_result=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture
def gate(folder: Path) -> Iterator[Path]:
    """A file without which no answer comes."""
    (folder / "open").unlink(missing_ok=True)
    yield folder / "open"
    (folder / "open").touch()


@pytest.fixture(scope="module")
def unsure(folder: Path) -> Iterator[BayesCallback]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prepare", fakes.unprepared)
        with BayesCallback(fakes.Never(folder=str(folder))) as callback:
            yield callback
            (folder / "open").touch()


@pytest.fixture
def bayes(engine: Any, unsure: BayesCallback) -> Iterator[BayesCallback]:
    token = engine.subscribe(unsure)
    yield unsure
    engine.unsubscribe(token)


@pytest.fixture
def beamline(engine: Any) -> Iterator[Beamline]:
    made = Beamline(engine)
    yield made
    engine.unsubscribe(made.token)


@pytest.fixture
def moody(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BayesCallback]:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    with BayesCallback(fakes.Moody(y="mca")) as callback:
        token = engine.subscribe(callback)
        yield callback
        engine.unsubscribe(token)


def pause_once_measured(beamline: Beamline, defer: bool = False) -> None:
    """Ask for a pause a moment after the first reading: no plan ends before the gate is open."""

    def ask() -> None:
        while not beamline.measured():
            time.sleep(0.01)
        time.sleep(0.1)
        beamline.engine.request_pause(defer)

    threading.Thread(target=ask).start()


@pytest.mark.parametrize(("name", "defer"), [*[(name, False) for name in PLANS], ("count", True), ("scan", True)])
def test_a_plan_that_is_paused_while_it_waits_goes_on_and_measures_nothing_twice(
    beamline: Beamline, bayes: BayesCallback, gate: Path, name: str, defer: bool
) -> None:
    pause_once_measured(beamline, defer)
    with pytest.raises(RunEngineInterrupted):
        beamline.engine(PLANS[name](beamline, bayes))
    assert beamline.engine.state == "paused"
    gate.touch()
    beamline.engine.resume()
    assert beamline.engine.state == "idle"
    ends = beamline.all("stop")
    assert [end["exit_status"] for end in ends] == ["success"] * len(beamline.all("start"))
    points = [(event["descriptor"], event["seq_num"]) for event in beamline.measured()]
    assert len(points) - len(set(points)) <= 1  # the point at which it was paused may be taken anew


@pytest.mark.parametrize(("name", "how", "status"), [
    *[(name, "abort", "abort") for name in PLANS],
    ("count", "stop", "success"), ("optimize", "stop", "success"), ("scan", "halt", "abort"),
])  # fmt: skip
def test_a_plan_can_be_ended_while_it_waits_and_its_runs_are_closed(
    beamline: Beamline, bayes: BayesCallback, gate: Path, name: str, how: str, status: str
) -> None:
    pause_once_measured(beamline)
    with pytest.raises(RunEngineInterrupted):
        beamline.engine(PLANS[name](beamline, bayes))
    getattr(beamline.engine, how)()
    assert beamline.engine.state == "idle"
    starts, ends = beamline.all("start"), beamline.all("stop")
    assert {end["run_start"] for end in ends} == {start["uid"] for start in starts}
    outer = starts[0]["uid"]
    assert next(end["exit_status"] for end in ends if end["run_start"] == outer) == status


def test_a_pause_takes_none_of_the_time_that_a_plan_has() -> None:
    watch = Stopwatch()
    *_, message = watch.begin()
    (begin,) = message.args[0]
    for _ in range(2):  # the second time after a pause, when the RunEngine repeats the step
        with pytest.raises(StopIteration):
            begin().send(None)
        watched = watch._begun
    watch.end()
    assert watch._begun == watched
    assert 0.0 <= watch.seconds < 5.0


@pytest.mark.parametrize("name", PLANS)
def test_a_callback_that_hears_nothing_ends_a_plan_in_words_before_anything_is_measured(
    beamline: Beamline, unsure: BayesCallback, name: str
) -> None:
    with pytest.raises(KeyError, match=r"RE.subscribe\(bayes\)"):
        beamline.engine(PLANS[name](beamline, unsure))
    assert not beamline.measured()
    assert {end["exit_status"] for end in beamline.all("stop")} == {"fail"}


@pytest.mark.parametrize("name", PLANS)
def test_a_callback_that_was_closed_ends_a_plan_in_words_before_it_begins(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    callback = BayesCallback(fakes.Never())
    callback.close()
    with pytest.raises(RuntimeError, match="this callback was closed and hears nothing more"):
        beamline.engine(PLANS[name](beamline, callback))
    assert not beamline.heard


def test_a_closed_callback_is_no_help_to_a_single_scan_either(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    callback = BayesCallback(fakes.Never())
    callback.close()
    with pytest.raises(RuntimeError, match="was closed"):
        beamline.engine(analysed(beamline.scan(), callback))
    assert not beamline.heard


@pytest.mark.parametrize("name", ["scan", "bisect", "place", "optimize"])
def test_an_answer_that_does_not_come_ends_a_plan_in_words(
    beamline: Beamline, bayes: BayesCallback, gate: Path, name: str
) -> None:
    b = beamline
    plans: dict[str, Any] = {
        "scan": lambda: scan_until_decisive(b.scan, bayes, timeout=0.05),
        "bisect": lambda: bisect_model_change(b.scan, b.temperature, 0.0, 1.0, 0.5, bayes, timeout=0.05),
        "place": lambda: scan_where_models_differ([b.point], b.motor, [0, 1], bayes, first=2, timeout=0.05),
        "optimize": lambda: optimize(b.problem(bayes), timeout=0.05),
    }
    with pytest.raises(TimeoutError, match=r"after 0.05 s: runs open"):
        b.engine(plans[name]())
    (end,) = [end for end in b.all("stop") if end["run_start"] == b.all("start")[0]["uid"]]
    assert end["exit_status"] == "fail"
    assert "after 0.05 s" in end["reason"]
    assert b.engine.state == "idle"


def test_a_worker_that_dies_ends_counting_with_the_reason(beamline: Beamline, moody: BayesCallback) -> None:
    beamline.mood = fakes.MOODS["dies"]
    with pytest.raises(WorkerDiedError, match="was lost 2 times"):
        beamline.engine(count_until_decisive([beamline.mca], moody, max_time=SECONDS))
    (end,) = beamline.all("stop")
    assert end["exit_status"] == "fail"
    assert "was lost 2 times" in end["reason"]


def test_counting_what_the_analysis_does_not_find_ends_at_the_first_answer(
    beamline: Beamline, moody: BayesCallback
) -> None:
    with pytest.raises(NothingToAnalyseError, match="nothing was scanned"):
        beamline.engine(count_until_decisive([beamline.point], moody, max_time=SECONDS))
    (end,) = beamline.all("stop")
    assert end["exit_status"] == "fail"


def test_data_that_cannot_be_analysed_yet_are_no_reason_to_end(beamline: Beamline, moody: BayesCallback) -> None:
    beamline.mood = fakes.MOODS["raises"] / 3.0  # the sum of three patterns, and of no other number, is refused
    beamline.engine(count_until_decisive([beamline.mca], moody, max_time=SECONDS))
    assert beamline.all("stop")[0]["exit_status"] == "success"


def test_a_callback_that_is_closed_while_a_plan_waits_ends_it_in_words(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch, gate: Path
) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    callback = BayesCallback(fakes.Never(folder=str(gate.parent)))
    token = beamline.engine.subscribe(callback)
    (uid,) = beamline.engine(beamline.scan()).run_start_uids
    threading.Timer(0.2, callback.close, (0.1,)).start()
    with pytest.raises(Exception, match=r"given up|lost"):
        beamline.engine(wait_for_result(callback, uid, SECONDS))
    beamline.engine.unsubscribe(token)


def test_a_start_document_may_take_a_moment_to_reach_the_callback(beamline: Beamline, unsure: BayesCallback) -> None:
    """As through a network: it comes while the plan asks for it again and again."""
    start = fakes.scan_documents()[0][1]
    asking = hear(unsure, start["uid"])
    assert [next(asking).command, next(asking).command] == ["sleep", "sleep"]
    unsure("start", start)
    assert list(asking) == []
