"""The demonstration shows what it promises."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from problems import NAGATA_FREE_ENERGY, NAGATA_NORMALISER

from bluesky_bayes import Dataset
from bluesky_bayes.demo import IN_A_PROFILE, PICTURE, demo_analysis
from bluesky_bayes.simulated import three_peaks


@pytest.mark.tiled
def test_the_quick_demonstration_scans_answers_draws_publishes_and_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("tiled.server")
    # In a process of its own, as only one embedded Tiled server lives in a process.
    command = "from bluesky_bayes.cli import main; main()"
    shown = subprocess.run(
        [sys.executable, "-c", command, "demo", "--quick", "--output", str(tmp_path / "new")],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    text = " ".join(shown.stdout.split())
    steps = ["Starting a Tiled server", "Scan 1: 301 points", "Analysing scan 1", "Verdict:", "Drawing", "Publishing"]
    places = [text.index(step) for step in (*steps, "Reading back the answer to scan 1", "In your own profile")]
    assert places == sorted(places)
    assert "1 peak and 2 peaks are out by" in text[places[-2] :]
    assert (tmp_path / "new" / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_demonstration_asks_the_question_of_the_paper() -> None:
    analysis = demo_analysis(range(6))
    assert analysis.candidates.names == ("no peak", "1 peak", "2 peaks", "3 peaks", "4 peaks", "5 peaks")
    x = np.linspace(0, 3, 301)
    y = three_peaks(x) + 0.1 * np.random.RandomState(0).standard_normal(301)
    selection = demo_analysis([1])(Dataset(x, y))
    expected = -(NAGATA_FREE_ENERGY[1] + NAGATA_NORMALISER)
    assert selection.log_evidence[0] == pytest.approx(expected, abs=0.01 + 4 * selection.log_evidence_error[0])


def test_the_lines_for_a_profile_run() -> None:
    from bluesky import RunEngine
    from bluesky.plans import scan
    from ophyd.sim import SynGauss, motor

    det = SynGauss("det", motor, "motor", center=0, Imax=1, sigma=0.2, noise="uniform", noise_multiplier=0.1)
    names = {"RE": RunEngine({}), "scan": scan, "det": det, "motor": motor}
    exec(IN_A_PROFILE, names)
    try:
        assert names["selection"].data.n == 41
    finally:
        names["bayes"].close()
