"""`python -m allora_analysis.claims.tables`: table, JSON, figure, mistakes, and how little it imports."""

import json
import subprocess
import sys

import pytest

from allora_analysis import cli
from allora_analysis.claims.tables import contrasts, study


def test_table_and_notes(capsys):
    assert cli.main(study.STUDY, []) == 0
    output = capsys.readouterr().out
    for words in ("Figure 3 left, Snowflake-Arctic-L, yelp", "-0.1500", "NO", "Holm", "35.59 against 34.75", "seeds"):
        assert words in output
    assert cli.main(study.STUDY, ["--no-explained"]) == 0
    assert " yes " not in capsys.readouterr().out


def test_json(capsys, tmp_path):
    path = tmp_path / "tables.json"
    assert cli.main(study.STUDY, ["--json", str(path), "--standard-deviations", "0.4"]) == 0
    capsys.readouterr()
    document = json.loads(path.read_text(encoding="utf-8"))
    predicted, measured = document["predicted"], document["measured"]
    assert document["study"] == "claims.tables"
    assert len(predicted["disagreements"]) == len(measured["disagreements"]) == len(measured["disagreement_places"])
    assert predicted["average_improvement"].keys() == measured["average_improvement"].keys()
    assert measured["seeds_needed_by_paired_std"]["ALLoRA − LoRA"].keys() == {"0.4"}
    assert measured["contrasts"]["ALLoRA − DoRA"]["by_the_rule"]["needed"] == 16
    of_all = measured["trainable_percent_of_all"]
    assert of_all.keys() == predicted["trainable_percent"].keys()
    assert sum(round(of_all[place], 2) != printed for place, printed in predicted["trainable_percent"].items()) == 1
    hellaswag = [cell for cell in measured["above_majority"] if cell["dataset"] == "HSwag"]
    assert hellaswag
    assert all(cell["distance"] is None for cell in hellaswag)
    assert cli.main(study.STUDY, ["--json", "-", "--standard-deviations", "0.4"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["predicted"], again["measured"]) == (predicted, measured)


def test_figure(capsys, tmp_path):
    path = tmp_path / "gaps.png"
    assert cli.main(study.STUDY, ["--figure", str(path)]) == 0
    assert path.stat().st_size > 10_000
    figure = study.plot(study.Config(), study.run(study.Config()))
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [c.name for c in contrasts.CONTRASTS]
    drawn = sum(line.get_xdata().size for line in axis.lines if line.get_marker() == "|")
    assert drawn == 2 * 27 + 2 * 48 + 5 * 18
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"cell", "cluster", "95% interval"}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--level", "0"], "--level must be"),
        (["--power", "1"], "--power must be"),
        (["--power", "0.01"], "--power must be above level"),
        (["--standard-deviations", "0.5", "-1"], "--standard-deviations must be"),
        (["--standard-deviations"], "--standard-deviations must have at least one value"),
    ],
)
def test_bad_flags_are_one_line(capsys, flags, words):
    assert cli.main(study.STUDY, flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_help_is_light():
    code = (
        "import sys, allora_analysis.claims.tables.study as s;"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'scipy.stats', 'scipy', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_runs_as_a_module():
    command = [sys.executable, "-m", "allora_analysis.claims.tables", "--no-explained", "--json", "-"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert len(json.loads(output)["measured"]["disagreements"]) == 8
