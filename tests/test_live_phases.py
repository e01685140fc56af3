"""Phases while the beam is on: recipes, callbacks, plans, results and past runs."""

import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

pytest.importorskip("gemmi")

from bluesky import RunEngine
from bluesky import plans as bp
from event_model import DocumentNames, compose_run, schema_validators
from ophyd import Kind
from ophyd.sim import SynSignal

from bluesky_bayes.answers import Answer
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.decisions import decide
from bluesky_bayes.phases import Library, Pattern, PhaseAnalysis, PhaseSelection, follow
from bluesky_bayes.phases.fitting import Beliefs
from bluesky_bayes.phases.simulated import cif_text, example_library, simulate_series
from bluesky_bayes.plans import analysed, count_until_decisive
from bluesky_bayes.reprocess import reprocess

NAMES = ("rutile", "anatase", "periclase", "halite", "corundum")
TRUE = {"rutile", "halite"}
FIELDS: dict[str, Any] = {"x": "two_theta", "y": "powder"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cif")
    for name in NAMES:
        (folder / f"{name}.cif").write_text(cif_text(name))
    return folder


@pytest.fixture(scope="module")
def patterns() -> list[Pattern]:
    by_name = {structure.name: structure for structure in example_library()}
    mixture = [(by_name["rutile"], 0.6), (by_name["halite"], 0.4)]
    return simulate_series([mixture] * 3, seed=2, expansion=0.0)


@pytest.fixture(scope="module")
def bayes(folder: Path) -> Iterator[BayesCallback]:
    with BayesCallback(PhaseAnalysis(library=folder, **FIELDS), publish=PUBLISHED.append_document) as callback:
        yield callback


class _Published:
    """Results by the run that they are of."""

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict[str, Any]]] = []

    def append_document(self, name: str, document: dict[str, Any]) -> None:
        self.documents.append((name, document))


PUBLISHED = _Published()


def recorded(patterns: list[Pattern], scanned: bool = False) -> list[tuple[str, Any]]:
    """A run with a pattern an event."""
    metadata: dict[str, Any] = {"scan_id": 12, "detectors": ["powder"]}
    if scanned:
        metadata["hints"] = {"dimensions": [[["temperature"], "primary"]]}
    bundle = compose_run(metadata=metadata)
    n = patterns[0].two_theta.size
    keys: Any = {name: {"source": "test", "dtype": "array", "shape": [n]} for name in ("two_theta", "powder")}
    keys["temperature"] = {"source": "test", "dtype": "number", "shape": []}
    stream = bundle.compose_descriptor(name="primary", data_keys=keys)
    documents: list[tuple[str, Any]] = [("start", bundle.start_doc), ("descriptor", stream.descriptor_doc)]
    for i, pattern in enumerate(patterns):
        data = {"two_theta": pattern.two_theta.tolist(), "powder": pattern.counts.tolist(), "temperature": 300.0 + i}
        documents.append(("event", stream.compose_event(data=data, timestamps=dict.fromkeys(data, time.time()))))
    return [*documents, ("stop", bundle.compose_stop())]


def names(answer: Any) -> set[str]:
    return {phase.structure.name for phase in answer.present}


def test_a_recipe_is_saved_and_loaded_with_its_digest(folder: Path, tmp_path: Path) -> None:
    analysis = PhaseAnalysis(
        library=folder,
        radiation=0.7,
        elements=("Ti", "O", "Na", "Cl"),
        between=(10.0, 40.0),
        beliefs=Beliefs(texture=0.5, lorentzian=(0.4, 0.1)),
        patterns="each",
        metadata=("temperature",),
        **FIELDS,
    )
    analysis.save(tmp_path / "phases.toml")
    loaded = PhaseAnalysis.load(tmp_path / "phases.toml")
    assert loaded.digest == analysis.digest
    assert (loaded.beliefs, loaded.metadata) == (analysis.beliefs, ("temperature",))
    assert (loaded.elements, loaded.between, loaded.radiation) == (
        analysis.elements,
        analysis.between,
        analysis.radiation,
    )
    assert PhaseAnalysis(library=folder, **FIELDS).digest != analysis.digest
    assert len(pickle.dumps(analysis)) < 10_000


def test_the_digest_follows_the_content_of_the_library_not_its_place(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.cif").write_text(cif_text(name))
    here, there = PhaseAnalysis(library=tmp_path), PhaseAnalysis(library=folder)
    assert here.digest == there.digest
    here.save(tmp_path / "phases.toml")
    (tmp_path / "halite.cif").write_text(cif_text("ceria"))
    assert PhaseAnalysis(library=tmp_path).digest != there.digest
    with pytest.raises(ValueError, match="was changed since the analysis was made"):
        here.prepare()
    with pytest.raises(ValueError, match=r"phases\.toml: the library in .* is not the one"):
        PhaseAnalysis.load(tmp_path / "phases.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data]\nx = 'two_theta'", r"\[library\] has no folder"),
        ("[library]\nfolder = 'absent'", "is no folder; give a folder"),
        ("[library]\nfolder = 'examples'\nelement = ['Ti']", r"\[library\] has an unknown entry 'element'"),
        ("[library]\nfolder = 'examples'\n[candidates]\n", r"unknown part \[candidates\]"),
        ("[library]\nfolder = 'examples'\n[radiation]\nanode = 'UKa'", "unknown radiation 'UKa'"),
        ("[library]\nfolder = 'examples'\n[radiation]\npolarisation = 1.0", "says no wavelength"),
        ("[library]\nfolder = 'examples'\n[data]\nbetween = [80, 20]", "two rising angles"),
    ],
)
def test_a_wrong_recipe_is_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        PhaseAnalysis.load(tmp_path / "wrong.toml")


def test_patterns_of_a_run_are_added_up_answered_and_published(bayes: BayesCallback, patterns: list[Pattern]) -> None:
    documents = recorded(patterns)
    for name, document in documents:
        bayes(name, document)
    uid = documents[0][1]["uid"]
    answer: Any = bayes.result(uid, timeout=60)
    assert isinstance(answer, PhaseSelection)
    assert names(answer) == TRUE
    assert answer.pattern.name == "scan 12, event 1 to 3"
    assert np.allclose(answer.pattern.counts, np.sum([pattern.counts for pattern in patterns], axis=0))
    assert answer.data.origin.run_uid == uid
    published = bayes.published(uid, timeout=60)
    starts = [document for name, document in PUBLISHED.documents if name == "start"]
    (start,) = [document for document in starts if document["uid"] == published]
    assert start["original_run_uid"] == uid
    assert start["analysis"]["digest"] == bayes.analysis.digest
    assert (start["result"]["kind"], start["result"]["phases"]) == (
        "phases",
        [p.structure.name for p in answer.present],
    )


def test_each_pattern_of_a_scan_is_answered_and_what_cannot_be_does_not_end_the_rest(
    bayes: BayesCallback, patterns: list[Pattern]
) -> None:
    dead = Pattern(patterns[0].two_theta, patterns[0].counts, "CuKa")
    object.__setattr__(dead, "counts", np.zeros(dead.two_theta.size))
    documents = recorded([patterns[0], dead, patterns[2]], scanned=True)
    for name, document in documents:
        bayes(name, document)
    answers: Any = bayes.results(documents[0][1]["uid"], timeout=60)
    assert [answer.data.origin.events for answer in answers] == [(1,), (3,)]
    assert "event 2 of" in bayes.status()
    assert "has no counts" in bayes.status()


def test_the_patterns_of_a_runs_answers_are_a_series(
    bayes: BayesCallback, patterns: list[Pattern], folder: Path
) -> None:
    documents = recorded(patterns, scanned=True)
    for name, document in documents:
        bayes(name, document)
    answers: Any = bayes.results(documents[0][1]["uid"], timeout=60)
    series = follow([answer.pattern for answer in answers], Library.from_folder(folder))
    assert {phase.members[0] for phase in series.phases} == TRUE
    assert all((phase.appears, phase.disappears) == (None, None) for phase in series.phases)


def test_a_result_is_a_run_with_a_row_for_each_phase_and_its_curves(patterns: list[Pattern], folder: Path) -> None:
    from bluesky_bayes.callbacks.runs import collect, dataset_of

    analysis = PhaseAnalysis(library=folder, **FIELDS)
    answer = analysis(dataset_of(collect(recorded(patterns)), analysis))
    documents = list(answer.to_documents({"uid": "raw"}, {"digest": "d"}))
    for name, document in documents:
        schema_validators[DocumentNames[name]].validate(document)
        json.dumps(document)
    tables = documents[0][1]["tables"]
    columns = tables["phases"]
    rows = {row[0]: dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)}
    for phase in answer.phases:
        row = rows[phase.structure.name]
        assert (row["formula"], row["decided"], row["probability"]) == (
            phase.structure.formula,
            phase.status,
            phase.probability,
        )
        assert row["weight_low"] <= row["weight"] <= row["weight_high"]
        assert row["group"] == list(phase.members)
        assert row["cell"] == list(phase.cell)
    (event,) = fakes.rows(documents, "primary")
    curves = {name: np.array(curve) for name, curve in zip(tables["curves"]["curve"], event["curves"], strict=True)}
    whole = np.sum([curves[f"fit.{name}"] for name in rows], axis=0) + curves["background"]
    assert whole == pytest.approx(curves["fit"])
    assert curves["counts"] - whole == pytest.approx(curves["residual"])
    found = Answer.published(documents[0][1])
    assert (found.model, found.probability, found.verdict) == (answer.model, answer.sets[0][1], answer.verdict)
    assert (found.decisive, found.trustworthy) == (answer.decisive(), answer.trustworthy)


class _Powder:
    """A detector of patterns with its angles."""

    def __init__(self, pattern: Pattern, scale: float) -> None:
        rng = np.random.default_rng(0)
        self.two_theta = SynSignal(lambda: pattern.two_theta, name="two_theta", kind=Kind.normal)
        self.powder = SynSignal(
            lambda: rng.poisson(np.maximum(scale * pattern.counts, 0.0)),
            name="powder",
            kind=Kind.hinted,
            exposure_time=0.1,
        )


def test_counting_ends_when_every_phase_is_decided(bayes: BayesCallback, patterns: list[Pattern]) -> None:
    engine: Any = RunEngine({}, call_returns_result=True)
    engine.subscribe(bayes)
    device = _Powder(patterns[0], 0.1)
    answer = engine(count_until_decisive([device.two_theta, device.powder], bayes, max_time=60.0)).plan_result
    assert names(answer) == TRUE
    assert decide([answer]).decided
    again = engine(analysed(bp.count([device.two_theta, device.powder], 2), bayes)).plan_result
    assert names(again) == TRUE


def test_phases_that_are_not_all_decided_are_no_ground_to_act(patterns: list[Pattern], folder: Path) -> None:
    from bluesky_bayes.dataset import Dataset

    pattern = patterns[0]
    poor = PhaseAnalysis(library=folder, elements=("Ti", "O"))(Dataset(pattern.two_theta, pattern.counts))
    assert not decide([poor]).decided
    assert "is not to be trusted" in decide([poor]).reason


class _Recorded:
    def __init__(self, documents: list[tuple[str, Any]]) -> None:
        self._documents = documents

    def documents(self) -> Iterator[tuple[str, Any]]:
        return iter(self._documents)


def test_past_runs_are_searched_for_phases(patterns: list[Pattern], folder: Path) -> None:
    analysis = PhaseAnalysis(library=folder, **FIELDS)
    found = reprocess([_Recorded(recorded(patterns[:1]))], lambda *_: None, analysis)
    assert (len(found.done), found.failed) == (1, {})


def test_the_examples_are_a_library_without_a_folder() -> None:
    library = PhaseAnalysis(library="examples", elements=["Ti", "O"]).loaded()  # type: ignore[arg-type]
    assert isinstance(library, Library)
    assert {structure.name for structure in library} == {"rutile", "anatase"}
