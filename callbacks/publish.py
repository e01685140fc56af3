"""Results become runs of their own, in Tiled, in a databroker or wherever a callable takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeAlias

from bluesky_bayes.callbacks.backlog import Backlog

Write: TypeAlias = Callable[[str, dict[str, Any]], object]

MOST_WAITING = 100


class Publisher:
    """Writes results one after another, on a thread of its own.

    Parameters
    ----------
    target : Tiled container, databroker or callable
        See `opener`.
    """

    def __init__(self, target: Any) -> None:
        self._open = opener(target)
        self._backlog = Backlog("results", MOST_WAITING)

    def __len__(self) -> int:
        """Results that wait or are being written."""
        return len(self._backlog)

    def submit(self, documents: Callable[[], Iterable[tuple[str, dict[str, Any]]]]) -> Future[str]:
        """Have a result written; the future carries its run's uid, or why it could not be written."""
        return self._backlog.submit(lambda: self._write(list(documents())))

    def close(self, timeout: float) -> None:
        """Let results be written for up to `timeout` seconds and give up the rest."""
        self._backlog.close(timeout)

    def _write(self, documents: list[tuple[str, dict[str, Any]]]) -> str:
        write = self._open()
        for name, doc in documents:
            write(name, doc)
        uid: str = documents[0][1]["uid"]
        return uid


def opener(target: Any) -> Callable[[], Write]:
    """Make a function that gives, for each run, a callable ``(name, document)`` which writes to the target.

    Parameters
    ----------
    target : Tiled container, databroker or callable
        A Tiled container client that may be written to, a ``Broker`` (or a catalogue whose ``.v1`` is one), or
        a callable ``(name, document)``.

    Raises
    ------
    TypeError
        When it is none of these.
    ModuleNotFoundError
        For a Tiled container without ``bluesky-tiled-plugins``.
    """
    if hasattr(target, "create_container"):
        from bluesky_tiled_plugins import TiledWriter

        # By default short arrays are stored in a table, from where they may come back as text.
        return lambda: TiledWriter(target, max_array_size=0)
    if hasattr(target, "insert"):
        return lambda: target.insert
    if hasattr(target, "v1"):
        return lambda: target.v1.insert
    if callable(target):
        return lambda: target
    raise TypeError(
        "publish must be a Tiled container client (client['processed']), a databroker Broker or a callable "
        f"(name, document); got {type(target).__name__}"
    )
