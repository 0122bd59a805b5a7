"""The record of what was measured: datasets/reference/speed_cpu.json, and speed_gpu.json of a GPU.

A row is a line of a part's table (`facekit.experiments.speed.figures`). Part, row and unit say what the value is;
times: divided by that of the first row; share: divided by that of the limit, the bare step on a batch that lies on the
device, or the least that has to be done. threads (torch's), seconds, date and git_commit are of the part's measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from facekit import records

COLUMNS = ["part", "row", "unit", "value", "times", "share", "threads", "seconds", "date", "git_commit"]
WHAT = "speed, the rows of a part in turns in one run, the fastest round of each"
DATA = "photos of noise, drawn features and rendered portraits; no photo of a person"


def keep(part: str, table: pd.DataFrame, seconds: float, device: torch.device, order: Sequence[str] = ()) -> Path:
    """Records a part's table (`figures`) and returns the path.

    It takes the place of that part's rows in the record of this kind of device, if that was measured on the same
    hardware with the same versions; else the record begins anew. order: of the parts. seconds: that it took.
    """
    name = f"speed_{'cpu' if device.type == 'cpu' else 'gpu'}"
    now = {"date": datetime.now(UTC).date().isoformat(), "git_commit": records.git_commit()}
    rows = table.assign(part=part, threads=torch.get_num_threads(), seconds=round(seconds, 1), **now)[COLUMNS]
    if (records.REFERENCE / f"{name}.json").is_file():
        old = records.recorded(name)
        same = old.about["hardware"] == records.hardware() and old.about["versions"] == records.versions()
        rest = old.rows[old.rows["part"] != part] if same else old.rows[:0]
        rows = pd.concat([rest, rows]) if len(rest) else rows
        places = {name: place for place, name in enumerate(order)}
        rows = rows.sort_values("part", key=lambda parts: parts.map(lambda each: places.get(each, -1)), kind="stable")
    total = rows.drop_duplicates("part")["seconds"].sum()
    command = f"python -m benchmarks{'' if device.type == 'cpu' else f' --device {device.type}'} --record true"
    return records.record(
        name, rows.reset_index(drop=True), what=WHAT, data=DATA, command=command, seconds=float(total)
    )


def number(value: float) -> str:
    """A figure as text: three digits, more of what is larger than 1,000."""
    digits = max(0, 2 - math.floor(math.log10(abs(value) or 1)))
    return f"{value:,.{digits}f}"
