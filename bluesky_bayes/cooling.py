"""Particles cooled step by step from a reference to the posterior: sequential Monte Carlo.

Del Moral, Doucet and Jasra, JRSS B 68, 411 (2006); waste-free: Dau and Chopin, JRSS B 84, 114 (2022).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import log_mean_exp, softmax
from bluesky_bayes.kernels.launch import CardKernels
from bluesky_bayes.kernels.task import Task, new_score, new_scratch, new_state
from bluesky_bayes.reference import Start
from bluesky_bayes.tasks import Group, order_of

_T = TypeVar("_T")
Rows: TypeAlias = npt.NDArray[np.int64]
Cloud: TypeAlias = tuple[Array, Array, Array]
"""Coordinates, energies and misfit of particles at one temperature."""
_Cooled: TypeAlias = tuple[Array, Array, Array, list[Cloud], list[Rows], Array]
"""Temperatures, steps and strides, the clouds there, which particles each comes from, and moves accepted at last."""

MOST_LEVELS = 128
FEW_ANCESTORS = 16
"""So few particles are moved in one piece: a call costs some hundred moves."""
SHARE = 0.5
SWEEPS = 16
WARM = 0.25


class Spread(Protocol):
    """Divides rows 0 to n among threads that have nothing to do; what is worked out does not depend on how."""

    def __call__(self, function: Callable[[int, int], _T], n: int, /) -> list[_T]:
        """What the function gives for each piece, by its first row and the one after its last."""


def in_one_piece(function: Callable[[int, int], _T], n: int, /) -> list[_T]:
    """Do not divide."""
    return [function(0, n)]


class Cooling(NamedTuple):
    """What particles found on their way.

    Attributes
    ----------
    betas : (n_levels,) float64
        Inverse temperatures from 0 to 1.
    steps : (n_levels, n_groups) float64
        Step sizes used.
    strides : (n_levels, n_free, n_free) float64
        Of steps of all shapes: lower Cholesky factors of the covariance of the particles that were moved.
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
    strides: Array
    clouds: Array
    energies: Array
    misfit: Array
    eves: Rows
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

    def joined(self, other: Cooling) -> Cooling:
        """These and other particles, which were cooled at the same temperatures."""
        return self._replace(
            clouds=np.concatenate([self.clouds, other.clouds], axis=1),
            energies=np.concatenate([self.energies, other.energies], axis=1),
            misfit=np.concatenate([self.misfit, other.misfit], axis=1),
            eves=np.concatenate([self.eves, self.eves.size + other.eves]),
            acceptance=0.5 * (self.acceptance + other.acceptance),
            n_drawn=self.n_drawn + other.n_drawn,
        )


class Own(threading.local):
    """What a kernel needs beside the task, for one particle at a time; each thread has its own."""

    def __init__(self, task: Task, start: Start) -> None:
        z = np.zeros((1, len(task.tables)))
        self.state, self.score, self.scratch = new_state(task, z), new_score(start.arrays, z), new_scratch(task)


def cooled(
    kernels: Any,
    task: Task,
    start: Start,
    size: tuple[int, int],
    key: npt.NDArray[np.uint64],
    number: int,
    rng: np.random.Generator,
    groups: tuple[Group, ...],
    known: tuple[Array, Array, Array] | None = None,
    spread: Spread = in_one_piece,
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
    groups : tuple of Group
        Exchangeable components.
    known : (betas, steps, strides), optional
        By default found on the way.
    spread : Spread
    """
    n, sizes = size[0] * size[1], group_sizes(task)
    share, free = 0.0 if known else SHARE, task.free
    if known is None:
        known = np.zeros(MOST_LEVELS), np.ones((MOST_LEVELS, sizes.size)), np.zeros((MOST_LEVELS, free.size, free.size))
    cloud, n_drawn = start.draws(n, rng)
    own = Own(task, start)
    first = cloud, *_weighed(kernels, task, start, cloud, spread, own)
    way = _Way(task, start, size, key, number, groups, known, share, sizes, first, own)
    found = way.on_card(kernels) if isinstance(kernels, CardKernels) else None
    betas, steps, strides, clouds, parents, hits = found or way.on_processor(kernels, spread)
    eves: Rows = np.arange(n)
    for chosen in parents:
        eves = eves[np.repeat(chosen, size[1])]
    z, energies, misfit = (np.stack(values) for values in zip(*clouds, strict=True))
    return Cooling(betas, steps, strides, z, energies, misfit, eves, hits / (sizes * n), n_drawn)


class _Way(NamedTuple):
    """A cloud of particles before it is cooled, see `cooled`."""

    task: Task
    start: Start
    size: tuple[int, int]
    key: npt.NDArray[np.uint64]
    number: int
    groups: tuple[Group, ...]
    known: tuple[Array, Array, Array]
    share: float
    sizes: Array
    first: Cloud
    own: Own

    def on_processor(self, kernels: Any, spread: Spread) -> _Cooled:
        """Temperature by temperature, the particles in pieces."""
        (n_ancestors, n_sweeps), (betas, steps, strides) = self.size, self.known
        task, start, key, own, free = self.task, self.start, self.key, self.own, self.task.free
        order = order_of(self.groups)
        n = n_ancestors * n_sweeps
        if n_ancestors <= FEW_ANCESTORS:
            spread = in_one_piece
        found, chosen, level = [self.first], list[Rows](), 0
        hits: Array = np.zeros(self.sizes.size)
        total = np.empty(n)

        def move(level: int, before: Array, parents: Rows, after: Cloud, a: int, b: int) -> Array:
            rows = slice(a * n_sweeps, b * n_sweeps)
            kernels.move_particles(
                task, start.arrays, own.state, own.score, betas[level], steps, strides, level, parents[a:b], a,
                n_sweeps, before, self.number, key[0], key[1], own.scratch, *(values[rows] for values in after),
            )  # fmt: skip
            return own.scratch.hits[: self.sizes.size].copy()

        while betas[level] < 1.0:
            before, energy, _ = found[-1]
            scratch, parents = own.scratch, np.empty(n_ancestors, dtype=np.int64)
            kernels.choose(
                betas, steps, level, self.share, self.sizes, hits, n, energy, self.number, key[0], key[1],
                scratch.normals, scratch.log_uniforms, total, parents,
            )  # fmt: skip
            level += 1
            if free.size:
                before = before.copy()
                kernels.find_stride(before, parents, free, order, self.share, strides, level)
            after = np.empty_like(before), np.empty(n), np.empty(n)
            hits = np.sum(spread(partial(move, level, before, parents, after), n_ancestors), axis=0)
            found.append(after)
            chosen.append(parents)
        kept = slice(0, level + 1)
        return betas[kept], steps[kept], strides[kept], found, chosen, hits

    def on_card(self, kernels: CardKernels) -> _Cooled | None:
        """All temperatures at once; None where the processor has to do it."""
        (n_ancestors, n_sweeps), own = self.size, self.own
        found = kernels.cool(
            self.task, self.start.arrays, own.state, own.score, *self.known, self.share, self.sizes, n_sweeps,
            self.number, *self.key, np.zeros(n_ancestors, dtype=np.int64), own.scratch, *self.first[:2],
            order_of(self.groups),
        )  # fmt: skip
        if found is None:
            return None
        after = zip(found["clouds"], found["energies"], found["misfit"], strict=True)
        hits = found["hits"][: self.sizes.size]
        way = found["betas"], found["steps"], found["strides"]
        return *way, [self.first, *after], list(found["parents"]), hits


def reweighted(
    kernels: Any, task: Task, start: Start, n: int, rng: np.random.Generator, spread: Spread = in_one_piece
) -> Cooling:
    """Cooled in one step and without moves: draws of the reference, then some of these by their weights."""
    z, n_drawn = start.draws(n, rng)
    energies, misfit = energies_of(kernels, task, start, z, spread)
    eves = rng.choice(n, size=n, p=softmax(-energies))
    chosen, n_groups, n_free = np.stack([np.arange(n), eves]), group_sizes(task).size, task.free.size
    return Cooling(
        np.array([0.0, 1.0]), np.ones((2, n_groups)), np.zeros((2, n_free, n_free)), z[chosen], energies[chosen],
        misfit[chosen], eves, np.zeros(n_groups), n_drawn,
    )  # fmt: skip


def energies_of(kernels: Any, task: Task, start: Start, z: Array, spread: Spread = in_one_piece) -> tuple[Array, Array]:
    """-log likelihood less the task's constant, less the reference's energy and not, at (n, n_parameters)."""
    return _weighed(kernels, task, start, z, spread, Own(task, start))


def _weighed(kernels: Any, task: Task, start: Start, z: Array, spread: Spread, own: Own) -> tuple[Array, Array]:
    energies, misfit = np.empty((2, len(z)))

    def weigh(a: int, b: int) -> None:
        kernels.weigh(task, start.arrays, own.state, own.score, z[a:b], own.scratch, energies[a:b], misfit[a:b])

    spread(weigh, len(z))
    return energies, misfit


def group_sizes(task: Task) -> Array:
    """Parameters in each group of step sizes; one where there are none."""
    return np.maximum(np.bincount(task.step_group, minlength=1), 1.0)
