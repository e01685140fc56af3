"""Candidates as plain data: the family and its arguments, for TOML files and for the provenance of a result."""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.components import Component
from bluesky_bayes.model import Slot
from bluesky_bayes.priors import from_table, to_table


def recipe_of(family: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """The call of a family as plain data that `candidates_of` makes again, or None.

    Arguments that are None or empty are left out, but ``background=None`` is written ``"none"``. A component of the
    user's own is written down where it was given by name, see `component_named`, else it cannot be: None then.
    """
    if any(isinstance(value, Component) for value in arguments.values()):
        return None
    recipe: dict[str, Any] = {"family": family}
    for name, value in arguments.items():
        if name == "background" and value is None:
            recipe[name] = "none"
        elif value is not None and (not isinstance(value, Mapping | list | tuple) or value):
            recipe[name] = _found(value, Path()) if name == "shape" else _plain(value)
    return recipe


def component_named(name: str) -> Component:
    """A component of the user's own: this imports the code that holds it.

    Parameters
    ----------
    name : str
        ``"my_shapes.py:flat_top"``, the path of a file, or ``"my_package.shapes:flat_top"``, a module that Python
        finds. A file is read anew each time.

    Raises
    ------
    ValueError
        When there is no such file, module or name, its import fails, or it is not a component.
    """
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise ValueError(f"shape {name!r} is no component of your own: name it 'my_shapes.py:name' or 'module:name'")
    if source.endswith(".py") and not Path(source).is_file():
        raise ValueError(f"shape {name!r}: there is no file {str(Path(source).absolute())!r}")
    try:
        # The parent of a missing module may be there, so that its absence and a failing import look alike.
        found = runpy.run_path(source) if source.endswith(".py") else vars(importlib.import_module(source))
    except Exception as error:
        raise ValueError(f"shape {name!r}: {source} cannot be imported: {type(error).__name__}: {error}") from error
    if attribute not in found:
        raise ValueError(f"shape {name!r}: {source} defines no {attribute!r}; it has {_listed(found)}")
    component = found[attribute]
    if not isinstance(component, Component):
        what = f"{attribute} is of type {type(component).__name__}, not a component"
        raise ValueError(f"shape {name!r}: {what}; write @component, of bluesky_bayes, before a def")
    return component


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(name for name, value in found.items() if isinstance(value, Component)) or "no component"


def _found(shape: Any, folder: Path) -> Any:
    """A shape's name with the path of its file, if it has one, made absolute from `folder`."""
    if not isinstance(shape, str) or ".py:" not in shape:
        return shape
    path, _, attribute = shape.rpartition(":")
    return f"{(folder / path).absolute()}:{attribute}"


def candidates_of(recipe: Mapping[str, Any], folder: str | Path = "") -> Candidates:
    """Candidates from plain data; relative paths of own components start from `folder`.

    Raises
    ------
    ValueError
        When there is no such family, or what the family says of its arguments.
    """
    from bluesky_bayes import families

    options = dict(recipe)
    name = options.pop("family", None)
    if name not in families.__all__:
        raise ValueError(f"recipe [candidates] names family {name!r}; there are {', '.join(families.__all__)}")
    if "shape" in options:
        options["shape"] = _found(options["shape"], Path(folder))
    if options.get("background") == "none":
        options["background"] = None
    if "priors" in options:
        options["priors"] = {key: from_table(key, prior) for key, prior in options["priors"].items()}
    if "ties" in options:
        options["ties"] = {key: Slot(**{"parameter": None, **tie}) for key, tie in options["ties"].items()}
    candidates: Candidates = getattr(families, name)(**options)
    return candidates


def _plain(value: Any) -> Any:
    if isinstance(value, Slot):
        return {key: v for key, v in asdict(value).items() if v is not None}
    if hasattr(value, "dist"):
        return to_table(value)
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
