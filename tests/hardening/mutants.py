"""Mutants of the theory, the layers, the records and the statistics: `python -m tests.hardening.mutants`.

A mutant is one change in one line of code: + for −, · for /, < for ≤, a constant moved, a sign or a `not` dropped, a
condition turned. It is killed if a test that its module's docstring names ("Checked by `tests/…`") fails. Places are
drawn evenly over all that there are. What survives is named on the page, with the reason where it is no other
function.

Not mutmut or cosmic-ray: both run one test command for a whole package, and a mutant here is to be killed by its own
module's tests; both also start an interpreter each time, which takes longer than most of these tests.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.hardening import progress, record

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.hardening.mutants"
MUTANTS, SECONDS = 2_000, 300
PACKAGES = (
    "tikhonov", "deviation", "dropout_sgd", "hessian", "ripple", "adaptors", "escape", "adaptive", "width", "lora",
    "records", "statistics",
)  # fmt: skip
SWAPS: dict[type[ast.AST], tuple[type[ast.AST], str, str]] = {
    ast.Add: (ast.Sub, "+", "-"), ast.Sub: (ast.Add, "-", "+"), ast.Mult: (ast.Div, "*", "/"),
    ast.Div: (ast.Mult, "/", "*"), ast.Pow: (ast.Mult, "**", "*"), ast.MatMult: (ast.Mult, "@", "*"),
    ast.Lt: (ast.LtE, "<", "<="), ast.LtE: (ast.Lt, "<=", "<"), ast.Gt: (ast.GtE, ">", ">="),
    ast.GtE: (ast.Gt, ">=", ">"), ast.Eq: (ast.NotEq, "==", "!="), ast.NotEq: (ast.Eq, "!=", "=="),
    ast.And: (ast.Or, "and", "or"), ast.Or: (ast.And, "or", "and"), ast.In: (ast.NotIn, "in", "not in"),
    ast.Is: (ast.IsNot, "is", "is not"), ast.IsNot: (ast.Is, "is not", "is"),
}  # fmt: skip
ALREADY = "ignore::pytest.PytestAssertRewriteWarning"  # what this process has imported
TESTS = re.compile(r"tests/(test_\w+\.py)")
# A mutant that is no other function, or one whose difference no user can see: how its line begins, its change, why.
EQUIVALENT: dict[tuple[str, str], str] = {
    ("if answer[1] > 2 * TARGET * floor and", "2 → 3"): (
        "when a second split is tried; the answer comes with its own error either way"
    ),
    ("for first in range(done + 1, reached + 1, chunk):", "1 → 2"): "at most one more chunk, and an empty one",
}
# A survivor of the recorded run that a test kills since: how its line begins, its change, the test.
KILLED_SINCE: dict[tuple[str, str], str] = {
    ("return Lyapunov(value, -turn - alpha**2 * square", "- → +"): "tests/test_adaptive_convergence.py",
    ("loss = np.sum(y**2) + np.sum((z / keep_prob) ** 2)", "+ → -"): "tests/test_deviation_moments.py",
}


def _told(mutant: Mutant, known: dict[tuple[str, str], str]) -> str:
    # What is known of a survivor.
    found = (why for (text, change), why in known.items() if mutant.text.startswith(text) and mutant.change == change)
    return next(found, "")


class Mutant(NamedTuple):
    """A change: the module's path below the package, the line, what becomes what, the line's text, the whole source."""

    path: str
    line: int
    change: str
    text: str
    source: str


def _skipped(node: ast.AST) -> bool:
    # Words, types and refusals' texts; what stands in them is no computation.
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom | ast.Assert)


def _places(node: ast.AST) -> Iterator[ast.AST]:
    # Every node that can be changed, annotations and docstrings left out.
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _skipped(child):
                yield child
                yield from _places(child)


def _changed(node: ast.AST, rng: np.random.Generator) -> str | None:
    # The change made in place, in words; None where the node has none.
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
        other, old, new = SWAPS[type(node.op)]
        node.op = other()
        return f"{old} → {new}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        other, old, new = SWAPS[type(node.ops[0])]
        node.ops[0] = other()
        return f"{old} → {new}"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        old = node.value
        node.value = old + 1 if isinstance(old, int) else 2 * old if rng.random() < 0.5 and old else old + 0.5
        return f"{old!r} → {node.value!r}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        old = "-" if isinstance(node.op, ast.USub) else "not "
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
        if old == "not ":
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        return f"{old.strip()} dropped"
    if isinstance(node, ast.IfExp | ast.If | ast.While):
        if isinstance(node, ast.While):
            return None
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return "condition turned"
    return None


def _can_change(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        return type(node.op) in SWAPS
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in SWAPS
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub | ast.Not)
    return isinstance(node, ast.IfExp | ast.If)


def modules(only: tuple[str, ...] = ()) -> list[str]:
    """The modules' paths below the package."""
    package = ROOT / "allora_analysis"
    found = [f"{name}.py" for name in PACKAGES if (package / f"{name}.py").exists()]
    found += sorted(str(p.relative_to(package)) for name in PACKAGES for p in (package / name).rglob("*.py"))
    left_out = ("__init__.py", "__main__.py", "study.py")  # what they hold is words, flags and figures
    found = [path for path in found if Path(path).name not in left_out]
    return [path for path in found if not only or any(word in path for word in only)]


def tests_of(path: str) -> list[str]:
    """The tests that a module's docstrings name; where there are none, those of its package."""
    source = (ROOT / "allora_analysis" / path).read_text(encoding="utf-8")
    named = [name for name in dict.fromkeys(TESTS.findall(source)) if (ROOT / "tests" / name).exists()]
    above = path.replace("/", "_").partition("_")[0].removesuffix(".py")
    return named or sorted(file.name for file in (ROOT / "tests").glob(f"test_{above}*.py"))


def drawn(count: int, seed: int, only: tuple[str, ...] = ()) -> Iterator[Mutant]:
    """So many mutants, each another place."""
    rng, trees = np.random.default_rng(seed), {}
    for path in modules(only):
        source = (ROOT / "allora_analysis" / path).read_text(encoding="utf-8")
        trees[path] = source, [i for i, node in enumerate(_places(ast.parse(source))) if _can_change(node)]
    all_places = [(path, place) for path, (_, places) in trees.items() for place in places]
    for index in rng.permutation(len(all_places))[:count]:
        path, place = all_places[index]
        source, tree = trees[path][0], ast.parse(trees[path][0])
        node = list(_places(tree))[place]
        line, change = node.lineno, _changed(node, rng)
        text = source.splitlines()[line - 1].strip()
        yield Mutant(path, line, change, text, ast.unparse(ast.fix_missing_locations(tree)))


def outcome(mutant: Mutant, tree: Path, keep: bool = False) -> str:
    """How a mutant ends: "killed", "over time" or "survived"; `keep` keeps what was compiled."""
    file = tree / "allora_analysis" / mutant.path
    whole, stat = file.read_bytes(), file.stat()
    file.write_text(mutant.source, encoding="utf-8")
    os.utime(file, ns=(0, stat.st_mtime_ns + 10**12 * (1 + mutant.line)))  # not what was compiled before
    try:
        pid = os.fork()
        if not pid:
            _run([f"tests/{name}" for name in tests_of(mutant.path)], tree, keep)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        file.write_bytes(whole)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert status in (0, 1, 2) or status < 0, f"{mutant.path}: pytest ends with {status}"
    return "survived" if status == 0 else "over time" if status < 0 else "killed"


def _run(files: list[str], tree: Path, keep: bool) -> None:
    # In a child: pytest over the tree's copy. Nothing of the package was imported before.
    import pytest

    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "allora_analysis", "experiments")]:
        del sys.modules[name]
    os.environ |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"} | ({} if keep else {"PYTHONDONTWRITEBYTECODE": "1"})
    sys.dont_write_bytecode = not keep
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    status = 3
    try:
        status = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-W", ALREADY, *files]))
    finally:
        os._exit(status)


def main() -> int:
    """As many as are asked for, or as the minutes allow."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--mutants", type=int, default=MUTANTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then the rest is left out")
    parser.add_argument("--only", nargs="*", default=[], help="words in modules' paths; nothing is recorded")
    arguments = parser.parse_args()
    import matplotlib, pytest, scipy.integrate, scipy.optimize, scipy.stats, torch  # noqa: E401, F401, I001

    torch.set_num_threads(1)
    ends, survivors, until = {"killed": 0, "over time": 0, "survived": 0}, [], time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True
        )
        for name in names.stdout.splitlines():
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        plain = ROOT / "allora_analysis" / "adaptors.py"
        control = Mutant("adaptors.py", 0, "none", "", plain.read_text(encoding="utf-8"))
        assert outcome(control, tree, keep=True) == "survived", "the tests fail on what was not changed"
        for done, mutant in enumerate(drawn(arguments.mutants, arguments.seed, tuple(arguments.only)), 1):
            if time.monotonic() > until:
                break
            begun = time.monotonic()
            end = outcome(mutant, tree)
            ends[end] += 1
            told = f"{mutant.path}:{mutant.line}: {mutant.change} in `{mutant.text}`"
            if end == "survived":
                survivors.append((mutant, _told(mutant, EQUIVALENT)))
            print(f"{done}: {end} ({time.monotonic() - begun:.0f} s): {told}", flush=True)
            progress(done, arguments.mutants, f": {ends}")
    if not arguments.only:
        _record(ends, survivors, arguments)
    return 0


def _record(ends: dict[str, int], survivors: list[tuple[Mutant, str]], arguments: argparse.Namespace) -> None:
    tried, equal = sum(ends.values()), sum(bool(why) for _, why in survivors)
    killed, rows = ends["killed"] + ends["over time"], [["survivor", "change", "why"]]
    for mutant, why in survivors:
        test = _told(mutant, KILLED_SINCE)
        told = f"equivalent: {why}" if why else f"killed since, by {test}" if test else "not killed"
        rows.append([f"`{mutant.path}`: `{mutant.text}`", mutant.change, told])
    found = f"{killed:,} killed, {equal} equivalent, {len(survivors) - equal} survived: "
    found += f"{killed / max(tried - equal, 1):.0%} of those that differ were killed"
    command = f"{COMMAND} --mutants {tried}" + (f" --seed {arguments.seed}" if arguments.seed else "")
    what = "mutants of theory, layers, records and statistics, each before the tests that its module names"
    record("mutants", what, command, tried, "mutants", found, "nothing", rows=rows if survivors else rows[:1])


if __name__ == "__main__":
    sys.exit(main())
