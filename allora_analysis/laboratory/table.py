"""The laboratory's compact table: one JSON line for some seeds of one cell at one rate; and what it says.

The first line names the data by digest and says where it was begun: versions, processor, revision, the pretrained
network's accuracy. Where it is gone on with on another machine or from another revision, a line says so before the
first of the lines that this holds for. Every line ends in a checksum of itself and all lines before it, so that an
altered line shows. A table that was cut off goes on after its last whole line, on one machine and revision to the bytes
of a table that was not.

`laboratory.storage` has its files. Checked by `tests/test_laboratory.py`.
"""

import functools
import json
import math
from collections import defaultdict
from collections.abc import ItemsView, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allora_analysis.laboratory.design import (
    FAMILY,
    FINE_SEEDS,
    PROTOCOL,
    SEEDS,
    SHIFTS,
    STUDY,
    Cell,
    Contrast,
    Rates,
    fresh_seeds,
    own_rates,
    reference,
    tuned_as,
)
from allora_analysis.laboratory.storage import joined, packed, parts, place, present, sealed, tidy, unsealed
from allora_analysis.records import apart, results_folder
from allora_analysis.statistics import Difference, paired_family
from allora_analysis.statistics.paired import TIE
from allora_analysis.validation import ArgumentError, choice

RESULTS = results_folder(STUDY)
TUNING = range(1000, 1005)  # seeds that choose the rates and judge nothing
SCREENING = range(10)
ALL_SEEDS = range(SEEDS)
START = {"sgd": 0.1, "momentum": 0.01, "adamw": 1e-2}  # the middle of the first five rates, half a decade apart
MOST_RATES = 12  # tried of a cell
ENDPOINTS = ("accuracy", "loss")
BEGUN, GONE_ON, PRETRAINED = "begun", "gone_on", "pretrained_accuracy"


class Row(NamedTuple):
    """Some seeds of a cell at a rate: by seed the validation loss, test images right, test loss (None: diverged)."""

    validation: tuple[float | None, ...]
    right: tuple[int, ...]
    loss: tuple[float | None, ...]


Run = tuple[float | None, int, float | None]  # validation loss, test images right, test loss


def validation(run: Run) -> float:
    """What chooses between runs: the validation loss, ∞ of one that diverged."""
    return math.inf if run[0] is None else run[0]


Choices = dict[int, tuple[float, Run]]  # by judging seed the rate that it chooses, and its run there
Key = tuple[Cell, float, int, int]  # cell, rate, first seed, seeds
OfCell = dict[tuple[float, int, int], Row]  # by rate, first seed, seeds


@dataclass
class Table:
    """A table in memory: by cell its rows; the checksum of its file's last line.

    Attributes:
        header: the first line.
        rows: by cell.
        path: of its file.
        last: the checksum of the last line.
        environments: where the lines were made, in their order.
        made: by cell and rate, each line's seeds as they were appended, and at which of the environments.
        here: where those to come are made, while the last of these is another.
    """

    header: dict[str, Any]
    rows: dict[Cell, OfCell] = field(default_factory=lambda: defaultdict(dict))
    path: Path | None = None
    last: str = ""
    environments: list[dict[str, Any]] = field(default_factory=list)
    made: dict[tuple[Cell, float], dict[range, int]] = field(default_factory=lambda: defaultdict(dict))
    here: dict[str, Any] | None = None
    _known: dict[tuple[Cell, tuple[Rates, ...]], tuple[tuple[Any, ...], Choices]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def runs(self) -> int:
        """How many runs it holds."""
        return sum(seeds for of in self.rows.values() for _, _, seeds in of)

    def lacking(self, cell: Cell, rate: float, seeds: range) -> list[int]:
        """The seeds, of some, that have no run of a cell at a rate: tuning and judging seeds alike."""
        lines = self.made.get((cell, rate), ())
        known = set().union(*(of for of in lines if of.start < seeds.stop and seeds.start < of.stop))
        return [seed for seed in seeds if seed not in known]

    def _of(self, cell: Cell) -> ItemsView[tuple[float, int, int], Row]:
        return self.rows.get(cell, {}).items()

    def best_rate(self, cell: Cell) -> float | None:
        """The rate of the least mean validation loss over the tuning seeds. None before any was tried."""
        scores = self.scores(cell)
        return min(scores, key=scores.__getitem__) if scores else None

    def scores(self, cell: Cell) -> dict[float, float]:
        """What chooses the rate. By rate, the mean validation loss over the tuning seeds; ∞ where one diverged.

        A shifted cell has those of the same cell without shifts.
        """
        found = {}
        for (rate, first, _), row in self._of(tuned_as(cell)):
            if first == TUNING.start:
                losses = [math.inf if value is None else value for value in row.validation]
                found[rate] = float(np.mean(losses))
        return dict(sorted(found.items()))

    def candidates(self, cell: Cell, fine: bool = False) -> tuple[float, ...]:
        """The rates among which each judging seed chooses, where these are the same for all seeds: `grids`'s first."""
        return next(iter(self.grids(cell, fine)), ())

    def grids(self, cell: Cell, fine: bool = False) -> tuple[Rates, ...]:
        """The rates among which judging seeds choose: the best and its neighbors, a quarter of a decade away; of a
        shifted cell one tuple for each of `SHIFTS`, of others one for all seeds. None before any rate was tried.

        With `fine`, those within half a decade of the best, an eighth of a decade apart, and two more beyond an end
        which more than one in fifty choose of the first seeds, those that have run at all of them.
        """
        best = self.best_rate(cell)
        if best is None:
            return ()
        low, high, step = (-4, 4, 1) if fine else (-2, 2, 2)
        near = functools.partial(rounded, digits=3) if cell.shifted else functools.partial(self._near, cell)
        while True:
            grids = tuple(
                tuple(near(best * 10 ** ((k + shift) / 8)) for k in range(low, high + 1, step))
                for shift in (SHIFTS if cell.shifted else (0.0,))
            )
            chosen = self._chosen(cell, grids)
            places = [own_rates(grids, seed).index(rate) for seed, (rate, _) in chosen.items() if seed < FINE_SEEDS]
            ends = [fine and 50 * places.count(end) > len(places) for end in (0, (high - low) // step)]
            if not any(ends):
                return grids
            low, high = low - 2 * ends[0], high + 2 * ends[1]

    def _chosen(self, cell: Cell, grids: tuple[Rates, ...]) -> Choices:
        # By judging seed that has run at all rates of its own: the one of the least validation loss, and its run. Kept
        # while the cell's lines are these.
        rows = self.rows.get(cell, {})
        lines, known = (*rows, *rows.values()), self._known.get((cell, grids))
        if known is None or known[0] != lines:
            found = {
                seed: min(of.items(), key=lambda item: validation(item[1]))
                for rates in grids
                for seed, of in self._runs(cell, rates).items()
                if rates is own_rates(grids, seed)
            }
            known = self._known[cell, grids] = lines, dict(sorted(found.items()))
        return known[1]

    def _near(self, cell: Cell, aim: float) -> float:
        # A rate that tuned the cell, where one is near; or else the aim to two digits.
        rate = min(self.scores(cell), key=lambda rate: abs(math.log(rate / aim)))
        return rate if abs(math.log10(rate / aim)) < 0.02 else rounded(aim)

    def _runs(self, cell: Cell, rates: Sequence[float]) -> dict[int, dict[float, Run]]:
        # By seed and rate, of the judging seeds that have run at all of these rates.
        tried: dict[int, dict[float, Run]] = {}
        for (rate, first, _), row in self._of(cell):
            if rate in rates and first != TUNING.start:
                for seed, columns in enumerate(zip(*row, strict=True), first):
                    tried.setdefault(seed, {})[rate] = columns
        return {seed: of for seed, of in sorted(tried.items()) if len(of) == len(rates)}

    def values(self, cell: Cell, endpoint: str, fine: bool = False) -> dict[int, float]:
        """What judges a cell: each seed's test value at the rate that its own validation images choose.

        Only seeds that have run at all `candidates`; where the rate of the least validation loss diverged too, a guess.
        """
        choice("endpoint", endpoint, ENDPOINTS)
        chosen = self._chosen(cell, self.grids(cell, fine))
        return {seed: self.value(run, endpoint) for seed, (_, run) in chosen.items()}

    def at_one_rate(self, cell: Cell, endpoint: str, seeds: range, fine: bool = False) -> dict[int, float]:
        """The same of some seeds at one rate for all, among the same: that of their least mean validation loss.

        There a run that diverged counts as a guess. Of a shifted cell nothing, whose seeds share no rate.
        """
        if cell.shifted:
            return {}
        classes = self.header["classes"]
        guess = math.log(classes) if cell.chosen_by == "loss" else 1 - 1 / classes
        runs = {seed: of for seed, of in self._runs(cell, self.candidates(cell, fine)).items() if seed in seeds}
        losses = [{rate: guess if run[0] is None else run[0] for rate, run in of.items()} for of in runs.values()]
        best = min(losses[0], key=lambda rate: sum(of[rate] for of in losses)) if losses else None
        return {seed: self.value(of[best], endpoint) for seed, of in runs.items()}

    def at(self, cell: Cell, rate: float) -> dict[int, Run]:
        """Each judging seed's run at one rate: validation loss, test images right, test loss."""
        found = {}
        for (own, first, _), row in self._of(cell):
            if own == rate and first != TUNING.start:
                found |= enumerate(zip(*row, strict=True), first)
        return dict(sorted(found.items()))

    def value(self, run: Run, endpoint: str) -> float:
        """A run's test value; of one that diverged, a guess's."""
        _, right, loss = run
        classes = self.header["classes"]
        if endpoint == "loss":
            return math.log(classes) if loss is None else loss
        return 1 / classes if loss is None else right / self.header["test_images"]

    def by_seed(self, first: Cell, second: Cell, endpoint: str, fine: bool = False) -> dict[int, float]:
        """First minus second by seed, for the seeds that both have."""
        ours, theirs = self.values(first, endpoint, fine), self.values(second, endpoint, fine)
        return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}

    def differences(self, first: Cell, second: Cell, endpoint: str, seeds: range, fine: bool = False) -> list[float]:
        """The same of these seeds, in their order: others, which judge again, are none of them."""
        return [gap for seed, gap in self.by_seed(first, second, endpoint, fine).items() if seed in seeds]

    def of(self, one: Contrast, endpoint: str) -> list[float]:
        """A contrast's differences by seed, of the seeds that its rule names."""
        return self.differences(one.first, one.second, endpoint, one.judges, one.fine)

    def judging(self, one: Contrast, endpoint: str) -> list[float]:
        """The same of the seeds that judge it: the fresh ones, where a rule names such and all are there."""
        found, seeds = self.by_seed(one.first, one.second, endpoint, one.fine), fresh_seeds(one)
        return [found[seed] for seed in seeds] if seeds and found.keys() >= {*seeds} else self.of(one, endpoint)

    def contrasts(self, wanted: Iterable[Contrast], endpoint: str) -> dict[str, dict[str, Difference]]:
        """By question and name, each recorded contrast with its interval, and Holm's p-values within its question, from
        the seeds that judge it.

        Contrasts with fewer than two common seeds are left out.
        """
        found: dict[str, dict[str, list[float]]] = {}
        for one in wanted:
            values = self.judging(one, endpoint)
            if len(values) > 1:
                found.setdefault(one.question, {})[one.name] = values
        return {question: paired_family(of, grain=TIE) for question, of in found.items()}

    def marginal(self, cells: Sequence[Cell], factor: str, endpoint: str) -> dict[Any, Difference]:
        """The mean difference from LoRA under the same optimizer, dropout and length, by the level of a field of
        `Cell`.

        Over the family's cells at that level, seed by seed, with Student's interval over seeds; `endpoint` is
        "accuracy" or "loss".
        """
        found: dict[Any, list[list[float]]] = {}
        for cell in cells:
            if cell.rule in FAMILY:
                values = self.differences(cell, reference(cell), endpoint, SCREENING)
                if len(values) == len(SCREENING):
                    found.setdefault(getattr(cell, factor), []).append(values)
        means = {level: np.mean(of, axis=0) for level, of in found.items()}
        return paired_family(means, grain=TIE) if means else {}


def header(data: str, digest: str, classes: int, test_images: int, **facts: Any) -> dict[str, Any]:
    """The first line of a table."""
    own = {"study": STUDY, "protocol": PROTOCOL, "data": data, "digest": digest}
    return own | {"classes": classes, "test_images": test_images} | facts


def environment(first: Mapping[str, Any]) -> dict[str, Any]:
    """Where lines are made, by a table's first line: its provenance, and how good the pretrained network came out."""
    known = {name: first[name] for name in (PRETRAINED,) if name in first}
    return known | first.get(BEGUN, {})


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what two environments differ; their times do not count."""
    return list(apart(one, other, ("time_utc",)))


def recorded(folder: Path | None, data: str = "digits") -> Table | None:
    """The table of some data in a folder of records, or the committed one, to be read only; None where none is."""
    path = (RESULTS if folder is None else folder) / f"{data}.jsonl"
    return _kept(path, *parts(path)) if present(path) else None


def read(path: Path) -> Table:
    """A table from its file or the packed one beside it; a last line that was cut off is left out."""
    return _parsed(path, *parts(path))


def _parsed(path: Path, added: bytes, whole: bytes) -> Table:
    lines = joined(path, added, whole).splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    if not lines:
        raise ArgumentError(f"{path}: holds no whole line; delete it and run again")
    documents, last = [], ""
    for number, line in enumerate(lines, 1):
        body = unsealed(line)
        again, last = sealed(last, body)
        if again != line:
            raise ArgumentError(_altered(path, *place(path, number, added, whole)))
        documents.append(json.loads(body))
    first = documents[0]
    if (first.get("study"), first.get("protocol")) != (STUDY, PROTOCOL):
        raise ArgumentError(f"{path}: is no table of this laboratory, protocol {PROTOCOL}; give another --results")
    table = Table(first, path=path, last=last, environments=[environment(first)])
    for number, document in enumerate(documents[1:], 2):
        try:
            _take(table, document)
        except (KeyError, TypeError) as error:
            holder, own = place(path, number, added, whole)
            told = f"line {own} was written by a later version, which knows more ({error})"
            raise ArgumentError(f"{holder}: {told}") from None
    return table


_kept = functools.lru_cache(maxsize=4)(_parsed)


def _altered(path: Path, holder: Path, number: int) -> str:
    if number == 1 and packed(path).exists():
        before = packed(path).name
        return (
            f"{holder}: line 1 was altered, or does not go on from {before} as that is now; take back the {before} "
            f"that it went on from, or put {holder.name} aside and run again"
        )
    kept = f"keep the {number - 1} lines before it (they are whole)" if number > 1 else "delete it"
    return f"{holder}: line {number} was altered; take the file from git, or {kept} and run again"


def _take(table: Table, document: Mapping[str, Any]) -> None:
    if GONE_ON in document:
        table.environments.append(document[GONE_ON])
    else:
        key, row = _row(document)
        _refuse_repeated(table, key)
        _put(table, key, row)


def _row(document: Mapping[str, Any]) -> tuple[Key, Row]:
    first, seeds = document["seeds"]
    columns = (tuple(document[name]) for name in Row._fields)
    return (Cell(**document["cell"]), document["rate"], first, seeds), Row(*columns)


def begin(path: Path, first: dict[str, Any]) -> Table:
    """Open a table to add to: a new one, or one of the same data, without the line at which it was cut off."""
    try:
        if present(path):
            table = read(path)
            same = ("study", "protocol", "digest", "classes", "test_images")
            if any(table.header[name] != first[name] for name in same):
                raise ArgumentError(f"{path}: is a table of other data; give another --results")
            tidy(path)
            here = environment(first)
            table.here = here if changed(table.environments[-1], here) else None
            return table
        path.parent.mkdir(parents=True, exist_ok=True)
        table = Table(first, path=path, environments=[environment(first)])
        _append(table, first)
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be written ({error.strerror or error})") from None
    return table


def add(table: Table, key: Key, row: Row) -> None:
    """Append what a key's seeds found, and keep it in the table; seeds that are recorded already are refused."""
    cell, rate, first, seeds = key
    _refuse_repeated(table, key)
    columns = {name: list(values) for name, values in zip(Row._fields, row, strict=True)}
    try:
        if table.here is not None:
            _append(table, {GONE_ON: table.here})
            table.environments.append(table.here)
            table.here = None
        _append(table, {"cell": cell.given(), "rate": rate, "seeds": [first, seeds]} | columns)
    except OSError as error:
        raise ArgumentError(f"{table.path}: cannot be written ({error.strerror or error})") from None
    _put(table, key, row)


def _put(table: Table, key: Key, row: Row) -> None:
    cell, rate, first, seeds = key
    table.rows[cell][rate, first, seeds] = row
    table.made[cell, rate][range(first, first + seeds)] = len(table.environments) - 1


def _refuse_repeated(table: Table, key: Key) -> None:
    # A run that stood twice would be read as its later one, in silence.
    cell, rate, first, seeds = key
    if len(table.lacking(cell, rate, range(first, first + seeds))) < seeds:
        told = f"{cell.words()}, rate {rate:g}, seeds {first} to {first + seeds - 1}"
        raise ArgumentError(f"{table.path}: runs are recorded already, of {told}")


def _append(table: Table, document: Mapping[str, Any]) -> None:
    body = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    line, own = sealed(table.last, body.encode("utf-8"))
    with table.path.open("ab") as stream:
        stream.write(line)
    table.last = own


def rates(cell: Cell) -> list[float]:
    """The first five rates of a cell, half a decade apart; `further` says which are tried next."""
    return [rounded(START[cell.optimizer] * 10 ** (k / 2)) for k in range(-2, 3)]


def further(scores: Mapping[float, float]) -> float | None:
    """The next rate to try: half a decade beyond an end at which the best one is, or else half-way to its neighbors.

    None where the best one's neighbors are a quarter of a decade away, or `MOST_RATES` were tried.
    """
    tried = sorted(scores)
    best = min(tried, key=scores.__getitem__)
    if len(tried) >= MOST_RATES or math.isinf(scores[best]):
        return None
    place = tried.index(best)
    if place in (0, len(tried) - 1):
        return rounded(best * 10 ** (-0.5 if place == 0 else 0.5))
    for other in (tried[place + 1], tried[place - 1]):
        if abs(math.log10(other / best)) > 0.4:
            return rounded(math.sqrt(other * best))
    return None


def rounded(rate: float, digits: int = 2) -> float:
    """A rate to so many digits."""
    return float(f"{rate:.{digits}g}")
