"""The answers of docs/doctor.md: each command or code block is run, and what it prints is the block below it.

`python -m docs.doctor` writes them anew; `tests/test_doctor_command.py` asks that they are current.
"""

import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from allora_analysis import cli, outputs

PAGE = Path(__file__).with_suffix(".md")
BLOCK = re.compile(r"```(sh|python)\n(.*?)```\n\n```text\n(.*?)```\n", re.DOTALL)
COMMAND = "python -m allora_analysis.doctor"


def rewritten(text: str) -> str:
    """The page with what its blocks print today.

    Args:
        text: of the page.

    Returns:
        The same, each answer anew.
    """
    with tempfile.TemporaryDirectory() as folder, _within(folder):
        return BLOCK.sub(
            lambda match: f"```{match[1]}\n{match[2]}```\n\n```text\n{_printed(match[1], match[2])}```\n", text
        )


def _printed(language: str, code: str) -> str:
    from allora_analysis.doctor.__main__ import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if language == "python":
            exec(compile(code, PAGE.name, "exec"), {})
        else:
            for line in code.splitlines():
                if not line.startswith(COMMAND) or main(shlex.split(line, comments=True)[3:]):
                    raise ValueError(f"no command of the doctor, or one that fails: {line}")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


@contextlib.contextmanager
def _within(folder: str) -> Iterator[None]:
    here = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


def main() -> int:
    """The command."""
    outputs.write_text("page", PAGE, rewritten(PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.guarded(main))
