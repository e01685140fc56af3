"""Draw the pictures and write the printed answers of README.md and docs/: `python docs/make_pictures.py`."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from bluesky_bayes import (
    Candidates,
    Dataset,
    FrameSeries,
    Gaussian,
    NoiseScan,
    Selection,
    noise_scan,
    select,
    select_many,
    series,
)
from bluesky_bayes.dataset import Origin
from bluesky_bayes.displays import LiveSelection
from bluesky_bayes.exact import solve
from bluesky_bayes.families import exafs, linear, mossbauer, peaks, relaxation, saxs, xanes, xps, xrd
from bluesky_bayes.families.exafs import COPPER, COPPER_PHASE, copper_shell, distance, magnitude
from bluesky_bayes.families.mossbauer import example
from bluesky_bayes.families.relaxation import samarium_sulfide
from bluesky_bayes.families.saxs import silica
from bluesky_bayes.families.xanes import iron_oxide
from bluesky_bayes.families.xps import pet
from bluesky_bayes.families.xrd import transition
from bluesky_bayes.phases import PhaseSeries, follow
from bluesky_bayes.phases.simulated import example_library, simulate_series
from bluesky_bayes.planner import selection_probability
from bluesky_bayes.simulated import three_peaks
from bluesky_bayes.tables import with_error

STATIC = Path(__file__).parent / "_static"


def three_peaks_answer() -> Selection:
    """Nagata, Sugita and Okada, Neural Networks 28, 82 (2012): their spectrum, noise and priors."""
    x = np.linspace(0, 3, 301)
    y = three_peaks(x) + 0.1 * np.random.RandomState(0).standard_normal(301)
    priors = {
        "amplitude": stats.gamma(5, scale=1 / 5),
        "center": stats.norm(1.5, np.sqrt(1 / 5)),
        "precision": stats.gamma(5, scale=1 / 0.04),
    }
    candidates = peaks("gaussian", range(1, 6), background=None, width="precision", priors=priors)
    data = Dataset(x, y, origin=Origin(x="energy", y="intensity"), units={"x": "eV", "y": "arb. units"})
    return select(data, candidates, noise=Gaussian(0.1), seed=0)


def rocking_curve_answer() -> Selection:
    """Answer the worked example of docs/peaks.md."""
    x = np.linspace(20.0, 21.0, 101)
    rate = 60 - 20 * (x - 20.5)
    for height, center in ((900, 20.44), (350, 20.60)):
        q = (2 * (x - center) / 0.12) ** 2
        rate += height * (0.4 / (1 + q) + 0.6 * np.exp(-np.log(2) * q))
    y = np.random.default_rng(1).poisson(rate)
    candidates = peaks(
        "pseudo-voigt",
        counts=range(1, 4),
        background="linear",
        priors={"amplitude": stats.uniform(200, 1300), "fwhm": stats.uniform(0.05, 0.25)},
    )
    data = Dataset(x, y, counts=True, origin=Origin(x="theta", y="det"), units={"x": "deg", "y": "counts"})
    return select(data, candidates, seed=0)


def xps_answer() -> Selection:
    """Answer the worked example of docs/families/xps.md."""
    x = np.linspace(293, 280, 131)
    y = np.random.default_rng(0).poisson(pet(x))
    data = Dataset(x, y, counts=True, origin=Origin(x="binding energy", y="analyser"), units={"x": "eV", "y": "counts"})
    return select(data, xps(counts=[3, 4], shared=["fraction"]), seed=0)


def silica_figure() -> Figure:
    """Answer the worked example of docs/families/saxs.md, on logarithmic axes."""
    q = np.geomspace(0.004, 0.2, 100)
    counts = np.random.default_rng(1).poisson(silica(q)).astype(np.float64)
    data = Dataset(q, counts, counts=True, origin=Origin(x="q", y="det"), units={"x": "1/Å", "y": "counts"})
    shapes = ["sphere", "schulz sphere", "core-shell sphere", "guinier-porod"]
    figure = select(data, saxs(shapes), seed=0).plot()
    curve, residual = figure.axes[:2]
    curve.set(xscale="log", yscale="log", xlim=(0.0035, 0.22), ylim=(1.0, 1.5 * counts.max()))
    residual.set(xscale="log", xlim=(0.0035, 0.22))
    return figure


def mossbauer_answer() -> Selection:
    """Answer the worked example of docs/families/mossbauer.md."""
    velocity = np.linspace(-10, 10, 256)
    y = np.random.default_rng(0).poisson(example(velocity))
    candidates = mossbauer(doublets=[0, 1, 2], sextets=[0, 1], priors={"depth": stats.uniform(50, 450)})
    units = {"x": "mm/s", "y": "counts"}
    data = Dataset(velocity, y, counts=True, origin=Origin(x="velocity", y="transmission"), units=units)
    return select(data, candidates, seed=0)


def one_peak_scan() -> NoiseScan:
    """Answer the worked example of docs/noise-and-priors.md."""
    x = np.linspace(-3, 3, 101)
    y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(101)
    return noise_scan(Dataset(x, y), peaks(counts=range(0, 3)))


def relaxation_picture() -> Figure:
    """Draw the simulated series of docs/families/relaxation.md: two of its curves, and the models' probabilities."""
    delays, kelvins, rng = (
        np.geomspace(1e-4, 10, 41),
        (300, 200, 150, 120, 100, 80, 50, 35, 20),
        np.random.default_rng(1),
    )
    curves = {kelvin: samarium_sulfide(delays, kelvin) for kelvin in kelvins}
    series = [Dataset(delays, y + 0.01 * rng.standard_normal(delays.size)) for y in curves.values()]
    answers = dict(zip(kelvins, select_many(series, relaxation()), strict=True))
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kelvin, color in ((300, "#c8102e"), (20, "#0072b2")):
        best, fine = answers[kelvin].best, np.geomspace(1e-4, 10, 300)
        draws = {name: values.ravel()[::40, None] for name, values in best.draws.items()}
        band = sum(term.curves(fine, draws) for term in best.model.terms)
        left.fill_between(fine, *np.quantile(band, (0.025, 0.975), axis=0), color=color, alpha=0.3, lw=0)
        left.plot(fine, np.mean(band, axis=0), color=color, lw=1.5, label=f"{kelvin} K: {best.model.name}")
        left.plot(delays, answers[kelvin].data.y, ".", color=color)
    left.set(xscale="log", xlabel="delay (s)", ylabel="magnetisation")
    left.legend(frameon=False)
    for i, name in enumerate(answers[300].names):
        right.plot(kelvins, [answer.probabilities[i] for answer in answers.values()], "o-", label=name)
    right.set(xlabel="temperature (K)", ylabel="p(model | data)", ylim=(-0.03, 1.03))
    right.legend(frameon=False, loc="center right")
    return figure


def xanes_answer() -> Selection:
    """Answer the worked example of docs/families/xanes.md."""
    energy = np.arange(7100, 7141, 0.5)
    mu = iron_oxide(energy) + 0.01 * np.random.default_rng(0).standard_normal(energy.size)
    candidates = xanes(
        edge=(7118, 7128),
        below=(7109, 7117),
        white_line=(7125, 7137),
        priors={"pre-edge peak.amplitude": stats.uniform(0.05, 0.25)},
    )
    data = Dataset(energy, mu, origin=Origin(x="energy", y="mu"), units={"x": "eV"})
    return select(data, candidates, noise=Gaussian(0.01))


def straight_line() -> tuple[Dataset, Candidates]:
    """Data and lines of the worked example of docs/families/linear.md."""
    x = np.linspace(0.5, 10.0, 20)
    y = 0.35 * x + 0.06 + 0.05 * np.random.default_rng(2).standard_normal(20)
    data = Dataset(x, y, origin=Origin(x="flux", y="chamber"), units={"x": "10⁹/s", "y": "V"})
    return data, linear({"a": "x", "b": "1"}, priors={"a": stats.norm(0, 1), "b": stats.norm(0, 0.2)})


def straight_line_plan() -> Figure:
    """Probability of choosing the right line, by its closed form, and how often simulated data did."""
    (_, lines), sigma, n_sets = straight_line(), 0.05, 400
    rng, noise = np.random.default_rng(0), Gaussian(sigma)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for truth, b, color in (("a x + b", 0.06, "tab:blue"), ("a x + b", 0.03, "tab:orange"), ("a x", 0.0, "tab:green")):
        given = {"a": 0.35, "b": b} if b else {"a": 0.35}
        points = np.unique(np.geomspace(3, 300, 40).astype(int))
        chances = [
            selection_probability(lines, np.linspace(0.5, 10, n), sigma, truth, given).probability for n in points
        ]
        axes.plot(points, chances, color=color, label=f"b = {b:g} V")
        for n in (5, 20, 80):
            x = np.linspace(0.5, 10, n)
            sets = [Dataset(x, 0.35 * x + b + sigma * rng.standard_normal(n)) for _ in range(n_sets)]
            log_z = [[solve(model, data, noise).log_evidence for model in lines.models] for data in sets]
            p = np.mean(np.argmax(log_z, axis=1) == lines.names.index(truth))
            axes.errorbar(n, p, np.sqrt(p * (1 - p) / n_sets), fmt="o", color=color, capsize=3)
    axes.axhline(0.95, color="tab:gray", lw=1, ls=":")
    axes.set(xscale="log", xlabel="points", ylabel="probability of choosing the right line", ylim=(0, 1.02))
    axes.set_title(f"curves: closed form; points: {n_sets} simulated data sets each", fontsize=10, loc="left")
    axes.legend(frameon=False)
    return figure


def copper_shell_picture() -> Figure:
    """Answer the worked example of docs/families/exafs.md."""
    k = np.arange(3.0, 12.01, 0.05)
    chi = copper_shell(k) + 0.001 * np.random.default_rng(0).standard_normal(k.size)
    best = select(Dataset(k, chi), exafs(distances=(2.0, 3.1), phase=COPPER_PHASE), seed=0).best
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    left.plot(k, k**2 * chi, ".", color="tab:gray", markersize=4, label="data")
    left.plot(k, k**2 * best.fit.mean, color="tab:red", label=best.model.name)
    left.fill_between(k, k**2 * best.fit.low, k**2 * best.fit.high, color="tab:red", alpha=0.3, lw=0)
    left.set(xlabel="k (1/Å)", ylabel="k² χ(k) (1/Å²)")
    left.legend(frameon=False)
    grid, shell = np.linspace(2.0, 3.1, 300), distance(best)
    low, middle, high = np.quantile(magnitude(best, grid), (0.025, 0.5, 0.975), axis=0)
    right.plot(grid, middle, color="tab:red")
    right.fill_between(grid, low, high, color="tab:red", alpha=0.3, lw=0)
    right.axvline(COPPER, color="tab:gray", lw=1, ls=":")
    right.set(xlabel="R (Å)", ylabel="magnitude", ylim=(0, None))
    right.set_title(f"R = {with_error(shell.mean, shell.sd)} Å; simulated at {COPPER} Å", fontsize=10, loc="left")
    return figure


def splitting_peak() -> FrameSeries:
    """Answer the phase transition of docs/families/xrd.md."""
    x, rng, numbers = np.linspace(29.75, 30.25, 126), np.random.default_rng(0), range(90, 110)
    frames = [
        Dataset(x, rng.poisson(transition(x, n, height=6)), counts=True, units={"x": "deg", "y": "counts"})
        for n in numbers
    ]
    priors = {
        "amplitude": stats.uniform(0.6, 8.4),
        "center": stats.uniform(29.85, 0.25),
        "fwhm": stats.uniform(0.02, 0.03),
        "constant": stats.uniform(0, 0.3),
    }
    candidates = xrd(counts=[1, 2], radiation=0.8, width="shared", shared=["fraction"], priors=priors)
    return series(frames, candidates, at=numbers, error=0.2)


def live_window() -> Figure:
    """Draw docs/displays.md's window in mid-course: the first 40 points of a scan."""
    x = np.linspace(1, 2, 101)
    y = three_peaks(x) + 0.1 * np.random.default_rng(3).standard_normal(101)
    data = Dataset(x[:40], y[:40], origin=Origin(x="motor", y="spectrum", scan_id=101))
    live = LiveSelection()
    live.hear("", select(data, peaks(counts=range(1, 4), background=None), noise=Gaussian(0.1)), False)
    assert live.figure is not None
    return live.figure


def melting() -> PhaseSeries:
    """Answer the series of docs/phases.md, in smaller steps."""
    mineral = {structure.name: structure for structure in example_library()}
    kelvin = np.arange(700, 1000, 10)
    shares = np.clip((kelvin - 760) / 150, 0, 1)
    frames = simulate_series([[(mineral["anatase"], 1 - s), (mineral["rutile"], s)] for s in shares], seed=1)
    return follow(frames, example_library(), at=kelvin, label="temperature (K)")


def draw(figure: Figure, name: str) -> None:
    """Put a picture into docs/_static."""
    figure.savefig(STATIC / f"{name}.png", dpi=110)


def write(selection: Selection, name: str) -> None:
    """Put the picture and the printed answer into docs/_static."""
    draw(selection.plot(), name)
    with open(STATIC / f"{name}.txt", "w", encoding="utf-8") as file:
        Console(file=file, width=100).print(selection.summary())
    text = (STATIC / f"{name}.txt").read_text(encoding="utf-8")
    (STATIC / f"{name}.txt").write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    STATIC.mkdir(exist_ok=True)
    answer, rocking_curve = three_peaks_answer(), rocking_curve_answer()
    write(answer, "answer")
    draw(answer.plot_corner(), "answer-corner")
    draw(answer.plot_trace(names=["peak1.center", "peak2.center", "peak3.center"]), "answer-trace")
    write(rocking_curve, "rocking-curve")
    write(mossbauer_answer(), "mossbauer")
    names = ["peak1.center", "peak1.area", "peak2.center", "peak2.area"]
    draw(rocking_curve.plot_corner(names=names), "rocking-curve-corner")
    draw(one_peak_scan().plot(), "noise-scan")
    draw(relaxation_picture(), "relaxation")
    draw(xanes_answer().plot(), "xanes")
    write(select(*straight_line()), "linear")
    draw(straight_line_plan(), "linear-plan")
    draw(copper_shell_picture(), "exafs")
    write(xps_answer(), "xps")
    draw(splitting_peak().plot("center"), "xrd")
    draw(silica_figure(), "saxs")
    draw(live_window(), "live")
    draw(melting().plot(), "phase-series")
