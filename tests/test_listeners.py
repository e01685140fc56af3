"""Listeners hear of answers on threads of their own."""

import logging
import threading
from collections.abc import Callable

import fakes
import pytest

from bluesky_bayes import Selection
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks.listeners import MOST_WAITING, Listeners

pytestmark = pytest.mark.usefixtures("no_compiling")

SECONDS = 30.0


class Heard:
    """A listener that remembers; it waits where it is told to."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, bool]] = []
        self.threads: set[str] = set()
        self.entered, self.free = threading.Event(), threading.Event()
        self.free.set()

    def __call__(self, uid: str, selection: Selection, final: bool) -> None:
        self.answers.append((uid, final))
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.free.wait(SECONDS)


def test_answers_so_far_and_final_ones_are_heard_on_a_thread_of_its_own() -> None:
    heard, documents = Heard(), fakes.scan_documents()
    uid = documents[0][1]["uid"]
    with BayesCallback(fakes.Quick()) as bayes:
        stop = bayes.listen(heard)
        for name, doc in documents[:-1]:
            bayes(name, doc)
        bayes.so_far(uid).result(SECONDS)
        assert heard.entered.wait(SECONDS)
        bayes(*documents[-1])
        bayes.result(uid, SECONDS)
    assert heard.answers == [(uid, False), (uid, True)]
    assert heard.threads == {"bluesky_bayes listener"}
    stop()


def test_a_listener_that_was_stopped_hears_nothing_more(make_selection: Callable[..., Selection]) -> None:
    listeners, stopped, going_on = Listeners(), Heard(), Heard()
    stop = listeners.add(stopped)
    listeners.add(going_on)
    stop()
    stop()
    listeners.tell("one", make_selection(), True)
    listeners.close(SECONDS)
    assert (stopped.answers, going_on.answers) == ([], [("one", True)])
    listeners.add(stopped)
    listeners.tell("two", make_selection(), True)
    assert not stopped.answers


def test_a_slow_listener_hears_the_newest_of_each_run_and_holds_up_nobody(
    make_selection: Callable[..., Selection], caplog: pytest.LogCaptureFixture
) -> None:
    listeners, slow, selection = Listeners(), Heard(), make_selection()
    slow.free.clear()
    listeners.add(slow)
    listeners.tell("first", selection, False)
    assert slow.entered.wait(SECONDS)
    for final in (False, False, True):
        listeners.tell("second", selection, final)
    for i in range(MOST_WAITING):
        listeners.tell(f"run {i}", selection, True)
    slow.free.set()
    listeners.close(SECONDS)
    assert slow.answers == [("first", False), *((f"run {i}", True) for i in range(MOST_WAITING))]
    assert "a listener is slow" in caplog.text


def test_a_listener_that_fails_is_logged_and_hears_the_next(
    make_selection: Callable[..., Selection], caplog: pytest.LogCaptureFixture
) -> None:
    listeners, uids = Listeners(), list[str]()

    def failing(uid: str, selection: Selection, final: bool) -> None:
        uids.append(uid)
        raise OSError("the plot was closed")

    listeners.add(failing)
    for uid in ("one", "two"):
        listeners.tell(uid, make_selection(), True)
    listeners.close(SECONDS)
    assert uids == ["one", "two"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "a listener failed over the answer for run one" in caplog.text
