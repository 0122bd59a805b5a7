"""`python -m facekit methods`: every method of transfer, what it needs and when it acts."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pandas as pd

from facekit.files import atomic_path, may_replace
from facekit.records import markdown
from facekit.transfer.table import Row, row, table


def methods(name: str | None = None, write: Path | None = None) -> int:
    """Lists the methods: how each is typed, when it acts, what it needs, and its parameters with their defaults.

    Those marked `train --method` are what that command takes, on one set or, by name, on several.

    Args:
        name: Only this one.
        write: Writes them as a page in Markdown to this file instead, as `make docs` does.

    Examples:
        python -m facekit methods
        python -m facekit methods --write methods.md
        python -m facekit methods --name soft
    """
    if write is not None:
        with atomic_path(may_replace(write, b"# Methods\n")) as path:
            path.write_text(listed(), encoding="utf-8")
        return 0
    for each in table().values() if name is None else [row(name)]:
        print(described(each))
    return 0


def described(method: Row) -> str:
    """A method in a few lines: key, what it does, what it needs, parameters."""
    lines = [method.about, f"acts {method.acts} training; sets: {method.sets}; labels: {method.labels}"]
    dashes = "--" if method.trains else ""
    if method.grouped:
        lines.append("--groups: the label column whose classes are the groups, or several, whose combinations are")
    for name, parameter in method.parameters.items():
        default = "" if parameter.default is None else f" (default {parameter.default:g})"
        lines.append(f"{dashes}{name}: {parameter.about}{default}")
    command = "  (train --method)" if method.trains else ""
    return f"{method.key}{command}\n{indent(chr(10).join(lines), '    ')}"


def listed() -> str:
    """All methods as a page in Markdown."""
    rows = [
        {
            "method": f"`{each.key}`",
            "what it does": each.about,
            "acts": f"{each.acts} training",
            "sets": each.sets,
            "labels": each.labels,
            "parameters": "; ".join(f"`{name}`: {parameter.about}" for name, parameter in each.parameters.items()),
        }
        for each in table().values()
    ]
    return (
        "# Methods\n\nEvery method of transfer in facekit, made from the rows in `facekit/transfer/`.\n\n"
        f"{markdown(pd.DataFrame(rows))}\n"
    )
