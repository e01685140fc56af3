"""Problems with known answers, for tests and benchmarks."""

import math

import numpy as np
from scipy import stats

from bluesky_bayes import Candidates, Component, Dataset, Gaussian, Model, component
from bluesky_bayes.families import peaks
from bluesky_bayes.kernels.math import exp
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.priors import Z_MAX, Prior

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

NAGATA_FREE_ENERGY = {1: 367.29, 2: 268.92, 3: 172.25, 4: 172.5, 5: 174.2}
"""Oracle references, without the Gaussian normaliser; K = 4 and 5 to 0.1."""
NAGATA_NORMALISER = 301 * (HALF_LOG_2PI + math.log(0.1))


def normal_to_sample(mean: float, sd: float) -> Prior:
    """Normal as far as tables of priors go, but not by name: such models are sampled and not solved."""
    return stats.truncnorm(-Z_MAX, Z_MAX, mean, sd)


def nagata_2012() -> Dataset:
    """Three peaks, sigma 0.1: Nagata, Sugita and Okada, Neural Networks 28, 82 (2012)."""
    x = np.linspace(0, 3, 301)
    y = 0.1 * np.random.RandomState(0).randn(301)
    for a, b, mu in [(0.587, 95.689, 1.210), (1.522, 146.837, 1.455), (1.183, 164.469, 1.703)]:
        y += a * np.exp(-0.5 * b * (x - mu) ** 2)
    return Dataset(x, y)


def nagata_candidates(counts: range = range(0, 6)) -> Candidates:
    """The paper's priors."""
    priors = {
        "amplitude": stats.gamma(5, scale=1 / 5),
        "precision": stats.gamma(5, scale=1 / 0.04),
        "center": stats.norm(1.5, math.sqrt(1 / 5)),
    }
    return peaks("gaussian", counts, background=None, width="precision", priors=priors)


def ten_peaks() -> tuple[Dataset, Candidates]:
    """Ten narrow peaks that overlap, sigma 0.1."""
    heights = (0.587, 1.522, 1.183, 0.864, 0.574, 0.388, 0.53, 0.3, 0.6, 0.7)
    centers = (0.75, 0.84, 0.95, 1.71, 1.82, 1.95, 1.12, 1.30, 1.45, 2.1)
    precisions = (500.689, 1046.837, 764.469, 550.689, 562.837, 634.469, 600.689, 664.469, 700.689, 746.837)
    x = np.linspace(0, 3, 301)
    y = 0.1 * np.random.RandomState(0).randn(301)
    for a, mu, b in zip(heights, centers, precisions, strict=True):
        y += a * np.exp(-0.5 * b * (x - mu) ** 2)
    priors = {
        "amplitude": stats.gamma(5, scale=1 / 5),
        "precision": stats.gamma(5, scale=1 / 0.004),
        "center": stats.norm(1.5, 1.0),
    }
    return Dataset(x, y), peaks("gaussian", [10], background=None, width="precision", priors=priors)


TEN_PEAKS_LOG_Z = 195.33
"""By ladders from a mixture, ten seeds: to 0.02."""

BOX_PEAKS = {
    1: [(2.0, 0.0, 0.3)],
    2: [(2.0, -0.6, 0.3), (1.5, 0.5, 0.25)],
    3: [(2.0, -1.2, 0.3), (1.5, 0.0, 0.25), (1.0, 0.5, 0.2)],
}
BOX_LOG_Z = {1: 259.5901, 2: 247.993, 3: 238.737}
"""K = 1 by quadrature; K = 2 to 0.003, K = 3 to 0.007."""


def box(k: int) -> tuple[Dataset, Candidates]:
    """`k` Gaussian peaks and a constant with uniform priors; the data hold `k` peaks."""
    x = np.linspace(-3, 3, 301)
    y = np.full(301, 0.2) + 0.1 * np.random.default_rng(20260101).standard_normal(301)
    for a, m, w in BOX_PEAKS[k]:
        y += a * np.exp(-0.5 * ((x - m) / w) ** 2)
    priors = {
        "amplitude": stats.uniform(0, 5),
        "center": stats.uniform(-3, 6),
        "sigma": stats.uniform(0.05, 0.95),
        "constant": stats.uniform(-1, 2),
    }
    return Dataset(x, y), peaks("gaussian", [k], priors=priors)


@component
def two_wells_target(x: float, u: float, v: float) -> float:
    """Residuals whose half sum of squares is the two-well energy with M = 30000, r = 1.001."""
    ratio = 1.001
    if x < 0.5:
        return math.sqrt(60000.0 * ratio) * (u - 0.25) if u < 0.5 else math.sqrt(60000.0) * (u - 0.75)
    if x < 1.5:
        return math.sqrt(60000.0 * ratio) * (v - 0.5) if u < 0.5 else math.sqrt(60000.0) * (v - 0.5)
    return 0.0 if u < 0.5 else math.sqrt(60000.0 * (ratio - 1.0) / 16.0)


TWO_WELLS_FREE_ENERGY = 9.02198
TWO_WELLS_SECOND = 0.133
SHELLS_LOG_Z = {2: -1.7456, 5: -5.6736, 10: -14.5905}
SHELL_OFFSET = 1.5
SHELL_PEAK = 1.0 / math.sqrt(2.0 * math.pi * 0.01)


def shell_residual(x: float, near: float, far: float) -> float:
    """Residual of two Gaussian shells (radius 2, width 0.1) from the squared distances to their centres."""
    a = 50.0 * (math.sqrt(near) - 2.0) ** 2
    b = 50.0 * (math.sqrt(far) - 2.0) ** 2
    low = min(a, b)
    energy = low - math.log1p(exp(low - max(a, b))) - math.log(SHELL_PEAK) + SHELL_OFFSET
    return math.sqrt(2.0 * max(energy, 0.0)) if x < 0.5 else 0.0


@component
def shells_2(x: float, a: float, b: float) -> float:
    """Gaussian shells in two dimensions."""
    rest = b * b
    return shell_residual(x, (a - 3.5) ** 2 + rest, (a + 3.5) ** 2 + rest)


@component
def shells_5(x: float, a: float, b: float, c: float, d: float, e: float) -> float:
    """Gaussian shells in five dimensions."""
    rest = b * b + c * c + d * d + e * e
    return shell_residual(x, (a - 3.5) ** 2 + rest, (a + 3.5) ** 2 + rest)


@component
def shells_10(
    x: float, a: float, b: float, c: float, d: float, e: float, f: float, g: float, h: float, i: float, j: float
) -> float:
    """Gaussian shells in ten dimensions."""
    rest = b * b + c * c + d * d + e * e + f * f + g * g + h * h + i * i + j * j
    return shell_residual(x, (a - 3.5) ** 2 + rest, (a + 3.5) ** 2 + rest)


SHELLS = {2: shells_2, 5: shells_5, 10: shells_10}


def target(shape: Component, prior: Prior, n_points: int) -> tuple[Dataset, Candidates]:
    """An analytic target as a model: residual i at x = i, y = 0, sigma = 1; its amplitude is fixed at one."""
    names = [p.name for p in shape.parameters[1:]]
    term = Term("target", shape, (Slot(None, offset=1.0), *(Slot(name) for name in names)))
    model = Model(shape.name, (term,), dict.fromkeys(names, prior))
    return Dataset(np.arange(n_points, dtype=float), np.zeros(n_points)), Candidates((model,))


@component(amplitude="slope")
def line(x: float) -> float:
    """A straight line through zero."""
    return x


@component(amplitude="offset")
def level(x: float) -> float:
    """The same everywhere."""
    return 1.0


@component(sort_by="rate")
def decay(x: float, rate: float) -> float:
    """An exponential decay."""
    return exp(-rate * x)


UNIT_NOISE = Gaussian(1.0)
