"""Mathematics that a component may use and that has its own form on each device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def exp(x: Any) -> Any:
    """Exponential; in compiled kernels a polynomial that vectorises, good to 2 units in the last place (float32).

    Arguments below -60 are taken as -60, so that no denormal numbers slow the arithmetic.
    """
    return np.exp(x) if isinstance(x, np.ndarray) else math.exp(x)
