"""The paper's tables as Markdown and LaTeX: every printed cell against `reported`, ours against planted records."""

import re

import numpy as np
import pytest

from allora_analysis.claims.tables import reported
from allora_analysis.grid.presets import LISTS
from paper_figures import table_1, table_2, table_3, table_4, tables
from paper_figures.sources import Loaded
from paper_figures.tables import NONE, Table, averaged, latex
from tests.planted_finetune import level, plant

MODULES = {"table_1": table_1, "table_2": table_2, "table_3": table_3, "table_4": table_4}


def without_records(module) -> Loaded:
    return module.load_data() if module is table_1 else module.load_data("nowhere")


@pytest.fixture(scope="module", params=MODULES)
def table(request):
    module = MODULES[request.param]
    return module.make_table(without_records(module))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for name in ("ablation", "dropout_rates", "perception"):
        plant(folder, LISTS[name]["desk"])
    return folder


def grid(table: Table) -> list[list[str]]:
    """The Markdown's cells, headings first, without the line of dashes."""
    lines = [line for line in table.markdown("{}").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert cells[1] == ["---"] * len(cells[0])
    return [cells[0], *cells[2:]]


def test_every_line_has_every_column(table):
    heads, *rows = grid(table)
    assert rows
    assert all(len(row) == len(heads) for row in rows)
    assert sum(columns for _, columns in table.groups) == len(heads)
    assert any(head.startswith("the paper: ") for head in heads)
    assert any(head.startswith("ours: ") for head in heads)


def test_table_1():
    heads, *rows = grid(table_1.make_table(table_1.load_data()))
    assert [head.removeprefix("the paper: ") for head in heads[4:13]] == [*reported.TASKS, "avg"]
    for row, printed in zip(rows, reported.TABLE_1, strict=True):
        assert row[:3] == [printed.model, str(printed.rank), printed.arm]
        numbers = (printed.parameters, *printed.accuracies, printed.average)
        assert [float(cell) for cell in row[3:13]] == list(numbers)
        assert float(row[14]) == pytest.approx(np.mean(printed.accuracies), abs=5.1e-4)
        assert row[15] == NONE


def test_table_2_as_printed():
    _, *rows = grid(table_2.make_table(table_2.load_data("nowhere")))
    for row, printed in zip(rows[:5], reported.TABLE_2, strict=True):
        numbers = (printed.drop_rate, printed.at_epoch_3, printed.at_epoch_10, printed.best, printed.best_epoch)
        assert [float(cell) for cell in row[:5]] == list(numbers)
        assert row[5:] == [NONE] * 4
    assert [row[0] for row in rows[5:]] == ["0.1, bottleneck", "0.4, bottleneck"]
    assert all(row[1:] == [NONE] * 8 for row in rows[5:])


@pytest.mark.parametrize(
    ("module", "cells", "columns"),
    [(table_3, reported.TABLE_3, reported.COLUMNS_3), (table_4, reported.TABLE_4, reported.COLUMNS_4)],
)
def test_tables_3_and_4_as_printed(module, cells, columns):
    heads, *rows = grid(module.make_table(module.load_data("nowhere")))
    places = {column: heads.index(f"the paper: {', '.join(column)}") for column in columns}
    by_row = {(float(row[0]), row[1]): row for row in rows}
    for cell in cells:
        printed = by_row[cell.eta_squared, cell.arm][places[cell.model, cell.dataset]]
        assert printed == f"{cell.accuracy:.2f}"
    filled = sum(cell != NONE for row in rows for cell in row[2:])
    assert filled == len(cells)  # and nothing else: no cell of ours is made up


def test_table_2_ours(recorded):
    loaded = table_2.load_data(recorded)
    assert (loaded.missing, len(loaded.records)) == ((), 21)
    _, *rows = grid(table_2.make_table(loaded))
    case = [run for run in LISTS["dropout_rates"]["desk"] if (run.placement, run.drop_rate) == ("input", 0.1)]
    early, late = ([100 * (level(run) + 0.01 * (epoch - 1)) for run in case] for epoch in (3, 8))
    assert rows[2][5:] == [averaged(early), averaged(late), averaged(late), "8"]
    assert NONE not in [cell for row in rows for cell in row[5:]]


def test_table_3_ours(recorded):
    loaded = table_3.load_data(recorded)
    assert loaded.missing == ()
    heads, *rows = grid(table_3.make_table(loaded))
    column = heads.index("ours: all-MiniLM-L6-v2, rotten_tomatoes")
    by_row = {(float(row[0]), row[1]): row[column] for row in rows}
    runs = LISTS["perception"]["desk"]

    def expected(**fields):
        same = [run for run in runs if all(getattr(run, name) == value for name, value in fields.items())]
        assert len(same) == 3
        return averaged([100 * (level(run) + 0.01) for run in same], 2)

    assert by_row[4, "ALLoRA"] == expected(arm="allora", eta2=4)
    assert by_row[4, "LoRA"] == expected(arm="lora", head_learning_rate=2e-4)
    assert by_row[4, "LoRA, classifier at l_b"] == expected(arm="lora", learning_rate=2e-4, head_learning_rate=1e-4)
    assert by_row[1, "LoRA"] == by_row[1, "LoRA, classifier at l_b"]
    assert all(" ± " in cell for cell in by_row.values())


def test_a_page_begins_with_what_came_out(recorded):
    """The recorded accuracies are planted: 1 point over two epochs, whatever the arm."""
    first = table_1.make_table(table_1.load_data())
    assert first.finding.startswith("Minus DoRA, on average in print: ALLoRA +0.32 points, ahead in 4 of 6 settings; ")
    assert first.markdown("{}").startswith(f"# Table 1\n\n**{first.finding}**\n\n")
    assert tables.latex(first.finding) in first.latex("{}")
    printed = table_3.make_table(table_3.load_data("nowhere")).finding
    assert printed == "From η² = 1 to 4 ALLoRA's accuracy moves in print by +2.3 points, LoRA's by +2.6."
    assert table_3.make_table(table_3.load_data(recorded)).finding.startswith(f"{printed[:-1]}; in ours, AdamW's, by ")
    second, fourth = (one.make_table(one.load_data(recorded)).finding for one in (table_2, table_4))
    assert second.startswith(
        "From drop rate 0 to 0.4 accuracy moves in print by -0.7 points after epoch 3 and by +2.7 "
    )
    assert second.endswith(", where the model's own dropout of 0.1 stays on (intervals below).")
    printed = "ALLoRA minus ALLoRA-OD +0.3, ASF-LoRA +1.0, LoRA×η +0.9 points in print on average"
    assert fourth.startswith(f"{printed}; in ours, AdamW's, on one pair, ")
    for one in (table_3, table_4):
        assert "Ours, AdamW: means over 3 seeds ± " in one.make_table(one.load_data("nowhere")).caption
    assert "; in ours" not in table_4.make_table(table_4.load_data("nowhere")).finding


def test_table_4_ours(recorded):
    heads, *rows = grid(table_4.make_table(table_4.load_data(recorded)))
    column = heads.index("ours: all-MiniLM-L6-v2, rotten_tomatoes")
    assert all(" ± " in row[column] for row in rows)
    same = [run for run in LISTS["ablation"]["desk"] if (run.arm, run.eta2) == ("asf_lora", 2)]
    wanted = averaged([100 * (level(run) + 0.01) for run in same], 2)
    assert [row[column] for row in rows if row[:2] == ["2", "ASF-LoRA"]] == [wanted]


def test_what_is_missing_is_a_note(table):
    if table.title != "Table 1":
        assert any("are not recorded; `python -m experiments." in note for note in table.notes)


def unescaped(text: str, mark: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(mark)}", text))


def test_latex_is_balanced_and_ascii(table):
    text = table.latex('{"records": []}')
    comment, _, body = text.partition("\n")
    assert comment.startswith(f"% {table.title}; source: ")
    assert body.isascii()
    assert unescaped(body, "{") == unescaped(body, "}")
    assert unescaped(body, "$") % 2 == 0
    for line in body.splitlines():  # no cell reaches over a line
        assert unescaped(line, "$") % 2 == 0
        if "tabular" not in line and "resizebox" not in line:
            assert unescaped(line, "{") == unescaped(line, "}")
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", body) for word in ("begin", "end"))
    assert begun == ended[::-1] == ["table", "tabular"]
    assert unescaped(body.replace("{!}{%", ""), "%") == 0
    assert [body.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]


def test_latex_has_every_column_in_every_row(table):
    body = table.latex("{}")
    kinds = re.search(r"\\begin{tabular}{([lr]+)}", body)[1]
    assert len(kinds) == len(table.columns)
    inside = body.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in inside.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 2 + len(table.rows)
    groups, *others = rows
    assert sum(map(int, re.findall(r"\\multicolumn{(\d+)}", groups))) == len(kinds)
    assert all(unescaped(line, "&") == len(kinds) - 1 for line in others)
    for start, end in re.findall(r"\\cmidrule\(lr\){(\d+)-(\d+)}", inside):
        assert 1 <= int(start) <= int(end) <= len(kinds)


def test_latex_of_text():
    assert latex("a_b & 5 %") == r"a\_b \& 5 \%"
    assert latex("LoRA×η²") == r"LoRA$\times\eta^2$"
    assert latex("one\ntwo_") == r"\shortstack[r]{one \\ two\_}"
    assert latex(r"\x{") == r"\textbackslash{}x\{"


def test_markdown_escapes_a_bar_and_keeps_the_source():
    text = Table("T", "c", (("", 1), ("g", 1)), ("x", "y\nz"), [["a|b", "1"]], ["note"]).markdown("S")
    assert "| a\\|b | 1 |" in text
    assert "| x | g: y, z |" in text
    assert text.startswith("# T\n\nc\n\n")
    assert text.endswith("\nnote\n\n<!-- source: S -->\n")


def test_averages():
    assert averaged(None) == tables.NONE
    assert averaged([70.0, 71.0, 72.0]) == "71.0 ± 2.5"
    assert averaged([70.0, 70.0], 2) == "70.00 ± 0.00"
