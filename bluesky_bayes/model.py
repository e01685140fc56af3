"""A model: components added up, with one table of parameters that their slots refer to."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bluesky_bayes.components import Component, Parameter
from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.noise import SIGMA, Noise, Poisson
from bluesky_bayes.priors import PackedPriors, Prior, check_bounds, check_prior, describe, frozen, to_table


@dataclass(frozen=True)
class Slot:
    """What a component's parameter is: ``scale * parameter + offset``, or the number `offset` alone.

    Attributes
    ----------
    parameter : str or None
        Name in the model's table. Slots that name the same parameter are tied.
    scale, offset : float
        A fixed ratio and a fixed distance to it.
    """

    parameter: str | None
    scale: float = 1.0
    offset: float = 0.0

    def of(self, parameters: Mapping[str, Any]) -> Any:
        """What it is where the parameters are these numbers or arrays."""
        return self.offset if self.parameter is None else self.scale * parameters[self.parameter] + self.offset


FLAT = 1e-6
"""Scatter of a curve, over the largest of it, below which it counts as flat."""
MIDDLE = Slot(None, scale=0.0)
"""A slot that stands for the middle of the data's x, filled in when the data are known."""


@dataclass(frozen=True)
class Term:
    """One component of a model.

    Attributes
    ----------
    label : str
        ``peak1``, ``background`` ...
    component : Component
    slots : tuple of Slot
        One for each of the component's parameters, the amplitude first.
    block : int
        The data set it belongs to, where a model explains several.
    """

    label: str
    component: Component
    slots: tuple[Slot, ...]
    block: int = 0

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The component's parameters where the model's are these numbers or arrays."""
        return [slot.of(parameters) for slot in self.slots]

    def curves(self, x: Array, draws: Mapping[str, Array]) -> Array:
        """The component's curve for each draw (n_draws, 1), (n_draws, n_x)."""
        curves: Array = np.atleast_2d(self.component(x, *self.values(draws)))
        return curves


@dataclass(frozen=True, eq=False)
class Model:
    """Terms and the priors of their parameters.

    Attributes
    ----------
    name : str
        As it appears in results: ``2 peaks``.
    terms : tuple of Term
    priors : mapping of str to frozen scipy.stats distribution or None
        One for each parameter that a slot names; None asks for a default from the data's range.
    exchangeable : tuple of tuple of int
        Groups of terms that the priors cannot tell apart: their samples are put in order before they are summarised.
    counts : mapping of str to int
        Number of components of each kind, for tables and searches.
    """

    name: str
    terms: tuple[Term, ...]
    priors: Mapping[str, Prior | None]
    exchangeable: tuple[tuple[int, ...], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that slots and priors fit together."""
        for term in self.terms:
            if len(term.slots) != len(term.component.parameters):
                raise ValueError(
                    f"term {term.label!r} of model {self.name!r} needs {len(term.component.parameters)} slots"
                )
        named = {slot.parameter for term in self.terms for slot in term.slots if slot.parameter is not None}
        missing = sorted(named - set(self.priors))
        unused = sorted(set(self.priors) - named - {SIGMA})
        if missing or unused:
            raise ValueError(f"model {self.name!r}: no prior for {missing}, priors that nothing uses {unused}")
        for name, prior in self.priors.items():
            if prior is not None:
                check_prior(name, prior)

    def __repr__(self) -> str:
        """Name and parameters."""
        return f"<Model {self.name!r}: {', '.join(self.parameters) or 'no parameters'}>"

    def check_widths(self) -> None:
        """Raise ValueError where a width is, or may well be, negative."""
        for term in self.terms:
            for slot, parameter in zip(term.slots, term.component.parameters, strict=True):
                if parameter.role != "width":
                    continue
                if slot.parameter is None and slot.offset < 0.0:
                    raise ValueError(f"width '{term.label}.{parameter.name}' is fixed at {slot.offset:g}")
                if slot == Slot(slot.parameter) and slot.parameter is not None:
                    check_bounds(slot.parameter, self.priors[slot.parameter], 0.0, math.inf, "a width")

    def __getstate__(self) -> dict[str, Any]:
        """Pack the priors."""
        return {**self.__dict__, "priors": PackedPriors.of(self.priors)}

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the table."""
        return tuple(self.priors)

    def parameter(self, name: str) -> Parameter:
        """The component parameter that a name of the table stands for."""
        for term in self.terms:
            for slot, parameter in zip(term.slots, term.component.parameters, strict=True):
                if slot.parameter == name:
                    return parameter
        return Parameter(name, "shape", "y" if name == SIGMA else "")

    def resolved(self, data: Dataset, noise: Noise) -> Model:
        """The model with every prior filled in: defaults from the data's range, and the noise's own parameter."""
        middle = 0.5 * float(data.x.min() + data.x.max())
        terms = tuple(_centred(term, middle) for term in self.terms)
        priors = {
            name: p
            or default_coefficient_prior(name, terms, data)
            or default_prior(name, self.parameter(name), data, noise)
            for name, p in self.priors.items()
        }
        own = priors.pop(SIGMA, None)
        if not isinstance(noise, Poisson) and not noise.known:
            priors[SIGMA] = check_prior(SIGMA, noise.prior or own or default_noise_prior(data))
        return replace(self, priors=priors, terms=terms)

    def describe_priors(self) -> dict[str, str]:
        """Every prior in words, by parameter."""
        return {
            name: describe(prior) if prior is not None else "from the data's range"
            for name, prior in self.priors.items()
        }

    @property
    def digest(self) -> str:
        """SHA-256 of everything that gives the model its meaning."""
        content: list[Any] = [self.name, list(self.counts.items()), self.exchangeable]
        content += [[name, to_table(prior) if prior else None] for name, prior in self.priors.items()]
        for term in self.terms:
            shape, end = term.component.shape, term.component.end
            slots = [[slot.parameter, slot.scale, slot.offset] for slot in term.slots]
            content.append([term.label, term.block, shape.name, shape.source, shape.constants, end, slots])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def default_prior(name: str, parameter: Parameter, data: Dataset, noise: Noise) -> Prior:
    """Prior from the data's range, by the parameter's role.

    Heights are uniform up to one and a half times the range of y, positions uniform over x, widths log-uniform from
    the points' spacing to half of the range of x, inverse lengths log-uniform from 0.3 over the largest to 3 over the
    smallest size of x that is not zero, intensities log-uniform from the smallest positive y to a hundred times the
    largest, floors uniform up to twice the level that a tenth of the positive y lie below (from minus that level, or
    from zero for counts), constants uniform over y and half its range more on either side (from zero for counts),
    powers of x normal with the slope that crosses the range. With counting noise y are rates:
    counts per unit of the noise's exposure.

    Raises
    ------
    ValueError
        When the data or the role give no scale.
    """
    y = data.y / noise.exposure if isinstance(noise, Poisson) and noise.exposure is not None else data.y
    low, high, width = float(y.min()), float(y.max()), float(np.ptp(data.x))
    base = name.rsplit(".", 1)[-1]
    if base == "fraction":
        return frozen("uniform", 0.0, 1.0)
    if base == "precision":
        return frozen("loguniform", 4.0 / width**2, 1.0 / _spacing(data) ** 2)
    if parameter.role == "location":
        return frozen("uniform", float(data.x.min()), width)
    if parameter.role == "width":
        return frozen("loguniform", _spacing(data), 0.5 * width)
    if parameter.role == "inverse":
        size = np.abs(data.x[data.x != 0])
        return frozen("loguniform", 0.3 / float(size.max()), 3.0 / float(size.min()))
    height = high - low
    if height == 0 and not isinstance(noise, Poisson) and noise.known:
        height = float(np.median(np.asarray(noise.sigma)))
    if height == 0:
        raise ValueError(
            f"y ({data.origin.y!r}) is {low:g} at all {data.n} points: there is no range to take default priors from; "
            f"give priors={{{name!r}: ...}} or check the detector"
        )
    if base == "constant":
        floor = 0.0 if data.counts or isinstance(noise, Poisson) else low - 0.5 * height
        return frozen("uniform", floor, high + 0.5 * height - floor)
    if len(base) > 1 and base[0] == "c" and base[1:].isdigit():
        return _power_prior(int(base[1:]), low, height, width)
    if parameter.role == "amplitude":
        return frozen("uniform", 0.0, 1.5 * height)
    if parameter.role in ("intensity", "floor"):
        return _level_prior(name, parameter.role, y, bool(data.counts or isinstance(noise, Poisson)))
    raise ValueError(f"there is no default prior for {name!r}: give priors={{{base!r}: scipy.stats....}}")


def default_coefficient_prior(name: str, terms: Sequence[Term], data: Dataset) -> Prior | None:
    """Normal prior about 0 of a coefficient whose curve has no unknown in it, or None for any other parameter.

    As wide as the coefficient is if its curve alone makes all of the data's scatter about their mean; for a flat curve
    (its scatter no more than a millionth of it) if it makes the data's root mean square.
    """
    mine = [term for term in terms if term.slots[0].parameter == name]
    if not mine or any(term.component.amplitude.role != "coefficient" for term in mine):
        return None
    curve = np.sum([term.component(data.x, *(_value(slot) for slot in term.slots)) for term in mine], axis=0)
    flat = float(np.std(curve)) <= FLAT * float(np.max(np.abs(curve)))
    reach, size = (float(_root_mean_square(v) if flat else np.std(v)) for v in (data.y, curve))
    if not reach > 0 or not size > 0:
        what = "y" if size > 0 else f"the curve of {name!r}"
        raise ValueError(f"there is no default prior for {name!r}, since {what} is zero: give priors={{{name!r}: ...}}")
    return frozen("norm", 0.0, reach / size)


def _value(slot: Slot) -> float:
    """Of a coefficient its scale, of anything else its number."""
    return slot.offset if slot.parameter is None else slot.scale


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _centred(term: Term, middle: float) -> Term:
    slots = tuple(Slot(None, offset=middle) if slot == MIDDLE else slot for slot in term.slots)
    return replace(term, slots=slots)


def default_noise_prior(data: Dataset) -> Prior:
    """Log-uniform from a millionth of to twice the standard deviation of y."""
    spread = float(np.std(data.y))
    if spread == 0:
        raise ValueError(
            f"y ({data.origin.y!r}) is {data.y[0]:g} at all {data.n} points: its noise cannot be inferred; "
            "give noise=Gaussian(sigma) or check the detector"
        )
    return frozen("loguniform", 1e-6 * spread, 2.0 * spread)


def _level_prior(name: str, role: str, y: Array, positive: bool) -> Prior:
    above = y[y > 0]
    if above.size == 0:
        raise ValueError(f"y has no positive values to take a default prior from; give priors={{{name!r}: ...}}")
    if role == "intensity":
        return frozen("loguniform", float(above.min()), 100.0 * float(above.max()))
    tenth = float(np.quantile(above, 0.1))
    low = 0.0 if positive else -tenth
    return frozen("uniform", low, 2.0 * tenth - low)


def _power_prior(degree: int, low: float, height: float, width: float) -> Prior:
    if degree == 0:
        return frozen("uniform", low - 0.5 * height, 2.0 * height)
    return frozen("norm", 0.0, height / (0.5 * width) ** degree)


def _spacing(data: Dataset) -> float:
    """Median spacing of distinct x, and no more than a quarter of their range."""
    spacing = float(np.median(np.diff(np.unique(data.x))))
    return min(spacing, 0.25 * float(np.ptp(data.x)))
