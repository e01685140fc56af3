"""A recipe for phases: what to take out of a run, the library, the radiation; saved as TOML."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from bluesky_bayes.analysis import DATA, Files, Recipe
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.phases.fitting import Beliefs
from bluesky_bayes.phases.library import Library, Source, digest_of, sources_in
from bluesky_bayes.phases.patterns import Pattern
from bluesky_bayes.phases.radiation import Radiation
from bluesky_bayes.phases.selection import PhaseSelection, search
from bluesky_bayes.phases.simulated import example_sources, simulate
from bluesky_bayes.preparation import Preparation, check_entries

EXAMPLES = "examples"
"""In place of a folder: the sixteen minerals of the package."""
PARTS = ("data", "preparation", "library", "radiation", "beliefs", "files")


@dataclass(frozen=True, eq=False, kw_only=True)
class PhaseAnalysis(Recipe):
    """What to take out of a run, and which library to search: ``BayesCallback(PhaseAnalysis(library="cif"))``.

    x is 2 theta in degrees, y counts: a point an event, or a pattern an event. Fields, preparation and files are those
    of `Analysis`.

    Attributes
    ----------
    library : str
        Folder of CIF files, or "examples". Its content belongs to the digest: where a file changes afterwards the
        analysis says so and must be made anew.
    radiation : str or float or Radiation
    elements, formulas : tuple of str
        What the structures may be made of; all by default.
    between : (float, float), optional
        Only these angles, degrees.
    beliefs : Beliefs
    """

    library: str | Path
    radiation: str | float | Radiation = "CuKa"
    elements: tuple[str, ...] = ()
    formulas: tuple[str, ...] = ()
    between: tuple[float, float] | None = None
    beliefs: Beliefs = field(default_factory=Beliefs)
    x: str | None = None
    y: str | None = None
    stream: str = "primary"
    sigma: str | None = None
    exposure: str | None = None
    i0: str | None = None
    subtract: float = 0.0
    patterns: str | None = None
    preparation: Preparation = field(default_factory=Preparation)
    metadata: tuple[str, ...] | None = None
    files: Files = field(default_factory=Files)
    library_digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Check the choice, and take the library's digest."""
        self._check()
        folder = self.library if self.library == EXAMPLES else str(Path(self.library).resolve())
        given: dict[str, Any] = {
            "library": folder,
            "radiation": Radiation.of(self.radiation),
            "elements": tuple(self.elements),
            "formulas": tuple(self.formulas),
            "library_digest": digest_of(_sources(folder)),
        }
        if self.between is not None:
            low, high = (float(end) for end in self.between)
            if not 0.0 <= low < high:
                raise ValueError(f"between must be two rising angles in degrees; got {self.between!r}")
            given["between"] = (low, high)
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __call__(self, data: Dataset) -> PhaseSelection:
        """Answer the question for one pattern."""
        per = 1.0 if data.exposure is None else data.exposure
        sigma = None if data.sigma is None else data.sigma / per
        name = data.origin.y if data.origin.scan_id is None else f"scan {data.origin.scan_id}"
        if data.origin.events:
            numbers = data.origin.events
            name += f", event {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")
        pattern = Pattern(data.x, data.y / per, self.radiation, sigma, name)
        if self.between is not None:
            pattern = pattern.within(*self.between)
        return replace(search(pattern, self.loaded(), self.beliefs), origin=data.origin)

    def loaded(self) -> Library:
        """The library; once it is loaded a process keeps it.

        Raises
        ------
        ValueError
            When its content is no longer that of the digest.
        """
        return _loaded(str(self.library), self.library_digest, self.radiation, self.elements, self.formulas)

    def prepare(self) -> None:
        """Load the library, and compile."""
        library = self.loaded()
        search(simulate([(library.structures[0], 1.0)], radiation=self.radiation), library, self.beliefs)

    def to_table(self) -> dict[str, Any]:
        """Plain data, as in the TOML file; `digest` of the library is for the record."""
        radiation = Radiation.of(self.radiation)
        table = self._data()
        library: dict[str, Any] = {"folder": str(self.library), "digest": self.library_digest}
        library |= {name: list(value) for name in ("elements", "formulas") if (value := getattr(self, name))}
        table |= {
            "library": library,
            "radiation": {
                "wavelengths": list(radiation.wavelengths),
                "intensities": list(radiation.intensities),
                "polarisation": radiation.polarisation,
            },
        }
        if self.between is not None:
            table["data"]["between"] = list(self.between)
        usual = asdict(Beliefs())
        if own := {name: value for name, value in asdict(self.beliefs).items() if value != usual[name]}:
            table["beliefs"] = own
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any], folder: str | Path = "") -> Self:
        """Analysis from plain data; a relative folder of the library starts from `folder`.

        Raises
        ------
        ValueError
            Names the part that is missing, unknown or wrong.
        """
        if unknown := sorted(set(table) - set(PARTS)):
            raise ValueError(f"recipe has an unknown part [{unknown[0]}]; for phases it may have {', '.join(PARTS)}")
        library = dict(table.get("library", {}))
        if "folder" not in library:
            raise ValueError("recipe [library] has no folder: name one that holds .cif files, or 'examples'")
        place, digest = library.pop("folder"), library.pop("digest", "")
        data, radiation = dict(table.get("data", {})), dict(table.get("radiation", {"anode": "CuKa"}))
        check_entries("data", data, (*DATA, "between"))
        check_entries("library", library, ("elements", "formulas"))
        check_entries("radiation", radiation, ("anode", *(one.name for one in fields(Radiation))))
        check_entries("beliefs", table.get("beliefs", {}), tuple(one.name for one in fields(Beliefs)))
        check_entries("files", table.get("files", {}), tuple(one.name for one in fields(Files)))
        beliefs: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in table.get("beliefs", {}).items()
        }
        made = cls(
            library=place if place == EXAMPLES else Path(folder) / place,
            radiation=_radiation(radiation),
            beliefs=Beliefs(**beliefs),
            preparation=Preparation.from_table(table.get("preparation", {})),
            files=Files(**table.get("files", {})),
            **library,
            **data,
        )
        if digest not in ("", made.library_digest):
            raise ValueError(
                f"the library in {place} is not the one that the recipe was made with (its content has digest "
                f"{made.library_digest[:8]}, the recipe {digest[:8]}): leave its digest out of the recipe to use it"
            )
        return made

    @property
    def digest(self) -> str:
        """SHA-256 of all that gives the analysis its meaning, the library's content with it."""
        table = self.to_table()
        table["library"].pop("folder")
        table.pop("files", None)
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _radiation(table: Mapping[str, Any]) -> Radiation:
    if "anode" in table:
        if len(table) > 1:
            raise ValueError("recipe [radiation] has an anode or wavelengths, not both")
        return Radiation.of(str(table["anode"]))
    if "wavelengths" not in table:
        raise ValueError("recipe [radiation] says no wavelength: anode = 'CuKa', or wavelengths = [0.7093] in Angstrom")
    waves = tuple(float(wave) for wave in np.atleast_1d(table["wavelengths"]))
    shares = tuple(float(share) for share in table.get("intensities", [1.0] * len(waves)))
    return Radiation(waves, shares, float(table.get("polarisation", 0.0)))


def _sources(folder: str | Path) -> list[Source]:
    return example_sources() if folder == EXAMPLES else sources_in(folder)[0]


@functools.lru_cache(maxsize=4)
def _loaded(
    folder: str, digest: str, radiation: Radiation, elements: tuple[str, ...], formulas: tuple[str, ...]
) -> Library:
    if folder == EXAMPLES:
        library = Library.from_sources(example_sources(), radiation)
    else:
        library = Library.from_folder(folder, radiation)
    if library.digest != digest:
        raise ValueError(f"the library in {folder} was changed since the analysis was made: make the analysis anew")
    return library.only(elements, formulas) if elements or formulas else library
