"""§3.3 in two pretrained transformers, in which `pretrained_ripple` has swept η.

m̄ is ‖BA‖/‖W‖ of a map, by rows. Checked by `tests/test_claims_3_3_in_a_transformer.py` and
`tests/test_claims_pretrained_ripple.py`.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from allora_analysis.claims import pretrained_ripple
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, claim, not_run, ranged
from allora_analysis.claims.s3_3_in_a_transformer import DOUBLED
from allora_analysis.finetune.sources import INSTRUCT


class _Swept(NamedTuple):
    """A pretrained model, its adapters, their m̄, and the number of its blocks."""

    model: str
    adapters: str
    size: float
    layers: int


MODELS = {"all-MiniLM-L6-v2": "MiniLM", "SmolLM2-135M": "SmolLM2"}
KINDS = ("trained", "random")
RATE = 0.5  # of the product's: at a rate as high the output grows as multiplied layers do


def _swept_cases(sweeps: dict[str, dict]) -> list[Case]:
    """By model and adapters; neither model is the paper's."""
    cases = []
    for model, sweep in sweeps.items():
        for kind in KINDS:
            size, layers = sweep["row_norm"][kind] / sweep["weight_row_norm"], len(sweep[kind]["entropy"][0])
            one = _Swept(model, kind, size, layers)
            cases.append(Case(f"{model}, {kind} adapters, η = 1 to 1024", one))
    return cases


def risen(sweep: dict, one: _Swept, name: str = "log_stream") -> dict[str, list[float]]:
    """By η: what it adds to the last stream's logarithm; over the step to it, that and the product's rise a unit log η.

    A rate that grows with η is so held against the product's over the same step.
    """
    values = np.array([np.ravel(entry)[-1] for entry in sweep[one.adapters][name]])
    etas = np.array(sweep["eta"])
    at = np.flatnonzero(etas >= 1)
    steps = [np.diff(of)[at - 1] / math.log(2) for of in (values, one.layers * np.log1p(etas * one.size))]
    added = (values[at] - values[0]).tolist()
    return {"η": etas[at].tolist(), "added": added, "rise": steps[0].tolist(), "product's": steps[1].tolist()}


def largest_share(seen: dict[str, list[float]], doubled: float = DOUBLED) -> tuple[float, float]:
    """The largest rise over the product's where η has added `doubled` or more to the logarithm, and that η; or 0s."""
    rows = zip(*seen.values(), strict=True)
    return max(((rise / product, eta) for eta, added, rise, product in rows if added >= doubled), default=(0.0, 0.0))


@claim(
    "3.3-transformer-measured",
    where='beyond the paper: §3.3, below Proposition 1, "especially limiting for LLMs", measured',
    says="In two pretrained transformers the output grows with η at the rate of multiplied layers.",
    reading="In each sweep, at some η, η has at least doubled the last stream, and over the step to it raises "
    "it at half the rate of C(1 + ηm̄)^L or more (a quarter of the rate, or half of the doubling, answers alike). m̄ is "
    "by rows: of induced norms, which the paper's bound has, the sweeps recorded none, and a larger m̄ lowers the share "
    "(SmolLM2's is ten times as large in other runs: 3.3-comparable-level-induced). Fixed after MiniLM's sweep, whose "
    "stream is normalized after each sum and never doubles, so that no sweep of SmolLM2 could make the sentence hold; "
    "before SmolLM2's, but that the product's rate was then that at the step's end, its highest." + INSTRUCT,
    command=" && ".join(map(pretrained_ripple.command, MODELS)),
    test="tests/test_claims_pretrained_ripple.py",
    depends_on=("3.3-transformer",),
)
def measured(cases: Cases) -> Finding:
    """Streams of two pretrained transformers, adapters at random and trained, η from 1 to 1024; the gradient beside."""
    sweeps = {name: sweep for name in MODELS if (sweep := pretrained_ripple.read(name))}
    if not sweeps:
        return not_run(f"0 of {len(MODELS)} models are swept")
    judged = cases.judge(
        _swept_cases(sweeps),
        lambda one: risen(sweeps[one.model], one),
        printed=lambda one, seen: largest_share(seen)[0] >= RATE,
    )
    beside = {
        f"beside, {case.name}": {
            "output's gradient": risen(sweeps[case.inputs.model], case.inputs, "log_output_gradient")["added"],
            "radius of the series in η": sweeps[case.inputs.model][case.inputs.adapters]["radius"]["winding"],
        }
        for case, _ in judged.pairs
    }
    shares = {case.inputs[:2]: largest_share(seen) for case, seen in judged.pairs}
    (model, kind), (most, eta) = max(shares.items(), key=lambda item: item[1])
    return judged.finding(
        refuted=f"No: {_in_words(sweeps, shares)}.",
        evidence=judged.evidence(
            "none: two thresholds", lambda one: one.layers, more=beside, n=len(pretrained_ripple.SEEDS)
        ),
        size=ranged(
            [share for share, _ in shares.values()],
            "of the product's rate",
            f"the last stream's rise from η = {eta / 2:g} to {eta:g}, {model}'s {kind} adapters (one draw), the "
            "largest where η has at least doubled it; down to 0 in a sweep where it never does",
            most,
        ),
        flips_if="in each sweep, MiniLM's too, a step of η that ends with the last stream doubled and rises at half of "
        "the product's rate over it",
    )


def _in_words(models: Iterable[str], shares: dict[tuple[str, str], tuple[float, float]]) -> str:
    # "MiniLM's stream never doubles; SmolLM2: 0.53 of that rate with trained adapters, 0.09 random"; the rate once.
    told, of_rate = [], " of that rate"
    for model in models:
        trained, random = (shares[model, kind] for kind in KINDS)
        if not any((trained[1], random[1])):
            told.append(f"{MODELS[model]}'s stream never doubles")
            continue
        told.append(f"{MODELS[model]}: {trained[0]:.2f}{of_rate} with trained adapters, {random[0]:.2f} random")
        of_rate = ""
    return "; ".join(told)
