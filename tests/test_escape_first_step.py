"""The first step from B = 0: what SGD, clipping and AdamW make of the row factor, by formula and by taking the step."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allora_analysis import escape
from allora_analysis.escape import optimizers
from allora_analysis.validation import ArgumentError

norms = st.floats(1e-6, 1e6)
etas = st.floats(0.05, 20)


def adamw_gap(gradient, eta, eps=1e-8):
    """|ALLoRA's first AdamW step − LoRA's at l|/l, as the module's text has it."""
    size = np.abs(gradient)
    return eps / (eta * size + eps) * abs(eta - 1) * (size / (size + eps))


def adamw_gap_bound(gradient, eta, eps=1e-8):
    """The smaller of the text's two bounds."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        far = eps * abs(eta - 1) / (eta * np.abs(gradient))
    return np.fmin(far, abs(math.sqrt(eta) - 1) / (math.sqrt(eta) + 1))


def steps(optimizer, eta=2.0, **options):
    """(A, B) of the three arms after one step at l = 0.1, the start's A, and LoRA's gradient GAᵀ there."""
    teacher = escape.linear_teacher(seeds=3, n_outputs=5, n_inputs=6, rank=2, teacher_rank=3)
    recipe = escape.Recipe(optimizer, 0.1, **options)
    lasts = [list(escape.iterate(teacher, arm, eta, recipe))[-1] for arm in escape.ARMS]
    return lasts, teacher.a, -teacher.cross @ teacher.a.swapaxes(1, 2)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("eta", [0.5, math.sqrt(2), 2.0])
def test_sgd_without_clipping_is_lora_at_eta_times_the_rate(optimizer, eta):
    (lora, lora_eta, allora), start, gradient = steps(optimizer, eta)
    for arm in (lora, lora_eta, allora):
        np.testing.assert_array_equal(arm.a, start)
    np.testing.assert_allclose(allora.b, lora_eta.b, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(lora.b, -0.1 * gradient, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(allora.b, eta * lora.b, rtol=1e-13, atol=1e-16)
    result = optimizers.clipped_step(1.0, eta)
    assert (result.lora, result.lora_eta, result.allora) == (1, eta, eta)


@pytest.mark.parametrize("eta", [0.5, 2.0])
@pytest.mark.parametrize("max_grad_norm", [0.01, 0.3, 0.5, 1.0, 3.0, 1e3])
def test_clipping_leaves_what_the_formula_says(eta, max_grad_norm):
    arms, _, gradient = steps("sgd", eta, max_grad_norm=max_grad_norm)
    for index, size in enumerate(np.linalg.norm(gradient, axis=(1, 2))):
        result = optimizers.clipped_step(size, eta, max_grad_norm)
        for arm, factor in zip(arms, (result.lora, result.lora_eta, result.allora), strict=True):
            np.testing.assert_allclose(arm.b[index], -0.1 * factor * gradient[index], rtol=1e-12)


def test_clipping_at_one_undoes_the_factor():
    """transformers' default: ALLoRA's first step is LoRA's at l wherever LoRA's own gradients exceed the norm."""
    result = optimizers.clipped_step(5.0, 2.0, 1.0)
    assert result.allora == pytest.approx(result.lora, rel=1e-6)
    assert result.lora_eta == pytest.approx(2 * result.lora)
    # Between c/η and c part of it is left; below c/η all of it.
    assert optimizers.clipped_step(0.8, 2.0, 1.0).allora == pytest.approx(1 / 0.8, rel=1e-5)
    assert optimizers.clipped_step(0.4, 2.0, 1.0).allora == 2.0
    # A head's gradients count in the same norm: with them dominant, the factor is back.
    assert optimizers.clipped_step(0.1, 2.0, 1.0, other_norm=50.0).allora == pytest.approx(2 / 50, rel=1e-4)
    arms, _, gradient = steps("sgd", 2.0, max_grad_norm=0.1)
    assert np.all(np.linalg.norm(gradient, axis=(1, 2)) > 0.1)
    np.testing.assert_allclose(arms[2].b, arms[0].b, rtol=2e-5)


@given(norm=norms, eta=etas, other=st.floats(0, 1e3), limit=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=80)
def test_properties_of_the_clipped_step(norm, eta, other, limit):
    result = optimizers.clipped_step(norm, eta, limit, other)
    low, high = min(1, eta), max(1, eta)
    assert low * result.lora <= result.allora * (1 + 1e-12)
    assert result.allora <= high * result.lora * (1 + 1e-12)
    assert result.lora_eta == pytest.approx(eta * result.lora)
    assert result.allora * norm <= limit * (1 + 1e-12)
    if math.hypot(high * norm, other) + 1e-6 <= limit:
        assert (result.lora, result.allora) == (1.0, eta)
    alone = optimizers.clipped_step(norm, eta, limit)
    if norm >= limit / low:
        assert alone.allora == pytest.approx(alone.lora, rel=1e-6 / (low * norm) + 1e-9)


@pytest.mark.parametrize("eta", [0.5, 2.0])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 1.0])
def test_adamw_takes_loras_step_at_l(eta, eps):
    (lora, lora_eta, allora), start, gradient = steps("adamw", eta, eps=eps)
    np.testing.assert_array_equal(allora.a, start)
    np.testing.assert_allclose(lora.b, -0.1 * optimizers.adamw_step(gradient, eps), rtol=1e-11)
    np.testing.assert_allclose(allora.b, -0.1 * optimizers.adamw_step(gradient, eps / eta), rtol=1e-11)
    gap = np.abs(allora.b - lora.b) / 0.1
    np.testing.assert_allclose(gap, adamw_gap(gradient, eta, eps), rtol=1e-5, atol=1e-14)
    assert np.all(gap <= adamw_gap_bound(gradient, eta, eps) + 1e-14)
    if eps == 1e-8:
        np.testing.assert_allclose(allora.b, lora.b, rtol=1e-5)
        np.testing.assert_allclose(lora_eta.b, eta * allora.b, rtol=1e-5)


def test_adamw_with_clipping_is_the_same_again():
    (lora, _, allora), _, gradient = steps("adamw", 2.0, max_grad_norm=0.1)
    for index, size in enumerate(np.linalg.norm(gradient, axis=(1, 2))):
        result = optimizers.clipped_step(size, 2.0, 0.1)
        for arm, factor in ((lora, result.lora), (allora, result.allora)):
            np.testing.assert_allclose(arm.b[index], -0.1 * optimizers.adamw_step(factor * gradient[index]), rtol=1e-11)
    np.testing.assert_allclose(allora.b, lora.b, rtol=1e-5)


def test_allora_adamw_restores_the_factor():
    (lora, lora_eta, allora), start, _ = steps("allora_adamw")
    np.testing.assert_array_equal(allora.a, start)
    np.testing.assert_allclose(allora.b, lora_eta.b, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(allora.b, 2 * lora.b, rtol=1e-13, atol=1e-16)


@given(gradient=st.floats(-1e9, 1e9), eta=etas, eps=st.floats(1e-12, 1.0))
@example(gradient=0.0, eta=2.0, eps=1e-8)
@example(gradient=2.2250738585e-313, eta=2.0, eps=1.0)
@settings(deadline=None, max_examples=100)
def test_the_gap_is_exact_and_bounded(gradient, eta, eps):
    gap = float(adamw_gap(gradient, eta, eps))
    direct = abs(float(optimizers.adamw_step(eta * gradient, eps) - optimizers.adamw_step(gradient, eps)))
    assert gap == pytest.approx(direct, rel=1e-6, abs=1e-14)
    assert gap <= adamw_gap_bound(gradient, eta, eps) * (1 + 1e-12)


def test_the_worst_gap_is_reached():
    for eta in (0.3, 2.0, 9.0):
        worst = 1e-8 / math.sqrt(eta)
        expected = abs(math.sqrt(eta) - 1) / (math.sqrt(eta) + 1)
        assert adamw_gap(worst, eta) == pytest.approx(expected, rel=1e-12)
        assert adamw_gap(3 * worst, eta) < expected
        assert adamw_gap_bound(worst, eta) == pytest.approx(expected)
    assert adamw_gap_bound([0.0, 1.0], 1.0).tolist() == [0.0, 0.0]
    # Far above ε the other bound is the sharp one.
    assert adamw_gap(1.0, 2.0) == pytest.approx(float(adamw_gap_bound(1.0, 2.0)), rel=1e-7)


@pytest.mark.bad_input
def test_bad_input():
    with pytest.raises(ArgumentError, match="norm"):
        optimizers.clip_factor(-1.0, 1.0)
    with pytest.raises(ArgumentError, match="max_grad_norm"):
        optimizers.clip_factor(1.0, 0.0)
    with pytest.raises(ArgumentError, match="gradient_norm"):
        optimizers.clipped_step(-1.0, 1.0)
    with pytest.raises(ArgumentError, match="eta"):
        optimizers.clipped_step(1.0, 0.0)
    with pytest.raises(ArgumentError, match="other_norm"):
        optimizers.clipped_step(1.0, 1.0, None, -1.0)
    with pytest.raises(ArgumentError, match="eps"):
        optimizers.adamw_step(1.0, -1.0)
    with pytest.raises(ArgumentError, match="gradient"):
        optimizers.adamw_step([math.nan])
