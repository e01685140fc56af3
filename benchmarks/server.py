"""A Tiled server in a process of its own, on this computer only, gone when it is left."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

SECONDS_TO_START = 120.0


@contextmanager
def tiled_server() -> Iterator[tuple[str, Any]]:
    """Address of a new server and a client of its root, which holds ``processed``; its key is in the environment."""
    os.environ["TILED_API_KEY"] = secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w") as log:
        command = [Path(sys.executable).parent / "tiled", "serve", "catalog", "--temp", "--host", "127.0.0.1"]
        environment = {**os.environ, "TILED_SINGLE_USER_API_KEY": os.environ["TILED_API_KEY"]}
        server = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            client = _reached(address)
            with closing(client.context):
                yield address, client
        finally:
            server.terminate()
            server.wait()


def _reached(address: str) -> Any:
    from tiled.client import from_uri

    from bluesky_bayes.servers import catalogue_of_runs

    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            client = from_uri(address)
            catalogue_of_runs(client, "processed")
            return client
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
