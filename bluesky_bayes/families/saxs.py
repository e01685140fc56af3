"""Small-angle scattering: which shape, how many populations, how large."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import nnls

from bluesky_bayes.candidates import Candidates, Kind, combinations, listed_counts
from bluesky_bayes.components import Component, Parameter, PlainFunction, capture, component
from bluesky_bayes.dataset import Array
from bluesky_bayes.kernels.math import exp
from bluesky_bayes.model import MIDDLE, Model, Slot
from bluesky_bayes.recipes import recipe_of

TURN = 0.5 / math.pi
ROOT_TURN = 1.0 / math.sqrt(2.0 * math.pi)
SIZES = ("radius", "thickness", "length", "rg")


def _sine(r: float) -> float:
    """sin(2 pi r) for r from -1/4 to 1/4, to 1e-15."""
    t = 6.283185307179586 * r
    z = t * t
    p = -1.0 / 121645100408832000.0
    p = p * z + 1.0 / 355687428096000.0
    p = p * z - 1.0 / 1307674368000.0
    p = p * z + 1.0 / 6227020800.0
    p = p * z - 1.0 / 39916800.0
    p = p * z + 1.0 / 362880.0
    p = p * z - 1.0 / 5040.0
    p = p * z + 1.0 / 120.0
    p = p * z - 1.0 / 6.0
    return t + t * (p * z)


def _sin(x: float) -> float:
    """Sine of any number, with x in whole turns taken off: rounding is that of x itself."""
    u = x * TURN
    r = u - np.floor(u + 0.5)
    s = 0.25 - abs(abs(r) - 0.25)
    return _sine(s if r > 0.0 else -s)


def _cos(x: float) -> float:
    """Cosine of any number, as `_sin`."""
    u = x * TURN
    r = u - np.floor(u + 0.5)
    return _sine(0.25 - abs(r))


def _ball(x: float) -> float:
    """3 (sin x - x cos x) / x^3, the amplitude of a sphere; a series to 1e-15 where that cancels."""
    z = x * x
    p = -48.0 / 355687428096000.0
    p = p * z + 42.0 / 1307674368000.0
    p = p * z - 36.0 / 6227020800.0
    p = p * z + 30.0 / 39916800.0
    p = p * z - 24.0 / 362880.0
    p = p * z + 18.0 / 5040.0
    p = p * z - 12.0 / 120.0
    p = p * z + 1.0
    far = max(x, 1.0)
    return p if x < 1.0 else 3.0 * (_sin(far) - far * _cos(far)) / (far * far * far)


def _disc(v: float) -> float:
    """2 J1(v) / v, to 3e-8, by the rational approximations of Hart, Computer Approximations (1968)."""
    y = v * v
    p = 15704.48260 - 30.16036606 * y
    p = 72362614232.0 + y * (-7895059235.0 + y * (242396853.1 + y * (-2972611.439 + y * p)))
    d = 144725228442.0 + y * (2300535178.0 + y * (18583304.74 + y * (99447.43394 + y * (376.9991397 + y))))
    far = max(v, 8.0)
    z = 8.0 / far
    w = z * z
    even = 1.0 + w * (0.183105e-2 + w * (-0.3516396496e-4 + w * (0.2457520174e-5 - w * 0.240337019e-6)))
    odd = 0.8449199096e-5 + w * (-0.88228987e-6 + w * 0.105787412e-6)
    odd = 0.04687499995 + w * (-0.2002690873e-3 + w * odd)
    phase = far - 2.356194491
    bessel = math.sqrt(0.636619772 / far) * (_cos(phase) * even - z * _sin(phase) * odd)
    return 2.0 * p / d if v < 8.0 else 2.0 * bessel / far


def _particle(
    name: str, first: str, derived: Mapping[str, Callable[..., Any]] | None = None
) -> Callable[[Callable[..., float]], Component]:
    """Component whose amplitude is an intensity and whose sizes are lengths."""

    def made(function: Callable[..., float]) -> Component:
        sizes = [size for size in SIZES if size in inspect.signature(function).parameters]
        return component(
            name=name,
            amplitude="I0",
            roles={"I0": "intensity", **dict.fromkeys(sizes, "inverse")},
            units=dict.fromkeys(sizes, "1/x"),
            derived=derived,
            sort_by=first,
        )(function)

    return made


@_particle("sphere", "radius")
def sphere(x: float, radius: float) -> float:
    """Sphere of one radius."""
    f = _ball(x * radius)
    return f * f


@_particle("schulz sphere", "radius")
def schulz_sphere(x: float, radius: float, polydispersity: float) -> float:
    """Spheres whose radii have a Schulz (gamma) distribution, its integral in closed form.

    `radius` is the mean, `polydispersity` the standard deviation over it. Where the closed form cancels, a series.
    """
    k = 1.0 / (polydispersity * polydispersity)
    c = max(x * radius, 1e-4) / k
    total, term, n = 1.0, 1.0, 0.0
    for _ in range(14):
        n += 1.0
        moments = c * c * (k + 4.0 + 2.0 * n) * (k + 5.0 + 2.0 * n)
        term *= -2.0 * (n + 1.0) / (n * (n + 3.0) * (2.0 * n + 3.0)) * moments
        total += term
    damping = exp(-0.5 * k * math.log1p(4.0 * c * c))
    angle = math.atan(2.0 * c)
    phase = k * angle
    s, r = damping * _sin(phase), damping * _cos(phase)
    d = 1.0 / (1.0 + 4.0 * c * c)
    r1, s1 = (r - 2.0 * c * s) * d, (s + 2.0 * c * r) * d
    r2 = (r1 - 2.0 * c * s1) * d
    square = c * c * k * (k + 1.0)
    sixth = square * c * c * (k + 2.0) * (k + 3.0) * c * c * (k + 4.0) * (k + 5.0)
    closed = 4.5 * (1.0 + square - r + square * r2 - 2.0 * c * k * s1) / sixth
    return total if c * (k + 6.0) < 1.4 else closed


@_particle("gaussian sphere", "radius")
def gaussian_sphere(x: float, radius: float, polydispersity: float) -> float:
    """Spheres whose radii have a normal distribution, its integral in closed form.

    `radius` is the mean, `polydispersity` the standard deviation over it. Where the closed form cancels, a series.
    Radii below zero, rare at any polydispersity below 0.5, count as positive.
    """
    m = max(x * radius, 1e-4)
    v = m * m * polydispersity * polydispersity
    low = m * m * m * m * m + 10.0 * m * m * m * v + 15.0 * m * v * v
    sixth = m * low + 5.0 * v * (m * m * m * m + 6.0 * m * m * v + 3.0 * v * v)
    odd, even, factor, total, n = low, sixth, 1.0, sixth, 0.0
    for _ in range(14):
        n += 1.0
        odd = m * even + (2.0 * n + 4.0) * v * odd
        even = m * odd + (2.0 * n + 5.0) * v * even
        factor *= -2.0 * (n + 1.0) / (n * (n + 3.0) * (2.0 * n + 3.0))
        total += factor * even
    damping = exp(-2.0 * v)
    s, r = damping * _sin(2.0 * m), damping * _cos(2.0 * m)
    square = (v + m * m - 4.0 * v * v) * r - 4.0 * m * v * s
    closed = 4.5 * (1.0 + v + m * m - r + square - 2.0 * (m * s + 2.0 * v * r))
    return (total if m * m + 6.0 * v < 2.0 else closed) / sixth


@_particle("lognormal sphere", "radius")
def lognormal_sphere(x: float, radius: float, polydispersity: float) -> float:
    """Spheres whose radii have a lognormal distribution, by the trapezoidal rule with as many points as it needs.

    `radius` is the median, `polydispersity` the standard deviation of the radius' logarithm. Particles count by their
    volume squared, which is a lognormal distribution again. Where their oscillations have averaged out, Porod's law.
    """
    s = polydispersity
    m = max(x * radius, 1e-4) * exp(6.0 * s * s)
    far = m * s > 2.5 * exp(5.0 * s)
    count = 8.0 if far else 30.0 + 5.5 * exp(2.5 * s) * m * s
    h = 12.0 / count
    total, t = 0.0, -6.4
    for _ in range(int(count)):
        t += h
        f = _ball(m * exp(s * t))
        total += exp(-0.5 * t * t) * f * f
    z = 1.0 / (m * m)
    w = exp(8.0 * s * s)
    porod = 4.5 * z * z * (w + z * exp(18.0 * s * s))
    return porod if far else h * ROOT_TURN * total


def _contrast(I0: Any, radius: Any, thickness: Any, core_share: Any, *beam: float) -> Any:  # noqa: N803
    return 1.0 + core_share / (1.0 - core_share) * (1.0 + thickness / radius) ** 3


@_particle("core-shell sphere", "radius", {"contrast": _contrast})
def core_shell_sphere(x: float, radius: float, thickness: float, core_share: float) -> float:
    """Core of this radius in a shell of this thickness.

    A sphere of the whole size, of the shell's contrast to the solvent, and one of the core's size, of the core's
    contrast to the shell, which gives the `core_share` of the amplitude forward: 0 for a homogeneous sphere, below zero
    where the core is the weaker. `contrast` is the core's to the solvent over the shell's to the solvent.
    """
    f = (1.0 - core_share) * _ball(x * (radius + thickness)) + core_share * _ball(x * radius)
    return f * f


@_particle("cylinder", "radius")
def cylinder(x: float, radius: float, length: float) -> float:
    """Cylinders (rods and discs) in all directions.

    The average over u, the cosine of the angle between axis and q, is the midpoint rule in t with
    u = t + sin(pi t) / pi, which makes the integrand flat at both ends; the number of points grows with the phases, up
    to 500: beyond 0.33 q length + q radius = 480 the curve, a billionth of `I0` there, is only rough.
    """
    a, b = 0.5 * x * length, x * radius
    count = float(int(min(20.0 + 0.65 * a + b, 500.0)))
    total, k = 0.0, 0.5
    for _ in range(int(count)):
        t = k / count
        k += 1.0
        u = t + _sin(math.pi * t) / math.pi
        v = max(a * u, 1e-12)
        f = _sin(v) / v * _disc(b * math.sqrt(max(1.0 - u * u, 0.0)))
        total += (1.0 + _cos(math.pi * t)) * f * f
    return total / count


@_particle("guinier-porod", "rg")
def guinier_porod(x: float, rg: float, exponent: float) -> float:
    """Guinier's law up to where Porod's with this exponent takes over smoothly (Hammouda 2010)."""
    z = x * rg
    knee = 1.5 * exponent
    if z * z <= knee:
        return exp(-z * z / 3.0)
    return exp(-0.5 * exponent * (1.0 + math.log(z * z / knee)))


@component(name="power law", amplitude="intensity", roles={"intensity": "intensity"}, units={"reference": "x"})
def power_law(x: float, exponent: float, reference: float) -> float:
    """(x / reference)^-exponent, so that `intensity` is that at the reference, the middle of the data."""
    return exp(-exponent * math.log(max(x, 1e-9) / reference))


@component(name="background", amplitude="level", roles={"level": "floor"})
def flat(x: float) -> float:
    """One everywhere."""
    return 1.0


SHAPES: dict[str, Component] = {
    shape.name: shape
    for shape in (
        sphere, schulz_sphere, lognormal_sphere, gaussian_sphere, core_shell_sphere, cylinder, guinier_porod, power_law,
    )
}  # fmt: skip

PRIORS: dict[str, Any] = {
    "length": stats.loguniform(10.0, 3000.0),
    "polydispersity": stats.loguniform(0.005, 0.5),
    "core_share": stats.norm(0.0, 3.0),
    "exponent": stats.uniform(1.0, 4.0),
}
"""Where the data's range says nothing. Lengths from a molecule's to what small-angle cameras resolve, also beyond the
smallest q, for a rod's flanks show that it is long; widths of distributions from what blurs no minimum to what hides
all; shells that may nearly hide their core, or be hidden, forward; exponents from 1 (rods) over 4 (sharp surfaces) to
5 (diffuse ones)."""
PINHOLE = """
def pinhole_{name}(x, {arguments}, spread, relative):
    width = math.sqrt(spread * spread + relative * relative * x * x)
    total, norm, t = 0.0, 0.0, -{reach}
    for _ in range({count}):
        weight = kernel_math.exp(-0.5 * t * t)
        total += weight * {name}(max(abs(x + t * width), 0.1 * x), {arguments})
        norm += weight
        t += {step}
    return total / norm
"""
SLIT = """
def slit_{name}(x, {arguments}, height):
    q = max(x, 1e-9)
    most = math.log(height / q + math.sqrt(1.0 + height * height / (q * q)))
    total, k = 0.0, 0.5
    for _ in range({count}):
        t = most * (k / {count}.0 + _sin(math.pi * k / {count}.0) / math.pi)
        k += 1.0
        e = kernel_math.exp(t)
        weight = (1.0 + _cos(math.pi * (k - 1.0) / {count}.0)) * 0.5 * (e + 1.0 / e)
        total += weight * {name}(q * 0.5 * (e + 1.0 / e), {arguments})
    return total * most * q / (height * {count}.0)
"""
PINHOLE_COUNT, PINHOLE_REACH, SLIT_COUNT = 15, 3.6, 48


def saxs(
    shapes: str | Sequence[str] | Mapping[str, Iterable[int]] = tuple(SHAPES),
    counts: Iterable[int] | None = None,
    background: bool = True,
    pinhole: Sequence[float] | None = None,
    slit: float | None = None,
    priors: Mapping[str, Any] | None = None,
    shared: Sequence[str] = (),
    fixed: Mapping[str, float] | None = None,
    probabilities: Sequence[float] = (),
) -> Candidates:
    """Candidates for small-angle scattering: shapes against one another, and numbers of populations.

    x is q = 4 pi sin(theta) / wavelength in 1/Angstrom, so that all sizes are in Angstrom; y is the intensity.
    Particles are dilute: there is no structure factor.

    Parameters
    ----------
    shapes : str, sequence of str or mapping of str to counts
        ``"sphere"``, ``"schulz sphere"``, ``"lognormal sphere"``, ``"gaussian sphere"`` (polydisperse by these
        distributions), ``"core-shell sphere"``, ``"cylinder"``, ``"guinier-porod"``, ``"power law"``. Several stand
        against one another, each alone with each of `counts`; all of them by default. A mapping mixes shapes:
        ``{"sphere": [1, 2], "power law": [0, 1]}`` has all four combinations.
    counts : iterable of int, optional
        Numbers of populations in question, from 1 up; one by default. Not used for a mapping.
    background : bool
        Whether a constant ``background.level`` is added.
    pinhole : (float, float), optional
        Standard deviation of q as ``sqrt(spread^2 + (relative q)^2)``: spread in 1/Angstrom and relative, from
        `pinhole_of` for data with a column of it.
    slit : float, optional
        Half height of a long slit, 1/Angstrom.
    priors : mapping of str to frozen scipy.stats distribution, optional
        By parameter name. Those left out come from the data's range or are physical, see the page.
    shared : sequence of str, optional
        Parameters that all populations of a shape have in common.
    fixed : mapping of str to float, optional
        Parameters that are numbers: ``{"exponent": 4.0}``.
    probabilities : sequence of float, optional
        Prior probability of each model; equal by default.

    Returns
    -------
    Candidates

    Raises
    ------
    ValueError
        For an unknown shape, counts below 1, both smearings, or priors and parameters that no shape has.

    Examples
    --------
    >>> saxs(["sphere", "core-shell sphere"]).names
    ('sphere', 'core-shell sphere')
    >>> saxs("schulz sphere", counts=[1, 2]).names
    ('1 schulz sphere', '2 schulz spheres')
    >>> saxs({"sphere": [1, 2], "power law": [0, 1]}).names[-1]
    '2 spheres + 1 power law'
    """
    numbers = None if counts is None else listed_counts(counts)
    if numbers is not None and min(numbers) < 1:
        raise ValueError(f"counts of populations must be 1 or more; got {numbers}")
    if isinstance(shapes, Mapping):
        plain: Any = {name: list(some) for name, some in shapes.items()}
        mixtures: list[dict[str, Any]] = [plain]
    else:
        plain = [shapes] if isinstance(shapes, str) else list(shapes)
        mixtures = [{name: numbers} for name in plain]
    arguments = {
        "shapes": plain, "counts": numbers, "background": background, "pinhole": pinhole, "slit": slit,
        "priors": priors, "shared": shared, "fixed": fixed, "probabilities": probabilities,
    }  # fmt: skip
    beam = _beam(pinhole, slit)
    seen = {_component(name, beam) for mixture in mixtures for name in mixture} | ({flat} if background else set())
    for what, named in (("priors", priors), ("shared", shared), ("fixed", fixed)):
        if unknown := [name for name in named or () if not any(_names(shape, name) for shape in seen)]:
            raise ValueError(f"{what} name {unknown[0]!r}, which none of these shapes has")
    models: list[Model] = []
    for mixture in mixtures:
        kinds = [_kind(_component(name, beam), some, shared, fixed or {}, beam) for name, some in mixture.items()]
        kinds += [Kind(flat, noun="background")] if background else []
        models += _models(kinds, dict(priors or {}))
    return Candidates(tuple(models), tuple(probabilities), recipe_of("saxs", arguments))


def _models(kinds: Sequence[Kind], given: Mapping[str, Any]) -> tuple[Model, ...]:
    """All numbers of these kinds, with those of the priors given that are theirs, and the physical ones."""
    table: dict[str, Any] = {}
    ties: dict[str, Slot] = {}
    for kind in kinds:
        names = [p.name for p in kind.component.parameters]
        own = {name: prior for name, prior in given.items() if _names(kind.component, name)}
        table |= {f"{kind.noun}.{name}": PRIORS[name] for name in names if name in PRIORS and name not in own} | own
        if kind.component.name == power_law.name:
            labels = [term.label for term in kind.terms(max(kind.numbers), {})]
            ties |= {f"{label}.reference": MIDDLE for label in labels}
    return combinations(kinds, background=None, priors=table, ties=ties).models


def _kind(
    shape: Component,
    counts: Iterable[int] | None,
    shared: Sequence[str],
    fixed: Mapping[str, float],
    beam: Mapping[str, float],
) -> Kind:
    names = [p.name for p in shape.parameters]
    numbers = {name: number for name, number in {**fixed, **beam}.items() if name in names}
    return Kind(shape, counts, shape.name, [name for name in shared if name in names], numbers)


def _names(shape: Component, full: str) -> bool:
    """Whether a prior of this name is one of this shape's."""
    owner, _, name = full.rpartition(".")
    return owner.rstrip("0123456789") in ("", shape.name) and name in [p.name for p in shape.parameters]


def _beam(pinhole: Sequence[float] | None, slit: float | None) -> dict[str, float]:
    """The numbers of a smearing."""
    if pinhole is not None and slit is not None:
        raise ValueError("give pinhole or slit, not both: a beam is smeared one way")
    if pinhole is not None:
        values = [float(value) for value in pinhole]
        if len(values) != 2 or min(values) < 0 or max(values) <= 0:
            raise ValueError(f"pinhole must be (spread, relative), not negative and not both zero; got {values}")
        return {"spread": values[0], "relative": values[1]}
    if slit is not None and not (math.isfinite(slit) and slit > 0):
        raise ValueError(f"slit must be the half height of the slit in 1/Angstrom; got {slit}")
    return {} if slit is None else {"height": float(slit)}


def _component(name: str, beam: Mapping[str, float]) -> Component:
    """The shape of that name, smeared."""
    if name not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(map(repr, SHAPES))}; got {name!r}")
    return _smeared(name, tuple(beam)) if beam else SHAPES[name]


@functools.cache
def _smeared(name: str, numbers: tuple[str, ...]) -> Component:
    """A shape averaged over the beam, whose numbers are parameters of it, so that one kernel serves all beams."""
    shape = SHAPES[name]
    source = shape.shape.source
    for helper in (_sin, _cos, _sine):
        if f"def {helper.__name__}(" not in source:
            source += "\n\n" + capture(helper).source
    text = (PINHOLE if "spread" in numbers else SLIT).format(
        name=shape.shape.name,
        arguments=", ".join(p.name for p in shape.parameters[1:]),
        reach=PINHOLE_REACH,
        step=2.0 * PINHOLE_REACH / (PINHOLE_COUNT - 1),
        count=PINHOLE_COUNT if "spread" in numbers else SLIT_COUNT,
    )
    beam = "pinhole" if "spread" in numbers else "slit"
    constants = {**dict(capture(_sin).constants), **dict(shape.shape.constants)}
    smeared = PlainFunction(f"{beam}_{shape.shape.name}", source + "\n" + text, tuple(sorted(constants.items())))
    parameters = tuple(Parameter(number, "shape", "" if number == "relative" else "x") for number in numbers)
    return replace(shape, parameters=shape.parameters + parameters, shape=smeared)


SMEARED = tuple(_smeared(name, beam) for name in SHAPES for beam in (("spread", "relative"), ("height",)))
"""Every shape in every beam, known by name to files of saved answers."""


def pinhole_of(q: npt.ArrayLike, dq: npt.ArrayLike, worst: float = 0.02) -> tuple[float, float]:
    """Numbers (spread, relative) for `saxs` of a column of standard deviations of q.

    The divergence of the beam and the size of the pinholes make a spread that is the same at all angles, the spread of
    wavelengths one that grows with q: dq^2 = spread^2 + (relative q)^2.

    Parameters
    ----------
    q, dq : array_like
        In 1/Angstrom.
    worst : float
        Largest relative difference from the column that is accepted.

    Returns
    -------
    (spread, relative) : tuple of float

    Raises
    ------
    ValueError
        When the column is not positive, or differs from this law by more than `worst`: measurements of several settings
        that were put together, for one.
    """
    q, dq = np.asarray(q, dtype=np.float64), np.asarray(dq, dtype=np.float64)
    if not np.all(dq > 0):
        raise ValueError("the widths of q are not all positive: the file has no smearing; leave pinhole out")
    design = np.stack([np.ones_like(q), q * q], axis=1) / (dq * dq)[:, None]
    squares, _ = nnls(design, np.ones(q.size))
    error = float(np.max(np.abs(np.sqrt(squares[0] + squares[1] * q * q) / dq - 1.0)))
    if error > worst:
        raise ValueError(
            f"the widths of q differ from sqrt(spread^2 + (relative q)^2) by up to {100 * error:.0f} %, more than "
            f"{100 * worst:.0f} %: take one instrument setting at a time, or accept it by worst="
        )
    return math.sqrt(squares[0]), math.sqrt(squares[1])


def silica(q: Array) -> Array:
    """Intensity of silica spheres of 120 Angstrom, 10 % polydisperse, in counts: for a simulated detector."""
    return schulz_sphere(q, 2000.0, 120.0, 0.1) + 5.0
