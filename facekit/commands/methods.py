"""`python -m facekit methods`: every method of transfer, what it needs and when it acts."""

from __future__ import annotations

from textwrap import indent

from facekit.transfer.table import Row, row, table


def methods(name: str | None = None) -> int:
    """Lists the methods: how each is typed, when it acts, what it needs, and its parameters with their defaults.

    Those that act during training on one labelled set are what `python -m facekit train --method` takes.

    Args:
        name: Only this one.

    Examples:
        python -m facekit methods
        python -m facekit methods --name soft
    """
    for each in table().values() if name is None else [row(name)]:
        print(described(each))
    return 0


def described(method: Row) -> str:
    """A method in a few lines: key, what it does, what it needs, parameters."""
    lines = [method.about, f"acts {method.acts} training; sets: {method.sets}; labels: {method.labels}"]
    dashes = "--" if method.loss else ""
    for name, parameter in method.parameters.items():
        default = "" if parameter.default is None else f" (default {parameter.default:g})"
        lines.append(f"{dashes}{name}: {parameter.about}{default}")
    command = "  (train --method)" if method.loss else ""
    return f"{method.key}{command}\n{indent(chr(10).join(lines), '    ')}"
