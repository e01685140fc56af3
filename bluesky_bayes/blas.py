"""BLAS with one thread while answers are worked out."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_limits: list[Any] = []
_users = 0


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS in this process: its threads would stand in the way of ours, and bits would depend on their number.

    Answers that are worked out side by side share the limit, and the last one takes it away.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _limits.append(_libraries(len(sys.modules)).limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.pop().restore_original_limits()


@functools.lru_cache(maxsize=1)
def _libraries(n_modules: int) -> Any:
    """BLAS libraries of this process, looked for anew, which takes milliseconds, when modules were imported since."""
    return ThreadpoolController()
