"""The row on pretrained models' Hessians: its verdict follows from planted records, and from nothing else."""

import functools

import numpy as np
import pytest

from allora_analysis import records
from allora_analysis.claims import s3_2_real_networks as section
from allora_analysis.zero_initialisation import run as lists
from allora_analysis.zero_initialisation.run import PROTOCOL, STUDY
from tests import ledger_rows

CLAIM, IN_MLP = section.pretrained_saddle, functools.cache(section.at_start)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "RESULTS", tmp_path)
    monkeypatch.setattr(section, "at_start", IN_MLP)
    return tmp_path


def result(setting, **changes):
    """±σ with σ = 1/2, …, as K = 0 has it; 20 directions of each sign are foretold."""
    sigma = 0.5 ** np.arange(1, 21)
    run = {
        "gradient_norms": {"a": 0.0, "b": 0.1},
        "foretold": {"negative": [20, 20], "zero": [8, 8], "positive": [20, 20]},
        "singular_values": {"query": [0.5]},
    }
    if setting.k == 0:
        run |= {"all": np.sort(np.concatenate([sigma, -sigma, np.zeros(8)]))}
    else:
        run |= {"smallest": -sigma[: setting.k], "smallest_residuals": np.full(setting.k, 1e-6)}
        run |= {"largest": sigma[: setting.k][::-1], "largest_residuals": np.full(setting.k, 1e-6)}
    return run | changes


def plant(folder, changes=None, wanted=lists.RUNS):
    for setting in wanted:
        content = result(setting, **(changes(setting) if changes else {}))
        digests = {"model": "0" * 64, "data": "1" * 64}
        records.save(folder, STUDY, setting, content, protocol=PROTOCOL, digests=digests, provenance={})


def finding():
    return ledger_rows.finding(CLAIM)


def test_not_run_without_records_and_says_the_command(folder):
    assert finding().verdict == "not_run"
    assert CLAIM.command.startswith("python -m experiments.hessian --model ")


def test_signs_as_foretold_but_no_critical_point(folder):
    plant(folder)
    found = finding()
    assert found.verdict == "refuted"
    assert found.evidence.n == len(lists.RUNS)
    assert (found.size.low, found.size.value, found.size.high) == (1, 1, 1)
    assert sum(name.startswith("MLP") for name in found.evidence.measured) == 3
    first = found.evidence.measured[section.case_name(lists.RUNS[0])]
    assert (first["negative"], first["zero"], first["positive"]) == (20, 8, 20)
    assert first["λ_max/σ₁(G)"] == 1


def test_a_part_of_the_list_is_told_as_such(folder):
    plant(folder, wanted=lists.RUNS[:3])
    assert f"3 of {len(lists.RUNS)} runs" in finding().evidence.tolerance_source


def test_critical_points_would_be_as_printed(folder, monkeypatch):
    """In all networks: in the pretrained models alone they leave it undecided."""
    plant(folder, lambda setting: {"gradient_norms": {"a": 0.0, "b": 0.0}})
    assert finding().verdict == "undecided"
    monkeypatch.setattr(section, "at_start", lambda one: IN_MLP(one) | {"‖∇_B‖": 0.0})
    assert finding().verdict == "holds"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda setting: {"gradient_norms": {"a": 0.1, "b": 0.1}},
        lambda setting: {"smallest": np.full(setting.k, 1e-3)} if setting.k else {},
        lambda setting: {"largest_residuals": np.full(setting.k, 0.1)} if setting.k else {},
        lambda setting: {"all": np.linspace(-1, 1, 48)} if setting.k == 0 else {},
        lambda setting: {"foretold": {"negative": [19, 19], "zero": [9, 9], "positive": [20, 20]}},
    ],
    ids=["a slope along A", "a positive low end", "a large residual", "other counts", "other counts foretold"],
)
def test_a_planted_difference_leaves_it_undecided(folder, wrong):
    plant(folder, wrong)
    assert finding().verdict == "undecided"


@pytest.mark.parametrize("wrong", [{"signs as foretold": False}, {"‖∇_A‖": 0.1}])
def test_a_difference_in_the_small_network_leaves_it_undecided(folder, monkeypatch, wrong):
    plant(folder)
    monkeypatch.setattr(section, "at_start", lambda one: IN_MLP(one) | wrong)
    assert finding().verdict == "undecided"


def test_only_as_many_as_foretold_must_have_a_sign(folder):
    told = {"negative": [2, 30], "zero": [0, 60], "positive": [3, 30]}

    def few(setting):
        if setting.k == 0:
            return {}
        low, high = np.array([-0.5, -0.25, 1e-3, 1e-2, 0.1]), np.array([-0.1, -0.05, 0.1, 0.2, 0.5])
        return {"foretold": told, "smallest": low, "largest": high}

    plant(folder, few)
    assert finding().verdict == "refuted"
