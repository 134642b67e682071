"""The ledger's rows of Figure 2, left, on a language model: verdicts follow from the records, and from nothing else."""

import numpy as np
import pytest
from scipy import stats

from allora_analysis.claims import ledger
from allora_analysis.claims import s3_1_figure_2_left as section
from allora_analysis.grid.presets import ALONE_SEEDS, EARLY_SEEDS, LISTS
from experiments import dropout_early
from tests import ledger_rows
from tests.chances import chance_within
from tests.planted_finetune import plant as plant_runs
from tests.planted_finetune import wiggle

EARLY_ROW, LATE_ROW = ledger._of(section)


def test_without_records_both_are_not_run(runs_folder):
    assert {ledger_rows.finding(row).verdict for row in (EARLY_ROW, LATE_ROW)} == {"not_run"}
    assert EARLY_ROW.command.startswith("python -m experiments.dropout_early ")
    assert LATE_ROW.command.startswith("python -m experiments.dropout_alone ")


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
    return ledger_rows.finding(LATE_ROW)


@pytest.mark.parametrize(
    ("costs", "gains", "verdict"),
    [
        ((0.02, 0.03), (0.1, 0.2), "holds"),
        ((0.02, 0.03), (0.1, -0.1), "refuted"),
        ((-0.02, 0.03), (0.1, 0.1), "holds"),
        ((0.02, -0.0005), (0.1, 0.1), "holds"),
        ((0.02, 0.03), (0.1, -0.0005), "undecided"),
    ],
)
def test_dropout_alone_by_test_loss(runs_folder, costs, gains, verdict):
    late = alone(runs_folder, costs, gains)
    assert late.verdict == verdict
    shift = 0.0001 * (np.mean(ALONE_SEEDS) - 1)
    for index, place in enumerate(section.PLACES.values()):
        assert late.evidence.measured[f"{place}, epoch 1"]["mean"] == pytest.approx(costs[index] + shift)
        assert late.evidence.measured[f"{place}, epoch 4"]["mean"] == pytest.approx(gains[index] + shift)
    where = "(masks at A's input and between A and B)."
    if gains == (0.1, 0.2):
        assert late.answer == f"Yes: by 0.101 and 0.201 nats after 4 epochs {where}"
    if verdict == "refuted":
        assert late.answer == f"No: it changes by -0.101 and +0.099 nats after 4 epochs {where}"
    if verdict == "undecided":
        open_one = late.evidence.measured["between A and B, epoch 4"]  # the only one, so the size is of it
        assert (late.size.value, late.size.low, late.size.high) == (open_one["mean"], *open_one["interval"])
        assert late.size.of == "fall of the loss at drop rate 0.4, between A and B, epoch 4"
        most = max(late.evidence.measured[f"{place}, epoch 4"]["interval"][1] for place in section.PLACES.values())
        assert late.answer.startswith("Undecided: a fall of the test loss above 0.10")
        assert late.answer.endswith(" nats after 4 epochs is excluded.")
        assert 0 <= float(late.answer.split()[8]) - most < 0.001  # at either place, rounded outwards


def test_a_half_is_judged_by_holm_over_all_four_cases(runs_folder):
    """Planted: late gains of p about 0.02 each, which Holm over two would show, and no early cost."""
    late = alone(runs_folder, (-0.00055, -0.00055), (-0.000325, -0.000325))
    for place in section.PLACES.values():
        one = late.evidence.measured[f"{place}, epoch 4"]
        assert 2 * one["p_value"] < 0.05 < one["adjusted_p_value"] == pytest.approx(4 * one["p_value"])
    assert late.verdict == "undecided"


def by_drop_rate(early, late):
    """Accuracies that change in proportion to the drop rate, by `early` and `late` at 0.4."""

    def accuracy(run):
        gain = run.drop_rate / 0.4
        return [0.7, 0.7, 0.8 + gain * (early + wiggle(run)), 0.7, 0.7, 0.7, 0.7, 0.8 + gain * (late + wiggle(run))]

    return accuracy


def test_accuracy_on_three_seeds_stands_beside_and_decides_nothing(runs_folder):
    """Planted: by accuracy everything is the other way; a drop rate run in part is left out."""
    plant_runs(
        runs_folder,
        LISTS["dropout_rates"]["desk"],
        by_drop_rate(0.05, -0.05),
        skip=lambda run: run.seed == 2 and run.drop_rate == 0.2,
    )
    early, late = fresh(runs_folder, (0.03, 0.03)), alone(runs_folder, (0.02, 0.03), (0.1, 0.2))
    assert (early.verdict, late.verdict) == ("holds", "holds")
    before, after = (one.evidence.measured["three seeds, the model's own dropout on"] for one in (early, late))
    assert before["drop rate 0.4 minus 0 after 3 epochs, accuracy"]["mean"] == pytest.approx(0.05)
    assert after["drop rate 0.4 minus 0 after 8 epochs, accuracy"]["mean"] == pytest.approx(-0.05)
    assert after["drop rate 0.4 minus 0.1 after 8 epochs, accuracy"]["mean"] == pytest.approx(-0.0375)
    assert after["drop rate 0.4 minus 0.1 after 8 epochs, accuracy"]["family"] == 3
    assert not any("minus 0.2" in case for case in (*before, *after))
    assert after["epoch of the best accuracy"] == {
        "0": [3, 3, 3],
        "0.05": [3, 3, 3],
        "0.1": [3, 3, 3],
        "0.4": [3, 3, 3],
    }
    assert "epoch of the best accuracy" not in before


def test_accuracy_of_the_same_runs_decides_nothing_either(runs_folder):
    def accuracy(run):
        change = 0.02 * (run.drop_rate > 0) * (1 + wiggle(run))
        return [0.8 + change, 0.8, 0.8, 0.8 - change]

    found = alone(runs_folder, (0.02, 0.03), (0.1, 0.2), accuracies=accuracy)
    assert found.verdict == "holds"
    beside = [one for case, one in found.evidence.measured.items() if case.endswith("accuracy")]
    assert [one["verdict"] for one in beside] == ["refuted"] * 4
    assert found.evidence.measured["three seeds, the model's own dropout on"] == {}


def test_dropout_alone_is_judged_by_all_its_seeds(runs_folder):
    """Nor where a run diverged."""
    last = LISTS["dropout_alone"]["desk"][-1]
    assert alone(runs_folder, (0.02, 0.03), (0.1, 0.2), skip=lambda run: run == last).verdict == "not_run"
    plant_runs(runs_folder, [last], accuracies=lambda run: [0.8, None])
    found = ledger_rows.finding(LATE_ROW)
    assert (found.verdict, found.corrected) == ("undecided", "a run diverged with the masks between A and B")


def fresh(folder, costs, **options):
    """Test losses that dropout raises by `costs` after the one epoch, by place; accuracies that it lowers by 0.01."""
    shift = 0.0001 * (np.mean(EARLY_SEEDS) - 1)

    def losses(run):
        number = section.ALONE.index((run.placement, run.drop_rate)) - 1
        return [0.4 + 0.01 * run.seed + (0.0 if number < 0 else costs[number] + wiggle(run) / 5 - shift)]

    plant_runs(
        folder, LISTS["dropout_early"]["desk"], lambda run: [0.8 - 0.01 * bool(run.drop_rate)], losses=losses, **options
    )
    return ledger_rows.finding(EARLY_ROW)


@pytest.mark.parametrize(
    ("costs", "verdict", "begins"),
    [
        (
            (0.004, -0.0001),
            "refuted",
            "No: +0.004 and 0.000 nats after one epoch, within ±0.02 (masks at A's input and",
        ),
        ((0.004, 0.004), "holds", "Yes: by +0.004 and +0.004 nats"),
        ((0.03, 0.03), "holds", "Yes: by +0.030"),
        ((0.03, -0.0001), "undecided", "Undecided: +0.030 and 0.000 nats"),
        ((-0.03, 0.004), "refuted", "No: -0.030 and +0.004 nats after one epoch (masks"),
        ((-0.004, -0.0001), "refuted", "No: -0.004 and 0.000 nats after one epoch, within ±0.02 (masks"),
    ],
)
def test_sixteen_fresh_seeds_judge_one_epoch_with_a_margin(runs_folder, costs, verdict, begins):
    """The eight seeds say the opposite, and stand beside."""
    cost = -0.03 if verdict == "holds" else 0.03
    late = alone(runs_folder, (cost, cost), (0.1, 0.1))
    found = fresh(runs_folder, costs)
    assert (found.verdict, found.evidence.n) == (verdict, 16)
    assert found.answer.startswith(begins)
    if verdict == "undecided":
        most = max(found.evidence.measured[place]["interval"][1] for place in section.PLACES.values())
        assert found.answer.endswith(" is excluded.")
        assert 0 <= float(found.answer.split()[9]) - most < 0.001  # at either place, rounded outwards
        assert (found.size.value, found.size.of) == (
            pytest.approx(0.03),
            "rise of the loss at drop rate 0.4, at A's input",
        )
    for place, before in found.evidence.measured["eight seeds before"].items():
        assert before["mean"] == pytest.approx(late.evidence.measured[f"{place}, epoch 1"]["mean"])
        assert before["interval"] == pytest.approx(late.evidence.measured[f"{place}, epoch 1"]["interval"])
    assert [*found.evidence.measured["eight seeds before"]] == [*section.PLACES.values()]
    assert found.evidence.measured["between A and B, fall of the accuracy"]["mean"] == pytest.approx(0.01)


def test_the_margin_is_judged_at_the_ends_of_both_intervals():
    noise = np.random.default_rng(0).normal(0, 1, 16)
    noise = 0.02 * (noise - noise.mean()) / noise.std(ddof=1)
    half = stats.t.ppf(0.95, 15) * 0.02 / 4
    inside, outside = (noise + section.MARGIN - factor * half for factor in (1.01, 0.99))
    assert section.rises_beyond_the_margin({"one": noise, "other": inside}) == "refuted"
    assert section.rises_beyond_the_margin({"one": noise, "other": outside}) == "undecided"
    assert section.rises_beyond_the_margin({"one": noise + 1.01 * half, "other": noise + 1.01 * half}) == "holds"
    assert section.rises_beyond_the_margin({"one": noise + 1.01 * half, "other": noise + 1.0}) == "holds"
    fall = stats.t.ppf(0.975, 15) * 0.02 / 4  # of two cases, by Holm
    assert section.rises_beyond_the_margin({"one": noise - 1.01 * fall, "other": noise + 1.0}) == "refuted"
    assert section.rises_beyond_the_margin({"one": noise - 0.99 * fall, "other": noise + 1.0}) == "undecided"


def test_fresh_seeds_judge_when_all_are_there(runs_folder):
    last = LISTS["dropout_early"]["desk"][-1]
    assert fresh(runs_folder, (0.03, 0.03), skip=lambda run: run == last).verdict == "not_run"
    plant_runs(runs_folder, [last], accuracies=lambda run: [None])
    found = ledger_rows.finding(EARLY_ROW)
    assert (found.verdict, found.corrected) == ("undecided", "a run diverged with the masks between A and B")


def test_the_rule_says_its_seeds_and_its_margin():
    words = " ".join(dropout_early.__doc__.split())
    seeds = sorted({run.seed for run in LISTS["dropout_early"]["desk"]})
    assert f"{seeds[0]} to {seeds[-1]}, which no run of this model" in words
    assert f"all {len(LISTS['dropout_early']['desk'])} runs are recorded" in words
    assert f"within ±{section.MARGIN:g} nats" in words
    used = {
        (run.model, run.data, run.seed)
        for name, of in LISTS.items()
        if name != "dropout_early"
        for those in of.values()
        for run in those
    }
    assert not used & {(run.model, run.data, run.seed) for run in LISTS["dropout_early"]["desk"]}


def test_what_the_reading_says_of_the_committed_runs():
    found = ledger_rows.as_is(EARLY_ROW)[1]
    at_input = found.evidence.measured["at A's input"]
    assert (found.verdict, found.evidence.n) == ("refuted", 16)
    assert (round(at_input["mean"], 3), round(at_input["p_above"], 2)) == (0.006, 0.06)
    for place in section.PLACES.values():
        assert abs(found.evidence.measured[f"{place}, fall of the accuracy"]["mean"]) < 0.003


def test_the_rule_says_its_power_by_what_the_eight_seeds_showed():
    """Normal differences, sixteen seeds, both places within the margin: where the truth is 0, and what they showed."""
    measured = section._eight_seeds(None)
    spreads = {}
    for place in section.PLACES.values():
        one = measured[place]
        low, high = one["interval"]
        spreads[place] = one["mean"], (high - low) / 2 / stats.t.ppf(0.95, 7) * 8**0.5
    assert [round(spread, 3) for _, spread in spreads.values()] == [0.017, 0.02]

    def both(share):
        found = 1.0
        for mean, spread in spreads.values():
            found *= chance_within(section.MARGIN, share * mean, spread, 16)
        return f"{found:.2f}"

    words = " ".join(dropout_early.__doc__.split())
    assert f"probability {both(0.0)} where the truth is 0 at both places, and {both(1.0)} where" in words
