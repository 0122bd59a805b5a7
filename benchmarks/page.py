"""The README's part on speed, made from the records."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from benchmarks.results import number
from facekit import records
from facekit.course.teaching import between
from facekit.errors import DataError
from facekit.experiments.speed import ALL, EMBEDDER, LIMIT, LOOP, OWN_BATCHES, PEER, PLAIN, SWITCHES, UNREAD
from facekit.files import atomic_path
from facekit.records import Record, markdown, recorded

README, MARK, UNMEASURED = records.ROOT / "README.md", "speed", "not measured"
NETWORKS = {"FaceNet": "finetuning", "facenet-mini": "mini"}  # to the part that trains it
CPU_ONLY = ("probe", "packing", "portraits")  # parts without an option `device`
# What, its part, the row beside which ours stands (how it is called), and ours: either is the row of that name, or the
# best of those that begin so.
HEADLINES = (
    ("embedding photos with FaceNet", "embedding", EMBEDDER, "embed, FaceNet"),
    ("the same, its best batches beside those that `embed` takes", "embedding", "facenet-pytorch", OWN_BATCHES),
    ("fine-tuning FaceNet, three heads, 160 px", "finetuning", PEER, LOOP),
    ("the same beside a plain loop of torch and torchvision", "finetuning", PLAIN, LOOP),
    ("the same beside the bare step, its limit", "finetuning", LIMIT, LOOP),
    ("training facenet-mini, three heads, 96 px", "mini", PLAIN, LOOP),
    ("the same beside the bare step, its limit", "mini", LIMIT, LOOP),
    ("augmented batches alone", "data", "DataLoader with torchvision's transforms", "facekit's batches"),
    ("a linear probe on 20,000 × 512 features", "probe", "scikit-learn's LogisticRegression", "linear_probe"),
    ("packing photos", "packing", "Pillow alone, decoding and resizing", "pack"),
    ("rendering portraits, 96 px", "portraits", "96 px, 1 core", "96 px, "),
    ("predict, from photo to answer", "predict", "detector and network alone", "predict"),
)


def show_page(write: bool = False) -> int:
    """Prints the README's part on speed, made from the records.

    Args:
        write: also puts it between the markers in README.md.

    Examples:
        python -m benchmarks table --write true
    """
    if write:
        text = between(README.read_text(encoding="utf-8"), MARK, page(), README.name)
        with atomic_path(README) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(page(), end="")
    return 0


def page() -> str:
    """Both tables and where their figures come from, as Markdown."""
    found = {kind: _record(f"speed_{kind}") for kind in ("cpu", "gpu")}
    told = [_told(kind, each) for kind, each in found.items()]
    switches = "What each switch of the training loop buys, alone and together, as a multiple of the plain loop:"
    parts = [_headlines(found), "\n".join(told), switches, _switches(found), _overhead(found), _seconds(found["cpu"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def _record(name: str) -> Record | None:
    try:
        return recorded(name)
    except DataError:
        if (records.REFERENCE / f"{name}.json").is_file():
            raise
        return None


def _rows(found: Record | None, part: str, begin: str, unit: str = "") -> pd.DataFrame:
    """The row of a part of that name, else those that begin so; of one unit, by default that of the first of them."""
    if found is None:
        return pd.DataFrame(columns=["row", "unit", "value", "times", "share"])
    rows = found.rows[found.rows["part"] == part]
    same = rows["row"] == begin
    rows = rows[same if same.any() else rows["row"].str.startswith(begin)]
    return rows[rows["unit"] == (unit or next(iter(rows["unit"]), ""))]


def _pair(found: Record | None, part: str, theirs: str, ours: str) -> tuple[float, float, str] | None:
    """Both values and their unit; None where they were not measured."""
    first, second = _rows(found, part, theirs), _rows(found, part, ours)
    if first.empty or second.empty:
        return None
    unit = str(first["unit"].iloc[0])
    best = "min" if unit == "s" else "max"
    return float(first["value"].agg(best)), float(second["value"].agg(best)), unit


def _ratio(pair: tuple[float, float, str]) -> str:
    theirs, ours, unit = pair
    return f"{theirs / ours if unit == 's' else ours / theirs:.2f} ×"


def _headlines(found: Mapping[str, Record | None]) -> str:
    rows = []
    for what, part, theirs, ours in HEADLINES:
        pairs = {kind: _pair(each, part, theirs, ours) for kind, each in found.items()}
        cells = [what, theirs]
        if pair := pairs["cpu"]:
            cells += [f"{number(pair[0])} {pair[2]}", f"{number(pair[1])} {pair[2]}"]
        else:
            cells += [UNMEASURED] * 2
        missing = {"cpu": UNMEASURED, "gpu": "–" if part in CPU_ONLY else UNMEASURED}
        rows.append([*cells, *(_ratio(pair) if pair else missing[kind] for kind, pair in pairs.items())])
    return markdown(pd.DataFrame(rows, columns=["what", "beside", "that", "facekit", "times, CPU", "times, GPU"]))


def _switches(found: Mapping[str, Record | None]) -> str:
    columns = {
        f"{name}, {kind.upper()}": _rows(each, part, "", "photos/s").set_index("row")["value"]
        for kind, each in found.items()
        if each or kind == "cpu"
        for name, part in NETWORKS.items()
    }
    rows = [
        row
        for row in (*SWITCHES, ALL, LOOP, LIMIT)
        if row != UNREAD or any(row in values for values in columns.values())
    ]
    cells = {
        name: [f"{values[row] / values[PLAIN]:.2f} ×" if row in values else UNMEASURED for row in rows]
        for name, values in columns.items()
    }
    return markdown(pd.DataFrame({"switch": rows, **cells}))


def _overhead(found: Mapping[str, Record | None]) -> str:
    """A sentence on how much longer a step of facekit's loop takes than the bare step."""
    said = [
        f"{100 * (pair[0] / pair[1] - 1):.1f} % with {name} on a {kind.upper()}"
        for kind, each in found.items()
        for name, part in NETWORKS.items()
        if (pair := _pair(each, part, LIMIT, LOOP))
    ]
    what = "A step of facekit's loop takes this much longer than the bare step (below 0: the run was disturbed)"
    return f"{what}: {', '.join(said)}." if said else ""


def _told(kind: str, found: Record | None) -> str:
    if found is None:
        device = " --device cuda" if kind == "gpu" else ""
        return f"{kind.upper()}: {UNMEASURED} yet (`python -m benchmarks{device} --record true` does)."
    about, dates = found.about, sorted(set(found.rows["date"]))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    threads = " or ".join(map(str, sorted(set(found.rows["threads"]))))
    machine = f"{about['hardware']}, PyTorch {about['versions']['torch']}, threads: {threads}"
    return f"{kind.upper()}: {machine}, {when}, `{about['command']}`."


def _seconds(found: Record | None) -> str:
    """A sentence on how long commands take to start, and lessons to run."""
    said = []
    starts = _rows(found, "startup", "facekit ")
    if len(starts):
        slow = starts.loc[starts["value"].idxmax()]
        said.append(
            f"A command answers `--help` in {starts['value'].median():.1f} s (median of {len(starts)}), the slowest, "
            f"`{slow['row']}`, in {slow['value']:.1f} s."
        )
    lessons = _rows(found, "lessons", "")
    if len(lessons):
        slow = lessons.loc[lessons["value"].idxmax()]
        said.append(
            f"The {len(lessons)} lessons compute for {lessons['value'].sum():.0f} s together, the longest, "
            f"{slow['row']}, for {slow['value']:.0f} s."
        )
    return " ".join(said)
