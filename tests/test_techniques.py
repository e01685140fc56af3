"""Each technique has a simulated detector, and a recipe that finds what was simulated."""

from typing import Any

import pytest
from bluesky import RunEngine
from bluesky.plans import list_scan

from bluesky_bayes.analysis import load
from bluesky_bayes.callbacks.runs import collect, dataset_of
from bluesky_bayes.techniques import TECHNIQUES, analysis, recipe

EXPECTED = {
    "relaxation": "2 exponentials",
    "mossbauer": "1 doublet + 1 sextet",
    "saxs": "schulz sphere",
    "xanes": "2 pre-edge peaks",
    "xps": "4 lines",
    "xrd": "2 peaks",
    "exafs": "damped",
    "phases": "anatase + rutile + zincite",
    "linear": "slope x + offset",
}


def test_there_is_a_technique_for_each_recipe() -> None:
    assert list(TECHNIQUES) == list(EXPECTED)
    assert all(load(recipe(name)).digest == analysis(name).digest for name in TECHNIQUES)
    with pytest.raises(ValueError, match=r"technique must be one of 'relaxation', .*; got 'alchemy'"):
        recipe("alchemy")


@pytest.mark.parametrize("name", EXPECTED)
def test_what_was_simulated_is_found_by_the_recipe(name: str) -> None:
    (detector, axis), plan = TECHNIQUES[name].devices(), list_scan
    documents: list[tuple[str, Any]] = []
    engine: Any = RunEngine({})
    engine(plan([detector], axis, TECHNIQUES[name].points.tolist()), lambda kind, doc: documents.append((kind, doc)))
    selection: Any = analysis(name)(dataset_of(collect(documents), analysis(name)))
    found = selection.model if name == "phases" else selection.best.model.name
    assert found.startswith(EXPECTED[name]), selection.verdict
