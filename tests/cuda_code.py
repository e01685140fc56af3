"""The machine code of the GPU kernels, made without a GPU: registers, spills, and what stands in the loops.

``python tests/cuda_code.py`` shows a table of every kernel for every kind of task, for the architectures named or all,
and fails where one falls short; it takes most of an hour. numba-cuda makes PTX, and NVIDIA's assembler and disassembler
from their wheels do the rest (``pip install -e ".[gpu-test]"``).
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from kinds import Kind, decays_together, one_peak, peaks_together, sloping

from bluesky_bayes import Gaussian, Poisson, StudentT
from bluesky_bayes.components import Component
from bluesky_bayes.kernels import cuda as text
from bluesky_bayes.kernels import launch
from bluesky_bayes.kernels.build import module_of
from bluesky_bayes.kernels.launch import KERNELS, Call, Room
from bluesky_bayes.kernels.task import new_score, new_scratch, new_state
from bluesky_bayes.reference import Start, first_start, fitted_start
from bluesky_bayes.shapes import gaussian
from bluesky_bayes.tasks import order_of, shape_source

ARCHITECTURES = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0)}
MOST_REGISTERS = {
    "passes": 96, "loops": 40, "ladders": 216, "particles": 192, "weighed": 112, "chosen": 64, "strided": 64
}  # fmt: skip
"""Of a thread."""
DOUBLE = re.compile(r"\bD(?:MUL|FMA)\b")
"""Arithmetic in float64; sums over warps and what is kept of them are additions and conversions."""
ANY_DOUBLE = re.compile(r"\bD(?:ADD|MUL|FMA|SETP|MNMX)\b")
CASES: tuple[tuple[Kind, Any, bool], ...] = (
    *((one_peak, noise, False) for noise in (Gaussian(3.0), Poisson(), StudentT(3.0))),
    *((one_peak, noise, True) for noise in (Gaussian(3.0), Gaussian(), Poisson(), StudentT(3.0), StudentT())),
    *((sloping, noise, False) for noise in (Gaussian(3.0), Poisson(), StudentT(3.0))),
    *((sloping, noise, True) for noise in (Gaussian(), Poisson(), StudentT())),
    *((peaks_together, (Gaussian(3.0), Gaussian(2.0)), fitted) for fitted in (False, True)),
    (peaks_together, (Gaussian(3.0), Poisson()), False),
    (peaks_together, (StudentT(), Poisson()), True),
    (decays_together, (Gaussian(3.0), Gaussian()), True),
)
"""Kinds of models, of noise, and whether the reference is a mixture: that of unknown size never begins at the prior."""
PASSES = """

@kernel
def passes(values, x, weight, amplitude, residual, curve, new, trial, total):
    number = cuda.blockIdx.x
    fill_curve(number, values, x, 0, curve, 0, x.size)
    total[number] = trial_curve(number, values, x, weight, 0, amplitude, residual, 0, curve, 0, new, 0, trial, x.size)
"""
LOOPS = """

@kernel
def loops(weight, y, inverse_y, change, residual, curve, trial, total):
    n = trial.size
    copy_points(residual, 0, trial, 0, n)
    total[0] = subtract_curve(weight, 0, change, residual, 0, curve, 0, trial, 0, n)
    total[1] = poisson_deviance(weight, y, inverse_y, 0, residual, 0, n)
    total[2] = log_tails(weight, 0, change, residual, 0, n)
    total[3] = lack_of_signal(weight, 0, residual, 0, curve, 0, change, n)
    total[4] = lack_of_counts(weight, y, inverse_y, 0, residual, 0, curve, 0, change, n)
"""


class Code(NamedTuple):
    """Machine code of a kernel.

    Attributes
    ----------
    registers, stack, spilled : int
        Of a thread; bytes.
    text : str
    """

    registers: int
    stack: int
    spilled: int
    text: str


def tool(name: str) -> str | None:
    """NVIDIA's program of that name, from its wheel."""
    import importlib.util

    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for found in Path(folder).glob(f"cu1*/bin/{name}"):
            return str(found)
    return shutil.which(name)


def ptx(kernel: Any, signature: tuple[Any, ...], capability: tuple[int, int] = (8, 0)) -> str:
    """PTX of a kernel; only the device's capability is asked of a device that is not there."""
    from numba import cuda

    device = SimpleNamespace(compute_capability=capability)
    with mock.patch("numba.cuda.dispatcher.get_current_device", lambda: device):
        code, _ = cuda.compile_ptx(kernel.py_func, signature, cc=capability, fastmath=True, device=False)
    return str(code)


def assembled(code: str, architecture: str) -> Code:
    """Machine code for an architecture."""
    assembler, disassembler = tool("ptxas"), tool("nvdisasm")
    assert assembler and disassembler
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(code)
        said = subprocess.run(
            [assembler, "-v", "-O3", f"-arch={architecture}", str(source), "-o", str(binary)],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
        listed = subprocess.run([disassembler, str(binary)], capture_output=True, text=True, check=True).stdout

    def number(pattern: str) -> int:
        return int(re.search(pattern, said)[1])  # type: ignore[index]

    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return Code(number(r"Used (\d+) registers"), number(r"(\d+) bytes stack frame"), spilled, listed)


def innermost(listing: str) -> list[str]:
    """Loops of machine code that have none inside, as text."""
    lines, labels, found = listing.splitlines(), dict[str, int](), list[tuple[int, int]]()
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = number
        elif (jump := re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)) and jump[1] in labels:
            found.append((labels[jump[1]], number))
    inner = [(a, b) for a, b in found if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in found)]
    return ["\n".join(lines[a : b + 1]) for a, b in inner]


def short_of(name: str, code: Code) -> str:
    """What a kernel falls short of, in words; empty where it does not."""
    said = []
    if code.stack or code.spilled:
        said.append("has a stack or spills")
    if code.registers > MOST_REGISTERS[name]:
        said.append(f"takes more than {MOST_REGISTERS[name]} registers")
    if "SHFL" not in code.text:
        said.append("adds up without shuffles")
    curves = [loop for loop in innermost(code.text) if "MUFU.EX2" in loop]
    if name not in ("chosen", "strided") and not curves:
        said.append("has no loop with exponentials by MUFU.EX2")
    if any(ANY_DOUBLE.search(loop) for loop in curves):
        said.append("does float64 arithmetic in a loop over points")
    return ", ".join(said)


def passes_of(components: tuple[Component, ...], by_warp: bool, single: bool = True) -> tuple[Any, tuple[Any, ...]]:
    """Kernel of both passes over points of all these components, and its signature."""
    import numba

    shapes = tuple(dict.fromkeys(shape_source(component) for component in components))
    traits = text.Traits(0, True, True)
    module = module_of("cuda", text.source(shapes, single, by_warp, traits) + PASSES)
    real = numba.float32 if single else numba.float64
    row = real[::1]
    return module.passes, (row, row, row, real, row, row, row, row, numba.float64[::1])


def loops_of(by_warp: bool) -> tuple[Any, tuple[Any, ...]]:
    """Kernel of the other loops over points that a move may take, of all kinds of noise, and its signature."""
    import numba

    traits = text.Traits(0, True, True)
    module = module_of("cuda", text.source((shape_source(gaussian),), True, by_warp, traits) + LOOPS)
    row = numba.float32[::1]
    return module.loops, (row, row, row, numba.float32, row, row, row, row)


def problem(kind: Kind, noise: Any, fitted: bool) -> Call:
    """A ladder's call, whose numbers do not matter."""
    task, groups = kind(noise)
    rng, d = np.random.default_rng(0), len(task.tables)
    start: Start = fitted_start(rng.standard_normal((50, d)), groups, rng) if fitted else first_start(task)
    return call_of(task, start)


def call_of(task: Any, start: Start, n_levels: int = 4) -> Call:
    """A ladder's call."""
    reference, d = start.arrays, len(task.tables)
    z, groups, n = np.zeros((n_levels, d)), int(task.step_group.max()) + 1, n_levels
    state, score, scratch = new_state(task, z), new_score(reference, z), new_scratch(task, n)
    strides = np.zeros((n, task.free.size, task.free.size))
    return Call(
        "run_ladder",
        (
            task, reference, state, score, np.zeros((5, d)), np.linspace(0, 1, n), np.ones((n, groups)), strides,
            np.ones(groups), 0, 0, 1, 2, np.arange(n), scratch, np.zeros((5, n)), np.zeros(5), np.zeros((5, d)),
            np.zeros(n - 1), np.zeros((n, groups)), np.zeros((n, 2), dtype=np.int64),
        ),
    )  # fmt: skip


def particles_of(ladder: Call) -> Call:
    """Particles of the same task."""
    a, n = ladder.arguments, 4
    cloud = np.zeros((2 * n, a[4].shape[1]))
    return Call(
        "cool",
        (
            *a[:4], a[5], a[6], a[7], 0.5, a[8], 2, 0, 1, 2, np.arange(n), a[14], cloud, np.zeros(len(cloud)),
            order_of(()),
        ),
    )  # fmt: skip


def weighed_of(ladder: Call) -> Call:
    """Coordinates to be weighed for the same task."""
    a = ladder.arguments
    return Call("weigh", (*a[:4], a[4], a[14], np.zeros(len(a[4])), np.zeros(len(a[4]))))


def kernel_of(call: Call, by_warp: bool) -> tuple[Any, tuple[Any, ...]]:
    """The kernel that a call is for, and its signature."""
    traits = text.Traits.of(call.task, call.reference)
    module = text.launches(launch.components(call.task), True, by_warp, traits)
    return getattr(module, KERNELS[call.name]), tuple(_type(value) for _, value in launch.placed([call])[0])


def choice_of(call: Call, by_warp: bool, name: str) -> tuple[Any, tuple[Any, ...]]:
    """The kernel that chooses particles (`chosen`) or finds their common steps (`strided`), and its signature."""
    traits = text.Traits.of(call.task, call.reference)
    module = text.launches(launch.components(call.task), True, by_warp, traits)
    values = dict(launch.placed([call])[0]) | dict(launch._for_choice([call]))
    arguments = {"chosen": launch.CHOSEN, "strided": launch.STRIDED}[name]
    return getattr(module, name), tuple(_type(values[argument]) for argument in arguments)


def _type(value: Any) -> Any:
    import numba

    if isinstance(value, Room | np.ndarray):
        return numba.types.Array(numba.from_dtype(np.dtype(value.dtype)), len(value.shape), "C")
    return numba.float64 if isinstance(value, float) else numba.int64


def main() -> int:
    """Print the table, as Markdown; 1 where a kernel falls short."""
    architectures = sys.argv[1:] or list(ARCHITECTURES)
    print("| task | kernel |", " | ".join(architectures), "|\n|" + "---|" * (2 + len(architectures)))
    failed = False
    for case in CASES:
        ladder = problem(*case)
        calls = (ladder, particles_of(ladder), weighed_of(ladder))
        for by_warp in (True, False):
            made = {KERNELS[call.name]: kernel_of(call, by_warp) for call in calls}
            if case == CASES[0]:  # choosing particles is the same for every task
                made["chosen"] = choice_of(calls[1], by_warp, "chosen")
            if case[:2] == (sloping, Gaussian()):  # and common steps for every task that has them
                made["strided"] = choice_of(calls[1], by_warp, "strided")
            for name, (function, signature) in made.items():
                code, cells = ptx(function, signature), []
                for architecture in architectures:
                    found = assembled(code, architecture)
                    short = short_of(name, found)
                    failed = failed or bool(short)
                    said = f": {found.stack} bytes of stack, {found.spilled} spilled, {short}" if short else ""
                    cells.append(f"{found.registers}{said}")
                kind, noise, fitted = case
                start = "a mixture" if fitted else "the prior"
                noises = " and ".join(map(str, noise)) if isinstance(noise, tuple) else noise
                print(
                    f"| {kind.__name__}, {noises}, from {start} | {name} by {'warp' if by_warp else 'block'} |", end=" "
                )
                print(" | ".join(cells), "|", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
