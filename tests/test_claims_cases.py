"""Cases of toy rows: some outcome would have changed each verdict; `test_ledger.py` asks it of the ledger's rows."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from allora_analysis import claims
from allora_analysis.claims.cases import OF_SIGNAL, Case, Cases, relative_error, settle
from allora_analysis.claims.claim import Evidence, Finding, share, units_wanted
from allora_analysis.statistics import Judgement

EVIDENCE = Evidence({"a": 1.0}, {"a": np.float64(1.0)}, "rounding", error=1e-16, tolerance=1e-12)


@pytest.mark.parametrize(
    ("printed", "corrected", "condition", "verdict"),
    [
        ([True, True], None, None, "holds"),
        ([True, True], [True, False], [True, False], "holds"),
        ([False, False], [True, True], None, "holds_corrected"),
        ([True, False], [True, True], None, "holds_corrected"),
        ([True, False], None, [True, False], "conditional"),
        ([True, False], [True, True], [True, False], "conditional"),
        ([True, False], None, [True, True], "refuted"),
        ([True, False], [True, False], [True, False], "refuted"),
        ([False, False], None, [False, False], "refuted"),
        ([False], [False], None, "refuted"),
        ([False], None, None, "refuted"),
    ],
)
def test_settle(printed, corrected, condition, verdict):
    given = [None if one is None else dict(zip("abc", one, strict=False)) for one in (printed, corrected, condition)]
    assert settle(*given) == verdict


def test_relative_error():
    assert relative_error([1.0, 2.0], [1.0, 2.5]) == 0.2
    assert relative_error([0.5], [0.0]) == 0.5
    assert relative_error([1.0, 2.0], [[1.0, 2.0]]) == float("inf")
    assert relative_error([float("nan")], [1.0]) == float("inf")


def squares(cases, condition=lambda x: x < 1, printed=lambda x, seen: seen < x):
    """Is x² < x? Only for 0 < x < 1."""
    drawn = [Case("paper", 0.5, paper=True), *cases.draw(lambda rng: float(rng.uniform(0.2, 3)), 30)]
    return cases.judge(drawn, lambda x: x * x, printed, condition=condition)


def test_a_condition_foretells_from_the_inputs():
    judged = squares(Cases(0, "x"))
    assert judged.verdict == "conditional"
    assert judged.at_paper is True
    assert squares(Cases(0, "x"), condition=lambda x: x < 1.5).verdict == "refuted"
    assert squares(Cases(0, "x"), condition=None).verdict == "refuted"


def test_a_ratio_knows_how_near_its_boundary_the_cases_are():
    assert squares(Cases(0, "x")).near is None
    judged = squares(Cases(0, "x"), condition=lambda x: 1 / x)
    assert judged.verdict == "conditional"
    assert judged.near == np.mean([0.5 <= case.inputs <= 2 for case in judged.cases])


def test_the_seed_and_the_id_fix_the_draws():
    first, again, other, third = (squares(Cases(*of)) for of in ((0, "x"), (0, "x"), (1, "x"), (0, "y")))
    assert first.measured == again.measured
    assert first.measured != other.measured
    assert first.measured != third.measured


def survivors(judged, rounds=50):
    return sum(judged.scrambled(np.random.default_rng(seed)) == judged.verdict for seed in range(rounds))


def test_scrambled_outcomes_leave_no_verdict_standing():
    assert survivors(squares(Cases(0, "x"))) == 0
    equal = Cases(0, "x").judge([Case(str(n), n) for n in range(5)], lambda n: n + 1, lambda n, seen: seen == n + 1)
    assert equal.verdict == "holds"
    assert survivors(equal) == 0
    same = Cases(0, "x").judge([Case(str(n), n) for n in range(5)], lambda n: 1.0, lambda n, seen: seen == 1.0)
    assert survivors(same) == 0


def test_a_check_too_loose_survives_its_scrambling():
    """Planted: a sentence that passes whatever is measured."""
    loose = Cases(0, "x").judge([Case(str(n), n) for n in range(5)], lambda n: n, lambda n, seen: True)
    assert survivors(loose) == 50


def test_a_predicate_that_cannot_take_another_cases_outcome_fails_on_it():
    sizes = Cases(0, "x").judge(
        [Case(str(n), np.ones(n)) for n in (1, 2, 3)], lambda x: 2 * x, lambda x, seen: bool(np.all(seen - x == x))
    )
    assert sizes.verdict == "holds"
    assert survivors(sizes) < 10


def test_samples_are_scrambled_by_their_signs():
    above = Cases(0, "x").test({"a": np.ones(12)}, lambda of: "holds" if of["a"].mean() > 0.7 else "undecided")
    assert above.verdict == "holds"
    assert survivors(above) < 5


def test_at_paper_says_what_it_hangs_on():
    judged = squares(Cases(0, "x"))
    texts = {"evidence": judged.evidence("none"), "flips_if": "x", "condition": "x < 1"}
    assert judged.finding(**texts).at_paper is True
    assert judged.finding(**texts, assumes="AdamW").at_paper == "yes, if AdamW"
    assert judged.finding(**texts, at_paper=False, assumes="AdamW").at_paper == "no, if AdamW"
    nowhere = Cases(0, "x").judge([Case("a", 0.5)], lambda x: x * x, lambda x, seen: seen < x)
    assert nowhere.finding(evidence=nowhere.evidence("none"), flips_if="x", assumes="AdamW").at_paper is None


def test_at_paper_is_mixed_where_its_cases_differ():
    cases = [Case("a", 1, paper=True), Case("b", 2, paper=True), Case("c", 3)]
    judge = Cases(0, "x").judge
    assert judge(cases, lambda n: n, lambda n, seen: seen < 2).at_paper == "mixed"
    assert judge(cases, lambda n: n, lambda n, seen: seen > 2).at_paper is False
    assert judge(cases[2:], lambda n: n, lambda n, seen: True).at_paper is None


def test_two_cases_of_one_name():
    with pytest.raises(ValueError, match="share a name"):
        Cases(0, "x").judge([Case("a", 1), Case("a", 2)], abs, lambda n, seen: True)


@pytest.mark.parametrize("answer", ["It depends.", "Yes: " + "word " * 20, "Yes: " + "word " * 18 + "5%"])
def test_an_answer_begins_with_the_answer_and_is_short(answer):
    with pytest.raises(ValueError, match="an answer has at most 20 words and begins with"):
        Finding("holds", EVIDENCE, answer=answer)


def test_a_verdict_without_an_answer_of_its_own_gets_a_general_one():
    judged = squares(Cases(0, "x"), condition=lambda x: x < 1.5)
    finding = judged.finding(conditional="Only below 1.", evidence=judged.evidence(""), flips_if="", condition="x < 1")
    assert (finding.verdict, finding.answer) == ("refuted", "No: it fails.")


@pytest.mark.parametrize(
    ("corrected", "answer"),
    [(None, "No: it fails."), (lambda x, seen: False, "No: it fails, and what was to mend it fails too.")],
)
def test_only_a_correction_that_was_offered_is_said_to_fail(corrected, answer):
    judged = Cases(0, "x").judge([Case("one", 2.0)], lambda x: x**2, lambda x, seen: seen < x, corrected=corrected)
    assert judged.finding(evidence=judged.evidence(""), flips_if="").answer == answer


def test_an_answer_to_no_verdict_is_an_error():
    judged = squares(Cases(0, "x"))
    with pytest.raises(TypeError, match="no verdict is called hold"):
        judged.finding(hold="Yes.", evidence=judged.evidence(""), flips_if="")


def test_what_is_wanted_is_said_where_a_sentence_is_undecided_alone():
    for verdict, corrected in (("undecided", "more seeds"), ("holds", None), ("refuted", None)):
        tested = Cases(0, "x").test({"a": np.ones(3)}, lambda of, verdict=verdict: verdict)
        assert tested.finding(evidence=EVIDENCE, flips_if="", wanted="more seeds").corrected == corrected


@pytest.mark.parametrize("hits", [7, 0, 10])
def test_a_share_has_wilsons_interval(hits):
    found = share([True] * hits + [False] * (10 - hits), "x")
    told = stats.binomtest(hits, 10).proportion_ci(0.95, "wilson")
    wanted = (10 * hits, 100 * told.low, 100 * told.high)
    assert (found.value, found.low, found.high) == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_units_wanted_in_words():
    one = Judgement("undecided", 3, 0.1, None, 0.1, 0.1, 0.9, 0.9, None, 1, None, 12, (5, 40))
    other = dataclasses.replace(one, needed=30, needed_interval=(9, 20_000_000))
    assert units_wanted([one], "seeds") == "12 seeds at this mean (5 to 40 by its spread)"
    assert units_wanted([one, other], "seeds") == "12 to 30 seeds at this mean (5 to 10^7 and more by its spread)"


def test_the_noise_that_rows_take_for_the_papers_is_named_once():
    """No text of §3.1's rows has its words but by `OF_SIGNAL`, which is formed from the number."""
    assert OF_SIGNAL == "half of the signal"
    files = sorted(Path(claims.__file__).parent.glob("s3_1_*.py"))
    assert len(files) > 10
    for file in files:
        tree = ast.parse(file.read_text())
        docstrings = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        typed = [text for text in texts if "half of the signal" in text or "half the signal" in text]
        assert set(typed) <= docstrings, file.name
