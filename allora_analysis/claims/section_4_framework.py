"""§4.1, around Definition 2: W* = 0 without loss of generality, what a dropped output does to other rows, what fits in.

Checked by `tests/test_claims_allora_framework.py`, which plants wrong formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allora_analysis.claims import layer_runs
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

SEED = 48
ETA = 2.0
ROUNDING = 1e-11
ROUNDING_SOURCE = "float64 rounding; seen: below 1e-14"
DISTINCT = 1e-3  # what is not equal differs by more than this, relatively


def losses() -> dict[str, Callable]:
    """Losses (y, f) ↦ number on tensors, by name.

    Returns:
        The squared loss, Huber's, the cross-entropy of f's softmax with y as its class probabilities.
    """
    from torch.nn import functional as torch_functional

    return {
        "squared": lambda y, f: ((y - f) ** 2).sum() / 2,
        "Huber": lambda y, f: torch_functional.huber_loss(f, y, reduction="sum"),
        "cross-entropy": lambda y, f: -(y * torch_functional.log_softmax(f, dim=1)).sum(),
    }


def _gradients(loss: Callable, y: np.ndarray, frozen: np.ndarray, parts: tuple[np.ndarray, ...]) -> np.ndarray:
    # ∂/∂A and ∂/∂B of loss(y, W*x + BAx), one after the other.
    import torch

    x, a, b = (torch.tensor(part, requires_grad=True) for part in parts)
    loss(torch.tensor(y), x @ torch.tensor(frozen).mT + layer_runs.lora(x, a, b)).backward()
    return np.concatenate([a.grad.numpy().ravel(), b.grad.numpy().ravel()])


def frozen_weight() -> Finding:
    """Gradients of A and B under L(y, (W* + BA)x) and under L(y − W*x, BAx), loss by loss, by autograd.

    Returns:
        The finding; the condition is that L(y + s, f + s) = L(y, f).
    """
    import torch

    x, f, a, b = layer_runs.draws()
    generator = np.random.default_rng(SEED)
    frozen, y, shift = generator.standard_normal((4, 3)), np.eye(4)[[0, 1, 2, 3, 0]], generator.standard_normal((5, 4))
    printed, corrected, seen, moved = {}, {}, {}, {}
    for case, loss in losses().items():
        whole = _gradients(loss, y, frozen, (x, a, b))
        seen[case] = relative_error(_gradients(loss, y - x @ frozen.T, 0 * frozen, (x, a, b)), whole)
        values = [float(loss(torch.tensor(y + s), torch.tensor(f + s))) for s in (0 * shift, shift)]
        moved[case] = abs(values[1] / values[0] - 1)
        printed[case] = seen[case] <= ROUNDING
        corrected[case] = printed[case] == (moved[case] <= ROUNDING)
    predicted = {"gradients agree where L(y + s, f + s) = L(y, f); it changes by": moved}
    same = max((error for case, error in seen.items() if moved[case] <= ROUNDING), default=1.0)
    evidence = Evidence(predicted, seen, ROUNDING_SOURCE, same, ROUNDING, seed=SEED)
    text = (
        "for losses of y − f alone (squared, Huber); not for cross-entropy, where W*x stays as an offset of the "
        f"logits: with y − W*x for y the gradients of A and B are off by {max(seen.values()):.1f} times their size here"
    )
    return Finding(settle(printed, corrected), evidence, text)


def other_rows() -> Finding:
    """First-order step of (BA)_j, j ≠ i, under one SGD step of the layer, with output i dropped and with it kept.

    Returns:
        The finding; measured is the largest change of a row over its own step.
    """
    x, upstream, a, b = layer_runs.draws()
    dropped, rows = 1, [0, 2, 3]
    across = b.copy()
    across[rows] -= np.outer(b[rows] @ b[dropped], b[dropped]) / (b[dropped] @ b[dropped])
    starts = {"B = 0": 0 * b, "each B_j ⊥ B_i": across, "B as drawn": b}
    mask = np.ones(4)
    mask[dropped] = 0.0
    printed, corrected, seen, errors = {}, {}, {}, []
    for case, start in starts.items():
        kept, masked = (_row_steps(x, upstream * keep, a, start) for keep in (np.ones(4), mask))
        change = (masked - kept)[rows]
        g = (upstream.T @ x)[dropped]
        errors.append(float(np.abs(change - np.outer(start[rows] @ start[dropped], g)).max()))
        seen[case] = float((np.linalg.norm(change, axis=1) / np.linalg.norm(kept[rows], axis=1)).max())
        printed[case] = seen[case] > DISTINCT
        coupled = bool((np.abs(start[rows] @ start[dropped]) > ROUNDING).any())
        corrected[case] = errors[-1] <= ROUNDING and printed[case] == coupled
    evidence = Evidence(
        {"change of row j's step, over l": "(B_j·B_i) g_i"},
        seen,
        ROUNDING_SOURCE,
        max(errors),
        ROUNDING,
        seed=layer_runs.SEED,
    )
    text = (
        "only through A, which the rows share (for a loss that does not couple the outputs): (BA)_j's step changes by "
        "l(B_j·B_i)g_i to first order in l, and not at all while B = 0 or where B_j ⊥ B_i; in these draws by up to "
        f"{seen['B as drawn']:.2g} of the row's own step"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _row_steps(x: np.ndarray, upstream: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # −(B ∂A + ∂B A) by the layer's own gradients: what BA moves by, over l, to first order.
    _, _, grad_a, grad_b = layer_runs.backward(layer_runs.lora, x, upstream, a, b)
    return -(b @ grad_a + grad_b @ a)


def _applied() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    # By adaptor, what it makes of one f (its output) or g (its factor on each row): at a pair (A, B), at another with
    # the same f or g, and at another with all that it depends on.
    from allora_analysis.lora import functional

    x, upstream, a, b = (part[:1] if index < 2 else part for index, part in enumerate(layer_runs.draws()))
    generator = np.random.default_rng(SEED)
    across = generator.standard_normal(3)
    across -= across @ x[0] / (x[0] @ x[0]) * x[0]
    turn = np.array([[1.0, 2.0], [1.0, 3.0]])
    here, any_pair = (a, b), (a + generator.standard_normal(a.shape), b)
    same_f, same_product = (a + np.outer([1.0, -2.0], across), b), (turn @ a, b @ np.linalg.inv(turn))
    masks = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])

    def layer(arm: str) -> Callable:
        return lambda *parts: layer_runs.forward(arm, *parts, ETA)

    def output(rule: Callable, pair: tuple) -> np.ndarray:
        return layer_runs.backward(rule, x, upstream, *pair)[0]

    def factor(rule: Callable, pair: tuple) -> np.ndarray:
        grads = [layer_runs.backward(one, x, upstream, *pair)[3] for one in (rule, layer_runs.lora)]
        return np.divide(*grads)[:, 0]

    def od(*parts):
        return functional.allora_od(*parts, ETA)

    plain = [output(layer_runs.lora, pair) for pair in (here, same_f)]
    return {
        "scaling factor, f_o": tuple(output(layer("scaled"), pair) for pair in (here, same_f, same_f)),
        "dropout, one mask for good, f_o": (masks[0] * plain[0], masks[0] * plain[1], masks[0] * plain[1]),
        "dropout, a mask each time, f_o": (masks[0] * plain[0], masks[1] * plain[1], masks[0] * plain[1]),
        "ASF-LoRA, f_o": tuple(output(layer("asf"), pair) for pair in (here, same_f, same_f)),
        "learning rate η·l, f_g": tuple(factor(layer("constant"), pair) for pair in (here, any_pair, any_pair)),
        "ALLoRA, f_g": tuple(factor(layer("allora"), pair) for pair in (here, any_pair, same_product)),
        "ALLoRA-OD, f_g": tuple(factor(od, pair) for pair in (here, any_pair, same_f)),
    }


NEEDS_MORE = {"dropout, a mask each time, f_o": "the mask", "ALLoRA, f_g": "BA", "ALLoRA-OD, f_g": "f(x)"}


def subsumes() -> Finding:
    """Is each adaptor a function of f or of g alone? The same argument twice, all else changed, through the layers.

    Returns:
        The finding; measured are the distances of the two results, and with the further argument kept too.
    """
    printed, corrected, seen, kept = {}, {}, {}, []
    for case, (here, other, same) in _applied().items():
        seen[case] = relative_error(other, here)
        kept.append(relative_error(same, here))
        printed[case] = seen[case] <= ROUNDING
        apart = seen[case] > DISTINCT
        corrected[case] = kept[-1] <= ROUNDING and apart == (case in NEEDS_MORE)
    evidence = Evidence(
        {"a further argument": NEEDS_MORE}, seen, ROUNDING_SOURCE, max(kept), ROUNDING, seed=layer_runs.SEED
    )
    text = (
        "the scaling factor, one mask kept for good, a learning rate and ASF-LoRA; dropout as used draws a mask anew "
        "each time, and ALLoRA's own f_g takes BA beside g, ALLoRA-OD's f(x): with that as a further argument all are "
        "subsumed"
    )
    return Finding(settle(printed, corrected), evidence, text)


ROWS = (
    (
        "4-without-loss-of-generality",
        "§4.1, above Eq. (4)",
        "WLOG, we can further simply the model by assuming W* = 0, which is equivalent to defining ỹ = y − W*x and "
        "rewrite the loss function by ỹ (read: the same loss, at ỹ)",
        frozen_weight,
    ),
    (
        "4-dropout-other-rows",
        "§4.1, below Eq. (4)",
        "The effect [of dropping out (f(x))_i] on (BA)_j, j ≠ i is slightly different (read: its step changes)",
        other_rows,
    ),
    (
        "4-subsumes",
        "§4.1, Definition 2",
        "A general framework that subsumes both, f̃ = f_o∘f, g̃ = f_g∘g (read: scaling factor and dropout, and ALLoRA's "
        "family: adaptors of f or of g alone)",
        subsumes,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements around Definition 2.

    Returns:
        The claims, in the paper's order.
    """
    test = "tests/test_claims_allora_framework.py"
    return tuple(
        Claim(name, where, text, check, f"python -m allora_analysis --only {name}", test)
        for name, where, text, check in ROWS
    )
