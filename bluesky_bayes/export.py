"""A posterior as ArviZ knows it: samples, data, predictions, and the evidence beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_bayes.dataset import Array
from bluesky_bayes.noise import SIGMA, Noise, Poisson, StudentT

if TYPE_CHECKING:
    import xarray as xr

    from bluesky_bayes.posterior import Posterior
    from bluesky_bayes.selection import Selection

MOST_PREDICTIONS, MOST_POINTS = 200, 200_000


def inference_data(selection: Selection, posterior: Posterior) -> Any:
    """``arviz.InferenceData`` of one model.

    Its groups are ``posterior``, ``observed_data``, ``constant_data`` and ``posterior_predictive``: imagined
    measurements, one for each of some draws (200 of all chains together, fewer where the points are very many).
    """
    import arviz as az
    import xarray as xr

    data = selection.data
    points = {name: getattr(data, name) for name in ("x", "sigma", "exposure")}
    constant = {name: ("point", values) for name, values in points.items() if values is not None}
    groups: dict[str, Any] = {
        "posterior": _with_units(posterior, selection),
        "observed_data": xr.Dataset({"y": ("point", data.y)}),
        "constant_data": xr.Dataset(constant),
    }
    if posterior.draws:
        kept, replicas = _predicted(selection, posterior)
        variables = {"y": (("chain", "draw", "point"), replicas)}
        groups["posterior_predictive"] = xr.Dataset(variables, coords={"draw": kept})
    i = selection.names.index(posterior.model.name)
    attributes = {
        "model": posterior.model.name,
        "log_evidence": posterior.log_evidence,
        "log_evidence_error": posterior.log_evidence_error,
        "probability": float(selection.probabilities[i]),
        "probability_error": float(selection.probability_errors[i]),
    }
    for group in groups.values():
        group.attrs.update(attributes)
    return az.InferenceData(**groups, attrs=attributes)


def _with_units(posterior: Posterior, selection: Selection) -> xr.Dataset:
    samples = posterior.samples
    for name in samples.data_vars:
        if unit := posterior.unit(str(name), selection.data.units):
            samples[name].attrs["units"] = unit
    return samples


def _predicted(selection: Selection, posterior: Posterior) -> tuple[Any, Array]:
    """Which draws of each chain, and data that the model makes with them, (n_chains, n_kept, n)."""
    data = selection.data
    n_chains, n_draws = next(iter(posterior.draws.values())).shape
    most = min(MOST_PREDICTIONS, MOST_POINTS // data.n) // n_chains
    kept = np.unique(np.linspace(0, n_draws - 1, max(most, 1)).astype(np.int64))
    draws = {name: values[:, kept].reshape(-1, 1) for name, values in posterior.draws.items()}
    start = np.zeros((n_chains * kept.size, data.n))
    curves = sum((term.curves(data.x, draws) for term in posterior.model.terms), start)
    replicas = _measured(curves, selection.noise, draws, np.random.default_rng(selection.seed))
    return kept, replicas.reshape(n_chains, kept.size, data.n)


def _measured(curves: Array, noise: Noise, draws: dict[str, Array], rng: np.random.Generator) -> Array:
    """Curves with noise, (n_curves, n)."""
    if isinstance(noise, Poisson):
        exposure = 1.0 if noise.exposure is None else noise.exposure
        return np.asarray(rng.poisson(np.maximum(curves, 0.0) * exposure / noise.scale) * noise.scale, dtype=np.float64)
    sigma = draws[SIGMA] if noise.sigma is None else noise.sigma
    if isinstance(noise, StudentT):
        return curves + sigma * rng.standard_t(noise.dof, curves.shape)
    return curves + sigma * rng.standard_normal(curves.shape)
