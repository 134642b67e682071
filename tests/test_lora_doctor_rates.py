"""What a live optimizer's rates come to, on PEFT's LoRA, LoRA+ and DoRA; plain LoRA is no problem where it is meant."""

import copy
import math

import pytest
import torch
from torch import nn

from allora_analysis.adaptive.recipe import Recipe, rates
from allora_analysis.adaptors import ADAPTORS
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.validation import ArgumentError
from tests import foreign_lora
from tests.test_lora_pairs import NOT_PRODUCTS

peft = pytest.importorskip("peft")


def model(**options):
    torch.manual_seed(0)
    base = nn.Sequential()
    base.q, base.head = nn.Linear(12, 8), nn.Linear(8, 2)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q"], "modules_to_save": ["head"]} | options
    return peft.get_peft_model(base, peft.LoraConfig(**settings))


def lines(found):
    return {line.code: line.text for line in found.advice}


@pytest.mark.parametrize(("kind", "word"), [(torch.optim.AdamW, "adamw"), (torch.optim.SGD, "sgd")])
def test_the_rates_at_scaling_one_and_the_first_step(kind, word):
    made = model()
    found = doctor(made, kind(made.parameters(), lr=1e-3), allora=False)
    assert (found.verdict, found.layers[0].rates) == ("plain", (1e-3, 1e-3))
    own = rates(Recipe(4, 8.0, 1e-3, word, width=12))
    told = lines(found)["rates"]
    assert f"at s = 1 these are {own.a:.3g} and {own.b:.3g}" in told
    assert told.endswith(f"{own.first_step:.3g}")
    assert ("full fine-tuning's at rate" in told, "its entries move" in told) == (word == "sgd", word == "adamw")
    assert not [line for line in found.advice if line.level == "problem"]
    assert str(found).startswith("Plain LoRA.")
    assert doctor(made, kind(made.parameters(), lr=1e-3)).verdict == "off"


@pytest.mark.parametrize("variant", ["lora_x_eta", "allora", "allora_od", "asf_lora"])
def test_the_first_step_that_is_told_is_sgds_with_the_rules_factor(variant):
    """Planted: LoRA's number for all of them, three times too small."""
    generator, parts = torch.Generator().manual_seed(0), []
    torch.manual_seed(0)
    for _ in range(60):
        layer = ALLoRALinear(nn.Linear(64, 256), 4, 3.0, variant)
        nn.init.kaiming_uniform_(layer.a, 5**0.5)
        made = nn.Sequential(layer).double()
        optimizer = torch.optim.SGD([layer.a, layer.b], lr=1e-6)
        told = lines(doctor(made, optimizer, allora=False))["rates"]
        v, x = (torch.randn(32, size, generator=generator, dtype=torch.float64) for size in (256, 64))
        (v * made(x)).sum().backward()
        optimizer.step()
        full = v.T @ x
        moved = (made(torch.eye(64).double()) - layer.base(torch.eye(64).double())).T.detach()
        parts.append(float(-(moved * full).sum() / full.square().sum()))
    assert float(told.rpartition("at rate ")[2]) == pytest.approx(sum(parts) / len(parts), rel=0.1)
    assert {"lora_x_eta": "LoRA's times" not in told, "asf_lora": "(LoRA's times 9)" in told}.get(
        variant, "(LoRA's times 3)" in told
    )


def stepping(kind, **options):
    return lambda parameters: kind(parameters, **({"lr": 1e-3} | options))


@pytest.mark.parametrize(
    ("make", "step"),
    [
        *[(stepping(torch.optim.AdamW, eps=eps), "adamw" if eps == 1e-3 else None) for eps in (1e-3, 0.18, 5.0, 30.0)],
        (stepping(torch.optim.AdamW, weight_decay=0.5), "adamw"),
        (stepping(torch.optim.Adagrad), "adamw"),
        (stepping(torch.optim.SGD, momentum=0.9), "sgd"),
        (stepping(torch.optim.SGD, momentum=0.9, nesterov=True), None),
        (stepping(torch.optim.RMSprop), None),
        (stepping(torch.optim.RAdam), None),
        (stepping(torch.optim.Adadelta), None),
        (stepping(pytest.importorskip("transformers").Adafactor, relative_step=False), None),
    ],
)
def test_the_first_step_is_told_only_where_it_is_adams_or_sgds(make, step):
    """Adam's ε takes the response, ε/(1 + ε) or so, from 0 to 1; at ε = 30 the first step is 1/30 of SGD's."""
    made = model()
    optimizer = make([one for one in made.parameters() if one.requires_grad])
    told = lines(doctor(made, optimizer, allora=False)).get("rates")
    assert (told is not None) == (step is not None)
    assert step is None or ("full fine-tuning's" in told) == (step == "sgd")
    layer = made.base_model.model.q
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    a.grad, b.grad = torch.zeros_like(a), torch.randn(b.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    assert step is None or torch.allclose(b, -1e-3 * (b.grad if step == "sgd" else b.grad.sign()), rtol=0.2)


def test_lora_plus_and_what_else_trains_at_bs_rate():
    from peft.optimizers import create_loraplus_optimizer

    made = model()
    told = lines(doctor(made, create_loraplus_optimizer(made, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16)))
    assert "B at 16 times A's rate" in told["LoRA+"]
    assert told["head"].startswith("1 other parameters")  # the head's bias
    one = lines(doctor(made, create_loraplus_optimizer(made, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=1)))
    assert not {"LoRA+", "head"} & set(one)
    alone = model(modules_to_save=None)
    told = lines(doctor(alone, create_loraplus_optimizer(alone, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16)))
    assert "LoRA+" in told
    assert "head" not in told
    groups = [
        {"params": [p], "lr": 1e-4, "weight_decay": 0.0 if "lora_B" in name else 0.1}
        for name, p in made.named_parameters()
        if p.requires_grad
    ]
    assert "weight_decay 0.1 for A and 0.0 for B" in lines(doctor(made, torch.optim.AdamW(groups)))["groups"]


def test_dora_is_said():
    made = model(use_dora=True)
    assert "DoRA" in lines(doctor(made, torch.optim.AdamW(made.parameters()), allora=False))


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("fields", [{"use_dora": True}, {"init_lora_weights": "mica"}], ids=str)
def test_dora_and_mica_are_not_off_where_no_allora_is_meant(fields, kind):
    """Planted: MiCA "not BA", and both "ALLoRA is OFF"."""
    if "init_lora_weights" in fields and not hasattr(peft.tuners.lora.variants, "MiCALinearVariant"):
        pytest.skip("this PEFT has no MiCA")
    made = model(**fields)
    optimizer = getattr(torch.optim, kind)([p for p in made.parameters() if p.requires_grad], lr=1e-3)
    found = doctor(made, optimizer, allora=False)
    assert found.verdict == "plain"
    assert str(found).startswith("No ALLoRA, and none is meant.")
    assert not [line for line in found.advice if line.level == "problem"]
    (pair,) = lora_pairs(made)
    assert pair.is_product
    assert doctor(made, optimizer).verdict == "off"
    if "use_dora" not in fields:
        assert torch.allclose(pair.module.get_delta_weight("default"), pair.scaling * pair.b @ pair.a)


@pytest.mark.filterwarnings("ignore:aLoRA is currently")
@pytest.mark.parametrize("kind", [*NOT_PRODUCTS, "ALoraLinearVariant"])
def test_another_lora_of_pefts_is_no_problem_where_no_allora_is_meant(kind):
    """Planted: "ALLoRA is OFF", and a problem."""
    make = NOT_PRODUCTS.get(kind, lambda: model(alora_invocation_tokens=[1], modules_to_save=None))
    made = make()
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-3)
    found = doctor(made, optimizer, allora=False)
    assert [layer.variant for layer in found.layers] == [kind]
    assert (found.verdict, str(found).partition("\n")[0]) == ("plain", "No ALLoRA, and none is meant.")
    assert not [line for line in found.advice if line.level == "problem"]
    assert doctor(made, optimizer).verdict == "off"


def test_the_first_step_from_b_0_is_not_told_of_what_starts_at_a_0():
    """Planted: "0.00109" of an embedding's adapter under AdamW at 1e-3, whose B is drawn from N(0, 1)."""
    base = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 2))
    for targets, told_of in ((["0"], False), (["0", "1"], True)):
        made = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, target_modules=targets))
        optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-3)
        told = lines(doctor(made, optimizer, allora=False))
        assert ("rates" in told) == told_of
        assert not told_of or " layers)" not in told["rates"]
        made(torch.arange(9)).square().sum().backward()
        optimizer.step()  # A is 0 no longer
        assert ("rates" in lines(doctor(made, optimizer, allora=False))) == told_of


@pytest.mark.parametrize(("size", "told"), [(0.0, "A is 2 times LoRA's, and 1 times"), (1.0, "B is ")])
def test_clipping_is_told_by_a_where_only_a_has_a_gradient(size, told):
    """Planted: "cannot be told" of an embedding's adapter, where A = 0 and every factor is η; the verdict was "on"."""
    layer = ALLoRALinear(nn.Linear(7, 5), 3, 2.0)
    with torch.no_grad():
        layer.a.mul_(size)
        layer.b.normal_(generator=torch.Generator().manual_seed(0))
    for part in layer.base.parameters():
        part.requires_grad_(False)
    layer(torch.ones(4, 7)).sum().backward()
    found = doctor(nn.Sequential(layer), torch.optim.SGD([layer.a, layer.b], lr=0.1), 1e-3)
    assert (found.verdict, found.clipping.of) == ("clipped", told[0])
    assert f"the gradient of {told}" in lines(found)["clipping"]


def test_a_rule_that_is_off_is_a_problem_even_where_none_is_meant():
    layer = foreign_lora.HookedALLoRA(nn.Linear(7, 5), 3, 2.0)
    found = doctor(nn.Sequential(layer), torch.optim.AdamW([layer.lora_A, layer.lora_B]), allora=False)
    assert found.verdict == "off"
    assert [line.code for line in found.advice if line.level == "problem"] == ["undone"]


@pytest.mark.parametrize(("size", "word"), [(0.0, "a constant so far"), (1.0, "tapers")])
def test_whether_the_factor_tapers_or_is_a_constant(size, word):
    layer = foreign_lora.HookedALLoRA(nn.Linear(7, 5), 3, 2.0)
    with torch.no_grad():
        layer.lora_B.copy_(size * torch.arange(1.0, 6)[:, None])
    told = lines(doctor(nn.Sequential(layer), torch.optim.SGD([layer.lora_A, layer.lora_B], lr=0.1)))["factor"]
    assert f"the factor {'is ' if size == 0 else ''}{word}" in told
    norms = (layer.lora_B @ layer.lora_A).detach().norm(dim=1)
    if size == 0:
        assert told.endswith("BA = 0, and d = η at every row")
        return
    assert f"the median ‖s(BA)_i‖ is {float(norms.median()) * 4:.3g} of 1/η², at which d would be 0.707 of η" in told
    low, high = ((4 * float(norm) + 1) ** -0.5 for norm in (norms.max(), norms.min()))
    assert f"d is {low:.3g} to {high:.3g} of η" in told


def test_the_callback_for_plain_lora_logs_and_does_not_warn(recwarn):
    from types import SimpleNamespace

    from transformers import TrainerState

    from allora_analysis.lora.callback import DoctorCallback

    made, state = model(), TrainerState(is_world_process_zero=True)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3)
    for allora, warnings in ((False, 0), (True, 1)):
        callback = DoctorCallback(allora=allora)
        callback.on_train_begin(SimpleNamespace(max_grad_norm=1.0), state, None, model=made, optimizer=optimizer)
        assert state.log_history[-1]["lora/lr_b"] == 1e-3
        assert len([one for one in recwarn if "ALLoRA" in str(one.message)]) == warnings


def test_without_lora_there_is_an_error():
    with pytest.raises(ArgumentError, match="no LoRA adapter found"):
        doctor(nn.Sequential(nn.Linear(2, 2)))


def test_start_width_and_stable_step_are_told_where_the_live_model_shows_them():
    from allora_analysis.adaptive import recipe as recipes

    layer = foreign_lora.HookedALLoRA(nn.Linear(7, 5), 3, 2.0)
    with torch.no_grad():
        layer.lora_B.zero_()
    optimizer = torch.optim.SGD([layer.lora_A, layer.lora_B], lr=0.1)
    told = lines(doctor(nn.Sequential(layer), optimizer))
    assert told["start"].endswith(recipes.start_at_zero(3, 7, ruled=True))
    assert told["factor at this width"].endswith(recipes.factor_at_width((1.0, 1.0), 3, 7, 2.0))
    assert "1/η = 0.5 of LoRA's" in told["stable step"]
    with torch.no_grad():
        layer.lora_B.copy_(torch.arange(1.0, 6)[:, None])
    told = lines(doctor(nn.Sequential(layer), optimizer))
    norms = (layer.lora_B @ layer.lora_A).detach().norm(dim=1)
    low, high = ((1 + 4 * float(norm)) ** 0.5 / 2 for norm in (norms.min(), norms.max()))
    assert f"{low:.3g} to {high:.3g} of LoRA's here" in told["stable step"]
    assert not {"start", "factor at this width"} & set(told)
    assert "on it is below nine tenths" in told["factor"]
    assert "stable step" not in lines(doctor(nn.Sequential(layer), torch.optim.AdamW([layer.lora_A, layer.lora_B])))


@pytest.mark.parametrize("size", [0.0, 0.5])
@pytest.mark.parametrize("adaptor", ["inverse", "exponential", "constant"])
def test_what_is_told_of_a_factor_is_of_the_layers_own_adaptor(adaptor, size):
    """Planted: 1/√(x + 1/η²), whatever the adaptor."""
    torch.manual_seed(0)
    layer = ALLoRALinear(nn.Linear(7, 5), 3, 2.0, adaptor=adaptor)
    with torch.no_grad():
        layer.b.copy_(size * torch.arange(1.0, 6)[:, None])
    found = doctor(nn.Sequential(layer), torch.optim.SGD([layer.a, layer.b], lr=0.1))
    told = lines(found)
    norms = (layer.b @ layer.a).detach().norm(dim=1)
    d = ADAPTORS[adaptor](norms, 2.0)
    if size == 0 or adaptor == "constant":
        assert "is 1/η = 0.5 of LoRA's, as the factor is η" in told["stable step"]
    else:
        assert f"is {1 / float(d.max()):.3g} to {1 / float(d.min()):.3g} of LoRA's here" in told["stable step"]
    assert ("factor" in told) == (adaptor != "constant")
    if adaptor != "constant":
        low, high = float(d.min()) / 2, float(d.max()) / 2
        tapers = f"the factor tapers: d is {low:.3g} to {high:.3g} of η"
        assert told["factor"] == (tapers if size else "the factor is a constant so far: d is 1 of η")
    assert "factor at this width" not in told
    assert not any("1/η²" in text or "from η" in text for code, text in told.items() if code != "scaling")
    assert f"allora, η = 2, {adaptor}" in str(found)


@pytest.mark.parametrize(("width", "told_of"), [(2, set()), (3, {"start", "factor at this width"})])
def test_a_rank_above_the_width_has_no_line_on_the_start(width, told_of):
    layer = foreign_lora.HookedALLoRA(nn.Linear(width, 5), 3, 2.0)
    with torch.no_grad():
        layer.lora_B.zero_()
    told = lines(doctor(nn.Sequential(layer), torch.optim.SGD([layer.lora_A, layer.lora_B], lr=0.1)))
    assert {"start", "factor at this width"} & set(told) == told_of
    assert "stable step" in told


def test_a_scaling_of_0_has_no_line_on_the_start():
    """Planted: ArgumentError, "s must be above 0"."""
    layer = ALLoRALinear(nn.Linear(7, 5), 3, 2.0)
    layer.scaling = 0.0
    told = lines(doctor(nn.Sequential(layer), torch.optim.SGD([layer.a, layer.b], lr=0.1)))
    assert not {"start", "factor at this width"} & set(told)


def test_of_plain_lora_only_start_and_dropout_are_told():
    made = model(lora_dropout=0.05)
    told = lines(doctor(made, torch.optim.AdamW(made.parameters()), allora=False))
    assert "its cosine with full fine-tuning's is about 0.49" in told["start"]  # √(4/17)
    assert "at the end BA is 0.95 of the fit" in told["dropout pays"]
    assert "(init_lora_weights='lora_ga')" in told["start"]
    assert told["dropout"].endswith("have dropout on the adapter")  # planted: "lora_dropout=0 is the paper's ALLoRA-0"
    assert "ALLoRA-0" in lines(doctor(made, torch.optim.AdamW(made.parameters())))["dropout"]
    assert not {"factor at this width", "stable step"} & set(told)


MORE = "more than linearly at worst:"


@pytest.mark.parametrize(("size", "word"), [(1e-3, "linearly:"), (0.1, MORE), (1.0, MORE)])
def test_the_ripple_multiplies_the_layers_shares(size, word):
    torch.manual_seed(0)
    layers = [foreign_lora.HookedALLoRA(nn.Linear(6, 6), 3, 2.0) for _ in range(4)]
    changes = []
    with torch.no_grad():
        for layer in layers:
            layer.lora_B.fill_(size)
            changes.append(float((layer.lora_B @ layer.lora_A).norm() / layer.base.weight.norm()))
    told = lines(doctor(nn.Sequential(*layers)))["ripple"]
    assert told.startswith(f"BA moves the output {word}")
    assert f"{math.prod(1 + one for one in changes) - 1:.3g} against {sum(changes):.3g} added up" in told
    with torch.no_grad():
        [layer.lora_B.zero_() for layer in layers]
    assert "ripple" not in lines(doctor(nn.Sequential(*layers)))


def test_the_ripple_of_pefts_layers_counts_the_scaling_and_no_merged_layer():
    made = model(target_modules=["q", "head"], modules_to_save=None)
    found = [made.base_model.model.q, made.base_model.model.head]
    with torch.no_grad():
        for size, layer in zip((0.1, 0.3), found, strict=True):
            layer.lora_B["default"].weight.fill_(size)
    changes = [float((one.get_delta_weight("default").norm() / one.base_layer.weight.norm()).detach()) for one in found]
    assert f"it is {sum(changes) / 2:.2g} of the weight" in lines(doctor(made, allora=False))["ripple"]
    made.merge_adapter()
    assert "ripple" not in lines(doctor(made, allora=False))
