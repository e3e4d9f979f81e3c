"""Line charts as inline SVG: colours from the page's own variables, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 14, 42
_DASHES = ("", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """Points in order of x; `low` and `high` bound a band where they are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    muted: bool = False


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x: str,
    y: str,
    shaded: tuple[float, float] | None = None,
    log: bool = False,
    markers: bool = True,
) -> str:
    """An SVG figure with axes, ticks, an optional shaded range of x, and a legend.

    Its text alternative is the title; the values themselves stand in a table of the report.
    """
    finite = [(a, b) for line in lines for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
    if not finite:
        return ""
    bounds = [v for line in lines for v in (*line.low, *line.high) if math.isfinite(v)]
    ys = [b for _, b in finite] + bounds
    across = _Axis(min(a for a, _ in finite), max(a for a, _ in finite), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP, log=log)
    box, name = f"0 0 {_WIDTH} {_HEIGHT + 18 * _rows(lines)}", escape(title)
    parts = [f'<svg class="chart" viewBox="{box}" role="img" aria-label="{name}"><title>{name}</title>']
    if shaded is not None:
        a, b = across.at(max(shaded[0], across.low)), across.at(min(shaded[1], across.high))
        width = max(b - a, 3)
        tall = _HEIGHT - _BOTTOM - _TOP
        parts.append(f'<rect class="seen" x="{a:.1f}" y="{_TOP}" width="{width:.1f}" height="{tall}"/>')
    parts += _frame(across, up, x, y)
    for i, line in enumerate(lines):
        parts += _drawn(line, i, across, up, markers)
    parts += _legend(lines, shaded is not None)
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.floor(self._scaled(self.low)), math.ceil(self._scaled(self.high))
            found = [m * 10.0**k for k in range(first, last + 1) for m in (1, 1.5, 2, 3, 5, 7)]
            return [v for v in found if self.low <= v <= self.high]
        span = self.high - self.low or 1
        step = 10 ** math.floor(math.log10(span / 5))
        step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _frame(across: _Axis, up: _Axis, x: str, y: str) -> list[str]:
    foot, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [_label(f"{v:g}", across.at(v), foot + 16, "tick", "middle") for v in across.ticks()]
    for value in up.ticks():
        at = up.at(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_label(f"{value:g}", _LEFT - 6, at + 4, "tick", "end"))
    parts.append(_label(x, (_LEFT + right) / 2, _HEIGHT - 8, "axis", "middle"))
    turned = _label(y, 0, 0, "axis", "middle")
    return [*parts, f'<g transform="translate(13 {(_TOP + foot) / 2}) rotate(-90)">{turned}</g>']


def _label(text: str, x: float, y: float, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _drawn(line: Line, i: int, across: _Axis, up: _Axis, markers: bool) -> list[str]:
    kind = "muted" if line.muted else f"c{i % 8}"
    points = [(across.at(a), up.at(b)) for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
    parts = []
    if len(line.low) and len(points) == len(line.x):
        edge = [(across.at(a), up.at(b)) for a, b in zip(line.x, line.high, strict=True)]
        edge += [(across.at(a), up.at(b)) for a, b in zip(line.x, line.low, strict=True)][::-1]
        parts.append(f'<polygon class="band {kind}" points="{_text(edge)}"/>')
    dash = _DASHES[i // 8 % len(_DASHES)]
    style = f' stroke-dasharray="{dash}"' if dash else ""
    parts.append(f'<polyline class="line {kind}"{style} points="{_text(points)}"/>')
    if markers:
        parts += [f'<circle class="dot {kind}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points]
    return parts


def _legend(lines: Sequence[Line], shaded: bool) -> list[str]:
    parts = []
    names = [(line.name, "muted" if line.muted else f"c{i % 8}", i) for i, line in enumerate(lines)]
    for k, (name, kind, i) in enumerate(names):
        a, b = _LEFT + (k % 3) * 170, _HEIGHT + 8 + (k // 3) * 18
        dash = _DASHES[i // 8 % len(_DASHES)]
        style = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<line class="line {kind}"{style} x1="{a}" x2="{a + 22}" y1="{b}" y2="{b}"/>')
        parts.append(f'<text class="tick" x="{a + 28}" y="{b + 4}">{escape(name[:24])}</text>')
    if shaded:
        k = len(names)
        a, b = _LEFT + (k % 3) * 170, _HEIGHT + 8 + (k // 3) * 18
        parts.append(f'<rect class="seen" x="{a}" y="{b - 6}" width="22" height="12"/>')
        parts.append(f'<text class="tick" x="{a + 28}" y="{b + 4}">seen in training</text>')
    return parts


def _rows(lines: Sequence[Line]) -> int:
    return (len(lines) + 1 + 2) // 3


def _text(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
