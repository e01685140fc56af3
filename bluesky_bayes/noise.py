"""How the data scatter about the model: the likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from bluesky_bayes.dataset import Array, Dataset, check_counts, positive
from bluesky_bayes.priors import Prior, check_bounds, check_prior

SIGMA = "noise_sigma"
"""Name of the parameter that holds an unknown noise's standard deviation."""
NEARLY = 0.05
"""How far from a whole number a scaled count may be."""


class _Additive:
    """Noise that is added to the model, of known or unknown size: what Gaussian and Student-t noise share."""

    name: ClassVar[str]
    size: ClassVar[str]
    sigma: float | Array | None
    prior: Prior | None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.prior is not None:
            check_bounds(SIGMA, check_prior(SIGMA, self.prior), 0.0, math.inf, f"a {self.size}")
        if self.sigma is None:
            return
        if self.prior is not None:
            raise ValueError(f"{self.name} noise takes a known sigma or a prior for an unknown one, not both")
        object.__setattr__(self, "sigma", _positive(self.sigma, f"sigma of {self.name} noise"))

    @property
    def known(self) -> bool:
        """Whether sigma is given."""
        return self.sigma is not None

    def __str__(self) -> str:
        """In words."""
        if self.sigma is None:
            return f"{self.name} noise of unknown {self.size}"
        if isinstance(self.sigma, float):
            return f"{self.name} noise, sigma = {self.sigma:g}"
        return f"{self.name} noise, sigma given for each point"


@dataclass(frozen=True, eq=False)
class Gaussian(_Additive):
    """Normal noise of known or unknown standard deviation.

    Parameters
    ----------
    sigma : float or (n,) array_like, optional
        Standard deviation in the unit of y, one number or one a point, in the order in which the points were given.
        Left out, it is unknown: one number, inferred with the model, its evidence carrying the cost of not knowing it.
    prior : frozen scipy.stats distribution, optional
        Prior of the unknown standard deviation. By default log-uniform from a millionth of to twice the
        standard deviation of y.
    in_order : bool
        Whether numbers for each point are in the order of x, as those of an answer's noise are.

    Raises
    ------
    ValueError
        When `sigma` is not positive.
    """

    name: ClassVar[str] = "Gaussian"
    size: ClassVar[str] = "standard deviation"
    sigma: float | Array | None = None
    prior: Prior | None = None
    in_order: bool = False


@dataclass(frozen=True, eq=False)
class StudentT(_Additive):
    """Noise with heavy tails, for data with outliers: (y - model) / sigma follows Student's t distribution.

    Parameters
    ----------
    sigma : float or (n,) array_like, optional
        Scale in the unit of y, one number or one a point: the standard deviation that most points seem to have. Left
        out, it is the data's own uncertainties where they carry some, else unknown: one number, inferred with the
        model.
    dof : float
        Degrees of freedom. The fewer, the heavier the tails: 1 is Cauchy's distribution, 30 is nearly normal.
    prior : frozen scipy.stats distribution, optional
        Prior of an unknown scale, which is unknown then also where the data carry uncertainties. By default
        log-uniform from a millionth of to twice the standard deviation of y.
    in_order : bool
        As of `Gaussian`.

    Raises
    ------
    ValueError
        When `sigma` or `dof` is not positive.
    """

    name: ClassVar[str] = "Student-t"
    size: ClassVar[str] = "scale"
    sigma: float | Array | None = None
    dof: float = 4.0
    prior: Prior | None = None
    in_order: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        if not (math.isfinite(self.dof) and self.dof > 0):
            raise ValueError(f"dof of Student-t noise must be positive; got {self.dof}")

    def __str__(self) -> str:
        """In words."""
        return f"{super().__str__()}, {self.dof:g} degrees of freedom"


@dataclass(frozen=True, eq=False)
class Poisson:
    """Counting noise: y is a number of events, the model is their expected number per unit of exposure.

    Parameters
    ----------
    exposure : float or (n,) array_like, optional
        Counting time or monitor of each point; the data's own exposure by default, else 1.
    scale : float or (n,) array_like
        What one event adds to y: the gain of a detector; for rates, one over each point's counting time. The model
        stays in the unit of y, and the evidence is that of the counts ``y / scale``, which must be whole numbers.
    in_order : bool
        As of `Gaussian`.

    Raises
    ------
    ValueError
        When `exposure` or `scale` is not positive.
    """

    name: ClassVar[str] = "Poisson"
    exposure: float | Array | None = None
    scale: float | Array = 1.0
    in_order: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.exposure is not None:
            object.__setattr__(self, "exposure", _positive(self.exposure, "exposure of Poisson noise"))
        object.__setattr__(self, "scale", _positive(self.scale, "scale of Poisson noise"))

    @property
    def scaled(self) -> bool:
        """Whether y are multiples of counts."""
        return bool(np.any(np.not_equal(self.scale, 1.0)))

    def counts(self, data: Dataset) -> Array:
        """Numbers of events, (n,).

        Raises
        ------
        ValueError
            When y are not counts, or not whole multiples of `scale` to within what rounding of either explains.
        """
        name = repr(data.origin.y)
        if not self.scaled:
            check_counts(data.y, name)
            return data.y
        events = data.y / self.scale
        whole: Array = np.rint(events)
        bad = np.flatnonzero((whole < 0) | (np.abs(events - whole) > NEARLY))
        if bad.size:
            raise ValueError(
                f"y ({name}) divided by the scale of the Poisson noise is not counts: {bad.size} of {data.n} values "
                f"are negative or not whole, the first is {events[bad[0]]:.8g}; give the scale with all its digits "
                "(y = scale * counts), or use Gaussian noise"
            )
        return whole

    def __str__(self) -> str:
        """In words."""
        if not self.scaled:
            return "Poisson noise"
        if isinstance(self.scale, float):
            return f"Poisson noise, y = {self.scale:.8g} * counts"
        return "Poisson noise, y = scale * counts, scale given for each point"


Noise: TypeAlias = Gaussian | StudentT | Poisson


def noise_for(data: Dataset, noise: Noise | None) -> Noise:
    """Noise to use: the one given, else the data's own uncertainties or counts, else an unknown Gaussian.

    Numbers for each point come in the order of the data set's points, however these were given.

    Raises
    ------
    ValueError
        When a Poisson noise meets data that are not counts, or lengths differ.
    """
    check_noise(noise)
    if noise is None:
        if data.sigma is not None:
            return Gaussian(data.sigma, in_order=True)
        return Poisson(data.exposure, in_order=True) if data.counts else Gaussian()
    given: dict[str, Any] = {name: getattr(noise, name, None) for name in ("sigma", "exposure", "scale")}
    arranged: dict[str, Any] = {
        name: _of_points(data, values, f"{name} of {noise.name} noise", noise.in_order)
        for name, values in given.items()
        if isinstance(values, np.ndarray)
    }
    if isinstance(noise, Poisson) and noise.exposure is None:
        arranged["exposure"] = data.exposure
    if isinstance(noise, StudentT) and noise.sigma is None and noise.prior is None:
        arranged["sigma"] = data.sigma
    noise = replace(noise, **arranged, in_order=True)
    if isinstance(noise, Poisson):
        noise.counts(data)
    return noise


def _of_points(data: Dataset, values: Array, name: str, in_order: bool) -> Array:
    """Numbers of the points, in their order."""
    if in_order and values.shape != data.x.shape and np.any(np.diff(data.rows) < 0):
        raise ValueError(
            f"{name} is in the order of x and has {values.size} values for {data.n} points of y ({data.origin.y!r}), "
            "which were given in another order: give one for each of these points"
        )
    found = values if in_order and values.shape == data.x.shape else data.arranged(values, name)
    bad = np.flatnonzero(~positive(found))
    if bad.size:
        raise ValueError(
            f"{name} is {found[bad[0]]:g} at {data.origin.x} = {data.x[bad[0]]:g} ({bad.size} such points), it must be "
            "positive; give the real value or mask the point"
        )
    return found


def check_noise(noise: Any) -> None:
    """Raise ValueError for what is no noise."""
    if noise is None or isinstance(noise, Gaussian | StudentT | Poisson):
        return
    known = {kind.__name__.lower(): kind.__name__ for kind in (Gaussian, StudentT, Poisson)}
    name = getattr(noise, "__name__", noise if isinstance(noise, str) else "")
    hint = f"Gaussian({noise!r})" if isinstance(noise, int | float) else f"{known.get(name.lower(), 'Gaussian')}()"
    raise ValueError(f"noise must be Gaussian(...), StudentT(...) or Poisson(...), such as {hint}; got {noise!r}")


def _positive(values: Any, name: str) -> float | Array:
    """One positive number, or numbers of points, which are checked where it is known which points are used."""
    try:
        numbers = np.ma.filled(np.ma.array(values, dtype=np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers; got {values!r}") from error
    if numbers.ndim:
        return numbers
    if not positive(numbers):
        raise ValueError(f"{name} must be positive; got {values}")
    return float(numbers)
