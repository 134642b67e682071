"""The ledger's rows of Figure 2, left, on a language model: verdicts follow from the records, and from nothing else."""

import re

import numpy as np
import pytest
from scipy import stats

from allora_analysis.claims import ledger
from allora_analysis.claims import s3_1_figure_2_left as section
from allora_analysis.grid.presets import ALONE_SEEDS, LISTS
from allora_analysis.statistics import required_n
from tests import ledger_rows
from tests.planted_finetune import plant as plant_runs
from tests.planted_finetune import wiggle

FIGURE_2, ALONE = ledger._of(section)


def test_figure_2_without_records_is_not_run(runs_folder):
    assert ledger_rows.finding(FIGURE_2).verdict == "not_run"
    assert FIGURE_2.command.startswith("python -m experiments.")


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
def test_figure_2_left(runs_folder, early, late, verdict):
    plant_runs(runs_folder, LISTS["dropout_rates"]["desk"], by_drop_rate(early, late))
    found = ledger_rows.finding(FIGURE_2)
    assert found.verdict == verdict
    assert found.evidence.measured["drop rate 0.4 minus 0, epoch 3"]["mean"] == pytest.approx(early)
    assert found.evidence.measured["drop rate 0.4 minus 0.2, epoch 8"]["mean"] == pytest.approx(late / 2)
    assert found.evidence.measured["drop rate 0.2 minus 0, epoch 3"]["mean"] == pytest.approx(early / 2)
    assert found.evidence.measured["epoch of the best accuracy"]["0"] == [3, 3, 3]


def test_the_strongest_is_so_among_all_and_not_against_none_alone(runs_folder):
    """Planted: 0.4 is better than 0 late and worse early, and 0.2 more so."""

    def accuracy(run):
        gain = {0.0: 0.0, 0.4: 0.05}.get(run.drop_rate, 0.1)
        change = gain * (1 + 10 * wiggle(run))
        return [0.7, 0.7, 0.8 - change, 0.7, 0.7, 0.7, 0.7, 0.8 + change]

    plant_runs(runs_folder, LISTS["dropout_rates"]["desk"], accuracy)
    found = ledger_rows.finding(FIGURE_2)
    assert found.evidence.measured["drop rate 0.4 minus 0, epoch 8"]["mean"] == pytest.approx(0.05)
    assert found.verdict == "refuted"
    assert found.evidence.measured["drop rate 0.4 after 8 epochs"] == "better than 1, worse than 3, open against 0"


def test_an_open_drop_rate_says_how_many_seeds_would_do(runs_folder):
    """Planted: clear early, and late a difference far below what three seeds can tell."""
    plant_runs(runs_folder, LISTS["dropout_rates"]["desk"], by_drop_rate(-0.05, 0.0001))
    found = ledger_rows.finding(FIGURE_2)
    assert found.verdict == "undecided"
    spread = np.std([wiggle(run) for run in section.AT_INPUT if run.drop_rate == 0.4], ddof=1)
    family = 2 * (len(section.DROP_RATES) - 1)
    seeds = required_n(0.0001, spread, level=2 * 0.05 / family)
    assert f"{seeds} seeds" in found.corrected


def test_an_open_row_says_which_effect_its_seeds_exclude(runs_folder):
    """Beyond the ends of Student's 90 % intervals, each comparison's alone, rounded outwards."""
    plant_runs(runs_folder, LISTS["dropout_rates"]["desk"], by_drop_rate(-0.0001, 0.0002))
    found = ledger_rows.finding(FIGURE_2)
    accuracies = {(one.drop_rate, one.seed): by_drop_rate(-0.0001, 0.0002)(one) for one in section.AT_INPUT}
    seeds = sorted({seed for _, seed in accuracies})

    def most(epoch, sign):
        gaps = np.array(
            [
                [sign * (accuracies[0.4, seed][epoch] - accuracies[other, seed][epoch]) for seed in seeds]
                for other in section.DROP_RATES
                if other != 0.4
            ]
        )
        half = stats.t.ppf(0.95, len(seeds) - 1) * gaps.std(axis=1, ddof=1) / np.sqrt(len(seeds))
        return np.ceil(1000 * max(gaps.mean(axis=1) + half)) / 10

    assert found.verdict == "undecided"
    assert found.answer == (
        f"Undecided after 3 seeds: at drop rate 0.4 costs above {most(2, -1):.1f} points early, gains above "
        f"{most(7, 1):.1f} late are excluded."
    )


def test_the_best_epochs_correlation_with_the_drop_rate():
    rising = {rate: [1 + i, 2 + i, 2 + i] for i, rate in enumerate(section.DROP_RATES)}
    found, turned = section.correlation(rising), section.correlation({-rate: epochs for rate, epochs in rising.items()})
    expected = stats.spearmanr(np.repeat([*rising], 3), np.concatenate([*rising.values()]))
    assert found["correlation"] == pytest.approx(expected.statistic)
    assert found["p_value"] == 1e-4
    assert turned["correlation"] == pytest.approx(-expected.statistic)
    assert turned["p_value"] == 1e-4
    assert section.correlation({0.0: [2, 3, 4], 0.4: [4, 3, 2]})["p_value"] == 1.0
    assert section.correlation({0.0: [3, 3], 0.4: [3, 3]}) is None


@pytest.mark.parametrize("diverge", [False, True])
@pytest.mark.parametrize(("rate", "verdict"), [(0.2, "undecided"), (0.4, "not_run")])
def test_a_drop_rate_in_part_does_not_count(runs_folder, diverge, rate, verdict):
    """Nor one of which a run diverged."""

    whole = by_drop_rate(-0.05, 0.05)

    def cut(run):
        return (run.drop_rate, run.seed) == (rate, 2)

    def accuracy(run):
        return [0.7, 0.7, None] if cut(run) else whole(run)

    plant_runs(runs_folder, LISTS["dropout_rates"]["desk"], accuracy, skip=(lambda run: False) if diverge else cut)
    found = ledger_rows.finding(FIGURE_2)
    assert found.verdict == ("undecided" if diverge else verdict)
    told = f"a run diverged at drop rate {rate:g}" if diverge else "1 drop rates not recorded in full"
    assert (verdict == "not_run" and not diverge) or told in found.corrected


def by_place(costs, gains):
    """Test losses that dropout raises by `costs` after one epoch and lowers by `gains` after the last, by place."""

    def losses(run):
        number = section.ALONE.index((run.placement, run.drop_rate)) - 1
        of_seed = 0.4 + 0.01 * run.seed
        early, late = (0.0, 0.0) if number < 0 else (costs[number] + wiggle(run) / 5, gains[number] + wiggle(run) / 5)
        return [of_seed + early, of_seed, of_seed, of_seed - late]

    return losses


def alone(folder, costs, gains, **options):
    plant_runs(folder, LISTS["dropout_alone"]["desk"], losses=by_place(costs, gains), **options)
    return ledger_rows.finding(ALONE)


@pytest.mark.parametrize(
    ("costs", "gains", "verdict"),
    [
        ((0.02, 0.03), (0.1, 0.2), "holds"),
        ((0.02, 0.03), (0.1, -0.1), "refuted"),
        ((-0.02, 0.03), (0.1, 0.1), "refuted"),
        ((0.02, -0.0005), (0.1, 0.1), "undecided"),
    ],
)
def test_dropout_alone_by_test_loss(runs_folder, costs, gains, verdict):
    found = alone(runs_folder, costs, gains)
    assert found.verdict == verdict
    for index, place in enumerate(section.PLACES.values()):
        shift = 0.0001 * (np.mean(ALONE_SEEDS) - 1)
        assert found.evidence.measured[f"{place}, epoch 1"]["mean"] == pytest.approx(costs[index] + shift)
        assert found.evidence.measured[f"{place}, epoch 4"]["mean"] == pytest.approx(gains[index] + shift)
    if verdict == "holds":
        assert found.answer == (
            "Yes: 0.4 changes the test loss by +0.021 and +0.031 nats after one epoch, -0.101 and -0.201 after 4."
        )
    if verdict == "undecided":
        assert re.fullmatch(
            r"Undecided: costs above 0\.02\d nats after one epoch are excluded; "
            r"the gains after 4 are 0\.101 and 0\.101\.",
            found.answer,
        )
        open_one = found.evidence.measured["between A and B, epoch 1"]  # the only one, so the size is of it
        assert (found.size.value, found.size.low, found.size.high) == (open_one["mean"], *open_one["interval"])
        assert found.size.of == "cost of drop rate 0.4 between A and B, epoch 1"
        most = max(found.evidence.measured[f"{place}, epoch 1"]["interval"][1] for place in section.PLACES.values())
        assert 0 <= float(found.answer.split()[3]) - most < 0.001  # at either place, rounded outwards


def test_accuracy_stands_beside_the_loss_and_decides_nothing(runs_folder):
    """Planted: by accuracy everything is the other way."""

    def accuracy(run):
        change = 0.02 * (run.drop_rate > 0) * (1 + wiggle(run))
        return [0.8 + change, 0.8, 0.8, 0.8 - change]

    found = alone(runs_folder, (0.02, 0.03), (0.1, 0.2), accuracies=accuracy)
    assert found.verdict == "holds"
    beside = [one for case, one in found.evidence.measured.items() if case.endswith("accuracy")]
    assert [one["verdict"] for one in beside] == ["refuted"] * 4


def test_dropout_alone_is_judged_by_all_its_seeds(runs_folder):
    """Nor where a run diverged."""
    last = LISTS["dropout_alone"]["desk"][-1]
    assert alone(runs_folder, (0.02, 0.03), (0.1, 0.2), skip=lambda run: run == last).verdict == "not_run"
    plant_runs(runs_folder, [last], accuracies=lambda run: [0.8, None])
    found = ledger_rows.finding(ALONE)
    assert (found.verdict, found.corrected) == ("undecided", "a run diverged with the masks between A and B")
