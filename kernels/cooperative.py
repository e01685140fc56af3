"""Text of sequential functions turned into text for a team of threads that does the same together.

A team (the lanes of a warp, or the threads of a block) goes through a function side by side, so that every thread knows
every scalar and takes every branch alike. Three rules change the text, and nothing else does:

1. A loop over points, ``for i in range(U64(n))``, is divided: each thread takes every team-th point. Sums and largest
   values that it makes are those of the whole team afterwards.
2. Anything else that writes to an array is done by the first thread alone.
3. The team waits for all its threads before and after each of these two, so that nobody reads what is being written.

What is random, accepted and summed is therefore what the sequential text says, whatever the team. The text may write to
arrays by assignment only, must begin its sums at zero, and calls functions of its own module by name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

WAIT, FIRST, LANE, TEAM = "wait_for_team", "is_first", "lane_of", "team_size"
SUM, LARGEST = "sum_of_team", "largest_of_team"
"""What the module must define for its device; `LANE` and `TEAM` are called without arguments."""
ESCAPES = (ast.Return, ast.Continue, ast.Break)


class TranslationError(ValueError):
    """A function that the rules do not cover."""


def for_teams(text: str) -> str:
    """The text of a module with its functions changed to be gone through by a team.

    Raises
    ------
    TranslationError
        When a function does what the rules do not cover; the sentence names it and its line.
    """
    tree = ast.parse(text)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    together = _together(functions)
    for function in functions:
        if ast.get_docstring(function) is not None:
            del function.body[0]
        if function.name in together:
            function.body = _Rules(function, together).block(function.body, frozenset())
    return ast.unparse(ast.fix_missing_locations(tree))


def _together(functions: Sequence[ast.FunctionDef]) -> frozenset[str]:
    """Functions in which the team has to wait: those that write, or sum over points, or call one that does."""
    found: set[str] = set()
    while True:
        more = {f.name for f in functions if f.name not in found and any(_acts(s, found) for s in f.body)}
        if not more:
            return frozenset(found)
        found |= more


def _acts(node: ast.AST, together: Iterable[str]) -> bool:
    return any(_writes(n) or _over_points(n) for n in ast.walk(node)) or _calls(node, together)


def _writes(node: ast.AST) -> bool:
    """Whether this very statement writes to an array."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign):
        targets = [node.target]
    return any(isinstance(t, ast.Subscript) for target in targets for t in ast.walk(target))


def _over_points(node: ast.AST) -> bool:
    """Whether this is a loop over points: ``for i in range(U64(n))``."""
    return (
        isinstance(node, ast.For)
        and isinstance(node.iter, ast.Call)
        and len(node.iter.args) == 1
        and isinstance(node.iter.args[0], ast.Call)
        and isinstance(node.iter.args[0].func, ast.Name)
        and node.iter.args[0].func.id == "U64"
    )


def _calls(node: ast.AST, names: Iterable[str]) -> bool:
    return any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in names for n in ast.walk(node))


def _assigned(node: ast.AST) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _needed(statements: Sequence[ast.stmt], after: frozenset[str]) -> frozenset[str]:
    """Names that may be read, before they are assigned anew, from here on."""
    for statement in reversed(statements):
        after = _needed_by(statement, after)
    return after


def _needed_by(statement: ast.stmt, after: frozenset[str]) -> frozenset[str]:
    match statement:
        case ast.If(test=test, body=body, orelse=other):
            return _read(test) | _needed(body, after) | _needed(other, after)
        case ast.For(target=target, iter=over, body=body):
            inside = _needed(body, after | _needed(body, after)) - _assigned(target)
            return _read(over) | inside | after
        case ast.While(test=test, body=body):
            return _read(test) | _needed(body, after | _needed(body, after)) | after
        case ast.Assign(targets=targets, value=value):
            given = frozenset(t.id for target in targets for t in _plain_names(target))
            return (after - given) | _read(value) | frozenset().union(*(_read(t) for t in targets))
        case ast.AugAssign(target=target, value=value):
            return after | _read(value) | _read(target) | _assigned(target)
        case ast.Return():
            return _read(statement)
        case _:
            return after | _read(statement)


def _plain_names(target: ast.expr) -> list[ast.Name]:
    if isinstance(target, ast.Name):
        return [target]
    return [name for t in target.elts for name in _plain_names(t)] if isinstance(target, ast.Tuple) else []


def _read(node: ast.AST) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))


class _Rules:
    """The three rules, for one function."""

    def __init__(self, function: ast.FunctionDef, together: frozenset[str]) -> None:
        self.name, self.together, self.kept = function.name, together, 0
        self.loops = [node for node in ast.walk(function) if isinstance(node, ast.For | ast.While)]

    def block(self, statements: Sequence[ast.stmt], after: frozenset[str]) -> list[ast.stmt]:
        """Statements one after the other; `after` are names that are read once they are done."""
        done: list[ast.stmt] = []
        left = list(statements)
        while left:
            n = self._for_one(left, after)
            if n:
                more = _alone(left[:n])
            elif _over_points(left[0]):
                n = 1
                more = self._divided(done, left)
            else:
                n = 1
                more = self._statement(left[0], _needed(left[1:], after))
            done += more[1:] if done and more and _waits(done[-1]) and _waits(more[0]) else more
            left = left[n:]
        return done

    def _for_one(self, statements: Sequence[ast.stmt], after: frozenset[str]) -> int:
        """How many of these the first thread can do alone: they write, wait for nobody and leave no scalar behind."""
        most = 0
        assigned: frozenset[str] = frozenset()
        for n, statement in enumerate(statements, 1):
            if _calls(statement, self.together) or any(
                _over_points(node) or isinstance(node, ESCAPES) for node in ast.walk(statement)
            ):
                break
            assigned |= _assigned(statement)
            if any(_writes(node) for node in ast.walk(statement)) and not assigned & _needed(statements[n:], after):
                most = n
        return most if any(_writes(node) for s in statements[:most] for node in ast.walk(s)) else 0

    def _statement(self, statement: ast.stmt, after: frozenset[str]) -> list[ast.stmt]:
        if not _acts(statement, self.together):
            return [statement]
        match statement:
            case ast.If(body=body, orelse=other):
                statement.body, statement.orelse = self.block(body, after), self.block(other, after)
                return [statement]
            case ast.For(body=body) | ast.While(body=body):
                statement.body = self.block(body, after | _needed([statement], after))
                return [statement]
            case ast.Assign() | ast.AugAssign() if _writes(statement):
                return self._kept(statement)
        return [statement]

    def _kept(self, statement: ast.Assign | ast.AugAssign) -> list[ast.stmt]:
        """What all work out together, written by one."""
        self.kept += 1
        name = f"kept_{self.kept}"
        value = ast.Assign([ast.Name(name, ast.Store())], statement.value)
        statement.value = ast.Name(name, ast.Load())
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if any(_calls(target, self.together) for target in targets):
            raise self._error(statement, "works out together where to write")
        return [value, *_alone([statement])]

    def _divided(self, before: Sequence[ast.stmt], statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        """A loop over points, each thread with its own; sums and largest values of all have names of their own."""
        loop, rest = statements[0], statements[1:]
        assert isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call)
        if _calls(loop, self.together):
            raise self._error(loop, "waits for the team in a loop over points")
        loop.iter = _expression(f"range(U64({LANE}()), {ast.unparse(loop.iter.args[0])}, U64({TEAM}()))")
        sums, largest = [], []
        for node in ast.walk(loop):
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                if not isinstance(node.op, ast.Add | ast.Sub) or not _is_zero(node.target.id, before):
                    raise self._error(node, "adds up in another way than by a sum that begins at zero just before")
                sums.append(node.target.id)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_largest(node):
                largest.append(node.targets[0].id)
        if (sums or largest) and any(statement is loop for outer in self.loops for statement in outer.body):
            raise self._error(loop, "adds up over points again and again in one function")
        writes = any(_writes(node) for node in ast.walk(loop))
        done: list[ast.stmt] = [*_wait()] if writes else []
        done.append(loop)
        for names, how in ((sums, SUM), (largest, LARGEST)):
            for name in dict.fromkeys(names):
                done.append(_assign(f"{name}_of_all", f"{how}({name})"))
                for statement in rest:
                    _Renamed(name, f"{name}_of_all").visit(statement)
        return [*done, *_wait()] if writes else done

    def _error(self, node: ast.stmt, what: str) -> TranslationError:
        return TranslationError(f"function {self.name!r}, line {node.lineno}: {what}")


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(self.new if node.id == self.old else node.id, node.ctx), node)


def _is_zero(name: str, before: Sequence[ast.stmt]) -> bool:
    """Whether the last of these that assigns a name makes it zero."""
    for statement in reversed(before):
        if name in _assigned(statement):
            return isinstance(statement, ast.Assign) and ast.unparse(statement.value) in (
                "0.0",
                "F(0)",
                "np.float32(0.0)",
            )
    return False


def _is_largest(node: ast.Assign) -> bool:
    """``name = max(name, ...)``."""
    target, value = node.targets[0], node.value
    return (
        isinstance(target, ast.Name)
        and isinstance(value, ast.Call)
        and isinstance(value.func, ast.Name)
        and value.func.id == "max"
        and isinstance(value.args[0], ast.Name)
        and value.args[0].id == target.id
    )


def _alone(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    return [*_wait(), ast.If(_expression(f"{FIRST}()"), list(statements), []), *_wait()]


def _waits(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and _calls(statement, [WAIT])


def _wait() -> list[ast.stmt]:
    return ast.parse(f"{WAIT}()").body


def _assign(name: str, value: str) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], _expression(value))


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
