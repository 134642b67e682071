"""One run after the other, and a grid killed, doubled or without room: each run recorded once, none lost."""

import dataclasses
import json
import os
import shutil
import signal
import threading
import time

import pytest

from allora_analysis import grid, records
from allora_analysis.finetune.setting import PROTOCOL, STUDY, check
from allora_analysis.grid import plan
from allora_analysis.grid.command import main
from allora_analysis.records.files import hold
from allora_analysis.validation import ArgumentError
from tests import tiny_grid
from tests.tiny_grid import PRESETS, RUNS, finish, results_of, start


def short(made, results, n=3):
    """The first few runs, of two steps each."""
    tasks = tiny_grid.grid(made, results).tasks[:n]
    cut = [dataclasses.replace(task, setting=check(dataclasses.replace(task.setting, max_steps=2))) for task in tasks]
    return grid.Grid(tuple(cut), results, "cpu", 1)


def test_what_is_recorded_is_not_run_again(made, tmp_path, capsys, monkeypatch):
    wanted = short(made, tmp_path / "results")
    assert grid.run(dataclasses.replace(wanted, tasks=wanted.tasks[1:2])) == grid.Summary(known=0, ran=1)
    assert grid.run(wanted) == grid.Summary(known=1, ran=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recorded")]
    assert [line.rpartition(": ")[2].split(", ")[1] for line in lines] == ["0 to go", "1 to go", "0 to go"]
    assert lines[0].startswith("recorded bert, films, allora_0, rank 2, η² = 4, adamw at 0.01 (head 0.0001), seed 0: ")
    before = tiny_grid.results_of(wanted.results)
    assert len(before) == 3
    monkeypatch.setattr(plan, "run_task", None)
    assert grid.run(wanted) == grid.Summary(known=3, ran=0)
    assert tiny_grid.results_of(wanted.results) == before
    assert list(plan.recorded(wanted)) == list(wanted.tasks)


def test_a_run_that_a_neighbour_is_at_comes_last_and_is_not_run_twice(made, tmp_path, capsys, monkeypatch):
    wanted = short(made, tmp_path / "results")
    first = wanted.tasks[0]
    key = records.key(first.setting, PROTOCOL, plan.digests(first))
    order, right = [], plan.run_task
    monkeypatch.setattr(plan, "PATIENCE", 0.05)
    held, others = threading.Event(), threading.Event()

    def neighbour():
        with hold(records.unfinished(wanted.results, STUDY, key).with_suffix(".lock"), "it"):
            held.set()
            others.wait(60)
            time.sleep(0.3)
            records.save(
                wanted.results, STUDY, first.setting, {}, protocol=PROTOCOL, digests=plan.digests(first), provenance={}
            )

    def watched(of, task):
        order.append(task)
        if len(order) >= 5:  # it was looked at again, and was still held
            others.set()
        return right(of, task)

    monkeypatch.setattr(plan, "run_task", watched)
    thread = threading.Thread(target=neighbour)
    thread.start()
    held.wait(60)
    assert grid.run(wanted) == grid.Summary(known=1, ran=2)
    thread.join()
    assert order[:3] == list(wanted.tasks)
    assert set(order[3:]) == {first}
    assert len(records.find(wanted.results)) == 3
    words = f"waiting for 1 of the runs: {first.setting.words()}: another process is at this run"
    assert capsys.readouterr().err.count(words) == 1


def test_ctrl_c_stops_and_the_same_call_goes_on(made, tmp_path, monkeypatch):
    wanted = short(made, tmp_path / "results")
    right = plan.run_task

    def cut_off(of, task):
        if task == wanted.tasks[1]:
            raise KeyboardInterrupt
        return right(of, task)

    with monkeypatch.context() as patch:
        patch.setattr(plan, "run_task", cut_off)
        assert grid.run(wanted) == grid.Summary(known=0, ran=1, interrupted=True)
    assert grid.run(wanted) == grid.Summary(known=1, ran=2)


@pytest.mark.bad_input
@pytest.mark.parametrize("error", [ArgumentError("of the user's"), RuntimeError("of\nthe toolkit's")])
def test_one_runs_mistake_does_not_stop_the_others(made, tmp_path, capsys, monkeypatch, error):
    wanted = short(made, tmp_path / "results")
    right = plan.run_task

    def planted(of, task):
        if task == wanted.tasks[1]:
            raise error
        return right(of, task)

    with monkeypatch.context() as patch:
        patch.setattr(plan, "run_task", planted)
        summary = grid.run(wanted)
    assert (summary.known, summary.ran, summary.interrupted) == (0, 2, False)
    (words,) = summary.failed
    assert words.startswith(wanted.tasks[1].setting.words())
    assert "\n" not in words
    shown = capsys.readouterr().err
    assert shown.count(f"not run: {words}\n") == 1
    # The toolkit's own mistakes show where they come from.
    assert ("Traceback" in shown) is not isinstance(error, ArgumentError)
    assert grid.run(wanted) == grid.Summary(known=2, ran=1)


def test_what_a_kill_left_of_a_recorded_run_is_taken_away(made, tmp_path):
    wanted = short(made, tmp_path / "results", 2)
    grid.run(dataclasses.replace(wanted, tasks=wanted.tasks[:1]))
    (path,) = wanted.results.glob("*.json")
    left = wanted.results / records.UNFINISHED / path.stem
    (left / "checkpoint-1").mkdir(parents=True)
    with hold(left.with_suffix(".lock"), "it"):  # its process is still tidying up
        plan.sweep(wanted, plan.recorded(wanted))
        assert left.exists()
    assert grid.run(wanted) == grid.Summary(known=1, ran=1)
    assert len(tiny_grid.results_of(wanted.results)) == 2


@pytest.mark.parametrize(("precision", "wanted"), [("bf16", "eager"), ("fp32", "sdpa")])
def test_bf16_on_a_cpu_is_trained_with_plain_products(made, tmp_path, precision, wanted):
    """As by the command of one run."""
    some = short(made, tmp_path / "results", 1)
    (task,) = some.tasks
    task = dataclasses.replace(task, setting=dataclasses.replace(task.setting, precision=precision))
    grid.run(dataclasses.replace(some, tasks=(task,)))
    (record,) = records.find(some.results, STUDY)
    assert record.provenance["attention"] == wanted


@pytest.fixture(scope="module")
def reference(made, tmp_path_factory):
    """What an undisturbed grid records."""
    results = tmp_path_factory.mktemp("one") / "results"
    code, out, err = finish(start(made, results))
    assert (code, out) == (0, f"0 runs were recorded before, {RUNS} now, 0 could not be run\n"), err
    return results_of(results)


def written(path):
    """Whether a checkpoint's last file is written to its end; it is there, and empty, before."""
    try:
        return "global_step" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def unfinished(results):
    """Whole checkpoints of runs that are not recorded."""
    try:
        found = list(results.glob("unfinished/finetune-*/checkpoint-*/trainer_state.json"))
    except FileNotFoundError:  # a folder that a finished run took away while it was being looked through
        return []
    return [path for path in found if written(path) and not (results / f"{path.parts[-3]}.json").exists()]


def in_the_middle(process, results, recorded=1):
    """Wait until some runs are recorded and another has a checkpoint; hold the process there."""
    until = time.monotonic() + 200
    while time.monotonic() < until and process.poll() is None:
        if len(list(results.glob("*.json"))) >= recorded and unfinished(results):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            if unfinished(results):
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
    process.kill()
    raise AssertionError(finish(process))


def test_kill_9_in_the_middle_and_the_same_command_again(made, tmp_path, reference):
    results = tmp_path / "results"
    process = start(made, results)
    in_the_middle(process, results, recorded=2)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    before = {path.name: path.read_bytes() for path in results.glob("*.json")}
    assert 2 <= len(before) < RUNS
    code, out, err = finish(start(made, results))
    assert (code, out) == (
        0,
        f"{len(before)} runs were recorded before, {RUNS - len(before)} now, 0 could not be run\n",
    ), err
    assert results_of(results) == reference
    assert {name: (results / name).read_bytes() for name in before} == before
    # The run that was cut off went on from its checkpoint.
    assert sum(record.provenance["resumed"] for record in records.find(results)) == 1


def test_ctrl_c_is_status_130_and_the_same_command_goes_on(made, tmp_path, reference):
    results = tmp_path / "results"
    process = start(made, results)
    in_the_middle(process, results)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    code, out, err = finish(process)
    assert (code, "Traceback" in err) == (130, False), err
    assert err.endswith("interrupted: the same command goes on\n")
    done = len(list(results.glob("*.json")))
    assert out == f"0 runs were recorded before, {done} now, 0 could not be run\n"
    code, out, err = finish(start(made, results))
    assert code == 0, err
    assert results_of(results) == reference


def test_two_grids_at_once_record_each_run_once(made, tmp_path, reference):
    results = tmp_path / "results"
    grids = [start(made, results) for _ in range(2)]
    ended = [finish(process) for process in grids]
    assert [code for code, _, _ in ended] == [0, 0], ended
    now = [int(out.split(", ")[1].split()[0]) for _, out, _ in ended]
    assert sum(now) == RUNS
    assert sum(err.count("recorded bert, films") for _, _, err in ended) == RUNS
    assert results_of(results) == reference


def test_a_full_disk_is_a_line_a_run_and_with_room_the_same_command_records_all(made, tmp_path, reference):
    results = tmp_path / "results"
    code, out, err = finish(start(made, results, most=10_000, PYTHONDONTWRITEBYTECODE="1"))
    assert code == 1, err
    assert out == f"0 runs were recorded before, 0 now, {RUNS} could not be run\n"
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("not run: ")]
    assert len(lines) == RUNS
    assert all("cannot be written" in line or "not recorded" in line for line in lines), lines
    assert not list(results.glob("*.json"))
    code, out, err = finish(start(made, results))
    assert (code, out) == (0, f"0 runs were recorded before, {RUNS} now, 0 could not be run\n"), err
    assert results_of(results) == reference


def test_a_full_disk_under_processes_is_one_line_and_with_room_the_same_command_records_all(made, tmp_path, reference):
    results, more = tmp_path / "results", ("--executor", "local", "--only", "head_only", "--seeds", "1")
    # Python would leave its own files cut, and read them.
    code, out, err = finish(start(made, results, *more, most=300, PYTHONDONTWRITEBYTECODE="1"))
    assert (code, out) == (2, ""), err
    assert "cannot be written (File too large)" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not list(results.rglob("*.pkl"))
    code, out, err = finish(start(made, results, *more))
    assert (code, out) == (0, "0 runs were recorded before, 1 now, 0 could not be run\n"), err
    recorded = results_of(results)
    assert len(recorded) == 1
    assert recorded == {name: reference[name] for name in recorded}


@pytest.mark.bad_input
def test_a_model_that_cannot_be_loaded_stops_its_own_runs_only(made, tmp_path, capsys):
    shutil.copytree(made.bert, tmp_path / "bare")
    os.remove(tmp_path / "bare" / "model.safetensors")
    some = [dataclasses.replace(one, max_steps=2) for one in PRESETS["desk"][:2]]
    presets = {"desk": [dataclasses.replace(some[0], model="bare"), *some]}
    flags = tiny_grid.flags(made, tmp_path / "results")
    flags.insert(1, f"bare={tmp_path / 'bare'}")
    assert main("tiny", presets, flags) == 1
    shown = capsys.readouterr()
    assert shown.out == "0 runs were recorded before, 2 now, 1 could not be run\n"
    (line,) = [line for line in shown.err.splitlines() if line.startswith("not run: ")]
    assert line.startswith("not run: bare, films, lora, ")
    assert "transformers cannot load it" in line
    assert "Traceback" not in shown.err
