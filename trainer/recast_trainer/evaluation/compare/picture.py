"""A comparison as a picture (SVG) and as a page (HTML) that holds it: no script, no file beside it, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from recast_trainer.evaluation.compare.markdown import about, estimate, notes, tables, title
from recast_trainer.evaluation.compare.results import ArmResult, Comparison, SurfaceResult

WIDTH, LEFT, RIGHT, ROW, HEAD, FOOT = 820, 230, 150, 26, 38, 34
"""Pixels: of all, left of the axis, right of it, of an arm, above the first and below the last."""
_TICKS = 5

_COLOURS = """
svg,body{--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--ground:#ffffff;--learned:#0969da;--fixed:#8250df}
@media (prefers-color-scheme:dark){
svg,body{--ink:#e6edf3;--soft:#9198a1;--line:#3d444d;--ground:#0d1117;--learned:#4493f8;--fixed:#ab7df8}}
"""
_PICTURE = (
    _COLOURS
    + """
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .ground{fill:var(--ground)}svg .soft{fill:var(--soft)}svg .name{font-weight:600}
svg line{stroke:var(--line)}svg line.learned{stroke:var(--learned);stroke-width:2}
svg line.fixed{stroke:var(--fixed);stroke-width:2}
svg circle.learned{fill:var(--learned)}svg circle.fixed{fill:var(--fixed)}
"""
)
_PAGE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;
color:var(--ink);background:var(--ground)}
table{border-collapse:collapse;margin:1rem 0;font-size:13px;display:block;overflow-x:auto}
th,td{border:1px solid var(--line);padding:.3rem .6rem;text-align:left;font-variant-numeric:tabular-nums}
svg{max-width:100%;height:auto}
"""


def html(found: Comparison) -> str:
    """A page with the picture and the tables."""
    parts = [f"<h1>{escape(title(found))}</h1>", *(f"<p>{escape(text)}</p>" for text in notes(found)), svg(found)]
    for surface in found.surfaces:
        parts += [f"<h2>{escape(surface.surface)}</h2>", f"<p>{escape(about(surface))}</p>"]
        parts += [_table(*each) for each in tables(surface)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title(found))}</title><style>{_PAGE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def svg(found: Comparison) -> str:
    """NE of each arm with its interval, a panel for each surface: of all its tasks together, or of its only one."""
    top, panels = 0, []
    for surface in found.surfaces:
        panels.append(f'<g transform="translate(0,{top})">{_panel(surface)}</g>')
        top += _height(surface)
    name = escape(title(found))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" aria-label="{name}">'
        f'<title>{name}</title><style>{_PICTURE}</style><rect class="ground" width="{WIDTH}" height="{top}"/>'
        + "".join(panels)
        + "</svg>"
    )


def _height(surface: SurfaceResult) -> int:
    return HEAD + ROW * len(_shown(surface)) + FOOT


def _shown(surface: SurfaceResult) -> list[ArmResult]:
    """The arms whose figure is defined."""
    return [arm for arm in surface.arms if math.isfinite(arm.ne[surface.tasks[-1]].value)]


def _panel(surface: SurfaceResult) -> str:
    task, arms = surface.tasks[-1], _shown(surface)
    marks = ticks([bound for arm in arms for bound in _extent(arm, task)])
    low, high = marks[0], marks[-1]
    bottom = HEAD + ROW * len(arms)

    def x(value: float) -> str:
        return f"{LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT):.1f}"

    parts = [f'<text class="name" x="12" y="22">{escape(surface.surface)}: NE, {escape(task)} (lower is better)</text>']
    for mark in marks:
        parts.append(f'<line x1="{x(mark)}" x2="{x(mark)}" y1="{HEAD - 6}" y2="{bottom}"/>')
        parts.append(f'<text class="soft" x="{x(mark)}" y="{bottom + 16}" text-anchor="middle">{mark:g}</text>')
    for index, arm in enumerate(arms):
        y, ne = HEAD + ROW * index + ROW / 2, arm.ne[task]
        kind, (first, last) = "learned" if arm.steps else "fixed", _extent(arm, task)
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 4:g}" text-anchor="end">{escape(arm.arm)}</text>',
            f'<line class="{kind}" x1="{x(first)}" x2="{x(last)}" y1="{y:g}" y2="{y:g}"/>',
            f'<circle class="{kind}" cx="{x(ne.value)}" cy="{y:g}" r="4"/>',
            f'<text class="soft" x="{WIDTH - RIGHT + 12}" y="{y + 4:g}">{estimate(ne, "{:.3f}".format)}</text>',
        ]
    return "".join(parts)


def _extent(arm: ArmResult, task: str) -> tuple[float, float]:
    ne = arm.ne[task]
    return (ne.low, ne.high) if math.isfinite(ne.low + ne.high) else (ne.value, ne.value)


def ticks(values: Sequence[float]) -> list[float]:
    """Round numbers at equal distances that enclose the values: at least two, a few."""
    low, high = min(values), max(values)
    rough = max(high - low, 1e-6) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * place, 10) for place in range(first, max(last, first + 1) + 1)]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    rows += ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
