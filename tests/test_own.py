"""Components of the user's own, named in a recipe."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from bluesky_bayes import Analysis
from bluesky_bayes.cli import app
from bluesky_bayes.families import own, peaks
from bluesky_bayes.recipes import candidates_of, component_named

SHAPES = """
import math
from bluesky_bayes import component

LIMIT = 3

@component
def decay(x, rate):
    return math.exp(-rate * x)

@component
def bump(x, center, width):
    u = (x - center) / width
    return 1.0 / (1.0 + u**4)

def plain(x, rate):
    return rate * x
"""
RECIPE = """
[candidates]
family = "{family}"
shape = "{shape}"
counts = [1, 2]
background = "none"
[candidates.priors.{parameter}]
distribution = "uniform"
args = [0.1, 2.0]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with shapes and recipes, somewhere else than where the work is done."""
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    (shapes / "my_shapes.py").write_text(SHAPES)
    (shapes / "decay.toml").write_text(RECIPE.format(family="own", shape="my_shapes.py:decay", parameter="rate"))
    (shapes / "bump.toml").write_text(RECIPE.format(family="peaks", shape="my_shapes.py:bump", parameter="width"))
    monkeypatch.chdir(tmp_path)
    yield shapes


def test_a_path_starts_from_the_folder_of_the_recipe(folder: Path) -> None:
    decays, bumps = Analysis.load(folder / "decay.toml"), Analysis.load("shapes/bump.toml")
    assert decays.candidates.names == ("1 decay", "2 decays")
    assert bumps.candidates.names == ("1 peak", "2 peaks")
    assert decays.candidates.models[0].parameters == ("decay1.amplitude", "decay1.rate")


def test_a_recipe_saved_elsewhere_still_finds_the_file(folder: Path) -> None:
    analysis = Analysis.load("shapes/decay.toml")
    analysis.save("saved.toml")
    again = Analysis.load("saved.toml")
    assert again.digest == analysis.digest
    assert again.to_table()["candidates"]["shape"] == f"{folder / 'my_shapes.py'}:decay"


def test_from_python_a_path_starts_where_python_is(folder: Path) -> None:
    candidates = own("shapes/my_shapes.py:decay", [0, 1], noun="component", priors={"rate": stats.uniform(0, 2)})
    assert candidates.names == ("no component", "1 component")
    assert candidates.recipe is not None
    assert candidates_of(candidates.recipe).digest == candidates.digest
    assert peaks("shapes/my_shapes.py:bump", [1]).recipe is not None


def test_a_module_that_python_finds_needs_no_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    assert own("my_shapes:decay", [1]).digest == own("shapes/my_shapes.py:decay", [1]).digest


def test_the_digest_is_that_of_the_text_of_the_component(folder: Path) -> None:
    before = Analysis.load("shapes/decay.toml")
    (folder / "my_shapes.py").write_text("# Moved down by a line.\n" + SHAPES)
    assert Analysis.load("shapes/decay.toml").digest == before.digest
    (folder / "my_shapes.py").write_text(SHAPES.replace("-rate * x", "-x * rate"))
    assert Analysis.load("shapes/decay.toml").digest != before.digest


def test_a_component_itself_can_be_asked_for_and_not_be_saved(folder: Path) -> None:
    decay = component_named("shapes/my_shapes.py:decay")
    analysis = Analysis(own(decay, [1]))
    assert np.allclose(decay(np.array([0.0, 1.0]), 2.0, 0.5), [2.0, 2.0 * np.exp(-0.5)])
    with pytest.raises(ValueError, match=r"put it into a file of its own and name it shape='my_shapes\.py:"):
        analysis.to_table()


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("elsewhere.py:decay", r"there is no file '.*shapes/elsewhere\.py'"),
        ("no_such_module:decay", "no_such_module cannot be imported: ModuleNotFoundError: No module named"),
        ("my_shapes.py:rise", r"my_shapes\.py defines no 'rise'; it has decay, bump"),
        ("my_shapes.py:plain", "plain is of type function, not a component; write @component"),
        ("my_shapes.py:LIMIT", "LIMIT is of type int, not a component"),
        ("broken.py:decay", r"broken\.py cannot be imported: NameError: name 'undefined' is not defined"),
        ("unclosed.py:decay", r"unclosed\.py cannot be imported: SyntaxError"),
        ("foreign.py:ask", r"foreign\.py cannot be imported: TypeError: component 'ask' refers to 'Path'"),
        ("decay", "is no component of your own: name it 'my_shapes.py:name' or 'module:name'"),
        (":decay", "is no component of your own"),
    ],
)
def test_a_component_that_is_not_found_is_said_in_words(folder: Path, shape: str, sentence: str) -> None:
    (folder / "broken.py").write_text("undefined\n")
    (folder / "unclosed.py").write_text("def decay(\n")
    (folder / "foreign.py").write_text(
        "from pathlib import Path\nfrom bluesky_bayes import component\n"
        "@component\ndef ask(x, center):\n    return float(Path.home() == x)\n"
    )
    path = folder / "wrong.toml"
    path.write_text(RECIPE.format(family="own", shape=shape, parameter="rate"))
    with pytest.raises(ValueError, match=rf"^{path}: shape '.*{sentence}"):
        Analysis.load(path)


def test_what_the_page_shows_is_what_it_runs(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "families" / "your-own.md").read_text(encoding="utf-8")
    shapes, recipe = (re.findall(f"```{language}\n(.*?)```", page, re.DOTALL)[0] for language in ("python", "toml"))
    written = re.findall(r'Path\("glow\.toml"\)\.write_text\("""(.*?)"""\)', page, re.DOTALL)[0]
    assert tomllib.loads(recipe) == tomllib.loads(written)
    (tmp_path / "my_shapes.py").write_text(shapes)
    (tmp_path / "glow.toml").write_text(recipe)
    assert Analysis.load(tmp_path / "glow.toml").candidates.names == ("1 lifetime", "2 lifetimes", "3 lifetimes")


def test_the_command_takes_a_recipe_with_a_component_of_your_own(folder: Path) -> None:
    x = np.linspace(0.0, 5.0, 41)
    y = 2.0 * np.exp(-0.7 * x) + 0.02 * np.random.default_rng(0).standard_normal(x.size)
    documents = fakes.measured(x.tolist(), y.tolist())
    Path("run.jsonl").write_text("\n".join(json.dumps(document) for document in documents))
    command = "analyse run.jsonl --recipe shapes/decay.toml --noise 0.02 --save-recipe used.toml"
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    assert "1 decay" in result.stdout and "decay1.rate" in result.stdout
    assert Analysis.load("used.toml").candidates.digest == Analysis.load("shapes/decay.toml").candidates.digest
    result = CliRunner().invoke(app, "analyse run.jsonl --family own --shape nowhere.py:decay".split())
    assert result.exit_code == 2
    assert "there is no file" in result.stderr
