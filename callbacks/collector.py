"""One run's documents become columns: all that is done while the run goes on."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bluesky_bayes.analysis import Recipe
from bluesky_bayes.dataset import Array
from bluesky_bayes.preparation import Image

Document: TypeAlias = Mapping[str, Any]

MOST_NUMBERS = 2_000_000
"""Numbers that are kept of one run: 16 MB."""
REFERENCE = 10
"""Numbers that take as much room as one that says where others are."""
MOST_ENTRIES = 100_000
"""Entries that are kept of one document."""
DEEPEST = 30
LONGEST_NAME = 60
MOST_LISTED = 30
"""What of the names in a run is told in a sentence."""

SCALARS = ("number", "integer", "boolean")
BASELINE = "baseline"


class NothingToAnalyseError(ValueError):
    """The run does not hold what the analysis asks for; the sentence says what it holds."""


class Span(NamedTuple):
    """A stream datum: which rows of a resource belong to which events; both ends exclude the last."""

    resource: str
    seq_start: int
    seq_stop: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Outside:
    """What the documents say of data in files.

    Attributes
    ----------
    resources : mapping of str to mapping
        Resource and stream resource documents by uid, in the order they came.
    datums : mapping of str to mapping
        Datum documents by id.
    spans : mapping of str to sequence of Span
        Stream datums by stream.
    ids : mapping of str to mapping of str to sequence
        For each event, by stream and field: the id of its datum, or the array itself where it was filled in.
    """

    resources: Mapping[str, Document] = field(default_factory=dict)
    datums: Mapping[str, Document] = field(default_factory=dict)
    spans: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    ids: Mapping[str, Mapping[str, Sequence[str | Array]]] = field(default_factory=dict)


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
    patterns : mapping of str to mapping of str to sequence of (n,) float64
        Arrays of one dimension, one an event, each as long as it was sent; empty where there was none.
    settings : mapping of str to mapping of str to object
        Configuration of the devices, the last of each.
    settings_of : mapping of str to sequence of mapping
        Configuration of the devices at each event.
    data_keys, setting_keys : mapping of str to mapping
        Descriptions of all fields and all configuration, by stream.
    hints : mapping of str to mapping
        Hints of the devices, by stream.
    seq_nums : mapping of str to (n_events,) int64
        Sequence numbers of the events, by stream.
    outside : Outside
        What lies in files.
    """

    start: Document
    stop: Document
    streams: Mapping[str, Mapping[str, Array]]
    patterns: Mapping[str, Mapping[str, Sequence[Array]]]
    settings: Mapping[str, Mapping[str, Any]]
    settings_of: Mapping[str, Sequence[Mapping[str, Any]]]
    data_keys: Mapping[str, Mapping[str, Mapping[str, Any]]]
    setting_keys: Mapping[str, Mapping[str, Mapping[str, Any]]]
    hints: Mapping[str, Mapping[str, Any]]
    seq_nums: Mapping[str, npt.NDArray[np.int64]]
    outside: Outside

    @property
    def label(self) -> str:
        """How people name the run in a sentence."""
        return label_of(self.start)


def label_of(start: Document) -> str:
    """How people name a run in a sentence: ``run 0123abcd (scan 7)``."""
    scan_id = start.get("scan_id")
    return f"run {str(start.get('uid', '?'))[:8]}" + (f" (scan {str(scan_id)[:20]})" if scan_id is not None else "")


def listed(names: Iterable[object]) -> str:
    """Names for a sentence, cut where they are many or long."""
    texts = [repr(name) if len(str(name)) <= LONGEST_NAME else f"{str(name)[:LONGEST_NAME]!r}..." for name in names]
    more = [f"{len(texts) - MOST_LISTED} more"] if len(texts) > MOST_LISTED else []
    return ", ".join(texts[:MOST_LISTED] + more)


class RunCollector:
    """Keeps the numbers of one run as they come: a callable ``(name, doc)``.

    It opens no file. What is kept are copies, since who sent a document may use its memory again.

    Parameters
    ----------
    analysis : Analysis or PhaseAnalysis, optional
        Keep the numbers that it asks for only; all by default.
    """

    def __init__(self, analysis: Recipe | None = None) -> None:
        self.start_document: Document = {}
        self.stop_document: Document = {}
        self._asked = Asked(analysis)
        self._tables: dict[str, _Table] = {}
        self._resources: dict[str, Document] = {}
        self._datums: dict[str, Document] = {}
        self._spans: dict[str, tuple[str, Span]] = {}
        self._room = MOST_NUMBERS

    def room(self, waiting: int = 0) -> float:
        """Share of `MOST_NUMBERS` that the run may still give, after so many that wait."""
        return max(0.0, (self._room - waiting) / MOST_NUMBERS)

    def __call__(self, name: str, doc: Document) -> None:
        """Take a document.

        Raises
        ------
        ValueError
            When it is of another run, or not made as the event model says.
        """
        takers: dict[str, Callable[[Document], None]] = {
            "start": self._start,
            "descriptor": self._descriptor,
            "event": self._event,
            "event_page": self._event_page,
            "bulk_events": self._bulk_events,
            "resource": self._resource,
            "stream_resource": self._resource,
            "datum": self._datum,
            "datum_page": self._datum_page,
            "bulk_datum": self._bulk_datum,
            "stream_datum": self._stream_datum,
            "stop": self._stop,
        }
        try:
            if name in takers:
                takers[name](doc)
        except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"a {name} document of {label_of(self.start_document)} is not made as the event model says "
                f"({type(error).__name__}: {str(error)[:100]}); the run is not analysed"
            ) from error

    def _start(self, doc: Document) -> None:
        if self.start_document:
            raise ValueError(f"these are documents of two runs: {label_of(self.start_document)} and {label_of(doc)}")
        self.start_document = plain(dict(doc))

    def _descriptor(self, doc: Document) -> None:
        if doc["uid"] not in self._tables:
            self._tables[str(doc["uid"])] = _Table(plain(dict(doc)), self._asked)

    def _event(self, doc: Document) -> None:
        self._append(self._tables[doc["descriptor"]], doc["seq_num"], doc["data"])

    def _event_page(self, doc: Document) -> None:
        table = self._tables[doc["descriptor"]]
        for i, seq_num in enumerate(doc["seq_num"]):
            self._append(table, seq_num, {name: values[i] for name, values in doc["data"].items()})

    def _bulk_events(self, doc: Document) -> None:
        for event in chain.from_iterable(doc.values()):
            self._event(event)

    def _resource(self, doc: Document) -> None:
        self._resources.setdefault(str(doc["uid"]), plain(dict(doc)))
        self._take(len(doc))

    def _datum(self, doc: Document) -> None:
        self._keep_datum(doc["resource"], doc["datum_id"], doc["datum_kwargs"])

    def _datum_page(self, doc: Document) -> None:
        for i, datum_id in enumerate(doc["datum_id"]):
            self._keep_datum(doc["resource"], datum_id, {name: each[i] for name, each in doc["datum_kwargs"].items()})

    def _bulk_datum(self, doc: Document) -> None:
        for datum_id, kwargs in zip(doc["datum_ids"], doc["datum_kwarg_list"], strict=False):
            self._keep_datum(doc["resource"], datum_id, kwargs)

    def _keep_datum(self, resource: str, datum_id: str, kwargs: Document) -> None:
        if self._take(10 + len(kwargs)):
            kept = {"resource": str(resource), "datum_id": str(datum_id), "datum_kwargs": plain(dict(kwargs))}
            self._datums[str(datum_id)] = kept

    def _stream_datum(self, doc: Document) -> None:
        table = self._tables[doc["descriptor"]]
        if table.stream in self._asked and self._take(10):
            seq_nums, indices = doc["seq_nums"], doc["indices"]
            ends = [int(ends[end]) for ends in (seq_nums, indices) for end in ("start", "stop")]
            self._spans[str(doc["uid"])] = (table.stream, Span(str(doc["stream_resource"]), *ends))

    def _stop(self, doc: Document) -> None:
        self.stop_document = plain(dict(doc))

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
        spans: dict[str, list[Span]] = {}
        for stream, span in self._spans.values():
            spans.setdefault(stream, []).append(span)
        rows = {stream: _rows(parts) for stream, parts in tables.items()}
        ids = {stream: _joined(parts, "ids", rows[stream]) for stream, parts in tables.items()}
        return CollectedRun(
            self.start_document,
            self.stop_document,
            {stream: _columns(parts, rows[stream]) for stream, parts in tables.items()},
            {stream: _joined(parts, "patterns", rows[stream]) for stream, parts in tables.items()},
            {stream: _union([table.settings for table in parts]) for stream, parts in tables.items()},
            {stream: _settings_of(parts, rows[stream]) for stream, parts in tables.items()},
            {stream: _union([table.data_keys for table in parts]) for stream, parts in tables.items()},
            {stream: _union([table.setting_keys for table in parts]) for stream, parts in tables.items()},
            {stream: _union([table.hints for table in parts]) for stream, parts in tables.items()},
            {s: np.concatenate([np.asarray(t.seq_num) for t in parts])[rows[s]] for s, parts in tables.items()},
            Outside(self._resources, self._datums, spans, ids),
        )

    def _append(self, table: _Table, seq_num: int, data: Document) -> None:
        if self._room >= 0 and table.stream in self._asked:
            self._take(table.append(seq_num, data))

    def _take(self, numbers: int) -> bool:
        """Use room; all is forgotten when there is none left."""
        self._room -= numbers
        if self._room < 0:
            self._datums, self._spans = {}, {}
            for table in self._tables.values():
                table.clear()
        return self._room >= 0


class Asked:
    """What an analysis asks for: streams, and the arrays in them."""

    def __init__(self, analysis: Recipe | None) -> None:
        self.image: Image | None = None
        self._streams: set[str] | None = None
        self._arrays: set[str | None] | None = None
        if analysis is None:
            return
        levels = analysis.preparation.levels.values()
        self.image = analysis.preparation.image
        self._streams = {analysis.stream, BASELINE} | {level.stream for level in levels if level.stream}
        if analysis.y is not None:
            self._arrays = {name for level in levels for name in (level.field, level.sigma_field)}.union(analysis.named)

    def __contains__(self, stream: str) -> bool:
        """Whether a stream is asked for."""
        return self._streams is None or stream in self._streams

    def array(self, name: str) -> bool:
        """Whether a field with more than one number an event is asked for."""
        return self._arrays is None or name in self._arrays

    def trimmed(self, name: str, doc: Document) -> Document:
        """An event, or a page of them, without the arrays that are not asked for; any other document as it is."""
        if self._arrays is None or name not in ("event", "event_page"):
            return doc
        dimensions = 0 if name == "event" else 1
        kept = {
            field: value for field, value in doc["data"].items() if self.array(field) or not _is_long(value, dimensions)
        }
        return doc if len(kept) == len(doc["data"]) else {**doc, "data": kept}


class _Table:
    """The events of one descriptor."""

    def __init__(self, descriptor: Document, asked: Asked) -> None:
        self.stream = str(descriptor.get("name", "primary"))
        self.data_keys = _mappings(descriptor["data_keys"])
        self.hints = _mappings(descriptor.get("hints"))
        devices = _mappings(descriptor.get("configuration")).values()
        self.settings = _union([_mapping(device.get("data")) for device in devices])
        self.setting_keys = _union([_mappings(device.get("data_keys")) for device in devices])
        self.seq_num = array("q")
        keys = self.data_keys.items()
        self._image = asked.image
        wanted = [(name, key) for name, key in keys if asked.array(name)]
        self.columns = {name: array("d") for name, key in keys if is_scalar(key)}
        self.patterns: dict[str, list[Array]] = {
            name: [] for name, key in wanted if is_pattern(key) or (asked.image is not None and is_image(key))
        }
        self.ids: dict[str, list[str | Array]] = {name: [] for name, key in wanted if "external" in key}

    def append(self, seq_num: int, data: Document) -> int:
        """Keep one event; gives how many numbers that took."""
        numbers = {name: _number(data.get(name)) for name in self.columns}
        patterns = {name: self._pattern(name, data.get(name)) for name in self.patterns}
        ids = {name: self._id(name, data.get(name)) for name in self.ids}
        self.seq_num.append(seq_num)
        for name, number in numbers.items():
            self.columns[name].append(number)
        size = 1 + len(numbers)
        size += sum(_keep(self.patterns[name], pattern) for name, pattern in patterns.items())
        return size + sum(_keep(self.ids[name], datum) for name, datum in ids.items())

    def _pattern(self, name: str, value: Any) -> Array:
        image = self._image if is_image(self.data_keys[name]) else None
        return pattern_of(value, image)

    def _id(self, name: str, value: Any) -> str | Array:
        return value if isinstance(value, str) else self._pattern(name, value)

    def clear(self) -> None:
        """Forget the numbers."""
        self.seq_num = array("q")
        self.columns, self.patterns, self.ids = {}, {}, {}


def _keep(entries: list[Any], value: str | Array) -> int:
    """Append a value; gives how many numbers that takes: few for an array like the one before, as angles often are."""
    size = REFERENCE if isinstance(value, str) else value.size
    if entries and isinstance(value, np.ndarray) and np.array_equal(value, entries[-1]):
        value, size = entries[-1], min(size, REFERENCE)
    entries.append(value)
    return size


def _is_long(value: Any, dimensions: int) -> bool:
    """Whether a value has several numbers, in more than so many dimensions."""
    if dimensions and isinstance(value, list | tuple):
        return any(_is_long(each, dimensions - 1) for each in value[:1])
    if isinstance(value, np.ndarray):
        return value.ndim > dimensions and value.size > 1
    return isinstance(value, list | tuple) and len(value) > 1


def is_scalar(data_key: Mapping[str, Any]) -> bool:
    """Whether a field in the events is one number."""
    return data_key.get("dtype") in SCALARS and "external" not in data_key


def is_pattern(data_key: Mapping[str, Any]) -> bool:
    """Whether a field in the events has numbers along one dimension."""
    return data_key.get("dtype") == "array" and "external" not in data_key and len(longer(data_key)) <= 1


def is_image(data_key: Mapping[str, Any]) -> bool:
    """Whether a field, in events or files, has two dimensions or more."""
    return data_key.get("dtype") == "array" and len(longer(data_key)) > 1


def shape_of(data_key: Mapping[str, Any]) -> tuple[Any, ...]:
    """Declared shape; what is not known of it is None."""
    shape = data_key.get("shape")
    return tuple(shape) if isinstance(shape, list | tuple) else ()


def longer(data_key: Mapping[str, Any]) -> list[Any]:
    """Dimensions of more than one number."""
    return [n for n in shape_of(data_key) if n != 1]


def pattern_of(value: Any, image: Image | None = None) -> Array:
    """A copy as long as it was sent; empty for what is no row of numbers."""
    try:
        if image is not None:
            frames = np.asarray(value)
            frames = frames if frames.dtype != object else np.asarray(value, dtype=np.float64)
            return image.pattern(frames.reshape(-1, *frames.shape[-2:])) if frames.ndim >= 2 else np.zeros(0)
        pattern = np.array(value, dtype=np.float64)
    except (TypeError, OverflowError):
        return np.zeros(0)
    except ValueError:
        if image is not None and isinstance(value, np.ndarray):
            raise
        return np.zeros(0)
    return pattern.ravel() if pattern.ndim and pattern.size == max(pattern.shape) else np.zeros(0)


def _number(value: Any) -> float:
    if isinstance(value, list | tuple | np.ndarray):
        value = value[0] if np.shape(value) == (1,) else None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _rows(tables: list[_Table]) -> npt.NDArray[np.intp]:
    """Rows of a stream's joined tables, ordered by sequence number, the last of each."""
    backwards = np.concatenate([np.asarray(table.seq_num) for table in tables])[::-1]
    rows: npt.NDArray[np.intp] = backwards.size - 1 - np.unique(backwards, return_index=True)[1]
    return rows


def _columns(tables: list[_Table], rows: npt.NDArray[np.intp]) -> dict[str, Array]:
    names = dict.fromkeys(name for table in tables for name in table.columns)
    return {name: np.concatenate([_column(table, name) for table in tables])[rows] for name in names}


def _column(table: _Table, name: str) -> Array:
    if name in table.columns:
        return np.asarray(table.columns[name])
    return np.full(len(table.seq_num), np.nan)


def _joined(tables: list[_Table], part: str, rows: npt.NDArray[np.intp]) -> dict[str, list[Any]]:
    """Lists, one entry an event, of all tables in order; an empty array where a table has none."""
    none = np.zeros(0)
    parts: list[dict[str, list[Any]]] = [getattr(table, part) for table in tables]
    joined = {
        name: list(
            chain.from_iterable(p.get(name, [none] * len(t.seq_num)) for p, t in zip(parts, tables, strict=True))
        )
        for name in dict.fromkeys(name for part in parts for name in part)
    }
    return {name: [entries[row] for row in rows] for name, entries in joined.items()}


def _settings_of(tables: list[_Table], rows: npt.NDArray[np.intp]) -> list[Mapping[str, Any]]:
    joined = list(chain.from_iterable([table.settings] * len(table.seq_num) for table in tables))
    return [joined[row] for row in rows]


def _union(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> dict[str, Mapping[str, Any]]:
    return {name: each for name, each in _mapping(value).items() if isinstance(each, Mapping)}


def plain(doc: dict[str, Any]) -> dict[str, Any]:
    """A copy of a document that holds plain data only, so that it can be sent and kept; anything else goes by its type.

    Raises
    ------
    ValueError
        When it has more than `MOST_ENTRIES` entries or is deeper than `DEEPEST`.
    """
    entries = count(1)
    return {str(key): _copied(value, 1, entries) for key, value in doc.items()}


def _copied(value: Any, depth: int, entries: Iterator[int]) -> Any:
    """Copy a value at a depth of a document, counting its entries."""
    if next(entries) > MOST_ENTRIES or depth > DEEPEST:
        raise ValueError(
            f"a document has more than {MOST_ENTRIES} entries or is nested deeper than {DEEPEST}; the run is not "
            "analysed"
        )
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.copy()
    if isinstance(value, Mapping):
        return {str(key): _copied(each, depth + 1, entries) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(each, depth + 1, entries) for each in value]
    return f"<{type(value).__name__}>"
