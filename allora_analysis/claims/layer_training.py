"""§4's layers run: one backward pass, training on a linear teacher under torch's own optimizers, second derivatives.

The measured side of §4's rows; nothing is predicted here. Checked by `tests/test_claims_4_2_leaving_zero.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from allora_analysis.adaptive import Setting
from allora_analysis.claims.cases import PAPER_ROW, relative_error
from allora_analysis.claims.claim import Evidence

ADAM, SAME = 1e-3, 1e-7  # Adam's ε over small gradients; the same but for rounding
ROUNDING = "float64 rounding; seen: below 1e-13"


class Pass(NamedTuple):
    """What one backward pass needs: tokens x (N×n₂), ∂L/∂f (N×n₁), A, B."""

    x: np.ndarray
    upstream: np.ndarray
    a: np.ndarray
    b: np.ndarray


class Layer(NamedTuple):
    """A pass and η."""

    one: Pass
    eta: float


class Problem(NamedTuple):
    """Inputs X (N×n₂), targets Y (N×n₁), A at the start (r×n₂); the loss is ‖Y − X(BA)ᵀ‖²_F/(2N)."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray


def nothing_to_learn(task: Problem) -> bool:
    """XᵀY = 0: BA = 0 has the least squared loss."""
    return bool(np.linalg.norm(task.x.T @ task.y) <= 1e-12 * np.linalg.norm(task.x) * np.linalg.norm(task.y))


class Run(NamedTuple):
    """A training of one layer: the problem, the optimizer, η, the rate l, its steps, the norm clipped at, the decay."""

    task: Problem
    optimizer: str
    eta: float
    rate: float
    steps: int
    clip: float | None = None
    decay: float = 0.0


def inputs(rng: np.random.Generator, samples: int, n2: int, decay: float = 0.0) -> np.ndarray:
    """Gaussian tokens whose covariance has the spectrum k^{−2·decay}, in a random basis; decay 0 is white."""
    basis = np.linalg.qr(rng.standard_normal((n2, n2)))[0]
    return rng.standard_normal((samples, n2)) * np.arange(1, n2 + 1) ** -decay @ basis.T


def draw_pass(rng: np.random.Generator, n1: int = 0, n2: int = 0, rank: int = 0, tokens: int = 0) -> Pass:
    """Gaussian numbers for one backward pass; 0 draws a small size."""
    n1, n2, tokens = n1 or int(rng.integers(3, 8)), n2 or int(rng.integers(3, 8)), tokens or int(rng.integers(2, 8))
    rank = rank or int(rng.integers(1, 4))
    shapes = ((tokens, n2), (tokens, n1), (rank, n2), (n1, rank))
    return Pass(*(rng.standard_normal(shape) for shape in shapes))


def paper_pass(rng: np.random.Generator, size: float = PAPER_ROW, n1: int = 48, n2: int = 64, tokens: int = 32) -> Pass:
    """A pass at LoRA's shapes, r = 8, on inputs with a power-law spectrum; `size` is the rows' mean norm in BA.

    A has PEFT's variance, 1/(3n₂), on which B's size beside A's depends.
    """
    one = draw_pass(rng, n1, n2, 8, tokens)
    a = one.a / np.sqrt(3 * n2)
    return one._replace(x=inputs(rng, tokens, n2, 0.5), a=a, b=as_long(one.b, a, size))


def as_long(b: np.ndarray, a: np.ndarray, size: float) -> np.ndarray:
    """B scaled so that `size` is the rows' mean norm in BA."""
    return b * size / np.linalg.norm(b @ a, axis=1).mean()


def draw_problem(
    rng: np.random.Generator, n1: int = 5, n2: int = 4, rank: int = 2, samples: int = 12, decay: float = 0.0
) -> Problem:
    """A teacher with rows of different size."""
    x = inputs(rng, samples, n2, decay)
    teacher = np.geomspace(4.0, 0.5, n1)[:, None] * rng.standard_normal((n1, n2))
    return Problem(x, x @ teacher.T, rng.standard_normal((rank, n2)) / np.sqrt(n2))


def paper_problem(rng: np.random.Generator, n1: int = 48, n2: int = 64, samples: int = 96) -> Problem:
    """A teacher at LoRA's shapes, r = 8, inputs with a power-law spectrum, A of PEFT's variance, 1/(3n₂)."""
    one = draw_problem(rng, n1, n2, 8, samples, 0.5)
    return one._replace(a=one.a / np.sqrt(3))


def paper_b(rng: np.random.Generator, task: Problem) -> np.ndarray:
    """B with which rows of BA are as long as the longest mean of our runs at the paper's rate, `PAPER_ROW`."""
    return as_long(rng.standard_normal((task.y.shape[1], len(task.a))), task.a, PAPER_ROW)


def backward(rule: Callable, one: Pass, *args: Any) -> list[np.ndarray]:
    """A layer's output and the gradients of x, A and B; `rule` maps tensors (x, a, b, *args) to the output."""
    import torch

    tensors = [torch.tensor(part, requires_grad=True) for part in (one.x, one.a, one.b)]
    output = rule(*tensors, *args)
    output.backward(torch.tensor(one.upstream))
    return [output.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def lora(x, a, b):
    """X AᵀBᵀ on tensors, with autograd's own gradients."""
    return x @ a.mT @ b.mT


def forward(arm: str, x, a, b, eta: float):
    """The layer of an arm, on tensors: lora, scaled (LoRA × η), constant (its gradient times η), allora or asf."""
    from allora_analysis.lora import functional

    if arm == "lora":
        return lora(x, a, b)
    if arm == "scaled":
        return eta * lora(x, a, b)
    if arm == "asf":
        return functional.asf_lora(x, a, b, eta)
    return functional.allora(x, a, b, eta, "constant" if arm == "constant" else "inverse_sqrt")


def optimizer(name: str, parameters: Sequence, rate: float, decay: float = 0.0):
    """Torch's optimizer of a name: "sgd", "momentum" of 0.9, or AdamW; and its weight decay."""
    import torch

    if name in ("sgd", "momentum"):
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9 * (name == "momentum"), weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


def _optimizer(run: Run, pair: tuple, arm: str, rate: float) -> tuple:
    # The optimizer, and the arm that the layer itself takes.
    if run.optimizer == "allora_adamw" and arm == "allora":
        from allora_analysis.lora.optim import ALLoRAAdamW

        group = {"params": list(pair), "pair": True, "scaling": 1.0}
        return ALLoRAAdamW([group], lr=rate, eta=run.eta, weight_decay=run.decay), "lora"
    return optimizer(run.optimizer, pair, rate, run.decay), arm


def pairs(
    run: Run,
    arm: str,
    speed: float = 1.0,
    start: np.ndarray | None = None,
    other_norm: float = 0.0,
    until: Callable[[tuple[np.ndarray, np.ndarray]], bool] = lambda pair: False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(A, B) after 0, 1, … steps of an arm at `speed` times the run's rate.

    The last is the first for which `until` is true. `start` is B at the start (n₁×r), 0 without one; `other_norm` that
    of a gradient that is clipped with those of A and B, as a classifier's is. Under "allora_adamw" the arm is "lora" or
    "allora", which has its factor in the optimizer.
    """
    import torch

    x, y = (torch.tensor(part) for part in run.task[:2])
    zero = np.zeros((y.shape[1], len(run.task.a)))
    a, b = (torch.tensor(part, requires_grad=True) for part in (run.task.a, zero if start is None else start))
    other = torch.zeros((), dtype=x.dtype, requires_grad=True)
    rule, in_layer = _optimizer(run, (a, b), arm, speed * run.rate)
    path = []
    for step in range(run.steps + 1):
        path.append((a.detach().numpy().copy(), b.detach().numpy().copy()))
        if step == run.steps or until(path[-1]):
            break
        rule.zero_grad()
        (((forward(in_layer, x, a, b, run.eta) - y) ** 2).sum() / (2 * len(x))).backward()
        if run.clip is not None:
            other.grad = torch.tensor(other_norm, dtype=x.dtype)
            torch.nn.utils.clip_grad_norm_([a, b, other], run.clip)
        rule.step()
    return path


def products(run: Run, arm: str, speed: float = 1.0, **options: Any) -> np.ndarray:
    """BA (steps + 1, n₁, n₂) after 0, 1, … steps; arguments as in `pairs`."""
    return np.array([b @ a for a, b in pairs(run, arm, speed, **options)])


CLASSIFIER_RATE = 0.01


def draw_head(rng: np.random.Generator, task: Problem) -> tuple[np.ndarray, np.ndarray]:
    """A weight W (n₁×n₂) and a classifier C (n₁×n₁)."""
    n1, n2 = task.y.shape[1], task.x.shape[1]
    return rng.standard_normal((n1, n2)) / np.sqrt(n2), rng.standard_normal((n1, n1))


def with_classifier(
    task: Problem,
    head: tuple[np.ndarray, np.ndarray],
    knobs: Setting,
    steps: int,
    *,
    optimizer: str = "adam",
    max_norm: float | None = None,
) -> np.ndarray:
    """s·BA (steps + 1, n₁, n₂) of an adapter whose classifier is trained and clipped with it, by torch's optimizers.

    `head` is W (n₁×n₂), which stays, and C (classes×n₁) at the start; the loss is the cross-entropy of
    C tanh((W + s·BA)x) with Y's largest column. Weight decay is decoupled under SGD too, and A's and B's alone.
    """
    import torch

    x, y, weight = (torch.tensor(part) for part in (*task[:2], head[0]))
    starts = (knobs.init_a * task.a, np.zeros((y.shape[1], len(task.a))), head[1])
    a, b, c = parts = [torch.tensor(part, requires_grad=True) for part in starts]
    rates, arm = (knobs.rate_a, knobs.rate_b, CLASSIFIER_RATE), "lora" if knobs.eta is None else "allora"
    each = zip(parts, rates, (knobs.eps_a, knobs.eps_b, 1e-8), strict=True)
    groups = [{"params": [part], "lr": rate, "eps": eps} for part, rate, eps in each]
    rule = torch.optim.Adam(groups) if optimizer == "adam" else torch.optim.SGD(groups)
    path = [np.zeros((y.shape[1], x.shape[1]))]
    for _ in range(steps):
        rule.zero_grad()
        features = torch.tanh(x @ weight.mT + knobs.scaling * forward(arm, x, a, b, knobs.eta or 1.0))
        torch.nn.functional.cross_entropy(features @ c.mT, y.argmax(dim=1)).backward()
        with torch.no_grad():
            norm = torch.sqrt(sum((part.grad**2).sum() for part in parts))
            for part, rate, decay in zip(parts, rates, (knobs.decay_a, knobs.decay_b, 0.0), strict=True):
                part.grad *= 1.0 if max_norm is None else min(1.0, max_norm / float(norm))
                part *= 1 - rate * decay
        rule.step()
        path.append(knobs.scaling * (b @ a).detach().numpy())
    return np.array(path)


def first_gradient(task: Problem) -> float:
    """The norm of LoRA's gradient at B = 0, what clipping looks at before the first step."""
    return float(np.linalg.norm(task.y.T @ task.x @ task.a.T) / len(task.x))


def one_row(name: str, slope: Callable[[float], float], rate: float, steps: int, stop: float = np.inf) -> np.ndarray:
    """One number m, its gradient −slope(m), after 0, 1, … steps of torch's optimizer, up to the first m ≥ stop."""
    import torch

    m = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    rule = optimizer(name, [m], rate)
    path = [0.0]
    for _ in range(steps):
        m.grad = torch.tensor([-slope(path[-1])], dtype=m.dtype)
        rule.step()
        path.append(float(m.detach()))
        if path[-1] >= stop or not np.isfinite(path[-1]):
            break
    return np.array(path)


def double_backward(task: Problem, b: np.ndarray, eta: float) -> np.ndarray:
    """∂(the layer's gradients of A and B)/∂(A, B) by a second backward pass; the loss is ‖Y − X(BA)ᵀ‖²_F/2.

    Parameters are ordered as A, then B, row by row.
    """
    import torch

    a, b = (torch.tensor(part, requires_grad=True) for part in (task.a, b))
    loss = ((forward("allora", torch.tensor(task.x), a, b, eta) - torch.tensor(task.y)) ** 2).sum() / 2
    gradients = torch.autograd.grad(loss, (a, b), create_graph=True)
    flat = torch.cat([part.ravel() for part in gradients])
    rows = (torch.autograd.grad(entry, (a, b), retain_graph=True, allow_unused=True) for entry in flat)
    zeros = tuple(torch.zeros_like(part) for part in (a, b))
    filled = ([z if p is None else p for p, z in zip(row, zeros, strict=True)] for row in rows)
    return torch.stack([torch.cat([part.ravel() for part in row]) for row in filled]).numpy()


def loss_gradient(loss: str, y: np.ndarray, output: np.ndarray) -> np.ndarray:
    """∂L/∂f of the squared loss, Huber's, or the cross-entropy: Y's rows are probabilities ("soft") or show a class."""
    from scipy.special import softmax

    if loss == "squared":
        return output - y
    if loss == "Huber":
        return np.clip(output - y, -1, 1)
    return softmax(output, axis=1) - (y if loss == "soft cross-entropy" else np.eye(y.shape[1])[y.argmax(axis=1)])


def differenced_field(task: Problem, b: np.ndarray, eta: float, loss: str = "squared") -> np.ndarray:
    """The Jacobian of the layer's gradients by central differences; parameters as in `double_backward`."""
    step, start = 1e-5, np.concatenate([task.a.ravel(), b.ravel()])

    def gradients(parameters: np.ndarray) -> np.ndarray:
        a, moved = parameters[: task.a.size].reshape(task.a.shape), parameters[task.a.size :].reshape(b.shape)
        one = Pass(task.x, loss_gradient(loss, task.y, task.x @ (moved @ a).T), a, moved)
        found = backward(lambda *parts: forward("allora", *parts, eta), one)
        return np.concatenate([part.ravel() for part in found[2:]])

    columns = [gradients(start + step * e) - gradients(start - step * e) for e in np.eye(start.size)]
    return np.array(columns).T / (2 * step)


def deviations(judged, expected: Callable, source: str, tolerance: float) -> Evidence:
    """Evidence of outcomes that are arrays: the relative error of each against what its inputs make expected."""
    errors = {case.name: max(map(relative_error, seen, expected(case.inputs))) for case, seen in judged.pairs}
    return Evidence({"relative error": 0.0}, errors, source, max(errors.values()), tolerance)


def norm_error(seen: np.ndarray, told: np.ndarray) -> float:
    """‖seen − told‖/‖told‖ of two arrays; absolute where told is 0."""
    return float(np.linalg.norm(seen - told) / (np.linalg.norm(told) or 1.0))


def close(seen: Any, expected: Any, tolerance: float) -> bool:
    """Whether arrays, one after the other, are as expected to a relative error."""
    return all(relative_error(*both) <= tolerance for both in zip(seen, expected, strict=True))
