"""Past runs are analysed as if they came in now."""

from collections.abc import Iterator
from typing import Any

import fakes
import pytest
from bluesky import RunEngine
from bluesky.plans import grid_scan
from ophyd.sim import det4, motor1, motor2

from bluesky_bayes.callbacks import targets
from bluesky_bayes.callbacks.answers import Lines
from bluesky_bayes.remote import answered_runs
from bluesky_bayes.reprocess import reprocess

pytestmark = pytest.mark.usefixtures("no_compiling")


class Unreadable:
    def documents(self) -> Iterator[tuple[str, Any]]:
        raise OSError("the disk is gone")


class Written:
    """A place to publish to: keeps the start documents."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self.starts.append(doc)


def stored(mood: str = "fine", **metadata: Any) -> fakes.Stored:
    return fakes.Stored(fakes.scan_documents(mood, **metadata))


def test_each_run_is_analysed_and_its_answer_published() -> None:
    runs, written, lines = [stored(scan_id=n) for n in (3, 4)], Written(), list[str]()
    outcome = reprocess(runs, written, fakes.Quick(), progress=lines.append)
    assert outcome.done == [run.uid for run in runs] == [start["original_run_uid"] for start in written.starts]
    assert str(outcome) == "2 done, 0 skipped, 0 failed"
    assert lines[0].startswith(f"scan 3, {runs[0].uid[:8]}: 1 peak (p = 1.000), decided")
    assert written.starts[0]["analysis"]["digest"] == fakes.Quick().digest


def test_a_run_that_cannot_be_analysed_does_not_end_the_rest() -> None:
    unfinished = fakes.Stored(fakes.scan_documents(scan_id=5)[:-1])
    empty = fakes.Stored([document for document in fakes.scan_documents(scan_id=6) if document[0] != "event"])
    ill, good = stored("raises", scan_id=7), stored()
    lines = list[str]()
    outcome = reprocess([Unreadable(), unfinished, empty, ill, good], Written(), fakes.Moody(), progress=lines.append)
    assert outcome.done == [good.uid]
    assert outcome.failed == {
        "run 0": "OSError: the disk is gone",
        f"scan 5, {unfinished.uid[:8]}": "it has no stop document: it did not end, or goes on",
        f"scan 6, {empty.uid[:8]}": f"stream 'primary' of run {empty.uid[:8]} (scan 6) has no events",
        f"scan 7, {ill.uid[:8]}": "y is too high: close the slits",
    }
    assert lines[0] == "run 0: failed, OSError: the disk is gone"


def test_results_are_not_analysed() -> None:
    result = stored(original_run_uid="0123")
    outcome = reprocess([result], Written(), fakes.Quick())
    assert (outcome.done, outcome.skipped) == ([], [result.uid])


def test_the_limit_counts_what_was_tried_but_not_what_was_skipped() -> None:
    runs = [stored(original_run_uid="0123"), stored(), stored("raises"), stored()]
    outcome = reprocess(runs, Written(), fakes.Moody(), limit=2)
    assert str(outcome) == "1 done, 1 skipped, 1 failed"


@pytest.mark.tiled
def test_runs_in_tiled_are_skipped_once_the_same_recipe_has_answered_them(tiled_client: Any) -> None:
    from bluesky_tiled_plugins import TiledWriter

    from bluesky_bayes.servers import catalogue_of_runs

    raw, processed = (catalogue_of_runs(tiled_client, f"{key}_again") for key in ("raw", "processed"))
    runs = [fakes.scan_documents(scan_id=n) for n in (1, 2)]
    for documents in runs:
        writer = TiledWriter(raw)
        for name, document in documents:
            writer(name, document)
    uids = [documents[0][1]["uid"] for documents in runs]

    first = reprocess(raw, processed, fakes.Quick(), limit=1)
    assert first.done == uids[:1]
    second = reprocess(raw, processed, fakes.Quick())
    assert (second.done, second.skipped, second.failed) == (uids[1:], uids[:1], {})
    with_another_seed = reprocess(raw, processed, fakes.Quick(seed=1))
    assert with_another_seed.done == uids
    assert len(processed) == 4


@pytest.mark.tiled
def test_answers_in_a_container_that_is_no_catalogue_of_runs_are_found(tiled_client: Any) -> None:
    processed, runs = tiled_client.create_container("answers_alone"), [stored(), stored()]
    assert str(reprocess(runs, processed, fakes.Quick())) == "2 done, 0 skipped, 0 failed"
    assert str(reprocess(runs, processed, fakes.Quick())) == "0 done, 2 skipped, 0 failed"
    assert len(list(processed)) == 2


@pytest.mark.tiled
def test_a_run_of_which_some_results_were_refused_is_answered_in_full_by_the_next_call(
    tiled_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processed, digest = tiled_client.create_container("refusing"), fakes.Quick().digest
    documents, write = list[tuple[str, Any]](), targets._into_tiled
    engine: Any = RunEngine()
    (uid,) = engine(
        grid_scan([det4], motor1, 1, 2, 3, motor2, 1, 2, 5), lambda name, doc: documents.append((name, dict(doc)))
    )

    def full(container: Any, tiled_writer: Any, lines: Lines) -> None:
        if list(container):
            raise targets.RefusedError("quota is used up")
        write(container, tiled_writer, lines)

    with monkeypatch.context() as patch:
        patch.setattr(targets, "_into_tiled", full)
        assert str(reprocess([fakes.Stored(documents)], processed, fakes.Quick())) == "0 done, 0 skipped, 1 failed"
    assert len(list(processed)) == 1
    assert answered_runs(processed, digest) == set()
    assert reprocess([fakes.Stored(documents)], processed, fakes.Quick()).done == [uid]
    assert len(list(processed)) == 3
    assert answered_runs(processed, digest) == {uid}
    assert reprocess([fakes.Stored(documents)], processed, fakes.Quick()).skipped == [uid]
    found = [run.metadata["start"]["analysis"] for run in processed.values()]
    assert [(each["part"], each["parts"], len(each["events"])) for each in found] == [(1, 3, 5), (2, 3, 5), (3, 3, 5)]


@pytest.mark.tiled
def test_a_result_that_was_broken_off_while_it_was_written_is_written_anew_by_the_next_call(
    tiled_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processed, run = tiled_client.create_container("breaking"), stored()

    def broken(write: Any, lines: Lines) -> None:
        for name, doc in lines.documents():
            if name == "stop":
                raise targets.RefusedError("the power was cut")
            write(name, doc)

    with monkeypatch.context() as patch:
        patch.setattr(targets, "_send", broken)
        assert str(reprocess([run], processed, fakes.Quick())) == "0 done, 0 skipped, 1 failed"
    assert reprocess([run], processed, fakes.Quick()).done == [run.uid]
    (found,) = processed.values()
    assert found.metadata["stop"]["exit_status"] == "success"
