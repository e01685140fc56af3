"""One run's documents become columns, and columns a data set."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from event_model import DocumentRouter

from bluesky_bayes.analysis import Analysis
from bluesky_bayes.dataset import Array, Dataset, Origin
from bluesky_bayes.noise import Poisson

Document: TypeAlias = Mapping[str, Any]

MOST_NUMBERS = 2_000_000
"""Numbers that are kept of one run: 16 MB."""

SCALARS = ("number", "integer", "boolean")
CHANNEL = "channel"
"""What a pattern is drawn against where no x is named."""


class NothingToAnalyseError(ValueError):
    """The run does not hold what the analysis asks for; the sentence says what it holds."""


@dataclass(frozen=True, eq=False)
class CollectedRun:
    """What the documents of one run said.

    Attributes
    ----------
    start, stop : mapping
        The documents; `stop` is empty when it never came.
    streams : mapping of str to mapping of str to (n_events,) float64
        Columns by stream and field. Fields that are not one number an event have no column; a value that is missing
        or no number is NaN. A point that was taken again counts once, as it was last.
    data_keys : mapping of str to mapping
        Descriptions of all fields, by stream.
    hints : mapping of str to mapping
        Hints of the devices, by stream.
    """

    start: Document
    stop: Document
    streams: Mapping[str, Mapping[str, Array]]
    patterns: Mapping[str, Mapping[str, Sequence[Array]]]
    settings: Mapping[str, Mapping[str, Any]]
    data_keys: Mapping[str, Mapping[str, Mapping[str, Any]]]
    hints: Mapping[str, Mapping[str, Any]]

    @property
    def label(self) -> str:
        """How people name the run in a sentence."""
        return label_of(self.start)


def label_of(start: Document) -> str:
    """How people name a run in a sentence: ``run 0123abcd (scan 7)``."""
    scan_id = start.get("scan_id")
    return f"run {str(start.get('uid', '?'))[:8]}" + (f" (scan {scan_id})" if scan_id is not None else "")


class RunCollector(DocumentRouter):
    """Keeps the numbers of one run as they come: a callable ``(name, doc)``.

    Parameters
    ----------
    analysis : Analysis, optional
        Keep the numbers that it asks for only; all by default.
    """

    def __init__(self, analysis: Analysis | None = None) -> None:
        super().__init__()
        self.start_document: Document = {}
        self.stop_document: Document = {}
        self._stream = analysis.stream if analysis else None
        self._tables: dict[str, _Table] = {}
        self._room = MOST_NUMBERS

    def start(self, doc: Any) -> None:
        """Keep the start document."""
        if self.start_document:
            raise ValueError(f"these are documents of two runs: {label_of(self.start_document)} and {label_of(doc)}")
        self.start_document = dict(doc)

    def descriptor(self, doc: Any) -> None:
        """Make room for the columns of a stream."""
        self._tables.setdefault(doc["uid"], _Table(dict(doc)))

    def event(self, doc: Any) -> Any:
        """Append one event."""
        self._append(self._tables[doc["descriptor"]], doc["seq_num"], doc["data"])

    def event_page(self, doc: Any) -> Any:
        """Append a page of events."""
        table = self._tables[doc["descriptor"]]
        for i, seq_num in enumerate(doc["seq_num"]):
            self._append(table, seq_num, {name: values[i] for name, values in doc["data"].items()})

    def stop(self, doc: Any) -> None:
        """Keep the stop document."""
        self.stop_document = dict(doc)

    def collected(self) -> CollectedRun:
        """Give the run so far.

        Raises
        ------
        NothingToAnalyseError
            When the run grew beyond `MOST_NUMBERS`.
        """
        if self._room < 0:
            raise NothingToAnalyseError(
                f"{label_of(self.start_document)} has more than {MOST_NUMBERS} numbers, too many to keep in memory; "
                "read fewer devices in the stream that is analysed, or analyse the stored run"
            )
        tables: dict[str, list[_Table]] = {}
        for table in self._tables.values():
            tables.setdefault(table.stream, []).append(table)
        return CollectedRun(
            self.start_document,
            self.stop_document,
            {stream: _columns(parts) for stream, parts in tables.items()},
            {stream: _patterns(parts) for stream, parts in tables.items()},
            {stream: _settings(parts) for stream, parts in tables.items()},
            {stream: _union(parts, "data_keys") for stream, parts in tables.items()},
            {stream: _union(parts, "hints") for stream, parts in tables.items()},
        )

    def _append(self, table: _Table, seq_num: int, data: Mapping[str, Any]) -> None:
        if self._room < 0 or self._stream not in (None, table.stream):
            return
        self._room -= table.append(seq_num, data)
        if self._room < 0:
            for table in self._tables.values():
                table.clear()


class _Table:
    """The events of one descriptor."""

    def __init__(self, descriptor: Document) -> None:
        self.descriptor = descriptor
        self.stream: str = descriptor.get("name", "primary")
        self.seq_num = array("q")
        keys = descriptor["data_keys"].items()
        self.columns = {name: array("d") for name, key in keys if _is_scalar(key)}
        self.patterns: dict[str, list[Array]] = {name: [] for name, key in keys if _is_pattern(key)}

    def append(self, seq_num: int, data: Mapping[str, Any]) -> int:
        """Keep one event; gives how many numbers that took."""
        self.seq_num.append(seq_num)
        for name, column in self.columns.items():
            column.append(_number(data.get(name)))
        for name, patterns in self.patterns.items():
            patterns.append(_pattern(data.get(name)))
        return 1 + len(self.columns) + sum(patterns[-1].size for patterns in self.patterns.values())

    def clear(self) -> None:
        """Forget the numbers."""
        self.seq_num = array("q")
        self.columns, self.patterns = {}, {}


def _is_scalar(data_key: Mapping[str, Any]) -> bool:
    return data_key.get("dtype") in SCALARS and "external" not in data_key


def _is_pattern(data_key: Mapping[str, Any]) -> bool:
    longer = [n for n in data_key.get("shape", ()) if n != 1]
    return data_key.get("dtype") == "array" and "external" not in data_key and len(longer) <= 1


def _pattern(value: Any) -> Array:
    """A copy, since who sent the document may use its memory again; empty for what is no row of numbers."""
    try:
        pattern = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)
    return pattern.ravel() if pattern.ndim and pattern.size == max(pattern.shape) else np.zeros(0)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _rows(tables: list[_Table]) -> npt.NDArray[np.intp]:
    """Rows of a stream's joined tables, ordered by sequence number, the last of each."""
    backwards = np.concatenate([np.asarray(table.seq_num) for table in tables])[::-1]
    rows: npt.NDArray[np.intp] = backwards.size - 1 - np.unique(backwards, return_index=True)[1]
    return rows


def _columns(tables: list[_Table]) -> dict[str, Array]:
    rows = _rows(tables)
    names = dict.fromkeys(name for table in tables for name in table.columns)
    return {name: np.concatenate([_column(table, name) for table in tables])[rows] for name in names}


def _column(table: _Table, name: str) -> Array:
    if name in table.columns:
        return np.asarray(table.columns[name])
    return np.full(len(table.seq_num), np.nan)


def _patterns(tables: list[_Table]) -> dict[str, list[Array]]:
    rows, none = _rows(tables), np.zeros(0)
    joined = {
        name: list(chain.from_iterable(t.patterns.get(name, [none] * len(t.seq_num)) for t in tables))
        for name in dict.fromkeys(name for table in tables for name in table.patterns)
    }
    return {name: [patterns[row] for row in rows] for name, patterns in joined.items()}


def _settings(tables: list[_Table]) -> dict[str, Any]:
    devices = [device for table in tables for device in table.descriptor.get("configuration", {}).values()]
    return {name: value for device in devices for name, value in device.get("data", {}).items()}


def _union(tables: list[_Table], part: str) -> dict[str, Any]:
    return {key: value for table in tables for key, value in table.descriptor.get(part, {}).items()}


def collect(documents: Iterable[tuple[str, Document]]) -> CollectedRun:
    """Collect all documents of one run.

    Raises
    ------
    ValueError
        When there is no start document, or more than one run.
    """
    collector = RunCollector()
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


def _document(line: str, where: str) -> tuple[str, Document]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}); expected one [name, document] a line") from error
    match entry:
        case [str(name), dict(doc)] | {"name": str(name), "doc": dict(doc)}:
            return name, doc
    raise ValueError(f"{where} is no Bluesky document: expected [name, document], got {line.strip()[:60]!r}")


def dataset_of(run: CollectedRun, analysis: Analysis) -> Dataset:
    """The data set of a run, the last one where there are several: see `datasets_of`."""
    return datasets_of(run, analysis)[-1]


@dataclass(frozen=True)
class Piece:
    """A data set that is still to be made, so that one that cannot be made does not end the others.

    Attributes
    ----------
    dataset : callable
        Gives the data set, or raises ValueError.
    events : tuple of int
        Numbers of the events that hold it, where they are not all.
    """

    dataset: Callable[[], Dataset]
    events: tuple[int, ...] = ()


def pieces_of(run: CollectedRun, analysis: Analysis) -> list[Piece]:
    """What a run falls into, at least one piece; see `datasets_of`."""
    return [Piece(partial(_given, data), data.origin.events) for data in datasets_of(run, analysis)]


def _given(data: Dataset) -> Dataset:
    return data


def datasets_of(run: CollectedRun, analysis: Analysis) -> list[Dataset]:
    """Take out of a run what an analysis asks for: a curve of one point an event, or patterns, one an event.

    Fields that the analysis does not name come from the run's hints: x is what was scanned, y the first detector's
    first hinted number, else its first hinted pattern. Patterns are added up to one data set, or are one each.

    Raises
    ------
    NothingToAnalyseError
        Names the stream or field that is missing and what there is instead.
    ValueError
        When the points are there but cannot be analysed, see `Dataset`.
    """
    stream = _stream(run, analysis.stream)
    y = analysis.y or _measured(run, stream, analysis.x)
    if y in run.patterns[stream]:
        return _pattern_datasets(run, analysis, stream, y)
    x = analysis.x or _scanned(run, stream)
    sigma, exposure = (_values(run, stream, name) if name else None for name in (analysis.sigma, analysis.exposure))
    before = [_values(run, stream, analysis.i0)] if analysis.i0 else []
    (measured,) = _measurements(run, analysis, y, [_values(run, stream, y)], before)
    return [_dataset(run, analysis, (x, y), (_values(run, stream, x), measured), sigma, exposure)]


def _measurements(
    run: CollectedRun, analysis: Analysis, y: str, values: Sequence[Array], before: Sequence[Array]
) -> list[Array]:
    """What is analysed of measured values: less a dark level, and ln(i0 / y) where the intensity before is known."""
    measured = [each - analysis.subtract for each in values]
    if not analysis.i0:
        return measured
    for name, columns in ((y, measured), (analysis.i0, before)):
        for column in columns:
            bad = np.flatnonzero(~(column > 0))
            if bad.size:
                raise ValueError(
                    f"{name!r} of {run.label} is {column[bad[0]]:g} at point {bad[0]}, and an absorption "
                    "ln(i0 / y) needs positive intensities; check the dark level, or cut the range"
                )
    return [np.log(i0 / it) for i0, it in zip(before, measured, strict=True)]


def _dataset(
    run: CollectedRun,
    analysis: Analysis,
    fields: tuple[str, str],
    columns: tuple[Array, Array],
    sigma: Array | None,
    exposure: Array | None,
    events: tuple[int, ...] = (),
) -> Dataset:
    stream, (x, y) = analysis.stream, fields
    units = {"x": _unit(run, stream, x), "y": "" if analysis.i0 else _unit(run, stream, y)}
    if analysis.i0:
        y = f"ln({analysis.i0} / {y})"
    return Dataset(
        *columns,
        sigma=sigma,
        counts=isinstance(analysis.noise, Poisson) and not analysis.noise.scaled,
        exposure=exposure,
        units={axis: unit for axis, unit in units.items() if unit},
        origin=Origin(run.start.get("uid", ""), stream, x, y, run.start.get("scan_id"), events),
    )


def _pattern_datasets(run: CollectedRun, analysis: Analysis, stream: str, y: str) -> list[Dataset]:
    """Data sets of patterns, one an event, or of their sum."""
    patterns = run.patterns[stream][y]
    if not patterns:
        raise NothingToAnalyseError(f"stream {stream!r} of {run.label} has no events{_ending(run)}")
    lengths = {pattern.size for pattern in patterns}
    if 0 in lengths:
        at = [pattern.size for pattern in patterns].index(0) + 1
        raise NothingToAnalyseError(f"field {y!r} of {run.label} holds no pattern in event {at}")
    x, axes = _axes(run, analysis, stream, [pattern.size for pattern in patterns])
    measured = _measurements(
        run, analysis, y, patterns, [i0 for i0 in _beside(run, stream, analysis.i0, patterns) if i0 is not None]
    )
    sigma, exposure = (_beside(run, stream, name, patterns) for name in (analysis.sigma, analysis.exposure))
    if (analysis.patterns or ("each" if _scanned_fields(run, stream) else "sum")) == "each":
        rows = zip(axes, measured, sigma, exposure, strict=True)
        return [_dataset(run, analysis, (x, y), (a, b), s, e, (i,)) for i, (a, b, s, e) in enumerate(rows, start=1)]
    if len(lengths) > 1 or any(not np.array_equal(axis, axes[0]) for axis in axes):
        raise NothingToAnalyseError(
            f"the patterns {y!r} of {run.label} do not lie at the same {x}, so that they cannot be added up: set "
            "patterns = 'each' to analyse one by one"
        )
    errors = [s for s in sigma if s is not None]
    times = [e for e in exposure if e is not None]
    spread = np.sqrt(np.sum(np.square(errors), axis=0)) if errors else None
    total, time = np.sum(measured, axis=0), np.sum(times, axis=0) if times else None
    return [_dataset(run, analysis, (x, y), (axes[0], total), spread, time, tuple(range(1, len(patterns) + 1)))]


def _axes(run: CollectedRun, analysis: Analysis, stream: str, lengths: Sequence[int]) -> tuple[str, list[Array]]:
    """Name and values of the abscissa of each pattern: a field, a device's configuration, or the channel's number."""
    name = analysis.x
    if name is None:
        return CHANNEL, [np.arange(n, dtype=np.float64) for n in lengths]
    if name in run.patterns[stream]:
        axes = list(run.patterns[stream][name])
    elif name in run.settings[stream]:
        axes = [_pattern(run.settings[stream][name])] * len(lengths)
    else:
        there = _listed([*run.patterns[stream], *run.settings[stream]])
        raise NothingToAnalyseError(
            f"a pattern's x must be a field or a configuration with one number a channel, and {name!r} of {run.label} "
            f"is none; there are {there}, or leave x out for the channel's number"
        )
    for event, (axis, n) in enumerate(zip(axes, lengths, strict=True), start=1):
        if axis.size != n:
            raise NothingToAnalyseError(
                f"{name!r} of {run.label} has {axis.size} numbers in event {event} where the pattern has {n}"
            )
    return name, axes


def _beside(run: CollectedRun, stream: str, name: str | None, patterns: Sequence[Array]) -> list[Array | None]:
    """Uncertainties or exposures of patterns: a field with one number a channel, or one an event."""
    if name is None:
        return [None] * len(patterns)
    if name in run.patterns[stream]:
        return list(run.patterns[stream][name])
    values = _values(run, stream, name)
    return [np.full(pattern.size, value) for pattern, value in zip(patterns, values, strict=True)]


def _stream(run: CollectedRun, stream: str) -> str:
    if stream not in run.streams:
        there = f"it has {_listed(run.streams)}" if run.streams else f"it has no events at all{_ending(run)}"
        raise NothingToAnalyseError(f"{run.label} has no stream {stream!r}: {there}")
    return stream


def _ending(run: CollectedRun) -> str:
    status, reason = run.stop.get("exit_status", "success"), run.stop.get("reason")
    if status == "success":
        return ""
    return f"; it ended with {status!r}" + (f" ({reason})" if reason else "")


def _scanned(run: CollectedRun, stream: str) -> str:
    """Find the field that was scanned."""
    fields = _scanned_fields(run, stream)
    if not fields:
        raise NothingToAnalyseError(
            f"nothing was scanned in stream {stream!r} of {run.label}: name a field as x; {_there(run, stream)}"
        )
    if len(fields) > 1:
        raise NothingToAnalyseError(
            f"{run.label} was scanned along {len(fields)} axes and a curve needs one: name a field as x; "
            f"there are {_listed(f[0] for f in fields)}"
        )
    return fields[0][0]


def _scanned_fields(run: CollectedRun, stream: str) -> list[list[str]]:
    """List the fields of each scanned axis: from the dimensions that the plan hinted, else from its motors."""
    dimensions = run.start.get("hints", {}).get("dimensions", [])
    hinted = [list(fields) for fields, where in dimensions if where == stream and "time" not in fields]
    if hinted or dimensions:
        return hinted
    return [_hinted(run, stream, motor) or [motor] for motor in run.start.get("motors") or ()]


def _hinted(run: CollectedRun, stream: str, device: str) -> list[str]:
    return list(run.hints[stream].get(device, {}).get("fields", []))


def _measured(run: CollectedRun, stream: str, x: str | None) -> str:
    """Find the first hinted number that was not scanned, else a pattern; detectors that the plan names first."""
    scanned = {x}.union(*_scanned_fields(run, stream))
    devices = dict.fromkeys([*(run.start.get("detectors") or ()), *run.hints[stream]])
    fields = [field for device in devices for field in _hinted(run, stream, device)]
    usable = [field for field in fields if field in run.streams[stream] and field not in scanned]
    usable += [field for field in fields if field in run.patterns[stream] and field != x]
    if not usable:
        raise NothingToAnalyseError(
            f"no detector of {run.label} hints at a number in stream {stream!r}: name a field as y; "
            f"{_there(run, stream)}"
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
    if "external" in data_key:
        return "kept in files outside the documents"
    if data_key.get("dtype") == "array":
        return f"an array of shape {tuple(data_key.get('shape', ()))}"
    return f"of type {data_key.get('dtype')!r}"


def _unit(run: CollectedRun, stream: str, field: str) -> str:
    return run.data_keys[stream].get(field, {}).get("units") or ""


def _there(run: CollectedRun, stream: str) -> str:
    names = _listed([*run.streams[stream], *run.patterns[stream]])
    return f"there are {names}" if names else "there are no fields with numbers"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
