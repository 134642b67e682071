"""§3.3's display of f_L(x) in a transformer: is the output a polynomial in η, and how far is it a power series?

m̄ is ‖BA‖/‖W‖ of a map, by rows. Checked by `tests/test_claims_3_3_in_a_transformer.py`.
"""

import math
from typing import NamedTuple

import numpy as np

from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, ranged
from allora_analysis.claims.s3_3_in_a_transformer import in_a_transformer, tokens_of
from allora_analysis.ripple import series, transformer
from allora_analysis.ripple.transformer import Design, Transformer


class Series(NamedTuple):
    """A transformer of two blocks at m̄ = 1, and its tokens."""

    model: Transformer
    x: np.ndarray


DESIGNS = {
    "as BERT": Design(heads=2, norm="post", centred=True),
    "as Llama": Design(heads=2, norm="pre", causal=True, activation="silu", gated=True),
    "softmax alone": Design(heads=2, norm="none", activation="identity"),
    "norms alone": Design(heads=2, norm="pre", softmax=False, activation="identity"),
    "softmax and SiLU": Design(heads=2, norm="none", activation="silu"),
    "none of them": Design(heads=2, norm="none", softmax=False, activation="identity"),
}


def _series_of(design: Design, rng: np.random.Generator, tokens: int = 3) -> Series:
    """Two blocks of width 8."""
    return Series(transformer.draw(design, 2, 8, 2, 1.0, rng), tokens_of(tokens, 8, rng))


def tail(one: Series) -> dict[str, float]:
    """ρ by winding and by coefficients; the weight of coefficients beyond the degree, at |η| = 0.7ρ or 1."""
    told = series.radius(one.model, one.x, 0.25, 0.1)
    size = 0.7 * told if math.isfinite(told) else 1.0
    terms = series.coefficients(one.model, one.x, size, 60, 128)
    weights = np.linalg.norm(terms.reshape(60, -1), axis=1) * size ** np.arange(60)
    beyond = (
        weights[transformer.degree(2, one.model.design) + 1 :].sum()
        if not one.model.design.gated
        else weights[30:].sum()
    )
    return {
        "beyond the degree": float(beyond / weights.sum()),
        "ρ by winding": told,
        "ρ by coefficients": series.radius_by_coefficients(terms) if math.isfinite(told) else math.inf,
    }


def _something_has_a_zero(one: Series) -> bool:
    design = one.model.design
    return design.norm != "none" or design.activation == "silu" or (design.softmax and len(one.x) > 1)


def _as_told(one: Series, seen: dict[str, float]) -> bool:
    winding, other = seen["ρ by winding"], seen["ρ by coefficients"]
    if not _something_has_a_zero(one):
        return winding == math.inf
    return math.isfinite(winding) and abs(math.log(winding / other)) < math.log(1.5)


def _nothing_divides(one: Series) -> bool:
    design = one.model.design
    return (design.norm, design.activation) == ("none", "identity") and not (design.softmax and len(one.x) > 1)


@in_a_transformer(
    "3.3-transformer-series",
    where="beyond the paper: §3.3, the display of f_L(x), in a transformer",
    says="A transformer's output is a polynomial in η, as the product's is.",
    reading="Of two blocks with an adapter on every map, no coefficient is left beyond the degree that the maps alone "
    "give.",
    depends_on=("3.3-interactions",),
)
def is_a_polynomial(cases: Cases) -> Finding:
    """Coefficients by Cauchy's integral; the radius of convergence by the winding of what is divided by."""
    judged = cases.judge(
        [Case(name, _series_of(design, cases.rng), name.startswith("as")) for name, design in DESIGNS.items()]
        + [Case(f"{name}, one token", _series_of(DESIGNS[name], cases.rng, 1)) for name in DESIGNS if "softmax" in name]
        + cases.draw(lambda rng: _series_of(DESIGNS[str(rng.choice([*DESIGNS]))], rng, int(rng.choice([1, 3]))), 3),
        tail,
        printed=lambda one, seen: seen["beyond the degree"] < 1e-9,
        corrected=_as_told,
        condition=_nothing_divides,
    )
    draws = [_series_of(DESIGNS[name], cases.rng) for name in ("as BERT", "as Llama") for _ in range(10)]
    radii = [series.radius(one.model, one.x, 0.25, 0.05) for one in draws]
    return judged.finding(
        conditional="Only without norms, activation and softmax over several tokens; norms, such softmax or SiLU give "
        "a finite radius of convergence.",
        evidence=judged.evidence(
            "Cauchy's integral on 128 points: 1e-9; the two radii within a factor of 1.5, of 60 coefficients",
            {"degree of two blocks without softmax, norms and activation": transformer.degree(2, Design())},
        ),
        size=ranged(
            radii,
            "of 1/m̄",
            "radius of convergence in η, two blocks as BERT's and Llama's, 10 draws of each, to 5 %",
            float(np.median(radii)),
        ),
        condition="no normalization, no activation, and no softmax or one token: then of degree at most 3(3^L − 1), or "
        "11(6^L − 1)/5 where gated, not L; else it is no polynomial: with norms, softmax over several tokens or "
        "SiLU the radius ρ is the least |η| at which a norm's mean square, a partition sum or SiLU's 1 + e^(−z) is 0; "
        "with GELU alone ρ = ∞, as erf is entire",
        flips_if="a transformer with norms, SiLU, or softmax over two tokens, without coefficients beyond that "
        "degree, or another way round",
    )
