"""From data and candidates to an answer: `select` and `select_many`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bluesky_bayes.candidates import Candidates
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.noise import Noise
from bluesky_bayes.sampler import Settings
from bluesky_bayes.selection import Selection


def select(data: Dataset, candidates: Candidates, noise: Noise | None = None, *, seed: int = 0, settings: Settings | None = None,
           sampler: str = "auto", device: str = "auto", threads: int | None = None) -> Selection:
    raise NotImplementedError


def select_many(data: Sequence[Dataset], candidates: Candidates, noise: Noise | None = None, **options: Any) -> list[Selection]:
    raise NotImplementedError


def warm_up(candidates: Candidates) -> None:
    """Compile (or load from the cache) the kernels these candidates need, in both precisions' default one."""
    raise NotImplementedError
