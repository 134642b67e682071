"""A recorded run made again from its record alone, and compared with it. Checked by `tests/test_grid_command.py`.

Two results are *bitwise equal*; or equal *within rounding*: no number differs by more than `ROUNDING`, relative to
itself or to 1, whichever is larger; or *different*. A run in float32 on another processor, library or number of threads
starts to differ by rounding and may end a sentence apart: where it starts and what differs in provenance tells why.
"""

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis import records
from allora_analysis.finetune import setting as finetune
from allora_analysis.finetune.sources import where_from
from allora_analysis.gradient_std.grid import STUDY as GRADIENT_STD
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation import run as hessian

EMBEDDED = "digits"  # data that need no source
ROUNDING = 1e-6  # some ten units in the last place of float32
OF_THE_MOMENT = ("time_utc", "seconds", "seconds_a_step", "peak_memory_bytes", "git_revision", "git_dirty")
Leaf = tuple[str, float | None]  # where in the result, and at which step or epoch


@dataclass(frozen=True)
class Agreement:
    """How far a run and its repetition agree.

    Attributes:
        verdict: "bitwise equal", "within rounding" or "different".
        first: the leaf at which they differ first (by step or epoch), and by how much; None where nothing differs.
        most: the leaf at which they differ most, and by how much.
        provenance: by name, what the record says and what holds here, where these differ.
    """

    verdict: str
    first: tuple[str, float] | None
    most: tuple[str, float] | None
    provenance: dict[str, tuple[Any, Any]]

    def words(self) -> list[str]:
        """The agreement in lines."""
        lines = [self.verdict]
        if self.first is not None and self.most is not None:
            lines[0] += (
                f": first by {self.first[1]:.2g} at {self.first[0]}, most by {self.most[1]:.2g} at {self.most[0]}"
            )
        return lines + [
            f"  {name}: {_told(was)} in the record, {_told(now)} here" for name, (was, now) in self.provenance.items()
        ]


def _told(value: Any) -> str:
    return "not told" if value is None else str(value)


def compare(record: records.Record, again: records.Record) -> Agreement:
    """Compare a record with its repetition."""
    ours, theirs = dict(_leaves(record.result)), dict(_leaves(again.result))
    gaps = {leaf: _gap(ours.get(leaf), theirs.get(leaf)) for leaf in {**ours, **theirs} if _counts(leaf, ours, theirs)}
    apart = {leaf: gap for leaf, gap in gaps.items() if gap > 0}
    facts = {
        name: (record.provenance.get(name), again.provenance.get(name))
        for name in {**record.provenance, **again.provenance}
    }
    changed = {name: pair for name, pair in facts.items() if name not in OF_THE_MOMENT and pair[0] != pair[1]}
    if not apart:
        return Agreement("bitwise equal", None, None, changed)
    first = min(apart, key=lambda leaf: math.inf if leaf[1] is None else leaf[1])
    most = max(apart, key=apart.__getitem__)
    verdict = "within rounding" if apart[most] <= ROUNDING else "different"
    return Agreement(verdict, (_place(first), apart[first]), (_place(most), apart[most]), changed)


def _counts(leaf: Leaf, ours: Mapping[Leaf, Any], theirs: Mapping[Leaf, Any]) -> bool:
    # What an older version did not record yet is no difference.
    return not leaf[0].startswith("right.") or (leaf in ours and leaf in theirs)


def _leaves(value: Any, path: str = "", at: float | None = None) -> Iterator[tuple[Leaf, Any]]:
    if isinstance(value, dict):
        steps = value.get("step", value.get("epoch"))
        at = steps if isinstance(steps, int | float) else at
        for name, item in value.items():
            inner = f"{path}.{name}" if path else name
            if isinstance(item, list) and isinstance(steps, list) and len(item) == len(steps):
                for step, one in zip(steps, item, strict=True):
                    yield from _leaves(one, inner, step)
            else:
                yield from _leaves(item, inner, at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]", at)
    else:
        yield (path, at), value


def _gap(ours: Any, theirs: Any) -> float:
    if ours == theirs:
        return 0.0
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (ours, theirs))
    return abs(ours - theirs) / max(1.0, abs(ours)) if numbers else math.inf


def _place(leaf: Leaf) -> str:
    path, at = leaf
    return path if at is None else f"{path}, step {at:g}"


def named(folder: Path, name: str) -> list[records.Record]:
    """The records that a name stands for."""
    wanted = name.removesuffix(".json")
    files = records.record_files(folder)
    same = [path for path in files if path.stem == wanted or path.stem.rpartition("-")[2].startswith(wanted)]
    return [records.load(path) for path in same]


def again(record: records.Record, sources: Mapping[str, str], trust_remote_code: bool = False) -> records.Record:
    """Make a recorded run again, in a folder of its own that is deleted afterwards."""
    wanted = [record.config[name] for name in ("model", "data") if record.config.get(name, EMBEDDED) != EMBEDDED]
    if lacking := [name for name in wanted if name not in sources]:
        told = " ".join(f"{name}=FOLDER" for name in lacking) + "".join(map(where_from, lacking))
        raise ArgumentError(f"--source: {record.path.stem} needs {told}")
    if record.study not in MAKERS:
        raise ArgumentError(
            f"KEY {record.path.stem}: is of the study {record.study}; only runs of {', '.join(MAKERS)} are made again"
        )
    with tempfile.TemporaryDirectory() as scratch:
        digests = MAKERS[record.study](record, sources, Path(scratch), trust_remote_code)
        if digests != record.digests:
            apart = [name for name, digest in record.digests.items() if digests.get(name) != digest]
            raise ArgumentError(f"--source: the {' and the '.join(apart)} of {record.path.stem} had another content")
        (path,) = records.record_files(Path(scratch))
        return dataclasses.replace(records.load(path), path=record.path)


def _made(kind: type, record: records.Record) -> Any:
    config = record.config
    if unknown := sorted(set(config) - {field.name for field in dataclasses.fields(kind)}):
        raise ArgumentError(
            f"{', '.join(unknown)}: a setting that this version does not know; use the version that made the record"
        )
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in config.items()})


def _finetune(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis.grid import plan

    run = _made(finetune.Setting, record)
    device = "cpu" if record.provenance.get("device", "cpu") == "cpu" else "auto"
    task = plan.Task(finetune.check(run), sources[run.model], sources[run.data])
    digests = plan.digests(task, trusted)
    if digests == record.digests:
        plan.run_task(plan.Grid((task,), scratch, device, 10**9, trusted), task)
    return digests


def _hessian(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis.grid import plan
    from allora_analysis.zero_initialisation import run as runs

    setting = _made(hessian.Setting, record)
    data = plan.data_of(sources[setting.data], setting.data)
    digests = {"model": plan.model_digest(sources[setting.model], trusted), "data": data.digest}
    if digests == record.digests:
        runs.run(setting, sources[setting.model], data, digests, scratch)
    return digests


def _gradient_std(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis import images
    from allora_analysis.gradient_std.grid import Setting
    from allora_analysis.gradient_std.run import Data, Run

    setting = _made(Setting, record)
    source = sources.get(setting.data)
    npz = source is not None and source.endswith(".npz")
    loaded = images.load(source if npz else setting.data, None if npz else source, name=setting.data)
    digests = {"data": loaded.digest}
    if digests == record.digests:
        data = Data.of(loaded, record.provenance.get("device", "cpu"))
        made = Run(setting, data, loaded.classes, loaded.digest, scratch)
        for epoch in range(setting.epochs + 1):
            made.entry(epoch)
    return digests


MAKERS = {finetune.STUDY: _finetune, GRADIENT_STD: _gradient_std, hessian.STUDY: _hessian}
"""How a run of a study is made again, by the study's name."""
