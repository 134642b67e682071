"""Progress on standard error: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import io
import types

import pytest

pytest.importorskip("transformers")
from allora_analysis.finetune import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drive(shown, first=True):
    """A run of four steps."""
    state = types.SimpleNamespace(is_world_process_zero=first, max_steps=4, global_step=0)
    shown.on_train_begin(None, state, None)
    for state.global_step in range(1, 5):
        shown.on_step_end(None, state, None)
        shown.on_log(None, state, None, logs={"loss": 0.25, "epoch": 1.0})
    shown.on_log(None, state, None, logs={"eval_loss": 1.0})
    shown.stop()


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    drive(progress.Progress("a run"))
    assert "a run" in terminal.getvalue()


def test_lines_elsewhere_not_faster_than_the_interval(monkeypatch, capsys):
    drive(progress.Progress("a run"))
    assert capsys.readouterr().err.splitlines() == ["a run: step 1 of 4"]
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    drive(progress.Progress("a run"))
    captured = capsys.readouterr()
    assert captured.err.splitlines()[1:] == [f"a run: step {step} of 4, loss 0.2500" for step in (2, 3, 4)]
    assert captured.out == ""


def test_only_the_first_process_speaks(capsys):
    drive(progress.Progress("a run"), first=False)
    assert capsys.readouterr().err == ""
