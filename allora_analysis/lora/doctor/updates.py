"""Does an optimizer multiply a row's step by a function of that parameter's own row norms, and does it follow them?

Ports of ALLoRA as an optimizer see one matrix at a time: 1/√(‖p_i‖ + 1/η²) of A's rows, then of B's, in place of
‖(BA)_i‖; some compute it at the first step and keep it, when B = 0. Tried on a fresh optimizer of the class: one matrix
whose rows have several norms beside one of zeros, then the norms changed between two steps. Checked by
`tests/test_lora_foreign.py`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allora_analysis.lora.optim import ALLoRAAdamW

_RATE = 1e-4  # the rows stay what they are
_SPREAD = 1e-2
_TOLERANCE = 0.02


@dataclass(frozen=True)
class RowFactor:
    """An optimizer's factor of a parameter's own row norms.

    Attributes:
        frozen: it is that of the first step for good.
        eta: η, where it is 1/√(‖p_i‖ + 1/η²); else None.
    """

    frozen: bool
    eta: float | None

    @property
    def words(self) -> str:
        """The factor in words."""
        formula = "a function of ‖p_i‖" if self.eta is None else f"1/√(‖p_i‖ + 1/η²), η = {self.eta:.3g},"
        return f"{formula} of each parameter's own rows" + (", frozen at the first step" if self.frozen else "")


def row_factor(optimizer: Any, group: dict[str, Any]) -> RowFactor | None:
    """Try an optimizer of this class with this group's settings.

    Args:
        optimizer: any.
        group: of its settings.

    Returns:
        The factor, or None: no such factor, or an optimizer that cannot be tried.
    """
    norms = torch.tensor([0.0, 0.01, 0.1, 0.5, 2.0, 8.0], dtype=torch.float64)
    try:
        zero, first, later = (
            _steps(optimizer, group, rows) for rows in ((0 * norms,) * 2, (norms,) * 2, (norms, norms.flip(0)))
        )
    except Exception:  # another's code, called in a way that it may not foresee
        return None
    ratio = first[0] / zero[0]
    if not bool(torch.isfinite(ratio).all()) or float(ratio.max() / ratio.min() - 1) < _SPREAD:
        return None
    frozen = bool(torch.allclose(later[1] / zero[1], first[1] / zero[1], rtol=_TOLERANCE))
    # (d(0)/d(n))² = 1 + η²n
    slope = ((ratio[0] / ratio[1:]) ** 2 - 1) / norms[1:]
    fits = float(slope.max() / slope.min() - 1) < _TOLERANCE and float(slope.min()) > 0
    return RowFactor(frozen, float(slope.median()) ** 0.5 if fits else None)


def _steps(optimizer: Any, group: dict[str, Any], rows: tuple[Tensor, ...]) -> list[Tensor]:
    # ‖step_i‖ of each row, at the first step and at the second, before which the rows are set anew.
    direction = torch.full((len(rows[0]), 4), 0.5, dtype=torch.float64)
    parameter = nn.Parameter(rows[0][:, None] * direction)
    fresh, found = fresh_optimizer(optimizer, group, parameter, _RATE), []
    for norms in rows:
        with torch.no_grad():
            parameter.copy_(norms[:, None] * direction)
        before, parameter.grad = parameter.detach().clone(), torch.ones_like(parameter)
        fresh.step()
        found.append((parameter.detach() - before).norm(dim=1))
    return found


def fresh_optimizer(optimizer: Any, group: dict[str, Any], parameter: nn.Parameter, lr: float) -> Any:
    """One of the same class and the group's settings, without weight decay and without a pair's factor."""
    accepted = inspect.signature(type(optimizer).__init__).parameters
    settings = {key: group[key] for key in optimizer.defaults if key in accepted and key in group}
    if settings.get("lr") is not None:
        settings["lr"] = lr
    if "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    if isinstance(optimizer, ALLoRAAdamW):
        settings |= {"eta": 1.0, "adaptor": "constant"}  # one matrix is no pair
    return type(optimizer)([{"params": [parameter]}], **settings)
