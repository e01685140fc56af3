"""From chains to a `Posterior`: evidence, ordered draws, the curve with its band, and checks of all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.evidence import Evidence
from bluesky_bayes.jobs import Job, r_hat_of
from bluesky_bayes.kernels.task import Task, new_scratch, new_state
from bluesky_bayes.model import Model
from bluesky_bayes.noise import Noise, Poisson, StudentT
from bluesky_bayes.posterior import Diagnostics, Fit, Posterior
from bluesky_bayes.priors import at_quantile
from bluesky_bayes.sampler import thinned
from bluesky_bayes.tasks import Block

MOST_CURVES, CURVES_OF_A_LOOK = 200, 40
CURVE_POINTS = 200_000
EDGE = 0.005
PRESSED = 0.1
FAR_OUT = 7.0
"""Normal score of a prior beyond which a posterior counts as out of it; `priors.Z_MAX` is where tables end."""


def posterior_of(job: Job, data: Dataset, noise: Noise, block: Block, single: bool, seed: int) -> Posterior:
    """Everything that the last round of a job says about its model."""
    model = job.model
    log_z, error, gap = job.evidence
    z = job.draws
    draws = _parameters(job, z)
    fit, p_fit = fit_of(job, z, data, noise, block, seed)
    diagnostics = diagnostics_of(job, z, gap, p_fit, single)
    constant = float(job.task.constant[0])
    return Posterior(model, log_z - constant, error, draws, derived_of(model, draws, z.shape[:2]), fit, diagnostics)


def sampling_problems_of(job: Job) -> tuple[str, ...]:
    """What speaks against the evidence of a job, in plain sentences."""
    z, found = job.draws, job.evidence
    return diagnostics_of(job, z, found.gap, 1.0, True).sampling_problems(found.error)


def _parameters(job: Job, z: Array) -> dict[str, Array]:
    """Parameters by name of whitened coordinates (..., n_parameters)."""
    tables = zip(job.model.parameters, job.task.tables, strict=True)
    return {name: at_quantile(table, z[..., j]) for j, (name, table) in enumerate(tables)}


def derived_of(model: Model, draws: Mapping[str, Array], shape: tuple[int, ...]) -> dict[str, Array]:
    """Areas, full widths and what else the components derive, each of the draws' shape."""
    derived = {}
    for term in model.terms:
        values = term.values(draws)
        for parameter, function in term.component.derived:
            derived[f"{term.label}.{parameter.name}"] = np.broadcast_to(np.float64(function(*values)), shape)
    return derived


def fit_of(job: Job, z: Array, data: Dataset, noise: Noise, block: Block, seed: int) -> tuple[Fit, float]:
    """Curve, band, components and residuals, and the posterior-predictive probability of a worse misfit."""
    n = data.n
    flat = thinned(
        z.reshape(z.shape[0] * z.shape[1], -1) if z.size else np.zeros((1, 0)),
        max(20, min(CURVES_OF_A_LOOK if job.looking else MOST_CURVES, CURVE_POINTS // n)),
    )
    rates, terms = curves_of(job.kernels, job.task, flat)
    exposure = block.weight * noise.scale if isinstance(noise, Poisson) else np.ones(n)
    curves = rates[:, :n] * block.scale * exposure
    if isinstance(noise, Poisson):
        curves = np.maximum(curves, 0.0)
    mean = curves.mean(axis=0)
    low, high = np.quantile(curves, (0.025, 0.975), axis=0)
    spread = noise_of(job.task, flat, block, noise, mean)
    fit = Fit(
        mean=mean,
        low=low,
        high=high,
        terms={
            label: curve[:n] * block.scale * exposure
            for label, curve in zip((t.label for t in job.model.terms), terms, strict=True)
        },
        residual=(data.y - mean) / spread,
    )
    return fit, predictive_probability(data.y, curves, spread, noise, np.random.default_rng(seed))


def curves_of(kernels: Any, task: Task, z: Array) -> tuple[Array, list[Array]]:
    """Models at the coordinates, (n_draws, n_points), and each term's mean curve, in units of the block's scale."""
    state, scratch = new_state(task, z), new_scratch(task)
    total = np.zeros((len(z), task.x.size))
    kernels.evaluate(task, state, scratch, total)
    curves, terms = state.curves.reshape(len(state.z), -1)[: len(z)], []
    for term in range(task.term_block.size):
        slot = task.slot_start[term]
        j = task.slot_parameter[slot]
        theta = state.theta[: len(z), j] if j >= 0 else np.zeros(len(z))
        amplitude = task.slot_scale[slot] * theta * (j >= 0) + task.slot_offset[slot]
        part = curves[:, task.curve_start[term] : task.curve_start[term + 1]]
        terms.append(amplitude @ part.astype(np.float64) / len(z))
    return total, terms


def noise_of(task: Task, z: Array, block: Block, noise: Noise, mean: Array) -> Array:
    """Standard deviation of each point in the unit of y; of Student-t noise its sigma."""
    if isinstance(noise, Poisson):
        counts: Array = np.maximum(mean / noise.scale, 1e-9)
        return noise.scale * np.sqrt(counts)
    if block.unknown:
        j = int(task.noise_parameter[0])
        sigma = float(np.mean(at_quantile(task.tables[j], z[:, j])))
        return np.full(mean.size, sigma)
    known: Array = block.scale / np.sqrt(block.weight)
    return known


def predictive_probability(y: Array, curves: Array, spread: Array, noise: Noise, rng: np.random.Generator) -> float:
    """Probability, averaged over the posterior, that data made by the model fit worse than these.

    Known noise is judged by chi-square, or by the sum that takes its place in a Student-t likelihood; counts by their
    deviance; unknown noise (whose size fits any curve) by the correlation of neighbouring residuals. Gelman, Meng and
    Stern, Statistica Sinica 6, 733 (1996).
    """
    from scipy import special

    if isinstance(noise, Poisson):
        mu = np.maximum(curves / noise.scale, 1e-9)
        replica = rng.poisson(mu).astype(np.float64)
        return float(np.mean(_deviance(replica, mu) >= _deviance(np.rint(y / noise.scale), mu)))
    residual = (y - curves) / spread
    if not noise.known:
        score = residual / (1.0 + residual**2 / noise.dof) if isinstance(noise, StudentT) else residual
        with np.errstate(invalid="ignore"):
            correlation = np.sum(score[:, 1:] * score[:, :-1], axis=1) / np.sum(score**2, axis=1)
        return float(np.mean(special.ndtr(-correlation * np.sqrt(y.size))))
    if isinstance(noise, StudentT):
        return float(np.mean(_tail_probability(residual, noise.dof)))
    return float(np.mean(special.chdtrc(y.size, np.sum(residual**2, axis=1))))


def _tail_probability(residual: Array, dof: float) -> Array:
    """Probability that the sum of ``log(1 + t^2 / dof)`` over as many draws of Student's t exceeds that of each row.

    The sum has nearly a gamma distribution, of the same mean and variance; chi-square as dof grows.
    """
    from scipy import special

    total = np.sum(np.log1p(residual**2 / dof), axis=1)
    mean, variance = (
        sign * (special.polygamma(order, 0.5 * (dof + 1.0)) - special.polygamma(order, 0.5 * dof))
        for order, sign in ((0, 1.0), (1, -1.0))
    )
    probability: Array = special.gammaincc(residual.shape[1] * mean**2 / variance, total * mean / variance)
    return probability


def _deviance(y: Array, mu: Array) -> Array:
    from scipy.special import xlogy

    deviance: Array = np.sum(mu - y + xlogy(y, y / mu), axis=1)
    return deviance


def diagnostics_of(job: Job, z: Array, gap: float, p_fit: float, single: bool) -> Diagnostics:
    """How the sampling went."""
    constant = float(job.task.constant[0])
    acceptance = np.mean([info.acceptance[-1] for info in job.infos], axis=0)
    names = job.model.parameters
    return Diagnostics(
        barrier=float(np.mean([info.rejection.sum() for info in job.infos])),
        round_trips=sum(info.round_trips for info in job.infos),
        chains=len(job.infos),
        levels=job.path.betas.size,
        acceptance={name: float(acceptance[g]) for name, g in zip(names, job.task.step_group, strict=True)},
        r_hat_energy=job.disagreement,
        r_hat=r_hat_of(z),
        ess=job.sampler.effective_size(job.path, job.infos, z) if z.size else float(job.length * len(job.infos)),
        gap=gap,
        drift=max(info.drift for info in job.infos),
        edges=(*edges_of(job.model, z), *far_out_of(job.model, z)),
        p_fit=p_fit,
        single=single,
        ladder=(job.ladder.log_z - constant, job.ladder.error),
        bridge=_above(job.bridge, constant),
        particles=_above(job.particles, constant),
        sampler=job.sampler.name,
        look=job.looking,
    )


def _above(found: Evidence, constant: float) -> tuple[float, float] | None:
    """Log evidence with the task's constant, and its error, where there is one."""
    return (found.log_z - constant, found.error) if math.isfinite(found.error) else None


def edges_of(model: Model, z: Array) -> list[str]:
    """Parameters that press against an edge of their prior which is not a natural one (zero, or a fraction's one)."""
    from scipy.special import ndtri

    pressed = []
    for name, (low, high), below, above in _beyond(model, z, -float(ndtri(EDGE))):
        if name.endswith("fraction"):
            continue
        if below > PRESSED and np.isfinite(low) and low != 0.0:
            pressed.append(f"{name} at the lower edge {low:g}")
        elif above > PRESSED and np.isfinite(high):
            pressed.append(f"{name} at the upper edge {high:g}")
    return pressed


def far_out_of(model: Model, z: Array) -> list[str]:
    """Parameters so far out in a prior without an edge there that sampling, which cuts it off, may miss the rest."""
    return [
        f"{name} beyond {FAR_OUT:g} standard deviations"
        for name, edges, below, above in _beyond(model, z, FAR_OUT)
        if np.isinf(edges[int(above > below)])
    ]


def _beyond(model: Model, z: Array, score: float) -> Iterator[tuple[str, tuple[float, float], float, float]]:
    """Parameters with many draws beyond a normal score: edges of their priors, shares below minus it and above it."""
    draws = tuple(range(z.ndim - 1))
    low_share, high_share = np.mean(z < -score, axis=draws), np.mean(z > score, axis=draws)
    for (name, prior), below, above in zip(model.priors.items(), low_share, high_share, strict=True):
        if max(below, above) > PRESSED:
            assert prior is not None
            yield name, prior.support(), below, above
