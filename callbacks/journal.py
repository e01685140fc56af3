"""A record on disk of what was begun, so that a restart loses no run and publishes none twice.

One folder for each recipe holds ``journal.jsonl``, one record on each line; ``runs``, the documents of runs that have
ended and are not done; and ``results``, answers that are not published, as documents that ``read_jsonl`` reads. All of
it is written on a thread of its own. A disk that is slow or full costs the record, never an analysis.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from bluesky_bayes.callbacks.answers import Lines, plain
from bluesky_bayes.callbacks.backlog import Lane
from bluesky_bayes.callbacks.copies import Copied, opened
from bluesky_bayes.callbacks.runs import Document

logger = logging.getLogger("bluesky_bayes")

MOST_BYTES_WAITING = 100_000_000
MOST_DONE = 1000
"""Runs that are done and remembered, so that their results are not published again."""
MOST_LINES = 20_000
MOST_BYTES = 2_000_000_000
"""On disk, in documents and results; beyond that no more are kept until some are done."""
PACKED = 64
"""Arrays of more numbers are written as bytes."""

BEGUN, ENDED, ANALYSED, DONE = "begun", "ended", "analysed", "done"


class JournalInUseError(OSError):
    """Another process, or another callback of this one, writes into the folder."""


@dataclass
class Entry:
    """What is known of a run.

    Attributes
    ----------
    uid, label : str
    state : {"begun", "ended", "analysed", "done"}
    at : str
        When its state was reached.
    kept : bool
        Whether its documents are in the journal.
    results : list of str
        Uids of its results that are not published yet.
    published : list of str
        Uids of those that are.
    reason : str
        Why it is not done, or what came of it.
    """

    uid: str
    label: str
    state: str = BEGUN
    at: str = ""
    kept: bool = False
    results: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def sentence(self) -> str:
        """What is missing."""
        missing = {
            BEGUN: "begun, its end was not heard",
            ENDED: "ended, not analysed" + ("" if self.kept else "; its documents are not kept here: give a source"),
            ANALYSED: "analysed, not published",
        }[self.state]
        return f"{self.label}: {missing}" + (f" ({self.reason})" if self.reason else "")


class Journal:
    """The record of one recipe.

    Parameters
    ----------
    folder : path
        Made where it is missing; there is a folder inside for each recipe.
    digest : str
        Of the recipe.

    Raises
    ------
    JournalInUseError
    OSError
        When the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path, digest: str) -> None:
        self.folder = Path(folder).expanduser() / digest[:16]
        for part in ("runs", "results"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._locked = _lock(self.folder / "lock")
        self.trouble = ""
        """What the disk refuses; empty again when all of a run was written."""
        self._guard = threading.Lock()
        self._writers: dict[str, gzip.GzipFile] = {}
        self._refused: set[str] = set()  # for the thread that hands documents in; the other is for the journal's
        self._unkept: set[str] = set()
        self._whole: set[str] = set()  # nothing of these runs was refused so far
        self._entries: dict[str, Entry] = _read(self.folder / "journal.jsonl")
        self._past: dict[str, str] = {}  # the last line of each run: a third of what an entry takes in memory
        for uid in [uid for uid, entry in self._entries.items() if entry.state == DONE]:
            self._put_away(uid)
        self._n_lines = 0
        self._file: IO[str] | None = None
        self._tidy()
        self._rewrite()
        self._lane = Lane("journal", MOST_BYTES_WAITING, self._hear)

    def unfinished(self) -> list[Entry]:
        """Runs that are not done, oldest first."""
        with self._guard:
            return [Entry(**asdict(entry)) for entry in self._entries.values()]

    def is_published(self, uid: str, result: str) -> bool:
        """Whether a result of a run was published."""
        with self._guard:
            return result in self._published_of(uid)

    def documents(self, uid: str) -> Iterator[tuple[str, Document]]:
        """Documents of a run that is kept."""
        with gzip.open(self._run_path(uid), "rt", encoding="utf-8") as file:
            for line in file:
                name, document = json.loads(line, object_hook=_unpacked)
                yield name, document

    def result_path(self, uid: str) -> Path:
        """Where a result is kept until it is published."""
        return self.folder / "results" / f"{_safe(uid)}.jsonl"

    def begin(self, uid: str, label: str) -> None:
        """Note that a run has begun."""
        self._refused.discard(uid)
        self._put(uid, partial(self._begin, uid, label))

    def hear(self, uid: str, copy: Copied) -> None:
        """Keep a document of a run."""
        if uid not in self._refused and not self._lane.send(copy):
            self._refused.add(uid)
            self._put(uid, partial(self._unkeep, uid, "documents came faster than the disk takes them"))

    def end(self, uid: str) -> None:
        """Note that a run has ended: its documents are safe when this is written."""
        self._put(uid, partial(self._end, uid))

    def give_up(self, uid: str, reason: str) -> None:
        """Note why a run is not done; it can be done later."""
        self._put(uid, partial(self._give_up, uid, reason))

    def analysed(self, uid: str, results: list[Lines], then: Callable[[], object]) -> None:
        """Keep a run's results until they are published, and call `then` when they are safe."""
        self._put(uid, partial(self._analysed, uid, results, then))

    def published(self, uid: str, result: str) -> None:
        """Note that a result is written, and forget it; the run is done with the last of them."""
        self._put(uid, partial(self._published, uid, result))

    def done(self, uid: str, reason: str = "") -> None:
        """Note that there is nothing more to do for a run."""
        self._put(uid, partial(self._done, uid, reason))

    def flush(self, timeout: float) -> bool:
        """Wait until all is written; gives whether it is."""
        return self._lane.drained(timeout)

    def close(self, timeout: float) -> None:
        """Write what waits, for up to `timeout` seconds, and let another callback have the folder."""
        if not self._lane.close(timeout):
            logger.error("the journal %s is behind: the disk is slow, and its last records are lost", self.folder)
            return  # its thread may be writing still
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        _unlock(self._locked)

    def _put(self, uid: str, step: Callable[[], object]) -> None:
        self._lane.put(partial(self._safely, uid, step))

    def _safely(self, uid: str, step: Callable[[], object]) -> None:
        """Do a step, on the journal's thread; what the disk refuses is said once."""
        try:
            step()
        except (OSError, ValueError, TypeError) as error:
            self._whole.discard(uid)
            self._say(error)
            with contextlib.suppress(OSError):
                self._unkeep(uid, str(error))

    def _say(self, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        trouble = f"the journal in {self.folder} cannot be written ({reason}); analyses go on without it"
        if trouble != self.trouble:
            logger.error("%s", trouble)
        self.trouble = trouble

    def _begin(self, uid: str, label: str) -> None:
        with self._guard:
            published = self._published_of(uid)
            self._entries.pop(uid, None)
            self._past.pop(uid, None)
            self._entries[uid] = Entry(uid, label, published=published)
        self._unkept.discard(uid)
        self._whole.discard(uid)
        self._note(uid, state=BEGUN)

    def _hear(self, copy: Copied) -> None:
        uid, name, doc = opened(copy)
        if uid not in self._unkept:
            self._safely(uid, partial(self._keep, uid, name, doc))

    def _keep(self, uid: str, name: str, doc: Document) -> None:
        if uid not in self._writers:
            if self._bytes() > MOST_BYTES:
                raise OSError(f"it holds more than {MOST_BYTES / 1e9:g} GB of runs that are not done: bayes.finish()")
            self._writers[uid] = gzip.open(self._part(uid), "wb", compresslevel=1)
        self._writers[uid].write(_packed(name, doc))

    def _end(self, uid: str) -> None:
        kept = False
        try:
            if uid not in self._unkept and (writer := self._writers.pop(uid, None)):
                writer.close()
                with open(self._part(uid), "rb+") as file:
                    os.fsync(file.fileno())
                self._part(uid).replace(self._run_path(uid))
                kept = True
                self._whole.add(uid)
        finally:
            self._note(uid, state=ENDED, kept=kept)

    def _give_up(self, uid: str, reason: str) -> None:
        if uid in self._writers:  # its end will not be heard
            self._unkeep(uid, reason)
        self._note(uid, reason=reason)

    def _unkeep(self, uid: str, reason: str) -> None:
        """Keep no more of a run's documents."""
        self._unkept.add(uid)
        if writer := self._writers.pop(uid, None):
            with contextlib.suppress(OSError):
                writer.close()
        self._part(uid).unlink(missing_ok=True)
        if uid in self._entries and not self._entries[uid].kept:
            self._note(uid, reason=f"its documents are not kept: {reason}")

    def _analysed(self, uid: str, results: list[Lines], then: Callable[[], object]) -> None:
        for lines in results:
            _write_safely(self.result_path(lines.uid), lines.text)
        self._note(uid, state=ANALYSED, results=[lines.uid for lines in results])
        then()

    def _published(self, uid: str, result: str) -> None:
        entry = self._entries.get(uid)
        if entry is None:
            return
        entry.results = [each for each in entry.results if each != result]
        entry.published = [*dict.fromkeys([*entry.published, result])]
        self._note(uid, **({} if entry.results else {"state": DONE, "reason": ""}))
        self.result_path(result).unlink(missing_ok=True)
        if not entry.results:
            self._forget(uid)

    def _done(self, uid: str, reason: str) -> None:
        self._note(uid, state=DONE, reason=reason)
        self._forget(uid)

    def _forget(self, uid: str) -> None:
        """Let go what was kept of a run that is done; a small record alone does not tell that the disk is well."""
        if uid in self._whole:
            self._whole.remove(uid)
            self.trouble = ""
        self._forget_documents(uid)

    def _forget_documents(self, uid: str) -> None:
        for path in (self._run_path(uid), self._part(uid)):
            path.unlink(missing_ok=True)

    def _note(self, uid: str, **changes: Any) -> None:
        """Change an entry and write it down."""
        with self._guard:
            entry = self._entries.get(uid)
            if entry is None:
                return
            for name, value in changes.items():
                setattr(entry, name, value)
            entry.at = datetime.now(UTC).isoformat(timespec="seconds")
            if entry.state == DONE:
                self._put_away(uid)
        if self._n_lines >= MOST_LINES:
            self._rewrite()
            return
        if self._file is None:
            self._file = open(self.folder / "journal.jsonl", "a", encoding="utf-8")
        try:
            self._file.write(_line(entry))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._n_lines += 1
        except OSError:
            # What was written of the line must not stand before the next one.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            self._n_lines = MOST_LINES
            raise

    def _put_away(self, uid: str) -> None:
        """Keep of a run that is done what goes to disk, and of the last ones only."""
        self._past[uid] = _line(self._entries.pop(uid))
        if len(self._past) > MOST_DONE:
            del self._past[next(iter(self._past))]

    def _published_of(self, uid: str) -> list[str]:
        """Results of a run that are published, as far as is remembered."""
        if uid in self._past:
            return Entry(**json.loads(self._past[uid])).published
        return self._entries[uid].published if uid in self._entries else []

    def _rewrite(self) -> None:
        """Write the journal anew, one line for each run."""
        with self._guard:
            lines = [*self._past.values(), *map(_line, self._entries.values())]
        if self._file is not None:
            self._file.close()
            self._file = None
        _write_safely(self.folder / "journal.jsonl", "".join(lines).encode())
        self._n_lines = len(lines)

    def _tidy(self) -> None:
        """Find what a power cut left between two records: whole documents are kept, and the rest is removed."""
        wanted: set[Path] = set()
        for entry in self._entries.values():
            path = self._run_path(entry.uid)
            if entry.state == BEGUN and path.exists():
                entry.state, entry.kept = ENDED, True
            if entry.kept:
                wanted.add(path)
            wanted.update(map(self.result_path, entry.results))
        for path in (*(self.folder / "runs").iterdir(), *(self.folder / "results").iterdir()):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _bytes(self) -> int:
        return sum(entry.stat().st_size for part in ("runs", "results") for entry in os.scandir(self.folder / part))

    def _run_path(self, uid: str) -> Path:
        return self.folder / "runs" / f"{_safe(uid)}.jsonl.gz"

    def _part(self, uid: str) -> Path:
        return self.folder / "runs" / f"{_safe(uid)}.part"


def _line(entry: Entry) -> str:
    return f"{json.dumps(asdict(entry))}\n"


def _safe(uid: str) -> str:
    """A uid as the name of a file."""
    return uid if re.fullmatch(r"[\w-]{1,100}", uid) else hashlib.sha256(uid.encode()).hexdigest()


def _write_safely(path: Path, text: bytes) -> None:
    """Write a file that is there whole or, after a power cut, as it was before."""
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> dict[str, Entry]:
    """Entries by uid, in the order in which runs began or were done; a line that a power failure cut is left out."""
    entries: dict[str, Entry] = {}
    if not path.exists():
        return entries
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            logger.warning("line %d of %s is no record and left out: was the power cut?", number, path)
            continue
        if entry.state == DONE or (entry.state == BEGUN and not entry.reason):  # it may have begun once more
            entries.pop(entry.uid, None)
        entries[entry.uid] = entry
    return entries


def _packed(name: str, doc: Document) -> bytes:
    """One document on a line; long arrays as bytes, which is fast and exact."""
    if name in ("event", "event_page"):
        doc = {**doc, "data": {key: _pack(value) for key, value in doc["data"].items()}}
    return f"{json.dumps([name, doc], default=_pack_or_plain)}\n".encode()


def _pack(value: Any) -> Any:
    if isinstance(value, list) and len(value) > PACKED and all(type(each) in (int, float) for each in value):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.size > PACKED and value.dtype.kind in "biuf":
        data = base64.b64encode(value.tobytes()).decode()
        return {"__array__": data, "dtype": value.dtype.str, "shape": value.shape}
    return value


def _pack_or_plain(value: Any) -> Any:
    packed = _pack(value)
    return plain(value) if packed is value else packed


def _unpacked(value: dict[str, Any]) -> Any:
    if "__array__" not in value:
        return value
    array = np.frombuffer(base64.b64decode(value["__array__"]), dtype=value["dtype"])
    return array.reshape(value["shape"])


def _lock(path: Path) -> IO[str]:
    """Have the folder for this callback alone; a process that dies lets it go.

    Raises
    ------
    JournalInUseError
    """
    file = open(path, "a+", encoding="utf-8")
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on this system
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise JournalInUseError(
            f"the journal in {path.parent} is in use by process {owner}: close that callback (bayes.close()) or give "
            "this one another folder"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _unlock(file: IO[str]) -> None:
    file.close()
