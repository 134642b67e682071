"""A grid of tiny runs, as an experiment's command: `python -m tests.tiny_grid --source bert=… films=… --results …`."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from allora_analysis import records
from allora_analysis.finetune.setting import Setting, check
from allora_analysis.grid import Grid, Task
from allora_analysis.grid.command import main
from tests import warm

ROOT = Path(__file__).parents[1]
SHARED = {"model": "bert", "data": "films", "rank": 2, "epochs": 4, "batch_size": 8, "learning_rate": 1e-2}
PRESETS = {
    "desk": [
        Setting(arm=arm, seed=seed, **(SHARED | own))
        for seed in range(2)
        for arm, own in (
            ("lora", {"drop_rate": 0.1}),
            ("allora_0", {"eta2": 4.0}),
            ("head_only", {}),
        )
    ]
}
RUNS = len(PRESETS["desk"])
STEPS = 3  # between two checkpoints of 24 steps


class Sources(NamedTuple):
    """Where the tiny model and data are."""

    bert: Path
    films: Path

    def words(self) -> list[str]:
        return [f"bert={self.bert}", f"films={self.films}"]


def sources(folder: Path, rows: int = 48) -> Sources:
    from tests import tiny_finetune

    return Sources(tiny_finetune.bert(folder / "bert"), tiny_finetune.sentences(folder / "films", rows))


def grid(made: Sources, results: Path, presets=PRESETS) -> Grid:
    tasks = tuple(Task(check(one), str(made.bert), str(made.films)) for one in presets["desk"])
    return Grid(tasks, results, "cpu", STEPS)


def flags(made: Sources, results: Path) -> list[str]:
    return [
        "--source",
        *made.words(),
        "--results",
        str(results),
        "--device",
        "cpu",
        "--checkpoint-steps",
        str(STEPS),
    ]


def start(made: Sources, results: Path, *more: str, **options) -> warm.Popen:
    """The command, as a user starts it."""
    return warm.Popen("tests.tiny_grid", *flags(made, results), *more, **options)


def finish(process: warm.Popen, timeout: float = 300) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def results_of(folder: Path) -> dict[str, dict]:
    """Each record's result by file name; each verified, none set aside, nothing left beside them."""
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".json") == []
    found = records.find(folder)
    assert len(found) == len(list(folder.iterdir()))
    return {record.path.name: record.result for record in found}


if __name__ == "__main__":
    raise SystemExit(main("tiny_grid", PRESETS))
