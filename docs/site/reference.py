"""A page for each module, which mkdocstrings fills from the docstrings without importing anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import griffe

from docs.site.prose import ROOT

PACKAGES = ("allora_analysis", "experiments", "paper_figures")


@dataclass
class Module:
    """A module: its full name, its page, and the modules inside it."""

    name: str
    page: str
    inside: list[Module] = field(default_factory=list)

    def navigation(self) -> dict:
        """Its entry in the site's navigation.

        Returns:
            {title: page}, or {title: [page, entries of the modules inside]}.
        """
        title = self.name.rpartition(".")[2]
        return {title: [self.page, *(module.navigation() for module in self.inside)] if self.inside else self.page}

    def all(self) -> list[Module]:
        """This module and all inside it.

        Returns:
            The modules, each before those inside it.
        """
        return [self, *(one for module in self.inside for one in module.all())]


def tree(package: str, root: Path = ROOT) -> Module:
    """A package with all its modules but `__main__`, whose command its study's page shows.

    Args:
        package: the package's full name.
        root: the folder it is in.
    """
    folder = root / Path(*package.split("."))
    path = "api/" + package.replace(".", "/")
    files = [file.stem for file in folder.glob("*.py") if file.stem not in ("__init__", "__main__")]
    packages = [file.parent.name for file in folder.glob("*/__init__.py")]
    inside = [
        tree(f"{package}.{name}", root) if name in packages else Module(f"{package}.{name}", f"{path}/{name}.md")
        for name in sorted({*files, *packages})
    ]
    return Module(package, f"{path}/index.md" if inside else f"{path}.md", inside)


def page(module: Module) -> str:
    """The page of a module: what it documents itself, and for a package what it hands on from its modules.

    Args:
        module: the module.
    """
    package, _, inside = module.name.partition(".")
    found = _loaded(package)[inside] if inside else _loaded(package)
    handed_on = {name: found[name] for name in found.exports or () if found[name].is_alias and found[name].docstring}
    own = {name: item for name, item in found.members.items() if not (item.is_alias or item.is_module)}
    members = [name for name, item in own.items() if not name.startswith("_") and item.docstring]
    options = f"heading_level: 1\n      show_root_heading: true\n      members: {members if members else 'false'}"
    text = f"---\ntitle: {module.name}\n---\n\n::: {module.name}\n    options:\n      {options}\n"
    if handed_on:
        lines = [f"| [`{name}`][{item.final_target.path}] | {_first(item)} |" for name, item in handed_on.items()]
        text += "\n".join([f"\n## In `{module.name}`\n", "| name | what it is |", "|---|---|", *lines]) + "\n"
    return text


@cache
def _loaded(package: str) -> griffe.Module:
    return griffe.load(package, search_paths=[str(ROOT)], docstring_parser="google")


def _first(item: griffe.Alias) -> str:
    # What a docstring opens with, to its first empty line.
    text = item.final_target.docstring.value.partition("\n\n")[0] if item.final_target.docstring else ""
    return " ".join(text.split()).replace("|", "\\|")
