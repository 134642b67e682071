"""The ledger's rows about the reported numbers: planted errors must change their verdicts."""

import dataclasses

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
from tests.planted_tables import (
    CLAIMS,
    DORA_AHEAD,
    FIRST,
    LATE,
    LLAMA_7B_RAISED,
    LORA_AHEAD,
    MIXED,
    MORE_PARAMETERS,
    NO_MAJORITY,
    UP,
    as_far_as_lora,
    at_the_last_rate,
    hayou,
    of,
    one_gap_off,
    raised_accuracies,
    raised_gaps,
    raised_on_llama_7b,
    shifted,
    table_2,
    trained,
    turned,
    without_dropout,
    without_dropout_in_table_1,
    wrong_mean,
)

finding = CLAIMS.finding


@pytest.mark.parametrize("identifier", CLAIMS)
def test_every_row_says_what_would_change_it(identifier):
    found = CLAIMS.as_is(identifier)
    assert found.answer
    assert found.flips_if
    assert "cluster" not in f"{found.corrected} {found.flips_if}"
    assert (found.corrected is not None) == (found.verdict in ("holds_corrected", "undecided"))
    assert (found.condition is not None) == (found.verdict == "conditional")
    if "adjusted_p_value" in found.evidence.measured:
        assert {"p_value", "smallest_p_value"} <= set(found.evidence.measured)


PLANTED = [
    ("T1-averages", reported, "mean", wrong_mean, "refuted"),
    ("F3-averages", reported, "mean", wrong_mean, "refuted"),
    ("F4-averages", reported, "mean", wrong_mean, "refuted"),
    ("T1-parameters-allora", reported, "pretrained_parameters", lambda a: 7_000_000_000, "refuted"),
    ("T1-parameters-allora-rounded", reported, "pretrained_parameters", lambda a: 7_000_000_000, "refuted"),
    ("T1-parameters-dora", table_1, "MISPRINTED", {}, "refuted"),
    ("T1-parameters-dora", reported, "pretrained_parameters", lambda a: 7_000_000_000, "refuted"),
    ("T1-dora-rows", table_1, "DORA_PUBLISHED", dict.fromkeys(reported.DORA_PUBLISHED, ()), "refuted"),
    ("4.5-dora-universally", table_1, "DORA_PUBLISHED", LORA_AHEAD, "refuted"),
    ("4.5-dora-every-task", table_1, "DORA_PUBLISHED", DORA_AHEAD, "holds"),
    ("4.5-fewer-parameters", reported, "trainable_parameters", lambda a, r, m: 5 - len(m), "refuted"),
    ("4.5-fewer-parameters", table_1, "TABLE_1", MORE_PARAMETERS, "refuted"),  # in print, in one setting
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
    ("T3-five-runs", tables_2_to_4, "EXEMPT", 0, "refuted"),
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
    ("1-consistently-lora", contrasts, "of", of(0.05), "holds"),  # ahead on yelp in Table 3, too
    ("1-consistently-lora", contrasts, "of", of(-0.01), "refuted"),  # behind there by Figure 3's numbers, too
    ("1-consistently-lora", contrasts, "of", without_dropout, "holds"),
    ("1-consistently-dora", contrasts, "of", of(-0.08), "refuted"),  # behind on LLaMA-7B
    ("1-consistently-dora", contrasts, "of", without_dropout, "refuted"),
    ("1-consistently-dora-without-dropout", table_1, "TABLE_1", LLAMA_7B_RAISED, "holds"),
    (
        "1-consistently-dora-without-dropout",
        table_1,
        "TABLE_1",
        raised_on_llama_7b(0.6, ranks=(16,)),
        "holds",
    ),  # as it says
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
    ("4.5-better-than-dora-beyond-chance", contrasts, "of", of(-9.0, "ALLoRA-0 − DoRA"), "refuted"),  # one arm alone
    ("5.1-better-than-od", contrasts, "of", of(-0.1), "refuted"),  # behind in one model's average
    ("5.2-better-than-asf", contrasts, "of", of(-0.5), "undecided"),
    ("5.2-better-than-eta", contrasts, "of", of(-0.5), "undecided"),
    ("5.2-asf-significantly", reported, "panel_cells", raised_gaps(0.2), "holds"),
    ("5.2-asf-lower-beyond-chance", contrasts, "of", of(2.0), "holds"),
    ("5.2-asf-lower-beyond-chance", contrasts, "of", of(-9.0), "refuted"),
    ("5.2-asf-not-better", prose_of_results, "FIGURE_4", (None,) * 3 + (turned(reported.FIGURE_4[3]),), "refuted"),
    ("5.2-better-family", contrasts, "of", of(-0.3), "undecided"),
    ("5.2-better-family", contrasts, "of", of(-9.0), "refuted"),
    ("6-optimal", contrasts, "of", of(-9.0), "refuted"),
    ("6-optimal-beyond-chance", contrasts, "of", of(0.1), "holds"),
    ("6-optimal-beyond-chance", contrasts, "of", of(-9.0), "refuted"),
    ("6-over-backbones", contrasts, "of", of(100.0), "undecided"),  # no gaps whatever decide it, and the row says so
    ("5.2-over-half", prose_of_results, "FIGURE_4", (None,) * 3 + (turned(reported.FIGURE_4[3]),), "refuted"),
    ("4.4-fair-to-lora", reported, "TABLE_3", at_the_last_rate(None), "refuted"),  # one rate fewer
    ("4.4-fair-to-lora", reported, "TABLE_3", at_the_last_rate(-9.0, "ALLoRA"), "refuted"),  # LoRA alone is cut short
    ("4.4-fair-to-lora", prose_of_results, "RATES", (1e-4, 2e-4, 4e-4), "refuted"),  # other rates than listed
    ("4.4-fair-to-lora", prose_of_results, "RATES", (5e-5, 2**0.5 * 5e-5, 1e-4), "refuted"),  # half of them
    ("1-no-cross-validation", contrasts, "of", of(-9.0), "refuted"),
    ("1-no-cross-validation", contrasts, "TABLE_1", without_dropout_in_table_1(-5.0), "refuted"),
    ("4.4-stability", contrasts, "of", of(-0.16), "refuted"),  # behind at η² = 2 alone, with dropout
    ("1-eta-no-cross-validation", procedures, "rises", lambda arm: np.linspace(-0.1, 0.1, 9), "holds"),
]


UNDECIDED = "6-over-backbones"  # whatever the gaps, as its plant shows


@pytest.mark.parametrize(("identifier", "module", "name", "wrong", "expected"), PLANTED)
def test_planted_errors_change_verdicts(monkeypatch, identifier, module, name, wrong, expected):
    assert expected != CLAIMS.as_is(identifier).verdict or identifier == UNDECIDED
    monkeypatch.setattr(module, name, wrong)
    for other in (table_1, prose_of_results, universally, beyond_chance):  # who imported the planted name sees it too
        if module is contrasts and hasattr(other, name):
            monkeypatch.setattr(other, name, wrong)
    if name == "TABLE_1":
        monkeypatch.setattr(contrasts, name, wrong)
    assert finding(identifier).verdict == expected


def test_every_row_has_a_plant():
    assert {identifier for identifier, *_ in PLANTED} == set(CLAIMS)
