"""Particles cooled step by step from a reference to the posterior: sequential Monte Carlo.

Del Moral, Doucet and Jasra, JRSS B 68, 411 (2006); waste-free: Dau and Chopin, JRSS B 84, 114 (2022).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import log_mean_exp, softmax
from bluesky_bayes.kernels.task import Task, new_score, new_scratch, new_state
from bluesky_bayes.reference import Start

MOST_LEVELS = 128
SHARE = 0.5
SWEEPS = 16
WARM = 0.25


class Cooling(NamedTuple):
    """What particles found on their way.

    Attributes
    ----------
    betas : (n_levels,) float64
        Inverse temperatures from 0 to 1.
    steps : (n_levels, n_groups) float64
        Step sizes used.
    clouds : (n_levels, n, n_parameters) float64
        Whitened coordinates.
    energies, misfit : (n_levels, n) float64
        -log likelihood less the task's constant; `energies` also less the reference's energy.
    eves : (n,) int64
        The first particle that each last one descends from.
    acceptance : (n_groups,) float64
        At beta = 1.
    n_drawn : int
        Draws of the reference that gave the first cloud, with components in order.
    """

    betas: Array
    steps: Array
    clouds: Array
    energies: Array
    misfit: Array
    eves: npt.NDArray[np.int64]
    acceptance: Array
    n_drawn: int

    @property
    def log_z(self) -> float:
        """Log evidence over the reference's."""
        return float(log_mean_exp(-(np.diff(self.betas)[:, None] * self.energies[:-1]).T).sum())

    @property
    def error(self) -> float:
        """Standard error of `log_z`: the share of pairs that descend from one particle is its square.

        Lee and Whiteley, Biometrika 105, 609 (2018).
        """
        return math.sqrt(float(np.sum((np.bincount(self.eves) / self.eves.size) ** 2)))

    @property
    def warm(self) -> Array:
        """Coordinates (n, n_parameters) at the last temperatures."""
        warm: Array = np.concatenate(self.clouds[self.betas >= WARM])
        return warm


def cooled(
    kernels: Any,
    task: Task,
    start: Start,
    size: tuple[int, int],
    key: npt.NDArray[np.uint64],
    number: int,
    rng: np.random.Generator,
    betas: Array | None = None,
    steps: Array | None = None,
) -> Cooling:
    """Cool particles from a reference.

    Parameters
    ----------
    kernels : module
        Compiled `kernels.engine`.
    task : Task
    start : Start
    size : (int, int)
        Particles chosen at each temperature, and sweeps of each; every sweep gives a particle.
    key : (2,) uint64
    number : int
        The first of the random streams of this key that are used, one a temperature.
    rng : numpy.random.Generator
        For the draws of the reference.
    betas, steps : float64 arrays, optional
        Temperatures and steps; by default found on the way.
    """
    n_ancestors, n_sweeps = size
    n, d, sizes = n_ancestors * n_sweeps, len(task.tables), group_sizes(task)
    share = SHARE if betas is None else 0.0
    if betas is None or steps is None:
        betas, steps = np.zeros(MOST_LEVELS), np.ones((MOST_LEVELS, sizes.size))
    clouds = np.empty((betas.size, n, d))
    clouds[0], n_drawn = start.draws(n, rng)
    energies, misfit = np.empty((2, betas.size, n))
    eves = np.empty((betas.size, n), dtype=np.int64)
    scratch = new_scratch(task)
    n_levels = kernels.cool(
        task, start.arrays, new_state(task, clouds[0, :1]), new_score(start.arrays, clouds[0, :1]), n_sweeps, share,
        betas, steps, sizes, number, key[0], key[1], scratch, np.empty(n), clouds, energies, misfit, eves,
    )  # fmt: skip
    kept = slice(0, n_levels)
    return Cooling(
        betas[kept], steps[kept], clouds[kept], energies[kept], misfit[kept], eves[n_levels - 1],
        scratch.hits[: sizes.size] / (sizes * n), n_drawn,
    )  # fmt: skip


def reweighted(kernels: Any, task: Task, start: Start, n: int, rng: np.random.Generator) -> Cooling:
    """Cooled in one step and without moves: draws of the reference, then some of these by their weights."""
    z, n_drawn = start.draws(n, rng)
    energies, misfit = energies_of(kernels, task, start, z)
    eves = rng.choice(n, size=n, p=softmax(-energies))
    chosen, n_groups = np.stack([np.arange(n), eves]), group_sizes(task).size
    return Cooling(
        np.array([0.0, 1.0]), np.ones((2, n_groups)), z[chosen], energies[chosen], misfit[chosen], eves,
        np.zeros(n_groups), n_drawn,
    )  # fmt: skip


def energies_of(kernels: Any, task: Task, start: Start, z: Array) -> tuple[Array, Array]:
    """-log likelihood less the task's constant, less the reference's energy and not, at (n, n_parameters)."""
    energies, misfit = np.empty((2, len(z)))
    arrays = start.arrays
    kernels.weigh(
        task, arrays, new_state(task, z[:1]), new_score(arrays, z[:1]), z, new_scratch(task), energies, misfit
    )
    return energies, misfit


def group_sizes(task: Task) -> Array:
    """Parameters in each group of step sizes."""
    return np.bincount(task.step_group, minlength=1).astype(np.float64)
