"""A real Tiled server whose users have different rights, and which is killed in the middle of a write."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from tileds import READING, WRITING, Server

from bluesky_bayes.callbacks import BayesCallback, publish
from bluesky_bayes.callbacks.backlog import NotDoneError
from bluesky_bayes.callbacks.targets import RefusedError
from bluesky_bayes.remote import Follower

pytest.importorskip("bluesky_tiled_plugins")
pytest.importorskip("tiled.server")
pytest.importorskip("tiled.access_control.access_tags")
pytestmark = [pytest.mark.tiled, pytest.mark.usefixtures("no_compiling")]

SECONDS = 120.0
TAGS = {
    "beamline": {"daq": WRITING, "bob": READING, "carol": READING},
    "team-a": {"daq": WRITING, "bob": READING},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with closing(Server(tmp_path_factory.mktemp("tiled"), TAGS)) as server:
        server.wait()
        yield server


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """Key of the acquisition's account, which has its containers."""
    key = server.key("inherit", user="daq")
    with closing(client_of(server, key).context) as context:
        from tiled.client import from_context
        from tiled.structures.core import Spec

        for name in ("raw", "processed"):
            specs = [Spec("CatalogOfBlueskyRuns", "3.0")]
            from_context(context).create_container(name, specs=specs, access_tags=["beamline"])
    return key


def client_of(server: Server, key: str) -> Any:
    from tiled.client import from_uri

    return from_uri(server.uri, api_key=key)


def play(callback: BayesCallback, documents: list[tuple[str, Any]]) -> str:
    for name, doc in documents:
        callback(name, doc)
    uid: str = documents[0][1]["uid"]
    return uid


def results_of(client: Any, uid: str) -> list[Any]:
    from tiled.queries import Eq

    return list(client["processed"].search(Eq("original_run_uid", uid)).values())


def test_who_may_see_a_run_and_nobody_else_may_see_its_answer(server: Server, key: str) -> None:
    from bluesky_tiled_plugins import TiledWriter

    tagged = fakes.scan_documents(tiled_access_tags=["team-a"], data_session="pass-7")
    untagged = fakes.scan_documents()
    heard = fakes.scan_documents(tiled_access_tags=["team-a"], data_session="pass-8")
    with (
        closing(client_of(server, key).context) as context,
        closing(client_of(server, server.key("inherit", user="bob")).context) as bobs,
        closing(client_of(server, server.key("inherit", user="carol")).context) as carols,
    ):
        from tiled.client import from_context

        daq, bob, carol = map(from_context, (context, bobs, carols))
        for documents in (tagged, untagged):
            writer = TiledWriter(daq["raw"], max_array_size=0)
            for name, doc in documents:
                writer(name, doc)
        with BayesCallback(fakes.Quick(), publish=daq["processed"]) as bayes:
            assert Follower(bayes, daq["raw"], daq["processed"]).look() == 2
            uids = [play(bayes, heard), *(documents[0][1]["uid"] for documents in (tagged, untagged))]
            assert all(bayes.published(uid, SECONDS) for uid in uids)
        for uid, tags, session in zip(
            uids, (["team-a"], ["team-a"], ["user:daq"]), ("pass-8", "pass-7", None), strict=True
        ):
            (result,) = results_of(daq, uid)
            assert list(result.access_tags) == tags
            assert result.start.get("data_session") == session
            assert result["primary"].read()["curves"].shape == (1, 6, 5)
            assert len(results_of(bob, uid)) == (tags == ["team-a"])
            assert not results_of(carol, uid)


def test_a_key_that_is_unknown_and_one_that_may_not_write_are_told_apart_and_another_helps(
    server: Server, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reading, bobs = server.key(*READING, user="daq"), server.key("inherit", user="bob")
    refusals: list[tuple[str | None, dict[str, Any], str]] = [
        (None, {}, "the server wants a key, and TILED_API_KEY is not set"),
        ("0123abcd", {}, "Invalid API key .*the server does not know this key: TILED_API_KEY is wrong or has expired"),
        (reading, {}, "Not enough permissions.* this key may not write there: set TILED_API_KEY to one that"),
        (bobs, {}, "403: .*whoever has this key may not write this there: the server's staff"),
        (key, {"tiled_access_tags": ["team-b"]}, "tag='team-b' is not defined.*the server's staff give the right"),
    ]
    uids = []
    with BayesCallback(fakes.Quick(), publish=f"{server.uri}/processed", journal=tmp_path) as bayes:
        for secret, metadata, sentence in refusals:
            monkeypatch.delenv("TILED_API_KEY", raising=False)
            if secret is not None:
                monkeypatch.setenv("TILED_API_KEY", secret)
            uids.append(play(bayes, fakes.scan_documents(**metadata)))
            with pytest.raises(RefusedError, match=sentence):
                bayes.published(uids[-1], SECONDS)
        monkeypatch.setenv("TILED_API_KEY", key)
        finished = bayes.finish()
        assert finished.done == uids[:-1]
        assert list(finished.left) == uids[-1:]
    with closing(client_of(server, key).context) as context:
        from tiled.client import from_context

        assert [len(results_of(from_context(context), uid)) for uid in uids] == [1, 1, 1, 1, 0]
    kept = caplog.text + "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert not any(secret in kept for secret in (key, reading, bobs))


def half_written(server: Server, uid: str) -> bool:
    """Whether the catalogue has an answer for a run, and no stop document of it."""
    with closing(sqlite3.connect(f"file:{server.folder}/catalog.db?mode=ro", uri=True)) as catalogue:
        asked = "select metadata from nodes where json_extract(metadata, '$.start.original_run_uid') = ?"
        found = catalogue.execute(asked, (uid,)).fetchall()
    return bool(found) and not any('"stop"' in str(metadata) for (metadata,) in found)


def test_a_server_that_is_killed_in_the_middle_of_a_write_has_each_answer_once_after_its_restart(
    server: Server, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILED_API_KEY", key)
    monkeypatch.setattr(publish, "LONGEST_DELAY", 2.0)
    with BayesCallback(fakes.Quick(), publish=f"{server.uri}/processed", journal=tmp_path) as bayes:
        uids = [play(bayes, fakes.scan_documents())]
        assert bayes.published(uids[0], SECONDS)
        for _ in range(5):  # the last write may have come to its end a moment before
            uids.append(play(bayes, fakes.scan_documents(n=500)))
            while not half_written(server, uids[-1]) and not bayes._run(uids[-1]).published.done():
                time.sleep(0.002)
            server.kill()
            if half_written(server, uids[-1]):
                break
            server.start()
            server.wait()
        assert half_written(server, uids[-1])
        uids.append(play(bayes, fakes.scan_documents()))
        assert bayes.result(uids[-1], SECONDS)
        with pytest.raises(TimeoutError, match="is not written"):
            bayes.published(uids[-2], 5.0)
        assert "results cannot be written" in bayes.status()
        server.start()
        server.wait()
        assert all(bayes.published(uid, SECONDS) for uid in uids)
        assert not bayes.unfinished()
    with closing(client_of(server, key).context) as context:
        from tiled.client import from_context

        for uid in uids:
            (result,) = results_of(from_context(context), uid)
            assert result.metadata["stop"]["exit_status"] == "success"
            tables = result.metadata["start"]["tables"]
            assert tables["models"]["model"] == ["no peak", "1 peak", "2 peaks"]
            primary = result["primary"].read()
            assert primary["curves"].shape[:2] == (1, len(tables["curves"]["curve"]))
            assert np.isfinite(primary["curves"].values).all()
            assert np.isfinite(primary["draws"].values).all()


def test_a_server_that_is_gone_for_good_costs_no_answer_and_another_gets_it(
    server: Server, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILED_API_KEY", key)
    with BayesCallback(fakes.Quick(), publish=f"{server.uri}/processed", journal=tmp_path) as bayes:
        assert bayes.published(play(bayes, fakes.scan_documents()), SECONDS)
        server.kill()
        uid = play(bayes, fakes.scan_documents())
        assert bayes.result(uid, SECONDS)
        with pytest.raises(TimeoutError, match=r"is not written after 5 s.*it may still come"):
            bayes.published(uid, 5.0)
        deadline = time.monotonic() + SECONDS
        while "results cannot be written" not in bayes.status() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert f"results cannot be written: {server.uri}/processed: ConnectError" in bayes.status()
        bayes.close(timeout=1.0)
        with pytest.raises(NotDoneError, match="given up"):
            bayes.published(uid, 0)
    elsewhere: list[str] = []
    with BayesCallback(
        fakes.Quick(),
        publish=lambda name, doc: elsewhere.append(doc["original_run_uid"]) if name == "start" else None,
        journal=tmp_path,
    ) as again:
        assert "analysed, not published" in str(again.unfinished())
        assert again.finish().done == elsewhere == [uid]
