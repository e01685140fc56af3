"""Copies of documents that nobody else can change, made in little time and held in few objects."""

from __future__ import annotations

import io
import pickle
from typing import Any, Self, TypeAlias

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
    """A run's uid, a document's name and itself; its arrays cannot be written to.

    Objects in it that cannot be made again go by their types, as in what cannot be copied.
    """
    payload, *arrays = (copy,) if isinstance(copy, bytes) else copy
    # These bytes are those of `copied` in this process: nobody else has a hand in them.
    try:
        uid, name, doc = pickle.loads(payload, buffers=arrays)
    except Exception:  # any object may be in it
        uid, name, doc = _Careful(io.BytesIO(payload), buffers=arrays).load()
    return uid, name, doc


class _Careful(pickle.Unpickler):
    """Makes arrays and numbers of numpy's, and no other objects."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar"):
            return super().find_class(module, name)
        return type(name, (_Unmade,), {})


class _Unmade:
    """Stands for an object, whatever would have become of it."""

    def __new__(cls, *_: object, **__: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def size_of(copy: Copied) -> int:
    """Bytes that it takes."""
    return len(copy) if isinstance(copy, bytes) else sum(map(len, copy))


def _dumped(entry: tuple[str, str, dict[str, Any]]) -> Copied:
    arrays: list[pickle.PickleBuffer] = []
    payload = pickle.dumps(entry, protocol=5, buffer_callback=arrays.append)
    return (payload, *(bytes(array.raw()) for array in arrays)) if arrays else payload
