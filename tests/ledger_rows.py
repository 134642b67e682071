"""What the tests of the ledger's rows share: run the check behind a row, and hold it against the verdict expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import ModuleType

from allora_analysis.claims.ledger import Claim, Finding, examine
from allora_analysis.study import plain


class Rows:
    """The rows of sections of the ledger, by id, and the verdict that each must have."""

    def __init__(self, verdicts: Mapping[str, str], *sections: ModuleType):
        self.verdicts = verdicts
        self.claims = {claim.id: claim for section in sections for claim in section.claims()}

    def finding(self, identifier: str) -> Finding:
        return finding(self.claims[identifier])

    def verdict(self, identifier: str) -> str:
        return self.finding(identifier).verdict

    def check_all_are_here(self) -> None:
        assert list(self.claims) == list(self.verdicts)

    def check(self, identifier: str) -> Finding:
        found = self.finding(identifier)
        assert found.verdict == self.verdicts[identifier]
        assert found.evidence.measured
        if found.evidence.error is not None and found.evidence.tolerance is not None:
            assert found.evidence.predicted
            assert found.evidence.error <= found.evidence.tolerance
        assert (found.corrected is None) == (found.verdict == "holds")
        return found


def finding(claim: Claim) -> Finding:
    """What a row's check finds; the check may not raise, and JSON can hold what it finds."""
    row = examine(claim)
    assert row.error is None, row.error
    json.dumps(plain(row.finding), allow_nan=False)
    return row.finding


def lora_instead(x, a, b, eta, adaptor="inverse_sqrt"):
    """LoRA in ALLoRA's place: the formula to plant where a factor is to be missed."""
    return x @ a.mT @ b.mT
