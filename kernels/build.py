"""Compiled kernels: one real module for each set of components and precision, kept in the user's cache.

numba's disk cache works only for functions that live in a real file, so the source of `engine`, of the elementary
functions and of the components is written to one, named by the hash of everything that gives it its meaning.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

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
"""

KIND = """
@jit
def fill_{k}(values, x, x0, new, n0, n):
{load}
    a, b = U64(x0), U64(n0)
    for i in range(U64(n)):
        new[b + i] = F({call})


@jit
def trial_{k}(values, x, weight, x0, amplitude, residual, r0, curve, c0, new, n0, trial, n):
{load}
    a, r, c, b = U64(x0), U64(r0), U64(c0), U64(n0)
    s = F(0)
    for i in range(U64(n)):
        e = F({call})
        v = residual[r + i] + amplitude * (curve[c + i] - e)
        new[b + i] = e
        trial[a + i] = v
        s += weight[a + i] * v * v
    return s
"""

FILL_ARGUMENTS = "values, x, x0, new, n0, n"
TRIAL_ARGUMENTS = "values, x, weight, x0, amplitude, residual, r0, curve, c0, new, n0, trial, n"

DISPATCH = """
@small
def fill_curve(kind, {fill_arguments}):
{fill}


@small
def trial_curve(kind, {trial_arguments}):
{trial}
    return F(0)
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


def kernels_for(shapes: Sequence[ShapeSource], single: bool) -> Any:
    """Compiled `engine` for these components, kind k being ``shapes[k]``; `single` chooses float32 curves."""
    with _lock:
        return _load(tuple(shapes), single)


@functools.cache
def _load(shapes: tuple[ShapeSource, ...], single: bool) -> ModuleType:
    import llvmlite
    import numba
    import numpy as np

    text = module_text(shapes, single)
    meaning = "\n".join((text, numba.__version__, llvmlite.__version__, np.__version__, sys.version))
    name = f"kernels_{hashlib.sha256(meaning.encode()).hexdigest()[:24]}"
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


def compile_errors() -> tuple[type[Exception], ...]:
    """What numba raises when it cannot compile a function."""
    from numba.core.errors import NumbaError, UnsupportedBytecodeError

    return NumbaError, UnsupportedBytecodeError


def why_not_compiled(shapes: Sequence[ShapeSource], single: bool) -> dict[ShapeSource, str]:
    """Those of the shapes that numba cannot compile, each with the first line of its reason."""
    import numba

    kernels, reasons = kernels_for(shapes, single), {}
    number = numba.float32 if single else numba.float64
    array = numba.types.Array(number, 1, "C")
    for k, shape in enumerate(shapes):
        try:
            getattr(kernels, f"c{k}_{shape.name}").compile((number,) * (1 + shape.n_values))
            getattr(kernels, f"fill_{k}").compile((array, array, numba.int64, array, numba.int64, numba.int64))
        except compile_errors() as error:
            reasons[shape] = _first_line(error)
    return reasons


def _first_line(error: Exception) -> str:
    """The first line of numba's reason that is one, without addresses and places in generated files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Failed in nopython mode")]
    line = (telling or lines or [type(error).__name__])[0]
    return re.sub(r" at 0x[0-9a-f]+|(?: for '\$\S+)?, defined at .*|\.? Raised from None$", "", line).rstrip(":.")


def module_text(shapes: Sequence[ShapeSource], single: bool) -> str:
    """Source of the module for these components."""
    header = HEADER.format(
        flags=FAST_MATH,
        in_order=IN_ORDER,
        single=single,
        bits=32 if single else 64,
        word="single" if single else "double",
        scalar=_body("scalar"),
    )
    kinds = "\n".join(_kind_text(k, shape) for k, shape in enumerate(shapes))
    fill = "\n".join(f"    if kind == {k}:\n        fill_{k}({FILL_ARGUMENTS})" for k in range(len(shapes)))
    trial = "\n".join(f"    if kind == {k}:\n        return trial_{k}({TRIAL_ARGUMENTS})" for k in range(len(shapes)))
    dispatch = DISPATCH.format(
        fill_arguments=FILL_ARGUMENTS,
        trial_arguments=TRIAL_ARGUMENTS,
        fill=fill or "    pass",
        trial=trial or "    pass",
    )
    return "\n".join((header, kinds, dispatch, _body("engine")))


def _body(module: str) -> str:
    """Text of one of this package's modules without its imports."""
    text = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    dropped = {n for node in imports for n in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return "\n".join(line for n, line in enumerate(text.splitlines(), 1) if n not in dropped)


def _kind_text(k: int, shape: ShapeSource) -> str:
    """Compiled functions of component `k`, its helpers renamed so that components cannot collide."""
    tree = ast.parse(shape.source)
    names = {node.name: f"c{k}_{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {name: f"c{k}_{name}" for name, _ in shape.constants}
    constants = "\n".join(f"c{k}_{name} = F({value!r})" for name, value in shape.constants)
    functions = "\n\n".join(f"@jit\n{ast.unparse(_Typed(names).visit(node))}" for node in tree.body)
    values = ", ".join(f"p{i}" for i in range(shape.n_values))
    load = "\n".join(f"    p{i} = values[{i}]" for i in range(shape.n_values)) or "    pass"
    call = f"c{k}_{shape.name}(x[a + i]{', ' if values else ''}{values})"
    return "\n".join((constants, functions, KIND.format(k=k, load=load, call=call)))


class _Typed(ast.NodeTransformer):
    """Gives numbers the kernel's precision, and `exp` its vectorising form."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(self.names.get(node.id, node.id), node.ctx), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.name = self.names[node.name]
        node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
        return ast.fix_missing_locations(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        module = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr == "exp" and module in ("math", "np", "kernel_math"):
            return ast.copy_location(ast.Name("exp", node.ctx), node)
        if module in ("math", "np") and node.attr in ("pi", "e", "inf"):
            return ast.copy_location(_number(node), node)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        whole_power = (
            isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant) and isinstance(node.right.value, int)
        )
        node.left = self.visit(node.left)
        node.right = node.right if whole_power else self.visit(node.right)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in ("range", "int"):
            if node.func.id == "int":
                node.args = [self.visit(a) for a in node.args]
            return node
        self.generic_visit(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        node.value = self.visit(node.value)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return node
        return ast.copy_location(_number(node), node)


def _number(node: ast.expr) -> ast.Call:
    return ast.Call(ast.Name("F", ast.Load()), [node], [])


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
