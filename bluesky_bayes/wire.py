"""Documents from a 0MQ proxy: who may send them, what they may hold, and a thread that hears them.

Bluesky pickles documents on this wire, and whoever may send a pickle may run code. So a proxy elsewhere must prove with
a key that it is the right one, and only numbers, texts and arrays are unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import ipaddress
import logging
import pickle
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger("bluesky_bayes")

PROXY, WORKER, CLIENTS = "proxy", "worker", "clients"
SECRET, PUBLIC = ".key_secret", ".key"
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds before what failed is tried again; they double."""
SECONDS_TO_END = 5.0

PLAIN = {
    "builtins": {"bytearray", "complex", "frozenset", "set"},
    "collections": {"OrderedDict", "defaultdict"},
    "datetime": {"date", "datetime", "timedelta", "timezone"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
}
"""What a document may be made of, besides numbers, texts, lists and mappings."""


def make_keys(folder: Path) -> None:
    """Make the keys of a proxy and of a worker, each in a folder of its own for its host.

    Parameters
    ----------
    folder : Path
        New or empty.

    Raises
    ------
    ValueError
        When something is there already: keys are never overwritten.
    """
    from zmq.auth import create_certificates

    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; keys are never overwritten: name a new folder")
    for role in (PROXY, WORKER):
        (folder / role).mkdir(mode=0o700, parents=True)
        create_certificates(folder / role, role)
        (folder / role / f"{role}{SECRET}").chmod(0o600)
    (folder / PROXY / CLIENTS).mkdir()
    (folder / WORKER / f"{WORKER}{PUBLIC}").rename(folder / PROXY / CLIENTS / f"{WORKER}{PUBLIC}")
    (folder / PROXY / f"{PROXY}{PUBLIC}").rename(folder / WORKER / f"{PROXY}{PUBLIC}")


def worker_keys(folder: Path) -> Any:
    """Keys of a worker, as ``bluesky.callbacks.zmq.ClientCurve``.

    Parameters
    ----------
    folder : Path
        The folder ``worker`` that `make_keys` made.

    Raises
    ------
    ValueError
        When a key is missing, or others may read the secret one.
    """
    from bluesky.callbacks.zmq import ClientCurve

    secret, public = folder / f"{WORKER}{SECRET}", folder / f"{PROXY}{PUBLIC}"
    for path in (secret, public):
        if not path.is_file():
            raise ValueError(f"there is no {path}; `bluesky-bayes keys FOLDER` makes it, in FOLDER/{WORKER}")
    if stat.S_IMODE(secret.stat().st_mode) & 0o077:
        raise ValueError(f"others may read the secret key {secret}: chmod 600 it, or make new keys")
    return ClientCurve(secret, public)


def is_local(address: str) -> bool:
    """Whether an address cannot leave this computer.

    Examples
    --------
    >>> [is_local(a) for a in ("ipc:///run/bluesky/out", "localhost:5578", "tcp://[::1]:5578", "tcp://beam:5578")]
    [True, True, True, False]
    """
    transport, _, rest = address.rpartition("://")
    host = rest.rpartition(":")[0].strip("[]")
    try:
        return transport in ("ipc", "inproc") or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain(pickled: bytes) -> Any:
    """Document from its pickle, or None where it holds anything but plain data; what it holds else is never run."""
    try:
        return _Plain(io.BytesIO(pickled)).load()
    except Exception as error:
        logger.warning("a document from the network is left out: %s", error)
        return None


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # its name in numpy 1
        if name not in PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is no plain data")
        return getattr(importlib.import_module(module), name)


class ZmqListener:
    """Hears documents of a 0MQ proxy on a thread of its own; lost connections are made again.

    Parameters
    ----------
    address : str
        Where the proxy gives documents out: ``tcp://127.0.0.1:5578``.
    hear : callable
        Called with ``(name, document)``.
    keys : Path, optional
        Folder of a worker's keys; needed unless the address is on this computer.

    Raises
    ------
    ValueError
        For an address elsewhere without keys, or keys that are missing or open.
    """

    def __init__(self, address: str, hear: Callable[[str, Any], object], keys: Path | None = None) -> None:
        if keys is None and not is_local(address):
            raise ValueError(
                f"{address} is not on this computer: documents on this wire are pickles, so the proxy there must have "
                "keys. Make them with `bluesky-bayes keys FOLDER`, start the proxy with those in FOLDER/proxy, and "
                "give those in FOLDER/worker with --keys"
            )
        from bluesky.callbacks.zmq import RemoteDispatcher

        self._address, self._hear, self._dispatcher = address, hear, RemoteDispatcher
        self._curve = None if keys is None else worker_keys(keys)
        self._ended, self._loop = threading.Event(), asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="bluesky_bayes zmq", daemon=True)
        self.last_heard: float | None = None
        """Time of the last document, s, as `time.monotonic`."""

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        with self._lock, contextlib.suppress(RuntimeError):  # the loop was closed already
            self._loop.call_soon_threadsafe(self._cancel)
        if self._thread.is_alive():
            self._thread.join(SECONDS_TO_END)
        else:
            self._loop.close()

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _listen(self) -> None:
        delay = FIRST_DELAY
        while not self._ended.is_set():
            dispatcher = self._dispatcher(
                self._address, loop=self._loop, deserializer=plain, strict=True, curve_config=self._curve
            )
            dispatcher.subscribe(self._take)  # type: ignore[no-untyped-call]
            begun = time.monotonic()
            try:
                dispatcher.start()  # type: ignore[no-untyped-call]
            except asyncio.CancelledError:
                return
            except Exception as error:  # whatever came over the wire, the next documents are wanted
                logger.warning("listening to %s is begun again: %s: %s", self._address, type(error).__name__, error)
            delay = FIRST_DELAY if time.monotonic() - begun > LONGEST_DELAY else min(2 * delay, LONGEST_DELAY)
            with self._lock:
                self._loop = asyncio.new_event_loop()
            self._ended.wait(delay)
        self._loop.close()

    def _take(self, name: str, doc: Any) -> None:
        self.last_heard = time.monotonic()
        if doc is not None:
            self._hear(name, doc)
