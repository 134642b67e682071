"""Contrasts between reported arms: against enumeration of all signs, SciPy's own tests, and the power function."""

import itertools

import numpy as np
import pytest

from allora_analysis.claims.tables import contrasts, study
from allora_analysis.statistics import power, units_to_reject


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


def flips(values):
    """Every sign pattern, one by one."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
    return np.mean(np.abs(signs @ values) >= abs(np.sum(values)) * (1 - 1e-12))


def test_summaries_against_enumeration_and_scipy():
    from scipy import stats

    found = study.contrast_summaries()
    p_values = []
    for contrast in contrasts.CONTRASTS:
        item, values = found[contrast.name], contrasts.gaps(contrast.table, contrast.better, contrast.worse)
        means = np.array(list(values.by_cluster().values()))
        p_values.append(flips(means))
        assert item.p_value == pytest.approx(p_values[-1], abs=1e-12)
        assert item.smallest_p_value == 2.0 ** (1 - means.size)
        assert item.t_p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=1e-9)
        assert item.interval == pytest.approx(stats.ttest_1samp(means, 0).confidence_interval(0.95), rel=1e-9)
        assert (item.cells, item.mean) == (values.values.size, pytest.approx(values.values.mean()))
        assert item.positive + item.negative + int((values.values == 0).sum()) == item.cells
    order = np.argsort(p_values)
    running, expected = 0.0, np.empty(9)
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (9 - rank) * p_values[index]))
        expected[index] = running
    np.testing.assert_allclose([item.adjusted_p_value for item in found.values()], expected, atol=1e-12)


def test_smallest_adjusted_p_value_against_drawn_families(rng):
    """No family of p-values that so many clusters can give comes below it, and gaps of one sign come down to it."""
    clusters = [9, 9, 6, 6, 6, 6, 6, 6, 6]
    least = np.array(study.smallest_adjusted(clusters))
    assert least.tolist() == pytest.approx([9 / 256] * 2 + [7 / 32] * 7)
    for _ in range(200):
        drawn = [flips(rng.standard_normal(n) + rng.choice([0, 3])) for n in clusters]
        assert np.all(study.holm(drawn) >= least - 1e-12)
    np.testing.assert_allclose(study.holm([flips(np.ones(n)) for n in clusters]), least)
    assert [item.smallest_adjusted_p_value for item in study.contrast_summaries().values()] == least.tolist()


@pytest.mark.parametrize("level", [0.5, 0.05, 0.00625, 0.001])
def test_the_least_clusters_of_two_sided_flips(level):
    least = units_to_reject(level / 2)
    assert flips(np.ones(least)) <= level
    assert flips(np.ones(least - 1)) > level


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


def test_clusters_needed_and_seeds_needed_are_minimal():
    means = [0.9, 0.2, 0.5, 0.1]
    n = study.clusters_needed(means, 0.05, 0.8, family=1)
    deviation = float(np.std(means, ddof=1))
    assert power(n, np.mean(means), deviation) >= 0.8 > power(n - 1, np.mean(means), deviation)
    assert study.clusters_needed([1.0, -1.0], 0.05, 0.8) is None
    assert study.clusters_needed([1.0, 1.01, 1.02], 0.05, 0.8) == 9  # the spread asks for fewer, the flips do not
    for std, seeds in study.seeds_needed(0.28, (0.1, 0.5, 2.0)).items():
        assert power(seeds, 0.28, std) >= 0.8 > power(max(seeds - 1, 2), 0.28, std) - (seeds <= 3)
    assert study.seeds_needed(0.0, (0.5,)) == {0.5: None}
