"""README, CONTRIBUTING, CHANGELOG and the pages in docs/ as pages of the site, their links led to its pages."""

import re
from functools import cache
from pathlib import Path

from allora_analysis.claims.ledger import all_claims
from allora_analysis.render import markdown, view

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/studies.md": "studies.md",
    "docs/training.md": "training.md",
    "docs/doctor.md": "doctor.md",
    "docs/experiments.md": "experiments.md",
    "docs/library.md": "library.md",
    "docs/hardening.md": "hardening.md",
    "docs/lora.md": "lora.md",
    "docs/seminar.md": "seminar.md",
    "docs/symbols.md": "symbols.md",
}
WIDE = "---\nhide: [toc]\n---\n\n"
"""At the top of a page whose tables need its whole width."""
SLUGS = {title: key for key, title in view.PARTS.items()} | {view.REPORTED: "tables"}
"""The page of each part of the paper."""
LINK = re.compile(r"\]\(([^)\s]+)\)")


def page(name: str) -> str:
    """A file of the repository's root as a page, in Markdown.

    Args:
        name: one of `PAGES`.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    return linked(text if "/" not in name else LINK.sub(lambda match: f"]({_of_the_root(match[1])})", text))


def _of_the_root(link: str) -> str:
    # A link of a page in docs/, as a page in the root would have it.
    return link if re.match(r"(https?:|#)", link) else link.removeprefix("../") if "../" in link else f"docs/{link}"


def linked(text: str) -> str:
    """Links to files of the repository, led to the pages and pictures that the site makes of them.

    Args:
        text: Markdown of a file in the repository's root.

    Returns:
        Markdown of a page in the site's root.
    """
    return LINK.sub(lambda match: f"]({target(match[1])})", text)


@cache
def _claims() -> dict[str, str]:
    # The claim that each of the ledger's headings in the repository is about: on the site it has a page.
    return {markdown.anchor(claim.id): claim.id for claim in all_claims()}


@cache
def _parts() -> dict[str, str]:
    # The page of the part that each other heading there begins.
    return {markdown.anchor(title).replace(" ", "-"): slug for title, slug in SLUGS.items()}


def target(link: str) -> str:
    """Where a link of the repository's root leads in the site.

    Args:
        link: a path, with or without an anchor; anything else stays as it is.
    """
    path, mark, anchor = link.partition("#")
    if path == "docs/ledger.md" and anchor in _claims():
        return f"claims/{_claims()[anchor]}.md"
    if path == "docs/ledger.md" and anchor in _parts():
        return f"sections/{_parts()[anchor]}.md"
    path = PAGES.get(path, path).removeprefix("docs/")
    return re.sub(r"\.ipynb$", ".md", path) + mark + anchor
