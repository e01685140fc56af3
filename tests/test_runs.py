"""Documents become columns and columns data sets; what cannot be analysed is said in a sentence."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from event_model import compose_run

from bluesky_bayes import Analysis, Poisson
from bluesky_bayes.callbacks import collector, files
from bluesky_bayes.callbacks.runs import (
    CollectedRun,
    NothingToAnalyseError,
    RunCollector,
    collect,
    dataset_of,
    datasets_of,
    read_jsonl,
)

ANALYSIS = Analysis(fakes.CANDIDATES)


def analysis(**options: Any) -> Analysis:
    return Analysis(fakes.CANDIDATES, **options)


@pytest.mark.parametrize("page", [False, True], ids=["events", "a page"])
def test_a_scan_becomes_a_data_set_named_by_its_hints(page: bool) -> None:
    data = dataset_of(collect(fakes.scan_documents(page=page)), ANALYSIS)
    assert (data.origin.stream, data.origin.x, data.origin.y, data.origin.scan_id) == ("primary", "motor", "det", 7)
    assert data.units == {"x": "mm"}
    assert data.x.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert data.y[0] == 0.0 and data.y[-1] == 2.0


def test_fields_are_taken_by_name_and_a_dark_level_is_subtracted() -> None:
    run = collect(fakes.scan_documents())
    data = dataset_of(run, analysis(x="det", y="motor", subtract=0.25))
    assert (data.origin.x, data.origin.y) == ("det", "motor")
    assert data.y.min() == -0.25


def test_uncertainty_and_exposure_are_fields_of_the_same_stream() -> None:
    documents = fakes.scan_documents()
    shifted = analysis(x="motor", y="det", sigma="det", exposure="motor")
    with pytest.raises(ValueError, match=r"sigma of y \('det'\) is 0 at point 0"):
        dataset_of(collect(documents), shifted)


def test_poisson_noise_makes_the_data_counts() -> None:
    documents = fakes.scan_documents()
    for name, doc in documents:
        if name == "event":
            doc["data"]["det"] = 3.0
    assert dataset_of(collect(documents), analysis(noise=Poisson())).counts
    assert not dataset_of(collect(documents), analysis(noise=Poisson(scale=1.5))).counts
    assert not dataset_of(collect(documents), ANALYSIS).counts


def test_a_value_that_is_null_is_an_error_that_names_the_field() -> None:
    documents = fakes.scan_documents()
    documents[4][1]["data"]["det"] = None
    with pytest.raises(ValueError, match=r"y \('det'\) is nan at point 2"):
        dataset_of(collect(documents), ANALYSIS)


def test_a_point_that_was_taken_again_counts_once_as_it_was_last() -> None:
    documents = fakes.scan_documents()
    again = ("event", {**documents[4][1], "uid": "again", "data": {"motor": 0.5, "det": 9.0}})
    data = dataset_of(collect([*documents[:5], again, *documents[5:]]), ANALYSIS)
    assert data.n == 5
    assert data.y[2] == 9.0


def test_documents_that_come_twice_count_once() -> None:
    documents = fakes.scan_documents()
    twice = [documents[0], *(entry for entry in documents[1:-1] for _ in range(2)), documents[-1]]
    assert dataset_of(collect(twice), ANALYSIS) == dataset_of(collect(documents), ANALYSIS)


def test_several_descriptors_of_a_stream_are_joined_in_order() -> None:
    documents = fakes.scan_documents()
    second = {**documents[1][1], "uid": "second"}
    late = [(name, {**doc, "descriptor": "second"}) for name, doc in documents[4:-1]]
    data = dataset_of(collect([*documents[:4], ("descriptor", second), *late, documents[-1]]), ANALYSIS)
    assert data == dataset_of(collect(documents), ANALYSIS)


def test_an_unfinished_run_is_a_run() -> None:
    run = collect(fakes.scan_documents()[:-1])
    assert not run.stop
    assert dataset_of(run, ANALYSIS).n == 5


def test_a_run_that_failed_is_analysed_where_it_has_points() -> None:
    assert dataset_of(collect(fakes.scan_documents(exit_status="fail")), ANALYSIS).n == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"x": "motr"}, "stream 'primary' of run .* has no field 'motr'; there are 'motor', 'det'"),
        ({"y": "dett"}, "has no field 'dett'"),
        ({"sigma": "err"}, "has no field 'err'"),
        ({"exposure": "time"}, "has no field 'time'"),
        ({"stream": "dark"}, "has no stream 'dark': it has 'primary'"),
    ],
)
def test_what_is_missing_is_named_with_what_is_there(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(NothingToAnalyseError, match=sentence):
        dataset_of(collect(fakes.scan_documents()), analysis(**options))


def test_without_hints_the_motors_are_what_was_scanned() -> None:
    assert dataset_of(collect(fakes.scan_documents(hints={})), ANALYSIS).origin.x == "motor"


def test_a_dimension_may_be_a_field_alone() -> None:
    documents = fakes.scan_documents(hints={"dimensions": [["motor", "primary"]]})
    assert dataset_of(collect(documents), ANALYSIS).origin.x == "motor"


@pytest.mark.parametrize("entry", [[["motor"]], [["motor"], "primary", "x"], [], "ab", 5, [[["motor"]], "primary"]])
def test_a_dimension_that_is_no_fields_and_stream_is_a_sentence(entry: Any) -> None:
    documents = fakes.scan_documents()
    start = ("start", {**documents[0][1], "hints": {"dimensions": [entry]}})
    with pytest.raises(NothingToAnalyseError, match=r"hints of run .* where \[\[field, ...\], stream\] is expected"):
        dataset_of(collect([start, *documents[1:]]), ANALYSIS)


def test_a_count_has_nothing_to_be_plotted_against() -> None:
    hints = {"dimensions": [[["time"], "primary"]]}
    with pytest.raises(NothingToAnalyseError, match=r"nothing was scanned .* there are 'motor', 'det'"):
        dataset_of(collect(fakes.scan_documents(hints=hints)), ANALYSIS)


def test_a_run_that_would_fill_the_memory_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MOST_NUMBERS", 8)
    with pytest.raises(NothingToAnalyseError, match="more than 8 numbers"):
        collect(fakes.scan_documents())


def test_an_array_that_every_event_repeats_takes_room_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MOST_NUMBERS", 1000)
    angles = {"source": "SIM", "dtype": "array", "shape": [100]}
    run, kept = compose_run(), RunCollector()
    kept("start", run.start_doc)
    bundle = run.compose_descriptor(name="primary", data_keys={"angles": angles})
    kept("descriptor", bundle.descriptor_doc)
    for _ in range(20):
        event = bundle.compose_event(data={"angles": np.arange(100.0)}, timestamps={"angles": 0.0})
        kept("event", event)
    patterns = kept.collected().patterns["primary"]["angles"]
    assert [pattern.tolist() for pattern in patterns] == [list(range(100))] * 20
    assert kept.room() == pytest.approx(1.0 - (100 + 19 * collector.REFERENCE + 20) / 1000)
    for i in range(7):
        kept("event", bundle.compose_event(data={"angles": np.full(100, i)}, timestamps={"angles": 0.0}))
    assert kept.room() == 0.0
    with pytest.raises(NothingToAnalyseError, match="more than 1000 numbers"):
        kept.collected()


def test_streams_that_are_not_asked_for_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MOST_NUMBERS", 8)
    dark = RunCollector(analysis(stream="dark"))
    for name, doc in fakes.scan_documents():
        dark(name, doc)
    assert dark.collected().streams["primary"]["det"].size == 0


def test_documents_of_two_runs_are_not_mixed() -> None:
    with pytest.raises(ValueError, match=r"documents of two runs: run .* \(scan 7\) and run"):
        collect([*fakes.scan_documents(), *fakes.scan_documents()])


def test_documents_without_a_start_are_no_run() -> None:
    with pytest.raises(ValueError, match="no start document"):
        collect([])


def test_a_file_of_documents_is_read_in_both_customs(tmp_path: Path) -> None:
    documents = fakes.scan_documents()
    pairs, named = tmp_path / "pairs.jsonl", tmp_path / "named.jsonl"
    pairs.write_text("\n".join(json.dumps([name, doc]) for name, doc in documents) + "\n\n")
    named.write_text("\n".join(json.dumps({"name": name, "doc": doc}) for name, doc in documents))
    assert list(read_jsonl(pairs)) == list(read_jsonl(named)) == documents


@pytest.mark.parametrize(("line", "sentence"), [("{", "line 2 is not JSON"), ("[1]", "line 2 is no Bluesky document")])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(f'["start", {{}}]\n{line}\n')
    with pytest.raises(ValueError, match=sentence):
        list(read_jsonl(path))


RECORDED = {
    "array_events": "no detector of run .* hints at a number",
    "count_one_pattern": "no detector of run .* hints at a number .*: name a field as y; there are 'mca'",
    "failed_run": "nothing was scanned",
    "fly_event_pages": "has no stream 'primary': it has 'flyer1'",
    "image_external_datum": "no detector of run .* hints at a number .* there are 'img'",
    "multi_stream": "nothing was scanned",
    "no_events": "has no stream 'primary': it has no events at all",
    "ragged_undeclared": "no detector of run .* hints at a number .* there are 'rag'",
    "stream_datum_fly": r"'bdet' of run .* is an image of shape \(1, 240, 320\) .* say how it becomes one",
    "stream_resource_step": r"'bdet' of run .* is an image of shape \(1, 240, 320\) .* say how it becomes one",
}


@pytest.mark.parametrize(("name", "sentence"), RECORDED.items())
def test_each_form_of_document_that_hints_at_no_curve_says_why(data_folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(NothingToAnalyseError, match=sentence):
        dataset_of(collect(fakes.recorded(data_folder, name)), ANALYSIS)


@pytest.mark.parametrize(
    ("name", "options", "n"),
    [
        ("scalar_step", {}, 5),
        ("fly_event_pages", {"stream": "flyer1", "x": "motor", "y": "det"}, 20),
        ("multi_stream", {"x": "motor", "y": "det"}, 3),
        ("grid_2d", {}, 2),
    ],
)
def test_each_form_of_document_with_a_curve_gives_it(
    data_folder: Path, name: str, options: dict[str, str], n: int
) -> None:
    assert dataset_of(collect(fakes.recorded(data_folder, name)), analysis(**options)).n == n


def test_a_field_in_a_file_that_is_not_there_says_so(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SECONDS_TO_APPEAR", 0.0)
    with pytest.raises(
        NothingToAnalyseError, match=r"'bdet-sum' of run .* lies in /dev.*h5, which is not there .*root_map"
    ):
        dataset_of(collect(fakes.recorded(data_folder, "stream_resource_step")), analysis(y="bdet-sum"))


@pytest.mark.parametrize(
    ("name", "y", "lengths"),
    [("array_events", "mca", [64] * 3), ("count_one_pattern", "mca", [64]), ("ragged_undeclared", "rag", None)],
)
def test_patterns_are_data_sets_of_their_own_where_that_is_asked_for(
    data_folder: Path, name: str, y: str, lengths: list[int] | None
) -> None:
    data = datasets_of(collect(fakes.recorded(data_folder, name)), analysis(y=y, patterns="each"))
    assert lengths is None or [each.n for each in data] == lengths
    assert [each.origin.events for each in data] == [(i,) for i in range(1, len(data) + 1)]
    assert data[0].origin.x == "channel"


def pattern_run(patterns: Sequence[Any], scanned: bool = False, **fields: Sequence[Any]) -> CollectedRun:
    """A run with a pattern `mca` in each event, more fields, and an axis in the detector's configuration."""
    dimensions = [[["motor"], "primary"]] if scanned else [[["time"], "primary"]]
    run = compose_run(metadata={"hints": {"dimensions": dimensions}})
    rows = {"mca": patterns, **fields}
    keys = {
        name: {
            "source": "SIM",
            "dtype": "array" if np.ndim(values[0]) else "number",
            "shape": list(np.shape(values[0])),
        }
        for name, values in rows.items()
    }
    axis = {"source": "SIM", "dtype": "array", "shape": [4]}
    descriptor = run.compose_descriptor(
        name="primary",
        data_keys=keys,
        hints={"mca": {"fields": ["mca"]}},
        object_keys={"mca": list(keys)},
        configuration={"mca": {"data": {"mca_energy": [1, 2, 3, 5]}, "timestamps": {"mca_energy": 0.0},
                               "data_keys": {"mca_energy": axis}}},
    )  # fmt: skip
    documents: list[tuple[str, Any]] = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    for i in range(len(patterns)):
        data = {name: values[i] for name, values in rows.items()}
        documents.append(("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0))))
    return collect([*documents, ("stop", run.compose_stop())])


def test_an_absorption_is_the_logarithm_of_the_intensity_before_over_that_behind() -> None:
    documents = fakes.scan_documents()
    asked = analysis(x="motor", y="det", i0="motor", subtract=-1.0)
    with pytest.raises(ValueError, match=r"'motor' of run .* is 0 at point 0, and an absorption .* positive"):
        dataset_of(collect(documents), asked)
    with pytest.raises(ValueError, match="is no count"):
        analysis(i0="motor", noise=Poisson())
    run = pattern_run([[1.0, 2, 3, 4]], before=[[2.0, 4, 6, 8]])
    (data,) = datasets_of(run, analysis(y="mca", i0="before"))
    assert np.allclose(data.y, math.log(2.0))
    assert data.origin.y == "ln(before / mca)"


def test_the_edge_of_iridium_is_found_in_a_run_from_a_beamline(data_folder: Path) -> None:
    run = collect(read_jsonl(beamline_run(data_folder, "287_qxscan")))
    data = dataset_of(run, analysis(x="monochromator_energy", y="Ion Ch 5", i0="Ion Ch 4"))
    steepest = data.x[:-1][np.argmax(np.diff(data.y) / np.diff(data.x))]
    assert abs(steepest - 12.826) < 0.002
    assert data.units == {"x": "keV"}


REPEATS = [[1.0, 2, 3, 4], [10, 20, 30, 40]]


def test_repeated_patterns_are_added_up_with_their_times_and_errors() -> None:
    run = pattern_run(REPEATS, seconds=[2.0, 3.0], error=[[3.0] * 4, [4.0] * 4])
    (counts,) = datasets_of(run, analysis(x="mca_energy", noise=Poisson(), exposure="seconds"))
    assert counts.counts
    assert counts.x.tolist() == [1, 2, 3, 5]
    assert counts.y.tolist() == [11, 22, 33, 44]
    assert counts.exposure is not None and counts.exposure.tolist() == [5.0] * 4
    assert counts.origin.events == (1, 2)
    (values,) = datasets_of(run, analysis(sigma="error", subtract=1.0))
    assert values.y.tolist() == [9, 20, 31, 42]
    assert values.sigma is not None and values.sigma.tolist() == [5.0] * 4
    assert values.x.tolist() == [0, 1, 2, 3]


def test_patterns_of_a_scan_are_no_repeats() -> None:
    run = pattern_run(REPEATS, scanned=True, motor=[0.0, 1.0])
    assert [data.y.tolist() for data in datasets_of(run, analysis(y="mca"))] == REPEATS
    (added,) = datasets_of(run, analysis(y="mca", patterns="sum"))
    assert added.y.tolist() == [11, 22, 33, 44]


def test_a_field_may_be_the_abscissa_of_patterns() -> None:
    run = pattern_run(REPEATS, angle=[[5.0, 6, 7, 8], [5.1, 6, 7, 8]])
    with pytest.raises(NothingToAnalyseError, match=r"do not lie at the same angle, .* set patterns = 'each'"):
        datasets_of(run, analysis(x="angle"))
    assert [data.x[0] for data in datasets_of(run, analysis(x="angle", patterns="each"))] == [5.0, 5.1]


@pytest.mark.parametrize(
    ("patterns", "x", "sentence"),
    [
        ([[1.0, 2, 3, 4], [1.0, 2, 3]], None, "do not lie at the same channel"),
        ([[1.0, 2, 3, 4], [1.0, 2, 3]], "mca_energy", "'mca_energy' of run .* has 4 numbers in event 2 where .* has 3"),
        ([[1.0, 2, 3, 4], ["a", "b", "c", "d"]], None, "holds no pattern in event 2"),
        (REPEATS, "motor", "a pattern's x must be a field or a configuration .* there are 'mca', 'mca_energy'"),
    ],
)
def test_patterns_that_do_not_fit_together_say_why(patterns: Any, x: str | None, sentence: str) -> None:
    with pytest.raises(NothingToAnalyseError, match=sentence):
        datasets_of(pattern_run(patterns), analysis(x=x))


def beamline_run(folder: Path, scan: str) -> Path:
    (path,) = (folder / "bluesky_runs").glob(f"*{scan}*.jsonl")
    return path


@pytest.mark.parametrize(
    ("scan", "x", "y", "unit", "n"),
    [
        ("lambda250k", "rxes_motors_arot", "lambda250k_stats_total", "degrees", 50),
        ("287_qxscan", "monochromator_energy", "Ion Ch 5", "keV", 183),
        ("103_tune_ar", "a_stage_r", "PD_USAXS", "deg", 35),
    ],
)
def test_runs_from_beamlines_give_their_curves(data_folder: Path, scan: str, x: str, y: str, unit: str, n: int) -> None:
    data = dataset_of(collect(read_jsonl(beamline_run(data_folder, scan))), ANALYSIS)
    assert (data.origin.x, data.origin.y, data.units["x"], data.n) == (x, y, unit, n)
    assert math.isfinite(data.y.sum())


@pytest.mark.parametrize(
    ("scan", "sentence"),
    [
        ("020_tune_ar", r"stream 'primary' of run b31e8698 \(scan 20\) has no events; it ended with 'fail'"),
        ("002_count", "nothing was scanned .* there are 'seconds', 'I0_USAXS', 'TR diode'"),
        ("110_Flyscan", "has no stream 'primary': it has 'mca', 'baseline'"),
    ],
)
def test_runs_from_beamlines_without_a_curve_say_why(data_folder: Path, scan: str, sentence: str) -> None:
    with pytest.raises(NothingToAnalyseError, match=sentence):
        dataset_of(collect(read_jsonl(beamline_run(data_folder, scan))), ANALYSIS)
