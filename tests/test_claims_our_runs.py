"""The rows that read our fine-tuning runs: verdicts follow from planted records, and from nothing else."""

import pytest

from allora_analysis.claims import s4_4_our_runs as section
from allora_analysis.claims import s4_4_own_best_rate
from allora_analysis.claims.claim import units_wanted
from allora_analysis.grid.presets import LISTS, RATE
from allora_analysis.grid.reading import differences, diverged, judged
from tests.ledger_rows import Rows
from tests.planted_finetune import better, plant, wiggle

CLAIMS = Rows(section)
finding = CLAIMS.finding
LONG = Rows(section, s4_4_own_best_rate)
PERCEIVED, ABLATED = LISTS["perception"]["desk"], LISTS["ablation"]["desk"]
CASES = {f"rotten_tomatoes, η² = {eta2}" for eta2 in (1, 2, 4)}


@pytest.mark.parametrize("identifier", LONG)
def test_not_run_without_records_and_says_the_command(runs_folder, identifier):
    assert LONG.finding(identifier).verdict == "not_run"
    assert LONG.finding(identifier).answer.startswith("Not run: ")
    assert LONG[identifier].command.startswith("python -m experiments.")


# -- Tables 3 and 4


def test_table_3(runs_folder):
    plant(runs_folder, PERCEIVED, better(("allora",)))
    found = finding("4-table-3-desk")
    assert (found.verdict, found.at_paper) == ("holds", None)
    measured = found.evidence.measured
    assert measured["rotten_tomatoes, η² = 4"]["mean"] == pytest.approx(0.02)
    assert set(measured["classifier at l_b in both"]) == CASES
    assert found.size.value == pytest.approx(2.0)


def test_table_3_compares_with_the_papers_arm_and_not_with_the_corrected_one(runs_folder):
    """Planted: LoRA with its classifier at η·l_b is better, with the classifier at l_b worse."""

    def accuracy(run):
        fast = run.arm == "lora" and run.head_learning_rate > RATE
        return [0.8 + (0.02 + wiggle(run)) * fast + (0.01 + wiggle(run) / 2) * (run.arm == "allora")]

    plant(runs_folder, PERCEIVED, accuracy)
    found = finding("4-table-3-desk")
    assert (found.verdict, found.at_paper) == ("refuted", None)
    assert found.flips_if == "seeds in which no case is clearly behind"
    assert found.evidence.measured["rotten_tomatoes, η² = 2"]["verdict"] == "refuted"
    assert found.evidence.measured["classifier at l_b in both"]["rotten_tomatoes, η² = 2"]["mean"] > 0


def test_a_case_that_was_not_run_is_left_out_and_told(runs_folder):
    """Planted: two η² of three; Holm's correction is over two cases, not over three."""
    plant(runs_folder, PERCEIVED, better(("allora",)), skip=lambda run: run.arm == "allora" and run.eta2 == 2)
    found = finding("4-table-3-desk")
    measured = found.evidence.measured
    assert found.verdict == "holds"
    assert measured["rotten_tomatoes, η² = 4"]["family"] == 2
    assert measured["covers"].endswith("; 1 more case planned")
    assert "rotten_tomatoes, η² = 2" not in measured


def test_test_loss_stands_beside_accuracy(runs_folder, monkeypatch):
    """Planted: losses of which ALLoRA's are lower by 0.1; more of the fall is better."""
    plant(runs_folder, PERCEIVED, better(("allora",)))
    real = section.recorded

    def with_losses(wanted, runs_folder):
        runs = real(wanted, runs_folder)
        for run, result in runs.items():
            result["epochs"][-1]["test_loss"] = 0.6 + 0.01 * run.seed - (0.1 + wiggle(run)) * (run.arm == "allora")
        return runs

    assert finding("4-table-3-desk").evidence.measured["test loss, its fall"] == {}
    monkeypatch.setattr(section, "recorded", with_losses)
    found = finding("4-table-3-desk").evidence.measured["test loss, its fall"]
    assert set(found) == CASES
    assert found["rotten_tomatoes, η² = 1"]["mean"] == pytest.approx(0.1)


def test_table_4(runs_folder):
    def accuracy(run):
        return [0.9 + 3 * wiggle(run) if run.arm == "asf_lora" else 0.8 + (0.02 + wiggle(run)) * (run.arm == "allora")]

    plant(runs_folder, [*PERCEIVED, *ABLATED], accuracy)
    found = finding("4-table-4-desk")
    assert found.verdict == "refuted"
    assert found.evidence.measured["over ASF-LoRA, rotten_tomatoes, η² = 1"]["verdict"] == "refuted"
    assert found.evidence.measured["over LoRA × η, rotten_tomatoes, η² = 1"]["mean"] == pytest.approx(0.02)
    assert found.evidence.measured["mean over the cases"]["n"] == 3
    told = "clearly behind ASF-LoRA at η² = 1, 2, 4 (-8.0, -8.0, -8.0 points), behind no other clearly."
    assert found.answer == f"No: on rotten_tomatoes {told}"
    assert found.size.value == pytest.approx(-8.0)
    assert found.size.of.endswith(", against ASF-LoRA, the worst of 3 rivals")


def test_table_4_tells_who_is_ahead_alone_and_not_within_the_nine(runs_folder):
    """Planted: clearly behind LoRA × η at η² = 4; behind ASF-LoRA there by 0.8 points, seeds 0.4 apart: p = 0.037."""

    def accuracy(run):
        gap = {"lora_x_eta": 0.02 + wiggle(run), "asf_lora": 0.008 + 0.004 * (run.seed - 1)}.get(run.arm, 0.0)
        return [0.8 + gap * (run.eta2 == 4)]

    plant(runs_folder, [*PERCEIVED, *ABLATED], accuracy)
    told = "clearly behind LoRA × η at η² = 4 (-2.0 points), ASF-LoRA perhaps (-0.8)."
    assert finding("4-table-4-desk").answer == f"No: on rotten_tomatoes {told}"


def test_table_4_tells_the_cases_that_are_clear_and_no_gain_where_there_is_a_loss(runs_folder):
    """Planted: behind LoRA × η at η² = 4, behind ASF-LoRA at two η² and by 0.04 points behind ALLoRA-OD."""

    def accuracy(run):
        ahead = run.eta2 is not None and {"lora_x_eta": run.eta2 == 4, "asf_lora": run.eta2 > 1}.get(run.arm, False)
        return [0.8 + 0.0004 * (run.arm == "allora_od") + (0.02 + wiggle(run)) * ahead]

    plant(runs_folder, [*PERCEIVED, *ABLATED], accuracy)
    found = finding("4-table-4-desk")
    told = "ASF-LoRA and LoRA × η in 3 of 9 cases, behind no other."
    assert found.answer == f"No: on rotten_tomatoes clearly behind {told}"
    assert section._points(found.evidence.measured["mean over ALLoRA-OD's cases"]["mean"]) == "0.0"


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((0.02, 0.03), "holds"), ((0.02, -0.03), "refuted"), ((-0.02, -0.03), "refuted"), ((0.02, 0.0002), "undecided")],
)
def test_every_case_must_be_better(runs_folder, gains, verdict):
    def accuracy(run):
        gain = gains[run.eta2 == 4]
        return [0.8 + 0.01 * run.seed + (gain + wiggle(run)) * (run.arm == "allora")]

    plant(runs_folder, PERCEIVED, accuracy)
    found = finding("4-table-3-desk")
    assert found.verdict == verdict
    assert (found.corrected is not None) == (verdict == "undecided")


def test_the_pairing_takes_the_seeds_luck_out():
    """Planted: accuracies vary by 4 points over seeds, the gain by 0.2: unpaired, nothing would be seen."""
    case = section.by_case(PERCEIVED, {"arm": "allora"}, section.lora_at_eta_l(own_head=False))[
        "rotten_tomatoes, η² = 2"
    ]
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


def test_the_mean_over_cases_is_seed_by_seed(runs_folder):
    """Cases that are one and the same say no more than one of them."""
    plant(runs_folder, PERCEIVED, better(("allora",)))
    measured = finding("4-table-3-desk").evidence.measured
    one, overall = measured["rotten_tomatoes, η² = 4"], measured["mean over the cases"]
    assert overall["p_value"] == pytest.approx(one["p_value"])
    assert overall["interval"] == pytest.approx(one["interval"])


# -- runs that diverged


def test_a_run_that_diverged_after_an_evaluation_is_no_finished_run(runs_folder):
    """Planted: LoRA is ahead after its first epoch and diverges in its second; ALLoRA ends."""
    plant(runs_folder, PERCEIVED, lambda run: [0.8, None] if run.arm == "lora" else [0.7, 0.75])
    found = finding("4-table-3-desk")
    assert found.verdict == "undecided"
    assert found.corrected.startswith("a run diverged among the pairs of rotten_tomatoes, η² = 1, ")


def test_a_case_in_which_a_run_diverged_is_left_out_and_named(runs_folder):
    gone = next(
        run for run in PERCEIVED if (run.arm, run.data, run.eta2, run.seed) == ("allora", "rotten_tomatoes", 2.0, 1)
    )
    whole = better(("allora",))
    plant(runs_folder, PERCEIVED, lambda run: [None] if run == gone else whole(run))
    found = finding("4-table-3-desk")
    assert found.verdict == "undecided"
    assert found.evidence.measured["a run diverged in"] == ["rotten_tomatoes, η² = 2"]
    assert "rotten_tomatoes, η² = 2" not in found.evidence.measured
    assert diverged({}, {"one": [(gone, gone)]}) == []


# -- early epochs


def test_the_lead_over_allora_od_after_the_first_epoch_stands_beside(runs_folder):
    """Planted: the second epoch says the opposite."""

    def accuracy(run):
        ahead = (0.003 + wiggle(run)) * (run.arm == "allora")
        return [0.7 + 0.01 * run.seed + ahead, 0.8 - 10 * ahead]

    plant(runs_folder, [*PERCEIVED, *ABLATED], accuracy)
    found = finding("4-table-4-desk")
    assert found.verdict == "refuted"
    assert found.evidence.measured["over ALLoRA-OD after the first epoch"]["mean"]["mean"] == pytest.approx(0.003)
