"""Online equations of dropout on hidden nodes: the fields' integrals, finite networks, the limit of small rates."""

import dataclasses

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import erf

from allora_analysis import dropout_sgd
from allora_analysis.dropout_sgd import online
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_rejects

NODES = {"erf": lambda z: erf(z / 2**0.5), "identity": lambda z: z}
SLOPES = {"erf": lambda z: (2 / np.pi) ** 0.5 * np.exp(-(z**2) / 2), "identity": np.ones_like}


@pytest.mark.statistical
@pytest.mark.parametrize("activation", NODES)
def test_integrals_over_gaussian_fields(activation, rng):
    root = rng.standard_normal((4, 6)) / 6**0.5
    c = root @ root.T
    h = rng.standard_normal((200_000, 6)) @ root.T
    g, slope = NODES[activation](h), SLOPES[activation](h)
    two, found = (of(c) for of in online.ACTIVATIONS[activation])
    pairs = [
        *((two[i, j], g[:, i] * g[:, j]) for i, j in [(0, 0), (0, 1), (2, 3)]),
        *((found.slopes[i, j], slope[:, i] * slope[:, j]) for i, j in [(0, 0), (0, 1)]),
        *(
            (found.three[i, j, k], slope[:, i] * h[:, j] * g[:, k])
            for i, j, k in [(0, 1, 2), (0, 0, 2), (0, 1, 0), (0, 2, 2), (0, 0, 0)]
        ),
        *(
            (found.four[i, j, k, m], slope[:, i] * slope[:, j] * g[:, k] * g[:, m])
            for i, j, k, m in [(0, 1, 2, 3), (0, 0, 2, 3), (0, 1, 2, 2), (0, 1, 0, 3), (0, 1, 0, 1), (0, 0, 0, 0)]
        ),
    ]
    for told, seen in pairs:
        error = seen.std() / len(seen) ** 0.5
        assert abs(seen.mean() - told) < 6 * error + 1e-12
        assert 6 * error < 0.05


def networks(seed, keep_prob, noise, readout, activation, width=600, copies=16, until=2.0):
    """Q and R of students of two nodes, N = 600, against one teacher node: each its own data and masks."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((copies, width))
    truth *= width**0.5 / np.linalg.norm(truth, axis=1, keepdims=True)
    w = np.zeros((copies, 2, width))
    g, slope = NODES[activation], SLOPES[activation]
    for _ in range(int(until * width)):
        x = rng.standard_normal((copies, width)) / width**0.5
        fields, y = np.einsum("ckn,cn->ck", w, x), g(np.sum(truth * x, axis=1)) + noise * rng.standard_normal(copies)
        kept = rng.random((copies, 2)) < keep_prob
        e = readout * np.sum(kept * g(fields), axis=1) - y
        w -= (0.5 * readout * kept * slope(fields) * e[:, None])[:, :, None] * x[:, None]
    return np.concatenate(
        [(w @ w.transpose(0, 2, 1) / width).reshape(copies, -1), np.einsum("ckn,cn->ck", w, truth) / width], axis=1
    )


def told(keep_prob, noise, readout, activation):
    run = dropout_sgd.online_curve(
        np.zeros((2, 2)), np.zeros((2, 1)), np.eye(1), keep_prob, 0.5, [2.0], noise=noise, readout=readout,
        activation=activation,
    )  # fmt: skip
    return np.concatenate([run.q[-1].ravel(), run.r[-1].ravel()])


def network_agrees(keep_prob=0.6, noise=0.5, readout=1.0, activation="erf"):
    """Within 5 standard errors over networks, and 2/N for finite width."""
    seen = networks(5, keep_prob, noise, readout, activation)
    gap = np.abs(seen.mean(axis=0) - told(keep_prob, noise, readout, activation))
    allowed = 5 * seen.std(axis=0, ddof=1) / len(seen) ** 0.5 + 2 / 600
    assert (gap < allowed).all(), (gap, allowed)
    assert allowed.max() < 0.2 * np.abs(seen.mean(axis=0)).max()


@pytest.mark.statistical
@pytest.mark.parametrize("activation", NODES)
def test_finite_networks_follow_the_equations(activation):
    network_agrees(activation=activation)


@pytest.mark.statistical
def test_masks_taken_as_independent_of_themselves_are_rejected(monkeypatch):
    """E v_i² = p, not p²: without that the equations are those of a smaller readout."""
    monkeypatch.setattr(online._Equations, "masks", _one_mean_mask)
    assert_rejects(network_agrees)


def _one_mean_mask(self):
    return np.concatenate([np.full(self.nodes, self.keep_prob), np.ones(len(self.t))])[None], np.ones(1)


def test_small_rates_are_gradient_flow_of_the_regularised_loss():
    """Of linear nodes: ½E(pcΣλ − ν)² + ½c²p(1 − p)Σ Q_kk, by small steps on W in the span of start and teacher."""
    p, c, rate, until = 0.7, 1.3, 1e-4, 1.5
    w = np.array([[0.3, 0.1, 0.0], [-0.2, 0.4, 0.1]])
    truth = np.array([[0.0, 0.6, 0.8]])
    run = dropout_sgd.online_curve(
        w @ w.T, w @ truth.T, truth @ truth.T, p, rate, [until / rate], noise=0.7, readout=c, activation="identity"
    )
    steps = 20_000
    for _ in range(steps):
        w = w - until / steps * (p * c * (p * c * w.sum(axis=0) - truth[0]) + c * c * p * (1 - p) * w)
    np.testing.assert_allclose(run.q[-1], w @ w.T, atol=2e-4)
    np.testing.assert_allclose(run.r[-1], w @ truth.T, atol=2e-4)
    gap = p * c * w.sum(axis=0) - truth[0]
    assert run.error[-1] == pytest.approx(0.5 * gap @ gap, abs=2e-4)


@pytest.mark.parametrize("t", [np.eye(2), np.cov(np.random.default_rng(0).standard_normal((3, 9)))], ids=["1", "any"])
def test_inverted_masks_are_a_readout_and_the_teachers_own_weights_rest_without_masks(t):
    run = dropout_sgd.online_curve(t, t, t, 1.0, 1.0, [1.0, 5.0])
    assert run.error == pytest.approx(0, abs=1e-12)
    for overlaps in (run.q, run.r):
        np.testing.assert_allclose(overlaps, [t, t], atol=1e-9)
    above = np.triu_indices(len(t), 1)
    cosines = (t / np.sqrt(np.outer(np.diag(t), np.diag(t))))[above]
    np.testing.assert_allclose(run.correlation, np.abs(cosines).mean(), atol=1e-9)
    assert [field.name for field in dataclasses.fields(run)] == ["times", "q", "r", "error"]


def test_a_run_goes_on_from_where_another_ended():
    q, r, t = np.array([[0.6, 0.1], [0.1, 0.3]]), np.array([[0.2], [-0.1]]), np.eye(1)
    run = dropout_sgd.online_curve(q, r, t, 0.8, 1.0, [2.0, 5.0])
    again = dropout_sgd.online_curve(run.q[0], run.r[0], t, 0.8, 1.0, [3.0])
    np.testing.assert_allclose(again.q[-1], run.q[1], atol=1e-5)
    np.testing.assert_allclose(again.r[-1], run.r[1], atol=1e-5)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"q": np.eye(3)}, "r: shape"),
        ({"t": np.eye(2)}, "t: shape"),
        ({"q": np.eye(6), "r": np.zeros((6, 1))}, "7 hidden nodes"),
        ({"q": -np.eye(2)}, "no weights have these overlaps, an eigenvalue of them all is -1"),
        ({"r": 2 * np.ones((2, 1))}, "no weights have these overlaps"),
        ({"keep_prob": 0.0}, "keep_prob"),
        ({"rate": -1.0}, "rate"),
        ({"rate": 50.0, "activation": "identity"}, "diverges before α = 9; give a smaller one"),
        ({"times": [0.0]}, "times must ascend"),
        ({"times": [2.0, 1.0]}, "times must ascend"),
        ({"times": [1.0, 1.0]}, "times must ascend"),
        ({"noise": -1.0}, "noise"),
        ({"noise": 1e200}, "noise"),
        ({"t": 1e200 * np.eye(1)}, "q, t: squared norms up to"),
        ({"readout": 0.0}, "readout"),
        ({"activation": "relu"}, "activation must be one of"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(change, word):
    asked = {"q": np.eye(2), "r": np.zeros((2, 1)), "t": np.eye(1), "keep_prob": 0.8, "rate": 1.0, "times": [9.0]}
    with pytest.raises(ArgumentError, match=word):
        dropout_sgd.online_curve(**{**asked, **change})


@pytest.mark.parametrize("small", [1e-8, 1e-10])
def test_a_plateau_lasts_as_long_as_what_leaves_it_is_small(small):
    """Against an explicit method with smaller tolerances; on the way down the error is most sensitive."""
    q, r, eye = np.diag([0.2, 0.3]), small * np.array([[1.0, 0.3], [0.2, 0.8]]), np.eye(2)
    times = np.array([350.0, 420.0, 450.0, 500.0])
    model = online._Equations(eye, 1.0, 1.0, 0.0, 1.0, online.ACTIVATIONS["erf"], 2)
    products, start = model.products(), np.concatenate([q.ravel(), r.ravel()])
    path = solve_ivp(
        lambda _, state: model.change(products, state), (0, 500), start, "DOP853", times, rtol=1e-12, atol=1e-19
    )
    expected = np.array([model.error(state) for state in path.y.T])
    assert expected[0] > 1e-3 > expected[-1]  # it does leave the plateau
    np.testing.assert_allclose(online.online_curve(q, r, eye, 1.0, 1.0, times).error, expected, rtol=5e-4)
