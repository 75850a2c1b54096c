"""Line charts as SVG text, with nothing but the standard library; for figures of benchmarks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 380, 60, 40, 200, 50
COLOURS = ("#1b6ca8", "#c8553d", "#2a9d5c", "#7b4fa3", "#b8860b", "#555555")


def lines(
    title: str,
    across: str,
    up: str,
    xs: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    log_x: bool = False,
) -> str:
    """One chart: `curves` maps a legend to a value per x; one that is shorter ends early."""
    place = math.log10 if log_x else float
    low, high = place(min(xs)), place(max(xs))
    most = max((max(ys) for ys in curves.values()), default=1.0) or 1.0
    top = _rounded_up(most)

    def at(x: float, y: float) -> str:
        along = (place(x) - low) / ((high - low) or 1.0)
        return f"{LEFT + along * (WIDTH - LEFT - RIGHT):.1f},{_row(y, top):.1f}"

    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'<svg {box} font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{(WIDTH - RIGHT) // 2}" y="{HEIGHT - 10}">{escape(across)}</text>',
        f'<text x="14" y="{TOP - 6}">{escape(up)}</text>',
    ]
    for step in range(5):
        y = top * step / 4
        parts.append(
            f'<path d="M{LEFT} {_row(y, top):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{_row(y, top) + 4:.1f}" text-anchor="end">{y:g}</text>'
        )
    ticks = xs if len(xs) <= 8 else [xs[round(i * (len(xs) - 1) / 6)] for i in range(7)]
    for x in ticks:
        column = at(x, 0).partition(",")[0]
        parts.append(f'<text x="{column}" y="{HEIGHT - 32}" text-anchor="middle">{x:g}</text>')
    for number, (legend, ys) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(at(x, y) for x, y in zip(xs, ys, strict=False))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        y = TOP + 10 + 20 * number
        parts.append(
            f'<path d="M{WIDTH - RIGHT + 12} {y}h18" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{WIDTH - RIGHT + 36}" y="{y + 4}">{escape(legend)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(y: float, top: float) -> float:
    return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)


def _rounded_up(value: float) -> float:
    """The next of 1, 2, 4, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)
