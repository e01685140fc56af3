"""The frame at which a peak splits, how true positions are, and what it saves to start from the frame before."""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from machine import describe
from scipy import stats

from bluesky_bayes import Candidates, Dataset, FrameSeries, Selection, select
from bluesky_bayes.families import xrd
from bluesky_bayes.families.xrd import BEFORE, transition, transition_peaks
from bluesky_bayes.series import next_start

X = np.linspace(29.75, 30.25, 126)


def candidates(height: float) -> Candidates:
    """One peak or two of one width and shape, none lower than a tenth of the one before the split."""
    priors = {
        "amplitude": stats.uniform(0.1 * height, 1.4 * height),
        "center": stats.uniform(29.85, 0.25),
        "fwhm": stats.uniform(0.02, 0.03),
        "constant": stats.uniform(0, 0.05 * height),
    }
    return xrd([1, 2], 0.8, width="shared", shared=["fraction"], priors=priors)


def timed(data: Dataset, models: Candidates, start: Selection | None) -> tuple[Selection, float]:
    """An answer and its processor time."""
    begun = time.process_time()
    return select(data, models, start=start, threads=1), time.process_time() - begun


def spread(seconds: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def print_series(height: float, n: int, every: int) -> None:
    """Analyse all frames in order, and every so many from the prior as well."""
    print(f"\n{height:g} counts")
    rng, models = np.random.default_rng(0), candidates(height)
    answers: list[Selection] = []
    times: dict[str, list[tuple[int, float]]] = {"from the frame before": [], "from the prior": []}
    pulls = []
    for frame in range(BEFORE - n // 2, BEFORE + n // 2):
        data = Dataset(X, rng.poisson(transition(X, frame, height)), counts=True)
        answer, seconds = timed(data, models, next_start(answers))
        if frame % every == 0:
            alone, seconds_alone = timed(data, models, None)
            times["from the frame before"].append((frame, seconds))
            times["from the prior"].append((frame, seconds_alone))
            error = np.hypot(answer.log_evidence_error, alone.log_evidence_error)
            pulls.append((answer.log_evidence - alone.log_evidence) / error)
        answers.append(answer)
    found = FrameSeries(tuple(answers), np.arange(BEFORE - n // 2, BEFORE + n // 2, dtype=float))
    print_answer(found)
    for name, measured in times.items():
        for when, chosen in (
            ("before", [s for f, s in measured if f < BEFORE]),
            ("after", [s for f, s in measured if f >= BEFORE]),
        ):
            print(f"  processor time a frame, {when} the split, {name}: {spread(chosen)}")
    print(f"  log evidences of both, difference in stated errors: rms {np.sqrt(np.mean(np.square(pulls))):.2f}")


def print_answer(found: FrameSeries) -> None:
    """Where the change is, beside frames by themselves, and how true positions are."""
    first, change = int(found.at[0]), found.change
    print(f"  {change.before} to {change.after}, p = {change.probability:.4f}, true frame {BEFORE}; found:")
    for i in np.flatnonzero(change.frames > 0.005):
        print(f"    frame {first + i}: {change.frames[i]:.3f} ± {change.frame_errors[i]:.3f}")
    decided = [
        selection.decisive() and selection.best.model.name == model
        for selection, model in zip(found.selections, found.models, strict=True)
    ]
    print(f"  frames that decide by themselves: {sum(decided)} of {len(decided)}; warnings: {len(found.warnings)}")
    there: dict[str, Any] = {"before": found.at < BEFORE, "after": found.at >= BEFORE}
    for name, when in (("peak1.center", "before"), ("peak1.center", "after"), ("peak2.center", "after")):
        mean, stated = found.track(name)
        true = np.array([transition_peaks(frame)[-1 if name == "peak2.center" else 0][1] for frame in found.at])
        use = there[when] & np.isfinite(mean)
        deviation, stated = (mean - true)[use], stated[use]
        print(
            f"  {name}, {use.sum()} frames {when}: stated error {stated.min():.1e} to {stated.max():.1e} degrees, "
            f"true deviation rms {np.sqrt(np.mean(deviation**2)):.1e}, largest {np.abs(deviation).max():.1e}, "
            f"in stated errors rms {np.sqrt(np.mean((deviation / stated) ** 2)):.2f}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--heights", type=float, nargs="+", default=[30_000.0, 6.0], help="counts of the peak")
    parser.add_argument(
        "--every", type=int, default=5, help="frames from one that is also begun at the prior to the next"
    )
    options = parser.parse_args()
    print(describe())
    for height in options.heights:
        print_series(height, options.frames, options.every)


if __name__ == "__main__":
    main()
