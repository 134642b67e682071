"""A run, one layer of one model, from its setting to its record; the list of runs; what is recorded of them.

A run takes minutes: what is recorded is not run again, and nothing is kept of one that is stopped. The list is that of
`experiments.hessian`, which states the question and the test. Checked by `tests/test_zero_initialisation.py` and
`tests/test_claims_pretrained.py`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allora_analysis import records
from allora_analysis.validation import ArgumentError, choice, count, several

if TYPE_CHECKING:
    from allora_analysis.finetune.data import TextData

STUDY = "hessian"
RESULTS = records.results_folder(STUDY)
PROTOCOL = 1  # grows when the meaning of a run changes
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Setting:
    """A run in full.

    Attributes:
        model: what records call the model; its content's digest stands beside.
        data: what records call the data.
        layer: the transformer layer that is adapted, from 0; all others stay as they are.
        modules: its linear maps that are adapted, by the last part of their names.
        rank: r; the scaling α/r is 1.
        k: eigenvalues at each end; 0: all of them.
        sentences: how many of the training split, drawn with the seed; the loss is their mean cross-entropy.
        max_length: tokens after which a sentence is cut.
        precision: of the model and the products with the Hessian.
        seed: of the classifier, of A, of the sentences.
    """

    model: str
    data: str
    layer: int
    modules: tuple[str, ...]
    rank: int = 16
    k: int = 3
    sentences: int = 32
    max_length: int = 128
    precision: str = "float32"
    seed: int = 0

    def words(self) -> str:
        """The run in a line."""
        asked = "the whole spectrum" if self.k == 0 else f"{self.k} eigenvalues at each end"
        return (
            f"{self.model}, {self.data}, layer {self.layer} ({', '.join(self.modules)}), r = {self.rank}, {asked}, "
            f"{self.sentences} sentences, {self.precision}, seed {self.seed}"
        )


def check(setting: Setting) -> Setting:
    """Refuse a run that makes no sense."""
    choice("precision", setting.precision, PRECISIONS)
    modules = several("modules", setting.modules)
    if len(set(modules)) < len(modules):
        raise ArgumentError(f"modules must differ from one another, received {modules!r}")
    for name, minimum in (("layer", 0), ("rank", 1), ("k", 0), ("sentences", 1), ("max_length", 2)):
        count(name, getattr(setting, name), minimum)
    count("seed", setting.seed, 0, 2**31)  # of a larger one PyTorch takes the low bits: another key, the same draws
    return setting


BERT, LLAMA, DATA = "all-MiniLM-L6-v2", "SmolLM2-135M", "rotten_tomatoes"
MODULES = {BERT: ("query", "value"), LLAMA: ("q_proj", "v_proj")}
# Both ends, (layer, sentences): every layer of the small model; four of the other's 30, of which all but the last on
# two sentences, since a product takes the time of all layers after the adapted one.
ENDS = {BERT: tuple((layer, 16) for layer in (5, 4, 3, 2, 1, 0)), LLAMA: ((29, 8), (20, 2), (10, 2), (0, 2))}
RANK, K = 4, 5
# The whole spectrum, so that directions can be counted: r = 1, one linear map at a time, of the last layer.
WHOLE = Setting(BERT, DATA, 5, ("query",), rank=1, k=0, sentences=8, precision="float64")


def runs(model: str) -> list[Setting]:
    """The runs on one model."""
    ends = [Setting(model, DATA, layer, MODULES[model], RANK, K, sentences) for layer, sentences in ENDS.get(model, ())]
    whole = [dataclasses.replace(WHOLE, modules=(module,)) for module in MODULES[model]] if model == WHOLE.model else []
    return whole + ends


RUNS = [one for model in ENDS for one in runs(model)]


def recorded(wanted: Iterable[Setting], folder: Path | str | None = None) -> dict[Setting, dict[str, Any]]:
    """The results of those runs that are recorded."""
    return records.results_of(folder or RESULTS, STUDY, PROTOCOL, wanted)


def run(setting: Setting, source: str, data: TextData, digests: dict[str, str], results: Path) -> tuple[Any, bool]:
    """Run a setting, or find it recorded."""
    known = records.lookup(results, STUDY, check(setting), PROTOCOL, digests)
    if known is not None:
        return known.result, False
    if data.classes is None:
        raise ArgumentError(f"data {data.name!r}: is multiple choice; sentences with a label are wanted")
    import torch

    from allora_analysis.finetune import models
    from allora_analysis.zero_initialisation.measurement import adapted, measure

    begun = time.perf_counter()
    torch.manual_seed(setting.seed)  # the classifier is drawn on loading
    pretrained = models.load(source, data.classes, attention="eager")
    result = measure(setting, adapted(pretrained, data.splits["train"], setting))
    facts = records.provenance(("transformers", "gguf"), begun)
    records.save(results, STUDY, setting, result, protocol=PROTOCOL, digests=digests, provenance=facts)
    return result, True
