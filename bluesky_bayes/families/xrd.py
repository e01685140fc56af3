"""How many Bragg peaks: powder and single-crystal diffraction with one wavelength or a K-alpha doublet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.candidates import Candidates, family, listed_counts
from bluesky_bayes.components import component
from bluesky_bayes.dataset import Array
from bluesky_bayes.kernels.math import exp
from bluesky_bayes.model import MIDDLE, Slot
from bluesky_bayes.recipes import recipe_of

K_ALPHA: dict[str, tuple[float, float]] = {
    "Cr": (2.2897260, 2.2936510),
    "Fe": (1.9360410, 1.9399730),
    "Co": (1.7889960, 1.7928350),
    "Cu": (1.5405929, 1.5444274),
    "Mo": (0.70931715, 0.713607),
    "Ag": (0.55942178, 0.5638131),
}
"""Measured wavelengths of K-alpha1 and K-alpha2, angstrom: International Tables for Crystallography, volume C (2004),
table 4.2.2.1, which are those of Deslattes et al., Rev. Mod. Phys. 75, 35 (2003)."""

DEGREE = math.pi / 180.0
LN2 = math.log(2.0)
ROOT_PI_LN2 = math.sqrt(math.pi / LN2)
NARROWEST = 1e-6
"""Least square of a width by Caglioti's law, deg^2: a thousandth of a degree, below any instrument's."""
HERE = {"origin": "location"}
"""`center - origin + middle` is the angle itself, whatever angle x and the locations are counted from."""
LINE_UNITS = {"area": "x*y", "d": "Å"}
INSTRUMENT = ("u", "v", "w")


def _splitting(two_theta: float, excess: float) -> float:
    """Distance in degrees of K-alpha2 from K-alpha1, whose wavelength is larger by the fraction `excess`, or zero.

    Bragg's law for both, solved for the difference, without a difference of nearly equal numbers.
    """
    theta = 0.5 * DEGREE * two_theta
    sine, cosine = math.sin(theta), math.cos(theta)
    sine2 = (1.0 + excess) * sine
    cosine2 = math.sqrt(max(1.0 - sine2 * sine2, 0.0))
    step = sine * excess * (2.0 + excess) / ((1.0 + excess) * cosine + cosine2)
    return 2.0 * (step + step * step * step / 6.0) / DEGREE


def _line(distance: float, fwhm: float, fraction: float) -> float:
    """A pseudo-Voigt of unit height."""
    u = 2.0 * distance / fwhm
    q = u * u
    return fraction / (1.0 + q) + (1.0 - fraction) * exp(-LN2 * q)


def _lines(distance: float, two_theta: float, fwhm: float, fraction: float, ratio: float, excess: float) -> float:
    """K-alpha1 of unit height, and K-alpha2."""
    value = _line(distance, fwhm, fraction)
    if ratio > 0.0:
        value += ratio * _line(distance - _splitting(two_theta, excess), fwhm, fraction)
    return value


def _caglioti(two_theta: float, u: float, v: float, w: float) -> float:
    """Full width at half maximum in degrees: Caglioti, Paoletti and Ricci, Nucl. Instrum. 3, 223 (1958)."""
    theta = 0.5 * DEGREE * two_theta
    tangent = math.sin(theta) / math.cos(theta)
    return math.sqrt(max((u * tangent + v) * tangent + w, NARROWEST))


def _spacing(center: Any, wavelength: Any) -> Any:
    return 0.5 * wavelength / np.sin(0.5 * DEGREE * center)


def _areas(amplitude: Any, fwhm: Any, fraction: Any, ratio: Any) -> Any:
    return 0.5 * amplitude * (1.0 + ratio) * fwhm * (fraction * np.pi + (1.0 - fraction) * ROOT_PI_LN2)


def _area(
    amplitude: Any, center: Any, fwhm: Any, fraction: Any, ratio: Any, excess: Any, wavelength: Any, origin: Any,
    middle: Any,
) -> Any:  # fmt: skip
    return _areas(amplitude, fwhm, fraction, ratio)


def _d(
    amplitude: Any, center: Any, fwhm: Any, fraction: Any, ratio: Any, excess: Any, wavelength: Any, origin: Any,
    middle: Any,
) -> Any:  # fmt: skip
    return _spacing(center, wavelength)


@component(derived={"area": _area, "d": _d}, units=LINE_UNITS, roles=HERE, name="bragg")
def bragg(
    x: float, center: float, fwhm: float, fraction: float, ratio: float, excess: float, wavelength: float,
    origin: float, middle: float,
) -> float:  # fmt: skip
    """Pseudo-Voigt of K-alpha1 with `ratio` times one of K-alpha2."""
    return _lines(x - center, center - origin + middle, fwhm, fraction, ratio, excess)


def _law(center: Any, u: Any, v: Any, w: Any) -> Any:
    tangent = np.tan(0.5 * DEGREE * center)
    return np.sqrt(np.maximum((u * tangent + v) * tangent + w, NARROWEST))


def _caglioti_fwhm(
    amplitude: Any, center: Any, u: Any, v: Any, w: Any, fraction: Any, ratio: Any, excess: Any, wavelength: Any,
    origin: Any, middle: Any,
) -> Any:  # fmt: skip
    return _law(center, u, v, w)


def _caglioti_area(
    amplitude: Any, center: Any, u: Any, v: Any, w: Any, fraction: Any, ratio: Any, excess: Any, wavelength: Any,
    origin: Any, middle: Any,
) -> Any:  # fmt: skip
    return _areas(amplitude, _law(center, u, v, w), fraction, ratio)


def _caglioti_d(
    amplitude: Any, center: Any, u: Any, v: Any, w: Any, fraction: Any, ratio: Any, excess: Any, wavelength: Any,
    origin: Any, middle: Any,
) -> Any:  # fmt: skip
    return _spacing(center, wavelength)


@component(
    derived={"fwhm": _caglioti_fwhm, "area": _caglioti_area, "d": _caglioti_d},
    units={**LINE_UNITS, "fwhm": "x", "u": "x^2", "v": "x^2", "w": "x^2"},
    roles=HERE,
    name="bragg",
)
def bragg_caglioti(
    x: float, center: float, u: float, v: float, w: float, fraction: float, ratio: float, excess: float,
    wavelength: float, origin: float, middle: float,
) -> float:  # fmt: skip
    """`bragg` whose full width follows Caglioti's law at K-alpha1."""
    two_theta = center - origin + middle
    return _lines(x - center, two_theta, _caglioti(two_theta, u, v, w), fraction, ratio, excess)


def xrd(
    counts: Iterable[int] = range(1, 4),
    radiation: str | float = "Cu",
    ratio: float = 0.5,
    width: str | Sequence[float] = "own",
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    shared: Sequence[str] = (),
    fixed: Mapping[str, float] | None = None,
    ties: Mapping[str, Slot] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates with different numbers of Bragg peaks; x is 2theta in degrees.

    Parameters are ``amplitude`` (height of K-alpha1 above the background), ``center`` (2theta of K-alpha1),
    ``fwhm`` or ``u``, ``v`` and ``w``, and ``fraction`` (the Lorentzian part); ``area`` (both lines) and the lattice
    spacing ``d`` (angstrom) follow from them.

    Parameters
    ----------
    counts : iterable of int
        Numbers of peaks in question, from 0 up.
    radiation : {"Cr", "Fe", "Co", "Cu", "Mo", "Ag"} or float
        Anode, whose K-alpha doublet each peak has, or the one wavelength in angstrom.
    ratio : float
        Height of K-alpha2 over that of K-alpha1; 0 behind a monochromator that passes K-alpha1 alone.
    width : {"own", "shared", "caglioti"} or (float, float, float)
        ``"own"``: every peak has its ``fwhm``; ``"shared"``: they have one; ``"caglioti"``: ``fwhm^2 = u tan^2(theta)
        + v tan(theta) + w`` with one set for all, deg^2; three numbers: that law with these, of a known instrument.
    background : {"constant", "linear", "quadratic", "cubic"}, int or None
        As in `peaks`.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By parameter name. Those left out come from the data's range; ``u`` and ``w`` are log-uniform from 1e-4 to
        0.1 deg^2, ``v`` uniform from -0.05 to 0.05 deg^2, which makes instruments of 0.01 to 0.5 degrees.
    shared : sequence of str, optional
        Parameters that all peaks of a model have in common: ``["fraction"]``.
    fixed : mapping of str to float, optional
        Parameters that are numbers: ``{"fraction": 0.5}``.
    ties : mapping of str to Slot, optional
        Fixed distances and ratios, as in `peaks`.
    probabilities : sequence of float, optional
        Prior probability of each count; equal by default.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For an unknown anode, a wavelength or ratio that is none, an unknown width, and as `peaks`.

    Examples
    --------
    >>> candidates = xrd(counts=range(1, 3), radiation="Cu", width="shared")
    >>> candidates.names
    ('1 peak', '2 peaks')
    >>> candidates.models[0].parameters
    ('peak1.amplitude', 'peak1.center', 'peak.fwhm', 'peak1.fraction', 'constant')
    """
    counts = listed_counts(counts)
    arguments = {
        "counts": counts, "radiation": radiation, "ratio": ratio, "width": width, "background": background,
        "priors": priors, "shared": shared, "fixed": fixed, "ties": ties, "probabilities": probabilities,
    }  # fmt: skip
    wavelength, wavelength2 = _wavelengths(radiation)
    if not (math.isfinite(ratio) and ratio >= 0.0):
        raise ValueError(f"ratio of K-alpha2 to K-alpha1 must be zero or more; got {ratio!r}")
    law, in_common, instrument = _width(width)
    lines: dict[str, float | Slot] = {
        "ratio": float(ratio) if wavelength2 > wavelength else 0.0,
        "excess": (wavelength2 - wavelength) / wavelength,
        "wavelength": wavelength,
        "origin": MIDDLE,
        "middle": MIDDLE,
    }
    return family(
        bragg_caglioti if law else bragg,
        counts,
        background=background,
        priors={**(_instrument_priors() if width == "caglioti" else {}), **(priors or {})},
        noun="peak",
        shared=[*in_common, *shared],
        fixed={**lines, **instrument, **(fixed or {})},
        ties=ties,
        probabilities=probabilities,
        recipe=recipe_of("xrd", arguments),
    )


def _wavelengths(radiation: str | float) -> tuple[float, float]:
    """K-alpha1 and K-alpha2, or one wavelength twice, angstrom."""
    if isinstance(radiation, str):
        if radiation not in K_ALPHA:
            anodes = ", ".join(map(repr, K_ALPHA))
            raise ValueError(f"radiation must be one of {anodes} or a wavelength in angstrom; got {radiation!r}")
        return K_ALPHA[radiation]
    wavelength = float(radiation)
    if not (math.isfinite(wavelength) and wavelength > 0.0):
        raise ValueError(f"radiation must be an anode or a positive wavelength in angstrom; got {radiation!r}")
    return wavelength, wavelength


def _width(width: str | Sequence[float]) -> tuple[bool, Sequence[str], dict[str, float]]:
    """Whether Caglioti's law holds, what is shared and what is fixed."""
    known: dict[str, tuple[bool, Sequence[str]]] = {
        "own": (False, ()),
        "shared": (False, ("fwhm",)),
        "caglioti": (True, INSTRUMENT),
    }
    if isinstance(width, str):
        if width in known:
            return *known[width], {}
    elif len(width) == len(INSTRUMENT) and all(math.isfinite(number) for number in width):
        return True, (), dict(zip(INSTRUMENT, map(float, width), strict=True))
    raise ValueError(
        f"width must be one of {', '.join(map(repr, known))} or U, V and W of the instrument; got {width!r}"
    )


def _instrument_priors() -> dict[str, Any]:
    """Of U, V and W, deg^2: instruments from a synchrotron's 0.01 degrees to a coarse laboratory one's 0.5."""
    from scipy import stats

    return {"u": stats.loguniform(1e-4, 0.1), "v": stats.uniform(-0.05, 0.1), "w": stats.loguniform(1e-4, 0.1)}


BEFORE, BASELINE = 100, 0.01
"""Of the simulated transition: frames before it, and its background over the height of the peak that splits."""


def transition_peaks(frame: float, height: float = 30_000.0) -> tuple[tuple[float, float], ...]:
    """Heights (counts) and positions (2theta, degrees) of the peaks of `transition`."""
    center = 30.0 - 2e-4 * frame
    if frame < BEFORE:
        return ((height, center),)
    splitting = 0.04 + 0.06 * math.sqrt((frame - BEFORE) / 100.0)
    return ((2.0 / 3.0 * height, center - splitting / 3.0), (height / 3.0, center + 2.0 / 3.0 * splitting))


def transition(two_theta: npt.ArrayLike, frame: float, height: float = 30_000.0) -> Array:
    """Expected counts in one frame of a simulated phase transition, for one wavelength.

    A cubic reflection of 0.03 degrees width at 30 degrees moves by -0.0002 degrees a frame. At frame 100 it splits 2:1
    by 0.04 degrees, as tetragonal (200) and (002) do; the splitting grows to 0.1 degrees at frame 200.

    Parameters
    ----------
    two_theta : array_like
        Degrees.
    frame : float
    height : float
        Counts of the peak above its background, before it splits.

    Returns
    -------
    float64 of the shape of `two_theta`

    Examples
    --------
    >>> [int(transition(30.0, frame).round()) for frame in (0, 99, 100)]
    [30300, 10055, 10611]
    """
    x = np.asarray(two_theta, dtype=np.float64)
    counts = np.full(x.shape, BASELINE * height)
    for amplitude, center in transition_peaks(frame, height):
        q = (2.0 * (x - center) / 0.03) ** 2
        counts += amplitude * (0.4 / (1.0 + q) + 0.6 * np.exp2(-q))
    return counts
