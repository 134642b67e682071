"""How far one method is from itself in the laboratory: the controls, and the margins that rows take from them.

Choosing rates has a noise of its own, which no seed shows: four controls a length compare two names of one arm, so that
the truth is 0. `experiments.laboratory` has the rule and says what had been seen before it. Checked by
`tests/test_claims_laboratory.py`.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from scipy.special import chdtrc, stdtrit

from allora_analysis.laboratory.design import ETA2, STEPS, Cell, Contrast
from allora_analysis.laboratory.table import Table

Samples = Mapping[str, np.ndarray]
POINTS = 100.0
UNITS = {"accuracy": POINTS, "loss": -1.0}  # points of test accuracy; nats that the test loss falls by
QUANTILE = float(stdtrit(4, 0.95))  # of Student's t; four controls, no two of which share a cell
WIDER = float(stdtrit(6, 0.95))


def in_units(table: Table | None, pairs: Mapping[str, Contrast], endpoint: str) -> dict[str, np.ndarray] | None:
    """Gains of an endpoint, in points or nats, seed by seed; None until each pair has the seeds that its rule names."""
    if table is None:
        return None
    known = {name: UNITS[endpoint] * np.array(table.of(one, endpoint)) for name, one in pairs.items()}
    return known if all(len(known[name]) == one.seeds for name, one in pairs.items()) else None


def length(name: str) -> str:
    """The length of training in a contrast's name: "50 steps"."""
    return name.rpartition(", ")[2]


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


def wider_noise(table: Table, endpoint: str = "accuracy", question: str = "control") -> dict[str, float]:
    """The same from all pairs of LoRA and the constant adaptor at η² = 2, 4 and 16 under one optimizer: √2 times the
    arms' standard deviation. Formed after the runs; six degrees of freedom.
    """
    variances: dict[str, list[float]] = {}
    for steps, name in itertools.product(STEPS, ("sgd", "momentum")):
        lora = Cell("lora", name, steps)
        arms = [Cell("allora", name, steps, 0.0, "constant", eta2) for eta2 in ETA2[1:]]
        pairs = {f"{arm.eta2}": Contrast(question, "", arm, lora) for arm in arms}
        gaps = in_units(table, pairs, endpoint) or {}
        means = [0.0, *(float(of.mean()) for of in gaps.values())]
        variances.setdefault(f"{steps} steps", []).append(float(np.var(means, ddof=1)))
    return {steps: math.sqrt(2 * float(np.mean(of))) for steps, of in variances.items()}


def margins_of_one(control: Samples) -> dict[str, float]:
    """What one method differs from itself by in one comparison, by length."""
    return {steps: QUANTILE * spread for steps, spread in noise(control).items()}


def margins_of_means(of: Samples, spread: Mapping[str, float], quantile: float = QUANTILE) -> dict[str, float]:
    """The same in the mean over a length's settings: the root of their summed squares, over n."""
    settings = Counter(map(length, of))
    return {steps: quantile * spread[steps] / math.sqrt(n) for steps, n in settings.items()}
