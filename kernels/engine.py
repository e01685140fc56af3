"""The arithmetic of a replica exchange: one-parameter moves in the whitened prior, with kept curves and residual.

Plain Python that a generated module compiles (see `build`); only scalars, flat arrays and loops. Loops over points use
unsigned offsets into whole arrays: views would cost reference counting, and signed offsets keep numba from vector code.
A sweep is `small`, that is part of what makes it: to call it with all arrays took as long as two updates.
Source of the method: Hukushima and Nemoto, JPSJ 65, 1604 (1996); proposals that keep the prior: Cotter et al.,
Statistical Science 28, 424 (2013); alternating (non-reversible) swaps: Syed et al., JRSS B 84, 321 (2022); random
numbers: Salmon et al., SC'11.
"""

import numpy as np

from bluesky_bayes.kernels.plain import (
    SINGLE,
    U64,
    F,
    cos_turns,
    exp_double,
    exp_single,
    fill_curve,
    inner,
    jit,
    log,
    log_single,
    small,
    spare_row,
    team,
    team_of_all,
    teams,
    teams_of_all,
    trial_curve,
    wait_for_all,
)

GAUSSIAN, POISSON, STUDENT_T = 0, 1, 2
CHUNK = 4096
REFRESH = 256
TARGET = 0.44
WIDE, WIDE_EVERY, FREE_EVERY = 10.0, 4, 2
IMPOSSIBLE = 1e300
FAR = 1e8 if SINGLE else 1e20
TINY = 1e-30
MOVE, SWAP, RESAMPLE = 0, 1, 2
BINS, JUMP_EVERY = 24, 4
ROOT_2PI = 2.5066282746310002
EDGE, OUTSIDE = 0.01, 10.0
SELDOM, REDRAWS, STRIDE, NARROWEST = 4, 3, 2.38, 1e-14
ENDLESS, BY_SD, BY_PRECISION = 0, 1, 2
CELLS, EVERYWHERE, SUM_EVERY, FALL = 256, 1 << 62, 4, 1e3
REACH = 5.65 if SINGLE else 8.5
"""Standard deviations from which on a normal curve is less than the rounding of its height."""


@small
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10: four words from a counter and a key, all held in 64-bit integers."""
    low = U64(0xFFFFFFFF)
    for _ in range(10):
        p0 = U64(0xD2511F53) * c0
        p1 = U64(0xCD9E8D57) * c2
        c0 = (p1 >> U64(32)) ^ c1 ^ k0
        c2 = (p0 >> U64(32)) ^ c3 ^ k1
        c1 = p1 & low
        c3 = p0 & low
        k0 = (k0 + U64(0x9E3779B9)) & low
        k1 = (k1 + U64(0xBB67AE85)) & low
    return c0, c1, c2, c3


@small
def unit(word):
    """Uniform number in (0, 1] from a 32-bit word, float32."""
    return (np.float32(word) + np.float32(0.5)) * np.float32(2.3283064365386963e-10)


@jit
def fill_random(first, n, sweep, round_, purpose, key0, key1, normals, log_uniforms):
    """Draws `first` to ``first + n`` of a sweep: standard normals (Box and Muller) and logarithms of uniforms."""
    f, s, r, q, k0, k1 = U64(first), U64(sweep), U64(round_), U64(purpose), U64(key0), U64(key1)
    for i in range(U64(n)):
        a, b, c, _ = philox(s, f + i, r, q, k0, k1)
        normals[f + i] = np.sqrt(np.float32(-2.0) * log_single(unit(a))) * cos_turns(unit(b))
        log_uniforms[f + i] = log_single(unit(c))


@small
def quantile(task, j, z):
    """Parameter `j` at a whitened coordinate, by linear interpolation of its prior's quantiles."""
    n = task.tables.shape[1]
    z_max = task.z_max[0]
    u = (z + z_max) * ((n - 1) / (2.0 * z_max))
    u = min(max(u, 0.0), n - 1.000001)
    i = int(u)
    f = u - i
    return task.tables[j, i] * (1.0 - f) + task.tables[j, i + 1] * f


@small
def slot_value(task, state, slot, p, moved, value):
    """Value of a slot for replica `p` when parameter `moved` (below 0: none) is taken at `value`."""
    j = task.slot_parameter[slot]
    if j < 0:
        return task.slot_offset[slot]
    t = value if j == moved else state.theta[p, j]
    return task.slot_scale[slot] * t + task.slot_offset[slot]


@small
def load_values(task, state, term, p, moved, value, values):
    """Shape values of a term, rounded to the kernel's precision."""
    first = task.slot_start[term] + 1
    for s in range(first, task.slot_start[term + 1]):
        values[s - first] = F(slot_value(task, state, s, p, moved, value))


@jit
def subtract_curve(weight, w0, change, residual, r0, curve, c0, trial, t0, n):
    """Trial residual ``residual - change * curve`` and by how much its weighted sum of squares is larger."""
    w, r, c, t = U64(w0), U64(r0), U64(c0), U64(t0)
    s = F(0)
    for i in range(U64(n)):
        old, d = residual[r + i], -change * curve[c + i]
        v = old + d
        trial[t + i] = v
        s += weight[w + i] * d * (v + old)
    return s


@inner
def poisson_deviance(exposure, y, inverse_y, w0, residual, r0, n):
    """Half the Poisson deviance; the model's rate is minus the residual, and never below 1e-30 counts."""
    w, r = U64(w0), U64(r0)
    s = F(0)
    for i in range(U64(n)):
        mu = max(-exposure[w + i] * residual[r + i], F(TINY))
        s += (mu - y[w + i]) - y[w + i] * log(mu * inverse_y[w + i])
    return s


@inner
def log_tails(weight, w0, factor, residual, r0, n):
    """Sum of the logarithms of ``1 + factor * weight * residual^2``."""
    w, r = U64(w0), U64(r0)
    s = F(0)
    for i in range(U64(n)):
        v = residual[r + i]
        s += log(F(1) + factor * weight[w + i] * v * v)
    return s


@small
def points_of(task, block):
    """Points of a block, padded."""
    return task.block_start[block + 1] - task.block_start[block]


@small
def reach(task, state, term, p, moved, value):
    """Points of its block, the first and the one after the last, beyond which a term's curve is less than rounding."""
    block, kind = task.term_block[term], task.end_kind[term]
    whole = points_of(task, block)
    if kind == ENDLESS:
        return 0, whole
    width = slot_value(task, state, task.end_slot[term], p, moved, value)
    half = REACH * (width if kind == BY_SD else float(F(1) / np.sqrt(F(width))))
    middle = slot_value(task, state, task.place_slot[term], p, moved, value) - task.cell_origin[block]
    low, high = (middle - half) * task.cell_scale[block], (middle + half) * task.cell_scale[block]
    if not low <= high:
        return 0, whole
    low, high = min(max(low, 0.0), float(CELLS)), min(max(high, 0.0), float(CELLS))
    return task.cell_first[block, int(low)], task.cell_last[block, int(high)]


@small
def amplitude_part(task, term, change, residual, r0, curve, c0, trial, low, high):
    """`subtract_curve` over some points of a term's block, chunk by chunk with float64 sums."""
    a = task.block_start[task.term_block[term]]
    total = 0.0
    for start in range(low, high, CHUNK):
        n = min(CHUNK, high - start)
        at = a + start
        total += subtract_curve(task.weight, at, change, residual, r0 + start, curve, c0 + start, trial, at, n)
    return total


@small
def shape_part(task, term, values, amplitude, residual, r0, state, p, scratch, low, high):
    """Trial curve and residual of a term whose shape changes, over some points of its block.

    Gives by how much the weighted sum of squares is larger.
    """
    block, address = task.term_block[term], task.term_trial[term]
    a, c = task.block_start[block], task.curve_start[term]
    old = p * task.curve_start[task.term_block.size] + c
    total = 0.0
    for start in range(low, high, CHUNK):
        n = min(CHUNK, high - start)
        total += trial_curve(
            address,
            values,
            task.x,
            task.weight,
            a + start,
            amplitude,
            residual,
            r0 + start,
            state.curves,
            old + start,
            scratch.curves,
            c + start,
            scratch.residual,
            n,
        )
    return total


@small
def noise_sigma(task, state, block, p, moved, value):
    """Unknown sigma of a block in units of the block's scale; one where it is known."""
    j = task.noise_parameter[block]
    if j < 0:
        return 1.0
    return (value if j == moved else state.theta[p, j]) / task.noise_scale[block]


@small
def block_part(task, state, block, square, residual, r0, p, moved, value, low, high):
    """What the energy needs of some points of a block: Poisson's deviance, the sum of Student-t's tails, or `square`.

    That is the weighted sum of squares. A curve that is no number, or too large for one, gives it too, to tell it by.
    """
    kind = task.noise[block]
    if kind == GAUSSIAN or not square < IMPOSSIBLE:
        return square
    a = task.block_start[block]
    sigma = noise_sigma(task, state, block, p, moved, value)
    factor = F(1.0 / (task.noise_dof[block] * sigma * sigma))
    total = 0.0
    for start in range(low, high, CHUNK):
        n = min(CHUNK, high - start)
        if kind == POISSON:
            total += poisson_deviance(task.weight, task.y, task.inverse_y, a + start, residual, r0 + start, n)
        else:
            total += log_tails(task.weight, a + start, factor, residual, r0 + start, n)
    return total


@small
def total_energy(task, state, parts, at, p, moved, value):
    """-log likelihood of all blocks, less `task.constant`; finite always."""
    energy = 0.0
    for block in range(task.noise.size):
        part, kind, known = parts[at, block], task.noise[block], task.noise_parameter[block] < 0
        sigma = noise_sigma(task, state, block, p, moved, value)
        if kind == POISSON:
            energy += part
        elif kind == STUDENT_T:
            energy += 0.5 * (task.noise_dof[block] + 1.0) * part
        else:
            energy += 0.5 * part if known else 0.5 * part / (sigma * sigma)
        if not known:
            energy += task.n_data[block] * np.log(sigma)
    return energy if energy < IMPOSSIBLE else IMPOSSIBLE


@inner
def copy_points(source, s0, target, t0, n):
    """Copy `n` points."""
    s, t = U64(s0), U64(t0)
    for i in range(U64(n)):
        target[t + i] = source[s + i]


@inner
def fill_zeros(target, t0, n):
    """Zeros at `n` points."""
    t = U64(t0)
    for i in range(U64(n)):
        target[t + i] = F(0)


@inner
def sum_of_squares(weight, w0, residual, r0, n):
    """Weighted sum of squares in float64."""
    w, r = U64(w0), U64(r0)
    total = 0.0
    for i in range(U64(n)):
        v = float(residual[r + i])
        total += float(weight[w + i]) * v * v
    return total


@inner
def log_sum(terms, at, n):
    """Logarithm of the sum of the exponentials of the `n` numbers from `at`: their differences in float32."""
    a = U64(at)
    top = terms[a]
    for m in range(U64(n)):
        top = max(top, terms[a + m])
    total = np.float32(0.0)
    for m in range(U64(n)):
        total += exp_single(np.float32(terms[a + m] - top))
    return top + float(log_single(total))


@small
def take_places(reference, score, p):
    """Coordinate of the reference that each parameter of row `p` has: exchangeable components stand in order."""
    z, place = score.z, score.place
    for j in range(reference.group_of.size):
        place[p, j] = j
    for group in range(reference.group_start.size - 1):
        first, last = reference.group_start[group], reference.group_start[group + 1]
        for c in range(first, last):
            here, rank = z[p, reference.location[c]], first
            for other in range(first, last):
                there = z[p, reference.location[other]]
                if there < here or (there == here and other < c):
                    rank += 1
            to = reference.member_start[rank]
            for k in range(reference.member_start[c], reference.member_start[c + 1]):
                place[p, reference.member[k]] = reference.member[to + k - reference.member_start[c]]


@jit
def refer(reference, score, p):
    """Everything of row `p` of `score` from its coordinates."""
    n, size = reference.group_of.size, reference.log_weight.size
    if size == 0:
        return
    take_places(reference, score, p)
    gradient, terms, row = score.gradient, score.terms, U64(p * n * size)
    precision, mean = reference.precision, reference.mean
    for i in range(U64(n * size)):
        gradient[row + i] = -reference.shift[i]
    for j in range(n):
        add_column(precision, score.place[p, j] * n * size, score.z[p, j], gradient, p * n * size, n * size)
    at, square = U64(p * size), 0.0
    for m in range(U64(size)):
        terms[at + m] = reference.log_weight[m]
    for j in range(n):
        value, column = 0.5 * score.z[p, j], U64(score.place[p, j] * size)
        for m in range(U64(size)):
            terms[at + m] -= (value - 0.5 * mean[column + m]) * gradient[row + column + m]
        square += score.z[p, j] * score.z[p, j]
    score.square[p] = square
    score.value[p] = -(log_sum(terms, at, size) + 0.5 * square)


@inner
def add_column(source, s0, factor, target, t0, n):
    """Add `factor` times `n` numbers to others."""
    s, t = U64(s0), U64(t0)
    for i in range(U64(n)):
        target[t + i] += factor * source[s + i]


@small
def crosses(reference, score, p, j, z):
    """Whether a component changes places when its coordinate `j` goes to `z`."""
    group = reference.group_of[j]
    if group < 0:
        return False
    old, found = score.z[p, j], False
    for c in range(reference.group_start[group], reference.group_start[group + 1]):
        other = score.z[p, reference.location[c]]
        if reference.location[c] != j and (old - other) * (z - other) <= 0.0:
            found = True
    return found


@jit
def cross_reference(reference, score, p, j, z):
    """`trial_reference` where components change places."""
    n, size, trial = reference.group_of.size, reference.log_weight.size, spare_row(score.value.size)
    terms, gradient, change, row, new = score.terms, score.gradient, score.change, p * n * size, trial * n * size
    for k in range(n):
        score.z[trial, k], change[trial, k] = score.z[p, k], 0.0
    score.z[trial, j] = z
    take_places(reference, score, trial)
    for k in range(n):
        change[trial, score.place[trial, k]] += score.z[trial, k]
        change[trial, score.place[p, k]] -= score.z[p, k]
    for i in range(U64(n * size)):
        gradient[U64(new) + i] = 0.0
    for k in range(n):
        if change[trial, k] != 0.0:
            add_column(reference.precision, k * n * size, change[trial, k], gradient, new, n * size)
    copy_points(terms, p * size, terms, trial * size, size)
    for k in range(n):
        if change[trial, k] != 0.0:
            to, here, there = U64(trial * size), U64(row + k * size), U64(new + k * size)
            for m in range(U64(size)):
                terms[to + m] -= change[trial, k] * (gradient[here + m] + 0.5 * gradient[there + m])


@small
def trial_reference(reference, score, p, j, z):
    """Reference energy of row `p` with coordinate `j` at `z`; the last row of `score` holds what was worked out."""
    n, size, trial = reference.group_of.size, reference.log_weight.size, spare_row(score.value.size)
    step, i = z - score.z[p, j], score.place[p, j]
    if crosses(reference, score, p, j, z):
        cross_reference(reference, score, p, j, z)
    else:
        terms, gradient, precision = score.terms, score.gradient, reference.precision
        at, to, g, c = U64(p * size), U64(trial * size), U64((p * n + i) * size), U64((i * n + i) * size)
        for m in range(U64(size)):
            terms[to + m] = terms[at + m] - step * (gradient[g + m] + 0.5 * step * precision[c + m])
    score.square[trial] = score.square[p] + z * z - score.z[p, j] * score.z[p, j]
    score.value[trial] = -(log_sum(score.terms, trial * size, size) + 0.5 * score.square[trial])
    return score.value[trial]


@small
def commit_reference(reference, score, p, j, z):
    """Take the proposal that `trial_reference` worked out."""
    n, size, trial = reference.group_of.size, reference.log_weight.size, spare_row(score.value.size)
    if crosses(reference, score, p, j, z):
        add_column(score.gradient, trial * n * size, 1.0, score.gradient, p * n * size, n * size)
        for k in range(n):
            score.place[p, k] = score.place[trial, k]
    else:
        column, step = score.place[p, j] * n * size, z - score.z[p, j]
        add_column(reference.precision, column, step, score.gradient, p * n * size, n * size)
    copy_points(score.terms, trial * size, score.terms, p * size, size)
    score.square[p] = score.square[trial]
    score.value[p] = score.value[trial]
    score.z[p, j] = z


@small
def rebuild_curves(task, state, p, scratch):
    """Curves of replica `p` from its parameters."""
    n_curves, none = task.curve_start[task.term_block.size], -1 - p
    for term in range(task.term_block.size):
        block = task.term_block[term]
        a, c = task.block_start[block], p * n_curves + task.curve_start[term]
        low, high = reach(task, state, term, p, none, 0.0)
        load_values(task, state, term, p, none, 0.0, scratch.values)
        fill_zeros(state.curves, c, low)
        fill_curve(task.term_fill[term], scratch.values, task.x, a + low, state.curves, c + low, high - low)
        fill_zeros(state.curves, c + high, points_of(task, block) - high)


@small
def rebuild_energy(task, state, p):
    """Residual and energy of replica `p` from its parameters and curves."""
    n_points, n_curves, none = task.x.size, task.curve_start[task.term_block.size], -1 - p
    residual, curves = state.residual, state.curves
    copy_points(task.y, 0, residual, p * n_points, n_points)
    for block in range(task.noise.size):
        if task.noise[block] == POISSON:
            fill_zeros(residual, p * n_points + task.block_start[block], points_of(task, block))
    for term in range(task.term_block.size):
        block = task.term_block[term]
        a, c = task.block_start[block], p * n_curves + task.curve_start[term]
        low, high = reach(task, state, term, p, none, 0.0)
        amplitude = F(slot_value(task, state, task.slot_start[term], p, none, 0.0))
        add_column(curves, c + low, -amplitude, residual, p * n_points + a + low, high - low)
    sum_up(task, state, p)


@small
def sum_up(task, state, p):
    """Energy of replica `p` from its residual."""
    n_points, none, residual = task.x.size, -1 - p, state.residual
    for block in range(task.noise.size):
        a, n = task.block_start[block], points_of(task, block)
        r0 = p * n_points + a
        square = sum_of_squares(task.weight, a, residual, r0, n)
        state.squares[p, block] = square
        state.parts[p, block] = block_part(task, state, block, square, residual, r0, p, none, 0.0, 0, n)
    state.energy[p] = total_energy(task, state, state.parts, p, p, none, 0.0)


@jit
def rebuild(task, state, p, scratch):
    """Everything of replica `p` from its coordinates."""
    for j in range(state.theta.shape[1]):
        state.theta[p, j] = quantile(task, j, state.z[p, j])
    rebuild_curves(task, state, p, scratch)
    rebuild_energy(task, state, p)


@small
def window(task, state, p, j, value):
    """Points of its block, the first and the one after the last, that a move of parameter `j` to `value` changes.

    All of them where it moves several terms; where the difference of two sums would be no quicker, too.
    """
    touch = task.touch_start[j]
    if task.touch_start[j + 1] - touch != 1:
        return 0, EVERYWHERE
    term = task.touch_term[touch]
    block = task.term_block[term]
    low, high = reach(task, state, term, p, -1 - p, 0.0)
    if task.touch_shape[touch] != 0:
        first, last = reach(task, state, term, p, j, value)
        low, high = min(low, first), max(high, last)
    if task.noise[block] != GAUSSIAN and 2 * (high - low) > points_of(task, block):
        return 0, EVERYWHERE
    return low, high


@small
def propose(task, state, p, j, value, scratch, low, high):
    """Energy of replica `p` with parameter `j` at `value`; trial curves and residuals are left in `scratch`.

    Only points from `low` to before `high` of a block are looked at, see `window`.
    """
    n_points, n_curves = task.x.size, task.curve_start[task.term_block.size]
    residual, curves, square = state.residual, state.curves, 0.0
    for block in range(task.noise.size):
        square, part = state.squares[p, block], state.parts[p, block]
        if task.noise[block] == STUDENT_T and task.noise_parameter[block] == j:
            r0 = p * n_points + task.block_start[block]
            part = block_part(task, state, block, square, residual, r0, p, j, value, 0, points_of(task, block))
        scratch.squares[0, block], scratch.parts[0, block] = square, part
    first, last = task.touch_start[j], task.touch_start[j + 1]
    for touch in range(first, last):
        term = task.touch_term[touch]
        block = task.term_block[term]
        a = task.block_start[block]
        slot = task.slot_start[term]
        c = task.curve_start[term]
        end = min(high, points_of(task, block))
        old = F(slot_value(task, state, slot, p, j, state.theta[p, j]))
        change = F(slot_value(task, state, slot, p, j, value)) - old
        again = touch > first and task.term_block[task.touch_term[touch - 1]] == block
        square = square if again else state.squares[p, block]
        source = scratch.residual if again else residual
        r0 = a if again else p * n_points + a
        if task.touch_shape[touch] == 0:
            c += p * n_curves
            square += amplitude_part(task, term, change, source, r0, curves, c, scratch.residual, low, end)
        else:
            load_values(task, state, term, p, j, value, scratch.values)
            square += shape_part(task, term, scratch.values, old, source, r0, state, p, scratch, low, end)
            if change != 0:
                trial = scratch.residual
                square += amplitude_part(task, term, change, trial, a, scratch.curves, c, trial, low, end)
        more = touch + 1 < last and task.term_block[task.touch_term[touch + 1]] == block
        if not more:
            part = block_part(task, state, block, square, scratch.residual, a, p, j, value, low, end)
            if task.noise[block] != GAUSSIAN and end - low < points_of(task, block):
                before = block_part(task, state, block, state.squares[p, block], residual, r0, p, j, value, low, end)
                part += state.parts[p, block] - before
            scratch.squares[0, block], scratch.parts[0, block] = square, part
    return total_energy(task, state, scratch.parts, scratch.parts.shape[0] - 1, p, j, value)


@small
def is_far(task, state, p):
    """Whether the residual of replica `p` is so large that its rounding would be felt after a move back."""
    far = state.energy[p] > FAR
    for block in range(task.noise.size):
        far = far or (task.noise[block] == STUDENT_T and state.squares[p, block] > FAR)
    return far


@small
def commit(task, state, p, j, z, value, energy, scratch, low, high):
    """Take the proposal that changes points from `low` to before `high`.

    From an impossibly bad state everything is rebuilt, so that no rounding is carried on.
    """
    n_points, n_curves = task.x.size, task.curve_start[task.term_block.size]
    state.z[p, j] = z
    state.theta[p, j] = value
    if is_far(task, state, p):
        rebuild(task, state, p, scratch)
        return
    state.energy[p] = energy
    residual, curves = state.residual, state.curves
    for block in range(task.noise.size):
        state.squares[p, block], state.parts[p, block] = scratch.squares[0, block], scratch.parts[0, block]
    for touch in range(task.touch_start[j], task.touch_start[j + 1]):
        term = task.touch_term[touch]
        block = task.term_block[term]
        a, c = task.block_start[block], task.curve_start[term]
        n = min(high, points_of(task, block)) - low
        copy_points(scratch.residual, a + low, residual, p * n_points + a + low, n)
        if task.touch_shape[touch] != 0:
            copy_points(scratch.curves, c + low, curves, p * n_curves + c + low, n)


@inner
def lack_of_signal(weight, w0, residual, r0, curve, c0, amplitude, n):
    """Weighted sum of the residual without a component."""
    w, r, c = U64(w0), U64(r0), U64(c0)
    s = F(0)
    for i in range(U64(n)):
        s += weight[w + i] * (residual[r + i] + amplitude * curve[c + i])
    return s


@inner
def lack_of_counts(exposure, y, inverse_y, w0, residual, r0, curve, c0, amplitude, n):
    """Sum of the counts that the model lacks without a component, each in units of its variance."""
    w, r, c = U64(w0), U64(r0), U64(c0)
    s = F(0)
    for i in range(U64(n)):
        s += (y[w + i] + exposure[w + i] * (residual[r + i] + amplitude * curve[c + i])) * inverse_y[w + i]
    return s


@inner
def fill_bins(task, state, p, term, bins):
    """Share of each bin in what the model of replica `p` lacks without a term: the square of the residual's sum."""
    block, none = task.term_block[term], -1 - p
    a = task.block_start[block]
    r0, c0 = p * task.x.size + a, p * task.curve_start[task.term_block.size] + task.curve_start[term]
    amplitude = F(slot_value(task, state, task.slot_start[term], p, none, 0.0))
    residual, curves, total = state.residual, state.curves, 0.0
    for b in range(BINS):
        low, m = task.bin_start[block, b], task.bin_start[block, b + 1] - task.bin_start[block, b]
        at, r, c = a + low, r0 + low, c0 + low
        if task.noise[block] == POISSON:
            lack = lack_of_counts(task.weight, task.y, task.inverse_y, at, residual, r, curves, c, amplitude, m)
        else:
            lack = lack_of_signal(task.weight, at, residual, r, curves, c, amplitude, m)
        found = lack * amplitude > 0 and task.bin_edge[block, b + 1] > task.bin_edge[block, b]
        bins[b] = float(lack) * float(lack) if found else 0.0
        total += bins[b]
    for b in range(BINS):
        bins[b] = bins[b] / total if total > 0.0 else 0.0


@small
def jump_density(task, block, j, slot, z, value, bins):
    """Density of a jump's proposals over that of the prior, at a coordinate and its value."""
    x = task.slot_scale[slot] * value + task.slot_offset[slot]
    passed, share = 0, 0.0
    for b in range(BINS + 1):
        passed += 1 if x >= task.bin_edge[block, b] else 0
    if passed > 0 and passed <= BINS:
        share = bins[passed - 1] / (task.bin_edge[block, passed] - task.bin_edge[block, passed - 1])
    n, z_max = task.tables.shape[1], task.z_max[0]
    unit = (n - 1) / (2.0 * z_max)
    i = min(max(int((z + z_max) * unit), 0), n - 2)
    slope = abs(task.slot_scale[slot]) * (task.tables[j, i + 1] - task.tables[j, i]) * unit
    return 0.5 + 0.5 * share * slope * np.exp(0.5 * z * z) * ROOT_2PI


@small
def coordinate(task, j, value):
    """Whitened coordinate of a value of parameter `j`: `quantile` the other way round."""
    low, high = 0, task.tables.shape[1] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if task.tables[j, middle] <= value:
            low = middle
        else:
            high = middle
    gap = task.tables[j, high] - task.tables[j, low]
    f = min(max((value - task.tables[j, low]) / gap, 0.0), 1.0) if gap > 0.0 else 0.5
    return (low + f) * (2.0 * task.z_max[0] / (task.tables.shape[1] - 1)) - task.z_max[0]


@inner
def jump(task, state, p, k, draw, scratch):
    """Coordinate that takes component `k` of those with a location to where the model lacks one, or anywhere.

    Given with it is the log ratio of the chances of the way back and forth. What is lacking is seen without the
    component, so that it looks the same from the new place.
    """
    slot, term = task.jump_slot[k], task.jump_term[k]
    j, block = task.slot_parameter[slot], task.term_block[term]
    bins = scratch.bins
    fill_bins(task, state, p, term, bins)
    u, z = 2.0 * np.exp(float(scratch.log_uniforms[draw])), float(scratch.normals[draw])
    if u < 1.0:
        b = 0
        while b < BINS - 1 and u >= bins[b]:
            u -= bins[b]
            b += 1
        if bins[b] > 0.0:
            low, high = task.bin_edge[block, b], task.bin_edge[block, b + 1]
            x = low + (high - low) * min(u / bins[b], 1.0)
            z = coordinate(task, j, (x - task.slot_offset[slot]) / task.slot_scale[slot])
            if abs(z) > task.z_max[0] - EDGE:
                z = OUTSIDE
    there = jump_density(task, block, j, slot, z, quantile(task, j, z), bins)
    here = jump_density(task, block, j, slot, state.z[p, j], state.theta[p, j], bins)
    return z, np.log(here / there)


@small
def single_draws(task):
    """Random draws of moves of one parameter."""
    return task.tables.shape[0] + 2 * ((task.jump_term.size + JUMP_EVERY - 1) // JUMP_EVERY)


@small
def carry_draws(task):
    """Random draws of a step of all shapes."""
    return 2 + task.tables.shape[0]


@inner
def product(weight, w0, a, a0, b, b0, n):
    """Weighted sum of products, added up in float64."""
    w, i0, j0 = U64(w0), U64(a0), U64(b0)
    total = 0.0
    for i in range(U64(n)):
        total += float(weight[w + i]) * float(a[i0 + i]) * float(b[j0 + i])
    return total


@inner
def product_of_counts(exposure, y, inverse_y, w0, a, a0, n):
    """`product` of a rate and the counts, in units of their variance."""
    w, i0 = U64(w0), U64(a0)
    total = 0.0
    for i in range(U64(n)):
        total += float(exposure[w + i]) * float(a[i0 + i]) * float(y[w + i]) * float(inverse_y[w + i])
    return total


@inner
def product_of_rates(exposure, inverse_y, w0, a, a0, b, b0, n):
    """`product` of two rates, in units of the variance of counts."""
    w, i0, j0 = U64(w0), U64(a0), U64(b0)
    total = 0.0
    for i in range(U64(n)):
        rate = float(exposure[w + i]) * float(a[i0 + i])
        total += rate * float(inverse_y[w + i]) * float(exposure[w + i]) * float(b[j0 + i])
    return total


@small
def overlap(task, state, block, at, other, low, high):
    """Weighted sum of the products of two curves; of counts the variance is what was counted, one at least."""
    a, n, curves = task.block_start[block] + low, max(high - low, 0), state.curves
    if task.noise[block] == POISSON:
        return product_of_rates(task.weight, task.inverse_y, a, curves, at + low, curves, other + low, n)
    return product(task.weight, a, curves, at + low, curves, other + low, n)


@small
def overlap_with_data(task, state, block, at, low, high):
    """The same with the data in place of the second curve: what was counted is a rate times the exposure."""
    a, n, curves = task.block_start[block] + low, high - low, state.curves
    if task.noise[block] == POISSON:
        return product_of_counts(task.weight, task.y, task.inverse_y, a, curves, at + low, n)
    return product(task.weight, a, curves, at + low, task.y, a, n)


@small
def log_slope(task, j, z):
    """Logarithm of a parameter's change with its coordinate."""
    n, z_max = task.tables.shape[1], task.z_max[0]
    unit = (n - 1) / (2.0 * z_max)
    i = min(max(int((z + z_max) * unit), 0), n - 2)
    return np.log(max((task.tables[j, i + 1] - task.tables[j, i]) * unit, 1e-300))


@inner
def factorise(matrices, row):
    """Put a symmetric matrix's lower Cholesky factor in its place."""
    for j in range(matrices.shape[1]):
        for k in range(j + 1):
            for i in range(k):
                matrices[row, j, k] -= matrices[row, j, i] * matrices[row, k, i]
            if k < j:
                matrices[row, j, k] /= matrices[row, k, k]
        matrices[row, j, j] = np.sqrt(max(matrices[row, j, j], 1e-300))


@small
def amplitude_parts(task, state, term, p):
    """Scale of a term's amplitude, and of its value what is not carried along."""
    slot, none = task.slot_start[term], -1 - p
    carried = task.linear_of[term] >= 0
    return task.slot_scale[slot], task.slot_offset[slot] if carried else slot_value(task, state, slot, p, none, 0.0)


@jit
def fit_amplitudes(task, state, p, beta, amplitudes, row):
    """Normal distribution of the amplitudes of replica `p` given its shapes, at inverse temperature `beta`.

    It is theirs where the noise is Gaussian, and near it where not: a step that carries them along is as right.
    Row `row` of ``amplitudes.factor`` gets the lower Cholesky factor of its precision, of ``amplitudes.mean`` the mean.
    The prior takes part as a normal distribution of its mean and variance, which keeps what data leave open within
    bounds.
    """
    n_curves, n, none = task.curve_start[task.term_block.size], task.linear.size, -1 - p
    factor, mean = amplitudes.factor, amplitudes.mean
    for j in range(n):
        for k in range(n):
            factor[row, j, k] = 0.0
        factor[row, j, j] = task.linear_precision[j]
        mean[row, j] = task.linear_precision[j] * task.linear_mean[j]
    for term in range(task.term_block.size):
        block, j = task.term_block[term], task.linear_of[term]
        sigma = noise_sigma(task, state, block, p, none, 0.0)
        weight, at = beta / (sigma * sigma), p * n_curves + task.curve_start[term]
        low, high = reach(task, state, term, p, none, 0.0)
        if j >= 0:
            common = weight * overlap_with_data(task, state, block, at, low, high)
            mean[row, j] += common * task.slot_scale[task.slot_start[term]]
        for other in range(term + 1):
            k = task.linear_of[other]
            if task.term_block[other] != block or (j < 0 and k < 0):
                continue
            there = p * n_curves + task.curve_start[other]
            first, last = reach(task, state, other, p, none, 0.0)
            common = weight * overlap(task, state, block, at, there, max(low, first), min(high, last))
            scale, fixed = amplitude_parts(task, state, term, p)
            other_scale, other_fixed = amplitude_parts(task, state, other, p)
            if j >= 0:
                mean[row, j] -= common * scale * other_fixed
            if k >= 0 and other != term:
                mean[row, k] -= common * other_scale * fixed
            if j >= 0 and k >= 0:
                factor[row, j, k] += common * scale * other_scale
                if other != term:
                    factor[row, k, j] += common * scale * other_scale
    factorise(factor, row)
    for j in range(n):
        for i in range(j):
            mean[row, j] -= factor[row, j, i] * mean[row, i]
        mean[row, j] /= factor[row, j, j]
    turn_back(amplitudes, row, mean)


@small
def turn_back(amplitudes, row, values):
    """Solve for what the transposed factor turns into `values`, in place."""
    factor, n = amplitudes.factor, amplitudes.mean.shape[1]
    for i in range(n):
        j = n - 1 - i
        for k in range(j + 1, n):
            values[row, j] -= factor[row, k, j] * values[row, k]
        values[row, j] /= factor[row, j, j]


@small
def replace_replica(task, reference, state, score, p, q):
    """Put replica `p` where `q` is."""
    n_points, n_curves, n = task.x.size, task.curve_start[task.term_block.size], state.z.shape[1]
    for j in range(n):
        state.z[p, j], state.theta[p, j], score.z[p, j] = state.z[q, j], state.theta[q, j], state.z[q, j]
    for block in range(task.noise.size):
        state.squares[p, block], state.parts[p, block] = state.squares[q, block], state.parts[q, block]
    state.energy[p] = state.energy[q]
    copy_points(state.residual, q * n_points, state.residual, p * n_points, n_points)
    copy_points(state.curves, q * n_curves, state.curves, p * n_curves, n_curves)
    size = reference.log_weight.size
    if size > 0:
        copy_points(score.gradient, q * n * size, score.gradient, p * n * size, n * size)
        copy_points(score.terms, q * size, score.terms, p * size, size)
        for j in range(n):
            score.place[p, j] = score.place[q, j]
        score.square[p], score.value[p] = score.square[q], score.value[q]


@jit
def carry(task, reference, state, score, p, beta, strides, level, draw, redraw, scratch):
    """A step of all shapes of replica `p` together, or one shape drawn anew, that carries the amplitudes along.

    Amplitudes keep their place in the normal distribution that they have given the shapes, or nearly so, while its mean
    and width follow the shapes: the step goes along a ridge on which amplitudes and shapes make up for each other. The
    change of width enters Metropolis' rule. One shape drawn from its prior, with new amplitudes for all, goes where no
    ridge leads.
    """
    amplitudes, trial, n = scratch.linear, spare_row(state.z.shape[0]), task.linear.size
    size, turn = np.exp(float(scratch.log_uniforms[draw])), np.exp(float(scratch.log_uniforms[draw + 1]))
    log_ratio, at, redrawn = 0.0, draw + 2, -1
    if redraw:
        redrawn, turn = int(size * task.free.size), 1.0
    size = STRIDE / np.sqrt(float(task.free.size)) * (1.0 if size < 0.34 else (0.3 if size < 0.67 else 0.1))
    turn = 0.0 if turn < 0.25 else (0.1 if turn < 0.5 else (0.3 if turn < 0.75 else 1.0))
    for i in range(task.free.size):
        j = task.free[i]
        z = state.z[p, j]
        if i == redrawn:
            z = float(scratch.normals[at + i])
        elif not redraw:
            for k in range(i + 1):
                z += size * strides[level, i, k] * float(scratch.normals[at + k])
            log_ratio -= 0.5 * (z * z - state.z[p, j] * state.z[p, j])
        if abs(z) > task.z_max[0]:
            return
        state.z[trial, j] = z
        state.theta[trial, j] = quantile(task, j, z)
    for j in range(n):
        state.theta[trial, task.linear[j]] = state.theta[p, task.linear[j]]
    rebuild_curves(task, state, trial, scratch)
    for row in range(2):
        fit_amplitudes(task, state, trial if row else p, beta, amplitudes, row)
    at += task.free.size
    for j in range(n):
        old = 0.0
        for k in range(j, n):
            old += amplitudes.factor[0, k, j] * (state.theta[p, task.linear[k]] - amplitudes.mean[0, k])
        new = np.sqrt(1.0 - turn * turn) * old + turn * float(scratch.normals[at + j])
        log_ratio += 0.5 * (new * new - old * old) + np.log(amplitudes.factor[0, j, j] / amplitudes.factor[1, j, j])
        amplitudes.place[1, j] = new
    turn_back(amplitudes, 1, amplitudes.place)
    for j in range(n):
        i, value = task.linear[j], amplitudes.mean[1, j] + amplitudes.place[1, j]
        z, old = coordinate(task, i, value), state.z[p, i]
        if not abs(z) < task.z_max[0] - EDGE:
            return
        log_ratio -= 0.5 * (z * z - old * old) + log_slope(task, i, z) - log_slope(task, i, old)
        state.z[trial, i] = z
        state.theta[trial, i] = quantile(task, i, z)
    rebuild_energy(task, state, trial)
    change = 0.0
    if reference.log_weight.size > 0:
        for j in range(state.z.shape[1]):
            score.z[trial, j] = state.z[trial, j]
        refer(reference, score, trial)
        change = score.value[trial] - score.value[p]
    gain = log_ratio - beta * (state.energy[trial] - state.energy[p]) - (1.0 - beta) * change
    if gain >= 0.0 or scratch.log_uniforms[draw + 2] < gain:
        replace_replica(task, reference, state, score, p, trial)


@small
def most_carries(task, sweep):
    """Steps of all shapes in a sweep: one fewer in most."""
    return max(task.carries[0] - (sweep % SELDOM > 0), 0)


@small
def carries_in(task, reference, steps, level, sweep):
    """The same at one temperature. A step now and then is for ridges: a shape drawn from its prior knows none."""
    n = most_carries(task, sweep)
    if task.carries[0] == 1:
        for i in range(task.free.size):
            if is_free(reference, steps, level, task.step_group[task.free[i]]):
                n = 0
    return n


@small
def is_free(reference, steps, level, group):
    """Whether a group of parameters is drawn anew from its priors, on a way that begins there.

    On a way from a mixture, such draws are what finds modes that the mixture lacks.
    """
    return reference.log_weight.size == 0 and steps[level, group] >= 1.0


@small
def is_idle(reference, steps, level, group, sweep):
    """Whether such a group stays where it is in a sweep."""
    return is_free(reference, steps, level, group) and (sweep + group) % FREE_EVERY > 0


@small
def sweep_replica(task, reference, state, score, p, beta, steps, strides, level, accepted, draw, sweep, scratch):
    """One move of every parameter of replica `p` at inverse temperature `beta`, and jumps now and then.

    Where all parameters would go is worked out at once, in the row for steps of all parameters: what one does changes
    nothing there, and tables of quantiles are slow to reach. Changes of sums leave rounding, which is soon swept away;
    where much has gone at once, at once. What is free is accepted so often that every second sweep is enough.
    """
    from_prior, n_parameters, q = reference.log_weight.size == 0, state.z.shape[1], spare_row(state.z.shape[0])
    for i in range(U64(n_parameters)):
        j = int(i)
        s = min(1.0, steps[level, task.step_group[j]] * (WIDE if (sweep + j) % WIDE_EVERY == 0 else 1.0))
        state.z[q, j] = np.sqrt(1.0 - s * s) * state.z[p, j] + s * scratch.normals[draw + j]
        state.theta[q, j] = quantile(task, j, state.z[q, j])
    due = sweep % SUM_EVERY == 0
    for move in range(n_parameters + task.jump_term.size):
        j, k, at, ratio = move, move - n_parameters, draw + move, 0.0
        if k < 0:
            z, value = state.z[q, j], state.theta[q, j]
            if is_idle(reference, steps, level, task.step_group[j], sweep):
                continue
        elif task.jump_term.size > 0 and (sweep + k) % JUMP_EVERY == 0:
            at = draw + n_parameters + 2 * (k // JUMP_EVERY)
            j = task.slot_parameter[task.jump_slot[k]]
            z, ratio = jump(task, state, p, k, at, scratch)
            value = quantile(task, j, z)
            at += 1
        else:
            continue
        if abs(z) > task.z_max[0]:
            continue
        low, high = window(task, state, p, j, value)
        energy = propose(task, state, p, j, value, scratch, low, high)
        change = 0.0 if from_prior else trial_reference(reference, score, p, j, z) - score.value[p]
        gain = ratio - beta * (energy - state.energy[p]) - (1.0 - beta) * change
        if gain >= 0.0 or scratch.log_uniforms[at] < gain:
            if k < 0:
                accepted[task.step_group[j]] += 1
            if not from_prior:
                commit_reference(reference, score, p, j, z)
            due = due or state.energy[p] - energy > FALL
            commit(task, state, p, j, z, value, energy, scratch, low, high)
        if due:
            sum_up(task, state, p)
            due = False
    if task.free.size > 0:
        at = draw + single_draws(task)
        for c in range(carries_in(task, reference, steps, level, sweep)):
            carry(
                task, reference, state, score, p, beta, strides, level, at + c * carry_draws(task), c + 1 == REDRAWS,
                scratch,
            )  # fmt: skip


@inner
def renew_replica(task, reference, state, score, p, fresh, t, scratch):
    """Replica `p` at an independent draw of the reference."""
    for j in range(state.z.shape[1]):
        state.z[p, j] = fresh[t, j]
        score.z[p, j] = fresh[t, j]
    rebuild(task, state, p, scratch)
    refer(reference, score, p)


@inner
def swap_neighbours(parity, betas, energy, reference, order, log_uniforms, rejected):
    """Exchange neighbouring temperatures, pairs that begin at `parity`; adds each pair's rejection probability."""
    for level in range(parity, betas.size - 1, 2):
        if betas[level] == betas[level + 1]:
            continue
        lower, upper = order[level], order[level + 1]
        change = (energy[upper] - reference[upper]) - (energy[lower] - reference[lower])
        gain = (betas[level + 1] - betas[level]) * change
        rejected[level] += 0.0 if gain >= 0.0 else 1.0 - np.exp(gain)
        if gain >= 0.0 or log_uniforms[level] < gain:
            order[level], order[level + 1] = upper, lower


@inner
def count_trips(order, trips):
    """Note which replicas stand at the ends; a round trip is an arrival at the hot end by way of the cold one."""
    hot, cold = order[0], order[order.size - 1]
    if trips[hot, 0] == 1:
        trips[hot, 1] += 1
    trips[hot, 0] = 0
    if trips[cold, 0] == 0:
        trips[cold, 0] = 1


@small
def draws_of_sweep(task, sweep):
    """Random draws that one replica's sweep takes at most."""
    return single_draws(task) + most_carries(task, sweep) * carry_draws(task)


@small
def sweep_level(
    task, reference, state, score, fresh, betas, steps, strides, group_size, n_adapt, order, level, t, scratch, accepted
):
    """Sweep `t` of one level of a ladder, whose draws are in `scratch`."""
    hits, n_draws, p = scratch.hits, draws_of_sweep(task, t), order[level]
    for g in range(group_size.size):
        hits[g] = 0.0
    if level == 0 and betas[0] == 0.0:
        renew_replica(task, reference, state, score, p, fresh, t, scratch)
    else:
        sweep_replica(
            task, reference, state, score, p, betas[level], steps, strides, level, hits, level * n_draws, t, scratch
        )
    for g in range(group_size.size):
        rate = hits[g] / group_size[g]
        if t >= n_adapt or (level == 0 and betas[0] == 0.0):
            accepted[level, g] += rate * (FREE_EVERY if is_free(reference, steps, level, g) else 1)
        elif not is_idle(reference, steps, level, g, t):
            steps[level, g] = min(1.0, steps[level, g] * np.exp((rate - TARGET) * 2.0 / np.sqrt(10.0 + t)))


@inner
def refresh(task, reference, state, score, beta, p, scratch):
    """Everything of replica `p` anew; gives the rounding error that its energy had."""
    before, there = state.energy[p], score.value[p]
    rebuild(task, state, p, scratch)
    refer(reference, score, p)
    if not before < FAR:
        return 0.0
    return beta * abs(state.energy[p] - before) + (1.0 - beta) * abs(score.value[p] - there)


@inner
def end_sweep(
    state, score, betas, n_adapt, round_, key0, key1, order, t, scratch, energies, misfit, samples, rejected, trips
):
    """Swaps of neighbours after sweep `t`, and what is kept of it."""
    n_levels = betas.size
    fill_random(0, n_levels, t, round_, SWAP, key0, key1, scratch.normals, scratch.log_uniforms)
    if t == n_adapt:
        for level in range(n_levels - 1):
            rejected[level] = 0.0
    swap_neighbours(t % 2, betas, state.energy, score.value, order, scratch.log_uniforms, rejected)
    count_trips(order, trips)
    for level in range(n_levels):
        energies[t, level] = state.energy[order[level]] - score.value[order[level]]
    misfit[t] = state.energy[order[n_levels - 1]]
    for j in range(samples.shape[1]):
        samples[t, j] = state.z[order[n_levels - 1], j]


@jit
def run_ladder(
    task,
    reference,
    state,
    score,
    fresh,
    betas,
    steps,
    strides,
    group_size,
    n_adapt,
    round_,
    key0,
    key1,
    order,
    scratch,
    energies,
    misfit,
    samples,
    rejected,
    accepted,
    trips,
):
    """Sweeps of a ladder of replicas with non-reversible swaps; gives the largest rounding error of an energy.

    Levels are divided among the teams of a device's block, and each gives the error of its own.

    Steps are adapted towards an acceptance of 0.44 in the first `n_adapt` sweeps and kept after. `energies`
    (n_sweeps, n_levels), and of the coldest level `misfit` (n_sweeps: its energy E) and `samples` (n_sweeps,
    n_parameters: its coordinates) are filled; `rejected`
    (n_levels - 1) and `accepted` (n_levels, n_groups) add up over the sweeps after adaptation; `trips` (n_replicas, 2)
    holds the end last visited (-1: none) and the round trips of each replica. A level's weight is
    ``exp(-beta E - (1 - beta) V)`` over the prior, with the reference's energy V; `energies` are ``E - V``. A first
    level at beta = 0 takes the independent draws `fresh` (n_sweeps, n_parameters).
    """
    n_levels = betas.size
    for p in range(team(), n_levels, teams()):
        rebuild(task, state, p, scratch)
        refer(reference, score, p)
    wait_for_all()
    drift = 0.0
    for t in range(energies.shape[0]):
        n_draws = draws_of_sweep(task, t)
        if teams() == 1:
            fill_random(0, n_levels * n_draws, t, round_, MOVE, key0, key1, scratch.normals, scratch.log_uniforms)
        for level in range(team(), n_levels, teams()):
            if teams() > 1:
                draw = level * n_draws
                fill_random(draw, n_draws, t, round_, MOVE, key0, key1, scratch.normals, scratch.log_uniforms)
            sweep_level(
                task, reference, state, score, fresh, betas, steps, strides, group_size, n_adapt, order, level, t,
                scratch, accepted,
            )  # fmt: skip
            if t % REFRESH == REFRESH - 1:
                drift = max(drift, refresh(task, reference, state, score, betas[level], order[level], scratch))
        wait_for_all()
        if team() == 0:
            end_sweep(
                state, score, betas, n_adapt, round_, key0, key1, order, t, scratch, energies, misfit, samples,
                rejected, trips,
            )  # fmt: skip
        wait_for_all()
    return drift


@small
def settle(task, reference, state, score, z, i, scratch):
    """Put the only replica of `state` to row `i` of `z`; give its number."""
    p = 0
    for j in range(z.shape[1]):
        state.z[p, j] = z[i, j]
        score.z[p, j] = z[i, j]
    rebuild(task, state, p, scratch)
    refer(reference, score, p)
    return p


@jit
def weigh(task, reference, state, score, z, scratch, energies, misfit):
    """`energies` (``E - V``) and `misfit` (E) of coordinates (n, n_parameters)."""
    for i in range(team_of_all(), z.shape[0], teams_of_all()):
        p = settle(task, reference, state, score, z, i, scratch)
        energies[i] = state.energy[p] - score.value[p]
        misfit[i] = state.energy[p]


@inner
def lowest(energies):
    """Lowest of some energies."""
    top = -energies[0]
    for i in range(U64(energies.size)):
        top = max(top, -energies[i])
    return -top


@inner
def effective_share(change, energies, least):
    """Effective share of particles weighted by ``exp(-change * energy)``."""
    total = 0.0
    squares = 0.0
    for i in range(U64(energies.size)):
        w = exp_double(-change * (energies[i] - least))
        total += w
        squares += w * w
    return total * total / (squares * energies.size)


@inner
def next_beta(beta, energies, share):
    """The inverse temperature at which a share of the particles still counts."""
    least = lowest(energies)
    if effective_share(1.0 - beta, energies, least) > share:
        return 1.0
    low, high = 0.0, 1.0 - beta
    while high - low > 1e-3 * low and high > 1e-300:
        middle = 0.5 * (low + high)
        if effective_share(middle, energies, least) > share:
            low = middle
        else:
            high = middle
    return min(1.0, beta + high)


@jit
def choose(
    betas, steps, level, share, group_size, hits, n, energies, round_, key0, key1, normals, log_uniforms, total, parents
):
    """The inverse temperature after `level` and the particles that go there, by systematic resampling.

    With a `share` above 0 ``betas[level + 1]`` and ``steps[level + 1]`` are found: the effective share of the particles
    there, an acceptance of 0.44 (`hits` of `n` sweeps). With 0 they are as given. `total` (n_particles,) is room.
    """
    beta, least = betas[level], lowest(energies)
    if share > 0.0:
        last = level + 2 == betas.size
        betas[level + 1] = 1.0 if last else next_beta(beta, energies, share)
        for g in range(group_size.size):
            rate = hits[g] / (group_size[g] * n) if level > 0 else TARGET
            steps[level + 1, g] = min(1.0, steps[level, g] * np.exp(2.0 * (rate - TARGET)))
    so_far = 0.0
    for i in range(energies.size):
        so_far += np.exp((beta - betas[level + 1]) * (energies[i] - least))
        total[i] = so_far
    fill_random(0, 1, level + 1, round_, RESAMPLE, key0, key1, normals, log_uniforms)
    point, parent = np.exp(float(log_uniforms[0])), 0
    for a in range(parents.size):
        while parent < energies.size - 1 and total[parent] * parents.size < (a + point) * so_far:
            parent += 1
        parents[a] = parent


@inner
def put_in_order(z, order):
    """Put exchangeable components of coordinates (n, n_parameters) in order."""
    start, location, member = order.member_start, order.location, order.member
    for i in range(U64(z.shape[0])):
        for group in range(order.group_start.size - 1):
            first, last = order.group_start[group], order.group_start[group + 1] - 1
            for _ in range(first, last):
                for c in range(first, last):
                    if z[i, location[c]] > z[i, location[c + 1]]:
                        for k in range(start[c + 1] - start[c]):
                            here, there = member[start[c] + k], member[start[c + 1] + k]
                            kept = z[i, here]
                            z[i, here] = z[i, there]
                            z[i, there] = kept


@inner
def mean_of(z, rows, j):
    """Mean of coordinate `j` of some rows."""
    total = 0.0
    for a in range(U64(rows.size)):
        total += z[rows[a], j]
    return total / rows.size


@inner
def covariance_of(z, rows, j, k, mean_j, mean_k):
    """Covariance of two coordinates of some rows about their means."""
    total = 0.0
    for a in range(U64(rows.size)):
        total += (z[rows[a], j] - mean_j) * (z[rows[a], k] - mean_k)
    return total / (rows.size - 1)


@jit
def find_stride(z, parents, free, order, share, strides, level):
    """Put particles in order; of those to be moved find how all shapes step together (with a `share` above 0).

    ``strides[level]`` is the lower Cholesky factor of the covariance of their coordinates `free`.
    """
    put_in_order(z, order)
    if share > 0.0:
        for j in range(free.size):
            middle = mean_of(z, parents, free[j])
            for k in range(j + 1):
                covariance = covariance_of(z, parents, free[j], free[k], middle, mean_of(z, parents, free[k]))
                strides[level, j, k] = covariance + (NARROWEST if j == k else 0.0)
        factorise(strides, level)


@jit
def move_particles(
    task, reference, state, score, beta, steps, strides, level, parents, first, n_sweeps, before, round_, key0, key1,
    scratch, cloud, energies, misfit,
):  # fmt: skip
    """Sweeps of some chosen particles; where each is after each sweep is a particle (waste-free).

    Dau and Chopin, JRSS B 84, 114 (2022). `parents` are rows of `before`; the first of them is number `first` of all.
    `cloud` (n, n_parameters), `energies` (``E - V``) and `misfit` (E) are filled; ``scratch.hits`` counts moves that
    were accepted.
    """
    for g in range(scratch.hits.size):
        scratch.hits[g] = 0.0
    for a in range(team_of_all(), parents.size, teams_of_all()):
        p = settle(task, reference, state, score, before, parents[a], scratch)
        for t in range(n_sweeps):
            row, at = a * n_sweeps + t, (first + a) * n_sweeps + t
            n_draws = draws_of_sweep(task, t)
            fill_random(0, n_draws, at, round_ + level, MOVE, key0, key1, scratch.normals, scratch.log_uniforms)
            sweep_replica(task, reference, state, score, p, beta, steps, strides, level, scratch.hits, 0, t, scratch)
            energies[row] = state.energy[p] - score.value[p]
            misfit[row] = state.energy[p]
            for j in range(state.z.shape[1]):
                cloud[row, j] = state.z[p, j]
    for g in range(steps.shape[1]):
        scratch.hits[g] *= FREE_EVERY if is_free(reference, steps, level, g) else 1


@jit
def visit(energies, margins, visited):
    """Where a chain is after each proposal: the first of `energies` is where it began, the others are proposed in turn.

    A rise by less than the proposal's margin is accepted. Gives how many were.
    """
    at, hits = 0, 0
    for i in range(margins.size):
        if energies[i + 1] - energies[at] < margins[i]:
            at = i + 1
            hits += 1
        visited[i] = at
    return hits


@jit
def evaluate(task, state, scratch, total):
    """Models of all replicas, (n_replicas, n_points), in units of each block's scale; curves stay in `state`."""
    n_curves = task.curve_start[task.term_block.size]
    for p in range(total.shape[0]):
        none = -1 - p
        rebuild(task, state, p, scratch)
        for i in range(total.shape[1]):
            total[p, i] = 0.0
        for term in range(task.term_block.size):
            block = task.term_block[term]
            a, b, c = task.block_start[block], task.block_start[block + 1], task.curve_start[term]
            amplitude = slot_value(task, state, task.slot_start[term], p, none, 0.0)
            for i in range(b - a):
                total[p, a + i] += amplitude * state.curves[p * n_curves + c + i]
