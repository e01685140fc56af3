"""Two general engines on the model of the phase search: variational inference and replica exchange.

Both hold all candidates at once, each with an indicator of presence, as Murakami et al. do it (arXiv:2501.09308). They
are written on an array library of the standard's names (NumPy, CuPy, array-api-strict), and stand beside
:func:`bluesky_bayes.phases.search`, which is quicker and surer: to check it, and to compare.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.fitting import Beliefs, Fitter
from bluesky_bayes.phases.forward import GAUSS, LORENTZ, STEEP, groups_of, lines_of
from bluesky_bayes.phases.library import Library
from bluesky_bayes.phases.patterns import Pattern, even
from bluesky_bayes.phases.screening import first_looks

MOST_LINES = 60
"""Lines of a candidate that are drawn: its strongest."""
FLAT_EVERY = 20
"""Steps between solutions for the background."""
RATES, SLOWEST = (0.04, 0.04, 0.2, 0.04), 0.05
"""Steps of Adam for means, deviations, indicators and displacement, and the share of them at the end."""
BETA1, BETA2 = 0.9, 0.99
NARROW, WIDEST = 0.05, 0.1
"""Standard deviations at the start, and the largest of amounts, strains and widths, in those of the prior: a draw from
a wider one is far from all data."""
FARTHEST = 4.0
"""Prior standard deviations within which means stay."""
COOLEST, COOLED = 0.001, 0.7
"""Power of the likelihood at the start, and the share of the steps after which it is 1."""
MOST_ODDS = 12.0
"""Largest logarithm of a candidate's odds."""
HOTTEST = 0.002
WIDER = 1.3
"""Width of proposals in that of the variational distribution, which is too narrow."""
STRIDE = 0.4
"""Step of a random walk in the same unit."""


class Presence(NamedTuple):
    """What an engine says: p(present | data) and the amount if present, for each structure of the library."""

    probabilities: Array
    amounts: Array


@dataclass(frozen=True, eq=False)
class Normal:
    """Independent normal distributions of all parameters, (n_phases, n_parameters), in prior standard deviations."""

    mean: Any
    sigma: Any
    logits: Any
    displacement: float


class Model:
    """All candidates of a pattern as arrays of one shape; lines and parameters that a candidate lacks do nothing.

    Parameters of a candidate are logarithm of the amount, strains, logarithms of both widths, Lorentzian share, and
    logarithms of the factors on groups, each in prior standard deviations from its prior mean.
    """

    def __init__(self, xp: Any, fitter: Fitter) -> None:
        self.xp, even_ = xp, fitter.even
        terms = _starts(fitter)
        chosen = []
        for lines, term in zip(fitter.lines, terms, strict=True):
            group, n_groups = groups_of(lines, term, fitter.wavelengths[0])
            chosen.append((lines, np.argsort(-lines.strength)[:MOST_LINES], group, n_groups))
        n = len(chosen)
        n_lines = max(order.size for _, order, _, _ in chosen)
        n_groups = max(number for *_, number in chosen)
        self.n_strains = max(len(lines.strains) for lines, *_ in chosen)
        q, strength = np.ones((n, n_lines)), np.zeros((n, n_lines))
        strains, belongs = np.zeros((n, self.n_strains, n_lines)), np.zeros((n, n_groups, n_lines))
        mean = np.zeros((n, self.n_strains + 4 + n_groups))
        sigma, start = np.zeros(mean.shape), np.zeros(mean.shape)
        for k, (lines, order, group, number) in enumerate(chosen):
            own, m = len(lines.strains), order.size
            q[k, :m], strength[k, :m], strains[k, :own, :m] = (
                lines.q[order],
                lines.strength[order],
                lines.strains[:, order],
            )
            inside = group[order] > 0
            belongs[k, group[order][inside] - 1, np.flatnonzero(inside)] = 1.0
            place = np.r_[0, 1 : own + 1, self.n_strains + 1 : self.n_strains + 4 + number]
            mean[k, place], precision = fitter.prior(lines, number)
            sigma[k, place] = precision**-0.5
            start[k, place[: own + 4]] = terms[k]
        whitened = np.where(sigma > 0.0, (start - mean) / np.where(sigma > 0.0, sigma, 1.0), 0.0)
        whitened[:, self.n_strains + 4 :] = 0.0
        convert = xp.asarray
        self.q, self.strength, self.strains, self.belongs = map(convert, (q, strength, strains, belongs))
        self.mean, self.sigma, self.start = map(convert, (mean, sigma, whitened))
        self.x, self.y, self.weight = map(convert, (even_.x, even_.y, fitter.weight))
        self.splines, self.flat = convert(even_.splines), convert(even_.background)
        self.waves = [(float(a), float(b)) for a, b in zip(fitter.wavelengths, fitter.shares, strict=True)]
        self.shift = fitter.beliefs.displacement

    def drawn(self, x: Any, which: Any, u: Any, displacement: float) -> tuple[Any, Any]:
        """Curves (m, n_points) of candidates at angles, and a function that gives slopes from those with the curves.

        Parameters
        ----------
        x : (n_points,) array
        which : (m,) array of int
            Numbers of the candidates.
        u : (m, n_parameters) array
        displacement : float
            Degrees.
        """
        xp, n = self.xp, self.n_strains
        sigma = xp.take(self.sigma, which, axis=0)
        value = xp.take(self.mean, which, axis=0) + sigma * u
        strains, belongs = xp.take(self.strains, which, axis=0), xp.take(self.belongs, which, axis=0)
        eta = value[:, n + 3]
        eta = xp.where(eta < 0.0, 0.0, xp.where(eta > 1.0, 1.0, eta))[:, None, None]
        q = xp.take(self.q, which, axis=0) * xp.exp(_times(xp, value[:, 1 : n + 1], strains))
        factors = xp.exp(value[:, :1] + _times(xp, value[:, n + 4 :], belongs))
        strength = xp.take(self.strength, which, axis=0) * factors
        a, b = xp.exp(value[:, n + 1])[:, None], xp.exp(value[:, n + 2])[:, None]
        sine = self._sine(self.waves[0][0], q)
        of_a, of_b = a / xp.sqrt(1.0 - sine**2), b * sine / xp.sqrt(1.0 - sine**2)
        width = (of_a + of_b)[:, :, None]
        total: Any = 0.0
        parts = []
        for wave, share in self.waves:
            sine = self._sine(wave, q)
            theta, cosine = xp.asin(sine), xp.sqrt(1.0 - sine**2)
            centre = math.degrees(2.0) * theta + displacement * cosine
            z = (x[None, None, :] - centre[:, :, None]) / width
            thin = 1.0 / (1.0 + 4.0 * z**2)
            lorentz, gauss = LORENTZ * thin, GAUSS * xp.exp(-STEEP * z**2)
            area = share * strength / width[:, :, 0]
            height = eta * lorentz + (1.0 - eta) * gauss
            total = total + _times(xp, area, height)
            parts.append((area, z, thin, lorentz, gauss, height, cosine, sine))

        def slopes(given: Any) -> tuple[Any, Any]:
            """Slopes with the parameters (m, n_parameters) and with the displacement (m,)."""
            amount, moved, wider, rounder, shifted = (xp.zeros_like(part) for part in (q, q, q, q[:, 0], q[:, 0]))
            for area, z, thin, lorentz, gauss, height, cosine, sine in parts:
                steep = z * (8.0 * eta * lorentz * thin + 2.0 * STEEP * (1.0 - eta) * gauss)
                there = area * _sums(xp, steep, given) / width[:, :, 0]
                here = area * _sums(xp, height, given)
                amount = amount + here
                moved = moved + there * math.degrees(2.0) * sine / cosine
                shifted = shifted + xp.sum(there * cosine, axis=1)
                wider = wider + (area * _sums(xp, steep * z, given) - here) / width[:, :, 0]
                rounder = rounder + xp.sum(area * _sums(xp, lorentz - gauss, given), axis=1)
            own = [
                xp.sum(amount, axis=1)[:, None],
                _sums(xp, strains, moved),
                xp.sum(wider * of_a, axis=1)[:, None],
                xp.sum(wider * of_b, axis=1)[:, None],
                rounder[:, None],
                _sums(xp, belongs, amount),
            ]
            return xp.concat(own, axis=1) * sigma, shifted

        return total, slopes

    def _sine(self, wave: float, q: Any) -> Any:
        sine = 0.5 * wave * q
        return self.xp.where(sine < 0.9999, sine, 0.9999)

    def flat_below(self, peaks: Any) -> Any:
        """The background that goes best with peaks (..., n_points)."""
        weighted = self.splines * self.weight
        product = ((self.y - peaks) @ weighted.T)[..., None]
        return self.xp.linalg.solve(weighted @ self.splines.T, product)[..., 0] @ self.splines


def _within(xp: Any, values: Any, limit: float) -> Any:
    return xp.where(values > limit, limit, xp.where(values < -limit, -limit, values))


def _times(xp: Any, row: Any, matrix: Any) -> Any:
    """(m, i) and (m, i, j) to (m, j)."""
    return xp.matmul(row[:, None, :], matrix)[:, 0, :]


def _sums(xp: Any, matrix: Any, row: Any) -> Any:
    """(m, i, j) and (m, j) to (m, i)."""
    return xp.matmul(matrix, row[:, :, None])[:, :, 0]


def fitter_of(pattern: Pattern, library: Library, beliefs: Beliefs | None = None) -> Fitter:
    """A fitter of all structures of a library that have lines in a pattern's range.

    Raises
    ------
    ValueError
        When one has none.
    """
    grid = even(pattern)
    library = library.covering(pattern.radiation, pattern.d_min)
    found = [lines_of(structure, pattern.radiation, float(grid.x[0]), float(grid.x[-1])) for structure in library]
    outside = [structure.name for structure, lines in zip(library, found, strict=True) if lines is None]
    if outside:
        raise ValueError(f"these have no line in the pattern's range, leave them out: {', '.join(outside)}")
    return Fitter(grid, [lines for lines in found if lines is not None], beliefs or Beliefs())


def _starts(fitter: Fitter) -> list[Array]:
    """Shape of each candidate alone, as a first look finds it."""
    with ThreadPoolExecutor(1) as pool:
        looks = first_looks(fitter, fitter.fit([], []), range(fitter.n_phases), pool)
    starts: dict[int, Array] = {}
    for look in looks:
        if look.phase not in starts:
            amount = math.log(look.amount) if look.gain > -math.inf and look.amount > 0.0 else fitter.typical
            starts[look.phase] = fitter.start(look.phase, look.strain, look.width, amount).shape
    return [starts[index] for index in range(fitter.n_phases)]


def variational(
    model: Model, odds: float, steps: int = 1000, points: int = 500, seed: int = 0
) -> tuple[Presence, Normal]:
    """Sparse stochastic variational inference: an indicator and normal parameters for each candidate.

    Each step draws parameters and some of the points; the indicators are averaged over in closed form, parameters of
    what is absent are those of the prior (Titsias and Lazaro-Gredilla, 2011), and Adam goes uphill. The background is
    solved for now and then.

    Parameters
    ----------
    model : Model
    odds : float
        Logarithm of the odds of a candidate's presence beforehand.
    steps, points : int
        Steps, and points of the pattern in each.
    seed : int
    """
    xp, rng = model.xp, np.random.default_rng(seed)
    n, n_points = model.start.shape[0], model.x.shape[0]
    everyone = xp.asarray(np.arange(n))
    mean, log_sigma = model.start, xp.zeros_like(model.start) + math.log(NARROW)
    logits, shift, flat = xp.zeros_like(model.start[:, 0]), xp.zeros_like(model.start[:1, 0]), model.flat
    values = [mean, log_sigma, logits, shift]
    first, second = [xp.zeros_like(one) for one in values], [xp.zeros_like(one) for one in values]
    points = min(points, n_points)
    widest = np.zeros(tuple(mean.shape))
    widest[:, : model.n_strains + 3] = math.log(WIDEST)
    limit = xp.asarray(widest)
    for step in range(steps):
        mean, log_sigma, logits, shift = values
        displacement = model.shift * float(shift[0])
        present = 1.0 / (1.0 + xp.exp(-logits))
        if step % FLAT_EVERY == 0:
            curves, _ = model.drawn(model.x, everyone, mean, displacement)
            flat = model.flat_below(xp.sum(present[:, None] * curves, axis=0))
        some = xp.asarray(np.sort(rng.choice(n_points, points, replace=False)))
        sigma, noise = xp.exp(log_sigma), xp.asarray(rng.standard_normal(tuple(mean.shape)))
        curves, slopes = model.drawn(xp.take(model.x, some), everyone, mean + sigma * noise, displacement)
        power_now = min(1.0, COOLEST ** (1.0 - step / (COOLED * steps)))
        weight = xp.take(model.weight, some) * (power_now * n_points / points)
        rest = xp.take(model.y - flat, some) - xp.sum(present[:, None] * curves, axis=0)
        doubt = present * (1.0 - present)
        pull = present[:, None] * rest * weight - doubt[:, None] * curves * weight
        up, shifted = slopes(pull)
        power, found = xp.sum(curves**2 * weight, axis=1), xp.sum(curves * rest * weight, axis=1)
        divergence = 0.5 * xp.sum(mean**2 + sigma**2 - 1.0 - 2.0 * log_sigma, axis=1)
        gains = [
            up - present[:, None] * mean,
            up * noise * sigma + present[:, None] * (1.0 - sigma**2),
            doubt * (found - 0.5 * (1.0 - 2.0 * present) * power + odds - divergence - logits),
            xp.sum(shifted)[None] * model.shift - shift,
        ]
        slower = SLOWEST ** (step / steps)
        for k, gain in enumerate(gains):
            first[k] = BETA1 * first[k] + (1.0 - BETA1) * gain
            second[k] = BETA2 * second[k] + (1.0 - BETA2) * gain**2
            size = xp.sqrt(second[k] / (1.0 - BETA2 ** (step + 1))) + 1e-12
            values[k] = values[k] + slower * RATES[k] * first[k] / (1.0 - BETA1 ** (step + 1)) / size
        values[0] = _within(xp, values[0], FARTHEST)
        values[1] = xp.where(values[1] < limit, values[1], limit)
        values[2] = _within(xp, values[2], MOST_ODDS)
    mean, log_sigma, logits, shift = values
    normal = Normal(mean, xp.exp(log_sigma), logits, model.shift * float(shift[0]))
    amounts = xp.exp(model.mean[:, 0] + model.sigma[:, 0] * mean[:, 0])
    return Presence(_numpy(1.0 / (1.0 + xp.exp(-logits))), _numpy(amounts)), normal


def exchange(model: Model, odds: float, begin: Normal, sweeps: int = 20, replicas: int = 12, seed: int = 0) -> Presence:
    """Replica exchange over indicators and parameters, in a ladder from a variational distribution to the posterior.

    Parameters of what is absent follow the variational distribution, so that phases come and go easily (Carlin and
    Chib, 1995): the joint density is that of the posterior to the power beta times this distribution's to the rest.
    The displacement stays as it was found, the background is drawn from its normal distribution.

    Parameters
    ----------
    model : Model
    odds : float
        Logarithm of the odds of a candidate's presence beforehand.
    begin : Normal
        Of :func:`variational`.
    sweeps : int
        Half of them settle and are not counted. Each offers every candidate one change, on average.
    replicas : int
    seed : int
    """
    xp, rng = model.xp, np.random.default_rng(seed)
    n, d = begin.mean.shape
    wide = WIDER * begin.sigma
    beta = xp.asarray(np.geomspace(HOTTEST, 1.0, replicas))
    u = begin.mean + wide * xp.asarray(rng.standard_normal((replicas, n, d)))
    start = np.broadcast_to(_numpy(begin.logits) > 0.0, (replicas, n))
    present = xp.asarray(start.astype(np.float64))
    drawn = [
        model.drawn(model.x, xp.asarray(np.full(replicas, k)), u[:, k, :], begin.displacement)[0] for k in range(n)
    ]
    peaks = sum((present[:, k, None] * drawn[k] for k in range(n)), 0.0 * model.x[None, :] * beta[:, None])
    one = xp.ones_like(beta)
    matrix = _numpy((model.splines * model.weight) @ model.splines.T)
    root = xp.asarray(np.linalg.inv(np.linalg.cholesky(matrix)))
    each = xp.asarray(np.arange(n))

    def ratio(values: Any, which: Any) -> Any:
        """Log prior over the variational density, with the odds."""
        centre, width = xp.take(begin.mean, which, axis=0), xp.take(wide, which, axis=0)
        return odds + xp.sum(0.5 * ((values - centre) / width) ** 2 - 0.5 * values**2 + xp.log(width), axis=1)

    def misfit(rest: Any) -> Any:
        return -0.5 * xp.sum(rest**2 * model.weight, axis=1)

    total = sum((present[:, k] * ratio(u[:, k, :], xp.asarray(np.full(replicas, k))) for k in range(n)), 0.0 * beta)
    counted, amounts, kept = np.zeros(n), np.zeros(n), 0
    flat = model.flat_below(peaks)
    for step in range(sweeps * n):
        if step % n == 0:
            shake = xp.asarray(rng.standard_normal((replicas, model.splines.shape[0]))) / xp.sqrt(beta)[:, None]
            flat = model.flat_below(peaks) + (shake @ root) @ model.splines
        which = xp.asarray(rng.integers(n, size=replicas))
        chosen = xp.astype(which[:, None] == each[None, :], xp.float64)
        now = xp.sum(chosen[:, :, None] * u, axis=1)
        there = xp.sum(chosen * present, axis=1)
        centre, width = xp.take(begin.mean, which, axis=0), xp.take(wide, which, axis=0)
        normal = xp.asarray(rng.standard_normal((replicas, d)))
        # Either a phase comes with new values or goes, or one that is there wanders.
        walk = there * xp.asarray((rng.random(replicas) < 0.5).astype(np.float64))
        fresh = xp.where(walk[:, None] > 0.0, now + STRIDE * width * normal, centre + width * normal)
        offered = xp.where(((there > 0.0) & (walk == 0.0))[:, None], now, fresh)
        then = xp.where(walk > 0.0, one, one - there)
        old, _ = model.drawn(model.x, which, now, begin.displacement)
        new, _ = model.drawn(model.x, which, offered, begin.displacement)
        moved = peaks - there[:, None] * old + then[:, None] * new
        base = model.y - flat
        change = then * ratio(offered, which) - there * ratio(now, which)
        gain = beta * (misfit(base - moved) - misfit(base - peaks) + change)
        # A walk's density is the variational one's besides.
        for_walk = 0.5 * xp.sum(((now - centre) / width) ** 2 - ((offered - centre) / width) ** 2, axis=1)
        # A phase that is absent wanders at no cost, a walk that comes has a walk that goes: half as often offered.
        gain = gain + xp.where(walk > 0.0, for_walk, math.log(0.5) * (then - there))
        accept = xp.asarray(np.log(rng.random(replicas))) < gain
        mask = xp.astype(accept, xp.float64)
        swap = (mask[:, None] * chosen)[:, :, None]
        u = u * (1.0 - swap) + swap * offered[:, None, :]
        present = present + (mask * (then - there))[:, None] * chosen
        peaks = xp.where(accept[:, None], moved, peaks)
        total = total + mask * change
        energy = _numpy(misfit(model.y - flat - peaks) + total)
        order, betas = np.arange(replicas), _numpy(beta)
        for r in range(step % 2, replicas - 1, 2):
            if math.log(rng.random()) < (betas[r] - betas[r + 1]) * (energy[r + 1] - energy[r]):
                order[r], order[r + 1] = r + 1, r
        if np.any(order != np.arange(replicas)):
            turned = xp.asarray(order)
            u, present, peaks, flat, total = (
                xp.take(part, turned, axis=0) for part in (u, present, peaks, flat, total)
            )
        if 2 * step >= sweeps * n:
            last = _numpy(present[-1, :])
            counted, kept = counted + last, kept + 1
            amounts = amounts + last * np.exp(_numpy(model.mean[:, 0] + model.sigma[:, 0] * u[-1, :, 0]))
    return Presence(counted / kept, amounts / np.maximum(counted, 1.0))


def _numpy(values: Any) -> Array:
    """A host copy, of an array of any library."""
    return np.asarray(values.get() if hasattr(values, "get") else np.from_dlpack(values), np.float64)
