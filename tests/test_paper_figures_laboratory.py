"""The laboratory's figure: from a planted table, from none, and its title says what the table shows."""

from __future__ import annotations

import numpy as np
import pytest

from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.design import contrasts
from allora_analysis.laboratory.table import Row
from paper_figures import laboratory
from tests.figure_layout import assert_readable

GAIN = {"allora_adamw": 0.03, "dora": -0.01}


def plant(folder, skip=()):
    table = tables.begin(folder / "digits.jsonl", tables.header("digits", "0", 5, 10_000))
    cells = dict.fromkeys(cell for one in contrasts() for cell in (one.first, one.second))
    for index, cell in enumerate(cells):
        tables.add(table, (cell, 0.1, 1000, 5), Row((0.5,) * 5, (0,) * 5, (1.0,) * 5))
        tables.add(table, (cell, 0.056, 1000, 5), Row((0.7,) * 5, (0,) * 5, (1.0,) * 5))
        tables.add(table, (cell, 0.18, 1000, 5), Row((0.7,) * 5, (0,) * 5, (1.0,) * 5))
        seeds = 10 if cell in skip else 200
        draws = np.random.default_rng(index).normal(0.0, 0.002, 200)
        others = {*table.candidates(cell), *table.candidates(cell, fine=True)} - {0.1}
        shares = 0.8 + GAIN.get(cell.rule, 0.0) + draws
        losses = tuple(float(round(0.5 - value, 6)) for value in draws)
        for start in range(0, seeds, 10):
            chunk = slice(start, start + 10)
            right = tuple(int(one) for one in 10_000 * shares[chunk])
            for rate in sorted(others):
                tables.add(table, (cell, rate, start, 10), Row((0.7,) * 10, (0,) * 10, (1.0,) * 10))
            tables.add(table, (cell, 0.1, start, 10), Row((0.5,) * 10, right, losses[chunk]))


def test_it_is_drawn_from_the_table_and_its_title_says_the_finding(tmp_path):
    plant(tmp_path)
    loaded = laboratory.load_data(tmp_path)
    assert loaded.missing == ()
    assert sum(len(of) for of in loaded.data.of["accuracy"].values()) == len(contrasts())
    one = loaded.data.of["accuracy"]["ALLoRAAdamW − LoRA, adamw"][50]
    assert one.mean == pytest.approx(0.03, abs=0.002)
    figure = laboratory.make_figure(loaded)
    title = figure.get_suptitle()
    assert title == laboratory.finding(loaded.data)
    assert f"of {len(contrasts())} contrasts are clear in accuracy" in title
    assert "The largest in accuracy: ALLoRAAdamW − LoRA, AdamW, " in title
    left, right = figure.axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert "LoRA+ − LoRA, AdamW" in names
    assert "constant − inverse square root, SGD" in names
    assert len(left.get_yticklabels()) == len(contrasts()) / 2
    assert "points of test accuracy" in left.get_xlabel()
    assert "nats of test loss" in right.get_xlabel()
    assert_readable(figure)


def test_what_lacks_seeds_is_left_out_and_named(tmp_path):
    one = contrasts()[0]
    plant(tmp_path, skip=(one.first,))
    loaded = laboratory.load_data(tmp_path)
    (missing,) = loaded.missing
    assert "contrasts lack some of their seeds" in missing.what
    assert missing.command == "python -m experiments.laboratory --part contrasts"
    drawn = [(name, steps) for name, of in loaded.data.of["loss"].items() for steps in of]
    assert (one.name.rpartition(", ")[0], one.first.steps) not in drawn
    assert_readable(laboratory.make_figure(loaded))


def test_without_a_table(tmp_path):
    loaded = laboratory.load_data(tmp_path)
    assert loaded.missing[0].what == f"{len(contrasts())} of {len(contrasts())} contrasts lack some of their seeds"
    assert_readable(laboratory.make_figure(loaded))
