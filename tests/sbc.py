"""Simulation-based calibration: what is inferred from data that were made from the priors has its stated accuracy.

A model is drawn from its prior probability, parameters from their priors, data from both. Over many such data sets the
ranks of the true parameters among draws of their posteriors are uniform (Talts et al., arXiv 1804.06788), and a model
that was given the probability p is the true one in a fraction p of the cases. The evidence is off by as much as its
error says.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from problems import decay, normal_to_sample
from scipy import special, stats

from bluesky_bayes import Candidates, Dataset, Gaussian, Model, Poisson, Selection, Settings, StudentT, select
from bluesky_bayes.candidates import family
from bluesky_bayes.dataset import Array, BoolArray
from bluesky_bayes.families import peaks
from bluesky_bayes.noise import SIGMA, Noise

IntArray: TypeAlias = npt.NDArray[np.int64]

N_DRAWS = 63
"""Posterior draws that a truth is ranked among, so that ranks run from 0 to 63."""
SCORES = special.ndtri((np.arange(N_DRAWS + 1) + 0.5) / (N_DRAWS + 1))
N_BINS = 8
N_NULL = 40_000
KNOWN_SIGMA = 5.0
QUICK = Settings(sweeps=200, chains=4, error=0.2, longest=3200)


class NoiseKind(NamedTuple):
    """What is assumed about the scatter, and how data scatter: ``scatter(rng, curve, sigma)``."""

    noise: Noise
    scatter: Callable[[np.random.Generator, Array, float], Array]


def _added(draw: Callable[[np.random.Generator, int], Array]) -> Callable[[np.random.Generator, Array, float], Array]:
    return lambda rng, curve, sigma: curve + sigma * draw(rng, curve.size)


def _counts(rng: np.random.Generator, curve: Array, sigma: float) -> Array:
    return rng.poisson(curve).astype(np.float64)


NOISES = {
    "known": NoiseKind(Gaussian(KNOWN_SIGMA), _added(np.random.Generator.standard_normal)),
    "unknown": NoiseKind(Gaussian(prior=stats.loguniform(2.0, 20.0)), _added(np.random.Generator.standard_normal)),
    "heavy tails": NoiseKind(StudentT(KNOWN_SIGMA, dof=4.0), _added(lambda rng, n: rng.standard_t(4.0, n))),
    "counts": NoiseKind(Poisson(), _counts),
}


class Family(NamedTuple):
    """Candidates whose priors know nothing of the data, and where the data lie."""

    x: Array
    candidates: Candidates


FAMILIES = {
    "peaks": Family(
        np.linspace(-3.0, 3.0, 31),
        peaks(
            counts=[1, 2],
            priors={
                "amplitude": stats.uniform(10, 80),
                "center": stats.uniform(-2.5, 5),
                "sigma": stats.uniform(0.2, 0.8),
                "constant": stats.uniform(5, 25),
            },
        ),
    ),
    "decays": Family(
        np.linspace(0.0, 4.0, 33),
        family(
            decay,
            [1, 2],
            priors={
                "amplitude": stats.uniform(10, 80),
                "rate": stats.loguniform(0.3, 10),
                "constant": stats.uniform(5, 25),
            },
        ),
    ),
    "polynomials": Family(
        np.linspace(-1.0, 1.0, 25),
        Candidates(
            tuple(
                Model(f"degree {degree}", model.terms, model.priors)
                for degree in range(3)
                for model in peaks(
                    counts=[0],
                    background=degree,
                    priors={
                        f"c{n}": normal_to_sample(80.0 if n == 0 else 0.0, 10.0 if n == 0 else 4.0)
                        for n in range(degree + 1)
                    },
                ).models
            )
        ),
    ),
}


def family_named(name: str) -> Family:
    """One of `FAMILIES`, or what the tests of a family of that name call `CALIBRATED`."""
    if name in FAMILIES:
        return FAMILIES[name]
    calibrated: Family = importlib.import_module(f"test_{name}").CALIBRATED
    return calibrated


class Outcome(NamedTuple):
    """One data set made and analysed.

    Attributes
    ----------
    truth : int
        Index of the model that made the data.
    ranks : mapping of str to int
        Rank of each of its parameters among `N_DRAWS` draws of its posterior.
    size : float
        Smallest effective sample size of its parameters.
    probabilities, log_evidence, error : (n_models,) float64
        What was found.
    exact : (n_models,) float64
        Log evidence where it has a closed form, else not a number.
    """

    truth: int
    ranks: Mapping[str, int]
    size: float
    probabilities: Array
    log_evidence: Array
    error: Array
    exact: Array


def outcome(
    family_name: str, noise_name: str, seed: int, settings: Settings = QUICK, noise_factor: float = 1.0
) -> Outcome:
    """Make a data set and analyse it; its noise is `noise_factor` times as large as the analysis is told."""
    truth, theta, data = simulated(family_name, noise_name, seed, noise_factor)
    # Each data set has a seed of its own: with one seed for all, the ranks would share random numbers.
    selection = analysed(family_name, noise_name, data, seed, settings)
    posterior = selection.posteriors[truth]
    ranks = {name: rank(posterior.draws[name], value) for name, value in theta.items()}
    models = [p.model for p in selection.posteriors]
    exact = np.array([exact_log_evidence(model, data, selection.noise) for model in models])
    return Outcome(
        truth, ranks, posterior.diagnostics.ess, selection.probabilities, selection.log_evidence,
        selection.log_evidence_error, exact,
    )  # fmt: skip


def analysed(family_name: str, noise_name: str, data: Dataset, seed: int, settings: Settings = QUICK) -> Selection:
    """The answer for a data set, with the candidates and the noise of those names."""
    candidates, noise = family_named(family_name).candidates, NOISES[noise_name].noise
    return select(data, candidates, noise, seed=seed, settings=settings, threads=1)


def simulated(
    family_name: str, noise_name: str, seed: int, noise_factor: float = 1.0
) -> tuple[int, dict[str, float], Dataset]:
    """The index of a model, its parameters with exchangeable components in order, and data."""
    x, candidates = family_named(family_name)
    noise, scatter = NOISES[noise_name]
    rng = np.random.default_rng([seed, *family_name.encode(), *noise_name.encode()])
    truth = int(rng.choice(len(candidates.models), p=candidates.probabilities))
    model = candidates.resolved(Dataset(x, np.zeros_like(x)), noise).models[truth]
    theta = {name: float(prior.ppf(rng.uniform())) for name, prior in model.priors.items() if prior is not None}
    sigma = noise_factor * theta.get(SIGMA, KNOWN_SIGMA)
    y = scatter(rng, curve(model, x, theta), sigma)
    return truth, ordered(model, theta), Dataset(x, y, counts=isinstance(noise, Poisson))


def curve(model: Model, x: Array, theta: Mapping[str, float]) -> Array:
    """The model's curve, slowly and obviously."""
    total = np.zeros_like(x)
    for term in model.terms:
        total += term.component(
            x, *(s.offset + (s.scale * theta[s.parameter] if s.parameter else 0.0) for s in term.slots)
        )
    return total


def ordered(model: Model, theta: Mapping[str, float]) -> dict[str, float]:
    """Parameters with exchangeable components in the order of their summaries."""
    result = dict(theta)
    for group in model.exchangeable:
        terms = [model.terms[t] for t in group]
        component = terms[0].component
        key = [p.name for p in component.parameters].index(component.sort_by)
        sources = sorted(terms, key=lambda term: theta[term.slots[key].parameter or ""])
        for term, source in zip(terms, sources, strict=True):
            for slot, other in zip(term.slots, source.slots, strict=True):
                if slot.parameter is not None and other.parameter is not None:
                    result[slot.parameter] = theta[other.parameter]
    return result


def rank(draws: Array, value: float) -> int:
    """How many of `N_DRAWS` draws, evenly spaced among all, lie below a value."""
    flat = draws.ravel()
    at = ((np.arange(N_DRAWS) + 0.5) * flat.size / N_DRAWS).astype(np.intp)
    return int(np.sum(flat[at] < value))


def exact_log_evidence(model: Model, data: Dataset, noise: Noise) -> float:
    """Closed form for sums of fixed curves with `normal_to_sample` priors and Gaussian noise, else not a number.

    The data are normally distributed then. An unknown standard deviation of log-uniform prior takes one integral more.
    """
    names = [name for name in model.parameters if name != SIGMA]
    given = {name: prior for name, prior in model.priors.items() if prior is not None}
    if not names or not isinstance(noise, Gaussian) or any(given[name].dist.name != "truncnorm" for name in names):
        return math.nan
    design = np.stack([curve(model, data.x, {**dict.fromkeys(names, 0.0), name: 1.0}) for name in names], axis=1)
    mean, sd = np.transpose([given[name].args[-2:] for name in names])
    variances, axes = np.linalg.eigh((design * sd**2) @ design.T)
    square = (axes.T @ (data.y - design @ mean)) ** 2
    if noise.sigma is not None:
        return float(_log_normal(square, variances + np.square(noise.sigma)))
    low, high = given[SIGMA].support()
    sigma = np.exp(np.linspace(math.log(low), math.log(high), 2001))
    weight = np.full(sigma.size, 1.0 / (sigma.size - 1))
    weight[[0, -1]] *= 0.5
    return float(special.logsumexp(_log_normal(square, variances + sigma[:, None] ** 2), b=weight))


def _log_normal(square: Array, variances: Array) -> Array:
    density: Array = -0.5 * np.sum(np.log(2 * math.pi * variances) + square / variances, axis=-1)
    return density


class Uniformity(NamedTuple):
    """Whether some ranks are uniform: three probabilities of being further from it by chance.

    Attributes
    ----------
    n : int
    bias, spread : float
        Mean and root mean square of the normal scores of the ranks: about 0, and 1. A spread of 1.3 says that
        posteriors are too narrow by that factor.
    p_histogram : float
        By the chi-square of the histogram.
    p_ecdf : float
        By the largest excursion of the ranks' distribution function from its band.
    p_spread : float
        By `spread`, two-sided.
    """

    n: int
    bias: float
    spread: float
    p_histogram: float
    p_ecdf: float
    p_spread: float

    @property
    def p(self) -> float:
        """Of all three, with Bonferroni's factor."""
        return min(1.0, 3.0 * min(self.p_histogram, self.p_ecdf, self.p_spread))


def uniformity(ranks: Sequence[int]) -> Uniformity:
    """Test ranks from 0 to `N_DRAWS`."""
    n = len(ranks)
    histogram = np.bincount(np.asarray(ranks), minlength=N_DRAWS + 1)
    excursion, square = _statistics(histogram[None])
    null = _null(n)
    return Uniformity(
        n=n,
        bias=float(histogram @ SCORES / n),
        spread=math.sqrt(square[0] / n),
        p_histogram=float(stats.chisquare(histogram.reshape(N_BINS, -1).sum(axis=1)).pvalue),
        p_ecdf=_fraction(null[0] <= excursion),
        p_spread=min(1.0, 2.0 * min(_fraction(null[1] <= square), _fraction(null[1] >= square))),
    )


def _fraction(beyond: BoolArray) -> float:
    return float((1 + beyond.sum()) / (1 + beyond.size))


def _statistics(histograms: IntArray) -> tuple[Array, Array]:
    """Of histograms of ranks, one a row.

    The smallest pointwise two-sided probability along their distribution functions (Säilynoja, Bürkner and Vehtari,
    Statistics and Computing 32, 32 (2022)), and the sum of their squared normal scores (Cook, Gelman and Rubin, J.
    Comput. Graph. Stat. 15, 675 (2006)).
    """
    n = int(histograms[0].sum())
    level = np.arange(1, N_DRAWS + 1) / (N_DRAWS + 1)
    count = np.arange(n + 1)[:, None]
    tail = np.minimum(stats.binom.cdf(count, n, level), stats.binom.sf(count - 1, n, level))
    below = np.cumsum(histograms, axis=1)[:, :-1]
    return tail[below, np.arange(N_DRAWS)].min(axis=1), histograms @ SCORES**2


@functools.cache
def _null(n: int) -> tuple[Array, Array]:
    """What `n` uniform ranks give."""
    level = np.full(N_DRAWS + 1, 1 / (N_DRAWS + 1))
    return _statistics(np.random.default_rng(n).multinomial(n, level, N_NULL))


def ranks_by_parameter(candidates: Candidates, outcomes: Sequence[Outcome]) -> dict[str, list[int]]:
    """Ranks of each parameter of each model, by ``"model: parameter"``."""
    table: dict[str, list[int]] = {}
    for result in outcomes:
        for name, value in result.ranks.items():
            table.setdefault(f"{candidates.names[result.truth]}: {name}", []).append(value)
    return dict(sorted(table.items()))


@dataclass(frozen=True)
class Score:
    """How good stated probabilities were.

    Attributes
    ----------
    brier, expected_brier : float
        Mean square distance of the probabilities from the truth, and what it is if they are right.
    log, expected_log : float
        Mean of -log p(true model), nats, and what it is if they are right.
    deviation : float
        (log - expected_log) in its standard errors.
    """

    brier: float
    expected_brier: float
    log: float
    expected_log: float
    deviation: float


def score(outcomes: Sequence[Outcome]) -> Score:
    """Brier and log score of the models' probabilities."""
    p = [result.probabilities for result in outcomes]
    true = [np.arange(q.size) == result.truth for q, result in zip(p, outcomes, strict=True)]
    loss = [-np.log(np.maximum(q, 1e-300)) for q in p]
    brier = np.mean([np.sum((q - t) ** 2) for q, t in zip(p, true, strict=True)])
    log = np.array([value[t][0] for value, t in zip(loss, true, strict=True)])
    entropy = np.array([np.sum(q * value) for q, value in zip(p, loss, strict=True)])
    variance = np.sum([np.sum(q * (value - h) ** 2) for q, value, h in zip(p, loss, entropy, strict=True)])
    return Score(
        brier=float(brier),
        expected_brier=float(np.mean([np.sum(q * (1 - q)) for q in p])),
        log=float(np.mean(log)),
        expected_log=float(np.mean(entropy)),
        deviation=float(np.sum(log - entropy) / math.sqrt(variance)),
    )


class Bin(NamedTuple):
    """Data sets whose last model got a probability within some bounds.

    Attributes
    ----------
    low, high : float
        The bounds.
    n : int
        How many data sets there are.
    predicted, observed : float
        Mean of the stated probability, and how often the model was the true one.
    error : float
        Binomial standard error of `observed`, if the stated probabilities are right.
    """

    low: float
    high: float
    n: int
    predicted: float
    observed: float
    error: float


def reliability(outcomes: Sequence[Outcome], edges: Sequence[float]) -> list[Bin]:
    """Stated probability of the last model, one a data set, against how often it was the true one."""
    p = np.array([result.probabilities[-1] for result in outcomes])
    true = np.array([result.truth == result.probabilities.size - 1 for result in outcomes])
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = (p >= low) & ((p < high) | (high == edges[-1]))
        if n := int(inside.sum()):
            q = p[inside]
            error = math.sqrt(float(np.sum(q * (1 - q)))) / n
            bins.append(Bin(low, high, n, float(q.mean()), float(true[inside].mean()), error))
    return bins
