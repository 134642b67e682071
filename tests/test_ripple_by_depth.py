"""The figure of growth layer by layer: its lines are the closed forms'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from allora_analysis.ripple import fair_scales, residual_log_growth, stack
from allora_analysis.ripple.figure import by_depth


@pytest.mark.parametrize("architecture", ["linear", "relu", "prelayernorm"])
def test_lines_are_the_bound_and_the_typical_growth(architecture):
    axis = by_depth(6, 8, 2, 1.5, architecture, replicas=5).axes[0]
    bound, typical = (line.get_ydata() * math.log(10) for line in axis.lines[:2])
    scales = fair_scales(8, 2, architecture)
    norms = stack.drawn_norms(6, 8, 2, scales, np.random.default_rng([0, 1]))
    assert bound[-1] == pytest.approx(stack.stack_bound(norms, 1.5, 8, architecture).log_bound)
    assert typical[-1] == pytest.approx(stack.typical_growth(6, 8, 2, 1.5, scales, architecture).mean)
    band = axis.collections[0].get_paths()[0].vertices * math.log(10)
    ends = band[np.isclose(band[:, 0], 6 * math.log(10)), 1]
    centre = 0.5 * (ends.min() + ends.max())
    if architecture == "prelayernorm":  # about the mean of the logarithm, below the root mean square's
        assert centre == pytest.approx(residual_log_growth(6, 8, 2, 1.5, *scales).mean)
        assert centre < typical[-1] - 0.02
    else:
        assert centre == pytest.approx(typical[-1])
    assert np.all(np.diff(bound) > 0)
    assert np.all(bound > typical)


def test_simulated_networks_lie_around_the_typical_growth():
    axis = by_depth(12, 32, 4, 2.0, replicas=200).axes[0]
    typical = axis.lines[1].get_ydata()
    clouds = axis.lines[2:]
    assert len(clouds) == 12
    for cloud in clouds:
        layer, values = int(cloud.get_xdata()[0]), cloud.get_ydata()
        assert abs(values.mean() - typical[layer - 1]) < 6 * values.std(ddof=1) / math.sqrt(200)


@pytest.mark.bad_input
def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="depth"):
        by_depth(0)
