"""Independent draws of a reference that is nearly the posterior, accepted or refused whole: no moves, no temperatures.

Independence Metropolis-Hastings: Tierney, Annals of Statistics 22, 1701 (1994).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bluesky_bayes.cooling import Cooling, energies_of
from bluesky_bayes.evidence import Evidence, evidence, mean_evidence
from bluesky_bayes.sampler import Info, Path, Sampler, State, generator

PROPOSALS = 4
"""Draws of the reference in a sweep."""


class Independence(Sampler):
    """Chains whose every proposal is a draw of the reference, and evidence by the weights of all of these."""

    name, words, proposals = "independence", "independent draws", PROPOSALS

    def init(self, path: Path, cooling: Cooling, rng: np.random.Generator) -> State:
        """A draw of the posterior."""
        cloud = cooling.clouds[-1]
        return State(cloud[rng.integers(len(cloud))][None], path.steps, path.strides, 0)

    def step(self, path: Path, state: State, key: npt.NDArray[np.uint64], length: int) -> tuple[State, Info]:
        """A few draws of the reference make a sweep; where the chain is after them is a draw of the posterior."""
        rng = generator(key, 1 + state.number)
        n = PROPOSALS * length
        fresh, n_drawn = path.start.draws(n, rng)
        z = np.concatenate([state.coordinates, fresh])
        energies, misfit = energies_of(path.kernels, path.task, path.start, z)
        visited = np.empty(n, dtype=np.int64)
        accepted = path.kernels.visit(energies, rng.standard_exponential(n), visited) / n
        at = visited[PROPOSALS - 1 :: PROPOSALS]
        weighed = np.column_stack([energies[1:].reshape(length, PROPOSALS), energies[at]])
        info = Info(
            weighed, misfit[at], z[at], np.array([1.0 - accepted]), np.full(path.steps.shape, accepted), 0, 0.0,
            n_drawn / PROPOSALS,
        )  # fmt: skip
        return State(z[at[-1:]], state.steps, state.strides, state.number + 1), info

    def evidence(self, path: Path, infos: Sequence[Info]) -> Evidence:
        """Mean weight of the draws of the reference, its error from their variance."""
        energies = np.concatenate([info.energies[:, :PROPOSALS].ravel() for info in infos])
        return mean_evidence(-energies)

    def bridge(self, path: Path, infos: Sequence[Info]) -> Evidence:
        """Bennett's ratio between draws of the reference and of the posterior."""
        return evidence(path.betas, [info.energies[:, PROPOSALS - 1 :] for info in infos])
