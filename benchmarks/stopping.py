"""How often a count that stops when a model stands out is wrong, and how much time it saves.

Spectra of one or two peaks are drawn from the priors, and counts are added second by second, as
`plans.count_until_decisive` does, until one model is decided or time is up.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import describe
from sbc import curve

from bluesky_bayes import Dataset, Poisson, Settings, select
from bluesky_bayes.decisions import decide
from bluesky_bayes.families import peaks

X = np.linspace(-3, 3, 61)
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
LOOKS = tuple(round(1.5**k) for k in range(1, 13))
"""Seconds at which one looks."""


class Run(NamedTuple):
    """One simulated count."""

    right: bool
    decided: bool
    seconds: int


def run(seed: int, probability: float) -> Run:
    """Count until one model is decided."""
    rng = np.random.default_rng(seed)
    truth = int(rng.integers(2))
    model = RATES.models[truth]
    theta = {name: float(prior.ppf(rng.uniform())) for name, prior in model.priors.items() if prior is not None}
    rate, counts, seconds = curve(model, X, theta), np.zeros(X.size), 0
    for look in LOOKS:
        counts += rng.poisson(rate * (look - seconds))
        seconds = look
        data = Dataset(X, counts, counts=True, exposure=np.full(X.size, float(seconds)))
        selection = select(data, RATES, Poisson(), seed=seed, threads=1, settings=Settings(sweeps=200, error=0.2))
        decision = decide([selection], probability)
        if decision.decided:
            break
    return Run(decision.model == model.name, decision.decided, seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--probability", type=float, default=0.95)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(describe())
    begun = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as executor:
        runs = list(executor.map(run, range(options.runs), [options.probability] * options.runs, chunksize=4))
    decided = [r for r in runs if r.decided]
    wrong, chance = sum(not r.right for r in decided), 1 - options.probability
    bound = stats.binom.ppf(0.975, len(decided), chance)
    low, middle, high = np.quantile([r.seconds for r in runs], (0.25, 0.5, 0.75))
    print(f"{len(runs)} counts of up to {LOOKS[-1]} s, with at most {len(LOOKS)} looks")
    print(f"decided at p > {options.probability:g}: {len(decided)}; of these wrong: {wrong}")
    print(f"as stated: {chance * len(decided):.1f} or fewer, by chance up to {bound:.0f} in 39 of 40 such studies")
    print(f"seconds: median {middle:.0f}, quartiles {low:.0f} and {high:.0f}: {1 - middle / LOOKS[-1]:.0%} saved")
    print(f"{time.perf_counter() - begun:.0f} s with {options.processes} processes")


if __name__ == "__main__":
    main()
