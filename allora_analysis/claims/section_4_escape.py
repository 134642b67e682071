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


SQUARES = (1.0, 2.0, 4.0)  # the paper's η²
TARGETS = (0.1, 1.0, 10.0)
PRODUCTS = (0.2, 1.0, 1.2, 1.5, 1.75, 1.95, 2.5)  # η·l at a curvature of 1: the fixed rate is stable below 2
LEFT = 1e-6  # of the distance to the target: what is left once a row has settled


def _descend(target: float, rate: float, eta: float, adapted: bool, steps: int = 1500) -> int | None:
    # The step from which m ← m − rate·d(m)(m − target) stays within LEFT of the target; None if it does not settle.
    m, last = 0.0, 0
    for step in range(1, steps + 1):
        m -= rate * (float(adaptors.inverse_sqrt(m, eta)) if adapted else eta) * (m - target)
        distance = abs(m - target) / target
        if distance > LEFT:
            last = step
        if distance < LEFT**2 or distance > 1 / LEFT:
            break
    return last + 1 if last < step else None


def advantageous(product: float, target: float, eta: float) -> bool:
    """Whether ALLoRA at l settles on its target in fewer steps than the fixed rate η·l, near it and at curvature 1.

    A step multiplies the distance to the target T by 1 − ηl at the fixed rate and by 1 − ηl/s in ALLoRA, whose factor
    there is η/s with s = √(1 + η²T) > 1. |1 − ηl/s| < |1 − ηl| from 2s/(1 + s) on; ALLoRA is stable below 2s.

    Args:
        product: ηl.
        target: T > 0.
        eta: η.

    Returns:
        2s/(1 + s) < ηl < 2s.
    """
    s = math.sqrt(1 + eta**2 * target)
    return 2 * s / (1 + s) < product < 2 * s


def fixed_rate() -> Finding:
    """One row towards its target under a squared loss of curvature 1: the fixed rate η·l against ALLoRA at l.

    Returns:
        The finding; measured are steps until settled, fixed and ALLoRA's, None where it does not.
    """
    printed, corrected, seen, errors, late = {}, {}, {}, [], []
    for square, target in itertools.product(SQUARES, TARGETS):
        eta, words = square**0.5, f"η² = {square:g}, target {target:g}"
        for product in PRODUCTS:
            case = f"{words}, η·l = {product:g}"
            fixed, adapted = seen[case] = tuple(_descend(target, product / eta, eta, flag) for flag in (False, True))
            printed[case] = adapted is not None and not (fixed is not None and fixed <= adapted)
            corrected[case] = printed[case] == advantageous(product, target, eta)
        found = escape.tradeoff(target, 1.0, eta)
        errors.append(abs(found.advantage / (target / found.rate_at_level / _time(target, eta)) - 1))
        corrected[f"{words}, constant gradient"] = errors[-1] <= 1e-6 and found.advantage <= 1.5
        s = math.sqrt(1 + square * target)
        late.append(2 * s / (1 + s))
    predicted = {"ALLoRA settles sooner": "2s/(1 + s) < η·l < 2s, s = √(1 + η²·target)"}
    predicted |= {"its advantage over the fixed rate that is as measured, at a constant gradient, at most": 1.5}
    evidence = Evidence(predicted, seen, "Simpson's rule on 1/h, 1e-6", max(errors), 1e-6)
    text = (
        "only for 2s/(1 + s) < η·l < 2s, s = √(1 + η²T), in one row of curvature 1 with target norm T (settled: to "
        f"{LEFT:g} of it): from {min(late):.2f} to {max(late):.2f} on for η² from {min(SQUARES):g} to {max(SQUARES):g} "
        f"and T from {min(TARGETS):g} to {max(TARGETS):g}, where the fixed rate is stable up to 2. Below, the "
        "fixed rate η·l starts as fast and settles no later, since the gradient itself tapers off; above, ALLoRA does "
        "not settle"
    )
    return Finding(settle(printed, corrected), evidence, text)


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
