"""Ready-made candidates, one family for each kind of measurement."""

from bluesky_bayes.families.peaks import peaks

__all__ = ["peaks"]
