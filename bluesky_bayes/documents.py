"""An answer as a Bluesky run of its own.

The summary is in the start document, where catalogues can search for it, and tables are beside it: of the models, of
the best one's parameters, of the names of curves. Stream ``primary`` has one event with what is long: an array of
curves and one of draws of the posterior, a row each for each row of the table. So a Tiled server, which takes several
requests for each stream, table and array, has few of them however many points there are. Parameters' names are values
everywhere: as keys, their dots are forbidden.
The uid of such a run follows from what was analysed and how, so that a result which is written again is recognised.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bluesky_bayes.dataset import Array, Origin

if TYPE_CHECKING:
    from bluesky_bayes.posterior import Posterior
    from bluesky_bayes.selection import Selection

PLAN_NAME = "bayes_model_selection"
SPEC = {"name": "BayesModelSelection", "version": "1.0"}
COPIED = ("scan_id", "sample", "data_session", "tiled_access_tags")
RESULTS = uuid.UUID("3f1c7c9e-6f0b-5b0e-9a53-0c3c1d1f6a55")
"""Namespace of the uids of results."""
LARGEST = float(np.finfo(np.float64).max)


def selection_documents(
    selection: Selection, raw_start: Mapping[str, Any], analysis: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents of a run that holds an answer.

    Parameters
    ----------
    selection : Selection
    raw_start : mapping
        Start document of the run that was analysed; empty for data that came from no run.
    analysis : mapping
        What else is known of the analysis (its digest, its recipe), put beside what the selection itself knows.

    Yields
    ------
    name : str
    document : dict
        Valid after the event model's schemas.
    """
    best, origin = selection.best, selection.data.origin
    used = {
        "data_sha256": selection.data.digest,
        "stream": origin.stream,
        "x": origin.x,
        "y": origin.y,
        "noise": str(selection.noise),
        "seed": selection.seed,
        "sampler": selection.sampler,
        "device": selection.device,
        "elapsed": selection.elapsed,
    }
    if origin.events:
        used["events"] = list(origin.events)
    tables = {"models": _model_rows(selection), "parameters": _parameter_rows(best, selection.data.units)}
    draws = {**best.draws, **best.derived}
    yield from result_documents(
        raw_start,
        {**analysis, **used},
        _summary(selection),
        tables,
        _curves(selection),
        origin,
        [draws[name].ravel() for name in best.parameters],
    )


def result_documents(
    raw_start: Mapping[str, Any],
    analysis: Mapping[str, Any],
    result: Mapping[str, Any],
    tables: Mapping[str, Iterable[Mapping[str, Any]]],
    curves: Mapping[str, tuple[Array, str]],
    origin: Origin,
    draws: Sequence[Array] = (),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents of a run that holds an answer of any kind.

    Parameters
    ----------
    raw_start, analysis : mapping
        Those of `selection_documents`.
    result : mapping
        What people search for.
    tables : mapping of str to iterable of mapping
        Rows by the table's name; a table without rows is left out.
    curves : mapping of str to tuple
        Values at the points, and their unit, by name.
    origin : Origin
    draws : sequence of (n_draws,) float64
        Of the posterior, one for each row of the table of parameters.
    """
    rows = {**tables, "curves": [{"curve": name, "unit": unit} for name, (_, unit) in curves.items()]}
    filled = {name: columns for name, each in rows.items() if (columns := _columns(each))}
    run = _Run(raw_start, analysis, result, tables=filled, **_metadata(origin))
    arrays = {"curves": np.stack([values for values, _ in curves.values()])}
    yield run.start
    yield from run.event({**arrays, "draws": np.stack(draws)} if draws else arrays)
    yield run.stop()


def failure_documents(
    raw_start: Mapping[str, Any], analysis: Mapping[str, Any], reason: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents of a run that says why there is no answer: start and stop."""
    run = _Run(raw_start, analysis, {"status": "failed", "reason": reason})
    yield run.start
    yield run.stop(exit_status="fail", reason=reason)


def result_uid(raw_uid: str, digest: str, status: str, events: Iterable[int] = ()) -> str:
    """Uid of the run that holds a result: always the same for the same run, recipe, events and status.

    Examples
    --------
    >>> result_uid("0123abcd", "d41d8cd9", "ok")
    '170c8608-3c1a-5122-890a-68606a8cb4b0'
    """
    return str(uuid.uuid5(RESULTS, "/".join([raw_uid, digest, status, *map(str, events)])))


class _Run:
    """Documents of one run, valid after the event model's schemas."""

    def __init__(
        self,
        raw_start: Mapping[str, Any],
        analysis: Mapping[str, Any],
        result: Mapping[str, Any],
        **more: Any,
    ) -> None:
        from event_model import compose_run

        raw = {"original_run_uid": raw_start["uid"]} if "uid" in raw_start else {}
        package = {"package": "bluesky_bayes", "version": version("bluesky-bayes")}
        metadata = {
            **raw,
            **{key: raw_start[key] for key in COPIED if raw_start.get(key) is not None},
            "plan_name": PLAN_NAME,
            "tiled_specs": [SPEC],
            "analysis": {**package, **analysis},
            "result": result,
            **more,
        }
        uid = None
        if "uid" in raw_start and "digest" in analysis:
            uid = result_uid(raw_start["uid"], analysis["digest"], result["status"], analysis.get("events", ()))
        self._bundle = compose_run(uid=uid, metadata=metadata)
        self.start: tuple[str, Any] = ("start", self._bundle.start_doc)

    def event(self, arrays: Mapping[str, Array]) -> Iterator[tuple[str, Any]]:
        """Descriptor and only event of stream ``primary``."""
        keys = {
            name: {"source": "bluesky_bayes", "dtype": "array", "shape": list(array.shape), "dtype_numpy": "<f8"}
            for name, array in arrays.items()
        }
        bundle = self._bundle.compose_descriptor(name="primary", data_keys=keys)
        yield "descriptor", bundle.descriptor_doc
        data = {name: array.tolist() for name, array in arrays.items()}
        yield "event", bundle.compose_event(data=data, timestamps=dict.fromkeys(data, time.time()))

    def stop(self, exit_status: Literal["success", "fail"] = "success", reason: str = "") -> tuple[str, Any]:
        return "stop", self._bundle.compose_stop(exit_status=exit_status, reason=reason)


def _metadata(origin: Origin) -> dict[str, Any]:
    """What was known of the run, as rows: its names may hold dots, which no key may."""
    rows = [{"name": name, "value": value, "unit": unit} for name, (value, unit) in origin.metadata.items()]
    return {"metadata": rows} if rows else {}


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns by name. JSON has neither infinity nor NaN: the largest number and null stand for them."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(_finite(value) if isinstance(value, float) else value)
    return columns


def _summary(selection: Selection) -> dict[str, Any]:
    """Sum up what people search for. JSON has no infinity: the largest number stands for it."""
    i = selection.best_index
    return {
        "status": "ok",
        "best_model": selection.names[i],
        "components": dict(selection.best.model.counts),
        "probability": float(selection.probabilities[i]),
        "probability_error": float(selection.probability_errors[i]),
        "log_evidence": _finite(selection.log_evidence[i]),
        "log_evidence_error": _finite(selection.log_evidence_error[i]),
        "log_bayes_factor": _finite(selection.log_bayes_factor),
        "decisive": selection.decisive(),
        "trustworthy": selection.trustworthy,
        "in_question": list(selection.in_question),
        "verdict": selection.verdict,
        "warnings": list(selection.warnings),
        "notes": list(selection.notes),
        "parameters": list(selection.best.draws),
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else float(np.clip(value, -LARGEST, LARGEST))


def _model_rows(selection: Selection) -> Iterator[dict[str, Any]]:
    columns = (
        selection.log_evidence,
        selection.log_evidence_error,
        selection.probabilities,
        selection.probability_errors,
        selection.prior_probabilities,
    )
    names = ("log_evidence", "log_evidence_error", "probability", "probability_error", "prior_probability")
    for model, *values in zip(selection.names, *columns, strict=True):
        yield {"model": model, **{name: float(value) for name, value in zip(names, values, strict=True)}}


def _parameter_rows(best: Posterior, units: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, summary in best.parameters.items():
        numbers = {key: float(value) for key, value in summary._asdict().items()}
        yield {"parameter": name, "unit": best.unit(name, units), **numbers}


def _curves(selection: Selection) -> dict[str, tuple[Array, str]]:
    data, fit = selection.data, selection.best.fit
    x, y = data.units.get("x", ""), data.units.get("y", "")
    return {
        "x": (data.x, x),
        "y": (data.y, y),
        "fit_mean": (fit.mean, y),
        "fit_low": (fit.low, y),
        "fit_high": (fit.high, y),
        "residual": (fit.residual, ""),
    }
