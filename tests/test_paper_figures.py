"""The command that draws the paper's figures and tables; what they are drawn from, and what they say of it."""

import importlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from allora_analysis.finetune import setting as settings
from allora_analysis.finetune.setting import Setting
from paper_figures import NAMES, __main__, figure_5, sources
from paper_figures.numbers import accuracy_by_epoch, over_seeds
from paper_figures.sources import Loaded, Missing, provenance, runs, say_missing
from tests.figure_layout import assert_readable
from tests.planted_finetune import plant

ROOT = Path(__file__).parents[1]
RUNS = [Setting(model="tiny", data="words", arm="lora", seed=seed) for seed in range(3)]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A repository without a fine-tuning record."""
    monkeypatch.setattr(settings, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.fixture
def still(monkeypatch):
    """A repository in which nobody commits meanwhile."""
    monkeypatch.setattr(sources, "git", lambda _, *words: "0" * 40 if words[0] == "log" else "")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_file_that_loads_and_draws(name):
    module = importlib.import_module(f"paper_figures.{name}")
    assert callable(module.load_data)
    assert callable(module.make_table if name.startswith("table_") else module.make_figure)
    for test in re.findall(r"tests/\w+\.py", module.__doc__):
        assert (ROOT / test).exists()
    assert "Checked by" in module.__doc__


def test_every_file_is_in_the_list():
    files = {path.stem for path in (ROOT / "paper_figures").glob("[a-z]*.py")}
    assert files == {*NAMES, "sources", "numbers", "cells", "gaps", "tables"}


def test_a_picture_in_two_formats_says_where_it_is_from(tmp_path, capsys):
    assert __main__.main(["figure_5", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"figure_5.{ending}") for ending in ("png", "pdf")]
    with Image.open(tmp_path / "figure_5.png") as image:
        told = image.text
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert told["Description"] == f"figure_5: {figure_5.__doc__.splitlines()[0]}"
    source = json.loads(told["Source"])
    assert list(source) == ["git_revision", "allora_analysis", "records"]
    assert source["records"] == []
    assert b"CreationDate" not in (tmp_path / "figure_5.pdf").read_bytes()


def test_bytes_repeat(tmp_path, still):
    for folder in ("a", "b"):  # made, as they are not there
        assert __main__.main(["figure_5", "table_1", "--out", str(tmp_path / folder)]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["figure_5.pdf", "figure_5.png", "table_1.md", "table_1.tex"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_missing_is_said_in_a_line_each_and_the_exit_status_is_1(empty, capsys):
    names = ["figure_3", "table_2", "figure_5"]
    assert __main__.main([*names, "--out", str(empty)]) == 1
    out, err = capsys.readouterr()
    assert len(out.split()) == 6
    lines = err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["figure_3", "table_2"]
    assert "33 of 33 runs are not recorded; run python -m experiments.perception" in lines[0]
    assert "run python -m experiments.dropout_rates" in lines[1]


def test_records_are_named_in_the_file(empty, still):
    from allora_analysis.grid.presets import LISTS

    plant(empty / "results", LISTS["perception"]["desk"])
    assert __main__.main(["table_3", "figure_3", "--out", str(empty)]) == 0
    with Image.open(empty / "figure_3.png") as image:
        source = json.loads(image.text["Source"])
    on_disk = {path.stem for path in (empty / "results").glob("*.json")}
    assert len(source["records"]) == len(on_disk) == 33
    assert set(source["records"]) == on_disk
    assert f"<!-- source: {json.dumps(source)} -->" in (empty / "table_3.md").read_text(encoding="utf-8")
    assert json.dumps(source) in (empty / "table_3.tex").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["figure_9"], "NAME must be one of figure_1"),
        (["figure_5", "--out", "file"], "--out file: cannot be made (File exists)"),
        (["figure_5", "--out", "file/where"], "--out file/where: cannot be made (Not a directory)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert __main__.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["mine"]


def test_the_placeholder_says_the_command_and_fits():
    from allora_analysis.plotting import page

    figure, axes = page(2.2, 1, 2)
    say_missing(
        axes[0, 1], Missing("3 of 4 runs are not recorded", "python -m experiments.row_norms --source a=FOLDER")
    )
    told = " ".join(text.get_text() for text in axes[0, 1].texts)
    assert "3 of 4 runs are not recorded" in told
    assert " ".join(told.split()).endswith("python -m experiments.row_norms --source a=FOLDER")
    assert isinstance(figure, Figure)
    assert_readable(figure)


def test_runs(tmp_path):
    plant(tmp_path, RUNS[:2])
    known = runs(RUNS, tmp_path)
    assert list(known.results) == RUNS[:2]
    assert known.whole(RUNS[:2])
    assert not known.whole(RUNS)
    assert set(known.names(RUNS)) == {path.stem for path in tmp_path.glob("*.json")}
    (missing,) = known.missing(RUNS, "row_norms")
    command = "python -m experiments.row_norms --source tiny=FOLDER words=FOLDER"
    assert missing == Missing("1 of 3 runs are not recorded", command)
    assert missing.words() == f"1 of 3 runs are not recorded; run {command}"
    assert known.missing(RUNS[:2], "row_norms") == ()
    assert runs(RUNS, tmp_path / "nowhere").results == {}


def test_provenance_outside_a_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert json.loads(provenance(["b", "a"]))["git_revision"] is None
    assert json.loads(provenance(["b", "a"]))["records"] == ["a", "b"]


def test_provenance_in_a_repository(monkeypatch, tmp_path):
    def git(*words):
        done = subprocess.run(["git", "-C", str(tmp_path), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
        git("add", name)
        git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "x")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    revision = commit("paper_figures/a.py")
    assert json.loads(provenance(()))["git_revision"] == revision
    # A commit of the pictures themselves is no other revision: drawing them again gives the same bytes.
    assert commit("docs/picture.png") != revision
    assert json.loads(provenance(()))["git_revision"] == revision
    (tmp_path / "paper_figures/a.py").write_text("y")
    assert json.loads(provenance(()))["git_revision"] == revision + "+"


def test_over_seeds(rng):
    values = rng.standard_normal((4, 3))
    average = over_seeds(values)
    expected = stats.t.interval(0.95, 3, values.mean(axis=0), stats.sem(values, axis=0))
    np.testing.assert_allclose((average.low, average.high), expected)
    assert np.isnan(over_seeds([[1.0, 2.0]]).half).all()
    assert over_seeds([[2.0], [2.0]]).half == 0


def test_accuracy_by_epoch_stops_where_the_first_run_does():
    def run(*values):
        return {"epochs": [{"epoch": float(i), "test_accuracy": value} for i, value in enumerate(values, 1)]}

    curve = accuracy_by_epoch([run(0.5, 0.6, 0.7), run(0.7, 0.8)])
    assert list(curve.x) == [1, 2]
    np.testing.assert_allclose(curve.average.mean, [60, 70])
    assert curve.seeds == 2


def test_loaded_from_a_closed_form_has_no_records():
    assert Loaded(1) == Loaded(1, (), ())


@pytest.mark.parametrize("name", ["figure_1", "figure_2", "figure_3", "figure_4", "table_2", "table_3", "table_4"])
def test_the_command_that_is_named_is_an_experiment_s(name):
    for missing in importlib.import_module(f"paper_figures.{name}").load_data("nowhere").missing:
        (experiment,) = re.findall(r"^python -m experiments\.(\w+) --", missing.command)
        assert (ROOT / "experiments" / f"{experiment}.py").exists()
