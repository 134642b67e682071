"""The notebooks as pages, with their committed outputs; none of them is run here."""

from __future__ import annotations

import re
from pathlib import Path

from docs.site.prose import ROOT

FOLDER = ROOT / "notebooks"


def found() -> list[Path]:
    """The notebooks that are there.

    Returns:
        Their paths, sorted; empty without the folder.
    """
    return sorted(FOLDER.glob("*.ipynb"))


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, with its pictures.

    Args:
        path: the notebook.

    Returns:
        The page, and pictures by the name that the page has for them.
    """
    from nbconvert import MarkdownExporter

    folder = f"{path.stem}_files"
    resources = {"unique_key": path.stem, "output_files_dir": folder}
    text, resources = MarkdownExporter().from_filename(str(path), resources=resources)
    return _linked(text), dict(resources.get("outputs", {}))


def _linked(text: str) -> str:
    text = re.sub(r"\]\((?:\./)?([\w.-]+)\.ipynb(#[^)]*)?\)", r"](\1.md\2)", text)
    return re.sub(r"\]\(\.\./(?:docs/)?", "](../", text).replace("](../README.md", "](../index.md")


def title(text: str) -> str:
    """A page's first heading.

    Args:
        text: Markdown.

    Returns:
        The heading; empty without one.
    """
    match = re.search(r"^# (.+)$", text, re.MULTILINE)
    return match[1] if match else ""
