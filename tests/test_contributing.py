"""CONTRIBUTING's example is the whole change: applied to a copy of the package, it adds its row."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def appended(page: str) -> dict[str, str]:
    """What each diff of a page appends to which file; its context must be that file's end."""
    found = {}
    for diff in re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        path = re.search(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)[1]
        body = diff.split("@@\n", 1)[1].splitlines()
        context = "\n".join(line[1:] for line in body if line.startswith(" "))
        assert (ROOT / path).read_text(encoding="utf-8").endswith(context + "\n"), path
        found[path] = "".join(line[1:] + "\n" for line in body if line.startswith("+"))
    return found


def test_the_example_adds_a_claim(tmp_path):
    shutil.copytree(
        ROOT / "allora_analysis", tmp_path / "allora_analysis", ignore=shutil.ignore_patterns("__pycache__")
    )
    ((path, text),) = appended((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")).items()
    with open(tmp_path / path, "a", encoding="utf-8") as file:
        file.write(text)
    for check in ("check", "format --check"):
        command = [
            str(Path(sys.executable).parent / "ruff"),
            *check.split(),
            "--config",
            str(ROOT / "pyproject.toml"),
            path,
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    name = re.search(r'ripple_claim\(\n    "(.*?)"', text)[1]
    done = subprocess.run(
        [sys.executable, "-m", "allora_analysis", "--only", name, "--json", "-"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["claims"]
    assert (row["verdict"], row["at_paper"]) == ("holds", True)
