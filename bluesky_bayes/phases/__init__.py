"""Phase search: which crystal phases of a library are in a powder pattern."""

from bluesky_bayes.phases.fitting import Beliefs
from bluesky_bayes.phases.library import Library
from bluesky_bayes.phases.patterns import Pattern, read_pattern
from bluesky_bayes.phases.radiation import Radiation
from bluesky_bayes.phases.selection import Line, Phase, PhaseSelection, search
from bluesky_bayes.phases.structures import Structure

__all__ = [
    "Beliefs",
    "Library",
    "Line",
    "Pattern",
    "Phase",
    "PhaseSelection",
    "Radiation",
    "Structure",
    "read_pattern",
    "search",
]
