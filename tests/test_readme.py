"""The README: its ledger is what the ledger says today, its commands and its code run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from allora_analysis.claims import readme
from allora_analysis.claims.ledger import Evidence, Finding, Row, all_claims

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.startswith("python -m")
]


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    words = [sys.executable, *shlex.split(command)[1:]]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_ledger_runs_and_the_readme_shows_its_verdicts(tmp_path):
    done = run("python -m allora_analysis --json -", tmp_path)
    assert done.returncode == 0, done.stderr
    today = [(claim["id"], claim["verdict"]) for claim in json.loads(done.stdout)["claims"]]
    shown = TEXT.split(readme.BEGIN)[1].split(readme.END)[0]
    rows = [re.split(r"(?<!\\)\|", line) for line in shown.splitlines() if line.startswith("| **")]
    assert [(row[4].strip(" `"), row[1].strip(" *")) for row in rows] == today
    counts = re.search(r"^(\d+) claims: (.*)\.$", shown, re.MULTILINE)
    assert int(counts[1]) == len(today)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "python -m allora_analysis"])
def test_a_command_of_the_readme_runs(command, tmp_path):
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_has_commands_for_every_study():
    for name in ("tikhonov", "deviation", "dropout_sgd", "hessian", "ripple", "gradient_std", "escape"):
        assert any(f"allora_analysis.{name}" in command for command in COMMANDS)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own, under a new transformers
@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_the_code_of_the_readme_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_files_that_the_readme_names_exist():
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / link).exists(), link


def test_rewrite_replaces_the_ledger_and_nothing_else():
    claim = all_claims()[0]
    row = Row(claim, Finding("conditional", Evidence({}, {}, ""), "only a | b"))
    new = readme.rewrite(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter", [row, Row(claim, None, "planted")])
    assert new.startswith("before\n")
    assert new.endswith("\nafter")
    assert "old" not in new
    assert "→ only a \\| b" in new
    assert "2 claims: 1 conditional, 1 error." in new
    with pytest.raises(ValueError, match="markers"):
        readme.rewrite("no markers", [row])
