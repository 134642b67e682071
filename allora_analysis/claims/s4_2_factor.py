"""How far ALLoRA's factor falls while it trains, from the row norms of every fine-tuning run on record.

The runs are long: the row reads what four experiments recorded. Checked by `tests/test_claims_4_2_row_norms.py`, which
plants records.
"""

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


@norms_claim(
    "4-figure-2-factor",
    where="beyond the paper: Figure 2, right, the factor behind it",
    says="ALLoRA's factor falls by a tenth of η or more while it trains.",
    reading="In each run of our lists, averaged over rows, at its end; runs that ended at chance count, too, and those "
    "of the list given up on SmolLM2 (SGD at 0.5: experiments.row_norms). A tenth is our threshold; how many runs fall "
    "by a twentieth or a fifth is in the evidence. The answer's numbers are means over seeds at η² = 4, of the model "
    "where they are larger. All runs are on one data set, rotten_tomatoes, and short; rows grow with the "
    "steps, so that the row says nothing of runs as long as §4.5's.",
    command=" && ".join(command(name, LISTS[name]["desk"]) for name in LONG),
    depends_on=("4-adaptor", "4-figure-2-tapers"),
)
def factor_falls(cases: Cases, folder: Path | None) -> Finding:
    """How far 1/√(1 + η²n) falls, n the mean row norm at the last step: d is convex, so the mean factor falls less."""
    listed = [*JUDGED_RUNS, *SWEPT, *(one for one in given_up() if one.arm == "allora")]
    runs = recorded(list(dict.fromkeys(listed)), folder)
    norms = ends(runs, listed)
    if not any(map(_at_the_papers, norms)):
        return not_run(f"{len(runs)} runs are recorded, none of them at the paper's rate")
    judged = cases.judge(
        [Case(_run_in_words(one), one, _at_the_papers(one)) for one in norms],
        measure=lambda one: lost(one.eta2, norms[one]),
        printed=lambda one, seen: seen >= FALL,
    )
    means = _means_by_setting(norms)
    told = ", ".join(f"{100 * most:.0f} % at {rate_in_words(rate)}" for rate in TOLD if (most := _most(means, rate)))
    steps = max(runs[one]["row_norms"]["step"][-1] for one in norms)
    at_best, most = [of for (_, *at), of in means.items() if at == ["adamw", BEST]], max(judged.measured)
    return judged.finding(
        holds=f"Yes: under AdamW on average {told}.",
        refuted=f"No: under AdamW on average {told} (≤{steps} steps).",
        evidence=judged.evidence(
            f"order of numbers; by a tenth fall {sum(seen >= FALL for seen in judged.measured)} of {len(norms)} runs, "
            f"{sum(seen >= FALL for case, seen in judged.pairs if case.paper)} of "
            f"{sum(case.paper for case, _ in judged.pairs)} at l_b = {rate_in_words(RATE)} under AdamW",
            more={
                "mean fall by model, optimizer and rate, η² = 4": {
                    f"{model}, {OPTIMIZERS[name]} at {rate_in_words(rate)}": value
                    for (model, name, rate), value in sorted(means.items())
                },
                "runs that fall by more than": {
                    f"{limit:g}": sum(seen >= limit for seen in judged.measured) for limit in (FALL / 2, 2 * FALL)
                },
            },
            n=len(norms),
        ),
        size=ranged(at_best or [most], "of η", AT_BEST, max(at_best, default=most)),
        flips_if=f"a factor that falls by {FALL:g} of η in every run, those at l_b = {rate_in_words(RATE)} too",
    )


def _at_the_papers(one: Setting) -> bool:
    return one.optimizer == "adamw" and one.learning_rate == RATE


def _run_in_words(one: Setting) -> str:
    own = f"{one.model}, {one.arm} under {one.optimizer} at {one.learning_rate:g}, η² = {one.eta2:g}, seed {one.seed}"
    return f"{own}, {one.schedule}" + (f", {one.epochs:g} epochs" if one.max_steps is None else "")


def _means_by_setting(norms: Mapping[Setting, float]) -> dict[tuple[str, str, float], float]:
    # The mean fall at η² = 4, by model, optimizer and rate.
    found: dict[tuple[str, str, float], list[float]] = {}
    for one, norm in norms.items():
        if one.eta2 == ETA**2:
            found.setdefault((one.model, one.optimizer, one.learning_rate), []).append(lost(one.eta2, norm))
    return {key: float(np.mean(of)) for key, of in found.items()}


def _most(means: Mapping[tuple[str, str, float], float], rate: float) -> float | None:
    # The greatest mean fall under AdamW at a rate, of the two models'.
    return max((value for (_, *at), value in means.items() if at == ["adamw", rate]), default=None)


def rate_in_words(value: float) -> str:
    """A learning rate in two digits, as 1e-3."""
    return f"{value:.2g}" if value >= 0.01 else f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
