"""A fine-tuning run's figure: accuracy by epoch, training loss and row norms by step. Draws, computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allora_analysis.finetune.results import summarised
from allora_analysis.plotting import COLOURS, panels
from allora_analysis.study import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(config: Any, result: Result) -> Figure:
    """Three panels.

    Args:
        config: the run's flags.
        result: its result.

    Returns:
        The figure.
    """
    m = result.measured
    figure, (left, middle, right) = panels(3)
    for split, colour in (("validation", COLOURS["plain"]), ("test", COLOURS["predicted"])):
        if known := [entry for entry in m["epochs"] if f"{split}_accuracy" in entry]:
            accuracies = [entry[f"{split}_accuracy"] for entry in known]
            left.plot([entry["epoch"] for entry in known], accuracies, "o-", color=colour, label=split)
    majority = result.predicted["majority_rates"]["test"]
    left.axhline(majority, ls=":", color=COLOURS["measured"], label="most frequent label")
    left.set(title=f"{config.arm}, {config.optimizer}", xlabel="epoch", ylabel="accuracy")
    left.legend(fontsize=7)
    middle.plot(m["loss"]["step"], m["loss"]["value"], color=COLOURS["predicted"])
    middle.set(xlabel="step", ylabel="training loss")
    norms = summarised(m["row_norms"])
    if norms["mean"]:
        span = {"color": COLOURS["plain"], "alpha": 0.3, "lw": 0, "label": "from the least layer to the most"}
        right.fill_between(norms["step"], norms["least"], norms["most"], **span)
        right.plot(norms["step"], norms["mean"], color=COLOURS["measured"], label="mean over layers")
        right.legend(fontsize=7)
    right.set(xlabel="step", ylabel="mean row norm of (α/r)BA", xscale="symlog")
    return figure
