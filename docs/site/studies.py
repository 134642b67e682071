"""A page for each study: what it is, its command with what it printed and drew, its flags, its claims."""

import ast
import importlib
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from allora_analysis.claims.ledger import Row
from allora_analysis.render.markdown import table
from allora_analysis.render.view import views
from docs.site import ledger
from docs.site.prose import ROOT, WIDE

PACKAGE = ROOT / "allora_analysis"
SLOW = ("gradient_std", "finetune")
"""Studies that train networks: their pages show committed pictures, and run nothing."""


def page(name: str, rows: Sequence[Row]) -> tuple[str, dict[str, bytes]]:
    """A study's page.

    Args:
        name: the study.
        rows: the ledger's rows.

    Returns:
        Markdown, and pictures by the name that the page has for them.
    """
    run, pictures = ("", {}) if name in SLOW else _answer(name)
    claims = [row for row in rows if name in ledger.packages(row.claim)]
    options = "    options:\n      members: false\n      heading_level: 2\n"
    parts = [f"{WIDE}# `{name}`\n\n::: allora_analysis.{name}\n{options}"]
    parts += [f"## The command\n\n```sh\n{command(name)}\n```\n\n{run}", _committed(name)]
    parts += [f"### Flags\n\n{flags((PACKAGE / name / 'study.py').read_text(encoding='utf-8'))}"]
    if claims:
        answers = table(views(claims), lambda name: f"../{ledger.claim_page(name)}")
        parts.append(f"## What it says of the paper\n\n{ledger.summary(claims)}\n\n{answers}")
    parts.append(f"All functions: [`allora_analysis.{name}`](../api/allora_analysis/{name}/index.md).")
    return "\n\n".join(part for part in parts if part) + "\n", pictures


def command(name: str) -> str:
    """The command of a study, as docs/studies.md or docs/experiments.md has it.

    Args:
        name: the study.
    """
    return re.search(rf"^`?(python -m allora_analysis\.{name}\b[^`\n#]*)", ledger.PAGE, re.MULTILINE)[1].strip()


def flags(source: str) -> str:
    """The fields of a study's `Config` as its flags.

    Args:
        source: the study's file.

    Returns:
        A Markdown table: flag, default, meaning.
    """
    body = next(node.body for node in ast.parse(source).body if getattr(node, "name", "") == "Config")
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    for field, text in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            default = "" if field.value is None else f"`{ast.unparse(field.value)}`"
            meaning = " ".join(ast.literal_eval(text.value).split()) if isinstance(text, ast.Expr) else ""
            on = isinstance(field.value, ast.Constant) and field.value.value is True  # turned off by its negation
            flag = ("--no-" if on else "--") + field.target.id.replace("_", "-")
            lines.append(f"| `{flag}` | {default} | {_escape(meaning)} |")
    return "\n".join(lines)


def _answer(name: str) -> tuple[str, dict[str, bytes]]:
    # What the command prints and draws, run here through the study's own four parts.
    from allora_analysis import cli, plotting

    study = importlib.import_module(f"allora_analysis.{name}.study").STUDY
    words = _without_outputs(shlex.split(command(name))[3:])
    config = cli.parse(study.config, f"python -m allora_analysis.{name}", words)
    result = study.run(config)
    shown = study.table(config, result)
    lines = ["| " + " | ".join(map(_escape, cells)) + " |" for cells in (shown.columns, *shown.rows)]
    lines.insert(1, "|" + "---|" * len(shown.columns))
    with tempfile.TemporaryDirectory() as folder, plotting.style():
        path = Path(folder) / "figure.png"
        plotting.save(study.plot(config, result), path, name, "")
        drawn = path.read_bytes()
    notes = "\n\n".join(map(_escape, shown.notes))
    finding = [f"**{_escape(shown.finding)}**\n"] * bool(shown.finding)
    text = (
        "\n".join([*finding, f"{_escape(shown.title)}\n", *lines])
        + f"\n\n{notes}\n\n[![{name}]({name}.png)]({name}.png)"
    )
    return text, {f"{name}.png": drawn}


def _without_outputs(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        skip = skip or word in ("--json", "--figure")
        if skip:
            skip = word in ("--json", "--figure")
            continue
        kept.append(word)
    return kept


def _committed(name: str) -> str:
    # The committed pictures that draw on a study whose command is not run here.
    if name not in SLOW:
        return ""
    names = ledger.pictures(name)
    return "\n\n".join(f"![{figure}](../{figure}.png)" for figure in names)


def _escape(text: str) -> str:
    return re.sub(r"[|*<]|(?<!\w)_", r"\\\g<0>", text)
