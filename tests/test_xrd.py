"""Bragg peaks: positions of both K-alpha lines, Caglioti's law, and how sure positions are."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbc import Family, curve, outcome, score, uniformity
from scipy import stats

from bluesky_bayes import Analysis, Dataset, Selection, select
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import xrd
from bluesky_bayes.families.xrd import K_ALPHA, transition, transition_peaks
from bluesky_bayes.kernels.build import kernels
from bluesky_bayes.noise import Poisson
from bluesky_bayes.priors import at_value
from bluesky_bayes.summaries import curves_of
from bluesky_bayes.tasks import blocks_of, make_task

CALIBRATED = Family(
    np.linspace(29.6, 30.5, 37),
    xrd(
        counts=[1, 2],
        width="shared",
        shared=["fraction"],
        priors={
            "amplitude": stats.uniform(20, 80),
            "center": stats.uniform(29.8, 0.5),
            "fwhm": stats.uniform(0.06, 0.08),
            "fraction": stats.uniform(0.0, 1.0),
            "constant": stats.uniform(5, 25),
        },
    ),
)
X = np.linspace(29.75, 30.25, 126)
COUNTED = {"counts": True, "units": {"x": "deg", "y": "counts"}}


def two_theta(wavelength: float, d: float) -> float:
    """By Bragg's law, degrees."""
    return 2.0 * float(np.degrees(np.arcsin(wavelength / (2.0 * d))))


def pseudo_voigt(x: Array, center: float, fwhm: float, fraction: float) -> Array:
    """By scipy's distributions, scaled to unit height."""
    lorentzian, gaussian = stats.cauchy(center, fwhm / 2), stats.norm(center, fwhm / np.sqrt(8 * np.log(2)))
    mixed: Array = fraction * lorentzian.pdf(x) / lorentzian.pdf(center)
    mixed += (1 - fraction) * gaussian.pdf(x) / gaussian.pdf(center)
    return mixed


def one_peak(x: Array, theta: dict[str, float], **options: Any) -> Array:
    """Curve of the model with one peak and no background."""
    (model,) = xrd(counts=[1], background=None, **options).resolved(Dataset(x, x), Poisson()).models
    names = {name.rsplit(".", 1)[-1]: name for name in model.parameters}
    return curve(model, x, {names[name]: value for name, value in theta.items()})


@pytest.mark.parametrize("anode", K_ALPHA)
@pytest.mark.parametrize("d", [0.9, 1.6, 3.1])
def test_both_lines_of_a_doublet_are_where_braggs_law_puts_them(anode: str, d: float) -> None:
    wavelength, wavelength2 = K_ALPHA[anode]
    if wavelength2 > 1.9 * d:
        return
    first, second = two_theta(wavelength, d), two_theta(wavelength2, d)
    x = np.linspace(first - 1.0, second + 1.0, 301)
    found = one_peak(x, {"amplitude": 7.0, "center": first, "fwhm": 0.1, "fraction": 0.3}, radiation=anode)
    expected = 7.0 * (pseudo_voigt(x, first, 0.1, 0.3) + 0.5 * pseudo_voigt(x, second, 0.1, 0.3))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_wavelength_and_a_ratio_of_zero_make_single_lines() -> None:
    theta = {"amplitude": 7.0, "center": 30.0, "fwhm": 0.1, "fraction": 0.3}
    expected = 7.0 * pseudo_voigt(X, 30.0, 0.1, 0.3)
    np.testing.assert_allclose(one_peak(X, theta, radiation=0.8), expected, rtol=1e-12)
    np.testing.assert_allclose(one_peak(X, theta, radiation="Cu", ratio=0.0), expected, rtol=1e-12)


@pytest.mark.parametrize("center", [25.0, 60.0, 110.0])
def test_widths_follow_the_law_of_caglioti(center: float) -> None:
    u, v, w = 0.02, -0.012, 0.006
    tangent = np.tan(np.radians(center / 2))
    fwhm = float(np.sqrt(u * tangent**2 + v * tangent + w))
    x = np.linspace(center - 0.5, center + 0.5, 101)
    expected = pseudo_voigt(x, center, fwhm, 0.3)
    theta = {"amplitude": 1.0, "center": center, "fraction": 0.3}
    np.testing.assert_allclose(one_peak(x, theta, radiation=1.5, width=(u, v, w)), expected, rtol=1e-12)
    theta |= {"u": u, "v": v, "w": w}
    np.testing.assert_allclose(one_peak(x, theta, radiation=1.5, width="caglioti"), expected, rtol=1e-12)


def kernel_curve(data: Dataset, theta: dict[str, float], single: bool) -> Array:
    """Curve of one peak by the compiled kernels."""
    (model,) = xrd(counts=[1], width="shared").resolved(data, Poisson()).models
    task = make_task(blocks_of([data], [Poisson()], [model]), model, single)
    z = [float(at_value(table, np.array(theta[name]))) for name, table in zip(theta, task.tables, strict=True)]
    curves, _ = curves_of(kernels(single), task, np.array([z]))
    values: Array = curves[0, : data.n].astype(np.float64)
    return values


def test_float32_moves_a_peak_by_less_than_a_hundredth_of_its_error() -> None:
    data = Dataset(X, np.round(transition(X, 0)), counts=True)
    theta = {"amplitude": 3e4, "center": 29.98, "fwhm": 0.03, "fraction": 0.4, "constant": 300.0}
    single, double = (kernel_curve(data, theta, s) for s in (True, False))
    slope = np.gradient(double, X)
    shift = np.sum((single - double) * slope / double) / np.sum(slope**2 / double)
    assert abs(shift) < 1e-6
    assert np.max(np.abs(single - double) / np.sqrt(double)) < 0.05


def frame_answer(frame: int, seed: int = 0) -> Selection:
    counts = np.random.default_rng([seed, frame]).poisson(transition(X, frame))
    priors = {
        "amplitude": stats.uniform(3_000, 42_000),
        "center": stats.uniform(29.85, 0.25),
        "fwhm": stats.uniform(0.02, 0.03),
        "constant": stats.uniform(0, 1_000),
    }
    candidates = xrd(counts=[len(transition_peaks(frame))], radiation=0.8, width="shared", priors=priors)
    return select(Dataset(X, counts, **COUNTED), candidates, threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", [50, 100, 199])
def test_positions_at_30000_counts_are_sure_to_a_ten_thousandth_of_a_degree(frame: int) -> None:
    answer = frame_answer(frame)
    assert answer.trustworthy
    assert answer.best.diagnostics.single
    for i, (_, true) in enumerate(transition_peaks(frame), start=1):
        center = answer.best.parameters[f"peak{i}.center"]
        assert center.sd < 1e-4
        assert abs(center.mean - true) < 4.0 * center.sd


def test_a_doublet_is_one_peak_and_without_its_second_line_it_takes_two() -> None:
    first = 44.0
    d = 1.5405929 / 2 / np.sin(np.radians(first / 2))
    x = np.linspace(43.6, 44.6, 101)
    rate = 30 + 1_000 * (pseudo_voigt(x, first, 0.08, 0.4) + 0.5 * pseudo_voigt(x, two_theta(1.5444274, d), 0.08, 0.4))
    data = Dataset(x, np.random.default_rng(1).poisson(rate), **COUNTED)  # type: ignore[arg-type]
    priors = {"amplitude": stats.uniform(100, 1_500), "fwhm": stats.uniform(0.05, 0.1)}
    options: dict[str, Any] = {"counts": [1, 2], "width": "shared", "shared": ["fraction"], "priors": priors}
    doublet, single = (select(data, xrd(ratio=ratio, **options), threads=1) for ratio in (0.5, 0.0))
    assert doublet.best.model.name == "1 peak"
    assert doublet.decisive()
    assert single.best.model.name == "2 peaks"
    found = doublet.best.parameters
    assert abs(found["peak1.center"].mean - first) < 4 * found["peak1.center"].sd
    assert abs(found["peak1.d"].mean - d) < 4 * found["peak1.d"].sd
    area = 1.5 * 1_000 * 0.5 * 0.08 * (0.4 * np.pi + 0.6 * np.sqrt(np.pi / np.log(2)))
    assert abs(found["peak1.area"].mean - area) < 4 * found["peak1.area"].sd
    assert (doublet.best.unit("peak1.d", data.units), doublet.best.unit("peak1.area", data.units)) == (
        "Å",
        "deg*counts",
    )


def test_a_narrow_window_tells_a_width_and_not_the_three_numbers_of_the_law() -> None:
    x = np.linspace(29.5, 30.5, 101)
    rate = 20 + 2_000 * pseudo_voigt(x, 30.0, 0.1, 0.4)
    data = Dataset(x, np.random.default_rng(2).poisson(rate), **COUNTED)  # type: ignore[arg-type]
    (posterior,) = select(data, xrd([1], 1.0, width="caglioti"), threads=1).posteriors
    fwhm = posterior.parameters["peak1.fwhm"]
    assert fwhm.sd < 0.003
    assert abs(fwhm.mean - 0.1) < 4 * fwhm.sd
    prior: Any = posterior.model.priors["peak.v"]
    assert posterior.parameters["peak.v"].sd > 0.3 * prior.std()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radiation": "Zn"}, "radiation must be one of 'Cr'"),
        ({"radiation": -1.0}, "positive wavelength"),
        ({"ratio": -0.5}, "ratio of K-alpha2"),
        ({"width": "instrument"}, "width must be one of 'own'"),
        ({"width": (0.1, 0.2)}, "U, V and W"),
        ({"fixed": {"sigma": 1.0}}, "no parameter 'sigma'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        xrd(counts=[1], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"radiation": "Mo", "ratio": 0.497, "priors": {"fwhm": stats.uniform(0.01, 0.1)}},
        {"radiation": 0.8, "width": (0.02, -0.01, 0.006), "background": None},
        {"width": "caglioti", "fixed": {"fraction": 0.5}},
    ],
)
def test_a_recipe_makes_the_same_candidates_again(options: dict[str, Any], tmp_path: Path) -> None:
    analysis = Analysis(xrd(counts=[1, 2], **options), x="two_theta", y="det")
    analysis.save(tmp_path / "xrd.toml")
    assert Analysis.load(tmp_path / "xrd.toml").candidates.digest == analysis.candidates.digest


def test_the_recipe_on_the_page_makes_candidates(repository: Path) -> None:
    page = (repository / "docs" / "families" / "xrd.md").read_text(encoding="utf-8")
    recipe = page.split("```toml\n")[1].split("```")[0]
    assert Analysis.from_table(tomllib.loads(recipe)).candidates.names == ("1 peak", "2 peaks")


def test_truths_lie_anywhere_in_their_posteriors_and_counts_of_peaks_are_as_probable_as_stated() -> None:
    outcomes = [outcome("xrd", "known", seed) for seed in range(30)]
    names = {name for result in outcomes for name in result.ranks}
    p = [uniformity([result.ranks[name] for result in outcomes if name in result.ranks]).p for name in names]
    assert min(p) * len(p) > 1e-3
    assert abs(score(outcomes).deviation) < 3.3
