"""How fast the feature model draws rows, beside what the machine allows: `bench features`, and rows of a record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd

from facekit.data.features.model import CHUNK, FeatureModel


def speed(model: FeatureModel, n: int, rounds: int = 5) -> pd.DataFrame:
    """How fast `draw` gives n rows, and how fast new memory of that size can be had at all; the best of some rounds.

    Metrics, in rows a second: `rows_per_second` of a draw, `rows_per_cpu_second` by processor time (all threads
    together), and the same two of new memory in which as many threads write a constant, `memory_per_second` and
    `memory_per_cpu_second`. Columns task, metric, group (`1,000,000 rows`), value.
    """
    found: dict[str, float] = {}
    for seed in range(rounds):
        ways: dict[str, Callable] = {"rows": partial(model.draw, seed=seed), "memory": partial(_filled, dim=model.dim)}
        for name, make in ways.items():
            start = time.perf_counter(), time.process_time()
            made = make(n)
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            del made  # outside of the clock
            for unit, value in zip(("second", "cpu_second"), seconds, strict=True):
                metric = f"{name}_per_{unit}"
                found[metric] = max(found.get(metric, 0), n / value)
    return pd.DataFrame({"task": "speed", "metric": list(found), "group": f"{n:,} rows", "value": list(found.values())})


def _filled(n: int, dim: int) -> np.ndarray:
    """New memory for n rows, float32 (n, D), in which one thread a core, as in a draw, has written a constant."""
    rows = np.empty((n, dim), np.float32)

    def fill(start: int) -> None:
        rows[start : start + CHUNK] = 1

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(fill, range(0, n, CHUNK)))
    return rows
