"""Decisions are pure functions of answers."""

import math
from collections.abc import Callable, Sequence

import pytest

from bluesky_bayes import Selection
from bluesky_bayes.decisions import Decision, ModelChange, Visit, decide, next_position, seconds_left

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


def test_an_undecided_position_ends_the_search_and_says_where() -> None:
    visits = [*visited(3.0, [0.0, 10.0]), Visit(5.0, Decision("B", 0.7, False, "B is not probable enough"))]
    end = next_position(visits, 0.1)
    assert isinstance(end, ModelChange)
    assert not end.found
    assert end.reason == "undecided at 5: B is not probable enough"
    assert (end.low, end.high) == (0.0, 10.0)


def test_the_time_left_follows_from_how_fast_the_lead_grows(make_selection: Make) -> None:
    selection = make_selection((-90.0, -40.0, -41.0))  # a lead of one nat in ten seconds; 2.944 are needed
    assert seconds_left(selection, 0.95, 10.0) == pytest.approx(19.44, abs=0.01)
    assert seconds_left(make_selection((-90.0, -40.0, -50.0)), 0.95, 10.0) == 0.0
    assert math.isnan(seconds_left(make_selection((-40.0, -40.0)), 0.95, 10.0))
