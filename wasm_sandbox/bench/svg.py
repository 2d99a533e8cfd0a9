"""Plots as SVG, of three kinds, without a dependency: the same text for the same data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import msgspec

WIDTH, RIGHT = 860, 90
_LETTER = 6.4
"""Width of a letter, about."""
_BAR, _GAP, _HEAD, _FOOT = 20, 10, 38, 14
_HEIGHT = 260
_OURS, _THEIRS, _MARK = "#1f6feb", "#9aa4b2", "#cf222e"
_COLOURS = (
    "#1f6feb",
    "#2da44e",
    "#bf8700",
    "#8250df",
    "#cf222e",
    "#1b7c83",
    "#bc4c00",
    "#57606a",
    "#9aa4b2",
)


class Bar(msgspec.Struct, frozen=True):
    """One bar: its length, and how far the samples reach."""

    label: str
    value: float
    low: float
    high: float
    ours: bool


def bars(title: str, unit: str, shown: Sequence[Bar], marks: Sequence[float] = ()) -> str:
    """Horizontal bars with the reach of the samples, and targets as lines across."""
    most = max([*(max(bar.high, bar.value) for bar in shown), *marks, 1e-12])
    left = max(len(bar.label) for bar in shown) * _LETTER + 24
    scale = (WIDTH - left - RIGHT) / most
    parts: list[str] = []
    for at, bar in enumerate(shown):
        y = _HEAD + at * (_BAR + _GAP)
        middle = y + _BAR / 2
        parts += [
            _text(left - 8, middle + 4, bar.label, anchor="end"),
            _rect(left, y, bar.value * scale, _BAR, _OURS if bar.ours else _THEIRS),
            _line(left + bar.low * scale, middle, left + bar.high * scale, middle, "#24292f"),
            _text(left + max(bar.high, bar.value) * scale + 6, middle + 4, number(bar.value)),
        ]
    height = _HEAD + len(shown) * (_BAR + _GAP) + _FOOT
    for mark in marks:
        x = left + mark * scale
        parts.append(_line(x, _HEAD - 6, x, height - _FOOT, _MARK, dash=True))
    return _page(f"{title} ({unit})", height, parts)


def curve(title: str, unit: str, axis: str, points: Sequence[tuple[float, float]]) -> str:
    """A line over a logarithmic axis of numbers; its own axis begins at 0."""
    left, top, bottom = 90, _HEAD + 10, _HEIGHT - 40
    most = max([value for _, value in points] + [1e-12]) * 1.1
    low, high = (math.log(pick(max(x, 1e-12) for x, _ in points)) for pick in (min, max))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        along = (math.log(max(point[0], 1e-12)) - low) / ((high - low) or 1)
        return left + along * (WIDTH - left - 60), bottom - point[1] / most * (bottom - top)

    places = [place(point) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [
        _line(left, bottom, WIDTH - 40, bottom, "#57606a"),
        _line(left, top, left, bottom, "#57606a"),
        f'<polyline points="{path}" fill="none" stroke="{_OURS}" stroke-width="2"/>',
        _text((left + WIDTH) / 2, _HEIGHT - 6, axis, anchor="middle"),
    ]
    for (x, y), (along, value) in zip(places, points, strict=True):
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_OURS}"/>',
            _text(x, y - 8, number(value), anchor="middle"),
            _text(x, bottom + 16, f"{along:,g}", anchor="middle"),
        ]
    return _page(f"{title} ({unit})", _HEIGHT, parts)


def stack(title: str, unit: str, parts: Sequence[tuple[str, float]]) -> str:
    """One bar of parts, each named below."""
    whole = sum(value for _, value in parts) or 1
    left, room = 20, WIDTH - 40
    drawn: list[str] = []
    x = float(left)
    for at, (name, value) in enumerate(parts):
        wide, colour = value / whole * room, _COLOURS[at % len(_COLOURS)]
        y = _HEAD + 54 + at * 22
        drawn += [
            _rect(x, _HEAD, wide, 34, colour),
            _rect(left, y - 11, 14, 14, colour),
            _text(left + 22, y, f"{name}: {number(value)} {unit} ({value / whole:.0%})"),
        ]
        x += wide
    return _page(f"{title} ({number(whole)} {unit})", _HEAD + 60 + len(parts) * 22, drawn)


def number(value: float) -> str:
    """Three digits that mean something."""
    if value == 0:
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}" if digits else f"{round(value):,}"


def _page(title: str, height: float, parts: Iterable[str]) -> str:
    style = "font:12px system-ui,sans-serif;fill:#24292f"
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" style="{style}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        _text(20, 22, title, weight="600"),
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {place}>{escape(text)}</text>"


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}"/>'


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, *, dash: bool = False) -> str:
    place = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    dashed = ' stroke-dasharray="4 3"' if dash else ""
    return f'<line {place} stroke="{colour}" stroke-width="1.5"{dashed}/>'
