"""How many components of your own: any shape, with a position or without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bluesky_bayes.candidates import Candidates, family, listed_counts
from bluesky_bayes.components import Component
from bluesky_bayes.model import Slot
from bluesky_bayes.recipes import component_named, recipe_of


def own(
    shape: str | Component,
    counts: Iterable[int] = range(0, 4),
    noun: str | None = None,
    background: str | int | None = "constant",
    priors: Mapping[str, Any] | None = None,
    shared: Sequence[str] = (),
    fixed: Mapping[str, float] | None = None,
    ties: Mapping[str, Slot] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates with different numbers of a component of your own, for recipes.

    Parameters
    ----------
    shape : str or Component
        Where the component is: ``"my_shapes.py:decay"`` or ``"my_package.shapes:decay"``, see
        `bluesky_bayes.recipes.component_named`; a recipe with a name in it runs that code. A component itself works
        too, but cannot be saved in a recipe.
    counts : iterable of int
        Numbers of it in question, from 0 up.
    noun : str, optional
        What one of them is called; the component's name by default.
    background, priors, shared, fixed, ties, probabilities
        As in `bluesky_bayes.families.peaks`.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        When the component is not found, or what `bluesky_bayes.candidates.family` refuses.

    Examples
    --------
    >>> own("bluesky_bayes.shapes:lorentzian", counts=[1, 2], noun="resonance").names
    ('1 resonance', '2 resonances')
    """
    counts = listed_counts(counts)
    arguments = {
        "shape": shape, "counts": counts, "noun": noun, "background": background, "shared": shared, "fixed": fixed,
        "ties": ties, "priors": priors, "probabilities": probabilities,
    }  # fmt: skip
    return family(
        component_named(shape) if isinstance(shape, str) else shape,
        counts,
        background=background,
        priors=priors,
        noun=noun,
        shared=shared,
        fixed=fixed,
        ties=ties,
        probabilities=probabilities,
        recipe=recipe_of("own", arguments),
    )
