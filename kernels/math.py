"""Mathematics that a component may use and that has its own form on each device."""

from __future__ import annotations

import math


def exp(x: float) -> float:
    """Exponential; in compiled kernels a polynomial that vectorises, good to 2 units in the last place (float32).

    Arguments below -60 are taken as -60, so that no denormal numbers slow the arithmetic.
    """
    return math.exp(max(x, -60.0))
