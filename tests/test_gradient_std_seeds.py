"""The seed's variance component: unbiased, its standard error right, and of a design whose components are known."""

from __future__ import annotations

import numpy as np
import pytest

from allora_analysis.gradient_std.study import Config, table
from allora_analysis.gradient_std.summary import over_seeds, seed_component
from allora_analysis.study import Result
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_mean, assert_rejects

SEED, NOISE = 0.04, 0.02  # Var u and Var e


def draws(rng, n, repeats):
    """log T̂ = 1 + u + e, whose e has a standard error that differs between seeds and is NOISE on average."""
    noise = NOISE * np.linspace(0.5, 1.5, n)
    logs = 1 + rng.normal(0, SEED**0.5, (repeats, n)) + rng.normal(0, 1, (repeats, n)) * np.sqrt(noise)
    return np.exp(logs), np.exp(logs) * np.sqrt(noise)


@pytest.mark.statistical
def test_unbiased_and_the_raw_variance_over_seeds_is_not(rng):
    totals, errors = draws(rng, 6, 8000)
    estimates = np.array([seed_component(t, s).seed for t, s in zip(totals, errors, strict=True)])
    assert_mean(estimates, SEED, smallest_error=0.2 * SEED)
    # The planted one forgets that part of the spread over seeds is the error of measuring each.
    assert_rejects(assert_mean, np.log(totals).var(axis=1, ddof=1), SEED, smallest_error=0.2 * SEED)


@pytest.mark.statistical
def test_the_standard_error_is_the_spread_of_the_estimate(rng):
    totals, errors = draws(rng, 40, 2000)
    found = [seed_component(t, s) for t, s in zip(totals, errors, strict=True)]
    spread = np.std([one.seed for one in found], ddof=1)
    assert np.mean([one.seed_stderr for one in found]) == pytest.approx(spread, rel=0.15)


def test_by_hand():
    found = seed_component([np.e, np.e**2, np.e**3], [0.1 * np.e, 0.2 * np.e**2, 0.3 * np.e**3])
    assert found.measurement == pytest.approx((0.01 + 0.04 + 0.09) / 3)
    assert found.seed == pytest.approx(1 - found.measurement)
    # Leaving out 1, 2 or 3: variances ½, 2, ½, mean noises 0.065, 0.05, 0.025.
    left_out = np.array([0.5 - 0.065, 2 - 0.05, 0.5 - 0.025])
    assert found.seed_stderr == pytest.approx(np.sqrt(2 * left_out.var()))


def test_seeds_that_agree_have_a_component_below_0_by_the_error_of_measuring_them():
    found = seed_component([2.0] * 5, [0.2] * 5)
    assert found.seed == pytest.approx(-0.01)
    assert found.seed_stderr == pytest.approx(0, abs=1e-15)


def epoch(total, stderr):
    summary = {"mean": total, "worst_held_out": total}
    parts = {"mask": total / 2, "minibatch": total / 2, "total": total, "total_stderr": stderr}
    return {
        "test_accuracy": 0.5,
        **dict.fromkeys(("probe", "fresh", "no_dropout_fresh"), summary),
        "decomposition": parts,
    }


def test_over_seeds_has_the_component_of_each_epoch_from_three_seeds_on():
    runs = [[epoch(1.0, 0.1), epoch(total, 0.2)] for total in (1.0, 2.0, 4.0)]
    found = over_seeds(runs)
    last = seed_component([1.0, 2.0, 4.0], [0.2] * 3)
    assert found["log_total_seed_variance"] == pytest.approx([-0.01, last.seed])
    assert found["log_total_seed_variance_stderr"] == pytest.approx([0, last.seed_stderr])
    assert found["log_total_measurement_variance"] == pytest.approx([0.01, last.measurement])
    np.testing.assert_allclose(found["decomposition_total"], [1, 7 / 3])
    assert "log_total_seed_variance" not in over_seeds(runs[:2])
    gone = over_seeds([[epoch(1.0, 0.1), epoch(total, 0.2)] for total in (0.0, 2.0, 4.0)])
    assert gone["log_total_seed_variance"] == [pytest.approx(-0.01), None]  # a dead network's variance has no logarithm
    printed = table(
        Config(),
        Result(
            {"linear_mean": 1.0},
            {"linear_mean": 1.0, "linear_mean_stderr": None, **found, "data": "digits", "seeds": [0, 1, 2]},
        ),
    )
    assert "variance over seeds 0.46 ± " in printed.notes[-1]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("totals", "errors", "says"),
    [
        ([1.0, 2.0], [0.1, 0.1], "3 or more seeds, received 2 and 2"),
        ([1.0, 2.0, 3.0], [0.1, 0.1], "received 3 and 2"),
        ([1.0, 0.0, 3.0], [0.1, 0.1, 0.1], "received 0 and 0.1"),
        ([1.0, 2.0, 3.0], [0.1, -0.1, 0.1], "received 1 and -0.1"),
        ([1.0, np.nan, 3.0], [0.1, 0.1, 0.1], "finite"),
    ],
)
def test_bad_input(totals, errors, says):
    with pytest.raises(ArgumentError, match=says):
        seed_component(totals, errors)
