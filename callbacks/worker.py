"""A process of its own for the analysis: it owns the compiled kernels and the device, and it may die.

It is a fresh interpreter that talks through its standard streams. Unlike `multiprocessing` it never imports the
user's script a second time, which would run an unguarded experiment twice, and it may be started from any process.
It lives in a session of its own, so that Ctrl-C in the terminal, which pauses the RunEngine, does not reach it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from bluesky_bayes.callbacks.backlog import FINAL, Backlog, NotDoneError

logger = logging.getLogger("bluesky_bayes")
T = TypeVar("T")
Arguments: TypeAlias = Callable[[], tuple[Any, ...]]

MOST_WAITING = 64
MOST_BYTES_WAITING = 100_000_000
NICENESS = 5
"""How far behind the acquisition the process stands where processor cores are short."""
ATTEMPTS = 2
SECONDS_TO_DIE = 5.0
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_PREPARE = 600.0
JOBS_THAT_IMPORT = 2
"""The preparation and the first job bring in what stays."""
BOOT = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from bluesky_bayes.callbacks.worker import serve
serve()
"""


class WorkerDiedError(RuntimeError):
    """The worker process died or hung over a job, and once more over its repetition."""


class Worker:
    """A process that is started at once, does jobs in order, and is replaced when it dies.

    Parameters
    ----------
    prepare : callable
        Picklable; called first in each new process (compiling takes long). What it raises is logged, nothing more.
    time_limit : float
        Seconds after which a job is taken to hang, and the process is ended.
    name : str
        What its jobs are, for sentences.
    """

    def __init__(self, prepare: Callable[[], object], time_limit: float, name: str = "analyses") -> None:
        self._prepare, self._time_limit = prepare, time_limit
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False
        self._backlog = Backlog(name, MOST_WAITING, MOST_BYTES_WAITING)
        self._warm = self._backlog.submit(self._living)

    def __len__(self) -> int:
        """Jobs that wait or run."""
        return len(self._backlog)

    @property
    def here(self) -> bool:
        """Whether this is the thread on which jobs end."""
        return self._backlog.here

    def submit(
        self, function: Callable[..., T], arguments: Arguments, rank: int = FINAL, slot: str = "", size: int = 0
    ) -> Future[T]:
        """Have ``function(*arguments())`` computed; all of it must be picklable.

        The future carries what the function raised, `WorkerDiedError`, or `NotDoneError` when too many jobs wait. For
        the other arguments see `Backlog.submit`.
        """
        return self._backlog.submit(lambda: self._done(function, arguments()), rank, slot, size)

    def cancel(self, slot: str, reason: str) -> None:
        """Take back what waits in a slot; what was begun goes on."""
        self._backlog.cancel(slot, reason)

    def close(self, timeout: float) -> None:
        """Let jobs finish for up to `timeout` seconds, then end the process."""
        only_warming = len(self) == 1 and not self._warm.done()
        self._backlog.close(0.0 if only_warming else timeout)
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        if self._backlog.join(SECONDS_TO_DIE) and self._process is not None:
            self._process.forget()

    def _done(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        payload = pickle.dumps((function, arguments))
        for _ in range(ATTEMPTS):
            try:
                result: T = self._living().call(payload, self._time_limit)
                return result
            except _DiedError as error:
                death = error
                if self._closed:
                    break
                logger.error("the worker process was lost over a job: %s", death)
        raise WorkerDiedError(f"the worker process was lost {ATTEMPTS} times over this analysis: {death}")

    def _living(self) -> _Process:
        """Give the process, a new one if there is none that lives."""
        with self._lock:
            if self._closed:
                raise NotDoneError("given up: the callback was closed")
            if self._process is not None and self._process.alive:
                return self._process
            if self._process is not None:
                self._process.forget()
            try:
                process = self._process = _Process()
            except OSError as error:
                raise _DiedError(f"it could not be started: {error}") from error
        try:
            process.call(pickle.dumps((self._prepare, ())), SECONDS_TO_PREPARE)
        except Exception as error:
            if not self._closed:
                logger.warning("the worker process could not be prepared and may be slow at first: %s", error)
        return process


class _DiedError(Exception):
    """The process ended before it answered."""


class _Process:
    """One interpreter and its two pipes."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._jobs, self._answers = self._popen.stdin, self._popen.stdout
        pickle.dump(sys.path, self._jobs)

    @property
    def alive(self) -> bool:
        """Whether it can be given a job."""
        return self._popen.poll() is None

    def call(self, payload: bytes, time_limit: float) -> Any:
        """Have a pickled ``(function, arguments)`` computed; raises what it raises, or `_DiedError`."""
        hangs = threading.Event()

        def end() -> None:
            hangs.set()
            self.kill()

        watch = threading.Timer(time_limit, end)
        watch.daemon = True
        watch.start()
        try:
            pickle.dump(payload, self._jobs)
            self._jobs.flush()
            answer = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.kill()
            if hangs.is_set():
                raise _DiedError(f"it gave no answer within {time_limit:g} s and was ended") from error
            raise _DiedError(_last_words(self._popen.returncode)) from error
        finally:
            watch.cancel()
        succeeded, value = pickle.loads(answer)
        if isinstance(value, MemoryError):
            self.kill()  # a new process has more room than one that has run out of it
            raise _DiedError("it ran out of memory") from value
        if not succeeded:
            raise value
        return value

    def kill(self) -> None:
        """End it at once; who waits in `call` gets `_DiedError`."""
        self._popen.kill()
        self._popen.wait()

    def forget(self) -> None:
        """Close the pipes of a process that has ended."""
        for pipe in (self._jobs, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()


def _last_words(status: int) -> str:
    if status == -signal.SIGKILL:
        return "it was killed (signal 9): by somebody, or by the system because memory ran out"
    return f"it died with exit status {status}; the terminal may say why, or it ran out of memory"


def serve() -> None:
    """Answer jobs from standard input until it closes: the main loop of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _give_way()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an analysis prints must not mix with the answers
    sys.stdin = open(os.devnull)
    try:
        for number in itertools.count():
            pickle.dump(_answer(pickle.load(jobs)), answers)
            answers.flush()
            gc.collect()  # answers leave cycles, which Python itself would look for after some hundreds of them
            if number < JOBS_THAT_IMPORT:
                gc.freeze()  # what stays is not looked through again
    except EOFError:
        return
    except BrokenPipeError:
        os._exit(1)  # nobody is there to hear the answer


def _end_with(parent: int) -> None:
    """End this process when the profile is gone, also in the midst of an analysis that hangs."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _give_way() -> None:
    """Let the acquisition have the processor first."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write(str(NICENESS))  # some Linux systems share the processor among sessions, not processes


def _answer(payload: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(payload)
        return pickle.dumps((True, function(*arguments)))
    except Exception as error:
        error.add_note(f"In the worker process:\n{traceback.format_exc()}")
        return pickle.dumps((False, _portable(error)))


def _portable(error: Exception) -> Exception:
    """Give the error itself if it survives the journey, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
