"""Powder patterns: reading them, even steps, their noise, and a first background."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import find_peaks, peak_widths

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.radiation import Radiation

FEWEST_POINTS = 100
POINTS_PER_WIDTH = 5
"""Steps in the full width at half maximum of the narrowest peaks: finer ones are averaged."""
NARROW = 10.0
"""Percentile of the widths that counts as narrowest."""
KNOT = 5.0
"""Degrees between knots of the background, where the pattern is long enough for eight."""
PROMINENT = 0.05
"""Share of the highest peak from which peaks count as typical."""
NOTHING = 1e6
"""Standard deviation where nothing was measured, in the highest peak."""
CHANCE = 1e-4
"""Probability of neighbours with the same highest count by chance, below which the detector was saturated."""
SHARING, APART = 3, 5
"""Neighbours that may share their noise, as detectors smooth it, and points from one mean of them to the next."""
NORMAL_MEDIAN = 0.4549
"""Median of chi^2 with one degree of freedom."""


class NoWavelengthError(ValueError):
    """A pattern that says no wavelength, nor is one given."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """A measured powder pattern.

    Parameters
    ----------
    two_theta : (n,) array_like
        Degrees.
    counts : (n,) array_like
        Counts, or intensities in any unit.
    radiation : str or float or Radiation
        Name of an anode ("CuKa") or a wavelength in Angstrom.
    sigma : (n,) array_like, optional
        Standard deviation of each point. Left out, the noise is measured from the scatter of neighbours.
    name : str

    Raises
    ------
    ValueError
        For angles, counts or a radiation that cannot be: the sentence says which and what to do.
    """

    two_theta: Array
    counts: Array
    radiation: Radiation
    sigma: Array | None = None
    name: str = "pattern"

    def __init__(
        self,
        two_theta: object,
        counts: object,
        radiation: str | float | Radiation | None,
        sigma: object = None,
        name: str = "pattern",
    ) -> None:
        if radiation is None:
            raise NoWavelengthError(
                f'{name} says no wavelength: give radiation="CuKa", another anode, or a wavelength in Angstrom'
            )
        x, y = np.array(two_theta, np.float64), np.array(counts, np.float64)
        error = None if sigma is None else np.array(sigma, np.float64)
        if x.ndim != 1 or x.shape != y.shape or (error is not None and error.shape != x.shape):
            raise ValueError(f"{name} needs as many counts as angles; got {x.shape} angles and {y.shape} counts")
        good = np.isfinite(x) & np.isfinite(y)
        if error is not None:
            good &= np.isfinite(error) & (error > 0)
        order = np.flatnonzero(good)[np.argsort(x[good], kind="stable")]
        x, y, error = _at_once(x[order], y[order], None if error is None else error[order])
        if x.size < FEWEST_POINTS:
            raise ValueError(
                f"{name} has {x.size} usable points; a phase search needs {FEWEST_POINTS} or more at "
                "different angles, with counts that are numbers and a standard deviation, if any, above zero"
            )
        if not (x[0] > 0.0 and x[-1] < 180.0):
            raise ValueError(f"{name} has angles from {x[0]:g} to {x[-1]:g}: 2 theta is between 0 and 180 degrees")
        if not np.any(y > 0):
            raise ValueError(f"{name} has no counts: all {x.size} are zero or less; is the shutter open?")
        if np.ptp(y) == 0.0:
            raise ValueError(f"{name} is constant: all counts are {y[0]:g}")
        for field, value in (
            ("two_theta", x),
            ("counts", y),
            ("radiation", Radiation.of(radiation)),
            ("sigma", error),
            ("name", name),
        ):
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        """How many points, and where."""
        low, high = self.two_theta[0], self.two_theta[-1]
        return f"<Pattern {self.name!r}: {self.two_theta.size} points from {low:g} to {high:g} degrees>"

    @property
    def d_min(self) -> float:
        """Smallest spacing in range, with a margin for cells that differ from the library's, Angstrom."""
        return 0.485 * self.radiation.wavelengths[0] / math.sin(math.radians(0.5 * float(self.two_theta[-1])))

    def within(self, low: float, high: float) -> Pattern:
        """The part between two angles, degrees.

        Raises
        ------
        ValueError
            When too few points are there.
        """
        keep = (self.two_theta >= low) & (self.two_theta <= high)
        if keep.sum() < FEWEST_POINTS:
            raise ValueError(
                f"{self.name} has {keep.sum()} points between {low:g} and {high:g} degrees, and a phase search needs "
                f"{FEWEST_POINTS} or more: it was measured from {self.two_theta[0]:g} to {self.two_theta[-1]:g}"
            )
        sigma = None if self.sigma is None else self.sigma[keep]
        return Pattern(self.two_theta[keep], self.counts[keep], self.radiation, sigma, self.name)


def _at_once(x: Array, y: Array, sigma: Array | None) -> tuple[Array, Array, Array | None]:
    """Counts at the same angle averaged, as overlapping scans have them."""
    places, inverse, number = np.unique(x, return_inverse=True, return_counts=True)
    if places.size == x.size:
        return x, y, sigma
    spread = None if sigma is None else np.sqrt(np.bincount(inverse, sigma**2)) / number
    return places, np.bincount(inverse, y) / number, spread


def read_pattern(path: str | Path, radiation: str | float | Radiation | None = None) -> Pattern:
    """A pattern from a file of columns (.xy, .xye, .csv, .txt, .dat) or PANalytical XML (.xrdml).

    Columns are 2 theta in degrees and counts; a third column is the standard deviation in .xye files and not read
    in others. Lines that hold no numbers are headers.

    Parameters
    ----------
    path : str or Path
    radiation : str or float or Radiation, optional
        Of the measurement. Files of columns do not say it; an .xrdml file does, and what is given here goes first.

    Raises
    ------
    ValueError
        When the file cannot be read, or no radiation is known: the sentence says what to do.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".xrdml":
        return _xrdml(text, path.stem, radiation)
    rows = []
    for line in text.splitlines():
        try:
            row = [float(word) for word in re.split(r"[\s,;]+", line.strip()) if word]
        except ValueError:
            continue
        if len(row) >= 2:
            rows.append(row)
    if not rows:
        raise ValueError(f"{path.name} has no lines of two numbers: 2 theta in degrees, and counts")
    sigma = None
    if path.suffix.lower() == ".xye":
        if min(map(len, rows)) < 3:
            raise ValueError(f"{path.name} has rows without a third column, which an .xye file has: name it .xy")
        sigma = [row[2] for row in rows]
    return Pattern([row[0] for row in rows], [row[1] for row in rows], radiation, sigma, path.stem)


def _xrdml(text: str, name: str, radiation: str | float | Radiation | None) -> Pattern:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{name}.xrdml is no XML: {error}") from error
    space = root.tag[: root.tag.index("}") + 1] if "}" in root.tag else ""
    points = root.find(f".//{space}dataPoints")
    if points is None:
        raise ValueError(f"{name}.xrdml has no measured points (no element dataPoints)")
    values = points.find(f"{space}counts")
    values = points.find(f"{space}intensities") if values is None else values
    axis = next((one for one in points.findall(f"{space}positions") if one.get("axis") == "2Theta"), None)
    if values is None or values.text is None or axis is None:
        raise ValueError(f"{name}.xrdml has no counts over 2Theta")
    counts = _numbers(values.text, name, "counts")
    listed = axis.findtext(f"{space}listPositions")
    if listed:
        angles = _numbers(listed, name, "angles")
    else:
        first, last = axis.findtext(f"{space}startPosition"), axis.findtext(f"{space}endPosition")
        if not first or not last:
            raise ValueError(f"{name}.xrdml does not say where 2Theta starts and ends")
        start, end = _numbers(f"{first} {last}", name, "angles")
        angles = np.linspace(start, end, counts.size)
    factors = points.findtext(f"{space}beamAttenuationFactors")
    if factors and values.tag.endswith("counts"):
        attenuation = _numbers(factors, name, "attenuation factors")
        if attenuation.size not in (1, counts.size):
            raise ValueError(f"{name}.xrdml has {counts.size} counts and {attenuation.size} attenuation factors")
        counts = counts * attenuation
    if radiation is None:
        found = root.find(f".//{space}usedWavelength")
        lines = [] if found is None else [found.findtext(f"{space}{part}") for part in ("kAlpha1", "kAlpha2")]
        if lines and lines[0]:
            both = found is not None and found.get("intended") != "K-Alpha 1" and lines[1]
            said = " ".join(line for line in (lines if both else lines[:1]) if line)
            wavelengths = tuple(_numbers(said, name, "wavelengths").tolist())
            radiation = Radiation(wavelengths, (1.0, 0.5)[: len(wavelengths)], polarisation=1.0)
    return Pattern(angles, counts, radiation, None, name)


def _numbers(text: str, name: str, what: str) -> Array:
    try:
        return np.array(text.split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{name}.xrdml has {what} that are no numbers: {error}") from None


@dataclass(frozen=True, eq=False)
class Even:
    """A pattern on even steps, with all that a fit needs of it.

    Attributes
    ----------
    x, y : (n,) float
        2 theta in degrees, and mean counts.
    noise : (n,) float
        Variance of y by counting, as measured.
    background : (n,) float
        A first guess, below the peaks.
    splines : (k, n) float
        B-splines of the background.
    width : float
        Full width at half maximum of typical peaks, degrees.
    height : float
        Of the highest peaks above the background.
    saturated : (k,) float
        2 theta of points where the detector was saturated: what they say is not used.
    """

    x: Array
    y: Array
    noise: Array
    background: Array
    splines: Array
    width: float
    height: float
    radiation: Radiation
    saturated: Array

    @property
    def step(self) -> float:
        """Degrees."""
        return float(self.x[1] - self.x[0])


def even(pattern: Pattern) -> Even:
    """A pattern averaged to even steps, its noise measured there.

    Neighbours on a detector's finest grid share their noise, so that a peak has more of it than single points show: the
    variance over the counts comes from differences between means of neighbours.
    """
    x, y = pattern.two_theta, pattern.counts
    native = float(np.median(np.diff(x)))
    width, narrowest = _widths(x, y)
    step = max(native, narrowest / POINTS_PER_WIDTH)
    step = native * max(1, round(step / native))
    grid = np.arange(x[0] + 0.5 * (step - native), x[-1] + 1e-9, step)
    cell = np.floor((x - x[0] + 0.5 * native) / step + 1e-6).astype(np.int64)
    number = np.bincount(cell, minlength=grid.size)[: grid.size]
    total = np.bincount(cell, y, grid.size)[: grid.size]
    mean = np.where(number > 0, total / np.maximum(number, 1), np.interp(grid, x, y))
    splines = splines_on(grid, KNOT)
    background = _below_peaks(mean, splines)
    floor = max(float(np.percentile(mean, 5)), 1e-3 * float(mean.max()), 1e-12)
    if pattern.sigma is not None:
        variance = np.bincount(cell, pattern.sigma**2, grid.size)[: grid.size] / np.maximum(number, 1) ** 2
        noise = np.where(number > 0, variance, np.interp(grid, x, pattern.sigma**2))
    else:
        noise = _scatter(y, floor) * np.maximum(gaussian_filter1d(mean, 2.0), floor) / np.maximum(number, 1)
    height = float(np.percentile(mean - background, 99.9))
    # Where nothing was measured, as between two scans, the line drawn through says nothing; nor does a full detector.
    full = saturated(pattern)
    silent = (number == 0) | (np.bincount(cell[full], minlength=grid.size)[: grid.size] > 0)
    noise = np.where(silent, (NOTHING * (height + floor)) ** 2, noise)
    return Even(grid, mean, noise, background, splines, width, max(height, 1e-9), pattern.radiation, x[full])


def _scatter(y: Array, floor: float) -> float:
    """Variance over the counts, of independent points that scatter as means of neighbours do.

    Fourth differences of the points as measured: second ones, or those of wider steps, have the curvature of peaks and
    of their feet in them, which are all over many a pattern.
    """
    smooth = np.maximum(gaussian_filter1d(y, 2.0), floor)
    means, expected = (uniform_filter1d(one, SHARING)[1:-1] for one in (y, smooth))
    fourth = means
    for _ in range(4):
        fourth = fourth[APART:] - fourth[:-APART]
    middle = expected[2 * APART : -2 * APART]
    return max(float(np.median(fourth**2 / middle)) * SHARING / (70.0 * NORMAL_MEDIAN), 1e-9)


def saturated(pattern: Pattern) -> Array:
    """Points with the highest count of all, (n,) bool, where so many neighbours share it that it is no chance.

    Neighbours that scatter with a standard deviation s are equal with a probability of q / (s sqrt(4 pi)), where q is
    the smallest difference between counts: low counts and rounded ones often are.
    """
    y = pattern.counts
    full = y == y.max()
    pairs = int(np.sum(full[1:] & full[:-1]))
    if pairs < 2:
        return np.zeros(y.size, bool)
    second, level = y[2:] - 2.0 * y[1:-1] + y[:-2], np.maximum(gaussian_filter1d(y, 2.0)[1:-1], 1e-12)
    if pattern.sigma is None:
        spread = math.sqrt(float(np.median(second**2 / (6.0 * level))) / NORMAL_MEDIAN * float(y.max()))
    else:
        spread = float(np.median(pattern.sigma[full]))
    quantum = float(np.min(np.diff(np.unique(y))))
    chance = quantum / max(spread * math.sqrt(4.0 * math.pi), 1e-300)
    return np.asarray(full & (pairs * math.log(max(chance, 1e-300)) < math.log(CHANCE)))


def _widths(x: Array, y: Array) -> tuple[float, float]:
    """Full widths at half maximum of the prominent peaks, median and narrowest, degrees."""
    step = float(np.median(np.diff(x)))
    grid = np.arange(x[0], x[-1], step)
    smooth = gaussian_filter1d(np.interp(grid, x, y), 1.5)
    net = smooth - np.percentile(smooth, 20)
    tops, _ = find_peaks(net, prominence=PROMINENT * net.max())
    if tops.size == 0:
        return max(0.1, 5.0 * step), max(0.1, 5.0 * step)
    widths = np.clip(peak_widths(net, tops)[0] * step, 3.0 * step, 2.0)
    return float(np.median(widths)), float(np.percentile(widths, NARROW))


def splines_on(x: Array, spacing: float) -> Array:
    """B-splines, (k, n), with knots so many degrees apart, or nearer where that makes fewer than eight."""
    inner = np.linspace(x[0], x[-1], max(8, round((x[-1] - x[0]) / spacing)) + 1)
    knots = np.concatenate([[x[0]] * 3, inner, [x[-1]] * 3])
    inside = np.clip(x, x[0], x[-1] - 1e-9 * (x[-1] - x[0]))
    return np.ascontiguousarray(BSpline.design_matrix(inside, knots, 3).toarray().T)


def _below_peaks(y: Array, splines: Array) -> Array:
    """A spline through what is no peak: points above it lose their weight, step by step."""
    weight = np.ones(y.size)
    for _ in range(30):
        design = splines * weight
        background = np.linalg.solve(design @ design.T + 1e-9 * np.eye(len(splines)), design @ (weight * y)) @ splines
        rest = y - background
        low = rest[rest < np.median(rest)]
        scatter = 1.4826 * float(np.median(np.abs(low - np.median(low)))) + 1e-12
        weight = np.where(rest > 1.5 * scatter, 0.03, 1.0)
    return np.asarray(background)
