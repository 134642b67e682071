"""What cannot be: each is refused in one line that names what to change, and the model is left as it was."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora.layer import Linear
from torch import nn

import allora_analysis.lora.peft
from allora_analysis.lora.peft import ALLoRAConfig, ALLoRALinearLayer, allora_config
from allora_analysis.validation import ArgumentError
from tests.tiny_peft_models import QWEN_TARGETS, batch, logits, mixtral, peft_takes_experts, qwen, randomise

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore:Could not find a config file",
    "ignore:You are trying to modify a model with PEFT",
    "ignore:Already found a `peft_config`",
)
FIELDS = {"r": 3, "target_modules": QWEN_TARGETS}


@contextlib.contextmanager
def refused(match):
    with pytest.raises(ArgumentError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


def state(model):
    """The tree of modules, what is trained, and every weight's address and sum."""
    tree = [(name, type(module), id(module), module.training) for name, module in model.named_modules()]
    weights = [
        (name, id(p), p.requires_grad, float(p.detach().double().nansum())) for name, p in model.named_parameters()
    ]
    settings = [
        {
            key: dict(value)
            for key, value in vars(module).items()
            if key in ("r", "scaling", "lora_variant", "lora_alpha") and isinstance(value, dict)
        }
        for module in model.modules()
    ]
    return tree, weights, settings, sorted(vars(model)), getattr(model, "peft_config", None)


@contextlib.contextmanager
def refused_and_unchanged(model, match):
    before = state(model)
    with refused(match):
        yield
    assert state(model) == before


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"eta": 0.0}, r"eta must be a finite number above 0, received 0.0"),
        ({"eta": 1e-160}, r"eta must be in \[1e-18, 1e\+18\], received 1e-160: 1/eta² leaves float32's range"),
        ({"eta": 1e160}, r"eta must be in"),
        ({"eta": -1.0}, r"eta must be"),
        ({"eta": float("nan")}, r"eta must be"),
        ({"variant": "allora_1"}, r"variant must be one of allora, .*lora_x_eta; received 'allora_1'"),
        ({"adaptor": "cubic"}, r"adaptor must be one of inverse_sqrt, .*received 'cubic'"),
        ({"r": 0}, r"r must be a whole number, 1 or above, received 0"),
        ({"lora_alpha": 0}, r"lora_alpha must be a finite number above 0, received 0"),
        ({"lora_alpha": -1.0}, r"lora_alpha must be a finite number above 0, received -1.0"),
        ({"alpha_pattern": {"q_proj": 0}}, r"alpha_pattern\['q_proj'\] must be a finite number above 0, received 0"),
        ({"variant": "asf_lora", "lora_alpha": 16}, r"lora_alpha must be left out or r .* = 3, received 16"),
        ({"variant": "asf_lora", "use_rslora": True}, r"use_rslora must be left out with asf_lora, received True"),
        ({"variant": "lora_x_eta", "lora_alpha": 3}, r"lora_alpha must be left out or eta \* r = 6.0, received 3"),
        ({"variant": "allora_0", "lora_dropout": 0.1}, r"lora_dropout must be 0 with variant 'allora_0', received 0.1"),
        ({"lora_dropout": 1.0}, r"lora_dropout must be a drop rate in \[0, 1\), received 1.0"),
        ({"lora_dropout": -0.1}, r"lora_dropout"),
        ({"use_dora": True, "lora_bias": True}, r"use_dora must be left out with lora_bias, received True"),
        ({"use_dora": True, "variant": "asf_lora"}, r"use_dora must be left out with variant 'asf_lora'"),
        ({"use_dora": True, "variant": "lora_x_eta"}, r"use_dora must be left out with variant 'lora_x_eta'"),
        (
            {"variant": "lora_x_eta", "rank_pattern": {"q_proj": 2}},
            r"rank_pattern must be left out .* received \{'q_proj': 2\}; or give rank_pattern and alpha_pattern the",
        ),
        (
            {"variant": "lora_x_eta", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}},
            r"rank_pattern must be left out",
        ),
        (
            {
                "variant": "lora_x_eta",
                "rank_pattern": {"q_proj": 2, ".*proj": 1},
                "alpha_pattern": {".*proj": 2, "q_proj": 4},
            },
            r"rank_pattern must be left out",
        ),
        ({"variant": "lora_x_eta", "alpha_pattern": {"q_proj": 6}}, r"alpha_pattern must be left out"),
        ({"variant": "lora_x_eta", "alpha_pattern": ["q_proj"]}, r"alpha_pattern must be left out"),
        (
            {"variant": "lora_x_eta", "rank_pattern": {"q_proj": 0}, "alpha_pattern": {"q_proj": 0}},
            r"rank_pattern\['q_proj'\] must be a finite number above 0",
        ),
        (
            {"variant": "asf_lora", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 2}},
            r"rank_pattern must be left out with asf_lora, received \{'q_proj': 2\}$",
        ),
        ({"variant": "asf_lora", "alpha_pattern": {"q_proj": 2}}, r"alpha_pattern must be left out"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out must be left out .*True: how a weight lies is read from the layer"),
        ({"layer_replication": [(0, 1), (0, 1)]}, r"layer_replication must be left out .*share a base weight"),
        ({"loftq_config": {"loftq_bits": 4}}, r"loftq_config must be left out .*init_lora_weights has the starts"),
        ({"alora_invocation_tokens": [1]}, r"alora_invocation_tokens must be left out .*a forward pass of their own"),
        ({"init_lora_weights": "eva"}, r"init_lora_weights must be one of True, False, .*received 'eva'"),
        ({"init_lora_weights": "pissa_niter_x"}, r"init_lora_weights"),
        ({"rank": 3}, r"rank: no field of peft.LoraConfig; received 3; perhaps r$"),
        ({"alpha": 16}, r"alpha: no field of peft.LoraConfig; received 16; perhaps lora_alpha$"),
        ({"dropout": 0.1}, r"dropout: no field of .*; perhaps lora_dropout$"),
        ({"lora_aplha": 16}, r"lora_aplha: no field of .*; perhaps lora_alpha$"),
        ({"eta_squared": 4.0}, r"eta_squared: no field of .*; perhaps eta, its root: the paper's tables print η²$"),
        ({"qqq": 1}, r"qqq: no field of peft.LoraConfig; received 1$"),
        ({"peft_type": "ASF_LORA"}, r"peft_type: no field"),
    ],
)
def test_configs(fields, match):
    with refused(match):
        allora_config(**{"eta": 2.0, **FIELDS} | fields)


def test_what_a_config_fills_in():
    assert (allora_config(2.0).r, allora_config(2.0).lora_alpha) == (8, 8)
    assert allora_config(2, r=5, lora_alpha=7).lora_alpha == 7
    assert allora_config(2.0, "lora_x_eta", r=5).lora_alpha == 10
    config = allora_config(2.0)
    config.r, config.lora_dropout = np.int64(5), np.float32(0.5)
    config.check()
    assert json.loads(json.dumps(config.to_dict()))["lora_dropout"] == 0.5
    for init in (True, False, "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4"):
        assert allora_config(2.0, init_lora_weights=init).init_lora_weights is init
    with pytest.raises(TypeError, match="eta"):
        ALLoRAConfig(r=4)


@pytest.mark.parametrize(("variant", "over"), [("allora", 1), ("asf_lora", 1), ("lora_x_eta", 2)])
def test_an_alpha_that_was_left_out_follows_the_rank(variant, over):
    """Planted: it stayed at the first rank, s = 4/8; LoRA×η and ASF-LoRA were refused."""
    config = allora_config(2.0, variant, **FIELDS | {"r": 4})
    config.r = 8
    get_peft_model(qwen(), config)
    assert config.lora_alpha == 8 * over
    assert "_filled" not in config.to_dict()
    given = allora_config(2.0, **FIELDS | {"r": 4, "lora_alpha": 4})
    given.r = 8
    given.check()
    assert given.lora_alpha == 4
    # one that is said later stays, though it is the number that was filled in
    said = allora_config(2.0, **FIELDS | {"r": 4})
    said.r, said.lora_alpha = 8, 4
    said.check()
    assert said.lora_alpha == 4
    assert dataclasses.replace(config, r=16, lora_alpha=None).lora_alpha == 16 * over


@pytest.mark.bad_input
def test_a_config_that_was_changed_is_checked_again():
    model, config = qwen(), allora_config(2.0, **FIELDS)
    config.lora_alpha = -16
    with refused_and_unchanged(model, "lora_alpha"):
        get_peft_model(model, config)


@pytest.mark.bad_input
def test_a_rank_that_is_none():
    """The first targets could carry it: what was replaced before the one that cannot is put back."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2), nn.Linear(2, 16))
    with refused_and_unchanged(model, r"layer '2': r must be a whole number, 1 or above"):
        get_peft_model(model, allora_config(2.0, target_modules=["0", "1", "2", "3"], rank_pattern={"2": 0}))
    assert get_peft_model(model, allora_config(2.0, target_modules=["0", "1"]))


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_base_weights_that_are_not_finite(value):
    model = qwen()
    model.model.layers[1].mlp.down_proj.weight.data[3, 4] = value
    with refused_and_unchanged(model, r"layer 'model.layers.1.mlp.down_proj' has NaN or infinity in its weight"):
        get_peft_model(model, allora_config(2.0, **FIELDS))


class Quantised(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.weight = nn.Parameter(torch.zeros(self.weight.shape, dtype=torch.int8), requires_grad=False)


class Packed(nn.Parameter):
    """As bitsandbytes' Params4bit, which may be stored as bfloat16."""


def packed():
    layer = nn.Linear(8, 8)
    layer.weight = Packed(torch.zeros(32, 1, dtype=torch.bfloat16), requires_grad=False)
    return layer


def sharded():
    layer = nn.Linear(8, 8)
    layer.weight.ds_id = 3
    return layer


def planned():
    layer = nn.Linear(8, 8)
    layer._hf_tp_plan = "colwise"
    return layer


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (
            lambda: Quantised(8, 8),
            r"quantized weight \(torch.int8\), which is not supported: load the model in",
        ),
        (packed, r"quantized weight"),
        (lambda: nn.Linear(8, 8).to(torch.float8_e4m3fn), r"quantized weight \(torch.float8_e4m3fn\)"),
        (sharded, r"sharded weight, which is not supported: call get_peft_model first, then shard whole transformer"),
        (planned, r"sharded weight"),
        (lambda: nn.MultiheadAttention(8, 2), r"layer '1' is a MultiheadAttention; ALLoRA is for linear, embedding"),
        (lambda: nn.MultiheadAttention(8, 2).out_proj, r"NonDynamicallyQuantizableLinear"),
        (lambda: nn.ReLU(), r"is a ReLU; .* leave it out of target_modules"),
    ],
)
def test_layers_that_cannot_carry_an_adapter(layer, match):
    model = nn.Sequential(nn.Linear(8, 8), layer())
    with refused_and_unchanged(model, match):
        get_peft_model(model, allora_config(2.0, r=2, target_modules=["0", "1"]))


def flattened(weight):
    return nn.Parameter(weight.detach().flatten())


def emptied(weight):
    return nn.Parameter(weight.detach()[:0])


@pytest.mark.bad_input
@pytest.mark.parametrize("fields", [{}, {"lora_dropout": 0.1}], ids=["fused", "unfused"])
@pytest.mark.parametrize("way", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_hooks_that_would_never_be_called(side, way, fields):
    """Planted: they were registered, and nothing came of them."""
    model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), allora_config(2.0, r=2, target_modules=["0"], **fields))
    layer, called = model.base_model.model[0], []
    handle = getattr(getattr(layer, side)["default"], way)(lambda *_: None)
    with refused(r"adapter 'default': hooks on lora_A or lora_B would not be called.*; hook the layer that holds them"):
        model(torch.ones(3, 6))
    handle.remove()
    layer.register_forward_hook(lambda *_: called.append(1))
    model(torch.ones(3, 6))
    assert called == [1]


class OwnLayer(Linear):
    """As a user writes it for PEFT's `_register_custom_module`."""


class OwnALLoRALinear(ALLoRALinearLayer):
    """The same, with the rule."""


@pytest.mark.bad_input
def test_a_users_own_layers():
    """Planted: "Invalid or unsupported variant combination"."""
    config = allora_config(2.0, r=2, target_modules=["0"])
    with refused(r"_register_custom_module: a subclass of ALLoRALinearLayer wanted, received OwnLayer, which knows no"):
        config._register_custom_module({nn.Linear: OwnLayer})
    config._register_custom_module({nn.Linear: OwnALLoRALinear})
    assert type(get_peft_model(nn.Sequential(nn.Linear(6, 4)), config).base_model.model[0]) is OwnALLoRALinear


@pytest.mark.parametrize(("count", "named"), [(1, []), (2, []), (1, ["stack_1"])], ids=str)
def test_experts_that_all_linear_leaves_out_are_counted(count, named):
    """Planted: those that have an adapter were counted too."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(4, 4)
            self.convolution = nn.Conv1d(2, 2, 1)  # no experts
            for index in range(count + len(named)):
                self.register_parameter(f"stack_{index}", nn.Parameter(torch.ones(3, 4, 4)))

    words = rf"all-linear leaves out {count} stacked weights? \(experts in one 3-D parameter\), which stay frozen; name"
    fields = {"r": 2, "target_modules": "all-linear", "target_parameters": named}
    with pytest.warns(UserWarning, match=words):
        get_peft_model(nn.Sequential(Experts()), allora_config(2.0, **fields))


@pytest.mark.bad_input
@pytest.mark.filterwarnings(
    "ignore:The following (rank|alpha)_pattern keys did not match", "ignore:`lora_bias=True` was passed"
)
@pytest.mark.parametrize(
    "fields",
    [
        {"lora_dropout": 0.1},
        {"use_dora": True},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"variant": "allora_od"},
        {"variant": "asf_lora"},
    ],
    ids=str,
)
def test_what_experts_refuse_under_all_linear_says_where_they_come_from(fields):
    """Planted: a line about target_parameters, which the caller had not given. And no warning that none is adapted."""
    if not peft_takes_experts():
        pytest.skip("this PEFT leaves experts out")
    whole, model = {"target_modules": "all-linear", "task_type": "SEQ_CLS"}, mixtral()
    with refused_and_unchanged(
        model, r"PEFT's all-linear takes in this mixture's down_proj, .*gate_up_proj: name target_modules without them"
    ):
        get_peft_model(model, allora_config(2.0, **whole, **fields))
    assert get_peft_model(model, allora_config(2.0, target_modules=["q_proj"], **fields))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        get_peft_model(mixtral(), allora_config(2.0, **whole))
    assert not [one for one in said if "leaves out" in str(one.message)]


@pytest.mark.bad_input
@pytest.mark.parametrize("shard", [flattened, emptied])
@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
@pytest.mark.parametrize("fields", [{}, {"lora_dropout": 0.1}], ids=["fused", "unfused"])
def test_adapters_that_fsdp_wrapped_on_their_own(shard, side, fields):
    model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), allora_config(2.0, r=2, target_modules=["0"], **fields))
    part = getattr(model.base_model.model[0], side)["default"]
    part.weight = shard(part.weight)
    with refused(
        r"adapter 'default': A \(r, 6\) and B \(4, r\) wanted, whole, received sha.*FSDP must not.*transformer blocks"
    ):
        model(torch.ones(3, 6))


@pytest.mark.bad_input
def test_targets_that_are_not_there():
    model = qwen()
    before = state(model)
    with pytest.raises(ValueError, match="not found in the base model"):
        get_peft_model(model, allora_config(2.0, target_modules=["no_such_layer"]))
    assert state(model) == before


@pytest.mark.bad_input
@pytest.mark.parametrize("wrap", [lambda m, c: m.add_adapter("allora", c), lambda m, c: get_peft_model(m, c, "allora")])
def test_allora_on_layers_of_plain_peft(wrap):
    """It would train LoRA in silence. The second config has targets before the shared ones: they are put back."""
    model = get_peft_model(qwen(), LoraConfig(r=3, target_modules=["o_proj"]))
    for targets in (["o_proj"], ["q_proj", "o_proj"]):
        with refused_and_unchanged(model, r"adapter 'allora': the model's layers are plain PEFT's \(Linear\)"):
            wrap(model, allora_config(2.0, r=3, target_modules=targets))
    assert list(model.peft_config) == ["default"]


@pytest.mark.bad_input
def test_an_adapter_that_cannot_be_added_leaves_the_others():
    model = get_peft_model(qwen(), allora_config(2.0, **FIELDS))
    randomise(model)
    before = logits(model)
    model.train()
    fields = {"r": 2, "target_modules": ["o_proj", "up_proj"]}
    with refused_and_unchanged(model, "r must be a whole number, 1 or above"):
        model.add_adapter("second", allora_config(2.0, rank_pattern={"up_proj": 0}, **fields))
    assert torch.equal(logits(model), before)
    model.add_adapter("second", allora_config(2.0, **fields))


@pytest.mark.bad_input
def test_a_failure_anywhere_puts_the_model_back(monkeypatch):
    model = qwen()
    monkeypatch.setattr("peft.tuners.tuners_utils.set_additional_trainable_modules", lambda **_: 1 / 0)
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        get_peft_model(model, allora_config(2.0, **FIELDS))
    assert state(model) == before


def merges(model):
    return {
        "merge_and_unload": lambda: model.merge_and_unload(),
        "merge_and_unload, safe": lambda: model.merge_and_unload(safe_merge=True),
        "merge_adapter": lambda: model.merge_adapter(),
        "merge_adapter, named": lambda: model.merge_adapter(adapter_names=["default"], safe_merge=True),
        "layer": lambda: model.base_model.model.model.layers[1].self_attn.q_proj.merge(),
        "delta": lambda: model.base_model.model.model.layers[1].self_attn.q_proj.get_delta_weight("default"),
        "weighted": lambda: model.add_weighted_adapter(["default"], [1.0], "sum", combination_type="linear"),
    }


@pytest.mark.bad_input
@pytest.mark.parametrize("way", merges(None))
def test_asf_lora_does_not_merge(way):
    model = get_peft_model(qwen(), allora_config(2.0, "asf_lora", **FIELDS))
    randomise(model)
    before = logits(model)
    with refused_and_unchanged(model, r"adapter 'default': asf_lora cannot be merged .* not linear in x"):
        merges(model)[way]()
    assert torch.equal(logits(model), before)


@pytest.mark.bad_input
def test_a_layer_with_asf_lora_keeps_the_others_from_merging():
    """No layer is merged, though the first ones could be."""
    model = get_peft_model(qwen(), allora_config(2.0, **FIELDS))
    model.add_adapter("asf", allora_config(2.0, "asf_lora", r=2, target_modules=["up_proj"]))
    model.base_model.set_adapter(["default", "asf"])
    randomise(model)
    with refused_and_unchanged(model, r"adapter 'asf': asf_lora cannot be merged"):
        model.merge_and_unload()
    model.merge_adapter(adapter_names=["default"])


@pytest.mark.bad_input
@pytest.mark.parametrize("way", ["merge_and_unload", "merge_adapter", "layer"])
def test_weights_that_are_not_finite_do_not_merge(way):
    model = get_peft_model(qwen(), allora_config(2.0, **FIELDS))
    randomise(model)
    model.base_model.model.model.layers[1].self_attn.q_proj.lora_A["default"].weight.data[0, 0] = float("nan")
    before = state(model)
    with refused(r"adapter 'default' has NaN or infinite weights and cannot be merged"):
        merges(model)[way]()
    assert state(model) == before


@pytest.mark.bad_input
def test_targets_of_inject_adapter_in_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    with refused_and_unchanged(model, "MultiheadAttention"):
        inject_adapter_in_model(allora_config(2.0, r=2, target_modules=["0", "1"]), model)


def test_training_runs_after_a_refusal():
    model = qwen()
    with refused("r must be a whole number"):
        get_peft_model(model, allora_config(2.0, rank_pattern={"down_proj": 0}, target_modules=QWEN_TARGETS))
    get_peft_model(model, allora_config(2.0, **FIELDS))(**batch()).loss.backward()


@pytest.mark.bad_input
def test_without_peft_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'allora-analysis\[llm\]'"):
        importlib.reload(allora_analysis.lora.peft)


def test_base_weights_without_data_cannot_be_looked_at():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4))
    assert get_peft_model(model, allora_config(2.0, r=2, target_modules=["0"]))(
        torch.zeros(3, 4, device="meta")
    ).is_meta


@pytest.mark.bad_input
def test_one_pair_for_tied_weights_is_refused_with_a_way_that_survives_a_merge():
    with pytest.raises(ArgumentError, match=r"untie them first .*, or adapt one of the two and do not merge it"):
        allora_config(2.0, target_modules=["embed_tokens"], ensure_weight_tying=True)
