"""Decisions on record: events in a stream of their own, in the run that is open or in one around all others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator

from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.plans.waiting import check_open, hear

T = TypeVar("T")

STREAM = "decisions"
DECISION = {"model": "string", "probability": "number", "decided": "boolean", "reason": "string"}


class Record:
    """A decision as a readable device.

    Parameters
    ----------
    name : str
    kinds : mapping of str to str
        Fields, and what they are: ``"number"``, ``"integer"``, ``"string"`` or ``"boolean"``.
    """

    parent = None

    def __init__(self, name: str, kinds: Mapping[str, str]) -> None:
        self.name, self._kinds = name, kinds
        self.values: Mapping[str, Any] = {}

    def put(self, values: Mapping[str, Any]) -> MsgGenerator[None]:
        """Write an event; what is no field of it is left out."""
        self.values = values
        yield from bps.trigger_and_read([self], name=STREAM)

    def read(self) -> dict[str, Any]:
        """Values of the decision at hand."""
        return {name: {"value": self.values[name], "timestamp": time.time()} for name in self._kinds}

    def describe(self) -> dict[str, Any]:
        """Kinds of the values."""
        return {name: {"source": "bluesky_bayes", "dtype": kind, "shape": []} for name, kind in self._kinds.items()}

    def read_configuration(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def own(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    """Give messages to the run of the decisions, not to that of a scan inside it."""
    return (yield from bpp.set_run_key_wrapper(plan, "bluesky_bayes decisions"))  # type: ignore[no-untyped-call]


def _here(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    return plan


def in_run(
    metadata: Mapping[str, Any],
    bayes: BayesCallback | None,
    body: Callable[[str], MsgGenerator[T]],
    address: Callable[[MsgGenerator[Any]], MsgGenerator[Any]] = _here,
) -> MsgGenerator[T]:
    """Do the plan ``body(uid)`` in a run; nothing is measured unless the callback hears it.

    Without a callback nobody need hear it. A run that ends early says how and why. With ``address=own`` the run is one
    around those that `body` makes.
    """
    if bayes is not None:
        check_open(bayes)
    uid = yield from address(bps.open_run(dict(metadata)))

    def heard() -> MsgGenerator[T]:
        if bayes is not None:
            yield from hear(bayes, uid)
        return (yield from body(uid))

    result: T = yield from bpp.contingency_wrapper(  # type: ignore[no-untyped-call]
        heard(), except_plan=lambda error: address(_failed(error))
    )
    yield from address(bps.close_run(reason=getattr(result, "reason", None)))
    return result


def _failed(error: Exception) -> MsgGenerator[None]:
    """Close the run of a plan that was ended."""
    yield from bps.close_run(exit_status=getattr(error, "exit_status", "fail"), reason=str(error) or None)
