"""For a beamline's startup files: they may be run again and again, and never fail because a server is not there."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints
from weakref import WeakKeyDictionary

from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.analysis import Analysis
from bluesky_bayes.callbacks import BayesCallback

PLAIN = {bool, int, float, str, NoneType}
CONTAINER = "processed"

_lock = threading.Lock()
_callbacks: dict[tuple[str, Any], BayesCallback] = {}
_subscribed: WeakKeyDictionary[Any, dict[str, tuple[BayesCallback, int]]] = WeakKeyDictionary()


def setup(
    engine: Any, recipe: Analysis | str | Path, tiled: Any = None, *, container: str = CONTAINER, name: str = ""
) -> BayesCallback:
    """Subscribe a callback to a RunEngine, once: called again with the same recipe it gives the same callback.

    Called with another recipe it replaces the callback; the one before is closed, and gives up what it has not yet
    answered. A server that is down is no reason to fail: answers wait in ``bayes.result``, and the next one tries
    again.

    Parameters
    ----------
    engine : RunEngine
    recipe : Analysis, str or Path
        What to ask of each run, or the file that says so.
    tiled : optional
        Where answers are published: the address of a Tiled server (``"http://localhost:8000"``, the key comes from
        ``TILED_API_KEY``), or anything that `BayesCallback` can publish to.
    container : str
        Of the server at that address; it must be there.
    name : str
        Tells several callbacks of one RunEngine apart.

    Returns
    -------
    BayesCallback

    Raises
    ------
    ValueError
        When a file holds no recipe.
    """
    analysis = recipe if isinstance(recipe, Analysis) else Analysis.load(recipe)
    callback = callback_for(analysis, tiled, container)
    with _lock:
        known = _subscribed.setdefault(engine, {})
        before = known.get(name)
        if before is not None and before[0] is callback:
            return callback
        if before is not None:
            engine.unsubscribe(before[1])
        known[name] = (callback, engine.subscribe(callback))
    if before is not None:
        before[0].close(0.0)
    return callback


def callback_for(analysis: Analysis, tiled: Any = None, container: str = CONTAINER) -> BayesCallback:
    """The callback with this analysis and target: the same one as long as it is not closed."""
    key = (analysis.digest, (tiled, container) if isinstance(tiled, str) else id(tiled))
    with _lock:
        if key not in _callbacks or _callbacks[key].closed:
            publish = LateTiled(tiled, container) if isinstance(tiled, str) else tiled
            _callbacks[key] = BayesCallback(analysis, publish)
        return _callbacks[key]


def ready(
    plan: Callable[..., MsgGenerator[Any]], name: str, analysis: Analysis, tiled: Any = None, **fixed: Any
) -> Callable[..., MsgGenerator[str]]:
    """Make of a plan one that takes numbers and words only, as a queueserver needs.

    Its callback is made when it is first used, hears the runs of this plan alone, and is kept for the next time. The
    plan gives its result as a sentence.

    Parameters
    ----------
    plan : callable
        With a parameter `bayes`: one of `bluesky_bayes.plans`, or your own.
    name : str
        Of the new plan.
    analysis : Analysis
        What to ask.
    tiled : optional
        Where answers are published, see `setup`.
    **fixed
        Arguments of `plan` that are settled here: devices, callables, and what nobody shall change.

    Returns
    -------
    callable
        Its signature has the arguments that are left, annotated, with their defaults.

    Raises
    ------
    TypeError
        When an argument that is left is neither a number nor a word, or a fixed one does not exist.

    Examples
    --------
    >>> import inspect
    >>> from bluesky_bayes import Analysis
    >>> from bluesky_bayes.families import peaks
    >>> from bluesky_bayes.plans import count_until_decisive
    >>> analysis = Analysis(peaks(counts=[0, 1]), y="mca")
    >>> count = ready(count_until_decisive, "count", analysis, detectors=[])
    >>> str(inspect.signature(count))
    '(*, probability: float = 0.95, max_time: float = 600.0, timeout: float = 60.0) -> str'
    """
    hints, parameters = get_type_hints(plan), inspect.signature(plan).parameters
    unknown = sorted({*fixed, "bayes"} - set(parameters))
    if unknown:
        raise TypeError(f"plan {plan.__name__!r} has no argument {unknown[0]!r}; it has {', '.join(parameters)}")
    left = []
    for parameter in parameters.values():
        hint = hints.get(parameter.name)
        if parameter.name in fixed or parameter.name == "bayes":
            continue
        if set(get_args(hint) or [hint]) <= PLAIN:
            left.append(parameter.replace(annotation=hint))
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"argument {parameter.name!r} of plan {plan.__name__!r} is neither a number nor a word, which is all "
                f"that a queue can hold: settle it here, ready(..., {parameter.name}=...)"
            )
    signature = inspect.Signature(left, return_annotation=str)

    def made(*args: Any, **kwargs: Any) -> MsgGenerator[str]:
        chosen = signature.bind(*args, **kwargs).arguments
        bayes = callback_for(analysis, tiled)
        planned = plan(**fixed, **chosen, bayes=bayes)
        result = yield from bpp.subs_wrapper(planned, bayes)  # type: ignore[no-untyped-call]
        return str(getattr(result, "verdict", None) or getattr(result, "reason", None) or result)

    summary = (inspect.getdoc(plan) or "").partition("\n")[0]
    made.__name__ = made.__qualname__ = name
    made.__doc__, made.__module__ = summary, plan.__module__
    made.__signature__ = signature  # type: ignore[attr-defined]
    made.__annotations__ = {parameter.name: parameter.annotation for parameter in left} | {"return": str}
    return made


class LateTiled:
    """Writes documents to a container of a Tiled server, to which it connects when a run begins.

    Parameters
    ----------
    uri : str
        The key comes from ``TILED_API_KEY``.
    container : str
    """

    def __init__(self, uri: str, container: str) -> None:
        self._uri, self._container = uri, container
        self._client: Any = None
        self._write: Any = None

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Write a document; those of a run come one after another."""
        if name == "start":
            from bluesky_bayes.callbacks.publish import opener

            self._write = opener(self._connected())()
        self._write(name, doc)

    def _connected(self) -> Any:
        if self._client is None:
            from tiled.client import from_uri

            try:
                self._client = from_uri(self._uri)[self._container]
            except KeyError as error:
                raise LookupError(
                    f"the Tiled server at {self._uri} has no container {self._container!r}: make it "
                    f"(client.create_container({self._container!r})) or name another"
                ) from error
        return self._client
