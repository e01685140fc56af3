"""The answer as a picture: data, best model and its band, residuals, and the probability of each model."""

from __future__ import annotations

import itertools
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_bayes.dataset import Array
from bluesky_bayes.noise import SIGMA, Poisson
from bluesky_bayes.posterior import Fit
from bluesky_bayes.tables import probability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bluesky_bayes.model import Term
    from bluesky_bayes.selection import Selection

INK, DETAILS, WARNING, POINTS = "#222222", "#5a5a5a", "#a33b00", "#5b6770"
MODEL, BAND, OTHERS = "#c8102e", "#f1c3cb", "#b9c4cc"
COMPONENTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
MOST_ERROR_BARS = 150
SMOOTH, MOST_CURVES = 400, 200
BACKGROUND = "background"
HEADLINE_WIDTH, DETAILS_WIDTH, NAME_WIDTH = 98, 125, 16
FEWEST_ROWS, LEGEND_ROWS = 6, 10


def plot_selection(selection: Selection) -> Figure:
    """Draw data and best model, residuals, and p(model | data).

    Parameters
    ----------
    selection : Selection

    Returns
    -------
    matplotlib.figure.Figure
        Outside pyplot: nothing to close, safe in any thread, shown by notebooks; ``figure.savefig(path)`` writes it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 5.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 1), height_ratios=(3.2, 1))
    curves = figure.add_subplot(grid[0, 0])
    residuals = figure.add_subplot(grid[1, 0], sharex=curves)
    _draw_curves(curves, selection)
    _draw_residuals(residuals, selection)
    _draw_probabilities(figure.add_subplot(grid[:, 1]), selection)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    headline, _, details = selection.verdict.partition("; ")
    figure.suptitle(textwrap.fill(headline, HEADLINE_WIDTH), x=0.01, ha="left", fontsize=12.0, weight="bold")
    color = DETAILS if selection.trustworthy else WARNING
    curves.set_title(textwrap.fill(details, DETAILS_WIDTH), loc="left", fontsize=9.5, color=color)
    figure.align_ylabels([curves, residuals])
    return figure


def point_errors(selection: Selection) -> Array:
    """Error bar of each point, (n,): that of its counts, else the noise's sigma, known or inferred."""
    data, noise = selection.data, selection.noise
    if isinstance(noise, Poisson):
        return noise.scale * np.sqrt(noise.counts(data))
    sigma = selection.best.parameters[SIGMA].median if noise.sigma is None else noise.sigma
    return np.broadcast_to(np.asarray(sigma, dtype=np.float64), data.y.shape)


def curve_of(selection: Selection) -> tuple[Array, Fit]:
    """Give the best model's curve and the x it is at: the data's own, or closer ones where these are few.

    Expected counts of points that were exposed differently lie on no smooth curve: there it is the data's x, too.
    """
    data, best = selection.data, selection.best
    if data.n >= SMOOTH or getattr(selection.noise, "exposure", None) is not None:
        return data.x, best.fit
    x = np.linspace(data.x.min(), data.x.max(), SMOOTH)
    draws = {name: _few(values.ravel())[:, None] for name, values in best.draws.items()}
    parts = {term.label: _term_curves(term, x, draws) for term in best.model.terms}
    total = sum(parts.values(), np.zeros((1, SMOOTH)))
    low, high = np.quantile(total, (0.025, 0.975), axis=0)
    terms = {label: part.mean(axis=0) for label, part in parts.items()}
    return x, Fit(total.mean(axis=0), low, high, terms, residual=np.empty(0))


def _few(values: Array) -> Array:
    few: Array = values[np.linspace(0, values.size - 1, min(values.size, MOST_CURVES)).astype(np.intp)]
    return few


def _term_curves(term: Term, x: Array, draws: Mapping[str, Array]) -> Array:
    """One component's curve for each draw, (n_draws, n_x)."""
    values = (
        slot.offset if slot.parameter is None else slot.scale * draws[slot.parameter] + slot.offset
        for slot in term.slots
    )
    curves: Array = np.atleast_2d(term.component(x, *values))
    return curves


def _draw_curves(axes: Axes, selection: Selection) -> None:
    data, model = selection.data, selection.best.model
    x, fit = curve_of(selection)
    handles: list[Any] = [_draw_points(axes, selection)]
    handles += axes.plot(x, fit.mean, color=MODEL, linewidth=1.8, label=model.name, zorder=4)
    handles.append(axes.fill_between(x, fit.low, fit.high, color=BAND, linewidth=0, label="95 % band"))
    below = [term.label for term in model.terms if term.component.name == BACKGROUND]
    background = sum((fit.terms[label] for label in below), np.zeros(x.size))
    curves = {label: background + curve for label, curve in fit.terms.items() if label not in below}
    if below:
        curves[BACKGROUND] = background
    for (label, curve), color in zip(curves.items(), itertools.cycle(COMPONENTS), strict=False):
        handles += axes.plot(x, curve, color=color, linewidth=1.0, label=label)
    axes.set_ylabel(data.label("y"))
    axes.tick_params(direction="in", labelbottom=False)
    axes.set_xlim(*_padded(data.x))
    legend = axes.legend(handles=handles, frameon=False, fontsize=9.0, ncols=1 + len(handles) // LEGEND_ROWS)
    if data.origin.scan_id is not None:
        legend.set_title(f"scan {data.origin.scan_id}")
        legend.set_alignment("left")


def _draw_points(axes: Axes, selection: Selection) -> Any:
    data = selection.data
    if data.n > MOST_ERROR_BARS:
        return axes.plot(data.x, data.y, ".", color=POINTS, markersize=3.5, label="data")[0]
    errors = point_errors(selection)
    return axes.errorbar(data.x, data.y, errors, fmt="o", color=POINTS, markersize=3.5, elinewidth=0.8, label="data")


def _draw_residuals(axes: Axes, selection: Selection) -> None:
    from matplotlib.ticker import MaxNLocator

    residual = selection.best.fit.residual
    axes.axhspan(-2, 2, color=POINTS, alpha=0.1, linewidth=0)
    axes.axhline(0, color=MODEL, linewidth=1.0)
    axes.plot(selection.data.x, residual, ".", color=POINTS, markersize=3.5)
    limit = max(4.0, 1.15 * float(np.abs(residual).max()))
    axes.set_ylim(-limit, limit)
    axes.tick_params(direction="in")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel(selection.data.label("x"))
    axes.set_ylabel(r"residual ($\sigma$)")


def _draw_probabilities(axes: Axes, selection: Selection) -> None:
    p, errors = selection.probabilities, selection.probability_errors
    rows = np.arange(len(p))
    colors = [MODEL if row == selection.best_index else OTHERS for row in rows]
    bars = {"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5}
    axes.barh(rows, p, xerr=errors, color=colors, height=0.6, error_kw=bars)
    for row, value, error in zip(rows, p, errors, strict=True):
        axes.text(value + error + 0.03, float(row), probability(value, error), va="center", fontsize=9.0)
    axes.set_yticks(rows, [textwrap.fill(name, NAME_WIDTH) for name in selection.names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(p), FEWEST_ROWS) - 0.5, -0.5)
    axes.set_xlim(0, 1.6)
    axes.set_xticks([0, 0.5, 1])
    axes.spines["bottom"].set_bounds(0, 1)
    axes.set_xlabel("p(model | data)", loc="left")


def _padded(x: Array) -> tuple[float, float]:
    margin = 0.015 * float(np.ptp(x))
    return float(x.min()) - margin, float(x.max()) + margin
