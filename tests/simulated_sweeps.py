"""Sweeps by numba's CUDA simulator and by the processor: what each accepted and how far apart they are, as JSON.

``python tests/simulated_sweeps.py warp`` has warps, and every noise in every way to sample that it has; ``python
tests/simulated_sweeps.py block`` has blocks of 64 threads and some of these, and with ``all`` behind it all.
"""

import copy
import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import simulator

from bluesky_bayes import Dataset, Gaussian, Poisson, StudentT
from bluesky_bayes.candidates import family
from bluesky_bayes.cooling import Cooling, cooled
from bluesky_bayes.exchange import Exchange
from bluesky_bayes.kernels import build, launch
from bluesky_bayes.kernels.launch import Call, Card, CardKernels, NoRoomError
from bluesky_bayes.kernels.task import Task
from bluesky_bayes.reference import Start, first_start, fitted_start
from bluesky_bayes.sampler import Info, Path, State, chain_key
from bluesky_bayes.shapes import gaussian
from bluesky_bayes.tasks import Group, blocks_of, make_task

assert simulator
BETAS = np.array([0.0, 0.3, 1.0])
KEY = chain_key(1, "test", 0)
PRIOR, FITTED, PARTICLES = "ladder from the prior", "ladder from a mixture", "particles"
EVERY: dict[Any, tuple[str, ...]] = {
    Gaussian(3.0): (PRIOR, FITTED, PARTICLES),
    Gaussian(): (FITTED, PARTICLES),
    Poisson(): (PRIOR, FITTED, PARTICLES),
    StudentT(3.0): (PRIOR, FITTED, PARTICLES),
    StudentT(): (FITTED, PARTICLES),
}
"""Of unknown size, a ladder begins at a mixture always."""
NOISES: dict[str, dict[Any, tuple[str, ...]]] = {
    "warp": EVERY,
    "block": {Gaussian(): (FITTED,), Poisson(): (PARTICLES,), StudentT(3.0): (PRIOR,), StudentT(): (PARTICLES,)},
}


def problem(noise: Any, seed: int = 0) -> tuple[Task, tuple[Group, ...], Any]:
    """Two peaks on a constant, float32."""
    x = np.linspace(-1, 1, 61)
    y = np.random.default_rng(seed).poisson(5 + 20 * np.exp(-0.5 * (x / 0.2) ** 2)).astype(float)
    data = Dataset(x, y, counts=True)
    (model,) = family(gaussian, [2]).resolved(data, noise).models
    task = make_task(blocks_of([data], [noise], [model]), model, True)
    known = BETAS, np.full((3, int(task.step_group.max()) + 1), 0.3), np.zeros((3, 0, 0))
    return task, (Group(np.array([range(3), range(3, 6)]), 1),), known


def kernels() -> tuple[Any, Any]:
    """Those of the processor and those of the simulator."""
    host = build.kernels(True)
    return host, CardKernels(host, [Card(simulated=True)])


def swept(module: Any, task: Task, groups: tuple[Group, ...], start: Start, known: Any) -> Info:
    """Sweeps of a ladder."""
    _, steps, strides = known
    z = np.random.default_rng(2).standard_normal((3, len(task.tables)))
    path = Path(module, task, start, BETAS, steps, strides, groups)
    return Exchange().step(path, State(z, steps, strides, 0), KEY, 2)[1]


def particles(module: Any, task: Task, groups: tuple[Group, ...], known: Any) -> Cooling:
    """Two moves each of three particles at each temperature, chosen anew by their weights."""
    rng = np.random.default_rng(3)
    return cooled(module, task, first_start(task), (3, 2), KEY, 0, rng, groups, known)


def compared(noises: dict[Any, tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """One entry for each noise and way to sample."""
    host, card = kernels()
    for noise, ways in noises.items():
        task, groups, known = problem(noise)
        draws = np.random.default_rng(3).standard_normal((100, len(task.tables)))
        for way in ways:
            if way == PARTICLES:
                c, d = (particles(module, task, groups, known) for module in (host, card))
                np.testing.assert_array_equal(c.eves, d.eves)
                yield entry(f"{noise}, {way}", (c.clouds[1:], d.clouds[1:]), (c.energies, d.energies))
            else:
                start = first_start(task) if way == PRIOR else fitted_start(draws, groups, np.random.default_rng(4))
                a, b = (swept(module, task, groups, start, known) for module in (host, card))
                yield entry(f"{noise}, {way}", (a.samples, b.samples), (a.energies, b.energies))
    assert not any(one.broken for one in card.cards)


class Recording(Card):
    """A card that keeps the last call and has no room for any."""

    def answer(self, call: Call) -> dict[str, Any]:
        self.call = copy.deepcopy(call)
        raise NoRoomError


def side_by_side() -> Iterator[dict[str, Any]]:
    """Particles of two data sets in one launch, of which one has come to the end before the other."""
    host, lengths, calls, found = kernels()[0], [], [], []
    for seed in (0, 3):
        task, groups, _ = problem(Poisson(), seed)
        card = Recording()
        found.append(particles(CardKernels(host, [card]), task, groups, None))
        calls.append(card.call)
        lengths.append(found[-1].betas.size)
    assert lengths[0] != lengths[1]
    for c, d in zip(found, Card(simulated=True).launched(calls), strict=True):
        assert np.allclose(c.betas, d["betas"], rtol=1e-4)
        yield entry("two data sets side by side", (c.clouds[1:], d["clouds"]), (c.energies[1:], d["energies"]))


def entry(name: str, z: tuple[Any, Any], energies: tuple[Any, Any]) -> dict[str, Any]:
    """Coordinates that differ from those of the row before are moves that were accepted."""
    moved = [int(np.count_nonzero(np.abs(np.diff(rows.reshape(-1, rows.shape[-1]), axis=0)) > 1e-4)) for rows in z]
    return {
        "name": name, "accepted": moved, "z": float(np.abs(z[0] - z[1]).max()),
        "energy": float((np.abs(energies[0] - energies[1]) / (1.0 + np.abs(energies[0]))).max()),
    }  # fmt: skip


if __name__ == "__main__":
    # What is impossible is too large for float32; greenlets do not see np.errstate.
    warnings.simplefilter("ignore", RuntimeWarning)
    if sys.argv[1] == "block":
        vars(launch).update(MOST_BY_WARP=0, BLOCK=64)
    noises = EVERY if "all" in sys.argv else NOISES[sys.argv[1]]
    print(json.dumps([*compared(noises), *(side_by_side() if sys.argv[1] == "warp" else ())]))
