"""Series of powder patterns: at which frame phases come and go, and CPU time a frame.

``python benchmarks/phase_series.py`` melts one mineral into another, in 100 frames, for some pairs and lengths of the
transition, and compares the frames of appearance and disappearance with those that were simulated.
"""

import argparse
import time

import numpy as np

from bluesky_bayes.phases import Follower, PhaseSeries, Structure
from bluesky_bayes.phases.simulated import example_library, simulate_series

PAIRS = (("anatase", "rutile"), ("magnetite", "hematite"), ("calcite", "halite"), ("quartz", "corundum"))


def melting(before: Structure, after: Structure, first: int, gone: int, n: int) -> list[list[tuple[Structure, float]]]:
    """Mixtures whose second phase is there from frame `first` on, and whose first is gone from frame `gone` on."""
    share = np.clip((np.arange(n) - first + 1) / (gone - first + 1), 0.0, 1.0)
    return [[(before, 1.0 - float(part)), (after, float(part))] for part in share]


def off(series: PhaseSeries, name: str, appears: int | None, disappears: int | None) -> str:
    found = next((phase for phase in series.phases if name in phase.members), None)
    if found is None:
        return "not found"
    pairs = ((found.appears, appears), (found.disappears, disappears))
    return ", ".join("wrong" if (a is None) != (b is None) else str(a - b) for a, b in pairs if not a is b is None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--lasts", type=int, nargs="*", default=[8, 20, 40], help="frames of the transition")
    given = parser.parse_args()
    library = example_library()
    minerals = {structure.name: structure for structure in library}
    for seed, (before, after) in enumerate(PAIRS):
        for lasts in given.lasts:
            first = int(0.37 * given.frames)
            gone = first + lasts
            frames = simulate_series(melting(minerals[before], minerals[after], first, gone, given.frames), seed)
            clock, follower, spent = time.process_time(), Follower(library), []
            for frame in frames:
                begun = time.process_time()
                follower(frame)
                spent.append(time.process_time() - begun)
            series = follower.series()
            whole = (time.process_time() - clock) / given.frames
            others = [phase.members[0] for phase in series.phases if not {before, after} & set(phase.members)]
            print(
                f"{before} into {after}, {lasts} frames: {before} goes {off(series, before, None, gone)} frames off, "
                f"{after} comes {off(series, after, first, None)} off, others {others}; CPU s a frame: {whole:.2f}, "
                f"the slowest {max(spent[1:]):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
