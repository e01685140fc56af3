"""The models in question, with their prior probabilities."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bluesky_bayes.components import Component
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.model import MIDDLE, Model, Slot, Term
from bluesky_bayes.noise import SIGMA, Noise
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

    def __repr__(self) -> str:
        """Names of the models."""
        return f"<Candidates: {', '.join(self.names)}>"

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


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of component, and how many of it are in question.

    Attributes
    ----------
    component : Component
        Built in or your own.
    counts : iterable of int, optional
        Numbers in question, from 0 up. Left out, there is one in every model: it then has no number and no place in
        the models' names.
    noun : str
        What one of them is called; the component's name by default.
    shared : sequence of str
        Parameters that all of this kind in a model have in common. One is called ``noun.parameter``.
    fixed : mapping of str to float or Slot
        Parameters that are numbers, or `MIDDLE`.
    sign : {1, -1}
        -1 where the component is taken away, as an absorber is from a baseline; its amplitude is positive still.

    Raises
    ------
    ValueError
        For counts below zero or twice the same, or a parameter that the component has not.
    """

    component: Component
    counts: Iterable[int] | None = None
    noun: str = ""
    shared: Sequence[str] = ()
    fixed: Mapping[str, float | Slot] = field(default_factory=dict)
    sign: int = 1

    def __post_init__(self) -> None:
        """Check counts and names."""
        if self.counts is not None:
            object.__setattr__(self, "counts", listed_counts(self.counts))
        object.__setattr__(self, "noun", self.noun or self.component.name)
        names = [p.name for p in self.component.parameters]
        for name in (*self.shared, *self.fixed):
            if name not in names:
                raise ValueError(f"a {self.noun} has no parameter {name!r} to share or fix; it has {', '.join(names)}")
        for name, number in self.fixed.items():
            if not isinstance(number, Slot | int | float | np.number):
                raise ValueError(f"parameter {name!r} of a {self.noun} must be fixed at a number; got {number!r}")
        if self.sign not in (1, -1):
            raise ValueError(f"sign of a {self.noun} must be 1 or -1; got {self.sign!r}")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers in question."""
        return (1,) if self.counts is None else tuple(self.counts)

    def terms(self, k: int, ties: Mapping[str, Slot]) -> list[Term]:
        """`k` of it; `ties` by parameter."""
        labels = [self.noun] if self.counts is None else [f"{self.noun}{i + 1}" for i in range(k)]
        return [Term(label, self.component, self._slots(label, ties)) for label in labels]

    def _slots(self, label: str, ties: Mapping[str, Slot]) -> tuple[Slot, ...]:
        slots = []
        for parameter in self.component.parameters:
            name = f"{self.noun if parameter.name in self.shared else label}.{parameter.name}"
            if parameter.name in self.fixed:
                number = self.fixed[parameter.name]
                slot = number if isinstance(number, Slot) else Slot(None, offset=float(number))
            else:
                slot = ties.get(f"{label}.{parameter.name}", Slot(name))
            if parameter is self.component.amplitude:
                slot = replace(slot, scale=self.sign * slot.scale, offset=self.sign * slot.offset + 0.0)
            slots.append(slot)
        return tuple(slots)

    def prior(self, given: Mapping[str, Prior], full: str) -> Prior | None:
        """Prior given for parameter `full` of this kind by the most special of its names."""
        name = full.rsplit(".", 1)[-1]
        named = (full, f"{self.noun}.{name}", f"{self.component.name}.{name}", name)
        return next((given[n] for n in named if n in given), None)


def family(
    component: Component,
    counts: Iterable[int],
    *,
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    noun: str | None = None,
    shared: Sequence[str] = (),
    fixed: Mapping[str, float | Slot] | None = None,
    ties: Mapping[str, Slot] | None = None,
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
        By parameter name (``"sigma"``), ``"component.parameter"`` (``"gaussian.sigma"``) or, for one of several,
        ``"peak1.sigma"``. Those left out come from the data's range.
    noun : str, optional
        What one of them is called; the component's name by default.
    shared : sequence of str, optional
        Parameters that all components of a model have in common.
    fixed : mapping of str to float or Slot, optional
        Parameters that are numbers, or `MIDDLE`.
    ties : mapping of str to Slot, optional
        See `combinations`.
    probabilities : sequence of float, optional
        Prior probabilities of the counts.
    recipe : mapping, optional
        How to make these candidates again.

    Raises
    ------
    ValueError
        For counts below zero or twice the same, an unknown background, or a prior or tie that nothing uses.
    """
    kind = Kind(component, counts, noun or "", shared, fixed or {})
    names = [plural(k, kind.noun) for k in kind.numbers]
    found = combinations(
        [kind], background=background, priors=priors, ties=ties, probabilities=probabilities, recipe=recipe
    )
    return replace(found, models=tuple(replace(m, name=n) for m, n in zip(found.models, names, strict=True)))


def combinations(
    kinds: Sequence[Kind],
    *,
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    ties: Mapping[str, Slot] | None = None,
    probabilities: Sequence[float] = (),
    recipe: Mapping[str, Any] | None = None,
) -> Candidates:
    """Candidates that differ in the numbers of several kinds of component: all combinations of their counts.

    Parameters
    ----------
    kinds : sequence of Kind
        A kind of which every model has exactly one is part of all models and of no name.
    background : {"constant", "linear", "quadratic", "cubic"}, int or None
        As in `family`.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By ``"parameter"``, ``"component.parameter"``, ``"noun.parameter"`` or ``"noun1.parameter"``; of several that
        fit, the last in this list counts.
    ties : mapping of str to Slot, optional
        ``{"line2.center": Slot("line1.center", offset=0.25)}`` puts the second line at a fixed distance from the first,
        ``Slot("line1.amplitude", scale=0.5)`` makes it half as high. A tie holds in the models that have both.
    probabilities : sequence of float, optional
        Prior probabilities, in the order of the models: the last kind's count changes fastest.
    recipe : mapping, optional
        How to make these candidates again.

    Raises
    ------
    ValueError
        For an unknown background, kinds called the same, or a prior or tie that nothing uses.

    Examples
    --------
    >>> from bluesky_bayes.shapes import gaussian, lorentzian
    >>> combinations([Kind(gaussian, [0, 1]), Kind(lorentzian, [1, 2])]).names
    ('1 lorentzian', '2 lorentzians', '1 gaussian + 1 lorentzian', '1 gaussian + 2 lorentzians')
    """
    nouns = [kind.noun for kind in kinds]
    if not kinds or len(set(nouns)) < len(nouns):
        raise ValueError(f"kinds must be one or more with nouns of their own; got {nouns}")
    given = {name: check_prior(name, prior) for name, prior in (priors or {}).items()}
    ties, background_terms = dict(ties or {}), _background(background)
    _check_ties(kinds, ties)
    models = [
        _combined(kinds, counts, background_terms, given, ties)
        for counts in itertools.product(*(kind.numbers for kind in kinds))
    ]
    _check_priors(kinds, models, given)
    return Candidates(tuple(models), tuple(probabilities), recipe)


def _combined(
    kinds: Sequence[Kind],
    counts: Sequence[int],
    background: Sequence[Term],
    given: Mapping[str, Prior],
    ties: Mapping[str, Slot],
) -> Model:
    """The model with these numbers of each kind."""
    untied = [(kind, term) for kind, k in zip(kinds, counts, strict=True) for term in kind.terms(k, {})]
    own = {f"{term.label}.{p.name}" for _, term in untied for p in term.component.parameters}
    owners = {slot.parameter: kind for kind, term in untied for slot in term.slots if slot.parameter is not None}
    holding = {name: slot for name, slot in ties.items() if name in own and slot.parameter in own | {None}}
    tied = {label.split(".")[0] for name, slot in holding.items() for label in (name, slot.parameter or name)}
    terms: list[Term] = []
    table: dict[str, Prior | None] = {}
    groups: list[tuple[int, ...]] = []
    for kind, k in zip(kinds, counts, strict=True):
        new = kind.terms(k, holding)
        alike = tuple(len(terms) + i for i, term in enumerate(new) if term.label not in tied)
        groups += [alike] if len(alike) > 1 else []
        terms += new
        for slot in (slot for term in new for slot in term.slots):
            if slot.parameter is not None and slot.parameter not in holding:
                table.setdefault(slot.parameter, owners.get(slot.parameter, kind).prior(given, slot.parameter))
    for slot in (slot for term in background for slot in term.slots):
        if slot.parameter is not None:
            table[slot.parameter] = given.get(slot.parameter)
    terms += background
    numbers = {kind.noun: k for kind, k in zip(kinds, counts, strict=True)}
    return Model(_name(kinds, counts), tuple(terms), table, tuple(groups), numbers)


def _name(kinds: Sequence[Kind], counts: Sequence[int]) -> str:
    """Such as ``1 sextet + 2 doublets``."""
    counted = [(kind, k) for kind, k in zip(kinds, counts, strict=True) if kind.counts is not None]
    present = [plural(k, kind.noun) for kind, k in counted if k > 0]
    if present:
        return " + ".join(present)
    return plural(0, counted[0][0].noun) if len(counted) == 1 else "none" if counted else kinds[0].noun


def _check_ties(kinds: Sequence[Kind], ties: Mapping[str, Slot]) -> None:
    """Refuse ties of what no model has, and chains of them."""
    full = {
        f"{term.label}.{p.name}"
        for kind in kinds
        for term in kind.terms(max((1, *kind.numbers)), {})
        for p in kind.component.parameters
    }
    for name, slot in ties.items():
        for end in (name, slot.parameter):
            if end is not None and end not in full:
                raise ValueError(f"tie of {name!r} names {end!r}, which no model here has; there are {_listed(full)}")
        if slot.parameter in ties:
            raise ValueError(f"{name!r} is tied to {slot.parameter!r}, which is tied itself: name what that is tied to")


def _check_priors(kinds: Sequence[Kind], models: Sequence[Model], given: Mapping[str, Prior]) -> None:
    """Refuse priors of what no model has."""
    accepted = {parameter for model in models for parameter in model.parameters}
    for kind in kinds:
        for p in kind.component.parameters:
            accepted |= {p.name, f"{kind.component.name}.{p.name}", f"{kind.noun}.{p.name}"}
    unknown = sorted(set(given) - accepted)
    if unknown:
        noise = "; that of an unknown noise is given as Gaussian(prior=...)" if unknown[0] == SIGMA else ""
        raise ValueError(
            f"priors name {unknown[0]!r}, which no model here has; they may name {_listed(accepted)}{noise}"
        )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def plural(k: int, noun: str) -> str:
    """A count and its noun: ``no peak``, ``1 peak``, ``2 peaks``."""
    return f"no {noun}" if k == 0 else f"{k} {noun}" if k == 1 else f"{k} {noun}s"


def listed_counts(counts: Any) -> list[int]:
    """Counts as a list.

    Raises
    ------
    ValueError
        When they are not different whole numbers from 0 up, one or more.
    """
    listed = list(counts) if isinstance(counts, Iterable) and not isinstance(counts, str) else []
    whole = all(isinstance(k, int | np.integer) and k >= 0 for k in listed)
    if not listed or not whole or len(set(listed)) != len(listed):
        raise ValueError(
            "counts must be different whole numbers from 0 up, such as range(0, 4), or [3] for three alone; got "
            f"{counts!r}"
        )
    return [int(k) for k in listed]


DEGREES = {"linear": 1, "quadratic": 2, "cubic": 3}
MOST_DEGREE = 9


def _background(background: str | int | None) -> list[Term]:
    if background is None:
        return []
    if background == "constant":
        return [Term("background", constant, (Slot("constant"),))]
    degree: Any = DEGREES.get(background, -1) if isinstance(background, str) else background
    if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or not 0 <= degree <= MOST_DEGREE:
        raise ValueError(
            f"background must be None, 'constant', {', '.join(map(repr, DEGREES))} or a degree up to {MOST_DEGREE}; "
            f"got {background!r}"
        )
    return [Term(f"c{n}", power(n), (Slot(f"c{n}"), MIDDLE, Slot(None, offset=float(n)))) for n in range(degree + 1)]
