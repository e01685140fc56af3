"""Compiled kernels, kept in the user's cache: one real module a precision, and a small one for each component.

numba's disk cache works only for functions that live in a real file, so sources are written to files named by the hash
of everything that gives them their meaning. The kernels reach a component's loops over points by their addresses: they
are compiled once, and a new component costs no more than its own loops.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

FAST_MATH = "{'reassoc', 'contract', 'arcp', 'nsz'}"
IN_ORDER = "{'contract', 'arcp', 'nsz'}"
"""For functions that round by adding a large number and taking it off again, which 'reassoc' would undo."""

HEADER = """
import math
import numpy as np
import numba
jit = numba.njit(fastmath={flags}, error_model="numpy", nogil=True, cache=True, _nrt=False)
in_order = numba.njit(fastmath={in_order}, error_model="numpy", nogil=True, cache=True, _nrt=False)
alone = dict(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
inner = numba.njit(fastmath={flags}, error_model="numpy", nogil=True, _nrt=False, **alone)
small = numba.njit(fastmath={flags}, error_model="numpy", nogil=True, _nrt=False, forceinline=True, **alone)
U64 = np.uint64
SINGLE = {single}
F = np.float{bits}
{scalar}
exp = exp_{word}
log = log_{word}


@small
def team():
    return 0


@small
def teams():
    return 1


@small
def wait_for_all():
    pass


@small
def spare_row(n):
    return n - 1


team_of_all, teams_of_all = team, teams
"""

CURVE = """
options = dict(fastmath={flags}, error_model="numpy", _nrt=False, cache=True)
numbers = numba.types.CPointer(numba.float{bits})
whole = numba.int64
pass_of_fill = numba.cfunc(numba.void(numbers, numbers, whole, numbers, whole, whole), **options)
pass_of_trial = numba.cfunc(
    numba.float{bits}(
        numbers, numbers, numbers, whole, numba.float{bits}, numbers, whole, numbers, whole, numbers, whole, numbers,
        whole
    ),
    **options
)
"""

LOOPS = """
@pass_of_fill
def fill{which}(values, x, x0, new, n0, n):
{load}
    a, b = U64(x0), U64(n0)
    for i in range(U64(n)):
        new[b + i] = F({call})


@pass_of_trial
def trial{which}(values, x, weight, x0, amplitude, residual, r0, curve, c0, new, n0, trial, n):
{load}
    a, r, c, b = U64(x0), U64(r0), U64(c0), U64(n0)
    s = F(0)
    for i in range(U64(n)):
        e = F({call})
        old, d = residual[r + i], amplitude * (curve[c + i] - e)
        v = old + d
        new[b + i] = e
        trial[a + i] = v
        s += weight[a + i] * d * (v + old)
    return s
"""

CALLS = """
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


def indirect(result, typed):
    def generate(context, builder, signature, arguments):
        values = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments)
        ]
        target = ir.VoidType() if result is types.void else context.get_value_type(result)
        kind = ir.FunctionType(target, [value.type for value in values[1:]])
        found = builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value() if result is types.void else found

    return result(*typed), generate


@intrinsic
def fill_curve(typing, address, values, x, x0, new, n0, n):
    return indirect(types.void, (address, values, x, x0, new, n0, n))


@intrinsic
def trial_curve(typing, address, values, x, weight, x0, amplitude, residual, r0, curve, c0, new, n0, trial, n):
    return indirect(
        types.float{bits}, (address, values, x, weight, x0, amplitude, residual, r0, curve, c0, new, n0, trial, n)
    )
"""


@dataclass(frozen=True)
class ShapeSource:
    """A component's unit shape as text: ``name(x, *n_values)`` with its helpers and constants."""

    name: str
    source: str
    constants: tuple[tuple[str, float], ...]
    n_values: int


def use_widest_vectors() -> int:
    """Let numba use 512-bit vectors in this process where the processor has them; gives the width in bits.

    A switch of the whole process that must come before the first compilation: for workers that own their kernels.
    """
    import llvmlite.binding as llvm
    from numba.core import config

    features = llvm.get_host_cpu_features()
    if not features.get("avx512f", False):
        return vector_width()
    settings: Any = config
    settings.CPU_NAME = llvm.get_host_cpu_name()
    settings.CPU_FEATURES = features.flatten() + ",-prefer-256-bit"
    return vector_width()


def vector_width() -> int:
    """Width in bits of the vectors that kernels compiled from now on use."""
    import llvmlite.binding as llvm
    from numba.core import config

    features = llvm.get_host_cpu_features()
    if features.get("avx512f", False):
        return 512 if "-prefer-256-bit" in str(getattr(config, "CPU_FEATURES", None) or "") else 256
    return 256 if features.get("avx2", False) else 128


@functools.cache
def cache_folder() -> Path:
    """Folder of the generated modules; one in the user's cache, else (not writable) one for this process only."""
    from platformdirs import user_cache_path

    folder = user_cache_path("bluesky_bayes") / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="bluesky_bayes-kernels-"))


_lock = threading.Lock()


class Curve(NamedTuple):
    """Addresses of a component's compiled loops over points, of this process alone.

    Attributes
    ----------
    fill, trial : int
        See `plain.fill_curve` and `plain.trial_curve`.
    """

    fill: int
    trial: int


def kernels(single: bool) -> Any:
    """Compiled `engine`; `single` chooses float32 curves."""
    with _lock:
        return _kernels(single)


def curve(shape: ShapeSource, single: bool) -> Curve:
    """Compiled loops of a component.

    Raises
    ------
    ValueError
        When numba cannot compile it: the first line of the reason.
    """
    from numba.core.errors import NumbaError, UnsupportedBytecodeError

    try:
        with _lock:
            module = _curve(shape, single)
    except (NumbaError, UnsupportedBytecodeError) as error:
        raise ValueError(_first_line(error)) from error
    found = Curve(module.fill.address, module.trial.address)
    _shapes.update({(address, single): shape for address in found})
    return found


@functools.cache
def _kernels(single: bool) -> Any:
    engine = ast.unparse(Unsigned().visit(ast.parse(body_of("engine"))))
    return module_of("kernels", "\n".join((_header(single), CALLS.format(bits=_bits(single)), engine)))


def shape_at(address: int, single: bool) -> ShapeSource:
    """The component whose compiled loop, of one kind or the other, is at an address that `curve` gave."""
    return _shapes[address, single]


_shapes: dict[tuple[int, bool], ShapeSource] = {}


@functools.cache
def _curve(shape: ShapeSource, single: bool) -> Any:
    loops = CURVE.format(flags=FAST_MATH, bits=_bits(single)), shape_text(shape)
    return module_of("curve", "\n".join((_header(single), *loops)))


def module_of(kind: str, text: str) -> ModuleType:
    """Import this text, from a file in the cache."""
    import llvmlite
    import numba
    import numpy as np

    meaning = "\n".join((text, numba.__version__, llvmlite.__version__, np.__version__, sys.version))
    name = f"{kind}_{hashlib.sha256(meaning.encode()).hexdigest()[:24]}"
    path = cache_folder() / f"{name}.py"
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _first_line(error: Exception) -> str:
    """The first line of numba's reason that is one, without addresses and places in generated files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Failed in nopython mode")]
    line = (telling or lines or [type(error).__name__])[0]
    return re.sub(r" at 0x[0-9a-f]+|(?: for '\$\S+)?, defined at .*|\.? Raised from None$", "", line).rstrip(":.")


def _bits(single: bool) -> int:
    return 32 if single else 64


def _header(single: bool) -> str:
    """What kernels and components have in common: precision, ways to compile and elementary functions."""
    return HEADER.format(
        flags=FAST_MATH,
        in_order=IN_ORDER,
        single=single,
        bits=_bits(single),
        word="single" if single else "double",
        scalar=body_of("scalar"),
    )


def body_of(module: str) -> str:
    """Text of one of this package's modules without its imports."""
    text = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    dropped = {n for node in imports for n in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return "\n".join(line for n, line in enumerate(text.splitlines(), 1) if n not in dropped)


def shape_text(shape: ShapeSource, which: str = "") -> str:
    """Loops of a component, all its functions inlined: a call inside would keep them from being vectors.

    The functions are renamed so that they cannot collide with the header's, nor, where `which` tells them apart, with
    those of another component.
    """
    tree = ast.parse(shape.source)
    names = {node.name: f"c{which}_{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {name: f"c{which}_{name}" for name, _ in shape.constants}
    whole = {name: int(value) for name, value in shape.constants if value.is_integer()}
    constants = "\n".join(f"{names[name]} = F({value!r})" for name, value in shape.constants)
    functions = "\n\n".join(f"@small\n{ast.unparse(_Typed(names, whole).visit(node))}" for node in tree.body)
    values = ", ".join(f"p{i}" for i in range(shape.n_values))
    load = "\n".join(f"    p{i} = values[{i}]" for i in range(shape.n_values)) or "    pass"
    call = f"{names[shape.name]}(x[a + i]{', ' if values else ''}{values})"
    return "\n".join((constants, functions, LOOPS.format(which=which, load=load, call=call)))


class _Typed(ast.NodeTransformer):
    """Gives numbers the kernel's precision, `exp` its vectorising form, and a function's variables names of their own.

    What counts, arguments of `range` and indices, stays whole.
    """

    def __init__(self, names: Mapping[str, str], whole: Mapping[str, int], counting: bool = False) -> None:
        self.names, self.whole, self.counting = names, whole, counting

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if self.counting and node.id in self.whole:
            return ast.copy_location(ast.Constant(self.whole[node.id]), node)
        return ast.copy_location(ast.Name(self.names.get(node.id, node.id), node.ctx), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        arguments = [*node.args.posonlyargs, *node.args.args]
        own = {argument.arg for argument in arguments} | {
            name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        names = {**self.names, **{name: _variable(name) for name in own}}
        _Typed(names, {name: n for name, n in self.whole.items() if name not in own}).generic_visit(node)
        for argument in arguments:
            argument.arg = _variable(argument.arg)
        node.name = self.names[node.name]
        node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
        return ast.fix_missing_locations(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        module = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr == "exp" and module in ("math", "np", "kernel_math"):
            return ast.copy_location(ast.Name("exp", node.ctx), node)
        if module in ("math", "np") and node.attr in ("pi", "e", "inf"):
            return ast.copy_location(_number(node), node)
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        whole_power = (
            isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant) and isinstance(node.right.value, int)
        )
        node.left = self.visit(node.left)
        node.right = node.right if whole_power else self.visit(node.right)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in ("range", "int"):
            inside = self if node.func.id == "int" else _Typed(self.names, self.whole, counting=True)
            node.args = [inside.visit(a) for a in node.args]
            return node
        if isinstance(node.func, ast.Name) and node.func.id in self.names:
            for keyword in node.keywords:
                keyword.arg = keyword.arg and _variable(keyword.arg)
        self.generic_visit(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        node.value = self.visit(node.value)
        node.slice = _Typed(self.names, self.whole, counting=True).visit(node.slice)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self.counting or isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return node
        return ast.copy_location(_number(node), node)


def _variable(name: str) -> str:
    return f"v_{name}"


def _number(node: ast.expr) -> ast.Call:
    return ast.Call(ast.Name("F", ast.Load()), [node], [])


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class Unsigned(ast.NodeTransformer):
    """Indices that cannot be negative: for others numba adds the length of the axis where they are.

    Otherwise an update takes 6 to 10 % longer.
    """

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Make each index unsigned, but for those of a shape."""
        self.generic_visit(node)
        if not (isinstance(node.value, ast.Attribute) and node.value.attr == "shape"):
            wrapped: list[ast.expr] = [_unsigned(place) for place in places(node.slice)]
            node.slice = ast.Tuple(wrapped, ast.Load()) if isinstance(node.slice, ast.Tuple) else wrapped[0]
        return node


def _unsigned(place: ast.expr) -> ast.expr:
    return place if isinstance(place, ast.Constant) else ast.Call(ast.Name("U64", ast.Load()), [place], [])


def places(index: ast.expr) -> list[ast.expr]:
    """Indices of each axis."""
    return index.elts if isinstance(index, ast.Tuple) else [index]
