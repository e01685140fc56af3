"""The wheel holds every tracked file of the three folders and works from elsewhere.

Tests at the root import the working tree, so they cannot see what a wheel forgets.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = {
    "bluesky_bayes": "bluesky_bayes",
    "callbacks": "bluesky_bayes/callbacks",
    "kernels": "bluesky_bayes/kernels",
}


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints; fail with all it said."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    if not (repository / ".git").exists():
        pytest.skip("no git checkout: cannot tell which files are tracked")
    names = run("git", "ls-files", "-z", cwd=repository).split("\0")
    # A file deleted but not yet committed is still listed.
    return [Path(name) for name in names if name and os.path.lexists(repository / name)]


@pytest.fixture(scope="module", params=["with the links", "without the links"])
def wheel(
    request: pytest.FixtureRequest,
    repository: Path,
    tracked: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Build from a copy of the tracked files, so that no stale `build/` has a say."""
    source = tmp_path_factory.mktemp("source")
    for path in tracked:
        if (repository / path).is_symlink() and request.param == "without the links":
            continue
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / path, source / path, follow_symlinks=False)
    out = tmp_path_factory.mktemp("wheel")
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", out, source),
        cwd=out,
    )
    (built,) = out.glob("*.whl")
    return built


def expected(tracked: list[Path]) -> Iterator[str]:
    """Give the place in the wheel of each tracked file of the package."""
    for path in tracked:
        top, *rest = path.parts
        if top in FOLDERS and path.as_posix() not in FOLDERS.values():
            yield "/".join([FOLDERS[top], *rest])


def test_the_wheel_holds_each_tracked_file_of_the_package_once(wheel: Path, tracked: list[Path]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert sorted(held) == sorted(expected(tracked))


def test_the_wheel_works_in_another_environment_and_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)
    # The dependencies come from here.  A path added by a .pth file brings no .pth
    # files of its own, so an editable install here stays unseen there.
    (site,) = environment.rglob("site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "from bluesky_bayes import callbacks, kernels, __file__ as top\n"
        "print(top, callbacks.__file__, kernels.__file__, sep='\\n')"
    )
    for line in run(python, "-I", "-c", code, cwd=elsewhere).splitlines():
        assert Path(line).is_relative_to(site / "bluesky_bayes"), line
