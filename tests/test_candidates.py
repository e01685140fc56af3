"""Candidates of several kinds, with parameters shared, fixed and tied."""

import pickle
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bluesky_bayes import Analysis, Dataset, Gaussian, Parameter, Settings, select
from bluesky_bayes.candidates import Kind, combinations, family
from bluesky_bayes.families import peaks
from bluesky_bayes.model import Slot, default_prior
from bluesky_bayes.recipes import candidates_of
from bluesky_bayes.shapes import gaussian, lorentzian

DISTANCE = {"peak2.center": Slot("peak1.center", offset=0.25)}


def test_every_combination_of_counts_is_a_model() -> None:
    found = combinations([Kind(gaussian, [0, 1], "broad peak"), Kind(lorentzian, [0, 2], "line")], background=None)
    assert found.names == ("none", "2 lines", "1 broad peak", "1 broad peak + 2 lines")
    last = found.models[-1]
    assert last.counts == {"broad peak": 1, "line": 2}
    assert last.exchangeable == ((1, 2),)


def test_a_kind_of_which_there_is_always_one_is_in_no_name() -> None:
    found = combinations([Kind(gaussian, [0, 1], "peak"), Kind(lorentzian, noun="line")])
    assert found.names == ("no peak", "1 peak")
    assert found.models[0].parameters == ("line.amplitude", "line.center", "line.gamma", "constant")
    assert combinations([Kind(lorentzian)]).names == ("lorentzian",)


def test_shared_and_fixed_parameters_are_one_and_none() -> None:
    (model,) = peaks("pseudo-voigt", [2], background=None, shared=["fwhm"], fixed={"fraction": 0.5}).models
    assert model.parameters == ("peak1.amplitude", "peak1.center", "peak.fwhm", "peak2.amplitude", "peak2.center")
    assert model.exchangeable == ((0, 1),)
    assert model.terms[0].slots[3] == Slot(None, offset=0.5)


def test_a_tie_holds_in_models_that_have_both_and_makes_components_distinguishable() -> None:
    one, _, three = peaks(counts=[1, 2, 3], ties=DISTANCE).models
    assert "peak1.center" in one.parameters
    assert "peak2.center" not in three.parameters
    assert three.exchangeable == ()
    assert peaks(counts=[4], ties=DISTANCE).models[0].exchangeable == ((2, 3),)


@pytest.mark.parametrize("first", [0, 1])
def test_what_something_is_tied_to_keeps_its_prior_whichever_kind_comes_first(first: int) -> None:
    kinds = [Kind(gaussian, [1], "line"), Kind(gaussian, [1], "satellite")]
    (model,) = combinations(
        [kinds[first], kinds[1 - first]],
        priors={"line.center": stats.uniform(2, 3)},
        ties={"satellite1.center": Slot("line1.center", offset=0.5)},
    ).models
    prior = model.priors["line1.center"]
    assert prior is not None
    assert prior.support() == (2, 5)


def test_what_is_taken_away_has_a_positive_amplitude() -> None:
    x = np.linspace(-2, 2, 81)
    y = 10 - 3 * np.exp(-0.5 * (x / 0.3) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(x.size)
    dip = combinations([Kind(gaussian, [0, 1], "dip", sign=-1)])
    selection = select(Dataset(x, y), dip, Gaussian(0.1), settings=Settings(sweeps=200, error=0.2))
    assert selection.best.model.name == "1 dip"
    found = selection.best.parameters["dip1.amplitude"]
    assert abs(found.mean - 3.0) < 4 * found.sd


def test_a_tied_doublet_is_found_with_one_position() -> None:
    x = np.linspace(-1, 1, 81)
    y = 2 * np.exp(-0.5 * (x / 0.1) ** 2) + np.exp(-0.5 * ((x - 0.25) / 0.1) ** 2)
    y += 0.05 * np.random.default_rng(0).standard_normal(x.size)
    ties = {**DISTANCE, "peak2.amplitude": Slot("peak1.amplitude", scale=0.5)}
    candidates = peaks(counts=[1, 2], shared=["sigma"], ties=ties)
    selection = select(Dataset(x, y), candidates, Gaussian(0.05), settings=Settings(sweeps=200, error=0.2))
    assert selection.best.model.name == "2 peaks"
    for name, truth in (("peak1.center", 0.0), ("peak1.amplitude", 2.0), ("peak.sigma", 0.1)):
        found = selection.best.parameters[name]
        assert abs(found.mean - truth) < 4 * found.sd


def test_the_most_special_prior_counts() -> None:
    priors = {"sigma": stats.uniform(0, 1), "peak.sigma": stats.uniform(0, 2), "peak2.sigma": stats.uniform(0, 3)}
    (model,) = family(gaussian, [2], priors=priors, noun="peak").models
    chosen = [model.priors[f"peak{i}.sigma"] for i in (1, 2)]
    assert [prior.support()[1] for prior in chosen if prior is not None] == [2.0, 3.0]


def test_inverse_lengths_have_a_default_prior_from_the_size_of_x() -> None:
    x = np.array([0.0, 0.5, 1.0, 6.0])
    found = default_prior("rate", Parameter("rate", "inverse"), Dataset(x, x), Gaussian(1.0))
    assert np.allclose(found.support(), (0.05, 6.0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ties": {"peak9.center": Slot("peak1.center")}}, "which no model here has"),
        ({"ties": {"peak2.center": Slot("peak9.center")}}, "which no model here has"),
        ({"ties": {"peak2.center": Slot("peak1.center"), "peak1.center": Slot(None)}}, "tied itself"),
        ({"shared": ["height"]}, "no parameter 'height'"),
        ({"fixed": {"height": 1.0}}, "no parameter 'height'"),
        ({"priors": {"height": stats.uniform(0, 1)}}, "which no model here has"),
    ],
)
def test_names_that_mean_nothing_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        peaks(counts=[1, 2], **change)


def test_kinds_need_nouns_of_their_own_and_a_sign() -> None:
    with pytest.raises(ValueError, match="nouns of their own"):
        combinations([Kind(gaussian), Kind(gaussian)])
    with pytest.raises(ValueError, match="sign"):
        Kind(gaussian, sign=2)


def test_a_recipe_keeps_ties() -> None:
    candidates = peaks(counts=[2], shared=["sigma"], ties=DISTANCE, priors={"sigma": stats.uniform(0.1, 1)})
    assert candidates.recipe is not None
    assert candidates_of(candidates.recipe).digest == candidates.digest
    table = Analysis(candidates).to_table()
    assert table["candidates"]["ties"] == {"peak2.center": {"parameter": "peak1.center", "scale": 1.0, "offset": 0.25}}
    assert Analysis.from_table(table).candidates.digest == candidates.digest


def test_a_model_that_travels_makes_its_priors_when_they_are_asked_for() -> None:
    x = np.linspace(0.0, 1.0, 20)
    model = peaks(counts=[2]).resolved(Dataset(x, 1.0 + x, np.ones(20)), Gaussian()).models[0]
    there = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    assert there.parameters == model.parameters and len(there.priors) == len(model.priors)
    assert "_made" not in vars(there.priors)
    assert there.describe_priors() == model.describe_priors() and there.digest == model.digest
