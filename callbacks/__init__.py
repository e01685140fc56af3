"""Everything that hears bluesky documents."""

from bluesky_bayes.callbacks.bayes import BayesCallback

__all__ = ["BayesCallback"]
