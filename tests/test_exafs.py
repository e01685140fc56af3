"""The basis for EXAFS is chosen by evidence, and a simulated copper shell is where it was put."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbc import Family, curve, outcome, score, uniformity
from scipy import stats

from bluesky_bayes import Analysis, Dataset, Gaussian, Selection, select
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import exafs, linear
from bluesky_bayes.families.exafs import (
    COPPER,
    COPPER_PHASE,
    basis_probabilities,
    copper_shell,
    distance,
    magnitude,
    wave,
)

K = np.arange(3.0, 12.01, 0.05)
CALIBRATED = Family(
    np.linspace(3.0, 8.0, 41),
    exafs(
        (2.2, 2.8),
        (3.0, 8.0),
        weight=0.0,
        bases=["fourier", "damped"],
        sigma2=[0.01],
        priors={"amplitude": stats.norm(0, 20)},
    ),
)


def copper(noise: float, seed: int) -> Dataset:
    chi = copper_shell(K) + noise * np.random.default_rng(seed).standard_normal(K.size)
    return Dataset(K, chi, units={"x": "1/Å"})


def answer(noise: float = 0.001, seed: int = 0, **options: Any) -> Selection:
    return select(copper(noise, seed), exafs(**{"distances": (2.0, 3.1), "phase": COPPER_PHASE, **options}), seed=seed)


def test_a_wave_is_what_its_page_says() -> None:
    window = np.sin(math.pi * (K - 2.5) / 10.0) ** 2
    numbers = (2.556, 0.3, -0.95, 0.02, 2.5, 12.5, 2.0)
    angle = 2 * K * 2.556 + 0.3 - 0.95 * K + 0.02 * K**2
    np.testing.assert_allclose(wave(K, 1.5, *numbers, 1.0, 0.0), 1.5 * window * K**-2.0 * np.sin(angle), rtol=1e-9)
    damped = np.exp(-2 * 0.008 * K**2) * K**-2.0 * np.sin(angle)
    np.testing.assert_allclose(wave(K, 1.0, *numbers, 0.0, 0.008), damped, rtol=1e-9)
    assert not wave(np.array([0.0, -1.0]), 1.0, *numbers, 0.0, 0.0).any()


@pytest.mark.parametrize(("noise", "sd"), [(0.0003, 0.001), (0.003, 0.01)])
def test_a_simulated_copper_shell_is_at_its_distance_in_the_damped_basis(noise: float, sd: float) -> None:
    pulls = []
    for seed in range(3):
        found = answer(noise, seed, sigma2=[0.005, 0.01, 0.02])
        assert basis_probabilities(found)["damped"] > 0.999
        assert found.trustworthy
        shell = distance(found.best)
        assert shell.sd < sd
        pulls.append((shell.mean - COPPER) / shell.sd)
        grid = np.linspace(2.3, 2.8, 251)
        tops = grid[np.argmax(magnitude(found.best, grid), axis=1)]
        assert abs(tops.mean() - COPPER) < 4 * np.std(tops)
    assert np.all(np.abs(pulls) < 4)
    assert np.linalg.norm(pulls) < math.sqrt(stats.chi2.isf(1e-3, 3))


def test_without_its_phase_the_shell_seems_nearer() -> None:
    found = answer(phase=(0.0, 0.0), distances=(1.6, 2.8))
    assert 0.2 < COPPER - distance(found.best).mean < 0.5


@pytest.mark.parametrize("name", ["fourier", "windowed", "damped 0.01"])
def test_data_of_a_basis_are_given_to_this_basis(name: str) -> None:
    rng = np.random.default_rng(1)
    candidates = exafs((2.0, 3.1), sigma2=[0.01], priors={"amplitude": stats.norm(0, 1)})
    (model,) = (model for model in candidates.models if model.name == name)
    coefficients = dict(zip(model.parameters, rng.standard_normal(len(model.parameters)), strict=True))
    found = select(Dataset(K, curve(model, K, coefficients) + 0.002 * rng.standard_normal(K.size)), candidates)
    assert found.best.model.name == name
    assert found.decisive()


def test_noise_alone_has_no_shell() -> None:
    data = Dataset(K, 0.01 * np.random.default_rng(2).standard_normal(K.size))
    found = select(data, exafs((2.0, 3.1)))
    assert found.best.model.name == "no shell"
    assert found.decisive()
    with pytest.raises(ValueError, match="model 'no shell' has no waves"):
        distance(found.best)


def test_the_magnitude_of_a_single_wave_is_its_amplitude_at_its_distance() -> None:
    data = Dataset(K, wave(K, 0.7, 2.5, 0.4, *COPPER_PHASE, 3.0, 12.0, 2.0, 0.0, 0.01))
    basis = exafs(
        (2.0, 3.0), bases=["damped"], sigma2=[0.01], phase=COPPER_PHASE, priors={"amplitude": stats.norm(0, 1)}
    )
    spectrum: Array = magnitude(select(data, basis, Gaussian(1e-5))["damped 0.01"], [2.5])
    assert spectrum.mean() == pytest.approx(0.7, abs=0.01)
    with pytest.raises(ValueError, match="'a x' has no waves"):
        magnitude(select(data, linear({"a": "x"})).best, [2.5])


def test_resolution_sets_how_many_waves_there_are() -> None:
    models = exafs((2.0, 3.0), (3.0, 13.0)).models
    assert len(models[0].terms) == 0
    assert len(models[1].terms) == 2 * (1 + math.ceil(2 * 10 / math.pi))


def test_bases_are_equally_probable_and_damped_ones_share() -> None:
    candidates = exafs(sigma2=[0.005, 0.01])
    assert candidates.probabilities == pytest.approx((0.25, 0.25, 0.25, 0.125, 0.125))


def test_a_recipe_makes_the_same_candidates_again_and_answers_are_stored(tmp_path: Path) -> None:
    analysis = Analysis(
        exafs((2.0, 3.1), sigma2=[0.01], phase=COPPER_PHASE, priors={"amplitude": stats.norm(0, 2)}), x="k", y="chi"
    )
    analysis.save(tmp_path / "exafs.toml")
    again = Analysis.load(tmp_path / "exafs.toml")
    assert again.digest == analysis.digest
    found = again(copper(0.001, 0))
    found.save(tmp_path / "copper.nc")
    assert distance(Selection.load(tmp_path / "copper.nc").best) == distance(found.best)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: exafs((3.0, 2.0)), "distances must be a range of positive numbers, the smaller first"),
        (lambda: exafs(k=(0.0, 12.0)), "k must be a range of positive numbers"),
        (lambda: exafs(bases=["wavelet"]), "bases must be some of 'fourier', 'windowed', 'damped'"),
        (lambda: exafs(sigma2=[-0.01]), "sigma2 must be different displacements from 0 up"),
        (lambda: exafs(priors={"distance": stats.norm(2, 1)}), r"priors may name 'amplitude'; got \['distance'\]"),
        (lambda: exafs((1.0, 100.0)), "distances are too many to tell apart"),
    ],
)
def test_bad_input_gets_a_sentence(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_truths_lie_anywhere_in_their_posteriors_and_models_are_as_probable_as_stated() -> None:
    outcomes = [outcome("exafs", "unknown", seed) for seed in range(30)]
    names = {name for result in outcomes for name in result.ranks}
    p = [uniformity([result.ranks[name] for result in outcomes if name in result.ranks]).p for name in names]
    assert min(p) * len(p) > 1e-3
    assert abs(score(outcomes).deviation) < 3.3
