"""Where PEFT's own LoRA layer masks: `python -m allora_analysis.claims.peft_masks` measures it again.

A training layer with W* = 0 and B = [I; 0] shows r entries of Ax for each unit input x; those that a mask struck are 0.
A mask on A's input strikes all r of an input or none, masks between A and B single ones. Three layers of the paper's
ranks and drop rate and six drawn ones; what was seen stands in `peft_masks.json`, so that who has no PEFT reads it too.
Checked by `tests/test_claims_3_1_tikhonov.py`, which measures it again and plants a layer that masks between A and B.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from tyro.conf import arg

from allora_analysis import cli, outputs
from allora_analysis.validation import installed

if TYPE_CHECKING:
    import torch

FILE = Path(__file__).with_name("peft_masks.json")
RANKS, DROP_RATE = (8, 16, 32), 0.05  # the paper's
DRAWN = 6


class Layer(NamedTuple):
    """A LoRA layer n₂ → r → n₁, its drop rate, and the seed of its A and its masks."""

    n1: int
    n2: int
    rank: int
    drop_rate: float
    seed: int


class Struck(NamedTuple):
    """How many unit inputs a mask struck as a whole, and of how many some of the r latent entries."""

    whole: int
    in_part: int


def lora_layer(one: Layer) -> "torch.nn.Module":
    """PEFT's own layer with W* = 0, B = [I; 0] and an A whose entries are not 0 (PEFT's start may draw an exact 0)."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = torch.nn.Linear(one.n2, one.n1, bias=False)
    torch.nn.init.zeros_(base.weight)
    config = LoraConfig(r=one.rank, lora_alpha=one.rank, lora_dropout=one.drop_rate, target_modules=["0"])
    layer = get_peft_model(torch.nn.Sequential(base), config).base_model.model[0]
    torch.nn.init.uniform_(layer.lora_A["default"].weight, 0.5, 1.0)
    layer.lora_B["default"].weight.data.copy_(torch.eye(one.n1, one.rank))
    return layer.train()


def adapter_output(one: Layer) -> np.ndarray:
    """What LoRA's adapter adds for each unit input while it trains, (n₂, n₁)."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(one.seed)
        return lora_layer(one)(torch.eye(one.n2)).numpy()


def struck(output: np.ndarray, rank: int) -> Struck:
    """Of (n₂, n₁) outputs whose first r columns show the latent entries."""
    dropped = (output[:, :rank] == 0).sum(axis=1)
    return Struck(int((dropped == rank).sum()), int(((dropped > 0) & (dropped < rank)).sum()))


def layers() -> list[Layer]:
    """Three of the paper's ranks and drop rate, and drawn ones."""
    rng = np.random.default_rng(0)
    own = [Layer(512, 512, rank, DROP_RATE, rank) for rank in RANKS]
    drawn = [
        Layer(*rng.integers(16, 65, 2).tolist(), int(rng.integers(4, 17)), round(float(rng.uniform(0.2, 0.8)), 2), seed)
        for seed in range(DRAWN)
    ]
    return own + drawn


def read() -> dict[Layer, Struck]:
    """The committed measurement, by layer."""
    seen = json.loads(FILE.read_text(encoding="utf-8"))["layers"]
    return {Layer(**entry["layer"]): Struck(**entry["struck"]) for entry in seen}


@dataclass(frozen=True)
class Arguments:
    """Measure which latent entries the masks of PEFT's LoRA layer strike, and write it into the committed file."""

    out: Annotated[Path, arg(metavar="FILE.json")] = FILE
    """Where it goes."""


def run(arguments: Arguments) -> int:
    """Measures and writes."""
    outputs.entries("--out", arguments.out)
    installed("peft")
    seen = {one: struck(adapter_output(one), one.rank) for one in layers()}
    found = {
        "peft": version("peft"),
        "layers": [{"layer": one._asdict(), "struck": how._asdict()} for one, how in seen.items()],
    }
    text = json.dumps(found).replace('[{"layer"', '[\n{"layer"').replace(', {"layer"', ',\n{"layer"')
    outputs.write_text("--out", arguments.out, text + "\n")
    in_part = sum(how.in_part for how in seen.values())
    outputs.say(f"{in_part} of {sum(one.n2 for one in seen):,} unit inputs struck in part, in {arguments.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m allora_analysis.claims.peft_masks", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
