"""The verdict of a row is that of its statement, not of its seed: other draws lead to the same one.

`make stress` runs this 20 times, each with a seed of its own.
"""

import pytest

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.ledger import all_claims
from allora_analysis.render.view import recorded

CLAIMS = {claim.id: claim for claim in all_claims() if claim.reads is None}


@pytest.mark.statistical
@pytest.mark.parametrize("identifier", CLAIMS)
def test_other_draws_lead_to_the_same_verdict(pytestconfig, identifier):
    again = CLAIMS[identifier].check(Cases(1 + pytestconfig.option.seed % 10**6, identifier))
    known = recorded()[identifier]
    assert (again.verdict, again.at_paper) == (known["verdict"], known["at_paper"])
