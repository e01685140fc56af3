"""From data and candidates to an answer: `select` and `select_many`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.kernels.build import compile_errors, kernels_for, why_not_compiled
from bluesky_bayes.noise import Gaussian, Noise, noise_for
from bluesky_bayes.posterior import Posterior
from bluesky_bayes.sampler import Job, Settings, run_jobs
from bluesky_bayes.selection import Selection
from bluesky_bayes.summaries import curves_of, posterior_of
from bluesky_bayes.tasks import Block, blocks_of, make_task, shape_source, shape_sources, single_precision_is_enough

BATCH = 16
"""Data sets sampled side by side; more wait their turn, so that memory stays bounded."""


def select(
    data: Dataset,
    candidates: Candidates,
    noise: Noise | None = None,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    sampler: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Selection:
    """Tell which of the candidates the data support, and with which parameters.

    Parameters
    ----------
    data : Dataset
    candidates : Candidates
        From `bluesky_bayes.families` or made of your own models.
    noise : Gaussian or Poisson, optional
        By default the data's own uncertainties, Poisson where the data are declared counts, else Gaussian noise of
        unknown standard deviation.
    seed : int
        The same seed gives the same answer to the last bit on one processor type, on any number of threads, alone or
        in a batch.
    settings : Settings, optional
        How long to sample.
    sampler : {"auto", "exchange"}
        Replica exchange.
    device : {"auto", "cpu"}
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
        [data], candidates, noise, seed=seed, settings=settings, sampler=sampler, device=device, threads=threads
    )
    return selection


def select_many(
    data: Sequence[Dataset],
    candidates: Candidates,
    noise: Noise | None = None,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    sampler: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> list[Selection]:
    """`select` for many data sets, side by side; each answer is the one that `select` gives.

    Parameters and errors are those of `select`; `data` is a sequence of data sets.
    """
    _check_choice("sampler", sampler, ("auto", "exchange"))
    _check_choice("device", device, ("auto", "cpu"))
    settings = settings or Settings()
    questions = [_Question.of(d, candidates, noise) for d in data]
    with ThreadPoolExecutor(_check_threads(threads), thread_name_prefix="bluesky-bayes") as executor:
        return [
            selection
            for start in range(0, len(questions), BATCH)
            for selection in _answer(questions[start : start + BATCH], settings, seed, executor)
        ]


def warm_up(candidates: Candidates) -> None:
    """Compile the kernels that these candidates need, or load them from the cache, by asking a tiny question."""
    x = np.linspace(0.0, 1.0, 16)
    question = _Question.of(Dataset(x, x), candidates, Gaussian(1.0))
    job = question.jobs(Settings(sweeps=200, chains=2), 0)[-1]
    with _compiling([question]):
        job.prepare()
        curves_of(job.kernels, job.task, job.ladder.coordinates[0])


@dataclass(frozen=True)
class _Question:
    """One data set with everything filled in."""

    data: Dataset
    noise: Noise
    candidates: Candidates
    block: Block
    single: bool

    @classmethod
    def of(cls, data: Dataset, candidates: Candidates, noise: Noise | None) -> _Question:
        noise = noise_for(data, noise)
        candidates = candidates.resolved(data, noise)
        (block,) = blocks_of([data], [noise], candidates.models)
        return cls(data, noise, candidates, block, single_precision_is_enough(block))

    def jobs(self, settings: Settings, seed: int) -> list[Job]:
        models = self.candidates.models
        kinds = shape_sources(models)
        kernels = kernels_for(kinds, self.single)
        return [Job(kernels, make_task([self.block], m, kinds, self.single), settings, seed, m) for m in models]


@contextmanager
def _compiling(questions: Sequence[_Question]) -> Iterator[None]:
    """Raise a sentence where numba cannot compile a component."""
    try:
        yield
    except compile_errors() as error:
        raise ValueError(_not_compiled(questions)) from error


def _not_compiled(questions: Sequence[_Question]) -> str:
    """Name the component that numba cannot compile."""
    for question in questions:
        models = question.candidates.models
        reasons = why_not_compiled(shape_sources(models), question.single)
        for model in models:
            for term in model.terms:
                if (shape := shape_source(term.component)) in reasons:
                    return (
                        f"component {term.component.name!r} of model {model.name!r} cannot be compiled: "
                        f"{reasons[shape]}; it must be plain arithmetic on numbers"
                    )
    return "the kernels cannot be compiled; report this with numba's reason above"


def _answer(
    questions: Sequence[_Question], settings: Settings, seed: int, executor: ThreadPoolExecutor
) -> Iterator[Selection]:
    start = time.perf_counter()
    jobs = [question.jobs(settings, seed) for question in questions]
    work = [(question, job) for question, some in zip(questions, jobs, strict=True) for job in some]
    with _compiling(questions):
        run_jobs(jobs, settings, executor)
        posteriors = list(executor.map(lambda entry: _posterior(entry[0], entry[1], seed), work))
    elapsed = (time.perf_counter() - start) / len(questions)
    for i, question in enumerate(questions):
        n = len(question.candidates.models)
        yield _selection(question, posteriors[i * n : (i + 1) * n], seed, elapsed)


def _posterior(question: _Question, job: Job, seed: int) -> Posterior:
    return posterior_of(job, question.data, question.noise, question.block, question.single, seed)


def _selection(question: _Question, posteriors: Sequence[Posterior], seed: int, elapsed: float) -> Selection:
    return Selection(
        data=question.data,
        noise=question.noise,
        posteriors=tuple(posteriors),
        prior_probabilities=np.array(question.candidates.probabilities),
        seed=seed,
        sampler="exchange",
        device="cpu",
        elapsed=elapsed,
        notes=(*question.data.notes, *_notes(question)),
    )


def _notes(question: _Question) -> Iterator[str]:
    """What was assumed, in sentences: noise, priors and precision."""
    yield f"{question.noise}"
    fullest = max(question.candidates.models, key=lambda m: len(m.priors))
    said: dict[str, str] = {}
    for name, prior in fullest.describe_priors().items():
        said.setdefault(name.rsplit(".", 1)[-1], prior)
    if said:
        yield "priors: " + ", ".join(f"{name} ~ {prior}" for name, prior in said.items())
    if not question.single:
        yield "curves were computed in float64, since float32 would round them too much for these data"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))} in this version; got {value!r}")


def _check_threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads must be 1 or more; got {threads}")
    return threads
