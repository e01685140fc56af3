"""Joint fits of several phases to a pattern, with the evidence of each set of phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.ndimage import gaussian_filter1d

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.forward import Integers, Lines, groups_of, normal_equations, render, single_line
from bluesky_bayes.phases.patterns import Even, splines_on

Linear: TypeAlias = tuple[Array, Array, Integers, Integers]
"""Curve of a model, its slopes, and where each of them begins and ends."""

DAMPING = 1e-3
HALO = 3.0
"""Full width at half maximum of a halo, degrees, as glasses and amorphous carbon have it."""
LEAST_GAIN = 0.05
"""Nats below which a step ends a fit."""
BROADEST, SMALLEST = 10.0, 50.0
"""Largest width of a phase's lines, in that of typical peaks, and the size of crystals in Angstrom that gives it by
Scherrer's formula: what is smaller makes halos, as amorphous matter does."""
FARTHEST, MISPLACED = 0.02, 0.001
"""Largest strain between lines of two structures that may be the same, and how well they are to meet."""
SPLINE_WIDTH = 1.44
"""Full width at half maximum of a cubic B-spline, in distances of knots."""


@dataclass(frozen=True)
class Beliefs:
    """What is believed before the pattern is seen: standard deviations, by physical reasons.

    Attributes
    ----------
    isotropic, deviatoric : float
        Of a cell's strains: cells differ from those published by composition, temperature and calculation.
    displacement : float
        Shift of lines by the specimen's height, degrees; a tenth of a millimetre on a usual circle.
    texture : float
        Of the logarithm of the factor on a group of reflections: preferred orientation, few grains, occupancies.
    amount : float
        Of the logarithm of the amount, about a tenth of the highest peak: none is far above that peak, and few that are
        asked for are below half a per cent of it.
    width : float
        Of the logarithm of the widths, about that of typical peaks.
    lorentzian : tuple of float
        Mean and deviation of the Lorentzian's share.
    profile : float
        Relative error of profiles: part of the noise.
    misplaced : float
        Degrees: error of positions that no parameter takes, part of the noise.
    crooked : float
        Relative error of the background: in features as broad as lines of the smallest crystals, or broader, which a
        fit follows, and in narrower ones, which are part of the noise.
    alike : float
        Misfits are alike within a peak: over how many typical widths they count as one. Counting noise is not.
    present : float
        Number of phases expected, whatever the size of the library.
    """

    isotropic: float = 0.006
    deviatoric: float = 0.003
    displacement: float = 0.06
    texture: float = 0.35
    amount: float = 1.5
    width: float = 0.8
    lorentzian: tuple[float, float] = (0.6, 0.2)
    profile: float = 0.05
    misplaced: float = 0.01
    crooked: float = 0.01
    alike: float = 1.5
    present: float = 2.5


def variances_of(even: Even, beliefs: Beliefs) -> tuple[Array, Array]:
    """Variances of counting, and of what the model cannot follow."""
    net = np.maximum(even.y - even.background, 0.0)
    slope = np.gradient(gaussian_filter1d(even.y, 2.0), even.step)
    crooked = (beliefs.crooked * even.background) ** 2
    return even.noise, (beliefs.profile * net) ** 2 + (beliefs.misplaced * slope) ** 2 + crooked


@dataclass(frozen=True, eq=False)
class Term:
    """Values of one phase in a fit: what a next fit starts from.

    Attributes
    ----------
    shape : (n_strains + 4,) float
        As :mod:`bluesky_bayes.phases.forward` lists them.
    factors : (n_lines,) float
        Logarithm of the factor on each line.
    """

    shape: Array
    factors: Array | None = None


@dataclass(frozen=True, eq=False)
class Joint:
    """A fit of a set of phases.

    Attributes
    ----------
    members : tuple of int
        Numbers of the phases.
    terms : tuple of Term
    displacement : float
    curves : (n_phases, n_points) float
    background : (n_points,) float
    rest : (n_points,) float
        Data less model.
    log_evidence : float
        By Laplace's method, up to a constant of the pattern.
    rows, low, high, factor
        Slopes with every parameter, where they are not zero, and the Cholesky factor of the curvature.
    starts : tuple of int
        First parameter of each phase.
    converged : bool
    lines : tuple of Lines
        Of the members.
    """

    members: tuple[int, ...]
    terms: tuple[Term, ...]
    displacement: float
    curves: Array
    background: Array
    rest: Array
    log_evidence: float
    rows: Array
    low: Integers
    high: Integers
    factor: Array
    starts: tuple[int, ...]
    converged: bool
    lines: tuple[Lines, ...]

    @property
    def areas(self) -> Array:
        """Intensity of each phase in the pattern's range, counts times points."""
        return np.asarray(self.curves.sum(1))


class Fitter:
    """Joint fits to one pattern.

    Parameters
    ----------
    even : Even
    lines : sequence of Lines
        Of every candidate.
    beliefs : Beliefs

    Attributes
    ----------
    log_odds : float
        Of a candidate's presence beforehand.
    splines : (k, n_points) float
        Of the background: smooth ones without a prior, and those that make it crooked.
    flat, flat_precision : (k,) float
        Where a fit begins with them, and the precisions of their priors.
    """

    def __init__(self, even: Even, lines: Sequence[Lines], beliefs: Beliefs) -> None:
        self.even, self.lines, self.beliefs = even, list(lines), beliefs
        self.n_phases = len(self.lines)
        share = min(beliefs.present / self.n_phases, 0.5)
        self.log_odds = math.log(share / (1.0 - share))
        self.alike = max(1.0, beliefs.alike * even.width / even.step)
        noise, misfit = variances_of(even, beliefs)
        self.variance = noise + misfit
        # Counts scatter point by point; misfits that are alike over so many points weigh as one point does.
        self.weight = 1.0 / (noise + self.alike * misfit)
        self.wavelengths = np.array(even.radiation.wavelengths)
        self.shares = np.array(even.radiation.intensities)
        smooth = np.linalg.solve(even.splines @ even.splines.T, even.splines @ even.background)
        broadest = math.degrees(0.9 * self.wavelengths[0] / SMALLEST)
        crooked = splines_on(even.x, broadest / SPLINE_WIDTH) * even.background
        self.splines = np.concatenate([even.splines, crooked])
        self.flat = np.concatenate([smooth, np.zeros(len(crooked))])
        self.flat_precision = np.concatenate([0.0 * smooth, np.full(len(crooked), beliefs.crooked**-2)])
        self.spans = _spans(self.splines)
        self.typical = math.log(0.1 * even.height * even.width)
        self.widest = min(BROADEST * even.width, max(3.0 * even.width, broadest))

    def single(self, two_theta: float, halo: bool) -> int:
        """Number of a line, or halo, of no known phase near an angle."""
        for index in range(self.n_phases, len(self.lines)):
            known = self.lines[index]
            if bool(known.broad) == halo:
                place = 2.0 * math.degrees(math.asin(0.5 * self.wavelengths[0] * float(known.q[0])))
                if abs(place - two_theta) < 0.5 * (known.broad or self.even.width):
                    return index
        x = self.even.x
        self.lines.append(single_line(two_theta, self.wavelengths[0], x[0], x[-1], HALO if halo else 0.0))
        return len(self.lines) - 1

    def taken(self, joint: Joint) -> tuple[list[int], list[Term], float]:
        """Members, terms and displacement of a fit to another pattern of the same candidates; single lines anew."""
        known = self.n_phases
        members = []
        for member, lines in zip(joint.members, joint.lines, strict=True):
            if member >= known:
                self.lines.append(lines)
                member = len(self.lines) - 1
            members.append(member)
        return members, list(joint.terms), joint.displacement

    def start(self, index: int, strain: float, width: float, log_amount: float) -> Term:
        """A term from a first look: isotropic strain, full width at half maximum and amount."""
        n = len(self.lines[index].strains)
        shape = np.zeros(n + 4)
        shape[0], shape[1] = log_amount, strain
        shape[n + 1], shape[n + 2], shape[n + 3] = math.log(0.75 * width), math.log(0.4 * width), 0.6
        return Term(shape)

    def in_place(self, index: int, member: int, term: Term) -> Term:
        """A term of one phase whose lines lie at the places of another's, as far as strains bring them there."""
        own, other = self.lines[member], self.lines[index]
        m, n = len(own.strains), len(other.strains)
        there = np.sort(np.log(own.q) + term.shape[1 : m + 1] @ own.strains)
        _, precision = self.prior(other, 0)
        held, strains = np.diag(precision[1 : n + 1]), np.zeros(n)
        for _ in range(3):
            here = np.log(other.q) + strains @ other.strains
            gap = there[np.abs(there[:, None] - here).argmin(0)] - here
            weight = other.strength / MISPLACED**2 * (np.abs(gap) < FARTHEST)
            matrix = (other.strains * weight) @ other.strains.T
            strains = np.linalg.solve(matrix + held, other.strains @ (weight * gap) + matrix @ strains)
        return Term(np.concatenate([term.shape[:1], strains, term.shape[m + 1 :]]))

    def prior(self, lines: Lines, n_groups: int) -> tuple[Array, Array]:
        """Means and precisions of a phase's parameters."""
        beliefs, n = self.beliefs, len(lines.strains)
        mean, sigma = np.zeros(lines.n_shape + n_groups), np.empty(lines.n_shape + n_groups)
        width = lines.broad or self.even.width
        mean[0], sigma[0] = self.typical + math.log(width / self.even.width), beliefs.amount
        sigma[1], sigma[2 : n + 1] = lines.wanders or beliefs.isotropic, beliefs.deviatoric
        mean[n + 1], mean[n + 2] = math.log(0.75 * width), math.log(0.4 * width)
        sigma[n + 1 : n + 3] = beliefs.width
        mean[n + 3], sigma[n + 3] = beliefs.lorentzian
        sigma[n + 4 :] = beliefs.texture
        return mean, sigma**-2

    def fit(self, members: Sequence[int], terms: Sequence[Term], displacement: float = 0.0, sweeps: int = 8) -> Joint:
        """Most probable parameters of a set of phases, by Levenberg's and Marquardt's method, and its evidence."""
        even, n_flat = self.even, len(self.flat)
        chosen = [self.lines[member] for member in members]
        groups: list[Integers] = []
        values, means, precisions, limits = [self.flat, np.array([displacement])], [], [], []
        starts = [n_flat + 1]
        for lines, term in zip(chosen, terms, strict=True):
            group, n_groups = groups_of(lines, term.shape, self.wavelengths[0])
            groups.append(group)
            values += [term.shape, _carried(lines, term.factors, group, n_groups)]
            mean, precision = self.prior(lines, n_groups)
            means.append(mean)
            precisions.append(precision)
            limits.append(_limits(lines, n_groups))
            starts.append(starts[-1] + mean.size)
        prior_mean = np.concatenate([np.zeros(n_flat + 1), *means])
        precision = np.concatenate([self.flat_precision, [self.beliefs.displacement**-2], *precisions])
        limit = np.concatenate([np.full(n_flat, np.inf), [0.03], *limits])
        value = np.concatenate(values)

        def model(value: Array) -> Linear:
            rows = np.zeros((value.size, even.x.size))
            low, high = np.full(value.size, even.x.size), np.zeros(value.size, np.int64)
            rows[:n_flat] = self.splines
            low[:n_flat], high[:n_flat] = self.spans
            low[n_flat], high[n_flat] = 0, even.x.size
            total = value[:n_flat] @ self.splines
            for lines, group, a, b in zip(chosen, groups, starts[:-1], starts[1:], strict=True):
                render(
                    even.x[0],
                    even.step,
                    self.wavelengths,
                    self.shares,
                    lines.q,
                    lines.strength,
                    lines.strains,
                    group,
                    value[n_flat],
                    value[a:b],
                    rows[a:b],
                    rows[n_flat],
                    low[a:b],
                    high[a:b],
                )
                total = total + rows[a]
            return total, rows, low, high

        def cost(value: Array, total: Array) -> float:
            misfit = float(np.sum(self.weight * (even.y - total) ** 2))
            return 0.5 * (misfit + float(np.sum(precision * (value - prior_mean) ** 2)))

        state = model(value)
        now, damping, converged = cost(value, state[0]), DAMPING, False
        for _ in range(sweeps):
            matrix, gradient = self._normal(state)
            gradient -= precision * (value - prior_mean)
            for _attempt in range(6):
                damped = matrix.copy()
                damped[np.diag_indices(value.size)] += precision + damping * np.diag(matrix) + 1e-9
                step = cho_solve(cho_factor(damped, lower=True, check_finite=False), gradient, check_finite=False)
                moved = value + np.clip(step, -limit, limit)
                self._keep_inside(moved, chosen, starts)
                new = model(moved)
                then = cost(moved, new[0])
                if then < now:
                    break
                damping = max(8.0 * damping, 1e-2)
            else:
                converged = True
                break
            gain, value, state, now, damping = now - then, moved, new, then, max(0.2 * damping, 1e-7)
            if gain < LEAST_GAIN:
                converged = True
                break
        return self._joint(members, chosen, groups, starts, value, state, precision, now, converged)

    def _normal(self, state: Linear) -> tuple[Array, Array]:
        total, rows, low, high = state
        matrix, gradient = np.empty((len(rows), len(rows))), np.empty(len(rows))
        normal_equations(rows, low, high, self.weight, self.even.y - total, matrix, gradient)
        return matrix, gradient

    def _keep_inside(self, value: Array, chosen: list[Lines], starts: list[int]) -> None:
        """Widths and shares within what a diffractometer can give."""
        for lines, start in zip(chosen, starts, strict=False):
            n = start + len(lines.strains)
            width = lines.broad or self.even.width
            widest = 2.0 * width if lines.broad else self.widest
            value[n + 1 : n + 3] = np.clip(value[n + 1 : n + 3], math.log(0.05 * width), math.log(widest))
            value[n + 3] = min(max(value[n + 3], 0.02), 0.98)

    def _joint(
        self,
        members: Sequence[int],
        chosen: list[Lines],
        groups: list[Integers],
        starts: list[int],
        value: Array,
        state: Linear,
        precision: Array,
        cost: float,
        converged: bool,
    ) -> Joint:
        n_flat, (total, rows, low, high) = len(self.flat), state
        matrix, _ = self._normal(state)
        matrix[np.diag_indices(value.size)] += precision
        try:
            factor, _ = cho_factor(matrix, lower=True, check_finite=False)
            log_volume = float(np.sum(np.log(np.diag(factor))))
        except LinAlgError:
            factor, log_volume = np.eye(value.size), math.inf
        terms = []
        for lines, group, a, b in zip(chosen, groups, starts[:-1], starts[1:], strict=True):
            own = a + lines.n_shape
            factors = np.concatenate([[0.0], value[own:b]])[group]
            terms.append(Term(value[a:own].copy(), factors))
        return Joint(
            tuple(members),
            tuple(terms),
            float(value[n_flat]),
            rows[starts[:-1]].copy(),
            value[:n_flat] @ self.splines,
            self.even.y - total,
            -cost - log_volume + 0.5 * float(np.sum(np.log(precision[n_flat:]))),
            rows,
            low,
            high,
            factor,
            tuple(starts[:-1]),
            converged,
            tuple(chosen),
        )


def _carried(lines: Lines, factors: Array | None, group: Integers, n_groups: int) -> Array:
    """Factors of an earlier fit, on the groups of this one."""
    if factors is None:
        return np.zeros(n_groups)
    total = np.bincount(group, lines.strength, n_groups + 1)
    mean = np.bincount(group, lines.strength * factors, n_groups + 1) / np.maximum(total, 1e-300)
    return np.asarray(mean[1:])


def _limits(lines: Lines, n_groups: int) -> Array:
    """Longest step of each parameter: lines stay near the peaks they are to find."""
    n = len(lines.strains)
    return np.concatenate([[0.7], np.full(n, 0.0015), [0.5, 0.5, 0.2], np.full(n_groups, 0.5)])


def _spans(rows: Array) -> tuple[Integers, Integers]:
    """Where rows are not zero."""
    some = rows != 0.0
    return np.argmax(some, 1), rows.shape[1] - np.argmax(some[:, ::-1], 1)
