"""LoRA's learning rates and ALLoRA's factor as width n and rank r grow (§4.2, beyond the paper).

| file | object |
| --- | --- |
| `exponents.py` | powers of n and r of row norms, first step, largest stable rate; whether ALLoRA's factor tapers |
| `training.py` | the twin: a layer of n inputs and outputs trained at n up to 4,096, and the powers fitted to it |
| `study.py` | the study: `python -m allora_analysis.width` |

Nothing here imports the layers that it judges.
"""

from allora_analysis.width.exponents import (
    METHODS,
    Exponents,
    Method,
    Power,
    Taper,
    exponents,
    flow_factor,
    flow_row_norm,
    taper,
)
from allora_analysis.width.training import (
    Fit,
    Layer,
    Trained,
    fit_power,
    largest_rate,
    layer,
    measure,
    row_norms,
    train,
)

__all__ = [
    "METHODS",
    "Exponents",
    "Fit",
    "Layer",
    "Method",
    "Power",
    "Taper",
    "Trained",
    "exponents",
    "fit_power",
    "flow_factor",
    "flow_row_norm",
    "largest_rate",
    "layer",
    "measure",
    "row_norms",
    "taper",
    "train",
]
