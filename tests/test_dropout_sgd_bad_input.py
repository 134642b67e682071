"""What the entry points of `dropout_sgd` refuse, each with the argument, the value and what is allowed."""

from __future__ import annotations

import numpy as np
import pytest

from allora_analysis.dropout_sgd import simulate, stability_limits, stationary_moments, trajectory

GOOD = {
    "x": np.eye(3),
    "y": np.ones((3, 1)),
    "keep_prob": 0.5,
    "learning_rate": 0.01,
    "steps": 3,
    "placement": "output",
}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep_prob": 0.0}, "keep_prob.*received 0"),
        ({"keep_prob": 1.5}, "keep_prob.*received 1.5"),
        ({"x": np.full((3, 3), np.nan)}, "x: every entry must be finite"),
        ({"x": np.zeros((0, 3))}, r"x: shape \(0, 3\)"),
        ({"y": np.ones((4, 1))}, r"y: shape \(4, 1\) received"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"placement": "bottleneck"}, "bottleneck.*not affine"),
        ({"placement": "latent"}, "placement must be one of"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": [0.1, 0.1]}, "schedule of 2 rates received; give one a step, 3"),
        ({"learning_rate": [0.1, -0.1, 0.1]}, "received -0.1 at index 1"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"shared_mask": True}, "shared_mask is for input masks"),
        ({"placement": "input", "shared_mask": True, "batch_size": 2}, "shared_mask is for input masks"),
        ({"w_true": np.ones((2, 1))}, r"w_true: shape \(2, 1\)"),
        ({"risk_covariance": np.eye(3)}, "risk_covariance: received without w_true"),
        ({"w_true": np.ones((3, 1)), "risk_covariance": np.triu(np.ones((3, 3)))}, "must be symmetric"),
        ({"w_true": np.ones((3, 1)), "risk_covariance": np.diag([1.0, -0.5, 2.0])}, "an eigenvalue of -0.5"),
    ],
)
def test_what_cannot_be_used_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        trajectory(**{**GOOD, **change})


@pytest.mark.bad_input
def test_a_schedule_stops_at_the_first_value_that_is_not_finite():
    x, y = np.arange(15.0).reshape(5, 3), np.ones((5, 1))
    with pytest.raises(ValueError, match=r"first non-finite value at step 4 \(its rate 1e\+150\)"):
        trajectory(x, y, 0.5, [0.01, 0.01, 1e120, 1e150, 0.01], 5, "input")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": 1}, "replicas must be a whole number, 2 or above"),
        ({"record": (4,)}, r"record must be a whole number in \[0, 3\]"),
        ({"replicas": 10**9}, "1 GiB; give fewer than"),
        ({"learning_rate": [0.1] * 2}, "learning_rate"),
        ({"batch_size": 2**26}, "rows and masks would need 2 GiB"),  # four numbers a row
    ],
)
def test_what_cannot_be_simulated_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        simulate(**{**GOOD, "replicas": 4, "generator": np.random.default_rng(0), **change})


@pytest.mark.bad_input
def test_the_other_entry_points_refuse_too():
    with pytest.raises(ValueError, match="keep_prob"):
        stability_limits(np.eye(2), 2.0)
    with pytest.raises(ValueError, match="x: shape"):
        stability_limits(3.0, 0.5)
    with pytest.raises(ValueError, match="past the mean-square stability limit"):
        stationary_moments(np.eye(2), np.ones((2, 1)), 0.5, 10.0)
