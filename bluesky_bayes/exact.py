"""Closed forms: models that are linear in all unknown parameters, with normal priors and Gaussian noise.

The data are normally distributed then, and so are the parameters given the data: Bishop, Pattern Recognition and
Machine Learning (2006), sections 3.3 and 3.5; for measurements Katakami et al., arXiv:2406.02869. A noise of unknown
standard deviation takes an integral over that one number more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.model import Model, Term
from bluesky_bayes.noise import SIGMA, Gaussian, Noise
from bluesky_bayes.posterior import Diagnostics, Fit, Posterior
from bluesky_bayes.priors import at_value, describe
from bluesky_bayes.sampler import MOST_DRAWS, chain_key, generator, thinned
from bluesky_bayes.summaries import CURVE_POINTS, derived_of, edges_of, predictive_probability
from bluesky_bayes.tasks import HALF_LOG_2PI, groups_of, in_order, table_of

FARTHEST, DEEPEST = 30.0, 60.0
"""How far in log sigma from the spread of the data, and how far in nats below the peak, there is nothing to add up."""
LOOKS, LOOK_POINTS = 4, 2001
PANELS, NODES = 100, 10
ROUNDING = 1e-9
"""Nats. Smaller differences between two quadratures are those of rounding: the result counts as exact then."""


def why_not_exact(models: Sequence[Model], noise: Noise) -> str:
    """What stands against a closed form, as a clause; empty where there is one. Every prior must be filled in."""
    if not isinstance(noise, Gaussian):
        return f"it needs Gaussian noise, and here is {noise}"
    for model in models:
        for term in model.terms:
            for slot in term.slots[1:]:
                if slot.parameter is not None:
                    return f"model {model.name!r} is not linear in {slot.parameter!r}"
        for name, prior in model.priors.items():
            if prior is not None and name != SIGMA and prior.dist.name != "norm":
                return f"the prior of {name!r} in model {model.name!r} is not normal: {describe(prior)}"
    return ""


class Design(NamedTuple):
    """A model as ``base + curves @ coefficients``.

    Attributes
    ----------
    names : tuple of str
        The coefficients: all parameters but that of the noise.
    base : (n,) float64
        What is not in question.
    curves : (n, d) float64
    mean, sd : (d,) float64
        Of the coefficients' priors.
    """

    names: tuple[str, ...]
    base: Array
    curves: Array
    mean: Array
    sd: Array

    @classmethod
    def of(cls, model: Model, x: Array) -> Design:
        """Curves of a model at x."""
        names = tuple(name for name in model.parameters if name != SIGMA)
        base, curves = np.zeros(x.size), np.zeros((x.size, len(names)))
        for term in model.terms:
            amplitude, curve = term.slots[0], unit_curve(term, x)
            base += amplitude.offset * curve
            if amplitude.parameter is not None:
                curves[:, names.index(amplitude.parameter)] += amplitude.scale * curve
        priors: list[Any] = [model.priors[name] for name in names]
        mean = np.array([prior.dist.mean(*prior.args, **prior.kwds) for prior in priors], dtype=np.float64)
        sd = np.array([prior.dist.std(*prior.args, **prior.kwds) for prior in priors], dtype=np.float64)
        return cls(names, base, curves, mean, sd)


def unit_curve(term: Term, x: Array) -> Array:
    """The shape of a term whose shape parameters are all numbers, at x."""
    return term.component(x, 1.0, *(slot.offset for slot in term.slots[1:]))


class Factors(NamedTuple):
    """A design and data in the coordinates in which the coefficients are independent before and after the data.

    Coefficients are in units of their priors, curves and data in units of the noise, or of y where it is unknown.

    Attributes
    ----------
    axes : (r, d) float64
        Directions of the coefficients that the data speak of.
    gain, along : (r,) float64
        How strongly the curve moves along each, and the data's part in that direction.
    beyond : float
        Square of the part of the data that no coefficient reaches.
    n : int
        Points.
    log_sigma : float
        Sum of the logarithms of the known standard deviations.
    """

    axes: Array
    gain: Array
    along: Array
    beyond: float
    n: int
    log_sigma: float

    @classmethod
    def of(cls, design: Design, y: Array, sigma: Array) -> Factors:
        """By singular values; `sigma` of each point, (n,)."""
        residual = (y - design.base - design.curves @ design.mean) / sigma
        basis, gain, axes = np.linalg.svd(design.curves * design.sd / sigma[:, None], full_matrices=False)
        along = basis.T @ residual
        beyond = residual - basis @ along
        return cls(axes, gain, along, float(beyond @ beyond), y.size, float(np.sum(np.log(sigma))))

    def log_evidence(self, factor: Array) -> Array:
        """For noises as many times as large, (k,)."""
        square = np.asarray(factor, dtype=np.float64)[:, None] ** 2
        fitted = np.sum(np.log1p(self.gain**2 / square) + self.along**2 / (square + self.gain**2), axis=1)
        missed = self.beyond / square[:, 0] + self.n * np.log(square[:, 0])
        log_z: Array = -0.5 * (fitted + missed) - self.n * HALF_LOG_2PI - self.log_sigma
        return log_z

    def means(self, factor: Array) -> Array:
        """Posterior means for noises as many times as large, (k, d)."""
        means: Array = (self.gain * self.along / (self.gain**2 + factor[:, None] ** 2)) @ self.axes
        return means

    def spread(self, factor: Array, normal: Array) -> Array:
        """Deviations from the mean (k, d), of standard normal ones."""
        along = normal @ self.axes.T
        deviations: Array = (along * factor[:, None] / np.hypot(self.gain, factor[:, None])) @ self.axes
        if len(self.axes) < self.axes.shape[1]:
            deviations += normal - along @ self.axes
        return deviations


@dataclass(frozen=True)
class Solution:
    """Evidence and posterior of one model.

    Attributes
    ----------
    design : Design
    factors : Factors
    log_evidence, error : float
        The error is that of the integral over an unknown noise, else 0.
    sigma, weight : (k,) float64
        Values of an unknown noise and their posterior weights; a single 1 where it is known.
    """

    design: Design
    factors: Factors
    log_evidence: float
    error: float
    sigma: Array
    weight: Array

    @cached_property
    def mean(self) -> Array:
        """Posterior mean of the coefficients, (d,)."""
        mean: Array = self.design.mean + self.design.sd * (self.weight @ self.factors.means(self.sigma))
        return mean

    def draws(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Coefficients (n, d) and noise (n,).

        The normal numbers behind them have mean 0 and covariance 1 exactly, so that for a known noise mean and
        standard deviation of the draws are those of the posterior.
        """
        normal = _standardised(rng.standard_normal((n, self.design.mean.size)))
        ranks = rng.permutation((np.arange(n) + rng.random(n)) / n)
        sigma = np.exp(np.interp(ranks, np.cumsum(self.weight) - 0.5 * self.weight, np.log(self.sigma)))
        units = self.factors.means(sigma) + self.factors.spread(sigma, normal)
        return self.design.mean + self.design.sd * units, sigma


def _standardised(normal: Array) -> Array:
    centred = normal - normal.mean(axis=0)
    factor = np.linalg.cholesky(centred.T @ centred / (len(normal) - 1))
    standardised: Array = np.linalg.solve(factor, centred.T).T
    return standardised


def solve(model: Model, data: Dataset, noise: Gaussian) -> Solution:
    """Evidence and posterior of a model that `why_not_exact` has nothing against."""
    design, one = Design.of(model, data.x), np.ones(1)
    if noise.sigma is not None:
        factors = Factors.of(design, data.y, np.broadcast_to(noise.sigma, data.y.shape))
        return Solution(design, factors, float(factors.log_evidence(one)[0]), 0.0, one, one)
    factors, prior = Factors.of(design, data.y, np.ones(data.n)), model.priors[SIGMA]
    assert prior is not None

    def log_density(t: Array) -> Array:
        """Of log sigma."""
        sigma = np.exp(t)
        density: Array = factors.log_evidence(sigma) + prior.dist.logpdf(sigma, *prior.args, **prior.kwds) + t
        return density

    low, high = (math.log(edge) if edge > 0 else -math.inf for edge in map(float, prior.support()))
    spread = float(factors.along @ factors.along + factors.beyond) / data.n
    near = min(max(0.5 * math.log(spread) if spread > 0 else 0.0, low), high)
    low, high = max(low, near - FARTHEST), min(high, near + FARTHEST)
    return Solution(design, factors, *_integrated(log_density, low, high))


def _integrated(log_density: Callable[[Array], Array], low: float, high: float) -> tuple[float, float, Array, Array]:
    """Logarithm of an integral over log sigma, its error, and nodes with their shares.

    Gauss-Legendre panels between where the density is next to nothing; the error is the difference from half as many,
    or 0 where that is mere rounding.
    """
    for _ in range(LOOKS):
        t = np.linspace(low, high, LOOK_POINTS)
        density = log_density(t)
        kept = np.flatnonzero(density > density.max() - DEEPEST)
        low, high = t[max(kept[0] - 1, 0)], t[min(kept[-1] + 1, t.size - 1)]
    (coarse, _, _), (fine, t, share) = (_panels(log_density, low, high, n) for n in (PANELS // 2, PANELS))
    error = abs(fine - coarse)
    return fine, error if error > ROUNDING else 0.0, np.exp(t), share


def _panels(log_density: Callable[[Array], Array], low: float, high: float, n: int) -> tuple[float, Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    edges, half = np.linspace(low, high, n + 1), 0.5 * (high - low) / n
    t = (edges[:-1, None] + half * (1.0 + nodes)).ravel()
    density = log_density(t)
    top = density.max()
    share = half * np.tile(weights, n) * np.exp(density - top)
    total = float(share.sum())
    return float(top) + math.log(total), t, share / total


def exact_posterior(model: Model, data: Dataset, noise: Gaussian, chains: int, seed: int) -> Posterior:
    """Everything about a model in closed form, with draws as a sampler would give."""
    solution = solve(model, data, noise)
    design, shape = solution.design, (chains, MOST_DRAWS)
    theta, sigma = solution.draws(chains * MOST_DRAWS, generator(chain_key(seed, model.name, 0), 0))
    columns = theta if noise.known else np.column_stack([theta, sigma])
    columns = in_order(columns, groups_of(model)).reshape(*shape, -1)
    draws = {name: columns[..., j].copy() for j, name in enumerate(model.parameters)}
    flat = thinned(theta, max(20, CURVE_POINTS // data.n))
    curves, mean = design.base + flat @ design.curves.T, design.base + design.curves @ solution.mean
    low, high = np.quantile(curves, (0.025, 0.975), axis=0)
    spread = np.full(data.n, float(sigma.mean())) if noise.sigma is None else np.broadcast_to(noise.sigma, data.n)
    fit = Fit(mean, low, high, _terms(model, data.x, solution), (data.y - mean) / spread)
    diagnostics = Diagnostics(
        chains=chains,
        ess=float(chains * MOST_DRAWS),
        edges=tuple(edges_of(model, _whitened(model, draws, shape))),
        p_fit=predictive_probability(data.y, curves, spread, noise, np.random.default_rng(seed)),
        ladder=(solution.log_evidence, solution.error),
        sampler="exact",
    )
    derived = derived_of(model, draws, shape)
    return Posterior(model, solution.log_evidence, solution.error, draws, derived, fit, diagnostics)


def _terms(model: Model, x: Array, solution: Solution) -> dict[str, Array]:
    """Each term's mean curve."""
    mean = dict(zip(solution.design.names, solution.mean, strict=True))
    return {term.label: term.slots[0].of(mean) * unit_curve(term, x) for term in model.terms}


def _whitened(model: Model, draws: dict[str, Array], shape: tuple[int, int]) -> Array:
    whitened = [at_value(table_of(model.priors[name]), values) for name, values in draws.items()]
    return np.stack(whitened, axis=-1) if whitened else np.zeros((*shape, 0))
