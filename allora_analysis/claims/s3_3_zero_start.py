"""§3.3, first paragraph: must A or B start at 0?

One row rests on what the cited authors write, which stands here with its source; the other computes the outputs and
the first step's descent from starts with neither factor at 0. Checked by `tests/test_claims_3_3.py`, which plants other
quotations and formulas.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from allora_analysis import hessian
from allora_analysis.claims.cases import PAPER_ETAS, Case, Cases
from allora_analysis.claims.claim import Evidence, Finding, claim
from allora_analysis.claims.s3_2_in_v import power_law

HAYOU = (
    "to start from the pretrained model as initialization for finetuning, one can either initialize B to zero and A to "
    "random (default initialization in PEFT package), or vice-versa. […] the first scheme (initializing B to zero and "
    "A to random) on average yields better performance compared to the other scheme"
)
"""Hayou et al. (2024a), The Impact of Initialization on LoRA Finetuning Dynamics, arXiv 2406.08447, abstract."""


NON_ZERO = (
    "compared to zero initialization, simultaneously initializing A and B to non-zero values improves LoRA's "
    "robustness to suboptimal learning rates, particularly smaller ones. […] although the non-zero initialization of "
    "AB introduces random noise into the pretrained weight, it generally does not affect fine-tuning performance"
)
"""Li et al. (2025), Beyond Zero Initialization, ICML 2025, arXiv 2505.23194, abstract."""


class First(NamedTuple):
    """A module at its start: X (N×n₂), targets (N×n₁) beyond W*'s outputs, A, B, η; whether W* gives up ηBA."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    eta: float
    subtracted: bool


def first_step(one: First) -> dict[str, float]:
    """How far the outputs are from the pretrained ones, over all inputs; the loss's fall in a small first step.

    The first over η‖B‖‖A‖, the second per learning rate over η²‖G‖²(‖A‖² + ‖B‖²), Frobenius norms.
    """
    given = one.eta * one.b @ one.a if one.subtracted else np.zeros((one.y.shape[1], one.x.shape[1]))

    def loss(a: np.ndarray, b: np.ndarray) -> float:
        return float(((one.x @ (one.eta * b @ a - given).T - one.y) ** 2).sum())

    slopes = []
    for which in (0, 1):
        parts = [one.a, one.b]
        step = 1e-4 * np.abs(parts[1 - which]).max() ** -1  # as far in BA whatever the other's size
        for entry in np.ndindex(parts[which].shape):
            moved = np.zeros(parts[which].shape)
            moved[entry] = step
            up, down = ([*parts[:which], parts[which] + sign * moved, *parts[which + 1 :]] for sign in (1, -1))
            slopes.append((loss(*up) - loss(*down)) / (2 * step))
    size = np.linalg.norm(one.a) * np.linalg.norm(one.b)
    return {
        "moved": float(np.linalg.norm(one.eta * one.b @ one.a - given) / (one.eta * size)),
        "fall": float(np.square(slopes).sum()) / _largest_fall(one),
    }


def _gradient(one: First) -> np.ndarray:
    """G = ∂L/∂(ηBA)."""
    moved = 0 if one.subtracted else one.eta * one.x @ (one.b @ one.a).T
    return 2 * (moved - one.y).T @ one.x


def _largest_fall(one: First) -> float:
    return float((one.eta * np.linalg.norm(_gradient(one))) ** 2 * (np.square(one.a).sum() + np.square(one.b).sum()))


def fall(one: First) -> float:
    """η²(‖GAᵀ‖² + ‖BᵀG‖²) over the same, in closed form."""
    g = _gradient(one)
    return one.eta**2 * float((np.square(g @ one.a.T)).sum() + (np.square(one.b.T @ g)).sum()) / _largest_fall(one)


class Starts(NamedTuple):
    """A module's starts with neither factor at 0, all of one kind, and whether A and B are drawn independently."""

    starts: tuple[First, ...]
    independent: bool

    @property
    def rank(self) -> int:
        """The rank of A and B."""
        return len(self.starts[0].a)


def pairs_with_product_0(n1: int, n2: int, rank: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """A and B, neither 0, with BA = 0 where r > 1 allows it: on halves of the latent space, as in PEFT's orthogonal."""
    a, b = rng.standard_normal((rank, n2)), rng.standard_normal((n1, rank))
    if rank == 1:
        return [(a, b), (a, 1e-6 * b), (1e-6 * a, b)]
    q, half = np.linalg.qr(rng.standard_normal((rank, rank)))[0], rank // 2
    first = np.arange(rank) < half
    found = [(a * first[:, None], b * ~first), (q[:half].T @ a[:half], b[:, half:] @ q[half:])]
    if rank % 2 == 0:
        found.append(hessian.start_pair("orthogonal", np.zeros((n1, n2)), rank, rng))
    return found


def made(
    rng: np.random.Generator, independent: bool, subtracted: bool, shape: tuple[int, int, int], eta: float
) -> Starts:
    """A module's starts, (n₂, n₁, r) its shape."""
    n2, n1, rank = shape
    x, y = power_law(8, n2, rng), rng.standard_normal((8, n1))
    if independent:
        sizes = [(0.2, 0.2), (0.01, 1.0), (1.0, 1e-3)]
        pairs = [(a * rng.standard_normal((rank, n2)), b * rng.standard_normal((n1, rank))) for a, b in sizes]
    else:
        pairs = pairs_with_product_0(n1, n2, rank, rng)
    return Starts(tuple(First(x, y, a, b, eta, subtracted) for a, b in pairs), independent)


def either_zero_of(one: Starts, seen: Sequence[dict[str, float]]) -> bool:
    """No start with neither factor at 0 has the pretrained outputs and descends from them."""
    return not any(step["moved"] <= 1e-12 and step["fall"] > 1e-9 for step in seen)


def foretold(one: Starts, seen: Sequence[dict[str, float]]) -> bool:
    """The first step's descent in closed form; the pretrained outputs as whether BA can be 0 or is taken off W*."""
    return all(
        abs(step["fall"] - fall(start)) <= 1e-5
        and (step["moved"] <= 1e-12) == (start.subtracted or not (one.independent or one.rank == 1))
        for start, step in zip(one.starts, seen, strict=True)
    )


def any_starts(rng: np.random.Generator, independent: bool, subtracted: bool) -> Starts:
    """A module of 4 to 8 inputs and outputs, r from 1 to 4."""
    shape = int(rng.integers(4, 9)), int(rng.integers(4, 9)), int(rng.choice([1, 1, 2, 2, 3, 4]))
    return made(rng, independent, subtracted, shape, float(rng.choice(PAPER_ETAS)))


def compares_zeros(text: str) -> bool:
    """Whether the words compare starts with B = 0 and with A = 0 by performance."""
    return "B to zero" in text and "vice-versa" in text and "better performance" in text


def compares_others(text: str) -> bool:
    """Whether the words compare them with a start that has no zero, too."""
    return "neither" in text or "non-zero" in text or "both random" in text


SAYS = "Later, Hayou et al. (2024a) argued that for the best performance, either A or B must be initialized at 0."
zero_claim = functools.partial(claim, where="§3.3, first paragraph", says=SAYS, test="tests/test_claims_3_3.py")


def borne_out(compared: Mapping[str, np.ndarray]) -> str:
    """Holds where they compare a third start; refuted where they compare none; undecided where just these two."""
    if not compared["B = 0 with A = 0"].all():
        return "refuted"
    return "holds" if compared["these with a third"].all() else "undecided"


@zero_claim(
    "3.3-either-zero",
    reading='A row about a quotation, judged by reading their abstract; no draw can change that. "For the best '
    'performance … must": that they compare starts with B = 0 and with A = 0 with one that has no zero.',
)
def either_zero(cases: Cases) -> Finding:
    """What Hayou et al. write in their abstract; their paper was not read."""
    compared = {"B = 0 with A = 0": [compares_zeros(HAYOU)], "these with a third": [compares_others(HAYOU)]}
    tested = cases.test(compared, borne_out)
    return tested.finding(
        undecided="Undecided: by their abstract they compare just these two starts, B = 0 being better on average.",
        holds="Yes: their abstract compares these two starts with a third.",
        refuted="No: their abstract compares no starts.",
        evidence=Evidence(
            {"they compare": "starts with B = 0, with A = 0 and without a zero"},
            {"they write (arXiv 2406.08447, abstract)": HAYOU},
            "none: a quotation",
        ),
        wanted="a passage of their paper, beyond its abstract, on a start with neither A nor B at 0",
        flips_if="a passage of theirs that compares other starts, once a reader puts it in the abstract's place; code "
        "only looks there for words such as “neither” and “non-zero”",
    )


@zero_claim(
    "3.3-either-zero-any-start",
    reading="A less kind reading: of all starts, not of theirs alone, every one that has the pretrained outputs for "
    "all inputs and from which the first step lowers the loss has A = 0 or B = 0. Beside it, deciding nothing: by Li "
    "et al. (2025, arXiv 2505.23194; the abstract alone was read) starts with neither at 0, which change the outputs, "
    "do in general as well, and bear too small a rate better.",
    depends_on=("3.2-pretrained-mapping", "3.2-saddle-starts"),
)
def either_zero_any_start(cases: Cases) -> Finding:
    """Outputs and the first step's descent from starts with neither factor at 0, W* left as it is or less ηBA."""
    kinds = {"A and B independent": (True, False), "A and B drawn together": (False, False)}
    own = [
        Case(f"n₂ = 24, r = 8, {name}", made(cases.rng, *kind, (24, 12, 8), 2.0), True) for name, kind in kinds.items()
    ]
    given = Case("n₂ = 24, r = 8, independent, W* less ηBA", made(cases.rng, True, True, (24, 12, 8), 2.0))
    rank_1 = Case("n₂ = 24, r = 1, A and B drawn together", made(cases.rng, False, False, (24, 12, 1), 2.0))

    judged = cases.judge(
        [*own, given, rank_1, *cases.draw(lambda rng: any_starts(rng, *(rng.random(2) < (0.4, 0.3)).tolist()), 20)],
        lambda one: [first_step(start) for start in one.starts],
        printed=either_zero_of,
        corrected=foretold,
        condition=lambda one: not one.starts[0].subtracted and (one.independent or one.rank == 1),
    )
    return judged.finding(
        conditional="Not always: PEFT's orthogonal start has BA = 0 with neither at 0; PiSSA takes ηBA off W*.",
        evidence=judged.evidence(
            "central differences, relative: 1e-5",
            lambda one: [fall(start) for start in one.starts],
            more={"published later (arXiv 2505.23194, abstract)": NON_ZERO},
            tolerance=1e-5,
        ),
        condition="W* is kept, and r = 1 or A and B have independent entries with densities. Else BA = 0 is possible "
        "with A ≠ 0 ≠ B, and with W* − ηBA in W*'s place any A and B have the pretrained outputs; the loss falls by "
        "η²(‖GAᵀ‖² + ‖BᵀG‖²) per learning rate, G = ∂L/∂(ηBA)",
        flips_if="a start of rank 1, or with independent A and B, that has no zero factor and keeps W* and the "
        "pretrained outputs; or none of rank 2 and above",
    )
