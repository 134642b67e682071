"""What the doctor measures: a layer's backward pass alone, and what optimizers and clipping make of a row factor."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis.adaptors import ADAPTORS
from allora_analysis.arms import VARIANTS
from allora_analysis.hessian import LowRankLinear
from allora_analysis.lora.autograd import _safe_roots
from allora_analysis.lora.doctor import doctor, trial
from allora_analysis.lora.doctor.measured import backward_word, clipping_effect, unwrapped
from allora_analysis.lora.doctor.trial import effects_on, optimizer_effect
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW
from allora_analysis.lora.pairs import lora_pairs
from tests import foreign_lora

peft = pytest.importorskip("peft")


def started(layer, seed=0):
    """B away from 0, so that d differs by row and from η."""
    with torch.no_grad():
        for pair in lora_pairs(layer):
            pair.b.copy_(torch.randn(pair.b.shape, generator=torch.Generator().manual_seed(seed)))
    return layer


def word(layer):
    (pair,) = lora_pairs(layer)
    return backward_word(pair)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_does_what_it_states(variant, dtype):
    drop = 0.0 if variant == "allora_0" else 0.4
    layer = started(ALLoRALinear(nn.Linear(6, 8), 2, 3.0, variant, drop_rate=drop).to(dtype))
    assert word(layer) == "as stated"


@pytest.mark.parametrize("adaptor", ["inverse", "exponential", "constant"])
def test_every_adaptor_does(adaptor):
    assert word(started(ALLoRALinear(nn.Linear(6, 8), 2, 0.7, adaptor=adaptor))) == "as stated"


def test_plain_layers_do():
    assert word(started(LowRankLinear(nn.Linear(6, 8), 2, 5.0, torch.Generator()))) == "as stated"
    model = peft.get_peft_model(
        nn.Sequential(nn.Linear(6, 8)), peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=0.3, target_modules=["0"])
    )
    assert word(started(model)) == "as stated"


@pytest.mark.parametrize("variant", [None, "allora", "allora_od", "asf_lora"])
def test_adapters_in_float32_over_a_base_in_bfloat16(variant):
    """As PEFT makes them unless told otherwise."""
    fields = {"r": 2, "target_modules": ["0"]}
    if variant is None:
        config = peft.LoraConfig(**fields)
    else:
        from allora_analysis.lora.peft import allora_config

        config = allora_config(eta=3.0, variant=variant, **fields)
    model = started(peft.get_peft_model(nn.Sequential(nn.Linear(6, 8)).to(torch.bfloat16), config))
    assert lora_pairs(model)[0].b.dtype == torch.float32
    assert word(model) == "as stated"


@pytest.mark.parametrize("variant", VARIANTS)
def test_called_inside_autocast_it_measures_in_the_layers_own_precision(variant):
    """Planted: in bfloat16, against float32's tolerance, every layer did "another" than it states."""
    layer = started(ALLoRALinear(nn.Linear(64, 48), 4, 3.0, variant))
    with torch.autocast("cpu", torch.bfloat16):
        assert word(layer) == "as stated"
        layer.forward = lambda x: layer.base(x) + 1.1 * x @ layer.a.T @ layer.b.T
        assert word(layer) == "another"
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("variant", ["allora", "allora_0", "allora_od", "asf_lora"])
def test_a_forward_put_in_the_layers_place_is_found_out(variant):
    layer = started(ALLoRALinear(nn.Linear(6, 8), 2, 3.0, variant))
    layer.forward = lambda x: layer.base(x) + x @ layer.a.T @ layer.b.T
    assert word(layer) == "lora's"
    layer.forward = lambda x: layer.base(x) + 1.1 * x @ layer.a.T @ layer.b.T
    assert word(layer) == "another"


@pytest.mark.parametrize(("size", "expected"), [(1.0, "another"), (0.0, "as stated")])
def test_a_wrong_norm_is_found_out(size, expected):
    """d from B's own rows: right at B = 0 alone."""

    class NormsOfB(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(size * torch.randn(8, 2))
            self.variant, self.eta, self.adaptor = "allora", 3.0, "inverse_sqrt"

        def forward(self, x):
            b = self.b
            d = (b.detach().norm(dim=1) + 1 / 9).rsqrt()
            scaled = (d[:, None] * b) + ((1 - d[:, None]) * b).detach()
            return x @ self.a.T @ scaled.T

    torch.manual_seed(0)
    assert word(NormsOfB()) == expected


def test_what_cannot_be_called_alone_is_left_unmeasured():
    model = peft.get_peft_model(
        nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4)), peft.LoraConfig(r=2, target_modules=["0"])
    )
    assert word(model) is None
    merged = started(peft.get_peft_model(nn.Sequential(nn.Linear(6, 8)), peft.LoraConfig(r=2, target_modules=["0"])))
    merged.merge_adapter()
    assert word(merged) is None
    frozen = ALLoRALinear(nn.Linear(6, 8), 2, 3.0)
    frozen.b.requires_grad_(False)
    assert word(frozen) is None


@pytest.mark.parametrize("options", [{}, {"lora_alpha": 4}])
def test_the_gradient_of_doras_b_is_what_the_layer_states(options):
    peft = pytest.importorskip("peft")
    from allora_analysis.lora.peft import allora_config

    for config in (allora_config(2.0, **options), peft.LoraConfig(**options)):
        config.use_dora, config.r, config.target_modules = True, 2, ["0"]
        model = peft.get_peft_model(nn.Sequential(nn.Linear(6, 5)), config)
        layer = model.base_model.model[0]
        nn.init.normal_(layer.lora_B["default"].weight)
        nn.init.normal_(layer.lora_magnitude_vector["default"].weight)
        (pair,) = lora_pairs(model)
        assert backward_word(pair) == "as stated"
        layer.lora_B["default"].weight.register_hook(lambda gradient: 3 * gradient)
        assert backward_word(pair) == "another"


def test_nothing_is_left_behind():
    model = started(ALLoRALinear(nn.Linear(6, 8), 2, 3.0, drop_rate=0.5)).train()
    model.base.eval()
    state, modes = torch.get_rng_state(), [part.training for part in model.modules()]
    with torch.no_grad():
        assert word(model) == "as stated"
    assert torch.equal(state, torch.get_rng_state())
    assert [part.training for part in model.modules()] == modes
    assert model.b.grad is None


def effect_of(kind, size=1.0, **options):
    optimizer = kind([nn.Parameter(torch.ones(6, 4))], **({"lr": 1e-3} | options))
    return optimizer_effect(optimizer, optimizer.param_groups[0], size)


@pytest.mark.parametrize(
    ("kind", "options", "response"),
    [
        (torch.optim.SGD, {}, 1),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 1),
        (torch.optim.ASGD, {}, 1),
        (torch.optim.Adam, {}, 0),
        (torch.optim.AdamW, {"weight_decay": 0.5, "amsgrad": True}, 0),
        (torch.optim.NAdam, {}, 0),
        (torch.optim.RAdam, {}, 0),  # its first five steps are not adaptive
        (torch.optim.Adamax, {}, 0),
        (torch.optim.RMSprop, {}, 0),
        (torch.optim.Adagrad, {}, 0),
        (torch.optim.Adadelta, {}, 0),
        (torch.optim.Rprop, {}, 0),
        (ALLoRAAdamW, {"eta": 1.0, "adaptor": "constant"}, 0),
    ],
)
def test_the_response_is_measured(kind, options, response):
    effect = effect_of(kind, **options)
    assert effect.measured
    assert effect.response == pytest.approx(response, abs=2e-3)
    assert effect.on_update is (kind is ALLoRAAdamW)


@pytest.mark.parametrize("adaptor", ADAPTORS)
def test_the_response_of_a_pairs_group_is_measured(adaptor):
    pair = [nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.ones(5, 2))]
    optimizer = ALLoRAAdamW([{"params": pair}], 1e-3, 3.0, adaptor=adaptor)
    effect = optimizer_effect(optimizer, optimizer.param_groups[0])
    assert effect.measured
    assert effect.response == pytest.approx(0, abs=2e-3)


def test_an_epsilon_far_above_the_gradients_makes_adam_sgd():
    assert effect_of(torch.optim.AdamW, size=1e-12).response == pytest.approx(1, abs=0.01)
    assert effect_of(torch.optim.AdamW, eps=1e3).response == pytest.approx(1, abs=0.01)
    assert 0.1 < effect_of(torch.optim.AdamW, eps=1.0).response < 0.9


def stepping_by(rule):
    """An optimizer whose step is −lr·rule(gradient)."""

    class Stepping(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self):
            for parameter in self.param_groups[0]["params"]:
                parameter -= self.param_groups[0]["lr"] * rule(parameter.grad)

    return Stepping


def test_in_between_there_are_others():
    root = stepping_by(lambda gradient: gradient.sign() * gradient.abs().sqrt())
    assert effect_of(root).response == pytest.approx(0.5, abs=1e-6)


def test_a_step_of_one_length_undoes_the_factor_that_all_rows_share():
    normalized = stepping_by(lambda gradient: gradient / gradient.norm())
    assert effect_of(normalized).response == pytest.approx(0, abs=1e-9)
    if hasattr(torch.optim, "Muon"):  # torch from 2.9 on
        assert effect_of(torch.optim.Muon).response == pytest.approx(0, abs=0.02)


def test_an_optimizer_is_tried_once_for_its_settings(monkeypatch):
    tried, found = [], effect_of(torch.optim.SGD)
    monkeypatch.setattr(trial, "_tried", lambda *given: tried.append(given) or found)
    monkeypatch.setattr(trial, "_TRIED", {})
    for eps in (0.1, 0.2, 0.1):
        effect_of(torch.optim.AdamW, eps=eps)
        effect_of(torch.optim.AdamW, eps=eps, lr=0.5)
    assert len(tried) == 2


def test_momentum_and_warm_up():
    assert effect_of(torch.optim.SGD, momentum=0.9).momentum
    assert effect_of(torch.optim.AdamW).momentum
    assert not effect_of(torch.optim.AdamW, betas=(0.0, 0.9)).momentum
    assert not effect_of(torch.optim.SGD).momentum
    assert effect_of(torch.optim.SGD, lr=0.0).response == pytest.approx(1)


def test_what_cannot_be_tried_is_known_by_name_or_not():
    assert (effect_of(torch.optim.LBFGS).response, effect_of(torch.optim.LBFGS).measured) == (None, False)
    fa = type("LoraFAOptimizer", (torch.optim.LBFGS,), {})  # PEFT's needs the names of A and B
    assert (effect_of(fa).response, effect_of(fa).measured) == (0.0, False)
    assert (effect_of(torch.optim.SparseAdam).response, effect_of(torch.optim.SparseAdam).measured) == (0.0, False)


def test_a_step_that_is_not_finite_gives_no_response():
    assert effect_of(torch.optim.Adam, eps=0.0, size=0.0).response in (None, 0.0)


def test_wrappers_are_opened():
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    inner = torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1)
    assert unwrapped(Wrapper(Wrapper(inner))) is inner


def gradients(seed=0, rows=5):
    generator = torch.Generator().manual_seed(seed)
    a, b, head = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 6), (rows, 2), (3,)))
    return a, b, head, torch.linspace(1, 4, rows, dtype=torch.float64)


@pytest.mark.parametrize(("maximum", "size"), [(0.05, 1), (1.0, 1), (5.0, 1), (1e9, 1), (1e-6, 1e-7), (1e-5, 1e-6)])
def test_clipping_beside_torchs_own(maximum, size):
    """Equal d, so that LoRA's gradient of A is known too: both models' gradients through clip_grad_norm_.

    torch adds 1e-6 to the norm, which tiny gradients show.
    """
    a, b, head = (size * gradient for gradient in gradients()[:3])
    d = torch.full((5,), 3.0, dtype=torch.float64)
    after, norms = [], []
    for factor in (3.0, 1.0):  # ALLoRA's gradients, LoRA's
        parameters = [nn.Parameter(torch.zeros_like(x)) for x in (a, b, head)]
        for parameter, gradient, own in zip(parameters, (a, b, head), (factor, factor, 1.0), strict=True):
            parameter.grad = own * gradient
        norms.append(nn.utils.clip_grad_norm_(parameters, maximum).item())
        after.append(parameters[1].grad.norm().item())
    effect = clipping_effect(maximum, [3 * a, 3 * b, head], [(3 * a, 3 * b, d)])
    assert effect.norm == pytest.approx(norms[0])
    assert effect.gain == pytest.approx(3)
    assert effect.gain_after == pytest.approx(after[0] / after[1], rel=1e-6)
    assert effect.removed == pytest.approx(1 - after[0] / float(3 * b.norm()), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_that_torch_clipped_are_known_as_such_in_their_own_precision(dtype):
    for seed in range(20):
        a, b, head = (10 * gradient.to(dtype) for gradient in gradients(seed)[:3])
        parameters = [nn.Parameter(torch.zeros_like(x)) for x in (a, b, head)]
        for parameter, gradient in zip(parameters, (a, b, head), strict=True):
            parameter.grad = gradient
        assert not clipping_effect(0.3, [a, b, head], []).done
        nn.utils.clip_grad_norm_(parameters, 0.3)
        assert clipping_effect(0.3, [parameter.grad for parameter in parameters], []).done
        assert not clipping_effect(0.31, [parameter.grad for parameter in parameters], []).done


def test_one_zero_in_low_precision_does_not_widen_what_counts_as_clipped():
    norm, zero = torch.full((100,), 0.1012), torch.zeros(1, dtype=torch.bfloat16)
    assert not clipping_effect(1.0, [norm, zero], []).done


def test_clipping_undoes_a_factor_on_everything_and_nothing_below_the_maximum():
    a, b, _, _ = gradients()
    d = torch.full((5,), 4.0, dtype=torch.float64)
    hard = clipping_effect(1e-3, [4 * a, 4 * b], [(4 * a, 4 * b, d)])
    assert hard.gain_after == pytest.approx(1, rel=1e-3)
    assert hard.removed > 0.999
    none = clipping_effect(1e6, [4 * a, 4 * b], [(4 * a, 4 * b, d)])
    assert (none.gain_after, none.removed) == (pytest.approx(4), 0)


def test_the_gain_with_unequal_factors_is_of_b_alone():
    _, b, head, d = gradients()
    effect = clipping_effect(1e9, [d[:, None] * b, head], [(None, d[:, None] * b, d)])
    assert effect.gain == pytest.approx(float((d[:, None] * b).norm() / b.norm()))
    np.testing.assert_allclose(effect.norm, math.hypot((d[:, None] * b).norm(), head.norm()))


def test_without_gradients_or_scaled_layers_there_is_no_gain():
    _, b, head, d = gradients()
    assert clipping_effect(1.0, [], []) is None
    alone = clipping_effect(1.0, [3 * head], [])
    assert (alone.gain, alone.removed) == (None, pytest.approx(1 - 1 / (3 * float(head.norm())), abs=1e-6))
    assert clipping_effect(1.0, [head], [(None, None, d)]).gain is None
    assert clipping_effect(1.0, [head, 0 * b], [(None, 0 * b, d)]).gain_after is None


def test_where_the_device_has_no_float64_it_is_the_cpus(monkeypatch):
    """Planted: `.double()` on Apple's MPS, whose TypeError ended `optimizer.step()`; here every tensor is on such."""
    cpu, double = torch.Tensor.cpu, torch.Tensor.double

    def to_cpu(tensor):
        moved = cpu(tensor).clone()
        moved.is_on_the_cpu = True
        return moved

    def refusing(tensor):
        if not hasattr(tensor, "is_on_the_cpu"):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return double(tensor)

    foreign = foreign_lora.HookedALLoRA(nn.Linear(6, 6), 2, 2.0)
    model = nn.Sequential(ALLoRALinear(nn.Linear(6, 6), 2, 2.0), foreign)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(torch.ones(4, 6)).sum().backward()
    expected = doctor(model, optimizer, 0.1)
    monkeypatch.setattr(torch.Tensor, "double", refusing)
    with pytest.raises(TypeError, match="MPS"):
        doctor(model, optimizer, 0.1)
    monkeypatch.setattr("allora_analysis.lora.autograd._WITHOUT_FLOAT64", ("cpu",))
    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    assert doctor(model, optimizer, 0.1) == expected
    a = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0))
    root = _safe_roots(a)  # `ALLoRAAdamW`'s
    torch.testing.assert_close(root @ root.mT, a @ a.mT)


def test_the_trial_is_at_the_mean_gradient_of_the_pairs_that_this_optimizer_trains_and_says_so():
    small, other = (ALLoRALinear(nn.Linear(6, 6), 2, 2.0) for _ in range(2))
    for layer, size in ((small, 2.0**-30), (other, 1.0)):
        layer.a.grad, layer.b.grad = (torch.full_like(part, size) for part in (layer.a, layer.b))
    optimizer = torch.optim.Adam([small.a, small.b], lr=1e-3, eps=1e-6)
    homes = {id(one): optimizer.param_groups[0] for one in (small.a, small.b)}
    _, found = effects_on(optimizer, homes, [*lora_pairs(other), *lora_pairs(small)])
    assert found.response == pytest.approx(1, abs=0.01)
    assert found.words == "a factor c on rows becomes c^1.00, measured at gradients of 9.3e-10"
