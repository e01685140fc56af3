"""The arrays that say what is to be sampled: data blocks, terms and one parameter table, reached through index maps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ALIGNMENT, GUARD = 128, 1024
"""Bytes. For arrays that lie closer than a few vectors compiled loops are scalar, and round in another way: with a
guard on both sides of what is written, bits do not depend on where memory happened to be free."""
GAUSSIAN, POISSON, STUDENT_T = 0, 1, 2
LANES = 4
BINS, CELLS = 24, 256
ENDLESS, BY_SD, BY_PRECISION = 0, 1, 2


class Task(NamedTuple):
    """One model of one or more blocks of data.

    Points of all blocks lie behind one another, each block padded to whole lines of 128 bytes with points of no weight.
    A term's slots (amplitude first) take ``scale * theta[parameter] + offset``, or ``offset`` alone where the
    parameter is -1: ties inside a model and parameters shared by blocks are the same thing.

    Attributes
    ----------
    block_start : (n_blocks + 1,) int64
        First padded point of each block.
    x, y, weight : (n_points,) float32 or float64
        Abscissa less the block's origin; data in units of the block's scale, or counts (Poisson); inverse square of
        sigma in the same units, or exposure.
    inverse_y : (n_points,)
        Poisson: 1 / counts, or 1 where there are none.
    noise : (n_blocks,) int64
        `GAUSSIAN`, `POISSON` or `STUDENT_T`.
    noise_parameter : (n_blocks,) int64
        Parameter that holds an unknown sigma, or -1.
    noise_scale : (n_blocks,) float64
        Unit of the block's y: an unknown sigma is divided by it.
    noise_dof : (n_blocks,) float64
        Student-t: degrees of freedom.
    n_data : (n_blocks,) float64
        Real points of each block.
    constant : (1,) float64
        The part of -log likelihood that no parameter changes, with the full normalisers.
    term_fill, term_trial : (n_terms,) int64
        Addresses of the loops of each term's component: see `build.Curve`.
    term_block : (n_terms,) int64
        Block of each term.
    curve_start : (n_terms + 1,) int64
        Where each term's curve begins.
    slot_start : (n_terms + 1,) int64
    slot_parameter : (n_slots,) int64
    slot_scale, slot_offset : (n_slots,) float64
    touch_start : (n_parameters + 1,) int64
        Terms that each parameter moves: ``touch_term[touch_start[j]:touch_start[j + 1]]``, blocks together.
    touch_term, touch_shape : (n_touches,) int64
        The term, and whether its shape changes (1) or only its amplitude (0).
    step_group : (n_parameters,) int64
        Parameters of exchangeable components share a step size.
    jump_term, jump_slot : (n_jumps,) int64
        Exchangeable terms that have a location of their own among sorted x, and the slot of that location.
    bin_start : (n_blocks, BINS + 1) int64
    bin_edge : (n_blocks, BINS + 1) float64
        First point of each bin of a block, counted from the block's first, and where on x the bins meet.
    end_kind, end_slot, place_slot : (n_terms,) int64
        How the width of a normal curve is given (`BY_SD`, `BY_PRECISION`), the slot that gives it and that of its
        location; `ENDLESS` for terms that have to be worked out everywhere.
    cell_origin, cell_scale : (n_blocks,) float64
        Where `CELLS` cells of equal width, over the x of a block, begin, and their number in a unit of x.
    cell_first, cell_last : (n_blocks, CELLS + 1) int64
        First point of each cell, and the one after its last, on whole lines of 128 bytes.
    carries : (1,) int64
        Steps of all shapes in every fourth sweep, which carry amplitudes along; in the others there is one less.
    linear : (n_linear,) int64
        Parameters that are amplitudes and nothing else, or none where shapes do not step together.
    linear_of : (n_terms,) int64
        Which of them is each term's amplitude, or -1.
    linear_mean, linear_precision : (n_linear,) float64
        Mean and inverse variance of their priors.
    free : (n_free,) int64
        All other parameters, or none.
    tables : (n_parameters, n_quantiles) float64
        Prior quantiles at evenly spaced normal scores.
    z_max : (1,) float64
        Largest normal score of the tables.
    """

    block_start: Array
    x: Array
    y: Array
    weight: Array
    inverse_y: Array
    noise: Array
    noise_parameter: Array
    noise_scale: Array
    noise_dof: Array
    n_data: Array
    constant: Array
    term_fill: Array
    term_trial: Array
    term_block: Array
    curve_start: Array
    slot_start: Array
    slot_parameter: Array
    slot_scale: Array
    slot_offset: Array
    touch_start: Array
    touch_term: Array
    touch_shape: Array
    step_group: Array
    jump_term: Array
    jump_slot: Array
    bin_start: Array
    bin_edge: Array
    end_kind: Array
    end_slot: Array
    place_slot: Array
    cell_origin: Array
    cell_scale: Array
    cell_first: Array
    cell_last: Array
    carries: Array
    linear: Array
    linear_of: Array
    linear_mean: Array
    linear_precision: Array
    free: Array
    tables: Array
    z_max: Array


class State(NamedTuple):
    """Replicas of one ladder, and a row for a step of all parameters.

    The coordinates are all that has to be kept, the rest follows from them.

    Attributes
    ----------
    z : (n_replicas, n_parameters) float64
        Whitened coordinates, standard normal under the prior.
    theta : (n_replicas, n_parameters) float64
        Parameters.
    curves : (n_replicas * n_curve_points,)
        Unit shape of every term, replica after replica.
    residual : (n_replicas * n_points,)
        Data less model, or minus the model's rate (Poisson).
    squares : (n_replicas, n_blocks) float64
        Weighted sum of squares of each block's residual.
    parts : (n_replicas, n_blocks) float64
        What the noise makes of each block: see `engine.block_part`.
    energy : (n_replicas,) float64
        -log likelihood less `Task.constant`.
    """

    z: Array
    theta: Array
    curves: Array
    residual: Array
    squares: Array
    parts: Array
    energy: Array


class Amplitudes(NamedTuple):
    """Normal distributions of the amplitudes, before and after a step of the shapes.

    Attributes
    ----------
    factor : (2, n_linear, n_linear) float64
        Lower Cholesky factors of the precisions.
    mean, place : (2, n_linear) float64
        Means, and where in them the amplitudes stand.
    """

    factor: Array
    mean: Array
    place: Array


class Scratch(NamedTuple):
    """Room for one move."""

    curves: Array
    residual: Array
    squares: Array
    parts: Array
    values: Array
    normals: Array
    log_uniforms: Array
    hits: Array
    bins: Array
    linear: Amplitudes


class Reference(NamedTuple):
    """The distribution at beta = 0: a mixture of normal distributions of all coordinates, or the prior (no terms).

    Exchangeable components stand in order of one of their coordinates in it, whatever their labels. The numbers of all
    terms lie side by side, so that they are vectors; terms without weight make them a multiple of `LANES`.

    Attributes
    ----------
    log_weight : (n_terms,) float64
        Logarithm of weight and normaliser; none for the prior.
    mean, shift : (n_parameters * n_terms,) float64
        Means, and precision matrix times mean.
    precision : (n_parameters * n_parameters * n_terms,) float64
    group_of : (n_parameters,) int64
        Group of exchangeable components that a coordinate orders, or -1.
    group_start : (n_groups + 1,) int64
        Where each group's components begin.
    location : (n_components,) int64
        The coordinate that orders each.
    member_start : (n_components + 1,) int64
        Where each component's parameters begin in `member`.
    member : (n_members,) int64
    """

    log_weight: Array
    mean: Array
    shift: Array
    precision: Array
    group_of: Array
    group_start: Array
    location: Array
    member_start: Array
    member: Array


class Order(NamedTuple):
    """Groups of exchangeable components: the arrays of that name of a `Reference`."""

    group_start: Array
    location: Array
    member_start: Array
    member: Array


class Score(NamedTuple):
    """Where replicas stand under a reference; one row more for the proposal at hand.

    Attributes
    ----------
    z : (n_replicas + 1, n_parameters) float64
    place : (n_replicas + 1, n_parameters) int64
        Coordinate of the reference that each parameter has at present.
    terms : ((n_replicas + 1) * n_terms,) float64
        Log density of each term of the mixture.
    gradient : ((n_replicas + 1) * n_parameters * n_terms,) float64
        Precision matrix times distance from the mean; in the last row what a proposal that crosses adds.
    change : (n_replicas + 1, n_parameters) float64
        In the last row: of each of the reference's coordinates by such a proposal.
    square : (n_replicas + 1,) float64
        Sum of squares of z.
    value : (n_replicas + 1,) float64
        Reference energy: -log of the reference's density over that of the prior.
    """

    z: Array
    place: Array
    terms: Array
    gradient: Array
    change: Array
    square: Array
    value: Array


def new_score(reference: Reference, z: Array) -> Score:
    """Score of the given coordinates, (n_replicas, n_parameters); `engine.refer` fills in the rest."""
    n, d = z.shape
    terms = (n + 1) * reference.log_weight.size
    score = Score(
        *laid_out(
            ((n + 1, d), np.float64),
            ((n + 1, d), np.int64),
            (terms, np.float64),
            (terms * d, np.float64),
            ((n + 1, d), np.float64),
            (n + 1, np.float64),
            (n + 1, np.float64),
        )
    )
    score.z[:n] = z
    return score


def aligned(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros that begin on a line of 128 bytes, far from every other array."""
    return laid_out((shape, dtype))[0]


def laid_out(*wanted: tuple[int | tuple[int, ...], npt.DTypeLike]) -> list[Array]:
    """Arrays like `aligned`, of some shapes and types: all in one piece of memory, since each piece takes its time."""
    places, end = [], GUARD
    for shape, dtype in wanted:
        rows = (shape,) if isinstance(shape, int) else shape
        places.append((rows, np.dtype(dtype), end))
        end += -(-math.prod(rows) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT + GUARD
    raw = np.zeros(end + ALIGNMENT, dtype=np.uint8)
    shift = -raw.__array_interface__["data"][0] % ALIGNMENT
    return [np.ndarray(rows, dtype, raw, shift + start) for rows, dtype, start in places]


def padded(n: int, dtype: npt.DTypeLike) -> int:
    """Points rounded up to whole lines of 128 bytes, two of the widest vectors: loops take these at once."""
    line = line_of(dtype)
    return -(-n // line) * line


def line_of(dtype: npt.DTypeLike) -> int:
    """Points in 128 bytes."""
    return ALIGNMENT // np.dtype(dtype).itemsize


def new_state(task: Task, z: Array) -> State:
    """State with the given coordinates, (n_replicas, n_parameters); `engine.rebuild` fills in the rest."""
    n, dtype = len(z) + 1, task.x.dtype
    state = State(
        *laid_out(
            ((n, z.shape[1]), np.float64),
            ((n, z.shape[1]), np.float64),
            (n * int(task.curve_start[-1]), dtype),
            (n * task.x.size, dtype),
            ((n, task.noise.size), np.float64),
            ((n, task.noise.size), np.float64),
            (n, np.float64),
        )
    )
    state.z[:-1] = z
    return state


def new_scratch(task: Task, n_replicas: int = 1) -> Scratch:
    """Room for the moves of a sweep of `n_replicas`."""
    n, carried = task.linear.size, int(task.carries[0]) * (2 + len(task.tables))
    n_draws = max(n_replicas * (len(task.tables) + 2 * task.jump_term.size + carried) + 1, n_replicas)
    dtype = task.x.dtype
    most = int(np.max(np.diff(task.slot_start), initial=1))
    curves, residual, squares, parts, values, normals, log_uniforms, hits, bins, *linear = laid_out(
        (max(int(task.curve_start[-1]), 1), dtype),
        (task.x.size, dtype),
        ((1, task.noise.size), np.float64),
        ((1, task.noise.size), np.float64),
        (most, dtype),
        (n_draws, np.float32),
        (n_draws, np.float32),
        (max(len(task.tables), 1), np.float64),
        (BINS, np.float64),
        ((2, n, n), np.float64),
        ((2, n), np.float64),
        ((2, n), np.float64),
    )
    return Scratch(
        curves, residual, squares, parts, values, normals, log_uniforms, hits, bins, Amplitudes(*linear)
    )  # fmt: skip
