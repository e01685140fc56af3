"""Evidence of each model at every noise level, from one run.

With Gaussian noise an inverse temperature is a noise precision in disguise: the level beta of a ladder that ends at the
standard deviation s is the posterior for the standard deviation s / sqrt(beta). One ladder from the prior to a noise
below the true one therefore tells the evidence for all of them, and with it model and noise together: Tokuda, Nagata
and Okada, J. Phys. Soc. Jpn. 86, 024001 (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.evidence import evidence_profile, log_mean_exp, softmax
from bluesky_bayes.inference import exact_profile, jobs_from_prior
from bluesky_bayes.jobs import Job
from bluesky_bayes.noise import Gaussian
from bluesky_bayes.sampler import Settings
from bluesky_bayes.summaries import sampling_problems_of
from bluesky_bayes.tasks import HALF_LOG_2PI, rough_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_SIGMA = 100
NEGLIGIBLE = 1e-3
"""Probability below which what is wrong with a model's sampling is not told."""
BELOW, ABOVE = 0.5, 2.0


@dataclass(frozen=True, eq=False)
class NoiseScan:
    """Log evidence of each model at each noise level.

    Attributes
    ----------
    names : tuple of str
        Models, in the order of the candidates.
    sigma : (n_sigma,) float64
        Standard deviations of the noise, from small to large, in the unit of y.
    log_evidence, log_evidence_error : (n_models, n_sigma) float64
        Natural logarithm of p(data | model, sigma), and standard errors.
    prior_probabilities : (n_models,) float64
    problems : tuple of tuple of str
        What speaks against the sampling of each model, in plain sentences.
    """

    names: tuple[str, ...]
    sigma: Array
    log_evidence: Array
    log_evidence_error: Array
    prior_probabilities: Array
    problems: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        """What is most probable."""
        model, sigma = self.best
        return f"<NoiseScan: {model} at a standard deviation of {sigma:.4g} is most probable>"

    @property
    def best(self) -> tuple[str, float]:
        """Model and standard deviation that are most probable together."""
        score = self.log_evidence + np.log(self.prior_probabilities)[:, None]
        model, level = np.unravel_index(int(np.argmax(score)), score.shape)
        return self.names[int(model)], float(self.sigma[level])

    @property
    def sigmas(self) -> Array:
        """The most probable standard deviation under each model, (n_models,)."""
        best: Array = self.sigma[np.argmax(self.log_evidence, axis=1)]
        return best

    @property
    def probabilities(self) -> Array:
        """p(model | data), (n_models,), whatever the noise; every factor in sigma is as probable beforehand."""
        return softmax(log_mean_exp(self.log_evidence.T) + np.log(self.prior_probabilities))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against trusting the scan, in plain sentences."""
        model, sigma = self.best
        lines = []
        if sigma in (self.sigma[0], self.sigma[-1]):
            end = "smallest" if sigma == self.sigma[0] else "largest"
            lines.append(f"{model}: the best noise is the {end} of the scan, {sigma:.3g}; give a range that holds it")
        for name, p, problems in zip(self.names, self.probabilities, self.problems, strict=True):
            lines += [f"{name}: {problem}" for problem in problems if p > NEGLIGIBLE]
        return tuple(lines)

    def plot(self) -> Figure:
        """Free energy (minus log evidence) of each model against sigma: a matplotlib figure."""
        from bluesky_bayes.plots import plot_noise_scan

        return plot_noise_scan(self)


def noise_scan(
    data: Dataset,
    candidates: Candidates,
    *,
    sigma: tuple[float, float] | None = None,
    seed: int = 0,
    error: float | None = None,
    settings: Settings | None = None,
    threads: int | None = None,
) -> NoiseScan:
    """Tell which model and which size of Gaussian noise the data support, from one run.

    One size holds for all points: uncertainties that the data carry, and that they are counts, are left aside.

    Parameters
    ----------
    data : Dataset
    candidates : Candidates
    sigma : (float, float), optional
        Smallest and largest standard deviation, in the unit of y. By default from half of what neighbouring points
        scatter to twice the standard deviation of y.
    seed : int
    error : float, optional
        Wanted standard error of every competing model's log evidence at the smallest sigma, in nats.
    settings : Settings, optional
    threads : int, optional
        By default as many as there are processors to run on.

    Returns
    -------
    NoiseScan

    Raises
    ------
    ValueError
        When `sigma` is no range, or none can be told from the data.

    Examples
    --------
    >>> import numpy as np
    >>> from bluesky_bayes.families import peaks
    >>> x = np.linspace(-3, 3, 101)
    >>> y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(101)
    >>> scan = noise_scan(Dataset(x, y), peaks(counts=range(0, 3)))
    >>> model, sigma = scan.best
    >>> model, round(sigma, 1)
    ('1 peak', 0.1)
    """
    low, high = _range(data, sigma)
    grid = np.geomspace(low, high, N_SIGMA)
    probabilities = np.array(candidates.probabilities)
    if (found := exact_profile(data, candidates, grid)) is not None:
        return NoiseScan(candidates.names, grid, *found, probabilities, ((),) * len(candidates.models))
    jobs = jobs_from_prior(data, candidates, Gaussian(low), settings, error, seed, threads)
    profiles = [_profile(job, (low / grid) ** 2) for job in jobs]
    log_z, errors = (np.stack(values) for values in zip(*profiles, strict=True))
    log_z = log_z - data.n * (np.log(grid) + HALF_LOG_2PI)
    problems = tuple(sampling_problems_of(job) for job in jobs)
    return NoiseScan(candidates.names, grid, log_z, errors, probabilities, problems)


def _range(data: Dataset, sigma: tuple[float, float] | None) -> tuple[float, float]:
    if sigma is None:
        sigma = BELOW * rough_noise(data.y), ABOVE * float(np.std(data.y))
        advice = "neighbouring points do not scatter; give sigma=(smallest, largest)"
    else:
        advice = "give the smallest first, both positive"
    if np.shape(sigma) != (2,):
        raise ValueError(f"sigma of a noise scan is a range, (smallest, largest); got {sigma!r}")
    low, high = (float(s) for s in sigma)
    if not 0.0 < low < high < math.inf:
        raise ValueError(f"no range of noise levels: sigma from {low:g} to {high:g}; {advice}")
    return low, high


def _profile(job: Job, betas: Array) -> tuple[Array, Array]:
    """Log Z over that of the prior at inverse temperatures (n,), and errors: each weighted from its neighbours."""
    levels, energies = job.path.betas, [info.energies for info in job.infos]
    log_z, errors = evidence_profile(levels, energies)
    pooled = np.concatenate(energies)
    at = np.clip(np.searchsorted(levels, betas, side="right") - 1, 0, levels.size - 2)
    share = (betas - levels[at]) / (levels[at + 1] - levels[at])

    def weighted(i: npt.NDArray[np.intp]) -> Array:
        """By weighting the draws of these levels."""
        change = betas - levels[i]
        return np.array([z + log_mean_exp(-c * pooled[:, k]) for c, k, z in zip(change, i, log_z[i], strict=True)])

    mixed_errors = (1.0 - share) * errors[at] + share * errors[at + 1]
    mixed: Array = (1.0 - share) * weighted(at) + share * weighted(at + 1)
    return mixed, mixed_errors
