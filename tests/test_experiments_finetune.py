"""The fine-tuning experiments: what each states before it runs, and its list of runs."""

import dataclasses
import importlib
import inspect
import re

import pytest

from allora_analysis.claims.tables import reported
from allora_analysis.finetune.setting import check
from allora_analysis.finetune.sources import HUB
from allora_analysis.grid.command import main
from allora_analysis.grid.presets import LISTS
from allora_analysis.grid.reading import recorded

NAMES = ("ablation", "commonsense", "dropout_rates", "learning_rates", "perception", "row_norms")
LOCAL = {"commonsense"}  # data whose form no set on the hub has: the user says where they are
STATED = ("Question", "Arms", "Seeds", "Test", "Stopping rule")


def experiment(name):
    return importlib.import_module(f"experiments.{name}")


def all_runs():
    return [pytest.param(runs, id=f"{name}-{preset}") for name in NAMES for preset, runs in LISTS[name].items()]


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_states_all_of_it_before_the_run(name):
    words = experiment(name).__doc__
    assert f"python -m experiments.{name}" in words.splitlines()[0]
    assert [title for title in re.findall(r"^\*\*(.+?)\.\*\*", words, re.MULTILINE) if title in STATED] == list(STATED)
    assert f'main("{name}", LISTS["{name}"], doc=__doc__)' in inspect.getsource(experiment(name))
    assert set(LISTS[name]) == ({"paper"} if name == "commonsense" else {"desk", "paper"})


@pytest.mark.parametrize("runs", all_runs())
def test_the_runs_are_valid_recorded_as_they_stand_and_differ(runs):
    assert [check(one) for one in runs] == runs
    assert len(set(runs)) == len({one.words() for one in runs}) == len(runs) > 0
    assert {one.model for one in runs} | {one.data for one in runs} <= set(HUB) | LOCAL


def test_the_papers_presets_are_of_the_papers_tables():
    def preset(name):
        return LISTS[name]["paper"]

    def pairs(name):
        return {(one.model, one.data) for one in preset(name)}

    for name, table in (("perception", reported.TABLE_3), ("ablation", reported.TABLE_4)):
        assert pairs(name) == {(cell.model, cell.dataset) for cell in table}
        assert {one.eta2 for one in preset(name)} - {None} == {cell.eta_squared for cell in table}
    ranks = {(row.model, row.rank) for row in reported.TABLE_1}
    assert {(one.model, one.rank) for one in preset("commonsense")} == ranks
    assert pairs("dropout_rates") == {("Qwen2-0.5B", "bias_in_bios")}  # §3.1; the table does not say
    rates = {one.drop_rate for one in preset("dropout_rates")}
    assert rates == {column.drop_rate for column in reported.TABLE_2}
    assert pairs("row_norms") == {("Snowflake-Arctic-XS", "rotten_tomatoes")}  # §4.2


@pytest.mark.parametrize("runs", all_runs())
def test_all_arms_share_their_seeds(runs):
    seeds = {}
    for one in runs:
        seeds.setdefault(dataclasses.replace(one, seed=0), []).append(one.seed)
    counts = {tuple(sorted(of)) for of in seeds.values()}
    assert len(counts) == 1, "arms with seeds of their own"
    (shared,) = counts
    assert shared == tuple(range(len(shared)))
    assert len(shared) >= 3
    # What is not the arm's own is the same for all arms on a model and data set.
    own = ("arm", "eta2", "optimizer", "learning_rate", "head_learning_rate", "drop_rate", "placement", "seed")
    fields = [field.name for field in dataclasses.fields(runs[0]) if field.name not in own]
    rest = {tuple(getattr(one, name) for name in fields) for one in runs}
    assert len(rest) == len({(one.model, one.data, one.rank) for one in runs})


def test_no_run_is_of_two_experiments_that_are_judged_together():
    lists = [set(LISTS[name]["desk"]) for name in ("perception", "ablation")]
    assert not lists[0] & lists[1]


@pytest.mark.parametrize(("name", "preset"), [(name, preset) for name in NAMES for preset in LISTS[name]])
def test_a_dry_run_lists_the_runs_and_asks_no_hub(made, tmp_path, capsys, name, preset):
    runs = LISTS[name][preset]
    command = ["--preset", preset, "--results", str(tmp_path / "none"), "--dry-run"]
    assert main(name, LISTS[name], command) == 0
    bare, beside = capsys.readouterr()
    assert bare.count("to run    ") == len(runs)
    assert ("for GPUs: none of these comes recorded" in beside) == (preset == "paper")
    assert f"0 of {len(runs)} runs recorded" in bare
    models, data = dict.fromkeys(one.model for one in runs), dict.fromkeys(one.data for one in runs)
    given = [f"{model}={made.bert}" for model in models] + [f"{name}={made.films}" for name in data]
    assert main(name, LISTS[name], [*command, "--source", *given]) == 0
    assert capsys.readouterr().out == bare
    assert not (tmp_path / "none").exists()


def test_without_a_preset_the_desk_s_list_or_else_the_paper_s_is_taken(tmp_path, capsys):
    for name, preset in (("perception", "desk"), ("commonsense", "paper")):
        assert main(name, LISTS[name], ["--results", str(tmp_path / "none"), "--dry-run"]) == 0
        assert capsys.readouterr().out.count("to run    ") == len(LISTS[name][preset])


def test_everything_on_a_desk_list_has_been_run():
    """What was never meant to be run is not declared; `own_best_rate` stops by its own rule."""
    for name in NAMES:
        runs = LISTS[name].get("desk", [])
        assert len(recorded(runs)) == len(runs), name
