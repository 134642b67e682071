"""One run after the other: recorded once, neighbors waited for, one run's mistake no other's."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from allora_analysis import grid, records
from allora_analysis.finetune.setting import PROTOCOL, STUDY, check
from allora_analysis.grid import plan
from allora_analysis.records.files import hold
from allora_analysis.validation import ArgumentError
from tests import tiny_grid


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_grid.sources(tmp_path_factory.mktemp("sources"))


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
