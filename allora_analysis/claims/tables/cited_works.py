"""What the paper says of works that it cites and compares with, against what their authors publish.

Checked by `tests/test_claims_tables_rows.py`, which plants other dates, rates, epochs and ranks.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim
from allora_analysis.claims.tables import reported
from allora_analysis.claims.tables.reported import ARCHITECTURES, DORA_PUBLISHED, DORA_SETUP, SETUP_SOURCE, TABLE_1
from allora_analysis.claims.tables.table_1 import DORA_RATES

cited_claim = functools.partial(claim, test="tests/test_claims_tables_rows.py")
RANKS, EPOCHS = (16, 32), 3  # §4.5


class Work(NamedTuple):
    """An entry of the paper's reference list, and what its abstract says that it does."""

    authors: str
    arxiv: str
    abstract: str

    @property
    def month(self) -> tuple[int, int]:
        """Year and month of the arXiv number, YYMM.NNNNN."""
        return 2000 + int(self.arxiv[:2]), int(self.arxiv[2:4])


HAYOU = {
    "2024a": Work("Hayou, Ghosh, Yu", "2406.08447", "we study the role of initialization in Low Rank Adaptation"),
    "2024b": Work(
        "Hayou, Ghosh, Yu", "2402.12354", "setting different learning rates for the LoRA adapter matrices A and B"
    ),
}


@cited_claim(
    "2-follow-up",
    where="§2, LoRA",
    says="Hayou et al. (2024a) studies the optimal initialization of the low-rank matrices, and a follow-up work "
    "Hayou et al. (2024b) proposes to apply different learning rate to different low-rank matrices.",
    reading="A follow-up is a later work of the same authors, by the arXiv numbers in the paper's list of references, "
    "which begin with year and month; the venues, ICML and NeurIPS 2024, have the same order.",
)
def follow_up(cases: Cases) -> Finding:
    """The two works' authors, what they do and when they came out."""
    first, second = HAYOU["2024a"], HAYOU["2024b"]
    seen = {
        "authors": [first.authors, second.authors],
        "subjects": ["initialization" in first.abstract, "different learning rates" in second.abstract],
        "months": [first.month, second.month],
    }
    judged = cases.judge(
        [Case(name, name) for name in seen],
        measure=lambda name: {name: seen[name]},
        printed=lambda name, found: _related(name, found) and (name != "months" or found[name][0] < found[name][1]),
        corrected=lambda name, found: _related(name, found) and (name != "months" or found[name][0] > found[name][1]),
    )
    (year, month), (before, earlier) = seen["months"]
    apart = 12 * (year - before) + month - earlier
    return judged.finding(
        holds_corrected=f"Not in this order: 2024b, LoRA+, came {apart} months before 2024a "
        f"({before}-{earlier:02} and {year}-{month:02}).",
        corrected="Hayou et al. (2024b) proposes different learning rates for the low-rank matrices, and a follow-up "
        "work Hayou et al. (2024a) studies their optimal initialization",
        evidence=judged.evidence(
            "the list of references; the abstracts", {name: f"arXiv {work.arxiv}" for name, work in HAYOU.items()}
        ),
        size=Size(apart, "months", "from 2024b to 2024a, by arXiv number"),
        flips_if="an arXiv number of 2024b above that of 2024a",
    )


def _related(name: str, found: dict[str, Sequence]) -> bool:
    one, other = found[name]
    return all(found[name]) and (name != "authors" or one == other)


@cited_claim(
    "4.5-dora-setup",
    where="§4.5",
    says="Following DoRA's setup, for each model, we run both ALLoRA and ALLoRA-0 with LoRA rank r ∈ {16, 32} and "
    "for 3 epochs.",
    reading="DoRA's authors publish runs of so many epochs at both ranks for each model, and ALLoRA's shares of "
    "parameters in Table 1 are those of the modules that DoRA adapts; for how long ALLoRA ran, nothing printed shows.",
    depends_on=("T1-parameters-allora",),
)
def dora_setup(cases: Cases) -> Finding:
    """Table 1's ranks and shares for ALLoRA against DoRA's ranks, epochs and modules."""

    def measured(row: reported.CommonsenseRow) -> dict[str, Any]:
        setup = DORA_SETUP.get((row.model, row.rank))
        share = reported.trainable_percent(ARCHITECTURES[row.model], row.rank, "LoRA", "all")
        return {"epochs": setup and setup.epochs, "parameters, %": share}

    half = float(reported.half_unit(2))
    judged = cases.judge(
        [Case(f"{row.model}, r = {row.rank}, {row.arm}", row, True) for row in TABLE_1 if row.arm != "DoRA"],
        measured,
        printed=lambda row, seen: (
            row.rank in RANKS and seen["epochs"] == EPOCHS and abs(seen["parameters, %"] - row.parameters) <= half
        ),
    )
    models = {row.model for row in TABLE_1}
    return judged.finding(
        holds=f"Yes: DoRA publishes both ranks at {EPOCHS} epochs for all {len(models)} models; ALLoRA's parameters "
        "fit its modules.",
        evidence=judged.evidence(
            f"half a unit of a share's last digit, of all parameters; {SETUP_SOURCE}",
            lambda row: {"epochs": EPOCHS, "parameters, %": row.parameters},
            tolerance=half,
        ),
        flips_if="a model that DoRA was not trained on at one of the ranks or for as many epochs",
    )


@cited_claim(
    "4.5-dora-rates",
    where="§4.5",
    says="Note that we run experiments with various η² ∈ {1, 2, 4} and report the best accuracy, this follows DoRA's "
    "practices to run with various learning rate l ∈ {1e−4, 2e−4} and report the best.",
    reading="What is published: each of DoRA's rows in Table 1 with one learning rate of the two, and both occur. Its "
    'authors write that they adjust "only the learning rate"; whether a row is the best of several, they do not. For '
    "LLaMA-13B, r = 16, which is not in Table 1, they publish a third, 3e-4 (evidence). What is published can refute "
    "this row, and not show it.",
    depends_on=("T1-dora-rows",),
)
def dora_rates(cases: Cases) -> Finding:
    """The rate published for each row's average, and whether both occur; that it is the best of several is open."""
    published = {
        f"{row.model}, r = {row.rank}": [
            DORA_PUBLISHED[row.model, row.arm, row.rank][-1] - row.average,
            DORA_SETUP[row.model, row.rank].rate,
        ]
        for row in TABLE_1
        if row.arm == "DoRA"
    }

    def rule(of: Mapping[str, np.ndarray]) -> str:
        gaps, rates = zip(*of.values(), strict=True)
        return "refuted" if any(gaps) or set(rates) != set(DORA_RATES) else "undecided"

    told = " or ".join(f"{rate:.0e}".replace("e-0", "e-") for rate in DORA_RATES)
    elsewhere = {
        f"rate of {model}, r = {rank}, which is not in Table 1": setup.rate
        for (model, rank), setup in DORA_SETUP.items()
        if model not in ARCHITECTURES
    }
    rates = {f"rate of {name}": rate for name, (_, rate) in published.items()}
    return cases.test(published, rule).finding(
        undecided=f"Undecided: one rate each, {told}, is published; whether the best of several, DoRA does not say.",
        evidence=Evidence({"rates": DORA_RATES}, rates | elsewhere, f"equality; {SETUP_SOURCE}", n=len(rates)),
        wanted="nothing that is published: the rates that DoRA's authors tried for each row, and their averages, would",
        flips_if="a row of DoRA's that is published with another rate, or all with one: refuted, never shown",
    )
