"""One measurement as the theory sees it: points, their uncertainty, and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

FEWEST_POINTS = 2
LARGEST = 1e100
"""The largest number, whose square is far from the largest that there is, and one over the smallest uncertainty."""


class Reading(NamedTuple):
    """A value that belongs to a whole data set, and its unit."""

    value: float | str
    unit: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a data set came from.

    Attributes
    ----------
    run_uid : str
        ``uid`` of the run's start document; empty when the data were typed in.
    stream, x, y : str
        Stream and field names; the fields name the axes in messages and plots.
    scan_id : int or None
        Scan number, as people say it.
    events : tuple of int
        Numbers, from 1, of the events whose patterns these are, added up, or of the line of a grid; empty where they
        are all of a run, one a point.
    metadata : mapping of str to Reading
        What else was known: temperature, field, settings of the devices.
    """

    run_uid: str = ""
    stream: str = ""
    x: str = "x"
    y: str = "y"
    scan_id: int | None = None
    events: tuple[int, ...] = ()
    metadata: Mapping[str, Reading] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points to be explained, immutable, picklable and hashable by content.

    Points are kept in ascending order of `x`; what was done to reach that order is said in `notes`.

    Parameters
    ----------
    x : (n,) array_like
        Scanned variable.
    y : (n,) array_like
        Measured values; with ``counts=True`` whole numbers from zero up.
    sigma : (n,) array_like or float, optional
        Standard deviation of each point, in the unit of `y`.
    counts : bool
        `y` are counts of events, so that Poisson noise is the default.
    exposure : (n,) array_like or float, optional
        What one unit of the model's rate is multiplied by to give expected counts
        (counting time, monitor). Positive. Only meaningful for counts.
    mask : (n,) array_like of bool, optional
        True where a point is to be used. Masked points are left out, and so are those of masked arrays
        (`numpy.ma`), where True means masked.
    units : mapping, optional
        Units of the axes, for example ``{"x": "keV", "y": "counts"}``.
    origin : Origin, optional
        Run, stream and fields.
    notes : tuple of str
        What was done to the points before.

    rows : (n,) int64
        Which of the points that were given each is; filled in, and kept by `dataclasses.replace`.
    n_given : int
        How many points were given; filled in.

    Raises
    ------
    ValueError
        When the points cannot be analysed; the sentence names the field and says what to do.

    Examples
    --------
    >>> Dataset([0.0, 1.0, 2.0], [1.0, 3.0, 2.0]).n
    3
    """

    x: Array
    y: Array
    sigma: Array | None = None
    counts: bool = False
    exposure: Array | None = None
    mask: BoolArray | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    notes: tuple[str, ...] = ()
    rows: npt.NDArray[np.intp] = field(default_factory=lambda: np.arange(0))
    n_given: int = 0

    def __post_init__(self) -> None:
        """Check every field, drop masked points and put the rest in order."""
        x_name, y_name = repr(self.origin.x), repr(self.origin.y)
        x, y = _column(self.x, f"x ({x_name})"), _column(self.y, f"y ({y_name})")
        if x.size != y.size:
            raise ValueError(f"x ({x_name}) has {x.size} points and y ({y_name}) has {y.size}; give one y for each x")
        sigma = _beside(self.sigma, x.size, f"sigma of y ({y_name})")
        exposure = _beside(self.exposure, x.size, f"exposure of y ({y_name})")
        keep = _mask(self.mask, x.size)
        for values in (self.x, self.y, self.sigma, self.exposure):
            if isinstance(values, np.ma.MaskedArray):
                keep &= ~np.ma.getmaskarray(values)
        x, y = x[keep], y[keep]
        sigma = None if sigma is None else sigma[keep]
        exposure = None if exposure is None else exposure[keep]
        _check_points(x, y, x_name, y_name)
        _check_positive(sigma, f"sigma of y ({y_name})", "mask the point or give its real uncertainty")
        _check_positive(exposure, f"exposure of y ({y_name})", "mask points that were not exposed")
        if self.counts:
            check_counts(y, y_name)
        order, notes = _order(x, x_name)
        rows, known = np.flatnonzero(keep)[order], self.n_given > 0 and self.rows.size == keep.size
        object.__setattr__(self, "rows", _frozen(self.rows[rows] if known else rows))
        object.__setattr__(self, "n_given", self.n_given if known else keep.size)
        object.__setattr__(self, "x", _frozen(x[order]))
        object.__setattr__(self, "y", _frozen(y[order]))
        object.__setattr__(self, "sigma", None if sigma is None else _frozen(sigma[order]))
        object.__setattr__(self, "exposure", None if exposure is None else _frozen(exposure[order]))
        object.__setattr__(self, "mask", None)
        object.__setattr__(self, "units", _units(self.units))
        object.__setattr__(self, "notes", tuple(dict.fromkeys((*self.notes, *notes))))

    def __repr__(self) -> str:
        """How many points of what, and where."""
        what = f"{self.label('y')} against {self.label('x')}"
        return f"<Dataset: {self.n} points, {what} from {self.x[0]:.6g} to {self.x[-1]:.6g}>"

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Arrays that have travelled are as unchangeable as before."""
        for name, value in state.items():
            object.__setattr__(self, name, _frozen(value) if isinstance(value, np.ndarray) else value)

    @property
    def n(self) -> int:
        """Number of points."""
        return self.x.size

    def settled(self) -> Dataset:
        """The same points as if they had been given in their order."""
        return replace(self, rows=np.arange(0), n_given=0)

    def arranged(self, values: Array, name: str) -> Array:
        """Numbers that were given for the points, in their order as it is now.

        Parameters
        ----------
        values : ndarray
            One for each point as the points were given, with those that were masked or without.
        name : str
            For the message.

        Raises
        ------
        ValueError
            When there are more or fewer.
        """
        if values.shape == (self.n_given,):
            return values[self.rows]
        if values.shape == (self.n,):
            return values[np.argsort(np.argsort(self.rows))]
        if values.ndim != 1:
            raise ValueError(f"{name} must be one number or have one dimension; got shape {values.shape}")
        raise ValueError(
            f"{name} has {values.size} values for {self.n} points of y ({self.origin.y!r}); give one for each point or "
            "one number"
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers (not of their origin), 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for values in (self.x, self.y, self.sigma, self.exposure):
            digest.update(b"-" if values is None else values.tobytes())
        digest.update(bytes([self.counts]))
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        """Equal when the numbers are."""
        return isinstance(other, Dataset) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash of the numbers."""
        return hash(self.digest)

    def label(self, axis: str) -> str:
        """Name of the axis ``"x"`` or ``"y"`` with its unit, for plots."""
        name: str = getattr(self.origin, axis)
        return f"{name} ({self.units[axis]})" if self.units.get(axis) else name


def check_counts(y: Array, y_name: str) -> None:
    """Raise ValueError unless `y` are whole numbers from zero up."""
    bad = np.flatnonzero((y < 0) | (y != np.rint(y)))
    if bad.size:
        raise ValueError(
            f"y ({y_name}) is not counts: {bad.size} of {y.size} values are negative or not whole, the first is "
            f"{y[bad[0]]:.17g}; for Poisson noise give raw counts (not rates), or use Gaussian noise"
        )


def _column(values: Any, name: str) -> Array:
    try:
        if np.iscomplexobj(values):
            raise ValueError("they are complex; give the real part, or the size, as what is analysed")
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a list of numbers: {error}") from error
    if column.ndim != 1:
        raise ValueError(f"{name} must have one dimension; got shape {column.shape}")
    return column


def _beside(values: Any, n: int, name: str) -> Array | None:
    if values is None:
        return None
    column = np.full(n, _column([values], name)[0]) if np.ndim(values) == 0 else _column(values, name)
    if column.size != n:
        raise ValueError(f"{name} has {column.size} values for {n} points; give one for each point or one number")
    return column


def _units(units: Any) -> dict[str, str]:
    if not isinstance(units, Mapping):
        raise ValueError(f'units must be given by axis, such as {{"x": "mm", "y": "counts"}}; got {units!r}')
    return dict(units)


def _mask(mask: Any, n: int) -> BoolArray:
    if mask is None:
        return np.ones(n, dtype=np.bool_)
    keep = np.asarray(mask)
    if keep.shape != (n,) or not np.all((keep == 0) | (keep == 1)):
        raise ValueError(f"mask of shape {keep.shape} for {n} points; give one True or False for each point")
    return keep.astype(np.bool_)


def _check_points(x: Array, y: Array, x_name: str, y_name: str) -> None:
    if x.size == 0:
        raise ValueError(f"there are no points of y ({y_name}) against x ({x_name}); check the fields and the mask")
    for values, name in ((x, f"x ({x_name})"), (y, f"y ({y_name})")):
        bad = np.flatnonzero(~(np.abs(values) <= LARGEST))
        if bad.size:
            raise ValueError(
                f"{name} is {values[bad[0]]} at point {bad[0]} ({bad.size} such points); mask these points"
            )
    if x.size < FEWEST_POINTS:
        raise ValueError(f"y ({y_name}) against x ({x_name}) is a single point; a model needs at least {FEWEST_POINTS}")
    if np.ptp(x) == 0:
        raise ValueError(f"x ({x_name}) is {x[0]:g} at all {x.size} points; choose the field that was scanned")


def _check_positive(values: Array | None, name: str, cure: str) -> None:
    if values is None:
        return
    bad = np.flatnonzero(~positive(values))
    if bad.size:
        raise ValueError(
            f"{name} is {values[bad[0]]:g} at point {bad[0]} ({bad.size} such points), it must be positive; {cure}"
        )


def positive(values: Array) -> BoolArray:
    """Which numbers are positive, and neither too small nor too large to be worked with."""
    found: BoolArray = (values >= 1.0 / LARGEST) & (values <= LARGEST)
    return found


def _order(x: Array, x_name: str) -> tuple[npt.NDArray[np.intp], tuple[str, ...]]:
    notes = []
    steps = np.diff(x)
    if not (np.all(steps >= 0) or np.all(steps <= 0)):
        notes.append(f"x ({x_name}) did not run one way: the points were sorted; check that it is the scanned axis")
    repeats = x.size - np.unique(x).size
    if repeats:
        notes.append(
            f"x ({x_name}) repeats {repeats} of its {x.size} values: they count as measurements of their own; "
            "if they are one measurement, sum them first"
        )
    return np.argsort(x, kind="stable"), tuple(notes)


def _frozen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values
