"""The ledger's rows about the reported numbers: planted errors must change their verdicts."""

import dataclasses
import functools
import re
from decimal import Decimal

import numpy as np
import pytest

from allora_analysis.claims.tables import (
    accuracies,
    beyond_chance,
    cited_works,
    contrasts,
    procedures,
    prose_of_results,
    reported,
    table_1,
    tables_2_to_4,
    universally,
)
from tests.ledger_rows import Rows

CLAIMS = Rows(table_1, cited_works, tables_2_to_4, procedures, prose_of_results, universally, beyond_chance)
del CLAIMS["T3-procedure"]  # tests/test_claims_tables_procedures.py
finding = CLAIMS.finding


@pytest.mark.parametrize("identifier", CLAIMS)
def test_every_row_says_what_would_change_it(identifier):
    found = finding(identifier)
    assert found.answer
    assert found.flips_if
    assert (found.corrected is not None) == (found.verdict in ("holds_corrected", "undecided"))
    assert (found.condition is not None) == (found.verdict == "conditional")
    if "adjusted_p_value" in found.evidence.measured:
        assert {"p_value", "smallest_p_value"} <= set(found.evidence.measured)


def of(by):
    """Every gap changed by so many points."""
    original = contrasts.of

    def changed(*arguments):
        found = original(*arguments)
        return dataclasses.replace(found, values=found.values + by)

    return changed


def shifted(cells, amount, arm="ALLoRA"):
    return tuple(dataclasses.replace(c, accuracy=c.accuracy + amount * (c.arm == arm)) for c in cells)


def at_the_last_rate(by):
    """Table 3 with LoRA's accuracies at its largest rate changed by so much; None: left out."""
    last = [cell.arm == "LoRA" and cell.eta_squared == 4 for cell in reported.TABLE_3]
    changed = zip(reported.TABLE_3, last, strict=True)
    return tuple(
        dataclasses.replace(cell, accuracy=cell.accuracy + (by or 0) * here)
        for cell, here in changed
        if by is not None or not here
    )


def wrong_mean(values):
    return sum((reported.exact(v) for v in values), Decimal(0)) / (len(values) + 1)


def raised_accuracies(by, only=None):
    return tuple(
        dataclasses.replace(cell, accuracy=round(cell.accuracy + by * (only in (None, cell.accuracy)), 2))
        for cell in reported.TABLE_3
    )


def table_2(**rows):
    """Table 2 with a row of other numbers."""
    columns = zip(reported.TABLE_2, zip(*rows.values(), strict=True), strict=True)
    return tuple(dataclasses.replace(column, **dict(zip(rows, new, strict=True))) for column, new in columns)


def raised_on_llama_7b(by, ranks=(16, 32)):
    """Table 1 with ALLoRA-0's accuracies on LLaMA-7B so much higher."""
    return tuple(
        dataclasses.replace(
            r, accuracies=tuple(round(v + by, 1) for v in r.accuracies), average=round(r.average + by, 1)
        )
        if (r.model, r.arm) == ("LLaMA-7B", "ALLoRA-0") and r.rank in ranks
        else r
        for r in reported.TABLE_1
    )


LLAMA_7B_RAISED = raised_on_llama_7b(1)
NO_MAJORITY = {n: dataclasses.replace(c, majority_percent=-200.0) for n, c in reported.PERCEPTION_LABELS.items()}
UP, DOWN = (1.0, 2.0, 3.0, 4.0, 5.0), (5.0, 4.0, 3.0, 2.0, 1.0)
MIXED = (1.0, 5.0, 2.0, 4.0, 3.0)
LORA_AHEAD = {key: (*[v + 99 * (key[1] == "LoRA") for v in row],) for key, row in reported.DORA_PUBLISHED.items()}
DORA_AHEAD = {key: (*[v + 9 * (key[1] == "DoRA") for v in row],) for key, row in reported.DORA_PUBLISHED.items()}


def trained(of=("LLaMA-7B",), **other):
    """DoRA's setup with another rate or number of epochs for some models."""
    setup = reported.DORA_SETUP.items()
    return {key: dataclasses.replace(own, **other) if key[0] in of else own for key, own in setup}


def hayou(**other):
    """The two works, the second with another date, author or abstract."""
    return cited_works.HAYOU | {"2024b": cited_works.HAYOU["2024b"]._replace(**other)}


FIRST = dataclasses.replace(reported.TABLE_2[0], best=70.0)
LATE = dataclasses.replace(reported.TABLE_2[0], best=99.0, best_epoch=11)
COLUMNS = (("Qwen2-0.5B", "yelp"), ("Snowflake-Arctic-L", "bias_in_bios"), ("OpenELM-450M", "emotion"))


def turned(panel):
    """The other arm minus the one."""
    rows = tuple(
        dataclasses.replace(row, gaps=tuple(-gap for gap in row.gaps), average=-row.average) for row in panel.rows
    )
    return dataclasses.replace(panel, minuend=panel.subtrahend, subtrahend=panel.minuend, rows=rows)


def one_gap_off(panels):
    """Figure 4 with its first gap 0.1 higher."""
    first, *others = panels[0].rows
    row = dataclasses.replace(first, gaps=(first.gaps[0] + 0.1, *first.gaps[1:]))
    return dataclasses.replace(panels[0], rows=(row, *others)), *panels[1:]


def raised_gaps(by):
    """A panel's gaps so much higher, as printed and in its table."""
    original, more = reported.panel_cells, reported.exact(by)

    def raised(*arguments):
        return tuple(
            dataclasses.replace(one, printed=one.printed + more, recomputed=one.recomputed + more)
            for one in original(*arguments)
        )

    return raised


OF = contrasts.of


def with_dropout(name, cells=None):
    """ALLoRA in ALLoRA-0's place."""
    return OF(name.replace("-0", ""), cells)


def as_far_as_lora(name, cells=None):
    """ALLoRA's lead over LoRA as that over ALLoRA-0: a margin may not make the one no difference, the other a gain."""
    return OF("ALLoRA − LoRA" if name == contrasts.EQUAL.name else name, cells)


PLANTED = [
    ("T1-averages", reported, "mean", wrong_mean, "refuted"),
    ("F3-averages", reported, "mean", wrong_mean, "refuted"),
    ("F4-averages", reported, "mean", wrong_mean, "refuted"),
    ("T1-parameters-allora", reported, "pretrained_parameters", lambda a: 7_000_000_000, "refuted"),
    ("T1-parameters-dora", table_1, "MISPRINTED", {}, "refuted"),
    ("T1-parameters-dora", reported, "pretrained_parameters", lambda a: 7_000_000_000, "refuted"),
    ("T1-dora-rows", table_1, "DORA_PUBLISHED", dict.fromkeys(reported.DORA_PUBLISHED, ()), "refuted"),
    ("4.5-dora-universally", table_1, "DORA_PUBLISHED", LORA_AHEAD, "refuted"),
    ("4.5-dora-every-task", table_1, "DORA_PUBLISHED", DORA_AHEAD, "holds"),
    ("4.5-fewer-parameters", reported, "trainable_parameters", lambda a, r, m: 5 - len(m), "refuted"),
    ("2-follow-up", cited_works, "HAYOU", hayou(arxiv="2412.00001"), "holds"),
    ("2-follow-up", cited_works, "HAYOU", hayou(authors="others"), "refuted"),
    ("2-follow-up", cited_works, "HAYOU", hayou(abstract="one learning rate"), "refuted"),
    ("4.5-dora-setup", cited_works, "DORA_SETUP", trained(epochs=2), "refuted"),
    ("4.5-dora-setup", cited_works, "DORA_SETUP", {}, "refuted"),
    ("4.5-dora-setup", cited_works, "RANKS", (16, 64), "refuted"),
    ("4.5-dora-setup", reported, "trainable_parameters", lambda a, r, m: 32 * 10**6, "refuted"),  # of other modules
    ("4.5-dora-rates", cited_works, "DORA_SETUP", trained(rate=3e-4), "refuted"),
    (
        "4.5-dora-rates",
        cited_works,
        "DORA_SETUP",
        trained(rate=2e-4, of=("LLaMA-7B", "LLaMA3-8B")),
        "refuted",
    ),  # one rate
    ("4.5-dora-rates", cited_works, "DORA_PUBLISHED", LORA_AHEAD | DORA_AHEAD, "refuted"),  # of other rows
    ("4.5-best-of-three", table_1, "expected_maximum", lambda n: table_1.CLOSED_FORM[n] * (1 + 1e-6), "refuted"),
    (
        "4.5-best-average",
        table_1,
        "TABLE_1",
        tuple(dataclasses.replace(r, average=r.average + (r.arm == "DoRA") * 0.1) for r in reported.TABLE_1),
        "refuted",
    ),
    ("T2-derived", reported, "TABLE_2", (FIRST,), "refuted"),
    ("T2-derived", reported, "TABLE_2", (LATE,), "refuted"),
    ("T2-overfit", reported, "TABLE_2", table_2(best=UP, at_epoch_10=(0.0,) * 5), "refuted"),
    ("T2-overfit", reported, "TABLE_2", table_2(best=MIXED, at_epoch_10=(0.0,) * 5), "refuted"),
    ("T2-long", reported, "TABLE_2", table_2(at_epoch_10=(2.0, 1.0, 4.0, 3.0, 5.0)), "refuted"),  # 8 of 10 pairs
    ("T2-short", reported, "TABLE_2", table_2(at_epoch_3=(5.0, 4.0, 4.0, 4.0, 2.0)), "refuted"),  # 7, and three ties
    ("T2-beyond-chance", reported, "TABLE_2", table_2(at_epoch_10=(1.0, 2.0, 5.0, 4.0, 3.0)), "undecided"),  # 7 of 10
    ("T2-beyond-chance", reported, "TABLE_2", table_2(at_epoch_10=(2.0, 1.0, 4.0, 3.0, 5.0)), "undecided"),  # 8 of 10
    ("T2-beyond-chance", reported, "TABLE_2", table_2(at_epoch_3=UP), "refuted"),
    ("T2-epoch-of-best", reported, "TABLE_2", table_2(best_epoch=(5, 4, 3, 2, 1)), "refuted"),
    ("T3-five-runs", accuracies, "reachable_share", lambda d, a: 1.0, "refuted"),  # of made-up numbers all would pass
    ("T3-five-runs", accuracies, "reachable", lambda p, d, a: True, "holds"),
    ("T3-five-runs", accuracies, "frequency", lambda p, d, n, s: 1.0, "holds"),
    ("T3-five-runs", tables_2_to_4, "NO_FIVE", (), "refuted"),
    ("T3-five-runs", reported, "TABLE_3", raised_accuracies(0.01), "refuted"),
    ("T3-five-runs", reported, "TABLE_3", raised_accuracies(0.01, only=78.19), "holds"),
    ("T3-five-runs", reported, "TABLE_3", raised_accuracies(0.01, only=77.71), "refuted"),  # a second one
    ("F3-cells", reported, "EXCHANGED", ("Snowflake-Arctic-L", "yelp", 2.0), "refuted"),
    ("F4-cells", reported, "TABLES", {"Table 4": shifted(reported.TABLE_4, 0.05)}, "refuted"),
    ("F4-cells", reported, "FIGURE_4", one_gap_off(reported.FIGURE_4), "refuted"),  # a first one
    ("D-all-experiments", reported, "TABLE_3", reported.TABLE_3[:9], "refuted"),
    ("5-same-setup", reported, "ETA_SQUARED", (1.0, 2.0), "refuted"),
    ("5-same-setup", reported, "COLUMNS_4", (*reported.COLUMNS_4, ("OpenELM-450M", "imdb")), "refuted"),
    ("5-same-setup", reported, "TABLE_4", shifted(reported.TABLE_4, 0.01), "refuted"),
    ("5-same-setup", reported, "TABLE_4", shifted(reported.TABLE_4, 0.01, "LoRA×η"), "refuted"),
    ("4.4-subpar", reported, "PERCEPTION_LABELS", NO_MAJORITY, "refuted"),
    ("4.4-average", contrasts, "of", of(0.2), "refuted"),
    ("4.5-average", contrasts, "of", of(0.2), "refuted"),
    ("5.1-average", contrasts, "of", of(0.2), "refuted"),
    ("5.2-average-asf", contrasts, "of", of(0.2), "refuted"),
    ("5.2-average-eta", contrasts, "of", of(0.2), "refuted"),
    ("1-consistently-lora", contrasts, "of", of(-0.01), "holds_corrected"),  # behind on yelp, not by Figure 3's numbers
    ("1-consistently-lora", contrasts, "of", of(-0.03), "refuted"),  # by these, too
    ("1-consistently-lora", contrasts, "of", with_dropout, "holds_corrected"),
    ("1-consistently-dora", table_1, "TABLE_1", LLAMA_7B_RAISED, "holds"),
    ("1-consistently-dora", table_1, "TABLE_1", raised_on_llama_7b(0.6, ranks=(16,)), "holds"),  # as it says
    ("D-universally-better", contrasts, "of", of(0.05), "holds"),  # of which yelp's average is behind by less
    ("D-universally-better", contrasts, "of", of(-0.1), "refuted"),
    ("D-universally-better", reported, "with_exchanged", lambda: reported.TABLE_3, "refuted"),
    ("D-universally-better-by-pairs", contrasts, "of", of(0.08), "holds"),
    ("D-universally-better-by-pairs", contrasts, "of", of(0.03), "holds_corrected"),  # Figure 3's two are ahead, too
    ("D-universally-better-cells", contrasts, "of", of(5.0), "holds"),
    ("E-universally-better", contrasts, "of", of(-0.3), "refuted"),
    ("E-universally-better-by-pairs", contrasts, "of", of(0.07), "holds"),
    ("E-universally-better-cells", contrasts, "of", of(5.0), "holds"),
    ("4.4-better-than-lora", contrasts, "of", of(-9.0), "refuted"),
    ("4.4-better-than-lora-beyond-chance", contrasts, "of", of(-0.2), "undecided"),
    ("4.4-better-than-lora-beyond-chance", contrasts, "of", of(-9.0), "refuted"),
    ("A-dropout-free-better", contrasts, "of", of(-9.0), "refuted"),
    ("A-dropout-free-better-beyond-chance", contrasts, "of", of(-0.25), "undecided"),
    ("6-better-than-lora", contrasts, "of", of(-9.0), "refuted"),
    ("4.4-no-difference", contrasts, "of", of(9.0), "refuted"),
    ("4.4-no-difference", contrasts, "of", of(0.2), "undecided"),
    ("4.4-no-difference", contrasts, "of", as_far_as_lora, "undecided"),
    ("4.5-better-than-dora", contrasts, "of", of(-0.1), "refuted"),  # behind in one model's average
    ("4.5-better-than-dora-beyond-chance", contrasts, "of", of(9.0), "holds"),
    ("4.5-allora-0-better-than-dora", contrasts, "of", of(-9.0), "refuted"),
    ("5.1-better-than-od", contrasts, "of", of(-0.1), "refuted"),  # behind in one model's average
    ("5.2-better-than-asf", contrasts, "of", of(-0.5), "undecided"),
    ("5.2-better-than-eta", contrasts, "of", of(-0.5), "undecided"),
    ("5.2-asf-significantly", reported, "panel_cells", raised_gaps(0.2), "holds"),
    ("5.2-asf-lower-beyond-chance", contrasts, "of", of(2.0), "holds"),
    ("5.2-asf-lower-beyond-chance", contrasts, "of", of(-9.0), "refuted"),
    ("5.2-asf-not-better", prose_of_results, "FIGURE_4", (None,) * 3 + (turned(reported.FIGURE_4[3]),), "refuted"),
    ("5.2-asf-not-better-beyond-chance", contrasts, "of", of(-9.0), "refuted"),
    ("5.2-asf-not-better-beyond-chance", contrasts, "of", of(0.5), "holds"),
    ("5.2-better-family", contrasts, "of", of(-0.3), "undecided"),
    ("5.2-better-family", contrasts, "of", of(-9.0), "refuted"),
    ("6-optimal", contrasts, "of", of(-9.0), "refuted"),
    ("6-optimal-beyond-chance", contrasts, "of", of(0.1), "holds"),
    ("6-optimal-beyond-chance", contrasts, "of", of(-9.0), "refuted"),
    ("6-over-backbones", contrasts, "of", of(100.0), "undecided"),  # no gaps whatever decide it, and the row says so
    ("5.2-over-half", prose_of_results, "FIGURE_4", (None,) * 3 + (turned(reported.FIGURE_4[3]),), "refuted"),
    ("4.4-fair-to-lora", reported, "TABLE_3", at_the_last_rate(None), "refuted"),  # one rate fewer
    ("4.4-fair-to-lora", prose_of_results, "RATES", (1e-4, 2e-4, 4e-4), "refuted"),  # other rates than listed
    ("1-no-cross-validation", contrasts, "of", of(-9.0), "refuted"),
    ("4.4-stability", contrasts, "of", of(-0.16), "refuted"),  # behind at η² = 2 alone, with dropout
    ("1-eta-no-cross-validation", procedures, "rises", lambda arm: np.linspace(-0.1, 0.1, 9), "holds"),
]


UNDECIDED = "6-over-backbones"  # whatever the gaps, as its plant shows


@functools.cache
def as_printed(identifier):
    """A row's verdict with nothing planted."""
    return finding(identifier).verdict


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_planted_errors_change_verdicts(monkeypatch, identifier, module, name, wrong, expected):
    assert expected != as_printed(identifier) or identifier == UNDECIDED
    monkeypatch.setattr(module, name, wrong)
    for other in (table_1, prose_of_results, universally, beyond_chance):  # who imported the planted name sees it too
        if module is contrasts and hasattr(other, name):
            monkeypatch.setattr(other, name, wrong)
    if name == "TABLE_1":
        monkeypatch.setattr(contrasts, name, wrong)
    assert finding(identifier).verdict == expected


def test_every_row_has_a_plant():
    assert {identifier for identifier, *_ in PLANTED} == set(CLAIMS)


def test_another_gap_to_dora_than_the_averages_printed_refutes(monkeypatch):
    """Planted beside rows of Table 1 that alone would make the sentence hold."""
    for module in (table_1, contrasts):
        monkeypatch.setattr(module, "TABLE_1", LLAMA_7B_RAISED)
    assert finding("1-consistently-dora").verdict == "holds"
    monkeypatch.setattr(contrasts, "of", of(9.0))
    assert finding("1-consistently-dora").verdict == "refuted"


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
        assert "may be chance" in finding(name).answer
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
    assert (found.verdict, found.at_paper, found.size.value) == ("holds", True, 9)
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
    assert (found.at_paper, found.size.value) == (False, pytest.approx(0.5 / np.sqrt(np.pi)))


UNIVERSAL = re.compile(r"\b(universally|consistently)\b")


def test_a_sentence_that_claims_every_case_is_refuted_by_one_exception(monkeypatch):
    """Planted: one number of many is on the wrong side."""
    one = ("LLaMA3-8B", "DoRA", 32)
    monkeypatch.setattr(table_1, "DORA_PUBLISHED", DORA_AHEAD | {one: (70.0, *DORA_AHEAD[one][1:])})
    found = finding("4.5-dora-every-task")
    assert found.verdict == "refuted"
    assert "31 of 32" in found.answer


def test_consistently_is_true_in_full_only_if_allora_0_is_ahead_of_both(monkeypatch):
    for module in (table_1, contrasts):
        monkeypatch.setattr(module, "TABLE_1", LLAMA_7B_RAISED)
    rows = [finding(f"1-consistently-{arm}") for arm in ("lora", "dora")]
    assert [(one.verdict, one.at_paper) for one in rows] == [("holds", True)] * 2
    assert rows[0].answer.endswith("over DoRA in 5 of 5.")


def test_one_half_alone_makes_the_sentence_mixed():
    found = {arm: finding(f"1-consistently-{arm}") for arm in ("lora", "dora")}
    assert [(one.verdict, one.at_paper) for one in found.values()] == [("holds", "mixed"), ("refuted", False)]


def test_one_arm_makes_the_whole_sentence():
    """ALLoRA-0 in both rows: ahead of LoRA in every average, of DoRA but on LLaMA-7B."""
    over_lora, over_dora = universally.with_fewer()
    assert [part for part, gap in over_lora.items() if gap <= 0] == []
    assert [part for part, gap in over_dora.items() if gap <= 0] == ["LLaMA-7B"]
    assert (len(over_lora), len(over_dora)) == (10, 5)
    assert all(CLAIMS[f"1-consistently-{arm}"].reading.endswith(universally.ONE_ARM) for arm in ("lora", "dora"))


def test_consistently_is_false_of_the_paper_where_the_half_that_is_judged_fails(monkeypatch):
    monkeypatch.setattr(contrasts, "of", of(-0.2))
    assert {finding(f"1-consistently-{arm}").at_paper for arm in ("lora", "dora")} == {False}


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


def test_where_loras_best_lies_is_told_and_decides_nothing(monkeypatch):
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


def test_rows_of_one_sentence_share_its_text():
    texts = {identifier: claim.statement for identifier, claim in CLAIMS.items()}
    for one, other in (
        ("1-consistently-lora", "1-consistently-dora"),
        ("6-better-than-lora", "4.5-better-than-dora"),
        ("5.2-over-half", "5.2-asf-significantly"),
        ("T2-short", "T2-overfit"),
        ("4.4-stability", "1-eta-no-cross-validation"),
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


def test_the_answers_say_what_the_numbers_are():
    words = "ahead in 9 of 10 averages, with Figure 3's numbers in 10; with pairs in 15 of 19."
    assert words in finding("D-universally-better").answer
    words = "ahead in 15 of 19 averages, with Figure 3's numbers in 17, ALLoRA-0 in 18."
    assert words in finding("D-universally-better-by-pairs").answer
    assert "in 19 of 27, with Figure 3's numbers in 20" in finding("D-universally-better-cells").answer
    assert "in all 24 averages; with pairs of model and data set in 40 of 42." in finding("E-universally-better").answer
    assert "in 40 of 42 averages, behind by at most 0.06" in finding("E-universally-better-by-pairs").answer
    assert "in 48 of 54" in finding("E-universally-better-cells").answer
    assert "in all 8 averages and 4 of 6 pairs" in finding("5.1-better-than-od").answer
    one = finding("1-consistently-lora")
    assert "in all 10 averages, with pairs in 18 of 19; over DoRA in 4 of 5." in one.answer
    assert (one.verdict, one.at_paper) == ("holds", "mixed")
    other = finding("1-consistently-dora")
    assert other.answer.endswith("in 4 of 5 averages, 8 of 11 with settings (with dropout 5 of 5).")
    assert other.flips_if == "ALLoRA-0 ahead on average over LLaMA-7B, too"
    assert all(f"4.5-{row}" in CLAIMS["1-consistently-dora"].reading for row in ("better-than-dora", "best-average"))
    assert (other.verdict, other.at_paper) == ("refuted", False)
    assert finding("5.2-over-half").answer.endswith("10 of 18 cells, if 0.08 points count; by 0.25 or more in 8.")
    assert "DoRA is 0.0125 ahead" in finding("4.5-best-average").answer
    assert finding("T3-five-runs").evidence.measured["p_value_of_chance"] < 1e-11
    assert "50 of 51 cells can be means of five runs; 78.19 cannot: a misprint" in finding("T3-five-runs").answer
    gaps = [
        reported.exact(value) - reported.exact(100 * 4173 / 5330) for value in (100 * 4168 / 5330, 100 * 1667 / 2132)
    ]
    assert [f"{float(gap):.2f}" for gap in gaps] == ["-0.09", "-0.10"]
    left = finding("T3-five-runs").evidence.measured
    assert max(left["as often as numbers near it, rounded first"].values()) < tables_2_to_4.RARE / 1000
    assert [*left["a mean of so many"].values()] == [[2, 4, 6]]
    (share,) = (share for name, share in left.items() if name.startswith("share of 77.00, …"))
    assert 0.6 < share < 0.9
    assert finding("D-all-experiments").answer.startswith("Yes, of §4.4: ")
    assert "in 9 of 12 pairs" in finding("D-all-experiments").answer
    for identifier in ("D-all-experiments", "5-same-setup"):
        assert "above 0" not in finding(identifier).evidence.measured
    assert finding("4.5-dora-every-task").answer.endswith("in 28 of 32 (model, rank, task).")
    assert finding("6-better-than-lora").answer.endswith("on 3 of 3 models, 3 of 4 data sets, 3 of 3 rates.")
    assert finding("4.4-better-than-lora").answer.endswith("in 6 of 9 model–data pairs; more than chance (p = 0.016).")
    best = finding("A-dropout-free-better").evidence.measured["each at its best setting"]["as printed"]
    assert (best.mean, best.p_value) == (pytest.approx(0.19, abs=0.005), pytest.approx(0.086, abs=0.0005))
    found = finding("5.2-asf-significantly")
    assert found.evidence.measured["cells lower by so much"] == {"0": 10, "0.125": 9, "0.25": 8, "0.5": 5}
    assert (found.answer, found.at_paper) == ("No: significantly, by 0.25 points or more in 8 of 18 cells.", False)
    found = finding("1-no-cross-validation")
    gaps, other = (found.evidence.measured[name] for name in ("Table 1", "Table 1, judged"))
    told = (min(gaps.values()), max(gaps.values()), other.mean)
    assert "-0.41 to +0.36 points a model and rank, +0.02 on" in CLAIMS["1-no-cross-validation"].reading
    assert told == tuple(pytest.approx(value, abs=0.006) for value in (-0.41, 0.36, 0.02))
    assert (other.verdict, other.p_value) == ("undecided", pytest.approx(0.0625))
