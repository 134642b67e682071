"""How far one method is from itself in the laboratory: the controls, the margins that rows take from them, and what
other choices of the rates would have shown.

Choosing rates has a noise of its own, which no seed shows: four controls a length compare two names of one arm, so that
the truth is 0. `experiments.laboratory` has the rule and says what had been seen before it. Checked by
`tests/test_claims_laboratory.py`.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import chdtrc, stdtrit

from allora_analysis.claims.claim import units_wanted
from allora_analysis.laboratory.design import ETA2, STEPS, Cell, Contrast, contrasts, fresh_seeds
from allora_analysis.laboratory.table import ALL_SEEDS, Table
from allora_analysis.statistics import judge_family, one_sided

Samples = Mapping[str, np.ndarray]
POINTS = 100.0
UNITS = {"accuracy": POINTS, "loss": -1.0}  # points of test accuracy; nats that the test loss falls by
QUANTILE = float(stdtrit(4, 0.95))  # of Student's t; four controls, no two of which share a cell
AT_FIRST = "the verdict with three rates and 100 seeds after 50 steps"
WIDER = float(stdtrit(6, 0.95))


def named(question: str, keep: Callable[[str], bool] = lambda _: True) -> dict[str, Contrast]:
    """The contrasts of a question, by name."""
    return {one.name: one for one in contrasts() if one.question == question and keep(one.name)}


def in_units(table: Table | None, pairs: Mapping[str, Contrast], endpoint: str) -> dict[str, np.ndarray] | None:
    """Gains of an endpoint, in points or nats, seed by seed; None until each pair has the seeds that its rule names."""
    if table is None:
        return None
    known = {name: UNITS[endpoint] * np.array(table.of(one, endpoint)) for name, one in pairs.items()}
    return known if all(len(known[name]) == one.seeds for name, one in pairs.items()) else None


def length(name: str) -> str:
    """The length of training in a contrast's name: "50 steps"."""
    return name.rpartition(", ")[2]


def by_length(of: Samples) -> dict[str, np.ndarray]:
    """The mean over the settings of each length, for each seed that all of them have."""
    settings: dict[str, list[np.ndarray]] = {}
    for name, gaps in of.items():
        settings.setdefault(length(name), []).append(gaps)
    return {
        steps: np.mean([gaps[: min(map(len, those))] for gaps in those], axis=0) for steps, those in settings.items()
    }


def mean_gains(of: Samples) -> dict[str, dict[str, Any]]:
    """Each mean gain with its interval, in the endpoint's unit."""
    found = {name: one_sided(gaps, "t") for name, gaps in of.items()}
    return {name: {"mean": one.mean, "interval": one.interval} for name, one in found.items()}


def noise(control: Samples) -> dict[str, float]:
    """How far one method is from itself, by length: the root mean square of the controls' means, whose truth is 0."""
    means: dict[str, list[float]] = {}
    for name, gaps in control.items():
        means.setdefault(length(name), []).append(float(gaps.mean()))
    return {steps: math.sqrt(float(np.mean(np.square(of)))) for steps, of in means.items()}


def of_seeds_alone(control: Samples) -> dict[str, dict[str, float]]:
    """How much of the controls' means their own seeds explain, by length: Σ(mean/standard error)², χ² if all, and p."""
    found: dict[str, list[float]] = {}
    for name, gaps in control.items():
        found.setdefault(length(name), []).append(float(gaps.mean() / (gaps.std(ddof=1) / math.sqrt(len(gaps)))))
    squares = {steps: float(np.sum(np.square(of))) for steps, of in found.items()}
    return {
        steps: {"chi2": total, "degrees": len(found[steps]), "p": float(chdtrc(len(found[steps]), total))}
        for steps, total in squares.items()
    }


def wider_noise(
    table: Table, endpoint: str = "accuracy", question: str = "control", like: Cell | None = None
) -> dict[str, float]:
    """The same from all pairs of LoRA and the constant adaptor at η² = 2, 4 and 16 under one optimizer: √2 times the
    arms' standard deviation. Formed after the runs; six degrees of freedom. Rates are chosen as in the cell `like`.
    """
    like = Cell() if like is None else like
    variances: dict[str, list[float]] = {}
    for steps, name in itertools.product(STEPS, ("sgd", "momentum")):
        lora = dataclasses.replace(like, rule="lora", optimizer=name, steps=steps, adaptor=None, eta2=None)
        arms = [dataclasses.replace(lora, rule="allora", adaptor="constant", eta2=eta2) for eta2 in ETA2[1:]]
        pairs = {f"{arm.eta2}": Contrast(question, "", arm, lora) for arm in arms}
        gaps = in_units(table, pairs, endpoint) or {}
        means = [0.0, *(float(of.mean()) for of in gaps.values())]
        variances.setdefault(f"{steps} steps", []).append(float(np.var(means, ddof=1)))
    return {steps: math.sqrt(2 * float(np.mean(of))) for steps, of in variances.items()}


def with_one_rate(table: Table, pairs: Mapping[str, Contrast]) -> dict[str, np.ndarray] | None:
    """The gains in points were one rate an arm chosen for all seeds that judge; None until all are there."""
    found = {}
    for name, one in pairs.items():
        seeds = fresh_seeds(one) or one.judges
        first, second = (table.at_one_rate(cell, "accuracy", seeds, one.fine) for cell in (one.first, one.second))
        if not first.keys() == second.keys() == set(seeds):
            return None
        found[name] = POINTS * np.array([first[seed] - second[seed] for seed in seeds])
    return found


def margins_of_one(control: Samples) -> dict[str, float]:
    """What one method differs from itself by in one comparison, by length."""
    return {steps: QUANTILE * spread for steps, spread in noise(control).items()}


def margins_of_means(of: Samples, spread: Mapping[str, float], quantile: float = QUANTILE) -> dict[str, float]:
    """The same in the mean over a length's settings: the root of their summed squares, over n."""
    settings = Counter(map(length, of))
    return {steps: quantile * spread[steps] / math.sqrt(n) for steps, n in settings.items()}


def seeds_wanted(of: Samples, margins: Mapping[str, float], name: str) -> str:
    """Seeds after which a comparison would be clear of its margin among these, were mean and spread the true ones."""
    beyond = {one: gaps - margins.get(length(one), 0.0) for one, gaps in of.items()}
    return f"{units_wanted([judge_family(beyond, test='t')[name]], 'seeds')} at these margins"


def at_first(table: Table, pairs: Mapping[str, Contrast], rule: Callable[[Samples, Samples], str]) -> str | None:
    """The verdict of three rates and a hundred seeds after few steps too, which nine and two hundred replaced after
    runs had been seen; `rule` takes the gaps and the controls'. None where those runs are not there.
    """
    gaps, control = (
        {
            name: POINTS * np.array(table.differences(one.first, one.second, "accuracy", ALL_SEEDS))
            for name, one in those.items()
        }
        for those in (pairs, named("control"))
    )
    return rule(gaps, control) if min(map(len, (gaps | control).values())) == len(ALL_SEEDS) else None


def one_rate(table: Table, pairs: Mapping[str, Contrast], controls: Mapping[str, Contrast]) -> dict[str, Any]:
    """What the same seeds show with one rate for all of them, beside how far one method is from itself then."""
    known, control = (with_one_rate(table, of) for of in (pairs, controls))
    if known is None or control is None:
        return {}
    told = {
        "gaps": mean_gains(known),
        "by length": mean_gains(by_length(known)),
        "one method from itself": noise(control),
    }
    return {"with one rate for all seeds, which decides nothing": told}
