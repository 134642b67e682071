"""The ledger: each statement of the paper with a verdict that a check computes from evidence.

A claim's check returns a `Finding`. Its verdict comes from `settle` (exact checks on named cases) or from an interval
and a test (empirical claims); nothing here or in the claims' files types a verdict in. Checked by
`tests/test_ledger.py`, which plants wrong formulas and asks that verdicts change.
"""

from __future__ import annotations

import difflib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allora_analysis.claims import SECTIONS
from allora_analysis.validation import ArgumentError, several

VERDICTS = ("holds", "holds_corrected", "conditional", "refuted", "undecided", "not_run")


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        predicted: what the statement (printed or corrected) says, by name.
        measured: what was computed independently of it, by name.
        error: the largest deviation between the two, in the tolerance's unit.
        interval: a confidence interval instead of an error, for empirical claims.
        tolerance: the deviation allowed.
        tolerance_source: where the tolerance comes from (rounding, a standard error and false-fail rate, …).
        n: sample size; None where nothing was sampled.
        seed: the generator's seed; None where nothing was sampled.
        seconds: the check's time, filled in by the ledger.
    """

    predicted: Mapping[str, Any]
    measured: Mapping[str, Any]
    tolerance_source: str
    error: float | None = None
    tolerance: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    seed: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Finding:
    """A check's outcome: the verdict, its evidence, and the corrected statement or the condition (None: as printed)."""

    verdict: str
    evidence: Evidence
    corrected: str | None = None

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} is none of {VERDICTS}")
        if self.verdict in ("holds_corrected", "conditional", "undecided") and not self.corrected:
            raise ValueError(f"{self.verdict} must say the correction, the condition or the n it needs")


def not_run(why: str) -> Finding:
    """The finding of a check without evidence.

    Args:
        why: what is missing.

    Returns:
        The finding.
    """
    return Finding("not_run", Evidence({}, {}, f"none: {why}"))


@dataclass(frozen=True)
class Claim:
    """One decidable statement of the paper.

    Attributes:
        id: section and slug, for example "3.1-expectation".
        where: section, equation, figure or table.
        statement: as printed.
        check: computes the finding; None where only a long run can (then `command` says which).
        command: what reruns or deepens the evidence.
        test: the test that checks the mathematics behind it.
        reads: the study whose records the check reads; it then takes their folder, None for the committed ones.
    """

    id: str
    where: str
    statement: str
    check: Callable[..., Finding] | None
    command: str
    test: str
    reads: str | None = None


@dataclass(frozen=True)
class Row:
    """A claim with its finding; `error` instead where the check itself raised (an error of the toolkit)."""

    claim: Claim
    finding: Finding | None
    error: str | None = None


def settle(printed: Mapping[str, bool], corrected: Mapping[str, bool] | None = None, contrary: bool = False) -> str:
    """The verdict of exact checks on named cases.

    `printed[case]`: the printed statement passes on that case. `corrected[case]`: the corrected statement, or the
    condition that is to tell which cases pass, is borne out on that case.

    - every printed case passes: holds
    - some do, and the condition is right everywhere: conditional
    - none does, and the correction is right everywhere: holds_corrected
    - otherwise: refuted
    - with `contrary`, as a correction keeps what the sentence claims and this is its opposite: refuted if that is right
      everywhere and no printed case passes; undecided if neither is

    Args:
        printed: outcome by case.
        corrected: outcome by case; None or empty where no correction is offered.
        contrary: `corrected` is the outcome of the printed statement's opposite.

    Returns:
        One of `VERDICTS`.

    Raises:
        ValueError: no case at all.
    """
    if not printed:
        raise ValueError("settle needs at least one case")
    if all(printed.values()):
        return "holds"
    borne_out = bool(corrected) and all(corrected.values())
    if contrary:
        return "refuted" if borne_out and not any(printed.values()) else "undecided"
    passing = "conditional" if any(printed.values()) else "holds_corrected"
    return passing if borne_out else "refuted"


def relative_error(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Largest |measured − predicted| over largest |predicted| (absolute if that is 0); ∞ if the shapes differ.

    Args:
        measured: an array.
        predicted: an array.

    Returns:
        The error, never NaN.
    """
    measured, predicted = np.asarray(measured, dtype=float), np.asarray(predicted, dtype=float)
    if measured.shape != predicted.shape:
        return float("inf")
    scale = float(np.max(np.abs(predicted), initial=0.0)) or 1.0
    error = float(np.max(np.abs(measured - predicted), initial=0.0)) / scale
    return error if np.isfinite(error) else float("inf")


def _folder(results: Path | None, study: str | None) -> Path | None:
    # A study's records are in a folder of its name, as in this repository, or in `results` itself.
    if results is None or study is None:
        return None
    return results / study if (results / study).is_dir() else results


def examine(claim: Claim, results: Path | None = None) -> Row:
    """Run one claim's check and time it; an exception becomes the row's error.

    Args:
        claim: the claim.
        results: the folder of records for a check that reads some; None for the committed ones.

    Returns:
        The row.

    Raises:
        ArgumentError: records in the caller's own folder that cannot be what a row rests on.
    """
    start = time.perf_counter()
    if claim.check is None:
        return Row(claim, not_run("nothing was run"))
    folder = _folder(results, claim.reads)
    try:
        finding = claim.check() if claim.reads is None else claim.check(folder)
    except Exception as error:  # the ledger still prints the rest; the command line exits 1
        if folder is not None and isinstance(error, ArgumentError | LookupError):
            why = error if isinstance(error, ArgumentError) else f"a record lacks {error}, which {claim.id} reads"
            raise ArgumentError(f"--results {results}: {why}") from None
        return Row(claim, None, f"{type(error).__name__}: {error}")
    return Row(claim, replace(finding, evidence=replace(finding.evidence, seconds=time.perf_counter() - start)))


def all_claims() -> tuple[Claim, ...]:
    """Every claim in the paper's order.

    Returns:
        The claims of all sections.

    Raises:
        ValueError: two claims with one id.
    """
    sections = (importlib.import_module(f"allora_analysis.claims.{name}") for name in SECTIONS)
    claims = tuple(claim for section in sections for claim in section.claims())
    if len({claim.id for claim in claims}) != len(claims):
        raise ValueError("two claims share an id")
    return claims


def select(claims: Sequence[Claim], only: Sequence[str] | None) -> tuple[Claim, ...]:
    """The claims named by id or by section, in the ledger's order.

    Args:
        claims: all claims.
        only: ids or sections (the part of an id before its first dash); None for all.

    Returns:
        The claims asked for.

    Raises:
        ArgumentError: a name that is neither, or no name at all.
    """
    if only is None:
        return tuple(claims)
    names = several("--only", only)
    known = {claim.id for claim in claims} | {section(claim) for claim in claims}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(close)}?" if close else "the ledger's table lists the ids"
            raise ArgumentError(f"--only: unknown claim id {name!r}; {hint}")
    return tuple(claim for claim in claims if claim.id in names or section(claim) in names)


def section(claim: Claim) -> str:
    """The part of a claim's id before its first dash: "3.1" of "3.1-expectation".

    Args:
        claim: the claim.

    Returns:
        The section.
    """
    return claim.id.partition("-")[0]
