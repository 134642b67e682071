"""What a run says on a terminal: its progress, on standard error, and not what its libraries say to nobody.

Checked by `tests/test_finetune_study.py`. The report of weights that a checkpoint lacks is checked in `models` in its
stead: all but a classifier's are an error.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback

from allora_analysis import terminal

INTERVAL = 20.0  # seconds between two lines, where standard error is no terminal


class Progress(TrainerCallback):
    """A bar on a terminal, a line now and then elsewhere.

    Args:
        description: what is run.
    """

    def __init__(self, description: str):
        self.description, self.loss, self.last, self.bar, self.task = description, "", 0.0, None, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the bar."""
        if terminal.redraws() and state.is_world_process_zero:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self.bar = Bar(console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(self.description, total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move on."""
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, description=self.description + self.loss)
        elif state.is_world_process_zero and time.monotonic() - self.last > INTERVAL:
            self.last = time.monotonic()
            line = f"{self.description}: step {state.global_step} of {state.max_steps}{self.loss}"
            terminal.remark(line)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Remember the loss."""
        if "loss" in (logs or {}):
            self.loss = f", loss {logs['loss']:.4f}"

    def stop(self) -> None:
        """Take the bar away, however the run ended: transformers calls no `on_train_end` after Ctrl-C or an error."""
        if self.bar is not None:
            self.bar.stop()


NOISE = (
    (r"`is_gradient_checkpointing` is deprecated", FutureWarning),  # PEFT asks transformers 5 by the old name
    (r"`gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning),  # the name that transformers 4 knows too
    (r"Could not find a config file in", UserWarning),  # PEFT, saving an adapter of a model without a hub id
    (r".*'pin_memory' argument is set as true but no accelerator", UserWarning),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without bars and reports of loading, and without the warnings of `NOISE`; all as before afterwards."""
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
