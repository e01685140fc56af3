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

from bluesky_bayes.analysis import Recipe, load
from bluesky_bayes.callbacks import BayesCallback

PLAIN = {bool, int, float, str, NoneType}

_lock = threading.Lock()
_callbacks: dict[tuple[str, Any], BayesCallback] = {}
_subscribed: WeakKeyDictionary[Any, dict[str, tuple[BayesCallback, int]]] = WeakKeyDictionary()


def setup(
    engine: Any,
    recipe: Recipe | str | Path,
    publish: Any = None,
    *,
    journal: str | Path | None = None,
    name: str = "",
) -> BayesCallback:
    """Subscribe a callback to a RunEngine, once: called again with the same recipe it gives the same callback.

    Called with another recipe it replaces the callback; the one before is closed, and gives up what it has not yet
    answered. A server that is down is no reason to fail: the callback tries again.

    Parameters
    ----------
    engine : RunEngine
    recipe : Analysis or PhaseAnalysis, str or Path
        What to ask of each run, or the file that says so.
    publish : optional
        Where answers go: the address of a Tiled container (``"http://localhost:8000/processed"``, the key comes from
        ``TILED_API_KEY``), or anything else that `BayesCallback` can publish to.
    journal : str or Path, optional
        Folder of the journal, see `BayesCallback`.
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
    analysis = recipe if isinstance(recipe, Recipe) else load(recipe)
    callback = callback_for(analysis, publish, journal)
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


def callback_for(analysis: Recipe, publish: Any = None, journal: str | Path | None = None) -> BayesCallback:
    """The callback with this analysis and target: the same one as long as it is not closed."""
    key = (analysis.digest, publish if isinstance(publish, str) else id(publish))
    with _lock:
        if key not in _callbacks or _callbacks[key].closed:
            _callbacks[key] = BayesCallback(analysis, publish, journal=journal)
        return _callbacks[key]


def ready(
    plan: Callable[..., MsgGenerator[Any]], name: str, analysis: Recipe, publish: Any = None, **fixed: Any
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
    analysis : Analysis or PhaseAnalysis
        What to ask.
    publish : optional
        Where answers go, see `setup`.
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
        bayes = callback_for(analysis, publish)
        planned = plan(**fixed, **chosen, bayes=bayes)
        result = yield from bpp.subs_wrapper(planned, bayes)  # type: ignore[no-untyped-call]
        return str(getattr(result, "verdict", None) or getattr(result, "reason", None) or result)

    summary = (inspect.getdoc(plan) or "").partition("\n")[0]
    made.__name__ = made.__qualname__ = name
    made.__doc__, made.__module__ = summary, plan.__module__
    made.__signature__ = signature  # type: ignore[attr-defined]
    made.__annotations__ = {parameter.name: parameter.annotation for parameter in left} | {"return": str}
    return made
