"""Answers: reproducible, the same alone and in a batch, honest about ties and about bad input."""

import functools
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from problems import BOX_LOG_Z, box, nagata_2012, nagata_candidates, ten_peaks
from scipy import stats

from bluesky_bayes import (
    Candidates,
    Dataset,
    Gaussian,
    Poisson,
    Selection,
    Settings,
    component,
    devices,
    inference,
    jobs,
    select,
    select_many,
)
from bluesky_bayes.candidates import family
from bluesky_bayes.components import capture
from bluesky_bayes.families import linear, peaks
from bluesky_bayes.inference import warm_up
from bluesky_bayes.noise import Noise, noise_for
from bluesky_bayes.posterior import Diagnostics
from bluesky_bayes.tasks import blocks_of, shape_source, single_precision_is_enough

SHORT = Settings(sweeps=200, longest=200)
dataset: Any = Dataset
gaussian: Any = Gaussian
answer: Any = select
models: Any = peaks
"""Without types, to be called wrongly."""


def spectrum(shape: str, noise: float = 0.05, seed: int = 0) -> Dataset:
    """Two peaks of the shape on a sloping line, y in counts per second, x in eV."""
    x = np.linspace(700.0, 730.0, 151)
    y = 0.5 + 0.01 * (x - 715.0)
    for a, c, w in ((2.0, 708.0, 1.2), (1.0, 719.0, 2.0)):
        u = (x - c) / w
        y += a * (np.exp(-0.5 * u**2) if shape == "gaussian" else 1 / (1 + u**2))
    return Dataset(x, y + noise * np.random.default_rng(seed).standard_normal(151), units={"x": "eV", "y": "1/s"})


def assert_same(a: Selection, b: Selection) -> None:
    np.testing.assert_array_equal(a.log_evidence, b.log_evidence)
    np.testing.assert_array_equal(a.log_evidence_error, b.log_evidence_error)
    for one, other in zip(a.posteriors, b.posteriors, strict=True):
        for name in one.draws:
            np.testing.assert_array_equal(one.draws[name], other.draws[name])
        np.testing.assert_array_equal(one.fit.mean, other.fit.mean)


@pytest.mark.parametrize("noise", [Gaussian(0.1), Gaussian()], ids=["known", "unknown"])
def test_the_same_seed_gives_the_same_bits_on_one_and_two_threads(noise: Noise) -> None:
    candidates = nagata_candidates(range(0, 3))
    one = select(nagata_2012(), candidates, noise, seed=5, settings=SHORT, threads=1)
    two = select(nagata_2012(), candidates, noise, seed=5, settings=SHORT, threads=2)
    assert_same(one, two)
    other = select(nagata_2012(), candidates, noise, seed=6, settings=SHORT)
    assert np.all(other.log_evidence[1:] != one.log_evidence[1:])


def test_a_batch_gives_each_data_set_the_answer_it_has_alone() -> None:
    candidates = nagata_candidates(range(0, 3))
    first = nagata_2012()
    data = [first, Dataset(first.x, first.y[::-1].copy()), Dataset(first.x, 0.5 * first.y), *([first] * 15)]
    batch = select_many(data, candidates, Gaussian(0.1), seed=5, settings=SHORT)
    for i in (0, 1, 2, 17):
        assert_same(batch[i], select(data[i], candidates, Gaussian(0.1), seed=5, settings=SHORT))


def test_a_model_has_the_same_evidence_whatever_it_is_compared_with() -> None:
    alone = select(nagata_2012(), nagata_candidates(range(2, 3)), Gaussian(0.1), seed=1, settings=SHORT)
    among = select(nagata_2012(), nagata_candidates(range(0, 4)), Gaussian(0.1), seed=1, settings=SHORT)
    assert alone["2 peaks"].log_evidence == among["2 peaks"].log_evidence


@pytest.mark.parametrize("shape", ["gaussian", "lorentzian", "pseudo-voigt"])
def test_two_peaks_on_a_slope_are_found_with_default_priors_and_unknown_noise(shape: str) -> None:
    data = spectrum("gaussian" if shape == "pseudo-voigt" else shape)
    selection = select(data, peaks(shape, counts=range(0, 4), background="linear"), seed=0)
    assert selection.best.model.name == "2 peaks"
    assert selection.probabilities.sum() == pytest.approx(1)
    found = selection.best.parameters
    for name, truth in (("peak1.center", 708.0), ("peak2.center", 719.0), ("peak1.amplitude", 2.0)):
        assert abs(found[name].mean - truth) < 4 * found[name].sd, name
    assert abs(found["noise_sigma"].mean - 0.05) < 4 * found["noise_sigma"].sd
    area = {"gaussian": 2 * 1.2 * np.sqrt(2 * np.pi), "lorentzian": 2 * 1.2 * np.pi}.get(
        shape, 2 * 1.2 * np.sqrt(2 * np.pi)
    )
    assert abs(found["peak1.area"].mean - area) < 4 * found["peak1.area"].sd
    assert abs(found["c1"].mean - 0.01) < 4 * found["c1"].sd
    assert selection.best.unit("peak1.center", data.units) == "eV"
    assert selection.best.unit("c0", data.units) == "1/s"
    assert selection.best.unit("c1", data.units) == "(1/s)/eV"
    assert any("center ~ uniform(700, 30)" in note for note in selection.notes)


def test_models_that_the_data_cannot_tell_apart_are_said_to_be_tied() -> None:
    selection = select(nagata_2012(), nagata_candidates(range(1, 6)), Gaussian(0.1), seed=0)
    assert not selection.decisive()
    assert {"3 peaks", "4 peaks"} <= set(selection.in_question)
    assert "undecided" in selection.verdict
    assert "1 peak and 2 peaks are out by" in selection.verdict


def test_one_clear_peak_is_decided() -> None:
    data, _ = box(1)
    selection = select(data, peaks(counts=range(0, 3)), Gaussian(0.1), seed=0)
    assert selection.best.model.name == "1 peak"
    assert selection.decisive(0.9)
    assert selection.trustworthy
    assert selection.log_bayes_factor > 2


def test_a_candidate_that_cannot_fit_is_never_decided() -> None:
    data, _ = box(3)
    selection = select(data, peaks(counts=[0, 1]), Gaussian(0.1), seed=0)
    assert selection.probabilities[1] > 0.999
    assert not selection.decisive()
    assert any("does not fit" in warning for warning in selection.warnings)


def test_a_posterior_against_the_edge_of_its_prior_is_said() -> None:
    data, _ = box(1)
    candidates = peaks(counts=[1], priors={"center": stats.uniform(0.02, 3), "amplitude": stats.uniform(0, 5)})
    selection = select(data, candidates, Gaussian(0.1), seed=0)
    assert any("peak1.center at the lower edge 0.02" in warning for warning in selection.warnings)
    assert not selection.decisive()


def test_too_short_a_run_says_that_it_is_not_to_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "NEAR", 0.0)
    selection = select(*ten_peaks(), Gaussian(0.1), seed=1, settings=SHORT)
    assert not selection.trustworthy
    assert any("sample longer (raise `longest` in Settings)" in warning for warning in selection.warnings)


def test_rounds_go_on_until_the_wanted_error_is_reached() -> None:
    data, candidates = box(2)
    rough = select(data, candidates, Gaussian(0.1), seed=0, settings=Settings(sweeps=400, longest=400))
    fine = select(data, candidates, Gaussian(0.1), seed=0, settings=Settings(sweeps=400, error=0.005))
    assert rough.log_evidence_error[0] > 0.005 >= fine.log_evidence_error[0]


def test_more_chains_than_particles_are_still_answered() -> None:
    data, candidates = box(1)
    selection = select(data, candidates, Gaussian(0.1), seed=0, settings=Settings(sweeps=200, longest=200, chains=300))
    assert abs(selection.log_evidence[0] - BOX_LOG_Z[1]) < 4 * selection.log_evidence_error[0] + 0.01


def test_prior_probabilities_of_the_models_count() -> None:
    equal = select(nagata_2012(), nagata_candidates(range(3, 5)), Gaussian(0.1), seed=0, settings=SHORT)
    candidates = Candidates(nagata_candidates(range(3, 5)).models, (0.9, 0.1))
    weighted = select(nagata_2012(), candidates, Gaussian(0.1), seed=0, settings=SHORT)
    odds = np.log(weighted.probabilities[0] / weighted.probabilities[1])
    assert odds - np.log(9) == pytest.approx(np.log(equal.probabilities[0] / equal.probabilities[1]))


def test_scaling_and_shifting_the_data_changes_the_evidence_by_its_jacobian_only() -> None:
    data, _ = box(1)
    settings = Settings(sweeps=800)

    def log_evidence(x_scale: float, x_shift: float, y_scale: float) -> tuple[float, float]:
        priors = {
            "amplitude": stats.uniform(0, 5 * y_scale),
            "center": stats.uniform(x_shift - 3 * x_scale, 6 * x_scale),
            "sigma": stats.uniform(0.05 * x_scale, 0.95 * x_scale),
            "constant": stats.uniform(-y_scale, 2 * y_scale),
        }
        moved = Dataset(data.x * x_scale + x_shift, data.y * y_scale)
        selection = select(moved, peaks(counts=[1], priors=priors), Gaussian(0.1 * y_scale), seed=0, settings=settings)
        return float(selection.log_evidence[0] + data.n * np.log(y_scale)), float(selection.log_evidence_error[0])

    reference, error = log_evidence(1.0, 0.0, 1.0)
    for changes in ((1.0, 1e5, 1.0), (1e6, 0.0, 1.0), (1.0, 0.0, 1e6), (1e-3, 7.0, 1e-6)):
        moved, moved_error = log_evidence(*changes)
        assert abs(moved - reference) < 4 * np.hypot(error, moved_error), changes


def test_a_component_of_your_own_is_selected_like_a_built_in_one() -> None:
    @component(roles={"rate": "shape"})
    def decay(x: float, rate: float) -> float:
        return math.exp(-rate * x)

    x = np.linspace(0, 5, 80)
    y = 2 * np.exp(-1.3 * x) + 0.02 * np.random.default_rng(0).standard_normal(80)
    candidates = family(decay, range(0, 3), background=None, priors={"rate": stats.loguniform(0.1, 10)})
    selection = select(Dataset(x, y), candidates, Gaussian(0.02), seed=0)
    assert selection.best.model.name == "1 decay"
    rate = selection.best.parameters["decay1.rate"]
    assert abs(rate.mean - 1.3) < 4 * rate.sd


def test_a_single_candidate_is_not_called_most_probable() -> None:
    selection = select(nagata_2012(), nagata_candidates(range(1, 2)), Gaussian(0.1), settings=SHORT)
    assert selection.verdict.startswith("1 peak is the only candidate; not to be trusted")
    assert "fit worse with a probability of less than 0.001; add a candidate" in selection.warnings[-1]


@pytest.mark.parametrize("p_fit", [0.0, 9e-4])
def test_a_small_probability_of_a_worse_misfit_is_never_printed_as_zero(p_fit: float) -> None:
    (problem,) = Diagnostics(p_fit=p_fit).fit_problems()
    assert "with a probability of less than 0.001;" in problem


def test_an_answer_survives_pickling() -> None:
    selection = select(nagata_2012(), nagata_candidates(range(1, 2)), Gaussian(0.1), settings=SHORT)
    again = pickle.loads(pickle.dumps(selection))
    assert again.verdict == selection.verdict
    assert_same(again, selection)


def test_samples_are_an_xarray_and_an_arviz_data_set() -> None:
    selection = select(nagata_2012(), nagata_candidates(range(2, 3)), Gaussian(0.1), settings=SHORT)
    samples = selection.best.samples
    assert samples["peak1.center"].dims == ("chain", "draw")
    assert np.all(samples["peak1.center"] < samples["peak2.center"])
    pytest.importorskip("arviz")
    assert "peak2.area" in selection.to_arviz().posterior


def test_the_nearest_things_to_no_data_are_answered() -> None:
    two = select(dataset([0.0, 1.0], [0.1, -0.1]), peaks(counts=[0, 1]), Gaussian(1.0), settings=SHORT)
    assert not two.decisive()
    assert abs(np.diff(two.log_evidence)[0]) < 4 * np.hypot(*two.log_evidence_error) + 0.02
    zeros = Dataset(np.arange(20.0), np.zeros(20), counts=True)
    with pytest.raises(ValueError, match=r"y \('y'\) is 0 at all 20 points.*check the detector"):
        select(zeros, peaks(counts=[0, 1]), Poisson())
    sizes = {"amplitude": stats.uniform(1, 10), "constant": stats.uniform(0, 2)}
    assert select(zeros, peaks(counts=[0, 1], priors=sizes), settings=SHORT).best.model.name == "no peak"


GOOD = Dataset(np.arange(10.0), np.arange(10.0))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: select(GOOD, peaks(), Gaussian(0.0)), "sigma of Gaussian noise must be positive; got 0.0"),
        (
            lambda: select(GOOD, peaks(), gaussian([1.0, -1.0] * 5)),
            r"sigma of Gaussian noise is -1 at x = 1 \(5 such points\), it must be positive; give the real",
        ),
        (lambda: answer(GOOD, peaks(), gaussian(prior=stats.norm(0, 0.5))), "below zero, which a standard deviation"),
        (lambda: select_many(GOOD, peaks()), "takes a sequence of data sets; for one there is select"),  # type: ignore[arg-type]
        (lambda: dataset([1.0, 2.0], [1.0, 2.0], units="mm"), "units must be given by axis, such as .*; got 'mm'"),
        (lambda: dataset([1.0, 2.0], [1.0, 3.0000001], counts=True), "the first is 3.00000009"),
        (lambda: Settings(chains=2.5), "chains must be a whole number; got 2.5"),  # type: ignore[arg-type]
        (lambda: models("pseudo-voigt", fixed={"fraction": 2}), "'fraction' is fixed at 2; it must be from 0 to 1"),
        (lambda: component(squared), "has an argument 'amplitude', which is what models multiply it by"),
        (lambda: select(GOOD, peaks(), gaussian([1.0, 1.0])), "sigma of Gaussian noise has 2 values for 10 points"),
        (lambda: select(dataset([0, 1, 2], [0.5, 1, 2]), peaks(), Poisson()), "not counts.*give raw counts"),
        (
            lambda: select(GOOD, peaks(), sampler="nuts"),
            "sampler must be one of 'auto', 'exchange', 'smc', 'exact' in this version",
        ),
        (lambda: select(GOOD, peaks(), device="cuda"), "there is no GPU for device='cuda'"),
        (
            lambda: select(GOOD, peaks(), device="tpu"),
            "device must be 'auto', 'cpu', 'cuda' or 'cuda:1' and so on; got 'tpu'",
        ),
        (lambda: answer(GOOD, peaks(), threads=0), "threads must be a whole number from 1 up"),
        (lambda: answer(GOOD, peaks(), threads=1.5), "threads must be a whole number from 1 up; got 1.5"),
        (lambda: answer(GOOD, peaks(), seed=-1), "seed must be a whole number from 0 up; got -1"),
        (lambda: answer(GOOD, peaks(), seed=None), "seed must be a whole number"),
        (lambda: answer(GOOD, peaks(), error="0.1"), "error must be a number; got '0.1'"),
        (lambda: answer(GOOD, peaks(), budget="5s"), "budget must be a number; got '5s'"),
        (lambda: answer(GOOD, peaks(), start="yesterday"), "start must be a Selection.*got str"),
        (lambda: answer(GOOD, peaks(), settings={"sweeps": 300}), "settings must be a Settings.*got dict"),
        (lambda: answer((GOOD.x, GOOD.y), peaks()), r"data must be a Dataset, such as Dataset\(x, y\); got tuple"),
        (lambda: answer(GOOD, [1, 2]), "candidates must be a Candidates.*got list"),
        (lambda: answer(GOOD, peaks(), 0.1), r"noise must be .*, such as Gaussian\(0.1\); got 0.1"),
        (lambda: answer(GOOD, peaks(), Poisson), r"noise must be .*, such as Poisson\(\); got <class"),
        (lambda: answer(GOOD, peaks(), "poisson"), r"noise must be .*, such as Poisson\(\); got 'poisson'"),
        (lambda: gaussian("a"), "sigma of Gaussian noise must be numbers; got 'a'"),
        (
            lambda: answer(GOOD, peaks(), gaussian(np.ones((10, 1)))),
            "sigma of Gaussian noise must be one number or have one",
        ),
        (lambda: Settings(sweeps=10), "sweeps must be 100 or more"),
        (lambda: Settings(error=0), "error must be positive"),
        (lambda: models(counts=[-1, 2]), "counts must be different whole numbers from 0 up"),
        (lambda: models(counts=[]), "counts must be different whole numbers"),
        (lambda: models(counts=3), r"counts must be different whole numbers .* or \[3\] for three alone; got 3"),
        (lambda: models(counts="12"), "counts must be different whole numbers from 0 up.*got '12'"),
        (lambda: models(counts=[1.5]), "counts must be different whole numbers from 0 up"),
        (lambda: models(background=True), "background must be None, 'constant'"),
        (lambda: models(background=1.7), "background must be None, 'constant'"),
        (lambda: answer(GOOD, models(fixed={"sigma": -1})), "width 'peak1.sigma' is fixed at -1"),
        (lambda: models(fixed={"sigma": "a"}), "parameter 'sigma' of a peak must be fixed at a number; got 'a'"),
        (
            lambda: models(fixed={"sigma": 1}, priors={"sigma": stats.norm(1, 0.1)}),
            "'sigma' has a prior and is fixed; give",
        ),
        (
            lambda: answer(GOOD, models(priors={"sigma": stats.norm(0.3, 0.3)})),
            r"peak1.sigma', norm\(0.3, 0.3\), allows values below zero, which a width cannot",
        ),
        (
            lambda: models("pseudo-voigt", priors={"fraction": stats.norm(0.5, 0.5)}),
            "allows values outside of 0 to 1, which a fraction cannot have",
        ),
        (
            lambda: models("triangle"),
            "shape must be one of 'gaussian', 'lorentzian', 'pseudo-voigt', 'voigt' or a comp",
        ),
        (lambda: models(width="wide"), "width must be left out or 'precision'"),
        (lambda: models("lorentzian", width="precision"), "is for Gaussian peaks"),
        (lambda: models(background="wavy"), "background must be None, 'constant'"),
        (lambda: models(priors={"heigth": stats.uniform(0, 1)}), "priors name 'heigth', which no model here has"),
        (lambda: models(priors={"sigma": stats.uniform(0, 0)}), "prior of 'sigma' has no support"),
        (lambda: models(priors={"sigma": stats.uniform(3, -1)}), "prior of 'sigma' has no support"),
        (lambda: Candidates(()), "candidates must be one or more models"),
        (lambda: Candidates(peaks().models, (1.0, 2.0)), "prior probabilities must be 4 positive numbers"),
        (lambda: dataset([], []), "there are no points of y"),
        (lambda: dataset([1.0], [1.0]), "is a single point"),
        (lambda: dataset([1.0, 2.0], [1.0, np.nan]), r"y \('y'\) is nan at point 1.*mask these points"),
        (lambda: dataset([1.0, np.inf], [1.0, 2.0]), r"x \('x'\) is inf at point 1"),
        (lambda: dataset([1.0, 2.0], [1.0, 2.0], sigma=[0.1, 0.0]), r"sigma of y \('y'\) is 0 at point 1"),
        (lambda: dataset([1.0, 2.0], [1.0, 2.0], sigma=-1.0), "it must be positive"),
        (lambda: dataset([1.0, 2.0], [1.0, 2.0], exposure=[1.0, 0.0]), "exposure of y"),
        (lambda: dataset([2.0, 2.0], [1.0, 2.0]), "is 2 at all 2 points; choose the field that was scanned"),
        (lambda: dataset([1.0, 2.0], [1.0]), "has 2 points and y"),
        (lambda: dataset([[1.0], [2.0]], [1.0, 2.0]), "must have one dimension"),
        (lambda: dataset(["a", "b"], [1.0, 2.0]), "is not a list of numbers"),
        (lambda: dataset([1.0, 2.0], [1.0, 2.5], counts=True), "is not counts"),
        (lambda: dataset([1.0, 2.0], [1.0, 2j]), r"y \('y'\) is not a list of numbers: they are complex"),
        (lambda: dataset([1.0, 2.0], [1.0, 1e200]), r"y \('y'\) is 1e\+200 at point 1.*mask these points"),
        (lambda: dataset([1.0, 2.0], [1.0, 2.0], sigma="a"), "sigma of y .* is not a list of numbers"),
        (lambda: dataset([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], mask=[0, 1, 2]), "give one True or False for each point"),
    ],
)
def test_bad_input_gets_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("prior", [3.0, stats.randint(1, 5)])
def test_a_prior_that_is_no_continuous_distribution_is_a_type_error(prior: Any) -> None:
    with pytest.raises(TypeError, match="prior of 'sigma' must be a frozen continuous distribution"):
        peaks(priors={"sigma": prior})


def test_a_narrow_normal_prior_of_a_width_is_taken() -> None:
    narrow = peaks(counts=[0, 1], priors={"sigma": stats.norm(0.3, 0.05)})
    assert select(GOOD, narrow, settings=SHORT).names == ("no peak", "1 peak")


def squared(x: float, amplitude: float, center: float) -> float:
    return amplitude * math.exp(-((x - center) ** 2))


def backwards(values: Any) -> Any:
    return np.asarray(values)[::-1]


@pytest.mark.parametrize("masked", [False, True])
def test_noise_given_for_each_point_follows_points_that_were_scanned_downwards(masked: bool) -> None:
    x, rng = np.linspace(-3, 3, 61), np.random.default_rng(1)
    sigma, mask = np.where(x < 0, 0.1, 0.2), np.abs(x) > 0.05
    y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + sigma * rng.standard_normal(61)
    keep = mask if masked else np.ones(61, dtype=bool)
    carried = Dataset(x, y, sigma=sigma, mask=keep)
    down = Dataset(backwards(x), backwards(y), mask=backwards(keep))
    ask = functools.partial(select, candidates=peaks(counts=[0, 1]), settings=SHORT)
    expected = ask(carried)
    for given in (backwards(sigma), backwards(sigma[keep])):
        found = ask(down, noise=Gaussian(given))
        np.testing.assert_array_equal(found.log_evidence, expected.log_evidence)
        np.testing.assert_array_equal(found.refine().log_evidence, expected.refine().log_evidence)
    counts, weights = np.rint(np.abs(y) * 20), np.linspace(0.5, 1.0, 61)
    poisson = noise_for(Dataset(backwards(x), backwards(counts), counts=True), Poisson(exposure=backwards(weights)))
    assert isinstance(poisson, Poisson)
    np.testing.assert_array_equal(poisson.exposure, weights)


def test_the_noise_of_an_answer_and_data_with_another_unit_keep_the_order_of_the_points() -> None:
    x, rng = np.linspace(3, -3, 61), np.random.default_rng(1)
    sigma, keep = np.where(x < 0, 0.1, 0.2), np.abs(x) > 0.05
    y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + sigma * rng.standard_normal(61)
    for data in (Dataset(x, y), Dataset(x, y, mask=keep)):
        ask = functools.partial(select, candidates=peaks(counts=[0, 1]), settings=SHORT)
        expected = ask(data, noise=Gaussian(sigma))
        other_unit = replace(data, units={"x": "mm"})
        for again in (ask(data, noise=expected.noise), ask(other_unit, noise=Gaussian(sigma))):
            np.testing.assert_array_equal(again.log_evidence, expected.log_evidence)


def test_noise_in_the_order_of_x_is_for_these_points_or_refused() -> None:
    x = np.linspace(3, -3, 11)
    noise = noise_for(Dataset(x, x), Gaussian(np.linspace(1, 2, 11)))
    part = replace(Dataset(x, x), mask=x > 0)
    with pytest.raises(
        ValueError, match=r"is in the order of x and has 11 values for 5 points.*given in another order"
    ):
        noise_for(part, noise)
    again = noise_for(replace(Dataset(x, x).settled(), mask=x[::-1] > 0), noise)
    np.testing.assert_array_equal(again.sigma, noise.sigma[-5:])  # type: ignore[union-attr, index]


def test_numbers_of_masked_points_may_be_anything() -> None:
    x, sigma = np.arange(10.0), np.full(10, 0.5)
    sigma[3] = np.nan
    data = Dataset(x, x, mask=x != 3)
    assert noise_for(data, Gaussian(sigma)).sigma.tolist() == [0.5] * 9  # type: ignore[union-attr]


def test_points_of_masked_arrays_are_left_out() -> None:
    x, y = np.arange(5.0), np.array([1.0, 2.0, 1e9, 2.0, 1.0])
    hot = y > 10
    expected = Dataset(x, y, mask=~hot)
    assert Dataset(x, np.ma.masked_array(y, hot)) == expected
    assert Dataset(np.ma.masked_array(x, hot), y) == expected
    assert Dataset(x, y, sigma=np.ma.masked_array(np.ones(5), hot)).n == 4


def test_components_with_priors_of_their_own_are_not_exchangeable() -> None:
    x = np.linspace(-3, 3, 61)
    y = 2 * np.exp(-0.5 * ((x + 0.6) / 0.2) ** 2) + np.exp(-0.5 * ((x - 0.8) / 0.6) ** 2)
    data = Dataset(x, y + 0.1 * np.random.default_rng(0).standard_normal(61))
    common = {"amplitude": stats.uniform(0.2, 3), "sigma": stats.uniform(0.1, 0.9), "constant": stats.norm(0, 1)}
    left, right = stats.uniform(-3, 6), stats.uniform(0, 3)
    found = [
        select(data, peaks(counts=[2], priors={**common, "peak1.center": one, "peak2.center": other}), Gaussian(0.1))
        for one, other in ((left, right), (right, left))
    ]
    apart = replace(found[0].best.model, exchangeable=())
    found.append(select(data, Candidates((apart,)), Gaussian(0.1), seed=1))
    for selection in found[1:]:
        error = np.hypot(selection.log_evidence_error, found[0].log_evidence_error)
        assert abs(selection.log_evidence - found[0].log_evidence) < 4 * error
    assert found[0].best.parameters["peak1.center"].mean == pytest.approx(-0.6, abs=0.1)
    assert found[0].best.parameters["peak2.center"].mean == pytest.approx(0.8, abs=0.1)
    assert "peak1.center ~ uniform(-3, 6), peak2.center ~ uniform(0, 3)" in " ".join(found[0].notes)
    # An earlier answer whose components were put in order lacks all other labellings: it is no start.
    alike = select(data, peaks(counts=[2], priors={**common, "center": left}), Gaussian(0.1))
    warm = select(data, Candidates((found[0].best.model,)), Gaussian(0.1), start=alike)
    np.testing.assert_array_equal(
        warm.log_evidence, select(data, Candidates((found[0].best.model,)), Gaussian(0.1)).log_evidence
    )
    with pytest.raises(ValueError, match="took components with priors of their own for exchangeable"):
        replace(alike, posteriors=(replace(alike.best, model=found[0].best.model),)).refine()


def test_each_data_set_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else errors of data sets would not be independent: of eight, the sum scattered by twice of what was stated."""
    keys = []

    class Recorded(jobs.Job):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            keys.append(tuple(self.keys[0].tolist()))

    monkeypatch.setattr(inference, "Job", Recorded)
    other = Dataset(GOOD.x, GOOD.y + 0.1)
    select_many([GOOD, other, GOOD], peaks(counts=[1]), Gaussian(1.0), settings=SHORT)
    assert keys[0] == keys[2] != keys[1]


def test_points_that_are_dense_far_from_the_middle_are_left_to_float64() -> None:
    dense = Dataset(np.geomspace(1e-3, 1e3, 121), np.zeros(121))
    even = Dataset(np.linspace(1e-3, 1e3, 121), np.zeros(121))
    pairs = Dataset(np.sort(np.concatenate([even.x, even.x + 1e-5])), np.zeros(242))
    for data, enough in ((dense, False), (even, True), (pairs, True)):
        (block,) = blocks_of([data], [Gaussian(0.1)], [])
        assert single_precision_is_enough(block) is enough


@pytest.mark.parametrize("scale", [1e-15, 1e14])
def test_the_unit_of_x_changes_no_evidence_however_large_it_is(scale: float) -> None:
    x = np.linspace(-3, 3, 61)
    y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(61)
    ask = functools.partial(select, candidates=peaks(counts=[1], background="cubic"), noise=Gaussian(0.1))
    usual, scaled = ask(Dataset(x, y)), ask(Dataset(scale * x, y))
    error = np.hypot(usual.log_evidence_error, scaled.log_evidence_error)
    assert abs(usual.log_evidence - scaled.log_evidence) < 4 * error


def test_a_model_keeps_its_own_prior_of_the_noise() -> None:
    (model,) = peaks(counts=[1]).models
    own = replace(model, priors={**model.priors, "noise_sigma": stats.loguniform(0.09, 0.11)})
    assert own.resolved(GOOD, Gaussian()).priors["noise_sigma"].support() == pytest.approx((0.09, 0.11))  # type: ignore[union-attr]
    assert "noise_sigma" not in own.resolved(GOOD, Gaussian(0.1)).priors


def test_a_point_beyond_all_bounds_is_answered_and_not_trusted() -> None:
    y = np.random.default_rng(0).standard_normal(41)
    y[7] = 2.0**32 - 1
    selection = select(Dataset(np.linspace(-3, 3, 41), y), peaks(counts=[0, 1]), Gaussian(1e-9), settings=SHORT)
    assert not selection.trustworthy
    assert not selection.decisive()


def test_a_component_that_is_no_number_is_named() -> None:
    @component
    def nowhere(x: float, p: float) -> float:
        return math.nan * x * p

    candidates = family(nowhere, [0, 1], priors={"p": stats.uniform(0, 1), "constant": stats.norm(0, 1)})
    with pytest.raises(ValueError, match=r"model '1 nowhere' gave no finite likelihood .*check components"):
        select(GOOD, candidates, Gaussian(1.0), settings=SHORT, sampler="exchange")


def test_a_posterior_far_out_in_its_prior_is_no_ground_to_decide() -> None:
    x = np.linspace(-1, 1, 41)
    data = Dataset(x, 1.25 * np.exp(-0.5 * (x / 0.3) ** 2) + 0.05 * np.random.default_rng(0).standard_normal(41))
    narrow = peaks(counts=[1], background=None, priors={"amplitude": stats.norm(0, 0.1)})
    selection = select(data, narrow, Gaussian(0.05), settings=SHORT)
    assert any("peak1.amplitude beyond 7 standard deviations of its prior; widen" in w for w in selection.warnings)


def test_prior_probabilities_say_which_models_go_on() -> None:
    x = np.linspace(-3, 3, 41)
    data = Dataset(x, 2 * np.exp(-0.5 * (x / 0.4) ** 2) + 0.3 * np.random.default_rng(0).standard_normal(41))
    asked = peaks(counts=[1, 2], probabilities=[1.0, 1e-14])
    settings = Settings(error=0.002, sweeps=200, longest=600)
    selection = select(data, asked, Gaussian(0.3), settings=settings, sampler="exchange")
    one, two = (len(standing.infos[0].misfit) for standing in selection.standings)
    assert selection.best.model.name == "1 peak"
    assert one > two == settings.sweeps


@pytest.mark.parametrize("probability", [95, -1, 0, 1])
def test_a_probability_that_is_none_is_refused(probability: float) -> None:
    selection = select(GOOD, peaks(counts=[0]), settings=SHORT)
    with pytest.raises(ValueError, match="probability must lie between 0 and 1"):
        selection.decisive(probability)


def test_x_out_of_order_or_repeated_is_put_right_and_said() -> None:
    data = dataset([0.0, 2.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    assert data.x.tolist() == [0.0, 1.0, 1.0, 2.0]
    assert data.y.tolist() == [1.0, 3.0, 4.0, 2.0]
    assert "x ('x') did not run one way" in data.notes[0]
    assert "x ('x') repeats 1 of its 4 values" in data.notes[1]
    assert dataset([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]).notes == ()
    assert dataset([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]) == dataset([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])


def test_data_that_have_travelled_cannot_be_changed_either() -> None:
    with pytest.raises(ValueError, match="read-only"):
        pickle.loads(pickle.dumps(GOOD)).y[0] = 7.0


def test_masked_points_are_left_out() -> None:
    data = dataset([0.0, 1.0, 2.0], [1.0, np.nan, 3.0], sigma=[0.1, 0.0, 0.3], mask=[True, False, True])
    assert data.n == 2
    assert data.sigma is not None
    assert data.sigma.tolist() == [0.1, 0.3]
    assert hash(data) != hash(dataset([0.0, 2.0], [1.0, 3.0]))


def test_a_component_must_be_something_that_compiles() -> None:
    with pytest.raises(ValueError, match="first argument of component 'wrong' must be x"):

        @component
        def wrong(t: float) -> float:
            return t

    table = [1.0, 2.0]
    with pytest.raises(TypeError, match="component 'lookup' refers to 'table'"):

        @component
        def lookup(x: float, i: float) -> float:
            return table[int(i)] * x

    with pytest.raises(TypeError, match="must be written with def"):
        component(lambda x, i: i * x)

    def innocent(x: float, other: Any = lambda x: 2 * x) -> float:
        return x

    with pytest.raises(TypeError, match="must be written with def"):
        component((innocent.__defaults__ or ())[0])

    @functools.wraps(innocent)
    def wrapper(x: float) -> float:
        return 3 * x

    with pytest.raises(TypeError, match="must be written with def"):
        component(wrapper)

    twice = (innocent.__defaults__ or ())[0]
    with pytest.raises(TypeError, match="must be written with def"):

        @component
        def through(x: float) -> float:
            value: float = twice(x)
            return value

    with pytest.raises(TypeError, match="component 'nested' defines a function inside"):

        @component
        def nested(x: float, p: float) -> float:
            def square(u: float) -> float:
                return u * u

            return square(x) * p

    with pytest.raises(ValueError, match="has no parameter 'widht'"):

        @component(roles={"widht": "width"})
        def bump(x: float, width: float) -> float:
            return x / width

    with pytest.raises(ValueError, match="role of parameter 'width' must be one of"):

        @component(roles={"width": "length"})
        def dent(x: float, width: float) -> float:
            return x / width


def double(x: float) -> float:
    return 2.0 * x


def test_functions_that_a_component_calls_keep_their_meaning() -> None:
    twice = double

    def aliased(x: float) -> float:
        return 1.0 + twice(x)

    assert capture(aliased)(3.0) == 7.0

    def another() -> Any:
        def double(x: float) -> float:
            return 3.0 * x

        return double

    other = another()

    def torn(x: float) -> float:
        value: float = twice(x) + other(x)
        return value

    with pytest.raises(TypeError, match="'torn' and the functions that it calls mean different things by 'double'"):
        capture(torn)


def test_a_component_that_cannot_be_compiled_is_named_with_the_reason() -> None:
    @component
    def wordy(x: float, p: float) -> float:
        return "far" if x > p else 1.0  # type: ignore[return-value]

    @component
    def opened(x: float, p: float) -> float:
        with p as q:  # type: ignore[attr-defined]
            return float(q * x)

    def sentence(name: str, reason: str) -> str:
        named = f"component '{name}' of model '1 line' cannot be compiled: {reason}"
        return f"^{named}; it must be plain arithmetic on numbers$"

    wrong, refused = (family(c, [0, 1], priors={"p": stats.uniform(0, 1)}, noun="line") for c in (wordy, opened))
    # The compiler's words up to Python 3.11, and from 3.12 on.
    words = r"(Cannot unify {0} and|Can't unify return type from the following types: {0},) float32"
    with pytest.raises(ValueError, match=sentence("wordy", words.format(r"Literal\[str\]\(far\)"))):
        select(GOOD, wrong, Gaussian(1.0), settings=SHORT)
    with pytest.raises(ValueError, match=sentence("opened", "The 'with .*' construct is not supported")):
        warm_up(refused)


def test_default_priors_of_counts_are_rates_by_the_exposure_of_the_noise() -> None:
    x, y = np.arange(11.0), np.array([4.0, 6, 8, 12, 40, 84, 44, 12, 8, 6, 4])
    plain, exposed = Dataset(x, y, counts=True), dataset(x, y, counts=True, exposure=2.0)

    def top(data: Dataset, noise: Noise | None) -> float:
        (model,) = peaks(counts=[1]).resolved(data, noise_for(data, noise)).models
        prior = model.priors["peak1.amplitude"]
        assert prior is not None
        return float(prior.support()[1])

    assert top(plain, Poisson(2.0)) == pytest.approx(60.0)
    assert top(plain, Poisson(np.full(11, 2.0))) == pytest.approx(60.0)
    assert top(exposed, None) == top(exposed, Poisson()) == pytest.approx(60.0)
    assert top(exposed, Poisson(4.0)) == pytest.approx(30.0)
    assert top(exposed, Gaussian(1.0)) == top(exposed, Gaussian()) == pytest.approx(120.0)


def test_priors_that_differ_in_the_seventh_digit_have_digests_of_their_own() -> None:
    def digest(low: float) -> str:
        return peaks(counts=[1], priors={"center": stats.uniform(low, 1)}).digest

    assert digest(12820.01) != digest(12820.04)
    assert digest(12820.01) == digest(12820.01)


def test_coefficients_of_a_polynomial_have_units_and_share_a_kind() -> None:
    (model,) = peaks(counts=[0], background="quadratic").models
    units = [model.parameter(name).unit for name in model.parameters]
    assert units == ["y", "y/x", "y/x^2"]
    assert len({shape_source(term.component) for term in model.terms}) == 1


def test_a_shape_parameter_without_a_prior_is_asked_for() -> None:
    @component
    def skewed(x: float, center: float, skew: float) -> float:
        return (x - center) * skew

    with pytest.raises(ValueError, match=r"there is no default prior for 'skewed1.skew': give priors=\{'skew': "):
        select(GOOD, family(skewed, [1]), Gaussian(1.0))


def test_what_has_a_closed_form_waits_for_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(single: bool) -> None:
        raise AssertionError("kernels were asked for")

    monkeypatch.setattr(devices, "kernels", never)
    candidates = linear({"slope": "x", "offset": "1"})
    for noise in (None, Gaussian(), Gaussian(0.1)):
        warm_up(candidates, noise)
    with pytest.raises(AssertionError, match="kernels were asked for"):
        warm_up(candidates, Poisson())
