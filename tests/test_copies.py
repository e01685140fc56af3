"""Documents are copied so that nobody can change them, and so that thousands of them burden nobody."""

import gc
import threading
from typing import Any

import fakes
import numpy as np
import pytest

from bluesky_bayes.callbacks.collector import Asked
from bluesky_bayes.callbacks.copies import copied, opened, size_of
from bluesky_bayes.callbacks.intake import Desk, Intake

SECONDS = 60.0


def test_who_sent_a_document_may_use_its_memory_again() -> None:
    frame, numbers = np.arange(12.0).reshape(3, 4), [1.0, 2.0]
    copy = copied("a run", "event", {"data": {"camera": frame, "turned": frame.T, "list": numbers}, "seq_num": 1})
    frame[:], numbers[0] = -1.0, -1.0
    uid, name, doc = opened(copy)
    assert (uid, name, doc["seq_num"], doc["data"]["list"]) == ("a run", "event", 1, [1.0, 2.0])
    np.testing.assert_array_equal(doc["data"]["camera"], np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(doc["data"]["turned"], np.arange(12.0).reshape(3, 4).T)
    assert size_of(copy) >= 12 * 8


def test_what_cannot_be_copied_goes_by_its_type_and_what_has_no_end_is_refused() -> None:
    assert opened(copied("a run", "start", {"lock": threading.Lock(), "n": 1}))[2] == {"lock": "<lock>", "n": 1}
    endless: dict[str, Any] = {"lock": threading.Lock()}
    endless["more"] = endless
    with pytest.raises(ValueError, match="nested deeper"):
        copied("a run", "start", endless)


def test_documents_that_wait_are_nothing_for_the_garbage_collector() -> None:
    documents, released, desk = fakes.scan_documents(n=3000), threading.Event(), Heard()
    intake = Intake(fakes.Quick(), desk.desk)
    intake._lane.put(lambda: released.wait(SECONDS))
    gc.collect()
    before = len(gc.get_objects())
    for name, doc in documents:
        intake.hear(name, doc)
    gc.collect()
    grown = len(gc.get_objects()) - before
    released.set()
    intake.close(SECONDS)
    assert grown < 300
    assert not gc.is_tracked(copied("a run", *documents[2]))
    assert len(desk.names) == 3003 and desk.ended == [documents[0][1]["uid"]]


@pytest.mark.parametrize("page", [False, True])
def test_arrays_that_are_not_asked_for_are_not_copied(page: bool) -> None:
    frame, one = np.zeros((20, 20)), np.ones(1)
    data: dict[str, Any] = {"det": 1.0, "one": one, "camera": frame, "trace": [1.0, 2.0], "name": "x"}
    if page:
        data = {name: [value, value] for name, value in data.items()} | {"stack": np.zeros((2, 5)), "row": np.zeros(2)}
    name = "event_page" if page else "event"
    doc = {"data": data, "seq_num": [1, 2]}
    kept = {"det", "one", "name", "row"} if page else {"det", "one", "name"}
    assert set(Asked(fakes.Quick(y="det")).trimmed(name, doc)["data"]) == kept
    assert set(Asked(fakes.Quick(y="camera")).trimmed(name, doc)["data"]) == {*kept, "camera"}
    assert Asked(fakes.Quick()).trimmed(name, doc) is doc
    assert Asked(fakes.Quick(y="det")).trimmed("datum", doc) is doc


def test_events_of_streams_that_are_not_asked_for_are_left_out() -> None:
    desk = Heard()
    intake = Intake(fakes.Quick(), desk.desk)
    for name, doc in fakes.scan_documents(n=4):
        intake.hear(name, {**doc, "name": "beside"} if name == "descriptor" else doc)
    intake.close(SECONDS)
    assert desk.names == ["start", "descriptor", "stop"]


class Heard:
    """Names of documents, and uids of runs that have ended."""

    def __init__(self) -> None:
        self.names, self.ended = list[str](), list[str]()
        self.desk = Desk(
            begin=lambda start: True,
            heard=lambda uid, name, copy: self.names.append(name),
            ask=lambda uid, collected: None,
            end=lambda uid, start, stop, collected: self.ended.append(uid),
            give_up=lambda uid, reason: None,
        )
