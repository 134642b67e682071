"""Which of a stopped run's checkpoints is whole: cut, emptied and missing files of each kind."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from allora_analysis.finetune.training import newest_whole
from allora_analysis.validation import ArgumentError

ROWS = 8  # that all processes together read at once
FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")


def checkpoint(folder: Path, step: int, processes: int = 1) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"a": torch.ones(3, 3)}, path / FILES[0])
    random = [FILES[4]] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    for name in (*FILES[1:3], *random):
        torch.save({"state": {0: torch.ones(9)}}, path / name)
    state = {"global_step": step, "train_batch_size": ROWS // processes, "log_history": []}
    (path / FILES[3]).write_text(json.dumps(state))
    return path


def test_the_newest_by_its_number(tmp_path):
    assert newest_whole(tmp_path / "none", ROWS) is None
    for step in (5, 40, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-last").mkdir()
    assert newest_whole(tmp_path, ROWS).name == "checkpoint-100"


@pytest.mark.parametrize("how", ["cut", "emptied", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_broken_one_is_named_deleted_and_an_older_one_taken(tmp_path, capsys, name, how):
    old, new = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    content = (new / name).read_bytes()
    if how == "missing":
        (new / name).unlink()
    else:
        (new / name).write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    assert newest_whole(tmp_path, ROWS) == old
    assert not new.exists()
    assert "checkpoint-10: half written or damaged" in capsys.readouterr().err
    (old / name).write_bytes(b"")
    assert newest_whole(tmp_path, ROWS) is None


def in_the_directory(content: bytes, place: int, value: int) -> bytes:
    """A zip archive, one 16-bit field of each entry of its central directory another."""
    found, changed = 0, bytearray(content)
    while (found := content.find(b"PK\x01\x02", found)) >= 0:
        changed[found + place : found + place + 2] = value.to_bytes(2, "little")
        found += 4
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        ("optimizer.pt", lambda content: in_the_directory(content, 8, 1), "RuntimeError"),  # encrypted
        ("scheduler.pt", lambda content: in_the_directory(content, 10, 99), "NotImplementedError"),  # packed so, how?
        ("rng_state.pth", lambda content: in_the_directory(content, 10, 8), "error: "),  # packed, and is not: zlib's
        ("trainer_state.json", lambda content: b"[" * 100_000, "RecursionError"),
    ],
)
def test_damage_of_every_kind_lets_an_older_one_be_taken(tmp_path, capsys, name, damage, named):
    old, new = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    (new / name).write_bytes(damage((new / name).read_bytes()))
    assert newest_whole(tmp_path, ROWS) == old
    assert f"checkpoint-10: half written or damaged ({named}" in capsys.readouterr().err


def test_too_little_memory_deletes_nothing(tmp_path, monkeypatch):
    new = checkpoint(tmp_path, 10)

    def full(path):
        raise MemoryError

    monkeypatch.setattr("safetensors.torch.load_file", full)
    with pytest.raises(MemoryError):
        newest_whole(tmp_path, ROWS)
    assert new.exists()


def test_a_disk_that_does_not_answer_deletes_nothing(tmp_path, monkeypatch):
    old, new = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)

    def stale(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("safetensors.torch.load_file", stale)
    with pytest.raises(
        ArgumentError, match=r"checkpoint-10: cannot be read \(Stale file handle\); nothing was deleted"
    ):
        newest_whole(tmp_path, ROWS)
    assert old.exists()
    assert new.exists()


def test_of_several_processes_each_must_have_left_its_random_state(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    old, new = checkpoint(tmp_path, 5, processes=2), checkpoint(tmp_path, 10, processes=2)
    (new / "rng_state_1.pth").unlink()
    assert newest_whole(tmp_path, ROWS) == old
    assert "checkpoint-10: half written or damaged (rng_state_1.pth is missing)" in capsys.readouterr().err
    assert newest_whole(tmp_path, ROWS) == old


@pytest.mark.parametrize(("wrote", "now"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_what_another_number_of_processes_left_is_refused_and_kept(tmp_path, monkeypatch, wrote, now):
    """It would go on without its random states: transformers only notes that they are missing."""
    left = checkpoint(tmp_path, 10, processes=wrote)
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    monkeypatch.setenv("WORLD_SIZE", str(now))
    with pytest.raises(ArgumentError, match=f"checkpoint-10: is of {wrote} process(es)?, received {now}; nothing was"):
        newest_whole(tmp_path, ROWS)
    assert {path.name: path.read_bytes() for path in left.iterdir()} == before
    monkeypatch.setenv("WORLD_SIZE", str(wrote))
    assert newest_whole(tmp_path, ROWS) == left


def test_what_another_number_of_processes_left_half_written_is_no_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (checkpoint(tmp_path, 10, processes=4) / "rng_state_3.pth").unlink()
    assert newest_whole(tmp_path, ROWS) is None
    assert "(rng_state_3.pth is missing)" in capsys.readouterr().err
