"""Which of a stopped run's checkpoints is whole: cut, emptied and missing files of each kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from allora_analysis.finetune.checkpoints import newest_whole

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"a": torch.ones(3, 3)}, path / FILES[0])
    for name in (*FILES[1:3], FILES[4]):
        torch.save({"state": {0: torch.ones(9)}}, path / name)
    (path / FILES[3]).write_text(json.dumps({"global_step": step, "log_history": []}))
    return path


def test_the_newest_by_its_number(tmp_path):
    assert newest_whole(tmp_path / "none") is None
    for step in (5, 40, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-last").mkdir()
    assert newest_whole(tmp_path).name == "checkpoint-100"


@pytest.mark.parametrize("how", ["cut", "emptied", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_one_is_named_deleted_and_an_older_one_taken(tmp_path, capsys, name, how):
    old, new = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    content = (new / name).read_bytes()
    if how == "missing":
        (new / name).unlink()
    else:
        (new / name).write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    assert newest_whole(tmp_path) == old
    assert not new.exists()
    assert "checkpoint-10: half written or damaged" in capsys.readouterr().err
    (old / name).write_bytes(b"")
    assert newest_whole(tmp_path) is None
