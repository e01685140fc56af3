"""A plan of the simulated profile, queued by numbers, run by a real queueserver with a real Redis."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bluesky_queueserver", reason="bluesky-queueserver is not installed")
zmq = pytest.importorskip("zmq")
REDIS = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(
    REDIS is None, reason="redis-server is not installed (apt-get install redis-server): no queueserver can run"
)

SECONDS = 120.0
RECORD = """
import json, os
from event_model import sanitize_doc

def keep(name, doc):
    with open(os.environ["RECORD"], "a") as file:
        file.write(json.dumps([name, sanitize_doc(doc)]) + "\\n")

RE.subscribe(keep)
"""


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until_open(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as each:
            if each.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens at port {port}")


class Manager:
    """Speaks to the queueserver as its own command line does: requests and answers in JSON."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, method: str, **params: Any) -> Any:
        with zmq.Context() as context, context.socket(zmq.REQ) as talk:
            talk.setsockopt(zmq.LINGER, 0)
            talk.connect(self._address)
            talk.send_json({"method": method, "params": params})
            assert talk.poll(1000 * SECONDS), f"the queueserver does not answer {method!r}"
            return talk.recv_json()

    def add(self, plan: str, **arguments: Any) -> Any:
        item = {"item_type": "plan", "name": plan, "kwargs": arguments}
        return self("queue_item_add", item=item, user="tester", user_group="primary")

    def idle(self) -> Any:
        """Wait until it is idle; its status."""
        deadline = time.monotonic() + SECONDS
        time.sleep(0.5)  # it takes a moment to begin what it was asked for
        while (status := self("status"))["manager_state"] != "idle" and time.monotonic() < deadline:
            time.sleep(0.2)
        return status


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "documents.jsonl"


@pytest.fixture(scope="module")
def manager(repository: Path, record: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """The queueserver's interface; it and its Redis listen on loopback ports of their own."""
    folder = tmp_path_factory.mktemp("queueserver")
    startup = folder / "startup"
    shutil.copytree(repository / "profiles" / "sim" / "startup", startup)
    (startup / "90-record.py").write_text(RECORD)
    redis, control, info = free_ports(3)
    command = [
        str(Path(sys.executable).with_name("start-re-manager")), "--startup-dir", str(startup), "--keep-re",
        "--redis-addr", f"127.0.0.1:{redis}", "--redis-name-prefix", "bluesky_bayes_test",
        "--zmq-control-addr", f"tcp://127.0.0.1:{control}", "--zmq-info-addr", f"tcp://127.0.0.1:{info}",
    ]  # fmt: skip
    assert REDIS is not None
    database = subprocess.Popen(
        [REDIS, "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    log = folder / "log.txt"
    try:
        wait_until_open(redis, database)
        with log.open("wb") as out:
            server = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "RECORD": str(record)}
            )
        try:
            wait_until_open(control, server)
            client = Manager(f"tcp://127.0.0.1:{control}")
            client("environment_open")
            assert client.idle()["worker_environment_exists"], log.read_text()
            yield client
            client("environment_close")
            client.idle()
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        database.terminate()
        database.wait()


def test_its_plans_are_offered_with_arguments_that_are_numbers(manager: Manager) -> None:
    plans = manager("plans_allowed", user_group="primary")["plans_allowed"]
    assert {"bayes_scan", "count_until_decided", "find_transition"} <= set(plans)
    parameters = {p["name"]: p for p in plans["count_until_decided"]["parameters"]}
    assert parameters["probability"]["annotation"]["type"] == "float"
    assert parameters["probability"]["default"] == "0.95"
    assert [p["name"] for p in plans["find_transition"]["parameters"]][:3] == ["low", "high", "tolerance"]


def test_a_queued_plan_counts_until_a_model_stands_out(manager: Manager, record: Path) -> None:
    answer = manager.add("count_until_decided", probability=0.9, max_time=60.0, timeout=SECONDS)
    assert answer["success"], answer
    manager("queue_start")
    manager.idle()
    (item,) = manager("history_get")["items"]
    assert item["result"]["exit_status"] == "completed", item["result"]
    (uid,) = item["result"]["run_uids"]
    documents = [json.loads(line) for line in record.read_text().splitlines()]
    (start,) = [doc for name, doc in documents if name == "start"]
    assert start["uid"] == uid
    assert start["stopping"] == {"probability": 0.9, "max_time": 60.0}
    last = [doc["data"] for name, doc in documents if name == "event" and "decided" in doc["data"]][-1]
    assert last["decided"]
    assert last["model"] == "1 peak"


def test_a_plan_with_a_wrong_argument_is_refused_before_it_is_queued(manager: Manager) -> None:
    answer = manager.add("count_until_decided", max_tim=1.0)
    assert not answer["success"]
    assert "max_tim" in answer["msg"]
