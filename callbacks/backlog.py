"""Jobs done one after another on a thread of their own, so that who hands them in never waits."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

T = TypeVar("T")


class NotDoneError(RuntimeError):
    """A job that was not attempted, or given up when its callback was closed; the sentence says why."""


class Backlog:
    """A bounded queue of jobs and the daemon thread that does them.

    Parameters
    ----------
    name : str
        What the jobs are, for sentences and the thread's name.
    capacity : int
        Jobs that may wait. Beyond it the newest is refused, in its future.
    """

    def __init__(self, name: str, capacity: int) -> None:
        self._name, self._capacity = name, capacity
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running: Future[Any] | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name=f"bluesky_bayes {name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return len(self._waiting) + (self._running is not None)

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Hand in a job; its future cannot be cancelled, so that who stops waiting for a job does not undo it."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        with self._changed:
            refusal = self._refusal()
            if not refusal:
                self._waiting.append((future, job))
                self._changed.notify_all()
        if refusal:
            future.set_exception(NotDoneError(refusal))
        return future

    def close(self, timeout: float) -> None:
        """Take no more jobs, let those handed in finish for up to `timeout` seconds and give up the rest."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(self._idle, max(0.0, deadline - time.monotonic()))
            left = [future for future, _ in self._waiting] + ([self._running] if self._running else [])
            self._waiting.clear()
        for future in left:
            _settle(future, error=NotDoneError(f"given up: not finished {timeout:g} s after the callback was closed"))

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end, after `close`; gives whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _refusal(self) -> str:
        if self._closed:
            return "refused: the callback was closed"
        if len(self._waiting) >= self._capacity:
            return f"refused: {len(self._waiting)} {self._name} wait already, no more are taken until some are done"
        return ""

    def _idle(self) -> bool:
        return not self._waiting and self._running is None

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                future, job = self._waiting.popleft()
                self._running = future
            try:
                _settle(future, job())
            except Exception as error:
                _settle(future, error=error)
            del future, job
            with self._changed:
                self._running = None
                self._changed.notify_all()


def _settle(future: Future[Any], result: Any = None, error: Exception | None = None) -> None:
    """Give a future its outcome, unless `Backlog.close` was first."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
