"""The answer as pictures: data and best model with the models' probabilities, parameters in pairs, and chains."""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import WORST_R_HAT, split_r_hat
from bluesky_bayes.noise import SIGMA, Poisson
from bluesky_bayes.posterior import Fit, Posterior, summarise
from bluesky_bayes.tables import by_component, component_of, probability, rounded
from bluesky_bayes.tasks import groups_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bluesky_bayes.model import Model
    from bluesky_bayes.noise_scan import NoiseScan
    from bluesky_bayes.selection import Selection
    from bluesky_bayes.series import FrameSeries

INK, DETAILS, WARNING, POINTS = "#222222", "#5a5a5a", "#a33b00", "#5b6770"
MODEL, BAND, CORE, OTHERS = "#c8102e", "#f1c3cb", "#dd7584", "#b9c4cc"
COMPONENTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
SELECTION_SIZE = (10.0, 5.8)
MOST_ERROR_BARS = 150
SMOOTH, MOST_CURVES = 400, 200
BACKGROUND = "background"
HEADLINE_WIDTH, DETAILS_WIDTH, NAME_WIDTH = 98, 125, 16
FEWEST_ROWS, LEGEND_ROWS, MOST_LINES, NARROW = 6, 10, 24, 3.0
"""Of the panel of probabilities; below what ratio of its ends an axis of noise has even ticks."""
MOST_PARAMETERS = 10
PANEL, CORNER, NARROWEST = (1.45, 2.6), 6.0, 6.5
"""Inches: side of a panel, least and most, side of them all at least if they may, and least width of a figure."""
ROW, TRACE_WIDTH = 1.4, 10.0
LEFT, RIGHT, TOP, BOTTOM = 1.15, 0.25, 1.0, 1.0
"""Inches around the panels."""
DIGITS, LONG = (8, 15), 22
"""Fewest and most digits of a tick; characters of an interval from which on it takes two lines."""
CHARACTER, USUAL = 0.067, 7
"""Inches of a tick's character, and how many there is room for."""
BINS, SMOOTHING, TAIL = (14, 40), 1.3, 0.002


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

    figure = Figure(figsize=SELECTION_SIZE, layout="constrained")
    draw_selection(figure, selection)
    return figure


def draw_selection(figure: Figure, selection: Selection, before: str = "") -> None:
    """Draw what `plot_selection` draws into an empty figure, with a few words before the verdict."""
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 1), height_ratios=(3.2, 1))
    curves = figure.add_subplot(grid[0, 0])
    residuals = figure.add_subplot(grid[1, 0], sharex=curves)
    _draw_curves(curves, selection)
    _draw_residuals(residuals, selection)
    _draw_probabilities(figure.add_subplot(grid[:, 1]), selection)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    headline, _, details = selection.verdict.partition("; ")
    figure.suptitle(textwrap.fill(before + headline, HEADLINE_WIDTH), x=0.01, ha="left", fontsize=12.0, weight="bold")
    color = DETAILS if selection.trustworthy else WARNING
    curves.set_title(textwrap.fill(details, DETAILS_WIDTH), loc="left", fontsize=9.5, color=color)
    figure.align_ylabels([curves, residuals])


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
    parts = {term.label: term.curves(x, draws) for term in best.model.terms}
    total = sum(parts.values(), np.zeros((1, SMOOTH)))
    if isinstance(selection.noise, Poisson):
        total = np.maximum(total, 0.0)
    low, high = np.quantile(total, (0.025, 0.975), axis=0)
    terms = {label: part.mean(axis=0) for label, part in parts.items()}
    return x, Fit(total.mean(axis=0), low, high, terms, residual=np.empty(0))


def _few(values: Array) -> Array:
    few: Array = values[np.linspace(0, values.size - 1, min(values.size, MOST_CURVES)).astype(np.intp)]
    return few


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
    most = max(1, MOST_LINES // max(len(p), FEWEST_ROWS))
    names = [textwrap.fill(name, NAME_WIDTH, max_lines=most, placeholder=" …") for name in selection.names]
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(p), FEWEST_ROWS) - 0.5, -0.5)
    axes.set_xlim(0, 1.6)
    axes.set_xticks([0, 0.5, 1])
    axes.spines["bottom"].set_bounds(0, 1)
    axes.set_xlabel("p(model | data)", loc="left")


def plot_noise_scan(scan: NoiseScan) -> Figure:
    """Free energy of each model against the size of the noise, with the best of each marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    free_energy = -scan.log_evidence
    lowest = float(free_energy.min())
    for name, curve, error in zip(scan.names, free_energy, scan.log_evidence_error, strict=True):
        best = int(np.argmin(curve))
        (line,) = axes.plot(scan.sigma, curve - lowest + 1.0, label=f"{name}: {scan.sigma[best]:.3g}")
        axes.fill_between(scan.sigma, curve - error - lowest + 1.0, curve + error - lowest + 1.0, alpha=0.3, lw=0)
        axes.plot(scan.sigma[best], curve[best] - lowest + 1.0, "o", color=line.get_color())
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="standard deviation of the noise (unit of y)",
        ylabel="minus log evidence above the lowest, plus 1 (nats)",
    )
    narrow = scan.sigma[-1] < NARROW * scan.sigma[0]
    axes.xaxis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(title="model: best noise", frameon=False)
    model, sigma = scan.best
    axes.set_title(f"{model}, noise {sigma:.3g}", loc="left")
    return figure


def plot_series(found: FrameSeries, parameter: str = "") -> Figure:
    """Draw, along a series, each model's probability, that of each frame to be the first of the new model, and values.

    Points are frames by themselves, lines all frames together.

    Raises
    ------
    ValueError
        When no model has such a parameter.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = _tracks(found, parameter)
    rows = 2 + bool(names)
    figure = Figure(figsize=(8.0, 1.2 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True)
    if names:
        _draw_tracks(panels[0], found, names)
        answers = zip(found.selections, found.models, strict=True)
        unit = next(filter(None, (s[model].unit(names[0], s.data.units) for s, model in answers)), "")
        panels[0].set_ylabel(f"{parameter} ({unit})" if unit else parameter)
    change = found.change
    for model, color in zip(range(len(found.names)), itertools.cycle(COMPONENTS), strict=False):
        panels[-2].plot(found.at, found.probabilities[:, model], ".", color=color, markersize=4.5)
        panels[-2].plot(found.at, change.models[:, model], color=color, linewidth=1.4, label=found.names[model])
    panels[-2].set_ylabel("p(model)")
    panels[-2].legend(frameon=False, fontsize=9.0)
    panels[-1].bar(found.at, change.frames, 0.9 * float(np.median(np.abs(np.diff(found.at)))), color=MODEL)
    panels[-1].set_ylabel("p(first frame of\nthe new model)")
    panels[-1].set_xlabel(found.label)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=bool(np.all(found.at % 1.0 == 0.0))))
    for axes in panels[-2:]:
        axes.set_ylim(-0.04, 1.04)
    for axes in panels:
        axes.tick_params(direction="in")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(found.verdict, x=0.01, ha="left", fontsize=11.0, weight="bold")
    return figure


def _tracks(found: FrameSeries, parameter: str) -> list[str]:
    """Names that a parameter's name stands for, in any of the frames' models."""
    if not parameter:
        return []
    posteriors = [s[model] for s, model in zip(found.selections, found.models, strict=True)]
    every = dict.fromkeys(name for posterior in posteriors for name in _all_draws(posterior))
    names = [name for name in every if parameter in (name, name.rsplit(".", 1)[-1])]
    if not names:
        raise ValueError(f"no model of the series has a parameter {parameter!r}; there are {', '.join(every)}")
    return names


def _draw_tracks(axes: Axes, found: FrameSeries, names: Sequence[str]) -> None:
    for name, color in zip(names, itertools.cycle(COMPONENTS), strict=False):
        mean, deviation = found.track(name)
        axes.errorbar(found.at, mean, 2.0 * deviation, fmt=".", color=color, markersize=4, elinewidth=0.8, label=name)
    axes.legend(frameon=False, fontsize=9.0)


def _padded(x: Array) -> tuple[float, float]:
    margin = 0.015 * float(np.ptp(x))
    return float(x.min()) - margin, float(x.max()) + margin


def plot_corner(selection: Selection, model: str | None = None, names: Sequence[str] | None = None) -> Figure:
    """Draw the posterior of a model's parameters, one by one with their priors and in pairs.

    Parameters
    ----------
    selection : Selection
    model : str, optional
        The best model by default.
    names : sequence of str, optional
        Parameters and derived quantities to draw. By default all parameters; of more than ten those of the first
        components, and the title says so.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    KeyError
        When there is no such model.
    ValueError
        When the model has no parameters, or none of such a name.
    """
    from matplotlib.figure import Figure

    posterior = selection.best if model is None else selection[model]
    shown, left_out = _shown(posterior, names)
    n = len(shown)
    draws = {name: values.ravel() for name, values in _all_draws(posterior).items()}
    left, bottom = (edge + _room_of_numbers([draws[name] for name in shown]) for edge in (LEFT, BOTTOM))
    side = n * float(np.clip(CORNER / n, *PANEL))
    width, height = max(left + side + RIGHT, NARROWEST), TOP + side + bottom
    figure = Figure(figsize=(width, height))
    edges = {"left": left / width, "right": (left + side) / width}
    grid = figure.add_gridspec(n, n, **edges, bottom=bottom / height, top=1 - TOP / height, wspace=0.1, hspace=0.1)
    for row, below in enumerate(shown):
        for column, name in enumerate(shown[: row + 1]):
            axes = figure.add_subplot(grid[row, column])
            if row == column:
                _draw_histogram(axes, posterior.model, name, draws[name])
            else:
                _draw_pair(axes, draws[name], draws[below])
            _label_panel(axes, selection, posterior, name, below if 0 == column < row else None, row == n - 1)
    figure.align_labels()
    _head(figure, selection, posterior, left_out)
    _corner_legend(figure, priors=not posterior.model.priors.keys().isdisjoint(shown), pairs=n > 1)
    return figure


def plot_trace(selection: Selection, model: str | None = None, names: Sequence[str] | None = None) -> Figure:
    """Draw each chain's draws of a model's parameters in their order, with each chain's density beside them.

    Chains that have mixed look alike, and R-hat is near one. Parameters and errors are those of `plot_corner`.
    """
    from matplotlib.figure import Figure

    posterior = selection.best if model is None else selection[model]
    shown, left_out = _shown(posterior, names)
    width, height = TRACE_WIDTH, TOP + ROW * len(shown) + 0.5 * BOTTOM
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        len(shown), 2, width_ratios=(4, 1), wspace=0.03, hspace=0.5,
        left=LEFT / width, right=1 - RIGHT / width, bottom=0.5 * BOTTOM / height, top=1 - TOP / height,
    )  # fmt: skip
    for row, name in enumerate(shown):
        trace = figure.add_subplot(grid[row, 0])
        density = figure.add_subplot(grid[row, 1], sharey=trace)
        values = _all_draws(posterior)[name]
        _draw_chains(trace, density, values)
        r_hat = float(split_r_hat(values))
        color = WARNING if r_hat > WORST_R_HAT else INK
        label = _label(selection, posterior, name).replace("\n", " ")
        trace.set_title(f"{label}: R-hat {r_hat:.3f}", loc="left", fontsize=9.0, color=color, pad=3)
        for axes in (trace, density):
            axes.tick_params(direction="in", labelsize=8.0, labelbottom=row == len(shown) - 1)
    trace.set_xlabel("draw")
    density.set_xlabel("density of each chain")
    _head(figure, selection, posterior, left_out)
    return figure


def _all_draws(posterior: Posterior) -> dict[str, Array]:
    return {**posterior.draws, **posterior.derived}


def _shown(posterior: Posterior, names: Sequence[str] | None) -> tuple[list[str], str]:
    """Parameters to draw, component by component, and what to say of those left out."""
    known = list(_all_draws(posterior))
    if not known:
        raise ValueError(f"model {posterior.model.name!r} has no parameters to draw; choose another with model=")
    if names is not None:
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(
                f"model {posterior.model.name!r} has no parameters {unknown}; names= takes some of {', '.join(known)}"
            )
        return list(names), ""
    every = by_component(list(posterior.draws) or known)
    if len(every) <= MOST_PARAMETERS:
        return every, ""
    cuts = [i for i in range(1, MOST_PARAMETERS + 1) if component_of(every[i]) != component_of(every[i - 1])]
    first = every[: max(cuts, default=MOST_PARAMETERS)]
    return first, f"the first {len(first)} of {len(every)} parameters; choose with names="


def _label(selection: Selection, posterior: Posterior, name: str) -> str:
    unit = posterior.unit(name, selection.data.units)
    return f"{name}\n({unit})" if unit else name


def _head(figure: Figure, selection: Selection, posterior: Posterior, left_out: str) -> None:
    """Model and its probability above, sampling and what was left out below."""
    i = selection.names.index(posterior.model.name)
    p = probability(selection.probabilities[i], selection.probability_errors[i])
    chains, draws = next(iter(_all_draws(posterior).values())).shape
    scan = f"scan {selection.data.origin.scan_id}, " if selection.data.origin.scan_id is not None else ""
    details = f"{scan}{chains} chains of {draws} draws" + (f"; {left_out}" if left_out else "")
    width, height = figure.get_size_inches()
    figure.text(0.2 / width, 1 - 0.3 / height, f"{posterior.model.name}, p = {p}", fontsize=12.0, weight="bold")
    figure.text(0.2 / width, 1 - 0.55 / height, details, fontsize=9.5, color=DETAILS)


def _corner_legend(figure: Figure, priors: bool, pairs: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=BAND, label="posterior"),
        Line2D([], [], color=MODEL, label="median"),
        Line2D([], [], color=MODEL, linestyle=":", label="95 % interval"),
    ]
    if priors:
        handles.append(Line2D([], [], color=INK, linewidth=1.0, label="prior"))
    if pairs:
        handles += [Patch(facecolor=CORE, label="half of the draws"), Patch(facecolor=BAND, label="95 % of the draws")]
    width, height = figure.get_size_inches()
    corner = (1 - RIGHT / width, 1 - TOP / height)
    figure.legend(handles=handles, frameon=False, fontsize=9.0, loc="upper right", bbox_to_anchor=corner)


def _label_panel(
    axes: Axes, selection: Selection, posterior: Posterior, name: str, below: str | None, last: bool
) -> None:
    """Ticks everywhere, numbers and names at the outer panels only."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        _number_ticks(axis)
    axes.tick_params(direction="in", labelsize=8.0, labelbottom=last, labelleft=below is not None)
    axes.tick_params(axis="x", labelrotation=45)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    if axes.get_yticks().size:
        axes.yaxis.set_major_locator(MaxNLocator(3))
    if last:
        axes.set_xlabel(_label(selection, posterior, name), fontsize=8.5)
    if below is not None:
        axes.set_ylabel(_label(selection, posterior, below), fontsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)


def _room_of_numbers(draws: Sequence[Array]) -> float:
    """Inches that ticks take beyond those of usual length."""
    longest = max(len(rounded(high, high - low)) for low, high in map(_range, draws))
    return CHARACTER * max(longest - USUAL, 0)


def _number_ticks(axis: Any) -> None:
    """Ticks in full, with the digits by which they differ: a common offset would stand in the next panel."""

    def number(value: float, _: Any) -> str:
        low, high = axis.get_view_interval()
        differ = math.log10(max(abs(low), abs(high), 1e-300) / max(high - low, 1e-300))
        return f"{value:.{int(np.clip(differ + 3.0, *DIGITS))}g}"

    axis.set_major_formatter(number)


def _draw_histogram(axes: Axes, model: Model, name: str, values: Array) -> None:
    density, edges = np.histogram(values, _bins(values), _range(values), density=True)
    axes.stairs(density, edges, fill=True, color=BAND)
    summary = summarise(values)
    axes.axvline(summary.median, color=MODEL, linewidth=1.4)
    for edge in (summary.low, summary.high):
        axes.axvline(edge, color=MODEL, linewidth=1.0, linestyle=":")
    x = np.linspace(edges[0], edges[-1], SMOOTH)
    top = float(density.max())
    if name in model.priors:
        prior = prior_density(model, name, x)
        axes.plot(x, prior, color=INK, linewidth=1.0)
        top = max(top, min(float(prior.max()), 2.0 * top))
    axes.set_ylim(0, 1.1 * top)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yticks([])
    ends = rounded(summary.low, summary.sd), rounded(summary.high, summary.sd)
    interval = (" to\n" if len("".join(ends)) > LONG else " to ").join(ends)
    axes.set_title(f"{rounded(summary.median, summary.sd)}\n{interval}", fontsize=8.0, pad=3)


def _draw_pair(axes: Axes, x: Array, y: Array) -> None:
    """Where half and 95 % of the draws are densest."""
    from scipy.ndimage import gaussian_filter

    counts, x_edges, y_edges = np.histogram2d(x, y, _bins(x), (_range(x), _range(y)))
    density = gaussian_filter(counts, SMOOTHING)
    falling = np.sort(density.ravel())[::-1]
    enclosed = np.cumsum(falling) / falling.sum()
    outer, inner = falling[np.searchsorted(enclosed, (0.95, 0.5))]
    middles = [0.5 * (edges[1:] + edges[:-1]) for edges in (x_edges, y_edges)]
    axes.contourf(*middles, density.T, (outer, inner, 1.001 * falling[0]), colors=(BAND, CORE))
    axes.set_xlim(x_edges[0], x_edges[-1])
    axes.set_ylim(y_edges[0], y_edges[-1])


def _draw_chains(trace: Axes, density: Axes, chains: Array) -> None:
    from scipy.ndimage import gaussian_filter1d

    span, bins = _range(chains), _bins(chains)
    for values, color in zip(chains, itertools.cycle(COMPONENTS), strict=False):
        trace.plot(values, color=color, linewidth=0.6, alpha=0.7)
        heights, edges = np.histogram(values, bins, span, density=True)
        density.plot(gaussian_filter1d(heights, SMOOTHING), 0.5 * (edges[1:] + edges[:-1]), color=color, linewidth=1.0)
    trace.set_xlim(0, chains.shape[1] - 1)
    _number_ticks(trace.yaxis)
    density.set_xlim(left=0)
    density.tick_params(labelleft=False)
    density.set_xticks([])
    for axes in (trace, density):
        axes.spines[["top", "right"]].set_visible(False)


def prior_density(model: Model, name: str, x: Array) -> Array:
    """Prior density of a parameter at `x`; of one that exchangeable components are ordered by, that of its place.

    The k-th smallest of n independent values has the density f(x) Beta(F(x); k, n - k + 1).
    """
    from scipy import stats

    prior: Any = model.priors[name]
    density: Array = prior.pdf(x)
    column = model.parameters.index(name)
    for group in groups_of(model):
        places = group.columns[:, group.location].tolist()
        if column in places:
            k = places.index(column) + 1
            density = density * stats.beta(k, len(places) - k + 1).pdf(prior.cdf(x))
    return density


def _bins(values: Array) -> int:
    fewest, most = BINS
    return int(np.clip(np.sqrt(values.size) / 1.5, fewest, most))


def _range(values: Array) -> tuple[float, float]:
    """All but the outermost draws, with a margin."""
    low, high = (float(edge) for edge in np.quantile(values, (TAIL, 1 - TAIL)))
    margin = 0.06 * (high - low) or 0.5 * abs(low) or 0.5
    return low - margin, high + margin
