"""The row on drop rates: its verdict follows from planted records, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from allora_analysis.claims import section_3_1_dropout_rates as dropout
from allora_analysis.finetune import setting as settings
from allora_analysis.grid.presets import dropout_rates
from allora_analysis.statistics import required_n
from tests import ledger_rows
from tests.planted_finetune import plant, wiggle

CLAIMS = {claim.id: claim for claim in dropout.claims()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    return tmp_path


def finding(identifier):
    return ledger_rows.finding(CLAIMS[identifier])


@pytest.mark.parametrize("identifier", CLAIMS)
def test_not_run_without_records_and_says_the_command(folder, identifier):
    assert finding(identifier).verdict == "not_run"
    assert CLAIMS[identifier].command.startswith("python -m experiments.")


def by_drop_rate(early, late):
    """Accuracies that change in proportion to the drop rate, by `early` and `late` at 0.4."""

    def accuracy(run):
        gain = run.drop_rate / 0.4
        return [0.7, 0.7, 0.8 + gain * (early + wiggle(run)), 0.7, 0.7, 0.7, 0.7, 0.8 + gain * (late + wiggle(run))]

    return accuracy


@pytest.mark.parametrize(
    ("early", "late", "verdict"),
    [(-0.05, 0.05, "holds"), (0.05, 0.05, "refuted"), (-0.05, -0.05, "refuted"), (-0.05, 0.0, "undecided")],
)
def test_figure_2_left(folder, early, late, verdict):
    plant(folder, dropout_rates.PRESETS["desk"], by_drop_rate(early, late))
    found = finding("3.1-figure-2-left")
    assert found.verdict == verdict
    assert found.evidence.measured["drop rate 0.4 minus 0, epoch 3"]["difference"] == pytest.approx(early)
    assert found.evidence.measured["drop rate 0.4 minus 0.2, epoch 8"]["difference"] == pytest.approx(late / 2)
    assert found.evidence.measured["drop rate 0.2 minus 0, epoch 3"]["difference"] == pytest.approx(early / 2)
    assert found.evidence.measured["epoch of the best accuracy"]["0"] == [3, 3, 3]


def test_the_strongest_is_so_among_all_and_not_against_none_alone(folder):
    """Planted: 0.4 is better than 0 late and worse early, and 0.2 more so."""

    def accuracy(run):
        gain = {0.0: 0.0, 0.4: 0.05}.get(run.drop_rate, 0.1)
        change = gain * (1 + 10 * wiggle(run))
        return [0.7, 0.7, 0.8 - change, 0.7, 0.7, 0.7, 0.7, 0.8 + change]

    plant(folder, dropout_rates.PRESETS["desk"], accuracy)
    found = finding("3.1-figure-2-left")
    assert found.evidence.measured["drop rate 0.4 minus 0, epoch 8"]["difference"] == pytest.approx(0.05)
    assert found.verdict == "refuted"
    assert "after 8 epochs better than 1, worse than 3" in found.corrected


def test_an_open_drop_rate_says_how_many_seeds_would_do(folder):
    """Planted: after 8 epochs nothing but noise of mean 0, of which no n can be asked: half a point's is told."""
    plant(folder, dropout_rates.PRESETS["desk"], by_drop_rate(-0.05, 0.0))
    found = finding("3.1-figure-2-left")
    assert found.verdict == "undecided"
    spread = max(
        np.std([(0.4 - rate) / 0.4 * wiggle(run) for run in dropout.AT_INPUT if run.drop_rate == 0.4], ddof=1)
        for rate in dropout.DROP_RATES
    )
    seeds = required_n(0.005, spread, level=0.05 / dropout.CASES)
    assert "no difference in 0 after 8 epochs, 0.05 after 8 epochs" in found.corrected
    assert found.corrected.endswith(f"half a point would need {seeds} seeds")


def test_the_best_epochs_correlation_with_the_drop_rate():
    rising = {rate: [1 + i, 2 + i, 2 + i] for i, rate in enumerate(dropout.DROP_RATES)}
    found, turned = dropout.correlation(rising), dropout.correlation({-rate: epochs for rate, epochs in rising.items()})
    expected = stats.spearmanr(np.repeat([*rising], 3), np.concatenate([*rising.values()]))
    assert found["correlation"] == pytest.approx(expected.statistic)
    assert found["p_value"] == 1e-4
    assert turned["correlation"] == pytest.approx(-expected.statistic)
    assert turned["p_value"] == 1e-4
    assert dropout.correlation({0.0: [2, 3, 4], 0.4: [4, 3, 2]})["p_value"] == 1.0
    assert dropout.correlation({0.0: [3, 3], 0.4: [3, 3]}) is None


@pytest.mark.parametrize("diverge", [False, True])
@pytest.mark.parametrize(("rate", "verdict"), [(0.2, "undecided"), (0.4, "not_run")])
def test_a_drop_rate_in_part_does_not_count(folder, diverge, rate, verdict):
    """Nor one of which a run diverged."""

    whole = by_drop_rate(-0.05, 0.05)

    def cut(run):
        return (run.drop_rate, run.seed) == (rate, 2)

    def accuracy(run):
        return [0.7, 0.7, None] if cut(run) else whole(run)

    plant(folder, dropout_rates.PRESETS["desk"], accuracy, skip=(lambda run: False) if diverge else cut)
    found = finding("3.1-figure-2-left")
    assert found.verdict == ("undecided" if diverge else verdict)
    told = f"a run diverged at drop rate {rate:g}" if diverge else "1 drop rates not recorded in full"
    assert (verdict == "not_run" and not diverge) or told in found.corrected
