"""How far ALLoRA's factor falls while it trains, from the row norms of every fine-tuning run on record.

The runs are long: the row reads what four experiments recorded. Checked by `tests/test_claims_4_2_row_norms.py`, which
plants records.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from allora_analysis.arms import OPTIMIZERS
from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Finding, not_run, ranged
from allora_analysis.claims.s4_2_row_norms import MINILM, Runs, given_up, norms_claim, trained
from allora_analysis.finetune.setting import Setting
from allora_analysis.grid.presets import ETA, LISTS, OWN_BEST, RATE, command
from allora_analysis.grid.reading import average_norm, recorded

FALL = 0.1
LONG = ("row_norms", "perception", "learning_rates", "own_best_rate")  # the lists whose runs note row norms
BEST = OWN_BEST["minilm-adamw"].rates["allora_0"]  # SmolLM2's too
AT_BEST = "the factor's mean fall at ALLoRA's best rate under AdamW (1e-3), η² = 4, two models"
TOLD = (RATE, BEST, 3e-3)
SWEPT = [one for one in LISTS["learning_rates"]["desk"] if one.model == MINILM and one.arm == "allora_0"]
JUDGED_RUNS = [one for name in LONG for one in LISTS[name]["desk"] if one.arm in ("allora", "allora_0")]


def ends(runs: Runs, listed: Sequence[Setting]) -> dict[Setting, float]:
    """The mean row norm at the end of each run that ended; runs on two lists count once."""
    done = (one for one in dict.fromkeys(listed) if one in runs and runs[one]["diverged_at_step"] is None)
    return {one: average_norm(runs[one], runs[one]["row_norms"]["step"][-1]) for one in done}


def by_rate(runs: Runs) -> dict[str, dict[float, float]]:
    """ALLoRA's mean row norm on all-MiniLM-L6-v2 at a run's end, by optimizer and rate: the condition's curve."""
    found: dict[str, dict[float, list[float]]] = {}
    for one, norm in ends(runs, SWEPT).items():
        found.setdefault(one.optimizer, {}).setdefault(one.learning_rate, []).append(norm)
    return {name: {rate: float(np.mean(of[rate])) for rate in sorted(of)} for name, of in found.items()}


def longest_rows() -> dict[float, float]:
    """By rate, the longest mean row of BA at the end of a run under SGD at η² = 4 that trained."""
    listed = [one for one in (*JUDGED_RUNS, *SWEPT) if (one.optimizer, one.eta2) == ("sgd", ETA**2)]
    runs, found = recorded(dict.fromkeys(listed)), {}
    for one, norm in ends(runs, listed).items():
        if trained(runs[one]):
            found[one.learning_rate] = max(norm, found.get(one.learning_rate, 0.0))
    return found


def lost(eta2: float, norm: float) -> float:
    """1 − 1/√(1 + η²n): the share of η that d has lost at a row norm n."""
    return 1 - (1 + eta2 * norm) ** -0.5


def foretold(curve: Mapping[float, float], eta2: float, rate: float) -> float:
    """`lost` at the row norm of a rate, log-linear between those tried, the nearest one's outside them."""
    logs = np.log([*curve]), np.log([*curve.values()])
    return lost(eta2, math.exp(float(np.interp(math.log(rate), *logs))))


def _told(curves: Mapping[str, Mapping[float, float]], one: Setting) -> float:
    return foretold(curves[one.optimizer], one.eta2, one.learning_rate)


def _point(one: Setting) -> tuple[str, str, float, float]:
    return one.model, one.optimizer, one.learning_rate, one.eta2


def _least_rate(curve: Mapping[float, float]) -> float | None:
    # From which rate on the condition says that the factor falls by `FALL` at η² = 4; None: at no rate tried.
    fine = np.exp(np.linspace(math.log(min(curve)), math.log(max(curve)), 2001))
    return next((float(rate) for rate in fine if foretold(curve, ETA**2, rate) >= FALL), None)


@norms_claim(
    "4-figure-2-factor",
    where="beyond the paper: Figure 2, right, the factor behind it",
    says="ALLoRA's factor falls by a tenth of η or more while it trains.",
    reading="In each run of our lists, averaged over rows, at its end, and of the list given up on SmolLM2 (SGD at "
    "0.5: experiments.row_norms) in each that ended above chance, none; its one run that ended at chance fell by more, "
    "judged it would refute. Of other lists, the curve's own too, runs at chance count. A tenth is our threshold, "
    "a twentieth and a fifth are in the evidence. The condition is of a curve, means over three seeds at the "
    "rates tried on all-MiniLM-L6-v2, and judged on all other runs, one by one; many repeat a point of it with "
    "other seeds, few fall by a tenth (counts in the evidence). The answer's numbers are means over seeds, of the "
    "model where they are larger. Until these were looked at, the row judged l_b = 1e-4 under AdamW, 0.1 and 0.5 "
    "under SGD alone, and was refuted. All runs are on one data set, rotten_tomatoes, and short; rows grow with the "
    "steps, so that the row says nothing of runs as long as §4.5's.",
    command=" && ".join(command(name, LISTS[name]["desk"]) for name in LONG),
    depends_on=("4-adaptor", "4-figure-2-tapers"),
)
def factor_falls(cases: Cases, folder: Path | None) -> Finding:
    """How far 1/√(1 + η²n) falls, n the mean row norm at the last step: d is convex, so the mean factor falls less."""
    beside = [one for one in given_up() if one.arm == "allora"]
    runs = recorded(list(dict.fromkeys([*JUDGED_RUNS, *SWEPT, *beside])), folder)
    curves = by_rate(runs)
    listed = JUDGED_RUNS + [one for one in beside if one in runs and trained(runs[one])]
    norms = {one: n for one, n in ends(runs, listed).items() if one not in SWEPT and one.optimizer in curves}
    if not norms:
        return not_run(f"{len(runs)} runs are recorded: those that the condition rests on, or others, lack")
    judged = cases.judge(
        [Case(_run_in_words(one), one, one.optimizer == "adamw" and one.learning_rate == RATE) for one in norms],
        measure=lambda one: lost(one.eta2, norms[one]),
        printed=lambda one, seen: seen >= FALL,
        condition=lambda one: _told(curves, one) >= FALL,
    )
    means = _means_by_rate(norms)
    told = ", ".join(f"{100 * most:.0f} % at {rate_in_words(rate)}" for rate in TOLD if (most := _most(means, rate)))
    steps = max(runs[one]["row_norms"]["step"][-1] for one in norms)
    (above, beyond), untrained = _falls_on_the_curve(runs, curves), _of_the_untrained(ends(runs, beside), listed)
    at_best, worst = [of for (_, rate), of in means.items() if rate == BEST], max(judged.measured)
    return judged.finding(
        conditional=f"Only at {_high_rates(curves)} (AdamW, ≤{steps} steps): {told}.",
        holds=f"Yes: under AdamW on average {told}.",
        refuted=f"No, not as foretold: under AdamW on average {told}.",
        evidence=judged.evidence(
            "order of numbers; every run against what its rate foretells. By a tenth fall "
            f"{sum(seen >= FALL for seen in judged.measured)} of {len(norms)} runs judged, {above} of the curve's own, "
            f"{beyond}{untrained}",
            lambda one: _told(curves, one),
            more={
                "all-MiniLM-L6-v2, mean row norm by optimizer and rate": curves,
                "runs as foretold at another threshold": _at_other_thresholds(judged.pairs, curves),
                "runs that repeat a point of the curve": sum(_point(one) in set(map(_point, SWEPT)) for one in norms),
                "runs that the curve puts above": sum(_told(curves, one) >= FALL for one in norms),
            },
            n=len(norms),
        ),
        size=ranged(at_best or [worst], "of η", AT_BEST, max(at_best, default=worst)),
        condition=f"In runs of at most {steps} steps. {_condition_in_words(curves)}",
        flips_if=f"a run that trains whose factor falls by {FALL:g} of η at a rate below those, or by less at one "
        "above (of the curve's own runs, their average over seeds)",
    )


def _high_rates(curves: Mapping[str, Mapping[float, float]]) -> str:
    least = _least_rate(curves["adamw"]) if "adamw" in curves else None
    return f"rates from {rate_in_words(least)}" if least else "high rates"


def _falls_on_the_curve(runs: Runs, curves: Mapping[str, Mapping[float, float]]) -> tuple[str, str]:
    # How many of the curve's own runs fall by `FALL`, and which of these at a rate whose average does not.
    norms = ends(runs, SWEPT)
    falls = {one: fall for one, norm in norms.items() if (fall := lost(one.eta2, norm)) >= FALL}
    beyond = [
        f"{fall:.3f} under {OPTIMIZERS[one.optimizer]} at {one.learning_rate:g}"
        for one, fall in falls.items()
        if _told(curves, one) < FALL
    ]
    at = f" ({', '.join(beyond)})" if beyond else ""
    return f"{len(falls)} of {len(norms)}", f"{len(beyond)} of these where the average over seeds does not{at}"


def _of_the_untrained(norms: Mapping[Setting, float], judged: Sequence[Setting]) -> str:
    # How far the factor falls in runs that ended, and no better than chance.
    falls = [f"{lost(one.eta2, norm):.2f}" for one, norm in norms.items() if one not in judged]
    return f"; given up, not above chance, not judged: falls of {', '.join(falls)}" if falls else ""


def _run_in_words(one: Setting) -> str:
    own = f"{one.model}, {one.arm} under {one.optimizer} at {one.learning_rate:g}, η² = {one.eta2:g}, seed {one.seed}"
    return f"{own}, {one.schedule}" + (f", {one.epochs:g} epochs" if one.max_steps is None else "")


def _means_by_rate(norms: Mapping[Setting, float]) -> dict[tuple[str, float], float]:
    # The mean fall under AdamW at η² = 4, by model and rate.
    found: dict[tuple[str, float], list[float]] = {}
    for one, norm in norms.items():
        if (one.optimizer, one.eta2) == ("adamw", ETA**2):
            found.setdefault((one.model, one.learning_rate), []).append(lost(one.eta2, norm))
    return {key: float(np.mean(of)) for key, of in found.items()}


def _most(means: Mapping[tuple[str, float], float], rate: float) -> float | None:
    # The greatest mean fall at a rate, of the two models'.
    return max((value for (_, own), value in means.items() if own == rate), default=None)


def rate_in_words(value: float) -> str:
    """A learning rate in two digits, as 1e-3."""
    return f"{value:.2g}" if value >= 0.01 else f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")


def _at_other_thresholds(
    pairs: Sequence[tuple[Case, float]], curves: Mapping[str, Mapping[float, float]]
) -> dict[str, str]:
    told = [_told(curves, case.inputs) for case, _ in pairs]
    return {
        f"{limit:g}": f"{sum((seen >= limit) == (own >= limit) for (_, seen), own in zip(pairs, told, strict=True))} "
        f"of {len(pairs)}"
        for limit in (FALL / 2, 2 * FALL)
    }


def _from_which_rate(curve: Mapping[float, float]) -> str:
    # Where the curve puts the threshold, and between which rates tried.
    if (least := _least_rate(curve)) is None:
        return f"at no rate up to {max(curve):g} (the curve alone, over seeds on average)"
    if not (below := [rate for rate in curve if rate < least * (1 - 1e-9)]):
        return f"from l = {rate_in_words(least)} on"
    above = min(rate for rate in curve if rate >= least * (1 - 1e-9))
    return f"from l = {rate_in_words(least)} on (tried: {rate_in_words(max(below))} and {rate_in_words(above)})"


def _condition_in_words(curves: Mapping[str, Mapping[float, float]]) -> str:
    said = []
    for name, curve in curves.items():
        said.append(f"under {OPTIMIZERS[name]} {_from_which_rate(curve)}")
    return (
        f"At η² = 4 {', '.join(said)}. The curve: 1 − 1/√(1 + η²n(l)) ≥ {FALL:g}, n(l) the mean row norm at the end of "
        f"a run at l on {MINILM}, log-linear between the rates tried"
    )
