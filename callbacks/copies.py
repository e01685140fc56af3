"""Copies of documents that nobody else can change, made in little time and held in few objects."""

from __future__ import annotations

import pickle
from typing import Any, TypeAlias

from bluesky_bayes.callbacks.collector import Document, plain

Copied: TypeAlias = bytes | tuple[bytes, ...]
"""A document as bytes; where it has arrays, with the memory of each.

Bytes are of no interest to Python's garbage collector. Documents that wait as dictionaries by the thousand make it
search the whole process, which holds up the thread that hands them in for some 50 ms.
"""


def copied(uid: str, name: str, doc: Document) -> Copied:
    """Copy a document of a run.

    Raises
    ------
    ValueError
        When it cannot be copied since it is too large or too deep.
    """
    try:
        return _dumped((uid, name, dict(doc)))
    except Exception:  # any object may be in it
        return _dumped((uid, name, plain(dict(doc))))


def opened(copy: Copied) -> tuple[str, str, dict[str, Any]]:
    """A run's uid, a document's name and itself; its arrays cannot be written to."""
    payload, *arrays = (copy,) if isinstance(copy, bytes) else copy
    # These bytes are those of `copied` in this process: nobody else has a hand in them.
    uid, name, doc = pickle.loads(payload, buffers=arrays)
    return uid, name, doc


def size_of(copy: Copied) -> int:
    """Bytes that it takes."""
    return len(copy) if isinstance(copy, bytes) else sum(map(len, copy))


def _dumped(entry: tuple[str, str, dict[str, Any]]) -> Copied:
    arrays: list[pickle.PickleBuffer] = []
    payload = pickle.dumps(entry, protocol=5, buffer_callback=arrays.append)
    return (payload, *(bytes(array.raw()) for array in arrays)) if arrays else payload
