"""From data and candidates to an answer: `select`, `select_many` and `select_iter`."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bluesky_bayes.blas import one_blas_thread
from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.devices import AUTO, CPU, CUDA, PROCESSOR, Device
from bluesky_bayes.devices import device as device_of
from bluesky_bayes.exact import ROUNDING, exact_posterior, solve, why_not_exact
from bluesky_bayes.jobs import EXCHANGE, INDEPENDENCE, SAMPLERS, Crew, Job, rank_of, run_jobs
from bluesky_bayes.kernels.cuda import Traits
from bluesky_bayes.kernels.launch import CardKernels, components, why_not
from bluesky_bayes.kernels.task import Task
from bluesky_bayes.model import Model
from bluesky_bayes.noise import Gaussian, Noise, Poisson, StudentT, noise_for
from bluesky_bayes.posterior import Posterior
from bluesky_bayes.priors import at_value
from bluesky_bayes.reference import first_start
from bluesky_bayes.sampler import Sampler, Settings
from bluesky_bayes.selection import Selection
from bluesky_bayes.summaries import curves_of, posterior_of
from bluesky_bayes.tasks import Block, blocks_of, groups_of, make_task, same_groups, single_precision_is_enough

BATCH = 16
"""Data sets sampled side by side; more wait their turn, so that memory stays bounded."""
EXACT = "exact"
ASKED: dict[str, Sampler | None] = {"auto": None, "exchange": EXCHANGE, "smc": SAMPLERS["smc"], EXACT: None}
WARMING, POINTS_FOR_CARDS = 24, 64
"""Sweeps that warm kernels up: enough for batches of an error; and points: enough for jumps."""
MOST_POINTS, MOST_TERMS, MOST_EXACT = 100_000, 20, 500
"""The largest data set and model, sampled or in closed form: memory grows with both, and nothing beyond was tried."""


def select(
    data: Dataset,
    candidates: Candidates,
    noise: Noise | None = None,
    *,
    seed: int = 0,
    error: float | None = None,
    budget: float | None = None,
    start: Selection | None = None,
    settings: Settings | None = None,
    sampler: str = "auto",
    device: str | Device = AUTO,
    threads: int | None = None,
) -> Selection:
    """Tell which of the candidates the data support, and with which parameters.

    Parameters
    ----------
    data : Dataset
    candidates : Candidates
        From `bluesky_bayes.families` or made of your own models.
    noise : Gaussian, StudentT or Poisson, optional
        By default the data's own uncertainties, Poisson where the data are declared counts, else Gaussian noise of
        unknown standard deviation.
    seed : int
        The same seed gives the same answer to the last bit on one processor type, on any number of threads, alone or
        in a batch.
    error : float, optional
        Wanted standard error of every competing model's log evidence, in nats; by default that of `settings`.
    budget : float, optional
        Seconds after which no new round begins, sure or not; by default that of `settings`. The answer then depends on
        the machine's speed.
    start : Selection, optional
        The answer for a similar data set, such as the scan before: sampling begins near its posteriors where they fit.
        The evidence stays that of these data alone.
    settings : Settings, optional
        How long to sample.
    sampler : {"auto", "exchange", "smc", "exact"}
        Replica exchange, sequential Monte Carlo, or the closed form that models have which are linear in all their
        parameters, with normal priors and Gaussian noise; "auto" takes the closed form where every model has one, else
        independent draws of a mixture for each model whose posterior one matches, which is far quicker, and replica
        exchange for the others. The notes say which.
    device : {"auto", "cpu", "cuda", "cuda:1" ...} or Device
        With "auto" a GPU where one works, see `bluesky_bayes.devices`, else the processor.
    threads : int, optional
        By default as many as there are processors to run on.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        When data, noise, priors or options do not fit together, or a component cannot be compiled; the sentence says
        what and what to do.

    Examples
    --------
    >>> import numpy as np
    >>> from bluesky_bayes.families import peaks
    >>> x = np.linspace(-3, 3, 101)
    >>> y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(101)
    >>> selection = select(Dataset(x, y), peaks(counts=range(0, 3)), noise=Gaussian(0.1))
    >>> selection.best.model.name
    '1 peak'
    >>> selection.decisive(0.9)
    True
    """
    (selection,) = select_many(
        [data], candidates, noise, seed=seed, error=error, budget=budget, start=start, settings=settings,
        sampler=sampler, device=device, threads=threads,
    )  # fmt: skip
    return selection


def select_many(
    data: Sequence[Dataset],
    candidates: Candidates,
    noise: Noise | None = None,
    *,
    seed: int = 0,
    error: float | None = None,
    budget: float | None = None,
    start: Selection | None = None,
    settings: Settings | None = None,
    sampler: str = "auto",
    device: str | Device = AUTO,
    threads: int | None = None,
) -> list[Selection]:
    """`select` for many data sets, side by side; each answer is the one that `select` gives.

    Parameters and errors are those of `select`; `data` is a sequence of data sets, of which sixteen at a time are
    sampled: a `budget` is for these together. What one of them raises ends the call.
    """
    _check_options(seed, start, threads)
    settings = _settings(settings, error, budget)
    chosen, where = _sampler(sampler), device_of(device)
    if isinstance(data, Dataset):
        raise ValueError("select_many takes a sequence of data sets; for one there is select")
    questions = [_Question.of(d, candidates, noise) for d in data]
    with _crew(threads, where) as crew, one_blas_thread():
        answers = {i: _solved(q, settings, seed, sampler) for i, q in enumerate(questions) if q.solved_by(sampler)}
        sampled = [i for i in range(len(questions)) if i not in answers]
        for first in range(0, len(sampled), BATCH):
            batch = [questions[i] for i in sampled[first : first + BATCH]]
            jobs = [question.jobs(settings, seed, chosen, start, where=where) for question in batch]
            (found,) = _answers(batch, jobs, settings, seed, crew, False)
            answers |= zip(sampled[first : first + BATCH], found, strict=True)
    return [answers[i] for i in range(len(questions))]


def select_iter(
    data: Dataset,
    candidates: Candidates,
    noise: Noise | None = None,
    *,
    seed: int = 0,
    error: float | None = None,
    budget: float | None = None,
    start: Selection | None = None,
    settings: Settings | None = None,
    sampler: str = "auto",
    device: str | Device = AUTO,
    threads: int | None = None,
) -> Iterator[Selection]:
    """The answer as it grows: a first look after about a tenth of a second, then one after each round.

    Parameters and errors are those of `select`, which gives the last one; stop whenever the answer is good enough.

    Yields
    ------
    Selection
        The first is made by a few particles and says that it is not to be trusted yet.
    """
    _check_options(seed, start, threads)
    settings = _settings(settings, error, budget)
    chosen, where, question = _sampler(sampler), device_of(device), _Question.of(data, candidates, noise)
    if question.solved_by(sampler):
        with one_blas_thread():
            answer = _solved(question, settings, seed, sampler)
        yield answer
        return
    jobs = question.jobs(settings, seed, chosen, start, where=where)
    with _crew(threads, where) as crew:
        answers = _answers([question], [jobs], settings, seed, crew, True)
        while True:
            with one_blas_thread():
                found = next(answers, None)
            if found is None:
                return
            yield found[0]


def jobs_from_prior(
    data: Dataset,
    candidates: Candidates,
    noise: Noise,
    settings: Settings | None,
    error: float | None,
    seed: int,
    threads: int | None,
) -> list[Job]:
    """Every model's job when it is sure, begun at the prior, each as a question of its own."""
    _check_options(seed, None, threads)
    settings = _settings(settings, error, None)
    question = _Question.of(data, candidates, noise)
    jobs = question.jobs(settings, seed, from_prior=True)
    with _crew(threads) as crew, one_blas_thread():
        for _ in run_jobs([[job] for job in jobs], settings, crew, False):
            pass
    return jobs


def exact_profile(data: Dataset, candidates: Candidates, sigma: Array) -> tuple[Array, Array] | None:
    """Log evidence of each model for each size of Gaussian noise, and errors, or None where it has no closed form."""
    question = _Question.of(data, candidates, Gaussian(float(sigma[0])))
    if question.inexact:
        return None
    models = question.candidates.models
    log_z = np.stack([solve(model, data, Gaussian(1.0)).factors.log_evidence(sigma) for model in models])
    return log_z, np.zeros_like(log_z)


def refined(selection: Selection, error: float | None, budget: float | None, threads: int | None) -> Selection:
    """Go on with a selection, see `Selection.refine`."""
    _check_options(selection.seed, None, threads)
    _settings(None, error, budget)
    if all(posterior.diagnostics.sampler == EXACT for posterior in selection.posteriors):
        return selection
    if not selection.standings:
        raise ValueError(
            "this selection came without its chains (from a worker, or as a first look), so that it cannot go on; "
            "ask again with a smaller `error`"
        )
    candidates = Candidates(
        tuple(posterior.model for posterior in selection.posteriors), tuple(selection.prior_probabilities)
    )
    question = _Question.of(selection.data, candidates, selection.noise)
    if error is None:
        error = 0.5 * min(selection.settings.error, float(selection.log_evidence_error.max()) or math.inf)
    done = max(len(standing.infos[0].misfit) for standing in selection.standings)
    settings = replace(selection.settings, error=error, budget=budget, longest=done + selection.settings.longest)
    where = device_of(AUTO if selection.device.startswith(CUDA) else CPU)
    jobs = question.jobs(settings, selection.seed, ASKED[selection.sampler], where=where)
    with _crew(threads, where) as crew, one_blas_thread():
        standings = zip(jobs, selection.standings, strict=True)
        crew.add([(rank_of(job), partial(job.resume, standing)) for job, standing in standings])
        crew.finish()
        ((last,),) = _answers([question], [jobs], settings, selection.seed, crew, False)
    return replace(last, settings=replace(settings, longest=selection.settings.longest))


def warm_up(candidates: Candidates, noise: Noise | None = None, device: str | Device = AUTO) -> None:
    """Compile the kernels that these candidates need, or load them from the cache, by asking a tiny question.

    What has an answer in closed form needs none. A GPU's kernels are made for data of up to 1024 points, and for longer
    ones when these come.
    """
    x = np.linspace(0.0, 1.0, 16)
    question = _Question.of(Dataset(x, x), candidates, Gaussian(1.0))
    if isinstance(noise, Gaussian | None) and not question.inexact:
        return
    where = device_of(device)
    job = question.jobs(Settings(chains=2), 0, EXCHANGE, where=where)[-1]
    job.prepare()
    job.take([job.step(chain, WARMING) for chain in range(2)])
    INDEPENDENCE.step(job.path, job.states[0]._replace(coordinates=job.infos[0].samples[:1]), job.keys[0], WARMING)
    curves_of(job.kernels, job.task, job.infos[0].samples)
    if where.cards:
        _warm_cards(candidates, noise, where)


def _warm_cards(candidates: Candidates, noise: Noise | None, where: Device) -> None:
    """Compile what GPUs need: kernels of their own for each kind of noise, of model and of reference."""
    counted = isinstance(noise, Poisson)
    if isinstance(noise, Gaussian | StudentT) and noise.sigma is not None:
        noise = replace(noise, sigma=1.0)
    data = Dataset(np.linspace(0.0, 1.0, POINTS_FOR_CARDS), np.arange(float(POINTS_FOR_CARDS)), counts=counted)
    question, done = _Question.of(data, candidates, Poisson() if counted else noise), set[Hashable]()
    for job in question.jobs(Settings(chains=2), 0, where=where):
        kind = components(job.task), Traits.of(job.task, first_start(job.task).arrays)
        if not why_not(job.task) and kind not in done:
            done.add(kind)
            job.warm()


@dataclass(frozen=True)
class _Question:
    """One data set with everything filled in, and what stands against a closed form."""

    data: Dataset
    noise: Noise
    candidates: Candidates
    block: Block
    single: bool
    inexact: str

    @classmethod
    def of(cls, data: Dataset, candidates: Candidates, noise: Noise | None) -> _Question:
        _check_kind("data", data, Dataset, "Dataset(x, y)")
        _check_kind("candidates", candidates, Candidates, "peaks(counts=range(0, 4)), or Candidates((model, ...))")
        _check_points(data)
        if any(term.block for model in candidates.models for term in model.terms):
            raise ValueError("these models are for one data set: every term must have block=0")
        noise, data = noise_for(data, noise), data.settled()
        candidates = candidates.resolved(data, noise)
        for model in candidates.models:
            model.check_widths()
        (block,) = blocks_of([data], [noise], candidates.models)
        inexact = why_not_exact(candidates.models, noise)
        return cls(data, noise, candidates, block, single_precision_is_enough(block), inexact)

    def solved_by(self, sampler: str) -> bool:
        """Whether to answer in closed form."""
        if sampler == EXACT and self.inexact:
            raise ValueError(f"there is no exact answer: {self.inexact}; use sampler='auto'")
        if sampler not in (EXACT, "auto") or self.inexact:
            return False
        _check_terms(self.candidates, MOST_EXACT)
        return True

    def jobs(
        self,
        settings: Settings,
        seed: int,
        sampler: Sampler | None = None,
        start: Selection | None = None,
        from_prior: bool = False,
        where: Device = PROCESSOR,
    ) -> list[Job]:
        """A job for each model, begun at the posterior of the model of that name in `start`."""
        _check_terms(self.candidates, MOST_TERMS)
        found, kernels = [], where.kernels(self.single)
        stream = f"{seed}/{hashlib.sha256(self.data.x.tobytes() + self.data.y.tobytes()).hexdigest()}"
        for model, probability in zip(self.candidates.models, self.candidates.probabilities, strict=True):
            task = make_task([self.block], model, self.single)
            earlier = _earlier(start, model, task)
            found.append(
                Job(kernels, task, settings, stream, model, sampler, earlier, from_prior, math.log(probability))
            )
        return found


def _earlier(start: Selection | None, model: Model, task: Task) -> Array | None:
    """Whitened draws (n, n_parameters) of the same model's posterior in an earlier answer."""
    if start is None or model.name not in start.names or not model.parameters:
        return None
    draws, known = start[model.name].draws, groups_of(start[model.name].model)
    if set(draws) != set(model.parameters) or (known and not same_groups(known, groups_of(model))):
        return None  # of components that were put in order, the draws lack all other labellings
    return np.stack(
        [at_value(table, draws[name].ravel()) for name, table in zip(model.parameters, task.tables, strict=True)],
        axis=1,
    )


def _answers(
    questions: Sequence[_Question],
    jobs: Sequence[Sequence[Job]],
    settings: Settings,
    seed: int,
    crew: Crew,
    growing: bool,
) -> Iterator[list[Selection]]:
    """Answers to all questions: the last ones, or all on the way to them."""
    begun = time.perf_counter()

    def selections() -> list[Selection]:
        found: dict[Job, Posterior] = {}

        def sum_up(question: _Question, job: Job) -> None:
            found[job] = posterior_of(job, question.data, question.noise, question.block, question.single, seed)

        for question, some in zip(questions, jobs, strict=True):
            crew.add([(rank_of(job), partial(sum_up, question, job)) for job in some])
        crew.finish()
        elapsed = (time.perf_counter() - begun) / len(questions)
        return [
            _selection(question, some, [found[job] for job in some], settings, seed, elapsed)
            for question, some in zip(questions, jobs, strict=True)
        ]

    for _ in run_jobs(jobs, settings, crew, growing):
        if growing:
            yield selections()
    if not growing:
        yield selections()


def _solved(question: _Question, settings: Settings, seed: int, sampler: str) -> Selection:
    """The answer in closed form."""
    begun, noise = time.perf_counter(), question.noise
    assert isinstance(noise, Gaussian)
    posteriors = [
        exact_posterior(model, question.data, noise, settings.chains, seed) for model in question.candidates.models
    ]
    answer = _selection(question, (), posteriors, settings, seed, time.perf_counter() - begun)
    note = "evidence and posteriors are exact: every model is linear, with normal priors"
    if not noise.known:
        note += f"; the integral over the noise is sure to {max(ROUNDING, answer.log_evidence_error.max()):.1g} nats"
    return replace(answer, sampler=sampler, notes=(*answer.notes, note))


def _selection(
    question: _Question,
    jobs: Sequence[Job],
    posteriors: Sequence[Posterior],
    settings: Settings,
    seed: int,
    elapsed: float,
) -> Selection:
    return Selection(
        data=question.data,
        noise=question.noise,
        posteriors=tuple(posteriors),
        prior_probabilities=np.array(question.candidates.probabilities),
        seed=seed,
        sampler=next(("auto" if job.auto else job.sampler.name for job in jobs), EXACT),
        device=next((", ".join(card.name for card in job.kernels.cards) for job in jobs if _on_card(job)), CPU),
        elapsed=elapsed,
        notes=(*question.data.notes, *_notes(question, jobs)),
        settings=settings,
        standings=tuple(job.standing for job in jobs if not job.looking),
    )


def _notes(question: _Question, jobs: Sequence[Job]) -> Iterator[str]:
    """What was assumed, in sentences: noise, priors, sampler and precision."""
    yield f"{question.noise}"
    fullest = max(question.candidates.models, key=lambda m: len(m.priors))
    said: dict[str, dict[str, str]] = {}
    for name, prior in fullest.describe_priors().items():
        said.setdefault(name.rsplit(".", 1)[-1], {})[name] = prior
    alike = {last: len(set(priors.values())) == 1 for last, priors in said.items()}
    each = {last if alike[last] else name: prior for last, priors in said.items() for name, prior in priors.items()}
    if each:
        yield "priors: " + ", ".join(f"{name} ~ {prior}" for name, prior in each.items())
    ways: dict[str, list[str]] = {}
    for job in jobs:
        if job.model.parameters:
            ways.setdefault(_way(job), []).append(job.model.name)
    if ways:
        by_model = "; ".join(f"{way} ({', '.join(names)})" for way, names in ways.items())
        yield f"sampled by {next(iter(ways)) if len(ways) == 1 else by_model}"
    if any(_on_card(job) for job in jobs):
        reasons = {job.model.name: why_not(job.task) for job in jobs if not _on_card(job)}
        for reason in dict.fromkeys(reasons.values()):
            yield f"{reason} ({', '.join(name for name, why in reasons.items() if why == reason)})"
        for broken in dict.fromkeys(card.broken for job in jobs for card in job.kernels.cards if card.broken):
            yield f"the GPU failed while it sampled, and the processor went on: {broken}"
        for refused in dict.fromkeys(job.kernels.refused for job in jobs if job.kernels.refused):
            yield f"the processor did what the GPU had no room for: {refused}"
    if jobs and not question.single:
        yield "curves were computed in float64, since float32 would round them too much for these data"


def _on_card(job: Job) -> bool:
    """Whether a GPU samples it."""
    return isinstance(job.kernels, CardKernels) and not why_not(job.task)


def _way(job: Job) -> str:
    """How a model was sampled, in words."""
    if job.looking:
        return "a few particles from the prior"
    return f"{job.sampler.words} from {'a fitted mixture' if job.path.start.fitted else 'the prior'}"


def _check_kind(name: str, value: Any, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, such as {example}; got {type(value).__name__}")


def _check_options(seed: Any, start: Any, threads: Any) -> None:
    for name, number, least in (("seed", seed, 0), ("threads", threads, 1)):
        if number is not None and (not isinstance(number, int | np.integer) or number < least):
            raise ValueError(f"{name} must be a whole number from {least} up; got {number!r}")
    if seed is None:
        raise ValueError("seed must be a whole number; for another answer each time give one that changes")
    if start is not None:
        _check_kind("start", start, Selection, "the answer for the scan before")


def _check_points(data: Dataset) -> None:
    if data.n > MOST_POINTS:
        raise ValueError(
            f"{data.origin.y!r} has {data.n} points, and at most {MOST_POINTS} can be analysed; rebin them or cut the "
            "range"
        )


def _check_terms(candidates: Candidates, most: int) -> None:
    largest = max(candidates.models, key=lambda model: len(model.terms))
    if len(largest.terms) > most:
        raise ValueError(
            f"model {largest.name!r} has {len(largest.terms)} components, and at most {most} can be analysed; "
            "ask for fewer or cut the range"
        )


def _settings(settings: Settings | None, error: float | None, budget: float | None) -> Settings:
    settings = Settings() if settings is None else settings
    _check_kind("settings", settings, Settings, "Settings(sweeps=600)")
    return replace(
        settings,
        error=settings.error if error is None else error,
        budget=settings.budget if budget is None else budget,
    )


def _sampler(sampler: str) -> Sampler | None:
    if sampler not in ASKED:
        raise ValueError(f"sampler must be one of {', '.join(map(repr, ASKED))} in this version; got {sampler!r}")
    return ASKED[sampler]


def _crew(threads: int | None, where: Device = PROCESSOR) -> Crew:
    return Crew(where.threads if threads is None else threads)
