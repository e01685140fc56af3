"""The kernels for NVIDIA GPUs: the text of `engine` and of the components, gone through by teams of threads.

A team is a warp, or a block where data are long. A ladder has a block of threads, whose teams take its levels in turn
and swap between sweeps; all of a round is one launch. Particles, and coordinates to be weighed, have a team each; one
team chooses which particles go to the next temperature. The machine code is kept by numba-cuda's cache beside that of
the CPU.

With ``NUMBA_ENABLE_CUDASIM=1`` the same text runs in numba's simulator, see `simulated`.
"""

from __future__ import annotations

import ast
import functools
import re
from typing import Any, NamedTuple

from bluesky_bayes.kernels.build import ShapeSource, Unsigned, body_of, module_of, places, shape_text
from bluesky_bayes.kernels.cooperative import for_teams
from bluesky_bayes.kernels.task import Amplitudes, Reference, Score, Scratch, State, Task

WARP, MOST_BY_WARP, BLOCK = 32, 1024, 256
"""Threads of a warp; the most points that one warp works on, above which a block does; threads of that block."""

HEADER = """
import math
from collections import namedtuple
import numpy as np
import numba
from numba import cuda
from bluesky_bayes.kernels.task import Order
{kinds}
{device}
jit = in_order = inner = small = device
U64 = np.uint64
I4, I8 = np.int32, np.int64
SINGLE = {single}
F = np.float{bits}
MASK = 0xFFFFFFFF
{scalar}
{elementary}
"""
REAL = """
from llvmlite import ir
from numba.core import types
from numba.cuda import libdevice
from numba.cuda.extending import intrinsic


@intrinsic
def anew(typing, at):
    def generate(context, builder, signature, arguments):
        whole = context.cast(builder, arguments[0], at, types.int64)
        return builder.asm(ir.FunctionType(whole.type, [whole.type]), "mov.b64 $0, $1;", "=l,l", [whole], True)

    return types.int64(at), generate


device = cuda.jit(device=True, forceinline=True)
kernel = cuda.jit(cache=True, fastmath=True)

"""
SIMULATED = """
def device(function):
    return function


@device
def anew(at):
    return at


kernel = cuda.jit
"""
SINGLE_PRECISION = """
@device
def exp(x):
    return libdevice.fast_expf(min(max(x, F(-60.0)), F(88.0)))


log, floor, ceil = log_single, libdevice.floorf, libdevice.ceilf
"""
DOUBLE_PRECISION = """
exp, log, floor, ceil = exp_double, log_double, libdevice.floor, libdevice.ceil
"""
PLAIN = """
exp, log = exp_{word}, log_{word}
"""

BY_WARP = """
@device
def lane_of():
    return cuda.threadIdx.x & 31


@device
def team_size():
    return cuda.warpsize  # not a constant to the compiler, so that it leaves loops as they are


@device
def team():
    return cuda.threadIdx.x >> 5


@device
def teams():
    return cuda.blockDim.x >> 5


@device
def is_first():
    return cuda.threadIdx.x & 31 == 0


@device
def wait_for_team():
    cuda.syncwarp()


@device
def sum_of_team(v):
    for step in (16, 8, 4, 2, 1):
        v += cuda.shfl_xor_sync(MASK, v, step)
    return v


@device
def largest_of_team(v):
    for step in (16, 8, 4, 2, 1):
        v = max(v, cuda.shfl_xor_sync(MASK, v, step))
    return v
"""
BY_BLOCK = """
@device
def lane_of():
    return cuda.threadIdx.x


@device
def team_size():
    return cuda.blockDim.x


@device
def team():
    return 0


@device
def teams():
    return 1


@device
def is_first():
    return cuda.threadIdx.x == 0


@device
def wait_for_team():
    cuda.syncthreads()


@device
def of_warps(v):
    # of a size that the launch tells: numba-cuda links a function's modules repeatedly, and fixed arrays would clash
    parts = cuda.shared.array(0, numba.float64)
    cuda.syncthreads()
    if cuda.threadIdx.x & 31 == 0:
        parts[cuda.threadIdx.x >> 5] = v
    cuda.syncthreads()
    total, top = 0.0, parts[0]
    warp = 0
    while warp < cuda.blockDim.x >> 5:
        total += parts[U64(warp)]
        top = max(top, parts[U64(warp)])
        warp = anew(warp) + 1
    return total, top


@device
def sum_of_team(v):
    for step in (16, 8, 4, 2, 1):
        v += cuda.shfl_xor_sync(MASK, v, step)
    return of_warps(float(v))[0]


@device
def largest_of_team(v):
    for step in (16, 8, 4, 2, 1):
        v = max(v, cuda.shfl_xor_sync(MASK, v, step))
    return of_warps(float(v))[1]
"""
OF_ALL = """
@device
def wait_for_all():
    cuda.syncthreads()


@device
def spare_row(n):
    return anew(n - teams() + team())


@device
def team_of_all():
    return cuda.blockIdx.x * teams() + team()


@device
def teams_of_all():
    return cuda.gridDim.x * teams()
"""

BY_TASK = {
    "x", "y", "weight", "inverse_y", "noise_scale", "noise_dof", "n_data", "constant", "slot_scale", "slot_offset",
    "bin_edge", "cell_origin", "cell_scale", "cell_first", "cell_last",
    "linear_mean", "linear_precision", "tables", "log_weight", "mean", "shift", "precision",
}  # fmt: skip
"""Arrays that each data set has for itself; all others are the same for all data sets of a model."""
DRAWN = ("normals", "log_uniforms")
KINDS: tuple[Any, ...] = (Task, Reference, State, Score, Scratch)
TUPLES = (*KINDS, Amplitudes)
PLACES = {
    "task": ("at",), "reference": ("at",), "state": ("at",), "score": ("at",), "scratch": ("at", "drawn"),
    "amplitudes": ("at",),
}  # fmt: skip
"""Where in the arrays of each kind a team's own part is, which the tuples of a kernel hold besides. What is drawn has a
place of its own, since the teams of a ladder share it."""

LADDERS = """
@kernel
def ladders(
    {arguments}, task_of, fresh, betas, steps, strides, group_size, n_adapt, rounds, keys, order, energies, misfit,
    samples, rejected, accepted, trips, drift
):
    run = cuda.blockIdx.y
    which = task_of[run]
    room = run * teams() + team()
    found = run_ladder(
        {task}, {reference}, {state}, {score}, fresh[run], betas[run], steps[run], strides[run], group_size, n_adapt,
        rounds[run], keys[run, 0], keys[run, 1], order[run], {scratch}, energies[run], misfit[run], samples[run],
        rejected[run], accepted[run], trips[run]
    )
    if is_first():
        drift[run, team()] = found
"""
CHOSEN = """
@kernel
def chosen(
    betas, steps, level, share, group_size, counted, energies, rounds, keys, normals, log_uniforms, hits, total, parents
):
    run, blocks = cuda.blockIdx.x, hits.shape[0] // cuda.gridDim.x
    if betas[run, level] >= 1.0:
        if is_first():
            betas[run, level + 1] = 1.0
        return
    if is_first():
        for g in range(group_size.size):
            counted[run, g] = 0.0
            for room in range(run * blocks, (run + 1) * blocks):
                counted[run, g] += hits[room, g]
    wait_for_team()
    choose(
        betas[run], steps[run], level, share, group_size, counted[run], energies.shape[1], energies[run], rounds[run],
        keys[run, 0], keys[run, 1], normals[run * blocks], log_uniforms[run * blocks], total[run], parents[run]
    )
"""
STRIDED = """
@kernel
def strided(
    betas, level, share, free, order_group_start, order_location, order_member_start, order_member, before, parents,
    strides
):
    run = cuda.blockIdx.x
    if betas[run, level - 1] < 1.0:
        order = Order(order_group_start, order_location, order_member_start, order_member)
        find_stride(before[run], parents[run], free, order, share, strides[run], level)
"""
PARTICLES = """
@kernel
def particles(
    {arguments}, task_of, betas, steps, strides, level, parents, n_sweeps, before, rounds, keys, cloud, energies, misfit
):
    run = cuda.blockIdx.y
    if betas[run, level - 1] >= 1.0:
        return
    which = task_of[run]
    room = run * cuda.gridDim.x + cuda.blockIdx.x
    move_particles(
        {task}, {reference}, {state}, {score}, betas[run, level], steps[run], strides[run], level, parents[run], 0,
        n_sweeps, before[run], rounds[run], keys[run, 0], keys[run, 1], {scratch}, cloud[run], energies[run],
        misfit[run]
    )
"""
WEIGHED = """
@kernel
def weighed({arguments}, task_of, z, energies, misfit):
    run = cuda.blockIdx.y
    which = task_of[run]
    room = run * cuda.gridDim.x + cuda.blockIdx.x
    weigh({task}, {reference}, {state}, {score}, z[run], {scratch}, energies[run], misfit[run])
"""


def source(
    shapes: tuple[ShapeSource, ...], single: bool, by_warp: bool, traits: Traits, simulated: bool = False
) -> str:
    """Text of the module for models of these components, by a warp for each replica or by a block.

    Parameters
    ----------
    shapes : tuple of ShapeSource
        A task's `term_fill` and `term_trial` are their places in this tuple.
    single : bool
        Whether curves are float32.
    by_warp : bool
    simulated : bool
        Whether for numba's simulator.
    """
    word, bits = ("single", 32) if single else ("double", 64)
    elementary = SINGLE_PRECISION if single else DOUBLE_PRECISION
    if simulated:
        elementary = PLAIN.format(word=word)
    header = HEADER.format(
        kinds="\n".join(_kind(kind) for kind in TUPLES),
        device=SIMULATED if simulated else REAL,
        single=single,
        bits=bits,
        scalar=body_of("scalar"),
        elementary=elementary,
    )
    loops = "\n\n".join(shape_text(shape, f"_{i}") for i, shape in enumerate(shapes))
    loops = re.sub(r"\bfloat\(", "F(", loops)
    loops = loops.replace("@pass_of_fill", "@small").replace("@pass_of_trial", "@small")
    engine = ast.unparse(_Settled(traits.settled()).visit(ast.parse(body_of("engine"))))
    work = for_teams("\n\n".join((loops, _chosen(len(shapes)), engine)))
    if not simulated:
        header, work = (_of_math(text) for text in (header, work))
    tree: ast.AST = ast.parse("\n\n".join((work, _launches())))
    for rule in (_Counted(), _Own(), Unsigned()):
        tree = ast.fix_missing_locations(rule.visit(tree))
    return "\n\n".join((header, BY_WARP if by_warp else BY_BLOCK, OF_ALL, ast.unparse(tree)))


def _of_math(text: str) -> str:
    """Functions of NumPy by those of `math` where numba-cuda has no others."""
    text = re.sub(r"\bnp\.(sqrt|exp|log|pow)\(", r"math.\1(", text)
    return (
        re.sub(r"\b(?:np|math)\.(floor|ceil)\(", r"\1(", text)
        .replace("np.abs(", "abs(")
        .replace("np.power(", "math.pow(")
    )


def _chosen(n: int) -> str:
    """The loops of one of `n` components, by its number."""
    text = ""
    for name, arguments, result in (
        ("fill", "values, x, x0, new, n0, n", ""),
        ("trial", "values, x, weight, x0, amplitude, residual, r0, curve, c0, new, n0, trial, n", "return "),
    ):
        text += f"\n\n@small\ndef {name}_curve(number, {arguments}):\n"
        for i in range(n - 1):
            text += f"    if number == {i}:\n        {result or 'return '}{name}_{i}({arguments})\n"
        text += f"    {result}{name}_{n - 1}({arguments})\n" if n else "    pass\n"
    return text


def _launches() -> str:
    arguments = ", ".join(name for kind in KINDS for name in _arguments(kind))
    ladder, alone = ({kind.__name__.lower(): _whole(kind, run) for kind in KINDS} for run in ("run", "room"))
    return "\n".join(
        (
            LADDERS.format(arguments=arguments, **ladder),
            CHOSEN,
            STRIDED,
            PARTICLES.format(arguments=arguments, **alone),
            WEIGHED.format(arguments=arguments, **alone),
        )
    )


def _kind(kind: Any) -> str:
    """Text of a kind of tuple that has the places of a team's own part besides."""
    name = kind.__name__
    return f"{name} = namedtuple({name!r}, {[*kind._fields, *PLACES[name.lower()]]})"


def _arguments(kind: Any, prefix: str = "") -> list[str]:
    """Names of a kernel's arguments of one kind."""
    prefix = prefix or kind.__name__.lower()
    names: list[str] = []
    for field in kind._fields:
        nested = kind is Scratch and field == "linear"
        names += _arguments(Amplitudes, f"{prefix}_{field}") if nested else [f"{prefix}_{field}"]
    return names


def _whole(kind: Any, run: str) -> str:
    """How a thread puts the arguments of one kind together; `run` is where replicas and what is drawn for them are."""
    names, at = _arguments(kind), run
    if kind in (Task, Reference):
        at = "which"
    elif kind is Scratch:
        n = len(Amplitudes._fields)
        names, at = [*names[:-n], f"Amplitudes({', '.join(names[-n:])}, room)"], f"room, {run}"
    return f"{kind.__name__}({', '.join(names)}, {at})"


class Traits(NamedTuple):
    """What is known of a task when its kernels are made, so that they carry nothing that it does not need.

    Attributes
    ----------
    kind : int or None
        Noise of all blocks; None where they have not all the same.
    known : bool or None
        Whether its size is given; None where it is for some blocks.
    from_prior : bool
        Whether the reference is the prior.
    carries : bool
        Whether shapes step together, with amplitudes carried along.
    jumps : bool
        Whether components may jump; told apart only where shapes step together.
    several : bool
        Whether there is more than one block.
    """

    kind: int | None
    known: bool | None
    from_prior: bool
    carries: bool = False
    jumps: bool = True
    several: bool = False

    @classmethod
    def of(cls, task: Task, reference: Reference) -> Traits:
        """Of a task."""
        kinds, known = set(task.noise.tolist()), set((task.noise_parameter < 0).tolist())
        return cls(
            kinds.pop() if len(kinds) == 1 else None,
            known.pop() if len(known) == 1 else None,
            not reference.log_weight.size,
            bool(task.free.size),
            bool(task.jump_term.size) or not task.free.size,
            task.noise.size > 1,
        )

    def settled(self) -> dict[str, str]:
        """Expressions of `engine` that are known, and their values."""
        settled = {
            "reference.log_weight.size == 0": str(self.from_prior),
            "reference.log_weight.size > 0": str(not self.from_prior),
            "task.free.size > 0": str(self.carries),
        }
        if self.kind is not None:
            settled["task.noise[block]"] = str(self.kind)
        if self.known is not None:
            settled["task.noise_parameter[block] < 0"] = str(self.known)
        if not self.several:
            settled |= {
                "task.noise.size": "1",
                "task.term_block[term]": "0",
                "task.block_start[block]": "0",
                "task.block_start[block + 1]": "task.x.size",
            }
        if not self.jumps:
            settled["task.jump_term.size"] = "0"
        if self.from_prior:
            settled["reference.log_weight.size"] = "0"
        return settled


class _Settled(ast.NodeTransformer):
    def __init__(self, settled: dict[str, str]) -> None:
        self.settled = {text: ast.parse(value, mode="eval").body for text, value in settled.items()}

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr) and (value := self.settled.get(ast.unparse(node))) is not None:
            return value
        return self.generic_visit(node)


class _Counted(ast.NodeTransformer):
    """Loops that count and compare: for `range` numba first divides to find how often, and holds what is left.

    Where they count by ones, the compiler is kept from knowing it by `anew`: it would go four rounds at once, and hold
    from the beginning on how many are left over.
    """

    def __init__(self) -> None:
        self.made = 0

    def visit_For(self, node: ast.For) -> list[ast.stmt]:
        self.generic_visit(node)
        assert isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Call)
        self.made += 1
        given = [ast.unparse(argument) for argument in node.iter.args]
        first, end, step = ("0", *given, "1") if len(given) == 1 else (*given, "1")[:3]
        i, last, after = node.target.id, f"end_{self.made}", f"after_{self.made}"
        more = f"anew({{}}) + {step}" if step == "1" else f"{{}} + {step}"
        if any(isinstance(n, ast.Continue) for n in ast.walk(node)):
            begun = ast.parse(f"{last} = {end}\n{after} = {first}").body
            node.body[:0] = ast.parse(f"{i} = {after}\n{after} = {more.format(after)}").body
        else:
            after, begun = i, ast.parse(f"{last} = {end}\n{i} = {first}").body
            node.body += ast.parse(f"{i} = {more.format(i)}").body
        return [*begun, ast.While(ast.parse(f"{after} < {last}", mode="eval").body, node.body, [])]


class _Own(ast.NodeTransformer):
    """A team's own part of an array of many, found anew at each use: otherwise each thread holds fifty addresses.

    The compiler cannot know that `anew` gives the same number again.
    """

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        at = _place(node)
        return self.generic_visit(node) if at is None else ast.Subscript(node, at, ast.Load())

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        at = _place(node.value)
        if at is None:
            return self.generic_visit(node)
        node.slice = self.visit(node.slice)
        node.slice = ast.Tuple([at, *places(node.slice)], ast.Load())
        return node


def _place(node: ast.expr) -> ast.expr | None:
    """Place of a team's own part in an array that has one of each."""
    if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PLACES):
        return None
    kind, field = node.value.id, node.attr
    if field in (*PLACES[kind], "linear") or (kind in ("task", "reference") and field not in BY_TASK):
        return None
    return ast.parse(f"anew({kind}.{'drawn' if field in DRAWN else 'at'})", mode="eval").body


@functools.cache
def launches(
    shapes: tuple[ShapeSource, ...], single: bool, by_warp: bool, traits: Traits, simulated: bool = False
) -> Any:
    """The kernels `ladders`, `chosen`, `particles` and `weighed` as a module, compiled when first launched."""
    return module_of("cuda", source(shapes, single, by_warp, traits, simulated))
