"""SGD, momentum, AdamW and ALLoRAAdamW in NumPy: against the twin, against torch's own, and the layer's gradients."""

import dataclasses

import numpy as np
import pytest
import torch

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
