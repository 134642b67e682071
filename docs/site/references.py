"""A Griffe extension: a name in backticks in a docstring links to what it names, where the package has it."""

import re

import griffe

CODE = re.compile(r"(?<![`\[])`([A-Za-z_][\w.]*)`(?![`\]])")
SKIP = re.compile(r"^\s*>>>|^```")


class CrossReferences(griffe.Extension):
    """Turns `name` into [`name`][full.name] in every docstring of a package, once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        """Rewrite the docstrings of a loaded package.

        Args:
            pkg: the package.
            kwargs: Griffe's own.
        """
        for item in _objects(pkg):
            if item.docstring is not None:
                item.docstring.value = linked(item.docstring.value, item)


def linked(text: str, item: griffe.Object) -> str:
    """A docstring with its names as links.

    Args:
        text: the docstring.
        item: what it documents.
    """

    def link(match: re.Match[str]) -> str:
        target = _target(match[1], item)
        return match[0] if target is None else f"[`{match[1]}`][{target}]"

    return "\n".join(line if SKIP.match(line) else CODE.sub(link, line) for line in text.split("\n"))


def _target(name: str, item: griffe.Object) -> str | None:
    parameters = getattr(item, "parameters", ())
    if name.split(".")[0] in {parameter.name for parameter in parameters}:
        return None
    for candidate in (name, name.removesuffix(".py")):
        try:
            found = item.modules_collection[_resolved(candidate, item)]
            found = found.final_target if found.is_alias else found
        except (KeyError, ValueError, griffe.GriffeError):
            continue
        public = not any(part.startswith("_") for part in found.path.split("."))
        if found.path != item.path and public and (found.docstring is not None or found.is_module):
            return found.path
    return None


def _resolved(name: str, item: griffe.Object) -> str:
    first, _, rest = name.partition(".")
    full = item.resolve(first)
    return f"{full}.{rest}" if rest else full


def _objects(item: griffe.Object):
    yield item
    for member in item.members.values():
        if not member.is_alias:
            yield from _objects(member)
