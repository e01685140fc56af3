"""A simulated beamline: a motor, a detector with three peaks, and model selection for every scan.

    ipython -i profiles/sim/startup/00-bayes.py
    In [1]: RE(bayes_scan(1.0, 2.0, 301)); bayes.last.plot()
    In [2]: RE(count_until_decided()); RE(find_transition(100.0, 140.0, 5.0))

or, for the queueserver, ``start-re-manager --startup-dir profiles/sim/startup --keep-re``: all plans take numbers only.
Loading it again changes nothing.
"""

import numpy as np
from bluesky import RunEngine
from bluesky.plans import scan
from bluesky.utils import MsgGenerator
from ophyd import Kind
from ophyd.sim import SynAxis, SynSignal
from scipy import stats

from bluesky_bayes import Analysis, Gaussian, Poisson, simulated
from bluesky_bayes.families import peaks
from bluesky_bayes.plans import analysed, bisect_model_change, count_until_decisive
from bluesky_bayes.profile import ready, setup

if "bayes" not in globals():
    RE = RunEngine({})

    motor = SynAxis(name="motor")
    spectrum = simulated.spectrum(motor, noise=0.1)

    # A detector of patterns: counts of a tenth of a second in 64 channels, with one faint peak.
    rates = 1 + 2 * np.exp(-0.5 * ((np.arange(64) - 30) / 4) ** 2)
    rng = np.random.default_rng(0)
    mca = SynSignal(lambda: rng.poisson(rates), name="mca", exposure_time=0.1, kind=Kind.hinted)

    # A line that splits in two above 120 K.
    temperature = SynAxis(name="temperature", value=100.0)

    def line(x):
        split = 0.12 * max(0.0, temperature.position - 120.0) ** 0.5
        return sum(40 * np.exp(-0.5 * ((x - 1.5 - side * split) / 0.1) ** 2) for side in (-1, 1)) + 5

    counter = simulated.detector(motor, "counter", line)

how_many = Analysis(peaks(counts=range(6), background=None), x="motor", y="spectrum", noise=Gaussian(0.1))
is_there_one = Analysis(peaks(counts=[0, 1]), y="mca", noise=Poisson())
sizes = {"amplitude": stats.uniform(10, 90), "sigma": stats.uniform(0.05, 0.15)}
one_or_two = Analysis(peaks(counts=[1, 2], priors=sizes), x="motor", y="counter", noise=Poisson())

bayes = setup(RE, how_many)

count_until_decided = ready(count_until_decisive, "count_until_decided", is_there_one, detectors=[mca])
find_transition = ready(
    bisect_model_change,
    "find_transition",
    one_or_two,
    scan=lambda: scan([counter], motor, 0.5, 2.5, 41),
    motor=temperature,
)


def bayes_scan(start: float = 1.0, stop: float = 2.0, num: int = 301) -> MsgGenerator[str]:
    """Scan the motor, wait for the answer and give the verdict in words."""
    selection = yield from analysed(scan([spectrum], motor, start, stop, num), bayes)
    return selection.verdict
