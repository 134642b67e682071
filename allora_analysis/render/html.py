"""The ledger as one self-contained HTML page: `python -m allora_analysis --report ledger.html`.

Each claim shows its verdict and its answer; the sentence, the evidence, code and tests are on demand, and are not
printed. Checked by `tests/test_report.py` and `tests/test_report_browser.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from allora_analysis.claims import ledger
from allora_analysis.claims.claim import VERDICTS
from allora_analysis.claims.ledger import Row
from allora_analysis.render import pictures
from allora_analysis.render.evidence import NOTHING, Quantity, compared, facts, html, quantities, summary
from allora_analysis.render.pictures import Picture
from allora_analysis.render.view import MEANINGS, View, by_part, said_by, size_text, views
from allora_analysis.study import environment


@dataclass(frozen=True)
class Entry:
    """A claim as the template takes it: the view, and what of it is HTML."""

    view: View
    part: str
    search: str
    says: str
    answer: Markup
    printed: Markup
    told: Mapping[str, Markup]
    short: Markup | None
    facts: Mapping[str, Markup]
    quantities: Sequence[Quantity]
    compared: bool
    commands: Sequence[str]
    code: Sequence[str]
    tests: Sequence[str]
    picture: str | None


def _entry(view: View, part: str, drawn: Mapping[str, Picture], own: bool) -> Entry:
    # `own`: this row read the caller's own records, of which there are no pictures.
    name, evidence = pictures.name_for(view.id), view.evidence
    mine = f"python -m allora_analysis --only {view.id}" + (" --results FOLDER" if own else "")
    told = {
        "Read as": view.reading,
        "True in the paper": None if view.at_paper is None else view.setting,
        "Size": f"{size_text(view.size)}: {view.size.of}" if view.size else None,
        "Corrected": view.corrected,
        "True when": view.condition,
        "Changes if": view.flips_if,
        "Relied on by": "; ".join(f"{by.who}, {by.title} ({by.where})" for by in view.relied_on_by),
    }
    words = (view.id, view.where, view.word, view.statement, view.answer, *filter(None, told.values()))
    return Entry(
        view=view,
        part=part,
        search=" ".join((*words, view.command, view.test)).casefold().replace("ς", "σ"),
        says={None: "The paper says", "ours": "Ours"}.get(who := said_by(view.where), who),
        answer=html(view.answer) if view.error is None else escape(view.answer),
        printed=html(view.statement),
        told={label: html(text) for label, text in told.items() if text},
        short=summary(evidence) if evidence else None,
        facts=facts(evidence) if evidence else {},
        quantities=quantities(evidence) if evidence else (),
        compared=evidence is not None and compared(evidence),
        commands=tuple(dict.fromkeys((mine, view.command))),
        code=tuple(dict.fromkeys(filter(None, (view.check, *view.code)))),
        tests=tuple(word.strip() for word in view.test.split(",")),
        picture=name if name in drawn and not own else None,
    )


def page(rows: Sequence[Row], folder: Path | None = None, *, own: bool = False, interrupted: bool = False) -> str:
    """The ledger as one HTML document that loads nothing from elsewhere; the same rows give the same bytes."""
    shown = views(rows)
    reads = {row.claim.id for row in rows if own and row.claim.reads is not None}
    names = dict.fromkeys(name for one in shown if (name := pictures.name_for(one.id)) is not None)
    drawn = {name: picture for name in names if (picture := pictures.load(name, folder)) is not None}
    parts = {f"part-{index}": title for index, title in enumerate(by_part(shown))}
    entries = {
        key: [_entry(one, key, drawn, one.id in reads) for one in by_part(shown)[title]] for key, title in parts.items()
    }
    counts = {key: Counter(one.view.word for one in of) for key, of in entries.items()}
    total = sum(counts.values(), Counter())
    templates = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("ledger.html.jinja").render(
        parts=parts,
        entries=entries,
        counts=counts,
        total=total,
        verdicts=[verdict for verdict in (*VERDICTS, "error") if total[verdict]],
        meanings=MEANINGS,
        all_claims=len(ledger.all_claims()),
        own=own,
        interrupted=interrupted,
        pictures=drawn,
        environment={name: NOTHING if value is None else value for name, value in environment().items()},
        style=_part("ledger.css"),
        script=_part("ledger.js"),
    )


def _part(name: str) -> Markup:
    # Our own files, with nothing of the rows in them.
    return Markup(files(__package__).joinpath("templates", name).read_text(encoding="utf-8"))
