"""Runs as jobs through submitit: processes on this machine. Slurm's own are in `test_grid_slurm.py`."""

import bz2
import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from submitit.core.utils import JobPaths

from allora_analysis import grid
from allora_analysis.finetune.setting import check
from allora_analysis.grid import jobs, plan
from allora_analysis.records import files, packs
from allora_analysis.records.files import Busy
from allora_analysis.records.record import record_path
from allora_analysis.validation import ArgumentError
from tests import tiny_grid, warm, warm_jobs
from tests.tiny_grid import results_of


@pytest.fixture(autouse=True)
def as_a_user(monkeypatch):
    for name, value in warm.USERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tiny_grid.ROOT)
    monkeypatch.setattr(jobs, "POLL", 0.1)
    warm_jobs.start(monkeypatch)


def short(made, results, n=2, **changed):
    """The first few runs, of two steps each."""
    tasks = tiny_grid.grid(made, results).tasks[:n]
    changed = {"max_steps": 2} | changed
    cut = [dataclasses.replace(task, setting=check(dataclasses.replace(task.setting, **changed))) for task in tasks]
    return grid.Grid(tuple(cut), results, "cpu", 1)


def test_processes_record_what_one_process_records(made, tmp_path, capsys):
    assert grid.run(short(made, tmp_path / "one", 3)) == grid.Summary(ran=3)
    few = short(made, tmp_path / "local", 3)
    assert grid.run(dataclasses.replace(few, tasks=few.tasks[:1]), "local") == grid.Summary(ran=1)
    assert grid.run(few, "local", processes=2, timeout_min=30) == grid.Summary(known=1, ran=2)
    assert results_of(tmp_path / "local") == results_of(tmp_path / "one")
    assert "0 runs done, 2 running, 0 to come" in capsys.readouterr().err
    assert grid.run(few, "local") == grid.Summary(known=3)


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
def test_what_a_killed_start_left_goes_once_its_runs_are_recorded_and_nobody_is_at_it(tmp_path, monkeypatch, packed):
    top, recorded = tmp_path / "unfinished" / "jobs", record_path(tmp_path, "finetune", "a" * 64)
    keys = {"done": ["a" * 64], "half": ["a" * 64, "b" * 64], "held": ["a" * 64], "begun": [], "begun long ago": []}
    for name in keys:
        (top / name).mkdir(parents=True)
        (top / name / "1_submitted.pkl").touch()
        if keys[name]:
            jobs.write_down(top / name, {str(number): key for number, key in enumerate(keys[name])})
    os.utime(top / "begun long ago", (0, 0))
    monkeypatch.setattr(jobs, "ENDING", 0.0)
    handle = jobs.use(top / "held")
    jobs._tidy(top, tmp_path)
    assert {path.name for path in top.iterdir()} == {"done", "half", "held", "begun"}
    if packed:
        files.replace(tmp_path / packs.PACK, bz2.compress(packs._tar({recorded.name: b""})))
    else:
        recorded.touch()
    jobs._tidy(top, tmp_path)
    assert {path.name for path in top.iterdir()} == {"half", "held", "begun"}
    os.close(handle)
    shutil.rmtree(top / "begun")
    shutil.rmtree(top / "half")
    jobs._tidy(top, tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / packs.PACK if packed else recorded]


@pytest.mark.bad_input
def test_a_job_that_fails_is_one_line_that_names_its_log_and_the_others_run(made, tmp_path, capsys):
    wanted = short(made, tmp_path / "results", 1)
    wrong = dataclasses.replace(wanted.tasks[0].setting, max_length=2**70)  # more than a tokenizer can count
    shutil.copytree(made.bert, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    (right,) = wanted.tasks
    tasks = (dataclasses.replace(right, setting=wrong), dataclasses.replace(right, model=str(tmp_path / "bare")), right)
    summary = grid.run(dataclasses.replace(wanted, tasks=tasks), "local")
    assert (summary.ran, len(summary.failed)) == (1, 2)
    line, log = summary.failed[0].split("; its log is ")
    assert line.startswith(f"{wrong.words()}: OverflowError")
    assert "Traceback" in Path(log).read_text(encoding="utf-8")
    assert f"{right.setting.words()}: model '{tmp_path / 'bare'}': transformers cannot load it" in summary.failed[1]
    shown = capsys.readouterr().err
    for words in summary.failed:
        assert shown.count(f"not run: {words}\n") == 1
    assert len(list((tmp_path / "results").glob("*.json"))) == 1


def test_a_job_that_is_killed_says_so_and_is_run_again(made, tmp_path, monkeypatch):
    wanted = short(made, tmp_path / "results", 1)
    right = jobs.Processes.look

    def killed(self):
        words = right(self)
        for slot in self.slots:
            slot._process.kill()
            slot._process.wait()
        return words

    with monkeypatch.context() as patch:
        patch.setattr(jobs.Processes, "look", killed)
        summary = grid.run(wanted, "local")
    assert "ended without a result; its log is " in summary.failed[0]
    assert grid.run(wanted, "local").failed == ()
    assert len(results_of(tmp_path / "results")) == 1


def test_ctrl_c_ends_the_processes_and_the_same_call_goes_on(made, tmp_path, capsys, monkeypatch):
    wanted = short(made, tmp_path / "results", 2, max_steps=3000)
    started = []
    right = jobs.Processes.look

    def cut_off(self):
        words = right(self)
        if list((tmp_path / "results").glob("unfinished/finetune-*/checkpoint-*")):
            started.extend(self.slots)
            raise KeyboardInterrupt
        return words

    monkeypatch.setattr(jobs, "GRACE", 0.2)
    monkeypatch.setattr(jobs.Processes, "look", cut_off)
    summary = grid.run(wanted, "local", processes=2)
    assert summary == grid.Summary(interrupted=True)
    assert "the processes are stopped; the same command goes on" in capsys.readouterr().err
    for each in started:
        assert each._process.wait(30) is not None
    assert not list((tmp_path / "results").glob("unfinished/jobs"))
    assert list((tmp_path / "results").glob("unfinished/finetune-*/checkpoint-*"))


def test_a_job_waits_for_the_process_that_is_at_its_run(made, tmp_path, monkeypatch):
    wanted = short(made, tmp_path, 1)
    answers = [Busy("it"), Busy("it"), None]

    def busy(*_):
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(plan, "run_task", busy)
    monkeypatch.setattr(jobs, "WAIT", 0.01)
    assert jobs.Job(tmp_path)(wanted, wanted.tasks[0]) is None
    assert answers == []
    again = jobs.Job(tmp_path).checkpoint(wanted, wanted.tasks[0])
    assert again.args == (wanted, wanted.tasks[0])


@pytest.mark.bad_input
def test_no_room_for_the_next_job_stops_those_that_run(made, tmp_path, monkeypatch):
    wanted = short(made, tmp_path / "results", 2, max_steps=3000)
    started, right = [], jobs.LocalExecutor.submit

    def submit(self, *arguments):
        if started:
            raise OSError(28, "No space left on device")
        started.append(right(self, *arguments))
        return started[0]

    monkeypatch.setattr(jobs.LocalExecutor, "submit", submit)
    with pytest.raises(ArgumentError, match=r"cannot be written \(No space left on device\)"):
        grid.run(wanted, "local", processes=2)
    assert started[0].done()
    assert not list((tmp_path / "results").glob("*.json"))


@pytest.mark.bad_input
def test_gpus_that_are_not_numbered(monkeypatch):
    monkeypatch.setattr(__import__("torch").cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8a1f, GPU-77c0")
    with pytest.raises(ArgumentError, match="CUDA_VISIBLE_DEVICES names a GPU 'GPU-8a1f', where it must give numbers"):
        jobs.visible_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 0")
    assert jobs.visible_gpus() == [1, 0]


def test_each_process_has_a_gpu_of_its_own_and_its_share_of_the_cores(made, tmp_path, monkeypatch):
    wanted = dataclasses.replace(short(made, tmp_path, 2), device="auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    fleet = jobs.Processes(tmp_path, wanted, list(wanted.tasks), {})
    assert [executor.parameters["visible_gpus"] for executor in fleet.executors] == [(2,), (5,)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert jobs.visible_gpus() == list(range(__import__("torch").cuda.device_count()))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)), raising=False)
    fleet = jobs.Processes(tmp_path, dataclasses.replace(wanted, device="cpu"), list(wanted.tasks), {})
    assert (fleet.size, fleet.threads) == (2, 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    with jobs._threads(4):
        assert os.environ["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.bad_input
def test_what_an_executor_does_not_know_is_refused_in_one_line(made, tmp_path, monkeypatch):
    wanted = short(made, tmp_path / "results", 1)
    with pytest.raises(ArgumentError, match="executor local: knows no parameter 'mem_gb', but processes, timeout_min"):
        grid.run(wanted, "local", mem_gb=3)
    with pytest.raises(ArgumentError, match="timeout_min must be a whole number"):
        grid.run(wanted, "local", timeout_min=0)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ArgumentError, match="no sbatch here; run on a cluster's login node"):
        grid.run(wanted, "slurm")
    assert not list(tmp_path.glob("results/unfinished/*"))
    wanted.results.mkdir(exist_ok=True)
    (wanted.results / "unfinished").write_text("in the way")
    with pytest.raises(ArgumentError, match="cannot be written"):
        grid.run(wanted, "local")


def test_ctrl_c_before_an_array_is_written_down_cancels_it(made, tmp_path, monkeypatch):
    """A cluster in name: what is asked of it is kept."""
    wanted, asked = short(made, tmp_path / "results"), []
    paths = [JobPaths(tmp_path, job_id=f"7_{index}") for index in range(2)]

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setattr(jobs, "_queue", dict)
    monkeypatch.setattr(jobs, "_submit", lambda *_: paths)
    monkeypatch.setattr(jobs, "write_down", stopped)
    monkeypatch.setattr(jobs.subprocess, "run", lambda words, **_: asked.append(words))
    (tmp_path / "jobs" / "here").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        jobs.Array(tmp_path / "jobs" / "here", wanted, list(wanted.tasks), {})
    assert asked == [["scancel", "7_0", "7_1"]]
