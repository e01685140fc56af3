"""The reference that a ladder starts from: its density, its draws and its normaliser."""

import math
from typing import Any

import numpy as np
import pytest
from problems import nagata_2012, nagata_candidates, ten_peaks
from scipy import stats

from bluesky_bayes import Candidates, Dataset, Gaussian, Model, jobs, select
from bluesky_bayes.dataset import Array
from bluesky_bayes.exchange import respaced
from bluesky_bayes.inference import _Question
from bluesky_bayes.kernels.task import new_score
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.reference import POOLED_WEIGHT, PRIOR_WEIGHT, TERMS, Start, first_start, fitted_start
from bluesky_bayes.sampler import Settings
from bluesky_bayes.shapes import gaussian
from bluesky_bayes.tasks import Group, groups_of, in_order

PAIR = Group(np.array([[0, 1], [3, 2]]), 0)


@pytest.fixture(scope="module")
def kernels() -> Any:
    return _job(2).kernels


def _job(count: int, noise: Gaussian | None = None) -> Any:
    candidates = nagata_candidates(range(count, count + 1))
    return _Question.of(nagata_2012(), candidates, noise or Gaussian(0.1)).jobs(Settings(), 0)[0]


def two_places(n: int, seed: int = 0) -> Array:
    """Points of two exchangeable components with two coordinates each, and of one coordinate more."""
    rng = np.random.default_rng(seed)
    centres = np.array([[-1.0, 0.5], [1.5, -0.5]])[rng.permuted(np.tile([0, 1], (n, 1)), axis=1)]
    points = centres + 0.1 * rng.standard_normal((n, 2, 2))
    return np.column_stack([points[:, 0], points[:, 1, ::-1], 0.7 + 0.2 * rng.standard_normal(n)])


def log_density(start: Start, z: Array) -> Array:
    """The mixture's log density less the prior's, by scipy."""
    z = in_order(z, start.groups)
    terms = [
        np.log(w) + stats.multivariate_normal(m, f @ f.T).logpdf(z)
        for w, m, f in zip(start.weights, start.means, start.factors, strict=True)
    ]
    total: Array = np.logaddexp.reduce(terms, axis=0) - stats.norm.logpdf(z).sum(axis=1)
    return total


def test_components_in_any_order_have_the_mixtures_density(kernels: Any) -> None:
    start = fitted_start(two_places(400), (PAIR,), np.random.default_rng(1))
    z = np.concatenate([two_places(20, 7), np.random.default_rng(2).standard_normal((20, 5))])
    reference = start.arrays
    score = new_score(reference, z)
    for p in range(len(z)):
        kernels.refer(reference, score, p)
    np.testing.assert_allclose(-score.value[:-1], log_density(start, z), atol=1e-6)


def called(function: Any) -> Any:
    """One of the kernels' inlined functions, made callable."""
    import numba

    return numba.njit(lambda *arguments: function(*arguments))


def test_a_move_changes_the_density_as_a_fresh_look_would_also_where_components_change_places(kernels: Any) -> None:
    start = fitted_start(two_places(400), (PAIR,), np.random.default_rng(1))
    reference, z = start.arrays, two_places(1, 3)
    score, rng, exchanges = new_score(reference, z), np.random.default_rng(5), 0
    trial_reference, commit_reference = called(kernels.trial_reference), called(kernels.commit_reference)
    kernels.refer(reference, score, 0)
    for _ in range(200):
        j, value = int(rng.integers(5)), float(rng.standard_normal())
        moved = score.z[:1].copy()
        moved[0, j] = value
        before = score.place[0].copy()
        assert trial_reference(reference, score, 0, j, value) == pytest.approx(-log_density(start, moved)[0], abs=1e-6)
        if rng.random() < 0.5:
            commit_reference(reference, score, 0, j, value)
            exchanges += int(np.any(score.place[0] != before))
            assert score.value[0] == pytest.approx(-log_density(start, score.z[:1])[0], abs=1e-6)
    assert exchanges > 10


def test_draws_are_in_order_and_their_share_is_the_normaliser() -> None:
    """Over the prior, the ratio of the densities has the mean K! times the share of draws in order."""
    rng = np.random.default_rng(0)
    wide = fitted_start(1.5 * rng.standard_normal((2000, 5)), (PAIR,), rng)
    draws, drawn = wide.draws(20_000, rng)
    assert np.all(draws[:, 3] >= draws[:, 0])
    ratio = np.exp(log_density(wide, rng.standard_normal((20_000, 5))))
    expected = 2.0 * len(draws) / drawn
    assert math.exp(wide.log_labels) == pytest.approx(2.0)
    assert abs(ratio.mean() - expected) < 4 * ratio.std() / math.sqrt(ratio.size)


def test_a_fit_finds_the_places_and_keeps_the_prior() -> None:
    start = fitted_start(two_places(1000), (PAIR,), np.random.default_rng(1))
    assert start.weights.sum() == pytest.approx(1.0)
    assert start.weights.size <= TERMS
    np.testing.assert_allclose(start.weights[-2:], [POOLED_WEIGHT, PRIOR_WEIGHT])
    np.testing.assert_array_equal(start.means[-1], 0.0)
    np.testing.assert_array_equal(start.factors[-1], np.eye(5))
    fitted = np.average(start.means[:-2], axis=0, weights=start.weights[:-2])
    np.testing.assert_allclose(fitted, [-1.0, 0.5, -0.5, 1.5, 0.7], atol=0.05)


def test_known_noise_starts_from_the_prior_and_unknown_noise_near_the_spread_of_the_data() -> None:
    assert first_start(_job(1).task).weights.size == 0
    task = _job(1, Gaussian()).task
    start = first_start(task)
    j = int(task.noise_parameter[0])
    (mean,), (factor,) = start.means, start.factors
    sigma = np.interp(mean[j], np.linspace(-task.z_max[0], task.z_max[0], task.tables.shape[1]), task.tables[j])
    assert sigma == pytest.approx(np.std(nagata_2012().y), rel=0.3)
    assert 0.0 < factor[j, j] < 0.5
    others = np.arange(len(mean)) != j
    np.testing.assert_array_equal(mean[others], 0.0)
    np.testing.assert_array_equal(np.diag(factor)[others], 1.0)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_data_that_say_nothing_leave_the_evidence_of_no_model_at_all(count: int) -> None:
    """With a noise of 1000 the likelihood is that of zero residuals, whatever the peaks."""
    data = nagata_2012()
    selection = select(data, nagata_candidates(range(count, count + 1)), Gaussian(1000.0), seed=0)
    expected = np.sum(stats.norm.logpdf(data.y, 0.0, 1000.0))
    assert selection.log_evidence_error[0] < 0.05
    assert abs(selection.log_evidence[0] - expected) < 4 * selection.log_evidence_error[0] + 1e-3


def test_an_identified_model_starts_from_its_reference_and_an_overfitted_one_from_the_prior() -> None:
    for count, fitted in ((3, True), (5, False)):
        job = _job(count)
        job.prepare()
        assert bool(job.path.start.weights.size) is fitted


@pytest.mark.parametrize(
    ("problem", "error"), [((nagata_2012(), nagata_candidates(range(3, 4))), 0.1), (ten_peaks(), 0.2)], ids=["3", "10"]
)
def test_the_evidence_is_the_same_from_the_reference_and_from_the_prior(
    problem: tuple[Dataset, Candidates], error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_z, errors = [], []
    for near in (math.inf, 0.0):
        monkeypatch.setattr(jobs, "NEAR", near)
        selection = select(*problem, Gaussian(0.1), seed=0, sampler="exchange", settings=Settings(error=error))
        log_z.append(selection.log_evidence[0])
        errors.append(selection.log_evidence_error[0])
    assert max(errors) < error
    assert abs(log_z[1] - log_z[0]) < 4 * math.hypot(*errors)


def test_a_part_of_the_posterior_that_particles_rarely_find_is_not_lost() -> None:
    """With five peaks for three, one beyond the left end whose tail meets the first points holds 7 %.

    By weighting draws of such a peak with the likelihood of the residuals: 0.068 of the evidence for K = 5.
    """
    data, five = nagata_2012(), nagata_candidates(range(5, 6))
    settings = Settings(sweeps=2400, error=1.0)
    runs = [select(data, five, Gaussian(0.1), seed=seed, settings=settings) for seed in (0, 1)]
    outside = [np.mean(run.posteriors[0].draws["peak1.center"] < -0.05) for run in runs]
    assert 0.02 < np.mean(outside) < 0.2


def tied(slots: tuple[tuple[Slot, ...], ...]) -> Model:
    """A model of components that are said to be exchangeable."""
    terms = tuple(Term(f"t{k}", gaussian, s) for k, s in enumerate(slots))
    names = dict.fromkeys(slot.parameter for s in slots for slot in s if slot.parameter)
    return Model("tied", terms, dict.fromkeys(names, stats.uniform(0, 1)), (tuple(range(len(terms))),))


def test_components_that_share_a_width_are_ordered_by_what_is_their_own() -> None:
    (group,) = groups_of(tied(tuple((Slot(f"a{k}"), Slot(f"c{k}"), Slot("s")) for k in (0, 1))))
    np.testing.assert_array_equal(group.columns, [[0, 1], [3, 4]])
    assert group.location == 1


def test_a_tie_inside_a_component_goes_with_it() -> None:
    (group,) = groups_of(tied(tuple((Slot(f"a{k}"), Slot(f"c{k}"), Slot(f"a{k}", scale=0.5)) for k in (0, 1))))
    np.testing.assert_array_equal(group.columns, [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    "second",
    [(Slot("a1"), Slot("c1"), Slot(None, offset=0.2)), (Slot("a1"), Slot("c1"), Slot("s1", scale=2.0))],
    ids=["one is fixed", "another ratio"],
)
def test_components_that_differ_in_more_than_their_parameters_are_in_no_order(second: tuple[Slot, ...]) -> None:
    assert groups_of(tied(((Slot("a0"), Slot("c0"), Slot("s0")), second))) == ()


def test_few_points_in_many_dimensions_still_give_weights_that_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    assert fitted_start(rng.standard_normal((40, 45)), (), rng).weights.sum() == pytest.approx(1.0)


def test_temperatures_are_found_where_a_part_of_the_prior_is_impossible() -> None:
    rng = np.random.default_rng(0)
    clean = rng.gamma(2.0, 1.0, 500)
    spoilt = np.where(np.arange(500) < 100, 1e300, clean)
    for energies in (clean, spoilt):
        betas, position, barrier = respaced(np.array([0.0, 1.0]), [energies, clean])
        assert np.all(np.diff(betas) > 0.0) and np.all(np.diff(position) > 0.0)
        assert 0.3 < barrier < 2.0
