"""What rests on what: every claim a line and a link, an arc from each to those that rest on it, in one SVG."""

import html
from collections.abc import Sequence

from allora_analysis.claims.ledger import Row
from allora_analysis.render import view

HEIGHT, LEFT, WIDTH = 22, 110, 940  # of a line, of the arcs, of all
TEXT = (
    "Each line is a claim, its dot the verdict, and leads to its page; an arc joins it to those that rest on it, the "
    "lower one on the upper one unless it is dotted. Point at a claim and its arcs stand out."
)


def page(rows: Sequence[Row]) -> str:
    """The page, in Markdown.

    Args:
        rows: the ledger's rows.
    """
    lines, places, y = [], {}, HEIGHT
    for title, members in view.by_part(view.views(rows)).items():
        lines.append(f'<text class="title" x="0" y="{y}">{html.escape(title)}</text>')
        for one in members:
            y += HEIGHT
            places[one.id] = y
            lines.append(_line(one, y))
        y += 2 * HEIGHT
    edges = [(one, row.claim.id) for row in rows for one in row.claim.depends_on if one in places]
    arcs = [_arc(start, end, places) for start, end in edges]
    head = f'<svg viewBox="0 0 {WIDTH} {y - HEIGHT}" role="group" aria-label="claims and what they rest on">'
    drawn = f'<div class="graph">{head}{"".join(arcs)}{"".join(lines)}</svg></div>'
    return f"---\ntitle: What rests on what\nhide: [toc]\n---\n\n# What rests on what\n\n{TEXT}\n\n{drawn}\n"


def _line(one: view.View, y: int) -> str:
    answer = html.escape(one.answer if len(one.answer) <= 80 else f"{one.answer[:79]}…")
    return (
        f'<a href="claims/{one.id}.html" data-claim="{one.id}"><title>{one.word}: {html.escape(one.answer)}</title>'
        f'<circle class="{one.word}" cx="{LEFT}" cy="{y - 4}" r="5"/><text x="{LEFT + 12}" y="{y}"><tspan class="id">'
        f'{one.id}</tspan> <tspan class="answer" x="{LEFT + 262}">{answer}</tspan></text></a>'
    )


def _arc(start: str, end: str, places: dict[str, int]) -> str:
    top, bottom = sorted((places[start], places[end]))
    wide = min(LEFT - 12, 14 + (bottom - top) / 12)
    upwards = ' class="up"' if places[end] < places[start] else ""
    return (
        f'<path{upwards} data-from="{start}" data-to="{end}" d="M {LEFT - 6} {top - 4} C {LEFT - wide:.0f} {top - 4} '
        f'{LEFT - wide:.0f} {bottom - 4} {LEFT - 6} {bottom - 4}"/>'
    )
