"""A worker on its own, a Tiled server that wants keys, and plans that wait for what is published there."""

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky.plans import scan
from bluesky.utils import RunEngineInterrupted
from tileds import Server, free_port, until
from typer.testing import CliRunner, Result

from bluesky_bayes import Analysis, remote
from bluesky_bayes.answers import Answer
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.cli import app
from bluesky_bayes.documents import failure_documents, selection_documents
from bluesky_bayes.plans import wait_for_published
from bluesky_bayes.remote import Follower, answered_runs, is_answered, read_answer
from bluesky_bayes.servers import catalogue_of_runs, connected

pytest.importorskip("bluesky_tiled_plugins")
pytest.importorskip("tiled.server")
pytestmark = pytest.mark.tiled

SECONDS = 120.0
SCOPES = ["read:metadata", "read:data", "write:metadata", "write:data", "create:node"]
RECIPE = """
[data]
x = "motor"
y = "det"
[candidates]
family = "linear"
basis = {slope = "x", offset = "1"}
[noise]
kind = "gaussian"
sigma = 0.1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with closing(Server(tmp_path_factory.mktemp("tiled"))) as server:
        server.wait()
        yield server


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """Key of a worker."""
    return server.key(*SCOPES, "create:apikeys", "revoke:apikeys")


@pytest.fixture(scope="module")
def client(server: Server, key: str) -> Iterator[Any]:
    from tiled.client import from_uri

    client = from_uri(server.uri, api_key=key)
    with closing(client.context):
        catalogue_of_runs(client, "raw")
        yield client


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "line.toml"
    path.write_text(RECIPE)
    return path


@contextmanager
def process(arguments: list[str], key: str | None, log: Path, repository: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, ended in any case."""
    environment = {name: value for name, value in os.environ.items() if name != "TILED_API_KEY"}
    environment |= {"PYTHONPATH": str(repository), "COLUMNS": "160"}
    if key is not None:
        environment["TILED_API_KEY"] = key
    command = [sys.executable, "-c", "from bluesky_bayes.cli import main; main()", *arguments]
    with log.open("ab") as out:
        running = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def here(arguments: list[str], key: str | None, ended: Callable[[], object] = bool) -> Result:
    """The command in this process, ended by Ctrl-C when something has happened."""

    usual = signal.getsignal(signal.SIGINT)

    def end() -> None:
        if until(lambda: signal.getsignal(signal.SIGINT) is not usual):
            until(ended)
            os.kill(os.getpid(), signal.SIGINT)

    if ended is not bool:
        threading.Thread(target=end, daemon=True).start()
    return CliRunner(env={"COLUMNS": "160", "TILED_API_KEY": key}).invoke(app, arguments)


def straight(slope: float = 2.0) -> list[tuple[str, Any]]:
    """Documents of a scan of a straight line without noise."""
    x = np.linspace(0.0, 1.0, 21)
    return fakes.measured(x.tolist(), (slope * x + 1.0).tolist())


def write(container: Any, documents: list[tuple[str, Any]]) -> str:
    """Put a run into a catalogue, as a RunEngine's TiledWriter does; gives its uid."""
    from bluesky_tiled_plugins import TiledWriter

    writer = TiledWriter(container, max_array_size=0)
    for name, doc in documents:
        writer(name, doc)
    uid: str = documents[0][1]["uid"]
    return uid


def answers_in(processed: Any) -> Counter[str]:
    """How many answers there are for each run."""
    return Counter(run.metadata["start"]["original_run_uid"] for run in processed.values())


def test_a_worker_answers_what_it_missed_and_what_comes_and_never_twice(
    server: Server, client: Any, key: str, recipe: Path, repository: Path, tmp_path: Path
) -> None:
    raw, processed = client["raw"], catalogue_of_runs(client, "by worker")
    digest, log = Analysis.load(recipe).digest, tmp_path / "log"
    arguments = ["worker", "--recipe", str(recipe), "--tiled", server.uri, "--processed", "by worker"]
    uids = [write(raw, straight()), write(raw, straight(-1.0))]
    unfinished = straight()
    write(raw, unfinished[:-1])
    with process(arguments, key, log, repository) as worker:
        assert until(lambda: answered_runs(processed, digest) == set(uids)), log.read_text()
        uids.append(write(raw, straight()))
        assert until(lambda: answered_runs(processed, digest) == set(uids)), log.read_text()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS) == 0
    uids.append(write(raw, straight()))
    again = here(arguments, key, lambda: answered_runs(processed, digest) == set(uids))
    assert again.exit_code == 0, again.output
    assert again.output.count("slope x + offset") == 1
    assert answers_in(processed) == Counter(uids)
    found = read_answer(processed, uids[1], digest)
    assert found is not None
    assert found.model == "slope x + offset"
    assert found.decisive
    assert abs(found.parameters["slope"].mean + 1.0) < 0.2
    said = log.read_text()
    assert key not in said
    assert "Traceback" not in said
    rows = [line for line in said.splitlines() if "slope x + offset" in line and "decided" in line]
    assert len(rows) == 3


def test_a_worker_with_a_journal_finishes_what_an_earlier_one_left(
    server: Server, client: Any, key: str, recipe: Path, tmp_path: Path
) -> None:
    pytest.importorskip("zmq")
    processed, documents = catalogue_of_runs(client, "by journal"), straight()
    uid = documents[0][1]["uid"]
    arguments = ["worker", "--recipe", str(recipe), "--zmq", f"tcp://127.0.0.1:{free_port()}", "--publish", server.uri]
    arguments += ["--processed", "by journal", "--journal", str(tmp_path)]
    with BayesCallback(Analysis.load(recipe), publish="http://127.0.0.1:9/none", journal=tmp_path) as earlier:
        for name, doc in documents:
            earlier(name, doc)
        assert earlier.result(uid, SECONDS)
        second = here(arguments, key)
        assert second.exit_code == 2 and "is in use by process" in second.stderr
        earlier.close(1.0)
    outcome = here(arguments, key, lambda: len(processed))
    assert outcome.exit_code == 0, outcome.output
    assert answers_in(processed) == Counter([uid])
    with BayesCallback(Analysis.load(recipe), journal=tmp_path) as later:
        assert not later.unfinished()


def test_a_worker_without_a_key_that_will_do_says_so_and_ends(server: Server, client: Any, recipe: Path) -> None:
    arguments = ["worker", "--recipe", str(recipe), "--tiled", server.uri, "--processed", "forbidden"]
    for key, sentence in (
        (None, "wants a key: set TILED_API_KEY"),
        (server.key("read:metadata", "read:data"), "refused: 401: Not enough permissions. Requires scopes"),
        ("0123", "refused: 401: Invalid API key"),
    ):
        outcome = here(arguments, key)
        assert outcome.exit_code == 2
        assert outcome.stderr.splitlines()[-1].startswith(f"Error: the Tiled server at {server.uri} {sentence}")
        gc.collect()  # a connection that was left open would be a warning here
    assert "forbidden" not in client


class Line:
    """A network between a client and a server that can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self.cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def break_off(self) -> None:
        self.cut = True
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self.break_off()
        self._listening.close()
        for each in self._open:
            each.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # tiled's own
def test_after_the_network_was_away_what_was_missed_is_answered_once(
    server: Server,
    client: Any,
    key: str,
    quick: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tiled.client import from_uri, utils

    monkeypatch.setattr(utils, "TILED_RETRY_ATTEMPTS", 2)
    raw, processed = catalogue_of_runs(client, "raw of network"), catalogue_of_runs(client, "by network")
    line = Line(int(server.uri.rpartition(":")[2]))
    with ExitStack() as stack:
        stack.enter_context(caplog.at_level(logging.INFO, logger="bluesky_bayes"))
        stack.enter_context(closing(line))
        shaky = from_uri(f"http://127.0.0.1:{line.port}", api_key=key)
        stack.enter_context(closing(shaky.context))
        bayes = stack.enter_context(BayesCallback(fakes.Quick(), publish=processed))
        follower = Follower(bayes, shaky["raw of network"], shaky["by network"], every=0.2)
        stack.enter_context(closing(follower))
        follower.start()
        first = write(raw, fakes.scan_documents())
        assert until(lambda: read_answer(processed, first))
        line.break_off()
        second = write(raw, fakes.scan_documents())
        assert until(lambda: follower.trouble), caplog.text
        line.cut = False
        assert until(lambda: read_answer(processed, second)), caplog.text
    assert answers_in(processed) == Counter([first, second])
    assert caplog.text.count("the Tiled server cannot be asked, and is asked again") == 1
    assert "the Tiled server answers again" in caplog.text


def test_a_run_that_cannot_be_read_does_not_hold_up_the_others(
    client: Any, quick: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, processed = catalogue_of_runs(client, "raw of broken"), catalogue_of_runs(client, "by broken")
    broken, fine = (write(raw, fakes.scan_documents()) for _ in range(2))
    kind = type(raw[broken])  # another one where databroker was imported before
    documents = kind.documents

    def some(run: Any) -> Iterator[tuple[str, Any]]:
        if run.metadata["start"]["uid"] == broken:
            raise KeyError("its files are gone")
        yield from documents(run)

    monkeypatch.setattr(kind, "documents", some)
    with BayesCallback(fakes.Quick(), publish=processed) as bayes:
        follower = Follower(bayes, raw, processed)
        assert [follower.look() for _ in range(4)] == [1, 0, 1, 0]
        assert bayes.published(fine, SECONDS)
    assert caplog.text.count("cannot be read: KeyError: 'its files are gone'") == 3
    assert "is left out: it could not be read 3 times" in caplog.text


def test_a_run_whose_end_was_lost_on_the_way_is_heard_again_from_the_catalogue(client: Any, quick: None) -> None:
    raw, processed = catalogue_of_runs(client, "raw of lossy"), catalogue_of_runs(client, "by lossy")
    lossy, whole, result = fakes.scan_documents(), fakes.scan_documents(), fakes.scan_documents(original_run_uid="1")
    with BayesCallback(fakes.Quick(), publish=processed) as bayes:
        for name, doc in [*lossy[:4], *whole]:
            bayes(name, doc)
        for documents in (lossy, whole, result):
            write(raw, documents)
        bayes.result(whole[0][1]["uid"], SECONDS)
        assert Follower(bayes, raw, processed, grace=3600.0).look() == 0
        assert Follower(bayes, raw, processed).look() == 1
        assert bayes.result(lossy[0][1]["uid"], SECONDS).data.n == 5


def test_a_long_run_is_found_when_it_ends_after_others(
    client: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bluesky_tiled_plugins import TiledWriter

    monkeypatch.setattr(remote, "SLACK", 0.0)
    raw, processed = catalogue_of_runs(client, "raw of long"), catalogue_of_runs(client, "by long")
    writer, documents = TiledWriter(raw), fakes.scan_documents()
    for name, doc in documents[:-1]:
        writer(name, doc)
    write(raw, fakes.scan_documents())
    with BayesCallback(fakes.Quick(), publish=processed) as bayes:
        follower = Follower(bayes, raw, processed)
        assert [follower.look() for _ in range(2)] == [1, 0]
        writer(*documents[-1])
        assert [follower.look() for _ in range(2)] == [1, 0]


@pytest.fixture(scope="module")
def engine() -> RunEngine:
    return RunEngine({})


def test_a_plan_waits_for_what_a_worker_elsewhere_publishes(
    server: Server, client: Any, key: str, recipe: Path, repository: Path, tmp_path: Path, engine: RunEngine
) -> None:
    """The whole way round: RunEngine, 0MQ proxy, worker, Tiled, and the plan that waits."""
    pytest.importorskip("zmq")
    from bluesky.callbacks.zmq import Publisher
    from ophyd.sim import SynAxis, SynSignal

    incoming, outgoing = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    motor = SynAxis(name="motor")
    det = SynSignal(lambda: 2.0 * motor.position + 1.0, name="det")
    arguments = ["worker", "--recipe", str(recipe), "--zmq", outgoing, "--publish", server.uri, "--processed", "by zmq"]
    answers: list[Answer] = []
    log = tmp_path / "log"
    log.touch()

    def measure() -> Any:
        uid = yield from scan([det], motor, 0, 1, 21)
        answers.append((yield from wait_for_published(client["by zmq"], uid, SECONDS)))

    with ExitStack() as stack:
        command = Path(sys.executable).with_name("bluesky-0MQ-proxy")
        proxy = subprocess.Popen([command, "--in-address", incoming, "--out-address", outgoing])
        stack.callback(proxy.wait)
        stack.callback(proxy.kill)
        stack.enter_context(process(arguments, key, log, repository))
        publisher = stack.enter_context(closing(Publisher(incoming)))
        assert until(lambda: "hearing runs from" in log.read_text()), log.read_text()
        token = engine.subscribe(lambda name, doc: publisher(name, dict(doc)))  # type: ignore[no-untyped-call]
        for _ in range(10):  # the subscription takes a moment, and what is sent before is lost
            engine(scan([det], motor, 0, 1, 21))
            if until(lambda: "slope x + offset" in log.read_text(), 10.0):
                break
        engine(measure())
        engine.unsubscribe(token)  # type: ignore[no-untyped-call]
    (answer,) = answers
    assert answer.found
    assert answer.model == "slope x + offset"
    assert answer.reason == ""


def test_waiting_for_what_is_never_published_may_be_paused_resumed_and_aborted(client: Any, engine: RunEngine) -> None:
    processed = catalogue_of_runs(client, "by nobody")
    interrupts = iter([0.3, 0.8])

    def interrupt() -> None:
        time.sleep(next(interrupts))
        engine.request_pause(defer=False)  # type: ignore[no-untyped-call]

    def plan() -> Any:
        yield from bps.null()
        yield from wait_for_published(processed, "nobody", 600.0)

    for go_on in (lambda: engine(plan()), engine.resume):
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(RunEngineInterrupted):
            go_on()
        assert engine.state == "paused"
    engine.abort()  # type: ignore[no-untyped-call]
    assert engine.state == "idle"
    assert until(lambda: not any(t.name == "bluesky_bayes question" for t in threading.enumerate()))


def test_what_the_server_says_is_in_the_words_of_the_timeout(engine: RunEngine) -> None:
    class Down:
        item = property(lambda self: (_ for _ in ()).throw(ConnectionError("nobody is there")))

    with pytest.raises(TimeoutError, match=r"no answer for run 01234567 was published within 0.5 s; the server says: "):
        engine(wait_for_published(Down(), "0123456789", 0.5))


def test_an_answer_reads_the_same_from_here_and_from_the_catalogue(client: Any, make_selection: Any) -> None:
    processed = catalogue_of_runs(client, "by hand")
    selection = make_selection()
    raw_start = {"uid": selection.data.origin.run_uid, "scan_id": 7}
    uid = write(processed, list(selection_documents(selection, raw_start, {"digest": "d"})))
    here, there = Answer.of(selection), read_answer(processed, raw_start["uid"], "d")
    assert there is not None
    assert there.uid == uid
    assert {**vars(there), "uid": ""} == vars(here)
    assert there.value("peak1.center") == here.value("peak1.center")
    assert read_answer(processed, raw_start["uid"], "other") is None


def test_a_failure_reads_as_an_answer_that_was_not_found(client: Any) -> None:
    processed = catalogue_of_runs(client, "by hand")
    write(processed, list(failure_documents({"uid": "f"}, {"digest": "d"}, "the slits were closed")))
    found = read_answer(processed, "f")
    assert found is not None
    assert (found.found, found.probability, found.reason) == (False, 0.0, "the slits were closed")
    assert found.verdict == "no answer: the slits were closed"


def test_an_answer_that_was_cut_off_while_it_was_written_is_none(client: Any, make_selection: Any) -> None:
    processed = catalogue_of_runs(client, "by hand")
    write(processed, list(selection_documents(make_selection(), {"uid": "cut"}, {"digest": "d"}))[:-1])
    assert read_answer(processed, "cut") is None
    assert "cut" not in answered_runs(processed, "d")


def test_a_run_with_several_results_is_answered_when_each_is_there_or_says_why_it_is_not(
    client: Any, make_selection: Any
) -> None:
    processed, selection = catalogue_of_runs(client, "in parts"), make_selection()

    def publish(uid: str, part: int, good: bool = True) -> None:
        analysis = {"digest": "d", "part": part, "parts": 3, "events": [part]}
        answer = selection_documents(selection, {"uid": uid}, analysis)
        write(processed, list(answer if good else failure_documents({"uid": uid}, analysis, "no light")))

    for part in (1, 2, 3):
        publish("all", part)
        publish("dark", part, good=False)
    for part, good in ((1, True), (2, False), (3, True)):
        publish("mixed", part, good)
    for part, good in ((1, False), (1, True), (3, True)):
        publish("gap", part, good)
    write(processed, list(selection_documents(selection, {"uid": "single"}, {"digest": "d"})))
    write(processed, list(failure_documents({"uid": "failed"}, {"digest": "d"}, "no light")))
    assert answered_runs(processed, "d") == {"all", "dark", "mixed", "single", "failed"}
    answered = [uid for uid in ("all", "dark", "mixed", "gap", "single", "failed") if is_answered(processed, uid, "d")]
    assert answered == ["all", "mixed", "single"]


def test_answers_are_watched_as_they_are_published(server: Server, client: Any, key: str, make_selection: Any) -> None:
    processed = catalogue_of_runs(client, "by watcher")
    write(processed, list(selection_documents(make_selection(), {"uid": "w1", "scan_id": 41}, {"digest": "d"})))
    write(processed, list(failure_documents({"uid": "w2", "scan_id": 42}, {"digest": "d"}, "no light")))
    outcome = here(["watch", server.uri, "--processed", "by watcher"], key, lambda: True)
    assert outcome.exit_code == 0, outcome.output
    header, first, second = outcome.stdout.splitlines()
    assert header.split() == ["time", "scan", "model", "p(model", "|", "data)", "parameters"]
    assert first.split()[1:4] == ["41", "1", "peak"]
    assert second.split()[1:] == ["42", "no", "answer", "failed", "no", "light"]
    assert key not in outcome.output


def test_a_profile_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"'nowhere' is neither an address such as .* nor a Tiled profile"):
        with connected("nowhere"):
            pass


def test_looking_back_takes_a_positive_time(client: Any) -> None:
    with pytest.raises(ValueError, match="hours to look back must be positive; got 0"):
        Follower(None, client, client, hours=0.0)  # type: ignore[arg-type]
