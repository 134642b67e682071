"""The paper's Figure 5 redrawn: its curves by the caption's formula, its panels."""

import math

import numpy as np
from matplotlib.figure import Figure

from allora_analysis.adaptors import ADAPTORS
from paper_figures import figure_5
from tests.figure_layout import assert_readable


def test_data_are_the_captions_formula():
    curves = figure_5.load_data().data["figure"]
    assert set(curves) == {"x", "1", "2", "4"}
    for square in (1, 2, 4):
        expected = [1 / math.sqrt(abs(value) + 1 / square) for value in curves["x"]]
        np.testing.assert_allclose(curves[str(square)], expected, rtol=1e-14)
        peak = int(np.argmax(curves[str(square)]))
        assert (curves["x"][peak], curves[str(square)][peak]) == (0, math.sqrt(square))


def test_panels():
    loaded = figure_5.load_data()
    data, figure = loaded.data, figure_5.make_figure(loaded)
    assert loaded.records == loaded.missing == ()
    assert_readable(figure)
    assert isinstance(figure, Figure)
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    assert list(lines) == [rf"$\eta^2 = {square}$" for square in (1, 2, 4)]
    np.testing.assert_array_equal(lines[r"$\eta^2 = 4$"].get_ydata(), data["figure"]["4"])
    assert (left.get_xlabel(), left.get_ylim()[0]) == ("x", 0)
    assert (right.get_xscale(), right.get_yscale()) == ("log", "log")
    assert set(figure_5.FAMILY) == set(ADAPTORS) == set(data["family"]) - {"x"}
    drawn = [line.get_ydata() for line in right.get_lines()]
    for name, curve in zip(figure_5.FAMILY, drawn, strict=True):
        np.testing.assert_array_equal(curve, data["family"][name])
        assert abs(curve[0] - 2) < 0.02  # all start from η
    # On logarithmic axes the tails' slopes are the exponents.
    x = data["family"]["x"]
    for name, slope in (("inverse_sqrt", -0.5), ("inverse", -1.0), ("constant", 0.0)):
        last = np.diff(np.log(data["family"][name][-2:])) / np.diff(np.log(x[-2:]))
        assert abs(last[0] - slope) < 0.01
