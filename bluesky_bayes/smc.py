"""Sequential Monte Carlo as a sampler of its own: every chain is an independent cloud of particles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bluesky_bayes.cooling import SWEEPS, Cooling, cooled
from bluesky_bayes.dataset import Array
from bluesky_bayes.evidence import Evidence, log_mean_exp, mean_evidence, softmax
from bluesky_bayes.sampler import Info, Path, Sampler, State, generator, thinned
from bluesky_bayes.tasks import in_order

STREAMS = 1000


class SequentialMonteCarlo(Sampler):
    """Clouds at temperatures that a first cloud found, so that the evidence by each, of one round, is unbiased."""

    name, words = "smc", "sequential Monte Carlo"

    def init(self, path: Path, cooling: Cooling, rng: np.random.Generator) -> State:
        """Nothing but a beginning: particles are drawn in each round."""
        return State(np.empty((0, len(path.task.tables))), path.steps, path.strides, 0)

    def step(self, path: Path, state: State, key: npt.NDArray[np.uint64], length: int) -> tuple[State, Info]:
        """A new cloud of about `length` particles."""
        rng = generator(key, 1 + state.number)
        size = (max(-(-length // SWEEPS), 2), SWEEPS)
        number = STREAMS * (1 + state.number)
        found = cooled(
            path.kernels, path.task, path.start, size, key, number, rng, path.groups,
            (path.betas.copy(), path.steps.copy(), path.strides),
        )  # fmt: skip
        info = Info(
            found.energies.T.copy(), found.misfit[-1], found.clouds[-1], np.zeros(path.betas.size - 1),
            found.acceptance[None], 0, 0.0, found.n_drawn,
        )  # fmt: skip
        return state._replace(number=state.number + 1), info

    def mixed(self, path: Path, infos: Sequence[Info], z: Array, rng: np.random.Generator) -> Array:
        """The more of a cloud, the more evidence it found."""
        shares = softmax(log_z_of(path.betas, infos))
        chosen = rng.choice(len(z), size=z.shape[:2], p=shares)
        taken: Array = z[chosen, np.arange(z.shape[1])]
        return taken

    def effective_size(self, path: Path, infos: Sequence[Info], z: Array) -> float:
        """By how far the means of clouds are apart: particles of one cloud have ancestors in common."""
        clouds = in_order(np.stack([thinned(info.samples, z.shape[1]) for info in infos]), path.groups)
        within = super().effective_size(path, infos, clouds)
        if len(clouds) < 2:
            return within
        shares, means = softmax(log_z_of(path.betas, infos)), clouds.mean(axis=1)
        mean = shares @ means
        scatter = len(clouds) / (len(clouds) - 1.0) * shares**2 @ (means - mean) ** 2
        return min(within, float(np.min(shares @ np.mean((clouds - mean) ** 2, axis=1) / scatter)))

    def evidence(self, path: Path, infos: Sequence[Info]) -> Evidence:
        """Mean of the clouds' evidence, its error from their scatter."""
        return mean_evidence(log_z_of(path.betas, infos))


def log_z_of(betas: Array, infos: Sequence[Info]) -> Array:
    """Log evidence over the reference's by each cloud."""
    return np.array([log_mean_exp(-np.diff(betas) * info.energies[:, :-1]).sum() for info in infos])
