"""A recorded run made again from its record alone, and compared with it. Checked by `tests/test_grid_command.py`.

Two results are *bitwise equal*; or equal *within rounding*: no number differs by more than `ROUNDING` of the largest
of its name in the record (of all epochs, say), or by more than a unit in the last of its digits where few are kept
(`DIGITS`); or *different*. What measures rounding itself is compared on the scale of what it is the error of: a
Hessian's residuals, on that of the eigenvalues beside them; its certificates are relative errors, so on that of 1. A
run in float32 on another processor, library or number of threads starts to differ by rounding and may end a sentence
apart: where it starts and what differs in provenance tells why.
"""

import contextlib
import dataclasses
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis import images, records
from allora_analysis.finetune import setting as finetune
from allora_analysis.finetune.run import COARSE_DIGITS, steps_of
from allora_analysis.finetune.sources import where_from
from allora_analysis.gradient_std.grid import STUDY as GRADIENT_STD
from allora_analysis.gradient_std.summary import DIGITS as OF_FIGURE_1
from allora_analysis.gradient_std.summary import KEPT
from allora_analysis.laboratory import features, storage
from allora_analysis.laboratory import table as tables
from allora_analysis.laboratory.design import PROTOCOL as LABORATORY
from allora_analysis.laboratory.design import Cell
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation import run as hessian

EMBEDDED = "digits"  # data that need no source
ROUNDING = 1e-6  # some ten units in the last place of float32
# By study, or part of a result, what numbers are rounded to when they are recorded.
DIGITS = {tables.STUDY: 6, features.STUDY: 5, GRADIENT_STD: OF_FIGURE_1}
DIGITS |= {"row_norms": 6, "loss.value": 6} | dict.fromkeys(("row_norms.longest", "induced_norms"), COARSE_DIGITS)
OF_THE_MOMENT = ("time_utc", "seconds", "seconds_a_step", "peak_memory_bytes")
OF_THE_CODE = ("git_revision", "git_dirty")  # told where the results differ
RELATIVE = "certificate."  # leaves that are relative errors
OPTIONAL = (
    "right.",
    "induced_norms",
    "loss.step",
    "loss.every",
    *(f"row_norms.{end}" for end in ("largest", "least", "most", "longest")),
)
Leaf = tuple[str, float | None]  # where in the result, and at which step or epoch


@dataclass(frozen=True)
class Agreement:
    """How far a run and its repetition agree.

    Attributes:
        verdict: "bitwise equal", "within rounding" or "different".
        first: the leaf at which they differ first (by step or epoch), and by how much of the largest of its name; None
            where nothing differs.
        most: the leaf at which they differ most, and by how much of the largest of its name.
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
            lines[0] += f": first {_by(*self.first)}, most {_by(*self.most)}"
        return lines + [
            f"  {name}: {_told(was)} in the record, {_told(now)} here" for name, (was, now) in self.provenance.items()
        ]


def _by(place: str, gap: float) -> str:
    return f"by {gap:.2g} at {place}" if math.isfinite(gap) else f"altogether at {place}"


def _told(value: Any) -> str:
    return "not told" if value is None else str(value)


def compare(record: records.Record, again: records.Record) -> Agreement:
    """Compare a record with its repetition."""
    ours, theirs = dict(_leaves(record.result)), dict(_leaves(again.result))
    sizes, apart, different = _sizes(ours), {}, False
    for leaf in {**ours, **theirs}:
        here, there = ours.get(leaf), theirs.get(leaf)
        if here != there and _counts(leaf, ours, theirs):
            gap = _gap(here, there)
            size = _size(leaf, sizes)
            apart[leaf] = gap / size if size else math.inf
            different |= gap > max(ROUNDING * size, _last_digit(record.study, leaf, here))
    verdict = "different" if different else "within rounding" if apart else "bitwise equal"
    changed = records.apart(record.provenance, again.provenance, (*OF_THE_MOMENT, *([] if apart else OF_THE_CODE)))
    if not apart:
        return Agreement(verdict, None, None, changed)
    first = min(apart, key=lambda leaf: math.inf if leaf[1] is None else leaf[1])
    most = max(apart, key=apart.__getitem__)
    return Agreement(verdict, (_place(first), apart[first]), (_place(most), apart[most]), changed)


def _name(leaf: Leaf) -> str:
    return re.sub(r"\[\d+\]", "", leaf[0])


def _sizes(leaves: Mapping[Leaf, Any]) -> dict[str, float]:
    # By name of a leaf the largest |value|, at all steps and places in lists.
    found: dict[str, float] = {}
    for leaf, value in leaves.items():
        if _is_number(value):
            found[_name(leaf)] = max(found.get(_name(leaf), 0.0), abs(value))
    return found


def _size(leaf: Leaf, sizes: Mapping[str, float]) -> float:
    name = _name(leaf)
    if name.startswith(RELATIVE):
        return 1.0
    return sizes.get(re.sub("_residuals?$", "", name), sizes.get(name, 0.0))


def _last_digit(study: str, leaf: Leaf, value: Any) -> float:
    # A unit of the last digit that is kept, and a little for its own rounding; 0 where all digits are.
    name = _name(leaf)
    digits = next((DIGITS[key] for key in (study, name, name.partition(".")[0]) if key in DIGITS), None)
    if digits is None or not value or not _is_number(value) or isinstance(value, int):
        return 0.0
    return 1.01 * 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)


def _counts(leaf: Leaf, ours: Mapping[Leaf, Any], theirs: Mapping[Leaf, Any]) -> bool:
    # What an older version did not record yet, or recorded and later ones do not, is no difference.
    part, _, field = _name(leaf).removeprefix("epochs.").partition(".")
    optional = leaf[0].startswith(OPTIONAL) or (part in KEPT and field not in KEPT[part])
    return not optional or (leaf in ours and leaf in theirs)


def _leaves(value: Any, path: str = "", at: float | None = None) -> Iterator[tuple[Leaf, Any]]:
    if isinstance(value, dict):
        steps = steps_of(value) if "every" in value else value.get("step", value.get("epoch"))
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _gap(ours: Any, theirs: Any) -> float:
    return abs(ours - theirs) if _is_number(ours) and _is_number(theirs) else math.inf


def _place(leaf: Leaf) -> str:
    path, at = leaf
    return path if at is None else f"{path}, step {at:g}"


def lines(folder: Path, fits: Callable[[Path], bool] = lambda path: True) -> list[records.Record]:
    """The lines of the laboratory's tables in a folder as records: some seeds of a cell at a rate each.

    They are named as records are, though their path is no file; `fits` chooses by it.
    """
    found = []
    for table in [tables.recorded(folder, path.stem) for path in storage.within(folder) if storage.present(path)]:
        digests = {"data": table.header["digest"]}
        for cell, of in table.rows.items():
            given = {"data": table.header["data"], **cell.given()}
            for (rate, first, seeds), row in of.items():
                config = {**given, "rate": rate, "seeds": [first, seeds]}
                key = records.key(config, LABORATORY, digests)
                path = folder / f"{tables.STUDY}-{key[:20]}"
                if fits(path):
                    where = table.environments[table.made[cell, rate][range(first, first + seeds)]]
                    found.append(_line(path, key, config, digests, row, where))
    return found


def _line(
    path: Path, key: str, config: dict[str, Any], digests: dict[str, str], row: tables.Row, where: Mapping[str, Any]
) -> records.Record:
    result = {name: list(column) for name, column in row._asdict().items()}
    text = records.canonical_json("config", config)
    facts = {name: fact for name, fact in where.items() if name != tables.PRETRAINED}  # no provenance
    return records.Record(tables.STUDY, key, LABORATORY, config, digests, result, facts, path, text)


def cell_of(line: records.Record) -> Cell:
    """The cell of a line."""
    return Cell(**{name: value for name, value in line.config.items() if name not in ("data", "rate", "seeds")})


def named(folder: Path, name: str) -> list[records.Record]:
    """The records that a name stands for, lines of the laboratory's tables among them."""
    wanted = name.removesuffix(".json")

    def fits(path: Path) -> bool:
        return path.stem.startswith(wanted) or path.stem.rpartition("-")[2].startswith(wanted)

    files = [records.load(path) for path in records.record_files(folder) if fits(path)]
    if "-" in wanted and not wanted.startswith(tables.STUDY):
        return files
    return files + lines(folder, fits)


Maker = Callable[[records.Record, Mapping[str, str], Path, bool], dict[str, str]]
"""Makes a run again, from its sources, into a folder, running a model's own code or not; returns the digests of what is
there, and runs nothing where they are not the record's."""


def again(
    record: records.Record,
    sources: Mapping[str, str],
    trust_remote_code: bool = False,
    makers: Mapping[str, Maker] | None = None,
) -> records.Record:
    """Make a recorded run again, in a folder of its own that is deleted afterwards.

    Args:
        record: the record, or a line (`lines`).
        sources: where the models and data are, by the names that records call them.
        trust_remote_code: run the code that a model's authors ship with it.
        makers: how, by the study's name; default: `MAKERS`.
    """
    makers = MAKERS if makers is None else makers
    wanted = [record.config[name] for name in ("model", "data") if record.config.get(name, EMBEDDED) != EMBEDDED]
    if record.study not in makers:
        raise ArgumentError(
            f"KEY {record.path.stem}: is of the study {record.study}; only runs of {', '.join(makers)} are made again"
        )
    if lacking := [name for name in wanted if name not in sources]:
        told = " ".join(f"{name}=FOLDER" for name in lacking) + "".join(map(where_from, lacking))
        raise ArgumentError(f"--source: {record.path.stem} needs {told}")
    with tempfile.TemporaryDirectory() as scratch:
        digests = makers[record.study](record, sources, Path(scratch), trust_remote_code)
        if digests != record.digests:
            apart = [name for name, digest in record.digests.items() if digests.get(name) != digest]
            hint = "".join(where_from(str(record.config.get(name))) for name in apart)
            raise ArgumentError(
                f"--source: the {' and the '.join(apart)} of {record.path.stem} had another content{hint}"
            )
        (path,) = records.record_files(Path(scratch))
        return dataclasses.replace(records.load(path), path=record.path)


def setting_of(kind: type, record: records.Record) -> Any:
    """A record's config as the dataclass that it was made from; a setting that this has not is refused."""
    config = record.config
    if unknown := sorted(set(config) - {field.name for field in dataclasses.fields(kind)}):
        raise ArgumentError(
            f"{', '.join(unknown)}: a setting that this version does not know; use the version that made the record"
        )
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in config.items()})


def digests_of(record: records.Record, sources: Mapping[str, str], trusted: bool) -> dict[str, str]:
    """The content digests of the model and the texts that a record's run has here."""
    from allora_analysis.grid import plan

    model, data = record.config["model"], record.config["data"]
    return {"model": plan.model_digest(sources[model], trusted), "data": plan.data_of(sources[data], data).digest}


def _finetune(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis.grid import plan

    run = setting_of(finetune.Setting, record)
    device = "cpu" if record.provenance.get("device", "cpu") == "cpu" else "auto"
    task = plan.Task(finetune.check(run), sources[run.model], sources[run.data])
    digests = digests_of(record, sources, trusted)
    if digests == record.digests:
        plan.run_task(plan.Grid((task,), scratch, device, 10**9, trusted), task)
    return digests


def _hessian(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis.grid import plan
    from allora_analysis.zero_initialisation import run as runs

    setting = setting_of(hessian.Setting, record)
    digests = digests_of(record, sources, trusted)
    if digests == record.digests:
        data = plan.data_of(sources[setting.data], setting.data)
        runs.run(setting, sources[setting.model], data, digests, scratch)
    return digests


def _images(record: records.Record, sources: Mapping[str, str]) -> images.Images:
    name = record.config["data"]
    source = sources.get(name)
    npz = source is not None and source.endswith(".npz")
    return images.load(source if npz else name, None if npz else source, name=name)


def _gradient_std(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis.gradient_std.grid import Setting
    from allora_analysis.gradient_std.run import Data, Run

    setting = setting_of(Setting, record)
    loaded = _images(record, sources)
    digests = {"data": loaded.digest}
    if digests == record.digests:
        data = Data.of(loaded, record.provenance.get("device", "cpu"))
        made = Run(setting, data, loaded.classes, loaded.digest, scratch)
        for epoch in range(setting.epochs + 1):
            made.entry(epoch)
    return digests


def _laboratory(record: records.Record, sources: Mapping[str, str], scratch: Path, trusted: bool) -> dict[str, str]:
    from allora_analysis.laboratory import training

    rate, (first, seeds) = record.config["rate"], record.config["seeds"]
    loaded = _images(record, sources)
    digests = {"data": loaded.digest}
    if digests == record.digests:
        with _one_thread():  # as the laboratory has it
            task = training.prepare(loaded)
            runs = [training.run(task, cell_of(record), rate, seed) for seed in range(first, first + seeds)]
            facts = records.provenance(("peft",))
        result = {name: [getattr(one, name) for one in runs] for name in tables.Row._fields}
        records.save(
            scratch, record.study, record.config, result, protocol=LABORATORY, digests=digests, provenance=facts
        )
    return digests


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


MAKERS: dict[str, Maker] = {
    finetune.STUDY: _finetune,
    GRADIENT_STD: _gradient_std,
    hessian.STUDY: _hessian,
    tables.STUDY: _laboratory,
}
"""How a run of a study is made again, by the study's name."""
