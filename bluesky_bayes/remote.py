"""Runs of a Tiled server that have no answer yet: found and analysed as they end, and after any break."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import wait
from typing import Any

from bluesky_bayes.answers import Answer
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks.bayes import sentence
from bluesky_bayes.callbacks.runs import label_of, stored_documents

logger = logging.getLogger("bluesky_bayes")

SECONDS_BETWEEN_LOOKS = 10.0
LONGEST_DELAY = 60.0
SLACK = 600.0
"""Seconds by which a run may come into the catalogue after a later one."""
MOST_TRIED = 10_000
ATTEMPTS = 3
STEP = 0.5
SECONDS_TO_END = 5.0
RUN, PARTS = "start.original_run_uid", "start.analysis.parts"


class Follower:
    """Lets a callback hear each ended run of a Tiled container that has no answer of its recipe, oldest first.

    It looks when it begins, whenever the server tells of a change, and every few seconds in any case: so nothing is
    lost while it or the network was down, and nothing is heard twice.

    Parameters
    ----------
    bayes : BayesCallback
        Publishes to `processed`.
    raw, processed : tiled.client.container.Container
        Runs and their answers.
    hours : float
        How far it looks back.
    every : float
        Seconds between looks.
    grace : float
        Seconds after which a run that has ended is taken not to have been heard live.
    """

    def __init__(
        self,
        bayes: BayesCallback,
        raw: Any,
        processed: Any,
        *,
        hours: float = 24.0,
        every: float = SECONDS_BETWEEN_LOOKS,
        grace: float = 0.0,
    ) -> None:
        if not hours > 0:
            raise ValueError(f"hours to look back must be positive; got {hours:g}")
        self._bayes, self._raw, self._processed = bayes, raw, processed
        self._window, self._every, self._grace = 3600.0 * hours, every, grace
        self._seen = 0.0
        self._tried: dict[str, None] = {}
        self._failures: Counter[str] = Counter()
        self._ended, self._changed = threading.Event(), threading.Event()
        self._subscription: Any = None
        jobs = {"catalogue": self._follow, "subscription": self._subscribe}
        self._threads = [threading.Thread(target=j, name=f"bluesky_bayes {n}", daemon=True) for n, j in jobs.items()]
        self.trouble = ""
        """What keeps it from looking; empty while all is well."""

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self._changed.set()
        if self._subscription is not None:
            self._subscription.disconnect()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(SECONDS_TO_END)

    def look(self) -> int:
        """Let the callback hear each run that waits for an answer; gives how many it heard.

        Raises
        ------
        httpx.HTTPError
            When the server does not answer.
        """
        since = max(self._seen - SLACK, time.time() - self._window)
        answered, waiting, n_heard = answered_runs(self._processed, self._bayes.analysis.digest, since), [], 0
        newest = since + SLACK
        for run in runs_since(self._raw, since):
            start, stop = run.metadata["start"], run.metadata.get("stop")
            newest = max(newest, start["time"])
            uid = start["uid"]
            if uid in answered or uid in self._tried or "original_run_uid" in start or self._has_answer(uid):
                continue
            late = stop is not None and (not self._grace or time.time() - stop["time"] > self._grace)
            if not late or not self._heard(run, start):
                waiting.append(start["time"])
            else:
                n_heard += 1
            if self._ended.is_set():
                return n_heard
        self._seen = min([newest, *(time + SLACK for time in waiting)])
        return n_heard

    def _has_answer(self, uid: str) -> bool:
        """Whether the callback is done with a run that it heard; one whose documents were lost on the way is not."""
        try:
            return self._bayes.future(uid).done()
        except KeyError:
            return False

    def _heard(self, run: Any, start: dict[str, Any]) -> bool:
        """Let the callback hear a run and wait for the answer; False where its documents cannot be read now."""
        from httpx import TransportError

        uid = start["uid"]
        try:
            for name, doc in stored_documents(run):
                self._bayes(name, doc)
            answer = self._bayes.future(uid)
        except TransportError:
            raise
        except Exception as error:  # whatever is wrong with one run, the others are still to be analysed
            self._failures[uid] += 1
            logger.warning("%s cannot be read: %s", label_of(start), sentence(error))
            if self._failures[uid] < ATTEMPTS:
                return False
            logger.error("%s is left out: it could not be read %d times", label_of(start), ATTEMPTS)
        else:
            while not self._ended.is_set() and not wait([answer], STEP).done:
                pass
        del self._failures[uid]
        self._tried[uid] = None
        while len(self._tried) > MOST_TRIED:
            del self._tried[next(iter(self._tried))]
        return True

    def _follow(self) -> None:
        delay = self._every
        while not self._ended.is_set():
            self._changed.clear()
            try:
                self.look()
            except Exception as error:  # the network, the server, a key that has expired: it may come back
                delay = min(2.0 * delay, LONGEST_DELAY) if self.trouble else 1.0
                if not self.trouble:
                    logger.warning("the Tiled server cannot be asked, and is asked again: %s", sentence(error))
                self.trouble = sentence(error)
            else:
                if self.trouble:
                    logger.info("the Tiled server answers again")
                self.trouble, delay = "", self._every
            self._changed.wait(delay)

    def _subscribe(self) -> None:
        """Let the server tell of changes; where it cannot, it is only looked at now and then."""
        told = False
        while not self._ended.is_set():
            try:
                self._subscription = self._raw.subscribe()
                # Held weakly there: a function of this function would be gone at once.
                self._subscription.child_metadata_updated.add_callback(self._take_note)
                self._subscription.start()
            except Exception as error:
                if not told and not self._ended.is_set():
                    logger.info("the Tiled server tells of no changes and is asked for them: %s", sentence(error))
                    told = True
            self._ended.wait(LONGEST_DELAY)

    def _take_note(self, update: Any) -> None:
        self._changed.set()


def runs_since(container: Any, since: float) -> Iterator[Any]:
    """Runs of a Tiled container that began at a time or later, oldest first."""
    from tiled.client.container import Container
    from tiled.queries import Comparison

    found = Container.search(container, Comparison("ge", "start.time", since))
    yield from found.sort(("start.time", 1)).values()


def answered_runs(processed: Any, digest: str, since: float = -math.inf) -> set[str]:
    """Uids of the runs that have a whole answer, or a reason why there is none, of a recipe.

    Of a run with several results, one for each pattern or line, all must be there.

    Parameters
    ----------
    processed : tiled.client.container.Container
    digest : str
        Of the recipe.
    since : float
        Only answers that were published after this time, s since 1970.
    """
    from tiled.client.container import Container
    from tiled.queries import Comparison, Eq, KeyPresent

    answers = Container.search(processed, Eq("start.analysis.digest", digest))
    whole = Container.search(answers, Comparison("gt", "stop.time", max(since, 0.0)))
    uids, several = set(_counts(whole, RUN)), set(_counts(whole, PARTS)) - {None}
    if not several:
        return uids
    answered = set(_counts(Container.search(whole, KeyPresent(PARTS, exists=False)), RUN))
    fine = Container.search(whole, Eq("start.result.status", "ok"))
    for parts in several:
        counts = _counts(Container.search(fine, Eq(PARTS, parts)), RUN)
        answered.update(uid for uid, n in counts.items() if n >= parts)
    # Only those with failures or gaps are left to be looked at one by one.
    return answered | {uid for uid in uids - answered if _has_all_parts(_whole_answers(processed, uid, digest))}


def is_answered(processed: Any, uid: str, digest: str) -> bool:
    """Whether a run has a whole answer of a recipe: all of its results, and not only reasons why there is none.

    Parameters
    ----------
    processed : tiled.client.container.Container
    uid : str
        Of the run that was analysed.
    digest : str
        Of the recipe.
    """
    whole = _whole_answers(processed, uid, digest)
    fine = [start for start in whole if start["result"]["status"] == "ok"]
    return any("parts" not in start["analysis"] for start in fine) or (bool(fine) and _has_all_parts(whole))


def _counts(answers: Any, key: str) -> dict[Any, int]:
    """How many answers have each value of a key."""
    found = answers.distinct(key, counts=True)["metadata"][key]
    return {each["value"]: each["count"] for each in found}


def _whole_results(processed: Any, uid: str, digest: str) -> Any:
    """A run's results that were written to their end, of one recipe if its digest is given."""
    from tiled.client.container import Container
    from tiled.queries import Comparison, Eq

    found = Container.search(processed, Eq(RUN, uid))
    found = Container.search(found, Comparison("gt", "stop.time", 0.0))
    return Container.search(found, Eq("start.analysis.digest", digest)) if digest else found


def _whole_answers(processed: Any, uid: str, digest: str) -> list[Mapping[str, Any]]:
    """Start documents of a run's results that were written to their end."""
    return [run.metadata["start"] for run in _whole_results(processed, uid, digest).values()]


def _has_all_parts(starts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all results of a run are among these."""
    said = [start["analysis"] for start in starts if "parts" in start["analysis"]]
    return bool(said) and len({each["part"] for each in said}) >= max(each["parts"] for each in said)


def read_answer(processed: Any, uid: str, digest: str = "") -> Answer | None:
    """Latest whole answer for a run in a Tiled container; None where there is none yet.

    Parameters
    ----------
    processed : tiled.client.container.Container
    uid : str
        Of the run that was analysed.
    digest : str
        Of the recipe, where several publish there.
    """
    runs = _whole_results(processed, uid, digest).sort(("start.time", -1)).values().head(1)
    return Answer.published(runs[0].metadata["start"]) if runs else None
