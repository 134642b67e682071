"""The verdict of a row that samples is that of its statement, not of its seed: other draws lead to the same one."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from allora_analysis import claims
from allora_analysis.claims.ledger import all_claims
from tests.ledger_rows import finding

# Seconds each, and several data sets in every run of the check.
LONG = (
    "3.1-benefit-large-n",
    "3.1-loss-std-from-random",
    "3.1-sgd-crossover",
    "3.1-sgd-first-step",
    "3.1-sgd-reliable",
    "3.1-sgd-variance",
    "3.2-network-saddle",
)
CLAIMS = {claim.id: claim for claim in all_claims() if claim.check is not None and claim.reads is None}


def draw_again(monkeypatch, offset):
    """Every module of the ledger's checks with its SEED moved."""
    for found in pkgutil.iter_modules(claims.__path__):
        module = importlib.import_module(f"{claims.__name__}.{found.name}")
        if hasattr(module, "SEED"):
            monkeypatch.setattr(module, "SEED", module.SEED + offset)


@pytest.mark.parametrize("identifier", [identifier for identifier in CLAIMS if identifier not in LONG])
def test_other_draws_lead_to_the_same_verdict(monkeypatch, pytestconfig, identifier):
    committed = finding(CLAIMS[identifier])
    draw_again(monkeypatch, 100 * (1 + pytestconfig.option.seed % 30))
    assert finding(CLAIMS[identifier]).verdict == committed.verdict
