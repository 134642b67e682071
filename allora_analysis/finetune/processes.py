"""Several processes that train one run together (`torchrun`, `accelerate launch`), as their environment names them.

Checked by `tests/test_finetune_processes.py`.
"""

from __future__ import annotations

import os
from typing import Any


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
