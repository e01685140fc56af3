"""A simulated beamline with a detector for each technique, and one plan that scans with one and tells its verdict.

    ipython -i profiles/techniques/startup/00-techniques.py
    In [1]: RE(measure("relaxation")); verdicts["relaxation"]

Recipes are beside this folder: copy one, and change its fields and priors to yours.
"""

from pathlib import Path

import numpy as np
from bluesky import RunEngine
from bluesky import preprocessors as bpp
from bluesky.plans import list_scan
from bluesky.utils import MsgGenerator
from ophyd.sim import SynAxis

from bluesky_bayes import Analysis
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.families.exafs import copper_shell
from bluesky_bayes.families.mossbauer import example
from bluesky_bayes.families.relaxation import samarium_sulfide
from bluesky_bayes.families.saxs import silica
from bluesky_bayes.families.xanes import iron_oxide
from bluesky_bayes.families.xps import pet
from bluesky_bayes.families.xrd import transition
from bluesky_bayes.plans import analysed
from bluesky_bayes.simulated import detector

RECIPES = Path(globals().get("__file__", "profiles/techniques/startup/x")).parent.parent / "recipes"

if "callbacks" not in globals():
    RE = RunEngine({})

    delay, velocity, q, energy = (SynAxis(name=name) for name in ("delay", "velocity", "q", "energy"))
    binding_energy, two_theta, k, flux = (SynAxis(name=name) for name in ("binding_energy", "two_theta", "k", "flux"))

    nmr = detector(delay, "nmr", lambda t: samarium_sulfide(t, 50.0), noise=0.01)
    gamma = detector(velocity, "gamma", example)
    small_angle = detector(q, "small_angle", silica)
    mu = detector(energy, "mu", iron_oxide, noise=0.01)
    analyser = detector(binding_energy, "analyser", pet)
    diffraction = detector(two_theta, "diffraction", lambda x: transition(x, 150))
    chi = detector(k, "chi", copper_shell, noise=0.001)
    chamber = detector(flux, "chamber", lambda x: 0.35 * x + 0.2, noise=0.05)

    scans = {
        "relaxation": (nmr, delay, np.geomspace(1e-4, 10, 41)),
        "mossbauer": (gamma, velocity, np.linspace(-10, 10, 201)),
        "saxs": (small_angle, q, np.geomspace(0.004, 0.2, 100)),
        "xanes": (mu, energy, np.arange(7100, 7141, 0.5)),
        "xps": (analyser, binding_energy, np.arange(280, 293.05, 0.1)),
        "xrd": (diffraction, two_theta, np.linspace(29.75, 30.2, 91)),
        "exafs": (chi, k, np.arange(3, 12.01, 0.05)),
        "linear": (chamber, flux, np.linspace(0, 10, 41)),
    }
    callbacks: dict[str, BayesCallback] = {}
    verdicts: dict[str, str] = {}


def measure(technique: str = "relaxation") -> MsgGenerator[str]:
    """Scan with the detector of a technique, wait for the answer and give the verdict in words."""
    device, axis, points = scans[technique]
    if technique not in callbacks:
        callbacks[technique] = BayesCallback(Analysis.load(RECIPES / f"{technique}.toml"))
    bayes = callbacks[technique]
    plan = analysed(list_scan([device], axis, [float(x) for x in points]), bayes, timeout=300.0)
    selection = yield from bpp.subs_wrapper(plan, bayes)
    verdicts[technique] = selection.verdict
    return selection.verdict
