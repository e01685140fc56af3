"""Live Bayesian model selection for Bluesky.

Which model do these data support, with which parameters, and is it enough to decide? Here are data sets, models,
noise and the answer; what hears documents is in `bluesky_bayes.callbacks`, what plans use in `bluesky_bayes.plans`.
"""

from bluesky_bayes.analysis import Analysis
from bluesky_bayes.candidates import Candidates
from bluesky_bayes.components import Component, Parameter, component
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.inference import select, select_iter, select_many
from bluesky_bayes.model import Model
from bluesky_bayes.noise import Gaussian, Poisson, StudentT
from bluesky_bayes.noise_scan import NoiseScan, noise_scan
from bluesky_bayes.posterior import Posterior
from bluesky_bayes.sampler import Settings
from bluesky_bayes.selection import Selection
from bluesky_bayes.series import FrameSeries, series

__all__ = [
    "Analysis",
    "Candidates",
    "Component",
    "Dataset",
    "FrameSeries",
    "Gaussian",
    "Model",
    "NoiseScan",
    "Parameter",
    "Poisson",
    "Posterior",
    "Selection",
    "Settings",
    "StudentT",
    "component",
    "noise_scan",
    "select",
    "select_iter",
    "select_many",
    "series",
]
