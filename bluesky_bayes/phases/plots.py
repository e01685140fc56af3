"""The answer to a phase search as a picture."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from bluesky_bayes.phases.forward import lines_of
from bluesky_bayes.plots import COMPONENTS, DETAILS, INK, MODEL, POINTS, WARNING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bluesky_bayes.phases.selection import PhaseSelection
    from bluesky_bayes.phases.series import PhaseSeries

WIDE = 120
"""Letters in a line of the verdict."""
MOST_BARS = 8


def plot_phases(selection: PhaseSelection) -> Figure:
    """Draw pattern and fit, lines of each phase, residual, and probabilities."""
    from matplotlib.figure import Figure

    even, phases = selection.even, selection.phases
    figure = Figure(figsize=(11.0, 7.5), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(5.0, 0.5 + 0.3 * max(len(phases), 1), 1.4), width_ratios=(4.0, 1.0))
    main = figure.add_subplot(grid[0, 0])
    sticks, rest = figure.add_subplot(grid[1, 0], sharex=main), figure.add_subplot(grid[2, 0], sharex=main)
    bars = figure.add_subplot(grid[:, 1])
    verdict = textwrap.fill(selection.verdict, WIDE)
    figure.suptitle(f"{selection.pattern.name}\n{verdict}", fontsize=9, color=INK, ha="left", x=0.01)
    model = selection.fit
    main.plot(even.x, np.sqrt(np.maximum(even.y, 0.0)), ".", ms=1.5, color=POINTS, label="measured")
    main.plot(even.x, np.sqrt(np.maximum(model, 0.0)), lw=0.8, color=MODEL, label="fit")
    main.plot(even.x, np.sqrt(np.maximum(selection.background, 0.0)), lw=0.8, color=DETAILS, ls=":", label="background")
    shades = {phase.structure.name: COMPONENTS[n % len(COMPONENTS)] for n, phase in enumerate(phases)}
    for name, curve in selection.curves.items():
        color = shades.get(name, WARNING)
        low, high = np.maximum(selection.background, 0.0), np.maximum(selection.background + curve, 0.0)
        main.fill_between(even.x, np.sqrt(low), np.sqrt(high), color=color, alpha=0.5, lw=0, label=name)
    for line in selection.unexplained:
        main.axvline(line.two_theta, color=WARNING, lw=0.7, ls="--")
    main.set_ylabel("√counts")
    main.legend(loc="upper right", fontsize=8, frameon=False)
    for n, phase in enumerate(phases):
        lines = lines_of(phase.structure, even.radiation, float(even.x[0]), float(even.x[-1]))
        if lines is not None:
            q = lines.q * (1.0 - phase.strain)
            place = 2.0 * np.degrees(np.arcsin(np.minimum(0.5 * even.radiation.wavelengths[0] * q, 1.0)))
            color = shades[phase.structure.name]
            sticks.vlines(place, -n - 0.4, -n - 0.4 + 0.2 + 0.6 * lines.strength, color=color, lw=0.9)
    sticks.set_yticks([-n for n in range(len(phases))], [phase.structure.name for phase in phases], fontsize=8)
    sigma = np.sqrt(np.maximum(even.noise, 1e-300))
    rest.plot(even.x, (even.y - model) / sigma, lw=0.5, color=POINTS)
    rest.axhline(0.0, color=MODEL, lw=0.6)
    rest.set_ylabel("residual / noise")
    rest.set_xlabel("2θ (degrees)")
    main.set_xlim(even.x[0], even.x[-1])
    main.tick_params(labelbottom=False)
    sticks.tick_params(labelbottom=False)
    top = sorted(selection.probabilities.items(), key=lambda item: -item[1])[:MOST_BARS]
    names = [name for name, _ in top][::-1]
    bars.barh(names, [p for _, p in top][::-1], color=[shades.get(name, POINTS) for name in names])
    bars.set_xlim(0.0, 1.0)
    bars.set_xlabel("p(present | data)")
    bars.tick_params(axis="y", labelsize=8)
    for axes in (main, sticks, rest, bars):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_phase_series(series: PhaseSeries) -> Figure:
    """Draw patterns as an image, weight shares with their intervals, and probabilities, frame by frame."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.3, 1.0))
    image, shares = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
    chances = figure.add_subplot(grid[1, 1], sharex=shares)
    figure.suptitle(textwrap.fill(series.verdict, WIDE), fontsize=9, color=INK, ha="left", x=0.01)
    x = series.selections[0].even.x
    height = [np.sqrt(np.maximum(np.interp(x, s.even.x, s.even.y), 0.0)) for s in series.selections]
    image.pcolormesh(x, series.at, np.array(height), cmap="Greys", rasterized=True)
    image.set_xlabel("2θ (degrees)")
    image.set_ylabel(series.label)
    for n, phase in enumerate(series.phases):
        color = COMPONENTS[n % len(COMPONENTS)]
        middle, low, high = phase.weight.T
        shares.plot(series.at, middle, color=color, label=phase.name)
        shares.fill_between(series.at, low, high, color=color, alpha=0.25, lw=0)
        chances.plot(series.at, phase.frames, color=color)
        for place in (phase.appears, phase.disappears):
            if place is not None:
                image.axhline(series.at[place], color=color, lw=1.0, ls="--")
                chances.axvline(series.at[place], color=color, lw=0.7, ls="--")
    if series.phases:
        shares.legend(fontsize=8, frameon=False)
    shares.set_ylabel("share of the crystalline weight")
    shares.tick_params(labelbottom=False)
    chances.set_ylabel("p(present | all frames)")
    chances.set_xlabel(series.label)
    for axes in (image, shares, chances):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
