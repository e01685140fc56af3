"""The command: what it prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fakes
import pytest
from typer.testing import CliRunner, Result

from bluesky_bayes import Analysis
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.cli import app
from bluesky_bayes.shapes import PEAKS

RUNS = "shared/data/bluesky_runs"


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that cost nothing, for any recipe."""

    def load(*_: Any) -> Analysis:
        return fakes.Quick()

    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    monkeypatch.setattr(Analysis, "load", load)
    monkeypatch.setattr(Analysis, "from_table", load)


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    return written(tmp_path / "scan.jsonl", fakes.scan_documents())


def written(path: Path, documents: list[tuple[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(document)}\n" for document in documents), encoding="utf-8")
    return path


@pytest.fixture
def recorded(repository: Path) -> Path:
    folder = repository.parent / RUNS
    if not folder.is_dir():
        pytest.skip(f"../{RUNS} is not here")
    return folder


@pytest.mark.parametrize(
    "command",
    [(), ("demo",), ("analyse",), ("reprocess",), ("warmup",), ("worker",), ("watch",), ("keys",), ("phases",)],
)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "  :" not in result.output


def test_starting_the_command_imports_nothing_heavy() -> None:
    code = "import sys, bluesky_bayes.cli; print(*sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    heavy = {"bluesky", "event_model", "matplotlib", "numba", "ophyd", "scipy.stats", "tiled", "xarray"}
    assert heavy & set(listed.stdout.split()) == set()


def test_a_recorded_run_is_answered_with_tables_a_picture_and_a_recipe(scan_file: Path, tmp_path: Path) -> None:
    picture, recipe = tmp_path / "answer.png", tmp_path / "recipe.toml"
    result = run("analyse", scan_file, "--counts", "0:1", "--noise", "0.5", "--plot", picture, "--save-recipe", recipe)
    assert result.exit_code == 0, result.output
    assert "Scan 7: det against motor, 5 points, Gaussian noise, sigma = 0.5" in words(result.output)
    assert "Verdict:" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    analysis = Analysis.load(recipe)
    assert analysis.candidates.names == ("no peak", "1 peak")
    assert str(analysis.noise) == "Gaussian noise, sigma = 0.5"


def test_options_replace_parts_of_a_recipe(scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    recipe, changed = tmp_path / "recipe.toml", tmp_path / "changed.toml"
    recipe.write_text('[data]\ny = "det"\n[candidates]\nfamily = "peaks"\nshape = "lorentzian"\ncounts = [1, 2]\n')
    options = ("--counts", "0,1", "--noise", "poisson", "--subtract", "20", "--seed", "5", "--background", "none")
    run("analyse", scan_file, "--recipe", recipe, *options, "--y", "nothing", "--save-recipe", changed)
    analysis = Analysis.load(changed)
    assert analysis.candidates.recipe == {
        "family": "peaks",
        "shape": "lorentzian",
        "counts": [0, 1],
        "background": "none",
    }
    assert (analysis.y, analysis.subtract, analysis.seed, str(analysis.noise)) == ("nothing", 20.0, 5, "Poisson noise")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--counts", "many"), "--counts must be a range such as 0:4 or a list such as 0,1,2; got 'many'"),
        (("--noise", "loud"), "--noise must be poisson, gaussian, student-t or a number; got 'loud'"),
        (("--shape", "square"), "shape must be one of 'gaussian', 'lorentzian', 'pseudo-voigt'"),
        (("--family", "faces"), "recipe [candidates] names family 'faces'; there are "),
        (("--noise", "-1"), "sigma of Gaussian noise must be positive; got -1.0"),
        (("--save-recipe", "/no/such/folder/recipe.toml"), "/no/such/folder/recipe.toml: No such file or directory"),
    ],
)
def test_a_wrong_option_is_answered_with_one_sentence(scan_file: Path, options: tuple[str, ...], sentence: str) -> None:
    result = run("analyse", scan_file, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words(result.stderr).startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("documents", "sentence"),
    [
        ([], "holds 0 runs; give a file that holds one"),
        (fakes.scan_documents() + fakes.scan_documents(), "holds 2 runs; give a file that holds one"),
        (fakes.scan_documents(original_run_uid="0123"), "holds the result of an analysis"),
        (fakes.scan_documents()[:-1], "has no stop document at its end"),
        ([("start", {"uid": "0123"}), ("stop", {"run_start": "0123"})], "it has no events at all"),
        (fakes.scan_documents("raises"), "y is too high: close the slits"),
        (fakes.scan_documents("raises oddly"), "RuntimeError: UnpicklableError: not today"),
    ],
)
def test_a_file_with_nothing_to_analyse_is_answered_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, documents: list[tuple[str, Any]], sentence: str
) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    monkeypatch.setattr(Analysis, "from_table", lambda table: fakes.Moody())
    result = run("analyse", written(tmp_path / "scan.jsonl", documents))
    assert result.exit_code == 2
    assert sentence in words(result.stderr)
    assert result.stderr.count("\n") == 1


def test_a_failed_run_of_a_beamline_is_explained_in_one_sentence(recorded: Path) -> None:
    result = run("analyse", recorded / "aps12ide_usaxs_020_tune_ar_b31e8698.jsonl")
    assert result.exit_code == 2
    assert words(result.stderr) == (
        "Error: stream 'primary' of run b31e8698 (scan 20) has no events; it ended with 'fail' ('UPD_SIGNAL')"
    )


def test_counts_of_a_beamline_are_not_one_gaussian(recorded: Path) -> None:
    fields = ("--x", "rxes_motors_arot", "--y", "lambda250k_stats_total")
    path = recorded / "aps4id_polar_lambda250k_41fb8ca9.jsonl"
    result = run("analyse", path, *fields, "--subtract", "20", "--noise", "poisson")
    assert result.exit_code == 0, result.output
    out = words(result.output).split("Verdict:")[1].split("nats")[0]
    assert "no peak and 1 peak are out by 17" in out
    assert "2 peaks" in out
    assert "3 peaks" in out


def test_a_beamline_without_beam_has_no_decided_peak(recorded: Path) -> None:
    fields = ("--x", "a_stage_r", "--y", "PD_USAXS")
    result = run("analyse", recorded / "aps9idc_usaxs_103_tune_ar_3554003e.jsonl", *fields)
    assert result.exit_code == 0, result.output
    assert "undecided" in result.output


@pytest.mark.tiled
def test_runs_in_tiled_are_reprocessed_with_a_line_each(
    quick: None, tiled_client: Any, scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bluesky_tiled_plugins import TiledWriter

    from bluesky_bayes.servers import catalogue_of_runs

    documents = fakes.scan_documents(scan_id=12)
    writer = TiledWriter(catalogue_of_runs(tiled_client, "raw_of_command"))
    for name, document in documents:
        writer(name, document)
    monkeypatch.setenv("TILED_API_KEY", tiled_client.context.api_key)
    uri, containers = str(tiled_client.uri), ("--raw", "raw_of_command", "--processed", "processed_of_command")
    label = f"scan 12, {documents[0][1]['uid'][:8]}"
    for line, count in (
        ("1 peak (p = 1.000), decided", "1 done, 0 skipped, 0 failed"),
        ("skipped, it is done already", "0 done, 1 skipped, 0 failed"),
    ):
        result = run("reprocess", uri, "--recipe", scan_file, *containers)
        assert result.exit_code == 0, result.output
        first, last = result.stdout.splitlines()
        assert first.startswith(f"{label}: {line}")
        assert last == count

    result = run("reprocess", uri, "--recipe", scan_file, "--raw", "elsewhere")
    assert result.exit_code == 2
    assert "Error: there is no container 'elsewhere'; name it with --raw" in words(result.stderr)


def test_a_key_in_the_address_is_refused(quick: None, scan_file: Path) -> None:
    result = run("reprocess", "http://localhost:8000?api_key=hidden", "--recipe", scan_file)
    assert result.exit_code == 2
    assert "set TILED_API_KEY" in words(result.stderr)
    assert "hidden" not in result.output


def test_a_worker_without_a_source_or_an_open_wire_is_refused_in_one_sentence(quick: None, scan_file: Path) -> None:
    for options, sentence in (
        ((), "Error: where do runs come from? Give --zmq ADDRESS, --tiled SERVER, or both"),
        (
            ("--zmq", "tcp://beamline:5578"),
            "Error: tcp://beamline:5578 is not on this computer: documents on this wire",
        ),
    ):
        result = run("worker", "--recipe", scan_file, *options)
        assert result.exit_code == 2
        assert words(result.stderr).startswith(sentence)


def test_a_server_that_does_not_answer_is_named(quick: None, scan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from tiled.client.context import Context

    def refused(uri: str) -> None:
        raise httpx.ConnectError("Connection refused")

    monkeypatch.setattr(Context, "from_any_uri", refused)
    result = run("reprocess", "http://localhost:8000", "--recipe", scan_file)
    assert result.exit_code == 2
    assert words(result.stderr) == (
        "Error: there is no answer from a Tiled server at http://localhost:8000: Connection refused"
    )


def test_what_is_not_installed_is_named(quick: None, scan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiled.client", None)
    result = run("reprocess", "http://localhost:8000", "--recipe", scan_file)
    assert result.exit_code == 2
    assert "is not installed; pip install 'bluesky-bayes[demo]' brings it" in words(result.stderr)


def test_warming_up_prepares_what_the_worker_needs_for_every_built_in_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "prepare", lambda analysis: compiled.append(analysis.candidates.names))
    result = run("warmup")
    assert result.stdout.splitlines() == [f"{shape}: ready" for shape in PEAKS]
    assert len(compiled) == len(PEAKS)
