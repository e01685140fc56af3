"""The model of the phase search on any array library of the standard's names (NumPy, CuPy, array-api-strict).

All candidates have arrays of one shape; lines and parameters that one lacks do nothing. Parameters of a candidate are
those of `bluesky_bayes.phases.forward`, each in prior standard deviations from its prior mean: logarithm of the amount,
strains, logarithms of both widths, Lorentzian share, logarithms of the factors on groups.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.fitting import Fitter
from bluesky_bayes.phases.forward import GAUSS, LORENTZ, STEEP, Integers, Lines, groups_of
from bluesky_bayes.phases.screening import AMOUNTS, FACTOR, FAINT, LOOSE, MERGED, ROUNDED, STRAINS, WIDTHS

MOST_LINES = 200
"""Lines of a candidate that are drawn: its strongest."""
FAR, NEAR = 8.0, 2.5
"""Half of the window of the strongest line, and of the weakest, in widths."""
LOOKED_UP = 40
"""Lines of a candidate that a look takes up."""
NARROWEST, SQUAREST, ROUNDEST = 0.05, 0.02, 0.98
"""Limits of widths, in those of typical peaks, and of the Lorentzian share."""


class Drawn(NamedTuple):
    """Curves (m, n_points), their slopes, and those with the displacement (m, n_points).

    Slopes (m, at most n_parameters, n_points) end where the last of the candidates has its last group.
    """

    curves: Any
    rows: Any
    shift: Any


class Model:
    """All candidates of a fitter as arrays.

    Attributes
    ----------
    n_phases, n, size : int
        Number of structures, of these and lines of no known phase, and of parameters of each.
    log_odds : (n,) float
        Of presence beforehand.
    used : list of Array
        Parameters that each candidate has.
    """

    def __init__(self, xp: Any, fitter: Fitter) -> None:
        self.xp, even = xp, fitter.even
        self.step, self.first, self.n_points = even.step, float(even.x[0]), even.x.size
        singles = _singles(fitter)
        self.n_phases = fitter.n_phases
        self.log_odds = np.repeat([fitter.log_odds, -math.log(len(singles))], [self.n_phases, len(singles)])
        chosen = []
        for lines in (*fitter.lines[: self.n_phases], *singles):
            n = len(lines.strains)
            shape = np.zeros(n + 4)
            shape[n + 1], shape[n + 2] = math.log(0.75 * even.width), math.log(0.4 * even.width)
            group, n_groups = groups_of(lines, shape, fitter.wavelengths[0])
            chosen.append((lines, np.argsort(-lines.strength)[:MOST_LINES], group, n_groups))
        self.n = len(chosen)
        n_lines = max(order.size for _, order, _, _ in chosen)
        n_groups = max(number for *_, number in chosen)
        self.n_strains = max(len(lines.strains) for lines, *_ in chosen)
        self.size, self.n_groups = self.n_strains + 4 + n_groups, n_groups
        q, strength = np.ones((self.n, n_lines)), np.zeros((self.n, n_lines))
        strains, group = np.zeros((self.n, self.n_strains, n_lines)), np.full((self.n, n_lines), n_groups)
        mean, sigma = np.zeros((self.n, self.size)), np.zeros((self.n, self.size))
        self.used = []
        self.n_lines, self.n_own, self.n_factors = (np.empty(self.n, np.int64) for _ in range(3))
        for k, (lines, order, its, number) in enumerate(chosen):
            own, m = len(lines.strains), order.size
            self.n_own[k], self.n_lines[k], self.n_factors[k] = own, m, number
            q[k, :m], strength[k, :m], strains[k, :own, :m] = (
                lines.q[order],
                lines.strength[order],
                lines.strains[:, order],
            )
            group[k, :m] = np.where(its[order] > 0, its[order] - 1, n_groups)
            place = np.r_[0 : own + 1, self.n_strains + 1 : self.n_strains + 4 + number]
            mean[k, place], precision = fitter.prior(lines, number)
            sigma[k, place] = precision**-0.5
            self.used.append(place)
        convert = xp.asarray
        self.q, self.strength, self.strains, self.group = map(convert, (q, strength, strains, group))
        self.mean, self.sigma = convert(mean), convert(sigma)
        self.x, self.y, self.weight = map(convert, (even.x, even.y, fitter.weight))
        self.waves, self.shares = convert(fitter.wavelengths), convert(fitter.shares)
        self.shift, self.width, self.widest = fitter.beliefs.displacement, even.width, fitter.widest
        # The background integrated out: what it takes of a curve is a product with these, such that products of what
        # it leaves, by the weights, are those by the inverse of data's and background's covariance.
        held = np.diag(fitter.flat_precision)
        kept, turned = eigh(held, (fitter.splines * fitter.weight) @ fitter.splines.T + held)
        self.flat = convert(turned.T @ fitter.splines)
        self.taken = convert(1.0 / (1.0 + np.sqrt(np.clip(kept, 0.0, 1.0))))
        self.lowest, self.highest = self._limits(mean, sigma)
        self._prepare_looks(fitter, [lines for lines, *_ in chosen])

    def _limits(self, mean: Array, sigma: Array) -> tuple[Any, Any]:
        """Widths and shares within what a diffractometer can give, as the fit has them."""
        low, high = np.full(mean.shape, -np.inf), np.full(mean.shape, np.inf)
        n = self.n_strains
        for part, least, most in (
            (slice(n + 1, n + 3), math.log(NARROWEST * self.width), math.log(self.widest)),
            (slice(n + 3, n + 4), SQUAREST, ROUNDEST),
        ):
            low[:, part], high[:, part] = (
                (least - mean[:, part]) / sigma[:, part],
                (most - mean[:, part]) / sigma[:, part],
            )
        return self.xp.asarray(low), self.xp.asarray(high)

    def kept(self, which: Integers, u: Any) -> Any:
        """Parameters within their limits."""
        xp, index = self.xp, self.xp.asarray(which)
        low, high = xp.take(self.lowest, index, axis=0), xp.take(self.highest, index, axis=0)
        u = xp.where(u < low, low, u)
        return xp.where(u > high, high, u)

    def drawn(self, which: Integers, u: Any, displacement: float, slopes: bool = True) -> Drawn:
        """Curves and slopes of candidates `which` (m,) with parameters u (m, n_parameters).

        Each line is worked out near its place only, and added there.
        """
        xp, n, m = self.xp, self.n_strains, len(which)
        n_lines, n_own, n_groups = (int(each[which].max()) for each in (self.n_lines, self.n_own, self.n_factors))
        index = xp.asarray(which)
        sigma = xp.take(self.sigma, index, axis=0)
        value = xp.take(self.mean, index, axis=0) + sigma * u
        strains = xp.take(self.strains, index, axis=0)[:, :n_own, :n_lines]
        group = xp.take(self.group, index, axis=0)[:, :n_lines]
        group = xp.where(group < n_groups, group, n_groups)
        number = xp.reshape(xp.arange(m), (m, 1))
        bins = number * (n_groups + 1) + group
        factors = xp.concat([value[:, n + 4 : n + 4 + n_groups], xp.zeros((m, 1))], axis=1)
        own = xp.reshape(xp.take(xp.reshape(factors, (-1,)), xp.reshape(bins, (-1,))), group.shape)
        strength = xp.take(self.strength, index, axis=0)[:, :n_lines] * xp.exp(value[:, :1] + own)
        q = xp.take(self.q, index, axis=0)[:, :n_lines]
        q = q * xp.exp(xp.sum(value[:, 1 : n_own + 1, None] * strains, axis=1))
        a, b = xp.exp(value[:, n + 1])[:, None], xp.exp(value[:, n + 2])[:, None]
        sine = 0.5 * self.waves[None, None, :] * q[:, :, None]
        sine = xp.where(sine < 0.9999, sine, 0.9999)
        cosine = xp.sqrt(1.0 - sine**2)
        of_a, of_b = a / cosine[:, :, 0], b * sine[:, :, 0] / cosine[:, :, 0]
        width = (of_a + of_b)[:, :, None] / self.step + 0.0 * sine
        centre = (math.degrees(2.0) * xp.asin(sine) + displacement * cosine - self.first) / self.step
        area = strength[:, :, None] * self.shares / width
        reach = FAR * xp.sqrt(xp.take(self.strength, index, axis=0)[:, :n_lines])
        half = xp.astype(xp.ceil(xp.where(reach > NEAR, reach, NEAR)[:, :, None] * width), xp.int64)
        low, high = (xp.astype(xp.round(centre), xp.int64) + sign * half for sign in (-1, 1))
        low, high = xp.where(low > 0, low, 0), xp.where(high < self.n_points - 1, high, self.n_points - 1)
        seen = (high >= low) & (xp.take(self.strength, index, axis=0)[:, :n_lines, None] > 0.0)
        count = xp.reshape(xp.where(seen, high - low + 1, 0), (-1,))

        def each(values: Any) -> Any:
            """Of each point of each line's window."""
            return xp.take(xp.reshape(xp.broadcast_to(values, centre.shape), (-1,)), line)

        # Windows end to end: of which line each point is, and where it lies.
        line = xp.repeat(xp.arange(count.shape[0]), count)
        begin = xp.reshape(low, (-1,)) - (xp.cumulative_sum(count) - count)
        place = xp.arange(line.shape[0]) + xp.take(begin, line)
        wide = 1.0 / width
        z = (xp.astype(place, xp.float64) - each(centre)) * each(wide)
        z2 = z * z
        thin = 1.0 / (1.0 + 4.0 * z2)
        lorentz, gauss = LORENTZ * thin, GAUSS * xp.exp(-STEEP * z2)
        share, scale = each(value[:, n + 3][:, None, None]), each(area) / self.step
        height = scale * (share * (lorentz - gauss) + gauss)
        own_row = place + self.n_points * each(number[:, :, None])

        def added(values: Any, where: Any = own_row, rows: int = m) -> Any:
            return xp.reshape(_added(xp, where, values, rows * self.n_points), (rows, self.n_points))

        if not slopes:
            return Drawn(added(height), None, None)
        slope = scale * z * (8.0 * share * lorentz * thin + 2.0 * STEEP * (1.0 - share) * gauss)
        wider = (slope * z - height) * each(wide) / self.step
        slope = slope * each(wide) / self.step
        tangent = math.degrees(2.0) * sine / cosine
        groups = added(height, place + self.n_points * each(bins[:, :, None]), m * (n_groups + 1))
        groups = xp.reshape(groups, (m, n_groups + 1, self.n_points))
        curves = xp.sum(groups, axis=1)
        others = [added(slope * each(tangent * strains[:, k, :, None])) for k in range(n_own)]
        others += [xp.zeros_like(curves)] * (n - n_own)
        others += [added(wider * each(part[:, :, None])) for part in (of_a, of_b)]
        others += [added(scale * (lorentz - gauss))]
        rows = xp.concat([xp.stack([curves, *others], axis=1), groups[:, :n_groups, :]], axis=1)
        return Drawn(curves, rows * sigma[:, : rows.shape[1], None], added(slope * each(cosine)))

    def without_flat(self, rows: Any) -> Any:
        """Rows (..., n_points) less what the background takes of them."""
        return rows - (((rows * self.weight) @ self.flat.T) * self.taken) @ self.flat

    def _prepare_looks(self, fitter: Fitter, lines: list[Lines]) -> None:
        """Grids of strains, places of merged lines, and filters for :meth:`looks`."""
        xp, beliefs, even = self.xp, fitter.beliefs, fitter.even
        self.look_widths = np.array(WIDTHS) * even.width
        spread = STRAINS * beliefs.isotropic
        step = 0.5 * self.look_widths[0] / math.degrees(2.0 * math.tan(math.radians(0.25 * (even.x[0] + even.x[-1]))))
        count = max(3, math.ceil(2.0 * spread / step))
        self.look_strains = np.linspace(-spread, spread, count | 1)
        self.look_prior = xp.asarray(-0.5 * (self.look_strains / beliefs.isotropic) ** 2)
        self.texture = beliefs.texture
        self.padded = 1 << (2 * even.x.size - 1).bit_length()
        self.filters, self.powers, self.places, self.areas = [], [], [], []
        for width in self.look_widths:
            q, area = np.ones((self.n, LOOKED_UP)), np.zeros((self.n, LOOKED_UP))
            for k, its in enumerate(lines):
                place, its_area = _merged(its, fitter.wavelengths[0], width)
                order = np.argsort(-its_area)[:LOOKED_UP]
                q[k, : order.size], area[k, : order.size] = place[order], its_area[order]
            sine = 0.5 * fitter.wavelengths[0] * q[:, None, :] * (1.0 - self.look_strains[None, :, None])
            self.places.append(xp.asarray(np.arcsin(np.minimum(sine, 0.9999))))
            self.areas.append(xp.asarray(area))
            far = np.minimum(np.arange(self.padded), self.padded - np.arange(self.padded)) * even.step / width
            profile = (0.6 * LORENTZ / (1.0 + 4.0 * far**2) + 0.4 * GAUSS * np.exp(-STEEP * far**2)) / width
            profile = xp.asarray(np.where(far < 3.0, profile, 0.0))
            self.filters.append(xp.fft.rfft(profile))
            whole = self._filtered(self.weight, xp.fft.rfft(profile**2))
            least = ROUNDED * xp.max(whole)
            self.powers.append(xp.where(whole > least, whole, least))

    def _filtered(self, values: Any, filter_: Any) -> Any:
        xp = self.xp
        padded = xp.concat([values, xp.zeros(self.padded - self.n_points)])
        return xp.fft.irfft(xp.fft.rfft(padded) * filter_, n=self.padded)[: self.n_points]

    def looks(self, rest: Any, displacement: float) -> tuple[Array, Array]:
        """What each candidate promises of what is left over: nats (n,), and where a fit starts (n, n_parameters).

        As :func:`bluesky_bayes.phases.screening.first_looks`, for all candidates at once.
        """
        xp, loose = self.xp, int(LOOSE / self.step)
        best, starts = np.full(self.n, -np.inf), np.zeros((self.n, self.size))
        mean, sigma = to_numpy(self.mean), to_numpy(self.sigma)
        for width, filter_, power, theta, area in zip(
            self.look_widths, self.filters, self.powers, self.places, self.areas, strict=True
        ):
            score = self._filtered(self.weight * rest, filter_)
            score = xp.max(xp.stack([xp.roll(score, k) for k in range(-loose, loose + 1)]), axis=0)
            centre = math.degrees(2.0) * theta + displacement * xp.cos(theta)
            place = xp.astype(xp.round((centre - self.first) / self.step), xp.int64)
            inside = (place >= 0) & (place < self.n_points) & (area[:, None, :] > 0.0)
            place = xp.reshape(xp.where(inside, place, 0), (-1,))
            found = xp.where(inside, xp.reshape(xp.take(score, place), inside.shape), 0.0)
            weight = xp.where(inside, xp.reshape(xp.take(power, place), inside.shape), 0.0)
            area = xp.where(inside, area[:, None, :], 0.0)
            strong = inside & (area > 0.3) & (found > 0.0)
            most = xp.max(xp.where(strong, found / xp.where(strong, weight * area, 1.0), 0.0), axis=2)
            highest, amount = xp.full(most.shape, -math.inf), most
            trial = most
            for _ in range(AMOUNTS):
                own = trial[:, :, None] * area
                free = (self.texture * own) ** 2
                spread = 1.0 + weight * free
                gain = (own * found - 0.5 * weight * own**2 + 0.5 * free * found**2) / spread - 0.5 * xp.log(spread)
                gain = xp.sum(gain, axis=2) + self.look_prior
                amount = xp.where(gain > highest, trial, amount)
                highest = xp.where(gain > highest, gain, highest)
                trial = trial / FACTOR
            gains, amounts = to_numpy(xp.where(most > 0.0, highest, -math.inf)), to_numpy(amount)
            s = np.argmax(gains, axis=1)
            each = np.arange(self.n)
            better = gains[each, s] > best
            best = np.where(better, gains[each, s], best)
            value, n = mean.copy(), self.n_strains
            with np.errstate(divide="ignore"):
                value[:, 0] = np.log(amounts[each, s])
            value[:, 1] = self.look_strains[s]
            value[:, n + 1], value[:, n + 2], value[:, n + 3] = math.log(0.75 * width), math.log(0.4 * width), 0.6
            start = np.where(sigma > 0.0, (value - mean) / np.where(sigma > 0.0, sigma, 1.0), 0.0)
            starts = np.where(better[:, None], start, starts)
        return best, starts


def _singles(fitter: Fitter) -> list[Lines]:
    """Lines of no known phase, one for each part of the pattern that a look reaches over.

    About one is expected in all parts together.
    """
    even, wave = fitter.even, fitter.wavelengths[0]
    low, high = (math.log(math.sin(math.radians(0.5 * float(even.x[end]))) * 2.0 / wave) for end in (0, -1))
    parts = math.ceil(0.5 * (high - low) / (STRAINS * fitter.beliefs.isotropic))
    edges = np.linspace(low, high, parts + 1)
    # A normal distribution whose density at its middle is that of the uniform one.
    wanders = float(edges[1] - edges[0]) / math.sqrt(2.0 * math.pi)
    middles = np.exp(0.5 * (edges[1:] + edges[:-1]))
    return [Lines(np.array([q]), np.ones(1), -np.ones((1, 1)), 0.0, wanders) for q in middles]


def _merged(lines: Lines, wavelength: float, width: float) -> tuple[Array, Array]:
    """Places (1/d) and strengths of lines, those merged that are closer than a width or so."""
    strong = np.flatnonzero(lines.strength > FAINT)
    strong = strong[np.argsort(lines.q[strong])]
    q, strength = lines.q[strong], lines.strength[strong]
    centre = np.degrees(2.0 * np.arcsin(np.minimum(0.5 * wavelength * q, 0.9999)))
    number, last, group = -1, -np.inf, np.empty(q.size, np.int64)
    for h, c in enumerate(centre):
        if c - last > MERGED * width:
            number, last = number + 1, c
        group[h] = number
    area = np.bincount(group, weights=strength)
    return np.bincount(group, weights=strength * q) / area, np.asarray(area, np.float64)


def _added(xp: Any, place: Any, values: Any, size: int) -> Any:
    """Sums of values at places."""
    if hasattr(xp, "bincount"):
        return xp.bincount(place, values, size)
    order = xp.argsort(place)
    upto = xp.concat([xp.zeros(1), xp.cumulative_sum(xp.take(values, order))])
    ends = xp.searchsorted(xp.take(place, order), xp.arange(size + 1))
    return xp.take(upto, ends[1:]) - xp.take(upto, ends[:-1])


def to_numpy(values: Any) -> Array:
    """A host copy, of an array of any library."""
    return np.asarray(values.get() if hasattr(values, "get") else np.from_dlpack(values), np.float64)
