"""§4.2, Figure 5 and Appendix C: the adaptor functions h(|x|), which scale a row's gradient by the size of that row.

Each is η at x = 0, so that the first step is one at learning rate η·l, and even in x. With u = |x| and u ≥ 0:

| name | h(u) | slope at 0+ | tail u → ∞ | half of η at u = |
| --- | --- | --- | --- | --- |
| `inverse_sqrt` | 1/√(u + 1/η²) | −η³/2 | u^(−1/2) | 3/η² |
| `inverse` | 1/(u + 1/η) | −η² | u^(−1) | 1/η |
| `exponential` | η·exp(−uη²/2) | −η³/2 | faster than every power | 2·log(2)/η² |
| `constant` | η | 0 | η | never |

The paper uses `inverse_sqrt` alone: "inversely proportional" in its abstract and its §4.2 would be `inverse`. Why these
members: `inverse` is what the words say, in its plainest form; `exponential` shares the paper's value *and* slope at 0,
so that only the tail differs; `constant` is LoRA at learning rate η·l, the control without adaptation. (An inverse that
shares the slope too is η/(1 + uη²/2) = (2/η)·1/(u + 2/η²); it is no member: its tail depends on η, the paper's and
`inverse`'s do not.) All but `constant` decrease strictly.

`ADAPTORS` maps the names to cores of operators alone, which take NumPy arrays, torch tensors and numbers and check
nothing; the functions of this module check their arguments and return float64. They are written with η outside, so that
h(0) is η to the last bit and a small η does not overflow. Where η²|x| is beyond the largest floating-point number, a
core gives 0; the functions give the tail, which is then h to rounding. Checked by `tests/test_adaptors.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis import validation

__all__ = ["ADAPTORS", "constant", "exponential", "inverse", "inverse_sqrt"]


def _inverse_sqrt(x, eta):
    return eta / (1 + eta * abs(x) * eta) ** 0.5


def _inverse(x, eta):
    return eta / (1 + eta * abs(x))


def _exponential(x, eta):
    return eta * math.e ** (-0.5 * eta * abs(x) * eta)


def _constant(x, eta):
    return eta * abs(x) ** 0  # not 0·x + η: this is η at every x


ADAPTORS: dict[str, Callable[[Any, float], Any]] = {
    "inverse_sqrt": _inverse_sqrt,
    "inverse": _inverse,
    "exponential": _exponential,
    "constant": _constant,
}


def inverse_sqrt(x: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """1/√(|x| + 1/η²), the paper's adaptor (§4.2; Figure 5 for η² = 1, 2, 4).

    η at 0, strictly decreasing in |x|, slope −η³/2 at 0+, tail |x|^(−1/2).

    Args:
        x: sizes, of any shape: ‖(BA)_i‖ in ALLoRA, f(x)_i in ALLoRA-OD.
        eta: the value at 0, above 0.

    Returns:
        The factor for each entry, in (0, η].

    Examples:
        >>> from allora_analysis.adaptors import inverse_sqrt
        >>> inverse_sqrt([0.0, 3.75], eta=2.0).tolist()  # 1/√(3.75 + 1/4)
        [2.0, 0.5]
    """
    return _evaluate(_inverse_sqrt, x, eta, tail=-0.5)


def inverse(x: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """1/(|x| + 1/η), inversely proportional to |x| as the abstract's words have it; arguments as in `inverse_sqrt`.

    η at 0, strictly decreasing in |x|, slope −η² at 0+, tail 1/|x|.

    Returns:
        The factor for each entry, in (0, η].

    Examples:
        >>> from allora_analysis.adaptors import inverse
        >>> inverse([0.0, 1.5], eta=2.0).tolist()  # 1/(1.5 + 1/2)
        [2.0, 0.5]
    """
    return _evaluate(_inverse, x, eta, tail=-1.0)


def exponential(x: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """η·exp(−|x|η²/2), with the paper's value and slope at 0 and no heavy tail; arguments as in `inverse_sqrt`.

    η at 0, strictly decreasing in |x|, slope −η³/2 at 0+.

    Returns:
        The factor for each entry, in [0, η].

    Examples:
        >>> from allora_analysis.adaptors import exponential
        >>> exponential([0.0, 0.5], eta=2.0).round(6).tolist()  # 2/e
        [2.0, 0.735759]
    """
    return _evaluate(_exponential, x, eta)


def constant(x: ArrayLike, eta: float) -> Float[np.ndarray, "*shape"]:
    """η whatever x: no adaptation, LoRA at learning rate η·l; arguments as in `inverse_sqrt`.

    Returns:
        η for each entry.

    Examples:
        >>> from allora_analysis.adaptors import constant
        >>> constant([0.0, 100.0], eta=2.0).tolist()
        [2.0, 2.0]
    """
    return _evaluate(_constant, x, eta)


# tail: the power of |x| that h is where the core's η²|x| overflows, and h comes out as 0.
def _evaluate(
    core: Callable[[Any, float], Any], x: ArrayLike, eta: float, tail: float | None = None
) -> Float[np.ndarray, "*shape"]:
    eta, x = validation.positive("eta", eta), validation.finite("x", x)
    with np.errstate(over="ignore"):
        values = np.asarray(core(x, eta), dtype=np.float64)
    if tail is not None and not values.all():
        values = np.where(values == 0, np.abs(np.where(values == 0, x, 1.0)) ** tail, values)
    return values


@dataclass(frozen=True)
class _Arguments:
    """The adaptor functions h(|x|) of §4.2 and Figure 5, which scale a row's gradient by the size of that row.

    For example: python -m allora_analysis.adaptors --eta 2. As a picture: python -m paper_figures figure_5.
    """

    eta: float = 2.0
    """η, the factor at 0; the paper's η² = 4."""
    sizes: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
    """|x|: ‖(BA)_i‖ in ALLoRA, f(x)_i in ALLoRA-OD."""


def _show(arguments: _Arguments) -> int:
    from allora_analysis.study import Table, show, text

    of = {name: globals()[name](list(arguments.sizes), arguments.eta) for name in ADAPTORS}
    rows = [[text(x), *(text(float(of[name][i])) for name in of)] for i, x in enumerate(arguments.sizes)]
    notes = [
        "inverse_sqrt is the paper's, 1/√(|x| + 1/η²); inverse is what its abstract's words say; exponential shares "
        "inverse_sqrt's value and slope at 0; constant is LoRA at learning rate η·l."
    ]
    show(Table(f"The factor on a row's gradient, η = {text(arguments.eta)}", ("|x|", *of), rows, notes))
    return 0


if __name__ == "__main__":
    from allora_analysis import cli

    raise SystemExit(cli.guarded(lambda: _show(cli.parse(_Arguments, "python -m allora_analysis.adaptors", None))))
