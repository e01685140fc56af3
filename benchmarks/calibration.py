"""Whether ranks are uniform, stated errors true and probabilities of models as good as their word.

Simulation-based calibration: models, parameters and data are drawn from their priors and inferred, see `tests/sbc.py`.
"""

import argparse
import functools
import itertools
import math
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import describe
from sbc import (
    FAMILIES,
    N_DRAWS,
    NOISES,
    Outcome,
    analysed,
    family_named,
    outcome,
    ranks_by_parameter,
    reliability,
    score,
    simulated,
    uniformity,
)

FALSE_ALARM = 0.01
EDGES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
N_REPEATED = 4
UNDERSTATED = 1.3


def repeated(family: str, noise: str, numbers: tuple[int, int]) -> tuple[Any, Any]:
    """Log evidence and stated errors for a data set and a seed."""
    data, seed = numbers
    answer = analysed(family, noise, simulated(family, noise, data)[2], 1000 + seed)
    return answer.log_evidence, answer.log_evidence_error


def ranked(
    executor: Executor, pairs: Iterable[tuple[str, str]], draws: int, noise_factor: float = 1.0
) -> dict[tuple[str, str], list[Outcome]]:
    """Analyse data sets of each family and noise, and print a line for each parameter and whether all are uniform."""
    print(f"{'':36} {'n':>4} {'bias':>6} {'spread':>6}  p: {'histogram':>9} {'ecdf':>9} {'spread':>9}")
    outcomes, smallest = {}, []
    for family, noise in pairs:
        make = functools.partial(outcome, family, noise, noise_factor=noise_factor)
        results = outcomes[family, noise] = list(executor.map(make, range(draws), chunksize=4))
        size = [result.size for result in results]
        print(f"{family}, {noise}: effective draws {np.median(size):.0f} (fewest {min(size):.0f}), {N_DRAWS} ranked")
        for name, ranks in ranks_by_parameter(family_named(family).candidates, results).items():
            u = uniformity(ranks)
            smallest.append(u.p)
            print(
                f"  {name:34} {u.n:4} {u.bias:+6.2f} {u.spread:6.2f}     "
                f"{u.p_histogram:9.2g} {u.p_ecdf:9.2g} {u.p_spread:9.2g}",
                flush=True,
            )
    p = min(1.0, min(smallest) * len(smallest))
    verdict = "uniform" if p > FALSE_ALARM else "NOT UNIFORM"
    print(f"all {len(smallest)} together: p = {p:.2g} with Bonferroni's factor: {verdict}")
    return outcomes


def print_evidence(outcomes: dict[tuple[str, str], list[Outcome]]) -> None:
    """Deviations from closed forms, in stated errors."""
    print(f"{'':36} {'n':>4} {'bias':>6} {'spread':>6}  within 1  within 2  within 3 stated errors")
    for (family, noise), results in outcomes.items():
        for i, name in enumerate(family_named(family).candidates.names):
            pull = np.array([(r.log_evidence[i] - r.exact[i]) / r.error[i] for r in results])
            if np.all(np.isfinite(pull)):
                within = "".join(f"{np.mean(np.abs(pull) < k):10.3f}" for k in (1, 2, 3))
                spread = math.sqrt(np.mean(pull**2))
                print(f"  {f'{family}, {noise}: {name}':34} {pull.size:4} {pull.mean():+6.2f} {spread:6.2f}{within}")
    print("a normal distribution has 0, 1, and 0.683, 0.954, 0.997")


def print_repeats(executor: Executor, pairs: Iterable[tuple[str, str]], seeds: int) -> None:
    """Print stated errors beside the spread over seeds."""
    numbers = list(itertools.product(range(N_REPEATED), range(seeds)))
    print(f"{'':36} stated  spread  stated/spread")
    for family, noise in pairs:
        log_z, error = map(
            np.array, zip(*executor.map(functools.partial(repeated, family, noise), numbers), strict=True)
        )
        shape = (N_REPEATED, seeds, -1)
        spread = np.sqrt(np.mean(np.var(log_z.reshape(shape), axis=1, ddof=1), axis=0))
        stated = np.sqrt(np.mean(error**2, axis=0))
        for name, a, b in zip(family_named(family).candidates.names, stated, spread, strict=True):
            print(f"  {f'{family}, {noise}: {name}':34} {a:6.3f} {b:7.3f} {a / b if b > 0 else math.nan:14.2f}")
    print(f"a ratio is itself uncertain by {1 / math.sqrt(2 * N_REPEATED * (seeds - 1)):.2f}")


def print_probabilities(outcomes: dict[tuple[str, str], list[Outcome]]) -> None:
    """Print scores by family and noise, and the reliability of all together."""
    everything = list(itertools.chain(*outcomes.values()))
    print(f"{'':36}  Brier (expected)    log score (expected)  deviation")
    for name, results in [*((", ".join(key), value) for key, value in outcomes.items()), ("all", everything)]:
        s = score(results)
        print(
            f"  {name:34}  {s.brier:.3f} ({s.expected_brier:.3f})      {s.log:.3f} ({s.expected_log:.3f})"
            f"        {s.deviation:+6.2f}"
        )
    print("\nprobability of the largest model     n    stated   true in    give or take")
    for b in reliability(everything, EDGES):
        print(f"  {b.low:4.2f} to {b.high:4.2f} {b.n:21} {b.predicted:9.3f} {b.observed:9.3f} {b.error:11.3f}")


def draw(outcomes: dict[tuple[str, str], list[Outcome]], path: Path) -> None:
    """Histograms of ranks by family and noise, and the reliability diagram."""
    import matplotlib.pyplot as plt
    from scipy import stats

    families, noises = (dict.fromkeys(pair[i] for pair in outcomes) for i in (0, 1))
    figure = plt.figure(figsize=(2.2 * len(noises) + 4.4, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.2 * len(noises), 4.4))
    panels = left.subplots(len(families), len(noises), sharex=True, sharey=True, squeeze=False)
    n_bins = 16
    for axes, ((family, noise), results) in zip(panels.ravel(), outcomes.items(), strict=True):
        # One parameter of each data set, in turn: those of one data set depend on each other.
        ranks = [list(result.ranks.values())[i % len(result.ranks)] for i, result in enumerate(results)]
        axes.hist(ranks, bins=np.linspace(-0.5, N_DRAWS + 0.5, n_bins + 1), color="tab:blue", alpha=0.8)
        low, high = stats.binom.ppf((0.005, 0.995), len(ranks), 1 / n_bins)
        axes.axhspan(low, high, color="tab:gray", alpha=0.3, lw=0)
        axes.set_title(f"{family}, {noise}", fontsize=9)
        axes.set(xticks=(0, N_DRAWS), yticks=())
    left.supxlabel("rank of the truth among draws of its posterior", fontsize=10)
    axes = right.subplots()
    axes.plot((0, 1), (0, 1), color="tab:gray", lw=1)
    bins = reliability(list(itertools.chain(*outcomes.values())), EDGES)
    predicted, observed, error = (
        np.array([getattr(b, name) for b in bins]) for name in ("predicted", "observed", "error")
    )
    axes.errorbar(predicted, observed, 2 * error, fmt="o", color="tab:blue", capsize=2)
    axes.set(xlabel="stated probability of the largest model", ylabel="how often it was true", aspect="equal")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400, help="data sets for each family and noise")
    parser.add_argument("--family", nargs="+", default=list(FAMILIES), help="of tests/sbc.py, or with tests of its own")
    parser.add_argument("--noise", nargs="+", default=list(NOISES), choices=list(NOISES))
    parser.add_argument("--seeds", type=int, default=16, help="seeds for each of a few data sets")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--picture", type=Path, help="where to draw the ranks and the reliability diagram")
    options = parser.parse_args()
    print(describe())
    pairs = list(itertools.product(options.family, options.noise))
    for pair in pairs:
        outcome(*pair, 0)
    start = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as executor:
        print("\nRanks of the true parameters")
        outcomes = ranked(executor, pairs, options.draws)
        print("\nLog evidence against its closed form")
        print_evidence(outcomes)
        print("\nStated error of the log evidence, nats, against the spread over seeds")
        print_repeats(executor, pairs, options.seeds)
        print("\nProbabilities of the models")
        print_probabilities(outcomes)
        print(f"\nWhat it looks like when the noise is {UNDERSTATED} times as large as it is said to be")
        ranked(executor, [("polynomials", "known")], options.draws, UNDERSTATED)
    print(f"\n{time.perf_counter() - start:.0f} s with {options.processes} processes")
    if options.picture:
        draw(outcomes, options.picture)


if __name__ == "__main__":
    main()
