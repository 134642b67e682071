"""Entries for `lists.toml` from runs: `python -m tests.peers.draft PEER=REPORT.xml …`, from pytest's `--junitxml`.

Failures of one message (names and numbers aside) make an entry, whose message the author replaces by the reason. Names
are shortened to patterns that fit no test that passed in the same run.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator

from tests.peers.plugin import compiled

Run = dict[str, str]  # a test's name: the message it failed with, "" if it passed; none for a skipped one


def read(path: str) -> Run:
    """The outcomes of a run."""
    run = {}
    for case in ElementTree.parse(path).iter("testcase"):
        _, file, *inner = case.get("classname").split(".")
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        if bad is not None or not len(case):
            message = "" if bad is None else bad.get("message", "").partition("\n")[0] or "no message"
            message = re.sub(r"'[^']*'|[0-9.]+|, received .*", "…", message)[:140]
            run["::".join([f"{file}.py", *inner, case.get("name")])] = message
    return run


def shorter(name: str) -> Iterator[str]:
    """Patterns that fit a test's name, the widest first."""
    file, _, test = name.partition("::")
    where, _, parameters = test.partition("[")
    cls = where.rpartition("::")[0]
    if cls:
        yield f"{file}::{cls}::*"
    for one in re.findall(r"[^-\]]*-[^-]*-LoraConfig-config_kwargs\d+", parameters):
        yield f"{file}::*{one}]"
    yield f"{file}::{where}*"
    yield f"{file}::{where}[*"
    for one in re.findall(r"LoraConfig-config_kwargs\d+", parameters):
        yield f"{file}::*{one}-*"
        yield f"{file}::{where}[*{one}*"
    yield name


def patterns(failed: set[str], passed: set[str]) -> list[str]:
    """Few patterns that fit all that failed and nothing that passed."""
    found = []
    while failed:
        name = min(failed)
        may = (one for one in shorter(name) if compiled(one).fullmatch(name))
        pattern = next(one for one in may if not any(map(compiled(one).fullmatch, passed)))
        found.append(pattern)
        failed = {one for one in failed if not compiled(pattern).fullmatch(one)}
    return found


def main(runs: dict[str, Run]) -> None:
    control = runs.pop("plain", {})
    entries = defaultdict(set)
    for peer, run in runs.items():
        failed = defaultdict(set)
        for name, message in run.items():
            if message and not control.get(name):
                failed[message].add(name)
        passed = {name for name, message in run.items() if not message}
        for message, names in failed.items():
            for pattern in patterns(names, passed):
                entries[message, pattern].add(peer)
    if control:
        passed = {name for name, message in control.items() if not message}
        for name in [name for name, message in control.items() if message]:
            entries[control[name], name] = {"plain"}
    blocks = defaultdict(list)
    for (message, pattern), peers in entries.items():
        blocks[message, tuple(sorted(peers))].append(pattern)
    for (message, peers), tests in sorted(
        blocks.items(), key=lambda block: (block[0][1] != ("plain",), -len(block[1]))
    ):
        print(f"\n[[difference]]\nreason = {message!r}")
        if set(peers) != set(runs):
            print(f"peers = {[*peers]}")
        print("tests = [", *(f'  "{test}",' for test in sorted(tests)), "]", sep="\n")


if __name__ == "__main__":
    main({peer: read(path) for peer, _, path in (argument.partition("=") for argument in sys.argv[1:])})
