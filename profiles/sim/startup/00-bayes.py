"""A simulated beamline: a motor, a detector with three peaks, and model selection for every scan.

    ipython -i profiles/sim/startup/00-bayes.py
    In [1]: RE(bayes_scan(1.0, 2.0, 301)); bayes.last.plot()

or, for the queueserver, ``start-re-manager --startup-dir profiles/sim/startup``. Loading it again changes nothing.
"""

from bluesky import RunEngine
from bluesky.plans import scan
from bluesky.utils import MsgGenerator
from ophyd.sim import SynAxis

from bluesky_bayes import Analysis, Gaussian, simulated
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.families import peaks
from bluesky_bayes.plans import analysed

if "bayes" not in globals():
    RE = RunEngine({})

    motor = SynAxis(name="motor")
    spectrum = simulated.spectrum(motor, noise=0.1)

    analysis = Analysis(peaks(counts=range(6), background=None), x="motor", y="spectrum", noise=Gaussian(0.1))
    bayes = BayesCallback(analysis)
    RE.subscribe(bayes)


def bayes_scan(start: float = 1.0, stop: float = 2.0, num: int = 301) -> MsgGenerator[str]:
    """Scan the motor, wait for the answer and give the verdict in words."""
    selection = yield from analysed(scan([spectrum], motor, start, stop, num), bayes)
    return selection.verdict
