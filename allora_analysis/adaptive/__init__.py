"""What the adaptive gradient of §4.2–4.3 is and is not: theory in NumPy, which imports none of the layers it judges.

| file | object |
| --- | --- |
| `field.py` | F(A, B) = (BᵀD_dG, D_dGAᵀ), its Jacobian, a double backward; ASF-LoRA's output, ALLoRA-OD's factor |
| `descent.py` | first-order change of the loss: B's part descends, A's need not; an exact example that climbs |
| `convergence.py` | a Lyapunov function at rank one; rest points: a row-weighted fit, stability, Hopf points |
| `invariance.py` | rescalings that leave training unchanged, judged by hand-written training; real knobs |
| `recipe.py` | a LoRA recipe's rates, the recipes that train alike; what the doctors say of layers |
"""

from allora_analysis.adaptive.convergence import (
    HOPF,
    Instability,
    Lyapunov,
    RestFamily,
    RestPoint,
    RestStability,
    first_instability,
    gradient_flow,
    rank_one_lyapunov,
    rest_gradient,
    rest_point,
    run_to_rest,
)
from allora_analysis.adaptive.descent import (
    EXAMPLE,
    AscentFrequency,
    Counterexample,
    FirstOrderChange,
    ascent_frequency,
    evaluate,
    first_order_change,
    first_return,
    loss_after_step,
)
from allora_analysis.adaptive.field import (
    OutputFactor,
    UnmergeablePair,
    asf,
    asf_derivative,
    directional_derivative,
    layer_double_backward,
    masked_field,
    output_factor,
    relative_asymmetry,
    row_factor,
    unmergeable_pair,
    update_field,
    update_jacobian,
)
from allora_analysis.adaptive.invariance import Setting, degrees_of_freedom, eta_as_scaling, rescaled, train

__all__ = [
    "EXAMPLE",
    "HOPF",
    "AscentFrequency",
    "Counterexample",
    "FirstOrderChange",
    "Instability",
    "Lyapunov",
    "OutputFactor",
    "RestFamily",
    "RestPoint",
    "RestStability",
    "Setting",
    "UnmergeablePair",
    "ascent_frequency",
    "asf",
    "asf_derivative",
    "degrees_of_freedom",
    "directional_derivative",
    "eta_as_scaling",
    "evaluate",
    "first_instability",
    "first_order_change",
    "first_return",
    "gradient_flow",
    "layer_double_backward",
    "loss_after_step",
    "masked_field",
    "output_factor",
    "rank_one_lyapunov",
    "relative_asymmetry",
    "rescaled",
    "rest_gradient",
    "rest_point",
    "row_factor",
    "run_to_rest",
    "train",
    "unmergeable_pair",
    "update_field",
    "update_jacobian",
]
