"""One model of one data set on its way through the rounds, and many of them side by side.

A few particles give a first look. More of them, cooled from the prior, show where the posterior is; a mixture fitted to
them often stands so near it that a second cooling, from there, gives a much shorter way. Chains then go that way, round
after round, until the evidence is sure.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np

from bluesky_bayes.cooling import SWEEPS, Cooling, Spread, cooled, energies_of, in_one_piece, reweighted
from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import (
    UNKNOWN,
    WORST_R_HAT,
    Evidence,
    bridged,
    contradictory,
    doubted,
    joined,
    softmax,
    split_r_hat,
)
from bluesky_bayes.exchange import Exchange, barrier_of
from bluesky_bayes.independence import Independence
from bluesky_bayes.kernels.engine import IMPOSSIBLE
from bluesky_bayes.kernels.task import Task
from bluesky_bayes.model import Model
from bluesky_bayes.reference import Start, first_start, fitted_start
from bluesky_bayes.sampler import (
    MOST_DRAWS,
    SHORTEST,
    Info,
    Path,
    Sampler,
    Settings,
    State,
    chain_key,
    generator,
    thinned,
)
from bluesky_bayes.smc import SequentialMonteCarlo
from bluesky_bayes.tasks import groups_of, in_order, same_groups

_T = TypeVar("_T")
Rank: TypeAlias = tuple[bool, int]
EXCHANGE, INDEPENDENCE = Exchange(), Independence()
SAMPLERS: dict[str, Sampler] = {s.name: s for s in (EXCHANGE, SequentialMonteCarlo(), INDEPENDENCE)}
LOOK, EXPLORE, REPEAT, NARROW = (12, 8), (64, SWEEPS), (32, SWEEPS), (32, SWEEPS)
LOOKING, EXPLORING, EXPLORING_MORE, REPEATING, NARROWING = 100_000, 200_000, 250_000, 300_000, 400_000
BRIDGING, MIXING = 500_000, 600_000
"""First of the random streams of each kind of work; those of a chain's rounds are below."""
NEAR, NEAR_EARLIER, EARLIER_WIDER = 2.0, 4.0, 3.0
IN_QUESTION = 10.0
FINE, LEAST = 0.1, 2.0 / 3.0
"""Wanted error from which down the first round has its full length; the least share of it."""
BRIDGED, ALIKE, SHARED = 4000, 3.0, 0.2
"""Draws of the mixture, and at most of the posterior, for each half; the ratio of two errors from which on the less
sure estimate adds nothing; the correlation of ladder and bridge, which share the chains (0.22 ± 0.06, five peaks)."""
TRIED, MATCHED, SURE = 1000, 0.2, 0.5
"""Draws of a mixture that are tried; their effective share, and the error of the cooling that led to the mixture, from
which on no temperatures are needed."""
FEW_TRIED, MATCHED_BY_FEW = 100, 0.05
"""Draws that are tried first; below this share of them the others need not be."""
SURE_OF_ALL = 0.3
"""Error of both coolings together from which down their evidence counts: else they may have lost modes."""
FEW_DRAWS = 50
PIECES = 2
"""For each thread, where a task is divided: they take not quite as long as one another."""
REFITS, FEW = 4, 0.25
"""Refits of an earlier posterior's mixture, and the error of its draws beyond which too few are left to fit one."""


@dataclass(frozen=True)
class Standing:
    """Where the chains of one model stand, and all that they gave: enough to go on.

    Attributes
    ----------
    sampler : str
    start : Start
    betas : (n_levels,) float64
    states : tuple of State
    infos : tuple of Info
        One a chain, like `states`.
    particles : Evidence
        By the particles at which the chains began.
    """

    sampler: str
    start: Start
    betas: Array
    states: tuple[State, ...]
    infos: tuple[Info, ...]
    particles: Evidence = UNKNOWN


class Job:
    """One model of one data set.

    Parameters
    ----------
    kernels : module
        Compiled `kernels.engine`.
    task : Task
    settings : Settings
    seed : int or str
        With the data, so that errors of several data sets are independent.
    model : Model
        Its name, with the seed and the chain's number, fixes the random numbers.
    sampler : Sampler, optional
        By default replica exchange, or independent draws where a mixture matches the posterior.
    earlier : (n, n_parameters) float64, optional
        Whitened draws of a similar data set's posterior, to begin with.
    from_prior : bool
        Whether the way must begin at the prior, so that every level is the posterior of a larger noise.
    log_prior : float
        Logarithm of the model's prior probability.
    """

    def __init__(
        self,
        kernels: Any,
        task: Task,
        settings: Settings,
        seed: int | str,
        model: Model,
        sampler: Sampler | None = None,
        earlier: Array | None = None,
        from_prior: bool = False,
        log_prior: float = 0.0,
    ) -> None:
        self.kernels, self.task, self.settings, self.model = kernels, task, settings, model
        self.log_prior = log_prior
        self.auto, self.earlier, self.from_prior = sampler is None, earlier, from_prior
        self.sampler = sampler or EXCHANGE
        self.groups = groups_of(model)
        self.keys = [chain_key(seed, model.name, chain) for chain in range(settings.chains)]
        self.spread: Spread = in_one_piece
        self.states: tuple[State, ...] = ()
        self.infos: tuple[Info, ...] = ()
        self.looking = False
        self.ladder = self.bridge = self.particles = UNKNOWN

    def look(self) -> None:
        """A first answer by a few particles."""
        start = first_start(self.task)
        cloud = self._cooled(start, LOOK, LOOKING)
        n = cloud.misfit.shape[1]
        self.path = Path(self.kernels, self.task, start, cloud.betas, cloud.steps, cloud.strides, self.groups)
        self.infos = (
            Info(cloud.energies.T, cloud.misfit[-1], cloud.clouds[-1], np.zeros(0), cloud.acceptance[None], 0, 0.0, n),
        )
        self.looking = True
        self.ladder = Evidence(cloud.log_z, cloud.error, 0.0)

    def prepare(self) -> None:
        """Find the way: from a reference fitted to what is known where that is near, else from the prior.

        A reference that is far from the posterior may lack a part of it, which no chain from there would find soon.
        """
        rng = generator(self.keys[0], 0)
        start, way = self._from_earlier(rng) or self._explored(rng)
        self.path = self.sampler.path(self.kernels, self.task, self.groups, start, way)
        self.states = tuple(self.sampler.init(self.path, way, rng) for _ in self.keys)
        self.infos, self.looking = (), False

    def _explored(self, rng: np.random.Generator) -> tuple[Start, Cooling]:
        """By particles from the prior: twice as many where a ladder is to begin at them or at their mixture."""
        start = first_start(self.task)
        explored = self._cooled(start, EXPLORE, EXPLORING)
        if self.from_prior or not len(self.task.tables):
            return start, explored
        if self._knows_all(explored) and (matched := self._tried(fitted_start(explored.warm, self.groups, rng), rng)):
            return matched
        known = explored.betas, explored.steps, explored.strides
        explored = explored.joined(self._cooled(start, EXPLORE, EXPLORING_MORE, known))
        if narrowed := self._narrowed(explored, rng):
            return narrowed
        if explored.error < SURE_OF_ALL:
            self.particles = Evidence(explored.log_z, explored.error, 0.0)
        return start, explored

    def _from_earlier(self, rng: np.random.Generator) -> tuple[Start, Cooling] | None:
        """A near reference by way of an earlier posterior, widened since these data scatter in another way."""
        if self.earlier is None:
            return None
        wide = fitted_start(self.earlier, self.groups, rng, EARLIER_WIDER)
        if self.auto and (matched := self._matched(wide, 4 * TRIED, REFITS, rng)):
            return matched
        found = self._cooled(wide, REPEAT, REPEATING)
        return self._narrowed(found, rng) if barrier_of(found) < NEAR_EARLIER else None

    def _narrowed(self, way: Cooling, rng: np.random.Generator) -> tuple[Start, Cooling] | None:
        """A mixture fitted to the particles near the posterior and the way from there, if it is short."""
        fitted = fitted_start(way.warm, self.groups, rng)
        if self._knows_all(way) and (matched := self._tried(fitted, rng)):
            return matched
        found = self._cooled(fitted, NARROW, NARROWING)
        return (fitted, found) if barrier_of(found) < NEAR else None

    def _knows_all(self, way: Cooling) -> bool:
        """Whether particles are sure enough to know all of the posterior, so that their mixture may be sampled."""
        return self.auto and way.error < SURE

    def _tried(self, fitted: Start, rng: np.random.Generator) -> tuple[Start, Cooling] | None:
        """A mixture that was fitted to particles, if it matches the posterior: most do not, which few draws show."""
        few = reweighted(self.kernels, self.task, fitted, FEW_TRIED, rng, self.spread)
        return self._matched(fitted, TRIED, 0, rng) if _counting(few) > MATCHED_BY_FEW else None

    def _matched(self, start: Start, n: int, refits: int, rng: np.random.Generator) -> tuple[Start, Cooling] | None:
        """The mixture, or one fitted to its weighted draws, if it matches the posterior: then its draws are sampled.

        Population Monte Carlo: Cappé, Guillin, Marin and Robert, J. Comput. Graph. Stat. 13, 907 (2004).
        """
        for refit in range(refits + 1):
            tried = reweighted(self.kernels, self.task, start, n, rng, self.spread)
            if _counting(tried) > MATCHED:
                self.sampler = INDEPENDENCE
                return start, tried
            if refit == refits or tried.error > FEW:
                break
            start = fitted_start(tried.clouds[1], self.groups, rng)
        return None

    def _cooled(
        self,
        start: Start,
        size: tuple[int, int],
        number: int,
        known: tuple[Array, Array, Array] | None = None,
    ) -> Cooling:
        rng = generator(self.keys[0], number)
        return cooled(
            self.kernels, self.task, start, size, self.keys[0], number, rng, self.groups, known, self.spread
        )  # fmt: skip

    def warm(self) -> None:
        """Run everything that is compiled for a GPU once: from the prior and from a mixture, by a few particles."""
        rng, n_groups = generator(self.keys[0], 0), 1 + int(self.task.step_group.max())
        z = rng.standard_normal((FEW_DRAWS, len(self.task.tables)))
        n_free = self.task.free.size
        known = np.array([0.0, 1.0]), np.ones((2, n_groups)), np.zeros((2, n_free, n_free))
        for start in (first_start(self.task), fitted_start(z, self.groups, rng)):
            self._cooled(start, (4, 1), LOOKING, known)
            path = Path(self.kernels, self.task, start, *known, self.groups)
            EXCHANGE.step(path, State(z[:2], *known[1:], 0), self.keys[0], 2)

    @property
    def cost(self) -> int:
        """Roughly how long a sweep takes, for putting long jobs first."""
        return (1 + len(self.task.tables)) * self.task.x.size * (len(self.path.betas) if self.states else 1)

    @property
    def first(self) -> int:
        """Sweeps of the first round: a third fewer at most where the evidence need not be so sure.

        Clouds keep their size: small ones scatter by more than they state.
        """
        settings = self.settings
        if self.sampler.name == "smc":
            return settings.sweeps
        return max(SHORTEST, int(settings.sweeps * min(1.0, max(FINE / settings.error, LEAST))))

    def step(self, chain: int, length: int) -> tuple[State, Info]:
        """One round of one chain."""
        return self.sampler.step(self.path, self.states[chain], self.keys[chain], length)

    def take(self, results: Sequence[tuple[State, Info]]) -> None:
        """Take in what a round gave, and work out the evidence so far.

        Raises
        ------
        ValueError
            When the model had no finite likelihood anywhere.
        """
        infos = [info for _, info in results]
        if min(float(info.misfit.min()) for info in infos) >= IMPOSSIBLE:
            raise ValueError(
                f"model {self.model.name!r} gave no finite likelihood for any parameters that were tried: its curve is "
                "no number there, or some data are beyond all bounds of the noise; check components, priors and data"
            )
        self.states = tuple(state for state, _ in results)
        self.infos = tuple(a.joined(b) for a, b in zip(self.infos, infos, strict=True)) if self.infos else tuple(infos)
        self.weigh()

    def weigh(self) -> None:
        """Evidence by both estimators, worked out side by side."""
        estimates = [partial(self._chained, self.sampler.evidence)]
        if self.sampler is INDEPENDENCE:
            estimates.append(partial(self._chained, INDEPENDENCE.bridge))
        elif len(self.task.tables) and not self.from_prior:
            estimates += [partial(self._bridged_by, half) for half in range(2)]
        found = self.spread(lambda a, b: [estimate() for estimate in estimates[a:b]], len(estimates))
        self.ladder, *bridges = itertools.chain.from_iterable(found)
        if bridges:
            self.bridge = bridges[0] if len(bridges) == 1 else _mean_of_halves(*bridges)

    def _chained(self, estimate: Callable[[Path, Sequence[Info]], Evidence]) -> Evidence:
        """By one of a sampler's estimates from all chains."""
        drawn = sum(info.n_drawn for info in self.infos)
        share = self.length * len(self.infos) / drawn
        ratio = estimate(self.path, self.infos)
        return _over_prior(ratio, self.path.start, share, drawn * self.sampler.proposals)

    def _bridged_by(self, half: int) -> Evidence:
        """Bennett's ratio between one half's draws of the posterior and those of a mixture fitted to the other half.

        Meng and Wong, Statistica Sinica 6, 831 (1996); fit and estimate must not share draws.
        """
        middle = len(self.infos) // 2
        halves = self.infos[:middle], self.infos[middle:]
        use, fit = halves[half], halves[1 - half]
        rng = generator(self.keys[0], BRIDGING + 2 * self.states[0].number + half)
        start = fitted_start(np.concatenate([info.samples for info in fit]), self.groups, rng)
        thin = 1 + self.length * len(use) // BRIDGED
        upper = np.stack([info.samples[::thin] for info in use])
        draws, drawn = start.draws(BRIDGED, rng)
        z = np.concatenate([draws, upper.reshape(-1, draws.shape[1])])
        energies = energies_of(self.kernels, self.task, start, z)[0]
        ratio = bridged(energies[:BRIDGED], energies[BRIDGED:].reshape(upper.shape[:2]))
        return _over_prior(ratio, start, BRIDGED / drawn, drawn)

    @property
    def evidence(self) -> Evidence:
        """By the chains, the particles at which they began, and the bridge.

        Particles may have lost a mode that chains have found again. The bridge knows little of a ladder from the
        prior, so that both count where they are about as sure; of one from a mixture it knows the cold end, so that the
        surer counts. Clouds that differ in their evidence have parts of the posterior in other shares, which a bridge
        takes as they are: it may only contradict them.
        """
        chains = self.ladder
        if not contradictory(chains, self.particles):
            chains = joined(chains, self.particles)
        if self.sampler.name == "smc":
            return doubted(chains, self.bridge)
        surer, other = sorted((chains, self.bridge), key=lambda found: found.error)
        if self.path.start.fitted or contradictory(surer, other) or other.error > ALIKE * surer.error:
            return doubted(surer, other)
        return joined(surer, other, SHARED)

    @property
    def length(self) -> int:
        """Sweeps so far."""
        return len(self.infos[0].energies)

    @property
    def unsure(self) -> bool:
        """Whether the evidence is less sure than wanted, or the chains have not been to and fro or disagree."""
        few_trips = self.sampler is EXCHANGE and 2 * sum(info.round_trips for info in self.infos) < len(self.infos)
        return self.evidence.error > self.settings.error or few_trips or self.disagreement > WORST_R_HAT

    @property
    def disagreement(self) -> float:
        """Split R-hat of the chains' misfit."""
        return float(split_r_hat(np.stack([info.misfit for info in self.infos])))

    @property
    def draws(self) -> Array:
        """Draws of the posterior (n_chains, n_draws, n_parameters): whitened, components in order."""
        z = in_order(np.stack([thinned(info.samples, MOST_DRAWS) for info in self.infos]), self.groups)
        return self.sampler.mixed(self.path, self.infos, z, generator(self.keys[0], MIXING))

    @property
    def wanted(self) -> int:
        """How many more sweeps should make it sure: no fewer than half and no more than twice as many as there are."""
        ratio = self.evidence.error / self.settings.error
        factor = min(max(ratio**2 - 1.0, 0.5), 2.0) if ratio < 2.0 else 2.0
        return min(int(self.length * factor), self.settings.longest - self.length)

    @property
    def standing(self) -> Standing:
        """What is kept to go on later."""
        return Standing(self.sampler.name, self.path.start, self.path.betas, self.states, self.infos, self.particles)

    def resume(self, standing: Standing) -> None:
        """Go on where another job of the same question stood."""
        n_free = self.task.free.size
        if standing.states[0].strides.shape[1:] != (n_free, n_free):
            raise ValueError(
                f"the chains of {self.model.name!r} come from an earlier version, which moved them in another way, "
                "so that they cannot go on; ask again with a smaller `error`"
            )
        if standing.start.groups and not same_groups(standing.start.groups, self.groups):
            raise ValueError(
                f"the chains of {self.model.name!r} come from an earlier version, which took components with priors of "
                "their own for exchangeable: its log evidence is wrong; ask again"
            )
        self.sampler, self.states, self.infos = SAMPLERS[standing.sampler], standing.states, standing.infos
        self.particles, state = standing.particles, standing.states[0]
        self.path = Path(
            self.kernels, self.task, standing.start, standing.betas, state.steps, state.strides, self.groups
        )
        self.weigh()


def r_hat_of(z: Array) -> float:
    """Worst split R-hat of draws (n_chains, n_draws, n_parameters)."""
    return float(split_r_hat(np.moveaxis(z, -1, 0)).max(initial=1.0))


def _counting(tried: Cooling) -> float:
    """Effective share of the reference's draws in what is `reweighted`."""
    return float(1.0 / (tried.energies.shape[1] * np.sum(softmax(-tried.energies[0]) ** 2)))


def _mean_of_halves(one: Evidence, other: Evidence) -> Evidence:
    """Bridge sampling by both halves of the chains: their mean, which is no surer than they agree."""
    apart = abs(one.log_z - other.log_z)
    return Evidence(0.5 * (one.log_z + other.log_z), 0.5 * max(math.hypot(one.error, other.error), apart), 0.0)


def _over_prior(ratio: Evidence, start: Start, share: float, drawn: float) -> Evidence:
    """Evidence over the prior's from that over a reference whose draws in order are a share of all."""
    error = math.sqrt(ratio.error**2 + (1.0 - share) / (share * drawn))
    return ratio._replace(log_z=ratio.log_z + start.log_labels + math.log(share), error=error)


class Crew:
    """Threads for tasks, and for pieces of tasks that wait for them: `threads` of each, so that none waits in vain."""

    def __init__(self, threads: int) -> None:
        self.threads, self._left, self._ended = threads, 0, False
        self._jobs = ThreadPoolExecutor(threads, thread_name_prefix="bluesky-bayes")
        self._pieces = ThreadPoolExecutor(threads, thread_name_prefix="bluesky-bayes-pieces")
        self._waiting, self._tasks = list[tuple[Rank, int]](), dict[int, Callable[[], None]]()
        self._begun, self._number, self._lock = deque[Future[None]](), itertools.count(), threading.Lock()

    def add(self, tasks: Sequence[tuple[Rank, Callable[[], None]]], then: Callable[[], None] | None = None) -> None:
        """Have tasks done, the lowest rank first, and something else by the thread that ends the last of these."""
        missing = len(tasks)

        def followed(task: Callable[[], None]) -> None:
            nonlocal missing
            task()
            with self._lock:
                missing -= 1
                last = missing == 0 and not self._ended
            if last and then is not None:
                then()

        with self._lock:
            self._left += len(tasks)
            for (rank, task), number in zip(tasks, self._number, strict=False):
                heapq.heappush(self._waiting, (rank, number))
                self._tasks[number] = partial(followed, task)
        self._begun.extend(self._jobs.submit(self._next) for _ in tasks)

    def _next(self) -> None:
        with self._lock:
            task = self._tasks.pop(heapq.heappop(self._waiting)[1])
        task()
        with self._lock:
            self._left -= 1

    def finish(self) -> None:
        """Wait until all tasks are done, those that were added on the way as well."""
        while self._begun:
            self._begun.popleft().result()

    def spread(self, function: Callable[[int, int], _T], n: int, /) -> list[_T]:
        """Do the pieces of a task side by side where fewer tasks than threads are left: a `Spread`."""
        if self._left >= self.threads:
            return in_one_piece(function, n)
        edges = np.linspace(0, n, min(n, PIECES * self.threads) + 1).astype(int).tolist()
        return list(self._pieces.map(function, edges[:-1], edges[1:]))

    def __enter__(self) -> Self:
        """Enter a context that ends the threads."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the threads; what was not begun is dropped."""
        self._ended = True
        self._jobs.shutdown(cancel_futures=True)
        self._pieces.shutdown()


def run_jobs(questions: Sequence[Sequence[Job]], settings: Settings, crew: Crew, looks: bool) -> Iterator[None]:
    """Sample all models of some questions, (model, chain) side by side; yields whenever there is a new answer.

    Each question is a list of models to choose from: those in question go on until they are sure or time is up. The
    number of threads changes no result. With `looks` the first answer is that of a few particles.
    """
    begun = time.perf_counter()
    jobs = [job for question in questions for job in question]
    for job in jobs:
        job.spread = crew.spread
    new = [job for job in jobs if not job.states]
    if new and looks:
        crew.add([(rank_of(job), job.look) for job in new])
        crew.finish()
        yield
    work = new or _unsure(questions)
    while work:
        crew.add([(rank_of(job), partial(_round, job, crew)) for job in work])
        crew.finish()
        yield
        spent = time.perf_counter() - begun
        work = _unsure(questions) if settings.budget is None or spent < settings.budget else []


def rank_of(job: Job) -> Rank:
    """Of what is done once for a job: the largest first, and chains, which come of it, after all that."""
    return False, -job.cost


def _round(job: Job, crew: Crew) -> None:
    """Have all chains of a job go on, by their first round if there are none yet, and the job take what they gave.

    No job waits for another one.
    """
    if job.states:
        length = job.wanted
    else:
        job.prepare()
        length = job.first
    given: dict[int, tuple[State, Info]] = {}

    def step(chain: int) -> None:
        given[chain] = job.step(chain, length)

    def take() -> None:
        job.take([given[chain] for chain in sorted(given)])

    rank = True, -job.cost * length
    crew.add([(rank, partial(step, chain)) for chain in range(job.settings.chains)], take)


def _unsure(questions: Sequence[Sequence[Job]]) -> list[Job]:
    """Jobs that have to go on and may: the best model of a question also to know its parameters."""
    unsure = []
    for question in questions:
        best, *others = _in_question(question)
        unsure += [job for job in others if job.unsure]
        if best.unsure or r_hat_of(best.draws) > WORST_R_HAT:
            unsure.append(best)
    return [job for job in unsure if job.wanted > 0]


def _in_question(question: Sequence[Job]) -> list[Job]:
    """Models that are not far less probable than the best of the question, which comes first."""
    score = np.array([job.evidence.log_z - float(job.task.constant[0]) + job.log_prior for job in question])
    margin = IN_QUESTION + 5.0 * np.array([job.evidence.error for job in question])
    ranked = np.argsort(-score, kind="stable")
    return [question[i] for i in ranked if score[i] >= score.max() - margin[i]]
