"""Phase search: which crystal phases of a library are in a powder pattern."""

from bluesky_bayes.phases.analysis import PhaseAnalysis
from bluesky_bayes.phases.fitting import Beliefs
from bluesky_bayes.phases.library import Library
from bluesky_bayes.phases.patterns import Pattern, read_pattern
from bluesky_bayes.phases.radiation import Radiation
from bluesky_bayes.phases.selection import Line, Phase, PhaseSelection, search
from bluesky_bayes.phases.series import Follower, PhaseSeries, Presence, follow
from bluesky_bayes.phases.structures import Structure

__all__ = [
    "Beliefs",
    "Follower",
    "Library",
    "Line",
    "Pattern",
    "Phase",
    "PhaseAnalysis",
    "PhaseSelection",
    "PhaseSeries",
    "Presence",
    "Radiation",
    "Structure",
    "follow",
    "read_pattern",
    "search",
]
