"""The README and its pages: its ledger is what the ledger says today, its commands and its code run."""

import dataclasses
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from allora_analysis.claims.claim import Claim, Evidence, Finding
from allora_analysis.claims.ledger import Row
from allora_analysis.render import markdown
from allora_analysis.render.view import BEYOND, LESS_KIND, NOT_THERE, PARTS, REPORTED, View, recorded, summary, view
from tests import versions, warm

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("studies", "experiments", "library", "training")),
]
ALL = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
LEDGER = (ROOT / "docs/ledger.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", ALL, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.startswith("python -m")
]


def run(command: str, folder: Path) -> tuple[int, str, str]:
    """Status, output and errors of `python -m module …`."""
    _, _, module, *words = shlex.split(command)
    process = warm.Popen(module, *words, folder=folder, PYTHONPATH=str(ROOT))
    output, errors = process.communicate()
    return process.returncode, output, errors


def rows_of(text: str) -> list[tuple[str, str]]:
    """(id, verdict) of every row of a ledger's table."""
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| **") and "`" in line]
    return [(re.search("`(.*?)`", row[2])[1], row[1].strip(" *")) for row in rows]


def counts_of(text: str) -> list[list[str]]:
    """The cells of the table of counts, heading first."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "| claims |" in line]
    start = text.splitlines().index(lines[0])
    table = itertools.takewhile(lambda line: line.startswith("|"), text.splitlines()[start:])
    return [[cell.strip(" `*") for cell in line.strip("|").split("|")] for line in table if "---" not in line]


def part(name: str) -> str:
    return PARTS.get(name.partition("-")[0], REPORTED)


def test_the_pages_show_the_ledgers_verdicts():
    """Those recorded, which `test_ledger.test_a_row` computes again."""
    today = {name: claim["verdict"] for name, claim in recorded().items()}
    shown = TEXT.split(markdown.BEGIN)[1].split(markdown.END)[0]
    assert sorted(rows_of(LEDGER)) == sorted(today.items())
    asked = [*markdown.SELECTED, *markdown.QUESTIONS.values()]
    assert re.findall(r"\*\*(\w+)\*\* \[`([^`]+)`\]", shown) == [(today[name], name) for name in asked]
    for text in (shown, LEDGER):
        printed, beyond = re.search(r"(\d+) claims[^|]*: \d+ holds[^|]*; (\d+) beyond the paper", text).groups()
        assert int(printed) + int(beyond) == len(today)
    heading, *lines = counts_of(LEDGER)
    assert [line[0] for line in lines] == [*PARTS.values(), REPORTED, "all"]
    for line in lines:
        here = [verdict for name, verdict in today.items() if line[0] in ("all", part(name))]
        assert int(line[1]) == len(here)
        assert [int(cell or 0) for cell in line[2:]] == [here.count(word) for word in heading[2:]]
        assert set(here) <= set(heading[2:])


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 150
    assert len(re.findall(r"\S+", re.sub(r"^\|[-: |]+$", "", TEXT, flags=re.MULTILINE))) <= 1200


@pytest.mark.parametrize("name", markdown.QUESTIONS.values())
def test_a_question_is_answered_in_15_words(name):
    assert len(recorded()[name]["answer"].split()) <= 15


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "python -m allora_analysis"])
def test_a_command_of_the_pages_runs(command, tmp_path):
    status, output, errors = run(command, tmp_path)
    assert status == 0, errors
    assert output


def test_what_a_command_needs_stands_before_the_first():
    """And the one that picks a verdict answers from the records, not after minutes."""
    assert TEXT.index(". .venv/bin/activate") < TEXT.index("pip install -e .") < TEXT.index("\npython -m")
    assert all("--list" in command for command in COMMANDS if "--verdict" in command)


def test_the_pages_have_commands_for_every_study():
    for name in ("tikhonov", "deviation", "dropout_sgd", "hessian", "ripple", "gradient_std", "escape", "width"):
        assert any(f"allora_analysis.{name}" in command for command in COMMANDS)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # PEFT's own, under a new transformers
@pytest.mark.filterwarnings("ignore:'pin_memory' argument", "ignore:Could not find a config file")
@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights of the model:UserWarning")  # while it is converted
@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_the_code_of_the_pages_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def anchor(heading: str) -> str:
    """The name that a heading has in a link, as GitHub and Python-Markdown make it."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_files_and_headings_that_a_page_links_to_exist(page):
    links = re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8"))
    assert links or page.stem in ("library", "training")
    for link in links:
        path, _, name = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not name or name in map(
            anchor, re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
        ), link


def row(name: str, finding: Finding | None, statement: str = "x") -> View:
    claim = Claim(name, "§3.1", statement, print, "command", "tests/test_x.py")
    return view(Row(claim, finding, None if finding else "planted"))


CONDITIONAL = Finding("conditional", Evidence({}, {}, ""), condition="a | b", answer="Only a | b.")


def sections(text):
    """Each heading with what stands below it, deeper sections included."""
    plain = re.sub(r"^(```|~~~).*?^\1", "code", text, flags=re.MULTILINE | re.DOTALL)
    found = list(re.finditer(r"^(#+) +(.+)$", plain, re.MULTILINE))
    for place, heading in enumerate(found):
        ends = (one.start() for one in found[place + 1 :] if len(one[1]) <= len(heading[1]))
        yield heading[2], plain[heading.end() : next(ends, None)].strip()


def test_a_section_is_told_apart_from_its_heading():
    assert list(sections("# A\ntext\n## B\nVT\n# C\n```\n# D\n```")) == [
        ("A", "text\n## B\nVT"), ("B", "VT"), ("C", "code")
    ]  # fmt: skip


def test_no_section_of_a_page_is_empty():
    """Planted: a placeholder of two letters."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    short = {
        f"{page.name}: {title}": text
        for page in pages
        for title, text in sections(page.read_text(encoding="utf-8"))
        if len(text) < 20 and text != "code"
    }
    assert not short


def test_the_oldest_versions_on_the_page_are_pyprojects():
    page, floors = (ROOT / "docs/training.md").read_text(encoding="utf-8"), versions.floors()
    row = re.search(r"^\| `python -m tests.versions floors` \| (.*?) \| the LoRA", page, re.MULTILINE)
    assert [f"{name}=={floor}" for name, floor in zip(versions.JUDGED, row[1].split(" | "), strict=True)] == floors
    python = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    lowest, beyond = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", python).groups()
    assert f"Python 3.{lowest} to 3.{int(beyond) - 1}." in page


def test_rewrite_replaces_the_ledger_and_nothing_else():
    rows = [row("3.1-shown", CONDITIONAL), row("T1-left-out", None)]
    new = markdown.rewrite(
        f"before\n{markdown.BEGIN}\nold\n{markdown.END}\nafter", rows, {"3.1-shown": "x"}, {"why?": "T1-left-out"}
    )
    assert new.startswith("before\n")
    assert new.endswith("\nafter")
    assert "old" not in new
    assert "Only a \\| b." in new
    assert "2 claims on 1 printed statements: 1 conditional, 1 error" in new
    assert "| why? | Error: the check failed: planted" in new
    with pytest.raises(ValueError, match="markers"):
        markdown.rewrite("no markers", rows, {"3.1-shown": "x"})


def test_a_selected_claim_that_is_gone_is_an_error():
    with pytest.raises(ValueError, match=r"3\.1-gone"):
        markdown.block([row("3.1-shown", CONDITIONAL)], {"3.1-shown": "x"}, {"why?": "3.1-gone"})
    with pytest.raises(ValueError, match=r"not the statement's: 3\.1-shown"):
        markdown.block([row("3.1-shown", CONDITIONAL)], {"3.1-shown": "y"}, {})


def test_the_page_has_every_claim_under_its_part():
    page = markdown.page([row("3.1-a", CONDITIONAL), row("T1-b", None), row("4-c", CONDITIONAL)])
    assert rows_of(page) == [("3.1-a", "conditional"), ("4-c", "conditional"), ("T1-b", "error")]
    assert re.findall("^## (.*)", page, re.MULTILINE) == [PARTS["3.1"], PARTS["4"], REPORTED]
    assert page.startswith("# The ledger\n\n**Of 3 claims on 1 printed statements 0 fail.** 0 hold as printed, ")
    assert "| statement | what came out | true at the paper's setting |" in page
    told = [one.partition("### ")[2] for one in re.findall(rf"### \S+\n[^#]*– \({NOT_THERE}\)", page)]
    assert [one.split()[0] for one in told] == ["3.1-a", "4-c"]  # no setting is asked of a check that failed
    assert f'"–": {NOT_THERE} (' in page.partition("## ")[0]
    assert NOT_THERE not in markdown.in_full(row("3.1-a", dataclasses.replace(CONDITIONAL, at_paper=False)))
    assert counts_of(page)[0] == ["", "claims", "conditional", "error"]
    assert counts_of(page)[-1] == ["all", "3", "2", "1"]


def test_the_page_begins_with_what_failed():
    refuted = dataclasses.replace(CONDITIONAL, verdict="refuted", condition=None)
    strict = dataclasses.replace(row("3.1-b", refuted), reading=f"{LESS_KIND}: x.")
    beyond = dataclasses.replace(row("3.1-c", refuted, "y"), where=f"{BEYOND}: §3.1")
    kind = row("3.1-a", CONDITIONAL)
    told = markdown.headline([kind, row("3.1-d", refuted), strict, beyond])
    assert told.startswith("**Of 3 claims on 1 printed statements 2 fail; for 2 of these 2 a kinder reading stands.**")
    of_another = dataclasses.replace(strict, statement="z", reading=f"{LESS_KIND}: x.")
    for reading, n in ((f"{LESS_KIND}: x.", 1), (f"{LESS_KIND}: 3.1-a has a kinder one.", 2), ("Not 3.1-a.", 1)):
        one = dataclasses.replace(of_another, reading=reading)
        assert (
            markdown.headline([kind, strict, one])
            .split(".**")[0]
            .endswith(f" 2 printed statements 2 fail; for {n} of these 2 a kinder reading stands")
        )
        words = f" ({n} only if read more strictly than need be)"
        assert words in summary([kind, strict, one], brief=True)
    fallen = dataclasses.replace(of_another, id="3.1-e", reading=None)
    assert "1 fail; for 0 of these 1 a kinder reading stands.**" in markdown.headline([fallen, beyond])
    told = markdown.headline([kind, row("3.1-d", refuted), strict, beyond])
    assert told.endswith("0 hold as printed, 0 after a correction, 1 under a condition; 0 are undecided.")


def test_mathematics_is_no_markup():
    shown = markdown.in_full(row("3.1-a", CONDITIONAL, "‖W*‖_F * (BA)_i < n"))
    assert r"‖W\*‖\_F \* (BA)\_i &lt; n" in shown


def test_a_command_is_named_once():
    one = row("3.1-a", CONDITIONAL)
    alone = "python -m allora_analysis --only 3.1-a"
    assert f"**Rerun:** `{alone}`, `command`" in markdown.in_full(one)
    assert markdown.in_full(dataclasses.replace(one, command=alone)).count(alone) == 1
