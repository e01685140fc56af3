"""Noise with outliers and counts: likelihoods, evidence, checks and recipes, against SciPy and closed forms."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import UNIT_NOISE
from scipy import integrate, special, stats

from bluesky_bayes import Analysis, Candidates, Dataset, Gaussian, Model, Poisson, Selection, StudentT, select
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import peaks
from bluesky_bayes.kernels import build
from bluesky_bayes.kernels.task import new_scratch, new_state
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.noise import Noise, noise_for
from bluesky_bayes.priors import Prior
from bluesky_bayes.shapes import constant
from bluesky_bayes.summaries import predictive_probability
from bluesky_bayes.tasks import blocks_of, make_task, single_precision_is_enough

LEVEL = stats.norm(1.0, 2.0)


def level_alone(prior: Prior) -> Candidates:
    return Candidates((Model("level", (Term("level", constant, (Slot("level"),)),), {"level": prior}),))


def energies(data: Dataset, noise: Noise, z: Array, single: bool, prior: Prior = LEVEL) -> Array:
    """Minus log likelihood of a constant at whitened coordinates, (n,)."""
    noise = noise_for(data, noise)
    (model,) = level_alone(prior).resolved(data, noise).models
    kernels = build.kernels(single)
    task = make_task(blocks_of([data], [noise], [model]), model, single)
    state = new_state(task, z)
    for p in range(len(z)):
        kernels.rebuild(task, state, p, new_scratch(task))
    total: Array = state.energy[:-1] + task.constant[0]
    return total


def assert_log_evidence(selection: Selection, expected: float) -> None:
    error = float(selection.log_evidence_error[0])
    assert error < 0.15
    assert abs(selection.log_evidence[0] - expected) < 4 * error + 1e-3


def heavy(n: int, seed: int = 0) -> Dataset:
    """A constant of 1.5 with heavy-tailed noise of scale 0.5."""
    return Dataset(np.arange(float(n)), 1.5 + 0.5 * np.random.default_rng(seed).standard_t(3, n))


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("sigma", [0.4, np.linspace(0.2, 1.0, 40)], ids=["one", "each"])
def test_student_t_energies_are_minus_the_log_likelihood_of_scipy(sigma: Any, single: bool) -> None:
    data, z = heavy(40), np.array([[-1.0], [0.2], [3.0]])
    levels = LEVEL.ppf(stats.norm.cdf(z[:, 0]))
    expected = [-np.sum(stats.t(4.0).logpdf((data.y - level) / sigma) - np.log(sigma)) for level in levels]
    np.testing.assert_allclose(energies(data, StudentT(sigma), z, single), expected, rtol=1e-5)


def test_student_t_energies_follow_an_unknown_scale() -> None:
    data, prior = heavy(40), stats.loguniform(1e-3, 1e2)
    z = np.array([[0.2, -1.0], [0.2, 0.0], [-0.5, 1.0]])
    levels, scales = LEVEL.ppf(stats.norm.cdf(z[:, 0])), prior.ppf(stats.norm.cdf(z[:, 1]))
    expected = [-np.sum(stats.t(2.5, a, s).logpdf(data.y)) for a, s in zip(levels, scales, strict=True)]
    np.testing.assert_allclose(energies(data, StudentT(dof=2.5, prior=prior), z, False), expected, rtol=1e-4)


@pytest.mark.parametrize("dof", [1.0, 4.0])
def test_a_level_under_student_t_noise_has_the_evidence_of_its_integral(dof: float) -> None:
    data = heavy(30)

    def likelihood(level: float) -> float:
        return math.exp(np.sum(stats.t(dof, level, 0.5).logpdf(data.y)) + 35) * float(LEVEL.pdf(level))

    integral, _ = integrate.quad(likelihood, 0.0, 3.0, epsabs=0, epsrel=1e-8)
    selection = select(data, level_alone(LEVEL), StudentT(0.5, dof), seed=0)
    assert_log_evidence(selection, math.log(integral) - 35)
    assert selection.trustworthy


def test_an_unknown_scale_has_the_evidence_of_its_integral() -> None:
    data, prior = heavy(30), stats.loguniform(1e-3, 1e2)
    levels, logs = np.linspace(0.0, 3.0, 601), np.linspace(math.log(0.1), math.log(2.0), 401)
    residual = (data.y - levels[:, None, None]) / np.exp(logs)[:, None]
    log_density = np.sum(stats.t(4.0).logpdf(residual), axis=2) - data.n * logs
    log_density += LEVEL.logpdf(levels)[:, None] + prior.logpdf(np.exp(logs)) + logs
    expected = special.logsumexp(log_density) + math.log((levels[1] - levels[0]) * (logs[1] - logs[0]))
    selection = select(data, level_alone(LEVEL), StudentT(prior=prior), seed=0)
    assert_log_evidence(selection, float(expected))
    assert selection.best.parameters["noise_sigma"].mean == pytest.approx(0.5, rel=0.4)
    assert str(selection.noise) == "Student-t noise of unknown scale, 4 degrees of freedom"


def outliers() -> Dataset:
    """One peak at 0.3, sigma 0.1, and three points that are ten sigma away."""
    x = np.linspace(-3, 3, 121)
    y = 0.5 + 2.0 * np.exp(-0.5 * ((x - 0.3) / 0.4) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(121)
    y[[20, 70, 100]] += (1.0, 1.0, -1.0)
    return Dataset(x, y)


@pytest.mark.parametrize("noise", [StudentT(0.1), StudentT()], ids=["known", "unknown"])
def test_one_peak_among_outliers_is_found_by_student_t_noise(noise: Noise) -> None:
    selection = select(outliers(), peaks(counts=range(0, 4)), noise, seed=0)
    assert selection.best.model.name == "1 peak"
    assert selection.trustworthy
    center = selection.best.parameters["peak1.center"]
    assert abs(center.mean - 0.3) < 4 * center.sd
    assert center.sd < 0.02


def test_gaussian_noise_invents_peaks_for_outliers_or_says_that_it_does_not_fit() -> None:
    selection = select(outliers(), peaks(counts=range(0, 4)), Gaussian(0.1), seed=0)
    assert selection.best.model.name != "1 peak"
    assert not selection.trustworthy
    assert any("does not fit" in warning for warning in selection["1 peak"].warnings)


def test_a_wide_prior_leaves_no_rounding_behind_in_the_residuals() -> None:
    """A level far away, where float32 forgets the data, does not pull a likelihood that grows so slowly."""
    data = heavy(30)
    selection = select(data, level_alone(stats.norm(0.0, 1e7)), StudentT(0.5), seed=0)

    def likelihood(level: float) -> float:
        return math.exp(np.sum(stats.t(4.0, level, 0.5).logpdf(data.y)) + 35)

    integral, _ = integrate.quad(likelihood, 0.0, 3.0, epsabs=0, epsrel=1e-8)
    assert_log_evidence(selection, math.log(integral) - 35 + float(stats.norm(0.0, 1e7).logpdf(1.5)))
    assert selection.best.diagnostics.drift < 0.01


@pytest.mark.parametrize("dof", [1.0, 4.0, 30.0])
def test_the_check_of_a_student_t_fit_is_calibrated_and_sees_a_misfit(dof: float) -> None:
    rng, curve, sigma = np.random.default_rng(1), np.zeros((1, 60)), np.full(60, 0.1)
    noise = StudentT(0.1, dof)
    p = [predictive_probability(0.1 * rng.standard_t(dof, 60), curve, sigma, noise, rng) for _ in range(2000)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    wrong = 0.1 * rng.standard_t(dof, 60) + 10.0 * sigma
    assert predictive_probability(wrong, curve, sigma, noise, rng) < 1e-3


def test_neighbouring_residuals_tell_a_misfit_of_unknown_scale_in_spite_of_an_outlier() -> None:
    rng, curve, sigma = np.random.default_rng(2), np.zeros((1, 200)), np.full(200, 0.1)
    y = 0.1 * rng.standard_normal(200)
    y[50] = 10.0
    assert predictive_probability(y, curve, sigma, StudentT(), rng) > 0.01
    assert predictive_probability(y + 0.1 * np.sin(np.arange(200) / 10), curve, sigma, StudentT(), rng) < 1e-3


def test_student_t_noise_takes_the_uncertainties_of_the_data_unless_a_prior_is_given() -> None:
    data = Dataset(np.arange(3.0), np.arange(3.0), sigma=np.array([0.1, 0.2, 0.1]))
    assert str(noise_for(data, StudentT())) == "Student-t noise, sigma given for each point, 4 degrees of freedom"
    assert str(noise_for(data, StudentT(0.5, 2))) == "Student-t noise, sigma = 0.5, 2 degrees of freedom"
    unknown = noise_for(data, StudentT(prior=stats.loguniform(0.01, 1)))
    assert isinstance(unknown, StudentT)
    assert not unknown.known


def test_many_degrees_of_freedom_are_left_to_float64() -> None:
    for dof, enough in ((4.0, True), (1e6, False)):
        (block,) = blocks_of([heavy(100)], [StudentT(0.5, dof)], [])
        assert single_precision_is_enough(block) is enough


def test_many_degrees_of_freedom_are_gaussian_noise() -> None:
    data, z = heavy(40), np.array([[-1.0], [0.2]])
    expected = energies(data, UNIT_NOISE, z, False)
    np.testing.assert_allclose(energies(data, StudentT(1.0, 1e7), z, False), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dof": 0.0}, "dof of Student-t noise must be positive; got 0.0"),
        ({"dof": math.inf}, "dof of Student-t noise must be positive; got inf"),
        ({"sigma": -1.0}, "sigma of Student-t noise must be positive; got -1.0"),
        ({"sigma": 1.0, "prior": stats.uniform(0, 1)}, "Student-t noise takes a known sigma or a prior for an unknown"),
    ],
)
def test_student_t_noise_that_is_none_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        StudentT(**arguments)


@pytest.mark.parametrize(
    "noise",
    [
        Gaussian(),
        Gaussian(np.array([0.1, 0.2])),
        StudentT(0.1),
        StudentT(dof=3.0, prior=stats.loguniform(0.01, 1.0)),
        Poisson(),
        Poisson(2.0),
        Poisson(scale=1.0427),
        Poisson(np.array([1.0, 2.0]), np.array([0.5, 0.25])),
    ],
    ids=str,
)
def test_a_noise_is_written_to_a_recipe_and_read_back(noise: Noise, tmp_path: Path) -> None:
    analysis = Analysis(peaks(counts=[0, 1]), noise=noise)
    analysis.save(tmp_path / "recipe.toml")
    again = Analysis.load(tmp_path / "recipe.toml")
    assert str(again.noise) == str(noise)
    assert again.digest == analysis.digest
    assert again.digest != Analysis(peaks(counts=[0, 1]), noise=Gaussian(5.0)).digest


def test_a_recipe_names_the_noises_that_there_are() -> None:
    with pytest.raises(ValueError, match="must be one of 'gaussian', 'student-t', 'poisson'; got 'cauchy'"):
        Analysis.from_table({"candidates": {"family": "peaks"}, "noise": {"kind": "cauchy"}})
    with pytest.raises(ValueError, match="unknown entry 'scatter'; it may have sigma, dof, prior"):
        Analysis.from_table({"candidates": {"family": "peaks"}, "noise": {"kind": "student-t", "scatter": 1}})


@pytest.mark.parametrize(("mean", "single"), [(0.3, True), (1e4, True), (1e6, False)])
def test_counts_few_and_many_have_the_log_likelihood_of_scipy(mean: float, single: bool) -> None:
    """In float32 as far as it goes: to a hundredth of a nat beside the best fit."""
    y = np.random.default_rng(3).poisson(mean, 200).astype(float)
    data = Dataset(np.arange(200.0), y, counts=True)
    noise, prior = noise_for(data, None), stats.norm(mean, 3 * math.sqrt(mean / 200))
    (block,) = blocks_of([data], [noise], [])
    assert single_precision_is_enough(block) is single
    z = np.array([[-0.3], [0.0], [0.4]])
    expected = [-np.sum(stats.poisson.logpmf(y, rate)) for rate in prior.ppf(stats.norm.cdf(z[:, 0]))]
    np.testing.assert_allclose(energies(data, noise, z, single, prior), expected, rtol=0, atol=0.02)


def test_zero_counts_need_a_prior_and_then_say_how_low_the_rate_is() -> None:
    data = Dataset(np.arange(20.0), np.zeros(20), counts=True)
    with pytest.raises(ValueError, match=r"y \('y'\) is 0 at all 20 points.*give priors="):
        select(data, peaks(counts=[0]))
    selection = select(data, level_alone(stats.expon(scale=10.0)), seed=0)
    assert_log_evidence(selection, -math.log(1.0 + 20 * 10.0))
    assert selection.best.parameters["level"].mean == pytest.approx(1 / 20.1, rel=0.1)


def test_an_expected_count_is_never_below_zero() -> None:
    data = Dataset(np.arange(20.0), np.zeros(20), counts=True)
    selection = select(data, level_alone(stats.uniform(-5, 6)), seed=0)
    assert_log_evidence(selection, math.log((5.0 + (1.0 - math.exp(-20.0)) / 20.0) / 6.0))
    assert selection.best.fit.mean.min() >= 0.0
    assert selection.best.fit.low.min() >= 0.0


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_a_peak_among_few_counts_is_found_or_not_as_the_counts_allow(gain: float) -> None:
    """Mean counts of 0.3 beside the peak: most points hold none."""
    x = np.linspace(-3, 3, 121)
    counts = np.random.default_rng(5).poisson(0.3 + 6.0 * np.exp(-0.5 * ((x - 0.5) / 0.2) ** 2)).astype(float)
    selection = select(Dataset(x, gain * counts), peaks(counts=range(0, 4)), Poisson(scale=gain), seed=0)
    assert selection.best.model.name == "1 peak"
    assert selection.trustworthy
    values = selection.best.parameters
    assert abs(values["peak1.center"].mean - 0.5) < 4 * values["peak1.center"].sd
    assert abs(values["peak1.amplitude"].mean / gain - 6.0) < 4 * values["peak1.amplitude"].sd / gain


def test_the_scale_moves_the_units_and_nothing_else() -> None:
    """Amplitudes follow the unit of y; evidence, and what else is said of the counts, stays."""
    x = np.linspace(-1, 1, 61)
    counts = np.random.default_rng(6).poisson(20 + 80 * np.exp(-0.5 * (x / 0.2) ** 2)).astype(float)
    plain = select(Dataset(x, counts), peaks(counts=[1]), Poisson(), seed=0)
    scaled = select(Dataset(x, 1.5 * counts), peaks(counts=[1]), Poisson(scale=1.5), seed=0)
    error = math.hypot(plain.log_evidence_error[0], scaled.log_evidence_error[0])
    assert abs(plain.log_evidence[0] - scaled.log_evidence[0]) < 4 * error
    height = plain.best.parameters["peak1.amplitude"]
    assert scaled.best.parameters["peak1.amplitude"].mean == pytest.approx(1.5 * height.mean, abs=0.3 * height.sd)
    np.testing.assert_allclose(scaled.best.fit.residual, plain.best.fit.residual, atol=0.1)
    assert scaled.best.diagnostics.p_fit == pytest.approx(plain.best.diagnostics.p_fit, abs=0.15)
    assert "Poisson noise, y = 1.5 * counts" in scaled.notes


@pytest.mark.parametrize(
    ("y", "scale", "sentence"),
    [
        ([2.5, 5.0, 6.0], 2.5, r"1 of 3 values are negative or not whole, the first is 2.4; give the scale with all"),
        ([2.5, 5.0, -2.5], 2.5, "1 of 3 values are negative or not whole, the first is -1;"),
        ([2.5, 5.0, 7.5], [2.5, 2.5], "scale of Poisson noise has 2 values for 3 points"),
        ([2.5, 5.0, 7.5], 0.0, "scale of Poisson noise must be positive; got 0.0"),
    ],
)
def test_what_is_no_multiple_of_counts_is_refused_in_a_sentence(y: list[float], scale: Any, sentence: str) -> None:
    data = Dataset(np.arange(3.0), np.array(y))
    with pytest.raises(ValueError, match=sentence):
        select(data, peaks(counts=[0]), Poisson(scale=scale))


def test_a_measured_spectrum_of_scaled_counts_is_taken_with_the_scale_that_its_users_know(data_folder: Path) -> None:
    energy, y = np.loadtxt(data_folder / "xps" / "PET_C1s.csv", delimiter=",", skiprows=1).T
    data = Dataset(energy, y)
    counts = Poisson(scale=1.0427).counts(data)
    assert counts[-1] == 311
    np.testing.assert_allclose(1.0427 * counts, data.y, rtol=1e-4)
