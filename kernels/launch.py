"""Launches: the functions of `engine` on a GPU, for many calls at once.

Calls that differ in nothing but their numbers (one model's chains, particles of many data sets) go to the GPU together.
Whoever calls waits for the answer; whatever has come meanwhile is the next launch, so that answers do not depend on it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bluesky_bayes.kernels.build import shape_at
from bluesky_bayes.kernels.cuda import BLOCK, BY_TASK, DRAWN, MOST_BY_WARP, WARP, Traits, launches
from bluesky_bayes.kernels.task import Amplitudes, Order, Reference, Score, Scratch, State, Task

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
MOST_TEAMS = 8
"""Warps that share a ladder: a multiprocessor has registers for eleven to sixteen."""
MOST_RUNS = 65_535
"""Calls of a launch: what a grid can hold."""
FREE_SHARE = 0.8
"""Share of a card's free memory that a launch may take."""
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
"""What the driver says where somebody else took memory meanwhile; the card is none the worse for it."""
UNTOUCHED = ("curves", "residual", "gradient")
"""Large arrays that are written before they are read."""


class Call(NamedTuple):
    """One call of a function of `engine`, or of all that cools a cloud of particles.

    Attributes
    ----------
    name : {"run_ladder", "cool", "weigh"}
    arguments : tuple
    """

    name: str
    arguments: tuple[Any, ...]

    @property
    def task(self) -> Task:
        """The task, always the first argument."""
        task: Task = self.arguments[0]
        return task

    @property
    def reference(self) -> Reference:
        """The reference, always the second."""
        reference: Reference = self.arguments[1]
        return reference

    @property
    def layout(self) -> Hashable:
        """What calls must have in common to share a launch."""
        orders = [a for a in self.arguments if isinstance(a, Order)]
        shared = [a.tobytes() for name, a in _fields(self.task, self.reference, *orders) if name not in BY_TASK]
        shapes = [a.shape for _, a in _fields(self.task, self.reference, *orders)]
        rest = [a.shape if isinstance(a, np.ndarray) else None for a in self.arguments[4:]]
        numbers = [self.arguments[i] for i in SHARED[self.name]]
        return self.name, self.task.x.dtype.str, tuple(shared), tuple(shapes), tuple(rest), tuple(numbers)

    @property
    def room(self) -> int:
        """Bytes of the card's memory that it takes."""
        choice = _for_choice([self]) if self.name == "cool" else []
        return sum(_bytes(a) for _, a in (*placed([self])[0], *choice))


def why_not(task: Task) -> str:
    """Why a task cannot go to a GPU, in words; empty where it can."""
    if not task.tables.size or not task.term_block.size:
        return "models without parameters run on the processor"
    return ""


def _fields(*of: Any) -> list[tuple[str, Array]]:
    return [(name, array) for values in of for name, array in zip(values._fields, values, strict=True)]


class Room(NamedTuple):
    """An array that only the card has."""

    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    zeros: bool


def _bytes(array: Array | Room | int) -> int:
    if isinstance(array, Room):
        return math.prod(array.shape) * np.dtype(array.dtype).itemsize
    return array.nbytes if isinstance(array, np.ndarray) else 0


class Shape(NamedTuple):
    """How a launch is laid out.

    Attributes
    ----------
    by_warp : bool
    teams : int
        That share a block.
    blocks : int
        That share a call.
    rows : int
        Replicas of each state, with room for proposals.
    """

    by_warp: bool
    teams: int
    blocks: int
    rows: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.teams * WARP if self.by_warp else BLOCK

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block: a number of each warp."""
        return 0 if self.by_warp else 8 * WARP


def shape_of(call: Call) -> Shape:
    """A ladder has a block, and each particle one of its own."""
    by_warp = call.task.x.size <= MOST_BY_WARP
    if call.name == "run_ladder":
        n_levels = call.arguments[5].size
        teams = min(n_levels, MOST_TEAMS) if by_warp else 1
        return Shape(by_warp, teams, 1, n_levels + teams)
    n = call.arguments[13].size if call.name == "cool" else len(call.arguments[4])
    return Shape(by_warp, 1, min(n, MOST_RUNS), 2)


Placed = list[tuple[str, Any]]


def placed(calls: Sequence[Call]) -> tuple[Placed, Placed]:
    """What a launch of these calls takes, in order, and of this what comes back."""
    first, shape = calls[0], shape_of(calls[0])
    tasks = {(id(call.task), id(call.reference)): (call.task, call.reference) for call in calls}
    number = {key: i for i, key in enumerate(tasks)}
    taken: Placed = []
    for name, array in _fields(first.task, first.reference):
        which = 0 if name in Task._fields else 1
        if name in ("term_fill", "term_trial"):
            taken.append((name, _numbers(first.task)))
        elif name in BY_TASK:
            taken.append((name, np.stack([getattr(pair[which], name) for pair in tasks.values()])))
        else:
            taken.append((name, array))
    rooms = len(calls) * (1 if first.name == "run_ladder" else shape.blocks)
    taken += _rooms(first, rooms, shape)
    of = np.array([number[id(call.task), id(call.reference)] for call in calls])
    own, given = OWN[first.name](calls, shape)
    z = next(i for i, (name, _) in enumerate(taken) if name == "z")
    if first.name == "run_ladder":
        begun = np.zeros((len(calls), shape.rows, first.task.tables.shape[0]))
        for row, call in zip(begun, calls, strict=True):
            row[: call.arguments[5].size] = call.arguments[2].z[: call.arguments[5].size]
        taken[z] = ("z", begun)
        score = next(i for i in range(z + 1, len(taken)) if taken[i][0] == "z")
        taken[score] = ("z", begun.copy())
        given = [("z", z), *given]
    at = len(taken) + 1
    return [*taken, ("task_of", of), *own], [(name, where if name == "z" else at + where) for name, where in given]


def _rooms(call: Call, n: int, shape: Shape) -> Placed:
    """Arrays of replicas, and room for moves of each team."""
    task, d, rows = call.task, len(call.task.tables), shape.rows
    points, curves, terms = task.x.size, int(task.curve_start[-1]), call.reference.log_weight.size
    real, dtype, teams = np.float64, task.x.dtype, n * shape.teams
    taken: Placed = [
        ("z", Room((n, rows, d), real, True)),
        ("theta", Room((n, rows, d), real, True)),
        ("curves", Room((n, rows * curves), dtype, False)),
        ("residual", Room((n, rows * points), dtype, False)),
        ("squares", Room((n, rows, task.noise.size), real, True)),
        ("parts", Room((n, rows, task.noise.size), real, True)),
        ("energy", Room((n, rows), real, True)),
        ("z", Room((n, rows, d), real, True)),
        ("place", Room((n, rows, d), np.int64, True)),
        ("terms", Room((n, rows * terms), real, True)),
        ("gradient", Room((n, rows * d * terms), real, False)),
        ("change", Room((n, rows, d), real, True)),
        ("square", Room((n, rows), real, True)),
        ("value", Room((n, rows), real, True)),
    ]
    assert [name for name, _ in taken] == [*State._fields, *Score._fields]
    given: Scratch = call.arguments[5 if call.name == "weigh" else 14]
    for name, array in zip(Scratch._fields, given, strict=True):
        if isinstance(array, Amplitudes):
            taken += [(inner, Room((teams, *a.shape), real, True)) for inner, a in _fields(array)]
        elif isinstance(array, np.ndarray):
            rows_of = n if name in DRAWN else teams
            taken.append((name, Room((rows_of, *array.shape), array.dtype, name not in UNTOUCHED)))
    return taken


def _numbers(task: Task) -> Array:
    """Components of a task's terms by their places among `components`."""
    found = components(task)
    single = task.x.dtype == np.float32
    return np.array([found.index(shape_at(int(address), single)) for address in task.term_fill])


def components(task: Task) -> tuple[Any, ...]:
    """The different components of a task."""
    single = task.x.dtype == np.float32
    return tuple(dict.fromkeys(shape_at(int(address), single) for address in task.term_fill))


def _of_ladders(calls: Sequence[Call], shape: Shape) -> tuple[Placed, Placed]:
    def column(i: int) -> Array:
        return np.stack([call.arguments[i] for call in calls])

    own: Placed = [
        ("fresh", column(4)),
        ("betas", column(5)),
        ("steps", column(6)),
        ("strides", column(7)),
        ("group_size", calls[0].arguments[8]),
        ("n_adapt", calls[0].arguments[9]),
        ("rounds", np.array([call.arguments[10] for call in calls])),
        ("keys", np.array([call.arguments[11:13] for call in calls], dtype=np.uint64)),
        *((name, column(i)) for name, i in LADDER_GIVES.items() if i == 13),
        *((name, column(i)) for name, i in LADDER_GIVES.items() if i > 14),
        ("drift", np.zeros((len(calls), shape.teams))),
    ]
    names = [name for name, _ in own]
    return own, [(name, names.index(name)) for name in (*LADDER_GIVES, "drift")]


LADDER_GIVES = {
    "steps": 6, "order": 13, "energies": 15, "misfit": 16, "samples": 17, "rejected": 18, "accepted": 19, "trips": 20
}  # fmt: skip


def _of_clouds(calls: Sequence[Call], shape: Shape) -> tuple[Placed, Placed]:
    def column(i: int) -> Array:
        return np.stack([call.arguments[i] for call in calls])

    cloud = column(15)
    own: Placed = [
        ("betas", column(4)), ("steps", column(5)), ("strides", column(6)), ("level", 1), ("parents", column(13)),
        ("n_sweeps", calls[0].arguments[9]), ("before", cloud),
        ("rounds", np.array([call.arguments[10] for call in calls])),
        ("keys", np.array([call.arguments[11:13] for call in calls], dtype=np.uint64)),
        ("cloud", Room(cloud.shape, np.float64, False)), ("energies", column(16)),
        ("misfit", Room(cloud.shape[:2], np.float64, False)),
    ]  # fmt: skip
    return own, []


def _for_choice(calls: Sequence[Call]) -> Placed:
    """What the choice of particles, and of their common steps, takes beside what their moves do."""
    n, sizes, real = len(calls[0].arguments[15]), calls[0].arguments[8], np.float64
    order = [(f"order_{name}", array) for name, array in _fields(calls[0].arguments[17])]
    return [
        ("share", calls[0].arguments[7]), ("group_size", sizes),
        ("counted", Room((len(calls), sizes.size), real, False)), ("total", Room((len(calls), n), real, False)),
        *(order if calls[0].task.free.size else ()),
    ]  # fmt: skip


def _of_weighed(calls: Sequence[Call], shape: Shape) -> tuple[Placed, Placed]:
    def column(i: int) -> Array:
        return np.stack([call.arguments[i] for call in calls])

    return [("z", column(4)), ("energies", column(6)), ("misfit", column(7))], [("energies", 1), ("misfit", 2)]


OWN: dict[str, Callable[[Sequence[Call], Shape], tuple[Placed, Placed]]] = {
    "run_ladder": _of_ladders, "cool": _of_clouds, "weigh": _of_weighed
}  # fmt: skip
KERNELS = {"run_ladder": "ladders", "cool": "particles", "weigh": "weighed"}
SHARED: dict[str, tuple[int, ...]] = {"run_ladder": (9,), "cool": (7, 9), "weigh": ()}
"""Arguments that are numbers, the same for all calls of a launch."""
CHOSEN = (
    "betas", "steps", "level", "share", "group_size", "counted", "energies", "rounds", "keys", "normals",
    "log_uniforms", "hits", "total", "parents",
)  # fmt: skip
"""Arguments of the kernel that chooses, in order."""
STRIDED = (
    "betas", "level", "share", "free", *(f"order_{name}" for name in Order._fields), "before", "parents", "strides"
)  # fmt: skip
"""Those of the kernel that finds how all shapes step together."""


class NoRoomError(ValueError):
    """One call alone needs more memory than the card has."""


class Card:
    """One GPU and the kernels made for it; or numba's simulator of one.

    Parameters
    ----------
    number : int
        Of the GPU.
    simulated : bool

    Attributes
    ----------
    broken : str
        Why it is not asked any more, in words, after a call that it failed.
    asked : int
        Calls that wait for it.
    """

    def __init__(self, number: int = 0, simulated: bool = False) -> None:
        self.number, self.simulated, self.broken = number, simulated, ""
        self.waiting: list[tuple[Hashable, Call, Future[dict[str, Array]]]] = []
        self.news = threading.Condition()
        self.thread: threading.Thread | None = None
        self.asked = 0

    @property
    def name(self) -> str:
        """As `device` takes it."""
        return f"cuda:{self.number}"

    def answer(self, call: Call) -> dict[str, Array]:
        """What a call gives, by name; calls that come at the same time share launches."""
        future: Future[dict[str, Array]] = Future()
        layout = call.layout
        with self.news:
            if self.thread is None:
                self.thread = threading.Thread(target=self._serve, name="bluesky-bayes-gpu", daemon=True)
                self.thread.start()
            self.waiting.append((layout, call, future))
            self.asked += 1
            self.news.notify()
        try:
            return future.result()
        finally:
            with self.news:
                self.asked -= 1

    def _serve(self) -> None:
        """Launch what is waiting, again and again: one thread alone speaks to the GPU."""
        while True:
            with self.news:
                self.news.wait_for(lambda: self.waiting)
                taken, self.waiting = self.waiting, []
            groups: dict[Hashable, list[tuple[Call, Future[dict[str, Array]]]]] = {}
            for layout, call, future in taken:
                groups.setdefault(layout, []).append((call, future))
            for group in groups.values():
                try:
                    answers = self.launched([call for call, _ in group])
                except Exception as error:
                    for _, future in group:
                        future.set_exception(error)
                else:
                    for (_, future), found in zip(group, answers, strict=True):
                        future.set_result(found)

    def launched(self, calls: Sequence[Call]) -> list[dict[str, Array]]:
        """Answers to calls of one layout, in as few launches as the card's memory allows."""
        from numba import cuda

        if not self.simulated:
            from numba.cuda.core import config

            # A ladder alone fills no GPU, which numba-cuda would say each time.
            config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
            cuda.select_device(self.number)
        answers: list[dict[str, Array]] = []
        for some in pieces(calls[0].room, len(calls), self._free()):
            answers += self._launch(calls[some])
        return answers

    def _free(self) -> int:
        if self.simulated:
            return 2**34
        from numba import cuda

        return int(cuda.current_context().get_memory_info().free)

    def _launch(self, calls: Sequence[Call]) -> list[dict[str, Array]]:
        first, shape = calls[0], shape_of(calls[0])
        single = first.task.x.dtype == np.float32
        traits = Traits.of(first.task, first.reference)
        module = launches(components(first.task), single, shape.by_warp, traits, self.simulated)
        taken, given = placed(calls)
        there = [_there(value) for _, value in taken]
        if first.name == "cool":
            choice = {name: _there(value) for name, value in _for_choice(calls)}
            return _cooled(module, shape, [name for name, _ in taken], there, choice, len(calls))
        kernel = getattr(module, KERNELS[first.name])
        kernel[(shape.blocks, len(calls)), shape.threads, 0, shape.shared](*there)
        found = {name: there[at].copy_to_host() for name, at in given}
        return [{name: values[run] for name, values in found.items()} for run in range(len(calls))]


def _cooled(
    module: Any, shape: Shape, names: Sequence[str], there: list[Any], choice: dict[str, Any], n: int
) -> list[dict[str, Array]]:
    """Clouds cooled side by side, all until the last has come to beta = 1; what each found at its temperatures."""
    at = {name: i for i, name in enumerate(names)}
    betas, level, found = there[at["betas"]].copy_to_host(), 0, []

    def taken(arguments: Sequence[str]) -> list[Any]:
        return [choice[name] if name in choice else there[at[name]] for name in arguments]

    while np.any(betas[:, level] < 1.0):
        there[at["level"]] = level
        whole = n, WARP if shape.by_warp else BLOCK, 0, shape.shared
        module.chosen[whole](*taken(CHOSEN))
        level += 1
        there[at["level"]] = level
        if f"order_{Order._fields[0]}" in choice:
            module.strided[whole](*taken(STRIDED))
        module.particles[(shape.blocks, n), shape.threads, 0, shape.shared](*there)
        found.append([there[at[name]].copy_to_host() for name in ("cloud", "energies", "misfit", "parents")])
        betas = there[at["betas"]].copy_to_host()
        there[at["before"]], there[at["cloud"]] = there[at["cloud"]], there[at["before"]]
    steps, strides, hits = (there[at[name]].copy_to_host() for name in ("steps", "strides", "hits"))
    answers = []
    for run in range(n):
        last = int(np.argmax(betas[run] >= 1.0))
        kept = ([values[i][run] for values in found[:last]] for i in range(4))
        of_run = dict(zip(("clouds", "energies", "misfit", "parents"), map(np.stack, kept), strict=True))
        more = {"betas": betas[run, : last + 1], "steps": steps[run, : last + 1], "strides": strides[run, : last + 1]}
        answers.append(of_run | more | {"hits": hits.reshape(n, shape.blocks, -1)[run].sum(axis=0)})
    return answers


def _there(value: Any) -> Any:
    """An argument as the GPU takes it."""
    from numba import cuda

    if isinstance(value, Room):
        if value.zeros or cuda_is_simulated():
            return cuda.to_device(np.zeros(value.shape, value.dtype))
        return cuda.device_array(value.shape, value.dtype)
    return cuda.to_device(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def cuda_is_simulated() -> bool:
    """Whether numba's simulator stands in for a GPU in this process."""
    from numba.core import config

    return bool(getattr(config, "ENABLE_CUDASIM", False))


def pieces(room: int, n: int, free: int) -> list[slice]:
    """Pieces of `n` calls that need `room` bytes each, so that every piece fits into `free` bytes.

    Raises
    ------
    NoRoomError
        When one alone does not fit.
    """
    most = min(int(FREE_SHARE * free) // max(room, 1), MOST_RUNS)
    if most < 1:
        raise NoRoomError(
            f"this needs {room / 2**20:.0f} MiB of the GPU's memory, and {FREE_SHARE * free / 2**20:.0f} MiB can be "
            "used"
        )
    return [slice(first, min(first + most, n)) for first in range(0, n, most)]


class CardKernels:
    """The functions of compiled `engine`, those that do the work on a GPU; a stand-in wherever kernels are asked for.

    Parameters
    ----------
    host : module
        Compiled `engine`, for what stays on the processor.
    cards : sequence of Card
        Each call goes to the one that has least to do.

    Attributes
    ----------
    refused : str
        Why the processor did what a card could have done, in words: it had no room.
    """

    def __init__(self, host: Any, cards: Sequence[Card]) -> None:
        self.host, self.cards, self.refused = host, tuple(cards), ""

    def __getattr__(self, name: str) -> Any:
        """Anything else, of the processor's kernels."""
        return getattr(self.host, name)

    def run_ladder(self, *arguments: Any) -> float:
        """`engine.run_ladder`."""
        found = self._asked(Call("run_ladder", arguments))
        if found is None:
            return float(self.host.run_ladder(*arguments))
        for name, i in LADDER_GIVES.items():
            arguments[i][...] = found[name]
        n_levels = arguments[5].size
        arguments[2].z[:n_levels] = found["z"][:n_levels]
        return float(found["drift"].max())

    def cool(self, *arguments: Any) -> dict[str, Array] | None:
        """All temperatures of a cloud of particles, or None where the processor has to do it."""
        return self._asked(Call("cool", arguments))

    def weigh(self, *arguments: Any) -> None:
        """`engine.weigh`."""
        found = self._asked(Call("weigh", arguments)) if len(arguments[4]) else None
        if found is None:
            self.host.weigh(*arguments)
            return
        arguments[6][...], arguments[7][...] = found["energies"], found["misfit"]

    def _asked(self, call: Call) -> dict[str, Array] | None:
        """What a card answers, or None where the processor has to: nothing was written then.

        A card that fails once is not asked again in this process.
        """
        if why_not(call.task):
            return None
        while cards := [card for card in self.cards if not card.broken]:
            card = min(cards, key=lambda card: card.asked)
            try:
                return card.answer(call)
            except Exception as error:
                said = next(iter(str(error).strip().splitlines()), "")[:200]
                if isinstance(error, NoRoomError) or OUT_OF_MEMORY in said:
                    self.refused = said
                    return None
                with card.news:
                    new, card.broken = not card.broken, f"{type(error).__name__}: {said}"
                if new:
                    logger.warning("the GPU failed, and the processor goes on: %s", card.broken)
        return None
