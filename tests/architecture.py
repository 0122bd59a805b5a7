"""The drawn architecture and the imports it stands for. `python tests/architecture.py` draws the picture anew.

The layers and their order are those of the contract in pyproject.toml, which `make check` holds. In the picture each is
a step of a staircase, the lowest at the bottom left; an arrow for each pair of layers of which one imports from the
other leaves the higher one to the left and falls upon the lower one, so that no arrow can point upwards.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "facekit"
PICTURE = ROOT / "docs/architecture.svg"
BASE = ("errors", "files", "settings", "records")  # the modules of the package's root are one step
TOP = ("commands", "__main__")
# What a step holds, in a few words, and its colours: fill, border.
GREY, BLUE, GREEN, ORANGE = (
    ("#f2f2f2", "#777777"),
    ("#cfe2f1", "#0072B2"),
    ("#c7e6da", "#009E73"),
    ("#fbdcc3", "#D55E00"),
)
HOLDS = {
    "commands": ("one file a command, loaded when it is called", GREY),
    "studies": ("what is recorded on real photos, and how", ORANGE),
    "course": ("builds lessons; exercises, quizzes, profiles", ORANGE),
    "answers": ("a trained model in use: predict, evaluate, report", ORANGE),
    "experiments": ("the same rows, steps and seeds for everything compared", GREEN),
    "transfer": ("the methods, one file each", GREEN),
    "training": ("the one loop: batches, plans, checkpoints, processes", GREEN),
    "models": ("backbones, heads, shared networks, weights", BLUE),
    "evaluation": ("metrics with their intervals", BLUE),
    "data": ("sets on disk and in memory, readers, drawn pictures", BLUE),
    "show": ("plots and widgets", BLUE),
    "tasks": ("what is predicted: classes, numbers, boxes, texts", BLUE),
    "base": ("errors, files, settings, records", GREY),
}
STEP_X, STEP_Y, WIDE, HIGH, MARGIN, HEAD = 56, 46, 118, 28, 24, 84
TEXT = 340  # room for the words beside the highest step


def step_of(part: str) -> str:
    """The step that a folder or module of the package's root is drawn in."""
    return "base" if part in BASE else "commands" if part in TOP else part


def layers(project: Path = ROOT / "pyproject.toml") -> list[str]:
    """The steps of the contract, lowest first; those it calls optional, too."""
    [contract] = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return list(dict.fromkeys(step_of(layer.strip("()")) for layer in reversed(contract["layers"])))


def modules(package: Path = PACKAGE) -> Iterator[tuple[str, Path]]:
    """Every part of the package with each of its files; the package's own `__init__` is no part."""
    for path in sorted(package.rglob("*.py")):
        first = path.relative_to(package).parts[0].removesuffix(".py")
        if first != "__init__":
            yield first, path


def pairs(package: Path = PACKAGE) -> set[tuple[str, str]]:
    """Pairs of steps of which the first imports from the second, at the top of a file or inside a function."""
    found = set()
    for part, path in modules(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            inner = {name.split(".")[1] for name in names if name.startswith(f"{package.name}.")}
            found |= {(step_of(part), step_of(name)) for name in inner}
    return {(one, other) for one, other in found if one != other}


def draw(steps: list[str], arrows: set[tuple[str, str]]) -> str:
    """The picture as SVG: `steps` (lowest first) as a staircase, with an arrow for each pair."""
    n = len(steps)
    width, height = 2 * MARGIN + (n - 1) * STEP_X + WIDE + TEXT, HEAD + n * STEP_Y + MARGIN
    left = {step: MARGIN + i * STEP_X for i, step in enumerate(steps)}
    top = {step: HEAD + (n - 1 - i) * STEP_Y for i, step in enumerate(steps)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif" font-size="14">',
        "  <title>The layers of facekit as a staircase: every import goes down</title>",
        f"  <desc>{n} steps from {steps[0]} at the bottom left to {steps[-1]} at the top right, what each holds beside "
        f"it. {len(arrows)} arrows, each from a step to a lower one that it imports from: to the left and then down. "
        "No arrow goes up.</desc>",
        '  <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#333333"/></marker></defs>',
        f'  <rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
        f'  <text x="{MARGIN}" y="36" font-weight="bold" font-size="17" fill="#222222">facekit: every import goes down'
        "</text>",
        f'  <text x="{MARGIN}" y="60" fill="#444444">A dot says: the step on this line imports from the step below the '
        "dot.</text>",
    ]
    for user, used in sorted(arrows, key=lambda pair: (steps.index(pair[1]), steps.index(pair[0]))):
        x, y = left[used] + STEP_X // 2, top[user] + HIGH // 2
        lines.append(
            f'  <g class="arrow" data-from="{user}" data-to="{used}"><path d="M{left[user]} {y} L{x} {y} L{x} '
            f'{top[used] - 1}" fill="none" stroke="#8A929C" stroke-width="1.2" marker-end="url(#tip)"/>'
            f'<circle cx="{x}" cy="{y}" r="3.5" fill="#333333"/></g>'
        )
    for step in steps:
        x, y, (words, (fill, border)) = left[step], top[step], HOLDS[step]
        lines.append(
            f'  <g class="step" data-name="{step}"><rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="5" '
            f'fill="{fill}" stroke="{border}" stroke-width="2"/><text x="{x + WIDE // 2}" y="{y + 19}" '
            f'text-anchor="middle" font-weight="bold" fill="#222222">{step}</text><text x="{x + WIDE + 12}" '
            f'y="{y + 19}" font-size="13" fill="#444444">{escape(words)}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    present = {step_of(part) for part, _ in modules()}
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw([step for step in layers() if step in present], pairs()), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {len(pairs())} arrows")
