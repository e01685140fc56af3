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


def test_a_worker_lets_go_at_once_what_a_job_leaves_behind() -> None:
    worker = Worker(fakes.nothing, SECONDS)
    assert [worker.submit(fakes.leave_a_ring, tuple).result(SECONDS) for _ in range(4)] == [0, 0, 0, 0]
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
    done, released = list[str](), threading.Event()
    lane = Lane(
        "steps", 5, lambda piece: done.append(b"".join((piece,) if isinstance(piece, bytes) else piece).decode())
    )
    lane.put(lambda: released.wait(SECONDS))
    lane.put(lambda: 1 // 0)
    assert [lane.send(b"%d" % i) for i in range(7)] == [True] * 5 + [False] * 2
    assert lane.send((b"a must", b" of two parts"), must=True)
    lane.put(lambda: done.append("a step"))
    released.set()
    assert lane.drained(SECONDS)
    assert done == ["0", "1", "2", "3", "4", "a must of two parts", "a step"]
    assert "a step of steps failed" in caplog.text
    assert lane.send(b"one larger than all room, alone")
    assert lane.close(SECONDS)
    assert not lane.put(lambda: None)
    assert not lane.send(b"", must=True)


def test_a_lane_lets_other_threads_in_and_longer_while_they_hand_in_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rests, released = list[float](), threading.Event()
    monkeypatch.setattr(backlog, "SECONDS_AT_A_STRETCH", -1.0)
    lane = Lane("steps", 100_000, lambda piece: None)
    lane.put(lambda: released.wait(SECONDS))
    for size in (1000, 1000, 8000):
        lane.send(b"." * size)
    monkeypatch.setattr(time, "sleep", rests.append)
    released.set()
    assert lane.close(SECONDS)
    assert rests == pytest.approx([2e-4 + 1e4 * 2e-7, *[2e-4] * 3])


def test_a_lane_that_fills_up_does_not_wait_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    rests, released = list[float](), threading.Event()
    monkeypatch.setattr(backlog, "SECONDS_AT_A_STRETCH", -1.0)
    lane = Lane("steps", 1000, lambda piece: None)
    lane.put(lambda: released.wait(SECONDS))
    lane.send(b"." * 500)
    monkeypatch.setattr(time, "sleep", rests.append)
    released.set()
    assert lane.close(SECONDS)
    assert rests[0] == backlog.SECONDS_OF_REST


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
