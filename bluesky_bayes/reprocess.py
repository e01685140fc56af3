"""Analyse runs that were recorded before, as if they came in now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from bluesky_bayes.analysis import Recipe
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks.bayes import sentence
from bluesky_bayes.callbacks.runs import stored_documents
from bluesky_bayes.remote import is_answered
from bluesky_bayes.selection import Selection


@dataclass
class Reprocessed:
    """What became of the runs.

    Attributes
    ----------
    done : list of str
        Uids of those analysed and published.
    skipped : list of str
        Uids of those that the same recipe had answered before, or that are results themselves.
    failed : dict of str to str
        Why there is no answer, by scan number and uid.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write the counts in words."""
        return f"{len(self.done)} done, {len(self.skipped)} skipped, {len(self.failed)} failed"


def reprocess(
    raw: Mapping[str, Any] | Iterable[Any],
    processed: Any,
    analysis: Recipe,
    *,
    limit: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Reprocessed:
    """Send past runs through the same callback that serves live ones, and publish what it finds.

    A run that this recipe has already answered in `processed` is skipped, so that a call that was interrupted can be
    made again; one of whose results some are missing, or were broken off, is analysed again, and those are written. One
    run that cannot be analysed does not end the rest.

    Parameters
    ----------
    raw : Tiled container of runs, or iterable of objects that have ``.documents()``
    processed : Tiled container, databroker or callable ``(name, document)``
        Where results go. Only a Tiled container can be asked what is done already.
    analysis : Analysis or PhaseAnalysis
    limit : int, optional
        Stop after so many runs were analysed or failed; skipped ones are not counted.
    progress : callable, optional
        Called with one line a run.

    Returns
    -------
    Reprocessed
    """
    outcome = Reprocessed()
    with BayesCallback(analysis, publish=processed) as bayes:
        for label, run in _labelled(raw):
            if limit is not None and len(outcome.done) + len(outcome.failed) >= limit:
                break
            line = _reprocess_one(label, run, processed, analysis, bayes, outcome)
            if progress is not None:
                progress(line)
    return outcome


def _labelled(raw: Mapping[str, Any] | Iterable[Any]) -> Iterable[tuple[str, Any]]:
    return raw.items() if isinstance(raw, Mapping) else ((f"run {i}", run) for i, run in enumerate(raw))


def _reprocess_one(
    label: str, run: Any, processed: Any, analysis: Recipe, bayes: BayesCallback, outcome: Reprocessed
) -> str:
    """Analyse one run, note what became of it, and say so in a line."""
    try:
        documents = stored_documents(run)
        _, start = next(documents)
        uid, label = start["uid"], _label(start)
        if "original_run_uid" in start or _answered(processed, uid, analysis.digest):
            outcome.skipped.append(uid)
            return f"{label}: skipped, it is {'a result' if 'original_run_uid' in start else 'done already'}"
        selection = _analyse(bayes, uid, chain([("start", start)], documents))
    except Exception as error:  # whatever is wrong with one run, the others are still to be analysed
        outcome.failed[label] = sentence(error)
        return f"{label}: failed, {sentence(error)}"
    outcome.done.append(uid)
    return f"{label}: {selection.verdict}"


def _analyse(bayes: BayesCallback, uid: str, documents: Iterable[tuple[str, Any]]) -> Selection:
    """Send the run's documents to the callback and wait until its answer is published."""
    name = ""
    for name, document in documents:
        bayes(name, document)
    if name != "stop":
        raise ValueError("it has no stop document: it did not end, or goes on")
    selection = bayes.result(uid)
    bayes.published(uid)
    return selection


def _answered(processed: Any, uid: str, digest: str) -> bool:
    """Whether a Tiled container holds the answer of that recipe, all of it; other targets cannot be asked."""
    return hasattr(processed, "create_container") and is_answered(processed, uid, digest)


def _label(start: Mapping[str, Any]) -> str:
    scan = f"scan {start['scan_id']}, " if "scan_id" in start else ""
    return f"{scan}{start['uid'][:8]}"
