"""Row norms ‖W*_i‖ of pretrained models' linear maps: `python -m allora_analysis.claims.pretrained_norms FOLDER NAME`.

They stand in `pretrained_norms.json`, in the layers' names as the fine-tuning records have them, so that the ledger can
hold ‖ηBA‖ against ‖W*‖ without a model at hand. Checked by `tests/test_claims_3_3.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from allora_analysis import cli, outputs

if TYPE_CHECKING:
    from torch import nn

FILE = Path(__file__).with_name("pretrained_norms.json")


@dataclass(frozen=True)
class Arguments:
    """Write the mean and the largest row norm of each linear map of a pretrained model into the committed file."""

    model: Positional[Annotated[str, arg(metavar="FOLDER|FILE.gguf|HUB_ID")]]
    """The pretrained model, as transformers loads it."""
    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """What records call the model."""
    out: Annotated[Path, arg(metavar="FILE.json")] = FILE
    """Where the norms go, beside those of other models."""


def of_model(model: nn.Module) -> dict[str, dict[str, float]]:
    """The mean and the largest ‖W_i‖ over rows of each linear map, to 6 digits, by the map's name."""
    from torch import nn

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            norms = module.weight.detach().double().norm(dim=1)
            found[name] = {"mean": float(f"{norms.mean():.6g}"), "max": float(f"{norms.max():.6g}")}
    return found


def read(model: str) -> dict[str, dict[str, float]]:
    """The committed norms of a model; empty for one that the file does not have."""
    return json.loads(FILE.read_text(encoding="utf-8")).get(model, {})


def run(arguments: Arguments) -> int:
    """Loads the model and writes its norms."""
    from allora_analysis.finetune import models

    norms = of_model(models.load(arguments.model, 2).model)
    norms = {name: value for name, value in norms.items() if not name.startswith(("classifier", "score"))}  # drawn
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    known[arguments.name] = norms
    arguments.out.write_text(json.dumps(known, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    outputs.say(f"{len(norms)} linear maps of {arguments.name} in {arguments.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m allora_analysis.claims.pretrained_norms", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
