"""Answers become runs that catalogues can search and read back."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fakes
import numpy as np
import pytest
from event_model import DocumentNames, RunRouter, schema_validators

from bluesky_bayes import Dataset, Selection
from bluesky_bayes.callbacks import BayesCallback, publish, targets
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.answers import Lines
from bluesky_bayes.callbacks.backlog import NotDoneError
from bluesky_bayes.callbacks.publish import Parcel, Publisher
from bluesky_bayes.callbacks.targets import RefusedError, writer
from bluesky_bayes.documents import failure_documents, selection_documents
from bluesky_bayes.families import peaks

SECONDS = 60.0
RAW = {
    "uid": "0123abcd",
    "scan_id": 7,
    "sample": {"name": "MnF2"},
    "data_session": "pass-1",
    "tiled_access_tags": ["team"],
    "operator": "not copied",
}
ANALYSIS = {"digest": "d" * 64, "recipe": ""}

MakeSelection = Callable[..., Selection]
Documents = list[tuple[str, dict[str, Any]]]


def valid(documents: Documents) -> Documents:
    """Check documents after the event model's schemas."""
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    return documents


def published(selection: Selection, raw: dict[str, Any] | None = None) -> Documents:
    return valid(list(selection_documents(selection, RAW if raw is None else raw, ANALYSIS)))


def test_the_start_document_says_what_was_found_and_whose_run_it_was(make_selection: MakeSelection) -> None:
    selection = make_selection()
    _, start = published(selection)[0]
    copied = {key: start[key] for key in ("scan_id", "sample", "data_session", "tiled_access_tags")}
    assert copied == {key: RAW[key] for key in copied}
    assert "operator" not in start
    assert start["original_run_uid"] == "0123abcd"
    assert start["plan_name"] == "bayes_model_selection"
    assert start["tiled_specs"] == [{"name": "BayesModelSelection", "version": "1.0"}]
    assert start["analysis"]["digest"] == ANALYSIS["digest"]
    assert start["analysis"]["data_sha256"] == selection.data.digest
    assert (start["analysis"]["x"], start["analysis"]["y"]) == ("motor", "det")
    assert start["result"]["best_model"] == selection.best.model.name
    assert start["result"]["probability"] == pytest.approx(selection.probabilities.max())
    assert start["result"]["decisive"] is selection.decisive()
    assert start["result"]["in_question"] == list(selection.in_question)


def arrays(documents: Documents) -> tuple[dict[str, Any], dict[str, Any]]:
    """Curves and draws by name."""
    tables = documents[0][1]["tables"]
    (event,) = fakes.rows(documents, "primary")
    curves = dict(zip(tables["curves"]["curve"], event["curves"], strict=True))
    names = tables.get("parameters", {}).get("parameter", [])
    return curves, dict(zip(names, event.get("draws", []), strict=True))


def test_models_and_parameters_are_tables_and_curves_and_draws_have_a_row_for_each_name(
    make_selection: MakeSelection,
) -> None:
    selection = make_selection()
    documents = published(selection)
    tables = documents[0][1]["tables"]
    assert tables["models"]["model"] == list(selection.names)
    assert tables["models"]["log_evidence"] == selection.log_evidence.tolist()
    at = tables["parameters"]["parameter"].index("peak1.center")
    assert tables["parameters"]["unit"][at] == "mm"
    assert tables["parameters"]["mean"][at] == selection.best.parameters["peak1.center"].mean
    assert set(documents[0][1]["result"]["parameters"]) < set(tables["parameters"]["parameter"])
    curves, draws = arrays(documents)
    assert draws["peak1.center"] == selection.best.draws["peak1.center"].ravel().tolist()
    assert draws["peak1.area"] == selection.best.derived["peak1.area"].ravel().tolist()
    assert curves["x"] == selection.data.x.tolist()
    assert curves["fit_mean"] == selection.best.fit.mean.tolist()
    assert dict(zip(curves, tables["curves"]["unit"], strict=True)) == {
        "x": "mm", "y": "V", "fit_mean": "V", "fit_low": "V", "fit_high": "V", "residual": "",
    }  # fmt: skip


def test_a_result_of_many_points_has_as_few_documents_as_any() -> None:
    x = np.linspace(0.0, 1.0, 20_000)
    documents = published(fakes.made_up(Dataset(x, np.sin(x))))
    assert [name for name, _ in documents] == ["start", "descriptor", "event", "stop"]
    assert arrays(documents)[0]["x"] == x.tolist()


def test_a_number_that_json_cannot_hold_is_the_largest_or_null(make_selection: MakeSelection) -> None:
    selection = make_selection(log_evidence=(-np.inf, -10.0, -30.0))
    _, start = published(selection)[0]
    assert start["tables"]["models"]["log_evidence"] == [-np.finfo(np.float64).max, -10.0, -30.0]
    json.dumps(start, allow_nan=False)


def test_an_only_candidate_has_a_finite_bayes_factor(make_selection: MakeSelection) -> None:
    _, start = published(make_selection(log_evidence=(-40.0,)))[0]
    assert np.isfinite(start["result"]["log_bayes_factor"])


def test_data_that_came_from_no_run_give_a_run_without_origin(make_selection: MakeSelection) -> None:
    _, start = published(make_selection(), raw={})[0]
    assert "original_run_uid" not in start


def test_a_model_without_parameters_has_no_rows_for_them() -> None:
    bare = peaks(counts=[0, 1], background=None)
    data = Dataset(np.arange(5.0), np.array([0.0, 0.1, 0.0, 0.0, 0.1]))
    documents = published(fakes.made_up(data, bare))
    assert documents[0][1]["result"]["best_model"] == "no peak"
    assert "parameters" not in documents[0][1]["tables"]
    curves, draws = arrays(documents)
    assert curves["x"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert not draws


def test_a_failure_is_a_run_that_says_why() -> None:
    (_, start), (_, stop) = valid(list(failure_documents(RAW, ANALYSIS, "the slits were closed")))
    assert start["original_run_uid"] == "0123abcd"
    assert start["result"] == {"status": "failed", "reason": "the slits were closed"}
    assert (stop["exit_status"], stop["reason"]) == ("fail", "the slits were closed")


class Broker:
    """Stands in for databroker's."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def insert(self, name: str, doc: dict[str, Any]) -> None:
        self.names.append(name)


class Catalogue:
    """Stands in for databroker's version 2."""

    def __init__(self) -> None:
        self.v1 = Broker()


@pytest.mark.parametrize("kind", ["callable", "broker", "catalogue"])
def test_answers_go_to_whatever_takes_documents(make_selection: MakeSelection, kind: str) -> None:
    broker, catalogue = Broker(), Catalogue()
    target: Any = {"callable": broker.insert, "broker": broker, "catalogue": catalogue}[kind]
    publisher = Publisher(target)
    documents = list(selection_documents(make_selection(), RAW, ANALYSIS))
    lines = Lines.of(documents)
    assert publisher.submit(Parcel(lines.uid, lines)).result(SECONDS) == documents[0][1]["uid"]
    publisher.close(SECONDS)
    assert (broker.names or catalogue.v1.names) == [name for name, _ in documents]


def test_what_cannot_be_published_to_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"must be the address of a Tiled container .* got int"):
        BayesCallback(fakes.Quick(), publish=8000)
    with pytest.raises(ValueError, match="must name a container in a Tiled server"):
        BayesCallback(fakes.Quick(), publish="http://localhost:8000")
    with pytest.raises(ValueError, match="do not write a key into the address"):
        BayesCallback(fakes.Quick(), publish="http://localhost:8000/processed?api_key=secret")


@pytest.fixture
def no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)


def test_an_answer_that_is_refused_is_still_there_and_may_be_tried_again(
    no_compiling: None, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str, doc: dict[str, Any]) -> None:
        raise PermissionDeniedError("this key may not write")

    documents = fakes.scan_documents()
    uid = documents[0][1]["uid"]
    with BayesCallback(fakes.Quick(), publish=refuse) as bayes:
        for name, doc in documents:
            bayes(name, doc)
        assert bayes.result(uid, SECONDS)
        with pytest.raises(PermissionDeniedError, match="this key may not write"):
            bayes.published(uid, SECONDS)
        assert "could not be written: PermissionDeniedError: this key may not write" in bayes.status()
        for name, doc in documents:
            bayes(name, doc)
        with pytest.raises(PermissionDeniedError):
            bayes.published(uid, SECONDS)
    assert caplog.text.count("it is not tried again by itself") == 1


class PermissionDeniedError(Exception):
    """What a server of another kind says to a stranger."""


def test_a_server_that_is_down_for_a_while_gets_each_answer_once(
    no_compiling: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(publish, "LONGEST_DELAY", 0.05)
    written, n_failures = list[str](), 6

    def unsteady(name: str, doc: dict[str, Any]) -> None:
        nonlocal n_failures
        if name == "start" and n_failures:
            n_failures -= 1
            raise ConnectionError("the server is down")
        if name == "start":
            written.append(doc["original_run_uid"])

    played = [fakes.scan_documents() for _ in range(3)]
    uids = [documents[0][1]["uid"] for documents in played]
    with caplog.at_level("INFO", logger="bluesky_bayes"), BayesCallback(fakes.Quick(), publish=unsteady) as bayes:
        for name, doc in (document for documents in played for document in documents):
            bayes(name, doc)
        assert all(bayes.published(uid, SECONDS) for uid in uids)
    assert sorted(written) == sorted(uids)
    assert caplog.text.count("ConnectionError: the server is down") == 1
    assert "results are written again" in caplog.text


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.filterwarnings("ignore:The callback .* raised:UserWarning")  # the router's own
def test_a_callable_that_fails_half_way_is_not_sent_the_start_again_and_the_sentence_says_so(
    no_compiling: None, monkeypatch: pytest.MonkeyPatch, routed: bool
) -> None:
    monkeypatch.setattr(publish, "FIRST_DELAY", 0.01)
    names, last = list[str](), "start" if routed else "stop"

    def restarted(name: str, doc: dict[str, Any]) -> None:
        names.append(name)
        if name == last:
            raise ConnectionError("the server restarted")

    target: Any = RunRouter([lambda name, doc: ([restarted], [])]) if routed else restarted
    documents = fakes.scan_documents()
    uid = documents[0][1]["uid"]
    with BayesCallback(fakes.Quick(), publish=target) as bayes:
        for name, doc in documents:
            bayes(name, doc)
        with pytest.raises(RefusedError, match=f"failed at its {last} document .*restarted.* the same run twice"):
            bayes.published(uid, SECONDS)
        assert bayes.result(uid, SECONDS)
    assert names == (["start"] if routed else ["start", "descriptor", "event", "stop"])


@pytest.mark.tiled
def test_a_tiled_writer_whose_server_restarts_half_way_writes_the_answer_whole(
    no_compiling: None, tiled_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bluesky_tiled_plugins import TiledWriter

    monkeypatch.setattr(publish, "FIRST_DELAY", 0.01)
    processed, n_failures = tiled_client.create_container("by writer"), 1

    def unsteady(write: Callable[..., object], lines: Lines) -> None:
        nonlocal n_failures
        for name, doc in lines.documents():
            if name == "stop" and n_failures:
                n_failures -= 1
                raise ConnectionError("the server restarted")
            write(name, doc)

    monkeypatch.setattr(targets, "_send", unsteady)
    documents = fakes.scan_documents()
    with BayesCallback(fakes.Quick(), publish=TiledWriter(processed)) as bayes:
        for name, doc in documents:
            bayes(name, doc)
        result_uid = bayes.published(documents[0][1]["uid"], SECONDS)
    (found,) = processed.values()
    assert found.metadata["start"]["uid"] == result_uid
    assert found.metadata["stop"]["exit_status"] == "success"
    patching = TiledWriter(processed, patches={"start": dict})
    assert targets._container_behind(patching) is patching


def test_a_server_that_is_down_for_good_is_named_while_waiting_and_given_up_at_the_end(no_compiling: None) -> None:
    def down(name: str, doc: dict[str, Any]) -> None:
        raise ConnectionError("the server is down")

    documents = fakes.scan_documents()
    uid = documents[0][1]["uid"]
    with BayesCallback(fakes.Quick(), publish=down) as bayes:
        for name, doc in documents:
            bayes(name, doc)
        assert bayes.result(uid, SECONDS)
        with pytest.raises(TimeoutError, match=r"is not written after 0\.1 s; it may still come"):
            bayes.published(uid, 0.1)
        bayes.close(SECONDS)
        assert "results cannot be written: ConnectionError: the server is down" in bayes.status()
        with pytest.raises(NotDoneError, match="given up when the callback was closed: ConnectionError"):
            bayes.published(uid, 0)


def test_a_server_that_hangs_holds_up_neither_answers_nor_closing(no_compiling: None) -> None:
    released = threading.Event()
    uids = []
    bayes = BayesCallback(fakes.Quick(), publish=lambda name, doc: released.wait(SECONDS))
    for documents in (fakes.scan_documents(), fakes.scan_documents()):
        for name, doc in documents:
            bayes(name, doc)
        uids.append(documents[0][1]["uid"])
    assert all(bayes.result(uid, SECONDS) for uid in uids)
    bayes.close(timeout=0.2)
    for uid in uids:
        with pytest.raises(NotDoneError, match="given up: not finished"):
            bayes.published(uid, SECONDS)
    released.set()


@pytest.fixture(scope="module")
def answered(tiled_client: Any) -> Iterator[tuple[Any, str, str]]:
    """The catalogue of results, a raw run's uid and its answer's: five points, so that arrays are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prepare", fakes.unprepared)
        documents = fakes.scan_documents(sample={"name": "MnF2"})
        uid = documents[0][1]["uid"]
        with BayesCallback(fakes.Quick(), publish=tiled_client["processed"]) as bayes:
            for name, doc in documents:
                bayes(name, doc)
            result_uid = bayes.published(uid, SECONDS)
    assert result_uid is not None
    yield tiled_client["processed"], uid, result_uid


@pytest.mark.tiled
@pytest.mark.parametrize(
    "query",
    [
        ("Eq", "original_run_uid", None),
        ("Eq", "result.best_model", "1 peak"),
        ("Eq", "result.decisive", True),
        ("Eq", "result.components.peak", 1),
        ("Eq", "result.status", "ok"),
        ("Comparison", "gt", "result.probability", 0.9),
        ("Comparison", "lt", "result.log_evidence", 0.0),
        ("Like", "result.verdict", "1 peak%"),
    ],
    ids=lambda query: query[1],
)
def test_answers_are_found_by_what_they_say(answered: tuple[Any, str, str], query: tuple[Any, ...]) -> None:
    from tiled import queries

    processed, uid, result_uid = answered
    kind, *arguments = query
    arguments = [uid if argument is None else argument for argument in arguments]
    found = processed.search(queries.Eq("original_run_uid", uid)).search(getattr(queries, kind)(*arguments))
    assert list(found) == [result_uid]


@pytest.mark.tiled
def test_answers_are_found_by_key_and_by_spec(answered: tuple[Any, str, str]) -> None:
    from tiled.queries import Key, SpecsQuery

    processed, _, result_uid = answered
    found = processed.search(Key("result.probability") > 0.9)
    assert result_uid in found.search(SpecsQuery(include=["BayesModelSelection"], exclude=[]))


@pytest.mark.tiled
def test_points_and_draws_come_back_as_numbers(answered: tuple[Any, str, str]) -> None:
    processed, _, result_uid = answered
    result = processed[result_uid]
    primary, tables = result["primary"].read(), result.start["tables"]
    names = ["x", "y", "fit_mean", "fit_low", "fit_high", "residual"]
    assert tables["curves"]["curve"] == names
    assert primary["curves"].dtype == np.float64
    assert primary["curves"].shape == (1, len(names), 5)
    assert primary["curves"].values[0, 0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert primary["draws"].dtype == np.float64
    assert primary["draws"].shape == (1, len(tables["parameters"]["parameter"]), 100)


@pytest.mark.tiled
def test_a_result_of_many_points_takes_as_few_requests_of_a_server_as_one_of_few(tiled_client: Any) -> None:
    write, requests = writer(tiled_client["processed"]), list[str]()
    heard = tiled_client.context.http_client.event_hooks["request"]
    counts = []
    for n in (5, 20_000):
        lines = Lines.of(selection_documents(fakes.made_up(Dataset(np.arange(float(n)), np.zeros(n))), {}, {}))
        heard.append(lambda request: requests.append(f"{request.method} {request.url.path}"))
        try:
            write(lines)
        finally:
            heard.pop()
        curves = tiled_client["processed"][lines.uid]["primary"].read()["curves"].values
        assert curves[0, 0].tolist() == list(range(n))
        counts.append(len(requests))
        requests.clear()
    assert counts == [16, 16]


@pytest.mark.tiled
def test_tables_come_back_with_their_types(answered: tuple[Any, str, str]) -> None:
    processed, _, result_uid = answered
    tables = processed[result_uid].start["tables"]
    assert tables["models"]["model"] == ["no peak", "1 peak", "2 peaks"]
    assert tables["models"]["log_evidence"] == [-30.0, -10.0, -32.0]
    assert all(isinstance(value, float) for value in tables["models"]["log_evidence"])
    assert "peak1.center" in tables["parameters"]["parameter"]
    assert all(isinstance(value, float) for value in tables["parameters"]["mean"])


@pytest.mark.tiled
def test_an_answer_is_replayed_as_documents_and_not_analysed(
    answered: tuple[Any, str, str], no_compiling: None
) -> None:
    processed, uid, result_uid = answered
    documents = list(processed[result_uid].documents())
    assert documents[0][1]["original_run_uid"] == uid
    assert arrays(documents)[0]["x"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    with BayesCallback(fakes.Quick()) as bayes:
        for name, doc in documents:
            bayes(name, doc)
        with pytest.raises(KeyError):
            bayes.future(result_uid)
