"""The simulated profiles: a scan and every technique, loaded in IPython's way and the queueserver's."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 300.0


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
