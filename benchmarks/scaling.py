"""How the time of an answer grows with points, peaks, models and data sets, what threads save, and the peak memory."""

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from machine import describe
from scipy import stats

from bluesky_bayes import Candidates, Dataset, Gaussian, Settings, select, select_many
from bluesky_bayes.families import peaks


def fixed(sweeps: int) -> Settings:
    """A fixed number of sweeps, whatever they give."""
    return Settings(sweeps=sweeps, longest=sweeps, chains=2, error=1e9)


FEW = fixed(200)
MEMORY = """
import resource, sys
sys.path.insert(0, {folder!r})
from scaling import FEW, question, select
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
select(*question(100, {k}), settings=FEW)
before = used()
select(*question({n}, {k}), settings=FEW)
print(before, used())
"""

PROCESS = """
import sys, time
sys.path.insert(0, {folder!r})
from scaling import six_models
for _ in sys.stdin:
    start = time.perf_counter()
    six_models(1)
    print(time.perf_counter() - start, flush=True)
"""


@functools.cache
def question(n: int, k: int, seed: int = 0) -> tuple[Dataset, Candidates, Gaussian]:
    """`n` points of `k` peaks that stand apart, the model of `k` peaks, and the noise.

    The noise grows with the root of n: the data say as much, however many they are, so that the ladders are alike.
    """
    x = np.linspace(0.0, k, n)
    sigma = 0.1 * np.sqrt(n / (100.0 * k))
    y = sigma * np.random.default_rng(seed).standard_normal(n)
    for i in range(k):
        y += np.exp(-0.5 * ((x - i - 0.5) / 0.1) ** 2)
    priors = {
        "amplitude": stats.uniform(0.2, 1.8),
        "center": stats.uniform(0, k),
        "sigma": stats.loguniform(0.02, 0.5),
        "constant": stats.norm(0, 0.5),
    }
    return Dataset(x, y), peaks(counts=[k], priors=priors), Gaussian(sigma)


def seconds(clock: Callable[[], float], function: Callable[[], Any]) -> float:
    """Time of a call."""
    start = clock()
    function()
    return clock() - start


def spread(times: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(times):8.3f} s ({min(times):.3f} to {max(times):.3f})"


def exponent(sizes: Sequence[float], medians: Sequence[float]) -> str:
    """Power of the size that the time grows with, by least squares of logarithms, with its standard error."""
    fit = stats.linregress(np.log(sizes), np.log(medians))
    return f"  time grows as the power {fit.slope:.2f} ± {fit.stderr:.2f} of the number from {sizes[0]} to {sizes[-1]}"


def print_growth(title: str, sizes: Sequence[int], measure: Callable[[int], float], repeats: int) -> None:
    """Print CPU time against a number, and the exponent."""
    print(f"\n{title}, CPU time")
    medians = []
    for size in sizes:
        times = [measure(size) for _ in range(repeats)]
        medians.append(statistics.median(times))
        print(f"  {size:7} {spread(times)}", flush=True)
    print(exponent(sizes, medians))


def cpu(data: Dataset, candidates: Candidates, noise: Gaussian, **options: Any) -> float:
    """CPU time of an answer."""
    call = functools.partial(select, data, candidates, noise, threads=1, **options)
    return seconds(time.process_time, call)


def sweeping(n: int, k: int) -> float:
    """CPU time of 2000 sweeps that count and of those that tune, a quarter as many or, from the prior, three quarters.

    Where that is less than what a preparation varies by, ten times as many are timed.
    """
    times = 1 if n > 3000 or k > 8 else 10
    many, few = (
        cpu(*question(n, k), settings=settings, sampler="exchange") for settings in (fixed(200 + 2000 * times), FEW)
    )
    return (many - few) / times


def copies(n_models: int) -> float:
    """CPU time of a model under several names."""
    data, candidates, noise = question(300, 2)
    (model,) = candidates.models
    models = tuple(replace(model, name=f"{model.name} ({i})") for i in range(n_models))
    return cpu(data, Candidates(models), noise)


def many(n_sets: int, threads: int = 1) -> None:
    """Answers for several data sets side by side."""
    _, candidates, noise = question(300, 2)
    select_many([question(300, 2, seed)[0] for seed in range(n_sets)], candidates, noise, threads=threads)


def six_models(threads: int) -> None:
    """An answer to how many peaks of none to five."""
    data, _, noise = question(300, 3)
    select(data, peaks(counts=range(6)), noise, threads=threads)


def print_threads(repeats: int) -> None:
    """Print wall times with one thread and with two, by turns."""
    load = os.getloadavg()[0]
    print(f"\nThreads, wall time; load before: {load:.2f}{'' if load < 0.3 else ', NOT QUIET: measure again'}")
    cases: dict[str, Callable[[int], Any]] = {
        "1 data set, 3 peaks": lambda threads: select(*question(300, 3), threads=threads),
        "1 data set, 0 to 5 peaks": six_models,
        "16 data sets, 2 peaks": lambda threads: many(16, threads),
    }
    for name, call in cases.items():
        turns = [
            [seconds(time.perf_counter, functools.partial(call, threads)) for threads in (1, 2)] for _ in range(repeats)
        ]
        one, two = zip(*turns, strict=True)
        ratio = statistics.median(one) / statistics.median(two)
        print(f"  {name:24} one {spread(one)}, two {spread(two)}: {ratio:.2f} times as fast")
    print_processes(repeats)


def print_processes(repeats: int) -> None:
    """Print how much two processes do that share nothing but the machine: what two threads could do at most."""
    program = PROCESS.format(folder=os.path.dirname(os.path.abspath(__file__)))
    with contextlib.ExitStack() as stack:
        run = functools.partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        processes = [stack.enter_context(run([sys.executable, "-c", program])) for _ in range(2)]

        def side_by_side(some: Sequence[subprocess.Popen[str]]) -> float:
            for process in some:
                print(file=process.stdin)
            return statistics.fmean(float(process.stdout.readline()) for process in some if process.stdout)

        side_by_side(processes)
        turns = [(side_by_side(processes[:1]), side_by_side(processes)) for _ in range(repeats)]
        one, two = zip(*turns, strict=True)
    ratio = 2.0 * statistics.median(one) / statistics.median(two)
    print(f"  {'in two processes':24} one {spread(one)}, both {spread(two)}: {ratio:.2f} times as much")


def print_memory(n: int, k: int) -> None:
    """Print the peak memory of a process of its own."""
    program = MEMORY.format(folder=os.path.dirname(os.path.abspath(__file__)), n=n, k=k)
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    before, after = map(float, run.stdout.split())
    print(f"\nPeak memory, {n} points, {k} peaks: {after:.0f} MiB, of which {before:.0f} MiB with 100 points")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(describe())
    cpu(*question(100, 1))
    print_threads(repeats)
    few, points = (100, 300, 1000, 3000), (3000, 10_000, 30_000, 100_000)
    more = "2000 sweeps of 2 chains, and the tuning for them"
    print_growth("Points (2 peaks): whole answers", few, lambda n: cpu(*question(n, 2)), repeats)
    print_growth(f"Points (2 peaks): {more}", few, lambda n: sweeping(n, 2), repeats)
    print_growth(f"Points (2 peaks): {more}", points, lambda n: sweeping(n, 2), repeats)
    print_growth("Peaks (300 points): whole answers", (1, 2, 3, 4, 5), lambda k: cpu(*question(300, k)), repeats)
    print_growth(f"Peaks (300 points): {more}", (1, 2, 4, 8, 15), lambda k: sweeping(300, k), repeats)
    print_growth("Models (2 peaks each, 300 points): whole answers", (1, 2, 4, 8), copies, repeats)
    sets = "Data sets (2 peaks, 300 points): whole answers of select_many"
    print_growth(sets, (1, 4, 16), lambda n: seconds(time.process_time, lambda: many(n)), repeats)
    print_memory(100_000, 5)


if __name__ == "__main__":
    main()
