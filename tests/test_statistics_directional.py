"""The ledger's rule for comparisons: against enumeration of all signs, SciPy's tests, and by simulation."""

import itertools
import math

import jaxtyping
import numpy as np
import pytest
from scipy import stats

from allora_analysis.statistics import directional, holm, judge_family, one_sided, required_n, units_to_reject
from allora_analysis.validation import ArgumentError

DRAWS = 2_000


@pytest.fixture
def quick(monkeypatch):
    """Without the needed units, which cost most and are not what is simulated."""
    monkeypatch.setattr(directional, "_needed", lambda *arguments: (None, None))


def flips(values):
    """P(mean of flipped ≥ mean seen), every sign pattern one by one."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    return np.mean(signs @ values >= np.sum(values) - 1e-12 * np.abs(values).sum())


def test_a_margin_of_no_comparison_is_refused():
    """Planted: a misspelled margin, without which equality is judged as a direction."""
    gaps = {"A vs B": [-0.02, -0.03, -0.01, -0.02, -0.04, -0.03]}
    assert judge_family(gaps, margins={"A vs B": 0.5})["A vs B"].verdict == "holds"
    with pytest.raises(ArgumentError, match="margins: 'a vs b' is no comparison; there are 'A vs B'"):
        judge_family(gaps, margins={"a vs b": 0.5})


def test_a_mean_beyond_double_precision_is_refused():
    with pytest.raises(ArgumentError, match=r"differences.*leaves double precision"):
        one_sided([1e308, 1e308, -1e308, -1e308])


@pytest.mark.parametrize("shift", [-3.0, -0.2, 0.2, 3.0])
def test_by_t_on_either_side(shift):
    values = shift + np.array([1.0, -0.5, 0.3, -0.8])
    wanted = [stats.ttest_1samp(values, 0, alternative=side).pvalue for side in ("greater", "less")]
    found = one_sided(values, "t")
    assert [found.p_above, found.p_below] == pytest.approx(wanted)


def test_a_p_value_at_the_level_decides():
    """Five values of one sign: 2⁻⁵."""
    for values, verdict in ((np.ones(5), "holds"), (-np.ones(5), "refuted")):
        assert directional.decide({"one": [values]}, level=2**-5)["one"].verdict == verdict
        assert directional.decide({"one": [values]}, level=0.99 * 2**-5)["one"].verdict == "undecided"


@pytest.mark.parametrize("n", [2, 3, 6, 9])
@pytest.mark.parametrize("decimals", [None, 1])
def test_sign_flips_against_enumeration(rng, n, decimals):
    for _ in range(20):
        values = rng.standard_normal(n) + rng.choice([-1, 0, 1])
        values = values if decimals is None else values.round(decimals)
        found = one_sided(values)
        assert (found.p_above, found.p_below) == (flips(values), flips(-values))
        assert found.p_above >= 2.0**-n
        assert found.mean == pytest.approx(values.mean())


@pytest.mark.parametrize("n", [5, 6, 9])
def test_the_interval_is_what_the_tests_do_not_reject(rng, n):
    """Just inside either end the mean is not rejected, just outside it is."""
    values = rng.standard_normal(n)
    low, high = one_sided(values).interval
    for end, inwards, side in ((low, 1e-9, "p_above"), (high, -1e-9, "p_below")):
        assert getattr(one_sided(values - end - inwards), side) > 0.05
        assert getattr(one_sided(values - end + inwards), side) <= 0.05


def test_few_units_exclude_no_mean():
    assert one_sided([1.0, 2.0, 3.0, 4.0]).interval is None
    assert one_sided([1.0, 2.0, 3.0, 4.0, 5.0]).interval == (1.0, 5.0)
    assert [units_to_reject(level) for level in (0.5, 0.05, 0.05 / 3, 0.01)] == [1, 5, 6, 7]


@pytest.mark.parametrize("side", ["greater", "less"])
def test_students_t_against_scipy(rng, side):
    values = rng.standard_normal(7) + 0.3
    found = one_sided(values, "t")
    p_value = found.p_above if side == "greater" else found.p_below
    assert p_value == pytest.approx(stats.ttest_1samp(values, 0, alternative=side).pvalue, rel=1e-9)
    assert found.interval == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.9), rel=1e-9)


@pytest.mark.parametrize("test", ["sign flips", "t"])
def test_differences_without_spread(test):
    assert (one_sided([0.0] * 4, test).p_above, one_sided([0.0] * 4, test).p_below) == (1.0, 1.0)
    assert one_sided([0.2] * 4, test).p_above == 2.0**-4
    assert one_sided([0.3 - 0.1, 0.5 - 0.3, 0.7 - 0.5], test, grain=1e-12).p_above == 2.0**-3


def test_a_family_adjusts_within_each_direction(rng):
    """Holm over the p-values of the sentences, and over those of their opposites; equality is one of them."""
    sample = {
        "up": rng.standard_normal(9) + 5,
        "down": rng.standard_normal(9) - 5,
        "same": 0.1 * rng.standard_normal(9),
    }
    found = judge_family(sample, margins={"same": 0.5})
    raw = [flips(sample["up"]), flips(sample["down"]), max(flips(0.5 - sample["same"]), flips(sample["same"] + 0.5))]
    assert [one.p_value for one in found.values()] == raw
    assert [one.adjusted_p_value for one in found.values()] == holm(raw).tolist()
    opposite = [flips(-sample["up"]), flips(-sample["down"])]
    opposite.append(min(1, 2 * min(flips(sample["same"] - 0.5), flips(-sample["same"] - 0.5))))
    assert [one.adjusted_opposite_p_value for one in found.values()] == holm(opposite).tolist()
    assert [one.verdict for one in found.values()] == ["holds", "refuted", "holds"]
    assert {one.smallest_p_value for one in found.values()} == {2.0**-9}


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.0, "holds"), (0.9, "refuted"), (-0.9, "refuted"), (0.5, "undecided"), (-0.48, "undecided")],
)
def test_equality_is_shown_refuted_or_open(shift, verdict):
    values = shift + np.array([-0.1, -0.06, -0.02, 0.0, 0.01, 0.03, 0.05, 0.08, 0.1])
    assert judge_family({"one": values}, margins={"one": 0.5})["one"].verdict == verdict


@pytest.mark.statistical
@pytest.mark.parametrize("test", ["sign flips", "t"])
def test_a_true_margin_is_called_equal_no_more_often_than_the_level(quick, rng, test):
    """At a true mean of exactly m, n = 9: the share of "holds" is at most 0.05 + 5 standard errors; at 0 it is not."""
    noise = 0.3 * rng.standard_normal((DRAWS, 9))

    def share(mean):
        return np.mean([judge_family({0: mean + row}, test, margins={0: 0.5})[0].verdict == "holds" for row in noise])

    assert share(0.5) <= 0.05 + 5 * np.sqrt(0.05 * 0.95 / DRAWS)
    assert share(0.0) > 0.9


@pytest.mark.statistical
@pytest.mark.parametrize("test", ["sign flips", "t"])
def test_no_difference_is_called_one_no_more_often_than_the_level_in_a_family(quick, rng, test):
    noise = rng.standard_normal((DRAWS, 3, 9))
    wrong = np.mean(
        [any(one.verdict == "holds" for one in judge_family(dict(enumerate(rows)), test).values()) for rows in noise]
    )
    assert 0.02 < wrong <= 0.05 + 5 * np.sqrt(0.05 * 0.95 / DRAWS)


def test_needed_units_come_with_the_spreads_interval(rng):
    values = np.array([0.3, -0.2, 0.4])
    found = judge_family({"one": values, "other": values}, "t")["one"]
    spread = values.std(ddof=1)
    assert found.needed == required_n(values.mean(), spread, 0.8, 2 * 0.05 / 2)
    low, high = (spread * np.sqrt(2 / stats.chi2.ppf(tail, 2)) for tail in (0.95, 0.05))
    assert found.needed_interval == tuple(required_n(values.mean(), s, 0.8, 0.05) for s in (low, high))
    assert found.needed_interval[0] < found.needed < found.needed_interval[1]
    by_flips = judge_family({"one": np.array([1.0, 1.01, -0.5, 1.0])})["one"]
    assert by_flips.needed >= units_to_reject(0.05)
    # With a large effect, t needs as many as power says, sign flips the five that can reject at all.
    assert judge_family({"one": [1.0, 2.0]}, "t")["one"].needed == required_n(1.5, 0.5**0.5, 0.8, 0.1) < 5
    assert judge_family({"one": [9.0, 10.0, 11.0, 10.0]})["one"].needed == 5
    assert judge_family({"one": [1.0, -1.0, 0.0]}, "t")["one"].needed is None
    assert judge_family({"one": np.ones(9)})["one"].needed is None  # decided
    assert judge_family({"one": np.ones(4)}, "t")["one"].needed is None  # no spread


@pytest.mark.statistical
def test_the_units_that_equality_needs_give_both_tests_their_power(rng):
    """At a true difference of 0 equality is shown in 80 % of draws (7 standard errors), at ¾n in fewer than 70 %."""
    seen = np.array([0.9, -1.0, 0.7, -0.6, 0.1])
    n = judge_family({0: seen}, "t", margins={0: 0.5})[0].needed

    def share(n):
        draws = seen.std(ddof=1) * rng.standard_normal((20_000, n))
        half = stats.t.isf(0.05, n - 1) * draws.std(axis=1, ddof=1) / np.sqrt(n)
        return np.mean(np.abs(draws.mean(axis=1)) + half < 0.5)

    assert share(n) == pytest.approx(0.8, abs=0.02)
    assert share(3 * n // 4) < 0.7


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [("hh", "holds"), ("hu", "undecided"), ("hr", "refuted"), ("ur", "refuted"), ("uu", "undecided")],
)
def test_a_sentence_about_every_comparison(verdicts, together):
    spelt = {"h": "holds", "u": "undecided", "r": "refuted"}
    family = {i: directional.Decision(spelt[one], 0.0, 0.0, 0.0, 0.0) for i, one in enumerate(verdicts)}
    assert directional.in_every(family) == together


def test_an_unadjusted_test_is_found_out(monkeypatch, rng):
    """Planted: a family whose p-values are not adjusted decides what the rule leaves open."""
    sample = {name: np.array([0.3, 0.2, 0.5, -0.1, 0.4, 0.1]) for name in "abc"}
    assert {one.verdict for one in judge_family(sample).values()} == {"undecided"}
    monkeypatch.setattr(directional, "holm", np.asarray)
    assert {one.verdict for one in judge_family(sample).values()} == {"holds"}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: one_sided([1.0]), "differences: 2 to 20 units"),
        (lambda: one_sided(np.ones(21)), "differences: 2 to 20 units"),
        (lambda: one_sided([1.0, 2.0], "wilcoxon"), "test must be one of"),
        (lambda: one_sided([1.0, 2.0], level=0.0), "level must be"),
        (lambda: one_sided([1.0, 2.0], grain=-1.0), "grain must be"),
        (lambda: judge_family({}), "differences must have at least one"),
        (lambda: judge_family({"a": [1.0, 2.0]}, margins={"a": 0.0}), "margins must be"),
        (lambda: judge_family({"a": [1.0, 2.0]}, power=2.0), "power must be a probability .* received 2.0"),
        (lambda: judge_family({"a": [1.0, 2.0]}, power=math.nan), "power must be a probability .* received nan"),
        (lambda: judge_family({"a": [1.7e308, -1.7e308]}), "differences .* leaves double precision's range"),
        (lambda: directional.decide({"a": []}), r"sentences\['a'\] must have at least one value, received none"),
        (lambda: directional.decide({}), "sentences must have at least one value"),
        (lambda: units_to_reject(1.0), "level must be"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: judge_family({"a": [1.0, 2.0]}, margins=[0.1]), r"margins must be a mapping .* received \[0.1\]"),
        (lambda: judge_family({"a": [1.0, 2.0]}, power=None), "power must be a probability .* received None"),
        (lambda: directional.decide([[1.0, 2.0]]), "sentences must be a mapping of names to their sides"),
    ],
)
def test_a_wrong_type_is_one_line_too(call, words, request):
    untyped = request.config.option.untyped
    with pytest.raises(ArgumentError if untyped else jaxtyping.TypeCheckError, match=words if untyped else "violates"):
        call()
