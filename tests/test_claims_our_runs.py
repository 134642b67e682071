"""The rows that read our fine-tuning runs: verdicts follow from planted records, and from nothing else."""

import re

import numpy as np
import pytest
from scipy import stats

from allora_analysis import records
from allora_analysis.claims import s4_4_our_runs as section
from allora_analysis.claims.claim import units_wanted
from allora_analysis.finetune import setting as settings
from allora_analysis.finetune.setting import ARMS, PROTOCOL, STUDY
from allora_analysis.grid.presets import FIRST_SEED, LISTS, OWN_BEST, RATE, own_best_verdicts
from allora_analysis.grid.reading import differences, diverged, judged
from tests import ledger_rows
from tests.ledger_rows import Rows
from tests.planted_finetune import DIGESTS, better, plant, wiggle

CLAIMS = Rows(section)
PERCEIVED, ABLATED = LISTS["perception"]["desk"], LISTS["ablation"]["desk"]
BY_ROW = {
    "4-own-best-rate": ("all-MiniLM-L6-v2", "adamw"),
    "4-own-best-rate-sgd": ("all-MiniLM-L6-v2", "sgd"),
    "4-own-best-rate-smollm2": ("SmolLM2-135M", "adamw"),
}
CASES = {f"rotten_tomatoes, η² = {eta2}" for eta2 in (1, 2, 4)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    return tmp_path


def finding(identifier, results=None):
    return ledger_rows.finding(CLAIMS[identifier], results)


@pytest.mark.parametrize("identifier", CLAIMS)
def test_not_run_without_records_and_says_the_command(folder, identifier):
    assert finding(identifier).verdict == "not_run"
    assert finding(identifier).answer.startswith("Not run: ")
    assert CLAIMS[identifier].command.startswith("python -m experiments.")


# -- Tables 3 and 4


def test_table_3(folder):
    plant(folder, PERCEIVED, better(("allora",)))
    found = finding("4-table-3-desk")
    assert (found.verdict, found.at_paper) == ("holds", None)
    measured = found.evidence.measured
    assert measured["rotten_tomatoes, η² = 4"]["mean"] == pytest.approx(0.02)
    assert set(measured["classifier at l_b in both"]) == CASES
    assert found.size.value == pytest.approx(2.0)


def test_table_3_compares_with_the_papers_arm_and_not_with_the_corrected_one(folder):
    """Planted: LoRA with its classifier at η·l_b is better, with the classifier at l_b worse."""

    def accuracy(run):
        fast = run.arm == "lora" and run.head_learning_rate > RATE
        return [0.8 + (0.02 + wiggle(run)) * fast + (0.01 + wiggle(run) / 2) * (run.arm == "allora")]

    plant(folder, PERCEIVED, accuracy)
    found = finding("4-table-3-desk")
    assert (found.verdict, found.at_paper) == ("refuted", None)
    assert found.evidence.measured["rotten_tomatoes, η² = 2"]["verdict"] == "refuted"
    assert found.evidence.measured["classifier at l_b in both"]["rotten_tomatoes, η² = 2"]["mean"] > 0


def test_a_case_that_was_not_run_is_left_out_and_told(folder):
    """Planted: two η² of three; Holm's correction is over two cases, not over three."""
    plant(folder, PERCEIVED, better(("allora",)), skip=lambda run: run.arm == "allora" and run.eta2 == 2)
    found = finding("4-table-3-desk")
    measured = found.evidence.measured
    assert found.verdict == "holds"
    assert measured["rotten_tomatoes, η² = 4"]["family"] == 2
    assert measured["covers"].endswith("; 1 more case planned")
    assert "rotten_tomatoes, η² = 2" not in measured


def test_test_loss_stands_beside_accuracy(folder, monkeypatch):
    """Planted: losses of which ALLoRA's are lower by 0.1; more of the fall is better."""
    plant(folder, PERCEIVED, better(("allora",)))
    real = section.recorded

    def with_losses(wanted, folder):
        runs = real(wanted, folder)
        for run, result in runs.items():
            result["epochs"][-1]["test_loss"] = 0.6 + 0.01 * run.seed - (0.1 + wiggle(run)) * (run.arm == "allora")
        return runs

    assert finding("4-table-3-desk").evidence.measured["test loss, its fall"] == {}
    monkeypatch.setattr(section, "recorded", with_losses)
    found = finding("4-table-3-desk").evidence.measured["test loss, its fall"]
    assert set(found) == CASES
    assert found["rotten_tomatoes, η² = 1"]["mean"] == pytest.approx(0.1)


def test_table_4(folder):
    def accuracy(run):
        return [0.9 + 3 * wiggle(run) if run.arm == "asf_lora" else 0.8 + (0.02 + wiggle(run)) * (run.arm == "allora")]

    plant(folder, [*PERCEIVED, *ABLATED], accuracy)
    found = finding("4-table-4-desk")
    assert found.verdict == "refuted"
    assert found.evidence.measured["over ASF-LoRA, rotten_tomatoes, η² = 1"]["verdict"] == "refuted"
    assert found.evidence.measured["over LoRA × η, rotten_tomatoes, η² = 1"]["mean"] == pytest.approx(0.02)
    assert found.evidence.measured["mean over the cases"]["n"] == 3
    assert "over ALLoRA-OD +2.0, over ASF-LoRA -8.0, over LoRA × η +2.0 points" in found.answer


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((0.02, 0.03), "holds"), ((0.02, -0.03), "refuted"), ((-0.02, -0.03), "refuted"), ((0.02, 0.0002), "undecided")],
)
def test_every_case_must_be_better(folder, gains, verdict):
    def accuracy(run):
        gain = gains[run.eta2 == 4]
        return [0.8 + 0.01 * run.seed + (gain + wiggle(run)) * (run.arm == "allora")]

    plant(folder, PERCEIVED, accuracy)
    found = finding("4-table-3-desk")
    assert found.verdict == verdict
    assert (found.corrected is not None) == (verdict == "undecided")


def test_the_pairing_takes_the_seeds_luck_out():
    """Planted: accuracies vary by 4 points over seeds, the gain by 0.2: unpaired, nothing would be seen."""
    case = section.by_case(PERCEIVED, {"arm": "allora"}, section._lora(own_head=False))["rotten_tomatoes, η² = 2"]
    runs = {run: {"epochs": [{"test_accuracy": 0.8 + 0.02 * run.seed}]} for pair in case for run in pair}
    for ours, _ in case:
        runs[ours]["epochs"][0]["test_accuracy"] += 0.004 + wiggle(ours)
    assert judged(differences(runs, {"one": case}))["one"].verdict == "holds"
    shifted = {"one": [(ours, case[(i + 1) % 3][1]) for i, (ours, _) in enumerate(case)]}
    assert judged(differences(runs, shifted))["one"].verdict == "undecided"


def test_one_sentence_more_in_every_pair_is_as_good_as_its_signs():
    """Planted: Student's p-value of 1e-25, where (k + 1)/n − k/n differ by the rounding of k/n alone."""
    gaps = [(k + 1) / 10042 - k / 10042 for k in (8286, 7221, 8932, 7000)]
    assert max(gaps) > min(gaps)
    one = judged({"one": gaps})["one"]
    assert (one.p_value, one.verdict) == (2.0**-4, "undecided")
    assert units_wanted([one], "seeds") == "more seeds"


def test_the_mean_over_cases_is_seed_by_seed(folder):
    """Cases that are one and the same say no more than one of them."""
    plant(folder, PERCEIVED, better(("allora",)))
    measured = finding("4-table-3-desk").evidence.measured
    one, overall = measured["rotten_tomatoes, η² = 4"], measured["mean over the cases"]
    assert overall["p_value"] == pytest.approx(one["p_value"])
    assert overall["interval"] == pytest.approx(one["interval"])


# -- runs that diverged


def test_a_run_that_diverged_after_an_evaluation_is_no_finished_run(folder):
    """Planted: LoRA is ahead after its first epoch and diverges in its second; ALLoRA ends."""
    plant(folder, PERCEIVED, lambda run: [0.8, None] if run.arm == "lora" else [0.7, 0.75])
    found = finding("4-table-3-desk")
    assert found.verdict == "undecided"
    assert found.corrected.startswith("a run diverged among the pairs of rotten_tomatoes, η² = 1, ")


def test_a_case_in_which_a_run_diverged_is_left_out_and_named(folder):
    gone = next(
        run for run in PERCEIVED if (run.arm, run.data, run.eta2, run.seed) == ("allora", "rotten_tomatoes", 2.0, 1)
    )
    whole = better(("allora",))
    plant(folder, PERCEIVED, lambda run: [None] if run == gone else whole(run))
    found = finding("4-table-3-desk")
    assert found.verdict == "undecided"
    assert found.evidence.measured["a run diverged in"] == ["rotten_tomatoes, η² = 2"]
    assert "rotten_tomatoes, η² = 2" not in found.evidence.measured
    assert diverged({}, {"one": [(gone, gone)]}) == []


# -- early epochs


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "holds"), (-0.02, "refuted"), (0.0002, "undecided")])
def test_early_epochs_reads_the_first_epoch(folder, gain, verdict):
    """Planted: the second epoch says the opposite."""

    def accuracy(run):
        ahead = (gain + wiggle(run)) * (run.arm == "allora")
        return [0.7 + 0.01 * run.seed + ahead, 0.8 - 10 * ahead]

    plant(folder, [*PERCEIVED, *ABLATED], accuracy)
    found = finding("5.1-early-epochs")
    assert found.verdict == verdict
    assert found.evidence.measured["over allora_od, epoch 1"]["mean"] == pytest.approx(gain)


# -- own best rates


@pytest.mark.parametrize("identifier", BY_ROW)
def test_every_row_reads_its_own_list(folder, identifier):
    """Planted: ALLoRA is better on this row's list, LoRA on the other two."""
    for name, of in BY_ROW.items():
        gain = 0.02 if name == identifier else -0.02
        plant(folder, section.listed(*of), better(("allora_0", "allora_adamw"), gain))
    assert finding(identifier).verdict == "holds"
    assert all(finding(name).verdict == "refuted" for name in BY_ROW if name != identifier)
    assert (finding("4-own-best-rate-sgd").at_paper is None) is True


def test_a_seed_far_off_the_others_is_named():
    """As of an arm that stays at chance; 9 points off are no such seed."""
    assert section.outlying([0.0, 0.01, -0.01, 0.33]) == ", for 1 outlying seed"
    assert section.outlying([0.0, 0.01, -0.4, 0.33]) == ", for 2 outlying seeds"
    assert section.outlying([0.0, 0.01, 0.09, -0.09]) == ""


def test_the_lists_are_the_preset():
    of_rows = [run for of in BY_ROW.values() for run in section.listed(*of)]
    assert sorted(map(repr, of_rows)) == sorted(map(repr, LISTS["learning_rates"]["desk"]))


def test_own_best_rate_is_chosen_on_validation(folder):
    best = {"lora": 1e-3, "allora_0": 3e-4}

    def accuracy(run):
        at_best = run.learning_rate == best.get(run.arm, 1e-4)
        return [0.7 + 0.1 * at_best + (0.02 + wiggle(run)) * (run.arm.startswith("allora"))]

    plant(folder, section.listed(*BY_ROW["4-own-best-rate"]), accuracy)
    found = finding("4-own-best-rate")
    measured = found.evidence.measured
    assert (found.verdict, measured["allora_0"]["mean"]) == ("holds", pytest.approx(0.02))
    assert measured["learning_rate"]["lora"] == 1e-3
    assert measured["learning_rate"]["allora_0"] == 3e-4
    assert measured["best at an end of their range"] == []
    assert set(measured["other arms"]) == set(ARMS) & {"allora_adamw", "dora", "loraplus", "asf_lora"}


@pytest.mark.parametrize("rate", [3e-5, 1e-2])
def test_a_best_rate_at_an_end_of_the_range_is_told(folder, rate):
    def accuracy(run):
        best = rate if run.arm == "lora" else 3e-4
        return [0.7 + 0.1 * (run.learning_rate == best) + wiggle(run) * (run.seed == 1)]

    plant(folder, section.listed(*BY_ROW["4-own-best-rate"]), accuracy)
    found = finding("4-own-best-rate")
    assert found.verdict == "undecided"
    assert found.evidence.measured["best at an end of their range"] == ["lora"]


def test_a_rate_at_which_a_run_diverged_is_not_the_best(folder):
    wanted = section.listed(*BY_ROW["4-own-best-rate"])

    def accuracy(run):
        gone = run.learning_rate == 3e-3 and run.seed == 0
        return [None] if gone else [0.9 if run.learning_rate == 3e-3 else 0.8 + wiggle(run)]

    plant(folder, wanted, accuracy)
    assert finding("4-own-best-rate").evidence.measured["learning_rate"]["lora"] == 3e-5
    everywhere = folder / "everywhere"
    plant(everywhere, wanted, lambda run: [None] if (run.arm, run.seed) == ("lora", 0) else [0.8 + wiggle(run)])
    found = finding("4-own-best-rate", everywhere)
    assert found.verdict == "undecided"
    assert found.corrected == "a run diverged among the pairs of allora_0"


@pytest.mark.parametrize("identifier", BY_ROW)
@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "holds"), (-0.02, "refuted")])
def test_own_best_rate_judges_the_papers_own_layer(folder, identifier, gain, verdict):
    """ALLoRAAdamW, which the paper does not have, goes the other way by as much."""

    def accuracy(run):
        of = {"allora_0": gain, "allora_adamw": -gain}.get(run.arm, 0.0)
        return [0.8 + of + wiggle(run) * (run.arm != "lora")]

    plant(folder, section.listed(*BY_ROW[identifier]), accuracy)
    assert finding(identifier).verdict == verdict


RIGHT = np.random.default_rng(5).random((60, 40)) < 0.75


def seeds_of_a_list(folder, name, seeds, gain, spread=0.004, later=0.0):
    """Records of the list's arms, with the rows they are right on: all but LoRA are `gain` above it on average.

    Seeds from the twelfth on gain `later` more.
    """
    draws = np.random.default_rng(11).normal(0.0, spread, seeds)
    draws -= draws.mean()
    for one in LISTS["own_best_rate"]["desk"]:
        place = one.seed - FIRST_SEED
        if (one.model, one.optimizer) == OWN_BEST[name][:2] and place < seeds:
            value = 0.75 + (one.arm != "lora") * (gain + draws[place] + later * (place >= 12))
            right = np.packbits(RIGHT[place] | (np.arange(40) < 4 * (one.arm != "lora"))).tobytes().hex()
            epochs = [{"epoch": 1.0, "step": 2, "test_accuracy": value, "test_loss": 0.4 - value / 10}]
            result = {"epochs": epochs, "diverged_at_step": None, "majority_rates": {"test": 0.5}}
            result |= {"right": {"test": right}, "rows": {"test": 40}}
            records.save(folder, STUDY, one, result, protocol=PROTOCOL, digests=DIGESTS, provenance={})


@pytest.mark.parametrize(
    ("gain", "spread", "verdict", "begins"),
    [
        (0.004, 0.004, "holds", "Yes by its stopping rule: +"),
        (-0.004, 0.004, "refuted", "No by its stopping rule: -"),
        (0.0001, 0.002, "refuted", "No by its stopping rule: +0."),
        (0.002, 0.02, "undecided", "Undecided after 30 of 60 seeds: ALLoRA minus LoRA is between "),
    ],
)
def test_seeds_that_chose_no_rate_judge_where_there_are_some(folder, gain, spread, verdict, begins):
    """Planted: the three seeds that chose the rates say the opposite."""
    plant(folder, section.listed(*BY_ROW["4-own-best-rate"]), better(("allora_0",), -0.02 if gain > 0 else 0.02))
    seeds_of_a_list(folder, "minilm-adamw", 30, gain, spread)
    found = finding("4-own-best-rate")
    assert found.verdict == verdict
    assert found.answer.startswith(begins)
    assert (found.evidence.n, found.evidence.measured["allora_0"]["n"] == 30) == (30, verdict == "undecided")
    assert found.evidence.interval == pytest.approx((found.size.low / 100, found.size.high / 100))
    assert found.size.value == pytest.approx(100 * gain)
    if verdict == "undecided":
        low, high = map(float, re.search(r"between (\S+) and (\S+) points", found.answer).groups())
        assert low <= found.size.low < found.size.high <= high
    both = found.evidence.measured["over seeds and sentences, 95 %"]
    gains = np.array([(~line[:4]).sum() for line in RIGHT[: found.evidence.n]]) / 40
    assert both["mean"] == pytest.approx(gains.mean())
    assert (both["seeds"], both["rows"]) == (found.evidence.n, 40)


@pytest.mark.parametrize(("later", "they_say"), [(0.0, "ahead"), (-0.009, "open"), (-0.03, "behind")])
def test_what_later_seeds_say_stands_in_answer_and_size_and_changes_no_verdict(folder, later, they_say):
    """Planted: nine seeds decide, those from the twelfth on gain less, or lose."""
    seeds_of_a_list(folder, "minilm-adamw", 30, 0.004, later=later)
    found = finding("4-own-best-rate")
    first, whole = (found.evidence.measured[name] for name in ("allora_0", "all seeds recorded"))
    mean = 0.4 + 100 * later * 18 / 30
    assert (found.verdict, first["n"], whole["n"], whole["they say"]) == ("holds", 9, 30, they_say)
    assert found.answer.endswith(f"after 9 seeds; all 30: {mean:+.2f}, {they_say}.")
    assert (found.size.value, 100 * whole["mean"]) == (pytest.approx(mean), pytest.approx(mean))
    assert (found.size.low > 0) == (they_say == "ahead")
    assert found.flips_if.startswith("those 9 seeds run anew")


def test_a_decision_at_the_last_seed_leaves_the_answer_short(folder):
    seeds_of_a_list(folder, "minilm-adamw", 8, 0.02)
    found = finding("4-own-best-rate")
    assert (found.answer.partition(": ")[0], found.evidence.measured["all seeds recorded"]["n"]) == ("Yes", 8)


def test_loss_and_other_arms_are_asked_for_more(folder):
    """The sentence's own comparison at 20, those read together with it at 20 times their number, four."""
    seeds_of_a_list(folder, "minilm-adamw", 30, 0.004)
    measured = finding("4-own-best-rate").evidence.measured
    own, arm, loss = measured["allora_0"], measured["other arms"]["allora_adamw"], measured["test loss"]["allora_0"]
    assert 20 <= own["above"] < 80 <= arm["above"]  # the same differences
    assert own["n"] < arm["n"]
    assert loss["verdict"] == "equivalent"
    assert loss["n"] > own_best_verdicts("minilm-adamw", "test_loss", folder)["allora_0"][1].n


def test_one_seed_more_changes_no_row_yet(folder):
    plant(folder, section.listed(*BY_ROW["4-own-best-rate"]), better(("allora_0",), 0.02))
    seeds_of_a_list(folder, "minilm-adamw", 1, -0.02)
    assert finding("4-own-best-rate").verdict == "holds"


def test_own_best_rate_waits_for_every_rate_of_an_arm_and_for_lora_and_allora_alone(folder):
    wanted = section.listed(*BY_ROW["4-own-best-rate"])
    plant(folder, wanted, better(("allora_0",)), skip=lambda run: run.arm == "dora" and run.seed == 2)
    found = finding("4-own-best-rate")
    assert "dora" not in found.evidence.measured["other arms"]
    assert found.verdict == "holds"
    for without in ("allora_0", "lora"):
        plant(folder / without, wanted, better(()), skip=lambda run, arm=without: run.arm == arm)
        assert finding("4-own-best-rate", folder / without).verdict == "not_run"


def test_the_papers_sentence_is_one_comparison(folder):
    """The other arms, recorded or not, do not change its p-value: it is Student's, one-sided."""
    wanted = section.listed(*BY_ROW["4-own-best-rate"])
    plant(folder, wanted, better(("allora_0",), 0.001))
    one = finding("4-own-best-rate").evidence.measured["allora_0"]
    values = 0.001 + 0.0005 * np.array([-1, 0, 1])
    assert one["p_value"] == one["adjusted_p_value"]
    assert one["p_value"] == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)
