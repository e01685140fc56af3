"""What is done to measured points before a model sees them, in a fixed order, with their noise.

Numbers in, numbers out: what the fields are called and where they come from is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array, BoolArray

Ranges: TypeAlias = tuple[tuple[float, float], ...]
Groups: TypeAlias = list[npt.NDArray[np.intp]]

FEW_COUNTS = 10
"""Counts below which a normal distribution is a poor stand-in for Poisson's."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Level:
    """What is subtracted from y, or y is divided by: a number, a pattern, or a field of some stream.

    Attributes
    ----------
    field : str or None
        Field; where only `stream` is given, the one that y has.
    stream : str or None
        Stream that holds it. Of another stream than y's the mean of all its events is taken, of y's own the value that
        belongs to each point.
    value : float or tuple of float, optional
        A number, or a pattern with one number for each channel, in place of a field.
    sigma : str, float or tuple of float, optional
        Its standard deviation: a field beside it, a number or one for each channel.
    noise : {"counts", "scatter"}, optional
        In place of `sigma`: it is counts of events, or its events (of another stream) scatter as they do. Left out with
        `sigma`, it is known exactly.
    scale : float
        What it is multiplied by first, for example the ratio of two counting times.

    Raises
    ------
    ValueError
        When it has no source or two, or its noise cannot be known that way.
    """

    field: str | None = None
    stream: str | None = None
    value: float | tuple[float, ...] | None = None
    sigma: str | float | tuple[float, ...] | None = None
    noise: str | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the choice."""
        for name in ("value", "sigma"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str):
                object.__setattr__(self, name, _numbers(given, f"{name} of a level"))
        _text(self, "field", "stream", "noise")
        named = self.field is not None or self.stream is not None
        if named == (self.value is not None):
            raise ValueError("a level is a value, or a field (of a stream); give one of the two")
        if self.noise not in (None, "counts", "scatter"):
            raise ValueError(f"noise of a level must be 'counts', 'scatter' or left out; got {self.noise!r}")
        if self.noise and self.sigma is not None:
            raise ValueError("the noise of a level is its sigma or its noise; give one of the two")
        if self.value is not None and (self.noise == "scatter" or isinstance(self.sigma, str)):
            raise ValueError("a level given as a value has no events that scatter and no field beside it: give sigma")
        if not np.all(np.asarray(0.0 if self.sigma is None or isinstance(self.sigma, str) else self.sigma) >= 0):
            raise ValueError(f"sigma of a level must not be negative; got {self.sigma}")
        object.__setattr__(self, "scale", _number(self.scale, "scale of a level"))
        if self.scale == 0:
            raise ValueError("scale of a level is 0: leave the level out")

    @property
    def sigma_field(self) -> str | None:
        """Field that holds its standard deviation."""
        return self.sigma if isinstance(self.sigma, str) else None


@dataclass(frozen=True)
class Image:
    """How an image becomes a pattern: a region of interest, added up along one axis.

    Attributes
    ----------
    rows, columns : (int, int), optional
        First, and first that is no more part of the region, counted from 0; all by default.
    sum : {"rows", "columns"}
        What is added up: ``"rows"`` leaves one number for each column. Several frames of one event are added too.

    Raises
    ------
    ValueError
        When the region is empty or `sum` is neither.
    """

    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    sum: str = "rows"

    def __post_init__(self) -> None:
        """Check the choice."""
        for name in ("rows", "columns"):
            given = getattr(self, name)
            if given is None:
                continue
            edges = _numbers(given, f"{name} of an image")
            if not isinstance(edges, tuple) or len(edges) != 2 or any(e != int(e) for e in edges):
                raise ValueError(f"{name} of an image are two whole numbers [first, end]; got {given!r}")
            if not 0 <= edges[0] < edges[1]:
                raise ValueError(f"{name} of an image are no region: {given!r}; give [first, end] with first < end")
            object.__setattr__(self, name, (int(edges[0]), int(edges[1])))
        if self.sum not in ("rows", "columns"):
            raise ValueError(f"sum of an image must be 'rows' or 'columns'; got {self.sum!r}")

    def region(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Slices of the region of interest in an image of this shape.

        Raises
        ------
        ValueError
            When the image is smaller than that.
        """
        for name, given, size in (("rows", self.rows, shape[-2]), ("columns", self.columns, shape[-1])):
            if given is not None and given[1] > size:
                raise ValueError(f"the image has {size} {name} and the region of interest ends at {given[1]}")
        return slice(*(self.rows or (0, shape[-2]))), slice(*(self.columns or (0, shape[-1])))

    def pattern(self, image: npt.NDArray[Any]) -> Array:
        """Pattern of the region of interest of an image, or of several on top of each other, (..., rows, columns)."""
        rows, columns = self.region(image.shape)
        return self.added(image[..., rows, columns])

    def added(self, region: npt.NDArray[Any]) -> Array:
        """Pattern of a region that is cut out already."""
        kept = region.ndim - (1 if self.sum == "rows" else 2)
        pattern: Array = region.sum(axis=tuple(i for i in range(region.ndim) if i != kept), dtype=np.float64)
        return pattern


@dataclass(frozen=True)
class Mask:
    """Points that are left out.

    Attributes
    ----------
    channels : tuple of int
        Numbers, from 0, of points in a scan or channels in a pattern.
    ranges : tuple of (float, float)
        Ranges of x, ends included.
    field : str or None
        Field with a flag for each point or channel; what is not zero (or is missing) is left out.
    """

    channels: tuple[int, ...] = ()
    ranges: Ranges = ()
    field: str | None = None

    def __post_init__(self) -> None:
        """Check the choice."""
        _text(self, "field")
        channels = _numbers(self.channels, "channels of a mask")
        if not isinstance(channels, tuple) or any(c != int(c) or c < 0 for c in channels):
            raise ValueError(f"channels of a mask are whole numbers from 0 up; got {self.channels!r}")
        object.__setattr__(self, "channels", tuple(int(c) for c in channels))
        object.__setattr__(self, "ranges", _ranges(self.ranges, "ranges of a mask"))


@dataclass(frozen=True)
class Rebin:
    """Neighbouring points made one: by their number, by a width in x, or between edges. Give one of the three.

    Attributes
    ----------
    points : int or None
        Points that make a bin; what is left over at the end is left out.
    width : float or None
        Width of the bins in the unit of x; the first begins at the smallest x.
    edges : tuple of float
        Edges of bins that may differ in width; points outside are left out.

    Raises
    ------
    ValueError
        When not one of the three is given, or it makes no bins.
    """

    points: int | None = None
    width: float | None = None
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the choice."""
        edges = _numbers(self.edges, "edges of bins")
        object.__setattr__(self, "edges", edges if isinstance(edges, tuple) else (edges,))
        if sum([self.points is not None, self.width is not None, bool(self.edges)]) != 1:
            raise ValueError("bins are made by points, by width or by edges; give one of the three")
        if self.points is not None and (_number(self.points, "points of a bin") < 2 or self.points != int(self.points)):
            raise ValueError(f"points of a bin must be a whole number from 2 up; got {self.points!r}")
        if self.width is not None and _number(self.width, "width of a bin") <= 0:
            raise ValueError(f"width of a bin must be positive; got {self.width!r}")
        if self.edges and (len(self.edges) < 3 or not np.all(np.diff(self.edges) > 0)):
            raise ValueError("edges of bins must be at least three numbers that ascend")

    def groups(self, x: Array) -> tuple[Groups, str]:
        """Indices of the points in each bin, for x that ascend; and a note on points that are in none."""
        if self.points is not None:
            n = int(self.points)
            whole, left = divmod(x.size, n)
            what = f"the last {left} of {x.size} points do not fill a bin of {n} and are left out" if left else ""
            return list(np.arange(whole * n).reshape(whole, n)), what
        if self.width is not None:
            bins = np.floor((x - x[0]) / self.width + ROUNDING) if x.size else x
            return np.split(np.arange(x.size), np.flatnonzero(np.diff(bins)) + 1), ""
        edges = np.array(self.edges)
        bins = np.searchsorted(edges, x, side="right") - (x == edges[-1])
        inside = np.flatnonzero((bins > 0) & (bins < edges.size))
        cuts = np.flatnonzero(np.diff(bins[inside])) + 1
        out = x.size - inside.size
        return np.split(inside, cuts), f"{out} of {x.size} points lie outside the bins and are left out" if out else ""


@dataclass(frozen=True)
class Preparation:
    """What is done to the points before a model sees them.

    The order is fixed. Image, mask and region first. Counts are then added up (`repeats`, `rebin`), before anything
    makes them something else; then dark and background are subtracted, then y is divided by the monitor. Points that
    are no counts are averaged (`repeats`, `rebin`) at the end, weighted by their uncertainties.

    Attributes
    ----------
    counts : bool
        y are counts of events: their variance is their number, and repeats and bins add. Poisson noise says so too.
    image : Image, optional
        How an image becomes a pattern.
    mask : Mask, optional
        Points that are left out.
    region : (float, float) or tuple of (float, float)
        Range or ranges of x that are kept, ends included; all by default.
    dark, background : Level, optional
        Subtracted from each y.
    monitor : Level, optional
        Divides each y.
    repeats : bool
        Points at the same x are one.
    rebin : Rebin, optional
        Neighbouring points are one.
    """

    counts: bool = False
    image: Image | None = None
    mask: Mask | None = None
    region: Ranges = ()
    dark: Level | None = None
    background: Level | None = None
    monitor: Level | None = None
    repeats: bool = False
    rebin: Rebin | None = None

    def __post_init__(self) -> None:
        """Check the choice."""
        object.__setattr__(self, "region", _ranges(self.region, "region"))
        for name in ("counts", "repeats"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} of a preparation must be true or false; got {getattr(self, name)!r}")
        for name, kind in PARTS.items():
            if not isinstance(getattr(self, name), kind | None):
                raise ValueError(f"{name} of a preparation must be a {kind.__name__}; got {getattr(self, name)!r}")

    @property
    def levels(self) -> dict[str, Level]:
        """Levels that are given, by name."""
        given = {name: getattr(self, name) for name in ("dark", "background", "monitor")}
        return {name: level for name, level in given.items() if level is not None}

    def to_table(self) -> dict[str, Any]:
        """Plain data, as in the TOML file: what differs from the default."""
        return _table(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Preparation:
        """Preparation from plain data.

        Raises
        ------
        ValueError
            Names the entry that is unknown or wrong.
        """
        options = dict(table)
        for name, kind in PARTS.items():
            if name in options:
                options[name] = _from_table(kind, options[name], f"preparation.{name}")
        made: Preparation = _from_table(cls, options, "preparation")
        return made


PARTS: dict[str, type] = {
    "image": Image,
    "mask": Mask,
    "dark": Level,
    "background": Level,
    "monitor": Level,
    "rebin": Rebin,
}


@dataclass(frozen=True, eq=False)
class Quantity:
    """Numbers beside the points and what is known of their noise.

    Attributes
    ----------
    values : (n,) float64
    variance : (n,) float64, optional
        None where they are known exactly.
    common : bool
        Their error is one and the same for all points, so that it cannot be part of each point's own.
    """

    values: Array
    variance: Array | None = None
    common: bool = False

    def scaled(self, factor: float) -> Quantity:
        """Multiplied by a number."""
        variance = None if self.variance is None else factor**2 * self.variance
        return replace(self, values=factor * self.values, variance=variance)

    def at(self, rows: npt.NDArray[np.intp]) -> Quantity:
        """Those of some points."""
        return replace(self, values=self.values[rows], variance=None if self.variance is None else self.variance[rows])

    def added(self, groups: Groups) -> Quantity:
        """Sums over groups of points."""
        variance = None if self.variance is None else _sums(self.variance, groups)
        return replace(self, values=_sums(self.values, groups), variance=variance)


@dataclass(frozen=True, eq=False)
class Points:
    """Points and what was measured beside them.

    Attributes
    ----------
    x, y : (n,) float64
    sigma : (n,) float64, optional
        Standard deviation of y.
    exposure : (n,) float64, optional
        Counting time.
    i0 : (n,) float64, optional
        Intensity before the sample.
    bad : (n,) bool, optional
        Flags of points to be left out.
    beside : mapping of str to Quantity
        ``dark``, ``background``, ``monitor``.
    notes : tuple of str
        What was done.
    """

    x: Array
    y: Array
    sigma: Array | None = None
    exposure: Array | None = None
    i0: Array | None = None
    bad: BoolArray | None = None
    beside: Mapping[str, Quantity] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def at(self, rows: npt.NDArray[np.intp], *notes: str) -> Points:
        """Some of the points, and why."""
        columns: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[rows]
            for name in ("x", "y", "sigma", "exposure", "i0", "bad")
        }
        beside = {name: quantity.at(rows) for name, quantity in self.beside.items()}
        return Points(**columns, beside=beside, notes=self._noted(*notes))

    def noted(self, *notes: str) -> Points:
        """The same with more notes."""
        return replace(self, notes=self._noted(*notes))

    def _noted(self, *notes: str) -> tuple[str, ...]:
        return (*self.notes, *(note for note in notes if note))


def prepare(
    points: Points,
    preparation: Preparation,
    *,
    subtract: float = 0.0,
    counts: bool = False,
    scaled: bool = False,
    names: Mapping[str, str] | None = None,
) -> tuple[Points, bool]:
    """Do what a preparation says, in its order.

    Parameters
    ----------
    points : Points
    preparation : Preparation
    subtract : float
        Taken off every y.
    counts : bool
        The noise is Poisson's, so that y are, and stay, counts.
    scaled : bool
        The noise is Poisson's of counts times a known factor.
    names : mapping of str to str, optional
        What `y` and `i0` are called in sentences.

    Returns
    -------
    points : Points
    counts : bool
        Whether y are counts of events in the end.

    Raises
    ------
    ValueError
        When nothing is left, or what is asked for has no meaning for these numbers.
    """
    points = _kept(points, preparation)
    counting = counts or scaled or preparation.counts
    if not counting:
        points = _normalised(_subtracted(points, subtract), names or {})
        return _merged(points, preparation, _averaged), False
    own = {"points": Quantity(np.ones(points.y.size)), "gross": Quantity(points.y)}
    points = replace(points, beside={**points.beside, **own})
    points = _merged(points, preparation, _added)
    points = _subtracted(points, subtract)
    if counts or scaled:
        return points, counts
    changed = bool(subtract or preparation.levels or points.i0 is not None)
    if not changed:
        return points, True
    return _normalised(points, names or {}, counts=True), False


def _kept(points: Points, preparation: Preparation) -> Points:
    """Points that neither mask nor region leaves out."""
    mask, n = preparation.mask, points.x.size
    keep = np.ones(n, dtype=np.bool_)
    if mask is not None:
        beyond = [channel for channel in mask.channels if channel >= n]
        if beyond:
            raise ValueError(f"the mask names channel {beyond[0]} and there are {n}, counted from 0")
        keep[list(mask.channels)] = False
        keep &= ~_within(points.x, mask.ranges)
        if points.bad is not None:
            keep &= ~points.bad
    masked = n - int(np.sum(keep))
    if preparation.region:
        keep &= _within(points.x, preparation.region)
    outside = n - masked - int(np.sum(keep))
    if n and not np.any(keep):
        raise ValueError(
            f"mask and region leave none of {n} points: {masked} are masked and {outside} outside the region; "
            f"x is from {np.min(points.x):g} to {np.max(points.x):g}"
        )
    return points.at(
        np.flatnonzero(keep),
        f"{masked} of {n} points are masked" if masked else "",
        f"{outside} of {n} points lie outside the region" if outside else "",
    )


def _within(x: Array, ranges: Ranges) -> BoolArray:
    inside = np.zeros(x.size, dtype=np.bool_)
    for low, high in ranges:
        inside |= (x >= low) & (x <= high)
    return inside


def _subtracted(points: Points, subtract: float) -> Points:
    """Less a number for each point that was added up."""
    each = points.beside.get("points")
    return replace(points, y=points.y - subtract * (1.0 if each is None else each.values)) if subtract else points


def _normalised(points: Points, names: Mapping[str, str], counts: bool = False) -> Points:
    """Less dark and background, over the monitor or the logarithm of i0 over it, with the noise of all of them."""
    y = points.y
    variance: Array | None = None if points.sigma is None else points.sigma**2
    notes = []
    if counts:
        # What an expected count of zero scatters by is not known from no count: it is less than about one.
        gross = points.beside["gross"].values
        _check_counts(gross, names.get("y", "y"))
        variance = np.maximum(gross, 1.0)
        if np.any(gross < FEW_COUNTS):
            notes.append(
                f"some points have fewer than {FEW_COUNTS} counts, for which Gaussian noise is a poor description: "
                "rebin, or keep the counts and give noise=Poisson() with the monitor as exposure"
            )
    for name in ("dark", "background"):
        if name in points.beside:
            level = points.beside[name]
            y = y - level.values
            variance, note = _widened(variance, level, np.ones(y.size), name)
            notes.append(note)
    if "monitor" in points.beside:
        monitor = points.beside["monitor"]
        _check_monitor(monitor.values)
        y = y / monitor.values
        variance = None if variance is None else variance / monitor.values**2
        variance, note = _widened(variance, monitor, y / monitor.values, "monitor")
        notes.append(note)
    elif points.i0 is not None:
        _check_intensities(points, y, names)
        variance = None if variance is None else variance / y**2 + (1.0 / points.i0 if counts else 0.0)
        y = np.log(points.i0 / y)
    elif counts:
        time = points.beside["points"].values if points.exposure is None else points.exposure
        y, variance = y / time, None if variance is None else variance / time**2
    sigma = None if variance is None else np.sqrt(variance)
    exposure = None if counts else points.exposure
    return replace(points, y=y, sigma=sigma, exposure=exposure, i0=None, beside={}).noted(*notes)


def _check_counts(counts: Array, name: str) -> None:
    bad = np.flatnonzero(~(counts >= 0) | (counts != np.rint(counts)))
    if bad.size:
        raise ValueError(
            f"{name} is {counts[bad[0]]:g} at point {bad[0]}, which is no count; leave counts=True out and name the "
            "field with sigma"
        )


def _check_intensities(points: Points, y: Array, names: Mapping[str, str]) -> None:
    for name, values in (("y", y), ("i0", points.i0)):
        bad = np.flatnonzero(~(np.asarray(values) > 0))
        if bad.size:
            raise ValueError(
                f"{names.get(name, name)} is {np.asarray(values)[bad[0]]:g} at point {bad[0]}, and an absorption "
                "ln(i0 / y) needs positive intensities; check the dark level, or cut the range"
            )


def _widened(variance: Array | None, level: Quantity, slope: Array, name: str) -> tuple[Array | None, str]:
    """Variance with that of a level, where each point has its own; else a note."""
    if level.variance is None:
        return variance, ""
    if level.common:
        what = "a constant background" if name != "monitor" else "the amplitudes"
        return variance, (
            f"the error of the {name} is the same for all points and not part of sigma: {what} in the models "
            "takes it up"
        )
    if variance is None:
        return None, (
            f"the noise of the {name} is not carried on, since that of y is unknown: say counts=True where y are "
            "counts, or name their sigma"
        )
    return variance + slope**2 * level.variance, ""


def _check_monitor(values: Array) -> None:
    bad = np.flatnonzero(~(values > 0) | ~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"the monitor is {values[bad[0]]:g} at point {bad[0]} ({bad.size} such points) and y cannot be divided by "
            "it; mask these points"
        )


def _merged(points: Points, preparation: Preparation, merge: Callable[[Points, Groups], Points]) -> Points:
    """Points of the same x made one, then neighbours."""
    if not preparation.repeats and preparation.rebin is None:
        return points
    points = points.at(np.lexsort((points.y, points.x)))
    if preparation.repeats and points.x.size:
        groups = np.split(np.arange(points.x.size), np.flatnonzero(np.diff(points.x)) + 1)
        merged = points.x.size - len(groups)
        points = merge(points, groups).noted(
            f"points at the same x are one: {points.x.size} became {len(groups)}" if merged else ""
        )
    if preparation.rebin is not None:
        groups, note = preparation.rebin.groups(points.x)
        groups = [group for group in groups if group.size]
        if not groups:
            raise ValueError(f"no bin holds any of the {points.x.size} points; {note or 'check the bins'}")
        points = merge(points, groups).noted(f"{points.x.size} points were put into {len(groups)} bins", note)
    return points


def _added(points: Points, groups: Groups) -> Points:
    """Counts, with all that was measured beside them, added up; x is where the exposure was."""
    n = points.beside["points"].values
    monitor = points.beside.get("monitor", Quantity(np.ones(n.size))).values
    time = n if points.exposure is None else points.exposure
    weights = time * monitor
    weights = weights if np.all(weights > 0) else np.ones(n.size)
    sigma = None if points.sigma is None else np.sqrt(_sums(points.sigma**2, groups))
    return Points(
        _sums(weights * points.x, groups) / _sums(weights, groups),
        _sums(points.y, groups),
        sigma,
        _sums(time, groups),
        None if points.i0 is None else _sums(points.i0, groups),
        None,
        {name: quantity.added(groups) for name, quantity in points.beside.items()},
        points.notes,
    )


def _averaged(points: Points, groups: Groups) -> Points:
    """Means, weighted by what the uncertainties say."""
    sizes = {group.size for group in groups}
    if points.sigma is None and len(sizes) > 1:
        raise ValueError(
            f"{min(sizes)} to {max(sizes)} points would become one, and without their sigma the means are of unequal, "
            "unknown uncertainty: name the field with sigma, say counts=True, or choose bins of equal numbers of points"
        )
    if points.sigma is None:
        weights = np.ones(points.x.size)
    else:
        if not np.all(points.sigma > 0):
            raise ValueError("sigma must be positive where points are averaged; mask points without an uncertainty")
        weights = points.sigma**-2.0
    total = _sums(weights, groups)
    return Points(
        _sums(weights * points.x, groups) / total,
        _sums(weights * points.y, groups) / total,
        None if points.sigma is None else total**-0.5,
        notes=points.notes,
    )


def _sums(values: Array, groups: Groups) -> Array:
    return np.array([np.sum(values[group]) for group in groups])


def _numbers(given: Any, name: str) -> Any:
    """One number, or a tuple of them."""
    if isinstance(given, str | bytes):
        raise ValueError(f"{name} must be a number or a list of numbers; got {given!r}")
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number or a list of numbers; got {given!r}") from error
    if numbers.ndim > 1 or not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name} must be a finite number or a list of them; got {given!r}")
    return tuple(numbers.tolist()) if numbers.ndim else float(numbers)


def _number(given: Any, name: str) -> float:
    number = _numbers(given, name)
    if isinstance(number, tuple):
        raise ValueError(f"{name} must be one number; got {given!r}")
    return float(number)


def _ranges(given: Any, name: str) -> Ranges:
    """Ranges; one alone may be given without the list around it."""
    try:
        rows = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be [low, high] or a list of these; got {given!r}") from error
    if rows.size == 0:
        return ()
    rows = rows[np.newaxis] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.all(rows[:, 0] <= rows[:, 1]):
        raise ValueError(f"{name} must be [low, high] or a list of these, low first; got {given!r}")
    return tuple((float(low), float(high)) for low, high in rows)


def _text(part: Any, *names: str) -> None:
    for name in names:
        given = getattr(part, name)
        if given is not None and not (isinstance(given, str) and given):
            raise ValueError(f"{name} of a {type(part).__name__.lower()} must be a name; got {given!r}")


def _table(part: Any) -> dict[str, Any]:
    return {f.name: _plain(value) for f in fields(part) if (value := getattr(part, f.name)) != f.default}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple(PARTS.values())):
        return _table(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def check_entries(part: str, table: Iterable[str], known: Sequence[str]) -> None:
    """Raise ValueError where a part of a recipe has an entry that is not known."""
    if unknown := sorted(set(table) - set(known)):
        raise ValueError(f"recipe [{part}] has an unknown entry {unknown[0]!r}; it may have {', '.join(known)}")


def _from_table(kind: type, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise ValueError(f"recipe [{where}] must be a table; got {table!r}")
    check_entries(where, table, [entry.name for entry in fields(kind)])
    try:
        return kind(**table)
    except ValueError as error:
        raise ValueError(f"recipe [{where}]: {error}") from error
