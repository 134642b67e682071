"""Which functions of the package a claim's check calls: the way from a statement of the paper to its code.

Read from the check's source, not from a list that someone keeps: its names are looked up, and functions of the claims'
own files are followed. What is only called through an object (a method of a result) is not seen.
Checked by `tests/test_render_code.py`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from allora_analysis.claims.claim import Claim

PACKAGE = "allora_analysis."
SHARED = ("allora_analysis.claims", "allora_analysis.study", "allora_analysis.validation", "allora_analysis.cli")
"""What every check may use, and what says nothing about the mathematics behind it."""
AUDIT = tuple(f"allora_analysis.claims.tables.{name}" for name in ("reported", "accuracies", "contrasts"))
"""The claims' own code that is the mathematics: the audit of the paper's tables."""


@functools.cache
def functions(claim: Claim) -> tuple[str, ...]:
    """The public functions and classes of the package that a claim's check names, itself or through the claims' files.

    Their full names as defined ("allora_analysis.tikhonov.loss.expected_loss"), sorted; empty where the check needs
    none.
    """
    found: set[str] = set()
    _follow(claim.check, found, {})
    return tuple(sorted(found))


def sides(claim: Claim) -> dict[str, str]:
    """What a claim's check computes in its own file: the public functions' docstrings, by name, in the file's order."""
    seen: dict[int, Any] = {}
    _follow(claim.check, set(), seen)
    here = bare(claim.check).__module__
    own = [item for item in seen.values() if inspect.isfunction(item) and item.__module__ == here]
    own.sort(key=lambda item: item.__code__.co_firstlineno)
    told = {item.__name__: inspect.cleandoc(item.__doc__ or "") for item in own if item is not bare(claim.check)}
    return {name: text for name, text in told.items() if text and not name.startswith("_")}


def modules(claim: Claim) -> tuple[str, ...]:
    """The modules that hold `functions`; the claims' own file where the check needs no other."""
    names = {".".join(name.split(".")[:-1]) for name in functions(claim)}
    return tuple(sorted(names)) or (bare(claim.check).__module__,)


def bare(check: Any) -> Any:
    """The function that a check is, without what wraps it."""
    return inspect.unwrap(check.func if isinstance(check, functools.partial) else check)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in packages)


def _follow(item: Any, found: set[str], seen: dict[int, Any]) -> None:
    item = bare(item)
    if id(item) in seen or not (inspect.isfunction(item) or inspect.isclass(item)):
        return
    seen[id(item)] = item
    module, name = item.__module__, item.__qualname__
    public = not name.startswith("_") and "<" not in name
    if module.startswith(PACKAGE) and public and (not _within(module, SHARED) or _within(module, AUDIT)):
        found.add(f"{module}.{name}")
    elif _within(module, SHARED[:1]) and inspect.isfunction(item):
        for other in _named(item):
            _follow(other, found, seen)


def _named(function: Callable[..., Any]) -> Iterator[Any]:
    node = _definition(function)
    held = inspect.getclosurevars(function).nonlocals
    scope = {**function.__globals__, **held, **_imported(node)}
    yield from held.values()
    for part in _evaluated(node):
        item = _resolve(part, scope)
        if isinstance(item, Mapping):
            yield from item.values()
        elif isinstance(item, list | tuple):
            yield from item
        else:
            yield item


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    # A node and all below it but annotations: what a value is said to be is not what is called.
    yield node
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _evaluated(child)


def _definition(function: Callable[..., Any]) -> ast.AST:
    code = function.__code__
    return _definitions(code.co_filename)[code.co_firstlineno]


@functools.cache
def _definitions(path: str) -> dict[int, ast.AST]:
    # The functions of a file by their first line, a decorator's where there is one.
    found: dict[int, ast.AST] = {}
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            above = [item.lineno for item in getattr(node, "decorator_list", [])]
            found.setdefault(min([node.lineno, *above]), node)
    return found


def _imported(node: ast.AST) -> dict[str, Any]:
    # What a function imports itself, so that the ledger starts without it (torch's own part of the package).
    names = {}
    for part in ast.walk(node):
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith(PACKAGE.removesuffix(".")):
            package = importlib.import_module(part.module)
            for alias in part.names:
                names[alias.asname or alias.name] = _attribute(package, alias.name)
    return names


def _attribute(package: ModuleType, name: str) -> Any:
    item = getattr(package, name, None)
    return importlib.import_module(f"{package.__name__}.{name}") if item is None else item


def _resolve(node: ast.AST, scope: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        holder = _resolve(node.value, scope)
        return getattr(holder, node.attr, None) if isinstance(holder, ModuleType) else None
    return None
