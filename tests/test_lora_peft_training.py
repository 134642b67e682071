"""Training PEFT models with ALLoRA: transformers' Trainer, resuming, two processes, torch.compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from allora_analysis.lora.peft import ALLoRALinearLayer, allora_config, load
from tests.tiny_peft_models import QWEN_TARGETS, batch, logits, qwen, randomise

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore:Could not find a config file",
    "ignore:'pin_memory' argument",
    "ignore::DeprecationWarning",
)
ROOT = Path(__file__).parents[1]


def adapted(variant="allora"):
    config = allora_config(2.0, variant, r=3, target_modules=QWEN_TARGETS, task_type="SEQ_CLS")
    return get_peft_model(qwen(), config)


def trainer(model, folder, steps):
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=0.05, optim="sgd",
        save_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, seed=0, max_grad_norm=0,
        lr_scheduler_type="constant",
    )  # fmt: skip
    rows = batch(8)
    data = [{key: value[i] for key, value in rows.items()} for i in range(8)]
    return Trainer(model=model, args=arguments, train_dataset=data)


@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora", "lora_x_eta"])
def test_backward_inside_autocast_of_a_forward_outside(variant):
    model, found = adapted(variant), []
    randomise(model)
    for inside in (False, True):
        model.zero_grad()
        loss = model(**batch()).loss
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()  # the other layers' own backward passes are autocast's


@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora", "lora_x_eta"])
def test_trainer_trains(tmp_path, variant):
    model = adapted(variant)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    one = trainer(model, tmp_path, 4)
    one.train()
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        moved = not torch.equal(p, start[name])
        assert moved == p.requires_grad, name
    assert sum(p.requires_grad for p in model.parameters()) == 13
    checkpoint = load(qwen(), tmp_path / "checkpoint-4")
    assert torch.equal(logits(checkpoint), logits(model))


def test_trainer_resumes_with_the_rule(tmp_path):
    through = adapted()
    trainer(through, tmp_path / "through", 4).train()
    trainer(adapted(), tmp_path / "parts", 2).train()
    resumed = adapted()
    trainer(resumed, tmp_path / "parts", 4).train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    assert {m.lora_variant["default"].name for m in resumed.modules() if isinstance(m, ALLoRALinearLayer)} == {"allora"}
    torch.testing.assert_close(logits(resumed), logits(through), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    meeting = tmp_path_factory.mktemp("ddp") / "file"
    command = [sys.executable, "-m", "tests.peft_in_two_processes"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [*command, str(rank), str(meeting)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, ended, strict=True):
        assert process.returncode == 0, errors
    return json.loads(ended[0][0])


@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora"])
def test_two_processes_equal_one_on_the_joined_batch(two_processes, variant):
    assert two_processes[f"{variant}, moved"] > 1e-3
    assert two_processes[f"{variant}, ddp"] < 1e-12


@pytest.mark.parametrize("variant", ["allora", "allora_od", "asf_lora"])
def test_compiled_equals_eager(two_processes, variant):
    assert two_processes[f"{variant}, compiled"] < 1e-12
