"""Plans decide rightly on measured spectra that are replayed as if they came in now."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from replays import Cooling, Series, classes, drive_of, split_or_not
from scipy import stats

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.plans import bisect_model_change, count_until_decisive
from bluesky_bayes.readers.mossbauer import Calibration, by_time, read_counts

SECONDS = 300.0


@pytest.fixture(scope="module")
def folder(data_folder: Path) -> Path:
    return data_folder / "mossbauer"


@pytest.fixture(scope="module")
def drive(folder: Path) -> Calibration:
    return drive_of(folder)


@pytest.fixture(scope="module")
def engine() -> Any:
    return RunEngine({}, call_returns_result=True)


@pytest.fixture(scope="module")
def bayes(engine: Any) -> Iterator[BayesCallback]:
    """Split or a doublet: priors of widths reach far, as near to the change they must."""
    priors = {
        "splitting": stats.uniform(0, 2),
        "field_sigma": stats.loguniform(0.3, 20),
        "width": stats.loguniform(0.194, 4),
        "splitting_sigma": stats.loguniform(0.05, 2),
    }
    with BayesCallback(split_or_not(classes(False, **priors))) as callback:
        engine.subscribe(callback)
        yield callback


def test_a_cumulative_series_is_replayed_count_by_count_and_damaged_files_are_named(
    folder: Path, drive: Calibration
) -> None:
    series = Series(folder / "2L_Fh_75K_every_30s", drive, 0.0)
    assert len(series.parts) == 77
    assert len(series.damaged) == 4
    assert all("is damaged: it has" in sentence for sentence in series.damaged)
    assert series.parts.min() >= 0
    last = by_time((folder / "2L_Fh_75K_every_30s").glob("*.dat"))[-1]
    assert np.array_equal(series.parts.sum(axis=0), read_counts(last))


def test_a_measured_doublet_is_told_at_the_first_look(
    engine: Any, bayes: BayesCallback, folder: Path, drive: Calibration
) -> None:
    series = Series(folder / "2L_Fh_75K_every_30s", drive, 4.0)
    rows: list[Any] = []
    plan = count_until_decisive(series.devices, bayes, max_time=120.0, timeout=SECONDS)
    selection = engine(plan, lambda name, doc: rows.append(doc["data"]) if "decided" in doc.get("data", ()) else None)
    assert selection.plan_result.best.model.name == "1 doublet"
    assert (rows[-1]["decided"], rows[-1]["model"]) == (True, "1 doublet")
    assert rows[-1]["n_counts"] <= 3


def test_the_measured_ordering_of_ferrihydrite_is_bracketed(
    engine: Any, bayes: BayesCallback, folder: Path, drive: Calibration
) -> None:
    cryostat = Cooling(folder / "2L_Fh_high_SNR", drive, parts=300, seconds=0.05)
    plan = bisect_model_change(
        lambda: count(cryostat.devices), cryostat.temperature, 45.0, 85.0, 20.0, bayes, repeats=2, timeout=SECONDS
    )
    change = engine(plan).plan_result
    # At 65 K an answer may warn; then the bracket is around it.
    assert change.low <= 65.0
    assert change.high >= 65.0
    assert (change.below, change.above) == ("1 sextet", "1 doublet"), change.reason
    assert change.found or "undecided at 65: " in change.reason
    assert change.high - change.low <= 40.0
