"""The row on the laboratory's dropout: its verdict follows from differences, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from allora_analysis.claims import s3_1_laboratory as section
from allora_analysis.claims.claim import in_part
from allora_analysis.laboratory.table import Table
from tests.ledger_rows import finding

CLAIM = section.dropout_few_and_many_steps


def plant(monkeypatch, few, many, spread=1e-3):
    def differences(self, first, second, endpoint):
        gaps = np.random.default_rng(first.steps).normal(0, spread, 40)
        return list(gaps - gaps.mean() + (few if first.steps == section.STEPS[0] else many))

    monkeypatch.setattr(Table, "differences", differences)


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


def test_fewer_seeds_than_planned_are_said(monkeypatch):
    plant(monkeypatch, -0.01, 0.01)
    assert finding(CLAIM).size.of.endswith("steps (40 of 100 seeds)")
    assert in_part(100, 100, "seeds") == ""


def test_not_run_without_a_table(tmp_path):
    assert finding(CLAIM, tmp_path).verdict == "not_run"
