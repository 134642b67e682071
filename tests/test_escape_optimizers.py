"""SGD, momentum, AdamW and ALLoRAAdamW in NumPy: against the twin, torch's own and formulas; the layer's gradients."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allora_analysis import escape
from allora_analysis.escape import optimizers
from allora_analysis.escape.optimizers import check, rate_factor
from allora_analysis.validation import ArgumentError
from tests.brute_force import escape as brute_force

STEPS = 7
OPTIONS = {
    "plain": {},
    "clipped": {"max_grad_norm": 0.3},
    "decayed": {"weight_decay": 0.1},
    "scheduled": {"warmup": 2, "schedule": "linear"},
    "all": {
        "max_grad_norm": 0.5,
        "weight_decay": 0.05,
        "warmup": 1,
        "schedule": "cosine",
        "betas": (0.7, 0.9),
        "eps": 1e-4,
    },
}


def data(rng):
    return rng.standard_normal((6, 4)), rng.standard_normal((6, 3)), 0.5 * rng.standard_normal((2, 4))


def path(x, y, a, arm, eta, recipe, adaptor="inverse_sqrt"):
    return [(step.a[0], step.b[0]) for step in escape.iterate(escape.data_teacher(x, y, a), arm, eta, recipe, adaptor)]


def assert_same(one, other, rtol):
    assert len(one) == len(other)
    for pair, twin in zip(one, other, strict=True):
        for values, expected in zip(pair, twin, strict=True):
            np.testing.assert_allclose(values, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("arm", escape.ARMS)
@pytest.mark.parametrize("optimizer", escape.OPTIMIZERS)
def test_every_arm_and_optimizer_equals_its_twin(rng, optimizer, arm, options):
    x, y, a = data(rng)
    recipe = check(escape.Recipe(optimizer, 0.05, steps=STEPS, **options))
    twin = brute_force.train(x, y, a, arm=arm, optimizer=optimizer, eta=1.7, learning_rate=0.05, steps=STEPS, **options)
    assert_same(path(x, y, a, arm, 1.7, recipe), twin, 1e-10)


@pytest.mark.parametrize("adaptor", brute_force.ADAPTORS)
@pytest.mark.parametrize("optimizer", ["sgd", "allora_adamw"])
def test_every_adaptor_equals_its_twin(rng, optimizer, adaptor):
    x, y, a = data(rng)
    recipe = escape.Recipe(optimizer, 0.05, steps=STEPS)
    twin = brute_force.train(
        x, y, a, arm="allora", optimizer=optimizer, eta=1.7, learning_rate=0.05, steps=STEPS, adaptor=adaptor
    )
    assert_same(path(x, y, a, "allora", 1.7, recipe, adaptor), twin, 1e-10)


@pytest.mark.parametrize("optimizer", escape.OPTIMIZERS)
@pytest.mark.parametrize("option", ["max_grad_norm", "weight_decay", "warmup", "eta", "adaptor"])
def test_the_twin_would_tell(rng, optimizer, option):
    """Each option changes the path: a step that ignored it would not pass above."""
    x, y, a = data(rng)
    changed = {"max_grad_norm": 0.3, "weight_decay": 0.1, "warmup": 2}
    recipe = escape.Recipe(optimizer, 0.05, steps=STEPS, **({option: changed[option]} if option in changed else {}))
    eta, adaptor = (1.5 if option == "eta" else 1.7), ("inverse" if option == "adaptor" else "inverse_sqrt")
    twin = brute_force.train(x, y, a, arm="allora", optimizer=optimizer, eta=1.7, learning_rate=0.05, steps=STEPS)
    with pytest.raises(AssertionError):
        assert_same(path(x, y, a, "allora", eta, recipe, adaptor), twin, 1e-6 if optimizer == "adamw" else 1e-4)


def torch_path(x, y, a, recipe, rate, layer):
    """torch's own optimizers on autograd's gradients; `layer(x, a, b)` is the adapter's output."""
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    first = torch.from_numpy(a.copy()).requires_grad_()
    second = torch.zeros(y.shape[1], len(a), dtype=torch.float64, requires_grad=True)
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            [first, second], rate, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
        )
    else:
        momentum = recipe.momentum if recipe.optimizer == "momentum" else 0.0
        optimizer = torch.optim.SGD([first, second], rate, momentum=momentum, weight_decay=recipe.weight_decay)
    return torch_steps(optimizer, x, y, first, second, recipe, layer)


def torch_steps(optimizer, x, y, first, second, recipe, layer):
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(recipe, step))
    visited = []
    for _ in range(recipe.steps + 1):
        visited.append(tuple(value.detach().numpy().copy() for value in (first, second)))
        optimizer.zero_grad()
        (((y - layer(x, first, second)) ** 2).sum() / (2 * len(x))).backward()
        if recipe.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_([first, second], recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
    return visited


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("arm", ["lora", "lora_eta"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_lora_equals_torch(rng, optimizer, arm, options):
    x, y, a = data(rng)
    recipe = escape.Recipe(optimizer, 0.05, steps=STEPS, **options)
    rate = 0.05 * (1.7 if arm == "lora_eta" else 1.0)
    expected = torch_path(x, y, a, recipe, rate, lambda x, a, b: x @ a.T @ b.T)
    assert_same(path(x, y, a, arm, 1.7, recipe), expected, 1e-10)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_allora_equals_the_real_layer_under_torch(rng, optimizer, options):
    from allora_analysis.lora.functional import allora

    x, y, a = data(rng)
    recipe = escape.Recipe(optimizer, 0.05, steps=STEPS, **options)
    expected = torch_path(x, y, a, recipe, 0.05, lambda x, a, b: allora(x, a, b, 1.7))
    assert_same(path(x, y, a, "allora", 1.7, recipe), expected, 1e-9)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_allora_adamw_equals_the_real_optimizer(rng, options):
    from allora_analysis.lora.optim import ALLoRAAdamW

    x, y, a = data(rng)
    recipe = escape.Recipe("allora_adamw", 0.05, steps=STEPS, **options)
    first = torch.from_numpy(a.copy()).requires_grad_()
    second = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    optimizer = ALLoRAAdamW(
        [{"params": [first, second], "pair": True, "scaling": 1.0}],
        0.05,
        1.7,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )
    tensors = torch.from_numpy(x), torch.from_numpy(y), first, second
    expected = torch_steps(optimizer, *tensors, recipe, lambda x, a, b: x @ a.T @ b.T)
    assert_same(path(x, y, a, "allora", 1.7, recipe), expected, 1e-9)


@pytest.mark.parametrize("schedule", escape.SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_are_transformers(schedule, warmup):
    from transformers import optimization

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    name = {"constant": "constant_with_warmup"}.get(schedule, schedule)
    theirs = optimization.get_scheduler(name, optimizer, warmup, 10)
    recipe = escape.Recipe("sgd", 1.0, warmup=warmup, schedule=schedule, steps=10)
    for step in range(10):
        assert rate_factor(recipe, step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-15)
        assert rate_factor(recipe, step) == pytest.approx(brute_force.scheduled(step, 10, warmup, schedule), abs=1e-15)
        optimizer.step()
        theirs.step()


def test_clipping_is_per_seed():
    teacher = escape.linear_teacher(seeds=3, n_outputs=4, n_inputs=5, rank=2, teacher_rank=2)
    recipe = escape.Recipe("sgd", 0.1, steps=4, max_grad_norm=0.2)
    *_, together = escape.iterate(teacher, "allora", 2.0, recipe)
    for index in range(3):
        alone = escape.Teacher(*(part[index : index + 1] for part in dataclasses.astuple(teacher)))
        *_, single = escape.iterate(alone, "allora", 2.0, recipe)
        np.testing.assert_allclose(together.b[index], single.b[0], rtol=1e-12)


def test_allora_adamw_keeps_the_sign_of_adamw_and_the_decay(rng):
    a, b = rng.standard_normal((2, 2, 4)), rng.standard_normal((2, 3, 2))
    gradients = rng.standard_normal(a.shape), rng.standard_normal(b.shape)
    factor = rng.uniform(0.2, 2, (2, 3))
    recipe = escape.Recipe("allora_adamw", 0.1, weight_decay=0.3)
    still = tuple(0 * gradient for gradient in gradients)
    moved, _ = optimizers.step(recipe, (a, b), gradients, optimizers.memory((a, b)), 0.1, factor)
    plain, _ = optimizers.step(recipe, (a, b), gradients, optimizers.memory((a, b)), 0.1)
    decayed, _ = optimizers.step(recipe, (a, b), still, optimizers.memory((a, b)), 0.1, factor)
    np.testing.assert_allclose(decayed[0], 0.97 * a, rtol=1e-14)
    for scaled, unscaled, rest, ratio in zip(
        moved, plain, decayed, (factor.mean(1)[:, None, None], factor[..., None]), strict=True
    ):
        np.testing.assert_allclose(scaled - rest, ratio * (unscaled - rest), rtol=1e-10)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "adam"),
        ("schedule", "step"),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("eps", 0.0),
        ("weight_decay", -1.0),
        ("max_grad_norm", 0.0),
        ("steps", 0),
        ("warmup", 5),
        ("warmup", -1),
    ],
)
def test_bad_recipes(field, value):
    with pytest.raises(ArgumentError, match=field):
        check(dataclasses.replace(escape.Recipe("sgd", 0.1, steps=5), **{field: value}))


@pytest.mark.bad_input
def test_one_beta_is_too_few():
    recipe = escape.Recipe("adamw", 0.1)
    object.__setattr__(recipe, "betas", (0.9,))  # past the tests' own check of types
    with pytest.raises(ArgumentError, match="betas must have 2 values, received 1"):
        check(recipe)


# -- the first step from B = 0


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


def adamw_step(gradient, eps=1e-8):
    """AdamW's first step over −l, without decay, whatever β₁ and β₂."""
    return gradient / (np.abs(gradient) + eps)


@pytest.mark.parametrize("eta", [0.5, 2.0])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 1.0])
def test_adamw_takes_loras_step_at_l(eta, eps):
    (lora, lora_eta, allora), start, gradient = steps("adamw", eta, eps=eps)
    np.testing.assert_array_equal(allora.a, start)
    np.testing.assert_allclose(lora.b, -0.1 * adamw_step(gradient, eps), rtol=1e-11)
    np.testing.assert_allclose(allora.b, -0.1 * adamw_step(gradient, eps / eta), rtol=1e-11)
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
            np.testing.assert_allclose(arm.b[index], -0.1 * adamw_step(factor * gradient[index]), rtol=1e-11)
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
    direct = abs(float(adamw_step(eta * gradient, eps) - adamw_step(gradient, eps)))
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
