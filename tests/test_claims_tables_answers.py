"""What the rows about the reported numbers answer, and which reading each wording gets."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from allora_analysis.claims.cases import Cases
from allora_analysis.claims.tables import (
    beyond_chance,
    contrasts,
    prose_of_results,
    reported,
    table_1,
    tables_2_to_4,
    universally,
)
from tests.planted_tables import (
    CLAIMS,
    DORA_AHEAD,
    LLAMA_7B_RAISED,
    MIXED,
    OF,
    UP,
    at_the_last_rate,
    of,
    shifted,
    table_2,
    without_dropout_in_table_1,
)

finding = CLAIMS.finding


def test_another_gap_to_dora_than_the_averages_printed_refutes(monkeypatch):
    """Planted beside rows of Table 1 that alone would make the sentence hold."""
    for module in (table_1, contrasts):
        monkeypatch.setattr(module, "TABLE_1", LLAMA_7B_RAISED)
    rows = ("1-consistently-dora", "1-consistently-dora-without-dropout")
    assert {finding(one).verdict for one in rows} == {"holds"}
    monkeypatch.setattr(contrasts, "of", of(9.0))
    assert {finding(one).verdict for one in rows} == {"refuted"}


def printed_too(monkeypatch, change):
    """ALLoRA's and ALLoRA-0's gaps to LoRA changed in Table 3 and in what Figure 3 prints of it."""

    def changed(name, cells=None):
        found = OF(name, cells)
        return found if name == contrasts.EQUAL.name else dataclasses.replace(found, values=change(found))

    def rows(name, _):
        return {", ".join(pair): gap for pair, gap in changed(name).by_cluster().items()}

    monkeypatch.setattr(contrasts, "of", changed)
    monkeypatch.setattr(prose_of_results, "_rows", rows)


BY_MEAN = ("4.4-better-than-lora", "A-dropout-free-better")


def test_better_goes_by_the_mean_and_its_test_is_another_row(monkeypatch):
    """Planted: leads 0.25 points less, which may be chance, are leads; 0.4 less they are none."""
    printed_too(monkeypatch, lambda found: found.values - 0.25)
    for name in BY_MEAN:
        assert (finding(name).verdict, finding(name).at_paper) == ("holds", True)
        assert re.search(r"may be chance \(p = |, p = 0\.[1-9]", finding(name).answer)
        assert finding(f"{name}-beyond-chance").verdict == "undecided"
    printed_too(monkeypatch, lambda found: found.values - 0.4)
    for name in BY_MEAN:
        assert (finding(name).verdict, finding(name).at_paper) == ("refuted", False)
        assert re.match(r"No: -0\.\d\d points on average, better in", finding(name).answer)


def test_the_wording_not_the_test_decides_the_reading(monkeypatch):
    """Planted: one pair has nearly all of the lead, so that the mean is ahead and the test undecided."""
    lead = {("Qwen2-0.5B", "bias_in_bios"): 3.0}
    printed_too(monkeypatch, lambda found: np.array([lead.get(pair, -0.1) for pair in found.clusters]))
    assert finding("4.4-better-than-lora").verdict == "holds"
    assert finding("4.4-better-than-lora-beyond-chance").verdict == "undecided"
    assert finding("6-better-than-lora").verdict == "refuted"  # ahead on one model and one data set


@pytest.mark.parametrize("part", [0, 1, 2])
def test_multiple_is_two_models_two_data_sets_and_two_rates(monkeypatch, part):
    """Planted: ahead of LoRA on average, and in the average of one model, or data set, or rate alone."""
    first = OF("ALLoRA − LoRA").labels[0][part]

    def only(found):
        return np.array([2.0 if label[part] == first else -0.1 for label in found.labels])

    printed_too(monkeypatch, only)
    found = finding("6-better-than-lora")
    assert (found.verdict, found.at_paper) == ("refuted", False)
    kind = ("models", "data sets", "rates")[part]
    assert re.search(rf"\b1 of \d {kind}", found.answer)
    assert finding("4.4-better-than-lora").verdict == "holds"


@pytest.mark.parametrize("name", ["5.1-average", *BY_MEAN, "6-better-than-lora"])
def test_an_average_that_is_not_the_one_printed_is_told(monkeypatch, name):
    """Planted: a row average 0.2 higher, which each row's "changes if" names."""
    original = prose_of_results._rows

    def rows(which, panel):
        first, *others = original(which, panel).items()
        return {first[0]: first[1] + 0.2, **dict(others)}

    monkeypatch.setattr(prose_of_results, "_rows", rows)
    found = finding(name)
    assert found.verdict == "refuted"
    assert re.fullmatch(r"No: the average printed for Qwen2-0.5B, \w+ is not the table's\.", found.answer)
    assert found.flips_if.endswith(contrasts.NOT_PRINTED)
    assert contrasts.BY_PRINT in CLAIMS[name].reading


def test_one_pair_behind_is_enough(monkeypatch):
    """Planted: one of the two pairs of Table 4 that are behind, by 0.06 and less, still is."""
    monkeypatch.setattr(contrasts, "of", of(0.05))
    found = finding("E-universally-better-by-pairs")
    assert (found.verdict, found.size.value) == ("refuted", 41)


@pytest.mark.parametrize("identifier", ["T2-long", "T2-short"])
def test_one_pair_out_of_order_leaves_a_trend_more_than_chance_alone_but_not_among_four(identifier):
    """Five of 120 orders have nine pairs in order or all ten; Holm's factor is 2, after the two smaller p-values."""
    found, row = finding(identifier), finding("T2-beyond-chance")
    assert (found.verdict, found.at_paper, found.size.value) == ("holds", "mixed", 9)
    assert found.evidence.measured["verdict with no exception, with two"] == ["refuted", "holds"]
    assert (row.verdict, row.at_paper, row.size.value) == ("holds", True, 4)
    p_values = [row.evidence.measured[identifier][name] for name in ("p_value", "adjusted_p_value")]
    assert p_values == pytest.approx([5 / 120, 2 * 5 / 120])
    assert row.evidence.measured["T2-epoch-of-best"]["adjusted_p_value"] == pytest.approx(0.05)
    told = finding("T2-epoch-of-best").evidence.measured["verdict with no exception, with two"]
    assert told == ["refuted", "holds"]  # as the readings have it, in words
    assert (
        row.answer == "Yes, each alone (p at most 0.042); as four findings, 2 of them may be chance (Holm's p 0.083)."
    )
    assert row.size.of.endswith("each alone; 2 by Holm")
    told = (
        "1 pair more in another order in T2-epoch-of-best or T2-long or T2-short, or 2 pairs more in another order in "
    )
    assert row.flips_if == f"{told}T2-overfit"


@pytest.mark.parametrize(("at_10", "verdict"), [((10, 9, 8, 6, 7), "holds"), ((10, 9, 7, 6, 8), "undecided")])
def test_two_pairs_out_of_order_undo_what_is_lost_and_one_does_not(monkeypatch, at_10, verdict):
    """Planted: what is lost from the best epoch falls with the drop rate but for one pair, and for two."""
    losses = {one: float(loss) for one, loss in zip(reported.TABLE_2, at_10, strict=True)}
    planted = tables_2_to_4.TRENDS | {"T2-overfit": (losses.__getitem__, -1)}
    monkeypatch.setattr(tables_2_to_4, "TRENDS", planted)
    monkeypatch.setattr(beyond_chance, "TRENDS", planted)
    assert finding("T2-beyond-chance").verdict == verdict


def test_a_trend_without_exception_names_none_and_no_order_is_no_trend(monkeypatch):
    for values, verdict, answer in ((UP, "holds", "Yes, as a trend: in 10 of"), (MIXED, "refuted", "No: in 6 of")):
        monkeypatch.setattr(reported, "TABLE_2", table_2(at_epoch_10=values))
        assert (finding("T2-long").verdict, finding("T2-long").at_paper) == (verdict, verdict == "holds")
        assert finding("T2-long").answer == f"{answer} 10 pairs of drop rates."
    assert finding("T2-beyond-chance").verdict == "undecided"


def test_as_many_tries_are_alike(monkeypatch):
    monkeypatch.setattr(table_1, "DORA_RATES", (1e-4, 2e-4, 3e-4))
    assert finding("4.5-best-of-three").at_paper is True
    monkeypatch.undo()
    found = finding("4.5-best-of-three")
    assert (found.at_paper, found.size.value) == ("no, by §4.5's account", pytest.approx(0.5 / np.sqrt(np.pi)))


UNIVERSAL = re.compile(r"\b(universally|consistently)\b")


def test_a_sentence_that_claims_every_case_is_refuted_by_one_exception(monkeypatch):
    """Planted: one number of many is on the wrong side."""
    one = ("LLaMA3-8B", "DoRA", 32)
    monkeypatch.setattr(table_1, "DORA_PUBLISHED", DORA_AHEAD | {one: (70.0, *DORA_AHEAD[one][1:])})
    found = finding("4.5-dora-every-task")
    assert found.verdict == "refuted"
    assert "31 of 32" in found.answer


def test_ties_are_told_and_a_rival_that_leads_or_an_average_that_is_not_its_rows_refutes(monkeypatch):
    """Planted: adapters in parallel at 78.5, or another average; 70.9 for 71.0 is within 0.1, in decimals."""
    assert "28 of 32 (model, rank, task), level in 2." in finding("4.5-dora-every-task").answer
    assert finding("4.5-dora-universally").verdict == "holds"
    parallel = reported.DORA_RIVALS["LLaMA-7B", "adapters in parallel"]
    for model, row in (
        ("LLaMA-7B", 8 * (78.5,) + (78.5,)),
        ("LLaMA-7B", (*parallel[:-1], 72.4)),
        ("LLaMA-13B", 8 * (81.6,) + (81.6,)),
    ):
        monkeypatch.setattr(table_1, "DORA_RIVALS", reported.DORA_RIVALS | {(model, "adapters in parallel"): row})
        assert finding("4.5-dora-universally").verdict == "refuted"


HALVES = ("1-consistently-lora", "1-consistently-dora")


def test_consistently_is_true_in_full_only_if_one_arm_is_ahead_of_both(monkeypatch):
    """Planted: yelp's lead over LoRA in Table 3, too; and ALLoRA-0's over DoRA on LLaMA-7B."""
    monkeypatch.setattr(contrasts, "of", of(0.05))
    assert [(finding(one).verdict, finding(one).at_paper) for one in HALVES] == [("holds", True)] * 2
    monkeypatch.undo()
    for module in (table_1, contrasts):
        monkeypatch.setattr(module, "TABLE_1", LLAMA_7B_RAISED)
    found = finding("1-consistently-dora-without-dropout")
    assert (found.verdict, found.at_paper) == ("holds", True)


def test_one_half_alone_makes_the_sentence_mixed():
    """Over DoRA ALLoRA leads in every average, over LoRA by Figure 3's numbers, not by Table 3's on yelp."""
    found = [finding(one) for one in HALVES]
    assert [(one.verdict, one.at_paper) for one in found] == [("holds_corrected", "mixed"), ("holds", "mixed")]


@pytest.mark.parametrize(("arm", "behind"), [("ALLoRA", ["yelp"]), ("ALLoRA-0", ["LLaMA-7B"])])
def test_one_arm_makes_the_whole_sentence(arm, behind):
    """ALLoRA in both rows; ALLoRA-0, ahead of LoRA in every average, of DoRA but on LLaMA-7B, in the less kind one."""
    halves = universally.both_halves(arm)
    assert [part for half in halves for part, gap in half.items() if gap <= 0] == behind
    assert [*map(len, halves)] == [10, 5]
    assert all(CLAIMS[one].reading.count(universally.ONE_ARM) for one in HALVES)


def test_consistently_is_false_of_the_paper_where_the_half_that_is_judged_fails(monkeypatch):
    monkeypatch.setattr(contrasts, "of", of(-0.2))
    assert {finding(one).at_paper for one in HALVES} == {False}


def test_allora_shares_are_of_the_pretrained_parameters_if_cut_off_and_of_all_if_rounded():
    """By hand: 16.7 of 6,738 million is 0.4163 %, cut off 0.41; rounded 0.42, which is not printed."""
    kind, strict = finding("T1-parameters-allora"), finding("T1-parameters-allora-rounded")
    assert (kind.verdict, strict.verdict) == ("holds", "holds_corrected")
    assert kind.answer.endswith("rounded, 6 of 6 are shares of all parameters instead.")


def test_doras_shares_cut_off_are_of_the_pretrained_parameters_at_the_larger_rank_alone():
    """By hand: 57.0 of 6,738 million is 0.8455 %, cut off 0.84; at r = 16 0.429, cut off 0.42, not 0.43."""
    pretrained, _ = table_1._shares("DoRA")
    cut = [item for item in pretrained if 0 <= item.recomputed - item.printed < 2 * item.half_unit]
    assert (len(pretrained), len(cut)) == (6, 3)
    assert all(", r = 32," in item.where for item in cut)
    assert "three of the six, those at r = 32, would be" in CLAIMS["T1-parameters-dora"].reading


def test_doras_rates_are_within_the_two_and_no_best_is_published():
    found = finding("4.5-dora-rates")
    assert (found.verdict, found.at_paper) == ("undecided", None)
    assert {value for name, value in found.evidence.measured.items() if "not in" not in name} == {1e-4, 2e-4}


@pytest.mark.parametrize("by", [-9.0, 9.0])
def test_who_is_ahead_does_not_decide_whether_lora_is_treated_fairly(monkeypatch, by):
    monkeypatch.setattr(reported, "TABLE_3", shifted(reported.TABLE_3, by))
    found = finding("4.4-fair-to-lora")
    assert (found.verdict, found.at_paper) == ("holds", True)
    assert found.answer.endswith("the best of both is the largest tried, in 9 of 9 pairs.")
    assert np.sign(found.evidence.measured["ALLoRA's lead, each at its best"]["as printed"].mean) == np.sign(by)


def test_loras_best_within_its_list_is_told_and_is_fair(monkeypatch):
    monkeypatch.setattr(reported, "TABLE_3", at_the_last_rate(-9.0))
    found = finding("4.4-fair-to-lora")
    assert (found.verdict, found.at_paper, found.size.value) == ("holds", True, 0)
    assert found.answer.endswith("the largest tried in 0 of 9 pairs of LoRA's, 9 of ALLoRA's.")


def test_at_one_eta_behind_is_not_stable(monkeypatch):
    monkeypatch.setattr(contrasts, "of", of(-0.16))
    found = finding("4.4-stability")
    behind = [name for name, lead in found.evidence.measured["mean lead"].items() if lead <= 0]
    assert (found.verdict, found.at_paper, behind) == ("refuted", False, ["ALLoRA − LoRA: η² = 2"])
    assert found.answer.startswith("No: on average ahead of LoRA in 5 of 6")


def test_an_accuracy_that_swings_with_eta_is_told_and_only_the_lead_is_stable(monkeypatch):
    """Planted: 60, 20 and 90 % at the three η², ALLoRA and ALLoRA-0 0.1 above LoRA throughout; then 60 % at each."""
    for at, moved, at_paper in (
        ({1.0: 60, 2.0: 20, 4.0: 90}, "70.0", "mixed"),
        (dict.fromkeys((1, 2, 4), 60), "0.0", True),
    ):
        cells = tuple(
            dataclasses.replace(c, accuracy=at[c.eta_squared] + 0.1 * (c.arm != "LoRA")) for c in reported.TABLE_3
        )
        monkeypatch.setattr(reported, "TABLE_3", cells)
        monkeypatch.setattr(contrasts, "TABLES", reported.TABLES | {"Table 3": cells})
        found = finding("4.4-stability")
        assert (found.verdict, found.at_paper) == ("holds", at_paper)
        assert found.answer.endswith(f"its own accuracy moves by {moved}.")
    monkeypatch.undo()
    assert finding("4.4-stability").at_paper == "mixed"


def test_without_a_difference_in_table_1_either_doing_without_dropout_is_true_in_the_paper(monkeypatch):
    monkeypatch.setattr(contrasts, "TABLE_1", without_dropout_in_table_1(None))
    found = finding("1-no-cross-validation")
    assert (found.verdict, found.at_paper) == ("holds", True)
    assert found.answer.endswith("Table 1's by 0.00.")


def test_the_cell_that_no_five_runs_give_is_found_and_not_named(monkeypatch):
    """Planted: Table 3's 78.20 in the place of its 78.19, which stands in a cell of LoRA's instead; then in both."""
    misprint, printed = ("Snowflake-Arctic-L", "ALLoRA-0", "rotten_tomatoes", 1.0), reported.TABLE_3
    for values, verdict in (({misprint[1]: 78.20, "LoRA": 78.19}, "holds_corrected"), ({"LoRA": 78.19}, "refuted")):
        cells = tuple(
            dataclasses.replace(c, accuracy=values.get(c.arm, c.accuracy))
            if (c.model, c.dataset, c.eta_squared) == (misprint[0], *misprint[2:])
            else c
            for c in printed
        )
        monkeypatch.setattr(reported, "TABLE_3", cells)
        found = finding("T3-five-runs")
        assert found.verdict == verdict
        assert ("Snowflake-Arctic-L, LoRA, η² = 1" in found.corrected) is True


def test_a_refuted_row_does_not_begin_with_mostly():
    values = {str(i): 1.0 - 2 * (i == 0) for i in range(10)}
    found = contrasts.everywhere(Cases(0, "x"), values, "Mostly: ahead in {k} of {n}.")
    assert (found.verdict, found.answer) == ("refuted", "No: ahead in 9 of 10.")


def test_the_leads_at_each_eta_are_figure_3s_last_row():
    printed = dict(zip(("η² = 1", "η² = 2", "η² = 4"), (0.46, 0.16, 0.21), strict=True))
    seen = finding("4.4-stability").evidence.measured[contrasts.AS_FIGURE_3]
    assert {eta: seen[f"ALLoRA − LoRA: {eta}"] for eta in printed} == pytest.approx(printed, abs=0.005)


def test_what_both_tables_have_is_33_parts_six_of_them_loras():
    found = finding("5-same-setup")
    assert (found.size.value, found.size.unit) == (33, "of 33 pairs, η² and shared cells")
    assert sum("LoRA×η" in name for name in found.evidence.measured) == 6


def test_no_universal_sentence_is_conditional():
    universal = [identifier for identifier, claim in CLAIMS.items() if UNIVERSAL.search(claim.statement)]
    assert len(universal) >= 6
    assert {finding(identifier).verdict for identifier in universal} == {"refuted", "holds", "holds_corrected"}


def test_figure_3s_least_lead_is_yelps_as_table_3_has_it_exchanged():
    """By hand: of yelp's six gaps of Table 3 Figure 3 has one, of 0.15, the other way round."""
    cells = {(one.model, one.eta_squared, one.arm): one.accuracy for one in reported.TABLE_3 if one.dataset == "yelp"}
    gaps = [cells[model, eta2, "ALLoRA"] - cells[model, eta2, "LoRA"] for model, eta2, arm in cells if arm == "LoRA"]
    (panel, *_) = reported.FIGURE_3
    drawn = [gap for row in panel.rows if row.dataset == "yelp" for gap in row.gaps]
    assert sum(drawn) / 6 == pytest.approx(1 / 300)  # of gaps rounded to 0.01
    assert (len(gaps), min(gaps)) == (6, pytest.approx(-0.15))
    least = contrasts.of("ALLoRA − LoRA", reported.with_exchanged()).by_part()
    assert min(least, key=least.get) == "yelp"
    assert least["yelp"] == pytest.approx((sum(gaps) + 2 * 0.15) / 6) == pytest.approx(0.005)


def test_rows_of_one_sentence_share_its_text():
    texts = {identifier: claim.statement for identifier, claim in CLAIMS.items()}
    for one, other in (
        HALVES,
        ("6-better-than-lora", "4.5-better-than-dora"),
        ("5.2-over-half", "5.2-asf-significantly"),
        ("T2-short", "T2-overfit"),
    ):
        assert texts[one] == texts[other]


def test_twice_the_pairs_decide_what_three_models_cannot(monkeypatch):
    """Planted: each (model, data set) once more under another name, and gaps that share a sign."""
    original = contrasts.of

    def doubled(*arguments):
        found = original(*arguments)
        values = np.abs(np.concatenate([found.values, found.values])) + 1
        again = tuple((*cluster, "again") for cluster in found.clusters)
        return contrasts.Gaps(values, found.labels * 2, found.clusters + again)

    monkeypatch.setattr(contrasts, "of", doubled)
    decided = ("4.5-better-than-dora-beyond-chance", "6-optimal-beyond-chance")
    assert {finding(name).verdict for name in decided} == {"holds"}
    assert finding("6-over-backbones").verdict == "undecided"


def test_allora_and_allora_0_must_both_be_ahead_of_dora(monkeypatch):
    """Planted: one arm far ahead, or far behind, and the other as printed."""
    row, names = "4.5-better-than-dora-beyond-chance", contrasts.family("ALLoRA − DoRA")
    found = {}
    for by, name in itertools.product((9.0, -9.0), names):
        with monkeypatch.context() as patch:
            patch.setattr(contrasts, "of", of(by, name))
            found[by, name] = finding(row)
    assert [one.verdict for one in found.values()] == ["undecided", "undecided", "refuted", "refuted"]
    told = "Undecided: +9.32 points for ALLoRA, +0.34 for ALLoRA-0; over 0.00 and 0.13 behind are excluded."
    assert found[9.0, "ALLoRA − DoRA"].answer == told


def test_both_arms_are_tested_alone_as_both_must_be_ahead(monkeypatch):
    """Planted: leads that are each more than chance alone (3/64), and not by Holm over the two."""
    for by, name in ((0.02, "ALLoRA − DoRA"), (0.13, "ALLoRA-0 − DoRA")):
        monkeypatch.setattr(contrasts, "of", of(by, name))
    found = finding("4.5-better-than-dora-beyond-chance")
    assert [one.p_value for one in found.evidence.measured["judged"].values()] == pytest.approx([3 / 64] * 2)
    assert found.verdict == "holds"


def test_open_rows_say_what_the_printed_numbers_exclude(monkeypatch):
    """By hand, from the sorted means of all subsets: the third least is the interval's lower end at six units."""

    def told(row, by=0.0):
        with monkeypatch.context() as patch:
            patch.setattr(contrasts, "of", of(by))
            found = finding(f"{row}-beyond-chance")
        assert found.verdict == "undecided"
        return found.answer.removeprefix("Undecided").strip(": ")

    dora = "{} points for ALLoRA, {} for ALLoRA-0; over {} and {} behind are excluded."
    assert told("4.5-better-than-dora") == dora.format("+0.32", "+0.34", "0.02", 0.13)
    assert told("4.5-better-than-dora", 0.02) == dora.format("+0.34", "+0.36", "0.00", 0.11)
    least = "{} points on average over {} (the least lead); over {} behind is excluded."
    assert told("6-optimal") == least.format("+0.30", "ALLoRA-OD", 0.03)
    assert told("6-optimal", -0.5) == least.format("-0.20", "ALLoRA-OD or LoRA×η", 0.53)
    asf = "LoRA × η {} points ahead, in {} of 6 pairs; ASF-LoRA over {} ahead is excluded{}."
    assert told("5.2-asf-lower") == asf.format("+0.17", 4, 0.35, ", 0.25 not")
    assert told("5.2-asf-lower", 0.2) == asf.format("+0.37", 4, 0.15, "")
    lora = "+0.07 points on average, better in 5 of 9 pairs; over 0.13 behind is excluded."
    assert told("4.4-better-than-lora", -0.2) == lora


def test_the_margin_beside_asf_loras_deficit(monkeypatch):
    """The verdict on "at most a quarter of a point better", which may hold where "less accurate" is open."""
    name = "ASF-LoRA at most 0.25 points better, judged"
    found = CLAIMS.as_is("5.2-asf-lower-beyond-chance").evidence.measured
    assert (found[name].verdict, found[name].p_value) == ("undecided", pytest.approx(7 / 64))
    assert found["verdict at another margin"] == {"0.125": "undecided", "0.5": "undecided"}
    monkeypatch.setattr(contrasts, "of", of(0.5, "LoRA×η − ASF-LoRA"))
    planted = finding("5.2-asf-lower-beyond-chance")
    assert (planted.verdict, planted.evidence.measured[name].verdict) == ("undecided", "holds")
    assert planted.answer.endswith("; ASF-LoRA over 0.00 ahead is excluded.")


def test_the_answers_say_what_the_numbers_are():
    words = "Mostly: ahead of LoRA in 9 of 10 averages; by Figure 3's numbers in 10 (one by 0.005 points)."
    assert words in finding("D-universally-better").answer
    words = "Not in all 19 averages: ahead of LoRA in 15 (Figure 3: 17), ALLoRA-0 in 18 (Figure 3: 19)."
    assert words in finding("D-universally-better-by-pairs").answer
    assert "in 19 of 27, with Figure 3's numbers in 20" in finding("D-universally-better-cells").answer
    assert "in all 24 averages; with pairs of model and data set in 40 of 42." in finding("E-universally-better").answer
    assert "in 40 of 42 averages, behind by at most 0.07 points." in finding("E-universally-better-by-pairs").answer
    assert "in 48 of 54" in finding("E-universally-better-cells").answer
    assert "in all 8 averages and 4 of 6 pairs" in finding("5.1-better-than-od").answer
    one = finding("1-consistently-lora")
    assert one.answer.endswith("ahead of LoRA in 9 of 10 averages (Figure 3: 10), of DoRA in 5 of 5.")
    of_allora_0 = [of for name, of in one.evidence.measured.items() if name.startswith("of ALLoRA-0")]
    assert [round(min(of.values()), 3) for of in of_allora_0] == [0.003, 0.028]  # on yelp, as the reading has them
    assert "0.003 by Table 3, which rounding alone could make, and 0.028" in CLAIMS["1-consistently-lora"].reading
    other = finding("1-consistently-dora")
    words = "ALLoRA leads DoRA in 5 of 5 averages, 9 of 11 counting model–rank pairs."
    assert other.answer == f"Yes, of the accuracies: {words}"
    least = min(universally.both_halves("ALLoRA")[1].items(), key=lambda part: part[1])
    assert (least[0], round(least[1], 3)) == ("LLaMA-7B", 0.075)
    assert "LLaMA-7B's, is 0.075 points" in CLAIMS["1-consistently-dora"].reading
    other = finding("1-consistently-dora-without-dropout")
    assert other.answer.endswith("in 4 of 5 averages, 8 of 11 counting model–rank pairs.")
    assert other.flips_if == "ALLoRA-0 ahead on average over LLaMA-7B, too"
    assert (other.verdict, other.at_paper) == ("refuted", False)
    assert finding("5.2-over-half").answer.endswith("10 of 18 cells, if 0.08 points count; by 0.25 or more in 8.")
    assert "DoRA is 0.0125 ahead" in finding("4.5-best-average").answer
    five = CLAIMS.as_is("T3-five-runs")
    assert five.evidence.measured["p_value_of_chance"] < 1e-11
    assert "50 of 51 cells can be means of five runs; 78.19 cannot: a misprint" in five.answer
    gaps = [
        reported.exact(value) - reported.exact(100 * 4173 / 5330) for value in (100 * 4168 / 5330, 100 * 1667 / 2132)
    ]
    assert [f"{float(gap):.2f}" for gap in gaps] == ["-0.09", "-0.10"]
    left = five.evidence.measured
    assert max(left["as often as numbers near it, rounded first"].values()) < tables_2_to_4.RARE / 1000
    assert [*left["a mean of so many"].values()] == [[2, 4, 6]]
    (share,) = (share for name, share in left.items() if name.startswith("share of 77.00, …"))
    assert 0.6 < share < 0.9
    assert finding("D-all-experiments").answer.startswith("Yes, of §4.4: ")
    assert "in 9 of 12 pairs" in finding("D-all-experiments").answer
    for identifier in ("D-all-experiments", "5-same-setup"):
        assert "above 0" not in finding(identifier).evidence.measured
    assert finding("4.5-dora-every-task").answer.endswith("in 28 of 32 (model, rank, task), level in 2.")
    assert finding("4.5-dora-every-task").flips_if == "all 32 above 0"
    told = "all 10 above 0 as printed, or one not above 0 with two accuracies exchanged"
    assert finding("D-universally-better").flips_if.startswith(told)
    assert finding("4.4-subpar").answer.startswith("Yes, with 1 of 3 models, in 2 of 9 pairs: Qwen2-0.5B on emotion;")
    told = "tested alone, ALLoRA-OD +0.74 points over ASF-LoRA (p = 0.031; adjusted 0.062), ALLoRA +1.04 (p = 0.016)."
    assert finding("5.2-better-family").answer == f"Yes, as hedged: {told}"
    assert finding("6-better-than-lora").answer.endswith("on 3 of 3 models, 3 of 4 data sets, 3 of 3 rates.")
    told = "6 of 9 model–data pairs (Figure 3: 7), mean +0.27 points; more than chance (p = 0.016)."
    assert finding("4.4-better-than-lora").answer == f"Yes: better in {told}"
    told = "8 of 9 model–data pairs (Figure 3: 9): mean +0.33 points, p = 0.012."
    assert finding("A-dropout-free-better").answer == f"Yes, over LoRA with dropout in {told}"
    for row, told in (
        ("4.4-better-than-lora", "6 of 9 pairs (Figure 3: 7)"),
        ("A-dropout-free-better", "8 of 9 pairs ("),
    ):
        assert told in finding(f"{row}-beyond-chance").answer
    by_figure = finding("4.4-better-than-lora-beyond-chance").evidence.measured["as Figure 3 has the cells"]
    assert by_figure["adjusted p"] == pytest.approx(0.0117, abs=5e-5)
    best = finding("A-dropout-free-better").evidence.measured["each at its best setting"].values()
    assert [(round(one.mean, 2), round(one.p_value, 3)) for one in best] == [(0.19, 0.086), (0.21, 0.049)]
    told = "+0.19 points by Table 3, which may be chance (p = 0.086 alone), and +0.21 by Figure 3, which is more than "
    assert f"{told}chance (p = 0.049 alone)" in CLAIMS["A-dropout-free-better"].reading
    with_dropout = finding("4.4-fair-to-lora").evidence.measured["ALLoRA's lead, each at its best"].values()
    assert [(round(one.mean, 2), round(one.p_value, 4)) for one in with_dropout] == [(0.18, 0.041), (0.21, 0.0078)]
    told = "+0.18 points by Table 3 (p = 0.041 alone), +0.21 by Figure 3 (0.0078; "
    assert told in CLAIMS["4.4-better-than-lora"].reading
    found = finding("5.2-asf-significantly")
    assert found.evidence.measured["cells lower by so much"] == {"0": 10, "0.125": 9, "0.25": 8, "0.5": 5}
    assert (found.answer, found.at_paper) == (
        "No: by 0.25 points or more in 8 of 18 cells; by any amount in 10.",
        False,
    )
    found = finding("1-no-cross-validation")
    assert (found.verdict, found.at_paper) == ("holds", "mixed")  # Table 3 shows the same, Table 1 leaves it open
    assert found.evidence.measured["Table 3, judged"].verdict == "holds"
    gaps, other = (found.evidence.measured[name] for name in ("Table 1", "Table 1, judged"))
    told = (min(gaps.values()), max(gaps.values()), other.mean)
    assert "-0.41 to +0.36 points a model and rank, +0.02 on" in CLAIMS["1-no-cross-validation"].reading
    assert told == tuple(pytest.approx(value, abs=0.006) for value in (-0.41, 0.36, 0.02))
    assert (other.verdict, other.p_value) == ("undecided", pytest.approx(0.0625))
    assert found.answer.endswith("Table 1's by +0.02 (open).")
