"""The answer as a picture."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from bluesky_bayes import Poisson, Selection
from bluesky_bayes.plots import curve_of, plot_selection, point_errors

MakeSelection = Callable[..., Selection]


def test_the_figure_is_outside_pyplot(make_selection: MakeSelection) -> None:
    plot_selection(make_selection())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.mark.parametrize("counts", [False, True])
def test_the_figure_is_written_without_a_display(make_selection: MakeSelection, tmp_path: Path, counts: bool) -> None:
    plot_selection(make_selection(counts=counts)).savefig(tmp_path / "answer.png", dpi=50)
    picture = imread(tmp_path / "answer.png")
    assert picture.shape[:2] == (290, 500)
    assert float(np.ptp(picture)) > 0.5


def test_the_title_is_the_verdict_and_the_axes_carry_names_and_units(make_selection: MakeSelection) -> None:
    selection = make_selection((-90.0, -40.0, -41.0))
    figure = plot_selection(selection)
    curves, residuals, probabilities = figure.axes
    title = " ".join(f"{figure.get_suptitle()}; {curves.get_title(loc='left')}".split())
    assert title == selection.verdict
    assert (curves.get_ylabel(), residuals.get_xlabel()) == ("det (V)", "motor (mm)")
    assert [text.get_text() for text in probabilities.get_yticklabels()] == ["no peak", "1 peak", "2 peaks"]


def test_data_model_band_and_components_are_named(make_selection: MakeSelection) -> None:
    legend = plot_selection(make_selection((-90.0, -70.0, -41.0))).axes[0].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["data", "2 peaks", "95 % band", "peak1", "peak2", "background"]
    assert legend.get_title().get_text() == "scan 7"


def test_error_bars_of_counts_are_square_roots(make_selection: MakeSelection) -> None:
    selection = make_selection(counts=True)
    np.testing.assert_allclose(point_errors(selection), np.sqrt(selection.data.y))


def test_error_bars_of_unknown_noise_are_its_inferred_sigma(make_selection: MakeSelection) -> None:
    known, unknown = make_selection(), make_selection(known_noise=False)
    np.testing.assert_allclose(point_errors(known), 3.0)
    np.testing.assert_allclose(point_errors(unknown), 3.0, rtol=0.05)
    assert point_errors(unknown).shape == unknown.data.y.shape


def test_the_curve_of_few_points_is_drawn_between_them_too(make_selection: MakeSelection) -> None:
    selection = make_selection((-90.0, -40.0, -41.0))
    x, fit = curve_of(selection)
    assert (x.size, x[0], x[-1]) == (400, -1.0, 1.0)
    # The fit and the curve average over different draws: they agree to a part of the draws' spread of one percent.
    np.testing.assert_allclose(np.interp(selection.data.x, x, fit.mean), selection.best.fit.mean, rtol=0.005)
    assert np.all(fit.low < fit.high)


def test_a_model_without_components_is_drawn_at_zero(make_selection: MakeSelection) -> None:
    selection = make_selection((-1.0, -90.0))
    nothing = replace(selection.best, model=replace(selection.best.model, terms=(), priors={}), draws={})
    _, fit = curve_of(replace(selection, posteriors=(nothing,), prior_probabilities=np.ones(1)))
    np.testing.assert_array_equal(fit.mean, 0.0)


def test_counts_of_different_exposure_are_drawn_at_their_own_points(make_selection: MakeSelection) -> None:
    selection = replace(make_selection(counts=True), noise=Poisson(np.linspace(1.0, 2.0, 41)))
    x, fit = curve_of(selection)
    assert x is selection.data.x
    assert fit is selection.best.fit


def test_components_stand_on_the_background(make_selection: MakeSelection) -> None:
    lines = {line.get_label(): line.get_ydata() for line in plot_selection(make_selection()).axes[0].get_lines()}
    np.testing.assert_allclose(np.min(lines["peak1"]), 20.0, rtol=0.01)
    np.testing.assert_allclose(np.max(lines["peak1"]), 120.0, rtol=0.01)
