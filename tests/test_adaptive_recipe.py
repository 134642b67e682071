"""Equivalent settings trained by torch's own optimizers; the first step and the rates against what really moves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis.adaptive.recipe import Recipe, equivalents, four_times_alpha, lines, rates, warm_up
from allora_analysis.lora.optim import ALLoRAAdamW
from allora_analysis.validation import ArgumentError

N, N1, N2, STEPS = 24, 7, 9, 25
KINDS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
ETA = 3.0  # of ALLoRAAdamW
RATE = {"alloraadamw": 1e-2, "adamw": 1e-2, "adam": 1e-2, "sgd": 0.05}


def trained(recipe, setting, steps=STEPS, momentum=0.9, clip=None, schedule=lambda step: 1.0):
    """s·BA after each step of torch's optimizer on x ↦ tanh(s·B(Ax)), the matrix that is drawn times init."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x, y = normal(N, N2), normal(N, N1)
    draws = {"a": normal(recipe.r, N2) / N2**0.5, "b": normal(N1, recipe.r) / recipe.r**0.5}
    a, b = (
        nn.Parameter(torch.zeros_like(draw) if recipe.zero == name else setting.init_a * draw)
        for name, draw in draws.items()
    )
    groups = [
        {"params": [part], "lr": rate, "weight_decay": decay} | ({} if recipe.optimizer == "sgd" else {"eps": eps})
        for part, rate, decay, eps in (
            (a, setting.rate_a, setting.decay_a, setting.eps_a),
            (b, setting.rate_b, setting.decay_b, setting.eps_b),
        )
    ]
    options = {"momentum": momentum} if recipe.optimizer == "sgd" else {}
    if recipe.optimizer == "alloraadamw":
        pair = groups[0] | {"params": [a, b], "pair": True, "scaling": setting.scaling}
        optimizer, path = ALLoRAAdamW([pair], recipe.lr, ETA), []
    else:
        optimizer, path = KINDS[recipe.optimizer](groups, **options), []
    full = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        optimizer.zero_grad()
        ((setting.scaling * x @ a.T @ b.T).tanh() - y).square().mean().backward()
        if clip:
            nn.utils.clip_grad_norm_([a, b], clip)
        for group, rate in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = rate * schedule(step)
        optimizer.step()
        path.append((setting.scaling * b @ a).detach().numpy())
    return np.array(path)


def recipe(optimizer, **changes):
    values = {"r": 3, "alpha": 12.0, "lr": RATE[optimizer], "optimizer": optimizer, "weight_decay": 0.1, "eps": 1e-3}
    return Recipe(**(values | changes))


CASES = [
    {},
    {"rslora": True},
    {"loraplus_ratio": 8.0},
    {"zero": "a"},
    {"zero": "a", "loraplus_ratio": 0.25},
    {"alpha": 3.0, "loraplus_ratio": 2.0},
]


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("alpha", [None, 48.0])
def test_equivalent_settings_train_alike(optimizer, case, alpha):
    own = recipe(optimizer, **case)
    yours, *others = equivalents(own, alpha)
    assert others
    start, moved = "BA" if own.zero == "a" else "AB"
    told = [one.name.partition(", ")[2] for one in others if one.name.startswith("α")]
    assert told in ([], [f"{moved}'s rate", f"both rates, {start}'s init"])
    assert own.loraplus_ratio == 1 or others[-1].setting.rate_a == pytest.approx(others[-1].setting.rate_b)
    path = trained(own, yours.setting, schedule=lambda step: 1 - step / STEPS)
    assert np.abs(path[-1]).max() > 0.05
    for one in others:
        unit = math.sqrt(own.r) if own.rslora else own.r
        assert one.setting.scaling == pytest.approx(one.alpha / unit)
        again = trained(own, one.setting, schedule=lambda step: 1 - step / STEPS)
        np.testing.assert_allclose(again, path, rtol=1e-8, atol=1e-10, err_msg=one.name)


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("knob", ["init_a", "rate_a", "rate_b", "decay_b"])
def test_a_knob_that_is_left_as_it_was_is_seen(optimizer, knob):
    """The planted mistake: each number of the table matters."""
    own = recipe(optimizer)
    yours, _, other = equivalents(own)
    wrong = replace(other.setting, **{knob: getattr(yours.setting, knob)})
    path, again = (trained(own, setting) for setting in (yours.setting, wrong))
    assert np.abs(again - path).max() > 1e-4 * np.abs(path).max()


@pytest.mark.parametrize("case", [{}, {"rslora": True}, {"zero": "a"}], ids=str)
def test_settings_that_train_alike_under_the_factor_after_adam(case):
    """Its pair has one rate, ε and decay, and so have the settings; the first step is η times AdamW's."""
    own, adamw = (recipe(optimizer, **case) for optimizer in ("alloraadamw", "adamw"))
    yours, other = (one.setting for one in equivalents(own, 48.0))
    assert (other.rate_a, other.eps_a, other.decay_a) == (other.rate_b, other.eps_b, other.decay_b)
    path, again = trained(own, yours), trained(own, other)
    np.testing.assert_allclose(again, path, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(path[0], ETA * trained(adamw, yours, steps=1)[0], rtol=1e-12)
    wide = [replace(one, width=N2) for one in (own, adamw)]
    assert rates(wide[0], ETA).first_step == pytest.approx(ETA * rates(wide[1]).first_step)


def test_lora_plus_is_no_setting_of_the_factor_after_adam():
    with pytest.raises(ArgumentError, match=r"must be 1 with the optimizer alloraadamw, whose pair \(A, B\) has one"):
        rates(recipe("alloraadamw", loraplus_ratio=2.0))


def test_clipping_breaks_the_equality():
    own = recipe("sgd", weight_decay=0.0)
    yours, *others = equivalents(own)
    path, again = (trained(own, one.setting, clip=0.02) for one in (yours, others[0]))
    assert np.abs(again - path).max() > 1e-3 * np.abs(path).max()


@pytest.mark.parametrize("optimizer", KINDS)
def test_four_times_alpha_is_bs_rate_alone(optimizer):
    """α × 4 against B's rate × 4 (16 under SGD), both rates × 4 against α × 16 (4) and a smaller start."""
    own = recipe(optimizer, weight_decay=0.0, eps=1e-12)
    base, power = own.setting, own.power
    alpha = trained(own, replace(base, scaling=4 * base.scaling))
    np.testing.assert_allclose(trained(own, replace(base, rate_b=4**power * base.rate_b)), alpha, rtol=1e-5, atol=1e-8)
    faster = trained(own, replace(base, rate_a=4 * base.rate_a, rate_b=4 * base.rate_b))
    assert np.abs(faster - alpha).max() > 1e-2 * np.abs(alpha).max()
    more = replace(base, scaling=4 ** (2 / power) * base.scaling, init_a=4 ** (-1 / power))
    np.testing.assert_allclose(trained(own, more), faster, rtol=1e-5, atol=1e-8)
    told = four_times_alpha(own)
    assert f"B's rate × {4**power} alone" in told
    assert f"α × {4 ** (2 / power):g} with A starting at 1/{4 ** (1 / power):g}" in told


def first_step(own, width, seeds=10):
    """How s·BA moves at the first step of torch's optimizer, A drawn as PEFT draws it, gradients of a random G."""
    moves, steepest, lengths = [], [], []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        g = torch.randn(512, width, generator=generator, dtype=torch.float64)
        a, b = (nn.Parameter(torch.zeros(size, dtype=torch.float64)) for size in ((own.r, width), (512, own.r)))
        drawn = a if own.zero == "b" else b
        with torch.no_grad():
            drawn.uniform_(-1, 1, generator=generator).mul_(drawn.shape[1] ** -0.5)
        kind, setting = KINDS[own.optimizer], own.setting
        optimizer = kind([{"params": [a], "lr": setting.rate_a}, {"params": [b], "lr": setting.rate_b}], weight_decay=0)
        (own.scaling * (b @ a) * g).sum().backward()
        optimizer.step()
        move = own.scaling * (b @ a).detach()
        moves.append(float(move.square().mean().sqrt()))
        steepest.append(float(-(move * g).sum() / (g * g).sum()))
        lengths.append(float(move.norm() / g.norm()))
    return np.mean(moves), np.mean(steepest), np.mean(lengths)


@pytest.mark.parametrize("zero", ["a", "b"])
@pytest.mark.parametrize("changes", [{}, {"rslora": True}, {"loraplus_ratio": 4.0}], ids=str)
def test_the_first_step_of_ba(zero, changes):
    adam = Recipe(r=8, alpha=16.0, lr=1e-3, zero=zero, width=512, eps=1e-30, **changes)
    assert first_step(adam, 512)[0] == pytest.approx(rates(adam).first_step, rel=0.02)
    sgd = replace(adam, optimizer="sgd")
    _, mean, length = first_step(sgd, 512)
    assert mean == pytest.approx(rates(sgd).first_step, rel=0.03)
    assert rates(sgd, 2.0).first_step == pytest.approx(2 * rates(sgd).first_step)
    assert rates(adam, 2.0).first_step == rates(adam).first_step  # Adam divides it out
    told = dict(lines(sgd, factor=2.0))["first step of BA"]
    assert f" at rate {2 * rates(sgd).first_step:.3g}, in the mean over {'AB'[zero == 'a']}" in told
    assert told.endswith(" (LoRA's times 2)")
    assert rates(sgd, 2.0, 2.0).first_step == pytest.approx(4 * rates(sgd).first_step)
    assert rates(adam, 2.0, 2.0).first_step == pytest.approx(2 * rates(adam).first_step)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ArgumentError, match="factor must be"):
            rates(adam, wrong)
    if zero == "b":  # eight times as long as its mean
        longer = told.removesuffix(" (LoRA's times 2)").rpartition("as long as full fine-tuning's at rate ")[2]
        assert float(longer) == pytest.approx(2 * length, rel=0.03)
        assert length > 7 * mean
    else:
        assert "as long as" not in told


def test_adams_own_decay_makes_the_first_step_of_a_its_sign():
    for decay in (1e-6, 1.0):
        a = nn.Parameter(torch.tensor([[0.5, -0.25]], dtype=torch.float64))
        b = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
        optimizer = torch.optim.Adam([a, b], lr=1e-2, weight_decay=decay, eps=1e-30)
        (b @ a).sum().backward()
        optimizer.step()
        np.testing.assert_allclose(a.detach().numpy(), [[0.49, -0.24]], rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "zero", "words"),
    [
        ("adam", "b", "within Adam's gradient: A's first step is 0.001 towards 0 in each entry"),
        ("adam", "a", "within Adam's gradient: B's first step is 0.001 towards 0 in each entry"),
        ("adamw", "b", "takes 9.52% of A and of B in 1,000 steps at the full rate"),
    ],
)
def test_what_decay_does_in_words(optimizer, zero, words):
    told = dict(lines(Recipe(r=4, alpha=8.0, lr=1e-3, weight_decay=0.1, optimizer=optimizer, zero=zero)))
    assert told["weight decay"].startswith(words)
    assert "weight decay" not in dict(lines(Recipe(r=4, alpha=8.0, lr=1e-3, optimizer=optimizer, zero=zero)))
    moved, other = "BA" if zero == "b" else "AB"
    assert told[f"rate of {moved}"].endswith(" times its own")
    assert told[f"rate of {other}"].endswith("its own: α does not change it")


@pytest.mark.parametrize(
    ("optimizer", "clipping", "first"),
    [
        ("sgd", "at 2: no step is longer than 0.032 over all", "full fine-tuning's at rate"),
        ("adamw", "at 2: the first step is the same", "moves an entry by"),
    ],
)
def test_what_clipping_and_a_first_step_do_in_words(optimizer, clipping, first):
    told = dict(lines(Recipe(r=4, alpha=8.0, lr=1e-3, loraplus_ratio=16.0, optimizer=optimizer, width=6), clip=2.0))
    assert told["clipping"].startswith(clipping)
    assert told["first step of BA"].startswith(first)


def test_decay_left_and_warm_up_against_torch_and_transformers():
    own = Recipe(r=4, alpha=8.0, lr=1e-3, weight_decay=0.1, loraplus_ratio=16.0)
    for rate, left in zip((1e-3, 16e-3), rates(own).decay_left, strict=True):
        part = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.AdamW([part], lr=rate, weight_decay=0.1)
        for _ in range(1000):
            part.grad = torch.zeros_like(part)
            optimizer.step()
        assert left == pytest.approx(float(part.detach()), rel=1e-9)
    assert rates(Recipe(r=4, alpha=8.0, lr=1e-3)).decay_left == (1.0, 1.0)  # none unless it is asked for
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = transformers.get_constant_schedule_with_warmup(optimizer, 5)
    for step in range(1, 9):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(warm_up(step, 5))
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0}, "r must be"),
        ({"alpha": -1.0}, "alpha must be"),
        ({"lr": math.nan}, "lr must be"),
        ({"optimizer": "lion"}, "optimizer must be one of adamw"),
        (
            {"lr": 1.0, "weight_decay": 3.0},
            "weight_decay 3 times a rate is 3: above 2 decay alone makes the matrices grow",
        ),
        ({"zero": "c"}, "zero must be one of"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"eps": 0.0}, "eps must be"),
        ({"width": 2}, "width must be"),
    ],
    ids=str,
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, words):
    values = {"r": 4, "alpha": 8.0, "lr": 1e-3} | changes
    with pytest.raises(ArgumentError, match=words):
        rates(Recipe(**values))
