"""A plan that waits for an answer which another computer publishes."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from bluesky.utils import MsgGenerator

from bluesky_bayes.analysis import Recipe
from bluesky_bayes.answers import Answer
from bluesky_bayes.callbacks.answers import sentence
from bluesky_bayes.callbacks.backlog import promise
from bluesky_bayes.plans.waiting import SECONDS_TO_WAIT, wait_until_done
from bluesky_bayes.remote import read_answer

SECONDS_BETWEEN_LOOKS = 0.5


def wait_for_published(
    processed: Any, uid: str, timeout: float = SECONDS_TO_WAIT, *, analysis: Recipe | None = None
) -> MsgGenerator[Answer]:
    """Wait, without blocking the RunEngine, for the answer for a run that a worker elsewhere publishes.

    The server is asked on a thread of its own. Pause, resume and abort work while it waits; what goes wrong with the
    server meanwhile ends nothing before the time is up.

    Parameters
    ----------
    processed : tiled.client.container.Container
        Where the worker publishes.
    uid : str
        Of the run's start document.
    timeout : float
        Seconds; those of a pause do not count.
    analysis : Analysis or PhaseAnalysis, optional
        The worker's recipe, where several publish there; by default any.

    Returns
    -------
    Answer
        Where the run could not be answered, `found` is False and `reason` says why.

    Raises
    ------
    TimeoutError
        When there is none in time, with what went wrong with the server; it may still come.
    """
    question = _Question(processed, uid, "" if analysis is None else analysis.digest)

    def late() -> str:
        return f"no answer for run {uid[:8]} was published within {timeout:g} s{question.trouble}"

    try:
        return (yield from wait_until_done(question.answer, timeout, late))
    finally:
        question.ended.set()


class _Question:
    """Asks a server again and again, on a thread of its own."""

    def __init__(self, processed: Any, uid: str, digest: str) -> None:
        self._asked = processed, uid, digest
        self.answer: Future[Answer] = promise()
        self.ended = threading.Event()
        self.trouble = ""
        threading.Thread(target=self._ask, name="bluesky_bayes question", daemon=True).start()

    def _ask(self) -> None:
        while not self.ended.is_set():
            try:
                found = read_answer(*self._asked)
            except Exception as error:  # it may come back before the time is up
                self.trouble = f"; the server says: {sentence(error)}"
            else:
                self.trouble = ""
                if found is not None:
                    self.answer.set_result(found)
                    return
            self.ended.wait(SECONDS_BETWEEN_LOOKS)
