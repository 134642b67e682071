"""An adapted layer trained by torch's autograd and optimizers, every matrix formed. Imports nothing of the package."""

import numpy as np
import torch


def train(z, base, readout, a, *, network, scale, ratio, optimizer, rate, steps, factor=None, eta=2.0, target=0.3):
    """Losses at each step and ‖s(BA)_i‖ at the end, one seed, inputs in columns; l_B = rate, l_A = rate/ratio."""
    z, base, readout = (torch.as_tensor(np.array(value)) for value in (z, base, readout))
    a = torch.tensor(np.array(a), requires_grad=True)
    b = torch.zeros(len(base), len(a), dtype=torch.float64, requires_grad=True)
    groups = [{"params": [a], "lr": rate / ratio}, {"params": [b], "lr": rate}]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    chosen = kind(groups, **({"eps": 1e-30} if optimizer == "adam" else {}))
    goal, losses = readout @ torch.tanh(base) / len(base) + target, []
    for step in range(steps + 1):
        product = scale * b @ a
        d = (product.detach().norm(dim=1) + eta**-2) ** -0.5
        moved = product @ z
        if network:
            loss = 0.5 * ((readout @ torch.tanh(base + moved) / len(base) - goal) ** 2).sum()
        else:
            loss = 0.5 * ((moved - base) ** 2).sum()
        losses.append(float(loss.detach()))
        if step == steps:
            return np.array(losses), product.detach().norm(dim=1).numpy()
        chosen.zero_grad()
        if factor == "gradient":
            moved.register_hook(lambda gradient, d=d: gradient * d[:, None])
        before = a.detach().clone(), b.detach().clone()
        loss.backward()
        chosen.step()
        if factor == "update":
            with torch.no_grad():
                a.copy_(before[0] + d.mean() * (a - before[0]))
                b.copy_(before[1] + d[:, None] * (b - before[1]))
    return None
