"""Replica exchange: ladders of tempered chains that tune themselves.

Rounds of doubling length; after each but the last the temperatures are spread evenly in the communication barrier
(Syed et al., JRSS B 84, 321 (2022)). Only the last round counts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.kernels.task import Task, new_scratch, new_state

FIRST_ROUND = 50
FEWEST_LEVELS, MOST_LEVELS = 8, 96
START_LEVELS = 24
PRIOR_DRAWS = 200


@dataclass(frozen=True)
class Settings:
    """How long to sample.

    Attributes
    ----------
    sweeps : int
        Sweeps of the last round; tuning takes about as many again.
    chains : int
        Independent ladders for each model; they share the work between threads and check one another.
    """

    sweeps: int = 800
    chains: int = 4

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.sweeps < 2 * FIRST_ROUND or self.chains < 2:
            raise ValueError(f"sweeps must be {2 * FIRST_ROUND} or more and chains 2 or more; got {self.sweeps}, {self.chains}")


@dataclass(frozen=True)
class Chain:
    """What the last round of one ladder gave.

    Attributes
    ----------
    betas : (n_levels,) float64
        Inverse temperatures, from 0 to 1.
    energies : (n_sweeps, n_levels) float64
        -log likelihood less the task's constant, by level.
    samples : (n_sweeps, n_parameters) float64
        Whitened coordinates at beta = 1.
    rejection : (n_levels - 1,) float64
        Rejection rates of the swaps; their sum is the communication barrier.
    acceptance : (n_levels, n_groups) float64
        Acceptance of the moves.
    round_trips : int
        Journeys of replicas from the prior to the posterior and back.
    drift : float
        Largest relative rounding error of an energy before it was computed anew.
    """

    betas: Array
    energies: Array
    samples: Array
    rejection: Array
    acceptance: Array
    round_trips: int
    drift: float


def chain_key(seed: int, model: str, chain: int) -> npt.NDArray[np.uint64]:
    """Two 32-bit words that make a chain's random numbers its own, whatever runs beside it."""
    digest = hashlib.sha256(f"{seed}/{model}/{chain}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def run_chain(kernels: Any, task: Task, settings: Settings, key: npt.NDArray[np.uint64]) -> Chain:
    """Tune one ladder and sample it."""
    n_parameters = len(task.tables)
    rng = np.random.Generator(np.random.Philox(int(key[0]) << 32 | int(key[1])))
    betas, z = first_ladder(kernels, task, rng)
    group_size = np.bincount(task.step_group).astype(np.float64)
    steps = np.full((betas.size, group_size.size), 0.5)
    for round_, n_sweeps in enumerate(rounds(settings.sweeps)):
        last = n_sweeps == settings.sweeps
        n_adapt = n_sweeps // (8 if last else 2)
        n_levels = betas.size
        scratch = new_scratch(task, max(n_levels * n_parameters, n_levels))
        energies = np.empty((n_sweeps, n_levels))
        samples = np.empty((n_sweeps, n_parameters))
        rejected, accepted = np.zeros(n_levels - 1), np.zeros((n_levels, group_size.size))
        order, trips = np.arange(n_levels), np.full((n_levels, 2), (-1, 0))
        drift = kernels.run_ladder(
            task, new_state(task, z), betas, steps, group_size, n_sweeps, n_adapt, round_, key[0], key[1], order, scratch,
            energies, samples, rejected, accepted, trips,
        )
        ...
    raise NotImplementedError


def rounds(sweeps: int) -> list[int]:
    """Lengths of the rounds, doubling up to the last."""
    lengths = [sweeps]
    while lengths[0] >= 2 * FIRST_ROUND:
        lengths.insert(0, lengths[0] // 2)
    return lengths


def first_ladder(kernels: Any, task: Task, rng: np.random.Generator) -> tuple[Array, Array]:
    """Temperatures from the spread of energies under the prior, and draws from the prior to begin with."""
    raise NotImplementedError
