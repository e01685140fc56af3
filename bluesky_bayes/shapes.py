"""The peaks and backgrounds that come with the package.

Every peak has unit height, so that `amplitude` is its height, as lmfit's users know it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from bluesky_bayes.components import Component, Parameter, component
from bluesky_bayes.kernels.math import exp

FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
ROOT_2PI = math.sqrt(2.0 * math.pi)
LN2 = math.log(2.0)
ROOT_PI_LN2 = math.sqrt(math.pi / math.log(2.0))
ROOT_2 = math.sqrt(2.0)
INVERSE_ROOT_PI = 1.0 / math.sqrt(math.pi)
HALF_PI = 0.5 * math.pi
WEIDEMAN = 3.363585661014858
"""L for sixteen terms: ``sqrt(16 / sqrt(2))``."""


def _gaussian_area(amplitude: Any, center: Any, sigma: Any) -> Any:
    return amplitude * sigma * ROOT_2PI


def _gaussian_fwhm(amplitude: Any, center: Any, sigma: Any) -> Any:
    return FWHM * sigma


PEAK_UNITS = {"area": "x*y", "fwhm": "x"}


@component(derived={"area": _gaussian_area, "fwhm": _gaussian_fwhm}, units=PEAK_UNITS, end="sigma")
def gaussian(x: float, center: float, sigma: float) -> float:
    """exp(-(x - center)^2 / (2 sigma^2))."""
    u = (x - center) / sigma
    return exp(-0.5 * (u * u))


def _precision_area(amplitude: Any, center: Any, precision: Any) -> Any:
    return amplitude * ROOT_2PI / np.sqrt(precision)


def _precision_fwhm(amplitude: Any, center: Any, precision: Any) -> Any:
    return FWHM / np.sqrt(precision)


@component(
    derived={"area": _precision_area, "fwhm": _precision_fwhm},
    units={**PEAK_UNITS, "precision": "1/x^2"},
    end="precision",
    name="gaussian",
)
def gaussian_precision(x: float, center: float, precision: float) -> float:
    """exp(-precision (x - center)^2 / 2): the form of Nagata, Sugita and Okada, Neural Networks 28, 82 (2012)."""
    u = x - center
    return exp(-0.5 * precision * (u * u))


def _lorentzian_area(amplitude: Any, center: Any, gamma: Any) -> Any:
    return amplitude * gamma * np.pi


def _lorentzian_fwhm(amplitude: Any, center: Any, gamma: Any) -> Any:
    return 2.0 * gamma


@component(derived={"area": _lorentzian_area, "fwhm": _lorentzian_fwhm}, units=PEAK_UNITS)
def lorentzian(x: float, center: float, gamma: float) -> float:
    """1 / (1 + ((x - center) / gamma)^2); gamma is the half width at half maximum."""
    u = (x - center) / gamma
    return 1.0 / (1.0 + u * u)


def _pseudo_voigt_area(amplitude: Any, center: Any, fwhm: Any, fraction: Any) -> Any:
    return 0.5 * amplitude * fwhm * (fraction * np.pi + (1.0 - fraction) * ROOT_PI_LN2)


@component(derived={"area": _pseudo_voigt_area}, units=PEAK_UNITS, name="pseudo-voigt")
def pseudo_voigt(x: float, center: float, fwhm: float, fraction: float) -> float:
    """Lorentzian times `fraction` plus Gaussian times the rest, of the same full width at half maximum."""
    u = 2.0 * (x - center) / fwhm
    q = u * u
    return fraction / (1.0 + q) + (1.0 - fraction) * exp(-LN2 * q)


def arctan(u: float) -> float:
    """Arc tangent to 2e-8, as arithmetic that vectorises: Abramowitz and Stegun 4.4.49."""
    v = abs(u)
    t = 1.0 / v if v > 1.0 else v
    z = t * t
    p = 0.0028662257 * z - 0.0161657367
    p = p * z + 0.0429096138
    p = p * z - 0.0752896400
    p = p * z + 0.1065626393
    p = p * z - 0.1420889944
    p = p * z + 0.1999355085
    p = p * z - 0.3333314528
    angle = t + t * (z * p)
    angle = HALF_PI - angle if v > 1.0 else angle
    return -angle if u < 0.0 else angle


def erfc(u: float) -> float:
    """Complementary error function to 2e-7: Press et al., Numerical Recipes in C, 2nd edition, section 6.2."""
    t = 1.0 / (1.0 + 0.5 * abs(u))
    p = 0.17087277 * t - 0.82215223
    p = p * t + 1.48851587
    p = p * t - 1.13520398
    p = p * t + 0.27886807
    p = p * t - 0.18628806
    p = p * t + 0.09678418
    p = p * t + 0.37409196
    p = p * t + 1.00002368
    tail = t * exp(-u * u - 1.26551223 + t * p)
    return 2.0 - tail if u < 0.0 else tail


def erfcx(y: Any) -> Any:
    """``exp(y^2) erfc(y)`` for y from 0 up: `faddeeva` on the imaginary axis."""
    inverse = 1.0 / (WEIDEMAN + y)
    c = (WEIDEMAN - y) * inverse
    p = 9.939322536e-07 * c + 3.981287575e-06
    p = p * c - 5.584233411e-06
    p = p * c - 2.734640462e-05
    p = p * c + 2.170986793e-05
    p = p * c + 0.000210710564
    p = p * c + 8.703158428e-05
    p = p * c - 0.00152765974
    p = p * c - 0.003881015189
    p = p * c + 0.003682567317
    p = p * c + 0.05182240243
    p = p * c + 0.1912417267
    p = p * c + 0.4692909009
    p = p * c + 0.8864478302
    p = p * c + 1.362240822
    p = p * c + 1.748395886
    return (2.0 * p * inverse + INVERSE_ROOT_PI) * inverse


def faddeeva(x: Any, y: Any) -> Any:
    """Real part of w(x + i y) for y from 0 up, to 2e-7 of w(i y): Weideman, SIAM J. Numer. Anal. 31, 1497 (1994).

    The polynomial has real coefficients, so that it is divided by the real quadratic of the roots c + i d and c - i d.
    """
    above = WEIDEMAN + y
    inverse = 1.0 / (above * above + x * x)
    a, b = above * inverse, x * inverse
    c, d = (WEIDEMAN - y) * a - x * b, 2.0 * WEIDEMAN * b
    t, m = 2.0 * c, c * c + d * d
    q = 9.939322536e-07
    p = 3.981287575e-06 + t * q
    q = t * p - m * q - 5.584233411e-06
    p = t * q - m * p - 2.734640462e-05
    q = t * p - m * q + 2.170986793e-05
    p = t * q - m * p + 0.000210710564
    q = t * p - m * q + 8.703158428e-05
    p = t * q - m * p - 0.00152765974
    q = t * p - m * q - 0.003881015189
    p = t * q - m * p + 0.003682567317
    q = t * p - m * q + 0.05182240243
    p = t * q - m * p + 0.1912417267
    q = t * p - m * q + 0.4692909009
    p = t * q - m * p + 0.8864478302
    q = t * p - m * q + 1.362240822
    p = c * q - m * p + 1.748395886
    return 2.0 * (p * (a * a - b * b) - 2.0 * (d * q) * (a * b)) + INVERSE_ROOT_PI * a


def _voigt_area(amplitude: Any, center: Any, sigma: Any, gamma: Any) -> Any:
    return amplitude * sigma * ROOT_2PI / erfcx(gamma / (sigma * ROOT_2))


def _voigt_fwhm(amplitude: Any, center: Any, sigma: Any, gamma: Any) -> Any:
    """To 0.02 %: Olivero and Longbothum, J. Quant. Spectrosc. Radiat. Transfer 17, 233 (1977)."""
    return 1.0692 * gamma + np.sqrt(0.86639 * gamma * gamma + FWHM * FWHM * sigma * sigma)


@component(derived={"area": _voigt_area, "fwhm": _voigt_fwhm}, units=PEAK_UNITS)
def voigt(x: float, center: float, sigma: float, gamma: float) -> float:
    """Lorentzian of half width `gamma` convolved with a Gaussian of standard deviation `sigma`, to 6e-7."""
    inverse = 1.0 / (sigma * ROOT_2)
    y = gamma * inverse
    height: float = faddeeva((x - center) * inverse, y) / erfcx(y)
    return height


@component(name="background", amplitude="constant")
def constant(x: float) -> float:
    """One everywhere."""
    return 1.0


@component(name="background", amplitude="c", roles={"origin": "location"})
def monomial(x: float, origin: float, degree: float) -> float:
    """(x - origin)^degree."""
    value = 1.0
    for _ in range(int(degree)):
        value *= x - origin
    return value


def power(degree: int) -> Component:
    """`monomial` with its coefficient's unit, which depends on the degree."""
    unit = {0: "y", 1: "y/x"}.get(degree, f"y/x^{degree}")
    return replace(monomial, parameters=(Parameter("c", "amplitude", unit), *monomial.parameters[1:]))


PEAKS: dict[str, Component] = {
    "gaussian": gaussian,
    "lorentzian": lorentzian,
    "pseudo-voigt": pseudo_voigt,
    "voigt": voigt,
}
