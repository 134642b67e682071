"""`python -m experiments status`: what is recorded, older, unfinished, torn."""

import bz2
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from allora_analysis import records
from allora_analysis.finetune.setting import PROTOCOL, STUDY
from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.design import Cell
from allora_analysis.records import files, packs, record
from experiments import __main__ as experiments
from tests.tiny_grid import ROOT
from tests.toy_run import save, spoil


def status(*folders):
    return experiments.main(["status", "--results", *map(str, folders)])


def test_counts_older_ones_and_what_is_unfinished(tmp_path, capsys):
    for run in range(3):
        save(tmp_path, {"run": run}, {}, STUDY, PROTOCOL)
    save(tmp_path, {"run": 3}, {}, "gradient_std", experiments.PROTOCOLS["gradient_std"])
    save(tmp_path, {"run": 4}, {}, "others")
    older = save(tmp_path, {"run": 5}, {}, STUDY, PROTOCOL - 1).path.name
    newer = save(tmp_path, {"run": 6}, {}, STUDY, PROTOCOL + 1).path.name
    (tmp_path / "unfinished" / "finetune-0123").mkdir(parents=True)
    (tmp_path / "unfinished" / "finetune-0123.lock").write_text("")
    (tmp_path / "unfinished" / "gradient_std-4567.npz").write_text("")
    (tmp_path / "unfinished" / "jobs").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    assert status(tmp_path) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:4] == [
        f"{tmp_path}:",
        f"  {STUDY}: 5 records",
        "  gradient_std: 1 records",
        "  others: 1 records, a study that this version has not",
    ]
    assert out[4:6] == ["  1 of an older protocol, which no command reads:", f"    {older}"]
    assert out[6:8] == ["  1 of a newer protocol: written by a later version:", f"    {newer}"]
    assert out[8:10] == ["  1 JSON files that are no records, left alone:", "    notes.json"]
    assert out[10:] == [
        "  2 unfinished: the command that began them goes on:",
        "    finetune-0123",
        "    gradient_std-4567.npz",
    ]


def test_a_torn_file_is_set_aside_named_and_status_1_until_someone_looks(tmp_path, capsys):
    good, bad = save(tmp_path, {"run": 0}, {}, STUDY, PROTOCOL), save(tmp_path, {"run": 1}, {}, STUDY, PROTOCOL)
    spoil(bad.path)
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        assert status(tmp_path, tmp_path / "empty") == 1
        out = capsys.readouterr().out
        assert f"  {STUDY}: 1 records" in out
        assert (
            "  1 TORN or altered, set aside in set_aside/; run again what they recorded, and delete them there:" in out
        )
        assert f"    {bad.path.stem}-" in out
        assert out.endswith("empty:\n  no records\n")
        assert not bad.path.exists()
    assert good.path.exists()
    next((tmp_path / "set_aside").iterdir()).unlink()
    assert status(tmp_path) == 0


def test_a_folder_of_folders_is_looked_into(tmp_path, capsys):
    for study, protocol in ((STUDY, PROTOCOL), ("gradient_std", experiments.PROTOCOLS["gradient_std"])):
        save(tmp_path / study, {"run": 0}, {}, study, protocol)
    assert status(tmp_path) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{tmp_path / STUDY}:",
        f"  {STUDY}: 1 records",
        f"{tmp_path / 'gradient_std'}:",
        "  gradient_std: 1 records",
    ]


def test_a_packed_folder_has_the_status_that_it_had_loose(tmp_path, capsys):
    for run, protocol in enumerate((PROTOCOL, PROTOCOL, PROTOCOL - 1, PROTOCOL + 1)):
        save(tmp_path, {"run": run}, {}, STUDY, protocol)
    save(tmp_path, {"run": 9}, {}, "others")
    (tmp_path / "unfinished" / "finetune-0123").mkdir(parents=True)
    assert status(tmp_path) == 0
    before = capsys.readouterr().out
    size = sum(path.stat().st_size for path in tmp_path.glob("*.json"))
    assert experiments.main(["pack", str(tmp_path)]) == 0
    after = (tmp_path / packs.PACK).stat().st_size
    assert capsys.readouterr().out == f"{tmp_path}: 5 records packed, {size:,} bytes before, {after:,} after\n"
    assert experiments.main(["pack", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: nothing to pack\n"
    assert status(tmp_path) == 0
    assert capsys.readouterr().out == before
    assert (tmp_path / "unfinished" / "finetune-0123").is_dir()


def test_a_cut_pack_is_named_status_1_and_the_other_folders_are_told(tmp_path, capsys):
    for folder in ("cut", "whole"):
        save(tmp_path / folder, {"run": 1}, {}, STUDY, PROTOCOL)
    records.pack(tmp_path / "cut")
    pack = tmp_path / "cut" / packs.PACK
    pack.write_bytes(pack.read_bytes()[:-9])
    assert status(tmp_path / "cut", tmp_path / "whole") == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'cut'}:",
        f"  ALTERED {pack}: was cut or altered; take the file from git",
        f"{tmp_path / 'whole'}:",
        f"  {STUDY}: 1 records",
    ]


def test_an_altered_record_in_a_pack_is_named_and_status_1(tmp_path, capsys):
    path = save(tmp_path, {"run": 1}, {}, STUDY, PROTOCOL).path
    content = path.read_bytes().replace(b'"run":1', b'"run":2')
    records.pack(tmp_path)
    files.replace(tmp_path / packs.PACK, bz2.compress(packs._tar({path.name: content})))
    assert status(tmp_path) == 1
    out = capsys.readouterr().out.splitlines()[1:]
    assert out[1:] == [
        "  1 TORN or altered, in a pack or a folder that cannot be written, so they stay where they are:",
        f"    {path.name}",
    ]


def test_show_prints_a_record_loose_or_packed(tmp_path, capsys):
    path = save(tmp_path, {"run": "ä"}, {"y": [1, 2]}, STUDY, PROTOCOL).path
    told = []
    for _ in range(2):
        for name in (path.name, path.stem, records.load(path).key[:6]):
            assert experiments.main(["show", name, "--results", str(tmp_path)]) == 0
            told.append(capsys.readouterr().out)
        records.pack(tmp_path)
    assert len(set(told)) == 1
    document = json.loads(told[0])
    assert document | {"provenance": {}} == {
        "study": STUDY,
        "key": records.load(path).key,
        "protocol": PROTOCOL,
        "config": {"run": "ä"},
        "digests": {},
        "result": {"y": [1, 2]},
        "provenance": {},
    }
    assert "\n  " in told[0]


def test_the_repositorys_own_records_are_whole():
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "status"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    inside = list((ROOT / "experiments" / "results").iterdir())
    said = done.stdout.splitlines()
    assert [line for line in said if not line.startswith("  ")] == [f"{folder}:" for folder in experiments.FOLDERS]
    assert len(said) == 2 * len(experiments.FOLDERS) + 2, "a line each, three of the laboratory's tables"
    assert sorted(inside) == sorted(experiments.FOLDERS)
    assert "this version has not" not in done.stdout


def test_an_altered_table_is_named_and_status_1(tmp_path, capsys):
    path = tmp_path / "digits.jsonl"
    table = tables.begin(path, tables.header("digits", "0", 5, 100))
    for rate in (0.1, 0.2):
        tables.add(table, (Cell(), rate, 0, 2), tables.Row((1.0, 1.0), (3, 3), (1.0, 1.0)))
    (tmp_path / "train.jsonl").write_text('{"text":"no table"}\n')
    (tmp_path / "test.jsonl.bz2").write_bytes(bz2.compress(b'{"text":"no table"}\n'))
    assert status(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  laboratory: 4 runs of 1 cells in the table digits.jsonl"]
    path.write_bytes(path.read_bytes().replace(b'"rate":0.2', b'"rate":0.3'))
    assert status(tmp_path) == 1
    (told,) = capsys.readouterr().out.splitlines()[1:]
    assert told.startswith(f"  ALTERED table {path}: line 3 was altered; take the file from git, or keep the 2 lines")
    assert path.exists()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["status", "--results", "/nowhere/at/all"], "--results /nowhere/at/all: is not a folder"),
        (["reproduce", "--sample", "1", "--seed", "-1"], "--seed must be a whole number, 0 or above, received -1"),
        (["pack", "/nowhere/at/all"], "FOLDER /nowhere/at/all: is not a folder; name a folder of records"),
        (["show", "0123", "--results", str(ROOT / "tests")], "KEY '0123': no record has it"),
        (["run"], "an experiment has a command of its own, python -m experiments.NAME: ablation, commonsense"),
        ([], "say python -m experiments status, reproduce, show or pack; "),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, words, told):
    assert experiments.main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_help_names_every_command_and_every_experiment(capsys):
    assert experiments.main(["--help"]) == 0
    told = capsys.readouterr().out
    for command in experiments.COMMANDS:
        assert f"python -m experiments {command}\n" in told
    for path in Path(experiments.__file__).parent.glob("[a-z]*.py"):
        assert f"| `{path.stem}` |" in told
    with pytest.raises(SystemExit) as done:
        experiments.main(["status", "--help"])
    assert done.value.code == 0
    assert "--results" in capsys.readouterr().out


def test_a_torn_file_in_a_folder_that_cannot_be_written_is_named_too(tmp_path, capsys, monkeypatch):
    bad = save(tmp_path, {"run": 1}, {}, STUDY, PROTOCOL)
    spoil(bad.path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "locked", refuse)
    assert status(tmp_path) == 1
    out = capsys.readouterr().out
    assert "  1 TORN or altered, in a pack or a folder that cannot be written, so they stay where they are:" in out
    assert f"    {bad.path.name}" in out
    assert bad.path.exists()


def test_the_committed_records_fit_in_a_hand_and_hold_no_layer_s_own_norms():
    listed = [path for folder in experiments.FOLDERS for path in records.record_files(folder)]
    assert len(listed) > 400
    files = [path for path in (ROOT / "experiments" / "results").rglob("*") if path.is_file()]
    kept = [path for path in files if records.UNFINISHED not in path.parts and path.suffix != ".lock"]
    assert {"finetune", "gradient_std"} <= {path.parent.name for path in kept if path.name == packs.PACK}
    assert sum(path.stat().st_size for path in kept) <= 5_000_000
    assert not any("layers" in records.load(path).result.get("row_norms", {}) for path in listed)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone")
def test_what_a_killed_process_leaves_beside_a_table_or_a_pack_is_in_no_commit_and_so_in_no_wheel():
    """Git and hatchling both read .gitignore. Planted: the table itself, which both take."""
    names = [f"experiments/results/laboratory/digits.{kind}" for kind in ("part", "lock", "jsonl", "jsonl.bz2")]
    names += ["experiments/results/finetune/records.part", f"experiments/results/finetune/{packs.PACK}"]
    for name in names:
        done = subprocess.run(["git", "check-ignore", "--no-index", "-q", name], cwd=ROOT, timeout=60)
        assert done.returncode == (0 if name.endswith(("part", "lock")) else 1), name


def test_an_installed_package_has_the_records_inside(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "allora_analysis"
    monkeypatch.setattr(record, "PACKAGE", package)
    assert records.results_folder("finetune") == package / "results" / "finetune"
    (tmp_path / "site-packages" / "experiments" / "results").mkdir(parents=True)
    assert records.results_folder("finetune") == tmp_path / "site-packages" / "experiments" / "results" / "finetune"
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert wheel["wheel"]["sources"] == {"experiments/results": "allora_analysis/results"}
    assert "experiments/results" in wheel["wheel"]["only-include"]
