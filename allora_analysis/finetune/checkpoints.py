"""Which of a stopped run's checkpoints is whole. Checked by `tests/test_finetune_checkpoints.py`.

transformers' Trainer writes a checkpoint's files one after the other, so that a kill may leave the newest half written;
an older one is then taken, or none. torch's files are zip archives, whose checksums tell without unpickling them.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from allora_analysis import terminal
from allora_analysis.finetune.memory import exhausted

TORCH = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that can be read in full; later ones that cannot are deleted and named on standard error.

    Nothing is deleted where the reason is that no memory is left to read one with: that error is raised.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        reason = _broken(path)
        if reason is None:
            return path
        terminal.remark(f"{path.name}: half written or damaged ({reason}); an older one is taken")
        shutil.rmtree(path, ignore_errors=True)
    return None


def _broken(path: Path) -> str | None:
    from safetensors.torch import load_file

    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        if str(state["global_step"]) != path.name.rpartition("-")[2]:
            return "it says another step"
        for pattern in ("*.safetensors", *TORCH):
            files = [*path.glob(pattern)]
            if not files:
                return f"{pattern} is missing"
            for file in files:
                if file.suffix == ".safetensors":
                    load_file(file)
                elif wrong := zipfile.ZipFile(file).testzip():
                    return f"{file.name}: {wrong} has another checksum"
    except Exception as error:  # what is damaged fails in many ways
        if exhausted(error):
            raise
        return f"{type(error).__name__}: {error!s:.80}"
    return None
