"""Runs kept in a databroker are analysed like live ones, and answers are kept in one, once each."""

from collections.abc import Callable, Iterator
from typing import Any

import fakes
import pytest

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks.answers import Lines
from bluesky_bayes.callbacks.targets import RefusedError, writer
from bluesky_bayes.documents import selection_documents

SECONDS = 60.0

databroker = pytest.importorskip("databroker", reason="databroker is not installed")
pytest.importorskip("mongomock", reason="databroker's back-compat dependencies are not installed")
pytestmark = pytest.mark.usefixtures("no_compiling")


@pytest.fixture(scope="module", params=["v1", "v2"])
def results(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty broker, by either of its interfaces."""
    broker = databroker.temp()
    yield broker.v1 if request.param == "v1" else broker.v2


def test_a_kept_run_is_analysed_and_its_answer_kept_once(results: Any) -> None:
    raw = databroker.Broker.named("temp")
    for name, doc in fakes.scan_documents(sample="MnF2"):
        raw.insert(name, doc)
    header = raw[-1]
    uid = header.start["uid"]
    for _ in range(2):  # once more in a callback that knows of nothing
        with BayesCallback(fakes.Quick(), publish=results) as bayes:
            for name, doc in header.documents():
                bayes(name, doc)
            assert bayes.result(uid, SECONDS).data.x.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
            result_uid = bayes.published(uid, SECONDS)
    (found,) = results.v1(original_run_uid=uid)
    assert found.start["uid"] == result_uid and found.start["result"]["best_model"] == "1 peak"
    tables = found.start["tables"]
    assert tables["models"]["model"] == ["no peak", "1 peak", "2 peaks"]
    at = tables["curves"]["curve"].index("x")
    assert list(found.table("primary")["curves"][1][at]) == [0.0, 0.25, 0.5, 0.75, 1.0]
    run = results.v2[result_uid]
    assert run.metadata["start"]["sample"] == "MnF2" and run.metadata["stop"]["exit_status"] == "success"
    assert run.metadata["start"]["tables"] == tables
    primary = run["primary"].read()
    assert primary["curves"].values[0, at].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert primary["draws"].shape == (1, len(tables["parameters"]["parameter"]), 100)


def test_an_answer_whose_insertion_was_broken_off_is_not_doubled_and_named(
    results: Any, make_selection: Callable[..., Any]
) -> None:
    documents = list(selection_documents(make_selection(), {"uid": "broken off"}, {"digest": "d" * 64}))
    for name, doc in documents[:-2]:
        results.v1.insert(name, doc)
    with pytest.raises(RefusedError, match=r"without its end.* delete that run in its database"):
        writer(results)(Lines.of(documents))
    assert len(list(results.v1(original_run_uid="broken off"))) == 1
