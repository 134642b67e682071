"""Every study's command, run as a user does, in a process of its own."""

import dataclasses
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from allora_analysis import cli
from allora_analysis.study import show
from tests import warm

ROOT = Path(__file__).parents[1]

HEAVY = ("torch", "torchvision", "transformers", "peft", "matplotlib", "sklearn", "scipy.stats", "scipy.linalg")
# A size that runs in about a second, and a flag with a value that makes no sense.
STUDIES = {
    "tikhonov": (["--draws", "2000"], ["--keep-prob", "0"], "--keep-prob"),
    "deviation": (["--draws", "500"], ["--keep-prob", "1.5"], "--keep-prob"),
    "dropout_sgd": (["--steps", "20", "--replicas", "50"], ["--learning-rate", "1e9"], "--learning-rate"),
    "hessian": (["--draws", "5"], ["--rank", "0"], "--rank"),
    "ripple": (["--depth", "4", "--width", "16", "--rank", "2", "--replicas", "8"], ["--depth", "0"], "--depth"),
    "escape": (["--steps", "20", "--seeds", "2"], ["--eta", "0"], "--eta"),
    "width": (
        ["--methods", "lora", "allora", "--widths", "32", "64", "--ranks", "2", "4", "--width", "32", "--seeds", "2"],
        ["--rank", "100"],
        "--rank",
    ),
    "gradient_std": (
        ["--hidden", "8", "8", "--epochs", "1", "--masks", "4", "--control-minibatches", "4", "--seeds", "2"],
        ["--masks", "1"],
        "--masks",
    ),
}


def run(*words, **options):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, timeout=120, **options
    )


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_fits_the_terminal(columns):
    for name in ("allora_analysis", "allora_analysis.doctor", "allora_analysis.dropout_sgd"):
        done = subprocess.run(
            [sys.executable, "-m", name, "--help"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=dict(os.environ, PYTHONPATH=str(ROOT), COLUMNS=columns, PYTHONIOENCODING="utf-8"),
        )
        assert done.returncode == 0
        assert max(map(cell_len, done.stdout.splitlines())) <= int(columns), name


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_prints_writes_and_draws_and_json_alone_is_the_same_bytes(name, tmp_path):
    words = [f"allora_analysis.{name}", *STUDIES[name][0]]
    done = run(*words, "--json", str(tmp_path / "a.json"), "--figure", str(tmp_path / "a.png"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") > 4
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=pytest.fail)
    assert list(document) == ["study", "config", "predicted", "measured", "environment"]
    assert document["study"] == name
    assert document["predicted"]
    assert document["measured"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]
    again = warm.Popen(*words, "--json", "-")
    output, errors = again.communicate()
    assert (again.returncode, output) == (0, text), errors


@pytest.mark.parametrize("name", STUDIES)
def test_a_value_that_makes_no_sense_is_one_line_and_exit_2(name):
    done = run(f"allora_analysis.{name}", *STUDIES[name][1])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert STUDIES[name][2] in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["allora_analysis", *(f"allora_analysis.{name}" for name in STUDIES)])
def test_help_loads_nothing_heavy(module):
    code = f"import runpy, sys\nsys.argv = [{module!r}, '--help']\n"
    code += f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    code += f"finally: print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def help_of(study, capsys):
    with pytest.raises(SystemExit):
        cli.main(study, ["--help"])
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def studies():
    return [importlib.import_module(f"allora_analysis.{name}.study").STUDY for name in (*STUDIES, "finetune")]


@pytest.mark.parametrize("study", studies(), ids=lambda study: study.name)
def test_help_says_each_thing_once_with_an_example_that_parses(study, capsys):
    told = help_of(study, capsys)
    first = " ".join((study.config.__doc__ or "").partition("\n")[0].split())
    assert told.count(first) == 1
    example = f"For example: python -m allora_analysis.{study.name} {study.example}"
    assert told.count(example) == 1
    assert "{None}" not in told
    both = dataclasses.make_dataclass("Both", [("config", study.config), ("output", cli.Output)])
    assert cli.parse(both, "it", study.example.split()) != cli.parse(both, "it", required(study))


def required(study):
    return ["--model", "a", "--data", "b", "--arm", "lora"] if study.name == "finetune" else []


@pytest.mark.parametrize("study", studies(), ids=lambda study: study.name)
def test_help_gives_the_choices_of_every_enumeration(study, capsys):
    """A flag of words says them: as what it takes, not as STR."""
    free = {"--model-name", "--data-name"}
    words = re.findall(r"(--[\w-]+) STR", help_of(study, capsys))
    assert set(words) <= free


def test_the_main_help_lists_the_studies(capsys):
    from allora_analysis.__main__ import main

    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f".{name}" in told for name in (*STUDIES, "finetune", "adaptors", "adaptive", "lora", "grid"))


@pytest.mark.parametrize("name", sorted({*STUDIES} - {"gradient_std"}))
def test_a_study_s_cells_are_whole_on_a_terminal(name, monkeypatch):
    study = importlib.import_module(f"allora_analysis.{name}.study").STUDY
    config = cli.parse(study.config, name, STUDIES[name][0])
    table = study.table(config, study.run(config))
    monkeypatch.setenv("TERM", "dumb")
    for width in (80, 120):
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", str(width))
        show(table)
        lines = terminal.getvalue().splitlines()
        assert all(any(cell in line for line in lines) for row in table.rows for cell in row)
        assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("name", ["adaptive", "lora", "grid"])
def test_a_package_that_runs_nothing_says_what_is_in_it_and_what_runs(name):
    done = run(f"allora_analysis.{name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("python -m ") >= 2
    assert run(f"allora_analysis.{name}", "--help").stdout == done.stdout
    wrong = run(f"allora_analysis.{name}", "--steps", "3")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_adaptors_print_their_values():
    done = run("allora_analysis.adaptors", "--eta", "2", "--sizes", "0", "3.75")
    assert done.returncode == 0, done.stderr
    assert re.search(r"[│|] 3.75 [│|]\s+0.5 [│|]", done.stdout)


STOPPED = "interrupted: nothing was finished yet\n"
PRESSED = "import signal\nsignal.raise_signal(signal.SIGINT)\n"
PRESSED_IN_A_CLASS = """import signal
class Field:
    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGINT)  # an exception becomes a RuntimeError here, in Python 3.11
class Owner:
    field = Field()
"""


@pytest.mark.parametrize(
    ("command", "tyro"),
    [
        ("allora_analysis", PRESSED),
        ("allora_analysis", PRESSED_IN_A_CLASS),
        ("allora_analysis.ripple", PRESSED),
        ("experiments.perception", PRESSED),
        ("paper_figures", PRESSED),
    ],
)
def test_ctrl_c_while_it_still_imports_is_a_line(command, tyro, tmp_path):
    """As if the key were pressed while tyro is imported: the module in its place sends the signal."""
    (tmp_path / "tyro.py").write_text(tyro)
    environment = dict(os.environ, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    words = [sys.executable, "-m", command]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, STOPPED)


@pytest.mark.parametrize("imported", ["allora_analysis", "numpy.linalg", "tyro._cli"])
def test_ctrl_c_at_a_moment_of_the_start_is_a_line(imported):
    """Python itself says which module it has just imported; before our package's own, Ctrl-C is Python's."""
    words = [sys.executable, "-X", "importtime", "-m", "allora_analysis.ripple"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        for line in process.stderr:
            if line.split("|")[-1].strip() == imported:
                process.send_signal(signal.SIGINT)
                break
        said = [line for line in process.stderr if not line.startswith("import time:")]
    # Python sends itself the signal again where it came within an `eval`: the status is then a negative 2.
    assert (process.returncode in (130, -signal.SIGINT), said) == (True, [STOPPED])


def test_a_command_s_own_run_has_ctrl_c_s_usual_meaning():
    program = "import sys, signal; sys.argv = ['-m']; sys.orig_argv += ['allora_analysis.ripple']; "
    program += "import allora_analysis.cli as cli; early = signal.getsignal(signal.SIGINT); "
    program += "cli.guarded(lambda: print(early.__name__, signal.getsignal(signal.SIGINT).__name__) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "_interrupted default_int_handler\n", done.stderr


def test_the_ledger_s_generator_answers_help():
    done = run("allora_analysis.render.markdown", "--help")
    assert done.returncode == 0
    assert "usage: python -m allora_analysis.render.markdown" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "{missing}/a.json"], "cannot be written"),
        (["--json", "{folder}"], "is a folder"),
        (["--figure", "{missing}/a.png"], "cannot be written"),
        (["--figure", "{folder}/a.xyz"], "must end in one of"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, words, message):
    words = [word.format(missing=tmp_path / "missing", folder=tmp_path) for word in words]
    done = run("allora_analysis.ripple", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_loses_nothing_that_was_computed():
    done = run("allora_analysis.ripple", *STUDIES["ripple"][0], "--json", "/dev/full")
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert done.stdout.count("\n") > 4
    assert Path("/dev/full").is_char_device()


def test_a_closed_pipe_is_no_error():
    command = f"'{sys.executable}' -m allora_analysis.ripple --depth 4 --width 16 --rank 2 --replicas 8 | true"
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_help_onto_a_full_disk_is_one_line(buffered):
    command = [sys.executable, "-m", "allora_analysis.ripple", "--help"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED=buffered)
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    words = "error: standard output: No space left on device; send it elsewhere\n"
    assert (done.returncode, done.stderr) == (2, words)


def test_help_that_nobody_reads_on_is_no_error():
    command = f"PYTHONUNBUFFERED=1 '{sys.executable}' -m allora_analysis.ripple --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
