"""X-ray absorption near an edge: the step, its white line, and peaks with priors of their own below and above it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.candidates import Candidates, Kind, combinations
from bluesky_bayes.components import component
from bluesky_bayes.dataset import Array
from bluesky_bayes.posterior import Summary, summarise
from bluesky_bayes.priors import Prior
from bluesky_bayes.recipes import recipe_of
from bluesky_bayes.shapes import FWHM, arctan, erfc, gaussian, lorentzian

if TYPE_CHECKING:
    from bluesky_bayes.selection import Selection

BELOW, ABOVE, WHITE_LINE = "pre-edge peak", "post-edge peak", "white line"
NARROWEST, WIDEST = 1 / 30, 1 / 3
"""Least and largest sigma of a peak, in parts of the range in which it may lie: the width between is free."""
N_GRID, N_CURVES = 600, 200
"""Energies and draws from which the energy of the edge is told."""
ERF_SCALE = FWHM / math.sqrt(2.0)
EDGE_ROLES = {"e0": "location", "width": "width"}


@component(name="edge", amplitude="step", roles=EDGE_ROLES, sort_by="e0")
def arctan_edge(x: float, e0: float, width: float) -> float:
    """Arctangent: 1/2 + arctan(2 (x - e0) / width) / pi; its slope is a Lorentzian of full width `width`."""
    return 0.5 + arctan(2.0 * (x - e0) / width) / math.pi


@component(name="edge", amplitude="step", roles=EDGE_ROLES, sort_by="e0")
def erf_edge(x: float, e0: float, width: float) -> float:
    """Error function: (1 + erf(u)) / 2; its slope is a Gaussian of full width at half maximum `width`."""
    return 0.5 * erfc(ERF_SCALE * (e0 - x) / width)


EDGES = {"arctan": arctan_edge, "erf": erf_edge}


def xanes(
    edge: Sequence[float],
    below: Sequence[float] = (),
    n_below: Iterable[int] = (0, 1, 2, 3),
    above: Sequence[float] = (),
    n_above: Iterable[int] = (0, 1, 2),
    white_line: Sequence[float] = (),
    shape: str = "arctan",
    background: str | int | None = "linear",
    priors: Mapping[str, Any] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates with different numbers of peaks below and above an absorption edge.

    Energies are in the unit of the data's x, eV or keV.

    Parameters
    ----------
    edge : (float, float)
        Where the edge's ``e0`` may lie: its prior is uniform there.
    below, above : (float, float), optional
        Where Gaussian peaks below and above the edge may lie. Left out, there are none.
    n_below, n_above : iterable of int
        Their numbers in question: all combinations are candidates.
    white_line : (float, float), optional
        Where a Lorentzian may lie that every model then has.
    shape : {"arctan", "erf"}
        Of the edge, of height ``step``; ``width`` is the full width at half maximum of its slope.
    background : {"constant", "linear", "quadratic", "cubic"}, int or None
        As in `peaks`.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By ``"edge.step"``, ``"edge.width"``, ``"pre-edge peak.amplitude"``, ``"post-edge peak.sigma"``,
        ``"white line.gamma"`` and the like. By default centers are uniform in the ranges, sigmas of peaks log-uniform
        from a thirtieth to a third of their range, and others come from the data's range.
    probabilities : sequence of float, optional
        Prior probability of each model; equal by default. The number of peaks above changes fastest.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For an unknown shape or background, a range that is none, or priors that nothing uses.

    References
    ----------
    Kashiwamura et al., "Bayesian Spectral Deconvolution of X-Ray Absorption Near Edge Structure Discriminating High-
    and Low-Energy Domain", J. Phys. Soc. Jpn. 91 (2022).

    Examples
    --------
    >>> xanes(edge=(7118, 7130), below=(7108, 7118), n_below=[0, 1, 2]).names
    ('no pre-edge peak', '1 pre-edge peak', '2 pre-edge peaks')
    """
    from scipy import stats

    if shape not in EDGES:
        raise ValueError(f"shape of the edge must be one of {', '.join(map(repr, EDGES))}; got {shape!r}")
    n_below, n_above = list(n_below), list(n_above)
    arguments = {
        "edge": list(edge), "below": list(below), "n_below": n_below, "above": list(above), "n_above": n_above,
        "white_line": list(white_line), "shape": shape, "background": background, "priors": priors,
        "probabilities": probabilities,
    }  # fmt: skip
    kinds, defaults = [Kind(EDGES[shape])], {"edge.e0": _within("edge", edge)}
    if len(white_line):
        kinds.append(Kind(lorentzian, noun=WHITE_LINE))
        defaults[f"{WHITE_LINE}.center"] = _within("white_line", white_line)
    for name, noun, span, counts in (("below", BELOW, below, n_below), ("above", ABOVE, above, n_above)):
        if len(span):
            kinds.append(Kind(gaussian, counts, noun))
            defaults[f"{noun}.center"] = _within(name, span)
            width = span[1] - span[0]
            defaults[f"{noun}.sigma"] = stats.loguniform(NARROWEST * width, WIDEST * width)
    return combinations(
        kinds,
        background=background,
        priors=defaults | dict(priors or {}),
        probabilities=probabilities,
        recipe=recipe_of("xanes", arguments),
    )


def _within(name: str, span: Sequence[float]) -> Prior:
    """Uniform prior of an energy."""
    from scipy import stats

    if len(span) != 2 or not span[0] < span[1]:
        raise ValueError(f"{name} must be two energies, the lower first; got {list(span)}")
    prior: Prior = stats.uniform(span[0], span[1] - span[0])
    return prior


def edge_energy(selection: Selection, model: str | None = None) -> Summary:
    """Where a model's curve rises most steeply, with the uncertainty of the posterior.

    The ``e0`` of the edge's own step depends on what else is in the model: a white line beside it moves it by
    electronvolts. The largest slope is that of the whole curve.

    Parameters
    ----------
    selection : Selection
        With candidates of `xanes`.
    model : str, optional
        The best one by default.

    Returns
    -------
    Summary
        In the unit of x.
    """
    posterior = selection.best if model is None else selection[model]
    x = np.linspace(selection.data.x[0], selection.data.x[-1], N_GRID)
    draws = {name: _thinned(values)[:, None] for name, values in posterior.draws.items()}
    curves: Array = np.sum([term.curves(x, draws) for term in posterior.model.terms], axis=0)
    return summarise([_top(x, np.gradient(curve, x)) for curve in curves])


def _thinned(values: Array) -> Array:
    flat = values.ravel()
    some: Array = flat[np.linspace(0, flat.size - 1, min(flat.size, N_CURVES)).astype(np.intp)]
    return some


def _top(x: Array, slope: Array) -> float:
    """Where a sampled curve is highest, by the parabola through three points."""
    i = int(np.clip(np.argmax(slope), 1, x.size - 2))
    before, at, after = slope[i - 1 : i + 2]
    bend = before - 2 * at + after
    return float(x[i] + (0.5 * (before - after) / bend if bend < 0 else 0.0) * (x[1] - x[0]))


def iron_oxide(energy: npt.ArrayLike) -> Array:
    """Simulated absorption near the K-edge of iron: two peaks below an arctan edge at 7123 eV, and a white line.

    Parameters
    ----------
    energy : array_like
        eV.

    Returns
    -------
    float64 of the same shape
        The step is 1; the peaks at 7112.8 and 7114.8 eV are 0.12 and 0.08 high.
    """
    e = np.asarray(energy, dtype=np.float64)
    curve = 0.5 + np.arctan(2 * (e - 7123.0) / 4.0) / np.pi + 0.6 / (1 + ((e - 7131.0) / 3.0) ** 2)
    for height, center, sigma in ((0.12, 7112.8, 0.7), (0.08, 7114.8, 0.7)):
        curve = curve + height * np.exp(-0.5 * ((e - center) / sigma) ** 2)
    return np.asarray(curve)
