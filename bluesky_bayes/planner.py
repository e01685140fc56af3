"""Before a measurement: how probable it is that the right model will be chosen, and how many points that takes.

For models with normal priors that are linear in their coefficients, and Gaussian noise of known size. The log evidence
of each is a quadratic form in the data then, and so is the difference of two. Where that has a single square, as for
models that differ in one coefficient, its distribution is noncentral chi-square with one degree of freedom, which is
two normal ones: Katakami et al., arXiv:2406.02869, for uniform priors. Anything else is drawn by random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.exact import Design, why_not_exact
from bluesky_bayes.noise import Gaussian

N_DRAWS = 2**16
SAME = 1e-10
"""Parts of a quadratic form, over the largest, that count as none."""
MOST_POINTS, FARTHEST = 100_000, 1e6
STEPS = 50


class Chance(NamedTuple):
    """A probability.

    Attributes
    ----------
    probability : float
    error : float
        Standard error where it was found by random numbers; 0 where it has a closed form.
    """

    probability: float
    error: float


def selection_probability(
    candidates: Candidates,
    x: npt.ArrayLike,
    sigma: float,
    truth: str,
    coefficients: Mapping[str, float] | None = None,
    *,
    margin: float = 0.0,
    seed: int = 0,
) -> Chance:
    """Probability that data of a model will make this model the most probable.

    Parameters
    ----------
    candidates : Candidates
        With normal priors, all given: there are no data to take them from.
    x : (n,) array_like
        Where to measure.
    sigma : float
        Standard deviation of the noise.
    truth : str
        Name of the model that makes the data.
    coefficients : mapping of str to float, optional
        Its true coefficients. Those left out are anywhere in their priors.
    margin : float
        By how many nats its log posterior odds must exceed those of each other model: log 19 = 2.94 makes one of two
        models 95 % probable.
    seed : int
        Used only where there is no closed form.

    Returns
    -------
    Chance

    Raises
    ------
    ValueError
        For models that are not linear or priors that are not normal, and names that are not there.

    Examples
    --------
    >>> from scipy import stats
    >>> from bluesky_bayes.families import linear
    >>> lines = linear({"a": "x", "b": "1"}, priors={"a": stats.norm(0, 5), "b": stats.norm(0, 5)})
    >>> chance = selection_probability(lines, np.linspace(-1, 1, 20), 1.0, "a x + b", {"a": 2.0, "b": 0.8})
    >>> round(chance.probability, 3), chance.error
    (0.86, 0.0)
    """
    plan = _Plan.of(candidates, np.asarray(x, dtype=np.float64), truth, coefficients or {})
    return plan.chance(_checked_sigma(sigma), margin, seed)


def points_until_decided(
    candidates: Candidates,
    x: tuple[float, float],
    sigma: float,
    truth: str,
    coefficients: Mapping[str, float] | None = None,
    *,
    probability: float = 0.95,
    margin: float = 0.0,
) -> int:
    """Points, evenly spaced between two values of x, that make `selection_probability` as high as asked.

    Parameters
    ----------
    candidates, sigma, truth, coefficients, margin
        As for `selection_probability`.
    x : (float, float)
        First and last point.
    probability : float
        Of choosing the right model.

    Returns
    -------
    int
        The smallest number, if more points never do harm.

    Raises
    ------
    ValueError
        Where 100000 points are not enough, and as `selection_probability`.
    """
    sigma = _checked_sigma(sigma)

    def found(n: int) -> float:
        plan = _Plan.of(candidates, np.linspace(*x, n), truth, coefficients or {})
        return plan.chance(sigma, margin, 0).probability

    high = 2
    while (reached := found(high)) < probability:
        if high == MOST_POINTS:
            raise ValueError(
                f"{MOST_POINTS} points choose {truth!r} with a probability of {reached:.3f} only; "
                "ask for less, or make the noise smaller"
            )
        high = min(2 * high, MOST_POINTS)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= probability else (middle, high)
    return high


def noise_until_decided(
    candidates: Candidates,
    x: npt.ArrayLike,
    truth: str,
    coefficients: Mapping[str, float] | None = None,
    *,
    probability: float = 0.95,
    margin: float = 0.0,
) -> float:
    """The largest noise at which `selection_probability` is as high as asked.

    Parameters and errors are those of `selection_probability` and `points_until_decided`.

    Returns
    -------
    float
        Standard deviation, in the unit of y.
    """
    plan = _Plan.of(candidates, np.asarray(x, dtype=np.float64), truth, coefficients or {})
    low, high = plan.size / FARTHEST, plan.size * FARTHEST
    if (reached := plan.chance(low, margin, 0).probability) < probability:
        raise ValueError(
            f"noise of a millionth of the curve chooses {truth!r} with a probability of {reached:.3f} only; "
            "ask for less, or measure where the models differ"
        )
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        enough = plan.chance(middle, margin, 0).probability >= probability
        low, high = (middle, high) if enough else (low, middle)
    return low


def _checked_sigma(sigma: float) -> float:
    known = Gaussian(sigma).sigma
    if not isinstance(known, float):
        raise ValueError(f"sigma of a plan must be one positive number; got {sigma}")
    return known


class _Plan(NamedTuple):
    """What is known before the measurement, in the few directions of the data in which the models differ.

    Attributes
    ----------
    right : int
        Index of the true model.
    scores : (n_models,) float64
        Logarithms of the prior probabilities.
    centres : (n_models, r) float64
        The data that each model expects.
    reaches : tuple of (r, d) float64
        How each model's coefficients move the data, in units of their priors.
    mean : (r,) float64
        The data that the truth expects, and
    free : (r, d) float64
        how its coefficients that are not given move them.
    """

    right: int
    scores: Array
    centres: Array
    reaches: tuple[Array, ...]
    mean: Array
    free: Array

    @classmethod
    def of(cls, candidates: Candidates, x: Array, truth: str, coefficients: Mapping[str, float]) -> _Plan:
        if truth not in candidates.names:
            raise ValueError(f"there is no model {truth!r} here; there are {', '.join(map(repr, candidates.names))}")
        for model in candidates.models:
            for name, prior in model.priors.items():
                if prior is None:
                    raise ValueError(
                        f"a plan has no data to take a prior of {name!r} from: give priors={{{name!r}: ...}}"
                    )
        data, noise = Dataset(x, np.zeros(x.shape)), Gaussian(1.0)
        models = candidates.resolved(data, noise).models
        if reason := why_not_exact(models, noise):
            raise ValueError(f"there is nothing to plan with: {reason}")
        designs = [Design.of(model, data.x) for model in models]
        right = candidates.names.index(truth)
        true = designs[right]
        unknown = sorted(set(coefficients) - set(true.names))
        if unknown:
            raise ValueError(f"model {truth!r} has no coefficient {unknown[0]!r}; it has {', '.join(true.names)}")
        given = np.array([name in coefficients for name in true.names], dtype=bool)
        value = np.array([coefficients.get(name, m) for name, m in zip(true.names, true.mean, strict=True)])
        mean = true.base + true.curves @ value
        free = (true.curves * true.sd)[:, ~given]
        centres = [design.base + design.curves @ design.mean for design in designs]
        reaches = [design.curves * design.sd for design in designs]
        basis = _directions(np.column_stack([*reaches, *centres, mean]))
        return cls(
            right, np.log(candidates.probabilities), np.stack([basis.T @ centre for centre in centres]),
            tuple(basis.T @ reach for reach in reaches), basis.T @ mean, basis.T @ free,
        )  # fmt: skip

    @property
    def size(self) -> float:
        """Norm of what the data may be."""
        return math.sqrt(float(np.sum(self.mean**2) + np.sum(self.free**2))) or 1.0

    def chance(self, sigma: float, margin: float, seed: int) -> Chance:
        """Probability that the true model beats all others by the margin."""
        found = self._closed_form(sigma, margin) if len(self.scores) == 2 else None
        return self._simulated(sigma, margin, seed) if found is None else Chance(found, 0.0)

    def _forms(self, sigma: float) -> tuple[Array, Array, Array]:
        """Each model's score as ``u @ square @ u + line @ u + constant`` of standard normal u."""
        r = self.mean.size
        axes, gain = _axes(self.free / sigma)
        root = np.eye(r) + (axes * (np.hypot(1.0, gain) - 1.0)) @ axes.T
        squares, lines, constants = [], [], []
        for score, centre, reach in zip(self.scores, self.centres, self.reaches, strict=True):
            axes, gain = _axes(reach / sigma)
            inverse = np.eye(r) - (axes * (gain**2 / (1.0 + gain**2))) @ axes.T
            shift = (self.mean - centre) / sigma
            squares.append(-0.5 * root @ inverse @ root)
            lines.append(-root @ inverse @ shift)
            constants.append(score - 0.5 * (shift @ inverse @ shift + np.sum(np.log1p(gain**2))))
        return np.stack(squares), np.stack(lines), np.array(constants)

    def _closed_form(self, sigma: float, margin: float) -> float | None:
        """Of two models that differ by a single square, or by none."""
        from scipy.special import ndtr

        squares, lines, constants = (form[self.right] - form[1 - self.right] for form in self._forms(sigma))
        weights, axes = np.linalg.eigh(squares)
        along, level = axes.T @ lines, float(constants) - margin
        large = np.abs(weights) > SAME * max(1.0, float(np.abs(weights).max(initial=0.0)))
        rest = float(np.linalg.norm(along[~large]))
        if not large.any():
            return float(ndtr(level / rest)) if rest > SAME else float(level > 0)
        if large.sum() > 1 or rest > math.sqrt(SAME):
            return None
        weight, shift = float(weights[large][0]), float(along[large][0] / (2.0 * weights[large][0]))
        edge = shift**2 - level / weight
        beyond = float(ndtr(-math.sqrt(edge) - shift) + ndtr(shift - math.sqrt(edge))) if edge > 0 else 1.0
        return beyond if weight > 0 else 1.0 - beyond

    def _simulated(self, sigma: float, margin: float, seed: int) -> Chance:
        u = np.random.default_rng(seed).standard_normal((N_DRAWS, self.mean.size))
        squares, lines, constants = self._forms(sigma)
        scores = np.stack([np.sum((u @ square) * u, axis=1) for square in squares], axis=1) + u @ lines.T + constants
        others = np.delete(scores, self.right, axis=1)
        probability = float(np.mean(np.all(scores[:, self.right, None] > others + margin, axis=1)))
        return Chance(probability, math.sqrt(max(probability * (1.0 - probability), 1.0 / N_DRAWS) / N_DRAWS))


def _directions(columns: Array) -> Array:
    """Orthonormal columns (n, r) that span some columns."""
    norm = np.linalg.norm(columns, axis=0)
    axes, gain = _axes(columns[:, norm > 0] / norm[norm > 0])
    return axes[:, gain > SAME]


def _axes(columns: Array) -> tuple[Array, Array]:
    axes, gain, _ = np.linalg.svd(columns, full_matrices=False)
    return axes, gain
