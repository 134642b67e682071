"""Contrasts between reported arms: against enumeration of all signs, SciPy's interval, and the power function."""

import itertools

import numpy as np
import pytest

from allora_analysis.claims.tables import contrasts, study
from allora_analysis.statistics import power


def test_gaps_are_antisymmetric_and_cluster_means_by_hand():
    one, other = (contrasts.gaps("Table 3", *pair) for pair in (("ALLoRA", "LoRA"), ("LoRA", "ALLoRA")))
    np.testing.assert_array_equal(one.values, -other.values)
    means = one.by_cluster()
    assert len(means) == 9
    assert means["Qwen2-0.5B", "emotion"] == pytest.approx((1.59 + 0.76 + 0.32) / 3)
    assert list(contrasts.gaps("Table 1", "ALLoRA", "DoRA").by_cluster()) == [
        (model, f"r = {rank}") for model in ("LLaMA-7B", "LLaMA2-7B", "LLaMA3-8B") for rank in (16, 32)
    ]
    assert contrasts.gap(0.3, 0.1) == 0.2  # 0.3 − 0.1 in floats is not


def test_summaries_by_hand_and_against_scipy():
    from scipy import stats

    found = study.contrast_summaries()
    assert list(found) == [contrast.name for contrast in contrasts.CONTRASTS]
    for contrast in contrasts.CONTRASTS:
        item, values = found[contrast.name], contrasts.gaps(contrast.table, contrast.better, contrast.worse)
        means = np.array(list(values.by_cluster().values()))
        assert item.interval == pytest.approx(stats.ttest_1samp(means, 0).confidence_interval(0.95), rel=1e-9)
        assert (item.cells, item.mean) == (values.values.size, pytest.approx(values.values.mean()))
        assert item.positive + item.negative + int((values.values == 0).sum()) == item.cells
        assert (item.clusters, item.clusters_positive) == (means.size, np.sum(means > 0))


def one_sided(values):
    signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    return np.mean(signs @ values >= np.sum(values) - 1e-9)


@pytest.mark.parametrize("names", contrasts.QUESTIONS.values())
def test_the_rule_is_one_sided_and_within_the_question(names):
    """Against enumeration, Holm by hand; equality by its two sides."""
    found, means = contrasts.judged(contrasts.family(names[0])), contrasts.family(names[0])
    raw = [
        max(one_sided(contrasts.MARGIN + sign * means[name]) for sign in (1, -1))
        if name == contrasts.EQUAL.name
        else one_sided(means[name])
        for name in names
    ]
    assert [found[name].p_value for name in names] == pytest.approx(raw)
    running = 0.0
    for rank, index in enumerate(np.argsort(raw, kind="stable")):
        running = max(running, min(1.0, (len(raw) - rank) * raw[index]))
        assert found[names[index]].adjusted_p_value == pytest.approx(running)


def test_every_contrast_has_one_question():
    asked = [name for names in contrasts.QUESTIONS.values() for name in names]
    assert sorted(asked) == sorted(contrasts.BY_NAME)
    assert all(len({contrasts.BY_NAME[name].table for name in names}) == 1 for names in contrasts.QUESTIONS.values())


def test_the_other_margins_are_half_and_twice_the_margin():
    (found,) = contrasts.at_other_margins().values()
    assert [float(margin) / contrasts.MARGIN for margin in found] == [0.5, 2.0]


def test_seeds_needed_are_minimal():
    for std, seeds in study.seeds_needed(0.28, (0.1, 0.5, 2.0)).items():
        assert power(seeds, 0.28, std) >= 0.8 > power(max(seeds - 1, 2), 0.28, std) - (seeds <= 3)
    assert study.seeds_needed(0.0, (0.5,)) == {0.5: None}
