"""Many runs back to back, with a journal and publishing: nothing lost, nothing doubled, memory that stays.

The memory of the profile and of its worker is sampled after each run; the slope is that of a straight line through all
but the first fifth of the runs. Memory goes in steps, and its standard error takes account of that. What the profile
has in use is what it has asked of glibc and not given back: the rest is room that glibc keeps. At the end 5000
documents come at once, seven times where answers are made up.
"""

import argparse
import ctypes
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fakes
import numpy as np
from machine import describe
from problems import nagata_candidates
from server import tiled_server

from bluesky_bayes import Analysis, Gaussian
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.simulated import three_peaks


def main() -> None:
    """Print memory, slopes, and what became of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--burst", type=int, default=5000, help="documents that come at once")
    parser.add_argument("--quick", action="store_true", help="made-up answers, published to a list")
    parser.add_argument("--list", action="store_true", help="real answers, but published to a list: no Tiled server")
    options = parser.parse_args()
    print(describe())
    with _target(options.quick or options.list) as (target, published), tempfile.TemporaryDirectory() as folder:
        analysis = fakes.Quick() if options.quick else Analysis(nagata_candidates(range(5)), noise=Gaussian(0.1))
        others = set(_children())  # the Tiled server
        with BayesCallback(analysis, publish=target, journal=folder) as bayes:
            uids, memory = _runs(bayes, options.runs, others)
            _report(memory)
            uids += _burst(bayes, options.burst, 7 if options.quick else 1)
            late = [uid for uid in uids[-50:] if bayes.published(uid, timeout=600) is None]
            left = bayes.unfinished()
        counts = Counter(published())
        print(f"{len(uids)} runs: {sum(counts[uid] == 0 for uid in uids)} without a result, ", end="")
        print(f"{sum(counts[uid] > 1 for uid in uids)} with more than one, {len(late) + len(left)} not done")


def _report(memory: dict[str, list[float]]) -> None:
    """Print what the memory of each process, in megabytes run after run, came to."""
    for name, values in memory.items():
        slope, error = _slope(values[len(values) // 5 :])
        print(
            f"{name:15} {values[0]:7.1f} MB after the first run, {max(values):7.1f} MB at most, "
            f"{values[-1]:7.1f} MB at the end; {slope * 1e3:+.1f} ± {error * 1e3:.1f} kB a run",
            flush=True,
        )


def _documents(n: int, seed: int) -> list[tuple[str, Any]]:
    """A scan of three peaks with `n` points."""
    x = np.linspace(0.0, 3.0, n)
    y = three_peaks(x) + 0.1 * np.random.default_rng(seed).standard_normal(n)
    return fakes.measured(x.tolist(), y.tolist())


def _runs(bayes: BayesCallback, n_runs: int, others: set[int]) -> tuple[list[str], dict[str, list[float]]]:
    uids: list[str] = []
    memory: dict[str, list[float]] = {"profile": [], "profile, in use": [], "worker": []}
    begin = time.perf_counter()
    for i in range(n_runs):
        documents = _documents(301, i)
        for name, doc in documents:
            bayes(name, doc)
        uids.append(documents[0][1]["uid"])
        bayes.result(uids[-1], timeout=600)
        memory["profile"].append(_megabytes(os.getpid()))
        memory["profile, in use"].append(_in_use())
        memory["worker"].append(max(map(_megabytes, set(_children()) - others)))
    print(f"{n_runs} runs in {time.perf_counter() - begin:.0f} s", flush=True)
    return uids, memory


def _burst(bayes: BayesCallback, n: int, repeats: int) -> list[str]:
    """Many documents at once, again and again: how long they take, and how much of it this thread is at work."""
    walls, works, stalls, all_costs, uids = [], [], [], [], []
    for _ in range(repeats):
        documents = _documents(n, n)
        taken_away = _taken_away()
        costs = []
        work, begin = time.thread_time(), time.perf_counter()
        for name, doc in documents:
            start = time.perf_counter()
            bayes(name, doc)
            costs.append(time.perf_counter() - start)
        walls.append(time.perf_counter() - begin)
        works.append(time.thread_time() - work)
        stalls.append((max(costs), _taken_away() - taken_away))
        all_costs += costs
        uids.append(documents[0][1]["uid"])
        assert bayes.result(uids[-1], timeout=600).data.n == n
    wall, work = np.median(walls), np.median(works)
    print(
        f"{n} documents in {wall * 1e3:.0f} ms ({n / wall / 1e3:.0f} a ms), median of {repeats}, of which this thread "
        f"works {work * 1e3:.0f} ms ({n / work / 1e3:.0f} a ms); {np.median(all_costs) * 1e3:.4f} ms each (median)"
    )
    each = ", ".join(f"{longest * 1e3:.1f} ({times})" for longest, times in stalls)
    print(f"longest of each repetition in ms (times the system took the processor away): {each}")
    return uids


def _taken_away() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class _Glibc(ctypes.Structure):
    """`mallinfo2` of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    )


def _in_use() -> float:
    """Megabytes that this process has asked of glibc and not given back; nan where there is none."""
    try:
        info = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return np.nan
    info.restype = _Glibc
    found = info()
    return float(found.uordblks + found.hblkhd) / 1e6


def _children() -> Iterator[int]:
    """Processes that this one started: the worker, what writes results, and a server."""
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # a thread may end meanwhile
            yield from map(int, path.read_text().split())


def _slope(values: list[float]) -> tuple[float, float]:
    """Slope of a straight line and its standard error, where each residual is like the one before."""
    if len(values) < 4 or not np.all(np.isfinite(values)):
        return np.nan, np.nan
    runs = np.arange(len(values))
    (slope, at), covariance = np.polyfit(runs, values, 1, cov="unscaled")
    residuals = np.asarray(values) - slope * runs - at
    total = float(np.sum(residuals**2))
    alike = min(float(np.sum(residuals[1:] * residuals[:-1])) / total, 0.99) if total > 0.0 else 0.0
    white = np.sqrt(covariance[0, 0] * total / (len(values) - 2))
    return slope, float(white * np.sqrt((1.0 + alike) / (1.0 - alike)))


@contextmanager
def _target(to_list: bool) -> Iterator[tuple[Any, Any]]:
    """Where to publish, and a function that lists the raw runs of what was published."""
    if to_list:
        raw_uids: list[str] = []
        yield lambda name, doc: raw_uids.append(doc["original_run_uid"]) if name == "start" else None, lambda: raw_uids
        return
    with tiled_server() as (address, client):
        yield (
            f"{address}/processed",
            lambda: [run.metadata["start"]["original_run_uid"] for run in client["processed"].values()],
        )


if __name__ == "__main__":
    main()
