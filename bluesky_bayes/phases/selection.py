"""The answer to a phase search: what is there, how much, how sure, and what nothing explains."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import solve_triangular

from bluesky_bayes.blas import one_blas_thread
from bluesky_bayes.dataset import Array, Dataset, Origin
from bluesky_bayes.evidence import check_probability
from bluesky_bayes.phases.fitting import Beliefs, Fitter, Joint
from bluesky_bayes.phases.forward import lines_of, widths_at
from bluesky_bayes.phases.library import Library
from bluesky_bayes.phases.patterns import Even, Pattern, even
from bluesky_bayes.phases.searching import Search
from bluesky_bayes.phases.structures import Structure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

SURE, UNSURE = 0.9, 0.1
"""Probabilities from which a phase counts as present, and below which as absent."""
OWN_SIGMA, OWN_PART = 5.0, 0.7
"""Significance of a line of its own, and the phase's part of all intensity there."""
ALIKE_NATS, ALIKE_COSINE = 3.0, 0.9
"""Difference of evidence below which structures with like curves in their fits cannot be told apart."""
SAME_NATS, SAME_COSINE = 15.0, 0.97
"""The same for structures of one formula and nearly one pattern: their intensities differ by less than textures do."""
DRAWS = 400
INTERVAL = (2.5, 97.5)
MISSING = 0.05
"""Share of the intensity in lines of no candidate from which a warning is due."""
POOR = 3.0
"""Mean square misfit, in that expected of a good fit, from which a warning is due."""
MOST_UNSURE, MOST_NAMED = 3, 6


@dataclass(frozen=True, eq=False)
class Phase:
    """One phase of the answer.

    Attributes
    ----------
    structure : Structure
        The most probable of its group.
    members : tuple of str
        Names of the structures that the pattern cannot tell apart, the most probable first.
    probability : float
        That any of them is present.
    status : {"present", "undecided"}
    own_line : float or None
        2 theta of a resolved line that no other phase explains.
    weight : tuple of float
        Share of the crystalline weight: median, lower and upper end of an interval of 95 %.
    share : float
        Of the intensity in the pattern's range.
    strain : float
        Isotropic strain of the cell, relative to the library's.
    cell : (6,) float
        Fitted, Angstrom and degrees.
    width : float
        Median full width at half maximum of its lines, degrees.
    """

    structure: Structure
    members: tuple[str, ...]
    probability: float
    status: str
    own_line: float | None
    weight: tuple[float, float, float]
    share: float
    strain: float
    cell: Array
    width: float

    @property
    def name(self) -> str:
        """Formula and lattice, with the structures it may be."""
        return f"{self.structure.formula} ({' or '.join(self.members)})"


@dataclass(frozen=True)
class Line:
    """A peak that no candidate explains.

    Attributes
    ----------
    two_theta, spacing, width : float
        Degrees, Angstrom, degrees.
    share : float
        Of the intensity.
    log_bayes_factor : float
        For its being there, nats.
    halo : bool
        So broad that it is amorphous matter or background rather than a line.
    """

    two_theta: float
    spacing: float
    width: float
    share: float
    log_bayes_factor: float
    halo: bool


@dataclass(frozen=True, eq=False)
class PhaseSelection:
    """Which crystal phases are in a powder pattern.

    Attributes
    ----------
    pattern : Pattern
    phases : tuple of Phase
        Present or undecided, by their share of the intensity.
    probabilities : dict
        p(present | data) of each structure of the library, by name; of one that does not show, of the amounts that the
        pattern cannot exclude.
    unexplained : tuple of Line
        Lines of no candidate, the most significant first.
    sets : tuple
        Names of sets of phases with their probability: the best and the runners-up.
    warnings : tuple of str
    seconds : float
    n_fits : int
    origin : Origin
        Run, stream and fields.
    """

    pattern: Pattern
    even: Even
    phases: tuple[Phase, ...]
    probabilities: dict[str, float]
    unexplained: tuple[Line, ...]
    sets: tuple[tuple[tuple[str, ...], float], ...]
    warnings: tuple[str, ...]
    curves: dict[str, Array]
    background: Array
    misfit: float
    seconds: float
    n_fits: int
    origin: Origin = field(default_factory=Origin)

    @cached_property
    def data(self) -> Dataset:
        """The pattern with the run that it came from."""
        pattern = self.pattern
        return Dataset(pattern.two_theta, pattern.counts, pattern.sigma, origin=self.origin)

    @property
    def fit(self) -> Array:
        """Background and all phases, (n,)."""
        return np.asarray(self.background + np.sum(list(self.curves.values()), axis=0))

    @property
    def model(self) -> str:
        """Names of the phases that are surely there."""
        return " + ".join(sorted(phase.structure.name for phase in self.present)) or "no phase"

    @property
    def probability(self) -> float:
        """Of the least sure of the phases, that it is there where it is called present, and not there otherwise."""
        sure = [phase.probability if phase.probability > 0.5 else 1.0 - phase.probability for phase in self.phases]
        return min(sure, default=1.0)

    @property
    def log_bayes_factor(self) -> float:
        """By which the best set of phases is ahead of the next, nats; infinite where no other is listed."""
        return math.log(self.sets[0][1] / self.sets[1][1]) if len(self.sets) > 1 else math.inf

    def decisive(self, probability: float = 0.95) -> bool:
        """Whether every phase is present or absent with this probability, and nothing stands against the answer.

        Raises
        ------
        ValueError
            For a probability that is not between 0 and 1.
        """
        check_probability(probability)
        decided = all(phase.status == "present" or phase.probability <= 0.5 for phase in self.phases)
        return decided and self.probability >= probability and self.trustworthy

    def to_documents(
        self, raw_start: Mapping[str, Any] | None = None, analysis: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The answer as a Bluesky run of its own, see `bluesky_bayes.phases.documents`."""
        from bluesky_bayes.phases.documents import phase_documents

        return phase_documents(self, raw_start or {}, analysis or {})

    @property
    def present(self) -> tuple[Phase, ...]:
        """Phases that are surely there."""
        return tuple(phase for phase in self.phases if phase.status == "present")

    @property
    def undecided(self) -> tuple[Phase, ...]:
        """Phases that may be there."""
        return tuple(phase for phase in self.phases if phase.status == "undecided")

    @cached_property
    def fractions(self) -> dict[str, tuple[float, float, float]]:
        """Share of the crystalline weight of each phase: median, lower and upper end."""
        return {phase.members[0]: phase.weight for phase in self.phases}

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Structures that the pattern cannot tell apart."""
        return tuple(phase.members for phase in self.phases if len(phase.members) > 1)

    @property
    def amorphous(self) -> float:
        """Share of the intensity in halos."""
        return sum(line.share for line in self.unexplained if line.halo)

    @property
    def trustworthy(self) -> bool:
        """Whether nothing stands against the answer."""
        return not self.warnings

    @property
    def verdict(self) -> str:
        """The answer in a sentence or two."""
        if not self.phases:
            parts = ["No phase of the library is in this pattern"]
        else:
            sure = [
                f"{phase.name} {_percent(phase.weight[0])} by weight ({_percent(phase.weight[1])} to "
                f"{_percent(phase.weight[2])}), p {_probability(phase.probability)}"
                for phase in self.present
            ]
            parts = ["Present: " + "; ".join(sure)] if sure else ["No phase is surely present"]
            unsure = [
                f"{phase.name} {_percent(phase.share)} of the intensity, p {_probability(phase.probability)}"
                for phase in sorted(self.undecided, key=lambda phase: -phase.probability)
            ]
            if unsure:
                more = f"; and {len(unsure) - MOST_UNSURE} more" if len(unsure) > MOST_UNSURE else ""
                parts.append("Undecided: " + "; ".join(unsure[:MOST_UNSURE]) + more)
        lines = [line for line in self.unexplained if not line.halo]
        if lines:
            places = ", ".join(f"{line.two_theta:.2f}" for line in lines[:6])
            parts.append(
                f"No candidate explains {len(lines)} line{'s' * (len(lines) > 1)} at {places} degrees"
                + (" and elsewhere" if len(lines) > 6 else "")
            )
        if self.amorphous > 0.0:
            parts.append(f"{_percent(self.amorphous)} of the intensity is in broad halos: amorphous or unknown")
        return ". ".join(parts) + "."

    def __repr__(self) -> str:
        """The answer in words."""
        return f"<PhaseSelection: {self.verdict}>"

    def __str__(self) -> str:
        """The verdict, and what stands against it."""
        return "\n".join((self.verdict, *(f"Warning: {warning}" for warning in self.warnings)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed of the phases' files."""
        return tuple(f"{phase.structure.name}: {note}" for phase in self.phases for note in phase.structure.notes)

    def summary(self) -> RenderableType:
        """Tables of the phases and of lines that none explains, for ``rich.print``."""
        from bluesky_bayes.phases.tables import phases_summary

        return phases_summary(self)

    def plot(self) -> Figure:
        """Pattern with the fit by phases, lines of each phase, residual and probabilities."""
        from bluesky_bayes.phases.plots import plot_phases

        return plot_phases(self)


def search(
    pattern: Pattern, library: Library, beliefs: Beliefs | None = None, threads: int | None = None
) -> PhaseSelection:
    """Which structures of a library are in a powder pattern.

    Sets of phases are compared by their evidence: phases are added, dropped and swapped until no set is better; then
    all sets near the best are fitted until they converge, and give the probabilities.

    Parameters
    ----------
    pattern : Pattern
    library : Library
        Calculated anew where it does not reach as far as the pattern, or for another radiation.
    beliefs : Beliefs, optional
        What is believed beforehand of strains, textures and profiles.
    threads : int, optional
        As many as the machine has processors, by default.

    Returns
    -------
    PhaseSelection

    Raises
    ------
    ValueError
        When no structure has a line in the pattern's range.
    """
    return searched(pattern, library, beliefs or Beliefs(), threads)[0]


def searched(
    pattern: Pattern, library: Library, beliefs: Beliefs, threads: int | None, start: Joint | None = None
) -> tuple[PhaseSelection, Search]:
    """The answer and the search that gave it, from nothing or from the fit of a pattern much like this one."""
    begun = time.perf_counter()
    library = library.covering(pattern.radiation, pattern.d_min)
    with one_blas_thread():
        grid = even(pattern)
    low, high = float(grid.x[0]), float(grid.x[-1])
    lines = [(structure, lines_of(structure, pattern.radiation, low, high)) for structure in library]
    structures = [structure for structure, its in lines if its is not None]
    outside = [structure.name for structure, its in lines if its is None]
    if not structures:
        raise ValueError(
            f"no structure of the library has a line between {low:.1f} and {high:.1f} degrees for "
            f"{pattern.radiation.wavelengths[0]:g} Angstrom: is that the wavelength?"
        )
    with one_blas_thread(), ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        fitter = Fitter(grid, [its for _, its in lines if its is not None], beliefs)
        finding = Search(fitter, [structure.name for structure in structures], pool)
        finding.run(start)
        finding.settle()
        unseen = finding.unseen()
    return _answer(pattern, library, structures, outside, finding, unseen, time.perf_counter() - begun), finding


def _answer(
    pattern: Pattern,
    library: Library,
    structures: Sequence[Structure],
    outside: Sequence[str],
    finding: Search,
    unseen: Array,
    seconds: float,
) -> PhaseSelection:
    joints, chances = finding.probabilities()
    fitter, best = finding.fitter, joints[0]
    present = np.zeros(len(fitter.lines))
    for joint, chance in zip(joints, chances, strict=True):
        present[list(joint.members)] += chance
    phases = _phases(structures, finding, joints, chances, present)
    # Sets that were never fitted, and fits at one amount, leave out the amounts that the pattern cannot exclude.
    listed = {name for phase in phases for name in phase.members}
    probabilities = {
        structure.name: float(present[n] if structure.name in listed else max(present[n], unseen[n]))
        for n, structure in enumerate(structures)
    }
    probabilities |= dict.fromkeys(outside, 0.0)
    unexplained = _unexplained(finding, best)
    misfit = float(np.mean(best.rest**2 / fitter.variance))
    names = [structures[n].name if n < fitter.n_phases else "unexplained" for n in best.members]
    curves: dict[str, Array] = {}
    for name, curve in zip(names, best.curves, strict=True):
        curves[name] = curves.get(name, 0.0) + curve
    sets = []
    for joint, chance in zip(joints, chances, strict=True):
        if chance > 0.01:
            members = tuple(structures[n].name for n in joint.members if n < fitter.n_phases)
            sets.append((members, float(chance)))
    return PhaseSelection(
        pattern,
        fitter.even,
        phases,
        probabilities,
        unexplained,
        tuple(sets),
        _warnings(library, outside, unexplained, misfit, best, finding),
        curves,
        best.background,
        misfit,
        seconds,
        finding.n_fits,
    )


def _phases(
    structures: Sequence[Structure], finding: Search, joints: list[Joint], chances: Array, present: Array
) -> tuple[Phase, ...]:
    """Groups of structures that are present with some probability, by their share of the intensity."""
    fitter, best = finding.fitter, joints[0]
    seeds = [n for n in best.members if n < fitter.n_phases]
    others = [int(n) for n in np.argsort(-present[: fitter.n_phases]) if present[n] > UNSURE and n not in seeds]
    taken: set[int] = set()
    phases = []
    for seed in (*seeds, *others):
        if seed in taken:
            continue
        group = [seed, *_indistinguishable(structures, finding, seed, set(seeds) | taken)]
        taken.update(group)
        chance = sum(share for joint, share in zip(joints, chances, strict=True) if set(group) & set(joint.members))
        if chance > UNSURE:
            home = next(joint for joint in joints if seed in joint.members)
            phases.append(_phase(structures, finding, home, seed, group, float(chance), present))
    return tuple(sorted(phases, key=lambda phase: -phase.share))


def _indistinguishable(structures: Sequence[Structure], finding: Search, seed: int, excluded: set[int]) -> list[int]:
    """Candidates that take this one's place with nearly its curve in sets about as probable, the best first."""
    joints = finding.by_phases()
    home = next(joint for joint in joints if seed in joint.members)
    own, alike = home.curves[home.members.index(seed)], finding.alike(seed)
    found: list[int] = []
    for joint in joints:
        behind = finding.score(home) - finding.score(joint)
        if behind >= SAME_NATS:
            break
        if seed in joint.members:
            continue
        for other, curve in zip(joint.members, joint.curves, strict=True):
            if other >= finding.fitter.n_phases or other in excluded or other in found:
                continue
            same = alike[other] >= SAME_COSINE and structures[other].formula == structures[seed].formula
            if same or (behind < ALIKE_NATS and _cosine(own, curve) >= ALIKE_COSINE):
                found.append(other)
    return found


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b) / max(float(np.linalg.norm(a)) * float(np.linalg.norm(b)), 1e-300)


def _phase(
    structures: Sequence[Structure],
    finding: Search,
    joint: Joint,
    seed: int,
    group: list[int],
    chance: float,
    present: Array,
) -> Phase:
    fitter, place = finding.fitter, joint.members.index(seed)
    structure, lines, term = structures[seed], fitter.lines[seed], joint.terms[place]
    share = float(joint.areas[place] / joint.areas.sum())
    _, widths = widths_at(lines, term.shape, fitter.wavelengths[0])
    own = own_line(fitter, joint, place)
    # Profiles are known to so much only: without a line of its own, a lesser phase may be an error of theirs, and one
    # of the same lines as a surer phase may be the rest of its profile.
    alike = finding.alike(seed)
    others = [n for n in joint.members if n < fitter.n_phases and n not in group and alike[n] >= ALIKE_COSINE]
    shadowed = any(present[n] > chance for n in others)
    decided = chance >= SURE and (own is not None or (share >= fitter.beliefs.profile and not shadowed))
    n = len(lines.strains)
    cell = structure.moved(term.shape[1 : n + 1])
    weights = _weights(structures, finding, joint)[:, place]
    low, middle, high = np.percentile(weights, [INTERVAL[0], 50.0, INTERVAL[1]])
    return Phase(
        structure,
        tuple(structures[one].name for one in group),
        chance,
        "present" if decided else "undecided",
        own,
        (float(middle), float(low), float(high)),
        share,
        float(term.shape[1]),
        cell,
        float(np.average(widths, weights=lines.strength)),
    )


def _weights(structures: Sequence[Structure], finding: Search, joint: Joint) -> Array:
    """Draws of the weight shares of a set's members, (n_draws, n_members), by scale, mass and volume of the cells.

    The volume of a phase is its scale over the squared density of cells that its strength holds already; its weight is
    that volume times mass over volume of the cell: Hill and Howard, J. Appl. Cryst. 20, 467 (1987).
    """
    fitter = finding.fitter
    logs = np.array([term.shape[0] for term in joint.terms])
    per_amount = np.array(
        [
            structures[n].mass / structures[n].volume / fitter.lines[n].unit if n < fitter.n_phases else 0.0
            for n in joint.members
        ]
    )
    normal = np.random.default_rng(0).standard_normal((len(joint.factor), DRAWS))
    moved = solve_triangular(np.tril(joint.factor), normal, lower=True, trans="T")[list(joint.starts)].T
    weights = np.exp(logs - logs.max() + moved) * per_amount
    return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 1e-300))


def own_line(fitter: Fitter, joint: Joint, place: int) -> float | None:
    """2 theta of the most significant resolved line that is this phase's alone; None where there is none."""
    lines, term, even = fitter.lines[joint.members[place]], joint.terms[place], fitter.even
    centres, widths = widths_at(lines, term.shape, fitter.wavelengths[0])
    own, others = joint.curves[place], joint.curves.sum(0) - joint.curves[place]
    variance = fitter.variance
    places, lacking = _lacking(fitter, joint, place)
    best: tuple[float, float | None] = (OWN_SIGMA, None)
    for centre, width in zip(centres, widths, strict=True):
        part = slice(*np.searchsorted(even.x, (centre - width, centre + width)))
        theirs = others[part].sum() + lacking[np.abs(places - centre) < width].sum() / even.step
        if part.stop - part.start < 3 or own[part].sum() < OWN_PART * (own[part].sum() + theirs):
            continue
        shape = own[part] / variance[part]
        # As many neighbours as one width holds are one.
        alike = max(1.0, width / even.step)
        sigma = float(shape @ (own[part] + joint.rest[part])) / math.sqrt(alike * float(shape @ own[part]))
        if sigma > best[0]:
            best = sigma, float(centre)
    return best[1]


def _lacking(fitter: Fitter, joint: Joint, place: int) -> tuple[Array, Array]:
    """2 theta of the lines of all other phases, and the area by which the fit has each weaker than it is ideally.

    A line that texture takes from one phase and gives to another is no line of the other's own.
    """
    places, areas = [np.empty(0)], [np.empty(0)]
    for n, (lines, term) in enumerate(zip(joint.lines, joint.terms, strict=True)):
        if n == place or term.factors is None:
            continue
        places.append(widths_at(lines, term.shape, fitter.wavelengths[0])[0])
        ideal = math.exp(term.shape[0]) * lines.strength * float(fitter.shares.sum())
        areas.append(ideal * -np.expm1(np.minimum(term.factors, 0.0)))
    return np.concatenate(places), np.concatenate(areas)


def _unexplained(finding: Search, best: Joint) -> tuple[Line, ...]:
    fitter, found = finding.fitter, []
    total = float(best.areas.sum())
    for place, member in enumerate(best.members):
        if member < fitter.n_phases:
            continue
        lines, term = fitter.lines[member], best.terms[place]
        centres, widths = widths_at(lines, term.shape, fitter.wavelengths[0])
        rest = finding.known.get(frozenset(best.members) - {member})
        gain = math.inf if rest is None else finding.score(best) - finding.score(rest)
        spacing = 0.5 * fitter.wavelengths[0] / math.sin(math.radians(0.5 * centres[0]))
        share = float(best.areas[place]) / total
        found.append(Line(float(centres[0]), spacing, float(widths[0]), share, gain, bool(lines.broad)))
    return tuple(sorted(found, key=lambda line: -line.log_bayes_factor))


def _warnings(
    library: Library, outside: Sequence[str], lines: Sequence[Line], misfit: float, best: Joint, finding: Search
) -> tuple[str, ...]:
    said = []
    full = finding.fitter.even.saturated
    if full.size:
        places = [f"{part[0]:.2f}" for part in np.split(full, np.flatnonzero(np.diff(full) > 1.0) + 1)]
        named = ", ".join(places[:MOST_NAMED]) + (" ..." if len(places) > MOST_NAMED else "")
        said.append(
            f"the detector was saturated in {full.size} points, at {named} degrees: they are left out, amounts "
            "rest on the others; measure with less intensity or an absorber"
        )
    missing = sum(line.share for line in lines if not line.halo)
    if missing > MISSING:
        said.append(
            f"{_percent(missing)} of the intensity is in lines that no candidate explains: a phase is missing from "
            "the library"
        )
    if misfit > POOR:
        said.append(f"the best fit is poor: its misfit is {misfit:.1f} times what profiles and noise account for")
    if not best.converged:
        said.append("the best fit did not converge")
    if len(finding.settled) < len(finding.near()):
        said.append(f"more than {len(finding.settled)} sets of phases are about as probable: more were not compared")
    if outside:
        names = ", ".join(outside[:MOST_NAMED]) + (" ..." if len(outside) > MOST_NAMED else "")
        said.append(f"{len(outside)} structures have no line in the pattern's range: {names}")
    if library.left_out:
        reasons = "; ".join(library.left_out[:MOST_NAMED]) + (" ..." if len(library.left_out) > MOST_NAMED else "")
        said.append(f"{len(library.left_out)} files of the library were not used: {reasons}")
    return tuple(said)


def _percent(share: float) -> str:
    return f"{100.0 * share:.2g} %" if share < 0.0995 else f"{100.0 * share:.0f} %"


def _probability(value: float) -> str:
    return "> 0.99" if value > 0.99 else f"= {value:.2f}"
