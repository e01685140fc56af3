"""Data in files outside the documents, read where the analysis runs and never on the RunEngine's thread."""

from __future__ import annotations

import importlib
import math
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from bluesky_bayes.analysis import Files, Recipe
from bluesky_bayes.callbacks.collector import (
    MOST_NUMBERS,
    CollectedRun,
    Document,
    NothingToAnalyseError,
    Span,
    is_image,
    listed,
    longer,
    pattern_of,
    shape_of,
)
from bluesky_bayes.dataset import Array
from bluesky_bayes.preparation import Image

T = TypeVar("T")

SECONDS_TO_APPEAR = 5.0
"""How long a file is waited for that is missing, locked or shorter than the documents say."""
SECONDS_BETWEEN = 0.25
MOST_IN_FRAME = 50_000_000
"""Numbers of one image, or of its region of interest, that are read at once: 400 MB."""
HDF5 = "application/x-hdf5"
HANDLERS = "databroker.handlers"


class NotThereError(NothingToAnalyseError):
    """The data are not where the documents say, or not yet; the sentence says where that is."""


def with_files(run: CollectedRun, stream: str, names: Sequence[str | None], analysis: Recipe) -> CollectedRun:
    """The run with fields of a stream read from files, where these lie in files.

    Events without their part of a file, and frames without an event, are left out; without events the frames count.

    Parameters
    ----------
    run : CollectedRun
    stream : str
    names : sequence of str or None
        Fields that are needed.
    analysis : Analysis or PhaseAnalysis
        How files are reached and how an image becomes a pattern.

    Raises
    ------
    NothingToAnalyseError
        Names the file, what is wrong with it, and what to do.
    """
    keys = run.data_keys.get(stream, {})
    outside = [name for name in dict.fromkeys(names) if name is not None and "external" in keys.get(name, {})]
    if not outside:
        return run
    deadline = time.monotonic() + SECONDS_TO_APPEAR
    sources = {name: _source(_Field(run, stream, name, analysis, deadline)) for name in outside}
    seq_nums = run.seq_nums[stream]
    if not seq_nums.size:
        seq_nums = np.unique(np.concatenate([source.seq_nums for source in sources.values()]))
    for source in sources.values():
        seq_nums = seq_nums[np.isin(seq_nums, source.seq_nums)]
    if not seq_nums.size:
        raise NothingToAnalyseError(
            f"no event in stream {stream!r} of {run.label} has its part of the files with {listed(outside)}"
        )
    rows = np.flatnonzero(np.isin(run.seq_nums[stream], seq_nums)).tolist()
    columns = {name: values[rows] for name, values in run.streams[stream].items() if rows}
    patterns: dict[str, Sequence[Array]] = {
        name: [values[row] for row in rows] for name, values in run.patterns[stream].items() if rows
    }
    room = MOST_NUMBERS
    for name, source in sources.items():
        read: list[Array] = []
        for values in source.read(seq_nums):
            room -= values.size
            if room < 0:
                raise NothingToAnalyseError(
                    f"{name!r} of {run.label} has more than {MOST_NUMBERS} numbers in files, too many to keep in "
                    "memory; give a smaller region of interest (preparation image), or analyse fewer events"
                )
            read.append(values)
        if longer(keys[name]):
            patterns[name] = read
            continue
        if any(values.size != 1 for values in read):
            raise NothingToAnalyseError(f"{name!r} of {run.label} is one number an event, and its file holds arrays")
        columns[name] = np.concatenate(read)
    settings_of = [run.settings_of[stream][row] for row in rows] or [run.settings[stream]] * seq_nums.size
    return replace(
        run,
        streams={**run.streams, stream: columns},
        patterns={**run.patterns, stream: patterns},
        settings_of={**run.settings_of, stream: settings_of},
        seq_nums={**run.seq_nums, stream: seq_nums},
    )


@dataclass(frozen=True)
class _Field:
    """A field of a stream that lies in files, and until when these are waited for."""

    run: CollectedRun
    stream: str
    name: str
    analysis: Recipe
    deadline: float

    @property
    def key(self) -> Mapping[str, Any]:
        """Its description."""
        return self.run.data_keys[self.stream][self.name]

    @property
    def what(self) -> str:
        """How people name it in a sentence."""
        return f"{self.name!r} of {self.run.label}"

    @property
    def image(self) -> Image | None:
        """How it becomes a pattern, where it is an image."""
        return self.analysis.preparation.image if is_image(self.key) else None


@dataclass(frozen=True)
class _Source:
    """Where the values of a field are: for which events, and how they are read in their order."""

    seq_nums: npt.NDArray[np.int64]
    read: Callable[[npt.NDArray[np.int64]], Iterator[Array]]


def _source(field: _Field) -> _Source:
    if is_image(field.key) and field.image is None:
        raise NothingToAnalyseError(
            f"{field.what} is an image of shape ({listed(shape_of(field.key))}) and a pattern has one "
            "dimension: say how it becomes one, Preparation(image=Image(rows=..., columns=..., sum='rows'))"
        )
    return _stream_source(field) if str(field.key["external"]).startswith("STREAM:") else _datum_source(field)


def _stream_source(field: _Field) -> _Source:
    """Rows of stream resources, which the stream datums give."""
    outside = field.run.outside
    resources = {uid: doc for uid, doc in outside.resources.items() if doc.get("data_key") == field.name}
    spans = [span for span in outside.spans.get(field.stream, ()) if span.resource in resources]
    if not spans:
        raise NothingToAnalyseError(
            f"{field.what} lies in a file that the documents never name: no stream_datum of it came"
        )
    rows: dict[int, tuple[str, int]] = {}
    for span in _counted_on(spans, list(resources)):
        n = span.stop - span.start
        if n < 0 or span.seq_stop - span.seq_start != n or span.start < 0:
            raise NothingToAnalyseError(
                f"a stream_datum of {field.what} gives rows {span.start} to {span.stop} to events "
                f"{span.seq_start} to {span.seq_stop}, which is no row for each event"
            )
        if len(rows) + n > MOST_NUMBERS:
            raise NothingToAnalyseError(f"{field.what} has more than {MOST_NUMBERS} rows in files")
        rows.update((span.seq_start + i, (span.resource, span.start + i)) for i in range(n))

    def read(seq_nums: npt.NDArray[np.int64]) -> Iterator[Array]:
        wanted = [rows[int(seq_num)] for seq_num in seq_nums]
        yield from _else_tiled(_Rows(field).read(wanted, resources), field, seq_nums)

    return _Source(np.array(sorted(rows), dtype=np.int64), read)


def _counted_on(spans: Sequence[Span], resources: list[str]) -> Iterator[Span]:
    """Spans with rows counted from the start of their own file, also where a later file counts on from an earlier."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for span in spans:
        first[span.resource] = min(span.start, first.get(span.resource, span.start))
        last[span.resource] = max(span.stop, last.get(span.resource, span.stop))
    offsets, end = {}, 0
    for uid in resources:
        if uid in first:
            offsets[uid] = end if end and first[uid] >= end else 0
            end = last[uid]
    for span in spans:
        offset = offsets[span.resource]
        yield span._replace(start=span.start - offset, stop=span.stop - offset)


class _Rows:
    """Rows of a field from HDF5 or TIFF files."""

    def __init__(self, field: _Field) -> None:
        self._what, self._key, self._image = field.what, field.key, field.image
        self._files, self._deadline = field.analysis.files, field.deadline

    def read(self, rows: Sequence[tuple[str, int]], resources: Mapping[str, Document]) -> Iterator[Array]:
        """Values, one array a row, a file opened once where its rows follow each other."""
        with ExitStack() as opened:
            current, source = "", None
            for resource, row in rows:
                if resource != current:
                    opened.close()
                    current, source = resource, self._open(resources[resource], opened)
                assert source is not None
                yield self._patiently(lambda source=source, row=row: source(row))  # type: ignore[misc]

    def _open(self, resource: Document, opened: ExitStack) -> Callable[[int], Array]:
        mimetype = resource.get("mimetype")
        parameters = resource.get("parameters")
        parameters = parameters if isinstance(parameters, Mapping) else {}
        path = self._path(str(resource.get("uri", "")))
        if mimetype == HDF5 and not parameters.get("template"):
            dataset = str(parameters.get("dataset", ""))
            file: list[Any] = []

            def row_of(row: int) -> Array:
                if not file:
                    file.append(opened.enter_context(self._hdf5(path)))
                try:
                    return self._hdf5_row(file[0], path, dataset, row)
                except (NotThereError, OSError, RuntimeError, LookupError) as error:  # h5py raises them for damage
                    file.clear()  # to be opened anew, since it may grow
                    opened.close()
                    raise error if isinstance(error, NotThereError) else self._damaged(path, error) from error

            return row_of
        if mimetype in IMAGES:
            return lambda row: self._series(IMAGES[str(mimetype)], path, parameters, row)
        kind = "a series of HDF5 files" if mimetype == HDF5 else f"files of type {listed([mimetype])}"
        raise NotThereError(
            f"{self._what} lies in {kind}, and what is read here is one HDF5 file, and series of TIFF, JPEG and NPY "
            "files; name a Tiled container of the raw runs, Analysis(files=Files(tiled=...))"
        )

    def _patiently(self, read: Callable[[], Array]) -> Array:
        """What is read, as soon as it is there."""
        while True:
            try:
                return read()
            except NotThereError:
                if time.monotonic() >= self._deadline:
                    raise
                time.sleep(SECONDS_BETWEEN)

    def _path(self, uri: str) -> Path:
        return path_of(uri, self._files, self._what)

    def _hdf5(self, path: Path) -> Any:
        h5py = _module("h5py", self._what)
        if not path.is_file():
            raise NotThereError(self._missing(path))
        try:
            return h5py.File(path, "r")
        except OSError as error:
            with suppress(OSError):  # a file that is written to may allow this
                return h5py.File(path, "r", swmr=True)
            raise self._damaged(path, error) from error

    def _hdf5_row(self, file: Any, path: Path, name: str, row: int) -> Array:
        h5py = _module("h5py", self._what)
        dataset = file.get(name) if name else None
        if not isinstance(dataset, h5py.Dataset):
            there: list[str] = []
            file.visititems(lambda where, node: there.append(f"/{where}") if isinstance(node, h5py.Dataset) else None)
            raise NotThereError(
                f"{path} has no dataset {name!r} for {self._what}; it has {listed(there[:10]) or 'none at all'}"
            )
        if dataset.dtype.kind not in "biuf" and h5py.check_vlen_dtype(dataset.dtype) is None:
            raise NothingToAnalyseError(f"dataset {name!r} of {path} holds no numbers but {dataset.dtype}")
        first, n = self._frames(dataset.shape, path, row)
        if first + n > dataset.shape[0]:
            raise NotThereError(
                f"dataset {name!r} of {path} has {dataset.shape[0]} rows and {self._what} needs row {first + n}: the "
                "file is not written to its end, or was cut short; analyse the run again when it is complete"
            )
        if self._image is None:
            _check_size(n * math.prod(dataset.shape[1:]), f"{path} with {self._what}")
            return self._row(dataset[first] if n == 1 else dataset[first : first + n], path)
        rows, columns = self._image.region(dataset.shape)
        _check_size((rows.stop - rows.start) * (columns.stop - columns.start), f"{path} with {self._what}")
        frames = (dataset[first + i, ..., rows, columns] for i in range(n))
        return np.asarray(sum(self._image.added(frame) for frame in frames))

    def _frames(self, shape: tuple[int, ...], path: Path, row: int) -> tuple[int, int]:
        """First row of the dataset that an event has, and how many."""
        declared = shape_of(self._key)
        if not shape:
            raise NothingToAnalyseError(f"{path} holds one number for all of {self._what}, not one row for each event")
        if None in declared or not all(isinstance(n, int) for n in declared):
            return row, 1
        one, whole = math.prod(shape[1:]), math.prod(declared)
        if self._image is not None and len(shape) < 3:
            one = 0
        if not one or whole % one or (self._image is not None and declared[-2:] != shape[-2:]):
            raise NothingToAnalyseError(
                f"{path} has rows of shape {shape[1:]} for {self._what}, where the documents say ({listed(declared)})"
            )
        n = whole // one
        return row * n, n

    def _series(self, read: _ReadImage, path: Path, parameters: Mapping[str, Any], row: int) -> Array:
        """What an event has in a series of files with an image each."""
        declared = shape_of(self._key)
        frames = declared[0] if len(declared) > 2 and isinstance(declared[0], int) else 1
        chunk = parameters.get("chunk_shape") or (1,)
        n = int(parameters.get("files_per_datum") or max(frames // max(int(chunk[0]), 1), 1))
        patterns = []
        for i in range(n):
            name = file_name(parameters, row * n + i, self._what)
            file = Path(f"{path}{name}") if name.startswith("/") or path.suffix or not path.is_dir() else path / name
            if not file.is_file():
                raise NotThereError(self._missing(file))
            try:
                image = read(file, self._what)
            except NothingToAnalyseError:
                raise
            except Exception as error:  # readers raise whatever the damage leads to
                raise self._damaged(file, error) from error
            if declared and all(isinstance(m, int) for m in declared) and tuple(declared[-2:]) != image.shape[-2:]:
                raise NothingToAnalyseError(
                    f"{file} is an image of shape {image.shape} for {self._what}, where the documents say "
                    f"({listed(declared)})"
                )
            patterns.append(self._row(image, file))
        return np.asarray(sum(patterns))

    def _row(self, values: Any, path: Path) -> Array:
        """What an event has, reduced if it is an image."""
        if not longer(self._key):
            numbers = np.asarray(values, dtype=np.float64).ravel()
            if numbers.size != 1:
                raise NothingToAnalyseError(f"{path} has {numbers.size} numbers a row for {self._what}, which is one")
            return numbers
        pattern = pattern_of(values, self._image)
        if not pattern.size:
            raise NothingToAnalyseError(f"{path} holds no row of numbers for {self._what}")
        return pattern

    def _missing(self, path: Path) -> str:
        return (
            f"{self._what} lies in {path}, which is not there (or not for this computer): say where its folder is "
            "mounted, Analysis(files=Files(root_map={...})), or name a Tiled container of raw runs, Files(tiled=...)"
        )

    def _damaged(self, path: Path, error: Exception) -> NotThereError:
        reason = str(error).split("\n")[0][:200]
        if "unable to lock" in reason.lower() or "already open" in reason.lower():
            return NotThereError(
                f"{path} with {self._what} is locked by who writes it ({reason}); analyse the run again when it is "
                "closed"
            )
        return NotThereError(
            f"{path} with {self._what} cannot be read ({reason}): it is damaged, cut short, or not written to its end; "
            "analyse the run again when it is complete"
        )


def _read_tiff(path: Path, what: str) -> npt.NDArray[Any]:
    with _module("tifffile", what).TiffFile(path) as file:
        _check_size(math.prod(file.series[0].shape), f"{path} with {what}")
        image: npt.NDArray[Any] = file.asarray()
    return image


def _read_jpeg(path: Path, what: str) -> npt.NDArray[Any]:
    with _module("PIL.Image", what).open(path, formats=["JPEG"]) as file:
        _check_size(math.prod(file.size), f"{path} with {what}")
        return np.asarray(file.convert("L"))


def _read_npy(path: Path, what: str) -> npt.NDArray[Any]:
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_size(mapped.size, f"{path} with {what}")
    return np.array(mapped)


_ReadImage: TypeAlias = Callable[[Path, str], npt.NDArray[Any]]
IMAGES: dict[str, _ReadImage] = {
    "multipart/related;type=image/tiff": _read_tiff,
    "multipart/related;type=image/jpeg": _read_jpeg,
    "multipart/related;type=application/x-npy": _read_npy,
}
"""Readers of files with an image each, by their type in the documents."""


def path_of(uri: str, files: Files, what: str) -> Path:
    """The path here of a ``file:`` address in the documents.

    Raises
    ------
    NotThereError
        When it is another kind of address, or on another computer that `files` does not map.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise NotThereError(f"{what} lies at {uri[:200]!r}, which is no address of a file ({error})") from error
    path = unquote(parts.path)
    if parts.scheme != "file" or not path.startswith("/") or "\0" in path:
        raise NotThereError(
            f"{what} lies at {uri[:200]!r}, and only addresses that begin with file:// are read here; name a Tiled "
            "container of the raw runs, Analysis(files=Files(tiled=...))"
        )
    mapped = mapped_path(f"file://{parts.netloc}{path}", files) or mapped_path(path, files)
    if mapped is not None:
        return Path(mapped)
    if parts.netloc not in ("", "localhost", socket.gethostname()):
        raise NotThereError(
            f"{what} lies on another computer, {parts.netloc!r}: say where {path!r} is mounted here, "
            f"Analysis(files=Files(root_map={{'file://{parts.netloc}/...': ...}})), or name a Tiled container of "
            "the raw runs, Files(tiled=...)"
        )
    return Path(path)


def mapped_path(path: str, files: Files) -> str | None:
    """A path with its longest beginning that `files` maps replaced; None where it maps none."""
    for begin in sorted(files.root_map, key=len, reverse=True):
        there = begin.rstrip("/")
        if path == there or path.startswith(there + "/"):
            return files.root_map[begin].rstrip("/") + path[len(there) :]
    return None


_NUMBER = re.compile(r"\{(?:0|\w*)?:?(0?\d{0,2})d\}|%(0?\d{0,2})(?:\.(\d{1,2}))?d")


def file_name(parameters: Mapping[str, Any], number: int, what: str) -> str:
    """Name of a file of a series, from a template as in Python (``{:05d}``) or in C (``%s%s_%6.6d.tiff``).

    Raises
    ------
    NothingToAnalyseError
        When the template has no place for one number.
    """
    template = str(parameters.get("template", ""))
    name = str(parameters.get("filename", ""))
    filled = template.replace("{filename}", name).replace("%s%s", name).replace("%s", name)

    def digits(match: re.Match[str]) -> str:
        return format(number, f"0{match[3]}d") if match[3] else format(number, f"{match[1] or match[2] or ''}d")

    made, n = _NUMBER.subn(digits, filled)
    if n != 1 or not set(made).isdisjoint("{}%\0") or ".." in made:
        raise NothingToAnalyseError(f"the files of {what} are named by {template[:100]!r}, which is no series of names")
    return made


def _datum_source(field: _Field) -> _Source:
    """Legacy resources and datums, by the event model's own filler and its handlers."""
    run, name, files, what = field.run, field.name, field.analysis.files, field.what
    values = run.outside.ids.get(field.stream, {}).get(name, ())
    ids = dict(zip(run.seq_nums[field.stream].tolist(), values, strict=False))

    def read(seq_nums: npt.NDArray[np.int64]) -> Iterator[Array]:
        from event_model import Filler

        specs = {str(doc.get("spec")) for doc in run.outside.resources.values() if "spec" in doc}
        roots = {str(doc.get("root", "")) for doc in run.outside.resources.values()}
        mapped = {root: there for root in roots if (there := mapped_path(root, files)) is not None}
        handlers = {spec: handler for spec in specs if (handler := _handler(spec, files, what)) is not None}
        needed = {datum for seq_num in seq_nums if isinstance(datum := ids[int(seq_num)], str)}
        known = {datum: run.outside.datums[datum] for datum in needed if datum in run.outside.datums}
        with Filler(handlers, root_map=mapped, inplace=True, retry_intervals=_intervals(field.deadline)) as filler:
            filler("descriptor", {"uid": "", "data_keys": {name: dict(field.key)}})
            for resource in run.outside.resources.values():
                if "spec" in resource:
                    filler("resource", {"resource_kwargs": {}, **resource})
            for datum in known.values():
                filler("datum", datum)
            for seq_num in seq_nums:
                value = ids[int(seq_num)]
                if isinstance(value, str):
                    _check_datum(run, value, what, handlers)
                    value = _filled(filler, field, value)
                yield value

    def read_or_ask(seq_nums: npt.NDArray[np.int64]) -> Iterator[Array]:
        return _else_tiled(read(seq_nums), field, seq_nums)

    there = [seq_num for seq_num, value in ids.items() if isinstance(value, str) or value.size]
    return _Source(np.array(there, dtype=np.int64), read_or_ask)


def _check_datum(run: CollectedRun, datum_id: str, what: str, handlers: Mapping[str, Any]) -> None:
    """Raise unless the documents say where a datum is and something can read it."""
    datum = run.outside.datums.get(datum_id)
    resource = run.outside.resources.get(datum["resource"]) if datum else None
    if resource is None or "spec" not in resource:
        raise NotThereError(
            f"an event of {what} speaks of the datum {datum_id[:60]!r}, and no {'resource' if datum else 'datum'} "
            "document says where it is"
        )
    if resource["spec"] not in handlers:
        raise NotThereError(
            f"{what} lies in files of kind {str(resource['spec'])[:60]!r}, and nothing here reads these: install "
            "the package with its handler (area-detector-handlers has many), or name it, "
            f"Analysis(files=Files(handlers={{{str(resource['spec'])[:60]!r}: 'package.module:Class'}}))"
        )


def _filled(filler: Any, field: _Field, datum: str) -> Array:
    """One event's array by the filler."""
    name, what = field.name, field.what
    event = {"uid": "", "descriptor": "", "data": {name: datum}, "filled": {name: False}, "timestamps": {}}
    try:
        values = filler.fill_event(event)["data"][name]
        numbers = math.prod(np.shape(values))
        values = np.asarray(values) if numbers <= MOST_IN_FRAME else np.zeros(0)
    except Exception as error:  # handlers raise whatever they meet
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {str(cause)[:200]}"
        raise NotThereError(
            f"the file with {what} could not be read ({reason}); say where its folder is mounted, "
            "Analysis(files=Files(root_map={...})), or name a Tiled container of the raw runs, Files(tiled=...)"
        ) from error
    _check_size(numbers, f"the file with {what}")
    return _reduced(values, field)


def _check_size(numbers: float, where: str) -> None:
    if numbers > MOST_IN_FRAME:
        raise NothingToAnalyseError(
            f"{where} has {numbers} numbers for one event, more than {MOST_IN_FRAME}; give a region of interest "
            "(preparation image) where the file is HDF5"
        )


def _reduced(values: npt.NDArray[Any], field: _Field) -> Array:
    """What an event has, as a pattern or a number."""
    what, image = field.what, field.image
    if image is not None and values.ndim < 2:
        raise NothingToAnalyseError(
            f"the file with {what} holds an array of shape {values.shape}, where the documents say an image "
            f"({listed(shape_of(field.key))})"
        )
    values = np.atleast_1d(values)
    pattern = pattern_of(values, image)
    if not pattern.size:
        raise NothingToAnalyseError(f"the file with {what} holds an array of shape {values.shape}, which is no pattern")
    return pattern


def _intervals(deadline: float) -> list[float]:
    """Pauses between attempts that end at the deadline."""
    left = max(0.0, deadline - time.monotonic())
    return [SECONDS_BETWEEN] * int(left / SECONDS_BETWEEN)


def _handler(spec: str, files: Files, what: str) -> Any:
    """The class that reads a kind of file; None where there is none."""
    if spec in files.handlers:
        module, _, name = files.handlers[spec].partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise NothingToAnalyseError(
                f"the handler {files.handlers[spec]!r} for {what} cannot be loaded: {error}"
            ) from error
    for entry in entry_points(group=HANDLERS, name=spec):
        try:
            return entry.load()
        except Exception as error:  # somebody else's package
            raise NothingToAnalyseError(f"the handler {entry.value!r} for {what} cannot be loaded: {error}") from error
    return None


def _else_tiled(rows: Iterator[Array], field: _Field, seq_nums: npt.NDArray[np.int64]) -> Iterator[Array]:
    """Rows from files, and from where these end the rest from Tiled."""
    given = 0
    try:
        for row in rows:
            yield row
            given += 1
    except NotThereError as error:
        yield from _tiled_rows(field, seq_nums[given:], error)


def _tiled_rows(field: _Field, seq_nums: npt.NDArray[np.int64], unreached: NotThereError) -> Iterator[Array]:
    """The same from a Tiled server, whose rows are the events in order."""
    files, what = field.analysis.files, field.what
    if files.tiled is None and files.profile is None:
        raise unreached
    where = f"profile {files.profile!r}" if files.tiled is None else files.tiled
    with ExitStack() as opened:
        try:
            client = _tiled(files)
            opened.callback(client.context.close)
            stored = client[field.run.start["uid"]][field.stream][field.name]
            n, numbers = stored.shape[0], math.prod(stored.shape[1:])
        except Exception as error:  # whatever the server, the network and the client raise
            raise NothingToAnalyseError(
                f"{unreached}; and the Tiled server ({where}) did not give it either: {type(error).__name__}: "
                f"{str(error)[:200]}"
            ) from error
        _check_size(numbers, f"the Tiled server ({where}) with {what}")
        for seq_num in seq_nums:
            if not 1 <= seq_num <= n:
                raise NothingToAnalyseError(
                    f"the Tiled server ({where}) has {n} rows of {what}, and event {seq_num} is asked for"
                )
            try:
                values = np.asarray(stored[int(seq_num) - 1])
            except Exception as error:
                raise NothingToAnalyseError(
                    f"the Tiled server ({where}) did not give {what}: {type(error).__name__}: {str(error)[:200]}"
                ) from error
            yield _reduced(values, field)


def _tiled(files: Files) -> Any:
    from tiled.client import from_profile, from_uri

    return from_profile(files.profile) if files.tiled is None else from_uri(files.tiled)


def _module(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotThereError(
            f"{what} lies in a file that the package {name} reads, which is not installed: pip install "
            '"bluesky-bayes[files]"'
        ) from error
