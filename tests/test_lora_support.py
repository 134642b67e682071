"""What is supported and what is refused: each cell of the table in docs/training.md is tried here.

`python -m tests.test_lora_support` writes the table anew, between its two marks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.peft import allora_config
from allora_analysis.validation import ArgumentError

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- support: tests/test_lora_support.py -->", "<!-- /support -->"
YES, REFUSED = "yes", "no"
WAYS = ("`allora_config`, SGD", "`LoraConfig`, `ALLoRAAdamW`")


def linears(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 6, dtype=dtype))


def quantised(bits: int) -> nn.Module:
    """As bitsandbytes gives it, on a CPU."""
    few = (
        bitsandbytes.nn.Linear4bit(8, 8, compute_dtype=torch.float32)
        if bits == 4
        else bitsandbytes.nn.Linear8bitLt(8, 8, has_fp16_weights=False)
    )
    few.load_state_dict(nn.Linear(8, 8).state_dict())
    return nn.Sequential(few.to("cpu").requires_grad_(False))


class Tied(nn.Module):
    """A language model whose head is its embedding, as PEFT finds the two."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.head.weight = self.embedding.weight
        self.config = Config()

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, x):
        return self.head(self.embedding(x))


class Config(dict):
    tie_word_embeddings, _tied_weights_keys = True, {}


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
        no=("alora_invocation_tokens must be left out", "whose change of the weight is not s·BA"),
    ),
    Feature("`nn.Embedding`", base=lambda: nn.Sequential(nn.Embedding(9, 8)), inputs=lambda: torch.arange(9)),
    Feature(
        "an embedding and the head tied to it, one pair for both (`ensure_weight_tying`)",
        {"target_modules": ["embedding", "head"], "ensure_weight_tying": True},
        base=Tied,
        inputs=lambda: torch.arange(9),
        no=("the head's rows are the embedding's columns", "shares a matrix with another pair"),
    ),
    Feature("convolutions", base=lambda: nn.Sequential(nn.Conv2d(2, 3, 3)), inputs=lambda: torch.randn(1, 2, 4, 4)),
    Feature(
        "`nn.MultiheadAttention`",
        base=lambda: nn.Sequential(Attention(8, 2)),
        no=("nn.MultiheadAttention calls none", ""),
    ),
    Feature(
        "experts by `target_parameters`",
        {"target_modules": [], "target_parameters": ["0.stack"]},
        base=lambda: nn.Sequential(Experts()),
    ),
    Feature("a 4-bit base (bitsandbytes)", base=lambda: quantised(4)),
    Feature("an 8-bit base (bitsandbytes)", base=lambda: quantised(8)),
]


def attempt(feature: Feature, way: int) -> str:
    """One training step: B moves and the doctor says that ALLoRA is on, or one line says no."""
    if not feature.ways[way]:
        return NOT_TRIED
    torch.manual_seed(0)
    fields = {"r": 2, "target_modules": ["0"]} | feature.fields
    try:
        if way == 0:
            own = {key: value for key, value in fields.items() if key != "fan_in_fan_out"}  # known by the layer
            model = get_peft_model(feature.base(), allora_config(2.0, **own))
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        else:
            model = get_peft_model(feature.base(), LoraConfig(**fields))
            optimizer = ALLoRAAdamW(param_groups(model), 0.1, 2.0)
    except ArgumentError as error:
        return REFUSED if "\n" not in str(error) else "refused in several lines"
    before = [pair.b.detach().clone() for pair in lora_pairs(model)]
    model(feature.inputs()).float().square().sum().backward()
    found = doctor(model, optimizer)
    optimizer.step()
    assert found.verdict == "on", found
    assert all(not torch.equal(old, pair.b) for old, pair in zip(before, lora_pairs(model), strict=True))
    return YES


def table() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [(feature.words, *(attempt(feature, way) for way in (0, 1))) for feature in FEATURES]
    lines = ["| | " + " | ".join(WAYS) + " |", "|---|---|---|", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join([BEGIN, *lines, END])


@pytest.mark.filterwarnings("ignore")
def test_the_page_says_what_is_supported_and_what_is_refused():
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == table()
    found = table()
    assert all(found.count(word) > 2 for word in (f"| {YES}", f"| {REFUSED}"))


def test_a_step_that_does_nothing_is_no_support():
    """Planted: inputs of zeros, where B gets no gradient."""
    with pytest.raises(AssertionError):
        attempt(Feature("zeros", inputs=lambda: torch.zeros(4, 8)), 0)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page[: page.index(BEGIN)] + table() + page[page.index(END) + len(END) :], encoding="utf-8")
