"""The verdicts on §3.1's statements about training steps, and that planted wrong formulas change them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from allora_analysis import dropout_sgd
from allora_analysis.claims import section_3_1_sgd, section_3_1_sgd_comparison, section_3_1_sgd_variance
from allora_analysis.dropout_sgd.placements import InputMasks, OutputMasks
from allora_analysis.dropout_sgd.process import Process
from tests.ledger_rows import Rows

VERDICTS = {
    "3.1-sgd-reliable": "conditional",
    "3.1-sgd-variance": "conditional",
    "3.1-sgd-convergence": "conditional",
    "3.1-sgd-expectation": "refuted",
    "3.1-sgd-crossover": "conditional",
    "3.1-sgd-first-step": "conditional",
    "3.1-sgd-training-fit": "conditional",
}
ROWS = Rows(VERDICTS, section_3_1_sgd)


def test_every_row_is_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name):
    ROWS.check(name)


@pytest.fixture
def few_data(monkeypatch):
    """A wrong formula shows on few data sets as on many."""
    for module, names in (
        (section_3_1_sgd_variance, ("SEEDS", "DATA")),
        (section_3_1_sgd_comparison, ("SEEDS", "SHORT_SEEDS")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, 1 if name == "DATA" else 2)


def altered(change):
    """A `trajectory` whose result is changed."""
    right = dropout_sgd.trajectory

    def planted(*args, **kwargs):
        run = right(*args, **kwargs)
        return dataclasses.replace(run, **change(run))

    return planted


@pytest.mark.parametrize(
    ("name", "change", "instead"),
    [
        ("3.1-sgd-expectation", lambda run: {"mean": 0.99 * run.mean}, "holds"),
        ("3.1-sgd-variance", lambda run: {"covariance_trace": 1.5 * run.covariance_trace}, "refuted"),
        ("3.1-sgd-variance", lambda run: {"risk": run.risk_marginal}, "refuted"),
        ("3.1-sgd-convergence", lambda run: {"covariance_trace": 1.01 * run.covariance_trace}, "refuted"),
        ("3.1-sgd-convergence", lambda run: {"average_covariance_trace": run.covariance_trace}, "refuted"),
        ("3.1-sgd-first-step", lambda run: {"risk": run.risk_plain}, "refuted"),
        ("3.1-sgd-variance", lambda run: {"risk_plain": 0.9 * run.risk_marginal}, "holds"),
        ("3.1-sgd-variance", lambda run: {"risk_plain": 2 * run.risk}, "refuted"),
        ("3.1-sgd-first-step", lambda run: {"mean": run.mean + run.covariance_trace[:, None, None]}, "refuted"),
        ("3.1-sgd-crossover", lambda run: {"crossover": 300}, "holds"),
        ("3.1-sgd-crossover", lambda run: {"crossover": None}, "refuted"),  # late where the limit is ahead
        ("3.1-sgd-crossover", lambda run: {"crossover": 2}, "undecided"),  # early without any noise
        ("3.1-sgd-training-fit", lambda run: {"training_loss": run.training_loss_plain}, "holds"),
        ("3.1-sgd-reliable", lambda run: {"covariance_trace": 0 * run.covariance_trace}, "refuted"),  # at once
        ("3.1-sgd-reliable", lambda run: {"covariance_trace": 1e9 + run.covariance_trace}, "refuted"),  # never
        ("3.1-sgd-reliable", lambda run: {"mean": 0 * run.mean}, "refuted"),
    ],
)
def test_a_wrong_trajectory_changes_the_verdict(name, change, instead, monkeypatch, few_data):
    monkeypatch.setattr(dropout_sgd, "trajectory", altered(change))
    assert ROWS.verdict(name) == instead


@pytest.mark.parametrize(
    ("name", "kind", "formula", "instead"),
    [
        ("3.1-sgd-variance", InputMasks, "noise", "refuted"),
        ("3.1-sgd-variance", OutputMasks, "noise", "refuted"),
        ("3.1-sgd-first-step", OutputMasks, "noise", "refuted"),
        ("3.1-sgd-training-fit", Process, "drift", "refuted"),
    ],
)
def test_a_wrong_formula_changes_the_verdict(name, kind, formula, instead, monkeypatch, few_data):
    right = getattr(kind, formula)

    def planted(self, *args):
        if formula == "noise":
            return right(self, *args) * (1.5 if name.endswith("variance") else 0.0)
        return self.pull - self.gram @ args[0]  # the penalty forgotten

    monkeypatch.setattr(kind, formula, planted)
    assert ROWS.verdict(name) == instead


def test_a_wrong_mean_is_seen_by_the_enumeration(monkeypatch):
    monkeypatch.setattr(section_3_1_sgd, "regularised_descent", lambda *args: np.ones((4, 2, 1)))
    assert ROWS.verdict("3.1-sgd-expectation") == "holds"


def test_never_ahead_is_not_late(monkeypatch):
    monkeypatch.setattr(section_3_1_sgd_comparison, "NOISES", (0.0,))
    assert ROWS.verdict("3.1-sgd-crossover") == "refuted"


def test_never_asks_the_limit(monkeypatch):
    """A crossover later than the horizon is late; dropout behind in the limit too is never ahead."""
    x, y, w_true = section_3_1_sgd_comparison.problem(20, 10, 3.0)
    monkeypatch.setattr(section_3_1_sgd_comparison, "HORIZON", 2)
    assert section_3_1_sgd_comparison._outcome(x, y, w_true, 0.1, "output") == ("late", None)
    far = dropout_sgd.stationary_moments(x, y, 0.9, 1e-3)
    rest = dataclasses.replace(far, covariance_trace=1e9)
    monkeypatch.setattr(dropout_sgd, "stationary_moments", lambda *args: rest)
    assert section_3_1_sgd_comparison._outcome(x, y, w_true, 0.1, "output") == ("never", None)


def test_what_more_noise_does_is_looked_at(monkeypatch, few_data):
    """Planted: the noises in falling order, so that dropout is behind the more often, the later in the list."""
    monkeypatch.setattr(section_3_1_sgd_variance, "NOISES", (3.0, 0.0))
    assert ROWS.verdict("3.1-sgd-variance") == "refuted"
    monkeypatch.setattr(section_3_1_sgd_comparison, "SHORT_NOISES", (10.0, 0.0))
    assert ROWS.verdict("3.1-sgd-first-step") == "refuted"


def test_what_is_added_late_at_each_rate_is_late(monkeypatch, few_data):
    monkeypatch.setattr(section_3_1_sgd_variance, "RATES", (0.01,))
    assert ROWS.verdict("3.1-sgd-reliable") == "holds"


@pytest.mark.parametrize(("noises", "instead"), [((0.0,), "holds"), ((10.0,), "conditional")])
def test_the_noise_decides_what_a_few_steps_show(noises, instead, monkeypatch, few_data):
    monkeypatch.setattr(section_3_1_sgd_variance, "NOISES", noises)
    assert ROWS.verdict("3.1-sgd-variance") == instead
    monkeypatch.setattr(section_3_1_sgd_comparison, "SHORT_NOISES", noises)
    assert ROWS.verdict("3.1-sgd-first-step") == instead
