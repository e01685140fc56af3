"""``bluesky-bayes phases``, and input that cannot be or is unusual: a clear sentence, and the rest goes on."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("gemmi")

from bluesky_bayes.cli import app
from bluesky_bayes.cli.errors import BAD_INPUT
from bluesky_bayes.dataset import Array
from bluesky_bayes.phases import Library, Pattern, search
from bluesky_bayes.phases.library import Source
from bluesky_bayes.phases.patterns import saturated
from bluesky_bayes.phases.simulated import EXAMPLES, cif_text, example_library, simulate


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bluesky_bayes.phases.library.user_cache_path", lambda *_: folder)
        yield folder


@pytest.fixture(scope="module")
def library(cache: Path) -> Library:
    return example_library().only(elements=["Ti", "O", "Ca", "F", "Mg", "Al"])


@pytest.fixture(scope="module")
def pattern(library: Library) -> Pattern:
    by_name = {structure.name: structure for structure in library}
    return simulate([(by_name["rutile"], 0.5), (by_name["fluorite"], 0.3)], seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cif")
    for name in EXAMPLES:
        (folder / f"{name}.cif").write_text(cif_text(name))
    (folder / "torn.cif").write_text("data_torn\nloop_\n_atom_site_label\n'")
    return folder


@pytest.fixture(scope="module")
def file(pattern: Pattern, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "mixture.xy"
    rows = zip(pattern.two_theta, pattern.counts, strict=True)
    path.write_text("\n".join(f"{angle:.3f} {counts:g}" for angle, counts in rows))
    return path


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["phases", *map(str, arguments)], env={"COLUMNS": "80"})
    return result.exit_code, " ".join(re.sub(r"[│┃]", " ", result.output).split())


def test_a_pattern_is_answered_with_tables_a_verdict_and_a_picture(file: Path, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "answer.png"
    code, text = run(file, "--library", folder, "--radiation", "CuKa", "--plot", picture, "--elements", "Ti, O,Ca,F")
    assert code == 0, text
    assert "mixture: 10.00 to 90.00 degrees, 1.54059 Å, 3 structures" in text
    assert "Verdict: Present: TiO2 (rutile)" in text
    assert "Warning: 1 files of the library were not used: torn is left out" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", ["xy", "xye", "csv", "xrdml"])
def test_files_of_each_kind_are_answered_alike(pattern: Pattern, folder: Path, tmp_path: Path, ending: str) -> None:
    x, y = pattern.two_theta, pattern.counts
    rows = [
        (f"{angle:.3f}", f"{counts:g}", f"{max(counts, 1.0) ** 0.5:.4f}") for angle, counts in zip(x, y, strict=True)
    ]
    text = {
        "xy": "# measured on Monday\n" + "\n".join(" ".join(row[:2]) for row in rows),
        "xye": "\n".join(" ".join(row) for row in rows),
        "csv": "two theta;counts\n" + "\n".join(";".join(row[:2]) for row in rows),
        "xrdml": "<xrdMeasurements><usedWavelength><kAlpha1>1.540598</kAlpha1><kAlpha2>1.544426</kAlpha2>"
        "</usedWavelength>"
        f"<dataPoints><positions axis='2Theta'><startPosition>{x[0]}</startPosition><endPosition>{x[-1]}</endPosition>"
        f"</positions><counts>{' '.join(row[1] for row in rows)}</counts></dataPoints></xrdMeasurements>",
    }[ending]
    (tmp_path / f"mixture.{ending}").write_text(text)
    rays = () if ending == "xrdml" else ("--radiation", "CuKa")
    code, said = run(tmp_path / f"mixture.{ending}", "--library", folder, *rays, "--elements", "Ti,O,Ca,F")
    assert code == 0, said
    assert "Verdict: Present: TiO2 (rutile)" in said
    assert "CaF2 (fluorite)" in said.split("Verdict")[1]


def test_lines_of_no_candidate_are_a_table(file: Path, folder: Path) -> None:
    code, text = run(file, "--library", folder, "--radiation", "CuKa", "--elements", "Ti,O", "--between", "20:60")
    assert code == 0, text
    assert "mixture: 20.00 to 60.00 degrees" in text
    assert "Explained by no candidate" in text
    assert "Warning:" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "mixture.xy says no wavelength: give --radiation CuKa"),
        (("--radiation", "UKa"), "unknown radiation 'UKa'"),
        (("--wavelength", "15"), "between 0.05 and 5"),
        (("--wavelength", "1.5", "--radiation", "CuKa"), "not both"),
        (("--radiation", "CuKa", "--elements", "Xe"), "is made of Xe"),
        (("--radiation", "CuKa", "--between", "100:120"), "has 0 points between 100 and 120 degrees"),
        (("--radiation", "CuKa", "--between", "twenty"), "two rising angles in degrees such as 20:80; got 'twenty'"),
        (("--radiation", "CuKa", "--between", "80:20"), "two rising angles in degrees such as 20:80; got '80:20'"),
        (("--radiation", "CuKa", "--elements", ""), "--elements must be symbols with commas between them"),
        (("--radiation", "CuKa", "--plot", "absent/answer.png"), "there is no folder absent; make it first"),
        (("--radiation", "CuKa", "--plot", "answer.doc"), "answer.doc cannot be written: its name must end in one of"),
    ],
)
def test_wrong_options_are_one_sentence(file: Path, folder: Path, options: tuple[str, ...], said: str) -> None:
    code, text = run(file, "--library", folder, *options)
    assert code == BAD_INPUT
    assert said in text
    assert "Traceback" not in text


def test_missing_files_are_one_sentence(file: Path, folder: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ((tmp_path / "absent.xy", "--library", folder), "cannot be read: No such file"),
        ((file, "--library", tmp_path / "absent"), "is no folder; give a folder"),
        ((file, "--library", tmp_path), "there is no .cif file in"),
    ):
        code, text = run(*arguments, "--radiation", "CuKa")
        assert (code, said in text) == (BAD_INPUT, True), text


@pytest.mark.parametrize(
    ("first", "others", "said"),
    [
        ("ten", "", "scan.xrdml has angles that are no numbers: could not convert string to float: 'ten'"),
        ("10", "<beamAttenuationFactors>1 1</beamAttenuationFactors>", "has 3 counts and 2 attenuation factors"),
        (
            "10",
            "<beamAttenuationFactors>1 on 1</beamAttenuationFactors>",
            "attenuation factors that are no numbers",
        ),
    ],
)
def test_a_torn_xml_file_is_one_sentence(folder: Path, tmp_path: Path, first: str, others: str, said: str) -> None:
    (tmp_path / "scan.xrdml").write_text(
        f"<xrdMeasurements><dataPoints><positions axis='2Theta'><startPosition>{first}</startPosition>"
        f"<endPosition>90</endPosition></positions>{others}<counts>1 2 3</counts></dataPoints></xrdMeasurements>"
    )
    code, text = run(tmp_path / "scan.xrdml", "--library", folder, "--radiation", "CuKa")
    assert (code, said in text) == (BAD_INPUT, True), text


def test_an_xml_file_may_say_no_wavelength_or_one_that_is_no_number(folder: Path, tmp_path: Path) -> None:
    points = (
        "<dataPoints><positions axis='2Theta'><startPosition>10</startPosition><endPosition>90</endPosition>"
        f"</positions><counts>{'1 2 ' * 100}</counts></dataPoints>"
    )
    rays = "<usedWavelength><kAlpha1>{}</kAlpha1></usedWavelength>"
    for text, said in (
        ("", "scan.xrdml says no wavelength: give --radiation CuKa, another anode, or --wavelength"),
        (rays.format("copper"), "scan.xrdml has wavelengths that are no numbers"),
    ):
        (tmp_path / "scan.xrdml").write_text(f"<xrdMeasurements>{text}{points}</xrdMeasurements>")
        code, output = run(tmp_path / "scan.xrdml", "--library", folder)
        assert (code, said in output) == (BAD_INPUT, True), output


def main_phases(x: Array, y: Array, library: Library) -> set[str]:
    answer = search(Pattern(x, y, "CuKa"), library)
    return {phase.structure.name for phase in answer.present if phase.share > 0.05}


TRUE = {"rutile", "fluorite"}


def test_counts_a_second_are_as_good_as_counts(pattern: Pattern, library: Library) -> None:
    assert main_phases(pattern.two_theta, pattern.counts / 137.3, library) == TRUE


def test_counts_less_a_background_may_be_negative(pattern: Pattern, library: Library) -> None:
    counts = pattern.counts - np.percentile(pattern.counts, 50)
    assert main_phases(pattern.two_theta, counts, library) == TRUE


def test_angles_measured_twice_are_averaged(pattern: Pattern, library: Library) -> None:
    x, y = (np.concatenate([one, one[1000:]]) for one in (pattern.two_theta, pattern.counts))
    merged = Pattern(x, y, "CuKa", np.sqrt(np.maximum(y, 1.0)))
    assert np.array_equal(merged.counts, pattern.counts)
    assert merged.sigma is not None
    assert merged.sigma[2000] == pytest.approx(np.sqrt(max(pattern.counts[2000], 1.0) / 2.0))
    with pytest.raises(ValueError, match="has 1 usable points"):
        Pattern(np.full(500, 30.0), np.arange(500.0), "CuKa")


def test_a_gap_between_two_scans_says_nothing(pattern: Pattern, library: Library) -> None:
    """The strongest lines of both minerals are outside; some of fluorite's are not measured."""
    keep = (pattern.two_theta < 40.0) | (pattern.two_theta > 60.0)
    assert main_phases(pattern.two_theta[keep], pattern.counts[keep], library) == TRUE


@pytest.mark.parametrize("part", [0.7, 0.3])
def test_where_the_detector_was_full_nothing_is_read_and_the_answer_says_so(
    pattern: Pattern, library: Library, part: float
) -> None:
    counts = np.minimum(pattern.counts, np.round(part * pattern.counts.max()))
    answer = search(Pattern(pattern.two_theta, counts, "CuKa"), library)
    assert {phase.structure.name for phase in answer.present if phase.share > 0.05} == TRUE
    assert not any(line.share > 0.02 for line in answer.unexplained)
    assert "the detector was saturated in" in answer.warnings[0]
    assert not answer.decisive()


def test_equal_counts_are_no_full_detector_where_chance_makes_them(pattern: Pattern) -> None:
    rng, x = np.random.default_rng(0), np.arange(10.0, 50.0, 0.02)
    for mean in np.geomspace(0.3, 1e4, 60):
        assert not saturated(Pattern(x, rng.poisson(mean, x.size), "CuKa")).any()
    assert not saturated(pattern).any()
    assert not saturated(
        Pattern(pattern.two_theta, np.round(100 * pattern.counts / pattern.counts.max()), "CuKa")
    ).any()


def test_noise_alone_is_no_phase(library: Library) -> None:
    x = np.arange(15.0, 75.0, 0.02)
    assert main_phases(x, np.random.default_rng(0).poisson(100, x.size).astype(float), library) == set()


def test_a_range_outside_the_library_is_calculated_or_a_sentence(pattern: Pattern) -> None:
    small = Library.from_sources([Source("rutile", cif_text("rutile"))], d_min=2.0)
    assert small.covering(pattern.radiation, pattern.d_min).d_min <= pattern.d_min
    unread = replace(small, left_out=("quartz is left out: it cannot be read: Permission denied",))
    assert unread.covering(pattern.radiation, pattern.d_min).left_out == unread.left_out
    bare = Library(small.structures, small.radiation, small.d_min)
    with pytest.raises(ValueError, match=r"down to spacings of 2 Angstrom; the pattern .* needs"):
        search(pattern, bare)


def test_disordered_sites_are_averaged_and_said_with_the_answer(pattern: Pattern) -> None:
    text = cif_text("rutile").replace("_atom_site_fract_z", "_atom_site_fract_z\n_atom_site_occupancy")
    text = text.replace("Ti 0 0 0", "Ti 0 0 0 0.9\nZr 0 0 0 0.1").replace("O .3053 .3053 0", "O .3053 .3053 0 1.0")
    mixed = Library.from_sources([Source("mixed", text)])
    assert search(pattern, mixed).notes == ("mixed: sites of partial occupancy are averaged",)
