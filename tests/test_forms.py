"""Every form a run may take: grids, several streams, changed configuration, runs that are not whole; and nonsense."""

import json
import pickle
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from event_model import compose_run, schema_validators
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ophyd.sim import det4, motor1, motor2, motor3

from bluesky_bayes import Analysis, Selection
from bluesky_bayes.callbacks import BayesCallback, collector
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.intake import Desk, Intake
from bluesky_bayes.callbacks.runs import NothingToAnalyseError, RunCollector, collect, datasets_of, pieces_of
from bluesky_bayes.dataset import Dataset, Reading
from bluesky_bayes.documents import selection_documents
from bluesky_bayes.preparation import Image, Preparation

ANALYSIS = Analysis(fakes.CANDIDATES)
Documents = list[tuple[str, Any]]


def analysis(**options: Any) -> Analysis:
    return Analysis(fakes.CANDIDATES, **options)


def grid(
    slow: list[float], fast: list[list[float]], snake: bool = False, shaped: bool = True, points: int | None = None,
    exit_status: Any = "success",
) -> Documents:  # fmt: skip
    """A grid of `outer` and `inner`, whose detector tells which point it is."""
    shape = {"shape": [len(slow), len(fast[0])], "snaking": [False, snake]} if shaped else {}
    hints = {"dimensions": [[["outer"], "primary"], [["inner"], "primary"]]}
    run = compose_run(metadata={"hints": hints, **shape})
    number = {"source": "SIM", "dtype": "number", "shape": []}
    bundle = run.compose_descriptor(
        name="primary",
        data_keys={"outer": number, "inner": number, "det": number},
        hints={"det": {"fields": ["det"]}},
        object_keys={"det": ["outer", "inner", "det"]},
    )
    documents: Documents = [("start", run.start_doc), ("descriptor", bundle.descriptor_doc)]
    for i, (position, line) in enumerate(zip(slow, fast, strict=True)):
        for inner in line[:: -1 if snake and i % 2 else 1]:
            data = {"outer": position + 1e-4 * inner, "inner": inner, "det": 10.0 * position + inner}
            documents.append(("event", bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0))))
    return [*documents[: None if points is None else points + 2], ("stop", run.compose_stop(exit_status=exit_status))]


def mapped(plan: Any) -> Documents:
    """Documents of a plan that moves `motor1` and `motor2`."""
    documents: Documents = []
    RunEngine({})(plan, lambda name, doc: documents.append((name, doc)))
    return documents


LINE = [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("snake", [False, True])
@pytest.mark.parametrize("shaped", [False, True])
def test_a_grid_is_a_data_set_for_each_line_along_its_fast_axis(snake: bool, shaped: bool) -> None:
    run = collect(grid([0.0, 5.0, 6.0], [LINE] * 3, snake, shaped))
    lines = datasets_of(run, ANALYSIS)
    assert [line.y.tolist() for line in lines] == [[0, 1, 2, 3], [50, 51, 52, 53], [60, 61, 62, 63]]
    assert all(line.x.tolist() == LINE and line.origin.x == "inner" for line in lines)
    assert [line.origin.events for line in lines] == [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]
    assert [round(float(line.origin.metadata["outer"].value)) for line in lines] == [0, 5, 6]


@pytest.mark.parametrize("snake", [False, True])
def test_a_grid_is_cut_along_the_slow_axis_where_that_is_named(snake: bool) -> None:
    lines = datasets_of(collect(grid([0.0, 5.0, 6.0], [LINE] * 3, snake)), analysis(x="outer"))
    assert sorted(line.y.tolist() for line in lines) == [[float(i), 50.0 + i, 60.0 + i] for i in range(4)]
    with pytest.raises(NothingToAnalyseError, match=r"without a shape that fits, .* along the fast axis 'inner'"):
        datasets_of(collect(grid([0.0, 5.0], [LINE] * 2, shaped=False)), analysis(x="outer"))


def test_a_ragged_grid_is_cut_where_its_slow_axis_moves() -> None:
    lines = datasets_of(collect(grid([0.0, 1.0, 2.0], [LINE, LINE[:2], LINE[:3]], shaped=False)), ANALYSIS)
    assert [line.n for line in lines] == [4, 2, 3]


@pytest.mark.parametrize(("step", "n"), [(0.9, 2), (1.1, 3)])
def test_a_line_ends_where_the_slow_axis_moves_by_more_than_a_tenth_of_its_largest_step(step: float, n: int) -> None:
    assert len(datasets_of(collect(grid([0.0, 10.0, 10.0 + step], [LINE] * 3, shaped=False)), ANALYSIS)) == n


@pytest.mark.parametrize(
    "plan",
    [
        bp.spiral([det4], motor1, motor2, 0.0, 0.0, 2.0, 2.0, 0.4, 20),
        bp.spiral_fermat([det4], motor1, motor2, 0.0, 0.0, 2.0, 2.0, 0.4, 1.0),
        bp.spiral_square([det4], motor1, motor2, 0.0, 0.0, 2.0, 2.0, 6, 6),
        bp.rel_spiral_square([det4], motor1, motor2, 2.0, 2.0, 5, 4),
    ],
    ids=["spiral", "spiral_fermat", "spiral_square", "rel_spiral_square"],
)
def test_a_spiral_has_no_lines_and_says_so_once(plan: Any) -> None:
    run = collect(mapped(plan))
    for x in (None, "motor1", "motor2"):
        with pytest.raises(NothingToAnalyseError, match=r"scanned along 'motor.', 'motor.' and is no grid .* no lines"):
            pieces_of(run, analysis(x=x))


def test_points_that_a_shape_belies_are_no_lines_of_it() -> None:
    documents = mapped(bp.spiral_square([det4], motor1, motor2, 0.0, 0.0, 2.0, 2.0, 6, 6, md={"hints": {
        "gridding": None, "dimensions": [[["motor1"], "primary"], [["motor2"], "primary"]]}}))  # fmt: skip
    with pytest.raises(NothingToAnalyseError, match="is no grid"):
        pieces_of(collect(documents), ANALYSIS)


@pytest.mark.parametrize("snake", [False, True])
@pytest.mark.parametrize("skipped", [1, 3, 4, 9, 11])
def test_a_reading_that_a_grid_skips_moves_no_later_point_to_another_line(skipped: int, snake: bool) -> None:
    steps = count()

    def per_step(detectors: Any, step: Any, pos_cache: Any) -> Any:
        yield from bps.move_per_step(step, pos_cache)
        if next(steps) != skipped:
            yield from bps.trigger_and_read([*detectors, *step])

    options: dict[str, Any] = {"snake_axes": snake, "per_step": per_step}
    documents = mapped(bp.grid_scan([det4], motor1, 1.0, 3.0, 3, motor2, 0.0, 3.0, 4, **options))
    lines = datasets_of(collect(documents), ANALYSIS)
    expected = [3 if i == skipped // 4 else 4 for i in range(3)]
    assert [line.n for line in lines] == expected
    assert [line.origin.metadata["motor1"].value for line in lines] == [1.0, 2.0, 3.0]
    assert [("the line has 3 of its 4 points" in line.notes) for line in lines] == [n == 3 for n in expected]


def test_a_grid_that_its_plan_vouches_for_needs_no_positions_to_tell_its_lines() -> None:
    rng = np.random.default_rng(0)
    documents = mapped(bp.list_grid_scan([det4], motor1, [1, 1, 1], motor2, LINE, snake_axes=True))
    shaken = [
        (name, {**doc, "data": {**doc["data"], "motor1": rng.normal()}} if name == "event" else doc)
        for name, doc in documents
    ]
    lines = datasets_of(collect(shaken), ANALYSIS)
    assert [line.x.tolist() for line in lines] == [LINE] * 3
    unfinished = datasets_of(collect([*shaken[:-2], shaken[-1]]), ANALYSIS)
    assert [line.n for line in unfinished] == [4, 4, 3]


def test_a_grid_in_three_dimensions_has_a_line_for_each_point_of_its_slow_axes() -> None:
    plan = bp.grid_scan([det4], motor1, 1, 2, 2, motor2, 1, 2, 3, motor3, 0, 3, 4, snake_axes=True)
    lines = datasets_of(collect(mapped(plan)), ANALYSIS)
    where = [tuple(line.origin.metadata[name].value for name in ("motor1", "motor2")) for line in lines]
    assert where == [(1, 1), (1, 1.5), (1, 2), (2, 2), (2, 1.5), (2, 1)]
    assert [line.x.tolist() for line in lines] == [LINE] * 6


def test_the_unfinished_line_of_a_grid_that_failed_says_so_and_ends_no_other() -> None:
    run = collect(grid([0.0, 1.0, 2.0], [LINE] * 3, points=7, exit_status="abort"))
    full, short = datasets_of(run, ANALYSIS)
    assert "the line has 3 of its 4 points" in short.notes and full.n == 4
    assert "the run is not whole; it ended with 'abort'" in full.notes
    first, second = pieces_of(collect(grid([0.0, 1.0], [LINE] * 2, points=5)), ANALYSIS)
    assert first.dataset().n == 4
    with pytest.raises(ValueError, match="is a single point"):
        second.dataset()


def test_a_run_that_is_not_whole_says_so() -> None:
    documents = fakes.scan_documents()
    (data,) = datasets_of(collect(documents[:-1]), ANALYSIS)
    assert "the run has no stop document: it goes on, or ended without one" in data.notes
    lost = [documents[0], documents[1], *documents[3:]]
    (data,) = datasets_of(collect(lost), ANALYSIS)
    assert "the run speaks of 5 events in stream 'primary' and 4 are here" in data.notes
    assert not datasets_of(collect(documents), ANALYSIS)[0].notes


def pattern_run(axes: list[list[float]], image: Any = None) -> Documents:
    """A scan whose detector's configuration, its energies, changes between events: a descriptor for each."""
    run = compose_run(metadata={"hints": {"dimensions": [[["motor"], "primary"]]}, "sample": "iron", "field": 2})
    documents: Documents = [("start", run.start_doc)]
    number = {"source": "SIM", "dtype": "number", "shape": []}
    base = run.compose_descriptor(name="baseline", data_keys={"temperature": {**number, "units": "K"}})
    documents.append(("descriptor", base.descriptor_doc))
    documents.append(("event", base.compose_event(data={"temperature": 4.0}, timestamps={"temperature": 0.0})))
    for i, axis in enumerate(axes):
        value = np.arange(4.0) + i if image is None else image
        energies = {"source": "SIM", "dtype": "array", "shape": [4], "units": "keV"}
        bundle = run.compose_descriptor(
            name="primary",
            data_keys={"motor": number, "mca": {"source": "SIM", "dtype": "array", "shape": list(np.shape(value))}},
            hints={"mca": {"fields": ["mca"]}},
            object_keys={"mca": ["mca"], "motor": ["motor"]},
            configuration={"mca": {"data": {"energy": axis, "gain": 2, "mode": "fast"},
                                   "timestamps": {"energy": 0.0, "gain": 0.0, "mode": 0.0},
                                   "data_keys": {"energy": energies, "gain": {**number, "units": "dB"},
                                                 "mode": {"source": "SIM", "dtype": "string", "shape": []}}}},
        )  # fmt: skip
        documents.append(("descriptor", bundle.descriptor_doc))
        event = {"uid": f"e{i}", "time": 0.0, "descriptor": bundle.descriptor_doc["uid"], "seq_num": i + 1,
                 "data": {"motor": float(i), "mca": value}, "timestamps": {}, "filled": {}}  # fmt: skip
        documents.append(("event", event))
    return [*documents, ("stop", run.compose_stop())]


def test_each_event_has_the_configuration_of_its_own_descriptor() -> None:
    axes = [[1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5]]
    data = datasets_of(collect(pattern_run(axes)), analysis(x="energy"))
    assert [each.x.tolist() for each in data] == axes
    assert data[0].units == {"x": "keV"}


def test_what_was_known_of_a_run_goes_with_its_data(make_selection: Any) -> None:
    run = collect(pattern_run([[1.0, 2.0, 3.0, 4.0]]))
    (data,) = datasets_of(run, ANALYSIS)
    assert data.origin.metadata == {
        "motor": Reading(0.0), "temperature": Reading(4.0, "K"), "gain": Reading(2.0, "dB")
    }  # fmt: skip
    (asked,) = datasets_of(run, analysis(metadata=["temperature", "sample", "field", "mode", "pressure"]))
    assert asked.origin.metadata == {
        "motor": Reading(0.0), "temperature": Reading(4.0, "K"), "sample": Reading("iron"), "field": Reading(2.0),
        "mode": Reading("fast"),
    }  # fmt: skip
    assert "there is no metadata 'pressure' in the run" in asked.notes
    selection = fakes.made_up(asked)
    (_, start), *_ = selection_documents(selection, run.start, {})
    assert {"name": "temperature", "value": 4.0, "unit": "K"} in start["metadata"]
    schema_validators[next(name for name in schema_validators if name.name == "start")].validate(start)


def test_no_more_than_100_values_go_with_the_data_unasked() -> None:
    documents = pattern_run([[1.0, 2.0, 3.0, 4.0]])
    documents[3][1]["configuration"]["mca"]["data"] |= {f"v{i}": i for i in range(200)}
    (data,) = datasets_of(collect(documents), ANALYSIS)
    assert len(data.origin.metadata) == 100 and {"motor", "temperature"} < set(data.origin.metadata)


def test_metadata_come_back_from_a_saved_answer(tmp_path: Path) -> None:
    (data,) = datasets_of(collect(pattern_run([[1.0, 2.0, 3.0, 4.0]])), analysis(metadata=["temperature", "sample"]))
    pytest.importorskip("h5netcdf")
    fakes.made_up(data).save(tmp_path / "answer.nc")
    assert Selection.load(tmp_path / "answer.nc").data.origin == data.origin


def test_an_image_in_the_events_becomes_a_pattern_as_it_comes() -> None:
    image = np.arange(12).reshape(3, 4)
    asked = analysis(preparation=Preparation(image=Image(rows=(1, 3))))
    for sent in (image, image.tolist(), image[np.newaxis]):
        (data,) = datasets_of(collect(pattern_run([[0.0] * 4], sent), asked), asked)
        assert data.y.tolist() == image[1:3].sum(axis=0).tolist()
    with pytest.raises(NothingToAnalyseError, match=r"shape \(3, 4\), of which a preparation can make a pattern"):
        datasets_of(collect(pattern_run([[0.0] * 4], image)), analysis(y="mca"))
    with pytest.raises(ValueError, match="the image has 3 rows and the region of interest ends at 9"):
        collect(pattern_run([[0.0] * 4], image), analysis(preparation=Preparation(image=Image(rows=(1, 9)))))


def test_documents_may_come_in_bulk_and_through_json() -> None:
    documents = fakes.scan_documents()
    events = [doc for name, doc in documents if name == "event"]
    bulk = [*documents[:2], ("bulk_events", {"primary": events}), documents[-1]]
    expected = datasets_of(collect(documents), ANALYSIS)
    assert datasets_of(collect(bulk), ANALYSIS) == expected
    again = json.loads(json.dumps(documents))
    assert datasets_of(collect([(name, doc) for name, doc in again]), ANALYSIS) == expected


def test_live_an_event_before_its_descriptor_or_after_stop_is_left_out() -> None:
    start, descriptor, first, *others, stop = fakes.scan_documents()
    ended: list[bytes] = []
    desk = Desk(
        begin=lambda start: True,
        heard=lambda uid, name, copy: None,
        ask=lambda uid, collected: None,
        end=lambda uid, start, stop, collected: ended.append(collected),
        give_up=lambda uid, reason: pytest.fail(str(reason)),
    )
    intake = Intake(ANALYSIS, desk)
    for name, doc in [start, first, descriptor, *others, stop, first]:
        intake.hear(name, doc)
    intake.close(60.0)
    (collected,) = ended
    (data,) = datasets_of(pickle.loads(collected).collected(), ANALYSIS)
    assert data.n == 4 and "the run speaks of 5 events in stream 'primary' and 4 are here" in data.notes


def test_arrays_that_nobody_asks_for_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MOST_NUMBERS", 30)
    documents = pattern_run([[0.0] * 4] * 6)
    assert len(datasets_of(collect(documents, analysis(x="motor", y="motor")), analysis(x="motor", y="motor"))) == 1
    with pytest.raises(NothingToAnalyseError, match="more than 30 numbers"):
        collect(documents)


def test_a_document_that_another_changes_later_is_kept_as_it_was() -> None:
    documents = fakes.scan_documents()
    run = RunCollector()
    for name, doc in documents:
        run(name, doc)
    expected = datasets_of(run.collected(), ANALYSIS)
    documents[0][1]["hints"]["dimensions"].clear()
    documents[1][1]["data_keys"].clear()
    documents[1][1]["hints"].clear()
    assert datasets_of(run.collected(), ANALYSIS) == expected


@pytest.mark.parametrize(
    ("name", "doc"),
    [
        ("descriptor", {"uid": "d", "run_start": "r"}),
        ("event", {"descriptor": "d"}),
        ("event_page", {"descriptor": "unknown", "seq_num": [1]}),
        ("stream_datum", {"descriptor": "unknown"}),
        ("datum", {"datum_id": "a"}),
        ("start", {"deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}),
        ("start", {"many": [0] * 200_000}),
        ("stop", 3),
    ],
)
def test_a_document_that_is_not_made_as_the_model_says_is_a_sentence(name: str, doc: Any) -> None:
    with pytest.raises(ValueError, match=r"is not made as the event model says|nested deeper than 30"):
        RunCollector()(name, doc)


@pytest.fixture
def worker_unprepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)


def test_what_cannot_be_sent_to_another_process_in_a_start_document_is_left_behind(worker_unprepared: None) -> None:
    documents = fakes.scan_documents()
    documents[0][1]["device"] = lambda: None
    documents[1][1]["device"] = object()
    with BayesCallback(fakes.Quick()) as callback:
        for name, doc in documents:
            callback(name, doc)
        found = callback.result(documents[0][1]["uid"], 60.0)
    assert isinstance(found.data, Dataset) and found.data.n == 5


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


PLAIN = json.dumps(fakes.scan_documents())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_entry_of_any_document_may_be_anything(data: st.DataObject) -> None:
    documents = json.loads(PLAIN)
    _, doc = documents[data.draw(st.integers(0, len(documents) - 1))]
    for _ in range(data.draw(st.integers(1, 3))):
        where = doc
        while isinstance(where, dict) and where:
            key = data.draw(st.sampled_from(sorted(where)))
            if isinstance(where[key], dict) and data.draw(st.booleans()):
                where = where[key]
                continue
            where[key] = data.draw(ODD)
            break
    try:
        found = datasets_of(collect([(name, doc) for name, doc in documents]), ANALYSIS)
    except ValueError as error:
        assert 10 < len(str(error)) < 5000
    else:
        assert all(np.all(np.isfinite(each.y)) for each in found)


@pytest.fixture
def fuzz(repository: Path) -> Iterator[Any]:
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        yield import_module("fuzz")
    finally:
        sys.path.remove(str(repository / "benchmarks"))


def test_hostile_streams_never_reach_the_run_engine_and_end_in_sentences(fuzz: Any, repository: Path) -> None:
    folder = repository.parent / "shared" / "data" / "recorded_documents"
    judge = fuzz.judged(1500, 0, fuzz.recorded(folder))
    assert not judge.failures
    assert judge.outcomes["streams"] == 1500 and judge.outcomes["data sets"] > 100
