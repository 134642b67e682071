"""Does ALLoRA converge? §6 asks for a guarantee: its flow from B = 0, and what its rest points can lose stability to.

L = ½ tr((P − T)S(P − T)ᵀ), P = BA; the mathematics and the proof at rank one are `adaptive.convergence`'s. Checked by
`tests/test_claims_4_2_convergence.py`, which plants wrong formulas.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from allora_analysis import adaptive
from allora_analysis.adaptive import RestFamily
from allora_analysis.claims.cases import Case, Cases, relative_error
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, share

convergence_claim = functools.partial(claim, test="tests/test_adaptive_convergence.py")
GUARANTEE = "beyond the paper: §6, 'Theoretical guarantee is needed'"
KINDS = ((True, "white"), (False, "correlated"))
TIMES = 400.0 * np.linspace(0, 1, 81) ** 3


class Descent(NamedTuple):
    """T (n₁×n₂), A at the start (r×n₂), η; B = 0 and white inputs."""

    target: np.ndarray
    a: np.ndarray
    eta: float

    def field(self, a: np.ndarray, b: np.ndarray) -> float:
        """‖F‖, the update field's norm at A and B."""
        return float(np.linalg.norm(np.concatenate([np.ravel(part) for part in self.parts(a, b)])))

    def parts(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F."""
        return adaptive.update_field(a, b, b @ a - self.target, self.eta)


def flow(one: Descent) -> tuple[np.ndarray, np.ndarray]:
    """A and B along ALLoRA's flow."""
    still = np.zeros((len(one.target), len(one.a)))
    return adaptive.gradient_flow(one.target, np.eye(one.a.shape[1]), one.a, still, one.eta, TIMES)


def _comes_to_rest(one: Descent, path: tuple[np.ndarray, np.ndarray]) -> bool:
    """F falls below 1e-6 of its start; AAᵀ − BᵀB never moves; at rank one Ψ falls at every time, within its bound."""
    balance = [a @ a.T - b.T @ b for a, b in zip(*path, strict=True)]
    kept = max(relative_error(part, one.a @ one.a.T) for part in balance) < 1e-6
    rests = one.field(path[0][-1], path[1][-1]) < 1e-6 * one.field(path[0][0], path[1][0])
    if len(one.a) > 1:
        return bool(kept and rests)
    psi = [adaptive.rank_one_lyapunov(one.target, a, b, one.eta) for a, b in zip(*path, strict=True)]
    values, scale = np.array([state.value for state in psi]), max(abs(state.rate) for state in psi)
    falls = np.all(np.diff(values) <= 1e-7 * np.ptp(values))
    bounded = all(state.rate <= state.bound + 1e-9 * scale and state.bound <= 1e-9 * scale for state in psi)
    return bool(kept and rests and falls and bounded)


def descent(rng: np.random.Generator) -> Descent:
    """Rank 1 half of the time, else 2 or 3, sizes up to 6, η from 0.6 to 4."""
    rank = int(rng.choice([1, 1, 2, 3]))
    n1, n2 = (rank + int(rng.integers(1, 4)) for _ in range(2))
    scale = float(np.exp(rng.uniform(0, 1)))
    start = rng.standard_normal((rank, n2)) / n2**0.5
    return Descent(scale * rng.standard_normal((n1, n2)), start, float(np.exp(rng.uniform(-0.5, 1.4))))


@convergence_claim(
    "4-converges",
    where=GUARANTEE,
    says="From B = 0 on white inputs ALLoRA's gradient flow comes to rest, at rank one by a Lyapunov function",
    depends_on=("4-optimal-direction",),
)
def converges(cases: Cases) -> Finding:
    """The flow to a late time: the field's norm, the balance of A and B, and Ψ at rank one."""
    left, right = (np.linalg.qr(cases.rng.standard_normal((10, 10)))[0] for _ in range(2))
    target = left * np.linspace(3.0, 1.2, 10) @ right
    own = Descent(target, cases.rng.standard_normal((8, 10)) / 10**0.5, 2.0)
    judged = cases.judge(
        [Case("10×10, r = 8, η² = 4", own, True), *cases.draw(descent, 8)], measure=flow, printed=_comes_to_rest
    )
    a, b = (path[-1] for path in judged.measured[0])
    size = None
    if judged.verdict == "holds":
        found = adaptive.rest_stability(a, b, b @ a - target, np.eye(10), own.eta)
        size = Size(found.largest_rate, "", "largest stable learning rate at rest, 10×10, r = 8, η² = 4, ½‖BA − T‖²")
    ends = {
        case.name: {"r": len(case.inputs.a), "‖F‖ at the end over the start": case.inputs.field(*last) / first}
        for case, path in judged.pairs
        for last, first in [((path[0][-1], path[1][-1]), case.inputs.field(path[0][0], path[1][0]))]
    }
    return judged.finding(
        holds="Yes: proved at rank one; above it on every problem tried.",
        evidence=Evidence(
            {"‖F‖": "to 0", "AAᵀ − BᵀB": "constant", "Ψ at rank one": "falls, by at least its bound"},
            ends,
            "integration to 1e-9; 1e-6 of the start",
            tolerance=1e-6,
            seed=cases.seed,
        ),
        size=size,
        flips_if="a flow that does not come to rest, or a rank-one Ψ that rises",
    )


def family(rng: np.random.Generator, white: bool) -> RestFamily:
    """Rest points of rank 2 with AAᵀ ⪰ BᵀB, as from B = 0."""
    while True:
        n1, n2 = (2 + int(rng.integers(1, 3)) for _ in range(2))
        a, b = rng.standard_normal((2, n2)), 0.7 * rng.standard_normal((n1, 2))
        if np.linalg.eigvalsh(a @ a.T - b.T @ b)[0] >= 0:
            break
    x, eta = rng.standard_normal((2 * n2, n2)) * np.exp(rng.uniform(-1.5, 1.5, n2)), float(np.exp(rng.uniform(-1, 3)))
    g = adaptive.rest_gradient(a, b, eta, rng.standard_normal((n1 - 2, n2 - 2)))
    return RestFamily(a, b, g, np.eye(n2) if white else x.T @ x / n2, eta)


@convergence_claim(
    "4-rest-point-oscillation",
    where=GUARANTEE,
    says="A rest point of ALLoRA, as one of a loss, loses stability through a real eigenvalue only: no cycle is born",
    depends_on=("4-adapted-gradient", "4-converges"),
)
def oscillation(cases: Cases) -> Finding:
    """The eigenvalue that crosses first as a rest point's misfit grows: an example, white and correlated inputs."""
    white, correlated = (cases.draw(lambda rng, kind=kind: family(rng, kind), 30, name) for kind, name in KINDS)
    judged = cases.judge(
        [Case("the example in whole numbers, 3×3, r = 2, η = 1", adaptive.HOPF), *white, *correlated],
        measure=lambda one: adaptive.first_instability(*one),
        printed=lambda one, seen: seen.frequency == 0,
    )
    example, drawn = judged.measured[0], judged.measured[1:]
    turned = sum(one.frequency > 0 for one in drawn)
    a, b = adaptive.gradient_flow(
        adaptive.HOPF.target(1.02 * example.scale), adaptive.HOPF.s, 1.001 * adaptive.HOPF.a, adaptive.HOPF.b, 1.0,
        np.linspace(0, 600.0, 301),
    )  # fmt: skip
    swing = float(np.ptp((b @ a)[-30:], axis=0).max())
    return judged.finding(
        refuted=f"No: an example loses it through a complex pair, {turned} of {len(drawn)} drawn settings do; "
        "no lasting cycle seen."
        if swing < 1e-6
        else "No: on correlated inputs a complex pair can cross, and the flow then cycles.",
        evidence=Evidence(
            {"frequency where stability is lost": 0},
            {case.name: one.frequency for case, one in judged.pairs} | {"late swing of BA past the example": swing},
            "eigenvalues, 1e-9 of the largest",
            seed=cases.seed,
        ),
        size=share([one.frequency > 0 for one in drawn[len(white) :]], "with correlated inputs, r = 2, that oscillate"),
        flips_if="the example's pair of eigenvalues real where it crosses",
    )
