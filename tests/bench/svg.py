"""Bars with whiskers as SVG, readable on light and on dark pages."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LABELS, BAR, GAP, TOP = 720, 170, 22, 12, 44
_STYLE = """\
<style>
text { font: 13px sans-serif; fill: #1f2328 } .title { font-weight: bold }
.bar { fill: #54708c } .ours { fill: #1a7f37 }
.whisker { stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .bar { fill: #7d95ad } .ours { fill: #3fb950 } .whisker { stroke: #e6edf3 }
}
</style>"""
# Ours stand out among the baselines.
_BASELINES = ("bare Flask", "Celery", "naive Flask", "ideal")


def bars(title: str, values: Mapping[str, Sequence[float]]) -> str:
    """A bar to the median of each, a whisker from lowest to highest."""
    most = max((max(ones) for ones in values.values()), default=0) or 1
    height = TOP + len(values) * (BAR + GAP)
    parts = [
        _bar(number, name, ones, (WIDTH - LABELS - 70) / most) for number, (name, ones) in enumerate(values.items())
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    named = f'<title>{escape(title)}</title>\n{_STYLE}\n<text class="title" x="8" y="24">{escape(title)}</text>'
    return "\n".join([head, named, *parts, "</svg>\n"])


def _bar(number: int, name: str, values: Sequence[float], scale: float) -> str:
    top, median = TOP + number * (BAR + GAP), statistics.median(values)
    middle, least, most = top + BAR / 2, LABELS + min(values) * scale, LABELS + max(values) * scale
    kind = "bar" if name in _BASELINES else "ours"
    return (
        f'<text x="{LABELS - 8}" y="{middle + 5:g}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{median * scale:.1f}" height="{BAR}"/>'
        f'<line class="whisker" x1="{least:.1f}" x2="{most:.1f}" y1="{middle:g}" y2="{middle:g}"/>'
        f'<text x="{most + 8:.1f}" y="{middle + 5:g}">{median:,.4g}</text>'
    )
