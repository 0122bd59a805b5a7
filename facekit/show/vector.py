"""Plots as SVG for pages: they take the page's colours, so they can be read in the dark, and each has a description.

Colours are `currentColor` and the page's variables `--accent`, `--second` and `--line`; a value is never told by colour
alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

ROW, LABEL, PLOT, PAD = 24, 230, 460, 12  # pixels


def intervals(
    names: Sequence[str], rows: Sequence[tuple[float, float, float]], average: float, alt: str, marks: Sequence[bool]
) -> str:
    """A row for each name: a dot at its value on a line from low to high, and a dashed line at the average of all.

    rows: (value, low, high), value NaN where nothing is shown. marks: rows whose dot is hollow. alt: what it shows.
    """
    numbers = [each for row in rows for each in row if not math.isnan(each)] + [average]
    ticks = _ticks(min(numbers), max(numbers))
    low, high = ticks[0], ticks[-1]
    place = lambda value: LABEL + PLOT * (value - low) / (high - low)  # noqa: E731
    height = ROW * len(names) + 40
    bottom = height - 30
    parts = [_grid(place(tick), bottom, f"{tick:g}") for tick in ticks]
    parts.append(
        f'<line class="second" x1="{place(average):.1f}" x2="{place(average):.1f}" y1="4" y2="{bottom}" '
        'stroke-dasharray="5 4"/>'
    )
    for number, (name, (value, start, end), hollow) in enumerate(zip(names, rows, marks, strict=True)):
        y = ROW * number + ROW / 2 + 2
        label = name if len(name) <= 32 else f"{name[:31]}…"
        parts.append(f'<text x="{LABEL - 10}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        if math.isnan(value):
            parts.append(f'<text class="muted" x="{LABEL + 8}" y="{y + 4}">not shown</text>')
            continue
        parts.append(f'<line class="accent" x1="{place(start):.1f}" x2="{place(end):.1f}" y1="{y}" y2="{y}"/>')
        fill = ' fill="none"' if hollow else ""
        parts.append(f'<circle class="accent{" hollow" * hollow}" cx="{place(value):.1f}" cy="{y}" r="4.5"{fill}/>')
    return _svg(LABEL + PLOT + 30, height, parts, alt)


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], labels: tuple[str, str], alt: str) -> str:
    """Lines through points (x, y) in 0 to 1 over the diagonal; the second is dashed with hollow dots. labels: axes."""
    side, left, top = 300, 60, 12
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = left + side * tick, top + side * (1 - tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{top + side}"/>')
        parts.append(f'<line class="grid" x1="{left}" x2="{left + side}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{x}" y="{top + side + 18}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(
        f'<line class="muted" x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}" stroke-dasharray="2 4"/>'
    )
    for number, (name, points) in enumerate(lines.items()):
        kind = ("accent", "second hollow")[number % 2]
        at = [(left + side * x, top + side * (1 - y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        dash = ' stroke-dasharray="6 4"' if number % 2 else ""
        parts.append(f'<polyline class="{kind}" points="{path}" fill="none"{dash}/>')
        parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in at]
        y = top + 20 + 24 * number
        parts.append(f'<line class="{kind}" x1="{left + side + 20}" x2="{left + side + 52}" y1="{y}" y2="{y}"{dash}/>')
        parts.append(f'<circle class="{kind}" cx="{left + side + 36}" cy="{y}" r="4"/>')
        parts.append(f'<text x="{left + side + 60}" y="{y + 4}">{escape(name)}</text>')
    middle = top + side / 2
    parts.append(f'<text x="{left + side / 2}" y="{top + side + 40}" text-anchor="middle">{escape(labels[0])}</text>')
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escape(labels[1])}</text>'
    )
    return _svg(left + side + 260, top + side + 50, parts, alt)


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers around an interval."""
    span = max(high - low, 1e-3)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(times for times in (1, 2, 5, 10) if span / (step * times) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * each, 10) for each in range(first, max(last, first + 1) + 1)]


def _grid(x: float, bottom: int, label: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}"/>'
    return f'{line}<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>'


def _svg(width: int, height: int, parts: Sequence[str], alt: str) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg role="img" aria-label="{escape(alt)}" {size}>{"".join(parts)}</svg>'
