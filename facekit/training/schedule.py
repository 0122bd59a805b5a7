"""The learning rate over the steps of a phase, as a fraction of its peak."""

from __future__ import annotations

import math
from typing import Literal

from facekit.errors import ConfigError

Schedule = Literal["cosine", "linear", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "constant")


def rate(step: int, steps: int, warmup: float = 0.0, schedule: Schedule = "cosine") -> float:
    """Fraction of the peak learning rate at `step` (0 … steps - 1).

    Rises linearly over the first `warmup` (a fraction of the steps), reaches 1, then falls towards 0 after the last
    step along half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts) or a line, or stays.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule {schedule!r}; use {', '.join(SCHEDULES)}.")
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    done = (step - rising) / (steps - rising)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
