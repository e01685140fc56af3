"""For a beamline's startup files: they may be run again and again, and never fail because a server is not there."""

from __future__ import annotations

import gc
import inspect
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints
from weakref import ref

from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.analysis import Recipe, load
from bluesky_bayes.callbacks import BayesCallback

PLAIN = {bool, int, float, str, NoneType}


@dataclass(frozen=True)
class _Setup:
    """A callback that hears an engine, and what was asked for."""

    engine: ref[Any]
    name: str
    asked: tuple[str, Any]
    journal: Path | None
    callback: BayesCallback
    token: int

    def says(self, asked: tuple[str, Any], journal: Path | None) -> bool:
        """Whether this was asked for, and is heard."""
        return (self.asked, self.journal) == (asked, journal) and not self.callback.closed


_lock = threading.Lock()
_setups: list[_Setup] = []
_callbacks: dict[tuple[str, Any], BayesCallback] = {}


def setup(
    engine: Any,
    recipe: Recipe | str | Path,
    publish: Any = None,
    *,
    journal: str | Path | None = None,
    name: str = "",
) -> BayesCallback:
    """Subscribe a callback to a RunEngine, once: asked again for the same it gives the same callback.

    Asked for anything else (another recipe, or the same with other files or another device, another target, another
    journal) it replaces the callback that has this name on this engine, and no other. The one before is closed first,
    and gives up what it has not yet answered; a journal keeps that. A target that is an object is the same only if it
    is that very object: a client that is made anew each time replaces the callback each time. A server that is down is
    no reason to fail: the callback tries again.

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
        Tells several callbacks of one RunEngine apart; with the same recipe each needs a journal of its own. Engines
        for which the same is asked share one callback.

    Returns
    -------
    BayesCallback

    Raises
    ------
    ValueError
        When a file holds no recipe.
    JournalInUseError
        When another callback, of this process or another, writes into the recipe's folder of the journal.
    """
    analysis = recipe if isinstance(recipe, Recipe) else load(recipe)
    asked, folder = _asked(analysis, publish), None if journal is None else Path(journal).expanduser().absolute()
    with _lock:
        _close_left_behind(engine)
        before = next((each for each in _setups if each.engine() is engine and each.name == name), None)
        if before is not None and before.says(asked, folder):
            return before.callback
        others = (each for each in _setups if each.engine() is not engine)
        shared = next((each.callback for each in others if each.says(asked, folder)), None)
        # Of one journal there may be one callback at a time; else what is refused leaves the one before.
        if shared is None and before is not None and before.journal == folder is not None:
            _close(before, engine)
            before = None
        callback = shared or BayesCallback(analysis, publish, journal=folder)
        if before is not None:
            _close(before, engine)
        _setups.append(_Setup(ref(engine), name, asked, folder, callback, engine.subscribe(callback)))
    return callback


def _close(old: _Setup, engine: Any = None) -> None:
    """End a setup, and its callback where no other has it."""
    if engine is not None:
        engine.unsubscribe(old.token)
    _setups.remove(old)
    if all(each.callback is not old.callback for each in _setups):
        old.callback.close(0.0)


def _close_left_behind(engine: Any) -> None:
    """End setups whose engine is gone: a startup file that is run again may make a new engine."""
    if any(each.engine() is not engine for each in _setups):
        gc.collect()
    for each in [each for each in _setups if each.engine() is None]:
        _close(each)


def _asked(analysis: Recipe, publish: Any) -> tuple[str, Any]:
    """All that tells callbacks apart, with what is no part of a recipe's digest."""
    said = {
        "kind": f"{type(analysis).__module__}.{type(analysis).__qualname__}",
        "digest": analysis.digest,
        "files": analysis.files.to_table(),
        **{name: str(getattr(analysis, name, "")) for name in ("device", "library")},
    }
    return json.dumps(said, sort_keys=True), publish if isinstance(publish, str) else id(publish)


def callback_for(analysis: Recipe, publish: Any = None) -> BayesCallback:
    """The callback with this analysis and target, one that was set up if there is: the same one until it is closed."""
    asked = _asked(analysis, publish)
    with _lock:
        heard = (each for each in _setups if each.engine() is not None)
        known = [each.callback for each in heard if each.asked == asked and not each.callback.closed]
        if known:
            return known[0]
        if asked not in _callbacks or _callbacks[asked].closed:
            _callbacks[asked] = BayesCallback(analysis, publish)
        return _callbacks[asked]


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
