"""Plans on measured Moessbauer spectra of 2-line ferrihydrite, replayed through simulated devices.

``counting``: a series at 75 K, a spectrum about every 23 s, counted until a model stands out; ``cooling``: spectra from
5 K to 135 K behind a simulated cryostat, bracketing where the magnetic splitting goes. The data are those of A. Grigg,
high-temp-res-mossbauer-profiles (CC-BY-4.0); the answers are in `docs/plans.md`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from bluesky import RunEngine
from bluesky.plans import count
from machine import describe
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from replays import Cooling, Series, classes, drive_of, split_or_not

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.plans import bisect_model_change, count_until_decisive

LONG = 1200.0
SPLITTING = stats.uniform(0, 2)
WIDER = {"field_sigma": stats.loguniform(0.3, 20), "width": stats.loguniform(0.194, 4),
         "splitting_sigma": stats.loguniform(0.05, 2)}  # fmt: skip


def tell(name: str, doc: dict[str, Any]) -> None:
    """Print decisions as they come."""
    if name == "event" and "decided" in doc["data"]:
        row = doc["data"]
        when = f"count {row['n_counts']:2d}" if "n_counts" in row else f"{row['position']:5.0f} K"
        print(f"  {when}: {row['reason']}", flush=True)


def counting(folder: Path, drive: Any, options: argparse.Namespace) -> None:
    """Count the series until decided."""
    for what, mixture in (("split or doublet", False), ("split, doublet or both", True)):
        series = Series(folder / "2L_Fh_75K_every_30s", drive, options.seconds)
        if not mixture:
            for sentence in series.damaged:
                print(f"  left out: {sentence}")
        print(f"{what}? {len(series.parts)} counts there are, each replayed in {options.seconds:g} s")
        engine: Any = RunEngine({}, call_returns_result=True)
        with BayesCallback(split_or_not(classes(mixture, splitting=SPLITTING))) as bayes:
            engine.subscribe(bayes)
            plan = count_until_decisive(
                series.devices, bayes, max_time=len(series.parts) * options.seconds, timeout=LONG
            )
            found = engine(plan, tell).plan_result
            print(f"  for all {len(found.data.origin.events)} counts taken: {found.verdict}")


def cooling(folder: Path, drive: Any, options: argparse.Namespace) -> None:
    """Bracket the change."""
    for what, priors in (("default priors", {}), ("wider priors of widths", WIDER)):
        cryostat = Cooling(folder / "2L_Fh_high_SNR", drive, options.parts, 0.1)
        engine: Any = RunEngine({}, call_returns_result=True)
        print(f"split or doublet? each reading is {1800 / options.parts:.1f} s of a measured half hour; {what}")
        begun = time.perf_counter()
        with BayesCallback(split_or_not(classes(False, splitting=SPLITTING, **priors))) as bayes:
            engine.subscribe(bayes)
            plan = bisect_model_change(
                lambda: count(cryostat.devices),  # noqa: B023
                cryostat.temperature, 25.0, 105.0, 10.0, bayes, repeats=options.repeats, timeout=LONG,
            )  # fmt: skip
            change = engine(plan, tell).plan_result
        print(f"  found: {change.found}, {change.reason}")
        print(f"  {len(change.visits)} positions, {time.perf_counter() - begun:.0f} s")


def main() -> None:
    """Print what the plans decide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["counting", "cooling"])
    parser.add_argument("folder", type=Path, help="with the foil and the folders of spectra")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a count takes in the replay")
    parser.add_argument("--parts", type=int, default=300, help="shares of a spectrum, one a reading")
    parser.add_argument("--repeats", type=int, default=2, help="readings at most at one temperature")
    options = parser.parse_args()
    print(describe())
    {"counting": counting, "cooling": cooling}[options.what](options.folder, drive_of(options.folder), options)


if __name__ == "__main__":
    main()
