"""What every sampler has in common: how long to sample, where chains stand, what they give, and the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bluesky_bayes.cooling import Cooling
from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import Evidence, effective_size
from bluesky_bayes.kernels.task import Task
from bluesky_bayes.reference import Start
from bluesky_bayes.tasks import Group

SHORTEST = 100
MOST_DRAWS = 500
"""Draws of a chain that are kept for the posterior."""


@dataclass(frozen=True)
class Settings:
    """How long to sample.

    Attributes
    ----------
    error : float
        Wanted standard error of the log evidence, in nats: every model that is still in question goes on until it is
        that sure, its chains agree and have been to and fro; the best one until they agree on every parameter, too.
    budget : float, optional
        Seconds after which no new round begins, sure or not. With it the answer depends on the machine's speed.
    sweeps : int
        Sweeps of the first round of each chain; where `error` is above 0.1 fewer in proportion, but two thirds at
        least. Sequential Monte Carlo: particles at each temperature.
    longest : int
        Sweeps in all beyond which no model goes, sure or not.
    chains : int
        Chains of each model. They are sampled independently, share the work between threads and check one another.
    """

    error: float = 0.1
    budget: float | None = None
    sweeps: int = 300
    longest: int = 9600
    chains: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in asdict(self).items():
            if not isinstance(value, int | float | np.number) and not (name == "budget" and value is None):
                raise ValueError(f"{name} must be a number; got {value!r}")
        for name in ("sweeps", "longest", "chains"):
            number = getattr(self, name)
            if not float(number).is_integer():
                raise ValueError(f"{name} must be a whole number; got {number!r}")
            object.__setattr__(self, name, int(number))
        if self.sweeps < SHORTEST or self.chains < 2:
            raise ValueError(
                f"sweeps must be {SHORTEST} or more and chains 2 or more; got {self.sweeps}, {self.chains}"
            )
        if not self.error > 0 or self.longest < self.sweeps:
            raise ValueError(f"error must be positive and longest at least sweeps; got {self.error}, {self.longest}")
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"budget must be a positive number of seconds; got {self.budget}")


class Path(NamedTuple):
    """The way from a reference to a posterior, the same for all chains of a model.

    Attributes
    ----------
    kernels : module
        Compiled `kernels.engine`.
    task : Task
    start : Start
        The distribution at beta = 0.
    betas : (n_levels,) float64
        Inverse temperatures from 0 to 1.
    steps : (n_levels, n_groups) float64
        Step sizes in the whitened prior to begin with.
    strides : (n_levels, n_free, n_free) float64
        For steps of all shapes: lower Cholesky factor of the coordinates' covariance.
    groups : tuple of Group
        Exchangeable components.
    """

    kernels: Any
    task: Task
    start: Start
    betas: Array
    steps: Array
    strides: Array
    groups: tuple[Group, ...]


class State(NamedTuple):
    """Where a chain stands between two rounds.

    Attributes
    ----------
    coordinates : (n_levels, n_parameters) float64
        One replica a level; none for particles, which begin anew.
    steps : (n_levels, n_groups) float64
    strides : (n_levels, n_free, n_free) float64
    number : int
        Rounds done: each has random numbers of its own.
    ends : (n_levels,) int64, optional
        End of the ladder that the replica at each level saw last: 0 hot, 1 cold, -1 none; by default none.
    """

    coordinates: Array
    steps: Array
    strides: Array
    number: int
    ends: Array | None = None


@dataclass(frozen=True)
class Info:
    """What the rounds of one chain gave.

    Attributes
    ----------
    energies : (n_sweeps, n_levels) float64
        -log likelihood less the task's constant and less the reference's energy, by level and sweep (or particle). Of
        independent draws: those of a sweep, and where the chain is after them.
    misfit : (n_sweeps,) float64
        -log likelihood less the task's constant at beta = 1.
    samples : (n_sweeps, n_parameters) float64
        Whitened coordinates at beta = 1.
    rejection : (n_levels - 1,) float64
        Rejection rates of the swaps; their sum is the communication barrier.
    acceptance : (n_levels, n_groups) float64
        Acceptance of the moves.
    round_trips : int
        Journeys of replicas from the prior to the posterior and back.
    drift : float
        Largest rounding error of an energy before it was computed anew, in nats.
    n_drawn : float
        Draws that gave one for each sweep with components in order.
    """

    energies: Array
    misfit: Array
    samples: Array
    rejection: Array
    acceptance: Array
    round_trips: int
    drift: float
    n_drawn: float

    def joined(self, later: Info) -> Info:
        """What this round and a later one, which went on where it ended, gave together."""
        n, m = len(self.energies), len(later.energies)
        return replace(
            later,
            energies=np.concatenate([self.energies, later.energies]),
            misfit=np.concatenate([self.misfit, later.misfit]),
            samples=np.concatenate([self.samples, later.samples]),
            rejection=(n * self.rejection + m * later.rejection) / (n + m),
            acceptance=(n * self.acceptance + m * later.acceptance) / (n + m),
            round_trips=self.round_trips + later.round_trips,
            drift=max(self.drift, later.drift),
            n_drawn=self.n_drawn + later.n_drawn,
        )


class Sampler(Protocol):
    """One way to sample: `init` begins a chain, `step` takes it through a round, `evidence` weighs all chains."""

    proposals: ClassVar[int] = 1
    """Draws of the reference in a sweep."""

    @property
    def name(self) -> str:
        """What `select` calls it."""

    @property
    def words(self) -> str:
        """What it draws, for a sentence that goes on with where from."""

    def path(self, kernels: Any, task: Task, groups: tuple[Group, ...], start: Start, cooling: Cooling) -> Path:
        """Temperatures and steps for all chains, from particles that went the same way: theirs, if nothing better."""
        return Path(kernels, task, start, cooling.betas, cooling.steps, cooling.strides, groups)

    def init(self, path: Path, cooling: Cooling, rng: np.random.Generator) -> State:
        """Where a chain begins."""

    def step(self, path: Path, state: State, key: npt.NDArray[np.uint64], length: int) -> tuple[State, Info]:
        """A round of `length` sweeps that count, and where it ended."""

    def mixed(self, path: Path, infos: Sequence[Info], z: Array, rng: np.random.Generator) -> Array:
        """Draws (n_chains, n_draws, n_parameters) of the chains as draws of the posterior: as they are, by default."""
        return z

    def effective_size(self, path: Path, infos: Sequence[Info], z: Array) -> float:
        """Effective number of independent draws, of the parameter that has the fewest, in what `mixed` gave."""
        return float(effective_size(np.moveaxis(z, -1, 0)).min())

    def evidence(self, path: Path, infos: Sequence[Info]) -> Evidence:
        """Log evidence over the reference's, less the task's constant, by all chains."""


def thinned(samples: Array, most: int) -> Array:
    """At most `most` rows, evenly spaced."""
    rows = np.linspace(0, len(samples) - 1, min(len(samples), most)).astype(np.intp)
    return samples[rows]


def chain_key(seed: int | str, model: str, chain: int) -> npt.NDArray[np.uint64]:
    """Two 32-bit words that make a chain's random numbers its own, whatever runs beside it."""
    digest = hashlib.sha256(f"{seed}/{model}/{chain}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def generator(key: npt.NDArray[np.uint64], number: int) -> np.random.Generator:
    """NumPy's random numbers of a chain; every `number` has a stream of its own."""
    return np.random.Generator(np.random.Philox(key=[int(key[0]), int(key[1])], counter=[0, 0, 0, number]))
