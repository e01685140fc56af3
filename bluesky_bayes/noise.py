"""How the data scatter about the model: the likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from bluesky_bayes.dataset import Array, Dataset, check_counts
from bluesky_bayes.priors import Prior

SIGMA = "noise_sigma"
"""Name of the parameter that holds an unknown noise's standard deviation."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Normal noise of known or unknown standard deviation.

    Parameters
    ----------
    sigma : float or (n,) array_like, optional
        Standard deviation in the unit of y, one number or one a point. Left out, it is unknown: one number,
        inferred with the model, its evidence carrying the cost of not knowing it.
    prior : frozen scipy.stats distribution, optional
        Prior of the unknown standard deviation. By default log-uniform from a millionth of to twice the
        standard deviation of y.

    Raises
    ------
    ValueError
        When `sigma` is not positive.
    """

    sigma: float | Array | None = None
    prior: Prior | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.sigma is None:
            return
        if self.prior is not None:
            raise ValueError("Gaussian noise takes a known sigma or a prior for an unknown one, not both")
        sigma = np.array(self.sigma, dtype=np.float64)
        if sigma.size == 0 or not np.all(np.isfinite(sigma) & (sigma > 0)):
            raise ValueError(f"sigma of Gaussian noise must be positive; got {self.sigma}")
        object.__setattr__(self, "sigma", float(sigma) if sigma.ndim == 0 else sigma)

    @property
    def known(self) -> bool:
        """Whether the standard deviation is given."""
        return self.sigma is not None

    def __str__(self) -> str:
        """In words."""
        if self.sigma is None:
            return "Gaussian noise of unknown standard deviation"
        if isinstance(self.sigma, float):
            return f"Gaussian noise, sigma = {self.sigma:g}"
        return "Gaussian noise, sigma given for each point"


@dataclass(frozen=True, eq=False)
class Poisson:
    """Counting noise: y is a number of events, the model is their expected number per unit of exposure.

    Parameters
    ----------
    exposure : float or (n,) array_like, optional
        Counting time or monitor of each point; the data's own exposure by default, else 1.
    """

    exposure: float | Array | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.exposure is None:
            return
        exposure = np.array(self.exposure, dtype=np.float64)
        if exposure.size == 0 or not np.all(np.isfinite(exposure) & (exposure > 0)):
            raise ValueError(f"exposure of Poisson noise must be positive; got {self.exposure}")
        object.__setattr__(self, "exposure", float(exposure) if exposure.ndim == 0 else exposure)

    def __str__(self) -> str:
        """In words."""
        return "Poisson noise"


Noise: TypeAlias = Gaussian | Poisson


def noise_for(data: Dataset, noise: Noise | None) -> Noise:
    """Noise to use: the one given, else the data's own uncertainties or counts, else an unknown Gaussian.

    Raises
    ------
    ValueError
        When a Poisson noise meets data that are not counts, or lengths differ.
    """
    if noise is None:
        if data.sigma is not None:
            return Gaussian(data.sigma)
        return Poisson(data.exposure) if data.counts else Gaussian()
    if isinstance(noise, Poisson):
        check_counts(data.y, repr(data.origin.y))
        noise = Poisson(data.exposure) if noise.exposure is None else noise
        _check_length(noise.exposure, data, "exposure")
    else:
        _check_length(noise.sigma, data, "sigma")
    return noise


def _check_length(values: Any, data: Dataset, name: str) -> None:
    if np.ndim(values) and np.size(values) != data.n:
        raise ValueError(
            f"{name} of the noise has {np.size(values)} values for {data.n} points of y ({data.origin.y!r})"
        )
