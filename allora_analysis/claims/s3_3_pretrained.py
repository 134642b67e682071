"""§3.3 in two pretrained transformers, in which `pretrained_ripple` has swept η.

m̄ is ‖BA‖/‖W‖ of a map, by rows. Checked by `tests/test_claims_3_3_in_a_transformer.py` and
`tests/test_claims_pretrained_ripple.py`.
"""

import math
from typing import NamedTuple

import numpy as np

from allora_analysis.claims import pretrained_ripple
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, claim, not_run, ranged
from allora_analysis.claims.s3_3_in_a_transformer import DOUBLED
from allora_analysis.finetune.sources import INSTRUCT


class _Swept(NamedTuple):
    """A pretrained model, its adapters, their m̄, the number of its blocks, and the largest η of a sweep's part."""

    model: str
    adapters: str
    size: float
    layers: int
    most: float


MODELS = ("all-MiniLM-L6-v2", "SmolLM2-135M")
PARTS = {2.0: "η = 1 and 2", 1024.0: "η = 1 to 1024"}


def _swept_cases(sweeps: dict[str, dict]) -> list[Case]:
    """By model and adapters, the paper's η and all of the sweep; neither model is the paper's."""
    cases = []
    for model, sweep in sweeps.items():
        for kind in ("random", "trained"):
            size, layers = sweep["row_norm"][kind] / sweep["weight_row_norm"], len(sweep[kind]["entropy"][0])
            for most, words in PARTS.items():
                one = _Swept(model, kind, size, layers, most)
                cases.append(Case(f"{model}, {kind} adapters, {words}", one))
    return cases


def risen(sweep: dict, one: _Swept, name: str = "log_stream") -> dict[str, list[float]]:
    """By η: what it adds to the last stream's logarithm; over the step to it, that and the product's rise a unit log η.

    A rate that grows with η is so held against the product's over the same step.
    """
    values = np.array([np.ravel(entry)[-1] for entry in sweep[one.adapters][name]])
    etas = np.array(sweep["eta"])
    at = np.flatnonzero((etas >= 1) & (etas <= one.most))
    steps = [np.diff(of)[at - 1] / math.log(2) for of in (values, one.layers * np.log1p(etas * one.size))]
    return {"added": (values[at] - values[0]).tolist(), "rise": steps[0].tolist(), "product's": steps[1].tolist()}


def doubled_shares(seen: dict[str, list[float]]) -> list[float]:
    """The rise over the product's, by η; 0 where η has not at least doubled the stream."""
    rows = zip(*seen.values(), strict=True)
    return [rise / product if added >= DOUBLED else 0.0 for added, rise, product in rows]


@claim(
    "3.3-transformer-measured",
    where='beyond the paper: §3.3, below Proposition 1, "especially limiting for LLMs", measured',
    says="In two pretrained transformers the output grows with η at the rate of multiplied layers.",
    reading="In each sweep, at some η, η has at least doubled the last stream, and over the step to it raises "
    "it at half the rate of C(1 + ηm̄)^L or more (a quarter answers alike, at the whole rate no sweep passes). m̄ is by "
    "rows: of induced norms, which the paper's bound has, the sweeps recorded none, and a larger m̄ lowers the share "
    "(SmolLM2's is ten times as large in other runs: 3.3-comparable-level-induced). Fixed after MiniLM's sweep, before "
    "SmolLM2's, but that the product's rate was then its highest, at the step's end." + INSTRUCT,
    command="python -m allora_analysis.claims.pretrained_ripple FOLDER NAME --data FOLDER",
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
        printed=lambda one, seen: max(doubled_shares(seen)) >= 0.5,
    )
    whole = [(case, seen) for case, seen in judged.pairs if case.inputs.most == max(PARTS)]
    beside = {
        f"beside, {case.name}": {
            "output's gradient": risen(sweeps[case.inputs.model], case.inputs, "log_output_gradient")["added"],
            "radius of the series in η": sweeps[case.inputs.model][case.inputs.adapters]["radius"]["winding"],
        }
        for case, _ in whole
    }
    (most, where, eta), *others = sorted((_largest_share(case.inputs, seen) for case, seen in whole), reverse=True)
    return judged.finding(
        refuted=f"Not in all sweeps: once doubled, {where} reach {most:.2f} of that rate (η = {eta:g}), "
        f"others ≤ {others[0][0]:.2f}.",
        evidence=judged.evidence(
            "none: two thresholds", lambda one: one.layers, more=beside, n=len(pretrained_ripple.SEEDS)
        ),
        size=ranged(
            [most, *(share for share, *_ in others)],
            "of the product's rate",
            f"the last stream's rise from η = {eta / 2:g} to {eta:g}, {where} (one draw), the largest where η has at "
            "least doubled it; down to 0 in a sweep where it never does",
            most,
        ),
        flips_if="in each sweep a step of η that ends with the last stream doubled and rises at half of the product's "
        "rate over it",
    )


def _largest_share(one: _Swept, seen: dict[str, list[float]]) -> tuple[float, str, float]:
    # The largest of `doubled_shares`, of which adapters, and the η at which its step ends.
    shares = doubled_shares(seen)
    best = int(np.argmax(shares))
    return (
        shares[best],
        f"{one.model}'s {one.adapters} adapters",
        [eta for eta in pretrained_ripple.ETAS if eta >= 1][best],
    )
