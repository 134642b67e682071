"""The edge against dense Hessians, and against torch's optimizers on quadratics on both sides of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis.hessian.stable_rate import largest_stable_rate, step_sizes, threshold
from allora_analysis.validation import ArgumentError

OPTIMIZERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "dampened": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, dampening=0.3),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.99)),
    "decayed sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.4),
    "decayed adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.05),
    "decayed adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.99), weight_decay=0.4),
}


def quadratic(size=6, seed=0):
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((size, size))
    return torch.tensor(root @ root.T / size + 0.1 * np.eye(size))


def hold(optimizer, parameter, scale):
    """Adam's corrected second moments are scale² after the next step, as the threshold assumes: taken as constant."""
    state, group = optimizer.state[parameter], optimizer.param_groups[0]
    beta, decay = group.get("betas", (0, 0))[1], 0.0 if group.get("decoupled_weight_decay") else group["weight_decay"]
    if "exp_avg_sq" in state and float(state["step"]):
        wanted = scale**2 * (1 - beta ** (float(state["step"]) + 1))
        state["exp_avg_sq"].fill_(wanted).sub_((1 - beta) * (parameter.grad + decay * parameter.detach()) ** 2).div_(
            beta
        )


def grown(kind, rate, hessian, scale, steps=2000):
    """‖x‖ after some steps from a small random start, over the start's."""
    x = nn.Parameter(1e-9 * torch.randn(len(hessian), generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    x.grad = torch.zeros_like(x)
    optimizer, start = OPTIMIZERS[kind]([x], rate), float(x.detach().norm())
    (group,) = optimizer.param_groups
    decay, group["weight_decay"] = group["weight_decay"], 0.0
    optimizer.step()  # moves nothing, and makes the state
    group["weight_decay"] = decay
    if "step" in optimizer.state[x]:
        optimizer.state[x]["step"].fill_(1e6)  # no bias correction, whose early steps are longer
    for _ in range(steps):
        x.grad = hessian @ x.detach()
        hold(optimizer, x, scale)
        optimizer.step()
        if (ratio := float(x.detach().norm()) / start) > 1e3:
            break
    return ratio


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_quadratic_shrinks_below_the_edge_and_grows_above(kind):
    hessian, scale = quadratic(), 2.0
    x = nn.Parameter(torch.ones(6, dtype=torch.float64))
    rate, adam = 1e-4, "adam" in kind
    optimizer = OPTIMIZERS[kind]([x], rate)
    if adam:
        for grad in (0.0, 1.0):
            x.grad = torch.full_like(x, grad)
            hold(optimizer, x, scale)
            optimizer.step()
    found = largest_stable_rate([x], optimizer, lambda: x @ hessian @ x / 2)
    edge = rate * found.multiple
    if adam and "decayed" not in kind:  # ε aside
        top = float(torch.linalg.eigvalsh(hessian)[-1]) / 2.0
        assert edge == pytest.approx(found.threshold / top, rel=1e-5)
    if "decayed" in kind:  # planted: without the decay the rate is beyond the edge
        top = float(torch.linalg.eigvalsh(hessian)[-1]) / (scale if adam else 1.0)
        assert found.threshold / top > 1.02 * edge
    assert grown(kind, 0.98 * edge, hessian, scale) < 1
    assert grown(kind, 1.02 * edge, hessian, scale) > 1


def test_the_largest_curvature_of_two_layers_against_the_dense_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    x, y = torch.randn(20, 9).double(), torch.randint(4, (20,))
    parameters = list(model.parameters())
    groups = [{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:], "lr": 0.7}]
    optimizer = torch.optim.AdamW(groups)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in parameters]

    def loss(flat):
        values = [part.reshape(p.shape) for part, p in zip(flat.split(sizes), parameters, strict=True)]
        return nn.functional.cross_entropy(
            torch.func.functional_call(model, dict(zip(names, values, strict=True)), x), y
        )

    dense = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in parameters]))
    moments = [optimizer.state[p]["exp_avg_sq"] / (1 - 0.999) for p in parameters]
    rates = torch.cat([torch.full((n,), r).double() for n, r in zip(sizes, (0.1, 0.1, 0.7, 0.7), strict=True)])
    root = (rates / (torch.cat([m.flatten() for m in moments]).sqrt() + 1e-8)).sqrt()
    decay = 0.01 * 38 / 2 * torch.diag(rates)  # AdamW's own default
    top = float(torch.linalg.eigvalsh(root[:, None] * dense * root + decay)[-1])
    found = largest_stable_rate(parameters, optimizer, lambda: nn.functional.cross_entropy(model(x), y), tolerance=1e-8)
    assert found.curvature == pytest.approx(top, rel=1e-6)
    assert found.multiple == pytest.approx(38 / top, rel=1e-6)
    assert found.products > 10
    part = largest_stable_rate(parameters[2:], optimizer, lambda: nn.functional.cross_entropy(model(x), y))
    assert part.multiple > found.multiple  # fewer parameters, no more curvature


def test_thresholds_are_the_known_ones():
    parameter = [nn.Parameter(torch.ones(2))]
    assert [threshold(make(parameter, 0.1)) for make in OPTIMIZERS.values()] == pytest.approx(
        [2, 3.8, 2 * 1.8 / 0.7, 3.8 / 2.8, 38, 6, 3.8, 38, 6]
    )


def test_mistakes_are_one_line():
    x = nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([x], lr=0.1)
    with pytest.raises(ArgumentError, match="at least one tensor"):
        largest_stable_rate([], sgd, lambda: x.sum())
    with pytest.raises(ArgumentError, match="does not hold all"):
        step_sizes(sgd, [nn.Parameter(torch.ones(1))])
    with pytest.raises(ArgumentError, match="no second moments yet"):
        step_sizes(torch.optim.AdamW([x]), [x])
    with pytest.raises(ArgumentError, match="Adam or AdamW wanted, received Rprop"):
        threshold(torch.optim.Rprop([x]))
    with pytest.raises(ArgumentError, match="no rate is too large"):
        largest_stable_rate([x], sgd, lambda: -(x * x).sum())
    with pytest.raises(ArgumentError, match="no second derivative"):
        largest_stable_rate([x], sgd, lambda: x.detach().sum())
    with pytest.raises(ArgumentError, match="tolerance"):
        largest_stable_rate([x], sgd, lambda: (x * x).sum(), tolerance=0.0)
