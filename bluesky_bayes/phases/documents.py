"""The answer to a phase search as a Bluesky run of its own.

Its tables are ``phases``, ``unexplained`` with a row for each line of no candidate, and ``curves``: the pattern, the
fit, and as ``fit.`` with the phase's name what each phase adds to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_bayes.documents import result_documents

if TYPE_CHECKING:
    from bluesky_bayes.phases.selection import PhaseSelection


def phase_documents(
    selection: PhaseSelection, raw_start: Mapping[str, Any], analysis: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents of a run that holds an answer; parameters are those of `selection_documents`."""
    data, origin, even = selection.data, selection.origin, selection.even
    used: dict[str, Any] = {"data_sha256": data.digest, "stream": origin.stream, "x": origin.x, "y": origin.y}
    used |= {"wavelengths": list(selection.pattern.radiation.wavelengths), "elapsed": selection.seconds}
    if origin.events:
        used["events"] = list(origin.events)
    fit = selection.fit
    curves = {
        "two_theta": (even.x, "deg"),
        "counts": (even.y, ""),
        "sigma": (np.sqrt(even.noise), ""),
        "fit": (fit, ""),
        "background": (selection.background, ""),
        "residual": (even.y - fit, ""),
        **{f"fit.{name}": (curve, "") for name, curve in selection.curves.items()},
    }
    tables = {"phases": _phases(selection), "unexplained": _unexplained(selection)}
    yield from result_documents(raw_start, {**analysis, **used}, _summary(selection), tables, curves, origin)


def _summary(selection: PhaseSelection) -> dict[str, Any]:
    return {
        "status": "ok",
        "kind": "phases",
        "best_model": selection.model,
        "phases": [phase.structure.name for phase in selection.present],
        "probability": selection.sets[0][1] if selection.sets else 1.0,
        "decisive": selection.decisive(),
        "trustworthy": selection.trustworthy,
        "verdict": selection.verdict,
        "warnings": list(selection.warnings),
        "notes": list(selection.notes),
    }


def _phases(selection: PhaseSelection) -> Iterator[dict[str, Any]]:
    for phase in selection.phases:
        weight, low, high = phase.weight
        yield {
            "name": phase.structure.name,
            "formula": phase.structure.formula,
            "group": list(phase.members),
            "probability": phase.probability,
            "decided": phase.status,
            "weight": weight,
            "weight_low": low,
            "weight_high": high,
            "share": phase.share,
            "strain": phase.strain,
            "width": phase.width,
            "cell": np.asarray(phase.cell).tolist(),
        }


def _unexplained(selection: PhaseSelection) -> Iterator[dict[str, Any]]:
    for line in selection.unexplained:
        yield {
            "two_theta": line.two_theta,
            "spacing": line.spacing,
            "width": line.width,
            "share": line.share,
            "log_bayes_factor": line.log_bayes_factor,
            "kind": "halo" if line.halo else "line",
        }
