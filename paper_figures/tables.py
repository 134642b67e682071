"""A table as Markdown and as LaTeX. Checked by `tests/test_paper_tables.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from paper_figures.numbers import over_seeds

NONE = "—"
# What LaTeX wants otherwise; everything else in a table is ASCII.
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "—": "---",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "η": r"$\eta$",
    "²": "$^2$",
    "√": r"$\sqrt{}$",
    "…": r"\ldots{}",
    "‖": r"$\|$",
    "≠": r"$\neq$",
}


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        title: "Table 2".
        caption: what it shows.
        groups: columns under one heading: (heading, how many); a heading may be empty.
        columns: the columns' own headings, of one line or two.
        rows: the cells.
        notes: below it.
        finding: what it shows came out, in a sentence, which stands first.
    """

    title: str
    caption: str
    groups: Sequence[tuple[str, int]]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    finding: str = ""

    def markdown(self, source: str) -> str:
        """The table as a Markdown page; each column names its group.

        Args:
            source: what it was made from, kept in a comment.
        """
        groups = [heading for heading, columns in self.groups for _ in range(columns)]
        columns = [column.replace("\n", ", ") for column in self.columns]
        heads = [f"{group}: {own}" if group else own for group, own in zip(groups, columns, strict=True)]
        lines = [heads, ["---"] * len(heads), *self.rows]
        grid = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        notes = "".join(f"\n{note}\n" for note in self.notes)
        finding = f"**{self.finding}**\n\n" if self.finding else ""
        return f"# {self.title}\n\n{finding}{self.caption}\n\n{grid}\n{notes}\n<!-- source: {source} -->\n"

    def latex(self, source: str) -> str:
        r"""The table as a LaTeX float; needs `\usepackage{booktabs}` and `\usepackage{graphicx}`.

        Args:
            source: what it was made from, kept in a comment.

        Returns:
            The text, ASCII alone.
        """
        groups, rules, start = [], [], 1
        for heading, columns in self.groups:
            groups.append(rf"\multicolumn{{{columns}}}{{c}}{{{latex(heading)}}}")
            if heading:
                rules.append(rf"\cmidrule(lr){{{start}-{start + columns - 1}}}")
            start += columns
        lines = [
            " & ".join(groups) + r" \\",
            "".join(rules),
            " & ".join(map(latex, self.columns)) + r" \\",
            r"\midrule",
        ]
        lines += [" & ".join(map(latex, row)) + r" \\" for row in self.rows]
        kinds = "l" * self.groups[0][1] + "r" * (len(self.columns) - self.groups[0][1])
        notes = (note.replace("`", "") for note in self.notes)
        caption = " ".join(latex(words) for words in (self.finding, self.caption, *notes) if words)
        return "\n".join(
            (
                f"% {self.title}; source: {source}",
                r"\begin{table}[t]",
                rf"\caption{{{caption}}}",
                r"\centering",
                r"\resizebox{\textwidth}{!}{%",
                rf"\begin{{tabular}}{{{kinds}}}",
                r"\toprule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table}",
                "",
            )
        )


def latex(text: str) -> str:
    """Text as LaTeX writes it; two lines are stacked.

    Args:
        text: of ASCII and the characters in `LATEX`.

    Returns:
        The text, ASCII alone.
    """
    lines = ["".join(LATEX.get(character, character) for character in line) for line in text.split("\n")]
    stacked = r" \\ ".join(lines)
    return (lines[0] if len(lines) == 1 else rf"\shortstack[r]{{{stacked}}}").replace("$$", "")


def averaged(values: Sequence[float] | None, digits: int = 1) -> str:
    """A mean over seeds with half the width of its 95 % interval, "71.2 ± 0.8"; "—" for None."""
    if values is None:
        return NONE
    mean, half = over_seeds(values)
    return with_half(float(mean), float(half), digits)


def with_half(mean: float, half: float, digits: int = 1) -> str:
    """A mean and half the width of its interval, "71.2 ± 0.8"."""
    return f"{mean:.{digits}f} ± {half:.{digits}f}"
