"""The checks, tests and experiments that claims name, as pages with numbered lines: a click from a verdict."""

from collections.abc import Iterable

from allora_analysis.claims.ledger import Row
from allora_analysis.render import view
from docs.site.prose import ROOT


def page_of(path: str) -> str:
    """The page of a file of the repository.

    Args:
        path: "tests/test_ripple.py".

    Returns:
        Its HTML page, from the site's root.
    """
    return f"source/{path.removesuffix('.py')}.html"


def tests(row: Row) -> list[str]:
    """The files with the tests of a claim's mathematics."""
    return row.claim.test.split(", ")


def experiment(row: Row) -> str | None:
    """The file that a claim's command runs, if it is one of `experiments`."""
    words = row.claim.command.split()
    name = words[2] if words[:2] == ["python", "-m"] else ""
    return f"{name.replace('.', '/')}.py" if name.startswith("experiments.") else None


def pages(rows: Iterable[Row]) -> dict[str, str]:
    """A page for each file that a claim names.

    Args:
        rows: the ledger's rows.

    Returns:
        Markdown by the page's path.
    """
    paths = {
        path for row in rows for path in (*tests(row), experiment(row), view.view(row).check.partition(":")[0]) if path
    }
    found = sorted(path for path in paths if (ROOT / path).is_file())
    return {page_of(path).replace(".html", ".md"): _page(path) for path in found}


def _page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    head = f"---\ntitle: {path}\ndescription: The source of {path}.\nhide: [toc]\nsearch: {{exclude: true}}\n---\n\n"
    return f'{head}# `{path}`\n\n~~~~~~ {{.python linenums="1"}}\n{text}\n~~~~~~\n'
