"""The notebooks as they are committed, what they share, and the runner that executes them."""

import ast
import asyncio
import itertools
import json
import os
import pkgutil
import re
import time
from pathlib import Path

import nbformat
import pytest
import zmq
import zmq.asyncio
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import allora_analysis
from allora_analysis import notebook as shared
from allora_analysis.claims import ledger
from allora_analysis.claims.claim import Claim, Evidence, Finding, spaced
from allora_analysis.claims.ledger import Row, all_claims
from allora_analysis.plotting import panels
from allora_analysis.render import view
from allora_analysis.study import Table, environment
from allora_analysis.validation import ArgumentError
from notebooks import NOTEBOOKS, execution
from notebooks.__main__ import FOLDER, main

LARGEST = 400_000  # bytes
LONGEST = 3  # lines of a function: a lambda with a name
EXERCISES = range(3, 6)


@pytest.fixture(scope="module", params=NOTEBOOKS)
def committed(request) -> Path:
    return FOLDER / f"{request.param}.ipynb"


@pytest.fixture(scope="module")
def content(committed):
    return nbformat.read(committed, as_version=4)


def code(content):
    return [cell for cell in content.cells if cell.cell_type == "code"]


def test_every_notebook_is_listed():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NOTEBOOKS)


def test_outputs_are_there_and_clean(committed, content):
    nbformat.validate(content)
    assert committed.stat().st_size < LARGEST
    assert execution.blemishes(content) == []
    assert [cell.execution_count for cell in code(content)] == list(range(1, len(code(content)) + 1))
    pictures = [output for cell in code(content) for output in cell.outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert sum(bool(cell.outputs) for cell in code(content)) >= 0.7 * len(code(content))


def test_names_of_the_package_in_the_prose_are_there(content):
    prose = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    named = re.findall(r"`(?:allora_analysis\.)?([a-z_]+(?:\.[A-Za-z_]+)+)[^`\n]*`", prose)
    own = [name for name in named if (Path(allora_analysis.__file__).parent / name.split(".")[0]).is_dir()]
    assert all(pkgutil.resolve_name(f"allora_analysis.{name}") is not None for name in own)
    with pytest.raises(AttributeError):
        pkgutil.resolve_name("allora_analysis.escape.no_such_step")


def test_what_differs_between_machines_is_left_out(content):
    assert content.metadata == {"kernelspec": execution.KERNEL, "language_info": {"name": "python"}}
    for cell in code(content):
        assert "execution" not in cell.metadata
        assert not any(execution.WIDGET in output.get("data", {}) for output in cell.outputs)


def test_executed_with_this_version_at_full_size(content):
    begun = next(text for text in execution.texts(content) if text.startswith("allora_analysis "))
    assert begun == f"allora_analysis {allora_analysis.__version__}, full sizes"


def test_definitions_belong_to_the_package(content):
    for cell in code(content):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LONGEST, node.name


def test_claims_that_are_named_are_in_the_ledger(content):
    claims = all_claims()
    known, sections = {claim.id for claim in claims}, "|".join({re.escape(claim.section) for claim in claims})
    prose = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    named = re.findall(rf"`((?:{sections})-[a-z][a-z0-9-]*)`", prose)
    assert set(named) <= known
    shown = execution.shown_verdicts(content)
    assert shown
    assert shown == [(claim, view.recorded()[claim]["verdict"]) for claim, _ in shown]


def test_each_ends_with_exercises_and_checks_its_numbers(content):
    last = content.cells[-1].source
    assert last.startswith("## Exercises")
    exercises = re.findall(r"^\*\*(\d)\.\*\*", last, re.MULTILINE)
    assert exercises == [str(n + 1) for n in range(len(exercises))]
    assert len(exercises) in EXERCISES
    assert last.count("<details>") == last.count("</details>") == len(exercises)
    assert sum("assert " in cell.source for cell in code(content)) >= 4


def test_each_is_a_lesson(committed, content):
    """What for, what is needed, how long, the toy layer that all share; at its end what to keep, with references."""
    first, recap = content.cells[0].source, content.cells[-2].source
    for word in ("**Afterwards you can**", "**Time:**"):
        assert word in first
    assert re.search(r"\*\*You\s+need\*\*", first)
    if committed.stem != "0_the_ledger":
        assert recap.startswith("## Recap")
        assert "**References.**" in recap
        assert "**toy layer**" in first
        assert any("notebook.toy()" in cell.source for cell in code(content))


def test_a_study_s_picture_comes_before_its_table(content):
    cells = [cell.source for cell in code(content)]
    for before, source in itertools.pairwise(cells):
        if "shown(" in source:
            assert "fold=" in source
            assert ".plot(" in before.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "cited"),
    [
        ("1_dropout", ("Cavazza", "Mianjy")),
        ("2_zero_initialisation", ("Marchenko",)),
        ("3_ripple", ("Newman", "Hanin")),
    ],
)
def test_results_of_others_are_cited(name, cited):
    recap = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells[-2].source
    assert all(one in recap for one in cited)


def test_prose_has_balanced_mathematics(content):
    for cell in content.cells:
        if cell.cell_type == "markdown":
            assert cell.source.count("$$") % 2 == 0
            assert re.sub(r"\$\$.*?\$\$", "", cell.source, flags=re.DOTALL).count("$") % 2 == 0


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name in ("3_ripple", "4_allora")])
def test_sliders_for_ripple_and_escape(name):
    assert "slider(" in (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")


# what the notebooks share


def test_sizes_follow_the_environment(monkeypatch):
    monkeypatch.delenv(shared.SMALL, raising=False)
    assert shared.sized(100, 2) == 100
    monkeypatch.setenv(shared.SMALL, "1")
    assert shared.sized(100, 2) == 2
    assert shared.begin().data == f"allora_analysis {allora_analysis.__version__}, small sizes"
    monkeypatch.setenv(shared.SMALL, "0")
    assert not shared.small()


def test_a_table_shows_text_as_it_is():
    table = Table("‖W*‖", ("a|b", "m_l"), [("1 < 2", "[3]")], ["note*"])
    lines = shared.shown(table).data.splitlines()
    assert lines[0] == r"**‖W\*‖**"
    assert lines[2:5] == [r"| a\|b | m\_l |", "|---|---|", r"| 1 \< 2 | \[3\] |"]
    assert lines[-1] == r"note\*"
    folded = shared.shown(table, fold="The numbers").data
    assert folded.startswith("<details>\n<summary>The numbers</summary>\n\n**‖W")
    assert folded.endswith("</details>")


def rows():
    claim = Claim("3.1-x", "§3.1", "W* | _printed_", lambda cases: None, "command", "tests/test_x.py")
    return Row(claim, Finding("conditional", Evidence({}, {}, ""), answer="Only *here*.", condition="x")), Row(
        claim, None, "planted"
    )


def test_verdicts_of_given_rows():
    good, failed = rows()
    shown = shared.verdict_table([good], title="§3.1")
    assert "| conditional | 3.1-x | W\\* \\| \\_printed\\_ | Only \\*here\\*. |" in shown.data
    assert shown.data.startswith("<details>\n<summary>§3.1: 1 claim: 1 conditional</summary>")
    with pytest.raises(ArgumentError, match="planted"):
        shared.verdict_table([good, failed])


@pytest.mark.parametrize(
    ("where", "who"),
    [
        ("§3.1", ""),
        ("beyond the paper: Abstract, on another model", " (not in the paper)"),
        ("beyond the paper: abstract of Doe et al. 2025 (a workshop)", " (Doe et al. 2025)"),
    ],
)
def test_a_sentence_that_is_not_the_papers_says_whose_it_is(where, who):
    claim = Claim("3.1-x", where, "Printed.", lambda cases: None, "command", "tests/test_x.py")
    row = Row(claim, Finding("conditional", Evidence({}, {}, ""), answer="Only here.", condition="x"))
    heading, _, line = shared.verdict_table([row]).data.splitlines()
    assert heading.startswith("| verdict | claim | statement |")
    assert line.startswith(f"| conditional | 3.1-x | Printed.{who} | Only here. |")


def test_verdicts_are_the_ledgers_and_are_read_back():
    cell = new_code_cell("", outputs=[])
    data = {"text/markdown": shared.verdicts("T1-averages", "F3-cells").data}
    cell.outputs = [nbformat.from_dict({"output_type": "display_data", "data": data, "metadata": {}})]
    found = execution.shown_verdicts(new_notebook(cells=[cell]))
    assert found == [("F3-cells", "holds_corrected"), ("T1-averages", "holds")]
    with pytest.raises(ArgumentError, match="did you mean"):
        shared.verdicts("T1-average")


def test_rows_are_read_where_the_environment_names_a_file(tmp_path, monkeypatch):
    named = ("T1-averages", "F3-cells", "T2-long")
    fresh = shared.verdicts(*named).data
    path = tmp_path / "ledger.json"
    path.write_text(view.as_json(view.views(shared.rows(*named))), encoding="utf-8")
    monkeypatch.setattr(ledger, "run", None)
    monkeypatch.setenv(shared.LEDGER, str(path))
    assert shared.verdicts(*named).data == fresh


@pytest.fixture
def run_of_today(tmp_path):
    """A repository of one module and one record, and a ledger's file made after them."""
    for place in ("allora_analysis/module.py", "experiments/results/study/record.json"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    claims = [
        {"id": one.id, "statement": one.statement, "verdict": "holds", "evidence": {"seed": 0}}
        | {"reading": one.reading and spaced(one.reading)}
        for one in all_claims()
    ]
    return tmp_path, {"claims": claims, "environment": environment()}


def is_of_today(root, document, later=10) -> bool:
    path = root / "ledger.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    now = time.time()
    os.utime(path, (now + later, now + later))
    return shared.of_today(path, root)


def test_a_run_of_today_need_not_be_made_again(run_of_today):
    root, document = run_of_today
    assert is_of_today(root, document)
    (root / "allora_analysis" / "__pycache__").mkdir()
    compiled = root / "allora_analysis" / "__pycache__" / "module.pyc"
    compiled.touch()
    os.utime(compiled, (time.time() + 20, time.time() + 20))
    assert is_of_today(root, document | {"environment": document["environment"] | {"threads": 99}})


@pytest.mark.parametrize("place", ["allora_analysis/module.py", "experiments/results/study/record.json"])
def test_a_run_before_the_last_change_is_made_again(place, run_of_today):
    root, document = run_of_today
    os.utime(root / place, (time.time() + 20, time.time() + 20))
    assert not is_of_today(root, document)


def test_a_run_before_a_record_was_taken_away_is_made_again(run_of_today):
    root, document = run_of_today
    (root / "experiments" / "results" / "study" / "record.json").unlink()
    assert not is_of_today(root, document, later=-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda of: of["environment"].update(numpy="1.0"),
        lambda of: of["claims"].pop(),
        lambda of: of["claims"][3].update(statement="0 = 1"),
        lambda of: of["claims"][3].update(reading="Otherwise."),
        lambda of: of["claims"][3].update(verdict=None),
        lambda of: of["claims"][3].update(evidence={"seed": 1}),
        lambda of: of["claims"][3].update(evidence=None),
        lambda of: of["claims"].reverse(),
        lambda of: of.update(own_records=True),
        lambda of: of.pop("environment"),
    ],
)
def test_another_run_is_not_todays(change, run_of_today):
    root, document = run_of_today
    change(document)
    assert not is_of_today(root, document)
    assert not is_of_today(root, "no JSON")
    assert not is_of_today(root, "[]")


def draw(slope):
    figure, (axis,) = panels()
    axis.plot([0, 1], [0, slope])
    return figure


def test_a_slider_leaves_the_picture_in_the_middle():
    drawn = []
    made = shared.slider(lambda slope: drawn.append(slope) or draw(slope), slope=(1, 2, 5))
    assert made.picture == shared.png(draw(2))
    assert made.picture != shared.png(draw(1))
    bundle = made._repr_mimebundle_()
    assert {execution.WIDGET, "image/png", "text/plain"} <= set(bundle)
    assert bundle["text/plain"] == "at slope = 2; run the cell for the sliders"
    assert {1, 2, 5} == set(drawn)
    made.panel.children[0].value = 5
    assert drawn[-1] == 5


def test_a_slider_that_cannot_be_moved_fails_at_once():
    with pytest.raises(ZeroDivisionError):
        shared.slider(lambda slope: draw(1 / slope), slope=(0, 1, 2))


def test_json_has_no_trailing_noise(committed):
    text = committed.read_text(encoding="utf-8")
    assert json.loads(text)["nbformat"] == 4
    assert text.endswith("}\n")


# -- the runner: in place, cleaned, compared; a kernel that does not answer


@pytest.fixture
def folder(tmp_path):
    """Notebooks of a few cells: the first one is to be filled."""
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def written(folder, *sources) -> Path:
    cells = [new_markdown_cell("# Title"), *(new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources))]
    path = folder / f"{NOTEBOOKS[0]}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def command(folder, *flags):
    return main(["--only", NOTEBOOKS[0], "--folder", str(folder), *flags])


GOOD = (
    "from allora_analysis import notebook\nnotebook.begin()",
    "import os, sys\nprint('claims checked: 1 of 2', file=sys.stderr)\nprint(os.getcwd())",
    "from allora_analysis.plotting import panels\nnotebook.slider(lambda eta: panels()[0], eta=(1, 2, 3))",
    "notebook.verdicts('T1-averages')",
)


def test_executed_in_place_and_cleaned(folder, capsys):
    path = written(folder, *GOOD)
    assert command(folder) == 0, capsys.readouterr().err
    first = path.read_bytes()
    content = nbformat.read(path, as_version=4)
    assert execution.blemishes(content) == []
    assert content.metadata == {"kernelspec": execution.KERNEL, "language_info": {"name": "python"}}
    begun, where, slider, _ = (cell.outputs for cell in content.cells[1:])
    assert begun[0].data["text/markdown"].endswith("full sizes")
    assert where[0].text == "notebooks\n"  # the folder above is cut off, and no progress is kept
    assert set(slider[0].data) == {"image/png", "text/plain"}
    assert execution.shown_verdicts(content) == [("T1-averages", "holds")]
    assert command(folder) == 0
    assert path.read_bytes() == first  # the same seed, the same file


def test_a_check_writes_nothing_and_sees_an_old_verdict(folder, capsys):
    path = written(folder, GOOD[0], GOOD[-1])
    assert command(folder, "--check", "--small") == 1  # no verdict was committed
    assert "(T1-averages: shown none, today holds): make notebooks" in capsys.readouterr().err
    assert command(folder) == 0
    good = path.read_bytes()
    assert command(folder, "--check", "--small") == 0
    assert path.read_bytes() == good
    path.write_text(good.decode().replace("| holds |", "| refuted |"), encoding="utf-8")
    old = path.read_bytes()
    capsys.readouterr()
    assert command(folder, "--check") == 1
    assert "(T1-averages: shown refuted, today holds): make notebooks" in capsys.readouterr().err
    assert path.read_bytes() == old
    assert os.environ[shared.SMALL] == "0"


@pytest.mark.parametrize("today", [True, False])
def test_a_check_reads_a_run_of_today_and_makes_another_again(today, folder, capsys, monkeypatch):
    path, file = written(folder, GOOD[0], GOOD[-1]), folder / "ledger.json"
    assert command(folder) == 0
    file.write_text(view.as_json(view.views(shared.rows("T1-averages"))).replace('"holds"', '"refuted"'))
    monkeypatch.setattr(shared, "of_today", lambda path, root: today)
    good = path.read_bytes()
    assert command(folder, "--check", "--ledger", str(file)) == int(today)  # the file is of another ledger
    assert ("T1-averages" if today else "the rows are checked") in capsys.readouterr().err
    assert path.read_bytes() == good
    assert command(folder, "--check") == 0
    assert os.environ[shared.LEDGER] == ""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("import warnings\nwarnings.warn('something changed')", "something changed"),
        ("print('/home/someone/file.txt')", "/home/someone/file.txt"),
        ("print(object())", "0x"),
    ],
)
def test_what_may_not_be_kept_is_not_written(source, said, folder, capsys):
    path = written(folder, source)
    before = path.read_bytes()
    assert command(folder) == 1
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(("lost", "status"), [(1, 0), (2, 1)])
def test_a_kernel_whose_answer_is_lost_is_asked_once_more(lost, status, folder, capsys, monkeypatch):
    right, calls = execution._run, []

    def run(notebook, where):
        calls.append(where)
        if len(calls) <= lost:
            raise RuntimeError("Kernel didn't respond in 60 seconds")
        right(notebook, where)

    monkeypatch.setattr(execution, "_run", run)
    path = written(folder, "1 + 1")
    assert command(folder) == status
    said = capsys.readouterr().err
    assert "no answer from the kernel; once more" in said
    assert ("Kernel didn't respond" in said) == bool(status)
    assert len(calls) == 2
    assert bool(nbformat.read(path, as_version=4).cells[1].outputs) == (not status)


def test_a_message_that_wakes_nobody_is_seen_at_the_next_look(folder, monkeypatch):
    looks = []

    async def asleep(self, timeout=None, flags=zmq.POLLIN):  # sees what is there; what comes later wakes nobody
        ready = bool(zmq.Socket.shadow(self.underlying).poll(0, flags))
        if not ready:
            looks.append(timeout)
            await asyncio.sleep(10_000 if timeout is None else timeout / 1000)
        return ready

    monkeypatch.setattr(zmq.asyncio.Socket, "poll", asleep)
    monkeypatch.setattr(execution, "PAUSE", 0.5)
    monkeypatch.setattr(execution, "SECONDS", 60)
    path, start = written(folder, "1 + 1", "2 + 2"), time.monotonic()
    assert command(folder) == 0
    assert looks
    assert time.monotonic() - start < 60  # not waited for until the limit, and then run once more
    assert [cell.outputs[0].data["text/plain"] for cell in nbformat.read(path, as_version=4).cells[1:]] == ["2", "4"]


def test_a_cell_that_takes_too_long_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(execution, "SECONDS", 1)
    written(folder, "import time\ntime.sleep(30)")
    assert command(folder) == 1
    assert "timed out" in capsys.readouterr().err


def test_looks_change_no_output(folder, monkeypatch):
    path = written(folder, *GOOD)
    assert command(folder) == 0
    first = path.read_bytes()
    monkeypatch.setattr(execution, "PAUSE", 0.05)
    assert command(folder) == 0
    assert path.read_bytes() == first


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--small"], "--check"),
        (["--only", "6_conclusion"], "6_conclusion"),
        (["--folder", "."], "has no"),
        (["--only"], "only"),
        (["--ledger", "."], "must be a file, and goes with --check only"),
        (["--ledger", __file__], "--check"),
    ],
)
def test_a_users_mistake_is_one_line(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert said in error
