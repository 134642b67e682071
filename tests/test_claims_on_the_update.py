"""Tables 3 and 4 with the factor on AdamW's update: the verdicts follow from planted records."""

import pytest

from allora_analysis.claims import s4_4_on_the_update as section
from allora_analysis.claims.tables.procedures import reported_ratio
from allora_analysis.grid.presets import ABLATION_ARMS, LISTS, RATE
from allora_analysis.statistics import ratio_of_means
from tests.ledger_rows import Rows
from tests.planted_finetune import plant, wiggle

CLAIMS = Rows(section)
finding = CLAIMS.finding
WANTED, PERCEIVED = LISTS["on_the_update"]["desk"], LISTS["perception"]["desk"]
TABLE_3, TABLE_4, PROCEDURE = "4-table-3-on-the-update", "4-table-4-on-the-update", "T3-procedure-on-the-update"


def eta2_of(run) -> float:
    """η² of an arm with a factor, or of LoRA by its rate."""
    return run.eta2 or (run.learning_rate / RATE) ** 2


def planted(lead=0.0, share=1.0, gains=None, spread=1.0, listed=0.0, alone=0.0):
    """Accuracies: LoRA at η·l rises by a point with each doubling of η², ALLoRAAdamW by `share` of it and `lead` more.

    ALLoRA as listed rises by `listed` of it. The family is at 0.80, `gains` by arm more; ALLoRAAdamW at η² = 1 has
    `alone` more. Seeds differ by `wiggle`, `spread` times as far in ALLoRAAdamW.
    """

    def accuracy(run):
        rise = 0.01 * {1: 0, 2: 1, 4: 2}[round(eta2_of(run))]
        ours = run.arm == "allora_adamw"
        part = {"lora": 1.0, "allora_adamw": share, "allora": listed, "allora_0": listed}.get(run.arm, 0.0)
        own = spread * wiggle(run) + lead + alone * (run.eta2 == 1) if ours else 0.0
        return [0.5, 0.8 + 0.01 * run.seed + part * rise + own + (gains or {}).get(run.arm, 0.0)]

    return accuracy


def test_the_list_adds_nothing_to_the_other_arms_but_two_seeds_of_lora():
    before = {*PERCEIVED, *LISTS["ablation"]["desk"]}
    added = [run for run in WANTED if run not in before]
    assert len(added) == 21
    of_ours = {("allora_adamw", seed) for seed in range(5)}
    assert {(run.arm, run.seed) for run in added} == of_ours | {("lora", 3), ("lora", 4)}
    assert {run.eta2 for run in added if run.arm == "allora_adamw"} == {1.0, 2.0, 4.0}
    assert {(run.drop_rate, run.head_learning_rate, run.epochs, run.optimizer) for run in WANTED} == {
        (0.05, RATE, 2, "adamw")
    }


@pytest.mark.parametrize(
    ("lead", "spread", "verdict"),
    [
        (0.02, 1, "holds"),
        (0.001, 0.2, "holds"),
        (-0.02, 1, "refuted"),
        (0.0, 1, "refuted"),
        (0.0, 10, "undecided"),
        (-0.002, 0.2, "refuted"),
    ],
)
def test_table_3_is_ahead_behind_the_same_or_open(runs_folder, lead, spread, verdict):
    """At η² = 1 the arm is a point behind, which the mean over 2 and 4 does not see."""
    plant(runs_folder, [*WANTED, *PERCEIVED], planted(lead=lead, spread=spread, alone=-0.01))
    found = finding(TABLE_3)
    assert (found.verdict, found.evidence.n) == (verdict, 5)
    assert found.size.value == pytest.approx(100 * (lead + 0.0005 * spread))  # wiggle is 0.0005 on average over five
    assert f"{100 * (lead + 0.0005 * spread):.2f}" in found.answer or verdict == "undecided"


def test_table_3_compares_with_the_classifier_at_l_in_both(runs_folder):
    """Planted: LoRA with its classifier at η·l, which Table 3 has, is ten points better."""

    def accuracy(run):
        values = planted(lead=0.02)(run)
        return [value + 0.1 * (run.arm == "lora" and run.head_learning_rate > RATE) for value in values]

    plant(runs_folder, [*WANTED, *PERCEIVED], accuracy)
    assert finding(TABLE_3).verdict == "holds"


@pytest.mark.parametrize("identifier", [TABLE_3, TABLE_4, PROCEDURE])
def test_a_run_that_is_lacking_or_diverged_leaves_its_question_open(runs_folder, tmp_path, identifier):
    def is_one(run):
        return (run.arm, run.eta2, run.seed) == ("allora_adamw", 4.0, 1)

    assert finding(identifier).verdict == "not_run"
    accuracy = planted(lead=0.02, gains=dict.fromkeys(ABLATION_ARMS, -0.05))
    plant(runs_folder, [*WANTED, *PERCEIVED], accuracy, skip=is_one)
    assert finding(identifier).verdict == "not_run"
    plant(runs_folder, [run for run in WANTED if is_one(run)], lambda run: None)
    found = finding(identifier)
    assert (found.verdict, found.answer) == ("undecided", "Undecided: a run diverged.")


def test_the_procedure_as_listed_counts_too(runs_folder):
    """Planted: of ALLoRA as listed a run is lacking, or has diverged."""

    def is_one(run):
        return (run.arm, run.eta2, run.seed) == ("allora", 4.0, 1)

    plant(runs_folder, [*WANTED, *PERCEIVED], planted(lead=0.02), skip=is_one)
    found = finding(PROCEDURE)
    runs = {run for of in section.ends().values() for pairs in of.values() for pair in pairs for run in pair}
    assert (found.verdict, found.evidence.tolerance_source) == (
        "not_run",
        f"none: {len(runs) - 1} of {len(runs)} runs are recorded",
    )
    plant(runs_folder, [run for run in PERCEIVED if is_one(run)], lambda run: None)
    assert (finding(PROCEDURE).verdict, finding(PROCEDURE).answer) == ("undecided", "Undecided: a run diverged.")


@pytest.mark.parametrize(
    ("behind", "verdict"),
    [
        ({"allora_od": -0.03, "asf_lora": -0.02, "lora_x_eta": -0.02}, "holds"),
        ({"allora_od": -0.03, "asf_lora": -0.02, "lora_x_eta": 0.05}, "refuted"),
        ({"allora_od": -0.03, "asf_lora": -0.02, "lora_x_eta": 0.015}, "refuted"),
    ],
)
def test_table_4_must_be_ahead_of_each(runs_folder, behind, verdict):
    """The last: LoRA × η at 0.015 above 0.80 is what ALLoRAAdamW is on average over η² of 2 and 4, the same."""
    plant(runs_folder, [*WANTED, *PERCEIVED], planted(gains=behind))
    found = finding(TABLE_4)
    assert (found.verdict, found.evidence.n) == (verdict, 3)
    measured = found.evidence.measured
    assert measured["over ALLoRA-OD"]["mean"] == pytest.approx(0.01 + 0.03)
    assert measured["over LoRA × η"]["mean"] == pytest.approx(0.015 - behind["lora_x_eta"])
    assert measured["over ASF-LoRA"]["family"] == 3
    # LoRA at η·l in its place rises as far and leads as far.
    in_place = measured["LoRA at η·l in ALLoRAAdamW's place"]
    assert in_place["ASF-LoRA"]["mean"] == pytest.approx(0.01 + 0.02)
    least = min(one["mean"] for one in in_place.values())
    assert f"without the factor: +{100 * least:.2f}." in found.answer or verdict == "refuted"


def test_table_4_is_open_where_seeds_spread(runs_folder):
    plant(runs_folder, [*WANTED, *PERCEIVED], planted(gains={"lora_x_eta": 0.01}, spread=40))
    found = finding(TABLE_4)
    assert found.verdict == "undecided"
    assert found.corrected.endswith("by its spread)")


@pytest.mark.parametrize(
    ("share", "spread", "verdict"),
    [(0.9, 1, "holds"), (0.9, 20, "undecided"), (0.2, 1, "refuted"), (1.6, 1, "refuted"), (0.0, 1, "refuted")],
)
def test_the_rise_is_like_table_3s_or_not(runs_folder, share, spread, verdict):
    """A spread in ALLoRAAdamW that is the same at η² of 1 and 4 would cancel: it is planted at 4 alone."""

    def accuracy(run):
        values = planted(share=share, spread=0, listed=0.1)(run)
        return [value + spread * wiggle(run) * (run.arm == "allora_adamw" and run.eta2 == 4) for value in values]

    plant(runs_folder, [*WANTED, *PERCEIVED], accuracy)
    found = finding(PROCEDURE)
    assert (found.verdict, found.evidence.n) == (verdict, 5)
    ours = [0.02 * share + spread * 0.0005 * (seed - 1) for seed in range(5)]
    assert (found.size.value, found.size.low, found.size.high) == pytest.approx(ratio_of_means(ours, [0.02] * 5))
    assert "as listed 0.10" in found.answer
    assert found.evidence.predicted["Table 3's own ratio"] == list(reported_ratio())


def test_an_interval_that_touches_table_3s_holds_and_one_beyond_it_does_not():
    _, low, high = reported_ratio()
    share = section.Ratio
    assert section.like_table_3(share(low - 0.1, low - 0.2, low)) == "holds"
    assert section.like_table_3(share(low - 0.1, low - 0.2, low - 1e-9)) == "refuted"
    assert section.like_table_3(share(high + 0.1, high, high + 0.2)) == "holds"
    assert section.like_table_3(share(high + 0.1, high + 1e-9, high + 0.2)) == "refuted"
    assert section.like_table_3(share(0.9, 0.6, 1.1 + 1e-9)) == "undecided"
    assert section.like_table_3(share(0.9, float("-inf"), float("inf"))) == "undecided"
