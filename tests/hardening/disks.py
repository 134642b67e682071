"""A disk that fails, or a process that is killed, at every write of every writer: `python -m tests.hardening.disks`.

`faults.c`, compiled and preloaded, counts what a writer does below its folder: opening for writing, writing, renaming,
linking, syncing, deleting. The writer is run once for each of these operations and each fault: from it on the disk is
full, or it fails once with an input/output error, or the process is killed there. Afterwards

- a process that was not killed has ended by itself, with status 0 or with one line and status 2;
- every file that was there before is as it was, or whole and new;
- the same call, on a disk that works again, comes to the same result as one that was never disturbed.
"""

import contextlib
import ctypes
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from allora_analysis import cli
from allora_analysis.validation import ArgumentError
from tests.hardening import command_line, progress, read, record

COMMAND = "python -m tests.hardening.disks"
FAULTS = {"full": 1, "input/output error": 2, "killed": 3}
SOURCE = Path(__file__).with_name("faults.c")
ROOT = Path(__file__).parents[2]
HEADS = ["writer", "its operations", "tried", "faults", "wrong"]


@dataclasses.dataclass(frozen=True)
class Writer:
    """Something that writes below a folder: what is there first, the call, and what it should have come to."""

    prepare: Callable[[Path], None]
    call: Callable[[Path], int]
    content: Callable[[Path], Any]
    may_go: str = ""  # the file that a fault between two renames leaves out, so that nothing reads a mixed pair


def study(name: str, flags: Iterable[str], *outputs: str) -> Writer:
    """A study's command over files that exist; their bytes but for what tells the time."""
    from importlib import import_module

    module = import_module(f"allora_analysis.{name}.study")

    def call(folder: Path) -> int:
        return cli.main(
            module.STUDY, [*flags, *(w for flag in outputs for w in (f"--{flag}", str(folder / FILES[flag])))]
        )

    def prepare(folder: Path) -> None:
        for flag in outputs:
            if flag != "results":
                (folder / FILES[flag]).write_bytes(b"the user's own")

    return Writer(prepare, call, lambda folder: {flag: _plain(folder / FILES[flag]) for flag in outputs})


FILES = {"json": "out.json", "figure": "out.png", "results": "results", "report": "out.html"}


def _plain(path: Path) -> Any:
    # A file's content, without provenance where it is JSON.
    if path.is_dir():
        return {file.name: _plain(file) for file in sorted(path.glob("*.json"))}
    if path.suffix != ".json":
        return path.read_bytes()
    document = json.loads(path.read_bytes())
    return {key: value for key, value in document.items() if key not in ("environment", "provenance", "checksum")}


def saved_record() -> Writer:
    """`records.save`, beside a record that is there."""
    from allora_analysis import records

    def save(folder: Path, seed: int) -> int:
        kept = {"protocol": 1, "digests": {"data": "0" * 64}, "provenance": records.provenance([])}
        records.save(folder, "toy", {"seed": seed}, {"epochs": [1, 2, seed]}, **kept)
        return 0

    return Writer(
        lambda folder: save(folder, 0) and None,
        lambda folder: save(folder, 1),
        lambda folder: sorted(str(found.result) for found in records.find(folder, "toy")),
    )


def exported_adapter() -> Writer:
    """`export_lora` over an earlier export of another rank."""
    import torch
    from peft import get_peft_model
    from safetensors.torch import load_file

    from allora_analysis.lora.peft import allora_config, export_lora

    def export(folder: Path, rank: int) -> int:
        torch.manual_seed(0)
        base = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
        export_lora(get_peft_model(base, allora_config(eta=2.0, r=rank, target_modules=["0", "1"])), folder)
        return 0

    def content(folder: Path) -> Any:
        config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        if not (config.exists() and weights.exists()):
            return None
        rank = json.loads(config.read_text(encoding="utf-8"))["r"]
        shapes = {key: tuple(value.shape) for key, value in load_file(weights).items()}
        assert all(rank in shape for shape in shapes.values()), f"a mixed pair: r = {rank}, {shapes}"
        return rank, shapes

    return Writer(
        lambda folder: export(folder, 2) and None,
        lambda folder: export(folder, 3),
        content,
        may_go="adapter_config.json",
    )


def fine_tuning() -> Writer:
    """A run of `finetune` with checkpoints, of a tiny model."""
    from tests import tiny_finetune as tiny

    home = Path(tempfile.mkdtemp())
    model, data = tiny.bert(home / "bert"), tiny.sentences(home / "data", 16)
    flags = ["--model", model, "--data", data, "--arm", "lora", "--rank", "2", "--max-steps", "4", "--batch-size", "4"]
    return study("finetune", [*map(str, flags), "--checkpoint-steps", "2", "--device", "cpu"], "results")


def _files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}


def figure_and_table() -> Writer:
    """A figure (.png, .pdf) and a table (.md, .tex) of the paper, drawn over earlier ones."""
    from paper_figures.__main__ import main

    def prepare(folder: Path) -> None:
        for name in ("figure_5.png", "figure_5.pdf", "table_2.md", "table_2.tex"):
            (folder / name).write_bytes(b"drawn before")

    return Writer(prepare, lambda folder: main(["figure_5", "table_2", "--out", str(folder)]), _files_of)


def report() -> Writer:
    """The ledger's page and JSON, of rows that were computed once."""
    from allora_analysis import __main__ as command

    names = ["3.1-expectation", "3.3-worst-case"]
    _with_rows(names)

    def prepare(folder: Path) -> None:
        for name in ("out.html", "out.json"):
            (folder / name).write_bytes(b"the user's own")

    def call(folder: Path) -> int:
        files = ["--report", str(folder / "out.html"), "--json", str(folder / "out.json")]
        return command.main(["--only", *names, *files])

    return Writer(prepare, call, _files_of)


def readme() -> Writer:
    """The README's block, the ledger's page and the recorded answers, of rows that were computed once."""
    from allora_analysis.render import markdown

    _with_rows([*markdown.SELECTED, *markdown.QUESTIONS.values()])
    record_of = markdown.record

    def prepare(folder: Path) -> None:
        shutil.copy(ROOT / "README.md", folder)
        for name in ("ledger.md", "recorded.json"):
            (folder / name).write_bytes(b"written before")

    def call(folder: Path) -> int:
        markdown.record = lambda of: (folder / "recorded.json", record_of(of)[1])
        return cli.guarded(lambda: markdown.write(folder / "README.md", folder / "ledger.md"))

    return Writer(prepare, call, _files_of)


def _with_rows(names: list[str]) -> None:
    # The ledger's checks have been made; what is tried is the writing.
    from allora_analysis.claims import ledger

    rows = ledger.run([claim for claim in ledger.all_claims() if claim.id in names])
    ledger.run = lambda *_, **__: rows


SMALL = {"hidden": 4, "epochs": 2, "masks": 4, "control-minibatches": 4, "nested-minibatches": 3, "nested-masks": 2}
FIGURE_1 = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
WRITERS: dict[str, Callable[[], Writer]] = {
    "records.save": saved_record,
    "a study's --json and --figure": lambda: study("escape", ["--seeds", "2", "--steps", "4"], "json", "figure"),
    "gradient_std --results": lambda: study("gradient_std", FIGURE_1, "results"),
    "export_lora": exported_adapter,
    "paper_figures": figure_and_table,
    "the ledger's --report and --json": report,
    "README, ledger's page, recorded answers": readme,
    "finetune --results": fine_tuning,
}


def child(act: Callable[[], int]) -> tuple[int, str]:
    """A call in a process of its own: its status (negative: its signal; 3: an error of another kind), and stderr."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                status = act()
        except ArgumentError as error:
            status, said = 2, io.StringIO(f"error: {error}\n")
        except BaseException as error:
            status, said = 3, io.StringIO(f"{type(error).__name__}: {error}")
        os.write(write, said.getvalue()[-2000:].encode())
        os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def attempts(name: str, most: int) -> tuple[int, int, list[str]]:
    """Each fault at so many of a writer's operations at most: its operations, those tried, what went wrong."""
    faults, writer, wrong = ctypes.CDLL(os.environ["LD_PRELOAD"]), WRITERS[name](), []
    with tempfile.TemporaryDirectory() as home:
        folder, before = Path(home) / "folder", Path(home) / "before"
        before.mkdir()
        writer.prepare(before)
        shutil.copytree(before, folder)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            writer.call(folder)  # whatever it imports is there when the attempts are forked

        def fresh() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(before, folder)

        def call(at: int, fault: int) -> int:
            faults.faults_arm(ctypes.c_long(at), fault, str(folder).encode())
            try:
                return writer.call(folder)
            finally:
                if not at:
                    print(f"operations {faults.faults_seen()}", file=sys.stderr)

        fresh()
        status, said = child(lambda: call(0, 0))
        assert status == 0, f"{name} undisturbed: status {status}, {said}"
        operations, whole = int(said.rsplit("operations ", 1)[1]), writer.content(folder)
        places = sorted({1 + i * operations // min(most, operations) for i in range(min(most, operations))})
        old = {path: path.read_bytes() for path in before.rglob("*") if path.is_file()}
        new = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for done, (at, fault) in enumerate([(at, fault) for at in places for fault in FAULTS], 1):
            fresh()
            status, said = child(lambda at=at, fault=fault: call(at, FAULTS[fault]))
            wrong += [f"{name}, {fault} at {at} of {operations}: {one}" for one in _wrong(fault, status, said)]
            for path, content in old.items():
                here = folder / path.relative_to(before)
                if not here.exists() and here.name == writer.may_go:
                    continue
                if not here.exists() or here.read_bytes() not in (content, new.get(path.relative_to(before))):
                    state = "gone" if not here.exists() else "neither old nor new"
                    wrong.append(f"{name}, {fault} at {at} of {operations}: {here.name} is {state}")
            try:
                writer.content(folder) if name == "export_lora" else None
                status, said = child(lambda: call(10**9, 0))
                if status or writer.content(folder) != whole:
                    wrong.append(f"{name}, {fault} at {at} of {operations}: the same call afterwards: {status}, {said}")
            except AssertionError as error:
                wrong.append(f"{name}, {fault} at {at} of {operations}: {error}")
            progress(done, len(places) * len(FAULTS), f": {name}, {len(wrong)} wrong")
    return operations, len(places), wrong


def _wrong(fault: str, status: int, said: str) -> list[str]:
    if fault == "killed":
        return [] if status in (-9, 0) else [f"status {status}: {said}"]
    lines = [line for line in said.splitlines() if line.startswith("error")]
    if status == 0 or (status == 2 and len(lines) == 1 and "Traceback" not in said):
        return []
    return [f"status {status}: {said[-300:]}"]


def main() -> int:
    """All writers, in processes that have the faults preloaded."""
    arguments = command_line(
        COMMAND, __doc__, "writers", most=(10_000, "operations tried of a writer; 0: they are counted")
    )
    if "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "faults.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
            again = [sys.executable, "-m", "tests.hardening.disks", *sys.argv[1:]]
            return subprocess.run(again, env=os.environ | {"LD_PRELOAD": str(library)}, check=False).returncode
    bad = 0
    for name in WRITERS:
        if arguments.only in name:
            operations, tried, wrong = attempts(name, arguments.most)
            bad += len(wrong)
            print(
                f"{name}: {tried} of {operations} operations, {len(wrong)} wrong", *wrong[:20], sep="\n  ", flush=True
            )
            keep(name, operations, tried, len(wrong))
    return int(bad > 0)


def keep(name: str, operations: int, tried: int, wrong: int) -> None:
    """A writer's row, in place of the one that was there; the line is the sum of the rows."""
    known = {row[0]: row for row in read().get("disks", {}).get("rows", [HEADS])[1:] if len(row) == len(HEADS)}
    if not tried and name in known:
        tried, wrong = known[name][2], known[name][4]
    known[name] = [name, operations, tried, tried * len(FAULTS), wrong]
    rows = [known[one] for one in WRITERS if one in known]
    faults, bad = (sum(row[at] for row in rows) for at in (3, 4))
    what = "a full disk, an input/output error or kill -9 at writes of every writer"
    found = "old files whole, one line, and the same result afterwards" if not bad else f"{bad} are otherwise"
    lost = "nothing" if not bad else f"{bad} files or results"
    record("disks", what, COMMAND, faults, f"faults of {len(rows)} writers", found, lost, rows=[HEADS, *rows])


if __name__ == "__main__":
    sys.exit(main())
