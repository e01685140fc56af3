"""Shapes that are approximated, against scipy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, special

from bluesky_bayes import Dataset, Gaussian, component
from bluesky_bayes.families import peaks
from bluesky_bayes.kernels import build
from bluesky_bayes.kernels.task import new_scratch, new_state
from bluesky_bayes.shapes import arctan, erfc, erfcx, voigt
from bluesky_bayes.tasks import blocks_of, make_task

WIDTHS = [(0.3, 0.2), (1.0, 1e-4), (0.01, 2.0), (2.0, 0.5)]


def test_elementary_functions_are_as_good_as_stated() -> None:
    u = np.concatenate([np.linspace(-5.0, 5.0, 1001), [-1e6, 1e6]])
    assert_allclose([arctan(v) for v in u], np.arctan(u), atol=2e-8)
    assert_allclose([erfc(v) for v in u], special.erfc(u), atol=2e-7)
    y = np.concatenate([[0.0], np.logspace(-4, 3, 50)])
    assert_allclose(erfcx(y), special.erfcx(y), rtol=3e-7)


@pytest.mark.parametrize(("sigma", "gamma"), WIDTHS)
def test_a_voigt_peak_is_the_convolution_that_scipy_knows(sigma: float, gamma: float) -> None:
    x = np.linspace(-10.0, 10.0, 401)
    exact = special.voigt_profile(x - 0.5, sigma, gamma) / special.voigt_profile(0.0, sigma, gamma)
    assert_allclose(voigt(x, 1.0, 0.5, sigma, gamma), exact, atol=3e-7)


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(("sigma", "gamma"), WIDTHS)
def test_a_compiled_voigt_peak_is_as_good_in_float32(sigma: float, gamma: float, single: bool) -> None:
    fixed = {"amplitude": 1.0, "center": 0.5, "sigma": sigma, "gamma": gamma}
    x = np.linspace(-10.0, 10.0, 401)
    data, noise = Dataset(x, np.sin(x)), Gaussian(1.0)
    candidates = peaks("voigt", [1], fixed=fixed).resolved(data, noise)
    task = make_task(blocks_of([data], [noise], candidates.models), candidates.models[0], single)
    total, state = np.zeros((1, task.x.size)), new_state(task, np.zeros((1, 1)))
    build.kernels(single).evaluate(task, state, new_scratch(task), total)
    exact = special.voigt_profile(x - 0.5, sigma, gamma) / special.voigt_profile(0.0, sigma, gamma)
    assert_allclose(total[0, : x.size] - state.theta[0, 0], exact, atol=1e-6)


@pytest.mark.parametrize(("sigma", "gamma"), WIDTHS)
def test_area_and_width_of_a_voigt_peak_are_those_of_its_curve(sigma: float, gamma: float) -> None:
    ((_, area), (_, fwhm)) = voigt.derived
    height = special.voigt_profile(0.0, sigma, gamma)
    assert area(2.0, 0.0, sigma, gamma) == pytest.approx(2.0 / height, rel=1e-6)
    half = optimize.brentq(lambda u: special.voigt_profile(u, sigma, gamma) - 0.5 * height, 0.0, 10.0)
    assert fwhm(1.0, 0.0, sigma, gamma) == pytest.approx(2.0 * half, rel=3e-4)


@pytest.mark.parametrize("end", ["width", "amplitude", "x"])
def test_where_a_shape_ends_is_told_by_one_of_its_parameters(end: str) -> None:
    with pytest.raises(ValueError, match=rf"end='{end}' of component 'hat' must be one of its parameters"):

        @component(end=end)
        def hat(x: float, center: float, sigma: float) -> float:
            return 1.0 if abs(x - center) < sigma else 0.0


def test_a_shape_that_ends_has_a_location() -> None:
    with pytest.raises(ValueError, match="and one of them must be a location"):

        @component(end="sigma")
        def tail(x: float, sigma: float) -> float:
            return 1.0 if x < sigma else 0.0
