"""Documents become columns and columns data sets; what cannot be analysed is said in a sentence."""

import json
import math
from pathlib import Path
from typing import Any

import fakes
import pytest

from bluesky_bayes import Analysis, Poisson
from bluesky_bayes.callbacks import runs
from bluesky_bayes.callbacks.runs import NothingToAnalyseError, RunCollector, collect, dataset_of, read_jsonl

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


def test_a_count_has_nothing_to_be_plotted_against() -> None:
    hints = {"dimensions": [[["time"], "primary"]]}
    with pytest.raises(NothingToAnalyseError, match=r"nothing was scanned .* there are 'motor', 'det'"):
        dataset_of(collect(fakes.scan_documents(hints=hints)), ANALYSIS)


def test_a_run_that_would_fill_the_memory_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_NUMBERS", 8)
    with pytest.raises(NothingToAnalyseError, match="more than 8 numbers"):
        collect(fakes.scan_documents())


def test_streams_that_are_not_asked_for_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_NUMBERS", 8)
    collector = RunCollector("dark")
    for name, doc in fakes.scan_documents():
        collector(name, doc)
    assert collector.collected().streams["primary"]["det"].size == 0


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
    "count_one_pattern": "nothing was scanned",
    "failed_run": "nothing was scanned",
    "fly_event_pages": "has no stream 'primary': it has 'flyer1'",
    "grid_2d": "scanned along 2 axes and a curve needs one: name a field as x; there are 'motor1', 'motor2'",
    "image_external_datum": "nothing was scanned",
    "multi_stream": "nothing was scanned",
    "no_events": "has no stream 'primary': it has no events at all",
    "ragged_undeclared": "nothing was scanned",
    "stream_datum_fly": "nothing was scanned",
    "stream_resource_step": "no detector of run .* hints at a number",
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
        ("grid_2d", {"x": "motor2", "y": "det"}, 6),
    ],
)
def test_each_form_of_document_with_a_curve_gives_it(
    data_folder: Path, name: str, options: dict[str, str], n: int
) -> None:
    assert dataset_of(collect(fakes.recorded(data_folder, name)), analysis(**options)).n == n


@pytest.mark.parametrize(
    ("name", "y", "sentence"),
    [
        ("array_events", "mca", r"field 'mca' of run .* is an array of shape \(64,\), and a curve needs one number"),
        ("stream_resource_step", "bdet-sum", "field 'bdet-sum' of run .* is kept in files outside the documents"),
    ],
)
def test_a_field_that_is_not_one_number_an_event_says_what_it_is(
    data_folder: Path, name: str, y: str, sentence: str
) -> None:
    with pytest.raises(NothingToAnalyseError, match=sentence):
        dataset_of(collect(fakes.recorded(data_folder, name)), analysis(y=y))


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
