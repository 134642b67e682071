"""Seeds for a gap: against the t-test's power by hand, chi-square ends, and records."""

import numpy as np
import pytest
from scipy import stats

from allora_analysis.doctor.answers import from_deviation, from_records, from_scores, seeds_for
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.statistics import required_n_interval
from allora_analysis.validation import ArgumentError
from tests.toy_run import save

SCORES, BASELINE = (81.2, 80.1, 82.4, 80.9), (80.8, 80.3, 81.1, 80.6)


def needed(gap, deviation, power=0.8, level=0.05):
    """The least n, by SciPy's noncentral t."""
    for n in range(2, 10_000):
        critical, shift = stats.t.ppf(1 - level / 2, n - 1), gap / deviation * n**0.5
        if stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) >= power:
            return n
    raise AssertionError


def test_of_scores_with_an_interval():
    found = from_scores(0.5, SCORES, BASELINE)
    differences = np.subtract(SCORES, BASELINE)
    deviation = differences.std(ddof=1)
    assert (found.pairs, found.mean) == (4, pytest.approx(differences.mean()))
    assert found.deviation == pytest.approx(deviation)
    ends = [deviation * (3 / stats.chi2.ppf(at, 3)) ** 0.5 for at in (0.95, 0.05)]
    assert (found.seeds, found.low, found.high) == tuple(needed(0.5, of) for of in (deviation, *ends))
    assert seeds_for(found, 0.5).startswith(
        f"{found.seeds} seeds ({found.low} to {found.high}) to see a gap of 0.5 points"
    )
    known = from_deviation(0.5, found.deviation)
    assert (known.seeds, known.low) == (found.seeds, None)


def test_the_interval_covers_what_is_needed_as_often_as_it_says():
    """n fixed: 400 draws of 5 seeds at 90 %; a coverage of 0.85 or 0.95 would fail with chance above 0.9."""
    generator, truth = np.random.default_rng(0), needed(1.0, 1.5)
    hits = 0
    for _ in range(400):
        deviation = float(generator.normal(0, 1.5, 5).std(ddof=1))
        low, high = required_n_interval(1.0, deviation, 4)
        hits += low <= truth <= high
    assert 0.86 < hits / 400 < 0.945  # whole numbers at the ends cover a little more


def record(folder, arm, seed, accuracy, digests=None, **changes):
    config = {
        "model": "m", "optimizer": "adamw", "learning_rate": 1e-3, "schedule": "linear", "drop_rate": 0.0, "arm": arm,
        "seed": seed, "eta2": None if arm == "lora" else 4.0,
    }  # fmt: skip
    result = {"epochs": [{"step": 1, "test_accuracy": accuracy}], "diverged_at_step": None}
    save(folder, config | changes, result, STUDY, PROTOCOL, digests=digests or {"model": "one"})


def test_of_records_paired_by_seed_and_setting(tmp_path):
    for seed, (one, other) in enumerate(zip(SCORES, BASELINE, strict=True)):
        record(tmp_path, "allora_0", seed, one / 100)
        record(tmp_path, "lora", seed, other / 100)
        record(tmp_path, "lora", seed, 0.5, learning_rate=3e-3)  # no partner
    record(tmp_path, "lora", 9, 0.9)  # neither has this seed's
    (found,) = from_records(0.5, tmp_path)
    wanted = from_scores(0.5, SCORES, BASELINE)
    assert (found.pairs, found.seeds, found.low, found.high) == (4, wanted.seeds, wanted.low, wanted.high)
    assert found.deviation == pytest.approx(wanted.deviation)
    assert "allora_0 (η² = 4) − lora: m, adamw at 0.001" in found.what
    with pytest.raises(ArgumentError, match="no setting has dora and lora"):
        from_records(0.5, tmp_path, "dora")


def test_models_of_one_name_and_different_content_are_refused(tmp_path):
    """Planted: one "checkpoint-500" on which both arms are 40 points better; a mixture would say thousands of seeds."""
    for seed in range(3):
        for arm, value in (("lora", 0.4 + seed / 100), ("allora_0", 0.41 + seed / 90)):
            record(tmp_path, arm, seed, value)
            if seed != 1:
                record(tmp_path, arm, seed, value + 0.4, digests={"model": "another"})
    with pytest.raises(ArgumentError, match="one run is recorded on several models or data sets of one name"):
        from_records(0.5, tmp_path)
    for seed in range(3):
        for arm in ("dora", "rslora"):
            record(tmp_path, arm, seed, 0.5 + 0.01 * seed * (arm == "dora"))
    assert from_records(0.5, tmp_path, "dora", "rslora")[0].pairs == 3, "runs that are not asked for do not matter"


def test_of_several_eta_squared_one_is_taken_for_all_seeds(tmp_path):
    """A mixture over seeds would be of no method."""
    for seed, (one, other) in enumerate(zip(SCORES, BASELINE, strict=True)):
        record(tmp_path, "lora", seed, other / 100)
        record(tmp_path, "allora_0", seed, one / 100, eta2=2.0)
        if seed < 2:
            record(tmp_path, "allora_0", seed, 0.1)  # η² = 4, on too few seeds
    (found,) = from_records(0.5, tmp_path)
    assert found.deviation == pytest.approx(from_scores(0.5, SCORES, BASELINE).deviation)
    assert found.what.startswith("allora_0 (η² = 2) − lora: ")
    record(tmp_path, "allora_0", 2, 0.2)
    (found,) = from_records(0.5, tmp_path)
    assert (found.pairs, found.what[:18]) == (3, "allora_0 (η² = 4) ")


def test_settings_with_most_seeds_come_first_and_say_whose_dropout_is_off(tmp_path):
    for rate, n, own in ((1e-3, 3, {}), (3e-3, 4, {"own_dropout": False})):
        for seed, (one, other) in enumerate(list(zip(SCORES, BASELINE, strict=True))[:n]):
            record(tmp_path, "allora_0", seed, one / 100, learning_rate=rate, **own)
            record(tmp_path, "lora", seed, other / 100, learning_rate=rate, **own)
    found = from_records(0.5, tmp_path)
    assert [(one.pairs, one.what.endswith("own dropout off")) for one in found] == [(4, True), (3, False)]


def test_the_packages_own_records_have_an_answer():
    found = from_records(0.5, None)
    assert len(found) >= 10
    assert all(one.low <= one.seeds <= one.high for one in found)


@pytest.mark.parametrize(
    ("scores", "baseline", "match"),
    [((1.0, 2.0), (1.0,), "same seeds"), ((1.0,), (2.0,), "2 or more"), ((1.0, 2.0), (0.0, 1.0), "no spread"),
     ((1.0, float("nan")), (1.0, 2.0), "finite")],
)  # fmt: skip
def test_scores_that_make_no_sense(scores, baseline, match):
    with pytest.raises(ArgumentError, match=match):
        from_scores(0.5, scores, baseline)


@pytest.mark.parametrize("gap", [0.0, -1.0, float("nan")])
def test_a_gap_is_above_zero(gap):
    with pytest.raises(ArgumentError, match="gap"):
        from_scores(gap, SCORES, BASELINE)
