"""A Tiled server that is down, slow, refusing or left half-written: no result is lost, none is there twice."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakes
import pytest

from bluesky_bayes.callbacks import BayesCallback, publish
from bluesky_bayes.callbacks.answers import Lines
from bluesky_bayes.callbacks.backlog import NotDoneError
from bluesky_bayes.callbacks.targets import RefusedError, writer
from bluesky_bayes.documents import selection_documents

pytestmark = pytest.mark.usefixtures("no_compiling")

SECONDS = 90.0


class Front(http.server.BaseHTTPRequestHandler):
    """Stands before a Tiled server and answers with a status of its own."""

    status, seconds = 503, 0.0
    n_requests = 0

    def do_GET(self) -> None:
        type(self).n_requests += 1
        threading.Event().wait(self.seconds)
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"detail": "not for you"}')

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def front(**answers: Any) -> Iterator[tuple[str, type[Front]]]:
    """Address and handler of a server that misbehaves."""
    handler = type("Front", (Front,), answers)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def play(callback: BayesCallback, documents: list[tuple[str, Any]]) -> str:
    for name, doc in documents:
        callback(name, doc)
    uid: str = documents[0][1]["uid"]
    return uid


@pytest.fixture
def address(tiled_client: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of the embedded server; its key is where other processes look for it."""
    monkeypatch.setenv("TILED_API_KEY", tiled_client.context.api_key)
    url = tiled_client.context.api_uri
    return f"{url.scheme}://{url.host}:{url.port}"


@pytest.mark.tiled
def test_a_profile_starts_while_its_server_is_down_and_the_answer_is_written_after_a_restart(
    tiled_client: Any, address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = fakes.scan_documents(data_session="pass-7", sample={"name": "MnF2"})
    with BayesCallback(fakes.Quick(), publish="http://127.0.0.1:9/processed", journal=tmp_path) as bayes:
        uid = play(bayes, documents)
        assert bayes.result(uid, SECONDS)
        with pytest.raises(TimeoutError):
            bayes.published(uid, 3.0)
        bayes.close(SECONDS)
    assert caplog.text.count("it is tried again, later and later: http://127.0.0.1:9/processed") == 1
    processed = tiled_client["processed"]
    with BayesCallback(fakes.Quick(), publish=f"{address}/processed", journal=tmp_path) as bayes:
        assert "analysed, not published" in str(bayes.unfinished())
        assert bayes.finish().done == [uid]
        # Once more from the raw run, in a callback that knows of nothing.
        with BayesCallback(fakes.Quick(), publish=f"{address}/processed") as other:
            assert play(other, documents) == uid
            result_uid = other.published(uid, SECONDS)
    assert [run.start["uid"] for run in _results(processed, uid)] == [result_uid]
    (run,) = _results(processed, uid)
    assert run.start["data_session"] == "pass-7"
    assert run.metadata["stop"]["exit_status"] == "success"


def _results(processed: Any, uid: str) -> list[Any]:
    from tiled.queries import Eq

    return list(processed.search(Eq("original_run_uid", uid)).values())


@pytest.mark.tiled
def test_a_result_that_was_left_half_written_is_written_anew(
    tiled_client: Any, make_selection: Callable[..., Any]
) -> None:
    raw, analysis = {"uid": "half-written"}, {"digest": "d" * 64}
    documents = list(selection_documents(make_selection(), raw, analysis))
    lines = Lines.of(documents)
    write = writer(tiled_client["processed"])
    stop = next(i for i, (name, _) in enumerate(documents) if name == "stop")
    from bluesky_tiled_plugins import TiledWriter

    broken = TiledWriter(tiled_client["processed"], batch_size=1)
    for name, doc in documents[: stop - 1]:
        broken(name, dict(doc))
    for _ in range(2):
        write(lines)
        run = tiled_client["processed"][lines.uid]
        assert run.metadata["stop"]["exit_status"] == "success"
        assert run.metadata["start"]["tables"]["models"]["model"] == ["no peak", "1 peak", "2 peaks"]
        assert run["primary"].read()["curves"].shape == (1, 6, make_selection().data.n)


def test_a_server_that_refuses_is_asked_once_for_each_result_and_the_result_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bluesky_tiled_plugins")
    monkeypatch.setenv("TILED_API_KEY", "a-secret-of-mine")
    with front(status=403) as (address, handler):
        with BayesCallback(fakes.Quick(), publish=f"{address}/processed", journal=tmp_path) as bayes:
            uid = play(bayes, fakes.scan_documents())
            with pytest.raises(RefusedError, match="whoever has this key may not write this there"):
                bayes.published(uid, SECONDS)
            n_requests = handler.n_requests
            assert [entry.state for entry in bayes.unfinished().entries] == ["analysed"]
            assert "results cannot be written" in bayes.status()
        assert handler.n_requests == n_requests
    assert caplog.text.count("it is not tried again by itself") == 1
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert "a-secret-of-mine" not in caplog.text + kept


def test_a_server_that_never_answers_holds_up_neither_answers_nor_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bluesky_tiled_plugins")
    monkeypatch.setattr(publish, "SECONDS_TO_WRITE", 2.0)
    with front(seconds=3.0) as (address, _):
        with BayesCallback(fakes.Quick(), publish=f"{address}/processed", journal=tmp_path) as bayes:
            uids = [play(bayes, fakes.scan_documents()) for _ in range(2)]
            assert all(bayes.result(uid, SECONDS) for uid in uids)
            bayes.close(timeout=0.5)
        for uid in uids:
            with pytest.raises(NotDoneError, match="given up"):
                bayes.published(uid, 0)
    with BayesCallback(fakes.Quick(), journal=tmp_path) as again:
        assert [entry.state for entry in again.unfinished().entries] == ["analysed"] * 2
        assert "there is nowhere to publish" in str(again.finish())
