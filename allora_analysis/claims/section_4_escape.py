"""§4.2, leaving zero in the scalar model and in one row's descent: how fast, how measured, at what level.

Figure 2's rows, under each optimiser: `section_4_figure_2`. Checked by `tests/test_claims_allora_escape.py`, which
plants wrong formulas.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from allora_analysis import adaptors, escape
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle

COMMAND = "python -m allora_analysis.escape"
TEST = "tests/test_escape_scalar.py"


def _integrate(gradient: float, eta: float, times: np.ndarray, steps: int = 400) -> np.ndarray:
    # m' = g/√(m + 1/η²) by Runge–Kutta of order 4 between the times.
    def slope(m: float) -> float:
        return gradient / (m + eta**-2) ** 0.5

    m, path = 0.0, [0.0]
    for h in np.diff(times) / steps:
        for _ in range(steps):
            k1 = slope(m)
            k2 = slope(m + h / 2 * k1)
            k3 = slope(m + h / 2 * k2)
            m += h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(m + h * k3))
        path.append(m)
    return np.array(path)


def rapid() -> Finding:
    """The scalar model, integrated: faster than LoRA at l from the start, and slowing down.

    Returns:
        The finding.
    """
    gradient, times = 1.5, np.array([0.0, 1e-4, 1e-2, 0.3, 2.0, 10.0])
    printed, corrected, seen, errors = {}, {}, {}, []
    for square in (1.0, 2.0, 4.0, 100.0):
        case, eta = f"η² = {square:g}", square**0.5
        path = _integrate(gradient, eta, times)
        errors.append(relative_error(escape.trajectory(times, gradient, eta), path))
        speeds = np.diff(path) / np.diff(times)
        seen[case] = {"speed at 0 over LoRA's": speeds[0] / gradient, "at the end": speeds[-1] / gradient}
        printed[case] = bool(speeds[0] > 1.001 * gradient and (np.diff(speeds) < 0).all())
        corrected[case] = errors[-1] <= 1e-9 and printed[case] == (eta > 1)
    predicted = {"m(t)": "(3gt/2 + η⁻³)^(2/3) − η⁻²", "speed at 0 over LoRA's": "η"}
    evidence = Evidence(predicted, seen, "Runge–Kutta's own error, below 1e-10 here", max(errors), 1e-9)
    text = (
        "for η > 1 (and where the factor reaches the step); at η = 1 ALLoRA is slower than LoRA at l_b from the start"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _descend(target: float, rate: float, eta: float, adapted: bool, steps: int = 2000) -> tuple[bool, int]:
    # Does m ← m − rate·d(m)(m − target) settle, and at which step is it within 1 % for good?
    m, last = 0.0, 0
    for step in range(1, steps + 1):
        factor = float(adaptors.inverse_sqrt(m, eta)) if adapted else eta
        m -= rate * factor * (m - target)
        if abs(m - target) > 0.01 * target:
            last = step
        if abs(m) > 1e9:
            break
    return last < steps and abs(m) < 1e9, last + 1


def fixed_rate() -> Finding:
    """One row towards its target under a squared loss of curvature 1: the fixed rate η·l against ALLoRA at l.

    Returns:
        The finding.
    """
    eta, target = 10.0, 4.0
    printed, corrected, seen, products = {}, {}, {}, (0.2, 1.0, 1.6, 1.9, 1.95, 2.5)
    for product in products:
        case, rate = f"η·l = {product:g}", product / eta
        (fixed, fixed_steps), (adapted, steps) = (_descend(target, rate, eta, flag) for flag in (False, True))
        seen[case] = {"fixed rate settles": fixed, "ALLoRA settles": adapted, "steps, ALLoRA's": steps}
        seen[case] |= {"steps, fixed rate's": fixed_steps if fixed else None}
        printed[case] = adapted and not (fixed and fixed_steps <= steps)
        corrected[case] = adapted and printed[case] == (steps < _ringing(product))
    found = escape.tradeoff(target, 1.0, eta)
    advantage = target / found.rate_at_level / _time(target, eta)
    error = abs(found.advantage / advantage - 1)
    corrected["advantage at a constant gradient"] = error <= 1e-6 and found.advantage <= 1.5
    predicted = {"advantage over the fixed rate that is as measured": found.advantage, "at most": 1.5}
    evidence = Evidence(predicted, seen | {"advantage": advantage}, "Simpson's rule on 1/h, 1e-6", error, 1e-6)
    late = [f"{product:g}" for product, holds in zip(products, printed.values(), strict=True) if holds]
    text = (
        "only where η·l comes close to the stability limit (2 over the curvature) or exceeds it (of the products "
        f"{', '.join(map(str, products))}: {', '.join(late)}); elsewhere the fixed rate η·l starts as fast and settles "
        "sooner, since the gradient itself tapers off"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _ringing(product: float) -> float:
    # The first n with |1 − ηl|ⁿ ≤ 0.01: what is left of the distance to the target after n steps at a fixed rate.
    left = abs(1 - product)
    return np.inf if left >= 1 else 1 if left == 0 else float(np.ceil(np.log(0.01) / np.log(left)))


def _time(level: float, eta: float) -> float:
    # ∫₀^level √(u + 1/η²) du by Simpson's rule, with the printed adaptor.
    u = np.linspace(0.0, level, 20_001)
    weights = np.ones_like(u)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float(weights @ np.sqrt(u + eta**-2) * (u[1] - u[0]) / 3)


def slower() -> Finding:
    """Time of LoRA at l over ALLoRA's to the same row norm, at a constant gradient: at least 3/2 for "much slower".

    Returns:
        The finding.
    """
    printed, corrected, seen, errors, squares = {}, {}, {}, [], (1.0, 2.0, 4.0, 1e4)  # the paper's η², and a large one
    for level, square in itertools.product((0.01, 0.1, 0.35, 0.45, 0.99, 1.0, 2.3), squares):
        eta, case = square**0.5, f"level {level:g}, η² = {square:g}"
        ratio = level / _time(level, eta)
        errors.append(abs(ratio * float(escape.time_to_reach(level, 1.0, eta)) / level - 1))
        seen[case], printed[case] = ratio, ratio >= 1.5
        # ∫√(u + q) > (2/3)m^{3/2}, so the ratio is below 3/(2√m), whatever η: beyond m = 9/4 it is below 1.
        corrected[case] = errors[-1] <= 1e-5 and printed[case] == (level <= _longest(eta))
        corrected[case] &= ratio < 1 or level < 2.25
    longest = {f"η² = {square:g}": _longest(square**0.5) for square in squares}
    source = "Simpson's rule near the kink, 1e-5"
    evidence = Evidence({"3/2 up to the norm": longest}, seen, source, max(errors), 1e-5)
    text = (
        f"only for η > 3/2 and while rows are short: up to ‖(BA)_i‖ = {_longest(2.0):.2f} at η² = 4, never at η² = 1 "
        "and 2, never from norm 1 on; beyond norm 9/4 LoRA at l is the faster one, whatever η (constant gradient)"
    )
    return Finding(settle(printed, corrected), evidence, text)


def _longest(eta: float) -> float:
    # The row norm m up to which LoRA at l takes 3/2 of ALLoRA's time; 0 where it never does. With v = 1/η and
    # u = √(m + v²) the times' ratio is 3/2 where u³ − v³ = u² − v²: u = v, or u² + uv + v² = u + v.
    v = 1 / eta
    if v >= 2 / 3:
        return 0.0
    u = (1 - v + math.sqrt((1 - v) * (1 + 3 * v))) / 2
    return u**2 - v**2


FIGURE = "§4.2 and Figure 2, right"
ROWS = (
    ("4-escape", "§4.2", "ALLoRA escapes from 0 rapidly and then tapers off (scalar model, constant gradient)", rapid),
    (
        "4-escape-fixed-rate",
        "§4.2",
        "A fixed learning rate cannot simultaneously achieve both fast escape from 0 and, once away from 0, measured "
        "discovery of optimal direction (read: start as fast as ALLoRA at l, and settle no later)",
        fixed_rate,
    ),
    (
        "4-figure-2-slower",
        FIGURE,
        "LoRA with a learning rate lower than η·l_b can reach the same level, but at a much slower pace (read: LoRA at "
        "l_b takes 3/2 of ALLoRA's time, at a constant gradient)",
        slower,
    ),
)


def claims() -> tuple[Claim, ...]:
    """The statements on leaving zero that closed forms decide.

    Returns:
        The claims.
    """
    return tuple(Claim(name, where, text, check, COMMAND, TEST) for name, where, text, check in ROWS)
