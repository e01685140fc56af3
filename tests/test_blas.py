"""BLAS keeps to one thread while answers are worked out, and gets its own back."""

from contextlib import ExitStack

from threadpoolctl import threadpool_info

from bluesky_bayes.blas import one_blas_thread


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_the_last_of_several_answers_gives_the_threads_back() -> None:
    before = blas_threads()
    first, second = ExitStack(), ExitStack()
    first.enter_context(one_blas_thread())
    second.enter_context(one_blas_thread())
    first.close()
    assert set(blas_threads()) <= {1}
    second.close()
    assert blas_threads() == before
