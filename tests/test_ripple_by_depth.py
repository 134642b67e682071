"""The figure of growth layer by layer: its lines are the closed forms'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from allora_analysis.ripple import fair_scales, stack
from allora_analysis.ripple.by_depth import by_depth


@pytest.mark.parametrize("architecture", ["linear", "relu", "prelayernorm"])
def test_lines_are_the_bound_and_the_typical_growth(architecture):
    axis = by_depth(6, 8, 2, 1.5, architecture, replicas=5).axes[0]
    bound, typical = (line.get_ydata() * math.log(10) for line in axis.lines[:2])
    scales = fair_scales(8, 2, architecture)
    norms = stack.drawn_norms(6, 8, 2, scales, np.random.default_rng([0, 1]))
    assert bound[-1] == pytest.approx(stack.stack_bound(norms, 1.5, 8, architecture).log_bound)
    assert typical[-1] == pytest.approx(stack.typical_growth(6, 8, 2, 1.5, scales, architecture).mean)
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
