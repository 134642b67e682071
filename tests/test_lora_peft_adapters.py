"""What PEFT does with adapters, on ALLoRA's: merging, switching, adding, deleting, copying, checkpointing."""

import copy
import warnings

import accelerate
import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from allora_analysis.lora.peft import ALLoRALinearLayer, Rule, allora_config
from allora_analysis.validation import ArgumentError
from tests.tiny_peft_models import BERT_TARGETS, QWEN_TARGETS, batch, bert, logits, qwen, randomise

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning", "ignore:Could not find a config file"
)
ETA = 2.0
MERGEABLE = ["allora", "allora_0", "allora_od", "lora_x_eta"]


def config(variant="allora", **fields):
    return allora_config(ETA, variant, **{"r": 3, "target_modules": QWEN_TARGETS} | fields)


def adapted(variant="allora", **fields):
    model = get_peft_model(qwen().double(), config(variant, **fields))
    randomise(model)
    return model


def near(one, other):
    return torch.allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("safe_merge", [True, False])
@pytest.mark.parametrize("variant", MERGEABLE)
def test_merged_equals_unmerged(variant, safe_merge):
    model, base = adapted(variant), logits(qwen().double())
    before = logits(model)
    assert not near(before, base)
    model.merge_adapter(safe_merge=safe_merge)
    assert near(logits(model), before)
    model.unmerge_adapter()
    assert near(logits(model), before)
    with model.disable_adapter():
        assert near(logits(model), base)
    merged = model.merge_and_unload(safe_merge=safe_merge)
    assert near(logits(merged), before)
    assert not any(isinstance(module, ALLoRALinearLayer) for module in merged.modules())
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in qwen().named_parameters()}


def test_bert_merges_too():
    model = get_peft_model(bert().double(), config(target_modules=BERT_TARGETS))
    randomise(model)
    before = logits(model)
    assert near(logits(model.merge_and_unload()), before)


@pytest.mark.parametrize("variant", [*MERGEABLE, "asf_lora"])
def test_offloaded_adapters_serve_and_are_not_trained(variant):
    """Planted: under accelerate's offloading, where PEFT's LoRA works, A and B were said to be on the wrong device."""
    model = adapted(variant)
    expected = logits(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert torch.equal(logits(model), expected)
    if variant != "lora_x_eta":  # which is PEFT's own
        with pytest.raises(ArgumentError, match=r"adapter 'default': accelerate offloads its A and B, .*no_grad"):
            model(**batch())
    model.requires_grad_(False)
    assert torch.equal(model(**batch()).logits, expected)


def test_a_new_adapter_changes_nothing():
    assert torch.equal(logits(get_peft_model(qwen().double(), config())), logits(qwen().double()))


def test_unload_gives_the_base_back():
    assert torch.equal(logits(adapted().unload()), logits(qwen().double()))


def test_the_variant_is_chosen_per_adapter():
    model = adapted()
    expected = {"default": logits(model)}
    for variant in ("asf_lora", "allora_od", "lora_x_eta"):
        model.add_adapter(variant, config(variant))
        randomise(model, seed=len(expected))
        model.set_adapter(variant)
        expected[variant] = logits(model)
    names = list(expected)
    for name in names:
        model.set_adapter(name)
        # `randomise` draws every adapter anew, so that only the last one is as it was recorded.
        alone = get_peft_model(qwen().double(), config("allora" if name == "default" else name))
        for one, other in zip(modules(alone), modules(model), strict=True):
            one.lora_A["default"].weight.data = other.lora_A[name].weight.data.clone()
            one.lora_B["default"].weight.data = other.lora_B[name].weight.data.clone()
        assert torch.equal(logits(model), logits(alone))
        trained = {key.split(".")[-2] for key, p in model.named_parameters() if p.requires_grad and "lora_" in key}
        assert trained == {name}
    layer = modules(model)[0]
    assert {name: rule.name for name, rule in layer.lora_variant.items()} == {
        "default": "allora", "asf_lora": "asf_lora", "allora_od": "allora_od",
    }  # fmt: skip
    assert layer.scaling == {"default": 1.0, "asf_lora": 1.0, "allora_od": 1.0, "lora_x_eta": ETA}
    model.delete_adapter("asf_lora")
    assert "asf_lora" not in layer.lora_variant
    assert "asf_lora" not in layer.lora_A
    model.set_adapter("default")
    before = logits(model)
    assert near(logits(model.merge_and_unload()), before)


@pytest.mark.bad_input
@pytest.mark.parametrize("combination", ["linear", "svd", "cat"])
def test_a_weighted_adapter_of_lora_times_eta_comes_second_or_not_at_all(combination):
    model = adapted("lora_x_eta")
    with pytest.raises(ArgumentError, match=r"adapter 'default': add_weighted_adapter .* lora_x_eta's is eta; name an"):
        model.add_weighted_adapter(["default"], [1.0], "sum", combination_type=combination)
    assert list(model.peft_config) == ["default"]
    expected = logits(model)
    model.add_adapter("plain", config())  # B = 0
    with pytest.warns(UserWarning, match="the rule of 'plain', allora with eta 2"):
        model.add_weighted_adapter(["plain", "default"], [1.0, 1.0], "sum", combination_type="cat")
    model.set_adapter("sum")
    assert near(logits(model), expected)


def modules(model):
    return [module for module in model.modules() if isinstance(module, ALLoRALinearLayer)]


def test_an_adapter_on_other_layers_leaves_these_alone():
    model = adapted()
    model.add_adapter("mlp", config("allora_od", target_modules=["up_proj"]))
    both = [sorted(module.lora_A) for module in modules(model)]
    assert sorted(map(tuple, both)) == [("default",)] * 6 + [("mlp",)] * 2
    assert near(logits(model), logits(adapted()))


def test_mixed_batches_follow_each_rows_adapter():
    model = adapted()
    model.add_adapter("other", config("asf_lora"))
    randomise(model)
    names = ["default", "other", "__base__", "other"]
    alone = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        alone[name] = logits(model)
    with model.disable_adapter():
        alone["__base__"] = logits(model)
    with torch.no_grad():
        mixed = model(input_ids=batch()["input_ids"], adapter_names=names).logits
    for row, name in enumerate(names):
        assert near(mixed[row], alone[name][row])


def test_deepcopy_keeps_the_rule_and_parts_the_weights():
    model = adapted("allora_od", adaptor="inverse")
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    assert modules(twin)[0].lora_variant["default"] == Rule("allora_od", ETA, "inverse")
    randomise(twin, seed=9)
    assert not torch.equal(logits(twin), logits(model))
    twin.add_adapter("more", copy.deepcopy(model.peft_config["default"]))
    assert modules(twin)[0].lora_variant["more"].name == "allora_od"


def test_modules_to_save_and_bias_are_trained():
    model = adapted(modules_to_save=["score"], bias="lora_only")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum("lora_A" in name or "lora_B" in name for name in trained) == 12
    assert "base_model.model.score.modules_to_save.default.weight" in trained
    assert any(name.endswith("q_proj.base_layer.bias") for name in trained)
    model(**batch()).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora"])
def test_gradient_checkpointing_gives_the_same_gradients(variant, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = adapted(variant).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model(**batch(), use_cache=False).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert gradients[0]
    assert all(near(one, other) for one, other in zip(*gradients, strict=True))


def test_plain_lora_beside_allora_is_lora():
    model = adapted()
    model.add_adapter("plain", LoraConfig(r=3, lora_alpha=6, target_modules=QWEN_TARGETS))
    randomise(model)
    model.set_adapter("plain")
    twin = get_peft_model(qwen().double(), LoraConfig(r=3, lora_alpha=6, target_modules=QWEN_TARGETS))
    for one, other in zip(modules(model), [m for m in twin.modules() if hasattr(m, "lora_A")], strict=True):
        assert "plain" not in one.lora_variant
        for factor in ("lora_A", "lora_B"):
            getattr(other, factor)["default"].weight.data = getattr(one, factor)["plain"].weight.data.clone()
    for one in (model, twin):
        one.eval()(**batch()).loss.backward()
    grads = [[p.grad for name, p in one.named_parameters() if p.grad is not None] for one in (model, twin)]
    assert len(grads[0]) == 12
    assert all(near(one, other) for one, other in zip(*grads, strict=True))


def test_plain_lora_models_are_left_to_peft():
    """The tuner that stands in LoRA's place in PEFT's registry does for a plain config what PEFT's own does."""
    fields = {"r": 3, "target_modules": QWEN_TARGETS}
    model = get_peft_model(qwen(), LoraConfig(**fields))
    assert not any(isinstance(module, ALLoRALinearLayer) for module in model.modules())
    randomise(model)
    before = logits(model)
    model.add_adapter("dora", LoraConfig(use_dora=True, **fields))
    model.add_weighted_adapter(["default"], [1.0], "sum", combination_type="linear")
    model.set_adapter("sum")
    torch.testing.assert_close(logits(model), before)
    torch.testing.assert_close(logits(model.merge_and_unload()), before)


def test_weighted_adapters_of_matrices():
    model = adapted()
    before = logits(model)
    model.add_weighted_adapter(["default"], [1.0], "copy", combination_type="linear")
    model.set_adapter("copy")
    assert near(logits(model), before)
    assert modules(model)[0].lora_variant["copy"].name == "allora"


@pytest.mark.parametrize("other", [{"eta": ETA + 1}, {"eta": ETA, "adaptor": "inverse"}, None])
def test_weighted_adapters_of_unlike_rules_warn_whose_rule_it_is(other):
    model = adapted()
    fields = {"r": 3, "target_modules": QWEN_TARGETS}
    model.add_adapter("other", LoraConfig(**fields) if other is None else allora_config(**other, **fields))
    for names in (["default", "other"], ["other", "default"]):
        with pytest.warns(
            UserWarning, match=f"trained by the rule of '{names[0]}', .* not by that of '{names[1]}'"
        ) as told:
            model.add_weighted_adapter(names, [0.5, 0.5], "-".join(names), combination_type="linear")
        assert len(told) == 1
        assert "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.add_weighted_adapter(["default", "default-other"], [0.5, 0.5], "alike", combination_type="linear")


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but")
@pytest.mark.parametrize("field", ["use_dora", "lora_bias"])
def test_weighted_adapters_of_more_than_matrices_are_refused(field):
    """Planted: a copy with weight 1 had the magnitudes, or the bias, of a new adapter."""
    model = adapted(**{field: True})
    with pytest.raises(ArgumentError, match=rf"adapter 'default': .* A and B alone, without what {field} trains"):
        model.add_weighted_adapter(["default"], [1.0], "copy", combination_type="linear")
    assert [*model.peft_config] == ["default"]


def test_a_weighted_adapter_that_fails_is_not_left_behind():
    """Planted: B = 0 under the new name, and the second try returned at once, in silence."""
    model = adapted(rank_pattern={"o_proj": 4})
    model.add_adapter("other", config(rank_pattern={"down_proj": 4}))
    randomise(model)
    before, names = logits(model), [name for name, _ in model.named_parameters()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    two = ["default", "other"], [1.0, -0.5], "sum"
    with pytest.raises(ArgumentError, match=r"'default' and 'other' have other ranks in a layer, .* 'cat' or 'svd'$"):
        model.add_weighted_adapter(*two, "linear")
    with pytest.raises(ValueError, match="Invalid combination_type"):
        model.add_weighted_adapter(*two, "product")
    assert ([*model.peft_config], model.active_adapters) == (["default", "other"], ["default"])
    assert [name for name, _ in model.named_parameters()] == names
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert torch.equal(logits(model), before)
    model.add_weighted_adapter(*two, "cat")
    model.set_adapter("sum")
    assert not near(logits(model), before)
    with pytest.raises(ArgumentError, match=r"^adapter_name: the model has an adapter 'sum'; choose another name, or"):
        model.add_weighted_adapter(*two, "cat")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT's, of names that it knows
@pytest.mark.parametrize("target", ["wte", "lm_head"])
@pytest.mark.parametrize("way", ["merge_adapter", "merge_and_unload"])
def test_a_merge_into_a_weight_that_another_module_has_too_is_refused(way, target):
    """Planted: it changed the embedding and the head by one ΔW, and with them the model's function, without a word."""
    sizes = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    base = GPT2LMHeadModel(GPT2Config(**sizes)).double()
    model = get_peft_model(base, config(target_modules=[target]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    before, weight = logits(model), base.get_input_embeddings().weight.detach().clone()
    with model.disable_adapter():
        assert not near(logits(model), before)
    with pytest.raises(ArgumentError, match=r"weight is that of 'transformer.wte' and 'lm_head', .*untie them first"):
        getattr(model, way)()
    assert torch.equal(base.get_input_embeddings().weight, weight)
    head = base.lm_head if target == "wte" else base.lm_head.base_layer
    head.weight = nn.Parameter(head.weight.detach().clone())
    base.config.tie_word_embeddings = False
    getattr(model, way)()
    assert near(logits(base), before)


def test_any_module_takes_adapters():
    model = inject_adapter_in_model(
        config(target_modules=["0", "2"]), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    )
    assert [type(module) for module in model] == [ALLoRALinearLayer, nn.Tanh, ALLoRALinearLayer]
    assert model(torch.zeros(0, 5)).shape == (0, 3)
    assert model(torch.zeros(5)).shape == (3,)


def test_target_all_linear():
    model = adapted(target_modules="all-linear")
    assert len(modules(model)) == 15  # seven a block, and the head


def test_nothing_warns_but_peft():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        adapted()


@pytest.mark.parametrize("first", [QWEN_TARGETS, "all-linear", ["o_proj"]], ids=str)
@pytest.mark.parametrize("second", [config("allora_od", target_modules="all-linear"), None], ids=["allora_od", "lora"])
def test_all_linear_sees_layers_that_have_an_adapter(first, second):
    """Planted: PEFT knows adapted layers by "Linear" in their class's name; ours were left out."""
    model = adapted(target_modules=first)
    model.add_adapter("second", copy.deepcopy(second) or LoraConfig(r=2, target_modules="all-linear"))
    assert sum("second" in module.lora_A for module in model.modules() if isinstance(module, LoraLayer)) == 15


def test_conversion_to_lora_knows_what_is_lora():
    assert adapted().supports_lora_conversion()
    assert not adapted("asf_lora").supports_lora_conversion()


def test_a_scale_set_after_the_fact_scales_the_output():
    """PEFT's `set_scale` and `scale_layer`, as for LoRA."""
    model, base = adapted("allora_od"), logits(qwen().double())
    first, x = modules(model)[0], torch.ones(2, 16, dtype=torch.float64)
    with torch.no_grad():
        full, bare = first(x), first.base_layer(x)
        first.set_scale("default", 0.25)
        assert near(first(x), bare + 0.25 * (full - bare))
    for module in modules(model):
        module.set_scale("default", 0.0)
    assert near(logits(model), base)


@pytest.mark.parametrize("mixed", [True, False])
def test_other_ways_to_make_the_model_have_the_rule_too(mixed):
    options = {"mixed": True} if mixed else {"low_cpu_mem_usage": True}
    model = get_peft_model(qwen(), config("allora_od"), **options)
    assert {module.lora_variant["default"].name for module in modules(model)} == {"allora_od"}
    assert len(modules(model)) == 6
