"""Relaxation: its curves, what simulated and real data say, and the files it reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbc import Family, outcome, score
from scipy import optimize, stats
from test_calibration import FALSE_ALARM, smallest_p

from bluesky_bayes import Analysis, Dataset, Selection, Settings, select, select_many
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import relaxation
from bluesky_bayes.families.relaxation import exponential, samarium_sulfide, stretched
from bluesky_bayes.readers.relaxation import simfit, t1ints, vdlist

CALIBRATED = Family(
    np.geomspace(0.01, 10.0, 33),
    relaxation(
        priors={
            "amplitude": stats.uniform(10, 80),
            "rate": stats.loguniform(0.1, 50),
            "constant": stats.uniform(5, 25),
        },
    ),
)
LONG = Settings(sweeps=2000)
T = np.geomspace(1e-3, 10, 60)
NOISE = np.random.default_rng(0).standard_normal(T.size)
LEAST = stats.uniform(0.1, 1.0)
"""Amplitudes below a tenth are not in question."""


def three_sites() -> Array:
    rates, amplitudes = np.array([0.5, 8.0, 120.0]), np.array([0.3, 0.3, 0.4])
    curve: Array = (1 - np.exp(-np.outer(T, rates))) @ amplitudes
    return curve


def answers(curve: Array, ratios: list[float], **options: Any) -> list[Selection]:
    candidates = relaxation(priors={"amplitude": LEAST}, **options)
    return select_many([Dataset(T, curve + NOISE / ratio) for ratio in ratios], candidates, settings=LONG)


@pytest.mark.parametrize(("form", "level", "depth"), [("recovery", 1, 1), ("inversion", 1, 2), ("decay", 0, -1)])
def test_curves_are_those_of_the_equation(form: str, level: float, depth: float) -> None:
    t = np.array([0.0, 0.01, 0.7, 30.0])
    model = relaxation(form, [2], [1]).models[0]
    assert [slot.offset for slot in model.terms[0].slots[-2:]] == [level, depth]
    expected = 3 * {"recovery": 1 - np.exp(-2 * t), "inversion": 1 - 2 * np.exp(-2 * t), "decay": np.exp(-2 * t)}[form]
    assert np.allclose(exponential(t, 3, 2, level, depth), expected, atol=1e-14)
    assert np.allclose(stretched(t, 3, 2, 1, level, depth), expected, atol=1e-14)
    assert np.allclose(stretched(t, 1, 2, 0.4, 0, -1), np.exp(-((2 * t) ** 0.4)), atol=1e-14)


def test_models_are_named_by_their_numbers_and_with_or_without_offset() -> None:
    found = relaxation("decay", [2], [1], [(1, 1)], offset="both")
    assert found.names[:3] == ("1 stretched exponential", "2 exponentials", "1 exponential + 1 stretched exponential")
    assert found.names[3:] == tuple(f"{name} without offset" for name in found.names[:3])
    assert "constant" in found.models[0].parameters
    assert "constant" not in found.models[3].parameters


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "echo"}, "form must be one of"),
        ({"offset": "maybe"}, "offset must be"),
        ({"exponentials": [0]}, "from 1 up"),
        ({"exponentials": [1, 1]}, "different numbers"),
        ({"exponentials": [], "stretched_exponentials": []}, "one or more"),
        ({"priors": {"T1": stats.uniform(0, 1)}}, "which no model here has"),
    ],
)
def test_what_makes_no_models_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        relaxation(**options)


def test_a_recipe_makes_the_same_candidates_again(tmp_path: Path) -> None:
    candidates = relaxation("inversion", [1, 3], [2], [(1, 1)], "both", {"rate": stats.loguniform(1, 10)}, [0.125] * 8)
    analysis = Analysis(candidates, x="delay", settings=LONG)
    analysis.save(tmp_path / "recipe.toml")
    assert Analysis.load(tmp_path / "recipe.toml").digest == analysis.digest
    assert Analysis.from_table({"candidates": {"family": "relaxation"}}).candidates.digest == relaxation().digest


def test_three_exponentials_are_found_and_less_surely_the_larger_the_noise() -> None:
    quiet, loud = answers(three_sites(), [100, 10], exponentials=[1, 2, 3, 4])
    assert quiet.best.model.name == "3 exponentials"
    assert quiet.trustworthy
    assert set(quiet.in_question) <= {"3 exponentials", "4 exponentials"}
    for name, truth in (("amplitude", (0.3, 0.3, 0.4)), ("rate", (0.5, 8.0, 120.0))):
        for i, value in enumerate(truth, start=1):
            found = quiet.best.parameters[f"exponential{i}.{name}"]
            assert abs(found.mean - value) < 4 * found.sd
    probability = [answer.probabilities[answer.names.index("3 exponentials")] for answer in (quiet, loud)]
    assert probability[0] > 0.8  # replicas and particles agree on 1.95 nats
    assert probability[1] < 0.7
    assert len(loud.in_question) > 2


def test_a_stretched_exponential_is_found_and_less_surely_the_larger_the_noise() -> None:
    quiet, loud = answers(1 - np.exp(-((5 * T) ** 0.7)), [100, 10], exponentials=[1, 2, 3])
    assert quiet.best.model.name == "1 stretched exponential"
    assert quiet.probabilities.max() > 0.9
    assert quiet.trustworthy
    for name, value in (("amplitude", 1.0), ("rate", 5.0), ("beta", 0.7)):
        found = quiet.best.parameters[f"stretched exponential1.{name}"]
        assert abs(found.mean - value) < 4 * found.sd
    assert loud.probabilities[loud.names.index("1 stretched exponential")] < 0.7
    assert len(loud.in_question) > 1


def test_the_posterior_of_well_determined_rates_is_that_of_least_squares() -> None:
    def curve(t: Array, constant: float, a: float, w: float, b: float, v: float) -> Array:
        return constant + a * (1 - np.exp(-w * t)) + b * (1 - np.exp(-v * t))

    y = curve(T, 0.1, 0.5, 0.4, 0.5, 40.0) + 0.002 * NOISE
    best, covariance = optimize.curve_fit(curve, T, y, p0=(0.1, 0.5, 0.4, 0.5, 40.0))
    (posterior,) = select(
        Dataset(T, y), relaxation(exponentials=[2], stretched_exponentials=[]), settings=LONG
    ).posteriors
    names = ("constant", "exponential1.amplitude", "exponential1.rate", "exponential2.amplitude", "exponential2.rate")
    sd = np.sqrt(np.diag(covariance)) * np.sqrt(55 / 53)
    for name, value, error in zip(names, best, sd, strict=True):
        found = posterior.parameters[name]
        assert abs(found.mean - value) < 0.3 * error
        assert found.sd == pytest.approx(error, rel=0.15)
    assert np.allclose(posterior.derived["exponential2.T1"] * posterior.draws["exponential2.rate"], 1.0)
    assert posterior.unit("exponential1.T1", {"x": "s"}) == "s"
    assert posterior.unit("exponential1.rate", {"x": "s"}) == "1/s"


def test_the_model_of_a_series_changes_where_its_physics_does() -> None:
    t = np.geomspace(1e-4, 10, 41)
    rng = np.random.default_rng(1)
    temperatures = (300, 120, 100, 80, 20)
    series = [Dataset(t, samarium_sulfide(t, kelvin) + 0.01 * rng.standard_normal(t.size)) for kelvin in temperatures]
    found = select_many(series, relaxation())
    assert [answer.best.model.name for answer in found] == ["1 stretched exponential"] * 3 + ["2 exponentials"] * 2
    assert all(answer.decisive() for answer in found)
    beta = found[1].best.parameters["stretched exponential1.beta"]
    assert abs(beta.mean - 0.7) < 4 * beta.sd


def test_oxygen_17_decides_its_offset_and_nothing_else(data_folder: Path) -> None:
    data = simfit(data_folder / "nmr" / "17O_T1_satrec" / "ct1t2.txt")
    answer = select(data, relaxation(offset="both", priors={"rate": stats.loguniform(1, 2e4)}), settings=LONG)
    assert set(answer.in_question) == {"1 exponential", "1 stretched exponential", "2 exponentials"}
    assert "undecided" in answer.verdict
    assert answer.trustworthy
    score = dict(zip(answer.names, answer.log_evidence - answer.log_evidence.max(), strict=True))
    assert all(score[name] < -10 for name in answer.names if "without offset" in name)
    assert answer["1 exponential"].parameters["exponential1.T1"].mean == pytest.approx(4.46e-3, abs=4 * 0.16e-3)


def test_what_relaxed_before_the_first_delay_is_an_offset_by_another_name(data_folder: Path) -> None:
    data = simfit(data_folder / "nmr" / "17O_T1_satrec" / "ct1t2.txt")
    answer = select(data, relaxation(offset="both"), settings=LONG)
    assert "2 exponentials without offset" in answer.in_question
    assert "presses exponential2.rate at the upper edge" in answer["2 exponentials without offset"].warnings[0]


def test_topspin_files_give_delays_and_signals(data_folder: Path) -> None:
    folder = data_folder / "nmr" / "17O_T1_satrec"
    delays = vdlist(folder / "vdlist")
    report, integrals = simfit(folder / "ct1t2.txt"), t1ints(folder / "t1ints.txt", delays)
    assert np.allclose(report.x, delays, rtol=1e-12)
    assert np.array_equal(integrals.x, t1ints(folder / "t1ints.txt").x)
    assert report.y[11] == 1.0
    assert integrals.y[0] == 2.85e9
    assert report.units == {"x": "s"}


def test_delays_may_have_units(tmp_path: Path) -> None:
    path = tmp_path / "vdlist"
    path.write_text("500u\n3m\n0.1\n2s\n1e-3\n")
    assert np.allclose(vdlist(path), [5e-4, 3e-3, 0.1, 2.0, 1e-3])


@pytest.mark.parametrize(
    ("text", "sentence"), [("", "is empty"), ("1m\nfive", "delay 2 is no time"), ("1-2", "is no number")]
)
def test_a_list_that_is_no_list_of_delays_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "vdlist").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        vdlist(tmp_path / "vdlist")


def test_damaged_reports_are_refused_in_words(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "nmr" / "17O_T1_satrec"
    text = (folder / "ct1t2.txt").read_text()
    path = tmp_path / "damaged.txt"
    for damaged, sentence in (
        ("something else", "no report of simfit"),
        (text[: text.index("   12 ")], "says 15 points for peak 1 and has 11"),
        (text.replace("1.834e-01", "1.83?e-01"), "point 1 is no number"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=sentence):
            simfit(path)
    with pytest.raises(ValueError, match="has no peak 2: it has 1"):
        simfit(folder / "ct1t2.txt", peak=2)
    path.write_text("\n".join((folder / "t1ints.txt").read_text().splitlines()[:-2]))
    with pytest.raises(ValueError, match="not a whole t1ints"):
        t1ints(path)
    with pytest.raises(ValueError, match="15 integrals and there are 3 delays"):
        t1ints(folder / "t1ints.txt", np.array([1.0, 2.0, 3.0]))


def test_truths_lie_anywhere_in_their_posteriors_and_models_are_as_probable_as_stated() -> None:
    outcomes = [outcome("relaxation", "unknown", seed) for seed in range(40)]
    assert smallest_p(outcomes) > FALSE_ALARM
    assert abs(score(outcomes).deviation) < 3.3
