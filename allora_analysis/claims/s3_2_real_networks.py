"""§1's design and second flaw in networks: what B = 0 and merging give, and where LoRA's start is in real networks.

The MLP is a tanh network on scikit-learn's digits; pretrained transformers are read from the runs that
`python -m experiments.hessian` recorded. Checked by `tests/test_claims_3_2.py` and `tests/test_claims_pretrained.py`,
which plant wrong formulas and records.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allora_analysis.claims.cases import Case, Cases, relative_error
from allora_analysis.claims.claim import Finding, Size, claim, in_part, not_run, ranged
from allora_analysis.claims.s3_2_in_a_and_b import against, signs
from allora_analysis.finetune.sources import INSTRUCT, PACKAGES
from allora_analysis.zero_initialisation import run as lists
from allora_analysis.zero_initialisation.run import STUDY, Setting, recorded

TOLERANCE = 1e-8
NETWORK = "python -m allora_analysis.hessian --network --rank {}"
PRETRAINED = "python -m experiments.hessian --model {} --data FOLDER"


class Net(NamedTuple):
    """Two layers with LoRA of rank r: widths n₀, n₁, n₂; sizes of A's and B's entries; torch's type; a seed.

    Apart: only the first rows of A and the other columns of B are not 0, so that BA = 0.
    """

    widths: tuple[int, int, int]
    rank: int
    a: float
    b: float
    dtype: str
    seed: int
    apart: bool = False


ETA, ROWS = 2.0, 16


def network(one: Net) -> tuple[Any, Any, Any]:
    """A pretrained network, the same with LoRA in both layers (sharing its weights), and inputs."""
    import torch
    from torch import nn

    from allora_analysis.lora.layers import ALLoRALinear

    generator, kind = torch.Generator().manual_seed(one.seed), getattr(torch, one.dtype)
    bases = [nn.Linear(n, m, dtype=kind) for n, m in itertools.pairwise(one.widths)]
    adapted = []
    with torch.no_grad():
        for base in bases:
            for part in (base.weight, base.bias):
                part.copy_(torch.randn(part.shape, generator=generator, dtype=kind) / base.in_features**0.5)
            layer = ALLoRALinear(base, one.rank, ETA, "lora_x_eta", generator=generator)
            layer.a.mul_(one.a)
            layer.b.copy_(one.b * torch.randn(layer.b.shape, generator=generator, dtype=kind))
            if one.apart:
                layer.a[one.rank // 2 :] = 0
                layer.b[:, : one.rank // 2] = 0
            adapted.append(layer)
    inputs = torch.randn(ROWS, one.widths[0], generator=generator, dtype=kind)
    base, lora = (nn.Sequential(layers[0], nn.Tanh(), layers[1]) for layers in (bases, adapted))
    return base, lora, inputs


def _drawn_net(rng: np.random.Generator, a: float = 1.0, b: float = 1.0, apart: bool = False) -> Net:
    widths = tuple(int(width) for width in rng.integers(8, 41, size=3))
    dtype = str(rng.choice(["float32", "float64"]))
    return Net(widths, int(rng.integers(1 + apart, 9)), a, b, dtype, int(rng.integers(2**31)), apart)


def _paper_net(cases: Cases, a: float, b: float, apart: bool = False) -> Net:
    return Net((64, 64, 32), 8, a, b, "float32", int(cases.rng.integers(2**31)), apart)


def change_of_output(one: Net) -> float:
    """The largest difference of the adapted network's outputs from the pretrained one's."""
    import torch

    base, adapted, inputs = network(one)
    with torch.no_grad():
        return float((base(inputs) - adapted(inputs)).abs().max())


@claim(
    "3.2-pretrained-mapping",
    where="§1, LoRA's design",
    says="zero-initialization to ensure that training starts from the LLM's pretrained mapping",
    reading="With A or B at 0 every output equals the pretrained network's, without rounding; with BA ≠ 0 it does not. "
    "(BA = 0 with neither at 0 would do as well.)",
    test="tests/test_lora_layers.py",
)
def pretrained_mapping(cases: Cases) -> Finding:
    """Outputs with B = 0, with A = 0, with both drawn, and with both drawn so that BA = 0, in float32 and float64."""
    kinds = {
        "B = 0": (1.0, 0.0, False),
        "A = 0": (0.0, 1.0, False),
        "A and B at random": (1.0, 1.0, False),
        "A and B not 0, BA = 0": (1.0, 1.0, True),
    }
    own = [Case(f"r = 8, float32, {name}", _paper_net(cases, *kind), True) for name, kind in kinds.items()]
    drawn = [
        case
        for name, kind in kinds.items()
        for case in cases.draw(lambda rng, kind=kind: _drawn_net(rng, *kind), 3, name)
    ]

    def keeps(one: Net) -> bool:
        return one.a * one.b == 0 or one.apart

    judged = cases.judge(own + drawn, change_of_output, printed=lambda one, seen: (seen == 0) == keeps(one))
    return judged.finding(
        holds="Yes, exactly: with A or B at zero the network is the pretrained one.",
        evidence=judged.evidence("none: equal", lambda one: "0" if keeps(one) else "not 0", tolerance=0.0),
        flips_if="an output that differs with A or B at 0",
    )


def operations(module: Any, inputs: Any) -> int:
    """Floating-point operations of a forward pass's matrix products: 2 for each entry of a weight and each row."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Counter(TorchFunctionMode):
        total = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear:
                x, weight = args[:2]
                self.total += 2 * weight.numel() * (x.numel() // x.shape[-1])
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Counter() as counter:
        module(inputs)
    return counter.total


def _merged_cost(one: Net) -> dict[str, float]:
    """Operations and parameters of the network merged, operations unmerged, and how far its outputs are off, in ε."""
    import torch
    from torch import nn

    _, adapted, inputs = network(one)
    merged = nn.Sequential(adapted[0].merge(), nn.Tanh(), adapted[2].merge())
    with torch.no_grad():
        outputs, reference = merged(inputs).double().numpy(), adapted(inputs).double().numpy()
    return {
        "operations": operations(merged, inputs),
        "parameters": sum(part.numel() for part in merged.parameters()),
        "unmerged": operations(adapted, inputs),
        "off": relative_error(outputs, reference) / torch.finfo(getattr(torch, one.dtype)).eps,
    }


def _pretrained_cost(one: Net) -> dict[str, int]:
    # Of two layers with biases; unmerged, A and B add 2r(n + m) for each input row.
    pairs = list(itertools.pairwise(one.widths))
    base = 2 * ROWS * sum(n * m for n, m in pairs)
    return {
        "operations": base,
        "parameters": sum(n * m + m for n, m in pairs),
        "unmerged": base + 2 * ROWS * one.rank * sum(n + m for n, m in pairs),
    }


@claim(
    "3.2-inference-cost",
    where="§2, LoRA",
    says="Since low-rank matrices can be merged back to original weights, LoRA does not incur any additional cost at "
    "inference",
    reading="The merged network has the outputs of the adapted one, and the operations and parameters of the base.",
    test="tests/test_lora_layers.py",
)
def inference_cost(cases: Cases) -> Finding:
    """Counted operations and parameters, merged and unmerged, against the pretrained network's; outputs beside."""
    judged = cases.judge(
        [Case("r = 8, widths 64, 64, 32, float32", _paper_net(cases, 1.0, 1.0), True), *cases.draw(_drawn_net, 7)],
        _merged_cost,
        printed=lambda one, seen: (
            {name: seen[name] for name in ("operations", "parameters", "unmerged")} == _pretrained_cost(one)
            and seen["off"] <= max(one.widths)
        ),
    )
    qwen = _pretrained_cost(Net((896, 896, 896), 8, 1.0, 1.0, "float32", 0))  # the paper's narrowest model
    return judged.finding(
        holds="Yes, once merged; left unmerged, it costs the products with A and B on top.",
        evidence=judged.evidence(
            "of the outputs, in units of the type's ε: the largest width, for sums in another order; counts are exact",
            _pretrained_cost,
            error=max(seen["off"] for _, seen in judged.pairs),
            tolerance=64.0,
        ),
        size=Size(
            qwen["unmerged"] / qwen["operations"] - 1,
            "of the pretrained cost",
            "what r = 8 adds unmerged at width 896 (Qwen2-0.5B), 2r over the width",
        ),
        flips_if="a merged layer with more operations or parameters, or with other outputs",
    )


class Start(NamedTuple):
    """The digits' MLP with LoRA on both layers: seed, rank, images; whether A too is 0."""

    seed: int
    rank: int
    images: int
    zero: bool = False


def adapted_mlp(one: Start) -> tuple[Any, Any, Any]:
    """The model, its loss and its data."""
    import torch
    from torch import nn

    from allora_analysis.hessian import network_inertia

    model, (images, classes) = network_inertia.adapted_mlp(one.seed, one.rank), network_inertia.new_digits()
    if one.zero:
        with torch.no_grad():
            for layer in (model[0], model[2]):
                layer.a.zero_()
    return model, nn.CrossEntropyLoss(), (images[: one.images], classes[: one.images])


def _all_eigenvalues(model: Any, loss: Any, data: Any) -> np.ndarray:
    from allora_analysis.hessian import network

    size = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return network.network_spectrum(model, loss, data, size).smallest


def at_start(one: Start) -> dict[str, Any]:
    """Slopes and signs of all eigenvalues at the start, and the counts that ranks foretell."""
    from allora_analysis.hessian import network_inertia

    model, loss, data = adapted_mlp(one)
    slope_a, slope_b = network_inertia.gradient_norms(model, loss, data)
    values = _all_eigenvalues(model, loss, data)
    told = network_inertia.negative_directions(model, loss, data)
    counts, bound = signs(values), one.rank * sum(told.layer_ranks.values())
    foretold = {"negative": told.negative, "zero": told.zero, "positive": told.positive}
    return {
        "‖∇_A‖": slope_a,
        "‖∇_B‖": slope_b,
        "−λ_min/λ_max": float(-values[0] / values[-1]),
        "Σ r·rank G": bound,
        "foretold": foretold,
        "signs as foretold": counts == foretold and counts["negative"] >= bound > 0,
        **counts,
    }


STEPS = 100


def _descended(one: Start) -> dict[str, Any]:
    """The loss before and after plain gradient descent, the slope at the start; at r = 1 negative directions too."""
    from allora_analysis.hessian import network_inertia

    model, loss, data = adapted_mlp(one)
    start, slope = loss(model(data[0]), data[1]).item(), sum(network_inertia.gradient_norms(model, loss, data))
    before = _all_eigenvalues(model, loss, data) if one.rank == 1 else None
    network_inertia.descend(model, loss, data, STEPS, network_inertia.LEARNING_RATE)
    seen = {"loss at the start": start, "loss at the end": loss(model(data[0]), data[1]).item(), "slope": slope}
    if before is not None:
        both = before, _all_eigenvalues(model, loss, data)
        seen["negative directions"] = [signs(values)["negative"] for values in both]
        seen["lowest over highest eigenvalue"] = [float(values[0] / values[-1]) for values in both]
    return seen


@claim(
    "3.2-network-escape",
    where="beyond the paper: §1, second flaw, in a small network",
    says="In a small network on digits a start at zero is not left.",
    reading="LoRA in both layers of an MLP: 100 steps of plain gradient descent do not lower the loss.",
    command=NETWORK.format(1),
    test="tests/test_hessian_escape.py",
    depends_on=("3.2-pretrained-saddle",),
)
def network_escape(cases: Cases) -> Finding:
    """The loss over 100 steps from LoRA's start and from A = B = 0, the one start with no slope."""
    seeds = [int(seed) for seed in cases.rng.integers(2**31, size=3)]
    judged = cases.judge(
        [
            Case("r = 8, B = 0, A random (LoRA)", Start(seeds[0], 8, 300)),
            Case("r = 1, B = 0, A random (LoRA)", Start(seeds[1], 1, 60)),
            Case("r = 8, A = B = 0", Start(seeds[2], 8, 300, zero=True)),
        ],
        _descended,
        printed=lambda one, seen: seen["loss at the end"] >= seen["loss at the start"] * (1 - TOLERANCE),
        corrected=lambda one, seen: (seen["slope"] <= TOLERANCE) == one.zero,
        condition=lambda one: one.zero,
    )
    from allora_analysis.hessian import network_inertia

    own = judged.measured[0]
    return judged.finding(
        conditional="Only from A = B = 0: from LoRA's start plain descent leaves at once.",
        evidence=judged.evidence("stays or leaves: none may differ", {"stays": "iff A = B = 0"}),
        size=Size(
            1 - own["loss at the end"] / own["loss at the start"],
            "of the loss at the start",
            f"fall of the loss in {STEPS} steps of gradient descent at {network_inertia.LEARNING_RATE:g} from LoRA's "
            f"start, r = 8, {network_inertia.HIDDEN} tanh units",
        ),
        condition="A and B both start at 0",
        flips_if="a descent that stands still from A at random",
    )


def _foretold(told: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    # All eigenvalues: each count is the one foretold, [least, most]. Ends: as many as the least count says, or all that
    # were asked for, lie beyond their residual on the side foretold.
    if "all" in run:
        counts = signs(np.array(run["all"]), 1e-14)
        return all(told[sign] == [number, number] for sign, number in counts.items())
    low, high = np.array(run["smallest"]), np.array(run["largest"])[::-1]
    low_error, high_error = np.array(run["smallest_residuals"]), np.array(run["largest_residuals"])[::-1]
    below, above = min(len(low), told["negative"][0]), min(len(high), told["positive"][0])
    return bool(np.all((low + low_error)[:below] < 0) and np.all((high - high_error)[:above] > 0))


def case_name(setting: Setting) -> str:
    """A run's name in the evidence."""
    asked = "all eigenvalues" if setting.k == 0 else "both ends"
    return f"{setting.model}, layer {setting.layer} ({', '.join(setting.modules)}), r = {setting.rank}, {asked}"


def _measured(run: Mapping[str, Any]) -> dict[str, Any]:
    low, high = (run["all"][0], run["all"][-1]) if "all" in run else (run["smallest"][0], run["largest"][-1])
    sigma = max(of[0] for of in run["singular_values"].values())
    return {
        "‖∇_A‖": run["gradient_norms"]["a"],
        "‖∇_B‖": run["gradient_norms"]["b"],
        "λ_min": low,
        "λ_max": high,
        "−λ_min/λ_max": -low / high,
        "λ_max/σ₁(G)": high / sigma,
        "signs as foretold": _foretold(run["foretold"], run),
        **(signs(np.array(run["all"]), 1e-14) if "all" in run else {}),
    }


DIGITS = ((8, 20), (1, 60), (2, 8))  # ranks of LoRA in the MLP, and images


@claim(
    "3.2-pretrained-saddle",
    where="beyond the paper: §1, second flaw, in a small network and two small pretrained models",
    says=f"In networks, too (a small one on digits, {', '.join(lists.ENDS)}), LoRA's start is a saddle point.",
    reading="B = 0 and A random, in both layers of an MLP, or in one layer of a pretrained model at a time, r = 4 or "
    "1: critical, with curvature of both signs." + INSTRUCT,
    command=" && ".join([*(PRETRAINED.format(PACKAGES[name][0]) for name in lists.ENDS), NETWORK.format(2)]),
    test="tests/test_claims_pretrained.py",
    reads=STUDY,
    depends_on=("3.2-saddle-lora",),
)
def pretrained_saddle(cases: Cases, folder: Path | None) -> Finding:
    """Slopes and eigenvalues at B = 0, A random, the MLP's and recorded ones, against the signs that ranks foretell."""
    runs = recorded(lists.RUNS, folder)
    if not runs:
        return not_run(f"0 of {len(lists.RUNS)} runs are recorded")
    drawn = [Start(int(seed), *of) for seed, of in zip(cases.rng.integers(2**31, size=3), DIGITS, strict=True)]
    judged = cases.judge(
        [Case(f"MLP, r = {one.rank}, {one.images} digits", one) for one in drawn]
        + [Case(case_name(setting), setting) for setting in runs],
        lambda one: _measured(runs[one]) if isinstance(one, Setting) else at_start(one),
        printed=lambda one, seen: seen["‖∇_B‖"] <= TOLERANCE and seen["signs as foretold"],
    )
    depths = [seen["−λ_min/λ_max"] for case, seen in judged.pairs if isinstance(case.inputs, Setting)]
    layers = len({(setting.model, setting.layer) for setting in runs})
    finding = judged.finding(
        refuted=f"No: the MLP and each of the {layers} layers measured have a slope along B, though curvature of both "
        "signs.",
        evidence=judged.evidence(
            f"counts, [least, most]: none may differ; {len(runs)} of {len(lists.RUNS)} runs recorded",
            {"‖∇_A‖": 0.0, "signs": "those that the ranks of G foretell"},
            tolerance=0.0,
            n=len(runs),
        ),
        size=ranged(
            depths,
            "of the highest curvature",
            f"depth of the lowest in pretrained models{in_part(len(runs), len(lists.RUNS), 'runs')}",
        ),
        corrected="no critical point, as ∇_B ≠ 0; the Hessian there has the signs that the ranks foretell, in the MLP "
        "at least Σ_l r·rank G_l of them negative",
        flips_if="a gradient of 0 at LoRA's start",
    )
    contrary = all(seen["signs as foretold"] and seen["‖∇_B‖"] > TOLERANCE >= seen["‖∇_A‖"] for _, seen in judged.pairs)
    return against(finding, contrary)
