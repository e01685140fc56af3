"""Data in files outside the documents: read where the analysis runs, or a sentence says why not."""

import fcntl
import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import h5py
import numpy as np
import pytest
import tifffile
from event_model import compose_run

from bluesky_bayes import Analysis, Poisson
from bluesky_bayes.analysis import Files
from bluesky_bayes.callbacks import BayesCallback, files
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.runs import NothingToAnalyseError, collect, dataset_of, datasets_of
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.preparation import Image, Preparation

Documents = list[tuple[str, Any]]
SIZE = (6, 8)
IMAGE = Preparation(image=Image(rows=(1, 4), columns=(2, 7)))
FRAMES = np.random.default_rng(0).integers(0, 200, (4, *SIZE)).astype(np.uint8)
PATTERNS = FRAMES[:, 1:4, 2:7].sum(axis=1, dtype=np.float64)
TIFF, JPEG, NPY = (f"multipart/related;type={kind}" for kind in ("image/tiff", "image/jpeg", "application/x-npy"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SECONDS_TO_APPEAR", 0.0)


def analysis(preparation: Preparation = IMAGE, **options: Any) -> Analysis:
    return Analysis(fakes.CANDIDATES, preparation=preparation, **{"y": "cam", **options})


def documents_of(
    resources: list[dict[str, Any]],
    spans: list[tuple[int, tuple[int, int], tuple[int, int]]],
    keys: dict[str, dict[str, Any]],
    positions: list[float] | None = None,
) -> Documents:
    """A run whose fields `keys` lie in files; spans are (resource, seq_nums, indices)."""
    run = compose_run(metadata={"hints": {"dimensions": [[["motor"], "primary"]]}})
    external = {name: {"source": "SIM", "external": "STREAM:", **key} for name, key in keys.items()}
    motor = {"motor": {"source": "SIM", "dtype": "number", "shape": [], "units": "mm"}} if positions else {}
    bundle = run.compose_descriptor(
        name="primary", data_keys={**external, **motor}, hints={"cam": {"fields": list(keys)}}, validate=False
    )
    documents: Documents = [("start", run.start_doc), ("descriptor", bundle.descriptor_doc)]
    for i, resource in enumerate(resources):
        full = {"uid": f"r{i}", "run_start": run.start_doc["uid"], "mimetype": files.HDF5, **resource}
        documents.append(("stream_resource", full))
    for i, (which, seq_nums, indices) in enumerate(spans):
        ends = ({"start": a, "stop": b} for a, b in (seq_nums, indices))
        datum = dict(zip(("seq_nums", "indices"), ends, strict=True))
        parents = {"stream_resource": f"r{which}", "descriptor": bundle.descriptor_doc["uid"]}
        documents.append(("stream_datum", {"uid": f"r{which}/{i}", **parents, **datum}))
    for i, position in enumerate(positions or ()):
        event = {"uid": f"e{i}", "time": 0.0, "descriptor": bundle.descriptor_doc["uid"], "seq_num": i + 1,
                 "data": {"motor": position}, "timestamps": {"motor": 0.0}, "filled": {}}  # fmt: skip
        documents.append(("event", event))
    return [*documents, ("stop", run.compose_stop())]


def resource(path: Path, data_key: str = "cam", dataset: str = "/entry/data", **more: Any) -> dict[str, Any]:
    return {"data_key": data_key, "uri": f"file://localhost{path}", "parameters": {"dataset": dataset}, **more}


CAM = {"cam": {"dtype": "array", "shape": [1, *SIZE]}}


def step_scan(path: Path, n: int = 4) -> Documents:
    spans = [(0, (i + 1, i + 2), (i, i + 1)) for i in range(n)]
    return documents_of([resource(path)], spans, CAM, list(np.arange(float(n))))


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    path = tmp_path / "frames of today.h5"
    with h5py.File(path, "w") as file:
        file["/entry/data"] = FRAMES
        file["/entry/words"] = np.array([b"a", b"b", b"c", b"d"])
    return path


def taken(documents: Documents, asked: Analysis | None = None) -> list[Dataset]:
    asked = asked or analysis()
    return datasets_of(collect(documents, asked), asked)


def refused(documents: Documents, asked: Analysis | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        taken(documents, asked)
    return str(caught.value)


def test_each_frame_of_a_scan_is_a_pattern_of_its_region_of_interest(camera: Path) -> None:
    documents = [(name, doc) for name, doc in step_scan(camera)]
    documents[2][1]["uri"] = documents[2][1]["uri"].replace(" ", "%20")
    data = taken(documents)
    assert [each.y.tolist() for each in data] == PATTERNS.tolist()
    assert data[2].origin.metadata["motor"] == (2.0, "mm") and data[2].origin.events == (3,)
    (added,) = taken(documents, analysis(patterns="sum", noise=Poisson()))
    assert added.counts and added.y.tolist() == PATTERNS.sum(axis=0).tolist()


def test_a_fly_scan_that_lies_in_files_altogether_is_a_curve(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "panda.h5", "w") as file:
        file["x"], file["sum"] = np.linspace(0.0, 1.0, 10), np.arange(10)[:, np.newaxis]
    number: dict[str, Any] = {"dtype": "number", "shape": [1]}
    keys: dict[str, dict[str, Any]] = {"motor": {"dtype": "number", "shape": []}, "total": number}
    resources = [resource(tmp_path / "panda.h5", "motor", "x"), resource(tmp_path / "panda.h5", "total", "sum")]
    documents = documents_of(resources, [(0, (1, 11), (0, 10)), (1, (1, 4), (0, 3)), (1, (4, 9), (3, 8))], keys)
    (data,) = taken(documents, Analysis(fakes.CANDIDATES))
    assert (data.origin.x, data.origin.y) == ("motor", "total")
    assert data.y.tolist() == list(range(8)) and data.x[-1] == pytest.approx(7 / 9)


def test_events_without_a_frame_and_frames_without_an_event_are_left_out(camera: Path) -> None:
    documents = documents_of([resource(camera)], [(0, (2, 5), (0, 3))], CAM, [0.0, 1.0, 2.0])
    data = taken(documents)
    assert [each.y.tolist() for each in data] == PATTERNS[:2].tolist()
    assert [each.origin.metadata["motor"].value for each in data] == [1.0, 2.0]


@pytest.mark.parametrize("counts_on", [False, True])
def test_a_second_file_may_count_on_or_begin_anew(tmp_path: Path, counts_on: bool) -> None:
    for i in range(2):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["/entry/data"] = FRAMES[2 * i : 2 * i + 2]
    second = (2, 4) if counts_on else (0, 2)
    resources = [resource(tmp_path / "0.h5"), resource(tmp_path / "1.h5")]
    data = taken(documents_of(resources, [(0, (1, 3), (0, 2)), (1, (3, 5), second)], CAM, [0.0, 1.0, 2.0, 3.0]))
    assert [each.y.tolist() for each in data] == PATTERNS.tolist()


def test_documents_that_come_twice_and_out_of_order_are_read_once(camera: Path) -> None:
    start, descriptor, *rest, stop = step_scan(camera)
    shuffled = [start, descriptor, *rest[::-1], *rest, stop]
    assert [each.y.tolist() for each in taken(shuffled)] == PATTERNS.tolist()


def test_frames_of_one_event_are_added(tmp_path: Path) -> None:
    for name, frames in (("flat", FRAMES), ("stacked", FRAMES.reshape(2, 2, *SIZE))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["/entry/data"] = frames
        spans = [(0, (1, 3), (0, 2))]
        documents = documents_of([resource(tmp_path / f"{name}.h5")], spans,
                                 {"cam": {"dtype": "array", "shape": [2, *SIZE]}}, [0.0, 1.0])  # fmt: skip
        expected = PATTERNS.reshape(2, 2, -1).sum(axis=1)
        assert [each.y.tolist() for each in taken(documents)] == expected.tolist()


@pytest.mark.parametrize("name", ["stream_resource_step", "stream_datum_fly"])
def test_recorded_runs_are_read_where_their_folder_is_mounted(data_folder: Path, tmp_path: Path, name: str) -> None:
    documents = fakes.recorded(data_folder, name)
    n = 0
    for kind, doc in documents:
        if kind == "stream_datum":
            n = max(n, doc["indices"]["stop"])
    (uri,) = {doc["uri"] for kind, doc in documents if kind == "stream_resource"}
    frames = np.random.default_rng(0).integers(0, 255, (n, 240, 320)).astype(np.uint8)
    with h5py.File(tmp_path / Path(uri).name, "w") as file:
        file["/entry/data/data"], file["/entry/sum"] = frames, frames.sum(axis=(1, 2), dtype=np.int64)
    there = Files(root_map={str(Path(uri.removeprefix("file://localhost")).parent): str(tmp_path)})
    asked = Preparation(image=Image(rows=(100, 140)))
    (data,) = taken(documents, Analysis(fakes.CANDIDATES, preparation=asked, files=there, patterns="sum"))
    assert data.y.tolist() == frames[:, 100:140].sum(axis=(0, 1), dtype=int).tolist()
    if name == "stream_resource_step":
        (curve,) = taken(documents, analysis(Preparation(), y="bdet-sum", files=there))
        assert curve.y.tolist() == frames.sum(axis=(1, 2), dtype=int).tolist() and curve.origin.x == "stage-x"


def test_a_file_that_comes_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SECONDS_TO_APPEAR", 30.0)
    monkeypatch.setattr(files, "SECONDS_BETWEEN", 0.05)

    def write() -> None:
        time.sleep(0.2)
        with h5py.File(tmp_path / "part.h5", "w") as file:
            file["/entry/data"] = FRAMES[:2]
        time.sleep(0.2)
        with h5py.File(tmp_path / "whole.h5", "w") as file:
            file["/entry/data"] = FRAMES
        (tmp_path / "whole.h5").rename(tmp_path / "part.h5")

    writer = threading.Thread(target=write)
    writer.start()
    data = taken(step_scan(tmp_path / "part.h5"))
    writer.join()
    assert [each.y.tolist() for each in data] == PATTERNS.tolist()


def test_what_is_wrong_with_a_file_is_said(camera: Path, tmp_path: Path) -> None:
    assert "which is not there (or not for this computer)" in refused(step_scan(tmp_path / "none.h5"))
    (tmp_path / "cut.h5").write_bytes(camera.read_bytes()[:300])
    assert "cut.h5 with 'cam' of run" in (sentence := refused(step_scan(tmp_path / "cut.h5")))
    assert "it is damaged, cut short, or not written to its end" in sentence
    assert "has 4 rows and 'cam' of run" in (sentence := refused(step_scan(camera, 5)))
    assert "needs row 5: the file is not written to its end, or was cut short" in sentence
    wrong = documents_of([resource(camera, dataset="/entry/dta")], [(0, (1, 5), (0, 4))], CAM, [0.0] * 4)
    assert "has no dataset '/entry/dta' for 'cam'" in (sentence := refused(wrong))
    assert "it has '/entry/data', '/entry/words'" in sentence
    words = documents_of([resource(camera, dataset="/entry/words")], [(0, (1, 5), (0, 4))], CAM, [0.0] * 4)
    assert "holds no numbers but |S1" in refused(words)
    shaped = documents_of([resource(camera)], [(0, (1, 5), (0, 4))], {"cam": {"dtype": "array", "shape": [1, 8, 6]}})
    assert "has rows of shape (6, 8) for 'cam'" in refused(shaped)
    beyond = analysis(Preparation(image=Image(columns=(0, 9))))
    assert "the image has 8 columns and the region of interest ends at 9" in refused(step_scan(camera), beyond)


def test_a_file_that_is_locked_is_said_to_be(camera: Path) -> None:
    with open(camera, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert "is locked by who writes it" in refused(step_scan(camera))
    assert taken(step_scan(camera))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"uri": "file://ioc7/data/a.h5"}, "lies on another computer, 'ioc7': say where '/data/a.h5' is mounted here"),
        ({"uri": "s3://bucket/a.h5"}, "only addresses that begin with file:// are read here"),
        ({"uri": "http://[a/b"}, "only addresses|no address of a file"),
        ({"parameters": {"template": "{:d}.h5"}}, "lies in a series of HDF5 files, and what is read here is one"),
        (
            {"mimetype": "text/csv"},
            "lies in files of type 'text/csv', and what is read here is one HDF5 file",
        ),
        ({"parameters": None}, "has no dataset ''"),
    ],
)
def test_what_cannot_be_reached_says_what_to_do(camera: Path, change: dict[str, Any], sentence: str) -> None:
    documents = documents_of([{**resource(camera), **change}], [(0, (1, 5), (0, 4))], CAM, [0.0, 1, 2, 3])
    with pytest.raises(NothingToAnalyseError, match=sentence):
        taken(documents)


def test_a_folder_of_another_computer_is_mapped_by_its_longest_name(camera: Path) -> None:
    documents = step_scan(camera)
    documents[2][1]["uri"] = f"file://ioc7/data/today/{camera.name}"
    there = Files(root_map={"/data": "/nowhere", "file://ioc7/data/today": str(camera.parent)})
    assert taken(documents, analysis(files=there))[0].y.tolist() == PATTERNS[0].tolist()


def test_a_stream_datum_that_makes_no_sense_is_said(camera: Path) -> None:
    documents = documents_of([resource(camera)], [(0, (1, 5), (0, 3))], CAM, [0.0, 1, 2, 3])
    assert "gives rows 0 to 3 to events 1 to 5, which is no row for each event" in refused(documents)
    huge = documents_of([resource(camera)], [(0, (1, 10**15), (0, 10**15 - 1))], CAM, [0.0])
    assert "more than 2000000 rows in files" in refused(huge)
    assert "no stream_datum of it came" in refused(documents_of([resource(camera)], [], CAM, [0.0, 1.0]))


def test_more_numbers_in_files_than_can_be_kept_are_refused(camera: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_NUMBERS", 12)
    assert "more than 12 numbers in files" in refused(step_scan(camera))
    monkeypatch.setattr(files, "MOST_IN_FRAME", 10)
    assert (
        "with 'cam' of run" in (sentence := refused(step_scan(camera))) and "has 15 numbers for one event" in sentence
    )
    own = analysis(Preparation(), y="mca", files=OWN)
    monkeypatch.setattr(files, "MOST_IN_FRAME", 4)
    assert "has 5 numbers for one event, more than 4" in refused(legacy(), own)


@pytest.mark.parametrize(
    ("template", "filename", "name"),
    [("{:05d}.tif", "", "00000.tif"), ("/im_{:d}.tiff", "", "im_0.tiff"), ("%s%s_%6.6d.tiff", "cu", "cu_000000.tiff")],
)
def test_series_of_tiff_files_are_patterns(tmp_path: Path, template: str, filename: str, name: str) -> None:
    for i, frame in enumerate(FRAMES):
        tifffile.imwrite(tmp_path / name.replace("0.", f"{i}."), frame)
    parameters = {"template": template, "filename": filename, "chunk_shape": [1, *SIZE]}
    tiffs = {**resource(tmp_path), "mimetype": TIFF, "parameters": parameters}
    documents = documents_of([tiffs], [(0, (1, 5), (0, 4))], CAM, [0.0, 1, 2, 3])
    assert [each.y.tolist() for each in taken(documents)] == PATTERNS.tolist()
    broken = tmp_path / name.replace("0.", "2.")
    broken.write_bytes(broken.read_bytes()[:60])
    assert "is damaged, cut short, or not written to its end" in refused(documents)
    broken.unlink()
    assert "which is not there" in refused(documents)


def test_series_of_numpy_files_are_patterns_and_bring_no_objects(tmp_path: Path) -> None:
    for i, frame in enumerate(FRAMES):
        np.save(tmp_path / f"{i}.npy", frame)
    series = {**resource(tmp_path), "mimetype": NPY, "parameters": {"template": "{:d}.npy"}}
    documents = documents_of([series], [(0, (1, 5), (0, 4))], CAM, [0.0, 1, 2, 3])
    assert [each.y.tolist() for each in taken(documents)] == PATTERNS.tolist()
    np.save(tmp_path / "1.npy", np.array([{}]), allow_pickle=True)
    assert "1.npy with 'cam'" in (sentence := refused(documents)) and "cannot be read" in sentence


def test_series_of_jpeg_files_are_patterns_of_their_brightness(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    flat = [np.full(SIZE, level, dtype=np.uint8) for level in (10, 200)]
    for i, frame in enumerate(flat):
        image.fromarray(np.stack([frame] * 3, axis=-1) if i else frame).save(tmp_path / f"{i}.jpg", quality=95)
    series = {**resource(tmp_path), "mimetype": JPEG, "parameters": {"template": "{:d}.jpg"}}
    documents = documents_of([series], [(0, (1, 3), (0, 2))], CAM, [0.0, 1])
    found = [each.y for each in taken(documents)]
    np.testing.assert_allclose(found, [np.full(5, 30.0), np.full(5, 600.0)], atol=6.0)
    (tmp_path / "0.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:40])
    assert "is damaged, cut short, or not written to its end" in refused(documents)


def test_an_hdf5_file_whose_list_of_datasets_is_damaged_is_said_to_be(camera: Path) -> None:
    content = camera.read_bytes()
    assert content.count(b"SNOD") > 1
    camera.write_bytes(content.replace(b"SNOD", b"XXXX"))
    assert "is damaged, cut short, or not written to its end" in refused(step_scan(camera))


@pytest.mark.parametrize("template", ["frame.tif", "{:99999999d}.tif", "{0.__class__}", "../{:d}.tif", "%d%d.tif"])
def test_templates_that_name_no_series_are_refused(tmp_path: Path, template: str) -> None:
    tiffs = {**resource(tmp_path), "mimetype": TIFF, "parameters": {"template": template}}
    assert "which is no series of names" in refused(documents_of([tiffs], [(0, (1, 2), (0, 1))], CAM, [0.0]))


class Ones:
    """A handler for a spec of our own."""

    def __init__(self, path: str, value: int) -> None:
        self.path, self.value = path, value

    def __call__(self, point: int) -> Any:
        if point == 3:
            raise OSError("the disk is away")
        return np.full(5, self.value * point)


def legacy(spec: str = "OWN", points: tuple[int, ...] = (1, 2), form: str = "datum") -> Documents:
    run = compose_run(metadata={"hints": {"dimensions": [[["motor"], "primary"]]}})
    key = {"source": "SIM", "dtype": "array", "shape": [5], "external": "FILESTORE:"}
    bundle = run.compose_descriptor(
        name="primary",
        data_keys={"mca": key, "motor": {"source": "SIM", "dtype": "number", "shape": []}},
        object_keys={"mca": ["mca"], "motor": ["motor"]},
    )
    made = run.compose_resource(spec=spec, root="/raw", resource_path="a", resource_kwargs={"value": 7})
    datums = [made.compose_datum(datum_kwargs={"point": point}) for point in points]
    kept: Documents = [("datum", datum) for datum in datums]
    uid, ids = made.resource_doc["uid"], [datum["datum_id"] for datum in datums]
    if form == "datum_page":
        kept = [(form, {"resource": uid, "datum_id": ids, "datum_kwargs": {"point": list(points)}})]
    if form == "bulk_datum":
        kept = [(form, {"resource": uid, "datum_ids": ids, "datum_kwarg_list": [{"point": point} for point in points]})]
    events: Documents = [
        ("event", bundle.compose_event(data={"mca": d["datum_id"], "motor": float(i)},
                                       timestamps={"mca": 0.0, "motor": 0.0}, filled={"mca": False}))
        for i, d in enumerate(datums)
    ]  # fmt: skip
    start: Documents = [("start", run.start_doc), ("descriptor", bundle.descriptor_doc)]
    return [*start, ("resource", made.resource_doc), *events, *kept, ("stop", run.compose_stop())]


OWN = Files(handlers={"OWN": "test_files:Ones"}, root_map={"/raw": "/nowhere"})


@pytest.mark.parametrize("form", ["datum", "datum_page", "bulk_datum"])
def test_a_legacy_datum_is_read_by_the_handler_that_is_named(form: str) -> None:
    data = taken(legacy(form=form), analysis(Preparation(), y="mca", files=OWN))
    assert [each.y.tolist() for each in data] == [[7.0] * 5, [14.0] * 5]


def test_a_legacy_array_that_was_filled_in_needs_no_file() -> None:
    documents = legacy()
    for name, doc in documents:
        if name == "event" and doc["seq_num"] == 1:
            doc["data"]["mca"], doc["filled"] = np.arange(5.0), {"mca": True}
    data = taken(documents, analysis(Preparation(), y="mca", files=OWN))
    assert [each.y.tolist() for each in data] == [[0.0, 1.0, 2.0, 3.0, 4.0], [14.0] * 5]


def test_a_pipe_is_no_file_and_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    assert "which is not there" in refused(step_scan(tmp_path / "pipe.h5"))


def test_what_keeps_a_legacy_datum_from_being_read_is_said() -> None:
    asked = analysis(Preparation(), y="mca")
    assert "files of kind 'OWN', and nothing here reads these: install the package" in refused(legacy(), asked)
    own = analysis(Preparation(), y="mca", files=OWN)
    assert "could not be read (OSError: the disk is away)" in refused(legacy(points=(1, 3)), own)
    without = [(name, doc) for name, doc in legacy() if name != "datum"]
    assert "no datum document says where it is" in refused(without, own)
    without = [(name, doc) for name, doc in legacy() if name != "resource"]
    assert "no resource document says where it is" in refused(without, own)
    gone = analysis(Preparation(), y="mca", files=Files(handlers={"OWN": "test_files:Nothing"}))
    assert "the handler 'test_files:Nothing' for 'mca' of run" in refused(legacy(), gone)


def test_area_detector_files_are_read_by_the_handlers_of_their_package(tmp_path: Path) -> None:
    pytest.importorskip("area_detector_handlers")
    with h5py.File(tmp_path / "a", "w") as file:
        file["/entry/data/data"] = FRAMES
    documents = legacy("AD_HDF5", (0, 1, 2))
    for name, doc in documents:
        if name == "descriptor":
            doc["data_keys"]["mca"]["shape"] = list(SIZE)
        if name == "resource":
            doc["resource_kwargs"] = {"frame_per_point": 1}
        if name == "datum":
            doc["datum_kwargs"] = {"point_number": doc["datum_kwargs"]["point"]}
    data = taken(documents, analysis(y="mca", files=Files(root_map={"/raw": str(tmp_path)})))
    assert [each.y.tolist() for each in data] == PATTERNS[:3].tolist()


def test_a_recorded_legacy_image_is_read_where_its_folder_is_mounted(data_folder: Path, tmp_path: Path) -> None:
    documents = fakes.recorded(data_folder, "image_external_datum")
    (made,) = [doc for name, doc in documents if name == "resource"]
    images = np.random.default_rng(0).uniform(size=(10, 10, 10))
    for i, image in enumerate(images):
        np.save(tmp_path / f"{made['resource_path']}_{i}.npy", image)
    there = Files(root_map={made["root"]: str(tmp_path)}, handlers={"NPY_SEQ": "ophyd.sim:NumpySeqHandler"})
    asked = analysis(Preparation(image=Image(sum="columns")), y="img", files=there, patterns="each")
    data = taken(documents, asked)
    assert len(data) == sum(name == "event" for name, _ in documents)
    assert np.allclose(data[1].y, images[1].sum(axis=1))


@pytest.fixture(scope="module")
def unprepared() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prepare", fakes.unprepared)
        yield


def test_files_are_read_in_the_worker_and_not_where_the_documents_are_heard(
    camera: Path, unprepared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a file was opened where documents are heard")

    monkeypatch.setattr(h5py, "File", never)
    documents = step_scan(camera)
    with BayesCallback(fakes.Quick(y="cam", preparation=IMAGE)) as callback:
        for name, doc in documents:
            callback(name, doc)
        found = callback.results(documents[0][1]["uid"], 60.0)
        old = legacy()
        del old[2][1]["run_start"]  # as older devices wrote it
        for name, doc in old[:-1]:
            callback(name, doc)
        collected: list[bytes] = []
        callback._intake.ask(old[0][1]["uid"], collected.append)
        assert callback._intake._lane.drained(60.0)
    outside = pickle.loads(collected[0]).collected().outside
    assert len(outside.resources) == 1 and len(outside.datums) == 2
    assert [answer.data.y.tolist() for answer in found] == PATTERNS.tolist()


@pytest.mark.tiled
def test_what_no_file_gives_is_read_back_from_tiled(tiled_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bluesky_tiled_plugins import TiledWriter

    documents = step_scan(Path("/nowhere/a.h5"))
    run = compose_run(uid=documents[0][1]["uid"])
    writer = TiledWriter(tiled_client["raw"], max_array_size=0)
    bundle = run.compose_descriptor(
        name="primary", data_keys={"cam": {"source": "SIM", "dtype": "array", "shape": list(SIZE),
                                           "dtype_numpy": "|u1"}}
    )  # fmt: skip
    writer("start", run.start_doc)
    writer("descriptor", bundle.descriptor_doc)
    for frame in FRAMES:
        writer("event", bundle.compose_event(data={"cam": frame}, timestamps={"cam": 0.0}, validate=False))
    writer("stop", run.compose_stop())
    monkeypatch.setenv("TILED_API_KEY", tiled_client.context.api_key)
    address = tiled_client["raw"].uri
    data = taken(documents, analysis(files=Files(tiled=address)))
    assert [each.y.tolist() for each in data] == PATTERNS.tolist()
    other = step_scan(Path("/nowhere/a.h5"))
    sentence = refused(other, analysis(files=Files(tiled=address)))
    assert "which is not there" in sentence and "the Tiled server (http://" in sentence
    assert tiled_client.context.api_key not in sentence


def test_a_profile_or_an_address_of_tiled_is_named_and_not_both() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        Files(tiled="http://localhost:8000", profile="mine")
    assert Files(profile="mine").to_table() == {"profile": "mine"}


def test_the_digest_does_not_know_where_files_are() -> None:
    assert analysis(files=OWN).digest == analysis().digest
    assert Analysis.from_table(analysis(files=OWN).to_table()).files == OWN


def test_an_answer_is_that_of_the_last_piece(camera: Path) -> None:
    asked = analysis()
    assert dataset_of(collect(step_scan(camera), asked), asked).y.tolist() == PATTERNS[-1].tolist()
