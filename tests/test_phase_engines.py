"""The general engines of the phase search: their model, its slopes, and their agreement with the search."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gemmi")

from bluesky_bayes.phases import Library, search
from bluesky_bayes.phases.engines import Model, exchange, fitter_of, variational
from bluesky_bayes.phases.fitting import Fitter
from bluesky_bayes.phases.forward import curve
from bluesky_bayes.phases.patterns import Pattern
from bluesky_bayes.phases.simulated import example_library, simulate

TRUE = {"rutile", "quartz"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bluesky_bayes.phases.library.user_cache_path", lambda *_: folder)
        minerals = example_library()
    return minerals.only(formulas=["TiO2", "SiO2", "MgO", "NaCl"])


@pytest.fixture(scope="module")
def pattern(library: Library) -> Pattern:
    mixture = [(one, 0.5) for one in library if one.name in TRUE]
    return simulate(mixture, seed=3, span=(20.0, 60.0, 0.03), breadth=2.0)


@pytest.fixture(scope="module")
def fitter(pattern: Pattern, library: Library) -> Fitter:
    return fitter_of(pattern, library)


def _strict() -> Any:
    return pytest.importorskip("array_api_strict")


def test_a_candidates_curve_is_that_of_the_search(fitter: Fitter) -> None:
    model = Model(np, fitter)
    value = model.mean + model.sigma * model.start
    curves, _ = model.drawn(model.x, np.arange(len(value)), model.start, 0.02)
    for k, lines in enumerate(fitter.lines):
        n = len(lines.strains)
        shape = np.concatenate([value[k, : n + 1], value[k, model.n_strains + 1 : model.n_strains + 4]])
        arrays = lines.q, lines.strength, lines.strains
        waves, shares = fitter.wavelengths, fitter.shares
        expected = curve(np, model.x, waves, shares, arrays, 0.02, shape, np.zeros(lines.q.size))
        # The search cuts feet off ten widths from a line.
        assert curves[k] == pytest.approx(expected, abs=0.01 * expected.max())


@pytest.mark.parametrize("library_of_arrays", [lambda: np, _strict])
def test_slopes_of_all_candidates_are_those_of_differences(fitter: Fitter, library_of_arrays: Any) -> None:
    xp = library_of_arrays()
    model, rng = Model(xp, fitter), np.random.default_rng(0)
    u = np.asarray(model.start) + 0.1 * rng.standard_normal(model.start.shape)
    everyone, given = xp.asarray(np.arange(len(u))), rng.standard_normal((len(u), model.x.shape[0]))

    def total(moved: Any, displacement: float = 0.01) -> Any:
        curves, slopes = model.drawn(model.x, everyone, xp.asarray(moved), displacement)
        return np.sum(np.asarray(curves) * given, axis=1), slopes

    up, shifted = total(u)[1](xp.asarray(given))
    step = np.zeros_like(u)
    for j in (0, 1, model.n_strains + 1, model.n_strains + 2, model.n_strains + 3, model.n_strains + 4):
        step[:, j] = 1e-5
        difference = (total(u + step)[0] - total(u - step)[0]) / 2e-5
        step[:, j] = 0.0
        assert np.asarray(up)[:, j] == pytest.approx(difference, abs=0.01 * np.abs(difference).max())
    difference = (total(u, 0.0101)[0] - total(u, 0.0099)[0]) / 2e-4
    assert np.asarray(shifted) == pytest.approx(difference, rel=1e-3)


def test_both_engines_agree_with_the_search(fitter: Fitter, pattern: Pattern, library: Library) -> None:
    names = np.array([one.name for one in library])
    model, odds = Model(np, fitter), fitter.log_odds
    found, begin = variational(model, odds, steps=500, points=400)
    drawn = exchange(model, odds, begin, sweeps=12, replicas=6)
    answer = search(pattern, library)
    assert {phase.structure.name for phase in answer.present} == TRUE
    assert set(names[found.probabilities > 0.9]) == TRUE
    assert set(names[drawn.probabilities > 0.9]) == TRUE


def test_the_engines_need_nothing_beyond_the_standard_of_arrays(fitter: Fitter) -> None:
    xp = _strict()
    model, odds = Model(xp, fitter), fitter.log_odds
    plain = Model(np, fitter)
    found, begin = variational(model, odds, steps=3, points=100)
    same, _ = variational(plain, odds, steps=3, points=100)
    assert found.probabilities == pytest.approx(same.probabilities)
    drawn = exchange(model, odds, begin, sweeps=2, replicas=3)
    assert np.all((drawn.probabilities >= 0.0) & (drawn.probabilities <= 1.0))
