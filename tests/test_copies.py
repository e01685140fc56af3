"""Documents are copied so that nobody can change them, and so that thousands of them burden nobody."""

import gc
import pickle
import threading
from typing import Any

import fakes
import numpy as np
import pytest

from bluesky_bayes.callbacks.collector import Asked, Document
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


class Broken:
    """Becomes bytes, and cannot be made from them again: neither it nor what follows from it."""

    def __reduce__(self) -> Any:
        return float, ("no number",), {"state": 1}, iter([1, 2]), iter([("a", 1)])


def test_what_cannot_be_made_again_from_its_copy_goes_by_its_type() -> None:
    numbers = np.arange(3.0)
    doc = {"odd": Broken(), "deep": [Broken(), {"x": numbers, "n": np.float64(2.0)}]}
    uid, name, found = opened(copied("a run", "start", doc))
    assert (uid, name, repr(found["odd"]), found["deep"][1]["n"]) == ("a run", "start", "<float>", 2.0)
    np.testing.assert_array_equal(found["deep"][1]["x"], numbers)


@pytest.mark.parametrize("where", ["start", "descriptor", "event", "stop"])
def test_a_document_with_an_object_that_cannot_be_made_again_is_not_lost(where: str) -> None:
    heard, desk = fakes.scan_documents(), Heard()
    intake = Intake(fakes.Quick(), desk.desk)
    for name, doc in heard:
        intake.hear(name, {**doc, "odd": Broken()} if name == where else doc)
    intake.close(SECONDS)
    (collected,) = desk.collected
    run = pickle.loads(collected).collected()
    assert run.streams["primary"]["motor"].size == 5
    assert (run.start["uid"], run.stop["exit_status"]) == (heard[0][1]["uid"], "success")
    assert all(doc.get("odd", "<float>") == "<float>" for doc in (run.start, run.stop))


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
        self.names, self.ended, self.collected = list[str](), list[str](), list[bytes]()
        self.desk = Desk(
            begin=lambda start: True,
            heard=lambda uid, name, copy: self.names.append(name),
            ask=lambda uid, collected: None,
            end=self.end,
            give_up=lambda uid, reason: None,
        )

    def end(self, uid: str, start: Document, stop: Document, collected: bytes) -> None:
        self.ended.append(uid)
        self.collected.append(collected)
