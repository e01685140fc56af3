"""From nouns to arrays: a `kernels.task.Task` of data, noise and a model."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bluesky_bayes.components import Component
from bluesky_bayes.dataset import Array, Dataset
from bluesky_bayes.kernels.build import Curve, ShapeSource, curve
from bluesky_bayes.kernels.task import (
    BINS,
    BY_PRECISION,
    BY_SD,
    CELLS,
    ENDLESS,
    GAUSSIAN,
    POISSON,
    STUDENT_T,
    Order,
    Task,
    aligned,
    line_of,
    padded,
)
from bluesky_bayes.model import Model, Term
from bluesky_bayes.noise import SIGMA, Noise, Poisson, StudentT
from bluesky_bayes.priors import SCORES, Z_MAX, Prior, quantile_table

EPS = float(np.finfo(np.float32).eps)
LEAST, NEAR_POINTS = 1e-9, 4
"""The least size of x that float32 curves are for, whose cube it holds; how many points on a spacing is taken over."""
FEWEST_FOR_CELLS, VECTOR = 64, 8
ALWAYS, NOW_AND_THEN = 3, 1
"""Steps of all shapes in every fourth sweep; in the others there is one less. Of three the last draws a shape anew, see
`kernels.engine.sweep_replica`."""
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Block:
    """One data set as a kernel sees it, float64.

    Attributes
    ----------
    origin, scale : float
        Subtracted from x; unit of y.
    x, y, weight, inverse_y : (n,) float64
        See `kernels.task.Task`.
    constant : float
        Normalisers of -log likelihood.
    kind : int
        `GAUSSIAN`, `POISSON` or `STUDENT_T`.
    unknown : bool
        Whether sigma is a parameter.
    dof : float
        Degrees of freedom of `STUDENT_T`, else 1.
    """

    origin: float
    scale: float
    x: Array
    y: Array
    weight: Array
    inverse_y: Array
    constant: float
    kind: int
    unknown: bool
    dof: float = 1.0


def make_block(data: Dataset, noise: Noise, movable: bool) -> Block:
    """Block of a data set; `movable` says whether x may be counted from its middle."""
    origin = 0.5 * float(data.x.min() + data.x.max()) if movable else 0.0
    x, ones = data.x - origin, np.ones(data.n)
    if isinstance(noise, Poisson):
        exposure = np.broadcast_to(
            np.asarray(1.0 if noise.exposure is None else noise.exposure, dtype=np.float64), data.y.shape
        )
        y = noise.counts(data)
        inverse_y = 1.0 / np.where(y > 0, y, 1.0)
        return Block(origin, 1.0, x, y, exposure / noise.scale, inverse_y, _poisson_constant(y), POISSON, False)
    kind, dof = (STUDENT_T, noise.dof) if isinstance(noise, StudentT) else (GAUSSIAN, 1.0)
    constant = data.n * (HALF_LOG_2PI if kind == GAUSSIAN else _student_t_constant(dof))
    if noise.sigma is None:
        scale = float(np.std(data.y)) or 1.0
        constant += data.n * math.log(scale)
        return Block(origin, scale, x, data.y / scale, ones, ones, constant, kind, True, dof)
    sigma = np.broadcast_to(np.asarray(noise.sigma, dtype=np.float64), data.y.shape)
    scale = float(np.median(sigma))
    constant += float(np.sum(np.log(sigma)))
    return Block(origin, scale, x, data.y / scale, (scale / sigma) ** 2, ones, constant, kind, False, dof)


def _student_t_constant(dof: float) -> float:
    """Minus the logarithm of the density at zero, for a scale of one."""
    return math.lgamma(0.5 * dof) - math.lgamma(0.5 * (dof + 1.0)) + 0.5 * math.log(dof * math.pi)


def _poisson_constant(y: Array) -> float:
    from scipy.special import gammaln, xlogy

    return float(np.sum(gammaln(y + 1.0) + y - xlogy(y, y)))


def single_precision_is_enough(block: Block) -> bool:
    """Whether float32 curves lose nothing: rounding well below the noise, the points' spacing and a nat.

    y must be rounded by less than a thirtieth of the noise (estimated from second differences where it is unknown),
    each x by less than a hundredth of the spacing there, and the sum of a Poisson or Student-t energy by less than
    0.03. Powers of x and weights must not come near the ends of float32's range.
    """
    x = np.unique(block.x)
    span = min(NEAR_POINTS, x.size - 1)
    spacing, size = (x[span:] - x[:-span]) / span, np.maximum(np.abs(x[span:]), np.abs(x[:-span]))
    if np.any(EPS * size > 0.01 * spacing) or not LEAST < size.max() < 1.0 / LEAST:
        return False
    if block.weight.min() < LEAST**3 or block.weight.max() > LEAST**-3:
        return False
    largest = float(np.max(np.abs(block.y)))
    if block.kind == POISSON:
        return EPS * largest * math.sqrt(block.y.size) < 0.06
    if block.kind == STUDENT_T and EPS * 0.5 * (block.dof + 1.0) * math.sqrt(block.y.size) > 0.06:
        return False
    noise = 1.0 / math.sqrt(float(np.max(block.weight)))
    if block.unknown:
        noise = rough_noise(block.y)
    return EPS * largest < noise / 15.0


def rough_noise(y: Array) -> float:
    """Standard deviation of the noise, told from second differences of neighbouring points; 0 for fewer than three."""
    return float(np.median(np.abs(np.diff(y, 2)))) / 1.65 if y.size > 2 else 0.0


def shape_source(component: Component) -> ShapeSource:
    """What the kernels' generator needs of a component."""
    shape = component.shape
    return ShapeSource(shape.name, shape.source, shape.constants, len(component.parameters) - 1)


def blocks_of(data: Sequence[Dataset], noises: Sequence[Noise], models: Sequence[Model]) -> list[Block]:
    """Blocks for models that explain these data sets together."""
    movable = [
        all(term.component.movable for model in models for term in model.terms if term.block == b)
        for b in range(len(data))
    ]
    return [make_block(*entry) for entry in zip(data, noises, movable, strict=True)]


def make_task(blocks: Sequence[Block], model: Model, single: bool) -> Task:
    """Arrays of one model; every prior must be filled in.

    Raises
    ------
    ValueError
        When a component cannot be compiled.
    """
    dtype = np.float32 if single else np.float64
    sizes = [padded(block.y.size, dtype) for block in blocks]
    block_start = starts(sizes)
    points = {name: aligned(int(block_start[-1]), dtype) for name in ("x", "y", "weight", "inverse_y")}
    points["inverse_y"][:] = 1.0
    for start, block in zip(block_start, blocks, strict=False):
        for name, values in points.items():
            values[start : start + block.y.size] = getattr(block, name)
        points["x"][start + block.y.size : start + padded(block.y.size, dtype)] = block.x[-1]
    names = model.parameters
    index = {name: j for j, name in enumerate(names)}
    slots = [_slot(term, k, blocks, index) for term in model.terms for k in range(len(term.slots))]
    touches = _touches(model, names)
    curves = [_curve(term, model, single) for term in model.terms]
    jumps = _jumps(model, blocks)
    tables = np.stack([table_of(model.priors[name]) for name in names]) if names else np.zeros((0, 2))
    return Task(
        block_start=block_start,
        **points,
        noise=_ints(block.kind for block in blocks),
        noise_parameter=_ints(index[SIGMA] if block.unknown else -1 for block in blocks),
        noise_scale=np.array([block.scale for block in blocks]),
        noise_dof=np.array([block.dof for block in blocks]),
        n_data=np.array([float(block.y.size) for block in blocks]),
        constant=np.array([sum(block.constant for block in blocks)]),
        term_fill=_ints(curve.fill for curve in curves),
        term_trial=_ints(curve.trial for curve in curves),
        term_block=_ints(term.block for term in model.terms),
        curve_start=starts([sizes[term.block] for term in model.terms]),
        slot_start=starts([len(term.slots) for term in model.terms]),
        slot_parameter=_ints(parameter for parameter, _, _ in slots),
        slot_scale=np.array([scale for _, scale, _ in slots]),
        slot_offset=np.array([offset for _, _, offset in slots]),
        touch_start=starts([len(t) for t in touches]),
        touch_term=_ints(term for t in touches for term, _ in t),
        touch_shape=_ints(shape for t in touches for _, shape in t),
        step_group=step_groups(model),
        **jumps,
        **_ends(model, blocks, dtype),
        **_linear(model, index, tables, bool(jumps["jump_term"].size)),
        tables=tables,
        z_max=np.array([Z_MAX]),
    )


def _curve(term: Term, model: Model, single: bool) -> Curve:
    try:
        return curve(shape_source(term.component), single)
    except ValueError as error:
        raise ValueError(
            f"component {term.component.name!r} of model {model.name!r} cannot be compiled: {error}; it must be plain "
            "arithmetic on numbers"
        ) from error


class Group(NamedTuple):
    """Exchangeable components of a model.

    Attributes
    ----------
    columns : (n_components, n_parameters) int64
        Parameters that are each component's own, in the model's table.
    location : int
        The column that orders them: the first where the component's `sort_by` is fixed or shared.
    """

    columns: Array
    location: int


def groups_of(model: Model) -> tuple[Group, ...]:
    """Exchangeable groups of two components and more that differ in parameters of their own and in nothing else.

    Components of other priors than the rest of their group are no part of it.
    """
    users: dict[str, set[int]] = {}
    for t, term in enumerate(model.terms):
        for slot in term.slots:
            if slot.parameter is not None:
                users.setdefault(slot.parameter, set()).add(t)
    index = {name: j for j, name in enumerate(model.parameters)}
    groups = []
    for terms in model.exchangeable:
        alike: dict[Any, list[list[str]]] = {}
        for t in terms:
            names = [name for name, by in users.items() if by == {t}]
            slots = tuple((names.index(s.parameter) if s.parameter in names else s.parameter, s.scale, s.offset)
                          for s in model.terms[t].slots)  # fmt: skip
            tables = tuple(table_of(model.priors[name]).tobytes() for name in names)
            alike.setdefault((slots, tables), []).append(names)
        component = model.terms[terms[0]].component
        by = [p.name for p in component.parameters].index(component.sort_by)
        for (slots, _), own in alike.items():
            if own[0] and len(own) > 1:
                location = slots[by][0] if isinstance(slots[by][0], int) else 0
                groups.append(Group(np.array([[index[p] for p in names] for names in own], dtype=np.int64), location))
    return tuple(groups)


def same_groups(one: Sequence[Group], other: Sequence[Group]) -> bool:
    """Whether the same components are exchangeable, by the same order."""
    return [(g.columns.tolist(), g.location) for g in one] == [(g.columns.tolist(), g.location) for g in other]


def order_of(groups: Sequence[Group]) -> Order:
    """Groups as the kernels read them."""
    rows = [row for group in groups for row in group.columns]
    return Order(
        group_start=starts([len(group.columns) for group in groups]),
        location=_ints(j for group in groups for j in group.columns[:, group.location]),
        member_start=starts([len(row) for row in rows]),
        member=_ints(j for row in rows for j in row),
    )


def in_order(z: Array, groups: Sequence[Group]) -> Array:
    """Coordinates (..., n_parameters) with exchangeable components in order.

    They have the same priors, so that ordering coordinates orders parameters.
    """
    z = z.copy()
    for group in groups:
        order = np.argsort(z[..., group.columns[:, group.location]], axis=-1, kind="stable")
        for column in group.columns.T:
            z[..., column] = np.take_along_axis(z[..., column], order, axis=-1)
    return z


def step_groups(model: Model) -> Array:
    """Group of each parameter: parameters of exchangeable terms share their steps."""
    groups: dict[Any, int] = {}
    owner = {t: g for g, terms in enumerate(model.exchangeable) for t in terms}
    keys: dict[str, Any] = {}
    for t, term in enumerate(model.terms):
        for slot, parameter in zip(term.slots, term.component.parameters, strict=True):
            if slot.parameter is not None:
                keys.setdefault(slot.parameter, (owner[t], parameter.name) if t in owner else slot.parameter)
    return _ints(groups.setdefault(keys.get(name, name), len(groups)) for name in model.parameters)


@functools.lru_cache(maxsize=256)
def _cached_table(family: Any, args: tuple[Any, ...], kwds: tuple[tuple[str, Any], ...]) -> Array:
    from scipy import stats

    generic: Any = next(d for d in vars(stats).values() if type(d) is family)
    return quantile_table(generic(*args, **dict(kwds)))


@functools.lru_cache(maxsize=64)
def _own_table(prior: Prior) -> Array:
    return quantile_table(prior)


def table_of(prior: Prior | None) -> Array:
    """`quantile_table`, remembered: for scipy's own distributions by their numbers, else for the object."""
    assert prior is not None
    family: Any = type(prior.dist)
    if family.__module__ != "scipy.stats._continuous_distns" or family.__name__ == "rv_histogram":
        return _own_table(prior)
    numbers = sorted((name, float(value)) for name, value in prior.kwds.items())
    return _cached_table(family, tuple(float(value) for value in prior.args), tuple(numbers))


def _slot(term: Any, k: int, blocks: Sequence[Block], index: dict[str, int]) -> tuple[int, float, float]:
    slot, role, block = term.slots[k], term.component.parameters[k].role, blocks[term.block]
    scale, offset = slot.scale, slot.offset
    if k == 0:
        scale, offset = scale / block.scale, offset / block.scale
    if role == "location":
        offset -= block.origin
    return (-1 if slot.parameter is None else index[slot.parameter]), scale, offset


def _touches(model: Model, names: Sequence[str]) -> list[list[tuple[int, int]]]:
    """For each parameter the terms it moves and whether their shape changes, blocks together."""
    moved: dict[str, dict[int, int]] = {name: {} for name in names}
    for t, term in enumerate(model.terms):
        for k, slot in enumerate(term.slots):
            if slot.parameter is not None:
                moved[slot.parameter][t] = max(moved[slot.parameter].get(t, 0), int(k > 0))
    return [sorted(terms.items(), key=lambda entry: model.terms[entry[0]].block) for terms in moved.values()]


def _jumps(model: Model, blocks: Sequence[Block]) -> dict[str, Array]:
    """Terms of exchangeable groups whose location is a parameter of its own, in data in order of x."""
    users = Counter(slot.parameter for term in model.terms for slot in term.slots)
    slot_start, found = starts([len(term.slots) for term in model.terms]), []
    for t in sorted(t for group in model.exchangeable for t in group):
        term = model.terms[t]
        x, roles = blocks[term.block].x, [p.role for p in term.component.parameters]
        k = roles.index("location") if "location" in roles else 0
        alone = k > 0 and users[term.slots[k].parameter] == 1 and term.slots[k].parameter is not None
        if alone and x.size >= 2 * BINS and np.all(np.diff(x) >= 0.0):
            found.append((t, slot_start[t] + k))
    rows: Any = np.array(found, dtype=np.int64).reshape(-1, 2)
    bins = [_bins(block.x) for block in blocks]
    return {
        "jump_term": rows[:, 0].copy(), "jump_slot": rows[:, 1].copy(),
        "bin_start": np.stack([start for start, _ in bins]), "bin_edge": np.stack([edge for _, edge in bins]),
    }  # fmt: skip


def _ends(model: Model, blocks: Sequence[Block], dtype: Any) -> dict[str, Array]:
    """Where curves end, for terms whose component says by what, in data in order of x.

    Counts need something else at every point: the logarithm of a rate knows no rounding.
    """
    slot_start, found = starts([len(term.slots) for term in model.terms]), []
    cells = [_cells(block.x, dtype) for block in blocks]
    everywhere = {term.block for term in model.terms if not term.component.end}
    for first, term in zip(slot_start, model.terms, strict=False):
        parameters, end, b = term.component.parameters, term.component.end, term.block
        if not end or cells[b].scale == 0.0 or (blocks[b].kind == POISSON and b not in everywhere):
            found.append((ENDLESS, 0, 0))
            continue
        k = [p.name for p in parameters].index(end)
        kind = BY_SD if parameters[k].role == "width" else BY_PRECISION
        found.append((kind, first + k, first + [p.role for p in parameters].index("location")))
    kinds: Any = np.array(found, dtype=np.int64).reshape(-1, 3)
    return {
        "end_kind": kinds[:, 0].copy(), "end_slot": kinds[:, 1].copy(), "place_slot": kinds[:, 2].copy(),
        "cell_origin": np.array([c.origin for c in cells]), "cell_scale": np.array([c.scale for c in cells]),
        "cell_first": np.stack([c.first for c in cells]), "cell_last": np.stack([c.last for c in cells]),
    }  # fmt: skip


class _Cells(NamedTuple):
    """Cells of equal width over a block's x: see `Task`. The scale is zero where a block has none."""

    origin: float
    scale: float
    first: Any
    last: Any


def _cells(x: Array, dtype: Any) -> _Cells:
    line, n, none = line_of(dtype), padded(x.size, dtype), np.zeros(CELLS + 1, dtype=np.int64)
    if x.size < FEWEST_FOR_CELLS or np.any(np.diff(x) < 0.0) or x[0] == x[-1]:
        return _Cells(0.0, 0.0, none, none)
    edges = np.linspace(x[0], x[-1], CELLS + 1)
    first = np.append(np.searchsorted(x, edges[:-1], "left"), n) // line * line
    last = np.append(-(-np.searchsorted(x, edges[1:], "right") // line) * line, n)
    return _Cells(float(x[0]), CELLS / float(x[-1] - x[0]), first.astype(np.int64), last.astype(np.int64))


def _linear(model: Model, index: dict[str, int], tables: Array, jumps: bool) -> dict[str, Array]:
    """Shapes that step together, and amplitudes that are carried along when they do.

    Those are parameters that are nothing else than amplitudes: where curves look alike, shapes and amplitudes make up
    for each other. Components of one kind, each at a place of its own, do so where they overlap, and wide ones with a
    slope or a bend: theirs are carried along now and then, as are those of models with other components that jump. One
    of them alone does not look like a constant. Shapes with one amplitude or none step now and then, too.
    """
    shaped = [term for term in model.terms if any(slot.parameter is not None for slot in term.slots[1:])]
    shapes = {slot.parameter for term in shaped for slot in term.slots[1:]}
    amplitudes = {term.slots[0].parameter for term in model.terms}
    names = [name for name in index if name in amplitudes - shapes]
    free = [j for name, j in index.items() if name not in names]
    background = Counter(term.block for term in model.terms if term not in shaped)
    places = [
        (term.block, slot.parameter)
        for term in shaped
        for slot, parameter in zip(term.slots, term.component.parameters, strict=True)
        if parameter.role == "location" and slot.parameter is not None
    ]
    one_kind = len({term.component.name for term in shaped}) == 1
    apart = one_kind and len(places) == len(set(places)) == len(shaped)
    alone = apart and len(shaped) < 2 and max(background.values(), default=0) < 2
    if len(index) < 2 or not shaped or alone:
        names, free = [], []
    mean, variance = _moments(tables[[index[name] for name in names]]) if names else np.zeros((2, 0))
    return {
        "carries": _ints([0 if not free else NOW_AND_THEN if jumps or apart or len(names) < 2 else ALWAYS]),
        "linear": _ints(index[name] for name in names),
        "linear_of": _ints(names.index(p) if (p := t.slots[0].parameter) in names else -1 for t in model.terms),
        "linear_mean": mean,
        "linear_precision": 1.0 / variance,
        "free": _ints(free),
    }  # fmt: skip


def _moments(tables: Array) -> tuple[Array, Array]:
    """Means and variances of priors by their quantiles."""
    weight = np.exp(-0.5 * SCORES * SCORES)
    weight /= weight.sum()
    mean = tables @ weight
    return mean, (tables - mean[:, None]) ** 2 @ weight


def _bins(x: Array) -> tuple[Array, Array]:
    """First point of each bin and its edges; the bins at both ends reach as far beyond the data as into them.

    In longer data bins begin at every eighth point or so: sums over a few points more than a vector are slow.
    """
    unit = VECTOR if x.size >= VECTOR * BINS else 1
    start = np.minimum(np.arange(BINS + 1) * -(-x.size // unit) // BINS * unit, x.size)
    inside = start[1:-1]
    edge = np.concatenate(
        [[2.0 * x[0] - x[inside[0]]], 0.5 * (x[inside - 1] + x[inside]), [2.0 * x[-1] - x[-1 - inside[0]]]]
    )
    return start.astype(np.int64), edge


def starts(sizes: Sequence[int]) -> Array:
    """Where pieces of these sizes begin, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)


def _ints(values: Any) -> Array:
    return np.fromiter(values, dtype=np.int64)
