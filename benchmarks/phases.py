"""Phase search: measured patterns, simulated mixtures, and times.

``python benchmarks/phases.py measured PATTERNS LIBRARY`` searches every pattern of a folder for every structure of a
library and scores the answers where a file's name gives formulas, such as ``TiO2+MnO.xy``.

``python benchmarks/phases.py beliefs PATTERNS LIBRARY`` does so with each belief halved and doubled, without
errors of the model, and without freedom of intensities.

``python benchmarks/phases.py simulated [LIBRARY]`` makes mixtures of three phases, 5 to 70 % by weight, by another
model than the one that is fitted, and scores the answers.

``python benchmarks/phases.py calibration [--picture FILE]`` makes mixtures of one to four of fifteen minerals, down to
1 % by weight, on five instruments, at low and high counts, by another model again, and says how often phases of each
probability are there.

``python benchmarks/phases.py speed [LIBRARY]`` times the search among 50 and 500 candidates with one and two threads.

``python benchmarks/phases.py table [LIBRARY]`` puts variational inference and replica exchange beside the search.
"""

import argparse
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from machine import describe

from bluesky_bayes.blas import one_blas_thread
from bluesky_bayes.dataset import Array
from bluesky_bayes.phases import Beliefs, Library, Pattern, PhaseSelection, read_pattern, search
from bluesky_bayes.phases.arrays import Model
from bluesky_bayes.phases.engines import exchange, fitter_of, variational
from bluesky_bayes.phases.screening import likeness
from bluesky_bayes.phases.searching import ALIKE
from bluesky_bayes.phases.simulated import example_library, simulate

PATTERNS = (".xy", ".xye", ".csv", ".xrdml")
SURE, UNLIKELY, MAIN = 0.9, 0.1, 0.05


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
    for what, other in (
        ("no errors of profile, positions and background", replace(usual, profile=1e-6, misplaced=1e-6, crooked=1e-6)),
        ("no freedom of intensities", replace(usual, texture=1e-3)),
    ):
        answers = [search(pattern, library, other) for pattern in patterns]
        right = sum(map(_right, answers, paths))
        print(f"{what}: {right} of {len(paths)} right")


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


INSTRUMENTS: tuple[tuple[str | float, tuple[float, float, float]], ...] = (
    ("CuKa", (10.0, 80.0, 0.02)),
    ("CoKa", (15.0, 95.0, 0.03)),
    ("MoKa", (5.0, 40.0, 0.01)),
    ("CuKa1", (15.0, 75.0, 0.015)),
    (0.8, (6.0, 42.0, 0.01)),
)
"""Radiation, and first and last angle with the step."""
EDGES = (0.0, 0.02, 0.1, 0.3, 0.7, 0.9, 0.99, 1.0)


def lesser_case(seed: int, libraries: dict[str | float, Library]) -> tuple[Pattern, Library, dict[str, float]]:
    """A pattern of one to four of fifteen structures, with their weights."""
    rng = np.random.default_rng(seed)
    rays, span = INSTRUMENTS[rng.integers(len(INSTRUMENTS))]
    if rays not in libraries:
        libraries[rays] = example_library(rays)
    whole = libraries[rays].structures
    library = replace(libraries[rays], structures=tuple(whole[n] for n in rng.permutation(len(whole))[:15]))
    weights = np.exp(rng.uniform(np.log(0.01), 0.0, rng.integers(1, 5)))
    weights[0] = 1.0
    made = {one.name: float(w) for one, w in zip(library, weights / weights.sum(), strict=False)}
    counts = float(np.exp(rng.uniform(np.log(300.0), np.log(30000.0))))
    background = counts * float(np.exp(rng.uniform(np.log(0.01), np.log(0.5))))
    pattern = simulate(
        [(one, made[one.name]) for one in library if one.name in made],
        seed,
        radiation=rays,
        span=span,
        counts=counts,
        background=background,
        breadth=float(rng.uniform(0.7, 2.5)),
    )
    return pattern, library, made


def calibration(cases: int, first: int, picture: Path | None) -> None:
    libraries: dict[str | float, Library] = {}
    said: list[tuple[float, bool]] = []
    found: dict[bool, list[bool]] = {False: [], True: []}
    false, spent = 0, []
    for seed in range(first, first + cases):
        pattern, library, made = lesser_case(seed, libraries)
        clock = time.process_time()
        answer = search(pattern, library)
        spent.append(time.process_time() - clock)
        grouped = {name for phase in answer.phases for name in phase.members}
        said += [(phase.probability, bool(set(phase.members) & set(made))) for phase in answer.phases]
        said += [(p, name in made) for name, p in answer.probabilities.items() if name not in grouped]
        present = {name for phase in answer.present for name in phase.members}
        for name, weight in made.items():
            if weight > MAIN:
                found[bool(pattern.counts.max() < 2000.0)].append(name in present)
        for phase in answer.present:
            if not set(phase.members) & set(made):
                false += 1
                print(f"seed {seed}: false {phase.name}, p {phase.probability:.2f}, share {phase.share:.2f}; {made}")
    p, true = np.array([one for one, _ in said]), np.array([one for _, one in said])
    rows = []
    print("said        phases   mean p   there")
    for low, high in pairwise(EDGES):
        inside = (p >= low) & ((p < high) | (high == 1.0))
        if inside.any():
            rows.append((p[inside].mean(), true[inside].mean(), int(inside.sum())))
            print(f"{low:4.2f} to {high:4.2f}  {rows[-1][2]:5d}    {rows[-1][0]:.3f}    {rows[-1][1]:.3f}")
    print(
        f"{false} false phases called present; present of those of 5 % by weight or more: {sum(found[False])} of "
        f"{len(found[False])}, of patterns of less than 2000 counts {sum(found[True])} of {len(found[True])}; "
        f"CPU s: median {np.median(spent):.2f}, most {max(spent):.1f}"
    )
    if picture is not None:
        draw_reliability(rows, picture)


def draw_reliability(rows: list[tuple[float, float, int]], picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for mean, there, number in rows:
        # Wilson's interval of one standard deviation.
        centre = (there + 0.5 / number) / (1.0 + 1.0 / number)
        half = np.sqrt(there * (1.0 - there) / number + 0.25 / number**2) / (1.0 + 1.0 / number)
        axes.errorbar(mean, there, [[there - centre + half], [centre + half - there]], fmt="o", color="C0")
        low = there < 0.5
        axes.annotate(f"{number}", (mean, there), (9, 5 if low else -12), textcoords="offset points", color="0.4")
    axes.set(xlabel="probability said", ylabel="fraction that is there", xlim=(-0.03, 1.14), ylim=(-0.03, 1.06))
    figure.savefig(picture, dpi=130)


def some_minerals() -> Library:
    """About five hundred minerals of the package larixite, the same kinds several times."""
    return Library.from_amcsd(["Fe", "Ti", "Mn", "O", "S", "Cu", "Zn", "Al"])


def speed(library: Library, cases: int, first: int) -> None:
    print(describe(), flush=True)
    print("candidates  threads  wall s: median (least to most)  CPU s: median")
    for number in (50, 500):
        part = first_of(library, number)
        mixtures = [mixture(part, seed) for seed in range(first, first + cases)]
        patterns = [simulate([(part.structures[n], w) for n, w in m], k) for k, m in enumerate(mixtures)]
        search(patterns[0], part)
        for threads in (1, 2):
            wall, spent = [], []
            for pattern in patterns:
                clock, cpu = time.perf_counter(), time.process_time()
                search(pattern, part, threads=threads)
                wall.append(time.perf_counter() - clock)
                spent.append(time.process_time() - cpu)
            print(
                f"{len(part):10d}  {threads:7d}  {np.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f})"
                f"{'':13s}{np.median(spent):.2f}"
            )


def first_of(library: Library, number: int) -> Library:
    """Structures from all over a library, so many, with lines where they are looked for."""
    places = np.unique(np.linspace(0, len(library) - 1, min(number, len(library))).astype(int))
    return replace(library, structures=tuple(library.structures[n] for n in places))


PUBLISHED = {"replica exchange": ("10371.5", "1326.9"), "variational inference": ("260.8", "7.2")}
"""Seconds for 50 candidates on a CPU and a GPU: the project's source, on other machines and for other patterns."""


def table(library: Library, cases: int, first: int) -> None:
    print(describe())
    part = first_of(library, 50)
    rows: dict[str, list[tuple[float, float, int, int, int]]] = {}
    for seed in range(first, first + cases):
        made = mixture(part, seed)
        pattern = simulate([(part.structures[n], w) for n, w in made], seed)
        fitter = fitter_of(pattern, part)
        # One mineral may be there many times: structures that look alike count as one.
        alike = np.array([likeness(fitter, n, range(len(part))) > ALIKE for n in range(len(part))])
        true = [n for n, _ in made]
        answer = search(pattern, part)
        names = [one.name for one in part]
        seen = [names.index(one.structure.name) for one in answer.present]
        main = [n for n, one in zip(seen, answer.present, strict=True) if one.share >= MAIN]

        def note(
            name: str,
            clock: float,
            cpu: float,
            p: Array,
            seed: int = seed,
            alike: Array = alike,
            true: list[int] = true,
            seen: list[int] = seen,
            main: list[int] = main,
        ) -> None:
            sure = (alike * p).sum(1) >= SURE
            false = sure & (p > UNLIKELY) & ~alike[true].any(0)
            agrees = int(sure[main].all() and not np.any(sure & (p > UNLIKELY) & ~alike[seen].any(0)))
            row = (
                time.perf_counter() - clock,
                time.process_time() - cpu,
                int(sure[true].sum()),
                int(false.sum()),
                agrees,
            )
            rows.setdefault(name, []).append(row)
            said = (
                f"  seed {seed}, {name}: {row[0]:.1f} s, CPU {row[1]:.1f} s, {row[2]} of {len(true)}, {row[3]} others"
            )
            print(said + ("" if agrees else ", not as the search"), flush=True)

        clock, cpu = time.perf_counter(), time.process_time()
        answer = search(pattern, part)
        note("search", clock, cpu, np.array([answer.probabilities[name] for name in names]))
        with one_blas_thread():
            for device, xp in array_libraries().items():
                clock, cpu = time.perf_counter(), time.process_time()
                model = Model(xp, fitter)
                note(f"variational inference, {device}", clock, cpu, variational(model).probabilities)
                clock, cpu = time.perf_counter(), time.process_time()
                note(f"replica exchange, {device}", clock, cpu, exchange(model).probabilities)
    print(f"{len(part)} candidates, {cases} mixtures of three phases")
    for name, of in rows.items():
        wall, cpu, right, false, agrees = np.array(of).T
        print(
            f"{name}: {np.median(wall):.1f} s, CPU {np.median(cpu):.1f} s; {right.sum():.0f} of {3 * cases} phases "
            f"at p >= {SURE}, {false.sum():.0f} others; main phases as the search has them in {agrees.sum():.0f}"
        )
    if len(array_libraries()) == 1:
        print("GPU: not measured, there is none here")
    for name, (processor, graphics) in PUBLISHED.items():
        print(f"{name}, published: {processor} s CPU, {graphics} s GPU")


def array_libraries() -> dict[str, object]:
    """NumPy, and CuPy where it finds a device."""
    found: dict[str, object] = {"CPU": np}
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount() > 0:
            from array_api_compat import cupy as compatible

            found["GPU"] = compatible
    except Exception:  # CuPy's error for a missing driver is of its own kind
        pass
    return found


def _found(answer: PhaseSelection, name: str) -> bool:
    return any(name in phase.members and phase.probability >= SURE for phase in answer.phases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measured", "beliefs", "simulated", "calibration", "speed", "table"))
    parser.add_argument("folders", nargs="*", type=Path, help="patterns and library, or library alone")
    parser.add_argument("--radiation", default="CuKa")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    if given.what == "calibration":
        calibration(given.cases, given.first, given.picture)
        return
    if given.what in ("speed", "table"):
        library = Library.from_folder(given.folders[-1], given.radiation) if given.folders else some_minerals()
        {"speed": speed, "table": table}[given.what](library, given.cases, given.first)
        return
    library = Library.from_folder(given.folders[-1], given.radiation) if given.folders else example_library()
    if given.what == "measured":
        measured(given.folders[0], library, given.radiation)
    elif given.what == "beliefs":
        beliefs(given.folders[0], library, given.radiation)
    else:
        simulated(library, given.cases, given.first)


if __name__ == "__main__":
    main()
