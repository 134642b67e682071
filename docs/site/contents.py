"""All pages of the site, and the way through them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from allora_analysis.render import html
from docs.site import ledger, notebooks, prose, reference, studies
from docs.site.prose import WIDE


@dataclass
class Site:
    """Files by their path in the site: Markdown, bytes, or a file that is there; and MkDocs' navigation."""

    files: dict[str, str | bytes | Path] = field(default_factory=dict)
    navigation: list = field(default_factory=list)


def site() -> Site:
    """Every page: the README, the ledger and its map, studies, notebooks, the reference, how to contribute.

    Returns:
        The site.
    """
    made, rows = Site(), ledger.rows()
    made.files |= {path.name: path for path in ledger.PICTURES.glob("*.png")}
    made.files |= {path.name: WIDE + path.read_text(encoding="utf-8") for path in ledger.PICTURES.glob("table_*.md")}
    made.files |= {page: prose.page(name) for name, page in prose.PAGES.items()}
    made.files["index.md"] = f"---\nhide: [navigation]\n---\n\n{made.files['index.md']}"
    made.files |= ledger.claim_pages(rows) | {"graph.md": ledger.graph(rows)}
    made.files |= {"ledger.md": ledger.page(rows), "map.md": ledger.map_page(rows), "report.html": html.page(rows)}
    made.navigation += [
        {"Home": "index.md"},
        {"Train": ["training.md", {"Ten questions": "doctor.md"}]},
        {
            "The paper": [
                {"The ledger": "ledger.md"},
                {"What rests on what": "graph.md"},
                {"From the paper to the code": "map.md"},
                *_tables(made),
                {"Claims": [{row.claim.id: ledger.claim_page(row.claim.id)} for row in rows]},
            ]
        },
        {"Studies": ["studies.md", *(_study(made, name, rows) for name in ledger.STUDIES)]},
        {"Experiments": "experiments.md"},
    ]
    if paths := notebooks.found():
        lessons = [{"What LoRA is": "lora.md"}, *(_notebook(made, path) for path in paths), {"Seminar": "seminar.md"}]
        made.navigation.append({"Notebooks": lessons})
    packages = [reference.tree(name) for name in reference.PACKAGES]
    for module in (one for package in packages for one in package.all()):
        made.files[module.page] = reference.page(module)
    made.navigation.append({"Reference": ["library.md", *(package.navigation() for package in packages)]})
    made.navigation.append({"Contribute": ["contributing.md", {"Changes": "changelog.md"}]})
    return made


def _tables(made: Site) -> list[dict[str, str]]:
    pages = sorted(page for page in made.files if page.startswith("table_") and page.endswith(".md"))
    return [{page.removesuffix(".md").replace("_", " ").capitalize(): page} for page in pages]


def _study(made: Site, name: str, rows: tuple) -> dict[str, str]:
    text, pictures = studies.page(name, rows)
    made.files[f"studies/{name}.md"] = text
    made.files |= {f"studies/{picture}": content for picture, content in pictures.items()}
    return {name: f"studies/{name}.md"}


def _notebook(made: Site, path: Path) -> dict[str, str]:
    text, pictures = notebooks.page(path)
    made.files[f"notebooks/{path.stem}.md"] = text
    made.files |= {f"notebooks/{picture}": content for picture, content in pictures.items()}
    return {notebooks.title(text) or path.stem: f"notebooks/{path.stem}.md"}
