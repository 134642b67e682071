"""A run from its setting to its record. Checked by `tests/test_zero_initialisation.py`.

A run is one layer, which takes minutes: what is recorded is not run again, and nothing is kept of one that is stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from allora_analysis import records
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation.setting import PROTOCOL, STUDY, Setting, check

if TYPE_CHECKING:
    from allora_analysis.finetune.data import TextData

PACKAGES = ("transformers", "gguf")


def run(setting: Setting, source: str, data: TextData, digests: dict[str, str], results: Path) -> tuple[Any, bool]:
    """Run a setting, or find it recorded.

    Args:
        setting: the run.
        source: the model's folder, GGUF file or hub id.
        data: its sentences.
        digests: of model and data.
        results: the folder of records.

    Returns:
        The result, and whether this call ran it.

    Raises:
        ArgumentError: data of another task, a model that does not fit, a folder that cannot be written.
    """
    known = records.lookup(results, STUDY, check(setting), PROTOCOL, digests)
    if known is not None:
        return known.result, False
    if data.classes is None:
        raise ArgumentError(f"data {data.name!r}: is multiple choice; sentences with a label are wanted")
    import torch

    from allora_analysis.finetune import models
    from allora_analysis.zero_initialisation.adapted import adapted
    from allora_analysis.zero_initialisation.measurement import measure

    torch.manual_seed(setting.seed)  # the classifier is drawn on loading
    pretrained = models.load(source, data.classes, attention="eager")
    result = measure(setting, adapted(pretrained, data.splits["train"], setting))
    facts = records.provenance(PACKAGES)
    try:
        records.save(results, STUDY, setting, result, protocol=PROTOCOL, digests=digests, provenance=facts)
    except OSError as error:
        raise ArgumentError(f"results {str(results)!r}: cannot be written ({error.strerror or error})") from None
    return result, True
