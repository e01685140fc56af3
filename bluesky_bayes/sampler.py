"""Replica exchange: ladders of tempered chains that tune themselves.

Rounds of doubling length; after each but the last the temperatures are spread evenly in the communication barrier
(Syed et al., JRSS B 84, 321 (2022)). Only the last round counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.kernels.task import Task, new_scratch, new_state
from bluesky_bayes.model import Model

FIRST_ROUND = 50
FEWEST_LEVELS, MOST_LEVELS = 8, 96
START_LEVELS = 24
LEVELS_PER_BARRIER = 2.0
PRIOR_DRAWS = 200


@dataclass(frozen=True)
class Settings:
    """How long to sample.

    Attributes
    ----------
    sweeps : int
        Sweeps of the last round, the one that counts; tuning takes about half as many before it.
    chains : int
        Ladders of each model. They are tuned together, sampled independently, share the work between threads and
        check one another.
    """

    sweeps: int = 1200
    chains: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.sweeps < 4 * FIRST_ROUND or self.chains < 2:
            raise ValueError(f"sweeps must be {4 * FIRST_ROUND} or more and chains 2 or more; got {self.sweeps}, {self.chains}")

    @property
    def rounds(self) -> list[int]:
        """Lengths of the rounds: doubling while they tune, then the last."""
        lengths = [self.sweeps // 4, self.sweeps]
        while lengths[0] >= 2 * FIRST_ROUND:
            lengths.insert(0, lengths[0] // 2)
        return lengths


@dataclass(frozen=True)
class Chain:
    """What one round of one ladder gave, after its adaptation.

    Attributes
    ----------
    energies : (n_sweeps, n_levels) float64
        -log likelihood less the task's constant, by level.
    samples : (n_sweeps, n_parameters) float64
        Whitened coordinates at beta = 1.
    steps : (n_levels, n_groups) float64
        Step sizes in the whitened prior.
    last : (n_levels, n_parameters) float64
        Coordinates at the end, by level.
    rejection : (n_levels - 1,) float64
        Rejection rates of the swaps; their sum is the communication barrier.
    acceptance : (n_levels, n_groups) float64
        Acceptance of the moves.
    round_trips : int
        Journeys of replicas from the prior to the posterior and back.
    drift : float
        Largest rounding error of an energy before it was computed anew, in nats.
    """

    energies: Array
    samples: Array
    steps: Array
    last: Array
    rejection: Array
    acceptance: Array
    round_trips: int
    drift: float


@dataclass(frozen=True)
class Ladder:
    """Where the chains of one model stand between two rounds.

    Attributes
    ----------
    betas : (n_levels,) float64
        Inverse temperatures from 0 to 1, shared by the chains.
    steps : (n_levels, n_groups) float64
    coordinates : tuple of (n_levels, n_parameters) float64
        One a chain.
    """

    betas: Array
    steps: Array
    coordinates: tuple[Array, ...]


class Job:
    """One model of one data set on its way through the rounds.

    Parameters
    ----------
    kernels : module
        Compiled `kernels.engine`.
    task : Task
    settings : Settings
    seed : int
    model : Model
        Its name, with the seed and the chain's number, fixes the random numbers.
    """

    def __init__(self, kernels: Any, task: Task, settings: Settings, seed: int, model: Model) -> None:
        self.kernels, self.task, self.settings, self.model = kernels, task, settings, model
        self.keys = [chain_key(seed, model.name, chain) for chain in range(settings.chains)]
        self.ladder = first_ladder(kernels, task, self.keys)
        self.chains: list[Chain] = []

    @property
    def cost(self) -> int:
        """Roughly how long a sweep takes, for putting long jobs first."""
        return self.ladder.betas.size * (1 + len(self.task.tables)) * self.task.x.size

    def run(self, number: int, chain: int) -> Chain:
        """Round `number` of one chain."""
        length = self.settings.rounds[number]
        last = number == len(self.settings.rounds) - 1
        return run_round(self.kernels, self.task, self.ladder, chain, length, length // (8 if last else 2), number, self.keys[chain])

    def take(self, chains: list[Chain], tune: bool) -> None:
        """Take in a round's results and, unless it was the last, tune the ladder by all chains together."""
        self.chains = chains
        if tune:
            self.ladder = tuned(self.ladder, chains)


def run_jobs(jobs: Sequence[Job], settings: Settings, executor: Executor) -> None:
    """Take all jobs through all rounds, (job, chain) side by side; results do not depend on how many threads there are."""
    last = len(settings.rounds) - 1
    for number in range(last + 1):
        work = [(job, chain) for job in sorted(jobs, key=lambda job: -job.cost) for chain in range(settings.chains)]
        results = list(executor.map(lambda entry: entry[0].run(number, entry[1]), work))  # noqa: B023
        for job in jobs:
            job.take([r for r, (owner, _) in zip(results, work, strict=True) if owner is job], number < last)


def chain_key(seed: int, model: str, chain: int) -> npt.NDArray[np.uint64]:
    """Two 32-bit words that make a chain's random numbers its own, whatever runs beside it."""
    digest = hashlib.sha256(f"{seed}/{model}/{chain}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def run_round(
    kernels: Any, task: Task, ladder: Ladder, chain: int, n_sweeps: int, n_adapt: int, number: int, key: Any
) -> Chain:
    """`n_sweeps` sweeps of one chain, the first `n_adapt` of them for adapting the steps and not kept."""
    z, betas, steps = ladder.coordinates[chain], ladder.betas, ladder.steps.copy()
    n_levels, n_parameters = z.shape
    scratch = new_scratch(task, n_levels * max(n_parameters, 1))
    state = new_state(task, z)
    energies, samples = np.empty((n_sweeps, n_levels)), np.empty((n_sweeps, n_parameters))
    rejected, accepted = np.zeros(n_levels - 1), np.zeros(steps.shape)
    order, trips = np.arange(n_levels), np.full((n_levels, 2), (-1, 0))
    drift = kernels.run_ladder(
        task, state, betas, steps, group_sizes(task), n_adapt, number, key[0], key[1],
        order, scratch, energies, samples, rejected, accepted, trips,
    )  # fmt: skip
    n = n_sweeps - n_adapt
    return Chain(
        energies[n_adapt:], samples[n_adapt:], steps, state.z[order], rejected / (0.5 * n), accepted / n, int(trips[:, 1].sum()), drift
    )


def group_sizes(task: Task) -> Array:
    """Parameters in each group of step sizes."""
    return np.bincount(task.step_group, minlength=1).astype(np.float64)


def first_ladder(kernels: Any, task: Task, keys: Sequence[npt.NDArray[np.uint64]]) -> Ladder:
    """Temperatures from the spread of energies under the prior, and draws from the prior to begin with."""
    generators = [np.random.Generator(np.random.Philox(key=[int(key[0]), int(key[1])])) for key in keys]
    n_parameters = len(task.tables)
    draws = new_state(task, generators[0].standard_normal((PRIOR_DRAWS, n_parameters)))
    scratch = new_scratch(task, 1)
    for p in range(PRIOR_DRAWS):
        kernels.rebuild(task, draws, p, scratch)
    low, high = np.quantile(draws.energy, (0.25, 0.75))
    lowest = 1.0 / max(float(high - low), 10.0)
    betas = np.concatenate([[0.0], np.geomspace(lowest, 1.0, START_LEVELS - 1)])
    coordinates = tuple(g.standard_normal((START_LEVELS, n_parameters)) for g in generators)
    return Ladder(betas, np.full((START_LEVELS, group_sizes(task).size), 0.5), coordinates)


def tuned(ladder: Ladder, chains: Sequence[Chain]) -> Ladder:
    """Temperatures evenly spaced in the communication barrier; steps and coordinates carried over."""
    old = ladder.betas
    betas = respaced(old, local_barrier(np.concatenate([chain.energies for chain in chains])))
    log_steps = np.mean([np.log(chain.steps) for chain in chains], axis=0)
    at = np.rint(_between(betas, old, np.arange(old.size))).astype(np.intp)
    steps = np.stack([np.exp(_between(betas, old, column)) for column in log_steps.T], axis=1)
    return Ladder(betas, steps, tuple(chain.last[at] for chain in chains))


def local_barrier(energies: Array) -> Array:
    """d Lambda / d beta at each level: half the mean absolute difference of two energies (Syed et al. 2022, section 4)."""
    ordered = np.sort(energies, axis=0)
    n = len(ordered)
    weight = (2.0 * np.arange(1, n + 1) - n - 1.0) / (n * (n - 1.0))
    barrier: Array = np.maximum(weight @ ordered, 1e-12)
    return barrier


def respaced(betas: Array, barrier: Array) -> Array:
    """Temperatures with even steps of the integral of `barrier`, a power law of beta between levels."""
    lengths = np.empty(betas.size - 1)
    lengths[0] = 0.5 * (barrier[0] + barrier[1]) * betas[1]
    log_ratio = np.diff(np.log(betas[1:]))
    slope = np.diff(np.log(barrier[1:])) / log_ratio + 1.0
    start = barrier[1:-1] * betas[1:-1]
    flat = np.abs(slope) < 1e-6
    safe = np.where(flat, 1.0, slope)
    lengths[1:] = start * np.where(flat, log_ratio, np.expm1(safe * log_ratio) / safe)
    total = np.concatenate([[0.0], np.cumsum(lengths)])
    n_levels = int(np.clip(np.ceil(LEVELS_PER_BARRIER * total[-1]) + 1, FEWEST_LEVELS, MOST_LEVELS))
    even = np.linspace(0.0, total[-1], n_levels)
    new = np.where(even < total[1], betas[1] * even / total[1], np.exp(np.interp(even, total[1:], np.log(betas[1:]))))
    new[0], new[-1] = 0.0, 1.0
    return new


def _between(betas: Array, old: Array, values: Array) -> Array:
    """Values at the old temperatures interpolated in beta^(1/4)."""
    between: Array = np.interp(betas**0.25, old**0.25, values)
    return between
