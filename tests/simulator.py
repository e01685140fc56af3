"""numba's CUDA simulator with what it lacks, warps that wait and shuffle, and threads that take turns.

Threads of a block are greenlets that run until they wait, in another order each time, so that a barrier that lacks is
seen, and always the same, so that tests are. Import this before anything of numba, in a process of its own.
"""

import os
import random
from typing import Any

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

import greenlet
import numpy as np
from numba.cuda.simulator import kernel, kernelapi

WARP = 32


class Meeting:
    """Threads that wait for one another and show one another numbers."""

    def __init__(self, n: int) -> None:
        self.n, self.waiting, self.shown = n, list[Any](), [None] * n

    def wait(self) -> None:
        self.waiting.append(greenlet.getcurrent())
        greenlet.getcurrent().parent.switch()

    def exchange(self, place: int, value: Any, wanted: int) -> Any:
        self.shown[place] = value
        self.wait()
        found = self.shown[wanted]
        self.wait()
        return found


class Thread(greenlet.greenlet):  # type: ignore[misc]
    """One thread of a block."""

    def __init__(self, work: Any, manager: Any, block: tuple[int, ...], point: tuple[int, ...]) -> None:
        super().__init__(work)
        self.blockIdx, self.threadIdx = kernel.Dim3(*block), kernel.Dim3(*point)
        self.lane, self.block = point[0] % WARP, manager.block
        self.warp = manager.warps[point[0] // WARP]


def run(manager: Any, grid_point: tuple[int, ...], *args: Any) -> None:
    """All threads of a block, each until it waits; a number that only some of them came to is said."""
    n, order = int(np.prod(manager._block_dim)), random.Random(0)
    manager.block = Meeting(n)
    manager.warps = [Meeting(min(WARP, n - first)) for first in range(0, n, WARP)]
    ready = [Thread(lambda: manager._f(*args), manager, grid_point, p) for p in np.ndindex(*manager._block_dim)]
    left = list(ready)
    while left:
        order.shuffle(ready)
        for thread in ready:
            thread.switch()
        left = [thread for thread in left if not thread.dead]
        ready = []
        for meeting in (manager.block, *manager.warps):
            if len(meeting.waiting) == meeting.n:
                ready += meeting.waiting
                meeting.waiting = []
        if left and not ready:
            raise RuntimeError("some threads wait for others that do something else")


def me() -> Any:
    return greenlet.getcurrent()


def shfl_xor_sync(self: Any, mask: int, value: Any, step: int) -> Any:
    return me().warp.exchange(me().lane, value, me().lane ^ step)


module: Any = kernelapi.FakeCUDAModule
kernel.BlockManager.run = run
module.threadIdx = property(lambda self: me().threadIdx)
module.blockIdx = property(lambda self: me().blockIdx)
module.shfl_xor_sync = shfl_xor_sync
module.syncwarp = lambda self: me().warp.wait()
module.syncthreads = lambda self: me().block.wait()
