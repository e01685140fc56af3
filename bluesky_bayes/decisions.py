"""What to do next, told from answers: pure functions, so that a plan's decisions can be tested without a beam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bluesky_bayes.dataset import Array, Dataset, Origin
from bluesky_bayes.evidence import softmax
from bluesky_bayes.noise import Noise
from bluesky_bayes.selection import CLEAR, Selection

NEGLIGIBLE = 0.01
"""Probability below which what its answer warns of does not count."""


@dataclass(frozen=True)
class Decision:
    """Which model holds, after one or more measurements of the same thing.

    Attributes
    ----------
    model : str
        The most probable one.
    probability : float
        Its probability.
    decided : bool
        Whether it may be acted upon.
    reason : str
        Why, or why not, in a sentence.
    lead : float
        Log posterior odds over the next model, nats; infinite for a single candidate.
    """

    model: str
    probability: float
    decided: bool
    reason: str
    lead: float = math.inf


@dataclass(frozen=True, eq=False)
class Repeats:
    """A scan that was repeated until one model stood out, or it was enough.

    Attributes
    ----------
    decision : Decision
    together : Selection
        The answer for the points of all scans in one data set.
    singles : tuple of Selection
        The answer for each scan by itself.
    uids : tuple of str
        Of the raw runs.
    """

    decision: Decision
    together: Selection
    singles: tuple[Selection, ...]
    uids: tuple[str, ...]

    @property
    def reason(self) -> str:
        """That of the decision."""
        return self.decision.reason


def decide(selections: Sequence[Any], probability: float = 0.95, together: Selection | None = None) -> Decision:
    """Put the answers for repeated measurements together.

    Either nothing but noise differs between them: then the evidence is that of all points together. Or each has
    parameters of its own, and only the model is the same in all: then their log evidences add up. Which it is, the data
    say as well: both are taken to be equally probable beforehand, and each model's evidence is the mean of the two.
    Without `together` each has parameters of its own.

    Parameters
    ----------
    selections : sequence of Selection
        At least one, of the same candidates. Of answers that judge themselves, such as phases, the last counts.
    probability : float
        What the model's probability must exceed.
    together : Selection, optional
        The answer for the points of all of them in one data set, see `joined`.

    Returns
    -------
    Decision
        Decided where one model has more than `probability`, is ahead of each other one by more than three standard
        errors, and no check speaks against any of the answers that count.

    Raises
    ------
    ValueError
        When there is no answer, or the candidates differ.
    """
    if not selections:
        raise ValueError("there is no answer to decide from")
    first = selections[0]
    if not isinstance(first, Selection):
        return _judged(selections[-1], probability)
    if any(selection.names != first.names for selection in (*selections, together or first)):
        raise ValueError("these answers are about different candidates and cannot be put together")
    log_z = np.sum([selection.log_evidence for selection in selections], axis=0)
    variance = np.sum([selection.log_evidence_error**2 for selection in selections], axis=0)
    same = np.zeros(log_z.size)
    if len(selections) == 1:
        together = None
    if together is not None:
        both = np.logaddexp(together.log_evidence, log_z) - math.log(2.0)
        same = np.exp(together.log_evidence - both - math.log(2.0))
        log_z = both
        variance = (same * together.log_evidence_error) ** 2 + (1.0 - same) ** 2 * variance
    score, error = np.log(first.prior_probabilities) + log_z, np.sqrt(variance)
    p = softmax(score)
    best = int(np.argmax(p))
    others = np.arange(p.size) != best
    gaps = score[best] - score[others]
    model, chance, lead = first.names[best], float(p[best]), float(gaps.min(initial=math.inf))
    what = f"{model} (p = {chance:.3f} after {len(selections)} {'scan' if len(selections) == 1 else 'scans'})"
    if together is not None and same[best] < NEGLIGIBLE:
        what += ", which differ by more than noise: each is taken by itself"
    counted = [
        *([together] if together is not None and same[best] >= NEGLIGIBLE else []),
        *(selections if same[best] <= 1.0 - NEGLIGIBLE else []),
    ]
    if warnings := [warning for selection in counted for warning in selection.warnings]:
        return Decision(model, chance, False, f"{what} is not to be trusted: {warnings[0]}", lead)
    if chance <= probability:
        return Decision(model, chance, False, f"{what} is not probable enough: {probability:g} is asked for", lead)
    if not np.all(gaps > CLEAR * np.hypot(error[best], error[others])):
        return Decision(model, chance, False, f"{what} is ahead by no more than its evidence is uncertain", lead)
    return Decision(model, chance, True, what, lead)


def _judged(answer: Any, probability: float) -> Decision:
    """An answer that is no choice among models, such as phases: it says itself whether it is decided."""
    what, chance = f"{answer.model} (p = {answer.probability:.3f})", answer.probability
    if answer.warnings:
        return Decision(answer.model, chance, False, f"{what} is not to be trusted: {answer.warnings[0]}")
    if not answer.decisive(probability):
        reason = f"{what} is not decided: {answer.verdict}"
        return Decision(answer.model, chance, False, reason, answer.log_bayes_factor)
    return Decision(answer.model, chance, True, what, answer.log_bayes_factor)


def joined(data: Sequence[Dataset]) -> Dataset:
    """Points of repeated measurements in one data set.

    Counts at one position stay points of their own, so that the evidence can be compared with those of the parts.
    """
    first = data[0]

    def column(name: str) -> Array | None:
        return None if getattr(first, name) is None else np.concatenate([getattr(each, name) for each in data])

    return Dataset(
        np.concatenate([each.x for each in data]),
        np.concatenate([each.y for each in data]),
        sigma=column("sigma"),
        counts=first.counts,
        exposure=column("exposure"),
        units=first.units,
        origin=Origin(stream=first.origin.stream, x=first.origin.x, y=first.origin.y),
    )


def check_joinable(noise: Noise | None) -> None:
    """Raise ValueError where the noise holds a number for each point of one scan, which says nothing of several."""
    for name in ("sigma", "exposure", "scale"):
        values: Any = getattr(noise, name, None)
        if np.ndim(values):
            raise ValueError(
                f"the noise of this analysis gives {name} for each point of one scan, so that scans cannot be put "
                f"together: name a field that holds it (Analysis(..., {'exposure' if name == 'scale' else name}=...)), "
                "or give one number"
            )


def seconds_left(decision: Decision, probability: float, seconds: float) -> float:
    """How much longer to measure until a model is probable enough, if its lead grows on as it did.

    The log Bayes factor grows in proportion to the measuring time where counts are added up. Nothing where it is
    decided, not a number where no model leads or there is one alone.

    Parameters
    ----------
    decision : Decision
        So far.
    probability : float
        What is asked for, below one.
    seconds : float
        How long was measured.
    """
    if decision.decided:
        return 0.0
    if not 0 < decision.lead < math.inf:
        return math.nan
    return max(0.0, seconds * (math.log(probability / (1.0 - probability)) / decision.lead - 1.0))


@dataclass(frozen=True)
class Visit:
    """One position of a bisection.

    Attributes
    ----------
    position : float
    decision : Decision
    uids : tuple of str
        Of the raw runs.
    """

    position: float
    decision: Decision
    uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelChange:
    """Between which positions the model changes.

    Attributes
    ----------
    low, high : float
        The bracket.
    below, above : str
        The models that hold at its ends.
    found : bool
        Whether the model changes, and the bracket is as narrow as was asked for, or no number lies between its ends.
        Where positions between its ends stayed undecided the bracket is around them, as narrow as can be, and this is
        False.
    reason : str
        In a sentence.
    visits : tuple of Visit
        All positions, in order of time.
    """

    low: float
    high: float
    below: str
    above: str
    found: bool
    reason: str
    visits: tuple[Visit, ...]


def next_position(visits: Sequence[Visit], tolerance: float) -> float | ModelChange:
    """Where to measure next, or the change of model where nothing is left to measure.

    The first two visits are the ends. A model other than the low end's counts as changed, so that of several changes
    the lowest is found. Where a position between the ends stays undecided the bracket is narrowed from both sides of
    it.

    Parameters
    ----------
    visits : sequence of Visit
        The low end, the high end, and what was measured between.
    tolerance : float
        Width of the bracket that is narrow enough; narrower than numbers can tell it never is.
    """
    low, high = visits[0], visits[1]
    for visit in (visit for visit in visits[2:] if visit.decision.decided):
        if visit.decision.model != low.decision.model:
            high = min(high, visit, key=lambda one: abs(one.position - visits[0].position))
    for visit in (visit for visit in visits[2:] if visit.decision.decided):
        if visit.decision.model == low.decision.model and _between(visit, low, high):
            low = visit

    def ended(found: bool, reason: str) -> ModelChange:
        ends = (low.position, high.position, low.decision.model, high.decision.model)
        return ModelChange(*ends, found, reason, tuple(visits))

    for visit in visits[:2]:
        if not visit.decision.decided:
            return ended(False, f"undecided at {visit.position:g}: {visit.decision.reason}")
    if low.decision.model == high.decision.model:
        return ended(False, f"{low.decision.model} holds at {low.position:g} and at {high.position:g}: nothing changes")
    unsure = [visit for visit in visits if not visit.decision.decided and _between(visit, low, high)]
    unsure.sort(key=lambda visit: abs(visit.position - low.position))
    stops = [low, *unsure, high]
    for before, after in ((stops[0], stops[1]), (stops[-2], stops[-1])):
        middle = 0.5 * (before.position + after.position)
        if abs(after.position - before.position) > tolerance and middle not in (before.position, after.position):
            return middle
    models = f"{low.decision.model} at {low.position:g}, {high.decision.model} at {high.position:g}"
    reason = f"the model changes between {low.position:g} and {high.position:g}: {models}"
    if unsure:
        first = unsure[0]
        return ended(False, f"{reason}; undecided at {first.position:g}: {first.decision.reason}")
    return ended(True, reason)


def _between(visit: Visit, low: Visit, high: Visit) -> bool:
    """Whether it lies between two others."""
    return min(low.position, high.position) < visit.position < max(low.position, high.position)
