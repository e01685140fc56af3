"""Small-angle scattering curves: columns of text, and canSAS XML."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from bluesky_bayes.dataset import Array, Dataset, Origin
from bluesky_bayes.families.saxs import pinhole_of

PER_ANGSTROM = {"1/A": 1.0, "1/angstrom": 1.0, "A^-1": 1.0, "1/nm": 0.1, "nm^-1": 0.1}
"""Units of q as files write them."""


class _Columns(NamedTuple):
    q: Array
    intensity: Array
    error: Array | None
    width: Array | None
    unit: str


def read_saxs(path: str | Path, relative: float | None = None, q_unit: str = "1/A") -> Dataset:
    """A scattering curve I(q).

    Text files have columns q, I, error of I and standard deviation of q, the last two where there are some; lines
    before the numbers are headers. Files that end in ``.xml`` are canSAS 1D, one entry. Rows at q = 0 and rows without
    an intensity (``nan``, ``-1.#IND``) hold no measurement and are left out.

    Parameters
    ----------
    path : str or Path
    relative : float, optional
        For files without errors, or in their place: errors as counts have them, this share of I where I is highest
        (0.01 for one per cent) and falling with its square root.
    q_unit : {"1/A", "1/nm"}
        Of q in a text file.

    Returns
    -------
    Dataset
        q in 1/Angstrom.

    Raises
    ------
    ValueError
        When the file is no such curve, has no errors and none are given, or has errors that are not positive: the
        sentence says where and what to do.
    """
    name, columns = Path(path).name, _columns(path, q_unit)
    if relative is not None:
        if not relative > 0:
            raise ValueError(f"relative must be positive, such as 0.01 for one per cent; got {relative}")
        error = relative * np.sqrt(np.abs(columns.intensity) * np.max(columns.intensity))
    elif columns.error is None:
        raise ValueError(
            f"{name} has no errors of I: say how large they are, relative=0.01 for counts with one per cent "
            "where I is highest"
        )
    else:
        error = columns.error
    bad = np.flatnonzero(~(error > 0))
    if bad.size:
        raise ValueError(
            f"{name} has an error of {error[bad[0]]:g} at q = {columns.q[bad[0]]:g} ({bad.size} such rows), which "
            "would give that point infinite weight: delete the row or write its real error"
        )
    return Dataset(
        columns.q,
        columns.intensity,
        sigma=error,
        units={"x": "1/Å", "y": columns.unit},
        origin=Origin(x="q", y=Path(path).stem),
    )


def read_pinhole(path: str | Path, worst: float = 0.02, q_unit: str = "1/A") -> tuple[float, float]:
    """The smearing of a file with a column of standard deviations of q, as `bluesky_bayes.families.saxs` takes it.

    Parameters
    ----------
    path : str or Path
    worst : float
        Largest relative difference from the column that is accepted, see `pinhole_of`.
    q_unit : {"1/A", "1/nm"}
        Of q in a text file.

    Raises
    ------
    ValueError
        When the file has no such column, or one that is zero or no smooth law.
    """
    columns = _columns(path, q_unit)
    if columns.width is None:
        raise ValueError(f"{Path(path).name} has no column of widths of q: leave pinhole out")
    try:
        return pinhole_of(columns.q, columns.width, worst)
    except ValueError as error:
        raise ValueError(f"{Path(path).name}: {error}") from error


def _columns(path: str | Path, q_unit: str) -> _Columns:
    name = Path(path).name
    rows, unit, intensity_unit = _cansas(path) if Path(path).suffix == ".xml" else (*_text(path), q_unit, "")
    if unit not in PER_ANGSTROM:
        raise ValueError(f"{name} has q in {unit!r}; it must be one of {', '.join(PER_ANGSTROM)}")
    table = rows[np.isfinite(rows[:, 1]) & (rows[:, 0] != 0)]
    if table.shape[0] < 2:
        raise ValueError(f"{name} has {table.shape[0]} rows with an intensity; a curve needs more")
    if np.any(table[:, 0] < 0):
        raise ValueError(f"{name} has q below zero: give the curve averaged around the beam")
    factor = PER_ANGSTROM[unit]
    q, intensity, *more = table.T
    error = more[0] if more else None
    return _Columns(q * factor, intensity, error, more[1] * factor if len(more) > 1 else None, intensity_unit)


def _text(path: str | Path) -> tuple[Array]:
    name, rows = Path(path).name, list[list[float]]()
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.replace(",", " ").replace(";", " ").split()
        values = [value for word in words if (value := _number(word)) is not None]
        numeric = len(values) == len(words) >= 2 and np.isfinite(values[0])
        if not numeric and not rows:
            continue
        if words and not line.lstrip().startswith("#"):
            if not numeric or len(values) != len(rows[0] if rows else values):
                raise ValueError(f"{name}, line {number}, is not a row like those before it: {line.strip()[:60]!r}")
            rows.append(values)
    if not rows:
        raise ValueError(f"{name} has no rows of numbers: it must have columns q, I and, where known, their errors")
    return (np.array(rows)[:, :4],)


def _number(word: str) -> float | None:
    """What a word says; Windows' words for no number included."""
    if "#" in word:
        return float("nan")
    try:
        return float(word)
    except ValueError:
        return None


def _cansas(path: str | Path) -> tuple[Array, str, str]:
    name = Path(path).name
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{name} is no XML file: {error}") from error
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    entries = root.findall(f".//{space}SASdata")
    if len(entries) != 1:
        raise ValueError(f"{name} has {len(entries)} SASdata; a canSAS file must have one here: export one curve alone")
    points = entries[0].findall(f"{space}Idata")
    tags = [tag for tag in ("Q", "I", "Idev", "Qdev") if points and points[0].find(space + tag) is not None]
    if tags[:2] != ["Q", "I"]:
        raise ValueError(f"{name} has no Idata with Q and I")
    try:
        rows = [[float(point.findtext(space + tag, "")) for tag in tags] for point in points]
    except ValueError as error:
        raise ValueError(f"{name} has a point without one of {', '.join(tags)}: {error}") from error
    units = [next(point.iter(space + tag)).get("unit", "") for point in points[:1] for tag in ("Q", "I")]
    return np.array(rows), units[0], units[1]
