"""kill -9 at random moments over everything that takes long: `python -m tests.hardening.kills`.

An attempt starts a writer, kills it at a moment drawn evenly over the time that an undisturbed run takes, perhaps kills
what goes on once more, and then lets the same call finish. In between the clock may be set back or forward by a day
(equivalently: all files' times are moved); in some attempts a second process works in the same folder at the same time
and is not killed. On a Slurm of two nodes
(as root, `tests/slurm/cluster.py`) what is killed may be a node with its jobs, a slurmd or the slurmctld, or a node
hangs until Slurm has given its jobs to the other. Afterwards

- the results are equal to those of an undisturbed run, in every digit;
- every record that was whole when a process died has the same bytes still: nothing is recorded twice;
- no file is left but records; what a killed process was writing may stay for an hour.
"""

import atexit
import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allora_analysis import records
from tests.hardening import command_line, progress, read, record

COMMAND = "python -m tests.hardening.kills"
KILLS = 200
DAY = 86_400


class Task(NamedTuple):
    """A call that goes on where it was cut off, and what it should have come to."""

    call: Callable[[Path], int]
    content: Callable[[Path], Any]
    harms: tuple[Callable[[int], None], ...] = ()  # what else may befall it than a kill, given its process
    settle: Callable[[], None] = lambda: None  # what must be over before the next attempt
    may_end: tuple[int, ...] = (0,)


def _records(folder: Path) -> Any:
    # Every record's result, each verified; nothing else is there.
    from tests.tiny_grid import results_of

    return results_of(folder)


def fine_tuning(home: Path) -> Task:
    """A run of a tiny BERT with a checkpoint every second step."""
    from allora_analysis import cli
    from allora_analysis.finetune.study import STUDY
    from tests import tiny_finetune as tiny

    flags = {"model": tiny.bert(home / "bert"), "data": tiny.sentences(home / "data", 16), "arm": "allora_0", "eta2": 4}
    flags |= {"rank": 2, "max-steps": 12, "batch-size": 4, "checkpoint-steps": 2, "device": "cpu"}
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    return Task(lambda folder: cli.main(STUDY, [*words, "--results", str(folder)]), _records)


def grid(home: Path, executor: str, runs: int) -> Task:
    """Tiny runs as an experiment's list."""
    import dataclasses

    from allora_analysis.grid.command import main
    from tests import tiny_grid

    made = tiny_grid.sources(home / executor, 16)
    presets = {"desk": [dataclasses.replace(one, epochs=2) for one in tiny_grid.PRESETS["desk"][:runs]]}

    def call(folder: Path) -> int:
        return main("tiny_grid", presets, [*tiny_grid.flags(made, folder), "--executor", executor])

    return Task(call, _records)


def on_slurm(home: Path) -> Task:
    """Tiny runs as jobs on a Slurm of two nodes, which dies, hangs and comes back in parts."""
    from allora_analysis.grid import jobs
    from tests.slurm import cluster

    where = Path(tempfile.mkdtemp())
    atexit.register(lambda: (cluster.stop(where), shutil.rmtree(where, ignore_errors=True)))
    cluster.start(where)
    os.environ |= cluster.environment(where)
    jobs.POLL, node = 0.5, cluster.NODES[1]

    def node_dies(_pid: int) -> None:
        cluster.kill_node(where, node)
        time.sleep(15)  # until the controller has seen it
        cluster.start_node(where, node)

    def slurmd_dies(_pid: int) -> None:
        cluster.kill_daemon(where, node)
        time.sleep(2)
        cluster.start_node(where, node)

    def controller_dies(_pid: int) -> None:
        cluster.kill_daemon(where, "slurmctld")
        time.sleep(5)
        cluster.start_controller(where)

    def node_hangs(_pid: int) -> None:
        cluster.hang_node(where, node, 15)

    def settle() -> None:
        cluster.command(where, "scancel", "--user=root", check=False)
        until = time.monotonic() + 60
        while cluster.command(where, "squeue", "--noheader", check=False) and time.monotonic() < until:
            time.sleep(0.5)

    call, content = grid(home, "slurm", 2)[:2]
    # A slurmctld that is killed may forget a job that it was just given; the grid says that it vanished.
    return Task(call, content, (node_dies, slurmd_dies, controller_dies, node_hangs), settle, (0, 1))


def figure_1(_home: Path) -> Task:
    """Figure 1's study at six seeds."""
    from allora_analysis import cli
    from allora_analysis.gradient_std.study import STUDY

    flags = {"hidden": 8, "epochs": 2, "masks": 4, "control-minibatches": 4, "nested-minibatches": 3, "seeds": 6}
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    return Task(lambda folder: cli.main(STUDY, [*words, "--nested-masks", "2", "--results", str(folder)]), _records)


def curvature(home: Path) -> Task:
    """The Hessian of two layers of a tiny BERT."""
    from experiments import hessian
    from tests import tiny_finetune as tiny

    flags = {"model": tiny.bert(home / "curved"), "data": tiny.sentences(home / "texts", 16), "rank": 1, "k": 0}
    flags |= {"sentences": 2, "modules": "query"}
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    return Task(lambda folder: hessian.main([*words, "--layers", "0", "1", "--results", str(folder)]), _records)


def laboratory(_home: Path) -> Task:
    """The laboratory's table of one rule's cells; a run waits 10 ms and its outcome is made up from rate and seed."""
    import math

    from allora_analysis.laboratory import table as tables
    from allora_analysis.laboratory import training
    from experiments import laboratory as experiment

    def run(_task: Any, _cell: Any, rate: float, seed: int) -> training.Outcome:
        time.sleep(0.01)
        return training.Outcome(abs(math.log10(rate) + 1.3) + seed / 1e5, seed % 90, None if rate > 1 else 0.25)

    words = ["--part", "contrasts", "--only", "rslora", "--seeds", "12"]

    def call(folder: Path) -> int:
        training.run, training.prepare = (
            run,
            lambda _images: types.SimpleNamespace(test=([], [0] * 191), pretrained_accuracy=1.0),
        )
        return experiment.main([*words, "--results", str(folder)])

    def content(folder: Path) -> Any:
        assert [path.name for path in folder.iterdir()] == ["digits.jsonl.bz2"], "a file of another kind is left"
        table = tables.read(folder / "digits.jsonl")
        return {(cell, *place): row._asdict() for cell, of in table.rows.items() for place, row in of.items()}

    return Task(call, content)


# Each with its share of all kills.
TASKS: dict[str, tuple[Callable[[Path], Task], float]] = {
    "finetune": (fine_tuning, 0.25),
    "grid, in one process": (lambda home: grid(home, "serial", 3), 0.25),
    "grid, local processes": (lambda home: grid(home, "local", 2), 0.05),
    "grid, two nodes of Slurm": (on_slurm, 0.06),
    "gradient_std": (figure_1, 0.2),
    "hessian of a network": (curvature, 0.15),
    "laboratory": (laboratory, 0.1),
}


def started(act: Callable[[], int], said: Path) -> int:
    """A process of its own group that calls, its words in a file: its id."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    os.setpgid(0, 0)
    status = 3
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = act()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(status)


def ended(pid: int) -> int:
    """The status with which a process ends (negative: its signal)."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def runs(pid: int) -> bool:
    """Whether a child has not ended."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def whole(folder: Path) -> dict[Path, bytes]:
    """The records that are there, and a table's whole lines."""
    from allora_analysis.laboratory.storage import content, within

    found = {path: path.read_bytes() for path in folder.glob("*.json") if not path.name.startswith(".")}
    return found | {path: content(path).rpartition(b"\n")[0] for path in within(folder)}


def shifted(folder: Path, seconds: float) -> None:
    """All files' times moved, as a clock that was set back or forward since would show them."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            os.utime(path, (stat.st_atime + seconds, stat.st_mtime + seconds))


def attempt(task: Task, folder: Path, lasts: float, rng: np.random.Generator, wanted: Any) -> tuple[int, list[str]]:
    """One to three kills and the run that finishes: how many fell while the process ran, and what went wrong."""
    wrong, kills, said, two = [], 0, folder.parent / "said", rng.random() < 0.2
    for _ in range(1 + int(rng.integers(3))):
        other = started(lambda: task.call(folder), folder.parent / "other") if two else None
        pid = started(lambda: task.call(folder), said)
        time.sleep(rng.uniform(0, lasts))
        harm = int(rng.integers(len(task.harms) + 1)) - 1
        if harm >= 0 and runs(pid):
            task.harms[harm](pid)
            kills += 1
        elif harm < 0:  # the process alone: what it started must see that it is gone
            os.kill(pid, signal.SIGKILL)
        status = ended(pid)
        kills += status == -signal.SIGKILL
        if status not in (-signal.SIGKILL, *task.may_end, *(2,) * two):
            wrong.append(f"status {status}: {said.read_text(errors='replace')[-300:]}")
        if other is not None and (status := ended(other)) not in (0, 1):
            words = (folder.parent / "other").read_text(errors="replace")
            if not (status == 2 and "another process is at this run" in words):
                wrong.append(f"the other process: {status}: {words[-300:]}")
        before = whole(folder)
        shifted(folder, float(rng.choice([-DAY, 0, DAY])))
    status, words = ended(started(lambda: task.call(folder), said)), said.read_text(errors="replace")
    if status:
        return kills, [*wrong, f"the same call afterwards: status {status}: {words[-300:]}"]
    after = whole(folder)
    for path, known in before.items():
        if not after.get(path, b"").startswith(known):
            wrong.append(f"{path.name} was recorded and is another now")
    if any(path.name.startswith(".") for path in folder.rglob("*")):
        shifted(folder, -4 * DAY)  # later than any clock that was set forward
        ended(started(lambda: task.call(folder), said))
        records.status(folder, {})
    try:
        if task.content(folder) != wanted:
            wrong.append("other results than undisturbed")
    except AssertionError as error:
        wrong.append(
            f"{error}: left in the folder {sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))}"[:400]
        )
    return kills, wrong


def attempts(name: str, kills: int, seed: int, before: tuple[int, int, int]) -> tuple[int, int, list[str]]:
    """So many kills of a task: kills, attempts, and what went wrong; recorded with those `before`."""
    done, tries, wrong, rng = 0, 0, [], np.random.default_rng([seed, *name.encode()])
    with tempfile.TemporaryDirectory() as home:
        task, folder = TASKS[name][0](Path(home)), Path(home) / "results"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            task.call(folder)  # whatever it imports is there when the attempts are forked
        shutil.rmtree(folder)

        def undisturbed() -> tuple[float, Any]:
            begun = time.monotonic()
            status = ended(started(lambda: task.call(folder), Path(home) / "said"))
            assert status == 0, (
                f"{name} undisturbed: {status}, {(Path(home) / 'said').read_text(encoding='utf-8')[-400:]}"
            )
            lasts, content = time.monotonic() - begun, task.content(folder)
            shutil.rmtree(folder)
            return lasts, content

        (_, wanted), (lasts, again) = undisturbed(), undisturbed()
        assert wanted == again, f"{name} is not the same twice"
        print(f"{name}: {lasts:.1f} s undisturbed", file=sys.stderr, flush=True)
        while done < kills:
            folder.mkdir()
            count, found = attempt(task, folder, lasts, rng, wanted)
            task.settle()
            done, tries, wrong = done + count, tries + 1, wrong + [f"{name}, attempt {tries}: {one}" for one in found]
            shutil.rmtree(folder)
            progress(min(done, kills), kills, f": {name}, {len(wrong)} wrong {found}")
            keep(name, *map(sum, zip(before, (tries, done, len(wrong)), strict=True)))
    return done, tries, wrong


def main() -> int:
    """All tasks, so many kills."""
    more = {"--more": {"action": "store_true", "help": "counted with those that are recorded; give another seed"}}
    numbers = {"kills": (KILLS, "of all tasks"), "seed": (0, "of the moments")}
    arguments = command_line(COMMAND, __doc__, "tasks", more, **numbers)
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    import torch

    torch.set_num_threads(1)
    wrong = 0
    for name, (_, share) in TASKS.items():
        if arguments.only in name:
            row = next((row for row in _rows() if row[0] == name and arguments.more), (name, 0, 0, 0))
            done, tries, found = attempts(name, round(share * arguments.kills), arguments.seed, tuple(row[1:]))
            wrong += len(found)
            print(f"{name}: {tries} attempts, {done} kills, {len(found)} wrong", *found[:20], sep="\n  ", flush=True)
    return int(wrong > 0)


def _rows() -> list[Any]:
    return read().get("kills", {}).get("rows", [["what", "attempts", "kills", "wrong"]])


def keep(name: str, tries: int, kills: int, wrong: int) -> None:
    """A task's row as far as it has come, in place of the one that was there; the line is the sum of the rows."""
    head, *known = _rows()
    rows = {row[0]: row for row in known} | {name: [name, tries, kills, wrong]}
    rows = {task: rows[task] for task in TASKS if task in rows}
    _, _, total, bad = (sum(column) if type(column[0]) is int else 0 for column in zip(*rows.values(), strict=True))
    found = "results equal to undisturbed runs in every digit, records untouched" if not bad else f"{bad} are otherwise"
    what = "kill -9 at random moments, the clock set back or forward a day, two processes in one folder; on Slurm also "
    what += "a node, a slurmd or the slurmctld that dies, a node that hangs"
    unit, lost = f"kills of {len(rows)} commands", "nothing" if not bad else f"see {bad} in the rows"
    record("kills", what, COMMAND, total, unit, found, lost, rows=[head, *rows.values()])


if __name__ == "__main__":
    sys.exit(main())
