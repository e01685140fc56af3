"""Photoelectron spectra from text files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from bluesky_bayes.dataset import Dataset, Origin


def read_csv(path: str | Path) -> Dataset:
    """Spectrum from the first two columns of a comma-separated file: binding energy in eV, intensity.

    The first line names the columns, as LG4X writes them. Energies may run up or down. Intensities stay as they are:
    say by ``noise=Poisson(scale=...)`` what one count adds to them.

    Raises
    ------
    ValueError
        Where the file is no such table, or its energies are kinetic; the sentence names the file and the line.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [(n, row) for n, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)]
    if not rows or len(rows[0][1]) < 2 or _number(rows[0][1][0]) is not None:
        raise ValueError(f"{path}: the first line must name the columns, such as BE/eV,intensity")
    (_, (energy, intensity, *_)), *points = rows
    if energy.strip().lower().startswith(("ke", "kinetic")):
        raise ValueError(f"{path}: {energy!r} are kinetic energies; give binding energies, photon energy less these")
    table = []
    for n, row in points:
        values = [_number(cell) for cell in row[:2]]
        if len(values) < 2 or None in values:
            raise ValueError(f"{path}, line {n}: expected an energy and an intensity; got {','.join(row)!r}")
        table.append(values)
    x, y = np.array(table, dtype=np.float64).reshape(-1, 2).T
    return Dataset(x, y, units={"x": "eV", "y": "counts"}, origin=Origin(x="binding energy", y=intensity.strip()))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
