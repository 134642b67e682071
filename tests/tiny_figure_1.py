"""Figure 1's grid in miniature, on the digits: a second of work."""

from allora_analysis.gradient_std.grid import Grid

TINY = Grid(
    data=("digits",),
    optimizers=("sgd", "adam"),
    extra_drop_rates=(0.0,),
    extra_optimizers=("sgd",),
    seeds=2,
    hidden=(12, 8),
    epochs=2,
    batch_size=64,
    masks=8,
    control_minibatches=4,
    nested_minibatches=3,
    nested_masks=2,
)
