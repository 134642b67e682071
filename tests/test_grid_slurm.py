"""Runs as jobs on a real Slurm of two nodes on this machine: `make slurm`."""

import dataclasses
import json
import re
import time

import pytest

from allora_analysis import grid, records
from allora_analysis.finetune.setting import PROTOCOL, check
from allora_analysis.grid import jobs, plan
from allora_analysis.grid.command import main
from allora_analysis.validation import ArgumentError
from tests import tiny_grid, warm
from tests.slurm import cluster as clusters
from tests.tiny_grid import results_of

pytestmark = pytest.mark.slurm
STEPS = 800  # so many that a job asked to go is not done before it goes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    try:
        clusters.start(folder)
        yield folder
    finally:
        clusters.stop(folder)


@pytest.fixture(autouse=True)
def as_a_user(cluster, monkeypatch):
    for name, value in (warm.USERS | clusters.environment(cluster)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tiny_grid.ROOT)
    monkeypatch.setattr(jobs, "POLL", 0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_grid.sources(tmp_path_factory.mktemp("sources"), 400)  # 50 steps an epoch


def long(made, results, n=3):
    tasks = tiny_grid.grid(made, results).tasks[:n]
    slow = [
        dataclasses.replace(task, setting=check(dataclasses.replace(task.setting, max_steps=STEPS))) for task in tasks
    ]
    return grid.Grid(tuple(slow), results, "cpu", 20)


@pytest.fixture(scope="module")
def reference(made, tmp_path_factory):
    """What one process records of the same runs."""
    results = tmp_path_factory.mktemp("one") / "results"
    assert grid.run(long(made, results)).ran == 3
    return results_of(results)


def key(task):
    return records.key(task.setting, PROTOCOL, plan.digests(task))


def watched(monkeypatch, see):
    """Call `see(fleet)` at every look at the jobs."""
    right = jobs.Array.look

    def look(self):
        see(self)
        return right(self)

    monkeypatch.setattr(jobs.Array, "look", look)


def running(cluster):
    """Running jobs and their nodes."""
    rows = clusters.command(cluster, "squeue", "--array", "--noheader", "--states=R", "--format=%i %N")
    return dict(row.split() for row in rows.splitlines())


def half_written(results, fleet, nodes, node):
    """A job on the node whose run has a checkpoint but no record."""
    for task, paths in fleet.paths.items():
        unfinished = results / "unfinished" / f"finetune-{key(task)[:20]}"
        if nodes.get(paths.job_id) == node and len(list(unfinished.glob("checkpoint-*"))) >= 2:
            return task, paths.job_id
    return None


@pytest.mark.bad_input
def test_jobs_that_cannot_be_written_down_are_cancelled(cluster, made, tmp_path, monkeypatch):
    """Or the next start would not know them, and submit all again."""

    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs, "write_atomically", full)
    with pytest.raises(ArgumentError, match=r"cannot be written \(No space left on device\)"):
        grid.run(long(made, tmp_path / "results"), "slurm", timeout_min=30)
    until = time.monotonic() + 60
    while (queued := clusters.command(cluster, "squeue", "--noheader")) and time.monotonic() < until:
        time.sleep(0.5)
    assert queued == ""
    assert not list((tmp_path / "results").glob("*.json"))


def test_ctrl_c_leaves_the_jobs_and_the_same_call_waits_for_them_on_both_nodes(
    cluster, made, tmp_path, reference, capsys, monkeypatch
):
    wanted = long(made, tmp_path / "results")
    used = set()

    def cut_off(fleet):
        if running(cluster):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        watched(patch, cut_off)
        summary = grid.run(wanted, "slurm", slurm_array_parallelism=3, timeout_min=30)
    assert summary == grid.Summary(interrupted=True)
    assert "the jobs go on, and the same command waits for them again; to end them: scancel " in capsys.readouterr().err
    (folder,) = (wanted.results / "unfinished" / "jobs").iterdir()
    assert sorted(json.loads((folder / jobs.SUBMITTED).read_text(encoding="utf-8")).values()) == sorted(
        map(key, wanted.tasks)
    )
    monkeypatch.setattr(jobs, "_submit", None)  # nothing is submitted twice
    watched(monkeypatch, lambda fleet: used.update(running(cluster).values()))
    assert grid.run(wanted, "slurm") == grid.Summary(known=0, ran=3)
    assert used == set(clusters.NODES)
    assert results_of(wanted.results) == reference
    assert "jobs done, " in capsys.readouterr().err


def test_a_node_dies_with_its_jobs_and_their_requeued_copies_finish_the_runs(
    cluster, made, tmp_path, reference, monkeypatch
):
    wanted = long(made, tmp_path / "results")
    lost = []

    def kill(fleet):
        if not lost and (found := half_written(wanted.results, fleet, running(cluster), "n2")):
            clusters.kill_node(cluster, "n2")
            lost.append(found)

    watched(monkeypatch, kill)
    try:
        assert grid.run(wanted, "slurm") == grid.Summary(known=0, ran=3)
        ((task, job),) = lost
        assert "Restarts=1" in clusters.command(cluster, "scontrol", "show", "job", job)
        assert clusters.states(cluster)["n2"].startswith("down")
    finally:
        clusters.start_node(cluster, "n2")
    assert results_of(wanted.results) == reference
    resumed = [one.path.name for one in records.find(wanted.results) if one.provenance["resumed"]]
    assert resumed == [f"finetune-{key(task)[:20]}.json"]


def test_requeued_and_preempted_jobs_go_on_from_their_checkpoints(cluster, made, tmp_path, reference, monkeypatch):
    wanted = long(made, tmp_path / "results", 2)
    hit = {}

    def disturb(fleet):
        for node in clusters.NODES:
            found = half_written(wanted.results, fleet, running(cluster), node)
            if not found or found[1] in hit:
                continue
            task, job = found
            if not hit:  # an operator's hand
                clusters.requeue(cluster, job)
            else:  # as Slurm does to a job that must make way: submitit's handler requeues it
                clusters.command(cluster, "scancel", job, "--signal", "SIGTERM")
                clusters.command(cluster, "scancel", job, "--signal", "USR2")
            hit[job] = task

    watched(monkeypatch, disturb)
    assert grid.run(wanted, "slurm") == grid.Summary(known=0, ran=2)
    assert set(hit.values()) == set(wanted.tasks)
    for job in hit:
        assert "Restarts=1" in clusters.command(cluster, "scontrol", "show", "job", job)
    found = records.find(wanted.results)
    assert [record.provenance["resumed"] for record in found] == [True, True]
    assert {record.path.name: record.result for record in found}.items() <= reference.items()


@pytest.mark.bad_input
def test_jobs_that_fail_or_vanish_are_a_line_each(cluster, made, tmp_path, capsys, monkeypatch):
    wanted = long(made, tmp_path / "results", 2)
    wrong = dataclasses.replace(wanted.tasks[0].setting, max_length=2**70)  # more than a tokenizer can count
    wanted = dataclasses.replace(wanted, tasks=(dataclasses.replace(wanted.tasks[0], setting=wrong), wanted.tasks[1]))
    monkeypatch.setattr(jobs, "GONE", 2.0)

    def cancel(fleet):
        job = fleet.paths[wanted.tasks[1]].job_id
        if job in running(cluster):
            clusters.command(cluster, "scancel", job)

    watched(monkeypatch, cancel)
    summary = grid.run(wanted, "slurm")
    assert (summary.known, summary.ran, len(summary.failed)) == (0, 0, 2)
    assert summary.failed[0].startswith(f"{wrong.words()}: OverflowError")
    assert "ended without a result; its log is " in summary.failed[1]
    shown = capsys.readouterr().err
    assert [shown.count(f"not run: {words}\n") for words in summary.failed] == [1, 1]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--slurm-partition", "nowhere"], "invalid partition"),
        (["--gpus-per-node", "9"], "executor slurm: "),
        (["--slurm-additional", "no-such-flag=1"], "no-such-flag"),
    ],
)
def test_what_slurm_does_not_know_is_one_line_and_nothing_is_left(cluster, made, tmp_path, capfd, more, words):
    presets = {"desk": [task.setting for task in long(made, tmp_path).tasks]}
    command = [*tiny_grid.flags(made, tmp_path / "results"), "--executor", "slurm", *more]
    assert main("tiny", presets, command) == 2
    shown = capfd.readouterr()
    assert shown.err.count("\n") == 1, shown.err
    assert words.lower() in shown.err.lower()
    assert not list(tmp_path.glob("results/unfinished/*"))


@pytest.mark.bad_input
def test_a_parameter_that_submitit_does_not_know_is_one_line(made, tmp_path):
    wanted = long(made, tmp_path / "results", 1)
    with pytest.raises(ArgumentError, match="executor slurm: Unknown argument 'partitions'"):
        grid.run(wanted, "slurm", slurm_partitions="tiny")
    with pytest.raises(ArgumentError, match="mem_gb"):
        grid.run(wanted, "slurm", mem_gb="much")


def test_without_the_cluster_it_says_so(cluster, made, tmp_path, monkeypatch):
    wanted = long(made, tmp_path / "results", 1)
    text = (cluster / "slurm.conf").read_text(encoding="utf-8")
    (tmp_path / "slurm.conf").write_text(re.sub("SlurmctldPort=.*", "SlurmctldPort=1\nMessageTimeout=2", text))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(ArgumentError, match="squeue does not answer; is the cluster up"):
        grid.run(wanted, "slurm")
    assert not list(tmp_path.glob("results/unfinished/*"))
