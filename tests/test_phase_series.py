"""Series of patterns: which phases come and go, and at which frame."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gemmi")

from bluesky_bayes.phases import Beliefs, Follower, Library, Pattern, PhaseSeries, Structure, follow
from bluesky_bayes.phases.selection import searched
from bluesky_bayes.phases.series import _Frame, presence_of
from bluesky_bayes.phases.simulated import example_library, simulate_series

ODDS = -3.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bluesky_bayes.phases.library.user_cache_path", lambda *_: folder)
        return example_library()


@pytest.fixture(scope="module")
def by_name(library: Library) -> dict[str, Structure]:
    return {structure.name: structure for structure in library}


@pytest.fixture(scope="module")
def frames(by_name: dict[str, Structure]) -> list[Pattern]:
    """Anatase is gone from frame 8 on, rutile there from frame 4 on."""
    share = np.clip((np.arange(12) - 3) / 5, 0.0, 1.0)
    return simulate_series([[(by_name["anatase"], 1.0 - a), (by_name["rutile"], a)] for a in share], seed=1)


@pytest.fixture(scope="module")
def series(frames: list[Pattern], library: Library) -> PhaseSeries:
    return follow(frames, library, at=300.0 + 10.0 * np.arange(12), label="temperature (K)")


def test_frames_of_appearance_and_disappearance_are_found(series: PhaseSeries) -> None:
    assert {phase.members for phase in series.phases} == {("anatase",), ("rutile",)}
    anatase, rutile = series["anatase"], series["rutile"]
    assert (anatase.appears, anatase.disappears) == (None, 8)
    assert (rutile.appears, rutile.disappears) == (4, None)
    assert min(anatase.goes, rutile.comes) > 0.95
    assert rutile.frames[2] < 0.1
    assert rutile.frames[5] > 0.99
    assert series.trustworthy, series.warnings


def test_weights_follow_the_melting(series: PhaseSeries) -> None:
    share = np.clip((np.arange(12) - 3) / 5, 0.0, 1.0)
    assert series["rutile"].weight[:, 0] == pytest.approx(share, abs=0.12)


def test_a_series_is_told_in_words_and_drawn(series: PhaseSeries, tmp_path: Path) -> None:
    assert "TiO2 (rutile) appears at temperature (K) 340" in str(series)
    assert "TiO2 (anatase) is gone from temperature (K) 380" in str(series)
    series.plot().savefig(tmp_path / "series.png", dpi=50)
    with pytest.raises(KeyError, match="no frame shows 'quartz'"):
        series["quartz"]


def test_a_frame_goes_on_where_the_one_before_ended(frames: list[Pattern], library: Library) -> None:
    follower = Follower(library)
    first = follower(frames[6])
    second = follower(frames[7])
    assert {phase.members[0] for phase in second.present} == {phase.members[0] for phase in first.present}
    assert follower.series().phases


def test_one_frame_is_no_series(frames: list[Pattern], library: Library) -> None:
    with pytest.raises(ValueError, match="two patterns or more"):
        follow(frames[:1], library)
    follower = Follower(library)
    for frame in frames[:2]:
        follower(frame)
    with pytest.raises(ValueError, match="as many places; got 2 and 3"):
        follower.series(at=[1.0, 2.0, 3.0])


def test_a_phase_that_the_best_set_lacks_is_followed_too(
    frames: list[Pattern], library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probable by several sets, none of them the best: its fit is that of the best set that has it."""
    selection, finding = searched(frames[5], library, Beliefs(), None)
    both, alone = (
        next(
            joint
            for joint in finding.by_phases()
            if {finding.names[n] for n in finding.phases_of(joint.members)} == names
        )
        for names in ({"anatase", "rutile"}, {"anatase"})
    )
    monkeypatch.setattr(finding, "by_phases", lambda: [alone, both])
    frame = _Frame.of(selection, finding)
    assert frame.best.members == alone.members
    assert frame.terms.keys() == {"anatase", "rutile"}
    follower = Follower(library)
    follower._frames = [frame, frame]
    assert {phase.members for phase in follower.series().phases} == {("anatase",), ("rutile",)}


def test_weak_frames_decide_together() -> None:
    factor = np.where(np.arange(40) < 20, -1.5, 1.5)
    probability, present, first, _, comes, goes = presence_of(factor, ODDS)
    assert probability > 0.99
    assert (int(np.argmax(first)), round(comes), round(goes)) == (20, 1, 0)
    assert present[:15].max() < 0.05
    assert present[25:].min() > 0.95


def test_one_frame_that_misleads_decides_nothing() -> None:
    factor = np.full(40, -2.0)
    factor[17] = 500.0
    probability, *_ = presence_of(factor, ODDS)
    assert probability < 0.5
    factor = np.full(40, 2.0)
    factor[17] = -500.0
    assert presence_of(factor, ODDS)[1][17] > 0.5


def test_probabilities_of_presence_are_sums_over_all_intervals() -> None:
    factor = np.random.default_rng(0).normal(0.0, 1.0, 6)
    probability, present, first, gone, comes, goes = presence_of(factor, ODDS)
    weights = {}
    for begin in range(6):
        for end in range(begin + 1, 7):
            # Throughout; 5 frames to come at, or to go at; 10 pairs of them.
            ways = {(False, False): 1, (True, False): 5, (False, True): 5, (True, True): 10}[(begin > 0, end < 6)]
            weights[begin, end] = np.exp(factor[begin:end].sum()) / (4 * ways)
    odds = np.exp(ODDS)
    total = 1.0 + odds * sum(weights.values())
    assert probability == pytest.approx(1.0 - 1.0 / total, abs=0.01)
    for frame in range(6):
        expected = odds * sum(w for (a, b), w in weights.items() if a <= frame < b) / total
        assert present[frame] == pytest.approx(expected, abs=0.01)
    assert comes == pytest.approx(odds * sum(w for (a, _), w in weights.items() if a > 0) / total, abs=0.01)
    assert goes == pytest.approx(odds * sum(w for (_, b), w in weights.items() if b < 6) / total, abs=0.01)
    assert first.sum() == pytest.approx(1.0)
    assert gone.sum() == pytest.approx(1.0)
