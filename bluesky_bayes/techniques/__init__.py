"""A simulated measurement and a recipe for each technique, to practise with and to copy from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_bayes import simulated
from bluesky_bayes.analysis import Recipe, load
from bluesky_bayes.dataset import Array
from bluesky_bayes.families.exafs import copper_shell
from bluesky_bayes.families.mossbauer import example
from bluesky_bayes.families.relaxation import samarium_sulfide
from bluesky_bayes.families.saxs import silica
from bluesky_bayes.families.xanes import iron_oxide
from bluesky_bayes.families.xps import pet
from bluesky_bayes.families.xrd import transition


@dataclass(frozen=True)
class Technique:
    """What is scanned, and what the detector sees.

    Attributes
    ----------
    axis, detector : str
        Names of the devices.
    curve : callable
        Expected reading at positions (n,).
    points : (n,) float64
        Positions of a scan.
    noise : float or None
        Standard deviation of the Gaussian noise; None for counts.
    truth : str
        What was simulated, in words.
    """

    axis: str
    detector: str
    curve: Callable[[Array], Array]
    points: Array
    noise: float | None
    truth: str

    def devices(self, seed: int = 0) -> tuple[Any, Any]:
        """Make the detector and the axis that it depends on."""
        from ophyd.sim import SynAxis

        axis = SynAxis(name=self.axis)
        return simulated.detector(axis, self.detector, self.curve, self.noise, seed), axis


def _pigment(two_theta: Array) -> Array:
    from bluesky_bayes.phases.simulated import pigment

    return pigment(two_theta)


TECHNIQUES = {
    "relaxation": Technique(
        "delay", "nmr", lambda t: samarium_sulfide(t, 50.0), np.geomspace(1e-4, 10.0, 41), 0.01, "two components"
    ),
    "mossbauer": Technique(
        "velocity", "gamma", example, np.linspace(-10.0, 10.0, 201), None, "a sextet of 45 T and a doublet"
    ),
    "saxs": Technique(
        "q", "small_angle", silica, np.geomspace(0.004, 0.2, 100), None, "spheres of 120 Å, 10 % polydisperse"
    ),
    "xanes": Technique(
        "energy", "mu", iron_oxide, np.arange(7100.0, 7141.0, 0.5), 0.01, "two peaks below an edge at 7123 eV"
    ),
    "xps": Technique(
        "binding_energy", "analyser", pet, np.arange(280.0, 293.05, 0.1), None, "three lines of carbon and a shake-up"
    ),
    "xrd": Technique(
        "two_theta",
        "diffraction",
        lambda x: transition(x, 150),
        np.linspace(29.75, 30.2, 91),
        None,
        "a split reflection",
    ),
    "exafs": Technique("k", "chi", copper_shell, np.arange(3.0, 12.01, 0.05), 0.001, "a shell of copper at 2.556 Å"),
    "phases": Technique(
        "two_theta", "powder", _pigment, np.arange(20.0, 70.0, 0.04), None, "rutile, anatase and 10 % of zincite"
    ),
    "linear": Technique(
        "flux", "chamber", lambda x: 0.35 * x + 0.2, np.linspace(0.0, 10.0, 41), 0.05, "an offset of 0.2"
    ),
}


def recipe(technique: str) -> Path:
    """File of the recipe that asks the technique's question.

    Raises
    ------
    ValueError
        For an unknown technique.
    """
    if technique not in TECHNIQUES:
        raise ValueError(f"technique must be one of {', '.join(map(repr, TECHNIQUES))}; got {technique!r}")
    return Path(__file__).parent / f"{technique}.toml"


def analysis(technique: str) -> Recipe:
    """Load the recipe of a technique."""
    return load(recipe(technique))
