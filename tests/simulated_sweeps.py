"""Sweeps by numba's CUDA simulator and by the processor: what each accepted and how far apart they are, as JSON.

``python tests/simulated_sweeps.py warp all`` has warps, every noise in every way to sample that it has, models whose
amplitudes are carried along, and models of two data sets; ``block`` in place of ``warp`` has blocks of 64 threads.
Without ``all`` there are some of these, of warps each noise, each way to sample, and each kind of model once at least.
"""

import copy
import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import simulator
from kinds import Kind, decays, decays_together, one_peak, peaks_together, sloping, two_peaks

from bluesky_bayes import Gaussian, Poisson, StudentT
from bluesky_bayes.cooling import Cooling, cooled
from bluesky_bayes.exchange import Exchange
from bluesky_bayes.kernels import build, launch
from bluesky_bayes.kernels.launch import Call, Card, CardKernels, NoRoomError
from bluesky_bayes.kernels.task import Task
from bluesky_bayes.reference import Start, first_start, fitted_start
from bluesky_bayes.sampler import Info, Path, State, chain_key
from bluesky_bayes.tasks import Group

assert simulator
BETAS = np.array([0.0, 0.3, 1.0])
KEY = chain_key(1, "test", 0)
PRIOR, FITTED, PARTICLES, FOUND = "ladder from the prior", "ladder from a mixture", "particles", "their way found"
EVERY: dict[tuple[Kind, Any], tuple[str, ...]] = {
    (two_peaks, Gaussian(3.0)): (PRIOR, FITTED, PARTICLES),
    (two_peaks, Gaussian()): (FITTED, PARTICLES),
    (one_peak, Poisson()): (PRIOR, FITTED, PARTICLES),
    (two_peaks, StudentT(3.0)): (PRIOR, FITTED, PARTICLES),
    (two_peaks, StudentT()): (FITTED, PARTICLES),
    (sloping, Gaussian(3.0)): (PRIOR,),
    (sloping, Poisson()): (FOUND,),
    (decays, Gaussian()): (FITTED, FOUND),
    (peaks_together, (Poisson(), StudentT())): (FITTED,),
    (decays_together, (Gaussian(0.3), Gaussian())): (PARTICLES,),
}
"""Of unknown size, a ladder begins at a mixture always."""
NOISES: dict[str, dict[tuple[Kind, Any], tuple[str, ...]]] = {
    "warp": {
        (two_peaks, Gaussian(3.0)): (PRIOR, PARTICLES),
        (two_peaks, Gaussian()): (FITTED,),
        (one_peak, Poisson()): (FITTED,),
        (two_peaks, StudentT(3.0)): (PARTICLES,),
        (two_peaks, StudentT()): (FITTED,),
        (sloping, Poisson()): (FOUND,),
        (decays, Gaussian()): (FITTED, FOUND),
        (peaks_together, (Poisson(), StudentT())): (FITTED,),
        (decays_together, (Gaussian(0.3), Gaussian())): (PARTICLES,),
    },
    "block": {
        (two_peaks, Gaussian()): (FITTED,),
        (one_peak, Poisson()): (PARTICLES,),
        (two_peaks, StudentT(3.0)): (PRIOR,),
        (two_peaks, StudentT()): (PARTICLES,),
        (sloping, Poisson()): (FOUND,),
        (peaks_together, (Poisson(), StudentT())): (FITTED,),
    },
}


def known_way(task: Task) -> tuple[Any, Any, Any]:
    """Temperatures, and steps there: of the first group draws of the prior."""
    steps = np.full((3, int(task.step_group.max()) + 1), 0.3)
    steps[:, 0] = 1.0
    return BETAS, steps, np.tile(0.2 * np.eye(task.free.size), (3, 1, 1))


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


def compared(cases: dict[tuple[Kind, Any], tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """One entry for each problem, noise and way to sample."""
    host, card = kernels()
    for (pose, noise), ways in cases.items():
        task, groups = pose(noise)
        known = known_way(task)
        draws = np.random.default_rng(3).standard_normal((100, len(task.tables)))
        for way in ways:
            name = f"{pose.__name__}, {noise}, {way}"
            if way in (PARTICLES, FOUND):
                c, d = (particles(module, task, groups, known if way == PARTICLES else None) for module in (host, card))
                np.testing.assert_array_equal(c.eves, d.eves)
                np.testing.assert_allclose(c.betas, d.betas, rtol=1e-4)
                np.testing.assert_allclose(c.strides, d.strides, rtol=1e-4, atol=1e-6)
                yield entry(name, (c.clouds[1:], d.clouds[1:]), (c.energies, d.energies))
            else:
                start = first_start(task) if way == PRIOR else fitted_start(draws, groups, np.random.default_rng(4))
                a, b = (swept(module, task, groups, start, known) for module in (host, card))
                yield entry(name, (a.samples, b.samples), (a.energies, b.energies))
    assert not any(one.broken for one in card.cards)


class Recording(Card):
    """A card that keeps the last call and has no room for any."""

    def answer(self, call: Call) -> dict[str, Any]:
        self.call = copy.deepcopy(call)
        raise NoRoomError


def side_by_side() -> Iterator[dict[str, Any]]:
    """Particles of two data sets in one launch, of which one has come to the end before the other."""
    host, lengths, calls, found = kernels()[0], [], [], []
    for seed in (0, 8):
        task, groups = two_peaks(Poisson(), seed)
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
    cases = EVERY if "all" in sys.argv else NOISES[sys.argv[1]]
    print(json.dumps([*compared(cases), *(side_by_side() if sys.argv[1] == "warp" else ())]))
