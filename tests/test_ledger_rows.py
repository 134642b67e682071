"""A verdict at which a planted row stops is the full check's: on toy rows, on the ledger's, and on plants in them."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from allora_analysis.claims import ledger
from allora_analysis.claims.cases import Case
from allora_analysis.render.view import bare
from tests import test_claims_3_3, test_claims_4_1, test_claims_4_2_definition, test_claims_app_f_listing
from tests.ledger_rows import EXTRAS, Rows, as_is, finding, settled

CLAIMS = Rows()
CLAIMS.update((one.id, one) for one in ledger.all_claims())
PLANTED = [
    plant
    for plants in (
        test_claims_3_3.SCALING,
        test_claims_4_1.PLANTED,
        test_claims_4_2_definition.PLANTED,
        test_claims_app_f_listing.PLANTED,
    )
    for plant in plants
    if plant[0] in ("3.3-depth", "3.3-tune-carefully", "4-inversely-proportional", "4-dropout-forward", "4-listing-1")
]


def toy(measured, printed, corrected=None, condition=None):
    """A row on 1 to 9, of which each is measured as itself."""

    def check(cases):
        judged = cases.judge(
            [Case(str(n), n) for n in range(1, 10)],
            lambda n: measured.append(n) or n,
            printed,
            corrected=corrected,
            condition=condition,
        )
        texts = {"corrected": corrected and "2 = 2", "condition": condition and "n < 9"}
        return judged.finding(evidence=judged.evidence("none"), flips_if="x", **texts)

    return dataclasses.replace(CLAIMS["3.3-norm"], id="3.3-toy", check=check)


@pytest.mark.parametrize(
    ("printed", "corrected", "condition", "verdict", "needed"),
    [
        (lambda n, seen: True, None, None, "holds", 9),
        (lambda n, seen: n != 2, None, None, "refuted", 2),
        (lambda n, seen: n != 2, lambda n, seen: True, None, "holds_corrected", 9),
        (lambda n, seen: n != 2, lambda n, seen: n != 4, None, "refuted", 4),
        (lambda n, seen: n < 9, None, lambda n: n < 9, "conditional", 9),
        (lambda n, seen: n < 9, None, lambda n: 9 / n, "conditional", 9),
        (lambda n, seen: n < 9, None, lambda n: 3 / n, "refuted", 9),
        (lambda n, seen: n % 2 == 0, None, lambda n: n > 2, "refuted", 2),
        (lambda n, seen: n < 9, lambda n, seen: n != 4, lambda n: n < 9, "refuted", 9),
    ],
)
def test_no_more_is_measured_than_settles_a_verdict(printed, corrected, condition, verdict, needed):
    early, whole = [], []
    assert settled(toy(early, printed, corrected, condition)) == verdict
    assert finding(toy(whole, printed, corrected, condition)).verdict == verdict
    assert (early, whole) == ([*range(1, needed + 1)], [*range(1, 10)])  # in order, each once


def test_a_verdict_is_found_in_full_once():
    measured, rows = [], Rows()
    rows["3.3-toy"] = toy(measured, lambda n, seen: n != 2)
    assert [rows.verdict("3.3-toy") for _ in range(3)] == 3 * ["refuted"]
    assert measured == [1, 2, *range(1, 10), 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("identifier", "verdict"),
    [
        ("3.1-mask-mean", "holds"),
        ("4.5-best-average", "holds"),
        ("3.1-equal-spectrum", "holds_corrected"),
        ("3.2-gradient", "holds_corrected"),
        ("3.1-placement-input", "conditional"),
        ("3.1-implicit-regularizer", "conditional"),
        ("3.2-start-conditioning", "refuted"),
        ("4.5-dora-every-task", "refuted"),
        ("4.5-dora-rates", "undecided"),
    ],
)
def test_the_verdict_that_settles_a_row_is_its_own(identifier, verdict):
    assert settled(CLAIMS[identifier]) == as_is(CLAIMS[identifier])[1].verdict == verdict


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_the_verdict_that_settles_a_planted_row_is_its_own(monkeypatch, identifier, module, name, wrong, expected):
    with monkeypatch.context() as planted:
        in_full = CLAIMS.planted(planted, identifier, module, name, wrong)
    assert CLAIMS.planted(monkeypatch, identifier, module, name, wrong, in_full=False) == in_full == expected


def test_the_plants_are_of_each_kind_that_there_is():
    assert {expected for *_, expected in PLANTED} == {"holds", "refuted", "undecided"}


def test_the_rows_that_may_be_found_other_than_judged_are_run_in_full():
    later = {name for name, claim in CLAIMS.items() if "against" in bare(claim.check).__code__.co_names}
    assert later == {"3.2-saddle-lora", "3.2-pretrained-saddle", "3.3-tune-carefully"}


def test_rows_are_computed_as_without_an_extra():
    """A row that takes what an extra installs is red, and every extra that the package has is meant."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(listed):
        return {re.match(r"[\w-]+", one)[0] for one in listed}

    extras = project["optional-dependencies"]
    through_these = {"huggingface_hub", "tokenizers"}
    assert set(EXTRAS) - through_these == names(extras["llm"] + extras["cluster"]) - names(project["dependencies"])

    def takes_peft(cases):
        import peft

        return peft

    with pytest.raises(ModuleNotFoundError, match="peft"):
        as_is(dataclasses.replace(CLAIMS["3.3-norm"], id="3.3-toy", check=takes_peft))
