"""Components: shapes that add up to a model, written as plain Python functions.

A component is carried as its source text, so that it can be pickled to a worker, compiled for any device and
hashed into the provenance of a result.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, TypeVar, overload

import numpy as np

import bluesky_bayes.kernels.math as kernel_math
from bluesky_bayes.dataset import Array

MATH_MODULES = {math: "math", np: "np", kernel_math: "kernel_math"}
ROLES = ("amplitude", "coefficient", "intensity", "floor", "location", "width", "inverse", "shape")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """A parameter of a component.

    Attributes
    ----------
    name : str
        As users know it (``center``, ``sigma``).
    role : {"amplitude", "coefficient", "intensity", "floor", "location", "width", "inverse", "shape"}
        Amplitudes multiply the shape, and so do coefficients, which may be of either sign, intensities, which may be
        anything over decades, and floors, which lie among the lowest y; locations move with x (they and x share an
        origin, so that precision is kept far from zero); widths are lengths along x; inverse are those whose
        reciprocals lie on x, as a rate does for times or a radius for momentum transfers. The role also chooses the
        default prior.
    unit : str
        ``"x"``, ``"y"``, ``"1/x^2"``, ``""`` ... in terms of the axes' units.
    """

    name: str
    role: str = "shape"
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the role."""
        if self.role not in ROLES:
            raise ValueError(f"role of parameter {self.name!r} must be one of {', '.join(ROLES)}; got {self.role!r}")


@dataclass(frozen=True)
class PlainFunction:
    """A Python function of numbers, kept as source text with everything it refers to.

    Attributes
    ----------
    name : str
        Name of the function in `source`.
    source : str
        Definitions of the function and of the functions it calls.
    constants : tuple of (str, float)
        Module-level or enclosing numbers that the source refers to.
    """

    name: str
    source: str
    constants: tuple[tuple[str, float], ...] = ()

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself, for use from Python."""
        names: dict[str, Any] = {module_name: module for module, module_name in MATH_MODULES.items()}
        names |= {"range": lambda *ends: range(*map(int, ends)), **dict(self.constants)}
        exec(compile(self.source, f"<{self.name}>", "exec"), names)
        function: Callable[..., Any] = names[self.name]
        return function

    def __getstate__(self) -> dict[str, Any]:
        """Leave the compiled function behind."""
        return {"name": self.name, "source": self.source, "constants": self.constants}

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self.function(*args)


def capture(function: Callable[..., Any]) -> PlainFunction:
    """Source of a function and of what it refers to.

    Raises
    ------
    TypeError
        When the function is not written with def, refers to something that is neither a number, nor of math or
        numpy, nor such a function, or to different things by one name.
    ValueError
        When its source cannot be found (typed into a plain ``python`` prompt).
    """
    sources: dict[str, str] = {}
    constants: dict[str, float] = {}
    _capture(function, sources, constants, {function.__name__: function})
    return PlainFunction(function.__name__, "\n\n".join(sources.values()), tuple(sorted(constants.items())))


def _capture(
    function: Callable[..., Any], sources: dict[str, str], constants: dict[str, float], known: dict[str, Any]
) -> None:
    if not isinstance(function, FunctionType):
        raise TypeError(f"a component must be a plain Python function; got {function!r}")
    if function.__name__ == "<lambda>":
        raise TypeError(f"a component must be written with def; got {function!r}")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"cannot read the source of {function.__name__!r}: define it in a file or in IPython"
        ) from error
    definition = tree.body[0]
    names = {function.__name__, function.__code__.co_name, getattr(definition, "name", "")}
    if not isinstance(definition, ast.FunctionDef) or len(names) > 1:
        raise TypeError(f"a component must be written with def, under its own name and unwrapped; got {function!r}")
    inner = [node for node in ast.walk(definition) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    if len(inner) > 1:
        raise TypeError(f"component {function.__name__!r} defines a function inside; define it beside the component")
    definition.decorator_list = []
    definition.returns = None
    for argument in definition.args.args:
        argument.annotation = None
    rename: dict[str, str] = {}
    for name, value in _references(function).items():
        if isinstance(value, bool | int | float | np.floating | np.integer):
            constants[name] = float(value)
            _check_same(function, name, repr(float(value)), known)
        elif isinstance(value, ModuleType) and value in MATH_MODULES:
            rename[name] = MATH_MODULES[value]
        elif (home := _math_home(value)) is not None:
            rename[name] = home
        elif isinstance(value, FunctionType):
            rename[name] = helper = value.__name__
            _check_same(function, helper, value, known)
            if helper not in sources:
                sources[helper] = ""
                _capture(value, sources, constants, known)
        else:
            raise TypeError(
                f"component {function.__name__!r} refers to {name!r} ({type(value).__name__}); "
                "it may use numbers, math, numpy functions and other plain functions"
            )
    tree = ast.fix_missing_locations(_Rename(rename).visit(tree))
    sources.pop(function.__name__, None)
    sources[function.__name__] = ast.unparse(tree)


def _check_same(function: FunctionType, name: str, value: Any, known: dict[str, Any]) -> None:
    if known.setdefault(name, value) != value:
        raise TypeError(
            f"component {function.__name__!r} and the functions that it calls mean different things by {name!r}; "
            "rename one"
        )


def _references(function: FunctionType) -> dict[str, Any]:
    closure = inspect.getclosurevars(function)
    return {**closure.globals, **closure.nonlocals}


def _math_home(value: Any) -> str | None:
    for module, module_name in MATH_MODULES.items():
        name = getattr(value, "__name__", None)
        if callable(value) and name is not None and getattr(module, name, None) is value:
            return f"{module_name}.{name}"
    return None


class _Rename(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.names:
            return node
        return ast.copy_location(ast.parse(self.names[node.id], mode="eval").body, node)


@dataclass(frozen=True)
class Component:
    """A shape of unit amplitude, ``shape(x, *parameters)``; the model adds ``amplitude * shape``.

    Attributes
    ----------
    name : str
        As it appears in results.
    parameters : tuple of Parameter
        The amplitude first, then the arguments of `shape` after x.
    shape : PlainFunction
        The unit shape.
    derived : tuple of (Parameter, PlainFunction)
        Quantities computed from all the parameters, such as a peak's area.
    sort_by : str
        Parameter by which exchangeable components are put in order.
    end : str
        Parameter that tells where the shape ends, see `component`; empty where it does not.
    """

    name: str
    parameters: tuple[Parameter, ...]
    shape: PlainFunction
    derived: tuple[tuple[Parameter, PlainFunction], ...] = ()
    sort_by: str = ""
    end: str = ""

    @property
    def amplitude(self) -> Parameter:
        """The parameter that multiplies the shape."""
        return self.parameters[0]

    @property
    def movable(self) -> bool:
        """Whether shifting x and the locations together leaves the shape as it is."""
        if any(p.role == "location" for p in self.parameters):
            return True
        uses = [n for n in ast.walk(ast.parse(self.shape.source)) if isinstance(n, ast.Name) and n.id == "x"]
        return not uses

    def __call__(self, x: Any, *values: Any) -> Array:
        """Curve at `x` for an amplitude and the shape's parameters, slowly and obviously."""
        amplitude, *shape_values = values
        curve: Array = amplitude * np.vectorize(self.shape.function, otypes=[np.float64])(x, *shape_values)
        return curve


@overload
def component(function: F) -> Component: ...
@overload
def component(
    *,
    name: str | None = ...,
    roles: Mapping[str, str] | None = ...,
    units: Mapping[str, str] | None = ...,
    derived: Mapping[str, Callable[..., Any]] | None = ...,
    sort_by: str | None = ...,
    end: str = ...,
    amplitude: str = ...,
) -> Callable[[F], Component]: ...


def component(
    function: F | None = None,
    *,
    name: str | None = None,
    roles: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    derived: Mapping[str, Callable[..., Any]] | None = None,
    sort_by: str | None = None,
    end: str = "",
    amplitude: str = "amplitude",
) -> Component | Callable[[F], Component]:
    """Make a component of a function ``shape(x, parameter, ...)`` of unit amplitude.

    Parameters
    ----------
    function : callable
        Plain arithmetic on numbers; ``math`` and ``numpy`` functions, ``if`` and loops are allowed.
    name : str, optional
        The function's name by default.
    roles : mapping, optional
        Role of each parameter, see `Parameter`. By default ``center`` is a location, ``sigma``, ``gamma``,
        ``fwhm`` and ``width`` are widths, everything else is a shape parameter.
    units : mapping, optional
        Unit of each parameter and derived quantity in terms of the axes, such as ``"1/x^2"``.
    derived : mapping of str to callable, optional
        Quantities computed from ``(amplitude, *parameters)`` given as arrays.
    sort_by : str, optional
        Parameter that orders several of these components; by default the first location, else the first parameter.
    end : str, optional
        For a shape that lies under a normal curve about its location: the parameter that is the standard deviation of
        that curve (if its role is ``width``) or its inverse square (otherwise). Points more than 5.65 standard
        deviations away (8.5 in float64) are left out, where the curve is less than the rounding of its height.
    amplitude : str, optional
        Name of the amplitude.

    Returns
    -------
    Component

    Examples
    --------
    >>> @component
    ... def lorentzian(x, center, gamma):
    ...     u = (x - center) / gamma
    ...     return 1 / (1 + u * u)
    >>> [p.name for p in lorentzian.parameters]
    ['amplitude', 'center', 'gamma']
    """
    if function is None:
        return functools.partial(
            component,
            name=name,
            roles=roles,
            units=units,
            derived=derived,
            sort_by=sort_by,
            end=end,
            amplitude=amplitude,
        )
    arguments = list(inspect.signature(function).parameters)
    if not arguments or arguments[0] != "x":
        raise ValueError(f"the first argument of component {function.__name__!r} must be x; got {arguments[:1]}")
    if amplitude in arguments:
        raise ValueError(
            f"component {function.__name__!r} has an argument {amplitude!r}, which is what models multiply it by: "
            'leave it out of the function, or call the factor otherwise, with @component(amplitude="height")'
        )
    roles, units = dict(roles or {}), dict(units or {})
    unknown = [key for key in (*roles, *units) if key not in (*arguments[1:], amplitude, *(derived or {}))]
    if unknown:
        raise ValueError(f"component {function.__name__!r} has no parameter {unknown[0]!r}; it has {arguments[1:]}")
    shape_parameters = tuple(_parameter(argument, roles, units) for argument in arguments[1:])
    parameters = (Parameter(amplitude, roles.get(amplitude, "amplitude"), units.get(amplitude, "y")), *shape_parameters)
    locations = [p.name for p in shape_parameters if p.role == "location"]
    if end and (end not in arguments[1:] or not locations):
        raise ValueError(
            f"end={end!r} of component {function.__name__!r} must be one of its parameters {arguments[1:]}, and one of "
            "them must be a location"
        )
    return Component(
        name=name or function.__name__,
        parameters=parameters,
        shape=capture(function),
        derived=tuple((Parameter(key, unit=units.get(key, "")), capture(f)) for key, f in (derived or {}).items()),
        sort_by=sort_by or (locations or [p.name for p in parameters])[0],
        end=end,
    )


DEFAULT_ROLES = {"center": "location", "sigma": "width", "gamma": "width", "fwhm": "width", "width": "width"}
ROLE_UNITS = {"amplitude": "y", "location": "x", "width": "x", "inverse": "1/x", "shape": ""}


def _parameter(name: str, roles: Mapping[str, str], units: Mapping[str, str]) -> Parameter:
    role = roles.get(name, DEFAULT_ROLES.get(name, "shape"))
    return Parameter(name, role, units.get(name, ROLE_UNITS.get(role, "")))
