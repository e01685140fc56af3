"""Decisions are pure functions of answers."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from bluesky_bayes import Dataset, Gaussian, Poisson, Selection, select
from bluesky_bayes.decisions import (
    Decision,
    ModelChange,
    Visit,
    check_joinable,
    decide,
    joined,
    next_position,
    seconds_left,
)
from bluesky_bayes.families import linear

Make = Callable[..., Selection]


def test_one_clear_answer_decides(make_selection: Make) -> None:
    decision = decide([make_selection((-90.0, -40.0, -50.0))])
    assert (decision.model, decision.decided) == ("1 peak", True)
    assert decision.reason == "1 peak (p = 1.000 after 1 scan)"


def test_what_one_answer_leaves_open_several_decide_together(make_selection: Make) -> None:
    weak = make_selection((-90.0, -40.0, -41.5))
    one, three = decide([weak]), decide([weak] * 3)
    assert not one.decided
    assert "not probable enough: 0.95 is asked for" in one.reason
    assert three.decided
    # Three times 1.5 nats: 1 / (1 + exp(-4.5)).
    assert three.probability == pytest.approx(0.98901, abs=1e-4)


def test_evidence_that_is_uncertain_does_not_decide(make_selection: Make) -> None:
    decision = decide([make_selection((-90.0, -40.0, -44.0), error=1.0)])
    assert decision.probability > 0.95
    assert not decision.decided
    assert "ahead by no more than its evidence is uncertain" in decision.reason


def test_an_answer_with_a_warning_does_not_decide(make_selection: Make) -> None:
    decision = decide([make_selection((-90.0, -40.0, -50.0)), make_selection((-90.0, -40.0, -50.0), r_hat=2.0)])
    assert not decision.decided
    assert "not to be trusted" in decision.reason


def test_answers_about_different_things_are_not_put_together(make_selection: Make) -> None:
    with pytest.raises(ValueError, match="different candidates"):
        decide([make_selection((-1.0, -2.0)), make_selection((-1.0, -2.0, -3.0))])
    with pytest.raises(ValueError, match="no answer"):
        decide([])


X = np.linspace(-1.0, 1.0, 9)
LINES = linear({"offset": "1", "slope": "x"}, priors={"offset": stats.norm(0, 3), "slope": stats.norm(0, 3)})


def line(offset: float, slope: float, rng: np.random.Generator) -> Selection:
    """The answer, in closed form, for one noisy scan of a line."""
    return select(Dataset(X, offset + slope * X + rng.standard_normal(X.size)), LINES, Gaussian(1.0))


def put_together(answers: list[Selection], probability: float = 0.95) -> Decision:
    together = select(joined([answer.data for answer in answers]), LINES, Gaussian(1.0))
    return decide(answers, probability, together)


def test_where_nothing_but_noise_differs_scans_decide_together_sooner_than_one_by_one() -> None:
    rng = np.random.default_rng(0)
    leads = []
    for _ in range(20):
        answers = [line(1.0, 1.0, rng) for _ in range(4)]
        leads.append((put_together(answers).lead, decide(answers).lead))
    with_all, one_by_one = np.array(leads).T
    assert np.median(with_all) > np.median(one_by_one) + 1.0


def test_scans_that_drift_are_not_forced_into_one_line() -> None:
    rng = np.random.default_rng(1)
    answers = [line(offset, 2.0, rng) for offset in (-6.0, 0.0, 6.0)]
    drifted = put_together(answers)
    assert drifted.decided
    assert drifted.model == LINES.names[1]
    assert "which differ by more than noise: each is taken by itself" in drifted.reason
    assert drifted.lead == pytest.approx(decide(answers).lead, abs=0.1)


def test_of_series_that_stop_when_decided_no_more_are_wrong_than_stated() -> None:
    """Truths drawn from the priors, half of the series drifting: the rule is right for just these."""
    rng = np.random.default_rng(2)
    wrong = decided = 0
    for _ in range(40):
        sloped, drifts = rng.integers(2), rng.integers(2)
        offset, slope = 3.0 * rng.standard_normal(2)
        answers: list[Selection] = []
        for _ in range(4):
            if drifts:
                offset, slope = 3.0 * rng.standard_normal(2)
            answers.append(line(offset, slope * sloped, rng))
            found = put_together(answers, 0.9)
            if found.decided:
                decided += 1
                wrong += found.model != LINES.names[sloped]
                break
    assert decided > 20
    assert wrong <= stats.binom.ppf(0.999, decided, 0.1)


def test_what_warns_counts_only_where_its_answer_counts(make_selection: Make) -> None:
    good, warned = (-180.0, -60.0, -70.0), make_selection((-90.0, -40.0, -50.0), r_hat=2.0)
    decision = decide([warned, warned], together=make_selection(good))
    assert decision.decided
    assert not decide([warned, warned], together=make_selection((-300.0, -200.0, -210.0))).decided


def test_points_of_several_scans_keep_their_uncertainty_and_exposure() -> None:
    parts = [
        Dataset(np.array([0.0, 1.0]), y, counts=True, exposure=y, sigma=0.1 * y, units={"x": "mm"})
        for y in (np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    ]
    both = joined(parts)
    assert both.x.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert both.y.tolist() == [1.0, 1.0, 2.0, 3.0]
    assert both.exposure is not None
    assert both.exposure.tolist() == [1.0, 1.0, 2.0, 3.0]
    assert both.sigma is not None
    assert both.counts
    assert both.units == {"x": "mm"}


def test_noise_given_for_each_point_of_one_scan_says_nothing_of_several() -> None:
    with pytest.raises(ValueError, match=r"gives sigma for each point .* name a field .*sigma=\.\.\."):
        check_joinable(Gaussian(np.ones(3)))
    with pytest.raises(ValueError, match="gives scale for each point"):
        check_joinable(Poisson(scale=np.ones(3)))
    for noise in (None, Gaussian(), Gaussian(0.1), Poisson()):
        check_joinable(noise)


def visited(change_at: float, positions: Sequence[float]) -> list[Visit]:
    return [Visit(at, Decision("A" if at < change_at else "B", 0.99, True, "")) for at in positions]


@pytest.mark.parametrize("change_at", [0.3, 3.0, 9.99])
@pytest.mark.parametrize("downwards", [False, True])
def test_the_bracket_halves_until_it_is_narrow_enough(change_at: float, downwards: bool) -> None:
    positions = [10.0, 0.0] if downwards else [0.0, 10.0]
    while not isinstance(following := next_position(visited(change_at, positions), 0.1), ModelChange):
        positions.append(following)
    assert following.found
    assert len(positions) == 2 + 7
    assert min(following.low, following.high) <= change_at <= max(following.low, following.high)
    assert abs(following.high - following.low) <= 0.1
    assert {following.below, following.above} == {"A", "B"}


@pytest.mark.parametrize("ends", [(100.0, 140.0), (140.0, 100.0), (-1e-320, 1e-320), (-1e300, 1e300)])
@pytest.mark.parametrize("part", [0.0, 0.43, 1.0])
def test_a_bracket_that_no_number_can_halve_is_narrow_enough(ends: tuple[float, float], part: float) -> None:
    change_at = max(min(ends) + part * (max(ends) - min(ends)), math.nextafter(min(ends), math.inf))
    positions = list(ends)
    while not isinstance(following := next_position(visited(change_at, positions), 5e-324), ModelChange):
        assert following not in positions
        positions.append(following)
    assert following.found
    assert math.nextafter(following.low, following.high) == following.high
    assert min(following.low, following.high) < change_at <= max(following.low, following.high)


def test_of_two_changes_the_one_nearer_to_the_low_end_is_found() -> None:
    def model(at: float) -> str:
        return "A" if at < 2.0 else "B" if at < 7.0 else "C"

    positions = [0.0, 10.0]
    while True:
        visits = [Visit(at, Decision(model(at), 0.99, True, "")) for at in positions]
        if isinstance(following := next_position(visits, 0.5), ModelChange):
            break
        positions.append(following)
    assert (following.below, following.above) == ("A", "B")
    assert following.low < 2.0 <= following.high


def test_ends_with_the_same_model_end_the_search() -> None:
    end = next_position(visited(20.0, [0.0, 10.0]), 0.1)
    assert isinstance(end, ModelChange)
    assert not end.found
    assert end.reason == "A holds at 0 and at 10: nothing changes"


def test_an_undecided_end_ends_the_search_and_says_where() -> None:
    visits = [*visited(3.0, [0.0]), Visit(10.0, Decision("B", 0.7, False, "B is not probable enough"))]
    end = next_position(visits, 0.1)
    assert isinstance(end, ModelChange)
    assert not end.found
    assert end.reason == "undecided at 10: B is not probable enough"


@pytest.mark.parametrize("ends", [(0.0, 16.0), (16.0, 0.0)])
def test_what_is_undecided_between_the_ends_is_bracketed_from_both_sides(ends: tuple[float, float]) -> None:
    visits: list[Visit] = []

    def look(at: float) -> Visit:
        if 6.0 < at < 9.0:
            return Visit(at, Decision("A", 0.7, False, "it does not fit"))
        return visited(7.0, [at])[0]

    visits = [look(at) for at in ends]
    while not isinstance(following := next_position(visits, 1.0), ModelChange):
        visits.append(look(following))
    assert not following.found
    assert sorted([following.low, following.high]) == [6.0, 9.0]
    assert {following.below, following.above} == {"A", "B"}
    assert "the model changes between" in following.reason
    assert following.reason.endswith("it does not fit")
    assert len(visits) <= 9


def test_the_time_left_follows_from_how_fast_the_lead_grows(make_selection: Make) -> None:
    decision = decide([make_selection((-90.0, -40.0, -41.0))])  # a lead of one nat in ten seconds; 2.944 are needed
    assert seconds_left(decision, 0.95, 10.0) == pytest.approx(19.44, abs=0.01)
    assert seconds_left(decide([make_selection((-90.0, -40.0, -50.0))]), 0.95, 10.0) == 0.0
    assert math.isnan(seconds_left(decide([make_selection((-40.0, -40.0))]), 0.95, 10.0))
