"""What every test may ask for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bluesky_bayes import Dataset, Gaussian, Model, Poisson, Posterior, Selection
from bluesky_bayes.dataset import Origin
from bluesky_bayes.families.peaks import peaks
from bluesky_bayes.posterior import Diagnostics, Fit


@pytest.fixture(scope="session")
def tiled_client() -> Iterator[Any]:
    """Client of the one embedded Tiled server of this session, with catalogues ``raw`` and ``processed``."""
    pytest.importorskip("bluesky_tiled_plugins")
    pytest.importorskip("tiled.server")
    from bluesky_bayes.servers import embedded_tiled

    with embedded_tiled() as client:
        yield client


@pytest.fixture(scope="module")
def no_compiling() -> Iterator[None]:
    """Callbacks whose worker is ready at once, for answers that cost nothing."""
    import fakes

    from bluesky_bayes.callbacks import bayes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bayes, "prepare", fakes.unprepared)
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_folder(repository: Path) -> Path:
    """Public data, which are no part of the project."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no public data beside the repository: ../shared/data is absent")
    return folder


@pytest.fixture
def make_selection() -> Callable[..., Selection]:
    """Selections written by hand, in no time: 0 peaks, 1 peak ... with the log evidences given."""
    return _selection


def _selection(
    log_evidence: tuple[float, ...] = (-90.0, -40.0, -41.0),
    error: float = 0.05,
    counts: bool = False,
    known_noise: bool = True,
    r_hat: float = 1.0,
) -> Selection:
    rng = np.random.default_rng(0)
    x = np.linspace(-1.0, 1.0, 41)
    y = 100.0 * np.exp(-0.5 * (x / 0.2) ** 2) + 20.0
    origin = Origin("0123abcd", "primary", "motor", "det", 7)
    units = {"x": "mm", "y": "V"}
    noise: Gaussian | Poisson = Poisson() if counts else Gaussian(3.0) if known_noise else Gaussian()
    y = rng.poisson(y).astype(np.float64) if counts else y + 3.0 * rng.standard_normal(x.size)
    data = Dataset(x, y, counts=counts, units=units, origin=origin)
    models = peaks(counts=range(len(log_evidence))).resolved(data, noise).models
    posteriors = [
        _posterior(model, data, log_z, error, r_hat) for model, log_z in zip(models, log_evidence, strict=True)
    ]
    prior = np.full(len(models), 1.0 / len(models))
    notes = ("peaks are in order of their center",)
    return Selection(data, noise, tuple(posteriors), prior, 0, "exchange", "cpu", 0.5, notes)


def _posterior(model: Model, data: Dataset, log_z: float, error: float, r_hat: float) -> Posterior:
    rng = np.random.default_rng(1)
    typical = {"amplitude": 100.0, "center": 0.01, "sigma": 0.2, "constant": 20.0, "noise_sigma": 3.0}
    draws = {
        name: typical[name.split(".")[-1]] * (1.0 + 0.01 * rng.standard_normal((2, 100))) for name in model.parameters
    }
    terms = {
        term.label: term.component(data.x, *(draws[slot.parameter or ""].mean() for slot in term.slots))
        for term in model.terms
    }
    derived = {
        f"{term.label}.{parameter.name}": function(*(draws[slot.parameter or ""] for slot in term.slots))
        for term in model.terms
        for parameter, function in term.component.derived
    }
    curve = np.sum(list(terms.values()), axis=0)
    fit = Fit(curve, 0.99 * curve, 1.01 * curve, terms, (data.y - curve) / 3.0)
    return Posterior(model, log_z, error, draws, derived, fit, Diagnostics(r_hat=r_hat))
