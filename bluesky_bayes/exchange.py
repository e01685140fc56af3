"""Replica exchange: ladders of tempered chains whose neighbours change places.

Hukushima and Nemoto, JPSJ 65, 1604 (1996), with alternating (non-reversible) swaps and temperatures spread evenly in
the communication barrier (Syed et al., JRSS B 84, 321 (2022)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.cooling import Cooling, group_sizes
from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import Evidence, evidence
from bluesky_bayes.kernels.task import Task, new_score, new_scratch, new_state
from bluesky_bayes.reference import Start
from bluesky_bayes.sampler import Info, Path, Sampler, State, generator
from bluesky_bayes.tasks import Group, in_order

FEWEST_LEVELS, MOST_LEVELS = 4, 96
LEVELS_PER_BARRIER = 2.0
FINE_LEVELS, LEAST_CHANGE, FARTHEST, MOST_ENERGIES = 32, 0.1, 1e6, 256
BURN_IN, BURN_IN_FROM_PRIOR = 0.25, 0.75


class Exchange(Sampler):
    """Replica exchange, one ladder a chain."""

    name, words = "exchange", "replica exchange"

    def path(self, kernels: Any, task: Task, groups: tuple[Group, ...], start: Start, cooling: Cooling) -> Path:
        """Temperatures evenly spaced in the barrier that the particles tell."""
        betas, position, _ = _respaced(cooling)
        strides = cooling.strides[np.rint(position).astype(int)]
        return Path(kernels, task, start, betas, _carried(np.log(cooling.steps), position), strides, groups)

    def init(self, path: Path, cooling: Cooling, rng: np.random.Generator) -> State:
        """A particle for each level, of the nearest temperature."""
        at = np.abs(cooling.betas[:, None] - path.betas).argmin(axis=0)
        chosen = rng.integers(cooling.clouds.shape[1], size=at.size)
        return State(cooling.clouds[at, chosen], path.steps, path.strides, 0)

    def step(self, path: Path, state: State, key: npt.NDArray[np.uint64], length: int) -> tuple[State, Info]:
        """Sweeps and swaps; before the first round some for forgetting the start and adapting the steps."""
        burn_in = BURN_IN if path.start.weights.size else BURN_IN_FROM_PRIOR
        n_adapt = 0 if state.number else int(burn_in * length)
        n_sweeps, n_levels = n_adapt + length, path.betas.size
        reference, z, steps = path.start.arrays, state.coordinates, state.steps.copy()
        if path.task.free.size:
            z = in_order(z, path.groups)
        fresh, n_drawn = path.start.draws(n_sweeps, generator(key, 1 + state.number))
        scratch, replicas, score = new_scratch(path.task, n_levels), new_state(path.task, z), new_score(reference, z)
        energies, misfit, samples = np.empty((n_sweeps, n_levels)), np.empty(n_sweeps), np.empty((n_sweeps, z.shape[1]))
        rejected, accepted = np.zeros(n_levels - 1), np.zeros(steps.shape)
        order, trips = np.arange(n_levels), np.full((n_levels, 2), (-1, 0))
        if state.ends is not None:
            trips[:, 0] = state.ends
        drift = path.kernels.run_ladder(
            path.task, reference, replicas, score, fresh, path.betas, steps, state.strides, group_sizes(path.task),
            n_adapt, state.number, key[0], key[1], order, scratch, energies, misfit, samples, rejected, accepted, trips,
        )  # fmt: skip
        info = Info(
            energies[n_adapt:], misfit[n_adapt:], samples[n_adapt:], rejected / (0.5 * length),
            np.minimum(accepted / length, 1.0), int(trips[:, 1].sum()), float(drift),
            n_drawn * length / n_sweeps,
        )  # fmt: skip
        return State(replicas.z[order], steps, state.strides, state.number + 1, trips[order, 0]), info

    def evidence(self, path: Path, infos: Sequence[Info]) -> Evidence:
        """Bennett's ratio between neighbours."""
        return evidence(path.betas, [info.energies for info in infos])


def barrier_of(cooling: Cooling) -> float:
    """Communication barrier that the particles tell."""
    return _respaced(cooling)[2]


def _respaced(cooling: Cooling) -> tuple[Array, Array, float]:
    """`respaced` by some of the particles."""
    thin = -(-cooling.energies.shape[1] // MOST_ENERGIES)
    return respaced(cooling.betas, list(cooling.energies[:, ::thin]))


def _carried(log_steps: Array, position: Array) -> Array:
    """Steps at fractional positions of the old ladder."""
    ranks = np.arange(len(log_steps))
    return np.stack([np.exp(np.interp(position, ranks, column)) for column in log_steps.T], axis=1)


def respaced(betas: Array, energies: Sequence[Array]) -> tuple[Array, Array, float]:
    """Temperatures at even steps of the communication barrier.

    Its slope, half the mean absolute difference of two energies, is taken at each level and, by weighting that level's
    energies, on the way to the next: finely near the level, where a few large energies make it fall fast.

    Parameters
    ----------
    betas : (n_levels,) float64
    energies : sequence of (n,) float64
        Some of each level.

    Returns
    -------
    betas : (n_levels,) float64
    position : (n_levels,) float64
        Where they lie among the old ones.
    barrier : float
        The whole barrier.
    """
    fine, total = [betas[:1]], [np.zeros(1)]
    for low, high, e in zip(betas[:-1], betas[1:], energies[:-1], strict=True):
        e = np.sort(e)
        e = np.minimum(e, e[0] + FARTHEST / max(high - low, 1e-300))
        least = min(0.5, LEAST_CHANGE / ((high - low) * (e[-1] - e[0]) + LEAST_CHANGE))
        step = np.append(0.0, (high - low) * np.geomspace(least, 1.0, FINE_LEVELS))
        weight = np.exp(-step[:, None] * (e - e[0]))
        weight /= weight.sum(axis=1, keepdims=True)
        below = np.cumsum(weight, axis=1)
        slope = np.sum(np.diff(e) * below[:, :-1] * (1.0 - below[:, :-1]), axis=1)
        length = np.append(slope[1] * step[1], 0.5 * np.diff(np.log(step[1:])) * (slope * step)[1:-1])
        length[1:] += 0.5 * np.diff(np.log(step[1:])) * (slope * step)[2:]
        fine.append(low + step[1:])
        total.append(total[-1][-1] + np.cumsum(length))
    all_betas, along = np.concatenate(fine), np.concatenate(total) + 1e-12 * np.arange(sum(map(len, total)))
    n_levels = int(np.clip(np.ceil(LEVELS_PER_BARRIER * along[-1]) + 1, FEWEST_LEVELS, MOST_LEVELS))
    new = np.interp(np.linspace(0.0, along[-1], n_levels), along, all_betas)
    new[0], new[-1] = 0.0, 1.0
    return new, np.interp(new, betas, np.arange(betas.size)), float(along[-1])
