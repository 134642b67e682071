"""The runs of `experiments.hessian`, which states the question and the test, the most wanted first."""

from __future__ import annotations

import dataclasses

from allora_analysis.zero_initialisation.setting import Setting

BERT, LLAMA, DATA = "all-MiniLM-L6-v2", "SmolLM2-135M", "rotten_tomatoes"
MODULES = {BERT: ("query", "value"), LLAMA: ("q_proj", "v_proj")}
# Both ends, (layer, sentences): every layer of the small model; four of the other's 30, of which all but the last on
# two sentences, since a product takes the time of all layers after the adapted one.
ENDS = {
    BERT: tuple((layer, 16) for layer in (5, 4, 3, 2, 1, 0)),
    LLAMA: ((29, 8), (20, 2), (10, 2), (0, 2)),
}
RANK, K = 4, 5
# The whole spectrum, so that directions can be counted: r = 1, one linear map at a time, of the last layer.
WHOLE = Setting(BERT, DATA, 5, ("query",), rank=1, k=0, sentences=8, precision="float64")


def runs(model: str) -> list[Setting]:
    """The runs on one model.

    Args:
        model: its name.

    Returns:
        The settings; none for a model without a list.
    """
    ends = [Setting(model, DATA, layer, MODULES[model], RANK, K, sentences) for layer, sentences in ENDS.get(model, ())]
    whole = [dataclasses.replace(WHOLE, modules=(module,)) for module in MODULES[model]] if model == WHOLE.model else []
    return whole + ends


RUNS = [one for model in ENDS for one in runs(model)]
