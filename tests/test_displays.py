"""Answers on the screen: lines in a terminal, and a window that belongs to the main thread."""

import gc
import io
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
from rich.console import Console

from bluesky_bayes import Selection, displays
from bluesky_bayes.answers import Answer
from bluesky_bayes.callbacks import BayesCallback
from bluesky_bayes.callbacks import bayes as module
from bluesky_bayes.displays import AnswerTable, LiveSelection

SECONDS = 60.0
MakeSelection = Callable[..., Selection]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=150)


def lines(console: Console) -> list[str]:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_each_answer_is_a_line_below_one_header(console: Console, make_selection: MakeSelection) -> None:
    table = AnswerTable(console=console)
    table("0123abcd", make_selection(), False)
    table("0123abcd", make_selection((-90.0, -40.0, -60.0)), True)
    table("0123abcd", make_selection((-90.0, -40.0, -60.0), r_hat=2.0), True)
    header, so_far, decided, unsure = lines(console)
    assert header.split() == ["time", "scan", "model", "p(model", "|", "data)", "parameters"]
    assert so_far.split()[1:][:8] == ["7", "1", "peak", "0.731", "±", "0.014", "so", "far"]
    assert decided.split()[1:6] == ["7", "1", "peak", "1.000", "decided"]
    assert "peak1.amplitude 100.0" in decided
    assert "peak1.center 0.009989 ± 9.0e-05 mm" in decided
    assert unsure.split()[5:7] == ["not", "sure"]
    assert all(len(line) <= 150 for line in lines(console))


def test_parameters_that_are_asked_for_are_shown_with_their_units(
    console: Console, make_selection: MakeSelection
) -> None:
    table = AnswerTable(["peak1.center", "no such thing"], console)
    table("0123abcd", make_selection(), True)
    assert lines(console)[-1].endswith("undecided   peak1.center 0.009989 ± 9.0e-05 mm")


def test_a_run_without_an_answer_is_a_line_that_says_why(console: Console) -> None:
    result = {"status": "failed", "reason": "the slits were closed"}
    AnswerTable(console=console).show(Answer.published({"uid": "1", "original_run_uid": "0123abcd", "result": result}))
    assert lines(console)[-1].split()[1:] == ["0123ab", "no", "answer", "failed", "the", "slits", "were", "closed"]


def test_the_header_comes_again_after_a_page(console: Console, make_selection: MakeSelection) -> None:
    table, selection = AnswerTable(console=console), make_selection()
    for _ in range(displays.ROWS_A_PAGE + 1):
        table("0123abcd", selection, True)
    assert sum(line.startswith("time") for line in lines(console)) == 2


def test_a_terminal_that_is_gone_is_logged_and_raises_nothing(
    make_selection: MakeSelection, caplog: pytest.LogCaptureFixture
) -> None:
    closed = io.StringIO()
    closed.close()
    AnswerTable(console=Console(file=closed))("0123abcd", make_selection(), True)
    assert "an answer could not be shown" in caplog.text


def test_answers_of_a_callback_are_shown_as_they_come(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare", fakes.unprepared)
    live = LiveSelection()
    with BayesCallback(fakes.Quick()) as bayes:
        bayes.listen(AnswerTable(console=console))
        bayes.listen(live.hear)
        documents = fakes.scan_documents()
        for name, doc in documents:
            bayes(name, doc)
            live(name, doc)
        bayes.result(documents[0][1]["uid"], SECONDS)
    assert "1 peak" in lines(console)[1]
    assert live.figure is not None


def on_a_thread(function: Callable[..., object], *arguments: Any) -> None:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words before each verdict that is drawn."""
    from bluesky_bayes import plots

    words: list[str] = []
    draw = plots.draw_selection

    def spy(figure: Any, selection: Selection, before: str = "") -> None:
        words.append(before)
        draw(figure, selection, before)

    monkeypatch.setattr(plots, "draw_selection", spy)
    return words


def test_without_a_screen_nothing_is_drawn_before_someone_asks(
    make_selection: MakeSelection, drawn: list[str], tmp_path: Path
) -> None:
    live = LiveSelection()
    on_a_thread(live.hear, "0123abcd", make_selection(), False)
    for name, doc in fakes.scan_documents():
        live(name, doc)
    assert drawn == []
    figure = live.figure
    assert figure is not None
    assert live.figure is figure
    assert drawn == ["So far, 41 points: "]
    figure.savefig(tmp_path / "live.png")
    live.hear("0123abcd", make_selection(), True)
    live.draw()
    assert drawn == ["So far, 41 points: ", ""]


def test_in_a_browser_it_is_drawn_at_the_next_document_and_partial_answers_not_too_often(
    make_selection: MakeSelection, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    monkeypatch.setattr(displays, "_screen", lambda: displays.BROWSER)
    live = LiveSelection(Figure())
    for final in (False, False, False, True):
        on_a_thread(live.hear, "0123abcd", make_selection(), final)
        on_a_thread(live, "event", {})
    assert drawn == ["So far, 41 points: ", ""]


def test_a_toolkit_s_window_is_left_alone_by_other_threads(
    make_selection: MakeSelection, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    monkeypatch.setattr(displays, "_screen", lambda: displays.TOOLKIT)
    live = LiveSelection(Figure())
    on_a_thread(live.hear, "0123abcd", make_selection(), True)
    on_a_thread(live, "event", {})
    assert drawn == []
    live("event", {})
    assert drawn == [""]


def test_old_answers_are_not_kept(make_selection: MakeSelection) -> None:
    live = LiveSelection()
    old = make_selection()
    gone = weakref.ref(old)
    live.hear("first", old, True)
    live.draw()
    live.hear("second", make_selection(), True)
    live.draw()
    del old
    gc.collect()
    assert gone() is None


def test_what_cannot_be_drawn_is_logged_and_raises_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displays, "_screen", lambda: displays.TOOLKIT)
    with caplog.at_level(logging.ERROR, logger="bluesky_bayes"):
        LiveSelection().hear("0123abcd", None, True)  # type: ignore[arg-type]
    assert "the window with the answer could not be drawn" in caplog.text


def test_in_a_worker_of_the_queueserver_it_is_silent(make_selection: MakeSelection, drawn: list[str]) -> None:
    tools = pytest.importorskip("bluesky_queueserver.manager.profile_tools")
    tools.set_re_worker_active()
    try:
        live = LiveSelection()
        live.hear("0123abcd", make_selection(), True)
        live("event", {})
        assert live.figure is None
    finally:
        tools.clear_re_worker_active()
    assert drawn == []


IN_QT = """
import sys, threading, time
import matplotlib
matplotlib.use("qtagg")
import matplotlib.pyplot as plt
from bluesky import RunEngine, plan_stubs as bps
import numpy as np
import fakes
from bluesky_bayes import Dataset, plots
from bluesky_bayes.displays import LiveSelection

engine, drawn, draw = RunEngine({}), [], plots.draw_selection
def spy(figure, selection, before=""):
    drawn.append((threading.current_thread().name, str(engine.state), before))
    draw(figure, selection, before)
plots.draw_selection = spy
live = LiveSelection()
selection = fakes.made_up(Dataset(np.linspace(0, 1, 41), np.linspace(1, 2, 41)))
def answers():
    live.hear("0123abcd", selection, False)
    live.hear("0123abcd", selection, True)
def plan():
    threading.Thread(target=answers).start()
    for _ in range(200):
        yield from bps.sleep(0.05)
        if len(drawn) == 2:
            return
engine(plan(), live)
print(drawn)
assert drawn == [("MainThread", "running", "So far, 41 points: "), ("MainThread", "running", "")], drawn
live.figure.savefig(sys.argv[1])
plt.close("all")
answers()  # here on the main thread: the window was closed during this run and stays so
assert len(drawn) == 2, drawn
live.hear("another", selection, True)
assert len(drawn) == 3, drawn
"""


def test_in_qt_it_is_drawn_on_the_main_thread_while_the_engine_runs(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("PySide6.QtWidgets", reason="there is no Qt", exc_type=ImportError)
    environment = {"QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": f"{repository}:{repository / 'tests'}"}
    picture = tmp_path / "live.png"
    outcome = subprocess.run(
        [sys.executable, "-c", IN_QT, str(picture)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
