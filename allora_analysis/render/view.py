"""A row of the ledger as a reader sees it, the answer first: what every writer writes; and which code its check calls.

The way from a statement of the paper to its code is read from the check's source, not from a list that someone keeps:
its names are looked up, and functions of the claims' own files are followed. What is only called through an object (a
method of a result) is not seen.

Checked by `tests/test_ledger.py`, `tests/test_render_code.py` and `tests/test_render_view.py`.
"""

import ast
import functools
import importlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from allora_analysis.claims import ledger
from allora_analysis.claims.cases import GENERIC
from allora_analysis.claims.claim import AT_PAPER, USUAL, VERDICTS, Claim, Evidence, Finding, Reliance, Size, spaced
from allora_analysis.claims.ledger import Row
from allora_analysis.render.size import size_text
from allora_analysis.study import environment, plain

STANDS = ("holds", "holds_corrected", "conditional")
PARTS = {
    "3.1": "§3.1, dropout",
    "3.2": "§3.2, initialization at zero",
    "3.3": "§3.3, the ripple effect",
    "4": "§4, ALLoRA",
}
REPORTED = "Tables 1–4, Figures 3–4 and their prose, as reported"
MEANINGS = {
    "holds": "as printed",
    "holds_corrected": "after a correction that keeps what it claims",
    "conditional": "only under a condition on the inputs, which is shown",
    "refuted": "its reading fails; where that is a less kind reading, a kinder one is a row of its own",
    "undecided": "the evidence allows both answers; the row says how much would decide",
    "not_run": "needs a long run; the row names the command",
    "error": "the check itself failed: an error of the toolkit",
}
BRACKETS = f"Brackets hold a size's {USUAL} interval, or what they name; intervals are rounded outwards."
SETTING = "true at the paper's setting"  # the heading of `at_paper`: of sentences, too, that are not in the paper
NOT_THERE = (
    "the sentence has no setting, no case is the paper's, or its test is open"  # what "–" says under that heading
)
CUT = 76  # characters of a statement in a table or a list
LESS_KIND = "A less kind reading"  # so begins a reading of which a kinder one is a row of its own
COPYS = "a misprint, the copy's perhaps"  # so says a reading of what is no fault of the paper's if it is our copy's
BEYOND = "beyond the paper"  # so begins `where` of what the paper does not say
NOT_IN_THE_PAPER = "not in the paper"  # so a sentence is marked that the paper does not say, nor another one
OTHERS = re.compile(rf"{BEYOND}: abstract of (.+) \(")  # and of what another paper says
PACKAGE = "allora_analysis."
SHARED = ("allora_analysis.claims", "allora_analysis.study", "allora_analysis.validation", "allora_analysis.cli")
"""What every check may use, and what says nothing about the mathematics behind it."""
AUDIT = tuple(f"allora_analysis.claims.tables.{name}" for name in ("reported", "accuracies", "contrasts"))
"""The claims' own code that is the mathematics: the audit of the paper's tables."""


def said_by(where: str) -> str | None:
    """Who says a row's statement, where the paper does not: another paper's authors and year, or `NOT_IN_THE_PAPER`."""
    other = OTHERS.match(where)
    return other[1] if other else NOT_IN_THE_PAPER if where.startswith(BEYOND) else None


def sentence(statement: str, where: str) -> str:
    """The sentence that a row judges, cut at a word, and in brackets who says it where the paper does not."""
    words, who = " ".join(statement.split()), said_by(where)
    cut = words if len(words) <= CUT else f"{words[: CUT - 1].rpartition(' ')[0]} …"
    return cut + (f" ({who})" if who else "")


@dataclass(frozen=True)
class View:
    """A row for every writer; the fields are those of its JSON.

    `verdict` is None where the check raised, and `error` says what. `supports` is the inverse of `depends_on`. `code`
    names the functions that the check calls, `check` where the check itself stands.
    """

    id: str
    where: str
    statement: str
    reading: str | None
    verdict: str | None
    answer: str
    at_paper: bool | str | None
    size: Size | None
    corrected: str | None
    condition: str | None
    flips_if: str
    depends_on: Sequence[str]
    supports: Sequence[str]
    relied_on_by: Sequence[Reliance]
    check: str
    code: Sequence[str]
    test: str
    command: str
    evidence: Evidence | None
    error: str | None = None

    @property
    def word(self) -> str:
        """The verdict, or "error"."""
        return self.verdict or "error"

    @property
    def part(self) -> str:
        """The part of the paper that the row belongs to."""
        return PARTS.get(self.id.partition("-")[0], REPORTED)

    @property
    def setting(self) -> str:
        """Whether the sentence is true at the paper's own setting, in a word or a few."""
        return str(AT_PAPER.get(self.at_paper, self.at_paper))

    @property
    def told(self) -> dict[str, str]:
        """What stands below the answer, by label, but the evidence and other rows."""
        why = f" ({NOT_THERE})" if self.at_paper is None else ""
        facts = {
            "Read as": self.reading,
            SETTING[0].upper() + SETTING[1:]: None if self.error else self.setting + why,
            "Size": f"{size_text(self.size)}: {self.size.of}" if self.size else None,
            "Would decide it" if self.verdict == "undecided" else "Corrected": self.corrected,
            "True when": self.condition,
            "Changes if": self.flips_if,
            "Relied on by": "; ".join(f"{by.who}, {by.title} ({by.where})" for by in self.relied_on_by),
        }
        return {label: words for label, words in facts.items() if words}


_supports = functools.cache(ledger.supports)


def _check(claim: Claim) -> str:
    # "allora_analysis/claims/s3_3_worst_case.py: norm"
    function = bare(claim.check)
    return f"{function.__module__.replace('.', '/')}.py: {function.__name__}"


def line(view: View) -> int | None:
    """The line of its file on which a row's check stands; None without one."""
    claim = {one.id: one for one in ledger.all_claims()}.get(view.id)
    return None if claim is None else inspect.getsourcelines(bare(claim.check))[1]


def _spaced(item: Any) -> Any:
    # Every text of ours in it as `spaced` has it: names of what was measured too.
    if isinstance(item, str):
        return spaced(item)
    if isinstance(item, Mapping):
        return {_spaced(name): _spaced(value) for name, value in item.items()}
    if type(item) in (list, tuple):  # a named one holds numbers
        return type(item)(map(_spaced, item))
    if isinstance(item, Finding | Evidence | Size):
        return replace(item, **{field.name: _spaced(getattr(item, field.name)) for field in fields(item)})
    return item


def view(row: Row) -> View:
    """A row as a reader sees it, with "5 %" for "5%" but in the paper's words."""
    claim, finding = row.claim, _spaced(row.finding)
    return View(
        id=claim.id,
        where=claim.where,
        statement=claim.statement,
        reading=_spaced(claim.reading),
        verdict=finding and finding.verdict,
        answer=(finding.answer or GENERIC[finding.verdict]) if finding else f"Error: the check failed: {row.error}",
        at_paper=finding and finding.at_paper,
        size=finding and finding.size,
        corrected=finding and finding.corrected,
        condition=finding and finding.condition,
        flips_if=finding.flips_if if finding else "",
        depends_on=claim.depends_on,
        supports=_supports(ledger.all_claims()).get(claim.id, ()),
        relied_on_by=claim.relied_on_by,
        check=_check(claim),
        code=called(claim),
        test=claim.test,
        command=claim.command,
        evidence=finding and finding.evidence,
        error=row.error,
    )


def views(rows: Sequence[Row]) -> list[View]:
    """Rows as a reader sees them."""
    return [view(row) for row in rows]


def by_part(of: Sequence[View]) -> dict[str, list[View]]:
    """The rows by the part of the paper, in the paper's order."""
    parts = {title: [one for one in of if one.part == title] for title in (*PARTS.values(), REPORTED)}
    return {title: members for title, members in parts.items() if members}


def summary(of: Sequence[View], brief: bool = False) -> str:
    """The verdicts counted, in one line: of rows on printed statements, and of those beyond the paper.

    `brief`: of what stands in brackets only how many of the refuted are less kind readings, in words.
    """
    beyond = [one for one in of if one.where.startswith(BEYOND)]
    printed = [one for one in of if not one.where.startswith(BEYOND)]
    statements = len({one.statement for one in printed})
    about = f" on {statements} printed statements" if statements != len(printed) else ""
    told = [f"{len(printed)} claim{'s' * (len(printed) != 1)}{about}: {_counts(printed, brief)}"] if printed else []
    return "; ".join([*told, f"{len(beyond)} beyond the paper: {_counts(beyond, brief)}"] if beyond else told)


def _counts(of: Sequence[View], brief: bool) -> str:
    words = {word: [one for one in of if one.word == word] for word in (*VERDICTS, "error")}
    brief_of = {"refuted": _strictly(of)}
    return ", ".join(
        f"{len(those)} {word}{brief_of.get(word, '') if brief else _of_these(those)}"
        for word, those in words.items()
        if those
    )


def less_kind(of: Sequence[View]) -> int:
    """How many rows have a less kind reading, of which a kinder one is a row of its own."""
    return sum((one.reading or "").startswith(LESS_KIND) for one in of)


def kinder(one: View, of: Sequence[View]) -> list[View]:
    """The rows of one's statement, or that its less kind reading names, whose own reading is not less kind."""
    named = one.reading if less_kind([one]) else ""
    others = [other for other in of if other is not one and not less_kind([other])]
    return [other for other in others if other.statement in one.statement or other.id in named]


def saved(of: Sequence[View]) -> list[View]:
    """The refuted rows on printed statements of which a kinder row stands: corrected and conditional ones do, too."""
    printed = [one for one in of if not one.where.startswith(BEYOND)]
    failing = [one for one in printed if one.word == "refuted"]
    return [one for one in failing if any(other.word in STANDS for other in kinder(one, printed))]


def _strictly(of: Sequence[View]) -> str:
    # In brackets, of how many of the refuted a kinder row stands.
    strict = len(saved(of))
    return f" ({strict} only if read more strictly than need be)" if strict else ""


def _of_these(of: Sequence[View]) -> str:
    # In brackets, how many of the rows of one verdict are less kind readings, hang on an assumption, are one fault, or
    # a misprint that may be our copy's.
    same, ids = {one.id: one.same_fault_as for one in ledger.all_claims()}, {one.id for one in of}
    again = sum(same.get(one.id) in ids for one in of)
    strict = less_kind(of)
    assumed = Counter(one.setting.partition(", if ")[2] for one in of)
    copies = sum(COPYS in (one.reading or "") for one in of)
    own = [one.id for one in of if COPYS not in (one.reading or "") and not less_kind([one])]
    faults = len({same.get(name) or name for name in own})
    told = [f"{faults} fault{'s' if faults > 1 else ''}"] if again and faults else []
    told += [f"{copies} perhaps our copy's"] if copies else []
    told += [f"{strict} less kind"] if strict else []
    told += [f"{n} assuming {name}" for name, n in assumed.items() if name]
    return f" ({'; '.join(told)})" if told else ""


def as_json(of: Sequence[View], own: bool = False, interrupted: bool = False) -> str:
    """The ledger's document, {"claims": [...], "environment": {...}}; a check that raised: verdict null and "error".

    What is infinite in a row's evidence is "∞" or "−∞", not null.
    """
    entries = [{name: value for name, value in plain(one).items() if name != "error" or value} for one in of]
    for one, entry in zip(of, entries, strict=True):
        entry["evidence"] = plain(one.evidence, infinity="∞")
    document: dict[str, Any] = {"claims": entries, "environment": environment()}
    document |= {name: True for name, so in (("own_records", own), ("interrupted", interrupted)) if so}
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)


RECORDED = "recorded.json"  # in the package `claims`: what the last full run answered
KEPT = ("statement", "verdict", "at_paper", "answer")


def recorded() -> Mapping[str, Mapping[str, Any]]:
    """What the last full run of the ledger answered, by id: statement, verdict, at_paper, answer."""
    return json.loads(files("allora_analysis.claims").joinpath(RECORDED).read_text(encoding="utf-8"))


def record(of: Sequence[View]) -> tuple[Path, str]:
    """Where the answers of a full run are kept, and the text to keep."""
    path = Path(ledger.__file__).with_name(RECORDED)
    kept = {one.id: {name: plain(getattr(one, name)) for name in KEPT} for one in of}
    return path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


@functools.cache
def called(claim: Claim) -> tuple[str, ...]:
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


def modules_called(claim: Claim) -> tuple[str, ...]:
    """The modules that hold what is `called`; the claims' own file where the check needs no other."""
    names = {".".join(name.split(".")[:-1]) for name in called(claim)}
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
