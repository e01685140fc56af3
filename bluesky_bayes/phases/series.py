"""Series of patterns: heating, a reaction, a charging battery; which phases come and go, and at which frame.

Each frame is searched from the fit of the frame before. That a phase is there from one frame to another is a hypothesis
about all frames, whose evidence is the product of theirs, as for models in :mod:`bluesky_bayes.series`: it finds the
change where no frame alone decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from bluesky_bayes.blas import one_blas_thread
from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.fitting import Beliefs, Fitter, Joint, Term
from bluesky_bayes.phases.library import Library
from bluesky_bayes.phases.patterns import Pattern
from bluesky_bayes.phases.screening import Look
from bluesky_bayes.phases.searching import LONG, Search
from bluesky_bayes.phases.selection import PhaseSelection, searched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISLED = 1e-3
"""Probability that a frame misleads, whatever its evidence: none counts for more than 7 nats."""
SEEN, LISTED, SURE = 0.5, 0.1, 0.95
"""Probability in a frame from which a phase is followed, in the series from which it is listed, and that decides."""
AGAIN = 10.0
"""Nats that a phase must gain by coming more than once for a warning."""
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class Presence:
    """From which frame to which a phase is present.

    Beforehand a phase is as probable as in a single pattern; if it is present it may be so throughout, come, go, or
    come and go, with the same probability each, at any frame.

    Attributes
    ----------
    name : str
        Formula, and the structures it may be.
    members : tuple of str
        Structures that the patterns cannot tell apart, the most frequent first.
    log_bayes_factor : (n_frames,) float64
        For its presence in each frame by itself, nats.
    probability : float
        That it is present in some frame.
    frames : (n_frames,) float64
        p(present in the frame | all frames).
    first, gone : (n_frames,) float64
        If it comes: probability that each frame is the first that has it. If it goes: the first that has it no more.
    comes, goes : float
        Probability that it comes after the first frame, and that it goes before the last.
    weight : (n_frames, 3) float64
        Share of the crystalline weight by each frame itself: median, lower and upper end; zero where the frame's own
        answer has it not.
    """

    name: str
    members: tuple[str, ...]
    log_bayes_factor: Array
    probability: float
    frames: Array
    first: Array
    gone: Array
    comes: float
    goes: float
    weight: Array

    @property
    def appears(self) -> int | None:
        """The most probable first frame, counted from zero; None where it is there from the start, or never."""
        return int(np.argmax(self.first)) if self.comes > SEEN else None

    @property
    def disappears(self) -> int | None:
        """The most probable first frame without it; None where it stays to the end, or is never there."""
        return int(np.argmax(self.gone)) if self.goes > SEEN else None


@dataclass(frozen=True, eq=False)
class PhaseSeries:
    """Which phases a series of patterns shows, and when.

    Attributes
    ----------
    selections : tuple of PhaseSelection
        The answer of each frame by itself.
    phases : tuple of Presence
        By their first frames.
    at : (n_frames,) float64
        Where each frame was taken: its number, or temperature, time ...
    label : str
        What `at` is, for plots.
    """

    selections: tuple[PhaseSelection, ...]
    phases: tuple[Presence, ...]
    at: Array
    label: str = "frame"

    def __getitem__(self, name: str) -> Presence:
        """The phase that has a structure of this name among its members."""
        for phase in self.phases:
            if name in phase.members:
                return phase
        raise KeyError(f"no frame shows {name!r}; there are {', '.join(phase.members[0] for phase in self.phases)}")

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the answer, in plain sentences; those of frames once, with the frames."""
        where: dict[str, list[int]] = {}
        for n, selection in enumerate(self.selections):
            for warning in selection.warnings:
                where.setdefault(warning, []).append(n)
        n_frames = len(self.selections)
        said = [
            f"{'all frames' if len(frames) == n_frames else _ranges(frames)}: {warning}"
            for warning, frames in where.items()
        ]
        return (*(f"{phase.name} comes and goes more than once" for phase in self.phases if _comes_again(phase)), *said)

    @property
    def trustworthy(self) -> bool:
        """Whether nothing stands against the answer."""
        return not self.warnings

    @property
    def verdict(self) -> str:
        """The answer in words."""
        if not self.phases:
            return "No phase of the library is in these patterns."
        return ". ".join(self._fate(phase) for phase in self.phases) + "."

    def _fate(self, phase: Presence) -> str:
        if phase.probability < SEEN:
            return f"{phase.name} is in no frame, or undecided (p = {phase.probability:.2f})"
        parts = []
        if phase.appears is not None:
            parts.append(f"appears at {self._place(phase.first)}, p = {phase.comes:.3f}")
        if phase.disappears is not None:
            parts.append(f"is gone from {self._place(phase.gone)} on, p = {phase.goes:.3f}")
        if not parts:
            stays = max(0.0, phase.probability - max(phase.comes, phase.goes))
            parts.append(f"is there throughout, p = {stays:.3f}")
        return f"{phase.name} {' and '.join(parts)}"

    def _place(self, chances: Array) -> str:
        low, high = np.minimum(np.searchsorted(np.cumsum(chances) / chances.sum(), INTERVAL), chances.size - 1)
        text = f"{self.label} {self.at[int(np.argmax(chances))]:g}"
        return text + (f" ({self.at[low]:g} to {self.at[high]:g})" if low != high else "")

    def __repr__(self) -> str:
        """The answer in words."""
        return f"<PhaseSeries: {self.verdict}>"

    def __str__(self) -> str:
        """The verdict, and what stands against it."""
        return "\n".join((self.verdict, *(f"Warning: {warning}" for warning in self.warnings)))

    def plot(self) -> Figure:
        """Patterns, weight shares and probabilities of the phases, frame by frame."""
        from bluesky_bayes.phases.plots import plot_phase_series

        return plot_phase_series(self)


def follow(
    patterns: Iterable[Pattern],
    library: Library,
    beliefs: Beliefs | None = None,
    *,
    at: npt.ArrayLike | None = None,
    label: str = "frame",
    threads: int | None = None,
) -> PhaseSeries:
    """Which phases a series of patterns shows, and at which frames they come and go.

    Parameters
    ----------
    patterns : iterable of Pattern
        In order; two or more.
    library : Library
    beliefs : Beliefs, optional
    at : (n_frames,) array_like, optional
        Where each frame was taken; by default its number.
    label : str
        What `at` is, with its unit.
    threads : int, optional
        As many as the machine has processors, by default.

    Returns
    -------
    PhaseSeries

    Raises
    ------
    ValueError
        For fewer than two patterns, or another number of them in `at`, and as `search`.
    """
    follower = Follower(library, beliefs, threads)
    for pattern in patterns:
        follower(pattern)
    return follower.series(at, label)


class Follower:
    """Searches patterns as they come, each from the fit of the one before: ``follower(pattern)``.

    Parameters are those of `follow`.
    """

    def __init__(self, library: Library, beliefs: Beliefs | None = None, threads: int | None = None) -> None:
        self._library, self._beliefs, self._threads = library, beliefs or Beliefs(), threads
        self._frames: list[_Frame] = []

    def __call__(self, pattern: Pattern) -> PhaseSelection:
        """The answer of the next frame; errors are those of `search`."""
        start = self._frames[-1].best if self._frames else None
        self._library = self._library.covering(pattern.radiation, pattern.d_min)
        selection, finding = searched(pattern, self._library, self._beliefs, self._threads, start)
        self._frames.append(_Frame.of(selection, finding))
        return selection

    def series(self, at: npt.ArrayLike | None = None, label: str = "frame") -> PhaseSeries:
        """What all frames up to now say together.

        Raises
        ------
        ValueError
            For fewer than two frames, or another number of them in `at`.
        """
        n = len(self._frames)
        places = np.arange(n, dtype=np.float64) if at is None else np.asarray(at, dtype=np.float64)
        if n < 2 or places.shape != (n,):
            raise ValueError(f"a series needs two patterns or more and as many places; got {n} and {places.size}")
        with one_blas_thread(), ThreadPoolExecutor(self._threads) as pool:
            found = [_presence(self._frames, group, pool) for group in _groups(self._frames)]
        phases = sorted((phase for phase in found if phase.probability > LISTED), key=lambda phase: phase.appears or 0)
        return PhaseSeries(tuple(frame.selection for frame in self._frames), tuple(phases), places, label)


@dataclass(eq=False)
class _Frame:
    """What is kept of a frame's search: its answer, its best fit without slopes, and the scores of all sets."""

    selection: PhaseSelection
    fitter: Fitter
    names: tuple[str, ...]
    best: Joint
    sets: list[tuple[frozenset[str], float]]
    terms: dict[str, Term] = field(default_factory=dict)

    @classmethod
    def of(cls, selection: PhaseSelection, finding: Search) -> _Frame:
        joints, fitter, names = finding.by_phases(), finding.fitter, finding.names
        best, none = joints[0], np.empty((0, 0))
        light = replace(best, rows=none, curves=none, factor=none)
        sets = [
            (frozenset(names[n] for n in finding.phases_of(joint.members)), finding.score(joint)) for joint in joints
        ]
        terms = {names[n]: term for n, term in zip(best.members, best.terms, strict=True) if n < fitter.n_phases}
        # A phase may be probable by several sets, though the best has it not.
        for phase in selection.phases:
            name = phase.structure.name
            if phase.probability >= SEEN and terms.keys().isdisjoint(phase.members):
                home = next(joint for joint in joints if names.index(name) in joint.members)
                terms[name] = home.terms[home.members.index(names.index(name))]
        fitter.lines = fitter.lines[: fitter.n_phases]
        return cls(selection, fitter, names, light, sets, terms)

    def log_bayes_factor(self, group: Sequence[str], near: tuple[str, Term], pool: ThreadPoolExecutor) -> float:
        """For a group's presence: of all sets that were compared, and of the best with it, or without it, converged."""
        finding = Search(self.fitter, self.names, pool)
        own = [n for n in self.best.members if n < self.fitter.n_phases and self.names[n] in group]
        best = finding.fitted(*self.fitter.taken(self.best), LONG)
        if own:
            other = best
            for member in own:
                other = finding.without(other, member, LONG)
        else:
            name, term = near
            other = finding.with_one_more(best, Look(0.0, self.names.index(name), term), LONG)
        self.fitter.lines = self.fitter.lines[: self.fitter.n_phases]
        scores: tuple[list[float], list[float]] = ([finding.score(other)], [finding.score(best)])
        present, absent = scores if not own else scores[::-1]
        for members, score in self.sets:
            (present if members & set(group) else absent).append(score)
        return float(logsumexp(present) - logsumexp(absent)) - self.fitter.log_odds


def _groups(frames: Sequence[_Frame]) -> list[tuple[str, ...]]:
    """Phases that some frame shows: structures that some frame cannot tell apart are one."""
    groups: list[dict[str, int]] = []
    for frame in frames:
        for phase in frame.selection.phases:
            if phase.probability < SEEN:
                continue
            mine = dict.fromkeys(phase.members, 0)
            mine[phase.members[0]] = 1
            for other in [group for group in groups if group.keys() & mine.keys()]:
                groups.remove(other)
                mine = {name: mine.get(name, 0) + other.get(name, 0) for name in {**other, **mine}}
            groups.append(mine)
    return [tuple(sorted(group, key=lambda name: (-group[name], name))) for group in groups]


def _presence(frames: Sequence[_Frame], group: tuple[str, ...], pool: ThreadPoolExecutor) -> Presence:
    terms = [next(((name, frame.terms[name]) for name in group if name in frame.terms), None) for frame in frames]
    there = np.array([n for n, term in enumerate(terms) if term is not None])
    log_bayes = np.empty(len(frames))
    weight = np.zeros((len(frames), 3))
    for n, frame in enumerate(frames):
        near = terms[int(there[np.argmin(np.abs(there - n))])]
        assert near is not None
        log_bayes[n] = frame.log_bayes_factor(group, near, pool)
        for phase in frame.selection.phases:
            if set(phase.members) & set(group):
                weight[n] = phase.weight
    structure = next(
        phase.structure for frame in frames for phase in frame.selection.phases if group[0] in phase.members
    )
    posterior = presence_of(log_bayes, frames[0].fitter.log_odds)
    return Presence(f"{structure.formula} ({' or '.join(group)})", group, log_bayes, *posterior, weight)


def presence_of(log_bayes_factor: Array, log_odds: float) -> tuple[float, Array, Array, Array, float, float]:
    """Posterior of the frames from which and to which a phase is present, from each frame's log Bayes factor.

    Returns
    -------
    probability, frames, first, gone, comes, goes
        As in `Presence`.
    """
    n, factor = log_bayes_factor.size, _bounded(log_bayes_factor)
    upto = np.concatenate([[0.0], np.cumsum(factor)])
    begin, end = np.meshgrid(np.arange(n), np.arange(1, n + 1), indexing="ij")
    kinds = 2 * (begin > 0) + (end < n)
    valid = end > begin
    prior = np.full((n, n), -np.inf)
    for kind in range(4):
        inside = valid & (kinds == kind)
        if inside.any():
            prior[inside] = -math.log(4.0 * inside.sum())
    share = -math.log1p(math.exp(-log_odds))
    score = np.where(valid, prior + share + upto[end] - upto[begin], -np.inf)
    total = np.logaddexp(logsumexp(score), -math.log1p(math.exp(log_odds)))
    p = np.exp(score - total)
    starts, ends = p.sum(1), p.sum(0)
    frames = np.cumsum(starts) - np.concatenate([[0.0], np.cumsum(ends)[:-1]])
    first, gone = starts.copy(), np.concatenate([[0.0], ends[:-1]])
    first[0] = 0.0
    comes, goes = float(first.sum()), float(gone.sum())
    return (
        float(p.sum()),
        np.clip(frames, 0.0, 1.0),
        first / max(comes, 1e-300),
        gone / max(goes, 1e-300),
        comes,
        goes,
    )


def _bounded(log_bayes_factor: Array) -> Array:
    """Log Bayes factors of frames that may mislead."""
    m = math.log(MISLED)
    return np.asarray(np.logaddexp(log_bayes_factor, m) - np.logaddexp(0.0, log_bayes_factor + m))


def _comes_again(phase: Presence) -> bool:
    factor = _bounded(phase.log_bayes_factor)
    upto = np.concatenate([[0.0], np.cumsum(factor)])
    once = float(np.max(upto - np.minimum.accumulate(upto)))
    return float(np.maximum(factor, 0.0).sum()) - once > AGAIN


def _ranges(frames: Sequence[int]) -> str:
    """Numbers in words: "frames 3 to 5, 9"."""
    parts: list[list[int]] = []
    for n in frames:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    texts = [f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
    return f"frame{'s' * (len(frames) > 1)} {', '.join(texts)}"
