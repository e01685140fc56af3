"""Kinds of tasks that kernels for GPUs differ in: what is compiled, simulated and, on hardware, compared."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from problems import decay, level
from scipy import stats

from bluesky_bayes import Dataset, Model
from bluesky_bayes.candidates import family
from bluesky_bayes.kernels.task import Task
from bluesky_bayes.model import Slot, Term
from bluesky_bayes.noise import SIGMA, Noise
from bluesky_bayes.priors import Prior
from bluesky_bayes.shapes import gaussian
from bluesky_bayes.tasks import Group, blocks_of, groups_of, make_task

Problem = tuple[Task, tuple[Group, ...]]
Kind = Callable[[Any], Problem]
RATE = stats.uniform(0, 6)


def posed(data: Sequence[Dataset], noises: Sequence[Noise], model: Model) -> Problem:
    """A task, float32, and its exchangeable components."""
    return make_task(blocks_of(data, noises, [model]), model, True), groups_of(model)


def counted(n: int, height: float, seed: int) -> Dataset:
    """Counts of one peak on a constant."""
    x = np.linspace(-1, 1, n)
    y = np.random.default_rng(seed).poisson(5 + height * np.exp(-0.5 * (x / 0.2) ** 2)).astype(float)
    return Dataset(x, y, counts=True)


def decaying(n: int, seed: int) -> Dataset:
    """Two exponentials on a constant."""
    x = np.linspace(0, 3, n)
    return Dataset(x, 2 + 5 * np.exp(-4 * x) + 4 * np.exp(-0.5 * x) + np.random.default_rng(seed).normal(0, 0.3, n))


def one_peak(noise: Noise) -> Problem:
    """One peak on a constant; there are points enough to tell where it ends."""
    return _on_a_constant(1, noise, 0)


def two_peaks(noise: Noise, seed: int = 0) -> Problem:
    """Two of them: their amplitudes are carried along now and then."""
    return _on_a_constant(2, noise, seed)


def _on_a_constant(count: int, noise: Noise, seed: int) -> Problem:
    data = counted(80, 20, seed)
    return posed([data], [noise], family(gaussian, [count]).resolved(data, noise).models[0])


def sloping(noise: Noise) -> Problem:
    """Two peaks on a slope: they jump, and their amplitudes are carried along now and then."""
    data = counted(61, 20, 0)
    return posed([data], [noise], family(gaussian, [2], background="linear").resolved(data, noise).models[0])


def decays(noise: Noise) -> Problem:
    """Two exchangeable exponentials on a constant: their amplitudes are carried along."""
    data = decaying(61, 0)
    return posed([data], [noise], family(decay, [2], priors={"rate": RATE}).resolved(data, noise).models[0])


def peaks_together(noises: Sequence[Noise]) -> Problem:
    """Two data sets of unlike length, two peaks on a constant in each; all have one width."""
    names = [(f"amplitude{i}", f"center{i}", "width") for i in range(4)]
    terms = [Term(f"peak{i}", gaussian, tuple(map(Slot, own)), i // 2) for i, own in enumerate(names)]
    terms += [Term(f"level{b}", level, (Slot(f"level{b}"),), b) for b in range(2)]
    priors: dict[str, Prior | None] = {"width": stats.uniform(0.05, 0.5)}
    for amplitude, center, _ in names:
        priors |= {amplitude: stats.uniform(0, 30), center: stats.uniform(-1, 2)}
    priors |= {f"level{b}": stats.uniform(0, 10) for b in range(2)} | sizes(noises)
    model = Model("peaks", tuple(terms), priors, exchangeable=((0, 1), (2, 3)))
    return posed([counted(80, 20, 0), counted(50, 10, 1)], noises, model)


def decays_together(noises: Sequence[Noise]) -> Problem:
    """Two data sets of unlike length, exponentials of one rate on constants: their amplitudes are carried along."""
    terms = [Term(f"decay{b}", decay, (Slot(f"amplitude{b}"), Slot("rate")), b) for b in range(2)]
    terms += [Term(f"level{b}", level, (Slot(f"level{b}"),), b) for b in range(2)]
    priors: dict[str, Prior | None] = {"rate": RATE}
    priors |= {f"amplitude{b}": stats.uniform(0, 20) for b in range(2)}
    priors |= {f"level{b}": stats.uniform(0, 10) for b in range(2)} | sizes(noises)
    return posed([decaying(61, 0), decaying(50, 1)], noises, Model("decays", tuple(terms), priors))


def sizes(noises: Sequence[Noise]) -> dict[str, Prior | None]:
    """Prior of the noise's size where it is not given."""
    return {SIGMA: stats.uniform(0.1, 5)} if any(getattr(noise, "sigma", 1.0) is None for noise in noises) else {}
