"""Evidence from a ladder of temperatures: Bennett's ratio between neighbours, with an error that knows of correlations.

C. H. Bennett, J. Comput. Phys. 22, 245 (1976).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bluesky_bayes.dataset import Array

BATCHES = 4
NEWTON_STEPS = 60
TOLERANCE = 1e-5
THIN = 8
NOTHING = 800.0
NO_CHANCE = 80.0
"""Beyond that an exponential soon leaves float32."""
FEW = 10.0
ROUNDED = 1e-12
"""Relative difference of means that is rounding alone."""
WORST_R_HAT = 1.1
CONTRADICTORY = 2.0
"""Standard errors by which two estimates of the same evidence may differ."""


class Evidence(NamedTuple):
    """Log evidence less the task's constant.

    Attributes
    ----------
    log_z, error : float
    gap : float
        Difference of the evidence stepped upwards and downwards.
    """

    log_z: float
    error: float
    gap: float


UNKNOWN = Evidence(0.0, math.inf, 0.0)


def evidence(betas: Array, energies: Sequence[Array]) -> Evidence:
    """Log Z by Bennett's ratio between neighbours, all chains together, with its standard error.

    The error comes from the influence of every sweep on log Z, averaged over batches of each chain about the mean of
    all chains: correlations in time, between temperatures and differences between chains all count (replicated batch
    means with the lugsail correction: Gupta and Vats, arXiv 2007.04229). Neighbours that hardly overlap do not
    tell it: there it is the gap at least.

    Parameters
    ----------
    betas : (n_levels,) float64
    energies : sequence of (n_sweeps, n_levels) float64
        One a chain.
    """
    shift, influence, overlap, gap = _bennett(betas, energies)
    total = influence.sum(axis=1).reshape(len(energies), -1)
    error = math.sqrt(replicated_variance(total))
    return Evidence(-float(shift.sum()), error if overlap.min() > FEW else max(error, gap), gap)


def evidence_profile(betas: Array, energies: Sequence[Array]) -> tuple[Array, Array]:
    """Log Z of each level over that of the first, and standard errors: (n_levels,) and (n_levels,).

    Parameters are those of `evidence`, whose result is the last level's.
    """
    shift, influence, _, _ = _bennett(betas, energies)
    so_far = np.cumsum(influence, axis=1)
    errors = [math.sqrt(replicated_variance(column.reshape(len(energies), -1))) for column in so_far.T]
    return -np.cumsum(np.append(0.0, shift)), np.append(0.0, errors)


def _bennett(betas: Array, energies: Sequence[Array]) -> tuple[Array, Array, Array, float]:
    """Minus log ratio of each pair of neighbours, influence of each sweep on it, their overlap, and the whole gap.

    The overlap is the number of sweeps that might as well be the neighbour's.
    """
    step = np.diff(betas)
    pooled = np.concatenate(energies)
    lower, upper = step * pooled[:, :-1], step * pooled[:, 1:]
    lower = np.minimum(lower, upper.max(axis=0) + NOTHING)
    shift = _solve(lower, upper)
    a, b, slope = _chances(lower, upper, shift)
    gap = abs(log_mean_exp(-lower).sum() + log_mean_exp(upper).sum())
    return shift, len(pooled) * (a - b) / slope, np.minimum(_sum(a), _sum(b)), float(gap)


def bridged(drawn: Array, chains: Array) -> Evidence:
    """Log Z over a reference's, with its standard error, by Bennett's ratio between draws of it and of the posterior.

    Parameters
    ----------
    drawn : (n,) float64
        Energies over the reference's, of independent draws of it: the more, the rarer the posterior's places are in it.
    chains : (n_chains, n_sweeps) float64
        Of draws of the posterior.
    """
    more = math.log(drawn.size / chains.size)
    lower, upper = more + drawn[:, None], more + chains.reshape(-1, 1)
    lower = np.minimum(lower, upper.max() + NOTHING)
    shift = _solve(lower, upper)
    a, b, slope = _chances(lower, upper, shift)
    variance = drawn.size * float(np.var(a)) + chains.size**2 * replicated_variance(b.reshape(chains.shape))
    error, gap = math.sqrt(variance) / float(slope[0]), abs(float(log_mean_exp(-drawn) + log_mean_exp(chains.ravel())))
    return Evidence(-float(shift[0]), error if _sum(b)[0] > FEW else max(error, gap), gap)


def replicated_variance(influence: Array) -> float:
    """Variance of the mean of all entries of (n_chains, n_sweeps), by batches about the common mean."""
    coarse, fine = (_batch_variance(influence, n) for n in (BATCHES, 3 * BATCHES))
    between = _batch_variance(influence, 1) if len(influence) > 1 else 0.0
    return max(coarse, 2.0 * coarse - fine, between)


def _batch_variance(influence: Array, n_batches: int) -> float:
    n_chains, n = influence.shape
    length = n // n_batches
    means: Array = influence[:, : length * n_batches].reshape(n_chains * n_batches, length).mean(axis=1)
    variance: Array = np.var(means, axis=0, ddof=1)
    return float(variance) / means.size


def split_r_hat(values: Array) -> Array:
    """Split R-hat of (..., n_chains, n_draws): Gelman and Rubin's ratio with each chain cut in two."""
    half = values.shape[-1] // 2
    parts = np.concatenate([values[..., :half], values[..., half : 2 * half]], axis=-2)
    within = np.var(parts, axis=-1, ddof=1).mean(axis=-1)
    means = parts.mean(axis=-1)
    between = np.var(means, axis=-1, ddof=1)
    changes = within > 0
    stuck = np.where(np.ptp(means, axis=-1) > ROUNDED * np.abs(means).max(axis=-1), np.inf, 1.0)
    return np.where(changes, np.sqrt((half - 1) / half + between / np.where(changes, within, 1.0)), stuck)


def effective_size(values: Array) -> Array:
    """Effective number of independent draws of (..., n_chains, n_draws), for means.

    By the correlation of draws that lie apart in the same chain, up to where that of two neighbouring distances is no
    longer positive (Geyer, Statistical Science 7, 473 (1992)), about the common mean of all chains, so that chains
    that disagree count as well (Vehtari et al., Bayesian Analysis 16, 667 (2021)).
    """
    n_chains, n = values.shape[-2:]
    means = values.mean(axis=-1)
    power = np.abs(np.fft.rfft(values - means[..., None], 2 * n)) ** 2
    between = np.var(means, axis=-1, ddof=min(n_chains - 1, 1))
    lags = np.fft.irfft(power)[..., :n].mean(axis=-2) / n + between[..., None] * np.linspace(
        1.0, 0.0, n, endpoint=False
    )
    total = lags[..., :1]
    varies = total > 0
    correlation = np.where(varies, lags / np.where(varies, total, 1.0), 0.0)
    pairs = correlation[..., : n // 2 * 2].reshape(*correlation.shape[:-1], n // 2, 2).sum(axis=-1)
    falling = np.minimum.accumulate(np.maximum(pairs, 0.0), axis=-1).sum(axis=-1)
    size: Array = n_chains * n / np.maximum(2.0 * falling - 1.0, 1.0)
    return size


def log_mean_exp(values: Array) -> Array:
    """Logarithm of the mean of the exponentials along the first axis."""
    top = values.max(axis=0)
    mean: Array = top + np.log(np.mean(np.exp(values - top), axis=0))
    return mean


def mean_evidence(log_z: Array) -> Evidence:
    """Mean of independent unbiased estimates of Z, whose logarithms these are, and its error from their scatter.

    Of few estimates the scatter itself is uncertain: twice the error holds as much as of a normal distribution, by
    Student's t.
    """
    from scipy.special import ndtr, stdtrit

    few = 0.5 * float(stdtrit(log_z.size - 1, ndtr(2.0)))
    error = few * float(np.std(softmax(log_z), ddof=1)) * math.sqrt(log_z.size)
    return Evidence(float(log_mean_exp(log_z)), error, 0.0)


def doubted(one: Evidence, other: Evidence) -> Evidence:
    """The first of two estimates; where they contradict each other, its error is half their difference at least."""
    if contradictory(one, other):
        return one._replace(error=max(one.error, 0.5 * abs(one.log_z - other.log_z)))
    return one


def joined(one: Evidence, other: Evidence, correlation: float = 0.0) -> Evidence:
    """Mean of two estimates, weighted by their errors, with the gap of the first."""
    both = math.hypot(one.error, other.error)
    if math.isinf(both) or both == 0.0:
        return one
    share = (one.error / both) ** 2
    parts = (1.0 - share) * one.error, share * other.error
    error = math.sqrt(parts[0] ** 2 + parts[1] ** 2 + 2.0 * correlation * parts[0] * parts[1])
    return Evidence((1.0 - share) * one.log_z + share * other.log_z, error, one.gap)


def contradictory(one: Evidence, other: Evidence) -> bool:
    """Whether two estimates differ by more than their errors say."""
    return abs(one.log_z - other.log_z) > CONTRADICTORY * math.hypot(one.error, other.error)


def softmax(score: Array) -> Array:
    """Exponentials, scaled to add up to one along the first axis."""
    weights: Array = np.exp(score - score.max(axis=0))
    weights /= weights.sum(axis=0)
    return weights


def _fermi(x: Array) -> Array:
    """1 / (1 + exp(x)) in float32, which takes a sixth of the time; means of many such numbers need no more."""
    fermi: Array = 1.0 / (1.0 + np.exp(np.clip(x, -NO_CHANCE, NO_CHANCE).astype(np.float32)))
    return fermi


def _sum(values: Array) -> Array:
    """Sum of float32 numbers along the first axis."""
    total: Array = values.sum(axis=0, dtype=np.float64)
    return total


def _chances(lower: Array, upper: Array, c: Array) -> tuple[Array, Array, Array]:
    """Chance of each draw to be taken by the neighbour, both ways, and how fast their sums move with the shift c."""
    a, b = _fermi(lower - c), _fermi(c - upper)
    return a, b, np.maximum(_sum(a * (1.0 - a)) + _sum(b * (1.0 - b)), 1e-300)


def _solve(lower: Array, upper: Array) -> Array:
    """Shift c of each pair with sum fermi(lower - c) = sum fermi(c - upper): first on few sweeps, then on all."""
    few = slice(None, None, THIN)
    start = 0.5 * (np.median(lower[few], axis=0) + np.median(upper[few], axis=0))
    return _newton(lower, upper, _newton(lower[few], upper[few], start))


def _newton(lower: Array, upper: Array, c: Array) -> Array:
    """Newton's method, kept between bounds, which are farther out where there are more draws of one kind."""
    margin = 1.0 + abs(math.log(len(lower) / len(upper)))
    low = np.minimum(lower.min(axis=0), upper.min(axis=0)) - margin
    high = np.maximum(lower.max(axis=0), upper.max(axis=0)) + margin
    for _ in range(NEWTON_STEPS):
        a, b, slope = _chances(lower, upper, c)
        value = _sum(a) - _sum(b)
        low, high = np.where(value < 0, c, low), np.where(value > 0, c, high)
        new = c - value / slope
        new = np.where((new > low) & (new < high), new, 0.5 * (low + high))
        if np.max(np.abs(new - c)) < TOLERANCE:
            return new
        c = new
    return c


def check_probability(probability: float) -> None:
    """Raise ValueError unless a probability can be asked for."""
    if not 0 < probability < 1:
        raise ValueError(f"probability must lie between 0 and 1; got {probability!r}")
