"""Adapters on disk: with the rule, as plain PEFT reads them, trained on from LoRA, exported as LoRA."""

import json
import os
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file

from allora_analysis.arms import VARIANTS
from allora_analysis.lora.peft import ALLoRAConfig, ALLoRALinearLayer, Rule, allora_config, export_lora, load, train_on
from allora_analysis.lora.peft.layer import _same_draw
from tests import warm
from tests.test_lora_peft_refusals import refused
from tests.tiny_peft_models import QWEN_TARGETS, batch, gpt2, logits, mixtral, peft_takes_experts, qwen, randomise

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning", "ignore:Could not find a config file"
)
ETA = 2.0
FIELDS = {"r": 3, "target_modules": QWEN_TARGETS, "task_type": "SEQ_CLS"}


def adapted(variant="allora", **fields):
    model = get_peft_model(qwen(), allora_config(ETA, variant, **FIELDS | fields))
    randomise(model)
    return model


def lora(**fields):
    model = get_peft_model(qwen(), LoraConfig(**FIELDS | fields))
    randomise(model)
    return model


def layers(model):
    return [module for module in model.modules() if isinstance(module, ALLoRALinearLayer)]


def near(one, other):
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def in_plain_peft(tmp_path_factory):
    """Every variant saved and exported, and what plain PEFT makes of each in a process of its own."""
    root = tmp_path_factory.mktemp("adapters")
    expected, folders = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for variant in VARIANTS:
            model = adapted(variant)
            expected[variant] = logits(model)
            model.save_pretrained(folders.setdefault(variant, root / variant))
            if variant != "asf_lora":
                export_lora(model, folders.setdefault(f"{variant}, exported", root / f"{variant}_lora"))
    done = warm.Popen("tests.plain_peft_loads", *map(str, folders.values()))
    output, errors = done.communicate()
    assert done.returncode == 0, errors
    answer = json.loads(output)
    assert not answer["ours"]
    return expected, folders, dict(zip(folders, answer["results"], strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_peft_reads_allora_as_lora_and_asf_lora_not_at_all(in_plain_peft, variant):
    expected, _, results = in_plain_peft
    if variant == "asf_lora":
        words = "KeyError: 'ASF_LORA, which is not LoRA: load it with allora_analysis.lora.peft.load'"
        assert {results[variant][way]["error"] for way in ("model", "config", "lora_config")} == {words}
        return
    found = results[variant]["model"]
    assert near(torch.tensor(found["result"]), expected[variant])
    assert len(found["warnings"]) == 1
    note = "allora_analysis: plain PEFT rightly loads this as LoRA (the rule is for training), no upgrade is needed"
    assert f"['adaptor', '{note}', 'eta', 'variant']" in found["warnings"][0]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "asf_lora"])
def test_plain_peft_reads_an_export_without_a_warning(in_plain_peft, variant):
    expected, folders, results = in_plain_peft
    found = results[f"{variant}, exported"]
    assert found["model"]["warnings"] == found["config"]["warnings"] == []
    assert near(torch.tensor(found["model"]["result"]), expected[variant])
    saved = json.loads((folders[f"{variant}, exported"] / "adapter_config.json").read_text(encoding="utf-8"))
    assert not {"variant", "eta", "adaptor"} & set(saved)
    assert saved["lora_alpha"] == (ETA * 3 if variant == "lora_x_eta" else 3)


def test_what_the_files_hold(in_plain_peft):
    _, folders, _ = in_plain_peft
    for variant in VARIANTS:
        saved = json.loads((folders[variant] / "adapter_config.json").read_text(encoding="utf-8"))
        assert (saved["variant"], saved["eta"], saved["adaptor"]) == (variant, ETA, "inverse_sqrt")
        assert sorted(os.listdir(folders[variant])) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
        assert saved["peft_type"].startswith("ASF_LORA" if variant == "asf_lora" else "LORA")
        # Nor do readers that look at these alone take ASF-LoRA's file for LoRA's.
        assert ("r" in saved) == ("lora_alpha" in saved) == (variant != "asf_lora")


@pytest.mark.parametrize("is_trainable", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_equals_loaded_with_the_rule(in_plain_peft, variant, is_trainable):
    expected, folders, _ = in_plain_peft
    model = load(qwen(), folders[variant], is_trainable=is_trainable)
    assert isinstance(model, PeftModel)
    assert torch.equal(logits(model), expected[variant])
    config = model.peft_config["default"]
    assert isinstance(config, ALLoRAConfig)
    assert (config.r, config.inference_mode) == (3, not is_trainable)
    wanted = None if variant == "lora_x_eta" else Rule(variant, ETA, "inverse_sqrt")
    assert [layer.lora_variant.get("default") for layer in layers(model)] == [wanted] * 6
    assert [p.requires_grad for name, p in model.named_parameters() if "lora_" in name] == [is_trainable] * 12


@pytest.mark.parametrize("variant", VARIANTS)
def test_pefts_own_loading_keeps_the_rule_where_the_package_is_imported(in_plain_peft, variant):
    """Planted: `PeftModel.from_pretrained` and `load_adapter` went on as LoRA, or raised a bare KeyError."""
    expected, folders, _ = in_plain_peft
    model = PeftModel.from_pretrained(qwen(), folders[variant], is_trainable=True)
    wanted = None if variant == "lora_x_eta" else Rule(variant, ETA, "inverse_sqrt")
    assert [layer.lora_variant.get("default") for layer in layers(model)] == [wanted] * 6
    assert torch.equal(logits(model), expected[variant])
    model.load_adapter(folders[variant], "second")
    assert [layer.lora_variant.get("second") for layer in layers(model)] == [wanted] * 6


def test_a_file_of_asf_lora_from_before_its_type_said_what_it_is(in_plain_peft, tmp_path):
    expected, folders, _ = in_plain_peft
    for file in folders["asf_lora"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"peft_type": "ASF_LORA"}))
    for model in (load(qwen(), tmp_path), PeftModel.from_pretrained(qwen(), tmp_path)):
        assert torch.equal(logits(model), expected["asf_lora"])


def test_hot_swapping_takes_the_same_rule_alone(tmp_path):
    """Planted: asf_lora's weights under another rule, in silence."""
    models = {variant: adapted(variant, task_type=None) for variant in ("allora", "allora_od", "asf_lora")}
    models["lora"] = lora(lora_alpha=3, task_type=None)
    expected = {variant: logits(model) for variant, model in models.items()}
    for variant, model in models.items():
        model.save_pretrained(tmp_path / variant)
        randomise(model, seed=9)
    for variant, model in models.items():
        before = logits(model)
        assert not torch.equal(before, expected[variant])
        for other in set(models) - {variant}:
            with pytest.raises(ValueError, match=r"Configs are incompatible: for variant,"):
                hotswap_adapter(model, tmp_path / other, "default", torch_device="cpu")
            assert torch.equal(logits(model), before)
        hotswap_adapter(model, tmp_path / variant, "default", torch_device="cpu")
        assert torch.equal(logits(model), expected[variant])


def test_training_goes_on_after_loading_as_if_nothing_had_been(tmp_path):
    def step(model):
        model.train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        optimizer.zero_grad()
        model(**batch()).loss.backward()
        optimizer.step()

    through, saved = adapted(), adapted()
    step(through)
    step(saved)
    saved.save_pretrained(tmp_path)
    loaded = load(qwen(), str(tmp_path), is_trainable=True)
    step(through)
    step(loaded)
    assert torch.equal(logits(loaded), logits(through))


def test_modules_to_save_come_back(tmp_path):
    model = adapted()
    with torch.no_grad():
        model.base_model.model.score.modules_to_save["default"].weight += 1
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load(qwen(), tmp_path)), logits(model))


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")  # they did
@pytest.mark.parametrize("variant", ["lora_x_eta", "allora"])
@pytest.mark.parametrize("eta", [2.0, 0.3])
def test_a_mixture_under_all_linear_comes_back(tmp_path, variant, eta):
    """Planted: LoRA×η was saved with the patterns that PEFT had written, and refused for them."""
    if not peft_takes_experts():
        pytest.skip("this PEFT leaves experts out")
    fields = {"r": 3, "target_modules": "all-linear", "task_type": "SEQ_CLS"}
    model = get_peft_model(mixtral(), allora_config(eta, variant, **fields))
    randomise(model)
    wanted = logits(model)
    model.save_pretrained(tmp_path)
    loaded = load(mixtral(), tmp_path)
    assert torch.equal(logits(loaded), wanted)
    scalings = [module.scaling["default"] for module in loaded.modules() if hasattr(module, "lora_A")]
    assert scalings == pytest.approx([eta if variant == "lora_x_eta" else 1.0] * 7)


def test_several_adapters_in_one_folder(tmp_path):
    model = adapted()
    model.add_adapter("asf", allora_config(ETA, "asf_lora", **FIELDS))
    randomise(model, seed=3)
    expected = {}
    for name in ("default", "asf"):
        model.set_adapter(name)
        expected[name] = logits(model)
    model.save_pretrained(tmp_path)
    with refused(r"has no adapter_config.json; there is one in asf"):
        (tmp_path / "empty" / "asf").mkdir(parents=True)
        (tmp_path / "empty" / "asf" / "adapter_config.json").write_text("{}")
        load(qwen(), tmp_path / "empty")
    loaded = load(qwen(), tmp_path)
    again = load(loaded, tmp_path / "asf", adapter_name="asf", is_trainable=True)
    assert again is loaded
    assert torch.equal(logits(loaded), expected["default"])
    loaded.set_adapter("asf")
    assert torch.equal(logits(loaded), expected["asf"])
    assert layers(loaded)[0].lora_A["asf"].weight.requires_grad


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [({"lora_alpha": 6}, 2.0), ({"lora_alpha": 10}, 10 / 3), ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0)],
)
def test_lora_trained_on_with_allora_starts_from_the_same_function(tmp_path, fields, scaling):
    model = lora(lora_dropout=0.1, **fields)
    model.save_pretrained(tmp_path)
    ours = train_on(qwen(), tmp_path, eta=ETA)
    assert near(logits(ours), logits(model))
    originals = [module for module in model.modules() if hasattr(module, "lora_A")]
    for one, other in zip(layers(ours), originals, strict=True):
        assert one.scaling["default"] == 1
        assert one.lora_variant["default"] == Rule("allora", ETA, "inverse_sqrt")
        assert one.lora_dropout["default"].p == 0.1
        assert torch.equal(one.lora_A["default"].weight, other.lora_A["default"].weight)
        assert torch.equal(one.lora_B["default"].weight, scaling * other.lora_B["default"].weight)
        assert one.lora_A["default"].weight.requires_grad
    config = ours.peft_config["default"]
    assert (config.lora_alpha, config.use_rslora) == (config.r, False)
    ours.train()(**batch()).loss.backward()
    assert layers(ours)[0].lora_B["default"].weight.grad.norm() > 0


@pytest.mark.filterwarnings("ignore:lora with eva initialization used with low_cpu_mem_usage")
def test_an_eva_start_is_trained_on(tmp_path):
    """Planted: refused for the eva_config beside it, which the file has for its start alone."""
    fields = {"r": 3, "lora_alpha": 12, "target_modules": QWEN_TARGETS}
    model = get_peft_model(qwen(), LoraConfig(init_lora_weights="eva", eva_config=EvaConfig(rho=1.0), **fields))
    for layer in model.modules():
        if hasattr(layer, "lora_A"):  # as EVA draws it from data
            torch.nn.init.orthogonal_(layer.lora_A["default"].weight)
    randomise(model)
    model.save_pretrained(tmp_path)
    trained = train_on(qwen(), tmp_path, 2.0)
    assert torch.allclose(logits(trained), logits(model), rtol=1e-4, atol=1e-5)
    assert trained.peft_config["default"].eva_config is None


def test_train_on_reaches_every_variant_that_is_loras_function(tmp_path):
    model = lora(lora_alpha=6)
    model.save_pretrained(tmp_path)
    ours = train_on(qwen(), tmp_path, 4.0, "lora_x_eta")
    assert near(logits(ours), logits(model))
    assert layers(ours)[0].scaling["default"] == 4
    train_on(ours, tmp_path, 0.5, "allora_od", "inverse", adapter_name="second")
    ours.set_adapter("second")
    assert near(logits(ours), logits(model))
    assert layers(ours)[0].lora_variant["second"] == Rule("allora_od", 0.5, "inverse")


def test_an_allora_adapter_trained_on_with_another_rule(tmp_path):
    adapted().save_pretrained(tmp_path)
    ours = train_on(qwen(), tmp_path, 5.0, "allora_0")
    assert torch.equal(logits(ours), logits(adapted()))
    assert layers(ours)[0].lora_variant["default"] == Rule("allora_0", 5.0, "inverse_sqrt")


@pytest.mark.parametrize(("variant", "rate"), [("allora_0", 0.0), ("allora", 0.05)])
def test_an_adapter_with_dropout_is_trained_on_without_it_where_that_is_asked(tmp_path, variant, rate):
    """Planted: "lora_dropout must be 0 with variant 'allora_0'", with no way but to edit the file."""
    lora(lora_dropout=0.05).save_pretrained(tmp_path)
    assert train_on(qwen(), tmp_path, ETA, variant).peft_config["default"].lora_dropout == rate


def trained_from(folder, **fields):
    """A model from another start than B = 0, one step on, and the start itself saved, as PEFT's conversion wants it."""
    model = get_peft_model(qwen(), allora_config(ETA, r=3, target_modules=QWEN_TARGETS, **fields))
    init, model.peft_config["default"].init_lora_weights = fields["init_lora_weights"], True
    model.save_pretrained(folder)
    model.peft_config["default"].init_lora_weights = init
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    model(**batch()).loss.backward()
    optimizer.step()
    return model


def added_to(base, folder, scaling):
    """Each W + s·BA of a file's matrices, which is what servers of LoRA make of it."""
    weights = load_file(folder / "adapter_model.safetensors")
    for key in [key for key in weights if key.endswith("lora_A.weight")]:
        layer = base.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        layer.weight.data += scaling * weights[key.replace("lora_A", "lora_B")] @ weights[key]
    return base


@pytest.mark.filterwarnings("ignore:.*changes the base weights of the model:UserWarning")
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("init", ["pissa", "olora", "pissa_niter_4"])
def test_an_adapter_that_changed_the_base_weight_exports_once_it_is_converted(tmp_path, init, rslora):
    """Planted: B A of PiSSA's own start, which belongs on another weight; off by nine tenths where it was served."""
    model = trained_from(tmp_path / "start", init_lora_weights=init, use_rslora=rslora)
    with refused(f"init_lora_weights '{init}' changed the base weight.*path_initial_model_for_weight_conversion"):
        export_lora(model, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    model.save_pretrained(tmp_path / "lora", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    converted = load(qwen(), tmp_path / "lora")
    assert near(logits(converted), logits(model))
    export_lora(converted, tmp_path / "export")
    assert near(logits(added_to(qwen(), tmp_path / "export", 3**0.5 if rslora else 1.0)), logits(model))


def test_a_randomized_start_leaves_the_draws_of_every_device_of_its_kind(monkeypatch):
    forked, fork, config = [], torch.random.fork_rng, SimpleNamespace(init_lora_weights="pissa_niter_4")
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forked.append([*devices]) or fork(()))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    for kind in ("cpu", "cuda"):
        with _same_draw(config, SimpleNamespace(weight=SimpleNamespace(device=torch.device(kind)))):
            pass
    assert forked == [[], [0, 1]]


@pytest.mark.bad_input
def test_a_randomized_start_is_no_file_of_its_function(tmp_path):
    """Planted: the SVD was drawn again at `load`, another base weight, and nothing was said."""
    adapted(init_lora_weights="pissa_niter_4").save_pretrained(tmp_path)
    for read in (load, PeftModel.from_pretrained):
        with refused("'pissa_niter_4' draws its start and the base weight anew"):
            read(qwen(), tmp_path)
    base, state = qwen(), torch.get_rng_state()
    get_peft_model(base, allora_config(ETA, **FIELDS, init_lora_weights="pissa_niter_4"))
    assert torch.equal(torch.get_rng_state(), state)  # nobody's other draws depend on it
    model = adapted(init_lora_weights="pissa")
    model.save_pretrained(tmp_path / "exact")
    assert near(logits(load(qwen(), tmp_path / "exact")), logits(model))


def test_gpt2s_lora_is_trained_on_and_exported_without_a_warning(tmp_path):
    """Planted: `fan_in_fan_out`, which PEFT writes for every adapter over a Conv1D, was refused."""
    fields = {"r": 3, "target_modules": ["c_attn", "c_fc"], "task_type": "SEQ_CLS"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own, of the transposed weight
        model = get_peft_model(gpt2(), LoraConfig(**fields))
    randomise(model)
    model.save_pretrained(tmp_path / "lora")
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text(encoding="utf-8"))["fan_in_fan_out"] is True
    ours = train_on(gpt2(), tmp_path / "lora", eta=ETA)
    assert near(logits(ours), logits(model))
    export_lora(ours, tmp_path / "export")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = PeftModel.from_pretrained(gpt2(), tmp_path / "export")
    assert near(logits(again), logits(model))


def test_export_without_a_task_says_which_model(tmp_path):
    model = get_peft_model(qwen(), allora_config(ETA, r=3, target_modules=["q_proj"]), "mine")
    export_lora(model, tmp_path, "mine")
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["auto_mapping"]["base_model_class"] == "Qwen2ForSequenceClassification"
    assert saved["inference_mode"] is True
