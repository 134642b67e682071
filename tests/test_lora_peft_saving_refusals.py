"""Adapters on disk that do not load, or do not export: one line, and nothing is changed."""

import json
import os
import re
from pathlib import Path

import accelerate
import jaxtyping
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from allora_analysis.lora.peft import export_lora, load, train_on
from allora_analysis.validation import ArgumentError
from tests.test_lora_peft_refusals import refused, refused_and_unchanged, state
from tests.test_lora_peft_saving import ETA, adapted, layers, lora
from tests.tiny_peft_models import logits, qwen

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning", "ignore:Could not find a config file"
)


@pytest.mark.bad_input
@pytest.mark.parametrize("call", [load, lambda *args: train_on(*args, 2.0), export_lora], ids=["load", "on", "export"])
@pytest.mark.parametrize("exchanged", [True, False])
def test_a_model_and_a_folder_in_this_order(call, exchanged, tmp_path, request):
    model = torch.nn.Linear(2, 2)
    given, received = ((str(tmp_path), model), "str, Linear") if exchanged else ((model, 5), "Linear, int")
    untyped = request.config.option.untyped
    with pytest.raises(ArgumentError if untyped else jaxtyping.TypeCheckError) as caught:
        call(*given)
    words = f"model and folder must be a torch.nn.Module and a path, in this order, received {received}"
    assert not untyped or str(caught.value) == words


def damage(folder: Path, what: str) -> Path:
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = sorted(tensors)[0]
    if what == "no folder":
        return folder / "missing"
    if what == "no config":
        config.unlink()
    elif what == "torn config":
        config.write_text(config.read_text(encoding="utf-8")[:100])
    elif what == "list config":
        config.write_text("[]")
    elif what == "no weights":
        weights.unlink()
    elif what == "torn weights":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif what == "empty weights":
        weights.write_bytes(b"")
    elif what == "nan":
        save_file(tensors | {first: tensors[first] * float("nan")}, weights)
    elif what == "inf":
        save_file(tensors | {first: tensors[first] + float("inf")}, weights)
    elif what == "fewer keys":
        save_file({key: value for key, value in tensors.items() if key != first}, weights)
    elif what == "more keys":
        save_file(tensors | {"base_model.model.other": torch.zeros(2)}, weights)
    elif what == "other shapes":
        save_file(tensors | {first: tensors[first][:1].clone()}, weights)
    else:
        saved = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps(saved | json.loads(what)))
    return folder


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("no folder", r"folder '.*missing' has no adapter_config.json; give the folder that save_pretrained wrote"),
        ("no config", r"has no adapter_config.json"),
        ("torn config", r"adapter_config.json: torn, no JSON .* save the adapter again"),
        ("list config", r"adapter_config.json: a JSON object wanted, received list"),
        ("no weights", r"has no adapter_model.safetensors"),
        ("torn weights", r"adapter_model.safetensors: torn .* save the adapter again"),
        ("empty weights", r"adapter_model.safetensors: torn"),
        ("nan", r"adapter_model.safetensors: NaN or infinity in base_model.*; take an earlier checkpoint"),
        ("inf", r"NaN or infinity in"),
        ("fewer keys", r"does not fit the model: 1 keys are in the file or in the model alone, first base_model"),
        ("more keys", r"does not fit the model: 1 keys are in the file or in the model alone, first base_model.*other"),
        ("other shapes", r"does not fit the model: .*size mismatch"),
        ('{"variant": "allora_9"}', r"adapter_config.json: variant must be one of"),
        ('{"eta": -1}', r"adapter_config.json: eta must be"),
        ('{"alpha_pattern": [1]}', r"adapter_config.json: alpha_pattern must give layers their alphas, received \[1\]"),
        ('{"lora_alpha": 1e308}', r"adapter_config.json: lora_alpha 1e\+308 gives: NaN or infinity in base_model"),
        ('{"lora_alpha": -9}', r"adapter_config.json: lora_alpha must be"),
        ('{"use_dora": true}', r"6 keys are in the file or in the model alone, first .*lora_magnitude_vector"),
        (
            '{"of_a_later_peft": 1}',
            r"adapter_config.json: unknown to this version of PEFT: of_a_later_peft; upgrade it",
        ),
        ('{"target_modules": ["up_proj"]}', r"does not fit the model"),
        ('{"target_modules": ["nothing"]}', r"does not fit the model: .*"),
        ('{"r": 17, "lora_alpha": 17}', r"does not fit the model: .*size mismatch"),
    ],
)
def test_folders_that_do_not_load(tmp_path, what, match):
    adapted().save_pretrained(tmp_path)
    folder, model = damage(tmp_path, what), qwen().train()
    with refused_and_unchanged(model, match):
        load(model, folder)
    loaded = adapted()
    before = logits(loaded)
    with refused_and_unchanged(loaded, match):
        load(loaded, folder, adapter_name="second")
    assert torch.equal(logits(loaded), before)


@pytest.mark.bad_input
def test_eta_that_is_missing_from_the_file(tmp_path):
    adapted().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    del saved["eta"]
    path.write_text(json.dumps(saved))
    with refused("adapter_config.json: eta is missing"):
        load(qwen(), tmp_path)
    del saved["variant"]
    path.write_text(json.dumps(saved))
    with refused(r"holds plain PEFT's adapter \(LORA\): load it with peft.PeftModel.from_pretrained, or .* train_on"):
        load(qwen(), tmp_path)


@pytest.mark.bad_input
def test_a_name_that_is_taken(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    with refused_and_unchanged(model, "adapter_name: the model has an adapter 'default'; choose another name"):
        load(model, tmp_path)


@pytest.mark.bad_input
def test_loading_onto_plain_peft(tmp_path):
    adapted().save_pretrained(tmp_path)
    model = lora()
    with refused_and_unchanged(model, "layers are plain PEFT's"):
        load(model, tmp_path, adapter_name="second")
    assert list(model.peft_config) == ["default"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"use_dora": True}, r"use_dora must be left out"),
        ({"rank_pattern": {"q_proj": 2}}, r"rank_pattern must be left out"),
        ({"init_lora_weights": "olora"}, r"a LoRA adapter wanted, received .* init_lora_weights 'olora'; convert it"),
    ],
)
def test_adapters_that_are_not_loras_alone(tmp_path, fields, match):
    lora(**fields).save_pretrained(tmp_path)
    model = qwen()
    with refused_and_unchanged(model, match):
        train_on(model, tmp_path, ETA)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ((-1.0,), r"^eta must be .*, received -1"),
        ((2.0, "alora"), r"^variant must be one of .*; received 'alora'"),
        ((2.0, "allora", "sqrt"), r"^adaptor must be one of .*; received 'sqrt'"),
    ],
)
def test_the_callers_own_mistake_is_not_the_files(tmp_path, rule, match):
    """Planted: "adapter_config.json: eta must be …", and a folder that is not there came first."""
    with refused_and_unchanged(base := qwen(), match):
        train_on(base, tmp_path / "none", *rule)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("what", "match"),
    [
        ('{"r": 0}', "r must be a whole number, 1 or above, received 0"),
        ('{"r": "8"}', "r must be a whole number, 1 or above, received '8'"),
        ('{"r": null}', "r must be a whole number, 1 or above, received None"),
        ('{"r": 2.5, "use_rslora": true}', "r must be a whole number, 1 or above, received 2.5"),
        ('{"lora_alpha": null}', "lora_alpha must be a finite number above 0, received None"),
        ('{"lora_alpha": "x"}', "lora_alpha must be a finite number above 0, received 'x'"),
        ('{"lora_alpha": 0}', "lora_alpha must be a finite number above 0, received 0"),
        ('{"lora_alpha": -1}', "lora_alpha must be a finite number above 0, received -1"),
        ('{"lora_alpha": NaN}', "lora_alpha must be a finite number above 0, received nan"),
    ],
)
def test_a_scaling_that_cannot_be_read_from_the_file(tmp_path, what, match):
    lora().save_pretrained(tmp_path)
    damage(tmp_path, what)
    with refused_and_unchanged(base := qwen(), f"adapter_config.json: {match}; save the adapter again"):
        train_on(base, tmp_path, ETA)


@pytest.mark.bad_input
@pytest.mark.parametrize(("alpha", "size"), [("1e+308", 1.0), ("1e+30", 1e20)])
def test_a_scaling_that_float32_does_not_hold(tmp_path, alpha, size):
    lora().save_pretrained(tmp_path)
    damage(tmp_path, f'{{"lora_alpha": {alpha}}}')
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: size * value for key, value in load_file(path).items()}, path)
    words = rf"lora_alpha {re.escape(alpha)} gives: NaN or infinity in base_model.*lora_B"
    with refused_and_unchanged(base := qwen(), words):
        train_on(base, tmp_path, ETA)


@pytest.mark.bad_input
@pytest.mark.parametrize("way", [load, lambda model, folder: train_on(model, folder, ETA)], ids=["load", "train_on"])
def test_files_that_are_hostile(tmp_path, way):
    """Weights that a header calls integers, which PEFT casts to another function, and JSON that no stack holds."""
    adapted().save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {(key := sorted(tensors)[0]): tensors[key].view(torch.int32)}, path)
    with refused_and_unchanged(
        base := qwen(), r"lora_A.weight is torch.int32, floating wanted; save the adapter again"
    ):
        way(base, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"r": ' + "[" * 10**5 + "]" * 10**5 + "}")
    with refused_and_unchanged(base, r"adapter_config.json: torn, no JSON \(.*recursion"):
        way(base, tmp_path)


@pytest.mark.bad_input
def test_asf_lora_is_another_function(tmp_path):
    lora().save_pretrained(tmp_path / "lora")
    adapted("asf_lora").save_pretrained(tmp_path / "asf")
    with refused("not linear in x"):
        train_on(qwen(), tmp_path / "lora", ETA, "asf_lora")
    with refused("not linear in x"):
        train_on(qwen(), tmp_path / "asf", ETA)
    with refused("not linear in x"):
        export_lora(adapted("asf_lora"), tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.bad_input
def test_what_does_not_export(tmp_path):
    model = adapted()
    with refused(r"adapter_name must name an ALLoRA adapter of a PeftModel, received 'other'; it has \['default'\]"):
        export_lora(model, tmp_path, "other")
    with refused("adapter 'default': .* received plain PEFT's: model.save_pretrained.folder. writes that as"):
        export_lora(lora(), tmp_path)
    layers(model)[0].lora_B["default"].weight.data[0, 0] = float("nan")
    with refused("adapter 'default': NaN or infinity in base_model"):
        export_lora(model, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.bad_input
@pytest.mark.parametrize("failing", ["weights", "config"])
def test_an_export_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch, failing):
    """Planted: a disk that was full when the config's turn came left new weights beside the old config."""
    export_lora(adapted(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"adapter_config.json", "adapter_model.safetensors"}

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    if failing == "weights":
        monkeypatch.setattr("allora_analysis.lora.peft.saving.save_file", full)
    else:
        monkeypatch.setattr(LoraConfig, "save_pretrained", full)
    with refused(r"folder '.*': cannot be written \(No space left on device\); name another folder"):
        export_lora(adapted(r=2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    export_lora(adapted(r=2), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 2
    assert {path.name for path in tmp_path.iterdir()} == before.keys()


@pytest.mark.parametrize("at", ["weights", "config"])
def test_an_export_stopped_between_its_renames_leaves_no_mixed_pair(tmp_path, monkeypatch, at):
    """Planted: weights of rank 2 beside the config of rank 4, which plain PEFT would have refused or misread."""
    export_lora(adapted(), tmp_path)
    right = os.replace

    def stopped(source, target):
        if Path(target) == tmp_path / {"weights": "adapter_model.safetensors", "config": "adapter_config.json"}[at]:
            raise KeyboardInterrupt
        right(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_lora(adapted(r=2), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_model.safetensors"}
    monkeypatch.undo()
    export_lora(adapted(r=2), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 2


@pytest.mark.bad_input
def test_exports_to_no_folder_and_of_weights_that_are_elsewhere(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(r"folder '.*file': cannot be written \(File exists\); name another folder"):
        export_lora(adapted(), tmp_path / "file")
    offloaded = accelerate.cpu_offload(adapted(), execution_device=torch.device("cpu"))
    with refused("adapter 'default': its weights are offloaded; export it before offloading"):
        export_lora(offloaded, tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.bad_input
def test_errors_are_value_errors(tmp_path):
    model = qwen()
    before = state(model)
    with pytest.raises(ValueError, match=r"has no adapter_config.json") as caught:
        load(model, tmp_path)
    assert isinstance(caught.value, ArgumentError)
    assert state(model) == before
