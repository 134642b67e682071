"""The estimator's own check in every run: a linear model on the same images, whose answer is known in closed form.

Checked by `tests/test_gradient_std_study.py`.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from allora_analysis import deviation
from allora_analysis.gradient_std.estimator import gradient_moments
from allora_analysis.gradient_std.linear import LinearGradient
from allora_analysis.images import Images


def linear_average(
    images: Images, batch_size: int, keep_prob: float, masks: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The average over entries of the gradient's standard deviation, in closed form and by the estimator.

    X: the first images; Y: their classes, one-hot; W: Gaussian.

    Args:
        images: the data set.
        batch_size: N.
        keep_prob: p of the masks on the output.
        masks: K.
        seed: of W and the masks.

    Returns:
        Predicted (`linear_mean`) and measured (the same and its `_stderr`).
    """
    generator = np.random.Generator(np.random.SFC64([seed, 7]))
    x = images.x_train[:batch_size].astype(np.float64)
    y = np.eye(images.classes)[images.y_train[:batch_size]]
    w = generator.standard_normal((x.shape[1], images.classes)) / math.sqrt(x.shape[1])
    predicted = float(deviation.gradient_std(x, y, w, keep_prob).mean())
    model = LinearGradient(*(torch.from_numpy(part) for part in (x, y, w)), keep_prob)
    moments = gradient_moments(model, masks, generator)
    return {"linear_mean": predicted}, {"linear_mean": moments.average, "linear_mean_stderr": moments.average_stderr}
