"""What the tests of rows on drawn cases share: a row's verdict as committed, and with a wrong formula planted."""

from __future__ import annotations

import functools
import json
from types import ModuleType
from typing import Any

from allora_analysis.claims.claim import Claim, Finding
from allora_analysis.claims.ledger import examine
from allora_analysis.study import plain


class DrawnRows:
    """The rows of some sections, by id."""

    def __init__(self, *sections: ModuleType):
        self.claims = {
            item.id: item
            for section in sections
            for item in vars(section).values()
            if isinstance(item, Claim) and item.check.__module__ == section.__name__
        }

    def finding(self, identifier: str, seed: int = 0) -> Finding:
        """What the row's check finds; it may not raise, and JSON can hold what it finds."""
        row = examine(self.claims[identifier], seed=seed)
        assert row.error is None, row.error
        json.dumps(plain(row.finding), allow_nan=False)
        return row.finding

    @functools.cached_property
    def committed(self) -> dict[str, str]:
        """Verdicts with nothing planted; asked for before the first plant."""
        return {identifier: self.finding(identifier).verdict for identifier in self.claims}

    def planted(self, monkeypatch: Any, identifier: str, module: Any, name: str, wrong: Any) -> str:
        """The row's verdict with a wrong formula in a name's place, which must not be the committed one."""
        committed = self.committed[identifier]
        monkeypatch.setattr(module, name, wrong)
        found = self.finding(identifier).verdict
        assert found != committed
        return found


def lora_instead(x, a, b, eta, adaptor="inverse_sqrt"):
    """LoRA in ALLoRA's place: the formula to plant where a factor is to be missed."""
    return x @ a.mT @ b.mT
