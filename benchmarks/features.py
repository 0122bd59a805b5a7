"""How fast the feature model draws rows, beside what the machine allows."""

from __future__ import annotations

import os

from facekit.data.features.model import FeatureModel
from facekit.errors import ConfigError
from facekit.studies.speed import speed


def bench_features(rows: int = 1_000_000, rounds: int = 5) -> int:
    """Measures how many labelled rows of 512 numbers the feature model draws a second.

    Beside it stands what the machine allows: how fast new memory for as many rows can be had and filled with a
    constant.

    Args:
        rows: Rows of one draw (2 KiB of memory each).
        rounds: Draws; the fastest counts.
    """
    if rows < 1 or rounds < 1:
        raise ConfigError(f"rows and rounds must be 1 or more, got {rows} and {rounds}.")
    found = speed(FeatureModel.load(), rows, rounds).set_index("metric")["value"]
    cores = os.cpu_count()
    for name, what in {"rows": "drawn", "memory": "new memory filled with a constant"}.items():
        clock, processor = found[f"{name}_per_second"], found[f"{name}_per_cpu_second"]
        print(f"{rows:,} rows {what}: {clock:,.0f} a second on {cores} cores, {processor:,.0f} a second of one core")
    share = found["rows_per_cpu_second"] / found["memory_per_cpu_second"]
    print(f"the memory alone takes {100 * share:.0f} % of the processor time of a draw")
    return 0
