"""Tables 3 and 4 under SGD with nothing clipped: the list, the rate's choice, the verdicts from planted records."""

import pytest

from allora_analysis.claims import s4_4_on_the_update as on_the_update
from allora_analysis.claims import s4_4_unclipped as section
from allora_analysis.claims.s4_4_our_runs import AS_PRINTED
from allora_analysis.grid.presets import (
    ABLATION_ARMS,
    UNCLIPPED,
    UNCLIPPED_BEYOND,
    UNCLIPPED_CHOSE,
    UNCLIPPED_HALF,
    UNCLIPPED_RATE,
    UNCLIPPED_TRIED,
)
from allora_analysis.study import bound
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


def seeds_of(runs):
    """By arm and rate the seeds; all of SGD with nothing clipped, at one η², the classifier at 0.1."""
    assert len(runs) == len(set(runs))
    assert {(run.optimizer, run.max_grad_norm, run.drop_rate, run.head_learning_rate) for run in runs} == {
        ("sgd", 0.0, 0.0, 0.1)
    }
    assert {run.eta2 for run in runs if run.arm != "lora"} == {4.0}
    found = {}
    for run in runs:
        found.setdefault((run.arm, run.learning_rate / UNCLIPPED_RATE), set()).add(run.seed)
    return found


def test_the_lots_share_no_seed_and_start_where_the_rules_say():
    first, second = seeds_of(UNCLIPPED), seeds_of(UNCLIPPED_HALF)
    pair = {("lora", 2.0), ("allora", 1.0)}
    assert first.keys() == pair | {(arm, rate) for arm in ABLATION_ARMS for rate in (1.0, 0.5)} | {("allora", 0.5)}
    assert all(of == set(range(210, 222 if name in pair else 213)) for name, of in first.items())
    pair = {("lora", 1.0), ("allora", 0.5)}
    assert second.keys() == pair | {(arm, 0.5) for arm in ABLATION_ARMS} | {("allora", 1.0)}
    assert all(of == set(range(230, 250 if name in pair else 236)) for name, of in second.items())
    assert not set(range(210, 250)) & set(UNCLIPPED_CHOSE)


def planted(lead=0.0, gains=None, spread=1.0, whole=0.0):
    """Accuracies: 0.75 and a tenth of a percent a seed; ALLoRA `lead` more, and `whole` at its whole rate, and up to
    0.075 % up and down, seed by seed, times `spread`; by arm `gains`.
    """

    def accuracy(run):
        place = run.seed - UNCLIPPED_HALF[0].seed
        own = (gains or {}).get(run.arm, 0.0)
        if run.arm == "allora":
            own = lead + whole * (run.learning_rate >= UNCLIPPED_RATE) + 0.0005 * spread * (place % 4 - 1.5)
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
    plant(runs_folder, UNCLIPPED_HALF, planted(lead, spread=spread))
    found = finding(TABLE_3)
    assert (found.verdict, found.evidence.n) == (verdict, 20)
    assert found.size.value == pytest.approx(100 * lead, abs=1e-9)
    assert verdict == "undecided" or f"{100 * lead:.2f}" in found.answer


@pytest.mark.parametrize("first", [0.03, -0.03, None])
def test_the_first_lot_stands_beside_and_judges_nothing(runs_folder, first):
    plant(runs_folder, UNCLIPPED_HALF, planted())
    without = {identifier: finding(identifier) for identifier in (TABLE_3, TABLE_4)}
    if first is not None:
        plant(runs_folder, UNCLIPPED, planted(first))
    for identifier, bare in without.items():
        found = finding(identifier)
        assert (found.verdict, found.answer, found.size) == (bare.verdict, bare.answer, bare.size)
    told = finding(TABLE_3).evidence.measured["before, ALLoRA at 1, LoRA at 2"]
    family = finding(TABLE_4).evidence.measured["before"]
    if first is None:
        assert told == {"what single runs hardly move": {}}
        assert family == {}
    else:
        assert told["LoRA at η·l"]["mean"] == pytest.approx(first)
        assert told["what single runs hardly move"]["ahead in"] == f"{12 * (first > 0)} of 12"
        assert {one["family"] for one in family.values()} == {6}
        assert len(family) == 6


FAR = {"allora_od": -0.01, "asf_lora": -0.02, "lora_x_eta": -0.03}


@pytest.mark.parametrize(
    ("gains", "spread", "verdict", "decides"),
    [
        (FAR, 1, "holds", "ALLoRA-OD"),
        (FAR | {"asf_lora": 0.02, "allora_od": 0.01}, 1, "refuted", "ASF-LoRA"),
        (FAR | {"lora_x_eta": 0.02}, 1, "refuted", "LoRA × η"),
        (FAR | {"allora_od": 0.0}, 0.5, "refuted", "ALLoRA-OD"),
        (FAR | {"allora_od": -0.0028}, 0.1, "holds", "ALLoRA-OD"),  # within 0.3 points, clearly ahead
        (FAR, 80, "undecided", "ALLoRA-OD"),
    ],
)
def test_table_4_must_be_ahead_of_each_at_one_rate(runs_folder, gains, spread, verdict, decides):
    """Planted: ALLoRA far ahead at its whole rate, which judges nothing."""
    plant(runs_folder, UNCLIPPED_HALF, planted(gains=gains | {"lora": 0.005}, spread=spread, whole=0.2))
    found = finding(TABLE_4)
    assert (found.verdict, found.evidence.n) == (verdict, 6)
    assert f"minus {decides}, " in found.size.of
    arm = next(arm for arm, label in AS_PRINTED.items() if label == decides)
    own = 0.0005 * spread * (-1.5 - 0.5 + 0.5 + 1.5 - 1.5 - 0.5) / 6  # of ALLoRA, on the six seeds
    assert found.size.value == pytest.approx(100 * (own - gains[arm]), abs=1e-9)
    in_place = found.evidence.measured["LoRA at η·l in ALLoRA's place"]
    assert in_place["ASF-LoRA"]["mean"] == pytest.approx(0.005 - gains["asf_lora"])
    assert found.evidence.measured[f"over {decides}"]["family"] == 3


def test_equal_first_steps_are_alloras_whole_rate_but_over_allora_od(runs_folder):
    """Planted: at half the rate ALLoRA a point behind LoRA × η, at the whole a point ahead."""
    plant(runs_folder, UNCLIPPED_HALF, planted(gains=FAR | {"lora_x_eta": 0.01}, spread=0.01, whole=0.02))
    found = finding(TABLE_4)
    told = "-1.00 points against LoRA × η (-1.01 to -0.99); with equal first steps +1.00 (0.99 to 1.01)"
    assert found.answer == f"No: {told}."
    alike = found.evidence.measured["with equal first steps"]
    leads = {name: one["mean"] for name, one in alike.items()}
    assert leads == pytest.approx({"ALLoRA-OD": 0.01, "ASF-LoRA": 0.04, "LoRA × η": 0.01}, abs=1e-5)
    assert {one["family"] for one in alike.values()} == {3}


def test_equal_first_steps_that_are_lacking_leave_the_verdict(runs_folder):
    plant(runs_folder, UNCLIPPED_HALF, planted(gains=FAR | {"lora_x_eta": 0.01}), skip=whole_rate)
    found = finding(TABLE_4)
    assert (found.verdict, "equal" in found.answer) == ("refuted", False)
    assert found.evidence.measured["with equal first steps"].keys() == {"ALLoRA-OD"}
    plant(runs_folder, [run for run in UNCLIPPED_HALF if whole_rate(run)], lambda run: None)
    assert finding(TABLE_4).answer == found.answer


def whole_rate(run):
    """ALLoRA's run at its whole rate, which is beside the verdict."""
    return (run.arm, run.learning_rate) == ("allora", UNCLIPPED_RATE)


def test_an_open_comparison_is_named_and_not_a_clear_one_with_a_smaller_lead(runs_folder):
    """Planted: ALLoRA a little and clearly ahead of ALLoRA-OD; far ahead of ASF-LoRA on average, by one seed."""

    def accuracy(run):
        failed = (run.arm, run.seed) == ("asf_lora", 231)
        gains = dict.fromkeys(ABLATION_ARMS, -0.03) | {"allora_od": -0.006}
        return [value - 0.2 * failed for value in planted(gains=gains, spread=0.1)(run)]

    plant(runs_folder, UNCLIPPED_HALF, accuracy)
    found = finding(TABLE_4)
    assert found.verdict == "undecided"
    assert "against ASF-LoRA (above" in found.answer


@pytest.mark.parametrize("identifier", [TABLE_3, TABLE_4])
def test_a_run_that_is_lacking_or_diverged_leaves_its_question_open(runs_folder, identifier):
    def is_one(run):
        return (run.arm, run.seed) == ("allora", 231) and not whole_rate(run)

    assert finding(identifier, results=runs_folder).verdict == "not_run"
    plant(runs_folder, UNCLIPPED_HALF, planted(0.02), skip=is_one)
    assert finding(identifier).verdict == "not_run"
    plant(runs_folder, [run for run in UNCLIPPED_HALF if is_one(run)], lambda run: None)
    assert (finding(identifier).verdict, finding(identifier).answer) == ("undecided", "Undecided: a run diverged.")


def test_runs_that_hardly_learned_are_named_where_they_are_compared(runs_folder):
    """Planted: LoRA stays at chance once, ASF-LoRA once, ALLoRA once at its whole rate."""

    def accuracy(run):
        failed = (run.arm, run.seed) in {("lora", 231), ("asf_lora", 232)} or (whole_rate(run) and run.seed == 233)
        return [0.5] if failed else planted()(run)

    plant(runs_folder, UNCLIPPED_HALF, accuracy)
    for identifier, arms in ((TABLE_3, ["lora"]), (TABLE_4, ["allora", "asf_lora"])):
        failed = finding(identifier).evidence.measured["runs below 60 %"]
        assert sorted(words.split(", ")[2] for words in failed) == arms
    found = finding(TABLE_3)
    assert found.size.value == pytest.approx(100 * (0.751 - 0.5) / 20, rel=0.05)  # and what seeds give ALLoRA
    assert found.evidence.measured["what single runs hardly move"]["seeds"] == [231]
    # By hand, of nineteen: mean 0.0013, standard deviation 0.0586 points, t = 1.734 on eighteen degrees of freedom.
    assert found.answer == "Undecided: 1 of 20 LoRA runs at chance; the others: 0.00 points (-0.03 to 0.03)."


def test_the_factor_s_fall_is_that_of_the_mean_row(runs_folder):
    """By hand, 1/√(1 + η²n) at the last step, n the mean over layers."""
    plant(runs_folder, UNCLIPPED_HALF, planted(), norms=lambda run: 0.01 / 267)
    kept = finding(TABLE_3).evidence.measured["the factor at the mean row at the end, of η"]
    assert kept == pytest.approx((1 + 4 * 0.02) ** -0.5)  # layers of 0.01 and three times that


def test_the_reading_quotes_the_recorded_fall():
    kept = CLAIMS.as_is(TABLE_3).evidence.measured["the factor at the mean row at the end, of η"]
    assert f"factor keeps {100 * kept:.0f} % of η" in CLAIMS[TABLE_3].reading


def test_the_reading_quotes_the_first_lot():
    told = CLAIMS.as_is(TABLE_3).evidence.measured["before, ALLoRA at 1, LoRA at 2"]["what single runs hardly move"]
    low, high = (100 * end for end in told["interval of the others"])
    mean = f"{100 * told['mean of the others']:.2f}".replace("-", "−")
    ends = f"{bound(low, 2, False):.2f} to {bound(high, 2, True):.2f}".replace("-", "−")
    assert len(told["seeds"]) == 1
    assert f"the eleven others leave it open ({mean} points, {ends}; evidence)" in CLAIMS[TABLE_3].reading


def test_an_end_near_zero_keeps_its_side():
    ends = [(-0.0059, True), (0.0042, False), (-0.2379, False), (0.0359, True), (-0.0002, True), (0.0, True)]
    assert [on_the_update._end(*end) for end in ends] == [-0.005, 0.004, -0.24, 0.04, 0.0, 0.0]
