"""Analyses that cost nothing, and documents of runs that never were; importable in a worker process."""

import json
import os
import signal
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from event_model import compose_run, pack_event_page, unpack_event_page

from bluesky_bayes import Analysis, Candidates, Dataset, Gaussian, Posterior, Selection
from bluesky_bayes.families import peaks
from bluesky_bayes.posterior import Diagnostics, Fit

CANDIDATES = peaks(counts=range(3))
ROOM = [[["motor"], "primary"]]


def unprepared(analysis: Analysis) -> None:
    """Stand in for the preparation of the worker, which compiles."""


def nothing() -> None:
    """Stand in for what a worker does before its first job."""


class Ring:
    """Holds itself, so that only a search for cycles lets it go."""

    made: ClassVar["weakref.WeakSet[Ring]"] = weakref.WeakSet()

    def __init__(self) -> None:
        self.ring = self
        self.made.add(self)


def leave_a_ring() -> int:
    """Leave a ring behind; gives how many there are from before."""
    n = len(Ring.made)
    Ring()
    return n


def ill_prepared(analysis: Analysis) -> None:
    """Stand in for a preparation that fails."""
    raise OSError("there is no compiler")


def made_up(data: Dataset, candidates: Candidates = CANDIDATES) -> Selection:
    """Answer in no time: the last candidate but one."""
    noise = Gaussian(0.1)
    models = candidates.resolved(data, noise).models
    rng = np.random.default_rng(0)
    posteriors = []
    for i, model in enumerate(models):
        draws = {name: rng.uniform(1.0, 2.0, (2, 50)) for name in model.parameters}
        curve = np.full(data.n, float(np.mean(data.y)))
        fit = Fit(curve, curve - 0.1, curve + 0.1, {}, (data.y - curve) / 0.1)
        log_evidence = -10.0 if i == len(models) - 2 else -30.0 - i
        posteriors.append(Posterior(model, log_evidence, 0.1, draws, {}, fit, Diagnostics()))
    prior = np.full(len(models), 1.0 / len(models))
    return Selection(data, noise, tuple(posteriors), prior, 0, "exchange", "cpu", 0.0)


@dataclass(frozen=True, eq=False)
class Quick(Analysis):
    """Answers at once."""

    candidates: Candidates = CANDIDATES

    def __call__(self, data: Dataset) -> Selection:
        return made_up(data)


@dataclass(frozen=True, eq=False)
class Slow(Quick):
    """Takes its time over each data set."""

    seconds: float = 0.5

    def __call__(self, data: Dataset) -> Selection:
        time.sleep(self.seconds)
        return made_up(data)


@dataclass(frozen=True, eq=False)
class Threshold(Quick):
    """Two peaks where y is above one half on average, else one; by 20 nats for four points, less `doubt` of them."""

    doubt: float = 0.0

    def __call__(self, data: Dataset) -> Selection:
        answer = made_up(data)
        best = 2 if np.mean(data.y) > 0.5 else 1
        gap = 5.0 * data.n * (1.0 - self.doubt)
        return replace(
            answer,
            posteriors=tuple(
                replace(p, log_evidence=-10.0 - gap * (i != best)) for i, p in enumerate(answer.posteriors)
            ),
        )


@dataclass(frozen=True, eq=False)
class Never(Quick):
    """Finds all models equally good; answers once there is a file ``open`` in its folder."""

    folder: str = ""

    def __call__(self, data: Dataset) -> Selection:
        while self.folder and not (Path(self.folder) / "open").exists():
            time.sleep(0.01)
        answer = made_up(data)
        return replace(answer, posteriors=tuple(replace(p, log_evidence=-10.0) for p in answer.posteriors))


@dataclass(frozen=True, eq=False)
class Growing(Quick):
    """Surer by a nat for each pattern that was added up, and says nothing of the first."""

    def __call__(self, data: Dataset) -> Selection:
        n = len(data.origin.events)
        if n == 1:
            raise ValueError("there is not enough to see yet")
        answer = made_up(data)
        rows = [replace(p, log_evidence=-10.0 - n * (i != 1)) for i, p in enumerate(answer.posteriors)]
        return replace(answer, posteriors=tuple(rows))


@dataclass(frozen=True)
class Deadly:
    """Kills the worker at one stage, once for each of so many empty files in a folder, which it removes."""

    stage: str
    folder: str

    def strike(self, stage: str) -> None:
        if stage == self.stage and (left := list(Path(self.folder).iterdir())):
            left[0].unlink()
            if "memory" in stage:
                raise MemoryError
            os.kill(os.getpid(), signal.SIGKILL)

    def prepare(self) -> None:
        self.strike("preparing")

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        self.strike("receiving")

    def __call__(self) -> "DeadlyAnswer":
        self.strike("computing")
        self.strike("out of memory")
        return DeadlyAnswer(self)


@dataclass(frozen=True)
class DeadlyAnswer:
    """Kills the worker when it is sent."""

    deadly: Deadly

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        self.deadly.strike("answering")
        return str, ("answered",)


class UnpicklableError(Exception):
    """Cannot be made again from its message."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


@dataclass(frozen=True, eq=False)
class Moody(Quick):
    """Does what the first y of the data says; see the numbers."""

    folder: str = ""

    def __call__(self, data: Dataset) -> Selection:
        mood = data.y[0]
        if mood == 1:
            raise ValueError("y is too high: close the slits")
        if mood == 2:
            raise UnpicklableError("not", "today")
        if mood == 3:
            os._exit(7)
        if mood == 4 and not (Path(self.folder) / "died").exists():
            (Path(self.folder) / "died").touch()
            os._exit(7)
        if mood == 6:
            time.sleep(3600)
        if mood == 5:
            print("chatter on standard output")
        return made_up(data)


MOODS = {
    "fine": 0.0,
    "raises": 1.0,
    "raises oddly": 2.0,
    "dies": 3.0,
    "dies once": 4.0,
    "prints": 5.0,
    "hangs": 6.0,
}


def scan_documents(
    mood: str = "fine", n: int = 5, exit_status: Any = "success", page: bool = False, **metadata: Any
) -> list[tuple[str, Any]]:
    """Documents of a scan of `motor` with `det`, whose first value is the mood."""
    y = [MOODS[mood], *np.linspace(1.0, 2.0, n - 1).tolist()]
    return list(_documents(np.linspace(0.0, 1.0, n).tolist(), y, exit_status, page, metadata))


def measured(x: Sequence[float], y: Sequence[float]) -> list[tuple[str, Any]]:
    """Documents of a scan of `motor` with `det` that saw these values."""
    return list(_documents(x, y, "success", False, {}))


def _documents(
    x: Sequence[float], y: Sequence[float], exit_status: Any, page: bool, metadata: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    metadata = {"scan_id": 7, "motors": ["motor"], "detectors": ["det"], "hints": {"dimensions": ROOM}, **metadata}
    run = compose_run(uid=metadata.pop("uid", None), metadata=metadata)
    yield "start", run.start_doc
    number = {"source": "SIM", "dtype": "number", "shape": []}
    descriptor = run.compose_descriptor(
        name="primary",
        data_keys={"motor": {**number, "units": "mm"}, "det": number},
        hints={"det": {"fields": ["det"]}, "motor": {"fields": ["motor"]}},
        object_keys={"det": ["det"], "motor": ["motor"]},
    )
    yield "descriptor", descriptor.descriptor_doc
    stamps = {"motor": 0.0, "det": 0.0}
    if page:
        columns = {name: [0.0] * len(x) for name in stamps}
        yield (
            "event_page",
            descriptor.compose_event_page(
                data={"motor": list(x), "det": list(y)}, timestamps=columns, seq_num=list(range(1, len(x) + 1))
            ),
        )
    else:
        for a, b in zip(x, y, strict=True):
            yield "event", descriptor.compose_event(data={"motor": a, "det": b}, timestamps=stamps)
    yield "stop", run.compose_stop(exit_status=exit_status)


class Stored:
    """A run as any catalogue gives it."""

    def __init__(self, documents: list[tuple[str, Any]]) -> None:
        self._documents = documents
        self.uid: str = documents[0][1]["uid"]

    def documents(self) -> Iterator[tuple[str, Any]]:
        return iter(self._documents)


def rows(documents: Sequence[tuple[str, Any]], stream: str) -> list[Any]:
    """Data of a stream's events, in pages or not."""
    uids = {doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream}
    pages = [doc if name == "event_page" else pack_event_page(doc) for name, doc in documents if "event" in name]
    return [event["data"] for page in pages if page["descriptor"] in uids for event in unpack_event_page(page)]


def recorded(folder: Path, name: str) -> list[tuple[str, Any]]:
    """Read documents that simulated devices gave."""
    text = (folder / "recorded_documents" / f"{name}.json").read_text(encoding="utf-8")
    return [(kind, doc) for kind, doc in json.loads(text, object_hook=_as_array)]


def _as_array(value: dict[str, Any]) -> Any:
    return np.array(value["__ndarray__"]) if "__ndarray__" in value else value
