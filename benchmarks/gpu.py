"""Everything about a GPU in one command: does it work, are its answers the processor's, and how fast is it.

``python benchmarks/gpu.py`` prints a table and writes ``gpu.json``. Without a GPU it says why there is none and
measures the processor's part alone.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kinds import RATE, Kind, decaying, decays, decays_together, peaks_together, sloping
from machine import describe
from problems import decay, nagata_2012, nagata_candidates

from bluesky_bayes import Candidates, Dataset, Gaussian, Poisson, StudentT, select
from bluesky_bayes.candidates import family
from bluesky_bayes.cooling import cooled
from bluesky_bayes.devices import CUDA, NEAR, PROCESSOR, Device, device, find_gpus, smoke_test, toolkit, why_no_gpu
from bluesky_bayes.exchange import Exchange
from bluesky_bayes.kernels.launch import Card
from bluesky_bayes.kernels.task import aligned
from bluesky_bayes.reference import first_start
from bluesky_bayes.sampler import Path as Way
from bluesky_bayes.sampler import State, chain_key
from bluesky_bayes.tasks import blocks_of, groups_of, make_task

NOISE, LEVELS, SWEEPS, SEEDS = Gaussian(0.1), 8, 50, 20
SANITIZED = "from bluesky_bayes.devices import smoke_test; from bluesky_bayes.kernels.launch import Card; "
SANITIZED += "print(smoke_test(Card()) or 'equal')"
KINDS: tuple[tuple[Kind, Any], ...] = (
    (sloping, Poisson()),
    (decays, Gaussian()),
    (peaks_together, (Poisson(), StudentT())),
    (decays_together, (Gaussian(0.3), Gaussian(0.3))),
)
"""Kinds of models that have kernels of their own, beside peaks: amplitudes carried along, several data sets."""
Rows = dict[str, Any]


def timed(work: Any) -> float:
    """Seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ladders(where: Device, n: int, sweeps: int, workers: int) -> float:
    """Moves of one parameter a second: a ladder for each of `n` data sets, side by side.

    Three peaks, 301 points and eight temperatures; the data sets differ in their noise.
    """
    data = nagata_2012()
    (model,) = nagata_candidates(range(3, 4)).resolved(data, NOISE).models
    task = make_task(blocks_of([data], [NOISE], [model]), model, True)
    betas = np.append(0.0, np.geomspace(1e-3, 1.0, LEVELS - 1))
    steps = np.full((LEVELS, int(task.step_group.max()) + 1), 0.1)
    module, start, groups = where.kernels(True), first_start(task), groups_of(model)
    z = np.random.default_rng(0).standard_normal((LEVELS, len(task.tables)))

    def chain(number: int) -> None:
        y = aligned(task.y.shape, task.y.dtype)
        y[:] = task.y + np.float32(0.5) * np.random.default_rng(number).standard_normal(y.size, np.float32)
        way = Way(module, task._replace(y=y), start, betas, steps, np.zeros((LEVELS, 0, 0)), groups)
        Exchange().step(way, State(z, steps, way.strides, 1), chain_key(0, "gpu", number), sweeps)

    chain(0)
    with ThreadPoolExecutor(workers) as threads:
        seconds = timed(lambda: list(threads.map(chain, range(n))))
    return n * LEVELS * sweeps * len(task.tables) / seconds


def ceiling() -> float:
    """Exponentials a second of a kernel that does nothing else, float32."""
    from numba import cuda
    from numba.cuda import libdevice

    @cuda.jit(fastmath=True)  # type: ignore[untyped-decorator]
    def exponentials(out: Any, n: int) -> None:
        i = cuda.grid(1)
        a, total = np.float32(-1e-6) * np.float32(i), np.float32(0)
        for _ in range(n):
            total += libdevice.fast_expf(a)
            a -= np.float32(1e-7)
        out[i] = total

    blocks, threads, n = 4096, 256, 20_000
    out = cuda.device_array(blocks * threads, np.float32)
    exponentials[blocks, threads](out, 10)
    cuda.synchronize()

    def work() -> None:
        exponentials[blocks, threads](out, n)
        cuda.synchronize()

    return blocks * threads * n / timed(work)


def first_steps(there: Device, kind: Kind, noise: Any) -> str:
    """Whether the first sweeps of a ladder, and particles at two temperatures, are those of the processor."""
    task, groups = kind(noise)
    betas, start, key = np.array([0.0, 0.3, 1.0]), first_start(task), chain_key(0, "gpu", 0)
    steps = np.full((betas.size, int(task.step_group.max()) + 1), 0.3)
    known = betas, steps, np.tile(0.2 * np.eye(task.free.size), (betas.size, 1, 1))
    z, found = np.random.default_rng(0).standard_normal((betas.size, len(task.tables))), []
    for where in (PROCESSOR, there):
        way = Way(where.kernels(True), task, start, *known, groups)
        swept = Exchange().step(way, State(z, steps, way.strides, 0), key, 3)[1].samples
        cloud = cooled(way.kernels, task, start, (3, 2), key, 0, np.random.default_rng(0), groups, known).clouds
        found.append(np.concatenate([swept.ravel(), cloud.ravel()]))
    off = float(np.abs(found[0] - found[1]).max())
    return "equal" if off < NEAR else f"coordinates differ by {off:.2g}"


def equality(there: Device, data: Dataset, candidates: Candidates, noise: Gaussian, better: str) -> Rows:
    """Evidence of models and posterior means of the better one over many seeds, held against the processor's.

    Seeds are not shared. Given are the mean of the differences over its standard error, which is a standard normal
    number where nothing but chance tells the two apart, and how far the differences of single seeds scatter over what
    their errors say (about 1). Of the parameters the worst is shown.
    """
    evidence, means = [], []
    for seed in range(SEEDS):
        a, b = (select(data, candidates, noise, seed=2 * seed + i, device=d) for i, d in enumerate((PROCESSOR, there)))
        evidence.append((a.log_evidence - b.log_evidence) / np.hypot(a.log_evidence_error, b.log_evidence_error))
        found, other = (answer[better].parameters for answer in (a, b))
        means.append([found[name].mean - other[name].mean for name in found])
    spread = np.std(means, axis=0, ddof=1) / np.sqrt(SEEDS)
    off = np.abs(np.mean(means, axis=0) / spread)
    return {
        "mean difference of log evidence, in its standard errors": _rounded(np.mean(evidence, axis=0) * SEEDS**0.5),
        "scatter of these differences over what their errors say": _rounded(np.std(evidence, axis=0)),
        "largest mean difference of a posterior mean, in its standard errors": round(float(off.max()), 2),
        "parameters among which it is the largest": off.size,
    }


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 2) for value in values]


def sanitized() -> str:
    """What compute-sanitizer says of a few sweeps."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return "not here"
    said = []
    for tool in ("memcheck", "racecheck", "synccheck"):
        command = [program, "--tool", tool, sys.executable, "-c", SANITIZED]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        said.append(f"{tool}: {lines[-1] if lines else 'nothing'}")
    return "; ".join(said)


def measured(where: Device, sets: list[int], most: float) -> Rows:
    """Latency of one spectrum, and throughput for some numbers of data sets; none that would take longer."""
    rows: Rows = {}
    whole = partial(select, nagata_2012(), nagata_candidates(range(4)), NOISE, device=where)
    whole()
    seconds = [timed(whole) for _ in range(3)]
    rows["one spectrum, zero to three peaks, s"] = round(statistics.median(seconds), 3)
    rate = 0.0
    for n in sets:
        expected = n * LEVELS * SWEEPS * 9 / rate if rate else 0.0
        if expected > most:
            rows[f"{n} data sets, moves a second"] = f"not measured: it would take {expected:.0f} s"
            continue
        rate = ladders(where, n, SWEEPS, min(n, 4 * where.threads))
        rows[f"{n} data sets, moves a second"] = float(f"{rate:.3g}")
    rows["moves a second"] = rate
    return rows


def main() -> None:
    """Print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--sets", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--most", type=float, default=120.0, help="seconds that one measurement may take")
    options = parser.parse_args()
    found = find_gpus()
    results: Rows = {"machine": describe(), "toolkit": " ".join(toolkit()), "driver": found.driver or found.reason}
    results["processor"] = measured(PROCESSOR, options.sets, options.most)
    reason = why_no_gpu()
    if reason:
        results["gpu"] = None
        results["why no GPU"] = reason
    else:
        results["gpu"] = gpu = {"name": found.gpus[0].name, "first sweeps": smoke_test(Card()) or "equal"}
        gpu["compute-sanitizer"] = sanitized()
        if gpu["first sweeps"] == "equal":
            there = device(f"{CUDA}:0")
            for kind, noise in KINDS:
                gpu[f"first steps, {kind.__name__.replace('_', ' ')}"] = first_steps(there, kind, noise)
            gpu |= equality(there, nagata_2012(), nagata_candidates(range(2, 4)), NOISE, "3 peaks")
            carried = family(decay, [1, 2], priors={"rate": RATE})
            for name, value in equality(there, decaying(61, 0), carried, Gaussian(0.3), "2 decays").items():
                gpu[f"amplitudes carried along: {name}"] = value
            gpu |= measured(there, options.sets, options.most)
            gpu["exponentials a second, alone"] = top = ceiling()
            # Two of three parameters of a peak are its shape's: an exponential a point each.
            gpu["fraction of the ceiling"] = round(gpu["moves a second"] * 301 * 2 / 3 / top, 4)
    for name, value in results.items():
        for line in [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]:
            print(f"{name:10} | {line}")
    if reason:
        print(f"\nNothing here was measured on a GPU: {reason}.")
    options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
