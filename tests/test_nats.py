"""Documents come by NATS, from its own server."""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
from tileds import free_port, until

from bluesky_bayes.callbacks import BayesCallback

nats = pytest.importorskip("nats", reason="bluesky-nats is not installed")
dispatchers = pytest.importorskip("bluesky_nats.nats_dispatcher", reason="bluesky-nats is not installed")
SERVER = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
pytestmark = [
    pytest.mark.usefixtures("no_compiling"),
    pytest.mark.skipif(SERVER is None, reason="nats-server is not installed (apt-get install nats-server)"),
]

SECONDS = 60.0


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """Address of a server on the loopback with a stream for documents, and the RunEngine's side of it."""
    from bluesky_nats.nats_publisher import NATSPublisher
    from bluesky_nats.nats_runtime import NatsRuntime
    from bluesky_nats.outbox import Delivery, Outbox

    port, runtime = free_port(), NatsRuntime()
    assert SERVER is not None
    command = [SERVER, "--jetstream", "--addr", "127.0.0.1", "--port", str(port), "--store_dir", str(tmp_path)]
    with open(tmp_path / "log.txt", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert until(lambda: b"Server is ready" in (tmp_path / "log.txt").read_bytes(), SECONDS)
        address = f"nats://127.0.0.1:{port}"
        client = runtime.connect(nats.connect(address))
        jetstream = client.jetstream()
        runtime.setup(jetstream.add_stream(name="bluesky", subjects=["events.>"]))
        yield address, NATSPublisher(Outbox(runtime, client, delivery=Delivery.CRITICAL), jetstream)
    finally:
        runtime.close()
        server.kill()
        server.wait()


def test_a_run_that_comes_by_nats_is_answered(publisher: tuple[str, Any]) -> None:
    (address, publish), documents = publisher, fakes.scan_documents()
    with BayesCallback(fakes.Quick()) as bayes:
        loop = asyncio.new_event_loop()
        dispatcher = dispatchers.NATSDispatcher("events.>", servers=address, loop=loop)
        dispatcher.subscribe(bayes)
        listening = threading.Thread(target=dispatcher.start)
        listening.start()
        try:
            for name, doc in documents:
                publish(name, doc)
            uid = documents[0][1]["uid"]
            assert until(lambda: bayes.last is not None, SECONDS)
            assert bayes.result(uid, SECONDS).data.x.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
        finally:
            asyncio.run_coroutine_threadsafe(dispatcher.stop(), loop)
            listening.join(SECONDS)
    assert not listening.is_alive()
