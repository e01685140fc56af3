"""The compiled arithmetic against its plain Python meaning, and against NumPy."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import box, decay, nagata_2012, nagata_candidates
from scipy import stats

from bluesky_bayes import Candidates, Component, Dataset, Gaussian, Model, Poisson, StudentT, component, select
from bluesky_bayes.candidates import family
from bluesky_bayes.cooling import cooled
from bluesky_bayes.dataset import Array
from bluesky_bayes.exchange import Exchange
from bluesky_bayes.families import peaks
from bluesky_bayes.inference import warm_up
from bluesky_bayes.jobs import Job
from bluesky_bayes.kernels import build, engine, scalar
from bluesky_bayes.kernels.task import GUARD, Task, aligned, new_scratch, new_state
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.noise import Noise, noise_for
from bluesky_bayes.reference import first_start, fitted_start
from bluesky_bayes.sampler import Path as Way
from bluesky_bayes.sampler import Settings, State, chain_key
from bluesky_bayes.shapes import gaussian
from bluesky_bayes.tasks import (
    Group,
    blocks_of,
    in_order,
    make_task,
    order_of,
    shape_source,
    single_precision_is_enough,
)


def compiled(data: Dataset, candidates: Candidates, noise: Noise, single: bool) -> tuple[Any, list[Task]]:
    models = candidates.resolved(data, noise).models
    blocks = blocks_of([data], [noise], models)
    kernels = build.kernels(single)
    return kernels, [make_task(blocks, model, single) for model in models]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_random_words_are_those_of_the_published_generator(
    counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]
) -> None:
    with np.errstate(over="ignore"):
        got = engine.philox(*map(np.uint64, counter), *map(np.uint64, key))
    assert tuple(int(word) for word in got) == words


def test_random_normals_and_uniforms_have_their_distributions() -> None:
    kernels, _ = compiled(*box(1), Gaussian(0.1), True)
    normals, log_uniforms = np.zeros((2, 100_000), dtype=np.float32)
    kernels.fill_random(0, 100_000, 3, 1, 0, 11, 12, normals, log_uniforms)
    assert stats.kstest(normals, "norm").pvalue > 1e-3
    assert stats.kstest(np.exp(log_uniforms.astype(float)), "uniform").pvalue > 1e-3
    again, _ = np.zeros((2, 100_000), dtype=np.float32)
    kernels.fill_random(0, 7, 3, 1, 0, 11, 12, again, log_uniforms)
    np.testing.assert_array_equal(again[:7], normals[:7])


@pytest.mark.parametrize(
    ("function", "exact", "points", "tolerance"),
    [
        (scalar.exp_single, np.exp, np.linspace(-59, 80, 999, dtype=np.float32), 4e-7),
        (scalar.exp_double, np.exp, np.linspace(-650, 650, 999), 1e-13),
        (scalar.log_single, np.log, np.geomspace(1e-30, 1e30, 998, dtype=np.float32), 4e-7),
        (scalar.log_double, np.log, np.geomspace(1e-300, 1e300, 998), 1e-13),
    ],
)
def test_elementary_functions_agree_with_numpy(function: Any, exact: Any, points: Array, tolerance: float) -> None:
    values = np.array([function(x) for x in points], dtype=np.float64)
    np.testing.assert_allclose(values, exact(points.astype(np.float64)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 301])
def test_what_kernels_write_begins_on_a_line_and_keeps_its_distance_from_other_arrays(size: int) -> None:
    array = aligned(size, np.float32)
    memory = array.base
    assert isinstance(memory, np.ndarray)
    before = array.ctypes.data - memory.ctypes.data
    assert array.ctypes.data % 64 == 0
    assert before >= GUARD
    assert memory.nbytes - before - array.nbytes >= GUARD


def test_the_cosine_of_turns_agrees_with_numpy() -> None:
    turns = np.linspace(0, 1, 501, dtype=np.float32)
    np.testing.assert_allclose([scalar.cos_turns(u) for u in turns], np.cos(2 * np.pi * turns.astype(float)), atol=1e-6)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`engine` as plain Python for Gaussians and decays on a constant."""

    peak, fall = (build.curve(shape_source(component), False) for component in (gaussian, decay))

    def fill(address: int, values: Array, x: Array, x0: int, new: Array, n0: int, n: int) -> None:
        a, b = int(x0), int(n0)
        u = x[a : a + n]
        new[b : b + n] = 1.0
        if address in peak:
            new[b : b + n] = np.exp(-0.5 * ((u - values[0]) / values[1]) ** 2)
        if address in fall:
            new[b : b + n] = np.exp(-u * values[0])

    def trial(
        address: int, values: Array, x: Array, weight: Array, x0: int, amplitude: float, residual: Array, r0: int,
        curve: Array, c0: int, new: Array, n0: int, out: Array, n: int,
    ) -> float:  # fmt: skip
        fill(address, values, x, x0, new, n0, n)
        a, r, c, b = int(x0), int(r0), int(c0), int(n0)
        before = residual[r : r + n].copy()
        out[a : a + n] = before + amplitude * (curve[c : c + n] - new[b : b + n])
        return float(np.sum(weight[a : a + n] * (out[a : a + n] ** 2 - before**2)))

    monkeypatch.setattr(engine, "fill_curve", fill)
    monkeypatch.setattr(engine, "trial_curve", trial)
    with np.errstate(over="ignore"):
        yield engine


PATHS = [(gaussian, noise, 2) for noise in (Gaussian(0.1), Gaussian(), Poisson(), StudentT(0.1), StudentT())]
PATHS += [(decay, Gaussian(0.1), 2), (decay, Gaussian(), 2), (decay, Gaussian(0.1), 1), (gaussian, Gaussian(0.1), 1)]
NAMES = [f"{n} {c.name}, {noise}" for c, noise, n in PATHS]


def some_of(
    component: Component, noise: Noise, count: int
) -> tuple[Any, Task, tuple[Group, ...], tuple[Array, Array, Array]]:
    """Kernels and task of two components on a constant or one alone, their groups, and temperatures, steps and strides.

    At two temperatures one group of parameters is drawn from its prior.
    """
    x = np.linspace(-1, 1, 81)
    y = np.random.default_rng(0).poisson(5 + 20 * np.exp(-0.5 * (x / 0.2) ** 2)).astype(float)
    priors = {"rate": stats.uniform(0, 3)} if component is decay else {}
    candidates = family(component, [count], background="constant" if count > 1 else None, priors=priors)
    kernels, (task,) = compiled(Dataset(x, y, counts=True), candidates, noise, single=False)
    n, n_free = len(component.parameters), task.free.size
    groups = (Group(np.array([range(i, i + n) for i in range(0, count * n, n)]), 1),)
    steps, strides = np.full((4, int(task.step_group.max()) + 1), 0.3), np.tile(0.2 * np.eye(n_free), (4, 1, 1))
    steps[1:3, 0] = 1.0
    return kernels, task, groups, (np.array([0.0, 0.02, 0.3, 1.0]), steps, strides)


@pytest.mark.parametrize(("component", "noise", "count"), PATHS, ids=NAMES)
def test_compiled_sweeps_take_the_same_path_as_plain_python(
    plain: Any, component: Component, noise: Noise, count: int
) -> None:
    kernels, task, groups, (betas, steps, strides) = some_of(component, noise, count)
    assert task.linear.size == (3 if count > 1 else 0 if component is gaussian else 1)
    z, key = np.random.default_rng(2).standard_normal((4, len(task.tables))), chain_key(1, "test", 0)
    draws = np.random.default_rng(3).standard_normal((100, len(task.tables)))
    for start in (first_start(task), fitted_start(draws, groups, np.random.default_rng(4))):
        (_, fast), (_, slow) = (
            Exchange().step(
                Way(module, task, start, betas, steps, strides, groups), State(z, steps, strides, 0), key, 6
            )
            for module in (kernels, plain)
        )
        np.testing.assert_allclose(fast.energies, slow.energies, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(fast.samples, slow.samples, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fast.acceptance, slow.acceptance, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("component", "noise", "count"), PATHS, ids=NAMES)
def test_compiled_particles_take_the_same_path_as_plain_python(
    plain: Any, component: Component, noise: Noise, count: int
) -> None:
    kernels, task, groups, known = some_of(component, noise, count)
    start, key = first_start(task), chain_key(1, "test", 0)
    fast, slow = (
        cooled(module, task, start, (3, 2), key, 0, np.random.default_rng(3), groups, known)
        for module in (kernels, plain)
    )
    np.testing.assert_allclose(fast.energies, slow.energies, rtol=1e-4)
    np.testing.assert_allclose(fast.clouds, slow.clouds, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(fast.eves, slow.eves)


def test_particles_are_put_in_order_and_step_by_the_factor_of_their_covariance(plain: Any) -> None:
    z, parents = np.random.default_rng(0).standard_normal((20, 7)), np.arange(0, 20, 2)
    groups = Group(np.array([[0, 1], [2, 3], [4, 5]]), 1), Group(np.array([[6]]), 0)
    free = np.array([1, 3, 6])
    for module in (build.kernels(True), plain):
        before, strides = z.copy(), np.zeros((2, 3, 3))
        module.find_stride(before, parents, free, order_of(groups), 0.0, strides, 1)
        np.testing.assert_array_equal(before, in_order(z, groups))
        assert not strides.any()
        module.find_stride(before, parents, free, order_of(groups), 0.5, strides, 1)
        expected = np.linalg.cholesky(np.cov(in_order(z, groups)[parents][:, free].T))
        np.testing.assert_allclose(strides, [np.zeros((3, 3)), expected], rtol=1e-9)


def test_a_chain_of_independent_draws_goes_where_the_energy_rises_by_less_than_the_margin() -> None:
    energies, margins = np.array([2.0, 3.0, 2.5, 9.0, 1.0, 1.5]), np.array([0.5, 1.0, 1.0, 0.1, 0.5])
    for module in (build.kernels(True), engine):
        visited = np.empty(5, dtype=np.int64)
        assert module.visit(energies, margins, visited) == 2
        assert visited.tolist() == [0, 2, 2, 4, 4]


def energies_at(kernels: Any, task: Task, z: Array) -> Array:
    state = new_state(task, z)
    for p in range(len(z)):
        kernels.rebuild(task, state, p, new_scratch(task))
    energies: Array = state.energy[:-1] + task.constant[0]
    return energies


@pytest.mark.parametrize("single", [True, False])
def test_energies_are_minus_the_log_likelihood_of_scipy(single: bool) -> None:
    data, candidates = box(2)
    kernels, tasks = compiled(data, candidates, Gaussian(0.1), single)
    z = np.random.default_rng(0).standard_normal((5, 7))
    model = candidates.models[0]
    for row, energy in zip(z, energies_at(kernels, tasks[0], z), strict=True):
        theta = {n: p.ppf(stats.norm.cdf(q)) for (n, p), q in zip(model.priors.items(), row, strict=True) if p}
        curve = np.full(data.n, theta["constant"])
        for k in (1, 2):
            curve += gaussian(data.x, *(theta[f"peak{k}.{name}"] for name in ("amplitude", "center", "sigma")))
        expected = -np.sum(stats.norm.logpdf(data.y, curve, 0.1))
        assert energy == pytest.approx(expected, rel=1e-4)


def test_counts_have_the_poisson_log_likelihood_of_scipy() -> None:
    y = np.array([0.0, 3.0, 11.0, 2.0, 0.0])
    exposure = np.array([1.0, 2.0, 0.5, 1.0, 1.0])
    data = Dataset(np.arange(5.0), y, counts=True, exposure=exposure)
    candidates = family(gaussian, [0], priors={"constant": stats.gamma(2, scale=2)})
    kernels, (task,) = compiled(data, candidates, noise_for(data, None), False)
    z = np.array([[-1.0], [0.0], [1.2]])
    rates = stats.gamma(2, scale=2).ppf(stats.norm.cdf(z[:, 0]))
    expected = [-np.sum(stats.poisson.logpmf(y, rate * exposure)) for rate in rates]
    np.testing.assert_allclose(energies_at(kernels, task, z), expected, rtol=1e-5)


def test_parameters_tied_within_a_model_and_shared_by_data_sets_are_one_mechanism() -> None:
    """Slope shared by two data sets or not: Katakami et al., arXiv 2406.02869, closed form."""
    line = Component("line", *_line_parts())
    rng, xi, sigmas = np.random.default_rng(5), 10.0, (1.0, 0.5)
    x = np.linspace(-1, 1, 40)
    data = [Dataset(x, slope * x + s * rng.standard_normal(40)) for slope, s in zip((2.0, 2.4), sigmas, strict=True)]
    noises: list[Noise] = [Gaussian(s) for s in sigmas]
    prior = stats.uniform(-xi, 2 * xi)
    shared = Model("shared", tuple(Term(f"l{b}", line, (Slot("a"),), b) for b in (0, 1)), {"a": prior})
    own = Model("own", tuple(Term(f"l{b}", line, (Slot(f"a{b}"),), b) for b in (0, 1)), {"a0": prior, "a1": prior})
    log_z, error = zip(*(_log_evidence(data, noises, model) for model in (shared, own)), strict=True)
    mean_square = np.mean(x**2)
    hat = [np.mean(x * d.y) / mean_square for d in data]
    variance = sum(s**2 / (40 * mean_square) for s in sigmas)
    expected = (hat[0] - hat[1]) ** 2 / (2 * variance) - 0.5 * np.log(4 * xi**2 / (2 * np.pi * variance))
    assert np.hypot(*error) < 0.15
    assert abs((log_z[1] - log_z[0]) - expected) < 4 * np.hypot(*error)


def _line_parts() -> Any:
    @component(amplitude="a")
    def line(x: float) -> float:
        return x

    return line.parameters, line.shape


def _log_evidence(data: list[Dataset], noises: list[Noise], model: Model) -> tuple[float, float]:
    blocks = blocks_of(data, noises, [model])
    kernels = build.kernels(True)
    job = Job(kernels, make_task(blocks, model, True), Settings(chains=4), 0, model)
    job.prepare()
    job.take([job.step(chain, 1600) for chain in range(4)])
    return job.evidence.log_z - float(job.task.constant[0]), job.evidence.error


def test_a_fixed_ratio_and_a_fixed_distance_tie_two_peaks() -> None:
    first = Term("first", gaussian, (Slot("a"), Slot("c"), Slot("s")))
    second = Term("second", gaussian, (Slot("a", scale=0.5), Slot("c", offset=1.5), Slot("s")))
    priors = {"a": stats.uniform(0, 5), "c": stats.uniform(-2, 2), "s": stats.uniform(0.1, 1)}
    x = np.linspace(-3, 3, 101)
    data = Dataset(x, np.zeros(101))
    kernels, (task,) = compiled(data, Candidates((Model("doublet", (first, second), priors),)), Gaussian(1.0), False)
    z = np.array([[0.3, -0.2, 0.1]])
    a, c, s = (p.ppf(stats.norm.cdf(q)) for p, q in zip(priors.values(), z[0], strict=True))
    expected = a * (np.exp(-0.5 * ((x - c) / s) ** 2) + 0.5 * np.exp(-0.5 * ((x - c - 1.5) / s) ** 2))
    total = np.zeros((1, task.x.size))
    kernels.evaluate(task, new_state(task, z), new_scratch(task), total)
    np.testing.assert_allclose(total[0, :101], expected, atol=1e-4)


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("noise", [Gaussian(2.0), Gaussian(), Poisson(), StudentT(2.0)], ids=str)
def test_points_beyond_the_ends_of_a_peak_need_not_be_worked_out(noise: Noise, single: bool) -> None:
    """Narrow peaks on a long axis, by `gaussian` and by the same component that does not say where it ends."""
    x = np.linspace(1000.0, 1100.0, 800)
    y = np.random.default_rng(0).poisson(5 + 20 * np.exp(-0.5 * ((x - 1030.0) / 0.8) ** 2)).astype(float)
    priors, found = {"sigma": stats.uniform(0.2, 2.0)}, []
    for end in ("", "sigma"):
        candidates = family(replace(gaussian, end=end), [2], priors=priors)
        kernels, (task,) = compiled(Dataset(x, y, counts=True), candidates, noise, single)
        assert np.any(task.end_kind) == bool(end)
        z = np.random.default_rng(1).standard_normal((4, len(task.tables)))
        steps = np.full((4, int(task.step_group.max()) + 1), 0.3)
        strides = np.tile(0.2 * np.eye(task.free.size), (4, 1, 1))
        way = Way(kernels, task, first_start(task), np.array([0.0, 0.01, 0.1, 1.0]), steps, strides, ())
        found.append(Exchange().step(way, State(z, steps, way.strides, 1), chain_key(1, "ends", 0), 20)[1])
    np.testing.assert_allclose(found[0].energies, found[1].energies, rtol=2e-4 if single else 1e-9)
    np.testing.assert_allclose(found[0].samples, found[1].samples, atol=2e-3 if single else 1e-6)
    assert 0.0 < Exchange().step(way, State(z, steps, way.strides, 1), chain_key(1, "ends", 1), 300)[1].drift < 1e-2


def test_a_round_trip_may_take_several_rounds() -> None:
    """Hot, cold and back, of replicas that an earlier round left at neither end, at the hot or at the cold one."""
    kernels, task, _, (betas, steps, strides) = some_of(gaussian, Gaussian(0.1), 2)
    way = Way(kernels, task, first_start(task), betas, steps, strides, ())
    state = State(np.random.default_rng(2).standard_normal((4, len(task.tables))), steps, strides, 1)
    for ends, trips, cold in ((None, 0, -1), (np.zeros(4), 0, 1), (np.ones(4), 1, 1)):
        after, info = Exchange().step(way, state._replace(ends=ends), chain_key(1, "trips", 0), 1)
        assert after.ends is not None
        assert (info.round_trips, *after.ends[[0, -1]]) == (trips, 0, cold)


def test_counts_far_from_all_peaks_keep_a_rate_where_nothing_else_gives_one() -> None:
    """Without a background a stray count is told by the tail of the peak, however far."""
    x = np.linspace(0.0, 100.0, 401)
    y = np.random.default_rng(0).poisson(1000.0 * np.exp(-0.5 * ((x - 50.0) / 2.0) ** 2)).astype(float)
    y[np.searchsorted(x, 64.0)] = 1.0
    data, noise = Dataset(x, y, counts=True), Poisson()
    for background, ends in ((None, False), ("constant", True)):
        candidates = peaks(counts=[1], background=background)
        kernels, (task,) = compiled(data, candidates, noise, False)
        assert np.any(task.end_kind) == ends
    (model,) = peaks(counts=[1], background=None).resolved(data, noise).models
    kernels, (task,) = compiled(data, Candidates((model,)), noise, False)
    z = np.zeros((1, 3))
    curve = gaussian(x, *(float(prior.ppf(0.5)) for prior in model.priors.values() if prior is not None))
    expected = -np.sum(stats.poisson.logpmf(y, curve))
    np.testing.assert_allclose(energies_at(kernels, task, z), expected, rtol=1e-5)


@pytest.mark.parametrize("origin", [0.0, 1e3])
def test_components_jump_to_places_on_the_axis_of_the_data(origin: float) -> None:
    x = origin + np.linspace(0.0, 4.0, 500)
    _, (task,) = compiled(Dataset(x, np.zeros(500)), family(gaussian, [2]), Gaussian(1.0), True)
    edges, starts = task.bin_edge[0], task.bin_start[0]
    assert edges[0] < task.x[0]
    assert task.x[499] < edges[-1]
    assert np.all(task.x[starts[1:-1] - 1] < edges[1:-1])
    assert np.all(edges[1:-1] < task.x[starts[1:-1]])


def test_float32_is_left_where_it_would_lose_the_noise() -> None:
    x = np.linspace(0, 1, 101)
    for offset, sigma, enough in ((0.0, 0.1, True), (1e6, 0.1, False), (1e3, 1e-4, False)):
        (block,) = blocks_of([Dataset(x, x + offset)], [Gaussian(sigma)], [])
        assert single_precision_is_enough(block) is enough


def test_a_component_may_use_constants_helpers_branches_and_loops() -> None:
    ratio = 0.5

    def helper(u: float) -> float:
        return 1.0 / (1.0 + u * u)

    @component
    def shape(x: float, center: float, power: float) -> float:
        total = 0.0
        for i in range(3):
            total += ratio**i * helper((x - center) * (1 + i))
        return total if x > center else total * power

    same_curve_compiled(shape, ["power"])


def test_variables_of_a_component_may_be_called_like_constants_outside_or_like_what_the_kernels_use() -> None:
    gamma, terms, large = 0.5, 3, 6.02214076e23

    def spread(u: float) -> float:
        return u

    def tail(u: float, /) -> float:
        z = 1.0 / (1.0 + 1j * u)
        return math.exp(-gamma * u) + (z.real - z.imag) * large / 6.02214076e23

    @component
    def shape(x: float, center: float, gamma: float, F: float) -> float:  # noqa: N803
        exp = 0.0
        for i in range(1, terms + 1):
            exp += tail(abs(x - center) * i) / (terms * gamma)
        return spread(u=exp) + 0.1 * F

    same_curve_compiled(shape, ["gamma", "F"])


def same_curve_compiled(shape: Component, named: list[str]) -> None:
    """Compiled, a component of one location and other parameters between 0 and 1 is what it is in Python."""
    priors = {"amplitude": stats.norm(0, 1), **dict.fromkeys(named, stats.uniform(0, 1))}
    data = Dataset(np.linspace(-2, 2, 41), np.zeros(41))
    candidates = family(shape, [1], background=None, priors=priors)
    kernels, (task,) = compiled(data, candidates, Gaussian(1.0), False)
    z = np.array([[0.7, 0.2, -0.4, 0.9][: 2 + len(named)]])
    theta = [
        p.ppf(stats.norm.cdf(q))
        for p, q in zip(candidates.resolved(data, Gaussian(1.0)).models[0].priors.values(), z[0], strict=True)
        if p
    ]
    total = np.zeros((1, task.x.size))
    kernels.evaluate(task, new_state(task, z), new_scratch(task), total)
    np.testing.assert_allclose(total[0, :41], shape(data.x, *theta), rtol=1e-3, atol=1e-4)


def test_an_impossible_start_is_left_behind() -> None:
    @component
    def root(x: float, p: float) -> float:
        return math.sqrt(p - 1.0) * x if p > 1.0 else math.nan

    candidates = family(root, [1], background=None, priors={"p": stats.uniform(0, 3), "amplitude": stats.norm(0, 1)})
    kernels, (task,) = compiled(Dataset(np.arange(3.0), np.arange(3.0)), candidates, Gaussian(0.5), True)
    job = Job(kernels, task, Settings(chains=2), 0, candidates.models[0])
    job.prepare()
    _, info = job.step(0, 400)
    p = stats.uniform(0, 3).ppf(stats.norm.cdf(info.samples[:, 1]))
    assert np.all(p > 1.0)


def test_the_largest_kernel_is_found_again_by_a_new_process() -> None:
    program = (
        "from bluesky_bayes.families import peaks\n"
        "from bluesky_bayes.inference import warm_up\n"
        "from bluesky_bayes.kernels import build\n"
        "warm_up(peaks(counts=[1], background=None))\n"
        "stats = build.kernels(True).run_ladder.stats\n"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    warm_up(peaks(counts=[1], background=None))
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["1", "0"]


def test_kernels_are_compiled_once_and_found_again_by_a_new_process(tmp_path: Path) -> None:
    program = (
        "import numpy as np\n"
        "from bluesky_bayes import Dataset, Gaussian\n"
        "from bluesky_bayes.cooling import energies_of\n"
        "from bluesky_bayes.families import peaks\n"
        "from bluesky_bayes.kernels import build\n"
        "from bluesky_bayes.reference import first_start\n"
        "from bluesky_bayes.tasks import blocks_of, make_task\n"
        "data = Dataset(np.arange(16.0), np.arange(16.0))\n"
        "(model,) = peaks(counts=[1], background=None).resolved(data, Gaussian(1.0)).models\n"
        "task = make_task(blocks_of([data], [Gaussian(1.0)], [model]), model, True)\n"
        "energies_of(build.kernels(True), task, first_start(task), np.zeros((1, 3)))\n"
        "stats = build.kernels(True).weigh.stats\n"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert [run.split() for run in runs] == [["0", "1"], ["1", "0"]]


def test_a_new_component_compiles_its_own_loops_and_nothing_else() -> None:
    @component
    def bump(x: float, center: float, width: float) -> float:
        u = (x - center) / width
        return 1.0 / (1.0 + u * u * u * u)

    def compiled_so_far() -> int:
        return sum(len(f.signatures) for f in vars(engine_module).values() if hasattr(f, "signatures"))

    x = np.linspace(-1, 1, 41)
    data, quick = Dataset(x, np.exp(-x * x)), Settings(sweeps=100, chains=2, longest=100)
    engine_module = build.kernels(True)
    select(data, family(gaussian, [0, 1]), Gaussian(0.1), settings=quick)
    before = compiled_so_far()
    select(data, family(bump, [0, 1]), Gaussian(0.1), settings=quick)
    assert compiled_so_far() == before


def test_wide_vectors_are_asked_for_only_where_the_processor_has_them() -> None:
    program = (
        "import llvmlite.binding as llvm\n"
        "from numba.core import config\n"
        "from bluesky_bayes.kernels import build\n"
        "width = build.use_widest_vectors()\n"
        "wide = llvm.get_host_cpu_features().get('avx512f', False)\n"
        "assert (width == 512) == bool(wide), width\n"
        "assert ('-prefer-256-bit' in str(config.CPU_FEATURES)) == bool(wide)\n"
        "class Features(dict):\n"
        "    def flatten(self): return '+avx512f'\n"
        "llvm.get_host_cpu_features = lambda: Features(avx512f=True)\n"
        "assert build.use_widest_vectors() == 512\n"
        "assert config.CPU_FEATURES == '+avx512f,-prefer-256-bit'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_arrays_begin_on_cache_lines_and_blocks_fill_them() -> None:
    data, candidates = nagata_2012(), nagata_candidates(range(3, 4))
    _, (task,) = compiled(data, candidates, Gaussian(0.1), True)
    state = new_state(task, np.zeros((4, 9)))
    for values in (task.x, task.weight, state.curves, state.residual):
        assert values.ctypes.data % 64 == 0
    assert task.x.size % 16 == 0
    assert np.all(task.weight[301:] == 0)
