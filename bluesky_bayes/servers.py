"""Tiled servers: one inside this process for demonstrations and tests, and those that others run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

RAW, PROCESSED = "raw", "processed"


@contextmanager
def embedded_tiled() -> Iterator[Any]:
    """Run a Tiled server in a temporary folder, on loopback only, with catalogues ``raw`` and ``processed``.

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


@contextmanager
def connected(server: str) -> Iterator[Any]:
    """Client of a Tiled server, while the context lasts; what the server refuses becomes a sentence.

    Parameters
    ----------
    server : str
        Its address, where the environment variable TILED_API_KEY holds the key, or the name of a Tiled profile.

    Raises
    ------
    ValueError
        When a key is in the address, where others can read it, there is no such profile, or the server does not answer
        or refuses.
    """
    if "api_key=" in server:
        raise ValueError("do not write the API key into the address, others can see it there; set TILED_API_KEY")
    import httpx
    from tiled.client import from_context, from_profile
    from tiled.client.context import CannotPrompt, Context
    from tiled.profiles import ProfileNotFound

    try:
        if "://" in server:
            context, path = Context.from_any_uri(server)
            with closing(context):  # also when the server refuses what comes now
                yield from_context(context, node_path_parts=path)
        else:
            client = from_profile(server)
            with closing(client.context):
                yield client
    except ProfileNotFound as error:
        raise ValueError(
            f"{server!r} is neither an address such as http://localhost:8000 nor a Tiled profile; "
            "`tiled profile list` shows them"
        ) from error
    except CannotPrompt as error:
        raise ValueError(f"the Tiled server at {server} wants a key: set TILED_API_KEY") from error
    except httpx.HTTPStatusError as error:
        raise ValueError(f"the Tiled server at {server} refused: {error}") from error
    except httpx.HTTPError as error:
        raise ValueError(f"there is no answer from a Tiled server at {server}: {error}") from error


def catalogue_of_runs(client: Any, key: str) -> Any:
    """Container `key` of a Tiled client; made, as a catalogue of Bluesky runs, where it is missing."""
    from tiled.structures.core import Spec

    if key not in client:
        client.create_container(key, specs=[Spec("CatalogOfBlueskyRuns", "3.0")])
    return client[key]


def container(client: Any, key: str, option: str) -> Any:
    """Container `key` of a Tiled client, which an option of the command names.

    Raises
    ------
    ValueError
        When there is none, or it is not to be seen with this key.
    """
    if key not in client:
        raise ValueError(
            f"there is no container {key!r}; name it with {option}, or set TILED_API_KEY if it is not public"
        )
    return client[key]
