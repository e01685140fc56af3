"""Runs are analysed while they go on: only the newest waits, and a final answer goes first."""

import threading
from typing import Any

import fakes
import pytest

from bluesky_bayes import Selection
from bluesky_bayes.callbacks import BayesCallback, intake
from bluesky_bayes.callbacks.backlog import NotDoneError
from bluesky_bayes.callbacks.runs import NothingToAnalyseError

pytestmark = pytest.mark.usefixtures("no_compiling")

SECONDS = 60.0


class Heard:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bool]] = []
        self._changed = threading.Condition()

    def __call__(self, uid: str, selection: Selection, final: bool) -> None:
        with self._changed:
            self.answers.append((selection.data.n, final))
            self._changed.notify_all()

    def wait(self, n: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= n, SECONDS)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ({"every_events": 2}, [(2, False), (4, False), (6, True)]),
        ({"every_seconds": 1e-9}, [*((n, False) for n in range(2, 7)), (6, True)]),
        ({"every_seconds": 3600.0}, [(6, True)]),
        ({}, [(6, True)]),
    ],
)
def test_answers_come_while_the_scan_goes_on_and_only_the_final_one_is_published(
    every: dict[str, Any], expected: list[tuple[int, bool]]
) -> None:
    heard, published = Heard(), list[str]()
    documents = fakes.scan_documents(n=6)
    uid = documents[0][1]["uid"]
    with BayesCallback(fakes.Quick(), publish=lambda name, doc: published.append(name), **every) as bayes:
        bayes.listen(heard)
        for name, doc in documents:
            bayes(name, doc)
            n_events = sum(n <= (doc["seq_num"] if name == "event" else 0) for n, final in expected if not final)
            if name == "event":
                heard.wait(n_events)
                newest = bayes.latest(uid)
                assert newest is None if not n_events else newest is not None
        final = bayes.result(uid, SECONDS)
        assert bayes.latest(uid) is final
        bayes.published(uid, SECONDS)
    assert heard.answers == expected
    assert published.count("start") == 1


def test_only_the_newest_waits_and_the_final_answer_waits_for_no_stale_one() -> None:
    heard = Heard()
    documents = fakes.scan_documents(n=200)
    uid = documents[0][1]["uid"]
    with BayesCallback(fakes.Slow(seconds=0.2), every_events=1) as bayes:
        bayes.listen(heard)
        first = bayes.future(play(bayes, documents[:4]))
        heard.wait(1)
        for name, doc in documents[4:-1]:
            bayes(name, doc)
        asked = [bayes.so_far(uid) for _ in range(3)]
        bayes(*documents[-1])
        assert first.result(SECONDS).data.n == 200
        for future in asked:
            error = future.exception(SECONDS)
            assert error is None or "not begun before the run ended" in str(error)
    assert heard.answers[-1] == (200, True)
    assert len(heard.answers) <= 6


def test_who_asks_while_an_analysis_waits_shares_the_newest_answer() -> None:
    documents = fakes.scan_documents(n=10)
    uid = documents[0][1]["uid"]
    other = fakes.scan_documents()
    with BayesCallback(fakes.Slow(seconds=0.5)) as bayes:
        play(bayes, other)
        play(bayes, documents[:5])
        early = bayes.so_far(uid)
        play(bayes, documents[5:9])
        late = bayes.so_far(uid)
        assert early.result(SECONDS) is late.result(SECONDS)
        assert late.result().data.n == 7
        bayes.close(SECONDS)
    with pytest.raises(KeyError, match="does not go on"):
        bayes.so_far(uid)


def test_a_run_without_events_yet_has_no_answer_so_far() -> None:
    documents = fakes.scan_documents()
    with BayesCallback(fakes.Quick()) as bayes:
        play(bayes, documents[:2])
        with pytest.raises(NothingToAnalyseError, match="has no events"):
            bayes.so_far(documents[0][1]["uid"]).result(SECONDS)


def test_events_of_other_streams_are_not_counted() -> None:
    heard, documents = Heard(), fakes.scan_documents()
    with BayesCallback(fakes.Quick(stream="baseline"), every_events=1) as bayes:
        bayes.listen(heard)
        uid = play(bayes, documents)
        with pytest.raises(NothingToAnalyseError):
            bayes.result(uid, SECONDS)
    assert not heard.answers


@pytest.mark.parametrize(
    "every", [{"every_events": 0}, {"every_seconds": -1.0}, {"time_limit": 0}, {"time_limit": "a minute"}]
)
def test_a_pace_that_is_not_positive_is_refused(every: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive, or left out"):
        BayesCallback(fakes.Quick(), **every)


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_a_time_limit_that_no_clock_reaches_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"time_limit must be a number of seconds, .* at most; got"):
        BayesCallback(fakes.Quick(), time_limit=seconds)


def test_documents_beyond_what_may_wait_give_the_run_up_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MOST_BYTES_WAITING", 10_000)
    released = threading.Event()
    with BayesCallback(fakes.Quick()) as bayes:
        bayes._intake._lane.put(lambda: released.wait(SECONDS))
        uid = play(bayes, fakes.scan_documents(n=50))
        with pytest.raises(NotDoneError, match=r"0.01 MB of documents wait to be taken in, .* analyse it afterwards"):
            bayes.result(uid, 0)
        released.set()
        assert bayes._intake._lane.drained(SECONDS)
        assert bayes.result(play(bayes, fakes.scan_documents()), SECONDS)


def test_events_out_of_order_or_twice_make_one_curve() -> None:
    documents = fakes.scan_documents(n=6)
    shuffled = [*documents[:2], documents[5], documents[3], documents[2], *documents[2:]]
    with BayesCallback(fakes.Quick()) as bayes:
        data = bayes.result(play(bayes, shuffled), SECONDS).data
    assert data.x.tolist() == [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]


def play(callback: BayesCallback, documents: list[tuple[str, Any]]) -> str:
    for name, doc in documents:
        callback(name, doc)
    uid: str = documents[0][1].get("uid", "")
    return uid


def test_anything_else_may_be_computed_in_the_worker() -> None:
    with BayesCallback(fakes.Quick()) as bayes:
        assert bayes.submit(divmod, 7, 2).result(SECONDS) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            bayes.submit(divmod, 7, 0).result(SECONDS)
        assert not bayes.closed
    assert bayes.closed
