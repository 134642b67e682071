"""The rows that read the paper's tables, and the tables with planted errors, for the tests of both."""

import dataclasses
from decimal import Decimal

from allora_analysis.claims.tables import (
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


def of(by, only=None):
    """Every gap changed by so many points, or those of one contrast."""
    original = contrasts.of

    def changed(name, *cells):
        found = original(name, *cells)
        return dataclasses.replace(found, values=found.values + by * (only in (None, name)))

    return changed


def shifted(cells, amount, arm="ALLoRA"):
    return tuple(dataclasses.replace(c, accuracy=c.accuracy + amount * (c.arm == arm)) for c in cells)


def at_the_last_rate(by, arm="LoRA"):
    """Table 3 with an arm's accuracies at its largest rate or η² changed by so much; None: left out."""
    last = [cell.arm == arm and cell.eta_squared == 4 for cell in reported.TABLE_3]
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


def without_dropout_in_table_1(by):
    """Table 1 with ALLoRA-0's accuracies so much above its own; None: with ALLoRA's."""
    ours = {(r.model, r.rank): r.accuracies for r in reported.TABLE_1 if r.arm == "ALLoRA"}
    return tuple(
        dataclasses.replace(r, accuracies=ours[r.model, r.rank] if by is None else tuple(v + by for v in r.accuracies))
        if r.arm == "ALLoRA-0"
        else r
        for r in reported.TABLE_1
    )


MORE_PARAMETERS = tuple(
    dataclasses.replace(r, parameters=r.parameters + 1 * ((r.model, r.rank, r.arm) == ("LLaMA-7B", 16, "ALLoRA")))
    for r in reported.TABLE_1
)
LLAMA_7B_RAISED = raised_on_llama_7b(1)
NO_MAJORITY = {n: dataclasses.replace(c, majority_percent=-200.0) for n, c in reported.PERCEPTION_LABELS.items()}
UP = (1.0, 2.0, 3.0, 4.0, 5.0)
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


def without_dropout(name, cells=None):
    """ALLoRA-0 in ALLoRA's place."""
    return OF(name.replace("ALLoRA −", "ALLoRA-0 −"), cells)


def as_far_as_lora(name, cells=None):
    """ALLoRA's lead over LoRA as that over ALLoRA-0: a margin may not make the one no difference, the other a gain."""
    return OF("ALLoRA − LoRA" if name == contrasts.EQUAL.name else name, cells)
