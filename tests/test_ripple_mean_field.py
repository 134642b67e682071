"""A transformer's mean field at random weights: streams, gradients and attention, against draws and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from allora_analysis.ripple import mean_field, transformer
from allora_analysis.ripple.transformer import Design
from tests.stat_assert import assert_mean, assert_rejects
from tests.test_ripple_transformer import tokens


def squares(design, eta, replicas, rng, width=64, rank=64, mixing=1.0):
    """Mean squares of stream and gradient over those predicted, of `replicas` transformers, each of four inputs.

    The prediction is of the norms that the transformer has. Several inputs, and a rank that grows with the width, leave
    means whose law is near a normal one.
    """
    found = []
    for _ in range(replicas):
        model = transformer.draw(design, 3, width, rank, 0.5, rng)
        drawn = [(tokens(1, width, rng), rng.standard_normal((1, width))) for _ in range(4)]
        x, v = map(np.stack, zip(*drawn, strict=True))
        run, along, _ = transformer.derivative(model, x, v / np.linalg.norm(v, axis=-1, keepdims=True), eta)
        seen = np.array([np.square(run.streams[-1]).mean(), width * np.square(along[-1]).mean()])
        told = np.exp([one[-1] for one in mean_field.moments(model, eta, mixing=mixing)])
        found.append(seen / told)
    return np.array(found).T


@pytest.mark.statistical
@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("eta", [0.0, 2.0])
def test_mean_squares_of_streams_add_up(activation, eta, rng):
    """Exact in expectation; a κ of ½ is planted."""
    design = Design(heads=2, activation=activation)
    assert_mean(squares(design, eta, 100, rng)[0], 1.0, smallest_error=0.15)
    assert_rejects(assert_mean, squares(design, eta, 20, rng, mixing=0.5)[0], 1.0, smallest_error=1.5)


@pytest.mark.parametrize(
    ("norm", "told"), [("pre", lambda beta, depth: 1 + depth * beta), ("post", lambda beta, depth: 1.0)]
)
def test_linear_branches_telescope(norm, told, rng):
    """∏(1 + β/(1 + lβ)) = 1 + Lβ: stream and gradient alike."""
    model = transformer.draw(Design(norm=norm, activation="identity"), 1, 12, 2, 0.5, rng)
    model = replace(model, blocks=model.blocks * 6, norms=model.norms * 6)
    found = mean_field.moments(model, 3.0)
    once = mean_field.moments(replace(model, blocks=model.blocks[:1], norms=model.norms[:1]), 3.0)
    beta = math.exp(once.log_stream[-1]) - 1
    np.testing.assert_allclose(np.exp(found.log_gradient), np.exp(found.log_stream), rtol=1e-9)
    assert math.exp(found.log_stream[-1]) == pytest.approx(told(beta, 6), rel=1e-9)


def gains(maps, eta):
    """γ of each map."""
    return {n: (np.sum(m.w**2) + eta**2 * np.sum((m.b @ m.a) ** 2)) / len(m.w) for n, m in maps.items()}


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("eta", [0.0, 1.5, 10.0, 300.0])
def test_an_activations_mean_squares_are_torchs_on_a_fine_grid(activation, eta, rng):
    """Without attention the stream is 1 + γ_down·E act(√γ_up z)², the gradient 1 + γ_downγ_up·E act′(√γ_up z)².

    Planted: 80 Gauss–Hermite nodes, coarse where √γ_up is large: 6 % of E act′² at √γ_up = 10.
    """
    model = transformer.draw(Design(norm="none", activation=activation), 1, 12, 3, 0.7, rng)
    maps = model.blocks[0]
    model = replace(model, blocks=({**maps, "v": maps["v"]._replace(w=1e-20 * maps["v"].w, b=0 * maps["v"].b)},))
    gain, z = gains(maps, eta), torch.linspace(-10, 10, 100_000, dtype=torch.float64)
    chance = torch.softmax(-z * z / 2, 0)
    z = (math.sqrt(gain["up"]) * z).requires_grad_()
    value = getattr(torch.nn.functional, activation)(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    value, slope = (gain["down"] * float(chance @ one.square()) for one in (value.detach(), slope))
    found = [math.exp(one[-1]) for one in mean_field.moments(model, eta)]
    assert found == pytest.approx([1 + value, 1 + gain["up"] * slope], rel=1e-9)


@pytest.mark.parametrize("start", [0.3, 1.0, 5.0])
def test_a_gated_branch_grows_as_the_square_of_what_it_is_given(start, rng):
    """act(gate) ⊙ up, act the identity: m + γ_downγ_gateγ_up·m²."""
    model = transformer.draw(Design(norm="none", gated=True, activation="identity"), 1, 12, 3, 0.7, rng)
    eta = 1.5
    gain = gains(model.blocks[0], eta)
    middle = start * (1 + gain["v"] * gain["o"])
    told = middle + gain["down"] * gain["gate"] * gain["up"] * middle**2
    assert math.exp(mean_field.moments(model, eta, start).log_stream[-1]) == pytest.approx(told, rel=1e-9)


@pytest.mark.statistical
def test_gradients_follow_in_the_middle(rng):
    """Up to a share of order 1/n, which twice the width halves: twice the one less the other is free of it."""
    design = Design(heads=2, norm="pre", activation="gelu")
    narrow, wide = (squares(design, 1.0, 200, rng, width, width // 3)[1] for width in (32, 64))
    assert_mean(2 * wide - narrow, 1.0, smallest_error=0.5)
    assert_rejects(assert_mean, squares(design, 1.0, 20, rng, mixing=0.25)[1], 1.0, smallest_error=3.0)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.999, 1.001, 4.0, 40.0])
@pytest.mark.parametrize("count", [2, 16])
@pytest.mark.statistical
def test_attention_entropy(sigma, count, rng):
    logits = sigma * rng.standard_normal((40_000, count))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
    told = mean_field.attention_entropy(sigma, count)
    if sigma == 0:
        assert told == pytest.approx(math.log(count), abs=2e-6)
        return
    assert_mean(entropy, told, smallest_error=0.05)
    if sigma == 4:  # σ for σ²
        wrong = mean_field.attention_entropy(2.0, count)
        assert_rejects(assert_mean, entropy, wrong, smallest_error=0.05)


@pytest.mark.statistical
@pytest.mark.parametrize("eta", [0.0, 1.0, 6.0])
def test_entropy_of_a_first_block(eta, rng):
    """Orthogonal tokens: `attention_entropy`, averaged over σ² = (1 + η²χ²_r/r)(1 + η²χ′²_r/r)χ²_d/d."""
    found = []
    for _ in range(150):
        x = 4 * np.linalg.qr(rng.standard_normal((16, 16)))[0][:8]
        weights = transformer.forward(transformer.draw(Design(heads=1), 1, 16, 4, 1.0, rng), x, eta).weights[0]
        found.append(-np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=-1).mean())
    level = (np.arange(16) + 0.5) / 16
    one, head = 1 + eta**2 * chi2.ppf(level, 4) / 4, chi2.ppf(level, 16) / 16
    sigma = np.sqrt(one[:, None, None] * one[:, None] * head).ravel()
    grid = np.geomspace(sigma.min(), sigma.max(), 24)
    known = [mean_field.attention_entropy(float(each), 8) for each in grid]
    told = float(np.interp(np.log(sigma), np.log(grid), known).mean())
    assert_mean(np.array(found), told, smallest_error=0.25)


@pytest.mark.statistical
@pytest.mark.parametrize(("sigma", "tokens"), [(0.1, 4), (1.0, 16), (10.0, 8)])
def test_the_logits_gain_is_that_of_sampled_softmaxes(sigma, tokens, rng):
    logits = sigma * rng.standard_normal((100_000, tokens))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    jacobian = np.sum(p**2, axis=1) - 2 * np.sum(p**3, axis=1) + np.sum(p**2, axis=1) ** 2  # ‖diag p − ppᵀ‖²_F
    square = np.sum(p**2, axis=1)
    told = mean_field.logit_gain(sigma, tokens) / (2 * sigma**2)
    terms = jacobian / jacobian.mean() - square / square.mean()
    found, error = jacobian.mean() / square.mean(), terms.std() / len(p) ** 0.5
    assert abs(found / told - 1) < 5 * error + 1e-4
    assert 5 * error < 0.1


def test_one_token_attends_to_itself():
    assert mean_field.attention_entropy(2.0, 1) == 0.0


def test_the_gain_where_attention_is_uniform_over_very_many_tokens():
    assert mean_field.logit_gain(0.01, 10_000) == pytest.approx(2e-4 * (1 - 1e-4), rel=1e-3)


def test_the_gain_where_ties_are_rare_is_proportional(monkeypatch):
    monkeypatch.setattr(mean_field, "WIDE", 2.0)
    assert mean_field.logit_gain(6.0, 8) == pytest.approx(3 * mean_field.logit_gain(2.0, 8), rel=1e-12)


def first_gradient(told_tokens, eta=1.0, count=8, width=48, copies=60):
    """E‖J v‖² after a block that is attention alone, orthogonal tokens, weights at random: a mean over networks."""
    seen, mixing = [], []
    for seed in range(copies):
        rng = np.random.default_rng(seed)
        model = transformer.draw(Design(activation="relu"), 1, width, 4, 1.0, rng)
        down = model.blocks[0]["down"]
        model = replace(model, blocks=({**model.blocks[0], "down": down._replace(w=1e-9 * down.w, b=0 * down.b)},))
        x = np.linalg.qr(rng.standard_normal((width, width)))[0][:count] * math.sqrt(width)
        v = rng.standard_normal(x.shape)
        run, along, _ = transformer.derivative(model, x, v, eta)
        seen.append(np.sum(along[1] ** 2) / np.sum(v**2))
        mixing.append(np.sum(run.weights[0] ** 2, axis=-1).mean())
    told = np.exp(mean_field.moments(model, eta, 1.0, float(np.mean(mixing)), told_tokens).log_gradient[1])
    allowed = 5 * np.std(seen, ddof=1) / math.sqrt(copies)
    assert allowed < 0.3 * np.mean(seen), "no power"
    assert abs(np.mean(seen) - told) < allowed


@pytest.mark.statistical
def test_the_gradient_through_the_logits_in_a_first_block():
    first_gradient(8)
    assert_rejects(first_gradient, 1)  # without the logits
