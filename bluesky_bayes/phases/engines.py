"""Two general engines on the model of the phase search: variational inference and replica exchange.

Both have an indicator of presence for each of all candidates, as Murakami et al. have it (arXiv:2501.09308), begin with
no phase present, and are written on an array library of the standard's names (NumPy, CuPy, array-api-strict). They
stand beside :func:`bluesky_bayes.phases.search`, to check it and to compare. Lines of no known phase are candidates
besides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.arrays import Model, to_numpy
from bluesky_bayes.phases.fitting import Beliefs, Fitter
from bluesky_bayes.phases.forward import lines_of
from bluesky_bayes.phases.library import Library
from bluesky_bayes.phases.patterns import Pattern, even

OFFERED = 6
"""Candidates that are adapted at once before the most probable comes in."""
FIRST_STEPS, STEPS = 6, 2
"""Steps to the mode of a candidate that is offered, and of a distribution in a round."""
SWEEPS = 3
"""Rounds of the phases present after each that comes or goes."""
LAST_SWEEPS = 12
MOST_ROUNDS = 40
MOST_ODDS = 30.0
"""Largest logarithm of a candidate's odds."""
FARTHEST = 1.0
"""Longest step of a parameter, prior standard deviations."""
CLOSE = 10.0
"""Nats by which another may promise less than what it would replace, to be tried."""
BETTER = 1.0
"""Nats by which the bound must gain: less is the noise of draws."""
RATE = 0.7
"""Share of a natural-gradient step that is taken."""
MOST_PRESENT = 12
HOTTEST = 0.05
"""Power of the evidence in the hottest replica."""
FEWER = 3.0
"""By so much the log odds of a phase are less where the evidence counts for nothing: hot replicas stay small."""
ANYONE = 0.05
"""Share of births that choose among all candidates alike."""
FIT_STEPS, LAST_STEPS = 4, 20
GAIN = 0.3
"""Nats below which a step ends a fit."""


class Presence(NamedTuple):
    """What an engine says: p(present | data) and the amount if present, for each structure of the library."""

    probabilities: Array
    amounts: Array


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


@dataclass(eq=False)
class Fit:
    """A set of phases with the parameters that go best with it."""

    members: tuple[int, ...]
    u: Any
    displacement: float
    rest: Any
    log_evidence: float
    converged: bool = True


def fitted(
    model: Model, members: tuple[int, ...], u: Any, displacement: float, steps: int = FIT_STEPS, data: Any = None
) -> Fit:
    """All parameters of a set together, by Gauss-Newton steps, and its evidence by Laplace's method.

    The background is integrated out; so are the parameters, in the normal distribution about the best.

    Parameters
    ----------
    model : Model
    members : tuple of int
    u : (n_members, n_parameters) array
        Where to start.
    displacement : float
        Degrees.
    steps : int
    data : (n_points,) array, optional
        In place of the pattern: what other phases leave over.
    """
    xp, m = model.xp, len(members)
    data = model.y if data is None else data
    which = np.array(members, np.int64)
    d = model.n_strains + 4 + int(model.n_factors[which].max(initial=0))
    # Of the slopes, and of the parameters.
    rows_of, place = (
        np.concatenate([*(k * size + model.used[member] for k, member in enumerate(members)), [m * size]])
        for size in (d, model.size)
    )
    columns, values = xp.asarray(rows_of.astype(np.int64)), xp.asarray(place.astype(np.int64))
    shift = displacement / model.shift

    def cost(u: Any, shift: float, rest: Any) -> float:
        return 0.5 * float(xp.sum(model.weight * rest**2)) + 0.5 * float(xp.sum(u**2)) + 0.5 * shift**2

    def left(curves: Any) -> Any:
        return model.without_flat(data - xp.sum(curves, axis=0))

    drawn = model.drawn(which, u, shift * model.shift) if m else None
    rest = left(drawn.curves) if drawn else model.without_flat(data)
    now, damping, converged = cost(u, shift, rest), 1e-3, False
    if not m:
        return Fit(members, model.mean[:0, :], displacement, rest, -now)
    for step in range(steps + 1):
        assert drawn is not None
        rows = xp.concat([xp.reshape(drawn.rows, (m * d, -1)), xp.sum(drawn.shift, axis=0)[None, :] * model.shift])
        rows = xp.take(rows, columns, axis=0)
        weighted = rows * model.weight
        flat = weighted @ model.flat.T
        matrix = weighted @ rows.T - flat @ flat.T
        value = xp.take(xp.concat([xp.reshape(u, (-1,)), xp.asarray([shift])]), values)
        gradient = weighted @ model.without_flat(rest) - value
        eye = xp.eye(value.shape[0])
        if step == steps:
            break
        for _ in range(5):
            damped = matrix + eye + damping * (matrix * eye)
            move = _within(xp, xp.linalg.solve(damped, gradient[:, None])[:, 0], FARTHEST)
            spread = np.zeros(m * model.size + 1)
            spread[place] = to_numpy(move)
            u_then = model.kept(which, u + xp.reshape(xp.asarray(spread[:-1]), (m, -1)))
            shift_then = shift + float(spread[-1])
            drawn_then = model.drawn(which, u_then, shift_then * model.shift)
            rest_then = left(drawn_then.curves)
            then = cost(u_then, shift_then, rest_then)
            if then < now:
                break
            damping = max(8.0 * damping, 1e-2)
        else:
            converged = True
            break
        gain = now - then
        u, shift, drawn, rest, now, damping = u_then, shift_then, drawn_then, rest_then, then, max(0.2 * damping, 1e-7)
        if gain < GAIN:
            steps, converged = step + 1, True
    volume = 0.5 * float(xp.linalg.slogdet(matrix + eye)[1])
    return Fit(members, u, shift * model.shift, rest, -now - volume, converged)


class Sets:
    """Fits of the sets that a chain comes to, each kept, and which candidate each of them wants next."""

    def __init__(self, model: Model) -> None:
        self.model = model
        none = fitted(model, (), model.mean[:0, :], 0.0)
        self.known: dict[frozenset[int], Fit] = {frozenset(): none}
        self.promise: dict[frozenset[int], tuple[Array, Array]] = {}
        self.base = none.log_evidence

    def score(self, members: frozenset[int], beta: float) -> float:
        """Log prior and tempered evidence, both less those of the empty set."""
        odds = float(self.model.log_odds[list(members)].sum()) - FEWER * (1.0 - beta) * len(members)
        return beta * (self.known[members].log_evidence - self.base) + odds

    def settle(self, members: frozenset[int]) -> None:
        """Fit a set until it converges."""
        old = self.known[members]
        if not old.converged:
            new = fitted(self.model, old.members, old.u, old.displacement, LAST_STEPS)
            self.known[members] = replace(max(old, new, key=lambda fit: fit.log_evidence), converged=True)

    def promises(self, members: frozenset[int]) -> tuple[Array, Array]:
        """Nats that each candidate promises beyond a set, and where it starts."""
        if members not in self.promise:
            fit = self.known[members]
            self.promise[members] = self.model.looks(fit.rest, fit.displacement)
        return self.promise[members]

    def births(self, members: frozenset[int], beta: float) -> Array:
        """Probabilities with which each candidate is offered to a set."""
        gains = np.maximum(self.promises(members)[0], 0.0) * beta
        free = np.ones(gains.size)
        free[list(members)] = 0.0
        likely = np.exp(gains - gains[free > 0.0].max()) * free
        return np.asarray((1.0 - ANYONE) * likely / likely.sum() + ANYONE * free / free.sum())

    def more(self, members: frozenset[int], new: int) -> frozenset[int]:
        """A set with one phase more, fitted."""
        then = members | {new}
        if then not in self.known:
            fit, start = self.known[members], self.promises(members)[1][new]
            alone = fitted(self.model, (new,), self.model.xp.asarray(start[None, :]), fit.displacement, 3, fit.rest)
            u = self.model.xp.concat([fit.u, alone.u])
            self.known[then] = fitted(self.model, (*fit.members, new), u, fit.displacement)
        return then

    def less(self, members: frozenset[int], old: int) -> frozenset[int]:
        """A set with one phase less, fitted."""
        then = members - {old}
        if then not in self.known:
            fit, xp = self.known[members], self.model.xp
            kept = [n for n, one in enumerate(fit.members) if one != old]
            u = xp.take(fit.u, xp.asarray(np.array(kept)), axis=0)
            self.known[then] = fitted(self.model, tuple(fit.members[n] for n in kept), u, fit.displacement)
        return then


def exchange(model: Model, steps: int = 400, replicas: int = 5, seed: int = 0) -> Presence:
    """Replica exchange over indicators: amounts and all other parameters are integrated out.

    Each step of a replica offers a phase that comes, one that goes, or another in place of one; what comes is drawn by
    what the residual promises, and the way back is weighed. All replicas begin with no phase. A set's evidence is that
    of its fit, by Laplace's method.

    Parameters
    ----------
    model : Model
    steps : int
        Of each replica; the first quarter is not counted.
    replicas : int
    seed : int
    """
    rng, sets = np.random.default_rng(seed), Sets(model)
    betas = np.geomspace(HOTTEST, 1.0, replicas)
    states = [frozenset[int]()] * replicas
    counted, amounts = np.zeros(model.n), np.zeros(model.n)
    log_amounts = to_numpy(model.mean[:, 0]), to_numpy(model.sigma[:, 0])
    for step in range(steps):
        states = [_moved(sets, state, float(beta), rng) for state, beta in zip(states, betas, strict=True)]
        for r in range(step % 2, replicas - 1, 2):
            (warm, cold), (one, other) = map(float, betas[r : r + 2]), states[r : r + 2]
            gain = sets.score(other, warm) + sets.score(one, cold) - sets.score(one, warm) - sets.score(other, cold)
            if math.log(rng.random()) < gain:
                states[r], states[r + 1] = states[r + 1], states[r]
        if 4 * step >= steps:
            fit = sets.known[states[-1]]
            for place, member in enumerate(fit.members):
                counted[member] += 1.0
                amounts[member] += math.exp(log_amounts[0][member] + log_amounts[1][member] * float(fit.u[place, 0]))
    found = Presence(counted / (steps - (steps + 3) // 4), amounts / np.maximum(counted, 1.0))
    return Presence(*(part[: model.n_phases] for part in found))


def _moved(sets: Sets, now: frozenset[int], beta: float, rng: np.random.Generator) -> frozenset[int]:
    """The next state of one replica."""
    kind, accept = rng.random(), math.log(rng.random())
    if kind < 0.25:
        if len(now) >= min(MOST_PRESENT, sets.model.n):
            return now
        chances = sets.births(now, beta)
        new = int(rng.choice(chances.size, p=chances))
        then = sets.more(now, new)
        ratio = -math.log(len(then)) - math.log(chances[new])
    else:
        if not now:
            return now
        old = sorted(now)[rng.integers(len(now))]
        rest = sets.less(now, old)
        chances = sets.births(rest, beta)
        if kind < 0.5:
            then, ratio = rest, math.log(len(now)) + math.log(chances[old])
        else:
            free = chances.copy()
            free[old] = 0.0
            if not free.any():
                return now
            new = int(rng.choice(free.size, p=free / free.sum()))
            then = sets.more(rest, new)
            ratio = math.log(chances[old] / (1.0 - chances[new])) - math.log(chances[new] / (1.0 - chances[old]))
    if beta == 1.0 and sets.score(then, beta) > sets.score(now, beta) - CLOSE:
        sets.settle(then)
    return then if accept < sets.score(then, beta) - sets.score(now, beta) + ratio else now


@dataclass(eq=False)
class Belief:
    """Variational distribution of a candidate if it is present: normal, with what it does to the pattern.

    Attributes
    ----------
    u : (n_parameters,) array
        Mean.
    curve, shift : (n_points,) array
        At the mean, and its slope with the displacement.
    gain : float
        By which its presence raises the bound, beside the others as they were then.
    toll : float
        Part of it that the prior takes.
    """

    u: Any
    curve: Any
    shift: Any
    gain: float
    toll: float


class Variational:
    """Indicators of all candidates and normal distributions of their parameters, fitted to a pattern.

    Parameters of what is absent are those of the prior (Titsias and Lazaro-Gredilla, 2011). The background is
    integrated out, the displacement is its best value.
    """

    def __init__(self, model: Model, rng: np.random.Generator) -> None:
        self.model, self.rng = model, rng
        self.present: dict[int, Belief] = {}
        self.logits = model.log_odds.copy()
        self.displacement = 0.0
        self.whole = model.without_flat(model.y)

    def rest(self, without: int = -1) -> Any:
        """What the phases leave over on average."""
        parts = [self.chance(k) * one.curve for k, one in self.present.items() if k != without]
        return self.whole - sum(parts[1:], parts[0]) if parts else self.whole

    def logit(self, k: int, one: Belief) -> float:
        """Log odds of a candidate's presence beside the others."""
        return min(max(float(self.model.log_odds[k]) + one.gain, -MOST_ODDS), MOST_ODDS)

    def chance(self, k: int) -> float:
        """Probability of a candidate."""
        return 1.0 / (1.0 + math.exp(-self.logits[k]))

    def adapted(self, k: int, u: Any, rest: Any, steps: int) -> Belief:
        """A candidate's distribution after natural-gradient steps, from pairs of draws about its mean."""
        model, xp = self.model, self.model.xp
        which, used = np.array([k]), self.columns(k)
        eye, u = xp.eye(used.shape[0]), u[None, :]
        precision: Any = None

        def spread(values: Any) -> Any:
            whole = np.zeros(model.size)
            whole[model.used[k]] = to_numpy(values)
            return xp.asarray(whole)[None, :]

        for step in range(steps):
            noises = [0.0 * eye[:, 0]]
            if step:
                normal = xp.asarray(self.rng.standard_normal((used.shape[0], 1)))
                noise = xp.linalg.solve(xp.linalg.cholesky(precision).T, normal)[:, 0]
                noises = [noise, -noise]
            uphill, found = -xp.take(u[0, :], used), eye
            for noise in noises:
                curve, rows, _ = self.drawn(k, model.kept(which, u + spread(noise)))
                weighted = rows * model.weight
                uphill = uphill + (weighted @ (rest - curve)) / len(noises)
                found = found + (weighted @ rows.T) / len(noises)
            precision = found if precision is None else (1.0 - RATE) * precision + RATE * found
            move = _within(xp, xp.linalg.solve(precision, uphill[:, None])[:, 0], FARTHEST)
            u = model.kept(which, u + RATE * spread(move))
        curve, rows, shift = self.drawn(k, u)
        precision = eye + (rows * model.weight) @ rows.T
        volume = 0.5 * float(xp.linalg.slogdet(precision)[1])
        toll = 0.5 * float(xp.sum(u**2)) + volume
        gain = float(xp.sum(model.weight * curve * (rest - 0.5 * curve))) - toll
        return Belief(u[0, :], curve, shift, gain, toll)

    def columns(self, k: int) -> Any:
        """Numbers of the parameters that a candidate has."""
        return self.model.xp.asarray(self.model.used[k].astype(np.int64))

    def drawn(self, k: int, u: Any) -> tuple[Any, Any, Any]:
        """Curve of a candidate, slopes with what it has, and with the displacement, less what the background takes."""
        model, drawn = self.model, self.model.drawn(np.array([k]), u, self.displacement)
        rows = model.xp.take(drawn.rows[0, ...], self.columns(k), axis=0)
        return model.without_flat(drawn.curves)[0, :], model.without_flat(rows), model.without_flat(drawn.shift)[0, :]

    def sweep(self, steps: int) -> None:
        """Steps of all that are present, one after another, and of the displacement."""
        model, xp = self.model, self.model.xp
        for k in self.rng.permutation(sorted(self.present)):
            rest = self.rest(int(k))
            new = self.adapted(int(k), self.present[k].u, rest, steps)
            self.present[int(k)] = new
            self.logits[k] = self.logit(int(k), new)
        moved = sum((self.chance(k) * one.shift for k, one in self.present.items()), 0.0 * self.whole)
        uphill = float(xp.sum(model.weight * moved * self.rest())) * model.shift - self.displacement / model.shift
        found = 1.0 + float(xp.sum(model.weight * moved**2)) * model.shift**2
        self.displacement += RATE * model.shift * uphill / found

    def drop(self) -> bool:
        """Leave out what is more probably absent, the least probable of them; whether there was one."""
        worst = min(self.present, key=lambda k: self.logits[k], default=-1)
        if worst < 0 or self.logits[worst] > 0.0:
            return False
        del self.present[worst]
        return True

    def offers(self, without: int = -1, count: int = OFFERED) -> dict[int, Belief]:
        """Distributions of the candidates that promise most of what is left over, each as if it came alone."""
        rest = self.rest(without)
        gains, starts = self.model.looks(rest, self.displacement)
        absent = [int(k) for k in np.argsort(-gains) if k not in self.present]
        offers = {}
        for k in absent[:count]:
            start = self.model.xp.asarray(starts[k : k + 1, :])
            mode = fitted(self.model, (k,), start, self.displacement, FIRST_STEPS, rest)
            offers[k] = self.adapted(k, mode.u[0, :], rest, STEPS)
        return offers

    def grow(self) -> None:
        """Take in what gains most until nothing does."""
        for _ in range(MOST_ROUNDS):
            offers = self.offers()
            best = max(offers, key=lambda k: self.logit(k, offers[k]), default=-1)
            if best < 0 or self.logit(best, offers[best]) < 0.0 or len(self.present) >= MOST_PRESENT:
                break
            self.present[best] = offers[best]
            self.logits[best] = self.logit(best, offers[best])
            self.settle(SWEEPS)
            if best not in self.present:
                break
        self.settle(LAST_SWEEPS)

    def exchange(self) -> None:
        """Leave out each that is present, or put another in its place, where the bound gains."""
        for old in sorted(self.present, key=lambda k: self.logits[k]):
            if old not in self.present or self.replaced(old, {}):
                continue
            offers = self.offers(old)
            new = max(offers, key=lambda k: offers[k].gain, default=-1)
            if new >= 0 and offers[new].gain > self.present[old].gain - CLOSE:
                self.replaced(old, {new: offers[new]})

    def replaced(self, old: int, new: dict[int, Belief]) -> bool:
        """Whether the bound gains with others in place of one; all is as it was where it does not."""
        before, bound = (dict(self.present), self.logits.copy(), self.displacement), self.bound
        del self.present[old]
        for k, one in new.items():
            self.present[k], self.logits[k] = one, self.logit(k, one)
        self.settle(LAST_SWEEPS)
        if self.bound > bound + BETTER:
            self.grow()
            return True
        self.present, self.logits, self.displacement = before
        return False

    def settle(self, sweeps: int) -> None:
        """Steps of what is present, and without what has become needless."""
        for _ in range(sweeps):
            self.sweep(STEPS)
        while self.drop():
            self.sweep(STEPS)

    @property
    def bound(self) -> float:
        """The evidence's lower bound, up to a constant."""
        xp, weight = self.model.xp, self.model.weight
        total = -0.5 * float(xp.sum(weight * self.rest() ** 2))
        for k, one in self.present.items():
            p = self.chance(k)
            total += p * (float(self.model.log_odds[k]) - one.toll) - 0.5 * p * (1.0 - p) * float(
                xp.sum(weight * one.curve**2)
            )
            total -= sum(part * math.log(part) for part in (p, 1.0 - p) if part > 0.0)
        return total


def variational(model: Model, seed: int = 0) -> Presence:
    """Sparse stochastic variational inference: an indicator and normal parameters for each candidate.

    Coordinates go up in the order of what they gain, as this bound has many maxima (Ray and Szabo, 2022): the candidate
    that gains most comes in, all that are present take steps of their natural gradient, estimated by draws, and
    what has become needless goes. In the end each may change its place with another.

    Parameters
    ----------
    model : Model
    seed : int
    """
    q = Variational(model, np.random.default_rng(seed))
    q.grow()
    q.exchange()
    for k, one in q.offers(count=model.n).items():
        q.logits[k] = q.logit(k, one)
    amounts = np.zeros(model.n)
    for k, one in q.present.items():
        amounts[k] = math.exp(float(model.mean[k, 0] + model.sigma[k, 0] * one.u[0]))
    return Presence(1.0 / (1.0 + np.exp(-q.logits[: model.n_phases])), amounts[: model.n_phases])


def _within(xp: Any, values: Any, limit: float) -> Any:
    return xp.where(values > limit, limit, xp.where(values < -limit, -limit, values))
