"""A simulated beamline with a detector for each technique, and one plan that scans with one and tells its verdict.

    ipython -i profiles/techniques/startup/00-techniques.py
    In [1]: RE(measure("relaxation")); verdicts["relaxation"]

Detectors and recipes are those of `bluesky_bayes.techniques`: copy a recipe, and change its fields and priors to yours.
"""

from bluesky import RunEngine
from bluesky import preprocessors as bpp
from bluesky.plans import list_scan
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.plans import analysed
from bluesky_bayes.techniques import TECHNIQUES, analysis

if "callbacks" not in globals():
    RE = RunEngine({})
    devices = {name: technique.devices() for name, technique in TECHNIQUES.items()}
    callbacks: dict[str, BayesCallback] = {}
    verdicts: dict[str, str] = {}


def measure(technique: str = "relaxation") -> MsgGenerator[str]:
    """Scan with the detector of a technique, wait for the answer and give the verdict in words."""
    if technique not in callbacks:
        callbacks[technique] = BayesCallback(analysis(technique))
    detector, axis = devices[technique]
    scan = list_scan([detector], axis, TECHNIQUES[technique].points.tolist())
    selection = yield from bpp.subs_wrapper(analysed(scan, callbacks[technique], timeout=300.0), callbacks[technique])
    verdicts[technique] = selection.verdict
    return selection.verdict
