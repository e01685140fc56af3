"""Phase search: measured patterns, simulated mixtures, and times.

``python benchmarks/phases.py measured PATTERNS LIBRARY`` searches every pattern of a folder for every structure of a
library and scores the answers where a file's name gives formulas, such as ``TiO2+MnO.xy``.

``python benchmarks/phases.py beliefs PATTERNS LIBRARY`` does so with each belief halved and doubled.

``python benchmarks/phases.py simulated [LIBRARY]`` makes mixtures of three phases, 5 to 70 % by weight, by another
model than the one that is fitted, and scores the answers.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bluesky_bayes.phases import Beliefs, Library, PhaseSelection, read_pattern, search
from bluesky_bayes.phases.simulated import example_library, simulate

PATTERNS = (".xy", ".xye", ".csv", ".xrdml")
SURE, MAIN = 0.9, 0.05


def measured(folder: Path, library: Library, radiation: str) -> None:
    right, spent = 0, []
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PATTERNS)
    search(read_pattern(paths[0], radiation), library)
    for path in paths:
        clock = time.process_time()
        answer = search(read_pattern(path, radiation), library)
        spent.append(time.process_time() - clock)
        good = _right(answer, path)
        right += good
        print(f"{'right' if good else 'WRONG'}  {path.stem}: {spent[-1]:.1f} s of CPU, {answer.n_fits} fits")
        print(f"       {answer.verdict}")
        for warning in answer.warnings:
            print(f"       Warning: {warning}")
    print(f"{right} of {len(paths)} right; CPU s: median {np.median(spent):.1f}, most {max(spent):.1f}")


def _right(answer: PhaseSelection, path: Path) -> bool:
    """Whether the main phases are those that the file's name gives."""
    main = {phase.structure.formula for phase in answer.phases if phase.probability >= SURE and phase.share >= MAIN}
    return main == set(path.stem.replace(" ", "").split("+"))


def beliefs(folder: Path, library: Library, radiation: str) -> None:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PATTERNS)
    patterns = [read_pattern(path, radiation) for path in paths]
    usual = Beliefs()
    names = ("isotropic", "deviatoric", "displacement", "texture", "amount", "width", "profile", "misplaced")
    for name in (*names, "crooked", "alike", "present"):
        for factor in (0.5, 2.0):
            other = replace(usual, **{name: factor * getattr(usual, name)})
            answers = [search(pattern, library, other) for pattern in patterns]
            right = sum(map(_right, answers, paths))
            print(f"{name} times {factor}: {right} of {len(paths)} right")


def mixture(library: Library, seed: int) -> list[tuple[int, float]]:
    """Three structures of different patterns, 5 to 70 % by weight."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(library), 3, replace=False)
    while True:
        weights = rng.dirichlet(np.ones(3))
        if weights.min() > 0.05 and weights.max() < 0.7:
            return [(int(n), float(weight)) for n, weight in zip(chosen, weights, strict=True)]


def simulated(library: Library, cases: int, first: int = 0, lesser: float = 0.05) -> None:
    whole, lost, false, spent, off, inside = 0, 0, 0, [], [], 0
    number = 0
    for seed in range(first, first + cases):
        made = mixture(library, seed)
        pattern = simulate([(library.structures[n], weight) for n, weight in made], seed)
        clock = time.process_time()
        answer = search(pattern, library)
        spent.append(time.process_time() - clock)
        true = {library.structures[n].name: weight for n, weight in made}
        missing = [name for name in true if not _found(answer, name)]
        wrong = [
            phase.members
            for phase in answer.phases
            if phase.probability >= SURE and phase.share >= lesser and not set(phase.members) & set(true)
        ]
        lost, false, whole = lost + len(missing), false + len(wrong), whole + (not missing and not wrong)
        for phase in answer.phases:
            name = next((one for one in phase.members if one in true), None)
            if name is not None:
                off.append(phase.weight[0] - true[name])
                inside += phase.weight[1] <= true[name] <= phase.weight[2]
                number += 1
        if missing or wrong:
            said = {name: f"{100 * weight:.0f} %" for name, weight in true.items()}
            print(f"seed {seed}: {said} missing {missing}, wrong {wrong}")
            print("   ", [(p.members, round(p.probability, 2), round(p.share, 3), p.status) for p in answer.phases])
    print(
        f"{whole} of {cases} whole; {lost} phases missing, {false} false; weights off by {np.std(off):.3f} rms, "
        f"{inside} of {number} in their interval; CPU s: median {np.median(spent):.1f}, most {max(spent):.1f}"
    )


def _found(answer: PhaseSelection, name: str) -> bool:
    return any(name in phase.members and phase.probability >= SURE for phase in answer.phases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measured", "beliefs", "simulated"))
    parser.add_argument("folders", nargs="*", type=Path, help="patterns and library, or library alone")
    parser.add_argument("--radiation", default="CuKa")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    library = Library.from_folder(given.folders[-1], given.radiation) if given.folders else example_library()
    if given.what == "measured":
        measured(given.folders[0], library, given.radiation)
    elif given.what == "beliefs":
        beliefs(given.folders[0], library, given.radiation)
    else:
        simulated(library, given.cases, given.first)


if __name__ == "__main__":
    main()
