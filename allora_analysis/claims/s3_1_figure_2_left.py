"""Figure 2, left, on a language model that fits a desk: LoRA's dropout after short and after long training.

The runs are long: the rows read what `python -m experiments.dropout_early` and `experiments.dropout_alone` recorded
and, beside it, `experiments.dropout_rates`, which state arms, tests and stopping rules, and are `not_run` without a
record: the first by Student's t with a margin, the second by the rule of `statistics.directional`, one-sided, Holm over
four cases. Checked by `tests/test_claims_3_1_figure_2_left.py`, which plants records.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.claim import Evidence, Finding, Size, claim, furthest, not_run, run_diverged, units_wanted
from allora_analysis.finetune.setting import STUDY
from allora_analysis.grid.presets import ALONE, ALONE_EPOCHS, ALONE_SEEDS, AT_INPUT, DROP_RATES, LISTS, command
from allora_analysis.grid.reading import (
    ENDPOINTS,
    LEVEL,
    RULE,
    Pairs,
    Runs,
    after_epoch,
    differences,
    diverged,
    found,
    judged,
    recorded,
)
from allora_analysis.records import Record
from allora_analysis.statistics import Judgement, holm, in_every, one_sided, within
from allora_analysis.study import bound, signed

EARLY, LATE = 3, 8  # epochs of the runs by accuracy; the paper has 3 and 10
HIGH = max(DROP_RATES)
ACCURACY = "test_accuracy"
PERMUTATIONS, SEED = 9999, 0
DIRECTIONS = {1: 1, ALONE_EPOCHS: -1}
"""By epoch, the sign that the sentence gives to the test loss with dropout minus without."""
PLACES = {"input": "at A's input", "bottleneck": "between A and B"}
MARGIN = 0.02  # nats: a rise that is said to be none after one epoch is smaller
COMMANDS = {
    name: command(name, runs)
    for name, runs in (
        *((name, LISTS[name]["desk"]) for name in ("dropout_early", "dropout_alone")),
        ("dropout_rates", AT_INPUT),
    )
}
alone_claim = functools.partial(
    claim,
    where="beyond the paper: Figure 2 left, caption, on all-MiniLM-L6-v2 without dropout of its own",
    test="tests/test_claims_3_1_figure_2_left.py",
    reads=STUDY,
)
READING = (
    "Masks at A's input (LoRA's code) and between A and B (§3.1), at both, beside no dropout; the model's own is off. "
    "One rate for all, the best for LoRA without dropout after one epoch (the model's own on), which favors harm early "
    "and benefit late. Accuracy, which the figure shows, is open: it changes by 0.3 points at most on average here, "
    "and three seeds beside the model's own dropout of 0.1 could not tell either (evidence). "
)


def best_epoch(epochs: Sequence[Mapping[str, Any]]) -> int:
    """The first epoch of the highest accuracy, from 1."""
    accuracies = [entry[ACCURACY] for entry in epochs]
    return 1 + accuracies.index(max(accuracies))


def correlation(best: Mapping[float, Sequence[int]]) -> dict[str, float] | None:
    """Spearman's, of the best epoch with the drop rate over all runs, and its p by permutations; None for one epoch."""
    pairs = np.array([(rate, epoch) for rate, epochs in best.items() for epoch in epochs])
    rates, epochs = map(_ranks, pairs.T)
    scale = float(np.linalg.norm(rates) * np.linalg.norm(epochs))
    if scale == 0:
        return None
    shuffled = np.random.default_rng(SEED).permuted(np.tile(epochs, (PERMUTATIONS, 1)), axis=1) @ rates
    extreme = np.abs(shuffled) >= abs(rates @ epochs) * (1 - 1e-9)
    return {"correlation": float(rates @ epochs) / scale, "p_value": (1 + int(extreme.sum())) / (1 + PERMUTATIONS)}


def _ranks(of: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    # From the mean rank; equal numbers have the mean of theirs.
    below, up_to = (np.searchsorted(np.sort(of), of, side) for side in ("left", "right"))
    return (below + up_to - len(of)) / 2


def by_accuracy(epoch: int, folder: Path | None) -> dict[str, Any]:
    """What three seeds show by accuracy, beside the model's own dropout, and decide nothing: drop rate 0.4 minus each
    other after an epoch, a family; after the last each rate's best epochs, too. Rates not run in full are left out.
    """
    runs = recorded(AT_INPUT, folder)
    by_rate = {rate: [one for one in AT_INPUT if one.drop_rate == rate] for rate in DROP_RATES}
    cases = {
        f"drop rate {HIGH:g} minus {rate:g} after {epoch} epochs, accuracy": list(zip(by_rate[HIGH], of, strict=True))
        for rate, of in by_rate.items()
        if rate != HIGH
    }
    whole = {
        rate: of
        for rate, of in by_rate.items()
        if all(one in runs and after_epoch(runs[one]) is not None for one in of)
    }
    told = {case: dataclasses.asdict(one) for case, one in judged(differences(runs, cases, epoch=epoch - 1)).items()}
    if epoch < LATE or not whole:
        return told
    best = {rate: [best_epoch(runs[one]["epochs"]) for one in of] for rate, of in whole.items()}
    return told | {
        "epoch of the best accuracy": {f"{rate:g}": epochs for rate, epochs in best.items()},
        "Spearman's correlation of that epoch with the drop rate": correlation(best),
    }


def alone_pairs(name: str = "dropout_alone") -> dict[str, Pairs]:
    """By place of the masks, of a list each seed's run with dropout and the one without."""
    runs = {(one.placement, one.drop_rate, one.seed): one for one in LISTS[name]["desk"]}
    seeds = dict.fromkeys(seed for _, _, seed in runs)
    return {
        PLACES[place]: [(runs[place, rate, seed], runs["input", 0.0, seed]) for seed in seeds]
        for place, rate in ALONE
        if rate
    }


@alone_claim(
    "3.1-figure-2-left-early",
    says=f"On all-MiniLM-L6-v2 LoRA's dropout of {HIGH:g} raises the test loss after one epoch.",
    reading=READING
    + "Rule and list were written before their runs: sixteen fresh seeds are to show a clear rise at both places; "
    "otherwise it is none where both 90 % intervals lie within ±0.02 nats, a fifth of what four epochs gain, a margin "
    "chosen when eight seeds had been read, whose intervals lie within it and which a rule without one had left "
    "undecided. At A's input a rise is nearly clear (0.006, one-sided p = 0.06): if there is one, it is that small.",
    command=" && ".join(COMMANDS.values()),
)
def early(cases: Cases, folder: Path | None) -> Finding:
    """Test losses by seed after the one epoch, with dropout minus without, by place; what eight seeds showed beside."""
    pairs, listed = alone_pairs("dropout_early"), LISTS["dropout_early"]["desk"]
    runs = {run: record.result for run, record in found(listed, folder).items()}
    if unfinished := _unfinished(runs, pairs, len(listed)):
        return unfinished
    losses, accuracies = (
        {place: np.array(harm(runs, of, endpoint, 1)) for place, of in pairs.items()}
        for endpoint in ("test_loss", ACCURACY)
    )
    tested = cases.test(losses, rises_beyond_the_margin)
    rises, falls = ({place: one_sided(gaps, "t") for place, gaps in of.items()} for of in (losses, accuracies))
    none = f", within ±{MARGIN:g}" if all(within(one.interval, MARGIN) for one in rises.values()) else ""
    highest = bound(max(one.interval[1] for one in rises.values()), 3, True)
    means = " and ".join(signed(one.mean, 3) for one in rises.values())
    after, where = "nats after one epoch", f"(masks {' and '.join(pairs)})"
    place, most = max(rises.items(), key=lambda item: item[1].mean)
    return tested.finding(
        holds=f"Yes: by {means} {after} {where}.",
        refuted=f"No: {means} {after}{none} {where}.",
        undecided=f"Undecided: {means} {after}; above {highest:.3f} is excluded.",
        evidence=Evidence(
            {"difference": f"above 0 in each; none within ±{MARGIN:g}"},
            {name: dataclasses.asdict(one) for name, one in rises.items()}
            | {f"{name}, fall of the accuracy": dataclasses.asdict(one) for name, one in falls.items()}
            | {"eight seeds before": _eight_seeds(folder)}
            | {"three seeds, the model's own dropout on": by_accuracy(EARLY, folder)},
            f"Student's t over fresh seeds, one-sided at {LEVEL}; intervals: 90 %, the margin ±{MARGIN:g} nats",
            n=len(losses[place]),
        ),
        size=Size(most.mean, "nats", f"rise of the loss at drop rate {HIGH:g}, {place}", *most.interval),
        wanted="seeds with which both intervals lie within the margin, or both rises are clear",
        flips_if="seeds in which a place's rise is not clear, or is a fall"
        if tested.verdict == "holds"
        else "seeds in which both places' rises are clear, or the margin is left",
    )


def _eight_seeds(folder: Path | None) -> dict[str, Any]:
    # The rise after the first epoch of `dropout_alone`, by place; of places whose runs are all there.
    reversed_pairs = {place: [pair[::-1] for pair in pairs] for place, pairs in alone_pairs().items()}
    rises = differences(recorded(LISTS["dropout_alone"]["desk"], folder), reversed_pairs, "test_loss", epoch=0)
    return {place: dataclasses.asdict(one_sided(of, "t")) for place, of in rises.items()}


def rises_beyond_the_margin(of: Mapping[str, ArrayLike]) -> str:
    """Holds where a rise is clear in each case, refuted where a fall is in one or all 90 % intervals are within ±0.02.

    Student's t, one-sided at 0.05; falls by Holm over the cases.
    """
    tested = [one_sided(rises, "t") for rises in of.values()]
    if all(one.p_above <= LEVEL for one in tested):
        return "holds"
    falls = holm([one.p_below for one in tested]).min() <= LEVEL
    return "refuted" if falls or all(within(one.interval, MARGIN) for one in tested) else "undecided"


@alone_claim(
    "3.1-figure-2-left-late",
    says=f"On all-MiniLM-L6-v2 LoRA's dropout of {HIGH:g} lowers the test loss after {ALONE_EPOCHS} epochs.",
    reading=READING
    + "Rule and list were written before the runs, for this and the loss after one epoch as one sentence, which these "
    "eight seeds left undecided; told apart when the outcomes were known, still by Holm over all four cases.",
    command=" && ".join(one for name, one in COMMANDS.items() if name != "dropout_early"),
)
def late(cases: Cases, folder: Path | None) -> Finding:
    """Test losses by seed after the last epoch, without dropout minus with, by place; Holm over both epochs' cases."""
    pairs, listed = alone_pairs(), LISTS["dropout_alone"]["desk"]
    known = found(listed, folder)
    runs = {run: record.result for run, record in known.items()}
    if unfinished := _unfinished(runs, pairs, len(listed)):
        return unfinished
    losses, accuracies = as_said(runs, pairs, "test_loss"), as_said(runs, pairs, ACCURACY)

    def last(all_four: Mapping[str, Judgement]) -> dict[str, Judgement]:
        return {case: all_four[case] for case in (f"{place}, epoch {ALONE_EPOCHS}" for place in pairs)}

    def verdict(of: Mapping[str, ArrayLike]) -> str:
        return in_every(last(judged({case: [*values] for case, values in of.items()})))

    tested, all_four = cases.test(losses, verdict), judged(losses)
    family = last(all_four)
    means, where = [one.mean for one in family.values()], f"nats after {ALONE_EPOCHS} epochs"
    at = f"(masks {' and '.join(pairs)})"
    case, most = furthest(family, tested.verdict), max(one.interval[1] for one in family.values())
    return tested.finding(
        holds=f"Yes: by {' and '.join(f'{mean:.3f}' for mean in means)} {where} {at}.",
        refuted=f"No: it changes by {' and '.join(signed(-mean, 3) for mean in means)} {where} {at}.",
        undecided=f"Undecided: a fall of the test loss above {bound(most, 3, True):.3f} {where} is excluded.",
        evidence=Evidence(
            {"difference": "above 0 in each"},
            {name: dataclasses.asdict(one) for name, one in all_four.items()}
            | {f"{name}, accuracy": dataclasses.asdict(one) for name, one in judged(accuracies).items()}
            | {"three seeds, the model's own dropout on": by_accuracy(LATE, folder)},
            RULE,
            n=len(ALONE_SEEDS),
        ),
        size=Size(family[case].mean, "nats", f"fall of the loss at drop rate {HIGH:g}, {case}", *family[case].interval),
        wanted=units_wanted(family.values(), "seeds") + _hours_a_seed(known.values()),
        flips_if="seeds in which a place's fall is not clear, or one is clearly the other way"
        if tested.verdict == "holds"
        else "seeds in which dropout clearly lowers the test loss at both places, or raises it at one",
    )


def _unfinished(runs: Runs, pairs: Mapping[str, Pairs], listed: int) -> Finding | None:
    # Where a run of those listed is lacking, or has diverged.
    if len(runs) < listed:
        lacking = not_run(f"{len(runs)} of {listed} runs are recorded, whose rule asks for all")
        return dataclasses.replace(lacking, flips_if="the rest of the records")
    stopped = diverged(runs, pairs)
    return run_diverged(f"a run diverged with the masks {' and '.join(stopped)}", RULE) if stopped else None


def _hours_a_seed(known: Iterable[Record]) -> str:
    # By the recorded times of all runs; nothing where one has none.
    seconds = [one.provenance.get("seconds") for one in known]
    return f", {sum(seconds) / len(ALONE_SEEDS) / 3600:.1f} hours of a shared core each" if all(seconds) else ""


def harm(runs: Runs, pairs: Pairs, endpoint: str, epoch: int) -> list[float]:
    """By pair, how much worse an endpoint is with dropout than without, after an epoch."""
    values = [[after_epoch(runs[run], endpoint, epoch - 1) for run in pair] for pair in pairs]
    return [ENDPOINTS[endpoint] * (without - dropped) for dropped, without in values]


def as_said(runs: Runs, pairs: Mapping[str, Pairs], endpoint: str) -> dict[str, list[float]]:
    """By place and epoch, how much worse an endpoint is with dropout, or better where the sentence says so."""
    return {
        f"{place}, epoch {epoch}": [sign * one for one in harm(runs, pairs[place], endpoint, epoch)]
        for epoch, sign in DIRECTIONS.items()
        for place in pairs
    }
