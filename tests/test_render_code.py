"""The way from a claim to its code: what is named, directly, through the claims' files or in a closure, and no more."""

import functools
import importlib

import numpy as np
import pytest

from allora_analysis import adaptors, ripple, tikhonov
from allora_analysis.claims.claim import Claim
from allora_analysis.claims.ledger import all_claims
from allora_analysis.render import view

LOSS = "allora_analysis.tikhonov.loss.expected_loss"
ADAPTOR = "allora_analysis.adaptors.inverse_sqrt"


def claim(check) -> Claim:
    return Claim("3.1-x", "§3.1", "x", check, "command", "test")


def here(function):
    """As if the function stood in a file of the claims."""
    function.__module__ = "allora_analysis.claims.section_x"
    return function


@here
def direct():
    return tikhonov.expected_loss(np.eye(2), np.eye(2), np.eye(2), 0.5, "output")


@here
def _through():
    return direct()


TABLE = {"one": adaptors.inverse_sqrt}


@here
def local_import():
    from allora_analysis.hessian import product

    return product.product_hessian


@here
def annotated(design: tikhonov.NearestRidge) -> tikhonov.SampleMean:
    kept: tikhonov.BottleneckFactors = adaptors.inverse_sqrt(design, 1.0)
    return kept


@pytest.mark.parametrize(
    ("check", "names"),
    [
        (annotated, (ADAPTOR,)),
        (direct, (LOSS,)),
        (_through, (LOSS,)),
        (here(lambda: _through() or TABLE), (ADAPTOR, LOSS)),
        (functools.partial(direct), (LOSS,)),
        (local_import, ("allora_analysis.hessian.product.product_hessian",)),
        (here(lambda: np.eye(2)), ()),
    ],
)
def test_functions(check, names):
    assert view.called(claim(check)) == names


def test_a_closure_holds_functions():
    held = adaptors.inverse_sqrt

    @here
    def check():
        return held(0.0, 1.0)

    assert view.called(claim(check)) == (ADAPTOR,)


def test_what_the_theory_calls_itself_is_not_the_claims():
    check = here(lambda: ripple.simulate)
    assert view.called(claim(check)) == ("allora_analysis.ripple.monte_carlo.simulate",)


def test_modules_are_those_of_the_functions_or_the_claims_own_file():
    assert view.modules_called(claim(_through)) == ("allora_analysis.tikhonov.loss",)
    assert view.modules_called(claim(here(lambda: 1))) == ("allora_analysis.claims.section_x",)


def test_every_claim_leads_to_code_that_is_there():
    for item in all_claims():
        assert view.modules_called(item)
        for name in view.called(item):
            module, _, attribute = name.rpartition(".")
            assert callable(getattr(importlib.import_module(module), attribute)), name
