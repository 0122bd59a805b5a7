"""How fast portraits are painted, with one core and with all of them."""

from __future__ import annotations

import os
import time
from multiprocessing import active_children

from facekit.data.portraits.render import render_portraits
from facekit.errors import ConfigError
from facekit.settings import cores

SIZES = (96, 160)


def bench_portraits(portraits: int = 1000, rounds: int = 3) -> int:
    """Measures portraits per second at 96 and 160 pixels, with one core and with all.

    The rows take turns, so that a machine that is busy with something else slows all of them; the fastest round
    counts. The start of the helper processes is included. Processor time is that of all processes together: where it
    is the same with all cores as with one, idle cores divide the time by their number.

    Args:
        portraits: Portraits a round.
        rounds: How often each row is timed.
    """
    if min(portraits, rounds) < 1:
        raise ConfigError(f"portraits and rounds must be 1 or more, got {portraits} and {rounds}.")
    rows = [(size, workers) for size in SIZES for workers in sorted({1, cores()})]
    best: dict[tuple[int, int], tuple[float, ...]] = dict.fromkeys(rows, (float("inf"), float("inf")))
    render_portraits(1)
    for _ in range(rounds):
        for size, workers in rows:
            start, busy = time.perf_counter(), _processor_seconds()
            render_portraits(portraits, size=size, workers=workers)
            clock = time.perf_counter() - start
            for helper in active_children():  # they end a moment later, and count only then
                helper.join()
            taken = clock, _processor_seconds() - busy
            best[size, workers] = tuple(map(min, best[size, workers], taken))
    print(f"{portraits} portraits, fastest of {rounds} rounds")
    for (size, workers), (seconds, processor) in best.items():
        print(
            f"  {size:3} px, {workers:2} core{' s'[workers > 1]}  {portraits / seconds:6,.0f} portraits/s   "
            f"{1000 * processor / portraits:5.2f} ms of processor time a portrait"
        )
    return 0


def _processor_seconds() -> float:
    """Of this process and of its children that have ended (Windows does not tell about children)."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
