"""`python -m allora_analysis.render.markdown README.md docs/ledger.md`: the answers in prose, from a fresh run.

The README gets the rows of `SELECTED` and the counts, between two markers; the ledger's page is written whole: a table
of answers for each part of the paper, and below it each row in full, with links to its code and tests. What the run
answered is recorded beside the claims, for `--list`. Checked by `tests/test_readme.py`, which fails when these and a
fresh run disagree.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from allora_analysis import cli, outputs
from allora_analysis.claims import ledger
from allora_analysis.claims.cases import PAPER_ROW
from allora_analysis.claims.claim import VERDICTS
from allora_analysis.render.size import size_text
from allora_analysis.render.terminal import sourced
from allora_analysis.render.view import (
    BEYOND,
    BRACKETS,
    NOT_THERE,
    SETTING,
    View,
    by_part,
    record,
    said_by,
    saved,
    sentence,
    summary,
    views,
)

BEGIN, END = "<!-- ledger: written by `make readme` -->", "<!-- end of the ledger -->"
SELECTED = {
    "3.1-sgd-reliable": "Dropout is only suitable for long training episodes but fails to reliably regularize training "
    "for short training episodes, e.g., finetuning",
    "3.2-factor-conditioning": "LoRA's parameters initialization is at 0 makes the optimization landscape poorly "
    "conditioned during the first steps of training",
    "3.3-worst-case": "In the worst case, a constant scaling factor η may cause the final output of a single forward "
    "pass of a LoRA finetuned model to grow exponentially w.r.t. the number of layers",
    "4-figure-2-right": "The starting phase matches that of LoRA with a much higher learning rate",
    "4-two-hyper-parameters": "ALLoRA removes two hyper-parameters from LoRA: the scaling factor and the dropout rate",
    "4.4-better-than-lora": "ALLoRA in general admits better accuracy over plain LoRA",
}
"""What a reader with one minute wants to know: the three flaws, the layer, its knobs, its tables; by row, its words."""
QUESTIONS = {
    "Is ALLoRA ahead of LoRA on all-MiniLM-L6-v2 (AdamW)?": "4-own-best-rate",
    "`ALLoRAAdamW` (the factor on Adam's update), over LoRA at twice the rate?": "4-own-best-rate-control",
    "And ALLoRA on digits?": "4-better-than-lora-laboratory",
    "Is dropout in LoRA only for long training?": "3.1-figure-2-left-laboratory",
    "Does α add anything to the learning rate?": "4-alpha",
    "And does one fit every rank and width?": "4-width-transfer",
    "Do more layers make the output explode?": "3.3-transformer",
}
"""What people ask, and the row that answers, in at most 15 words and with a size."""
COUNTED = (
    "*A kinder reading stands* where a row of it holds, be it after a correction or under a condition. *Less kind*: a "
    "common but stricter reading, beside a row with a kinder one. *Faults*: misprints and slips, each counted once, of "
    "readings that are not less kind. *Perhaps our copy's*: a misprint that may be our copy's alone. *Beyond the "
    "paper*: sentences that are not in it, but another paper's or this toolkit's own."
)
"""What the words beside the counts mean."""


def counts(of: Sequence[View]) -> str:
    """How many claims of each part have each verdict, as a Markdown table."""
    shown = [word for word in (*VERDICTS, "error") if any(one.word == word for one in of)]
    lines = [_line(["", "claims", *(f"`{word}`" for word in shown)]), _line(["---", *["---:"] * (1 + len(shown))])]
    for title, members in (*by_part(of).items(), ("**all**", list(of))):
        count = Counter(one.word for one in members)
        lines.append(_line([title, str(len(members)), *(str(count[word] or "") for word in shown)]))
    return "\n".join(lines)


def headline(of: Sequence[View]) -> str:
    """What came out of the printed statements, in two sentences."""
    printed = [one for one in of if not one.where.startswith(BEYOND)]
    count = Counter(one.word for one in printed)
    told = f"; for {len(saved(of))} of these {count['refuted']} a kinder reading stands"
    return (
        f"**Of {len(printed)} claims on {len({one.statement for one in printed})} printed statements "
        f"{count['refuted']} fail{told if count['refuted'] else ''}.** {count['holds']} hold as printed, "
        f"{count['holds_corrected']} after a correction, {count['conditional']} under a condition; "
        f"{count['undecided']} are undecided."
    )


def anchor(identifier: str) -> str:
    """The name of a row's heading in a link, as GitHub and Python-Markdown make it."""
    return re.sub(r"[^a-z0-9_ -]", "", identifier.lower())


def table(of: Sequence[View], page_of: Callable[[str], str] = lambda name: f"#{anchor(name)}") -> str:
    """The answers as a Markdown table, each beside its sentence; by default each links to the same page."""
    heading = ["verdict", "claim", "statement", "what came out", SETTING, "size"]
    lines = [heading, ["---"] * len(heading)]
    for one in of:
        name = f"[`{one.id}`]({page_of(one.id)})"
        words = map(escaped, (sentence(one.statement, one.where), one.answer, one.setting, size_text(one.size)))
        lines.append([f"**{one.word}**", name, *words])
    return "\n".join(map(_line, lines))


def _to_file(path: str) -> str:
    # A link from docs/ledger.md to a file of the repository.
    return f"../{path}"


def in_full(one: View, target: Callable[[str], str | None] = _to_file) -> str:
    """A row in full, as Markdown."""

    def linked(path: str, words: str) -> str:
        return f"[`{words}`]({where})" if (where := target(path)) else f"`{words}`"

    facts = one.told | {"Evidence": sourced(one.evidence)}
    lines = [f"- **{name}:** {escaped(words)}" for name, words in facts.items() if words]
    for name, ids in (("Rests on", one.depends_on), ("Supports", one.supports)):
        if ids:
            lines.append(f"- **{name}:** " + ", ".join(f"[`{other}`](#{anchor(other)})" for other in ids))
    if one.check:
        path, _, function = one.check.partition(": ")
        names = dict.fromkeys(".".join(name.split(".")[:-1]) for name in one.code)
        modules = [linked(name.replace(".", "/") + ".py", name.removeprefix("allora_analysis.")) for name in names]
        lines.append("- **Check:** " + ", ".join([linked(path, f"{Path(path).stem}.{function}"), *modules]))
    commands = dict.fromkeys((f"python -m allora_analysis --only {one.id}", one.command))
    tests = [linked(word, word) if word.startswith("tests/") else word for word in one.test.split(", ")]
    lines.append(f"- **Tests:** {', '.join(tests)} · **Rerun:** {', '.join(f'`{command}`' for command in commands)}")
    said = f"> {escaped(one.statement)}" + (f" *({who})*" if (who := said_by(one.where)) else "")
    where = escaped(one.where)
    return "\n\n".join([f"### {one.id}", f"**{one.word}** · {escaped(one.answer)}", said, where, "\n".join(lines)])


def block(of: Sequence[View], selected: Mapping[str, str] = SELECTED, questions: Mapping[str, str] = QUESTIONS) -> str:
    """What the README shows of the ledger: the selected sentences, the questions, and the verdicts counted."""
    known = {one.id: one for one in of}
    if missing := [name for name in (*selected, *questions.values()) if name not in known]:
        raise ValueError(f"selected claims that the ledger does not have: {', '.join(missing)}")
    lines = [("the paper says", "what came out"), ("---", "---")]
    if altered := [name for name, words in selected.items() if words not in known[name].statement]:
        raise ValueError(f"selected words that are not the statement's: {', '.join(altered)}")
    lines += [(escaped(words), _answered(known[name])) for name, words in selected.items()]
    asked = [("question", "answer", "how large (90 % or as named)"), ("---", "---", "---")]
    asked += [(question, _answered(known[name]), _sized(known[name])) for question, name in questions.items()]
    tables = ["\n".join(_line(cells) for cells in of) for of in (lines, asked)]
    return "\n\n".join([tables[0], tables[1], f"In all, {summary(of, brief=True)}: [docs/ledger.md](docs/ledger.md)."])


def _answered(one: View) -> str:
    return f"{escaped(one.answer)} **{one.word}** [`{one.id}`](docs/ledger.md#{anchor(one.id)})"


def _sized(one: View) -> str:
    return f"{escaped(size_text(one.size))}: {escaped(one.size.of)}" if one.size else ""


def page(of: Sequence[View], target: Callable[[str], str | None] = _to_file, home: str = "../README.md") -> str:
    """The whole ledger as a Markdown page, part by part: a table of answers, then each row in full."""
    about = (
        "Examined is the paper as submitted, anonymously, to ICLR 2025. "
        f"Written by `make readme` from a fresh run of every check. The verdicts explained: [README]({home}); what "
        f"each letter stands for: [symbols](symbols.md). *{SETTING.capitalize()}*: the paper's training is taken to be "
        'AdamW at 1e-4, an optimizer that it does not name (where that decides: "no, if AdamW"; counted below as '
        f'"assuming AdamW"), after which our longest mean row of BA is {PAPER_ROW} (`4-figure-2-factor`, a few hundred '
        f'steps of rotten_tomatoes); "–": {NOT_THERE} (drawn settings, runs of ours, arithmetic of tables). In a '
        "linear model Listing 1 under AdamW, ε up to its gradients, does not give Table 3's rise with η², nor on "
        "digits with ε up to a tenth of them; at raised rates under SGD, the classifier at η·l, it does in that model "
        "(`T3-procedure`, `T3-procedure-laboratory`). The factor on AdamW's "
        "update does on all-MiniLM-L6-v2, without a lead over LoRA at η·l (`T3-procedure-on-the-update`, "
        "`4-table-3-on-the-update`). Listing 1 under AdamW does not give Figure 2 either, if this shows what its "
        "caption says (`4-figure-2-right`). The wording of a sentence about the paper's tables decides how "
        'it is judged: "significant", "leans" or no difference by a test (cells, which cannot be tested, by a bar of '
        "ours: `5.2-asf-significantly`), every other one by the averages printed, with p in "
        "its answer or evidence; whether these are more than chance is a row of its own (`…-beyond-chance`). "
        f"{BRACKETS}"
    )
    parts = [
        f"## {title}\n\n{table(members)}\n\n" + "\n\n".join(in_full(one, target) for one in members)
        for title, members in by_part(of).items()
    ]
    return "\n\n".join(["# The ledger", headline(of), about, f"{summary(of)}.", COUNTED, counts(of), *parts]) + "\n"


def rewrite(
    text: str, of: Sequence[View], selected: Mapping[str, str] = SELECTED, questions: Mapping[str, str] = QUESTIONS
) -> str:
    """A README with its ledger replaced: the ids of the rows to show, with which of their words, and of those that
    answer questions. ValueError: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the markers {BEGIN} and {END} are wanted, around the ledger")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{block(of, selected, questions)}\n{END}{after}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """A text in which nothing means anything to Markdown: |, *, <, and _ where no letter stands before it (‖·‖_F)."""
    return re.sub(r"[|*]|(?<!\w)_", r"\\\g<0>", text).replace("<", "&lt;")


def _paths(readme: Positional[Path], page_of_the_ledger: Positional[Annotated[Path, "PATH"]]) -> tuple[Path, Path]:
    """Writes the ledger into the README and its page, from a fresh run of every check."""
    return readme, page_of_the_ledger


def write(readme: Path, page_of_the_ledger: Path) -> int:
    """Write the ledger into the README and its page, from a fresh run of every check."""
    rows, interrupted = ledger.run(ledger.all_claims())
    if interrupted:
        raise KeyboardInterrupt("nothing was written")
    of = views(rows)
    path, kept = record(of)
    outputs.write_text("recorded answers", path, kept)
    # Read after the checks, which take a while: another hand may have written into the README meanwhile.
    outputs.write_text("README", readme, rewrite(readme.read_text(encoding="utf-8"), of))
    outputs.write_text("ledger", page_of_the_ledger, page(of))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: write(*cli.parse(_paths, "python -m allora_analysis.render.markdown", None))))
