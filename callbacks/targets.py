"""Where results go: a Tiled container, a databroker, or a callable; and what their refusals mean."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from bluesky_bayes.callbacks.answers import Lines

logger = logging.getLogger("bluesky_bayes")
Write: TypeAlias = Callable[[Lines], None]

PASSING = (408, 409, 425, 429)
"""Answers of a server, besides those from 500, after which it is worth to try again."""


class RefusedError(RuntimeError):
    """A result that was refused for good; the sentence says by whom and why."""


class UnreachableError(RuntimeError):
    """A server that is down, slow or busy: the result is tried again."""


def writer(target: Any) -> Write:
    """Make a function that writes a result to a target of this process, unless it is there already.

    Parameters
    ----------
    target : Tiled container, databroker or callable
        A Tiled container client that may be written to (or a plain ``TiledWriter``, which stands for it), a ``Broker``
        (or a catalogue whose ``.v1`` is one), or a callable ``(name, document)``.

    Raises
    ------
    TypeError
        When it is none of these.
    ModuleNotFoundError
        For a Tiled container without ``bluesky-tiled-plugins``.
    """
    target = _container_behind(target)
    if hasattr(target, "insert"):
        return lambda lines: _into_broker(target, lines)
    if hasattr(target, "create_container") and not _is_databroker(target):
        from bluesky_tiled_plugins import TiledWriter

        return lambda lines: _into_tiled(target, TiledWriter, lines)
    if hasattr(target, "v1"):
        return lambda lines: _into_broker(target.v1, lines)
    if callable(target):
        return lambda lines: _send_once(target, lines)
    raise TypeError(
        "publish must be the address of a Tiled container ('http://localhost:8000/processed'), a Tiled container "
        f"client (client['processed']), a databroker Broker or a callable (name, document); got {type(target).__name__}"
    )


def _container_behind(target: Any) -> Any:
    """Container of a TiledWriter that does nothing else; anything else as it is.

    The writer itself remembers each run that it began, and refuses it the second time.
    """
    plugins = sys.modules.get("bluesky_tiled_plugins")
    if plugins is None or type(target) is not plugins.TiledWriter:
        return target
    backed_up = target.backup_directory or getattr(target, "backup_dictionary", None) is not None
    return target if target.patches or backed_up else target.client


def _is_databroker(container: Any) -> bool:
    """Whether a container is a databroker's, by its second interface, which creates nothing."""
    specs = getattr(container, "specs", None) or ()
    return any(spec.name == "CatalogOfBlueskyRuns" and str(spec.version).split(".")[0] == "1" for spec in specs)


def checked_uri(uri: str) -> str:
    """Give the address of a Tiled container, if it is one.

    Raises
    ------
    ValueError
        When it is no address of a container, or holds a key.
    """
    parts = urlsplit(uri)
    if "api_key" in parts.query or parts.username or parts.password:
        raise ValueError("do not write a key into the address, others can see it there; set TILED_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.strip("/"):
        raise ValueError(
            f"publish must name a container in a Tiled server, such as 'http://localhost:8000/processed'; got {uri!r}"
        )
    return uri


def prepare_to_write() -> None:
    """Make a process ready to write to Tiled: its client tries again twice, and the callback after that."""
    os.environ.setdefault("TILED_RETRY_ATTEMPTS", "2")
    import bluesky_tiled_plugins  # noqa: F401
    import tiled.client  # noqa: F401


def write_to_uri(uri: str, lines: Lines, key: str | None) -> None:
    """Write a result into the container at an address, in a process of its own.

    Parameters
    ----------
    uri : str
    lines : Lines
    key : str or None
        The profile's TILED_API_KEY of today; it may have been set since this process was started.

    Raises
    ------
    RefusedError, UnreachableError
    """
    if key is None:
        os.environ.pop("TILED_API_KEY", None)
    else:
        os.environ["TILED_API_KEY"] = key
    try:
        if (uri, key) not in _opened:
            _opened[uri, key] = writer(_container(uri))
        _opened[uri, key](lines)
    except Exception as error:
        _opened.pop((uri, key), None)
        reason = f"{uri}: {_words(error)}"
        raise (UnreachableError if is_passing(error) else RefusedError)(reason) from None


_opened: dict[tuple[str, str | None], Write] = {}


def is_passing(error: BaseException) -> bool:
    """Tell whether what kept a result from being written may pass by itself."""
    if isinstance(error, RefusedError):
        return False
    response = getattr(error, "response", None)
    if (status := getattr(response, "status_code", None)) is not None:
        return status >= 500 or status in PASSING
    kinds: list[type[BaseException]] = [OSError, UnreachableError]
    for module, kind in (("httpx", "TransportError"), ("pymongo.errors", "ConnectionFailure")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], kind))
    return isinstance(error, tuple(kinds))


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, RefusedError) else _refusal(error) or f"{type(error).__name__}: {error}"


def _refusal(error: Exception) -> str:
    """What to do where a Tiled server refuses; empty for other errors.

    Tiled answers 401 both for a key that it does not know and for one whose scopes do not allow it, and 403 where the
    account, or the tags of the result, do not.
    """
    if type(error).__name__ == "CannotPrompt":
        return "the server wants a key, and TILED_API_KEY is not set"
    match getattr(getattr(error, "response", None), "status_code", None):
        case 401 if "Not enough permissions" not in str(error):
            return f"{error}; the server does not know this key: TILED_API_KEY is wrong or has expired, set another"
        case 401:
            return f"{error}; this key may not write there: set TILED_API_KEY to one that was made with these scopes"
        case 403:
            return f"{error}; whoever has this key may not write this there: the server's staff give the right"
    return ""


def _container(uri: str) -> Any:
    """Client of a container, by its short address or by that of the programming interface."""
    from tiled.client import from_uri

    # With data sources, or TiledWriter asks for them before each result.
    if "/api/v1/" in uri:
        return from_uri(uri, include_data_sources=True)
    parts = urlsplit(uri)
    node = from_uri(f"{parts.scheme}://{parts.netloc}", include_data_sources=True)
    for key in parts.path.strip("/").split("/"):
        if key not in node:
            raise RefusedError(f"there is no container {key!r}, or this key may not see it; make it first")
        node = node[key]
    return node


def _into_tiled(container: Any, tiled_writer: Any, lines: Lines) -> None:
    """Write a run that is not there yet; one that was left half-written is deleted first."""
    try:
        if (found := _run_in_tiled(container, lines.uid)) is not None:
            if "stop" in found.metadata:
                logger.info("result %s is there already", lines.uid)
                return
            logger.warning("result %s was left half-written: it is deleted and written anew", lines.uid)
            container.delete_contents(lines.uid, recursive=True, external_only=False)
        # By default short arrays are stored in a table, from where they may come back as text.
        # These documents are of the newest schema: no time is spent on making them so.
        _send(tiled_writer(container, normalizer=None, max_array_size=0), lines)
    except Exception as error:
        if refusal := _refusal(error):
            raise RefusedError(refusal) from error
        raise


def _run_in_tiled(container: Any, uid: str) -> Any:
    """Client of a run, None where it is not there; a catalogue of runs would ask again by a part of the uid."""
    from tiled.client.container import Container

    try:
        return Container.__getitem__(container, uid)
    except KeyError:
        return None


def _into_broker(broker: Any, lines: Lines) -> None:
    """Insert a run that is not there yet."""
    try:
        header = broker[lines.uid]
    except Exception:  # each version says in its own way that a run is not there
        _send(broker.insert, lines)
        return
    try:
        whole = bool(header.stop)
    except TypeError:  # databroker 2 makes a document of what is not there
        whole = False
    if not whole:
        raise RefusedError(
            f"the databroker holds result {lines.uid} without its end, since writing it was broken off: delete that "
            "run in its database, which a Broker cannot; the result is kept and can be written then"
        )
    logger.info("result %s is there already", lines.uid)


def _send(write: Callable[[str, dict[str, Any]], object], lines: Lines) -> None:
    for name, document in lines.documents():
        write(name, document)


def _send_once(write: Callable[[str, dict[str, Any]], object], lines: Lines) -> None:
    """Send a result to what cannot be asked what it has.

    Raises
    ------
    RefusedError
        When it fails after it has taken some of it: tried again, it would get the same start document twice.
    """
    from event_model import RunRouter

    for n_taken, (name, document) in enumerate(lines.documents()):
        try:
            write(name, document)
        except Exception as error:
            # A router has noted the start before those behind it refuse it.
            if is_passing(error) and (n_taken or isinstance(write, RunRouter)):
                raise RefusedError(
                    f"the target has begun this result and failed at its {name} document ({_words(error)}); sent again "
                    "it would begin the same run twice, so that is left to you: bayes.finish() does it, from a journal"
                ) from error
            raise
