"""Listeners of answers: each on a thread of its own, so that a slow one holds up nobody."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from bluesky_bayes.selection import Selection

logger = logging.getLogger("bluesky_bayes")
Listener: TypeAlias = Callable[[str, Selection, bool], object]
"""Called with a raw run's uid, an answer, and whether it is the run's final one."""

MOST_WAITING = 20


class Listeners:
    """All who want to hear of answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mailboxes: list[_Mailbox] = []
        self._closed = False

    def add(self, listener: Listener) -> Callable[[], None]:
        """Have a listener called for each answer from now on; gives a function that ends it."""
        mailbox = _Mailbox(listener)
        with self._lock:
            if self._closed:
                mailbox.close()
            self._mailboxes.append(mailbox)

        def stop() -> None:
            mailbox.close(at_once=True)
            with self._lock:
                if mailbox in self._mailboxes:
                    self._mailboxes.remove(mailbox)

        return stop

    def tell(self, uid: str, selection: Selection, final: bool) -> None:
        """Put an answer into each mailbox. Never waits and never raises."""
        with self._lock:
            mailboxes = list(self._mailboxes)
        for mailbox in mailboxes:
            mailbox.put(uid, selection, final)

    def close(self, timeout: float) -> None:
        """Let listeners hear what waits for up to `timeout` seconds, then nothing more."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True
            mailboxes = list(self._mailboxes)
        for mailbox in mailboxes:
            mailbox.close()
        for mailbox in mailboxes:
            mailbox.join(max(0.0, deadline - time.monotonic()))
            mailbox.close(at_once=True)


class _Mailbox:
    """The newest answer of each run, of up to `MOST_WAITING` runs, and the thread that brings them to a listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._waiting: dict[str, tuple[Selection, bool]] = {}
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="bluesky_bayes listener", daemon=True)
        self._thread.start()

    def put(self, uid: str, selection: Selection, final: bool) -> None:
        with self._changed:
            if self._closed:
                return
            if uid not in self._waiting and len(self._waiting) >= MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
                logger.warning("a listener is slow: it was not told of the oldest of %d answers", MOST_WAITING + 1)
            self._waiting[uid] = (selection, final)
            self._changed.notify_all()

    def close(self, at_once: bool = False) -> None:
        with self._changed:
            self._closed = True
            if at_once:
                self._waiting.clear()
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                uid = next(iter(self._waiting))
                selection, final = self._waiting.pop(uid)
            try:
                self._listener(uid, selection, final)
            except Exception:
                logger.exception("a listener failed over the answer for run %s; it will hear the next one", uid[:8])
            del selection
