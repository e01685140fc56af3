"""Results become runs of their own; what cannot be written now is tried again while the callback lives."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bluesky_bayes.callbacks.answers import Lines, sentence
from bluesky_bayes.callbacks.backlog import NotDoneError, promise, settle
from bluesky_bayes.callbacks.targets import (
    RefusedError,
    UnreachableError,
    checked_uri,
    is_passing,
    prepare_to_write,
    write_to_uri,
    writer,
)
from bluesky_bayes.callbacks.worker import Worker, WorkerDiedError

logger = logging.getLogger("bluesky_bayes")

MOST_WAITING = 100
MOST_ON_DISK = 10_000
FIRST_DELAY, LONGEST_DELAY = 1.0, 300.0
"""Seconds until a result is tried again: doubled each time, more or less by half at random."""
SECONDS_TO_WRITE = 120.0
SECONDS_TO_DIE = 2.0


@dataclass(eq=False)
class Parcel:
    """A result on its way; its lines in memory until they are safe on disk."""

    uid: str
    lines: Lines | Path
    future: Future[str] = field(default_factory=promise)

    def load(self) -> Lines:
        """The lines."""
        return Lines.read(self.lines) if isinstance(self.lines, Path) else self.lines


class Publisher:
    """Writes results one after another, on a thread of its own; to a Tiled address in a process of its own.

    Parameters
    ----------
    target : str, Tiled container, databroker or callable
        See `targets.writer`; a string is the address of a Tiled container, which is opened when there is a result.
    """

    def __init__(self, target: Any) -> None:
        self._process: Worker | None = None
        if isinstance(target, str):
            uri = checked_uri(target)
            process = self._process = Worker(prepare_to_write, SECONDS_TO_WRITE, name="results")
            self._write: Callable[[Lines], object] = lambda lines: process.submit(
                write_to_uri, lambda: (uri, lines, os.environ.get("TILED_API_KEY"))
            ).result()
        else:
            self._write = writer(target)
        self.trouble = ""
        self._n_failures = 0
        self._waiting: deque[Parcel] = deque()
        self._writing: Parcel | None = None
        self._closed = self._hurry = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="bluesky_bayes results", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Results that wait or are being written."""
        with self._changed:
            return len(self._waiting) + (self._writing is not None)

    @property
    def here(self) -> bool:
        """Whether this is the thread on which results are written."""
        return threading.current_thread() is self._thread

    def submit(self, parcel: Parcel) -> Future[str]:
        """Have a result written; its future carries its uid, or why it will not be written."""
        with self._changed:
            in_memory = sum(isinstance(each.lines, Lines) for each in self._waiting)
            refusal = ""
            if self._closed:
                refusal = "refused: the callback was closed"
            elif in_memory >= MOST_WAITING or len(self._waiting) >= MOST_ON_DISK:
                refusal = f"refused: {len(self._waiting)} results wait already to be written"
                refusal += f" ({self.trouble})" if self.trouble else ""
            else:
                self._waiting.append(parcel)
                self._changed.notify_all()
        if refusal:
            settle(parcel.future, error=NotDoneError(refusal))
        return parcel.future

    def hurry(self) -> None:
        """Try again now."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Try each result that waits once more, for up to `timeout` seconds, and give up the rest."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not self._waiting and self._writing is None, max(0.0, deadline - time.monotonic())
            )
            left = [*self._waiting, *([self._writing] if self._writing else [])]
            self._waiting.clear()
        reason = f"given up: not finished {timeout:g} s after the callback was closed"
        for parcel in left:
            settle(parcel.future, error=NotDoneError(reason))
        if self._process is not None:
            self._process.close(0.0)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                parcel = self._writing = self._waiting.popleft()
            try:
                again = self._attempt(parcel)
            except Exception as error:
                logger.exception("result %s could not be handed on; the next one is written", parcel.uid)
                again = False
                settle(parcel.future, error=error)
            with self._changed:
                self._writing = None
                if again and not self._closed:
                    self._waiting.append(parcel)  # behind the others, which may fare better
                elif again:
                    settle(parcel.future, error=NotDoneError(f"given up when the callback was closed: {self.trouble}"))
                self._changed.notify_all()
                if again:
                    self._hurry = False
                    self._changed.wait_for(lambda: self._closed or self._hurry, self._delay())
            del parcel

    def _attempt(self, parcel: Parcel) -> bool:
        """Write a result; gives whether it is to be tried again."""
        try:
            self._write(parcel.load())
        except Exception as error:
            return self._failed(parcel, error)
        if self.trouble:
            logger.info("results are written again")
        self.trouble, self._n_failures = "", 0
        settle(parcel.future, parcel.uid)
        return False

    def _failed(self, parcel: Parcel, error: Exception) -> bool:
        self._n_failures += 1
        said = str(error) if isinstance(error, UnreachableError | RefusedError) else sentence(error)
        passing = isinstance(error, WorkerDiedError) or is_passing(error)
        if said != self.trouble:
            what = "it is tried again, later and later" if passing else "it is not tried again by itself"
            logger.error("a result could not be written, %s: %s", what, said)
        self.trouble = said
        if not passing:
            settle(parcel.future, error=error)
        return passing

    def _delay(self) -> float:
        """Seconds to wait after so many failures in a row."""
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._n_failures - 1, 30))
        return longest * random.uniform(0.5, 1.5)
