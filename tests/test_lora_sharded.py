"""FSDP1 as the Trainer sets it, FSDP2 on blocks and on A and B: as one process on the joined batch, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    meeting = tmp_path_factory.mktemp("fsdp") / "file"
    command, environment = [sys.executable, "-m", "tests.lora_sharded"], os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [*command, str(rank), str(meeting)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, ended, strict=True):
        assert process.returncode == 0, errors
    return json.loads(ended[0][0])


@pytest.mark.parametrize("rule", ["allora", "allora_od", "asf_lora", "ALLoRAAdamW"])
@pytest.mark.parametrize(
    "wrap", ["DDP", "FSDP1, use_orig_params", "FSDP1, flat", "FSDP2, blocks", "FSDP2, A and B alone", "FSDP2, B alone"]
)
def test_two_processes_equal_one_on_the_joined_batch(two_processes, wrap, rule):
    found = two_processes[f"{wrap}: {rule}"]
    if rule == "ALLoRAAdamW" and "FSDP1" in wrap:
        assert "has no matrices A and B of its own, FSDP1 flattens them; use FSDP2 (fully_shard) or DDP" in found
        assert "\n" not in found
        return
    moved, difference, count = found
    assert moved > 5e-3
    assert difference < 2e-6
    assert count == 8


def test_an_optimizer_made_before_fsdp1_flattens_the_pairs_refuses_its_step(two_processes):
    found = two_processes["FSDP1, use_orig_params: made before"]
    assert "params: A and B wanted as matrices, whole or sharded by their rows" in found
    assert "FSDP1 flattens them: use FSDP2 or DDP" in found


def test_another_rule_is_told_apart(two_processes):
    """Planted: plain LoRA in one process, against ALLoRA in two."""
    _, difference, _ = two_processes["planted"]
    assert difference > 1e-3
