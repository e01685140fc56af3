"""Series of frames: temperatures, times or pressures at which the same thing was measured.

Each frame is answered by itself, near the answer before it. That the model changes at one frame is a hypothesis about
all of them, whose evidence is the product of theirs: it finds the change where no frame alone decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.evidence import softmax
from bluesky_bayes.inference import select_many
from bluesky_bayes.jobs import INDEPENDENCE
from bluesky_bayes.noise import Noise, Poisson, noise_for
from bluesky_bayes.posterior import Posterior
from bluesky_bayes.sampler import Settings
from bluesky_bayes.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SURE, MOVED = 0.95, 2.0
"""Probability that decides, and the standard errors beyond which a parameter moves from frame to frame."""


@dataclass(frozen=True, eq=False)
class Change:
    """Whether the model changes once in a series, where, and from which to which.

    Beforehand a change is as probable as none, it may come before any frame but the first with the same probability,
    and the models have their prior probabilities.

    Attributes
    ----------
    probability, probability_error : float
        That the model changes at all, and its standard error from those of the evidence.
    frames, frame_errors : (n_frames,) float64
        If it changes: probability that each frame is the first of the new model, and standard errors.
    pairs : (n_models, n_models) float64
        Probability of each model before the change and each after it; on the diagonal that of no change.
    models : (n_frames, n_models) float64
        Probability of each model at each frame, given all frames.
    names : tuple of str
        The models.
    """

    probability: float
    probability_error: float
    frames: Array
    frame_errors: Array
    pairs: Array
    models: Array
    names: tuple[str, ...]

    @property
    def frame(self) -> int:
        """The most probable first frame of the new model, counted from zero."""
        return int(np.argmax(self.frames))

    @property
    def interval(self) -> tuple[int, int]:
        """First and last frame of the central 95 % of `frames`."""
        low, high = np.searchsorted(np.cumsum(self.frames), (0.025, 0.975))
        return int(low), min(int(high), self.frames.size - 1)

    @property
    def before(self) -> str:
        """The model before the most probable change."""
        return self.names[self._pair[0]]

    @property
    def after(self) -> str:
        """The model after it."""
        return self.names[self._pair[1]]

    @property
    def _pair(self) -> tuple[int, int]:
        changing = np.where(np.eye(len(self.names), dtype=bool), -1.0, self.pairs)
        before, after = np.unravel_index(int(np.argmax(changing)), changing.shape)
        return int(before), int(after)


@dataclass(frozen=True, eq=False)
class FrameSeries:
    """What a series of frames says about the candidates.

    Attributes
    ----------
    selections : tuple of Selection
        The answer of each frame by itself, without its chains.
    at : (n_frames,) float64
        Where each frame was taken: its number, or temperature, time ...
    label : str
        What `at` is, for plots.
    """

    selections: tuple[Selection, ...]
    at: Array
    label: str = "frame"

    def __repr__(self) -> str:
        """The answer in words."""
        return f"<FrameSeries: {self.verdict}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return self.selections[0].names

    @property
    def log_evidence(self) -> Array:
        """Natural logarithm of p(frame | model), (n_frames, n_models)."""
        return np.stack([selection.log_evidence for selection in self.selections])

    @property
    def log_evidence_error(self) -> Array:
        """Standard errors of `log_evidence`, (n_frames, n_models)."""
        return np.stack([selection.log_evidence_error for selection in self.selections])

    @property
    def probabilities(self) -> Array:
        """p(model | frame) of each frame by itself, (n_frames, n_models)."""
        return np.stack([selection.probabilities for selection in self.selections])

    @cached_property
    def change(self) -> Change:
        """Whether and where the model changes, by all frames together."""
        return change_of(self.log_evidence, self.log_evidence_error, self.selections[0].prior_probabilities, self.names)

    @property
    def models(self) -> tuple[str, ...]:
        """The most probable model of each frame, given all frames."""
        return tuple(self.names[int(m)] for m in np.argmax(self.change.models, axis=1))

    def track(self, name: str) -> tuple[Array, Array]:
        """Posterior mean and standard deviation (n_frames,) of a parameter or derived quantity, frame by frame.

        Of each frame's model in `models`; not a number where that model has none of this name.
        """
        found = []
        for selection, model in zip(self.selections, self.models, strict=True):
            posterior = selection[model]
            draws = {**posterior.draws, **posterior.derived}.get(name)
            found.append((math.nan, math.nan) if draws is None else (float(draws.mean()), float(draws.std())))
        means, deviations = np.transpose(found)
        return means, deviations

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the answers of single frames, in plain sentences."""
        return tuple(f"frame {i}: {line}" for i, s in enumerate(self.selections) for line in s.warnings)

    @property
    def verdict(self) -> str:
        """The answer in words."""
        change = self.change
        if change.probability < 0.5:
            name = self.names[int(np.argmax(np.diag(change.pairs)))]
            text = f"{name} throughout (p of a change = {change.probability:.3f})"
        else:
            low, high = (self.at[i] for i in change.interval)
            where = f"{self.label} {self.at[change.frame]:g}" + (f" ({low:g} to {high:g})" if low != high else "")
            text = f"{change.before} changes to {change.after} at {where}, p of a change = {change.probability:.3f}"
        decided = max(change.probability, 1.0 - change.probability) > SURE
        return text + ("" if decided else ": undecided")

    def plot(self, parameter: str = "") -> Figure:
        """Probabilities of the models and of the frame of change: a matplotlib figure.

        With a `parameter` such as ``"center"`` or ``"peak1.center"`` also its values, frame by frame.
        """
        from bluesky_bayes.plots import plot_series

        return plot_series(self, parameter)


def series(
    frames: Sequence[Dataset],
    candidates: Candidates,
    noise: Noise | None = None,
    *,
    at: npt.ArrayLike | None = None,
    label: str = "frame",
    batch: int = 1,
    seed: int = 0,
    error: float | None = None,
    settings: Settings | None = None,
    sampler: str = "auto",
    threads: int | None = None,
) -> FrameSeries:
    """Tell which model each frame of a series supports, and at which frame it changes.

    Parameters
    ----------
    frames : sequence of Dataset
        In order; two or more.
    candidates : Candidates
        The same for all frames. Priors left out come from the range of all frames together.
    noise : Gaussian, StudentT or Poisson, optional
        As for `select`, the same for all frames.
    at : (n_frames,) array_like, optional
        Where each frame was taken, rising or falling; by default its number.
    label : str
        What `at` is, with its unit, for plots.
    batch : int
        Frames sampled side by side; each batch starts where the last answers of the batch before lead.
    seed, error, settings, sampler, threads
        As for `select`.

    Returns
    -------
    FrameSeries

    Raises
    ------
    ValueError
        For fewer than two frames or candidates, an `at` that is no order, and as `select`.

    Examples
    --------
    >>> from bluesky_bayes import Gaussian
    >>> from bluesky_bayes.families import peaks
    >>> x, rng = np.linspace(-3, 3, 61), np.random.default_rng(0)
    >>> heights = (0, 0, 0, 1, 1, 1)
    >>> frames = [Dataset(x, h * np.exp(-2 * x**2) + 0.3 * rng.standard_normal(61)) for h in heights]
    >>> found = series(frames, peaks(counts=[0, 1]), Gaussian(0.3))
    >>> found.change.before, found.change.after, found.change.frame
    ('no peak', '1 peak', 3)
    """
    frames = list(frames)
    if len(frames) < 2 or len(candidates.models) < 2:
        raise ValueError(
            f"a series needs two frames and two candidates or more; got {len(frames)} and {len(candidates.models)}"
        )
    if batch < 1:
        raise ValueError(f"batch must be one frame or more; got {batch}")
    places = _places(at, len(frames))
    candidates = _resolved(frames, candidates, noise)
    answers: list[Selection] = []
    for first in range(0, len(frames), batch):
        found = select_many(
            frames[first : first + batch], candidates, noise, seed=seed, error=error,
            start=next_start(answers), settings=settings, sampler=sampler, threads=threads,
        )  # fmt: skip
        answers += [replace(selection, standings=()) for selection in found]
    return FrameSeries(tuple(answers), places, label)


def next_start(answers: Sequence[Selection]) -> Selection | None:
    """Where to start the frame after some, for `select`: None for the first.

    The last answer, its parameters moved on by as much as they moved from the one before, where that is much. Models
    that needed temperatures in both are left out: these data do not determine them, and an earlier posterior leads to
    a part of the next.
    """
    if not answers:
        return None
    last, before = answers[-1], answers[max(len(answers) - 2, 0)]
    pairs = [(posterior, before[posterior.model.name]) for posterior in last.posteriors]
    determined = [pair for pair in pairs if any(p.diagnostics.sampler == INDEPENDENCE.name for p in pair)]
    return replace(last, posteriors=tuple(_moved(*pair) for pair in determined))


def _moved(posterior: Posterior, earlier: Posterior) -> Posterior:
    draws = {}
    for name, values in posterior.draws.items():
        step = float(values.mean() - earlier.draws[name].mean())
        far = abs(step) > MOVED * math.hypot(values.std(), earlier.draws[name].std())
        draws[name] = values + step if far else values
    return replace(posterior, draws=draws)


def _places(at: npt.ArrayLike | None, n: int) -> Array:
    places = np.arange(n, dtype=np.float64) if at is None else np.asarray(at, dtype=np.float64)
    if places.shape != (n,) or not (np.all(np.diff(places) > 0) or np.all(np.diff(places) < 0)):
        raise ValueError(f"at must be {n} numbers that rise or fall, one a frame; got {at!r}")
    return places


def _resolved(frames: Sequence[Dataset], candidates: Candidates, noise: Noise | None) -> Candidates:
    """Candidates with default priors from all frames, so that the same models are compared in each."""
    noises = [noise_for(frame, noise) for frame in frames]
    rates = [frame.y / _exposure(noise) for frame, noise in zip(frames, noises, strict=True)]
    pooled = Dataset(np.concatenate([frame.x for frame in frames]), np.concatenate(rates))
    return candidates.resolved(pooled, Poisson() if isinstance(noises[0], Poisson) else noises[0])


def _exposure(noise: Noise) -> float | Array:
    return noise.exposure if isinstance(noise, Poisson) and noise.exposure is not None else 1.0


def change_of(log_evidence: Array, error: Array, prior: Array, names: tuple[str, ...]) -> Change:
    """Whether and where the model changes, from log evidences and their errors (n_frames, n_models).

    Frames are independent given their models, each with parameters of its own: the evidence of a change at a frame is
    the product of the frames' evidences of the first model before it and of the second from it on.
    """
    n, m = log_evidence.shape
    upto = np.concatenate([np.zeros((1, m)), np.cumsum(log_evidence, axis=0)])
    pair = np.outer(prior, prior)
    np.fill_diagonal(pair, 0.0)
    with np.errstate(divide="ignore"):
        pair = np.log(pair / pair.sum())
    changing = upto[1:n, :, None] + (upto[n] - upto[1:n])[:, None, :] + pair - math.log(n - 1)
    p = softmax(np.concatenate([(upto[n] + np.log(prior)).ravel(), changing.ravel()]))
    constant, joint = p[:m], p[m:].reshape(n - 1, m, m)
    probability = float(joint.sum())
    share = softmax(changing.ravel()).reshape(joint.shape)
    before, after = share.sum(axis=2), share.sum(axis=1)
    # Frame i has the model before a change at any later frame, and the one after a change at it or an earlier one.
    early = np.concatenate([np.cumsum(before[::-1], axis=0)[::-1], np.zeros((1, m))])
    late = np.concatenate([np.zeros((1, m)), np.cumsum(after, axis=0)])
    models = probability * (early + late) + constant
    return Change(
        probability=probability,
        probability_error=float(np.sqrt(np.sum(((probability * (early + late - models)) * error) ** 2))),
        frames=np.concatenate([[0.0], share.sum(axis=(1, 2))]),
        frame_errors=_frame_errors(before, after, early + late, error),
        pairs=joint.sum(axis=0) + np.diag(constant),
        models=models,
        names=names,
    )


def _frame_errors(before: Array, after: Array, models: Array, error: Array) -> Array:
    """Standard errors of the frames' probabilities, to first order."""
    errors = [0.0]
    for t in range(1, len(models)):
        own = np.where(np.arange(len(models))[:, None] < t, before[t - 1], after[t - 1])
        slope = own - before[t - 1].sum() * models
        errors.append(float(np.sqrt(np.sum((slope * error) ** 2))))
    return np.array(errors)
