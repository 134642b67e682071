"""The laboratory's rows on MNIST and CIFAR-10: verdicts follow from planted differences, margins from their own
controls.
"""

import numpy as np
import pytest
from scipy import stats

from allora_analysis.claims import ledger
from allora_analysis.claims.laboratory_noise import QUANTILE, in_units, margins_of_means, noise, of_seeds_alone
from allora_analysis.claims.s4_4_laboratory import _clear_under, by_length, fresh
from allora_analysis.claims.s4_4_laboratory import better_than_lora as on_digits
from allora_analysis.claims.s4_4_laboratory_elsewhere import better_than_lora_on_cifar10 as on_cifar10
from allora_analysis.claims.s4_4_laboratory_elsewhere import better_than_lora_on_mnist as row
from allora_analysis.claims.s4_4_laboratory_elsewhere import compared
from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.design import AGAIN, BY_ACCURACY, SHIFTED, contrasts, elsewhere
from allora_analysis.laboratory.table import Table
from allora_analysis.statistics import one_sided
from allora_analysis.study import bound
from experiments import laboratory
from experiments.laboratory import ON_MNIST
from tests.chances import chance_within
from tests.ledger_rows import as_is, finding


@pytest.fixture
def folder(tmp_path):
    tables.begin(tmp_path / "mnist.jsonl", tables.header("mnist", "0", 5, 4861))
    tables.begin(tmp_path / "cifar10.jsonl", tables.header("cifar10", "0", 5, 5000))
    return tmp_path


def judges(cell, lacking=0):
    """The seeds that judge a cell, or all but the last so many."""
    seeds = SHIFTED[cell.steps] if cell.shifted else BY_ACCURACY if cell.chosen_by == "accuracy" else range(60)
    return seeds[: len(seeds) - lacking]


def plant(monkeypatch, few, many, control=0.0, lacking=0, again=None, fresh=300):
    """ALLoRA − LoRA by length of training, and of two names of one arm; `again`: after few steps on MNIST's fresh
    seeds, so many of them.
    """

    def by_seed(self, first, second, endpoint, fine=False):
        seeds = judges(first, lacking)
        noise = np.random.default_rng(first.steps).normal(0, 1e-3, len(seeds))
        same = first.adaptor == "constant"
        gap = control if same else few if first.steps == 50 else many
        found = dict(zip(seeds, noise - noise.mean() + gap, strict=True))
        if again is not None and first.shifted and first.steps == 50 and not same:
            more = np.random.default_rng(7).normal(0, 1e-3, fresh)
            found |= dict(zip(AGAIN[ON_MNIST], more - more.mean() + again, strict=False))
        return found

    monkeypatch.setattr(Table, "by_seed", by_seed)


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [
        (0.01, 0.0, "holds"),
        (0.0, 0.01, "holds"),
        (-0.01, 0.0, "refuted"),
        (0.0, 0.0, "refuted"),
        (0.01, -0.01, "undecided"),
    ],
)
def test_the_means_over_optimizers_decide_a_length_each(monkeypatch, folder, few, many, verdict):
    plant(monkeypatch, few, many)
    found = finding(row, folder)
    assert (found.verdict, found.evidence.n) == (verdict, 120)
    assert ("practically equal" in found.answer) == (few == many == 0.0)
    assert found.size.value == pytest.approx(100 * few, abs=1e-9)
    assert "these 4,861 images" in found.evidence.tolerance_source


def test_what_digits_say_of_one_optimizer_alone_is_what_the_row_finds():
    """Rounded to the digits told."""
    found = as_is(on_digits)[1]
    told = [found.evidence.measured[f"ALLoRA − LoRA, adamw, {steps} steps"]["points"] for steps in (50, 300)]
    assert [round(points, 1) for points in told] == [-0.2, 0.1]
    assert "Under AdamW alone, 0.2 behind, it is undecided" in on_digits.reading
    assert found.evidence.measured["the verdict on one optimizer alone"]["adamw"] == "undecided"
    assert found.answer == "No: -0.4 points after 50 steps (clearly under SGD and momentum), 0.0 after 300."


@pytest.mark.parametrize(
    ("again", "seeds", "verdict", "n"),
    [
        (0.0, 300, "refuted", 300),
        (0.01, 300, "holds", 300),
        (-0.01, 300, "refuted", 300),
        (0.0, 299, "holds", 120),
    ],
)
def test_three_hundred_fresh_seeds_judge_mnist_after_few_steps_when_all_are_there(
    monkeypatch, folder, again, seeds, verdict, n
):
    """The first 120 say that ALLoRA is a point ahead, and stand beside; the margin is the recorded controls'."""
    plant(monkeypatch, 0.01, 0.0, again=again, fresh=seeds, control=0.001)
    found = finding(row, folder)
    assert (found.verdict, found.evidence.n) == (verdict, n)
    assert ("practically equal" in found.answer) == (again == 0.0 and seeds == 300)
    name = "means, test accuracy" if n == 120 else "the first seeds' means, test accuracy"
    assert found.evidence.measured[name]["by length"]["50 steps"]["mean"] == pytest.approx(1.0)
    assert found.evidence.measured[name]["verdict"] == "holds"
    assert f"{100 * 0.001 * QUANTILE / 3**0.5:.2f} points after 50 steps" in found.evidence.tolerance_source
    assert finding(on_cifar10, folder).evidence.n == 60


def test_a_length_that_is_not_clear_is_marked_first_or_last(monkeypatch, folder):
    plant(monkeypatch, 0.0, 0.01)
    told = "Yes, on {}: 0.0 points after 50 steps (not clearly), 1.0 after 300 (clearly under each)."
    assert finding(row, folder).answer == told.format("MNIST")
    assert finding(on_cifar10, folder).answer == told.format("CIFAR-10")


def test_what_is_clear_alone_is_what_has_the_verdict_alone(monkeypatch, folder):
    """Planted: all three optimizers are ahead alike, or each is where one method is from itself."""
    plant(monkeypatch, 0.01, 0.0)
    assert finding(row, folder).answer == (
        "Yes, on MNIST: 1.0 points after 50 steps (clearly under each), 0.0 after 300 (not clearly)."
    )
    gaps = {"ALLoRA − LoRA, sgd, 50 steps": np.zeros(5) + 1e-3 * np.arange(5)}
    assert _clear_under(gaps, {"control, 50 steps": np.ones(5)}, "refuted") == {}


def test_what_mnist_says_of_its_first_rule_is_in_the_committed_table():
    """Two names of one arm, up to 0.7 points apart, and an open row; one grid's controls by their seeds alone."""
    before = as_is(row)[1].evidence.measured["by the first rule, which decides nothing"]
    assert before["verdict"] == "undecided"
    table = tables.recorded(None, "mnist")
    control = in_units(table, {one.name: one for one in elsewhere("control")}, "accuracy")
    most = max(abs(of.mean()) for of in control.values())
    assert f"two names of one arm were up to {most:.1f} points apart, and the row was open" in row.reading
    assert all(one["p"] < 0.01 for one in of_seeds_alone(control).values())
    assert before["arms that only guess"] == []


def test_what_mnist_s_reading_says_of_its_optimizers_is_what_the_row_finds():
    """Rounded to the digits told; an interval's ends by size."""
    found = as_is(row)[1]
    for name, side in (("SGD", "ahead"), ("AdamW", "behind")):
        one = found.evidence.measured[f"ALLoRA − LoRA, {name.lower()}, 50 steps"]
        low, high = sorted(map(abs, one["interval"]))
        told = f"{bound(low, 2, False):.2f} to {bound(high, 2, True):.2f}"
        assert (one["points"] > 0) == (side == "ahead")
        assert f"{abs(one['points']):.2f} {side} under {name} ({told})" in row.reading
    first = found.evidence.measured["the first seeds' means, test accuracy"]
    few, margin = first["by length"]["50 steps"], first["margins"]["50 steps"] * 3**0.5
    assert few["interval"][1] < 0
    assert f"120 seeds had {few['mean']:.2f} after 50 steps, clearly below 0" in row.reading
    assert f"left it open by {abs(few['interval'][0] + 0.3):.3f} points" in row.reading
    assert f"not clearly beyond one method from itself ({margin:.2f})" in row.reading
    gaps = fresh(tables.recorded(None, "mnist"), ON_MNIST)
    beyond = one_sided(gaps["ALLoRA − LoRA, adamw, 50 steps"] + margin, "t").p_below
    assert f"by p = {beyond:.3f} alone, {2 * beyond:.3f} by Holm over both lengths" in row.reading
    before = in_units(tables.recorded(None, "mnist"), compared(shifted=True)[0], "accuracy")
    (mean,) = by_length({name: np.concatenate([before[name], of]) for name, of in gaps.items()}).values()
    both = one_sided(mean, "t")
    assert f"all 420 have {both.mean:.2f} (-0.16 to -0.02)" in row.reading
    assert (bound(both.interval[0], 2, False), bound(both.interval[1], 2, True)) == pytest.approx((-0.16, -0.02))
    alone = found.evidence.measured["the verdict on one optimizer alone"]
    assert set(alone.values()) == {"undecided"}
    assert found.answer == "No, on MNIST: practically equal: -0.1 points after 50 steps, 0.0 after 300."


def test_the_margin_is_that_of_the_controls_on_mnist(monkeypatch, folder):
    """Planted: one method is 0.5 points from itself, 0.62 in a mean over three optimizers."""
    margin = 0.005 * QUANTILE / 3**0.5
    plant(monkeypatch, margin - 0.001, 0.0, control=0.005)
    found = finding(row, folder)
    assert found.verdict == "undecided"
    assert found.corrected == "a clear mean, or all within ±0.3 points"
    # 0.516 + 0.616 and 0.616 points, and 0.02 of the interval, rounded outwards
    assert found.answer.endswith("0.0 after 300; leads above 1.2 and 0.7 points are excluded.")
    plant(monkeypatch, margin + 0.001, 0.0, control=0.005)
    assert finding(row, folder).verdict == "holds"


def test_all_seeds_of_the_rule_judge_and_no_fewer(monkeypatch, folder, tmp_path):
    plant(monkeypatch, 0.01, 0.01, lacking=1)
    for own, told in ((row, "59 of 60 seeds are recorded"), (on_cifar10, "59 of 60 seeds are recorded")):
        found = finding(own, folder)
        assert found.verdict == "not_run"
        assert told in found.evidence.tolerance_source
        assert finding(own, tmp_path / "none").verdict == "not_run"


def test_the_contrasts_are_those_of_digits_at_the_same_rates():
    for question, n in (("rule", 6), ("control", 8)):
        known = {one.name: one for one in contrasts() if one.question == question}
        mine = elsewhere(question)
        assert len(mine) == n
        for one in mine:
            assert (one.first, one.second, one.fine) == (*known[one.name][2:], known[one.name].fine)
            assert one.seeds == 60


HALF = 0.001 * 60**-0.5 * 1.671  # of the planted interval, nearly


@pytest.mark.parametrize(
    ("few", "many", "control", "verdict", "begins"),
    [
        (0.01, 0.0, 0.0, "holds", "Yes, on CIFAR-10: 1.0 points after 50 steps"),
        (-0.01, 0.0, 0.0, "refuted", "No, on CIFAR-10: -1.0 points after 50 steps"),
        (0.0, 0.0, 0.0, "refuted", "No, on CIFAR-10: practically equal: 0.0 points after 50 steps, 0.0 after 300."),
        (0.003 - 1.4 * HALF, 0.0, 0.0024, "refuted", "No, on CIFAR-10: practically equal: 0.3 points"),
        (0.003 - 0.6 * HALF, 0.0, 0.0024, "undecided", "Undecided on CIFAR-10: 0.3 points"),
        (0.0, 0.6 * HALF - 0.003, 0.0024, "undecided", "Undecided on CIFAR-10: 0.0 points"),
        (0.0, 0.0, 0.0024, "refuted", "No, on CIFAR-10: practically equal"),
        (
            0.0,
            0.0,
            0.0025,
            "undecided",
            "Undecided on CIFAR-10: 0.0 points after 50 steps, 0.0 after 300; leads above 0.4 and 0.4 points are",
        ),
        (0.01, -0.01, 0.0, "undecided", "Undecided on CIFAR-10: 1.0 points"),
        (0.002, 0.002, 0.0004, "holds", "Yes, on CIFAR-10: 0.2 points"),
        (-0.002, 0.0, 0.0004, "refuted", "No, on CIFAR-10: -0.2 points"),
        (0.002, -0.002, 0.0004, "undecided", "Undecided on CIFAR-10: 0.2 points"),
    ],
)
def test_on_cifar10_what_is_within_the_margin_at_both_lengths_is_equal(
    monkeypatch, folder, few, many, control, verdict, begins
):
    """One method from itself in a mean of three: QUANTILE/√3 of its controls, 1.23 times."""
    assert round(QUANTILE / 3**0.5, 2) == 1.23
    plant(monkeypatch, few, many, control)
    found = finding(on_cifar10, folder)
    assert found.verdict == verdict
    assert found.answer.startswith(begins)
    assert ("not within ±0.3" in found.flips_if) == ("practically equal" in found.answer)
    assert "these 5,000 images" in found.evidence.tolerance_source


def test_an_answer_of_equality_names_no_optimizer_as_behind(monkeypatch, folder):
    """Planted: half a point behind under SGD and ahead under AdamW."""

    def by_seed(self, first, second, endpoint, fine=False):
        noise = np.random.default_rng(first.steps).normal(0, 1e-3, 60)
        gap = 0.0 if first.adaptor == "constant" else {"sgd": -0.005, "adamw": 0.005}.get(first.optimizer, 0.0)
        return dict(zip(judges(first), noise - noise.mean() + gap, strict=True))

    monkeypatch.setattr(Table, "by_seed", by_seed)
    found = finding(on_cifar10, folder)
    assert found.answer == "No, on CIFAR-10: practically equal: 0.0 points after 50 steps, 0.0 after 300."


def test_on_cifar10_an_arm_that_only_guesses_leaves_the_row_open(monkeypatch, folder):
    """Planted: ALLoRA is 20 points ahead, as LoRA under AdamW is right on 0.24 of the images, a guess on 0.2."""

    def values(share):
        def of(self, cell, endpoint, fine=False):
            idle = (cell.rule, cell.optimizer, cell.steps, cell.chosen_by) == ("lora", "adamw", 300, "accuracy")
            return dict.fromkeys(BY_ACCURACY, share if idle else 0.44)

        return of

    plant(monkeypatch, 0.0, 0.2)
    monkeypatch.setattr(Table, "values", values(0.26))
    assert finding(on_cifar10, folder).verdict == "holds"
    monkeypatch.setattr(Table, "values", values(0.24))
    found = finding(on_cifar10, folder)
    assert (found.verdict, found.answer) == (
        "undecided",
        "Undecided on CIFAR-10: at the rates chosen 1 of 12 arms guess.",
    )
    assert found.flips_if == found.corrected == "rates at which no arm only guesses, on average over seeds"
    assert found.evidence.measured["arms that only guess"] == ["lora, adamw, 300 steps, rates by accuracy"]
    assert "practically equal" not in found.answer


def test_what_the_reading_says_of_the_first_rule_is_in_the_committed_table():
    before = as_is(on_cifar10)[1].evidence.measured["by the first rule, which decides nothing"]
    assert before["arms that only guess"] == ["lora, adamw, 300 steps"]
    whole, others = before["by length"]["300 steps"]["mean"], before["SGD and momentum alone"]["300 steps"]
    guess = (3 * whole - 2 * others["mean"]) / 3  # AdamW's part of the mean of three
    assert f"Of ALLoRA's {whole:.1f} points after 300 steps {guess:.1f} were that" in on_cifar10_reading()
    told = f"{others['mean']:.2f} ahead ({' to '.join(f'{end:.2f}' for end in others['interval'])}; evidence)"
    assert told in on_cifar10_reading()


def on_cifar10_reading():
    return next(one.reading for one in ledger.all_claims() if one.id == "4-better-than-lora-cifar10")


def test_on_cifar10_seeds_judge_that_the_first_rule_did_not_use():
    pairs = [one for question in ("rule", "control") for one in elsewhere(question, chosen_by="accuracy")]
    assert {one.judges for one in pairs} == {range(100, 160)} == {BY_ACCURACY}
    assert {cell.chosen_by for one in pairs for cell in (one.first, one.second)} == {"accuracy"}
    first = [one for question in ("rule", "control") for one in elsewhere(question)]
    assert {one.judges for one in first} == {range(60)}
    assert [one.name for one in pairs] == [one.name for one in first]


def test_the_reading_says_how_small_the_margin_on_cifar10_came_out():
    table = tables.recorded(None, "cifar10")
    gains, control = (
        in_units(table, {one.name: one for one in elsewhere(question, chosen_by="accuracy") if one.fine}, "accuracy")
        for question in ("rule", "control")
    )
    errors = [of.std(ddof=1) / len(of) ** 0.5 for of in control.values()]
    usual = QUANTILE * np.sqrt(np.mean(np.square(errors)) / 3)
    p_value = stats.ttest_1samp(np.mean([*gains.values()], axis=0), usual, alternative="greater").pvalue
    measured = as_is(on_cifar10)[1].evidence.measured
    margin = measured["means, test accuracy"]["margins"]["50 steps"]
    assert margin < usual
    assert f"make on average, {usual:.2f}, the lead" in on_cifar10_reading()
    assert f"(p = {p_value:.2f} alone, {2 * p_value:.2f} by Holm)" in on_cifar10_reading()
    by_loss = measured["means, test loss"]
    assert by_loss["by length"]["50 steps"]["interval"][1] < -by_loss["margins"]["50 steps"]
    low, high = by_loss["by length"]["300 steps"]["interval"]
    assert 0 < low < high < by_loss["margins"]["300 steps"]
    at_one_rate = measured["with one rate for all seeds, which decides nothing"]
    clear = {
        steps: of["interval"][0] > at_one_rate["one method from itself"][steps]
        for steps, of in at_one_rate["by length"].items()
    }
    assert clear == {"50 steps": False, "300 steps": True}
    assert as_is(on_cifar10)[1].answer.endswith(" after 300 (not clearly).")


def test_the_rule_of_shifted_rates_says_what_it_sees():
    """From the first sixty seeds' standard deviations, normal; 120 seeds after 50 steps, 60 after 300."""
    table, words = tables.recorded(None, "mnist"), " ".join(laboratory.__doc__.split())
    gains, control = (
        in_units(table, {one.name: one for one in elsewhere(question)}, "accuracy") for question in ("rule", "control")
    )
    draws = np.random.default_rng(0).normal(size=(20_000, 4))
    within, small = {0.0: [], -0.1: []}, []
    for steps, gaps in by_length(gains).items():
        seeds = len(SHIFTED[int(steps.split()[0])])
        error = gaps.std(ddof=1) / seeds**0.5
        room = 0.3 - stats.t.ppf(0.95, seeds - 1) * error
        for truth, found in within.items():
            found.append(stats.norm.cdf((room - truth) / error) - stats.norm.cdf((-room - truth) / error))
        errors = [of.std(ddof=1) / seeds**0.5 for name, of in control.items() if name.endswith(f" {steps}")]
        margins = QUANTILE * np.sqrt(np.mean(np.square(draws * errors), axis=1) / 3)
        small.append(np.mean(margins <= 0.3))
    assert {truth: {round(one, 2) for one in found} for truth, found in within.items()} == {0.0: {0.96}, -0.1: {0.79}}
    assert min(small) > 0.99
    assert (
        "within ±0.3 with probability 0.96 at each length, at a truth of -0.1 with 0.79, and the margin with 0.99"
        in words
    )


def test_the_rule_of_three_hundred_more_says_what_it_sees():
    """By the standard deviation of the 120 seeds before, normal differences."""
    table, words = tables.recorded(None, "mnist"), " ".join(laboratory.__doc__.split())
    gains, control = (in_units(table, of, "accuracy") for of in compared(shifted=True))
    deviation = by_length(gains)["50 steps"].std(ddof=1)
    same = {truth: chance_within(0.3, truth, deviation, 300) for truth in (-0.19, -0.1, -0.3)}
    margin = margins_of_means(gains, noise(control))["50 steps"]
    behind = stats.norm.cdf((0.3 - margin) / (deviation / 300**0.5) - stats.t.ppf(0.975, 299))
    assert f"standard deviation ({deviation:.2f} points)" in words
    assert f"probability {same[-0.19]:.2f} where the truth is -0.19, 0.99 and more where it is within ±0.1" in words
    assert same[-0.1] > 0.99
    assert f'and {same[-0.3]:.2f} where it is -0.3, where they say "behind" with {behind:.2f}' in words
