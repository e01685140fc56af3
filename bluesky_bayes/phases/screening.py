"""First looks: how much each candidate would explain of what a fit leaves over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numba as nb
import numpy as np
from scipy.linalg import cho_solve
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.signal import fftconvolve
from scipy.special import logsumexp

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.fitting import HALO, Fitter, Joint, Term
from bluesky_bayes.phases.forward import GAUSS, LORENTZ, STEEP, outline

WIDTHS = (0.6, 1.2, 2.4, 4.8)
"""Full widths at half maximum that are tried, in those of typical peaks."""
STRAINS = 2.5
"""Isotropic strains are tried to so many standard deviations of their prior."""
LOOSE = 0.03
"""Degrees by which lines may stray in a first look: strains that are not isotropic."""
MERGED = 1.2
"""Widths between lines that are looked up as one."""
FAINT = 0.02
"""Share of the strongest line below which a line is not looked up."""
AMOUNTS, FACTOR = 9, 1.8
"""Amounts tried, each so much smaller than the one before."""
ROUNDED = 1e-9
"""Share of a sum of weights below which it is an error of rounding."""
CLOSER = 60
"""Looks that are worked out in full."""


class Found(NamedTuple):
    """What looking up the lines of a candidate gives for one width."""

    gain: float
    phase: int
    width: float
    strain: float
    amount: float


class Look(NamedTuple):
    """What one candidate promises: nats, and where a fit would start."""

    gain: float
    phase: int
    term: Term


@nb.njit(cache=True, fastmath=True, nogil=True)
def _scores(q, strength, wavelength, displacement, x0, step, widths, score, power, strains, log_prior, texture, out):
    """Best marginal gain over strains and amounts for each width: gain, strain, amount in ``out`` (n_widths, 3)."""
    n, degrees = q.size, 180.0 / math.pi
    place, area, here, found, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for w in range(widths.size):
        count, last = 0, -1e9
        for h in range(n):
            if strength[h] < FAINT:
                continue
            centre = 2.0 * degrees * math.asin(min(0.5 * wavelength * q[h], 0.9999))
            if centre - last > MERGED * widths[w]:
                place[count], area[count] = 0.0, 0.0
                count += 1
                last = centre
            place[count - 1] += q[h] * strength[h]
            area[count - 1] += strength[h]
        for g in range(count):
            place[g] /= area[g]
        out[w, 0] = -1e300
        for s in range(strains.size):
            most, inside = 0.0, 0
            for g in range(count):
                theta = math.asin(min(0.5 * wavelength * place[g] * (1.0 - strains[s]), 0.9999))
                i = int((2.0 * degrees * theta + displacement * math.cos(theta) - x0) / step + 0.5)
                if i < 0 or i >= score.shape[1]:
                    continue
                here[inside], found[inside], weight[inside] = area[g], score[w, i], power[w, i]
                inside += 1
                if area[g] > 0.3 and score[w, i] > 0.0:
                    most = max(most, score[w, i] / (power[w, i] * area[g]))
            if most == 0.0:
                continue
            amount = most * FACTOR
            for _ in range(AMOUNTS):
                amount /= FACTOR
                gain, product = log_prior[s], 1.0
                for g in range(inside):
                    # A line of expected area, with a normal freedom of the size that texture allows.
                    own = amount * here[g]
                    free = (texture * own) ** 2
                    spread = 1.0 + weight[g] * free
                    gain += 0.5 * (2.0 * own * found[g] - weight[g] * own * own + free * found[g] ** 2) / spread
                    product *= spread
                    if product > 1e200:
                        gain -= 0.5 * math.log(product)
                        product = 1.0
                gain -= 0.5 * math.log(product)
                if gain > out[w, 0]:
                    out[w, 0], out[w, 1], out[w, 2] = gain, strains[s], amount


def _filtered(fitter: Fitter, joint: Joint, widths: Array, loose: float = LOOSE) -> tuple[Array, Array]:
    """For each width: data left over and weight, filtered with a line of unit area."""
    step, score, power = fitter.even.step, [], []
    for width in widths:
        u = np.arange(-math.ceil(3.0 * width / step), math.ceil(3.0 * width / step) + 1) * step / width
        profile = (0.6 * LORENTZ / (1.0 + 4.0 * u**2) + 0.4 * GAUSS * np.exp(-STEEP * u**2)) / width
        found = fftconvolve(fitter.weight * joint.rest, profile, "same")
        score.append(maximum_filter1d(found, 2 * int(loose / step) + 1))
        whole = fftconvolve(fitter.weight, profile**2, "same")
        power.append(np.maximum(whole, ROUNDED * whole.max()))
    return np.array(score), np.array(power)


def first_looks(fitter: Fitter, joint: Joint, candidates: Sequence[int], pool: Executor) -> list[Found]:
    """Gain of each candidate and width by looking lines up in the filtered residual, best first."""
    even, beliefs = fitter.even, fitter.beliefs
    widths = np.array(WIDTHS) * even.width
    score, power = _filtered(fitter, joint, widths)
    spread = STRAINS * beliefs.isotropic
    # Steps of half a narrow width at the strongest lines, which are at low angles.
    step = 0.5 * widths[0] / math.degrees(2.0 * math.tan(math.radians(0.25 * (even.x[0] + even.x[-1]))))
    count = max(3, math.ceil(2.0 * spread / step))
    strains = np.linspace(-spread, spread, count | 1)
    log_prior = -0.5 * (strains / beliefs.isotropic) ** 2

    def scores(part: Sequence[int]) -> list[Found]:
        found: list[Found] = []
        for index in part:
            lines, out = fitter.lines[index], np.empty((widths.size, 3))
            _scores(
                lines.q,
                lines.strength,
                fitter.wavelengths[0],
                joint.displacement,
                even.x[0],
                even.step,
                widths,
                score,
                power,
                strains,
                log_prior,
                beliefs.texture,
                out,
            )
            found += [Found(out[w, 0], index, widths[w], out[w, 1], out[w, 2]) for w in range(widths.size)]
        return found

    parts = [candidates[n::8] for n in range(8)]
    return sorted((look for found in pool.map(scores, parts) for look in found), reverse=True)


def single_looks(fitter: Fitter, joint: Joint) -> list[Look]:
    """The most promising line and halo of no known phase, as matched filters find them."""
    even, looks = fitter.even, []
    for halo, widths in ((False, np.array(WIDTHS[:3]) * even.width), (True, np.array([HALO]))):
        score, power = _filtered(fitter, joint, widths, loose=0.0)
        gain = np.where(score > 0.0, 0.5 * score**2 / power, 0.0)
        edge = int((even.width if not halo else 0.5 * HALO) / even.step)
        gain[:, :edge] = gain[:, -edge:] = 0.0
        w, i = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[w, i] > 0.0:
            index = fitter.single(float(even.x[i]), halo)
            place = 2.0 * math.sin(math.radians(0.5 * even.x[i])) / fitter.wavelengths[0]
            strain = math.log(float(fitter.lines[index].q[0]) / place)
            term = fitter.start(index, strain, float(widths[w]), math.log(score[w, i] / power[w, i]))
            looks.append(Look(float(gain[w, i]), index, term))
    return looks


def closer_looks(fitter: Fitter, joint: Joint, looks: Sequence[Found], pool: Executor) -> list[Look]:
    """Gain of each candidate's rigid pattern with all that the fit can do already projected out, best first."""
    chosen = [look for look in looks[:CLOSER] if look.gain > 0.0]
    if not chosen:
        return []
    rows = list(pool.map(lambda look: _drawn(fitter, look.phase, look.width, look.strain), chosen))
    found, power = _projected(fitter, joint, np.array(rows))
    best: dict[int, Look] = {}
    for look, s, p in zip(chosen, found, power, strict=True):
        index, strain = look.phase, look.strain
        if s <= 0.0:
            continue
        gain = 0.5 * s * s / p - 0.5 * (strain / fitter.beliefs.isotropic) ** 2
        if index not in best or gain > best[index].gain:
            best[index] = Look(gain, index, fitter.start(index, strain, look.width, math.log(s / p)))
    return sorted(best.values(), key=lambda look: -look.gain)


def unseen(fitter: Fitter, joint: Joint, candidates: Sequence[int], pool: Executor) -> Array:
    """Log Bayes factor of each candidate as a rigid pattern of typical width beside a fit, integrated over its amount.

    That of a fit is at the most probable amount; of a phase whose lines do not rise above noise and background it says
    nothing, yet the smaller amounts that the pattern cannot exclude are as probable as beforehand.
    """
    if not candidates:
        return np.empty(0)
    rows = list(pool.map(lambda index: _drawn(fitter, index, fitter.even.width, 0.0), candidates))
    found, power = _projected(fitter, joint, np.array(rows))
    away = np.linspace(-4.0, 4.0, 81)
    amounts = np.exp(fitter.typical + fitter.beliefs.amount * away)
    prior = -0.5 * away**2
    gain = found[:, None] * amounts - 0.5 * power[:, None] * amounts**2
    return np.asarray(logsumexp(prior + gain, axis=1) - logsumexp(prior))


def _drawn(fitter: Fitter, index: int, width: float, strain: float) -> Array:
    """A candidate's rigid pattern, its strongest line of unit area."""
    even, lines, row = fitter.even, fitter.lines[index], np.zeros(fitter.even.x.size)
    q = lines.q * (1.0 - strain)
    theta = np.arcsin(np.minimum(0.5 * fitter.wavelengths[0] * q, 0.9999))
    widths = width * (0.75 / np.cos(theta) + 0.4 * np.tan(theta))
    outline(even.x[0], even.step, fitter.wavelengths, fitter.shares, q, lines.strength, widths, 0.6, row)
    return row


def _projected(fitter: Fitter, joint: Joint, rows: Array) -> tuple[Array, Array]:
    """Slope and curvature of the misfit with the amount of each row, what the fit can do already projected out."""
    weighted = rows * fitter.weight
    shared = weighted @ joint.rows.T
    taken = np.einsum("ij,ji->i", shared, cho_solve((joint.factor, True), shared.T, check_finite=False))
    alone = np.einsum("ij,ij->i", weighted, rows)
    return weighted @ joint.rest, np.maximum(alone - taken, np.maximum(ROUNDED * alone, 1e-300))


SPACING, BLUR, FARTHEST = 5e-4, 4.0, 0.02
"""Grid of ln(1/d) and smoothing in its steps on which patterns are compared, and the largest strain between them."""


def likeness(fitter: Fitter, index: int, others: Sequence[int], known: dict[int, Array] | None = None) -> Array:
    """Cosine between a structure's pattern and others', each moved by the isotropic strain that fits best.

    `known` keeps the patterns for the next call.
    """
    known = {} if known is None else known
    half = 0.5 * fitter.wavelengths[0]
    low, high = (math.log(math.sin(math.radians(0.5 * fitter.even.x[end])) / half) for end in (0, -1))
    edges = np.arange(low - FARTHEST, high + FARTHEST, SPACING)

    def drawn(number: int) -> Array:
        lines = fitter.lines[number]
        sticks, _ = np.histogram(np.log(lines.q), edges, weights=lines.strength)
        smooth = gaussian_filter1d(sticks, BLUR)
        return np.asarray(smooth / max(float(np.linalg.norm(smooth)), 1e-300))

    for number in {index, *others} - known.keys():
        known[number] = drawn(number)
    own, curves = known[index], np.array([known[other] for other in others])
    reach = round(FARTHEST / SPACING)
    moved = np.array([np.roll(own, shift) for shift in range(-reach, reach + 1)])
    return np.asarray((curves @ moved.T).max(1))
