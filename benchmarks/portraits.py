"""How fast portraits are rendered, with one core and with all of them."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

from facekit.data.portraits.render import render_portraits
from facekit.errors import ConfigError
from facekit.experiments.speed import fastest, figures
from facekit.settings import cores

SIZES = (96, 160)


def bench_portraits(portraits: int = 500, rounds: int = 3) -> pd.DataFrame:
    """Measures portraits per second at 96 and 160 pixels, with one core and with all.

    The start of the helper processes is included.

    Args:
        portraits: Portraits a round.
        rounds: How often each row is timed; the fastest counts.
    """
    if min(portraits, rounds) < 1:
        raise ConfigError(f"portraits and rounds must be 1 or more, got {portraits} and {rounds}.")
    render_portraits(1)
    tables = []
    for size in SIZES:
        rows = {
            f"{size} px, {workers} core{'s'[: workers > 1]}": partial(
                render_portraits, portraits, size=size, workers=workers
            )
            for workers in sorted({1, cores()})
        }
        seconds = fastest(rows, rounds, torch.device("cpu"))
        tables.append(figures({name: portraits / seconds[name] for name in rows}, "portraits/s"))
    return pd.concat(tables, ignore_index=True)
