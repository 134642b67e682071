"""What the tests of the ledger's rows share: run the check behind a row, with a plant for what is to be missed."""

from __future__ import annotations

import json
from pathlib import Path

from allora_analysis.claims.claim import Claim, Finding
from allora_analysis.claims.ledger import examine
from allora_analysis.study import plain


def finding(claim: Claim, results: Path | None = None) -> Finding:
    """What a row's check finds; the check may not raise, and JSON can hold what it finds."""
    row = examine(claim, results)
    assert row.error is None, row.error
    json.dumps(plain(row.finding), allow_nan=False)
    return row.finding


def lora_instead(x, a, b, eta, adaptor="inverse_sqrt"):
    """LoRA in ALLoRA's place: the formula to plant where a factor is to be missed."""
    return x @ a.mT @ b.mT
