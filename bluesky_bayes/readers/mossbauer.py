"""Counts files of Moessbauer spectrometers with a triangular drive: reading, velocity calibration, folding.

A file has a whole number a line, one a channel. Velocity runs one way in the first half of the channels and back in
the second, so that the spectrum is seen twice, once mirrored. A spectrum keeps each channel at its own velocity:
counts stay counts, and nothing is interpolated. Source and detector come nearer in one half and part in the other, so
that one has a parabola in velocity more and the other as much less. How the halves share the counts of a velocity tells
how much, whatever the absorber: it becomes the channels' exposure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import interpolate, ndimage, optimize, signal

from bluesky_bayes.dataset import Array, Dataset, Origin
from bluesky_bayes.families.mossbauer import IRON_FIELD, IRON_LINES, sextet
from bluesky_bayes.tables import with_error

CHANNELS = 1023
SMOOTHING = 2.0
UNLIKELY = 1e-9
TIME = re.compile(r"(\d{8})_(\d+)h(\d+)m(\d+)s")


@dataclass(frozen=True)
class Calibration:
    """Velocity of each channel: ``velocity_per_channel * (distance from the fold point - that of zero velocity)``.

    Attributes
    ----------
    velocity_per_channel, velocity_per_channel_error : float
        mm/s, negative where velocity is negative in channel 0.
    fold_point, fold_point_error : float
        Channel, counted from 0, about which the halves are mirrored.
    zero, zero_error : float
        Distance from there to the centre of alpha-Fe, in channels.
    width, width_error : float
        Full width of the foil's Lorentzian lines at half maximum, mm/s.
    chi2_per_dof : float
        Of the fit: about 1 where the drive is linear and the counts are sound.
    """

    velocity_per_channel: float
    velocity_per_channel_error: float
    fold_point: float
    fold_point_error: float
    zero: float
    zero_error: float
    width: float
    width_error: float
    chi2_per_dof: float

    @property
    def zero_channels(self) -> tuple[float, float]:
        """Channels of zero velocity in both halves."""
        return self.fold_point - self.zero, self.fold_point + self.zero

    @property
    def zero_channels_error(self) -> float:
        """Standard error of each."""
        return math.hypot(self.fold_point_error, self.zero_error)

    def velocity(self, channel: npt.ArrayLike) -> Array:
        """Velocity in mm/s of channels, which may be fractions."""
        distance = np.abs(np.asarray(channel, dtype=np.float64) - self.fold_point)
        velocity: Array = self.velocity_per_channel * (distance - self.zero)
        return velocity

    def __str__(self) -> str:
        """In words."""
        first, second = (with_error(channel, self.zero_channels_error) for channel in self.zero_channels)
        return (
            f"{with_error(abs(self.velocity_per_channel), self.velocity_per_channel_error)} mm/s a channel, zero at "
            f"channels {first} and {second}, folded at {with_error(self.fold_point, self.fold_point_error)}, lines "
            f"{with_error(self.width, self.width_error)} mm/s wide, chi2/dof {self.chi2_per_dof:.2f}"
        )


def read_counts(path: str | Path, channels: int = CHANNELS) -> Array:
    """Counts of a file with one whole number a line, (channels,).

    Raises
    ------
    ValueError
        When a line is no count, channels are missing, or there are zeros that such a spectrum cannot have.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8", errors="replace").split()
    wrong = next((i for i, line in enumerate(lines) if not (line.isascii() and line.isdigit())), None)
    if wrong is not None:
        raise ValueError(
            f"{path.name} is no counts file: entry {wrong + 1} is {lines[wrong][:20]!r} where a whole number of counts "
            "is expected"
        )
    counts = np.array(lines, dtype=np.float64)
    problems = []
    if counts.size != channels:
        problems.append(f"it has {counts.size} channels where {channels} are expected")
    first, length = _longest_zeros(counts)
    if length and counts.size * math.exp(-0.5 * length * float(np.median(counts))) < UNLIKELY:
        problems.append(
            f"{_channels(length)} from channel {first} on hold no counts, where others hold {np.median(counts):.0f}"
        )
    if problems:
        raise ValueError(
            f"{path.name} is damaged: {', and '.join(problems)}; leave it out or save it from the spectrometer again"
        )
    return counts


def by_time(paths: Iterable[str | Path]) -> list[Path]:
    """Files in the order of the time in their names, such as ``20251021_22h25m5s``: hours are not padded with zeros.

    Raises
    ------
    ValueError
        When a name holds no time.
    """
    return sorted(map(Path, paths), key=_time)


def fold_point(counts: npt.ArrayLike) -> tuple[float, float]:
    """Channel, counted from 0, about which a spectrum is mirrored, and its standard error.

    That of the largest overlap of the spectrum, a little smoothed, with its mirror image.

    Raises
    ------
    ValueError
        When no line stands out of the noise.
    """
    counts = np.asarray(counts, dtype=np.float64)
    smooth = ndimage.gaussian_filter1d(counts - np.median(counts), SMOOTHING, mode="nearest")
    slope2 = float(np.sum(np.gradient(smooth) ** 2))
    noise2 = float(np.mean(counts))
    of_noise = counts.size * noise2 / (4.0 * math.sqrt(math.pi) * SMOOTHING**3)
    if slope2 < 2.0 * of_noise:
        raise ValueError(
            "no line stands out of the noise: the fold point cannot be told; use that of a calibration foil"
        )
    overlap = signal.fftconvolve(smooth, smooth)
    middle = counts.size // 2
    top = middle + int(np.argmax(overlap[middle : middle + counts.size]))
    near = np.arange(top - 3, top + 4)
    curve = interpolate.CubicSpline(near, overlap[near])
    found = optimize.minimize_scalar(lambda s: -float(curve(s)), bounds=(top - 1, top + 1), method="bounded")
    return 0.5 * float(found.x), math.sqrt(noise2 / (slope2 - of_noise))


def fold(counts: npt.ArrayLike, point: float | None = None) -> tuple[Array, Array]:
    """Counts of mirrored channels added whole, so that sums are counts too, and where in the first half they lie.

    Where twice the fold point is not a whole number the mirrored channel is the nearest one; each sum then is that of
    two places up to a quarter of a channel from the one given. Channels without a partner are left out.

    Parameters
    ----------
    counts : (n,) array_like
    point : float, optional
        Fold point, counted from 0; by default the spectrum's own.

    Returns
    -------
    channels : (m,) float64
        In the first half, as fractions.
    sums : (m,) float64

    Examples
    --------
    >>> fold([1, 2, 3, 30, 20, 10], 2.5)
    (array([0., 1., 2.]), array([11., 22., 33.]))
    """
    counts = np.asarray(counts, dtype=np.float64)
    point = float(fold_point(counts)[0] if point is None else point)
    twice = round(2.0 * point)
    first = np.arange(max(0, twice - counts.size + 1), (twice + 1) // 2)
    channels: Array = first.astype(np.float64) + (point - 0.5 * twice)
    return channels, counts[first] + counts[twice - first]


def calibrate(counts: npt.ArrayLike, positive_first: bool = True) -> Calibration:
    """Velocity calibration from the unfolded counts of an alpha-Fe foil: 33.0 T, lines at 5.31, 3.08 and 0.84 mm/s.

    Twelve Lorentzian lines are fitted, of one width, with free depths of outer, middle and inner lines.

    Parameters
    ----------
    counts : (n,) array_like
    positive_first : bool
        Whether velocity is positive in channel 0. The foil cannot tell, its spectrum is symmetric.

    Raises
    ------
    ValueError
        When twelve lines cannot be found, or the fit misses them.
    """
    counts = np.asarray(counts, dtype=np.float64)
    channel = np.arange(float(counts.size))
    found, covariance = optimize.curve_fit(
        _foil, channel, counts, _start(counts), np.sqrt(np.maximum(counts, 1.0)), absolute_sigma=True
    )
    misfit = (counts - _foil(channel, *found)) ** 2 / np.maximum(counts, 1.0)
    (point, zero, slope, width), errors = found[:4], np.sqrt(np.diag(covariance))
    return Calibration(
        velocity_per_channel=slope if positive_first else -slope,
        velocity_per_channel_error=errors[2],
        fold_point=point,
        fold_point_error=errors[0],
        zero=zero,
        zero_error=errors[1],
        width=width,
        width_error=errors[3],
        chi2_per_dof=float(misfit.sum()) / (counts.size - found.size),
    )


def drive_parabola(counts: npt.ArrayLike, calibration: Calibration) -> tuple[float, float]:
    """By which fraction the second half counts more at zero velocity, and the first less, with its standard error.

    The excess vanishes where the drive turns. Of the counts at one velocity each half has its share whatever the
    absorber does, so that the share tells of the drive alone.
    """
    counts = np.asarray(counts, dtype=np.float64)
    first = np.arange(math.ceil(2.0 * calibration.fold_point) - counts.size + 1, math.floor(calibration.fold_point))
    first = first[first >= 0]
    mirrored = np.interp(2.0 * calibration.fold_point - first, np.arange(counts.size), counts)
    bulge = _bulge(calibration.velocity(first))
    total = counts[first] + mirrored
    weight = float(np.sum(bulge**2 * total))
    return float(np.sum(bulge * (mirrored - counts[first]))) / weight, 1.0 / math.sqrt(weight)


def spectrum(source: str | Path | npt.ArrayLike, calibration: Calibration, folded: bool = False) -> Dataset:
    """Counts against velocity, of a file or of counts that were read before.

    Parameters
    ----------
    source : str, Path or (n,) array_like
    calibration : Calibration
    folded : bool
        Add mirrored channels whole, see `fold`: half as many points, for speed. The parabola of the drive cancels then.
        By default both halves are kept, which loses nothing, and the parabola is put into the exposure.

    Raises
    ------
    ValueError
        For a damaged file.
    """
    counts = read_counts(source) if isinstance(source, str | Path) else np.asarray(source, dtype=np.float64)
    units, origin = {"x": "mm/s", "y": "counts"}, Origin(x="velocity", y="counts")
    if folded:
        channels, sums = fold(counts, calibration.fold_point)
        return Dataset(calibration.velocity(channels), sums, counts=True, units=units, origin=origin)
    channel = np.arange(counts.size)
    velocity = calibration.velocity(channel)
    half = np.sign(channel - calibration.fold_point)
    exposure = 1.0 + drive_parabola(counts, calibration)[0] * half * _bulge(velocity)
    return Dataset(velocity, counts, counts=True, exposure=exposure, units=units, origin=origin)


def _bulge(velocity: Array) -> Array:
    """How far the drive is from where it turns, as a fraction of the most."""
    bulge: Array = 1.0 - (velocity / np.max(np.abs(velocity))) ** 2
    return bulge


def _longest_zeros(counts: Array) -> tuple[int, int]:
    """Where the longest run of zeros begins, and its length."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], counts == 0, [0]])))
    if not edges.size:
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    return int(edges[::2][np.argmax(lengths)]), int(lengths.max())


def _channels(n: int) -> str:
    return "1 channel" if n == 1 else f"{n} channels"


def _time(path: Path) -> tuple[int, ...]:
    match = TIME.search(path.name)
    if match is None:
        raise ValueError(f"the name of {path.name} holds no time such as 20251021_22h25m5s")
    return tuple(int(part) for part in match.groups())


def _start(counts: Array) -> Array:
    """What the fit of a foil begins with: from the twelve dips that stand out most."""
    point, _ = fold_point(counts)
    smooth = ndimage.gaussian_filter1d(counts, SMOOTHING, mode="nearest")
    dips, found = signal.find_peaks(-smooth, prominence=1.0)
    dips = dips[np.argsort(found["prominences"])[-12:]]
    distance = np.sort(np.abs(dips - point))
    lines = np.concatenate([-np.array(IRON_LINES), np.array(IRON_LINES)[::-1]])
    if dips.size < lines.size * 2 or np.ptp(distance.reshape(-1, 2), axis=1).max() > 0.02 * counts.size:
        raise ValueError(
            "the twelve lines of alpha-Fe are not to be found in these counts: is this the foil, unfolded?"
        )
    slope, offset = np.polyfit(distance.reshape(-1, 2).mean(axis=1), lines, 1)
    base = float(np.median(counts))
    depth = base - float(smooth.min())
    return np.array([point, -offset / slope, slope, 0.3, base, depth, 2.0 / 3.0, 1.0 / 3.0, 0.0])


def _foil(
    channel: Array, point: float, zero: float, slope: float, width: float, base: float, depth: float,
    middle: float, inner: float, parabola: float,
) -> Array:  # fmt: skip
    """Expected counts of the foil."""
    velocity = slope * (np.abs(channel - point) - zero)
    half = np.sign(channel - point)
    lines = sextet.shape.function(velocity, 0.0, IRON_FIELD, 0.0, width, middle, inner)
    curve: Array = base * (1.0 + parabola * half * _bulge(velocity)) - depth * lines
    return curve
