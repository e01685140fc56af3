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

from bluesky_bayes import Gaussian, select
from bluesky_bayes.inference import warm_up
from bluesky_bayes.kernels.build import kernels_for, use_widest_vectors
from bluesky_bayes.kernels.task import new_scratch, new_state
from bluesky_bayes.reference import Start, first_start, fitted_start
from bluesky_bayes.sampler import Chain, Ladder, Settings, annealed, chain_key, run_round
from bluesky_bayes.tasks import blocks_of, groups_of, make_task, shape_sources


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


def whole(noise: Gaussian, settings: Settings, repeats: int) -> None:
    """Wall time of `select` for K = 0 to 5."""
    data, candidates, answers = nagata_2012(), nagata_candidates(), []
    times = timed(
        lambda: answers.append(select(data, candidates, noise, seed=len(answers), settings=settings)), repeats
    )
    errors = np.median([a.log_evidence_error for a in answers], axis=0)
    print(f"  {noise}, wanted error {settings.error}: {spread(times)} s; median stated errors {errors.round(3)}")


def inner_loop(repeats: int) -> None:
    """Time of one update (K = 3) beside the ceiling."""
    import numba

    data, candidates = nagata_2012(), nagata_candidates(range(3, 4))
    model = candidates.resolved(data, Gaussian(0.1)).models[0]
    kinds = shape_sources([model])
    kernels = kernels_for(kinds, True)
    task = make_task(blocks_of([data], [Gaussian(0.1)], [model]), model, kinds, True)
    keys, n_sweeps = [chain_key(0, "speed", c) for c in range(2)], 400
    rng, prior = np.random.default_rng(0), first_start(task)
    first = annealed(kernels, task, prior, 512, keys, rng, 0)
    fitted = fitted_start(first.warm, groups_of(model), rng)

    def sweeps(start: Start, ladder: Ladder) -> Chain:
        return run_round(
            kernels, task, start, ladder.betas, ladder.steps, ladder.coordinates[0], n_sweeps, 0, 1, keys[0]
        )

    jit = numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")
    exp_single, single = kernels.exp_single, np.float32

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
    state, scratch = new_state(task, first.ladder.coordinates[0]), new_scratch(task, 1)
    for p in range(len(state.z)):
        kernels.rebuild(task, state, p, scratch)
    arrays = (task.x, task.weight, state.residual[:n], state.curves[:n], scratch.curves[:n], scratch.residual)
    sweeps(prior, first.ladder)
    ceiling(10, *arrays)
    n_updates = n_sweeps * first.ladder.betas.size * len(task.tables)
    updates, with_reference, bare = [], [], []
    for _ in range(repeats):
        updates += [t / n_updates for t in timed(lambda: sweeps(prior, first.ladder), 1)]
        with_reference += [t / n_updates for t in timed(lambda: sweeps(fitted, first.ladder), 1)]
        bare += [t / 30_000 for t in timed(lambda: ceiling(10_000, *arrays), 1)]
    print(
        f"  one update, K = 3, {data.n} points:   {spread(updates, 1e9)} ns; "
        f"accepted {np.mean(sweeps(prior, first.ladder).acceptance):.2f}"
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
    for noise in (Gaussian(0.1), Gaussian()):
        for settings in (Settings(error=0.15), Settings()):
            whole(noise, settings, repeats)
    print("inner loop:")
    inner_loop(repeats)


if __name__ == "__main__":
    main()
