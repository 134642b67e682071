"""American spelling in prose: `python -m tests.spelling` names each British word and fails, `--write` puts it right.

Words are codespell's (`en-GB_to_en-US`) and ours. Prose is what a person reads: Markdown, notebooks, comments,
docstrings and strings of several words. Left alone are names in code and in backticks, ids, what others wrote (`says=`,
`Reliance`, `Quotation`), and what another command writes. Checked by `tests/test_spelling.py`.
"""

import ast
import io
import itertools
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENDS = ("e", "ed", "es", "er", "ers", "ing", "ation", "ations")
STEMS = (
    *("dequant", "factor", "general", "initial", "linear", "minim", "normal", "optim", "orthogonal", "penal", "polar"),
    *("quant", "random", "rational", "regular", "stabil", "standard", "summar", "symmetr", "token", "vector"),
)
OURS = {
    **{f"{stem}is{end}": f"{stem}iz{end}" for stem in STEMS for end in ENDS},
    **{"learnt": "learned", "spelt": "spelled", "travelled": "traveled", "centring": "centering"},
}
MADE = ("docs/ledger.md", "docs/table_", "CHANGELOG.md", "tests/spelling.py", "tests/test_spelling.py")
SAID, QUOTED = "says", ("Reliance", "Quotation")  # an argument and calls that hold what others wrote
ANSWER = re.compile(r'^  "answer": .*$', re.MULTILINE)  # of the recorded ledger, whose other lines are the paper's
SCRIPT = re.compile(r'"[^"\n]*"|`[^`\n]*`|//[^\n]*|/\*.*?\*/', re.DOTALL)
CODE = re.compile(r"```.*?```|~~~.*?~~~|``[^`]*``|`[^`\n]*`|\{[^{}\n]*\}|\]\([^)\n]*\)|\$\$.*?\$\$", re.DOTALL)
WORD = re.compile(r"(?<![\w.\-/#§])[A-Za-z]+(?![\w/(=]|-\w|\.\w)")


@cache
def american() -> dict[str, str]:
    """The American word by the British one, both in small letters."""
    listed = (files("codespell_lib") / "data" / "dictionary_en-GB_to_en-US.txt").read_text(encoding="utf-8")
    return dict(line.split("->") for line in listed.split()) | OURS


def mended(prose: str) -> str:
    """Prose in American spelling; what stands in backticks, braces, formulas and links' targets stays."""
    kept = [match.span() for match in CODE.finditer(prose)]

    def word(match: re.Match[str]) -> str:
        found = american().get(match[0].lower())
        if found is None or any(start <= match.start() < end for start, end in kept):
            return match[0]
        if (
            re.match(r"[ \t]*:(?!\s*$)", prose[match.end() :])
            and not prose[: match.start()].rpartition("\n")[2].strip()
        ):
            return match[0]  # an argument, in a docstring's list
        return found.upper() if match[0].isupper() else found.capitalize() if match[0][0].isupper() else found

    return WORD.sub(word, prose)


def of_python(text: str) -> str:
    """A Python file with its comments, docstrings and strings of several words mended."""
    others = [
        node.value if isinstance(node, ast.keyword) else node for node in ast.walk(ast.parse(text)) if _quotes(node)
    ]
    quoted = {line for node in others for line in range(node.lineno, node.end_lineno + 1)}
    starts = [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]
    pieces, done = [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        prose = token.type == tokenize.COMMENT or tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
        prose |= token.type == tokenize.STRING and " " in token.string
        if not prose or token.start[0] in quoted:
            continue
        start, end = (starts[line - 1] + column for line, column in (token.start, token.end))
        pieces += [text[done:start], mended(text[start:end])]
        done = end
    return "".join([*pieces, text[done:]])


def _quotes(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg == SAID
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in QUOTED


def of_notebook(text: str) -> str:
    """A notebook with its text and its code's comments and strings mended; outputs are its next run's."""
    book = json.loads(text)
    for cell in book["cells"]:
        source = "".join(cell["source"])
        told = mended(source) if cell["cell_type"] == "markdown" else _of_cell(source)
        cell["source"] = told.splitlines(keepends=True)
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def _of_cell(source: str) -> str:
    return source if source.startswith("%") else of_python(source)


def of_answers(text: str) -> str:
    """The recorded ledger with its answers mended."""
    return ANSWER.sub(lambda match: mended(match[0]), text)


def of_script(text: str) -> str:
    """A script or a style with its comments and strings of several words mended."""

    def part(match: re.Match[str]) -> str:
        if match[0][0] == "`":  # here no code in prose but a text
            return f"`{mended(match[0][1:-1])}`"
        return mended(match[0]) if " " in match[0] else match[0]

    return SCRIPT.sub(part, text)


KINDS: dict[str, Callable[[str], str]] = {
    ".py": of_python,
    ".ipynb": of_notebook,
    ".md": mended,
    "recorded.json": of_answers,
    "figures.json": mended,
    ".js": of_script,
    ".css": of_script,
}


def changes() -> Iterator[tuple[Path, str, str]]:
    """Each of the repository's files that is not as it should be, with its text now and then."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        mend = next((mend for end, mend in KINDS.items() if name.endswith(end)), None)
        path = ROOT / name
        if mend is None or name.startswith(MADE) or not path.is_file():
            continue
        now = path.read_text(encoding="utf-8")
        if (then := mend(now)) != now:
            yield path, now, then


def main(words: list[str]) -> int:
    """Names or mends what is British; the exit status."""
    found = list(changes())
    for path, now, then in found:
        if words == ["--write"]:
            path.write_text(then, encoding="utf-8")
            continue
        for number, (one, other) in enumerate(zip(now.splitlines(), then.splitlines(), strict=False), 1):
            if one != other:
                print(f"{path.relative_to(ROOT)}:{number}: {other.strip()}")
    if found and words != ["--write"]:
        print("error: British spelling; `python -m tests.spelling --write` puts it right", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
