"""What is supported and what is refused: each cell of the table in docs/training.md is tried here.

`python -m tests.test_lora_support` writes the table anew, between its two marks.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bitsandbytes import nn as bnb
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.pytorch_utils import Conv1D

from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.peft import allora_config
from allora_analysis.validation import ArgumentError

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- support: tests/test_lora_support.py -->", "<!-- /support -->"
WAYS = ("`allora_config`, SGD", "`LoraConfig`, `ALLoRAAdamW`")


def linears(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 6, dtype=dtype))


def quantised(bits: int) -> nn.Module:
    """As bitsandbytes gives it, on a CPU."""
    four = {"compute_dtype": torch.float32}
    kind, options = (bnb.Linear4bit, four) if bits == 4 else (bnb.Linear8bitLt, {"has_fp16_weights": False})
    few = kind(8, 8, **options)
    few.load_state_dict(nn.Linear(8, 8).state_dict())
    return nn.Sequential(few.to("cpu").requires_grad_(False))


def tied() -> nn.Module:
    """A language model whose head is its embedding."""
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=True))


class Attention(nn.MultiheadAttention):
    """Of one input with itself."""

    def forward(self, x):
        return super().forward(x, x, x)


class Experts(nn.Module):
    """Four weights in one parameter."""

    def __init__(self):
        super().__init__()
        self.stack, self.gate = nn.Parameter(torch.ones(4, 8, 8)), nn.Linear(8, 4)

    def forward(self, x):
        return torch.einsum("ni,eoi,ne->no", x, self.stack, self.gate(x).softmax(-1))


@dataclass(frozen=True)
class Feature:
    words: str
    fields: dict[str, Any] = field(default_factory=dict)
    base: Callable[[], nn.Module] = linears
    inputs: Callable[[], torch.Tensor] = lambda: torch.randn(4, 8)
    called: dict[str, Any] = field(default_factory=dict)
    no: tuple[str, str] = ("", "")
    """Why not, in the words of the refusal."""


FEATURES = [
    Feature("several layers, biases, `modules_to_save`", {"bias": "lora_only", "modules_to_save": ["1"]}),
    Feature("`lora_alpha` other than r", {"lora_alpha": 16}),
    Feature("rsLoRA", {"use_rslora": True}),
    Feature("`rank_pattern`, `alpha_pattern`", {"rank_pattern": {"0": 3}, "alpha_pattern": {"0": 9}}),
    Feature("`lora_dropout`", {"lora_dropout": 0.1}),
    Feature("`init_lora_weights`: gaussian", {"init_lora_weights": "gaussian"}),
    Feature("`init_lora_weights`: orthogonal", {"init_lora_weights": "orthogonal"}),
    Feature("`init_lora_weights`: PiSSA", {"init_lora_weights": "pissa"}),
    Feature("`init_lora_weights`: OLoRA", {"init_lora_weights": "olora"}),
    Feature(
        "a base in bfloat16",
        base=lambda: linears(torch.bfloat16),
        inputs=lambda: torch.randn(4, 8, dtype=torch.bfloat16),
    ),
    Feature("GPT-2's `Conv1D`", {"fan_in_fan_out": True}, base=lambda: nn.Sequential(Conv1D(8, 8))),
    Feature("DoRA", {"use_dora": True}),
    Feature("`lora_bias`", {"lora_bias": True}),
    Feature(
        "activated LoRA (`alora_invocation_tokens`)",
        {"alora_invocation_tokens": [1]},
        inputs=lambda: torch.randn(2, 4, 8),
        called={"alora_offsets": [3, 2]},
        no=("they have a forward pass of their own", ""),
    ),
    Feature("`nn.Embedding`", base=lambda: nn.Sequential(nn.Embedding(9, 8)), inputs=lambda: torch.arange(9)),
    Feature(
        "an embedding and the head tied to it, one pair for both (`ensure_weight_tying`)",
        {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        base=tied,
        no=("the head's rows are the embedding's columns", "shares a matrix with another pair"),
    ),
    Feature("convolutions", base=lambda: nn.Sequential(nn.Conv2d(2, 3, 3)), inputs=lambda: torch.randn(1, 2, 4, 4)),
    Feature(
        "`nn.MultiheadAttention`",
        base=lambda: nn.Sequential(Attention(8, 2)),
        no=("nn.MultiheadAttention reads weights and calls none", ""),
    ),
    Feature(
        "experts by `target_parameters`",
        {"target_modules": [], "target_parameters": ["0.stack"]},
        base=lambda: nn.Sequential(Experts()),
    ),
    Feature("a 4-bit base (bitsandbytes)", base=lambda: quantised(4)),
    Feature("an 8-bit base (bitsandbytes)", base=lambda: quantised(8)),
]


def adapted(feature: Feature, way: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    fields = {"r": 2, "target_modules": ["0"]} | feature.fields
    if way == 1:
        model = get_peft_model(feature.base(), LoraConfig(**fields))
        return model, ALLoRAAdamW(param_groups(model), 0.1, 2.0, weight_decay=0.0)
    fields.pop("fan_in_fan_out", None)  # known by the layer
    model = get_peft_model(feature.base(), allora_config(2.0, **fields))
    return model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)


def attempt(feature: Feature, way: int) -> str:
    """One training step: A or B moves and the doctor says that ALLoRA is on, or one line says why not."""
    torch.manual_seed(0)
    if said := feature.no[way]:
        with pytest.raises(ArgumentError, match=f"^[^\n]*{re.escape(said)}[^\n]*$"):
            adapted(feature, way)
        return f"no: {said}"
    model, optimizer = adapted(feature, way)
    pairs = lora_pairs(model)
    before = [(pair.a.detach().clone(), pair.b.detach().clone()) for pair in pairs]
    output = model(feature.inputs(), **feature.called)
    (output[0] if isinstance(output, tuple) else output).float().square().sum().backward()
    found = doctor(model, optimizer)
    optimizer.step()
    assert found.verdict == "on", found
    assert not any(
        torch.equal(a, pair.a) and torch.equal(b, pair.b) for (a, b), pair in zip(before, pairs, strict=True)
    )
    return "yes"


def table() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [(feature.words, *(attempt(feature, way) for way in (0, 1))) for feature in FEATURES]
    lines = ["| " + " | ".join(row) + " |" for row in (("layer or option", *WAYS), ("---",) * 3, *rows)]
    return "\n".join([BEGIN, *lines, END])


@pytest.mark.xfail(Version(peft.__version__) < Version("0.21"), reason="PEFT below 0.21: experts are refused")
@pytest.mark.filterwarnings("ignore")
def test_the_page_says_what_is_supported_and_what_is_refused():
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == table()
    found = table()
    assert all(found.count(word) > 2 for word in ("| yes", "| no: "))


def test_a_step_that_does_nothing_is_no_support():
    """Planted: inputs of zeros, where B gets no gradient."""
    with pytest.raises(AssertionError):
        attempt(Feature("zeros", inputs=lambda: torch.zeros(4, 8)), 0)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page[: page.index(BEGIN)] + table() + page[page.index(END) + len(END) :], encoding="utf-8")
