"""Paired contrasts between arms over the reported cells, the questions that they answer, and what the cells say.

A cell is one (model, data set, η²) of Tables 3 and 4 or one (model, rank, task) of Table 1. Cells are not independent:
the three η² of one (model, data set) share the model and the test set, and Table 1's eight tasks are answered by one
fine-tuned model. The unit is therefore the cluster, a (model, data set) or a (model, rank), with the mean of its cells.

The ledger's verdicts follow the rule of `statistics.directional`, a question of `QUESTIONS` a family (`judged`).
Checked by `tests/test_claims_tables_contrasts.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.claims.cases import Case, Cases, Judged
from allora_analysis.claims.claim import Evidence, Finding, Size, ranged, units_wanted
from allora_analysis.claims.tables.reported import TABLE_1, TABLES, TASKS, Cell, by_key, exact, with_exchanged
from allora_analysis.statistics import Decision, Judgement, decide, in_every, judge_family, sides
from allora_analysis.study import bound, signed
from allora_analysis.validation import ArgumentError

Label = tuple[str, ...]
MARGIN = 0.25
"""Percentage points: arms that differ by less are called equal. Less than ALLoRA's lead over LoRA in Table 3, 0.27."""
PRINTED_BY = 0.1
"""Points by which a cluster's average over the table's cells may differ from the one that the paper prints."""
NOT_PRINTED = f"a pair's or setting's average more than {PRINTED_BY:g} from the one printed"
OTHER_AVERAGE = "an average more than 0.1 from that of the averages printed"
BY_PRINT = f"each pair's or setting's average must be within {PRINTED_BY:g} of the one printed"


RULE = (
    "exact sign flips of cluster means, one-sided at 0.05, Holm within the question; interval: the means that neither "
    "one-sided test rejects, 90 %"
)
AS_FIGURE_3 = "with two accuracies exchanged, as Figure 3 has them, in the one place where Table 3 and it disagree"
ALONE = RULE.replace("Holm within the question", "each comparison alone")


@dataclass(frozen=True)
class Contrast:
    """Two arms of one table; a positive gap says that `better`, the arm that the paper says is better, is."""

    name: str
    table: str
    better: str
    worse: str


CONTRASTS = tuple(
    Contrast(f"{better} − {worse}", table, better, worse)
    for table, better, worse in (
        ("Table 3", "ALLoRA", "LoRA"),
        ("Table 3", "ALLoRA-0", "LoRA"),
        ("Table 1", "ALLoRA", "DoRA"),
        ("Table 1", "ALLoRA-0", "DoRA"),
        ("Table 4", "ALLoRA", "ALLoRA-OD"),
        ("Table 4", "ALLoRA", "ASF-LoRA"),
        ("Table 4", "ALLoRA", "LoRA×η"),
        ("Table 4", "LoRA×η", "ASF-LoRA"),
        ("Table 4", "ALLoRA-OD", "ASF-LoRA"),
    )
)
EQUAL = Contrast("ALLoRA-0 − ALLoRA", "Table 3", "ALLoRA-0", "ALLoRA")
"""The contrast of which the paper says that there is no evident difference."""
BY_NAME = {contrast.name: contrast for contrast in (*CONTRASTS, EQUAL)}
UNITS = {"Table 1": "settings of model and rank"}
UNITS |= dict.fromkeys(("Table 3", "Table 4"), "pairs of model and data set")
"""What the clusters of a table's contrasts are, in words."""
QUESTIONS = {
    "Table 1: is ALLoRA better than DoRA?": ("ALLoRA − DoRA", "ALLoRA-0 − DoRA"),
    "Table 3: is ALLoRA better than LoRA, with dropout and without?": (
        "ALLoRA-0 − ALLoRA",
        "ALLoRA − LoRA",
        "ALLoRA-0 − LoRA",
    ),
    "Table 4: is ALLoRA better than the rest of the family?": (
        "ALLoRA − ALLoRA-OD",
        "ALLoRA − ASF-LoRA",
        "ALLoRA − LoRA×η",
    ),
    "Table 4: is ASF-LoRA worse than the others?": ("LoRA×η − ASF-LoRA", "ALLoRA-OD − ASF-LoRA"),
}


@dataclass(frozen=True)
class Gaps:
    """A contrast's gaps, better − worse in percentage points, one a cell, with labels."""

    values: Float[np.ndarray, " cells"]
    labels: tuple[Label, ...]  # each cell's: (model, data set, η²) or (model, rank, task)
    clusters: tuple[Label, ...]  # each cell's: (model, data set) or (model, rank)

    def by_cluster(self) -> dict[Label, float]:
        """The mean gap of each cluster, in order of appearance."""
        return _averages(self.values, self.clusters)

    def by_part(self, parts: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
        """The mean gap by each part of the labels: by model, by data set and by η²; by model, by rank and by task."""
        found: dict[str, float] = {}
        for part in parts:
            found |= _averages(self.values, [label[part] for label in self.labels])
        return found

    def averages(self, parts: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
        """The mean gap by each part of the labels and by each cluster."""
        return self.by_part(parts) | {", ".join(pair): value for pair, value in self.by_cluster().items()}


def _averages(values: Iterable[float], labels: Sequence) -> dict:
    groups: dict = {}
    for value, label in zip(values, labels, strict=True):
        groups.setdefault(label, []).append(float(value))
    return {label: float(np.mean(group)) for label, group in groups.items()}


def gap(better: float, worse: float) -> float:
    """Better − worse of two printed numbers, exact before the last conversion."""
    return float(exact(better) - exact(worse))


def gaps(table: str, better: str, worse: str, cells: Sequence[Cell] | None = None) -> Gaps:
    """The gaps between two arms of a table; of Tables 3 and 4 also in other `cells` than those printed."""
    accuracies = _accuracies(table, cells)
    arms = dict.fromkeys(arm for *_, arm in accuracies)
    for name, arm in (("better", better), ("worse", worse)):
        if arm not in arms:
            raise ArgumentError(f"{name} must be one of {', '.join(arms)} in {table}; received {arm!r}")
    labels = tuple(key[:3] for key in accuracies if key[3] == better)
    values = np.array([gap(accuracies[(*label, better)], accuracies[(*label, worse)]) for label in labels])
    return Gaps(values, labels, tuple(label[:2] for label in labels))


def _accuracies(table: str, cells: Sequence[Cell] | None) -> dict[Label, float]:
    if table == "Table 1":
        return {
            (row.model, f"r = {row.rank}", task, row.arm): accuracy
            for row in TABLE_1
            for task, accuracy in zip(TASKS, row.accuracies, strict=True)
        }
    if table not in TABLES:
        raise ArgumentError(f"table must be one of Table 1, {', '.join(TABLES)}; received {table!r}")
    return {
        (m, d, f"η² = {eta:g}", arm): value
        for (m, d, eta, arm), value in by_key(TABLES[table] if cells is None else cells).items()
    }


def of(name: str, cells: Sequence[Cell] | None = None) -> Gaps:
    """The gaps of a contrast by its name."""
    contrast = BY_NAME[name]
    return gaps(contrast.table, contrast.better, contrast.worse, cells)


def family(name: str, cells: Sequence[Cell] | None = None) -> dict[str, Float[np.ndarray, " clusters"]]:
    """The cluster means of all contrasts of the question that a contrast belongs to."""
    (names,) = (names for names in QUESTIONS.values() if name in names)
    return {other: np.array(list(of(other, cells).by_cluster().values())) for other in names}


def judged(
    means: dict[str, ArrayLike], level: float = 0.05, power: float = 0.8, margin: float = MARGIN
) -> dict[str, Judgement]:
    """The contrasts of one question, judged by the rule of `statistics.directional` on their cluster means."""
    return judge_family(means, "sign flips", level, power, {EQUAL.name: margin} if EQUAL.name in means else None, 1e-9)


def split(means: Mapping[str, ArrayLike], margins: Mapping[str, float]) -> dict[str, Float[np.ndarray, " clusters"]]:
    """The samples that `cases.test` takes: a comparison's differences, or its distances to the two margins."""
    found = {}
    for name, values in means.items():
        named = sides(np.asarray(values), margins.get(name))
        found |= {name if len(named) == 1 else f"{name}, side {i}": side for i, side in enumerate(named, 1)}
    return found


def joined(samples: Mapping[str, Float[np.ndarray, " clusters"]]) -> dict[str, list[Float[np.ndarray, " clusters"]]]:
    """The sides of each comparison again, from what `split` made of them."""
    found: dict[str, list] = {}
    for name, values in samples.items():
        found.setdefault(name.partition(", side ")[0], []).append(values)
    return found


def p_values(one: Judgement) -> str:
    """The p-value, that by Holm, and the least that so many units could have given."""
    least = "" if one.smallest_p_value is None else f", least possible {one.smallest_p_value:.2g}"
    holm = f", Holm {one.adjusted_p_value:.2g} over {one.family}" if one.family > 1 else ""
    return f"p = {one.p_value:.2g}{holm}{least}"


def at_other_margins() -> dict[str, dict[str, str]]:
    """The verdict on `EQUAL` at half and at twice the margin."""
    means = family(EQUAL.name)
    found = {f"{margin:g}": judged(means, margin=margin)[EQUAL.name].verdict for margin in (MARGIN / 2, 2 * MARGIN)}
    return {"verdict at another margin": found}


def adjusted_p(name: str) -> float:
    """The p-value of a contrast's mean gap, within its question."""
    return judged(family(name))[name].adjusted_p_value


def chance(name: str, alone: bool = False) -> str:
    """Whether a contrast's mean gap may be chance, within its question or alone, in words."""
    p = judged({name: family(name)[name]})[name].p_value if alone else adjusted_p(name)
    return f"{'may be' if p > 0.05 else 'is more than'} chance (p = {p:.2g}{' alone' * alone})"


def told_by(verdict: str) -> bool | None:
    """Whether a sentence about the paper's own numbers is true there; None where they leave it open."""
    return {"holds": True, "refuted": False}.get(verdict)


def by_the_rule(
    cases: Cases,
    name: str,
    answers: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
    alone: Sequence[str] = (),
) -> Finding:
    """A sentence about one contrast, judged within its question.

    `answers` may hold {mean}, {interval}, {p}, {cells}, {clusters} and, of Table 3, {figure_3};
    `alone`: contrasts that must all hold, each judged by itself instead, without Holm's correction.
    """
    means, found = {each: family(each)[each] for each in alone} or family(name), of(name)

    def rule(samples: Mapping[str, np.ndarray]) -> str:
        those = joined(samples)
        if not alone:
            return decide(those, grain=1e-9)[name].verdict
        return in_every({each: decide({each: sides}, grain=1e-9)[each] for each, sides in those.items()})

    tested = cases.test(split(means, {EQUAL.name: MARGIN}), rule)
    one = judged({name: means[name]} if alone else means)[name]
    told = {
        "mean": signed(one.mean, 2),
        "interval": " and ".join(signed(bound(end, 2, bool(up)), 2) for up, end in enumerate(one.interval or ())),
        "p": f"{one.adjusted_p_value:.2g}",
        "cells": f"{int((found.values > 0).sum())} of {found.values.size}",
        "clusters": ahead(name),
        "figure_3": beside(name) if BY_NAME[name].table == "Table 3" else "",
    }
    measured = asdict(one) | {f"{kind} above 0": told[kind] for kind in ("cells", "clusters")} | dict(more or {})
    measured |= {"by model, by data set or rank, by setting": found.by_part()}
    units = UNITS[BY_NAME[name].table]
    needed = units_wanted([one], units) if one.needed else f"no number of {units}, at a mean or spread of 0"
    undecided, over_all = tested.verdict == "undecided", _over_all_questions()[name].adjusted_p_value
    measured["adjusted over all contrasts of all tables"] = over_all
    flips = f"means of {units} of which {'a p-value alone' if alone else 'the adjusted p-value'} is above 0.05"
    if over_all > 0.05:
        flips += f"; one family of all {len(BY_NAME)} contrasts instead of the question's (adjusted p = {over_all:.2g})"
    predicted = {"mean gap": "above 0" if one.margin is None else f"within ± {one.margin:g}"}
    rule = f"{ALONE if alone else RULE}; {p_values(one)}"
    return tested.finding(
        **{verdict: words.format(**told) for verdict, words in answers.items()},
        evidence=Evidence(predicted, measured, rule, tolerance=one.margin, interval=one.interval, n=one.n),
        size=Size(one.mean, "percentage points", f"the mean gap {name}", *(one.interval or (None, None))),
        wanted=needed,
        flips_if=needed if undecided else flips,
        at_paper=told_by(tested.verdict),
    )


def _over_all_questions() -> dict[str, Decision]:
    # What Holm over the contrasts of all questions at once would say: the strictest family, beside the question's own.
    means = {name: values for names in QUESTIONS.values() for name, values in family(names[0]).items()}
    return decide(joined(split(means, {EQUAL.name: MARGIN})), grain=1e-9)


def by_cell(names: tuple[str, ...], other: Sequence[Cell] | None = None) -> dict[str, float]:
    """Every gap of each contrast, by the cell's label."""
    found = {name: of(name, other) for name in names}
    return {
        f"{name}: {', '.join(label)}": float(value)
        for name, one in found.items()
        for label, value in zip(one.labels, one.values, strict=True)
    }


def by_average(names: tuple[str, ...], other: Sequence[Cell] | None = None, pairs: bool = True) -> dict[str, float]:
    """Each contrast's averages by model, by data set, by η², and with `pairs` by model and data set."""
    found = {name: gaps.averages() if pairs else gaps.by_part() for name in names for gaps in [of(name, other)]}
    return {f"{name}: {part}": value for name, parts in found.items() for part, value in parts.items()}


def above(values: Mapping[Any, float]) -> int:
    """How many are above 0."""
    return sum(value > 0 for value in values.values())


def ahead(name: str) -> str:
    """In how many clusters a contrast is ahead: "6 of 9"."""
    pairs = of(name).by_cluster()
    return f"{above(pairs)} of {len(pairs)}"


def beside(name: str) -> str:
    """In how many it is by Figure 3's numbers, " (Figure 3: 7)"; nothing where that is as many."""
    pairs, figure = of(name).by_cluster(), of(name, with_exchanged()).by_cluster()
    return f" (Figure 3: {above(figure)})" if above(figure) != above(pairs) else ""


def everywhere(
    cases: Cases,
    values: Mapping[str, float],
    answer: str,
    more: Mapping[str, Any] | None = None,
    mended: tuple[str, Mapping[str, float]] | None = None,
    yes: str = "Yes: in all {n}.",
    size: Size | None = None,
    at_paper: Callable[[bool], bool | str] = bool,
) -> Finding:
    """A sentence that claims every case, of printed gaps: one not above 0 refutes it; {k} of {n} in the answer.

    `mended`: a correction in words and its gaps, all of which must be above 0 for `holds_corrected`; `yes`: the answer
    where it holds; `size`: another than in how many cases it is true; `at_paper`: what follows if it is in all, or not.
    """
    words, others = mended or (None, {})

    def rule(samples: Mapping[str, np.ndarray]) -> str:
        if all(samples[name][0] > 0 for name in values):
            return "holds"
        return "holds_corrected" if others and all(samples[f"{words}: {name}"][0] > 0 for name in others) else "refuted"

    both = dict(values) | {f"{words}: {name}": value for name, value in others.items()}
    tested = cases.test({name: [value] for name, value in both.items()}, rule)
    passed, against = sum(value > 0 for value in values.values()), {n: v for n, v in values.items() if v <= 0}
    source = "order of printed numbers; whether it is more than chance: the rows that are tested"
    measured = {"above 0": passed, "not above 0": against} | dict(more or {})
    if mended:
        measured |= {words: dict(others)}
    words_of = answer.format(k=passed, n=len(values))
    return tested.finding(
        refuted=words_of.replace("Mostly:", "No:", 1),
        holds_corrected=words_of,
        holds=yes.format(n=len(values)),
        evidence=Evidence({"above 0": len(values)}, measured, source, n=len(values)),
        size=size or Size(float(passed), f"of {len(values)} gaps or means", "above 0, as printed"),
        flips_if=_flips(tested.verdict, len(values), words),
        corrected=words if tested.verdict == "holds_corrected" else None,
        at_paper="mixed" if tested.verdict == "holds_corrected" else at_paper(passed == len(values)),
    )


def _flips(verdict: str, n: int, words: str | None) -> str:
    # What would change the verdict of `everywhere`.
    if verdict == "holds":
        return f"one of these {n} gaps or means not above 0"
    every = f"all {n} above 0"
    if verdict == "holds_corrected":
        return f"{every} as printed, or one not above 0 {words}, too"
    return f"{every}, as printed or {words}" if words else every


def against_print(
    cases: Cases,
    names: Sequence[str],
    printed: Callable[[str], Mapping[str, float]],
    passes: Callable[[Mapping[str, float]], bool],
    paper: bool = False,
) -> Judged:
    """Whether contrasts' averages ("mean", by part, by cluster) pass, each cluster's within `PRINTED_BY` of print."""

    def measured(one: tuple[str, Mapping[str, float]]) -> dict[str, float]:
        found = of(one[0])
        return {"mean": float(found.values.mean())} | found.averages()

    return cases.judge(
        [Case(name, (name, printed(name)), paper) for name in names],
        measure=measured,
        printed=lambda one, seen: passes(seen) and not _apart(one[1], seen),
    )


def _apart(printed: Mapping[str, float], seen: Mapping[str, float]) -> list[str]:
    # The clusters whose average is not the one printed.
    return [cluster for cluster, value in printed.items() if abs(seen[cluster] - value) > PRINTED_BY + 1e-9]


def refusal(judged: Judged, otherwise: str) -> str:
    """The answer of a sentence that `against_print` refutes: the averages are not those printed, or `otherwise`."""
    apart = [cluster for case, seen in judged.pairs for cluster in _apart(case.inputs[1], seen)]
    return f"No: the average printed for {apart[0]} is not the table's." if apart else otherwise


def ahead_on_average(
    cases: Cases, name: str, printed: Callable[[str], Mapping[str, float]], yes: str, more: Mapping[str, Any]
) -> Finding:
    """A sentence that one arm is better, by the mean of Table 3's cells; `yes` may hold {mean}, {clusters}, {figure_3},
    {chance}, {p}.

    Whether the mean is more than chance stands in the answer and decides nothing: that is a row of ours.
    """
    judged = against_print(cases, (name,), printed, lambda seen: seen["mean"] > 0, paper=True)
    mean = judged.measured[0]["mean"]
    told = {"mean": signed(mean, 2), "clusters": ahead(name), "chance": chance(name).removeprefix("is ")}
    told |= {"figure_3": beside(name), "p": f"{adjusted_p(name):.2g}"}
    return judged.finding(
        holds=yes.format(**told),
        refuted=refusal(judged, f"No: {signed(mean, 2)} points on average, better in {ahead(name)} pairs."),
        evidence=judged.evidence(
            f"sign of the mean; clusters as printed, within {PRINTED_BY:g}", lambda one: one[1], more=more
        ),
        size=ranged(of(name).by_cluster().values(), "percentage points", f"the mean gap {name}; range: pairs", mean),
        flips_if=f"a mean over all cells not above 0, or {NOT_PRINTED}",
    )


def average_is(
    cases: Cases, stated: float, names: Sequence[str], printed: Callable[[str], Mapping[str, float]]
) -> Finding:
    """Whether mean gaps over all cells round to the one decimal stated; `printed`: the same cluster by cluster."""
    judged = against_print(cases, names, printed, lambda seen: abs(seen["mean"] - stated) <= 0.05 + 1e-9)
    means = [seen["mean"] for seen in judged.measured]
    between = " and ".join(f"{value:.2f}" for value in means)
    return judged.finding(
        holds=f"Yes: {between} points on average over the cells of the table.",
        refuted=refusal(judged, f"No: {between} points on average over the cells of the table."),
        evidence=judged.evidence("rounding to the one decimal stated", lambda one: one[1], tolerance=0.05),
        size=Size(float(np.mean(means)), "percentage points", "the mean gap over the cells"),
        flips_if=f"a mean gap outside {stated:g} ± 0.05, or {NOT_PRINTED}",
    )


def over_dora(cases: Cases, arm: str, found: Mapping[str, float]) -> Judged:
    """An arm's average gaps to DoRA, by model, rank or both: above 0, and the gap of the printed averages."""
    rows = {(row.model, f"r = {row.rank}", row.arm): row.average for row in TABLE_1}

    def printed(part: str) -> float:
        pairs = dict.fromkeys(key[:2] for key in rows if part in (*key[:2], ", ".join(key[:2])))
        return float(np.mean([gap(rows[*pair, arm], rows[*pair, "DoRA"]) for pair in pairs]))

    return cases.judge(
        [Case(part, (part, printed(part)), True) for part in found],
        measure=lambda one: found[one[0]],
        printed=lambda one, seen: abs(seen - one[1]) <= PRINTED_BY + 1e-9 and seen > 0,
    )
