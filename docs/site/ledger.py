"""The ledger's pages: every claim, and the map paper → module → test → figure → verdict. Nothing in them is typed."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Sequence
from functools import cache

from allora_analysis.claims import ledger
from allora_analysis.claims.claim import Claim
from allora_analysis.claims.ledger import Row
from allora_analysis.render import code, markdown, view
from docs.site.prose import ROOT, WIDE

PICTURES = ROOT / "docs"


PAGE = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("studies.md", "experiments.md"))
STUDIES = tuple(
    sorted(
        (path.parent.name for path in (ROOT / "allora_analysis").glob("*/study.py")),
        key=lambda name: PAGE.find(f"`allora_analysis.{name}`"),
    )
)
"""Every package with a study, in the order of the map in docs/studies.md."""


@cache
def rows() -> tuple[Row, ...]:
    """The ledger's rows, from one run of every check.

    Returns:
        The rows, in the paper's order.
    """
    return tuple(ledger.run(ledger.all_claims())[0])


def claim_page(identifier: str) -> str:
    """The page of a claim, from the site's root.

    Args:
        identifier: its id.

    Returns:
        The path.
    """
    return f"claims/{identifier}.md"


def page(of: Sequence[Row]) -> str:
    """The ledger: the verdicts counted, and the answers part by part, each leading to its claim's page.

    Args:
        of: the rows.

    Returns:
        Markdown.
    """
    shown = view.views(of)
    about = (
        f"{view.summary(shown)}. [The same with filters and evidence](report.html), in one page; "
        "[what rests on what](graph.md)."
    )
    parts = [f"## {title}\n\n{markdown.table(some, claim_page)}" for title, some in view.by_part(shown).items()]
    return "\n\n".join([f"{WIDE}# The ledger", about, markdown.counts(shown), *parts]) + "\n"


def claim_pages(of: Sequence[Row]) -> dict[str, str]:
    """A page for each claim: answer, printed sentence, size, condition, what would change it, code, tests, picture.

    Args:
        of: the rows.

    Returns:
        Markdown by the page's path in the site.
    """
    found = {}
    for row, one in zip(of, view.views(of), strict=True):
        text = markdown.in_full(one, lambda path: None, lambda other: f"{other}.md", level=1)
        functions = ", ".join(f"[`{_short(name)}`][{name}]" for name in code.functions(row.claim))
        shown = "\n\n".join(f"![{name}](../{name}.png)" for name in figures(row.claim) if _drawn_as_picture(name))
        head = f"---\ntitle: {one.id}\ndescription: {json.dumps(one.answer, ensure_ascii=False)}\n---\n\n"
        parts = [text, f"**Functions:** {functions}" if functions else "", shown, "[All answers](../ledger.md)"]
        found[claim_page(one.id)] = head + "\n\n".join(filter(None, parts)) + "\n"
    return found


def graph(of: Sequence[Row]) -> str:
    """What rests on what: an arrow from each claim to those that rest on it, as an inline SVG whose boxes are links.

    Args:
        of: the rows.

    Returns:
        A page in Markdown.
    """
    known = {row.claim.id: view.view(row) for row in of}
    edges = [(one, row.claim.id) for row in of for one in row.claim.depends_on if one in known]
    linked = [name for name in known if any(name in edge for edge in edges)]
    column = dict.fromkeys(linked, 0)
    for _ in linked:  # the longest way to each
        column |= {end: max(column[end], column[start] + 1) for start, end in edges if column[end] <= column[start]}
    rank = {name: [other for other in linked if column[other] == column[name]].index(name) for name in linked}
    place = {name: (20 + 260 * column[name], 20 + 40 * rank[name]) for name in linked}
    lines = [
        f'<path d="M {place[start][0] + 210} {place[start][1] + 14} L {place[end][0]} {place[end][1] + 14}"/>'
        for start, end in edges
    ]
    boxes = [
        f'<a href="claims/{name}.html"><title>{html.escape(known[name].answer)}</title>'
        f'<rect class="{known[name].word}" x="{x}" y="{y}" width="210" height="28" rx="6"/>'
        f'<text x="{x + 8}" y="{y + 19}">{name}</text></a>'
        for name, (x, y) in place.items()
    ]
    width = max((x for x, _ in place.values()), default=0) + 230
    height = max((y for _, y in place.values()), default=0) + 48
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="claims that rest on others">'
    drawn = f'<div class="graph">{head}{"".join(lines)}{"".join(boxes)}</svg></div>'
    text = "Each box is a claim and leads to its page; a line leads from a claim to those on its right that rest on it."
    return f"{WIDE}# What rests on what\n\n{text}\n\n{drawn}\n"


def map_page(of: Sequence[Row]) -> str:
    """The map: for each claim where it stands, what computes it, what tests it, what shows it, its verdict.

    Args:
        of: the ledger's rows.

    Returns:
        Markdown.
    """
    about = (
        "Which code, test and picture answer which statement of the paper. The functions are read from each claim's "
        "check, the pictures from what they import; the statements themselves are in [the ledger](ledger.md)."
    )
    parts = [
        f"## {title}\n\n| paper | claim | functions behind it | tests | figure | verdict |\n|---|---|---|---|---|---|\n"
        + "\n".join(map(_line, members))
        for title, members in by_part(of).items()
    ]
    return "\n\n".join([f"{WIDE}# From the paper to the code", about, *parts]) + "\n"


def by_part(of: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the part of the paper, in the paper's order.

    Args:
        of: the rows.

    Returns:
        Those of each part.
    """
    known = {row.claim.id: row for row in of}
    return {title: [known[one.id] for one in members] for title, members in view.by_part(view.views(of)).items()}


def packages(claim: Claim) -> set[str]:
    """The parts of the package that a claim's check calls: "tikhonov", "lora", …

    Args:
        claim: the claim.

    Returns:
        Their names.
    """
    return {name.split(".")[1] for name in code.modules(claim)} - {"claims", "statistics"}


def figures(claim: Claim) -> list[str]:
    """The pictures and tables that belong to a claim: those of the paper that it names, else those of its packages.

    Args:
        claim: the claim.

    Returns:
        Names of `paper_figures`; empty where it has none.
    """
    found = re.findall(r"(Figure|Table) (\d)", f"{claim.where} {claim.statement}")
    own = [f"{kind.lower()}_{number}" for kind, number in found]
    drawn = [name for name, shown in _drawn().items() if shown & packages(claim)]
    return [name for name in dict.fromkeys(own or drawn) if _shown(name)]


def pictures(package: str) -> list[str]:
    """The committed pictures that draw on a part of the package.

    Args:
        package: "ripple", "lora", …

    Returns:
        Names of `paper_figures`.
    """
    return [name for name, drawn in _drawn().items() if package in drawn and (PICTURES / f"{name}.png").exists()]


@cache
def _drawn() -> dict[str, set[str]]:
    # The packages that each file of `paper_figures` imports.
    from paper_figures import NAMES

    files = {name: ROOT / "paper_figures" / f"{name}.py" for name in NAMES}
    return {name: _imports(path.read_text(encoding="utf-8")) for name, path in files.items() if path.exists()}


def _imports(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("allora_analysis"):
            words = node.module.split(".")
            names |= {words[1]} if len(words) > 1 else {alias.name for alias in node.names}
    return names & {"adaptors", "adaptive", "lora", *STUDIES}


def _drawn_as_picture(name: str) -> bool:
    return (PICTURES / f"{name}.png").exists()


def _shown(name: str) -> bool:
    return any((PICTURES / f"{name}.{ending}").exists() for ending in ("png", "md"))


def _line(row: Row) -> str:
    claim = row.claim
    functions = code.functions(claim) or code.modules(claim)
    links = "<br>".join(f"[`{_short(name)}`][{name}]" for name in functions)
    tests = "<br>".join(f"`{word.strip().removeprefix('tests/')}`" for word in claim.test.split(", "))
    shown = "<br>".join(f"[{name}]({name}.{'md' if name.startswith('table') else 'png'})" for name in figures(claim))
    where = re.sub(r"[|*]|(?<!\w)_", r"\\\g<0>", claim.where)
    return (
        f"| {where} | [`{claim.id}`](claims/{claim.id}.md) | {links} | {tests} | {shown} | **{view.view(row).word}** |"
    )


def _short(name: str) -> str:
    # "tikhonov.loss.expected_loss" as a user writes it: tikhonov.expected_loss.
    words = name.removeprefix(code.PACKAGE).removeprefix("claims.").split(".")
    return ".".join(dict.fromkeys((words[0], words[-1])))


def summary(of: Sequence[Row]) -> str:
    """The verdicts counted.

    Args:
        of: the rows.

    Returns:
        One sentence.
    """
    return view.summary(view.views(of)) + "."
