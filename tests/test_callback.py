"""The callback: what it hears, what it gives back, and that nothing that goes wrong reaches who speaks to it."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import fakes
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky.plans import scan
from event_model import compose_run
from ophyd.sim import SynAxis

from bluesky_bayes.callbacks import BayesCallback, intake
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.callbacks.backlog import Backlog, NotDoneError
from bluesky_bayes.callbacks.journal import JournalInUseError
from bluesky_bayes.callbacks.publish import Publisher
from bluesky_bayes.callbacks.runs import NothingToAnalyseError, RunCollector
from bluesky_bayes.callbacks.worker import Worker, WorkerDiedError
from bluesky_bayes.simulated import spectrum

pytestmark = pytest.mark.usefixtures("no_compiling")

SECONDS = 90.0
Documents = list[tuple[str, Any]]


class Written:
    """A place to publish to."""

    def __init__(self) -> None:
        self.runs: list[Documents] = []

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self.runs.append([])
        self.runs[-1].append((name, doc))

    def of(self, uid: str) -> list[dict[str, Any]]:
        """Start documents of the results of a run."""
        return [run[0][1] for run in self.runs if run[0][1]["original_run_uid"] == uid]


@pytest.fixture(scope="module")
def written() -> Written:
    return Written()


@pytest.fixture(scope="module")
def bayes(no_compiling: None, written: Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BayesCallback]:
    folder = str(tmp_path_factory.mktemp("moods"))
    with BayesCallback(fakes.Moody(folder=folder), publish=written) as callback:
        yield callback


@pytest.fixture
def caught(bayes: BayesCallback, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="bluesky_bayes"):
        yield caplog


def hear(callback: BayesCallback, documents: Iterable[tuple[str, Any]]) -> str:
    """Play a run; gives its uid."""
    documents = list(documents)
    for name, doc in documents:
        callback(name, doc)
    uid: str = documents[0][1]["uid"]
    return uid


def test_a_run_is_answered_and_the_answer_published(bayes: BayesCallback, written: Written) -> None:
    uid = hear(bayes, fakes.scan_documents())
    selection = bayes.result(uid, SECONDS)
    assert selection.best.model.name == "1 peak"
    assert selection.data.origin.run_uid == uid
    result_uid = bayes.published(uid, SECONDS)
    assert [start["uid"] for start in written.of(uid)] == [result_uid]
    assert bayes.last is selection
    assert "runs open: 0, in analysis: 0, answers to be written: 0; last answer: 1 peak" in bayes.status()


def test_patterns_are_answered_one_by_one_and_one_that_fails_does_not_end_the_rest(written: Written) -> None:
    run = compose_run(metadata={"hints": {"dimensions": [[["motor"], "primary"]]}})
    key = {"source": "SIM", "dtype": "array", "shape": [5]}
    descriptor = run.compose_descriptor(name="primary", data_keys={"mca": key}, object_keys={"mca": ["mca"]})
    documents: Documents = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    for mood in ("fine", "raises", "prints"):
        pattern = [fakes.MOODS[mood], 1.0, 2.0, 3.0, 4.0]
        documents.append(("event", descriptor.compose_event(data={"mca": pattern}, timestamps={"mca": 0.0})))
    with BayesCallback(fakes.Moody(y="mca"), publish=written) as bayes:
        uid = hear(bayes, [*documents, ("stop", run.compose_stop())])
        assert [answer.data.origin.events for answer in bayes.results(uid, SECONDS)] == [(1,), (3,)]
        assert bayes.result(uid, SECONDS) is bayes.results(uid)[-1]
        bayes.published(uid, SECONDS)
        assert "event 2 of run" in bayes.status()
    found = [(doc["result"]["status"], doc["analysis"]["events"]) for doc in written.of(uid)]
    assert found == [("ok", [1]), ("failed", [2]), ("ok", [3])]


def test_the_recipe_and_its_digest_are_published(bayes: BayesCallback, written: Written) -> None:
    uid = hear(bayes, fakes.scan_documents(exit_status="abort"))
    assert bayes.published(uid, SECONDS)
    (start,) = written.of(uid)
    assert start["analysis"]["digest"] == bayes.analysis.digest
    assert 'family = "peaks"' in start["analysis"]["recipe"]
    assert start["analysis"]["raw_exit_status"] == "abort"


def test_interleaved_runs_are_told_apart(bayes: BayesCallback) -> None:
    outer, inner = fakes.scan_documents(n=6), fakes.scan_documents(n=4)
    mixed = [*outer[:3], *inner[:2], outer[3], *inner[2:], *outer[4:]]
    for name, doc in mixed:
        bayes(name, doc)
    assert bayes.result(outer[0][1]["uid"], SECONDS).data.n == 6
    assert bayes.result(inner[0][1]["uid"], SECONDS).data.n == 4


def test_deprecated_bulk_events_are_understood(bayes: BayesCallback) -> None:
    documents = fakes.scan_documents()
    events = [doc for name, doc in documents if name == "event"]
    bulk = ("bulk_events", {events[0]["descriptor"]: events})
    uid = hear(bayes, [*documents[:2], bulk, documents[-1]])
    assert bayes.result(uid, SECONDS).data.n == 5


def test_a_repeated_run_is_not_answered_twice(bayes: BayesCallback, written: Written) -> None:
    documents = fakes.scan_documents()
    uid = hear(bayes, documents)
    hear(bayes, documents)
    first = bayes.result(uid, SECONDS)
    hear(bayes, documents)
    assert bayes.result(uid, SECONDS) is first
    # A later run is written after anything the repetitions could have caused.
    later = hear(bayes, fakes.scan_documents())
    bayes.published(later, SECONDS)
    assert len(written.of(uid)) == 1


def test_a_run_whose_beginning_is_repeated_in_mid_course_has_each_point_once(bayes: BayesCallback) -> None:
    documents = fakes.scan_documents()
    uid = hear(bayes, [*documents[:4], *documents])
    assert bayes.result(uid, SECONDS).data.n == 5


def test_a_result_of_an_analysis_is_not_analysed(bayes: BayesCallback) -> None:
    uid = hear(bayes, fakes.scan_documents(original_run_uid="another"))
    with pytest.raises(KeyError, match="was not heard"):
        bayes.future(uid)


def test_documents_of_a_run_that_began_unheard_are_left_alone(
    bayes: BayesCallback, caught: pytest.LogCaptureFixture
) -> None:
    hear(bayes, fakes.scan_documents()[1:])
    assert not caught.records


def test_each_form_of_document_is_answered_or_said_to_hold_nothing(
    bayes: BayesCallback, data_folder: Path, caught: pytest.LogCaptureFixture
) -> None:
    uids = []
    for path in sorted((data_folder / "recorded_documents").glob("*.json")):
        documents = fakes.recorded(data_folder, path.stem)
        hear(bayes, documents)
        uids += [doc["uid"] for name, doc in documents if name == "start"]
    outcomes = {type(bayes.future(uid).exception(SECONDS)) for uid in uids}
    assert outcomes == {type(None), NothingToAnalyseError}
    assert all(record.levelno == logging.INFO for record in caught.records)


def test_a_run_with_nothing_to_analyse_says_why_and_publishes_nothing(bayes: BayesCallback, written: Written) -> None:
    uid = hear(bayes, fakes.scan_documents(hints={"dimensions": [[["time"], "primary"]]}))
    with pytest.raises(NothingToAnalyseError, match="nothing was scanned"):
        bayes.result(uid, SECONDS)
    assert bayes.published(uid, SECONDS) is None
    assert not written.of(uid)


@pytest.mark.parametrize(
    ("mood", "kind", "sentence"),
    [
        ("raises", ValueError, "^y is too high: close the slits"),
        ("raises oddly", RuntimeError, "^UnpicklableError: not today"),
        ("dies", WorkerDiedError, "lost 2 times over this analysis: it died with exit status 7"),
    ],
)
def test_an_analysis_that_fails_is_a_sentence_that_is_published(
    bayes: BayesCallback, written: Written, caught: pytest.LogCaptureFixture, mood: str, kind: type, sentence: str
) -> None:
    uid = hear(bayes, fakes.scan_documents(mood))
    with pytest.raises(kind, match=sentence):
        bayes.result(uid, SECONDS)
    assert bayes.published(uid, SECONDS)
    (start,) = written.of(uid)
    assert start["result"]["status"] == "failed"
    assert start["result"]["reason"] in caught.text
    assert "last trouble: " in bayes.status()


def test_an_error_carries_where_it_happened_in_the_worker(bayes: BayesCallback) -> None:
    error = bayes.future(hear(bayes, fakes.scan_documents("raises"))).exception(SECONDS)
    assert error is not None
    assert "fakes.py" in error.__notes__[0]


def test_an_analysis_that_hangs_is_ended_tried_once_more_and_then_given_up_in_words(written: Written) -> None:
    with BayesCallback(fakes.Moody(), publish=written, time_limit=8.0) as bayes:
        always, fine = (hear(bayes, fakes.scan_documents(mood)) for mood in ("hangs", "fine"))
        with pytest.raises(WorkerDiedError, match=r"lost 2 times .* no answer within 8 s and was ended"):
            bayes.result(always, SECONDS)
        assert bayes.result(fine, SECONDS).best.model.name == "1 peak"
        bayes.published(always, SECONDS)
    (failure,) = written.of(always)
    assert failure["result"]["status"] == "failed"


def test_a_worker_that_dies_once_costs_nothing_but_time(bayes: BayesCallback) -> None:
    uid = hear(bayes, fakes.scan_documents("dies once"))
    assert bayes.result(uid, SECONDS).data.n == 5


def test_runs_that_wait_behind_a_deadly_one_are_answered(bayes: BayesCallback) -> None:
    deadly = hear(bayes, fakes.scan_documents("dies"))
    others = [hear(bayes, fakes.scan_documents()) for _ in range(3)]
    assert all(bayes.result(uid, SECONDS).data.n == 5 for uid in others)
    assert isinstance(bayes.future(deadly).exception(), WorkerDiedError)


def test_a_run_that_failed_is_analysed_again_when_it_is_repeated(bayes: BayesCallback) -> None:
    documents = fakes.scan_documents("raises")
    uid = hear(bayes, documents)
    first = bayes.future(uid)
    first.exception(SECONDS)
    hear(bayes, documents)
    assert bayes.future(uid) is not first


def test_an_analysis_may_print(bayes: BayesCallback) -> None:
    assert bayes.result(hear(bayes, fakes.scan_documents("prints")), SECONDS)


@pytest.mark.parametrize(
    ("name", "doc"),
    [("start", {}), ("event", {}), ("descriptor", {}), ("stop", None), (None, None), ("event", {"descriptor": []})],
)
def test_documents_that_make_no_sense_are_logged_and_never_raise(
    bayes: BayesCallback, caught: pytest.LogCaptureFixture, name: Any, doc: Any
) -> None:
    bayes(name, doc)
    bayes.status()


def test_a_run_with_a_broken_document_is_given_up_and_the_next_is_answered(bayes: BayesCallback) -> None:
    documents = fakes.scan_documents()
    broken = ("event", {"descriptor": documents[1][1]["uid"], "seq_num": "first"})
    uid = hear(bayes, [*documents[:3], broken, *documents[3:]])
    assert bayes.future(uid).exception(SECONDS) is not None
    assert bayes.result(hear(bayes, fakes.scan_documents()), SECONDS)


@pytest.fixture(scope="module")
def journalled(no_compiling: None, written: Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A callback with a journal, and an engine that tells it and then somebody else of its runs."""
    engine: Any = RunEngine({}, call_returns_result=True)
    with BayesCallback(fakes.Quick(), publish=written, journal=tmp_path_factory.mktemp("journal")) as callback:
        engine.subscribe(callback)
        yield engine, callback


@pytest.mark.parametrize(
    ("where", "name", "is_known"),
    [
        (intake.Intake, "_hear", False),
        (RunCollector, "__call__", True),
        (Worker, "submit", True),
        (BayesCallback, "_take", True),
        (Publisher, "_attempt", True),
    ],
)
def test_a_bug_in_the_callback_reaches_neither_run_nor_plan_and_the_run_can_be_done_later(
    where: type, name: str, is_known: bool, journalled: Any, written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    engine, callback = journalled
    heard: Documents = []

    def plan() -> Any:
        motor = SynAxis(name="motor")
        uid = yield from scan([spectrum(motor)], motor, 1.0, 2.0, 5)
        yield from bps.null()
        return uid

    def failing(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("there is a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, failing)
        outcome = engine(plan(), lambda name, doc: heard.append((name, doc)))
        uid = outcome.plan_result
        assert outcome.exit_status == "success"
        assert [name for name, _ in heard] == ["start", "descriptor", *["event"] * 5, "stop"]
        if is_known:
            publishing = where is Publisher
            future = callback._run(uid).published if publishing else callback.future(uid)
            assert "there is a bug" in str(future.exception(SECONDS))
        assert "there is a bug" in caplog.text
    if is_known:
        assert callback.finish([fakes.Stored(heard)]).done == [uid]
        assert len(written.of(uid)) == 1
    uid = engine(plan()).plan_result
    assert callback.result(uid, SECONDS) and callback.published(uid, SECONDS)


def test_an_unknown_run_is_a_key_error_that_says_what_to_do(bayes: BayesCallback) -> None:
    for ask in (bayes.future, bayes.result, bayes.published):
        with pytest.raises(KeyError, match="subscribe the callback before the run begins"):
            ask("nobody")


def test_a_run_that_goes_on_times_out_in_a_sentence(bayes: BayesCallback) -> None:
    documents = fakes.scan_documents()
    uid = hear(bayes, documents[:-1])
    with pytest.raises(TimeoutError, match=r"no answer for run .* after 0.01 s; it may still come"):
        bayes.result(uid, 0.01)
    assert "runs open: 1" in bayes.status()
    bayes(*documents[-1])
    assert bayes.result(uid, SECONDS)


def test_runs_that_never_stop_are_given_up_when_many_have_begun(
    bayes: BayesCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_OPEN", 2)
    uids = [hear(bayes, fakes.scan_documents()[:-1]) for _ in range(3)]
    with pytest.raises(NotDoneError, match="never stopped while 2 others began"):
        bayes.result(uids[0], 0)
    assert not bayes.future(uids[1]).done()
    for uid in uids[1:]:
        bayes("stop", {"run_start": uid})
        assert bayes.result(uid, SECONDS)


def test_the_oldest_runs_are_forgotten(bayes: BayesCallback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    uids = []
    for _ in range(3):
        uids.append(hear(bayes, fakes.scan_documents()))
        bayes.published(uids[-1], SECONDS)
    with pytest.raises(KeyError, match="the last 2 runs are remembered"):
        bayes.future(uids[0])
    assert bayes.future(uids[2]).done()


def test_what_is_forgotten_leaves_the_memory_at_once(
    bayes: BayesCallback, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    answers = []
    gc.disable()  # in a large process it looks for cycles once in hundreds of runs
    try:
        for _ in range(5):
            uid = hear(bayes, fakes.scan_documents())
            answers.append(weakref.ref(bayes.result(uid, SECONDS)))
            assert bayes.published(uid, SECONDS)
        assert [answer() is None for answer in answers] == [True] * 3 + [False] * 2
    finally:
        gc.enable()


def test_runs_leave_nothing_for_a_search_for_cycles(bayes: BayesCallback, written: Written) -> None:
    for n in range(3):
        assert bayes.published(hear(bayes, fakes.scan_documents(n=40 + n)), SECONDS)
    gc.collect()
    gc.disable()
    try:
        for n in range(5):
            assert bayes.published(hear(bayes, fakes.scan_documents(n=50 + n)), SECONDS)
        assert gc.collect() < 20  # the priors of one answer alone would be 79
    finally:
        gc.enable()


def test_who_stops_waiting_does_not_cancel_the_analysis(bayes: BayesCallback) -> None:
    future = bayes.future(hear(bayes, fakes.scan_documents()))
    assert not future.cancel()
    assert future.result(SECONDS)


def worker_pid(callback: BayesCallback) -> int:
    process = callback._worker._process
    assert process is not None
    return process._popen.pid


def test_ctrl_c_does_not_reach_the_worker(bayes: BayesCallback) -> None:
    bayes.result(hear(bayes, fakes.scan_documents()), SECONDS)
    pid = worker_pid(bayes)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    bayes.result(hear(bayes, fakes.scan_documents()), SECONDS)
    assert worker_pid(bayes) == pid


def test_an_idle_worker_that_was_killed_is_replaced(bayes: BayesCallback) -> None:
    bayes.result(hear(bayes, fakes.scan_documents()), SECONDS)
    pid = worker_pid(bayes)
    os.kill(pid, signal.SIGKILL)
    assert bayes.result(hear(bayes, fakes.scan_documents()), SECONDS)
    assert worker_pid(bayes) != pid


def test_hearing_a_document_costs_far_less_than_a_millisecond(bayes: BayesCallback) -> None:
    documents = fakes.scan_documents(n=3000)
    cost = []
    for name, doc in documents:
        begin = time.perf_counter()
        bayes(name, doc)
        cost.append(time.perf_counter() - begin)
    assert sorted(cost)[int(0.99 * len(cost))] < 0.2e-3
    assert bayes.result(documents[0][1]["uid"], SECONDS).data.n == 3000


def test_many_threads_may_speak_at_once(bayes: BayesCallback) -> None:
    played = [fakes.scan_documents(n=50) for _ in range(8)]
    threads = [threading.Thread(target=hear, args=(bayes, documents)) for documents in played]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bayes.result(documents[0][1]["uid"], SECONDS).data.n == 50 for documents in played)


def test_an_analysis_that_blocks_holds_up_nobody_and_closing_ends_it() -> None:
    callback = BayesCallback(fakes.Slow(seconds=600.0))
    begin = time.monotonic()
    first, second = (hear(callback, fakes.scan_documents()) for _ in range(2))
    opened = hear(callback, fakes.scan_documents()[:-1])
    assert time.monotonic() - begin < 1.0
    assert "runs open: 1, in analysis: 2" in callback.status()
    callback.close(timeout=0.2)
    assert time.monotonic() - begin < 10.0
    for uid in (first, second):
        with pytest.raises(NotDoneError, match=r"not finished 0.2 s after the callback was closed"):
            callback.result(uid, 0)
    with pytest.raises(NotDoneError, match="closed before the run ended"):
        callback.result(opened, 0)
    assert callback.published(first, 0) is None
    assert callback.status().startswith("closed: ")
    assert hear(callback, fakes.scan_documents())
    callback.close()


def test_closing_that_was_broken_off_is_taken_up_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written()
    callback = BayesCallback(fakes.Slow(seconds=0.5), publish=written, journal=tmp_path)
    uid = hear(callback, fakes.scan_documents())

    def interrupted(jobs: Backlog) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Backlog, "_idle", interrupted)
        callback.close(SECONDS)
    assert callback.closed
    with pytest.raises(JournalInUseError):
        BayesCallback(fakes.Quick(), journal=tmp_path)
    callback.close(SECONDS)
    assert callback.published(uid, 0) == written.runs[0][0][1]["uid"]
    assert callback._worker._process is not None and not callback._worker._process.alive
    BayesCallback(fakes.Quick(), journal=tmp_path).close(SECONDS)


def test_who_waits_for_an_answer_may_close_the_callback_which_then_writes_it(tmp_path: Path) -> None:
    documents, written, seconds = fakes.scan_documents(), Written(), list[float]()
    callback = BayesCallback(fakes.Quick(), publish=written, journal=tmp_path)

    def close(_: Future[Any]) -> None:
        begin = time.monotonic()
        callback.close(SECONDS)
        seconds.append(time.monotonic() - begin)

    callback(*documents[0])
    uid = documents[0][1]["uid"]
    for future in (callback.future(uid), callback._run(uid).published):
        future.add_done_callback(close)
    hear(callback, documents)
    assert callback.published(uid, SECONDS)
    callback.close(SECONDS)
    assert len(written.of(uid)) == 1
    assert len(seconds) == 2 and max(seconds) < 1.0
    BayesCallback(fakes.Quick(), journal=tmp_path).close(SECONDS)


def test_closing_waits_for_work_that_finishes_in_time() -> None:
    written = Written()
    callback = BayesCallback(fakes.Slow(seconds=0.3), publish=written)
    uids = [hear(callback, fakes.scan_documents()) for _ in range(2)]
    callback.close(SECONDS)
    assert all(callback.result(uid, 0) and callback.published(uid, 0) for uid in uids)
    assert len(written.runs) == 2


def test_analyses_beyond_what_may_wait_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bluesky_bayes.callbacks.worker.MOST_WAITING", 1)
    with BayesCallback(fakes.Slow(seconds=0.5)) as callback:
        futures = [callback.future(hear(callback, fakes.scan_documents())) for _ in range(4)]
        refused = [str(future.exception(SECONDS)) for future in futures if future.exception(SECONDS)]
    # One may run while one waits.
    assert len(refused) >= 2
    assert all(sentence.startswith("refused: 1 analyses wait already") for sentence in refused)


def test_a_preparation_that_fails_is_logged_and_the_analysis_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "prepare", fakes.ill_prepared)
    with BayesCallback(fakes.Quick()) as callback:
        assert callback.result(hear(callback, fakes.scan_documents()), SECONDS)
    assert "could not be prepared and may be slow at first: there is no compiler" in caplog.text


def test_an_analysis_that_no_other_process_could_load_is_refused_at_once() -> None:
    class Local(fakes.Quick):
        pass

    with pytest.raises(TypeError, match="the worker process cannot be sent this analysis"):
        BayesCallback(Local())


def test_the_name_of_a_recipe_s_file_is_no_analysis() -> None:
    recipe: Any = "peaks.toml"
    with pytest.raises(TypeError, match=r"got str: what a file holds is read by bluesky_bayes.analysis.load"):
        BayesCallback(recipe)


def test_an_analysis_of_the_script_itself_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes.Quick, "__module__", "__main__")
    monkeypatch.setattr("__main__.Quick", fakes.Quick, raising=False)
    with pytest.raises(TypeError, match="put it into a module"):
        BayesCallback(fakes.Quick())


SCRIPT = """
import fakes
from bluesky_bayes.callbacks import BayesCallback, bayes as module

module.prepare, module.SECONDS_AT_EXIT = fakes.unprepared, 0.5
print("the experiment begins")
quick, slow = BayesCallback(fakes.Quick()), BayesCallback(fakes.Slow(seconds=600.0))
documents = fakes.scan_documents(uid="one")
for name, doc in documents:
    quick(name, doc)
    slow(name, doc)
print(quick.result("one", 30.0).best.model.name)
"""


def test_an_unguarded_script_runs_once_and_ends_though_an_analysis_blocks(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "experiment.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(repository / "tests"), str(repository)])
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the experiment begins", "1 peak"]
    assert "given up: not finished 0.5 s after the callback was closed" in done.stderr


FORK = """
import os, sys, time
import fakes
from bluesky_bayes.callbacks import BayesCallback, bayes as module

module.prepare = fakes.unprepared
bayes = BayesCallback(fakes.Slow(seconds=3.0))
for name, doc in fakes.scan_documents(uid="one"):
    bayes(name, doc)
while bayes._worker._process is None or len(bayes._worker) != 1 or not bayes._worker._warm.done():
    time.sleep(0.01)
time.sleep(1.0)
child = os.fork()
if child == 0:
    sys.exit(0)
deadline = time.monotonic() + 20.0
while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
    time.sleep(0.05)
if ended == (0, 0):
    os.kill(child, 9)
print(ended == (child, 0), bayes.result("one", 30.0).best.model.name)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
def test_a_fork_ends_while_a_job_runs_and_leaves_the_callback_to_its_owner(repository: Path) -> None:
    path = os.pathsep.join([str(repository / "tests"), str(repository)])
    done = subprocess.run(
        [sys.executable, "-c", FORK], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=90
    )
    assert done.stdout.split() == ["True", "1", "peak"], done.stderr
