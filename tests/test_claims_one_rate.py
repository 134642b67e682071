"""The rows on the laboratory's arms at one rate: verdicts follow from a planted table, and from nothing else."""

import pytest

from allora_analysis.claims import s4_4_one_rate as section
from allora_analysis.claims.tables.procedures import PROCEDURES, reported_ratio
from allora_analysis.laboratory.one_rate import CANDIDATES, SEEDS
from allora_analysis.laboratory.table import Row
from tests.ledger_rows import finding
from tests.planted_one_rate import ALL, IMAGES, both, planted, rising

ROWS = (
    section.table_3,
    section.table_4,
    section.better_than_od,
    section.asf_significantly,
    section.asf_not_better,
    section.procedure,
)


@pytest.fixture
def verdict(monkeypatch):
    """The verdict of a row on a planted table."""

    def found(row, accuracy, seeds=ALL):
        table = planted(accuracy, seeds)
        monkeypatch.setattr(section, "recorded", lambda folder: table)
        return finding(row).verdict

    return found


def ahead(rule, gain):
    """0.8 everywhere, but for a rule's cells at a quarter of the best rate."""
    return lambda point: 0.8 + gain * (point.cell.rule == rule and point.level == "quarter")


def in_one_case(rule, gain, others):
    return lambda point: (
        0.8 + (point.cell.rule == rule) * (gain if (point.cell.optimizer, point.cell.eta2) == ("sgd", 2.0) else others)
    )


def test_ahead_in_every_case_holds_and_behind_in_one_refutes(verdict):
    def ours(point):
        return 0.8 + 0.01 * (point.cell.rule in ("allora", "allora_adamw"))

    assert verdict(section.table_3, ours) == "holds"
    assert verdict(section.table_3, ahead("allora", 0.01)) == "undecided", "ALLoRAAdamW is not ahead"
    assert verdict(section.table_4, ours) == "holds"
    assert verdict(section.table_4, lambda _: 0.8) == "undecided"
    for row in (section.table_3, section.table_4):
        assert verdict(row, in_one_case("allora", -0.01, 0.01)) == "refuted"


def test_the_least_lead_is_told_at_both_rates(monkeypatch):
    """Planted: LoRA × η is 3 points ahead at the low rate, 1 at LoRA's best; ASF-LoRA 1 at both."""
    by = {"allora": 0.0, "allora_od": -0.02, "asf_lora": 0.01}
    table = planted(lambda point: 0.8 + by.get(point.cell.rule, 0.03 if point.level == "quarter" else 0.01), ALL)
    monkeypatch.setattr(section, "recorded", lambda folder: table)
    found = finding(section.table_4)
    assert found.answer.endswith("at a low rate over LoRA × η -3.0 points, at LoRA's best -1.0 to -1.0.")
    means = found.evidence.measured["mean over η² and optimizers, points"]
    assert [round(one["mean"], 1) for one in means.values()] == [2.0, -1.0, -3.0]
    assert "ALLoRA minus LoRA × η, the least" in found.size.of
    assert found.size.value == pytest.approx(-3, abs=0.2)
    assert -3.2 < found.size.low < found.size.value < found.size.high < -2.8


def test_what_happens_at_loras_best_rate_decides_nothing(verdict):
    assert verdict(
        section.table_4, lambda point: 0.8 + 0.05 * (point.cell.rule == "allora") * (point.level == "best")
    ) == ("undecided")


@pytest.mark.parametrize(
    ("row", "worse", "gain", "wanted"),
    [
        (section.better_than_od, "allora_od", -0.003, "holds"),
        (section.better_than_od, "allora_od", 0.003, "refuted"),
        (section.better_than_od, "allora_od", 0.0, "undecided"),
        (section.better_than_od, "asf_lora", -0.05, "undecided"),
        (section.asf_significantly, "asf_lora", -0.003, "holds"),
        (section.asf_significantly, "asf_lora", 0.003, "refuted"),
        (section.asf_not_better, "asf_lora", 0.003, "holds"),
        (section.asf_not_better, "asf_lora", 0.005, "undecided"),
        (section.asf_not_better, "asf_lora", 0.008, "refuted"),
    ],
)
def test_the_mean_over_settings_decides(verdict, row, worse, gain, wanted):
    assert verdict(row, ahead(worse, gain)) == wanted


def test_one_setting_may_outweigh_the_others(verdict):
    assert verdict(section.better_than_od, in_one_case("allora", 0.05, -0.002)) == "holds"


def grown(cell):
    """The share where the adapters' steps grow with η."""
    return 1.0 * (cell.scaled or cell.rule == "allora_adamw")


def test_procedures_as_measured(verdict):
    assert verdict(section.procedure, rising(grown)) == "refuted"
    found = finding(section.procedure)
    assert found.condition is None
    assert found.size.value == pytest.approx(0, abs=0.1)
    assert found.size.low < 0 < found.size.high
    measured = found.evidence.measured
    assert measured["consistent with Table 3, all seeds"] == [
        name for name, one in CANDIDATES.items() if one.scaled or one.arm == section.AFTER
    ]
    assert measured["ALLoRA's rise under AdamW as listed, points"]["within ± 0.3"]
    for lot in ("seeds 0 to 19", "seeds 20 to 39", "seeds 40 to 59"):
        assert measured[lot]["every rate times η as well"]["value"] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (lambda cell: 1.0, "holds"),
        (lambda cell: 1.0 * (not cell.scaled), "holds"),
        (lambda cell: 1.0 * (cell.head == "eta_l"), "holds"),
        (lambda cell: grown(cell) or 1.0 * bool(cell.epsilon), "holds"),
        (lambda cell: 0.0, "refuted"),
        (both, "refuted"),
        (lambda cell: 2 * (1 - grown(cell)), "refuted"),
        (lambda cell: 0.4 * (1 - grown(cell)), "refuted"),
    ],
    ids=["all", "listed", "classifier", "a large epsilon", "nothing", "both steps", "twice as much", "less than half"],
)
def test_one_listed_procedure_of_the_tables_shape_decides(verdict, share, expected):
    assert verdict(section.procedure, rising(share)) == expected


def test_one_lot_without_the_shape_refutes(monkeypatch, verdict):
    original = section.measured_shape
    monkeypatch.setattr(
        section,
        "measured_shape",
        lambda table, name, seeds=SEEDS: original(table, name, seeds) | ({"low": 9.0} if seeds.start == 20 else {}),
    )
    assert verdict(section.procedure, rising(lambda cell: 1.0)) == "refuted"


def test_what_trains_next_to_nothing_is_not_consistent(verdict):
    """Planted: under SGD at AdamW's l ALLoRA rises as LoRA does, from a guess."""

    def accuracy(point):
        slow = point.cell.optimizer == "sgd" and point.optimizer == "adamw"
        return rising(lambda cell: 1.0 if slow else grown(cell))(point) - 0.58 * slow

    assert verdict(section.procedure, accuracy) == "refuted"
    seen = finding(section.procedure).evidence.measured
    _, low, high = reported_ratio()
    assert seen["all seeds"]["as listed, under SGD"]["low"] < high
    assert seen["all seeds"]["as listed, under SGD"]["high"] > low
    assert "as listed, under SGD" not in seen["consistent with Table 3, all seeds"]


def test_sgd_decides_nothing(verdict):
    """Planted: under SGD ALLoRA rises as LoRA does, and trains."""
    assert verdict(section.procedure, rising(lambda cell: 1.0 if cell.optimizer == "sgd" else grown(cell))) == "refuted"
    assert "as listed, under SGD" in finding(section.procedure).evidence.measured["consistent with Table 3, all seeds"]


def test_candidates_are_the_procedures_of_the_other_row():
    assert [
        (name, one.optimizer, one.arm == section.AFTER, one.scaled, one.head == "eta_l", one.epsilon)
        for name, one in CANDIDATES.items()
    ] == [(one.name, one.optimizer, one.factor_after, one.rate, one.head, one.epsilon) for one in PROCEDURES]


@pytest.mark.parametrize("row", ROWS)
def test_no_row_before_all_seeds_are_there(verdict, row, tmp_path):
    assert verdict(row, lambda _: 0.8, seeds=ALL - 1) == "not_run"


def test_no_row_without_a_table(tmp_path):
    assert {finding(row, tmp_path).verdict for row in ROWS} == {"not_run"}


def test_each_seed_takes_the_eta_of_its_own_validation_images():
    table = planted(lambda point: 0.8)
    for place, eta2 in enumerate((1.0, 2.0, 4.0)):
        point = section.Point(section.arm(section.ALLORA, "sgd", eta2), "sgd", "quarter")
        scores = tuple(0.1 if seed % 3 == place else None if eta2 == 4 else 0.5 for seed in SEEDS)
        right = (IMAGES // 10 * (place + 1),) * len(SEEDS)
        table.rows[point.cell][point.rate(table), 0, len(SEEDS)] = Row(scores, right, (0.3,) * len(SEEDS))
    assert section.best_of_three(table, section.ALLORA, "sgd")[:4].tolist() == [10.0, 20.0, 30.0, 10.0]
