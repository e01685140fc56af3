"""Everything at work on simulated scans: acquisition, analysis beside it, results in Tiled, and read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_bayes import techniques
from bluesky_bayes.analysis import Analysis, Recipe
from bluesky_bayes.noise import Gaussian
from bluesky_bayes.servers import PROCESSED, RAW, embedded_tiled
from bluesky_bayes.simulated import three_peaks
from bluesky_bayes.techniques import Technique

if TYPE_CHECKING:
    from rich.console import Console

    from bluesky_bayes.callbacks import BayesCallback

PICTURE = "bluesky-bayes-demo.png"
NOISE, SEED = 0.1, 2
THREE_PEAKS = Technique(
    "motor", "spectrum", three_peaks, np.linspace(0.0, 3.0, 301), NOISE,
    "3 peaks; these priors let a small one more hide among them",
)  # fmt: skip
IN_A_PROFILE = """\
from bluesky_bayes import Analysis
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.families import peaks

bayes = BayesCallback(Analysis(peaks(counts=range(4))))  # publish=tiled_client["processed"]
RE.subscribe(bayes)
(uid,) = RE(scan([det], motor, -1, 1, 41))
selection = bayes.result(uid, timeout=60)"""


def run_demo(console: Console, folder: Path, *, quick: bool = False, technique: str | None = None) -> Path:
    """Scan a simulated spectrum of three peaks, or another sample, and show, step by step, what becomes of it.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    folder : Path
        Where the picture goes.
    quick : bool
        One scan and fewer models.
    technique : str, optional
        One of `bluesky_bayes.techniques`.

    Returns
    -------
    Path
        The picture.
    """
    from bluesky_bayes.callbacks import BayesCallback

    started = time.perf_counter()
    writers: list[Callable[[str, Any], object]] = []
    with ExitStack() as stack:
        # The worker compiles its kernels while the server starts, so where results go is known only later.
        analysis: Recipe = demo_analysis(range(1, 5) if quick else range(6))
        shown = THREE_PEAKS
        if technique is not None:
            analysis, shown = techniques.analysis(technique), techniques.TECHNIQUES[technique]
        bayes = stack.enter_context(BayesCallback(analysis, publish=lambda name, doc: writers[0](name, doc)))
        with step(console, "Starting a Tiled server (kernels are compiled meanwhile)"):
            client = stack.enter_context(embedded_tiled())
            writers.append(_writer(client[PROCESSED]))
        uids = acquire(console, bayes, client[RAW], shown, n_scans=1 if quick else 2)
        picture = show(console, bayes, uids[0], folder, shown)
        read_back(console, bayes, client[PROCESSED], uids)
    console.print(f"\nAll of it took {time.perf_counter() - started:.0f} s. The picture is {picture}", soft_wrap=True)
    console.print("In your own profile, with your RunEngine, detector and motor:\n")
    console.print(IN_A_PROFILE, style="cyan", markup=False, highlight=False, soft_wrap=True)
    return picture


def demo_analysis(counts: Iterable[int]) -> Analysis:
    """How many peaks, with the priors of Nagata, Sugita and Okada, Neural Networks 28, 82 (2012)."""
    from scipy import stats

    from bluesky_bayes.families import peaks

    priors = {
        "amplitude": stats.gamma(5, scale=1 / 5),
        "center": stats.norm(1.5, 5**-0.5),
        "precision": stats.gamma(5, scale=1 / 0.04),
    }
    candidates = peaks(counts=counts, background=None, width="precision", priors=priors)
    return Analysis(candidates, x="motor", y="spectrum", noise=Gaussian(NOISE))


def acquire(console: Console, bayes: BayesCallback, raw: Any, shown: Technique, n_scans: int) -> list[str]:
    """Scan, with the analysis and a writer of the raw data subscribed; gives the runs' uids."""
    from bluesky import RunEngine
    from bluesky.callbacks.buffer import BufferingWrapper
    from bluesky.plans import list_scan

    detector, axis = shown.devices(SEED)
    plan: Any = list_scan
    run_engine = RunEngine({})
    raw_writer = BufferingWrapper(_writer(raw))
    for callback in (raw_writer, bayes):
        run_engine.subscribe(callback)  # type: ignore[no-untyped-call]
    uids: list[str] = []
    for n in range(1, n_scans + 1):
        beside = " while scan 1 is analysed" if n == 2 else ""
        with step(console, f"Scan {n}: {shown.points.size} points{beside}"):
            made = run_engine(plan([detector], axis, shown.points.tolist()))
            assert isinstance(made, tuple)
            uids += made
    raw_writer.shutdown()
    return uids


def show(console: Console, bayes: BayesCallback, uid: str, folder: Path, shown: Technique) -> Path:
    """Print a run's answer and draw it; gives the picture."""
    with step(console, "Analysing scan 1 in the worker process"):
        selection = bayes.result(uid)
    console.print(selection.summary())
    console.print(f"(Simulated: {shown.truth}.)\n")
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / PICTURE
    with step(console, "Drawing"):
        selection.plot().savefig(picture, dpi=150)
    return picture


def read_back(console: Console, bayes: BayesCallback, processed: Any, uids: list[str]) -> None:
    """Print what a Tiled client finds of the published answers."""
    from rich.padding import Padding
    from tiled.queries import Eq

    with step(console, "Publishing each answer as a run of its own"):
        for uid in uids:
            bayes.published(uid)
    for n, uid in enumerate(uids, start=1):
        with step(console, f"Reading back the answer to scan {n}, original_run_uid {uid[:8]}"):
            (run,) = processed.search(Eq("original_run_uid", uid)).values()
            tables = run.start["tables"]
            what, table = ("model", tables["models"]) if "models" in tables else ("name", tables["phases"])
        rows = zip(table[what], table["probability"], strict=True)
        console.print(Padding(", ".join(f"{name} {p:.3f}" for name, p in rows), (0, 0, 0, 6)))
        console.print(Padding(run.start["result"]["verdict"], (0, 0, 0, 6)))


@contextmanager
def step(console: Console, doing: str) -> Iterator[None]:
    """Show what is being done, and when it is done how long it took."""
    start = time.perf_counter()
    with console.status(f"{doing} ..."):
        yield
    console.print(f"[green]done[/green]  {doing} [dim]({time.perf_counter() - start:.1f} s)[/dim]", highlight=False)


def _writer(container: Any) -> Callable[[str, Any], object]:
    from bluesky_tiled_plugins import TiledWriter

    writer: Callable[[str, Any], object] = TiledWriter(container, max_array_size=0)
    return writer
