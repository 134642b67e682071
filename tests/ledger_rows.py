"""What the tests of the ledger's rows share: run the check behind a row, with a plant for what is to be missed."""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from allora_analysis.claims import ledger
from allora_analysis.claims.cases import Cases, Judged, Outcomes, settle
from allora_analysis.claims.claim import Claim, Finding
from allora_analysis.lora import functional
from allora_analysis.render.view import bare, recorded
from allora_analysis.study import plain
from allora_analysis.validation import LLM
from tests import typing_hook


def finding(claim: Claim, results: Path | None = None, seed: int = 0) -> Finding:
    """What a row's check finds; the check may not raise, and JSON can hold what it finds."""
    row = ledger.examine(claim, results, seed)
    assert row.error is None, row.error
    json.dumps(plain(row.finding), allow_nan=False)
    return row.finding


EXTRAS = (*LLM, "submitit")


@functools.cache
def as_is(claim: Claim) -> tuple[Cases, Finding]:
    """A row's cases and what its check finds, computed once a process: for tests that plant nothing.

    As who installed no extra computes it: a row that imports one of them fails or answers otherwise than recorded.
    """
    cases = Cases(0, claim.id)
    with pytest.MonkeyPatch.context() as patch:
        for name in EXTRAS:
            patch.setitem(sys.modules, name, None)
        return cases, _checked(claim, cases)


def _checked(claim: Claim, cases: Cases) -> Finding:
    return claim.check(cases, None) if claim.reads else claim.check(cases)


class _Settled(Exception):
    """A verdict, raised out of the check that was to go on from it."""


class _UntilSettled(Cases):
    def judge(self, cases, measure, printed, *, corrected=None, condition=None):
        measured = functools.cache(lambda index: measure(cases[index].inputs))

        def outcomes(passes):
            def one(index):
                return bool(passes(cases[index].inputs, measured(index)))

            return Outcomes({case.name: functools.partial(one, index) for index, case in enumerate(cases)})

        foretold = Judged(cases, (), printed, corrected, condition).condition
        raise _Settled(settle(outcomes(printed), corrected and outcomes(corrected), foretold))


def settled(claim: Claim) -> str:
    """The verdict of a row's check, which is left as soon as its cases settle it, most often at the first that fails.

    No further case is measured, and no answer, size or evidence made; a row judged on samples is checked in full. That
    the verdict can be written down, in an answer short enough and with its correction or condition, is what the plants
    run in full show, at least one for each verdict that a row is led to (`Rows.plants`, `Rows.verdict`). The verdict is
    that of the full check but where `against` may change it once it is found: those rows are always run in full.
    Checked by `tests/test_ledger_rows.py`.
    """
    if "against" in bare(claim.check).__code__.co_names:
        return finding(claim).verdict
    cases = _UntilSettled(0, claim.id)
    try:
        with typing_hook.off():
            return _checked(claim, cases).verdict
    except _Settled as end:
        return end.args[0]


class Rows(dict[str, Claim]):
    """The rows of some sections, by id; unplanted, their verdicts are the recorded ones (`test_ledger.py`)."""

    def __init__(self, *sections: ModuleType):
        super().__init__((claim.id, claim) for section in sections for claim in ledger._of(section))
        self.in_full: set[tuple[str, str]] = set()

    def finding(self, identifier: str, seed: int = 0, results: Path | None = None) -> Finding:
        """What the row's check finds."""
        return finding(self[identifier], results, seed)

    def as_is(self, identifier: str) -> Finding:
        """What it finds with nothing planted, computed once."""
        return as_is(self[identifier])[1]

    def verdict(self, identifier: str) -> str:
        """Its verdict, as `settled`; in full, too, where this process has not led the row to it before."""
        found = settled(self[identifier])
        if (identifier, found) not in self.in_full:
            self.in_full.add((identifier, found))
            assert self.finding(identifier).verdict == found
        return found

    def planted(
        self, monkeypatch: Any, identifier: str, module: Any, name: str, wrong: Any, in_full: bool = True
    ) -> str:
        """The row's verdict with a wrong formula in a name's place, which must not be the recorded one.

        A formula whose first argument is `right` gets there the one that it replaces. Not in full: as `settled`.
        """
        if inspect.isfunction(wrong) and next(iter(inspect.signature(wrong).parameters), "") == "right":
            wrong = functools.partial(wrong, getattr(module, name))
        monkeypatch.setattr(module, name, wrong)
        found = self.finding(identifier).verdict if in_full else settled(self[identifier])
        assert found != recorded()[identifier]["verdict"]
        return found

    def plants(self, planted: Sequence[tuple]) -> Callable[..., None]:
        """A test of each: row, module, name, the wrong formula there, the verdict that it must lead to.

        The first that leads a row to a verdict is run in full, the others until the verdict is `settled`.
        """
        first: dict[tuple[str, str], Any] = {}
        for identifier, _, _, wrong, expected in planted:
            first.setdefault((identifier, expected), wrong)

        @pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), planted)
        def test(monkeypatch, identifier, module, name, wrong, expected):
            in_full = first[identifier, expected] is wrong
            assert self.planted(monkeypatch, identifier, module, name, wrong, in_full) == expected

        return test


def scaled_input_gradient(x, a, b, eta, adaptor="inverse_sqrt"):
    """∂/∂x scaled too: autograd through d·f with the forward value of f."""
    f = x @ a.mT @ b.mT
    return (f * functional.row_factor(a, b, eta).detach()) + (f * (1 - functional.row_factor(a, b, eta))).detach()


def by_token(x, a, b, eta, adaptor="inverse_sqrt"):
    """A factor by token in place of the row's."""
    return functional.allora_od(x, a, b, eta)


def lora_instead(x, a, b, eta, adaptor="inverse_sqrt"):
    """LoRA in ALLoRA's place: the formula to plant where a factor is to be missed."""
    return x @ a.mT @ b.mT
