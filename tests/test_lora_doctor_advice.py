"""Each piece of advice in the case that calls for it, and only there."""

import re

import pytest
import torch
from torch import nn

from allora_analysis.hessian import add_adapters
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs
from tests.test_lora_doctor import ETA, backward, in_peft
from tests.test_lora_pairs import NOT_PRODUCTS

peft = pytest.importorskip("peft")


def toy(variant="allora", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    if variant is None:
        return add_adapters(model, 2, 1.0, torch.Generator().manual_seed(0))
    return nn.Sequential(ALLoRALinear(model[0], 2, ETA, variant, **options), nn.Tanh(), model[2])


def lines(model, *arguments):
    return {line.code: line for line in doctor(model, *arguments).advice}


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), 0.1, **options)


def as_adamw(params):
    """With the constant factor 1, by which it takes groups that are no pair."""
    return ALLoRAAdamW(params, 0.1, 1.0, adaptor="constant")


CASES = {
    # code: (level, words, model, optimizer, max_grad_norm)
    "undone": (
        "problem", r"SGD without clipping \(max_grad_norm=0\) at a rate of its own, .* or plain LoRA layers", toy,
        lambda m: torch.optim.AdamW(m.parameters()), None,
    ),
    "partly undone": (
        "problem", "undoes a part", toy, lambda m: torch.optim.AdamW(m.parameters(), eps=0.1), None,
    ),
    "on the gradient": ("ok", "as it is", toy, sgd, None),
    "momentum": ("note", "lags behind", toy, lambda m: sgd(m, momentum=0.9), None),
    "max_grad_norm": ("note", "Trainer clips", toy, sgd, None),
    "clipping": ("problem", "4 times LoRA's.*max_grad_norm=0", toy, sgd, 1e-3),
    "off": ("problem", "allora_config", lambda: toy(None), lambda m: torch.optim.AdamW(m.parameters()), None),
    "on the update": ("ok", "on the update", lambda: toy(None), lambda m: ALLoRAAdamW(param_groups(m), 0.1, ETA), 1e-3),
    "no pair": ("problem", r"param_groups\(model\)", lambda: toy(None), lambda m: as_adamw(m.parameters()), None),
    "twice": ("problem", "scale their gradients already", toy,
              lambda m: ALLoRAAdamW([{"params": [m[0].a, m[0].b]}], 0.1, ETA), None),
    "pair scaling": ("problem", "another LoRA scaling", lambda: toy(None),
                     lambda m: ALLoRAAdamW([{"params": [m[0].a, m[0].b], "scaling": 2.0}], 0.1, ETA), None),
    "not in the optimizer": ("problem", "will not move", toy, lambda m: torch.optim.SGD(m[2].parameters(), 0.1), None),
    "in the forward": ("ok", "no optimizer undoes it", lambda: toy("asf_lora"),
                       lambda m: torch.optim.AdamW(m.parameters()), None),
    "optimizer not known": (
        "problem", "LBFGS could not be tried alone", toy, lambda m: torch.optim.LBFGS(m.parameters()), None,
    ),
    "unknown": ("note", r"doctor\(model, optimizer\)", toy, lambda m: None, None),
    "dropout": ("note", "lora_dropout=0", lambda: toy(drop_rate=0.1), sgd, None),
}  # fmt: skip


@pytest.mark.parametrize("code", CASES)
def test_each_case(code):
    level, words, make, optimizer_of, maximum = CASES[code]
    model = make()
    optimizer = optimizer_of(model)
    advice = lines(backward(model), optimizer, maximum)
    assert advice[code].level == level
    assert re.search(words, advice[code].text), advice[code].text
    assert "\n" not in advice[code].text
    assert "no gradients" not in advice


def test_only_where_it_is_called_for():
    """All is well: SGD without momentum, dropout or clipping at work."""
    model, at_start = toy(), {"factor", "start", "factor at this width"}
    assert set(lines(backward(model), sgd(model), 1e6)) == {"on the gradient", "rates", "stable step"} | at_start
    plain = toy(None)
    optimizer = ALLoRAAdamW(param_groups(plain), 0.1, ETA)
    assert set(lines(backward(plain), optimizer, 1e-3)) == {"on the update"} | at_start


@pytest.mark.parametrize("maximum", [0, 1.0])
def test_who_says_how_gradients_are_clipped_is_not_asked_to(maximum):
    """Planted: "pass max_grad_norm to see" to whoever passed 0, or asked before the first backward pass."""
    model = toy()
    assert "max_grad_norm" in lines(model, sgd(model))
    assert "max_grad_norm" not in lines(model, sgd(model), maximum)
    assert "max_grad_norm" not in lines(backward(model), sgd(model), maximum)


@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_a_constant_factor_is_loras_rate_and_of_one_plain_lora(eta):
    """Planted: "ALLoRA is on" at η = 1, where it is LoRA to the last bit."""
    layers, lora = toy(), toy(None)
    layers[0] = ALLoRALinear(layers[0].base, 2, eta, adaptor="constant")
    for model, optimizer in (
        (layers, sgd(layers)),
        (lora, ALLoRAAdamW(param_groups(lora), 0.1, eta, adaptor="constant")),
    ):
        found = doctor(backward(model), optimizer, 0)
        told = {line.code: line.text for line in found.advice}
        assert found.verdict == ("plain" if eta == 1 else "on")
        assert ("constant factor" in told, "factor 1" in told) == (eta != 1, eta == 1)
        assert not [line for line in found.advice if line.level == "problem"]
        assert not {"factor", "factor at this width"} & set(told)
        assert str(found).startswith("Plain LoRA." if eta == 1 else "ALLoRA is on.")
    found = doctor(layers, torch.optim.AdamW(layers.parameters()), 0)
    assert found.verdict == ("plain" if eta == 1 else "off")


def test_the_worst_comes_first():
    model = toy(drop_rate=0.1)
    levels = [line.level for line in doctor(model, torch.optim.AdamW(model.parameters()), 1.0).advice]
    assert levels == sorted(levels, key=["problem", "note", "ok"].index)
    assert set(levels) == {"problem", "note"}


def test_clipping_that_leaves_the_ratio_is_a_note():
    """d near 1 everywhere: there is nothing to undo."""
    torch.manual_seed(0)
    model = nn.Sequential(ALLoRALinear(nn.Linear(6, 8), 2, 4.0, adaptor="constant"), nn.Linear(8, 3))
    model[1].requires_grad_(False)
    advice = lines(backward(model), sgd(model), 1e-3)
    assert advice["clipping"].level == "problem"
    with torch.no_grad():
        model[0].b.normal_()
        model[1].weight *= 1e-3
        model[1].bias *= 1e-3
    model[1].requires_grad_(True)
    x = torch.randn(4, 6)
    model.zero_grad()
    (1e3 * model[0](x).detach() @ model[1].weight.T + model(x)).sum().backward()
    # the head's gradient outweighs the adapter's: both models are clipped alike
    advice = lines(model, sgd(model), 1.0)
    assert advice["clipping"].level == "note"
    assert "max_grad_norm=0" not in advice["clipping"].text


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_verdict_says_that_clipping_undoes_it(momentum):
    model = toy()
    for part in (model[2].weight, model[2].bias):
        part.requires_grad_(False)
    whole = doctor(backward(model), sgd(model, momentum=momentum), 1e-3)
    assert whole.verdict == "clipped"
    assert [row.effect for row in whole.layers] == ["clipped"]
    assert (whole.clipping.gain, whole.clipping.gain_after) == pytest.approx((ETA, 1.0), rel=1e-4)
    assert str(whole).startswith("ALLoRA is on, and clipping undoes it")
    assert "ok" not in {line.level for line in whole.advice}
    assert "as it is" not in str(whole)
    assert ("momentum" in {line.code for line in whole.advice}) == bool(momentum)
    half = doctor(model, sgd(model), whole.clipping.norm / 2)
    assert 1 < half.clipping.gain_after < ETA
    assert half.verdict == "clipped"
    for maximum in (None, 0.0, 1.01 * whole.clipping.norm):
        assert doctor(model, sgd(model), maximum).verdict == "on"
    assert doctor(model, torch.optim.AdamW(model.parameters()), 1e-3).verdict == "off"
    assert doctor(model, None, 1e-3).verdict == "unknown"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_that_are_clipped_already_are_told(dtype):
    model = backward(toy().to(dtype))
    maximum = doctor(model, sgd(model), 1.0).clipping.norm / 5
    assert doctor(model, sgd(model), maximum).verdict == "clipped"
    nn.utils.clip_grad_norm_(model.parameters(), maximum)
    found = doctor(model, sgd(model), maximum)
    assert (found.verdict, [row.effect for row in found.layers]) == ("unknown", ["clipped before"])
    assert str(found).startswith("Whether ALLoRA is on is not known.")
    assert found.advice[0].text.endswith("call doctor before clip_grad_norm_")
    assert "clipping" not in {line.code for line in found.advice}
    assert doctor(model, sgd(model), 1.01 * maximum).verdict == "on"
    assert doctor(model, torch.optim.AdamW(model.parameters()), maximum).verdict == "off"


def test_clipping_of_a_factor_that_is_no_rows_is_noted():
    model = toy("allora_od")
    diagnosis = doctor(backward(model), sgd(model), 1e-3)
    assert (diagnosis.verdict, diagnosis.clipping.gain) == ("on", None)
    (note,) = [line for line in diagnosis.advice if line.code == "clipping"]
    assert note.level == "note"
    assert re.search(r"takes 100% of .* how much of the factor in '0' .* cannot be told; max_grad_norm=0", note.text)
    assert "clipping" not in lines(model, sgd(model), 1e6)
    assert "clipping" not in lines(backward(toy("asf_lora")), sgd(model), 1e-3)


def test_clipping_to_nothing_and_of_infinite_gradients():
    model = backward(toy())
    with torch.no_grad():
        model[0].b.grad[0, 0] = float("inf")
    for maximum in (1e-300, 1.0):
        assert str(doctor(model, sgd(model), maximum))


def test_no_gradients_yet():
    model = toy()
    text = lines(model, sgd(model))["no gradients"].text
    assert "after loss.backward() and before the step" in text
    assert "with a GradScaler, after scaler.unscale_(optimizer)" in text
    assert doctor(model, sgd(model), 1.0).clipping is None


@pytest.mark.parametrize("frozen", ["a", "b"])
def test_a_gradient_of_one_of_the_two_is_a_gradient(frozen):
    """Planted: with B frozen it said that there was none, beside a line on clipping."""
    model = toy()
    with torch.no_grad():
        model[0].b.normal_()
    getattr(model[0], frozen).requires_grad_(False)
    advice = lines(backward(model), sgd(model), 1e-3)
    assert "clipping" in advice
    assert "no gradients" not in advice


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["a", "b"])
def test_a_gradient_that_is_not_finite_is_a_problem(part, value):
    model = backward(toy())
    assert "gradient not finite" not in lines(model, sgd(model), 1.0)
    getattr(model[0], part).grad[0, 0] = value
    advice = lines(model, sgd(model), 1.0)["gradient not finite"]
    assert advice.level == "problem"
    assert "the gradient of '0' is not finite" in advice.text
    assert "GradScaler" in advice.text


def test_a_sparse_gradient_that_is_not_finite_is_a_problem():
    model = peft.get_peft_model(
        nn.Sequential(nn.Embedding(9, 4, sparse=True)), peft.LoraConfig(r=2, target_modules=["0"])
    )
    (pair,) = lora_pairs(model)
    for value, expected in ((1.0, False), (float("nan"), True)):
        pair.a.grad = torch.sparse_coo_tensor([[0], [1]], [value], tuple(pair.a.shape), check_invariants=True)
        assert ("gradient not finite" in lines(model)) == expected


def test_a_registration_that_was_lost():
    """ALLoRA's config on layers that train LoRA, as after loading with plain PEFT into the same config."""
    model = in_peft("allora")
    for pair in lora_pairs(model):
        pair.module.lora_variant.pop("default")
    advice = lines(backward(model), torch.optim.SGD(model.parameters(), 0.1))
    assert {advice[code].level for code in ("registration lost", "off")} == {"problem"}
    assert "allora_config" in advice["registration lost"].text
    assert doctor(model, torch.optim.SGD(model.parameters(), 0.1)).verdict == "off"
    assert "registration lost" not in lines(in_peft("lora_x_eta"))
    assert "registration lost" not in lines(in_peft())


def test_a_scaling_other_than_one():
    model = in_peft("allora")
    pair = lora_pairs(model)[0]
    pair.module.scaling["default"] = 2.0
    with torch.no_grad():
        pair.b.normal_()
    advice = lines(model)["scaling"]
    assert advice.level == "note"
    assert "first" in advice.text
    assert "rate s·l, from √s times A and B" in advice.text
    row = doctor(model, torch.optim.SGD(model.parameters(), 0.1)).layers[0]
    assert (row.backward, row.effect) == ("as stated", "on the gradient")
    norms = 2.0 * (pair.b @ pair.a).detach().norm(dim=1)
    assert row.factors[0] == pytest.approx(float((norms.max() + pair.eta**-2) ** -0.5), rel=1e-5)
    assert "scaling" not in lines(in_peft("allora"))
    assert "scaling" not in lines(in_peft(lora_alpha=7))


def test_a_backward_pass_that_is_not_the_stated_one():
    model = toy()
    with torch.no_grad():
        model[0].b.normal_()
    model[0].forward = lambda x: model[0].base(x) + x @ model[0].a.T @ model[0].b.T
    diagnosis = doctor(backward(model), sgd(model))
    assert (diagnosis.verdict, diagnosis.layers[0].effect) == ("off", "backward is LoRA's")
    assert diagnosis.advice[0].code == "backward is LoRA's"
    model[0].forward = lambda x: model[0].base(x) + 3 * x @ model[0].a.T @ model[0].b.T
    assert "neither LoRA's nor" in lines(model)["backward"].text


def test_merged_disabled_frozen_and_inactive_adapters():
    model = in_peft("allora")
    model.merge_adapter()
    advice = lines(model, sgd(model))
    assert "unmerge_adapter" in advice["merged"].text
    assert "nothing trained" not in advice  # whose way out, first in the callback's one line, helped nobody here
    model.unmerge_adapter()
    with model.disable_adapter():
        assert "enable_adapter_layers" in lines(model)["disabled"].text
    assert {"merged", "disabled", "nothing trained"}.isdisjoint(lines(model))
    for pair in lora_pairs(model):
        pair.a.requires_grad_(False), pair.b.requires_grad_(False)
    frozen = doctor(model, sgd(model))
    assert {row.effect for row in frozen.layers} == {"frozen"}
    assert (frozen.advice[0].code, frozen.verdict) == ("nothing trained", "off")


def test_of_two_adapters_one_is_inactive():
    from allora_analysis.lora.peft import allora_config

    model = in_peft("allora")
    model.add_adapter("other", allora_config(eta=2.0, r=2, target_modules=["second"]))
    model.set_adapter("other")
    effects = {(row.name[-6:], row.adapter): row.effect for row in doctor(model, sgd(model)).layers}
    assert effects == {
        (".first", "default"): "inactive",
        ("second", "default"): "inactive",
        ("second", "other"): "on the gradient",
    }


def test_partly_on():
    """One layer scales its gradients, the other is plain."""
    model = nn.Sequential(toy(), toy(None)[2])
    diagnosis = doctor(model, sgd(model))
    assert [row.effect for row in diagnosis.layers] == ["on the gradient", "off"]
    assert diagnosis.verdict == "partly"
    assert str(diagnosis).startswith("ALLoRA is on in part.")


def test_an_optimizer_that_nobody_knows():
    model = toy()
    diagnosis = doctor(model, torch.optim.LBFGS(model.parameters()))
    assert (diagnosis.verdict, diagnosis.optimizer.response) == ("unknown", None)
    assert "LBFGS" in str(diagnosis)


def test_a_quantised_base():
    class Linear4bit(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(6, 8))
    model = add_adapters(model, 2, 1.0, torch.Generator())
    model[0].base = Linear4bit(6, 8)
    diagnosis = doctor(model)
    assert diagnosis.layers[0].quantised
    assert "quantised" in {line.code for line in diagnosis.advice}
    model[0].base = nn.Linear(6, 8)
    model[0].base.weight = nn.Parameter(torch.ones(8, 6, dtype=torch.int8), requires_grad=False)
    assert doctor(model).layers[0].quantised


def test_another_variant_of_pefts_is_no_allora():
    model = in_peft(use_dora=True)
    diagnosis = doctor(backward(model), torch.optim.AdamW(model.parameters()))
    assert {(row.variant, row.effect, row.factors) for row in diagnosis.layers} == {("DoraLinearVariant", "off", None)}
    optimizer = ALLoRAAdamW(param_groups(model), 0.1, ETA)
    assert {row.effect for row in doctor(model, optimizer).layers} == {"on the update"}


@pytest.mark.parametrize("kind", NOT_PRODUCTS)
@pytest.mark.parametrize("make", [torch.optim.AdamW, as_adamw, None])
def test_a_delta_that_is_not_the_product_is_a_problem(kind, make):
    model = NOT_PRODUCTS[kind]()
    (pair,) = lora_pairs(model)
    diagnosis = doctor(model, make and make([pair.a, pair.b]))
    (row,) = diagnosis.layers
    assert (diagnosis.verdict, row.effect, row.variant) == ("off", "not BA", kind)
    assert (row.norms, row.factors, row.backward) == (None, None, None)
    assert (diagnosis.advice[0].level, diagnosis.advice[0].code) == ("problem", "not BA")
    assert f"PEFT's {kind}" in diagnosis.advice[0].text
    assert {"unmeasured", "off", "on the update"}.isdisjoint(line.code for line in diagnosis.advice)


def square():
    return add_adapters(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 2, 1.0, torch.Generator().manual_seed(0))


def test_a_of_one_layer_with_b_of_another_is_no_pair():
    model = square()
    crossed = [{"params": [model[i].a, model[1 - i].b], "pair": True, "scaling": 9.0} for i in (0, 1)]
    diagnosis = doctor(model, ALLoRAAdamW(crossed, 1e-3, ETA))
    assert diagnosis.verdict == "off"
    assert {(row.effect, row.factors) for row in diagnosis.layers} == {("no pair", None)}
    assert {line.code for line in diagnosis.advice if line.level == "problem"} == {"no pair"}
    assert "another layer's" in diagnosis.advice[0].text
    straight = ALLoRAAdamW([{"params": [layer.a, layer.b]} for layer in model], 1e-3, ETA)
    assert doctor(model, straight).verdict == "on"


def test_a_matrix_that_no_group_holds():
    model = toy()
    for left_out, held in (("a", "b"), ("b", "a")):
        optimizer = torch.optim.SGD([getattr(model[0], held)], 0.1)
        diagnosis = doctor(model, optimizer)
        assert (diagnosis.verdict, diagnosis.layers[0].effect) == ("partly", "half in the optimizer")
        assert "only one of A and B of '0'" in diagnosis.advice[0].text
        getattr(model[0], left_out).requires_grad_(False)  # on purpose, as in LoRA-FA
        assert doctor(model, optimizer).verdict == "on"
        getattr(model[0], left_out).requires_grad_(True)
    model = square()
    alone = as_adamw([{"params": [layer.b]} for layer in model])
    assert {row.effect for row in doctor(model, alone).layers} == {"no pair"}


def test_layers_that_cannot_be_tried_alone():
    model = peft.get_peft_model(nn.Sequential(nn.Embedding(9, 4)), peft.LoraConfig(r=2, target_modules=["0"]))
    assert "taken to be what" in lines(model)["unmeasured"].text
    convolution = peft.get_peft_model(nn.Sequential(nn.Conv2d(2, 3, 3)), peft.LoraConfig(r=1, target_modules=["0"]))
    assert doctor(convolution).layers[0].norms == (0.0, 0.0, 0.0)  # of BA as matrices, B = 0
    assert str(doctor(convolution))
    assert "unmeasured" not in lines(toy())


@pytest.mark.parametrize(("name", "value"), [("eta", 3.0), ("variant", "allora_od"), ("adaptor", "inverse")])
def test_a_rule_that_is_in_the_config_alone_is_saved_and_not_trained(name, value):
    """Planted: another η set on peft_config was saved and not trained, without a word."""
    model = in_peft("allora")
    config = model.peft_config["default"]
    assert "config of another rule" not in lines(model)
    before = getattr(config, name)
    setattr(config, name, value)
    told = lines(model)["config of another rule"]
    assert told.level == "problem"
    assert f"train by {name} {before!r}, and the config, which is saved, says {value!r}; set it back" in told.text
