"""Selections on disk: one netCDF file with groups for the data, the noise and each model.

A file holds numbers and text, and every attribute of a group is JSON. Functions are written as text that is only ever
compared: what a loaded component runs comes with the package or from the caller, never from the file.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from bluesky_bayes import families, shapes
from bluesky_bayes.components import Component, Parameter, PlainFunction
from bluesky_bayes.dataset import Array, Dataset, Origin, Reading
from bluesky_bayes.evidence import UNKNOWN, Evidence
from bluesky_bayes.jobs import Standing
from bluesky_bayes.model import Model, Slot, Term
from bluesky_bayes.noise import SIGMA, Gaussian, Noise, Poisson, StudentT
from bluesky_bayes.posterior import Diagnostics, Fit, Posterior
from bluesky_bayes.priors import Prior, from_table, to_table
from bluesky_bayes.reference import Start
from bluesky_bayes.sampler import Info, Settings, State
from bluesky_bayes.selection import Selection
from bluesky_bayes.tasks import Group

if TYPE_CHECKING:
    import xarray as xr

Table: TypeAlias = Mapping[str, Any]
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Groups: TypeAlias = Mapping[str, tuple[Table, Arrays]]

MARK, FORMAT = "bluesky_bayes_selection", 2
"""The attribute that marks a file as a selection, and the number of this format, which is its value."""

DIGEST = "sha256"
NOISES: dict[str, type[Noise]] = {"gaussian": Gaussian, "student-t": StudentT, "poisson": Poisson}
POINTS = ("point",)
START, STATE = ("weights", "means", "factors"), ("coordinates", "steps", "strides")
INFO, COUNTS = (
    ("energies", "misfit", "samples", "rejection", "acceptance"),
    ("round_trips", "drift", "n_drawn"),
)
FIT = ("mean", "low", "high", "residual")
VERSIONS = ("bluesky-bayes", "numba", "numpy", "scipy", "xarray")


def save_selection(selection: Selection, path: str | Path) -> None:
    """Write a selection to a netCDF file, which is there whole or not at all.

    Raises
    ------
    ImportError
        Without the ``netcdf`` extra.
    FileNotFoundError
        When there is no such folder.
    ValueError
        When a prior is not one of scipy.stats, so that no file can tell it.
    """
    _import_h5netcdf()
    import xarray as xr

    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save {path}: there is no folder {path.parent}; make it first")
    groups = _groups_of(selection)
    groups["/"].attrs[DIGEST] = json.dumps(_digest({name: from_group(group) for name, group in groups.items()}))
    tree = xr.DataTree.from_dict(groups)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        tree.to_netcdf(draft, engine="h5netcdf")
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load_selection(path: str | Path, components: Iterable[Component] = ()) -> Selection:
    """Read what `save_selection` wrote.

    Parameters
    ----------
    path : str or Path
    components : iterable of Component
        Those of your own that the models are made of.

    Raises
    ------
    ImportError
        Without the ``netcdf`` extra.
    ValueError
        When the file is no selection, of a newer format, damaged, or holds a component that is neither ready-made nor
        given.
    FileNotFoundError
        When there is no such file.
    """
    path, functions = Path(path), _functions_of((*_ready_made(), *components))
    _check_file(path)
    try:
        return _selection_of(_read(path), functions)
    except UnknownFunctionError as error:
        raise ValueError(f"{path}: {error}") from error
    except (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged, or was changed after it was saved: {type(error).__name__}: {error}"
        ) from error


def _read(path: Path) -> Groups:
    """Groups of a file whose content is as it was written."""
    import xarray as xr

    # No decoding: every bit comes back as it was, and nothing is taken for a time.
    with xr.open_datatree(path, engine="h5netcdf", mask_and_scale=False, decode_times=False) as tree:
        groups = {node.path: from_group(node.to_dataset(inherit=False).load()) for node in tree.subtree}
    written = groups["/"][0].pop(DIGEST, None)
    if written not in (None, _digest(groups)):
        raise ValueError("its content is not that of its checksum")
    return groups


def _digest(groups: Groups) -> str:
    """SHA-256 of all content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, (plain, arrays) in sorted(groups.items()):
        digest.update(json.dumps([name, plain, sorted(arrays)], sort_keys=True).encode())
        for _, values in sorted(arrays.items()):
            text = values.dtype.kind in "OSU"
            digest.update(repr((values.shape, values.tolist() if text else values.dtype.str)).encode())
            digest.update(b"" if text else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _selection_of(groups: Groups, functions: Mapping[str, PlainFunction]) -> Selection:
    plain, arrays = groups["/"]
    evidence = zip(arrays["log_evidence"], arrays["log_evidence_error"], strict=True)
    posteriors = tuple(
        _posterior_of(*groups[f"/model{i}"], float(log_z), float(error), functions)
        for i, (log_z, error) in enumerate(evidence)
    )
    return Selection(
        data=_data_of(*groups["/data"]),
        noise=_noise_of(*groups["/noise"]),
        posteriors=posteriors,
        prior_probabilities=arrays["prior_probability"],
        seed=plain["seed"],
        sampler=plain["sampler"],
        device=plain["device"],
        elapsed=plain["elapsed"],
        notes=tuple(plain["notes"]),
        settings=Settings(**plain["settings"]),
        standings=tuple(
            _standing_of(*groups[path]) for i in range(len(posteriors)) if (path := f"/model{i}/chains") in groups
        ),
    )


def to_group(plain: Table, arrays: Arrays, dims: Mapping[str, tuple[str, ...]] | None = None) -> xr.Dataset:
    """A group of a file: plain data as attributes in JSON, arrays as variables.

    Parameters
    ----------
    plain : mapping
        Numbers, text, and lists and mappings of them.
    arrays : mapping of str to ndarray
        Numbers of any kind or text, of any shape. Names hold no ``/``.
    dims : mapping, optional
        Names of an array's dimensions. Those of the others are their own: ``name_0``, ``name_1`` ...

    Examples
    --------
    >>> group = to_group({"sweeps": 300}, {"counter": np.array([2**64 - 1], dtype=np.uint64)})
    >>> from_group(group)
    ({'sweeps': 300}, {'counter': array([18446744073709551615], dtype=uint64)})
    """
    import xarray as xr

    own = {name: tuple(f"{name}_{axis}" for axis in range(values.ndim)) for name, values in arrays.items()}
    named = {**own, **{name: d for name, d in (dims or {}).items() if name in arrays}}
    attributes = {name: json.dumps(value, default=lambda number: number.item()) for name, value in plain.items()}
    group = xr.Dataset({name: (named[name], values) for name, values in arrays.items()}, attrs=attributes)
    for variable in group.variables.values():
        variable.encoding["_FillValue"] = None
    return group


def from_group(group: xr.Dataset) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Plain data and arrays that `to_group` took, to the last bit."""
    plain = {str(name): json.loads(value) for name, value in group.attrs.items()}
    return plain, {str(name): variable.values for name, variable in group.variables.items()}


def _import_h5netcdf() -> Any:
    try:
        import h5netcdf
    except ImportError as error:
        raise ImportError(
            "selections are saved and loaded with h5netcdf, which is not installed; "
            "pip install 'bluesky-bayes[netcdf]' brings it"
        ) from error
    return h5netcdf


def _check_file(path: Path) -> None:
    """Refuse what is no selection, and what only a later version can read."""
    h5netcdf = _import_h5netcdf()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with h5netcdf.File(path, "r", phony_dims="access") as file:
            mark = file.attrs.get(MARK)
            number = 0 if mark is None else int(mark)
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is no saved selection, or it is damaged: {error}") from error
    if mark is None:
        raise ValueError(f"{path} is no saved selection; give a file that Selection.save wrote")
    if number > FORMAT:
        raise ValueError(
            f"{path} has format {mark} and this version of bluesky_bayes reads formats up to {FORMAT}; "
            "update bluesky_bayes"
        )


def _groups_of(selection: Selection) -> dict[str, xr.Dataset]:
    plain = {name: getattr(selection, name) for name in ("seed", "sampler", "device", "elapsed", "notes")}
    plain["settings"] = asdict(selection.settings)
    versions = {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
    arrays: dict[str, npt.NDArray[Any]] = {
        "model": np.array(selection.names),
        "log_evidence": selection.log_evidence,
        "log_evidence_error": selection.log_evidence_error,
        "prior_probability": selection.prior_probabilities,
    }
    root = to_group({MARK: FORMAT, "versions": versions, **plain}, arrays, dict.fromkeys(arrays, ("model",)))
    models = {f"/model{i}": _posterior_group(posterior) for i, posterior in enumerate(selection.posteriors)}
    chains = {f"/model{i}/chains": _standing_group(standing) for i, standing in enumerate(selection.standings)}
    own = {"/data": _data_group(selection.data), "/noise": _noise_group(selection.noise)}
    return {"/": root, **own, **models, **chains}


def _data_group(data: Dataset) -> xr.Dataset:
    columns = {name: getattr(data, name) for name in ("x", "y", "sigma", "exposure", "rows")}
    arrays = {name: values for name, values in columns.items() if values is not None}
    plain = {name: getattr(data, name) for name in ("counts", "units", "notes", "n_given")}
    plain["origin"] = asdict(data.origin)
    return to_group(plain, arrays, dict.fromkeys(arrays, POINTS))


def _data_of(plain: Table, arrays: Arrays) -> Dataset:
    readings = {name: Reading(*reading) for name, reading in plain["origin"].get("metadata", {}).items()}
    origin = Origin(**{**plain["origin"], "events": tuple(plain["origin"]["events"]), "metadata": readings})
    options: dict[str, Any] = {**plain, **arrays, "origin": origin, "notes": tuple(plain["notes"])}
    return Dataset(**options)


def _noise_group(noise: Noise) -> xr.Dataset:
    values = {field.name: getattr(noise, field.name) for field in fields(noise)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in values.items() if name not in arrays}
    plain["kind"] = next(kind for kind, cls in NOISES.items() if isinstance(noise, cls))
    if not isinstance(noise, Poisson):
        plain["prior"] = _prior_table(SIGMA, noise.prior)
    return to_group(plain, arrays, dict.fromkeys(arrays, POINTS))


def _noise_of(plain: Table, arrays: Arrays) -> Noise:
    options = {**plain, **arrays}
    kind = options.pop("kind")
    if "prior" in options:
        options["prior"] = _prior_of(SIGMA, options["prior"])
    return NOISES[kind](**options)


def _posterior_group(posterior: Posterior) -> xr.Dataset:
    fit = posterior.fit
    arrays: dict[str, npt.NDArray[Any]] = {f"fit_{name}": getattr(fit, name) for name in FIT}
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(arrays, POINTS)
    for name, index, rest, table in (
        ("draws", "parameter", ("chain", "draw"), posterior.draws),
        ("derived", "quantity", ("chain", "draw"), posterior.derived),
        ("terms", "term", POINTS, fit.terms),
    ):
        if table:
            arrays |= {index: np.array(list(table)), name: np.stack(list(table.values()))}
            dims |= {index: (index,), name: (index, *rest)}
    plain = {"model": _model_table(posterior.model), "diagnostics": asdict(posterior.diagnostics)}
    return to_group(plain, arrays, dims)


def _posterior_of(
    plain: Table, arrays: Arrays, log_z: float, error: float, functions: Mapping[str, PlainFunction]
) -> Posterior:
    draws, derived, terms = (
        _named(arrays, *names) for names in (("parameter", "draws"), ("quantity", "derived"), ("term", "terms"))
    )
    fit = Fit(**{name: arrays[f"fit_{name}"] for name in FIT}, terms=terms)
    diagnostics = Diagnostics(**{name: _tuples(value) for name, value in plain["diagnostics"].items()})
    return Posterior(_model_of(plain["model"], functions), log_z, error, draws, derived, fit, diagnostics)


def _standing_group(standing: Standing) -> xr.Dataset:
    """Start and temperatures, and what the chains hold, chain after chain."""
    start, ends = standing.start, [state.ends for state in standing.states if state.ends is not None]
    arrays: dict[str, npt.NDArray[Any]] = {
        "betas": standing.betas,
        **{f"start_{name}": getattr(start, name) for name in START},
        **{f"group{i}": group.columns for i, group in enumerate(start.groups)},
        **{name: np.stack([getattr(state, name) for state in standing.states]) for name in STATE},
        **({"ends": np.stack(ends)} if ends else {}),
        **{name: np.stack([getattr(info, name) for info in standing.infos]) for name in INFO},
    }
    plain = {
        "sampler": standing.sampler,
        "particles": standing.particles if math.isfinite(standing.particles.error) else None,
        "locations": [group.location for group in start.groups],
        "numbers": [state.number for state in standing.states],
        "counts": [[getattr(info, name) for name in COUNTS] for info in standing.infos],
    }
    return to_group(plain, arrays)


def _standing_of(plain: Table, arrays: Arrays) -> Standing:
    groups = tuple(Group(arrays[f"group{i}"], location) for i, location in enumerate(plain["locations"]))
    ends = arrays.get("ends", [None] * len(plain["numbers"]))
    states = (
        State(arrays["coordinates"][chain], arrays["steps"][chain], arrays["strides"][chain], number, ends[chain])
        for chain, number in enumerate(plain["numbers"])
    )
    infos = (
        Info(**{name: arrays[name][chain] for name in INFO}, **dict(zip(COUNTS, counts, strict=True)))
        for chain, counts in enumerate(plain["counts"])
    )
    start = Start(groups, *(arrays[f"start_{name}"] for name in START))
    particles = Evidence(*plain["particles"]) if plain.get("particles") else UNKNOWN
    return Standing(plain["sampler"], start, arrays["betas"], tuple(states), tuple(infos), particles)


def _named(arrays: Arrays, index: str, name: str) -> dict[str, Array]:
    if name not in arrays:
        return {}
    return {str(key): values for key, values in zip(arrays[index], arrays[name], strict=True)}


def _model_table(model: Model) -> Table:
    components = list(dict.fromkeys(term.component for term in model.terms))
    terms = [
        {
            "label": term.label,
            "component": components.index(term.component),
            "slots": [asdict(slot) for slot in term.slots],
            "block": term.block,
        }
        for term in model.terms
    ]
    return {
        "name": model.name,
        "terms": terms,
        "components": [_component_table(component) for component in components],
        "priors": {name: _prior_table(name, prior) for name, prior in model.priors.items()},
        "exchangeable": model.exchangeable,
        "counts": model.counts,
    }


def _model_of(table: Table, functions: Mapping[str, PlainFunction]) -> Model:
    components = [_component_of(entry, functions) for entry in table["components"]]
    terms = (
        Term(
            term["label"],
            components[term["component"]],
            tuple(Slot(**slot) for slot in term["slots"]),
            term["block"],
        )
        for term in table["terms"]
    )
    priors = {name: _prior_of(name, prior) for name, prior in table["priors"].items()}
    return Model(table["name"], tuple(terms), priors, _tuples(table["exchangeable"]), table["counts"])


def _prior_table(name: str, prior: Prior | None) -> Table | None:
    from scipy import stats

    if prior is None:
        return None
    if type(getattr(stats, str(prior.dist.name), None)) is not type(prior.dist):
        raise ValueError(
            f"prior of {name!r} is a distribution of your own, {prior.dist.name!r}, which cannot be saved; "
            "use one that scipy.stats names"
        )
    return to_table(prior)


def _prior_of(name: str, table: Table | None) -> Prior | None:
    return None if table is None else from_table(name, table)


class UnknownFunctionError(Exception):
    """A component of a file holds a function that nobody has given."""


def _ready_made() -> list[Component]:
    """Shapes, and components of the families, alone or in a tuple."""
    homes = [shapes, *(sys.modules[getattr(families, name).__module__] for name in families.__all__)]
    values = (value for home in homes for value in vars(home).values())
    each = itertools.chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in values)
    return [value for value in each if isinstance(value, Component)]


def _functions_of(components: Iterable[Component]) -> dict[str, PlainFunction]:
    """The functions that may run, by what they look like in a file."""
    functions = (
        function for each in components for function in (each.shape, *(derived for _, derived in each.derived))
    )
    return {json.dumps(_function_table(function)): function for function in functions}


def _component_table(component: Component) -> Table:
    return {
        "name": component.name,
        "parameters": [asdict(parameter) for parameter in component.parameters],
        "shape": _function_table(component.shape),
        "derived": [[asdict(parameter), _function_table(function)] for parameter, function in component.derived],
        "sort_by": component.sort_by,
        "end": component.end,
    }


def _component_of(table: Table, functions: Mapping[str, PlainFunction]) -> Component:
    name = table["name"]
    return Component(
        name=name,
        parameters=tuple(Parameter(**parameter) for parameter in table["parameters"]),
        shape=_function_of(table["shape"], name, functions),
        derived=tuple((Parameter(**entry), _function_of(f, name, functions)) for entry, f in table["derived"]),
        sort_by=table["sort_by"],
        end=table.get("end", ""),
    )


def _function_table(function: PlainFunction) -> Table:
    return {"name": function.name, "source": _undocumented(function.source), "constants": list(function.constants)}


def _function_of(table: Table, component: str, functions: Mapping[str, PlainFunction]) -> PlainFunction:
    """The function of the package or the caller that is the same as the file's, word for word."""
    if (key := json.dumps(table)) in functions:
        return functions[key]
    if any(function.name == table["name"] for function in functions.values()):
        reason = f"its function {table['name']!r} was another when the file was written; give it as it was then"
    else:
        reason = "it does not come with the package; give it"
    constants = "".join(f"{name} = {value!r}\n" for name, value in table["constants"])
    raise UnknownFunctionError(
        f"the file holds component {component!r}: {reason}, Selection.load(path, components=[...]). "
        f"The file's text, which is never run:\n\n{constants}{table['source']}"
    )


def _undocumented(source: str) -> str:
    """Source text without docstrings, whose wording changes no result."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, which the package keeps."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
