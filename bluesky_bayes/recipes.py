"""Candidates as plain data: the family and its arguments, for TOML files and for the provenance of a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.components import Component
from bluesky_bayes.model import Slot
from bluesky_bayes.priors import from_table, to_table


def recipe_of(family: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """The call of a family as plain data that `candidates_of` makes again, or None.

    Arguments that are None or empty are left out, but ``background=None`` is written ``"none"``. A component of the
    user's own cannot be written down: None then.
    """
    if any(isinstance(value, Component) for value in arguments.values()):
        return None
    recipe: dict[str, Any] = {"family": family}
    for name, value in arguments.items():
        if name == "background" and value is None:
            recipe[name] = "none"
        elif value is not None and (not isinstance(value, Mapping | list | tuple) or value):
            recipe[name] = _plain(value)
    return recipe


def candidates_of(recipe: Mapping[str, Any]) -> Candidates:
    """Candidates from plain data.

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
