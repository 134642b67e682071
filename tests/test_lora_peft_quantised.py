"""ALLoRA over bitsandbytes' 4-bit and 8-bit bases, on a CPU, against the layer whose weight is the dequantized one."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import BitsAndBytesConfig, Qwen2ForSequenceClassification, Trainer, TrainingArguments

from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.peft import allora_config, load
from allora_analysis.lora.peft.layer import ALLoRALayer
from allora_analysis.validation import ArgumentError
from tests.foreign_lora import KohyaModule
from tests.tiny_peft_models import QWEN_TARGETS, batch, qwen, randomise

bitsandbytes = pytest.importorskip("bitsandbytes")

pytestmark = pytest.mark.filterwarnings(
    "ignore:MatMul8bitLt",
    "ignore:Merge lora module",
    "ignore:Unmerge lora module",
    "ignore:Could not find a config file",
    "ignore:.*use_reentrant",
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore:.*pin_memory",
    "ignore:Some matrices hidden dimension",
)
MERGEABLE = ("allora", "allora_0", "allora_od", "lora_x_eta")
ETA = 2.0
# A product of the 8-bit layer rounds x as well, and dequantizes its weight by another way than the merge.
TOLERANCE = {"4bit": 1e-5, "8bit": 5e-2}


def quantised(bits: str) -> tuple[nn.Module, nn.Module]:
    """A 64 → 32 layer in few bits, and the dense one with its weight."""
    torch.manual_seed(0)
    dense = nn.Linear(64, 32)
    if bits == "4bit":
        layer = bitsandbytes.nn.Linear4bit(64, 32, quant_type="nf4", compute_dtype=torch.float32)
    else:
        layer = bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=False, threshold=0.0)
    layer.load_state_dict(dense.state_dict())
    layer = layer.to("cpu").requires_grad_(False)
    if bits == "4bit":
        dense.weight.data = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    else:
        dense.weight.data = layer.weight.data * (layer.weight.SCB / 127)[:, None]
    return layer, dense


def adapted(base: nn.Module, variant: str = "allora", **fields):
    torch.manual_seed(1)
    fields = {"r": 4, "target_modules": ["0"]} | fields
    model = get_peft_model(nn.Sequential(base), allora_config(ETA, variant, **fields))
    randomise(model, 0.1)
    return model


def relative(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


def passes(model, x):
    x = x.clone().requires_grad_()
    output = model(x)
    output.square().sum().backward()
    (pair,) = lora_pairs(model)
    return output.detach(), x.grad, pair.a.grad, pair.b.grad


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("variant", [*MERGEABLE, "asf_lora"])
def test_forward_and_backward_are_those_over_the_dequantised_base(variant, bits):
    layer, dense = quantised(bits)
    x = torch.randn(5, 64)
    model = adapted(layer, variant)
    found, wanted = passes(model, x), passes(adapted(dense, variant), x)
    assert isinstance(model.base_model.model[0], ALLoRALayer)
    for one, other in zip(found, wanted, strict=True):
        assert relative(one, other) < TOLERANCE[bits]
    # Planted: plain LoRA, whose gradients the same assertion rejects.
    plain = passes(adapted(dense, "allora", adaptor="constant"), x)
    assert variant in ("asf_lora", "lora_x_eta") or relative(plain[3], wanted[3]) > 0.06


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("variant", MERGEABLE)
def test_merging_saving_and_switching_off(variant, bits, tmp_path):
    layer, dense = quantised(bits)
    x, model = torch.randn(5, 64), adapted(copy.deepcopy(dense), variant)
    wanted = model(x).detach()
    few = adapted(layer, variant)
    with torch.no_grad():
        with few.disable_adapter():
            assert relative(few(x), dense(x)) < TOLERANCE[bits]
        few.eval().save_pretrained(tmp_path)
        again = load(nn.Sequential(quantised(bits)[0]), tmp_path)
        torch.testing.assert_close(again(x), few(x))
        merged = few.merge_and_unload()
        assert type(merged[0]) is type(layer)
        assert relative(merged(x), wanted) < 0.2  # quantized again
        assert relative(dense(x), wanted) > 0.2


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_lora_bias_over_a_quantised_base(bits):
    layer, dense = quantised(bits)
    x = torch.randn(5, 64)
    found, wanted = passes(adapted(layer, lora_bias=True), x), passes(adapted(dense, lora_bias=True), x)
    for one, other in zip(found, wanted, strict=True):
        assert relative(one, other) < TOLERANCE[bits]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base weight, and a layer Linear4bit is quantized"),
        ({"init_lora_weights": "olora"}, "'olora' changes the base weight, and a layer Linear4bit is quantized"),
        ({"use_dora": True}, "use_dora: for dense linear layers alone; leave a layer Linear4bit out"),
    ],
)
def test_what_needs_the_weight(fields, match):
    with pytest.raises(ArgumentError, match=match):
        adapted(quantised("4bit")[0], **fields)


def loaded(bits: str, folder) -> nn.Module:
    """A tiny Qwen2 in few bits, as `from_pretrained` gives it."""
    qwen().save_pretrained(folder)
    few = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(**few if bits == "4bit" else {"load_in_8bit": True}, llm_int8_skip_modules=["score"])
    return Qwen2ForSequenceClassification.from_pretrained(folder, quantization_config=config, device_map="cpu")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("way", ["allora_config, SGD", "LoraConfig, ALLoRAAdamW"])
def test_qloras_recipe(way, bits, tmp_path):
    """`prepare_model_for_kbit_training`, gradient checkpointing, the Trainer: the doctor says that ALLoRA is on."""
    torch.manual_seed(0)
    model = prepare_model_for_kbit_training(loaded(bits, tmp_path), use_gradient_checkpointing=True)
    fields = {"r": 2, "target_modules": QWEN_TARGETS, "task_type": "SEQ_CLS"}
    if way == "allora_config, SGD":
        model = get_peft_model(model, allora_config(ETA, **fields))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    else:
        model = get_peft_model(model, LoraConfig(**fields))
        optimizer = ALLoRAAdamW(param_groups(model), lr=1e-2, eta=ETA)
    data = [{key: value[i] for key, value in batch().items()} for i in range(4)]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, max_grad_norm=0, report_to="none", disable_tqdm=True, use_cpu=True
    )
    base = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train()
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)
    pairs = lora_pairs(model)
    assert len(pairs) == 6
    assert all(pair.quantised and pair.b.abs().max() > 0 for pair in pairs)
    model(**batch()).loss.backward()
    assert doctor(model, optimizer).verdict == "on"


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("way", ["allora_config", "LoraConfig", "another library's"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_doctor_leaves_the_base_and_its_gradients_as_they_were(way, bits, dropout, monkeypatch):
    """bitsandbytes packs a 4-bit weight for inference where a CPU has AVX512-BF16, the layer is in eval mode and its
    input wants no gradient; nothing undoes it, and no gradient passes the packed layer."""
    inference = []
    for kind in (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt):

        def spied(layer, x, forward=kind.forward):
            inference.extend([layer] if not (layer.training or x.requires_grad) else [])
            return forward(layer, x)

        monkeypatch.setattr(kind, "forward", spied)
    base = nn.Linear(32, 64), quantised(bits)[0]
    if way == "another library's":
        model = nn.Sequential(*(KohyaModule(layer.requires_grad_(False), 4, 8.0) for layer in base))
        model[1].base_layer, model[1].dropout = base[1], nn.Dropout(dropout)
        nn.init.normal_(model[1].lora_up.weight)
    else:
        fields = {"r": 4, "target_modules": ["0", "1"], "lora_dropout": dropout}
        config = LoraConfig(**fields) if way == "LoraConfig" else allora_config(ETA, **fields)
        model = get_peft_model(nn.Sequential(*base), config)
        randomise(model, 0.1)
    x = torch.randn(5, 32)

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    wanted, weights = gradients(), [p.clone() for p in model.parameters()]
    doctor(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))
    assert not inference
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), weights, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(gradients(), wanted, strict=True))
    assert len(wanted) == 4
