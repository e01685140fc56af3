"""How magnetisation relaxes: exponentials and stretched exponentials, with or without an offset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.candidates import Candidates, Kind, combinations
from bluesky_bayes.components import component
from bluesky_bayes.dataset import Array
from bluesky_bayes.kernels.math import exp
from bluesky_bayes.model import Model
from bluesky_bayes.recipes import recipe_of

FORMS = {"recovery": (1.0, 1.0), "inversion": (1.0, 2.0), "decay": (0.0, -1.0)}
"""``level`` and ``depth`` of the shape ``level - depth exp(-(W t)^beta)``."""
SMS_CHANGE = 100.0
"""Kelvin."""


def _exponential_time(amplitude: Any, rate: Any, level: Any, depth: Any) -> Any:
    return 1.0 / rate


def _stretched_time(amplitude: Any, rate: Any, beta: Any, level: Any, depth: Any) -> Any:
    return 1.0 / rate


@component(roles={"rate": "inverse"}, derived={"T1": _exponential_time}, units={"T1": "x"}, sort_by="rate")
def exponential(x: float, rate: float, level: float, depth: float) -> float:
    """With level and depth of `FORMS`, level - depth exp(-rate x)."""
    return level - depth * exp(-rate * x)


@component(
    name="stretched exponential",
    roles={"rate": "inverse"},
    derived={"T1": _stretched_time},
    units={"T1": "x"},
    sort_by="rate",
)
def stretched(x: float, rate: float, beta: float, level: float, depth: float) -> float:
    """With level and depth of `FORMS`, level - depth exp(-(rate x)^beta)."""
    t = rate * x
    power = exp(beta * math.log(max(t, 1e-30))) if t > 0.0 else 0.0
    return level - depth * exp(-power)


def relaxation(
    form: str = "recovery",
    exponentials: Iterable[int] = (1, 2),
    stretched_exponentials: Iterable[int] = (1,),
    mixed: Iterable[Sequence[int]] = (),
    offset: bool | str = True,
    priors: Mapping[str, Any] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates with different numbers of exponentials and stretched exponentials.

    The magnetisation of component k is ``1 - e_k`` in saturation recovery, ``1 - 2 e_k`` in inversion recovery and
    ``e_k`` in decays, with ``e_k = exp(-(W_k t)^beta_k)``, times its amplitude; beta_k is 1 for an exponential.

    Parameters
    ----------
    form : {"recovery", "inversion", "decay"}
    exponentials : iterable of int
        Models that are sums of so many exponentials, with ``amplitude`` (unit of y) and ``rate`` W (1/unit of t); the
        relaxation time ``T1 = 1/W`` is derived. Several are in the order of their rates.
    stretched_exponentials : iterable of int
        Models that are sums of so many stretched exponentials, which have ``beta``, too.
    mixed : iterable of (int, int)
        Models with so many exponentials and so many stretched ones.
    offset : bool or "both"
        Whether there is a ``constant`` besides; ``"both"`` makes every model with and without it.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By parameter name. ``beta`` is uniform from 0 to 1 by default; others come from the data's range.
    probabilities : sequence of float, optional
        Prior probability of each model; equal by default.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For an unknown form or offset, numbers below one, models that are asked for twice, or priors that nothing uses.

    References
    ----------
    Ueda et al., J. Phys. Soc. Jpn. 92, 054002 (2023).

    Examples
    --------
    >>> relaxation("recovery").names
    ('1 exponential', '1 stretched exponential', '2 exponentials')
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}; got {form!r}")
    if offset not in (True, False, "both"):
        raise ValueError(f"offset must be True, False or 'both'; got {offset!r}")
    exponentials, stretched_exponentials = list(exponentials), list(stretched_exponentials)
    wanted = [(k, 0) for k in exponentials] + [(0, k) for k in stretched_exponentials] + [(a, b) for a, b in mixed]
    _check(wanted)
    arguments = {
        "form": form, "exponentials": exponentials, "stretched_exponentials": stretched_exponentials,
        "mixed": wanted[len(exponentials) + len(stretched_exponentials) :], "offset": offset, "priors": priors,
        "probabilities": probabilities,
    }  # fmt: skip
    wanted.sort(key=sum)
    models: list[Model] = []
    for background in {True: ("constant",), False: (None,), "both": ("constant", None)}[offset]:
        words = " without offset" if offset == "both" and background is None else ""
        models += [replace(m, name=m.name + words) for m in _models(form, wanted, background, priors)]
    return Candidates(tuple(models), tuple(probabilities), recipe_of("relaxation", arguments))


def _check(wanted: Sequence[tuple[int, int]]) -> None:
    if not wanted or len(set(wanted)) < len(wanted) or any(min(pair) < 0 or sum(pair) < 1 for pair in wanted):
        raise ValueError(
            "models must be one or more different numbers, from 1 up, of exponentials and of stretched ones; "
            f"got the pairs {wanted}"
        )


def _models(
    form: str, wanted: Sequence[tuple[int, int]], background: str | None, priors: Mapping[str, Any] | None
) -> list[Model]:
    from scipy import stats

    level, depth = FORMS[form]
    fixed = {"level": level, "depth": depth}
    most = [max(numbers) for numbers in zip(*wanted, strict=True)]
    kinds = [Kind(shape, range(n + 1), fixed=fixed) for shape, n in zip((exponential, stretched), most, strict=True)]
    found = combinations(kinds, background=background, priors={"beta": stats.uniform(0.0, 1.0), **(priors or {})})
    by_counts = {tuple(model.counts.values()): model for model in found.models}
    return [by_counts[pair] for pair in wanted]


def samarium_sulfide(t: npt.ArrayLike, temperature: float) -> Array:
    """Saturation recovery at a temperature, made after what was said of SmS; no measurement.

    One stretched exponential of beta = 0.7 from 100 K up, two exponentials below.

    Parameters
    ----------
    t : array_like
        Delays, s; rates lie between 2 and 200 1/s.
    temperature : float
        K.

    Returns
    -------
    float64 of the same shape
        Between 0 and 1.
    """
    t = np.asarray(t, dtype=np.float64)
    rate = 0.4 * temperature
    if temperature >= SMS_CHANGE:
        return np.asarray(1.0 - np.exp(-((rate * t) ** 0.7)))
    return np.asarray(1.0 - 0.6 * np.exp(-2.0 * rate * t) - 0.4 * np.exp(-0.15 * rate * t))
