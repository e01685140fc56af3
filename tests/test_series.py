"""Series of frames: where the model changes, by all frames together."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from bluesky_bayes import Candidates, Dataset, Gaussian, Settings, select, series
from bluesky_bayes.dataset import Array
from bluesky_bayes.families import peaks, xrd
from bluesky_bayes.families.xrd import BEFORE, transition, transition_peaks
from bluesky_bayes.series import Change, FrameSeries, change_of

QUICK = Settings(sweeps=200, chains=4, error=0.2, longest=3200)
X = np.linspace(29.75, 30.25, 126)
NAMES = ("a", "b", "c")


def brute_force(log_evidence: Array, prior: Array) -> dict[tuple[int, ...], float]:
    """Probability of each sequence of models with one change or none, by going through them all."""
    n, m = log_evidence.shape
    pairs = sum(prior[a] * prior[b] for a, b in itertools.permutations(range(m), 2))
    score = {(a,) * n: math.log(prior[a]) for a in range(m)}
    for t, (a, b) in itertools.product(range(1, n), itertools.permutations(range(m), 2)):
        score[(a,) * t + (b,) * (n - t)] = math.log(prior[a] * prior[b] / pairs / (n - 1))
    total = {way: s + sum(log_evidence[i, k] for i, k in enumerate(way)) for way, s in score.items()}
    norm = special.logsumexp(list(total.values()))
    return {way: math.exp(s - norm) for way, s in total.items()}


def changed(log_evidence: Array, error: float = 0.0, prior: Array | None = None) -> Change:
    m = log_evidence.shape[1]
    prior = np.full(m, 1.0 / m) if prior is None else prior
    return change_of(log_evidence, np.full(log_evidence.shape, error), prior, NAMES[:m])


def test_a_change_has_the_probability_that_all_sequences_of_models_give_it() -> None:
    log_evidence, prior = np.random.default_rng(0).normal(0, 2, (6, 3)), np.array([0.5, 0.3, 0.2])
    change, ways = changed(log_evidence, prior=prior), brute_force(log_evidence, prior)
    constant = sum(p for way, p in ways.items() if len(set(way)) == 1)
    assert change.probability == pytest.approx(1 - constant)
    for t in range(6):
        first = sum(p for way, p in ways.items() if t and way[t] != way[t - 1])
        assert change.frames[t] == pytest.approx(first / (1 - constant))
        for k in range(3):
            assert change.models[t, k] == pytest.approx(sum(p for way, p in ways.items() if way[t] == k))
    for a, b in itertools.product(range(3), repeat=2):
        assert change.pairs[a, b] == pytest.approx(sum(p for way, p in ways.items() if (way[0], way[-1]) == (a, b)))


def test_without_evidence_a_change_is_as_probable_as_none_and_every_frame_as_any() -> None:
    change = changed(np.zeros((5, 2)))
    assert change.probability == pytest.approx(0.5)
    np.testing.assert_allclose(change.frames, [0, 0.25, 0.25, 0.25, 0.25])


def test_stated_errors_are_the_spread_that_errors_of_the_evidence_make() -> None:
    rng, error = np.random.default_rng(1), 0.05
    log_evidence = np.where(np.arange(12)[:, None] < 5, [0.0, -0.6], [-0.6, 0.0])
    stated = changed(log_evidence, error)
    again = [changed(log_evidence + error * rng.standard_normal((12, 2))) for _ in range(2000)]
    spread = np.std([change.frames for change in again], axis=0)
    np.testing.assert_allclose(stated.frame_errors[1:], spread[1:], rtol=0.12)
    assert stated.probability_error == pytest.approx(np.std([change.probability for change in again]), rel=0.12)


def test_many_frames_of_large_evidence_neither_overflow_nor_lose_a_nat() -> None:
    log_evidence = np.where(np.arange(1000)[:, None] < 300, [0.0, -4.0], [-4.0, 0.0]) - 2e4
    change = changed(log_evidence)
    assert (change.frame, change.before, change.after) == (300, "a", "b")
    assert change.frames[300] == pytest.approx(1 / (1 + 2 * math.exp(-4) / (1 - math.exp(-4))), rel=1e-6)
    assert change.interval == (300, 300) or change.interval == (299, 301)


@pytest.mark.parametrize("gap", [1.0, 2000.0])
def test_a_series_that_does_not_change_says_so(gap: float) -> None:
    change = changed(np.tile([0.0, -gap], (20, 1)))
    assert change.probability < 0.1
    assert change.models[:, 0].min() > 0.9
    assert change.frames.sum() == pytest.approx(1.0)


def frames_of(numbers: Sequence[int], height: float, seed: int = 0) -> list[Dataset]:
    rng = np.random.default_rng(seed)
    return [
        Dataset(
            X,
            rng.poisson(transition(X, frame, height)).astype(np.float64),
            counts=True,
            units={"x": "deg", "y": "counts"},
        )
        for frame in numbers
    ]


def splitting(height: float, numbers: Sequence[int]) -> FrameSeries:
    priors = {
        "amplitude": stats.uniform(0.1 * height, 1.4 * height),
        "center": stats.uniform(29.85, 0.25),
        "fwhm": stats.uniform(0.02, 0.03),
        "constant": stats.uniform(0, 0.05 * height),
    }
    candidates = xrd([1, 2], 0.8, width="shared", shared=["fraction"], priors=priors)
    return series(frames_of(numbers, height), candidates, at=numbers, settings=QUICK, threads=1)


@pytest.fixture(scope="module")
def faint() -> FrameSeries:
    """Twenty frames of so few counts that most of them do not decide alone."""
    return splitting(6.0, range(90, 110))


def test_the_frame_of_a_split_is_found_within_one_where_single_frames_do_not_decide(faint: FrameSeries) -> None:
    assert sum(selection.decisive() for selection in faint.selections) < 10
    change = faint.change
    assert (change.before, change.after) == ("1 peak", "2 peaks")
    assert change.probability > 0.95
    assert abs(faint.at[change.frame] - BEFORE) <= 1
    assert change.interval[0] <= BEFORE - 90 <= change.interval[1]
    assert faint.models == ("1 peak",) * change.frame + ("2 peaks",) * (20 - change.frame)
    assert "1 peak changes to 2 peaks" in faint.verdict


def test_a_track_has_each_frames_position_and_nothing_where_there_is_no_such_peak(faint: FrameSeries) -> None:
    mean, deviation = faint.track("peak2.center")
    there = np.array([model == "2 peaks" for model in faint.models])
    assert np.array_equal(np.isfinite(mean), there)
    true = np.array([transition_peaks(frame)[-1][1] for frame in faint.at])
    assert np.all(np.abs(mean - true)[there][1:-1] < 4.5 * deviation[there][1:-1])


def test_the_plot_shows_tracks_probabilities_and_the_frame(faint: FrameSeries) -> None:
    figure = faint.plot("center")
    assert len(figure.axes) == 3
    assert len(faint.plot().axes) == 2
    with pytest.raises(ValueError, match=r"no model of the series has a parameter 'sigma'; there are peak1\.amplitude"):
        faint.plot("sigma")


def test_answers_that_start_from_the_one_before_have_the_evidence_of_answers_from_the_prior(faint: FrameSeries) -> None:
    candidates = Candidates(tuple(posterior.model for posterior in faint.selections[0].posteriors))
    for i in (3, 12, 17):
        alone = select(faint.selections[i].data, candidates, settings=QUICK, threads=1, seed=1)
        error = np.hypot(alone.log_evidence_error, faint.log_evidence_error[i])
        assert np.all(np.abs(alone.log_evidence - faint.log_evidence[i]) < 4.0 * error)


def test_priors_left_out_come_from_all_frames_together() -> None:
    x, rng = np.linspace(-1, 1, 31), np.random.default_rng(0)
    seconds = (1.0, 1.0, 4.0, 4.0)
    counts = [rng.poisson(s * (5 + h * np.exp(-8 * x**2))) for s, h in zip(seconds, (20, 40, 60, 80), strict=True)]
    frames = [
        Dataset(x, y.astype(np.float64), counts=True, exposure=np.full(31, s))
        for y, s in zip(counts, seconds, strict=True)
    ]
    found = series(frames, peaks(counts=[0, 1]), settings=QUICK, batch=2, threads=1)
    assert len({selection.posteriors[1].model.digest for selection in found.selections}) == 1
    rates = np.concatenate([frame.y / s for frame, s in zip(frames, seconds, strict=True)])
    prior = found.selections[0].posteriors[1].model.priors["peak1.amplitude"]
    assert prior is not None
    assert prior.support() == pytest.approx((0.0, 1.5 * np.ptp(rates)))
    assert found.change.probability < 0.05
    assert found.models == ("1 peak",) * 4


@pytest.mark.parametrize(
    ("n", "counts", "options", "words"),
    [
        (1, [0, 1], {}, "two frames and two candidates"),
        (3, [1], {}, "two frames and two candidates"),
        (3, [0, 1], {"at": [1.0, 3.0, 2.0]}, "3 numbers that rise or fall"),
        (3, [0, 1], {"at": [1.0, 2.0]}, "3 numbers that rise or fall"),
        (3, [0, 1], {"batch": 0}, "batch must be one frame or more"),
    ],
)
def test_what_is_no_series_is_refused_in_words(n: int, counts: list[int], options: Any, words: str) -> None:
    x = np.linspace(0, 1, 11)
    with pytest.raises(ValueError, match=words):
        series([Dataset(x, x)] * n, peaks(counts=counts), Gaussian(0.1), **options)
