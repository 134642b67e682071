"""§3.1, dropout as Tikhonov regularization: what dropout minimizes on expectation, and how far that is from a ridge.

The mask's place is an axis: the paper draws it on the output, its prose says the latent space (bottleneck), and LoRA
as shipped masks A's input. With k = (1 − keep_prob)/keep_prob, each adds its own penalty to ‖Y − XW‖²:

| placement | penalty | minimizer |
| --- | --- | --- |
| output | k‖XW‖² | keep_prob·X⁺Y |
| input | k‖diag(XᵀX)^{1/2}W‖² | (XᵀX + k diag XᵀX)⁺XᵀY |
| bottleneck | k Σ_j ‖XA_j‖²‖B_:j‖² | XW = the soft-thresholded singular values of XX⁺Y |

| file | object |
| --- | --- |
| `loss` | output and input masks: the expected masked loss, its Std, its minimizer of full and of reduced rank |
| `bottleneck` | the same for bottleneck masks, with the factors that attain the minimum |
| `ridge` | Tikhonov's solution, when dropout is exactly that, and the nearest ridge otherwise |
| `masks` | every mask of a small problem, the brute-force twin; drawn masks, the simulation |
| `study` | `python -m allora_analysis.tikhonov`: designs whose spectrum spreads |
"""

from allora_analysis.tikhonov.bottleneck import (
    BottleneckFactors,
    bottleneck_factors,
    bottleneck_loss,
    bottleneck_minimum,
    bottleneck_solution,
)
from allora_analysis.tikhonov.loss import PLACEMENTS, dropout_solution, expected_loss
from allora_analysis.tikhonov.masks import (
    SampleMean,
    enumerated_bottleneck_loss,
    enumerated_bottleneck_minimum,
    enumerated_loss,
    enumerated_solution,
    sample_mean,
    sampled_losses,
)
from allora_analysis.tikhonov.ridge import (
    NearestRidge,
    nearest_ridge,
    ridge_solution,
)

__all__ = [
    "PLACEMENTS",
    "BottleneckFactors",
    "NearestRidge",
    "SampleMean",
    "bottleneck_factors",
    "bottleneck_loss",
    "bottleneck_minimum",
    "bottleneck_solution",
    "dropout_solution",
    "enumerated_bottleneck_loss",
    "enumerated_bottleneck_minimum",
    "enumerated_loss",
    "enumerated_solution",
    "expected_loss",
    "nearest_ridge",
    "ridge_solution",
    "sample_mean",
    "sampled_losses",
]
