"""Replica exchange: ladders of tempered chains that tune themselves.

A short annealing gives a first ladder, two rounds tune it: after each the temperatures are spread evenly in the
communication barrier (Syed et al., JRSS B 84, 321 (2022)). The round that counts is run again, twice as long each
time, until the evidence is sure enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import evidence
from bluesky_bayes.kernels.task import Task, new_scratch, new_state
from bluesky_bayes.model import Model

FEWEST_LEVELS, MOST_LEVELS = 8, 96
LEVELS_PER_BARRIER = 2.0
PARTICLES = 64
COOLING, FIRST_COOLING = 4, 100
EASING_POINTS = 100_001
SHORTEST = 200
IN_QUESTION = 10.0


@dataclass(frozen=True)
class Settings:
    """How long to sample.

    Attributes
    ----------
    sweeps : int
        Sweeps of the first round that counts; the tuning rounds before it have three eighths as many.
    error : float
        Wanted standard error of the log evidence, in nats: the round is run again, twice as long each time, for every
        model that is still in question and not that sure.
    longest : int
        Sweeps beyond which no round goes, sure or not.
    chains : int
        Ladders of each model. They are tuned together, sampled independently, share the work between threads and
        check one another.
    """

    sweeps: int = 1200
    error: float = 0.15
    longest: int = 9600
    chains: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.sweeps < SHORTEST or self.chains < 2:
            raise ValueError(
                f"sweeps must be {SHORTEST} or more and chains 2 or more; got {self.sweeps}, {self.chains}"
            )
        if not self.error > 0 or self.longest < self.sweeps:
            raise ValueError(f"error must be positive and longest at least sweeps; got {self.error}, {self.longest}")


@dataclass(frozen=True)
class Chain:
    """What one round of one ladder gave, after its adaptation.

    Attributes
    ----------
    energies : (n_sweeps, n_levels) float64
        -log likelihood less the task's constant and the easing energy of an unknown noise, by level.
    samples : (n_sweeps, n_parameters) float64
        Whitened coordinates at beta = 1.
    steps : (n_levels, n_groups) float64
        Step sizes in the whitened prior.
    last : (n_levels, n_parameters) float64
        Coordinates at the end, by level.
    last_energy : (n_levels,) float64
        Their energies.
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
    last_energy: Array
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
        self.round = 0
        self.chains: list[Chain] = []

    def prepare(self) -> None:
        """Find a first ladder."""
        eased = easing(self.task)
        self.log_start = 0.0 if eased is None else eased.log_z
        self.ladder = annealed(self.kernels, self.task, self.keys, eased)

    @property
    def cost(self) -> int:
        """Roughly how long a sweep takes, for putting long jobs first."""
        return (1 + len(self.task.tables)) * self.task.x.size

    def run(self, chain: int, length: int, n_adapt: int) -> Chain:
        """One round of one chain."""
        ladder, key = self.ladder, self.keys[chain]
        start = ladder.coordinates[chain]
        return run_round(self.kernels, self.task, ladder.betas, ladder.steps, start, length, n_adapt, self.round, key)

    def take(self, chains: list[Chain]) -> None:
        """Take in what a round gave."""
        self.chains = chains
        self.round += 1

    def tune(self) -> None:
        """Tune the ladder by the last round of all chains together."""
        self.ladder = tuned(self.ladder, self.chains)

    def assess(self) -> None:
        """Work out the evidence of the last round."""
        found = evidence(self.ladder.betas, [chain.energies for chain in self.chains])
        self.evidence = found._replace(log_z=found.log_z + self.log_start)

    @property
    def unsure(self) -> bool:
        """Whether the evidence is less sure than wanted, or the chains have not been to and fro."""
        return self.evidence.error > self.settings.error or sum(c.round_trips for c in self.chains) < len(self.chains)


def run_jobs(questions: Sequence[Sequence[Job]], settings: Settings, executor: Executor) -> None:
    """Sample all models of some questions, (model, chain) side by side; the number of threads changes no result.

    Each question is a list of models to choose from: rounds are run again, twice as long, only for those in question.
    """
    jobs = [job for question in questions for job in question]
    list(executor.map(Job.prepare, sorted(jobs, key=lambda job: -job.cost)))
    for length in (settings.sweeps // 8, settings.sweeps // 4):
        _round(jobs, length, length // 2, executor)
        for job in jobs:
            job.tune()
    length, pending = settings.sweeps, jobs
    while pending:
        _round(pending, length, length // 8, executor)
        list(executor.map(Job.assess, pending))
        length *= 2
        if length > settings.longest:
            break
        pending = [job for question in questions for job in _in_question(question) if job.unsure]
        for job in pending:
            job.tune()


def _round(jobs: Sequence[Job], length: int, n_adapt: int, executor: Executor) -> None:
    work = [(job, chain) for job in sorted(jobs, key=lambda job: -job.cost) for chain in range(job.settings.chains)]
    results = list(executor.map(lambda entry: entry[0].run(entry[1], length, n_adapt), work))
    for job in jobs:
        job.take([r for r, (owner, _) in zip(results, work, strict=True) if owner is job])


def _in_question(question: Sequence[Job]) -> list[Job]:
    """Models whose evidence is not far below the best of the question."""
    score = np.array([job.evidence.log_z - float(job.task.constant[0]) for job in question])
    margin = IN_QUESTION + 5.0 * np.array([job.evidence.error for job in question])
    return [job for job, s, m in zip(question, score, margin, strict=True) if s > score.max() - m]


def chain_key(seed: int, model: str, chain: int) -> npt.NDArray[np.uint64]:
    """Two 32-bit words that make a chain's random numbers its own, whatever runs beside it."""
    digest = hashlib.sha256(f"{seed}/{model}/{chain}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def run_round(
    kernels: Any, task: Task, betas: Array, steps: Array, z: Array, n_sweeps: int, n_adapt: int, number: int, key: Any
) -> Chain:
    """`n_sweeps` sweeps of one chain, the first `n_adapt` of them for adapting the steps and not kept."""
    steps = steps.copy()
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
        energies[n_adapt:], samples[n_adapt:], steps, state.z[order], (state.energy - state.easing)[order],
        rejected / max(0.5 * n, 1.0), accepted / max(n, 1), int(trips[:, 1].sum()), float(drift),
    )  # fmt: skip


def group_sizes(task: Task) -> Array:
    """Parameters in each group of step sizes."""
    return np.bincount(task.step_group, minlength=1).astype(np.float64)


def annealed(kernels: Any, task: Task, keys: Sequence[npt.NDArray[np.uint64]], eased: Easing | None) -> Ladder:
    """A first ladder near equilibrium: particles from the prior, cooled step by step.

    Sequential Monte Carlo (Del Moral, Doucet and Jasra, JRSS B 68, 411 (2006)), each chain with particles of its own;
    all chains share the temperatures. The ladder takes one particle a level from the nearest temperature.
    """
    generators = [np.random.Generator(np.random.Philox(key=[int(key[0]), int(key[1])])) for key in keys]
    clouds = [started(len(task.tables), eased, g) for g in generators]
    beta, log_steps = 0.0, np.zeros(group_sizes(task).size)
    betas: list[float] = []
    barriers: list[float] = []
    all_steps: list[Array] = []
    history: list[list[Array]] = []
    while True:
        steps = np.exp(np.tile(log_steps, (PARTICLES, 1)))
        same, number = np.full(PARTICLES, beta), FIRST_COOLING + len(betas)
        rounds = [
            run_round(kernels, task, same, steps, z, COOLING, COOLING, number, key)
            for z, key in zip(clouds, keys, strict=True)
        ]
        clouds = [chain.last for chain in rounds]
        log_steps = np.mean([np.log(chain.steps) for chain in rounds], axis=(0, 1))
        energies = np.stack([chain.last_energy for chain in rounds])
        betas.append(beta)
        barriers.append(local_barrier(energies.reshape(-1, 1))[0])
        all_steps.append(log_steps)
        history.append(clouds)
        if beta == 1.0:
            break
        beta = next_beta(beta, energies.ravel())
        clouds = [z[resampled((betas[-1] - beta) * e, g)] for z, e, g in zip(clouds, energies, generators, strict=True)]
    new, position = respaced(np.array(betas), np.array(barriers))
    at = np.rint(position).astype(np.intp)
    coordinates = tuple(np.stack([history[i][c][g.integers(PARTICLES)] for i in at]) for c, g in enumerate(generators))
    return Ladder(new, carried(np.stack(all_steps), position), coordinates)


class Easing(NamedTuple):
    """Weight of an unknown noise at beta = 0, where imagined points stand in for the data (`engine.easing_energy`).

    Attributes
    ----------
    parameter : int
        The noise's.
    z : (n,) float64
        Whitened coordinates, evenly spaced.
    log_weight : (n,) float64
        Logarithm of the weight of each: standard normal density, spacing and exp(-V).
    """

    parameter: int
    z: Array
    log_weight: Array

    @property
    def log_z(self) -> float:
        """Logarithm of the normaliser at beta = 0."""
        top = float(self.log_weight.max())
        return top + float(np.log(np.sum(np.exp(self.log_weight - top))))


def easing(task: Task) -> Easing | None:
    """`Easing` of a task, None where its noise is known."""
    unknown = np.flatnonzero(task.noise_parameter >= 0)
    if unknown.size == 0:
        return None
    z_max = float(task.z_max[0])
    z = np.linspace(-z_max, z_max, EASING_POINTS)
    log_weight = -0.5 * z * z - 0.5 * np.log(2.0 * np.pi) + np.log(z[1] - z[0])
    j = int(task.noise_parameter[unknown[0]])
    table = task.tables[j]
    sigma = np.interp(z, np.linspace(-z_max, z_max, table.size), table)
    for block in unknown:
        s = sigma / task.noise_scale[block]
        log_weight -= task.n_easing[block] * (np.log(s) + 0.5 / (s * s))
    return Easing(j, z, log_weight)


def started(n_parameters: int, eased: Easing | None, rng: np.random.Generator) -> Array:
    """Particles at beta = 0, (PARTICLES, n_parameters)."""
    particles = rng.standard_normal((PARTICLES, n_parameters))
    if eased is not None:
        edges = np.cumsum(np.exp(eased.log_weight - eased.log_weight.max()))
        particles[:, eased.parameter] = eased.z[np.searchsorted(edges, edges[-1] * rng.random(PARTICLES))]
    return particles


def next_beta(beta: float, energies: Array) -> float:
    """The largest inverse temperature at which half of the particles still count."""
    if _effective(beta - 1.0, energies) > 0.5:
        return 1.0
    low, high = 0.0, 1.0 - beta
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _effective(-middle, energies) > 0.5 else (low, middle)
        if high - low < 1e-3 * low:
            break
    return min(1.0, beta + high)


def _effective(change: float, energies: Array) -> float:
    """Effective fraction of particles that are reweighted by exp(change * energy)."""
    weights = np.exp(change * (energies - energies.min()))
    return float(weights.sum() ** 2 / np.sum(weights**2) / weights.size)


def resampled(log_weights: Array, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Systematic resampling: indices of the particles that go on."""
    weights = np.exp(log_weights - log_weights.max())
    edges = np.cumsum(weights / weights.sum())
    points = (rng.random() + np.arange(weights.size)) / weights.size
    chosen: npt.NDArray[np.intp] = np.minimum(np.searchsorted(edges, points), weights.size - 1)
    return chosen


def tuned(ladder: Ladder, chains: Sequence[Chain]) -> Ladder:
    """Temperatures evenly spaced in the communication barrier; steps and coordinates carried over."""
    barrier = local_barrier(np.concatenate([chain.energies for chain in chains]))
    betas, position = respaced(ladder.betas, barrier)
    steps = carried(np.mean([np.log(chain.steps) for chain in chains], axis=0), position)
    at = np.rint(position).astype(np.intp)
    return Ladder(betas, steps, tuple(chain.last[at] for chain in chains))


def carried(log_steps: Array, position: Array) -> Array:
    """Steps at fractional positions of the old ladder."""
    ranks = np.arange(len(log_steps))
    return np.stack([np.exp(np.interp(position, ranks, column)) for column in log_steps.T], axis=1)


def local_barrier(energies: Array) -> Array:
    """Slope of the barrier at each level: half the mean absolute difference of two energies."""
    ordered = np.sort(energies, axis=0)
    n = len(ordered)
    weight = (2.0 * np.arange(1, n + 1) - n - 1.0) / (n * (n - 1.0))
    barrier: Array = np.maximum(weight @ ordered, 1e-12)
    return barrier


def respaced(betas: Array, barrier: Array) -> tuple[Array, Array]:
    """Temperatures with even steps of the integral of `barrier`.

    Between levels it is taken as exponential in ``u = log(beta / (1 - beta))``, in the end segments as linear in beta.

    Returns
    -------
    betas : (n_levels,) float64
    position : (n_levels,) float64
        Where they lie among the old ones.
    """
    u = np.log(betas[1:-1]) - np.log1p(-betas[1:-1])
    slope = barrier[1:-1] * betas[1:-1] * (1.0 - betas[1:-1])
    ends = 0.5 * (barrier[1:] + barrier[:-1]) * np.diff(betas)
    lengths = np.concatenate([ends[:1], _log_mean(slope[:-1], slope[1:]) * np.diff(u), ends[-1:]])[: ends.size]
    total = np.concatenate([[0.0], np.cumsum(lengths)])
    n_levels = int(np.clip(np.ceil(LEVELS_PER_BARRIER * total[-1]) + 1, FEWEST_LEVELS, MOST_LEVELS))
    position: Array = np.interp(np.linspace(0.0, total[-1], n_levels), total, np.arange(betas.size))
    linear = np.interp(position, np.arange(betas.size), betas)
    inside = (position > 1.0) & (position < betas.size - 2.0)
    logit = np.interp(position, np.arange(1, betas.size - 1), u) if u.size else np.zeros(n_levels)
    new: Array = np.where(inside, 1.0 / (1.0 + np.exp(-logit)), linear)
    new[0], new[-1] = 0.0, 1.0
    return new, position


def _log_mean(a: Array, b: Array) -> Array:
    """Mean of an exponential between its values at the ends."""
    ratio = np.log(b / a)
    even = np.abs(ratio) < 1e-6
    mean: Array = np.where(even, a, (b - a) / np.where(even, 1.0, ratio))
    return mean
