"""The ledger's rows of own best rates: verdicts follow from planted records, and from nothing else."""

import dataclasses
import re
from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats

from allora_analysis import records
from allora_analysis.claims import s4_4_our_runs as our_runs
from allora_analysis.claims import s4_4_own_best_rate as section
from allora_analysis.claims.claim import units_wanted
from allora_analysis.finetune.run import summarised
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.grid.presets import (
    FIRST_SEED,
    LISTS,
    MARGINS,
    OWN_BEST,
    OWN_BEST_FRESH,
    OWN_BEST_ONCE_MORE,
    own_best_pairs,
    own_best_verdicts,
)
from allora_analysis.grid.reading import differences, judged, recorded
from allora_analysis.statistics.e_values import decide, e_values
from allora_analysis.statistics.paired import TIE
from allora_analysis.study import bound
from tests.ledger_rows import Rows
from tests.planted_finetune import DIGESTS, better, plant

CLAIMS = Rows(section)
finding = CLAIMS.finding
BY_ROW = {
    "4-own-best-rate-on-the-update": "minilm-adamw",
    "4-own-best-rate-sgd": "minilm-sgd",
    "4-own-best-rate-smollm2": "smollm2-adamw",
}
SEQUENTIAL = "4-own-best-rate-smollm2"  # a row of one arm, judged by e-values


def test_an_arm_that_failed_is_named():
    """As one that stays at chance; 9 points off is no failure."""
    assert our_runs.failed_in_words([0.0, 0.01, -0.01, 0.36]) == "9.0 from 1 failed LoRA run"
    assert our_runs.failed_in_words([0.0, 0.01, -0.4, 0.36]) == "-1.0 from 2 failed runs"
    assert our_runs.failed_in_words([0.0, 0.01, 0.09, -0.09]) == ""


RIGHT = np.random.default_rng(5).random((60, 40)) < 0.75


def seeds_of_a_list(
    folder,
    name,
    seeds,
    gain,
    spread=0.004,
    later=0.0,
    cpu=lambda run: "one",
    fails=(),
    doubled=0.0,
    of=MappingProxyType({}),
):
    """Records of the list's arms, with the rows they are right on: all but LoRA are `gain` above it on average.

    An arm's gain is as many times as `of` says; seeds from the twelfth on gain `later` more. LoRA is at chance in the
    places that fail, and `doubled` above itself at the rate at which an arm starts, 2e-3 or, under SGD, 2.
    """
    draws = np.random.default_rng(11).normal(0.0, spread, seeds)
    draws -= draws.mean()
    for one in LISTS["own_best_rate"]["desk"]:
        place = one.seed - FIRST_SEED
        if (one.model, one.optimizer) == OWN_BEST[name][:2] and place < seeds:
            value = (
                0.75
                - 0.25 * (one.arm == "lora" and place in fails)
                + doubled * (one.arm == "lora" and one.learning_rate in (2e-3, 2.0))
                + (one.arm != "lora") * (of.get(one.arm, 1) * gain + draws[place] + later * (place >= 12))
            )
            save(folder, one, place, value, cpu(one))


def save(folder, one, place, value, cpu="one"):
    """A record of this accuracy, None where the run diverged; the rows it is right on are the place's own."""
    right = np.packbits(RIGHT[place] | (np.arange(40) < 4 * (one.arm != "lora"))).tobytes().hex()
    ends = [] if value is None else [{"test_accuracy": value, "test_loss": 0.4 - value / 10}]
    result = {"epochs": [{"epoch": 1.0, "step": 2} | end for end in ends], "majority_rates": {"test": 0.5}}
    result |= {"diverged_at_step": 2 if value is None else None, "right": {"test": right}, "rows": {"test": 40}}
    result["row_norms"] = summarised({"step": [0, 2], "layers": {"q": [0.0, 0.05]}})
    records.save(folder, STUDY, one, result, protocol=PROTOCOL, digests=DIGESTS, provenance={"cpu": cpu})


@pytest.mark.parametrize("identifier", BY_ROW)
def test_every_row_reads_its_own_list(runs_folder, identifier):
    """Planted: ALLoRA is better on this row's list, LoRA on the other two."""
    for row, name in BY_ROW.items():
        seeds_of_a_list(runs_folder, name, 12, 0.02 if row == identifier else -0.02)
    assert {row: finding(row).verdict for row in BY_ROW} == dict.fromkeys(BY_ROW, "refuted") | {identifier: "holds"}
    assert (finding("4-own-best-rate-sgd").at_paper is None) is True


def fresh_seeds(folder, gain, spread=0.003, skip=None, gone=None, fails=None, pairs=OWN_BEST_ONCE_MORE):
    """Records of the fresh seeds, ALLoRA-0 `gain` ahead on average; one may be skipped, have diverged, or
    LoRA have failed there.
    """
    drawn = np.random.default_rng(11).normal(0.0, 1.0, len(pairs))
    drawn = spread * (drawn - drawn.mean()) / drawn.std(ddof=1)
    for place, (ours, lora) in enumerate(pairs):
        if place != skip:
            save(folder, ours, place, None if place == gone else 0.75 + gain + drawn[place])
        save(folder, lora, place, 0.75 - 0.25 * (place == fails))


HALF = stats.t.ppf(0.95, 29) * 0.003 / 30**0.5  # of the planted seeds' 90 % interval


@pytest.mark.parametrize(
    ("gain", "spread", "verdict", "begins"),
    [
        (0.006, 0.003, "holds", "Yes: +0.60 points (0.5"),
        (0.05, 0.003, "holds", "Yes: +5.00 points (4.9"),
        (-0.006, 0.003, "refuted", "No: -0.60 points (-0.7"),
        (0.001, 0.001, "refuted", "No, less than 0.3 points either way: +0.10 points (0.0"),
        (0.0, 0.003, "refuted", "No, less than 0.3 points either way: 0.00 points (-0.1"),
        (0.003 - HALF - 1e-6, 0.003, "refuted", "No, less than 0.3 points either way: +0.21"),
        (0.003 - HALF + 1e-6, 0.003, "holds", "Yes: +0.21"),
        (HALF - 0.003 + 1e-6, 0.003, "refuted", "No, less than 0.3 points either way: -0.21"),
        (HALF - 0.003 - 1e-6, 0.003, "refuted", "No: -0.21"),
        (0.003, 0.0105, "undecided", "Undecided: +0.30 points (-0.0"),
        (0.0, 0.0105, "undecided", "Undecided: 0.00 points (-0.3"),
    ],
)
def test_fresh_seeds_are_the_same_within_the_margin_or_ahead(runs_folder, gain, spread, verdict, begins):
    fresh_seeds(runs_folder, gain, spread)
    found = finding("4-own-best-rate")
    assert (found.verdict, found.evidence.n, found.size.ends) == (verdict, 30, "90 %")
    assert found.answer.startswith(begins)
    assert found.answer.endswith("), 30 fresh seeds.")
    half = 100 * HALF * spread / 0.003
    assert found.evidence.interval == pytest.approx((100 * gain - half, 100 * gain + half), abs=1e-4)
    both = found.evidence.measured["over seeds and sentences, 95 %"]
    assert (both["seeds"], both["rows"]) == (30, 40)
    assert found.evidence.measured["test loss within its margin"] == (gain < 0.04)  # a tenth of the accuracy's gap
    assert "over seeds and sentences (95 %); " in found.evidence.tolerance_source
    assert "; the same within ±0.3 points" in found.evidence.tolerance_source


def test_fresh_seeds_are_judged_when_all_are_there(runs_folder):
    """Planted: the seeds before them say the opposite, and stand beside; one run is lacking, or has diverged."""
    seeds_of_a_list(runs_folder, "minilm-adamw", 12, -0.02, of={"allora_adamw": -1})
    fresh_seeds(runs_folder / "lacking", 0.02, skip=7)
    assert finding("4-own-best-rate", results=runs_folder / "lacking").verdict == "not_run"
    fresh_seeds(runs_folder / "gone", 0.02, gone=7)
    gone = finding("4-own-best-rate", results=runs_folder / "gone")
    assert (gone.verdict, gone.answer) == ("undecided", "Undecided: a run diverged.")
    fresh_seeds(runs_folder, 0.02)
    fresh_seeds(runs_folder, -0.01, pairs=OWN_BEST_FRESH)
    found = finding("4-own-best-rate")
    measured = found.evidence.measured
    before = measured["the seeds before those, by e-values"]
    assert (found.verdict, before["allora_0"]["verdict"]) == ("holds", "below")
    assert before["all seeds recorded"]["n"] == 12
    twenty, whole = (measured[name]["allora_0"] for name in ("the twenty before", "all seeds together"))
    assert (twenty["n"], twenty["mean"], twenty["verdict"]) == (20, pytest.approx(-0.01), "refuted")
    assert (whole["n"], whole["mean"]) == (62, pytest.approx((12 * -0.02 + 20 * -0.01 + 30 * 0.02) / 62))


def test_a_failed_run_of_the_fresh_seeds_is_told_by_its_seed(runs_folder):
    fresh_seeds(runs_folder, 0.0, fails=4)
    found = finding("4-own-best-rate")
    assert found.evidence.measured["looked at afterwards"]["where an arm failed"]["seeds"] == [87]
    assert found.verdict == "undecided"


@pytest.mark.parametrize(
    ("seeds", "pooled", "expected"),
    [
        (20, 0.32, ((0.0, 0.98, 0.01), (0.001, 0.85, 0.14), (0.003, 0.05, 0.95))),
        (30, 0.40, ((0.0, 0.98, 0.01), (0.001, 0.85, 0.15), (0.003, 0.05, 0.95))),
    ],
)
def test_the_power_of_fixed_seeds_is_what_the_rules_say(seeds, pooled, expected):
    """At the standard deviation of the seeds seen before, by simulation."""
    seen, _ = own_best_verdicts("minilm-adamw")["allora_0"]
    if seeds == 30:
        runs = recorded([run for pair in OWN_BEST_FRESH for run in pair])
        seen = [*seen, *differences(runs, {"twenty": OWN_BEST_FRESH})["twenty"]]
    spread = np.std(seen, ddof=1)
    assert round(100 * spread, 2) == pooled
    draws = np.random.default_rng(0).normal(0.0, spread, (20_000, seeds))
    half = stats.t.ppf(0.95, seeds - 1) * draws.std(axis=1, ddof=1) / seeds**0.5
    for truth, same, ahead in expected:
        mean = truth + draws.mean(axis=1)
        within = abs(mean) + half <= 0.003
        told = within.mean(), (~within & (mean - half > 0)).mean()
        assert told == pytest.approx((same, ahead), abs=0.01)


def test_the_lists_of_the_chosen_rates_are_the_preset():
    chose = [run for of in OWN_BEST.values() if of.chosen for run in section.listed("learning_rates", *of[:2])]
    assert sorted(map(repr, chose)) == sorted(map(repr, LISTS["learning_rates"]["desk"]))


@pytest.mark.parametrize(
    ("gain", "spread", "verdict", "begins"),
    [
        (0.004, 0.004, "holds", "Yes by its stopping rule, "),
        (-0.004, 0.004, "refuted", "No by its stopping rule, "),
        (0.0001, 0.002, "refuted", "No by its stopping rule, "),
        (0.002, 0.02, "undecided", "Undecided after 30 of 60 seeds: leads above "),
    ],
)
def test_seeds_that_chose_no_rate_judge_where_there_are_some(runs_folder, gain, spread, verdict, begins):
    """Planted: the three seeds that chose the rates say the opposite."""
    chose = section.listed("learning_rates", *OWN_BEST["smollm2-adamw"][:2])
    plant(runs_folder, chose, better(("allora_0",), -0.02 if gain > 0 else 0.02))
    seeds_of_a_list(runs_folder, "smollm2-adamw", 30, gain, spread)
    found = finding(SEQUENTIAL)
    assert found.verdict == verdict
    assert found.answer.startswith(begins)
    assert (found.evidence.n, found.evidence.measured["allora_0"]["n"] == 30) == (30, verdict == "undecided")
    assert found.evidence.interval == pytest.approx((found.size.low, found.size.high))
    assert found.size.value == pytest.approx(100 * gain)
    if verdict == "undecided":
        high, low = map(float, re.search(r"above (\S+), deficits beyond (\S+) points", found.answer).groups())
        assert -low <= found.size.low < found.size.high <= high
    both = found.evidence.measured["over seeds and sentences, 95 %"]
    gains = np.array([(~line[:4]).sum() for line in RIGHT[: found.evidence.n]]) / 40
    assert both["mean"] == pytest.approx(gains.mean())
    assert (both["seeds"], both["rows"]) == (found.evidence.n, 40)
    spent, told = found.evidence.measured["all seeds recorded"], found.evidence.tolerance_source
    words = re.match(
        r"e-values (\S+) above 0 and (\S+) below; (\S+) to (\S+) over seeds and sentences \(95 %\); ", told
    )
    above, below, low, high = map(float, words.groups())
    assert (above, below) == pytest.approx((spent["above"], spent["below"]), rel=0.05)
    assert low <= 100 * both["interval"][0] < low + 0.02
    assert high - 0.02 < 100 * both["interval"][1] <= high


def test_a_decision_that_hangs_on_the_order_says_so(runs_folder):
    """Planted: MiniLM's 24 first seeds, "above" at the twentieth, and the same in nearly all other orders."""
    gaps, _ = own_best_verdicts("minilm-adamw", folder=records.results_folder(STUDY))["allora_0"]
    for place, (pair, gap) in enumerate(zip(own_best_pairs("smollm2-adamw", "allora_0"), gaps, strict=False)):
        for run, value in zip(pair, (0.75 + gap, 0.75), strict=True):
            save(runs_folder, run, place, value)
    found = finding(SEQUENTIAL)
    orders = found.evidence.measured["all seeds recorded"]["share of orders of the seeds"]
    assert (found.verdict, found.evidence.measured["allora_0"]["n"]) == ("holds", 20)
    assert sum(orders.values()) == pytest.approx(1.0)
    assert 0 < orders["above"] < 0.1 < 0.9 < orders["equivalent"]
    told = f"Yes by its stopping rule: +0.17 points, 20 seeds; in {100 - 100 * orders['above']:.0f} % of orders not."
    assert found.answer == told


def test_orders_are_judged_as_the_rule_judges_each(monkeypatch):
    monkeypatch.setattr(our_runs, "ORDERS", 40)
    x = np.random.default_rng(3).normal(0.002, 0.004, 20)
    rng = np.random.default_rng(0)
    orders = [x, *(rng.permutation(x) for _ in range(our_runs.ORDERS - 1))]
    said = [decide(one, margin=0.003, grain=TIE).verdict for one in orders]
    expected = {one: said.count(one) / len(said) for one in set(said)}
    assert our_runs.in_orders(x.tolist(), 0.003, 20.0) == pytest.approx(expected)


def test_a_decision_that_any_order_gives_says_nothing_of_orders(runs_folder):
    seeds_of_a_list(runs_folder, "smollm2-adamw", 30, 0.004, 0.004)
    found = finding(SEQUENTIAL)
    assert found.evidence.measured["all seeds recorded"]["share of orders of the seeds"] == {"above": 1.0}
    assert "orders" not in found.answer


@pytest.mark.parametrize(("later", "they_say"), [(0.0, "ahead"), (-0.009, "open"), (-0.03, "behind")])
def test_what_later_seeds_say_stands_in_answer_and_size_and_changes_no_verdict(runs_folder, later, they_say):
    """Planted: nine seeds decide, those from the twelfth on gain less, or lose."""
    seeds_of_a_list(runs_folder, "smollm2-adamw", 30, 0.004, later=later)
    found = finding(SEQUENTIAL)
    first, whole = (found.evidence.measured[name] for name in ("allora_0", "all seeds recorded"))
    mean = 0.4 + 100 * later * 18 / 30
    assert (found.verdict, first["n"], whole["n"], whole["they say"]) == ("holds", 9, 30, they_say)
    hangs = they_say != "ahead"  # most orders then say otherwise
    points = f"{100 * first['mean']:+.2f} points"
    told = f"Yes by its stopping rule, 9 seeds: {points}; over all 30 {mean:+.2f}, {they_say}."
    hanging = rf"Yes by its stopping rule: {re.escape(points)}, 9 seeds; in \d+ % of orders not\."
    assert re.fullmatch(hanging if hangs else re.escape(told), found.answer)
    assert (found.size.value, 100 * whole["mean"]) == (pytest.approx(mean), pytest.approx(mean))
    assert (found.size.low > 0) == (they_say == "ahead")
    assert found.flips_if.startswith("those 9 seeds run anew")


def test_the_reading_quotes_the_recorded_e_values():
    """When the rule stopped and after the seeds since, as recorded."""
    measured = CLAIMS.as_is("4-own-best-rate").evidence.measured
    told = measured["the seeds before those, by e-values"]
    said = CLAIMS["4-own-best-rate"].reading
    assert "whose first decision was to stand: it was 'ahead', at the twentieth (e-value 29), and was set aside" in said
    assert "four seeds later the e-value was 1, and in 295 of 300 orders the rule says 'the same'" in said
    first, whole = told["allora_0"], told["all seeds recorded"]
    assert [round(of["above"]) for of in (first, whole)] == [29, 1]
    assert (first["n"], whole["n"]) == (20, 24)
    assert whole["share of orders of the seeds"]["above"] < 0.5, "the answer hung on their order"
    assert round(300 * whole["share of orders of the seeds"]["equivalent"]) == 295
    twenty = measured["the twenty before"]["allora_0"]
    low, high = (100 * end for end in twenty["interval"])
    quoted = f"{100 * twenty['mean']:.2f} points, {bound(low, 2, False)} to {bound(high, 2, True)}"
    assert quoted in CLAIMS["4-own-best-rate"].reading


def test_a_decision_at_the_last_seed_leaves_the_answer_short(runs_folder):
    seeds_of_a_list(runs_folder, "smollm2-adamw", 8, 0.02)
    found = finding(SEQUENTIAL)
    assert (found.answer.partition(": ")[0], found.evidence.measured["all seeds recorded"]["n"]) == ("Yes", 8)


def test_the_loss_is_asked_for_more(runs_folder):
    """The sentence's own comparison at 20, the loss, read together with it, at 20 times their number, two."""
    seeds_of_a_list(runs_folder, "smollm2-adamw", 30, 0.004)
    loss = finding(SEQUENTIAL).evidence.measured["test loss"]["allora_0"]
    assert loss["verdict"] == "equivalent"
    losses, _ = own_best_verdicts("smollm2-adamw", "test_loss", runs_folder)["allora_0"]
    assert loss["n"] > decide(losses, MARGINS["test_loss"], grain=TIE).n


ON_THE_UPDATE = "4-own-best-rate-on-the-update"


@pytest.mark.parametrize(
    ("gain", "spread", "seeds", "verdict"),
    [
        (0.004, 0.004, 30, "holds"),
        (-0.004, 0.004, 30, "refuted"),
        (0.0001, 0.002, 30, "refuted"),
        (0.002, 0.02, 30, "undecided"),
        (0.004, 0.004, 13, "undecided"),
    ],
)
def test_the_factor_on_the_update_is_one_of_four_comparisons(runs_folder, gain, spread, seeds, verdict):
    """Thirteen seeds that decide ALLoRA-0 at 20 leave it open; its list is MiniLM's under AdamW alone."""
    seeds_of_a_list(runs_folder, "minilm-adamw", seeds, gain, spread)
    found = finding(ON_THE_UPDATE)
    measured = found.evidence.measured
    assert (found.verdict, measured["allora_adamw"]["n"] == seeds) == (verdict, verdict == "undecided")
    assert found.size.of.startswith("test accuracy, ALLoRAAdamW minus LoRA, ")
    assert found.size.ends == "97.5 %"
    assert ", 80 either way " in found.evidence.tolerance_source
    if seeds == 13:
        assert own_best_verdicts("minilm-adamw", folder=runs_folder)["allora_0"][1].verdict == "above"
        assert measured["all seeds recorded"]["they say"] == "open"
        assert found.corrected == "an e-value of 80 in the 47 seeds left, or both bounds within ±0.3 points"
    assert finding("4-own-best-rate-sgd").verdict == "not_run"


def test_the_reading_says_that_the_loss_is_lower_with_the_factor_on_the_update():
    found = CLAIMS.as_is(ON_THE_UPDATE)
    assert found.evidence.measured["test loss"]["allora_adamw"]["verdict"] == "below"
    assert (
        "Test loss, another of these comparisons, is decided too: ALLoRAAdamW's is lower"
        in CLAIMS[ON_THE_UPDATE].reading
    )


def test_the_reading_says_what_had_been_seen_when_the_factor_on_the_update_became_a_row():
    seen = CLAIMS.as_is(ON_THE_UPDATE).evidence.measured["allora_adamw"]["differences"][:24]
    assert round(e_values(seen, grain=TIE)[-1, 0], 1) == 6.7
    ours, _ = own_best_verdicts("minilm-adamw")["allora_0"]  # read together with it
    assert decide(ours, MARGINS["test_accuracy"], threshold=80, grain=TIE).verdict == "equivalent"


CONTROL = "4-own-best-rate-control"


@pytest.mark.parametrize(
    ("gain", "spread", "seeds", "verdict"),
    [
        (0.004, 0.004, 30, "holds"),
        (0.004, 0.004, 13, "holds"),
        (-0.004, 0.004, 30, "refuted"),
        (0.0001, 0.002, 30, "refuted"),
        (0.002, 0.02, 30, "undecided"),
    ],
)
def test_the_control_is_a_family_of_one(runs_folder, gain, spread, seeds, verdict):
    """Thirteen seeds that leave the arm open at 80 decide it here, at 20."""
    seeds_of_a_list(runs_folder, "minilm-control", seeds, gain, spread)
    found = finding(CONTROL)
    measured = found.evidence.measured
    assert (found.verdict, measured["allora_adamw"]["n"] == seeds) == (verdict, verdict == "undecided")
    assert found.size.of == f"test accuracy, ALLoRAAdamW minus LoRA at 2e-3, {seeds} seeds"
    assert found.size.ends == "90 %"
    assert ", 20 either way " in found.evidence.tolerance_source
    assert "(20 for ALLoRAAdamW's accuracy, " in found.evidence.tolerance_source
    assert verdict == "undecided" or "each at the best rate tried" not in found.answer
    assert measured["learning_rate"] == {"allora_adamw": 1e-3, "lora": 2e-3}


def test_the_control_reads_lora_at_the_doubled_rate_and_tells_its_gap_to_the_other(runs_folder):
    """Planted: ALLoRAAdamW is 2 points above LoRA at 1e-3, and LoRA at 2e-3 is 3 above it."""
    seeds_of_a_list(runs_folder, "minilm-adamw", 12, 0.02, doubled=0.03)
    control, lead = finding(CONTROL), finding(ON_THE_UPDATE)
    assert (control.verdict, lead.verdict) == ("refuted", "holds")
    assert control.answer.startswith("No by its stopping rule, 8 seeds: -0.98 points")
    beside = control.evidence.measured["LoRA at 2e-3 minus LoRA at 1e-3"]
    assert (beside["n"], beside["mean"]) == (12, pytest.approx(0.03))


def test_under_sgd_the_control_reads_lora_at_the_doubled_rate_and_its_row_lora_at_its_best(runs_folder):
    """Planted: ALLoRA-0 is 2 points above LoRA at 3, and LoRA at 2 is 3 above that."""
    seeds_of_a_list(runs_folder, "minilm-sgd", 12, 0.02, doubled=0.03)
    control, lead = finding("4-own-best-rate-sgd-control"), finding("4-own-best-rate-sgd")
    assert (control.verdict, lead.verdict) == ("refuted", "holds")
    assert control.answer == "No by its stopping rule, 8 seeds: -0.98 points; over all 12 -1.00, behind."
    assert control.evidence.measured["LoRA at 2 minus LoRA at 3"]["mean"] == pytest.approx(0.03)
    assert control.evidence.measured["learning_rate"] == {"allora_0": 1.0, "lora": 2.0}


@pytest.mark.parametrize(
    ("doubled", "told"), [(0.0, "(and over LoRA at 2e-3)"), (0.03, "(but not over LoRA at 2e-3)"), (0.02, "tried, ")]
)
def test_the_lead_at_the_rates_tried_says_whether_it_stands_at_the_doubled_rate(runs_folder, doubled, told):
    """Planted: 2 points over LoRA at 1e-3, decided at the last seed; at 2e-3 LoRA is behind, ahead, or as good."""
    seeds_of_a_list(runs_folder, "minilm-adamw", 11, 0.02, doubled=doubled)
    found = finding(ON_THE_UPDATE)
    assert found.verdict == "holds"
    assert found.answer.startswith("Yes: +2.00 points on all-MiniLM-L6-v2, at the best rates tried")
    assert told in found.answer


@pytest.mark.parametrize("identifier", [ON_THE_UPDATE, CONTROL])
def test_the_factor_on_the_update_waits_for_two_seeds(runs_folder, identifier):
    seeds_of_a_list(runs_folder, "minilm-adamw", 1, 0.02)
    assert finding(identifier).verdict == "not_run"


def test_few_seeds_have_no_failure_and_no_bounds(runs_folder):
    """Planted: two and three seeds far apart, on a machine that does not tell its CPU."""
    for seeds, fails in ((2, (0,)), (3, (1,))):
        seeds_of_a_list(runs_folder / str(seeds), "smollm2-adamw", seeds, 0.02, cpu=lambda run: None, fails=fails)
        found = finding(SEQUENTIAL, results=runs_folder / str(seeds))
        assert found.answer.startswith(f"Undecided after {seeds} of 60 seeds: +")
        assert "failed" not in found.answer
        assert "excluded" not in found.answer
    assert our_runs.robust([0.3, 0.3, -0.3, -0.3], range(4), decide)["mean of the others"] is None


def test_at_its_cap_a_row_says_what_is_excluded_and_that_no_seed_is_left(runs_folder):
    seeds_of_a_list(runs_folder, "smollm2-adamw", 60, 0.002, 0.02)
    found = finding(SEQUENTIAL)
    assert found.answer.startswith("Undecided after all 60 seeds: leads above ")
    gaps = found.evidence.measured["allora_0"]["differences"]
    fixed = units_wanted(judged({"one": gaps}).values(), "seeds")
    assert found.corrected == f"nothing by this rule, which ends here; fixed beforehand, {fixed}"


def test_an_open_row_says_how_near_its_bounds_come(runs_folder):
    """A quarter of the differences' standard deviation, however many seeds: no effect below it is ever found."""
    seeds_of_a_list(runs_folder, "smollm2-adamw", 30, 0.002, 0.02)
    found = finding(SEQUENTIAL)
    spread = np.std(found.evidence.measured["allora_0"]["differences"], ddof=1)
    assert "an e-value of 20 in the 30 seeds left" in found.corrected
    assert f"(which cannot be: they stay {25 * spread:.1f} from the mean)" in found.corrected


def test_failures_factor_and_machines_stand_beside_and_decide_nothing(runs_folder):
    """Planted: LoRA fails once; one seed's arms are on two kinds of CPU."""
    mixed = FIRST_SEED + 4

    def cpu(run):
        return "other" if run.seed == mixed and run.arm == "lora" else "one"

    seeds_of_a_list(runs_folder, "smollm2-adamw", 30, 0.002, 0.02, cpu=cpu, fails=(20,))
    found = finding(SEQUENTIAL)
    assert found.answer.startswith("Undecided, 30 seeds: +1.0 points, 0.8 from 1 failed LoRA run; beyond -")
    assert found.answer.endswith(" excluded if normal.")
    told = found.evidence.measured["looked at afterwards"]
    assert told["factor at the end, of η"] == pytest.approx((1 + 4 * 0.05) ** -0.5)
    assert {kind: one["n"] for kind, one in told["by CPU"].items()} == {"one": 29, "one and other": 1}
    assert told["without seeds on two kinds of CPU"]["n"] == 29
    steady, gaps = told["where an arm failed"], np.array(found.evidence.measured["allora_0"]["differences"])
    assert steady["seeds"] == [FIRST_SEED + 20]
    assert steady["mean of the others"] == pytest.approx(np.delete(gaps, 20).mean())
    assert steady["median"] == pytest.approx(np.median(gaps))
    others = decide([*np.delete(gaps, 20)], margin=MARGINS["test_accuracy"], grain=TIE)
    assert steady["the others, by the row's test"] == dataclasses.asdict(others)
    assert steady["sign test, two-sided p"] == pytest.approx(stats.binomtest(int((gaps > 0).sum()), 30).pvalue)
    ordered, below = np.sort(gaps), int(stats.binom(30, 0.5).ppf(0.025))
    by_signs = steady["interval of the median by the sign test, 95 %"]
    assert by_signs == pytest.approx([ordered[below - 1], ordered[-below]])
    ranks = np.sign(gaps) @ stats.rankdata(np.abs(gaps))  # Wilcoxon's sum, whose variance is that of the ranks' squares
    normal = ranks / np.sqrt(np.sum(stats.rankdata(np.abs(gaps)) ** 2))
    assert steady["Wilcoxon's test, one-sided p"]["ahead"] == pytest.approx(stats.norm.sf(normal), rel=0.1)
    assert sum(steady["Wilcoxon's test, one-sided p"].values()) == pytest.approx(1, abs=0.05)


def test_what_the_readings_say_of_the_committed_runs():
    """Which they do in words, without numbers."""
    fresh = CLAIMS.as_is("4-own-best-rate").evidence.measured["looked at afterwards"]
    assert round(fresh["factor at the end, of η"], 2) == 0.93
    assert "by CPU" not in fresh
    doubled = CLAIMS.as_is(CONTROL).evidence.measured["LoRA at 2e-3 minus LoRA at 1e-3"]
    assert (round(100 * doubled["mean"], 2), doubled["they say"], doubled["n"]) == (0.46, "ahead", 40)
    control = CLAIMS.as_is(CONTROL).evidence.measured["looked at afterwards"]
    assert control["without seeds on two kinds of CPU"]["verdict"] == "open"
    assert sum(one["n"] for kind, one in control["by CPU"].items() if " and " in kind) == 15
    steady = CLAIMS.as_is("4-own-best-rate-sgd").evidence.measured["looked at afterwards"]["where an arm failed"]
    assert [round(100 * end, 2) for end in steady["interval of the median by the sign test, 95 %"]] == [-0.09, 0.47]
    assert round(100 * steady["median"], 2) == 0.23
    assert round(steady["Wilcoxon's test, one-sided p"]["ahead"], 3) == 0.018
    assert round(steady["sign test, two-sided p"], 2) == 0.11
    assert [round(100 * end, 2) for end in steady["interval of the others"]] == [0.05, 0.44]
    by_sgd = CLAIMS.as_is("4-own-best-rate-sgd-control").evidence.measured["looked at afterwards"]
    assert sum(one["n"] for kind, one in by_sgd["by CPU"].items() if " and " in kind) == 8
    assert by_sgd["without seeds on two kinds of CPU"]["verdict"] == "open"
    assert round(by_sgd["factor at the end, of η"], 2) == 0.97
    sgd = CLAIMS.as_is("4-own-best-rate-sgd").evidence.measured["looked at afterwards"]
    assert 0.96 < sgd["factor at the end, of η"] < 1
    assert (OWN_BEST["minilm-sgd"].rates["allora_0"], OWN_BEST["minilm-sgd"].rates["lora"]) == (1, 3)
