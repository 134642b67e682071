"""§3.2 in pretrained models: the start of LoRA's parameters in one layer, from the recorded runs.

The runs are long: the row reads what `python -m experiments.hessian` recorded, whose file states the list of layers and
the test. Checked by `tests/test_claims_pretrained.py`, which plants records.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allora_analysis.claims.ledger import Claim, Evidence, Finding, not_run, settle
from allora_analysis.zero_initialisation import run as lists
from allora_analysis.zero_initialisation.run import STUDY, Setting, recorded

ROUNDING = 1e-8  # of a gradient's norm
# Of all eigenvalues in float64, relative to the largest: below is rounding.
ZERO = 1e-14
COMMAND = "python -m experiments.hessian --model FOLDER --model-name NAME --data FOLDER"
Recorded = Mapping[str, Any]


def signs(values: np.ndarray) -> dict[str, int]:
    """How many eigenvalues are negative, zero and positive.

    Args:
        values: all of them.

    Returns:
        The counts; zero is up to `ZERO` of the largest.
    """
    limit = ZERO * float(np.abs(values).max())
    negative, positive = int((values < -limit).sum()), int((values > limit).sum())
    return {"negative": negative, "zero": len(values) - negative - positive, "positive": positive}


def signs_agree(told: Recorded, run: Recorded) -> bool:
    """Whether the eigenvalues have the signs that the ranks foretell.

    Args:
        told: the counts foretold, [least, most] each.
        run: a run's result.

    Returns:
        Of all eigenvalues: each count is the one foretold. Of the ends: as many as the least count says, or all that
        were asked for, lie beyond their residual on the side foretold.
    """
    if "all" in run:
        return all(told[sign] == [number, number] for sign, number in signs(np.array(run["all"])).items())
    low, high = np.array(run["smallest"]), np.array(run["largest"])[::-1]
    low_error, high_error = np.array(run["smallest_residuals"]), np.array(run["largest_residuals"])[::-1]
    below, above = min(len(low), told["negative"][0]), min(len(high), told["positive"][0])
    return bool(np.all((low + low_error)[:below] < 0) and np.all((high - high_error)[:above] > 0))


def ends(run: Recorded) -> tuple[float, float]:
    """λ_min and λ_max.

    Args:
        run: a run's result.

    Returns:
        Both.
    """
    return (run["all"][0], run["all"][-1]) if "all" in run else (run["smallest"][0], run["largest"][-1])


def case(setting: Setting) -> str:
    """A run's name in the evidence.

    Args:
        setting: the run.

    Returns:
        The words.
    """
    asked = "all eigenvalues" if setting.k == 0 else "both ends"
    return f"{setting.model}, layer {setting.layer} ({', '.join(setting.modules)}), r = {setting.rank}, {asked}"


def _measured(run: Recorded) -> dict[str, Any]:
    low, high = ends(run)
    sigma = max(of[0] for of in run["singular_values"].values())
    counted = signs(np.array(run["all"])) if "all" in run else {}
    return {
        "‖∇_A‖": run["gradient_norms"]["a"],
        "‖∇_B‖": run["gradient_norms"]["b"],
        "λ_min": low,
        "λ_max": high,
        "−λ_min/λ_max": -low / high,
        "λ_max/σ₁(G)": high / sigma,
        **counted,
    }


def saddle(folder: Path | None = None) -> Finding:
    """B = 0, A random, in one layer at a time: no critical point, but indefinite, with the signs foretold.

    Args:
        folder: the folder of records; None for the repository's own.

    Returns:
        The finding.
    """
    runs = recorded(lists.RUNS, folder)
    if not runs:
        return not_run(f"0 of {len(lists.RUNS)} runs are recorded")
    printed, corrected, predicted, measured = {}, {}, {}, {}
    for setting, run in runs.items():
        name, told, slopes = case(setting), run["foretold"], run["gradient_norms"]
        agree = signs_agree(told, run)
        printed[name] = agree and slopes["b"] <= ROUNDING
        corrected[name] = agree and slopes["b"] > ROUNDING and slopes["a"] <= ROUNDING
        predicted[name] = {sign: told[sign] for sign in ("negative", "zero", "positive")}
        measured[name] = _measured(run)
    error = float(sum(not right for right in corrected.values()))
    source = (
        f"number of layers that differ; the counts are [least, most]; {len(runs)} of {len(lists.RUNS)} runs recorded"
    )
    evidence = Evidence(predicted, measured, source, error, 0.0, n=len(runs), seed=lists.RUNS[0].seed)
    whole = sum("all" in run for run in runs.values())
    return Finding(settle(printed, corrected, contrary=True), evidence, _words(measured, whole))


def _words(measured: Mapping[str, Mapping[str, float]], whole: int) -> str:
    n, depths = len(measured), [of["−λ_min/λ_max"] for of in measured.values()]
    return (
        "no critical point (∇_A = 0, ∇_B ≠ 0), hence no saddle point; the Hessian there is indefinite: as many "
        f"directions of each sign as the ranks of G say in the {whole} runs that have all eigenvalues, both ends of "
        "the sign foretold in the others; "
        f"the lowest eigenvalue is minus the highest, to {max(abs(1 - depth) for depth in depths):.1g} of it "
        f"({n} of {len(lists.RUNS)} runs)"
    )


def claims() -> tuple[Claim, ...]:
    """The row on pretrained models.

    Returns:
        The claim.
    """
    models = " and ".join(lists.ENDS)
    return (
        Claim(
            "3.2-pretrained-saddle",
            "§1, second flaw",
            f"The fine-tuning parameters start from a saddle point: in one layer at a time of {models}",
            saddle,
            COMMAND,
            "tests/test_claims_pretrained.py",
            reads=STUDY,
        ),
    )
