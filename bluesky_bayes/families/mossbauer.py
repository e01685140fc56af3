"""57Fe Moessbauer spectra: which absorbers, singlets, doublets or sextets, and how many of each.

The transmission is a baseline less the absorbers. A depth is that of an absorber's outermost line if it stood alone, in
counts, so that it can be read off the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from bluesky_bayes.candidates import Candidates, Kind, combinations, listed_counts
from bluesky_bayes.components import Component, component
from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import softmax
from bluesky_bayes.model import Model, Slot
from bluesky_bayes.recipes import recipe_of
from bluesky_bayes.shapes import ROOT_2, faddeeva

if TYPE_CHECKING:
    from bluesky_bayes.selection import Selection

IRON_FIELD = 33.0
"""Hyperfine field of alpha-Fe at room temperature, T."""
IRON_LINES = (5.312, 3.076, 0.840)
"""Half the distances of its outer, middle and inner lines, mm/s; the two steps are both 2.236, as they must be."""
OUTER, MIDDLE, INNER = IRON_LINES[0] / IRON_FIELD, IRON_LINES[1] / IRON_FIELD, IRON_LINES[2] / IRON_FIELD
NATURAL_WIDTH = 0.194
"""Full width at half maximum of source and thin absorber together, mm/s: twice that of the 14.4 keV level."""
POWDER = {"middle": 2.0 / 3.0, "inner": 1.0 / 3.0}
"""3:2:1:1:2:3: areas of lines 2 and 3 over that of line 1."""

PRIORS: dict[str, Any] = {
    "shift": stats.uniform(-1.0, 3.0),
    "splitting": stats.uniform(0.0, 4.0),
    "splitting_sigma": stats.loguniform(0.05, 1.0),
    "field": stats.uniform(15.0, 40.0),
    "field_sigma": stats.loguniform(0.3, 10.0),
    "quadrupole": stats.uniform(-0.5, 1.0),
    "width": stats.loguniform(NATURAL_WIDTH, 2.0),
    "sigma": stats.loguniform(0.02, 1.0),
    "middle": stats.uniform(0.0, 4.0 / 3.0),
    "inner": stats.uniform(0.0, 1.0),
}
"""Iron's centre shifts lie between -1 and 2 mm/s from alpha-Fe, its splittings below 4 mm/s, its fields below 55 T. No
line is narrower than nature's. Fields below 15 T are left out: broad sextets of a small field look like doublets, and
the other way round. Line 2 has four thirds of line 1's area where all moments lie across the beam."""

ROOT_PI = math.sqrt(math.pi)
NARROWEST = 1e-3


def blur(sigma: Any, width: Any) -> Any:
    """Root 2 times the standard deviation of a line's Gaussian part, a thousandth of the width at least."""
    least = NARROWEST * width
    return ROOT_2 * np.sqrt(sigma * sigma + least * least)


def lorentz(u: float, place: float, width: float) -> float:
    """A Lorentzian line of unit height."""
    v = 2.0 * (u - place) / width
    return 1.0 / (1.0 + v * v)


def voigt(u: Any, place: Any, blurred: Any, width: Any) -> Any:
    """A Voigt line of area root pi."""
    return faddeeva((u - place) / blurred, 0.5 * width / blurred) / blurred


def _lorentz_area(depth: Any, width: Any) -> Any:
    return 0.5 * np.pi * np.abs(depth) * width


def _voigt_area(depth: Any, width: Any, sigma: Any) -> Any:
    s = blur(sigma, width)
    return ROOT_PI * np.abs(depth) * s / faddeeva(0.0, 0.5 * width / s)


def _singlet_area(depth: Any, shift: Any, width: Any) -> Any:
    return _lorentz_area(depth, width)


def _doublet_area(depth: Any, shift: Any, splitting: Any, width: Any) -> Any:
    return 2.0 * _lorentz_area(depth, width)


def _sextet_area(depth: Any, shift: Any, field: Any, quadrupole: Any, width: Any, middle: Any, inner: Any) -> Any:
    return 2.0 * (1.0 + middle + inner) * _lorentz_area(depth, width)


def _voigt_singlet_area(depth: Any, shift: Any, width: Any, sigma: Any) -> Any:
    return _voigt_area(depth, width, sigma)


def _voigt_doublet_area(depth: Any, shift: Any, splitting: Any, splitting_sigma: Any, width: Any, sigma: Any) -> Any:
    return 2.0 * _voigt_area(depth, width, np.hypot(sigma, 0.5 * splitting_sigma))


def _voigt_sextet_area(
    depth: Any, shift: Any, field: Any, field_sigma: Any, quadrupole: Any, width: Any, sigma: Any, middle: Any,
    inner: Any,
) -> Any:  # fmt: skip
    return 2.0 * (1.0 + middle + inner) * _voigt_area(depth, width, np.hypot(sigma, OUTER * field_sigma))


ROLES = {"shift": "location", "splitting_sigma": "width"}
UNITS = {"area": "x*y", "shift": "x", "splitting": "x", "splitting_sigma": "x", "field": "T", "field_sigma": "T",
         "quadrupole": "x"}  # fmt: skip


def _of(table: Mapping[str, str], names: str) -> dict[str, str]:
    """Entries of those names."""
    return {name: table[name] for name in names.split() if name in table}


@component(name="singlet", amplitude="depth", roles={"shift": "location"}, derived={"area": _singlet_area},
           units=_of(UNITS, "area shift"))  # fmt: skip
def singlet(x: float, shift: float, width: float) -> float:
    """One Lorentzian line."""
    return lorentz(x - shift, 0.0, width)


@component(name="doublet", amplitude="depth", roles={"shift": "location"}, derived={"area": _doublet_area},
           units=_of(UNITS, "area shift splitting"), sort_by="splitting")  # fmt: skip
def doublet(x: float, shift: float, splitting: float, width: float) -> float:
    """Two Lorentzian lines at a distance of `splitting`."""
    u = x - shift
    return lorentz(u, -0.5 * splitting, width) + lorentz(u, 0.5 * splitting, width)


@component(name="sextet", amplitude="depth", roles={"shift": "location"}, derived={"area": _sextet_area},
           units=_of(UNITS, "area shift field quadrupole"), sort_by="field")  # fmt: skip
def sextet(x: float, shift: float, field: float, quadrupole: float, width: float, middle: float, inner: float) -> float:
    """Six Lorentzian lines; the first-order quadrupole shift moves lines 1 and 6 up and the others down."""
    u, v = x - shift - quadrupole, x - shift + quadrupole
    outer = lorentz(u, -OUTER * field, width) + lorentz(u, OUTER * field, width)
    second = lorentz(v, -MIDDLE * field, width) + lorentz(v, MIDDLE * field, width)
    third = lorentz(v, -INNER * field, width) + lorentz(v, INNER * field, width)
    return outer + middle * second + inner * third


@component(name="singlet", amplitude="depth", roles={"shift": "location"}, derived={"area": _voigt_singlet_area},
           units=_of(UNITS, "area shift"))  # fmt: skip
def voigt_singlet(x: float, shift: float, width: float, sigma: float) -> Any:
    """One Voigt line."""
    s = blur(sigma, width)
    return voigt(x - shift, 0.0, s, width) * s / faddeeva(0.0, 0.5 * width / s)


@component(name="doublet", amplitude="depth", roles=ROLES, derived={"area": _voigt_doublet_area},
           units=_of(UNITS, "area shift splitting"), sort_by="splitting")  # fmt: skip
def voigt_doublet(x: float, shift: float, splitting: float, splitting_sigma: float, width: float, sigma: float) -> Any:
    """Two Voigt lines; a normal distribution of splittings widens each by half of its standard deviation."""
    s = blur(np.sqrt(sigma * sigma + 0.25 * splitting_sigma * splitting_sigma), width)
    u = x - shift
    lines = voigt(u, -0.5 * splitting, s, width) + voigt(u, 0.5 * splitting, s, width)
    return lines * s / faddeeva(0.0, 0.5 * width / s)


@component(name="sextet", amplitude="depth", roles={"shift": "location"}, derived={"area": _voigt_sextet_area},
           units=_of(UNITS, "area shift field field_sigma quadrupole"), sort_by="field")  # fmt: skip
def voigt_sextet(
    x: float, shift: float, field: float, field_sigma: float, quadrupole: float, width: float, sigma: float,
    middle: float, inner: float,
) -> Any:  # fmt: skip
    """Six Voigt lines; a normal distribution of fields widens each in proportion to its distance from the middle."""
    f, q = field_sigma * field_sigma, sigma * sigma
    s1 = blur(np.sqrt(q + OUTER * OUTER * f), width)
    s2 = blur(np.sqrt(q + MIDDLE * MIDDLE * f), width)
    s3 = blur(np.sqrt(q + INNER * INNER * f), width)
    u, v = x - shift - quadrupole, x - shift + quadrupole
    outer = voigt(u, -OUTER * field, s1, width) + voigt(u, OUTER * field, s1, width)
    second = voigt(v, -MIDDLE * field, s2, width) + voigt(v, MIDDLE * field, s2, width)
    third = voigt(v, -INNER * field, s3, width) + voigt(v, INNER * field, s3, width)
    return (outer + middle * second + inner * third) * s1 / faddeeva(0.0, 0.5 * width / s1)


LORENTZIAN, VOIGT = (singlet, doublet, sextet), (voigt_singlet, voigt_doublet, voigt_sextet)
LINES: dict[str, tuple[tuple[Component, ...], dict[str, float]]] = {
    "lorentzian": (LORENTZIAN, {}),
    "voigt": (VOIGT, {"splitting_sigma": 0.0, "field_sigma": 0.0}),
    "distributed": (VOIGT, {"sigma": 0.0}),
}
"""Shapes of singlet, doublet and sextet, and what is not free in them."""
CLASSES = ("magnetically split", "doublet", "mixture")


def mossbauer(
    singlets: Iterable[int] = (0,),
    doublets: Iterable[int] = (0, 1, 2),
    sextets: Iterable[int] = (0, 1),
    lines: str = "lorentzian",
    ratios: str = "powder",
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    shared: Sequence[str] = (),
    fixed: Mapping[str, float] | None = None,
    ties: Mapping[str, Slot] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates with different numbers of singlets, doublets and sextets, for counts against velocity in mm/s.

    Parameters
    ----------
    singlets, doublets, sextets : iterable of int
        Numbers in question, from 0 up; all combinations are candidates.
    lines : {"lorentzian", "voigt", "distributed"}
        ``"voigt"`` gives every line a Gaussian part `sigma`. ``"distributed"`` gives sextets a normal distribution of
        fields (`field_sigma`, T), doublets one of splittings (`splitting_sigma`) and singlets one of shifts (`sigma`).
    ratios : {"powder", "free"}
        Areas of a sextet's lines: 3:2:1:1:2:3, or `middle` and `inner` over the outermost line's.
    background : {"constant", "linear", "quadratic", "cubic"}, int or None
        Baseline: ``constant``, or a polynomial with ``c0``, ``c1``, ... in velocity less the middle of the data's.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By parameter name; by default `PRIORS`, and those of depths and baseline come from the data's range.
    shared : sequence of str, optional
        Parameters that all absorbers of a kind have in common: ``["width"]`` gives ``doublet.width``.
    fixed : mapping of str to float, optional
        Parameters that are numbers, in all kinds that have them: ``{"width": 0.24}``.
    ties : mapping of str to Slot, optional
        ``{"doublet2.shift": Slot("doublet1.shift")}``.
    probabilities : sequence of float, optional
        Prior probabilities in the order of the models: the number of sextets changes fastest.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For unknown lines, ratios or background, counts below zero, nothing in question, or names that nothing uses.

    Notes
    -----
    Source: Moriguchi et al., J. Phys. Soc. Jpn. 91 (2022), arXiv 2205.09188.

    Examples
    --------
    >>> mossbauer(doublets=[0, 1], sextets=[0, 1]).names
    ('none', '1 sextet', '1 doublet', '1 doublet + 1 sextet')
    """
    asked = {"singlet": singlets, "doublet": doublets, "sextet": sextets}
    counts = {noun: listed_counts(numbers) for noun, numbers in asked.items()}
    arguments = {
        **{f"{noun}s": k for noun, k in counts.items()}, "lines": lines, "ratios": ratios, "background": background,
        "priors": priors, "shared": shared, "fixed": fixed, "ties": ties, "probabilities": probabilities,
    }  # fmt: skip
    kinds = _kinds(counts, lines, ratios, shared, fixed or {})
    return combinations(
        kinds,
        background=background,
        priors={**_defaults(kinds), **(priors or {})},
        ties=ties,
        probabilities=probabilities,
        recipe=recipe_of("mossbauer", arguments),
    )


def mossbauer_classes(
    most: int = 2,
    ratios: str = "powder",
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    shared: Sequence[str] = ("width", "quadrupole"),
    fixed: Mapping[str, float] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates of three classes: magnetically split, doublet, and a mixture of both; see `magnetic_classes`.

    Sextets have normal distributions of field, doublets of splitting. Real distributions are not normal, so that a
    class is a sum of up to `most` of its kind: their number means nothing, the class does.

    Parameters
    ----------
    most : int
        Up to so many sextets or doublets; mixtures have two absorbers, or up to as many together.
    ratios, background, priors, fixed
        As in `mossbauer`.
    shared : sequence of str
        As in `mossbauer`. By default the parts of a distribution have one width and one quadrupole shift.
    probabilities : sequence of float, optional
        Prior probabilities of the classes, in this order; equal by default. Models of a class share its probability
        equally.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        As `mossbauer` does.

    Examples
    --------
    >>> mossbauer_classes().names
    ('1 sextet', '2 sextets', '1 doublet', '1 doublet + 1 sextet', '2 doublets')
    """
    given = np.asarray(probabilities or [1.0] * len(CLASSES), dtype=np.float64)
    if most < 1 or given.size != len(CLASSES):
        raise ValueError(
            f"most must be 1 or more, and probabilities be {len(CLASSES)}: of {', '.join(CLASSES)}; "
            f"got {most} and {list(probabilities)}"
        )
    numbers = range(most + 1)
    found = mossbauer([0], numbers, numbers, "distributed", ratios, background, priors, shared, fixed)
    models = [model for model in found.models if 0 < sum(model.counts.values()) <= max(most, 2)]
    classes = [_class_of(model) for model in models]
    weights = [given[CLASSES.index(name)] / classes.count(name) for name in classes]
    arguments = {
        "most": most, "ratios": ratios, "background": background, "priors": priors, "shared": shared, "fixed": fixed,
        "probabilities": probabilities,
    }  # fmt: skip
    return Candidates(tuple(models), tuple(weights), recipe_of("mossbauer_classes", arguments))


class MagneticClass(NamedTuple):
    """What the data say about a class of models.

    Attributes
    ----------
    probability, probability_error : float
        Sum of its models' probabilities, and its standard error.
    log_evidence, log_evidence_error : float
        Of all its models together, averaged over their prior probabilities within the class.
    """

    probability: float
    probability_error: float
    log_evidence: float
    log_evidence_error: float


def magnetic_classes(selection: Selection) -> dict[str, MagneticClass]:
    """Probability and evidence of ``"magnetically split"``, ``"doublet"`` and ``"mixture"``, those that are there.

    Models are sorted by what they are made of, whatever family they come from: sextets alone, none, or some.
    """
    p, errors = selection.probabilities, selection.log_evidence_error
    names = [_class_of(posterior.model) for posterior in selection.posteriors]
    found = {}
    for name in CLASSES:
        members = np.array([other == name for other in names])
        if not members.any():
            continue
        prior = np.log(selection.prior_probabilities[members] / selection.prior_probabilities[members].sum())
        score = selection.log_evidence[members] + prior
        share = softmax(score)
        log_z = float(score.max() + np.log(np.sum(np.exp(score - score.max()))))
        total = float(p[members].sum())
        error = math.hypot(*(p * (members - total) * errors))
        found[name] = MagneticClass(total, error, log_z, math.hypot(*(share * errors[members])))
    return found


def _class_of(model: Model) -> str:
    """Where a model belongs by its numbers of sextets and of others."""
    sextets = model.counts.get("sextet", 0)
    others = sum(model.counts.values()) - sextets
    return "doublet" if not sextets else "mixture" if others else "magnetically split"


def _kinds(
    counts: Mapping[str, list[int]], lines: str, ratios: str, shared: Sequence[str], fixed: Mapping[str, float]
) -> list[Kind]:
    """Kinds with counts other than zero, each with what it has of the shared and fixed parameters."""
    for name, value, choices in (("lines", lines, tuple(LINES)), ("ratios", ratios, ("powder", "free"))):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    shapes, given = LINES[lines]
    numbers = {**given, **(POWDER if ratios == "powder" else {}), **fixed}
    chosen = [(shape, k) for shape, k in zip(shapes, counts.values(), strict=True) if k != [0]]
    own = [{p.name for p in shape.parameters} for shape, _ in chosen]
    if not chosen:
        raise ValueError("there is nothing in question: give numbers of singlets, doublets or sextets above zero")
    for name in (*shared, *fixed):
        if not any(name in names for names in own):
            raise ValueError(
                f"no absorber here has a parameter {name!r}; they have {', '.join(sorted(set().union(*own)))}"
            )
    return [
        Kind(
            shape, k, shape.name, [name for name in shared if name in names],
            {name: number for name, number in numbers.items() if name in names}, sign=-1,
        )
        for (shape, k), names in zip(chosen, own, strict=True)
    ]  # fmt: skip


def _defaults(kinds: Sequence[Kind]) -> dict[str, Any]:
    """Those of `PRIORS` that something uses."""
    used = {p.name for kind in kinds for p in kind.component.parameters}
    return {name: prior for name, prior in PRIORS.items() if name in used}


def example(velocity: npt.ArrayLike) -> Array:
    """Expected counts of a simulated sample below its transition: a sextet of 45 T and a doublet.

    Parameters
    ----------
    velocity : array_like
        mm/s.

    Returns
    -------
    float64 of the same shape

    Examples
    --------
    >>> float(example(12.0).round())
    1999.0
    """
    v = np.asarray(velocity, dtype=np.float64)
    curve: Array = (
        2000.0 - sextet(v, 250.0, 0.45, 45.0, -0.1, 0.4, *POWDER.values()) - doublet(v, 300.0, 0.35, 0.8, 0.4)
    )
    return curve
