"""Threads that share tasks: their order, what follows on them, and what ends them."""

import threading
from functools import partial

import pytest

from bluesky_bayes.jobs import Crew


def test_tasks_are_done_by_rank_and_those_that_tasks_add_as_well() -> None:
    done, gate = list[str](), threading.Event()

    def add_more() -> None:
        gate.wait(10)
        crew.add([((True, -n), partial(done.append, f"chain {n}")) for n in (1, 3, 2)], partial(done.append, "taken"))
        done.append("prepared")

    with Crew(1) as crew:
        crew.add([((False, 0), add_more)])
        crew.add([((True, 0), partial(done.append, "later")), ((False, -9), partial(done.append, "large"))])
        gate.set()
        crew.finish()
        assert done == ["prepared", "large", "chain 3", "chain 2", "chain 1", "taken", "later"]
        crew.finish()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_task_that_fails_ends_the_others_that_have_not_begun(threads: int) -> None:
    slow, taken, gate = list[int](), list[int](), threading.Event()

    def fail() -> None:
        gate.wait(10)
        raise ValueError("no finite likelihood")

    def take_a_while() -> None:
        threading.Event().wait(0.05)
        slow.append(0)

    with pytest.raises(ValueError, match="no finite"), Crew(threads) as crew:
        crew.add([((False, 0), fail)] * threads, partial(taken.append, 0))
        crew.add([((True, 0), take_a_while)] * 50)
        gate.set()
        crew.finish()
    assert len(slow) < 50
    assert not taken


def test_pieces_are_shared_out_only_where_threads_have_nothing_else_to_do() -> None:
    pieces = list[tuple[int, int]]()

    def task() -> None:
        pieces.extend(crew.spread(lambda a, b: (a, b), 8))

    with Crew(2) as crew:
        crew.add([((False, 0), task)])
        crew.finish()
        assert pieces == [(0, 2), (2, 4), (4, 6), (6, 8)]
        pieces.clear()
        gate = threading.Barrier(2, timeout=10)

        def task_among_others() -> None:
            gate.wait()
            task()
            gate.wait()

        crew.add([((False, 0), task_among_others)] * 2)
        crew.finish()
        assert pieces == [(0, 8), (0, 8)]


def test_what_follows_on_tasks_is_dropped_where_they_end_after_an_interruption() -> None:
    begun, taken = threading.Event(), list[int]()

    def take_a_while() -> None:
        begun.set()
        threading.Event().wait(0.2)

    with pytest.raises(KeyboardInterrupt), Crew(1) as crew:
        crew.add([((False, 0), take_a_while)], partial(taken.append, 0))
        begun.wait(10)
        raise KeyboardInterrupt
    assert not taken
