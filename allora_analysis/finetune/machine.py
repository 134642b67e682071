"""The machine that a run is on: its processes, as the environment names them, its largest memory, and whether enough;
and what libraries print there that is of use to nobody.

Several processes train one run together under `torchrun` or `accelerate launch`.
Checked by `tests/test_finetune_study.py` and `tests/test_finetune_run.py`.
"""

import contextlib
import functools
import os
import resource
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allora_analysis.cli import TORCH_FULL

PROCESS = Path("/proc/self")


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def agree(value: Any, device: str) -> Any:
    """The first process's value, on all of them."""
    if world() == 1:
        return value
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    return broadcast_object_list([value])[0]


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no more memory: on a CPU torch has no type of its own for it."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in TORCH_FULL)


def forget_peak(device: str) -> None:
    """Forget what the process held before, where the system can."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            (PROCESS / "clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """The most since `forget_peak`: of the GPU, or the process's resident memory."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError, StopIteration):
        lines = (PROCESS / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


NOISE = (
    (r"`is_gradient_checkpointing` is deprecated", FutureWarning),  # PEFT asks transformers 5 by the old name
    (r"`gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning),  # the name that transformers 4 knows too
    (r"Could not find a config file in", UserWarning),  # PEFT, saving an adapter of a model without a hub id
    (r".*'pin_memory' argument is set as true but no accelerator", UserWarning),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without bars and reports of loading, and without the warnings of `NOISE`; all as before afterwards.

    What a checkpoint lacks is checked in `models` in the report's stead: all weights but a classifier's are an error.
    """
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bar = gguf.tqdm  # its own, which asks nobody
    gguf.tqdm = functools.partial(bar, disable=True)
    try:
        with warnings.catch_warnings():
            for message, category in NOISE:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        gguf.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
