"""How far the evidence is from its references, and how well the stated errors tell, over seeds."""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import describe
from problems import (
    BOX_LOG_Z,
    HALF_LOG_2PI,
    NAGATA_FREE_ENERGY,
    NAGATA_NORMALISER,
    SHELL_OFFSET,
    SHELLS,
    SHELLS_LOG_Z,
    TEN_PEAKS_LOG_Z,
    TWO_WELLS_FREE_ENERGY,
    UNIT_NOISE,
    box,
    nagata_2012,
    nagata_candidates,
    target,
    ten_peaks,
    two_wells_target,
)

from bluesky_bayes import Candidates, Dataset, Selection, select, select_iter
from bluesky_bayes.kernels.build import use_widest_vectors
from bluesky_bayes.noise import Gaussian, Noise


def row(
    name: str,
    reference: list[float],
    data: Dataset,
    candidates: Candidates,
    noise: Noise,
    seeds: int,
    ask: Callable[..., Selection] = select,
) -> None:
    """Print a line for each model."""
    ask(data, candidates, noise, seed=seeds)
    start = time.perf_counter()
    runs = [ask(data, candidates, noise, seed=seed) for seed in range(seeds)]
    seconds = (time.perf_counter() - start) / seeds
    log_z = np.array([run.log_evidence for run in runs])
    stated = np.sqrt(np.mean([run.log_evidence_error**2 for run in runs], axis=0))
    for i, expected in enumerate(reference):
        deviation = log_z[:, i] - expected
        print(
            f"{name:26} {runs[0].names[i]:10} mean deviation {deviation.mean():+.3f}  "
            f"spread {deviation.std(ddof=1):.3f}  stated {stated[i]:.3f}  "
            f"stated/spread {stated[i] / deviation.std(ddof=1):.2f}  {seconds:.2f} s a run",
            flush=True,
        )


def look(*question: Any, seed: int) -> Selection:
    """A first look."""
    return next(select_iter(*question, seed=seed))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    use_widest_vectors()
    print(describe())
    nagata = [-(f + NAGATA_NORMALISER) for f in NAGATA_FREE_ENERGY.values()]
    question = nagata_2012(), nagata_candidates(range(1, 6)), Gaussian(0.1)
    row("Nagata 2012", nagata, *question, seeds)
    row("Nagata 2012, first look", nagata, *question, seeds, look)
    for k, log_z in BOX_LOG_Z.items():
        row("peaks in a box", [log_z], *box(k), Gaussian(0.1), seeds)
        row("peaks in a box, first look", [log_z], *box(k), Gaussian(0.1), seeds, look)
    for sampler in ("exchange", "smc"):
        ask = partial(select, sampler=sampler, error=0.15)
        row(f"ten peaks, {sampler}", [TEN_PEAKS_LOG_Z], *ten_peaks(), Gaussian(0.1), seeds, ask)
    wells: Any = target(two_wells_target, stats.uniform(0, 1), 3)
    row("two wells", [-TWO_WELLS_FREE_ENERGY - 3 * HALF_LOG_2PI], *wells, UNIT_NOISE, seeds)
    for dimension, log_z in SHELLS_LOG_Z.items():
        shells: Any = target(SHELLS[dimension], stats.uniform(-6, 12), 2)
        row(f"shells, d = {dimension}", [log_z - SHELL_OFFSET - 2 * HALF_LOG_2PI], *shells, UNIT_NOISE, seeds)


if __name__ == "__main__":
    main()
