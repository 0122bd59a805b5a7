"""How fast the feature model draws rows, beside what the machine allows."""

from __future__ import annotations

import pandas as pd

from facekit.data.features.model import FeatureModel
from facekit.errors import ConfigError
from facekit.experiments.speed import figures
from facekit.studies.speed import speed

ROWS = {"memory": "new memory filled with a constant", "rows": "rows drawn"}


def bench_features(rows: int = 1_000_000, rounds: int = 3) -> pd.DataFrame:
    """Measures how many labelled rows of 512 numbers the feature model draws a second, on all cores and of one.

    Beside it stands what the machine allows: how fast new memory for as many rows can be had and filled with a
    constant.

    Args:
        rows: Rows of one draw (2 KiB of memory each).
        rounds: Draws; the fastest counts.
    """
    if rows < 1 or rounds < 1:
        raise ConfigError(f"rows and rounds must be 1 or more, got {rows} and {rounds}.")
    found = speed(FeatureModel.load(), rows, rounds).set_index("metric")["value"]
    limit = ROWS["memory"]
    units = {"per_second": "rows/s", "per_cpu_second": "rows/s of one core"}
    return pd.concat(
        [
            figures({ROWS[name]: found[f"{name}_{metric}"] for name in ROWS}, unit, limit)
            for metric, unit in units.items()
        ],
        ignore_index=True,
    )
