"""The models in question, with their prior probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bluesky_bayes.components import Component
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.model import MIDDLE, Model, Slot, Term
from bluesky_bayes.noise import Noise
from bluesky_bayes.priors import Prior, check_prior
from bluesky_bayes.shapes import constant, power


@dataclass(frozen=True, eq=False)
class Candidates:
    """Models to choose from.

    Parameters
    ----------
    models : sequence of Model
        At least one, with names of their own.
    probabilities : sequence of float, optional
        Prior probabilities, scaled to add up to one; equal by default.
    recipe : mapping, optional
        The family and its arguments, so that an `Analysis` can be saved.
    """

    models: tuple[Model, ...]
    probabilities: tuple[float, ...] = ()
    recipe: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check names and probabilities."""
        models = tuple(self.models)
        names = [model.name for model in models]
        if not models or len(set(names)) != len(names):
            raise ValueError(f"candidates must be one or more models with names of their own; got {names}")
        weights = np.asarray(self.probabilities or [1.0] * len(models), dtype=np.float64)
        if weights.size != len(models) or not np.all(np.isfinite(weights) & (weights > 0)):
            raise ValueError(
                f"prior probabilities must be {len(models)} positive numbers; got {list(self.probabilities)}"
            )
        object.__setattr__(self, "models", models)
        object.__setattr__(self, "probabilities", tuple(float(w) for w in weights / weights.sum()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(model.name for model in self.models)

    def resolved(self, data: Dataset, noise: Noise) -> Candidates:
        """The candidates with default priors filled in from the data."""
        return Candidates(tuple(m.resolved(data, noise) for m in self.models), self.probabilities, self.recipe)

    @property
    def digest(self) -> str:
        """SHA-256 of all models and their probabilities."""
        text = "".join(model.digest for model in self.models) + repr(self.probabilities)
        return hashlib.sha256(text.encode()).hexdigest()


def family(
    component: Component,
    counts: Iterable[int],
    *,
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    noun: str | None = None,
    probabilities: Sequence[float] = (),
    recipe: Mapping[str, Any] | None = None,
) -> Candidates:
    """Candidates that differ in the number of one component.

    Parameters
    ----------
    component : Component
        Built in or your own.
    counts : iterable of int
        How many of it: one model each, from zero up.
    background : {"constant", "linear", "quadratic", "cubic"}, int or None
        A constant, a polynomial (by name or degree) in x less the middle of the data's x, or nothing.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By parameter name (``"sigma"``) or ``"component.parameter"`` (``"gaussian.sigma"``). Those left out come from
        the data's range.
    noun : str, optional
        What one of them is called; the component's name by default.
    probabilities : sequence of float, optional
        Prior probabilities of the counts.
    recipe : mapping, optional
        How to make these candidates again.

    Raises
    ------
    ValueError
        For counts below zero or twice the same, an unknown background, or a prior that nothing uses.
    """
    counts = _check_counts(counts)
    noun = noun or component.name
    given = {name: check_prior(name, prior) for name, prior in (priors or {}).items()}
    background_terms = _background(background)
    accepted = {p.name for p in component.parameters} | {f"{component.name}.{p.name}" for p in component.parameters}
    accepted |= {slot.parameter for term in background_terms for slot in term.slots if slot.parameter}
    unknown = sorted(set(given) - accepted)
    if unknown:
        raise ValueError(
            f"priors name {unknown[0]!r}, which no model here has; they may name {', '.join(sorted(accepted))}"
        )
    models = []
    for k in counts:
        terms = [_numbered(component, noun, i + 1) for i in range(k)] + background_terms
        table = {
            slot.parameter: _prior_of(given, term.component, slot.parameter, parameter.name)
            for term in terms
            for slot, parameter in zip(term.slots, term.component.parameters, strict=True)
            if slot.parameter is not None
        }
        group = (tuple(range(k)),) if k > 1 else ()
        models.append(Model(plural(k, noun), tuple(terms), table, group, {noun: k}))
    return Candidates(tuple(models), tuple(probabilities), recipe)


def plural(k: int, noun: str) -> str:
    """A count and its noun: ``no peak``, ``1 peak``, ``2 peaks``."""
    return f"no {noun}" if k == 0 else f"{k} {noun}" if k == 1 else f"{k} {noun}s"


def _check_counts(counts: Iterable[int]) -> list[int]:
    listed = [int(k) for k in counts]
    if not listed or min(listed) < 0 or len(set(listed)) != len(listed):
        raise ValueError(f"counts must be different whole numbers from 0 up; got {listed}")
    return listed


def _numbered(component: Component, noun: str, i: int) -> Term:
    label = f"{noun}{i}"
    return Term(label, component, tuple(Slot(f"{label}.{p.name}") for p in component.parameters))


def _prior_of(given: Mapping[str, Prior], component: Component, full: str, name: str) -> Prior | None:
    return given.get(f"{component.name}.{name}", given.get(full, given.get(name)))


DEGREES = {"linear": 1, "quadratic": 2, "cubic": 3}
MOST_DEGREE = 9


def _background(background: str | int | None) -> list[Term]:
    if background is None:
        return []
    if background == "constant":
        return [Term("background", constant, (Slot("constant"),))]
    degree = DEGREES.get(background, -1) if isinstance(background, str) else int(background)
    if not 0 <= degree <= MOST_DEGREE:
        raise ValueError(
            f"background must be None, 'constant', {', '.join(map(repr, DEGREES))} or a degree up to {MOST_DEGREE}; "
            f"got {background!r}"
        )
    return [Term(f"c{n}", power(n), (Slot(f"c{n}"), MIDDLE, Slot(None, offset=float(n)))) for n in range(degree + 1)]
