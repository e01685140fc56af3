"""An answer as a Bluesky run of its own.

The summary is in the start document, where catalogues can search for it. Stream ``models`` has an event for each
model, ``parameters`` one for each parameter of the best model, with its draws of the posterior, ``primary`` one for
each point with the data and the best model's curve. Parameters' names are values everywhere: as keys, their dots are
forbidden.
The uid of such a run follows from what was analysed and how, so that a result which is written again is recognised.
"""

from __future__ import annotations

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
    run = _Run(raw_start, {**analysis, **used}, _summary(selection), _readings(origin))
    yield run.start
    yield from run.stream("models", _model_rows(selection))
    yield from run.stream("parameters", _parameter_rows(best, selection.data.units))
    yield from run.points("primary", _curves(selection))
    yield run.stop()


def result_documents(
    raw_start: Mapping[str, Any],
    analysis: Mapping[str, Any],
    result: Mapping[str, Any],
    streams: Mapping[str, Iterable[Mapping[str, Any]]],
    points: Mapping[str, Array],
    origin: Origin,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents of a run that holds an answer of any kind: what sums it up, rows by stream, points of ``primary``."""
    run = _Run(raw_start, analysis, result, _readings(origin))
    yield run.start
    for name, rows in streams.items():
        yield from run.stream(name, rows)
    yield from run.points("primary", points)
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
        readings: Sequence[Mapping[str, Any]] = (),
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
            **({"metadata": list(readings)} if readings else {}),
        }
        uid = None
        if "uid" in raw_start and "digest" in analysis:
            uid = result_uid(raw_start["uid"], analysis["digest"], result["status"], analysis.get("events", ()))
        self._bundle = compose_run(uid=uid, metadata=metadata)
        self.start: tuple[str, Any] = ("start", self._bundle.start_doc)

    def stream(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Descriptor and events of a stream; nothing for no rows."""
        rows = list(rows)
        if not rows:
            return
        now = time.time()
        bundle = self._bundle.compose_descriptor(name=name, data_keys={k: _data_key(v) for k, v in rows[0].items()})
        yield "descriptor", bundle.descriptor_doc
        for row in rows:
            data = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in row.items()}
            yield "event", bundle.compose_event(data=data, timestamps=dict.fromkeys(data, now))

    def points(self, name: str, columns: Mapping[str, Array]) -> Iterator[tuple[str, Any]]:
        """Descriptor and one page of a stream with an event a point: of arrays Tiled asks several requests each."""
        n, now = len(next(iter(columns.values()))), time.time()
        bundle = self._bundle.compose_descriptor(name=name, data_keys={key: _data_key(0.0) for key in columns})
        yield "descriptor", bundle.descriptor_doc
        page = bundle.compose_event_page(
            data={key: values.tolist() for key, values in columns.items()},
            timestamps=dict.fromkeys(columns, [now] * n),
            seq_num=list(range(1, n + 1)),
            time=[now] * n,
        )
        yield "event_page", page

    def stop(self, exit_status: Literal["success", "fail"] = "success", reason: str = "") -> tuple[str, Any]:
        return "stop", self._bundle.compose_stop(exit_status=exit_status, reason=reason)


def _readings(origin: Origin) -> list[dict[str, Any]]:
    """What was known of the run, as rows: its names may hold dots, which no key may."""
    return [{"name": name, "value": value, "unit": unit} for name, (value, unit) in origin.metadata.items()]


def _data_key(value: Any) -> dict[str, Any]:
    key = {"source": "bluesky_bayes"}
    if isinstance(value, np.ndarray):
        return {**key, "dtype": "array", "shape": list(value.shape), "dtype_numpy": value.dtype.str}
    if isinstance(value, str):
        return {**key, "dtype": "string", "shape": []}
    return {**key, "dtype": "number", "shape": [], "dtype_numpy": "<f8"}


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


def _finite(value: float) -> float:
    return float(np.clip(value, -LARGEST, LARGEST))


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
    draws = {**best.draws, **best.derived}
    for name, summary in best.parameters.items():
        numbers = {key: float(value) for key, value in summary._asdict().items()}
        yield {"parameter": name, "unit": best.unit(name, units), **numbers, "draws": draws[name].ravel()}


def _curves(selection: Selection) -> dict[str, Array]:
    data, fit = selection.data, selection.best.fit
    return {
        "x": data.x,
        "y": data.y,
        "fit_mean": fit.mean,
        "fit_low": fit.low,
        "fit_high": fit.high,
        "residual": fit.residual,
    }
