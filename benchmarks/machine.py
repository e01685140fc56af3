"""What this machine is, for the head of every table."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from bluesky_bayes.kernels.build import vector_width


def describe() -> str:
    """Processor, cores, vector width and versions, one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba"))
    return f"{processor}, {cores} cores, {vector_width()}-bit vectors, Python {platform.python_version()}, {packages}"
