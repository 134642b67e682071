"""The ledger's pages: every claim, and the map paper → module → test → figure → verdict. Nothing in them is typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache

from allora_analysis.claims import ledger
from allora_analysis.claims.claim import Claim
from allora_analysis.claims.ledger import Row
from allora_analysis.render import code, markdown, view
from docs.site.prose import ROOT, WIDE

PICTURES = ROOT / "docs"


README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = tuple(
    sorted(
        (path.parent.name for path in (ROOT / "allora_analysis").glob("*/study.py")),
        key=lambda name: README.find(f"`allora_analysis.{name}`"),
    )
)
"""Every package with a study, in the order of the README's map."""


@cache
def rows() -> tuple[Row, ...]:
    """The ledger's rows, from one run of every check.

    Returns:
        The rows, in the paper's order.
    """
    return tuple(ledger.run(ledger.all_claims())[0])


def page(of: Sequence[Row]) -> str:
    """The ledger as `docs/ledger.md` has it, with a link to the report.

    Args:
        of: the rows.

    Returns:
        Markdown.
    """
    link = "[The same with evidence, pictures and filters](report.html), in one page."
    text = markdown.page(view.views(of), target=lambda path: None, home="index.md")
    return WIDE + text.replace("\n\n", f"\n\n{link} ", 1)


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


def _shown(name: str) -> bool:
    return any((PICTURES / f"{name}.{ending}").exists() for ending in ("png", "md"))


def _line(row: Row) -> str:
    claim = row.claim
    functions = code.functions(claim) or code.modules(claim)
    links = "<br>".join(f"[`{_short(name)}`][{name}]" for name in functions)
    tests = "<br>".join(f"`{word.strip().removeprefix('tests/')}`" for word in claim.test.split(", "))
    shown = "<br>".join(f"[{name}]({name}.{'md' if name.startswith('table') else 'png'})" for name in figures(claim))
    where = re.sub(r"[|*]|(?<!\w)_", r"\\\g<0>", claim.where)
    return f"| {where} | `{claim.id}` | {links} | {tests} | {shown} | **{view.view(row).word}** |"


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
