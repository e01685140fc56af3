"""Delays and signals of nuclear relaxation, from the text files that TopSpin writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bluesky_bayes.dataset import Array, Dataset, Origin

SUFFIXES = {"": 1.0, "s": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
"""Seconds in TopSpin's units of time."""


def vdlist(path: str | Path) -> Array:
    """Delays of a ``vdlist``, (n,) float64, s: one a line, as ``0.003``, ``3m`` or ``3000u``.

    Raises
    ------
    ValueError
        Names the line that is no time.
    """
    lines = Path(path).read_text(encoding="utf-8").split()
    if not lines:
        raise ValueError(f"{path} is empty: expected one delay a line")
    return np.array([_seconds(word, f"{path}, delay {i}") for i, word in enumerate(lines, start=1)])


def simfit(path: str | Path, peak: int = 1) -> Dataset:
    """One peak's signals from a report of TopSpin's ``simfit`` (``ct1t2.txt``): the measured ones, not the fit.

    Raises
    ------
    ValueError
        When the file is no such report, has no such peak, or fewer or more points than it says.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    sections = re.split(r"^\s*(\d+) points for Peak (\d+),.*$", text, flags=re.MULTILINE)
    found = {int(number): (int(n), body) for n, number, body in zip(*(sections[i::3] for i in (1, 2, 3)), strict=True)}
    if peak not in found:
        there = f"it has {', '.join(map(str, found))}" if found else "it is no report of simfit"
        raise ValueError(f"{path} has no peak {peak}: {there}")
    n, body = found[peak]
    rows = re.findall(r"^\s*\d+\s+(\S+)\s+(\S+)\s+\S+\s+\S+\s*$", body, flags=re.MULTILINE)
    if len(rows) != n:
        raise ValueError(f"{path} says {n} points for peak {peak} and has {len(rows)}: it is damaged, export it again")
    delays = [_seconds(tau, f"{path}, point {i}") for i, (tau, _) in enumerate(rows, start=1)]
    signals = [_number(signal, f"{path}, point {i}") for i, (_, signal) in enumerate(rows, start=1)]
    return _dataset(delays, signals)


def t1ints(path: str | Path, delays: Array | None = None) -> Dataset:
    """Integrals of the first region from ``t1ints.txt``, which TopSpin's relaxation module writes.

    Parameters
    ----------
    path : str or Path
    delays : (n,) array, optional
        Of the experiment's `vdlist`, s, where they are to replace those in the file.

    Raises
    ------
    ValueError
        When blocks of three lines (delay, region, integral) do not follow one another to the line ``-1 0 0``, or
        there are fewer or more delays than integrals.
    """
    lines = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    blocks = lines[1:-1]
    if len(blocks) < 3 or len(blocks) % 3 or any(len(words) != 3 for words in blocks) or lines[-1] != ["-1", "0", "0"]:
        raise ValueError(
            f"{path} is not a whole t1ints.txt: expected blocks of three lines with three numbers (delay, region, "
            "integral) and a last line -1 0 0"
        )
    signals = [_number(words[1], f"{path}, integral {i}") for i, words in enumerate(blocks[2::3], start=1)]
    times = [_number(words[0], f"{path}, delay {i}") for i, words in enumerate(blocks[::3], start=1)]
    if delays is not None and len(delays) != len(times):
        raise ValueError(f"{path} has {len(times)} integrals and there are {len(delays)} delays: give one for each")
    return _dataset(times if delays is None else delays, signals)


def _dataset(delays: Array | list[float], signals: list[float]) -> Dataset:
    return Dataset(
        np.asarray(delays), np.asarray(signals), units={"x": "s"}, origin=Origin(x="delay", y="magnetisation")
    )


def _seconds(word: str, where: str) -> float:
    match = re.fullmatch(r"([\d.eE+-]+?)([smun]?)", word)
    if match is None:
        raise ValueError(f"{where} is no time: expected a number, of s or with s, m, u or n; got {word!r}")
    return _number(match[1], where) * SUFFIXES[match[2]]


def _number(word: str, where: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise ValueError(f"{where} is no number: got {word!r}") from error
