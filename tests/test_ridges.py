"""Components that make up for each other, along ridges: a wide peak and a bent background, and two decays.

References are integrals over two parameters of shape on a grid, of Laplace's integral over the amplitudes: exact for
Gaussian noise, and nearly so for the others, since so many points determine a few amplitudes well.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from problems import decay, level
from scipy import special, stats

from bluesky_bayes import Candidates, Dataset, Gaussian, Model, Poisson, StudentT, select
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import peaks
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.noise import Noise
from bluesky_bayes.priors import Prior

X, T = np.linspace(-3, 3, 200), np.linspace(0, 3, 120)
SIGMA, N_GRID, STEPS, DOF, N_DRAWS = 10.0, 81, 15, 4.0, 20_000
Likelihood = Callable[[Array, Array], tuple[Array, Array, Array, Array]]
"""Of y and curves: log density at each point, its slope, a weight to step by, and minus its second derivative."""


class Problem(NamedTuple):
    """Candidates of one model, its true curve, and what the integral needs.

    Attributes
    ----------
    ranges : (2, 2) tuple of float
        Uniform priors of two parameters of shape: low end and width.
    design : callable
        Unit curves (n_grid, n_points, n_amplitudes) for all values of the first and one of the second.
    mean, sd : (n_amplitudes,) float64
        Of the amplitudes' normal priors.
    """

    candidates: Candidates
    curve: Array
    ranges: tuple[tuple[float, float], tuple[float, float]]
    design: Callable[[Array, float], Array]
    mean: Array
    sd: Array


def normal_priors(names: Sequence[str], mean: Array, sd: Array) -> dict[str, Prior | None]:
    return {name: stats.norm(m, s) for name, m, s in zip(names, mean, sd, strict=True)}


def lorentzian_on_a_parabola() -> Problem:
    ranges = (-1.0, 2.0), (0.5, 2.5)
    mean, sd = 100.0 * np.array([2.0, 1.0, 0.0, 0.0]), 100.0 * np.array([1.0, 1.0, 0.5, 0.5])
    priors: dict[str, Prior | None] = {"center": stats.uniform(*ranges[0]), "gamma": stats.uniform(*ranges[1])}
    priors |= normal_priors(("amplitude", "c0", "c1", "c2"), mean, sd)

    def design(center: Array, gamma: float) -> Array:
        powers = [np.tile(X**k, (center.size, 1)) for k in range(3)]
        return np.stack([1.0 / (1.0 + ((X - center[:, None]) / gamma) ** 2), *powers], axis=2)

    curve = 100.0 * (1 + 0.3 * X + 2 * np.exp(-0.5 * (X / 1.2) ** 2))
    return Problem(peaks("lorentzian", [1], background="quadratic", priors=priors), curve, ranges, design, mean, sd)


def two_decays() -> Problem:
    """Of rates that lie apart, so that the components are not exchangeable."""
    ranges, mean, sd = ((0.0, 2.0), (2.0, 4.0)), np.array([300.0, 300.0, 100.0]), np.array([200.0, 200.0, 100.0])
    terms = [Term(name, decay, (Slot(f"{name}.amplitude"), Slot(f"{name}.rate"))) for name in ("slow", "fast")]
    priors = normal_priors(("slow.amplitude", "fast.amplitude", "level"), mean, sd)
    priors |= {f"{name}.rate": stats.uniform(*span) for name, span in zip(("slow", "fast"), ranges, strict=True)}
    model = Model("decays", (*terms, Term("level", level, (Slot("level"),))), priors)

    def design(slow: Array, fast: float) -> Array:
        decays = [np.exp(-np.broadcast_to(rate, (slow.size, 1)) * T) for rate in (slow[:, None], fast)]
        return np.stack([*decays, np.ones_like(decays[0])], axis=2)

    curve = 100.0 * (1 + 4 * np.exp(-0.5 * T) + 5 * np.exp(-4 * T))
    return Problem(Candidates((model,), (1.0,)), curve, ranges, design, mean, sd)


def over_amplitudes(design: Array, mean: Array, sd: Array, y: Array, likelihood: Likelihood) -> Array:
    """Log of Laplace's integral over the amplitudes, for each of the unit curves (n, n_points, n_amplitudes)."""
    turned, prior = design.transpose(0, 2, 1), stats.norm(mean, sd)

    def bent(weight: Array) -> Array:
        bend: Array = turned @ (weight[:, :, None] * design) + np.diag(sd**-2)
        return bend

    a = np.tile(mean, (len(design), 1))
    for _ in range(STEPS):
        _, slope, weight, _ = likelihood(y, (design @ a[:, :, None])[:, :, 0])
        pull = turned @ slope[:, :, None] - ((a - mean) / sd**2)[:, :, None]
        a = a + np.linalg.solve(bent(weight), pull)[:, :, 0]
    log_p, _, _, weight = likelihood(y, (design @ a[:, :, None])[:, :, 0])
    height = log_p.sum(axis=1) + prior.logpdf(a).sum(axis=1)
    total: Array = height + 0.5 * mean.size * np.log(2.0 * np.pi) - 0.5 * np.linalg.slogdet(bent(weight))[1]
    return total


def log_z(problem: Problem, y: Array, likelihood: Likelihood) -> float:
    """Log evidence."""
    edges = np.linspace(0, 1, N_GRID + 1)
    firsts, seconds = (low + span * 0.5 * (edges[1:] + edges[:-1]) for low, span in problem.ranges)
    rows = [
        over_amplitudes(problem.design(firsts, second), problem.mean, problem.sd, y, likelihood) for second in seconds
    ]
    return float(special.logsumexp(rows) - 2.0 * np.log(N_GRID))


def normal(y: Array, curve: Array) -> tuple[Array, Array, Array, Array]:
    weight = np.full(curve.shape, SIGMA**-2.0)
    return stats.norm(curve, SIGMA).logpdf(y), (y - curve) / SIGMA**2, weight, weight


def counting(y: Array, curve: Array) -> tuple[Array, Array, Array, Array]:
    rate = np.maximum(curve, 1.0)
    return stats.poisson(rate).logpmf(y), y / rate - 1.0, 1.0 / rate, y / rate**2


def heavy(y: Array, curve: Array) -> tuple[Array, Array, Array, Array]:
    """Student's t."""
    u = (y - curve) / SIGMA
    weight = (DOF + 1) / (DOF + u * u) / SIGMA**2
    return stats.t(DOF, curve, SIGMA).logpdf(y), weight * (y - curve), weight, weight * (DOF - u * u) / (DOF + u * u)


def measured(curve: Array, noise: Noise) -> Dataset:
    rng, x = np.random.default_rng(5), T if curve.size == T.size else X
    if isinstance(noise, Poisson):
        return Dataset(x, rng.poisson(curve).astype(float), counts=True)
    noises = rng.standard_t(DOF, x.size) if isinstance(noise, StudentT) else rng.standard_normal(x.size)
    return Dataset(x, curve + SIGMA * noises)


@pytest.mark.parametrize("pose", [lorentzian_on_a_parabola, two_decays])
@pytest.mark.parametrize(
    ("noise", "likelihood"), [(Gaussian(SIGMA), normal), (Poisson(), counting), (StudentT(SIGMA, dof=DOF), heavy)]
)
def test_components_that_make_up_for_each_other_have_the_evidence_of_their_integral(
    pose: Callable[[], Problem], noise: Noise, likelihood: Likelihood
) -> None:
    """Without steps that carry the amplitudes counts were half a nat low where 0.06 was stated, at times unwarned."""
    problem = pose()
    data = measured(problem.curve, noise)
    expected = log_z(problem, data.y, likelihood)
    for seed in range(2):
        found = select(data, problem.candidates, noise, seed=seed)
        assert found.log_evidence_error[0] < 0.06
        assert abs(found.log_evidence[0] - expected) < 4 * found.log_evidence_error[0] + 0.01


def test_a_recovery_whose_end_is_not_seen_has_the_evidence_of_its_integral() -> None:
    """One amplitude in two terms; steps of one parameter at a time left half of the answers not to be trusted."""
    times, sigma, mean, sd = np.linspace(0, 1, 100), 0.3, np.array([1000.0]), np.array([500.0])
    terms = (Term("lack", decay, (Slot("signal", scale=-1.0), Slot("rate"))), Term("level", level, (Slot("signal"),)))
    model = Model("recovery", terms, {"signal": stats.norm(*mean, *sd), "rate": stats.uniform(0, 1)})
    data = Dataset(times, 600 * (1 - np.exp(-0.4 * times)) + np.random.default_rng(0).normal(0, sigma, times.size))

    def within(y: Array, curve: Array) -> tuple[Array, Array, Array, Array]:
        weight = np.full(curve.shape, sigma**-2.0)
        return stats.norm(curve, sigma).logpdf(y), weight * (y - curve), weight, weight

    rates = (np.arange(8000) + 0.5) / 8000
    curves = (1 - np.exp(-rates[:, None] * times))[:, :, None]
    expected = special.logsumexp(over_amplitudes(curves, mean, sd, data.y, within)) - np.log(rates.size)
    for seed in range(4):
        found = select(data, Candidates((model,)), Gaussian(sigma), seed=seed)
        assert found.trustworthy, found.warnings
        assert found.log_evidence_error[0] < 0.02
        assert abs(found.log_evidence[0] - expected) < 4 * found.log_evidence_error[0] + 0.01


@pytest.mark.parametrize("noise", [Gaussian(SIGMA), Gaussian(prior=stats.uniform(5, 10))])
def test_shapes_without_amplitudes_step_together_and_have_the_evidence_of_their_integral(noise: Gaussian) -> None:
    """Two decays of given height, whose rates make up for each other."""
    terms = [Term(name, decay, (Slot(None, offset=100.0), Slot(name))) for name in ("one", "other")]
    model = Model("decays", tuple(terms), dict.fromkeys(("one", "other"), stats.uniform(0, 2)))
    data = Dataset(T, 100 * (np.exp(-0.6 * T) + np.exp(-0.9 * T)) + np.random.default_rng(0).normal(0, SIGMA, T.size))

    rates = (np.arange(150) + 0.5) / 75
    curves = 100 * np.exp(-rates[:, None] * T)
    square = np.sum((data.y - curves[:, None] - curves) ** 2, axis=2)
    sigmas = np.array([SIGMA]) if noise.known else 5 + (np.arange(100) + 0.5) / 10
    log_likelihood = [-0.5 * square / s**2 - T.size * np.log(s * np.sqrt(2 * np.pi)) for s in sigmas]
    expected = special.logsumexp(log_likelihood) - np.log(sigmas.size * rates.size**2)
    for seed in range(2):
        found = select(data, Candidates((model,)), noise, seed=seed)
        assert found.trustworthy, found.warnings
        assert abs(found.log_evidence[0] - expected) < 4 * found.log_evidence_error[0] + 0.01


def test_two_wide_peaks_that_jump_have_the_evidence_of_their_integral() -> None:
    """Places and widths by importance sampling: Student's t about the answer, the peaks in order of place."""
    low, span = np.array([-3.0, 0.3, -3.0, 0.3]), np.array([6.0, 2.7, 6.0, 2.7])
    mean, sd = 100.0 * np.array([2.0, 2.0, 1.0, 0.0, 0.0]), 100.0 * np.array([1.0, 1.0, 1.0, 0.5, 0.5])
    priors: dict[str, Prior | None] = {"center": stats.uniform(-3.0, 6.0), "gamma": stats.uniform(0.3, 2.7)}
    priors |= normal_priors(("amplitude", "c0", "c1", "c2"), mean[1:], sd[1:])
    candidates = peaks("lorentzian", [2], background="quadratic", priors=priors)
    wide = 2 * np.exp(-0.5 * ((X + 0.8) / 0.7) ** 2) + 1.5 * np.exp(-0.5 * ((X - 1) / 0.9) ** 2)
    data = measured(100.0 * (1 + 0.3 * X + wide), Gaussian(SIGMA))
    answers = [select(data, candidates, Gaussian(SIGMA), seed=seed) for seed in range(2)]

    names = ("peak1.center", "peak1.gamma", "peak2.center", "peak2.gamma")
    drawn = np.stack([answers[0].best.draws[name].ravel() for name in names], axis=1)
    proposal = stats.multivariate_t(drawn.mean(axis=0), 1.5 * np.cov(drawn.T), df=4)
    z = proposal.rvs(N_DRAWS, random_state=1)
    inside = z[np.all((z > low) & (z < low + span), axis=1) & (z[:, 0] < z[:, 2])]
    log_prior = np.log(2.0) - np.log(span).sum()
    log_weight = np.concatenate(
        [
            over_amplitudes(both_on_a_parabola(some), mean, sd, data.y, normal) + log_prior - proposal.logpdf(some)
            for some in np.array_split(inside, 1 + len(inside) // 1000)
        ]
    )
    expected = special.logsumexp(log_weight) - np.log(N_DRAWS)
    weight = np.exp(log_weight - log_weight.max())
    uncertainty = np.sqrt(np.sum(weight**2)) / weight.sum()
    assert uncertainty < 0.02
    for answer in answers:
        assert answer.log_evidence_error[0] < 0.1
        assert abs(answer.log_evidence[0] - expected) < 3 * np.hypot(answer.log_evidence_error[0], uncertainty)


def both_on_a_parabola(z: Array) -> Array:
    """Unit curves of two Lorentzians, whose places and widths are rows of (n, 4), and of a parabola."""
    peaks_of = [1.0 / (1.0 + ((X - z[:, i, None]) / z[:, i + 1, None]) ** 2) for i in (0, 2)]
    return np.stack([*peaks_of, *(np.tile(X**k, (len(z), 1)) for k in range(3))], axis=2)
