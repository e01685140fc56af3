"""Jobs done one after another on a thread of their own, so that who hands them in never waits."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from bluesky_bayes.callbacks.copies import Copied, size_of

logger = logging.getLogger("bluesky_bayes")
T = TypeVar("T")

FIRST, FINAL, SO_FAR = 0, 1, 2
"""Ranks of jobs: a job begins when none of a lower rank waits."""

SECONDS_AT_A_STRETCH, SECONDS_OF_REST = 1e-3, 2e-4
"""How long a lane works before it lets other threads have the interpreter, and for how long."""
SECONDS_A_BYTE, LONGEST_REST = 2e-7, 0.05
"""How much longer it rests for what was handed in meanwhile: in a burst it waits for the end, if there is room."""


class NotDoneError(RuntimeError):
    """A job that was not attempted, or given up when its callback was closed; the sentence says why."""


def promise() -> Future[Any]:
    """Make a future that cannot be cancelled, so that who stops waiting for a job does not undo it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """Give a future its outcome, unless it has one."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    slot: str
    size: int
    future: Future[Any] = field(default_factory=promise)


class Backlog:
    """A bounded queue of jobs and the daemon thread that does them.

    Parameters
    ----------
    name : str
        What the jobs are, for sentences and the thread's name.
    capacity : int
        Jobs that may wait. Beyond it the newest is refused, in its future; those of rank `FIRST` never are.
    room : int, optional
        Bytes that may wait; one job may always.
    """

    def __init__(self, name: str, capacity: int, room: int | None = None) -> None:
        self._name, self._capacity, self._room = name, capacity, room
        self._waiting: tuple[deque[_Job], ...] = (deque(), deque(), deque())
        self._running: _Job | None = None
        self._closed = self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name=f"bluesky_bayes {name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return self._n_waiting() + (self._running is not None)

    @property
    def here(self) -> bool:
        """Whether this is its thread, which cannot wait for itself."""
        return threading.current_thread() is self._thread

    def submit(self, work: Callable[[], T], rank: int = FINAL, slot: str = "", size: int = 0) -> Future[T]:
        """Hand in a job; its future cannot be cancelled.

        Parameters
        ----------
        work : callable
        rank : int
        slot : str, optional
            A job that waits in the same slot is not done: this one is, for both futures.
        size : int
            Bytes that it holds while it waits.
        """
        with self._changed:
            if not self._closed and (waiting := self._in_slot(slot)):
                waiting.work, waiting.size = work, size
                return waiting.future
            job = _Job(work, slot, size)
            refusal = self._refusal(rank, size)
            if not refusal:
                self._waiting[rank].append(job)
                self._changed.notify_all()
        if refusal:
            job.future.set_exception(NotDoneError(refusal))
        return job.future

    def cancel(self, slot: str, reason: str) -> None:
        """Take back what waits in a slot; what was begun goes on."""
        with self._changed:
            job = self._in_slot(slot)
            if job is None:
                return
            for queue in self._waiting:
                if job in queue:
                    queue.remove(job)
        settle(job.future, error=NotDoneError(reason))

    def close(self, timeout: float) -> None:
        """Take no more jobs, let those handed in finish for up to `timeout` seconds and give up the rest."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(self._idle, max(0.0, deadline - time.monotonic()))
            self._over = True
            left = [job for queue in self._waiting for job in queue] + ([self._running] if self._running else [])
            for queue in self._waiting:
                queue.clear()
        reason = f"given up: not finished {timeout:g} s after the callback was closed"
        for job in left:
            settle(job.future, error=NotDoneError(reason))

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end, after `close`; gives whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _n_waiting(self) -> int:
        return sum(map(len, self._waiting))

    def _in_slot(self, slot: str) -> _Job | None:
        return next((job for queue in self._waiting for job in queue if slot and job.slot == slot), None)

    def _refusal(self, rank: int, size: int) -> str:
        n_waiting = self._n_waiting()
        if self._over or (self._closed and rank != FIRST):
            return "refused: the callback was closed"
        held = size + sum(job.size for queue in self._waiting for job in queue)
        if rank == FIRST:
            return ""
        if n_waiting >= self._capacity or (n_waiting and self._room is not None and held > self._room):
            return f"refused: {n_waiting} {self._name} wait already, no more are taken until some are done"
        return ""

    def _idle(self) -> bool:
        return not self._n_waiting() and self._running is None

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._n_waiting() or self._closed)
                if not self._n_waiting():
                    return
                job = self._running = next(queue for queue in self._waiting if queue).popleft()
            try:
                settle(job.future, job.work())
            except Exception as error:
                settle(job.future, error=error)
            del job
            with self._changed:
                self._running = None
                self._changed.notify_all()


class Lane:
    """Pieces taken and steps done in order on a daemon thread, which lets other threads in often.

    Parameters
    ----------
    name : str
        For the thread's name and the log.
    capacity : int
        Bytes of pieces that may wait. Beyond it a piece is refused, unless it is the only one.
    take : callable
        Takes a piece.
    """

    def __init__(self, name: str, capacity: int, take: Callable[[Copied], object]) -> None:
        self._name, self._capacity, self._take = name, capacity, take
        self._waiting: SimpleQueue[Callable[[], object] | Copied | None] = SimpleQueue()
        # The thread holds no lock: who hands in would wait for it again and again while it is behind.
        self._given = self._taken = 0
        self._giving = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=f"bluesky_bayes {name}", daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether this is its thread, which cannot wait for itself."""
        return threading.current_thread() is self._thread

    def put(self, step: Callable[[], object]) -> bool:
        """Hand in a step; gives whether it was taken, as it is until the lane is closed. Never waits."""
        with self._giving:
            if not self._closed:
                self._waiting.put(step)
            return not self._closed

    def send(self, piece: Copied, must: bool = False) -> bool:
        """Hand in a piece; gives whether it was taken. Never waits.

        Parameters
        ----------
        piece : bytes or tuple of bytes
        must : bool
            Taken even if there is no room: for the few that the others depend on.
        """
        size = size_of(piece)
        with self._giving:
            held = self.held
            if self._closed or (held and held + size > self._capacity and not must):
                return False
            self._given += size
            self._waiting.put(piece)
            return True

    @property
    def held(self) -> int:
        """Bytes that wait."""
        return self._given - self._taken

    def drained(self, timeout: float) -> bool:
        """Wait until all that was handed in so far is done; gives whether it is."""
        done = threading.Event()
        if not self.put(done.set):
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return done.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Take no more, and let what was handed in be done for up to `timeout` seconds; gives whether it was."""
        with self._giving:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        return self.drained(timeout)

    def _serve(self) -> None:
        rested, given = time.monotonic(), self._given
        while (next_one := self._waiting.get()) is not None:
            try:
                if isinstance(next_one, bytes | tuple):
                    self._taken += size_of(next_one)
                    self._take(next_one)
                else:
                    next_one()
            except Exception:
                logger.exception("a step of %s failed; the next one is done", self._name)
            del next_one
            if time.monotonic() - rested > SECONDS_AT_A_STRETCH:
                time.sleep(self._rest(self._given - given))
                rested, given = time.monotonic(), self._given

    def _rest(self, handed_in: int) -> float:
        """Seconds to rest when so many bytes were handed in since the last rest."""
        if self._given - self._taken > self._capacity // 10:
            return SECONDS_OF_REST
        return min(SECONDS_OF_REST + SECONDS_A_BYTE * handed_in, LONGEST_REST)
