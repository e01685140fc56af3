"""How long it takes to write a result to a Tiled server, by its number of points, and how many requests.

Answers are made up. They are written as the publishing process does it, from their lines on; the server is a process of
its own on the same computer.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fakes
import httpx
import numpy as np
from machine import describe
from server import tiled_server

from bluesky_bayes import Dataset
from bluesky_bayes.callbacks.answers import Lines
from bluesky_bayes.callbacks.targets import write_to_uri
from bluesky_bayes.documents import selection_documents

POINTS = (301, 1000, 20_000, 100_000)


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(describe())
    n_requests, send = 0, httpx.Client.send

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal n_requests
        n_requests += 1
        return send(*args, **options)

    httpx.Client.send = counting
    with tiled_server() as (address, _):
        measured = {n: [] for n in POINTS}
        for _ in range(repeats + 1):  # the first opens the connection
            for n, values in measured.items():
                x = np.linspace(0.0, 1.0, n)
                lines = Lines.of(selection_documents(fakes.made_up(Dataset(x, np.sin(x))), {}, {}))
                n_requests, work, begin = 0, time.process_time(), time.perf_counter()
                write_to_uri(f"{address}/processed", lines, os.environ["TILED_API_KEY"])
                values.append((time.perf_counter() - begin, time.process_time() - work, n_requests))
    for n, values in measured.items():
        wall, work, requests = np.median(values[1:], axis=0)
        print(f"{n:7} points: {wall:.2f} s, of which this process works {work:.2f} s; {requests:.0f} requests")


if __name__ == "__main__":
    main()
