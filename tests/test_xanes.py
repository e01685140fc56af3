"""Absorption edges: shapes, what simulated and real spectra say, repeats with a drift, and the files they come in."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbc import Family, outcome, score
from scipy import special, stats
from test_calibration import FALSE_ALARM, smallest_p

from bluesky_bayes import Analysis, Dataset, Gaussian, Selection, Settings, select
from bluesky_bayes.callbacks.runs import collect, read_jsonl
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import peaks, xanes
from bluesky_bayes.families.xanes import arctan_edge, edge_energy, erf_edge, iron_oxide
from bluesky_bayes.readers.xanes import absorption, columns, repeats, spectrum
from bluesky_bayes.shapes import erfc
from bluesky_bayes.windows import window_scan

CALIBRATED = Family(
    np.linspace(7100.0, 7136.0, 37),
    xanes(
        edge=(7119, 7127),
        below=(7106, 7115),
        n_below=[0, 1],
        background="constant",
        priors={
            "edge.step": stats.uniform(40, 60),
            "edge.width": stats.loguniform(1, 8),
            "pre-edge peak.amplitude": stats.uniform(10, 50),
            "constant": stats.uniform(5, 25),
        },
    ),
)
QUICK = Settings(sweeps=600, chains=4, error=0.3, longest=2400)
ENERGY = np.arange(7100, 7141, 0.5)
ARSENIC = {"as2o3": ((11850, 11877), 11869.5, 0.5), "as2o5": ((11850, 11880), 11873.5, 0.3)}
"""Window, edge, and how far the largest slope may lie from it: the points are 0.3 to 0.6 eV apart."""


def merged(data_folder: Path, name: str) -> Any:
    return repeats([spectrum(data_folder / "xas" / f"{name}_10K_scan{i}.xdi") for i in (1, 2, 3)])


def iridium(data_folder: Path) -> Dataset:
    path = data_folder / "bluesky_runs" / "aps4id_polar_287_qxscan_IrL2_624e776a.jsonl"
    table = collect(read_jsonl(path)).streams["primary"]
    return absorption(table["monochromator_energy"], table["Ion Ch 4"], table["Ion Ch 5"], units={"x": "keV"})


def test_the_error_function_is_as_close_as_it_says() -> None:
    u = np.linspace(-6, 6, 4001)
    assert np.max(np.abs([1.0 - erfc(float(v)) - math.erf(v) for v in u])) < 1.5e-7


def test_edges_are_their_integrals_of_a_lorentzian_and_of_a_gaussian() -> None:
    e, width = np.linspace(7110, 7136, 53), 3.0
    assert np.allclose(arctan_edge(e, 2, 7123, width), 2 * stats.cauchy.cdf(e, 7123, width / 2), atol=1e-14)
    sigma = width / math.sqrt(8 * math.log(2))
    assert np.allclose(erf_edge(e, 2, 7123, width), 2 * special.ndtr((e - 7123) / sigma), atol=2e-7)


def test_models_are_all_combinations_of_peaks_below_and_above() -> None:
    found = xanes((7118, 7128), below=(7108, 7118), n_below=[0, 1], above=(7130, 7140), n_above=[0, 2])
    assert found.names == ("none", "2 post-edge peaks", "1 pre-edge peak", "1 pre-edge peak + 2 post-edge peaks")
    priors = found.models[-1].describe_priors()
    assert priors["edge.e0"] == "uniform(7118, 10)"
    assert priors["pre-edge peak1.center"] == "uniform(7108, 10)"
    assert priors["post-edge peak2.center"] == "uniform(7130, 10)"
    assert priors["pre-edge peak1.sigma"] == "loguniform(0.333333, 3.33333)"
    assert xanes((1, 2), white_line=(2, 3)).models[0].parameters[3:6] == (
        "white line.amplitude", "white line.center", "white line.gamma",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"edge": (3, 2)}, "edge must be two energies"),
        ({"edge": (1, 2), "below": (1,)}, "below must be two energies"),
        ({"edge": (1, 2), "shape": "step"}, "shape of the edge must be"),
        ({"edge": (1, 2), "priors": {"fwhm": stats.uniform(0, 1)}}, "which no model here has"),
    ],
)
def test_what_makes_no_models_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        xanes(**options)


def test_a_recipe_makes_the_same_candidates_again(tmp_path: Path) -> None:
    candidates = xanes(
        (7118, 7128), (7108, 7118), [0, 1], (7130, 7140), [0, 1], (7125, 7137), "erf", None,
        {"edge.width": stats.loguniform(1, 8)}, [0.4, 0.3, 0.2, 0.1],
    )  # fmt: skip
    analysis = Analysis(candidates, x="energy", y="mu")
    analysis.save(tmp_path / "recipe.toml")
    assert Analysis.load(tmp_path / "recipe.toml").digest == analysis.digest


def simulated(noise: float) -> Selection:
    data = Dataset(ENERGY, iron_oxide(ENERGY) + noise * np.random.default_rng(0).standard_normal(ENERGY.size))
    candidates = xanes(
        (7118, 7128), (7109, 7117), range(4), white_line=(7125, 7137),
        priors={"pre-edge peak.amplitude": stats.uniform(0.05, 0.25)},
    )  # fmt: skip
    return select(data, candidates, Gaussian(noise))


def test_peaks_below_an_edge_are_counted() -> None:
    answer = simulated(0.01)
    assert answer.best.model.name == "2 pre-edge peaks"
    assert answer.trustworthy
    truths = {
        "edge.step": 1.0, "edge.e0": 7123.0, "edge.width": 4.0, "white line.center": 7131.0, "white line.gamma": 3.0,
        "pre-edge peak1.center": 7112.8, "pre-edge peak2.center": 7114.8,
    }  # fmt: skip
    for name, truth in truths.items():
        found = answer.best.parameters[name]
        assert abs(found.mean - truth) < 4 * found.sd
    fine = np.linspace(7115, 7130, 15001)
    steepest = fine[np.argmax(np.gradient(iron_oxide(fine)))]
    found = edge_energy(answer)
    assert abs(found.mean - steepest) < 4 * found.sd + 0.01
    assert edge_energy(answer, "2 pre-edge peaks") == found


def test_iron_oxide_has_a_peak_below_its_edge_and_how_many_depends_on_the_window(data_folder: Path) -> None:
    data = spectrum(data_folder / "xas" / "doc_example2.dat")
    candidates = xanes(
        edge=(7120, 7130),
        below=(7110, 7118),
        priors={
            "edge.width": stats.loguniform(1, 10),
            "edge.step": stats.uniform(0.5, 3),
            "pre-edge peak.amplitude": stats.uniform(0.005, 0.2),
            "pre-edge peak.sigma": stats.loguniform(0.4, 2),
        },
    )
    noise = Gaussian(prior=stats.loguniform(2e-4, 2e-2))
    scan = window_scan(data, candidates, [(7110, 7115.5), (7105, 7118)], noise, settings=QUICK)
    assert scan.never == ("no pre-edge peak",)
    assert scan.depends
    narrow, wide = scan.selections
    assert "1 pre-edge peak" in narrow.in_question
    assert "1 pre-edge peak" not in wide.in_question
    assert scan.verdict.startswith("the answer depends on the window: from 7110 to 7115.5, 1 pre-edge peak or ")
    for answer in scan.selections:
        assert answer["2 pre-edge peaks"].parameters["pre-edge peak1.center"].mean == pytest.approx(7113.2, abs=0.15)


def test_an_answer_that_is_the_same_in_all_windows_does_not_depend_on_them() -> None:
    x = np.linspace(-3, 3, 61)
    y = 2 * np.exp(-0.5 * (x / 0.4) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(61)
    scan = window_scan(Dataset(x, y), peaks(counts=[0, 1]), [(-3, 3), (-2, 2)], Gaussian(0.1))
    assert not scan.depends
    assert scan.verdict == (
        "the answer does not depend on the window: from -3 to 3, 1 peak; from -2 to 2, 1 peak; "
        "out in every window: no peak"
    )
    widths = [s.best.model.describe_priors()["peak1.sigma"] for s in scan.selections]
    assert widths[0] == widths[1]
    for windows, sentence in (([(-3, 3)], "two windows or more"), ([(-3, 3), (7, 8)], "lie between 7 and 8")):
        with pytest.raises(ValueError, match=sentence):
            window_scan(Dataset(x, y), peaks(), windows)


def test_the_l2_edge_of_iridium_comes_from_the_documents_of_its_run(data_folder: Path) -> None:
    data = iridium(data_folder)
    assert data.n == 183
    candidates = xanes(
        edge=(12.818, 12.832),
        white_line=(12.82, 12.84),
        above=(12.835, 12.9),
        n_above=[1, 2],
        shape="erf",
        priors={"edge.width": stats.loguniform(0.002, 0.012)},
    )
    answer = select(data, candidates)
    assert answer.best.parameters["edge.e0"].mean == pytest.approx(12.824, abs=1e-3)
    assert edge_energy(answer).mean == pytest.approx(12.826, abs=1e-3)
    assert answer.best.parameters["white line.center"].mean == pytest.approx(12.828, abs=5e-4)
    assert "does not fit" in answer.verdict


@pytest.mark.parametrize("name", ARSENIC)
def test_repeated_scans_of_arsenic_oxides_have_a_drift_a_noise_and_an_edge(data_folder: Path, name: str) -> None:
    (low, high), expected, off = ARSENIC[name]
    found = merged(data_folder, name)
    assert found.drifts[0] == 0.0
    assert np.all((np.abs(found.drifts[1:]) > 0.05) & (np.abs(found.drifts[1:]) < 0.25))
    x = found.data.x
    before = np.median(found.noise[(x > 11700) & (x < 11840)])
    assert 5e-5 < before < 5e-4
    assert found.noise[(x > low + 10) & (x < high)].max() > 5 * before
    data = replace(found.data, mask=(x > low) & (x < high))
    priors = {"edge.width": stats.loguniform(1, 8)}
    candidates = xanes((11864, 11878), white_line=(11866, 11880), shape="erf", priors=priors)
    answer = select(data, candidates, settings=QUICK)
    assert edge_energy(answer).mean == pytest.approx(expected, abs=off)
    assert "does not fit" in " ".join(answer.warnings)


def test_the_drift_and_the_noise_of_repeats_are_those_that_were_made() -> None:
    e, rng = np.arange(7090, 7160, 0.5), np.random.default_rng(0)
    drifts, levels = (0.0, 0.15, -0.2, 0.05), (0.0, 0.003, -0.002, 0.001)

    def scan(drift: float, level: float) -> Dataset:
        curve: Array = iron_oxide(e - drift) + level
        return Dataset(e, curve + 1e-3 * rng.standard_normal(e.size), units={"x": "eV"})

    found = repeats([scan(drift, level) for drift, level in zip(drifts, levels, strict=True)])
    slope = np.gradient(iron_oxide(e), e)
    error = 1e-3 * math.sqrt(2 / np.sum(slope**2))
    assert np.allclose(found.drifts, drifts, atol=5 * error)
    assert np.sqrt(np.mean(found.noise**2)) == pytest.approx(1e-3, rel=4 / math.sqrt(2 * 3 * found.data.n))
    assert found.data.sigma is not None
    assert np.allclose(found.data.sigma, found.noise / 2)
    with pytest.raises(ValueError, match="two scans or more"):
        repeats([scan(0, 0)])
    with pytest.raises(ValueError, match="overlap at"):
        repeats([scan(0, 0), Dataset(e + 68, e)])


def test_two_monitors_give_absorption_and_its_error() -> None:
    rng, n0, nt = np.random.default_rng(0), 4e4, 1e4
    drawn = np.log(rng.poisson(n0, 20000) / rng.poisson(nt, 20000))
    data = absorption([1.0, 2.0], [n0, n0], [nt, nt], counts=True)
    assert data.sigma is not None
    assert data.sigma[0] == pytest.approx(np.std(drawn), rel=4 / math.sqrt(2 * 20000))
    assert np.allclose(data.y, math.log(4))
    given = absorption([1.0, 2.0], [2.0, 2.0], [1.0, 1.0], sigma_i0=0.06, sigma_it=[0.04, 0.04])
    assert given.sigma is not None
    assert np.allclose(given.sigma, 0.05)
    assert absorption([1.0, 2.0], [2.0, 2.0], [1.0, 1.0]).sigma is None
    with pytest.raises(ValueError, match="it is 0 at point 1"):
        absorption([1.0, 2.0], [2.0, 2.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="errors of both"):
        absorption([1.0, 2.0], [2.0, 2.0], [1.0, 1.0], sigma_i0=1.0)


def test_files_give_their_columns_by_name(data_folder: Path) -> None:
    folder = data_folder / "xas"
    assert list(columns(folder / "as2o3_10K_scan1.xdi")) == ["energy", "i0", "itrans", "irefer"]
    assert list(columns(folder / "Hansel2001_goethite_xanes_003.xdi")) == ["energy", "itrans", "i0"]
    from_mu, from_monitors = spectrum(folder / "doc_example2.dat"), spectrum(folder / "Fe2O3_rt_01.xdi")
    assert from_mu.n == from_monitors.n == 412
    assert np.allclose(np.diff(from_mu.y), np.diff(from_monitors.y), atol=1e-6)
    reference = spectrum(folder / "as2o3_10K_scan1.xdi", i0="itrans", it="irefer")
    assert reference.units == {"x": "eV"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# energy xmu\n1 2\n3\n", "not a table of numbers"),
        ("# energy xmu\n1 2\n3 x\n", "not a table of numbers"),
        ("# energy\n1 2\n3 4\n", "2 columns and names for 1"),
        ("1 2\n3 4\n", "2 columns and names for 0"),
        ("# energy ifluor\n1 2\n3 4\n", "no energy with xmu or with i0 and itrans; it has energy, ifluor"),
    ],
)
def test_files_that_are_no_spectra_are_refused_in_words(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "spectrum.dat").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        spectrum(tmp_path / "spectrum.dat")


def test_truths_lie_anywhere_in_their_posteriors_and_models_are_as_probable_as_stated() -> None:
    outcomes = [outcome("xanes", "unknown", seed) for seed in range(30)]
    assert smallest_p(outcomes) > FALSE_ALARM
    assert abs(score(outcomes).deviation) < 3.3
