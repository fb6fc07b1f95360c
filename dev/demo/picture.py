"""Draws a recording of the demo as one SVG: a terminal in which its lines appear, faster than they did. Pure.

Plain SVG with CSS animation, so that a Markdown page can show it as an image. Where animation is not supported, or not
wanted (``prefers-reduced-motion``), it shows the end of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from dev.demo.screen import Shown

COLUMNS, ROWS = 116, 32
COLUMN_WIDTH, ROW_HEIGHT, MARGIN, BAR = 7.25, 18, 14, 34
PLAY_SECONDS = 40.0
"""How long the picture takes; its lines keep their distances in proportion."""
HOLD_SECONDS = 0.25
"""The least time between two lines: those that came at once can still be read one by one."""

_STYLE = """
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre;fill:#d6deeb}
.good{fill:#7fd88f}.bad{fill:#ff7b72;font-weight:bold}.wait{fill:#e3c078}.bar{fill:#8b98a9}
.l{animation:show 1ms both}
@keyframes show{from{opacity:0}to{opacity:1}}
"""
_STILL = "@media (prefers-reduced-motion:reduce){.l,.s{animation:none}}\n"  # last: it overrides what stands before it


def svg(lines: Sequence[Shown]) -> str:
    """The SVG's text. Raises ``ValueError`` where the recording is not of a demo that succeeded."""
    if not lines:
        raise ValueError("the recording is empty")
    if lines[-1].tone != "good":
        raise ValueError(f"the recorded demo did not succeed: its last line is {lines[-1].text!r}")
    moments = timing([line.seconds for line in lines])
    width = COLUMNS * COLUMN_WIDTH + 2 * MARGIN
    height = BAR + ROWS * ROW_HEIGHT + 2 * MARGIN
    minutes, seconds = divmod(int(lines[-1].seconds), 60)
    title = f"make demo: {minutes} min {seconds} s, shown in {moments[-1]:.0f} s"
    hidden = max(0, len(lines) - ROWS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" xml:space="preserve"',
        f'role="img" aria-label="{title}">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}{_scroll(moments)}{_STILL}</style>",
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#0d1620"/>',
        *(
            f'<circle cx="{20 + 18 * index}" cy="{BAR / 2:g}" r="5" fill="{colour}"/>'
            for index, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
        ),
        f'<text class="bar" x="{width / 2:g}" y="{BAR / 2 + 4:g}" text-anchor="middle">{title}</text>',
        f'<clipPath id="window"><rect y="{BAR}" width="{width:g}" height="{height - BAR - MARGIN / 2:g}"/></clipPath>',
        f'<g clip-path="url(#window)"><g class="s" transform="translate(0,{-hidden * ROW_HEIGHT})">',
        *(
            f'<text class="l {line.tone}" x="{MARGIN}" y="{BAR + MARGIN + ROW_HEIGHT * index + 12}"'
            f' style="animation-delay:{moment:.2f}s">{escape(_fit(line.text))}</text>'
            for index, (line, moment) in enumerate(zip(lines, moments, strict=True))
        ),
        "</g></g></svg>",
    ]
    return "\n".join(parts) + "\n"


def timing(seconds: Sequence[float]) -> list[float]:
    """When each line appears, in seconds of the picture: in proportion, never two closer than :data:`HOLD_SECONDS`."""
    scale = PLAY_SECONDS / max(seconds[-1], PLAY_SECONDS)
    moments: list[float] = []
    for second in seconds:
        earliest = moments[-1] + HOLD_SECONDS if moments else 0.0
        moments.append(max(second * scale, earliest))
    return moments


def _scroll(moments: Sequence[float]) -> str:
    """The keyframes that move the lines up when the window is full."""
    if len(moments) <= ROWS:
        return ""
    end = moments[-1]
    return (
        f".s{{animation:scroll {end:.2f}s step-end both}}\n@keyframes scroll{{0%{{transform:translate(0,0)}}"
        + "".join(_stops(moments, end))
        + "}\n"
    )


def _stops(moments: Sequence[float], end: float) -> Iterator[str]:
    for index in range(ROWS, len(moments)):
        up = (index - ROWS + 1) * ROW_HEIGHT
        yield f"{100 * moments[index] / end:.2f}%{{transform:translate(0,-{up}px)}}"


def _fit(text: str) -> str:
    return text if len(text) <= COLUMNS else text[: COLUMNS - 1] + "…"
