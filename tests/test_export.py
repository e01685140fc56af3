"""What ArviZ gets."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bluesky_bayes import Dataset, Poisson, Selection

az = pytest.importorskip("arviz", "0.20")

MakeSelection = Callable[..., Selection]


def test_arviz_gets_samples_data_predictions_and_the_evidence(make_selection: MakeSelection) -> None:
    selection = make_selection((-90.0, -40.0, -41.0))
    answer = selection.to_arviz()
    assert answer.groups() == ["posterior", "posterior_predictive", "observed_data", "constant_data"]
    assert set(answer.posterior) == {*selection.best.draws, *selection.best.derived}
    np.testing.assert_array_equal(answer.posterior["peak1.center"], selection.best.draws["peak1.center"])
    assert answer.posterior["peak1.area"].attrs["units"] == "mm*V"
    np.testing.assert_array_equal(answer.observed_data["y"], selection.data.y)
    np.testing.assert_array_equal(answer.constant_data["x"], selection.data.x)
    best = (selection.best.model.name, selection.best.log_evidence, selection.best.log_evidence_error)
    for attributes in (answer.attrs, answer.posterior.attrs):
        assert tuple(attributes[key] for key in ("model", "log_evidence", "log_evidence_error")) == best
        assert attributes["probability"] == selection.probabilities.max()


def test_another_model_is_chosen_by_name(make_selection: MakeSelection) -> None:
    selection = make_selection((-90.0, -40.0, -41.0))
    answer = selection.to_arviz(model="2 peaks")
    assert "peak2.center" in answer.posterior
    assert answer.attrs["log_evidence"] == selection["2 peaks"].log_evidence
    with pytest.raises(KeyError, match="there is no model '9 peaks' here"):
        selection.to_arviz(model="9 peaks")


@pytest.mark.parametrize("options", [{}, {"known_noise": False}, {"counts": True}])
def test_predictions_scatter_about_the_curve_as_the_noise_does(
    make_selection: MakeSelection, options: dict[str, bool]
) -> None:
    selection = make_selection(**options)
    predicted = selection.to_arviz().posterior_predictive["y"]
    assert predicted.dims == ("chain", "draw", "point")
    assert predicted.sizes["chain"] * predicted.sizes["draw"] == 200
    curve = selection.best.fit.mean
    expected = np.sqrt(curve) if selection.data.counts else np.full(curve.size, 3.0)
    spread = np.hypot(expected, 0.01 * curve)  # the draws' own spread is one percent
    flat = predicted.stack(draws=("chain", "draw")).to_numpy()
    np.testing.assert_allclose(flat.mean(axis=1), curve, atol=5 * spread.max() / np.sqrt(200))
    assert abs(np.std((flat - curve[:, None]) / spread[:, None]) - 1) < 0.05
    np.testing.assert_array_equal(predicted, selection.to_arviz().posterior_predictive["y"])


def test_predicted_counts_are_those_of_each_points_exposure(make_selection: MakeSelection) -> None:
    selection = make_selection(counts=True)
    exposure = np.linspace(1.0, 10.0, 41)
    data = Dataset(selection.data.x, selection.data.y, counts=True, exposure=exposure)
    answer = replace(selection, data=data, noise=Poisson(exposure)).to_arviz()
    mean = answer.posterior_predictive["y"].mean(("chain", "draw"))
    np.testing.assert_allclose(mean, exposure * selection.best.fit.mean, rtol=0.08)
    np.testing.assert_array_equal(answer.constant_data["exposure"], exposure)


def test_a_model_without_parameters_predicts_nothing(make_selection: MakeSelection) -> None:
    selection = make_selection((-1.0, -90.0))
    model = replace(selection.best.model, terms=(), priors={})
    nothing = replace(selection.best, model=model, draws={}, derived={})
    answer = replace(selection, posteriors=(nothing,), prior_probabilities=np.ones(1)).to_arviz()
    assert "posterior_predictive" not in answer.groups()


def test_predictions_of_very_many_points_are_few(make_selection: MakeSelection) -> None:
    selection = make_selection()
    x = np.linspace(-1.0, 1.0, 20_000)
    answer = replace(selection, data=Dataset(x, np.cos(x))).to_arviz()
    assert answer.posterior_predictive["y"].shape == (2, 5, 20_000)


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.23 with matplotlib 3.11
def test_arviz_reads_it(make_selection: MakeSelection) -> None:
    answer = make_selection().to_arviz()
    table = az.summary(answer, var_names=["peak1.center"])
    assert abs(table["mean"].iloc[0] - 0.01) < 0.001
    assert az.plot_ppc(answer, num_pp_samples=20).get_xlabel() == "y"
