"""Content digests and provenance: what a record names in place of paths and machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from allora_analysis import records
from allora_analysis.records import origin
from tests.toy_run import filled, save


def test_digest_of_a_file_is_sha256_of_its_bytes(tmp_path):
    content = os.urandom(3_000_001)
    (tmp_path / "data").write_bytes(content)
    assert records.digest_file(tmp_path / "data") == sha256(content).hexdigest()
    assert records.digest_file(str(tmp_path / "data")) == sha256(content).hexdigest()


@pytest.mark.bad_input
def test_digests_of_what_is_not_there(tmp_path):
    for call, words in (
        (lambda: records.digest_file(tmp_path / "no"), "cannot be read"),
        (lambda: records.digest_file(tmp_path), "cannot be read"),
    ):
        with pytest.raises(records.RecordError, match=words):
            call()


def test_provenance_names_versions_time_and_revision_but_no_machine():
    import platform

    facts = records.provenance(packages=("numpy", "no-such-package"))
    assert facts["numpy"] == np.__version__
    assert facts["no-such-package"] is None
    assert {"python", "threads", "scipy", "torch", "allora_analysis"} <= set(facts)
    assert time.strptime(facts["time_utc"], "%Y-%m-%dT%H:%M:%S+00:00")
    text = json.dumps(facts)
    for secret in (str(Path.home()), str(Path.cwd()), platform.node()):
        assert len(secret) < 3 or secret not in text


def repository(folder: Path, monkeypatch) -> Path:
    package = folder / "allora_analysis"
    filled(package, {"__init__.py": b"", "x.py": b""})
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    monkeypatch.setattr(origin, "PACKAGE", package)
    return package


def test_provenance_tells_the_revision_and_whether_the_package_differs_from_it(tmp_path, monkeypatch):
    package = repository(tmp_path, monkeypatch)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True)
    clean = records.provenance()
    assert (clean["git_revision"], clean["git_dirty"]) == (head.stdout.strip(), False)
    (tmp_path / "a_result.json").write_text("{}")  # outside the package: no change of the code
    assert records.provenance()["git_dirty"] is False
    (package / "x.py").write_text("changed")
    assert records.provenance()["git_dirty"] is True


def test_provenance_outside_a_repository_or_without_git(tmp_path, monkeypatch):
    repository(tmp_path, monkeypatch)
    stranger = filled(tmp_path / "venv" / "allora_analysis", {"__init__.py": b""})
    monkeypatch.setattr(origin, "PACKAGE", stranger)
    facts = records.provenance()
    assert (facts["git_revision"], facts["git_dirty"]) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.provenance()["git_revision"] is None


def test_saving_without_provenance_records_our_own(tmp_path):
    path, _ = save(tmp_path, provenance=None)
    assert {"git_revision", "python", "time_utc"} <= set(records.load(path).provenance)


def test_importing_and_saving_needs_no_heavy_library(tmp_path):
    code = (
        "import sys; from allora_analysis import records;"
        "records.save(sys.argv[1], 's', {'x': 1}, {'y': 1.0}, protocol=1); records.find(sys.argv[1]);"
        "print([name for name in ('torch', 'scipy', 'matplotlib', 'pickle5') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_processor_is_named_with_its_instruction_sets(tmp_path, monkeypatch):
    listed = tmp_path / "cpuinfo"
    listed.write_text(
        "model name\t: Some CPU w/ care\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\nmodel name\t: other\n"
    )
    monkeypatch.setattr(origin, "CPU", listed)
    known = {"cpu": "Some CPU w  care", "instructions": ["avx2", "avx512f", "avx512_bf16"]}
    assert records.processor() == known
    assert known.items() <= records.provenance().items()
    monkeypatch.setattr(origin, "CPU", tmp_path / "none")
    assert records.processor()["instructions"] is None
