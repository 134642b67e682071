"""§4.2, leaving zero: how the rows of BA grow from B = 0 under LoRA and ALLoRA, in closed form and in simulation.

| file | object |
| --- | --- |
| `scalar.py` | m' = g·h(m), a row's norm, A fixed: closed forms, inverses, what a fixed rate gives up; A trained |
| `optimizers.py` | SGD, momentum, AdamW, ALLoRAAdamW, with clipping and schedule; the first step of each arm |
| `teacher.py` | the linear teacher; training LoRA at l, LoRA at η·l and ALLoRA on it; how far they part, by step |
| `study.py` | the study, `python -m allora_analysis.escape`: the scalar model beside what training did |

A row's norm is m, the learning rate l, the time l·steps. Nothing here imports the layers that it judges.
"""

from allora_analysis.escape.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    ClippedStep,
    Recipe,
    clip_factor,
    clipped_step,
)
from allora_analysis.escape.scalar import (
    Tradeoff,
    lora_trajectory,
    time_to_reach,
    tradeoff,
    trajectory,
)
from allora_analysis.escape.teacher import (
    ARMS,
    Drift,
    Iterate,
    Teacher,
    constant_gradient,
    data_teacher,
    drift,
    iterate,
    linear_teacher,
)

__all__ = [
    "ARMS",
    "OPTIMIZERS",
    "SCHEDULES",
    "ClippedStep",
    "Drift",
    "Iterate",
    "Recipe",
    "Teacher",
    "Tradeoff",
    "clip_factor",
    "clipped_step",
    "constant_gradient",
    "data_teacher",
    "drift",
    "iterate",
    "linear_teacher",
    "lora_trajectory",
    "time_to_reach",
    "tradeoff",
    "trajectory",
]
