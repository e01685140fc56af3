"""Replica exchange: ladders of tempered chains that find their start and their temperatures themselves.

A short annealing gives a first ladder. A reference fitted to its particles often stands so near the posterior that a
second annealing, from there, gives a much shorter one. A round tunes it: the temperatures are spread evenly in the
communication barrier (Syed et al., JRSS B 84, 321 (2022)). The rounds that count go on until the evidence is sure.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import WORST_R_HAT, evidence, split_r_hat
from bluesky_bayes.kernels.task import Task, new_score, new_scratch, new_state
from bluesky_bayes.model import Model
from bluesky_bayes.reference import Start, first_start, fitted_start
from bluesky_bayes.tasks import groups_of

FEWEST_LEVELS, MOST_LEVELS = 4, 96
LEVELS_PER_BARRIER = 2.0
PARTICLES, FEWEST_PARTICLES, MOST_BYTES = 512, 32, 2**27
COOLING, LAST_COOLING, ANNEALING = 4, 12, 100_000
WARM, NEAR = 0.25, 2.0
FINE_LEVELS, LEAST_CHANGE, FARTHEST, MOST_ENERGIES = 32, 0.1, 1e6, 1000
SHORTEST = 200
IN_QUESTION = 10.0


@dataclass(frozen=True)
class Settings:
    """How long to sample.

    Attributes
    ----------
    sweeps : int
        Sweeps of the first round that counts; the tuning round before it has half as many, or as many where the
        ladder begins at the prior.
    error : float
        Wanted standard error of the log evidence, in nats: every model that is still in question goes on until it is
        that sure, its chains agree and have been to and fro.
    longest : int
        Sweeps in all beyond which no model goes, sure or not.
    chains : int
        Ladders of each model. They are tuned together, sampled independently, share the work between threads and
        check one another.
    """

    sweeps: int = 300
    error: float = 0.1
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
        -log likelihood less the task's constant and less the reference's energy, by level.
    misfit : (n_sweeps,) float64
        -log likelihood less the task's constant at beta = 1.
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
    n_drawn : int
        Draws that gave one for each sweep with components in order.
    """

    energies: Array
    misfit: Array
    samples: Array
    steps: Array
    last: Array
    last_energy: Array
    rejection: Array
    acceptance: Array
    round_trips: int
    drift: float
    n_drawn: int

    def joined(self, later: Chain) -> Chain:
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
        """Find a first ladder: from a reference fitted to what the prior gave where that is near, else from the prior.

        A reference that is far from the posterior may lack a part of it, which no ladder from there would find soon.
        """
        rng, n = generator(self.keys[0], 0), particles(self.task)
        self.start = first_start(self.task)
        first = annealed(self.kernels, self.task, self.start, n, self.keys, rng, ANNEALING)
        self.ladder = first.ladder
        if len(self.task.tables):
            fitted = fitted_start(first.warm, groups_of(self.model), rng)
            second = annealed(self.kernels, self.task, fitted, n // 2, self.keys, rng, 2 * ANNEALING)
            if second.barrier < NEAR:
                self.start, self.ladder = fitted, second.ladder

    @property
    def cost(self) -> int:
        """Roughly how long a sweep takes, for putting long jobs first."""
        return (1 + len(self.task.tables)) * self.task.x.size

    def run(self, chain: int, length: int, n_adapt: int) -> Chain:
        """One round of one chain."""
        ladder, key = self.ladder, self.keys[chain]
        return run_round(
            self.kernels, self.task, self.start, ladder.betas, ladder.steps, ladder.coordinates[chain], length, n_adapt,
            self.round, key,
        )  # fmt: skip

    def tune(self, chains: list[Chain]) -> None:
        """Tune the ladder by a round of all chains together."""
        self.round += 1
        self.ladder = tuned(self.ladder, chains)

    def take(self, chains: list[Chain]) -> None:
        """Take in what a round gave, and work out the evidence so far."""
        self.round += 1
        self.chains = [a.joined(b) for a, b in zip(self.chains, chains, strict=True)] if self.chains else chains
        self.ladder = replace(self.ladder, coordinates=tuple(chain.last for chain in chains))
        found = evidence(self.ladder.betas, [chain.energies for chain in self.chains])
        drawn = sum(chain.n_drawn for chain in self.chains)
        share = self.length * len(self.chains) / drawn
        error = math.sqrt(found.error**2 + (1.0 - share) / (share * drawn))
        log_start = self.start.log_labels + math.log(share)
        self.evidence = found._replace(log_z=found.log_z + log_start, error=error)

    @property
    def tuning(self) -> int:
        """Sweeps of the tuning round: a long ladder takes longer to forget where its chains began."""
        return self.settings.sweeps // (2 if self.start.weights.size else 1)

    @property
    def length(self) -> int:
        """Sweeps so far."""
        return len(self.chains[0].energies)

    @property
    def unsure(self) -> bool:
        """Whether the evidence is less sure than wanted, or the chains have not been to and fro or disagree."""
        few_trips = 2 * sum(chain.round_trips for chain in self.chains) < len(self.chains)
        return self.evidence.error > self.settings.error or few_trips or self.disagreement > WORST_R_HAT

    @property
    def disagreement(self) -> float:
        """Split R-hat of the chains' misfit."""
        return split_r_hat(np.stack([chain.misfit for chain in self.chains]))

    @property
    def wanted(self) -> int:
        """How many more sweeps should make it sure: no fewer than half and no more than twice as many as there are."""
        ratio = self.evidence.error / self.settings.error
        factor = min(max(ratio**2 - 1.0, 0.5), 2.0) if ratio < 2.0 else 2.0
        return min(int(self.length * factor), self.settings.longest - self.length)


def run_jobs(questions: Sequence[Sequence[Job]], settings: Settings, executor: Executor) -> None:
    """Sample all models of some questions, (model, chain) side by side; the number of threads changes no result.

    Each question is a list of models to choose from: those in question go on until they are sure.
    """
    jobs = [job for question in questions for job in question]
    list(executor.map(Job.prepare, sorted(jobs, key=lambda job: -job.cost)))
    _round(Job.tune, [(job, job.tuning, job.tuning // 2) for job in jobs], executor)
    work = [(job, settings.sweeps, 0) for job in jobs]
    while work:
        _round(Job.take, work, executor)
        unsure = [job for question in questions for job in _in_question(question) if job.unsure]
        work = [(job, job.wanted, 0) for job in unsure if job.wanted > 0]


def _round(then: Callable[[Job, list[Chain]], None], work: Sequence[tuple[Job, int, int]], executor: Executor) -> None:
    """Run all chains of some (job, sweeps, sweeps for adapting), and let each job take what its chains gave."""
    first = sorted(work, key=lambda entry: -entry[0].cost * entry[1])
    entries = [(job, chain, *lengths) for job, *lengths in first for chain in range(job.settings.chains)]
    results = list(executor.map(lambda entry: entry[0].run(*entry[1:]), entries))
    given = [[r for r, entry in zip(results, entries, strict=True) if entry[0] is job] for job, *_ in work]
    list(executor.map(then, (job for job, *_ in work), given))


def _in_question(question: Sequence[Job]) -> list[Job]:
    """Models whose evidence is not far below the best of the question."""
    score = np.array([job.evidence.log_z - float(job.task.constant[0]) for job in question])
    margin = IN_QUESTION + 5.0 * np.array([job.evidence.error for job in question])
    return [job for job, s, m in zip(question, score, margin, strict=True) if s > score.max() - m]


def chain_key(seed: int, model: str, chain: int) -> npt.NDArray[np.uint64]:
    """Two 32-bit words that make a chain's random numbers its own, whatever runs beside it."""
    digest = hashlib.sha256(f"{seed}/{model}/{chain}".encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def generator(key: npt.NDArray[np.uint64], number: int) -> np.random.Generator:
    """NumPy's random numbers of a chain; every `number` has a stream of its own."""
    return np.random.Generator(np.random.Philox(key=[int(key[0]), int(key[1])], counter=[0, 0, 0, number]))


def run_round(
    kernels: Any,
    task: Task,
    start: Start,
    betas: Array,
    steps: Array,
    z: Array,
    n_sweeps: int,
    n_adapt: int,
    number: int,
    key: Any,
) -> Chain:
    """`n_sweeps` sweeps of one chain, the first `n_adapt` of them for adapting the steps and not kept."""
    steps = steps.copy()
    n_levels, n_parameters = z.shape
    reference = start.arrays
    fresh, n_drawn = start.draws(n_sweeps if betas[0] == 0.0 else 0, generator(key, 1 + number))
    scratch = new_scratch(task, n_levels * max(n_parameters, 1))
    state, score = new_state(task, z), new_score(reference, z)
    energies, misfit = np.empty((n_sweeps, n_levels)), np.empty(n_sweeps)
    samples = np.empty((n_sweeps, n_parameters))
    rejected, accepted = np.zeros(n_levels - 1), np.zeros(steps.shape)
    order, trips = np.arange(n_levels), np.full((n_levels, 2), (-1, 0))
    drift = kernels.run_ladder(
        task, reference, state, score, fresh, betas, steps, group_sizes(task), n_adapt, number, key[0], key[1],
        order, scratch, energies, misfit, samples, rejected, accepted, trips,
    )  # fmt: skip
    n = n_sweeps - n_adapt
    return Chain(
        energies[n_adapt:], misfit[n_adapt:], samples[n_adapt:],
        steps, state.z[order], (state.energy - score.value[:-1])[order],
        rejected / max(0.5 * n, 1.0), accepted / max(n, 1), int(trips[:, 1].sum()), float(drift), n_drawn,
    )  # fmt: skip


def group_sizes(task: Task) -> Array:
    """Parameters in each group of step sizes."""
    return np.bincount(task.step_group, minlength=1).astype(np.float64)


class Annealing(NamedTuple):
    """What particles found on their way from a reference to the posterior.

    Attributes
    ----------
    ladder : Ladder
        One near equilibrium.
    warm : (n, n_parameters) float64
        Particles at the last temperatures, from `WARM` to 1.
    barrier : float
        Estimate of the communication barrier.
    """

    ladder: Ladder
    warm: Array
    barrier: float


def particles(task: Task) -> int:
    """How many particles: as many as fit into `MOST_BYTES`, within bounds."""
    each = task.x.itemsize * (task.x.size + int(task.curve_start[-1]))
    return int(np.clip(MOST_BYTES // each, FEWEST_PARTICLES, PARTICLES))


def annealed(
    kernels: Any,
    task: Task,
    start: Start,
    n: int,
    keys: Sequence[npt.NDArray[np.uint64]],
    rng: np.random.Generator,
    number: int,
) -> Annealing:
    """Particles from the reference, cooled step by step.

    Sequential Monte Carlo (Del Moral, Doucet and Jasra, JRSS B 68, 411 (2006)). The ladder takes one particle a level
    and chain from the nearest temperature.
    """
    cloud, _ = start.draws(n, rng)
    beta, log_steps = 0.0, np.zeros(group_sizes(task).size)
    betas: list[float] = []
    energies: list[Array] = []
    all_steps: list[Array] = []
    clouds: list[Array] = []
    while True:
        sweeps = 0 if beta == 0.0 else COOLING if beta < 1.0 else LAST_COOLING
        steps, same = np.exp(np.tile(log_steps, (n, 1))), np.full(n, beta)
        chain = run_round(kernels, task, start, same, steps, cloud, sweeps, sweeps, number + len(betas), keys[0])
        log_steps = np.log(chain.steps).mean(axis=0)
        betas.append(beta)
        energies.append(chain.last_energy)
        all_steps.append(log_steps)
        clouds.append(chain.last)
        if beta == 1.0:
            break
        beta = next_beta(beta, chain.last_energy)
        cloud = chain.last[resampled((betas[-1] - beta) * chain.last_energy, rng)]
    new, position, barrier = respaced(np.array(betas), energies)
    at = np.rint(position).astype(np.intp)
    coordinates = tuple(np.stack([clouds[i][rng.integers(n)] for i in at]) for _ in keys)
    warm = np.concatenate([z for z, b in zip(clouds, betas, strict=True) if b >= WARM])
    return Annealing(Ladder(new, carried(np.stack(all_steps), position), coordinates), warm, barrier)


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
    energies = np.concatenate([chain.energies for chain in chains])
    betas, position, _ = respaced(ladder.betas, list(energies[:: 1 + len(energies) // MOST_ENERGIES].T))
    steps = carried(np.mean([np.log(chain.steps) for chain in chains], axis=0), position)
    at = np.rint(position).astype(np.intp)
    return Ladder(betas, steps, tuple(chain.last[at] for chain in chains))


def carried(log_steps: Array, position: Array) -> Array:
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
