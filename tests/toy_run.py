"""A toy run for the tests of records: its config, its result, saving it and spoiling its file."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allora_analysis import records
from allora_analysis.study import Result


@dataclass(frozen=True)
class Config:
    model: str = "minilm"
    rank: int = 16
    rate: float = 1e-4
    rates: tuple[float, ...] = (0.5, 1.0)
    head_rate: float | None = None


FACTS = {"time_utc": "2025-01-01T00:00:00+00:00"}
RESULT = Result({"accuracy": 0.8}, {"accuracy": np.float64(0.75), "rows": np.arange(3.0), "log_growth": math.inf})


def save(folder, config=None, result=RESULT, study="finetune", protocol=1, **options):
    options.setdefault("provenance", FACTS)
    return records.save(folder, study, Config() if config is None else config, result, protocol=protocol, **options)


def spoil(path: Path, offset: int = 40) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


def filled(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
