"""The lists of runs of the fine-tuning experiments, one file each; `experiments/` states what they are for.

The command that runs them, the ledger's rows and the figures read the same lists. Checked by
`tests/test_experiments_finetune.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from allora_analysis.finetune.setting import Setting

KINDS = ("model", "data", "optimizer", "arm")  # whose names `--only` takes


def command(experiment: str, runs: Iterable[Setting]) -> str:
    """The command line that makes runs, and no others where `--only` can tell them apart."""
    known = list(runs)
    names = dict.fromkeys([*(run.model for run in known), *(run.data for run in known)])
    words = _only(known, import_module(f"{__name__}.{experiment}").PRESETS["desk"])
    narrowed = f" --only {' '.join(words)}" if words else ""
    return f"python -m experiments.{experiment}{narrowed} --source {' '.join(f'{name}=FOLDER' for name in names)}"


def _only(runs: Iterable[Setting], everything: Iterable[Setting]) -> list[str]:
    # The fewest kinds of names that leave of the whole list as little beside these runs as any would.
    wanted, left, words = set(runs), list(everything), []
    for kind in KINDS:
        names = dict.fromkeys(getattr(run, kind) for run in left if run in wanted)
        fewer = [run for run in left if getattr(run, kind) in names]
        if len(left) > len(wanted) and len(fewer) < len(left):
            left, words = fewer, [*words, *names]
    return words
