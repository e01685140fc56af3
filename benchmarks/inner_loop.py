"""The two passes that every update of a peak makes, beside the same work in C.

A shape pass works out a trial curve (one exponential a point), the trial residual and by how much its weighted sum of
squares is larger; an amplitude pass the last two alone. The C is what gcc makes of plain loops, with the faster of two
exponentials: glibc's vector library or a polynomial. Kernels and C run in turn on the same arrays and are timed in
processor time, so that what else the machine does touches both alike.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from machine import describe

from bluesky_bayes.kernels.build import curve, kernels, use_widest_vectors
from bluesky_bayes.kernels.task import aligned, padded
from bluesky_bayes.shapes import gaussian_precision
from bluesky_bayes.tasks import shape_source

FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
AMPLITUDE, PRECISION, BEFORE = 1.2, 100.0, 0.05
SOURCE = """
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LOOP(NAME, CALL) \\
double NAME(long n_calls, long n, const T *x, const T *weight, const T *residual, const T *curve, T *new, T *trial) \\
{ double total = 0; for (long k = 0; k < n_calls; k++) total += CALL; return total; }

static inline T clamped(T v) { return SINGLE ? fmaxf(v, -60.0f) : fmax(v, -700.0); }

static inline T polynomial(T v)
{
    v = clamped(v);
#if SINGLE
    int32_t n = (int32_t)(v * 1.4426950408889634f + 256.5f) - 256;
    float r = v - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 8.2902405e-3f;
    p = p * r + 4.1898157e-2f;
    p = p * r + 1.6667639e-1f;
    p = p * r + 4.9999148e-1f;
    p = p * r + 9.9999970e-1f;
    p = p * r + 1;
    int32_t bits = (n + 127) << 23;
#else
    int32_t n = (int32_t)(v * 1.4426950408889634 + 1280.5) - 1280;
    double r = v - n * 0.693145751953125 - n * 1.42860682030941723212e-6;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1;
    int64_t bits = (int64_t)(n + 1023) << 52;
#endif
    T scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static inline T library(T v) { return SINGLE ? expf(clamped(v)) : exp(clamped(v)); }

#define SHAPE_PASS(NAME, EXP) \\
__attribute__((noinline)) static T NAME(long n, const T *restrict x, const T *restrict weight, \\
    const T *restrict residual, const T *restrict curve, T *restrict new, T *restrict trial, \\
    T amplitude, T center, T precision) \\
{ \\
    T s = 0; \\
    for (long i = 0; i < n; i++) { \\
        T u = x[i] - center; \\
        T e = EXP((T)-0.5 * precision * (u * u)); \\
        T d = amplitude * (curve[i] - e); \\
        T v = residual[i] + d; \\
        new[i] = e; \\
        trial[i] = v; \\
        s += weight[i] * d * (v + residual[i]); \\
    } \\
    return s; \\
}

SHAPE_PASS(shape_pass_polynomial, polynomial)
SHAPE_PASS(shape_pass_library, library)

__attribute__((noinline)) static T amplitude_pass(long n, const T *restrict weight, const T *restrict residual,
    const T *restrict curve, T *restrict trial, T change)
{
    T s = 0;
    for (long i = 0; i < n; i++) {
        T d = -change * curve[i];
        T v = residual[i] + d;
        trial[i] = v;
        s += weight[i] * d * (v + residual[i]);
    }
    return s;
}

#define SHAPE(PASS) PASS(n, x, weight, residual, curve, new, trial, AMPLITUDE, (T)1e-6 * k, PRECISION)
LOOP(shape_polynomial, SHAPE(shape_pass_polynomial))
LOOP(shape_library, SHAPE(shape_pass_library))
LOOP(amplitude, amplitude_pass(n, weight, residual, curve, trial, (T)1e-6 * k))
"""


def in_c(dtype: Any, folder: str) -> ctypes.CDLL:
    """The C loops of one precision."""
    single = dtype == np.float32
    source, library = Path(folder) / "loops.c", Path(folder) / f"loops{int(single)}.so"
    source.write_text(SOURCE)
    meaning = (f"-DT={'float' if single else 'double'}", f"-DSINGLE={int(single)}")
    numbers = (f"-DAMPLITUDE={AMPLITUDE}", f"-DPRECISION={PRECISION}")
    command = ["gcc", *FLAGS, *meaning, *numbers, "-o", str(library), str(source), "-lmvec", "-lm"]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def of_kernels(dtype: Any) -> tuple[Any, Any]:
    """The kernels' passes, called as often as asked for."""
    import numba

    single = dtype == np.float32
    address = curve(shape_source(gaussian_precision), single).trial
    trial_curve, subtract_curve = kernels(single).trial_curve, kernels(single).subtract_curve
    amplitude, precision = dtype(AMPLITUDE), dtype(PRECISION)
    values = np.array([0.0, precision], dtype=dtype)

    @numba.njit
    def shape(
        address: int,
        n_calls: int,
        n: int,
        values: Any,
        x: Any,
        weight: Any,
        residual: Any,
        curve: Any,
        new: Any,
        trial: Any,
    ) -> float:
        total = 0.0
        for k in range(n_calls):
            values[0] = 1e-6 * k
            total += trial_curve(address, values, x, weight, 0, amplitude, residual, 0, curve, 0, new, 0, trial, n)
        return total

    @numba.njit
    def amplitude_move(n_calls: int, n: int, weight: Any, residual: Any, curve: Any, trial: Any) -> float:
        total = 0.0
        for k in range(n_calls):
            total += subtract_curve(weight, 0, dtype(1e-6 * k), residual, 0, curve, 0, trial, 0, n)
        return total

    return (
        lambda n_calls, n, *arrays: shape(address, n_calls, n, values, *arrays),
        lambda n_calls, n, x, weight, residual, curve, new, trial: amplitude_move(
            n_calls, n, weight, residual, curve, trial
        ),
    )


def arrays_of(n: int, dtype: Any) -> list[Any]:
    """Abscissa, weight, residual, curve, and room for a trial curve and residual."""
    rng = np.random.default_rng(0)
    x = np.linspace(-1.5, 1.5, n)
    curve = np.exp(-0.5 * PRECISION * (x - BEFORE) ** 2)
    columns = [x, np.ones(n), rng.standard_normal(n), curve, np.zeros(n), np.zeros(n)]
    arrays = [aligned(padded(n, dtype), dtype) for _ in columns]
    for array, column in zip(arrays, columns, strict=True):
        array[:n] = column
    return arrays


def c_function(function: Any) -> Callable[..., float]:
    """A C loop that takes what the kernels' loops take."""
    function.restype = ctypes.c_double
    return lambda n_calls, n, *arrays: float(
        function(ctypes.c_long(n_calls), ctypes.c_long(n), *(ctypes.c_void_p(a.ctypes.data) for a in arrays))
    )


def times_of(functions: dict[str, Any], n: int, dtype: Any, repeats: int) -> dict[str, list[float]]:
    """Nanoseconds of processor time a point of each function, in turn."""
    arrays = arrays_of(n, dtype)
    size, n_calls = arrays[0].size, max(20_000_000 // n, 1)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function(10, size, *arrays)
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.thread_time()
            function(n_calls, size, *arrays)
            times[name].append((time.thread_time() - start) / (n_calls * size) * 1e9)
    return times


def check(functions: dict[str, Any], dtype: Any) -> None:
    """All functions give one number."""
    arrays = arrays_of(301, dtype)
    totals = [function(10, arrays[0].size, *arrays) for function in functions.values()]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-4)


def show(label: str, times: list[float]) -> str:
    """Median and range."""
    return f"{label} {statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    use_widest_vectors()
    compiler = subprocess.run(["gcc", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    print(f"{describe()}; {compiler} {' '.join(FLAGS)}")
    print("nanoseconds a point, median and range; ratio: throughput of the kernels over that of C")
    for dtype in (np.float32, np.float64):
        with tempfile.TemporaryDirectory() as folder:
            library = in_c(dtype, folder)
            shape, amplitude = of_kernels(dtype)
            passes = {
                "shape": {
                    "kernels": shape,
                    "C, polynomial": c_function(library.shape_polynomial),
                    "C, libmvec": c_function(library.shape_library),
                },
                "amplitude": {"kernels": amplitude, "C": c_function(library.amplitude)},
            }
            for label, functions in passes.items():
                check(functions, dtype)
                for n in (301, 1000, 10_000):
                    times = times_of(functions, n, dtype, repeats)
                    ours, *others = (statistics.median(t) for t in times.values())
                    figures = "; ".join(show(name, t) for name, t in times.items())
                    print(f"  {dtype.__name__}, {label} pass, {n:5} points: {figures}; ratio {min(others) / ours:.2f}")


if __name__ == "__main__":
    main()
