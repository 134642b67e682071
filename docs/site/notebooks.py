"""The notebooks as pages, with their committed outputs; none of them is run here."""

import re
from pathlib import Path

from docs.site import explorables
from docs.site.prose import ROOT

FOLDER = ROOT / "notebooks"
SECTIONS = {"1": "3.1", "2": "3.2", "3": "3.3", "4": "4", "5": "tables"}
EXPLORABLES = {"1": ("ridge", "pays"), "2": ("hessian",), "3": ("ripple",), "4": ("leaving",)}
"""What moves on the site, of what a notebook is about."""


def found() -> list[Path]:
    """The notebooks that are there.

    Returns:
        Their paths, sorted; empty without the folder.
    """
    return sorted(FOLDER.glob("*.ipynb"))


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, with its pictures and itself to download.

    Args:
        path: the notebook.

    Returns:
        The page, and files by the name that the page has for them.
    """
    import nbformat
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(path, as_version=4)
    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    text = _described(text.replace("<details>", '<details markdown="1">'))
    head, mark, rest = _linked(text).partition("\n\n")
    files = dict(resources.get("outputs", {})) | {path.name: path.read_bytes()}
    return f"---\nsearch: {{boost: 3}}\n---\n\n{head}\n\n{_ways(path, 'slider(' in text)}{mark}{rest}", files


def _ways(path: Path, still: bool) -> str:
    number = path.stem.partition("_")[0]
    ways = [f"[Download the notebook]({path.name}){{download}}"]
    if number in SECTIONS:
        ways.append(f"[its claims, sentence by sentence](../sections/{SECTIONS[number]}.md)")
    for name in EXPLORABLES.get(number, ()):
        ways.append(f"[{explorables.EXPLORABLES[name].title}, with sliders](../explore/{name}.md)")
    note = " Its own sliders stand still on this page." if still else ""
    return " · ".join(ways) + f".{note}\n"


def _described(text: str) -> str:
    # A picture is told by the heading that it stands under, and its number there.
    heading, count, lines = "", 0, []
    for line in text.split("\n"):
        if match := re.match(r"#+ (.+)", line):
            heading, count = re.sub(r"[$`*\\]", "", match[1]), 0
        elif line.startswith("![png]("):
            count += 1
            line = line.replace("![png]", f"![{heading}: figure {count}]", 1)
        lines.append(line)
    return "\n".join(lines)


def _linked(text: str) -> str:
    text = re.sub(r"\]\((?:\./)?([\w.-]+)\.ipynb(#[^)]*)?\)", r"](\1.md\2)", text)
    return re.sub(r"\]\(\.\./(?:docs/)?", "](../", text).replace("](../README.md", "](../index.md")


def title(text: str) -> str:
    """A page's first heading; empty without one.

    Args:
        text: Markdown.
    """
    match = re.search(r"^# (.+)$", text, re.MULTILINE)
    return match[1] if match else ""
