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
from bluesky_bayes.kernels.task import Amplitudes, Reference, Score, Scratch, State, Task

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
MOST_TEAMS = 8
"""Warps that share a ladder: more would not find registers enough on one multiprocessor."""
MOST_RUNS = 65_535
"""Calls of a launch: what a grid can hold."""
FREE_SHARE = 0.8
"""Share of a card's free memory that a launch may take."""
UNTOUCHED = ("curves", "residual", "gradient")
"""Large arrays that are written before they are read."""


class Call(NamedTuple):
    """One call of a function of `engine`.

    Attributes
    ----------
    name : {"run_ladder", "move_particles", "weigh"}
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
        shared = [a.tobytes() for name, a in _fields(self.task, self.reference) if name not in BY_TASK]
        shapes = [a.shape for _, a in _fields(self.task, self.reference)]
        rest = [a.shape if isinstance(a, np.ndarray) else None for a in self.arguments[4:]]
        numbers = self.arguments[9] if self.name == "run_ladder" else 0
        numbers = self.arguments[10] if self.name == "move_particles" else numbers
        return self.name, self.task.x.dtype.str, tuple(shared), tuple(shapes), tuple(rest), numbers

    @property
    def room(self) -> int:
        """Bytes of the card's memory that it takes."""
        return sum(_bytes(a) for _, a in placed([self])[0])


def why_not(task: Task) -> str:
    """Why a task cannot go to a GPU, in words; empty where it can."""
    if task.noise.size != 1:
        return "models of several data sets together run on the processor"
    if task.linear.size:
        return "models whose amplitudes are carried along with their shapes run on the processor"
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
    n = call.arguments[8].size if call.name == "move_particles" else len(call.arguments[4])
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
        ("squares", Room((n, rows, 1), real, True)),
        ("parts", Room((n, rows, 1), real, True)),
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
    given: Scratch = (
        call.arguments[14] if call.name == "run_ladder" else call.arguments[15 if call.name == "move_particles" else 5]
    )
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


def _of_particles(calls: Sequence[Call], shape: Shape) -> tuple[Placed, Placed]:
    def column(i: int) -> Array:
        return np.array([call.arguments[i] for call in calls])

    own: Placed = [
        ("beta", column(4).astype(np.float64)), ("steps", column(5)), ("strides", column(6)), ("level", column(7)),
        ("parents", column(8)), ("first", column(9)), ("n_sweeps", calls[0].arguments[10]), ("before", column(11)),
        ("rounds", column(12)), ("keys", np.array([call.arguments[13:15] for call in calls], dtype=np.uint64)),
        ("cloud", column(16)), ("energies", column(17)), ("misfit", column(18)),
    ]  # fmt: skip
    return own, [("cloud", 10), ("energies", 11), ("misfit", 12)]


def _of_weighed(calls: Sequence[Call], shape: Shape) -> tuple[Placed, Placed]:
    def column(i: int) -> Array:
        return np.stack([call.arguments[i] for call in calls])

    return [("z", column(4)), ("energies", column(6)), ("misfit", column(7))], [("energies", 1), ("misfit", 2)]


OWN: dict[str, Callable[[Sequence[Call], Shape], tuple[Placed, Placed]]] = {
    "run_ladder": _of_ladders, "move_particles": _of_particles, "weigh": _of_weighed
}  # fmt: skip
KERNELS = {"run_ladder": "ladders", "move_particles": "particles", "weigh": "weighed"}


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
    """

    def __init__(self, number: int = 0, simulated: bool = False) -> None:
        self.number, self.simulated, self.broken = number, simulated, ""
        self.waiting: list[tuple[Call, Future[dict[str, Array]]]] = []
        self.news = threading.Condition()
        self.thread: threading.Thread | None = None

    def answer(self, call: Call) -> dict[str, Array]:
        """What a call gives, by name; calls that come at the same time share launches."""
        future: Future[dict[str, Array]] = Future()
        with self.news:
            if self.thread is None:
                self.thread = threading.Thread(target=self._serve, name="bluesky-bayes-gpu", daemon=True)
                self.thread.start()
            self.waiting.append((call, future))
            self.news.notify()
        return future.result()

    def _serve(self) -> None:
        """Launch what is waiting, again and again: one thread alone speaks to the GPU."""
        while True:
            with self.news:
                self.news.wait_for(lambda: self.waiting)
                taken, self.waiting = self.waiting, []
            groups: dict[Hashable, list[tuple[Call, Future[dict[str, Array]]]]] = {}
            for call, future in taken:
                groups.setdefault(call.layout, []).append((call, future))
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
        from numba import cuda

        first, shape = calls[0], shape_of(calls[0])
        single = first.task.x.dtype == np.float32
        traits = Traits.of(first.task, first.reference)
        module = launches(components(first.task), single, shape.by_warp, traits, self.simulated)
        taken, given = placed(calls)
        there = [_there(value) for _, value in taken]
        kernel = getattr(module, KERNELS[first.name])
        kernel[(shape.blocks, len(calls)), shape.threads, 0, shape.shared](*there)
        cuda.synchronize()
        found = {name: there[at].copy_to_host() for name, at in given}
        if first.name == "move_particles":
            hits = next(i for i, (name, _) in enumerate(taken) if name == "hits")
            found["hits"] = there[hits].copy_to_host().reshape(len(calls), shape.blocks, -1).sum(axis=1)
        return [{name: values[run] for name, values in found.items()} for run in range(len(calls))]


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
            "used; analyse fewer points or particles at a time, or use device='cpu'"
        )
    return [slice(first, min(first + most, n)) for first in range(0, n, most)]


class CardKernels:
    """The functions of compiled `engine`, those that do the work on a GPU; a stand-in wherever kernels are asked for.

    Parameters
    ----------
    host : module
        Compiled `engine`, for what stays on the processor.
    card : Card
    """

    def __init__(self, host: Any, card: Card) -> None:
        self.host, self.card = host, card

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

    def move_particles(self, *arguments: Any) -> None:
        """`engine.move_particles`."""
        found = self._asked(Call("move_particles", arguments)) if arguments[8].size else None
        if found is None:
            self.host.move_particles(*arguments)
            return
        for name, i in (("cloud", 16), ("energies", 17), ("misfit", 18)):
            arguments[i][...] = found[name]
        arguments[15].hits[...] = found["hits"]

    def weigh(self, *arguments: Any) -> None:
        """`engine.weigh`."""
        found = self._asked(Call("weigh", arguments)) if len(arguments[4]) else None
        if found is None:
            self.host.weigh(*arguments)
            return
        arguments[6][...], arguments[7][...] = found["energies"], found["misfit"]

    def _asked(self, call: Call) -> dict[str, Array] | None:
        """What the card answers, or None where the processor has to: nothing was written then.

        A card that fails once is not asked again in this process; what does not fit its memory is refused in words.
        """
        if self.card.broken or why_not(call.task):
            return None
        try:
            return self.card.answer(call)
        except NoRoomError:
            raise
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")[:200]
            self.card.broken = f"{type(error).__name__}: {first}"
            logger.warning("the GPU failed, and the processor goes on: %s", self.card.broken)
            return None
