"""Charts as SVG text, readable on light and dark pages: points with names, bars in groups, lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 46, 56
TEXT, GRID = "#7d8590", "#7d859040"
COLOURS = ("#2f81f7", "#db6d28", "#3fb950", "#a371f7", "#d29922", "#f778ba", "#39c5cf", "#8b949e")


@dataclass(frozen=True)
class Axis:
    """What an axis shows, its ticks, and whether it is logarithmic."""

    label: str
    ticks: Sequence[float]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies between the outer ticks, 0 to 1."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.is_log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    name: str


def points(title: str, x: Axis, y: Axis, series: Mapping[str, Sequence[Point]]) -> str:
    """Named points, one colour per series."""
    body = []
    for colour, marks in zip(COLOURS, series.values(), strict=False):
        for mark in marks:
            across, up = _x(x.place(mark.x)), _y(y.place(mark.y))
            body.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="5" fill="{colour}"/>')
            body.append(_text(across + 9, up + 4, mark.name, colour))
    return _page(title, [*_grid(x, y), *_legend(list(series)), *body])


def lines(title: str, x: Axis, y: Axis, series: Mapping[str, Sequence[Point]]) -> str:
    """One line per series, through its points in their order."""
    body = []
    for colour, marks in zip(COLOURS, series.values(), strict=False):
        path = " ".join(f"{_x(x.place(mark.x)):.1f},{_y(y.place(mark.y)):.1f}" for mark in marks)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [
            f'<circle cx="{_x(x.place(m.x)):.1f}" cy="{_y(y.place(m.y)):.1f}" r="3" fill="{colour}"/>'
            for m in marks
        ]
    return _page(title, [*_grid(x, y), *_legend(list(series)), *body])


def bars(
    title: str,
    y: Axis,
    groups: Mapping[str, Mapping[str, float]],
    show: Callable[[float], str] = "{:.2f}".format,
) -> str:
    """Groups of bars side by side; the same name has the same colour in every group."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    body = []
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    for place, (group, values) in enumerate(groups.items()):
        begin, width = LEFT + place * room + room * 0.08, room * 0.84 / len(values)
        for number, (name, value) in enumerate(values.items()):
            left, up = begin + number * width, _y(min(1.0, y.place(value)))
            colour = COLOURS[names.index(name) % len(COLOURS)]
            body.append(
                f'<rect x="{left:.1f}" y="{up:.1f}" width="{max(1.0, width - 2):.1f}" '
                f'height="{HEIGHT - BOTTOM - up:.1f}" fill="{colour}"/>'
            )
            body.append(_text(left + width / 2 - 1, up - 4, show(value), TEXT, "middle", 10))
        body.append(_text(LEFT + (place + 0.5) * room, HEIGHT - BOTTOM + 18, group, TEXT, "middle"))
    return _page(title, [*_grid(None, y), *_legend(names), *body])


def _x(place: float) -> float:
    return LEFT + place * (WIDTH - LEFT - RIGHT)


def _y(place: float) -> float:
    return HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis | None, y: Axis) -> list[str]:
    body = []
    for tick in y.ticks:
        up = _y(y.place(tick))
        body.append(f'<line x1="{LEFT}" y1="{up:.1f}" x2="{WIDTH - RIGHT}" y2="{up:.1f}" stroke="{GRID}"/>')
        body.append(_text(LEFT - 8, up + 4, f"{tick:g}", TEXT, "end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    body.append(
        f'<text x="18" y="{middle}" fill="{TEXT}" font-size="12" text-anchor="middle" '
        f'transform="rotate(-90 18 {middle})">{escape(y.label)}</text>'
    )
    if x is not None:
        for tick in x.ticks:
            body.append(_text(_x(x.place(tick)), HEIGHT - BOTTOM + 18, f"{tick:g}", TEXT, "middle"))
        body.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x.label, TEXT, "middle"))
    return body


def _legend(names: list[str]) -> list[str]:
    body, left = [], float(LEFT)
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        body.append(f'<rect x="{left:.0f}" y="28" width="10" height="10" fill="{colour}"/>')
        body.append(_text(left + 14, 37, name, TEXT))
        left += 30 + 6.6 * len(name)
    return body


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _page(title: str, body: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="{escape(title, quote=True)}">'
    )
    heading = f'<text x="{LEFT}" y="18" fill="{TEXT}" font-size="14" font-weight="600">{escape(title)}</text>'
    return "\n".join([head, heading, *body, "</svg>"]) + "\n"
