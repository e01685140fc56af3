"""Closed forms of linear models against the formulas of the papers, dense matrices, quadrature and the samplers."""

import itertools
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import normal_to_sample
from sbc import Family, outcome, score, uniformity
from scipy import integrate, stats

from bluesky_bayes import (
    Analysis,
    Candidates,
    Dataset,
    Gaussian,
    Model,
    Selection,
    StudentT,
    component,
    noise_scan,
    select,
    select_iter,
    select_many,
)
from bluesky_bayes.candidates import family
from bluesky_bayes.dataset import Array
from bluesky_bayes.exact import Design, Factors, solve
from bluesky_bayes.families import linear, peaks
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.planner import noise_until_decided, points_until_decided, selection_probability
from bluesky_bayes.shapes import constant, gaussian

CALIBRATED = Family(
    np.linspace(-1.0, 1.0, 25),
    linear(degrees=[0, 1, 2], priors={"c0": stats.norm(80, 10), "c1": stats.norm(0, 4), "c2": stats.norm(0, 4)}),
)
WIDE = 1e7
"""Of a prior that is as good as uniform."""


def lines(sd: float) -> Candidates:
    return linear({"a": "x", "b": "1"}, priors=dict.fromkeys("ab", stats.norm(0, sd)))


def line_data(n: int, offset: float, seed: int, sigma: float = 1.0) -> Dataset:
    x = np.linspace(-1, 1, n)
    return Dataset(x, 2.0 * x + offset + sigma * np.random.default_rng(seed).standard_normal(n))


def dense(model: Model, data: Dataset, sigma: float | Array) -> float:
    """Log density of the data, which are normal, by matrices as large as they are."""
    design = Design.of(model, data.x)
    reach = design.curves * design.sd
    covariance = reach @ reach.T + np.diag(np.broadcast_to(np.square(sigma), data.y.shape))
    return float(stats.multivariate_normal(design.base + design.curves @ design.mean, covariance).logpdf(data.y))


@pytest.mark.parametrize(("n", "offset", "sigma"), [(5, 0.0, 1.0), (10, 0.4, 1.0), (100, 0.4, 0.3), (1000, 0.02, 7.0)])
def test_a_line_with_or_without_an_offset_has_the_formulas_of_the_paper(n: int, offset: float, sigma: float) -> None:
    """Katakami et al., arXiv:2406.02869, whose priors are uniform from -xi to xi, the limit of wide normal ones."""
    xi, data = 10.0, line_data(n, offset, n, sigma)
    selection = select(data, lines(WIDE), Gaussian(sigma))
    b_hat, mean_square = float(data.y.mean()), float(np.mean(data.x**2))
    a_hat = float(np.mean(data.x * data.y)) / mean_square
    expected = 0.5 * n * (b_hat / sigma) ** 2 - 0.5 * math.log(2 * n * xi**2 / (math.pi * sigma**2))
    per_prior = math.log(WIDE * math.sqrt(2 * math.pi) / (2 * xi))
    without, with_offset = selection.log_evidence
    assert with_offset - without + per_prior == pytest.approx(expected, abs=1e-10)
    misfit = float(np.sum((data.y - a_hat * data.x) ** 2))
    flat = -0.5 * n * math.log(2 * math.pi * sigma**2) - 0.5 * misfit / sigma**2 - math.log(2 * xi)
    flat += 0.5 * math.log(2 * math.pi * sigma**2 / (n * mean_square))
    assert without + per_prior == pytest.approx(flat, abs=1e-10 * max(1.0, abs(flat)))
    found = selection["a x + b"].parameters
    assert found["a"].mean == pytest.approx(a_hat, abs=1e-10)
    assert found["b"].mean == pytest.approx(b_hat, abs=1e-10)
    assert found["a"].sd == pytest.approx(sigma / math.sqrt(n * mean_square), rel=1e-10)
    assert found["b"].sd == pytest.approx(sigma / math.sqrt(n), rel=1e-10)
    assert selection.log_evidence_error.tolist() == [0.0, 0.0]


def test_an_unknown_noise_has_the_variance_of_the_paper() -> None:
    """A log-uniform prior makes 1 / sigma^2 a gamma variable of mean (n - d) / RSS."""
    data = line_data(30, 0.4, 3)
    noise = Gaussian(prior=stats.loguniform(1e-6, 1e6))
    for model, degree in zip(lines(WIDE).resolved(data, noise).models, (1, 2), strict=True):
        columns = np.stack([data.x, np.ones(data.n)][:degree], axis=1)
        rss = float(np.linalg.lstsq(columns, data.y)[1][0])
        solution = solve(model, data, noise)
        assert solution.weight @ solution.sigma**-2 == pytest.approx((data.n - degree) / rss, rel=1e-9)
        precision = solution.draws(4000, np.random.default_rng(0))[1] ** -2
        gamma = stats.gamma(0.5 * (data.n - degree), scale=2.0 / rss)
        assert stats.kstest(precision, gamma.cdf).pvalue > 1e-3


def mixed_model() -> Model:
    """Ties, a sign, a fixed part, priors away from zero and of very different widths."""
    terms = (
        Term("one", gaussian, (Slot("height"), Slot(None, offset=-0.5), Slot(None, offset=0.2))),
        Term("two", gaussian, (Slot("height", -0.5, 0.3), Slot(None, offset=0.4), Slot(None, offset=0.3))),
        Term("level", constant, (Slot("level"),)),
        Term("known", gaussian, (Slot(None, offset=2.0), Slot(None, offset=0.0), Slot(None, offset=0.1))),
    )
    return Model("mixed", terms, {"height": stats.norm(3.0, 40.0), "level": stats.norm(loc=-1.0, scale=0.01)})


@pytest.mark.parametrize("known", ["one", "each", "none"])
def test_ties_and_fixed_parts_and_errors_of_each_point_have_the_dense_closed_form(known: str) -> None:
    rng = np.random.default_rng(5)
    x, model = np.linspace(-1, 1, 40), mixed_model()
    curve = Design.of(model, x)
    sigma = rng.uniform(0.1, 1.0, 40) if known == "each" else 0.3
    data = Dataset(x, curve.base + curve.curves @ [2.0, -1.01] + sigma * rng.standard_normal(40))
    if known == "none":
        answer = select(data, Candidates((model,)), Gaussian(prior=stats.halfnorm(0, 2)))

        def density(t: float) -> float:
            prior = float(stats.halfnorm(0, 2).pdf(math.exp(t)))
            return math.exp(dense(model, data, math.exp(t)) + 10.0 + t) * prior

        integral = sum(
            integrate.quad(density, *ends, epsabs=0, epsrel=1e-11)[0] for ends in ((-2.5, -1.2), (-1.2, 0.5))
        )
        expected, tolerance = math.log(integral) - 10.0, 1e-8
    else:
        answer = select(data, Candidates((model,)), Gaussian(sigma))
        expected, tolerance = dense(model, data, sigma), 1e-10
    assert answer.log_evidence[0] == pytest.approx(expected, abs=tolerance)
    assert answer.trustworthy
    best = answer.best
    assert sum(best.fit.terms.values()) == pytest.approx(best.fit.mean, abs=1e-12)
    assert np.std(best.fit.residual) == pytest.approx(1.0, abs=0.5)
    assert abs(best.parameters["height"].mean - 2.0) < 4 * best.parameters["height"].sd


@pytest.mark.parametrize("noise", [Gaussian(1.0), Gaussian()])
def test_samplers_agree_with_the_closed_form(noise: Gaussian) -> None:
    data = line_data(40, 0.5, 1)
    exact, sampled = (select(data, lines(3.0), noise, sampler=name, seed=1) for name in ("auto", "exchange"))
    assert exact.best.diagnostics.sampler == "exact"
    assert sampled.best.diagnostics.sampler == "exchange"
    gap = np.abs(exact.log_evidence - sampled.log_evidence)
    assert np.all(gap < 4 * sampled.log_evidence_error)
    for a, b in zip(exact.posteriors, sampled.posteriors, strict=True):
        for name, summary in a.parameters.items():
            error = summary.sd / math.sqrt(b.diagnostics.ess)
            assert abs(summary.mean - b.parameters[name].mean) < 4 * error
            assert summary.sd == pytest.approx(b.parameters[name].sd, rel=0.15)
        np.testing.assert_allclose(a.fit.mean, b.fit.mean, atol=0.1)
        np.testing.assert_allclose(a.fit.high - a.fit.low, b.fit.high - b.fit.low, rtol=0.4)


def test_draws_have_the_mean_and_covariance_of_the_posterior() -> None:
    data, model = line_data(12, 0.5, 2), linear(degrees=[4], priors={f"c{n}": stats.norm(1, 2) for n in range(5)})
    answer = select(data, model, Gaussian(0.7))
    (resolved,) = model.resolved(data, Gaussian(0.7)).models
    curves = Design.of(resolved, data.x).curves
    precision = curves.T @ curves / 0.49 + np.eye(5) / 4.0
    mean = np.linalg.solve(precision, curves.T @ data.y / 0.49 + 1.0 / 4.0)
    draws = np.stack([answer.best.draws[f"c{n}"].ravel() for n in range(5)])
    np.testing.assert_allclose(draws.mean(axis=1), mean, atol=1e-10)
    np.testing.assert_allclose(np.cov(draws), np.linalg.inv(precision), atol=1e-10)
    np.testing.assert_allclose(answer.best.fit.mean, curves @ mean, atol=1e-10)


def test_more_functions_than_points_are_answered_exactly_and_too_many_to_sample_are_refused() -> None:
    x = np.linspace(0.0, 1.0, 15)
    data = Dataset(x, np.sin(5 * x) + 0.1 * np.random.default_rng(0).standard_normal(15))
    bumps = family(
        gaussian, [30], background=None, priors={"amplitude": stats.norm(0, 1)}, fixed={"center": 0.5, "sigma": 0.3}
    )
    answer = select(data, bumps, Gaussian(0.1))
    (model,) = bumps.resolved(data, Gaussian(0.1)).models
    assert answer.log_evidence[0] == pytest.approx(dense(model, data, 0.1), abs=1e-10)
    heights = [answer.best.draws[name] for name in answer.best.draws]
    assert all(np.all(a <= b) for a, b in itertools.pairwise(heights))
    with pytest.raises(ValueError, match="has 30 components, and at most 20 can be analysed"):
        select(data, bumps, Gaussian(0.1), sampler="exchange")


def test_an_exact_answer_says_so_and_is_stored_and_asked_again(tmp_path: Path) -> None:
    data = line_data(40, 0.5, 1)
    answer = select(data, lines(3.0))
    assert answer.notes[-1].startswith("evidence and posteriors are exact: every model is linear, with normal priors; ")
    assert answer.notes[-1].endswith("the integral over the noise is sure to 1e-09 nats")
    assert answer.sampler == "auto"
    answer.save(tmp_path / "line.nc")
    for again in (Selection.load(tmp_path / "line.nc"), pickle.loads(pickle.dumps(answer))):
        assert again.verdict == answer.verdict
        np.testing.assert_array_equal(again.best.draws["a"], answer.best.draws["a"])
        assert again.refine() is again
    assert [s.verdict for s in select_iter(data, lines(3.0), sampler="exact")] == [answer.verdict]
    assert answer.plot().axes and answer.plot_trace().axes


def test_questions_with_and_without_a_closed_form_are_answered_side_by_side_and_in_order() -> None:
    counts = Dataset(np.arange(9.0), np.arange(50.0, 59.0), counts=True)
    plain = Dataset(counts.x, counts.y)
    candidates = linear({"b": "1", "a": "x"}, priors={"a": stats.norm(1, 0.1), "b": stats.norm(50, 3)})
    answers = select_many([plain, counts, plain], candidates)
    assert [answer.best.diagnostics.sampler == "exact" for answer in answers] == [True, False, True]
    assert answers[0].verdict == select(plain, candidates).verdict


def test_every_noise_at_once_is_exact_too() -> None:
    data = line_data(40, 0.5, 1)
    scan = noise_scan(data, lines(3.0))
    models = lines(3.0).resolved(data, Gaussian(1.0)).models
    expected = [[dense(model, data, sigma) for sigma in scan.sigma] for model in models]
    np.testing.assert_allclose(scan.log_evidence, expected, atol=1e-9)
    assert not scan.log_evidence_error.any()


def test_data_without_scatter_press_the_noise_against_its_prior() -> None:
    x = np.linspace(-1, 1, 20)
    answer = select(Dataset(x, 2 * x + 1), lines(3.0))
    assert any("noise_sigma at the lower edge" in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    ("candidates", "noise", "sentence"),
    [
        (peaks(counts=[1]), Gaussian(1.0), "model '1 peak' is not linear in 'peak1.center'; use sampler='auto'"),
        (
            linear({"a": "x"}, priors={"a": stats.uniform(0, 1)}),
            Gaussian(1.0),
            r"the prior of 'a' in model 'a x' is not normal: uniform\(0, 1\)",
        ),
        (lines(1.0), StudentT(1.0), "it needs Gaussian noise, and here is Student-t noise, sigma = 1"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_words(candidates: Candidates, noise: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"there is no exact answer: {sentence}"):
        select(line_data(10, 0.0, 0), candidates, noise, sampler="exact")


def test_default_priors_are_as_wide_as_each_term_alone_needs_and_free_of_units() -> None:
    data = line_data(40, 0.5, 1)
    (model,) = linear({"a": "x", "b": "1"}, {"both": ["a", "b"]}).resolved(data, Gaussian(1.0)).models
    a, b = (model.priors[name] for name in "ab")
    assert a is not None and b is not None
    assert a.dist.std(*a.args) == pytest.approx(float(np.std(data.y) / np.std(data.x)))
    assert b.dist.std(*b.args) == pytest.approx(math.sqrt(float(np.mean(data.y**2))))
    moved = Dataset(1e-3 * data.x, 1e6 * data.y)
    gaps = [np.diff(select(d, linear({"a": "x", "b": "1"})).log_evidence)[0] for d in (data, moved)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-8)
    with pytest.raises(ValueError, match="no default prior for 'a', since y is zero"):
        select(Dataset(data.x, np.zeros(data.n)), linear({"a": "x"}), Gaussian(1.0))
    with pytest.raises(ValueError, match="since the curve of 'a' is zero"):
        select(data, linear({"a": nothing}), Gaussian(1.0))


def nothing(x: float) -> float:
    return 0.0


def decay(x: float) -> float:
    return math.exp(-x)


@component
def with_rate(x: float, rate: float) -> float:
    return math.exp(-rate * x)


def test_any_function_can_be_a_basis() -> None:
    x = np.linspace(0, 3, 30)
    data = Dataset(
        x, 1.5 * np.exp(-x) + 0.2 * x + 0.05 * np.random.default_rng(0).standard_normal(30), units={"y": "V"}
    )
    candidates = linear({"d": decay, "s": "x"})
    assert candidates.names == ("d decay(x)", "d decay(x) + s x")
    answer = select(data, candidates)
    assert answer.decisive()
    assert answer.best.unit("d", data.units) == "V"
    assert abs(answer.best.parameters["d"].mean - 1.5) < 4 * answer.best.parameters["d"].sd


@pytest.mark.parametrize(
    "candidates",
    [
        linear(degrees=[0, 2]),
        linear({"a": "x", "b": "1"}, priors={"a": stats.norm(0, 3)}, probabilities=[0.3, 0.7]),
        linear({"a": "x^2", "b": "1"}, {"flat": ["b"], "bent": ["a", "b"]}),
    ],
)
def test_a_recipe_makes_the_same_candidates_again(candidates: Candidates, tmp_path: Path) -> None:
    analysis = Analysis(candidates)
    analysis.save(tmp_path / "linear.toml")
    assert Analysis.load(tmp_path / "linear.toml").digest == analysis.digest


def test_functions_of_your_own_have_no_recipe() -> None:
    with pytest.raises(ValueError, match="a component of your own"):
        Analysis(linear({"d": decay})).to_table()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: linear(), "either degrees=.* or a basis"),
        (lambda: linear({"a": "x"}, degrees=[1]), "either degrees=.* or a basis"),
        (lambda: linear(degrees=[0, 10]), "degrees must be different whole numbers from 0 to 9"),
        (lambda: linear({"a": "x**2"}), "function of 'a' must be one of '1', 'x', 'x.2'"),
        (lambda: linear({"a": math.sin}), "function of 'a' must be a plain function of x, written with def"),
        (lambda: linear({"a": with_rate}), "must be one of x alone; 'with_rate' also takes rate"),
        (lambda: linear({"a": "x"}, {"m": ["b"]}), "model 'm' names 'b' which is not in the basis; that has a"),
        (lambda: linear({"a": "x"}, {"m": ["a", "a"]}), "model 'm' names 'a' twice"),
        (lambda: linear({"a": "x"}, priors={"b": stats.norm(0, 1)}), "priors name 'b', which no model here has"),
    ],
)
def test_bad_input_gets_a_sentence(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


N_SIMULATED = 2000


def frequency(candidates: Candidates, x: Array, sigma: float, truth: str, given: dict[str, float]) -> float:
    """How often data of a model make it the most probable, by making and analysing many."""
    rng = np.random.default_rng(7)
    models = candidates.resolved(Dataset(x, np.zeros(x.size)), Gaussian(sigma)).models
    designs, one = [Design.of(model, x) for model in models], np.ones(1)
    design = designs[candidates.names.index(truth)]
    won = 0
    for _ in range(N_SIMULATED):
        drawn = design.mean + design.sd * rng.standard_normal(design.mean.size)
        coefficients = [given.get(name, value) for name, value in zip(design.names, drawn, strict=True)]
        y = design.base + design.curves @ coefficients + sigma * rng.standard_normal(x.size)
        log_z = [Factors.of(each, y, np.full(x.size, sigma)).log_evidence(one)[0] for each in designs]
        won += candidates.names[int(np.argmax(log_z))] == truth
    return won / N_SIMULATED


SQUARE = linear(
    {"a": "x", "b": "1", "c": "x^2"},
    {"a x": ["a"], "all": ["a", "b", "c"]},
    priors=dict.fromkeys("abc", stats.norm(0, 2)),
)


@pytest.mark.parametrize(
    ("candidates", "truth", "given", "exact"),
    [
        (lines(8.0), "a x", {"a": 2.0}, True),
        (lines(8.0), "a x + b", {"a": 2.0, "b": 0.6}, True),
        (lines(8.0), "a x + b", {"a": 2.0}, True),
        (SQUARE, "all", {"a": 1.0, "b": 0.2, "c": 0.5}, False),
        (CALIBRATED.candidates, "degree 1", {"c0": 80.0}, False),
    ],
)
def test_simulated_selection_frequencies_are_those_of_the_plan(
    candidates: Candidates, truth: str, given: dict[str, float], exact: bool
) -> None:
    x = np.linspace(-1, 1, 15)
    chance = selection_probability(candidates, x, 1.0, truth, given)
    assert (chance.error == 0.0) == exact
    binomial = math.sqrt(chance.probability * (1 - chance.probability) / N_SIMULATED)
    found = frequency(candidates, x, 1.0, truth, given)
    assert 0.05 < chance.probability < 0.999
    assert abs(found - chance.probability) < 4 * math.hypot(binomial, chance.error)


@pytest.mark.parametrize(("n", "expected"), [(5, 0.0164), (10, 0.0111), (20, 0.0075), (100, 0.0031), (1000, 0.0009)])
def test_a_needless_offset_is_chosen_as_rarely_as_the_paper_says(n: int, expected: float) -> None:
    """For uniform priors of half width 10, matched by normal ones of the same density at zero."""
    x, xi = np.linspace(-1, 1, n), 10.0
    candidates = lines(xi * math.sqrt(2 / math.pi))
    chosen = 1.0 - selection_probability(candidates, x, 1.0, "a x", {"a": 3.0}).probability
    assert chosen == pytest.approx(expected, rel=0.04)
    gain = n * 2 * xi**2 / math.pi
    edge = math.sqrt((1 + 1 / gain) * math.log1p(gain))
    assert chosen == pytest.approx(2 * stats.norm.sf(edge), abs=1e-10)
    for b in (0.1, 0.5, 2.0):
        shifted = math.sqrt(n) * b
        expected = 1.0 - (stats.norm.cdf(edge - shifted) - stats.norm.cdf(-edge - shifted))
        found = selection_probability(candidates, x, 1.0, "a x + b", {"b": b})
        assert found.probability == pytest.approx(expected, abs=1e-10)
        assert found.error == 0.0


def test_models_without_unknowns_are_told_apart_by_a_normal_distribution() -> None:
    def fixed(value: float) -> Model:
        return Model(f"{value}", (Term("level", constant, (Slot(None, offset=value),)),), {})

    x = np.arange(9.0)
    found = selection_probability(Candidates((fixed(0.0), fixed(0.5))), x, 1.0, "0.5", margin=0.3)
    assert found.probability == pytest.approx(stats.norm.sf((0.3 - 9 / 8) / 1.5), abs=1e-12)


def test_points_and_noise_until_the_right_model_is_chosen() -> None:
    candidates, truth, given = lines(5.0), "a x + b", {"a": 2.0, "b": 0.4}

    def probability(n: int, sigma: float) -> float:
        return selection_probability(candidates, np.linspace(-1, 1, n), sigma, truth, given, margin=1.0).probability

    n = points_until_decided(candidates, (-1.0, 1.0), 1.0, truth, given, margin=1.0)
    assert probability(n, 1.0) >= 0.95 > probability(n - 1, 1.0)
    sigma = noise_until_decided(candidates, np.linspace(-1, 1, 20), truth, given, margin=1.0)
    assert probability(20, sigma) >= 0.95 > probability(20, 1.001 * sigma)
    assert points_until_decided(candidates, (-1.0, 1.0), sigma, truth, given, margin=1.0) == 20


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: selection_probability(lines(1.0), [0.0, 1.0], 1.0, "b"),
            "there is no model 'b' here; there are 'a x'",
        ),
        (lambda: selection_probability(lines(1.0), [0, 1], 1.0, "a x", {"b": 1}), "'a x' has no coefficient 'b'"),
        (lambda: selection_probability(lines(1.0), [0, 1], -1.0, "a x"), "sigma of Gaussian noise must be positive"),
        (lambda: selection_probability(linear({"a": "x"}), [0, 1], 1.0, "a x"), "no data to take a prior of 'a' from"),
        (
            lambda: selection_probability(linear({"a": "x"}, priors={"a": normal_to_sample(0, 1)}), [0, 1], 1.0, "a x"),
            "nothing to plan with: the prior of 'a'",
        ),
        (
            lambda: points_until_decided(lines(1.0), (-1, 1), 1.0, "a x + b", {"b": 0.0}),
            r"100000 points choose 'a x \+ b' with a probability of 0.00. only",
        ),
        (
            lambda: noise_until_decided(lines(1.0), [-1.0, 1.0], "a x + b", {"b": 0.0}),
            "noise of a millionth of the curve chooses",
        ),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused_in_words(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("noise", ["known", "unknown"])
def test_truths_lie_anywhere_in_their_posteriors_and_models_are_as_probable_as_stated(noise: str) -> None:
    outcomes = [outcome("linear", noise, seed) for seed in range(40)]
    names = {name for result in outcomes for name in result.ranks}
    p = [uniformity([result.ranks[name] for result in outcomes if name in result.ranks]).p for name in names]
    assert min(p) * len(p) > 1e-3
    assert abs(score(outcomes).deviation) < 3.3
