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
from allora_analysis.claims.tables.contrasts import ALONE, BY_NAME, MARGIN, by_the_rule, told_by
from allora_analysis.claims.tables.prose_of_results import FAMILY, exchanged
from allora_analysis.claims.tables.table_1 import reported_claim
from allora_analysis.claims.tables.tables_2_to_4 import LEVEL, TRENDS, changes
from allora_analysis.statistics import Judgement, OneSided, holm, in_every, judge_family, one_sided
from allora_analysis.study import bound, signed

EXCLUDED = "Excluded is what lies below the 90 % interval, each comparison alone."


def behind(one: Judgement | OneSided) -> str:
    """The deficit beyond which an interval excludes all, rounded outwards."""
    return f"{max(0.0, -bound(one.interval[0], 2, False)):.2f}"


def each_alone(samples: Mapping[str, np.ndarray]) -> dict[str, Judgement]:
    """Comparisons of which all must hold, each tested alone: no correction is needed for that."""
    return {name: contrasts.judged({name: values})[name] for name, values in samples.items()}


def by_more_than_chance(cases: Cases, name: str) -> Finding:
    """A contrast of Table 3 by the rule of its question."""
    told = "{mean} points on average, better in {clusters} pairs{figure_3}"
    one = contrasts.judged(contrasts.family(name))[name]
    answers = {
        "undecided": f"Undecided: {told}; over {behind(one)} behind is excluded.",
        "holds": f"Yes: {told}; more than chance (p = {{p}}).",
        "refuted": f"No: {told} (p = {{p}}).",
    }
    return by_the_rule(cases, name, answers, exchanged(name))


over_lora = functools.partial(
    reported_claim,
    where="beyond the paper: §4.4, of more than the averages printed",
    reading="On average over pairs of model and data set. With Figure 3's numbers, where Table 3 has two exchanged: "
    f"evidence. {EXCLUDED}",
)


@over_lora(
    "4.4-better-than-lora-beyond-chance",
    says="ALLoRA is more accurate than LoRA in Table 3 by more than chance.",
    depends_on=("4.4-better-than-lora",),
)
def better_than_lora(cases: Cases) -> Finding:
    """ALLoRA − LoRA in Table 3."""
    return by_more_than_chance(cases, "ALLoRA − LoRA")


@over_lora(
    "A-dropout-free-better-beyond-chance",
    says="ALLoRA-0 is more accurate than LoRA in Table 3 by more than chance.",
    depends_on=("A-dropout-free-better",),
)
def dropout_free_better(cases: Cases) -> Finding:
    """ALLoRA-0 − LoRA in Table 3."""
    return by_more_than_chance(cases, "ALLoRA-0 − LoRA")


@reported_claim(
    "4.5-better-than-dora-beyond-chance",
    where="beyond the paper: §4.5, of more than the averages printed",
    says="In Table 1 ALLoRA and ALLoRA-0 are more accurate than DoRA by more than chance.",
    reading="Each on average over settings of model and rank; both must be, each tested alone, as in "
    f"6-optimal-beyond-chance (by Holm before, changed after the numbers were seen: undecided either way). {EXCLUDED}",
    depends_on=("4.5-better-than-dora", "4.5-average"),
)
def better_than_dora(cases: Cases) -> Finding:
    """Both contrasts of the question together; the size is of ALLoRA's."""
    means, units = contrasts.family("ALLoRA − DoRA"), contrasts.UNITS["Table 1"]
    tested, found = cases.test(means, lambda samples: in_every(each_alone(samples))), each_alone(means)
    ours, without = found.values()
    gaps = f"ALLoRA {signed(ours.mean, 2)}, ALLoRA-0 {signed(without.mean, 2)} points on average"
    low, high = (signed(bound(end, 2, up), 2) for end, up in zip(without.interval, (False, True), strict=True))
    p = max(one.p_value for one in found.values())
    needed = units_wanted(found.values(), units)
    return tested.finding(
        undecided=f"Undecided: {signed(ours.mean, 2)} points for ALLoRA, {signed(without.mean, 2)} for ALLoRA-0; over "
        f"{behind(ours)} and {behind(without)} behind are excluded.",
        holds=f"Yes: {gaps}; more than chance (p = {p:.2g} at most).",
        refuted=f"No: {gaps}.",
        evidence=Evidence(
            {"mean gap": "above 0 in both"},
            {"judged": found, "by model, rank, task and setting": contrasts.by_average(tuple(means))},
            "; ".join((ALONE, *(f"{name}: {contrasts.p_values(one)}" for name, one in found.items()))),
            n=ours.n,
        ),
        size=Size(
            ours.mean,
            "percentage points",
            f"the mean gap ALLoRA − DoRA; ALLoRA-0's is {signed(without.mean, 2)} ({low} to {high})",
            *ours.interval,
        ),
        wanted=needed,
        flips_if=needed if tested.verdict == "undecided" else f"means of {units} of which a p-value is above 0.05",
        at_paper=told_by(tested.verdict),
    )


@reported_claim(
    "6-optimal-beyond-chance",
    where="beyond the paper: §6, of more than the averages printed",
    says="ALLoRA is better than each other member of the family in Table 4 by more than chance.",
    reading=f"On average: all three comparisons must hold, each tested alone, as in 5.2-better-family. {EXCLUDED}",
    depends_on=("6-optimal",),
)
def optimal_in_family(cases: Cases) -> Finding:
    """The three contrasts of the question together; the lead at each η² beside them."""
    means = contrasts.family(FAMILY[0])
    tested, found = cases.test(means, lambda samples: in_every(each_alone(samples))), each_alone(means)
    leads = {f"{name}, {eta}": v for name in means for eta, v in contrasts.of(name).by_part((2,)).items()}
    open_ones = [name.removeprefix("ALLoRA − ") for name, one in found.items() if one.verdict == "undecided"]
    least, lowest = min(found.values(), key=lambda one: one.mean), min(found.values(), key=lambda one: one.interval)
    return tested.finding(
        undecided=f"Undecided: {signed(lowest.mean, 2)} points on average over {' or '.join(open_ones)} (the least "
        f"lead); over {behind(lowest)} behind is excluded.",
        holds="Yes: better than each other member by more than chance.",
        evidence=Evidence({"lead": "above 0 in each"}, {"judged": found, "lead at each η²": leads}, ALONE, n=least.n),
        size=Size(least.mean, "percentage points", "the least lead over another member", *least.interval),
        wanted=units_wanted([least], contrasts.UNITS["Table 4"]),
        flips_if=f"{least.needed} {contrasts.UNITS['Table 4']} of this mean and spread"
        if least.needed
        else f"{contrasts.UNITS['Table 4']} in which a lead is not clear",
        at_paper=told_by(tested.verdict),
    )


@reported_claim(
    "5.2-asf-lower-beyond-chance",
    where="beyond the paper: §5.2 and Figure 4, of more than the cells printed",
    says="On average ASF-LoRA is less accurate than LoRA × η in Table 4 by more than chance.",
    reading="On average over pairs of model and data set. Whether ASF-LoRA is, by more than chance, at most "
    f"{MARGIN:g} points better (a rule changed after the numbers were seen) is in the evidence, with half and twice "
    f"that margin. {EXCLUDED}",
    depends_on=("5.2-asf-significantly", "5.2-asf-not-better"),
)
def asf_lower(cases: Cases) -> Finding:
    """LoRA×η − ASF-LoRA in Table 4; against minus a margin and the pairs that ASF-LoRA leads beside it."""
    name = "LoRA×η − ASF-LoRA"
    means, pairs = contrasts.family(name), contrasts.of(name).by_cluster()

    def at_most(margin: float) -> Judgement:
        return contrasts.judged({other: values + margin * (other == name) for other, values in means.items()})[name]

    one = at_most(0)
    told = "{mean} points on average, LoRA × η better in {clusters} pairs"
    further = f", {MARGIN:g} not" if one.interval[0] < -MARGIN else ""
    answers = {
        "undecided": f"Undecided: LoRA × η {{mean}} points ahead, in {{clusters}} pairs; ASF-LoRA over {behind(one)} "
        f"ahead is excluded{further}.",
        "holds": f"Yes: {told}; more than chance (p = {{p}}).",
        "refuted": f"No: {told} (p = {{p}}).",
    }
    more = {
        f"ASF-LoRA at most {MARGIN:g} points better, judged": at_most(MARGIN),
        "verdict at another margin": {f"{margin:g}": at_most(margin).verdict for margin in (MARGIN / 2, 2 * MARGIN)},
        "ASF-LoRA ahead": {", ".join(pair): -value for pair, value in pairs.items() if value < 0},
    }
    return by_the_rule(cases, name, answers, more)


@reported_claim(
    "6-over-backbones",
    where="beyond the paper: §6, of more than the backbones printed",
    says="On average over backbones, too, not these three alone, ALLoRA is more accurate than LoRA.",
    reading="The unit is the model, of which Tables 1, 3 and 4 have three each: their number is the paper's. Excluded "
    "is what lies below the 90 % interval of Student's t, which takes models' gaps as normal.",
    depends_on=("6-better-than-lora",),
)
def over_backbones(cases: Cases) -> Finding:
    """Every contrast with the model as the unit: what no gaps of three models could have decided."""
    models = {name: list(contrasts.of(name).by_part((0,)).values()) for name in BY_NAME}
    tested = cases.test(models, lambda samples: judge_family({0: samples["ALLoRA − LoRA"]})[0].verdict)
    one = judge_family({0: models["ALLoRA − LoRA"]})[0]
    p_values = {name: judge_family({0: values})[0].p_value for name, values in models.items()}
    n, least, by_t = units_wanted([one], "models"), one.smallest_p_value, one_sided(models["ALLoRA − LoRA"], "t")
    rule = f"{ALONE.partition(';')[0]}, the model as the cluster"
    return tested.finding(
        undecided=f"Undecided: signs of three models cannot tell (p at least {least:g}); over {behind(by_t)} points "
        "behind excluded if normal.",
        evidence=Evidence({"mean gap": "above 0"}, {"by model": models, "p_values": p_values}, rule, n=one.n),
        size=Size(one.mean, "percentage points", "the mean gap ALLoRA − LoRA over models", *by_t.interval),
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
