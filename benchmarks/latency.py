"""How long a plan waits: from a scan's stop document to the answer, and until the answer can be found in Tiled.

The RunEngine scans a simulated spectrum of three peaks with 301 points; none to four peaks are in question. The server
is a process of its own on the same computer.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np
from bluesky import RunEngine
from bluesky import plans as bp
from machine import describe
from ophyd.sim import SynAxis
from problems import nagata_candidates
from server import tiled_server
from tiled.queries import Eq

from bluesky_bayes import Analysis, Gaussian
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.plans import analysed
from bluesky_bayes.simulated import spectrum


def main() -> None:
    """Print medians and 95th percentiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=50)
    scans = parser.parse_args().scans
    print(describe())
    motor, engine = SynAxis(name="motor"), RunEngine({})
    detector = spectrum(motor)
    stops: list[float] = []
    times: dict[str, list[float]] = {"answer in the plan": [], "written": [], "found by a search": []}
    analysis = Analysis(nagata_candidates(range(5)), noise=Gaussian(0.1))
    with tiled_server() as (address, client), BayesCallback(analysis, publish=f"{address}/processed") as bayes:
        engine.subscribe(bayes)
        engine.subscribe(lambda name, doc: stops.append(time.perf_counter()), "stop")

        def plan() -> Any:
            yield from analysed(bp.scan([detector], motor, 0, 3, 301), bayes, timeout=600)
            times["answer in the plan"].append(time.perf_counter() - stops[-1])

        for _ in range(scans + 1):
            (uid,) = engine(plan())
            bayes.published(uid, timeout=600)
            times["written"].append(time.perf_counter() - stops[-1])
            while not len(client["processed"].search(Eq("original_run_uid", uid))):
                time.sleep(0.01)
            times["found by a search"].append(time.perf_counter() - stops[-1])
    for name, values in times.items():
        warm = values[1:]
        print(f"{name:20} {np.median(warm):.2f} s median, {np.quantile(warm, 0.95):.2f} s at most in 95 of 100")


if __name__ == "__main__":
    main()
