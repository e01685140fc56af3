"""Ready-made candidates, one family for each kind of measurement."""

from bluesky_bayes.families.exafs import exafs
from bluesky_bayes.families.linear import linear
from bluesky_bayes.families.mossbauer import mossbauer, mossbauer_classes
from bluesky_bayes.families.own import own
from bluesky_bayes.families.peaks import peaks
from bluesky_bayes.families.relaxation import relaxation
from bluesky_bayes.families.saxs import saxs
from bluesky_bayes.families.xanes import xanes
from bluesky_bayes.families.xps import xps
from bluesky_bayes.families.xrd import xrd

__all__ = [
    "exafs", "linear", "mossbauer", "mossbauer_classes", "own", "peaks", "relaxation", "saxs", "xanes", "xps", "xrd",
]  # fmt: skip
