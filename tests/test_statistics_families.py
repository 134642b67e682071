"""A family of paired comparisons: each case as its own test says, corrected over all, with what was too little."""

from __future__ import annotations

import numpy as np
import pytest

from allora_analysis.statistics import detectable_effect, families, holm, paired_family, paired_test, power, required_n
from allora_analysis.statistics.paired import TIE
from allora_analysis.validation import ArgumentError

CASES = {"up": [1.0, 1.2, 0.9, 1.1], "down": [-3.0, -3.3, -2.8, -3.1], "open": [0.5, -0.4, 0.9, -0.1]}


def test_each_case_is_its_own_test_and_the_correction_is_over_all():
    found = paired_family(CASES)
    alone = {case: paired_test(values, [0.0] * 4, method="t") for case, values in CASES.items()}
    adjusted = holm([test.p_value for test in alone.values()])
    for (case, one), p_value in zip(found.items(), adjusted, strict=True):
        assert (one.mean, one.interval, one.p_value) == (
            alone[case].mean_difference,
            alone[case].interval,
            alone[case].p_value,
        )
        assert one.adjusted_p_value == p_value
    assert [one.sign for one in found.values()] == [1, -1, 0]


def test_what_was_too_little():
    one = paired_family(CASES)["open"]
    deviation = np.std(CASES["open"], ddof=1)
    assert one.detectable == pytest.approx(detectable_effect(4, deviation, 0.8, 0.05 / 3))
    assert one.required_n == required_n(one.mean, deviation, 0.8, 0.05 / 3)
    assert power(one.required_n, one.mean, deviation, 0.05 / 3) >= 0.8
    assert paired_family(CASES)["up"].required_n is None
    assert paired_family({"same": [0.0, 0.0]})["same"].required_n is None


def test_equal_differences_are_as_good_as_their_signs():
    """Planted: Student's p-value of 0, by which one sentence in a thousand would be certain with three seeds."""
    found = paired_family({"tiny": [1 / 1066] * 3, "many": [0.01] * 9, "none": [0.0] * 3})
    assert [one.p_value for one in found.values()] == [2**-2, 2**-8, 1.0]
    assert [one.sign for one in found.values()] == [0, 1, 0]
    assert paired_test([1 / 1066] * 3, [0.0] * 3, method="t").p_value == 0.0


@pytest.mark.parametrize("more", [1, 3, -5])
def test_equal_differences_of_shares_are_equal_whatever_their_rounding(more):
    """Planted: p = 1e-25 and a need for two pairs, where (k + more)/n − k/n differ by the rounding of k/n alone."""
    n, right = 10042, np.array([8286, 7221, 8932])
    gaps = {"more": (right + more) / n - right / n, "none": [1e-17, 2e-17, -1e-17]}
    found = paired_family(gaps, grain=TIE)
    assert np.ptp(gaps["more"]) > 0
    assert [one.p_value for one in found.values()] == [0.25, 1.0]
    assert [one.sign for one in found.values()] == [0, 0]
    assert [(one.detectable, one.required_n) for one in found.values()] == [(0.0, None)] * 2
    assert paired_family({"apart": [0.1, 0.1 + 1e-6, 0.1]}, grain=TIE)["apart"].p_value < 1e-9


def test_cases_without_differences_count_as_open():
    alone, of_many = paired_family({"up": CASES["up"]})["up"], paired_family({"up": CASES["up"]}, cases=40)["up"]
    assert of_many.p_value == alone.p_value == alone.adjusted_p_value
    assert of_many.adjusted_p_value == pytest.approx(40 * alone.p_value)
    assert of_many.detectable > alone.detectable


@pytest.mark.statistical
def test_the_familys_rate_of_false_findings(rng, monkeypatch):
    """2,000 families of 4 cases with no difference: 5 % of them find one, within 4.9 standard errors."""
    monkeypatch.setattr(families, "_needed", lambda *args: None)  # a number of pairs that nobody reads here, and slow
    wrong = [
        any(one.sign for one in paired_family(dict(enumerate(rng.normal(size=(4, 5))))).values()) for _ in range(2000)
    ]
    assert np.mean(wrong) < 0.05 + 4.9 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(wrong) > 0.02


def test_without_a_correction_there_would_be_more_findings():
    """Planted: the third case of four is found alone, not in a family of twenty."""
    borderline = [1.0, 1.5, 0.7, 1.8]
    assert paired_family({"alone": borderline})["alone"].sign == 1
    crowd = {i: [0.1 * (-1) ** i, -0.2, 0.15, 0.05] for i in range(19)}
    assert paired_family({"alone": borderline, **crowd})["alone"].sign == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("cases", "options", "says"),
    [
        ({}, {}, "at least one"),
        ({"a": [1.0]}, {}, "at least 2"),
        (CASES, {"level": 0.0}, "level"),
        (CASES, {"cases": 2}, "cases"),
        (CASES, {"grain": -1.0}, "grain"),
    ],
)
def test_bad_input(cases, options, says):
    with pytest.raises(ArgumentError, match=says):
        paired_family(cases, **options)
