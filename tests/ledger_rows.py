"""What the tests of the ledger's rows share: run the check behind a row, with a plant for what is to be missed."""

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from allora_analysis.claims import ledger
from allora_analysis.claims.claim import Claim, Finding
from allora_analysis.lora import functional
from allora_analysis.render.view import recorded
from allora_analysis.study import plain


def finding(claim: Claim, results: Path | None = None, seed: int = 0) -> Finding:
    """What a row's check finds; the check may not raise, and JSON can hold what it finds."""
    row = ledger.examine(claim, results, seed)
    assert row.error is None, row.error
    json.dumps(plain(row.finding), allow_nan=False)
    return row.finding


class Rows(dict[str, Claim]):
    """The rows of some sections, by id; unplanted, their verdicts are the recorded ones (`test_ledger.py`)."""

    def __init__(self, *sections: ModuleType):
        super().__init__((claim.id, claim) for section in sections for claim in ledger._of(section))

    def finding(self, identifier: str, seed: int = 0, results: Path | None = None) -> Finding:
        """What the row's check finds."""
        return finding(self[identifier], results, seed)

    def verdict(self, identifier: str, seed: int = 0) -> str:
        """Its verdict."""
        return self.finding(identifier, seed).verdict

    def planted(self, monkeypatch: Any, identifier: str, module: Any, name: str, wrong: Any) -> str:
        """The row's verdict with a wrong formula in a name's place, which must not be the recorded one.

        A formula whose first argument is `right` gets there the one that it replaces.
        """
        if inspect.isfunction(wrong) and next(iter(inspect.signature(wrong).parameters), "") == "right":
            wrong = functools.partial(wrong, getattr(module, name))
        monkeypatch.setattr(module, name, wrong)
        found = self.verdict(identifier)
        assert found != recorded()[identifier]["verdict"]
        return found

    def plants(self, planted: Sequence[tuple]) -> Callable[..., None]:
        """A test of each: row, module, name, the wrong formula there, the verdict that it must lead to."""

        @pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), planted)
        def test(monkeypatch, identifier, module, name, wrong, expected):
            assert self.planted(monkeypatch, identifier, module, name, wrong) == expected

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
