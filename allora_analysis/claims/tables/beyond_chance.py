"""What Tables 1 to 4 show by more than chance, where the paper's sentence is read as a report of printed averages.

Checked by `tests/test_claims_tables_rows.py`, which plants other numbers. Comparisons are judged by the rule of
`statistics.directional`.
"""

import functools
import itertools
import math
from collections.abc import Mapping

import numpy as np

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, units_wanted
from allora_analysis.claims.tables import contrasts, reported
from allora_analysis.claims.tables.contrasts import ALONE, BY_NAME, MARGIN, RULE, by_the_rule, told_by
from allora_analysis.claims.tables.prose_of_results import FAMILY, exchanged
from allora_analysis.claims.tables.table_1 import reported_claim
from allora_analysis.claims.tables.tables_2_to_4 import LEVEL, TRENDS, changes
from allora_analysis.statistics import Judgement, holm, in_every, judge_family
from allora_analysis.study import bound, signed


def by_more_than_chance(cases: Cases, name: str, units: str, better: str = "better") -> Finding:
    """A contrast by the rule of its question; `units`: what its clusters are, `better`: what is more accurate there."""
    told = f"{{mean}} points on average, {better} in {{clusters}} {units}{{figure_3}}"
    answers = {
        "undecided": f"Undecided: {told}; may be chance (p = {{p}}).",
        "holds": f"Yes: {told}; more than chance (p = {{p}}).",
        "refuted": f"No: {told} (p = {{p}}).",
    }
    table_3 = contrasts.BY_NAME[name].table == "Table 3"
    return by_the_rule(cases, name, answers, exchanged(name) if table_3 else None)


over_lora = functools.partial(
    reported_claim,
    where="beyond the paper: §4.4, of more than the averages printed",
    reading="On average over pairs of model and data set. With Figure 3's numbers, where Table 3 has two exchanged: "
    "evidence.",
)


@over_lora(
    "4.4-better-than-lora-beyond-chance",
    says="ALLoRA is more accurate than LoRA in Table 3 by more than chance.",
    depends_on=("4.4-better-than-lora",),
)
def better_than_lora(cases: Cases) -> Finding:
    """ALLoRA − LoRA in Table 3."""
    return by_more_than_chance(cases, "ALLoRA − LoRA", "pairs")


@over_lora(
    "A-dropout-free-better-beyond-chance",
    says="ALLoRA-0 is more accurate than LoRA in Table 3 by more than chance.",
    depends_on=("A-dropout-free-better",),
)
def dropout_free_better(cases: Cases) -> Finding:
    """ALLoRA-0 − LoRA in Table 3."""
    return by_more_than_chance(cases, "ALLoRA-0 − LoRA", "pairs")


@reported_claim(
    "4.5-better-than-dora-beyond-chance",
    where="beyond the paper: §4.5, of more than the averages printed",
    says="ALLoRA is more accurate than DoRA in Table 1 by more than chance.",
    reading="On average over (model, rank).",
    depends_on=("4.5-better-than-dora",),
)
def better_than_dora(cases: Cases) -> Finding:
    """ALLoRA − DoRA in Table 1."""
    return by_more_than_chance(cases, "ALLoRA − DoRA", "settings")


@reported_claim(
    "4.5-allora-0-better-than-dora",
    where="beyond the paper: §4.5, of more than the averages printed",
    says="ALLoRA-0 is more accurate than DoRA in Table 1 by more than chance.",
    reading="On average over (model, rank); the printed average is row 4.5-average.",
    depends_on=("4.5-average",),
)
def allora_0_better_than_dora(cases: Cases) -> Finding:
    """ALLoRA-0 − DoRA in Table 1."""
    return by_more_than_chance(cases, "ALLoRA-0 − DoRA", "settings")


@reported_claim(
    "6-optimal-beyond-chance",
    where="beyond the paper: §6, of more than the averages printed",
    says="ALLoRA is better than each other member of the family in Table 4 by more than chance.",
    reading="On average: all three comparisons must hold, each tested alone, as in 5.2-better-family.",
    depends_on=("6-optimal",),
)
def optimal_in_family(cases: Cases) -> Finding:
    """The three contrasts of the question together; the lead at each η² beside them."""
    means = contrasts.family(FAMILY[0])

    def each_alone(samples: Mapping[str, np.ndarray]) -> dict[str, Judgement]:
        return {name: contrasts.judged({name: values})[name] for name, values in samples.items()}

    tested, found = cases.test(means, lambda samples: in_every(each_alone(samples))), each_alone(means)
    leads = {f"{name}, {eta}": v for name in means for eta, v in contrasts.of(name).by_part((2,)).items()}
    open_ones = [name.removeprefix("ALLoRA − ") for name, one in found.items() if one.verdict == "undecided"]
    least, behind = min(found.values(), key=lambda one: one.mean), ", ".join(open_ones)
    return tested.finding(
        undecided=f"Undecided: the lead over {behind} may be chance.",
        holds="Yes: better than each other member by more than chance.",
        evidence=Evidence({"lead": "above 0 in each"}, {"judged": found, "lead at each η²": leads}, ALONE, n=least.n),
        size=Size(least.mean, "percentage points", "the least lead over another member", *least.interval),
        wanted=units_wanted([least], "pairs of model and data set"),
        flips_if=f"{least.needed} pairs of model and data set of this mean and spread",
        at_paper=told_by(tested.verdict),
    )


@reported_claim(
    "5.2-asf-lower-beyond-chance",
    where="beyond the paper: §5.2, of more than the cells printed",
    says="On average ASF-LoRA is less accurate than LoRA × η in Table 4 by more than chance.",
    reading="On average over pairs of model and data set.",
    depends_on=("5.2-asf-significantly",),
)
def asf_lower(cases: Cases) -> Finding:
    """LoRA×η − ASF-LoRA in Table 4."""
    return by_more_than_chance(cases, "LoRA×η − ASF-LoRA", "pairs", "LoRA × η better")


@reported_claim(
    "5.2-asf-not-better-beyond-chance",
    where="beyond the paper: Figure 4, of more than the averages printed",
    says=f"On average an adaptive scale factor is at most {MARGIN:g} points better than a fixed one, by more than "
    "chance.",
    reading="Half and twice that margin are in the evidence. The rule was changed after the numbers were seen.",
    depends_on=("5.2-asf-not-better",),
)
def asf_not_better(cases: Cases) -> Finding:
    """LoRA×η − ASF-LoRA in Table 4 against minus the margin, within its question; pairs that ASF-LoRA leads beside."""
    name = "LoRA×η − ASF-LoRA"
    means, pairs = contrasts.family(name), contrasts.of(name).by_cluster()

    def above(margin: float) -> dict[str, np.ndarray]:
        return {other: values + margin * (other == name) for other, values in means.items()}

    tested = cases.test(above(MARGIN), lambda samples: judge_family(samples, grain=1e-9)[name].verdict)
    one, mean = judge_family(above(MARGIN), grain=1e-9)[name], float(means[name].mean())
    other = {f"{m:g}": judge_family(above(m), grain=1e-9)[name].verdict for m in (MARGIN / 2, 2 * MARGIN)}
    measured = {
        "mean": mean,
        "at least the margin behind, judged": one,
        "verdict at another margin": other,
        "ASF-LoRA ahead": {", ".join(pair): -value for pair, value in pairs.items() if value < 0},
    }
    told = f"the fixed one is {signed(mean, 2)} points ahead"
    lag = f"a lag of {MARGIN:g}"
    needed = units_wanted([one], "pairs of model and data set")
    return tested.finding(
        undecided=f"Undecided: {told}; {lag} is not excluded (p = {one.adjusted_p_value:.3f}).",
        holds=f"Yes: {told}; {lag} is excluded (p = {one.adjusted_p_value:.3f}).",
        refuted=f"No: {told}.",
        evidence=Evidence({"mean gap": f"above −{MARGIN:g}"}, measured, RULE, tolerance=MARGIN, n=one.n),
        size=Size(mean, "percentage points", f"the mean gap {name}", *(end - MARGIN for end in one.interval)),
        wanted=needed,
        flips_if=needed if tested.verdict == "undecided" else "an adjusted p-value above 0.05",
        at_paper=told_by(tested.verdict),
    )


@reported_claim(
    "6-over-backbones",
    where="beyond the paper: §6, of more than the backbones printed",
    says="On average over backbones, too, not these three alone, ALLoRA is more accurate than LoRA.",
    reading="The unit is the model, of which Tables 1, 3 and 4 have three each.",
    depends_on=("6-better-than-lora",),
)
def over_backbones(cases: Cases) -> Finding:
    """Every contrast with the model as the unit: what no gaps of three models could have decided."""
    models = {name: list(contrasts.of(name).by_part((0,)).values()) for name in BY_NAME}
    tested = cases.test(models, lambda samples: judge_family({0: samples["ALLoRA − LoRA"]})[0].verdict)
    one = judge_family({0: models["ALLoRA − LoRA"]})[0]
    p_values = {name: judge_family({0: values})[0].p_value for name, values in models.items()}
    n, least = units_wanted([one], "models"), one.smallest_p_value
    rule = f"{ALONE.partition(';')[0]}, the model as the cluster"
    return tested.finding(
        undecided=f"Undecided, whatever the gaps: three models cannot tell (p is at least {least:g}).",
        evidence=Evidence({"mean gap": "above 0"}, {"by model": models, "p_values": p_values}, rule, n=one.n),
        size=Size(one.mean, "percentage points", "the mean gap ALLoRA − LoRA over models"),
        corrected=n,
        flips_if=n,
    )


def _order_p(name: str, score: float) -> float:
    # Kendall's test: the share of the 5! orders of the values whose pairs are in order as often as `score` or more.
    value, sign = TRENDS[name]
    orders = itertools.permutations([sign * value(one) for one in reported.TABLE_2])
    scores = [sum(np.sign(b - a) for a, b in itertools.combinations(order, 2)) for order in orders]
    return float(np.mean(np.array(scores) >= score - 1e-9))


def trends_judged(samples: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | str]]:
    """Each trend's p-value, alone and by Holm over the four, and its verdict alone; `samples` by "trend: pair"."""
    scores = {
        name: float(sum(np.sign(value) for pair, (value,) in samples.items() if pair.startswith(f"{name}: ")))
        for name in TRENDS
    }
    alone = [_order_p(name, score) for name, score in scores.items()]
    opposite, adjusted = [1 - _order_p(name, score + 1) for name, score in scores.items()], holm(alone)
    return {
        name: {
            "p_value": alone[i],
            "adjusted_p_value": float(adjusted[i]),
            "verdict": "holds"
            if alone[i] <= LEVEL + 1e-12
            else "refuted"
            if opposite[i] <= LEVEL + 1e-12
            else "undecided",
        }
        for i, name in enumerate(TRENDS)
    }


def _further_out_of_order() -> str:
    # What would make a trend that is more than chance one that may be: so many pairs more in another order.
    needed: dict[int, list[str]] = {}
    for name in TRENDS:
        score = float(sum(map(np.sign, changes(name).values())))
        more = next(k for k in itertools.count(1) if _order_p(name, score - 2 * k) > LEVEL + 1e-12)
        needed.setdefault(more, []).append(name)
    told = (f"{k} pair{'s' * (k > 1)} more in another order in {' or '.join(of)}" for k, of in sorted(needed.items()))
    return ", or ".join(told)


@reported_claim(
    "T2-beyond-chance",
    where="beyond the paper: Table 2, of more than the numbers printed",
    says="Each of the four trends that the paper reads off Table 2 is more than chance.",
    reading="T2-epoch-of-best, T2-long, T2-short and T2-overfit by Kendall's exact test of order over five drop rates. "
    "All four must hold, each tested alone, as in 6-optimal-beyond-chance. As four findings of their own, by Holm over "
    "the four, fewer do, one of them at p = 0.05 exactly: the answer tells it. The four were chosen after the numbers "
    "were seen.",
    depends_on=tuple(TRENDS),
)
def trends(cases: Cases) -> Finding:
    """Table 2's four trends, one-sided, over the 5! orders of each one's values."""

    def verdict(samples: Mapping[str, np.ndarray]) -> str:
        found = {str(one["verdict"]) for one in trends_judged(samples).values()}
        return "holds" if found == {"holds"} else "refuted" if "refuted" in found else "undecided"

    samples = {f"{name}: {pair}": np.array([step]) for name in TRENDS for pair, step in changes(name).items()}
    tested, found = cases.test(samples, verdict), trends_judged(samples)
    shown = [name for name, one in found.items() if one["verdict"] == "holds"]
    adjusted, alone = (max(one[p] for one in found.values()) for p in ("adjusted_p_value", "p_value"))
    most = f"{bound(alone, 3, True):.2g}"
    by_holm = sum(one["adjusted_p_value"] <= LEVEL + 1e-12 for one in found.values())
    together = f"{len(found) - by_holm} of them may be chance" if by_holm < len(found) else "too"
    least = 1 / math.factorial(len(reported.TABLE_2))
    told = f"{len(shown)} of {len(found)} trends {'is' if len(shown) == 1 else 'are'} more than chance"
    return tested.finding(
        undecided=f"Undecided: {told}; the others may be chance (p = {most} at most).",
        holds=f"Yes, each alone (p at most {most}); as four findings, {together} (Holm's p {adjusted:.2g}).",
        refuted=f"No: {told}, and one goes the other way.",
        evidence=Evidence(
            {"trend": "more than chance, each of the four"},
            found | {"smallest_p_value": least},
            f"Kendall's exact test of order, one-sided at {LEVEL}, each alone; means of 3 runs",
            n=len(reported.TABLE_2),
        ),
        size=Size(
            float(len(shown)),
            f"of {len(found)} trends",
            f"of Table 2 that are more than chance, each alone; {by_holm} by Holm",
        ),
        wanted="more drop rates",
        flips_if="more drop rates, or all pairs of the five in order in each trend"
        if tested.verdict == "undecided"
        else _further_out_of_order(),
        at_paper=told_by(tested.verdict),
    )
