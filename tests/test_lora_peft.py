"""Gradients of the PEFT layers against a twin by hand: plain PEFT LoRA's, rows scaled by d formed through BA."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from allora_analysis.lora.peft import ALLoRALinearLayer, Rule, allora_config, load
from tests.tiny_peft_models import BERT_TARGETS, QWEN_TARGETS, batch, bert, gpt2, logits, qwen, randomise

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning", "ignore:Could not find a config file"
)
ETA = 3.0

MODELS = {"qwen": (qwen, QWEN_TARGETS), "bert": (bert, BERT_TARGETS), "gpt2": (gpt2, ["c_attn", "c_proj"])}
HAND_ADAPTORS = {
    "inverse_sqrt": lambda x: 1 / np.sqrt(np.abs(x) + 1 / ETA**2),
    "inverse": lambda x: 1 / (np.abs(x) + 1 / ETA),
    "exponential": lambda x: ETA * np.exp(-np.abs(x) * ETA**2 / 2),
    "constant": lambda x: np.full_like(x, ETA),
}


def adapted(name, config=None, dtype=torch.float64, **fields):
    """A tiny model with adapters that are not at zero; every model of a name has the same weights."""
    build, targets = MODELS[name]
    if config is None:
        config = allora_config(ETA, **{"r": 3, "target_modules": targets, "task_type": "SEQ_CLS"} | fields)
    model = get_peft_model(build().to(dtype), config)
    for index, module in enumerate(module for module in model.modules() if hasattr(module, "lora_A")):
        generator = torch.Generator().manual_seed(index)
        for factor in (module.lora_A["default"], module.lora_B["default"]):
            values = torch.randn(factor.weight.shape, generator=generator, dtype=torch.float64)
            factor.weight.data = (0.3 * values).to(dtype)
    return model


def plain(name, **fields):
    """The same model with PEFT's own LoRA at scaling 1."""
    fields = {"r": 3, "lora_alpha": 3, "target_modules": MODELS[name][1], "task_type": "SEQ_CLS"} | fields
    return adapted(name, LoraConfig(fan_in_fan_out=name == "gpt2", **fields))


def layers(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def backward(model):
    loss = model(**batch()).loss
    loss.backward()
    return loss.item()


def records_of_lora(name):
    """Per layer of plain LoRA: its input x, the gradient g of its output, A, B and LoRA's gradients; by hooks."""
    model = plain(name).eval()
    found = {}

    def hook(key):
        def forward(module, inputs, output):
            found[key] = SimpleNamespace(x=inputs[0].detach().reshape(-1, inputs[0].shape[-1]).numpy())
            output.register_hook(lambda grad: setattr(found[key], "g", grad.reshape(-1, grad.shape[-1]).numpy()))

        return forward

    for key, layer in layers(model).items():
        layer.register_forward_hook(hook(key))
    loss = backward(model)
    for key, layer in layers(model).items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        found[key].a, found[key].b = a.detach().numpy(), b.detach().numpy()
        found[key].grad_a, found[key].grad_b = a.grad.numpy(), b.grad.numpy()
    return loss, found


def relative(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def gradients(layer):
    return layer.lora_A["default"].weight.grad.numpy(), layer.lora_B["default"].weight.grad.numpy()


@pytest.mark.parametrize("adaptor", HAND_ADAPTORS)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_loras_with_scaled_rows(name, adaptor):
    model = adapted(name, adaptor=adaptor).eval()
    loss = backward(model)
    twin_loss, twin = records_of_lora(name)
    assert loss == pytest.approx(twin_loss, rel=1e-13)
    assert len(twin) == len(layers(model)) >= 6
    for key, layer in layers(model).items():
        one = twin[key]
        d = HAND_ADAPTORS[adaptor](np.linalg.norm(one.b @ one.a, axis=1))[:, None]
        grad_a, grad_b = gradients(layer)
        g = one.g.T @ one.x  # ∂L/∂(BA)
        np.testing.assert_allclose(one.b.T @ g, one.grad_a, rtol=1e-9, atol=1e-12)  # the twin knows LoRA's gradient
        assert relative(grad_b, d * one.grad_b) < 1e-12
        assert relative(grad_a, one.b.T @ (d * g)) < 1e-12
        # Planted: norms of B's rows in the place of BA's.
        wrong = HAND_ADAPTORS["inverse_sqrt"](np.linalg.norm(one.b, axis=1))[:, None]
        assert adaptor == "constant" or relative(grad_b, wrong * one.grad_b) > 1e-3


SCALINGS = {
    "alpha": ({"lora_alpha": 6}, lambda name, r: 2.0),
    "rslora": ({"use_rslora": True, "lora_alpha": 3}, lambda name, r: 3 / 3**0.5),
    "patterns": (
        {"lora_alpha": 3, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 12}},
        lambda name, r: 1.5 if "q_proj" in name else 4.0 if "o_proj" in name else 1.0,
    ),
}


@pytest.mark.parametrize(
    ("fields", "scaling_of"),
    [
        ({}, lambda r: 1.0),
        ({"use_rslora": True}, lambda r: 2.0),
        ({"rank_pattern": {"q_proj": 2, "o_proj": 1}}, lambda r: 4 / r),
        ({"rank_pattern": {"q_proj": 2, "o_proj": 1}, "use_rslora": True}, lambda r: 4 / r**0.5),
    ],
    ids=["plain", "rslora", "ranks", "both"],
)
def test_without_an_alpha_it_is_r_in_every_layer(fields, scaling_of):
    model = adapted("qwen", r=4, **fields)
    found = {layer.r["default"]: layer.scaling["default"] for layer in layers(model).values()}
    assert found == {r: pytest.approx(scaling_of(r)) for r in found}
    assert len(found) == 1 + len(fields.get("rank_pattern", {}))


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["fused", "unfused"])
@pytest.mark.parametrize("case", SCALINGS)
def test_gradients_at_another_scaling_are_loras_with_rows_scaled_at_that_scaling(case, dropout):
    """d from ‖s(BA)_i‖. Planted: from ‖(BA)_i‖."""
    fields, scaling_of = SCALINGS[case]
    model, twin = adapted("qwen", **fields, lora_dropout=dropout), plain("qwen", **fields, lora_dropout=dropout)
    losses = []
    for one in (model.train(), twin.train()):
        torch.manual_seed(5)
        losses.append(backward(one))
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)
    for (name, layer), other in zip(layers(model).items(), layers(twin).values(), strict=True):
        a, b = (part["default"].weight.detach().numpy() for part in (other.lora_A, other.lora_B))
        s = scaling_of(name, a.shape[0])
        assert layer.scaling["default"] == other.scaling["default"] == pytest.approx(s)
        d, wrong = (HAND_ADAPTORS["inverse_sqrt"](k * np.linalg.norm(b @ a, axis=1))[:, None] for k in (s, 1.0))
        assert relative(gradients(layer)[1], d * gradients(other)[1]) < 1e-12
        assert s == 1 or relative(gradients(layer)[1], wrong * gradients(other)[1]) > 1e-3


@pytest.mark.parametrize("fields", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_an_initialisation_reads_gpt2s_conv1d_transposed(fields):
    before = logits(gpt2())
    model = get_peft_model(gpt2(), allora_config(ETA, r=3, target_modules=["c_attn"], task_type="SEQ_CLS", **fields))
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)
    randomise(model)
    moved = logits(model)
    assert not torch.allclose(moved, before, atol=1e-3)
    torch.testing.assert_close(logits(model.merge_and_unload()), moved, rtol=1e-4, atol=1e-5)


def test_a_rank_above_a_layers_sizes():
    """As in PEFT: a layer of few outputs, a gate or a head, takes the rank of the others."""
    torch.manual_seed(0)
    base, x = nn.Sequential(nn.Linear(5, 2, dtype=torch.float64)), torch.randn(7, 5, dtype=torch.float64)
    fields = {"r": 8, "target_modules": ["0"], "init_lora_weights": False}
    ours = get_peft_model(copy.deepcopy(base), allora_config(ETA, **fields))
    loras = get_peft_model(copy.deepcopy(base), LoraConfig(lora_alpha=8, **fields))
    loras.load_state_dict(ours.state_dict())
    for model in (ours, loras):
        model(x).square().sum().backward()
    (layer,), (twin,) = layers(ours).values(), layers(loras).values()
    a, b = (factor["default"].weight.detach().numpy() for factor in (twin.lora_A, twin.lora_B))
    d = HAND_ADAPTORS["inverse_sqrt"](np.linalg.norm(b @ a, axis=1))[:, None]
    assert relative(gradients(layer)[1], d * gradients(twin)[1]) < 1e-12


def test_gpt2s_conv1d_is_a_linear_layer_whose_weight_is_transposed(tmp_path):
    model = adapted("gpt2", lora_alpha=6).eval()
    assert {type(layer.base_layer) for layer in layers(model).values()} == {Conv1D}
    expected = logits(model)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(load(gpt2().double(), tmp_path)), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("variant", ["allora", "allora_od"])
def test_scaling_is_a_rate_and_a_start(variant, momentum):
    """At scaling s, rate l, from (A, B): s·BA moves as BA does at scaling 1, rate s·l, from (√s A, √s B).

    With A' = √s A and B' = √s B, s·BA = B'A', and ∂L/∂B = s·D_dG Aᵀ = √s·D_dG A'ᵀ, so that √s·l·∂L/∂B = (s·l)·D_dG A'ᵀ;
    A likewise.
    """
    s, rate, ends = 4.0, 0.02, []
    for scaling in (s, 1.0):
        config = allora_config(ETA, variant, r=2, lora_alpha=2 * scaling, target_modules=["0"])
        torch.manual_seed(0)
        model = get_peft_model(nn.Sequential(nn.Linear(5, 4)).double(), config)
        layer = model.base_model.model[0]
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for part in (a, b):
                part.copy_((s / scaling) ** 0.5 * torch.randn(part.shape, generator=generator, dtype=part.dtype))
        optimizer = torch.optim.SGD([a, b], rate * s / scaling, momentum=momentum)
        for _ in range(10):
            x, y = (torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (5, 4))
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        ends.append((scaling * b @ a).detach())
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.merge_and_unload()[0].weight - model_base(), ends[1], rtol=1e-10, atol=1e-10)


def model_base():
    torch.manual_seed(0)
    return nn.Linear(5, 4).double().weight


def test_gradients_of_allora_od_are_scaled_by_token():
    model = adapted("qwen", variant="allora_od").eval()
    backward(model)
    for key, one in records_of_lora("qwen")[1].items():
        scaled = one.g * HAND_ADAPTORS["inverse_sqrt"](one.x @ one.a.T @ one.b.T)
        grad_a, grad_b = gradients(layers(model)[key])
        assert relative(grad_b, scaled.T @ (one.x @ one.a.T)) < 1e-12
        assert relative(grad_a, (scaled @ one.b).T @ one.x) < 1e-12


def test_asf_lora_is_its_own_forward_pass():
    torch.manual_seed(0)
    base = nn.Linear(5, 4).double()
    model = get_peft_model(
        nn.Sequential(copy.deepcopy(base)), asf := allora_config(ETA, "asf_lora", r=2, target_modules=["0"])
    )
    assert asf.lora_alpha == 2
    randomise(model)
    layer, x = model.base_model.model[0], torch.randn(6, 5, dtype=torch.float64)
    a, b = (part["default"].weight.detach().clone().requires_grad_() for part in (layer.lora_A, layer.lora_B))
    f = x @ a.T @ b.T
    wanted = base(x) + f / torch.sqrt(f.abs() + 1 / ETA**2)
    torch.testing.assert_close(model(x), wanted, rtol=1e-13, atol=1e-13)
    model(x).pow(2).sum().backward()
    wanted.pow(2).sum().backward()
    torch.testing.assert_close(layer.lora_A["default"].weight.grad, a.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.lora_B["default"].weight.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_lora_x_eta_is_plain_lora_at_scaling_eta():
    model, twin = adapted("qwen", variant="lora_x_eta").eval(), plain("qwen", lora_alpha=ETA * 3).eval()
    assert all(layer.scaling["default"] == ETA and not layer.lora_variant for layer in layers(model).values())
    assert backward(model) == backward(twin)
    for one, other in zip(layers(model).values(), layers(twin).values(), strict=True):
        for found, wanted in zip(gradients(one), gradients(other), strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora"])
def test_the_gradient_that_flows_on_to_the_input(variant):
    """∂/∂x is LoRA's, unscaled; ASF-LoRA's is its own."""
    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(5, 4)).double(), allora_config(ETA, variant, r=2, target_modules=["0"])
    )
    randomise(model)
    layer = model.base_model.model[0]
    w, a, b = (
        p.detach() for p in (layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    )
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    model(x).sum().backward()
    jacobian = w + b @ a
    if variant == "asf_lora":
        f = (x @ a.T @ b.T).detach()
        slope = (f.abs() / 2 + 1 / ETA**2) / (f.abs() + 1 / ETA**2) ** 1.5
        torch.testing.assert_close(x.grad, torch.ones_like(f) @ w + slope @ (b @ a), rtol=1e-12, atol=1e-12)
    else:
        torch.testing.assert_close(x.grad, torch.ones(3, 4, dtype=torch.float64) @ jacobian, rtol=1e-12, atol=1e-12)


class Around(nn.Module):
    """What FSDP1 puts around a module: whoever calls it has it whole meanwhile."""

    def __init__(self, part):
        super().__init__()
        self._fsdp_wrapped_module = part

    weight = property(lambda self: self._fsdp_wrapped_module.weight)
    bias = property(lambda self: self._fsdp_wrapped_module.bias)

    def forward(self, x):
        return self._fsdp_wrapped_module(x)


@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora"])
def test_a_and_b_wrapped_on_their_own_give_the_same_output_and_gradients(variant):
    found, x = [], torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for wrapped in (False, True):
        torch.manual_seed(0)
        config = allora_config(ETA, variant=variant, r=2, target_modules=["0"])
        model = get_peft_model(nn.Sequential(nn.Linear(6, 4).double()), config)
        randomise(model)
        layer = model.base_model.model[0]
        a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
        for parts in (layer.lora_A, layer.lora_B) if wrapped else ():
            parts["default"] = Around(parts["default"])
        inputs = x.clone().requires_grad_()
        (model(inputs) ** 3).sum().backward()
        with torch.no_grad():
            found.append([model(x), inputs.grad, a.grad, b.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_masks_as_input_as_peft_places_it(dora):
    """The same masks from the same seed: the same output as LoRA's, and B's gradient row-scaled."""
    model, twin = (make("qwen", lora_dropout=0.4, use_dora=dora).train() for make in (adapted, plain))
    losses = []
    for one in (model, twin):
        torch.manual_seed(5)
        losses.append(backward(one))
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)
    assert losses[0] != pytest.approx(records_of_lora("qwen")[0], rel=1e-6)
    for one, other in zip(layers(model).values(), layers(twin).values(), strict=True):
        a, b = other.lora_A["default"].weight.detach().numpy(), other.lora_B["default"].weight.detach().numpy()
        d = HAND_ADAPTORS["inverse_sqrt"](np.linalg.norm(b @ a, axis=1))[:, None]
        assert relative(gradients(one)[1], d * gradients(other)[1]) < 1e-12


def calls_of_base(model, inputs):
    """How many base layers were called, i.e. took PEFT's order; a hook would itself send them there."""
    called = []
    kept = nn.Linear.forward
    bases = {id(layer.base_layer) for layer in layers(model).values()}

    def forward(self, x):
        called.append(id(self)) if id(self) in bases else None
        return kept(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", forward)
        output = model(**inputs).logits
    return len(called), output


@pytest.mark.parametrize("variant", ["allora", "allora_0", "allora_od"])
def test_base_and_adapter_are_one_function_only_where_that_is_the_same(variant):
    model = adapted("qwen", variant=variant, task_type=None).train()
    count, inputs = len(layers(model)), {"input_ids": batch()["input_ids"]}
    calls, fused = calls_of_base(model, inputs)
    assert calls == 0

    def peft_order(same=True):
        calls, output = calls_of_base(model, inputs)
        assert not same or torch.allclose(output, fused, rtol=1e-12, atol=1e-12)
        return calls

    first = next(iter(layers(model).values()))
    handle = first.base_layer.register_forward_hook(lambda *_: None)
    assert peft_order() == 1
    handle.remove()
    first.base_layer.weight.requires_grad_(True)
    assert peft_order() == 1
    first.base_layer.weight.requires_grad_(False)
    first.lora_dropout["default"] = nn.Dropout(0.0)
    assert peft_order() == 1
    first.lora_dropout["default"].eval()
    assert peft_order() == 0
    first.scaling["default"] = 0.5
    assert peft_order(same=False) == 0
    first.scaling["default"] = 1.0
    model.add_adapter("other", allora_config(ETA, r=2, target_modules=MODELS["qwen"][1]))
    model.base_model.set_adapter(["default", "other"])
    assert peft_order() == count
    model.set_adapter("default")
    model.merge_adapter()
    assert peft_order() == count
    model.unmerge_adapter()
    with model.disable_adapter():
        assert peft_order(same=False) == count
    assert peft_order() == 0


def test_asf_lora_and_lora_x_eta_take_pefts_order():
    for variant in ("asf_lora", "lora_x_eta"):
        model = adapted("qwen", variant=variant)
        assert calls_of_base(model, {"input_ids": batch()["input_ids"]})[0] == len(layers(model))


def test_a_layer_says_what_it_is():
    model = adapted("qwen", variant="allora_od", adaptor="inverse")
    for layer in layers(model).values():
        assert isinstance(layer, ALLoRALinearLayer)
        assert layer.lora_variant["default"] == Rule("allora_od", ETA, "inverse")
        assert layer.double_backward_is_hessian is False
    assert "default: allora_od, eta=3, inverse" in repr(model)
    for variant in ("asf_lora", "lora_x_eta"):
        assert all(layer.double_backward_is_hessian for layer in layers(adapted("bert", variant=variant)).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype):
    """PEFT keeps the adapters of a half-precision model in float32; both are near the float64 model's."""
    exact = logits(adapted("qwen"))
    for autocast_adapter_dtype in (True, False):
        build, targets = MODELS["qwen"]
        config = allora_config(ETA, r=3, target_modules=targets, task_type="SEQ_CLS")
        model = get_peft_model(build().to(dtype), config, autocast_adapter_dtype=autocast_adapter_dtype)
        wanted = torch.float32 if autocast_adapter_dtype else dtype
        for one, other in zip(layers(model).values(), layers(adapted("qwen")).values(), strict=True):
            for factor in ("lora_A", "lora_B"):
                weight = getattr(one, factor)["default"].weight
                assert weight.dtype == wanted
                weight.data = getattr(other, factor)["default"].weight.data.to(wanted)
        found = logits(model)
        assert found.dtype == dtype
        assert (found.double() - exact).abs().max() < 0.1 * exact.abs().max()
        model.train()
        backward(model)
        assert all(torch.isfinite(g).all() for layer in layers(model).values() for g in grads_of(layer))


def grads_of(layer):
    return layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad


def test_autocast_gives_pefts_dtypes():
    model, twin = adapted("qwen", dtype=torch.float32), plain("qwen").float()
    with torch.autocast("cpu", torch.bfloat16):
        calls, found = calls_of_base(model.eval(), {"input_ids": batch()["input_ids"]})
        wanted = twin.eval()(input_ids=batch()["input_ids"]).logits
    assert calls == 0
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1 * float(wanted.detach().abs().max()))
