"""Ready-made candidates, one family for each kind of measurement."""

from bluesky_bayes.families.peaks import peaks
from bluesky_bayes.families.relaxation import relaxation

__all__ = ["peaks", "relaxation"]
