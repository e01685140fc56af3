"""The distribution from which a ladder starts: the prior at first, then a mixture fitted to the posterior.

A ladder between the posterior and something near it is short and mixes fast, and its evidence is as exact as that of
a ladder from the prior (variational tempering: Surjanovic et al., NeurIPS 2022). The mixture is one of normal
distributions of all whitened coordinates, exchangeable components in order; the prior itself has a small weight in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import softmax
from bluesky_bayes.kernels.task import LANES, Reference, Task
from bluesky_bayes.priors import Z_MAX, at_quantile
from bluesky_bayes.tasks import ALWAYS, Group, in_order, order_of

PRIOR_WEIGHT = 0.05
POOLED_WEIGHT = 0.1
WIDER, POOLED_WIDER = 1.2, 1.25
TERMS, POINTS_PER_DIMENSION = 16, 4
EM_STEPS = 10
MOST_POINTS = 1500
ROUND, RIDGE = 1e-3, 1e-10
FAINTEST = 80.0
"""Log shares of a point so much below the largest count as that: products of numbers below float32's least take many
times as long."""
IMAGINED, IMAGINED_FOR_RIDGES = 0.02, 0.2
NOISE_POINTS = 2001
NEVER = -1e30


@dataclass(frozen=True)
class Start:
    """A mixture of normal distributions in whitened coordinates, or the prior where it has no terms.

    Attributes
    ----------
    groups : tuple of Group
        Exchangeable components, which stand in order.
    weights : (n_terms,) float64
    means : (n_terms, n_parameters) float64
    factors : (n_terms, n_parameters, n_parameters) float64
        Lower Cholesky factors of the covariances.
    """

    groups: tuple[Group, ...]
    weights: Array
    means: Array
    factors: Array

    @property
    def fitted(self) -> bool:
        """Whether it was fitted to particles near the posterior."""
        return self.weights.size > 1

    def draws(self, n: int, rng: np.random.Generator) -> tuple[Array, int]:
        """Independent draws (n, n_parameters) with components in order, and how many were drawn to find them."""
        d = self.means.shape[1]
        if n == 0 or not self.weights.size:
            return rng.standard_normal((n, d)), n
        found: list[Array] = []
        missing, drawn = n, 0
        while missing:
            m = missing + 100
            edges = np.cumsum(rng.multinomial(m, self.weights))
            parts = np.split(rng.standard_normal((m, d)), edges[:-1])
            terms = zip(parts, self.means, self.factors, strict=True)
            z = np.concatenate([mean + part @ factor.T for part, mean, factor in terms])[rng.permutation(m)]
            good = np.flatnonzero(self._ordered(z))
            drawn += m if good.size <= missing else int(good[missing])
            found.append(z[good[:missing]])
            missing -= len(found[-1])
        return np.concatenate(found), drawn

    def _ordered(self, z: Array) -> Array:
        good = np.ones(len(z), dtype=bool)
        for group in self.groups:
            good &= np.all(np.diff(z[:, group.columns[:, group.location]], axis=1) >= 0.0, axis=1)
        return good

    @property
    def log_labels(self) -> float:
        """Logarithm of the number of ways to label exchangeable components."""
        return float(sum(math.lgamma(len(g.columns) + 1) for g in self.groups))

    @cached_property
    def arrays(self) -> Reference:
        """As the kernels read it."""
        n, d = self.means.shape
        size = -(-n // LANES) * LANES
        log_weight, mean = np.full(size, NEVER), np.zeros((d, size))
        shift, precision = np.zeros((d, size)), np.zeros((d, d, size))
        if n:
            whiten = np.linalg.inv(self.factors).astype(np.float64)
            inverse = np.einsum("mki,mkj->mij", whiten, whiten)
            log_weight[:n] = _log_weight(self.weights, whiten)
            mean[:, :n] = self.means.T
            shift[:, :n] = np.einsum("mij,mj->im", inverse, self.means)
            precision[:, :, :n] = np.moveaxis(inverse, 0, 2)
        group_of = np.full(d, -1, dtype=np.int64)
        for g, group in enumerate(self.groups):
            group_of[group.columns[:, group.location]] = g
        return Reference(
            log_weight=log_weight,
            mean=mean.ravel(),
            shift=shift.ravel(),
            precision=precision.ravel(),
            group_of=group_of,
            **order_of(self.groups)._asdict(),
        )


def first_start(task: Task) -> Start:
    """The prior; but an unknown noise begins near the spread of the data.

    Without that its standard deviation collapses as soon as a model fits, a first-order transition that no ladder
    crosses well. It begins as a few imagined points with residuals of that size would have it.
    """
    d = len(task.tables)
    noisy = sorted({int(j) for j in task.noise_parameter if j >= 0})
    n = 1 if noisy else 0
    means, factors = np.zeros((n, d)), np.tile(np.eye(d), (n, 1, 1))
    for j in noisy:
        means[0, j], factors[0, j, j] = _noise_start(task, j)
    return Start((), np.ones(n), means, factors)


def _noise_start(task: Task, j: int) -> tuple[float, float]:
    z = np.linspace(-Z_MAX, Z_MAX, NOISE_POINTS)
    sigma = at_quantile(task.tables[j], z)
    log_weight = -0.5 * z * z
    imagined = IMAGINED_FOR_RIDGES if task.carries[0] == ALWAYS else IMAGINED
    for block in np.flatnonzero(task.noise_parameter == j):
        s = sigma / task.noise_scale[block]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            log_weight -= np.nan_to_num(imagined * task.n_data[block] * (np.log(s) + 0.5 / (s * s)), nan=np.inf)
    weight = np.exp(log_weight - log_weight.max())
    mean = float(np.average(z, weights=weight))
    return mean, float(np.sqrt(np.average((z - mean) ** 2, weights=weight))) + z[1] - z[0]


def fitted_start(z: Array, groups: tuple[Group, ...], rng: np.random.Generator, wider: float = WIDER) -> Start:
    """Normal distributions fitted to draws near the posterior (n, n_parameters), one of all draws, and the prior.

    All but the prior are widened by a factor in variance. Expectation and maximisation (Dempster, Laird and Rubin,
    JRSS B 39, 1 (1977)) from centres far from one another.
    """
    points = in_order(z[rng.permutation(len(z))[:MOST_POINTS]], groups)
    n, d = points.shape
    # In coordinates in which all draws together have unit covariance, however narrow a ridge they lie on.
    centre, sd = points.mean(axis=0), np.sqrt(points.var(axis=0) + 1e-12)
    scaled = (points - centre) / sd
    unit = sd[:, None] * np.linalg.cholesky(scaled.T @ scaled / n + RIDGE * np.eye(d))
    u = (np.linalg.inv(unit) @ (points - centre).T).astype(np.float32)
    # Each log density is linear in products of coordinates, so that both halves of a step are matrix products, in
    # float32, whose rounding is far below `ROUND`; each half goes along the rows of its second factor.
    products = np.concatenate([u[:1] * u, *(u[i] * u[i:] for i in range(1, d)), u, np.ones_like(u[:1])])
    by_point = np.ascontiguousarray(products.T)
    rows, columns = np.triu_indices(d)
    n_terms = max(1, min(TERMS - 2, np.unique(points[:, 0]).size // (POINTS_PER_DIMENSION * d)))
    pooled = ROUND * np.eye(d)
    pooled[rows, columns] = pooled[columns, rows] = pooled[rows, columns] + (u @ u.T / n)[rows, columns]
    means, weights = u[:, _far_apart(u, n_terms, rng)].T.astype(np.float64), np.full(n_terms, 1.0 / n_terms)
    covariance = np.tile(pooled, (n_terms, 1, 1))
    for _ in range(EM_STEPS):
        inverse = np.linalg.inv(covariance)
        pull = np.einsum("mij,mj->mi", inverse, means)
        constant = np.log(weights) - 0.5 * np.linalg.slogdet(covariance)[1] - 0.5 * np.sum(pull * means, axis=1)
        square = inverse[:, rows, columns] * np.where(rows == columns, -0.5, -1.0)
        density = np.concatenate([square, pull, constant[:, None]], axis=1).astype(np.float32)
        score = density @ products
        share = softmax(np.maximum(score, score.max(axis=0) - FAINTEST))
        moments = (share @ by_point).astype(np.float64)
        count = moments[:, -1] + 1e-9
        weights, moments = count / count.sum(), moments / count[:, None]
        means = moments[:, len(rows) : len(rows) + d]
        covariance[:, rows, columns] = covariance[:, columns, rows] = moments[:, : len(rows)]
        covariance += ROUND * np.eye(d) - means[:, :, None] * means[:, None, :]
    kept = (weights * n > 1.5 * d) | (weights == weights.max())
    weights, means = weights[kept], centre + means[kept] @ unit.T
    factors = np.linalg.cholesky(np.concatenate([covariance[kept], POOLED_WIDER * pooled[None]]))
    return Start(
        groups,
        np.append((1.0 - POOLED_WEIGHT - PRIOR_WEIGHT) * weights / weights.sum(), (POOLED_WEIGHT, PRIOR_WEIGHT)),
        np.concatenate([means, centre[None], np.zeros((1, d))]),
        np.concatenate([math.sqrt(wider) * (unit @ factors), np.eye(d)[None]]),
    )


def _log_weight(weights: Array, whiten: Array) -> Array:
    """Logarithms of weights and normalisers, less those of the standard normal distribution."""
    log_weight: Array = np.log(weights) + np.log(np.diagonal(whiten, axis1=1, axis2=2)).sum(axis=1)
    return log_weight


def _far_apart(points: npt.NDArray[np.float32], n: int, rng: np.random.Generator) -> list[int]:
    """Columns of points (n_parameters, n_points), each drawn by its squared distance from those before (k-means++)."""
    chosen = [int(rng.integers(points.shape[1]))]
    nearest = np.full(points.shape[1], np.inf, dtype=np.float32)
    while len(chosen) < n:
        apart = points - points[:, chosen[-1], None]
        nearest = np.minimum(nearest, np.einsum("ij,ij->j", apart, apart))
        edges = np.cumsum(nearest)
        chosen.append(int(min(np.searchsorted(edges, edges[-1] * rng.random()), nearest.size - 1)))
    return chosen
