"""A run that was stopped, at any moment and in any way, goes on to the result of a run that was not."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from allora_analysis.cli import main
from allora_analysis.finetune import data as text_data
from allora_analysis.finetune.setting import WITH_ETA, Setting, check
from allora_analysis.finetune.study import STUDY
from allora_analysis.finetune.training import newest_whole
from allora_analysis.validation import ArgumentError
from tests import tiny_finetune as tiny
from tests import warm

pytest.importorskip("peft")
from allora_analysis.finetune import models, run, sources, trainer

ROOT = Path(__file__).parents[1]
# Dropout of the model's own and of the adapters, a warm-up and parts of a batch: all of it must go on where it was.
SETTING = check(
    Setting(
        "bert", "films", "allora", eta2=2.0, rank=2, learning_rate=0.01, head_learning_rate=0.02, drop_rate=0.05,
        epochs=2, batch_size=8, accumulation=2, warmup_steps=4,
    )
)  # fmt: skip
FLAGS = {
    "--arm": "allora", "--eta2": 2, "--rank": 2, "--learning-rate": 0.01, "--head-learning-rate": 0.02,
    "--drop-rate": 0.05, "--epochs": 2, "--batch-size": 8, "--accumulation": 2, "--warmup-steps": 4, "--device": "cpu",
    "--checkpoint-steps": 4,
}  # fmt: skip


class Killed(BaseException):
    """What no code catches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    tiny.bert(root / "bert")
    tiny.sentences(root / "films")
    return root


@pytest.fixture(scope="module")
def films(folder):
    return text_data.load(str(folder / "films"))


def start(folder, films, results, made=SETTING):
    def load():
        return models.load(str(folder / "bert"), films.classes)

    digests = {"model": sources.digest(str(folder / "bert")), "data": films.digest}
    return run.run(made, load, films, digests, results, save_steps=4, device="cpu")


@pytest.fixture(scope="module")
def undisturbed(folder, films, tmp_path_factory):
    return plain(start(folder, films, tmp_path_factory.mktemp("undisturbed")).result)


def plain(result):
    return json.loads(json.dumps(result))


def record(results):
    (path,) = results.glob("finetune-*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def stop_at(monkeypatch, step, error):
    """Stop at the very end of a step, after its evaluation and its checkpoint; the next start is left alone."""
    theirs = trainer.Watched._maybe_log_save_evaluate

    def stopped(self, *args, **kwargs):
        theirs(self, *args, **kwargs)
        if self.state.global_step == step:
            raise error

    monkeypatch.setattr(trainer.Watched, "_maybe_log_save_evaluate", stopped)


def checkpoints(results):
    return sorted(int(path.name.rpartition("-")[2]) for path in results.glob("unfinished/finetune-*/checkpoint-*"))


@pytest.mark.parametrize(
    ("step", "left"),
    [(2, []), (4, [4]), (6, [4]), (12, [4, 8])],
)  # 6 and 12 end an epoch
def test_stopped_at_any_step(folder, films, undisturbed, tmp_path, monkeypatch, step, left):
    with monkeypatch.context() as patch:
        stop_at(patch, step, Killed())
        with pytest.raises(Killed):
            start(folder, films, tmp_path)
    assert checkpoints(tmp_path) == left
    assert not [*tmp_path.glob("*.json")]
    assert plain(start(folder, films, tmp_path).result) == undisturbed
    assert record(tmp_path)["provenance"]["resumed"] == bool(left)
    assert record(tmp_path)["result"] == undisturbed
    assert not (tmp_path / "unfinished").exists()


def test_the_assertion_sees_a_run_that_forgot_its_dropout(folder, films, undisturbed, tmp_path, monkeypatch):
    """The planted error: a checkpoint whose random state is not restored."""
    with monkeypatch.context() as patch:
        stop_at(patch, 4, Killed())
        with pytest.raises(Killed):
            start(folder, films, tmp_path)
        patch.undo()
        patch.setattr(trainer.Watched, "_load_rng_state", lambda self, checkpoint: None)
        assert plain(start(folder, films, tmp_path).result) != undisturbed


@pytest.fixture(scope="module")
def stopped(folder, films, tmp_path_factory):
    """A folder of a run that was stopped at step 9."""
    results = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 9, Killed())
        with pytest.raises(Killed):
            start(folder, films, results)
    return results


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"])
def test_a_damaged_newest_checkpoint(folder, films, undisturbed, stopped, tmp_path, capsys, name):
    results = shutil.copytree(stopped, tmp_path / "results")
    (newest,) = results.glob("unfinished/finetune-*/checkpoint-8")
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(content[: len(content) // 2])
    assert plain(start(folder, films, results).result) == undisturbed
    assert "checkpoint-8: half written or damaged" in capsys.readouterr().err


def test_no_checkpoint_is_whole(folder, films, undisturbed, stopped, tmp_path):
    results = shutil.copytree(stopped, tmp_path / "results")
    for path in results.glob("unfinished/finetune-*/checkpoint-*/trainer_state.json"):
        path.write_text("{")
    assert plain(start(folder, films, results).result) == undisturbed
    assert record(results)["provenance"]["resumed"] is False


@pytest.mark.bad_input
@pytest.mark.parametrize("where", ["weights", "optimizer", "state"])
def test_a_full_disk_is_one_line_and_nothing_is_lost(folder, films, undisturbed, tmp_path, monkeypatch, where):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def torchs(*args, **kwargs):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    theirs, calls = trainer.Watched._save_checkpoint, []

    def second(self, *args, **kwargs):
        calls.append(self.state.global_step)
        if len(calls) == 2:
            if where == "weights":
                patch.setattr("peft.peft_model.safe_save_file", full)
            elif where == "optimizer":
                patch.setattr(torch, "save", torchs)
            else:
                patch.setattr("transformers.TrainerState.save_to_json", full)
        theirs(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Watched, "_save_checkpoint", second)
        with pytest.raises(ArgumentError, match="cannot be written") as caught:
            start(folder, films, tmp_path)
    assert "\n" not in str(caught.value)
    assert "the same command goes on" in str(caught.value)
    assert calls == [4, 8]
    assert plain(start(folder, films, tmp_path).result) == undisturbed
    assert record(tmp_path)["provenance"]["resumed"] is True


def command(folder, results):
    paths = {"--model": folder / "bert", "--data": folder / "films", "--results": results}
    return [str(word) for pair in (paths | FLAGS).items() for word in pair]


@pytest.mark.parametrize(("step", "words"), [(2, "the start: no checkpoint yet"), (5, "step 4")])
def test_ctrl_c_says_where_the_same_command_goes_on(folder, tmp_path, monkeypatch, capsys, step, words):
    theirs = trainer.History.on_step_end

    def interrupted(self, args, state, control, **kwargs):
        theirs(self, args, state, control, **kwargs)
        if state.global_step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer.History, "on_step_end", interrupted)
    assert main(STUDY, command(folder, tmp_path)) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == f"interrupted: the same command goes on from {words}"
    assert "Traceback" not in captured.err


def test_killed_while_a_neighbour_starts(folder, undisturbed, tmp_path, capsys):
    """SIGKILL once there is a checkpoint; before it, a second process at the same run; after it, the same command."""
    program = ["allora_analysis.finetune", *command(folder, tmp_path)]
    first = warm.Popen(*program)
    for _ in range(12000):
        if checkpoints(tmp_path) or first.poll() is not None:
            break
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # a run of a second would be over before the neighbor has started
    assert first.poll() is None, first.communicate()
    assert main(STUDY, command(folder, tmp_path)) == 2
    assert "another process is at this run" in capsys.readouterr().err
    first.kill()
    assert first.wait() == -signal.SIGKILL
    first.communicate()
    assert not [*tmp_path.glob("*.json")]
    assert main(STUDY, command(folder, tmp_path)) == 0
    table = capsys.readouterr().out
    assert record(tmp_path)["result"] == undisturbed
    again = warm.Popen(*program)
    output, remarks = again.communicate()
    assert (output, len(remarks.splitlines()), again.returncode) == (table, 1, 0)
    assert "allora's factor is" in remarks  # AdamW's doing, which is said of a recorded run, too


def test_a_recorded_run_is_found_without_loading_torch(folder, films, undisturbed, tmp_path):
    start(folder, films, tmp_path)
    code = "import sys; from allora_analysis.cli import main; from allora_analysis.finetune.study import STUDY\n"
    code += "status = main(STUDY, sys.argv[1:]); sys.exit(9 if {'torch', 'transformers'} & {*sys.modules} else status)"
    program = [sys.executable, "-c", code, *command(folder, tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_norms_are_in_the_log_once(undisturbed):
    assert undisturbed["row_norms"]["step"] == list(trainer.norm_steps(12))


@pytest.mark.parametrize("arm", ["asf_lora", "pissa", "dora", "head_only", "allora_adamw"])
def test_every_kind_of_arm_goes_on(folder, films, tmp_path, monkeypatch, arm):
    """Each kind of checkpoint: ALLoRA's files, PEFT's, a full model's, an optimizer of our own."""
    eta2 = {"eta2": 2.0} if arm in WITH_ETA else {}
    made = check(Setting("bert", "films", arm, rank=2, learning_rate=0.01, batch_size=8, max_steps=6, **eta2))
    whole = plain(start(folder, films, tmp_path / "whole", made).result)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, Killed())
        with pytest.raises(Killed):
            start(folder, films, tmp_path, made)
    assert checkpoints(tmp_path) == [4]
    assert plain(start(folder, films, tmp_path, made).result) == whole
    assert record(tmp_path)["provenance"]["resumed"] is True


def test_a_bf16_run_that_was_killed_ends_in_the_same_bytes(folder, films, tmp_path, monkeypatch):
    """bf16 autocast, with dropout: the weights, the optimizer and the random states are kept in full precision."""
    fields = {"precision": "bf16", "drop_rate": 0.2, "learning_rate": 0.01, "batch_size": 8, "max_steps": 8}
    made = check(Setting("bert", "films", "lora", rank=2, **fields))
    start(folder, films, tmp_path / "whole", made)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, Killed())
        with pytest.raises(Killed):
            start(folder, films, tmp_path / "killed", made)
    start(folder, films, tmp_path / "killed", made)
    whole, killed = (record(tmp_path / name) for name in ("whole", "killed"))
    assert killed["provenance"]["resumed"] is True
    assert whole["provenance"]["bf16"] == killed["provenance"]["bf16"] is not None
    assert json.dumps(killed["result"]) == json.dumps(whole["result"])


# -- which of a stopped run's checkpoints is whole


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
