"""Which terms: sums of given functions with unknown coefficients, answered in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import FunctionType
from typing import Any

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.components import Component, Parameter, component
from bluesky_bayes.model import MIDDLE, Model, Slot, Term
from bluesky_bayes.priors import Prior, check_prior
from bluesky_bayes.recipes import recipe_of
from bluesky_bayes.shapes import power

MOST_DEGREE = 9
POWERS = {"1": 0, "x": 1, **{f"x^{n}": n for n in range(2, MOST_DEGREE + 1)}}
ORIGIN = Slot(None)


def linear(
    basis: Mapping[str, str | Callable[..., Any] | Component] | None = None,
    models: Mapping[str, Sequence[str]] | None = None,
    degrees: Iterable[int] | None = None,
    priors: Mapping[str, Any] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates that differ in the terms of a sum of given functions.

    With normal priors (the default) and Gaussian noise, known or unknown, `select` gives evidence and posterior in
    closed form: Katakami et al., arXiv:2406.02869.

    Parameters
    ----------
    basis : mapping of str to str, function or Component, optional
        Functions by the names of their coefficients: ``"1"``, ``"x"``, ``"x^2"`` ... ``"x^9"``, a plain function of x
        alone, or a component without parameters.
    models : mapping of str to sequence of str, optional
        Coefficients of each model, by its name. By default each model has the next function of `basis` more.
    degrees : iterable of int, optional
        In the place of `basis` and `models`: polynomials of these degrees, with coefficients ``c0``, ``c1``, ... of x
        less the middle of the data's x.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By coefficient. By default normal about 0, as wide as the coefficient is if its term alone makes all of the
        scatter of y (a flat term: all of y).
    probabilities : sequence of float, optional
        Prior probability of each model; equal by default.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For an unknown function or one of more than x, models of coefficients that are not in the basis, priors that
        nothing uses, or degrees beside a basis.

    Examples
    --------
    >>> linear({"a": "x", "b": "1"}).names
    ('a x', 'a x + b')
    >>> linear(degrees=[0, 1, 2]).names
    ('degree 0', 'degree 1', 'degree 2')
    """
    degrees = None if degrees is None else list(degrees)
    given = {name: check_prior(name, prior) for name, prior in (priors or {}).items()}
    if (basis is None) == (degrees is None) or (degrees is not None and models is not None):
        raise ValueError("linear takes either degrees=[0, 1, ...], or a basis such as {'a': 'x', 'b': '1'} and models")
    if degrees is not None:
        terms, chosen = _polynomials(degrees)
    else:
        terms = {name: _term(name, function) for name, function in (basis or {}).items()}
        chosen = _chosen(basis or {}, models)
    unknown = sorted(set(given) - {name for names in chosen.values() for name in names})
    if unknown:
        raise ValueError(f"priors name {unknown[0]!r}, which no model here has; they may name {', '.join(terms)}")
    arguments = {"models": models, "degrees": degrees, "priors": priors, "probabilities": probabilities}
    plain = basis is None or all(isinstance(function, str) for function in basis.values())
    return Candidates(
        tuple(_model(name, [terms[c] for c in names], given) for name, names in chosen.items()),
        tuple(probabilities),
        recipe_of("linear", {"basis": basis, **arguments}) if plain else None,
    )


def _polynomials(degrees: Sequence[int]) -> tuple[dict[str, Term], dict[str, list[str]]]:
    if not degrees or len(set(degrees)) < len(degrees) or not all(d in range(MOST_DEGREE + 1) for d in degrees):
        raise ValueError(f"degrees must be different whole numbers from 0 to {MOST_DEGREE}; got {degrees}")
    terms = {f"c{n}": _power(f"c{n}", n, MIDDLE) for n in range(max(degrees) + 1)}
    return terms, {f"degree {d}": [f"c{n}" for n in range(d + 1)] for d in degrees}


def _chosen(basis: Mapping[str, Any], models: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Coefficients of each model."""
    if models is None:
        names = list(basis)
        sums = (names[: n + 1] for n in range(len(names)))
        return {" + ".join(_in_words(name, basis[name]) for name in some): some for some in sums}
    chosen = {name: list(coefficients) for name, coefficients in models.items()}
    for model, coefficients in chosen.items():
        for name in coefficients:
            if name not in basis or coefficients.count(name) > 1:
                what = "twice" if name in basis else f"which is not in the basis; that has {', '.join(basis)}"
                raise ValueError(f"model {model!r} names {name!r} {what}")
    return chosen


def _in_words(name: str, function: Any) -> str:
    """Such as ``a x``."""
    if function == "1":
        return name
    if isinstance(function, str):
        return f"{name} {function}"
    return f"{name} {getattr(function, 'name', '') or getattr(function, '__name__', '')}(x)"


def _term(name: str, function: Any) -> Term:
    if isinstance(function, str):
        if function not in POWERS:
            raise ValueError(
                f"function of {name!r} must be one of {', '.join(map(repr, POWERS))} or a function of x; "
                f"got {function!r}"
            )
        return _power(name, POWERS[function], ORIGIN)
    if isinstance(function, FunctionType):
        function = component(function)
    if not isinstance(function, Component):
        raise ValueError(
            f"function of {name!r} must be a plain function of x, written with def; got {function!r} (wrap it in one)"
        )
    if len(function.parameters) > 1:
        others = ", ".join(p.name for p in function.parameters[1:])
        raise ValueError(f"function of {name!r} must be one of x alone; {function.name!r} also takes {others}")
    return Term(name, _coefficient(function, name, function.amplitude.unit), (Slot(name),))


def _power(name: str, degree: int, origin: Slot) -> Term:
    found = replace(power(degree), name="power")
    return Term(
        name,
        _coefficient(found, name, found.amplitude.unit),
        (Slot(name), origin, Slot(None, offset=float(degree))),
    )


def _coefficient(found: Component, name: str, unit: str) -> Component:
    """The component with an amplitude of either sign, called by the coefficient's name."""
    parameters = (Parameter(name, "coefficient", unit), *found.parameters[1:])
    return replace(found, parameters=parameters, sort_by=parameters[-1].name)


def _model(name: str, terms: Sequence[Term], given: Mapping[str, Prior]) -> Model:
    return Model(name, tuple(terms), {term.label: given.get(term.label) for term in terms})
