"""The search: which set of phases, and how sure."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

import numpy as np
from scipy.special import expit

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.fitting import Fitter, Joint, Term
from bluesky_bayes.phases.screening import Look, closer_looks, first_looks, likeness, single_looks, unseen

TRIED = 4
"""Candidates that are fitted jointly, of those that promise most."""
SWAPPED = 2
"""The same where one phase is taken away."""
BETTER = 2.0
"""Nats by which a set must gain: less is the noise of fits that are not converged."""
QUICK, LONG = 6, 30
"""Steps of a fit while searching, and of one that settles."""
LEAST_SINGLE = 5.0
"""Nats that a line of no known phase must promise to be fitted."""

MOST_MEMBERS = 20
MOST_MOVES = 30
ALIKE = 0.9
"""Cosine between patterns from which one structure is tried in place of another."""
MOST_ALIKE = 5
WINDOW = 3.0
"""Nats below the best set within which a set has neighbours: Occam's window."""
UNSETTLED = 20.0
"""Nats by which a fit that has not converged may be behind and yet be as good in the end."""
MOST_SETTLED = 10
DOUBTFUL = 30.0
"""Nats that rest on a phase below which any other may stand in its place."""


class Search:
    """Sets of phases that were fitted to one pattern, and moves between them; `names` are those of the candidates."""

    def __init__(self, fitter: Fitter, names: Sequence[str], pool: Executor) -> None:
        self.fitter, self.names, self.pool = fitter, tuple(names), pool
        self.known: dict[frozenset[int], Joint] = {}
        self.candidates = list(range(fitter.n_phases))
        self.cosines: dict[int, Array] = {}
        self.outlines: dict[int, Array] = {}
        self.settled: set[frozenset[int]] = set()
        self.n_fits = 0

    def score(self, joint: Joint) -> float:
        """Log evidence with the prior of a set. A single line costs its place only: about one is expected."""
        return joint.log_evidence + self.fitter.log_odds * len(self.phases_of(joint.members))

    def phases_of(self, members: Iterable[int]) -> frozenset[int]:
        """Those members that are phases, no single lines."""
        return frozenset(member for member in members if member < self.fitter.n_phases)

    @property
    def best(self) -> Joint:
        """The most probable set so far."""
        return max(self.known.values(), key=self.score)

    def fitted(self, members: Sequence[int], terms: Sequence[Term], displacement: float, sweeps: int = QUICK) -> Joint:
        """The fit of a set, or a better one of the same set from before."""
        joint = self.fitter.fit(members, terms, displacement, sweeps)
        self.n_fits += 1
        key = frozenset(members)
        old = self.known.get(key)
        if old is None or joint.log_evidence > old.log_evidence:
            self.known[key] = joint
        return self.known[key]

    def with_one_more(self, joint: Joint, look: Look, sweeps: int = QUICK) -> Joint:
        """A set and one phase more."""
        key = frozenset((*joint.members, look.phase))
        if key in self.known:
            return self.known[key]
        return self.fitted((*joint.members, look.phase), (*joint.terms, look.term), joint.displacement, sweeps)

    def without(self, joint: Joint, member: int, sweeps: int = QUICK) -> Joint:
        """A set without one of its phases."""
        key = frozenset(joint.members) - {member}
        if key in self.known:
            return self.known[key]
        kept = [n for n, one in enumerate(joint.members) if one != member]
        return self.fitted([joint.members[n] for n in kept], [joint.terms[n] for n in kept], joint.displacement, sweeps)

    def longer(self, joint: Joint) -> Joint:
        """The same set, fitted until it converges."""
        if joint.converged:
            return joint
        return self.fitted(joint.members, joint.terms, joint.displacement, LONG)

    def promising(self, joint: Joint, count: int, excluded: Sequence[int] = ()) -> list[Look]:
        """Candidates that promise most beyond a fit."""
        candidates = [one for one in self.candidates if one not in joint.members and one not in excluded]
        looks = first_looks(self.fitter, joint, candidates, self.pool)
        closer = closer_looks(self.fitter, joint, looks, self.pool)[:count]
        single = [look for look in single_looks(self.fitter, joint) if look.phase not in (*joint.members, *excluded)]
        return closer + [look for look in single if look.gain > LEAST_SINGLE]

    def additions(self, joint: Joint, count: int, excluded: Sequence[int] = ()) -> list[Joint]:
        """Fits of a set with each of the most promising candidates."""
        looks = self.promising(joint, count, excluded)
        return list(self.pool.map(lambda look: self.with_one_more(joint, look), looks))

    def run(self, start: Joint | None = None) -> Joint:
        """Add, drop and swap until nothing gains, from nothing or from the fit of a pattern much like this one."""
        now = self.fitted((), (), 0.0)
        empty = first_looks(self.fitter, now, self.candidates, self.pool)
        promise: dict[int, float] = {}
        for found in empty:
            promise[found.phase] = max(promise.get(found.phase, -math.inf), found.gain)
        # What explains nothing of the bare pattern explains nothing beside other phases.
        self.candidates = [index for index in self.candidates if promise[index] > 0.0]
        if start is not None:
            now = self.fitted(*self.fitter.taken(start), LONG)
        for _ in range(MOST_MOVES):
            then = self.moved(now)
            if then is None:
                break
            now = self.longer(then)
        return now

    def moved(self, now: Joint) -> Joint | None:
        """A better set one move away: one phase more, one less, or one in place of another."""
        if len(now.members) < MOST_MEMBERS:
            more = max(self.additions(now, TRIED), key=self.score, default=None)
            if more is not None and self.score(more) > self.score(now) + BETTER:
                return self.least(more)
        less = list(self.pool.map(functools.partial(self.without, now), now.members))
        best = max(less, key=self.score, default=None)
        if best is not None and self.score(best) > self.score(now):
            return best
        order = np.argsort([-self.score(one) for one in less])
        for n in order:
            swaps = self.additions(less[n], SWAPPED, excluded=(now.members[n],))
            best = max(swaps, key=self.score, default=None)
            if best is not None and self.score(best) > self.score(now) + BETTER:
                return best
        return None

    def least(self, now: Joint) -> Joint:
        """A set without those that have become needless."""
        while len(now.members) > 1:
            less = list(self.pool.map(functools.partial(self.without, now), now.members[:-1]))
            best = max(less, key=self.score)
            if self.score(best) <= self.score(now):
                break
            now = best
        return now

    def settle(self) -> None:
        """Fit the best sets until they converge, and their neighbours: what is near the best counts."""
        while len(self.settled) < MOST_SETTLED:
            self.longer(self.best)
            near = [joint for joint in self.near() if frozenset(joint.members) not in self.settled]
            if not near:
                break
            joint = self.longer(max(near, key=self.score))
            self.settled.add(frozenset(joint.members))
            if self.score(joint) > self.score(self.best) - WINDOW:
                self.explore(joint)

    def near(self) -> list[Joint]:
        """Sets of phases that are about as probable as the best."""
        joints = self.by_phases()
        return [joint for joint in joints if self.score(joint) > self.score(joints[0]) - WINDOW]

    def by_phases(self) -> list[Joint]:
        """The best fit of each set of phases, whatever single lines go with it, the best first."""
        joints: dict[frozenset[int], Joint] = {}
        for joint in sorted(self.known.values(), key=self.score, reverse=True):
            joints.setdefault(self.phases_of(joint.members), joint)
        return list(joints.values())

    def explore(self, joint: Joint) -> None:
        """Fit the neighbours of a set: one less, one more, one in place of another that looks like it."""
        less = list(self.pool.map(functools.partial(self.without, joint), joint.members))
        more = self.additions(joint, TRIED)
        swaps = []
        for member, rest in zip(joint.members, less, strict=True):
            if member < self.fitter.n_phases:
                swaps += self.replaced(joint, member, rest)
        limit = self.score(self.best) - UNSETTLED
        near = [one for one in (*less, *more, *swaps) if self.score(one) > limit]
        list(self.pool.map(self.longer, near))

    def replaced(self, joint: Joint, member: int, rest: Joint) -> list[Joint]:
        """A set with others in place of one: those like it and, where little rests on it, any that promise."""
        others = self.stand_ins(joint, member, rest)
        looks: list[Look] = []
        if self.score(joint) - self.score(rest) < DOUBTFUL:
            looks = self.promising(rest, SWAPPED, excluded=(member,))
        term = joint.terms[joint.members.index(member)]

        def in_place(other: int) -> Joint:
            look = Look(0.0, other, self.fitter.in_place(other, member, term))
            then = self.with_one_more(rest, look)
            if self.score(then) > self.score(joint) - WINDOW:
                return then
            return self.fitted((*rest.members, other), (*rest.terms, look.term), joint.displacement)

        tried = list(self.pool.map(in_place, others))
        return tried + list(self.pool.map(lambda look: self.with_one_more(rest, look), looks))

    def stand_ins(self, joint: Joint, member: int, rest: Joint) -> list[int]:
        """Those whose pattern is like a member's, or that explained half as much in its place."""
        alike, half = self.alike(member), 0.5 * (self.score(joint) + self.score(rest))
        near = [int(one) for one in np.argsort(-alike) if alike[one] > ALIKE and one not in joint.members]
        fitted = {one: self.known.get(frozenset((*rest.members, one))) for one in self.candidates}
        gained = [one for one, then in fitted.items() if then is not None and self.score(then) > half]
        return list(dict.fromkeys((*near[:MOST_ALIKE], *(one for one in gained if one not in joint.members))))

    def alike(self, member: int) -> Array:
        """Cosine between the pattern of a phase and that of each candidate."""
        if member not in self.cosines:
            self.cosines[member] = likeness(self.fitter, member, range(self.fitter.n_phases), self.outlines)
        return self.cosines[member]

    def probabilities(self) -> tuple[list[Joint], Array]:
        """Sets by their probability, the best first."""
        joints = self.by_phases()
        scores = np.array([self.score(joint) for joint in joints])
        share = np.exp(scores - scores[0])
        return joints, share / share.sum()

    def unseen(self) -> Array:
        """Probability of each candidate beside the best set, in whatever amount; 0 for the members of that set."""
        best, chances = self.by_phases()[0], np.zeros(self.fitter.n_phases)
        others = [index for index in range(self.fitter.n_phases) if index not in best.members]
        chances[others] = expit(unseen(self.fitter, best, others, self.pool) + self.fitter.log_odds)
        return chances
