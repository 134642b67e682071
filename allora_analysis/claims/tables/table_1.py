"""Table 1 and its sentences: averages, parameters, DoRA's rows, and ALLoRA against DoRA.

Checked by `tests/test_claims_tables_rows.py`, which plants wrong numbers. Comparisons are judged by the rule of
`statistics.directional`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from allora_analysis.claims.cases import Case, Cases, Judged
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, ranged
from allora_analysis.claims.tables import contrasts, reported
from allora_analysis.claims.tables.contrasts import OTHER_AVERAGE, average_is, everywhere, over_dora
from allora_analysis.claims.tables.reported import (
    ARCHITECTURES,
    DORA_PUBLISHED,
    DORA_RIVALS,
    DORA_SOURCE,
    ETA_SQUARED,
    RIVALS_SOURCE,
    TABLE_1,
    TASKS,
    Comparison,
)
from allora_analysis.study import signed
from allora_analysis.validation import count

reported_claim = functools.partial(
    claim, command="python -m allora_analysis.claims.tables", test="tests/test_claims_tables_rows.py"
)
ROUNDING = "half a unit of the printed number's last digit, and what rounding of its inputs can add"
DORA_RATES = (1e-4, 2e-4)  # §4.5: DoRA's learning rates, of which its authors report the best
SECTION_6 = (
    "Empirical results show that ALLoRA admits better accuracy than plain LoRA over multiple backbones, datasets, and "
    "learning rates; and better accuracy than recent successful LoRA variants such as DoRA."
)
PARAMETERS = (
    "In Table 1 we also report the number of trainable parameters as a percentage of the number of pre trained "
    "parameters."
)
BOOSTED = "On average, ALLoRA and ALLoRA-0 each boosted accuracy by 0.3% over DoRA."
UNIVERSALLY = "Since DoRA results are universally better than other PEFT methods, we only compare ALLoRA to DoRA."


def compared(cases: Cases, comparisons: Sequence[Comparison], allowed: str = "explained", **texts: Any) -> Finding:
    """Printed numbers against recomputed ones; `texts` are the finding's, `mended` comparisons that must agree."""
    mended: Mapping[str, Comparison] = {item.where: item for item in texts.pop("mended", ())}
    judged = cases.judge(
        [Case(item.where, item) for item in comparisons],
        measure=lambda item: [float(one.recomputed) for one in (item, mended.get(item.where, item))],
        printed=lambda item, seen: _agrees(item, seen[0], allowed),
        corrected=(lambda item, seen: _agrees(mended[item.where], seen[1], allowed)) if mended else None,
    )
    return judged.finding(
        **texts.pop("answers"), evidence=_evidence(judged, mended, allowed), **({"flips_if": "another digit"} | texts)
    )


def _agrees(item: Comparison, seen: float, allowed: str) -> bool:
    return bool(getattr(dataclasses.replace(item, recomputed=reported.exact(seen)), allowed))


def _evidence(judged: Judged, mended: Mapping[str, Comparison], allowed: str) -> Evidence:
    items = [mended.get(case.name, case.inputs) for case in judged.cases]
    rows = reported.disagreements_among(items)
    beyond = [case.name for case in judged.cases if not getattr(case.inputs, allowed)]
    worst = max(items, key=lambda item: abs(item.difference))
    return Evidence(
        {row.where: row.printed for row in rows},
        {row.where: row.recomputed for row in rows} | {"as_printed_disagreeing": beyond},
        ROUNDING if allowed == "explained" else "half a unit of the printed number's last digit",
        float(abs(worst.difference)),
        float(max(item.half_unit + item.input_error * (allowed == "explained") for item in items)),
        n=len(items),
    )


@reported_claim("T1-averages", where="Table 1", says="Avg", reading="The mean of the row's eight accuracies.")
def averages(cases: Cases) -> Finding:
    """Each "Avg" against the mean of its row."""
    return compared(
        cases,
        reported.table_1_averages(),
        answers={"holds": "Yes: all 18 averages follow from their rows, within rounding."},
        flips_if="an average further from its row's mean than rounding of both can explain",
    )


# DoRA's share at LLaMA3-8B, r = 16 is 0.36 from the architecture; 0.35 is LoRA's there, and DoRA's paper prints it.
MISPRINTED = {"Table 1, LLaMA3-8B, r = 16, DoRA, # Params %": 0.36}


MODULES = "another list of adapted modules, or sizes of the models, that makes "


def _shares(arm: str) -> list[list[Comparison]]:
    # Table 1's parameter column for ALLoRA or DoRA, beside the share of the pre-trained and of all parameters.
    every = map(reported.table_1_parameters, reported.DENOMINATORS)
    return [[item for item in items if f", {arm}," in item.where] for items in every]


def _parameters_of(cases: Cases, arm: str, answer: str, formula: str, otherwise: str = "") -> Finding:
    """Shares of the pre-trained parameters, rounded; corrected, of all of them."""
    pretrained, of_all = _shares(arm)
    printed = [reported.exact(MISPRINTED.get(item.where, float(item.printed))) for item in of_all]
    mended = [dataclasses.replace(item, printed=one) for item, one in zip(of_all, printed, strict=True)]
    return compared(
        cases,
        pretrained,
        "agrees",
        mended=mended,
        answers={"holds_corrected": answer},
        corrected=formula,
        flips_if=f"{MODULES}the printed shares{otherwise}",
    )


@reported_claim(
    "T1-parameters-allora",
    where="Table 1; §4.5",
    says=PARAMETERS,
    reading="Of ALLoRA's rows, cut off after two decimals; rounded, as Table 1's averages are, is row "
    "T1-parameters-allora-rounded. DoRA's rows, of other authors: T1-parameters-dora.",
)
def parameters_of_allora(cases: Cases) -> Finding:
    """ALLoRA's shares of the pre-trained parameters, cut off."""
    pretrained, of_all = _shares("ALLoRA")
    judged = cases.judge(
        [Case(item.where, item) for item in pretrained],
        measure=lambda item: float(item.recomputed),
        printed=lambda item, seen: 0 <= reported.exact(seen) - item.printed < 2 * item.half_unit,
    )
    rounded = f"{sum(item.agrees for item in of_all)} of {len(of_all)}"
    return judged.finding(
        holds=f"Yes, if cut off after two decimals; rounded, {rounded} are shares of all parameters instead.",
        evidence=judged.evidence("a unit of the printed number's last digit", lambda item: float(item.printed)),
        flips_if=f"{MODULES}other shares",
    )


@reported_claim(
    "T1-parameters-allora-rounded",
    where="Table 1; §4.5",
    says=PARAMETERS,
    reading="A less kind reading: of ALLoRA's rows, rounded. Cut off they are as the sentence says: "
    "T1-parameters-allora.",
    same_fault_as="T1-parameters-dora",
)
def parameters_of_allora_rounded(cases: Cases) -> Finding:
    """ALLoRA's shares, rounded."""
    return _parameters_of(
        cases,
        "ALLoRA",
        "Not of the pre-trained ones, if rounded: the column is a share of all parameters, trainable ones included.",
        "trainable / (pre-trained + trainable)",
        ", or shares that are cut off, not rounded",
    )


@reported_claim(
    "T1-parameters-dora",
    where="Table 1; §4.5",
    says=PARAMETERS,
    reading="A less kind reading: of DoRA's rows, which the caption credits to DoRA's authors. One looks like a "
    f"misprint, theirs: LLaMA3-8B, r = 16 has LoRA's share, 0.35, in their paper, too ({RIVALS_SOURCE}). Cut off after "
    "two decimals, three of the six, those at r = 32, would be shares of the pre-trained ones, too.",
)
def parameters_of_dora(cases: Cases) -> Finding:
    """DoRA's shares."""
    return _parameters_of(
        cases,
        "DoRA",
        "Not of the pre-trained ones: a share of all parameters; 0.35, for 0.36, is copied from DoRA's own table.",
        "trainable / (pre-trained + trainable), with 0.36 for DoRA on LLaMA3-8B, r = 16",
    )


@reported_claim("T1-dora-rows", where="Table 1, caption", says="DoRA results are taken from Liu et al. (2024a).")
def dora_rows(cases: Cases) -> Finding:
    """Table 1's DoRA rows against the table that DoRA's authors publish."""
    judged = cases.judge(
        [Case(f"{row.model}, r = {row.rank}", row) for row in TABLE_1 if row.arm == "DoRA"],
        measure=lambda row: np.array(DORA_PUBLISHED[row.model, row.arm, row.rank]),
        printed=lambda row, seen: (*row.accuracies, row.average) == tuple(seen),
    )
    return judged.finding(
        holds="Yes: all six rows are those that DoRA's authors publish.",
        evidence=judged.evidence(f"equality; {DORA_SOURCE}", lambda row: (*row.accuracies, row.average)),
        flips_if="one digit that differs from the table published",
    )


def _published(method: str) -> dict[tuple[str, int], tuple[float, ...]]:
    # By (model, rank) at which LoRA's results are published too.
    ranks = [(model, rank) for model, other, rank in DORA_PUBLISHED if other == "LoRA"]
    return {pair: DORA_PUBLISHED[pair[0], method, pair[1]] for pair in ranks}


@reported_claim(
    "4.5-dora-universally",
    where="§4.5",
    says=UNIVERSALLY,
    reading="By the averages over the eight tasks, over all that DoRA's authors publish beside theirs: LoRA, on "
    "LLaMA-7B and -13B prefix tuning and adapters in series and in parallel, too. At each rank that Table 1 has; of "
    "LLaMA-13B, which it lacks, DoRA's better rank judges, 32: at 16 adapters in parallel are 0.6 ahead. Of further "
    "methods nothing is judged. Each published average must be that of its eight accuracies, within 0.1.",
)
def dora_universally(cases: Cases) -> Finding:
    """The published averages against those of the published accuracies, and DoRA's against the others'."""
    lora, dora = _published("LoRA"), _published("DoRA")

    def others(model: str) -> dict[str, tuple[float, ...]]:
        return {method: row for (of, method), row in DORA_RIVALS.items() if of == model and "DoRA" not in method}

    ranks = [row for (model, method), row in DORA_RIVALS.items() if model == "LLaMA-13B" and "DoRA" in method]
    better = {"DoRA": max(ranks, key=lambda row: row[-1])} | others("LLaMA-13B")
    judged = cases.judge(
        [Case(f"{m}, r = {r}", {"DoRA": dora[m, r], "LoRA": lora[m, r]} | others(m), True) for m, r in lora]
        + [Case("LLaMA-13B, DoRA at its better rank", better)],
        measure=lambda one: {method: float(np.mean(row[:-1])) for method, row in one.items()},
        printed=lambda one, seen: (
            all(abs(row[-1] - seen[method]) <= contrasts.PRINTED_BY + 1e-9 for method, row in one.items())
            and seen["DoRA"] > max(mean for method, mean in seen.items() if method != "DoRA")
        ),
    )
    leads = [seen["DoRA"] - max(seen[method] for method in seen if method != "DoRA") for _, seen in judged.pairs]
    return judged.finding(
        holds=f"Yes, on average, over all that its authors publish; on LLaMA-13B at r = 32 alone, by {min(leads):.2f}.",
        evidence=judged.evidence(
            f"rounding of averages to one decimal; {DORA_SOURCE}; {RIVALS_SOURCE}",
            lambda one: {method: row[-1] for method, row in one.items()},
            tolerance=contrasts.PRINTED_BY,
        ),
        size=ranged(leads, "percentage points", "DoRA's average over the next best's", float(np.mean(leads))),
        flips_if="a model and rank of Table 1, or both ranks of LLaMA-13B, at which another's average is as high as "
        "DoRA's, or an average that is not its row's",
    )


@reported_claim(
    "4.5-dora-every-task",
    where="§4.5",
    says=UNIVERSALLY,
    reading='A less kind reading: on every task, against LoRA, what "universally" often means.',
)
def dora_every_task(cases: Cases) -> Finding:
    """DoRA against LoRA, task by task."""
    lora, dora = _published("LoRA"), _published("DoRA")
    gaps = {
        f"{model}, r = {rank}, {task}": contrasts.gap(better, worse)
        for model, rank in lora
        for task, better, worse in zip(TASKS, dora[model, rank][:-1], lora[model, rank][:-1], strict=True)
    }
    ties = sum(gap == 0 for gap in gaps.values())
    return everywhere(
        cases, gaps, f"Not on every task: DoRA is above LoRA in {{k}} of {{n}} (model, rank, task), level in {ties}."
    )


@reported_claim(
    "4.5-fewer-parameters",
    where="§4.5",
    says="Since ALLoRA does not introduce additional trainable parameters, its trainable parameters are slightly lower "
    "than that of DoRA.",
    reading="By count and by the share printed, which may not be above DoRA's: LLaMA3-8B, r = 16, ties by DoRA's "
    "misprint (T1-parameters-dora).",
)
def fewer_parameters(cases: Cases) -> Finding:
    """LoRA's trainable parameters against DoRA's, which adds a magnitude for each output of an adapted module."""

    def magnitudes(inputs: tuple) -> int:
        sizes, *_ = inputs
        return sizes.layers * (2 * sizes.hidden + 2 * sizes.key_value + sizes.intermediate)  # q, down; k, v; up

    shares = {(row.model, row.rank, row.arm): row.parameters for row in TABLE_1}

    def above(*setting: Any) -> float:  # the larger of ALLoRA's two printed shares less DoRA's
        return contrasts.gap(max(shares[*setting, "ALLoRA"], shares[*setting, "ALLoRA-0"]), shares[*setting, "DoRA"])

    settings = itertools.product(ARCHITECTURES, (16, 32))
    judged = cases.judge(
        [Case(f"{m}, r = {r}", (ARCHITECTURES[m], r, above(m, r)), True) for m, r in settings],
        measure=lambda one: {method: reported.trainable_parameters(*one[:2], method) for method in ("LoRA", "DoRA")},
        printed=lambda one, seen: (
            one[2] <= 0 and seen["LoRA"] < seen["DoRA"] == seen["LoRA"] + magnitudes(one) and seen["LoRA"] % one[1] == 0
        ),
    )
    less = [100 * (1 - seen["LoRA"] / seen["DoRA"]) for _, seen in judged.pairs]
    gaps = judged.by_case(lambda one: one[2])
    lower = sum(gap < 0 for gap in gaps.values())
    return judged.finding(
        holds=f"Yes: by {min(less):.1f} to {max(less):.1f} %, DoRA's magnitudes; in print in {lower} of {len(less)}.",
        evidence=judged.evidence("exact counts; order of printed shares", magnitudes, more={"above DoRA's": gaps}),
        size=ranged(less, "%", "fewer trainable parameters than DoRA", float(np.mean(less))),
        flips_if="a printed share above DoRA's; a count in which DoRA adds none, or other than one magnitude for each "
        "output of an adapted module",
    )


def expected_maximum(tries: int) -> float:
    """E[max(Z₁, …, Z_n)] of n = 1 to 1,000 independent standard normals: ∫ x·n·φ(x)·Φ(x)^{n − 1} dx.

    Settings that are equally good and measured with independent normal noise of deviation σ differ by that noise; the
    best of n is reported that many σ above their common accuracy. 0 for n = 1, 1/√π for 2, 3/(2√π) for 3.
    """
    from scipy.integrate import quad
    from scipy.special import ndtr

    n, root = count("tries", tries, 1, 1000), math.sqrt(2 * math.pi)
    return quad(lambda x: x * n * math.exp(-(x**2) / 2) / root * ndtr(x) ** (n - 1), -12, 12, epsabs=1e-12)[0]


CLOSED_FORM = {1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi)}
"""The expected largest of so many standard normals."""


@reported_claim(
    "4.5-best-of-three",
    where="beyond the paper: §4.5, where each method reports the best of its settings",
    says="Reporting the best of its settings favors ALLoRA no more than DoRA.",
    reading="Of equally good settings with independent normal noise of one deviation σ, the best of three η² is "
    "reported no further above the truth than the best of two rates. That there were two, and that DoRA reports the "
    "best of them, is §4.5's account; its authors publish one of the two for each row of Table 1, and no such choice "
    "(4.5-dora-rates).",
)
def best_of_three(cases: Cases) -> Finding:
    """What the best of a and of b settings gain by chance, by quadrature against the closed forms."""
    tries = [(len(ETA_SQUARED), len(DORA_RATES)), *itertools.product(CLOSED_FORM, repeat=2)]
    tolerance = 1e-10
    judged = cases.judge(
        [
            Case(f"best of {a} against best of {b}" + " (paper)" * (i == 0), (a, b), i == 0)
            for i, (a, b) in enumerate(tries)
        ],
        measure=lambda one: expected_maximum(one[0]) - expected_maximum(one[1]),
        printed=lambda one, seen: seen <= tolerance,
        corrected=lambda one, seen: abs(seen - (CLOSED_FORM[one[0]] - CLOSED_FORM[one[1]])) < tolerance,
        condition=lambda one: one[0] <= one[1],
    )
    lead = judged.measured[0]
    reported = float(contrasts.of("ALLoRA − DoRA").values.mean())
    more = (
        f"; its reported {reported:.2f} points would be chance alone if σ were {reported / lead:.2f}"
        if lead > 0
        else ""
    )
    return judged.finding(
        conditional="Only with no more settings than DoRA: by §4.5's account three against two gain "
        f"{lead:.2f} σ by chance.",
        evidence=judged.evidence(
            f"quadrature{more}", lambda one: CLOSED_FORM[one[0]] - CLOSED_FORM[one[1]], tolerance=tolerance
        ),
        size=Size(lead, "σ", "what the best of three gains on the best of two by chance"),
        condition="ALLoRA's best is of no more settings than DoRA's",
        flips_if="as many settings for both methods",
        at_paper="no, by §4.5's account" if lead > tolerance else None,
    )


@reported_claim(
    "4.5-average",
    where="§4.5",
    says=BOOSTED,
    reading=f'Mean gaps over all cells of Table 1; "%" are percentage points; {contrasts.BY_PRINT}.',
)
def average(cases: Cases) -> Finding:
    """The mean gaps of both arms over DoRA, a (model, rank) at a time against the averages printed."""
    rows = {(row.model, f"r = {row.rank}", row.arm): row.average for row in TABLE_1}

    def printed(name: str) -> dict[str, float]:
        arms = contrasts.BY_NAME[name]
        settings = dict.fromkeys(key[:2] for key in rows)
        return {", ".join(one): rows[*one, arms.better] - rows[*one, arms.worse] for one in settings}

    return average_is(cases, 0.3, ("ALLoRA − DoRA", "ALLoRA-0 − DoRA"), printed)


@reported_claim(
    "4.5-best-average",
    where="§4.5",
    says="Table 1 shows that for all cases, either ALLoRA or ALLoRA-0 has the best average accuracy.",
    reading="By the averages that Table 1 prints, as the sentence says, each within 0.1 of its row's; a tie counts as "
    "best. Without that rounding DoRA is ahead in the tied case by less than the eight accuracies, rounded themselves, "
    "can tell (0.05 an average).",
    depends_on=("T1-averages",),
)
def best_average(cases: Cases) -> Finding:
    """The averages printed against those of the rows, and the better of ALLoRA's two against DoRA's."""
    rows: dict[str, dict[str, Any]] = {}
    for row in TABLE_1:
        rows.setdefault(f"{row.model}, r = {row.rank}", {})[row.arm] = row

    def lead(averages: Mapping[str, float]) -> float:
        return contrasts.gap(max(averages["ALLoRA"], averages["ALLoRA-0"]), averages["DoRA"])

    judged = cases.judge(
        [Case(name, {arm: row.average for arm, row in own.items()}, True) for name, own in rows.items()],
        measure=lambda printed: {
            arm: float(reported.mean(row.accuracies)) for arm, row in _rows_of(rows, printed).items()
        },
        printed=lambda printed, seen: (
            lead(printed) >= 0 and all(abs(printed[arm] - seen[arm]) <= 0.1 + 1e-9 for arm in printed)
        ),
    )
    leads = [lead(case.inputs) for case in judged.cases]
    exactly = [lead(seen) for _, seen in judged.pairs]
    ahead, behind = sum(value > 0 for value in leads), -min(exactly)
    return judged.finding(
        holds=f"Yes: ahead in {ahead} of {len(leads)}, tied in one, where unrounded DoRA is {behind:.4f} ahead.",
        evidence=judged.evidence(
            "order of printed averages; the better of two arms, each the best of three η²", lambda one: one
        ),
        size=ranged(leads, "percentage points", "the better ALLoRA's lead over DoRA", float(np.mean(leads))),
        flips_if="a model and rank at which DoRA's printed average is the highest, or an average that is not its row's",
    )


def _rows_of(rows: Mapping[str, dict[str, Any]], printed: Mapping[str, float]) -> dict[str, Any]:
    return next(own for own in rows.values() if {arm: row.average for arm, row in own.items()} == printed)


@reported_claim(
    "4.5-better-than-dora",
    where="§6; Table 1",
    says=SECTION_6,
    reading="By the averages over a model or a rank of Table 1, each within 0.1 of that of the averages printed; "
    "whether more than chance is row 4.5-better-than-dora-beyond-chance.",
)
def ahead_of_dora(cases: Cases) -> Finding:
    """ALLoRA − DoRA, average by average."""
    found = contrasts.of("ALLoRA − DoRA")
    judged = over_dora(cases, "ALLoRA", found.by_part((0, 1)))
    settings, mean = found.by_cluster().values(), float(found.values.mean())
    told = f"{signed(mean, 2)} points over DoRA, in {sum(gap > 0 for gap in settings)} of {len(settings)} settings"
    return judged.finding(
        holds=f"Yes, on average: {told}; it {contrasts.chance('ALLoRA − DoRA', alone=True)}.",
        refuted=f"No: {told}; not in every average as printed.",
        evidence=judged.evidence("order of printed numbers; rounding of averages", lambda one: one[1], tolerance=0.1),
        size=ranged(settings, "percentage points", "the mean gap ALLoRA − DoRA; range: settings", mean),
        flips_if=f"a model or a rank over which ALLoRA is not ahead on average, or {OTHER_AVERAGE}",
    )
