"""§6's rows on training without dropout: their margin, higher drop rates, and settings built against them."""

import re

import numpy as np
import pytest

from allora_analysis import dropout_sgd
from allora_analysis.claims import s3_1_without_dropout
from tests.ledger_rows import Rows

ROWS = Rows(s3_1_without_dropout)
verdict = ROWS.verdict


@pytest.mark.parametrize("name", ["3.1-not-a-must-have", "3.1-not-a-must-have-always"])
def test_gaps_are_those_of_moments_summed_over_masks(name):
    evidence = ROWS.as_is(name).evidence
    assert evidence.error < evidence.tolerance


def test_a_margin_between_the_mean_gap_and_none_decides_nothing(monkeypatch):
    """Of the average, at the boundary: a margin that is the mean gap itself."""
    gaps = ROWS.finding("3.1-not-a-must-have").evidence.measured["% behind at the worst noise, by problem"]
    most = max(np.mean(np.log1p(np.array(of) / 100)) for of in gaps.values())
    monkeypatch.setattr(s3_1_without_dropout, "AS_GOOD", float(np.exp(most)))
    assert verdict("3.1-not-a-must-have") == "undecided"


def test_higher_drop_rates_lead_by_more_than_the_margin_in_some_problems_and_the_papers_in_few():
    found = ROWS.as_is("3.1-not-a-must-have-always")
    often = found.evidence.measured["% of problems more behind, by drop rate"]
    assert often["0.05"] < 3 < 10 < min(often["0.2"], often["0.4"])
    assert found.evidence.measured["collinear inputs"] > 20
    assert f"4 inputs, {often['0.4']:.0f} % of them above 5 %" in found.size.of
    behind = round(24 * often["0.4"] / 100)
    assert found.answer == f"No: at each problem's worst noise {behind} of 24 are over 5 % behind drop rate 0.4."
    most = max(gap for name, gap in found.evidence.measured.items() if name.startswith("drop rate 0.05"))
    (told,) = re.findall(r"at drop rate 0.05 at most ([\d.]+) %", found.size.of)
    assert most <= float(told) < most + 0.1
    built = found.evidence.measured["collinear inputs"]
    assert f"on one example of collinear inputs {built:.0f} %" in found.size.of


def test_weights_along_one_input_near_the_largest_rate_are_farther_behind():
    """The setting that the reading excludes: at 0.9 of the largest rate 6 % behind, at a tenth of it within 5 %."""
    behind = {}
    for fraction in (0.1, 0.9):
        one = s3_1_without_dropout.along_one_input(fraction)
        run = dropout_sgd.trajectory(one.x, one.labels, 0.95, one.rate, 40, "output", w_true=one.truth)
        behind[fraction] = run.risk_plain.min() / run.risk.min()
    assert behind[0.9] > 1.06 > 1.05 > behind[0.1]
    told = ROWS.as_is("3.1-not-a-must-have-always").evidence.measured
    for share, ratio in behind.items():  # the row's is at the worst of a grid of noises
        assert told[f"weights along one input, {share:g} of the largest rate"] > 99 * (ratio - 1)
