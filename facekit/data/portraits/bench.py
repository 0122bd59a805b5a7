"""How fast portraits are painted, with one core and with all of them."""

from __future__ import annotations

import time

from facekit.data.pack import cores
from facekit.data.portraits.render import render_portraits
from facekit.errors import ConfigError

SIZES = (96, 160)


def bench_portraits(portraits: int = 600, rounds: int = 3) -> int:
    """Measures portraits per second at 96 and 160 pixels, with one core and with all.

    The rows take turns, so that a machine that is busy with something else slows all of them; the fastest round
    counts. Rates with all cores include the start of the helper processes.

    Args:
        portraits: Portraits a round.
        rounds: How often each row is timed.
    """
    if min(portraits, rounds) < 1:
        raise ConfigError(f"portraits and rounds must be 1 or more, got {portraits} and {rounds}.")
    rows = [(size, workers) for size in SIZES for workers in sorted({1, cores()})]
    wall = dict.fromkeys(rows, float("inf"))
    busy = dict.fromkeys(rows, float("inf"))
    render_portraits(1)
    for _ in range(rounds):
        for size, workers in rows:
            start, start_busy = time.perf_counter(), time.process_time()
            render_portraits(portraits, size=size, workers=workers)
            wall[size, workers] = min(wall[size, workers], time.perf_counter() - start)
            busy[size, workers] = min(busy[size, workers], time.process_time() - start_busy)
    print(f"{portraits} portraits, fastest of {rounds} rounds")
    for size, workers in rows:
        rate = portraits / wall[size, workers]
        more = f"   {portraits / busy[size, 1]:6,.0f} per second of processor time" if workers == 1 else ""
        print(f"  {size:3} px, {workers} core{'s' * (workers > 1)}  {rate:6,.0f} portraits/s{more}")
    return 0
