"""Simulation-based calibration in small; `benchmarks/calibration.py` has more families, noises and data sets.

Seeds are fixed. With others, or after a change of the sampler, each test would fail by chance once in a thousand times.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sbc import NOISES, Outcome, outcome, rank, score, uniformity

N_SETS = 60
FALSE_ALARM = 1e-3


def smallest_p(outcomes: Sequence[Outcome]) -> float:
    """Of the uniformity of each parameter's ranks, whichever model made the data, with Bonferroni's factor."""
    names = {name for result in outcomes for name in result.ranks}
    p = [uniformity([result.ranks[name] for result in outcomes if name in result.ranks]).p for name in names]
    return min(p) * len(p)


@pytest.mark.parametrize("noise", NOISES)
def test_truths_lie_anywhere_in_their_posteriors_and_models_are_as_probable_as_stated(noise: str) -> None:
    outcomes = [outcome("decays", noise, seed) for seed in range(N_SETS)]
    assert smallest_p(outcomes) > FALSE_ALARM
    assert abs(score(outcomes).deviation) < 3.3


@pytest.mark.parametrize(("factor", "uniform"), [(1.0, True), (1.3, False), (1 / 1.3, False)])
def test_noise_that_is_misstated_by_thirty_per_cent_makes_ranks_that_are_not_uniform(
    factor: float, uniform: bool
) -> None:
    rng = np.random.default_rng(0)
    errors = factor * rng.standard_normal(400)
    p = uniformity([rank(rng.standard_normal(1000), error) for error in errors]).p
    assert (p > FALSE_ALARM) == uniform


@pytest.mark.parametrize("noise", ["known", "unknown"])
def test_stated_errors_of_the_evidence_are_those_against_its_closed_form(noise: str) -> None:
    outcomes = [outcome("polynomials", noise, seed) for seed in range(N_SETS // 2)]
    pull = np.array([(result.log_evidence - result.exact) / result.error for result in outcomes])
    assert np.all(np.abs(pull.mean(axis=0)) < 4.0 / math.sqrt(len(outcomes)))
    assert np.all(np.abs(np.std(pull, axis=0) - 1.0) < 0.5)
