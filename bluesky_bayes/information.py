"""Where to measure next so that the models tell themselves apart: expected information, from an answer's draws.

A measurement at x tells about the model as much as the predictions of the models there differ, beyond noise and beyond
what their parameters leave open: the mutual information of the model and the new reading (Lindley, Ann. Math. Statist.
27, 986 (1956); Box and Hill, Technometrics 9, 57 (1967)). It is computed by simulation: readings are drawn from each
model at some of its posterior draws, and their densities averaged over others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.noise import SIGMA, Noise, Poisson, StudentT
from bluesky_bayes.posterior import Posterior
from bluesky_bayes.selection import Selection

N_DRAWS = 64
"""Posterior draws of each model that readings are judged by; as many others make readings."""
N_READINGS = 2
"""Readings of each draw."""
LEAST = 1e-6
"""Probability of a model below which nothing is asked about it."""
PARAMETERS = 0.02
"""What a nat about the parameters is worth beside one about the model: where no position tells the models apart, the
one whose reading is least sure is chosen."""


class NextPoint(NamedTuple):
    """A place worth measuring.

    Attributes
    ----------
    position : float
    gain : float
        Information about which model holds that is expected from it and those chosen before it together, nats.
    """

    position: float
    gain: float


def next_points(selection: Selection, positions: npt.ArrayLike, n: int = 1, seed: int = 0) -> tuple[NextPoint, ...]:
    """Where to measure next: of these positions the one that tells most about which model holds, then what adds most.

    Each new reading is taken to have the noise of those at hand: the median of their exposures, or of their standard
    deviations.

    Parameters
    ----------
    selection : Selection
        The answer so far; no chains are needed.
    positions : (n_positions,) array_like
        What can be measured; the same may be chosen again.
    n : int
        How many points.
    seed : int
        Of the simulated readings.

    Returns
    -------
    tuple of NextPoint
        In the order chosen.

    Raises
    ------
    ValueError
        When there are no positions, or no points are wanted.
    """
    x = np.asarray(positions, dtype=np.float64).ravel()
    if not x.size or n < 1:
        raise ValueError(f"there is nothing to choose: {x.size} positions, {n} points wanted")
    rng = np.random.default_rng(seed)
    found = [(p, q) for p, q in zip(selection.probabilities, selection.posteriors, strict=True) if p > LEAST]
    p = np.array([chance for chance, _ in found])
    p /= p.sum()
    made, judged = (_Predicted.of([q for _, q in found], selection.noise, x, half) for half in (0, 1))
    truth = np.repeat(np.arange(p.size), N_DRAWS * N_READINGS)
    log_p = np.zeros((truth.size, p.size, N_DRAWS))
    extra = PARAMETERS * judged.information(p)
    chosen: list[NextPoint] = []
    for seed_of_step in rng.integers(2**32, size=n):
        # The same dice at every position, so that positions are compared by what they differ in.
        steps = [judged.log_density(made.readings(i, np.random.default_rng(seed_of_step)), i) for i in range(x.size)]
        gains = np.array([_information(log_p + step, truth, p) for step in steps])
        best = int(np.argmax(gains + extra))
        chosen.append(NextPoint(float(x[best]), max(0.0, float(gains[best]))))
        log_p += steps[best]
    return tuple(chosen)


def evenly(positions: Array, n: int, done: int = 0) -> list[float]:
    """`n` positions after `done` others in the order of van der Corput, which is even however many there are."""
    fractions = [sum((i >> k & 1) * 0.5 ** (k + 1) for k in range(i.bit_length())) for i in range(done, done + n)]
    return [float(positions[int(fraction * len(positions))]) for fraction in fractions]


def predictions(posterior: Posterior, x: npt.ArrayLike, rows: npt.NDArray[np.intp]) -> Array:
    """Curves of a model of one data set at any x, for some of its draws, chains one after another: (n_rows, n_x)."""
    x = np.asarray(x, dtype=np.float64)
    draws = {name: values.ravel()[rows, None] for name, values in posterior.draws.items()}
    curves = np.zeros((rows.size, x.size))
    for term in posterior.model.terms:
        curves += term.curves(x, draws)
    return curves


@dataclass(frozen=True)
class _Predicted:
    """What models predict.

    Attributes
    ----------
    curves : (n_models, n_draws, n_x) float64
        For counts the expected ones, else in the unit of y.
    size : (n_models, n_draws) float64
        Standard deviation of the noise; not used for counts.
    noise : Gaussian, StudentT or Poisson
    """

    curves: Array
    size: Array
    noise: Noise

    @classmethod
    def of(cls, posteriors: list[Posterior], noise: Noise, x: Array, half: int) -> _Predicted:
        """Of every second draw, beginning with the first or the second one."""
        unit = 1.0
        if isinstance(noise, Poisson):
            unit = float(np.median(1.0 if noise.exposure is None else noise.exposure)) / float(np.median(noise.scale))
        curves, sizes = [], []
        for posterior in posteriors:
            n = next((values.size for values in posterior.draws.values()), 1)
            rows = np.linspace(0, n - 1, 2 * N_DRAWS).astype(np.intp)[half::2]
            curves.append(predictions(posterior, x, rows) * unit)
            sizes.append(_size(posterior, noise, rows))
        return cls(np.stack(curves), np.stack(sizes), noise)

    def readings(self, i: int, rng: np.random.Generator) -> Array:
        """Simulated readings at a position, (n_models * n_draws * N_READINGS,)."""
        curve = np.repeat(self.curves[:, :, i].ravel(), N_READINGS)
        if isinstance(self.noise, Poisson):
            return rng.poisson(np.maximum(curve, 0.0)).astype(np.float64)
        size = np.repeat(self.size.ravel(), N_READINGS)
        dof = self.noise.dof if isinstance(self.noise, StudentT) else None
        return curve + size * (rng.standard_normal(curve.size) if dof is None else rng.standard_t(dof, curve.size))

    def log_density(self, readings: Array, i: int) -> Array:
        """Of readings at a position, for each model and draw, but for what is the same for all."""
        y, curve = readings[:, None, None], self.curves[None, :, :, i]
        if isinstance(self.noise, Poisson):
            mu = np.maximum(curve, 1e-9)
            counted: Array = y * np.log(mu) - mu
            return counted
        t = (y - curve) / self.size
        dof = self.noise.dof if isinstance(self.noise, StudentT) else None
        tail = 0.5 * t**2 if dof is None else 0.5 * (dof + 1.0) * np.log1p(t**2 / dof)
        density: Array = -np.log(self.size) - tail
        return density

    def information(self, p: Array) -> Array:
        """About all parameters at each position, roughly, nats: from the spread of the predictions over the noise."""
        mean = np.tensordot(p, self.curves.mean(axis=1), 1)
        spread = np.tensordot(p, np.mean((self.curves - mean) ** 2, axis=1), 1)
        noise = np.maximum(mean, 1e-9) if isinstance(self.noise, Poisson) else float(np.mean(p @ self.size**2))
        information: Array = 0.5 * np.log1p(spread / noise)
        return information


def _size(posterior: Posterior, noise: Noise, rows: npt.NDArray[np.intp]) -> Array:
    """Standard deviation of the noise in some draws."""
    if SIGMA in posterior.draws:
        return posterior.draws[SIGMA].ravel()[rows]
    known: Any = 1.0 if isinstance(noise, Poisson) else noise.sigma
    return np.full(rows.size, float(np.median(known)))


def _information(log_density: Array, truth: npt.NDArray[np.intp], p: Array) -> float:
    """About which model holds, nats: how much more probable readings are in their own model than in all."""
    from scipy.special import logsumexp

    by_model = logsumexp(log_density, axis=2)
    own = by_model[np.arange(truth.size), truth]
    gains = own - logsumexp(by_model + np.log(p), axis=1)
    return float(np.bincount(truth, gains) @ p) / (truth.size // p.size)
