"""Tables 3 and 4 under SGD with nothing clipped: the list, the rate's choice, the verdicts from planted records."""

import pytest

from allora_analysis.claims import s4_4_unclipped as section
from allora_analysis.claims.s4_4_our_runs import AS_PRINTED
from allora_analysis.grid.presets import (
    ABLATION_ARMS,
    UNCLIPPED,
    UNCLIPPED_BEYOND,
    UNCLIPPED_CHOSE,
    UNCLIPPED_RATE,
    UNCLIPPED_TRIED,
)
from tests.ledger_rows import Rows
from tests.planted_finetune import plant

CLAIMS = Rows(section)
finding = CLAIMS.finding
TABLE_3, TABLE_4 = "4-table-3-unclipped", "4-table-4-unclipped"


def test_the_rate_is_half_of_loras_best_which_is_inside_the_range_tried():
    losses = section.by_rate(None)
    best = {arm: min(of, key=of.get) for arm, of in losses.items()}
    assert best == {"lora": 2 * UNCLIPPED_RATE, "allora": UNCLIPPED_RATE}
    assert losses["lora"].keys() == {*UNCLIPPED_TRIED, UNCLIPPED_BEYOND}
    assert losses["allora"].keys() == {*UNCLIPPED_TRIED}
    assert all(min(of) < best[arm] < max(of) for arm, of in losses.items())


def test_a_trial_that_diverges_is_no_best(runs_folder):
    """Planted: losses fall with the rate, and one of two runs at 2 diverges."""

    def accuracy(run):
        return None if (run.learning_rate, run.seed) == (2.0, UNCLIPPED_CHOSE[0]) else [0.7]

    plant(runs_folder, section.TRIALS, accuracy, validation=lambda run: 1 - run.learning_rate / 8)
    losses = section.by_rate(runs_folder)
    assert losses["allora"] == {0.125: 0.984375, 0.25: 0.96875, 0.5: 0.9375, 1.0: 0.875, 2.0: float("inf")}
    assert losses["lora"] == losses["allora"] | {4.0: 0.5}


def test_what_is_judged_shares_seeds_clips_nothing_and_starts_where_the_rules_say():
    assert not {run.seed for run in UNCLIPPED} & set(UNCLIPPED_CHOSE)
    assert {(run.optimizer, run.max_grad_norm, run.drop_rate, run.head_learning_rate) for run in UNCLIPPED} == {
        ("sgd", 0.0, 0.0, 0.1)
    }
    seeds = {}
    for run in UNCLIPPED:
        seeds.setdefault((run.arm, run.eta2, run.learning_rate / UNCLIPPED_RATE), set()).add(run.seed)
    pair = {("lora", None, 2.0), ("allora", 4.0, 1.0)}
    family = {(arm, 4.0, rate) for arm in ABLATION_ARMS for rate in (1.0, 0.5)} | {("allora", 4.0, 0.5)}
    assert seeds.keys() == pair | family
    assert all(of == set(range(210, 222 if name in pair else 213)) for name, of in seeds.items())
    assert len(UNCLIPPED) == len(set(UNCLIPPED))


def planted(lead=0.0, gains=None, spread=1.0):
    """Accuracies: 0.75 and a tenth of a percent a seed; ALLoRA `lead` more and up to 0.075 % up and down, seed by seed,
    times `spread`; by arm `gains`.
    """

    def accuracy(run):
        place = run.seed - 210
        own = lead + 0.0005 * spread * (place % 4 - 1.5) if run.arm == "allora" else (gains or {}).get(run.arm, 0.0)
        return [0.75 + 0.001 * place + own]

    return accuracy


@pytest.mark.parametrize(
    ("lead", "spread", "verdict"),
    [
        (0.02, 1, "holds"),
        (0.002, 0.2, "holds"),
        (-0.02, 1, "refuted"),
        (0.0, 1, "refuted"),
        (0.0, 20, "undecided"),
    ],
)
def test_table_3_is_ahead_behind_the_same_or_open(runs_folder, lead, spread, verdict):
    plant(runs_folder, UNCLIPPED, planted(lead, spread=spread))
    found = finding(TABLE_3)
    assert (found.verdict, found.evidence.n) == (verdict, 12)
    assert found.size.value == pytest.approx(100 * lead, abs=1e-9)
    assert verdict == "undecided" or f"{100 * lead:.2f}" in found.answer


FAR = {"allora_od": -0.01, "asf_lora": -0.02, "lora_x_eta": -0.03}


@pytest.mark.parametrize(
    ("gains", "at_half", "spread", "verdict", "decides"),
    [
        (FAR, FAR, 1, "holds", "ALLoRA-OD at l_b = 1"),
        (FAR | {"asf_lora": 0.02, "allora_od": 0.01}, FAR, 1, "refuted", "ASF-LoRA at l_b = 1"),
        (FAR, FAR | {"lora_x_eta": 0.02}, 1, "refuted", "LoRA × η at 0.5"),
        (FAR, FAR | {"allora_od": 0.0}, 0.5, "refuted", "ALLoRA-OD at 0.5"),
        (FAR | {"allora_od": -0.0028}, FAR, 0.1, "holds", "ALLoRA-OD at l_b = 1"),  # within 0.3 points, clearly ahead
        (FAR, FAR, 80, "undecided", "ALLoRA-OD at l_b = 1"),
    ],
)
def test_table_4_must_be_ahead_of_each_at_both_rates(runs_folder, gains, at_half, spread, verdict, decides):
    def accuracy(run):
        of = gains if run.learning_rate >= UNCLIPPED_RATE else at_half
        return planted(gains=of | {"lora": 0.005}, spread=spread)(run)

    plant(runs_folder, UNCLIPPED, accuracy)
    found = finding(TABLE_4)
    assert (found.verdict, found.evidence.n) == (verdict, 3)
    assert decides in found.size.of
    name, _, at = decides.partition(" at ")
    arm = next(arm for arm, label in AS_PRINTED.items() if label == name)
    own = 0.0005 * spread * (-1.5 - 0.5 + 0.5) / 3  # of ALLoRA, on the first three seeds
    assert found.size.value == pytest.approx(100 * (own - (at_half if at == "0.5" else gains)[arm]), abs=1e-9)
    in_place = found.evidence.measured["LoRA at η·l in ALLoRA's place"]
    assert in_place["ASF-LoRA"]["mean"] == pytest.approx(0.005 - gains["asf_lora"])
    assert found.evidence.measured[f"over {decides}"]["family"] == 6


def test_an_open_comparison_is_named_and_not_a_clear_one_with_a_smaller_lead(runs_folder):
    """Planted: ALLoRA a little and clearly ahead of ALLoRA-OD; far ahead of ASF-LoRA on average, by one seed."""

    def accuracy(run):
        failed = (run.arm, run.seed, run.learning_rate) == ("asf_lora", 211, UNCLIPPED_RATE)
        gains = dict.fromkeys(ABLATION_ARMS, -0.03) | {"allora_od": -0.006}
        return [value - 0.2 * failed for value in planted(gains=gains, spread=0.1)(run)]

    plant(runs_folder, UNCLIPPED, accuracy)
    found = finding(TABLE_4)
    assert found.verdict == "undecided"
    assert "over ASF-LoRA at l_b = 1 (above" in found.answer


@pytest.mark.parametrize("identifier", [TABLE_3, TABLE_4])
def test_a_run_that_is_lacking_or_diverged_leaves_its_question_open(runs_folder, identifier):
    def is_one(run):
        return (run.arm, run.eta2, run.seed) == ("allora", 4.0, 211)

    assert finding(identifier, results=runs_folder).verdict == "not_run"
    plant(runs_folder, UNCLIPPED, planted(0.02), skip=is_one)
    assert finding(identifier).verdict == "not_run"
    plant(runs_folder, [run for run in UNCLIPPED if is_one(run)], lambda run: None)
    assert (finding(identifier).verdict, finding(identifier).answer) == ("undecided", "Undecided: a run diverged.")


def test_runs_that_hardly_learned_are_named_where_they_are_compared(runs_folder):
    """Planted: LoRA stays at chance once, ASF-LoRA once."""

    def accuracy(run):
        return [0.5] if (run.arm, run.seed) in {("lora", 211), ("asf_lora", 212)} else planted()(run)

    plant(runs_folder, UNCLIPPED, accuracy)
    for identifier, arm in ((TABLE_3, "lora"), (TABLE_4, "asf_lora")):
        failed = finding(identifier).evidence.measured["runs below 60 %"]
        assert {words.split(", ")[2] for words in failed} == {arm}
    found = finding(TABLE_3)
    assert found.size.value == pytest.approx(100 * (0.751 - 0.5) / 12, rel=0.05)  # and what seeds give ALLoRA
    assert found.evidence.measured["what single runs hardly move"]["seeds"] == [211]
    # By hand, of eleven: mean 0.0023, standard deviation 0.0607 points, t = 1.812 on ten degrees of freedom.
    assert found.answer == "Undecided: 1 of 12 LoRA runs at chance; the others: 0.00 points (-0.04 to 0.04)."


def test_the_factor_s_fall_is_that_of_the_mean_row(runs_folder):
    """By hand, 1/√(1 + η²n) at the last step, n the mean over layers."""
    plant(runs_folder, UNCLIPPED, planted(), norms=lambda run: 0.01 / 267)
    kept = finding(TABLE_3).evidence.measured["the factor at the mean row at the end, of η"]
    assert kept == pytest.approx((1 + 4 * 0.02) ** -0.5)  # layers of 0.01 and three times that


def test_the_reading_quotes_the_recorded_fall():
    kept = CLAIMS.as_is(TABLE_3).evidence.measured["the factor at the mean row at the end, of η"]
    assert f"factor keeps {100 * kept:.0f} % of η" in CLAIMS[TABLE_3].reading
