"""X-ray absorption spectra: columns of a file, the logarithm of two monitors, and repeated scans made one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bluesky_bayes.dataset import Array, Dataset, Origin

FEWEST_COLUMNS = 2
NEIGHBOURS = 15
"""Points over which the scatter of repeated scans is averaged."""
MU = "mu"


def columns(path: str | Path) -> dict[str, Array]:
    """Columns of an XDI file, or of a text file whose last comment line names them, by lower-case name.

    Raises
    ------
    ValueError
        When lines have different numbers of columns or hold what is no number, or there are no names for them.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    comments = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    try:
        table = np.loadtxt(path, comments="#", ndmin=2, encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path} is not a table of numbers: {error}") from error
    declared = dict(re.findall(r"^Column\.(\d+):\s*(\S+)", "\n".join(comments), flags=re.MULTILINE))
    names = [declared[n] for n in sorted(declared, key=int)] or (comments[-1].split() if comments else [])
    if table.shape[1] < FEWEST_COLUMNS or len(names) != table.shape[1]:
        raise ValueError(
            f"{path} has {table.shape[1]} columns and names for {len(names)}: expected lines '# Column.1: energy eV' "
            "or a last comment line with the names"
        )
    return {name.lower(): table[:, i] for i, name in enumerate(names)}


def spectrum(path: str | Path, i0: str = "i0", it: str = "itrans", mu: str = "xmu") -> Dataset:
    """Absorption against energy (eV) of a file: its column `mu`, else ln(i0 / it).

    Raises
    ------
    ValueError
        When the file is no table or has neither.
    """
    table = columns(path)
    if "energy" not in table or not (mu in table or {i0, it} <= set(table)):
        raise ValueError(f"{path} has no energy with {mu} or with {i0} and {it}; it has {', '.join(table)}")
    if mu in table:
        return Dataset(table["energy"], table[mu], units={"x": "eV"}, origin=Origin(x="energy", y=mu))
    return absorption(table["energy"], table[i0], table[it], units={"x": "eV"})


def absorption(
    energy: npt.ArrayLike,
    i0: npt.ArrayLike,
    it: npt.ArrayLike,
    sigma_i0: npt.ArrayLike | None = None,
    sigma_it: npt.ArrayLike | None = None,
    counts: bool = False,
    units: Mapping[str, str] | None = None,
    origin: Origin | None = None,
) -> Dataset:
    """Absorption mu = ln(I0 / I), with the errors that both monitors give it.

    To first order, sigma^2 = (sigma_i0 / I0)^2 + (sigma_it / I)^2, which is 1/I0 + 1/I for counts.

    Parameters
    ----------
    energy : (n,) array_like
    i0, it : (n,) array_like
        Incoming and transmitted intensity, positive.
    sigma_i0, sigma_it : (n,) array_like or float, optional
        Their standard deviations. Give both, or neither and have the noise inferred.
    counts : bool
        Both are counts of photons, with Poisson noise. Currents and voltages of ion chambers are not.
    units : mapping, optional
        ``{"x": "keV"}``.
    origin : Origin, optional

    Raises
    ------
    ValueError
        When intensities are not positive, one error is missing, or errors are given for counts.
    """
    incoming, transmitted = np.asarray(i0, dtype=np.float64), np.asarray(it, dtype=np.float64)
    for name, values in (("i0", incoming), ("it", transmitted)):
        bad = np.flatnonzero(~(values > 0))
        if bad.size:
            raise ValueError(
                f"{name} is {values[bad[0]]:g} at point {bad[0]} ({bad.size} such points) and has no logarithm; "
                "leave these points out, or check the dark level"
            )
    given = sigma_i0 is not None, sigma_it is not None
    if given[0] != given[1] or (counts and given[0]):
        raise ValueError("give errors of both monitors, or counts=True, or neither")
    if counts:
        sigma_i0, sigma_it = np.sqrt(incoming), np.sqrt(transmitted)
    sigma = None
    if sigma_i0 is not None and sigma_it is not None:
        sigma = np.hypot(np.asarray(sigma_i0) / incoming, np.asarray(sigma_it) / transmitted)
    origin = origin or Origin(x="energy", y=MU)
    return Dataset(np.asarray(energy), np.log(incoming / transmitted), sigma=sigma, units=units or {}, origin=origin)


@dataclass(frozen=True, eq=False)
class Repeats:
    """Repeated scans made one.

    Attributes
    ----------
    data : Dataset
        Mean of the scans at the first one's energies, with its standard deviation at each point.
    drifts : (n_scans,) float64
        How far each scan lies above the first in energy; the first is 0.
    noise : (n,) float64
        Standard deviation of a single scan at each point.
    """

    data: Dataset
    drifts: Array
    noise: Array


def repeats(scans: Sequence[Dataset]) -> Repeats:
    """Take the energy drift between repeated scans away, average them, and tell the noise from how they differ.

    Each scan is moved in energy, by a spline, and by a constant in mu until it lies on the first one best. What is
    left between the scans is their noise: its variance is averaged over 15 neighbouring points.

    Parameters
    ----------
    scans : sequence of Dataset
        Two or more, of about the same energies.

    Raises
    ------
    ValueError
        For fewer than two scans, or scans that overlap at fewer than 15 points.
    """
    from scipy.interpolate import make_interp_spline
    from scipy.ndimage import uniform_filter1d
    from scipy.optimize import least_squares

    if len(scans) < 2:
        raise ValueError(f"noise from repeats needs two scans or more; got {len(scans)}")
    first, spacing = scans[0], float(np.median(np.diff(scans[0].x)))
    low, high = max(s.x[0] for s in scans) + 3 * spacing, min(s.x[-1] for s in scans) - 3 * spacing
    energy = first.x[(first.x >= low) & (first.x <= high)]
    if energy.size < NEIGHBOURS:
        raise ValueError(f"these scans overlap at {energy.size} points and must at {NEIGHBOURS}")
    curves = [make_interp_spline(scan.x, scan.y, k=3) for scan in scans]
    reference = curves[0](energy)

    def moved(curve: Any) -> tuple[float, Array]:
        def residual(p: Array) -> Array:
            values: Array = curve(np.clip(energy + p[0], *curve.t[[0, -1]])) - p[1] - reference
            return values

        best = least_squares(residual, [0.0, 0.0], x_scale=[spacing, float(np.std(reference))])
        return float(best.x[0]), reference + residual(best.x)

    drifts, aligned = zip(*[(0.0, reference), *(moved(curve) for curve in curves[1:])], strict=True)
    stack = np.array(aligned)
    variance = uniform_filter1d(np.var(stack, axis=0, ddof=1), NEIGHBOURS, mode="nearest")
    noise: Array = np.sqrt(variance)
    data = Dataset(
        energy, stack.mean(axis=0), sigma=noise / np.sqrt(len(scans)), units=first.units, origin=first.origin
    )
    return Repeats(data, np.array(drifts), noise)
