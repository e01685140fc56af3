"""What was begun is on disk: a restart loses no run and publishes none twice."""

import errno
import gc
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from bluesky_bayes.callbacks import BayesCallback, intake, journal, publish
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.copies import copied
from bluesky_bayes.callbacks.journal import Journal, JournalInUseError
from bluesky_bayes.callbacks.runs import read_jsonl

pytestmark = pytest.mark.usefixtures("no_compiling")

SECONDS = 60.0
DIGEST = "0123456789abcdef" * 4


class Server:
    """A place to publish to, which may be down."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.down = False

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if self.down:
            raise ConnectionError("the server is down")
        if name == "start":
            self.results.append(doc)

    @property
    def raw_uids(self) -> list[str]:
        return [doc["original_run_uid"] for doc in self.results]


def play(callback: BayesCallback, documents: Iterable[tuple[str, Any]]) -> str:
    documents = list(documents)
    for name, doc in documents:
        callback(name, doc)
    uid: str = documents[0][1]["uid"]
    return uid


def states(folder: Path) -> dict[str, str]:
    """State of each run, as a restart would find it."""
    (path,) = folder.glob("*/journal.jsonl")
    return {record["uid"]: record["state"] for record in map(json.loads, path.read_text().splitlines())}


def files(folder: Path) -> list[str]:
    return sorted(path.name for part in ("runs", "results") for path in folder.glob(f"*/{part}/*"))


def test_a_run_that_is_done_leaves_only_a_record(tmp_path: Path) -> None:
    server = Server()
    with BayesCallback(fakes.Moody(), publish=server, journal=tmp_path) as bayes:
        fine, empty = (
            play(bayes, fakes.scan_documents()),
            play(bayes, fakes.scan_documents(hints={"dimensions": [[["time"], "primary"]]})),
        )
        assert bayes.published(fine, SECONDS)
        assert bayes.published(empty, SECONDS) is None
        assert not bayes.unfinished()
        assert str(bayes.unfinished()) == "all runs are done"
    assert states(tmp_path) == {fine: "done", empty: "done"}
    assert files(tmp_path) == []


PROFILE = """
import sys, time
import fakes
from bluesky_bayes.callbacks import BayesCallback, bayes as module

module.prepare = fakes.unprepared
folder, results = sys.argv[1:]

def publish(name, doc):
    if name == "start" and doc["original_run_uid"] != "published":
        raise ConnectionError("the server is down")
    if name == "start":
        with open(results, "a") as file:
            file.write(doc["original_run_uid"] + "\\n")

quick = BayesCallback(fakes.Moody(), publish=publish, journal=folder)
def play(documents):
    for name, doc in documents:
        quick(name, doc)
play(fakes.scan_documents(uid="published"))
quick.published("published", 60)
play(fakes.scan_documents(uid="analysed"))
quick.result("analysed", 60)
def wait_for(*states):
    while [entry.state for entry in quick._journal.unfinished()] != list(states):
        time.sleep(0.01)
wait_for("analysed")
play(fakes.scan_documents("hangs", uid="hangs"))
play(fakes.scan_documents(uid="waits"))
play(fakes.scan_documents(uid="goes on")[:-1])
wait_for("analysed", "ended", "ended", "begun")
quick._journal.flush(60)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system kills in another way")
def test_after_a_power_cut_every_run_is_finished_once_and_the_rest_is_named(tmp_path: Path, repository: Path) -> None:
    profile, folder, results = tmp_path / "profile.py", tmp_path / "journal", tmp_path / "results"
    profile.write_text(PROFILE)
    path = os.pathsep.join([str(repository / "tests"), str(repository)])
    process = subprocess.Popen(
        [sys.executable, profile, folder, results],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(JournalInUseError, match=f"in use by process {process.pid}: close that callback"):
            BayesCallback(fakes.Moody(), journal=folder)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (record,) = folder.glob("*/journal.jsonl")
    with open(record, "ab") as file:
        file.write(b'{"uid": "cut off')

    server = Server()
    with BayesCallback(fakes.Moody(), publish=server, journal=folder, time_limit=4.0) as bayes:
        unfinished = bayes.unfinished()
        assert [entry.uid for entry in unfinished.entries] == ["analysed", "hangs", "waits", "goes on"]
        lines = str(unfinished).splitlines()
        assert "run analysed (scan 7): analysed, not published" in lines[0]
        assert "run waits (scan 7): ended, not analysed" in lines[2]
        assert "run goes on (scan 7): begun, its end was not heard" in lines[3]
        finished = bayes.finish()
        assert finished.done == ["analysed", "hangs", "waits"]
        assert "are not in the journal: bayes.finish(client['raw'])" in finished.left["goes on"]
        assert str(finished).startswith("3 done, 1 left")
        whole = fakes.Stored(fakes.scan_documents(uid="goes on"))
        assert bayes.finish([whole]).done == ["goes on"]
        assert not bayes.unfinished()
    assert results.read_text().splitlines() == ["published"]
    assert server.raw_uids == ["analysed", "hangs", "waits", "goes on"]
    assert [doc["result"]["status"] for doc in server.results] == ["ok", "failed", "ok", "ok"]
    assert files(folder) == []


def test_results_wait_on_disk_while_the_server_is_down_and_after_a_restart(tmp_path: Path) -> None:
    server = Server()
    server.down = True
    bayes = BayesCallback(fakes.Quick(), publish=server, journal=tmp_path)
    uid = play(bayes, fakes.scan_documents())
    assert bayes.result(uid, SECONDS)
    bayes.close(SECONDS)
    (path,) = tmp_path.glob("*/results/*.jsonl")
    documents = list(read_jsonl(path))
    assert [name for name, _ in documents][-1] == "stop"
    assert documents[0][1]["original_run_uid"] == uid
    server.down = False
    with BayesCallback(fakes.Quick(), publish=server, journal=tmp_path) as again:
        assert again.finish().done == [uid]
        assert again.finish().done == []
        # Heard once more, it is answered and not published again.
        assert play(again, fakes.scan_documents(uid=uid)) == uid
        assert again.result(uid, SECONDS)
        assert again.published(uid, SECONDS) == documents[0][1]["uid"]
    assert server.raw_uids == [uid]


def test_what_waits_for_a_server_takes_no_memory_and_is_neither_lost_nor_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "LONGEST_DELAY", 0.1)
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    server = Server()
    server.down = True
    played = [fakes.scan_documents() for _ in range(8)]
    with BayesCallback(fakes.Quick(), publish=server, journal=tmp_path) as bayes:
        answers = []
        for documents in played:
            answers.append(weakref.ref(bayes.result(play(bayes, documents), SECONDS)))
        uids = [documents[0][1]["uid"] for documents in played]
        assert bayes._journal is not None and bayes._journal.flush(SECONDS)
        gc.collect()
        assert [answer() is not None for answer in answers] == [False] * 6 + [True] * 2
        assert "answers to be written: 8" in bayes.status()
        assert not bayes.unfinished()  # it is in hand
        with pytest.raises(KeyError, match="waits to be written and is forgotten here: the last 2 are kept"):
            bayes.result(uids[0])
        play(bayes, played[0])
        assert "runs open: 0, in analysis: 0" in bayes.status()
        written = [bayes._run(uid).published for uid in uids]
        server.down = False
        assert all(each.result(SECONDS) for each in written)
        assert bayes.status().startswith("runs open: 0, in analysis: 0, answers to be written: 0")
    assert sorted(server.raw_uids) == sorted(uids)
    assert states(tmp_path) == dict.fromkeys(uids, "done")


def test_a_run_that_is_given_up_leaves_no_file_open_and_is_kept_whole_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_OPEN", 1)
    documents = fakes.scan_documents()
    with BayesCallback(fakes.Quick(), journal=tmp_path) as bayes:
        assert bayes._journal is not None
        unended = [play(bayes, documents[:-1]), *(play(bayes, fakes.scan_documents()[:-1]) for _ in range(5))]
        assert bayes._journal.flush(SECONDS)
        bayes._intake._lane.drained(SECONDS)
        assert bayes._journal.flush(SECONDS)
        assert [path.name for path in tmp_path.glob("*/runs/*")] == [f"{unended[-1]}.part"]
        assert "never stopped while 1 others began" in str(bayes.unfinished())
        monkeypatch.setattr(bayes._journal, "_forget_documents", lambda uid: None)
        assert bayes.result(play(bayes, documents), SECONDS)
        assert bayes._journal.flush(SECONDS)
        kept = list(bayes._journal.documents(unended[0]))
        assert [name for name, _ in kept] == [name for name, _ in documents]


def test_a_restart_lists_runs_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    with_reason, ended = "a", "b"
    first = Journal(tmp_path, DIGEST)
    for uid in (with_reason, ended):
        first.begin(uid, f"run {uid}")
    first.end(ended)
    first.give_up(with_reason, "the callback was closed")
    first.close(SECONDS)
    again = Journal(tmp_path, DIGEST)
    again.close(SECONDS)
    assert [entry.uid for entry in first.unfinished()] == [with_reason, ended]
    assert [entry.uid for entry in again.unfinished()] == [with_reason, ended]


def test_a_result_that_was_refused_is_kept_until_it_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowed = threading.Event()
    server = Server()

    def guarded(name: str, doc: dict[str, Any]) -> None:
        if not allowed.is_set():
            raise RuntimeError("403: not enough permissions")
        server(name, doc)

    with BayesCallback(fakes.Quick(), publish=guarded, journal=tmp_path) as bayes:
        uid = play(bayes, fakes.scan_documents())
        with pytest.raises(RuntimeError, match="403"):
            bayes.published(uid, SECONDS)
        assert caplog.text.count("it is not tried again by itself") == 1
        allowed.set()
        assert bayes.finish().done == [uid]
        assert bayes.published(uid, SECONDS)
    assert server.raw_uids == [uid]


def test_a_full_disk_is_a_sentence_and_analyses_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = True
    fsync = os.fsync

    def no_room(number: int) -> None:
        if full and threading.current_thread().name == "bluesky_bayes journal":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    server = Server()
    with BayesCallback(fakes.Quick(), publish=server, journal=tmp_path) as bayes:
        monkeypatch.setattr(os, "fsync", no_room)
        first, second = (play(bayes, fakes.scan_documents()) for _ in range(2))
        assert bayes.published(first, SECONDS) and bayes.published(second, SECONDS)
        assert bayes._journal is not None and bayes._journal.flush(SECONDS)
        assert "cannot be written (No space left on device); analyses go on without it" in bayes.status()
        full = False
        third = play(bayes, fakes.scan_documents())
        assert bayes.published(third, SECONDS)
    assert caplog.text.count("No space left on device") == 1
    assert states(tmp_path) == dict.fromkeys([first, second, third], "done")
    assert server.raw_uids == [first, second, third]


def test_a_disk_that_takes_records_and_no_documents_is_named_once_until_it_takes_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def done(bayes: BayesCallback) -> str:
        assert bayes.published(play(bayes, fakes.scan_documents()), SECONDS)
        assert bayes._journal is not None and bayes._journal.flush(SECONDS)
        return bayes.status()

    with BayesCallback(fakes.Quick(), publish=Server(), journal=tmp_path) as bayes:
        with monkeypatch.context() as patch:
            patch.setattr(gzip, "open", no_room)
            assert all("cannot be written (No space left on device)" in done(bayes) for _ in range(6))
        assert caplog.text.count("No space left on device") == 1
        assert "No space left on device" not in done(bayes)
        monkeypatch.setattr(gzip, "open", no_room)
        assert "No space left on device" in done(bayes)
    assert caplog.text.count("No space left on device") == 2


def test_a_slow_disk_holds_up_neither_documents_nor_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released, fsync = threading.Event(), os.fsync

    def slow(number: int) -> None:
        if threading.current_thread().name == "bluesky_bayes journal":
            released.wait(SECONDS)
        fsync(number)

    server = Server()
    with BayesCallback(fakes.Quick(), publish=server, journal=tmp_path) as bayes:
        monkeypatch.setattr(os, "fsync", slow)
        uids = [play(bayes, fakes.scan_documents()) for _ in range(3)]
        assert all(bayes.published(uid, SECONDS) for uid in uids)
        released.set()
    assert states(tmp_path) == dict.fromkeys(uids, "done")
    assert server.raw_uids == uids


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    documents = fakes.scan_documents()
    pattern = np.arange(200, dtype=np.int32).reshape(10, 20)
    event = dict(documents[2][1])
    event["data"] = {"pattern": pattern, "list": list(range(100)), "bad": float("nan"), "word": "open"}
    book = Journal(tmp_path, DIGEST)
    book.begin("one", "run one")
    for name, doc in [*documents[:2], ("event", event), documents[-1]]:
        book.hear("one", copied("one", name, doc))
    book.end("one")
    assert book.flush(SECONDS)
    back = list(book.documents("one"))
    book.close(SECONDS)
    assert [back[0], back[1], back[3]] == [documents[0], documents[1], documents[-1]]
    data = back[2][1]["data"]
    assert data["pattern"].dtype == np.int32 and np.array_equal(data["pattern"], pattern)
    assert data["list"].tolist() == list(range(100))
    assert np.isnan(data["bad"]) and data["word"] == "open"


def test_the_journal_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST_DONE", 5)
    monkeypatch.setattr(journal, "MOST_LINES", 20)
    book = Journal(tmp_path, DIGEST)
    book.begin("kept", "run kept")
    for i in range(30):
        book.begin(f"{i}", f"run {i}")
        book.done(f"{i}")
    book.close(SECONDS)
    path = book.folder / "journal.jsonl"
    assert len(path.read_text().splitlines()) <= 21
    again = Journal(tmp_path, DIGEST)
    assert [entry.uid for entry in again.unfinished()] == ["kept"]
    again.close(SECONDS)


def test_documents_that_come_faster_than_the_disk_takes_them_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MOST_BYTES_WAITING", 1000)
    book = Journal(tmp_path, DIGEST)
    released = threading.Event()
    book._lane.put(lambda: released.wait(SECONDS))
    book.begin("one", "run one")
    for name, doc in fakes.scan_documents(uid="one"):
        book.hear("one", copied("one", name, doc))
    book.end("one")
    released.set()
    assert book.flush(SECONDS)
    (entry,) = book.unfinished()
    book.close(SECONDS)
    assert "its documents are not kept here: give a source" in entry.sentence
    assert "documents came faster than the disk takes them" in entry.sentence


def test_one_folder_serves_several_recipes_and_each_of_them_one_callback(tmp_path: Path) -> None:
    with BayesCallback(fakes.Quick(), journal=tmp_path), BayesCallback(fakes.Quick(seed=1), journal=tmp_path):
        with pytest.raises(JournalInUseError, match="give this one another folder"):
            BayesCallback(fakes.Quick(), journal=tmp_path)
    BayesCallback(fakes.Quick(), journal=tmp_path).close()


def test_without_a_journal_there_is_nothing_to_finish() -> None:
    with BayesCallback(fakes.Quick()) as bayes:
        for ask in (bayes.unfinished, bayes.finish):
            with pytest.raises(ValueError, match="there is no journal"):
                ask()


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "FIRST_DELAY", 0.01)
    server, clock = Server(), time.time
    server.down = True
    monkeypatch.setattr(time, "time", lambda: clock() + 1e6)
    with BayesCallback(fakes.Quick(), publish=server, journal=tmp_path, every_seconds=3600.0) as bayes:
        uid = play(bayes, fakes.scan_documents()[:-1])
        monkeypatch.setattr(time, "time", lambda: clock() - 1e6)
        bayes("stop", {"run_start": uid})
        assert bayes.result(uid, SECONDS)
        server.down = False
        assert bayes.published(uid, SECONDS)
    assert server.raw_uids == [uid]
