"""The showcase of width and rank: predicted powers of n and r beside those fitted to training, and ALLoRA's factor.

Checked by `tests/test_width.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from allora_analysis import validation
from allora_analysis.study import Result, Study, Table, sweep
from allora_analysis.width.exponents import METHODS, OPTIMIZERS, exponents, flow_factor
from allora_analysis.width.training import QUANTITIES, fit_power, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from allora_analysis.width.exponents import Exponents

LABELS = {"largest_rate": "largest rate", "row_norm": "row norm", "first_step": "first step"}
ETA = 2.0  # the paper's largest, η² = 4


@dataclass(frozen=True)
class Config:
    """Width and rank: how LoRA's largest stable rate, row norms and first step scale; whether ALLoRA's factor tapers.

    Each case is trained at every width at one rank, and at every rank at one width.
    """

    methods: Annotated[tuple[str, ...], arg(metavar=f"[{'|'.join(METHODS)} ...]")] = tuple(METHODS)
    """What is compared; allora_adamw is AdamW's alone."""
    optimizers: Annotated[tuple[str, ...], arg(metavar="[sgd|adam ...]")] = OPTIMIZERS
    """Under which."""
    widths: tuple[int, ...] = (64, 256, 1024, 4096)
    """n, inputs and outputs of the layer; two or more."""
    rank: int = 8
    """r while n varies, at most the smallest width."""
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    """r, two or more, at most width."""
    width: int = 512
    """n while r varies."""
    network: bool = False
    """The hidden layer of a two-layer network in place of a linear teacher."""
    inputs: int = 1
    """N of the teacher: 1, a gradient of one direction, or at least 4 times the largest rank: of many."""
    seeds: int = 3
    """Layers of each size, two or more."""
    seed: int = 0
    """Seed of all random numbers."""


def many(config: Config) -> bool:
    """Whether the gradient has far more directions than any rank."""
    return config.inputs >= 4 * max(*config.ranks, config.rank)


def cases(config: Config) -> list[tuple[str, str]]:
    """Refuse a config that makes no sense; its methods and optimizers."""
    for name, sizes in (("widths", config.widths), ("ranks", config.ranks)):
        if len({validation.count(name, size) for size in sizes}) < 2:
            raise validation.ArgumentError(f"{name} must hold two different sizes or more, received {sizes}")
    validation.adapter_rank(config.rank, min(config.widths), min(config.widths))
    width = validation.count("width", config.width)
    validation.adapter_rank(max(config.ranks), width, width)
    if validation.count("inputs", config.inputs) > 1 and (config.network or not many(config)):
        least = 4 * max(*config.ranks, config.rank)
        wanted = "1 with --network" if config.network else f"1, or of a teacher {least} or more"
        raise validation.ArgumentError(f"inputs must be {wanted}, received {config.inputs}")
    validation.count("seeds", config.seeds, 2)
    validation.count("seed", config.seed, 0)
    largest = max(max(config.widths) * config.rank, config.width * max(config.ranks)) * config.inputs**0.5
    validation.fits("widths, ranks, seeds", 200.0 * config.seeds * largest, "training")
    methods, optimizers = (validation.several(name, getattr(config, name)) for name in ("methods", "optimizers"))
    for name, of, allowed in (("methods", methods, METHODS), ("optimizers", optimizers, OPTIMIZERS)):
        for one in of:
            validation.choice(name, one, allowed)
    found = [(m, o) for m in methods for o in optimizers if (METHODS[m].factor, o) != ("update", "sgd")]
    if not found:
        raise validation.ArgumentError("optimizers must include adam for allora_adamw, received only sgd")
    return list(dict.fromkeys(found))


def run(config: Config) -> Result:
    """Train every case at every size."""
    wanted = cases(config)
    rows, interrupted = sweep(wanted, lambda case: _powers(config, *case), "methods and optimizers")
    names = [f"{method}, {optimizer}" for method, optimizer in wanted]
    predicted = {
        name: _told(exponents(method, optimizer, network=config.network, many=many(config)))
        for name, (method, optimizer) in zip(names, wanted[: len(rows)], strict=False)
    }
    factor = [flow_factor("allora", width, config.rank, ETA) for width in config.widths]
    return Result(predicted | {"kept": factor}, dict(zip(names, rows, strict=False)), interrupted)


def _told(of: Exponents) -> dict[str, Any]:
    powers = {name: {"width": getattr(of, name).width, "rank": getattr(of, name).rank} for name in QUANTITIES}
    return powers | {"tapers": of.tapers, "transfers": of.transfers}


def _powers(config: Config, method: str, optimizer: str) -> dict[str, Any]:
    axes = {
        "width": (config.widths, lambda size: (size, config.rank)),
        "rank": (config.ranks, lambda size: (config.width, size)),
    }
    found: dict[str, Any] = {name: {} for name in QUANTITIES}
    for index, (axis, (sizes, shape)) in enumerate(axes.items()):
        rng = np.random.default_rng([config.seed, index])
        of = (config.seeds, rng, config.network, config.inputs)
        seen = [measure(METHODS[method], optimizer, *shape(n), *of) for n in sizes]
        for name in QUANTITIES:
            fit = fit_power(sizes, [one[name] for one in seen])
            found[name] |= {axis: fit.power, f"{axis}_stderr": fit.stderr}
        if axis == "width":
            found |= {key: [float(one[key].mean()) for one in seen] for key in ("rate", "kept")}
    return found


def table(config: Config, result: Result) -> Table:
    """A row a method and optimizer: the predicted power of n and of r, and the measured one, of each quantity."""
    rows = []
    for name, seen in result.measured.items():
        told = result.predicted[name]
        row = name.split(", ")
        for quantity in QUANTITIES:
            for axis in ("width", "rank"):
                power, error = (seen[quantity][key] for key in (axis, f"{axis}_stderr"))
                row.append(f"{told[quantity][axis]:+.2f}: {power:+.2f} ± {error:.2f}")
        over = [axis for axis, same in told["transfers"].items() if same]
        rows.append([*row, " and ".join(over) or "neither"])
    columns = [f"{LABELS[name]}, {letter}" for name in QUANTITIES for letter in "nr"]
    first, last = (f"{result.predicted['kept'][end]:.0%} of η at n = {config.widths[end]}" for end in (0, -1))
    notes = [
        "Powers of n and r, predicted: measured ± standard error. Largest rate: no loss rises above the start's. "
        "Row norm: ‖s(BA)_i‖ after training at half of it. First step: at a fixed rate.",
        f"ALLoRA's factor (η = {ETA:g}) is {first} and {last} where gradient flow ends, in closed form: at width it is "
        "the constant η. It would keep tapering on the rows that LoRA+'s rates make under Adam.",
    ]
    what = "a two-layer network" if config.network else "a linear teacher"
    title = f"Width and rank: {what}, inputs {config.inputs}, {config.seeds} seeds"
    return Table(title, ["method", "optimizer", *columns, "rate transfers over"], rows, notes)


def plot(config: Config, result: Result) -> Figure:
    """Left: the part of η that ALLoRA's factor keeps, against n. Right: the largest stable rate, against n."""
    from allora_analysis.plotting import panels

    figure, (left, right) = panels(2)
    kept_panel(left, config, result)
    rates_panel(right, config, result)
    return figure


def kept_panel(axis: Axes, config: Config, result: Result) -> None:
    """d/η by width: ALLoRA's closed form and training, and what the rows of LoRA+ under Adam would make of it."""
    from allora_analysis.plotting import ARMS, OPTIMIZERS

    grid = np.geomspace(min(config.widths), max(config.widths), 60)
    curve = [flow_factor("allora", round(n), config.rank, ETA) for n in grid]
    axis.plot(grid, curve, color=ARMS["allora"].colour, label="ALLoRA: closed form")
    for name in ("allora, sgd", "allora, adam", "loraplus, adam"):
        if name in result.measured:
            method, _, optimizer = name.partition(", ")
            look = {"color": ARMS[method].colour, "mfc": "none" if optimizer == "sgd" else ARMS[method].colour}
            label = f"on rows of {ARMS[method].label}, {OPTIMIZERS[optimizer].label}"
            axis.plot(config.widths, result.measured[name]["kept"], ARMS[method].marker, ms=5, label=label, **look)
    axis.set(xscale="log", ylim=(0, 1.05), xlabel="width n", ylabel="mean d$_i$/η")
    axis.set_title("As n grows ALLoRA's factor\ntends to the constant η")
    axis.legend(fontsize=7, loc="lower right")


def rates_panel(axis: Axes, config: Config, result: Result) -> None:
    """The largest rate over that at the smallest width, with the predicted power as a line; Adam's where it was run."""
    from allora_analysis.plotting import ARMS, OPTIMIZERS

    widths = np.array(config.widths, dtype=float)
    optimizer = "adam" if any(name.endswith("adam") for name in result.measured) else "sgd"
    for name, seen in result.measured.items():
        method, _, own = name.partition(", ")
        if own == optimizer:
            arm, power = ARMS[method], result.predicted[name]["largest_rate"]["width"]
            axis.plot(widths, (widths / widths[0]) ** power, color=arm.colour, lw=0.8)
            shown = np.array(seen["rate"]) / seen["rate"][0]
            label = f"{arm.label}: n$^{{{power:g}}}$"
            axis.plot(widths, shown, arm.marker, ms=5, color=arm.colour, mfc="none", label=label)
    axis.set(
        xscale="log", yscale="log", xlabel="width n", ylabel=f"largest stable rate\nover that at n = {widths[0]:g}"
    )
    drawn = [name for name in result.measured if name.endswith(optimizer)]
    flat = [name for name in drawn if result.predicted[name]["largest_rate"]["width"] == 0]
    keep = [ARMS[name.partition(", ")[0]].label for name in flat]
    told = f"Only {' and '.join(keep)} may keep the rate" if keep else "None may keep its rate"
    axis.set_title(f"{told}\nas n grows ({OPTIMIZERS[optimizer].label})")
    axis.legend(fontsize=7, loc="lower left")


STUDY = Study("width", Config, run, table, plot, "--widths 64 256 --seeds 2")
