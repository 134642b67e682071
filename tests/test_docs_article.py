"""The article's numbers and its sources: what is computed, and that the prose says what the numbers say."""

import re

import numpy as np
import pytest

pytest.importorskip("mkdocstrings_handlers.python")

from allora_analysis.claims.ledger import Row, all_claims
from allora_analysis.claims.masked_descent import Sgd, risks
from docs.site import article, explorables

TEXT = article.SOURCE.read_text(encoding="utf-8")
ASKED = article.PLACEHOLDER.findall(TEXT)


def test_it_has_eight_screens_and_five_pictures():
    assert re.findall(r"^## (\d)\.", TEXT, re.MULTILINE) == [str(n) for n in range(1, 9)]
    assert [name for kind, name in ASKED if kind == "explorable"] == ["weight", "ridge", "step", "pays"]
    assert ("runs", "") in ASKED


def test_every_placeholder_is_known():
    ids = {claim.id for claim in all_claims()}
    numbers, figures = article.numbers(), explorables.EXPLORABLES
    for kind, name in ASKED:
        assert name in {"number": numbers, "explorable": figures, "runs": {""}}.get(kind, ids), (kind, name)


def test_a_filled_page_has_no_placeholder_left():
    rows = [Row(claim, None, "planted") for claim in all_claims()]
    page = article.page(rows)
    assert "{{" not in page
    assert page.count("data-explore=") == 4
    assert "claims/3.1-sgd-variance.md" in page


def test_no_number_stands_in_the_prose_that_a_row_or_a_closed_form_could_contradict():
    prose = re.sub(r"\{\{.*?\}\}|^## \d\.|\(\d(, \d)*\)", "", TEXT, flags=re.MULTILINE)
    allowed = {"200", "3", "1", "0.05", "2", "31", "300", "50"}  # masks drawn, a section, a step, a drop rate
    assert set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"\]\(.*?\)", "", prose))) <= allowed


def test_the_race_is_that_of_moments_summed_over_masks():
    with_dropout, without = article.race()
    singular = np.geomspace(1, 1 / 4, 4)
    x = singular * np.cos(np.pi * (np.arange(8)[:, None] + 0.5) * np.arange(1, 5) / 8) / 2
    assert np.allclose(np.linalg.svd(x, compute_uv=False), singular)
    w = np.full(4, 0.5)
    noise = article.NOISE * np.linalg.norm(x @ w) / np.sqrt(8)
    one = Sgd(x, w, noise, article.KEEP, 0.1 * article.KEEP, 20, "output")
    for found, keep_prob in ((with_dropout, article.KEEP), (without, 1.0)):
        signal, labels = risks(one, keep_prob)
        assert np.allclose(found[:21], signal + noise**2 * labels, rtol=1e-9)


def test_what_the_sixth_screen_says_of_the_race():
    with_dropout, without = article.race()
    assert with_dropout[-1] < without[-1]  # in the long run dropout is ahead in this setting
    assert with_dropout[1] > without[1]  # and behind at first
    assert abs(with_dropout.min() / without.min() - 1) < 0.05  # stopped in time, the two are near


def test_the_runs_are_the_records_own():
    gaps = article.differences()
    assert {len(values) for values in gaps.values()} == {int(article.numbers()["seeds"])}
    few, many = (gaps[0.4, steps].mean() for steps in (50, 300))
    assert few < 0 < many
    assert abs(gaps[0.05, 50].mean()) < 2 * gaps[0.05, 50].std(ddof=1) / np.sqrt(len(gaps[0.05, 50]))  # told from none?
    drawn = article.runs()
    assert drawn.count('r="2.5"') == sum(map(len, gaps.values()))
    assert f"{few:+.1f}" in drawn
