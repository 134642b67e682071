"""The cases on which a check judges a printed sentence, and the verdict that follows.

A case is its inputs. What is measured on it, whether the printed sentence agrees with that, and what a condition
foretold from the inputs alone are three functions, so that no condition can read the outcome that it is to foretell;
the verdict follows from the three. A sentence about samples is judged by a rule on paired differences instead.
Checked by `tests/test_claims_cases.py`; `tests/test_ledger.py` scrambles each row's outcomes and asks that no verdict
survives.
"""

import functools
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allora_analysis.claims.claim import AT_PAPER, Evidence, Finding, Size
from allora_analysis.statistics import decide, in_every

FALSE_FAIL = 1e-6  # two-sided, of a comparison of a sampled mean
PAPER_ETAS = (1.0, 2**0.5, 2.0)  # η² of 1, 2, 4
PAPER_KEEP, PAPER_DROP = 0.95, 0.05  # keep probability, drop rate
PAPER_NOISE = 0.5  # in Y, in units of the signal; ours, since the paper names none
OF_SIGNAL = f"{'half' if PAPER_NOISE == 0.5 else f'{PAPER_NOISE:g}'} of the signal"  # the same in words
PAPER_RATE = 1e-4  # under AdamW
PAPER_ROW = 0.015  # ‖(BA)_i‖ there: our runs' mean rows end at 0.004 to 0.015, at 1e-3 near 0.04 (4-figure-2-factor)
# ‖ηBA‖/‖W*‖ after fine-tuning, η in it: LoRA at ηl and LoRA × η at l end about alike under AdamW.
ETA_M_ROWS = 0.015  # of mean row norms, at most: row 3.3-comparable-level
ETA_M, ETA_M_SMOLLM2 = 0.08, 0.014  # induced norms, averaged over MiniLM's maps but its pooler, and SmolLM2-135M's:
POOLER, ETA_M_WHOLE = 1.2, 0.11  # MiniLM's pooler, which stands once, and all its maps: the same row
NEAR = 2.0  # a case is near a condition's boundary when it is within this factor of it


@dataclass(frozen=True)
class Case:
    """One case: a name for the evidence, the inputs, and whether they are the paper's own setting.

    The paper's own setting: LoRA's shapes with n₂ > 1, r from 8 to 32, η² of 1, 2 or 4, drop rate 0.05, AdamW at 1e-4,
    a few hundred steps, real spectra; `paper` is fixed where the case is written, before anything is measured.
    """

    name: str
    inputs: Any
    paper: bool = False


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """e^u, u uniform."""
    return float(np.exp(rng.uniform(low, high)))


def on_either_side(rng: np.random.Generator, low: float, high: float) -> float:
    """e^u or e^{−u}, u uniform: a factor near 1."""
    return float(np.exp(rng.choice([-1, 1]) * rng.uniform(low, high)))


def at_etas(name: str, make: Callable[[float], Any], etas: Sequence[float] = PAPER_ETAS) -> list[Case]:
    """Cases of the paper's own setting, one at each of its η."""
    return [Case(f"{name}, η = {eta:.3g}", make(eta), paper=True) for eta in etas]


def settle(
    printed: Mapping[str, bool],
    corrected: Mapping[str, bool] | None = None,
    condition: Mapping[str, bool] | None = None,
) -> str:
    """The verdict on named cases.

    - the printed sentence passes on every case: holds
    - a condition is given, foretells every outcome, and both truth values occur: conditional
    - no condition is given and the corrected sentence passes on every case: holds_corrected
    - otherwise: refuted

    A corrected sentence that is given must pass on every case for either of the middle two. Each argument is by case;
    None where no correction or no condition is offered.
    """
    if not printed:
        raise ValueError("settle needs at least one case")
    if all(printed.values()):
        return "holds"
    if corrected is not None and not all(corrected.values()):
        return "refuted"
    if condition is not None:
        foretold = all(condition[name] == passes for name, passes in printed.items())
        return "conditional" if foretold and any(printed.values()) else "refuted"
    return "refuted" if corrected is None else "holds_corrected"


GENERIC = {
    "holds": "Yes: it passes on every case.",
    "holds_corrected": "Not as printed: the corrected sentence passes on every case.",
    "conditional": "Depends on the condition below, on every case.",
    "refuted": "No: it fails.",
    "undecided": "Undecided: the evidence allows both answers.",
    "not_run": "Not run.",
}
UNMENDED = "No: it fails, and what was to mend it fails too."


class _Verdict:
    """A verdict that cases or samples have, and the finding that is made of it."""

    verdict: str
    at_paper: bool | str | None
    seed: int | None
    unmended: bool

    def finding(
        self,
        *,
        evidence: Evidence,
        flips_if: str,
        size: Size | None = None,
        corrected: str | None = None,
        condition: str | None = None,
        wanted: str | None = None,
        at_paper: bool | str | None = None,
        assumes: str | None = None,
        **answers: str,
    ) -> Finding:
        """The finding: the verdict and `at_paper` follow from the cases, the texts are the check's.

        Args:
            evidence: what it rests on; the seed of drawn cases is filled in.
            flips_if: what evidence would change the verdict.
            size: how large the effect is.
            corrected: the mended sentence.
            condition: when the printed sentence is true.
            wanted: what would decide an undecided sentence, in place of a correction.
            at_paper: given only where it does not follow from cases marked as the paper's.
            assumes: the optimizer that these cases have, where another one, as the paper names none, would change
                `at_paper`.
            answers: the answer by verdict (`holds="Yes: …"`); a verdict without one gets a general one.
        """
        if others := answers.keys() - GENERIC.keys():
            raise TypeError(f"no verdict is called {', '.join(sorted(others))}")
        verdict = self.verdict
        own = self.at_paper if at_paper is None else at_paper
        if verdict == "holds" or (verdict != "conditional" and corrected):
            condition = None
        return Finding(
            verdict,
            evidence if self.seed is None else replace(evidence, seed=self.seed),
            {"holds": None, "undecided": wanted or corrected}.get(verdict, corrected),
            answers.get(verdict, UNMENDED if verdict == "refuted" and self.unmended else GENERIC[verdict]),
            own if assumes is None or own is None else f"{AT_PAPER[own]}, if {assumes}",
            size,
            condition,
            flips_if,
        )


@dataclass(frozen=True)
class Judged(_Verdict):
    """Cases with what was measured on each; the predicates are evaluated once, when a verdict is asked for."""

    cases: Sequence[Case]
    measured: Sequence[Any]
    passes: Callable[[Any, Any], bool]
    mended: Callable[[Any, Any], bool] | None = None
    foretells: Callable[[Any], bool | float] | None = None
    seed: int | None = None

    @property
    def pairs(self) -> list[tuple[Case, Any]]:
        """Each case with what was measured on it."""
        return list(zip(self.cases, self.measured, strict=True))

    @property
    def own(self) -> list[Any]:
        """What was measured on the cases at the paper's own setting."""
        return [seen for case, seen in self.pairs if case.paper]

    @functools.cached_property
    def printed(self) -> dict[str, bool]:
        """Whether the printed sentence passes, by case."""
        return {case.name: bool(self.passes(case.inputs, seen)) for case, seen in self.pairs}

    @functools.cached_property
    def corrected(self) -> dict[str, bool] | None:
        """Whether the corrected sentence passes, by case; None without one."""
        if self.mended is None:
            return None
        return {case.name: bool(self.mended(case.inputs, seen)) for case, seen in self.pairs}

    @property
    def unmended(self) -> bool:
        """Whether a corrected sentence was offered and fails too."""
        return self.corrected is not None and not all(self.corrected.values())

    @functools.cached_property
    def distance(self) -> dict[str, bool | float]:
        """What the condition says by case: a truth value, or the inputs' distance from its boundary as a ratio."""
        return {} if self.foretells is None else {case.name: self.foretells(case.inputs) for case in self.cases}

    @functools.cached_property
    def condition(self) -> dict[str, bool] | None:
        """Whether the condition says that the printed sentence passes, by case; None without one."""
        if self.foretells is None:
            return None
        return {
            name: value if isinstance(value, bool | np.bool_) else value > 1 for name, value in self.distance.items()
        }

    @property
    def near(self) -> float | None:
        """The share of cases within a factor of two of the condition's boundary; None where it has no distance."""
        ratios = [value for value in self.distance.values() if not isinstance(value, bool | np.bool_)]
        return None if not ratios else float(np.mean([1 / NEAR <= ratio <= NEAR for ratio in ratios]))

    @property
    def verdict(self) -> str:
        """The verdict that `settle` gives."""
        return settle(self.printed, self.corrected, self.condition)

    @property
    def at_paper(self) -> bool | str | None:
        """Whether the printed sentence passes on the cases at the paper's own setting; None where no case is one."""
        printed = self.printed
        own = {printed[case.name] for case in self.cases if case.paper}
        return None if not own else own.pop() if len(own) == 1 else "mixed"

    def by_case(self, value: Callable[[Any], Any]) -> dict[str, Any]:
        """A function of the inputs, by case."""
        return {case.name: value(case.inputs) for case in self.cases}

    def evidence(
        self,
        tolerance_source: str,
        predicted: Callable[[Any], Any] | Mapping[str, Any] | None = None,
        *,
        shown: Callable[[Any, Any], Any] = lambda inputs, seen: seen,
        more: Mapping[str, Any] | None = None,
        tolerance: float | None = None,
        error: float | None = None,
        n: int | None = None,
    ) -> Evidence:
        """What was measured by case beside what the sentence, printed or corrected, predicts of the inputs.

        Args:
            tolerance_source: where the tolerance comes from.
            predicted: the prediction from a case's inputs, or predictions by name where they are not by case.
            shown: what of the inputs and the outcome stands in the evidence; without it, the outcome.
            more: what stands beside the cases, by name.
            tolerance: the deviation allowed.
            error: the largest deviation; None where there is no single one.
            n: sample size of one case.

        Returns:
            The evidence, with the seed.
        """
        told = predicted or {} if not callable(predicted) else self.by_case(predicted)
        seen = {case.name: shown(case.inputs, value) for case, value in self.pairs} | dict(more or {})
        return Evidence(told, seen, tolerance_source, error, tolerance, n=n, cases=len(self.cases), seed=self.seed)

    def scrambled(self, rng: np.random.Generator) -> str:
        """The verdict if what was measured on one case had been measured on another.

        Where that changes nothing, since both saw the same, an arbitrary outcome takes its place. A predicate that
        cannot take the other case's outcome fails on it.
        """
        order = rng.permutation(len(self.measured))
        moved = [
            self.measured[other] if not _same(self.measured[other], own) else _arbitrary(own, rng)
            for other, own in zip(order, self.measured, strict=True)
        ]

        def outcomes(predicate: Callable[[Any, Any], bool]) -> Outcomes:
            guarded, pairs = _guarded(predicate), zip(self.cases, moved, strict=True)
            return Outcomes({case.name: functools.partial(guarded, case.inputs, seen) for case, seen in pairs})

        mended = None if self.mended is None else outcomes(self.mended)
        return settle(outcomes(self.passes), mended, self.condition)


class Outcomes(Mapping[str, bool]):
    """Outcomes by case, each computed when it is first asked for: the first few settle most scrambled verdicts."""

    def __init__(self, of: Mapping[str, Callable[[], bool]]):
        self._of = {name: functools.cache(one) for name, one in of.items()}

    def __getitem__(self, name: str) -> bool:
        return self._of[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


def _guarded(predicate: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    # A predicate that is False where the outcome is of another case's shape.
    def guarded(inputs: Any, measured: Any) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return bool(predicate(inputs, measured))
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, np.linalg.LinAlgError):
                return False

    return guarded


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        return np.shape(one) == np.shape(other) and bool(np.all(np.asarray(one) == np.asarray(other)))
    except ValueError:
        return one is other


def _arbitrary(value: Any, rng: np.random.Generator) -> Any:
    # Another outcome of the same kind.
    if isinstance(value, bool | np.bool_):
        return not value
    if isinstance(value, Mapping):
        return {key: _arbitrary(item, rng) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_arbitrary(item, rng) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, int | float | np.number | np.ndarray):
        array = np.asarray(value, dtype=float)
        return array * (1 + rng.standard_normal(array.shape)) + rng.standard_normal(array.shape)
    return None


@dataclass(frozen=True)
class _Tested(_Verdict):
    """Paired differences by case, and the rule that reads a verdict off them."""

    samples: Mapping[str, np.ndarray]
    rule: Callable[[Mapping[str, np.ndarray]], str]
    at_paper, seed, unmended = None, None, False

    @property
    def verdict(self) -> str:
        """What the rule says."""
        return self.rule(self.samples)

    def scrambled(self, rng: np.random.Generator) -> str:
        """The verdict if each difference had come out with the other sign as often as with its own."""
        flipped = {
            name: np.asarray(values) * rng.choice([-1, 1], size=np.shape(values))
            for name, values in self.samples.items()
        }
        return self.rule(flipped)


@dataclass
class Cases:
    """What a check draws its cases from and is judged on.

    Attributes:
        seed: the ledger's seed; with the claim's id it fixes every draw.
        identifier: the claim's id.
        rng: the claim's own generator.
        judged: what the check was judged on, for the ledger's scramble test.
    """

    seed: int
    identifier: str
    rng: np.random.Generator = field(init=False)
    judged: Judged | _Tested | None = field(default=None, init=False)

    def __post_init__(self):
        self.rng = np.random.default_rng([self.seed, zlib.crc32(self.identifier.encode())])

    def draw(
        self, draw: Callable[[np.random.Generator], Any], n: int, name: str = "draw", paper: bool = False
    ) -> list[Case]:
        """Fresh cases."""
        return [Case(f"{name} {index + 1}", draw(self.rng), paper) for index in range(n)]

    def judge(
        self,
        cases: Sequence[Case],
        measure: Callable[[Any], Any],
        printed: Callable[[Any, Any], bool],
        *,
        corrected: Callable[[Any, Any], bool] | None = None,
        condition: Callable[[Any], bool | float] | None = None,
    ) -> Judged:
        """Judges a printed sentence on cases.

        Args:
            cases: the cases, at least one, with names of their own.
            measure: what is computed on a case's inputs, independently of the sentence.
            printed: whether the printed sentence agrees with the inputs and what was measured on them.
            corrected: whether the corrected sentence does.
            condition: whether, by the inputs alone, the printed sentence should pass: a truth value, or a ratio that is
                above 1 where it should, so that the distance from the boundary is known.

        Raises:
            ValueError: two cases of one name.
        """
        if len({case.name for case in cases}) != len(cases):
            raise ValueError("two cases share a name")
        measured = [measure(case.inputs) for case in cases]
        self.judged = Judged(tuple(cases), measured, printed, corrected, condition, self.seed)
        return self.judged

    def test(self, samples: Mapping[str, ArrayLike], rule: Callable[[Mapping[str, np.ndarray]], str]) -> _Tested:
        """Judges a sentence about samples by a rule on their paired differences."""
        self.judged = _Tested({name: np.asarray(values, dtype=float) for name, values in samples.items()}, rule)
        return self.judged


def each_above(samples: Mapping[str, ArrayLike], level: float = 0.05) -> str:
    """A rule for `Cases.test`: every mean is above 0, or one below; Student's t, one-sided, Holm over the samples."""
    return in_every(decide({name: (values,) for name, values in samples.items()}, test="t", level=level))


def relative_error(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Largest |measured − predicted| over largest |predicted| (absolute if that is 0); ∞ if the shapes differ."""
    measured, predicted = np.asarray(measured, dtype=float), np.asarray(predicted, dtype=float)
    if measured.shape != predicted.shape:
        return float("inf")
    scale = float(np.max(np.abs(predicted), initial=0.0)) or 1.0
    error = float(np.max(np.abs(measured - predicted), initial=0.0)) / scale
    return error if np.isfinite(error) else float("inf")


def standard_errors(n: int) -> float:
    """Student's two-sided quantile t_{n − 1}: |mean − μ| is above that many of s/√n once in 1/`FALSE_FAIL` samples.

    Exact for normal samples; for others in the limit of large n. Of a difference of two means with n each it is an
    upper limit. Source: Student 1908. Checked by `tests/test_claims_3_3.py::test_standard_errors`. 4.89, the normal
    law's, as n → ∞.
    """
    from scipy.special import stdtrit

    return -float(stdtrit(n - 1, FALSE_FAIL / 2))


def source_of_errors(n: int) -> str:
    """Where the tolerance comes from, in words."""
    rate = f"1e{np.log10(FALSE_FAIL):.0f}"
    return (
        f"{standard_errors(n):.3g} standard errors: Student's t of n − 1 = {n - 1}, false-fail rate {rate} a "
        "comparison, n fixed beforehand"
    )
