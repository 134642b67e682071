"""Proof-reading of `claims/tables/reported`: every cell against a second transcription of the paper's text."""

import dataclasses
import re

import pytest

from allora_analysis.claims.tables import reported
from tests.brute_force import reported_transcription as text


def fields(block: str) -> list[list[str]]:
    return [[field.strip() for field in line.split("|")] for line in block.strip("\n").split("\n")]


def numbers(row: list[str]) -> list[float]:
    return [float(field.rstrip("%")) for field in row if re.fullmatch(r"-?\d+(\.\d+)?%?", field)]


def test_table_1():
    rows = fields(text.TABLE_1)
    assert len(rows) == len(reported.TABLE_1) == 18
    for row, (_, arm, *printed) in zip(reported.TABLE_1, rows, strict=True):
        assert row.arm == arm.removesuffix(" (ours)")
        assert [row.parameters, *row.accuracies, row.average] == [float(number) for number in printed]
    blocks = [(row.model, row.rank) for row in reported.TABLE_1[::3]]
    assert blocks == [(model, rank) for model in ("LLaMA-7B", "LLaMA2-7B", "LLaMA3-8B") for rank in (16, 32)]


def test_table_2():
    printed = [[float(number) for number in row[1:]] for row in fields(text.TABLE_2)]
    assert [list(column) for column in zip(*printed, strict=True)] == [
        list(dataclasses.astuple(column)) for column in reported.TABLE_2
    ]


def table_cells(cells):
    """{(η², arm): the row's accuracies in column order}."""
    rows: dict = {}
    for cell in cells:
        rows.setdefault((cell.eta_squared, cell.arm), []).append(cell.accuracy)
    return rows


def test_table_3():
    printed = [[float(number) for number in row[2:]] for row in fields(text.TABLE_3)]
    order = [(eta, arm) for eta in (1.0, 2.0, 4.0) for arm in ("LoRA", "ALLoRA", "ALLoRA-0")]
    assert table_cells(reported.TABLE_3) == dict(zip(order, printed, strict=True))
    assert [row[1].removesuffix(" (ours)") for row in fields(text.TABLE_3)] == [arm for _, arm in order]
    assert {(cell.model, cell.dataset) for cell in reported.TABLE_3} == set(reported.COLUMNS_3)


def test_table_4():
    printed = [[float(number) for number in row[2:8]] for row in fields(text.TABLE_4)]
    order = [(eta, arm) for eta in (1.0, 2.0, 4.0) for arm in ("ALLoRA", "ALLoRA-OD", "ASF-LoRA", "LoRA×η")]
    assert table_cells(reported.TABLE_4) == dict(zip(order, printed, strict=True))
    labels = [row[1].removesuffix(" (ours)") for row in fields(text.TABLE_4)]
    assert [label for label in labels if "times" not in label and "imes" not in label] == [
        arm for _, arm in order if arm != "LoRA×η"
    ]


SHORT = {
    "Qwen2-0.5b": "Qwen2-0.5B",
    "Artic-l": "Snowflake-Arctic-L",
    "Artic-I": "Snowflake-Arctic-L",
    "Open450m": "OpenELM-450M",
    "bib": "bias_in_bios",
    "emo": "emotion",
    "rott": "rotten_tomatoes",
    "yelp": "yelp",
}


def assert_panel(panel, rows, names):
    for row, name, printed in zip(panel.rows, names, rows, strict=True):
        assert (row.model, row.dataset) == tuple(SHORT[part] for part in name.split(":"))
        assert [*row.gaps, row.average] == printed


@pytest.mark.parametrize("block", ["FIGURE_3", "FIGURE_4_TOP"])
def test_upper_panels(block):
    panels = reported.FIGURE_3 if block == "FIGURE_3" else reported.FIGURE_4[:2]
    lines = [re.sub(r"^\d+ \| ", "", line) for line in getattr(text, block).strip("\n").split("\n")]
    rows = [line.split(" | ") for line in lines]
    for panel, start in zip(panels, (0, 5), strict=True):
        side = [row[start : start + 5] for row in rows]
        assert_panel(panel, [numbers(row) for row in side[:-1]], [row[0] for row in side[:-1]])
        assert side[-1][0] == "Average"
        assert [*panel.column_averages, panel.average] == numbers(side[-1])


def test_lower_panels():
    before, last = ([re.findall(r"-?\d+\.\d+(?=%)", field) for field in row] for row in fields(text.FIGURE_4_BOTTOM))
    before, last = ([column for column in line if column] for line in (before, last))
    # One minus sign is lost in the last line and stands in the line before it (see figures.py).
    lost = [
        (column, row)
        for column, (old, new) in enumerate(zip(before, last, strict=True))
        for row, value in enumerate(old)
        if value != new[row]
    ]
    assert lost == [(6, 1)]
    assert (before[6][1], last[6][1]) == ("-0.71", "0.71")
    last[6][1] = before[6][1]
    rows = [[float(column[row]) for column in last] for row in range(6)]
    names = ["Qwen2-0.5b:emo", "Qwen2-0.5b:rott", "Artic-l:emo", "Artic-l:rott", "Open450m:emo", "Open450m:rott"]
    for panel, start in zip(reported.FIGURE_4[2:], (0, 4), strict=True):
        assert_panel(panel, [row[start : start + 4] for row in rows], names)
        assert panel.column_averages is None
        assert panel.average is None


def test_dora_setup():
    """Typed in from the README and the scripts; here from the paper's Table 8."""
    models = ("LLaMA-7B", "LLaMA-13B", "LLaMA2-7B", "LLaMA3-8B")
    rates = (2e-4, 1e-4, 3e-4, 2e-4, 2e-4, 2e-4, 1e-4, 1e-4)
    keys = [(model, rank) for model in models for rank in (16, 32)]
    published = {key: reported.Training(rate, 3) for key, rate in zip(keys, rates, strict=True)}
    assert published == reported.DORA_SETUP


def test_one_wrong_digit_is_caught():
    """The comparison can fail: a cell changed in its last digit is no longer the printed one."""
    printed = [[float(number) for number in row[2:]] for row in fields(text.TABLE_3)]
    cell = dataclasses.replace(reported.TABLE_3[0], accuracy=70.82)
    assert table_cells((cell, *reported.TABLE_3[1:]))[1.0, "LoRA"] != printed[0]


def test_label_counts_add_up():
    emotion = reported.PERCEPTION_LABELS["emotion"]
    assert sum(int(number) for number in re.findall(r"(?<= )\d+(?=,|$)", emotion.source)) == emotion.examples
    for counts in (*reported.PERCEPTION_LABELS.values(), *reported.COMMONSENSE_LABELS.values()):
        if counts.majority is not None:
            assert counts.majority_percent == pytest.approx(100 * counts.majority / counts.examples, abs=1e-12)
