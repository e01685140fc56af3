"""Documents over 0MQ: a real proxy in between, keys, and what may be unpickled."""

import logging
import os
import pickle
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from bluesky_bayes.wire import ZmqListener, is_local, make_keys, plain, worker_keys

pytest.importorskip("zmq", reason="pyzmq is not installed")
from bluesky.callbacks.zmq import Publisher

SECONDS = 20.0


def until(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Wait for something that happens on another thread."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


class Wire:
    """A proxy in a process of its own, as its command starts it, and a publisher."""

    def __init__(self, *options: str | Path) -> None:
        self.incoming, self.outgoing = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
        addresses = ("--in-address", self.incoming, "--out-address", self.outgoing)
        command = Path(sys.executable).with_name("bluesky-0MQ-proxy")
        self._process = subprocess.Popen([command, *addresses, *options], stdout=subprocess.DEVNULL)
        self.publish = Publisher(self.incoming)

    def close(self) -> None:
        self.publish.close()  # type: ignore[no-untyped-call]
        self._process.kill()
        self._process.wait()


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Ear:
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def __call__(self, name: str, doc: Any) -> None:
        self.heard.append((name, doc))

    def uids(self) -> set[str]:
        return {doc["uid"] for _, doc in self.heard}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "all"
    make_keys(folder)
    return folder


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def locked_wire(keys: Path) -> Iterator[Wire]:
    folder = keys / "proxy"
    wire = Wire("--out-curve-secret", folder / "proxy.key_secret", "--out-curve-client-keys", folder / "clients")
    yield wire
    wire.close()


def heard_by(listener: ZmqListener, ear: Ear, wire: Wire) -> bool:
    """Publish until the subscription, which takes a moment, is there."""
    return until(lambda: wire.publish("start", {"uid": "first"}) or ear.heard)


def test_a_run_arrives_whole_through_a_proxy(wire: Wire) -> None:
    ear = Ear()
    listener = ZmqListener(wire.outgoing, ear)
    listener.start()
    assert heard_by(listener, ear, wire)
    documents = fakes.scan_documents()
    for name, doc in documents:
        wire.publish(name, doc)
    assert until(lambda: documents[-1] in ear.heard)
    assert [each for each in ear.heard if each[1] != {"uid": "first"}] == documents
    assert listener.last_heard is not None
    listener.close()


def test_what_cannot_be_understood_is_left_out_and_the_next_document_heard(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()
    listener = ZmqListener(wire.outgoing, ear)
    listener.start()
    assert heard_by(listener, ear, wire)
    with caplog.at_level(logging.WARNING, logger="bluesky_bayes"):
        wire.publish("start", {"uid": Path("a path is no plain data")})
        wire.publish("start", {"uid": "second"})
        assert until(lambda: "second" in ear.uids())
    assert "a document from the network is left out: it holds a pathlib." in caplog.text
    # A message that is no document ends the connection, which is made again.
    wire.publish._socket.send(b"nonsense")
    assert until(lambda: "is begun again" in caplog.text)
    assert until(lambda: wire.publish("start", {"uid": "third"}) or "third" in ear.uids())
    listener.close()
    assert not listener._thread.is_alive()


def test_with_the_right_key_documents_arrive_and_without_it_nothing_does(
    locked_wire: Wire, keys: Path, tmp_path: Path
) -> None:
    make_keys(tmp_path / "others")
    foreign = tmp_path / "foreign"
    (tmp_path / "others" / "worker").rename(foreign)
    foreign.joinpath("proxy.key").write_bytes((keys / "worker" / "proxy.key").read_bytes())
    ears = {name: Ear() for name in ("right", "none", "foreign")}
    folders = {"right": keys / "worker", "none": None, "foreign": foreign}
    listeners = [ZmqListener(locked_wire.outgoing, ears[name], folder) for name, folder in folders.items()]
    for listener in listeners:
        listener.start()
    assert heard_by(listeners[0], ears["right"], locked_wire)
    for i in range(20):
        locked_wire.publish("start", {"uid": str(i)})
        time.sleep(0.02)
    assert until(lambda: "19" in ears["right"].uids())
    assert not ears["none"].heard
    assert not ears["foreign"].heard
    for listener in listeners:
        listener.close()


def test_a_listener_may_be_closed_before_it_began_or_at_once(wire: Wire) -> None:
    ZmqListener(wire.outgoing, Ear()).close()
    listener = ZmqListener(wire.outgoing, Ear())
    listener.start()
    listener.close()
    assert until(lambda: not listener._thread.is_alive())


def test_keys_are_private_and_each_host_gets_its_own(keys: Path) -> None:
    found = {str(path.relative_to(keys)) for path in keys.rglob("*") if path.is_file()}
    assert found == {
        "proxy/proxy.key_secret",
        "proxy/clients/worker.key",
        "worker/worker.key_secret",
        "worker/proxy.key",
    }
    for role in ("proxy", "worker"):
        assert stat.S_IMODE((keys / role).stat().st_mode) == 0o700
        assert stat.S_IMODE((keys / role / f"{role}.key_secret").stat().st_mode) == 0o600


def test_keys_are_never_overwritten(keys: Path) -> None:
    with pytest.raises(ValueError, match="keys are never overwritten"):
        make_keys(keys)


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    secret = tmp_path / "keys" / "worker" / "worker.key_secret"
    secret.chmod(0o644)
    with pytest.raises(ValueError, match=r"others may read the secret key .* chmod 600 it"):
        worker_keys(secret.parent)
    with pytest.raises(ValueError, match=r"there is no .*worker.key_secret; `bluesky-bayes keys FOLDER` makes it"):
        worker_keys(tmp_path)


@pytest.mark.parametrize(
    "address", ["tcp://beamline:5578", "192.168.0.7:5578", "tcp://*:5578", "tcp://0.0.0.0:5578", "5578"]
)
def test_an_address_elsewhere_is_refused_without_keys(address: str) -> None:
    assert not is_local(address)
    with pytest.raises(ValueError, match=r"is not on this computer: .* Make them with `bluesky-bayes keys FOLDER`"):
        ZmqListener(address, Ear())


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_unpickled(protocol: int) -> None:
    arrays = {"counts": np.arange(5), "mean": np.float64(0.5), "mask": np.array([True, False])}
    doc = {"uid": "0123", "data": arrays, "when": datetime(2026, 1, 2), "z": 1 + 2j, "tags": {"a"}, "raw": b"ab"}
    again = plain(pickle.dumps(doc, protocol))
    assert again["data"]["counts"].tolist() == [0, 1, 2, 3, 4]
    assert again["data"]["mean"] == 0.5
    assert {k: v for k, v in again.items() if k != "data"} == {k: v for k, v in doc.items() if k != "data"}


class Trap:
    """Would run a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "made"
    assert plain(pickle.dumps({"uid": Trap(target)})) is None
    assert not target.exists()
    assert "which is no plain data" in caplog.text
