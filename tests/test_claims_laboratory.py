"""The rows on the laboratory: verdicts follow from planted differences, and from nothing else."""

import numpy as np
import pytest

from allora_analysis.claims import s3_1_small_runs as section
from allora_analysis.claims import s4_4_laboratory as comparisons
from allora_analysis.claims.laboratory_noise import QUANTILE
from allora_analysis.laboratory.design import AGAIN, contrasts, judged_again
from allora_analysis.laboratory.table import TUNING, Table
from allora_analysis.statistics import required_n
from tests.ledger_rows import as_is, finding

CLAIM = section.dropout_few_and_many_steps


def plant(monkeypatch, few, many, spread=1e-3, seeds=100):
    """Differences of two arms, of so many seeds with dropout and of all without."""

    def by_seed(self, first, second, endpoint, fine=False):
        gaps = np.random.default_rng(first.steps).normal(0, spread, seeds if first.drop_rate else 200)
        return dict(enumerate(gaps - gaps.mean() + (few if first.steps == section.STEPS[0] else many)))

    monkeypatch.setattr(Table, "by_seed", by_seed)


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [
        (-0.01, 0.01, "holds"),
        (0.01, 0.01, "refuted"),
        (-0.01, -0.01, "refuted"),
        (-0.01, 0.0, "undecided"),
    ],
)
def test_planted_differences_decide(monkeypatch, few, many, verdict):
    plant(monkeypatch, few, many)
    assert finding(CLAIM).verdict == verdict


@pytest.mark.parametrize(("many", "verdict"), [(0.01, "holds"), (-0.01, "refuted"), (0.0, "undecided")])
def test_masks_in_the_bottleneck_are_judged_alike_on_sixty_seeds(monkeypatch, many, verdict):
    plant(monkeypatch, -0.01, many, seeds=70)
    found = finding(section.dropout_in_the_bottleneck)
    assert (found.verdict, found.evidence.n) == (verdict, 60)
    assert "no language model" in found.answer
    plant(monkeypatch, -0.01, many, seeds=59)
    assert finding(section.dropout_in_the_bottleneck).verdict == "not_run"


@pytest.mark.parametrize(("fresh", "verdict", "n"), [(200, "refuted", 200), (199, "holds", 60)])
def test_two_hundred_fresh_seeds_judge_the_bottleneck_alone_when_all_are_there(monkeypatch, fresh, verdict, n):
    """Planted: as the sentence says on the first sixty seeds and on those that judge another row, not on the others."""
    noise = np.random.default_rng(5).normal(0, 1e-3, fresh)
    by_steps = {
        steps: dict(enumerate(sign * (0.01 + 1e-3 * np.sin(np.arange(200))))) | dict(enumerate(noise - 0.01, 200))
        for steps, sign in zip(section.STEPS, (-1, 1), strict=True)
    }
    monkeypatch.setattr(Table, "by_seed", lambda self, first, *_: by_steps[first.steps])
    found = finding(section.dropout_in_the_bottleneck)
    assert (found.verdict, found.evidence.n) == (verdict, n)
    assert f"over {n} seeds" in found.evidence.tolerance_source
    assert ("the first 60 seeds, which left it holds" in found.evidence.measured) == (n == 200)


def test_the_fresh_seeds_run_the_arms_of_the_row():
    cells = {cell for steps in section.STEPS for cell in section.cells(steps, "bottleneck").values()}
    pairs = judged_again("placement")
    assert {cell for one in pairs for cell in (one.first, one.second)} == cells
    assert len(cells) == 6
    assert len(AGAIN["placement"]) == 200


def test_the_bottleneck_row_reads_masks_in_the_bottleneck():
    inside, outside = (section.cells(50, placement) for placement in ("bottleneck", "input"))
    assert inside[0.0] == outside[0.0]
    assert {inside[rate].placement for rate in (0.05, 0.4)} == {"bottleneck"}
    assert {rate: inside[rate].drop_rate for rate in inside} == {rate: rate for rate in outside}


@pytest.mark.parametrize(
    ("control", "verdict", "margin"),
    [(0.0, "holds", "0.00"), (0.004, "holds", "0.85"), (0.006, "undecided", "1.28")],
)
def test_what_choosing_rates_makes_stands_beside_dropout(monkeypatch, control, verdict, margin):
    """Planted: effects of a point either way; two names of one arm apart by `control`, on three rates."""

    def by_seed(self, first, second, endpoint, fine=False):
        assert not fine
        noise = np.random.default_rng(first.steps).normal(0, 1e-4, 100)
        effect = -0.01 if first.steps == section.STEPS[0] else 0.01
        return dict(enumerate(noise - noise.mean() + (effect if first.drop_rate else control)))

    monkeypatch.setattr(Table, "by_seed", by_seed)
    found = finding(CLAIM)
    assert found.verdict == "holds"
    assert found.evidence.tolerance_source.endswith(f"beyond which the verdict is {verdict}")
    assert f"one method against itself: ±{margin}" in found.size.of


def test_beyond_choosing_rates_either_way():
    gaps = {"0 minus 0.4, 50 steps": 0.01 * np.arange(9.0) - 1.0}
    assert section.beyond(gaps, {"50 steps": 0.5})[0] == "refuted"
    assert section.beyond(gaps, {"50 steps": 2.0})[0] == "undecided"
    assert section.beyond({name: -of for name, of in gaps.items()}, {"50 steps": 0.5})[0] == "holds"


def test_the_seeds_wanted_are_beyond_the_margin_and_at_holms_first_step():
    draws = np.random.default_rng(3).normal(0.0, 1.0, 50)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    of = {"a, 50 steps": 0.3 + draws, "b, 50 steps": draws, "c, 300 steps": draws}
    told = comparisons.seeds_wanted(of, {"50 steps": 0.1, "300 steps": 0.2}, "a, 50 steps")
    assert told.startswith(f"{required_n(0.2, 1.0, level=2 * 0.05 / 3):,} seeds at this mean (")


def test_what_the_controls_own_seeds_explain():
    """Planted: means of twice and of no standard error."""
    draws = np.random.default_rng(4).normal(0.0, 1.0, 100)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    found = comparisons.of_seeds_alone({"a, 50 steps": draws + 0.2, "b, 50 steps": draws - 0.2, "c, 300 steps": draws})
    assert found["50 steps"] == pytest.approx({"chi2": 8.0, "degrees": 2, "p": np.exp(-4)})
    assert found["300 steps"] == pytest.approx({"chi2": 0.0, "degrees": 1, "p": 1.0}, abs=1e-9)


def test_fewer_seeds_than_planned_judge_nothing(monkeypatch):
    """Planted: what the sentence says, clearly, and one seed too few of it or of the controls."""
    plant(monkeypatch, -0.01, 0.01, seeds=99)
    found = finding(CLAIM)
    told = "none: LoRA, dropout 0.05 − none, 50 steps: 99 of 100 seeds are recorded, and all of them judge"
    assert (found.verdict, found.evidence.tolerance_source) == ("not_run", told)
    plant(monkeypatch, -0.01, 0.01)
    planted = Table.by_seed
    monkeypatch.setattr(
        Table, "by_seed", lambda *of: dict(list(planted(*of).items())[: 100 if of[1].drop_rate else 99])
    )
    assert finding(CLAIM).verdict == "not_run"


@pytest.mark.parametrize("lacks", [("allora", 50), ("constant", 50), ("allora", 300), ("constant", 300)])
@pytest.mark.parametrize(
    "row", [comparisons.better_than_lora, comparisons.no_eta_is_better, comparisons.another_adaptor_is_better]
)
def test_fewer_seeds_than_planned_of_one_contrast_judge_no_comparison(monkeypatch, row, lacks):
    """Planted: one seed too few at one length, of what is compared or of the controls."""
    arm, steps = lacks

    def differences(self, first, second, endpoint, seeds, fine=False):
        mine = arm == ("constant" if "constant" in (first.adaptor, second.adaptor) else first.rule)
        return [0.01 + 1e-4 * seed for seed in range(len(seeds) - (mine and first.steps == steps))]

    monkeypatch.setattr(Table, "differences", differences)
    found = finding(row)
    assert found.verdict == "not_run"
    planned = 200 if steps == 50 else 100
    assert f"{planned - 1} of {planned} seeds are recorded" in found.evidence.tolerance_source


def test_not_run_without_a_table(tmp_path):
    assert finding(CLAIM, tmp_path).verdict == "not_run"


def plant_gaps(monkeypatch, gap, control=0.0):
    """Differences of two cells, the `gap` of both on average; of two names of one arm the control's."""

    def by_seed(self, first, second, endpoint, fine=False):
        noise = np.random.default_rng([first.steps, int(first.eta2 or 0)]).normal(0, 1e-3, 100)
        same = all(one.rule == "lora" or one.adaptor == "constant" for one in (first, second))
        return dict(enumerate(np.tile(noise - noise.mean(), 2) + (control if same else gap(first, second))))

    monkeypatch.setattr(Table, "by_seed", by_seed)


@pytest.mark.parametrize("question", ["rule", "control", "eta2", "adaptor"])
def test_rows_read_what_the_contrasts_read(monkeypatch, question):
    """After few steps each seed at the best of nine rates, after many of three."""
    monkeypatch.setattr(Table, "differences", lambda self, *of: [hash(of) % 1000] * len(of[3]))
    read = comparisons.in_units(Table({}), comparisons.named(question), "accuracy")
    wanted = [one for one in contrasts() if one.question == question]
    assert {one.fine for one in wanted} == {True, False}
    for one in wanted:
        assert read[one.name][0] == 100 * (hash((one.first, one.second, "accuracy", range(one.seeds), one.fine)) % 1000)


@pytest.mark.parametrize("row", [comparisons.better_than_lora, comparisons.better_than_dora])
@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [
        (0.01, 0.01, "holds"),
        (-0.01, -0.01, "refuted"),
        (0.0, 0.0, "undecided"),
        (-0.01, 0.0, "refuted"),
        (0.0, 0.01, "holds"),
        (-0.01, 0.01, "undecided"),
    ],
)
def test_the_means_over_settings_decide_a_length_each(monkeypatch, row, few, many, verdict):
    plant_gaps(monkeypatch, lambda first, _: few if first.steps == 50 else many)
    found = finding(row)
    assert found.verdict == verdict
    assert found.size.value == pytest.approx(100 * few, abs=1e-9)
    loss = found.evidence.measured["means, test loss"]
    assert loss["by length"]["50 steps"]["mean"] == pytest.approx(-few, abs=1e-9)
    opposite = {"holds": "refuted", "refuted": "holds"}
    assert loss["verdict"] == opposite.get(verdict, verdict), "planted: of a loss more is worse"


def test_all_seeds_of_a_length_judge_it(monkeypatch):
    """Twice as many seeds after 50 steps, in the second half of which all that is gained lies."""

    def differences(self, first, second, endpoint, seeds, fine=False):
        noise = np.random.default_rng(first.steps).normal(0, 1e-3, len(seeds))
        return list(noise - noise.mean() + 0.01 * (np.arange(len(seeds)) >= 100))

    monkeypatch.setattr(Table, "differences", differences)
    monkeypatch.setattr(comparisons, "fresh", lambda table, question: {})
    found = finding(comparisons.better_than_lora)
    assert (found.size.value, found.evidence.n) == (pytest.approx(0.5), 200)
    assert finding(comparisons.no_eta_is_better).evidence.n == 200


def test_a_setting_in_which_it_is_far_better_outweighs_two_in_which_it_is_a_little_worse(monkeypatch):
    plant_gaps(monkeypatch, lambda first, _: 0.05 if (first.optimizer, first.steps) == ("sgd", 50) else -0.002)
    found = finding(comparisons.better_than_lora)
    assert found.size.value == pytest.approx(100 * (0.05 - 2 * 0.002) / 3)
    assert found.answer == "Undecided on digits: 1.5 points after 50 steps, -0.2 after 300, optimizers averaged."


def test_a_mean_within_what_choosing_rates_makes_is_undecided(monkeypatch):
    """Planted: controls, two names of one arm, differ by 0.5 points: 0.62 of them in a mean over three settings."""
    plant_gaps(monkeypatch, lambda first, _: -0.0058, control=0.005)
    assert finding(comparisons.better_than_lora).verdict == "undecided"
    plant_gaps(monkeypatch, lambda first, _: -0.0068, control=0.005)
    assert finding(comparisons.better_than_lora).verdict == "refuted"


def test_all_pairs_of_one_arm_s_names_make_wider_margins():
    """LoRA and three names of it: √2 times their standard deviation, here of 0, 0, 0 and 0.4 points."""

    class Planted(Table):
        def differences(self, first, second, endpoint, seeds, fine=False):
            return [0.004 if first.eta2 == 16 else 0.0] * len(seeds)

    assert comparisons.wider_noise(Planted({})) == pytest.approx({"50 steps": 0.4 / 2**0.5, "300 steps": 0.4 / 2**0.5})


def test_other_eta_stand_beside_and_decide_nothing(monkeypatch):
    plant_gaps(monkeypatch, lambda first, _: -0.01 if first.eta2 == 4 else 0.5)
    found = finding(comparisons.better_than_lora)
    assert found.verdict == "refuted"
    assert found.evidence.measured["η² = 2 − LoRA, sgd, 50 steps"]["points"] == pytest.approx(50)


def test_loras_own_gap_to_dora_stands_beside_alloras(monkeypatch):
    plant_gaps(monkeypatch, lambda first, _: -0.01 if first.rule == "allora" else -0.008)
    found = finding(comparisons.better_than_dora)
    assert found.verdict == "refuted"
    assert found.answer.endswith("LoRA minus DoRA is -0.8 on average.")
    assert found.evidence.measured["LoRA − DoRA, adamw, 50 steps"]["points"] == pytest.approx(-0.8)


def test_pefts_other_baselines_stand_beside_as_the_row_says():
    """On the committed table, beyond one method from itself."""
    beside = finding(comparisons.better_than_dora).evidence.measured["PEFT's baselines minus LoRA"]
    ends = {name: one["interval"] for name, one in beside.items()}
    assert len(ends) == 8
    assert all(low < 0 < high for name, (low, high) in ends.items() if name.startswith("rslora"))
    assert all(high < -0.27 for name, (_, high) in ends.items() if name.startswith(("pissa", "loraplus")))
    assert all(low > 0.27 for name, (low, _) in ends.items() if name.startswith("dora"))


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        (0.01, "no length's mean clearly above"),
        (-0.01, "no length's mean clearly below minus"),
        (0.0, "a length's mean clearly above"),
    ],
)
def test_what_changes_a_verdict_is_not_the_case_already(monkeypatch, gain, told):
    plant_gaps(monkeypatch, lambda first, _: gain)
    assert finding(comparisons.better_than_lora).flips_if.startswith(told)
    plant(monkeypatch, -0.01, gain, seeds=60)
    flips = finding(section.dropout_in_the_bottleneck).flips_if
    assert flips == section.FLIPS[{0.01: "holds", -0.01: "refuted", 0.0: "undecided"}[gain]]


@pytest.mark.parametrize(
    ("row", "better", "worse", "field", "one"),
    [
        (comparisons.no_eta_is_better, "refuted", "holds", "eta2", 2.0),
        (comparisons.another_adaptor_is_better, "holds", "refuted", "adaptor", "inverse"),
    ],
)
def test_one_that_is_better_by_more_than_the_control_decides(monkeypatch, row, better, worse, field, one):
    def planted(gain, control):
        def gap(first, _):
            return gain if getattr(first, field) == one and first.steps == 50 else -1e-4

        plant_gaps(monkeypatch, gap, control)
        return finding(row)

    found = planted(0.01, control=0.002)
    assert found.verdict == better
    assert "after 50 steps" in found.answer
    assert better == "refuted" or found.answer.startswith("Only the inverse one by 1.0 points")
    open_still = planted(0.01, control=-0.0047)
    assert open_still.verdict == "undecided", "planted: the controls allow 1.00 points"
    assert "seeds" in open_still.corrected
    assert "no seeds" not in open_still.corrected, "that all are below their margins more seeds can show"
    plant_gaps(monkeypatch, lambda first, _: -0.01)
    assert finding(row).verdict == worse


def judged_anew(monkeypatch, row, first, again, seeds):
    """A row where its gaps are `first` on the seeds that judged first and `again`, after few steps, on these; controls
    are 0.
    """

    def by_seed(self, one, other, endpoint, fine=False):
        shift = one.adaptor != "constant" or other.adaptor == "inverse_sqrt"
        noise = np.random.default_rng(one.steps).normal(0, 1e-3, 200 + len(seeds))
        gaps = dict(enumerate(noise[:200] + first * shift))
        return gaps | (dict(zip(seeds, noise[200:] + again * shift, strict=True)) if fine else {})

    monkeypatch.setattr(Table, "by_seed", by_seed)
    return finding(row)


@pytest.mark.parametrize(("again", "verdict"), [(0.01, "holds"), (-0.01, "refuted")])
def test_a_thousand_fresh_seeds_judge_the_adaptors_after_few_steps(monkeypatch, again, verdict):
    """Planted: the first seeds say the opposite after few steps, and after many that no other adaptor is ahead."""
    row, seeds = comparisons.another_adaptor_is_better, AGAIN["adaptor"]
    found = judged_anew(monkeypatch, row, -0.01, again, seeds)
    assert found.verdict == verdict
    assert found.answer.startswith("Yes, the" if verdict == "holds" else "No: inverse"), "planted: both are ahead"
    assert "1000 seeds after 50 steps, 100 seeds after 300 steps" in found.evidence.tolerance_source
    assert found.evidence.measured["their verdict"] == "refuted"
    assert len(found.evidence.measured["the first seeds"]) == 4, "the constant one is LoRA, and no part of it"
    unfinished = judged_anew(monkeypatch, row, -0.01, again, seeds[:-1])
    assert unfinished.verdict == "refuted"
    assert "their verdict" not in unfinished.evidence.measured


@pytest.mark.parametrize(("truth", "least", "most"), [(0.4, 0.9, 1), (0.3, 0.7, 0.95), (0.2, 0.1, 0.4), (0.0, 0, 0.05)])
def test_the_power_of_a_thousand_seeds_is_as_told(truth, least, most):
    """Drawn from the recorded differences, moved to a truth for the inverse adaptor and to 0 for the controls."""
    rng, table = np.random.default_rng(0), comparisons.recorded(None)
    others = comparisons.named("adaptor", lambda name: not name.startswith("constant"))
    known, control = (comparisons.in_units(table, of, "accuracy") for of in (others, comparisons.named("control")))

    def drawn(name, gaps, mean):
        return rng.choice(gaps - gaps.mean() + mean, 1000) if name.endswith("50 steps") else gaps

    def verdict():
        same = comparisons.margins_of_one({name: drawn(name, gaps, 0.0) for name, gaps in control.items()})
        means = {name: truth if name.startswith("inverse") else gaps.mean() for name, gaps in known.items()}
        return comparisons.in_some({name: drawn(name, gaps, means[name]) for name, gaps in known.items()}, same)

    assert least <= np.mean([verdict() == "holds" for _ in range(100)]) <= most


@pytest.mark.parametrize(
    ("truth", "verdict", "least", "most"),
    [(0.3, "refuted", 0.9, 1), (0.23, "refuted", 0.6, 0.85), (0.1, "refuted", 0, 0.1), (0.0, "holds", 0.4, 0.65)],
)
def test_the_power_of_two_thousand_seeds_of_eta_is_as_told(truth, verdict, least, most):
    """Drawn from the first seeds' differences, moved to a truth for η² = 1 and to 0 for 2."""
    rng, table = np.random.default_rng(0), comparisons.recorded(None)
    known, control = (comparisons.in_units(table, comparisons.named(of), "accuracy") for of in ("eta2", "control"))
    again, few = comparisons.fresh(table, "adaptor"), "50 steps"
    margins = comparisons.margins_of_one({name: again.get(name, gaps) for name, gaps in control.items()})
    assert margins[few] == pytest.approx(0.0967, abs=1e-4)

    def drawn(name, gaps):
        means = {f"η² = 1 − 4, sgd, {few}": truth, f"η² = 2 − 4, sgd, {few}": 0.0}
        return rng.choice(gaps - gaps.mean() + means[name], 2000) if name in means else gaps

    found = [comparisons.in_none({n: drawn(n, gaps) for n, gaps in known.items()}, margins) for _ in range(200)]
    assert least <= np.mean([one == verdict for one in found]) <= most


def test_fresh_seeds_of_eta_are_of_one_and_two_against_four_after_few_steps():
    """Nothing has used them, the margin's controls have seeds of their own."""
    others = {*range(400), *range(2000, 2040), *TUNING, *AGAIN["placement"], *AGAIN["adaptor"]}
    assert not set(AGAIN["eta2"]) & others
    assert [one.name for one in judged_again("eta2")] == [f"η² = {eta2} − 4, sgd, 50 steps" for eta2 in (1, 2)]


def test_fresh_seeds_of_the_adaptors_are_of_all_their_contrasts_and_controls():
    assert not set(AGAIN["adaptor"]) & {*range(400), *TUNING}
    judged = [(one.question, one.first.steps) for one in judged_again("adaptor")]
    assert judged == [("control", 50)] * 4 + [("adaptor", 50)] * 3


def test_fresh_seeds_of_allora_are_of_its_three_optimizers_after_few_steps():
    """Nothing has used them, the margin's controls have seeds of their own."""
    others = {*range(400), *range(2000, 2040), *TUNING, *AGAIN["placement"], *AGAIN["adaptor"], *AGAIN["eta2"]}
    assert not set(AGAIN["rule"]) & others
    names = [f"ALLoRA − LoRA, {name}, 50 steps" for name in ("sgd", "momentum", "adamw")]
    assert [one.name for one in judged_again("rule")] == names


@pytest.mark.parametrize(("again", "verdict"), [(0.01, "undecided"), (-0.01, "refuted")])
def test_four_hundred_fresh_seeds_judge_allora_after_few_steps(monkeypatch, again, verdict):
    """Planted: ALLoRA is behind on the first seeds, of which those after many steps still judge."""
    row, seeds = comparisons.better_than_lora, AGAIN["rule"]
    found = judged_anew(monkeypatch, row, -0.01, again, seeds)
    assert found.verdict == verdict
    assert "400 seeds after 50 steps, 100 seeds after 300 steps" in found.evidence.tolerance_source
    assert found.size.value == pytest.approx(100 * again, abs=0.02)
    first = found.evidence.measured["the first seeds' means, test accuracy"]
    assert first["verdict"] == "refuted"
    unfinished = judged_anew(monkeypatch, row, 0.01, again, seeds[:-1])
    assert unfinished.verdict == "holds", "one seed lacks: the first ones judge"
    assert "the first seeds' means, test accuracy" not in unfinished.evidence.measured


@pytest.mark.parametrize(
    ("truth", "verdict", "least", "most"),
    [(-0.41, "refuted", 0.95, 1), (-0.2, "refuted", 0.6, 0.8), (0.2, "holds", 0.6, 0.85), (0.0, "undecided", 0.95, 1)],
)
def test_the_power_of_four_hundred_seeds_of_allora_is_as_told(truth, verdict, least, most):
    """Drawn from the first seeds' means over the optimizers after 50 steps, moved to a truth; 300 steps as recorded."""
    rng, table = np.random.default_rng(0), comparisons.recorded(None)
    pairs = comparisons.named("rule", lambda name: name.startswith("ALLoRA − LoRA, "))
    known, control = (comparisons.in_units(table, of, "accuracy") for of in (pairs, comparisons.named("control")))
    again, few = comparisons.fresh(table, "adaptor"), "50 steps"
    same = {name: again.get(name, gaps) for name, gaps in control.items()}
    margins = comparisons.margins_of_means(known, comparisons.noise(same))
    assert margins[few] == pytest.approx(0.0558, abs=1e-4)
    means = comparisons.by_length(known)

    def drawn():
        gaps = rng.choice(means[few] - means[few].mean() + truth, len(AGAIN["rule"]))
        return {f"ALLoRA − LoRA, all, {steps}": gaps if steps == few else of for steps, of in means.items()}

    found = [comparisons.at_a_length(drawn(), margins) for _ in range(200)]
    assert least <= np.mean([one == verdict for one in found]) <= most


@pytest.mark.parametrize("row", [comparisons.better_than_lora, comparisons.no_eta_is_better])
def test_no_row_on_the_laboratory_without_a_table(tmp_path, row):
    assert finding(row, tmp_path).verdict == "not_run"


def test_the_first_rule_stands_beside_the_one_that_replaced_it():
    """As the readings say: open by three rates and a hundred seeds; the adaptors are judged as they were."""
    for row in (comparisons.better_than_lora, comparisons.no_eta_is_better):
        found = as_is(row)[1]
        assert (found.evidence.measured[comparisons.AT_FIRST], found.verdict) == ("undecided", "refuted")
    adaptors = as_is(comparisons.another_adaptor_is_better)[1]
    assert adaptors.evidence.measured[comparisons.AT_FIRST] == adaptors.verdict == "refuted"


def test_the_constant_adaptor_stands_beside_the_others_and_decides_nothing(monkeypatch):
    """Planted: it alone is far ahead."""
    plant_gaps(monkeypatch, lambda first, _: 0.02 if first.adaptor == "constant" else -0.01)
    found = finding(comparisons.another_adaptor_is_better)
    assert found.verdict == "refuted"
    gains = found.evidence.measured["the constant adaptor, LoRA at η·l"]
    assert [one["mean"] for one in gains.values()] == pytest.approx([2.0, 2.0], abs=0.1)
    assert found.answer.endswith("which is LoRA, +2.0.")


def test_the_first_rule_reads_three_rates(monkeypatch):
    """Planted: ahead with nine rates, behind with three."""

    def differences(self, first, second, endpoint, seeds, fine=False):
        noise = np.random.default_rng(first.steps).normal(0, 1e-4, len(seeds))
        same = first.adaptor == "constant"
        return list(noise - noise.mean() + (0.0 if same else 0.01 if fine else -0.01))

    monkeypatch.setattr(Table, "differences", differences)
    pairs = {"ALLoRA − LoRA, sgd, 50 steps": comparisons.named("rule")["ALLoRA − LoRA, sgd, 50 steps"]}
    seen = []
    rule = lambda gaps, control: seen.append((gaps, control)) or "said"  # noqa: E731
    assert comparisons.at_first(Table({}), pairs, rule) == "said"
    ((gaps, control),) = seen
    assert [len(of) for of in gaps.values()] == [100]
    assert all(of.mean() < -0.9 for of in gaps.values())
    assert set(control) == set(comparisons.named("control"))


def told_of_one_rate(row):
    """Means after 50 steps by contrast, and how far one method is from itself."""
    (told,) = (value for key, value in finding(row).evidence.measured.items() if key.startswith("with one rate"))
    after_50 = {name: one["mean"] for name, one in told["gaps"].items() if name.endswith(" 50 steps")}
    return after_50, told["one method from itself"]["50 steps"]


def test_the_readings_say_what_one_rate_for_all_seeds_shows():
    row = comparisons.better_than_lora
    gaps, noise = told_of_one_rate(row)
    mean = np.mean(list(gaps.values()))
    assert -QUANTILE * noise / 3**0.5 < mean < 0  # open
    may = QUANTILE * noise / 3**0.5
    assert f"{-mean:.2f} behind after 50 steps, where one method may be {may:.2f} from itself" in row.reading
    row = comparisons.no_eta_is_better
    gaps, noise = told_of_one_rate(row)
    first, second = (gaps[f"η² = {eta2} − 4, sgd, 50 steps"] for eta2 in (1, 2))
    assert (
        f"1 and 2 are {first:.1f} and {second:.1f} ahead, where one method may be {QUANTILE * noise:.1f} from"
        in row.reading
    )
