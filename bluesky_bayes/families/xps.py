"""Core levels in X-ray photoelectron spectra: lines and spin-orbit doublets, each with its own Shirley step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from bluesky_bayes.candidates import Candidates, family, listed_counts
from bluesky_bayes.components import Component, component
from bluesky_bayes.dataset import Array
from bluesky_bayes.kernels.math import exp
from bluesky_bayes.model import Slot
from bluesky_bayes.recipes import recipe_of
from bluesky_bayes.shapes import HALF_PI, LN2, ROOT_PI_LN2, arctan, erfc

ROOT_LN2 = math.sqrt(math.log(2.0))
LEAST_ASYMMETRY = 1e-4
RATIOS = {"p": 1.0 / 2.0, "d": 2.0 / 3.0, "f": 3.0 / 4.0}
"""Areas of a doublet's lines, j = l - 1/2 by j = l + 1/2, as the numbers of states 2 j + 1."""
PRIORS = {
    "fwhm": stats.loguniform(0.2, 5.0),
    "gamma": stats.loguniform(0.02, 2.0),
    "asymmetry": stats.uniform(0.0, 0.3),
    "scattering": stats.uniform(0.0, 0.2),
}
"""In eV, where x is in eV.

Widths reach from what monochromator and analyser leave of the sharpest line to a broad shake-up. Metals have
asymmetries up to 0.25 (Huefner, Photoelectron Spectroscopy, 3rd edition, chapter 4). A step rises by some hundredths of
its line's area in each eV of it.
"""


def gauss_lorentz(u: float, fwhm: float, fraction: float, scattering: float) -> float:
    """Pseudo-Voigt line `u` half widths above its center, and `scattering` times its integral up to there."""
    q = u * u
    line = fraction / (1.0 + q) + (1.0 - fraction) * exp(-LN2 * q)
    area = fraction * (HALF_PI + arctan(u)) + (1.0 - fraction) * (0.5 * ROOT_PI_LN2) * erfc(-ROOT_LN2 * u)
    return line + scattering * (0.5 * fwhm) * area


def doniach(u: float, gamma: float, asymmetry: float, scattering: float) -> float:
    """Doniach-Sunjic line of unit height `u` times gamma above its center, and `scattering` times its integral.

    The line is the real part of ``exp(i pi a / 2) (1 + i u)^(a - 1)``, which has a closed integral.
    """
    a = max(asymmetry, LEAST_ASYMMETRY)
    angle = arctan(u)
    log_distance = 0.5 * math.log(1.0 + u * u)
    line = math.cos(HALF_PI * a - (1.0 - a) * angle) * exp((a - 1.0) * log_distance)
    area = math.sin(a * (HALF_PI + angle)) * exp(a * log_distance) / a
    height = math.cos(HALF_PI * a / (2.0 - a)) ** (2.0 - a)
    whole: float = (line + scattering * gamma * area) / height
    return whole


def _line_area(amplitude: Any, center: Any, fwhm: Any, fraction: Any, scattering: Any) -> Any:
    return 0.5 * amplitude * fwhm * (fraction * np.pi + (1.0 - fraction) * ROOT_PI_LN2)


def _pair_area(
    amplitude: Any, center: Any, fwhm: Any, fraction: Any, scattering: Any, splitting: Any, ratio: Any
) -> Any:
    return (1.0 + ratio) * _line_area(amplitude, center, fwhm, fraction, scattering)


def _line_top(amplitude: Any, center: Any, gamma: Any, asymmetry: Any, scattering: Any) -> Any:
    return center + gamma * np.tan(HALF_PI * asymmetry / (2.0 - asymmetry))


def _pair_top(
    amplitude: Any, center: Any, gamma: Any, asymmetry: Any, scattering: Any, splitting: Any, ratio: Any
) -> Any:
    return _line_top(amplitude, center, gamma, asymmetry, scattering)


AREA = {"scattering": "1/x", "area": "x*y"}
TOP = {"scattering": "1/x", "top": "x"}
PAIR = {"splitting": "x"}


@component(name="line", derived={"area": _line_area}, units=AREA)
def line(x: float, center: float, fwhm: float, fraction: float, scattering: float) -> float:
    """A pseudo-Voigt line and its Shirley step."""
    return gauss_lorentz(2.0 * (x - center) / fwhm, fwhm, fraction, scattering)


@component(name="doublet", derived={"area": _pair_area}, units={**AREA, **PAIR})
def doublet(
    x: float, center: float, fwhm: float, fraction: float, scattering: float, splitting: float, ratio: float
) -> float:
    """Two pseudo-Voigt lines and their steps; the one at `center` has unit height, the one above it is `ratio` high."""
    u = 2.0 * (x - center) / fwhm
    other = gauss_lorentz(u - 2.0 * splitting / fwhm, fwhm, fraction, scattering)
    return gauss_lorentz(u, fwhm, fraction, scattering) + ratio * other


@component(name="metal line", derived={"top": _line_top}, units=TOP)
def metal_line(x: float, center: float, gamma: float, asymmetry: float, scattering: float) -> float:
    """A Doniach-Sunjic line and its Shirley step."""
    return doniach((x - center) / gamma, gamma, asymmetry, scattering)


@component(name="metal doublet", derived={"top": _pair_top}, units={**TOP, **PAIR})
def metal_doublet(
    x: float, center: float, gamma: float, asymmetry: float, scattering: float, splitting: float, ratio: float
) -> float:
    """Two Doniach-Sunjic lines and their steps, as in `doublet`."""
    u = (x - center) / gamma
    other = doniach(u - splitting / gamma, gamma, asymmetry, scattering)
    return doniach(u, gamma, asymmetry, scattering) + ratio * other


SHAPES: dict[str, tuple[Component, Component]] = {
    "pseudo-voigt": (line, doublet),
    "doniach-sunjic": (metal_line, metal_doublet),
}
"""Single lines and doublets."""


def xps(
    shape: str = "pseudo-voigt",
    counts: Iterable[int] = range(1, 4),
    orbital: str = "s",
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    shared: Sequence[str] = (),
    fixed: Mapping[str, float] | None = None,
    ties: Mapping[str, Slot] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates with different numbers of chemical states of one core level, x being the binding energy in eV.

    Every line has a Shirley background of its own, `scattering` times its area at lower binding energies, with one
    `scattering` in a model: the background of Vegh, Salvi and Castle, to which iterations of Shirley's converge
    (Herrera-Gomez et al., Surf. Interface Anal. 46, 897 (2014)).

    Parameters
    ----------
    shape : {"pseudo-voigt", "doniach-sunjic"}
        Parameters are ``amplitude`` (height of the line, or of a doublet's stronger one), ``center``, and ``fwhm`` and
        ``fraction`` (of the Lorentzian; pseudo-Voigt) or ``gamma`` (half width at half maximum where symmetric) and
        ``asymmetry`` (Doniach and Sunjic, J. Phys. C 3, 285 (1970)).
    counts : iterable of int
        Numbers of chemical states in question, from 0 up.
    orbital : {"s", "p", "d", "f"}
        Lines are single for s; for the others doublets with the areas' ``ratio`` of 1:2, 2:3 and 3:4, the weaker line
        at the higher binding energy by ``splitting``, which must be fixed or have a prior. All doublets of a model have
        these in common.
    background : {"constant", "linear", "quadratic", "cubic"}, int or None
        What the steps stand on.
    priors, shared, fixed, ties, probabilities
        As in `bluesky_bayes.families.peaks`. A prior of ``ratio`` makes it free, ``fixed={"scattering": 0.0}`` leaves
        the steps out.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For an unknown shape or orbital, a doublet without splitting, or what `bluesky_bayes.candidates.family` refuses.

    Examples
    --------
    >>> xps(counts=[3, 4]).names
    ('3 lines', '4 lines')
    >>> xps("doniach-sunjic", counts=[1], orbital="f", fixed={"splitting": 3.67}).models[0].parameters
    ('doublet1.amplitude', 'doublet1.center', 'doublet1.gamma', 'doublet1.asymmetry', 'doublet.scattering', 'constant')
    """
    counts, given, numbers = listed_counts(counts), dict(priors or {}), dict(fixed or {})
    arguments = {
        "shape": shape, "counts": counts, "orbital": orbital, "background": background, "shared": shared,
        "fixed": fixed, "ties": ties, "priors": priors, "probabilities": probabilities,
    }  # fmt: skip
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(map(repr, SHAPES))}; got {shape!r}")
    if orbital not in ("s", *RATIOS):
        raise ValueError(f"orbital must be 's', 'p', 'd' or 'f'; got {orbital!r}")
    single = orbital == "s"
    common = ("scattering",) if single else ("scattering", "splitting", "ratio")
    if not single:
        if not {"splitting", "doublet.splitting"} & {*given, *numbers}:
            raise ValueError(
                f"lines of {orbital} levels are doublets: give their distance in eV, fixed={{'splitting': 3.67}}, "
                "or a prior for it"
            )
        if not {"ratio", "doublet.ratio"} & {*given, *numbers}:
            numbers["ratio"] = RATIOS[orbital]
    chosen = SHAPES[shape][0 if single else 1]
    defaults = {p.name: PRIORS[p.name] for p in chosen.parameters if p.name in PRIORS}
    return family(
        chosen,
        counts,
        background=background,
        priors=defaults | given,
        noun="line" if single else "doublet",
        shared=(*shared, *(name for name in common if name not in (*shared, *numbers))),
        fixed=numbers,
        ties=ties,
        probabilities=probabilities,
        recipe=recipe_of("xps", arguments),
    )


PET = ((3500.0, 284.6, 1.0), (1200.0, 286.15, 1.0), (1350.0, 288.6, 0.9), (90.0, 291.2, 1.8))
"""Heights, energies and widths of the lines of `pet`; the last one is the shake-up of its rings."""


def pet(x: npt.ArrayLike) -> Array:
    """Carbon 1s of poly(ethylene terephthalate), much as it is measured: expected counts at binding energies in eV."""
    energy = np.asarray(x, dtype=np.float64)
    return 100.0 + sum((line(energy, height, center, fwhm, 0.1, 0.02) for height, center, fwhm in PET), np.zeros(()))
