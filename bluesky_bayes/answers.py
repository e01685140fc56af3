"""An answer in short: what a plan, a table or a script wants to know of it, from this process or from a catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bluesky_bayes.posterior import Summary
from bluesky_bayes.selection import Selection
from bluesky_bayes.tables import with_error


@dataclass(frozen=True)
class Answer:
    """What was found for a run.

    Attributes
    ----------
    run_uid : str
        Of the run that was analysed.
    scan_id : int or None
    model : str
        The most probable one; empty where there is no answer.
    probabilities, probability_errors : dict of str to float
        By model, in the order of the candidates.
    parameters : dict of str to Summary
        Of that model, with derived quantities last.
    units : dict of str to str
        Of the parameters that have one.
    decisive : bool
        At p > 0.95.
    trustworthy : bool
        Whether no check failed.
    verdict : str
        In words.
    reason : str
        Why it is not to be trusted, or why there is no answer; empty where nothing is wrong.
    uid : str
        Of the run that holds the answer; empty before it is published.
    """

    run_uid: str
    scan_id: int | None
    model: str
    probabilities: Mapping[str, float]
    probability_errors: Mapping[str, float]
    parameters: Mapping[str, Summary] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    decisive: bool = False
    trustworthy: bool = False
    verdict: str = ""
    reason: str = ""
    uid: str = ""

    @property
    def found(self) -> bool:
        """Whether there is an answer at all."""
        return bool(self.model)

    @property
    def probability(self) -> float:
        """Probability of the model."""
        return self.probabilities.get(self.model, 0.0)

    @property
    def probability_error(self) -> float:
        """Standard error of `probability`."""
        return self.probability_errors.get(self.model, 0.0)

    def value(self, parameter: str) -> str:
        """Median of a parameter with its standard deviation and unit, as text."""
        summary = self.parameters[parameter]
        return f"{with_error(summary.median, summary.sd)} {self.units.get(parameter, '')}".strip()

    @classmethod
    def of(cls, selection: Selection) -> Answer:
        """Answer of this process."""
        best, origin = selection.best, selection.data.origin
        units = {name: unit for name in best.parameters if (unit := best.unit(name, selection.data.units))}
        return cls(
            run_uid=origin.run_uid,
            scan_id=origin.scan_id,
            model=best.model.name,
            probabilities=dict(zip(selection.names, selection.probabilities.tolist(), strict=True)),
            probability_errors=dict(zip(selection.names, selection.probability_errors.tolist(), strict=True)),
            parameters=best.parameters,
            units=units,
            decisive=selection.decisive(),
            trustworthy=selection.trustworthy,
            verdict=selection.verdict,
            reason="; ".join(selection.warnings),
        )

    @classmethod
    def published(cls, start: Mapping[str, Any]) -> Answer:
        """Answer of a run that holds one, or a reason why there is none, by its start document."""
        result, tables = start["result"], start.get("tables", {})
        models, rows = _rows(tables.get("models", {})), _rows(tables.get("parameters", {}))
        if not models and result["status"] == "ok":  # an answer of another kind
            models = [{"model": result["best_model"], "probability_error": 0.0, **result}]
        reason = "; ".join(result["warnings"]) if result["status"] == "ok" else result["reason"]
        return cls(
            run_uid=start.get("original_run_uid", ""),
            scan_id=start.get("scan_id"),
            model=result.get("best_model", ""),
            probabilities={row["model"]: row["probability"] for row in models},
            probability_errors={row["model"]: row["probability_error"] for row in models},
            parameters={row["parameter"]: Summary(*(row[name] for name in Summary._fields)) for row in rows},
            units={row["parameter"]: row["unit"] for row in rows if row["unit"]},
            decisive=result.get("decisive", False),
            trustworthy=result.get("trustworthy", False),
            verdict=result.get("verdict", f"no answer: {reason}"),
            reason=reason,
            uid=start["uid"],
        )


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
