"""What the data say about one model: its evidence, its parameters and how far both can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.model import Model

if TYPE_CHECKING:
    import xarray as xr


class Summary(NamedTuple):
    """A parameter in five numbers.

    Attributes
    ----------
    mean, sd : float
        Posterior mean and standard deviation.
    median : float
    low, high : float
        The central 95 % interval.
    """

    mean: float
    sd: float
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """The model's curve over the data, with its uncertainty, in the units of y.

    Attributes
    ----------
    mean : (n,) float64
        Posterior mean of the curve at the data's x (expected counts, for counts).
    low, high : (n,) float64
        Central 95 % band of the curve.
    terms : mapping of str to (n,) float64
        Each component's curve at the posterior mean's parameters, by label.
    residual : (n,) float64
        Data less mean, in standard deviations of the noise.
    """

    mean: Array
    low: Array
    high: Array
    terms: Mapping[str, Array]
    residual: Array


@dataclass(frozen=True)
class Diagnostics:
    """How the sampling went.

    Attributes
    ----------
    barrier : float
        Communication barrier between prior and posterior (sum of the swaps' rejection rates), mean of the chains.
    round_trips : int
        Journeys of replicas from prior to posterior and back, all chains together.
    levels : int
        Temperatures, the most of any chain.
    acceptance : mapping of str to float
        Acceptance of each parameter's moves at the posterior.
    r_hat, ess : float
        Worst split R-hat and smallest effective sample size of the summarised parameters.
    gap : float
        Difference of the evidence stepped upwards and downwards through the temperatures, in nats.
    drift : float
        Largest rounding error of an energy, in nats.
    edges : tuple of str
        Parameters whose posterior presses against an edge of the prior's support.
    p_fit : float
        Posterior-predictive probability of a worse misfit than the one seen: small means the model does not fit.
    single : bool
        Whether curves were computed in float32.
    """

    barrier: float = 0.0
    round_trips: int = 0
    levels: int = 0
    acceptance: Mapping[str, float] = field(default_factory=dict)
    r_hat: float = 1.0
    ess: float = float("inf")
    gap: float = 0.0
    drift: float = 0.0
    edges: tuple[str, ...] = ()
    p_fit: float = 1.0
    single: bool = True


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of one model.

    Attributes
    ----------
    model : Model
        With every prior filled in.
    log_evidence, log_evidence_error : float
        Natural logarithm of p(data | model) and its standard error.
    draws : mapping of str to (n_chains, n_draws) float64
        Samples by parameter; exchangeable components are in order (of position, or as their component says).
    derived : mapping of str to (n_chains, n_draws) float64
        Areas, full widths and the like.
    fit : Fit
    diagnostics : Diagnostics
    warnings : tuple of str
        Plain sentences; empty when nothing speaks against the result.
    """

    model: Model
    log_evidence: float
    log_evidence_error: float
    draws: Mapping[str, Array]
    derived: Mapping[str, Array]
    fit: Fit
    diagnostics: Diagnostics
    warnings: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, Summary]:
        """Mean, standard deviation, median and 95 % interval by name, derived quantities last."""
        return {name: summarise(values) for name, values in {**self.draws, **self.derived}.items()}

    @property
    def samples(self) -> xr.Dataset:
        """The draws, with dimensions ``chain`` and ``draw``."""
        import xarray as xr

        variables = {name: (("chain", "draw"), values) for name, values in {**self.draws, **self.derived}.items()}
        return xr.Dataset(variables, attrs={"model": self.model.name})

    def unit(self, name: str, units: Mapping[str, str]) -> str:
        """Unit of a parameter, given the axes' units; empty where unknown or dimensionless."""
        for term in self.model.terms:
            for parameter, _ in term.component.derived:
                if name == f"{term.label}.{parameter.name}":
                    return in_units(parameter.unit, units)
        return in_units(self.model.parameter(name).unit, units)


def in_units(unit: str, units: Mapping[str, str]) -> str:
    """``"x"``, ``"y"``, ``"x*y"`` or ``"1/x^2"`` with the axes' units put in; empty when one is missing."""
    for axis in ("x", "y"):
        if axis in unit:
            if not units.get(axis):
                return ""
            unit = unit.replace(axis, f"({units[axis]})" if len(unit) > 1 else units[axis])
    return unit


def summarise(values: npt.ArrayLike) -> Summary:
    """Five numbers of some draws."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    low, median, high = (float(q) for q in np.quantile(flat, (0.025, 0.5, 0.975)))
    sd = float(np.std(flat, ddof=1)) if flat.size > 1 else 0.0
    return Summary(float(np.mean(flat)), sd, median, low, high)


def concatenated(chains: list[Any]) -> Array:
    """Stack of the chains' arrays, cut to the shortest."""
    n = min(len(c) for c in chains)
    return np.stack([np.asarray(c[:n], dtype=np.float64) for c in chains])
