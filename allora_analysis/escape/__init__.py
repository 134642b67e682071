"""§4.2, leaving zero: how the rows of BA grow from B = 0 under LoRA and ALLoRA, in closed form and in simulation.

| file | object |
| --- | --- |
| `scalar.py` | m' = g·h(m), a row's norm with A fixed: closed forms, their inverses, what a fixed rate must give up |
| `pair.py` | the same with A trained too, one row of rank one: where the scalar model ends |
| `first_step.py` | the first step of SGD, with and without clipping, and of AdamW |
| `teacher.py` | the linear teacher: loss, gradient with respect to BA, initial A |
| `recipe.py`, `optimisers.py` | SGD, momentum, AdamW, ALLoRAAdamW, with clipping, warm-up and schedule |
| `process.py` | an arm's training step by step: LoRA at l, LoRA at η·l, ALLoRA |
| `drift.py` | how far ALLoRA's training is from each of LoRA's, by step |
| `prediction.py` | what the scalar model says of the linear teacher |
| `study.py`, `summary.py`, `figure.py` | the study: `python -m allora_analysis.escape` |

A row's norm is m, the learning rate l, the time l·steps. Nothing here imports the layers that it judges.
"""

from allora_analysis.escape import first_step
from allora_analysis.escape.drift import Drift, drift
from allora_analysis.escape.pair import lora_pair, pair_time
from allora_analysis.escape.process import ARMS, Iterate, iterate
from allora_analysis.escape.recipe import OPTIMISERS, SCHEDULES, Recipe
from allora_analysis.escape.scalar import Tradeoff, lora_trajectory, time_to_reach, tradeoff, trajectory
from allora_analysis.escape.teacher import Teacher, constant_gradient, data_teacher, linear_teacher

__all__ = [
    "ARMS",
    "OPTIMISERS",
    "SCHEDULES",
    "Drift",
    "Iterate",
    "Recipe",
    "Teacher",
    "Tradeoff",
    "constant_gradient",
    "data_teacher",
    "drift",
    "first_step",
    "iterate",
    "linear_teacher",
    "lora_pair",
    "lora_trajectory",
    "pair_time",
    "time_to_reach",
    "tradeoff",
    "trajectory",
]
