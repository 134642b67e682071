"""The page's content, from the ledger's rows. Checked by `tests/test_report.py` and `tests/test_report_browser.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from allora_analysis.claims import behind, ledger, readme
from allora_analysis.claims.ledger import VERDICTS, Row
from allora_analysis.report import pictures
from allora_analysis.report.evidence import NOTHING, Quantity, compared, facts, quantities, summary
from allora_analysis.report.notation import html
from allora_analysis.report.pictures import Picture
from allora_analysis.study import environment

MEANINGS = {
    "holds": "as printed",
    "holds_corrected": "after the correction shown",
    "conditional": "only on the condition shown",
    "refuted": "as printed it is wrong",
    "undecided": "the evidence does not decide it; the claim says how much would",
    "not_run": "needs a long run; the claim names the command",
    "error": "the check itself failed: an error of the toolkit",
}
BEYOND = "beyond the paper"  # so begins `where` of what the paper does not say
BELOW = {  # what stands under the printed statement
    "holds_corrected": "Corrected",
    "conditional": "On what it depends",
    "refuted": "Instead",
    "undecided": "What would decide it",
    "error": "The check failed",
}


@dataclass(frozen=True)
class Entry:
    """A claim as the template takes it: texts as they are, HTML where it is Markup."""

    id: str
    where: str
    verdict: str
    part: str
    search: str
    says: str
    printed: Markup
    below: str | None
    corrected: Markup | None
    short: Markup | None
    facts: Mapping[str, Markup]
    quantities: Sequence[Quantity]
    compared: bool
    commands: Sequence[str]
    code: Sequence[str]
    tests: Sequence[str]
    picture: str | None


def entry(row: Row, part: str, drawn: Mapping[str, Picture], own: bool = False) -> Entry:
    """A row of the ledger for the page.

    Args:
        row: the row.
        part: the key of the part of the paper that it belongs to.
        drawn: the pictures at hand, by name.
        own: whether rows that read records read the caller's own; the pictures are of the committed ones.

    Returns:
        The entry.
    """
    claim, finding, verdict = row.claim, row.finding, readme.verdict(row)
    own = own and claim.reads is not None
    below = row.error if finding is None else finding.corrected
    name = pictures.name_for(claim)
    mine = f"python -m allora_analysis --only {claim.id}" + (" --results FOLDER" if own else "")
    words = (claim.id, claim.where, verdict, claim.statement, below or "", claim.command, claim.test)
    return Entry(
        id=claim.id,
        where=claim.where,
        verdict=verdict,
        part=part,
        search=" ".join(words).casefold().replace("ς", "σ"),
        says="Ours" if claim.where.startswith(BEYOND) else "Printed",
        printed=html(claim.statement),
        below=BELOW.get(verdict, "Note") if below else None,
        corrected=(html(below) if row.error is None else escape(below)) if below else None,
        short=summary(finding.evidence) if finding else None,
        facts=facts(finding.evidence) if finding else {},
        quantities=quantities(finding.evidence) if finding else (),
        compared=finding is not None and compared(finding.evidence),
        commands=tuple(dict.fromkeys((mine, claim.command))),
        code=behind.modules(claim),
        tests=tuple(word.strip() for word in claim.test.split(",")),
        picture=name if name in drawn and not own else None,
    )


def page(rows: Sequence[Row], folder: Path | None = None, *, own: bool = False, interrupted: bool = False) -> str:
    """The ledger as one HTML document that loads nothing from elsewhere; the same rows give the same bytes.

    Args:
        rows: the ledger's rows.
        folder: where the pictures were drawn; None for the repository's own.
        own: whether rows that read records read the caller's own.
        interrupted: whether other rows were to follow.

    Returns:
        The document.
    """
    names = dict.fromkeys(name for row in rows if (name := pictures.name_for(row.claim)) is not None)
    drawn = {name: picture for name in names if (picture := pictures.load(name, folder)) is not None}
    parts = {f"part-{index}": title for index, title in enumerate(readme.by_part(rows))}
    entries = {
        key: [entry(row, key, drawn, own) for row in readme.by_part(rows)[title]] for key, title in parts.items()
    }
    counts = {key: Counter(one.verdict for one in of) for key, of in entries.items()}
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
