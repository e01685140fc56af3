"""The general engines of the phase search: their model, its slopes, and their agreement with the search."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gemmi")

from bluesky_bayes.phases import Library, search
from bluesky_bayes.phases.arrays import Model
from bluesky_bayes.phases.engines import exchange, fitted, fitter_of, variational
from bluesky_bayes.phases.fitting import Fitter, Term
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


def shape_of(model: Model, u: Any, k: int, n: int) -> Any:
    value = model.mean[k] + model.sigma[k] * u
    return np.concatenate([value[: n + 1], value[model.n_strains + 1 : model.n_strains + 4]])


def test_what_the_background_leaves_has_the_products_of_its_posterior(fitter: Fitter) -> None:
    """Splines integrated out: those without a prior take all they can, the others as much as theirs lets them."""
    model, rng = Model(np, fitter), np.random.default_rng(0)
    rows = np.cumsum(rng.standard_normal((3, fitter.even.x.size)), axis=1)
    left = model.without_flat(rows)
    weighted = fitter.splines * fitter.weight
    curvature = weighted @ fitter.splines.T + np.diag(fitter.flat_precision)
    expected = (rows * fitter.weight) @ rows.T - (rows @ weighted.T) @ np.linalg.solve(curvature, weighted @ rows.T)
    np.testing.assert_allclose((left * fitter.weight) @ left.T, expected, rtol=1e-6)


def test_a_candidates_curve_is_that_of_the_search(fitter: Fitter) -> None:
    model = Model(np, fitter)
    u = 0.5 * np.random.default_rng(1).standard_normal((model.n, model.size))
    u[:, model.n_strains + 4 :] = 0.0
    curves = model.drawn(np.arange(model.n), u, 0.02).curves
    assert curves == pytest.approx(model.drawn(np.arange(model.n), u, 0.02, slopes=False).curves)
    for k, lines in enumerate(fitter.lines):
        shape = shape_of(model, u[k], k, len(lines.strains))
        arrays = lines.q, lines.strength, lines.strains
        expected = curve(np, model.x, fitter.wavelengths, fitter.shares, arrays, 0.02, shape, np.zeros(lines.q.size))
        # Feet are cut off elsewhere.
        assert curves[k] == pytest.approx(expected, abs=0.01 * expected.max())


@pytest.mark.parametrize("library_of_arrays", [lambda: np, _strict])
def test_slopes_of_all_candidates_are_those_of_differences(fitter: Fitter, library_of_arrays: Any) -> None:
    xp = library_of_arrays()
    model, rng = Model(xp, fitter), np.random.default_rng(0)
    everyone, u = np.arange(model.n_phases), 0.3 * rng.standard_normal((model.n_phases, model.size))
    given = rng.standard_normal((model.n_phases, model.n_points))

    def total(moved: Any, displacement: float = 0.01) -> Any:
        return np.sum(np.asarray(model.drawn(everyone, xp.asarray(moved), displacement).curves) * given, axis=1)

    drawn = model.drawn(everyone, xp.asarray(u), 0.01)
    up = np.sum(np.asarray(drawn.rows) * given[:, None, :], axis=2)
    step = np.zeros_like(u)
    for j in (0, 1, model.n_strains + 1, model.n_strains + 2, model.n_strains + 3, model.n_strains + 4):
        step[:, j] = 1e-5
        difference = (total(u + step) - total(u - step)) / 2e-5
        step[:, j] = 0.0
        assert up[:, j] == pytest.approx(difference, abs=0.01 * np.abs(difference).max())
    difference = (total(u, 0.0101) - total(u, 0.0099)) / 2e-4
    assert np.sum(np.asarray(drawn.shift) * given, axis=1) == pytest.approx(difference, rel=1e-2)


def test_the_evidence_of_a_set_is_that_of_the_search(fitter: Fitter, library: Library) -> None:
    model = Model(np, fitter)
    members = tuple(n for n, one in enumerate(library) if one.name in TRUE)
    none = fitted(model, (), model.mean[:0], 0.0)
    _, starts = model.looks(none.rest, 0.0)
    fit = fitted(model, members, starts[list(members)], 0.0, steps=20)
    terms = [
        Term(shape_of(model, fit.u[k], member, len(fitter.lines[member].strains))) for k, member in enumerate(members)
    ]
    joint = fitter.fit(members, terms, fit.displacement, 30)
    gain = joint.log_evidence - fitter.fit([], []).log_evidence
    assert gain > 100.0
    assert fit.log_evidence - none.log_evidence == pytest.approx(gain, abs=0.01 * gain)


def test_both_engines_agree_with_the_search(fitter: Fitter, pattern: Pattern, library: Library) -> None:
    model, answer = Model(np, fitter), search(pattern, library)
    assert {phase.structure.name for phase in answer.present} == TRUE
    expected = [answer.probabilities[one.name] for one in library]
    found, drawn = variational(model), exchange(model, steps=120)
    assert found.probabilities == pytest.approx(expected, abs=0.15)
    # A hundred draws say little of what is as good as absent.
    assert drawn.probabilities == pytest.approx(expected, abs=0.4)
    for one, amounts in zip(library, zip(found.amounts, drawn.amounts, strict=True), strict=True):
        if one.name in TRUE:
            assert amounts[0] == pytest.approx(amounts[1], rel=0.1)


def test_the_engines_need_nothing_beyond_the_standard_of_arrays(fitter: Fitter) -> None:
    models = Model(_strict(), fitter), Model(np, fitter)
    for engine in (variational, lambda model: exchange(model, steps=4, replicas=2)):
        strict, plain = (engine(model) for model in models)
        assert strict.probabilities == pytest.approx(plain.probabilities, abs=1e-6)
        assert strict.amounts == pytest.approx(plain.amounts, rel=1e-6)
