"""Saving and finding records, safe for any number of writers, and what a folder of them holds.

Checked by `tests/test_records.py` (alone), `tests/test_records_writers.py` (with others), `tests/test_records_torn.py`
and `tests/test_grid_plan.py`.
"""

import operator
import os
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from allora_analysis.records import files, packs
from allora_analysis.records.record import (
    NAME,
    Record,
    RecordError,
    TornRecord,
    canonical_json,
    checked_digests,
    decode,
    encode,
    key,
    later,
    portable,
    record_path,
)
from allora_analysis.records.record import provenance as own_provenance
from allora_analysis.study import Result
from allora_analysis.validation import ArgumentError, ending

Run = TypeVar("Run", bound=Hashable)


class SetAsideWarning(UserWarning):
    """A torn or altered file was found and not read; it was moved to `set_aside/`, or left where only reading was."""


class Saved(NamedTuple):
    """Where a run's record is, and whether this call wrote it (False: an earlier writer's stays)."""

    path: Path
    written: bool


def save(
    folder: Path | str,
    study: str,
    config: Any,
    result: Result | Mapping[str, Any],
    *,
    protocol: int,
    digests: Mapping[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Saved:
    """Record a run: written whole or not at all, once, however many writers.

    Args:
        folder: the folder of records; made if it is not there.
        study: the study's name.
        config: the full config, a dataclass or a mapping.
        result: what the run found.
        protocol: as in `key`.
        digests: as in `key`.
        provenance: facts outside the key; None for `provenance()`.

    Returns:
        The path, and whether this call wrote it.

    Raises:
        ArgumentError: an interrupted result, a NaN, a path, or what else a record may not hold.
    """
    if isinstance(result, Result):
        if result.interrupted:
            raise ArgumentError("result: an interrupted run is not recorded; run it to its end")
        result = {"predicted": result.predicted, "measured": result.measured}
    run_key = key(config, protocol, digests)
    document = {
        "study": study,
        "key": run_key,
        "protocol": protocol,
        "config": portable("config", config),
        "digests": checked_digests(digests),
        "result": portable("result", dict(result), infinite=True),
        "provenance": portable("provenance", dict(own_provenance() if provenance is None else provenance)),
    }
    path = record_path(Path(folder), study, run_key)
    return Saved(path, _publish(path, encode(document)))


def _publish(path: Path, content: bytes) -> bool:
    for _ in range(10):
        if _verified(path) is not None:
            return False
        if files.write_once(path, content):
            return True
    raise RecordError(f"{path}: torn, and it cannot be set aside; delete it and run again")


def _verified(path: Path, *, move: bool = True) -> Record | None:
    # None where there is no record, or a torn one.
    if (record := _loose(path, move)) is not None:
        return record
    try:
        return packs.read(path)
    except TornRecord as error:
        warnings.warn(f"{path.name} is not read: {error}", SetAsideWarning, stacklevel=4)
        return None


def _loose(path: Path, move: bool) -> Record | None:
    # None where there is no record, or a torn one, which is then set aside. Under the lock the content is read again: a
    # neighbor may meanwhile have set the torn one aside and saved a good one.
    try:
        return decode(path, ending(path).read_bytes())
    except FileNotFoundError:
        if path.is_symlink():
            raise RecordError(f"{path}: is a link to a file that is not there; delete it, or bring that back") from None
        return None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    except TornRecord as error:
        if not move:
            why = str(error).removesuffix("; delete it and run again")
            told = f"{path.name} is not read and left where it is: {why}; python -m experiments status sets it aside"
            warnings.warn(told, SetAsideWarning, stacklevel=5)
            return None
    try:
        with files.locked(aside := path.parent / files.SET_ASIDE):
            try:
                return decode(path, ending(path).read_bytes())
            except TornRecord as error:
                files.move(path, aside)
                why = str(error).removesuffix("; delete it and run again")
                told = f"{path.name} is set aside in {files.SET_ASIDE}/ and not read: {why}"
    except FileNotFoundError:
        return None
    except OSError as error:
        told = f"{path} is torn or altered and not read; it cannot be set aside ({error.strerror})"
    warnings.warn(told, SetAsideWarning, stacklevel=5)
    return None


def load(path: Path | str) -> Record:
    """The record in a file, loose or packed, its checksum, its key and its name verified.

    Args:
        path: the file; of a packed record as if it were loose.

    Raises:
        RecordError: the file cannot be read; `TornRecord`: its content is not what was saved.
    """
    path = Path(path)
    try:
        return decode(path, ending(path).read_bytes())
    except OSError as error:
        if isinstance(error, FileNotFoundError) and (record := packs.read(path)) is not None:
            return record
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def lookup(
    folder: Path | str, study: str, config: Any, protocol: int, digests: Mapping[str, str] | None = None
) -> Record | None:
    """The record of one run, if it is there: ask before running.

    Arguments as in `save`; the folder need not exist yet.

    Returns:
        The verified record; None where there is none, or a torn one, which is set aside.
    """
    return _verified(record_path(Path(folder), study, key(config, protocol, digests)))


def known(
    folder: Path | str, study: str, protocol: int, wanted: Sequence[Run], digests: Mapping[str, str] | None
) -> list[bool]:
    """Whether each run of a list is recorded.

    Args:
        folder: the folder of records, which need not exist.
        study: the study's name.
        protocol: the present one.
        wanted: the runs, by their configs.
        digests: of what they read; None: of any content, as where a dry run fetches nothing.

    Returns:
        The answers, in the order wanted.

    Raises:
        ArgumentError: without digests, a run recorded twice, of one name and different content.
    """
    if digests is None:
        found = find_each(folder, study, protocol, {one: one for one in wanted})
        return [one in found for one in wanted]
    return [lookup(folder, study, one, protocol, digests) is not None for one in wanted]


def find(folder: Path | str, study: str | None = None, kind: type | None = None, **config_fields: Any) -> list[Record]:
    """All verified records of a study whose config has these values, in an order that depends on content alone.

    Torn or altered files are set aside, each named in a `SetAsideWarning`. Files that are no records are left alone.

    Args:
        folder: the folder of records.
        study: the study's name; None for all.
        kind: the dataclass of the study's configs, whose later fields older records have at their default (`LATER`);
            without it a record that lacks a field is not found by it.
        **config_fields: values that the config must have; 1 and 1.0, tuples and lists are alike.

    Returns:
        The records, sorted by study, config and protocol; none from an empty folder.

    Raises:
        ArgumentError: no such folder, or a field that no record of the study has.
    """
    found = [record for path in record_files(folder, study) if (record := _verified(path)) is not None]
    before = {} if kind is None else later(kind)
    for field in config_fields:
        if found and not any(field in before | record.config for record in found):
            known = sorted({name for record in found for name in before | record.config})
            raise ArgumentError(f"{field}: no record in {folder} has this config field; there are {', '.join(known)}")
    wanted = {name: canonical_json(name, value) for name, value in config_fields.items()}
    kept = [record for record in found if wanted.items() <= _texts(before | record.config, wanted).items()]
    return sorted(kept, key=_order)


def standing(folder: Path | str, study: str) -> list[Record]:
    """All verified records of a study, for a reader who only judges: a torn file is named, and left where it is.

    Args:
        folder: the folder of records.
        study: the study's name.

    Returns:
        The records, sorted as by `find`.

    Raises:
        RecordError: no such folder.
    """
    found = (_verified(path, move=False) for path in record_files(folder, study))
    return sorted((record for record in found if record is not None), key=_order)


def _order(record: Record) -> tuple[str, str, int, str]:
    return record.study, record.text, record.protocol, record.key


def _texts(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    return {name: canonical_json(name, config[name]) for name in names if name in config}


def record_files(folder: Path | str, study: str | None = None) -> list[Path]:
    """The files in a folder that are named as records are, those in its pack among them.

    Args:
        folder: the folder of records.
        study: the study's name; None for all.

    Returns:
        The paths, sorted by name.

    Raises:
        RecordError: no such folder, or one that cannot be read.
    """
    try:
        loose = os.listdir(folder)  # before the pack: who packs meanwhile takes away what is there
    except OSError as error:
        raise RecordError(f"{folder}: cannot be read ({error.strerror}); name a folder of records") from None
    names = sorted({*loose, *packs.packed(Path(folder))})
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    return [Path(folder) / match[0] for match in matches if study in (None, match[1])]


def find_each(folder: Path | str, study: str, protocol: int, wanted: Mapping[Run, Any]) -> dict[Run, Record]:
    """The records of those runs that have one, whatever the machine had for a model's or a data set's folder.

    Nothing is moved: a torn or altered file is named in a `SetAsideWarning`, and left where it is.

    Args:
        folder: the folder of records, which need not exist.
        study: the study's name.
        protocol: the present one; records of another are left alone.
        wanted: each run's full config.

    Returns:
        The record by run, in the order wanted.

    Raises:
        ArgumentError: a run recorded twice, on models or data of one name and different content.
    """
    known: dict[str, list[Record]] = {}
    for record in standing(folder, study) if Path(folder).is_dir() else ():
        if record.protocol == protocol:
            known.setdefault(record.text, []).append(record)
    found = {}
    for run, config in wanted.items():
        if same := known.get(canonical_json("config", config), []):
            found[run] = single(folder, same)
    return found


def results_of(folder: Path | str, study: str, protocol: int, runs: Iterable[Run]) -> dict[Run, dict[str, Any]]:
    """The results of those runs that are recorded; arguments as in `find_each`, each run its own config."""
    return {run: one.result for run, one in find_each(folder, study, protocol, {run: run for run in runs}).items()}


def single(folder: Path | str, same: Sequence[Record]) -> Record:
    """The one record of a run; refused where it is recorded on models or data of one name and different content.

    Args:
        folder: where they are.
        same: the records of one config, one at least.

    Raises:
        ArgumentError: several.
    """
    if len(same) > 1:
        names = ", ".join(record.path.name for record in same)
        raise ArgumentError(
            f"{folder}: one run is recorded on several models or data sets of one name, in {names}; keep one there"
        )
    return same[0]


@dataclass(frozen=True)
class Status:
    """A folder of records. Files are given by name, sorted.

    Attributes:
        counts: verified records by study, of every protocol.
        older: records of a protocol below the study's present one.
        newer: records of a protocol above it: written by a later version of the toolkit.
        unknown: records of a study that has no present protocol.
        set_aside: torn or altered files in `set_aside/`, those found just now among them.
        torn: those that could not be set aside, as in a pack or in a folder that cannot be written.
        foreign: other JSON files in the folder, which are not read.
        cleaned: neighbors of killed writers, deleted just now.
    """

    counts: dict[str, int]
    older: tuple[str, ...]
    newer: tuple[str, ...]
    unknown: tuple[str, ...]
    set_aside: tuple[str, ...]
    torn: tuple[str, ...]
    foreign: tuple[str, ...]
    cleaned: tuple[str, ...]


def status(folder: Path | str, protocols: Mapping[str, int]) -> Status:
    """Verify every record of a folder, set torn ones aside, delete what killed writers left, and count.

    Args:
        folder: the folder of records.
        protocols: each study's present protocol.
    """
    folder = Path(folder)
    before, records = record_files(folder), find(folder)
    sound = {record.path.name for record in records}

    def names(than: Callable[[int, int], bool]) -> tuple[str, ...]:
        known = (record for record in records if record.study in protocols)
        return tuple(sorted(one.path.name for one in known if than(one.protocol, protocols[one.study])))

    others = {path.name for path in folder.glob("*.json")} - {path.name for path in record_files(folder)}
    return Status(
        counts=dict(sorted(Counter(record.study for record in records).items())),
        older=names(operator.lt),
        newer=names(operator.gt),
        unknown=tuple(sorted(record.path.name for record in records if record.study not in protocols)),
        set_aside=tuple(sorted(path.name for path in (folder / files.SET_ASIDE).glob("*"))),
        torn=tuple(path.name for path in before if path.name not in sound and packs.present(path)),
        foreign=tuple(sorted(others)),
        cleaned=tuple(files.remove_stale(folder)),
    )
