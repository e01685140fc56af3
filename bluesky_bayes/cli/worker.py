"""``bluesky-bayes worker``, ``watch`` and ``keys``: analysis on another host than that of the RunEngine."""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bluesky_bayes.cli.errors import plain_errors
from bluesky_bayes.servers import PROCESSED, RAW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from bluesky_bayes.callbacks import BayesCallback

SECONDS_TO_CLOSE = 30.0
SECONDS_OF_GRACE = 30.0
SECONDS_BETWEEN_CHECKS = 60.0
"""Where runs are heard live, how long the catalogue waits for them, and how often it is asked what was missed."""
SECONDS_BETWEEN_WORDS = 600.0
SECONDS_BETWEEN_LOOKS = 2.0


def worker(
    recipe: Annotated[
        Path, typer.Option(metavar="FILE.toml", help="What to analyse, and how.", exists=True, dir_okay=False)
    ],
    zmq: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="0MQ proxy to hear runs from: tcp://127.0.0.1:5578.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keys for a proxy elsewhere; see `bluesky-bayes keys`.", file_okay=False),
    ] = None,
    tiled: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER",
            help="Tiled server that holds the runs: its address, or the name of a Tiled profile. Without --zmq runs "
            "are taken from there as they end; with it, only those that were not heard.",
        ),
    ] = None,
    publish: Annotated[
        str | None, typer.Option(metavar="SERVER", help="Tiled server for the answers; by default that of --tiled.")
    ] = None,
    raw: Annotated[str, typer.Option(help="Container that holds the runs.")] = RAW,
    processed: Annotated[str, typer.Option(help="Container for the answers; made where it is missing.")] = PROCESSED,
    hours: Annotated[float, typer.Option(help="How far to look back for runs without an answer.")] = 24.0,
    every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="With --zmq: also show an answer so far for runs that go on, so often."),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Remember here what was begun; what is not done is done after a restart.",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Analyse each run as it ends, on another host than that of the RunEngine, until it is told to end.

    Prints a line for each answer. After a break it makes up for what it missed, oldest first. API keys are read from
    the environment variable TILED_API_KEY or from Tiled profiles. Ctrl-C or SIGTERM ends it when the analysis at hand
    is done, a second one at once.
    """
    with plain_errors(), ExitStack() as stack:
        if zmq is None and tiled is None:
            raise ValueError("where do runs come from? Give --zmq ADDRESS, --tiled SERVER, or both")
        from rich.console import Console

        from bluesky_bayes.analysis import load
        from bluesky_bayes.callbacks import BayesCallback
        from bluesky_bayes.displays import AnswerTable
        from bluesky_bayes.remote import Follower
        from bluesky_bayes.servers import catalogue_of_runs, connected, container
        from bluesky_bayes.wire import ZmqListener

        logger = stack.enter_context(_logged())
        analysis = load(recipe)
        source = stack.enter_context(connected(tiled)) if tiled else None
        target = stack.enter_context(connected(publish)) if publish else source
        runs = None if source is None else container(source, raw, "--raw")
        answers = None if target is None else catalogue_of_runs(target, processed)
        console = Console()
        bayes = BayesCallback(analysis, publish=answers, every_seconds=every, journal=journal)
        stack.callback(bayes.close, SECONDS_TO_CLOSE)
        bayes.listen(AnswerTable(console=console))
        listener = follower = None
        if zmq is not None:
            listener = stack.enter_context(closing(ZmqListener(zmq, bayes, keys)))
        if runs is not None:
            live = {} if zmq is None else {"every": SECONDS_BETWEEN_CHECKS, "grace": SECONDS_OF_GRACE}
            follower = stack.enter_context(closing(Follower(bayes, runs, answers, hours=hours, **live)))

        def doing() -> str:
            heard = None if listener is None else listener.last_heard
            quiet = "" if listener is None else "nothing heard yet; " if heard is None else _ago(heard)
            trouble = f"Tiled cannot be asked: {follower.trouble}; " if follower and follower.trouble else ""
            return f"{trouble}{quiet}{bayes.status()}"

        for part in (listener, follower):
            if part is not None:
                part.start()
        sources = " and ".join(filter(None, (zmq, f"{raw!r} of {tiled}" if tiled else "")))
        place = "this terminal only" if answers is None else f"{processed!r} of {publish or tiled}"
        logger.info("hearing runs from %s; answers go to %s", sources, place)
        if journal is not None and bayes.unfinished():
            threading.Thread(target=_finish, args=(bayes, runs, logger), daemon=True).start()
        _until_ended(console, doing)


def watch(
    server: Annotated[str, typer.Argument(help="Tiled server: its address, or the name of a Tiled profile.")],
    processed: Annotated[str, typer.Option(help="Container that holds the answers.")] = PROCESSED,
    hours: Annotated[float, typer.Option(help="Begin with the answers of so many hours.")] = 1.0,
) -> None:
    """Show a line for each answer that is published, until Ctrl-C."""
    with plain_errors():
        from rich.console import Console

        from bluesky_bayes.answers import Answer
        from bluesky_bayes.displays import AnswerTable
        from bluesky_bayes.remote import SLACK, runs_since
        from bluesky_bayes.servers import connected, container

        console, since, shown = Console(), time.time() - 3600.0 * hours, set[str]()
        table = AnswerTable(console=console)
        with connected(server) as client:
            answers = container(client, processed, "--processed")

            def look() -> str:
                nonlocal since
                for run in runs_since(answers, since):
                    start = run.metadata["start"]
                    since = max(since, start["time"] - SLACK)
                    if start["uid"] not in shown and run.metadata.get("stop") and "result" in start:
                        shown.add(start["uid"])
                        table.show(Answer.published(start))
                return f"{len(shown)} answers"

            _until_ended(console, look)


def keys(
    folder: Annotated[Path, typer.Argument(help="New folder.", file_okay=False)],
) -> None:
    """Make the keys with which a worker elsewhere may hear runs over 0MQ."""
    with plain_errors():
        from rich.console import Console

        from bluesky_bayes.wire import make_keys

        make_keys(folder)
        Console().print(
            f"{folder}/proxy is for the host of the proxy, {folder}/worker for that of the worker: copy it there by a "
            "safe way (scp -rp), and delete it here.",
            highlight=False,
            soft_wrap=True,
        )


def _finish(bayes: BayesCallback, runs: Any, logger: logging.Logger) -> None:
    """Do what the journal says is not done, beside what comes in."""
    try:
        logger.info("what an earlier worker left: %s", bayes.finish(runs))
    except Exception as error:  # the catalogue may not answer
        logger.warning("what an earlier worker left could not be done now: %s", error)


@contextmanager
def _logged() -> Iterator[logging.Logger]:
    """Plain lines on standard error for what is logged."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("bluesky_bayes")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _ago(heard: float) -> str:
    return f"last document {time.monotonic() - heard:.0f} s ago; "


def _until_ended(console: Console, doing: Callable[[], str]) -> None:
    """Say what is being done until SIGINT or SIGTERM; a second signal ends the process as usual."""
    ended = threading.Event()

    def end(number: int, frame: Any) -> None:
        ended.set()
        for each, before in handlers.items():
            signal.signal(each, before)

    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    said, words = time.monotonic(), ""
    try:
        with console.status("") as status:
            while True:
                now = doing()
                status.update(now)
                if not console.is_terminal and now != words and time.monotonic() - said > SECONDS_BETWEEN_WORDS:
                    said, words = time.monotonic(), now
                    console.print(now, markup=False, highlight=False, soft_wrap=True)
                if ended.wait(SECONDS_BETWEEN_LOOKS):
                    return
    finally:
        for each, before in handlers.items():
            signal.signal(each, before)
