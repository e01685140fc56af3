"""Moessbauer spectra: shapes, classes, files and what is known of real spectra."""

from pathlib import Path

import numpy as np
import pytest
from sbc import Family, outcome, score
from scipy import special, stats
from test_calibration import FALSE_ALARM, smallest_p

from bluesky_bayes import Analysis, Candidates, Component, Selection, Settings, select, select_many
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import mossbauer, mossbauer_classes
from bluesky_bayes.families.mossbauer import (
    IRON_LINES,
    LINES,
    POWDER,
    doublet,
    magnetic_classes,
    sextet,
    singlet,
    voigt_doublet,
    voigt_sextet,
    voigt_singlet,
)
from bluesky_bayes.readers.mossbauer import (
    Calibration,
    by_time,
    calibrate,
    drive_parabola,
    fold,
    fold_point,
    read_counts,
    spectrum,
)
from bluesky_bayes.shapes import faddeeva

CALIBRATED = Family(
    np.linspace(-6.0, 6.0, 49),
    mossbauer(
        doublets=[0, 1],
        sextets=[0, 1],
        lines="distributed",
        priors={
            "depth": stats.uniform(30, 70),
            "shift": stats.uniform(-0.3, 0.9),
            "splitting": stats.uniform(0.4, 1.6),
            "field": stats.uniform(18, 12),
            "quadrupole": stats.uniform(-0.3, 0.6),
            "width": stats.loguniform(0.3, 0.8),
            "splitting_sigma": stats.loguniform(0.1, 0.6),
            "field_sigma": stats.loguniform(0.5, 4.0),
            "constant": stats.uniform(250, 100),
        },
    ),
)
QUICK = Settings(error=0.5, sweeps=150, chains=4, longest=1200)
FERRIC = {"splitting": stats.uniform(0, 2)}
"""No splitting of iron(III) is larger than 2 mm/s."""
V = np.linspace(-12.0, 12.0, 241)
N_SETS = 16
DRIVE = Calibration(0.047, 0.0, 511.3, 0.0, 254.0, 0.0, 0.25, 0.0, 1.0)


def average(component: Component, at: int, center: float, sigma: float, *values: float) -> Array:
    """A Lorentzian absorber averaged over a normal distribution of its parameter `at`, by quadrature."""
    z = np.linspace(-6.0, 6.0, 241)
    weights: Array = stats.norm.pdf(z) * (z[1] - z[0])
    curves = [component.shape.function(V, *values[:at], center + sigma * u, *values[at:]) for u in z]
    return np.asarray(weights @ np.stack(curves), dtype=np.float64)


def foil_counts(drive: Calibration = DRIVE, level: float = 50000.0, parabola: float = 0.004, seed: int = 0) -> Array:
    """Counts of a simulated foil."""
    channel = np.arange(1023)
    v = drive.velocity(channel)
    rate: Array = level * (1 + parabola * np.sign(channel - drive.fold_point) * (1 - (v / np.abs(v).max()) ** 2))
    rate -= 0.12 * level * sextet.shape.function(v, 0.0, 33.0, 0.0, 0.25, *POWDER.values())
    return np.random.default_rng(seed).poisson(rate).astype(np.float64)


def write(path: Path, counts: Array) -> Path:
    path.write_bytes(b"".join(b"%d\r\n" % n for n in counts))
    return path


def test_the_lines_of_iron_are_where_the_standard_has_them_and_add_up() -> None:
    assert np.allclose(IRON_LINES, (5.31, 3.08, 0.84), atol=0.005)
    assert np.isclose(IRON_LINES[0] - IRON_LINES[1], IRON_LINES[1] - IRON_LINES[2])
    for line in (*IRON_LINES, *(-v for v in IRON_LINES)):
        # The outermost lines have twelve half widths to the next one and more.
        height = {5.312: 1.0, 3.076: POWDER["middle"], 0.840: POWDER["inner"]}[abs(line)]
        assert np.isclose(sextet(line, 1.0, 0.0, 33.0, 0.0, 0.02, *POWDER.values()), height, atol=2e-3)


def test_a_quadrupole_shift_moves_the_outer_lines_up_and_the_inner_ones_down() -> None:
    v = np.linspace(-12, 12, 24001)
    curve = sextet(v, 1.0, 0.4, 40.0, 0.1, 0.05, *POWDER.values())
    tops = v[1:-1][(curve[1:-1] > curve[:-2]) & (curve[1:-1] > curve[2:])]
    lines = np.sort([s * line * 40 / 33 for s in (-1, 1) for line in IRON_LINES])
    assert np.allclose(tops, 0.4 + lines + 0.1 * np.array([1, -1, -1, -1, -1, 1]), atol=1.5e-3)


def test_the_line_shape_is_that_of_the_faddeeva_function() -> None:
    x, y = np.meshgrid(np.linspace(-60, 60, 2001), np.geomspace(1e-3, 1e3, 61))
    exact = special.wofz(x + 1j * y).real
    assert np.abs((faddeeva(x, y) - exact) / special.erfcx(y)).max() < 5e-6


def test_distributions_are_averages_over_their_parameter() -> None:
    cases = [
        (voigt_singlet(V, 1.0, 0.3, 0.25, 0.4), average(singlet, 0, 0.3, 0.4, 0.25)),
        (voigt_doublet(V, 1.0, 0.3, 0.8, 0.5, 0.25, 0.0), average(doublet, 1, 0.8, 0.5, 0.3, 0.25)),
        (
            voigt_sextet(V, 1.0, 0.3, 40.0, 5.0, 0.1, 0.25, 0.0, 0.7, 0.4),
            average(sextet, 1, 40.0, 5.0, 0.3, 0.1, 0.25, 0.7, 0.4),
        ),
    ]
    for curve, averaged in cases:
        # Averages have the area of one absorber: their height is another.
        scale = curve.max() / averaged.max()
        assert np.abs(curve - scale * averaged).max() < 2e-5


@pytest.mark.parametrize("lines", LINES)
def test_depths_are_those_of_outermost_lines_and_areas_are_integrals(lines: str) -> None:
    v = np.linspace(-600.0, 600.0, 240_001)
    shapes, fixed = LINES[lines]
    values = {"shift": 0.4, "splitting": 6.0, "splitting_sigma": 0.3, "field": 33.0, "field_sigma": 1.0}
    values |= {"quadrupole": 0.0, "width": 0.25, "sigma": 0.1, **POWDER, **fixed}
    for shape in shapes:
        given = [values[p.name] for p in shape.parameters[1:]]
        curve = shape.shape.function(v, *given)
        ((_, area),) = shape.derived
        assert np.isclose(curve.max(), 1.0, atol=0.02)
        # The tails hold the width over pi times 600 mm/s.
        assert np.isclose(np.trapezoid(curve, v) / area(-1.0, *given), 1.0 - 0.25 / (np.pi * 600), atol=2e-5)


def test_candidates_are_combinations_and_absorbers_are_taken_away() -> None:
    found = mossbauer([0, 1], [1], [0, 1], ratios="free", lines="voigt", shared=["width"], fixed={"sigma": 0.1})
    assert found.names[-1] == "1 singlet + 1 doublet + 1 sextet"
    assert found.models[-1].terms[0].slots[0].scale == -1.0
    assert "sextet1.middle" in found.models[-1].parameters
    assert "singlet.width" in found.models[-1].parameters
    assert not any("sigma" in name for name in found.models[-1].parameters)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"lines": "gaussian"}, "lines must be one of 'lorentzian', 'voigt', 'distributed'"),
        ({"ratios": "3:2:1"}, "ratios must be one of"),
        ({"fixed": {"sigma": 0.1}}, "no absorber here has a parameter 'sigma'"),
        ({"shared": ["field"], "sextets": [0]}, "no absorber here has a parameter 'field'"),
        ({"doublets": [0], "sextets": [0]}, "there is nothing in question"),
        ({"priors": {"isomer_shift": stats.norm()}}, "isomer_shift"),
    ],
)
def test_bad_questions_are_refused_in_words(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        mossbauer(**options)  # type: ignore[arg-type]


def test_classes_share_their_prior_probability() -> None:
    found = mossbauer_classes(probabilities=[0.2, 0.3, 0.5])
    assert found.names == ("1 sextet", "2 sextets", "1 doublet", "1 doublet + 1 sextet", "2 doublets")
    assert np.allclose(found.probabilities, [0.1, 0.1, 0.15, 0.5, 0.15])
    with pytest.raises(ValueError, match="magnetically split, doublet, mixture"):
        mossbauer_classes(probabilities=[0.5, 0.5])


def test_recipes_make_the_same_candidates_again(tmp_path: Path) -> None:
    for candidates in (
        mossbauer([0, 1], [1, 2], [0], "voigt", "free", "quadratic", FERRIC, ["width"], {"sigma": 0.1}),
        mossbauer_classes(1, priors=FERRIC, fixed={"width": 0.3}, probabilities=[0.25, 0.25, 0.5]),
    ):
        analysis = Analysis(candidates, x="velocity", settings=QUICK)
        analysis.save(tmp_path / "recipe.toml")
        assert Analysis.load(tmp_path / "recipe.toml").digest == analysis.digest


def test_counts_files_are_read_with_any_line_ends_and_damaged_ones_refused_in_words(tmp_path: Path) -> None:
    counts = foil_counts()
    assert np.array_equal(read_counts(write(tmp_path / "whole.dat", counts)), counts)
    with pytest.raises(ValueError, match=r"short.dat is damaged: it has 700 channels where 1023 are expected"):
        read_counts(write(tmp_path / "short.dat", counts[:700]))
    counts[500:516] = 0
    with pytest.raises(ValueError, match=r"damaged: 16 channels from channel 500 on hold no counts, where others hold"):
        read_counts(write(tmp_path / "zeros.dat", counts))
    (tmp_path / "text.dat").write_text("12\n3.5\n")
    with pytest.raises(ValueError, match=r"entry 2 is '3.5' where a whole number of counts is expected"):
        read_counts(tmp_path / "text.dat")


def test_few_counts_may_be_none(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(2.0, 1023).astype(np.float64)
    assert np.array_equal(read_counts(write(tmp_path / "few.dat", counts)), counts)


def test_files_are_in_the_order_of_the_time_in_their_names() -> None:
    names = ["20251021_22h25m51s__1.dat", "20251021_22h25m5s__2.dat", "20251021_9h1m0s__3.dat"]
    assert [path.name[-5] for path in by_time(names)] == ["3", "2", "1"]
    with pytest.raises(ValueError, match=r"foil.dat holds no time"):
        by_time(["foil.dat"])


def test_calibrations_are_as_right_as_they_say() -> None:
    found = [calibrate(foil_counts(seed=seed)) for seed in range(20)]
    for name in ("velocity_per_channel", "fold_point", "zero"):
        pull = [(getattr(c, name) - getattr(DRIVE, name)) / getattr(c, f"{name}_error") for c in found]
        assert abs(np.mean(pull)) < 4 / np.sqrt(len(pull))
        assert abs(np.std(pull) - 1.0) < 4 / np.sqrt(2 * len(pull))
    backwards = calibrate(foil_counts(), positive_first=False)
    assert backwards.velocity(0) == -found[0].velocity(0)
    with pytest.raises(ValueError, match="twelve lines of alpha-Fe are not to be found"):
        calibrate(foil_counts()[:500])


def test_a_fold_point_is_found_from_any_spectrum_with_lines() -> None:
    found, errors = np.transpose([fold_point(foil_counts(level=5000, seed=seed)) for seed in range(60)])
    assert abs(found.mean() - DRIVE.fold_point) < 4 * found.std() / np.sqrt(60)
    assert 0.6 < found.std() / errors.mean() < 1.2
    with pytest.raises(ValueError, match="no line stands out"):
        fold_point(np.random.default_rng(0).poisson(100.0, 1023))


def test_folding_adds_whole_channels() -> None:
    channels, sums = fold(np.arange(1023.0), 511.3)
    assert np.all(sums == 1023.0)
    assert np.allclose(channels, np.arange(1, 512) - 0.2)
    velocity = DRIVE.velocity(np.array([1.0, 1022.0]))
    assert np.isclose(DRIVE.velocity(channels[0]), velocity.mean())


def test_both_halves_are_one_spectrum_and_the_parabola_of_the_drive_is_their_exposure() -> None:
    g, error = drive_parabola(foil_counts(), DRIVE)
    assert abs(g - 0.004) < 4 * error < 0.001
    data = spectrum(foil_counts(), DRIVE)
    assert data.n == 1023 and data.counts and data.units == {"x": "mm/s", "y": "counts"}
    assert data.exposure is not None
    assert np.isclose(np.ptp(data.exposure), 2 * abs(g), rtol=1e-3)
    folded = spectrum(foil_counts(), DRIVE, folded=True)
    assert folded.n == 511 and folded.exposure is None
    assert folded.y.sum() == foil_counts()[1:].sum()


def test_truths_lie_anywhere_in_their_posteriors_and_models_are_as_probable_as_stated() -> None:
    outcomes = [outcome("mossbauer", "unknown", seed) for seed in range(N_SETS)]
    assert smallest_p(outcomes) > FALSE_ALARM
    assert abs(score(outcomes).deviation) < 3.3


@pytest.fixture(scope="module")
def spectra(data_folder: Path) -> Path:
    return data_folder / "mossbauer"


@pytest.fixture(scope="module")
def drive(spectra: Path) -> Calibration:
    return calibrate(read_counts(spectra / "2L_Fh_velocity_calibration_v12.dat"))


def cumulative(spectra: Path) -> list[Path]:
    return by_time((spectra / "2L_Fh_75K_every_30s").glob("*.dat"))


def answers(paths: list[Path], drive: Calibration, names: tuple[str, ...]) -> list[Selection]:
    """With some of the models of the classes."""
    found = mossbauer_classes(priors=FERRIC)
    candidates = Candidates(tuple(model for model in found.models if model.name in names))
    return select_many([spectrum(path, drive, folded=True) for path in paths], candidates, settings=QUICK)


def test_the_calibration_foil_gives_velocity_fold_point_and_field(spectra: Path, drive: Calibration) -> None:
    assert abs(drive.velocity_per_channel - 0.0470) < 0.00005
    assert drive.velocity_per_channel_error < 2e-5
    assert abs(drive.fold_point - 510.7) < 0.1
    assert np.allclose(drive.zero_channels, (256.97, 764.40), atol=4 * drive.zero_channels_error)
    assert 0.85 < drive.chi2_per_dof < 1.15
    counts = read_counts(spectra / "2L_Fh_velocity_calibration_v12.dat")
    point, error = fold_point(counts)
    assert abs(point - drive.fold_point) < 4 * error
    assert abs(drive_parabola(counts, drive)[0] + 0.0015) < 0.0006
    foil = mossbauer([0], [0], [0, 1, 2], ratios="free", shared=["width"])
    foil = Candidates(foil.models[1:2])
    answer = select(spectrum(counts, drive, folded=True), foil, settings=QUICK)
    assert answer.trustworthy
    field = answer.best.parameters["sextet1.field"]
    assert abs(field.mean - 33.0) < 4 * field.sd < 0.05


def test_four_damaged_files_are_refused_in_words(spectra: Path) -> None:
    paths = cumulative(spectra)
    assert len(paths) == 81
    reasons = []
    for path in paths:
        try:
            read_counts(path)
        except ValueError as reason:
            reasons.append(str(reason))
    assert [int(reason.split("it has ")[1].split()[0]) for reason in reasons] == [608, 576, 544, 352]
    assert all("16 channels from channel" in reason and "leave it out" in reason for reason in reasons)


def test_at_75_kelvin_it_is_a_doublet_from_the_first_file_on_and_ever_more_surely(
    spectra: Path, drive: Calibration
) -> None:
    paths = cumulative(spectra)
    found = answers([paths[i] for i in (0, 1, 60)], drive, ("1 sextet", "1 doublet", "1 doublet + 1 sextet"))
    classes = [magnetic_classes(answer) for answer in found]
    lead = [c["doublet"].log_evidence - c["magnetically split"].log_evidence for c in classes]
    assert lead[0] > 15.0
    assert np.all(np.diff(np.log(lead)) > 0.5)
    both = [c["mixture"].log_evidence - c["doublet"].log_evidence for c in classes]
    assert abs(both[0]) < 5.0 and both[1] < 1.0
    # With more counts a faint broad sextet is seen beside the doublet.
    assert both[-1] > 10.0
    last = found[-1]["1 doublet + 1 sextet"].parameters
    assert last["sextet1.area"].mean < 0.25 * last["doublet1.area"].mean


def test_spectra_are_split_up_to_55_kelvin_and_doublets_from_75_kelvin_on(spectra: Path, drive: Calibration) -> None:
    paths = [spectra / "2L_Fh_high_SNR" / f"{kelvin}.0K_0.0h30.0m.dat" for kelvin in (5, 55, 75, 135)]
    found = answers(paths, drive, ("1 sextet", "1 doublet"))
    classes = [magnetic_classes(answer) for answer in found]
    lead = [c["magnetically split"].log_evidence - c["doublet"].log_evidence for c in classes]
    assert min(lead[:2]) > 10_000 and max(lead[2:]) < -10_000
    # One normal distribution is too simple at so many counts, and the answer says so.
    assert any("does not fit" in warning for warning in found[0].warnings)


def test_two_sextets_explain_more_than_a_sextet_and_a_doublet_at_55_kelvin(spectra: Path, drive: Calibration) -> None:
    path = spectra / "2L_Fh_high_SNR" / "55.0K_0.0h30.0m.dat"
    (answer,) = answers([path], drive, ("2 sextets", "1 doublet + 1 sextet"))
    assert magnetic_classes(answer)["magnetically split"].probability > 0.999
