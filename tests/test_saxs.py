"""Small-angle scattering: form factors against independent ones, readers, public data, calibration."""

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sbc import Family, outcome, score
from scipy import integrate, special, stats
from test_calibration import FALSE_ALARM, smallest_p

from bluesky_bayes import Analysis, Candidates, Dataset, Selection, Settings, select
from bluesky_bayes.components import Component
from bluesky_bayes.dataset import Array
from bluesky_bayes.families.saxs import SHAPES, pinhole_of, saxs
from bluesky_bayes.kernels.build import _curve
from bluesky_bayes.readers.saxs import read_pinhole, read_saxs
from bluesky_bayes.tasks import shape_source

CALIBRATED = Family(
    np.linspace(0.004, 0.1, 31),
    saxs(
        ["sphere", "guinier-porod"],
        priors={
            "I0": stats.uniform(20, 80),
            "radius": stats.loguniform(30, 120),
            "rg": stats.loguniform(20, 90),
            "exponent": stats.uniform(2, 2),
            "level": stats.uniform(5, 25),
        },
    ),
)
Q = np.geomspace(1e-3, 0.5, 60)
SHORT = Settings(chains=4, sweeps=200, longest=800)
QUICK_SHAPES = [name for name in SHAPES if name not in ("lognormal sphere", "cylinder")]
LOOK = Settings(chains=2, sweeps=100, longest=100)


def ball(x: Array) -> Array:
    amplitude: Array = 3.0 * special.spherical_jn(1, x) / x
    return amplitude


def of_sasmodels(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: float | str) -> Array:
    """Its I(q) / I(0), in double precision."""
    if shutil.which("cc") is None:
        pytest.skip("sasmodels compiles its form factors, and there is no compiler here")
    monkeypatch.setenv("SAS_DLL_PATH", str(folder))
    core, direct = pytest.importorskip("sasmodels.core"), pytest.importorskip("sasmodels.direct_model")
    model = core.load_model(name, dtype="double", platform="dll")
    curve: Array = direct.call_kernel(model.make_kernel([Q]), {"background": 0.0, **parameters})
    (forward,) = direct.call_kernel(model.make_kernel([np.array([1e-7])]), {"background": 0.0, **parameters})
    ratio: Array = curve / forward
    return ratio


WIDE = {"radius_pd_n": 2000, "radius_pd_nsigma": 9}


@pytest.mark.parametrize(
    ("shape", "values", "name", "theirs"),
    [
        ("sphere", (100,), "sphere", {"radius": 100}),
        ("schulz sphere", (100, 0.1), "sphere", {"radius": 100, "radius_pd": 0.1, "radius_pd_type": "schulz", **WIDE}),
        (
            "gaussian sphere", (100, 0.1), "sphere",
            {"radius": 100, "radius_pd": 0.1, "radius_pd_type": "gaussian", **WIDE},
        ),
        (
            "lognormal sphere", (100, 0.1), "sphere",
            {"radius": 100, "radius_pd": 0.1, "radius_pd_type": "lognormal", **WIDE},
        ),
        ("cylinder", (20, 300), "cylinder", {"radius": 20, "length": 300}),
        ("cylinder", (100, 20), "cylinder", {"radius": 100, "length": 20}),
        ("guinier-porod", (60, 3.7), "guinier_porod", {"scale": 1, "rg": 60, "s": 0, "porod_exp": 3.7}),
    ],
)  # fmt: skip
def test_form_factors_are_those_of_sasmodels(
    shape: str,
    values: tuple[float, ...],
    name: str,
    theirs: dict[str, float | str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = of_sasmodels(name, tmp_path, monkeypatch, **theirs)
    np.testing.assert_allclose(SHAPES[shape](Q, 1.0, *values), expected, rtol=1e-6)


def test_a_core_shell_sphere_is_that_of_sasmodels_with_its_contrast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, (core, shell, solvent) = SHAPES["core-shell sphere"], (2.0, 0.5, 6.0)
    expected = of_sasmodels(
        "core_shell_sphere", tmp_path, monkeypatch, radius=100, thickness=40, sld_core=core, sld_shell=shell,
        sld_solvent=solvent,
    )  # fmt: skip
    inside = (core - shell) * 100.0**3
    share = inside / (inside + (shell - solvent) * 140.0**3)
    np.testing.assert_allclose(shape(Q, 1.0, 100, 40, share), expected, rtol=1e-6)
    ((_, contrast),) = shape.derived
    assert contrast(1.0, 100, 40, share) == pytest.approx((core - solvent) / (shell - solvent))


def density(kind: str, r: Array, p: float) -> Array:
    """Of radii with mean (lognormal: median) 1."""
    if kind == "schulz sphere":
        return np.asarray(stats.gamma.pdf(r, 1 / p**2, scale=p**2))
    return np.asarray(stats.norm.pdf(r, 1, p) if kind == "gaussian sphere" else stats.lognorm.pdf(r, p))


@pytest.mark.parametrize("kind", ["schulz sphere", "gaussian sphere", "lognormal sphere"])
@pytest.mark.parametrize(("p", "accuracy"), [(0.01, 1e-6), (0.1, 1e-6), (0.3, 1e-6), (0.5, 2e-5)])
def test_polydisperse_spheres_are_integrals_over_their_radii(kind: str, p: float, accuracy: float) -> None:
    x = np.concatenate([np.geomspace(0.01, 100, 40), np.linspace(0.5, 2.0, 20)])
    low, high = (1e-9, 1 + 40 * p) if kind != "gaussian sphere" else (1 - 12 * p, 1 + 14 * p)
    r = np.linspace(low, high if p < 0.5 else 80.0, 60_000)
    weight = density(kind, r, p) * r**6
    expected = [np.sum(weight * ball(v * np.abs(r)) ** 2) / np.sum(weight) for v in x]
    np.testing.assert_allclose(SHAPES[kind](x, 1.0, 1.0, p), expected, rtol=accuracy)


@pytest.mark.parametrize(("radius", "length"), [(20.0, 400.0), (5.0, 60.0), (200.0, 30.0), (10.0, 2000.0)])
def test_a_cylinder_is_the_average_over_its_directions(radius: float, length: float) -> None:
    u, w = special.roots_legendre(2000)
    q = np.geomspace(1e-3, 0.3, 25)[:, None]
    a, b = 0.25 * q * length * (u + 1), q * radius * np.sqrt(1 - 0.25 * (u + 1) ** 2)
    expected = np.sum(0.5 * w * (np.sinc(a / np.pi) * 2 * special.j1(b) / b) ** 2, axis=1)
    np.testing.assert_allclose(SHAPES["cylinder"](q[:, 0], 1.0, radius, length), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sphere", "schulz sphere", "gaussian sphere", "core-shell sphere", "guinier-porod"])
def test_curves_in_single_precision_are_right_to_a_millionth_of_their_height(name: str) -> None:
    values = {"sphere": (80,), "core-shell sphere": (60, 20, -0.5), "guinier-porod": (50, 3.5)}.get(name, (80, 0.1))
    pointer = ctypes.POINTER(ctypes.c_float)
    given, q, found = (np.array(v, dtype=np.float32) for v in (values, Q, np.zeros(Q.size)))
    arrays = [v.ctypes.data_as(pointer) for v in (given, q, found)]
    _curve(shape_source(SHAPES[name]), True).fill.ctypes(arrays[0], arrays[1], 0, arrays[2], 0, Q.size)
    np.testing.assert_allclose(found, SHAPES[name](q.astype(np.float64), 1.0, *values), atol=1e-6)


def smeared(shape: str, **beam: object) -> Component:
    (model,) = saxs(shape, background=False, **beam).models  # type: ignore[arg-type]
    return model.terms[0].component


@pytest.mark.parametrize("shape", ["sphere", "cylinder"])
def test_a_pinhole_beam_is_a_normal_distribution_of_q(shape: str) -> None:
    values = {"sphere": (150.0,), "cylinder": (20.0, 400.0)}[shape]
    q, spread, relative = np.geomspace(2e-3, 0.05, 5), 1e-3, 0.07
    width = np.sqrt(spread**2 + (relative * q) ** 2)
    t = np.linspace(-7, 7, 351)
    curves = SHAPES[shape](np.abs(q[:, None] + width[:, None] * t), 1.0, *values)
    expected = curves @ stats.norm.pdf(t) / stats.norm.pdf(t).sum()
    found = smeared(shape, pinhole=(spread, relative))(q, 1.0, *values, spread, relative)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


def test_a_slit_beam_is_a_mean_along_the_slit() -> None:
    q, height = np.geomspace(2e-3, 0.05, 12), 0.04
    expected = [integrate.quad(lambda u, v=v: float(SHAPES["sphere"](np.hypot(v, u), 1.0, 80.0)), 0, height)[0] / height
                for v in q]  # fmt: skip
    np.testing.assert_allclose(smeared("sphere", slit=height)(q, 1.0, 80.0, height), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: saxs("ball"), "shape must be one of 'sphere'"),
        (lambda: saxs("sphere", counts=[0, 1]), "must be 1 or more"),
        (lambda: saxs("sphere", pinhole=(1e-3, 0.1), slit=0.1), "not both"),
        (lambda: saxs("sphere", pinhole=(0, 0)), "not both zero"),
        (lambda: saxs("sphere", slit=0), "half height"),
        (lambda: saxs("sphere", priors={"length": stats.uniform(1, 2)}), "none of these shapes has"),
        (lambda: saxs("sphere", fixed={"thickness": 3.0}), "none of these shapes has"),
        (lambda: pinhole_of([0.1, 0.2], [0.0, 0.0]), "no smearing"),
        (lambda: pinhole_of([0.1, 0.2, 0.3], [0.01, 0.2, 0.01]), "one instrument setting"),
    ],
)
def test_wrong_arguments_are_refused_in_words(wrong: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize(
    "candidates",
    [
        saxs(),
        saxs("sphere", counts=[1, 2], pinhole=(1e-3, 0.07), priors={"radius": stats.loguniform(10, 100)}),
        saxs({"cylinder": [1], "power law": [0, 1]}, slit=0.1, background=False, fixed={"exponent": 4.0}),
    ],
)
def test_an_analysis_with_it_comes_back_from_toml(candidates: Candidates, tmp_path: Path) -> None:
    analysis = Analysis(candidates=candidates, x="q", y="det")
    analysis.save(tmp_path / "saxs.toml")
    assert Analysis.load(tmp_path / "saxs.toml").candidates.digest == candidates.digest


def written(folder: Path, text: str, name: str = "curve.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_file_is_read_with_its_header_units_and_rows_of_no_measurement(tmp_path: Path) -> None:
    data = read_saxs(written(tmp_path, "sample\n<X> <Y> <dY>\n0 -1.#IND 1\n0.1 20 2\n0.2 10 1\n"), q_unit="1/nm")
    np.testing.assert_allclose(data.x, [0.01, 0.02])
    assert data.sigma is not None
    np.testing.assert_allclose(data.sigma, np.array([2.0, 1.0]))
    assert data.units["x"] == "1/Å" and data.origin.y == "curve"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.1 20\n0.2 10\n", "no errors of I"),
        ("0.1 20 1\n0.2 10\n", "line 2, is not a row"),
        ("0.1 20 1\nend of scan\n", "line 2, is not a row"),
        ("nothing here\n", "no rows of numbers"),
        ("0.1 20 1\n", "1 rows with an intensity"),
        ("-0.1 20 1\n0.1 20 1\n", "q below zero"),
        ("0.1 20 0\n0.2 10 1\n", "error of 0 at q = 0.1"),
    ],
)
def test_a_damaged_text_file_is_refused_in_words(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_saxs(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no xml", "is no XML file"),
        ("<SASroot/>", "has 0 SASdata"),
        ("<SASroot><SASdata/></SASroot>", "no Idata with Q and I"),
        ("<SASroot><SASdata><Idata><Q unit='1/A'>1</Q><I>x</I></Idata></SASdata></SASroot>", "without one of Q, I"),
        ("<SASroot><SASdata><Idata><Q unit='1/m'>1</Q><I>1</I></Idata></SASdata></SASroot>", "has q in '1/m'"),
    ],
)
def test_a_damaged_xml_file_is_refused_in_words(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_saxs(written(tmp_path, text, "curve.xml"))


def test_a_point_without_an_error_and_a_file_without_smearing_are_refused_in_words(data_folder: Path) -> None:
    folder, refused = data_folder / "saxs", 0
    for path in sorted(folder.glob("AOT_*.xml")):
        try:
            assert read_saxs(path).units["y"] == "1/cm"
        except ValueError as error:
            assert "error of 0 at q" in str(error)
            refused += 1
        with pytest.raises(ValueError, match="no smearing"):
            read_pinhole(path)
    assert refused == 1
    with pytest.raises(ValueError, match="no column of widths"):
        read_pinhole(folder / "sphere_80.txt")
    with pytest.raises(ValueError, match="one instrument setting"):
        read_pinhole(folder / "Ludox_silica.xml")


def near(selection: Selection, name: str, value: float) -> None:
    found = selection.best.parameters[name]
    assert abs(found.mean - value) < 4.0 * found.sd, (name, found)


@pytest.mark.parametrize(
    ("file", "radius", "shapes"),
    [
        ("sphere_80.txt", 80.0, [name for name in SHAPES if name != "cylinder"]),
        ("sphere_60_q0_2.txt", 60.0, QUICK_SHAPES),
        ("100nmSpheresNodQ.txt", 500.0, QUICK_SHAPES),
    ],
)
def test_a_sphere_is_told_from_other_shapes_with_its_radius(
    file: str, radius: float, shapes: list[str], data_folder: Path
) -> None:
    data = read_saxs(data_folder / "saxs" / file, relative=0.001)
    selection = select(data, saxs(shapes), settings=LOOK, threads=1)
    assert selection.best.model.name == "sphere"
    near(selection, "sphere.radius", radius)


def test_a_cylinder_is_told_from_all_shapes_and_not_trapped_at_a_wrong_length(data_folder: Path) -> None:
    data = read_saxs(data_folder / "saxs" / "cyl_400_20.txt", relative=0.001)
    selection = select(data, saxs(), settings=LOOK, threads=1)
    assert selection.best.model.name == "cylinder" and selection.trustworthy
    near(selection, "cylinder.radius", 20.0)
    near(selection, "cylinder.length", 400.0)
    assert selection.best.parameters["cylinder.length"].sd < 8.0


def test_a_core_and_its_shell_are_told_from_other_shapes_through_the_smearing(data_folder: Path) -> None:
    """The file's scatter is larger than its errors, so that no model passes the check of the fit."""
    path = data_folder / "saxs" / "n_coreshell.txt"
    pinhole = read_pinhole(path, worst=1e-6)
    selection = select(read_saxs(path), saxs(QUICK_SHAPES, pinhole=pinhole), settings=LOOK, threads=1)
    best = selection.best
    assert best.model.name == "core-shell sphere"
    assert abs(best.parameters["core-shell sphere.radius"].mean - 150.0) < 2.0
    assert abs(best.parameters["core-shell sphere.thickness"].mean - 40.0) < 2.0
    assert abs(best.parameters["core-shell sphere.contrast"].mean) < 0.05
    assert not selection.trustworthy and any("does not fit" in warning for warning in best.warnings)


def test_no_dilute_shape_fits_a_concentrated_sample_and_the_answer_says_so(data_folder: Path) -> None:
    selection = select(
        read_saxs(data_folder / "saxs" / "Ludox_silica.xml"), saxs(QUICK_SHAPES), settings=LOOK, threads=1
    )
    assert not selection.trustworthy
    for posterior in selection.posteriors:
        assert any("the model does not fit" in warning for warning in posterior.warnings)


def test_populations_of_spheres_are_counted() -> None:
    q = np.geomspace(0.005, 0.3, 120)
    rate = SHAPES["sphere"](q, 3000.0, 90.0) + SHAPES["sphere"](q, 800.0, 35.0) + 4.0
    data = Dataset(q, np.random.default_rng(3).poisson(rate).astype(np.float64), counts=True)
    priors = {"I0": stats.loguniform(100, 1e4), "radius": stats.loguniform(15, 200)}
    selection = select(data, saxs("sphere", counts=[1, 2, 3], priors=priors), settings=SHORT, threads=1)
    assert selection.best.model.name == "2 spheres"
    near(selection, "sphere1.radius", 35.0)
    near(selection, "sphere2.radius", 90.0)


def test_truths_lie_anywhere_in_their_posteriors() -> None:
    outcomes = [outcome("saxs", "unknown", seed) for seed in range(32)]
    assert smallest_p(outcomes) > FALSE_ALARM
    assert abs(score(outcomes).deviation) < 3.3


def test_an_answer_with_a_smeared_shape_is_saved_and_loaded(tmp_path: Path) -> None:
    pytest.importorskip("h5netcdf")
    q = np.geomspace(0.01, 0.2, 30)
    data = Dataset(q, SHAPES["sphere"](q, 100.0, 50.0) + 5.0, sigma=np.ones_like(q))
    selection = select(data, saxs(["sphere", "power law"], pinhole=(1e-3, 0.07)), settings=LOOK, threads=1)
    selection.save(tmp_path / "saxs.nc")
    loaded = Selection.load(tmp_path / "saxs.nc")
    assert loaded.names == selection.names
    assert [p.model.digest for p in loaded.posteriors] == [p.model.digest for p in selection.posteriors]
