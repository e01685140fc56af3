"""The answer reads well as text."""

from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from rich.console import Console

from bluesky_bayes import Candidates, FrameSeries, NoiseScan, Selection
from bluesky_bayes.tables import rounded, selection_table, with_error
from bluesky_bayes.windows import WindowScan

MakeSelection = Callable[..., Selection]


def printed(selection: Selection) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(selection_table(selection))
    return captured.get()


@hypothesis.given(st.floats(-1e12, 1e12), st.floats(1e-12, 1e12))
def test_rounding_moves_a_value_by_a_twentieth_of_its_error_at_most(value: float, error: float) -> None:
    assert abs(float(rounded(value, error)) - value) <= 0.0503 * error + 1e-15 * abs(value)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-172.2512, 0.0213, "-172.251 ± 0.021"),
        (2.0, 0.0, "2"),
        (0.0, float("nan"), "0 ± nan"),
        (-1.5e8, 2.0e6, "-1.500e+08 ± 2.0e+06"),
    ],
)
def test_a_value_and_its_error_end_at_the_same_digit(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


def test_the_table_names_every_model_with_its_probability_and_evidence(make_selection: MakeSelection) -> None:
    text = printed(make_selection((-90.0, -40.0, -41.0)))
    assert "Scan 7: det against motor, 41 points, Gaussian noise, sigma = 3" in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") == 5}
    assert "< 0.001" in rows["no peak"]
    assert "-50.000 ± 0.071" in rows["no peak"]
    assert "0.731 ± 0.014" in rows["1 peak"]
    assert "-1.000 ± 0.071" in rows["2 peaks"]


def test_the_table_gives_the_best_models_parameters_with_intervals_and_units(
    make_selection: MakeSelection,
) -> None:
    text = printed(make_selection((-90.0, -40.0, -41.0)))
    assert "Parameters of '1 peak'" in text
    (row,) = [line for line in text.splitlines() if "peak1.sigma" in line]
    name, median, sd, interval, unit = (cell.strip() for cell in row.strip("│").split("│"))
    assert name == "peak1.sigma"
    assert float(median) == pytest.approx(0.2, abs=0.001)
    assert float(sd) == pytest.approx(0.002, rel=0.2)
    low, high = (float(edge) for edge in interval.split(" to "))
    assert low < 0.2 < high
    assert unit == "mm"
    assert text.index("peak1.amplitude") < text.index("peak1.area") < text.index("constant")


def test_the_verdict_notes_and_warnings_follow_in_words(make_selection: MakeSelection) -> None:
    text = " ".join(printed(make_selection((-40.0, -41.0), r_hat=1.5)).split())
    assert "Verdict: no peak is most probable (p = 0.731) but cannot be told from 1 peak: undecided" in text
    assert "Note: peaks are in order of their center" in text
    assert "Warning: no peak: the chains disagree on a parameter (R-hat 1.50)" in text


@pytest.mark.parametrize("counts", [False, True])
def test_every_line_fits_into_80_columns(make_selection: MakeSelection, counts: bool) -> None:
    text = printed(make_selection((-44000.0, -40.0, -41.0, -44.0), counts=counts))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_a_result_at_the_prompt_is_a_line_of_words_and_not_all_its_numbers(make_selection: MakeSelection) -> None:
    selection = make_selection((-90.0, -40.0, -45.0))
    assert repr(selection) == f"<Selection: {selection.verdict}>"
    assert repr(selection.data) == "<Dataset: 41 points, det (V) against motor (mm) from -1 to 1>"
    model = "<Model '1 peak': peak1.amplitude, peak1.center, peak1.sigma, constant>"
    assert repr(selection.best.model) == model
    assert repr(selection.best) == "<Posterior of '1 peak': log evidence -40.000 ± 0.050, 4 parameters>"
    assert repr(Candidates(tuple(p.model for p in selection.posteriors))) == "<Candidates: no peak, 1 peak, 2 peaks>"
    series = FrameSeries((selection, selection), np.arange(2.0))
    assert repr(series) == f"<FrameSeries: {series.verdict}>"
    assert repr(WindowScan(((0.0, 1.0),), (selection,))).startswith("<WindowScan: the answer does not depend")
    levels = np.array([[-3.0, -1.0], [-4.0, -2.0]])
    scan = NoiseScan(("1 peak", "2 peaks"), np.array([0.1, 0.2]), levels, 0.0 * levels, np.full(2, 0.5), ((), ()))
    assert repr(scan) == "<NoiseScan: 1 peak at a standard deviation of 0.2 is most probable>"
