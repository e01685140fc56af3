"""The answer as a picture."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from scipy import stats

from bluesky_bayes import Poisson, Selection
from bluesky_bayes.families import peaks
from bluesky_bayes.plots import curve_of, plot_selection, point_errors, prior_density
from bluesky_bayes.tables import rounded

MakeSelection = Callable[..., Selection]


PICTURES = [Selection.plot, Selection.plot_corner, Selection.plot_trace]


@pytest.mark.parametrize("draw", PICTURES)
def test_the_figure_is_outside_pyplot(make_selection: MakeSelection, draw: Callable[..., Figure]) -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else []
    draw(make_selection())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert (pyplot.get_fignums() if pyplot else []) == before


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


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_a_corner_plot_has_every_parameter_alone_and_in_pairs(make_selection: MakeSelection, tmp_path: Path) -> None:
    selection = make_selection((-90.0, -40.0, -41.0), known_noise=False)
    figure = selection.plot_corner()
    names = ["peak1.amplitude\n(V)", "peak1.center\n(mm)", "peak1.sigma\n(mm)", "constant\n(V)", "noise_sigma\n(V)"]
    assert len(figure.axes) == 15
    assert [axes.get_xlabel() for axes in figure.axes[-5:]] == names
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == names[1:]
    assert texts_of(figure) == ["1 peak, p = 0.731 ± 0.014", "scan 7, 2 chains of 100 draws"]
    figure.savefig(tmp_path / "corner.png", dpi=50)
    assert float(np.ptp(imread(tmp_path / "corner.png"))) > 0.5


def test_the_diagonal_has_median_interval_and_prior(make_selection: MakeSelection) -> None:
    selection = make_selection()
    (axes,) = selection.plot_corner(names=["peak1.center"]).axes
    summary = selection.best.parameters["peak1.center"]
    lines = [np.asarray(line.get_xydata()) for line in axes.get_lines()]
    assert [line[0, 0] for line in lines[:3]] == [summary.median, summary.low, summary.high]
    np.testing.assert_allclose(lines[3][:, 1], 0.5)  # uniform over x, from -1 to 1
    low, median, high = (rounded(value, summary.sd) for value in (summary.low, summary.median, summary.high))
    assert axes.get_title() == f"{median}\n{low} to {high}"


def test_a_derived_quantity_has_no_prior(make_selection: MakeSelection) -> None:
    figure = make_selection().plot_corner(names=["peak1.area"])
    assert len(figure.axes[0].get_lines()) == 3
    assert "prior" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_pairs_enclose_the_stated_shares_of_the_draws(make_selection: MakeSelection) -> None:
    figure = make_selection().plot_corner(names=["peak1.center", "peak1.sigma"])
    (pair,) = (axes for axes in figure.axes if axes.collections)
    best = make_selection().best
    points = np.stack([best.draws[name].ravel() for name in ("peak1.center", "peak1.sigma")], axis=1)
    outer, inner = pair.collections[0].get_paths()
    assert np.mean(inner.contains_points(points)) == pytest.approx(0.5, abs=0.1)
    assert np.mean(outer.contains_points(points) | inner.contains_points(points)) == pytest.approx(0.95, abs=0.04)


def test_of_very_many_parameters_the_first_components_are_drawn(make_selection: MakeSelection) -> None:
    selection = make_selection((-90.0, -80.0, -70.0, -60.0, -40.0))
    figure = selection.plot_corner()
    assert texts_of(figure)[1] == "scan 7, 2 chains of 100 draws; the first 9 of 13 parameters; choose with names="
    assert figure.axes[-1].get_xlabel() == "peak3.sigma\n(mm)"
    assert len(selection.plot_trace().axes) == 18


def test_draws_that_are_all_the_same_are_drawn(make_selection: MakeSelection, tmp_path: Path) -> None:
    selection = make_selection((-90.0, -40.0))
    still = replace(selection.best, draws={name: np.full_like(v, 2.0) for name, v in selection.best.draws.items()})
    selection = replace(selection, posteriors=(still,), prior_probabilities=np.ones(1))
    for figure in (selection.plot_corner(), selection.plot_trace()):
        figure.savefig(tmp_path / "still.png", dpi=50)


def test_another_model_is_drawn_by_name(make_selection: MakeSelection) -> None:
    selection = make_selection()
    assert texts_of(selection.plot_corner("2 peaks", ["peak2.area", "constant"]))[0].startswith("2 peaks, p = 0.2")
    assert texts_of(selection.plot_trace("2 peaks"))[0].startswith("2 peaks, p = 0.2")


@pytest.mark.parametrize("draw", [Selection.plot_corner, Selection.plot_trace])
def test_what_cannot_be_drawn_is_named(make_selection: MakeSelection, draw: Callable[..., Figure]) -> None:
    selection = make_selection()
    with pytest.raises(ValueError, match=r"'1 peak' has no parameters \['width'\]; names= takes some of peak1.ampl"):
        draw(selection, names=["constant", "width"])
    nothing = replace(selection.best, draws={}, derived={})
    with pytest.raises(ValueError, match="'1 peak' has no parameters to draw; choose another with model="):
        draw(replace(selection, posteriors=(nothing,), prior_probabilities=np.ones(1)))
    with pytest.raises(KeyError, match="there is no model '9 peaks'"):
        draw(selection, "9 peaks")


def test_a_trace_plot_has_every_chain_and_r_hat(make_selection: MakeSelection) -> None:
    selection = make_selection()
    moved = {**selection.best.draws, "constant": selection.best.draws["constant"] + np.array([[0.0], [1.0]])}
    selection = replace(selection, posteriors=(replace(selection.best, draws=moved),), prior_probabilities=np.ones(1))
    figure = selection.plot_trace()
    titles = {axes.get_title(loc="left"): axes for axes in figure.axes[::2]}
    assert [title.split(":")[0] for title in titles] == [
        "peak1.amplitude (V)", "peak1.center (mm)", "peak1.sigma (mm)", "constant (V)",
    ]  # fmt: skip
    for (title, axes), name in zip(titles.items(), moved, strict=True):
        lines = [line.get_ydata() for line in axes.get_lines()]
        np.testing.assert_array_equal(lines, selection.best.draws[name])
        assert float(title.rsplit(" ", 1)[1]) == pytest.approx(1.0, abs=0.06) or name == "constant"
    assert float(list(titles)[-1].rsplit(" ", 1)[1]) > 1.5
    colors = {text.get_text(): text.get_color() for text in figure.findobj(Text)}
    assert [colors[title] for title in titles] == ["#222222"] * 3 + ["#a33b00"]


def test_the_prior_of_ordered_components_is_that_of_their_place(make_selection: MakeSelection) -> None:
    data, noise = make_selection().data, make_selection().noise
    (model,) = peaks(counts=[3], priors={"center": stats.norm(0.1, 0.5)}).resolved(data, noise).models
    draws = np.sort(stats.norm(0.1, 0.5).rvs((100_000, 3), random_state=0), axis=1)
    for i in range(3):
        density, edges = np.histogram(draws[:, i], 30, (-0.8, 1.0), density=True)
        inside = np.mean((draws[:, i] > -0.8) & (draws[:, i] < 1.0))
        expected = prior_density(model, f"peak{i + 1}.center", 0.5 * (edges[1:] + edges[:-1]))
        np.testing.assert_allclose(density * inside, expected, atol=0.03)
    x = np.linspace(0.1, 0.5, 5)
    width: Any = model.priors["peak2.sigma"]
    np.testing.assert_allclose(prior_density(model, "peak2.sigma", x), width.pdf(x))
