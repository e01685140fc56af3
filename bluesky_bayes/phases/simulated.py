"""Simulated powder patterns, made by another model than the one that is fitted.

Preferred orientation follows March and Dollase, grains are few, axes stretch by themselves, lines are lopsided at low
angles, the instrument's width follows Caglioti, a little K-beta comes through, counts scatter more than Poisson's, and
a glass is in the background: no fit can follow all of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from bluesky_bayes.dataset import Array
from bluesky_bayes.phases.library import Library, Source
from bluesky_bayes.phases.patterns import Pattern
from bluesky_bayes.phases.radiation import Radiation
from bluesky_bayes.phases.structures import ISOTROPIC, Structure, lattice_of, reciprocal_metric, strained

EXAMPLES: dict[str, tuple[str, tuple[float, ...], str]] = {
    "rutile": ("P 42/m n m", (4.594, 4.594, 2.959, 90, 90, 90), "Ti 0 0 0, O .3053 .3053 0"),
    "anatase": ("I 41/a m d:2", (3.785, 3.785, 9.514, 90, 90, 90), "Ti 0 .75 .125, O 0 .75 .3331"),
    "corundum": ("R -3 c:H", (4.759, 4.759, 12.993, 90, 90, 120), "Al 0 0 .3522, O .3063 0 .25"),
    "hematite": ("R -3 c:H", (5.038, 5.038, 13.772, 90, 90, 120), "Fe 0 0 .3553, O .3059 0 .25"),
    "magnetite": (
        "F d -3 m:2",
        (8.396, 8.396, 8.396, 90, 90, 90),
        "Fe .125 .125 .125, Fe .5 .5 .5, O .2549 .2549 .2549",
    ),
    "spinel": ("F d -3 m:2", (8.083, 8.083, 8.083, 90, 90, 90), "Mg .125 .125 .125, Al .5 .5 .5, O .2624 .2624 .2624"),
    "periclase": ("F m -3 m", (4.211, 4.211, 4.211, 90, 90, 90), "Mg 0 0 0, O .5 .5 .5"),
    "bunsenite": ("F m -3 m", (4.177, 4.177, 4.177, 90, 90, 90), "Ni 0 0 0, O .5 .5 .5"),
    "halite": ("F m -3 m", (5.640, 5.640, 5.640, 90, 90, 90), "Na 0 0 0, Cl .5 .5 .5"),
    "fluorite": ("F m -3 m", (5.463, 5.463, 5.463, 90, 90, 90), "Ca 0 0 0, F .25 .25 .25"),
    "ceria": ("F m -3 m", (5.411, 5.411, 5.411, 90, 90, 90), "Ce 0 0 0, O .25 .25 .25"),
    "silicon": ("F d -3 m:2", (5.431, 5.431, 5.431, 90, 90, 90), "Si .125 .125 .125"),
    "zincite": ("P 63 m c", (3.250, 3.250, 5.207, 90, 90, 120), "Zn .3333 .6667 0, O .3333 .6667 .3821"),
    "calcite": ("R -3 c:H", (4.990, 4.990, 17.061, 90, 90, 120), "Ca 0 0 0, C 0 0 .25, O .2568 0 .25"),
    "quartz": ("P 32 2 1", (4.913, 4.913, 5.405, 90, 90, 120), "Si .4697 0 .66667, O .4135 .2669 .7858"),
    "aluminium": ("F m -3 m", (4.049, 4.049, 4.049, 90, 90, 90), "Al 0 0 0"),
}
"""Space group, cell and atoms of some minerals, for examples and tests."""
K_BETA = {1.540593: 1.392218, 1.788996: 1.620790, 0.709317: 0.632288}
INSTRUMENT = (0.004, -0.003, 0.006)
"""Caglioti's U, V, W, degrees squared."""


def cif_text(name: str) -> str:
    """The CIF file of an example."""
    group, cell, atoms = EXAMPLES[name]
    keys = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"data_{name}", f"_symmetry_space_group_name_H-M '{group}'"]
    lines += [f"_cell_{key} {value}" for key, value in zip(keys, cell, strict=True)]
    lines += ["loop_", *(f"_atom_site_{key}" for key in ("label", "fract_x", "fract_y", "fract_z"))]
    return "\n".join([*lines, *(atom.strip() for atom in atoms.split(","))]) + "\n"


def example_sources() -> list[Source]:
    """CIF files of all examples."""
    return [Source(name, cif_text(name)) for name in EXAMPLES]


def example_library(radiation: str | float | Radiation = "CuKa") -> Library:
    """Sixteen minerals."""
    return Library.from_sources(example_sources(), radiation)


def simulate(
    mixture: Sequence[tuple[Structure, float]],
    seed: int = 0,
    *,
    radiation: str | float | Radiation = "CuKa",
    span: tuple[float, float, float] = (10.0, 90.0, 0.02),
    counts: float = 10000.0,
    background: float = 300.0,
    breadth: float = 1.0,
    name: str = "simulated",
) -> Pattern:
    """A pattern of structures with given weights.

    Parameters
    ----------
    mixture : sequence of (Structure, float)
        With the weights of each, in any unit.
    seed : int
    radiation : str or float or Radiation
    span : tuple of float
        First and last angle and step, degrees.
    counts : float
        Of the highest peak.
    background : float
        Counts.
    breadth : float
        Width of the instrument's lines, in that of a good diffractometer.
    name : str

    Returns
    -------
    Pattern
    """
    rng, rays = np.random.default_rng(seed), Radiation.of(radiation)
    x = np.arange(span[0], span[1] + 1e-9, span[2])
    displacement = rng.uniform(-0.08, 0.08)
    peaks = np.sum([weight * _curve(one, x, rays, displacement, breadth, rng) for one, weight in mixture], axis=0)
    peaks *= counts / peaks.max()
    slope = background * (1.0 + rng.uniform(0.0, 2.0) * np.exp(-(x - x[0]) / rng.uniform(8.0, 30.0)))
    glass = background * rng.uniform(0.0, 0.3) * np.exp(-0.5 * ((x - rng.uniform(20.0, 35.0)) / 5.0) ** 2)
    mean = peaks + slope + glass
    # More scatter than counting has, some of it shared by neighbours: a drifting beam and a smoothing detector.
    drift = 0.005 * gaussian_filter1d(rng.standard_normal(x.size), 50.0) * math.sqrt(2.0 * math.sqrt(math.pi) * 50.0)
    gain = rng.uniform(1.0, 2.0)
    counted = gain * rng.poisson(mean * (1.0 + drift) / gain)
    return Pattern(x, np.round(gaussian_filter1d(counted.astype(np.float64), rng.uniform(0.0, 0.7))), rays, None, name)


def _curve(
    structure: Structure, x: Array, rays: Radiation, displacement: float, breadth: float, rng: np.random.Generator
) -> Array:
    """Counts by unit of weight of one phase, in a state of its own."""
    change = rng.uniform(-0.006, 0.006) * ISOTROPIC
    for free in lattice_of(structure.cell)[1]:
        change = change + rng.uniform(-0.002, 0.002) * free
    metric = reciprocal_metric(strained(structure.cell, change))
    q = np.sqrt(np.einsum("ni,ij,nj->n", structure.hkl, metric, structure.hkl))
    axis = np.array([(0, 0, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)][rng.integers(4)], np.float64)
    # Intensity by volume of a phase goes with the square of the density of cells; its volume by weight is V / M.
    strength = structure.power * rays.lorentz_polarisation(structure.q) / structure.volume**2
    strength *= structure.volume / structure.mass
    strength *= _march_dollase(structure, metric, axis, float(np.exp(rng.normal(0.0, 0.25))))
    strength *= rng.gamma(1.0 / 0.15**2, 0.15**2, q.size)
    size, strain = np.exp(rng.uniform(math.log(80.0), math.log(1500.0))), rng.uniform(0.0, 0.002)
    waves = [(wave, share) for wave, share in zip(rays.wavelengths, rays.intensities, strict=True)]
    if rays.wavelengths[0] in K_BETA:
        waves.append((K_BETA[rays.wavelengths[0]], 0.002))
    total = np.zeros(x.size)
    u, v, w = INSTRUMENT
    for wave, share in waves:
        sine = 0.5 * wave * q
        for h in np.flatnonzero((sine < 0.999) & (strength > 1e-3 * strength.max())):
            theta = math.asin(sine[h])
            centre = 2.0 * math.degrees(theta) + displacement * math.cos(theta)
            if not x[0] - 3.0 < centre < x[-1] + 3.0:
                continue
            tangent = math.tan(theta)
            gauss = breadth * math.sqrt(max(u * tangent**2 + v * tangent + w, 1e-4))
            lorentz = math.degrees(0.9 * wave / (size * math.cos(theta))) + math.degrees(4.0 * strain * tangent)
            full = (
                gauss**5
                + 2.69 * gauss**4 * lorentz
                + 2.43 * gauss**3 * lorentz**2
                + 4.47 * gauss**2 * lorentz**3
                + 0.08 * gauss * lorentz**4
                + lorentz**5
            ) ** 0.2
            part = lorentz / full
            eta = 1.366 * part - 0.477 * part**2 + 0.111 * part**3
            # Axial divergence: the foot at low angles is wider.
            lean = 1.0 + 0.15 / (1.0 + tangent * 10.0) * np.sign(centre - x)
            z = (x - centre) / (full * lean)
            profile = eta * 0.6366 / (1.0 + 4.0 * z**2) + (1.0 - eta) * 0.9394 * np.exp(-2.7726 * z**2)
            total += strength[h] * share * profile / full
    return total


def _march_dollase(structure: Structure, metric: Array, axis: Array, r: float) -> Array:
    """Factor of each reflection, averaged over the axes that cyclic permutation of the indices makes of one."""
    total, number = np.zeros(structure.q.size), 0
    cubic = structure.lattice == "cubic"
    for turned in {tuple(np.roll(axis, n)) if cubic else tuple(axis) for n in range(3)}:
        direction = np.array(turned)
        length = math.sqrt(direction @ metric @ direction)
        cosine = np.abs(structure.hkl @ metric @ direction) / (
            np.sqrt(np.einsum("ni,ij,nj->n", structure.hkl, metric, structure.hkl)) * length
        )
        total += ((r * cosine) ** 2 + (1.0 - np.minimum(cosine, 1.0) ** 2) / r) ** -1.5
        number += 1
    return total / number


@functools.cache
def _pigment() -> Pattern:
    minerals = {structure.name: structure for structure in example_library()}
    return simulate([(minerals["rutile"], 0.6), (minerals["anatase"], 0.3), (minerals["zincite"], 0.1)], seed=7)


def pigment(two_theta: Array) -> Array:
    """Expected counts of a white pigment: rutile, anatase and a little zincite, at angles (n,) in degrees."""
    pattern = _pigment()
    return np.maximum(np.interp(two_theta, pattern.two_theta, gaussian_filter1d(pattern.counts, 0.8)), 0.0)


def simulate_series(
    mixtures: Sequence[Sequence[tuple[Structure, float]]],
    seed: int = 0,
    *,
    radiation: str | float | Radiation = "CuKa",
    span: tuple[float, float, float] = (15.0, 75.0, 0.02),
    counts: float = 5000.0,
    background: float = 150.0,
    expansion: float = 2e-5,
) -> list[Pattern]:
    """Patterns of one specimen as its phases change, their grains, widths and texture the same in all.

    Parameters
    ----------
    mixtures : sequence
        Of each frame: structures with their weights, in any unit.
    seed : int
    radiation, span, background
        As for `simulate`.
    counts : float
        Of the highest peak of all frames.
    expansion : float
        Relative growth of all cells from frame to frame, as of a specimen that is heated.

    Returns
    -------
    list of Pattern
    """
    rng, rays = np.random.default_rng([seed, 0]), Radiation.of(radiation)
    x = np.arange(span[0], span[1] + 1e-9, span[2])
    displacement, slope = rng.uniform(-0.08, 0.08), rng.uniform(8.0, 30.0)
    flat = background * (1.0 + np.exp(-(x - x[0]) / slope))
    names = list(dict.fromkeys(structure.name for mixture in mixtures for structure, _ in mixture))
    frames = []
    for n, mixture in enumerate(mixtures):
        grown = [(_grown(structure, n * expansion), weight) for structure, weight in mixture if weight > 0.0]
        states = [np.random.default_rng([seed, 1 + names.index(structure.name)]) for structure, _ in grown]
        curves = [
            weight * _curve(structure, x, rays, displacement, 1.0, state)
            for (structure, weight), state in zip(grown, states, strict=True)
        ]
        frames.append(np.sum(curves, axis=0) if curves else np.zeros(x.size))
    scale = counts / max(float(frame.max()) for frame in frames)
    return [Pattern(x, rng.poisson(scale * frame + flat), rays, None, f"frame {n}") for n, frame in enumerate(frames)]


def _grown(structure: Structure, strain: float) -> Structure:
    return replace(structure, cell=strained(structure.cell, strain * ISOTROPIC))
