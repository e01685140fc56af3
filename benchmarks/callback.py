"""What the callback costs the RunEngine, document by document.

The callback is timed where the RunEngine calls it, for every document of some scans, while its worker analyses; and the
same scans are run with and without it, in turn. Then many documents come while the worker computes without a pause.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fakes
import numpy as np
from bluesky import RunEngine
from bluesky import plans as bp
from machine import describe
from ophyd.sim import SynAxis
from problems import nagata_candidates

from bluesky_bayes import Analysis, Gaussian
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.simulated import spectrum, three_peaks


def main() -> None:
    """Print medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=7)
    parser.add_argument("--documents", type=int, default=5000)
    options = parser.parse_args()
    scans = options.scans
    print(describe())
    motor = SynAxis(name="motor")
    detector = spectrum(motor)
    engine = RunEngine({})
    costs: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {"without": [], "with": []}
    with BayesCallback(Analysis(nagata_candidates(range(0, 4)), noise=Gaussian(0.1))) as bayes:

        def timed(name: str, document: dict[str, Any]) -> None:
            start = time.perf_counter()
            bayes(name, document)
            costs.setdefault(name, []).append(time.perf_counter() - start)

        for i in range(scans + 1):
            for kind in wall:
                token = engine.subscribe(timed) if kind == "with" else None
                start = time.perf_counter()
                (uid,) = engine(bp.scan([detector], motor, 0, 3, 301))
                wall[kind].append(time.perf_counter() - start)
                if token is not None:
                    engine.unsubscribe(token)
                    bayes.result(uid, timeout=300)
            if i == 0:
                costs.clear()
                for times in wall.values():
                    times.clear()
    for name, times in costs.items():
        typical, most = statistics.median(times) * 1e3, max(times) * 1e3
        print(f"{name:10} {typical:.4f} ms median, {most:.2f} ms most, {len(times)} documents")
    ratio = statistics.median(wall["with"]) / statistics.median(wall["without"])
    print(f"a scan of 301 points takes {ratio:.3f} times as long")
    for kind, times in wall.items():
        print(f"  {kind:8} {statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})")
    _under_load(options.documents)


def _under_load(n: int) -> None:
    """Time documents that come while the worker computes, publishing and journal included."""
    x = np.linspace(0.0, 3.0, 301)
    y = three_peaks(x) + 0.1 * np.random.default_rng(0).standard_normal(x.size)
    costs: list[float] = []
    analysis = Analysis(nagata_candidates(range(5)), noise=Gaussian(0.1))
    with tempfile.TemporaryDirectory() as folder:
        with BayesCallback(analysis, publish=lambda name, doc: None, journal=folder, every_events=100) as bayes:
            uids = []
            while len(costs) < n:
                documents = fakes.measured(x.tolist(), y.tolist())
                uids.append(documents[0][1]["uid"])
                for name, doc in documents:
                    start = time.perf_counter()
                    bayes(name, doc)
                    costs.append(time.perf_counter() - start)
                    time.sleep(1e-3)
            most, typical = max(costs) * 1e3, statistics.median(costs) * 1e3
            late = sorted(costs)[int(0.999 * len(costs))] * 1e3
            print(f"{len(costs)} documents at full load: {typical:.4f} ms median, {most:.2f} ms most,")
            print(f"  999 of 1000 below {late:.2f} ms")
            for uid in uids:
                bayes.result(uid, timeout=600)


if __name__ == "__main__":
    main()
