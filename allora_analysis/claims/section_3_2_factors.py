"""§3.2 in the parameters that LoRA trains, A and B: saddle points and escape from zero.

The rows on conditioning are checked in `section_3_2_conditioning`; `section_3_2_zero_initialisation.claims` lists all
after its own. Measured against a dense Hessian by differences and against integrated gradient flow.
Checked by `tests/test_claims_hessian.py`, which plants wrong formulas.
"""

from __future__ import annotations

import math

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims import student_t
from allora_analysis.claims.ledger import Claim, Evidence, Finding, relative_error, settle
from allora_analysis.claims.section_3_2_conditioning import block_conditioning, block_rank
from allora_analysis.hessian import loss_gradient

ROUNDING = 1e-8
SEED = 21
DRAWS = 4000
COMMAND = "python -m allora_analysis.hessian"
ZERO, START = "Abstract", "§1, second flaw"


def saddle_of_lora() -> Finding:
    """B = 0, A random: no critical point, but indefinite with exactly r·rank G negative directions.

    Returns:
        The finding.
    """
    generator = np.random.default_rng(SEED)
    printed, corrected, seen = {}, {}, {}
    for n1, n2, rank, rank_g in ((5, 7, 3, 5), (7, 5, 1, 5), (5, 7, 3, 2), (4, 4, 4, 4)):
        case = f"n1={n1}, n2={n2}, r={rank}, rank G={rank_g}"
        x, a = generator.standard_normal((12, n2)), generator.standard_normal((rank, n2))
        g = generator.standard_normal((n1, rank_g)) @ generator.standard_normal((rank_g, n2))
        values = np.linalg.eigvalsh(hessian.dense_factor_hessian(x, g, a))
        slope = float(np.linalg.norm(loss_gradient(x, g, np.zeros((n1, rank)), a)[0]))
        limit = 1e-11 * float(np.abs(values).max())
        negative = int((values < -limit).sum())
        seen[case] = {"‖∇_B‖": slope, "negative": negative}
        printed[case] = slope <= ROUNDING and negative > 0
        exact = hessian.inertia(x, g, a).negative == negative == rank * rank_g
        spectrum = relative_error(hessian.factor_spectrum(x, g, a), values) <= ROUNDING
        corrected[case] = exact and spectrum and slope > 0 and not hessian.is_stationary(g, a)
    source = "counts: none may differ; the spectrum to float64 rounding"
    error = 0.0 if all(corrected.values()) else 1.0
    evidence = Evidence({"negative": "r·rank G", "‖∇_B‖": "‖GAᵀ‖ > 0"}, seen, source, error, 0.0, seed=SEED)
    text = "no critical point (∇_B = GAᵀ ≠ 0), hence no saddle point; the Hessian there is indefinite, with r·rank G "
    text += f"negative directions ({', '.join(str(found['negative']) for found in seen.values())} in the cases run)"
    return Finding(settle(printed, corrected, contrary=True), evidence, text)


def saddle_by_start() -> Finding:
    """Which of the usual initialisations is a saddle point: a critical point with an indefinite Hessian.

    Returns:
        The finding.
    """
    generator = np.random.default_rng(SEED)
    x, g, a, b = (generator.standard_normal(shape) for shape in ((12, 6), (4, 6), (2, 6), (4, 2)))
    starts = {
        "B = 0, A random (LoRA, PEFT)": (a, 0 * b, False),
        "A = 0, B random": (0 * a, b, False),
        "A and B random": (a, b, False),
        "A = B = 0": (0 * a, 0 * b, True),
    }
    printed, corrected, seen = {}, {}, {}
    for case, (a0, b0, saddle) in starts.items():
        slope = math.hypot(*(float(np.linalg.norm(part)) for part in loss_gradient(x, g, b0, a0)))
        # Only a critical point can be a saddle; its Hessian is needed there alone, and there B = 0.
        values = np.linalg.eigvalsh(hessian.dense_factor_hessian(x, g, a0)) if slope <= ROUNDING else np.zeros(1)
        seen[case] = {"‖∇L‖": slope, "indefinite": bool(values[0] < -ROUNDING and values[-1] > ROUNDING)}
        printed[case] = slope <= ROUNDING and seen[case]["indefinite"]
        at_start = g + 2 * b0 @ a0 @ x.T @ x
        corrected[case] = printed[case] == saddle == hessian.is_stationary(at_start, a0, b0)
    error = 0.0 if all(corrected.values()) else 1.0
    evidence = Evidence(
        {"saddle point": "A = B = 0 only"}, seen, "critical or not: none may differ", error, 0.0, seed=SEED
    )
    return Finding(settle(printed, corrected), evidence, "only if A and B are both 0; LoRA draws one of them at random")


def escape() -> Finding:
    """Does leaving zero take ever longer the closer one starts? Gradient flow until ‖BA‖ = 0.01, B perturbed by ε.

    Returns:
        The finding.
    """
    generator = np.random.default_rng(SEED)
    u, v = (np.linalg.qr(generator.standard_normal((size, 4)))[0] for size in (4, 6))
    x, g = generator.standard_normal((12, 6)), u * [3.0, 2.0, 1.0, 0.5] @ v.T
    a, b = generator.standard_normal((2, 6)), generator.standard_normal((4, 2))
    small, smaller, tolerance = 1e-4, 1e-8, 0.01
    growth = hessian.escape_time(g, smaller) - hessian.escape_time(g, small)
    printed, corrected, seen = {}, {}, {}
    for case, near, expected in (("A and B of size ε", True, growth), ("B of size ε, A random", False, 0.0)):
        times = [hessian.simulated_escape_time(x, g, e * a if near else a, e * b, 0.01) for e in (small, smaller)]
        seen[case] = times
        arrived = None not in times
        printed[case] = not arrived or times[1] - times[0] > growth / 2
        corrected[case] = arrived and abs(times[1] - times[0] - expected) <= tolerance * growth
    predicted = {"further time from ε = 1e-4 to 1e-8": {"A and B of size ε": growth, "B of size ε, A random": 0.0}}
    error = max(
        abs(t[1] - t[0] - w) / growth for t, w in zip(seen.values(), (growth, 0.0), strict=True) if None not in t
    )
    source = "the size ε = 1e-4 of what the leading order leaves out, relative to the time"
    evidence = Evidence(predicted, seen, source, error, tolerance, seed=SEED)
    text = "only from A = B = 0 (time log(1/ε)/σ₁(G)); with A random ‖BA‖ grows at once, at rate ‖GAᵀA‖, whatever ε"
    return Finding(settle(printed, corrected), evidence, text)


def slow_start() -> Finding:
    """Does BA start slower than V would at the same learning rate? ‖GAᵀA‖/‖G‖ over draws of A.

    Returns:
        The finding.
    """
    n2, rank, generator = 64, 4, np.random.default_rng(SEED)
    g = generator.standard_normal((8, n2))
    cases = {
        "A std 1/√n2": n2**-0.5,
        "A std 1/√(3 n2), PEFT's": (3 * n2) ** -0.5,
        "A std 1": 1.0,
    }
    printed, corrected, seen, worst, limit = {}, {}, {}, 0.0, student_t.standard_errors(DRAWS)
    for case, a_std in cases.items():
        a = a_std * generator.standard_normal((DRAWS, rank, n2))
        squares = ((g @ a.transpose(0, 2, 1) @ a) ** 2).sum((1, 2)) / (g**2).sum()
        predicted = hessian.initial_speed_ratio(n2, rank, a_std)
        z = float((squares.mean() - predicted**2) / (squares.std(ddof=1) / math.sqrt(DRAWS)))
        seen[case] = {"ratio": math.sqrt(squares.mean()), "predicted": predicted, "z": z}
        worst = max(worst, abs(z))
        printed[case] = bool(math.sqrt(squares.mean()) < 1)
        corrected[case] = abs(z) <= limit and printed[case] == (predicted < 1)
    told = {"ratio": "s²√(r(n2 + r + 1))"}
    evidence = Evidence(told, seen, student_t.source(DRAWS), worst, limit, n=DRAWS, seed=SEED)
    return Finding(
        settle(printed, corrected),
        evidence,
        "if A's std s < (r(n2 + r + 1))^(−1/4), n2 inputs, as PEFT's 1/√(3 n2) is: A's scale decides, not B = 0",
    )


def claims() -> tuple[Claim, ...]:
    """The rows on (A, B).

    Returns:
        The claims.
    """
    saddle, dense, flow = (
        "The fine-tuning parameters start from a saddle point",
        "tests/test_hessian.py",
        "tests/test_hessian_escape.py",
    )
    poorly = (
        "Initialization at 0 makes the optimization landscape poorly conditioned during the first steps of training"
    )
    slow = (
        "The need to move away from 0 leads to slow training dynamics (read: at first BA moves more slowly than V "
        "would, trained itself at the same rate)"
    )
    rows = (
        (
            "b-conditioning",
            ZERO,
            f"{poorly} (read: worse in B, which moves first, than in V)",
            block_conditioning,
            dense,
        ),
        (
            "b-degenerate",
            "§3.2, last sentence",
            "As the training set size n decreases, the optimization landscape for V will become degenerate (read: for "
            "B, which moves first)",
            block_rank,
            dense,
        ),
        ("saddle-lora", START, f"{saddle}: B = 0, A random", saddle_of_lora, dense),
        ("saddle-starts", START, f"{saddle}: whichever zero-initialization", saddle_by_start, flow),
        ("escape", START, "Zero-initialization is difficult to escape from", escape, flow),
        ("slow-start", ZERO, slow, slow_start, flow),
    )
    return tuple(Claim(f"3.2-{name}", where, text, check, COMMAND, test) for name, where, text, check, test in rows)
