"""What a claim is: one printed sentence above one check, and what the check finds.

A section's file reads as the paper does: `@claim(...)` carries the sentence, the function below it judges the sentence
on `Cases` and returns a `Finding`. Checked by `tests/test_ledger.py`.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allora_analysis.statistics import Judgement

VERDICTS = ("holds", "holds_corrected", "conditional", "refuted", "undecided", "not_run")
OPENINGS = ("Yes", "No", "Only", "Mostly", "Partly", "Depends", "Undecided", "Not")
"""What an answer begins with."""
WORDS = 20  # the most that an answer has
AT_PAPER = {True: "yes", False: "no", "mixed": "mixed", None: "–"}
USUAL = "90 %"  # the level of intervals: that of two one-sided tests at 0.05


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        predicted: what the statement (printed or corrected) says, by name.
        measured: what was computed independently of it, by name.
        tolerance_source: where the tolerance comes from (rounding, a standard error and false-fail rate, …).
        error: the largest deviation between the two, in the tolerance's unit.
        tolerance: the deviation allowed.
        interval: a confidence interval instead of an error, for empirical claims.
        n: sample size; None where nothing was sampled.
        cases: how many cases were judged; None where the verdict is a test's.
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
    cases: int | None = None
    seed: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Size:
    """The one number that says how large an effect is.

    Attributes:
        value: the number.
        unit: its unit, in words; "" for a pure number.
        of: what it is the size of, in words that need no key.
        low: the lower end of its interval or range; None where there is none.
        high: the upper end.
        ends: what the two are: an interval's level, or "range" for the least and the greatest of several.
    """

    value: float
    unit: str
    of: str
    low: float | None = None
    high: float | None = None
    ends: str = USUAL


def ranged(values: Collection[float], unit: str, of: str, value: float | None = None) -> Size:
    """The median of several, or the value given, with the least and the greatest."""
    middle = float(np.median([*values])) if value is None else value
    return Size(middle, unit, of, float(min(values)), float(max(values)), "range")


def share(hits: Sequence[bool], of: str) -> Size:
    """The share of drawn settings in which something is true, with Wilson's 95 % interval."""
    n, z = len(hits), 1.96
    mean = sum(hits) / n
    centre, half = mean + z**2 / (2 * n), z * math.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2)
    low, high = (100 * (centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return Size(100 * mean, f"% of {n} drawn settings", of, max(low, 0.0), high, "95 %")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        verdict: one of `VERDICTS`.
        evidence: what it rests on.
        corrected: the mended formula or sentence; None where none is offered.
        answer: at most 20 words, which begin with the answer ("No: …", "Only under SGD: …").
        at_paper: whether the printed sentence is true at the paper's own setting: True, False, "mixed", None where the
            sentence has no setting, or "no, if AdamW" where it hangs on something that the paper does not name.
        size: how large the effect is.
        condition: when the printed sentence is true, as a formula in the inputs.
        flips_if: what evidence would change the verdict.
    """

    verdict: str
    evidence: Evidence
    corrected: str | None = None
    answer: str = ""
    at_paper: bool | str | None = None
    size: Size | None = None
    condition: str | None = None
    flips_if: str = ""

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} is none of {VERDICTS}")
        if self.verdict in ("holds_corrected", "conditional", "undecided") and not (self.corrected or self.condition):
            raise ValueError(f"{self.verdict} must say the correction, the condition or what would decide it")
        if self.answer:
            _check_answer(self.answer)


def spaced(words: str) -> str:
    """A text with a space between a number and its %, as in "5 %", the way every row is shown and counted."""
    return re.sub(r"(?<=\d)%", " %", words)


def _check_answer(answer: str) -> None:
    words = spaced(answer).split()
    if len(words) > WORDS or words[0].rstrip(":,.") not in OPENINGS:
        raise ValueError(f"an answer has at most {WORDS} words and begins with one of {OPENINGS}: {answer!r}")


def not_run(why: str, answer: str | None = None) -> Finding:
    """The finding of a check without evidence: nobody has run what it needs."""
    told = answer or (f"Not run: {why}." if len(why.split()) < WORDS - 2 else "Not run.")
    return Finding("not_run", Evidence({}, {}, f"none: {why}"), answer=told, flips_if="any record")


def run_diverged(why: str, rule: str) -> Finding:
    """The finding of a check one of whose runs has no end to compare, so that its rule says nothing."""
    return Finding("undecided", Evidence({}, {}, rule), why, "Undecided: a run diverged.", flips_if="runs that end")


def in_part(n: int, planned: int, what: str) -> str:
    """What a size adds where fewer seeds or runs are recorded than were planned; nothing where all are."""
    return "" if n >= planned else f" ({n} of {planned} {what})"


def furthest(family: Mapping[str, Judgement], verdict: str) -> str:
    """The case whose interval reaches highest, of those with the row's verdict: beyond it open ones are excluded."""
    return max(family, key=lambda case: (family[case].verdict == verdict, family[case].interval[1]))


def units_wanted(open_ones: Iterable[Judgement], unit: str) -> str:
    """The units that would decide open comparisons were their means the true ones, and by the spreads' intervals."""
    known = [one for one in open_ones if one.needed is not None]
    if not known:
        return f"more {unit}"
    least, most = min(one.needed for one in known), max(one.needed for one in known)
    ends = [end for one in known for end in one.needed_interval]
    low, high = (f"{n:,}" if n < 10**7 else f"10^{math.floor(math.log10(n))} and more" for n in (min(ends), max(ends)))
    return f"{least:,}{f' to {most:,}' if most > least else ''} {unit} at this mean ({low} to {high} by its spread)"


@dataclass(frozen=True)
class Reliance:
    """Where others lean on a sentence in print: who, in which words or work, and where to read it."""

    who: str
    title: str
    where: str


@dataclass(frozen=True)
class Claim:
    """One decidable sentence of the paper and the check that judges it.

    Attributes:
        id: section and slug, for example "3.1-expectation".
        where: section, equation, figure or table.
        statement: as printed, verbatim; nothing of ours inside it.
        check: computes the finding from `Cases`, and from the folder of records where the claim `reads` some.
        command: what reruns or deepens the evidence.
        test: the test that checks the mathematics behind it.
        reads: the study whose records the check reads; it then takes their folder, None for the committed ones.
        reading: how the sentence was made checkable, in one sentence; None where it is checkable as it stands.
        depends_on: ids of the claims that this one rests on.
        relied_on_by: where others lean on the sentence in print.
        same_fault_as: id of the claim whose correction is this one's once more, or None.
    """

    id: str
    where: str
    statement: str
    check: Callable[..., Finding]
    command: str
    test: str
    reads: str | None = None
    reading: str | None = None
    depends_on: Sequence[str] = ()
    relied_on_by: Sequence[Reliance] = ()
    same_fault_as: str | None = None

    @property
    def section(self) -> str:
        """The part of the id before its first dash: "3.1" of "3.1-expectation"."""
        return self.id.partition("-")[0]


def claim(
    identifier: str,
    *,
    where: str,
    says: str,
    test: str,
    command: str = "",
    reads: str | None = None,
    reading: str | None = None,
    depends_on: Sequence[str] = (),
    relied_on_by: Sequence[Reliance] = (),
    same_fault_as: str | None = None,
) -> Callable[[Callable[..., Finding]], Claim]:
    """Makes the function below it the check of a printed sentence.

    The arguments are `Claim`'s attributes, `says` its statement; without a command it is the ledger's, for this row.
    """

    def made(check: Callable[..., Finding]) -> Claim:
        run = command or f"python -m allora_analysis --only {identifier}"
        leans = tuple(depends_on), tuple(relied_on_by)
        return Claim(identifier, where, says, check, run, test, reads, reading, *leans, same_fault_as)

    return made
