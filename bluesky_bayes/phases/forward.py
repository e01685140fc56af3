"""The pattern that a phase makes, and how it changes with each parameter.

:func:`curve` says what the model is, as one expression of arrays for any array library with NumPy's names.
:func:`render` is the same with all slopes, compiled; a test holds one against the other.

Parameters of a phase, in this order: logarithm of the amount (area of a line of strength 1, counts times degrees);
strains of the cell; logarithms of the two widths ``a`` and ``b`` in degrees; share of the Lorentzian; logarithms of the
factors on groups of overlapping reflections. The full width at half maximum is ``a / cos(theta) + b tan(theta)``, as
small crystallites and strain make it; a displaced specimen moves lines by ``displacement * cos(theta)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numba as nb
import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.radiation import Radiation
from bluesky_bayes.phases.structures import Structure

Integers: TypeAlias = npt.NDArray[np.int64]

REACH = 10.0
"""Half of a line's window, in full widths at half maximum."""
LORENTZ, GAUSS, STEEP = 2.0 / math.pi, 2.0 * math.sqrt(math.log(2.0) / math.pi), 4.0 * math.log(2.0)
"""Heights of profiles of unit area and full width, and the constant of the Gaussian's exponent."""
GAUSS_ENDS = 7.0
"""Square of the distance in full widths where the Gaussian is nothing."""
MARGIN = 4.0
"""Degrees beyond the pattern's ends where lines may still come in."""
WEAK = 0.003
"""Share of the strongest line in range below which a line is left out."""
OVERLAP = 0.7
"""Widths between neighbours that count as one group."""
OWN_FACTOR = 0.01
"""Share of the strongest group from which a group has a factor of its own."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Reflections of a structure in the range of a pattern, as the model takes them.

    Attributes
    ----------
    q : (n,) float
        1/d, 1/Angstrom.
    strength : (n,) float
        Integrated intensity, that of the strongest in range 1.
    strains : (n_strains, n) float
        d ln(q) / d strain.
    unit : float
        Power times Lorentz and polarisation factors of the line of strength 1, over the cell's volume squared.
    wanders : float
        Standard deviation of the isotropic strain, where it is not that of cells: a single line of unknown place.
    broad : float
        Full width at half maximum, degrees, where it is not that of typical peaks: a halo.
    """

    q: Array
    strength: Array
    strains: Array
    unit: float
    wanders: float = 0.0
    broad: float = 0.0

    @property
    def n_shape(self) -> int:
        """Number of parameters before the groups' factors."""
        return len(self.strains) + 4


def lines_of(structure: Structure, radiation: Radiation, low: float, high: float) -> Lines | None:
    """Lines of a structure between two angles; None where it has none there."""
    half = 0.5 * radiation.wavelengths[0]
    two_theta = 2.0 * np.degrees(np.arcsin(np.minimum(structure.q * half, 0.9999)))
    intensity = structure.power * radiation.lorentz_polarisation(structure.q)
    inside = (two_theta > low) & (two_theta < high)
    if not inside.any():
        return None
    strongest = float(intensity[inside].max())
    keep = (two_theta > low - MARGIN) & (two_theta < high + MARGIN) & (intensity > WEAK * strongest)
    return Lines(
        structure.q[keep],
        intensity[keep] / strongest,
        np.ascontiguousarray(structure.strains[:, keep]),
        strongest / structure.volume**2,
    )


def single_line(two_theta: float, wavelength: float, low: float, high: float, broad: float = 0.0) -> Lines:
    """A line of no known phase, whose place may be anywhere between two angles with equal probability per ln(d)."""
    q = 2.0 * math.sin(math.radians(0.5 * two_theta)) / wavelength
    span = math.log(math.sin(math.radians(0.5 * high)) / math.sin(math.radians(0.5 * low)))
    # A normal distribution whose density at its middle is that of the uniform one.
    wanders = span / math.sqrt(2.0 * math.pi)
    return Lines(np.array([q]), np.ones(1), -np.ones((1, 1)), 0.0, wanders, broad)


def curve(
    xp: ModuleType | Any,
    x: Any,
    wavelengths: Any,
    shares: Any,
    lines: tuple[Any, Any, Any],
    displacement: Any,
    shape: Any,
    factors: Any,
) -> Any:
    """Counts of one phase at angles x.

    Parameters
    ----------
    xp : module
        NumPy or a library of the same names, such as CuPy.
    x : (n_points,) array
        2 theta, degrees.
    wavelengths, shares : (n_waves,) arrays
        Of the radiation.
    lines : tuple of arrays
        q (n,), strength (n,), strains (n_strains, n).
    displacement : float
        Shift at theta = 0, degrees.
    shape : (n_strains + 4,) array
        Logarithm of the amount, strains, logarithms of a and b, share of the Lorentzian.
    factors : (n,) array
        Logarithm of the factor on each line: that of its group.

    Returns
    -------
    (n_points,) array
    """
    q0, strength, strains = lines
    n = strains.shape[0]
    q = q0 * xp.exp(shape[1 : n + 1] @ strains)
    theta = xp.arcsin(xp.minimum(0.5 * wavelengths[:, None] * q, 0.9999))
    centres = xp.degrees(2.0 * theta) + displacement * xp.cos(theta)
    width = xp.exp(shape[n + 1]) / xp.cos(theta[:1]) + xp.exp(shape[n + 2]) * xp.tan(theta[:1])
    area = xp.exp(shape[0] + factors) * strength * shares[:, None]
    u = (x[:, None, None] - centres) / width
    lorentz, gauss = LORENTZ / (1.0 + 4.0 * u**2), GAUSS * xp.exp(-STEEP * u**2)
    profile = (shape[n + 3] * lorentz + (1.0 - shape[n + 3]) * gauss) / width
    return (area * xp.where(abs(u) < REACH, profile, 0.0)).sum((1, 2))


def widths_at(lines: Lines, shape: Array, wavelength: float) -> tuple[Array, Array]:
    """2 theta without displacement, and full width at half maximum, of each line."""
    n = len(lines.strains)
    q = lines.q * np.exp(shape[1 : n + 1] @ lines.strains)
    theta = np.arcsin(np.minimum(0.5 * wavelength * q, 0.9999))
    width = np.exp(shape[n + 1]) / np.cos(theta) + np.exp(shape[n + 2]) * np.tan(theta)
    return np.degrees(2.0 * theta), width


def groups_of(lines: Lines, shape: Array, wavelength: float) -> tuple[Integers, int]:
    """Group of each line, 0 for weak ones without a factor of their own, and the number of groups besides."""
    centres, widths = widths_at(lines, shape, wavelength)
    order = np.argsort(centres)
    apart = np.diff(centres[order], prepend=-1e9) > OVERLAP * widths[order]
    group = np.empty(order.size, np.int64)
    group[order] = np.cumsum(apart) - 1
    if lines.wanders:
        return np.zeros(order.size, np.int64), 0
    together = np.bincount(group, lines.strength)
    strong = together > OWN_FACTOR * together.max()
    number = np.zeros(together.size, np.int64)
    number[strong] = 1 + np.arange(int(strong.sum()))
    return number[group], int(strong.sum())


@nb.njit(cache=True, fastmath=True, nogil=True)
def render(x0, step, wavelengths, shares, q0, strength, strains, group, displacement, values, rows, shift, low, high):
    """Fill the rows of a phase: slopes of the counts with each parameter; the first row is also the curve.

    ``rows`` (n_parameters, n_points) and the displacement's row ``shift`` are added to; ``low`` and ``high`` (one for
    each row) say where a row is not zero.
    """
    n_strains, n_points = strains.shape[0], rows.shape[1]
    own = n_strains + 4
    a, b, eta = math.exp(values[n_strains + 1]), math.exp(values[n_strains + 2]), values[n_strains + 3]
    amount = math.exp(values[0])
    degrees = 180.0 / math.pi
    first, last = n_points, 0
    for h in range(q0.size):
        stretch = 0.0
        for k in range(n_strains):
            stretch += values[1 + k] * strains[k, h]
        q = q0[h] * math.exp(stretch)
        g = group[h]
        area = amount * strength[h]
        if g > 0:
            area *= math.exp(values[own + g - 1])
        width, grow_a, grow_b = 0.0, 0.0, 0.0
        for wave in range(wavelengths.size):
            sine = min(0.5 * wavelengths[wave] * q, 0.9999)
            theta = math.asin(sine)
            cosine = math.cos(theta)
            tangent = sine / cosine
            if wave == 0:
                grow_a, grow_b = a / cosine, b * tangent
                width = grow_a + grow_b
            centre = 2.0 * degrees * theta + displacement * cosine
            moves = 2.0 * degrees * tangent
            i0 = max(int((centre - REACH * width - x0) / step) + 1, 0)
            i1 = min(int((centre + REACH * width - x0) / step) + 1, n_points)
            if i0 >= i1:
                continue
            first, last = min(first, i0), max(last, i1)
            if g > 0:
                low[own + g - 1], high[own + g - 1] = min(low[own + g - 1], i0), max(high[own + g - 1], i1)
            scale = area * shares[wave] / width
            for i in range(i0, i1):
                u = (x0 + i * step - centre) / width
                u2 = u * u
                thin = 1.0 / (1.0 + 4.0 * u2)
                lorentz = LORENTZ * thin
                gauss = GAUSS * math.exp(-STEEP * u2) if u2 < GAUSS_ENDS else 0.0
                height = scale * (eta * lorentz + (1.0 - eta) * gauss)
                # Slope with the centre, times the width.
                slope = scale * u * (8.0 * eta * lorentz * thin + 2.0 * STEEP * (1.0 - eta) * gauss)
                wider = (slope * u - height) / width
                slope /= width
                rows[0, i] += height
                for k in range(n_strains):
                    rows[1 + k, i] += slope * moves * strains[k, h]
                rows[n_strains + 1, i] += wider * grow_a
                rows[n_strains + 2, i] += wider * grow_b
                rows[n_strains + 3, i] += scale * (lorentz - gauss)
                shift[i] += slope * cosine
                if g > 0:
                    rows[own + g - 1, i] += height
    for k in range(own):
        low[k], high[k] = min(low[k], first), max(high[k], last)


@nb.njit(cache=True, fastmath=True, nogil=True)
def outline(x0, step, wavelengths, shares, q0, strength, widths, eta, row):
    """Add a phase's curve to a row, for lines of given widths and no slopes."""
    for h in range(q0.size):
        for wave in range(wavelengths.size):
            sine = min(0.5 * wavelengths[wave] * q0[h], 0.9999)
            centre = 360.0 / math.pi * math.asin(sine)
            width = widths[h]
            i0 = max(int((centre - REACH * width - x0) / step) + 1, 0)
            i1 = min(int((centre + REACH * width - x0) / step) + 1, row.size)
            scale = strength[h] * shares[wave] / width
            for i in range(i0, i1):
                u = (x0 + i * step - centre) / width
                u2 = u * u
                gauss = GAUSS * math.exp(-STEEP * u2) if u2 < GAUSS_ENDS else 0.0
                row[i] += scale * (eta * LORENTZ / (1.0 + 4.0 * u2) + (1.0 - eta) * gauss)


@nb.njit(cache=True, fastmath=True, nogil=True)
def normal_equations(rows, low, high, weight, rest, matrix, gradient):
    """Products of slopes: ``J W J^T`` and ``J W r``, where most rows are zero nearly everywhere."""
    n, buffer = rows.shape[0], np.empty(rows.shape[1])
    for i in range(n):
        total = 0.0
        for p in range(low[i], high[i]):
            buffer[p] = rows[i, p] * weight[p]
            total += buffer[p] * rest[p]
        gradient[i] = total
        for j in range(i + 1):
            product = 0.0
            for p in range(max(low[i], low[j]), min(high[i], high[j])):
                product += buffer[p] * rows[j, p]
            matrix[i, j] = product
            matrix[j, i] = product
