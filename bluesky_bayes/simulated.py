"""Simulated measurements with known answers, for demonstrations, profiles and tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array

AMPLITUDES = (0.587, 1.522, 1.183)
CENTERS = (1.210, 1.455, 1.703)
PRECISIONS = (95.689, 146.837, 164.469)


def three_peaks(x: npt.ArrayLike) -> Array:
    """Evaluate the three Gaussian peaks of Nagata, Sugita and Okada, Neural Networks 28, 82 (2012).

    Parameters
    ----------
    x : array_like
        The peaks lie between 1 and 2; their heights are 0.6 to 1.5.

    Returns
    -------
    float64 of the same shape

    Examples
    --------
    >>> float(three_peaks(1.21).round(3))
    0.606
    """
    distance = np.subtract.outer(np.asarray(x, dtype=np.float64), CENTERS)
    peaks: Array = np.exp(-0.5 * np.multiply(PRECISIONS, distance**2)) @ np.asarray(AMPLITUDES)
    return peaks


def spectrum(motor: Any, noise: float = 0.1, seed: int = 0) -> Any:
    """Make a simulated detector, named ``spectrum``, that sees `three_peaks` where the motor stands.

    Parameters are those of `detector`.
    """
    return detector(motor, "spectrum", three_peaks, noise, seed)


def detector(motor: Any, name: str, curve: Callable[[Array], Array], noise: float | None = None, seed: int = 0) -> Any:
    """Make a simulated detector that sees a curve where the motor stands.

    Parameters
    ----------
    motor : ophyd device
        Its first hinted field is the position, as ``ophyd.sim.motor``.
    name : str
        Of the detector and its field.
    curve : callable
        Expected reading at positions (n,).
    noise : float, optional
        Standard deviation of the Gaussian noise; left out, readings are counts with Poisson noise.
    seed : int
        Of the noise.

    Returns
    -------
    ophyd.sim.SynSignal
    """
    from ophyd import Kind
    from ophyd.sim import SynSignal

    (position, *_) = motor.hints["fields"]
    rng = np.random.default_rng(seed)

    def measure() -> float:
        expected = float(curve(np.array([motor.read()[position]["value"]], dtype=np.float64))[0])
        return float(rng.poisson(expected)) if noise is None else expected + noise * float(rng.standard_normal())

    return SynSignal(measure, name=name, kind=Kind.hinted)
