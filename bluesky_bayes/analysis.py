"""A recipe: what to take out of a run and what to ask of it; saved as TOML, its hash the provenance of every result."""

from __future__ import annotations

import hashlib
import json
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.devices import AUTO, check_name
from bluesky_bayes.inference import select
from bluesky_bayes.noise import Gaussian, Noise, Poisson, StudentT, check_noise
from bluesky_bayes.preparation import Preparation, check_entries
from bluesky_bayes.priors import from_table, to_table
from bluesky_bayes.recipes import candidates_of
from bluesky_bayes.sampler import Settings
from bluesky_bayes.selection import Selection

DATA = ("x", "y", "stream", "sigma", "exposure", "i0", "subtract", "patterns", "metadata")
"""Entries that a recipe's part [data] may have."""


@dataclass(frozen=True)
class Files:
    """How files outside the documents are reached from where the analysis runs; no part of what an analysis means.

    Attributes
    ----------
    root_map : mapping of str to str
        Beginnings of paths as the documents have them (``/data``, or with a host ``file://ioc7/data``) and what they
        are here.
    handlers : mapping of str to str
        For legacy resources: their spec and the class that reads it, ``"package.module:Class"``. Those that packages
        register as entry points ``databroker.handlers`` need not be named.
    tiled : str or None
        Address of a Tiled container of raw runs, asked for what no file here gives. A key comes from the environment
        variable ``TILED_API_KEY``, never from here.
    profile : str or None
        Tiled profile, in place of the address.

    Raises
    ------
    ValueError
        When an address holds a key or a password, or an entry is no text.
    """

    root_map: Mapping[str, str] = field(default_factory=dict)
    handlers: Mapping[str, str] = field(default_factory=dict)
    tiled: str | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        """Check the entries."""
        for name in ("root_map", "handlers"):
            entries = getattr(self, name)
            if not isinstance(entries, Mapping) or not all(isinstance(e, str) for e in (*entries, *entries.values())):
                raise ValueError(f"{name} of files must name texts by texts; got {entries!r}")
            object.__setattr__(self, name, dict(entries))
        for spec, path in self.handlers.items():
            if path.count(":") != 1:
                raise ValueError(f"the handler of {spec!r} must be 'package.module:Class'; got {path!r}")
        if self.tiled is not None and self.profile is not None:
            raise ValueError("files are asked of a Tiled address or a Tiled profile; give one of the two")
        if self.tiled is not None and ("@" in self.tiled or "api_key" in self.tiled.lower()):
            raise ValueError(
                "the address of a Tiled server must hold no key and no password, since recipes are published; set the "
                "environment variable TILED_API_KEY"
            )

    def to_table(self) -> dict[str, Any]:
        """Plain data, as in the TOML file: what differs from the default."""
        return {name: value for name, value in asdict(self).items() if value}


class Recipe(ABC):
    """What to take out of a run and what to ask of it: models, as `Analysis` does, or phases.

    Attributes say which data; they are those of `Analysis`, and `noise` is None where it is found out.
    """

    x: str | None
    y: str | None
    stream: str
    sigma: str | None
    exposure: str | None
    i0: str | None
    subtract: float
    patterns: str | None
    preparation: Preparation
    metadata: tuple[str, ...] | None
    files: Files
    noise: Noise | None = None

    @abstractmethod
    def __call__(self, data: Dataset) -> Any:
        """Answer the question for one data set: a `Selection`, or what can be asked as one."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the process ready: what takes long the first time."""

    @abstractmethod
    def to_table(self) -> dict[str, Any]:
        """Plain data, as in the TOML file."""

    @classmethod
    @abstractmethod
    def from_table(cls, table: Mapping[str, Any], folder: str | Path = "") -> Self:
        """From plain data; relative paths start from `folder`."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that gives the analysis its meaning, 64 hexadecimal digits."""

    def _check(self) -> None:
        """Check the choice of data."""
        if self.patterns not in (None, "sum", "each"):
            raise ValueError(f"patterns must be 'sum', 'each' or left out; got {self.patterns!r}")
        given: Any = self.metadata
        if given is not None:
            if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
                raise ValueError(f"metadata must be a list of names; got {given!r}")
            object.__setattr__(self, "metadata", tuple(given))
        check_noise(self.noise)
        if not isinstance(self.preparation, Preparation):
            raise ValueError(f"preparation must be a Preparation; got {self.preparation!r}")
        if self.i0 and "monitor" in self.preparation.levels:
            raise ValueError("y is divided by the monitor or by i0, not both: leave one out")
        if self.exposure and "monitor" in self.preparation.levels:
            raise ValueError("y is divided by the monitor or belongs to an exposure, not both: leave one out")
        if self.preparation.counts and self.sigma:
            raise ValueError(
                "y are counts, whose variance is their number, or have a field with sigma: give one of the two"
            )

    @property
    def named(self) -> tuple[str | None, ...]:
        """Fields of its stream that are named for themselves, not for a level; None for what is left out."""
        mask = self.preparation.mask
        return self.x, self.y, self.sigma, self.exposure, self.i0, mask.field if mask else None

    def _data(self) -> dict[str, Any]:
        """Parts [data], [preparation] and [files] of the TOML file."""
        data = {
            name: getattr(self, name)
            for name in ("x", "y", "stream", "sigma", "exposure", "i0", "patterns", "subtract")
            if getattr(self, name)
        }
        if self.metadata is not None:
            data["metadata"] = list(self.metadata)
        table: dict[str, Any] = {"data": data}
        for name, part in (("preparation", self.preparation), ("files", self.files)):
            if entries := part.to_table():
                table[name] = entries
        return table

    def save(self, path: str | Path) -> None:
        """Write a TOML file that `load` reads."""
        import tomli_w

        Path(path).write_text(tomli_w.dumps(self.to_table()), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file; relative paths of own components start from its folder.

        Raises
        ------
        ValueError
            Names the file and what is wrong in it.
        """
        try:
            return cls.from_table(tomllib.loads(Path(path).read_text(encoding="utf-8")), Path(path).parent)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True, eq=False)
class Analysis(Recipe):
    """What to take out of a run, the models in question, and how to sample them.

    Attributes
    ----------
    candidates : Candidates
    x, y : str or None
        Field names; left out, the run's hints say what was scanned and what was measured.
    noise : Gaussian, StudentT or Poisson, optional
        By default the data's own uncertainties where `sigma` names them, else Gaussian noise of unknown standard
        deviation. A run does not say that its y are counts: for counts give ``noise=Poisson()``.
    stream : str
        Stream that holds the fields.
    sigma, exposure : str or None
        Fields that hold each point's standard deviation, or its counting time or monitor.
    i0 : str or None
        Field that holds the intensity before the sample: y becomes the absorption ``ln(i0 / y)``.
    subtract : float
        Subtracted from every y before anything else (a dark level).
    patterns : {"sum", "each"}, optional
        Where y is an array, one pattern an event: whether a run's patterns are repeats to be added up, or data sets
        of their own. By default they are repeats where nothing was scanned.
    preparation : Preparation
        What is done to the points first: mask, region, dark, background, monitor, repeats, bins.
    metadata : tuple of str, optional
        Names of what is published with the answer (temperature, field): fields of the stream or of ``baseline``,
        entries of the devices' configuration or of the start document. By default all numbers of baseline and
        configuration.
    files : Files
        How files outside the documents are reached.
    seed : int
    settings : Settings
        How long to sample.
    device : str
        Where to sample, see `select`; no part of what an analysis means.
    """

    candidates: Candidates
    x: str | None = None
    y: str | None = None
    noise: Noise | None = None
    stream: str = "primary"
    sigma: str | None = None
    exposure: str | None = None
    i0: str | None = None
    subtract: float = 0.0
    patterns: str | None = None
    preparation: Preparation = field(default_factory=Preparation)
    metadata: tuple[str, ...] | None = None
    files: Files = field(default_factory=Files)
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    device: str = AUTO

    def __post_init__(self) -> None:
        """Check the choice."""
        check_name(self.device)
        if self.i0 and isinstance(self.noise, Poisson):
            raise ValueError("an absorption ln(i0 / y) is no count: leave the noise out or give Gaussian noise")
        self._check()
        if isinstance(self.noise, Poisson) and self.preparation.levels:
            name = next(iter(self.preparation.levels))
            cure = (
                "name the monitor's field as exposure instead, so that the model is a rate"
                if name == "monitor"
                else "give the models a background instead"
            )
            raise ValueError(
                f"with the {name} taken into y it is counts no more, and Poisson noise has no meaning: {cure}, or "
                "leave the noise out and say counts=True in the preparation: Gaussian noise whose sigma is worked out"
            )

    def __call__(self, data: Dataset) -> Selection:
        """Answer the question for one data set; the answer carries no chains, so that many of them stay small."""
        answer = select(
            data, self.candidates, noise=self.noise, seed=self.seed, settings=self.settings, device=self.device
        )
        return replace(answer, standings=())

    def prepare(self) -> None:
        """Compile the kernels that these candidates need."""
        from bluesky_bayes.inference import warm_up

        warm_up(self.candidates, self.noise or (Gaussian(1.0) if self.sigma else None), self.device)

    def to_table(self) -> dict[str, Any]:
        """Plain data, as in the TOML file.

        Raises
        ------
        ValueError
            When the candidates were not made by a family, so that no file could make them again.
        """
        if self.candidates.recipe is None:
            raise ValueError(
                "these candidates hold a component of your own and cannot be written to a file; put it into a file of "
                "its own and name it shape='my_shapes.py:my_component'"
            )
        table = self._data()
        table |= {"candidates": dict(self.candidates.recipe), "sampling": self._sampling()}
        if self.device != AUTO:
            table["sampling"]["device"] = self.device
        if self.noise is not None:
            table["noise"] = _noise_table(self.noise)
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any], folder: str | Path = "") -> Self:
        """Analysis from plain data; relative paths of own components start from `folder`.

        A recipe that names components of your own runs the code that holds them.

        Raises
        ------
        ValueError
            Names the part that is missing, unknown or wrong.
        """
        parts = ("data", "preparation", "candidates", "noise", "sampling", "files")
        unknown = sorted(set(table) - set(parts))
        if unknown:
            raise ValueError(f"recipe has an unknown part [{unknown[0]}]; it may have {', '.join(parts)}")
        if "candidates" not in table:
            raise ValueError(
                "recipe has no [candidates]; for example family = 'peaks', shape = 'gaussian', counts = [0, 1, 2]"
            )
        data, sampling = dict(table.get("data", {})), dict(table.get("sampling", {}))
        check_entries("data", data, DATA)
        check_entries("files", table.get("files", {}), [f.name for f in fields(Files)])
        check_entries("sampling", sampling, ("seed", "device", *(f.name for f in fields(Settings))))
        seed, device = int(sampling.pop("seed", 0)), str(sampling.pop("device", AUTO))
        noise = _noise_from(table["noise"]) if "noise" in table else None
        data["preparation"] = Preparation.from_table(table.get("preparation", {}))
        data["files"] = Files(**table.get("files", {}))
        candidates = candidates_of(table["candidates"], folder)
        return cls(candidates, noise=noise, seed=seed, settings=Settings(**sampling), device=device, **data)

    def _sampling(self) -> dict[str, Any]:
        """Seed and settings, without those that are not set."""
        settings = {name: value for name, value in asdict(self.settings).items() if value is not None}
        return {"seed": self.seed, **settings}

    @property
    def digest(self) -> str:
        """SHA-256 of all that gives the analysis its meaning, 64 hexadecimal digits."""
        content: dict[str, Any] = {
            "fields": [self.x, self.y, self.stream, self.sigma, self.exposure, self.i0, self.subtract, self.patterns],
            "candidates": self.candidates.digest,
            "noise": _noise_table(self.noise) if self.noise is not None else None,
            "sampling": self._sampling(),
        }
        if preparation := self.preparation.to_table():
            content["preparation"] = preparation
        if self.metadata is not None:
            content["metadata"] = self.metadata
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load(path: str | Path) -> Recipe:
    """Read the recipe of any analysis: one with a [library] asks for phases.

    Raises
    ------
    ValueError
        Names the file and what is wrong in it.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        table = {}
    if "library" not in table:
        return Analysis.load(path)
    from bluesky_bayes.phases.analysis import PhaseAnalysis

    return PhaseAnalysis.load(path)


_NOISES: dict[str, type[Noise]] = {"gaussian": Gaussian, "student-t": StudentT, "poisson": Poisson}


def _noise_table(noise: Noise) -> dict[str, Any]:
    kind = next(kind for kind, of in _NOISES.items() if isinstance(noise, of))
    given = {f.name: v for f in fields(noise) if np.any((v := getattr(noise, f.name)) != f.default)}
    return {"kind": kind} | {name: to_table(v) if name == "prior" else _plain(v) for name, v in given.items()}


def _plain(values: Any) -> Any:
    if isinstance(values, bool):
        return values
    return float(values) if np.ndim(values) == 0 else [float(v) for v in values]


def _noise_from(table: Mapping[str, Any]) -> Noise:
    options = dict(table)
    kind = options.pop("kind", None)
    if kind not in _NOISES:
        raise ValueError(f"recipe [noise] kind must be one of {', '.join(map(repr, _NOISES))}; got {kind!r}")
    check_entries("noise", options, [f.name for f in fields(_NOISES[kind])])
    if "prior" in options:
        options["prior"] = from_table("noise_sigma", options["prior"])
    return _NOISES[kind](**options)
