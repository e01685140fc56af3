"""What `engine` needs from a device, in its plain Python meaning.

A generated module replaces this import by compiled definitions (see `build`), so that the same text of `engine`
runs as slow, obvious Python in tests and as vectorised machine code in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

F = np.float64
U64 = np.uint64
SINGLE = False
Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile nothing."""
    return function


def in_order(function: Function) -> Function:
    """Compile nothing; compiled, what stands in this function is never rearranged."""
    return function


def log(x: float) -> float:
    """Natural logarithm of a positive number."""
    return math.log(x)


def exp_double(x: float) -> float:
    """Exponential in double precision."""
    return math.exp(x)


def exp_single(x: Any) -> float:
    """Exponential in single precision."""
    return math.exp(x)


def log_single(x: Any) -> float:
    """Natural logarithm in single precision, for random numbers."""
    return math.log(x)


def cos_turns(x: float) -> float:
    """Cosine of `x` full turns."""
    return math.cos(2.0 * math.pi * x)


def team() -> int:
    """Number of this team among those that share a ladder. Here there is one."""
    return 0


def teams() -> int:
    """Teams that share a ladder."""
    return 1


def team_of_all() -> int:
    """Number of this team among all that work on one call."""
    return 0


def teams_of_all() -> int:
    """Teams that work on one call."""
    return 1


def wait_for_all() -> None:
    """Wait for all teams that share a ladder."""


def spare_row(n: int) -> int:
    """Row with room for a proposal of this team: the last of `n`, where there is one team."""
    return n - 1


def fill_curve(address: int, values: Any, x: Any, x0: int, new: Any, n0: int, n: int) -> None:
    """Unit shape at ``x[x0:x0 + n]``, to ``new[n0:]``, by the component's compiled loop at `address`."""
    raise NotImplementedError


def trial_curve(
    address: int,
    values: Any,
    x: Any,
    weight: Any,
    x0: int,
    amplitude: float,
    residual: Any,
    r0: int,
    curve: Any,
    c0: int,
    new: Any,
    n0: int,
    trial: Any,
    n: int,
) -> float:
    """`fill_curve`, the trial residual (to ``trial[x0:]``) and by how much its weighted sum of squares is larger."""
    raise NotImplementedError


inner = small = jit
