"""Recorded results: figures measured once on real photos, kept as JSON with everything needed to judge them.

A record holds its rows (one per measurement, never an average alone), what was measured, the command that measured
it, the data, the seeds, the machine, the versions, the git commit and the seconds it took. Records are written by
`record` alone and never edited by hand; lessons read them with `recorded`.
"""

from __future__ import annotations

import json
import platform
import string
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from facekit import settings
from facekit.errors import ConfigError, DataError
from facekit.files import may_replace, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "datasets" / "reference"
# What a record's file has.
FIELDS = {name: str for name in ("what", "data", "command", "date", "hardware")} | {
    "seeds": list,
    "versions": dict,
    "git_commit": str | None,
    "seconds": int | float,
    "rows": list,
}
USUAL_TEST = 1000  # FairFace's test photos in most records (datasets/FAIRFACE.md): lucky for race, unlucky for age
VERSIONS_OF = ("torch", "torchvision", "facenet-pytorch", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Record:
    """A recorded result. rows: one measurement a row. about: the rest of the JSON file."""

    name: str
    rows: pd.DataFrame
    about: dict

    def caption(self) -> str:
        """What the figures are, where they come from, and how far FairFace's test photos carry; one line each."""
        about = self.about
        told = f"Recorded, not computed here: {about['what']} ({about['data']}; {about['hardware']}; {about['date']})."
        return "\n".join(filter(None, (told, self.sample())))

    def sample(self) -> str:
        """One sentence on the test photos of FairFace that the figures rest on; empty where they rest on others."""
        before, found, _ = self.about["data"].partition(" test photos")
        number = before.rpartition(" ")[2].replace(",", "")
        if not (found and before.startswith("FairFace") and number.isdecimal() and (n := int(number))):
            return ""
        points = 100 * 1.96 * (0.7 * 0.3 / n) ** 0.5
        luck = "; these are an easy sample for race and a hard one for age" if n == USUAL_TEST else ""
        return f"An accuracy of 0.7 over {n:,} test photos is sure to ± {points:.0f} points (95 %){luck}."


def hardware() -> str:
    """The processor, the number of cores in use and the GPU, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{name}, {settings.cores()} cores, {gpu}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on, by name."""
    return {"python": platform.python_version(), **{package: version(package) for package in VERSIONS_OF}}


def git_commit() -> str | None:
    """Commit of the checkout that facekit runs from, with `+changes` if code differs from it; None without git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "facekit", "benchmarks"], cwd=ROOT).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def record(
    name: str, rows: pd.DataFrame, *, what: str, data: str, command: str, seconds: float, folder: Path | None = None
) -> Path:
    """Writes `datasets/reference/NAME.json` (or into `folder`) and returns its path.

    rows: one measurement a row, with the columns `seed` and `n` where they apply. Floats keep six digits.
    """
    content = {
        "what": what,
        "data": data,
        "command": command,
        "seeds": sorted({int(seed) for seed in rows["seed"]}) if "seed" in rows else [],
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "git_commit": git_commit(),
        "seconds": round(seconds, 1),
        "rows": json.loads(rows.to_json(orient="records", double_precision=6)),
    }
    path = may_replace((folder or REFERENCE) / f"{name}.json", b'{\n  "what": ')
    write_json(path, content)
    return path


def recorded(name: str, folder: Path | None = None) -> Record:
    """The recorded result `name`.

    Raises DataError with the command that makes it when there is none, and with the remedy when it is damaged. A digit
    that was changed is git's to notice, which keeps the records.
    """
    path, remedy = (folder or REFERENCE) / f"{name}.json", "restore it with git or record it again."
    try:
        content = read_json(path, DataError, remedy, FIELDS)
    except FileNotFoundError:
        raise DataError(
            f"no recorded result {name!r} ({path.name}); `python -m facekit record --help` lists what can be made, "
            "`python -m benchmarks --help` what of speed."
        ) from None
    rows = content.pop("rows")
    if not rows or not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        raise DataError(f"{path} is damaged (it has no rows, or of different columns); {remedy}")
    if any(isinstance(value, dict | list) for row in rows for value in row.values()):
        raise DataError(f"{path} is damaged (a row holds more than numbers and texts); {remedy}")
    return Record(name, pd.DataFrame(rows), content)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown; numbers as they are, so format them before."""
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(template: Path, **parts: object) -> str:
    """The text of a template (Markdown) with its fields filled in, as `str.format` does.

    Raises ConfigError where a field has no part, or a part no field.
    """
    text = template.read_text(encoding="utf-8")
    wanted = {name.partition("[")[0] for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    if wrong := sorted(wanted ^ set(parts)):
        raise ConfigError(
            f"{template.name}: either no part is given for {', '.join(wrong)}, or it has no field for it."
        )
    return text.format(**parts)
