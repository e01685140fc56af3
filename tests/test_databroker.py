"""Runs kept in a databroker are analysed like live ones, and answers are kept in one."""

from typing import Any

import fakes
import pytest

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks import bayes as module

SECONDS = 60.0

databroker = pytest.importorskip("databroker", reason="databroker is not installed")
pytest.importorskip("mongomock", reason="databroker's back-compat dependencies are not installed")


@pytest.fixture
def broker() -> Any:
    return databroker.Broker.named("temp")


@pytest.fixture
def results() -> Any:
    return databroker.temp()


def test_a_kept_run_is_analysed_and_its_answer_kept(broker: Any, results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    for name, doc in fakes.scan_documents(sample="MnF2"):
        broker.insert(name, doc)
    header = broker[-1]
    with BayesCallback(fakes.Quick(), publish=results) as bayes:
        for name, doc in header.documents():
            bayes(name, doc)
        uid = header.start["uid"]
        assert bayes.result(uid, SECONDS).data.x.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
        result_uid = bayes.published(uid, SECONDS)
    answer = results[result_uid]
    assert answer.start["original_run_uid"] == uid
    assert answer.start["result"]["best_model"] == "1 peak"
    assert answer.table("models")["model"].tolist() == ["no peak", "1 peak", "2 peaks"]
    assert list(answer.table("primary")["x"][1]) == [0.0, 0.25, 0.5, 0.75, 1.0]
