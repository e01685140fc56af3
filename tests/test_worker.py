"""The worker process may die at any stage: it is replaced, and the job done once more."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import fakes
import pytest

from bluesky_bayes.callbacks import backlog
from bluesky_bayes.callbacks.backlog import FINAL, FIRST, SO_FAR, Backlog, Lane, NotDoneError
from bluesky_bayes.callbacks.worker import Worker, WorkerDiedError

SECONDS = 60.0
STAGES = ["preparing", "receiving", "computing", "out of memory", "answering"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_that_dies_once_at_any_stage_costs_nothing_but_time(stage: str, tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    deadly = fakes.Deadly(stage, str(tmp_path))
    worker = Worker(deadly.prepare if stage == "preparing" else fakes.nothing, SECONDS)
    assert str(worker.submit(fakes.Deadly.__call__, lambda: (deadly,)).result(SECONDS)) == "answered"
    assert not list(tmp_path.iterdir())
    worker.close(SECONDS)


@pytest.mark.parametrize(
    ("stage", "why"), [("computing", r"it was killed \(signal 9\)"), ("out of memory", "it ran out of memory")]
)
def test_a_worker_that_dies_twice_is_given_up_in_words(stage: str, why: str, tmp_path: Path) -> None:
    for name in "12":
        (tmp_path / name).touch()
    deadly = fakes.Deadly(stage, str(tmp_path))
    worker = Worker(fakes.nothing, SECONDS)
    with pytest.raises(WorkerDiedError, match=f"lost 2 times over this analysis: {why}"):
        worker.submit(fakes.Deadly.__call__, lambda: (deadly,)).result(SECONDS)
    worker.close(SECONDS)


def test_jobs_of_a_lower_rank_go_first_and_those_in_a_slot_are_replaced() -> None:
    done, begun, released = list[str](), threading.Event(), threading.Event()
    jobs = Backlog("jobs", 10)

    def job(name: str) -> str:
        done.append(name)
        return name

    def block() -> None:
        begun.set()
        released.wait(SECONDS)

    jobs.submit(block)
    assert begun.wait(SECONDS)
    stale = jobs.submit(lambda: job("stale"), SO_FAR, slot="run")
    fresh = jobs.submit(lambda: job("fresh"), SO_FAR, slot="run")
    other = jobs.submit(lambda: job("other"), SO_FAR, slot="other")
    jobs.submit(lambda: job("final"), FINAL)
    jobs.submit(lambda: job("first"), FIRST)
    jobs.cancel("other", "not begun: the run ended")
    jobs.cancel("nobody", "")
    released.set()
    assert stale.result(SECONDS) == fresh.result(SECONDS) == "fresh"
    assert done == ["first", "final", "fresh"]
    with pytest.raises(NotDoneError, match="not begun: the run ended"):
        other.result(0)
    jobs.close(SECONDS)


def test_what_waits_is_bounded_in_bytes_and_one_may_always_wait() -> None:
    begun, released = threading.Event(), threading.Event()
    jobs = Backlog("jobs", 10, room=100)

    def block() -> None:
        begun.set()
        released.wait(SECONDS)

    jobs.submit(block)
    assert begun.wait(SECONDS)
    large = jobs.submit(lambda: 1, size=1000)
    with pytest.raises(NotDoneError, match="refused: 1 jobs wait already"):
        jobs.submit(lambda: 2, size=10).result(0)
    released.set()
    assert large.result(SECONDS) == 1
    jobs.close(SECONDS)


def test_a_lane_keeps_the_order_survives_errors_and_says_when_it_is_full(caplog: pytest.LogCaptureFixture) -> None:
    done, released = list[int](), threading.Event()
    lane = Lane("steps", 5)
    lane.put(lambda: released.wait(SECONDS), size=0)
    lane.put(lambda: 1 // 0, size=0)
    assert [lane.put(lambda i=i: done.append(i)) for i in range(7)] == [True] * 5 + [False] * 2  # type: ignore[misc]
    assert lane.put(lambda: done.append(99), must=True)
    released.set()
    assert lane.drained(SECONDS)
    assert done == [*range(5), 99]
    assert "a step of steps failed" in caplog.text
    assert lane.close(SECONDS)
    assert not lane.put(lambda: None, must=True)


def test_a_lane_lets_other_threads_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rests = list[float]()
    monkeypatch.setattr(backlog, "SECONDS_AT_A_STRETCH", -1.0)
    monkeypatch.setattr(time, "sleep", rests.append)
    lane = Lane("steps", 100)
    for _ in range(20):
        lane.put(lambda: None)
    assert lane.close(SECONDS)
    assert len(rests) == 20


PROFILE = """
import os, time
from bluesky_bayes.callbacks.worker import Worker
worker = Worker(os.getpid, 3600.0)
print(worker.submit(os.getpid, tuple).result(60.0), flush=True)
worker.submit(time.sleep, lambda: (3600.0,))
time.sleep(3600.0)
"""


def test_a_worker_whose_profile_is_killed_ends_though_its_analysis_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", PROFILE], stdout=subprocess.PIPE, text=True) as profile:
        assert profile.stdout is not None
        worker = profile.stdout.readline().strip()
        profile.kill()
    deadline = time.monotonic() + SECONDS

    def lives() -> bool:
        found = subprocess.run(["ps", "-o", "stat=", "-p", worker], capture_output=True, text=True, check=False)
        return found.stdout.strip()[:1] not in ("", "Z")

    while lives() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not lives()
