"""What a grid has to run, what is recorded of it, and where its models and data come from."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from allora_analysis import grid, records
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.finetune.sources import HUB, resolve
from allora_analysis.grid import plan
from allora_analysis.grid.command import select
from allora_analysis.grid.presets import LISTS, command
from allora_analysis.validation import ArgumentError
from tests import tiny_grid


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_grid.sources(tmp_path_factory.mktemp("sources"))


def record(of: grid.Grid, task: grid.Task, protocol: int = PROTOCOL):
    records.save(of.results, STUDY, task.setting, {}, protocol=protocol, digests=plan.digests(task), provenance={})


def test_what_is_recorded_is_told_by_setting_content_and_protocol(made, tmp_path):
    wanted = tiny_grid.grid(made, tmp_path / "results")
    assert set(plan.recorded(wanted).values()) == {None}
    assert not wanted.results.exists()
    record(wanted, wanted.tasks[2])
    record(wanted, wanted.tasks[3], PROTOCOL + 1)
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
    monkeypatch.delitem(sys.modules, "allora_analysis.grid.jobs", raising=False)
    monkeypatch.delattr(sys.modules["allora_analysis.grid"], "jobs", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "submitit"] or ["submitit"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ArgumentError, match=r"executor local: needs submitit.*pip install 'allora-analysis\[cluster\]'"
    ):
        grid.run(wanted, "local")


def test_sources_are_the_users_or_else_the_hubs(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve(["emotion", "mine", "emotion"], ["mine=a/b=c"]) == {"emotion": HUB["emotion"], "mine": "a/b=c"}
    assert resolve(["emotion"], ["emotion=~/films"]) == {"emotion": "/home/someone/films"}
    assert resolve(["films", "emotion"], needed=["emotion"]) == {"films": "films", "emotion": HUB["emotion"]}


def test_a_command_names_every_model_and_data_set_once():
    told = command("learning_rates", LISTS["learning_rates"]["desk"])
    folders = "all-MiniLM-L6-v2=FOLDER SmolLM2-135M=FOLDER rotten_tomatoes=FOLDER"
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
    ],
)
def test_a_source_that_makes_no_sense_is_refused(names, given, words):
    with pytest.raises(ArgumentError, match=words):
        resolve(names, given)
