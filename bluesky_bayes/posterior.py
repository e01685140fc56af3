"""What the data say about one model: its evidence, its parameters and how far both can be trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import WORST_R_HAT
from bluesky_bayes.model import Model
from bluesky_bayes.tables import with_error

if TYPE_CHECKING:
    import xarray as xr


WORST_ERROR, WORST_GAP, WORST_DRIFT, WORST_FIT = 1.0, 1.0, 0.05, 1e-3
"""Where checks begin to fail."""
CURE = "sample longer (raise `longest` in Settings)"


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
        Each component's curve, averaged over the draws, by label.
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
    chains, levels : int
        Ladders, and temperatures of each.
    acceptance : mapping of str to float
        Acceptance of each parameter's moves at the posterior.
    r_hat_energy : float
        Split R-hat of the log likelihood.
    r_hat, ess : float
        Worst split R-hat and smallest effective sample size of the parameters.
    gap : float
        Difference of the evidence stepped upwards and downwards through the temperatures, in nats.
    drift : float
        Largest rounding error of an energy, in nats.
    edges : tuple of str
        Parameters whose posterior presses against an edge of the prior's support, or lies far out where it has none.
    p_fit : float
        Posterior-predictive probability of a worse misfit than the one seen: small means the model does not fit.
    single : bool
        Whether curves were computed in float32.
    ladder : (float, float)
        Log evidence and its standard error by the temperatures: Bennett's ratio, or the clouds' mean; of independent
        draws the mean of their weights.
    bridge : (float, float), optional
        The same by bridge sampling between the posterior and a mixture fitted to it. The surer of both is reported, or
        their mean where the ladder begins at the prior and they are about as sure.
    particles : (float, float), optional
        The same by the particles at which ladders from the prior began, where these count: together with `ladder`.
    sampler : str
        How the model was sampled: ``"exchange"``, ``"independence"`` or ``"smc"``; ``"exact"`` for a closed form.
    look : bool
        Whether this is only a first look by a few particles.
    """

    barrier: float = 0.0
    round_trips: int = 0
    chains: int = 1
    levels: int = 0
    acceptance: Mapping[str, float] = field(default_factory=dict)
    r_hat_energy: float = 1.0
    r_hat: float = 1.0
    ess: float = float("inf")
    gap: float = 0.0
    drift: float = 0.0
    edges: tuple[str, ...] = ()
    p_fit: float = 1.0
    single: bool = True
    ladder: tuple[float, float] = (0.0, 0.0)
    bridge: tuple[float, float] | None = None
    particles: tuple[float, float] | None = None
    sampler: str = "exchange"
    look: bool = False

    @property
    def estimates_differ(self) -> bool:
        """Whether the two estimates of the evidence differ by more than four standard errors and half a nat."""
        if self.bridge is None:
            return False
        (ladder, error), (bridge, other) = self.ladder, self.bridge
        return abs(ladder - bridge) > max(4.0 * float(np.hypot(error, other)), 0.5)

    def sampling_problems(self, error: float) -> tuple[str, ...]:
        """What speaks against the evidence, whose stated error is `error`, in plain sentences."""
        if self.look:
            return ("this is a first look by a few particles; wait for the next answer",)
        problems = []
        if self.sampler == "exchange" and self.levels and 2 * self.round_trips < self.chains:
            problems.append(
                f"only {self.round_trips} round trips through the temperatures in {self.chains} chains, "
                f"the evidence may miss a mode; {CURE}"
            )
        if error > WORST_ERROR:
            problems.append(f"the log evidence is uncertain by {error:.1f} nats; {CURE}")
        if self.r_hat_energy > WORST_R_HAT:
            problems.append(f"the chains disagree on how well the model fits (R-hat {self.r_hat_energy:.2f}); {CURE}")
        if self.estimates_differ:
            (ladder, _), (bridge, _) = self.ladder, self.bridge or self.ladder
            problems.append(
                f"the evidence differs by {abs(ladder - bridge):.1f} nats between temperatures and bridge; {CURE}"
            )
        if self.gap > WORST_GAP + 5.0 * error:
            problems.append(f"the evidence differs by {self.gap:.1f} nats stepped up or down the temperatures; {CURE}")
        if self.drift > WORST_DRIFT:
            problems.append(
                f"rounding moved an energy by {self.drift:.2g} nats: the noise is very small beside y; check its size, "
                "and report this with the data if it is right"
            )
        return tuple(problems)

    def fit_problems(self) -> tuple[str, ...]:
        """What speaks against the model's parameters or the model itself, in plain sentences."""
        problems = [f"the posterior presses {edge} of its prior; widen the prior" for edge in self.edges]
        if self.r_hat > WORST_R_HAT:
            problems.append(f"the chains disagree on a parameter (R-hat {self.r_hat:.2f}); {CURE}")
        if math.isnan(self.p_fit):
            problems.append("the model passes through every point, which tells nothing of the noise; give its size")
        if self.p_fit < WORST_FIT:
            problems.append(
                f"the model does not fit: data made by it fit worse with a probability of less than {WORST_FIT:g}; "
                "add a candidate that can, or check the noise"
            )
        return tuple(problems)


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
    """

    model: Model
    log_evidence: float
    log_evidence_error: float
    draws: Mapping[str, Array]
    derived: Mapping[str, Array]
    fit: Fit
    diagnostics: Diagnostics

    def __repr__(self) -> str:
        """Model and evidence."""
        evidence = with_error(self.log_evidence, self.log_evidence_error)
        return f"<Posterior of {self.model.name!r}: log evidence {evidence}, {len(self.draws)} parameters>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Plain sentences; empty when nothing speaks against the result."""
        return self.diagnostics.sampling_problems(self.log_evidence_error) + self.diagnostics.fit_problems()

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
    axes = set(re.findall("[xy]", unit))
    if not all(units.get(axis) for axis in axes):
        return ""
    return re.sub("[xy]", lambda match: _factor(units[match[0]]) if len(unit) > 1 else units[match[0]], unit)


def _factor(unit: str) -> str:
    """The unit as a factor: in brackets unless it is one word."""
    return unit if unit.isalpha() else f"({unit})"


def summarise(values: npt.ArrayLike) -> Summary:
    """Five numbers of some draws."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    low, median, high = (float(q) for q in np.quantile(flat, (0.025, 0.5, 0.975)))
    sd = float(np.std(flat, ddof=1)) if flat.size > 1 else 0.0
    return Summary(float(np.mean(flat)), sd, median, low, high)
