"""The simulated profiles: a scan and every technique, loaded in IPython's way and the queueserver's."""

import inspect
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from bluesky.utils import MsgGenerator
from ophyd import Kind
from ophyd.sim import SynAxis, SynSignal

from bluesky_bayes import profile
from bluesky_bayes.analysis import Files
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.journal import JournalInUseError
from bluesky_bayes.plans import analysed, bisect_model_change, count_until_decisive
from bluesky_bayes.profile import ready, setup
from bluesky_bayes.simulated import spectrum

SECONDS = 300.0


def known() -> list[BayesCallback]:
    """Callbacks that were set up, or made for plans."""
    return [*profile._callbacks.values(), *(each.callback for each in profile._setups)]


@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end() -> Iterator[None]:
    yield
    for callback in known():
        callback.close()


@pytest.fixture(scope="module")
def startup(repository: Path) -> Path:
    return repository / "profiles" / "sim" / "startup"


@pytest.fixture(scope="module")
def names(startup: Path) -> Iterator[dict[str, Any]]:
    """What the profile defines, loaded as IPython does."""
    (path,) = startup.glob("*.py")
    loaded = runpy.run_path(str(path))
    with loaded["bayes"]:
        yield loaded


def test_a_scan_of_the_simulated_beamline_ends_with_a_verdict(names: dict[str, Any]) -> None:
    engine, bayes = names["RE"], names["bayes"]
    (uid,) = engine(names["bayes_scan"](1.0, 2.0, 41))
    selection = bayes.result(uid, SECONDS)
    assert selection.names == ("no peak", "1 peak", "2 peaks", "3 peaks", "4 peaks", "5 peaks")
    assert selection.probabilities[:2].sum() < 0.01
    assert bayes.last is selection


def test_loading_it_again_changes_nothing(names: dict[str, Any], startup: Path) -> None:
    again = runpy.run_path(str(startup / "00-bayes.py"), init_globals=names)
    assert again["bayes"] is names["bayes"]
    assert again["RE"] is names["RE"]
    assert again["motor"] is names["motor"]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the queueserver's own
def test_the_queueserver_finds_its_plan_and_devices(startup: Path) -> None:
    profile_ops = pytest.importorskip("bluesky_queueserver.manager.profile_ops")
    names = profile_ops.load_profile_collection(str(startup))
    with names["bayes"]:
        plans, devices, *_ = profile_ops.existing_plans_and_devices_from_nspace(nspace=names)
    assert [parameter["name"] for parameter in plans["bayes_scan"]["parameters"]] == ["start", "stop", "num"]
    assert {"count_until_decided", "find_transition"} <= set(plans)
    assert {"motor", "spectrum"} <= set(devices)


@pytest.fixture(scope="module")
def techniques(repository: Path) -> Iterator[dict[str, Any]]:
    (path,) = (repository / "profiles" / "techniques" / "startup").glob("*.py")
    loaded = runpy.run_path(str(path))
    yield loaded
    for callback in loaded["callbacks"].values():
        callback.close()


def test_a_plan_measures_with_a_technique_and_tells_the_verdict(techniques: dict[str, Any]) -> None:
    techniques["RE"](techniques["measure"]("linear"))
    assert techniques["verdicts"]["linear"].startswith("slope x + offset")


@pytest.fixture
def unprepared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Callbacks that compile nothing, closed at the end."""
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    monkeypatch.setattr(profile, "_callbacks", {})
    monkeypatch.setattr(profile, "_setups", [])
    yield
    for callback in known():
        callback.close(0.0)


def subscribed(engine: Any) -> int:
    return sum(map(len, engine.dispatcher.cb_registry.callbacks.values()))


def test_setting_up_again_subscribes_nothing_twice_and_a_new_recipe_replaces_the_old(unprepared: None) -> None:
    engine = RunEngine({})
    first = setup(engine, fakes.Quick())
    n = subscribed(engine)
    assert setup(engine, fakes.Quick()) is first
    assert subscribed(engine) == n > 0
    second = setup(engine, fakes.Quick(y="other"))
    assert second is not first
    assert first.closed
    assert subscribed(engine) == n
    assert setup(engine, fakes.Quick(), name="beside it") is not second
    assert subscribed(engine) == 2 * n


def elsewhere(path: str) -> Files:
    return Files(root_map={"/data": path})


def nowhere(name: str, doc: dict[str, Any]) -> None:
    """A target."""


@pytest.mark.parametrize(("first", "then"), [
    ({"publish": lambda name, doc: None}, {"publish": lambda name, doc: None}),
    ({"publish": "http://127.0.0.1:9/processed"}, {"publish": "http://127.0.0.1:9/other"}),
    ({"recipe": fakes.Quick(files=elsewhere("/wrong"))}, {"recipe": fakes.Quick(files=elsewhere("/right"))}),
    ({"recipe": fakes.Quick(device="cpu")}, {"recipe": fakes.Quick()}),
    ({"journal": None}, {}),
    ({"journal": "other"}, {}),
])  # fmt: skip
def test_whatever_is_asked_for_anew_replaces_what_was_there_which_is_closed_first(
    unprepared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, Any], then: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = RunEngine({})
    same = {"recipe": fakes.Quick(), "publish": nowhere, "journal": "journal"}
    before = setup(engine, **{**same, **first})
    n = subscribed(engine)
    after = setup(engine, **{**same, **then})
    assert before.closed and not after.closed
    assert after.analysis is {**same, **then}["recipe"]
    assert str(after.unfinished()) == "all runs are done"
    assert setup(engine, **{**same, **then}) is after
    assert subscribed(engine) == n


def test_setting_up_closes_no_callback_of_another_engine_or_name(unprepared: None) -> None:
    one, two = RunEngine({}), RunEngine({})
    theirs = [setup(two, fakes.Quick()), setup(one, fakes.Quick(y="third"), name="beside it")]
    mine = setup(one, fakes.Quick())
    assert mine is theirs[0]
    setup(one, fakes.Quick(y="other"))
    assert not any(callback.closed for callback in theirs)
    setup(two, fakes.Quick(y="other"))
    assert [callback.closed for callback in theirs] == [True, False]


def test_one_engine_hears_with_two_callbacks_where_two_names_ask_for_the_same(unprepared: None) -> None:
    engine = RunEngine({})
    assert setup(engine, fakes.Quick()) is not setup(engine, fakes.Quick(), name="beside it")


def test_what_cannot_be_set_up_leaves_the_callback_that_was_there(unprepared: None) -> None:
    engine = RunEngine({})
    before = setup(engine, fakes.Quick())
    with pytest.raises(TypeError, match="publish must be"):
        setup(engine, fakes.Quick(), publish=5)
    assert not before.closed
    assert setup(engine, fakes.Quick()) is before


def test_a_startup_file_that_makes_a_new_engine_each_time_gets_its_journal_again(
    unprepared: None, tmp_path: Path
) -> None:
    before = setup(RunEngine({}), fakes.Quick(), journal=tmp_path)
    engine = RunEngine({})
    after = setup(engine, fakes.Quick(), journal=tmp_path)
    assert before.closed and not after.closed
    other = RunEngine({})
    assert setup(other, fakes.Quick(), journal=tmp_path) is after
    with pytest.raises(JournalInUseError):
        setup(RunEngine({}), fakes.Quick(), nowhere, journal=tmp_path)
    assert not after.closed


def test_a_ready_plan_takes_the_callback_that_was_set_up_for_its_recipe(unprepared: None) -> None:
    engine = RunEngine({})
    bayes = setup(engine, fakes.Quick(), nowhere)
    assert profile.callback_for(fakes.Quick(), nowhere) is bayes
    assert profile.callback_for(fakes.Quick(files=elsewhere("/data2")), nowhere) is not bayes


def test_a_server_that_is_not_there_fails_no_profile(unprepared: None) -> None:
    pytest.importorskip("tiled.client")
    engine: Any = RunEngine({}, call_returns_result=True)
    motor = SynAxis(name="motor")
    bayes = setup(engine, fakes.Quick(), publish="http://127.0.0.1:9/processed")
    (uid,) = engine(bp.scan([spectrum(motor)], motor, 1.0, 2.0, 5)).run_start_uids
    assert bayes.result(uid, 60.0)
    bayes.close(0.0)


def test_a_ready_plan_takes_numbers_hears_its_own_runs_and_gives_a_sentence(unprepared: None) -> None:
    engine: Any = RunEngine({}, call_returns_result=True)
    mca = SynSignal(lambda: np.ones(8), name="mca", exposure_time=0.02, kind=Kind.hinted)
    count = ready(count_until_decisive, "count", fakes.Growing(y="mca"), detectors=[mca])
    assert inspect.isgeneratorfunction(count)
    assert count.__doc__ == "Count again and again until one model stands out, and no longer."
    n = subscribed(engine)
    result = engine(count(max_time=60.0))
    assert result.plan_result.startswith("1 peak")
    assert subscribed(engine) == n
    again = ready(count_until_decisive, "count", fakes.Growing(y="mca"), detectors=[mca])
    engine(again(max_time=60.0))
    assert len([c for c in profile._callbacks.values() if isinstance(c.analysis, fakes.Growing)]) == 1
    with pytest.raises(TypeError, match="max_tim"):
        next(count(max_tim=1.0))


def test_a_plan_of_one_s_own_can_be_made_ready(unprepared: None) -> None:
    engine: Any = RunEngine({}, call_returns_result=True)
    motor = SynAxis(name="motor")

    def look(stop: float, bayes: BayesCallback, num: int = 5) -> MsgGenerator[Any]:
        """Look once."""
        return (yield from analysed(bp.scan([spectrum(motor)], motor, 1.0, stop, num), bayes))

    plan = ready(look, "look", fakes.Quick())
    assert str(inspect.signature(plan)) == "(stop: float, num: int = 5) -> str"
    assert engine(plan(2.0, num=7)).plan_result.startswith("1 peak")


@pytest.mark.parametrize(("plan", "fixed", "sentence"), [
    (count_until_decisive, {}, "'detectors' of plan 'count_until_decisive' is neither a number nor a word"),
    (bisect_model_change, {"scan": None, "axis": None}, "has no argument 'axis'"),
    (bp.count, {"detectors": []}, "has no argument 'bayes'"),
])  # fmt: skip
def test_a_plan_that_cannot_be_queued_is_refused(plan: Callable[..., Any], fixed: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        ready(plan, "plan", fakes.Quick(), **fixed)
