"""What a reader needs of a printed figure: no wider than the page, no text too small, cut off or over another text."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from allora_analysis.plotting import PAGE

SMALLEST = 6.0  # points
DOTS = 300  # an inch, as the files have: the layout depends on it a little


def texts(figure: Figure) -> list:
    """The texts that are drawn: titles, labels, ticks in view, legends, notes."""
    found = [*figure.texts]
    for legend in [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]:
        found += [*legend.get_texts(), legend.get_title()]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def assert_readable(figure: Figure) -> None:
    """Every text within the figure, at least `SMALLEST`, and none over another by more than a pixel."""
    assert figure.get_size_inches()[0] <= PAGE
    figure.set_dpi(DOTS)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    canvas.draw()  # as for a file: the layout is found first, then drawn
    boxes = []
    for text in texts(figure):
        assert text.get_size() >= SMALLEST, text
        box = text.get_window_extent(canvas.get_renderer())
        boxes.append((text.get_text(), box))
        assert box.x0 >= -1, f"{text.get_text()!r} is cut off at the left"
        assert box.x1 <= figure.bbox.x1 + 1, f"{text.get_text()!r} is cut off at the right"
        assert box.y0 >= -1, f"{text.get_text()!r} is cut off below"
        assert box.y1 <= figure.bbox.y1 + 1, f"{text.get_text()!r} is cut off above"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        over = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(over) <= 1, f"{one!r} lies on {other!r}"
