"""Where to measure next: where the models in question predict different things."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from bluesky_bayes import Dataset, Gaussian, Poisson, Selection, StudentT, select
from bluesky_bayes.decisions import decide
from bluesky_bayes.families import linear, peaks
from bluesky_bayes.information import evenly, next_points, predictions

Make = Callable[..., Selection]
LINES = linear({"offset": "1", "slope": "x"}, priors={"offset": stats.norm(0, 1), "slope": stats.norm(0, 1)})


def test_a_slope_is_told_at_the_far_end() -> None:
    data = Dataset(np.array([-0.1, 0.0, 0.1]), np.array([0.1, -0.2, 0.2]))
    answer = select(data, LINES, Gaussian(0.5))
    (near, point) = (next_points(answer, [0.0, 0.2], 1)[0], next_points(answer, [-0.2, 0.0, 0.5, 2.0], 1)[0])
    assert point.position == 2.0
    assert point.gain > near.gain >= 0.0


def test_the_gain_is_that_of_the_closed_form() -> None:
    """Of one reading the predictions are normal here: information by quadrature."""
    data = Dataset(np.array([-0.1, 0.0, 0.1]), np.array([0.1, -0.2, 0.2]))
    answer = select(data, LINES, Gaussian(0.5))
    at, y = 2.0, np.linspace(-15.0, 15.0, 20001)
    densities = []
    for posterior in answer.posteriors:
        curve = predictions(posterior, [at], np.arange(0, 1000, 1) % posterior.draws["offset"].size)
        densities.append(stats.norm(curve.mean(), np.hypot(curve.std(), 0.5)).pdf(y))
    p = answer.probabilities
    mixed = p @ densities
    exact = sum(
        float(np.trapezoid(weight * density * np.log(np.maximum(density, 1e-300) / mixed), y))
        for weight, density in zip(p, densities, strict=True)
    )
    found = np.mean([next_points(answer, [at], 1, seed)[0].gain for seed in range(5)])
    assert found == pytest.approx(exact, rel=0.15)


def test_several_points_add_up_what_they_tell() -> None:
    data = Dataset(np.array([-0.1, 0.0, 0.1]), np.array([0.1, -0.2, 0.2]))
    chosen = next_points(select(data, LINES, Gaussian(0.5)), np.linspace(-1, 1, 21), 3)
    gains = [point.gain for point in chosen]
    assert gains == sorted(gains)
    assert 0.0 < gains[0] < gains[-1] < np.log(2.0) + 0.1


def test_a_model_that_is_out_is_not_asked_about(make_selection: Make) -> None:
    points = next_points(make_selection((-90.0, -40.0, -90.0)), np.linspace(-1, 1, 21), 1)
    assert points[0].gain == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("noise", ["known", "unknown", "counts", "heavy tails"])
def test_any_noise_will_do(make_selection: Make, noise: str) -> None:
    answer = make_selection((-90.0, -40.0, -40.5), counts=noise == "counts", known_noise=noise != "unknown")
    if noise == "heavy tails":
        data = Dataset(np.array([-0.1, 0.0, 0.1]), np.array([0.1, -0.2, 0.2]))
        answer = select(data, LINES, StudentT(0.5))
    assert isinstance(answer.noise, Poisson) == (noise == "counts")
    first, again = (next_points(answer, np.linspace(-1, 1, 11), 2, seed=1) for _ in range(2))
    assert first == again
    assert all(np.isfinite(point.gain) for point in first)


def test_what_cannot_be_chosen_from_is_refused(make_selection: Make) -> None:
    with pytest.raises(ValueError, match="nothing to choose: 0 positions"):
        next_points(make_selection(), [])


def test_curves_at_new_positions_are_those_of_the_draws() -> None:
    x = np.linspace(-1, 1, 41)
    y = np.random.default_rng(0).poisson(20 + 80 * np.exp(-0.5 * (x / 0.2) ** 2)).astype(np.float64)
    data = Dataset(x, y, counts=True)
    best = select(data, peaks(counts=[1]), seed=0).best
    curves = predictions(best, x, np.arange(best.draws["constant"].size))
    assert np.allclose(curves.mean(axis=0), best.fit.mean, rtol=0.02)


def points_until_decided(seed: int, differ: bool) -> tuple[int, bool]:
    """How many points it takes to tell a line from a constant, and whether the answer is right."""
    rng = np.random.default_rng(seed)
    offset, slope = rng.standard_normal(2) * (1.0, seed % 2)
    positions = np.linspace(-1.0, 1.0, 17)
    x = evenly(positions, 4)
    y = [offset + slope * at + 0.5 * rng.standard_normal() for at in x]
    while True:
        answer = select(Dataset(np.array(x), np.array(y)), LINES, Gaussian(0.5))
        decision = decide([answer], 0.9)
        if decision.decided or len(x) >= 60:
            return len(x), decision.model == LINES.names[seed % 2]
        chosen = next_points(answer, positions, 4, len(x)) if differ else ()
        new = [point.position for point in chosen] or evenly(positions, 4, len(x))
        x += new
        y += [offset + slope * at + 0.5 * rng.standard_normal() for at in new]


def test_points_where_models_differ_decide_with_fewer_points_than_an_even_grid() -> None:
    even, differ = (np.array([points_until_decided(seed, how) for seed in range(4)]) for how in (False, True))
    assert differ[:, 0].sum() < 0.9 * even[:, 0].sum()
    assert differ[:, 1].sum() >= even[:, 1].sum() - 1


def test_even_positions_stay_even_as_they_grow() -> None:
    positions = np.linspace(0.0, 1.0, 65)
    for n in (4, 16, 32):
        gaps = np.diff(sorted(evenly(positions, n)))
        assert gaps.max() == gaps.min()
    assert evenly(positions, 3, 5) == evenly(positions, 8)[5:]
