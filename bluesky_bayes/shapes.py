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


def _gaussian_area(amplitude: Any, center: Any, sigma: Any) -> Any:
    return amplitude * sigma * ROOT_2PI


def _gaussian_fwhm(amplitude: Any, center: Any, sigma: Any) -> Any:
    return FWHM * sigma


PEAK_UNITS = {"area": "x*y", "fwhm": "x"}


@component(derived={"area": _gaussian_area, "fwhm": _gaussian_fwhm}, units=PEAK_UNITS)
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
}
