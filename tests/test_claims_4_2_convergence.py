"""§4.2's rows on convergence: planted wrong formulas change their verdicts."""

import dataclasses

import numpy as np
import pytest

from allora_analysis import adaptive
from allora_analysis.adaptive import convergence
from allora_analysis.claims import s4_2_convergence_and_width as section
from tests.ledger_rows import Rows

ROWS = Rows(section)


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        (
            "rank_one_lyapunov",
            lambda right: lambda *given: dataclasses.replace(right(*given), value=-right(*given).value),
        ),
        (
            "rank_one_lyapunov",
            lambda right: lambda *given: dataclasses.replace(right(*given), bound=0.9 * right(*given).rate + 1),
        ),
        ("gradient_flow", lambda right: lambda *given: right(*given[:-1], 1e-3 * given[-1])),  # stopped early
        ("gradient_flow", lambda right: lambda *given: (right(*given)[0], 1.01 * right(*given)[1])),
    ],
)
def test_a_wrong_flow_or_function_changes_the_verdict(name, planted, monkeypatch):
    monkeypatch.setattr(adaptive, name, planted(getattr(adaptive, name)))
    assert ROWS.verdict("4-converges") == "refuted"


def test_a_flow_from_a_small_or_resting_start_is_judged_too():
    """A 1e-3 long, where AAᵀ − BᵀB cannot be resolved beside AAᵀ's first size; and TAᵀ = 0, where nothing moves."""
    for start, target in ((1e-3 * np.ones((1, 2)), np.diag([2.0, 1.0])), (np.eye(1, 2), np.diag([0.0, 1.0]))):
        one = section.Descent(target, start, 2.0)
        assert section._comes_to_rest(one, section.flow(one))


def test_a_symmetric_jacobian_changes_the_verdict(monkeypatch):
    right = convergence.update_jacobian
    monkeypatch.setattr(convergence, "update_jacobian", lambda *given: (right(*given) + right(*given).T) / 2)
    assert ROWS.verdict("4-rest-point-oscillation") == "holds"
