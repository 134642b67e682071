"""The ledger's rows for the site, and what belongs to a row: its page, its study, its figures."""

import ast
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from allora_analysis import notebook
from allora_analysis.claims import ledger
from allora_analysis.claims.claim import Claim
from allora_analysis.claims.ledger import Row
from allora_analysis.render import view
from docs.site.prose import ROOT

PICTURES = ROOT / "docs"
MADE = ROOT / "build" / "ledger.json"


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
    """The ledger's rows, from one run of every check: that of `make verify`, if a run would give the same now.

    Returns:
        The rows, in the paper's order.
    """
    claims = ledger.all_claims()
    made = MADE.is_file() and notebook.of_today(MADE, ROOT)
    return tuple(notebook.read(MADE, claims) if made else ledger.run(claims)[0])


def claim_page(identifier: str) -> str:
    """The page of a claim, from the site's root.

    Args:
        identifier: its id.
    """
    return f"claims/{identifier}.md"


def packages(claim: Claim) -> set[str]:
    """The parts of the package that a claim's check calls: "tikhonov", "lora", …

    Args:
        claim: the claim.
    """
    return {name.split(".")[1] for name in view.modules_called(claim)} - {"claims", "statistics"}


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


class Picture(NamedTuple):
    """A committed picture, and what it shows in words, as its file says."""

    name: str
    description: str


def picture(name: str) -> Picture:
    """A committed picture.

    Args:
        name: its name, of `paper_figures`.
    """
    from PIL import Image

    with Image.open(PICTURES / f"{name}.png") as drawn:
        return Picture(name, str(drawn.info.get("Description", name)).removeprefix(f"{name}: "))


def summary(of: Sequence[Row]) -> str:
    """The verdicts counted.

    Args:
        of: the rows.
    """
    return view.summary(view.views(of)) + "."
