"""Photoelectron lines with their Shirley steps, and the carbon 1s spectrum of PET."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sbc import Family, outcome, score
from scipy import stats
from test_calibration import FALSE_ALARM, smallest_p

from bluesky_bayes import Analysis, Dataset, Poisson, select
from bluesky_bayes.components import Component
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import xps
from bluesky_bayes.families.xps import PET, SHAPES, metal_line, pet
from bluesky_bayes.readers.xps import read_csv
from bluesky_bayes.recipes import candidates_of

CALIBRATED = Family(
    np.linspace(281.0, 291.0, 51),
    xps(
        counts=[1, 2],
        shared=["fraction"],
        priors={
            "amplitude": stats.uniform(30, 90),
            "center": stats.uniform(283, 5),
            "fwhm": stats.uniform(0.8, 1.2),
            "fraction": stats.uniform(0, 1),
            "constant": stats.uniform(5, 25),
        },
    ),
)
N_SETS = 30
POISSON_PET = Poisson(scale=1.0427)


def reference_line(u: Array, fraction: float) -> Array:
    gauss: Array = np.exp(-math.log(2) * u**2)
    return fraction / (1 + u**2) + (1 - fraction) * gauss


def reference_doniach(u: Array, asymmetry: float) -> Array:
    """As Doniach and Sunjic write it, of height one."""
    angle = math.pi * asymmetry / 2 - (1 - asymmetry) * np.arctan(u)
    curve = np.cos(angle) / (1 + u**2) ** ((1 - asymmetry) / 2)
    top = math.tan(math.pi * asymmetry / (2 * (2 - asymmetry)))
    at_top = math.pi * asymmetry / 2 - (1 - asymmetry) * math.atan(top)
    found: Array = curve / (math.cos(at_top) / (1 + top**2) ** ((1 - asymmetry) / 2))
    return found


def counted(curve: Array) -> Array:
    return np.random.default_rng(0).poisson(curve).astype(np.float64)


def check_step(component: Component, x: Array, *values: float) -> None:
    """The step, from the first x on, against the sum over the line without it."""
    grid = np.linspace(x[0], x[-1], 100 * (x.size - 1) + 1)
    curve = component(grid, 1.0, *values, 0.0)
    total = np.concatenate([[0.0], np.cumsum(0.5 * (curve[1:] + curve[:-1]) * np.diff(grid))])[::100]
    step = component(x, 1.0, *values, 1.0) - curve[::100]
    assert_allclose(step - step[0], total, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_a_line_is_a_pseudo_voigt_and_its_own_integral(fraction: float) -> None:
    line, _ = SHAPES["pseudo-voigt"]
    x = np.linspace(280.0, 290.0, 101)
    bare = line(x, 1.0, 285.0, 1.2, fraction, 0.0)
    assert_allclose(bare, reference_line((x - 285.0) / 0.6, fraction), atol=1e-12)
    check_step(line, x, 285.0, 1.2, fraction)
    assert abs(line(np.array([0.0]), 1.0, 285.0, 1.2, fraction, 1.0)[0]) < 2e-3, "nothing far below"


@pytest.mark.parametrize("asymmetry", [0.0, 0.05, 0.25])
def test_a_metal_line_is_that_of_doniach_and_sunjic_and_its_own_integral(asymmetry: float) -> None:
    x = np.linspace(80.0, 90.0, 101)
    bare = metal_line(x, 1.0, 84.0, 0.3, asymmetry, 0.0)
    assert_allclose(bare, reference_doniach((x - 84.0) / 0.3, asymmetry), atol=3e-4 if asymmetry == 0 else 1e-6)
    check_step(metal_line, x, 84.0, 0.3, asymmetry)
    assert abs(metal_line(np.array([-2000.0]), 1.0, 84.0, 0.3, asymmetry, 1.0)[0]) < 1e-3, "nothing far below"
    fine = np.linspace(83.5, 84.5, 10_001)
    ((_, top),) = metal_line.derived
    highest = metal_line(fine, 1.0, 84.0, 0.3, asymmetry, 0.0)
    assert abs(fine[np.argmax(highest)] - top(1.0, 84.0, 0.3, asymmetry, 0.0)) < 2e-4
    assert abs(highest.max() - 1.0) < 1e-6


def test_steps_are_the_background_to_which_iterations_of_shirley_converge() -> None:
    line, _ = SHAPES["pseudo-voigt"]
    x = np.linspace(275.0, 295.0, 2001)
    y = 100.0 + line(x, 1000.0, 284.0, 1.1, 0.0, 0.03) + line(x, 400.0, 286.0, 1.3, 0.0, 0.03)
    background = np.full_like(y, y[0])
    for _ in range(30):
        rest = y - background
        area = np.concatenate([[0.0], np.cumsum(0.5 * (rest[1:] + rest[:-1]) * np.diff(x))])
        background = y[0] + (y[-1] - y[0]) * area / area[-1]
    bare = line(x, 1000.0, 284.0, 1.1, 0.0, 0.0) + line(x, 400.0, 286.0, 1.3, 0.0, 0.0)
    assert_allclose(y - background, bare, atol=0.02)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_doublet_is_two_lines_and_its_area_that_of_both(shape: str) -> None:
    single, pair = SHAPES[shape]
    x = np.linspace(80.0, 92.0, 121)
    both = single(x, 1.0, 84.0, 0.7, 0.2, 0.02) + 0.75 * single(x, 1.0, 87.67, 0.7, 0.2, 0.02)
    assert_allclose(pair(x, 1.0, 84.0, 0.7, 0.2, 0.02, 3.67, 0.75), both, atol=1e-9)
    ((one, of_one),), ((_, of_both),) = single.derived, pair.derived
    factor = 1.75 if one.name == "area" else 1.0
    assert of_both(2.0, 84.0, 0.7, 0.2, 0.02, 3.67, 0.75) == pytest.approx(factor * of_one(2.0, 84.0, 0.7, 0.2, 0.02))


def test_the_ratio_of_a_doublet_is_that_of_its_states_and_all_share_what_the_atom_fixes() -> None:
    (model,) = xps(counts=[2], orbital="d", priors={"splitting": stats.norm(5.3, 0.1)}).models
    slots = dict(zip([p.name for p in model.terms[1].component.parameters], model.terms[1].slots, strict=True))
    assert slots["ratio"].parameter is None and slots["ratio"].offset == pytest.approx(2 / 3)
    assert (slots["splitting"].parameter, slots["scattering"].parameter) == ("doublet.splitting", "doublet.scattering")
    free = {"splitting": stats.norm(5.3, 0.1), "ratio": stats.uniform(0.5, 0.3)}
    assert "doublet.ratio" in xps(counts=[2], orbital="d", priors=free).models[0].parameters


def test_a_gold_doublet_of_fixed_splitting_is_found() -> None:
    _, pair = SHAPES["doniach-sunjic"]
    x = np.linspace(80.0, 92.0, 121)
    curve = 40.0 + pair(x, 800.0, 84.0, 0.35, 0.05, 0.03, 3.67, 0.75)
    data = Dataset(x, counted(curve), counts=True)
    candidates = xps("doniach-sunjic", counts=[1], orbital="f", fixed={"splitting": 3.67})
    found = select(data, candidates, seed=0).best.parameters
    for name, truth in (("doublet1.center", 84.0), ("doublet1.asymmetry", 0.05), ("doublet.scattering", 0.03)):
        assert abs(found[name].mean - truth) < 4 * found[name].sd, name


def test_the_carbon_of_pet_has_three_lines_and_a_shake_up(data_folder: Path) -> None:
    spectrum = read_csv(data_folder / "xps" / "PET_C1s.csv")
    assert spectrum.n == 401 and spectrum.x[0] < spectrum.x[-1]
    selection = select(spectrum, xps(counts=[3, 4], shared=["fraction"]), POISSON_PET, seed=0)
    found = selection.best.parameters
    assert selection.best.model.name == "4 lines"
    assert selection.log_bayes_factor > 50
    for name, energy in (("line1", 284.61), ("line2", 286.15), ("line3", 288.57), ("line4", 291.15)):
        assert abs(found[f"{name}.center"].mean - energy) < 0.1
    area = selection.best.derived
    for name, ratio in (("line2", 1.0), ("line3", 0.9)):
        assert abs(np.mean(3 * area[f"{name}.area"] / area["line1.area"]) - ratio) < 0.05


def test_the_simulated_spectrum_is_found_again() -> None:
    x = np.linspace(280.0, 293.0, 131)
    data = Dataset(x, counted(pet(x)), counts=True)
    selection = select(data, xps(counts=[3, 4], shared=["fraction"]), seed=0)
    assert selection.best.model.name == "4 lines" and selection.decisive()
    found = selection.best.parameters
    truth = {f"line{i}.{name}": value for i, values in enumerate(PET, 1)
             for name, value in zip(("amplitude", "center", "fwhm"), values, strict=True)}  # fmt: skip
    for name, value in {**truth, "line.fraction": 0.1, "line.scattering": 0.02, "constant": 100.0}.items():
        assert abs(found[name].mean - value) < 4 * found[name].sd, name


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("", "first line must name the columns"),
        ("285.0,10\n284.0,11\n", "first line must name the columns"),
        ("KE/eV,counts\n1200,1\n", "are kinetic energies; give binding energies"),
        ("BE/eV,counts\n285.0,10\n284.0,\n", "line 3: expected an energy and an intensity; got '284.0,'"),
        ("BE/eV,counts\n285.0\n", "line 2: expected an energy"),
        ("BE/eV,counts\n285.0,nan\n284.0,2\n", "mask these points"),
        ("BE/eV,counts\n", "there are no points"),
    ],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, lines: str, sentence: str) -> None:
    path = tmp_path / "damaged.csv"
    path.write_text(lines)
    with pytest.raises(ValueError, match=sentence):
        read_csv(path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shape": "square"}, "shape must be one of 'pseudo-voigt', 'doniach-sunjic'; got 'square'"),
        ({"orbital": "g"}, "orbital must be 's', 'p', 'd' or 'f'; got 'g'"),
        ({"orbital": "p"}, r"lines of p levels are doublets: give their distance in eV, fixed="),
        ({"fixed": {"splitting": 1.0}}, "a line has no parameter 'splitting'"),
    ],
)
def test_what_makes_no_spectrum_is_refused_in_words(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        xps(**options)  # type: ignore[arg-type]


def test_a_recipe_makes_the_same_candidates_again(tmp_path: Path) -> None:
    candidates = xps(
        "doniach-sunjic", counts=[1, 2], orbital="f", background="linear", shared=["gamma"],
        fixed={"splitting": 3.67}, priors={"asymmetry": stats.uniform(0, 0.1)},
    )  # fmt: skip
    assert candidates.recipe is not None
    assert candidates_of(candidates.recipe).digest == candidates.digest
    analysis = Analysis(candidates, noise=POISSON_PET)
    analysis.save(tmp_path / "gold.toml")
    assert Analysis.load(tmp_path / "gold.toml").digest == analysis.digest


def test_the_recipe_of_the_page_is_its_example(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "families" / "xps.md").read_text(encoding="utf-8")
    (recipe,) = re.findall("```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "xps.toml").write_text(recipe)
    example = Analysis(xps(counts=[3, 4], shared=["fraction"]), x="binding_energy", y="analyser", noise=Poisson())
    assert Analysis.load(tmp_path / "xps.toml").digest == example.digest


def test_truths_lie_anywhere_in_their_posteriors_and_models_are_as_probable_as_stated() -> None:
    outcomes = [outcome("xps", "unknown", seed) for seed in range(N_SETS)]
    assert smallest_p(outcomes) > FALSE_ALARM
    assert abs(score(outcomes).deviation) < 3.3
