"""Hostile document streams: nothing reaches the RunEngine, and what is wrong is said in a sentence.

Streams are generated, or mutated from recorded ones: keys missing, values of a wrong kind, documents that are dropped,
come twice, out of order or interleaved, clocks that jump. Each goes through the callback as a live run does; what the
callback collects of it is made into data sets as in the worker process, where only ValueError and its kind may come.

    python benchmarks/fuzz.py [STREAMS] [SEED] [RECORDED]

RECORDED is a folder of JSON files, each a list of [name, document].
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from event_model import compose_run

from bluesky_bayes import Analysis, Poisson
from bluesky_bayes.callbacks import BayesCallback, files
from bluesky_bayes.callbacks.runs import pieces_of
from bluesky_bayes.families import peaks
from bluesky_bayes.preparation import Image, Level, Mask, Preparation, Rebin

Stream = list[tuple[Any, Any]]

SECONDS = 5.0
"""What one short stream may take, sentences included, before it is shown."""
CANDIDATES = peaks(counts=[0, 1])
PREPARATIONS = [
    Preparation(),
    Preparation(image=Image(sum="columns"), mask=Mask(channels=(0,), field="flag")),
    Preparation(counts=True, monitor=Level("det", noise="counts"), rebin=Rebin(points=2), repeats=True),
    Preparation(dark=Level(stream="dark", noise="scatter"), region=((-1.0, 0.5),)),
    Preparation(background=Level(value=1.0, sigma=0.1), rebin=Rebin(width=0.5)),
]
ANALYSES = [
    Analysis(CANDIDATES),
    *(
        Analysis(CANDIDATES, x, y, stream=stream, patterns=patterns, preparation=preparation)
        for stream, x, y in [
            ("primary", None, None),
            ("primary", "motor", "det"),
            ("primary", None, "mca"),
            ("primary", "mca_energy", "mca"),
            ("primary", None, "img"),
            ("primary", None, "bdet"),
            ("primary", None, "old"),
            ("flyer1", "motor", "det"),
        ]
        for patterns in (None, "each")
        for preparation in PREPARATIONS
    ),
    Analysis(CANDIDATES, noise=Poisson(), exposure="det", metadata=("temperature", "sample")),
    Analysis(CANDIDATES, x="motor", y="det", sigma="err", i0="det"),
]
ODD: list[Callable[[random.Random], Any]] = [
    lambda rng: None,
    lambda rng: float("nan"),
    lambda rng: float("inf"),
    lambda rng: -1,
    lambda rng: 10 ** rng.choice([3, 9, 18, 30, 400]),
    lambda rng: "text",
    lambda rng: "\0\ud800",
    lambda rng: b"bytes",
    lambda rng: [],
    lambda rng: {},
    lambda rng: [[1, 2], [3]],
    lambda rng: {"a.b/c": {"d": [None]}},
    lambda rng: np.zeros((2, 0)),
    lambda rng: np.array(["a"]),
    lambda rng: np.float32(1.5),
    lambda rng: np.datetime64("2026-01-01"),
    lambda rng: object(),
    lambda rng: lambda: None,
    lambda rng: 1j,
    lambda rng: True,
    lambda rng: _nested(rng.choice([5, 50, 2000])),
    lambda rng: list(range(rng.choice([2, 200, 20_000]))),
    lambda rng: rng.choice(["primary", "motor", "det", "mca", "STREAM:", "array", "number"]),
]


PLACES = ["/nowhere/a.h5"]
"""Files and folders that resources speak of; real ones while `judged` runs."""


def _real_files(folder: Path) -> list[str]:
    """A good file, folders and series of images, and files that are not what they seem."""
    import h5py
    import tifffile

    frames = np.arange(96.0).reshape(8, 3, 4)
    for name, content in (("good", frames), ("flat", frames.ravel()), ("words", np.array([b"a", b"b"]))):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["data"] = content
    whole = (folder / "good.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "spoilt.h5").write_bytes(whole[:900] + bytes(200) + whole[1100:])
    for i, frame in enumerate(frames):
        tifffile.imwrite(folder / f"{i:05d}.tif", frame)
    (folder / "00003.tif").write_bytes((folder / "00003.tif").read_bytes()[:100])
    good = [str(folder / "good.h5"), str(folder)] * 3
    return good + [str(folder / f"{name}.h5") for name in ("flat", "words", "cut", "spoilt", "nothing")]


def _nested(depth: int) -> Any:
    value: Any = 0
    for i in range(depth):
        value = [value] if i % 2 else {"k": value}
    return value


def generated(rng: random.Random) -> Stream:
    """A run that is made as the event model says."""
    grid, n = rng.random() < 0.2, rng.randint(0, 8)
    dims = [["motor1"], ["motor"]] if grid else [["motor"]] if rng.random() < 0.8 else [["time"]]
    start = {
        "hints": {"dimensions": [[d, "primary"] for d in dims]},
        "detectors": ["det"],
        "scan_id": rng.randint(0, 9),
    }
    if grid:
        start |= {"shape": [2, max(n // 2, 1)], "snaking": [False, True]}
    run = compose_run(metadata=start, validate=False)
    documents: Stream = [("start", run.start_doc)]
    number = {"source": "SIM", "dtype": "number", "shape": []}
    keys = {
        "motor": number,
        "motor1": number,
        "det": number,
        "flag": number,
        "mca": {"source": "SIM", "dtype": "array", "shape": [4]},
        "img": {"source": "SIM", "dtype": "array", "shape": [3, 4]},
        "bdet": {"source": "SIM", "dtype": "array", "shape": [1, 3, 4], "external": "STREAM:"},
        "old": {"source": "SIM", "dtype": "array", "shape": [4], "external": "FILESTORE:"},
    }
    used = {name: key for name, key in keys.items() if name in ("motor", "motor1", "det") or rng.random() < 0.5}
    configuration = {"mca": {"data": {"mca_energy": [1, 2, 3, 4]}, "timestamps": {"mca_energy": 0.0}, "data_keys": {
        "mca_energy": {"source": "SIM", "dtype": "array", "shape": [4]}}}}  # fmt: skip
    for stream in ["primary"] + (["dark"] if rng.random() < 0.3 else []):
        bundle = run.compose_descriptor(
            name=stream,
            validate=False,
            data_keys=used,
            hints={"det": {"fields": [rng.choice(list(used))]}},
            object_keys={"det": list(used), "mca": []},
            configuration=configuration,
        )
        documents.append(("descriptor", bundle.descriptor_doc))
        uid = bundle.descriptor_doc["uid"]
        if "bdet" in used:
            mimetype = rng.choice([files.HDF5, *files.IMAGES, "x/y"])
            resource = {"uid": f"{uid}r", "data_key": "bdet", "mimetype": mimetype,
                        "uri": f"file://localhost{rng.choice(PLACES)}", "run_start": run.start_doc["uid"],
                        "parameters": {"dataset": "/data", "template": rng.choice(["", "{:05d}.tif", "%d%d"])},
                        }  # fmt: skip
            documents.append(("stream_resource", resource))
            span = {"start": 1, "stop": n + 1}
            documents.append(
                ("stream_datum", {"uid": f"{uid}r/0", "stream_resource": resource["uid"], "descriptor": uid,
                                  "seq_nums": span, "indices": {"start": 0, "stop": n}})
            )  # fmt: skip
        if "old" in used:
            old = {"uid": f"{uid}o", "spec": rng.choice(["AD_HDF5", "NOBODY"]), "root": "/nowhere",
                   "resource_path": "a",
                   "resource_kwargs": {}, "path_semantics": "posix", "run_start": run.start_doc["uid"]}  # fmt: skip
            documents.append(("resource", old))
            documents.append(("datum", {"datum_id": f"{uid}o/0", "resource": old["uid"], "datum_kwargs": {"point": 0}}))
        data = {
            "motor": lambda i: float(i % 4),
            "motor1": lambda i: float(i // 4),
            "det": lambda i: float(rng.randint(0, 30)),
            "flag": lambda i: float(rng.random() < 0.1),
            "mca": lambda i: np.arange(4.0) + i,
            "img": lambda i: np.ones((3, 4)).tolist(),
            "old": lambda i: f"{uid}o/{i}",  # noqa: B023
        }
        rows = [{name: of(i) for name, of in data.items() if name in used} for i in range(n)]
        events = [("event", {"uid": f"{uid}{i}", "time": float(i), "descriptor": uid, "seq_num": i + 1, "data": row,
                             "timestamps": dict.fromkeys(row, float(i)), "filled": {}})
                  for i, row in enumerate(rows)]  # fmt: skip
        if events and rng.random() < 0.2:
            page = {"descriptor": uid, "seq_num": list(range(1, n + 1)), "uid": [], "time": [], "timestamps": {},
                    "data": {name: [row[name] for row in rows] for name in rows[0]}}  # fmt: skip
            events = [("event_page", page)]
        elif rng.random() < 0.1:
            events = [("bulk_events", {stream: [doc for _, doc in events]})]
        documents += events
    documents.append(("stop", run.compose_stop(exit_status=rng.choice(["success", "fail", "abort"]))))
    return documents


def recorded(folder: Path) -> list[Stream]:
    """Runs that devices gave, cut to a few events each."""
    found = []
    for path in sorted(folder.glob("*.json")):
        documents = json.loads(path.read_text(encoding="utf-8"), object_hook=_as_array)
        found.append([(name, doc) for name, doc in documents][:20])
    return found


def _as_array(value: dict[str, Any]) -> Any:
    return np.array(value["__ndarray__"][:64]) if "__ndarray__" in value else value


def mutated(stream: Stream, other: Stream, rng: random.Random) -> Stream:
    """A stream with a few things wrong."""
    stream = copy.deepcopy(stream)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        if not stream:
            break
        i, kind = rng.randrange(len(stream)), rng.randrange(10)
        name, doc = stream[i]
        if kind == 0:
            del stream[i]
        elif kind == 1:
            stream.insert(rng.randrange(len(stream) + 1), stream[i])
        elif kind == 2:
            j = rng.randrange(len(stream))
            stream[i], stream[j] = stream[j], stream[i]
        elif kind == 3:
            at = rng.randrange(len(stream) + 1)
            stream[at:at] = copy.deepcopy(other[: rng.randint(1, 4)])
        elif kind == 4:
            stream[i] = (
                rng.choice(["event", "stop", "datum_page", "bulk_datum", "nothing", None, 3, "collected"]),
                doc,
            )
        elif kind == 5 and isinstance(doc, dict) and "seq_num" in doc:
            doc["seq_num"] = rng.choice([0, -1, 1, 7, 2**40, 2**70, "1", 1.5, None])
        elif kind == 6 and isinstance(doc, dict) and "time" in doc:
            doc["time"] = rng.choice([-1e18, float("nan"), 0, "now", None])
        elif kind == 7:
            stream[i] = (name, rng.choice(ODD)(rng))
        else:
            _spoil(doc, rng)
    if rng.random() < 0.15:
        stream = _interleaved(stream, copy.deepcopy(other), rng)
    return stream


def _spoil(doc: Any, rng: random.Random) -> None:
    """Take away, add or replace one entry somewhere in a document."""
    while isinstance(doc, dict | list) and doc:
        key: Any = rng.choice(list(doc)) if isinstance(doc, dict) else rng.randrange(len(doc))
        if isinstance(doc[key], dict | list) and doc[key] and rng.random() < 0.7:
            doc = doc[key]
            continue
        if isinstance(doc, dict) and rng.random() < 0.3:
            del doc[key]
        else:
            doc[key] = rng.choice(ODD)(rng)
        return


def _interleaved(one: Stream, two: Stream, rng: random.Random) -> Stream:
    mixed: Stream = []
    while one or two:
        source = one if one and (not two or rng.random() < 0.5) else two
        mixed.append(source.pop(0))
    return mixed


def streams(n: int, seed: int, seeds: list[Stream]) -> Iterator[tuple[Stream, Analysis]]:
    """Streams to be heard, and the analysis for each."""
    rng = random.Random(seed)
    for _ in range(n):
        one, two = (rng.choice(seeds) if seeds and rng.random() < 0.5 else generated(rng) for _ in range(2))
        yield mutated(one, two, rng), rng.choice(ANALYSES if rng.random() < 0.5 else ANALYSES[:1])


class Judge:
    """Hears streams as a callback with a worker that works here and now, and counts what became of them."""

    here = False

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slow: list[str] = []
        self.slowest = 0.0
        self._callback = BayesCallback(ANALYSES[0])
        self._callback._worker.close(0.0)  # noqa: SLF001
        self._callback._worker = self  # type: ignore[assignment]  # noqa: SLF001

    def hear(self, stream: Stream, analysis: Analysis) -> None:
        """Hear one stream."""
        self._callback.analysis = self._callback._intake._analysis = analysis  # noqa: SLF001
        self._callback._pickled = pickle.dumps(analysis)  # noqa: SLF001
        intake = self._callback._intake  # noqa: SLF001
        begin = time.perf_counter()
        for name, doc in stream:
            try:
                self._callback(name, doc)
            except Exception as error:
                self.failures.append(f"reached the RunEngine: {error!r} in {name} {str(doc)[:300]}")
        if not intake._lane.drained(60.0):  # noqa: SLF001
            self.slow.append(f"not taken in after 60 s: {str(stream)[:300]}")
        for uid in list(intake._open):  # noqa: SLF001
            intake._give_up(uid, ValueError("never stopped"))  # noqa: SLF001
            self.outcomes["never stopped"] += 1
        self.outcomes["streams"] += 1
        self.slowest = max(self.slowest, seconds := time.perf_counter() - begin)
        if seconds > SECONDS:
            self.slow.append(f"took {seconds:.1f} s: {str(stream)[:300]}")

    def cancel(self, slot: str, reason: str) -> None:
        """Nothing waits."""

    def submit(self, function: Callable[..., Any], arguments: Callable[[], Any], **options: Any) -> Future[Any]:
        """Do what the worker process does, up to the analysis itself."""
        outcome: Future[Any] = Future()
        try:
            pickled, collected = arguments()
            pieces = pieces_of(pickle.loads(collected).collected(), pickle.loads(pickled))
            for piece in pieces[:20]:
                data = piece.dataset()
                assert np.all(np.isfinite(data.y)) and data.n >= 2
            self.outcomes["data sets"] += 1
        except ValueError as error:
            sentence = str(error)
            self.outcomes["sentences"] += 1
            if not sentence or len(sentence) > 5000:
                self.failures.append(f"no sentence: {sentence[:200]!r}")
            if type(error).__name__ not in ("ValueError", "NothingToAnalyseError", "NotThereError"):
                self.failures.append(f"not ours: {error!r}")
        except Exception as error:
            self.failures.append(f"crashed: {_where(error)}")
        outcome.set_exception(ValueError("judged"))
        return outcome

    def close(self, timeout: float = 0.0) -> None:
        """End the callback."""
        self._callback.close(timeout)


def _where(error: BaseException) -> str:
    trace, last = error.__traceback__, ""
    while trace is not None:
        last = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{error!r} at {last}"


def judged(n: int, seed: int, seeds: list[Stream]) -> Judge:
    """Let a judge hear streams."""
    logging.getLogger("bluesky_bayes").setLevel(logging.CRITICAL + 1)
    for name in ("area_detector_handlers.handlers", "ophyd.sim"):  # slow once, and not to be blamed on a stream
        with suppress(ImportError):
            import_module(name)
    patience = files.SECONDS_TO_APPEAR
    files.SECONDS_TO_APPEAR = 0.0
    folder = TemporaryDirectory()
    PLACES[:] = _real_files(Path(folder.name))
    try:
        judge = Judge()
        for stream, analysis in streams(n, seed, seeds):
            judge.hear(stream, analysis)
            if len(judge.failures) > 20:
                break
        judge.close()
    finally:
        folder.cleanup()
        files.SECONDS_TO_APPEAR = patience
        logging.getLogger("bluesky_bayes").setLevel(logging.NOTSET)
    return judge


def main(n: str = "100000", seed: str = "0", folder: str = "") -> int:
    """Judge, and say what came of it."""
    begin = time.perf_counter()
    judge = judged(int(n), int(seed), recorded(Path(folder)) if folder else [])
    print(dict(judge.outcomes), f"slowest {judge.slowest:.2f} s, all {time.perf_counter() - begin:.0f} s")
    for failure, times in Counter(judge.failures + judge.slow).most_common():
        print(f"{times} x {failure}")
    return bool(judge.failures)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
