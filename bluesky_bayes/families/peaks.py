"""How many peaks: sums of Gaussians, Lorentzians or pseudo-Voigts on a background."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bluesky_bayes.candidates import Candidates, family, listed_counts
from bluesky_bayes.components import Component
from bluesky_bayes.model import Slot
from bluesky_bayes.priors import check_bounds, check_prior
from bluesky_bayes.recipes import component_named, recipe_of
from bluesky_bayes.shapes import PEAKS, gaussian_precision


def peaks(
    shape: str | Component = "gaussian",
    counts: Iterable[int] = range(0, 4),
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    width: str | None = None,
    shared: Sequence[str] = (),
    fixed: Mapping[str, float] | None = None,
    ties: Mapping[str, Slot] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates with different numbers of peaks.

    Parameters
    ----------
    shape : {"gaussian", "lorentzian", "pseudo-voigt", "voigt"} or Component
        Parameters are ``amplitude`` (height), ``center`` and ``sigma`` (Gaussian), ``gamma`` (Lorentzian, half width
        at half maximum), both of these (Voigt) or ``fwhm`` and ``fraction`` (pseudo-Voigt). A component of your own,
        or its name, ``"my_shapes.py:flat_top"``.
    counts : iterable of int
        Numbers of peaks in question, from 0 up.
    background : {"constant", "linear", "quadratic", "cubic"}, int or None
        ``constant``, or a polynomial with ``c0``, ``c1``, ... in x less the middle of the data's x.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By parameter name. Those left out come from the data's range and are stated in the result.
    width : {"precision"}, optional
        ``"precision"`` replaces a Gaussian's sigma by ``precision = 1 / sigma^2``, the b of Nagata, Sugita and Okada,
        Neural Networks 28, 82 (2012).
    shared : sequence of str, optional
        Parameters that all peaks of a model have in common: ``["sigma"]`` gives them one width, ``peak.sigma``.
    fixed : mapping of str to float, optional
        Parameters that are numbers: ``{"fraction": 0.5}``.
    ties : mapping of str to Slot, optional
        Fixed distances and ratios: ``{"peak2.center": Slot("peak1.center", offset=0.25)}``.
    probabilities : sequence of float, optional
        Prior probability of each count; equal by default.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For an unknown shape, width or background, counts below zero, priors that nothing uses or without support.

    Examples
    --------
    >>> peaks("lorentzian", counts=range(0, 3)).names
    ('no peak', '1 peak', '2 peaks')
    """
    counts = listed_counts(counts)
    numbers = {name for name, value in (fixed or {}).items() if not isinstance(value, Slot)}
    for name, prior in (priors or {}).items():
        base = name.rsplit(".", 1)[-1]
        if base in numbers:
            raise ValueError(f"{name!r} has a prior and is fixed; give one of the two")
        if shape == "pseudo-voigt" and base == "fraction":
            check_bounds(name, check_prior(name, prior), 0.0, 1.0, "a fraction")
    fraction = (fixed or {}).get("fraction", 0.0) if shape == "pseudo-voigt" else 0.0
    if isinstance(fraction, int | float) and not 0.0 <= fraction <= 1.0:
        raise ValueError(f"'fraction' is fixed at {fraction:g}; it must be from 0 to 1")
    arguments = {
        "shape": shape, "counts": counts, "background": background, "width": width, "shared": shared, "fixed": fixed,
        "ties": ties, "priors": priors, "probabilities": probabilities,
    }  # fmt: skip
    return family(
        _component(shape, width),
        counts,
        background=background,
        priors=priors,
        noun="peak",
        shared=shared,
        fixed=fixed,
        ties=ties,
        probabilities=probabilities,
        recipe=recipe_of("peaks", arguments),
    )


def _component(shape: str | Component, width: str | None) -> Component:
    if width not in (None, "precision"):
        raise ValueError(f"width must be left out or 'precision'; got {width!r}")
    if width == "precision":
        if shape != "gaussian":
            raise ValueError(f"width='precision' is for Gaussian peaks; got shape {shape!r}")
        return gaussian_precision
    if isinstance(shape, Component):
        return shape
    if ":" in shape:
        return component_named(shape)
    if shape not in PEAKS:
        raise ValueError(
            f"shape must be one of {', '.join(map(repr, PEAKS))} or a component of your own; got {shape!r}"
        )
    return PEAKS[shape]
