"""All pages of the site, and the way through them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from allora_analysis.claims.ledger import Row
from allora_analysis.render import view
from docs.site import article, charts, claims, explorables, graph, ledger, notebooks, prose, records, reference, source
from docs.site import studies as study_pages
from docs.site.prose import SLUGS, WIDE


@dataclass
class Site:
    """Files by their path in the site: Markdown, bytes, or a file that is there; and MkDocs' navigation."""

    files: dict[str, str | bytes | Path] = field(default_factory=dict)
    navigation: list = field(default_factory=list)


def site() -> Site:
    """Every page: the README, the article, the ledger, sections and claims, explorables, notebooks, reference."""
    rows = ledger.rows()
    made = Site(_files(rows))
    paper = [{"The ledger": "ledger.md"}, {"What rests on what": "graph.md"}, {"Symbols": "symbols.md"}]
    explored = [{one.title: f"explore/{name}.md"} for name, one in explorables.EXPLORABLES.items()]
    made.navigation = [
        {"Home": "index.md"},
        {"Start here": "few_steps.md"},
        {"The paper": [*paper, *_sections(rows), *_tables(made)]},
        {"Explore": ["explore/index.md", *explored]},
        {
            "Notebooks": [
                {"What LoRA is": "lora.md"},
                *(_notebook(made, path) for path in notebooks.found()),
                {"Seminar": "seminar.md"},
            ]
        },
        {
            "Use": [
                {"Train with it": "training.md"},
                {"Twelve questions": "doctor.md"},
                _studies(made, rows),
                {"Experiments": "experiments.md"},
                "records.md",
                {"What was tried against it": "hardening.md"},
            ]
        },
    ]
    packages = [reference.tree(name) for name in reference.PACKAGES]
    for module in (one for package in packages for one in package.all()):
        made.files[module.page] = reference.page(module)
    made.navigation.append({"Reference": ["library.md", *(package.navigation() for package in packages)]})
    made.navigation.append({"Contribute": ["contributing.md", {"Changes": "changelog.md"}]})
    return made


def _files(rows: Sequence[Row]) -> dict[str, str | bytes | Path]:
    # Those that the navigation does not make on its way.
    made = {path.name: path for path in ledger.PICTURES.glob("*.png")}
    made |= {path.name: WIDE + path.read_text(encoding="utf-8") for path in ledger.PICTURES.glob("table_*.md")}
    made |= {page: prose.page(name) for name, page in prose.PAGES.items()}
    made["doctor.md"] = WIDE + made["doctor.md"]
    made["index.md"] = article.announced(made["index.md"])
    made |= {"few_steps.md": article.page(rows), "ledger.md": claims.ledger_page(rows)}
    made |= {"graph.md": graph.page(rows), "records.md": records.page(rows)}
    made |= claims.pages(rows) | claims.section_pages(rows) | source.pages(rows)
    return made | explorables.pages() | charts.files()


def _sections(rows: Sequence[Row]) -> list[dict]:
    parts = view.by_part(view.views(rows))
    pages = {title: [{one.id: ledger.claim_page(one.id)} for one in members] for title, members in parts.items()}
    return [{title: [f"sections/{SLUGS[title]}.md", *of]} for title, of in pages.items()]


def _tables(made: Site) -> list[dict[str, str]]:
    pages = sorted(page for page in made.files if page.startswith("table_") and page.endswith(".md"))
    return [{page.removesuffix(".md").replace("_", " ").capitalize(): page} for page in pages]


def _studies(made: Site, rows: Sequence[Row]) -> dict[str, list]:
    pages: list[str | dict[str, str]] = ["studies.md"]
    for name in ledger.STUDIES:
        text, pictures = study_pages.page(name, rows)
        made.files[f"studies/{name}.md"] = text
        made.files |= {f"studies/{picture}": content for picture, content in pictures.items()}
        pages.append({name: f"studies/{name}.md"})
    return {"Studies": pages}


def _notebook(made: Site, path: Path) -> dict[str, str]:
    text, files = notebooks.page(path)
    made.files[f"notebooks/{path.stem}.md"] = text
    made.files |= {f"notebooks/{name}": content for name, content in files.items()}
    return {notebooks.title(text) or path.stem: f"notebooks/{path.stem}.md"}
