"""Three folders at the top level are one package, and importing it is light."""

import subprocess
import sys
from pathlib import Path

import pytest

import bluesky_bayes
import bluesky_bayes.callbacks
import bluesky_bayes.kernels

HEAVY = ["cupy", "matplotlib", "numba", "scipy.stats", "tiled", "xarray"]


def test_the_public_names_are_these() -> None:
    assert sorted(bluesky_bayes.__all__) == [
        "Analysis",
        "Candidates",
        "Component",
        "Dataset",
        "FrameSeries",
        "Gaussian",
        "Model",
        "NoiseScan",
        "Parameter",
        "Poisson",
        "Posterior",
        "Selection",
        "Settings",
        "StudentT",
        "component",
        "noise_scan",
        "select",
        "select_iter",
        "select_many",
        "series",
    ]
    assert bluesky_bayes.callbacks.__all__ == ["BayesCallback"]


@pytest.mark.parametrize("package", [bluesky_bayes, bluesky_bayes.callbacks])
def test_every_public_name_is_there(package: object) -> None:
    for name in getattr(package, "__all__", ()):
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("folder", ["callbacks", "kernels"])
def test_a_link_below_the_package_leads_to_the_folder_beside_it(repository: Path, folder: str) -> None:
    link = repository / "bluesky_bayes" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
    assert link.samefile(repository / folder)


@pytest.mark.parametrize("folder", ["callbacks", "kernels"])
def test_a_subpackage_is_the_folder_beside_the_package(repository: Path, folder: str) -> None:
    module = getattr(bluesky_bayes, folder)
    assert Path(module.__file__).resolve().parent == repository / folder


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, bluesky_bayes; print(*sys.modules)"
    listed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    assert sorted(set(HEAVY) & set(listed.stdout.split())) == []
