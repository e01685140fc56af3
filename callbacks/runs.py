"""What an analysis asks for is taken out of a run, prepared, and made into data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.analysis import Recipe
from bluesky_bayes.callbacks.collector import (
    BASELINE,
    CollectedRun,
    Document,
    NothingToAnalyseError,
    RunCollector,
    is_image,
    label_of,
    listed,
    pattern_of,
    shape_of,
)
from bluesky_bayes.callbacks.files import with_files
from bluesky_bayes.dataset import Array, Dataset, Origin, Reading
from bluesky_bayes.noise import Poisson
from bluesky_bayes.preparation import Level, Points, Quantity, prepare

__all__ = [
    "CollectedRun",
    "Document",
    "NothingToAnalyseError",
    "Piece",
    "RunCollector",
    "collect",
    "dataset_of",
    "datasets_of",
    "label_of",
    "pieces_of",
    "read_jsonl",
    "stored_documents",
]

CHANNEL = "channel"
"""What a pattern is drawn against where no x is named."""
MOST_READINGS = 100
"""Values that are published beside an answer."""
LONGEST_TEXT = 200
TAGS_OF_OWNERS = ("user:", "service:")
"""How tags begin that only the server gives, to what has no others."""
SMALL_STEP = 0.1
"""Part of the largest step of a grid's slow axis that is no step but jitter."""

BEYOND_JITTER = 6.0
"""How many times its median jitter an axis must step to tell where it is."""

RECTILINEAR = "rectilinear"
"""What a plan hints at whose points follow each other along the lines of a grid."""
OUTER = "outer_list_product"
"""Pattern of such a plan that does not hint at it, nor says which axes are snaked."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Piece:
    """A data set that is still to be made, so that one that cannot be made does not end the others.

    Attributes
    ----------
    dataset : callable
        Gives the data set, or raises ValueError.
    events : tuple of int
        Numbers of the events that hold it, from 1, where they are not all.
    """

    dataset: Callable[[], Dataset]
    events: tuple[int, ...] = ()


def collect(documents: Iterable[tuple[str, Document]], analysis: Recipe | None = None) -> CollectedRun:
    """Collect all documents of one run, or what an analysis asks for of it.

    Raises
    ------
    ValueError
        When there is no start document, or more than one run.
    """
    collector = RunCollector(analysis)
    for name, doc in documents:
        collector(name, dict(doc))
    if not collector.start_document:
        raise ValueError("there is no start document among these documents: they are no Bluesky run")
    return collector.collected()


def read_jsonl(path: str | Path) -> Iterator[tuple[str, Document]]:
    """Read documents from a file with one on each line, as ``[name, document]`` or ``{"name": ..., "doc": ...}``.

    Raises
    ------
    ValueError
        Names the line that is neither.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _document(line, f"{path}, line {number}")


def stored_documents(run: Any) -> Iterator[tuple[str, Document]]:
    """Documents of a stored run, with its access tags, which Tiled keeps beside them.

    Parameters
    ----------
    run : object that has ``.documents()``
    """
    tags = [tag for tag in getattr(run, "access_tags", None) or () if not tag.startswith(TAGS_OF_OWNERS)]
    for name, doc in run.documents():
        yield name, {**doc, "tiled_access_tags": tags} if name == "start" and tags else doc


def _document(line: str, where: str) -> tuple[str, Document]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}); expected one [name, document] a line") from error
    match entry:
        case [str(name), dict(doc)] | {"name": str(name), "doc": dict(doc)}:
            return name, doc
    raise ValueError(f"{where} is no Bluesky document: expected [name, document], got {line.strip()[:60]!r}")


def dataset_of(run: CollectedRun, analysis: Recipe) -> Dataset:
    """The data set of a run, the last one where there are several: see `pieces_of`."""
    return pieces_of(run, analysis)[-1].dataset()


def datasets_of(run: CollectedRun, analysis: Recipe) -> list[Dataset]:
    """All data sets of a run; the first that cannot be made ends the rest: see `pieces_of`."""
    return [piece.dataset() for piece in pieces_of(run, analysis)]


def pieces_of(run: CollectedRun, analysis: Recipe) -> list[Piece]:
    """Take out of a run what an analysis asks for: a curve of one point an event, or patterns, one an event.

    Fields that the analysis does not name come from the run's hints: x is what was scanned, y the first detector's
    first hinted number, else its first hinted pattern. Patterns are added up to one data set, or are one each. A grid
    gives a data set for each line along its fast axis, or along the axis that x names. Files are read here.

    Raises
    ------
    NothingToAnalyseError
        Names the stream, field or file that is missing and what there is instead.
    ValueError
        Also from a piece, when the points are there but cannot be analysed, see `Dataset` and `prepare`.
    """
    try:
        return _pieces(run, analysis)
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise NothingToAnalyseError(
            f"the documents of {run.label} are not made as the event model says ({type(error).__name__}: "
            f"{str(error)[:100]})"
        ) from error


def _pieces(run: CollectedRun, analysis: Recipe) -> list[Piece]:
    stream = _stream(run, analysis.stream)
    y = analysis.y or _measured(run, analysis)
    scanned = [fields[0] for fields in _scanned_fields(run, stream)]
    levels = analysis.preparation.levels.values()
    own = [level for level in levels if level.stream in (None, stream)]
    needed = [analysis.x, y, *analysis.named, *(level.field for level in own), *(level.sigma_field for level in own)]
    run = with_files(run, stream, [*needed, *([] if analysis.x else scanned)], analysis)
    beside: dict[str, list[str | None]] = {}
    for level in levels:
        if level.stream not in (None, stream):
            names = beside.setdefault(_stream(run, str(level.stream)), [])
            names += [level.field or y, level.sigma_field]
    for other, names in beside.items():
        run = with_files(run, other, names, analysis)
    taking = _Taking(run, analysis, stream, y, scanned)
    return taking.patterns() if y in run.patterns[stream] else taking.curves()


@dataclass(frozen=True)
class _Taking:
    """Data sets out of one stream of one run.

    Attributes
    ----------
    run : CollectedRun
    analysis : Analysis or PhaseAnalysis
    stream, y : str
    scanned : sequence of str
        First field of each scanned axis, the fastest axis last.
    """

    run: CollectedRun
    analysis: Recipe
    stream: str
    y: str
    scanned: Sequence[str]

    def curves(self) -> list[Piece]:
        """One point an event: one data set, or one for each line of a grid."""
        scanned = self.scanned
        x = self.analysis.x or self._fastest()
        everything = np.arange(_values(self.run, self.stream, x).size)
        if len(scanned) < 2 or x not in scanned:
            return [Piece(partial(self._curve, x, everything))]
        lines, length = _lines(self.run, self.stream, x, scanned)
        slow = [name for name in scanned if name != x]
        return [Piece(partial(self._curve, x, rows, _numbered(rows), slow, length), _numbered(rows)) for rows in lines]

    def _fastest(self) -> str:
        """The field that was scanned, the fastest where there are several."""
        if not self.scanned:
            raise NothingToAnalyseError(
                f"nothing was scanned in stream {self.stream!r} of {self.run.label}: name a field as x; "
                f"{_there(self.run, self.stream)}"
            )
        return self.scanned[-1]

    def _curve(
        self, x: str, rows: Rows, events: tuple[int, ...] = (), slow: Sequence[str] = (), length: int = 0
    ) -> Dataset:
        run, analysis, stream = self.run, self.analysis, self.stream

        def column(name: str | None) -> Array | None:
            return None if name is None else _values(run, stream, name)[rows]

        mask = analysis.preparation.mask
        flags = column(mask.field) if mask else None
        points = Points(
            _values(run, stream, x)[rows],
            _values(run, stream, self.y)[rows],
            column(analysis.sigma),
            column(analysis.exposure),
            column(analysis.i0),
            None if flags is None else flags != 0,
            {name: self._level(name, level, rows.size, rows) for name, level in self._levels()},
        )
        short = f"the line has {rows.size} of its {length} points" if 0 < rows.size < length else ""
        return self._dataset(x, points.noted(short), rows, events, slow)

    def patterns(self) -> list[Piece]:
        """Data sets of patterns, one an event, or of their sum."""
        run, analysis, stream = self.run, self.analysis, self.stream
        patterns = run.patterns[stream][self.y]
        if not patterns:
            raise NothingToAnalyseError(f"stream {stream!r} of {run.label} has no events{_ending(run)}")
        everything = np.arange(len(patterns))
        if (analysis.patterns or ("each" if self.scanned else "sum")) == "each":
            return [Piece(partial(self._pattern, everything[i : i + 1]), (i + 1,)) for i in range(len(patterns))]
        return [Piece(partial(self._pattern, everything), _numbered(everything))]

    def _pattern(self, rows: Rows) -> Dataset:
        """The sum of the patterns of these events."""
        run, analysis, stream = self.run, self.analysis, self.stream
        patterns = [run.patterns[stream][self.y][row] for row in rows.tolist()]
        for row, pattern in zip(rows.tolist(), patterns, strict=True):
            if not pattern.size:
                raise NothingToAnalyseError(f"field {self.y!r} of {run.label} holds no pattern in event {row + 1}")
        x, axes = _axes(run, analysis, stream, rows, [pattern.size for pattern in patterns])
        if any(not np.array_equal(axis, axes[0]) for axis in axes):
            raise NothingToAnalyseError(
                f"the patterns {self.y!r} of {run.label} do not lie at the same {x}, so that they cannot be added up: "
                "set patterns = 'each' to analyse one by one"
            )
        n = patterns[0].size
        mask = analysis.preparation.mask
        sigmas, times, before, flags = (
            None if name is None else np.array([self._beside(name, row, n) for row in rows.tolist()])
            for name in (analysis.sigma, analysis.exposure, analysis.i0, mask.field if mask else None)
        )
        points = Points(
            axes[0],
            np.sum(patterns, axis=0),
            None if sigmas is None else np.sqrt(np.sum(sigmas**2, axis=0)),
            None if times is None else np.sum(times, axis=0),
            None if before is None else np.sum(before, axis=0),
            None if flags is None else np.any(flags != 0, axis=0),
            {name: self._level(name, level, n, rows, channels=True) for name, level in self._levels()},
        )
        scanned = self.scanned if rows.size == 1 else ()
        return self._dataset(x, points, rows, _numbered(rows), scanned, times=rows.size)

    def _beside(self, name: str, row: int, n: int) -> Array:
        """Uncertainties, exposures or flags of a pattern: a field with one number a channel, or one an event."""
        if name not in self.run.patterns[self.stream]:
            return np.full(n, _values(self.run, self.stream, name)[row])
        pattern = self.run.patterns[self.stream][name][row]
        if pattern.size != n:
            raise NothingToAnalyseError(
                f"{name!r} of {self.run.label} has {pattern.size} numbers in event {row + 1} where the pattern has {n}"
            )
        return pattern

    def _levels(self) -> Iterable[tuple[str, Level]]:
        return self.analysis.preparation.levels.items()

    def _level(self, name: str, level: Level, n: int, rows: Rows, channels: bool = False) -> Quantity:
        """What is subtracted from, or divides, the points: n of these events, or of the channels of their sum."""
        repeats = rows.size if channels else 1
        if level.value is not None:
            quantity = _given(name, level, n).scaled(float(repeats))
        elif level.stream in (None, self.stream):
            quantity = self._level_beside(name, level, n, rows, channels)
        else:
            quantity = self._level_before(name, level, n, channels).scaled(float(repeats))
        bad = np.flatnonzero(~np.isfinite(quantity.values))
        if bad.size:
            raise ValueError(
                f"the {name} of {self.run.label} is {quantity.values[bad[0]]:g} at point {bad[0]} ({bad.size} such "
                "points); mask these points, or leave the event out"
            )
        return quantity.scaled(level.scale)

    def _level_beside(self, name: str, level: Level, n: int, rows: Rows, channels: bool) -> Quantity:
        """A level that was measured at each event."""
        if level.noise == "scatter":
            raise NothingToAnalyseError(
                f"the {name} {level.field!r} has one value for each event, so that nothing scatters: give its "
                "sigma, or noise = 'counts'"
            )
        field, own = level.field or self.y, level.sigma_field
        if channels:
            common = field not in self.run.patterns[self.stream]
            values = np.array([self._beside(field, row, n) for row in rows.tolist()])
            sigmas = None if own is None else np.array([self._beside(own, row, n) for row in rows.tolist()])
            values, variance = np.sum(values, axis=0), _variance(level, values, sigmas)
            return Quantity(values, None if variance is None else np.sum(variance, axis=0), common)
        values = _values(self.run, self.stream, field)[rows]
        sigmas = None if own is None else _values(self.run, self.stream, own)[rows]
        return Quantity(values, _variance(level, values, sigmas))

    def _level_before(self, name: str, level: Level, n: int, channels: bool) -> Quantity:
        """A level that is the mean of another stream."""
        stream, field, own = str(level.stream), level.field or self.y, level.sigma_field
        common = field not in self.run.patterns[stream]
        if not common and not channels:
            raise NothingToAnalyseError(
                f"the {name} {field!r} in stream {stream!r} of {self.run.label} is an array and the points of "
                f"{self.y!r} are numbers"
            )
        values = self._all(stream, field, n)
        sigmas = None if own is None else self._all(stream, own, n)
        size = len(values)
        if level.noise == "scatter":
            if size < 2:
                raise NothingToAnalyseError(
                    f"the {name} {field!r} in stream {stream!r} of {self.run.label} was measured once, so that nothing "
                    "scatters: measure it more often, give its sigma, or noise = 'counts'"
                )
            return Quantity(np.mean(values, axis=0), np.var(values, axis=0, ddof=1) / size, common)
        variance = _variance(level, values, sigmas)
        total = None if variance is None else np.sum(variance, axis=0) / size**2
        return Quantity(np.mean(values, axis=0), total, common)

    def _all(self, stream: str, field: str, n: int) -> Array:
        """A field at all events of a stream, (events, n)."""
        if field not in self.run.patterns[stream]:
            return np.repeat(_values(self.run, stream, field)[:, np.newaxis], n, axis=1)
        patterns = self.run.patterns[stream][field]
        sizes = {pattern.size for pattern in patterns}
        if sizes != {n}:
            raise NothingToAnalyseError(
                f"{field!r} in stream {stream!r} of {self.run.label} has patterns of {sorted(sizes)} numbers where "
                f"{self.y!r} has {n}"
            )
        return np.array(patterns)

    def _dataset(
        self, x: str, points: Points, rows: Rows, events: tuple[int, ...], axes: Sequence[str], times: int = 1
    ) -> Dataset:
        """Prepare the points and say where they came from."""
        run, analysis, stream, y = self.run, self.analysis, self.stream, self.y
        poisson = isinstance(analysis.noise, Poisson)
        scaled = isinstance(analysis.noise, Poisson) and analysis.noise.scaled
        names = {"y": f"{y!r} of {run.label}", "i0": f"{analysis.i0!r} of {run.label}"}
        points, counts = prepare(
            points,
            analysis.preparation,
            subtract=analysis.subtract * times,
            counts=poisson and not scaled,
            scaled=scaled,
            names=names,
        )
        units = {"x": _unit(run, stream, x), "y": _unit(run, stream, y)}
        monitor = analysis.preparation.monitor
        if analysis.i0:
            y, units["y"] = f"ln({analysis.i0} / {y})", ""
        elif monitor is not None:
            y, units["y"] = f"{y} / {monitor.field or monitor.stream or monitor.value}", ""
        elif analysis.exposure and analysis.preparation.counts and points.exposure is None:
            y, units["y"] = f"{y} / {analysis.exposure}", ""
        metadata, missing = _metadata(run, analysis, stream, rows, axes)
        return Dataset(
            points.x,
            points.y,
            sigma=points.sigma,
            counts=counts,
            exposure=points.exposure,
            units={axis: unit for axis, unit in units.items() if unit},
            origin=Origin(str(run.start.get("uid", "")), stream, x, y, _scan_id(run.start), events, metadata),
            notes=(*_state(run, stream), *points.notes, *missing),
        )


def _scan_id(start: Document) -> int | None:
    scan_id = start.get("scan_id")
    return scan_id if isinstance(scan_id, int) and abs(scan_id) < 2**63 else None


def _given(name: str, level: Level, n: int) -> Quantity:
    """A level given as numbers."""
    values, sigma = np.asarray(level.value, dtype=np.float64), np.asarray(0.0 if level.sigma is None else level.sigma)
    for each in (values, sigma):
        if each.ndim and each.size != n:
            raise NothingToAnalyseError(f"the {name} has {each.size} numbers and there are {n} points")
    common = not values.ndim and not sigma.ndim
    if level.noise == "counts":
        variance = np.broadcast_to(np.maximum(values, 0.0), n)
    else:
        variance = np.broadcast_to(np.asarray(sigma, dtype=np.float64) ** 2, n)
    known = level.sigma is None and level.noise is None
    return Quantity(np.broadcast_to(values, n), None if known else variance, common)


def _variance(level: Level, values: Array, sigmas: Array | None) -> Array | None:
    """Variance of each value of a level."""
    if level.noise == "counts":
        return np.maximum(values, 0.0)
    if sigmas is not None:
        return np.asarray(sigmas**2)
    if level.sigma is None or isinstance(level.sigma, str):
        return None
    return np.broadcast_to(np.asarray(level.sigma, dtype=np.float64) ** 2, values.shape)


def _numbered(rows: Rows) -> tuple[int, ...]:
    """Numbers of events, from 1."""
    return tuple(int(row) + 1 for row in rows)


def _lines(run: CollectedRun, stream: str, x: str, scanned: Sequence[str]) -> tuple[list[Rows], int]:
    """Rows of each line of a grid along x, in the order they were begun, and how long a full line is.

    Raises
    ------
    NothingToAnalyseError
        Where the run is no grid, or its lines along x cannot be told.
    """
    k, positions, shape = scanned.index(x), run.seq_nums[stream] - 1, _shape(run)
    gridding = _hint(run, "gridding")
    turned = None
    if gridding in (None, RECTILINEAR):
        if len(shape) == len(scanned) and positions.size and 0 <= positions.min() <= positions.max() < np.prod(shape):
            indices = _indices(positions, shape, run.start.get("snaking"))
            whole = int(positions.max()) + 1 == np.prod(shape)
            told = gridding == RECTILINEAR or (run.start.get("plan_pattern") == OUTER and k == len(scanned) - 1)
            if (whole and told) or _stand_still(run, stream, scanned, indices, k, BEYOND_JITTER if told else 0.0):
                return _alike(indices, shape, k), shape[k]
        turned = _turned(run, stream, scanned)
    if turned is None:
        raise NothingToAnalyseError(
            f"{run.label} was scanned along {listed(scanned)} and is no grid whose points follow each other along "
            f"lines{f' ({gridding})' if isinstance(gridding, str) else ''}, so that there are no lines to analyse: "
            "another field as x takes all points as one curve"
        )
    if k != len(scanned) - 1:
        raise NothingToAnalyseError(
            f"{run.label} was scanned along {listed(scanned)} without a shape that fits, so that only lines along the "
            f"fast axis {scanned[-1]!r} can be told: name it as x, or leave x out"
        )
    return turned, shape[k] if len(shape) == len(scanned) else 0


def _shape(run: CollectedRun) -> list[int]:
    """Points along each axis as the start document has them, empty where it does not."""
    shape = run.start.get("shape")
    return [n for n in shape if isinstance(n, int) and n > 0] if isinstance(shape, list | tuple) else []


def _indices(positions: Rows, shape: Sequence[int], snaking: Any) -> list[Rows]:
    """Where on each axis of a grid the points lie that come at these places in time."""
    indices = list(np.unravel_index(positions, shape))
    for i, snakes in enumerate(snaking[: len(shape)] if isinstance(snaking, list | tuple) else ()):
        traversal = positions // int(np.prod(shape[i:]))
        if snakes:
            indices[i] = np.where(traversal % 2, shape[i] - 1 - indices[i], indices[i])
    return indices


def _alike(indices: Sequence[Rows], shape: Sequence[int], k: int) -> list[Rows]:
    """Rows that differ in their index on axis k alone."""
    others = [index for i, index in enumerate(indices) if i != k]
    lines: dict[int, list[int]] = {}
    for row, key in enumerate(np.ravel_multi_index(others, [n for i, n in enumerate(shape) if i != k])):
        lines.setdefault(int(key), []).append(row)
    return [np.array(rows) for rows in lines.values()]


def _stand_still(
    run: CollectedRun, stream: str, scanned: Sequence[str], indices: Sequence[Rows], k: int, beyond: float
) -> bool:
    """Whether all axes but k are where their indices say, to half a step.

    An axis that was not read may be, and so may one whose step is no more than so many times its jitter.
    """
    for i, name in enumerate(scanned):
        at = run.streams[stream].get(name)
        if i == k or at is None or not np.all(np.isfinite(at)):
            continue
        levels = {index: float(np.median(at[indices[i] == index])) for index in np.unique(indices[i]).tolist()}
        gaps = np.diff(np.sort(list(levels.values())))
        if not gaps.size:
            continue
        step = np.min(gaps[gaps >= SMALL_STEP * np.max(gaps)])
        apart = np.abs(at - np.array([levels[index] for index in indices[i].tolist()]))
        if np.any(apart > 0.5 * step) and step > beyond * np.median(apart):
            return False
    return True


def _turned(run: CollectedRun, stream: str, scanned: Sequence[str]) -> list[Rows] | None:
    """Rows between the moves of the slow axes; None where these creep on, or move at most points."""
    size = run.seq_nums[stream].size
    turns = np.zeros(max(size - 1, 0), dtype=np.bool_)
    slow: list[tuple[Array, float]] = []
    for at in (_values(run, stream, name) for name in scanned[:-1]):
        step = np.abs(np.diff(at))
        slow.append((at, SMALL_STEP * float(np.nanmax(step, initial=0.0))))
        turns |= step > slow[-1][1]
    lines = np.split(np.arange(size), np.flatnonzero(turns) + 1)
    before = lines[:-1]
    parts = [(at[rows][np.isfinite(at[rows])], least) for rows in lines for at, least in slow]
    crept = any(part.size and np.ptp(part) > least for part, least in parts)
    return None if crept or sum(rows.size for rows in before) < 2 * len(before) else lines


def _axes(
    run: CollectedRun, analysis: Recipe, stream: str, rows: Rows, lengths: Sequence[int]
) -> tuple[str, list[Array]]:
    """Name and values of the abscissa of each pattern: a field, a device's configuration, or the channel's number."""
    name = analysis.x
    if name is None:
        return CHANNEL, [np.arange(n, dtype=np.float64) for n in lengths]
    if name in run.patterns[stream]:
        axes = [run.patterns[stream][name][row] for row in rows.tolist()]
    elif name in run.settings[stream]:
        axes = [pattern_of(run.settings_of[stream][row].get(name)) for row in rows.tolist()]
    else:
        there = listed([*run.patterns[stream], *run.settings[stream]])
        raise NothingToAnalyseError(
            f"a pattern's x must be a field or a configuration with one number a channel, and {name!r} of {run.label} "
            f"is none; there are {there}, or leave x out for the channel's number"
        )
    for row, axis, n in zip(rows.tolist(), axes, lengths, strict=True):
        if axis.size != n:
            raise NothingToAnalyseError(
                f"{name!r} of {run.label} has {axis.size} numbers in event {row + 1} where the pattern has {n}"
            )
    return name, axes


def _metadata(
    run: CollectedRun, analysis: Recipe, stream: str, rows: Rows, axes: Sequence[str]
) -> tuple[dict[str, Reading], list[str]]:
    """What else was known of these events, and notes on what was asked for and is not there."""
    found: dict[str, Reading] = {}
    missing = []
    names = analysis.metadata
    if names is None:
        names = (*run.streams.get(BASELINE, ()), *run.settings.get(stream, ())) if BASELINE != stream else ()
    for name in dict.fromkeys((*axes, *names)):
        reading = _reading(run, stream, name, rows)
        text = reading is not None and isinstance(reading.value, str)
        if reading is None:
            if name in (analysis.metadata or ()):
                missing.append(f"there is no metadata {name!r} in the run")
        elif len(found) < MOST_READINGS and (analysis.metadata is not None or not text):
            found[name] = reading
    return found, missing


def _reading(run: CollectedRun, stream: str, name: str, rows: Rows) -> Reading | None:
    """A value by its name: the mean of a field at these events or in the baseline, a setting, a word of the start."""
    for where, picked in ((stream, rows), (BASELINE, slice(None))):
        column = run.streams.get(where, {}).get(name)
        if column is not None:
            values = column[picked]
            values = values[np.isfinite(values)]
            if values.size:
                return Reading(float(np.mean(values)), _unit(run, where, name))
    for where in (stream, BASELINE):
        of = run.settings_of.get(where, ())
        settings = of[rows[0]] if where == stream and rows.size and len(of) > rows[0] else run.settings.get(where, {})
        if (reading := _plain_reading(settings.get(name), _unit(run, where, name))) is not None:
            return reading
    return _plain_reading(run.start.get(name), "")


def _plain_reading(value: Any, unit: str) -> Reading | None:
    if isinstance(value, str):
        return Reading(value[:LONGEST_TEXT], unit)
    if isinstance(value, bool | int | float) and abs(value) < 1e300:
        return Reading(float(value), unit)
    return None


def _state(run: CollectedRun, stream: str) -> list[str]:
    """What is to be known of a run that is not whole."""
    notes = []
    if not run.stop:
        notes.append("the run has no stop document: it goes on, or ended without one")
    elif ending := _ending(run):
        notes.append(f"the run is not whole{ending}")
    said, heard = run.stop.get("num_events"), run.seq_nums[stream].size
    n = said.get(stream) if isinstance(said, Mapping) else None
    if isinstance(n, int) and n > heard:
        notes.append(f"the run speaks of {n} events in stream {stream!r} and {heard} are here")
    return notes


def _stream(run: CollectedRun, stream: str) -> str:
    if stream not in run.streams:
        there = f"it has {listed(run.streams)}" if run.streams else f"it has no events at all{_ending(run)}"
        raise NothingToAnalyseError(f"{run.label} has no stream {stream!r}: {there}")
    return stream


def _ending(run: CollectedRun) -> str:
    status, reason = run.stop.get("exit_status", "success"), run.stop.get("reason")
    if status == "success":
        return ""
    return f"; it ended with {listed([status])}" + (f" ({str(reason)[:LONGEST_TEXT]})" if reason else "")


def _scanned_fields(run: CollectedRun, stream: str) -> list[list[str]]:
    """List the fields of each scanned axis: from the dimensions that the plan hinted, else from its motors."""
    dimensions = _hint(run, "dimensions")
    dimensions = [_dimension(run, entry) for entry in dimensions] if isinstance(dimensions, list) else []
    hinted = [fields for fields, where in dimensions if where == stream and "time" not in fields]
    hinted = [fields for fields in hinted if fields]
    if hinted or dimensions:
        return hinted
    motors = run.start.get("motors")
    motors = [motor for motor in motors if isinstance(motor, str)] if isinstance(motors, list | tuple) else []
    return [_hinted(run, stream, motor) or [motor] for motor in motors]


def _dimension(run: CollectedRun, entry: Any) -> tuple[list[str], str]:
    """The fields of one axis, and their stream."""
    match entry:
        case [str(field), str(stream)]:
            return [field], stream
        case [[*fields], str(stream)] if all(isinstance(field, str) for field in fields):
            return fields, stream
    raise NothingToAnalyseError(
        f"the hints of {run.label} have {str(entry)[:LONGEST_TEXT]} among their dimensions, where [[field, ...], "
        "stream] is expected: give the plan md={'hints': {'dimensions': [[['motor'], 'primary']]}}"
    )


def _hint(run: CollectedRun, name: str) -> Any:
    hints = run.start.get("hints")
    return hints.get(name) if isinstance(hints, Mapping) else None


def _hinted(run: CollectedRun, stream: str, device: str) -> list[str]:
    fields = run.hints[stream].get(device, {}).get("fields")
    return [field for field in fields if isinstance(field, str)] if isinstance(fields, list | tuple) else []


def _measured(run: CollectedRun, analysis: Recipe) -> str:
    """Find the first hinted number that was not scanned, else a pattern, else a file; detectors of the plan first."""
    stream, x = analysis.stream, analysis.x
    scanned = {x}.union(*_scanned_fields(run, stream))
    named = run.start.get("detectors")
    named = [device for device in named if isinstance(device, str)] if isinstance(named, list | tuple) else []
    devices = dict.fromkeys([*named, *run.hints[stream]])
    fields = [field for device in devices for field in _hinted(run, stream, device)]
    keys = run.data_keys[stream]
    usable = [field for field in fields if field in run.streams[stream] and field not in scanned]
    usable += [field for field in fields if field in run.patterns[stream] and field != x]
    usable += [field for field in fields if "external" in keys.get(field, {}) and field not in scanned]
    if not usable:
        images = [field for field in fields if is_image(keys.get(field, {}))]
        raise NothingToAnalyseError(
            f"no detector of {run.label} hints at a number in stream {stream!r}: name a field as y; "
            f"{_there(run, stream)}"
            + (f"; of the image {images[0]!r} a preparation can make a pattern" if images else "")
        )
    return usable[0]


def _values(run: CollectedRun, stream: str, field: str) -> Array:
    columns, data_keys = run.streams[stream], run.data_keys[stream]
    if field not in data_keys:
        raise NothingToAnalyseError(f"stream {stream!r} of {run.label} has no field {field!r}; {_there(run, stream)}")
    if field not in columns:
        raise NothingToAnalyseError(
            f"field {field!r} of {run.label} is {_kind(data_keys[field])}, and a curve needs one number an event; "
            f"{_there(run, stream)}"
        )
    if not columns[field].size:
        raise NothingToAnalyseError(f"stream {stream!r} of {run.label} has no events{_ending(run)}")
    return columns[field]


def _kind(data_key: Mapping[str, Any]) -> str:
    if data_key.get("dtype") == "array":
        what = f"an array of shape ({listed(shape_of(data_key))})"
        return f"{what}, of which a preparation can make a pattern" if is_image(data_key) else what
    return f"of type {listed([data_key.get('dtype')])}"


def _unit(run: CollectedRun, stream: str, field: str) -> str:
    keys = {**run.setting_keys.get(stream, {}), **run.data_keys.get(stream, {})}
    unit = keys.get(field, {}).get("units")
    return unit if isinstance(unit, str) else ""


def _there(run: CollectedRun, stream: str) -> str:
    files = [name for name, key in run.data_keys[stream].items() if "external" in key]
    there = [*run.streams[stream], *run.patterns[stream]]
    there += [f"{name}" for name in files if name not in there]
    names = listed(there)
    return f"there are {names}" if names else "there are no fields with numbers"
