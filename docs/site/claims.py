"""A page for each claim, and one for each section, an article through its claims. Nothing is typed in."""

import inspect
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from allora_analysis.claims.claim import VERDICTS
from allora_analysis.claims.ledger import Row
from allora_analysis.render import html, view
from allora_analysis.render.html import picture_of
from allora_analysis.render.view import BRACKETS, MEANINGS, View
from docs.site import drawn, explorables, ledger, source
from docs.site.prose import ROOT, SLUGS

NOT_MATHEMATICS = ("study", "statistics", "grid", "records", "monte_carlo", "finetune")
ARXIV, HOST = re.compile(r"arXiv:(\d{4}\.\d{5})"), re.compile(r"\bdocs(?:\.[a-z]+){2,}")
MOST = 3  # derivations on a page
NO_FORMULA = {
    "holds": "No corrected formula: it holds as printed. ",
    "refuted": "No corrected formula: none was found that keeps what the sentence claims. ",
}
LEDGER = "index.html#for-readers"  # how the ledger's command is used


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"formula": html.html, "size_text": view.size_text, "sources": _sources}
    return made


def _sources(words: Markup) -> Markup:
    """Where others lean on a sentence, a click away: an arXiv number, the address of a site."""
    linked = ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">\g<0></a>', str(words))
    return Markup(HOST.sub(r'<a href="https://\g<0>">\g<0></a>', linked))


def _filled(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


def card(one: View, root: str, statement: bool = True) -> str:
    """A claim in a box of HTML: verdict, id, answer, size.

    Args:
        one: the row.
        root: the way from the page to the site's root, "" or "../".
        statement: whether the printed sentence stands in it.
    """
    return str(_templates().get_template("macros.jinja").module.card(one, root, statement))


def pages(rows: Sequence[Row]) -> dict[str, str]:
    """A page for each claim: answer, printed sentence, size, picture, derivation, evidence, neighbors, code and tests.

    Args:
        rows: the ledger's rows.

    Returns:
        Markdown by the page's path.
    """
    known = {row.claim.id: view.view(row) for row in rows}
    return {ledger.claim_page(row.claim.id): _page(row, known) for row in rows}


def _page(row: Row, known: Mapping[str, View]) -> str:
    one = known[row.claim.id]
    explorable, picture, derivation = explorables.of_claim(one.id), _picture(one.id), _derivation(row)
    head = f"---\ntitle: {one.id}\ndescription: {json.dumps(one.answer, ensure_ascii=False)}\nhide: [toc]\n"
    text = _filled(
        "claim.jinja",
        one=one,
        known=known,
        section=SLUGS[one.part],
        said=_said(one.where),
        facts={label: words for label, words in one.told.items() if label != "Read as"},  # which stands above them
        explorable=explorable,
        picture=picture,
        drawn="" if explorable or picture else _drawn(one),
        tables=sorted(set(re.findall(r"Table (\d)", one.where))),
        derivation=derivation,
        underived="" if derivation else _underived(row, one),
        sides={} if derivation or _measured(row) else view.sides(row.claim),
        evidence=html.facts(one.evidence) if one.evidence else {},
        quantities=html.quantities(one.evidence) if one.evidence else (),
        compared=one.evidence is not None and html.compared(one.evidence),
        check=_check(one),
        functions={name: ".".join(name.split(".")[-2:]) for name in one.code},
        tests={path: source.page_of(path) for path in source.tests(row)},
        records=row.claim.reads,
        commands={f"python -m allora_analysis --only {one.id}": LEDGER, one.command: _page_of_command(row)},
    )
    return f"{head}search: {{boost: 2}}\n---\n\n{text}\n"


def _said(where: str) -> str:
    """Who says a row's sentence, and where; of one that is not in the paper, what there it is about."""
    who = view.said_by(where)
    if who == view.NOT_IN_THE_PAPER:
        return f"Not in the paper; about {where.removeprefix(f'{view.BEYOND}: ')}"
    return f"{who or 'The paper says'}, {'' if who else 'in '}{where}"


def _picture(identifier: str) -> ledger.Picture | None:
    name = picture_of(identifier)
    return ledger.picture(name) if name and (ledger.PICTURES / f"{name}.png").exists() else None


def _drawn(one: View) -> str:
    return (one.evidence and drawn.evidence(one.evidence)) or (one.size and drawn.size(one.size)) or ""


def _check(one: View) -> dict[str, Any]:
    path, _, name = one.check.partition(": ")
    return {"page": source.page_of(path), "line": view.line(one), "name": f"{Path(path).stem}.{name}"}


def _page_of_command(row: Row) -> str:
    """The page of the experiment or the study that the command runs, or the reference of its module."""
    if (path := source.experiment(row)) is not None:
        return source.page_of(path)
    module = row.claim.command.split()[2]
    name = module.removeprefix("allora_analysis.")
    if name in ledger.STUDIES:
        return f"studies/{name}.html"
    package = (ROOT / module.replace(".", "/")).is_dir()
    return f"api/{module.replace('.', '/')}{'/index' * package}.html"


def _derivation(row: Row) -> dict[str, str]:
    """The docstrings of the mathematics that a claim's check calls, to their arguments, by the function's name."""
    names = [name for name in view.called(row.claim) if not set(name.split(".")) & set(NOT_MATHEMATICS)]
    found = {name.removeprefix("allora_analysis."): _statement(name) for name in names}
    return dict(itertools.islice(((name, text) for name, text in found.items() if text), MOST))


def _measured(row: Row) -> bool:
    return row.claim.reads is not None or "claims.tables" in view.bare(row.claim.check).__module__


def _underived(row: Row, one: View) -> str:
    """Why a page has no derivation, and no corrected formula where it has none, from the row's own fields."""
    if row.claim.reads is not None:
        why = "it is measured on recorded runs, which stand below"
    elif _measured(row):
        why = "it is arithmetic on printed numbers"
    else:
        why = "the check computes each side from its definition"
    formula = NO_FORMULA.get(one.word, "") if one.corrected is None and one.condition is None else ""
    compared = (inspect.getdoc(view.bare(row.claim.check)) or "").partition("\n\n")[0]
    return f"No derivation: {why}. {formula}Compared: {compared}"


@cache
def _package() -> griffe.Module:
    return griffe.load("allora_analysis", search_paths=[str(ROOT)], docstring_parser="google")


def _statement(name: str) -> str:
    item = _package()[name.removeprefix("allora_analysis.")]
    sections = item.docstring.parse("google") if item.docstring else []
    return "\n\n".join(one.value for one in sections if one.kind.value == "text")


def section_pages(rows: Sequence[Row]) -> dict[str, str]:
    """A page for each part of the paper: what it says, sentence by sentence, each with what came out.

    Args:
        rows: the ledger's rows.

    Returns:
        Markdown by the page's path.
    """
    by_id = {row.claim.id: row for row in rows}
    made = {}
    for title, members in view.by_part(view.views(rows)).items():
        files = itertools.groupby(members, lambda one: view.bare(by_id[one.id].claim.check).__module__)
        chapters = [{"title": _title(module), "groups": _groups(list(some))} for module, some in files]
        counted = view.summary(members)
        text = _filled("section.jinja", chapters=chapters)
        head = f"---\ntitle: {json.dumps(title, ensure_ascii=False)}\ndescription: {json.dumps(counted)}\n---\n\n"
        made[f"sections/{SLUGS[title]}.md"] = f"{head}# {title}\n\n{counted}.\n\n{text}\n"
    return made


def _title(module: str) -> str:
    """What a file of claims is about, from its docstring's first paragraph."""
    return " ".join(sys.modules[module].__doc__.partition("\n\n")[0].split()).rstrip(".")


def _groups(members: Sequence[View]) -> list[dict[str, Any]]:
    """The rows by the sentence that they are about, each sentence with its explorable, which the page shows once."""
    groups: dict[str, list[View]] = {}
    for one in members:
        groups.setdefault(one.statement, []).append(one)
    made, shown = [], set()
    for statement, of in groups.items():
        fitting = [figure for one in of if (figure := explorables.of_claim(one.id)) and figure not in shown][:1]
        shown.update(fitting)
        who = view.said_by(of[0].where) or of[0].where
        said = f"{who[0].upper()}{who[1:]}:"
        made.append({"statement": statement, "said": said, "rows": of, "explorable": fitting[0] if fitting else ""})
    return made


def ledger_page(rows: Sequence[Row]) -> str:
    """The ledger in Markdown: a card for each claim, with filters by verdict, section, setting and words.

    Args:
        rows: the ledger's rows.
    """
    shown = view.views(rows)
    counted = Counter(one.word for one in shown)
    text = _filled(
        "ledger.jinja",
        parts=view.by_part(shown),
        slugs=SLUGS,
        counts={word: counted[word] for word in (*VERDICTS, "error") if counted[word]},
        meanings=MEANINGS,
        brackets=BRACKETS,
        total=len(shown),
    )
    head = "---\ntitle: The ledger\nhide: [toc]\nsearch: {exclude: true}\n---\n\n# The ledger\n\n"
    return f"{head}{view.summary(shown)}. [What rests on what](graph.md), drawn.\n\n{text}\n"
