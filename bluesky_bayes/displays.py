"""Answers as they come: a line each in the terminal, and a window with the latest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bluesky.callbacks.mpl_plotting import QtAwareCallback

from bluesky_bayes.answers import Answer
from bluesky_bayes.selection import Selection
from bluesky_bayes.tables import by_component, probability

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.text import Text

logger = logging.getLogger("bluesky_bayes")

COLUMNS = {"time": 8, "scan": 6, "model": 22, "p(model | data)": 15, "": 10}
ROWS_A_PAGE = 30
WORTH = 0.05
"""Share of the time that drawing may take."""
WINDOW = "bluesky_bayes"
MEMORY, BROWSER, TOOLKIT = "memory", "browser", "toolkit"
BROWSERS = ("ipympl", "nbagg", "notebook", "webagg", "widget")


class AnswerTable:
    """A line for each answer, as bluesky's LiveTable has one for each event: ``bayes.listen(AnswerTable())``.

    Each line is written at once, on the thread of the listener: never on that of the RunEngine. At IPython's prompt it
    appears above the prompt.

    Parameters
    ----------
    parameters : sequence of str
        Those to show, by name; by default as many as the line has room for.
    console : rich.console.Console, optional
        By default standard output.
    """

    def __init__(self, parameters: Sequence[str] = (), console: Console | None = None) -> None:
        from rich.console import Console

        self._parameters = tuple(parameters)
        self._console = console or Console()
        self._rows = 0

    def __call__(self, uid: str, selection: Selection, final: bool) -> None:
        """Show an answer of this process, or of a run so far. Never raises."""
        try:
            self.show(Answer.of(selection), final)
        except Exception:
            logger.exception("an answer could not be shown")

    def show(self, answer: Answer, final: bool = True) -> None:
        """Show an answer of any origin."""
        from rich.text import Text

        if self._rows % ROWS_A_PAGE == 0:
            header = [name.ljust(width) for name, width in COLUMNS.items()]
            self._console.print(Text("  ".join([*header, "parameters"]), "bold"), soft_wrap=True)
        self._rows += 1
        self._console.print(self._line(answer, final), no_wrap=True, overflow="ellipsis", crop=False)

    def _line(self, answer: Answer, final: bool) -> Text:
        from rich.text import Text

        judged, style = _judged(answer)
        scan = answer.run_uid[:6] if answer.scan_id is None else str(answer.scan_id)
        p = probability(answer.probability, answer.probability_error) if answer.found else ""
        cells = [time.strftime("%H:%M:%S"), scan, answer.model or "no answer", p, judged if final else "so far"]
        line = Text(style="" if final else "dim")
        for cell, (name, width) in zip(cells, COLUMNS.items(), strict=True):
            line.append(f"{_cut(cell, width).ljust(width)}  ", style if final and not name else "")
        line.append(self._values(answer, self._console.width - line.cell_len) if answer.found else answer.reason)
        return line

    def _values(self, answer: Answer, room: int) -> str:
        """Parameters that were asked for, or as many of the first as there is room for."""
        names = [
            name for name in self._parameters or by_component(list(answer.parameters)) if name in answer.parameters
        ]
        values = [f"{name} {answer.value(name)}" for name in names]
        if not self._parameters:
            while len(values) > 1 and len(", ".join(values)) > room:
                del values[-1]
        return ", ".join(values)


def _judged(answer: Answer) -> tuple[str, str]:
    """A word on how far to trust an answer, and its style."""
    if not answer.found:
        return "failed", "red"
    if not answer.trustworthy:
        return "not sure", "yellow"
    return ("decided", "green") if answer.decisive else ("undecided", "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


class LiveSelection(QtAwareCallback):
    """A window with the latest answer: data, best model with its band, and p(model), while a scan goes on and after.

    ``live = LiveSelection(); bayes.listen(live.hear); RE.subscribe(live)``. Like bluesky's LivePlot it draws on the
    main thread with a Qt backend, and at the next document with the widgets of a notebook; with any other backend when
    it is asked to: ``live.draw()``, or ``live.figure`` in a notebook. It keeps one answer, never raises, and does
    nothing in a worker of the queueserver.

    Parameters
    ----------
    figure : matplotlib.figure.Figure, optional
        Where to draw; by default a window of its own.
    """

    def __init__(self, figure: Figure | None = None) -> None:
        self._silent = _in_queueserver()
        super().__init__(use_teleporter=False if self._silent else None)  # type: ignore[no-untyped-call]
        self._figure, self._given = figure, figure is not None
        self._latest: tuple[str, Selection, bool] | None = None
        self._shown: tuple[str, Selection, bool] | None = None
        self._cost, self._drawn_at = 0.0, 0.0
        self._lock = threading.RLock()

    def hear(self, uid: str, selection: Selection, final: bool) -> None:
        """Take an answer, on any thread: ``bayes.listen(live.hear)``."""
        self("answer", {"uid": uid, "selection": selection, "final": final})

    def __call__(self, name: str, doc: Any, *, escape: bool = False) -> None:  # type: ignore[override]
        """Take a document or an answer; with a Qt backend an answer goes to the main thread. Never raises."""
        if self._silent:
            return
        try:
            if name == "answer":
                super().__call__(name, doc, escape=escape)  # type: ignore[no-untyped-call]
            else:
                self._draw_here()
        except Exception:
            logger.exception("the window with the answer could not be drawn")

    def answer(self, doc: dict[str, Any]) -> None:
        """Keep an answer, and draw it if this is the place and the time."""
        self._latest = (doc["uid"], doc["selection"], doc["final"])
        self._draw_here()

    @property
    def figure(self) -> Figure | None:
        """The figure, with the latest answer; None before there is one."""
        self.draw()
        return self._figure

    def draw(self) -> None:
        """Draw the latest answer now, on this thread."""
        with self._lock:
            latest = self._latest
            if latest is None or latest is self._shown:
                return
            uid, selection, final = latest
            if not self._is_open(uid):
                return
            from bluesky_bayes.plots import draw_selection

            assert self._figure is not None
            begun = time.perf_counter()
            self._figure.clear()
            n = selection.data.n
            draw_selection(self._figure, selection, "" if final else f"So far, {n} points: ")
            self._figure.canvas.draw_idle()
            self._drawn_at = time.perf_counter()
            self._cost = self._drawn_at - begun
            self._shown = latest

    def _draw_here(self) -> None:
        """Draw unless this thread must not, or drawing would take too large a share of the time."""
        if self._latest is None or not _may_draw():
            return
        rested = time.perf_counter() - self._drawn_at
        if self._latest[2] or rested > self._cost / WORTH:
            self.draw()

    def _is_open(self, uid: str) -> bool:
        """Open a window if there is none; one that the user closed stays closed until the next run."""
        import matplotlib.pyplot as plt
        from matplotlib.figure import Figure

        from bluesky_bayes.plots import SELECTION_SIZE

        if self._given:
            return True
        if _screen() == MEMORY:
            self._figure = self._figure or Figure(figsize=SELECTION_SIZE, layout="constrained")
            return True
        if self._figure is not None and plt.fignum_exists(WINDOW):
            return True
        if self._figure is not None and self._shown is not None and self._shown[0] == uid:
            return False
        self._figure = plt.figure(WINDOW, figsize=SELECTION_SIZE, layout="constrained")
        self._figure.show()
        return True


def _in_queueserver() -> bool:
    try:
        from bluesky_queueserver import is_re_worker_active
    except ImportError:
        return False
    return bool(is_re_worker_active())


def _screen() -> str:
    """Where pictures of the present backend appear: in memory only, in a browser, or in windows of a toolkit."""
    import matplotlib as mpl
    from matplotlib.backends.registry import backend_registry

    backend = mpl.get_backend().lower()
    if any(name in backend for name in BROWSERS):
        return BROWSER
    _, toolkit = backend_registry.resolve_backend(backend)  # type: ignore[no-untyped-call]
    return TOOLKIT if toolkit else MEMORY


def _may_draw() -> bool:
    """Whether someone sees it if it is drawn on this thread, and no toolkit minds."""
    here = threading.current_thread() is threading.main_thread()
    return {MEMORY: False, BROWSER: True, TOOLKIT: here}[_screen()]
