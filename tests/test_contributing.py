"""CONTRIBUTING's examples are whole changes: applied to a copy, each adds its row, its arm, its experiment."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_finetune as tiny
from tests import warm

ROOT = Path(__file__).parents[1]
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def changed(path: str) -> str:
    """The one diff of the page that changes this file."""
    (diff,) = [one for one in DIFFS if f"+++ b/{path}\n" in one]
    return diff


@pytest.fixture
def copy(tmp_path):
    """The packages without records, to which `git apply` adds an example; what it adds is formatted as ours is."""
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for name in ("allora_analysis", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)

    def apply(path: str) -> Path:
        command = ["git", "apply", "--recount", "-"]
        subprocess.run(command, cwd=tmp_path, input=changed(path), encoding="utf-8", check=True)
        for check in ("check", "format --check"):
            ruff = [Path(sys.executable).parent / "ruff", *check.split(), "--config", ROOT / "pyproject.toml", path]
            done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
        return tmp_path

    return apply


def output(folder: Path, *words: str) -> str:
    """What a command of the copy prints."""
    done = warm.Popen(*words, folder=folder)
    out, err = done.communicate()
    assert done.returncode == 0, err
    return out


def test_every_example_is_tried():
    assert len(DIFFS) == 3


def test_the_example_adds_a_claim(copy):
    path = "allora_analysis/claims/s3_3_interactions.py"
    folder, name = copy(path), re.search(r'ripple_claim\(\n\+    "(.*?)"', changed(path))[1]
    (row,) = json.loads(output(folder, "allora_analysis", "--only", name, "--json", "-"))["claims"]
    assert (row["verdict"], row["at_paper"]) == ("holds", True)


def test_the_example_adds_an_arm(copy, tmp_path):
    pytest.importorskip("peft")
    folder = copy("allora_analysis/arms.py")
    model, data = tiny.bert(tmp_path / "bert"), tiny.sentences(tmp_path / "data", 8)
    flags = ["--model", model, "--data", data, "--arm", "olora", "--rank", "2", "--max-steps", "1", "--batch-size", "4"]
    found = json.loads(output(folder, "allora_analysis.finetune", *map(str, flags), "--json", "-"))
    assert found["config"]["arm"] == "olora"
    assert found["measured"]["parameters"]["adapters"] > 0


def test_the_example_adds_an_experiment(copy):
    shown = output(copy("experiments/ranks.py"), "experiments.ranks", "--dry-run")
    assert len(re.findall(r"^to run .*lora.*adamw at 0.001", shown, re.MULTILINE)) == 15
