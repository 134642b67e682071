"""§3.1 on a language model's features: dropout in LoRA's A and B under softmax, in batches, by SGD and AdamW.

Judged on what `python -m experiments.dropout_features` recorded, by the rules that it states. Checked by
`tests/test_claims_3_1_on_features.py`, which plants other losses.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np

from allora_analysis.claims import features
from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, not_run, units_wanted
from allora_analysis.claims.features import TRIALS
from allora_analysis.claims.s3_1_few_steps import AS_GOOD, FLAW
from allora_analysis.claims.s3_1_in_factors import NOT_A_MUST, shown, stopped
from allora_analysis.statistics import judge_family, one_sided

COMMAND = "python -m experiments.dropout_features --model FOLDER --data FOLDER"
features_claim = functools.partial(
    claim, command=COMMAND, test="tests/test_claims_3_1_on_features.py", reads=features.STUDY
)
TRIAL = TRIALS[0]
SETTING = (
    f"Softmax on {TRIAL.model}'s mean-pooled features of {TRIAL.data}, A and B of rank {TRIAL.rank}, B = 0, masks on "
    f"the features; {TRIAL.times[-1]} steps of {TRIAL.batch_size} of 100 or of all 8,530 sentences, SGD and AdamW"
)
NOTHING = f"nothing is recorded; {COMMAND} records it"
TEST = f"Student's t over {TRIAL.seeds} seeds, one-sided at 0.05, Holm over the cases; experiments.dropout_features"
DROPPED = range(1, 1 + len(TRIAL.drop_rates))
DECAYED = range(1 + len(TRIAL.drop_rates), len(TRIAL.arms))


@features_claim(
    "3.1-not-a-must-have-minilm",
    where="§6",
    says=NOT_A_MUST,
    reading=f"{SETTING}. Each arm at its own best rate: early stopping or weight decay, chosen on validation "
    f"sentences, reach a test loss at most {100 * (AS_GOOD - 1):.0f} % above that of drop rate 0.05. Written before "
    "any outcome.",
    depends_on=("3.1-not-a-must-have-softmax",),
)
def on_features(cases: Cases, folder: Path | None = None) -> Finding:
    """Log ratios of test losses by seed."""
    if not (known := features.recorded(folder)):
        return not_run(NOTHING)
    best = {
        words: {
            "none": stopped(one["own_rate"], [0]),
            "drop rate 0.05": stopped(one["own_rate"], [1]),
            "dropout": stopped(one["own_rate"], list(DROPPED)),
            "stopping or decay": stopped(one["own_rate"], [0, *DECAYED]),
        }
        for words, one in known.items()
    }
    lead = {words: np.log(one["stopping or decay"] / one["drop rate 0.05"]) for words, one in best.items()}
    tested = cases.test({words: math.log(AS_GOOD) - values for words, values in lead.items()}, shown)
    most = {words: 100 * np.log(one["stopping or decay"] / one["dropout"]) for words, one in best.items()}
    worst = max(most, key=lambda words: most[words].mean())
    size = one_sided(most[worst], "t")
    furthest = 100 * max(float(values.mean()) for values in lead.values())
    return tested.finding(
        holds=f"Yes: drop rate 0.05 is at most {max(furthest, 0):.2f} % ahead, the best drop rate "
        f"{max(size.mean, 0):.2f} %.",
        evidence=Evidence(
            {"other arms over drop rate 0.05": f"at most {AS_GOOD}"},
            {words: {arm: float(values.mean()) for arm, values in one.items()} for words, one in best.items()},
            TEST,
            n=TRIAL.seeds,
        ),
        size=Size(size.mean, "% of test loss", f"lead of the best drop rate over both, {worst}", *size.interval),
        wanted="would be decided by more seeds",
        flips_if=f"drop rate 0.05 more than {100 * (AS_GOOD - 1):.0f} % ahead of both in one case",
    )


def pays_from(ratios: np.ndarray) -> int | None:
    """The first of the times from which on the mean log ratio (seeds × times) stays below 0; None if it never does."""
    means = ratios.mean(axis=0)
    from_here = [time for index, time in enumerate(TRIAL.times) if (means[index:] < 0).all()]
    return from_here[0] if from_here else None


@features_claim(
    "3.1-few-steps-minilm",
    where="§1, first flaw",
    says=FLAW,
    reading=f"{SETTING}, at the rate that is best after all steps without dropout: after {TRIAL.times[1]} steps every "
    "drop rate has a higher test loss than none. Written before any outcome; for 100 sentences that rate "
    "turned out so low that as many steps hardly move the loss, with dropout or without.",
    depends_on=("3.1-few-steps-softmax",),
)
def few_steps_on_features(cases: Cases, folder: Path | None = None) -> Finding:
    """Log ratios of test losses by seed after few steps, and after all as the size."""
    if not (known := features.recorded(folder)):
        return not_run(NOTHING)
    ratios = {
        f"{words}, drop rate {TRIAL.drop_rates[arm - 1]}": np.log(one["one_rate"][..., arm] / one["one_rate"][..., 0])
        for words, one in known.items()
        for arm in DROPPED
    }
    early = {name: of[:, 1] for name, of in ratios.items()}
    tested, found = cases.test(early, shown), judge_family(early, test="t")
    clear = [name for name, one in found.items() if one.verdict == "holds"]
    costs = {name: 100 * float(of[:, 1].mean()) for name, of in ratios.items()}
    last = [100 * float(of[:, -1].mean()) for of in ratios.values()]
    most = max(found.values(), key=lambda one: one.needed or 0)
    least = max((abs(value) for name, value in costs.items() if name not in clear), default=0.0)
    steepest = max(costs, key=costs.__getitem__)
    size = one_sided(100 * ratios[steepest][:, 1], "t")
    return tested.finding(
        holds=f"Yes: after {TRIAL.times[1]} steps dropout costs {min(costs.values()):.2f} to "
        f"{max(costs.values()):.1f} % of test loss; after {TRIAL.times[-1]} {min(last):+.1f} to "
        f"{max(last):+.1f} %.",
        undecided=f"Undecided: shown in {len(clear)} of {len(costs)} cases; in the others dropout moves the "
        f"loss by at most {least:.2f} %.",
        evidence=Evidence(
            {"log ratio of test losses, dropout over none": f"above 0 after {TRIAL.times[1]} steps"},
            {"shown to cost": clear, "pays from step": {name: pays_from(of) for name, of in ratios.items()}}
            | {"% after each time": {name: (100 * of.mean(axis=0)).tolist() for name, of in ratios.items()}}
            | {"times": TRIAL.times},
            TEST,
            n=TRIAL.seeds,
        ),
        size=Size(size.mean, "% of test loss", f"cost after {TRIAL.times[1]} steps, {steepest}", *size.interval),
        corrected=f"would be decided by {units_wanted([most], 'seeds')} in the case that needs most"
        if tested.verdict == "undecided"
        else None,
        flips_if="a drop rate whose test loss is shown not to be above that of none after few steps",
    )
