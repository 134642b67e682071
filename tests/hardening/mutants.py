"""Mutants of the theory, the layers, the records and the statistics: `python -m tests.hardening.mutants`.

A mutant is one change in one line of code: + for −, · for /, < for ≤, a constant moved, a sign or a `not` dropped, a
condition turned. It is killed if a test of its package, or one that its module's docstring names ("Checked by
`tests/…`"), fails or does not end. Places are drawn evenly over all that there are. What survives is named on the
page, with the reason where it is no other function.

A session of pytest imports and collects once; a mutant is a function's code exchanged in a child of it, which runs the
tests that cover the changed statement, the quickest file first, to the first that fails. What runs on import, and what
is no function's, is changed in a copy of the tree instead, before the tests that the module names.

Each end is appended to a file in `.coverage_mutants/` as it comes, so that a run which was stopped goes on; `--again`
runs the survivors of that file anew, after tests were added. `--only` reaches the studies and what stands on the theory
too (`--only laboratory grid/reading`); their ends are on no page.

Not mutmut or cosmic-ray: both run one test command for a whole package, and a mutant here is to be killed by its own
package's tests; both also start an interpreter each time, which takes longer than most of these tests.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.hardening import forks, record

ROOT = forks.ROOT
COMMAND = "python -m tests.hardening.mutants"
MUTANTS, QUICK = 2_000, 10.0
FIRST, AGAIN = 30.0, 600.0  # seconds of the processor for a mutant, at first and at the second try
PACKAGES = (
    "tikhonov", "deviation", "dropout_sgd", "hessian", "ripple", "adaptors", "escape", "adaptive", "width", "lora",
    "records", "statistics",
)  # fmt: skip
BESIDE = ("claims", "doctor", "finetune", "grid", "laboratory", "render")  # and every study.py: with `--only` alone
SWAPS: dict[type[ast.AST], tuple[type[ast.AST], str, str]] = {
    ast.Add: (ast.Sub, "+", "-"), ast.Sub: (ast.Add, "-", "+"), ast.Mult: (ast.Div, "*", "/"),
    ast.Div: (ast.Mult, "/", "*"), ast.Pow: (ast.Mult, "**", "*"), ast.MatMult: (ast.Mult, "@", "*"),
    ast.Lt: (ast.LtE, "<", "<="), ast.LtE: (ast.Lt, "<=", "<"), ast.Gt: (ast.GtE, ">", ">="),
    ast.GtE: (ast.Gt, ">=", ">"), ast.Eq: (ast.NotEq, "==", "!="), ast.NotEq: (ast.Eq, "!=", "=="),
    ast.And: (ast.Or, "and", "or"), ast.Or: (ast.And, "or", "and"), ast.In: (ast.NotIn, "in", "not in"),
    ast.Is: (ast.IsNot, "is", "is not"), ast.IsNot: (ast.Is, "is not", "is"),
}  # fmt: skip
ENDS = ("survived", "killed", "over time")
TESTS = re.compile(r"tests/(test_\w+\.py)")
# A mutant that is no other function, or one whose difference no user can see: how its line begins, its change, why.
_LISTED = tomllib.loads(Path(__file__).with_name("equivalent.toml").read_text(encoding="utf-8"))["mutant"]
EQUIVALENT = {(one["line"], one["change"]): one["why"] for one in _LISTED}


def equivalent(mutant: Mutant) -> str:
    """Why it is no other function, where that is known."""
    for (text, change), why in EQUIVALENT.items():
        if mutant.change == change and mutant.text.startswith(text):
            return why
    return ""


class Mutant(NamedTuple):
    """A change: the module's path below the package, the line, what becomes what, the line's text, the whole source.

    `statement` has the statement's lines (of an `if`, a loop or a definition, those of its head), `plain` the
    unchanged source in `source`'s layout.
    """

    path: str
    line: int
    change: str
    text: str
    source: str
    statement: range
    plain: str


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
    """The modules' paths below the package; of `BESIDE`, those that begin with one of the words."""
    package = ROOT / "allora_analysis"
    found = [f"{name}.py" for name in PACKAGES if (package / f"{name}.py").exists()]
    found += sorted(str(p.relative_to(package)) for name in PACKAGES for p in (package / name).rglob("*.py"))
    beside = sorted(str(p.relative_to(package)) for name in BESIDE for p in (package / name).rglob("*.py"))
    left_out = ("__init__.py", "__main__.py", *(() if only else ("study.py",)))  # words and flags, figures
    found = [path for path in found if not only or any(word in path for word in only)]
    found += [path for path in beside if only and path.startswith(only)]
    return [path for path in found if Path(path).name not in left_out]


def tests_of(path: str) -> list[str]:
    """The tests that a module's docstrings name; where there are none, those of its package."""
    source = (ROOT / "allora_analysis" / path).read_text(encoding="utf-8")
    named = [name for name in dict.fromkeys(TESTS.findall(source)) if (ROOT / "tests" / name).exists()]
    return named or package_tests(path)


def package_tests(path: str) -> list[str]:
    """The tests of a module's package."""
    above = path.split("/")[0].removesuffix(".py")
    return sorted(file.name for file in (ROOT / "tests").glob(f"test_{above}*.py"))


def all_tests(only: tuple[str, ...] = ()) -> list[str]:
    """The tests of all modules, and of the adaptors, which are tried unchanged first."""
    found = {name for path in modules(only) for name in (*tests_of(path), *package_tests(path))}
    return sorted(found | set(tests_of("adaptors.py")))


@functools.cache
def _source(path: str) -> tuple[str, str, tuple[int, ...]]:
    # A module's text, the same in the layout of mutants, and which of its places can be changed.
    text = (ROOT / "allora_analysis" / path).read_text(encoding="utf-8")
    tree = ast.parse(text)
    return text, ast.unparse(tree), tuple(i for i, node in enumerate(_places(tree)) if _can_change(node))


def _statement(tree: ast.AST, line: int) -> range:
    # The lines of the smallest statement around a line; of one that holds others, those before the first of them.
    def lines(node: ast.stmt) -> range:
        inner = [child.lineno for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
        return range(node.lineno, max(min(inner), node.lineno + 1) if inner else node.end_lineno + 1)

    around = (lines(node) for node in ast.walk(tree) if isinstance(node, ast.stmt))
    return min((there for there in around if line in there), key=len, default=range(line, line + 1))


def drawn(count: int, seed: int, only: tuple[str, ...] = (), first: int = 0) -> Iterator[Mutant]:
    """So many mutants, each another place; the first ones left out."""
    all_places = [(path, place) for path in modules(only) for place in _source(path)[2]]
    order = np.random.default_rng(seed).permutation(len(all_places))
    for index in order[first:count]:
        path, place = all_places[index]
        text, plain, _ = _source(path)
        tree = ast.parse(text)
        node = list(_places(tree))[place]
        statement, line = _statement(tree, node.lineno), node.lineno
        change = _changed(node, np.random.default_rng([seed, index]))
        mutated = ast.unparse(ast.fix_missing_locations(tree))
        yield Mutant(path, line, change, text.splitlines()[line - 1].strip(), mutated, statement, plain)


def outcome(mutant: Mutant, tree: Path, most: float, keep: bool = False, again: bool = False) -> str:
    """How a mutant in a copy of the tree ends: "killed", "over time" or "survived"; `keep` keeps what was compiled.

    `again`: before the tests of its package too.
    """
    files = list(dict.fromkeys([*tests_of(mutant.path), *(package_tests(mutant.path) if again else ())]))
    file = tree / "allora_analysis" / mutant.path
    whole, stat = file.read_bytes(), file.stat()
    file.write_text(mutant.source, encoding="utf-8")
    os.utime(file, ns=(0, stat.st_mtime_ns + 10**12 * (1 + mutant.line)))  # not what was compiled before
    try:
        pid = os.fork()
        if not pid:
            _run(files, tree, most, keep)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        file.write_bytes(whole)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return ENDS[status] if 0 <= status < len(ENDS) else "killed"


def _run(files: list[str], tree: Path, most: float, keep: bool) -> None:
    # In a child: tests over the tree's copy. Nothing of the package was imported before. What ends otherwise than by an
    # end of `ENDS` is killed: it cannot be imported.
    status = len(ENDS)
    try:
        measured = forks.seconds(files)
        os.chdir(tree)
        sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(ROOT)))]
        ours = [name for name in sys.modules if name.split(".")[0] in ("tests", "allora_analysis", "experiments")]
        for name in ours:
            del sys.modules[name]
        os.environ |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        os.environ |= {} if keep else {"PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = not keep

        def loop(session: pytest.Session, results: forks.Results) -> None:
            nonlocal status
            server = forks.Server(session, results, measured)
            status = ENDS.index(server.attempt(set(server.tests), most, lambda test: None))

        forks.session(files, loop)
    finally:
        os._exit(status)


def _in_a_tree(asked: Connection, asking: Connection, most: float, again: bool) -> None:
    # Mutants that are no one function's: asked for by another process, each in a copy of the tree.
    asking.close()  # this process ends with that one
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        listed = ["git", "ls-files", "-co", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, text=True, capture_output=True, check=True)
        for name in names.stdout.splitlines():
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        plain = (ROOT / "allora_analysis" / "adaptors.py").read_text(encoding="utf-8")
        control = Mutant("adaptors.py", 0, "none", "", plain, range(0), plain)
        while (mutant := asked.recv()) is not None:
            if control is not None:
                unchanged = outcome(control, tree, most, keep=True)
                assert unchanged == "survived", f"what was not changed: {unchanged}"
                control = None
            asked.send(outcome(mutant, tree, most, again=again))


def main() -> int:
    """As many as are asked for, or as the minutes allow."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--mutants", type=int, default=MUTANTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then the rest is left for another time")
    parser.add_argument("--only", nargs="*", default=[], help="words in modules' paths; nothing is recorded")
    parser.add_argument(
        "--quick", type=float, default=QUICK, help="seconds that a test may take at first; 0: not measured"
    )
    words = f"of the processor for a mutant (default: {FIRST:g}, with --again {AGAIN:g})"
    parser.add_argument("--seconds", type=float, help=words)
    parser.add_argument("--again", action="store_true", help="the survivors anew, before today's tests")
    arguments = parser.parse_args()
    tell = forks.teller()
    import matplotlib, scipy.integrate, scipy.optimize, scipy.stats, torch  # noqa: E401, F401, I001

    torch.set_num_threads(1)
    only, fork = tuple(arguments.only), multiprocessing.get_context("fork")
    files = all_tests(only)
    ours, theirs = fork.Pipe()
    most = arguments.seconds or (AGAIN if arguments.again else FIRST)
    slow = fork.Process(target=_in_a_tree, args=(theirs, ours, most, arguments.again), daemon=True)
    slow.start()
    theirs.close()
    if arguments.quick:
        measured = fork.Process(target=forks.measure, args=(files, tell, arguments.quick))
        measured.start()
        measured.join()
    covering = forks.covering(files, modules(only))
    name = "-".join([forks.digest(*forks.sources()), str(arguments.seed), *only]).replace("/", ".")
    results = forks.KEPT / f"ends-{name}.jsonl"
    until = time.monotonic() + 60 * arguments.minutes

    def loop(session: pytest.Session, ran: forks.Results) -> None:
        server = forks.Server(session, ran, covering.seconds)
        same = forks.unchanged("adaptors.py", "_inverse_sqrt")
        adaptors = {test for test in server.tests if _file(test) == "test_adaptors.py"}
        assert server.run(same, adaptors, most) == ("survived", ""), "the tests fail on what was not changed"
        measured_files = {_file(test) for test in covering.seconds}

        def end(mutant: Mutant) -> tuple[str, str]:
            tests = covering.tests(mutant.path, mutant.statement)
            change = forks.exchange(mutant.path, mutant.plain, mutant.source)
            if forks.IMPORTED in tests or not server.functions(change):
                ours.send(mutant)
                return ours.recv(), "in a copy of the tree"
            named = tests_of(mutant.path)
            own = {*named, *package_tests(mutant.path)} if arguments.again else {*named} - measured_files
            tests = {test for test in tests if _file(test) in {*named, *package_tests(mutant.path)}}
            tests |= {test for test in server.tests if test not in covering.seconds and _file(test) in own}
            return server.run(change, tests, most, named) if tests else ("survived", "")

        _all(arguments, results, until, end, tell)

    forks.session(files, loop)
    ours.send(None)
    if not arguments.only:
        _record(results, arguments)
    return 0


def _file(test: str) -> str:
    return test.partition("::")[0].removeprefix("tests/")


def ends(results: Path) -> list[dict]:
    """The ends kept, by whole lines; what a kill left of a line is dropped."""
    if not results.exists():
        return []
    whole = results.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    results.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _all(arguments, results: Path, until: float, end, tell) -> None:
    # Every mutant that has no end yet, in order; with `again`, every survivor.
    lines = ends(results)
    only, first = tuple(arguments.only), sum("again" not in line for line in lines)
    wanted = enumerate(drawn(arguments.mutants, arguments.seed, only, first), first)
    if arguments.again:
        alive = set(_alive(lines))
        tried = enumerate(drawn(first, arguments.seed, only))
        wanted = ((index, one) for index, one in tried if index in alive and not equivalent(one))
    for index, mutant in wanted:
        if time.monotonic() > until:
            return
        begun = time.monotonic()
        how, by = end(mutant)
        line = {"mutant": index, "at": f"{mutant.path}:{mutant.line}", "change": mutant.change, "text": mutant.text}
        line |= {"end": how, "by": by} | ({"again": True} if arguments.again else {})
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        seconds = time.monotonic() - begun
        tell(f"{index}: {how} ({seconds:.1f} s) by {by}: {line['at']}: {mutant.change} in `{mutant.text}`")


def _alive(lines: list[dict]) -> list[int]:
    last = {line["mutant"]: line["end"] for line in lines}
    return [index for index, how in last.items() if how == "survived"]


def _record(results: Path, arguments: argparse.Namespace) -> None:
    lines = ends(results)
    at_first = [line for line in lines if "again" not in line]
    tried = len({line["mutant"] for line in at_first})
    survived, never = _alive(at_first), set(_alive(lines))
    changes = dict(enumerate(drawn(tried, arguments.seed)))
    equal = {index for index in survived if equivalent(changes[index])}
    missed = [changes[index] for index in survived if index in never - equal]
    differ = tried - len(equal)
    killed = differ - len(missed)
    found = f"{killed:,} killed, {len(equal)} equivalent (`tests/hardening/equivalent.toml` says why), {len(missed)} "
    found += f"not killed: {killed / differ:.1%} of those that differ, {(tried - len(survived)) / differ:.1%} at the "
    found += "first try, the rest by slower tests and by those added for them"
    rows = [[one.change, f"`{one.text}`", f"`{one.path}`"] for one in missed]
    more = {"rows": [["not killed", "in", "of"], *rows]} if rows else {}
    command = f"{COMMAND} --mutants {tried}" + (f" --seed {arguments.seed}" if arguments.seed else "")
    what = "mutants of theory, layers, records and statistics, each before its package's tests"
    record("mutants", what, command, tried, "mutants", found, "nothing", **more)


if __name__ == "__main__":
    sys.exit(main())
