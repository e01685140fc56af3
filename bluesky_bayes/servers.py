"""A Tiled server inside this process, for demonstrations and tests: loopback only, gone when it is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

RAW, PROCESSED = "raw", "processed"


@contextmanager
def embedded_tiled() -> Iterator[Any]:
    """Run a Tiled server in a temporary folder, with catalogues ``raw`` and ``processed``.

    One at a time in a process: a second one would invalidate the first one's key.

    Yields
    ------
    tiled.client.container.Container
        Client of its root.

    Raises
    ------
    ModuleNotFoundError
        Without the ``demo`` extra.
    """
    from bluesky_tiled_plugins.exporters import json_seq_exporter
    from tiled.client import from_uri
    from tiled.media_type_registration import default_serialization_registry
    from tiled.server import SimpleTiledServer

    # The server must know this before it is built, or no run there can be replayed.
    default_serialization_registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)
    # Left without closing it, the server's thread would keep the interpreter alive for ever.
    with SimpleTiledServer() as server:
        client = from_uri(server.uri)
        with closing(client.context):
            for key in (RAW, PROCESSED):
                catalogue_of_runs(client, key)
            yield client


def catalogue_of_runs(client: Any, key: str) -> Any:
    """Container `key` of a Tiled client; made, as a catalogue of Bluesky runs, where it is missing."""
    from tiled.structures.core import Spec

    if key not in client:
        client.create_container(key, specs=[Spec("CatalogOfBlueskyRuns", "3.0")])
    return client[key]
