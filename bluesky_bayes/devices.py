"""Where the sampling runs: the processor, or an NVIDIA GPU where there is one that gives the processor's answers."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import os
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np

from bluesky_bayes.candidates import family
from bluesky_bayes.dataset import Dataset
from bluesky_bayes.exchange import Exchange
from bluesky_bayes.kernels.build import kernels
from bluesky_bayes.kernels.launch import Card, CardKernels
from bluesky_bayes.noise import Gaussian
from bluesky_bayes.reference import first_start
from bluesky_bayes.sampler import Info, Path, State, chain_key
from bluesky_bayes.shapes import gaussian
from bluesky_bayes.tasks import blocks_of, groups_of, make_task

logger = logging.getLogger(__name__)

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
THREADS_FOR_CARD = 64
"""Threads that wait for answers of a GPU: their calls share launches."""
MAJOR, MINOR = 75, 76
"""Numbers of the attributes that hold a GPU's compute capability."""
OLDEST = (8, 0)
"""Compute capability below which nothing was compiled in tests."""
NEAR = 1e-3
"""How far the first sweeps on a GPU may be from the processor's: normal numbers may differ in their last bit."""
INSTALL = "pip install 'bluesky-bayes[gpu]'"


class Gpu(NamedTuple):
    """A GPU that the driver shows.

    Attributes
    ----------
    number : int
    name : str
    capability : (int, int)
    memory : int
        Bytes.
    """

    number: int
    name: str
    capability: tuple[int, int]
    memory: int


class Gpus(NamedTuple):
    """What the driver shows.

    Attributes
    ----------
    gpus : tuple of Gpu
    driver : str
        Version of CUDA that the driver knows, or empty.
    reason : str
        Why there is none, in words; empty where there is one.
    """

    gpus: tuple[Gpu, ...]
    driver: str
    reason: str


def find_gpus() -> Gpus:
    """GPUs of this computer, told by the driver itself; never raises, and takes milliseconds."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = load(name)
    except OSError:
        return Gpus((), "", f"there is no NVIDIA driver here ({name} is not found)")
    try:
        return _told(driver)
    except Exception as error:
        return Gpus((), "", f"the NVIDIA driver cannot be asked: {error}")


def load(name: str) -> Any:
    """A library of the system."""
    return ctypes.CDLL(name)


def _told(driver: Any) -> Gpus:
    if code := driver.cuInit(0):
        said = "it shows no GPU" if code == 100 else f"it does not start (error {code})"
        return Gpus((), "", f"there is an NVIDIA driver, but {said}")
    number, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    driver.cuDeviceGetCount(ctypes.byref(count))
    known = f"{number.value // 1000}.{number.value % 1000 // 10}"
    gpus = tuple(_gpu(driver, i) for i in range(count.value))
    return Gpus(gpus, known, "" if gpus else "there is an NVIDIA driver, but it shows no GPU")


def _gpu(driver: Any, number: int) -> Gpu:
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(handle), number)
    driver.cuDeviceGetName(name, 128, handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    capability = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        capability.append(value.value)
    return Gpu(number, name.value.decode(errors="replace"), (capability[0], capability[1]), memory.value)


def toolkit() -> tuple[str, str]:
    """Versions of what compiles for a GPU, and why it cannot, in words: one of the two is empty."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "", f"numba-cuda is not installed: {INSTALL}"
    packages = ("numba-cuda", "cuda-bindings", "nvidia-nvvm", "nvidia-cuda-nvcc-cu12")
    found = {package: _version(package) for package in packages}
    return ", ".join(f"{package} {number}" for package, number in found.items() if number), ""


def _version(package: str) -> str:
    """Version of a package that is installed, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True, eq=False)
class Device:
    """Where the sampling runs.

    Attributes
    ----------
    name : str
        ``"cpu"``, ``"cuda:0"``, ``"cuda:0, cuda:1"`` ...
    cards : tuple of Card
        The GPUs, which share the work.
    reason : str
        Why it is not a GPU, or not all of them, in words, where they were looked for.
    """

    name: str
    cards: tuple[Card, ...] = ()
    reason: str = ""

    def kernels(self, single: bool) -> Any:
        """Kernels of this device; `single` chooses float32 curves."""
        host = kernels(single)
        return CardKernels(host, self.cards) if self.cards else host

    @property
    def threads(self) -> int:
        """Threads by default: as many as there are processors to run on, and more for a GPU, which is waited for."""
        return len(self.cards) * THREADS_FOR_CARD or processors()


PROCESSOR = Device(CPU)


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_name(name: str) -> tuple[str, str]:
    """Kind of a device of that name, and its number or nothing.

    Raises
    ------
    ValueError
        For other names than those that `device` takes.
    """
    kind, _, number = str(name).partition(":")
    if kind not in (AUTO, CPU, CUDA) or (number and (kind != CUDA or not number.isdecimal())):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1' and so on; got {name!r}")
    return kind, number


def device(name: str | Device = AUTO) -> Device:
    """The device of that name.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "cuda:1" ...} or Device
        With "auto" all GPUs that work, else the processor; the reason is in `Device.reason` and is logged once. "cuda"
        stands for all of them, "cuda:1" for one.

    Raises
    ------
    ValueError
        For other names, and where a GPU is asked for and there is none that works; the sentence says why.
    """
    if isinstance(name, Device):
        return name
    kind, number = check_name(name)
    if kind == CPU:
        return PROCESSOR
    found = _looked_for(int(number) if number else None)
    if kind == CUDA and not found.cards:
        raise ValueError(f"there is no GPU for device={name!r}: {found.reason}; use device='auto' or 'cpu'")
    return found


@functools.cache
def _looked_for(number: int | None) -> Device:
    """The GPU of that number or all of them, as far as they work, or the processor with the reason; looked for once."""
    numbers = range(max(len(find_gpus().gpus), 1)) if number is None else [number]
    reasons = {n: why_no_gpu(n) or smoke_test(card_of(n)) for n in numbers}
    cards = tuple(card_of(n) for n, reason in reasons.items() if not reason)
    reason = "; ".join(dict.fromkeys(filter(None, reasons.values())))
    if cards:
        if reason:
            logger.info("not every GPU is used: %s", reason)
        return Device(", ".join(card.name for card in cards), cards, reason)
    logger.info("sampling runs on the processor: %s", reason)
    return Device(CPU, (), reason)


@functools.cache
def card_of(number: int) -> Card:
    """The only object of this process that speaks to that GPU."""
    return Card(number)


def why_no_gpu(number: int = 0) -> str:
    """Why the GPU of that number cannot be used, in words; empty where it can be tried."""
    found = find_gpus()
    if found.reason:
        return found.reason
    if number >= len(found.gpus):
        return f"there is no GPU of number {number}, only {len(found.gpus)} in all"
    gpu = found.gpus[number]
    if gpu.capability < OLDEST:
        return f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}, and 8.0 is needed"
    return toolkit()[1] or _too_old(found.driver)


def _too_old(driver: str) -> str:
    """Why a driver cannot run what the toolkit here compiles, in words: it knows an earlier CUDA."""
    known, made_for = (int(text.partition(".")[0]) for text in (driver, _version("cuda-bindings") or driver))
    if known >= made_for:
        return ""
    return (
        f"the NVIDIA driver knows CUDA {driver}, and numba-cuda here compiles for CUDA {made_for}: update the driver, "
        f"or pip install 'numba-cuda[cu{known}]'"
    )


def smoke_test(card: Card) -> str:
    """Why a GPU is not to be trusted, in words: a few sweeps that fail or are not those of the processor."""
    try:
        host, there = (_sweeps(module, 1, 3)[0] for module in (kernels(True), CardKernels(kernels(True), [card])))
    except Exception as error:
        return f"the GPU's first sweeps failed: {type(error).__name__}: {error}"
    if card.broken:
        return f"the GPU's first sweeps failed: {card.broken}"
    off = float(np.abs(host.samples - there.samples).max())
    if not off < NEAR:
        return f"the GPU's first sweeps are not those of the processor: coordinates differ by {off:.2g}"
    return ""


def _sweeps(module: Any, n_chains: int, length: int) -> list[Info]:
    """Sweeps of some chains of two peaks on a constant, 301 points."""
    x = np.linspace(-1.0, 1.0, 301)
    data = Dataset(x, np.exp(-0.5 * (x / 0.1) ** 2) + 0.1 * np.random.default_rng(0).standard_normal(301))
    noise = Gaussian(0.1)
    (model,) = family(gaussian, [2]).resolved(data, noise).models
    task = make_task(blocks_of([data], [noise], [model]), model, True)
    betas = np.array([0.0, 0.01, 0.1, 1.0])
    steps = np.full((betas.size, int(task.step_group.max()) + 1), 0.3)
    path = Path(module, task, first_start(task), betas, steps, np.zeros((betas.size, 0, 0)), groups_of(model))
    z = np.random.default_rng(1).standard_normal((betas.size, len(task.tables)))

    def chain(number: int) -> Info:
        return Exchange().step(path, State(z, steps, path.strides, 1), chain_key(0, "device", number), length)[1]

    if n_chains == 1:
        return [chain(0)]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(n_chains) as threads:
        return list(threads.map(chain, range(n_chains)))


def throughput(where: Device, seconds: float = 1.0) -> float:
    """Moves of one parameter a second, of two peaks and 301 points, measured in about this time.

    On the processor by one thread; by 64 chains at once for each GPU.
    """
    module, n_chains, length = where.kernels(True), where.threads if where.cards else 1, 20
    _sweeps(module, n_chains, length)
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        infos = _sweeps(module, n_chains, length)
        done += sum(info.energies.size * info.samples.shape[1] for info in infos)
        length *= 2
    return done / (time.perf_counter() - begun)


def describe() -> list[tuple[str, str]]:
    """What there is to sample with, as pairs of a name and words."""
    import platform
    from pathlib import Path as File

    from bluesky_bayes.kernels.build import use_widest_vectors

    info = File("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found, (versions, missing) = find_gpus(), toolkit()
    rows = [
        ("processor", models[0] if models else platform.processor() or platform.machine()),
        ("vectors", f"{use_widest_vectors()} bits"),
        ("threads", str(processors())),
    ]
    for gpu in found.gpus:
        capability = ".".join(map(str, gpu.capability))
        reason = why_no_gpu(gpu.number)
        words = f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB, compute capability {capability}"
        rows.append((f"GPU {gpu.number}", words + (f"; cannot be used: {reason}" if reason else "")))
    if not found.gpus:
        rows.append(("GPU", f"none: {found.reason}"))
    rows.append(("driver", f"CUDA {found.driver}" if found.driver else "none"))
    rows.append(("toolkit", versions or missing))
    return rows
