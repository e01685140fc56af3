"""Priors: frozen scipy.stats distributions, checked at the door and written down in words."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from bluesky_bayes.dataset import Array

Z_MAX = 8.0
THOUSANDTH = 1e-3
SCORES = np.linspace(-Z_MAX, Z_MAX, 2049)
"""Normal scores at which quantiles are kept."""


class Prior(Protocol):
    """A frozen continuous distribution of scipy.stats, such as ``scipy.stats.uniform(0, 5)``."""

    dist: Any
    args: tuple[Any, ...]
    kwds: dict[str, Any]

    def ppf(self, q: Any, /) -> Any:
        """Quantiles of lower probabilities."""

    def isf(self, q: Any, /) -> Any:
        """Quantiles of upper probabilities."""

    def support(self) -> tuple[Any, Any]:
        """Edges."""

    def __hash__(self) -> int:
        """One that is met again is not checked again."""


class PackedPriors(Mapping[str, "Prior | None"]):
    """Priors by name as they travel between processes: they are made when one is asked for.

    A frozen distribution holds itself, by methods that it keeps: those of each answer that arrives would stay in memory
    until a search for cycles, which in a profile of many objects is rare.
    """

    def __init__(self, names: tuple[str, ...], packed: bytes) -> None:
        self._names, self._packed = names, packed

    @classmethod
    def of(cls, priors: Mapping[str, Prior | None]) -> PackedPriors:
        """Pack priors, unless they are."""
        return priors if isinstance(priors, cls) else cls(tuple(priors), pickle.dumps(dict(priors)))

    @functools.cached_property
    def _made(self) -> dict[str, Prior | None]:
        made: dict[str, Prior | None] = pickle.loads(self._packed)
        return made

    def __getitem__(self, name: str) -> Prior | None:
        """Make them all, the first time."""
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)

    def __reduce__(self) -> tuple[type[PackedPriors], tuple[tuple[str, ...], bytes]]:
        """Stay packed."""
        return PackedPriors, (self._names, self._packed)


@functools.lru_cache(maxsize=256)
def frozen(family: str, *numbers: float) -> Prior:
    """A distribution of `scipy.stats` by its name, made once: that takes half a millisecond."""
    from scipy import stats

    made: Prior = getattr(stats, family)(*(number + 0.0 for number in numbers))  # -0.0 finds 0.0, and is told as it
    return made


def check_prior(name: str, prior: Any) -> Prior:
    """Return `prior` if it is a proper continuous distribution.

    Raises
    ------
    TypeError
        When it is not a frozen continuous scipy.stats distribution.
    ValueError
        When it has no support (a scale of zero or less, bounds the wrong way round).
    """
    continuous = all(hasattr(prior, part) for part in ("ppf", "isf", "support", "dist")) and not hasattr(prior, "pmf")
    if not continuous:
        raise TypeError(
            f"prior of {name!r} must be a frozen continuous distribution such as scipy.stats.uniform(0, 5); got "
            f"{prior!r}"
        )
    checked: Prior = prior
    if not _has_support(checked):
        raise ValueError(f"prior of {name!r} has no support: {describe(prior)}; its scale must be positive")
    return checked


@functools.lru_cache(maxsize=256)
def _has_support(prior: Prior) -> bool:
    quantiles = np.asarray(prior.ppf([0.01, 0.5, 0.99]), dtype=np.float64)
    return bool(np.all(np.isfinite(quantiles)) and quantiles[0] < quantiles[-1])


def check_bounds(name: str, prior: Prior | None, low: float, high: float, what: str) -> None:
    """Raise ValueError where a prior gives what is no such quantity more than a thousandth on either side."""
    if prior is None:
        return
    edges = prior.support()
    if edges[0] >= low and edges[1] <= high:
        return
    quantiles = prior.ppf([THOUSANDTH, 1.0 - THOUSANDTH])
    if quantiles[0] < low or quantiles[1] > high:
        values = "below zero" if high == np.inf else f"outside of {low:g} to {high:g}"
        raise ValueError(
            f"prior of {name!r}, {describe(prior)}, allows values {values}, which {what} cannot have; take one that "
            "ends there, such as scipy.stats.uniform(low, high - low), loguniform(low, high) or truncnorm; a parameter "
            'of your own component that is none has another role: @component(roles={"name": "shape"})'
        )


def quantile_table(prior: Prior) -> Array:
    """Quantiles of `prior` at evenly spaced normal scores from -8 to 8, (2049,).

    Interpolated, it turns a standard normal coordinate into a draw from the prior.
    """
    from scipy.special import ndtr

    low, high = prior.ppf(ndtr(np.minimum(SCORES, 0.0))), prior.isf(ndtr(-np.maximum(SCORES, 0.0)))
    table = np.where(SCORES < 0, low, high)
    return np.asarray(table, dtype=np.float64)


def describe(prior: Prior) -> str:
    """Write the prior as Python would, for example ``uniform(0, 5)``."""
    arguments = [f"{a:g}" for a in prior.args] + [f"{k}={v:g}" for k, v in prior.kwds.items()]
    return f"{prior.dist.name}({', '.join(arguments)})"


def to_table(prior: Prior) -> dict[str, Any]:
    """Plain data that `from_table` reads back."""
    table: dict[str, Any] = {"distribution": prior.dist.name, "args": [float(a) for a in prior.args]}
    table.update({k: float(v) for k, v in prior.kwds.items()})
    return table


def from_table(name: str, table: Mapping[str, Any]) -> Prior:
    """Prior from plain data, for example ``{"distribution": "uniform", "args": [0, 5]}``.

    Raises
    ------
    ValueError
        When the distribution is unknown to scipy.stats or its arguments are wrong.
    """
    from scipy import stats

    options = dict(table)
    distribution, args = options.pop("distribution", None), options.pop("args", [])
    family = getattr(stats, str(distribution), None)
    if not isinstance(family, stats.rv_continuous):
        raise ValueError(f"prior of {name!r}: scipy.stats has no continuous distribution named {distribution!r}")
    try:
        frozen = family(*args, **options)
    except TypeError as error:
        raise ValueError(f"prior of {name!r}: {error}") from error
    return check_prior(name, frozen)


def at_quantile(table: Array, z: Array) -> Array:
    """Parameters of whitened coordinates."""
    values: Array = np.interp(z, SCORES, table)
    return values


def at_value(table: Array, values: Array) -> Array:
    """Whitened coordinates of parameters: `at_quantile` the other way round."""
    z: Array = np.interp(values, table, SCORES)
    return z
