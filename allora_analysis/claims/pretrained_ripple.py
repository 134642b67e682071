"""η in two pretrained transformers: `python -m allora_analysis.claims.pretrained_ripple MODEL NAME --data FOLDER`.

**Question.** What becomes of "exponential in L" (§3.3) in a BERT, normalized after each sum, and in a Llama, normalized
in each branch: how do streams, attention's entropy and the gradient grow with η and with depth?

**Arms.** Every linear map of every block adapted, r = 16. Adapters at random, rows ‖(BA)_i‖ of the root mean square
that LoRA's had after AdamW at 1e-4 in the records of `experiments.row_norms`, mean over seeds; and adapters trained
as `TRAINED` says. η = 0 and 2⁻⁴ … 2¹⁰. Sentences of the test split, the first that are long enough, cut to one length.

**Measured**, means over tokens of natural logarithms: log(‖h_l‖/√n) of each stream; log‖J_l v‖ of its gradient along
one direction v at random; the output's (after the last normalization) gradient and its distance from that at η = 0;
entropy of attention a block; and the radius within which the output is a power series in η, from quadratics and by
winding. float64, one pass a number (`ripple.transformer`); how far the pass at η = 0 is from transformers' own is
recorded.

**Test.** Row `3.3-transformer-measured`, written after a first sweep of all-MiniLM-L6-v2, before any of SmolLM2.
**Seeds.** 0 and 1 of the adapters and of v. **Stopping rule.** One sweep a model, whatever it shows. It stands in
`pretrained_ripple.json`. Checked by `tests/test_claims_pretrained_ripple.py`.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from allora_analysis import cli, outputs
from allora_analysis.finetune.setting import Setting
from allora_analysis.finetune.sources import PACKAGES
from allora_analysis.grid.presets import LISTS, ROW_NORM_DESK
from allora_analysis.grid.reading import average_norm, recorded
from allora_analysis.ripple import mean_field, series
from allora_analysis.ripple.transformer import (
    Adapters,
    Transformer,
    derivative,
    forward,
    row_norm,
    transformer_of,
    with_adapters,
)
from allora_analysis.study import progress
from allora_analysis.validation import ArgumentError

if TYPE_CHECKING:
    from allora_analysis.finetune.data import TextData

FILE = Path(__file__).with_name("pretrained_ripple.json")
ETAS = (0.0, *(2.0**power for power in range(-4, 11)))
RANK, SEEDS = 16, (0, 1)
TRAINED = {"rank": RANK, "learning_rate": 3e-4, "head_learning_rate": 1e-3, "max_steps": 60, "batch_size": 16}
TRAINED |= {"max_length": 64, "schedule": "constant", "max_grad_norm": 0.0}


def command(name: str) -> str:
    """What sweeps a model that a package carries, by its name in records."""
    return f"python -m allora_analysis.claims.pretrained_ripple {PACKAGES[name][0]} {name} --data FOLDER"


@dataclass(frozen=True)
class Arguments:
    """Sweep η in a pretrained BERT or Llama, adapters at random and trained, and write what is measured."""

    model: Positional[Annotated[str, arg(metavar="FOLDER|FILE.gguf|HUB_ID|PACKAGE")]]
    """The pretrained model, as transformers loads it, or the installed package that carries it."""
    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """What records call the model."""
    data: Annotated[str, arg(metavar="FOLDER|HUB_ID")]
    """train.jsonl and test.jsonl (or .jsonl.gz), rows with text and label; or a hub id."""
    adapters: Annotated[Path | None, arg(metavar="FILE.safetensors")] = None
    """Trained adapters; where the file is not there yet, they are written to it after training."""
    sentences: int = 2
    """How many, to average over."""
    tokens: int = 16
    """Of each sentence."""
    out: Annotated[Path, arg(metavar="FILE.json")] = FILE
    """Where the numbers go, beside those of other models."""


def read(model: str) -> dict[str, Any] | None:
    """The committed sweep of a model; None for one that the file does not have."""
    return json.loads(FILE.read_text(encoding="utf-8")).get(model) if FILE.exists() else None


def recorded_row_norm(model: str) -> float:
    """The mean row norm ‖(BA)_i‖ of LoRA's adapters at the end of AdamW at 1e-4, over recorded seeds."""
    listed = [
        one for one in LISTS["row_norms"]["desk"] if (one.model, one.arm, one.optimizer) == (model, "lora", "adamw")
    ]
    runs = recorded([one for one in listed if one.learning_rate == 1e-4])
    if not runs:
        raise ArgumentError(f"NAME {model!r}: no run of LoRA under AdamW at 1e-4 is recorded; experiments.row_norms is")
    return float(np.mean([average_norm(result, result["row_norms"]["step"][-1]) for result in runs.values()]))


def embedded(pretrained: Any, data: TextData, sentences: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """h₀ of some sentences of the test split, cut to one length, and transformers' own output: (sentences, T, n)."""
    import torch

    rows = (pretrained.tokenizer(text)["input_ids"] for text in data.splits["test"].texts)
    chosen = [row[:tokens] for row in rows if len(row) >= tokens][:sentences]
    if len(chosen) < sentences:
        raise ArgumentError(f"--tokens {tokens}: only {len(chosen)} of {sentences} sentences are as long; take fewer")
    with torch.no_grad():
        states = pretrained.model.eval()(torch.tensor(chosen), output_hidden_states=True).hidden_states
    return states[0].double().numpy(), states[-1].double().numpy()


def trained(setting: Setting, source: str, data: TextData) -> Adapters:
    """Adapters after a run of the toolkit's fine-tuning, by the linear map's name."""
    from allora_analysis.finetune import models, training
    from allora_analysis.lora.pairs import lora_pairs

    kept = []
    few = {
        name: split if name == "train" else dataclasses.replace(split, texts=split.texts[:16], labels=split.labels[:16])
        for name, split in data.splits.items()
    }

    def load() -> models.Pretrained:
        kept.append(models.load_to_train(source, data.classes, False, setting.precision, "cpu"))
        return kept[0]

    with tempfile.TemporaryDirectory() as folder:
        training.train(setting, load, dataclasses.replace(data, splits=few), Path(folder), 10**6, "cpu", False)
    pairs = lora_pairs(kept[0].model)
    return {pair.name: tuple(m.detach().double().numpy() for m in (pair.a, pair.scaling * pair.b)) for pair in pairs}


def _adapters_of(arguments: Arguments, setting: Setting, data: TextData) -> Adapters:
    """The trained adapters: from the file, or by training."""
    from safetensors.numpy import load_file, save_file

    file = arguments.adapters
    if file is not None and file.exists():
        known = load_file(file)
        return {key.removesuffix(".a"): (a, known[f"{key[:-1]}b"]) for key, a in known.items() if key.endswith(".a")}
    made = trained(setting, arguments.model, data)
    if file is not None:
        parts = {f"{key}.{part}": m for key, pair in made.items() for part, m in zip("ab", pair, strict=True)}
        save_file({key: np.ascontiguousarray(m) for key, m in parts.items()}, file)
    return made


def _entropies(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Mean entropy of attention, natural logarithm, a block each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([-np.nansum(w * np.log(w), axis=-1).mean() for w in weights])


def measured(model: Transformer, x: np.ndarray, eta: float, seed: int, plain: np.ndarray) -> dict[str, np.ndarray]:
    """What one pass at η shows, for one direction v."""
    v = np.random.default_rng([seed, 1]).standard_normal(x.shape)
    run, along, last = derivative(model, x, v, eta)

    def log_ratio(one: np.ndarray, other: np.ndarray) -> float:
        squares = [np.square(part).sum(axis=(-2, -1)) for part in (one, other)]
        with np.errstate(divide="ignore"):
            return float(0.5 * np.log(squares[0] / squares[1]).mean())

    return {
        "log_stream": np.array([0.5 * np.log(np.square(h).mean(axis=-1)).mean() for h in run.streams]),
        "log_gradient": np.array([log_ratio(one, v) for one in along]),
        "log_output_gradient": np.array(log_ratio(last, v)),
        "log_change": np.array(log_ratio(run.output - plain, plain) if eta else -np.inf),
        "entropy": _entropies(run.weights),
    }


def swept(models: Sequence[Transformer], x: np.ndarray) -> dict[str, list]:
    """`measured` at every η, averaged over models; and the first one's radius, on a quarter of the first sentence."""
    plain = forward(models[0], x, 0.0).output
    found: dict[str, list] = {}
    for eta in progress(ETAS, "η"):
        each = [measured(model, x, eta, seed, plain) for seed, model in enumerate(models)]
        for name in each[0]:
            value = np.mean([one[name] for one in each], axis=0)
            found.setdefault(name, []).append(None if np.isneginf(value).any() else portable(value))
    short = x[:1, : max(2, x.shape[1] // 4)]
    guess = series.radius_by_quadratics(models[0], short)
    radius = {"quadratics": guess, "winding": series.radius(models[0], short, guess, 0.15, (16, 32))}
    return found | {"radius": {name: portable(value) for name, value in radius.items()}}


def portable(value: Any) -> Any:
    """To 5 digits."""
    return [portable(one) for one in value] if np.ndim(value) else float(f"{value:.5g}")


def run(arguments: Arguments) -> int:
    """Loads the model, trains or reads adapters, sweeps, and writes."""
    from allora_analysis.finetune import data as text_data
    from allora_analysis.finetune import models, sources

    outputs.entries("--out", arguments.out)
    data, size = text_data.load(arguments.data), recorded_row_norm(arguments.name)
    precision = ROW_NORM_DESK[arguments.name].get("precision", "fp32")
    setting = Setting(arguments.name, data.name, "lora", precision=precision, **TRAINED)
    pretrained = models.load(arguments.model, data.classes, attention="eager")
    x, theirs = embedded(pretrained, data, arguments.sentences, arguments.tokens)
    plain = transformer_of(pretrained.model, {})
    off = np.linalg.norm(forward(plain, x, 0.0).output - theirs) / np.linalg.norm(theirs)
    learnt = transformer_of(pretrained.model, _adapters_of(arguments, setting, data))
    at_random = [with_adapters(plain, size, RANK, np.random.default_rng([seed, 0])) for seed in SEEDS]
    start = float(np.square(x).mean())
    told = [mean_field.moments(at_random[0], eta, start).log_stream / 2 for eta in ETAS]
    found = {
        "digests": {"model": sources.digest(arguments.model), "data": data.digest},
        "setting": dataclasses.asdict(setting),
        "sentences": arguments.sentences,
        "tokens": arguments.tokens,
        "causal": plain.design.causal,
        "off_from_transformers": portable(off),
        "weight_row_norm": portable(row_norm(plain)[1]),
        "row_norm": {"random": portable(size), "trained": portable(row_norm(learnt)[0])},
        "eta": list(ETAS),
        "predicted_log_stream": portable(told),
        "random": swept(at_random, x),
        "trained": swept([learnt], x),
    }
    known = outputs.entries("--out", arguments.out) | {arguments.name: found}
    text = json.dumps(known, ensure_ascii=False).replace(', "', ',\n"')
    outputs.write_text("--out", arguments.out, text + "\n")
    outputs.say(f"{len(ETAS)} η of {arguments.name} in {arguments.out}; {off:.1e} from transformers at η = 0")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return cli.guarded(lambda: run(cli.parse(Arguments, "python -m allora_analysis.claims.pretrained_ripple", argv)))


if __name__ == "__main__":
    raise SystemExit(main())
