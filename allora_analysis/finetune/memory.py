"""The largest memory that a run held, for its record's provenance, and whether there was enough.

Checked by `tests/test_finetune_run.py`.
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch

from allora_analysis.cli import TORCH_FULL

PROCESS = Path("/proc/self")


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no more memory: on a CPU torch has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in TORCH_FULL)


def start(device: str) -> None:
    """Forget what the process held before, where the system can."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            (PROCESS / "clear_refs").write_text("5")


def peak(device: str) -> int:
    """The most since `start`: of the GPU, or the process's resident memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError, StopIteration):
        lines = (PROCESS / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
