"""How many points it takes to tell one peak from two, placed evenly or where the models differ.

Spectra of one or two peaks are drawn from the priors. Points of equal counting time are measured, a few at a time, as
`plans.scan_where_models_differ` does, until one model is decided or it is enough. Placed evenly, they are evenly
spread however many there are.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import describe
from sbc import curve

from bluesky_bayes import Dataset, Poisson, Selection, Settings, select
from bluesky_bayes.decisions import decide
from bluesky_bayes.families import peaks
from bluesky_bayes.information import evenly, next_points

X = np.linspace(-3, 3, 61)
SECONDS = 8.0
"""At each point."""
RATES = peaks(
    counts=[1, 2],
    priors={
        "amplitude": stats.uniform(1, 9),
        "center": stats.uniform(-2.5, 5),
        "sigma": stats.uniform(0.2, 0.6),
        "constant": stats.uniform(0.5, 2),
    },
)
"""Counts a second."""
FIRST, MOST = 16, 240


class Run(NamedTuple):
    """One simulated measurement."""

    right: bool
    decided: bool
    points: int


def placed(selection: Selection, measured: Sequence[float], n: int, differ: bool) -> list[float]:
    """The next positions."""
    if differ:
        return [point.position for point in next_points(selection, X, n, seed=len(measured))]
    return evenly(X, n, len(measured))


def run(seed: int, differ: bool, probability: float, batch: int) -> Run:
    """Measure until one model is decided."""
    rng = np.random.default_rng(seed)
    model = RATES.models[int(rng.integers(2))]
    theta = {name: float(prior.ppf(rng.uniform())) for name, prior in model.priors.items() if prior is not None}
    x = evenly(X, FIRST)
    rate = {float(at): float(value) for at, value in zip(X, curve(model, X, theta), strict=True)}
    y = [float(rng.poisson(rate[at] * SECONDS)) for at in x]
    while True:
        data = Dataset(x, y, counts=True, exposure=np.full(len(x), SECONDS))
        settings = Settings(sweeps=200, error=0.2)
        selection = select(data, RATES, Poisson(), seed=seed, threads=1, settings=settings)
        decision = decide([selection], probability)
        if decision.decided or len(x) >= MOST:
            return Run(decision.model == model.name, decision.decided, len(x))
        new = placed(selection, x, batch, differ)
        x += new
        y += [float(rng.poisson(rate[at] * SECONDS)) for at in new]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--probability", type=float, default=0.95)
    parser.add_argument("--batch", type=int, default=4, help="points from one answer to the next")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(describe())
    points = {}
    for name, differ in (("evenly", False), ("where models differ", True)):
        begun = time.perf_counter()
        n = options.runs
        with ProcessPoolExecutor(options.processes) as executor:
            runs = list(executor.map(run, range(n), [differ] * n, [options.probability] * n, [options.batch] * n))
        decided = [r for r in runs if r.decided]
        wrong = sum(not r.right for r in decided)
        points[name] = np.array([r.points for r in runs])
        low, middle, high = np.quantile(points[name], (0.25, 0.5, 0.75))
        print(
            f"{name}: decided {len(decided)} of {n}, of these wrong {wrong}; points: mean {points[name].mean():.0f}, "
            f"median {middle:.0f}, quartiles {low:.0f} and {high:.0f} ({time.perf_counter() - begun:.0f} s)"
        )
    even, differ_ = points.values()
    ratio = differ_.sum() / even.sum()
    rng = np.random.default_rng(0)
    again = rng.integers(even.size, size=(2000, even.size))
    spread = np.quantile(differ_[again].sum(axis=1) / even[again].sum(axis=1), (0.025, 0.975))
    print(f"points in all, over those placed evenly: {ratio:.2f} (95 % interval {spread[0]:.2f} to {spread[1]:.2f})")


if __name__ == "__main__":
    main()
