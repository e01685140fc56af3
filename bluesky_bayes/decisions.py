"""What to do next, told from answers: pure functions, so that a plan's decisions can be tested without a beam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bluesky_bayes.evidence import softmax
from bluesky_bayes.selection import CLEAR, Selection


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
    """

    model: str
    probability: float
    decided: bool
    reason: str


def decide(selections: Sequence[Selection], probability: float = 0.95) -> Decision:
    """Put the answers for repeated measurements together.

    Their log evidences add up: each measurement may have parameters of its own, and only the model is the same in all.

    Parameters
    ----------
    selections : sequence of Selection
        At least one, of the same candidates.
    probability : float
        What the model's probability must exceed.

    Returns
    -------
    Decision
        Decided where one model has more than `probability`, is ahead of each other one by more than three standard
        errors, and no check speaks against any of the answers.

    Raises
    ------
    ValueError
        When there is no answer, or the candidates differ.
    """
    if not selections:
        raise ValueError("there is no answer to decide from")
    first = selections[0]
    if any(selection.names != first.names for selection in selections):
        raise ValueError("these answers are about different candidates and cannot be put together")
    score = np.log(first.prior_probabilities) + sum(selection.log_evidence for selection in selections)
    error = np.sqrt(sum(selection.log_evidence_error**2 for selection in selections))
    p = softmax(score)
    best = int(np.argmax(p))
    others = np.arange(p.size) != best
    clear = np.all(score[best] - score[others] > CLEAR * np.hypot(error[best], error[others]))
    model, chance = first.names[best], float(p[best])
    what = f"{model} (p = {chance:.3f} after {len(selections)} {'scan' if len(selections) == 1 else 'scans'})"
    if warnings := [warning for selection in selections for warning in selection.warnings]:
        return Decision(model, chance, False, f"{what} is not to be trusted: {warnings[0]}")
    if chance <= probability:
        return Decision(model, chance, False, f"{what} is not probable enough: {probability:g} is asked for")
    if not clear:
        return Decision(model, chance, False, f"{what} is ahead by no more than its evidence is uncertain")
    return Decision(model, chance, True, what)


def seconds_left(selection: Selection, probability: float, seconds: float) -> float:
    """How much longer to measure until a model is probable enough, if its lead grows on as it did.

    The log Bayes factor grows in proportion to the measuring time where counts are added up. Not a number where no
    model leads.

    Parameters
    ----------
    selection : Selection
        The answer so far.
    probability : float
        What is asked for, below one.
    seconds : float
        How long was measured.
    """
    lead = selection.log_bayes_factor
    if not lead > 0:
        return math.nan
    return max(0.0, seconds * (math.log(probability / (1.0 - probability)) / lead - 1.0))


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
        Whether the model changes, and the bracket is as narrow as was asked for. Where a position between the ends
        stayed undecided the bracket is that of the decided ones.
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
    the lowest is found.

    Parameters
    ----------
    visits : sequence of Visit
        The low end, the high end, and what was measured between.
    tolerance : float
        Width of the bracket that is narrow enough.
    """
    low, high = visits[0], visits[1]
    for visit in (visit for visit in visits[2:] if visit.decision.decided):
        if visit.decision.model == low.decision.model:
            low = visit
        else:
            high = visit

    def ended(found: bool, reason: str) -> ModelChange:
        ends = (low.position, high.position, low.decision.model, high.decision.model)
        return ModelChange(*ends, found, reason, tuple(visits))

    for visit in visits:
        if not visit.decision.decided:
            return ended(False, f"undecided at {visit.position:g}: {visit.decision.reason}")
    if low.decision.model == high.decision.model:
        return ended(False, f"{low.decision.model} holds at {low.position:g} and at {high.position:g}: nothing changes")
    if abs(high.position - low.position) <= tolerance:
        models = f"{low.decision.model} at {low.position:g}, {high.decision.model} at {high.position:g}"
        return ended(True, f"the model changes between {low.position:g} and {high.position:g}: {models}")
    return 0.5 * (low.position + high.position)
