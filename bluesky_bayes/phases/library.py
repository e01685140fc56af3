"""Libraries of candidate structures: folders of CIF files, calculated once and kept on disk by their content."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from platformdirs import user_cache_path

from bluesky_bayes.blas import one_blas_thread
from bluesky_bayes.phases.radiation import Radiation
from bluesky_bayes.phases.structures import Structure, structures_in

FORMAT = 1
"""Of the files on disk: another number is calculated anew."""
D_MIN = 0.9
"""Smallest spacing that is calculated unless a pattern asks for less, Angstrom."""
SHARE = 0.05
"""Angstrom: spacings are rounded down to a multiple, so that patterns of nearly one range share a file."""


class Source(NamedTuple):
    """Text of one CIF file and its name."""

    name: str
    text: str


@dataclass(frozen=True, eq=False)
class Library:
    """Candidate structures with their reflections for one radiation.

    Attributes
    ----------
    structures : tuple of Structure
    radiation : Radiation
    d_min : float
        Smallest spacing that was calculated, Angstrom.
    left_out : tuple of str
        A sentence for each file that could not be used.
    sources : tuple of Source
        What they were calculated from.
    """

    structures: tuple[Structure, ...]
    radiation: Radiation
    d_min: float
    left_out: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    def __repr__(self) -> str:
        """How many structures, and how far."""
        return f"<Library: {len(self.structures)} structures, spacings from {self.d_min:.4g} Angstrom>"

    @classmethod
    def from_folder(
        cls, folder: str | Path, radiation: str | float | Radiation = "CuKa", d_min: float = D_MIN
    ) -> Library:
        """All CIF files of a folder and the folders in it.

        The first time takes some milliseconds a structure; after that they come from the user's cache folder, by
        content: a changed file is calculated anew.

        Parameters
        ----------
        folder : str or Path
        radiation : str or float or Radiation
            Name of an anode or a wavelength in Angstrom. Patterns of another radiation are handled by
            :meth:`covering`.
        d_min : float
            Smallest spacing, Angstrom.

        Raises
        ------
        ValueError
            When there is no such folder, or no usable CIF file in it.
        """
        sources, unread = sources_in(folder)
        found = cls.from_sources(sources, radiation, d_min)
        return replace(found, left_out=(*unread, *found.left_out))

    @classmethod
    def from_amcsd(
        cls,
        elements: Sequence[str],
        radiation: str | float | Radiation = "CuKa",
        d_min: float = D_MIN,
    ) -> Library:
        """Minerals made of these elements alone, from the American Mineralogist Crystal Structure Database.

        The database is the file of the package ``larixite`` (``pip install larixite``), about a fourth of it unless
        the user's own folder holds the whole one.

        Raises
        ------
        ModuleNotFoundError
            Without larixite.
        ValueError
            When no mineral is made of these elements.
        """
        from larixite.amcsd import get_amcsd

        database, allowed = get_amcsd(download_full=False), set(elements)
        content: dict[int, set[str]] = {}
        for number, element in database.get_all("cif_elements"):
            content.setdefault(int(number), set()).add(element)
        found = (database.get_cif(number) for number, its in sorted(content.items()) if its <= allowed)
        sources = [
            Source(f"{one.mineral.name.replace(' ', '_')}_{one.ams_id}", one.ciftext)
            for one in found
            if one is not None
        ]
        if not sources:
            raise ValueError(f"no mineral of the database is made of {', '.join(elements)} alone")
        return cls.from_sources(sources, radiation, d_min)

    @classmethod
    def from_sources(
        cls, sources: Iterable[Source], radiation: str | float | Radiation = "CuKa", d_min: float = D_MIN
    ) -> Library:
        """Structures in the texts of CIF files: pairs of a name and a text.

        Raises
        ------
        ValueError
            When none can be used: the sentence gives the reason of the first.
        """
        rays, texts = Radiation.of(radiation), tuple(Source(*source) for source in sources)
        d_min = max(SHARE, SHARE * math.floor(d_min / SHARE + 1e-9), 0.5 * rays.wavelengths[0])
        structures, left_out = _calculated(texts, rays, d_min)
        if not structures:
            reason = left_out[0] if left_out else "none was given"
            raise ValueError(f"no structure can be used of {len(texts)} files: {reason}")
        return cls(tuple(structures), rays, d_min, tuple(left_out), texts)

    @property
    def digest(self) -> str:
        """SHA-256 of what it was calculated from."""
        return digest_of(self.sources)

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.structures)

    def __iter__(self) -> Iterator[Structure]:
        """The structures in order of their files' names."""
        return iter(self.structures)

    def only(self, elements: Sequence[str] = (), formulas: Sequence[str] = ()) -> Library:
        """Structures made of these elements alone, and of these formulas.

        Parameters
        ----------
        elements : sequence of str, optional
            Symbols; a structure with any other element is left out.
        formulas : sequence of str, optional
            As :attr:`Structure.formula` writes them: "MnO2".

        Raises
        ------
        ValueError
            When nothing is left.
        """
        allowed = set(elements)
        kept = tuple(
            structure
            for structure in self.structures
            if (not allowed or allowed.issuperset(structure.elements))
            and (not formulas or structure.formula in formulas)
        )
        if not kept:
            raise ValueError(
                f"none of the {len(self)} structures is made of {', '.join(elements) or 'any elements'}"
                + (f" with a formula among {', '.join(formulas)}" if formulas else "")
            )
        return replace(self, structures=kept)

    def covering(self, radiation: Radiation, d_min: float) -> Library:
        """The same structures for another radiation or to smaller spacings, where it does not reach there yet.

        Raises
        ------
        ValueError
            When its sources are unknown, so that it cannot be calculated anew.
        """
        if radiation.wavelengths[0] == self.radiation.wavelengths[0] and self.d_min <= max(
            d_min, 0.5 * radiation.wavelengths[0]
        ):
            return self
        if not self.sources:
            raise ValueError(
                f"the library was calculated for {self.radiation.wavelengths[0]:g} Angstrom down to spacings of "
                f"{self.d_min:g} Angstrom; the pattern was measured with {radiation.wavelengths[0]:g} Angstrom and "
                f"needs {d_min:.3g} Angstrom: make the library for that radiation and d_min"
            )
        names = {structure.name for structure in self.structures}
        wider = Library.from_sources(self.sources, radiation, min(d_min, self.d_min))
        kept = tuple(one for one in wider.structures if one.name in names)
        # Files that could not be read are no sources.
        return replace(wider, structures=kept, left_out=tuple(dict.fromkeys((*self.left_out, *wider.left_out))))


def sources_in(folder: str | Path) -> tuple[list[Source], list[str]]:
    """Texts of all CIF files of a folder and the folders in it, and a sentence for each that cannot be read.

    Raises
    ------
    ValueError
        When there is no such folder, or no CIF file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"no library: {root} is no folder; give a folder that holds .cif files")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() == ".cif" and path.is_file())
    if not paths:
        raise ValueError(f"no library: there is no .cif file in {root}")
    sources, unread = [], []
    for path in paths:
        try:
            sources.append(Source(path.stem, path.read_text(encoding="utf-8", errors="replace")))
        except OSError as error:
            unread.append(f"{path.stem} is left out: it cannot be read: {error.strerror}")
    return sources, unread


def digest_of(sources: Iterable[Source]) -> str:
    """SHA-256 of names and texts, in any order."""
    each = sorted(hashlib.sha256(f"{one.name}\n{one.text}".encode()).hexdigest() for one in sources)
    return hashlib.sha256("".join(each).encode()).hexdigest()


def _calculated(sources: tuple[Source, ...], radiation: Radiation, d_min: float) -> tuple[list[Structure], list[str]]:
    """Structures and sentences about those left out, from disk where they are there."""
    settings = f"{FORMAT} {radiation.wavelengths[0]:.6f} {d_min:.4f}"
    keys = [hashlib.sha256(f"{settings} {one.name}\n{one.text}".encode()).hexdigest()[:24] for one in sources]
    whole = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()[:24]
    path = user_cache_path("bluesky_bayes") / "structures" / f"{whole}.npz"
    known = _read(path)
    if known is None:

        def one(source: Source) -> list[Structure] | str:
            try:
                return structures_in(source.text, source.name, radiation, d_min)
            except (ValueError, RuntimeError, ArithmeticError) as error:
                return f"{source.name} is left out: {error}"

        with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(one, sources))
        structures = [structure for result in results if not isinstance(result, str) for structure in result]
        known = structures, [result for result in results if isinstance(result, str)]
        _write(path, *known)
    return known


def _read(path: Path) -> tuple[list[Structure], list[str]] | None:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            hkl, q, power, cells = file["hkl"], file["q"], file["power"], file["cells"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or not whole: calculated anew
        return None
    structures, start = [], 0
    for cell, row in zip(cells, about["structures"], strict=True):
        part = slice(start, start := start + row["n"])
        structures.append(
            Structure(
                row["name"],
                row["formula"],
                tuple(row["elements"]),
                cell,
                row["mass"],
                hkl[part].astype(np.float64),
                q[part],
                power[part],
                tuple(row["notes"]),
            )
        )
    return structures, about["left_out"]


def _write(path: Path, structures: list[Structure], left_out: list[str]) -> None:
    """A file that is there whole or not at all; a disk that takes none costs time later, no answer now."""
    rows = [
        {
            "name": one.name,
            "formula": one.formula,
            "elements": one.elements,
            "mass": one.mass,
            "notes": one.notes,
            "n": one.q.size,
        }
        for one in structures
    ]
    if not structures:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{uuid4().hex}.partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                about=np.array(json.dumps({"structures": rows, "left_out": left_out})),
                cells=np.array([one.cell for one in structures]),
                hkl=np.concatenate([one.hkl for one in structures]).astype(np.int16),
                q=np.concatenate([one.q for one in structures]),
                power=np.concatenate([one.power for one in structures]),
            )
        partial.replace(path)
    except OSError:
        return
