"""How long `import bluesky_bayes` takes in a fresh process, beside importing NumPy alone."""

import statistics
import subprocess
import sys

PROGRAM = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def seconds(module: str) -> float:
    """Seconds of one import."""
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(module)], check=True, capture_output=True, text=True)
    return float(run.stdout)


def main() -> None:
    """Print medians and ranges of 15 imports, taken in turn."""
    modules = ("numpy", "bluesky_bayes")
    times = {module: [] for module in modules}
    for _ in range(16):
        for module in modules:
            times[module].append(seconds(module))
    for module, values in times.items():
        kept = values[1:]
        print(f"import {module:14} {statistics.median(kept):.3f} s ({min(kept):.3f} to {max(kept):.3f})")


if __name__ == "__main__":
    main()
