"""Wall time for the 2012 spectrum, and how near the inner loop comes to what the processor can do.

The ceiling is a loop over the same arrays that does only what every update must do: one exponential, one residual, one
weighted square a point, without proposals, bookkeeping or random numbers.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import describe
from problems import nagata_2012, nagata_candidates

from bluesky_bayes import Dataset, Gaussian, select, select_iter
from bluesky_bayes.cooling import cooled
from bluesky_bayes.exchange import Exchange
from bluesky_bayes.inference import warm_up
from bluesky_bayes.kernels.build import kernels, use_widest_vectors
from bluesky_bayes.kernels.task import new_scratch, new_state
from bluesky_bayes.reference import Start, first_start, fitted_start
from bluesky_bayes.sampler import Info, chain_key
from bluesky_bayes.tasks import blocks_of, groups_of, make_task


def timed(function: Any, repeats: int) -> list[float]:
    """Seconds of each call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def spread(times: list[float], unit: float = 1.0) -> str:
    """Median and range."""
    return f"{statistics.median(times) * unit:.3g} ({min(times) * unit:.3g} to {max(times) * unit:.3g})"


def whole(noise: Gaussian, repeats: int, **options: Any) -> None:
    """Wall time of `select` for K = 0 to 5."""
    data, candidates, answers = nagata_2012(), nagata_candidates(), []
    times = timed(lambda: answers.append(select(data, candidates, noise, seed=len(answers), **options)), repeats)
    errors = np.median([a.log_evidence_error for a in answers], axis=0)
    said = ", ".join(f"{name}={value}" for name, value in options.items() if name != "start")
    print(f"  {noise}, {said or 'default'}: {spread(times)} s; median stated errors {errors.round(3)}")


def first_look(repeats: int) -> None:
    """Wall time of the first answer of `select_iter`."""
    data, candidates, looks = nagata_2012(), nagata_candidates(), []
    times = timed(lambda: looks.append(next(select_iter(data, candidates, Gaussian(0.1), seed=len(looks)))), repeats)
    errors = np.median([a.log_evidence_error for a in looks], axis=0)
    print(f"  first look: {spread(times, 1e3)} ms; median stated errors {errors.round(2)}")


def next_scan(repeats: int) -> None:
    """The same spectrum measured again, from the prior and from the earlier answer."""
    data, candidates, noise = nagata_2012(), nagata_candidates(range(0, 4)), Gaussian(0.1)
    before = select(data, candidates, noise, seed=99)
    again = Dataset(data.x, before["3 peaks"].fit.mean + 0.1 * np.random.default_rng(7).standard_normal(data.n))
    for start in (None, before):
        times = timed(lambda start=start: select(again, candidates, noise, start=start), repeats)
        print(f"  0 to 3 peaks, start={'none' if start is None else 'the scan before'}: {spread(times)} s")


def samplers(repeats: int) -> None:
    """Processor time and error of each sampler after one round, by the temperatures and by the bridge."""
    data, noise = nagata_2012(), Gaussian(0.1)
    for count in (1, 3, 4, 5):
        candidates = nagata_candidates(range(count, count + 1))
        for name in ("auto", "exchange", "smc"):
            rows = []
            for seed in range(repeats):
                begun = time.process_time()
                answer = select(data, candidates, noise, seed=seed, sampler=name, error=9.0, budget=1e-6)  # one round
                (posterior,) = answer.posteriors
                d = posterior.diagnostics
                rows.append((time.process_time() - begun, d.ladder[1], d.bridge[1] if d.bridge else 0.0))
            cpu, ladder, bridge = np.median(rows, axis=0)
            print(
                f"  {count} peaks, {name:8}: CPU {cpu:.2f} s, error by temperatures {ladder:.3f}, bridge {bridge:.3f}"
            )


def inner_loop(repeats: int) -> None:
    """Time of one update (K = 3) beside the ceiling."""
    import numba

    data, candidates = nagata_2012(), nagata_candidates(range(3, 4))
    model = candidates.resolved(data, Gaussian(0.1)).models[0]
    engine = kernels(True)
    task = make_task(blocks_of([data], [Gaussian(0.1)], [model]), model, True)
    key, n_sweeps, exchange = chain_key(0, "speed", 0), 400, Exchange()
    rng, prior = np.random.default_rng(0), first_start(task)
    groups = groups_of(model)
    first = cooled(engine, task, prior, (64, 16), key, 0, rng, groups)
    path = exchange.path(engine, task, groups, prior, first)
    fitted = fitted_start(first.warm, groups, rng)
    state = exchange.init(path, first, rng)._replace(number=1)

    def sweeps(start: Start) -> Info:
        return exchange.step(path._replace(start=start), state, key, n_sweeps)[1]

    jit = numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")
    exp_single, single = engine.exp_single, np.float32

    @jit
    def shape_pass(
        x: Any, weight: Any, residual: Any, curve: Any, new: Any, trial: Any, center: Any, precision: Any
    ) -> Any:
        s = single(0)
        for i in range(x.size):
            u = x[i] - center
            e = exp_single(single(-0.5) * precision * (u * u))
            v = residual[i] + single(1.2) * (curve[i] - e)
            new[i] = e
            trial[i] = v
            s += weight[i] * v * v
        return s

    @jit
    def amplitude_pass(weight: Any, residual: Any, curve: Any, trial: Any, change: Any) -> Any:
        s = single(0)
        for i in range(weight.size):
            v = residual[i] - change * curve[i]
            trial[i] = v
            s += weight[i] * v * v
        return s

    @jit
    def ceiling(n: int, x: Any, weight: Any, residual: Any, curve: Any, new: Any, trial: Any) -> float:
        total = 0.0
        for k in range(n):
            total += amplitude_pass(weight, residual, curve, trial, single(0.001 * k))
            for _ in range(2):
                total += shape_pass(x, weight, residual, curve, new, trial, single(0.001 * k), single(100.0))
        return total

    n = task.x.size
    replica, scratch = new_state(task, state.coordinates[-1:]), new_scratch(task)
    engine.rebuild(task, replica, 0, scratch)
    arrays = (task.x, task.weight, replica.residual[:n], replica.curves[:n], scratch.curves[:n], scratch.residual)
    sweeps(prior)
    sweeps(fitted)
    ceiling(10, *arrays)
    n_updates = n_sweeps * path.betas.size * len(task.tables)
    updates, with_reference, bare = [], [], []
    for _ in range(repeats):
        updates += [t / n_updates for t in timed(lambda: sweeps(prior), 1)]
        with_reference += [t / n_updates for t in timed(lambda: sweeps(fitted), 1)]
        bare += [t / 30_000 for t in timed(lambda: ceiling(10_000, *arrays), 1)]
    print(
        f"  one update, K = 3, {data.n} points:   {spread(updates, 1e9)} ns; "
        f"accepted {np.mean(sweeps(prior).acceptance):.2f}"
    )
    print(f"  from a fitted reference:         {spread(with_reference, 1e9)} ns")
    print(f"  the same arithmetic alone:       {spread(bare, 1e9)} ns")
    print(f"  fraction of the ceiling: {statistics.median(bare) / statistics.median(updates):.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    use_widest_vectors()
    print(describe())
    start = time.perf_counter()
    warm_up(nagata_candidates())
    print(f"kernels ready after {time.perf_counter() - start:.1f} s (compiled, or found in the cache)")
    print("K = 0 to 5, 301 points, warm:")
    first_look(repeats)
    for noise in (Gaussian(0.1), Gaussian()):
        for options in ({"error": 0.15}, {}):
            whole(noise, repeats, **options)
    whole(Gaussian(0.1), repeats, sampler="smc")
    print("the next scan:")
    next_scan(repeats)
    print("two samplers, one round:")
    samplers(repeats)
    print("inner loop:")
    inner_loop(repeats)


if __name__ == "__main__":
    main()
