"""Accuracies compared in pairs: which cases count, and what their signs say together."""

from __future__ import annotations

import dataclasses

import pytest

from allora_analysis.claims.accuracy import LEVEL, compared, differences, diverged, universally_better, words
from allora_analysis.finetune.setting import Setting
from allora_analysis.statistics import required_n

SEEDS = 5
OVERALL = "mean over {} cases, Student's t over seeds"
LORA = Setting(model="m", data="d", arm="lora")
OURS = dataclasses.replace(LORA, arm="allora_0", eta2=4.0)


def pairs(eta2):
    return [
        (dataclasses.replace(OURS, eta2=eta2, seed=seed), dataclasses.replace(LORA, learning_rate=eta2, seed=seed))
        for seed in range(SEEDS)
    ]


def recorded(gains, noise=0.001):
    """Cases by η² whose first run is better by the gain, and LoRA at 0.8 plus the seed's own luck."""
    cases = {f"{eta2:g}": pairs(eta2) for eta2 in gains}
    runs = {}
    for eta2, gain in gains.items():
        for ours, lora in cases[f"{eta2:g}"]:
            runs[lora] = {"epochs": [{"test_accuracy": 0.1}, {"test_accuracy": 0.8 + 0.01 * lora.seed}]}
            own = 0.8 + 0.01 * lora.seed + gain + noise * (lora.seed - 2)
            runs[ours] = {"epochs": [{"test_accuracy": own}]}
    return runs, cases


@pytest.mark.parametrize(
    ("gains", "verdict", "says"),
    [
        ({1.0: 0.02, 2.0: 0.03}, "holds", None),
        ({1.0: 0.02, 2.0: -0.03}, "refuted", "better in 1, worse in 1, open in 0 of 2 cases; worse: 2"),
        ({1.0: -0.02, 2.0: -0.03}, "refuted", "worse in 2"),
        ({1.0: 0.02, 2.0: 0.0005}, "undecided", "better in 1, worse in 0, open in 1 of 2 cases; the open difference"),
    ],
)
def test_verdicts(gains, verdict, says):
    found = universally_better(*recorded(gains))
    assert found.verdict == verdict
    assert says is None or says in found.corrected
    assert found.evidence.measured["1"]["difference"] == pytest.approx(gains[1.0])
    assert found.evidence.n == SEEDS


def test_a_case_in_part_does_not_count_and_keeps_it_open():
    runs, cases = recorded({1.0: 0.02, 2.0: 0.02})
    del runs[cases["2"][3][0]]
    found = universally_better(runs, cases)
    assert (found.verdict, set(found.evidence.measured)) == ("undecided", {"1"})
    assert "1 cases not recorded in full" in found.corrected
    assert universally_better({}, cases).verdict == "not_run"


@pytest.mark.parametrize("epochs", [[], [{"test_accuracy": 0.99}]])
def test_a_run_that_diverged_leaves_its_case_out_and_open(epochs):
    runs, cases = recorded({1.0: 0.02, 2.0: 0.02})
    runs[cases["2"][0][0]] = {"epochs": epochs, "diverged_at_step": 300}
    assert set(differences(runs, cases)) == {"1"}
    assert diverged(runs, cases) == ["2"]
    found = universally_better(runs, cases)
    assert found.verdict == "undecided"
    assert found.corrected.endswith("a run diverged among the pairs of 2")


def test_holms_correction_counts_cases_that_are_not_recorded():
    runs, cases = recorded({1.0: 0.02})
    alone = universally_better(runs, cases).evidence.measured["1"]["adjusted_p_value"]
    more = cases | {f"{eta2}": pairs(float(eta2)) for eta2 in range(2, 12)}
    assert universally_better(runs, more).evidence.measured["1"]["adjusted_p_value"] == pytest.approx(11 * alone)


def test_over_all_cases_seeds_are_what_is_independent():
    """Cases that are one and the same say no more than one of them."""
    runs, cases = recorded({1.0: 0.02})
    alone = universally_better(runs, cases).evidence.measured["1"]
    copies = cases | {f"copy {i}": cases["1"] for i in range(3)}
    overall = universally_better(runs, copies).evidence.measured[OVERALL.format("all 4")]
    assert overall["difference"] == pytest.approx(0.02)
    assert overall["adjusted_p_value"] == pytest.approx(alone["adjusted_p_value"])
    assert overall["interval"] == pytest.approx(alone["interval"])


def test_over_all_cases_each_case_counts_once():
    overall = universally_better(*recorded({1.0: 0.02, 2.0: 0.03, 4.0: 0.04})).evidence.measured
    assert overall[OVERALL.format("all 3")]["difference"] == pytest.approx(0.03)


def test_a_mean_over_the_recorded_cases_says_how_many_of_how_many():
    runs, cases = recorded({1.0: 0.02, 2.0: 0.03, 4.0: 0.04})
    del runs[cases["4"][0][0]]
    measured = universally_better(runs, cases).evidence.measured
    assert measured[OVERALL.format("2 of 3")]["difference"] == pytest.approx(0.025)
    assert OVERALL.format("all 3") not in measured


def test_half_a_point_needs_more_seeds_in_a_larger_family():
    """Planted: the seeds of the recorded case alone, where Holm's correction is over twelve."""
    runs, cases = recorded({1.0: 0.0}, noise=0.01)
    deviation = compared(differences(runs, cases))["1"].differences.std(ddof=1)
    more = cases | {f"{eta2}": pairs(float(eta2)) for eta2 in range(2, 13)}
    seeds = {n: required_n(0.005, deviation, level=LEVEL / n) for n in (1, 12)}
    assert seeds[1] < seeds[12]
    for those in (cases, more):
        assert f"half a point would need {seeds[len(those)]} seeds" in universally_better(runs, those).corrected
    alone = words(compared(differences(runs, cases), 12), 0, cases=12)  # a row about one case of a family
    assert alone.endswith(f"half a point would need {seeds[12]} seeds")


def test_the_pairing_takes_the_seeds_luck_out():
    """Planted: accuracies vary by 4 points over seeds, the gain by 0.2: unpaired, nothing would be seen."""
    runs, cases = recorded({1.0: 0.004})
    assert universally_better(runs, cases).verdict == "holds"
    shifted = {"1": [(ours, cases["1"][(i + 1) % SEEDS][1]) for i, (ours, _) in enumerate(cases["1"])]}
    assert universally_better(runs, shifted).verdict == "undecided"


def test_one_sentence_more_in_every_pair_is_as_good_as_its_signs():
    """Planted: Student's p-value of 1e-25, where (k + 1)/n − k/n differ by the rounding of k/n alone."""
    runs, cases = recorded({1.0: 0.0})
    for (ours, lora), k in zip(cases["1"], (8286, 7221, 8932, 7000, 6111), strict=True):
        runs[ours], runs[lora] = ({"epochs": [{"test_accuracy": right / 10042}]} for right in (k + 1, k))
    gaps = differences(runs, cases)["1"]
    assert max(gaps) > min(gaps)
    found = universally_better(runs, cases)
    assert found.evidence.measured["1"]["adjusted_p_value"] == 2.0 ** (1 - SEEDS)
    assert found.verdict == "undecided"
    assert found.corrected.endswith("one and the same difference in every pair of 1, and too few pairs to tell")


def test_no_difference_at_all_says_what_would_have_been_detected():
    found = universally_better(*recorded({1.0: 0.0}))
    assert found.verdict == "undecided"
    detectable = 100 * found.evidence.measured["1"]["detectable"]
    assert found.corrected.endswith(
        f"no difference in 1, where {detectable:.1f} points would be detected; half a point would need 4 seeds"
    )
