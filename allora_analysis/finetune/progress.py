"""A run's progress on standard error: the Trainer's own goes to standard output.

Checked by `tests/test_finetune_progress.py`.
"""

from __future__ import annotations

import time
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
