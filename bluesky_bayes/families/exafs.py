"""Which basis for EXAFS: waves in k over a range of distances, in envelopes that the evidence chooses from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.components import component
from bluesky_bayes.dataset import Array
from bluesky_bayes.model import Model, Slot, Term
from bluesky_bayes.posterior import Posterior, Summary, summarise
from bluesky_bayes.priors import check_prior
from bluesky_bayes.recipes import recipe_of
from bluesky_bayes.sampler import thinned
from bluesky_bayes.selection import Selection

NO_SHELL = "no shell"
BASES = ("fourier", "windowed", "damped")
SIGMA2 = (0.0025, 0.005, 0.01, 0.02)
"""Mean square relative displacements in question, Å²: of first shells they are a few thousandths when cold or stiff,
and above a hundredth when hot or disordered."""
MOST_WAVES = 200
N_K, N_DISTANCES, MOST_SPECTRA = 400, 2001, 1000
COPPER = 2.556
"""Distance of nearest neighbours in copper, Å."""
COPPER_PHASE = (-0.95, 0.02)
"""Of `copper_shell`: rad Å and rad Å²."""


def _envelope(k: float, low: float, high: float, weight: float, window: float, sigma2: float) -> float:
    """1 / k^weight, damped, in a Hann window where `window` is 1."""
    if k <= 0.0 or (window > 0.5 and (k < low or k > high)):
        return 0.0
    value = math.pow(k, -weight) * math.exp(-2.0 * sigma2 * k * k)
    if window > 0.5:
        value *= math.sin(math.pi * (k - low) / (high - low)) ** 2
    return value


@component(roles={"amplitude": "coefficient"}, units={"distance": "1/x", "phase1": "1/x", "phase2": "1/x^2"})
def wave(
    x: float,
    distance: float,
    phase0: float,
    phase1: float,
    phase2: float,
    low: float,
    high: float,
    weight: float,
    window: float,
    sigma2: float,
) -> float:
    """sin(2 k R + phase0 + phase1 k + phase2 k²) in its envelope."""
    angle = phase0 + x * (2.0 * distance + phase1 + phase2 * x)
    return _envelope(x, low, high, weight, window, sigma2) * math.sin(angle)


def exafs(
    distances: Sequence[float] = (1.5, 3.5),
    k: Sequence[float] = (3.0, 12.0),
    weight: float = 2.0,
    bases: Sequence[str] = BASES,
    sigma2: Sequence[float] = SIGMA2,
    phase: Sequence[float] = (0.0, 0.0),
    priors: Mapping[str, Any] | None = None,
) -> Candidates:
    """Candidates that regress EXAFS, chi(k), on waves of many distances in different envelopes.

    After Igarashi et al., arXiv:2105.02341. Each basis has a sine and a cosine at distances spaced by the resolution of
    the data, pi / (2 (k2 - k1)). All are linear, so that the answer has a closed form. `distance` and `magnitude` say
    what is where, `basis_probabilities` sums up the damped ones.

    Parameters
    ----------
    distances : (float, float)
        Range of distances R, Å.
    k : (float, float)
        Range of the photoelectron's wave number in the data, 1/Å: it sets the resolution and the window.
    weight : float
        The k-weight n: waves have even amplitude in k^n chi(k), before window and damping. The data stay chi(k).
    bases : sequence of {"fourier", "windowed", "damped"}
        Waves as they are, in a Hann window from k1 to k2, or damped by exp(-2 sigma2 k^2).
    sigma2 : sequence of float
        Mean square relative displacements in question, Å²: one damped basis for each.
    phase : (float, float)
        p1 (rad Å) and p2 (rad Å²) of the scattering phase p0 + p1 k + p2 k². Left out, distances are not corrected for
        phase: the first shell of a metal seems nearer by 0.2 to 0.5 Å.
    priors : mapping of str to frozen scipy.stats distribution, optional
        ``"amplitude"``: of every coefficient. By default normal about 0, as wide as it is if one wave makes all of the
        scatter of chi.

    Returns
    -------
    Candidates
        ``"no shell"`` and one for each basis. All bases are equally probable beforehand; the damped ones share.

    Raises
    ------
    ValueError
        For ranges the wrong way round, an unknown basis, no or negative displacements, priors that nothing uses.

    Examples
    --------
    >>> exafs(distances=(2.0, 3.0), bases=["fourier", "damped"], sigma2=[0.005, 0.01]).names
    ('no shell', 'fourier', 'damped 0.005', 'damped 0.01')
    """
    near, far = _range("distances", distances)
    low, high = _range("k", k)
    unknown = [basis for basis in bases if basis not in BASES]
    if unknown or not bases or len(set(bases)) < len(bases):
        raise ValueError(f"bases must be some of {', '.join(map(repr, BASES))}; got {list(bases)}")
    if "damped" in bases and (not sigma2 or min(sigma2) < 0 or len(set(sigma2)) < len(sigma2)):
        raise ValueError(f"sigma2 must be different displacements from 0 up, Å²; got {list(sigma2)}")
    given = {name: check_prior(name, prior) for name, prior in (priors or {}).items()}
    if set(given) - {"amplitude"}:
        raise ValueError(f"priors may name 'amplitude'; got {sorted(given)}")
    n = 1 + math.ceil((far - near) * 2.0 * (high - low) / math.pi)
    if n > MOST_WAVES:
        raise ValueError(f"{n} distances are too many to tell apart, at most {MOST_WAVES}: narrow the ranges")
    p1, p2 = (float(p) for p in phase)
    settings = {basis: list(sigma2) if basis == "damped" else [0.0] for basis in bases}
    models, shares = [Model(NO_SHELL, (), {})], [1.0]
    for basis, displacements in settings.items():
        for s2 in displacements:
            numbers = (p1, p2, low, high, float(weight), float(basis == "windowed"), float(s2))
            terms = [
                Term(f"{name}{i + 1}", wave, (Slot(f"{name}{i + 1}"), *_numbers(distance, phase0, *numbers)))
                for i, distance in enumerate(np.linspace(near, far, n).tolist())
                for name, phase0 in (("sine", 0.0), ("cosine", 0.5 * math.pi))
            ]
            name = f"damped {s2:g}" if basis == "damped" else basis
            models.append(Model(name, tuple(terms), {term.label: given.get("amplitude") for term in terms}))
            shares.append(1.0 / len(displacements))
    arguments = {
        "distances": distances, "k": k, "weight": weight, "bases": bases, "sigma2": sigma2, "phase": phase,
        "priors": priors,
    }  # fmt: skip
    return Candidates(tuple(models), tuple(shares), recipe_of("exafs", arguments))


def _range(name: str, values: Sequence[float]) -> tuple[float, float]:
    low, high = (float(v) for v in values)
    if not 0.0 < low < high < math.inf:
        raise ValueError(f"{name} must be a range of positive numbers, the smaller first; got {list(values)}")
    return low, high


def _numbers(*values: float) -> tuple[Slot, ...]:
    return tuple(Slot(None, offset=value) for value in values)


def basis_probabilities(selection: Selection) -> dict[str, float]:
    """Probability of each basis, damped ones of all displacements together."""
    found: dict[str, float] = {}
    for name, p in zip(selection.names, selection.probabilities.tolist(), strict=True):
        basis = name if name == NO_SHELL else name.split()[0]
        found[basis] = found.get(basis, 0.0) + p
    return found


def magnitude(posterior: Posterior, distances: npt.ArrayLike) -> Array:
    """Magnitude of the Fourier transform of k^n chi(k) as a model's waves say it is, corrected for its phase.

    Over the range of k that the basis was given.

    Parameters
    ----------
    posterior : Posterior
        Of a model of `exafs`.
    distances : (n,) array_like
        Å.

    Returns
    -------
    (n_draws, n) float64
        One for each of some draws, in units of the coefficients: a single wave has its amplitude at its distance.
    """
    return _spectra(posterior, distances, matched=False)


def _spectra(posterior: Posterior, distances: npt.ArrayLike, matched: bool) -> Array:
    """Magnitudes of the waves' Fourier transform, weighted by k^n E(k), or by E(k)^2 as a matched filter is."""
    sines = posterior.model.terms[::2]
    if not sines or any(term.component.shape != wave.shape for term in posterior.model.terms):
        raise ValueError(f"model {posterior.model.name!r} has no waves: give the posterior of a basis of exafs")
    numbers = [slot.offset for slot in sines[0].slots[5:]]
    low, high, weight = numbers[:3]
    k = np.linspace(low, high, N_K + 2)[1:-1]
    envelope = np.array([_envelope(value, *numbers) for value in k.tolist()])
    strength = envelope**2 if matched else k**weight * envelope
    strength /= strength.sum()
    columns = [posterior.draws[f"sine{i}"] + 1j * posterior.draws[f"cosine{i}"] for i in range(1, len(sines) + 1)]
    waves = thinned(np.stack([column.ravel() for column in columns], axis=1), MOST_SPECTRA)
    grid, at = np.asarray(distances, dtype=np.float64), np.array([term.slots[1].offset for term in sines])
    response = np.exp(2j * np.multiply.outer(at, k)) * strength @ np.exp(-2j * np.multiply.outer(k, grid))
    spectra: Array = np.abs(waves @ response)
    return spectra


def distance(posterior: Posterior) -> Summary:
    """Distance, Å, of the strongest shell: that of the single wave which comes nearest to a model's curve.

    Corrected for the phase that was given, and only for that. The top of `magnitude` is at the same distance, but noise
    moves it more.
    """
    terms = posterior.model.terms
    at = [term.slots[1].offset for term in terms] or [1.0, 2.0]
    grid = np.linspace(at[0], at[-1], N_DISTANCES)
    spectra = _spectra(posterior, grid, matched=True)
    peak = np.clip(np.argmax(spectra, axis=1), 1, grid.size - 2)
    before, here, after = (spectra[np.arange(len(spectra)), peak + step] for step in (-1, 0, 1))
    curvature = before - 2.0 * here + after
    shift = np.where(curvature < 0, 0.5 * (before - after) / np.where(curvature < 0, curvature, 1.0), 0.0)
    return summarise(grid[peak] + np.clip(shift, -1.0, 1.0) * (grid[1] - grid[0]))


def copper_shell(k: npt.ArrayLike) -> Array:
    """Simulated chi(k) of the first shell of copper, for demonstrations and tests.

    The EXAFS equation with 12 neighbours at 2.556 Å, sigma2 = 0.0085 Å², a mean free path of 7 Å and a passive factor
    of 0.9. The backscattering amplitude, a hump about 6/Å, and the phase, 4 + p1 k + p2 k² with `COPPER_PHASE`, are
    plausible and simple: they are not calculated.

    Parameters
    ----------
    k : array_like
        1/Å. There is nothing where it is not positive.

    Examples
    --------
    >>> float(copper_shell(6.0).round(4))
    -0.0356
    """
    given = np.asarray(k, dtype=np.float64)
    q = np.where(given > 0, given, np.inf)
    scattering = 0.5 * np.exp(-(((q - 6.0) / 6.0) ** 2))
    phase = 4.0 + COPPER_PHASE[0] * given + COPPER_PHASE[1] * given**2
    size = 0.9 * 12 * scattering / (q * COPPER**2) * np.exp(-2.0 * COPPER / 7.0 - 2.0 * 0.0085 * q**2)
    chi: Array = size * np.sin(2.0 * given * COPPER + phase)
    return chi
