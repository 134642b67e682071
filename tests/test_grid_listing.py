"""What a dry run says: which runs are recorded, and how long the rest will take, without asking the hub."""

from __future__ import annotations

import dataclasses

import pytest

from allora_analysis import records
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.grid import Task, plan
from tests import tiny_grid


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_grid.sources(tmp_path_factory.mktemp("sources"))


def record(folder, setting, digests, seconds=0.5, protocol=PROTOCOL):
    result = {"rows": {"train": 50}}
    facts = {"seconds_a_step": seconds}
    records.save(folder, STUDY, setting, result, protocol=protocol, digests=digests, provenance=facts)


def hub(grid):
    """The same runs, on models and data that are not here."""
    return dataclasses.replace(grid, tasks=tuple(Task(task.setting, "some/bert", "some/films") for task in grid.tasks))


def test_what_is_here_must_have_the_records_content_what_is_not_is_trusted(made, tmp_path):
    grid = tiny_grid.grid(made, tmp_path)
    first, second, third, *_ = grid.tasks
    record(tmp_path, first.setting, plan.digests(first))
    record(tmp_path, second.setting, {"model": "another", "data": plan.digests(second)["data"]})
    record(tmp_path, third.setting, {"model": plan.digests(third)["model"], "data": "another"})
    record(tmp_path, grid.tasks[3].setting, plan.digests(grid.tasks[3]), protocol=PROTOCOL + 1)
    assert [one is not None for one in plan.listed(grid).values()] == [True] + 5 * [False]
    assert [one is not None for one in plan.listed(hub(grid)).values()] == 3 * [True] + 3 * [False]


def test_an_empty_folder_has_nothing(made, tmp_path):
    grid = tiny_grid.grid(made, tmp_path / "none")
    known = plan.listed(grid)
    assert set(known.values()) == {None}
    assert plan.forecast(grid, known) == (0.0, tiny_grid.RUNS)
    assert not grid.results.exists()


def test_a_run_takes_its_steps_times_the_median_pace_of_its_like(made, tmp_path):
    grid = tiny_grid.grid(made, tmp_path)
    lora, allora, *_ = (task.setting for task in grid.tasks)
    for seed, seconds in enumerate((0.1, 0.2, 9.0)):
        record(tmp_path, dataclasses.replace(lora, seed=seed), {"n": "a"}, seconds)
    record(tmp_path, dataclasses.replace(allora, seed=7), {"n": "a"}, 0.4)
    record(tmp_path, dataclasses.replace(allora, seed=8, batch_size=4), {"n": "a"}, 70.0)
    known = plan.listed(hub(grid))
    assert [one is not None for one in known.values()] == [True, False, False, True, False, False]
    # 4 epochs of ceil(50/8) steps; two runs at ALLoRA's own pace, two of no arm's: the median of all four of the batch.
    seconds, unknown = plan.forecast(grid, known)
    assert seconds == pytest.approx(4 * 7 * 2 * (0.4 + 0.3))
    assert unknown == 0
    assert dataclasses.replace(lora, max_steps=5).steps(50) == 5
    fresh = {Task(dataclasses.replace(lora, max_steps=10, seed=9), "m", "d"): None}
    assert plan.forecast(grid, fresh).seconds == pytest.approx(2.0)
    # A run that diverged in its first step was not timed; of another study's hand a record may lack the field.
    record(tmp_path, dataclasses.replace(lora, seed=10), {"n": "a"}, None)
    records.save(
        tmp_path, STUDY, dataclasses.replace(lora, seed=11), {"rows": {"train": 50}}, protocol=PROTOCOL, provenance={}
    )
    assert plan.forecast(grid, fresh).seconds == pytest.approx(2.0)
    fresh = {Task(dataclasses.replace(lora, batch_size=2), "m", "d"): None}
    assert plan.forecast(grid, fresh) == (0.0, 1)
